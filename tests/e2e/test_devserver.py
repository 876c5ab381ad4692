#!/usr/bin/env python3
"""`tailnet dev` as a control server for official parts alone, so that our server is tested without our node: tailscaled and tsnet
join, see, ping and reach each other over its DERP, one is the other's exit node, and the server restarts beneath them."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import official  # noqa: E402
from lib.case import Bed, case, main  # noqa: E402
from lib.inet import Internet, blob_sha256  # noqa: E402
from lib.node import Dev, clean_log  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

SIZE = 16 << 20


class ServerBed(Bed):
    def build(self):
        n = self.net
        self.inet = Internet(n.inet)
        self.control = Dev(self.sup, n.ctl, self.dir)
        self.one = official.Tailscaled(self.sup, n.peer(1), self.dir, "one")
        self.one.up(self.control.url, self.control.key, "--advertise-exit-node")
        self.two = official.Tailscaled(self.sup, n.peer(2), self.dir, "two")
        self.two.up(self.control.url, self.control.key)

    def check(self):
        clean_log(self.control.proc)
        expect(not self.control.proc.ended(), f"tailnet dev died\n{self.control.proc.tail()}")

    def finish(self):
        code = self.control.proc.stop()
        clean_log(self.control.proc)
        expect(code == 0, f"tailnet dev ended with {code}")


@case("two official nodes see and ping each other")
def see(b):
    b.one.wait_peer("two", lambda p: p.get("Online"), "is online")
    b.two.wait_peer("one", lambda p: p.get("Online"), "is online")
    for kind in ((), ("--tsmp",), ("--icmp",)):
        expect(b.two.ping(b.one.ips()[0], *kind) and b.one.ping(b.two.ips()[1], *kind), f"no pong {kind}")
    expect(b.two.try_cli("ping", "--peerapi", "--c=1", "one").returncode == 0, "no answer from the PeerAPI")


@case("names: MagicDNS answers for peers")
def names(b):
    domain = b.two.status()["MagicDNSSuffix"]
    out = b.two.cli("dns", "query", f"one.{domain}")
    expect(b.one.ips()[0] in out, out)


@case("one is the other's exit node: 16 MB over DERP")
def exit_node(b):
    b.two.use_exit("one")
    digest, size, seconds = b.two.download(f"http://{b.net.inet.web4}/blob/{SIZE}")
    expect(size == SIZE and digest == blob_sha256(SIZE), "the download differs")
    expect(b.inet.web.seen[-1] == b.one.ns.ip4, f"the web saw {b.inet.web.seen[-1]}")
    b.two.no_exit()
    return f"{size / seconds / 1e6:.1f} MB/s"


@case("tsnet joins, serves and leaves; the others follow")
def tsnet(b):
    t = official.Tsnet(b.sup, b.net.peer(3), b.dir, b.control.url, "tsnet", "serve", auth_key=b.control.key)
    b.two.wait_peer("tsnet")
    wait_until(lambda: b.two.ping(t.ips[0], "--tsmp", timeout=3), "tsnet answers")
    code, out, err = b.two.curl(f"http://{t.ips[0]}/")
    expect(code == 0 and out.startswith(b"hello from tsnet"), f"curl {code} {out!r} {err}")
    t.proc.kill()
    b.two.wait_peer("tsnet", lambda p: not p.get("Online"), "is offline", timeout=60)


@case("a wrong auth key is refused")
def wrong_key(b):
    c = official.Tailscaled(b.sup, b.net.peer(4), b.dir, "stranger")
    r = c.try_cli("up", f"--login-server={b.control.url}", "--auth-key=tskey-auth-wrong", "--timeout=10s", timeout=30)
    expect(r.returncode != 0, "the stranger got in")
    expect(b.one.peer("stranger") is None, "the stranger is listed")
    c.proc.kill()


@case("logout and another login")
def logout(b):
    c = official.Tailscaled(b.sup, b.net.peer(5), b.dir, "guest")
    c.up(b.control.url, b.control.key)
    b.one.wait_peer("guest")
    c.cli("logout")
    c.up(b.control.url, b.control.key)
    wait_until(lambda: b.one.ping(c.ips()[0], "--tsmp", timeout=3), "the guest answers again", timeout=60)
    c.proc.kill()


@case("the server restarts with its state: nodes keep their addresses and come back by themselves", seconds=240)
def restart(b):
    ips = b.one.ips()
    expect(b.control.proc.stop() == 0, "tailnet dev's exit status")
    b.control = Dev(b.sup, b.net.ctl, b.dir)
    wait_until(lambda: b.two.ping(ips[0], "--tsmp", timeout=3), "a pong after the restart", timeout=120)
    expect(b.one.ips() == ips, "other addresses")
    late = official.Tailscaled(b.sup, b.net.peer(6), b.dir, "late")
    late.up(b.control.url, b.control.key)
    b.one.wait_peer("late", timeout=120)


if __name__ == "__main__":
    main("devserver", ServerBed, lambda: None if official.have("tailscaled", "tsnetpeer") else "tests/peers is not built (no Go)")
