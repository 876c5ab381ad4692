#!/usr/bin/env python3
"""The demo of ./quickstart: a tailnet in a box, an exit node behind a SOCKS5 proxy, a client, a web server, each in a network
namespace of its own on this machine; then the proxy dies, and nothing leaves. See tests/e2e/lib for the parts."""
import os
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python still imports: a silent end

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from lib import inet, proxies, sandbox  # noqa: E402
from lib.net import Topology  # noqa: E402
from lib.node import Dev, Node  # noqa: E402
from lib.oracle import Oracle  # noqa: E402
from lib.proc import Failure, Supervisor, expect, wait_until  # noqa: E402

SOCKS = "127.0.0.1:1080"
CREDENTIALS = "ann:s3cret"

REAL = """
A real tailnet, in one command (an auth key from your admin console; your proxy's URL in a file, so that ps shows nothing):

    build/tailnet run --auth-key tskey-auth-... --hostname exit --advertise-exit-node --exit-proxy file:proxy.url

Approve the exit node in the console, then on any device:  tailscale set --exit-node=exit
"""


def say(text=""):
    print(text, flush=True)


class Demo:
    def __init__(self, workdir):
        self.dir = workdir
        self.sup = Supervisor(workdir)
        self.net = Topology(workdir)

    def parts(self):
        n = self.net
        self.web = inet.Listener(n.inet, inet.WEB, inet.serve_web, (n.inet.web4, n.inet.web6))
        say(f"web server      on {n.inet.web4}, in a namespace that plays the internet")
        self.proxy = proxies.Microsocks(self.sup, n.proxy, self.dir, credentials=CREDENTIALS)
        say(f"microsocks      on {n.proxy.ip4}:{self.proxy.port}, with a password")
        self.control = Dev(self.sup, n.ctl, self.dir)
        say(f"tailnet dev     on {n.ctl.ip4}: control server, DERP relay, STUN")
        self.exit = Node(self.sup, n.node, self.dir, "exit", self.control.url, self.control.key,
                         flags=["--advertise-exit-node", "--exit-proxy", self.proxy.url()])
        say(f"exit node       on {n.node.ip4}, in the tailnet as {self.exit.ip4}")
        self.user = Node(self.sup, n.peer(1), self.dir, "user", self.control.url, self.control.key,
                         flags=["--exit-node", "exit", "--socks5-server", SOCKS])
        say(f"client node     on {n.peer(1).ip4}, in the tailnet as {self.user.ip4}")
        say()
        say("    $ tailnet run --hostname exit --advertise-exit-node --exit-proxy socks5://ann:...@"
            f"{n.proxy.ip4}:{self.proxy.port}")
        say(f"    $ tailnet run --hostname user --exit-node exit --socks5-server {SOCKS}")
        say()

    def fetch(self, timeout=20):
        return self.user.curl(SOCKS, f"http://{self.net.inet.web4}/ip", timeout=timeout)

    def show(self):
        n = self.net
        with Oracle(n.node, control=self.control, proxies=[self.proxy], peers=[self.user.ns]):
            code, out, err = wait_until(lambda: (lambda r: r if r[0] == 0 else None)(self.fetch()), "a page through the exit node",
                                        alive=[self.exit.proc, self.user.proc])
            seen = out.decode().strip()
            say(f"1. The client fetches http://{n.inet.web4}/ip through the exit node.")
            say(f"   The web server saw {seen}, the proxy (the exit node is {n.node.ip4}, the client {n.peer(1).ip4}).")
            expect(seen == n.proxy.ip4, f"the web server saw {seen}, which is not the proxy")
            self.proxy.stop()
            visits = len(self.web.seen)
            code, out, err = self.fetch()
            say("2. The proxy is killed. The client tries again:")
            say(f"   {err or out.decode()}")
            expect(code != 0, f"a page came without the proxy: {out!r}")
            expect(len(self.web.seen) == visits, "the web server was reached without the proxy")
            say("   Refused at once (that is SOCKS reply 5): the exit node sends nothing without its proxy.")
        say("3. A packet capture on the exit node's link ran all the while: but for the proxy, the control server, the relay")
        say("   and the client's own WireGuard, nothing left the node. (The capture was shown a packet of its own before and")
        say("   after, and caught it.)")

    def end(self):
        self.user.stop()
        self.exit.stop()


def main():
    if "--probe" in sys.argv:
        why = sandbox.forbidden()
        if why:
            say(f"The demo can't run: {why}.")
            sys.exit(1)
        return
    sandbox.enter()
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda s, _f: sys.exit(128 + s))
    work = demo = None
    code = 0
    try:
        work = sandbox.Workdir("demo")
        demo = Demo(work.path)
        demo.parts()
        demo.show()
        demo.end()
        say(REAL)
    except (Failure, OSError, RuntimeError) as e:
        say(f"The demo failed: {e}")
        say(demo.sup.report() if demo else "")
        code = 1
    finally:
        if demo:
            demo.sup.end()
        if work:
            work.remove()
    sys.exit(code)


if __name__ == "__main__":
    main()
