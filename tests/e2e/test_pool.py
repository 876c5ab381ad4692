#!/usr/bin/env python3
"""Several proxies and one that speaks TLS behind the real node, official clients in front, settings that change while flows are
under way: docs/ACCEPTANCE.md, tests 14-16, 26 and 36, the operator's commands, and the node's own address as a
destination. Each under the leak oracle."""
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import official, proxies, scripted  # noqa: E402
from lib.case import Skip, case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.inet import ECHO, blob_sha256  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402
from lib.scripted import http_head, socks_greeting, socks_request  # noqa: E402

SIZE = 16 << 20


def two(b):
    return proxies.Microsocks(b.sup, b.net.proxy, b.dir), proxies.Dante(b.sup, b.net.proxy, b.dir)


def write(b, text, name="tailnet.conf"):
    """As an editor does it: a new file in place of the old one."""
    path = os.path.join(b.dir, name)
    with open(path + ".new", "w", encoding="ascii") as f:
        f.write(text)
    os.rename(path + ".new", path)
    return path


def states(b):
    return {p["Name"]: p for p in json.loads(b.node.cli("egress", "status", "--json"))["Proxies"]}


def wait_state(b, name, state):
    wait_until(lambda: states(b)[name]["State"] == state, f"{name} is {state}", timeout=45)


def pages(b, n):
    for _ in range(n):
        b.expect_through(b.pool)


class Both:
    """What expect_through wants of a proxy, for those of one namespace."""

    def __init__(self, ns):
        self.ns = ns

    def sources(self):
        return {self.ns.ip4, self.ns.ip6}


@case("15: a pool from a configuration file: one dies, nobody notices; it returns; all dead: refused at once", seconds=240)
def pool(b):
    a, d = two(b)
    b.pool = Both(b.net.proxy)
    path = write(b, f"[proxy a]\nurl = {a.url()}\nweight = 64\n\n[proxy d]\nurl = {d.url()}\n")
    try:
        b.exit("--config", path)
        with b.oracle(a, d):
            pages(b, 5)
            expect(states(b)["a"]["Opened"] >= 5, f"the heavier one serves this client: {states(b)}")
            a.stop()
            pages(b, 10)
            expect(states(b)["d"]["Opened"] >= 10, "the other one serves")
            text = b.node.cli("egress", "status")
            expect("down" in text or "trying" in text, text)
            a.start()
            wait_state(b, "a", "up")
            before = states(b)["a"]["Opened"]
            pages(b, 3)
            expect(states(b)["a"]["Opened"] >= before + 3, "it returns to its own")
            a.stop()
            d.stop()
            began = time.monotonic()
            for _ in range(6):
                b.expect_no_page()
            expect(time.monotonic() - began < 20, "refused at once")
            expect(not b.egress()["ProxyHealthy"], "health says so")
    finally:
        a.stop()
        d.stop()


@case("14: peers have sessions of their own at the proxy; rotating one changes one; names tell nothing")
def sessions(b):
    b.need_tun()
    heard = scripted.Scripted(b.net.proxy, scripted.honest(b.net.proxy), port=1087)
    try:
        b.exit("--verbose", "--exit-proxy", heard.url("cust-{peer}-{epoch}:secret9"))

        def user(fetch):
            heard.sessions.clear()
            fetch()
            return {s.user.decode() for s in heard.sessions if s.target and s.target[1] == 80}
        def by_socks():
            b.fetch(f"http://{b.net.inet.web4}/ip")

        def by_tun():
            s, _ = b.connect(b.net.inet.web4, 80)
            s.close()
        with b.oracle(heard):
            one, other = user(by_socks), user(by_tun)
            expect(len(one) == len(other) == 1 and one != other, f"{one} {other}")
            expect(one == user(by_socks) and other == user(by_tun), "they last")
            b.node.cli("egress", "rotate", "client")
            expect(user(by_socks) != one and user(by_tun) == other, "one was rotated")
            expect(b.node.try_cli("egress", "rotate", "nobody").returncode == 1, "a peer that is not there")
            b.node.cli("egress", "rotate")
            expect(user(by_tun) != other, "all were rotated")
            rotated = user(by_socks), user(by_tun)
            b.stop_node()
            b.node.start()
            b.settle()
            expect((user(by_socks), user(by_tun)) == rotated, "another start, other sessions")
        told = "".join(one | other)
        expect("client" not in told and "100." not in told, told)
        words = b.node.proc.text() + b.node.cli("egress", "status", "--json") + b.node.cli("status", "--json")
        expect("cust-" not in words and "secret9" not in words and next(iter(one)) not in words, "sessions can be read")
    finally:
        heard.close()


@case("TLS to an HTTP proxy: squid's https_port, verified by authority or pin; a wrong certificate is refused", seconds=240)
def tls_proxy(b):
    if not proxies.have("squid"):
        raise Skip("squid is not installed")
    p = proxies.SquidTls(b.sup, b.net.proxy, b.dir, credentials="user7:pw7")
    bundle = os.path.join(b.dir, "bundle.pem")
    with open(bundle, "w", encoding="ascii") as f:
        for cert in (b.doh.cert, p.cert):
            f.write(open(cert, encoding="ascii").read())
    doh = b.doh.cert
    try:
        b.doh.cert = bundle  # what the bed gives the node as SSL_CERT_FILE
        b.exit(proxy=p)
        with b.oracle(p):
            digest, size, seconds = b.client.download(f"http://{b.net.inet.web4}/blob/{SIZE}")
            expect(size == SIZE and digest == blob_sha256(SIZE), "the download")
            data = os.urandom(4 << 20)
            path = os.path.join(b.dir, "up-tls")
            with open(path, "wb") as f:
                f.write(data)
            got = b.fetch(f"http://{b.net.inet.web4}/upload", "-H", "Expect:", "--data-binary", f"@{path}")
            expect(got == official.sha256(data), "the upload")
            b.expect_through(p)
            expect(b.fetch("http://web.example/ip") in p.sources(), "by name, DNS over TLS over TLS")
        expect("https://" in b.egress()["Description"], b.egress()["Description"])
        b.doh.cert = doh  # an authority that did not sign it
        b.exit(proxy=p)
        with b.oracle(p):
            b.expect_no_page()
        expect(b.egress()["Failed"].get("proxy_tls", 0) > 0, f"{b.egress()}")
        conf = f"[proxy s]\nurl = {p.url()}\npin = "
        b.exit("--config", write(b, conf + p.pin() + "\n"))
        with b.oracle(p):
            b.expect_through(p)
            write(b, conf + "sha256:" + "00" * 32 + "\n")
            wait_until(lambda: b.client.curl(f"http://{b.net.inet.web4}/ip")[0] != 0, "another pin is refused")
        return f"{size / seconds / 1e6:.1f} MB/s"
    finally:
        b.doh.cert = doh
        p.stop()


HELLO = b"early bytes"


def in_tls(context, script):
    def run(conn, session):
        with context.wrap_socket(conn, server_side=True, suppress_ragged_eofs=False) as tls:
            tls.settimeout(60)
            script(tls, session)
    return run


def answers(data, pieces=False, orderly=True):
    """An answer to CONNECT, whole or a byte in each TLS record; then TLS's own end, or only TCP's."""
    def script(tls, session):
        http_head(tls, session)
        for piece in ([data[i:i + 1] for i in range(len(data))] if pieces else [data]):
            tls.sendall(piece)
        if orderly:
            tls.unwrap().close()
        else:
            tls.shutdown(socket.SHUT_WR)
            time.sleep(1)
    return script


def half_close(tls, session):
    http_head(tls, session)
    tls.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    got = b""
    while data := tls.recv(4096):
        got += data
    tls.sendall(got[::-1])
    tls.unwrap().close()


@case("41-44 inside TLS: early bytes, records of one byte, half-close, ends without TLS's own end, garbage, 407", seconds=240)
def hostile_tls(b):
    b.need_tun()
    folder = os.path.join(b.dir, "tls")
    os.makedirs(folder, exist_ok=True)
    cert, key = proxies.make_certificate(folder, b.net.proxy.ip4)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    act = {}
    p = scripted.Scripted(b.net.proxy, lambda c, s: act["now"](c, s), port=1089, scheme="https")
    path = write(b, f"exit_breaker = false\n[proxy t]\nurl = {p.url('user:hunter2')}\npin = {proxies.pin_of(cert)}\n")

    def one(script, send=b""):
        act["now"] = script
        p.sessions.clear()
        try:
            s, _ = b.connect(b.net.inet.web4, 80, timeout=40)
        except ConnectionRefusedError:
            return "refused"
        with s:
            s.settimeout(20)
            got = b""
            try:
                if send:
                    s.sendall(send)
                    s.shutdown(socket.SHUT_WR)
                while data := s.recv(4096):
                    got += data
            except ConnectionResetError:
                return got + b"|reset"
        return got + b"|end"
    ok = b"HTTP/1.1 200 OK\r\n\r\n" + HELLO
    try:
        b.exit("--config", path)
        with b.oracle(p):
            wants = {
                "early bytes": (in_tls(context, answers(ok)), b"", HELLO + b"|end"),
                "byte by byte": (in_tls(context, answers(b"HTTP/1.1 100 C\r\n\r\n" + ok, pieces=True)), b"", HELLO + b"|end"),
                "half-close": (in_tls(context, half_close), b"stressed" * 3000, b"desserts" * 3000 + b"|end"),
                "cut short": (in_tls(context, answers(ok, orderly=False)), b"", HELLO + b"|reset"),
                "407": (in_tls(context, answers(b"HTTP/1.1 407 A\r\n\r\n")), b"", "refused"),
                "502": (in_tls(context, answers(b"HTTP/1.1 502 B\r\n\r\n")), b"", "refused"),
                "garbage in TLS": (in_tls(context, answers(b"SSH-2.0-x\r\n")), b"", "refused"),
                "no TLS": (lambda c, s: c.sendall(b"HTTP/1.1 200 OK\r\n\r\n"), b"", "refused"),
                "closes at once": (lambda c, s: None, b"", "refused"),
                "cut in the handshake": (lambda c, s: (c.recv(100), c.sendall(b"\x16\x03\x03\x01\x00\x02\x00")), b"", "refused"),
            }
            wrong = [f"{k}: {got!r}" for k, (script, send, want) in wants.items() if (got := one(script, send)) != want]
            expect(not wrong, "\n".join(wrong))
        failed = b.egress()["Failed"]
        expect(failed.get("proxy_tls", 0) >= 1 and failed.get("proxy_auth") == 1 and failed.get("unreachable") == 1, f"{failed}")
        words = b.node.proc.text() + b.node.cli("egress", "status", "--json")
        expect("hunter2" not in words and "user:" not in words, "credentials can be read")
    finally:
        p.close()


@case("each peer's questions go upstream through its own session; rotating one opens another")
def questions(b):
    b.need_tun()
    if not shutil.which("dig"):
        raise Skip("dig is not installed")
    heard = scripted.Scripted(b.net.proxy, scripted.honest(b.net.proxy), port=1087)

    def users(name, fetch):
        heard.sessions.clear()
        fetch(name)
        return [s.user.decode() for s in heard.sessions if s.target and s.target[0] == b.net.inet.dns4]

    def by_socks(name):
        b.fetch(f"http://{name}/ip")

    def by_tun(name):
        out = b.need_tun().ns.run("dig", "+short", "+tries=1", "@192.0.2.1", name, "A", check=False, timeout=20).stdout
        expect(out.strip(), f"no answer for {name}")
    try:
        b.exit("--exit-proxy", heard.url("cust-{peer}-{epoch}:secret9"))
        with b.oracle(heard):
            one, other = users("four.example", by_socks), users("four.example", by_tun)
            expect(len(one) == len(other) == 1 and one != other, f"a connection each: {one} {other}")
            expect(not users("web.example", by_socks) and not users("web.example", by_tun), "kept")
            b.node.cli("egress", "rotate", "client")
            again = users("four.example", by_socks)
            expect(len(again) == 1 and again != one, f"another session, and nothing from the cache: {again}")
            expect(not users("four.example", by_tun), "of the other peer nothing changed")
    finally:
        heard.close()


@case("a proxy is told names only if told to: then the name that this client asked DNS for")
def names(b):
    def script(conn, session):
        socks_greeting(conn, session)
        target = socks_request(conn, session)
        up = scripted.dial(b.net.proxy, (b.net.inet.web4, target[1]) if not re.match(r"[0-9.:a-f]+$", target[0]) else target)
        conn.sendall(scripted.SUCCESS4)
        scripted.relay(up, conn)
    heard = scripted.Scripted(b.net.proxy, script, port=1087)
    try:
        for flags, want in ((["--exit-names"], "four.example"), ([], b.net.inet.web4)):
            b.exit(*flags, proxy=heard)
            heard.sessions.clear()
            with b.oracle(heard):
                b.fetch("http://four.example/ip")
                targets = {t[0] for t in heard.targets() if t[1] == 80}
                expect(targets == {want}, f"{flags}: asked for {targets}")
    finally:
        heard.close()


def slow_flow(b):
    s, _ = b.connect(b.net.inet.web4, 80)
    s.sendall(b"GET /slow/104857600 HTTP/1.1\r\nHost: x\r\n\r\n")
    expect(s.recv(65536), "no download")
    return s


def goes_on(s):
    s.settimeout(20)
    got = 0
    while got < 200000:
        data = s.recv(65536)
        expect(data, "the flow ended")
        got += len(data)


@case("16: another proxy and another password while a flow is under way: it goes on, new flows go the new way")
def swap(b):
    b.need_tun()
    a, d = two(b)
    b.pool = Both(b.net.proxy)
    try:
        b.exit(proxy=a)
        with b.oracle(a, d):
            s = slow_flow(b)
            b.node.cli("set", "--exit-proxy", d.url())
            a_port = [p["URL"] for p in states(b).values()]
            expect(a_port == [d.url()], f"{a_port}")
            goes_on(s)
            pages(b, 2)
            expect(states(b)["proxy"]["Opened"] >= 2, f"{states(b)}")
            r = b.node.try_cli("set", "--exit-egress", "host", "--exit-proxy", "\udcff")  # a byte that JSON can't carry
            expect(r.returncode == 2 and b.egress()["Mode"] == "proxy", f"{r.returncode} {r.stderr}: half of it was sent")
            for text in ("", "{", "[]", "{}", '{"ExitEgres":"host"}', '{"ExitEgress":1}', '{"ExitEgress":"host","Cut":"yes"}',
                         '{"ExitEgress":"host","ExitEgress":"proxy"}'):
                expect(patch(b, text) == 400 and b.egress()["Mode"] == "proxy", f"PATCH {text!r} does nothing")
            r = b.node.try_cli("set", "--exit-egress", "host", "--exit-proxy", "socks5://nonsense")
            expect(r.returncode == 1 and b.egress()["Mode"] == "off", f"never host in between: {r.stderr}")
            b.node.cli("set", "--exit-proxy", d.url())
            expect(b.egress()["Mode"] == "proxy", "of what was said with it nothing is left")
            pages(b, 1)
            r = b.node.try_cli("set", "--exit-proxy", "socks5://nonsense")
            expect(r.returncode == 1 and "exit traffic is off" in r.stderr, f"{r.returncode} {r.stderr}")
            expect(b.egress()["Mode"] == "off", "off")
            for value, words in (("socks5://nonsense", "exit_proxy: the proxy URL"), ("", "exit_proxy: it is empty"),
                                 ("file:/no/such", "exit_proxy: its file can't be read")):
                said = b.node.proc.text()
                b.node.try_cli("set", "--exit-proxy", value)
                said = b.node.proc.text()[len(said):].splitlines()
                expect(sum("exit_proxy" in line for line in said) == 1 and words in "".join(said), f"once, by its name: {said}")
                expect(words in b.node.cli("egress", "status") and any(words in h for h in b.node.status()["Health"]), words)
            b.expect_no_page()
            goes_on(s)
            expect(b.node.try_cli("set", "--exit-egress", "host").returncode == 0, "said")
            expect(b.egress()["Mode"] == "off", "a proxy that is not valid is not forgotten by saying host")
            b.expect_no_page()
            b.node.cli("set", "--exit-egress", "proxy", "--exit-proxy", a.url(), "--cut")
            goes_on(s)  # it went by that one, and still may: there was no moment without
            b.node.cli("set", "--exit-egress", "proxy", "--exit-proxy", d.url(), "--cut")
            s.settimeout(20)
            try:
                while s.recv(1 << 20):
                    pass
                end = "end of file"
            except ConnectionResetError:
                end = "reset"
            expect(end == "reset", f"cut, as told: {end}")
            pages(b, 1)
    finally:
        a.stop()
        d.stop()


@case("400 flows of a client are open while settings change: all go on, byte for byte", seconds=240)
def many_flows(b):
    b.need_tun()
    a, d = two(b)
    b.pool = Both(b.net.proxy)
    path = write(b, f"[proxy a]\nurl = {d.url()}\n")
    socks = []
    try:
        b.exit("--config", path)
        with b.oracle(a, d):
            for _ in range(400):
                socks.append(b.connect(b.net.inet.web4, ECHO)[0])
            expect(b.egress()["Flows"] >= 400, f"{b.egress()}")
            for text in (f"[proxy a]\nurl = {a.url()}\n", "[proxy a]\n", f"[proxy b]\nurl = {d.url()}\n[rule]\nport = 80\nuse = b\n"):
                write(b, text)
                os.kill(b.node.proc.pid, signal.SIGHUP)
                for i, s in enumerate(socks):
                    s.sendall(b"%d;" % i * 100)
                for i, s in enumerate(socks):
                    want, got = b"%d;" % i * 100, b""
                    while len(got) < len(want) and (data := s.recv(len(want) - len(got))):
                        got += data
                    expect(got == want, f"flow {i} ended or differs: {len(got)} bytes")
            wait_until(lambda: "b" in states(b), "the last settings are in force")
            expect(b.egress()["Flows"] >= 400, f"{b.egress()}")
            pages(b, 1)
            b.expect_refused(b.net.inet.web4, ECHO)  # no rule for it now: those that are open stay
    finally:
        for s in socks:
            s.close()
        a.stop()
        d.stop()


def patch(b, text):
    """The HTTP status of a PATCH with this body."""
    r = subprocess.run(b.net.node.wrap(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", b.node.socket, "-X", "PATCH",
                                        "--data-binary", text, "http://local-tailscaled.sock/localapi/v0/egress"]),
                       capture_output=True, text=True, timeout=30, check=True)
    return int(r.stdout)


@case("26: the file is edited, emptied, cut short, contradicted, removed: off, with the line; flows and process stay", seconds=240)
def edited(b):
    b.need_tun()
    a, d = two(b)
    b.pool = Both(b.net.proxy)
    good = f"[proxy a]\nurl = {a.url()}\n"
    path = write(b, good)
    try:
        b.exit("--config", path)
        with b.oracle(a, d):
            s = slow_flow(b)
            bad = {"empty": ("", None), "cut short": ("exit_egress = host", ":1"), "host and a proxy": ("exit_egress = host\n" + good, None),
                   "a bad line": (good + "weight = many\n", ":3"), "an unknown key": ("exit_egres = host\n", ":1"),
                   "half a section": (good + "[rule", ":3")}
            for name, (text, line) in bad.items():
                said = b.node.proc.text().count("exit traffic is off")
                write(b, text)
                wait_until(lambda: b.egress()["Mode"] == "off", f"{name}: off")
                b.expect_no_page()
                if line:
                    expect(any(line in h for h in b.node.status()["Health"]), f"{name}: {b.node.status()['Health']}")
                    expect(f"tailnet.conf{line}" in b.node.proc.text(), f"{name}: the log tells the line")
                    told = b.node.proc.text()
                    expect(told.count("exit traffic is off") == said + 1, f"{name}: the log tells it once")
                    expect("missing: a valid" not in told, f"{name}: and not by another name")
                write(b, good)
                wait_until(lambda: b.egress()["Mode"] == "proxy", f"after {name}: on again")
                pages(b, 1)
            os.unlink(path)
            wait_until(lambda: b.egress()["Mode"] == "off", "removed: off")
            write(b, good.replace("[proxy a]", "[proxy z]"))
            wait_until(lambda: b.egress()["Mode"] == "proxy", "on again")
            goes_on(s)
            s.close()
            with open(path, "w", encoding="ascii") as f:  # in place, and told by a signal
                f.write(f"[proxy other]\nurl = {d.url()}\n")
            os.kill(b.node.proc.pid, signal.SIGHUP)
            wait_until(lambda: "other" in states(b), "SIGHUP")
            pages(b, 1)
            r = b.node.try_cli("set", "--exit-proxy", a.url())
            expect(r.returncode == 1 and "tailnet.conf" in r.stderr, f"the file says it: {r.stderr}")
    finally:
        a.stop()
        d.stop()


@case("36: settings change a hundred times in a row, some of them nonsense, under load: nothing leaves", seconds=240)
def storm(b):
    a, d = two(b)
    b.pool = Both(b.net.proxy)
    texts = [f"[proxy a]\nurl = {a.url()}\n", f"[proxy a]\nurl = {d.url()}\n", "exit_egress = host\n[proxy a]\n",
             f"[proxy a]\nurl = {a.url()}\n[proxy d]\nurl = {d.url()}\n[rule]\nuse = d\n", "exit_egress = ho"]
    path = write(b, texts[0])
    try:
        b.exit("--config", path)
        done = threading.Event()
        tried = []

        def load():
            while not done.is_set():
                tried.append(b.client.curl(f"http://{b.net.inet.web4}/ip", timeout=20)[0])
        with b.oracle(a, d):
            t = threading.Thread(target=load)
            t.start()
            for i in range(400):
                write(b, texts[i % len(texts)])
                os.kill(b.node.proc.pid, signal.SIGHUP)
                time.sleep(0.01)
            done.set()
            t.join()
            write(b, texts[0])
            wait_until(lambda: b.egress()["Mode"] == "proxy", "at rest")
            pages(b, 1)
        return f"{len(tried)} pages tried, {tried.count(0)} came"
    finally:
        a.stop()
        d.stop()


@case("rules by peer and port: one client here, the other there, mail nowhere")
def rules(b):
    b.need_tun()
    one = scripted.Scripted(b.net.proxy, scripted.honest(b.net.proxy), port=1087)
    two_ = scripted.Scripted(b.net.proxy, scripted.honest(b.net.proxy), port=1088)
    path = write(b, f"[proxy one]\nurl = {one.url()}\n[proxy two]\nurl = {two_.url()}\n"
                 "[rule]\nport = 25\nuse = block\n[rule]\nfrom = tunclient\nuse = two\n[rule]\nport = 1-65535\nuse = one\n")
    try:
        b.exit("--config", path)
        with b.oracle(one, two_):
            b.fetch(f"http://{b.net.inet.web4}/ip")
            s, _ = b.connect(b.net.inet.web4, 80)
            s.close()
            b.expect_refused(b.net.inet.web4, 25)
            target = (b.net.inet.web4, 80)
            expect(one.targets().count(target) == 1 and two_.targets().count(target) == 1, f"{one.targets()} {two_.targets()}")
            expect(not any(t[1] == 25 for t in one.targets() + two_.targets()), "port 25 was asked for")
            expect(b.egress()["Failed"].get("rule") == 1, f"{b.egress()['Failed']}")
    finally:
        one.close()
        two_.close()


@case("egress check: fine through a proxy; not fine when the world sees our own address, or egress is host or off")
def check(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    here = proxies.Microsocks(b.sup, b.net.node, os.path.join(b.dir))
    url = f"http://{b.net.inet.web4}/ip"
    try:
        b.exit(proxy=p)
        with b.oracle(p):
            r = b.node.try_cli("egress", "check", "--url", url)
            expect(r.returncode == 0 and b.net.proxy.ip4 in r.stdout and "ok:" in r.stdout, f"{r.returncode} {r.stdout}{r.stderr}")
            expect(b.net.node.ip4 in r.stdout, f"its own address is not known: {r.stdout}")
            r = b.node.try_cli("egress", "check", "--url", "http://web.example/ip")
            expect(r.returncode == 1 and "IP address" in r.stderr, r.stderr)
            r = b.node.try_cli("egress", "check", "--url", f"http://{b.net.inet.web4}:4499/")
            expect(r.returncode == 1 and "no answer" in r.stdout, r.stdout)
        b.node.cli("set", "--exit-proxy", here.url())
        r = b.node.try_cli("egress", "check", "--url", url)
        expect(r.returncode == 1 and "own address" in r.stdout, f"{r.returncode} {r.stdout}")
        b.exit("--exit-egress", "host")
        r = b.node.try_cli("egress", "check", "--url", url)
        expect(r.returncode == 1 and "direct" in r.stdout, f"{r.returncode} {r.stdout}")
        b.exit()
        r = b.node.try_cli("egress", "check", "--url", url)
        expect(r.returncode == 1 and "nothing leaves" in r.stdout, f"{r.returncode} {r.stdout}")
    finally:
        p.stop()
        here.stop()


@case("the node checks by itself what the world sees: at the start, after changes, again when it went wrong; status and health tell")
def checks_itself(b):
    p, here = proxies.Microsocks(b.sup, b.net.proxy, b.dir), proxies.Microsocks(b.sup, b.net.node, b.dir)

    def last():
        return json.loads(b.node.cli("egress", "status", "--json")).get("Check") or {}

    def health():
        return [line for line in b.node.status()["Health"] if "egress check" in line]

    try:
        b.exit("--exit-check", f"http://{b.net.inet.web4}/ip", proxy=p)
        with b.oracle(p):
            wait_until(last, "a result")
            first = last()
            expect(first["OK"] and [r["Address"] for r in first["Results"]] == [b.net.proxy.ip4], first)
            expect(b.net.node.ip4 in first["Own"], f"its own address is not known: {first}")
            expect(not health(), health())
            expect("1 of 1 proxies" in b.node.cli("egress", "status"), "the CLI tells it")
            expect(b.node.status()["Egress"]["Opened"] == 0 and states(b)["proxy"]["Opened"] == 0, "it is no peer's flow")
            r = b.node.try_cli("egress", "check", "--url", f"http://{b.net.inet.web4}:4499/")
            expect(r.returncode == 1 and not health() and last() == first, "an operator's other page is no news")
            expect(not states(b)["proxy"]["Failed"], f"nor a failure of peers': {states(b)}")
            b.node.cli("set", "--exit-check", f"http://{b.net.inet.web4}:4499/")  # refused
            wait_until(lambda: any("no answer" in line for line in health()), "health tells of no answer")
            b.node.cli("set", "--exit-check=false")
            expect(not last() and not health(), "what is off says nothing")
            expect("last check" not in b.node.cli("egress", "status"), "nor does the CLI")
            b.node.cli("set", "--exit-check", f"http://{b.net.inet.web4}/ip")
            wait_until(lambda: last().get("OK"), "on again")
        b.node.cli("set", "--exit-proxy", here.url())
        expect(not last(), "another policy: the old result is not about it")
        wait_until(lambda: any("own address" in line for line in health()), "health tells of its own address")
        r = b.node.try_cli("egress", "check")  # at exit_check's page
        expect(r.returncode == 1 and "own address" in r.stdout, f"{r.returncode} {r.stdout}")
        text = subprocess.run(b.net.node.wrap(["curl", "-sS", "--unix-socket", b.node.socket, "http://local-tailscaled.sock/metrics"]),
                              capture_output=True, text=True, timeout=30, check=True).stdout
        expect("\ntailnet_exit_check_ok 0\n" in text, "the metric")
        b.exit("--relay-only", "--exit-check", f"http://{b.net.inet.web4}/ip", proxy=here)
        wait_until(last, "a result")
        expect(not last()["OK"] and "not compared" in last()["Results"][0]["Verdict"], f"without STUN nothing is known: {last()}")
        expect(not health(), health())
        b.exit("--exit-egress", "host", "--exit-check", f"http://{b.net.inet.web4}/ip")
        before = len(b.inet.web.seen)
        time.sleep(4)
        expect(not last() and len(b.inet.web.seen) == before, "in host mode nothing is asked")
    finally:
        p.stop()
        here.stop()


@case("metrics for Prometheus: flows, bytes, latency and refusals per proxy and peer, and no destination")
def metrics(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    try:
        b.exit("--verbose", proxy=p)
        b.expect_through(p)
        b.client.curl(f"http://{b.net.inet.web4}:4499/", timeout=10)
        for path in ("/metrics", "/localapi/v0/usermetrics"):
            r = subprocess.run(b.net.node.wrap(["curl", "-sS", "--unix-socket", b.node.socket, f"http://local-tailscaled.sock{path}"]),
                               capture_output=True, text=True, timeout=30, check=True)
            text = r.stdout
            for want in (r'tailnet_exit_mode\{mode="proxy"\} 1', r'tailnet_exit_proxy_up\{proxy="proxy"\} 1',
                         r'tailnet_exit_proxy_dial_seconds_count\{proxy="proxy"\} [1-9]',
                         r'tailnet_exit_peer_bytes_total\{peer="client",id="[^"]+",direction="down"\} [1-9]',
                         r'tailnet_exit_refused_total\{reason="refused"\} 1\n', r'tailnet_exit_proxy_dial_seconds_bucket\{proxy="proxy",le="\+Inf"\} [1-9]'):
                expect(re.search(want, text), f"{path}: {want} is not in\n{text[:3000]}")
            lines = [x for x in text.splitlines() if not x.startswith("#")]
            bad = [x for x in lines if not re.fullmatch(r"[a-z_][a-z0-9_]*(\{[a-z]+=\"[^\"]*\"(,[a-z]+=\"[^\"]*\")*\})? [0-9.]+", x)]
            expect(not bad, f"the format of {bad}")
        words = text + b.node.proc.text() + b.node.cli("egress", "status")
        expect(b.net.inet.web4 not in words, "a destination can be read")
    finally:
        p.stop()


@case("the node's own tailnet address is nobody's loopback: not the host's, not the proxy host's, in any mode")
def own_address(b):
    b.need_tun()
    heard = scripted.Scripted(b.net.proxy, scripted.honest(b.net.proxy), port=1087)
    traps = []
    for ns in (b.net.node, b.net.proxy):
        for family, addr in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            s = ns.socket(family)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((addr, 4477))
            s.listen()
            s.settimeout(0.2)
            traps.append(s)
    try:
        for flags, kw in (((), {"proxy": heard}), (("--exit-egress", "host"), {})):
            b.exit(*flags, **kw)
            for addr in (b.node.ip4, b.node.ip6):
                b.expect_refused(addr, 4477)
            code, _, _ = b.client.curl(f"http://{b.node.ip4}:4477/", timeout=20)
            expect(code != 0, "a page came")
            expect(b.client.curl(f"http://[{b.node.ip6}]:4477/", timeout=20)[0] != 0, "a page came")
        for s in traps:
            try:
                conn, who = s.accept()
            except TimeoutError:
                continue
            raise AssertionError(f"{who} reached {s.getsockname()}")
        expect(not any(t[1] == 4477 for t in heard.targets()), f"the proxy was asked for {heard.targets()}")
    finally:
        heard.close()
        for s in traps:
            s.close()


@case("a proxy is reached from the address and interface its section names, and by no other way when they are not to be had")
def bound(b):
    node, d = b.net.node, proxies.Dante(b.sup, b.net.proxy, b.dir)
    other = node.ip4.rsplit(".", 1)[0] + ".77"

    def to_proxy():
        """Local addresses of the node's connections to the proxy."""
        lines = node.run("ss", "-Htun", "dst", b.net.proxy.ip4).stdout.splitlines()
        return {line.split()[4].rsplit(":", 1)[0].split("%")[0] for line in lines}

    def section(bind):
        return write(b, f"[proxy d]\nurl = {d.url()}\nbind = {bind}\n")

    node.ip("addr", "add", f"{other}/24", "dev", node.dev)
    try:
        b.exit("--config", section(other), "--exit-proxy-udp")
        with b.oracle(d):
            b.expect_through(d)
            s = slow_flow(b)
            expect(to_proxy() == {other}, f"{to_proxy()} instead of {other}")
            s.close()
            section(node.dev)
            wait_until(lambda: b.node.try_cli("egress", "status").returncode == 0, "it is there")
            wait_state(b, "d", "up")
            b.expect_through(d)
            section(f"{other} {node.dev}")
            b.expect_through(d)
            for gone in ("nosuch0", "10.11.12.13"):  # an interface and an address that this host does not have
                section(gone)
                wait_until(lambda: b.client.curl(f"http://{b.net.inet.web4}/ip", timeout=10)[0] != 0, f"bind = {gone} refuses")
                b.expect_no_page()
                failed = states(b)["d"]["Failed"]
                expect("proxy_bind" in failed, f"the reason: {failed}")
            section(other)
            wait_state(b, "d", "up")
            b.expect_through(d)
    finally:
        node.ip("addr", "del", f"{other}/24", "dev", node.dev)
        d.stop()


@case("connections to a proxy carry the mark its section names")
def marked(b):
    node, d = b.net.node, proxies.Dante(b.sup, b.net.proxy, b.dir)

    def ip_rules(verb):  # without the mark there is no way to the proxy
        node.ip("rule", verb, "pref", "50", "to", b.net.proxy.ip4, "fwmark", "0x7", "lookup", "main")
        node.ip("rule", verb, "pref", "51", "to", b.net.proxy.ip4, "prohibit")

    def section(line):
        return write(b, f"[proxy d]\nurl = {d.url()}\n{line}\n")

    ip_rules("add")
    try:
        b.exit("--config", section("mark = 0x7"))
        with b.oracle(d):
            b.expect_through(d)
            for wrong in ("mark = 8", ""):
                section(wrong)
                b.node.cli("egress", "reload")
                b.expect_no_page()
            section("mark = 7")
            b.node.cli("egress", "reload")
            b.expect_through(d)
    finally:
        ip_rules("del")
        d.stop()


if __name__ == "__main__":
    main("pool", ExitBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
