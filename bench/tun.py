#!/usr/bin/env python3
"""TUN mode beside the official client's: iperf3 between two hosts, through two nodes, over a veth pair.

    bench/tun.py [--runs N] [--secs S] [--build DIR] [--rows WORD,...] [--kinds ours,official,bare]

Each kind has two namespaces of its own joined by a veth pair, with one node in each; the control server (`tailnet dev`) is in a
third. All of it, iperf3 at both ends included, shares this machine. Kinds are run alternately in the same session, and
medians are printed: throughput as iperf3's receiver counts it, CPU seconds of both nodes per GB, and the larger resident
memory. `bare` is the veth pair without a tunnel. Needs root or user namespaces with /dev/net/tun, iperf3, a release build,
and the Go peers."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
sys.path.insert(0, os.path.join(ROOT, "bench"))
from bed import cpu_s, prefer, two_hosts  # noqa: E402
from lib import official, sandbox, tunhost  # noqa: E402
from lib.net import Ns, run  # noqa: E402
from lib.node import Dev, Node  # noqa: E402
from lib.proc import Failure, Supervisor, wait_until  # noqa: E402

ROWS = {"one": ("one stream", []), "four": ("four streams", ["-P", "4"]), "reverse": ("one stream, reverse", ["-R"]),
        "six": ("one stream, IPv6", ["-6"]), "udp": ("UDP, 1200 bytes, 1 Gbit/s offered", ["-u", "-b", "1G", "-l", "1200"])}
COLUMNS = [("gbit", "Gbit/s", "{:.2f}"), ("cpu_gb", "CPU s/GB", "{:.2f}"), ("rss", "RSS MB", "{:.1f}"),
           ("retrans", "retrans", "{:.0f}"), ("lost", "lost %", "{:.2f}")]
NUMBER = {"ours": 1, "official": 2, "bare": 3}


class Pair:
    """Two hosts and their nodes."""

    def __init__(self, bed, kind):
        k = NUMBER[kind]
        self.ns = two_hosts(bed.work, [f"{kind}{i}" for i in (0, 1)], f"10.9{k}.0.", f"fd9{k}::")
        for i, ns in enumerate(self.ns):
            bed.uplink(ns, k * 2 + i)
        self.nodes = [] if kind == "bare" else [self.node(bed, kind, i) for i in (0, 1)]
        ips = self.nodes[1].ips() if self.nodes else [self.ns[1].ip4, self.ns[1].ip6]
        self.to4, self.to6 = sorted(ips, key=lambda a: ":" in a)
        server = bed.sup.start(f"iperf3-{kind}", ["iperf3", "-s", "--forceflush"], ns=self.ns[1])
        wait_until(lambda: "listening" in server.text(), "iperf3 listens", alive=[server])
        if self.nodes:
            self.wait_direct(bed, kind)

    def node(self, bed, kind, i):
        name = f"{kind}{i}"
        if kind == "ours":
            n = Node(bed.sup, self.ns[i], bed.work, name, bed.dev.url, bed.dev.key, flags=["--tun", "tailnet0"])
        else:
            n = official.Tailscaled(bed.sup, self.ns[i], bed.work, name, tun=True, env={"TS_DEBUG_NEVER_DIRECT_UDP": ""})
            n.up(bed.dev.url, bed.dev.key)
        prefer(n.proc.pid)
        return n

    def wait_direct(self, bed, kind):
        def direct():
            tunhost.ping(self.ns[0], self.to4, timeout=2)
            return (self.nodes[0].peer(f"{kind}1") or {}).get("CurAddr")
        wait_until(direct, f"a direct path of {kind}", timeout=60)


class Bed:
    def __init__(self, work):
        self.work, self.sup, self.pairs = work, Supervisor(work), {}
        self.ctl = Ns("ctl", work)
        self.ctl.ip4, self.ctl.ip6 = "10.90.0.1", "fd90::1"
        self.ctl.ip("addr", "add", f"{self.ctl.ip4}/32", "dev", "lo")
        self.dev = Dev(self.sup, self.ctl, work)

    def uplink(self, ns, i):
        """A cable to the control server alone."""
        run("ip", "link", "add", "cable", "netns", ns.name, "type", "veth", "peer", "name", f"u{i}", "netns", "ctl")
        ns.ip("addr", "add", f"10.80.{i}.2/24", "dev", "cable")
        ns.ip("link", "set", "cable", "up")
        self.ctl.ip("addr", "add", f"10.80.{i}.1/24", "dev", f"u{i}")
        self.ctl.ip("link", "set", f"u{i}", "up")
        ns.ip("route", "add", "default", "via", f"10.80.{i}.1")

    def pair(self, kind):
        if kind not in self.pairs:
            self.pairs[kind] = Pair(self, kind)
        return self.pairs[kind]


def measure(bed, kind, word, secs):
    pair = bed.pair(kind)
    pids = [n.proc.pid for n in pair.nodes]
    before = sum(map(cpu_s, pids))
    argv = ["iperf3", "-J", "-t", str(secs), "-c", pair.to6 if word == "six" else pair.to4, *ROWS[word][1]]
    r = subprocess.run(pair.ns[0].wrap(argv), capture_output=True, text=True, timeout=secs + 60)
    if r.returncode != 0:
        raise Failure(r.stdout[-300:] + r.stderr[-300:])
    said = json.loads(r.stdout)
    end = said["end"]
    if "error" in said:
        raise Failure(said["error"])
    got = end["sum"] if word == "udp" else end["sum_received"]
    f = {"gbit": got["bits_per_second"] / 1e9}
    if word == "udp":
        f["lost"] = got["lost_percent"]
        f["gbit"] *= 1 - f["lost"] / 100
    else:
        f["retrans"] = end["sum_sent"].get("retransmits", 0)
    if pids:
        f["rss"] = max(n.proc.rss_kib() for n in pair.nodes) / 1024
        f["cpu_gb"] = (sum(map(cpu_s, pids)) - before) / max(f["gbit"] * got["seconds"] / 8, 1e-9)
    return f


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--secs", type=int, default=4)
    ap.add_argument("--build", default=os.path.join(ROOT, "build"))
    ap.add_argument("--rows", default=",".join(ROWS))
    ap.add_argument("--kinds", default="ours,official,bare")
    args = ap.parse_args()
    os.environ["TN_BUILD"] = os.path.abspath(args.build)
    sandbox.enter()
    work = sandbox.Workdir("tunbench")
    bed = None
    try:
        bed = Bed(work.path)
        print(f"{'work':36} {'who':9}" + "".join(f"{title:>10}" for _, title, _ in COLUMNS), flush=True)
        for word in args.rows.split(","):
            got = {kind: [] for kind in args.kinds.split(",")}
            for i in range(args.runs):
                for kind, runs in got.items():
                    try:
                        runs.append(measure(bed, kind, word, args.secs))
                    except Failure as e:
                        print(f"  {word} {kind} run {i}: {e}", flush=True)
                    time.sleep(0.2)
            for kind, runs in got.items():
                cells = ""
                for key, _, fmt in COLUMNS:
                    values = [r[key] for r in runs if key in r]
                    cells += f"{fmt.format(statistics.median(values)) if values else '':>10}"
                print(f"{ROWS[word][0]:36} {kind:9}{cells}", flush=True)
    finally:
        if bed:
            bed.sup.end()
        work.remove()


if __name__ == "__main__":
    main()
