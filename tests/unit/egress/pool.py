#!/usr/bin/env python3
"""Several proxies: which one serves whom, what happens when one fails, and what a change of the policy does to what is under
way. docs/ACCEPTANCE.md, tests 14-16, 26 and 36 at the level of the room; every case under the sniffer.

usage: pool.py DRIVE_EGRESS [WORD...]
"""
import collections
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from egressbed import DST, DST6, SOON_S, Bed, Driver, Failed, expect  # noqa: E402
from lib import sandbox, scripted  # noqa: E402
from lib.scripted import SUCCESS4, hang, http_head, socks_greeting, socks_password, socks_request, take  # noqa: E402

NAMES = "abc"


class Pool:
    """Three scripted SOCKS5 proxies a, b, c, and a driver with breakers."""

    def __init__(self, bed):
        self.bed = bed
        self.act = {}
        self.proxies = {}
        for i, n in enumerate(NAMES):
            self.start(n, 1100 + i)
        self.d = Driver(bed.node, bed.program, env={"DRIVE_BREAKER": "1"})
        self.ids = 0

    def start(self, name, port=None):
        port = port or self.proxies[name].port
        self.act[name] = serve
        self.proxies[name] = scripted.Scripted(self.bed.net, lambda c, x, n=name: self.act[n](c, x), port=port)

    def url(self, name, credentials=None):
        return self.proxies[name].url(credentials)

    def spec(self, *parts, how="keep", want="proxy"):
        got = self.d.ask(f"spec {how} | " + " | ".join(parts), "policy")
        expect(got.split()[1] == want, f"{parts}: {got}")

    def all(self, extra="", how="keep"):
        self.spec(*(f"proxy {n} {self.url(n)} {extra}" for n in NAMES), how=how)

    def clear(self):
        for p in self.proxies.values():
            p.sessions.clear()

    def dial(self, peer, dst=DST, name=""):
        """(what became of it, its number, the proxies that were asked)"""
        self.clear()
        self.ids += 1
        self.d.tell(f"dial {self.ids} {dst} read {peer} {name}".rstrip())
        words = self.d.expect(f"{self.ids} ").split(None, 1)[1]
        return words, self.ids, "".join(n for n in NAMES if self.proxies[n].sessions)

    def served_by(self, peer, **kw):
        words, number, asked = self.dial(peer, **kw)
        expect(words == "open", f"peer {peer}: {words}")
        self.d.ask(f"close {number}", f"{number} closed")
        return asked

    def states(self):
        out = {}
        for word in self.d.ask("proxies", "proxies").split()[1:]:
            name, rest = word.split("=")
            state, fail, flows, opened = rest.split("/")
            out[name] = (state, fail, int(flows), int(opened))
        return out

    def wait_state(self, name, state):
        until = time.monotonic() + SOON_S
        while self.states()[name][0] != state:
            expect(time.monotonic() < until, f"{name} is {self.states()[name]}, not {state}")
            time.sleep(0.05)

    def end(self):
        self.d.quit()
        for p in self.proxies.values():
            p.close()


def serve(conn, session):
    socks_greeting(conn, session)
    socks_request(conn, session)
    conn.sendall(SUCCESS4)
    scripted.echo(conn)


def wrong_password(conn, session):
    take(conn, session, 3)
    conn.sendall(b"\x05\x02")
    socks_password(conn, session)
    conn.sendall(b"\x01\x01")
    hang(conn, session)


def asked_then(what):
    def script(conn, session):
        socks_greeting(conn, session)
        socks_request(conn, session)
        what(conn, session)
    return script


def refuse(conn, session):
    conn.sendall(b"\x05\x05" + SUCCESS4[2:])


def garbage(conn, session):
    take(conn, session, 3)
    conn.sendall(b"HTTP/1.1 400\r\n\r\n")
    hang(conn, session)


def drop(conn, session):
    """The end of the script closes."""


CASES = []


def case(fn):
    CASES.append(fn)
    return fn


@case
def peers_stick_and_spread(p):
    p.all()
    first = {peer: p.served_by(peer) for peer in range(1, 61)}
    expect(all(len(v) == 1 for v in first.values()), "one proxy each")
    count = collections.Counter(first.values())
    expect(set(count) == set(NAMES) and min(count.values()) > 5, f"spread {count}")
    expect({peer: p.served_by(peer) for peer in range(1, 61)} == first, "the same the second time")
    p.spec(f"proxy a {p.url('a')} weight=8", f"proxy b {p.url('b')}")
    count = collections.Counter(p.served_by(peer) for peer in range(1, 91))
    expect(65 < count["a"] < 90, f"weight 8 to 1: {count}")
    return dict(count)


@case
def t15_failover_and_return(p):
    p.all()
    mine = {peer: p.served_by(peer) for peer in range(1, 31)}
    on_a = [peer for peer, n in mine.items() if n == "a"]
    p.proxies["a"].close()
    p.clear()
    for peer in on_a:
        expect(p.served_by(peer) in ("b", "c"), f"peer {peer} moves at once")
    expect(all(p.served_by(peer) == n for peer, n in mine.items() if n != "a"), "nobody else moves")
    expect(p.states()["a"][0] in ("down", "trying"), f"the breaker is open: {p.states()}")
    p.start("a")
    p.wait_state("a", "up")  # a probe finds out; no peer's dial has to
    expect({peer: p.served_by(peer) for peer in range(1, 31)} == mine, "and they return")
    for n in NAMES:
        p.proxies[n].close()
    outcomes = [p.dial(peer)[0] for peer in range(1, 20)]
    expect(set(outcomes) <= {"fail proxy_connect", "fail proxy_down"}, f"all down: {set(outcomes)}")
    expect("fail proxy_down" in outcomes, "in the end without asking anybody")
    for n in NAMES:
        p.start(n)
        p.wait_state(n, "up")


@case
def credentials_are_not_shown_around(p):
    for n in NAMES:
        p.act[n] = wrong_password
    p.spec(*(f"proxy {n} {p.url(n, 'user:hunter2')}" for n in NAMES))
    words, _, asked = p.dial(1)
    expect(words == "fail proxy_auth" and len(asked) == 1, f"{words}, asked {asked}")
    expect(p.states()[asked][:2] == ("down", "proxy_auth"), "its breaker is open at once")
    for peer in range(2, 30):
        p.dial(peer)
    p.clear()
    words, _, asked = p.dial(99)
    expect(words == "fail proxy_auth" and asked == "", f"all refused it: {words}, asked {asked!r}")
    expect("hunter2" not in p.d.words(), "the password in the log")


@case
def hostile_proxies_and_failover(p):
    """Whatever one does before it has said anything about the destination, another one serves; a verdict is final."""
    p.all()
    peer = next(i for i in range(1, 100) if p.served_by(i) == "a")
    for name, script in (("garbage", garbage), ("closes", drop), ("closes after the request", asked_then(drop)),
                         ("odd success", asked_then(lambda c, s: (c.sendall(b"\x05\x00\x00\x07" + bytes(6)), hang(c, s))))):
        p.all()
        p.act["a"] = script
        words, number, asked = p.dial(peer)
        expect(words == "open" and "a" in asked and len(asked) == 2, f"{name}: {words}, asked {asked}")
        p.d.ask(f"close {number}", f"{number} closed")
        p.act["a"] = serve
        p.served_by(peer)
    p.act["a"] = asked_then(refuse)
    words, _, asked = p.dial(peer)
    expect(words == "fail refused" and asked == "a", f"a verdict about the destination: {words}, asked {asked}")
    for n in NAMES:
        p.act[n] = asked_then(drop)
    for i in range(40):  # what destinations can cause takes no proxy from the others
        words, _, asked = p.dial(peer)
        expect(words == "fail proxy_closed" and len(asked) == 3, f"{words}, asked {asked}")
    expect(all(s[0] == "up" for s in p.states().values()), f"{p.states()}")
    for n in NAMES:
        p.act[n] = serve


@case
def t14_sessions_per_peer(p):
    def session_user(peer):
        words, number, asked = p.dial(peer)
        expect(words == "open", words)
        p.d.ask(f"close {number}", f"{number} closed")
        return p.proxies[asked].sessions[0].user.decode()
    p.spec(f"proxy a {p.url('a', 'cust-{peer}-e{epoch}:pw')}")
    one, two = session_user(1), session_user(2)
    expect(one != two and one == session_user(1) and two == session_user(2), f"{one} {two}")
    p.d.ask("rotate 1", "rotated 0")
    new = session_user(1)
    expect(new != one and new.endswith("-e1") and session_user(2) == two, "one peer's changes")
    for peer in (1, 2):
        p.d.ask(f"forget {peer}", "forgotten")
    expect(session_user(1) == new and session_user(2) == two, "the session that was given up is back with the peer")
    p.d.ask("rotate 0", "rotated 0")
    expect(session_user(1) != new and session_user(2) != two, "everybody's changes")
    words = p.d.words()
    expect(one not in words and "cust-" not in words and "pw@" not in words, "sessions in the log")
    p.spec(f"proxy a {p.url('a', 'cust-{user}:pw')}")
    expect(session_user(1) == session_user(11) != session_user(2), "a user's devices share one")


@case
def rules_by_destination_and_source(p):
    p.spec(f"proxy a {p.url('a')}", f"proxy b {p.url('b')} group=g", f"proxy c {p.url('c')} group=g", "rule port=25 use=block",
           "rule from=tag:t7 use=a", "rule domain=example.com use=g", "rule address=45.45.45.45 from=u8@test use=b")
    expect(p.dial(7, dst="45.45.45.45:25")[::2] == ("fail rule", ""), "port 25")
    expect(p.served_by(7) == "a" and p.served_by(8) == "b", "by tag and by user")
    expect(p.served_by(9, name="www.example.com") in "bc", "by name")
    for kw in ({}, {"name": "example.org"}, {"name": "notexample.com"}):
        expect(p.dial(9, **kw)[::2] == ("fail rule", ""), f"no rule matches {kw}: refused")
    expect(p.d.stats()["failed rule"] == 4, "counted")


@case
def names_for_those_who_take_them(p):
    p.spec(f"proxy a {p.url('a')} names")
    for name, want in (("www.example.com", "www.example.com"), ("", "45.45.45.45"), ("a b", "45.45.45.45"), ("x" * 254, "45.45.45.45"),
                       ("..", "45.45.45.45")):
        p.served_by(1, name=name)
        expect(p.proxies["a"].sessions[0].target == (want, 80), f"{name!r}: {p.proxies['a'].sessions[0].target}")
    p.spec(f"proxy a {p.url('a')}")
    p.served_by(1, name="www.example.com")
    expect(p.proxies["a"].sessions[0].target == ("45.45.45.45", 80), "not told")


@case
def a_proxy_without_ipv6_is_known(p):
    def four_alone(conn, session):
        socks_greeting(conn, session)
        socks_request(conn, session)
        conn.sendall(b"\5\10\0\1" + bytes(6) if ":" in session.target[0] else SUCCESS4)
    p.act["a"] = four_alone
    try:
        p.spec(f"proxy a {p.url('a')}")
        expect(p.d.ask("has 1", "has") == "has ipv6=1 udp=0", "nobody knows yet")
        expect(p.dial(1, dst=DST6)[0] == "fail proxy_refused", "IPv6")
        expect(p.d.ask("has 1", "has") == "has ipv6=0 udp=0", "it said so")
        p.served_by(1)
        expect(p.d.ask("has 1", "has") == "has ipv6=0 udp=0", "IPv4 proves nothing")
        p.spec(f"proxy a {p.url('a')}", f"proxy b {p.url('b')}")
        expect(p.d.ask("has 1", "has") == "has ipv6=1 udp=0", "the other may")
        p.spec(f"proxy a {p.url('a')}", f"proxy b {p.url('b')}", "rule from=tag:t7 use=a", "rule use=b")
        for peer, has in ((7, 0), (8, 1)):
            expect(p.d.ask(f"has {peer}", "has") == f"has ipv6={has} udp=0", f"by the rules of {peer}")
        p.act["a"] = serve
        p.spec(f"proxy a {p.url('a')}")
        p.served_by(7, dst=DST6)
        expect(p.d.ask("has 7", "has") == "has ipv6=1 udp=0", "it learned it")
    finally:
        p.act["a"] = serve


@case
def flows_per_proxy(p):
    p.spec(*(f"proxy {n} {p.url(n)} max=2" for n in NAMES))
    numbers = []
    for i in range(6):
        words, number, _ = p.dial(1)
        expect(words == "open", words)
        numbers.append(number)
    expect([s[2] for s in p.states().values()] == [2, 2, 2], f"{p.states()}")
    expect(p.dial(1)[0] == "fail limit", "all full")
    for n in numbers:
        p.d.ask(f"close {n}", f"{n} closed")
    expect([s[2] for s in p.states().values()] == [0, 0, 0], f"{p.states()}")


@case
def a_probe_without_room_is_not_repeated_at_once(p):
    """A proxy that is down, with as many flows as it may have: its probe ends as it begins, and everybody else goes on."""
    try:
        p.spec(f"proxy b {p.url('b')}")
        words, number, _ = p.dial(1)
        expect(words == "open", words)
        p.act["b"] = drop
        for _ in range(3):
            expect(p.dial(1)[0] == "fail proxy_closed", "it is down")
        p.spec(f"proxy b {p.url('b')} max=1")
        until = time.monotonic() + 3.5  # its trial is due after one second
        while time.monotonic() < until:
            expect(p.states()["b"][2] == 1, "the driver lives")
            time.sleep(0.1)
        p.d.ask(f"close {number}", f"{number} closed")
        p.act["b"] = serve
        p.wait_state("b", "up")
    finally:
        p.act["b"] = serve


@case
def usable_is_what_the_breakers_say(p):
    """Without breakers nothing is known to be down: what nobody probes would stay so."""
    for breaker, want in (("1", "usable 0"), ("", "usable 1")):
        p.d.quit()
        p.d = Driver(p.bed.node, p.bed.program, env={"DRIVE_BREAKER": breaker} if breaker else None)
        p.spec(f"proxy a {p.url('a')}")
        expect(p.d.ask("usable", "usable") == "usable 1", "nothing is known yet")
        p.act["a"] = drop
        for _ in range(3):
            expect(p.dial(1)[0] == "fail proxy_closed", "it is down")
        expect(p.d.ask("usable", "usable") == want, f"breaker {breaker!r}")
        p.act["a"] = serve
    p.d.ask("policy off", "policy")
    expect(p.d.ask("usable", "usable") == "usable 0", "off")


@case
def a_silent_proxy_costs_its_peers_little(p):
    """Nobody answers the SYN: the others are asked after 3 s, and after three of those nobody waits."""
    p.spec("proxy z socks5://46.9.9.9:1080 weight=64", f"proxy a {p.url('a')}")
    peers = [i for i in range(1, 40)][:12]
    began = time.monotonic()
    for n, peer in enumerate(peers):
        p.ids += 1
        p.d.tell(f"dial {p.ids} {DST} read {peer}")
    first = p.ids - len(peers) + 1
    for i in range(first, p.ids + 1):
        expect(p.d.expect(f"{i} ").endswith("open"), "served")
    took = time.monotonic() - began
    expect(took < 9, f"{took:.1f} s")
    began = time.monotonic()
    for peer in peers:
        expect(p.served_by(peer) == "a", "by the one that works")
    for i in range(first, first + len(peers)):
        p.d.ask(f"close {i}", f"{i} closed")
    p.bed.sniffer.leaks()  # the silent proxy's address is none that the sniffer knows
    return f"first {took:.1f} s"


@case
def t16_swap_under_flows(p):
    p.spec(f"proxy a {p.url('a')}")
    numbers = []
    for i in range(400):
        p.ids += 1
        numbers.append(p.ids)
        p.d.tell(f"dial {p.ids} {DST} read {i % 20 + 1}")
    for n in numbers:
        expect(p.d.expect(f"{n} ").endswith("open"), "open")
    for parts in ([f"proxy a {p.url('b')}"], [f"proxy a {p.url('a', 'u:p')}"], ["proxy a nonsense"]):
        bad = parts[0].endswith("nonsense")
        p.spec(*parts, want="bad:" if bad else "proxy")
        expect(p.d.stats()["flows"] == 400, "a reload takes no flow")
    expect(p.dial(1)[0] == "fail off", "invalid is off")
    for n in numbers:
        p.d.ask(f"write {n} 10", f"{n} wrote 10")
        p.d.ask(f"shut {n}", f"{n} shut OK")
    for n in numbers:
        expect(p.d.expect(f"{n} end").split()[2:4] == ["eof", "10"], "all bytes came back over the old proxy")
        p.d.ask(f"close {n}", f"{n} closed")


@case
def cut_ends_what_has_no_place(p):
    p.spec(f"proxy a {p.url('a')}", f"proxy b {p.url('b')}")
    held = {}
    for peer in range(1, 20):
        words, number, asked = p.dial(peer)
        held[number] = asked
    p.spec(f"proxy a {p.url('a')}", how="cut")
    for number, by in held.items():
        if by == "b":
            got = p.d.expect(f"{number} ")
            expect(got in (f"{number} error RESET",), f"cut: {got}")
    expect(p.states()["a"][2] == sum(by == "a" for by in held.values()), "those of the proxy that stays go on")
    for number in held:
        p.d.ask(f"close {number}", f"{number} closed")


@case
def dials_begin_anew_under_a_new_policy(p):
    p.spec(f"proxy a {p.url('a')}")
    p.act["a"] = hang
    p.clear()
    p.ids += 1
    p.d.tell(f"dial {p.ids} {DST} read 1")
    until = time.monotonic() + SOON_S
    while not p.proxies["a"].sessions and time.monotonic() < until:
        time.sleep(0.01)
    p.spec(f"proxy b {p.url('b')}")
    expect(p.d.expect(f"{p.ids} ") == f"{p.ids} open" and p.proxies["b"].sessions, "by the new proxy")
    p.d.ask(f"close {p.ids}", f"{p.ids} closed")
    p.act["a"] = serve


@case
def a_probe_may_outlive_its_policy(p):
    """The proxy it asks is of no policy any more when it learns that the proxy is dead, alive, or ours to leave."""
    for end in ("dies", "answers", "stays"):
        p.spec(f"proxy a {p.url('a')}", f"proxy b {p.url('b')}")
        p.act["a"] = drop
        until, peer = time.monotonic() + SOON_S, 1
        while "a" not in p.dial(peer)[2]:  # the probe of the last round may still be ending, and a be down for it
            expect(time.monotonic() < until, "nobody is served by a")
            peer = peer % 50 + 1
        until = time.monotonic() + SOON_S
        while p.states()["a"][0] != "down":
            expect(time.monotonic() < until, "the breaker never opens")
            p.dial(peer)
        go = threading.Event()

        def probed(conn, session):
            go.wait(SOON_S)
            if end == "answers":
                socks_greeting(conn, session)
        p.act["a"] = probed
        p.clear()
        while not p.proxies["a"].sessions:
            expect(time.monotonic() < until, "no probe")
            time.sleep(0.02)
        p.spec(f"proxy b {p.url('b')}")
        p.spec(f"proxy c {p.url('c')}")
        if end != "stays":
            go.set()
        p.served_by(1)
        for number in range(1, p.ids + 1):
            p.d.tell(f"close {number}")
        p.d.stats()
        p.d.seen.clear()
    go.set()


def settled(p, name, want):
    """So many dials have come to the proxy, and it stays so for a while."""
    until = time.monotonic() + SOON_S
    while len(p.proxies[name].sessions) < want:
        expect(time.monotonic() < until, f"{len(p.proxies[name].sessions)} dials at the proxy, not {want}")
        time.sleep(0.02)
    p.d.stats()
    time.sleep(0.3)
    expect(len(p.proxies[name].sessions) == want, f"{len(p.proxies[name].sessions)} dials at the proxy, not {want}")


@case
def a_peer_waits_in_line(p):
    """A peer asks a proxy for 512 destinations at a time; more wait without a socket, and nobody behind them."""
    at_once, more = 512, 112

    def script(conn, session):
        socks_greeting(conn, session)
        if socks_request(conn, session)[1] == 81:
            hang(conn, session)
        conn.sendall(SUCCESS4)
        scripted.echo(conn)
    p.act["a"] = p.act["b"] = script
    p.spec(f"proxy a {p.url('a')}")
    slow = DST.rsplit(":", 1)[0] + ":81"
    p.clear()
    first, total = p.ids + 1, at_once + more
    for i in range(first, first + total):
        p.d.tell(f"dial {i} {slow} read 1")
    p.ids += total
    settled(p, "a", at_once)
    expect(p.d.stats()["dials"] == total, f"{p.d.stats()}")
    expect(p.served_by(2) == "a", "another peer's dial passes by")
    p.clear()
    for i in range(first + total - 10, first + total):  # who waits may leave: nobody hears of it
        p.d.ask(f"close {i}", f"{i} closed")
    for i in range(first, first + 50):  # who leaves the proxy makes room for one
        p.d.ask(f"close {i}", f"{i} closed")
    settled(p, "a", 50)
    p.clear()
    p.spec(f"proxy b {p.url('b')}")  # another policy: those before a proxy begin anew, the others keep their places
    settled(p, "b", at_once)
    for i in range(first + 50, first + 70):
        p.d.ask(f"close {i}", f"{i} closed")
    settled(p, "b", at_once + 20)
    expect(not p.proxies["a"].sessions, "nothing more at the old one")
    p.d.ask("policy off", "policy")
    left = range(first + 70, first + total - 10)
    outcomes = collections.Counter(p.d.expect(f"{i} ").split(None, 1)[1] for i in left)
    expect(outcomes == {"fail canceled": len(left)}, f"{outcomes}")
    p.all()
    p.act["a"] = p.act["b"] = serve
    for peer in (1, 2):
        p.served_by(peer)
    return f"{total} dials"


def short(p, connect_ms, handshake_ms):
    """The same pool, with less patience."""
    p.d.quit()
    p.d = Driver(p.bed.node, p.bed.program, connect_ms=connect_ms, handshake_ms=handshake_ms, env={"DRIVE_BREAKER": "1"})


def far(delay_s):
    """A healthy proxy some way off, whose destinations at port 81 never answer."""
    def script(conn, session):
        time.sleep(delay_s)
        socks_greeting(conn, session)
        if socks_request(conn, session)[1] == 81:
            hang(conn, session)
        conn.sendall(SUCCESS4)
        scripted.echo(conn)
    return script


@case
def the_end_of_a_line_is_no_failure(p):
    """Who waited in line nearly all of a dial's time has what is left of it for the proxy, and that is not held against it."""
    short(p, 600, 5000)
    p.act["a"] = far(0.9)  # longer than what the line leaves
    p.spec(f"proxy a {p.url('a')}")
    slow = DST.rsplit(":", 1)[0] + ":81"
    ids = range(p.ids + 1, p.ids + 1 + 512 + 20)
    p.ids += len(ids)
    for i in ids:
        p.d.tell(f"dial {i} {slow} read 1")
    began = time.monotonic()
    outcomes = collections.Counter(p.d.expect(f"{i} ").split(None, 1)[1] for i in ids)
    took = time.monotonic() - began
    expect(set(outcomes) <= {"fail proxy_timeout", "fail limit"} and outcomes["fail proxy_timeout"] >= 512, f"{outcomes}")
    expect(took < 10, f"one deadline over line and proxy, 5.6 s: {took:.1f} s")
    expect(p.states()["a"][0] == "up", f"one peer's line is not what opens a breaker: {p.states()}")
    expect(p.served_by(2) == "a", "another peer's")
    return f"{took:.1f} s"


@case
def a_dial_without_time_left_is_no_failure(p):
    """Dials that a new policy gives to another proxy when their time is nearly over: not that proxy's fault."""
    short(p, 300, 2000)
    p.act["a"], p.act["b"] = far(0), far(0.8)
    p.spec(f"proxy a {p.url('a')}")
    ids = range(p.ids + 1, p.ids + 11)
    p.ids += len(ids)
    for i in ids:
        p.d.tell(f"dial {i} {DST.rsplit(':', 1)[0]}:81 read 1")
    settled(p, "a", len(ids))
    time.sleep(1.4)
    p.spec(f"proxy b {p.url('b')}")
    outcomes = collections.Counter(p.d.expect(f"{i} ").split(None, 1)[1] for i in ids)
    expect(outcomes == {"fail proxy_timeout": len(ids)}, f"{outcomes}")
    expect(p.states()["b"][0] == "untried", f"{p.states()}")
    expect(p.served_by(2) == "b", "its next dial")


def http(options, connect=b"HTTP/1.1 200 OK\r\n\r\n"):
    """An HTTP proxy that says these, and to a destination at port 81 nothing. None: nothing at all."""
    def script(conn, session):
        target = http_head(conn, session)
        answer = options if target.startswith("OPTIONS") else None if ":81 " in target else connect
        if answer is None:
            hang(conn, session)
            return
        conn.sendall(answer)
        if target.startswith("CONNECT"):
            scripted.echo(conn)
    return script


@case
def a_silent_http_proxy_is_told_from_a_silent_destination(p):
    """To a CONNECT either may be silent: the proxy is asked for itself, and no destination is named."""
    short(p, 300, 500)
    url, slow = p.url("a").replace("socks5", "http"), DST.rsplit(":", 1)[0] + ":81"
    alive = b"HTTP/1.1 501 Not Implemented\r\n\r\n"
    for options in (alive, b""):  # some know no OPTIONS and hang up
        p.act["a"] = http(options)
        p.spec(f"proxy a {url}")
        probes, dials, until = 0, 0, time.monotonic() + SOON_S
        while dials < 4 or not probes:  # a dial that began before the last probe's answer raises no doubt
            expect(p.dial(1, dst=slow)[0] == "fail proxy_timeout", "the destination is silent")
            dials += 1
            probes += any(s.raw.startswith(b"OPTIONS * ") for s in p.proxies["a"].sessions)
            expect(time.monotonic() < until, f"no probe in {dials} dials")
        expect(p.states()["a"][0] == "up", f"the proxy is not: {p.states()}")
        expect(p.served_by(2) == "a", "others go on")
    p.act["a"] = http(None, None)
    expect(p.dial(1)[0] == "fail proxy_timeout", "the proxy is silent")
    p.wait_state("a", "down")
    raw = [s.raw for s in p.proxies["a"].sessions]
    expect(len(raw) == 4 and all(x.startswith(b"OPTIONS * ") for x in raw[1:]), f"one dial, three probes: {raw}")
    expect(p.dial(3)[0] == "fail proxy_down", "nobody waits for it any more")
    p.act["a"] = http(alive)
    p.wait_state("a", "up")
    p.act["a"] = http(b"HTTP/1.1 407 No\r\n\r\n", None)
    expect(p.dial(1)[0] == "fail proxy_timeout", "silent again")
    p.wait_state("a", "down")
    expect(p.states()["a"][1] == "proxy_auth", f"by its answer to the probe: {p.states()}")


def relaying(conn, session):
    """UDP ASSOCIATE, answered by an echo; CONNECT that never ends."""
    socks_greeting(conn, session)
    if take(conn, session, 10)[1] != 3:
        hang(conn, session)
    sock = relaying.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("46.1.1.1", 0))
    conn.sendall(b"\x05\0\0\x01" + socket.inet_aton("46.1.1.1") + sock.getsockname()[1].to_bytes(2, "big"))

    def echo():
        while True:
            data, who = sock.recvfrom(2048)
            sock.sendto(data, who)
    threading.Thread(target=echo, daemon=True).start()
    hang(conn, session)


def relayed(p, number, peer):
    p.d.tell(f"udp {number} 45.45.45.45:443 {peer}")
    words = p.d.expect(f"udp {number} ")
    return p.d.expect(f"udp {number} ").split(None, 2)[2] if words.endswith("sent") else words.split(None, 2)[2]


@case
def a_peer_at_its_limit_has_its_datagrams_refused_alone(p):
    p.d.quit()
    p.d = Driver(p.bed.node, p.bed.program, 0, 0, 0, 2, env={"DRIVE_BREAKER": "1"})  # two dials for a peer
    relaying.ns, p.act["a"] = p.bed.net, relaying
    p.spec(f"proxy a {p.url('a')}")
    p.d.ask("proxyudp 1", "proxyudp")
    p.ids += 2
    for i in (p.ids - 1, p.ids):
        p.d.tell(f"dial {i} {DST} read 1")
    expect(relayed(p, 1, 1) == "fail limit", "the peer has its dials under way")
    expect(relayed(p, 2, 2) == "got 5", "another peer's")
    expect(p.d.ask("has 2", "has") == "has ipv6=1 udp=1", "and it is told so")
    for i in (p.ids - 1, p.ids):
        p.d.ask(f"close {i}", f"{i} closed")
    p.d.ask("policy off", "policy")


def settled_relay(p, want):
    end = time.monotonic() + 10
    while p.d.ask("relay", "relay") != f"relay {want}":
        expect(time.monotonic() < end, f"{p.d.ask('relay', 'relay')}, not {want}")
        time.sleep(0.02)


@case
def a_proxy_without_datagrams_takes_them_from_its_own_peers(p):
    def refusing(conn, session):
        socks_greeting(conn, session)
        take(conn, session, 10)
        conn.sendall(b"\x05\x07\0\x01" + bytes(6))
    relaying.ns = p.bed.net
    p.act["a"], p.act["b"] = refusing, relaying
    p.spec(f"proxy a {p.url('a')}", f"proxy b {p.url('b')}", "rule from=tag:t1 use=a", "rule use=b")
    expect(p.d.ask("relay", "relay") == "relay 0", "nobody has asked them")
    p.d.ask("proxyudp 1", "proxyudp")
    expect(relayed(p, 4, 2) == "got 5", "a proxy that does it")
    expect(relayed(p, 1, 1) in ("end proxy_refused", "fail off"), "by a proxy that does none (the probe may know it already)")
    expect(relayed(p, 2, 1) == "fail off", "and known now")
    expect(p.d.ask("relay", "relay") == "relay 1", "the other still does, whoever spoke last")
    expect(relayed(p, 3, 2) == "got 5", "by the other one")
    expect(p.d.ask("has 1", "has").endswith("udp=0") and p.d.ask("has 2", "has").endswith("udp=1"), "and told so")
    p.spec(f"proxy a {p.url('a')}")
    settled_relay(p, 2)
    p.spec("proxy a " + p.url("a").replace("socks5", "http"))
    expect(p.d.ask("relay", "relay") == "relay 0", "one that could not")
    p.d.ask("policy off", "policy")
    expect(p.d.ask("relay", "relay") == "relay 0", "and none")


@case
def proxies_that_fail_at_once(p):
    """No route to any of them: nothing of one attempt is left when the next one begins (the leak checker looks)."""
    p.bed.node.ip("route", "replace", "unreachable", "47.0.0.0/8")
    p.spec("proxy a socks5://47.0.0.1:1", "proxy b socks5://47.0.0.2:1", "proxy c socks5://47.0.0.3:1")
    for peer in (1, 2, 3):
        words, _, _ = p.dial(peer)
        expect(words in ("fail proxy_connect", "fail proxy_down"), words)


@case
def what_is_missing_here_is_no_proxys_fault(p):
    """An address to come from that this host lacks has a reason of its own; with all local ports taken a proxy is not down."""
    p.spec(f"proxy a {p.url('a')} bind=46.1.1.200")
    words, _, asked = p.dial(1)
    expect(words in ("fail proxy_bind", "fail proxy_down") and not asked, f"{words} {asked}")
    expect(p.states()["a"][1] == "proxy_bind", f"{p.states()}")
    with open("/etc/hosts", "w", encoding="ascii") as f:  # at its IPv6 address, which has ports of its own, nobody listens
        f.write(f"127.0.0.1 localhost\n{p.bed.net.ip4} two.test\n{p.bed.net.ip6} two.test\n")
    p.spec(f"proxy a socks5://two.test:{p.proxies['a'].port}")
    ports = p.bed.node.run("sysctl", "-n", "net.ipv4.ip_local_port_range").stdout.strip()
    p.bed.node.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40001")
    try:
        outcomes, numbers = [], []
        for _ in range(12):  # more than ports, and than a breaker bears
            words, number, _ = p.dial(1)
            outcomes.append(words)
            numbers.append(number)
        expect(set(outcomes) == {"open", "fail ports"}, f"{outcomes}")
        expect(p.states()["a"][0] == "up", f"{p.states()}")
        p.spec(f"proxy a socks5://two.test:{p.proxies['a'].port} weight=64", f"proxy b {p.url('b')}")
        expect(p.served_by(1) + p.served_by(1) == "bb", "another one has ports of its own")
        for number in numbers:
            p.d.tell(f"close {number}")
    finally:
        p.bed.node.run("sysctl", "-qw", f"net.ipv4.ip_local_port_range={ports}")


@case
def t36_reload_storm(p):
    """A, B and nonsense, a hundred times a second, while peers dial: each dial has an answer, nothing leaves directly."""
    stop = threading.Event()
    specs = [f"spec keep | proxy a {p.url('a')}", f"spec keep | proxy b {p.url('b')} | proxy c {p.url('c')} | rule use=c",
             "spec keep | proxy a nonsense", f"spec cut | proxy b {p.url('b')}", "spec keep | proxy a socks5://46.1.1.1:9"]
    dialed, lock = [], threading.Lock()

    def storm():
        i = 0
        while not stop.is_set():
            with lock:
                p.d.tell(specs[i % len(specs)])
            i += 1
            time.sleep(0.01)
        dialed.append(i)
    t = threading.Thread(target=storm)
    t.start()
    first = p.ids + 1
    for _ in range(600):
        p.ids += 1
        with lock:
            p.d.tell(f"dial {p.ids} {DST} read {p.ids % 7 + 1}")
        time.sleep(0.004)
    stop.set()
    t.join()
    outcomes = collections.Counter(p.d.expect(f"{i} ").split(None, 1)[1] for i in range(first, p.ids + 1))
    known = {"open", "fail off", "fail proxy_connect", "fail proxy_down", "fail canceled"}  # how many of each is the machine's business
    expect(set(outcomes) <= known, f"{outcomes}")
    for i in range(first, p.ids + 1):
        p.d.tell(f"close {i}")
    expect(p.d.stats()["dials"] == 0, "nothing in flight")
    p.d.seen.clear()
    p.all()
    p.served_by(1)
    return f"{dialed[0]} reloads; {dict(outcomes)}"


def main():
    sandbox.enter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(os.path.abspath(sys.argv[1]), folder)
        for fn in [f for f in CASES if not sys.argv[2:] or any(o in f.__name__ for o in sys.argv[2:])]:
            began = time.monotonic()
            p = Pool(bed)
            try:
                note = fn(p)
                leaks = bed.sniffer.leaks()
                expect(not leaks, f"packets left the node: {leaks[:5]}")
                after = p.d.stats()
                expect(not after["flows"] and not after["dials"], f"left behind: {after}")
                print(f"ok   {fn.__name__} ({time.monotonic() - began:.1f} s){': ' + str(note) if note else ''}", flush=True)
            except Failed as e:
                failed += 1
                print(f"FAIL {fn.__name__}: {e}", flush=True)
            try:
                p.end()
            except (Failed, OSError) as e:
                failed += 1
                print(f"FAIL {fn.__name__}, its end: {e}\n{p.d.words()[-3000:]}", flush=True)
        bed.d.quit()
    print(f"{failed} failed")
    sys.stdout.flush()
    os._exit(1 if failed else 0)


main()
