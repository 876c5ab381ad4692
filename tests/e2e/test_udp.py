#!/usr/bin/env python3
"""UDP and ping of exit clients: by the host, by a real proxy's UDP ASSOCIATE, by a hostile one, and refused.
docs/ACCEPTANCE.md, tests 20-22 and 45; the client is official with a TUN device, so that errors are exact."""
import os
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import inet, official, proxies, scripted  # noqa: E402
from lib.case import Skip, case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.oracle import Oracle  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

PUSH = 9021


class Push:
    """Answers each datagram twice: at once, and again when it is told to."""

    def __init__(self, ns):
        self.sock = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((ns.web4, PUSH))
        self.who = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            data, who = self.sock.recvfrom(65536)
            self.who.append(who)
            self.sock.sendto(b"first " + data, who)

    def push(self, data):
        self.sock.sendto(data, self.who[-1])


class UdpBed(ExitBed):
    def build(self):
        super().build()
        self.need_tun()
        self.push = Push(self.net.inet)

    def udp_oracle(self, proxy):
        """Also allows datagrams between the node and the proxy's relay, on whatever port that is."""
        node, at = self.net.node.ip4, proxy.ns.ip4
        return Oracle(self.net.node, control=self.control, proxies=[proxy], peers=[c.ns for c in self.clients()],
                      allow=[f"(udp and host {node} and host {at})", f"(ip[6:2] & 0x1fff != 0 and host {node} and host {at})"])


def talk(b, host, port, timeout=5.0):
    s = b.tun.ns.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(timeout)
    s.connect((host, port))
    return s


def echo(s, size):
    data = os.urandom(size)
    s.send(data)
    got = s.recv(65536)
    expect(got == data, f"{len(got)} bytes came for {size}")


def echo_in_time(s, size, tries=3):
    """A datagram may be lost; three in a row are a fault."""
    for i in range(tries):
        try:
            return echo(s, size)
        except TimeoutError:
            if i == tries - 1:
                raise
    return None


@case("22: UDP through dante: echo, 3000 bytes, both families' headers, the web sees the proxy", seconds=180)
def dante(b):
    if not proxies.have("danted"):
        raise Skip("danted is not installed")
    p = proxies.Dante(b.sup, b.net.proxy, b.dir)
    try:
        b.exit("--exit-proxy-udp", proxy=p)
        wait_until(lambda: b.egress()["UDP"] == "proxy", "the proxy said that it does UDP")
        with b.udp_oracle(p):
            b.inet.udp_seen.clear()
            s = talk(b, b.net.inet.web4, inet.UDP_ECHO)
            for size in (1, 100, 1200, 1400, 3000, 8000):
                echo_in_time(s, size)
            expect(set(b.inet.udp_seen) == {p.ns.ip4}, f"the internet saw {set(b.inet.udp_seen)}")
            q = talk(b, b.net.inet.web4, PUSH)
            q.send(b"hello")
            expect(q.recv(100) == b"first hello", "an answer")
            e = b.egress()
            expect(e["UDPAssociations"] == 1 and e["UDPFlows"] == 2, f"one association for one peer: {e}")
            q.settimeout(10)
            b.push.push(b"later")
            expect(q.recv(100) == b"later", "what the server pushes")
            b.node.cli("set", "--exit-proxy-udp=false")
            expect(b.egress()["UDP"] == "off", "off while it runs")
            echo_in_time(s, 100)  # what is under way stays
            refused(talk(b, b.net.inet.web4, 443), "switched off")
            b.node.cli("set", "--exit-proxy-udp")
            wait_until(lambda: b.egress()["UDP"] == "proxy", "on again")
            t = talk(b, b.net.inet.web4, inet.UDP_ECHO)
            echo_in_time(t, 100)
            b.node.cli("set", "--exit-proxy-udp=false", "--cut")
            expect(b.egress()["UDPFlows"] == 0, f"flows that were to be cut: {b.egress()}")
            refused(talk(b, b.net.inet.web4, 443), "switched off")
            expect(set(b.inet.udp_seen) == {p.ns.ip4}, f"the internet saw {set(b.inet.udp_seen)}")
    finally:
        p.stop()


@case("22: 31 s of silence, then the server speaks", seconds=120)
def dante_silence(b):
    if not proxies.have("danted"):
        raise Skip("danted is not installed")
    p = proxies.Dante(b.sup, b.net.proxy, b.dir)
    try:
        b.exit("--exit-proxy-udp", proxy=p)
        with b.udp_oracle(p):
            q = talk(b, b.net.inet.web4, PUSH, timeout=10)
            q.send(b"hello")
            expect(q.recv(100) == b"first hello", "an answer")
            time.sleep(31)
            b.push.push(b"later")
            expect(q.recv(100) == b"later", "what the server pushes")
    finally:
        p.stop()


@case("20, row 20: the proxy dies: the association is over, what is said then is refused at once and leaves by no other way")
def dante_dies(b):
    if not proxies.have("danted"):
        raise Skip("danted is not installed")
    p = proxies.Dante(b.sup, b.net.proxy, b.dir)
    b.exit("--exit-proxy-udp", proxy=p)
    with b.udp_oracle(p):
        s = talk(b, b.net.inet.web4, inet.UDP_ECHO)
        echo_in_time(s, 100)
        seen = len(b.inet.udp_seen)
        p.stop()
        wait_until(lambda: b.egress()["UDPAssociations"] == 0, "the association is over")
        for _ in range(2):  # the first answer may be about what was said before
            refused(s, "after the proxy's death")
        wait_until(lambda: refused(talk(b, b.net.inet.web4, 443), "") and b.egress()["UDP"].startswith("off"), "status tells")
        expect(len(b.inet.udp_seen) == seen, "a datagram reached the internet")


def refused(s, what):
    """A datagram is answered by port unreachable; the error of an earlier one may come first. Returns the seconds."""
    for _ in range(3):
        start = time.monotonic()
        try:
            s.send(b"anybody?")
            s.recv(100)
        except ConnectionRefusedError:
            return time.monotonic() - start
        except TimeoutError:
            pass
    expect(False, f"{what}: no port unreachable")
    return None


@case("20: without --exit-proxy-udp QUIC is refused within milliseconds, also by a proxy that could, and a flood is not answered in kind")
def quic(b):
    p = proxies.Dante(b.sup, b.net.proxy, b.dir) if proxies.have("danted") else proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    try:
        b.exit(proxy=p)
        with b.oracle(p):
            took = []
            for host in (b.net.inet.web4, b.net.inet.web6):
                for _ in range(10):
                    s = talk(b, host, 443)
                    took.append(refused(s, f"{host}:443"))
                    s.close()
            median = sorted(took)[len(took) // 2]
            expect(median < 0.5, f"port unreachable took {median:.3f} s: a client would have waited")
            answers = flood(b, 10000)
            expect(answers < 2000, f"{answers} answers to a flood")
            s, _ = b.connect(b.net.inet.web4, 80)  # and TCP is not disturbed
            s.close()
        expect(not [w for w in b.inet.udp_seen if w == b.net.node.ip4], "a datagram of the node's reached the internet")
        return f"median {median * 1e3:.1f} ms; {answers} answers to 10,000"
    finally:
        p.stop()


def flood(b, count):
    """Sends datagrams to as many ports as fast as it can; how many of the ICMP errors came that answer them."""
    errors = b.tun.ns.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    errors.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    errors.setblocking(False)
    s = b.tun.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for i in range(count):
        s.sendto(b"x" * 100, (b.net.inet.web4, 10000 + i % 50000))
    s.close()
    quiet, n = time.monotonic(), 0
    while time.monotonic() - quiet < 1:
        try:
            n += errors.recv(2000)[20] == 3
            quiet = time.monotonic()
        except BlockingIOError:
            time.sleep(0.02)
    errors.close()
    return n


class Liar:
    """A SOCKS5 proxy that answers UDP ASSOCIATE as the case says, and then sends what the case says."""

    def __init__(self, ns, bnd, datagrams=()):
        self.ns, self.bnd, self.datagrams = ns, bnd, datagrams
        self.heard = []

    def __call__(self, conn, session):
        scripted.socks_greeting(conn, session)
        head = scripted.take(conn, session, 10)
        if head[1] != 3:
            conn.sendall(b"\x05\x07" + scripted.SUCCESS4[2:])
            return
        u = self.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        u.bind((self.ns.ip4, 0))
        u.settimeout(0.2)
        conn.sendall(b"\x05\x00\x00\x01" + socket.inet_aton(self.bnd or self.ns.ip4) + struct.pack(">H", u.getsockname()[1]))
        conn.settimeout(0.01)
        while True:
            try:
                if not conn.recv(100):
                    return
            except TimeoutError:
                pass
            try:
                data, who = u.recvfrom(65536)
            except TimeoutError:
                continue
            self.heard.append(data)
            for d in self.datagrams:
                u.sendto(d, who)
            u.sendto(data, who)


@case("45: a proxy that names a third party as its relay is not followed; datagrams that lie are dropped and counted")
def hostile_relay(b):
    dst = socket.inet_aton(b.net.inet.web4) + struct.pack(">H", 9020)
    lies = [b"\0\0\1\1" + dst + b"fragment", b"\0\0\0\2" + dst, b"\0\0\0", b"", b"\0\0\0\1" + dst[:4] + b"\0\7other port",
            b"\0\0\0\1" + socket.inet_aton("45.45.45.99") + dst[4:] + b"other host"]
    for bnd, honest in ((b.net.inet.web4, False), ("127.0.0.1", False), (b.net.node.ip4, False), (None, True)):
        liar = Liar(b.net.proxy, bnd, lies)
        p = scripted.Scripted(b.net.proxy, liar, port=1093)
        b.exit("--exit-proxy-udp", proxy=p)
        before = len(b.inet.udp_seen)
        with b.udp_oracle(p):
            s = talk(b, b.net.inet.web4, inet.UDP_ECHO)
            if honest:
                wait_until(lambda: b.egress()["UDP"] == "proxy", "the relay is taken")
                echo_in_time(s, 100)
                expect(b.egress()["UDPDropped"] >= len(lies), f"dropped: {b.egress()}")
            else:
                wait_until(lambda: b.egress()["UDP"] == "off: the proxy fails", "the relay is not taken")
                refused(s, f"relay at {bnd}")
                expect(not liar.heard, "the relay got a datagram")
        expect(len(b.inet.udp_seen) == before, "a third party got a datagram")
        s.close()
        p.close()


@case("host mode: UDP of every size, ICMP errors, ping; from the node's address and on the client's port")
def host(b):
    b.exit("--exit-egress", "host")
    node = b.net.node
    node.call(lambda: write("/proc/sys/net/ipv4/ping_group_range", "0 0"))
    inet_net = b.net.inet.ip4.rsplit(".", 1)[0]
    with b.oracle(allow=[f"net {inet_net}.0/24", "net 2a00:45::/64", f"(icmp and host {node.ip4})",
                         "(ip[6:2] & 0x1fff != 0)", "(ip6 and ip6[6] == 44)"]):
        b.inet.udp_seen.clear()
        for host_, seen in ((b.net.inet.web4, node.ip4), (b.net.inet.web6, node.ip6)):
            s = talk(b, host_, inet.UDP_ECHO)
            for size in (1, 1200, 1400, 3000, 9000, 40000):
                echo_in_time(s, size)
            expect(b.inet.udp_seen[-1] == seen, f"the internet saw {b.inet.udp_seen[-1]}")
            c = talk(b, host_, inet.CLOSED)
            refused(c, "a closed port of the real side")
        wait_until(lambda: ping(b, b.net.inet.web4), "ping through the node")
        wait_until(lambda: ping(b, b.net.inet.web6), "ping through the node by IPv6")
        b.expect_refused("10.1.2.3", 80)
        s = talk(b, "192.168.77.1", 1234)
        refused(s, "a private address")


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def ping(b, host):
    return b.tun.ns.run("ping", "-6" if ":" in host else "-4", "-c", "1", "-W", "3", host, check=False).returncode == 0


@case("21: behind a proxy a ping is prohibited at once, no ICMP leaves, no process is started")
def ping_prohibited(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    try:
        b.exit(proxy=p)
        b.net.node.call(lambda: write("/proc/sys/net/ipv4/ping_group_range", "0 0"))
        with b.oracle(p):
            for host_ in (b.net.inet.web4, b.net.inet.web6):
                out = b.tun.ns.run("ping", "-6" if ":" in host_ else "-4", "-c", "1", "-W", "3", host_, check=False).stdout
                expect("filtered" in out or "prohibited" in out, f"ping says {out!r}")
            with open(f"/proc/{b.node.proc.pid}/task/{b.node.proc.pid}/children", encoding="ascii") as f:
                expect(not f.read().strip(), "the node started a process")
    finally:
        p.stop()


if __name__ == "__main__":
    main("udp", UdpBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
