#!/usr/bin/env python3
"""A large netmap beside tsnet: time to the first byte, resident memory, what one delta costs.

    bench/netmap.py [--peers N,...] [--runs N] [--churn MS] [--secs S] [--build DIR] [--kinds ours,tsnet]

`tailnet dev --phantoms N --churn MS` is the control server: N nodes that nobody is behind, and one of them changes each MS
milliseconds. In a run each kind in turn goes from its start to the first byte of an echo (build/bench/usable, tsnetpeer's
-mode usable), and then, as a program that serves (build/bench/speed, tsnetpeer speed), holds the netmap: its memory after
SETTLE_S, then what it uses of the processor for S seconds, divided by the deltas of that time. Both are given as they are,
the garbage collector's pauses and all. Medians. Needs what bench/table.py needs."""
import argparse
import os
import re
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
sys.path.insert(0, os.path.join(ROOT, "bench"))
from bed import cpu_s  # noqa: E402
from lib import official, sandbox  # noqa: E402
from lib.proc import Failure, wait_until  # noqa: E402
from table import Bed  # noqa: E402

SETTLE_S = 4  # the netmap is in, and what its arrival needed is given back where a program does that
COLUMNS = [("first", "first ms", "{:.0f}"), ("first_cpu", "its CPU ms", "{:.0f}"), ("rss", "RSS MB", "{:.1f}"),
           ("peak", "peak MB", "{:.1f}"), ("delta", "delta us", "{:.0f}")]


def memory_mb(pid, what):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(what + ":")) / 1024


def echo_server(bed, build):
    """Ours for all kinds: it must not be what the client waits for."""
    env = {"TS_AUTHKEY": bed.dev.key, "TS_CONTROL_URL": bed.dev.url, "TS_STATE_DIR": os.path.join(bed.work, "echo")}
    p = bed.sup.start("echo", [os.path.join(build, "examples", "echo")], ns=bed.ns[0], env=env)
    return wait_until(lambda: re.search(r"^ready on (\S+)", p.text(), re.M), "echo serves", timeout=60, alive=[p])[1] + ":7"


def first_byte(bed, build, kind, target, tag):
    """Milliseconds from start to first byte, and of the processor."""
    name = f"usable-{kind}-{tag}"
    env = dict(os.environ, TS_AUTHKEY=bed.dev.key)
    before = os.times()
    if kind == "tsnet":
        t = official.Tsnet(bed.sup, bed.ns[1], bed.work, bed.dev.url, name, "usable", bed.dev.key, flags=["-target", target, "-ephemeral"],
                           direct=True)
        ms = float(t.read()["usable_ms"])
        cpu = cpu_s(t.proc.pid)
        t.proc.stop()
        return ms, cpu * 1e3
    argv = [os.path.join(build, "bench", "usable"), bed.dev.url, target]
    r = subprocess.run(bed.ns[1].wrap(argv), env=env, capture_output=True, text=True, timeout=60)
    if r.returncode != 0:
        raise Failure(f"usable: {r.stderr}")
    after = os.times()
    return float(r.stdout), (after.children_user + after.children_system - before.children_user - before.children_system) * 1e3


def hold(bed, kind, args):
    server, _ = bed.server(kind)
    time.sleep(SETTLE_S)
    f = {"rss": memory_mb(server.pid, "VmRSS"), "peak": memory_mb(server.pid, "VmHWM")}
    cpu, start = cpu_s(server.pid), time.monotonic()
    time.sleep(args.secs)
    f["delta"] = (cpu_s(server.pid) - cpu) / ((time.monotonic() - start) * 1e3 / args.churn) * 1e6
    bed.stop(kind)
    return f


def measure(bed, build, kind, target, tag, args):
    f = dict(zip(("first", "first_cpu"), first_byte(bed, build, kind, target, tag)))
    time.sleep(0.5)
    return f | hold(bed, kind, args)


def table(peers, args):
    build = os.path.abspath(args.build)
    work = sandbox.Workdir("netmap")
    bed = None
    try:
        bed = Bed(work.path, build, ["--phantoms", str(peers), "--churn", str(args.churn)] if peers else [])
        target = echo_server(bed, build)
        got = {kind: [] for kind in args.kinds.split(",")}
        for i in range(args.runs):
            for kind, runs in got.items():
                try:
                    runs.append(measure(bed, build, kind, target, i, args))
                except Failure as e:
                    print(f"  {peers} {kind} run {i}: {e}", flush=True)
        for kind, runs in got.items():
            cells = ""
            for key, _, fmt in COLUMNS:
                values = [r[key] for r in runs if key in r and not (key == "delta" and not peers)]
                cells += f"{fmt.format(statistics.median(values)) if values else '':>12}"
            print(f"{peers:8} {kind:6}{cells}", flush=True)
    finally:
        if bed:
            bed.sup.end()
        work.remove()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--peers", default="10000")
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--churn", type=int, default=100, help="at least the 20 ms for which tailnet dev gathers changes")
    ap.add_argument("--secs", type=float, default=10)
    ap.add_argument("--build", default=os.path.join(ROOT, "build"))
    ap.add_argument("--kinds", default="ours,tsnet")
    args = ap.parse_args()
    os.environ["TN_BUILD"] = os.path.abspath(args.build)
    if "," not in args.peers:
        sandbox.enter()
        print(f"{'peers':>8} {'who':6}" + "".join(f"{title:>12}" for _, title, _ in COLUMNS), flush=True)
        table(int(args.peers), args)
        return
    for peers in args.peers.split(","):  # a sandbox for each
        argv = [sys.executable, *sys.argv, "--peers", peers]
        subprocess.run(argv, check=True)


if __name__ == "__main__":
    main()
