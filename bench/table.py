#!/usr/bin/env python3
"""The data path beside its peers, as one table: throughput, memory, CPU per GB, latency, connections.

    bench/table.py [--runs N] [--secs S] [--build DIR] [--rows WORD,...] [--kinds ours,tsnet,rust,fd,w1]

Two namespaces joined by a veth pair, one program in each (bench/speed, or in the same habit tests/peers/tsnetpeer and, after
bench/rust/build.sh, a program on the crate geiserx_tailscale), the control server (`tailnet dev`) in the first; both programs
and the link share this machine. Kinds are run alternately in the same session, and medians are printed. Needs root or user
namespaces, a release build, and the Go peers. wN is ours with so many workers on both ends."""
import argparse
import os
import re
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
sys.path.insert(0, os.path.join(ROOT, "bench"))
from bed import cpu_s, prefer, two_hosts  # noqa: E402
from lib import sandbox  # noqa: E402
from lib.node import Dev  # noqa: E402
from lib.proc import Failure, Supervisor, wait_until  # noqa: E402

RUST = os.path.join(ROOT, "bench", "rust", "bin", "rustpeer")
# word: (what it says, the dialer's flags)
ROWS = {
    "one": ("one stream", []),
    "four": ("four streams", ["-n", "4"]),
    "reverse": ("one stream, reverse", ["-R"]),
    "idle": ("1 byte, unloaded", ["-L", "-n", "1"]),
    "loaded": ("1 byte beside a stream", ["-L", "-n", "2"]),
    "connect": ("connections", ["-C"]),
}


class Bed:
    def __init__(self, work, build, dev_flags=()):
        self.work, self.build = work, build
        self.sup = Supervisor(work)
        self.ns = two_hosts(work, ("left", "right"), "10.99.0.")
        for i, ns in enumerate(self.ns):
            ns.ip("route", "add", "default", "dev", f"v{i}")
        self.dev = Dev(self.sup, self.ns[0], work, flags=dev_flags)
        self.servers = {}

    def command(self, kind, mode, name, flags):
        state = os.path.join(self.work, f"state-{name}")
        common = ["--login-server", self.dev.url, "--state", state, "--hostname", name, *flags]
        if kind == "tsnet":
            return [os.path.join(ROOT, "tests", "peers", "bin", "tsnetpeer"), "speed", mode, *common]
        if kind == "rust":
            return [RUST, mode, *common]
        more = ["-d"] if kind == "fd" else ["--workers", kind[1:]] if re.fullmatch(r"w\d+", kind) else []
        return [os.path.join(self.build, "bench", "speed"), mode, *common, *more]

    def env(self):
        return {"TS_AUTHKEY": self.dev.key, "TS_NO_LOGS_NO_SUPPORT": "true",
                "TS_RS_EXPERIMENT": "this_is_unstable_software"}

    def server(self, kind):
        """Started once a kind; "IP:PORT" of its port 5001."""
        if kind not in self.servers:
            p = self.sup.start(f"serve-{kind}", self.command(kind, "serve", f"serve-{kind}", []), ns=self.ns[0], env=self.env())
            prefer(p.pid)
            m = wait_until(lambda: re.search(r"^(\S+:5001)$", p.text(), re.M), f"{kind} serves", timeout=60, alive=[p])
            self.servers[kind] = (p, m[1])
        return self.servers[kind]

    def stop(self, kind):
        p, _ = self.servers.pop(kind)
        p.kill()


def measure(bed, kind, word, secs, tag):
    """One run: a dict of figures."""
    server, to = bed.server(kind)
    flags = ["--to", to, "--secs", str(secs), *ROWS[word][1]]
    before = cpu_s(server.pid)
    p = bed.sup.start(f"dial-{kind}-{word}-{tag}", bed.command(kind, "dial", f"dial-{kind}-{word}-{tag}", flags), ns=bed.ns[1],
                      env=bed.env())
    prefer(p.pid)
    if p.wait(timeout=secs + 90) != 0 or "no direct path" in p.text():
        raise Failure(f"{p.name}: {p.tail()}")
    out = p.text()
    f = {"rss": server.rss_kib() / 1024, "cpu": cpu_s(server.pid) - before}
    if m := re.search(r"(\d+) streams ([\d.]+) Gbit/s", out):
        f["gbit"] = float(m[2])
    if m := re.search(r"p50 (\d+) us p99 (\d+) us", out):
        f["p50"], f["p99"] = float(m[1]), float(m[2])
    if m := re.search(r"(\d+) connections/s", out):
        f["conn"] = float(m[1])
    m = re.search(r"rss ([\d.]+) MB cpu ([\d.]+) s in ([\d.]+) s", out)
    f["rss"] = max(f["rss"], float(m[1]))
    f["cpu"] += float(m[2])
    if "gbit" in f:
        f["cpu_gb"] = f["cpu"] / max(f["gbit"] / 8 * float(m[3]), 1e-9)
    return f


COLUMNS = [("gbit", "Gbit/s", "{:.2f}"), ("cpu_gb", "CPU s/GB", "{:.2f}"), ("p50", "p50 us", "{:.0f}"),
           ("p99", "p99 us", "{:.0f}"), ("conn", "conn/s", "{:.0f}"), ("rss", "RSS MB", "{:.1f}")]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--secs", type=float, default=4)
    ap.add_argument("--build", default=os.path.join(ROOT, "build"))
    ap.add_argument("--rows", default=",".join(ROWS))
    ap.add_argument("--kinds", default="ours,tsnet" + (",rust" if os.path.exists(RUST) else ""))
    args = ap.parse_args()
    for word in args.rows.split(","):
        if word not in ROWS:
            ap.error(f"no row '{word}': {', '.join(ROWS)}")
    os.environ["TN_BUILD"] = os.path.abspath(args.build)
    sandbox.enter()
    work = sandbox.Workdir("table")
    bed = None
    try:
        bed = Bed(work.path, os.path.abspath(args.build))
        print(f"{'work':24} {'who':6}" + "".join(f"{title:>10}" for _, title, _ in COLUMNS), flush=True)
        for word in args.rows.split(","):
            got = {kind: [] for kind in args.kinds.split(",")}
            for i in range(args.runs):
                for kind, runs in got.items():
                    try:
                        runs.append(measure(bed, kind, word, args.secs, i))
                    except Failure as e:
                        print(f"  {word} {kind} run {i}: {e}", flush=True)
            for kind, runs in got.items():
                cells = ""
                for key, _, fmt in COLUMNS:
                    values = [r[key] for r in runs if key in r]
                    cells += f"{fmt.format(statistics.median(values)) if values else '':>10}"
                print(f"{ROWS[word][0]:24} {kind:6}{cells}", flush=True)
    finally:
        if bed:
            bed.sup.end()
        work.remove()


if __name__ == "__main__":
    main()
