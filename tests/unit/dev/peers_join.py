#!/usr/bin/env python3
"""Official tailscaled and tsnet join the dev server: peers_join.py SERVER [PEERS_BIN]

SERVER is the tailnet-dev program, PEERS_BIN the directory with tailscaled, tailscale and tsnetpeer (tests/peers/bin).
The program runs itself again in a network namespace of its own with nothing but loopback. Exit status 77: something
that it needs is missing here.
"""
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

MARK = "TN_DEV_PEERS"
SKIP = 77
WEB = "198.51.100.1"  # on loopback in the namespace; for the nodes an address of the internet
SERVER = os.path.abspath(sys.argv[1])
BIN = os.path.abspath(sys.argv[2] if len(sys.argv) > 2 else
                      os.path.join(os.path.dirname(__file__), "..", "..", "peers", "bin"))


def skip(why):
    print("skip:", why, flush=True)
    sys.exit(SKIP)


def enter_namespace():
    if os.environ.get(MARK):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "addr", "add", WEB + "/32", "dev", "lo"], check=True)
        return
    for name in ("tailscaled", "tailscale", "tsnetpeer"):
        if not os.access(os.path.join(BIN, name), os.X_OK):
            skip(f"{BIN}/{name} is not built (Go)")
    flags = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    flags += [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    if subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode:
        skip("this machine forbids namespaces")
    os.environ[MARK] = "in"
    os.execvp("unshare", ["unshare", *flags, sys.executable, "-B", *sys.argv])


ENV = dict(os.environ, TS_LOG_TARGET="http://127.0.0.1:9", TS_DISABLE_PORTMAPPER="1", TS_NO_LOGS_NO_SUPPORT="true",
           TS_ASSUME_NETWORK_UP_FOR_TEST="1", TS_PANIC_IF_HIT_MAIN_CONTROL="1", TS_DEBUG_PERMIT_HTTP_C2N="1",
           TS_DEBUG_NEVER_DIRECT_UDP="1")


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def wait(condition, what, seconds=40):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


class Dev:
    """The server under test. A restart keeps its ports, as a real server's address stays."""

    def __init__(self, work):
        self.state, self.out, self.err = (os.path.join(work, n) for n in ("state", "dev.out", "dev.err"))
        self.start("127.0.0.1:18080")

    def start(self, listen):
        self.listen = listen
        self.proc = subprocess.Popen(
            [SERVER, "--listen", listen, "--state", self.state, "--verbose", "--ephemeral-timeout", "4"],
            stdout=open(self.out, "wb"), stderr=open(self.err, "ab"))
        wait(lambda: "\nready\n" in open(self.out).read(), "the server is ready")
        text = open(self.out).read()
        self.url = re.search(r"^login server +(\S+)$", text, re.M).group(1)
        self.key = re.search(r"^auth key +(\S+)$", text, re.M).group(1)

    def ask(self, path, post=True):
        req = urllib.request.Request(self.url + path, method="POST" if post else "GET",
                                     headers={"Authorization": "Bearer " + self.key})
        with urllib.request.urlopen(req, timeout=40) as r:
            return r.read()

    def nodes(self):
        return {n["Name"].split(".")[0]: n for n in json.loads(self.ask("/dev/nodes", post=False))}

    def stop(self):
        self.proc.terminate()
        code = self.proc.wait(20)
        err = open(self.err).read()
        expect("Sanitizer" not in err and "runtime error" not in err, err)
        expect(code == 0, f"the server ended with {code}\n{err}")


class Tailscaled:
    def __init__(self, work, name, socks, direct=False):
        env = dict(ENV)
        if direct:
            del env["TS_DEBUG_NEVER_DIRECT_UDP"]
        self.name, self.sock, self.socks = name, os.path.join(work, name + ".sock"), socks
        self.log = os.path.join(work, name + ".log")
        self.proc = subprocess.Popen(
            [os.path.join(BIN, "tailscaled"), "--tun=userspace-networking", "--statedir=" + os.path.join(work, name),
             "--socket=" + self.sock, f"--socks5-server=127.0.0.1:{socks}"],
            stdout=open(self.log, "wb"), stderr=subprocess.STDOUT, env=env)
        wait(lambda: os.path.exists(self.sock), "tailscaled listens")

    def cli(self, *args, check=True, seconds=60):
        r = subprocess.run([os.path.join(BIN, "tailscale"), "--socket=" + self.sock, *args], capture_output=True,
                           text=True, timeout=seconds, env=ENV)
        expect(not check or r.returncode == 0, f"{self.name}: tailscale {' '.join(args)}: {r.stdout}{r.stderr}")
        return r.stdout + r.stderr

    def up(self, dev, *flags):
        self.cli("up", "--login-server=" + dev.url, "--hostname=" + self.name, "--timeout=40s", *flags)

    def status(self):
        return json.loads(self.cli("status", "--json"))

    def peer(self, name):
        for p in (self.status().get("Peer") or {}).values():
            if p["DNSName"].split(".")[0] == name:
                return p
        return None

    def fetch(self, url):
        r = subprocess.run(["curl", "-sS", "--max-time", "30", "--socks5-hostname", f"127.0.0.1:{self.socks}", url],
                           capture_output=True, text=True)
        expect(r.returncode == 0, f"{url}: {r.stderr}")
        return r.stdout


def web_server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"a page of the internet")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer((WEB, 80), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def tsnet(dev, work, name, *flags):
    p = subprocess.Popen([os.path.join(BIN, "tsnetpeer"), "-control", dev.url, "-dir", os.path.join(work, name),
                          "-hostname", name, "-auth-key", dev.key, "-mode", "serve", *flags],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENV)
    hello = p.stdout.readline()
    expect('"ready":true' in hello, f"tsnet said {hello!r}")
    return p


def join_by_key(t):
    for n in (t.a, t.b):
        n.up(t.dev, "--auth-key=" + t.dev.key)
    expect(set(t.dev.nodes()) == {"a", "b"}, "both are nodes")
    self = t.a.status()["Self"]
    expect(self["TailscaleIPs"] == ["100.64.0.1", "fd7a:115c:a1e0::1"], self["TailscaleIPs"])
    expect(self["DNSName"] == "a.tailnet.test.", self["DNSName"])


def wrong_key(t):
    out = t.c.cli("up", "--login-server=" + t.dev.url, "--auth-key=tskey-auth-wrong", "--timeout=10s", check=False)
    expect("invalid auth key" in out, out)
    expect("c" not in t.dev.nodes(), "c is no node")


def pings(t):
    expect("via DERP(dev)" in t.a.cli("ping", "--c=2", "--until-direct=false", "b"), "disco ping through DERP")
    expect("via TSMP" in t.b.cli("ping", "--c=1", "--tsmp", "a"), "TSMP ping")
    expect("via ICMP" in t.b.cli("ping", "--c=1", "--icmp", "fd7a:115c:a1e0::1"), "ICMP ping over IPv6")


def stun(t):
    out = t.a.cli("netcheck", "--format=json")
    report = json.loads(out[out.index("{"):out.rindex("}") + 1])
    expect(report["UDP"] and report["PreferredDERP"] == 900, report)
    expect(report["GlobalV4"].startswith("127.0.0.1:"), report)


def tsnet_by_name(t):
    p = tsnet(t.dev, t.work, "tsn")
    wait(lambda: t.a.peer("tsn"), "a sees tsn")
    expect("hello from" in t.a.fetch("http://tsn/"), "a page of tsnet by its name")
    t.procs.append(p)


def exit_node(t):
    t.b.cli("set", "--advertise-exit-node")
    wait(lambda: (t.a.peer("b") or {}).get("ExitNodeOption"), "b is offered as exit node")
    t.a.cli("set", "--exit-node=b")
    expect(t.a.fetch(f"http://{WEB}/") == "a page of the internet", "a page through the exit node")
    t.a.cli("set", "--exit-node=")
    t.b.cli("set", "--advertise-exit-node=false")
    wait(lambda: not (t.a.peer("b") or {}).get("ExitNodeOption"), "b is offered no more")


def interactive(t):
    p = subprocess.Popen([os.path.join(BIN, "tailscale"), "--socket=" + t.c.sock, "up", "--login-server=" + t.dev.url,
                          "--hostname=c", "--timeout=60s", "--force-reauth", "--reset"],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENV)
    seen, url = "", None
    for line in p.stdout:
        seen += line
        found = re.search(r"http://\S+/a/[0-9a-f]{32}", line)
        if found:
            url = found.group(0)
            break
    expect(url, "a login URL is shown: " + seen)
    expect("c" not in t.dev.nodes(), "no node before the visit")
    with urllib.request.urlopen(url, timeout=10) as r:
        expect(b"c is logged in" in r.read(), "the page says who")
    expect(p.wait(60) == 0, "up succeeds")
    expect("pong" in t.c.cli("ping", "--c=1", "--tsmp", "a"), "and the node works")
    try:
        urllib.request.urlopen(url, timeout=10)
        raise AssertionError("the URL works twice")
    except urllib.error.HTTPError as e:
        expect(e.code == 404, e)


def questions(t):
    answer = t.dev.ask("/dev/c2n?node=a&path=/echo&method=POST&body=hello%20there")
    expect(answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"hello there"), answer)
    expect(t.dev.ask("/dev/ping?node=b") == b"", "the HEAD ping has no answer but its coming")
    pong = json.loads(t.dev.ask("/dev/ping?node=a&types=disco&ip=100.64.0.2"))
    expect(pong["DERPRegionID"] == 900 and not pong.get("Err"), pong)


def rename(t):
    t.b.cli("set", "--hostname=Other Name")
    wait(lambda: t.a.peer("other-name"), "a sees b's new name")
    t.b.cli("set", "--hostname=b")
    wait(lambda: t.a.peer("b"), "and the old one")


def expiry(t):
    t.dev.ask("/dev/expire?node=c")
    wait(lambda: t.c.status()["BackendState"] == "NeedsLogin", "c hears that its key has ended")
    wait(lambda: t.a.peer("c").get("Expired"), "so does a")
    ip = t.dev.nodes()["c"]["Addresses"]
    t.c.up(t.dev, "--auth-key=" + t.dev.key, "--force-reauth")
    wait(lambda: not t.a.peer("c").get("Expired"), "c is back with a new key")
    expect(t.dev.nodes()["c"]["Addresses"] == ip, "under its old address")
    expect("pong" in t.c.cli("ping", "--c=1", "--tsmp", "a"), "and works")


def logout(t):
    t.c.cli("logout")
    wait(lambda: not t.a.peer("c")["Online"], "a sees c offline")
    t.dev.ask("/dev/remove?node=c")
    wait(lambda: t.a.peer("c") is None, "a sees c removed")


def direct_paths(t):
    """Endpoints and disco keys reach the peers: two nodes that may find a direct path, and go and come back."""
    d, e = (Tailscaled(t.work, n, 11090 + i, direct=True) for i, n in enumerate("de"))
    t.procs += [d.proc, e.proc]
    for n in (d, e):
        n.up(t.dev, "--auth-key=" + t.dev.key)
    wait(lambda: d.peer("e") and e.peer("d"), "d and e see each other")
    expect(" via 127.0.0.1:" in d.cli("ping", "--c=10", "e") or " via 198.51.100.1:" in d.cli("ping", "--c=10", "e"),
           "a direct path")
    e.cli("down")
    wait(lambda: not d.peer("e")["Online"], "d sees e offline")
    e.cli("up")
    wait(lambda: d.peer("e")["Online"], "and online again")
    expect("pong" in d.cli("ping", "--c=5", "--until-direct=false", "e"), "and reaches it")


def ephemeral(t):
    p = tsnet(t.dev, t.work, "brief", "-ephemeral")
    wait(lambda: t.a.peer("brief"), "a sees brief")
    p.kill()
    p.wait()
    wait(lambda: t.a.peer("brief") is None, "a sees it removed")
    expect("brief" not in t.dev.nodes(), "it is no node")


def restart(t):
    before = {name: (n["ID"], n["Addresses"]) for name, n in t.dev.nodes().items()}
    t.dev.stop()
    t.dev.start(t.dev.listen)
    after = {name: (n["ID"], n["Addresses"]) for name, n in t.dev.nodes().items()}
    expect(before == after, f"{before} became {after}")
    wait(lambda: t.dev.nodes()["a"]["Online"] and t.dev.nodes()["b"]["Online"], "both come back", 90)
    wait(lambda: "pong" in t.a.cli("ping", "--c=1", "--tsmp", "b", check=False), "and reach each other", 90)


def strict(t):
    """A second server on the same state is refused; so is a truncated file, which stays as it is."""
    r = subprocess.run([SERVER, "--listen", "127.0.0.1:0", "--state", t.dev.state], capture_output=True, text=True)
    expect(r.returncode == 1 and "in use by another process" in r.stderr, r.stderr)
    other = os.path.join(t.work, "other")
    os.mkdir(other)
    for name in ("nodes.json", "keys.json"):
        half = open(os.path.join(t.dev.state, name), "rb").read()[:-5]
        with open(os.path.join(other, name), "wb") as f:
            f.write(half)
        r = subprocess.run([SERVER, "--listen", "127.0.0.1:0", "--state", other], capture_output=True, text=True)
        expect(r.returncode == 1 and name in r.stderr and len(r.stderr.splitlines()) == 1, r.stderr)
        expect(open(os.path.join(other, name), "rb").read() == half, "the file was touched")
        os.unlink(os.path.join(other, name))


CASES = [join_by_key, wrong_key, pings, stun, tsnet_by_name, exit_node, interactive, questions, rename, expiry,
         logout, direct_paths, ephemeral, strict, restart]


class Bed:
    def __init__(self, work):
        self.work, self.procs = work, []
        web_server()
        self.dev = Dev(work)
        ENV["TS_NETCHECK_GENERATE_204_URL"] = self.dev.url + "/generate_204"
        self.a, self.b, self.c = (Tailscaled(work, n, 11080 + i) for i, n in enumerate("abc"))
        self.procs += [self.a.proc, self.b.proc, self.c.proc]

    def end(self):
        for p in self.procs:
            p.kill()
            p.wait()


def main():
    enter_namespace()
    work = tempfile.mkdtemp(prefix="tn-dev-peers-")
    failed = 0
    bed = Bed(work)
    for case in CASES:
        began = time.monotonic()
        try:
            case(bed)
            print(f"ok {case.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as e:  # whatever a case stumbles over is its failure
            failed += 1
            print(f"FAIL {case.__name__}: {e!r}", flush=True)
    bed.end()
    try:
        bed.dev.stop()
        print("ok clean end", flush=True)
    except AssertionError as e:
        failed += 1
        print("FAIL clean end:", e, flush=True)
    if failed:
        print(open(bed.dev.err).read()[-4000:])
        print("logs in", work)
    else:
        shutil.rmtree(work)
    sys.exit(1 if failed else 0)


main()
