#!/usr/bin/env python3
"""Subnet routes next to the exit: ours as the router for official clients and ours, an official router for ours.
docs/ACCEPTANCE.md, tests 17, 27 and 28. The LAN is behind the node, on a link of its own, with private addresses."""
import json
import os
import signal
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import inet, net, official, proxies, scripted  # noqa: E402
from lib.case import case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.node import Node  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

LAN4, LAN6, SITE = "192.168.77.", "fd77:77::", 7
VIA = "fd7a:115c:a1e0:b1a:0:7:c0a8:4d00/120"  # 192.168.77.0/24 at site 7
VIA_HOST = "fd7a:115c:a1e0:b1a:0:7:c0a8:4d02"
ROUTES = [f"{LAN4}0/24", f"{LAN6}/64", VIA]


class Lan:
    """A network of one host behind ns: web, echo by TCP and UDP."""

    def __init__(self, ns, name, workdir):
        self.ns = net.Ns(name, workdir)
        net.run("ip", "link", "add", "lan0", "netns", ns.name, "type", "veth", "peer", "name", "eth0", "netns", self.ns.name)
        self.ip4, self.ip6 = f"{LAN4}2", f"{LAN6}2"
        for where, dev, host in ((ns, "lan0", "1"), (self.ns, "eth0", "2")):
            where.ip("addr", "add", f"{LAN4}{host}/24", "dev", dev)
            where.ip("addr", "add", f"{LAN6}{host}/64", "dev", dev, "nodad")
            where.ip("link", "set", dev, "up")
        addrs = (self.ip4, self.ip6)
        self.web = inet.Listener(self.ns, inet.WEB, inet.serve_web, addrs)
        self.echo = inet.Listener(self.ns, inet.ECHO, inet.serve_echo, addrs)
        self.udp_seen = []
        for a in addrs:
            s = self.ns.socket(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_DGRAM)
            s.bind((a, inet.UDP_ECHO))
            threading.Thread(target=self._udp, args=(s,), daemon=True).start()

    def _udp(self, s):
        while True:
            data, who = s.recvfrom(65536)
            self.udp_seen.append(who[0])
            s.sendto(data, who)


class SubnetBed(ExitBed):
    def build(self):
        super().build()
        self.need_tun()
        self.lan = Lan(self.net.node, "lan", self.dir)
        self.net.node.call(lambda: write("/proc/sys/net/ipv4/ping_group_range", "0 0"))

    def routes(self, *routes, exit_too=True):
        self.control.ask("routes", node="exit", routes=(["0.0.0.0/0", "::/0"] if exit_too else []) + list(routes))
        self.tun.cli("set", "--accept-routes")
        self.tun.wait_peer("exit", lambda p: set(routes) <= set(p.get("AllowedIPs") or []), "routes the subnets")


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def page(b, host):
    code, out, err = b.tun.curl(f"http://{f'[{host}]' if ':' in host else host}/ip", timeout=15)
    expect(code == 0, f"{host}: curl {code}: {err}")
    return out.decode().strip()


def udp_echo(b, host, port=inet.UDP_ECHO, size=1200):
    s = b.tun.ns.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.connect((host, port))
    data = os.urandom(size)
    for _ in range(3):
        try:
            s.send(data)
            return s.recv(65536) == data
        except TimeoutError:
            pass
        except ConnectionRefusedError:
            return False
    return False


def ping(b, host):
    return b.tun.ns.run("ping", "-6" if ":" in host else "-4", "-c", "1", "-W", "3", host, check=False).returncode == 0


def reaches_lan(b):
    expect(page(b, b.lan.ip4) == f"{LAN4}1", "the LAN saw another source")
    expect(page(b, b.lan.ip6) == f"{LAN6}1", "by IPv6 the LAN saw another source")
    expect(page(b, VIA_HOST) == f"{LAN4}1", "by 4via6 the LAN saw another source")
    for host in (b.lan.ip4, b.lan.ip6, VIA_HOST):
        expect(udp_echo(b, host), f"UDP to {host}")
        expect(udp_echo(b, host, size=4000), f"large UDP to {host}")
        wait_until(lambda h=host: ping(b, h), f"ping {host}", timeout=10)
        b.expect_refused(host, inet.CLOSED)


@case("17: TCP, UDP and ping to the LAN go directly, also while exit traffic goes by a proxy, which never hears of the LAN", seconds=180)
def beside_a_proxy(b):
    heard = scripted.Scripted(b.net.proxy, scripted.honest(b.net.proxy), port=1094)
    b.exit("--advertise-routes", ",".join(ROUTES), proxy=heard)
    b.routes(*ROUTES)
    stock = [official.program("tailscale"), f"--socket={b.node.socket}", "debug", "prefs"]
    told = json.loads(b.net.node.run(*stock).stdout)["AdvertiseRoutes"]
    expect(set(told) == {"0.0.0.0/0", "::/0", *ROUTES}, f"prefs: {told}")
    with b.oracle(heard):
        reaches_lan(b)
        expect(page(b, b.net.inet.web4) == b.net.proxy.ip4, "exit traffic by the proxy")
        s = b.tun.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(5)
        s.connect((b.net.inet.web4, 443))
        try:
            s.send(b"quic?")
            s.recv(100)
            expect(False, "UDP to the internet was answered")
        except ConnectionRefusedError:
            pass
    asked = {h for h, _ in heard.targets()}
    expect(asked == {b.net.inet.web4}, f"the proxy heard of {asked}")
    heard.close()


@case("17: a router that is no exit node, and one whose proxy is down, reach the LAN all the same and nothing else")
def without_exit(b):
    for flags, advertise in ((("--advertise-routes", ",".join(ROUTES)), False),
                             (("--advertise-routes", ",".join(ROUTES), "--exit-proxy", "socks5://46.2.2.2:9"), True)):
        b.tun.no_exit()
        b.client.no_exit()
        b.control.ask("routes", node="exit", routes=ROUTES)
        if b.node:
            b.stop_node()
        b.node.flags = list(flags) + (["--advertise-exit-node"] if advertise else [])
        b.node.start()
        b.tun.cli("set", "--accept-routes")
        wait_until(lambda: b.tun.ping(b.node.ip4, "--tsmp", timeout=3), "the router is reached")
        b.tun.wait_peer("exit", lambda p: set(ROUTES) <= set(p.get("AllowedIPs") or []), "routes the subnets")
        with b.oracle(allow=["host 46.2.2.2"]):
            reaches_lan(b)
            expect(not b.inet.web.seen or b.net.node.ip4 not in b.inet.web.seen, "exit traffic left directly")


@case("27: a route never reaches the router itself by a special name, a translated address, or the proxy", seconds=180)
def special(b):
    heard = scripted.Scripted(b.net.proxy, scripted.honest(b.net.proxy), port=1094)
    wide = ["10.0.0.0/8", "192.168.0.0/16", "172.16.0.0/12", "fd00::/8", "46.2.2.0/24=direct",
            "fd7a:115c:a1e0:b1a:0:9::/96"]
    if b.node:  # an earlier case took it back
        b.control.approve_exit("exit")
    b.exit("--advertise-routes", ",".join(wide), proxy=heard)
    b.routes(*[w.split("=")[0] for w in wide])
    via = "fd7a:115c:a1e0:b1a:0:9:"
    with b.oracle(heard):
        expect(page(b, b.lan.ip4) == f"{LAN4}1", "the LAN in a wider route")
        for host, port in ((b.net.proxy.ip4, heard.port), (via + "7f00:1", 80), (via + "0:1", 80), (via + "a9fe:a9fe", 80),
                           (via + "6440:1", 80), (via + "e000:1", 80), (via + "f000:1", 80), (via + "2e02:202", heard.port)):
            b.expect_refused(host, port)
        # Public behind 4via6 is exit traffic all the same.
        expect(page(b, via + "2d2d:2d2d") == b.net.proxy.ip4, "45.45.45.45 by 4via6 goes by the proxy")
    heard.close()


@case("28: public prefixes as subnets are exit traffic: by the proxy, refused with egress off, direct only where marked", seconds=180)
def public_prefixes(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    public = ["0.0.0.0/1", "128.0.0.0/1", "45.45.45.0/24"]
    if b.node:  # an earlier case took it back
        b.control.approve_exit("exit")
    try:
        b.exit("--advertise-routes", ",".join(public), proxy=p)
        b.routes(*public)
        b.tun.no_exit()
        with b.oracle(p):
            expect(page(b, b.net.inet.web4) == b.net.proxy.ip4, "by the proxy")
        b.exit("--advertise-routes", ",".join(public))
        b.tun.no_exit()
        with b.oracle():
            b.expect_refused(b.net.inet.web4, 80)
            expect(not udp_echo(b, b.net.inet.web4), "UDP left")
        b.exit("--advertise-routes", "45.45.45.0/24=direct", proxy=p)
        b.tun.no_exit()
        with b.oracle(p, allow=["net 45.45.45.0/24"]):
            expect(page(b, b.net.inet.web4) == b.net.node.ip4, "directly, as marked")
            expect(udp_echo(b, b.net.inet.web4), "UDP directly, as marked")
    finally:
        p.stop()


def echoes(s):
    """Does this flow still work? False: it was reset."""
    data = os.urandom(64)
    try:
        s.sendall(data)
        got = b""
        while len(got) < len(data):
            more = s.recv(len(data) - len(got))
            expect(more, "an orderly end of a flow that is cut")
            got += more
        return got == data
    except (ConnectionResetError, BrokenPipeError):
        return False


def offered(b):
    stock = [official.program("tailscale"), f"--socket={b.node.socket}", "debug", "prefs"]
    return set(json.loads(b.net.node.run(*stock).stdout)["AdvertiseRoutes"] or [])


@case("the exit and routes come and go in the file, told by it or a signal: flows of what stays go on, others are reset", seconds=180)
def file_changes(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    path = os.path.join(b.dir, "subnet.conf")

    def conf(text):
        write(path + ".new", text + f"exit_dns = {b.doh.url}\n[proxy p]\nurl = {p.url()}\n")
        os.rename(path + ".new", path)
        return path
    exit_too, lan = "advertise_exit_node = true\n", f"advertise_routes = {LAN4}0/24\n"
    try:
        b.exit("--config", conf(exit_too + lan), advertise=False, dns=False)
        b.routes(ROUTES[0])
        with b.oracle(p):
            def flows():
                return b.connect(b.lan.ip4, inet.ECHO)[0], b.connect(b.net.inet.web4, inet.ECHO)[0]
            near, far = flows()
            conf(exit_too)  # the route is withdrawn
            wait_until(lambda: offered(b) == {"0.0.0.0/0", "::/0"}, "the route is offered no more")
            expect(not echoes(near) and echoes(far), "the LAN's flow is reset, the other not")
            b.expect_refused(b.lan.ip4, inet.ECHO)
            conf(exit_too + lan)
            wait_until(lambda: len(offered(b)) == 3, "the route is offered again")
            near.close()
            near, _ = b.connect(b.lan.ip4, inet.ECHO)
            write(path, lan + f"[proxy p]\nurl = {p.url()}\n")  # no exit node any more
            os.kill(b.node.proc.pid, signal.SIGHUP)
            wait_until(lambda: offered(b) == {ROUTES[0]}, "the exit is offered no more")
            expect(echoes(near) and not echoes(far), "the exit's flow is reset, the LAN's not")
            seen = len(b.inet.echo.seen)
            try:
                b.connect(b.net.inet.web4, inet.ECHO, timeout=3)[0].close()
                expect(False, "the exit still works")
            except OSError:
                pass
            expect(len(b.inet.echo.seen) == seen, f"the internet was reached from {b.inet.echo.seen[seen:]}")
            conf(lan + exit_too)
            wait_until(lambda: len(offered(b)) == 3, "the exit is offered again")
            far.close()
            far, _ = b.connect(b.net.inet.web4, inet.ECHO)
            expect(echoes(far) and echoes(near) and set(b.inet.echo.seen[seen:]) <= p.sources(), "by the proxy again")
            conf("advertise_routes = 300.0.0.0/8\n")  # nonsense: exit traffic is off, what is offered stays
            wait_until(lambda: b.egress()["Mode"] == "off", "off")
            expect(len(offered(b)) == 3 and echoes(near) and echoes(far), "flows stay")
            near.close()
            far.close()
    finally:
        p.stop()


@case("tailnet set: a node becomes an exit node and a subnet router, and stops; with --cut a withdrawn direct route's flows end")
def set_changes(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    inet4 = b.net.inet.web4
    direct = inet4.rsplit(".", 1)[0] + ".0/24"
    try:
        b.exit(advertise=False, dns=False)
        b.control.ask("routes", node="exit", routes=["0.0.0.0/0", "::/0", ROUTES[0], direct])
        b.tun.wait_peer("exit", lambda q: ROUTES[0] in (q.get("AllowedIPs") or []), "routes all")
        with b.oracle(p, allow=[f"(host {inet4})"]):
            b.node.cli("set", "--exit-proxy", p.url(), "--exit-dns", b.doh.tcp_url, "--advertise-exit-node")
            s, _ = b.connect(inet4, inet.ECHO)
            expect(echoes(s) and set(b.inet.echo.seen[-1:]) <= p.sources(), "an exit node now, by the proxy")
            expect(b.tun.ns.run("getent", "ahostsv4", "nowhere.example", check=False).returncode != 0, "asked")
            b.node.cli("set", "--advertise-routes", f"{ROUTES[0]},{direct}=direct")
            expect(offered(b) == {"0.0.0.0/0", "::/0", ROUTES[0], direct}, f"{offered(b)}")
            near, _ = b.connect(b.lan.ip4, inet.ECHO)
            straight, _ = b.connect(inet4, inet.ECHO)
            expect(echoes(near) and echoes(straight) and b.inet.echo.seen[-1] == b.net.node.ip4, "marked direct")
            b.node.cli("set", "--advertise-routes", "")
            expect(not echoes(near), "the LAN's flow goes on without its route")
            expect(echoes(straight), "the exit would take it, and it was not to be cut")
            b.node.cli("set", "--advertise-routes", f"{direct}=direct")
            b.node.cli("set", "--advertise-routes", "", "--cut")
            expect(not echoes(straight) and echoes(s), "cut what was direct, and that alone")
            b.expect_through(p)
            r = b.node.try_cli("set", "--exit-egress", "off", "--exit-proxy-udp", "--advertise-routes", "10.0.0.1/8")
            expect(r.returncode == 1 and "advertise_routes" in r.stderr, f"{r.stderr}")
            expect(b.egress()["Mode"] == "proxy", "half of it was done")
            b.node.cli("set", "--advertise-exit-node=false")
            expect(not echoes(s) and offered(b) == set(), f"{offered(b)}")
    finally:
        p.stop()


@case("what is no route is refused when it is said")
def bad_routes(b):
    for bad in ("192.168.1.5/24", "0.0.0.0/0", "::/0", "127.0.0.0/8", "100.64.0.0/10", "fd7a:115c:a1e0::/48", "224.0.0.0/4",
                "fe80::/10", "nonsense", "10.0.0.0/33", "10.0.0.0/8,,", "::ffff:10.0.0.0/104", "10.0.0.0/8=proxied"):
        b.stop_node()
        b.node.flags = ["--advertise-routes", bad]
        p = b.sup.start("bad-route", b.node.argv(), ns=b.net.node, env=b.node.env)
        wait_until(p.ended, f"{bad} is refused", timeout=10)
        expect(p.popen.returncode != 0 and len(p.text().strip().splitlines()) == 1, f"{bad}: {p.text()!r}")
    b.node.flags = []
    b.node.start()


@case("--accept-routes: ours reaches the LAN behind an official router, and behind ours", seconds=180)
def ours_as_client(b):
    b.stop_node()
    router = official.Tailscaled(b.sup, b.net.node, b.dir, "router")
    router.up(b.control.url, "", f"--advertise-routes={LAN4}0/24,{LAN6}/64")
    b.control.ask("routes", node="router", routes=[f"{LAN4}0/24", f"{LAN6}/64"])
    ours = Node(b.sup, b.net.peer(3), b.dir, "laptop", b.control.url, flags=["--accept-routes", "--socks5-server", "127.0.0.1:1055"])

    def fetch(host):
        url = f"http://{f'[{host}]' if ':' in host else host}/ip"
        r = b.net.peer(3).run("curl", "-sS", "--max-time", "10", "--socks5", "127.0.0.1:1055", url, check=False)
        return r.stdout.strip() if r.returncode == 0 else None
    try:
        wait_until(lambda: fetch(b.lan.ip4) == f"{LAN4}1", "a page behind the official router", timeout=60)
        wait_until(lambda: fetch(b.lan.ip6), "and by IPv6", timeout=30)
        router.proc.kill()
        b.control.ask("routes", node="router", routes=[])
        b.node.flags = ["--advertise-routes", ",".join(ROUTES)]
        b.node.start()
        b.control.ask("routes", node="exit", routes=ROUTES)
        wait_until(lambda: fetch(b.lan.ip4) == f"{LAN4}1", "a page behind our router", timeout=60)
        wait_until(lambda: fetch(VIA_HOST) == f"{LAN4}1", "and by 4via6", timeout=30)
        ours.stop()
        ours.flags = ["--socks5-server", "127.0.0.1:1055"]
        ours.flags += ["--accept-routes=false"]
        ours.start()
        expect(fetch(b.lan.ip4) is None, "without --accept-routes there is no way")
    finally:
        ours.stop()


if __name__ == "__main__":
    main("subnet", SubnetBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
