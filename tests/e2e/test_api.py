#!/usr/bin/env python3
"""The C API through the example programs of examples/, against official peers: they dial us (echo), we dial them (fetch)."""
import os
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import official  # noqa: E402
from lib.case import Bed, Skip, case, main  # noqa: E402
from lib.tunhost import tun_possible  # noqa: E402
from lib.node import SAN_ENV, clean_log, tailnet_binary  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

MIB = 1 << 20


def example(name):
    return os.path.join(os.path.dirname(tailnet_binary()), "examples", name)


class ApiBed(Bed):
    def build(self):
        n = self.net
        self.control = official.TestControl(self.sup, n.ctl)
        self.env = dict(SAN_ENV, TS_CONTROL_URL=self.control.url, TS_AUTHKEY="tskey-auth-any")
        state = os.path.join(self.dir, "echo-state")
        self.echo = self.sup.start("echo", [example("echo"), ":7"], ns=n.node, env=dict(self.env, TS_STATE_DIR=state))
        line = wait_until(lambda: next((x for x in self.echo.text().splitlines() if x.startswith("ready on ")), None),
                          "the echo program is up", alive=[self.echo])
        self.ip4, self.ip6 = line.split()[2:4]
        self.tsnet = official.Tsnet(self.sup, n.peer(1), self.dir, self.control.url, "dialer", "dial")

    def check(self):
        clean_log(self.echo)
        expect(not self.echo.ended(), f"echo ended\n{self.echo.tail()}")

    def finish(self):
        code = self.echo.stop()
        clean_log(self.echo)
        expect(code == 0, f"echo ended with {code}")


@case("tsnet dials our listener: IPv4, IPv6, by name, 2 MB there and back")
def tsnet_dials(b):
    wait_until(lambda: "first" in b.tsnet.ask(f"{b.ip4}:7 hello"), "the first echo")
    text = "x" * (2 * MIB)
    for host in (b.ip4, f"[{b.ip6}]", "echo"):
        r = b.tsnet.ask(f"{host}:7 {text}")
        want = (text + "\n").encode()
        expect(r.get("bytes") == len(want) and r["sha256"] == official.sha256(want), f"{host}: {str(r)[:300]}")


@case("many connections of tsnet, one after the other; none is left behind")
def many(b):
    for i in range(100):
        r = b.tsnet.ask(f"{b.ip4}:7 number {i}")
        expect(r.get("first") == f"number {i}\n", str(r))


@case("tailscaled's kernel dials our listener: 16 MB both ways at once")
def tailscaled_dials(b):
    if not tun_possible():
        raise Skip("no TUN device")
    c = official.Tailscaled(b.sup, b.net.peer(2), b.dir, "tun", tun=True)
    c.up(b.control.url)
    wait_until(lambda: c.ping(b.ip4, "--tsmp", timeout=3), "the echo node answers")
    data = os.urandom(MIB) * 16
    s = c.ns.socket()
    s.settimeout(60)
    s.connect((b.ip4, 7))

    def write():
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    t = threading.Thread(target=write)
    t.start()
    got = bytearray()
    while part := s.recv(1 << 18):
        got += part
    t.join()
    expect(bytes(got) == data, f"{len(got)} of {len(data)} bytes came back, or others")
    c.proc.kill()


@case("our program dials tsnet by name")
def fetch(b):
    t = official.Tsnet(b.sup, b.net.peer(3), b.dir, b.control.url, "web", "serve")
    env = dict(os.environ, **b.env, TS_STATE_DIR=os.path.join(b.dir, "fetch-state"))
    for target in ("web:80", f"{t.ips[0]}:80"):
        r = subprocess.run(b.net.peer(4).wrap([example("fetch"), target, "/"]), capture_output=True, text=True, timeout=90, env=env)
        expect(r.returncode == 0 and "hello from tsnet" in r.stdout, f"{target}: exit {r.returncode}: {r.stdout}{r.stderr}")
    t.proc.kill()


if __name__ == "__main__":
    main("api", ApiBed, lambda: None if official.have("testctl", "tsnetpeer") else "tests/peers is not built (no Go)")
