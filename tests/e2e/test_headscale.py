#!/usr/bin/env python3
"""headscale and derper, the control side that self-hosters run: join by pre-auth key, exit node offered and used, deltas as
nodes come and go, a restart of headscale survived."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import official, proxies  # noqa: E402
from lib.case import Bed, case, main  # noqa: E402
from lib.inet import Internet, Unbound, blob_sha256  # noqa: E402
from lib.node import Node  # noqa: E402
from lib.oracle import Oracle  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

SIZE = 16 << 20


class HeadscaleBed(Bed):
    def build(self):
        n = self.net
        self.inet = Internet(n.inet)
        self.doh = Unbound(self.sup, n.inet, self.dir)
        self.derper = official.Derper(self.sup, n.ctl, self.dir)
        self.control = official.Headscale(self.sup, n.ctl, self.dir, self.derper)
        self.key = self.control.preauth_key()
        self.proxy = proxies.Microsocks(self.sup, n.proxy, self.dir, credentials="ann:s3cret")
        self.client = official.Tailscaled(self.sup, n.peer(1), self.dir, "client")
        self.client.up(self.control.url, self.key)

    def exit_flags(self):
        return ["--advertise-exit-node", "--exit-proxy", self.proxy.url(), "--exit-dns", self.doh.url]

    def oracle(self):
        return Oracle(self.net.node, control=self.control, proxies=[self.proxy], peers=[self.client.ns])

    def check(self):
        self.node.alive()

    def finish(self):
        self.node.stop()


@case("our node joins by pre-auth key, through derper's pinned certificate")
def join(b):
    b.node = Node(b.sup, b.net.node, b.dir, "exit", b.control.url, b.key, b.exit_flags(), env={"SSL_CERT_FILE": b.doh.cert})
    wait_until(lambda: any(n.get("given_name") == "exit" for n in b.control.nodes()), "headscale lists it")
    b.node.wait_peer("client")
    wait_until(lambda: b.client.ping(b.node.ip4, timeout=3), "a pong over derper")
    b.node.cli("ping", "-c", "3", "client")


@case("its exit node is offered to and used by the official client: by address and by name")
def used(b):
    b.client.use_exit("exit")
    with b.oracle():
        digest, size, seconds = b.client.download(f"http://{b.net.inet.web4}/blob/{SIZE}")
        expect(size == SIZE and digest == blob_sha256(SIZE), "the download differs")
        for url in (f"http://[{b.net.inet.web6}]/ip", "http://web.example/ip"):
            code, out, err = b.client.curl(url)
            expect(code == 0 and out.decode().strip() in b.proxy.sources(), f"{url}: curl {code} {out!r} {err}")
    return f"{size / seconds / 1e6:.1f} MB/s"


@case("nodes come and go: the netmap follows")
def deltas(b):
    late = official.Tailscaled(b.sup, b.net.peer(2), b.dir, "late")
    late.up(b.control.url, b.key)
    b.node.wait_peer("late", lambda p: p.get("Online"), "is online")
    b.node.cli("ping", "-c", "3", "late")
    late.proc.kill()
    b.node.wait_peer("late", lambda p: not p.get("Online"), "is offline", timeout=60)
    node_id = next(n["id"] for n in b.control.nodes() if n.get("given_name") == "late")
    b.control.cli("nodes", "delete", "-i", str(node_id), "--force")
    wait_until(lambda: b.node.peer("late") is None, "the deleted node is gone from our netmap")


@case("headscale restarts: flows go on, the node comes back, new peers are learned", seconds=240)
def restart(b):
    b.control.proc.stop()
    code, out, err = b.client.curl(f"http://{b.net.inet.web4}/ip")
    expect(code == 0, f"without headscale: curl {code} {err}")
    b.control.start()
    fresh = official.Tailscaled(b.sup, b.net.peer(3), b.dir, "fresh")
    fresh.up(b.control.url, b.key)
    b.node.wait_peer("fresh", timeout=120)
    b.node.cli("ping", "-c", "3", "fresh")
    b.client.use_exit("exit")
    code, out, err = b.client.curl(f"http://{b.net.inet.web4}/ip")
    expect(code == 0 and out.decode().strip() in b.proxy.sources(), f"curl {code} {out!r} {err}")


@case("derper restarts: the node finds its way back")
def derper_restart(b):
    b.derper.proc.kill()
    b.derper.__init__(b.sup, b.net.ctl, b.dir, b.derper.port, b.derper.stun_port)
    wait_until(lambda: b.client.ping(b.node.ip4, "--tsmp", timeout=3), "a pong over the new derper", timeout=90)


@case("its key expires: with the auth key at hand it renews by itself and keeps its addresses", seconds=120)
def renewal(b):
    ips, key = b.node.ips(), b.node.status()["Self"]["PublicKey"]
    node_id = next(n["id"] for n in b.control.nodes() if n.get("given_name") == "exit")
    b.control.cli("nodes", "expire", "-i", str(node_id))
    wait_until(lambda: b.node.status()["Self"]["PublicKey"] != key and b.node.running(), "it runs with a new key", timeout=60)
    expect(b.node.ips() == ips, f"other addresses: {b.node.ips()}, before {ips}")
    wait_until(lambda: b.client.ping(ips[0], "--tsmp", timeout=3), "the client reaches it", timeout=60)


@case("our node restarts with its state and needs no key")
def node_restart(b):
    ips = b.node.ips()
    b.node.stop()
    b.node.auth_key = ""
    b.node.start()
    expect(b.node.ips() == ips, "other addresses")
    wait_until(lambda: b.client.curl(f"http://{b.net.inet.web4}/ip", timeout=5)[0] == 0, "the exit node works again")


@case("exit_withdraw: without a proxy that works it is no exit node for control and peers, and is one again", seconds=240)
def withdrawn(b):
    def offered():
        return bool((b.client.peer("exit") or {}).get("ExitNodeOption"))

    expect(offered(), "it is an exit node")
    b.node.cli("set", "--exit-withdraw")
    b.proxy.stop()
    wait_until(lambda: b.node.status()["Egress"].get("Withdrawn"), "it is withdrawn, though nobody dials", timeout=120)
    wait_until(lambda: not offered(), "the client is not offered it")
    expect("withdrawn" in b.node.cli("egress", "status"), "the CLI tells it")
    expect(any("withdrawn" in line for line in b.node.status()["Health"]), "health tells it")
    # A client without a TUN device that insists on us goes out by itself then (its own decision, docs/CONFIG.md): not by us.
    with b.oracle():
        _, out, _ = b.client.curl(f"http://{b.net.inet.web4}/ip", timeout=5)
    expect(b.net.node.ip4 not in out.decode() and not b.proxy.sources() & set(out.decode().split()), f"by us: {out!r}")
    b.proxy.start()
    wait_until(lambda: not b.node.status()["Egress"].get("Withdrawn"), "it is back", timeout=60)
    wait_until(offered, "the client is offered it")
    b.client.use_exit("exit")
    code, out, err = b.client.curl(f"http://{b.net.inet.web4}/ip")
    expect(code == 0 and out.decode().strip() in b.proxy.sources(), f"curl {code} {out!r} {err}")
    b.node.cli("set", "--exit-withdraw=false")


@case("an ephemeral node leaves the list when it ends")
def ephemeral(b):
    key = b.control.preauth_key("--ephemeral")
    n = Node(b.sup, b.net.peer(4), b.dir, "brief", b.control.url, key, ["--ephemeral"])
    wait_until(lambda: any(x.get("given_name") == "brief" for x in b.control.nodes()), "headscale lists it")
    n.stop()
    wait_until(lambda: not any(x.get("given_name") == "brief" for x in b.control.nodes()), "headscale has forgotten it", timeout=60)


if __name__ == "__main__":
    main("headscale", HeadscaleBed,
         lambda: None if official.have("tailscaled", "headscale", "derper") else "tests/peers is not built (no Go)")
