#!/usr/bin/env python3
"""Exit nodes and TUN mode, under the leak oracle: an exit node behind a proxy whose host forwards and masquerades
(docs/ACCEPTANCE.md, test 30), one that uses another exit node itself (test 31), and a host behind an exit node."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import proxies, tunhost  # noqa: E402
from lib.case import Skip, case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.inet import CLOSED, blob_sha256  # noqa: E402
from lib.net import run  # noqa: E402
from lib.node import Node, clean_log  # noqa: E402
from lib.oracle import Oracle  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

SIZE = 16 << 20
TUN = ("--tun", "tailnet0")
MASQUERADE = """
table inet leftover {
    chain post { type nat hook postrouting priority 100; meta oifname "eth0" masquerade; }
    chain forward { type filter hook forward priority 0; policy accept; }
}
"""


class TunExitBed(ExitBed):
    def build(self):
        super().build()
        self.proxy = proxies.Microsocks(self.sup, self.net.proxy, self.dir)
        self.before = tunhost.listing(self.net.node)

    def finish(self):
        super().finish()
        tunhost.expect_same(self.before, tunhost.listing(self.net.node), "the exit node's host after the end")

    def masquerade(self):
        """What an earlier exit node of another make may have left: the kernel forwards and translates whatever comes."""
        ns = self.net.node
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            run("ip", "netns", "exec", ns.name, "sysctl", "-qw", f"{key}=1")
        r = subprocess.run(["ip", "netns", "exec", ns.name, "nft", "-f", "-"], input=MASQUERADE, capture_output=True, text=True)
        if r.returncode != 0:
            raise Skip(f"nft: {r.stderr.strip()}")


def refused_things(b):
    """UDP, ping and a closed port: answered at once or not at all, never let out."""
    b.expect_refused(b.net.inet.web4, CLOSED)
    b.expect_refused(b.net.inet.web6, CLOSED)
    expect(not tunhost.ping(b.need_tun().ns, b.net.inet.web4, timeout=1.5), "an echo came from the internet")
    s = b.tun.ns.socket(kind=2)
    s.sendto(b"x", (b.net.inet.web4, 9020))
    s.close()


@case("behind a proxy: pages, 16 MB and refusals as without a TUN; peers reach the host's own servers")
def proxied(b):
    b.exit(*TUN, proxy=b.proxy)
    with b.oracle(b.proxy):
        b.expect_through(b.proxy)
        b.expect_through(b.proxy, b.net.inet.web6)
        expect(b.fetch("http://web.example/ip") in b.proxy.sources(), "by name: another source")
        digest, size, _ = b.client.download(f"http://{b.net.inet.web4}/blob/{SIZE}")
        expect(size == SIZE and digest == blob_sha256(SIZE), "a download differs")
        if b.tun:
            refused_things(b)
            expect(tunhost.ping(b.tun.ns, b.node.ip4), "the host's kernel does not answer")
    expect("blackhole" in b.net.node.ip("rule").stdout, "the second lock is missing")


@case("the host forwards and masquerades: nothing leaves, alive, killed, or started again")
def masquerading(b):
    try:
        b.masquerade()
        masquerading_host(b)
    finally:
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            run("ip", "netns", "exec", b.net.node.name, "sysctl", "-qw", f"{key}=0")
        run("ip", "netns", "exec", b.net.node.name, "nft", "delete", "table", "inet", "leftover", check=False)


def masquerading_host(b):
    b.exit(*TUN, proxy=b.proxy)
    ns, web = b.net.node, b.net.inet.web4
    routed = run("ip", "-n", ns.name, "route", "get", web, "from", b.client.status()["Self"]["TailscaleIPs"][0], "iif", "tailnet0",
                 check=False)
    expect(routed.returncode != 0, f"the kernel would forward what comes out of the TUN: {routed.stdout}")
    with b.oracle(b.proxy) as o:
        tunhost.inject(ns, "100.99.98.97", web)
        wait_until(lambda: any(p.dport == 4001 and p.src == ns.ip4 for p in o.seen()), "a packet that the host forwards")
        o.leaks.clear()
        b.expect_through(b.proxy)
        if b.tun:
            refused_things(b)
        b.proxy.stop()
        b.expect_no_page()
        b.node.proc.signal(signal.SIGKILL)
        b.node.proc.wait()
        b.expect_no_page()
        b.proxy.start()
        b.node.start()
        b.settle()
        b.expect_through(b.proxy)


@case("a node in TUN mode becomes an exit node while it runs: the kernel's forwarding is sealed before it is one")
def becomes_one(b):
    b.exit(*TUN, advertise=False)
    ns = b.net.node
    expect("blackhole" not in ns.ip("rule").stdout, "sealed without being an exit node")
    b.node.cli("set", "--exit-proxy", b.proxy.url(), "--advertise-exit-node")
    expect("blackhole" in ns.ip("rule").stdout and "blackhole" in ns.ip("-6", "rule").stdout, "the second lock is missing")
    with b.oracle(b.proxy):
        b.expect_through(b.proxy)
        b.node.cli("set", "--advertise-exit-node=false")
        b.expect_no_page()


@case("the exit node's host uses another exit node: its own traffic goes there, the proxied traffic by the uplink")
def behind_another(b):
    other = Node(b.sup, b.net.peer(5), b.dir, "other", b.control.url, flags=["--advertise-exit-node", "--exit-egress", "host"])
    try:
        b.control.approve_exit("other")
        b.exit(*TUN, "--exit-node", "other", "--exit-node-allow-lan-access", proxy=b.proxy)
        b.node.wait_peer("other", lambda p: p.get("ExitNode"), "is the exit node")
        page = f"http://{b.net.inet.web4}/ip"
        with Oracle(b.net.node, control=b.control, proxies=[b.proxy], peers=[c.ns for c in b.clients()] + [other.ns]):
            seen = wait_until(lambda: b.net.node.run("curl", "-sS", "--max-time", "10", page, check=False).stdout.strip(),
                              "a page for the host itself")
            expect(seen == other.ns.ip4, f"the web saw the host as {seen}")
            b.expect_through(b.proxy)
            digest, size, _ = b.client.download(f"http://{b.net.inet.web4}/blob/{SIZE}")
            expect(size == SIZE and digest == blob_sha256(SIZE), "a download differs")
            other.proc.signal(signal.SIGSTOP)
            b.expect_through(b.proxy)
            expect(b.net.node.run("curl", "-sS", "--max-time", "3", page, check=False).returncode != 0, "a page came directly")
            other.proc.signal(signal.SIGCONT)
    finally:
        other.proc.signal(signal.SIGCONT)
        other.stop()


@case("a host behind our exit node: all its traffic goes there; without the exit node none leaves; a crash lets none out")
def host_client(b):
    b.exit(*TUN, proxy=b.proxy)
    ns = b.net.peer(6)
    before = tunhost.listing(ns)
    web = f"http://{b.net.inet.web4}/ip"

    def page(url=web, seconds=10):
        return ns.run("curl", "-sS", "--max-time", seconds, url, check=False).stdout.strip()

    user = Node(b.sup, ns, b.dir, "host", b.control.url, flags=[*TUN, "--exit-node", "exit", "--exit-node-allow-lan-access"])
    with Oracle(ns, control=b.control, peers=[b.net.node]):
        wait_until(lambda: page() in b.proxy.sources(), "a page through exit and proxy")
        expect(page(f"http://[{b.net.inet.web6}]/ip") in b.proxy.sources(), "IPv6")
        digest = ns.run("sh", "-c", f"curl -sS http://{b.net.inet.web4}/blob/{SIZE} | sha256sum").stdout.split()[0]
        expect(digest == blob_sha256(SIZE), "a download differs")
        b.stop_node()
        expect(not page(seconds=3), "a page came without the exit node")
        user.proc.signal(signal.SIGKILL)
        user.proc.wait()
        expect(not page(seconds=3), "a page came after the crash")
    user.start()
    user.stop()
    tunhost.expect_same(before, tunhost.listing(ns), "the host after a crash, a restart and an end")
    expect(page() == ns.ip4, "no page after all was removed")
    lost = Node(b.sup, ns, b.dir, "lost", b.control.url, flags=[*TUN, "--exit-node", "nobody", "--exit-node-allow-lan-access"])
    with Oracle(ns, control=b.control, peers=[b.net.node]):
        wait_until(lambda: "5286" in ns.ip("rule").stdout, "the default route")
        r = ns.run("curl", "-sS", "--max-time", "10", web, check=False)
        expect(r.returncode == 7, f"an exit node that is nowhere: curl {r.returncode} {r.stdout} {r.stderr}")
    lost.stop()
    clean_log(user.proc)
    b.node.start()


def needs():
    return None if tunhost.tun_possible() else "/dev/net/tun can't be opened"


if __name__ == "__main__":
    main("tunexit", TunExitBed, needs)
