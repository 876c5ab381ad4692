#!/usr/bin/env python3
"""src/egress on real sockets, in namespaces of its own, against proxies whose every byte is scripted: docs/ACCEPTANCE.md,
tests 2, 9-12, 23, 25-27, 32, 33, 35, 37-44 at the level of the room. In every case: the outcome, that it came long before a timeout that
should not have mattered, one connection to the proxy, and no packet of the destination's from the node.

    node (drive_egress) 46.1.1.2 --veth-- 46.1.1.1 net: scripted proxies; "internet" 45.45.45.45, 2a00:45::45

usage: hostile.py DRIVE_EGRESS
"""
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from egressbed import DST, DST6, EARLY, SOON_S, Bed, Driver, Failed, expect, fnv  # noqa: E402
from lib import sandbox, scripted  # noqa: E402
from lib.scripted import SUCCESS4, hang, http_head, socks_greeting, socks_password, socks_request, take  # noqa: E402

RST = struct.pack("ii", 1, 0)


def each(bed, cases, scheme="socks5", credentials=None):
    """cases: {name: (script, outcome)}."""
    wrong = []
    for name, (script, want) in cases.items():
        try:
            got = bed.one(script, scheme, credentials)
        except Failed as e:
            got = str(e)
        if got != want:
            wrong.append(f"{name}: {got!r}, not {want!r}")
    expect(not wrong, "\n   ".join(wrong))


# ---- scripts ----

def send(conn, data, pieces=()):
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    at = 0
    for cut in list(pieces) + [len(data)]:
        conn.sendall(data[at:cut])
        at = cut
        if at < len(data):
            time.sleep(0.002)


def answer(data, pieces=(), reset=False):
    """An honest SOCKS5 greeting, then this answer to the request, then the end."""
    def script(conn, session):
        socks_greeting(conn, session)
        socks_request(conn, session)
        send(conn, data, pieces)
        finish(conn, reset)
    return script


def http(data, pieces=(), reset=False):
    def script(conn, session):
        session.head = http_head(conn, session)
        send(conn, data, pieces)
        finish(conn, reset)
    return script


def finish(conn, reset):
    if reset:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    else:
        conn.shutdown(socket.SHUT_WR)
        conn.settimeout(10)
        while conn.recv(4096):
            pass


def raw(data):
    """Answers the first bytes, whatever they are, and waits for the client to leave."""
    def script(conn, session):
        session.raw += conn.recv(4096)
        send(conn, data)
        hang(conn, session)
    return script


def after_method(data):
    """Chooses user/password, then this in place of the verdict."""
    def script(conn, session):
        take(conn, session, 3)
        conn.sendall(b"\x05\x02")
        socks_password(conn, session)
        conn.sendall(data)
        hang(conn, session)
    return script


def drip(data, reach):
    """A byte now and then, faster than any per-read timeout, for far longer than the deadline."""
    def script(conn, session):
        reach(conn, session)
        for byte in data:
            conn.sendall(bytes([byte]))
            time.sleep(0.2)
        hang(conn, session)
    return script


def bnd(atyp, body):
    return b"\x05\x00\x00" + bytes([atyp]) + body + b"\x00\x50"


def asked(conn, session):
    socks_greeting(conn, session)
    socks_request(conn, session)


# ---- cases ----

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


@case
def t37_drip_ends_at_the_total_deadline(bed):
    patient, bed.d, bed.at = bed.d, Driver(bed.node, bed.program, handshake_ms=500), None
    try:
        drips(bed)
        bed.d.quit()
    finally:
        bed.d, bed.at = patient, None


def drips(bed):
    long_name = b"\x05\x00\x00\x03\xff" + b"n" * 255
    fail = "fail proxy_timeout"
    each(bed, {
        "method": (drip(b"\x05", lambda c, s: take(c, s, 3)), fail),
        "reply": (drip(long_name, asked), fail),
        "silence": (hang, fail),
        "silence after greeting": (lambda c, s: (socks_greeting(c, s), hang(c, s)), fail),
        "silence after request": (lambda c, s: (asked(c, s), hang(c, s)), fail),
    })
    each(bed, {"auth": (drip(b"\x01", lambda c, s: (take(c, s, 3), c.sendall(b"\x05\x02"), socks_password(c, s))), fail)},
         credentials="user:pass")
    each(bed, {
        "head": (drip(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 500, http_head), fail),
        "endless 1xx, slowly": (drip(b"HTTP/1.1 100 C\r\n\r\n" * 30, http_head), fail),
        "silence": (hang, fail),
    }, "http")


@case
def t38_versions_methods_and_passwords(bed):
    bad = "fail proxy_protocol"
    each(bed, {f"version {v}": (raw(bytes([v, 0])), bad) for v in (4, 0, 255, ord("H"))})
    each(bed, {"method not offered": (raw(b"\x05\x02"), bad), "GSSAPI": (raw(b"\x05\x01"), bad),
               "none acceptable": (raw(b"\x05\xff"), "fail proxy_auth")})
    each(bed, {"talked down to none": (raw(b"\x05\x00"), bad), "none acceptable": (raw(b"\x05\xff"), "fail proxy_auth"),
               "1929 version 5": (after_method(b"\x05\x00"), bad), "1929 version 0": (after_method(b"\x00\x00"), bad),
               "status 1": (after_method(b"\x01\x01"), "fail proxy_auth"),
               "status 255": (after_method(b"\x01\xff"), "fail proxy_auth")}, credentials="user:hunter2")
    session = bed.proxies["socks5"].sessions[0]
    expect(session.methods is None and session.user == b"user" and session.password == b"hunter2", "credentials as configured")
    expect(session.raw.count(b"hunter2") == 1, "credentials were sent once")


@case
def t39_every_reply_code(bed):
    names = {3: "unreachable", 4: "unreachable", 5: "refused", 6: "timeout"}
    each(bed, {f"REP {r}": (answer(bytes([5, r, 9, 1]) + bytes(6)), f"fail {names.get(r, 'proxy_refused')}")
               for r in (1, 2, 3, 4, 5, 6, 7, 8, 9, 0xff)})
    each(bed, {"REP without the rest": (answer(b"\x05\x05"), "fail refused"),
               "RSV not 0": (answer(b"\x05\x00\x77" + SUCCESS4[3:] + EARLY), "end eof early")})


@case
def t40_bound_addresses_and_every_cut(bed):
    ok = "end eof early"
    bodies = {"v4": bnd(1, bytes(4)), "v6": bnd(4, bytes(16)), "name": bnd(3, b"\x04gate"), "empty name": bnd(3, b"\x00"),
              "name of 255": bnd(3, b"\xff" + b"n" * 255)}
    each(bed, {k: (answer(v + EARLY), ok) for k, v in bodies.items()})
    each(bed, {f"ATYP {t}": (answer(bnd(t, bytes(16))), "fail proxy_protocol") for t in (0, 2, 5, 7, 255)})
    data = bodies["name"] + EARLY
    each(bed, {f"cut at {i}": (answer(data, [i]), ok) for i in range(1, len(data))})
    each(bed, {"byte by byte": (answer(data, range(1, len(data))), ok)})
    for dst, want in ((DST, ("45.45.45.45", 80)), (DST6, ("2a00:45::45", 80))):
        bed.one(answer(data), dst=dst)
        expect(bed.proxies["socks5"].sessions[0].target == want, f"the proxy was asked for {dst}")


@case
def t41_http_answers(bed):
    ok, e = "end eof early", EARLY
    good = {
        "1.0": b"HTTP/1.0 200 OK\r\n\r\n", "no reason": b"HTTP/1.1 200\r\n\r\n",
        "1xx first": b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "204 with lengths": b"HTTP/1.1 204 N\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "bare LF": b"HTTP/1.1 200 OK\nA: b\n\n", "299": b"HTTP/1.1 299 X\r\n\r\n",
    }
    each(bed, {k: (http(v + e), ok) for k, v in good.items()}, "http")
    data = b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\n" + e
    each(bed, {f"cut at {i}": (http(data, [i]), ok) for i in range(1, len(data))}, "http")
    each(bed, {"byte by byte": (http(data, range(1, len(data))), ok)}, "http")
    each(bed, {"credentials": (http(data), ok)}, "http", credentials="Aladdin:open%20sesame")
    head = bed.proxies["http"].sessions[0].head
    expect(head == "CONNECT 45.45.45.45:80 HTTP/1.1\r\nHost: 45.45.45.45:80\r\n"
           "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n", f"the request: {head!r}")
    bed.one(http(data), "http", dst=DST6)
    expect(bed.proxies["http"].sessions[0].head.startswith("CONNECT [2a00:45::45]:80 HTTP/1.1\r\nHost: [2a00:45::45]:80\r\n"),
           "IPv6 in brackets")


@case
def t42_http_lies(bed):
    bad, start = "fail proxy_protocol", b"HTTP/1.1 200 OK\r\nX: "
    exact = start + b"a" * (8192 - len(start) - 4) + b"\r\n\r\n"
    each(bed, {
        "head = limit": (http(exact + EARLY), "end eof early"),
        "limit + 1": (http(start + b"a" + exact[len(start):]), bad),
        "10k headers": (http(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10000), bad),
        "endless 1xx": (http(b"HTTP/1.1 100 C\r\n\r\n" * 100000), bad),
        "no newline": (http(b"HTTP/1.1 200 " + b"a" * 1000000), bad),
        "NUL": (http(b"HTTP/1.1 403 a\0b\r\n\r\n"), bad), "ESC": (http(b"HTTP/1.1 403 \x1b[2J\r\n\r\n"), bad),
        "%n": (http(b"HTTP/1.1 403 %n%n%s\r\n\r\n"), "fail proxy_refused"),
        "garbage 200": (http(b"ICY anything 200 fine\r\n\r\n"), bad), "SSH": (raw(b"SSH-2.0-x\r\n"), bad),
        "302": (http(b"HTTP/1.1 302 Found\r\nLocation: http://45.45.45.45/\r\n\r\n"), "fail proxy_refused"),
        "407": (http(b"HTTP/1.1 407 A\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"), "fail proxy_auth"),
        "502": (http(b"HTTP/1.1 502 B\r\n\r\n"), "fail unreachable"),
        "504": (http(b"HTTP/1.1 504 B\r\n\r\n"), "fail timeout"),
    }, "http", credentials="user:hunter2")
    words = bed.d.words()
    expect("hunter2" not in words and "user" not in words and "aHVudGVy" not in words, "credentials in the log")
    expect("%n" not in words and "\x1b" not in words, "the proxy's words in the log")


@case
def t43_ends_and_resets_in_every_phase(bed):
    def cut(n, reset):
        def script(conn, session):
            for step in (lambda: take(conn, session, 3) and conn.sendall(b"\x05\x02"),
                         lambda: (socks_password(conn, session), conn.sendall(b"\x01\x00")),
                         lambda: (socks_request(conn, session), conn.sendall(SUCCESS4[:5])))[:n]:
                step()
            if reset:
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        return script
    each(bed, {f"after {n} answers, {'RST' if r else 'FIN'}": (cut(n, r), "fail proxy_closed")
               for n in range(4) for r in (0, 1) if (n, r) != (0, 1)}, credentials="user:pass")
    got = bed.one(cut(0, 1), credentials="user:pass")  # may overtake the connect
    expect(got in ("fail proxy_closed", "fail proxy_connect"), f"RST at once: {got}")
    each(bed, {f"{text!r} {'RST' if r else 'FIN'}": (http(text, reset=r), "fail proxy_closed")
               for text in (b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 C\r\n\r\n") for r in (False, True)}, "http")


@case
def t44_success_then_the_end(bed):
    each(bed, {"FIN": (answer(SUCCESS4), "end eof")})
    got = bed.one(answer(SUCCESS4, reset=True))
    expect(got in ("end RESET", "fail proxy_closed"), f"RST right behind success: {got}")

    def later_reset(conn, session):
        asked(conn, session)
        conn.sendall(SUCCESS4)
        take(conn, session, 1)  # the flow stands
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    bed.act = later_reset
    bed.d.tell(f"dial 7 {DST} read")
    bed.d.expect("7 open")
    bed.d.tell("write 7 1")
    expect(bed.d.expect("7 end").split()[2] == "RESET", "an RST is not a clean end")
    bed.d.ask("close 7", "7 closed")

    def reset_unread(conn, session):
        asked(conn, session)
        conn.sendall(SUCCESS4)
        take(conn, session, 1000)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    bed.act = reset_unread
    bed.d.tell(f"dial 7 {DST} hold")
    bed.d.expect("7 open")
    bed.d.tell("write 7 33554432")
    bed.d.expect("7 broke RESET")
    bed.d.tell("read 7")
    expect(bed.d.expect("7 end").split()[2] == "RESET", "nor does it become one once a write was told")
    bed.d.ask("close 7", "7 closed")


@case
def t44_stalled_destination(bed):
    bed.policy(f"proxy {bed.proxies['socks5'].url()}")
    go = threading.Event()

    def stall(conn, session):
        asked(conn, session)
        conn.sendall(SUCCESS4)
        go.wait(60)
        session.got = 0
        while data := conn.recv(1 << 16):
            session.got += len(data)
    bed.act = stall
    bed.proxies["socks5"].sessions.clear()
    before = bed.d.stats()["heap"]
    bed.d.tell(f"dial 8 {DST} read")
    bed.d.expect("8 open")
    bed.d.tell("write 8 33554432")
    time.sleep(0.5)  # time in which something could be buffered; what decides is the figure
    expect(bed.d.stats()["heap"] - before < 64 * 1024, "backpressure: nothing is kept in memory")
    go.set()
    bed.d.expect("8 wrote 33554432")
    bed.d.ask("shut 8", "8 shut OK")
    expect(bed.d.expect("8 end").split()[2] == "eof", "the other side ends when it has all")
    expect(bed.proxies["socks5"].sessions[0].got == 33554432, "all bytes arrived")
    bed.d.ask("close 8", "8 closed")


@case
def t46_flood_to_a_reader_that_stalls(bed):
    bed.policy(f"proxy {bed.proxies['socks5'].url()}")
    payload = bytes(range(256)) * 16384  # 4 MiB

    def flood(conn, session):
        asked(conn, session)
        conn.sendall(SUCCESS4)
        conn.sendall(payload)
    bed.act = flood
    before = bed.d.stats()["heap"]
    bed.d.tell(f"dial 9 {DST} hold")
    bed.d.expect("9 open")
    time.sleep(0.5)
    expect(bed.d.stats()["heap"] - before < 64 * 1024, "nothing is read that nobody takes")
    bed.d.tell("read 9")
    expect(bed.d.expect("9 end") == f"9 end eof {len(payload)} {fnv(payload)}", "all of it, in order")
    bed.d.ask("close 9", "9 closed")


@case
def t10_half_close_both_ways(bed):
    bed.policy(f"proxy {bed.proxies['socks5'].url()}")
    def server_first(conn, session):
        asked(conn, session)
        conn.sendall(SUCCESS4 + EARLY)
        conn.shutdown(socket.SHUT_WR)
        session.rest = b""
        while data := conn.recv(4096):
            session.rest += data
    bed.act = server_first
    bed.proxies["socks5"].sessions.clear()
    bed.d.tell(f"dial 10 {DST} read")
    expect(bed.d.expect("10 end").split()[2] == "eof", "their end")
    bed.d.ask("write 10 1000", "10 wrote 1000")
    bed.d.ask("shut 10", "10 shut OK")
    session = bed.proxies["socks5"].sessions[0]
    until = time.monotonic() + SOON_S
    while bed.proxies["socks5"].open and time.monotonic() < until:
        time.sleep(0.01)
    expect(len(session.rest) == 1000, "ours goes on after their end")
    bed.d.ask("close 10", "10 closed")


@case
def t11_reset_after_their_fin_is_noticed(bed):
    bed.policy(f"proxy {bed.proxies['socks5'].url()}")
    go = threading.Event()

    def script(conn, session):
        asked(conn, session)
        conn.sendall(SUCCESS4)
        conn.shutdown(socket.SHUT_WR)
        go.wait(SOON_S)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    bed.act = script
    for amount, want in ((0, "11 error RESET"), (33554432, "11 broke RESET")):  # nothing to write; a full socket
        go.clear()
        bed.d.tell(f"dial 11 {DST} read")
        expect(bed.d.expect("11 end").split()[2] == "eof", "their end")
        if amount:
            bed.d.tell(f"write 11 {amount}")
            bed.d.stats()
        go.set()
        bed.d.expect(want)
        bed.d.ask("close 11", "11 closed")


@case
def t12_cancel_closes_the_proxy_connection(bed):
    bed.policy(f"proxy {bed.proxies['socks5'].url()}")
    gone = threading.Event()

    def script(conn, session):
        asked(conn, session)
        hang(conn, session)
        gone.set()
    bed.act = script
    for verb in ("close", "reset"):
        gone.clear()
        bed.proxies["socks5"].sessions.clear()
        bed.d.tell(f"dial 12 {DST} read")
        until = time.monotonic() + SOON_S
        while not any(s.target for s in bed.proxies["socks5"].sessions) and time.monotonic() < until:
            time.sleep(0.01)
        bed.d.ask(f"{verb} 12", "12 closed")
        if verb == "close":
            expect(gone.wait(SOON_S), "the proxy sees the end")
        expect(bed.d.stats()["dials"] == 0, "nothing in flight")


@case
def policy_change_ends_dials_and_keeps_flows(bed):
    bed.policy(f"proxy {bed.proxies['socks5'].url()}")
    bed.act = lambda c, s: (asked(c, s), c.sendall(SUCCESS4), scripted.echo(c))
    bed.d.tell(f"dial 20 {DST} read")
    bed.d.expect("20 open")
    bed.act = hang
    for i, text in enumerate(("off", "proxy", "host")):
        bed.policy(f"proxy {bed.proxies['socks5'].url()}")
        bed.d.tell(f"dial {21 + i} {DST} read")
        bed.d.tell(f"policy {text}")
        bed.at = None
        expect(bed.d.expect(f"{21 + i} fail").split()[2] == "canceled", "a dial under another policy goes on")
        bed.d.expect("policy")
    bed.policy("off")
    bed.d.ask("write 20 3", "20 wrote 3")
    bed.d.ask("shut 20", "20 shut OK")
    expect(bed.d.expect("20 end").split()[2:4] == ["eof", "3"], "the flow stays")
    bed.d.ask("close 20", "20 closed")
    expect(bed.d.ask(f"dial 25 {DST} read", "25").endswith("fail off"), "off refuses")


@case
def t26_invalid_is_off(bed):
    bed.policy("off")
    for url in ("ftp://x:1", "socks5://", "socks5://h", "http://u:p@h:99999", "nonsense", "socks5://%zz@h:1"):
        bed.at = None
        expect(bed.d.ask(f"policy proxy {url}", "policy").startswith("policy bad"), url)
        expect(bed.d.ask(f"dial 30 {DST} read", "30").endswith("fail off"), "an invalid proxy is OFF, not HOST")


@case
def t23_dead_proxy_and_recovery(bed):
    bed.policy("proxy socks5://46.1.1.1:9")  # nobody listens
    expect(bed.d.ask(f"dial 31 {DST} read", "31").endswith("fail proxy_connect"), "refused at once")
    expect(bed.d.stats()["health"] == "proxy_connect", "health says so")
    late = None
    try:
        late = scripted.Scripted(bed.net, answer(SUCCESS4 + EARLY), port=9)
        bed.d.tell(f"dial 32 {DST} read")
        expect(bed.d.expect("32 end").split()[2] == "eof", "works without a restart")
        expect(bed.d.stats()["health"] == "ok", "health recovers")
        bed.d.ask("close 32", "32 closed")
    finally:
        if late:
            late.close()


@case
def t25_blackholed_proxy(bed):
    # The node's SYN reaches the other namespace, which does not forward and says nothing: only the deadline helps.
    d = Driver(bed.node, bed.program, connect_ms=500)
    d.ask("policy proxy socks5://46.9.9.9:1080", "policy proxy")
    expect(d.ask(f"dial 33 {DST} read", "33").endswith("fail proxy_connect"), "not reachable")
    expect(d.stats()["dials"] == 0, "bounded")
    d.quit()
    bed.sniffer.leaks()  # the proxy's address here is none that the sniffer knows


@case
def t8_proxy_by_name_both_families(bed):
    """Names come from /etc/hosts in here; the first address is dead, the second lives: tried in order within one phase."""
    hosts = "/etc/hosts"
    with open(hosts, "w", encoding="ascii") as f:
        f.write("127.0.0.1 localhost\n2a00:46:1::1 proxy.test\n46.1.1.1 proxy.test\n2a00:46:1::1 six.test\n"
                "45.45.45.45 far.test\n")
    bed.act = answer(SUCCESS4 + EARLY)
    for name, want in (("proxy.test:1070", "end"), ("six.test:1070", "fail proxy_connect"), ("no.such.test:1070", "fail proxy_name")):
        bed.policy(f"proxy socks5://{name}")
        bed.d.tell(f"dial 34 {DST} read")
        line = bed.d.expect("34 ")
        if line == "34 open":
            line = bed.d.expect("34 end")
            bed.d.ask("close 34", "34 closed")
        expect(line.split(None, 1)[1].startswith(want), f"{name}: {line}")
    bed.policy("proxy socks5://far.test:1080")
    expect(bed.d.ask("dial 34 45.45.45.45:1080 read", "34").endswith("fail guard"), "the proxy's endpoint, once its name is known")
    bed.policy("proxy socks5://proxy.test:1070")
    bed.d.tell("dial 35 45.45.45.45:81 read")  # a second dial uses the kept answer
    bed.d.expect("35 end")
    bed.d.ask("close 35", "35 closed")


def full_listener(bed, at):
    """(listener, its first connection's other end): no SYN is taken before that one was accepted."""
    listener = bed.net.socket(socket.AF_INET6)
    listener.settimeout(SOON_S)
    listener.bind(at)
    listener.listen(0)
    filler = bed.net.socket(socket.AF_INET6)
    filler.connect(at)
    return listener, filler


def wait_syn(bed, dst):
    until = time.monotonic() + SOON_S
    while not any(dst in p for p in bed.sniffer.leaks()):
        expect(time.monotonic() < until, f"{dst} was not tried")


@case
def a_proxys_addresses_race(bed):
    """A dead address is not waited for, and a slow one is not given up for the next."""
    with open("/etc/hosts", "w", encoding="ascii") as f:
        f.write("127.0.0.1 localhost\n2a00:46:9::9 dead.test\n46.1.1.1 dead.test\n"
                "2a00:46:1::1 slow.test\n46.9.9.9 slow.test\n46.9.9.9 none.test\n2a00:46:9::9 none.test\n")
    bed.act = answer(SUCCESS4 + EARLY)
    d = Driver(bed.node, bed.program, connect_ms=20000)
    d.ask("policy proxy socks5://dead.test:1070", "policy proxy")
    began = time.monotonic()
    for i in ("36", "37"):
        d.tell(f"dial {i} {DST} read")
        d.expect(f"{i} end")
        d.ask(f"close {i}", f"{i} closed")
    took = time.monotonic() - began
    wait_syn(bed, "2a00:46:9::9")
    expect(took < 10, f"{took:.1f} s: the dead address had its half of the time")
    listener, filler = full_listener(bed, (bed.net.ip6, 1072))
    d.ask("policy proxy socks5://slow.test:1072", "policy proxy")
    d.tell(f"dial 38 {DST} read")
    wait_syn(bed, "46.9.9.9")
    listener.accept()[0].close()  # now there is room: the first address's SYN comes again
    conn, _ = listener.accept()
    conn.settimeout(SOON_S)
    conn.recv(16)
    conn.sendall(b"\5\0")
    conn.recv(64)
    conn.sendall(SUCCESS4 + EARLY)
    conn.close()
    d.expect("38 end")
    d.ask("close 38", "38 closed")
    for s in (filler, listener):
        s.close()
    expect(d.stats()["flows"] == 0, "over")
    d.tell(f"dial 39 {DST} read")  # all that race are given back when it is canceled, or all fail
    wait_syn(bed, "46.9.9.9")
    d.ask("close 39", "39 closed")
    d.quit()
    d = Driver(bed.node, bed.program, connect_ms=700)
    d.ask("policy proxy socks5://none.test:1072", "policy proxy")
    fds = d.stats()["fds"]
    expect(d.ask(f"dial 40 {DST} read", "40").endswith("fail proxy_connect"), "both are dead")
    expect(d.stats()["fds"] == fds, f"{d.stats()['fds']} descriptors, {fds} before")
    d.quit()
    bed.sniffer.leaks()


@case
def t27_guard_keeps_the_proxy_from_being_asked(bed):
    bed.policy(f"proxy {bed.proxies['socks5'].url()}")
    bed.act = answer(SUCCESS4)
    bed.d.ask("own 45.45.45.46", "own")
    bed.proxies["socks5"].sessions.clear()
    refused = ["10.1.2.3:80", "127.0.0.1:80", "169.254.169.254:80", "100.100.100.100:53", "192.168.1.1:80", "224.0.0.1:80",
               "255.255.255.255:80", "0.0.0.0:80", "203.0.113.9:80", "46.1.1.9:80", "46.1.1.2:80", "46.1.1.1:1070", "45.45.45.46:80",
               "45.45.45.45:0", "[::1]:80", "[::ffff:45.45.45.45]:80", "[2002:2d2d:2d2d::1]:80", "[64:ff9b::2d2d:2d2d]:80",
               "[fd7a:115c:a1e0:b1a:0:1:a00:1]:80", "[2001:0:4136:e378:8000:63bf:3fff:fdd2]:80", "[fe80::1]:80", "[ff02::1]:80",
               "[2a00:46:1::1]:80", "[fd00::1]:80"]
    for mode in (bed.at, "host"):
        bed.policy(mode)
        for dst in refused:
            expect(bed.d.ask(f"dial 40 {dst} read", "40").endswith("fail guard"), f"{dst} in mode {mode}")
            expect(bed.d.ask(f"allowed {dst}", "allowed") == "allowed 0", dst)
    expect(bed.d.ask(f"allowed {DST}", "allowed") == "allowed 1", DST)
    expect(not bed.proxies["socks5"].sessions, "the proxy was asked")
    bed.d.ask("own", "own 0")
    # The proxy's endpoint when it is not on an attached prefix.
    bed.policy("proxy socks5://45.45.45.45:1080")
    expect(bed.d.ask("dial 41 45.45.45.45:1080 read", "41").endswith("fail guard"), "the proxy's own endpoint")
    expect(bed.d.ask("allowed 45.45.45.45:1080", "allowed") == "allowed 0", "and it is said so beforehand")


@case
def host_mode_dials_directly(bed):
    """The only case whose packets may go to the internet; the sniffer's finds are thrown away."""
    web = {}
    for family, addr in ((socket.AF_INET, "45.45.45.45"), (socket.AF_INET6, "2a00:45::45")):
        web[family] = bed.net.socket(family)
        web[family].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        web[family].bind((addr, 80))
        web[family].listen()
    bed.policy("host")
    for family, dst, source in ((socket.AF_INET, DST, "46.1.1.2"), (socket.AF_INET6, DST6, "2a00:46:1::2")):
        bed.d.tell(f"dial 50 {dst} read")
        web[family].settimeout(SOON_S)
        conn, peer = web[family].accept()
        expect(peer[0] == source, f"from {peer[0]}")
        conn.sendall(EARLY)
        conn.close()
        expect(bed.d.expect("50 end").split()[2] == "eof", "the page")
        bed.d.ask("close 50", "50 closed")
    for s in web.values():
        s.close()
    expect(bed.d.ask(f"dial 51 {DST} read", "51").endswith("fail refused"), "a closed port")
    d = Driver(bed.node, bed.program, connect_ms=300)
    d.ask("policy host", "policy host")
    expect(d.ask("dial 52 45.45.99.1:80 read", "52").endswith("fail timeout"), "nobody there")
    d.quit()
    expect(bed.sniffer.leaks(), "the sniffer sees what it is there to see")


@case
def t32_t33_environment_and_resolver_have_no_say(bed):
    decoy = bed.net.socket()
    decoy.bind(("46.1.1.1", 3333))
    decoy.listen()
    env = {k: "socks5://46.1.1.1:3333" for k in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy")}
    d = Driver(bed.node, bed.program, env={**env, "NO_PROXY": "*", "no_proxy": "*"})
    proxy = bed.proxies["socks5"]
    proxy.sessions.clear()
    bed.act = answer(SUCCESS4 + EARLY)
    d.ask(f"policy proxy {proxy.url()}", "policy proxy")
    d.tell(f"dial 1 {DST} read")
    expect(d.expect("1 end").split()[2] == "eof" and len(proxy.sessions) == 1, "through the configured proxy")
    expect(not select.select([decoy], [], [], 0)[0], "the decoy was asked")
    d.quit()
    decoy.close()


@case
def t35_limits_and_few_descriptors(bed):
    proxy = bed.proxies["socks5"]
    bed.act = hang
    d = Driver(bed.node, bed.program, 20, 10, 8, 5)  # flows, dials, flows per peer, dials per peer
    d.ask(f"policy proxy {proxy.url()}", "policy proxy")
    for i in range(1, 31):
        d.tell(f"dial {i} {DST} hold {1 + i % 3}")
    expect(d.stats()["dials"] == 10, "no more dials than allowed")
    refused = [line for line in d.seen if line.endswith("fail limit")]
    expect(len(refused) == 20, f"{len(refused)} refused")
    d.quit()
    d = Driver(bed.node, bed.program, 20, 20, 8, 5)
    d.ask(f"policy proxy {proxy.url()}", "policy proxy")
    for i in range(1, 21):
        d.tell(f"dial {i} {DST} hold 1")
    expect(d.stats()["dials"] == 5, "a peer's share of dials")
    d.tell(f"dial 21 {DST} hold 2")
    expect(d.stats()["dials"] == 6, "another peer has its own")
    d.quit()
    d = Driver(bed.node, bed.program, nofile=40)
    d.ask(f"policy proxy {proxy.url()}", "policy proxy")
    for i in range(1, 201):
        d.tell(f"dial {i} {DST} hold {i}")
    stats = d.stats()
    expect(20 <= stats["dials"] <= 30 and stats["fds"] <= 30, f"descriptors are kept for the node: {stats}")
    expect(stats.get("failed limit", 0) + stats.get("failed fds", 0) and stats["dials"] + sum(1 for line in d.seen if " fail " in line) == 200,
           "each has its answer")
    d.quit()


@case
def many_flows_leave_nothing_behind(bed):
    bed.policy(f"proxy {bed.proxies['socks5'].url()}")
    bed.act = lambda c, s: (asked(c, s), c.sendall(SUCCESS4), scripted.echo(c))
    bed.one(answer(SUCCESS4 + EARLY))
    before = at_rest(bed)
    bed.act = lambda c, s: (asked(c, s), c.sendall(SUCCESS4), scripted.echo(c))
    for i in range(1000, 1300):
        bed.d.tell(f"dial {i} {DST} hold")
    for i in range(1000, 1300):
        bed.d.expect(f"{i} open")
    at = bed.d.stats()
    expect(at["flows"] - before["flows"] == 300, "all open")
    per_flow = (at["heap"] - before["heap"]) / 300
    expect(per_flow < 400, f"{per_flow:.0f} bytes of heap per idle flow")
    for i in range(1000, 1300):
        bed.d.ask(f"close {i}", f"{i} closed")
    after = bed.d.stats()
    expect(after["flows"] == before["flows"] and after["fds"] == before["fds"], "descriptors and gauges return")
    expect(after["heap"] - before["heap"] < 16384, f"heap {before['heap']} > {after['heap']}")
    return f"{per_flow:.0f} bytes of heap per idle flow"


def at_rest(bed):
    """The figures once nothing of the case before is under way."""
    for _ in range(100):
        stats = bed.d.stats()
        if stats["flows"] == 0 and stats["dials"] == 0:
            break
        time.sleep(0.05)
    return stats


def main():
    sandbox.enter()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/etc"], check=False, capture_output=True)
    with open("/etc/nsswitch.conf", "w", encoding="ascii") as f:
        f.write("hosts: files\n")
    with open("/etc/host.conf", "w", encoding="ascii") as f:
        f.write("multi on\n")  # both families of a name from /etc/hosts
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(os.path.abspath(sys.argv[1]), folder)
        only, before = sys.argv[2:], bed.d.stats()
        for fn in [f for f in CASES if not only or any(o in f.__name__ for o in only)]:
            began = time.monotonic()
            try:
                note = fn(bed)
                leaks = bed.sniffer.leaks()
                expect(not leaks, f"packets left the node: {leaks[:5]}")
                print(f"ok   {fn.__name__} ({time.monotonic() - began:.1f} s){': ' + note if note else ''}", flush=True)
            except Failed as e:
                failed += 1
                print(f"FAIL {fn.__name__}: {e}", flush=True)
                if bed.d.proc.poll() is not None:
                    break
        if bed.d.proc.poll() is None:
            try:
                after = bed.d.stats()
                expect(after["fds"] == before["fds"] and not after["flows"] and not after["dials"], f"left behind: {after}")
                bed.d.quit()
            except Failed as e:
                failed += 1
                print(f"FAIL quit: {e}")
    print(f"{failed} failed")
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # scripts that still hang are daemon threads


main()
