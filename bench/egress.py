#!/usr/bin/env python3
"""Our exit node beside sing-box and the official exit node, in the same bed and the same run, taking turns: download, CPU and
memory, connection rates, idle flows, fairness. Medians are printed.

    bench/egress.py [--rounds N] [--build DIR] [--only NAME,...] [--softirqs] [WORK ...]

    works: download connects idle fair both

Needs root (a TUN device for the official client), the Go peers (tests/peers/build.sh), and bench/singbox/build.sh for sing-box;
a peer that is not there is left out, and says so. The client is the official one, with a TUN device and a direct path. ours-tls,
behind a proxy with TLS (squid), and ours-pool, where the first client's proxy never answers, are measured when they are named by
--only. both: the download with our node as the client, too, where ours is the exit node. --softirqs: of the CPU seconds of download and
both also what is left without softirqs (softirqs.py; needs perf, which costs some itself)."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))

from softirqs import Softirqs  # noqa: E402

MIB = 1 << 20
BLOB = 512 * MIB
ECHO_PORT, BLOB_PORT, NOWHERE_PORT = 7007, 8008, 9009
SINGBOX = os.path.join(ROOT, "bench", "singbox", "bin", "sing-box")
TICK = os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_mb(pid, what="VmRSS"):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(what)) / 1e3


def forget_peak(pid):
    with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as f:
        f.write("5")


class Ours:
    """tailnet run, with a proxy or in host mode."""

    def __init__(self, name, flags):
        self.name, self.flags = name, flags

    def missing(self):
        return None

    def start(self, bed):
        from lib.node import Node
        self.node = Node(bed.sup, bed.net.node, bed.dir, self.name, bed.control.url, flags=["--advertise-exit-node", *self.flags(bed)])
        return self.node.proc

    def stop(self):
        self.node.proc.stop(timeout=30)


class SingBox:
    name = "singbox"

    def missing(self):
        return None if os.access(SINGBOX, os.X_OK) else "bench/singbox/build.sh was not run"

    def start(self, bed):
        d = os.path.join(bed.dir, "singbox")
        os.makedirs(d, exist_ok=True)
        conf = {"log": {"level": "error"},
                "endpoints": [{"type": "tailscale", "tag": "ts", "state_directory": d, "control_url": bed.control.url,
                               "hostname": self.name, "advertise_exit_node": True}],
                "outbounds": [{"type": "socks", "tag": "up", "server": bed.net.proxy.ip4, "server_port": bed.proxy.port,
                               "version": "5"}],
                "route": {"final": "up"}}
        path = os.path.join(d, "config.json")
        with open(path, "w", encoding="ascii") as f:
            json.dump(conf, f)
        self.proc = bed.sup.start("sing-box", [SINGBOX, "run", "-D", d, "-c", path], ns=bed.net.node, env=bed.official_env)
        return self.proc

    def stop(self):
        self.proc.stop(timeout=30)


class Official:
    """tailscaled as exit node, userspace networking as ours; no proxy, since it knows none."""
    name = "official"

    def missing(self):
        return None

    def start(self, bed):
        from lib import official
        self.node = official.Tailscaled(bed.sup, bed.net.node, bed.dir, self.name, env=bed.official_env)
        self.node.up(bed.control.url, "", "--advertise-exit-node")
        return self.node.proc

    def stop(self):
        self.node.proc.stop(timeout=30)


def through_proxy(bed):
    return ["--exit-proxy", bed.proxy.url()]


def through_tls(bed):
    from lib import proxies
    if not bed.tls:
        bed.tls = proxies.SquidTls(bed.sup, bed.net.proxy, bed.dir)
    path = os.path.join(bed.dir, "tls.conf")
    with open(path, "w", encoding="ascii") as f:
        f.write(f"[proxy squid]\nurl = {bed.tls.url()}\npin = {bed.tls.pin()}\n")
    return ["--config", path]


def through_pool(bed):
    """The first client's dials go to a proxy that takes them and is silent, everybody else's to the one that works."""
    from lib import scripted
    if not bed.silent:
        bed.silent = scripted.Scripted(bed.net.proxy, scripted.hang, port=1099)
    path = os.path.join(bed.dir, "pool.conf")
    with open(path, "w", encoding="ascii") as f:
        f.write(f"[proxy good]\nurl = {bed.proxy.url()}\n[proxy silent]\nurl = {bed.silent.url()}\n"
                f"[rule]\nfrom = tunclient\nport = {NOWHERE_PORT}\nuse = silent\n[rule]\nuse = good\n")
    return ["--config", path]


def contestants(only):
    extra = [c for c in (Ours("ours-tls", through_tls), Ours("ours-pool", through_pool)) if c.name in only]
    return extra + [Ours("ours-proxy", through_proxy), SingBox(), Ours("ours-host", lambda bed: ["--exit-egress", "host"]), Official()]


def make_bed(work):
    from lib import official, proxies
    from lib.case import Bed

    class EgressBed(Bed):
        official_env = {"TS_DEBUG_NEVER_DIRECT_UDP": "0"}

        def build(self):
            n = self.net
            for ns in (n.peer(2), n.node, n.proxy, n.inet):  # thousands of connections to one place, and what they leave behind
                ns.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=10000 65000", "net.ipv4.tcp_tw_reuse=1")
            self.load = os.path.join(os.environ["TN_BUILD"], "bench", "load")
            self.server = self.sup.start("load", [self.load, "serve", ECHO_PORT, BLOB_PORT], ns=n.inet)
            self.control = official.TestControl(self.sup, n.ctl)
            self.proxy, self.tls, self.silent = proxies.Dante(self.sup, n.proxy, self.dir), None, None
            self.client = official.Tailscaled(self.sup, n.peer(2), self.dir, "tunclient", tun=True, env=self.official_env)
            self.client.up(self.control.url)
            # Its queue of 500 drops the SYNs of 1,000 connects at once, which then take a second whoever is the exit node.
            n.peer(2).ip("link", "set", "tailscale0", "txqueuelen", "10000")
            self.second = None

        def use(self, who):
            self.exit = who
            proc = who.start(self)
            from lib.proc import wait_until
            wait_until(lambda: self.control.node(who.name), f"control knows {who.name}", alive=[proc])
            self.control.approve_exit(who.name)
            self.client.use_exit(who.name)
            self.reach(self.client, who)
            if self.second:
                self.second.use_exit(who.name)
                self.reach(self.second, who)
            return proc

        def reach(self, client, who):
            client.try_cli("ping", "--c=10", "--timeout=2s", client.peer(who.name)["TailscaleIPs"][0])

        def second_client(self):
            """Another client of the same exit node, for what one does to the other."""
            from lib import official
            ns = self.net.peer(3)
            self.net.inet.nft("table inet nowhere {\n chain in {\n  type filter hook input priority 0;\n"
                              f"  tcp dport {NOWHERE_PORT} drop\n }}\n}}\n")
            self.second = official.Tailscaled(self.sup, ns, self.dir, "tunclient2", tun=True, env=self.official_env)
            self.second.up(self.control.url)

        def run_load(self, *args, peer=2):
            argv = [self.load, *map(str, args)]
            r = subprocess.run(self.net.peer(peer).wrap(argv), capture_output=True, text=True, timeout=300)
            return r.stdout.strip() or r.stderr.strip()

        def start_load(self, *args):
            return self.sup.start("load-client", [self.load, *map(str, args)], ns=self.net.peer(2), stdin=True, stdout_pipe=True)

    bed = EgressBed(work)
    bed.build()
    return bed


def path_of(bed, who):
    p = bed.client.peer(who.name) or {}
    return "direct" if p.get("CurAddr") else f"DERP {p.get('Relay')}"


# ---- works: each measures one contestant once and returns {figure: number} ----

def download(bed, proc, peer=2):
    web = bed.net.inet.web4
    bed.run_load("get", web, BLOB_PORT, 16 * MIB, peer=peer)
    forget_peak(proc.pid)
    before = cpu_s(proc.pid)
    with Softirqs(proc.pid if bed.softirqs else None) as softirqs:
        said = bed.run_load("get", web, BLOB_PORT, BLOB, peer=peer)
        cpu = cpu_s(proc.pid) - before
    gib = BLOB / (1 << 30)
    figures = {"MB/s": float(said.split()[0]), "CPU s/GiB": cpu / gib}
    if softirqs.seconds is not None:
        figures["without softirqs"] = (cpu - softirqs.seconds) / gib
    return {**figures, "peak MB": memory_mb(proc.pid, "VmHWM")}


def both(bed, proc):
    """The download by a client of the same make as the exit node, in TUN mode."""
    if not isinstance(bed.exit, Ours):
        return download(bed, proc)
    from lib.node import Node
    ns = bed.net.peer(3)
    client = Node(bed.sup, ns, bed.dir, "ourclient", bed.control.url, flags=["--tun", "tailnet0", "--exit-node", bed.exit.name])
    client.wait_peer(bed.exit.name, lambda p: p.get("ExitNode"), "is the exit node")
    client.try_cli("ping", bed.exit.name)
    try:
        return download(bed, proc, peer=3)
    finally:
        client.proc.stop(timeout=30)


def connects(bed, proc):
    out = {}
    for parallel, count in ((200, 4000), (1000, 4000)):
        before = cpu_s(proc.pid)
        w = bed.run_load("connects", bed.net.inet.web4, ECHO_PORT, count, parallel).split()
        out.update({f"{parallel} parallel /s": float(w[0]), f"{parallel} p50 ms": float(w[3]), f"{parallel} p99 ms": float(w[6]),
                    f"{parallel} failed": float(w[9]), f"{parallel} CPU ms/connect": (cpu_s(proc.pid) - before) / count * 1e3})
    return out


def idle(bed, proc, flows=10000):
    time.sleep(3)
    at_rest = memory_mb(proc.pid)
    load = bed.start_load("idle", bed.net.inet.web4, ECHO_PORT, flows)
    from lib.proc import LineTalk
    said = LineTalk(load).read(timeout=180).split()
    time.sleep(2)
    full = memory_mb(proc.pid)
    load.popen.stdin.close()
    load.popen.wait(60)
    time.sleep(75)
    return {"idle MB": at_rest, "flows": float(said[0]), "MB more": full - at_rest, "MB more 75 s after closing":
            memory_mb(proc.pid) - at_rest}


def fair(bed, proc):
    """What the second client's connects take (p99), alone and beside what the first one does to the exit node."""
    from lib.proc import LineTalk
    web = bed.net.inet.web4
    bed.run_load("connects", web, ECHO_PORT, 100, 4, peer=3)

    def p99():
        w = bed.run_load("connects", web, ECHO_PORT, 1000, 4, peer=3).split()
        return float(w[6]), float(w[9])

    out = {}
    out["alone p99 ms"], out["failed"] = p99()
    stalled = bed.start_load("stall", web, BLOB_PORT, 64 * MIB, 400)
    LineTalk(stalled).read(timeout=120)
    time.sleep(3)  # until the buffers on the way are full
    out["400 stalled downloads p99 ms"], failed = p99()
    out["failed"] += failed
    stalled.popen.stdin.close()
    stalled.popen.wait(60)
    time.sleep(10)
    storm = bed.start_load("connects", web, NOWHERE_PORT, 4000, 4000)
    time.sleep(2.5)  # its SYNs are repeated each second, which takes this machine 100 ms and the exit node 10 to 30: between two of these
    out["4,000 connects to nowhere p99 ms"], failed = p99()
    out["failed"] += failed
    storm.kill()
    out["MB"] = memory_mb(proc.pid)
    return out


WORK = {f.__name__: f for f in (download, connects, idle, fair, both)}


def measure(args, work):
    tmp = tempfile.mkdtemp(prefix="tn-bench-")
    bed = make_bed(tmp)
    bed.softirqs = args.softirqs
    if work == "fair":
        bed.second_client()
    who = [c for c in contestants(args.only.split(",")) if not args.only or c.name in args.only.split(",")]
    for c in who:
        if c.missing():
            print(f"{c.name}: left out: {c.missing()}")
    who = [c for c in who if not c.missing()]
    rounds = 1 if work == "idle" else args.rounds
    got = {c.name: [] for c in who}
    paths = {}
    try:
        for _ in range(rounds):
            for c in who:
                proc = bed.use(c)
                paths[c.name] = path_of(bed, c)
                got[c.name].append(WORK[work](bed, proc))
                for client in filter(None, (bed.client, bed.second)):
                    client.no_exit()
                c.stop()
    finally:
        bed.sup.end()
        shutil.rmtree(tmp, ignore_errors=True)
    for c in who:
        told = [k for k in got[c.name][0] if all(k in r for r in got[c.name])]
        figures = {k: statistics.median(r[k] for r in got[c.name]) for k in told}
        said = ", ".join(f"{k} {v:.2f}" if "CPU" in k or "softirqs" in k else f"{k} {v:.1f}" for k, v in figures.items())
        if args.softirqs and "CPU s/GiB" in figures and "without softirqs" not in figures:
            said += " (softirqs can't be told apart here: softirqs.py says when)"
        print(f"{work}: {c.name:10} ({paths[c.name]}) {said}", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--build", default=os.path.join(ROOT, "build"))
    ap.add_argument("--only", default="")
    ap.add_argument("--softirqs", action="store_true")
    ap.add_argument("--one", help=argparse.SUPPRESS, choices=WORK)
    ap.add_argument("work", nargs="*", choices=[[], *WORK], default=[])
    args = ap.parse_args()
    if not args.one:  # a sandbox, and so a process, for each: they use the same names of namespaces
        for name in args.work or WORK:
            argv = [sys.executable, __file__, "--one", name, "--rounds", str(args.rounds), "--build", args.build, "--only", args.only]
            argv += ["--softirqs"] if args.softirqs else []
            if subprocess.run(argv).returncode != 0:
                print(f"{name}: could not be measured")
        return
    from lib import sandbox
    sandbox.enter()  # namespaces of our own: nothing leaves
    os.environ["TN_BUILD"] = os.path.abspath(args.build)
    measure(args, args.one)


if __name__ == "__main__":
    main()
