"""Network namespaces and the one topology that all tests share.

    peer1 .. peerN    node        proxy       ctl
        \\              |            |          /
         +------------ router (forwards) -----+
                          |
                        inet: web, echo, DNS, DoH; the only one with "public" hosts

Each leaf has one link to the router and its own prefix, IPv4 and IPv6. The addresses look public, since the guard of
an exit node refuses the special-purpose ranges; only the node's own link counts as attached for it, so the proxy, the
control server and the internet are all reached through a router, as in life. The control server alone has private
addresses: official clients take a plain http server on a public one for a port-80 helper and insist on 443 after a while.
"""
import ctypes
import os
import socket
import subprocess
import threading

from .wire import Wire

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def run(*argv, check=True, **kw):
    r = subprocess.run([str(a) for a in argv], capture_output=True, text=True, **kw)
    if check and r.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, argv))}: {r.stderr.strip()}")
    return r


class Ns:
    """One network namespace. resolv: a file that its processes see as /etc/resolv.conf."""

    def __init__(self, name, workdir):
        self.name = name
        self.path = f"/run/netns/{name}"
        run("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")
        self.resolv = os.path.join(workdir, f"resolv.{name}")
        with open(self.resolv, "w", encoding="ascii") as f:
            f.write("# no resolver in this namespace\n")
        self.ip4 = self.ip6 = self.dev = self.wire = None

    def ip(self, *args):
        return run("ip", "-n", self.name, *args)

    def wrap(self, argv):
        """The command line that runs argv in here. exec all the way, so the process id is that of argv's program."""
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ["nsenter", f"--net={self.path}", "unshare", "--mount", "sh", "-c", script, self.resolv, *argv]

    def run(self, *argv, check=True, timeout=60, **kw):
        """Runs a short command in here and returns its CompletedProcess (text)."""
        return run(*self.wrap([str(a) for a in argv]), check=check, timeout=timeout, **kw)

    def call(self, fn):
        """Runs fn on a thread that is inside this namespace; sockets made there stay in it. Returns fn's result."""
        box = {}

        def enter():
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if _libc.setns(fd, CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                finally:
                    os.close(fd)
                box["result"] = fn()
            except BaseException as e:  # handed to the caller below
                box["error"] = e

        t = threading.Thread(target=enter)
        t.start()
        t.join()
        if "error" in box:
            raise box["error"]
        return box["result"]

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, proto=0):
        return self.call(lambda: socket.socket(family, kind, proto))

    def link(self, up):
        """Pulls or plugs the cable."""
        self.ip("link", "set", self.dev, "up" if up else "down")
        if up:  # the kernel drops routes and IPv6 addresses with the link
            self._address()

    def _address(self):
        self.ip("addr", "replace", f"{self.ip4}/24", "dev", self.dev)
        self.ip("route", "replace", "default", "via", self.gw4)
        if self.ip6:
            self.ip("addr", "replace", f"{self.ip6}/64", "dev", self.dev, "nodad")
            self.ip("-6", "route", "replace", "default", "via", self.gw6, "dev", self.dev)

    def attach(self, router, number, net4, net6, host=2):
        """A link to the router: net4 like "46.1.1." and net6 like "2a00:46:1::" (None: no IPv6); the router is .1."""
        self.dev, far, self.net4, self.net6 = "eth0", f"r{number}", net4, net6
        self.ip4, self.ip6 = f"{net4}{host}", f"{net6}{host}" if net6 else None
        self.gw4, self.gw6 = f"{net4}1", f"{net6}1" if net6 else None
        run("ip", "link", "add", self.dev, "netns", self.name, "type", "veth", "peer", "name", far, "netns", router.name)
        router.ip("addr", "add", f"{self.gw4}/24", "dev", far)
        if net6:
            router.ip("addr", "add", f"{self.gw6}/64", "dev", far, "nodad")
        router.ip("link", "set", far, "up")
        self.ip("link", "set", self.dev, "up")
        self._address()
        self.router, self.far = router, far

    def lengthen(self, seconds):
        """The cable to the router takes so long, each way."""
        if self.wire:
            self.wire.seconds = seconds
            return
        wire = Ns(f"{self.name}-wire", os.path.dirname(self.resolv))
        self.router.ip("link", "set", self.far, "netns", wire.name)
        run("ip", "link", "add", "out", "netns", wire.name, "type", "veth", "peer", "name", self.far, "netns", self.router.name)
        for dev in (self.far, "out"):
            wire.ip("link", "set", dev, "up")
        self.router.ip("addr", "add", f"{self.gw4}/24", "dev", self.far)
        if self.gw6:
            self.router.ip("addr", "add", f"{self.gw6}/64", "dev", self.far, "nodad")
        self.router.ip("link", "set", self.far, "up")
        self.wire = Wire(wire, self.far, "out", seconds)

    def renumber(self, host):
        """Another address in the same network; the old ones are gone, as after a new lease."""
        self.ip("addr", "flush", "dev", self.dev, "scope", "global")
        self.ip4, self.ip6 = f"{self.net4}{host}", f"{self.net6}{host}" if self.net6 else None
        self._address()

    def nft(self, rules):
        """Loads nftables rules in here."""
        run("ip", "netns", "exec", self.name, "nft", "-f", "-", input=rules)

    def blackhole(self, on):
        """The router drops everything for this host: packets vanish, nobody answers."""
        for addr, v6 in ((self.ip4, False), (self.ip6, True)):
            args = ("route", "replace" if on else "del", "blackhole", addr)
            self.router.ip(*(("-6",) + args if v6 else args))


class Topology:
    """The namespaces of a test bed, made on first use: t.node, t.proxy, t.ctl, t.inet, t.peer(i)."""

    LEAVES = {"node": 1, "proxy": 2}

    def __init__(self, workdir):
        self.workdir = workdir
        self.router = Ns("router", workdir)
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            run("ip", "netns", "exec", "router", "sysctl", "-qw", f"{key}=1")
        self._made = {}

    def __getattr__(self, name):
        if name == "ctl":
            return self._leaf("ctl", 3, "10.46.3.", "fd46:3::")
        if name in self.LEAVES:
            n = self.LEAVES[name]
            return self._leaf(name, n, f"46.{n}.{n}.", f"2a00:46:{n}::")
        if name == "inet":
            ns = self._leaf("inet", 9, "45.45.45.", "2a00:45::")
            if not hasattr(ns, "web4"):
                ns.web4, ns.web6, ns.dns4, ns.dns6 = "45.45.45.45", "2a00:45::45", "45.45.45.53", "2a00:45::53"
                for a in (ns.web4, ns.dns4):
                    ns.ip("addr", "add", f"{a}/24", "dev", "eth0")
                for a in (ns.web6, ns.dns6):
                    ns.ip("addr", "add", f"{a}/64", "dev", "eth0", "nodad")
            return ns
        raise AttributeError(name)

    def peer(self, i=1):
        return self._leaf(f"peer{i}", 20 + i, f"46.4.{i}.", f"2a00:46:4:{i}::")

    NATS = {"easy": "masquerade", "hard": "masquerade random,fully-random"}

    def behind_nat(self, name, number, kind):
        """A host with a private address behind a Linux router of its own, which masquerades. "easy": one outside port for
        every destination; "hard": another one for each. Both let in only what answers."""
        gate = self._leaf(f"{name}-nat", 60 + number, f"46.6.{number}.", f"2a00:46:6:{number}::")
        run("ip", "netns", "exec", gate.name, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        gate.nft('table ip nat {\n chain post {\n  type nat hook postrouting priority 100;\n'
                 f'  oifname "eth0" {self.NATS[kind]}\n }}\n}}\n'
                 'table ip fw {\n chain input {\n  type filter hook input priority 0;\n'
                 '  iifname "eth0" meta l4proto udp drop\n }\n}\n')  # as routers do; else conntrack remembers the stranger
        ns = Ns(name, self.workdir)
        ns.attach(gate, number, f"10.77.{number}.", None)
        ns.gate, ns.outside4 = gate, gate.ip4
        return ns

    def kill_udp(self, on, what="meta l4proto udp"):
        """The router drops all UDP (or what is given), or no longer does."""
        rules = "table inet kill\ndelete table inet kill\n"
        if on:
            rules += f"table inet kill {{\n chain forward {{\n  type filter hook forward priority 0;\n  {what} drop\n }}\n}}\n"
        self.router.nft(rules)

    def _leaf(self, name, number, net4, net6):
        if name not in self._made:
            ns = Ns(name, self.workdir)
            ns.attach(self.router, number, net4, net6)
            self._made[name] = ns
        return self._made[name]
