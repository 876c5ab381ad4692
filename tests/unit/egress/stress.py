#!/usr/bin/env python3
"""stress.c against proxies that serve, refuse, hang, hang up, drip and talk nonsense, in namespaces of their own; and not a packet towards
a destination from the node.

usage: stress.py STRESS [SEED...]
"""
import asyncio
import logging
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "e2e"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from egressbed import Sniffer  # noqa: E402
from lib import net, sandbox  # noqa: E402

SEEDS, STEPS = (1, 2), 6000
RUN_S = 60.0  # a bound for "it ended"


class Relay(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, who):
        for _ in range(random.choice((0, 1, 1, 2))):
            self.transport.sendto(data if random.random() < 0.9 else data[:random.randrange(12)], who)


class Proxy:
    """Each connection is another proxy: its mood is drawn when it comes. manner: how often it does what it should."""

    def __init__(self, ns, addr, port, scheme, manner):
        self.ns, self.addr, self.manner, self.scheme = ns, addr, manner, scheme
        self.sock = ns.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((addr, port))
        self.sock.listen(2048)

    async def start(self):
        await asyncio.start_server(self.serve, sock=self.sock)

    async def serve(self, r, w):
        try:
            mood = "good" if random.random() < self.manner else random.choice(
                ("hang", "close", "reset", "garbage", "drip", "refuse", "auth", "late"))
            await asyncio.wait_for(self.talk(r, w, mood), 2)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, asyncio.LimitOverrunError):
            pass
        finally:
            w.close()

    async def talk(self, r, w, mood):
        if mood == "reset":
            w.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if mood in ("close", "reset"):
            return
        if mood == "garbage":
            w.write(random.randbytes(random.randrange(1, 600)))
        if mood in ("hang", "garbage"):
            await r.read(-1)
            return
        if mood == "late":
            await asyncio.sleep(random.random() / 2)
        await (self.http(r, w, mood) if self.scheme == "http" else self.socks(r, w, mood))

    async def put(self, w, data, mood):
        for i in range(len(data) if mood == "drip" else 0):
            w.write(data[i:i + 1])
            await asyncio.sleep(0.03)
        if mood != "drip":
            w.write(data)

    async def http(self, r, w, mood):
        await r.readuntil(b"\r\n\r\n")
        status = {"refuse": b"502 no", "auth": b"407 who"}.get(mood, b"200 ok")
        await self.put(w, b"HTTP/1.1 " + status + b"\r\n\r\nearly", mood)
        if status[:1] == b"2":
            await self.tunnel(r, w)

    async def socks(self, r, w, mood):
        _, n = await r.readexactly(2)
        methods = await r.readexactly(n)
        if mood == "auth" or 0 not in methods:
            await self.put(w, b"\x05\x02", mood)
            _, n = await r.readexactly(2)
            await r.readexactly(n)
            await r.readexactly((await r.readexactly(1))[0])
            await self.put(w, b"\x01\x01" if mood == "auth" else b"\x01\0", mood)
        else:
            await self.put(w, b"\x05\0", mood)
        _, command, _, kind = await r.readexactly(4)
        await r.readexactly((await r.readexactly(1))[0] if kind == 3 else 16 if kind == 4 else 4)
        await r.readexactly(2)
        rep = random.choice((1, 4, 5, 7, 8)) if mood == "refuse" else 0
        if command == 3:
            await self.associate(r, w, mood, rep)
            return
        await self.put(w, bytes((5, rep, 0, 1)) + bytes(6) + random.choice((b"", b"early")), mood)
        if not rep:
            await self.tunnel(r, w)

    async def associate(self, r, w, mood, rep):
        sock = self.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((self.addr, 0))
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Relay, sock=sock)
        where = random.choice((self.addr, self.addr, "0.0.0.0", "45.45.45.45"))
        try:
            await self.put(w, bytes((5, rep, 0, 1)) + socket.inet_aton(where) + struct.pack(">H", sock.getsockname()[1]), mood)
            if not rep:
                await asyncio.wait_for(r.read(1), random.random() * 2)
        finally:
            transport.close()

    async def tunnel(self, r, w):
        until = random.random()
        try:
            while data := await asyncio.wait_for(r.read(4096), until):
                w.write(data)
                await w.drain()
        except asyncio.TimeoutError:
            if random.random() < 0.5:
                w.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def play(proxies):
    async def forever():
        for p in proxies:
            await p.start()
        await asyncio.Event().wait()
    asyncio.run(forever())


def main():
    sandbox.enter()
    logging.disable()  # a client that left is no news
    with tempfile.TemporaryDirectory() as folder:
        node, inet = net.Ns("node", folder), net.Ns("net", folder)
        node.attach(inet, 1, "46.1.1.", "2a00:46:1::")
        inet.ip("addr", "add", "45.45.45.45/32", "dev", "lo")
        sniffer = Sniffer(inet, "r1")
        proxies = [Proxy(inet, "46.1.1.1", 1200, "socks5", 0.8), Proxy(inet, "46.1.1.1", 1201, "socks5", 0.3),
                   Proxy(inet, "46.1.1.1", 1202, "http", 0.6), Proxy(node, "127.0.0.1", 1203, "socks5", 0.8)]
        threading.Thread(target=play, args=(proxies,), daemon=True).start()
        urls = ["socks5://46.1.1.1:1200", "socks5://46.1.1.1:1200", "socks5://u-{peer}-{epoch}:pass@46.1.1.1:1200", "socks5://46.1.1.1:1201",
                "http://46.1.1.1:1202", "socks5://localhost:1203", "socks5://46.1.1.1:1"]
        failed = 0
        for seed in [int(a) for a in sys.argv[2:]] or SEEDS:
            random.seed(seed)
            run = node.call(lambda: subprocess.Popen([os.path.abspath(sys.argv[1]), str(seed), str(STEPS), *urls],
                                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
            try:
                out, _ = run.communicate(timeout=RUN_S)
            except subprocess.TimeoutExpired:
                run.kill()
                out, _ = run.communicate()
                out += "\nit did not end"
            leaks = sniffer.leaks()
            bad = run.returncode != 0 or leaks
            failed += bool(bad)
            print(f"{'FAIL' if bad else 'ok  '} seed {seed}: {out.strip()[-6000:] if bad else out.strip()} {leaks[:5] or ''}", flush=True)
    print(f"{failed} failed")
    sys.stdout.flush()
    os._exit(1 if failed else 0)


main()
