#!/usr/bin/env python3
"""Soak: clients that come and go, proxy, peer and link that are killed at random, and in the end everything is as at the beginning:
descriptors, memory, gauges, and not one packet that may not. docs/ACCEPTANCE.md, test 50.

TN_SOAK_SECONDS says how long (default 600, which is what ./check runs beside the other scenarios; scripts/soak.sh runs a day), and
TN_SOAK_SEED repeats a run's choices."""
import os
import random
import signal
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import inet, official, proxies  # noqa: E402
from lib.case import case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.oracle import Oracle  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

SECONDS = int(os.environ.get("TN_SOAK_SECONDS", "600"))
SEED = int(os.environ.get("TN_SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
SANITIZED = "build-check" in os.environ.get("TN_BUILD", "build-check")  # freed memory is kept aside then
PAUSE_S = (0.2, 1.5)          # between what clients do: light beside other scenarios
DISTURB_S = (10, 25)          # between disturbances
SETTLE_S = 330                # keepalives of vanished ends take two minutes, idle datagram flows two


class SoakBed(ExitBed):
    def build(self):
        super().build()
        cls = proxies.Dante if proxies.have("danted") else proxies.Microsocks
        self.proxy = cls(self.sup, self.net.proxy, self.dir)

    def watch(self):
        node, at = self.net.node, self.net.proxy
        relay = [f"(udp and host {node.ip4} and host {at.ip4})", f"(icmp[0] == 3 and host {at.ip4} and host {node.ip4})"]
        return Oracle(node, control=self.control, proxies=[self.proxy], peers=[c.ns for c in self.clients()], allow=relay)


def descriptors(b):
    return len(os.listdir(f"/proc/{b.node.proc.pid}/fd"))


def page(b, rng):
    b.client.curl(f"http://{rng.choice((b.net.inet.web4, f'[{b.net.inet.web6}]'))}/ip", timeout=5)


def blob(b, rng):
    b.client.curl(f"http://{b.net.inet.web4}/blob/{rng.randrange(1 << 20)}", "-o", "/dev/null", timeout=10)


def by_name(b, rng):
    b.client.curl("http://web.example/ip", timeout=5)


def refused_port(b, rng):
    b.client.curl(f"http://{b.net.inet.web4}:{inet.CLOSED}/", timeout=5)


def kernel_flow(b, rng):
    """A flow of the TUN client, ended in one of the ways there are."""
    s = b.tun.ns.socket()
    s.settimeout(3)
    try:
        s.connect((b.net.inet.web4, inet.ECHO))
        s.sendall(bytes(rng.randrange(1, 100000)))
        s.recv(1000)
        how = rng.randrange(3)
        if how == 0:
            inet.close_with_rst(s)
        elif how == 1:
            s.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    s.close()


def datagrams(b, rng):
    s = b.tun.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(0.5)
    try:
        s.connect((b.net.inet.web4, rng.choice((inet.UDP_ECHO, 443, 53))))
        for _ in range(rng.randrange(1, 5)):
            s.send(bytes(rng.randrange(3000)))
        s.recv(4000)
    except OSError:
        pass
    s.close()


def kill_proxy(b, rng):
    b.proxy.stop()
    time.sleep(rng.uniform(0, 3))
    b.proxy.start()


def cut_proxy(b, rng):
    b.net.proxy.blackhole(True)
    time.sleep(rng.uniform(0.5, 4))
    b.net.proxy.blackhole(False)


def cut_node(b, rng):
    b.net.node.blackhole(True)
    time.sleep(rng.uniform(0.5, 4))
    b.net.node.blackhole(False)


def kill_peer(b, rng):
    """An official client dies without a word and comes back."""
    c = b.client
    os.kill(c.proc.pid, signal.SIGKILL)
    c.proc.kill()
    try:
        os.unlink(c.socket)
    except FileNotFoundError:
        pass
    time.sleep(rng.uniform(0, 2))
    c.start()
    c.wait_running()


WORK = [page, page, blob, by_name, refused_port, kernel_flow, kernel_flow, datagrams, datagrams]
DISTURBANCES = [kill_proxy, cut_proxy, cut_node, kill_peer]


def settled(b):
    e = b.egress()
    return e["Flows"] == 0 and e["Dialing"] == 0 and e["UDPFlows"] == 0 and e["UDPSockets"] == 0


@case("50: kills of proxy, peer and link at random; in the end all is as it was", seconds=SECONDS + SETTLE_S + 300)
def soak(b):
    rng = random.Random(SEED)
    work = WORK if b.tun else [w for w in WORK if w not in (kernel_flow, datagrams)]
    b.exit("--exit-proxy-udp", proxy=b.proxy)
    with b.watch() as oracle:
        for w in work:
            w(b, rng)
        wait_until(lambda: settled(b), "a first rest", timeout=SETTLE_S)
        fds, rss = descriptors(b), b.node.proc.rss_kib()
        end, disturb, done, kills = time.monotonic() + SECONDS, time.monotonic() + rng.uniform(*DISTURB_S), 0, 0
        while time.monotonic() < end:
            rng.choice(work)(b, rng)
            done += 1
            if time.monotonic() >= disturb:
                rng.choice(DISTURBANCES)(b, rng)
                kills += 1
                disturb = time.monotonic() + rng.uniform(*DISTURB_S)
                leaks = oracle.seen()
                expect(not leaks, f"seed {SEED}, after {done} actions: {[str(x) for x in leaks[:5]]}")
                expect(not b.node.proc.ended(), "the node ended")
            time.sleep(rng.uniform(*PAUSE_S))
        wait_until(lambda: b.client.curl(f"http://{b.net.inet.web4}/ip", timeout=5)[0] == 0, "it works in the end", timeout=60)
        wait_until(lambda: settled(b), "all flows are gone", timeout=SETTLE_S)
        now_fds, grown = descriptors(b), b.node.proc.rss_kib() - rss
        expect(now_fds <= fds + 2, f"{now_fds} descriptors, {fds} at the first rest")
        if not SANITIZED:
            expect(grown < 8 * 1024, f"{grown} KiB more memory")
    return f"seed {SEED}: {done} actions, {kills} disturbances; descriptors {fds} > {now_fds}, memory {grown:+} KiB"


if __name__ == "__main__":
    main("soak", SoakBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
