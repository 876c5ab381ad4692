#!/usr/bin/env python3
"""The forwarder whole: a peer's stack, the gate's stack, the forwarder and a real egress, through scripted SOCKS5 servers in another
namespace. docs/ACCEPTANCE.md, tests 1, 9-13, 20, 21, 23, 24, 27, 29, 34, 44 at the level of the room.

usage: through.py DRIVE_FORWARD
"""
import os
import socket
import struct
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "egress"))
from egressbed import DST, DST6, EARLY, SOON_S, Bed, Failed, expect, fnv  # noqa: E402
from lib import sandbox, scripted  # noqa: E402
from lib.scripted import SUCCESS4, hang, socks_greeting, socks_request, take  # noqa: E402

RST = struct.pack("ii", 1, 0)
SYN, FLAG_RST = 0x02, 0x04
CASES = []


def case(fn):
    CASES.append(fn)
    return fn


def asked(conn, session):
    socks_greeting(conn, session)
    socks_request(conn, session)


def direct(fn):
    """A case of HOST mode, where the sniffer sees what it should."""
    fn.direct = True
    return case(fn)


def serve(*steps):
    """SOCKS5 up to success, then each step with (conn, session)."""
    def script(conn, session):
        asked(conn, session)
        conn.sendall(SUCCESS4)
        for step in steps:
            step(conn, session)
    return script


def stats(d):
    words = d.ask("stats", "stats").split()[1:]
    return {k: int(v) for k, v in zip(words[::2], words[1::2])}


def settled(d, **want):
    """Waits until the gauges have these values."""
    until = time.monotonic() + SOON_S
    while True:
        s = stats(d)
        if all(s[k] == v for k, v in want.items()):
            return
        expect(time.monotonic() < until, f"{want} did not come: {s}")
        time.sleep(0.01)


def wait_for(what, text):
    until = time.monotonic() + SOON_S
    while not what():
        expect(time.monotonic() < until, text)
        time.sleep(0.01)


def proxied(bed):
    bed.policy(f"proxy {bed.proxies['socks5'].url()}")
    bed.d.ask("enable 1", "enabled")
    bed.proxies["socks5"].sessions.clear()
    return bed.d


@case
def off_refuses_at_once_and_dials_nothing(bed):
    d = bed.d
    d.ask("enable 0", "enabled")
    bed.policy(f"proxy {bed.proxies['socks5'].url()}")
    bed.act = hang
    expect(d.ask(f"dial 1 {DST}", "1") == "1 closed REFUSED", "not an exit node")
    d.ask("enable 1", "enabled")
    bed.policy("off")
    expect(d.ask(f"dial 1 {DST}", "1") == "1 closed REFUSED", "egress off")
    expect(not bed.proxies["socks5"].sessions, "nothing was dialed")


@case
def t1_bulk_both_ways(bed):
    payload = os.urandom(1 << 16) * 64  # 4 MiB

    def up(conn, session):
        session.got = 0
        while data := conn.recv(1 << 16):
            session.got += len(data)
    d = proxied(bed)
    for dst in (DST, DST6):
        bed.act = serve(lambda c, s: c.sendall(payload), lambda c, s: c.shutdown(socket.SHUT_WR), up)
        bed.proxies["socks5"].sessions.clear()
        d.tell(f"dial 2 {dst}")
        d.expect("2 open")
        expect(d.expect("2 end") == f"2 end {len(payload)} {fnv(payload)}", "down, byte for byte")
        d.ask("write 2 8388608", "2 wrote 8388608")
        d.ask("shut 2", "2 shut")
        expect(d.expect("2 closed") == "2 closed OK", "an orderly end")
        wait_for(lambda: not bed.proxies["socks5"].open, "the proxy's side ends")
        expect(bed.proxies["socks5"].sessions[0].got == 8388608, "up, byte for byte")
        settled(d, flows=0, upstream=0)


@case
def dial_before_accept(bed):
    go = threading.Event()

    def late(conn, session):
        asked(conn, session)
        go.wait(SOON_S)
        conn.sendall(SUCCESS4 + EARLY)
        conn.shutdown(socket.SHUT_WR)
        hang(conn, session)
    d = proxied(bed)
    bed.act = late
    d.tell(f"dial 3 {DST}")
    wait_for(lambda: any(s.target for s in bed.proxies["socks5"].sessions), "dialed")
    time.sleep(1.3)  # the peer retransmits its SYN meanwhile
    expect(stats(d)["held"] == 1 and not any(line.startswith("3 ") for line in d.seen), "held, not accepted")
    go.set()
    d.expect("3 open")
    expect(d.expect("3 end") == f"3 end {len(EARLY)} {fnv(EARLY)}", "early bytes")
    expect(len(bed.proxies["socks5"].sessions) == 1, "one dial for all copies of the SYN")
    d.ask("shut 3", "3 shut")
    d.expect("3 closed OK")


@case
def t9_failures_are_resets(bed):
    d = proxied(bed)
    for rep in (1, 2, 3, 4, 5, 6, 7, 8, 255):
        bed.act = scripted.refuse_with(rep)
        expect(d.ask(f"dial 4 {DST}", "4") == "4 closed REFUSED", f"REP {rep}")
    bed.act = lambda c, s: None
    expect(d.ask(f"dial 4 {DST}", "4") == "4 closed REFUSED", "the proxy hangs up")
    for dst in ("10.0.0.1:80", "192.168.1.1:22", "46.1.1.1:1070", "46.1.1.2:22", "169.254.169.254:80",
                "[::ffff:45.45.45.45]:80", "[2002:2d2d:2d2d::1]:80", "[fd7a:115c:a1e0:b1a:0:1:a00:1]:80", "100.64.0.99:80"):
        bed.proxies["socks5"].sessions.clear()
        expect(d.ask(f"dial 4 {dst}", "4") == "4 closed REFUSED", dst)
        expect(not bed.proxies["socks5"].sessions, f"the proxy was asked for {dst}")
    settled(d, held=0, flows=0, dials=0)


@case
def t10_half_close(bed):
    d = proxied(bed)
    bed.act = serve(lambda c, s: setattr(s, "q", c.recv(1 << 16)), lambda c, s: expect(c.recv(1) == b"", "FIN"),
                    lambda c, s: c.sendall(EARLY))
    d.tell(f"dial 5 {DST}")
    d.expect("5 open")
    d.ask("write 5 10", "5 wrote 10")
    d.ask("shut 5", "5 shut")
    expect(d.expect("5 end") == f"5 end {len(EARLY)} {fnv(EARLY)}", "the answer after our FIN")
    settled(d, flows=0, upstream=0)


@case
def t11_reset_stays_reset(bed):
    d = proxied(bed)
    bed.act = serve(lambda c, s: c.sendall(b"x" * 1000), lambda c, s: take(c, s, 1),
                    lambda c, s: c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST))
    d.tell(f"dial 6 {DST}")
    d.expect("6 open")
    d.ask("write 6 1", "6 wrote 1")
    expect(d.expect("6 closed") == "6 closed RESET", "RST from upstream is an RST to the peer")
    errors = []

    def until_reset(conn, session):
        try:
            while conn.recv(4096):
                pass
            errors.append("eof")
        except ConnectionResetError:
            errors.append("reset")
    bed.act = serve(until_reset)
    d.tell(f"dial 6 {DST}")
    d.expect("6 open")
    d.ask("abort 6", "6 aborted")
    wait_for(lambda: errors, "the proxy sees an end")
    expect(errors == ["reset"], f"RST from the peer is an RST upstream: {errors}")
    settled(d, flows=0, upstream=0)


@case
def t12_peer_gives_up_while_dialing(bed):
    gone = threading.Event()

    def script(conn, session):
        asked(conn, session)
        hang(conn, session)
        gone.set()
    d = proxied(bed)
    bed.act = script
    # By an RST, as a system sends it whose application closed: SYN and RST are written by hand.
    d.ask(f"raw {tcp_packet('100.64.0.7', '45.45.45.45', 4000, 80, SYN).hex()}", "raw")
    wait_for(lambda: any(s.target for s in bed.proxies["socks5"].sessions), "dialed")
    expect(stats(d)["held"] == 1, "held")
    d.ask(f"raw {tcp_packet('100.64.0.7', '45.45.45.45', 4000, 80, 0, seq=2).hex()}", "raw")  # no flags: ignored
    d.ask(f"raw {tcp_packet('100.64.0.7', '45.45.45.45', 4000, 80, FLAG_RST, seq=2).hex()}", "raw")
    expect(gone.wait(SOON_S), "the proxy sees the end")
    settled(d, held=0, dials=0, canceled=1)
    # By silence: one SYN and no retransmission for as long as three of them take.
    gone.clear()
    bed.proxies["socks5"].sessions.clear()
    d.ask(f"raw {tcp_packet('100.64.0.7', '45.45.45.45', 4001, 80, SYN).hex()}", "raw")
    wait_for(lambda: any(s.target for s in bed.proxies["socks5"].sessions), "dialed")
    d.ask("skip 7", "skipped")
    expect(stats(d)["held"] == 1, "too early")
    d.ask("skip 2", "skipped")
    expect(gone.wait(SOON_S), "the proxy sees the end")
    settled(d, held=0, dials=0, canceled=2)


@case
def t13_peer_vanishes(bed):
    ends = []

    def until_end(conn, session):
        try:
            while conn.recv(4096):
                pass
            ends.append("eof")
        except ConnectionResetError:
            ends.append("reset")
    d = proxied(bed)
    bed.act = serve(until_end)
    d.tell(f"dial 8 {DST}")
    d.expect("8 open")
    d.ask("skip 300", "skipped")
    expect(stats(d)["flows"] == 1, "an idle peer that answers keepalives stays")
    d.ask("link 0", "link")
    d.ask("skip 60", "skipped")
    expect(stats(d)["flows"] == 1, "too early")
    d.ask("skip 120", "skipped")
    settled(d, flows=0, upstream=0)
    wait_for(lambda: ends, "the proxy's side ends")
    expect(ends == ["reset"], f"{ends}")
    d.ask("link 1", "link")
    d.ask("abort 8", "8")
    d.ask("skip 1", "skipped")


@case
def t24_proxy_killed_in_a_transfer(bed):
    d = proxied(bed)

    def die(conn, session):
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    bed.act = serve(lambda c, s: c.sendall(bytes(100000)), lambda c, s: take(c, s, 1000), die)
    for i in range(10, 20):
        d.tell(f"dial {i} {DST}")
    for i in range(10, 20):
        d.expect(f"{i} open")
        d.tell(f"write {i} 100000")
    for i in range(10, 20):
        expect(d.expect(f"{i} closed") == f"{i} closed RESET", "reset, not a clean end")
    settled(d, flows=0, upstream=0)


@case
def t44_stalled_peer_and_stalled_destination(bed):
    go = threading.Event()
    payload = bytes(range(256)) * (1 << 15)  # 8 MiB

    def slow(conn, session):
        go.wait(SOON_S)
        session.got = 0
        while data := conn.recv(1 << 16):
            session.got += len(data)
    d = proxied(bed)
    bed.act = serve(lambda c, s: c.sendall(payload), lambda c, s: c.shutdown(socket.SHUT_WR))
    d.tell("stall 20")
    d.tell(f"dial 20 {DST}")
    d.tell("stall 20")
    d.expect("20 open")
    time.sleep(0.5)
    d.ask("skip 600", "skipped")  # zero-window probes keep it alive
    expect(stats(d)["flows"] == 1, "a stalled peer stays")
    held = stats(d)["chunks"]
    expect(held <= 8 << 20, f"{held} bytes held for one stalled peer")
    d.tell("go 20")
    expect(d.expect("20 end") == f"20 end {len(payload)} {fnv(payload)}", "all of it")
    d.ask("shut 20", "20 shut")
    d.expect("20 closed")
    bed.proxies["socks5"].sessions.clear()
    bed.act = serve(slow)
    d.tell(f"dial 21 {DST}")
    d.expect("21 open")
    d.tell("write 21 33554432")
    time.sleep(0.5)
    expect(not any(line.startswith("21 wrote") for line in d.seen), "the destination's stall reaches the peer")
    go.set()
    d.expect("21 wrote")
    d.ask("shut 21", "21 shut")
    wait_for(lambda: not bed.proxies["socks5"].open, "the proxy's side ends")
    expect(bed.proxies["socks5"].sessions[0].got == 33554432, "all of it")
    settled(d, flows=0, upstream=0)


@case
def t20_t21_t34_other_protocols(bed):
    d = proxied(bed)
    d.ask("udp 45.45.45.45:443", "sent")
    expect(d.expect("icmp") == "icmp 4 3 3", "UDP: port unreachable")
    d.ask("udp [2a00:45::45]:53", "sent")
    expect(d.expect("icmp") == "icmp 6 1 4", "UDP over IPv6: port unreachable")
    d.ask("ping 45.45.45.45", "sent")
    expect(d.expect("icmp") == "icmp 4 3 13", "echo: prohibited")
    d.ask("ping 2a00:45::45", "sent")
    expect(d.expect("icmp") == "icmp 6 1 1", "echo over IPv6: prohibited")
    for proto in (47, 132, 41, 4, 50):
        d.ask("raw " + ip4_packet("100.64.0.7", "45.45.45.45", proto, bytes(40)).hex(), "raw")
        expect(d.expect("icmp") == "icmp 4 3 2", f"protocol {proto}")
    silent = [ip4_packet("100.64.0.7", "45.45.45.45", 17, bytes(40), fragment=0x2000),
              ip4_packet("100.64.0.7", "45.45.45.45", 6, bytes(40), fragment=5),
              ip4_packet("100.64.0.7", "224.0.0.251", 17, b"\x14\xe9\x14\xe9\0\x08\0\0"),
              ip4_packet("100.64.0.7", "255.255.255.255", 17, b"\0\x44\0\x43\0\x08\0\0"),
              tcp_packet("100.64.0.7", "224.0.0.1", 5, 80, SYN)]
    for packet in silent:
        d.ask("raw " + packet.hex(), "raw")
    stats(d)
    expect(not any(line.startswith("icmp") for line in d.seen), f"silence: {d.seen}")
    # The stack's limit: a flood of datagrams is answered at its rate and no faster.
    for _ in range(1000):
        d.tell("udp 45.45.45.45:443")
    for _ in range(1000):
        d.expect("sent")
    stats(d)
    answers = [line for line in d.seen if line.startswith("icmp")]
    expect(0 < len(answers) < 600, f"{len(answers)} answers to 1000 datagrams")
    d.seen[:] = [line for line in d.seen if not line.startswith("icmp")]
    expect(not bed.proxies["socks5"].sessions, "nothing of it reached the proxy")


@case
def switched_off_and_peer_gone(bed):
    d = proxied(bed)
    bed.act = serve(lambda c, s: scripted.echo(c))
    for order in ("enable 0", "gone"):
        d.ask("enable 1", "enabled")
        d.tell(f"dial 30 {DST}")
        d.expect("30 open")
        d.ask(order, order.split()[0])
        expect(d.expect("30 closed") == "30 closed RESET", order)
        settled(d, flows=0, upstream=0)


@case
def many_flows(bed):
    d = proxied(bed)
    bed.act = serve(lambda c, s: scripted.echo(c))
    d.ask("enable 1", "enabled")
    for i in range(100, 400):
        d.tell(f"dial {i} {DST}")
    for i in range(100, 400):
        d.expect(f"{i} open")
        d.tell(f"write {i} 2000")
    for i in range(100, 400):
        d.expect(f"{i} wrote")
        d.ask(f"shut {i}", f"{i} shut")
    for i in range(100, 400):
        expect(d.expect(f"{i} end").split()[2] == "2000", "echoed")
    settled(d, flows=0, upstream=0, held=0, chunks=0)


class UdpEcho:
    """Echoes in the internet; remembers who came."""

    def __init__(self, ns, addr, port, answer=True):
        self.seen, self.answer = [], answer
        family = socket.AF_INET6 if ":" in addr else socket.AF_INET
        self.sock = ns.socket(family, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.bind((addr, port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            data, who = self.sock.recvfrom(65536)
            self.seen.append((who[0], who[1], len(data)))
            if self.answer:
                self.sock.sendto(data, who)


def hosted(bed):
    bed.policy("off")  # ends what an earlier case left
    bed.policy("host")
    bed.d.ask("enable 1", "enabled")
    if not hasattr(bed, "udp4"):
        bed.udp4, bed.udp6 = UdpEcho(bed.net, "45.45.45.45", 9020), UdpEcho(bed.net, "2a00:45::45", 9020)
    bed.udp4.seen.clear()
    bed.udp6.seen.clear()
    bed.d.seen[:] = [line for line in bed.d.seen if not line.startswith(("icmp", "udp"))]
    return bed.d


def udp_payload(n):
    return bytes((i * 7 + n) & 0xff for i in range(n))


def echoed(d, to, size, sock=0):
    d.ask(f"udp {to} {size} {sock}", "sent")
    got = d.expect("udp")
    expect(got == f"udp {sock} {size} {fnv(udp_payload(size))} {to}", f"{got} for {size} bytes")


@direct
def t22_host_udp_of_every_size(bed):
    d = hosted(bed)
    for to, server, addr in (("45.45.45.45:9020", bed.udp4, "46.1.1.2"), ("[2a00:45::45]:9020", bed.udp6, "2a00:46:1::2")):
        for size in (0, 1, 1200, 1252, 1500, 3000, 9000, 65507):
            echoed(d, to, size)
        expect({s[:2] for s in server.seen} == {(addr, 5000)}, f"the peer's own port is kept: {set(server.seen)}")
    s = stats(d)
    expect(s["sockets"] == 2 and s["dgrams"] == 2 and s["udp_flows"] == 2, f"one socket for one source: {s}")


@direct
def host_udp_a_port_that_is_taken(bed):
    taken = bed.node.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("0.0.0.0", 5001))
    d = hosted(bed)
    echoed(d, "45.45.45.45:9020", 100, 1)
    expect(bed.udp4.seen[0][1] != 5001, "another port")
    taken.close()


@direct
def t27_host_udp_guard(bed):
    d = hosted(bed)
    for to in ("10.0.0.1:53", "127.0.0.1:53", "169.254.169.254:80", "46.1.1.2:41641", "46.1.1.1:53", "100.64.0.1:53",
               "[::1]:53", "[fe80::1]:53", "[::ffff:45.45.45.45]:9020", "[fd7a:115c:a1e0:b1a::a00:1]:53",
               "45.45.45.45:0"):
        d.ask(f"udp {to}", "sent")
        expect(d.expect("icmp").split()[2:] in (["3", "3"], ["1", "4"]), to)
    for to in ("127.0.0.1", "10.0.0.1", "46.1.1.1"):
        d.ask(f"ping {to}", "sent")
        expect(d.expect("icmp") == "icmp 4 3 13", to)
    expect(not bed.udp4.seen and stats(d)["dgrams"] == 0, "nothing was opened")


@direct
def t21_host_udp_only_the_destination_may_answer(bed):
    d = hosted(bed)
    echoed(d, "45.45.45.45:9020", 10)
    addr, port, _ = bed.udp4.seen[0]
    stranger = bed.net.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.bind(("45.45.45.45", 9021))  # the right address, another port
    before = stats(d)["strangers"]
    stranger.sendto(b"injected", (addr, port))
    settled(d, strangers=before + 1)
    expect(not any(line.startswith("udp") for line in d.seen), "the peer heard nothing of it")
    # Asked, it may: the same socket, another flow.
    d.ask("udp 45.45.45.45:9021 5", "sent")
    stranger.recv(100)
    stranger.sendto(b"answer", (addr, port))
    expect(d.expect("udp").endswith("45.45.45.45:9021"), "the asked one's answer")
    expect(stats(d)["sockets"] == 1, "one socket")
    stranger.close()


@direct
def host_udp_port_unreachable_comes_back(bed):
    d = hosted(bed)
    d.ask("udp 45.45.45.45:9999", "sent")
    expect(d.expect("icmp") == "icmp 4 3 3", "port unreachable of the real side")
    d.ask("udp [2a00:45::45]:9999", "sent")
    expect(d.expect("icmp") == "icmp 6 1 4", "and by IPv6")
    echoed(d, "45.45.45.45:9020", 10)  # the same socket works on
    bed.net.call(lambda: open("/proc/sys/net/ipv4/ip_forward", "w").write("1"))
    bed.net.ip("route", "add", "prohibit", "47.0.0.0/8")
    bed.net.ip("route", "add", "unreachable", "48.0.0.0/8")
    d.ask("udp 47.1.1.1:53", "sent")
    expect(d.expect("icmp") == "icmp 4 3 13", "prohibited")
    d.ask("udp 48.1.1.1:53", "sent")
    expect(d.expect("icmp") == "icmp 4 3 1", "host unreachable")


@direct
def host_udp_ends(bed):
    d = hosted(bed)
    ends = (("skip 119", 1), ("skip 2", 0)), (("gone", 0),), (("enable 0", 0),), (("policy off", 0),)
    for orders in ends:
        bed.policy("host")
        d.ask("enable 1", "enabled")
        echoed(d, "45.45.45.45:9020", 10)
        for order, left in orders:
            if order.startswith("policy"):
                bed.policy("off")
            else:
                d.ask(order, order.split()[0].replace("enable", "enabled").replace("skip", "skipped"))
            settled(d, udp_flows=left, dgrams=left, sockets=left)


@direct
def host_ping(bed):
    bed.node.call(lambda: open("/proc/sys/net/ipv4/ping_group_range", "w").write("0 0"))
    d = hosted(bed)
    d.ask("ping 45.45.45.45", "sent")
    expect(d.expect("icmp") == "icmp 4 0 0", "the echo's reply")
    d.ask("ping 2a00:45::45", "sent")
    expect(d.expect("icmp") == "icmp 6 129 0", "the echo's reply by IPv6")
    settled(d, dgrams=2, sockets=2)
    d.ask("skip 11", "skipped")
    settled(d, dgrams=0, sockets=0)
    bed.node.call(lambda: open("/proc/sys/net/ipv4/ping_group_range", "w").write("1 0"))
    d.ask("ping 45.45.45.45", "sent")
    expect(d.expect("icmp") == "icmp 4 3 13", "not permitted by the host: prohibited, and said so")


class Relay:
    """A SOCKS5 proxy's UDP side, as a script of the scripted proxy: one relay per control connection."""

    def __init__(self, ns, bnd=None, wrap=None, cut=None):
        self.ns, self.bnd, self.wrap, self.cut = ns, bnd, wrap, cut
        self.socks, self.heard, self.requests, self.ended = [], [], [], 0

    def __call__(self, conn, session):
        socks_greeting(conn, session)
        self.requests.append(take(conn, session, 10))
        if self.cut:
            conn.sendall(self.cut)
            if self.cut[1] != 0:
                return
        u = self.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        u.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        u.bind(("46.1.1.1", 0))
        self.socks.append(u)
        threading.Thread(target=self._serve, args=(u,), daemon=True).start()
        if not self.cut:
            conn.sendall(self.bnd(u.getsockname()[1]) if self.bnd else reply_bound("46.1.1.1", u.getsockname()[1]))
        try:
            while conn.recv(100):
                pass
        except OSError:
            pass
        self.ended += 1

    def _serve(self, u):
        """Echoes as if the destination had: the header that came is the header that goes."""
        while True:
            data, who = u.recvfrom(65536)
            self.heard.append((data[:10] if data[3] == 1 else data[:22], len(data), who))
            for answer in self.wrap(data) if self.wrap else [data]:
                u.sendto(answer, who)


def reply_bound(addr, port):
    family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    return b"\x05\0\0" + (b"\x04" if ":" in addr else b"\x01") + socket.inet_pton(family, addr) + struct.pack(">H", port)


def associating(bed, relay):
    bed.policy("off")
    bed.d.ask("proxyudp 0", "proxyudp")
    bed.act = relay
    d = proxied(bed)
    d.seen[:] = [line for line in d.seen if not line.startswith(("icmp", "udp"))]
    d.ask("proxyudp 1", "proxyudp")
    return d


@case
def t22_associate(bed):
    relay = Relay(bed.net)
    d = associating(bed, relay)
    settled(d, relay=1)  # the probe
    wait_for(lambda: relay.ended == 1, "the probe's association is given back")
    expect(relay.requests == [b"\x05\x03\0\x01\0\0\0\0\0\0"], f"{relay.requests}")
    for to in ("45.45.45.45:9020", "[2a00:45::45]:9020"):
        for size in (0, 1, 1200, 3000, 9000, 65000):
            echoed(d, to, size)
    echoed(d, "45.45.45.45:443", 100)
    s = stats(d)
    expect(s["associations"] == 1 and s["udp_flows"] == 3 and len(relay.requests) == 2, f"one association for the peer: {s}")
    expect(relay.heard[0][0] == b"\0\0\0\x01" + socket.inet_aton("45.45.45.45") + struct.pack(">H", 9020), "the header")
    d.ask("udp 45.45.45.45:9020 65500", "sent")  # with the header too large for a datagram
    settled(d, unsent=s["unsent"] + 1)
    d.ask("ping 45.45.45.45", "sent")
    expect(d.expect("icmp") == "icmp 4 3 13", "ping stays prohibited")
    for to in ("10.0.0.1:53", "46.1.1.1:1070", "100.64.0.1:53", "169.254.169.254:80", "[::ffff:45.45.45.45]:9020"):
        heard = len(relay.heard)
        d.ask(f"udp {to}", "sent")
        expect(d.expect("icmp").split()[2:] in (["3", "3"], ["1", "4"]), to)
        expect(len(relay.heard) == heard, f"the relay heard of {to}")
    # Silence of 31 s, then the server speaks; and in the end the association goes with its last flow.
    d.ask("skip 31", "skipped")
    head, _, who = relay.heard[-1]
    relay.socks[-1].sendto(head + b"push", who)
    expect(d.expect("udp").split()[2] == "4", "the server's push after 31 s")
    d.ask("skip 121", "skipped")
    settled(d, associations=0, udp_flows=0, sockets=0)
    wait_for(lambda: relay.ended == 2, "the control connection is closed")


@case
def associate_bound_address(bed):
    """Row 19: the relay is where the proxy is, or nowhere."""
    good = {"itself": lambda p: reply_bound("46.1.1.1", p), "any": lambda p: reply_bound("0.0.0.0", p),
            "any, IPv6": lambda p: reply_bound("::", p), "mapped": lambda p: reply_bound("::ffff:46.1.1.1", p)}
    for name, bnd in good.items():
        relay = Relay(bed.net, bnd)
        d = associating(bed, relay)
        settled(d, relay=1)
        echoed(d, "45.45.45.45:9020", 100)
    third = UdpEcho(bed.net, "45.45.45.45", 9055)
    bad = {"a third party": lambda p: reply_bound("45.45.45.45", 9055), "loopback": lambda p: reply_bound("127.0.0.1", p),
           "the node": lambda p: reply_bound("46.1.1.2", p), "port 0": lambda p: reply_bound("46.1.1.1", 0),
           "IPv6 of the proxy": lambda p: reply_bound("2a00:46:1::1", p),
           "a name": lambda p: b"\x05\0\0\x03\x05proxy" + struct.pack(">H", p)}
    for name, bnd in bad.items():
        relay = Relay(bed.net, bnd)
        d = associating(bed, relay)
        settled(d, relay=3)
        d.ask("udp 45.45.45.45:9020 10", "sent")
        expect(d.expect("icmp") == "icmp 4 3 3", f"{name}: refused at once")
        d.ask("skip 1", "skipped")
    expect(not third.seen, "a third party got a datagram")


@case
def associate_refused_and_remembered(bed):
    for rep in (1, 2, 7, 8):
        relay = Relay(bed.net, cut=bytes((5, rep, 0, 1)) + bytes(6))
        d = associating(bed, relay)
        settled(d, relay=2)
        for _ in range(20):
            d.ask("udp 45.45.45.45:443 10", "sent")
            expect(d.expect("icmp") == "icmp 4 3 3", "port unreachable")
        expect(len(relay.requests) == 1, f"REP {rep}: asked {len(relay.requests)} times")
    bed.act = lambda c, s: None
    bed.policy("off")
    d = proxied(bed)
    settled(d, relay=3)


@case
def associate_is_slow(bed):
    """What was said before the association stands is kept within bounds, and goes out then."""
    go = threading.Event()
    relay = Relay(bed.net)

    def late(conn, session):
        go.wait(SOON_S)
        relay(conn, session)
    d = associating(bed, relay)
    settled(d, relay=1)
    bed.act = late
    unsent = stats(d)["unsent"]
    for i in range(40):
        d.ask("udp 45.45.45.45:9020 100", "sent")
    settled(d, unsent=unsent + 8, associations=0)
    go.set()
    for _ in range(32):
        expect(d.expect("udp").split()[2] == "100", "an answer")


@case
def t45_associate_hostile_datagrams(bed):
    good = b"\0\0\0\x01" + socket.inet_aton("45.45.45.45") + struct.pack(">H", 9020)

    def wrap(data):
        bad = [data[:2] + b"\x01" + data[3:], data[:2] + b"\x80" + data[3:], data[:3] + b"\x02" + data[4:], b"", b"\0\0\0",
               good[:9], b"\0\0\0\x03\xffshort", b"\0\0\0\x04" + bytes(10)]
        foreign = [b"\0\0\0\x01" + socket.inet_aton("45.45.45.46") + good[8:] + b"x", good[:8] + b"\0\x01" + b"x",
                   b"\0\0\0\x01" + socket.inet_aton("100.64.0.1") + good[8:] + b"x",
                   b"\0\0\0\x03\x04evil" + good[8:] + b"x"]
        return bad + foreign + [data]
    relay = Relay(bed.net, wrap=wrap)
    d = associating(bed, relay)
    settled(d, relay=1)
    before = stats(d)
    echoed(d, "45.45.45.45:9020", 50)
    settled(d, malformed=before["malformed"] + 8, strangers=before["strangers"] + 4)
    # Somebody else than the relay, on its own host: the kernel keeps it out.
    _, _, who = relay.heard[-1]
    neighbour = bed.net.socket(socket.AF_INET, socket.SOCK_DGRAM)
    neighbour.bind(("46.1.1.1", 0))
    neighbour.sendto(good + b"injected", who)
    echoed(d, "45.45.45.45:9020", 51)
    expect(not any(line.startswith("udp") for line in d.seen), f"{d.seen}")


@case
def associate_dies_with_its_control_connection(bed):
    """Row 20."""
    for how in ("end", "reset", "word"):
        conns = []
        relay = Relay(bed.net)

        def script(conn, session, relay=relay, conns=conns):
            conns.append(conn)
            relay(conn, session)
        d = associating(bed, script)
        settled(d, relay=1)
        echoed(d, "45.45.45.45:9020", 50)
        expect(stats(d)["associations"] == 1, "one")
        if how == "end":
            conns[-1].shutdown(socket.SHUT_RDWR)
        elif how == "word":
            conns[-1].sendall(b"hello")
        else:
            conns[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            conns[-1].shutdown(socket.SHUT_RD)  # the script's thread wakes up and closes
        settled(d, associations=0, udp_flows=0, sockets=0)
        expect(d.expect("icmp") == "icmp 4 3 3", "the peer is told")
        heard = len(relay.heard)
        echoed(d, "45.45.45.45:9020", 50)  # another association
        expect(len(relay.heard) == heard + 1 and len(relay.socks) == 3, f"{how}: a relay of its own")


@case
def associate_same_destination_from_several_sources(bed):
    relay = Relay(bed.net)
    d = associating(bed, relay)
    settled(d, relay=1)
    for sock in (0, 1, 2, 3):
        echoed(d, "45.45.45.45:9020", 60, sock)
    expect(stats(d)["associations"] == 4, "a relay's datagram does not tell for which source it is")
    for sock in (0, 1, 2, 3):
        echoed(d, "45.45.45.45:443", 60, sock)
    s = stats(d)
    expect(s["associations"] == 4 and s["udp_flows"] == 8, f"{s}")
    bed.policy("off")
    settled(d, associations=0, udp_flows=0, sockets=0)
    d.ask("proxyudp 0", "proxyudp")
    proxied(bed)
    d.ask("udp 45.45.45.45:443 10", "sent")
    expect(d.expect("icmp") == "icmp 4 3 3", "off means off")


@case
def associate_not_by_http(bed):
    bed.policy("off")
    bed.d.ask("proxyudp 1", "proxyudp")
    bed.policy(f"proxy {bed.proxies['http'].url()}")
    bed.d.ask("enable 1", "enabled")
    before = len(bed.proxies["http"].sessions)
    bed.d.ask("udp 45.45.45.45:443 10", "sent")
    expect(bed.d.expect("icmp") == "icmp 4 3 3", "refused at once")
    expect(len(bed.proxies["http"].sessions) == before, "and the proxy was not asked")
    bed.d.ask("proxyudp 0", "proxyudp")


@direct
def host_udp_bursts(bed):
    d = hosted(bed)
    bed.udp4.answer = True
    for i in range(2000):
        d.tell(f"udp 45.45.45.45:9020 {i % 1400} {i % 4}")
    for _ in range(2000):
        d.expect("sent")
    # a receiver that is not scheduled loses what its buffer has no room for
    wait_for(lambda: len(bed.udp4.seen) >= 500, f"{len(bed.udp4.seen)} of 2000 arrived")
    s = stats(d)
    expect(s["sockets"] == 4 and s["udp_flows"] == 4, f"{s}")


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ip4_packet(src, dst, proto, payload, fragment=0):
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, fragment, 64, proto, 0, socket.inet_aton(src),
                       socket.inet_aton(dst))
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def tcp_packet(src, dst, sport, dport, flags, seq=1):
    tcp = struct.pack(">HHIIBBHHH", sport, dport, seq, 0, 0x50, flags, 65535, 0, 0)
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack(">BBH", 0, 6, len(tcp))
    return ip4_packet(src, dst, 6, tcp[:16] + struct.pack(">H", checksum(pseudo + tcp)) + tcp[18:])


def main():
    sandbox.enter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(os.path.abspath(sys.argv[1]), folder)
        only = sys.argv[2:]
        for fn in [f for f in CASES if not only or any(o in f.__name__ for o in only)]:
            began = time.monotonic()
            try:
                fn(bed)
                leaks = bed.sniffer.leaks() if not getattr(fn, "direct", False) else bed.sniffer.leaks() and []
                expect(not leaks, f"packets left the node: {leaks[:5]}")
                print(f"ok   {fn.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
            except Failed as e:
                failed += 1
                print(f"FAIL {fn.__name__}: {e}", flush=True)
                if bed.d.proc.poll() is not None:
                    break
        if bed.d.proc.poll() is None:
            try:
                bed.d.quit()
            except Failed as e:
                failed += 1
                print(f"FAIL quit: {e}")
    print(f"{failed} failed")
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # scripts that still hang are daemon threads


main()
