"""The bed of the exit node's scenarios: the internet, DNS over HTTPS, a control server, our node as exit node that can be
restarted with other settings, and official clients: one with SOCKS5 in front, one with a TUN device where possible."""
import errno
import socket
import time

from . import official
from .case import Bed, Skip
from .inet import Internet, Unbound
from .node import Node, clean_log
from .oracle import Oracle
from .proc import Failure, expect, wait_until
from .tunhost import tun_possible

REFUSED_SOON_S = 5.0  # "at once", with room for a loaded machine: far from every timeout of ours (10 s and 20 s)


class ExitBed(Bed):
    with_tun = True
    tun_direct = False  # True: not by the relay, which holds 32 packets a client and drops the rest

    def build(self):
        n = self.net
        self.inet = Internet(n.inet)
        self.doh = Unbound(self.sup, n.inet, self.dir)
        self.control = official.TestControl(self.sup, n.ctl)
        self.client = official.Tailscaled(self.sup, n.peer(1), self.dir, "client")
        self.client.up(self.control.url)
        self.tun = None
        if self.with_tun and tun_possible():
            self.tun = official.Tailscaled(self.sup, n.peer(2), self.dir, "tunclient", tun=True, direct=self.tun_direct)
            self.tun.up(self.control.url)
        self.node = None
        self.others = []  # namespaces of nodes that came and went: the kernel there still answers for them

    def clients(self):
        return [c for c in (self.client, self.tun) if c]

    def exit(self, *flags, proxy=None, env=None, credentials=True, advertise=True, dns=True):
        """(Re)starts the exit node with these settings and waits until the clients go through it."""
        args = list(flags) + (["--advertise-exit-node"] if advertise else [])
        args += ["--exit-dns", self.doh.url if dns is True else dns] if dns else []
        args += ["--exit-proxy", proxy.url(credentials)] if proxy else []
        if self.node is None:
            self.node = Node(self.sup, self.net.node, self.dir, "exit", self.control.url, flags=args,
                             env=dict(SSL_CERT_FILE=self.doh.cert, **(env or {})))
            self.control.approve_exit("exit")
        else:
            self.stop_node()
            self.node.flags = args
            self.node.env.update(SSL_CERT_FILE=self.doh.cert)
            for k in getattr(self, "_extra_env", ()):
                self.node.env.pop(k, None)
            self.node.env.update(env or {})
            self.node.start()
        self._extra_env = tuple(env or ())
        self.settle()
        return self.node

    def settle(self):
        for c in self.clients():
            wait_until(lambda c=c: c.ping(self.node.ip4, "--tsmp", timeout=3), f"{c.hostname} reaches the restarted node")
            if not (c.peer("exit") or {}).get("ExitNode"):
                c.use_exit("exit")

    def stop_node(self):
        if not self.node.proc.ended():
            self.node.stop()

    def oracle(self, *proxies, allow=()):
        return Oracle(self.net.node, control=self.control, proxies=proxies, peers=[c.ns for c in self.clients()] + self.others,
                      allow=allow)

    def need_tun(self):
        if not self.tun:
            raise Skip("no TUN device for an official client")
        return self.tun

    def connect(self, host, port, timeout=30.0):
        """A connection of the TUN client's kernel through the exit node: (socket, seconds). Raises OSError as connect does."""
        self.need_tun()
        s = self.tun.ns.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        s.settimeout(timeout)
        start = time.monotonic()
        try:
            s.connect((host, port))
        except OSError:
            s.close()
            raise
        return s, time.monotonic() - start

    def expect_refused(self, host, port, within=REFUSED_SOON_S):
        """connect() must fail with ECONNREFUSED, which only a RST (or port unreachable) makes it do. Returns the seconds."""
        start = time.monotonic()
        try:
            s, _ = self.connect(host, port, timeout=within + 15)
        except ConnectionRefusedError:
            took = time.monotonic() - start
            expect(took < within, f"{host}:{port} was refused only after {took:.1f} s")
            return took
        except OSError as e:
            name = errno.errorcode.get(e.errno, type(e).__name__)
            raise Failure(f"{host}:{port}: {name} after {time.monotonic() - start:.1f} s instead of ECONNREFUSED") from None
        s.close()
        raise Failure(f"{host}:{port}: connected")

    def fetch(self, url, *flags, **kw):
        """The body of a page by the SOCKS client."""
        code, out, err = self.client.curl(url, *flags, **kw)
        expect(code == 0, f"{url}: curl {code}: {err}")
        return out.decode(errors="replace").strip()

    def expect_through(self, proxy, host=None):
        """A page through the exit shows one of the proxy's addresses."""
        host = host or self.net.inet.web4
        seen = self.fetch(f"http://{f'[{host}]' if ':' in host else host}/ip")
        expect(seen in proxy.sources(), f"the web saw {seen} instead of {sorted(proxy.sources())}")
        return seen

    def expect_no_page(self, url=None):
        """The fetch fails, and no server in the internet was reached."""
        before = len(self.inet.web.seen)
        code, out, _ = self.client.curl(url or f"http://{self.net.inet.web4}/ip", timeout=20)
        expect(code != 0, f"a page came: {out!r}")
        expect(len(self.inet.web.seen) == before, f"the web was reached from {self.inet.web.seen[before:]}")

    def egress(self):
        return self.node.status()["Egress"]

    def check(self):
        if self.node and not self.node.proc.ended():
            clean_log(self.node.proc)

    def finish(self):
        if self.node:
            self.stop_node()
