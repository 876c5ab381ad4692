#!/usr/bin/env python3
"""The beds themselves, with official parts alone: what the scenarios rely on must hold without our node.

An official exit node stands where ours will stand, so the leak oracle must cry (it forwards from its own address), each
proxy must carry a page, and the official client must reach the internet through an exit node by address and by name.
"""
import os
import socket
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import inet, official, proxies, scripted  # noqa: E402
from lib.case import Bed, Skip, case, main  # noqa: E402
from lib.tunhost import tun_possible  # noqa: E402
from lib.inet import WEB, Internet, Unbound, blob_sha256  # noqa: E402
from lib.oracle import Oracle  # noqa: E402
from lib.proc import Failure, expect, wait_until  # noqa: E402

MIB = 1 << 20


class SelfBed(Bed):
    def build(self):
        n = self.net
        self.inet = Internet(n.inet)
        self.control = official.TestControl(self.sup, n.ctl)
        self.exit = official.Tailscaled(self.sup, n.node, self.dir, "exit")
        self.exit.up(self.control.url, "", "--advertise-exit-node")
        self.control.approve_exit("exit")
        self.client = official.Tailscaled(self.sup, n.peer(1), self.dir, "client")
        self.client.up(self.control.url)


@case("an official client downloads 64 MB through an official exit node")
def through_official_exit(b):
    b.client.use_exit("exit")
    digest, size, seconds = b.client.download(f"http://{b.net.inet.web4}/blob/{64 * MIB}")
    expect(size == 64 * MIB and digest == blob_sha256(size), "the download differs")
    expect(b.inet.web.seen[-1] == b.net.node.ip4, f"the web saw {b.inet.web.seen[-1]}")
    return f"{size / seconds / 1e6:.0f} MB/s"


@case("the leak oracle cries when an exit node forwards from its own address")
def oracle_cries(b):
    b.client.use_exit("exit")
    for url in (f"http://{b.net.inet.web4}/ip", f"http://[{b.net.inet.web6}]/ip"):
        try:
            with Oracle(b.net.node, control=b.control):
                b.client.curl(url)
        except Failure as e:
            expect("may not" in str(e), f"another failure: {e}")
        else:
            raise Failure(f"the oracle saw nothing of {url}")


@case("the leak oracle is silent when nothing is forwarded")
def oracle_silent(b):
    b.client.no_exit()
    with Oracle(b.net.node, control=b.control):
        b.client.cli("ping", "--c=2", "--until-direct=false", "exit")


@case("tsnet gives exact errors through an exit node")
def tsnet_errors(b):
    n = b.net
    exit_ip = b.exit.ips()[0]
    t = official.Tsnet(b.sup, n.peer(2), b.dir, b.control.url, "tsnetclient", "dial", exit_node=exit_ip)
    r = wait_until(lambda: (lambda r: r if "error" not in r else None)(t.ask(f"{n.inet.web4}:7 hello")),
                   "echo through the exit node")
    expect(r["first"] == "hello\n", str(r))
    r = t.ask(f"{n.inet.web4}:9999 hello")
    expect("refused" in r.get("error", ""), str(r))


@case("unbound answers DNS over HTTPS")
def doh(b):
    u = Unbound(b.sup, b.net.inet, b.dir)
    r = b.net.proxy.run("curl", "-sS", "--cacert", u.cert, "--doh-url", u.url, "--doh-insecure", "http://web.example/ip")
    expect(r.stdout.strip() in (b.net.proxy.ip4, b.net.proxy.ip6), r.stdout)
    expect(any(q[1] == "web.example." for q in u.asked()), f"the log shows no question: {u.asked()}")


def _fetch(b, proxy, url):
    return b.net.node.run("curl", "-sS", "--max-time", "20", "--proxytunnel", "--proxy", proxy.url(), url, check=False)


for _name, _class in proxies.ALL.items():
    @case(f"{_name} carries a page")
    def carries(b, name=_name, cls=_class):
        if not proxies.have(cls.program):
            raise Skip(f"{name} is not installed")
        p = cls(b.sup, b.net.proxy, b.dir)
        for host in (b.net.inet.web4, f"[{b.net.inet.web6}]"):
            r = _fetch(b, p, f"http://{host}:{WEB}/ip")
            expect(r.returncode == 0 and r.stdout.strip() in p.sources(), f"{host}: {r.stdout!r} {r.stderr}")
        p.stop()

    @case(f"{_name} with a password")
    def with_password(b, name=_name, cls=_class):
        if name == "danted":
            raise Skip("dante takes its passwords from the system's accounts")
        p = cls(b.sup, b.net.proxy, b.dir, credentials="ann:s3cret")
        r = _fetch(b, p, f"http://{b.net.inet.web4}/ip")
        expect(r.returncode == 0 and r.stdout.strip() in p.sources(), f"{r.stdout!r} {r.stderr}")
        p.credentials = "ann:wrong"
        expect(_fetch(b, p, f"http://{b.net.inet.web4}/ip").returncode != 0, "a wrong password passed")
        p.stop()


@case("a TUN client of the official kind")
def tun_client(b):
    if not tun_possible():
        raise Skip("no TUN device")
    c = official.Tailscaled(b.sup, b.net.peer(3), b.dir, "tunclient", tun=True)
    c.up(b.control.url)
    c.use_exit("exit")
    code, out, err = c.curl(f"http://{b.net.inet.web4}/ip")
    expect(code == 0 and out.decode().strip() == b.net.node.ip4, f"curl {code}: {out!r} {err}")


@case("the TUN client's kernel sees a refusal and both kinds of half-close through an official exit")
def tun_flows(b):
    if not tun_possible():
        raise Skip("no TUN device")
    c = official.Tailscaled(b.sup, b.net.peer(6), b.dir, "tunflows", tun=True)
    c.up(b.control.url)
    c.use_exit("exit")

    def connect(port):
        s = c.ns.socket()
        s.settimeout(20)
        s.connect((b.net.inet.web4, port))
        return s
    try:
        connect(inet.CLOSED)
        raise Failure("connected to a closed port")
    except ConnectionRefusedError:
        pass
    s = connect(inet.HALF_CLIENT_FIRST)
    s.sendall(bytes(300000))
    s.shutdown(socket.SHUT_WR)
    expect(s.recv(100) == b"got 300000\n", "half-close by the client")
    s = connect(inet.HALF_SERVER_FIRST)
    expect(s.recv(100) == b"goodbye\n" and s.recv(100) == b"", "half-close by the server")
    s.sendall(bytes(1000))
    s.close()
    wait_until(lambda: b.inet.half_server_first.got == [1000], "the server counts")


@case("the scripted proxies answer as written")
def scripted_proxies(b):
    for scheme, script in (("socks5", scripted.honest(b.net.proxy)), ("http", http_honest(b.net.proxy))):
        p = scripted.Scripted(b.net.proxy, script, scheme=scheme)
        for host in (b.net.inet.web4, f"[{b.net.inet.web6}]"):
            r = _fetch(b, p, f"http://{host}/ip")
            expect(r.stdout.strip() in p.sources(), f"{scheme} {host}: {r.stdout!r} {r.stderr}")
        expect(p.targets() == [(b.net.inet.web4, 80), (b.net.inet.web6, 80)], str(p.targets()))
        p.close()
    p = scripted.Scripted(b.net.proxy, scripted.refuse_with(5))
    expect(_fetch(b, p, f"http://{b.net.inet.web4}/ip").returncode == 97, "curl knows no refusal")
    p.close()


@case("an ordinary user's PATH, without sbin, is enough")
def short_path(b):
    lib = os.path.dirname(os.path.abspath(__file__))
    find = "import shutil, lib.sandbox; print([p for p in ('ip', 'sysctl', 'tcpdump', 'unshare') if not shutil.which(p)])"
    r = subprocess.run([sys.executable, "-B", "-c", find], cwd=lib, capture_output=True, text=True,
                       env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/games"})
    expect(r.returncode == 0 and r.stdout.strip() == "[]", f"not found: {r.stdout}{r.stderr}")


def http_honest(ns):
    def script(conn, session):
        scripted.http_head(conn, session)
        conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        scripted.relay(scripted.dial(ns, session.target), conn)
    return script


@case("headscale and derper carry two official nodes")
def headscale_bed(b):
    if not official.have("headscale", "derper"):
        raise Skip("tests/peers has no headscale")
    derper = official.Derper(b.sup, b.net.ctl, b.dir)
    hs = official.Headscale(b.sup, b.net.ctl, b.dir, derper)
    key = hs.preauth_key()
    one = official.Tailscaled(b.sup, b.net.peer(4), b.dir, "hs-exit")
    one.up(hs.url, key, "--advertise-exit-node")
    two = official.Tailscaled(b.sup, b.net.peer(5), b.dir, "hs-client")
    two.up(hs.url, key)
    two.use_exit("hs-exit")
    code, out, err = two.curl(f"http://{b.net.inet.web4}/ip")
    expect(code == 0 and out.decode().strip() == b.net.peer(4).ip4, f"curl {code}: {out!r} {err}")
    expect(len(hs.nodes()) == 2, "headscale lists two nodes")


if __name__ == "__main__":
    main("selftest", SelfBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
