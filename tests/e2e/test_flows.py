#!/usr/bin/env python3
"""What a flow through exit and proxy looks like to the client's kernel: refusals, half-close, resets, cancelled dials, back
pressure. docs/ACCEPTANCE.md, tests 8-12 and 44; the client is official with a TUN device, so errors are exact."""
import os
import random
import select
import socket
import statistics
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import inet, official, proxies, scripted  # noqa: E402
from lib.case import case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

MIB = 1 << 20


class FlowBed(ExitBed):
    def build(self):
        super().build()
        self.proxy = proxies.Microsocks(self.sup, self.net.proxy, self.dir)
        # microsocks ends a flow with the first end of either side, so what needs half-close stands behind another
        self.honest = scripted.Scripted(self.net.proxy, scripted.honest(self.net.proxy), port=1085)
        self._current = None

    def through(self, proxy, *flags):
        """The exit node stands behind this proxy; restarted only when it does not already."""
        if self._current != (proxy, flags):
            self.exit(*flags, proxy=proxy)
            self._current = (proxy, flags)

    def other_proxy(self, script, **kw):
        port = random.Random(os.urandom(4)).randrange(20000, 30000)
        return scripted.Scripted(self.net.proxy, script, port=port, **kw)


@case("8: the first connect to a port is as quick as a later one, also during an upload")
def cold_ports(b):
    b.need_tun()
    b.through(b.proxy)
    ports = range(31000, 31030)
    listeners = [inet.Listener(b.net.inet, p, inet.serve_echo, (b.net.inet.web4,)) for p in ports]
    try:
        sink, _ = b.connect(b.net.inet.web4, inet.SINK)
        sink.setblocking(False)
        times = []
        for p in ports:
            s, took = b.connect(b.net.inet.web4, p)
            s.close()
            times.append(took)
            try:
                for _ in range(16):
                    sink.send(bytes(65536))
            except BlockingIOError:
                pass
        sink.close()
        median = statistics.median(times)
        expect(median < 0.9, f"the median first connect took {median:.2f} s, as long as a repeated SYN")
        return f"median {median * 1e3:.1f} ms"
    finally:
        for x in listeners:
            x.close()


@case("9: a closed port behind the proxy is ECONNREFUSED, never connect and end of file")
def closed_port(b):
    b.need_tun()
    took = {}
    squid = proxies.have("squid")
    for cls in (proxies.Microsocks, proxies.Tinyproxy) + ((proxies.Squid,) if squid else ()):
        p = b.proxy if cls is proxies.Microsocks else cls(b.sup, b.net.proxy, b.dir)
        b.through(p)
        with b.oracle(p):
            took[cls.program] = b.expect_refused(b.net.inet.web4, inet.CLOSED)
            b.expect_refused(b.net.inet.web6, inet.CLOSED)
        if p is not b.proxy:
            p.stop()
    return ", ".join(f"{k} {v * 1e3:.0f} ms" for k, v in took.items())


@case("9: tsnet sees the refusal too")
def closed_port_tsnet(b):
    b.through(b.honest)
    b.others.append(b.net.peer(3))
    t = official.Tsnet(b.sup, b.others[-1], b.dir, b.control.url, "tsnetclient", "dial", exit_node=b.node.ip4)
    first = wait_until(lambda: (lambda r: r if "first" in r else None)(t.ask(f"{b.net.inet.web4}:7 hello")), "echo by tsnet")
    expect(first["first"] == "hello\n", str(first))
    r = t.ask(f"{b.net.inet.web4}:{inet.CLOSED} hello")
    expect("refused" in r.get("error", ""), f"tsnet says {r}")
    t.proc.kill()


@case("10: half-close: the client ends first and still gets the answer")
def half_close_client(b):
    b.through(b.honest)
    with b.oracle(b.honest):
        s, _ = b.connect(b.net.inet.web4, inet.HALF_CLIENT_FIRST)
        s.sendall(bytes(300000))
        s.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: s.recv(4096), b""))
        s.close()
    expect(got == b"got 300000\n", f"the answer: {got!r}")


@case("10: half-close: the server ends first and still hears the client")
def half_close_server(b):
    b.through(b.honest)
    before = len(b.inet.half_server_first.got)
    with b.oracle(b.honest):
        s, _ = b.connect(b.net.inet.web4, inet.HALF_SERVER_FIRST)
        got = b"".join(iter(lambda: s.recv(4096), b""))
        expect(got == b"goodbye\n", f"got {got!r}")
        s.sendall(bytes(300000))
        s.close()
        wait_until(lambda: len(b.inet.half_server_first.got) > before, "the server hears the end")
    expect(b.inet.half_server_first.got[-1] == 300000, f"the server counted {b.inet.half_server_first.got[-1]}")


@case("11: a reset in mid-body reaches the client as ECONNRESET")
def reset_mid_body(b):
    reset = b.other_proxy(relay_reset)
    b.through(reset)
    with b.oracle(reset):
        s, _ = b.connect(b.net.inet.web4, inet.RST_BODY)
        s.sendall(b"go\n")
        got = s.recv(1000, socket.MSG_WAITALL)
        expect(got == b"x" * 1000, f"{len(got)} bytes before the reset")
        s.sendall(b"now\n")
        try:
            rest = s.recv(1000)
        except ConnectionResetError:
            return
        finally:
            s.close()
    expect(False, f"the client saw {rest!r} instead of ECONNRESET")


def relay_reset(conn, session):
    """Answers success, sends the body of RST_BODY and resets, as a server behind a transparent proxy would."""
    scripted.socks_greeting(conn, session)
    scripted.socks_request(conn, session)
    conn.sendall(scripted.SUCCESS4)
    inet.serve_rst_body(conn, None)


@case("11: the client's reset reaches the proxy as a reset")
def reset_by_client(b):
    b.need_tun()
    ends = []

    def script(conn, session):
        scripted.socks_greeting(conn, session)
        scripted.socks_request(conn, session)
        conn.sendall(scripted.SUCCESS4)
        try:
            while conn.recv(4096):
                pass
            ends.append("end of file")
        except ConnectionResetError:
            ends.append("reset")
    p = b.other_proxy(script)
    b.through(p)
    s, _ = b.connect(b.net.inet.web4, 80)
    s.sendall(b"hello")
    time.sleep(0.2)
    inet.close_with_rst(s)
    wait_until(lambda: ends, "the proxy hears of it", timeout=10)
    expect(ends == ["reset"], f"the proxy saw {ends[0]}")


def tcp_packet(src, dst, sport, dport, seq, flags):
    """A bare TCP segment in IPv4, with checksums."""
    def checksum(data):
        data += b"\0" * (len(data) & 1)
        total = sum(struct.unpack(f">{len(data) // 2}H", data))
        while total >> 16:
            total = (total & 0xffff) + (total >> 16)
        return ~total & 0xffff
    a, z = socket.inet_aton(src), socket.inet_aton(dst)
    tcp = struct.pack(">HHIIBBHHH", sport, dport, seq, 0, 5 << 4, flags, 65535, 0, 0)
    pseudo = a + z + struct.pack(">BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack(">H", checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0, a, z)
    return ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:] + tcp


@case("12: the client gives up during the dial: the proxy's connection is closed at once, nothing stays in flight")
def cancelled_dial(b):
    tun = b.need_tun()
    p = b.other_proxy(scripted.hang)
    b.through(p)
    raw = tun.ns.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    me, dst, sport, seq = next(a for a in tun.ips() if ":" not in a), b.net.inet.web4, 40123, 1000
    with b.oracle(p):
        for _ in range(3):  # repeated SYNs of one connection are one dial
            raw.sendto(tcp_packet(me, dst, sport, 80, seq, 0x02), (dst, 0))
        wait_until(lambda: p.open == 1, "the node dials the proxy")
        wait_until(lambda: b.egress()["Dialing"] == 1, "one dial in flight")
        start = time.monotonic()
        raw.sendto(tcp_packet(me, dst, sport, 80, seq + 1, 0x04), (dst, 0))
        wait_until(lambda: p.open == 0, "the proxy's connection is closed", timeout=5)
        took = time.monotonic() - start
        wait_until(lambda: b.egress()["Dialing"] == 0, "nothing in flight", timeout=5)
    raw.close()
    expect(len(p.sessions) == 1, f"{len(p.sessions)} dials for one connection")
    return f"{took * 1e3:.0f} ms"


@case("12: a proxy that never answers: refused at the handshake's deadline, in-flight back to none", seconds=120)
def silent_proxy(b):
    p = b.other_proxy(scripted.hang)
    b.through(p)
    with b.oracle(p):
        took = b.expect_refused(b.net.inet.web4, 80, within=40)
        wait_until(lambda: b.egress()["Dialing"] == 0, "nothing in flight", timeout=5)
    return f"{took:.1f} s"


@case("44: success and then an immediate end, or reset")
def success_then_end(b):
    for how in ("FIN", "RST"):
        def script(conn, session, how=how):
            scripted.socks_greeting(conn, session)
            scripted.socks_request(conn, session)
            conn.sendall(scripted.SUCCESS4)
            if how == "RST":
                inet.close_with_rst(conn)
        p = b.other_proxy(script)
        b.through(p)
        with b.oracle(p):
            try:
                s, _ = b.connect(b.net.inet.web4, 80, timeout=10)
                got = s.recv(10)
                s.close()
                expect(how == "FIN" and got == b"", f"{how}: recv gave {got!r}")
            except (ConnectionResetError, ConnectionRefusedError):
                expect(how == "RST", "a FIN became a reset")
        p.close()


@case("44: success and then a stall with a zero window: the client is held back, memory stays flat, nothing is lost", seconds=240)
def stalled_proxy(b):
    b.need_tun()
    go = []
    got = []

    def script(conn, session):
        scripted.socks_greeting(conn, session)
        scripted.socks_request(conn, session)
        conn.sendall(scripted.SUCCESS4)
        while not go:
            time.sleep(0.05)
        total = 0
        while data := conn.recv(1 << 18):
            total += len(data)
        got.append(total)
        conn.sendall(b"done")
    p = b.other_proxy(script, rcvbuf=8192)
    b.through(p, "--tcp-buffer-size", "256K")
    s, _ = b.connect(b.net.inet.web4, 80)
    before = b.node.proc.rss_kib()
    sent = _push_until_held(s)
    grown = b.node.proc.rss_kib() - before
    expect(sent < 64 * MIB, "64 MiB went into a stalled flow")
    if "build-check" not in os.environ.get("TN_BUILD", "build-check"):  # under ASan freed memory is kept aside
        expect(grown < 4096, f"{grown} KiB more memory for one stalled flow")
    go.append(True)
    s.settimeout(60)
    s.shutdown(socket.SHUT_WR)
    expect(s.recv(10) == b"done", "the answer after the stall")
    expect(got == [sent], f"{sent} bytes sent, {got} arrived")
    s.close()
    return f"held after {sent // 1024} KiB, {grown} KiB more memory"


def _push_until_held(s):
    """Sends until the socket has taken nothing for 3 s; returns the bytes taken."""
    s.setblocking(False)
    sent, quiet, block = 0, time.monotonic(), bytes(65536)
    while time.monotonic() - quiet < 3 and sent < 64 * MIB:
        try:
            sent += s.send(block)
            quiet = time.monotonic()
        except BlockingIOError:
            time.sleep(0.02)
    s.setblocking(True)
    return sent


@case("UDP through the exit is refused with port unreachable, at once, and rate-limited")
def udp_refused(b):
    tun = b.need_tun()
    b.through(b.proxy)
    with b.oracle(b.proxy):
        for host in (b.net.inet.web4, b.net.inet.web6):
            s = tun.ns.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(5)
            s.connect((host, 443))
            s.send(b"quic?")
            try:
                s.recv(100)
                expect(False, "an answer came")
            except ConnectionRefusedError:
                pass
            except TimeoutError:
                expect(False, f"no port unreachable from {host} within 5 s")
            s.close()
        flood = tun.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for i in range(5000):
            flood.sendto(b"x" * 100, (b.net.inet.web4, 10000 + i % 5000))
        flood.close()
    expect(not b.inet.udp_seen, "a datagram reached the internet")
    expect(b.egress()["UDPRefused"] > 0, f"status: {b.egress()}")


@case("200 connections at a time all complete")
def parallel(b):
    b.need_tun()
    b.through(b.proxy)
    with b.oracle(b.proxy):
        socks = [b.tun.ns.socket() for _ in range(200)]
        for s in socks:
            s.setblocking(False)
            s.connect_ex((b.net.inet.web4, inet.ECHO))
        for i, s in enumerate(socks):
            s.settimeout(60)
            wait_writable(s)
            s.sendall(b"%06d" % i)
        for i, s in enumerate(socks):
            got = s.recv(6, socket.MSG_WAITALL)
            expect(got == b"%06d" % i, f"connection {i} answered {got!r}")
            s.close()
        wait_until(lambda: b.egress()["Flows"] == 0, "all flows are gone")


def wait_writable(s):
    _, w, _ = select.select([], [s], [], 60)
    expect(w, "no connection within 60 s")
    err = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    expect(err == 0, f"connect: {os.strerror(err)}")


def needs():
    if not official.have("tailscaled", "testctl"):
        return "tests/peers is not built (no Go)"
    return None


if __name__ == "__main__":
    main("flows", FlowBed, needs)
