#!/usr/bin/env python3
"""`tailnet dev`, the tailnet in a box: official tailscaled and tsnet join it, and two nodes of ours make the demo, one as exit
node behind a proxy, one as client with --exit-node and --socks5-server."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import official, proxies  # noqa: E402
from lib.case import Bed, Skip, case, main  # noqa: E402
from lib.inet import Dns, Internet, Unbound, blob_sha256  # noqa: E402
from lib.node import Dev, Node, clean_log  # noqa: E402
from lib.oracle import Oracle  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

SOCKS = "127.0.0.1:1080"
SIZE = 16 << 20


class DevBed(Bed):
    def build(self):
        n = self.net
        self.inet = Internet(n.inet)
        self.doh = Unbound(self.sup, n.inet, self.dir)
        self.control = Dev(self.sup, n.ctl, self.dir)
        self.proxy = proxies.Microsocks(self.sup, n.proxy, self.dir, credentials="ann:s3cret")
        env = {"SSL_CERT_FILE": self.doh.cert}
        self.exit = Node(self.sup, n.node, self.dir, "exit", self.control.url, self.control.key, env=env,
                         flags=["--advertise-exit-node", "--exit-proxy", self.proxy.url(), "--exit-dns", self.doh.url])
        self.user = Node(self.sup, n.peer(1), self.dir, "user", self.control.url, self.control.key,
                         flags=["--exit-node", "exit", "--socks5-server", SOCKS])

    def check(self):
        for p in (self.exit.proc, self.user.proc, self.control.proc):
            clean_log(p)
            expect(not p.ended(), f"{p.name} died\n{p.tail()}")

    def oracle(self):
        return Oracle(self.net.node, control=self.control, proxies=[self.proxy], peers=[self.user.ns])

    def finish(self):
        self.user.stop()
        self.exit.stop()
        code = self.control.proc.stop()
        clean_log(self.control.proc)
        expect(code == 0, f"tailnet dev ended with {code}")


@case("two nodes of ours see and ping each other")
def pings(b):
    b.user.wait_peer("exit")
    for kind in ((), ("--tsmp",), ("--icmp",)):
        b.user.cli("ping", *kind, "-c", "3", "exit")
        b.exit.cli("ping", *kind, "-c", "3", "user")
    at = wait_until(lambda: b.user.peer("exit")["CurAddr"], "a direct path")
    expect(any(a in at for a in (b.exit.ns.ip4, b.exit.ns.ip6)), f"direct at {at}")


@case("the demo: a page and 16 MB through exit and proxy, IPv4, IPv6 and by name")
def demo(b):
    with b.oracle():
        for url in (f"http://{b.net.inet.web4}/ip", f"http://[{b.net.inet.web6}]/ip", "http://web.example/ip"):
            code, out, err = b.user.curl(SOCKS, url)
            expect(code == 0 and out.decode().strip() in b.proxy.sources(), f"{url}: curl {code} {out!r} {err}")
        path = os.path.join(b.dir, "blob")
        code, _, err = b.user.curl(SOCKS, f"http://{b.net.inet.web4}/blob/{SIZE}", "-o", path)
        expect(code == 0, err)
        with open(path, "rb") as f:
            expect(official.sha256(f.read()) == blob_sha256(SIZE), "the download differs")


@case("the demo: the proxy dies, the client is refused, nothing leaves; the proxy returns, all is well")
def demo_dies(b):
    url = f"http://{b.net.inet.web4}/ip"
    b.proxy.stop()
    with b.oracle():
        code, out, _ = b.user.curl(SOCKS, url)
        expect(code != 0, f"a page came: {out!r}")
        b.proxy.start()
        wait_until(lambda: b.user.curl(SOCKS, url)[0] == 0, "a page through the proxy that returned")


@case("an exit node that is not there: internet traffic is blocked, not sent directly")
def exit_missing(b):
    n = Node(b.sup, b.net.peer(4), b.dir, "lost", b.control.url, b.control.key, flags=["--exit-node", "nobody", "--socks5-server", SOCKS])
    code, out, _ = n.curl(SOCKS, f"http://{b.net.inet.web4}/ip", timeout=15)
    expect(code != 0, f"a page came: {out!r}")
    expect(b.net.peer(4).ip4 not in b.inet.web.seen, "the web saw the client itself")
    n.stop()


def need_go():
    if not official.have("tailscaled", "tsnetpeer"):
        raise Skip("tests/peers is not built (no Go)")


@case("official tailscaled joins, is pinged both ways, and uses our exit node")
def official_joins(b):
    need_go()
    c = official.Tailscaled(b.sup, b.net.peer(2), b.dir, "official")
    c.up(b.control.url, b.control.key)
    b.exit.wait_peer("official")
    for kind in ((), ("--tsmp",), ("--icmp",)):
        expect(c.ping(b.exit.ip4, *kind), f"no pong {kind}")
    b.exit.cli("ping", "-c", "3", "official")
    c.use_exit("exit")
    code, out, err = c.curl(f"http://{b.net.inet.web4}/ip")
    expect(code == 0 and out.decode().strip() in b.proxy.sources(), f"curl {code} {out!r} {err}")
    code, out, err = c.curl("http://web.example/ip")
    expect(code == 0 and out.decode().strip() in b.proxy.sources(), f"by name: curl {code} {out!r} {err}")
    c.proc.stop()
    b.exit.wait_peer("official", lambda p: not p.get("Online"), "is offline", timeout=60)


@case("tsnet joins and serves; we reach it by name")
def tsnet_joins(b):
    need_go()
    t = official.Tsnet(b.sup, b.net.peer(3), b.dir, b.control.url, "tsnet", "serve", auth_key=b.control.key)
    b.user.wait_peer("tsnet")
    code, out, err = b.user.curl(SOCKS, "http://tsnet/")
    expect(code == 0 and out.startswith(b"hello from tsnet"), f"curl {code} {out!r} {err}")
    t.proc.kill()


@case("tailnet dev restarts with its state: nodes come back by themselves")
def dev_restart(b):
    ips = b.exit.ips()
    expect(b.control.proc.stop() == 0, "tailnet dev's exit status")
    b.control.__init__(b.sup, b.net.ctl, b.dir)
    wait_until(lambda: b.user.try_cli("ping", "--tsmp", "-c", "1", "exit").returncode == 0, "a pong after the restart", timeout=90)
    expect(b.exit.ips() == ips, "other addresses")


@case("the resolver falls silent: the control server is found again where it was")
def resolver_silent(b):
    ns = b.net.peer(5)
    with open(ns.resolv, "w", encoding="ascii") as f:
        f.write(f"nameserver {b.net.inet.ip4}\n")
    dns = Dns(b.net.inet, b.net.inet.ip4, b.net.ctl.ip4)
    n = Node(b.sup, ns, b.dir, "named", b.control.url.replace(b.net.ctl.ip4, "ctl.example"), b.control.key)
    expect(any(name == "ctl.example" for _, name in dns.asked), f"asked: {dns.asked}")
    with open(ns.resolv, "w", encoding="ascii") as f:
        f.write("nameserver 45.45.45.99\n")
    before = n.proc.text().count("connected to")
    expect(b.control.proc.stop() == 0, "tailnet dev's exit status")
    b.control.__init__(b.sup, b.net.ctl, b.dir)
    wait_until(lambda: n.proc.text().count("connected to") > before, "the control server is reached again", timeout=90)
    n.stop()


if __name__ == "__main__":
    main("dev", DevBed)
