#!/usr/bin/env python3
"""TUN mode: the host's own kernel speaks in the tailnet, with nodes of ours and official ones; what is set on the host
goes again, also after a crash."""
import os
import signal
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import official, tunhost  # noqa: E402
from lib.case import Bed, Skip, case, main  # noqa: E402
from lib.inet import Listener, blob_sha256  # noqa: E402
from lib.node import Dev, Node, clean_log  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

PORT, UDP_PORT, SIZE, LARGE = 5001, 5002, 8 << 20, 256 << 20
SOCKS = "127.0.0.1:1080"


class UdpEcho:
    def __init__(self, ns):
        self.sock = ns.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.bind(("::", UDP_PORT))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            data, who = self.sock.recvfrom(65536)
            self.sock.sendto(data, who)


class TunBed(Bed):
    def build(self):
        n = self.net
        self.control = Dev(self.sup, n.ctl, self.dir)
        self.before = {ns.name: tunhost.listing(ns) for ns in (n.peer(1), n.peer(2))}
        self.a = self.node(1, "tuna", "--socks5-server", SOCKS)
        self.b = self.node(2, "tunb")
        for ns in (n.peer(1), n.peer(2)):
            Listener(ns, PORT, tunhost.serve_blobs, ["::"])
            UdpEcho(ns)
        self.a.wait_peer("tunb")
        self.b.wait_peer("tuna")
        self._official = {}

    def node(self, i, name, *flags, **kw):
        return Node(self.sup, self.net.peer(i), self.dir, name, self.control.url, self.control.key,
                    flags=["--tun", "tailnet0", *flags], **kw)

    def official(self, tun):
        """An official node with servers on its host; in userspace mode tailscaled hands connections to 127.0.0.1."""
        if not official.have("tailscaled", "tailscale"):
            raise Skip("tests/peers is not built (no Go)")
        if tun not in self._official:
            ns = self.net.peer(3 if tun else 4)
            c = official.Tailscaled(self.sup, ns, self.dir, "offtun" if tun else "offuser", tun=tun)
            c.up(self.control.url, self.control.key)
            Listener(ns, PORT, tunhost.serve_blobs, ["::"] if tun else ["127.0.0.1"])
            if tun:
                UdpEcho(ns)
            self.a.wait_peer(c.hostname)
            c.wait_peer("tuna")
            c.ip4, c.ip6 = sorted(c.ips(), key=lambda x: ":" in x)
            self._official[tun] = c
        return self._official[tun]

    def check(self):
        for node in (self.a, self.b):
            clean_log(node.proc)
        expect(not self.control.proc.ended(), f"tailnet dev died\n{self.control.proc.tail()}")

    def finish(self):
        for node in (self.a, self.b):
            if not node.proc.ended():
                node.stop()
        for ns in (self.net.peer(1), self.net.peer(2)):
            tunhost.expect_same(self.before[ns.name], tunhost.listing(ns), f"{ns.name} after the end")


def both_ways(b, ns, host, size=SIZE):
    want = blob_sha256(size)
    expect(tunhost.get(ns, host, PORT, size) == want, f"a download from {host} differs")
    expect(tunhost.put(ns, host, PORT, size) == want, f"an upload to {host} differs")


@case("addresses, routes and rules are those of the node, and nothing else changed")
def configured(b):
    ns = b.net.peer(1)
    addrs = ns.ip("-o", "addr", "show", "dev", "tailnet0").stdout
    expect(b.a.ip4 in addrs and b.a.ip6 in addrs and "fe80" not in addrs, addrs)
    link = ns.ip("link", "show", "dev", "tailnet0").stdout
    expect("mtu 1280" in link and ",UP" in link, link)
    expect(f"{b.b.ip4} dev tailnet0" in ns.ip("route", "show", "table", "5380").stdout, "no route to the peer")
    old, new = b.before[ns.name].splitlines(), tunhost.listing(ns).splitlines()
    expect(all(line in new for line in old), f"gone: {[l for l in old if l not in new]}")
    came = [l for l in new if l not in old and "tailnet0" not in l and not l.startswith("528")]
    expect(not came, f"new: {came}")
    expect(b.a.status()["TUN"] is True, "status")


@case("ping of the kernel, IPv4 and IPv6, small and fragmented; tailnet ping of all kinds")
def pings(b):
    for host in (b.b.ip4, b.b.ip6):
        for size in (56, 1200, 4000):
            expect(tunhost.ping(b.net.peer(1), host, size=size), f"no echo of {size} bytes from {host}")
    for kind in ((), ("--tsmp",), ("--icmp",)):
        b.a.cli("ping", *kind, "-c", "2", "tunb")


@case("256 MB each way between two hosts; IPv6")
def bulk(b):
    both_ways(b, b.net.peer(1), b.b.ip4, LARGE)
    both_ways(b, b.net.peer(1), b.b.ip6)
    expect(tunhost.get(b.net.peer(2), b.a.ip4, PORT, SIZE) == blob_sha256(SIZE), "from the other side")


@case("UDP, up to datagrams that are fragmented")
def udp(b):
    for host in (b.b.ip4, b.b.ip6):
        tunhost.udp_echo(b.net.peer(1), host, UDP_PORT, (1, 100, 1200, 1232, 3000, 9000))


@case("the official client with a TUN: ping, 8 MB each way, UDP; and it to us")
def official_tun(b):
    c = b.official(tun=True)
    for host in (c.ip4, c.ip6):
        expect(tunhost.ping(b.net.peer(1), host), f"no echo from {host}")
        both_ways(b, b.net.peer(1), host)
        tunhost.udp_echo(b.net.peer(1), host, UDP_PORT, (1, 1200, 3000))
    for host in (b.a.ip4, b.a.ip6):
        expect(tunhost.ping(c.ns, host), f"no echo from {host}")
        both_ways(b, c.ns, host)
        tunhost.udp_echo(c.ns, host, UDP_PORT, (1, 1200))
    for kind in ((), ("--tsmp",), ("--icmp",), ("--peerapi",)):
        expect(c.ping(b.a.ip4, *kind), f"no pong {kind}")


@case("the official client in userspace mode: 8 MB each way, it to us and we to it")
def official_userspace(b):
    c = b.official(tun=False)
    both_ways(b, b.net.peer(1), c.ip4)
    path = os.path.join(b.dir, "got")
    argv = ["curl", "-sS", "--max-time", "60", "--socks5-hostname", c.SOCKS, "-o", path, "--http0.9", f"http://{b.a.ip4}:5003/"]
    Listener(b.net.peer(1), 5003, lambda conn, _w: (conn.recv(1000), conn.sendall(b"x" * 5000000)), ["::"])
    c.ns.run(*argv, timeout=70)
    expect(os.path.getsize(path) == 5000000, f"{os.path.getsize(path)} bytes")


@case("in-process beside the kernel: PeerAPI answers, the SOCKS server dials, the kernel's ports stay its own")
def side_by_side(b):
    def page(conn, _who):
        conn.recv(1000)
        conn.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")

    Listener(b.net.peer(2), 8000, page, ["::"])
    code, out, err = b.a.curl(SOCKS, "http://tunb:8000/")
    expect(code == 0 and out == b"hello", f"curl {code} {out!r} {err}")
    for _ in range(30):
        with tunhost.connect(b.net.peer(1), b.b.ip4, 8000) as s:
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            expect(s.recv(1000).endswith(b"hello") or s.recv(1000) == b"hello", "the kernel's own connection")
    try:
        tunhost.connect(b.net.peer(1), b.b.ip4, 9)
        expect(False, "a closed port connected")
    except ConnectionRefusedError:
        pass


@case("no way there is said at once: an address of nobody, a peer's port of nobody")
def unreachable(b):
    ns = b.net.peer(1)
    for host in ("100.100.100.100",):
        try:
            tunhost.connect(ns, host, 80, timeout=10)
            expect(False, f"{host} connected")
        except TimeoutError:
            raise
        except OSError as e:
            expect(e.errno in (111, 113, 101, 13), f"{host}: {e}")


@case("killed, started again: nothing of the old one is left, traffic flows")
def killed(b):
    ns = b.net.peer(2)
    b.b.proc.signal(signal.SIGKILL)
    b.b.proc.wait()
    left = tunhost.listing(ns)
    expect("5282" in left, "the crash left nothing behind: nothing is tested")
    b.b.start()
    wait_until(lambda: tunhost.ping(b.net.peer(1), b.b.ip4, timeout=2), "an echo after the restart", timeout=60)
    both_ways(b, b.net.peer(1), b.b.ip4, 1 << 20)
    b.b.stop()
    tunhost.expect_same(b.before[ns.name], tunhost.listing(ns), "after a crash, a restart and an end")
    b.b.start()


@case("a second node of the host in TUN mode is refused; the first lives on")
def second(b):
    n = b.node(1, "second", wait=False)
    n.proc.wait(30)
    expect("another node of this host" in n.proc.text(), n.proc.tail())
    n2 = Node(b.sup, b.net.peer(1), b.dir, "third", b.control.url, b.control.key, flags=["--tun", "other0"], wait=False)
    n2.proc.wait(30)
    expect("another node of this host" in n2.proc.text(), n2.proc.tail())
    wait_until(lambda: tunhost.ping(b.net.peer(1), b.b.ip4, timeout=2), "an echo", timeout=30)


def needs():
    return None if tunhost.tun_possible() else "/dev/net/tun can't be opened"


if __name__ == "__main__":
    main("tun", TunBed, needs)
