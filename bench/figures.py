#!/usr/bin/env python3
"""The figures of the README, measured here and now: size, memory, download through exit and proxy, time to usable beside
tsnet, goodput beside Linux. Needs what the end to end tests need (root or user namespaces, Go peers in tests/peers/bin).

    bench/figures.py [--runs N] [--build DIR] [NAME ...]      names: size usable memory download goodput

DIR is a release build (default build/). Compared programs run alternately in the same session; medians are printed."""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))


def median(values):
    return statistics.median(values)


def rss_kb(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def size(build, _runs):
    for path in ("tailnet", "src/node/libtailnet.so.0.1.0"):
        with tempfile.NamedTemporaryFile() as tmp:
            shutil.copyfile(os.path.join(build, path), tmp.name)
            subprocess.run(["strip", tmp.name], check=True)
            print(f"size: {os.path.basename(path)} stripped {os.path.getsize(tmp.name) / 1e3:.0f} kB")


def in_bed(fn, with_tun=False):
    """Runs fn(bed) in the end to end tests' topology."""
    from lib.exitbed import ExitBed

    class Bed(ExitBed):
        pass

    Bed.with_tun = with_tun
    work = tempfile.mkdtemp(prefix="tn-bench-")
    bed = Bed(work)
    try:
        bed.build()
        return fn(bed)
    finally:
        try:
            bed.finish()
        finally:
            bed.sup.end()
            shutil.rmtree(work, ignore_errors=True)


def download(_build, runs):
    from lib import proxies
    mb = 64

    def measure(bed):
        for cls in (proxies.Dante, proxies.Microsocks):
            p = cls(bed.sup, bed.net.proxy, bed.dir)
            node = bed.exit(proxy=p)
            url = f"http://{bed.net.inet.web4}/blob/{mb << 20}"
            speeds = []
            for _ in range(runs + 1):
                _, got, seconds = bed.client.download(url)
                speeds.append(got / seconds / 1e6)
            print(f"download: {mb} MB by an official client through exit and {cls.program}: median {median(speeds[1:]):.1f} MB/s "
                  f"({' '.join(f'{s:.0f}' for s in speeds[1:])}), node's memory afterwards {rss_kb(node.proc.pid) / 1e3:.1f} MB")
            p.stop()

    in_bed(measure)


def memory(_build, _runs):
    """Idle, and with 1,000 idle flows through the proxy, and after they were closed."""
    from lib import proxies
    flows = 1000

    def measure(bed):
        p = proxies.Microsocks(bed.sup, bed.net.proxy, bed.dir)
        node = bed.exit(proxy=p)
        time.sleep(5)
        pid = node.proc.pid
        idle = rss_kb(pid)
        print(f"memory: idle node {idle / 1e3:.2f} MB resident")
        socks = []
        for _ in range(flows):
            s, _ = bed.connect(bed.net.inet.web4, 7)
            s.sendall(b"x")
            assert s.recv(1) == b"x"
            socks.append(s)
        time.sleep(2)
        full = rss_kb(pid)
        print(f"memory: {flows} idle forwarded flows {full / 1e3:.2f} MB, {(full - idle) / 1e3:.2f} MB more than idle")
        for s in socks:
            s.close()
        time.sleep(5)
        print(f"memory: after they were closed {rss_kb(pid) / 1e3:.2f} MB")

    in_bed(measure, with_tun=True)


SETTLE_S = 1.0  # what the last program left behind (its peers' netmaps, its own end) is over before the next is timed


def usable(build, runs):
    """From start to the first byte of an echo over the tailnet, ours (build/bench/usable) and tsnet's."""
    from lib import official

    def measure(bed):
        server = official.Tsnet(bed.sup, bed.net.peer(1), bed.dir, bed.control.url, "echoserver", "serve")
        target = f"{next(a for a in server.ips if ':' not in a)}:7"
        ours, theirs = [], []
        for i in range(runs):
            time.sleep(SETTLE_S)
            argv = [os.path.join(build, "bench", "usable"), bed.control.url, target]
            r = subprocess.run(bed.net.node.wrap(argv), check=True, capture_output=True, timeout=60, text=True)
            ours.append(float(r.stdout))
            time.sleep(SETTLE_S)
            t = official.Tsnet(bed.sup, bed.net.node, bed.dir, bed.control.url, f"usable{i}", "usable",
                               flags=["-target", target, "-ephemeral"])
            theirs.append(float(t.read()["usable_ms"]))
            t.proc.stop()
        print(f"usable: start to first byte, median of {runs}: libtailnet {median(ours):.1f} ms, tsnet {median(theirs):.0f} ms "
              f"(ratio {median(ours) / median(theirs):.2f})")

    in_bed(measure)


def goodput(build, _runs):
    subprocess.run([os.path.join(build, "bench", "stack_goodput")], check=True)


WORK = {f.__name__: f for f in (size, usable, memory, download, goodput)}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--build", default=os.path.join(ROOT, "build"))
    ap.add_argument("names", nargs="*", choices=[[], *WORK], default=[])
    ap.add_argument("--one", help=argparse.SUPPRESS, choices=WORK)
    args = ap.parse_args()
    if not args.one:  # a sandbox, and so a process, for each: they use the same names of namespaces
        for name in args.names or WORK:
            argv = [sys.executable, __file__, "--one", name, "--runs", str(args.runs), "--build", args.build]
            if subprocess.run(argv).returncode != 0:
                print(f"{name}: could not be measured")
        return
    from lib import sandbox
    sandbox.enter()  # namespaces of our own: nothing leaves
    build = os.path.abspath(args.build)
    os.environ["TN_BUILD"] = build
    WORK[args.one](build, args.runs)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
