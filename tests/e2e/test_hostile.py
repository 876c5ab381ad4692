#!/usr/bin/env python3
"""Proxies that mean ill or are broken, behind the real node: docs/ACCEPTANCE.md, tests 37-43. In each case the client is
refused (or served, where the answer is odd but legal) within a bound, credentials are sent once, nothing leaks, the node
lives and serves the next flow."""
import os
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import inet, official, scripted  # noqa: E402
from lib.case import case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.proc import Failure, expect, wait_until  # noqa: E402
from lib.scripted import SUCCESS4, http_head, socks_greeting, socks_password, socks_request, take  # noqa: E402

DEADLINE_S = 20 + 10  # the handshake's total deadline, with room
HELLO = b"early bytes"


class HostileBed(ExitBed):
    """One scripted proxy per protocol; a case sets what it does. So the node needs no restart between cases."""

    def build(self):
        super().build()
        self.need_tun()
        self.act = {"socks5": None, "http": None}
        self.proxies = {s: scripted.Scripted(self.net.proxy, lambda c, x, s=s: self.act[s](c, x), port=p, scheme=s)
                        for s, p in (("socks5", 1070), ("http", 1071))}
        self._at = None

    def stand_behind(self, scheme, credentials):
        if self._at != (scheme, credentials):
            self.exit("--exit-breaker=false", "--exit-proxy", self.proxies[scheme].url(credentials))
            self._at = (scheme, credentials)
        return self.proxies[scheme]

    def one(self, script, scheme="socks5", credentials=None, within=5.0):
        """The script serves one connection; returns "refused", "reset", or the bytes that came until the end."""
        p = self.stand_behind(scheme, credentials)
        self.act[scheme] = script
        p.sessions.clear()
        start = time.monotonic()
        try:
            s, _ = self.connect(self.net.inet.web4, 80, timeout=within + 20)
        except ConnectionRefusedError:
            took = time.monotonic() - start
            expect(took < within, f"refused only after {took:.1f} s")
            return "refused"
        try:
            s.settimeout(10)
            got = b""
            while len(got) < len(HELLO) and (data := s.recv(4096)):
                got += data
            return got
        except ConnectionResetError:
            return "reset"
        finally:
            s.close()

    def each(self, scripts, want, scheme="socks5", credentials=None, within=5.0):
        """Runs named scripts; every one must end as wanted with one connection to the proxy, and nothing may leak."""
        wrong = []
        p = self.stand_behind(scheme, credentials)
        with self.oracle(p):
            for name, script in scripts.items():
                try:
                    got = self.one(script, scheme, credentials, within)
                except (Failure, OSError) as e:
                    got = f"{type(e).__name__} {e}"
                if got != want:
                    wrong.append(f"{name}: {got!r}")
                if len(p.sessions) != 1:
                    wrong += self.again(p, name, script, scheme, credentials, within)
            self.serves()
        expect(not wrong, "\n".join(wrong))
        return f"{len(scripts)} cases"

    def again(self, p, name, script, scheme, credentials, within):
        """More than one connection is a request repeated, or a name that the official client asked for meanwhile (its DNS goes by
        the same proxy, and a proxy that stays silent does not learn which of the two it is): only the former comes twice."""
        first_time = len(p.sessions)
        self.one(script, scheme, credentials, within)
        return [] if len(p.sessions) == 1 else [f"{name}: {first_time} connections to the proxy, then {len(p.sessions)}"]

    def serves(self):
        """The node still works: an honest answer goes through."""
        got = self.one(scripts_ok()["plain"] if self._at[0] == "socks5" else http_ok()["200"], *self._at)
        expect(got == HELLO, f"afterwards an honest proxy gave {got!r}")
        wait_until(lambda: self.egress()["Dialing"] == 0, "nothing left in flight", timeout=10)


def reply(data, pieces=None):
    """A script: an honest greeting, then this reply to the request (whole, or byte by byte), then early bytes and the end."""
    def script(conn, session):
        socks_greeting(conn, session)
        socks_request(conn, session)
        send(conn, data, pieces)
        take(conn, session, 1)
    return script


def send(conn, data, pieces=None):
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if pieces is None:
        conn.sendall(data)
        return
    at = 0
    for cut in list(pieces) + [len(data)]:
        conn.sendall(data[at:cut])
        at = cut
        time.sleep(0.005)


def first(data, then_close=True):
    """A script that answers the greeting with this."""
    def script(conn, session):
        take(conn, session, 3)
        conn.sendall(data)
        if not then_close:
            scripted.hang(conn, session)
    return script


def bnd(atyp, body):
    return b"\x05\x00\x00" + bytes([atyp]) + body + b"\x00\x50"


def scripts_ok():
    v6 = bytes(16)
    whole = {"plain": SUCCESS4, "BND IPv6": bnd(4, v6), "BND name": bnd(3, b"\x04gate"), "BND name of length 0": bnd(3, b"\x00"),
             "BND name of length 255": bnd(3, b"\xff" + b"n" * 255), "RSV not 0": b"\x05\x00\x77" + SUCCESS4[3:]}
    return {k: reply(v + HELLO) for k, v in whole.items()}


@case("40: BND of every address type, with early bytes in the same segment")
def bnd_types(b):
    return b.each(scripts_ok(), HELLO)


@case("40: a reply split at every byte boundary")
def split_reply(b):
    data = bnd(3, b"\x04gate") + HELLO
    scripts = {f"cut at {i}": reply(data, [i]) for i in range(1, len(data))}
    scripts["byte by byte"] = reply(data, range(1, len(data)))
    return b.each(scripts, HELLO)


@case("40: success with an unknown address type fails")
def bad_bnd(b):
    return b.each({f"ATYP {a}": reply(bnd(a, bytes(4))) for a in (0, 2, 5, 7, 255)}, "refused")


@case("39: every refusal code is a refusal")
def rep_codes(b):
    return b.each({f"REP {r}": reply(b"\x05" + bytes([r]) + SUCCESS4[2:]) for r in (1, 2, 3, 4, 5, 6, 7, 8, 9, 0x5b, 0xff)},
                  "refused")


@case("38: versions and methods that are wrong, or not offered")
def greetings(b):
    return b.each({"version 4": first(b"\x04\x00"), "version 0": first(b"\x00\x00"), "version 255": first(b"\xff\x00"),
                   "method 255": first(b"\x05\xff"), "method 1, not offered": first(b"\x05\x01"),
                   "method 2, not offered": first(b"\x05\x02"), "an HTTP server": first(b"HTTP/1.1 400 Bad Request\r\n\r\n")},
                  "refused")


def auth(answer, method=b"\x05\x02"):
    def script(conn, session):
        _, n = take(conn, session, 2)
        session.methods = take(conn, session, n)
        conn.sendall(method)
        socks_password(conn, session)
        conn.sendall(answer)
        scripted.hang(conn, session)
    return script


@case("38: with credentials: only method 2 is offered, a downgrade is refused, answers are checked")
def authentication(b):
    note = b.each({"downgrade to no authentication": first(b"\x05\x00"), "version 5 of the sub-negotiation": auth(b"\x05\x00"),
                   "version 0": auth(b"\x00\x00"), "status 1": auth(b"\x01\x01"), "status 255": auth(b"\x01\xff")},
                  "refused", credentials="ann:s3cret")
    p = b.proxies["socks5"]
    got = b.one(scripts_ok()["plain"], credentials="ann:s3cret")
    s = p.sessions[0]
    expect(got == HELLO and s.methods == b"\x02" and (s.user, s.password) == (b"ann", b"s3cret"), f"offered {s.methods!r}: {got!r}")
    return note


def drip(data, phase):
    """Sends the answer of a phase at one byte a second."""
    def slowly(conn, text):
        for i in range(len(text)):
            time.sleep(1)
            conn.sendall(text[i:i + 1])

    def script(conn, session):
        if phase == "greeting":
            take(conn, session, 3)
            slowly(conn, b"\x05" + bytes(200))
        socks_greeting(conn, session)
        socks_request(conn, session)
        slowly(conn, data)
    return script


@case("37: a slow drip ends at the total deadline", seconds=400)
def slow_drip(b):
    long_name = bnd(3, b"\xff" + b"n" * 255)
    note = b.each({"reply": drip(long_name, "reply"), "silent after the greeting": first(b"\x05\x00", then_close=False),
                   "silent from the start": scripted.hang}, "refused", within=DEADLINE_S)

    def head(conn, session):
        http_head(conn, session)
        for _ in range(200):
            conn.sendall(b"H")
            time.sleep(1)
    b.each({"http head": head, "http silent": scripted.hang}, "refused", scheme="http", within=DEADLINE_S)
    return note


def cut_after(n_phase, how):
    """Ends (FIN or RST) after the accept, the greeting's answer, the request, or half the reply."""
    def end(conn):
        if how == "RST":
            inet.close_with_rst(conn)

    def script(conn, session):
        if n_phase == 0:
            return end(conn)
        socks_greeting(conn, session)
        if n_phase == 1:
            return end(conn)
        socks_request(conn, session)
        if n_phase == 3:
            conn.sendall(SUCCESS4[:5])
        return end(conn)
    return script


@case("43: closes and resets in every phase")
def closes(b):
    scripts = {f"{how} in phase {n}": cut_after(n, how) for how in ("FIN", "RST") for n in range(4)}
    b.each(scripts, "refused")

    def http_close(conn, session):
        http_head(conn, session)

    def http_half(conn, session):
        http_head(conn, session)
        conn.sendall(b"HTTP/1.1 200 O")
    return b.each({"http: close": http_close, "http: half a head": http_half}, "refused", scheme="http")


def http(head, pieces=None, body=HELLO, ending=b"\r\n\r\n"):
    def script(conn, session):
        http_head(conn, session)
        send(conn, head.replace(b"\n", b"\r\n") + ending + body, pieces)
        take(conn, session, 1)
    return script


def http_ok():
    return {
        "200": http(b"HTTP/1.1 200 Connection established"), "HTTP/1.0": http(b"HTTP/1.0 200 OK"),
        "no reason": http(b"HTTP/1.1 200 "), "no reason and no space": http(b"HTTP/1.1 200"),
        "100, 103, 200": http(b"HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: </x>\n\nHTTP/1.1 200 OK"),
        "204 with lengths": http(b"HTTP/1.1 204 No Content\nContent-Length: 5\nTransfer-Encoding: chunked"),
        "299": http(b"HTTP/1.1 299 Whatever"),
    }


@case("41: legal answers to CONNECT, early bytes kept")
def http_legal(b):
    return b.each(http_ok(), HELLO, scheme="http")


@case("41: a head split at every byte boundary")
def http_split(b):
    text = b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n" + HELLO
    scripts = {f"cut at {i}": http(b"HTTP/1.1 200 OK\nVia: x", [i]) for i in range(1, len(text))}
    return b.each(scripts, HELLO, scheme="http")


@case("41: bare line feeds are accepted or fail at once")
def http_bare_lf(b):
    def script(conn, session):
        http_head(conn, session)
        conn.sendall(b"HTTP/1.1 200 OK\nVia: x\n\n" + HELLO)
        take(conn, session, 1)
    b.stand_behind("http", None)
    got = b.one(script, "http")
    expect(got in (HELLO, "refused"), f"got {got!r}")
    return "accepted" if got == HELLO else "refused"


def endless(first_bytes, more):
    def script(conn, session):
        http_head(conn, session)
        conn.sendall(first_bytes)
        for _ in range(200000):
            conn.sendall(more)
    return script


@case("42: answers to CONNECT that are refusals, garbage or endless", seconds=300)
def http_bad(b):
    bad = {
        "407": http(b"HTTP/1.1 407 Proxy Authentication Required\nProxy-Authenticate: Basic realm=\"x\""),
        "302 with Location": http(b"HTTP/1.1 302 Found\nLocation: http://45.45.45.45/"), "403": http(b"HTTP/1.1 403 Forbidden"),
        "500": http(b"HTTP/1.1 500 Oops"), "502": http(b"HTTP/1.1 502 Bad Gateway"), "199": http(b"HTTP/1.1 999 What"),
        "garbage with 200 in it": http(b"garbage 200 OK"), "status 2000": http(b"HTTP/1.1 2000 OK"),
        "status 20": http(b"HTTP/1.1 20 OK"), "not HTTP": http(b"SSH-2.0-OpenSSH 200 x"),
        "NUL, ESC and %n in the reason": http(b"HTTP/1.1 503 \x00\x1b[31m%n%s"),
        "no newline": endless(b"HTTP/1.1 200 ", b"x" * 4096), "endless headers": endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 64),
        "endless 1xx": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "a head of 1 MiB": http(b"HTTP/1.1 200 OK\nX: " + b"y" * (1 << 20)),
        "10,000 tiny headers": http(b"HTTP/1.1 200 OK" + b"\na:b" * 10000),
    }
    note = b.each(bad, "refused", scheme="http", credentials="ann:s3cret", within=DEADLINE_S)
    log = b.node.proc.text()
    expect("\x00" not in log and "\x1b" not in log, "raw control characters of the proxy's reason are in the log")
    return note


@case("a proxy that floods before success and after: memory stays bounded", seconds=120)
def flood(b):
    before = b.node.proc.rss_kib()

    def script(conn, session):
        socks_greeting(conn, session)
        socks_request(conn, session)
        conn.sendall(SUCCESS4)
        conn.settimeout(3)
        try:
            while True:
                conn.sendall(bytes(1 << 20))
        except TimeoutError:
            pass
    b.stand_behind("socks5", None)
    b.act["socks5"] = script
    s, _ = b.connect(b.net.inet.web4, 80)
    time.sleep(4)  # the client reads nothing
    grown = b.node.proc.rss_kib() - before
    s.close()
    b.serves()
    expect(grown < 64 << 10, f"{grown} KiB more memory for one flow that is not read")
    return f"{grown} KiB more"


if __name__ == "__main__":
    main("hostile", HostileBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
