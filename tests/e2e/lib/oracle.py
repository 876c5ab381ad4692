"""The leak oracle: what the exit node sends and receives on its uplink beyond what it may.

A capture socket on the uplink with a filter in the kernel that passes only what is NOT allowed, so that 64 MB of allowed
traffic can't overflow it. Each packet left is a leak. Before it is trusted, and once more at the end, it must catch
a packet that the test itself sends where no packet may go: an oracle that sees nothing because it does not look would
pass everything.

Allowed: ARP; IPv6 neighbour and multicast-listener messages of the link; the control server, DERP and STUN; the proxy's
address and port; WireGuard between nodes (UDP between the node and a peer's own address, and ICMP errors about it). Nothing else in
either direction, IPv4 or IPv6, port 53 included, unless a test adds it.
"""
import ctypes
import ipaddress
import socket
import struct
import time

from .proc import Failure, expect

SOL_PACKET, PACKET_STATISTICS, SO_ATTACH_FILTER, SO_RCVBUFFORCE = 263, 6, 26, 33
ETH_P_ALL = 3
BAIT_PORT = 47  # a destination no test uses


class Packet:
    """The little of a captured packet that a report needs."""

    def __init__(self, frame, pkttype):
        self.outgoing = pkttype == 4
        ethertype = struct.unpack(">H", frame[12:14])[0]
        self.src = self.dst = ""
        self.proto, self.sport, self.dport = f"ethertype {ethertype:#06x}", 0, 0
        if ethertype == 0x0800 and len(frame) >= 34:
            self._v4(frame[14:])
        elif ethertype == 0x86dd and len(frame) >= 54:
            self._v6(frame[14:])

    def _v4(self, p):
        self.src, self.dst = socket.inet_ntoa(p[12:16]), socket.inet_ntoa(p[16:20])
        self._transport(p[9], p[(p[0] & 15) * 4:])

    def _v6(self, p):
        self.src, self.dst = str(ipaddress.IPv6Address(p[8:24])), str(ipaddress.IPv6Address(p[24:40]))
        self._transport(p[6], p[40:])

    def _transport(self, proto, p):
        self.proto = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}.get(proto, f"proto {proto}")
        if proto in (6, 17) and len(p) >= 4:
            self.sport, self.dport = struct.unpack(">HH", p[:4])

    def __str__(self):
        return f"{'>' if self.outgoing else '<'} {self.proto} {self.src}:{self.sport} -> {self.dst}:{self.dport}"


class Oracle:
    """with Oracle(node_ns, allowed...) as o: ... ; leaving the block checks. allow: more tcpdump expressions."""

    def __init__(self, ns, control=None, proxies=(), peers=(), allow=()):
        self.ns = ns
        terms = ["arp", "(icmp6 and ip6[40] >= 133 and ip6[40] <= 137)", "(ip6 and ip6[6] == 0)"]
        if control:
            terms += [f"(host {control.ns.ip4} and {proto} port {port})" for proto, port in control.ports]
        terms += [f"(host {p.ns.ip4} and tcp port {p.port})" for p in proxies]
        pairs = [pair for p in peers for pair in ((ns.ip4, p.ip4), (ns.ip6, p.ip6))]
        # and what a kernel says of a WireGuard packet to a node that has just ended
        terms += [f"((udp or icmp or icmp6) and host {ours} and host {theirs})" for ours, theirs in pairs]
        self.filter = "not (" + " or ".join(terms + list(allow)) + ")"
        self.leaks = []
        self._bait_seen = 0

    def __enter__(self):
        self.sock = self.ns.call(self._open)
        self._bait()
        self.leaks.clear()
        return self

    def __exit__(self, kind, _value, _tb):
        try:
            if kind is None:
                self.check()
        finally:
            self.sock.close()

    def _open(self):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        except PermissionError:  # user namespaces on older kernels; lost packets are noticed anyway
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._attach(s)
        s.bind((self.ns.dev, ETH_P_ALL))
        s.setblocking(False)
        return s

    def _attach(self, s):
        """tcpdump compiles the expression; link type Ethernet, as veth has."""
        lines = self.ns.run("tcpdump", "-i", self.ns.dev, "-ddd", self.filter)
        words = [tuple(map(int, w.split())) for w in lines.stdout.splitlines()[1:]]
        code = b"".join(struct.pack("HBBI", *w) for w in words)
        buf = ctypes.create_string_buffer(code)
        s.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(words), ctypes.addressof(buf)))

    def _drain(self):
        while True:
            try:
                frame, addr = self.sock.recvfrom(2048)
            except BlockingIOError:
                return
            p = Packet(frame, addr[2])
            if p.proto == "udp" and p.dport == BAIT_PORT:
                self._bait_seen += 1
            else:
                self.leaks.append(p)

    def _bait(self):
        """Sends one packet per family to nowhere and waits until it is seen."""
        want = self._bait_seen + 2
        for family, dst in ((socket.AF_INET, self.ns.gw4), (socket.AF_INET6, self.ns.gw6)):
            s = self.ns.socket(family, socket.SOCK_DGRAM)
            s.sendto(b"bait", (dst, BAIT_PORT))
            s.close()
        deadline = time.monotonic() + 5
        while self._bait_seen < want:
            self._drain()
            if time.monotonic() > deadline:
                raise Failure(f"the leak oracle is blind: its own bait was not seen (filter: {self.filter})")
            time.sleep(0.01)

    def _own_noise(self, p):
        """The router's port-unreachable answers to the bait are the oracle's doing, not the node's."""
        return p.proto.startswith("icmp") and p.src in (self.ns.gw4, self.ns.gw6) and not p.outgoing

    def seen(self):
        """Leaks so far."""
        self._drain()
        return [p for p in self.leaks if not self._own_noise(p)]

    def check(self):
        self._bait()
        leaks = self.seen()
        _, drops = struct.unpack("II", self.sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        expect(drops == 0, f"the leak oracle lost {drops} packets")
        if leaks:
            head = "\n".join(f"  {p}" for p in leaks[:20])
            raise Failure(f"{len(leaks)} packets left or came that may not:\n{head}")
