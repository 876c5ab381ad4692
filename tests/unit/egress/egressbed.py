"""The bed of hostile.py: two namespaces, drive_egress in one, a sniffer and the scripted proxies in the other."""
import os
import queue
import resource
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "e2e"))
from lib import net, scripted  # noqa: E402

DST, DST6 = "45.45.45.45:80", "[2a00:45::45]:80"
SOON_S = 30.0  # a bound for "it ended": a loaded machine makes it; what drips or hangs would take minutes
EARLY = b"early bytes"


class Failed(Exception):
    pass


def expect(ok, what):
    if not ok:
        raise Failed(what)


def fnv(data):
    h = 0xcbf29ce484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h:016x}"


class Driver:
    """drive_egress in the node's namespace."""

    def __init__(self, node, program, *limits, connect_ms=0, handshake_ms=0, env=None, nofile=None):
        args = [connect_ms, handshake_ms, *limits]
        self.log = tempfile.TemporaryFile("w+")
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))) if nofile else None
        self.proc = node.call(lambda: subprocess.Popen(
            [program, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env={**os.environ, **(env or {})}, preexec_fn=limit))
        self.lines = queue.Queue()
        self.seen = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.proc.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    def tell(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()

    def expect(self, prefix, within=SOON_S):
        """The next line that begins with prefix; others are kept for later calls."""
        for line in self.seen:
            if line.startswith(prefix):
                self.seen.remove(line)
                return line
        until = time.monotonic() + within
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise Failed(f"no line '{prefix}' within {within} s; last {self.seen[-3:]}") from None
            expect(line is not None, f"drive_egress ended:\n{self.words()[-3000:]}")
            if line.startswith(prefix):
                return line
            self.seen.append(line)

    def ask(self, line, prefix):
        self.tell(line)
        return self.expect(prefix)

    def words(self):
        self.log.seek(0)
        return self.log.read()

    def stats(self):
        words = self.ask("stats", "stats").split()
        out = dict(zip(words[1:11:2], words[2:11:2]))
        out.update(("failed " + w).split("=") for w in words[11:])
        return {k: int(v) if v.isdigit() else v for k, v in out.items()}

    def quit(self):
        self.ask("quit", "bye")
        expect(self.proc.wait(SOON_S) == 0, f"exit code {self.proc.returncode}:\n{self.words()[-3000:]}")


class Sniffer:
    """Counts what comes from the node towards the internet, by its own address: nothing of it may, behind a proxy."""

    def __init__(self, ns, dev):
        self.sock = ns.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        self.sock.bind((dev, 0))
        self.sock.setblocking(False)

    def leaks(self):
        found = []
        while select.select([self.sock], [], [], 0.05)[0]:
            frame, addr = self.sock.recvfrom(2048)
            if addr[2] == socket.PACKET_OUTGOING:
                continue
            ip = frame[14:]
            kind = struct.unpack(">H", frame[12:14])[0]
            dst = socket.inet_ntoa(ip[16:20]) if kind == 0x0800 else socket.inet_ntop(socket.AF_INET6, ip[24:40]) \
                if kind == 0x86dd else ""
            proto = ip[9] if kind == 0x0800 else ip[6] if kind == 0x86dd else 0
            multicast = dst.startswith("ff") or dst.startswith("fe80")  # neighbour discovery
            if dst and dst != "46.1.1.1" and dst != "2a00:46:1::1" and not multicast:
                found.append(f"{dst} protocol {proto}")
        return found


class Bed:
    def __init__(self, program, folder):
        self.program = program
        self.node, self.net = net.Ns("node", folder), net.Ns("net", folder)
        self.node.attach(self.net, 1, "46.1.1.", "2a00:46:1::")
        self.net.ip4, self.net.ip6 = "46.1.1.1", "2a00:46:1::1"
        for addr in ("45.45.45.45/32", "2a00:45::45/128"):
            self.net.ip("addr", "add", addr, "dev", "lo")
        self.sniffer = Sniffer(self.net, "r1")
        self.act = None
        self.proxies = {s: scripted.Scripted(self.net, lambda c, x: self.act(c, x), port=p, scheme=s)
                        for s, p in (("socks5", 1070), ("http", 1071))}
        self.d = Driver(self.node, program)
        self.at, self.ids = None, 0

    def policy(self, text):
        if self.at != text:
            self.at = text
            expect(self.d.ask(f"policy {text}", "policy").split()[1] == text.split()[0], f"policy {text} not taken")

    def one(self, script, scheme="socks5", credentials=None, dst=DST):
        """One dial, one connection to the proxy. "fail NAME", or "end HOW" with what came before."""
        proxy = self.proxies[scheme]
        self.policy(f"proxy {proxy.url(credentials)}")
        self.act = script
        proxy.sessions.clear()
        self.ids = self.ids % 1000 + 1
        self.d.tell(f"dial {self.ids} {dst} read")
        words = self.d.expect(f"{self.ids} ").split(None, 1)[1]
        if words == "open":
            words = self.d.expect(f"{self.ids} end").split(None, 2)[2]
            how, count, digest = words.split()
            words = f"end {how}" + (" early" if int(count) and digest == fnv(EARLY) else f" {count} bytes" if int(count) else "")
            self.d.ask(f"close {self.ids}", f"{self.ids} closed")
        expect(len(proxy.sessions) == 1, f"{len(proxy.sessions)} connections to the proxy")
        return words
