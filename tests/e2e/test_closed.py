#!/usr/bin/env python3
"""Fail-closed: whatever goes wrong with the proxy or the settings, nothing forwarded leaves directly. docs/ACCEPTANCE.md,
tests 23-29 and 32-34, each under the leak oracle."""
import os
import random
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import inet, official, proxies, scripted  # noqa: E402
from lib.case import case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.node import SAN_ENV, clean_log  # noqa: E402
from lib.proc import Failure, expect, wait_until  # noqa: E402

CONNECT_DEADLINE_S = 10  # egress: connecting to the proxy
RETRY_SECONDS = 60


@case("23: proxy down at the start: joins, refuses, says so; works when the proxy comes, without a restart")
def proxy_down(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    p.stop()
    b.exit(proxy=p)
    with b.oracle(p):
        if b.tun:
            b.expect_refused(b.net.inet.web4, 80)
        b.expect_no_page()
        s = b.node.status()
        expect(not s["Egress"]["ProxyHealthy"] and s["Health"], f"status shows nothing: {s['Egress']} {s['Health']}")
        p.start()
        wait_until(lambda: b.client.curl(f"http://{b.net.inet.web4}/ip")[0] == 0, "a page through the proxy that came")
        b.expect_through(p)
        expect(b.egress()["ProxyHealthy"], "still unhealthy")
    p.stop()


@case("24: proxy killed in mid-transfer: the flow ends, nothing leaves while the client retries", seconds=240)
def proxy_killed(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    b.exit(proxy=p)
    with b.oracle(p):
        if b.tun:
            s, _ = b.connect(b.net.inet.web4, 80)
            s.sendall(b"GET /slow/104857600 HTTP/1.1\r\nHost: x\r\n\r\n")
            expect(s.recv(65536), "no download")
            p.stop()
            expect_end(s)
        else:
            p.stop()
        end = time.monotonic() + RETRY_SECONDS
        while time.monotonic() < end:
            b.expect_no_page()
            b.expect_no_page(f"http://[{b.net.inet.web6}]/ip")
            b.expect_no_page("http://four.example/ip")


def expect_end(s):
    """The flow ends soon. A killed proxy's kernel says FIN or RST as it pleases; the exit node can only pass that on."""
    s.settimeout(30)
    try:
        while s.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass
    s.close()


@case("25: proxy host vanished: refused at the connect deadline, dials in flight are bounded", seconds=180)
def proxy_blackholed(b):
    b.need_tun()
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    b.exit(proxy=p)
    b.net.proxy.blackhole(True)
    try:
        with b.oracle(p):
            took = b.expect_refused(b.net.inet.web4, 80, within=CONNECT_DEADLINE_S + 10)
            socks = [b.tun.ns.socket() for _ in range(300)]
            for s in socks:
                s.setblocking(False)
                s.connect_ex((b.net.inet.web4, 80))
            wait_until(lambda: b.egress()["Dialing"] > 0, "dials are in flight")
            most = b.egress()["Dialing"]
            for s in socks:
                s.close()
            wait_until(lambda: b.egress()["Dialing"] == 0, "no dial is left in flight", timeout=60)
        return f"refused after {took:.1f} s, {most} in flight"
    finally:
        b.net.proxy.blackhole(False)
        p.stop()


def bad_settings(b):
    empty, wrong = os.path.join(b.dir, "empty"), os.path.join(b.dir, "wrong")
    for path, text in ((empty, ""), (wrong, "socks5://no port here\n")):
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
    at = b.net.proxy.ip4
    return {
        "no port": ["--exit-proxy", f"socks5://{at}"], "unknown scheme": ["--exit-proxy", f"ftp://{at}:1080"],
        "empty": ["--exit-proxy", ""], "empty, host asked for": ["--exit-proxy", "", "--exit-egress", "host"],
        "bad, host asked for": ["--exit-proxy", "socks5://", "--exit-egress", "host"],
        "missing file": ["--exit-proxy", "file:/no/such"], "empty file": ["--exit-proxy", f"file:{empty}"],
        "bad file": ["--exit-proxy", f"file:{wrong}"], "port 0": ["--exit-proxy", f"socks5://{at}:0"],
        "proxy mode without a proxy": ["--exit-egress", "proxy"],
        "credentials too long": ["--exit-proxy", f"socks5://{'u' * 300}:p@{at}:1080"],
        "environment, bad": {"TAILNET_EXIT_PROXY": "socks5://nonsense"},
    }


@case("26: an invalid proxy setting means no exit traffic, never the host's own address", seconds=300)
def invalid_proxy(b):
    b.exit()
    b.node.stop()
    base = b.node.flags
    ended, off = [], []
    for name, setting in bad_settings(b).items():
        flags, env = (setting, {}) if isinstance(setting, list) else ([], setting)
        with b.oracle():
            b.node.flags = base + flags
            p = b.node.proc = b.sup.start(f"bad-{name}", b.node.argv(), ns=b.net.node,
                                          env=dict(SAN_ENV, SSL_CERT_FILE=b.doh.cert, **env))
            wait_until(lambda: p.ended() or b.node.running(), f"{name}: ends or runs", timeout=30)
            if p.ended():
                lines = p.text().strip().splitlines()
                expect(p.popen.returncode != 0 and len(lines) == 1, f"{name}: exit {p.popen.returncode}, said {lines[:5]}")
                ended.append(name)
            else:
                b.settle()
                expect(b.egress()["Mode"] == "off", f"{name}: mode {b.egress()['Mode']}")
                b.expect_no_page()
                b.node.stop()
                off.append(name)
            clean_log(p)
    b.node.flags = base
    b.node.start()
    return f"refused to start: {len(ended)}; ran with egress off: {off or 'none'}"


# Special-purpose destinations that a Linux client's kernel will route to its exit node. The complete tables are tested
# against the registries in the egress room's unit tests.
FORBIDDEN4 = ["10.1.2.3", "172.16.5.5", "192.168.1.1", "169.254.169.254", "192.0.0.8", "192.0.2.7", "198.18.0.1",
              "198.19.255.254", "198.51.100.9", "203.0.113.5", "192.88.99.1"]
FORBIDDEN6 = ["fd12:3456::1", "2001:db8::1", "64:ff9b::7f00:1", "64:ff9b::a01:203", "2002:7f00:1::1", "2002:c0a8:101::1",
              "2001:0:7f00:1::1", "fec0::1", "100::1", "64:ff9b:1::1"]


def sweep(b, targets):
    """Dials all at once and returns what became of each: {(host, port): seconds or the name of what went wrong}."""
    fate = {}
    for host, port in targets:
        try:
            fate[host, port] = b.expect_refused(host, port, within=5)
        except Failure as e:
            fate[host, port] = str(e)
    return fate


@case("27: special-purpose, attached and own addresses and the proxy's own port are refused, the proxy never hears of them",
      seconds=600)
def special_destinations(b):
    b.need_tun()
    heard = scripted.Scripted(b.net.proxy, scripted.honest(b.net.proxy), port=1086)
    own = [(b.net.node.ip4, 80), (b.net.node.gw4, 80), (b.net.node.ip6, 80), (b.net.node.gw6, 80)]
    targets = [(a, 80) for a in FORBIDDEN4 + FORBIDDEN6] + own
    b.exit(proxy=heard)
    with b.oracle(heard):
        fate = sweep(b, targets + [(heard.ns.ip4, heard.port)])
    expect(not heard.targets(), f"the proxy was asked for {heard.targets()}")
    b.exit("--exit-egress", "host")
    with b.oracle():
        fate_host = sweep(b, targets)
    heard.close()
    wrong = [f"{what}: {f}" for table, label in ((fate, "proxy"), (fate_host, "host"))
             for what, f in ((f"{label} mode {k[0]}:{k[1]}", v) for k, v in table.items()) if isinstance(f, str)]
    expect(not wrong, "\n".join(wrong))


@case("28: public prefixes routed to us as subnets are exit traffic all the same: proxied, or refused with egress off")
def public_subnets(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    b.exit(proxy=p)
    b.control.ask("routes", node="exit", routes=["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "45.45.45.0/24"])
    b.client.cli("set", "--accept-routes")
    try:
        b.client.wait_peer("exit", lambda x: "45.45.45.0/24" in x.get("AllowedIPs", []), "routes the prefix")
        b.client.no_exit()
        with b.oracle(p):
            b.expect_through(p, b.net.inet.web4)
        b.exit()
        b.client.no_exit()
        with b.oracle():
            b.expect_no_page()
    finally:
        p.stop()
        b.client.cli("set", "--accept-routes=false")
        b.control.approve_exit("exit")


@case("29: IPv6 destination, proxy without IPv6, node with IPv6: refused at once, no IPv6 packet leaves")
def no_v6_at_the_proxy(b):
    b.need_tun()
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    b.exit(proxy=p)
    b.net.proxy.ip("-6", "route", "del", "default")
    try:
        with b.oracle(p):
            took = b.expect_refused(b.net.inet.web6, 80)
            b.expect_through(p)
        return f"{took * 1e3:.0f} ms"
    finally:
        b.net.proxy.link(True)
        p.stop()


@case("32: proxy variables of the environment are decoys: not used, and no hole either")
def decoys(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    decoy = scripted.Scripted(b.net.proxy, scripted.hang, port=9998)
    env = {k: decoy.url() for k in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy")}
    env.update(NO_PROXY="*", no_proxy="*")
    try:
        b.exit(proxy=p, env=env)
        with b.oracle(p):
            b.expect_through(p)
            expect(b.fetch("http://web.example/ip") in p.sources(), "by name: another source")
        expect(not decoy.sessions, f"{len(decoy.sessions)} connections to the decoy")
    finally:
        p.stop()
        decoy.close()


@case("33: the host's resolver hears nothing with an address, only the proxy's name with a name")
def host_resolver(b):
    sentinel = inet.Dns(b.net.ctl, b.net.ctl.ip4, b.net.proxy.ip4)
    with open(b.net.node.resolv, "w", encoding="ascii") as f:
        f.write(f"nameserver {b.net.ctl.ip4}\n")
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    dns = f"(host {b.net.ctl.ip4} and udp port 53)"
    try:
        b.exit(proxy=p)
        with b.oracle(p):
            b.expect_through(p)
            expect(b.fetch("http://web.example/ip") in p.sources(), "by name: another source")
        expect(not sentinel.asked, f"with an address the resolver was asked {sentinel.asked}")
        b.exit("--exit-proxy", f"socks5://gate.proxy.example:{p.port}")
        with b.oracle(p, allow=[dns]):
            b.expect_through(p)
            expect(b.fetch("http://web.example/ip") in p.sources(), "by name: another source")
        names = {n for _, n in sentinel.asked}
        expect(names == {"gate.proxy.example"}, f"the resolver was asked for {sorted(names)}")
    finally:
        with open(b.net.node.resolv, "w", encoding="ascii") as f:
            f.write("# none\n")
        p.stop()


@case("34: SCTP, GRE, proto 41, fragments, multicast, broadcast, ICMP: nothing leaves, the node lives")
def odd_packets(b):
    tun = b.need_tun()
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    b.exit(proxy=p)
    rng = random.Random(34)
    me = next(a for a in tun.ips() if ":" not in a)
    raw = tun.ns.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with b.oracle(p):
        for proto in (132, 47, 41, 50, 51, 4, 2, 89, 255, 0, 1):
            for dst in (b.net.inet.web4, "224.0.0.251", "255.255.255.255", b.net.node.ip4):
                send_raw(raw, ipv4(me, dst, proto, rng.randbytes(64)), dst)
        for offset, more in ((0, True), (8, True), (100, False)):  # fragments of TCP and UDP
            for proto in (6, 17):
                send_raw(raw, ipv4(me, b.net.inet.web4, proto, rng.randbytes(64), offset, more), b.net.inet.web4)
        expect(not echo_reply(tun.ns, b.net.inet.web4), "an echo reply came from the internet")
        b.expect_through(p)
    raw.close()
    p.stop()


def echo_reply(ns, dst):
    """Sends an ICMP echo request; True when its reply comes within 2 s."""
    s = ns.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.settimeout(2)
    s.sendto(bytes.fromhex("0800") + struct.pack(">H", 0xffff - 0x0800 - 0x4242 - 1) + bytes.fromhex("42420001"), (dst, 0))
    try:
        while True:
            data, who = s.recvfrom(2048)
            if who[0] == dst and data[20] == 0:
                return True
    except TimeoutError:
        return False
    finally:
        s.close()


def send_raw(raw, packet, dst):
    try:
        raw.sendto(packet, (dst, 0))
    except OSError:
        pass  # the client's own kernel has no route for some of them


def ipv4(src, dst, proto, payload, offset=0, more=False):
    frag = (offset // 8) | (0x2000 if more else 0)
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, frag, 64, proto, 0, socket.inet_aton(src),
                       socket.inet_aton(dst))
    return head + payload  # the kernel fills in the checksum


if __name__ == "__main__":
    main("closed", ExitBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
