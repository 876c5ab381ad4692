#!/usr/bin/env python3
"""What one peer, or a full house, can take away from the others: docs/ACCEPTANCE.md, tests 35, 46, 47, and row 27 of the
leak table (48 and 49: tests/unit/forward/test_many.c). The node runs with few descriptors, or with a destination that swallows everything."""
import errno
import os
import queue
import resource
import select
import socket
import statistics
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import inet, official, scripted  # noqa: E402
from lib.case import case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

BLACKHOLE = "45.45.45.77"  # the router has a black hole for it
SANITIZED = "build-check" in os.environ.get("TN_BUILD", "build-check")  # freed memory is kept aside then


class LimitsBed(ExitBed):
    def build(self):
        super().build()
        self.need_tun()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.net.router.ip("route", "add", "blackhole", f"{BLACKHOLE}/32")

    def limited(self, limits, *flags, **kw):
        """As exit, but the node is started with these limits of prlimit(1)."""
        self.exit(*flags, **kw)
        self.stop_node()
        plain = self.node.argv
        self.node.argv = lambda: ["prlimit", *limits, *plain()]
        try:
            self.node.start()
        finally:
            self.node.argv = plain
        self.settle()


def connect_all(b, count, port, at_once=100):
    """Connects of the TUN client's kernel; {errno: how many}, and the sockets that are open."""
    fate, opened = {}, []
    for first in range(0, count, at_once):
        poll, left = select.poll(), {}
        for _ in range(min(at_once, count - first)):
            s = b.tun.ns_socket()
            s.setblocking(False)
            s.connect_ex((b.net.inet.web4, port))
            poll.register(s, select.POLLOUT)
            left[s.fileno()] = s
        until = time.monotonic() + 40  # a lost SYN comes again after 1, 3, 7, 15 and 31 s
        while left and time.monotonic() < until:
            for fd, _ in poll.poll(1000):
                s = left.pop(fd)
                poll.unregister(fd)
                err = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                fate[err] = fate.get(err, 0) + 1
                if err == 0:
                    opened.append(s)
                else:
                    s.close()
        for s in left.values():
            fate["undecided"] = fate.get("undecided", 0) + 1
            s.close()
    return fate, opened


def sockets_of(b):
    """Makes sockets in the client's namespace without a thread for each."""
    asked, made = queue.Queue(), queue.Queue()

    def work():
        while asked.get():
            made.put(socket.socket())
    threading.Thread(target=lambda: b.tun.ns.call(work), daemon=True).start()

    def one():
        asked.put(True)
        return made.get()
    return one


def named(fate):
    return ", ".join(f"{errno.errorcode.get(k, k) if k else 'open'} {v}" for k, v in sorted(fate.items(), key=str))


@case("35: 128 descriptors, 64 MB, 5,000 connects: some open, the rest are refused, none hangs, the node lives", seconds=300)
def few_descriptors(b):
    p = scripted.Scripted(b.net.proxy, scripted.honest(b.net.proxy), port=1095)
    b.limited(["--nofile=128:128"], proxy=p)
    b.tun.ns_socket = sockets_of(b)
    with b.oracle(p):
        fate, opened = connect_all(b, 5000, inet.ECHO)
        expect(set(fate) <= {0, errno.ECONNREFUSED, errno.ECONNRESET}, f"fates: {named(fate)}")
        expect(20 <= fate.get(0, 0) <= 128, f"fates: {named(fate)}")
        opened[0].settimeout(20)
        opened[0].sendall(b"still here")
        expect(opened[0].recv(10, socket.MSG_WAITALL) == b"still here", "an open flow works")
        expect(b.egress()["Mode"] == "proxy" and b.node.status()["BackendState"] == "Running", "the node itself works on")
        peak = b.node.proc.rss_kib("VmHWM")
        for s in opened:
            s.close()
        wait_until(lambda: b.egress()["Flows"] == 0 and b.egress()["Dialing"] == 0, "all is given back")
        wait_until(lambda: b.client.curl(f"http://{b.net.inet.web4}/ip")[0] == 0, "and there is room again")
    p.close()
    expect(peak < (160 if SANITIZED else 64) * 1024, f"{peak} KiB at most")
    return f"{named(fate)}; {peak} KiB at most"


@case("35: the same for UDP: sources beyond the descriptors take the oldest's place, TCP keeps its half")
def few_descriptors_udp(b):
    b.limited(["--nofile=128:128"], "--exit-egress", "host")
    net = b.net.inet.ip4.rsplit(".", 1)[0]
    with b.oracle(allow=[f"net {net}.0/24"]):
        socks = []
        for i in range(300):
            s = b.tun.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(3)
            s.connect((b.net.inet.web4, inet.UDP_ECHO))
            s.send(b"%d" % i)
            socks.append(s)
        expect(socks[-1].recv(10) == b"299", "the newest source is served")
        e = b.egress()
        expect(0 < e["UDPSockets"] <= 64, f"{e['UDPSockets']} sockets")
        s, _ = b.connect(b.net.inet.web4, inet.ECHO)
        s.close()
        for s in socks:
            s.close()


@case("no descriptor left for the LocalAPI: it rests, and answers again when there is one", seconds=120)
def no_descriptor_for_the_localapi(b):
    b.limited(["--nofile=48:48"], advertise=False, dns=False)
    socks = []
    for _ in range(60):  # of the machine's own users: 128 connections are allowed
        s = socket.socket(socket.AF_UNIX)
        s.connect(b.node.socket)
        socks.append(s)
    ticks = b.node.proc.cpu_ticks()
    time.sleep(2)
    ticks = b.node.proc.cpu_ticks() - ticks
    expect(ticks < os.sysconf("SC_CLK_TCK"), f"the node was busy for {ticks} ticks in two seconds of nothing")
    for s in socks:
        s.close()
    wait_until(lambda: b.node.try_cli("status").returncode == 0, "the LocalAPI answers again")
    return f"{ticks} ticks"


def syns(b, dst, ports, seq=1):
    """Bare SYNs of the client's own address, some 10,000 a second."""
    raw = b.tun.ns.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    me = next(a for a in b.tun.ips() if ":" not in a)
    src, to = socket.inet_aton(me), socket.inet_aton(dst)
    for n, (sport, dport) in enumerate(ports):
        if n % 128 == 127:
            time.sleep(0.01)  # the TUN device holds 500
        tcp = struct.pack(">HHIIBBHHH", sport, dport, seq, 0, 5 << 4, 0x02, 65535, 0, 0)
        total = sum(struct.unpack(">16H", src + to + struct.pack(">BBH", 0, 6, 20) + tcp))
        total = (total & 0xffff) + (total >> 16)
        total = (total & 0xffff) + (total >> 16)
        head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, src, to)  # the kernel sums the header
        try:
            raw.sendto(head + tcp[:16] + struct.pack(">H", ~total & 0xffff) + tcp[18:], (dst, 0))
        except BlockingIOError:
            time.sleep(0.001)
    raw.close()


def connects_of_the_other(b, count=40):
    """Seconds of pages by the second peer, sorted."""
    took = []
    for _ in range(count):
        start = time.monotonic()
        code, _, err = b.client.curl(f"http://{b.net.inet.web4}/ip", timeout=20)
        expect(code == 0, f"the second peer: curl {code} {err}")
        took.append(time.monotonic() - start)
    return sorted(took)


@case("47: 20,000 SYNs of one peer to a blackhole: its cap, then resets; the second peer notices nothing", seconds=240)
def blackhole(b):
    b.exit("--exit-egress", "host")
    net = b.net.inet.ip4.rsplit(".", 1)[0]
    with b.oracle(allow=[f"net {net}.0/24", f"host {BLACKHOLE}"]):
        before = connects_of_the_other(b)
        start = time.monotonic()
        syns(b, BLACKHOLE, ((10000 + i % 50000, 80 + i // 50000) for i in range(20000)))
        sending = time.monotonic() - start
        e = b.egress()
        expect(0 < e["Dialing"] <= 5462, f"{e['Dialing']} dials of one peer")
        during = connects_of_the_other(b)
        expect(b.egress()["Failed"].get("limit", 0) > 0, f"nothing was refused: {b.egress()['Failed']}")
        wait_until(lambda: b.egress()["Dialing"] == 0, "the dials are over", timeout=60)
    p50, d50 = statistics.median(before), statistics.median(during)
    expect(d50 < 2 * p50 + 0.25, f"the second peer's connects took {d50:.3f} s instead of {p50:.3f}")
    return f"second peer {p50 * 1e3:.0f} ms before, {d50 * 1e3:.0f} ms during; 20,000 SYNs in {sending:.1f} s, {e['Dialing']} dials"


@case("46: a proxy that floods a stalled peer: what is held is bounded, other flows go on", seconds=120)
def stalled_peer(b):
    def script(conn, session):
        scripted.socks_greeting(conn, session)
        host, port = scripted.socks_request(conn, session)
        conn.sendall(scripted.SUCCESS4)
        if port != 81:
            scripted.relay(scripted.dial(b.net.proxy, (host, port)), conn)
            return
        block = bytes(1 << 18)
        while True:
            conn.sendall(block)
    p = scripted.Scripted(b.net.proxy, script, port=1096)
    b.exit("--tcp-buffer-size", "1M", proxy=p)
    with b.oracle(p):
        before, rss = connects_of_the_other(b, 20), b.node.proc.rss_kib()
        stalled = [b.connect(b.net.inet.web4, 81)[0] for _ in range(8)]
        time.sleep(2)
        during, grown = connects_of_the_other(b, 20), b.node.proc.rss_kib() - rss
        for s in stalled:
            s.close()
    if not SANITIZED:
        expect(grown < 16 * 1024, f"{grown} KiB for 8 stalled flows of at most 1 MiB")
    p50, d50 = statistics.median(before), statistics.median(during)
    expect(d50 < 2 * p50 + 0.25, f"the other's pages took {d50:.3f} s instead of {p50:.3f}")
    p.close()
    return f"{grown} KiB more for 8 stalled flows; the other peer {p50 * 1e3:.0f} and {d50 * 1e3:.0f} ms"


@case("row 27: no log line names a destination, also with --verbose, also when it fails")
def silent_log(b):
    p = scripted.Scripted(b.net.proxy, scripted.honest(b.net.proxy), port=1097)
    b.exit("--verbose", "--exit-proxy-udp", proxy=p)
    with b.oracle(p):
        for url in (f"http://{b.net.inet.web4}/ip", f"http://[{b.net.inet.web6}]/ip", "http://web.example/ip"):
            b.fetch(url)
        b.expect_refused(b.net.inet.web4, inet.CLOSED)
        b.expect_refused("10.1.2.3", 80)
        s = b.tun.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.sendto(b"x", (b.net.inet.web4, 443))
        s.close()
    log = b.node.proc.text()
    words = [w for w in (b.net.inet.web4, b.net.inet.web6, "web.example", "10.1.2.3") if w in log]
    expect(not words, f"the log has {words}")
    expect("HANDSHAKE > OPEN" in log, "the log is not verbose, so this proves nothing")
    p.close()


if __name__ == "__main__":
    main("limits", LimitsBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
