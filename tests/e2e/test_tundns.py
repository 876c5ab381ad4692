#!/usr/bin/env python3
"""--tun-dns: the host's programs resolve names of the tailnet and of the internet through the node; the resolver file is set and
comes back as it was, also after a crash; with an exit node in use no question leaves beside it."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import tunhost  # noqa: E402
from lib.case import Bed, case, main  # noqa: E402
from lib.inet import Internet, Unbound  # noqa: E402
from lib.node import Dev, Node, clean_log  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

BEFORE = "# the user's own\nnameserver 45.45.45.53\nsearch example\n"


def content(ns):
    with open(ns.resolv, encoding="ascii") as f:
        return f.read()


class DnsBed(Bed):
    def build(self):
        n = self.net
        self.inet = Internet(n.inet)
        self.unbound = Unbound(self.sup, n.inet, self.dir)
        self.control = Dev(self.sup, n.ctl, self.dir)
        self.host = n.peer(1)
        with open(self.host.resolv, "w", encoding="ascii") as f:
            f.write(BEFORE)
        self.peer = Node(self.sup, n.peer(2), self.dir, "peer", self.control.url, self.control.key,
                         flags=["--advertise-exit-node", "--exit-egress", "host", "--exit-dns", self.unbound.tcp_url])
        self.node = self.start()
        self.domain = self.node.status()["MagicDNSSuffix"]

    def start(self, *flags):
        node = Node(self.sup, self.host, self.dir, "tundns", self.control.url, self.control.key,
                    flags=["--tun", "tailnet0", "--tun-dns", *flags])
        node.wait_peer("peer")
        wait_until(lambda: "100.100.100.100" in content(self.host), "the resolver is set", alive=[node.proc])
        return node

    def dig(self, *args):
        """The status and the lines of answers."""
        out = self.host.run("dig", "+tries=1", "+time=8", "+search", *args, check=False, timeout=30).stdout
        status = out.split("status: ")[1].split(",")[0] if "status: " in out else out
        return status, [line.split() for line in out.splitlines() if line and not line.startswith(";")]

    def check(self):
        for node in (self.node, self.peer):
            clean_log(node.proc)

    def finish(self):
        if not self.node.proc.ended():
            self.node.stop()
        expect(content(self.host) == BEFORE, content(self.host))
        self.peer.stop()


def first(answers):
    return answers[0][-1] if answers else None


@case("names of nodes, short and full, both families; reverse names; what does not exist")
def names(b):
    got = b.host.run("getent", "ahostsv4", "peer").stdout
    expect(b.peer.ip4 in got, got)
    full = f"peer.{b.domain}"
    for proto in ("+notcp", "+tcp"):
        expect(first(b.dig(proto, full)[1]) == b.peer.ip4, "A")
        expect(first(b.dig(proto, "-t", "AAAA", full)[1]) == b.peer.ip6, "AAAA")
        expect(first(b.dig(proto, f"tundns.{b.domain}")[1]) == b.node.ip4, "ourselves")
    expect(first(b.dig("PEER." + b.domain.upper())[1]) == b.peer.ip4, "upper case")
    expect(first(b.dig("@fd7a:115c:a1e0::53", full)[1]) == b.peer.ip4, "the service's IPv6 address")
    for ip in (b.peer.ip4, b.peer.ip6):
        expect(first(b.dig("-x", ip)[1]) == full + ".", f"{ip} backwards")
    expect(b.dig("-t", "TXT", full) == ("NOERROR", []), "another type")
    expect(b.dig(f"nobody.{b.domain}")[0] == "NXDOMAIN", "nobody")
    expect(b.dig("-x", "100.127.1.1")[0] == "NXDOMAIN", "an address of nobody")


@case("other names at the server that was there; its search list; a long answer by TCP")
def others(b):
    expect(first(b.dig("web.example.")[1]) == b.net.inet.web4, "A")
    expect(first(b.dig("web")[1]) == b.net.inet.web4, "the user's search list")
    expect(first(b.dig("+tcp", "web.example.")[1]) == b.net.inet.web4, "by TCP")
    status, lines = b.dig("-t", "TXT", "long.example.")
    expect(status == "NOERROR" and len(" ".join(lines[0])) > 4000, f"{status}, {len(lines)} lines")
    expect(b.dig("absent.example.")[0] == "NXDOMAIN", "absent")
    expect(any(who == b.host.ip4 for who, _, _ in b.unbound.asked()), "asked by the host's own way")
    out = b.host.run("dig", "+tries=1", "+keepopen", "+tcp", "web.example.", "four.example.", f"peer.{b.domain}").stdout
    expect(out.count("status: NOERROR") == 3, out)


@case("the file is the user's again after an end; killed: at the next start")
def restored(b):
    b.node.stop()
    expect(content(b.host) == BEFORE, content(b.host))
    b.node = b.start()
    b.node.proc.signal(signal.SIGKILL)
    b.node.proc.wait()
    expect("100.100.100.100" in content(b.host), "the kill left nothing: nothing is tested")
    plain = Node(b.sup, b.host, b.dir, "tundns", b.control.url, b.control.key, flags=["--tun", "tailnet0"])
    expect(content(b.host) == BEFORE, content(b.host))
    plain.stop()
    b.node = b.start()
    names(b)


@case("with an exit node in use it is asked, and nobody beside it")
def exit_node(b):
    b.node.stop()
    asked = len(b.unbound.asked())
    b.node = b.start("--exit-node", "peer")
    wait_until(lambda: first(b.dig("web.example.")[1]) == b.net.inet.web4, "an answer", timeout=30)
    expect(first(b.dig("+tcp", "four.example.")[1]) == b.net.inet.web4, "by TCP")
    expect(first(b.dig(f"peer.{b.domain}")[1]) == b.peer.ip4, "a node's name")
    seen = b.unbound.asked()[asked:]
    expect(seen and all(who == b.peer.ns.ip4 for who, _, _ in seen), f"asked by {seen}")
    b.peer.proc.signal(signal.SIGSTOP)
    try:
        before = len(b.unbound.asked())
        status = b.dig("six.example.")[0]
        expect(status != "NOERROR", status)
        expect(len(b.unbound.asked()) == before, "asked directly")
    finally:
        b.peer.proc.signal(signal.SIGCONT)
    b.node.stop()
    b.node = b.start()


def needs():
    if subprocess.run(["which", "dig"], capture_output=True).returncode != 0:
        return "dig is not there"
    return None if tunhost.tun_possible() else "/dev/net/tun can't be opened"


if __name__ == "__main__":
    main("tundns", DnsBed, needs)
