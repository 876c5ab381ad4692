#!/usr/bin/env python3
"""Direct paths through real NATs (nftables masquerade) to official tailscaled and tsnet and among our own nodes."""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import official  # noqa: E402
from lib.case import Skip, case, main  # noqa: E402
from lib.natbed import (UPNPD, Echo, NatBed, direct_at, mapping_gateway, missing,  # noqa: E402
                        ping_until_direct, relayed)
from lib.proc import expect, wait_until  # noqa: E402


class DirectBed(NatBed):
    def build(self):
        super().build()
        n = self.net
        self.easy = self.node(n.behind_nat("easy1", 1, "easy"), "easy")
        self.hard = self.node(n.behind_nat("hard1", 2, "hard"), "hard")
        self.public = self.node(n.node, "public")
        self.tailscaled = self.official_node(n.behind_nat("easy2", 3, "easy"), "official")
        self.tsnet = self.tsnet_node(n.peer(1), "tsnet")
        self.hardtsnet = self.tsnet_node(n.behind_nat("hard2", 4, "hard"), "hardtsnet")
        self.ts4 = next(a for a in self.tsnet.ips if ":" not in a)
        for node in self.ours:
            for name in ("official", "tsnet", "hardtsnet"):
                node.wait_peer(name)


@case("two easy NATs, ours and tailscaled: direct within 5 s, whoever asks first")
def two_easy(b):
    at, took = ping_until_direct(b.easy, "official")
    expect(at.startswith(b.tailscaled.ns.outside4 + ":") and took < 5, f"{at} after {took:.1f} s")
    said = b.tailscaled.cli("ping", "--c=10", "easy")
    expect(f"via {b.easy.ns.outside4}:" in said.splitlines()[-1], said)
    expect(direct_at(b.easy, "official") == at, f"status says {direct_at(b.easy, 'official')!r}")
    b.tailscaled.wait_peer("easy", lambda p: p["CurAddr"].startswith(b.easy.ns.outside4), "is direct")
    return f"{took:.1f} s"


@case("the stock CLI on our socket pings until it is direct, and shows it")
def stock_cli(b):
    argv = [official.program("tailscale"), f"--socket={b.easy.socket}"]
    r = subprocess.run(b.easy.ns.wrap(argv + ["ping", "--c=10", "official"]), capture_output=True, text=True, timeout=40)
    expect(r.returncode == 0 and f"via {b.tailscaled.ns.outside4}:" in r.stdout, r.stdout + r.stderr)
    r = subprocess.run(b.easy.ns.wrap(argv + ["status"]), capture_output=True, text=True, timeout=40)
    expect(re.search(rf"official .*active; direct {re.escape(b.tailscaled.ns.outside4)}:\d+", r.stdout), r.stdout)


@case("a public address on one side is enough: easy and hard NATs to tsnet and to us")
def public_side(b):
    notes = []
    for node, target in ((b.easy, "tsnet"), (b.hard, "tsnet"), (b.public, "tsnet"), (b.public, "official"),
                         (b.public, "hardtsnet"), (b.easy, "public"), (b.hard, "public")):
        at, took = ping_until_direct(node, target)
        expect(took < 5, f"{node.hostname} to {target}: {took:.1f} s")
        notes.append(f"{took:.1f}")
    return "s, ".join(notes) + " s"


@case("IPv6 alone will do")
def ipv6(b):
    b.net.kill_udp(True, "ip protocol udp")
    try:
        wait_until(lambda: not direct_at(b.public, "tsnet").startswith("46."), "the IPv4 path is given up", timeout=10)
        at, took = ping_until_direct(b.public, "tsnet")
        expect(at.startswith("[2a00:46:4:1:"), f"direct at {at}")
        return f"{took:.1f} s"
    finally:
        b.net.kill_udp(False)


@case("two hard NATs, and an easy and a hard one: relayed, and TCP flows")
def hard_ones(b):
    line = relayed(b.hard, "hardtsnet")
    relayed(b.easy, "hardtsnet", 2)
    for node in (b.hard, b.easy):
        e = Echo(node, next(a for a in b.hardtsnet.ips if ":" not in a))
        e.moves(20)
        e.close()
        expect(direct_at(node, "hardtsnet") == "", "status says direct")
    return line.split(" via ")[1]


def path_dies(b, node, e):
    """All UDP is dropped under a connection whose path is direct, and let through again: how long it was silent, both times."""
    try:
        e.gap()
        b.net.kill_udp(True)
        time.sleep(9)
        down = e.gap()
        expect(down < 7, f"{down:.1f} s of silence after the path was killed")
        expect(direct_at(node, "tsnet") == "", "direct without UDP")
        b.net.kill_udp(False)
        wait_until(lambda: direct_at(node, "tsnet"), "the way back", timeout=15)
        time.sleep(2)
        back = e.gap()
        e.close()
        expect(back < 2, f"{back:.1f} s of silence on the way back")
        return f"{down:.1f} s and {back:.1f} s"
    finally:
        b.net.kill_udp(False)


@case("a TCP connection survives the upgrade from the relay, a killed path and the way back")
def killed_path(b):
    b.net.kill_udp(True)
    try:
        time.sleep(8)  # what trust there is lapses
        e = Echo(b.easy, b.ts4)
        e.moves(20)
        expect(direct_at(b.easy, "tsnet") == "", "direct without UDP")
    finally:
        b.net.kill_udp(False)
    wait_until(lambda: direct_at(b.easy, "tsnet"), "the upgrade", timeout=10)
    up = e.gap()
    expect(up < 7, f"{up:.1f} s of silence around the upgrade")
    time.sleep(4)
    return f"silent for {up:.1f} s, {path_dies(b, b.easy, e)}"


@case("a killed path of 80 ms there and back")
def killed_long_path(b):
    def ping_ms():
        m = re.search(r" in ([\d.]+) ?ms", b.public.try_cli("ping", "-c", "1", "tsnet").stdout)
        return float(m[1]) if m else 0

    b.public.ns.lengthen(0.04)
    try:
        wait_until(lambda: ping_ms() >= 80, "a path of 80 ms", timeout=20)
        ping_until_direct(b.public, "tsnet")
        e = Echo(b.public, b.ts4)
        e.moves(20)
        return f"silent for {path_dies(b, b.public, e)}"
    finally:
        b.public.ns.lengthen(0)


@case("a renumbered host is direct again within 10 s, with its TCP connection")
def renumbered(b):
    ping_until_direct(b.public, "official")
    e = Echo(b.public, b.ts4)
    e.moves(20)
    wait_until(lambda: direct_at(b.public, "tsnet"), "a direct path", timeout=10)
    e.gap()
    start = time.monotonic()
    b.public.ns.renumber(77)
    def moved():
        p = b.tailscaled.peer("public")
        return "46.1.1.77" in b.tailscaled.try_cli("ping", "--c=1", "--timeout=1s", "public").stdout and p
    e.moves(15)
    gap = e.gap()
    expect(gap < 10, f"{gap:.1f} s of silence")
    wait_until(lambda: direct_at(b.public, "tsnet"), "a direct path again", timeout=10)
    wait_until(moved, "tailscaled reaches the new address", timeout=10)
    took = time.monotonic() - start
    e.close()
    return f"silent for {gap:.1f} s, direct to all after {took:.1f} s"


@case("netcheck tells the NATs apart; tailscale netcheck finds the map")
def netcheck(b):
    easy, hard = b.easy.cli("netcheck"), b.hard.cli("netcheck")
    expect("UDP: yes" in easy and f"IPv4: yes, {b.easy.ns.outside4}:" in easy and "hard NAT: no" in easy, easy)
    expect("hard NAT: yes" in hard and "(home)" in hard, hard)
    argv = [official.program("tailscale"), f"--socket={b.easy.socket}", "netcheck"]
    r = subprocess.run(b.easy.ns.wrap(argv), capture_output=True, text=True, timeout=40)
    expect(r.returncode == 0 and "UDP: true" in r.stdout, r.stdout + r.stderr)


@case("a gateway that maps a port opens a hard NAT: PCP, NAT-PMP and UPnP of miniupnpd")
def port_mapping(b):
    if not os.access(UPNPD, os.X_OK):
        raise Skip("miniupnpd is missing (apt: miniupnpd-nftables)")
    notes = []
    for number, kinds, pmp, upnp in ((5, ("PCP", "NAT-PMP"), True, True), (6, ("UPnP",), False, True)):
        ns = b.net.behind_nat(f"mapped{number}", number, "hard")
        mapping_gateway(b, ns, pmp, upnp)
        node = b.node(ns, f"mapped{number}")
        said = wait_until(lambda: re.search(r"the gateway maps (\S+) to us \((\S+)\)", node.proc.text()), "a mapping",
                          alive=[node.proc])
        expect(said[1] == f"{ns.outside4}:{node.PORT}" and said[2] in kinds, said[0])
        expect(f"port mapping: {said[1]} by {said[2]}" in node.cli("netcheck"), "netcheck")
        wait_until(lambda: said[1] in (b.control.node(node.hostname) or {}).get("Endpoints", []), "control knows it")
        node.wait_peer("hardtsnet")
        _, took = ping_until_direct(node, "hardtsnet")
        notes.append(f"{said[2]}: {took:.1f} s")
    wait_until(lambda: "dnat" in ns.gate.run("nft", "list", "ruleset").stdout, "the rule")
    return ", ".join(notes)


@case("--port-mapping=false and TS_DISABLE_PORTMAPPER ask nobody")
def no_port_mapping(b):
    if not os.access(UPNPD, os.X_OK):
        raise Skip("miniupnpd is missing (apt: miniupnpd-nftables)")
    ns = b.net.behind_nat("unmapped", 7, "hard")
    mapping_gateway(b, ns)
    ns.gate.nft("table inet count {\n chain input {\n  type filter hook input priority -10;\n"
                f'  iifname "{ns.far}" udp dport {{ 1900, 5351 }} counter\n }}\n}}\n')
    for flags, env in ((["--port-mapping=false"], {}), ([], {"TS_DISABLE_PORTMAPPER": "1"})):
        node = b.node(ns, "unmapped", *flags, env=env)
        time.sleep(3)
        expect("port mapping: none" in node.cli("netcheck"), "netcheck")
        node.stop()
        b.ours.remove(node)
    expect("packets 0 " in ns.gate.run("nft", "list", "table", "inet", "count").stdout, "the gateway was asked")


@case("--relay-only: no UDP socket, everything through DERP")
def relay_only(b):
    ns = b.net.peer(5)
    node = b.node(ns, "relayonly", "--relay-only")
    sockets = ns.run("cat", "/proc/net/udp", "/proc/net/udp6").stdout
    expect(len(sockets.splitlines()) == 2, sockets)  # the two headings
    node.wait_peer("tsnet")
    relayed(node, "tsnet", 3)
    e = Echo(node, b.ts4)
    e.moves(20)
    e.close()
    expect("UDP: no" in node.cli("netcheck", timeout=40), "netcheck")


if __name__ == "__main__":
    main("direct", DirectBed, missing)
