#!/usr/bin/env python3
"""What people run through an exit node behind a proxy, with the real tools: git over https, ssh, a websocket, HTTP/3, a
thousand connections at once. docs/ACCEPTANCE.md, tests 7 and 22, and the operator's check over https. The client is
official with a TUN device, so the tools need not know of anything."""
import hashlib
import os
import re
import resource
import select
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import inet, official, proxies, sandbox, scripted  # noqa: E402
from lib.case import Skip, case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.oracle import Oracle  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402
from lib.secureweb import Dropbear, SecureWeb, masked_frame, read_frame  # noqa: E402

MIB = 1 << 20
AT_ONCE = 1000


class ToolsBed(ExitBed):
    tun_direct = True

    def build(self):
        super().build()
        self.need_tun()
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.web = SecureWeb(self.net.inet, self.dir)
        self.plain_cert, self.bundle = self.doh.cert, os.path.join(self.dir, "bundle.pem")
        with open(self.bundle, "w", encoding="ascii") as f:
            for cert in (self.doh.cert, self.web.cert):
                f.write(open(cert, encoding="ascii").read())
        self.doh.cert = self.bundle  # what the bed gives the node as SSL_CERT_FILE
        self.proxy = scripted.Scripted(self.net.proxy, scripted.honest(self.net.proxy), port=1098)
        self.exit(proxy=self.proxy)

    def tool(self, *argv, env=None, cwd=None, timeout=120):
        """A command on the client's host, which must succeed; its output."""
        r = subprocess.run(self.tun.ns.wrap([str(a) for a in argv]), capture_output=True, timeout=timeout, check=False,
                           env=dict(os.environ, HOME=self.dir, **(env or {})), cwd=cwd)
        expect(r.returncode == 0, f"{argv[0]} {argv[1:]}: {r.returncode} {r.stderr.decode(errors='replace').strip()[-500:]}")
        return r.stdout


def needs(*programs):
    for program in programs:
        if not proxies.have(program):
            raise Skip(f"{program} is not installed")


def wait_writable(s, seconds):
    poll = select.poll()  # select() knows descriptors up to 1023
    poll.register(s, select.POLLOUT)
    expect(poll.poll(seconds * 1000), f"no connection within {seconds} s")
    err = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    expect(err == 0, f"connect: {os.strerror(err)}")


def names_proxy(b, what):
    expect(what in b.proxy.sources(), f"it came from {what} instead of {sorted(b.proxy.sources())}")


@case("7: git over https: clone, push 8 MB, clone again")
def git(b):
    needs("git")
    who = ("-c", "user.name=t", "-c", "user.email=t@test", "-c", "init.defaultBranch=main")
    bare = os.path.join(b.web.repositories, "r.git")
    subprocess.run(["git", *who, "init", "-q", "--bare", bare], check=True, capture_output=True)
    subprocess.run(["git", "-C", bare, "config", "http.receivepack", "true"], check=True)
    env = {"GIT_SSL_CAINFO": b.web.cert, "GIT_TERMINAL_PROMPT": "0"}
    url = f"https://{b.web.host}/r.git"
    work, again = os.path.join(b.dir, "work"), os.path.join(b.dir, "again")
    data = os.urandom(8 * MIB)
    with b.oracle(b.proxy):
        b.tool("git", "clone", "-q", url, work, env=env)
        with open(os.path.join(work, "data"), "wb") as f:
            f.write(data)
        b.tool("git", *who, "add", "data", cwd=work)
        b.tool("git", *who, "commit", "-q", "-m", "data", cwd=work)
        b.tool("git", "-c", f"http.postBuffer={16 * MIB}", "push", "-q", "origin", "HEAD:main", env=env, cwd=work)
        b.tool("git", "clone", "-q", "-b", "main", url, again, env=env)
    with open(os.path.join(again, "data"), "rb") as f:
        expect(f.read() == data, "what was pushed came back otherwise")


@case("7: ssh: a command, its status, 8 MB each way")
def ssh(b):
    needs("dropbear", "dbclient")
    if not sandbox.real_root():
        raise Skip("dropbear sets groups, which a user namespace forbids")
    server = Dropbear(b.sup, b.net.inet, b.dir)
    to = ("dbclient", "-y", "-y", "-i", server.key, f"root@{b.web.host}")
    path = os.path.join(b.dir, "ssh-data")
    with open(path, "wb") as f:
        f.write(os.urandom(8 * MIB))
    try:
        with b.oracle(b.proxy):
            said = b.tool(*to, "echo $SSH_CONNECTION").decode().split()
            names_proxy(b, said[0])
            r = subprocess.run(b.tun.ns.wrap([*to, "exit 7"]), capture_output=True, timeout=60, check=False)
            expect(r.returncode == 7, f"exit 7 became {r.returncode}")
            got = b.tool(*to, f"cat {path}")
            with open(path, "rb") as f:
                expect(got == f.read(), f"{len(got)} bytes came, not those that are there")
                f.seek(0)
                r = subprocess.run(b.tun.ns.wrap([*to, "sha256sum"]), stdin=f, capture_output=True, timeout=60, check=True)
            expect(r.stdout.split()[0].decode() == hashlib.sha256(got).hexdigest(), "what was sent came otherwise")
    finally:
        server.stop()


@case("7: a websocket: both sides speak when they like")
def websocket(b):
    with b.oracle(b.proxy):
        s, _ = b.connect(b.web.host, 443)
        tls, f = b.web.websocket(s)
        tls.sendall(masked_frame(b"hello"))
        expect(read_frame(f) == b"heard hello", "an echo")
        b.web.websockets[-1].say(b"news")
        expect(read_frame(f) == b"news", "what the server says unasked")
        tls.close()


@case(f"7: {AT_ONCE} connects at the same moment all complete, each with its own bytes", seconds=240)
def thousand(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    b.exit(proxy=p)
    with b.oracle(p):
        socks = b.tun.ns.call(lambda: [socket.socket() for _ in range(AT_ONCE)])
        start = time.monotonic()
        for s in socks:
            s.setblocking(False)
            s.connect_ex((b.net.inet.web4, inet.ECHO))
        for i, s in enumerate(socks):
            s.settimeout(90)
            wait_writable(s, 90)
            s.sendall(b"%06d" % i)
        took = time.monotonic() - start
        for i, s in enumerate(socks):
            got = s.recv(6, socket.MSG_WAITALL)
            expect(got == b"%06d" % i, f"connection {i} answered {got!r}")
            s.close()
        wait_until(lambda: b.egress()["Flows"] == 0, "all flows are gone", timeout=30)
    p.stop()
    b.exit(proxy=b.proxy)
    return f"{took:.1f} s"


@case("22: HTTP/3 by UDP ASSOCIATE of dante: handshake, 4 MB down, 2 MB up; the web sees the proxy", seconds=240)
def http3(b):
    needs("danted")
    if not official.have("quicpeer"):
        raise Skip("tests/peers is not built (no Go)")
    peer = official.program("quicpeer")
    server = b.sup.start("quicpeer", [peer, "serve", b.web.cert, b.web.key, f"{b.web.host}:443"], ns=b.net.inet)
    dante = proxies.Dante(b.sup, b.net.proxy, b.dir)
    node, at = b.net.node.ip4, dante.ns.ip4
    try:
        b.exit("--exit-proxy-udp", proxy=dante)
        wait_until(lambda: b.egress()["UDP"] == "proxy", "the proxy said that it does UDP")
        # the relay, fragments to it, and what the proxy's kernel says of a packet to a relay that has just closed
        relay = [f"(udp and host {node} and host {at})", f"(ip[6:2] & 0x1fff != 0 and host {node} and host {at})",
                 f"(icmp and src host {at} and dst host {node})"]
        with Oracle(b.net.node, control=b.control, proxies=[dante], peers=[c.ns for c in b.clients()], allow=relay):
            url = f"https://{b.web.host}"
            seen, line = b.tool(peer, "get", b.web.cert, f"{url}/ip").decode().split("\n")[:2]
            expect(line.startswith("200 HTTP/3.0") and seen == at, f"{seen}: {line}")
            down = b.tool(peer, "get", b.web.cert, f"{url}/blob/{4 * MIB}").decode().split()
            expect(down[:3] == ["200", "HTTP/3.0", str(4 * MIB)] and down[3] == quic_sum(4 * MIB), f"{down}")
            up = b.tool(peer, "post", b.web.cert, f"{url}/upload", 2 * MIB).decode().split()
            expect(up[:3] == [str(2 * MIB), quic_sum(2 * MIB), "<nil>"], f"{up}")
    finally:
        dante.stop()
        server.kill()
        b.exit(proxy=b.proxy)


def quic_sum(n):
    """Of what quicpeer sends: byte i is i * 7 + i / 65536."""
    row = bytes(i * 7 & 255 for i in range(256)) * 256
    h = hashlib.sha256()
    for k in range(n >> 16):
        h.update(bytes((c + k) & 255 for c in row))
    return h.hexdigest()


@case("egress check over https: the certificate is verified, the address is the proxy's")
def check(b):
    url = f"https://{b.web.host}/ip"
    with b.oracle(b.proxy):
        r = b.node.try_cli("egress", "check", "--url", url)
        expect(r.returncode == 0 and b.net.proxy.ip4 in r.stdout and "ok:" in r.stdout, f"{r.returncode} {r.stdout}{r.stderr}")
    b.doh.cert = b.plain_cert  # an authority that did not sign the web's
    try:
        b.exit(proxy=b.proxy)
        with b.oracle(b.proxy):
            r = b.node.try_cli("egress", "check", "--url", url)
        expect(r.returncode == 1 and re.search("certificate", r.stdout), f"an unknown certificate: {r.returncode} {r.stdout}")
    finally:
        b.doh.cert = b.bundle
        b.exit(proxy=b.proxy)


if __name__ == "__main__":
    main("tools", ToolsBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
