#!/usr/bin/env python3
"""A client or a proxy that vanishes without a word, and one that is only silent: docs/ACCEPTANCE.md, tests 13 and 7.
Minutes of waiting for keepalives and no work, so ./check runs this beside the other scenarios.

TN_IDLE_S=1800 is the half hour of test 7; the default is longer than any limit of ours and than most NATs hold a flow."""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import inet, official, scripted  # noqa: E402
from lib.case import case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402
from lib.secureweb import SecureWeb, masked_frame, read_frame  # noqa: E402

IDLE_S = int(os.environ.get("TN_IDLE_S", "330"))


class VanishBed(ExitBed):
    def build(self):
        super().build()
        # patient: what ends a silent connection is to be the node
        self.honest = scripted.Scripted(self.net.proxy, scripted.honest(self.net.proxy), port=1085, patience=max(600, 2 * IDLE_S))


@case("7: a websocket that is silent for minutes is still there, for both sides", seconds=IDLE_S + 120)
def silent_websocket(b):
    b.need_tun()
    b.exit(proxy=b.honest)
    web = SecureWeb(b.net.inet, b.dir)
    with b.oracle(b.honest):
        s, _ = b.connect(web.host, 443)
        tls, f = web.websocket(s)
        time.sleep(IDLE_S)
        web.websockets[-1].say(b"news")
        expect(read_frame(f) == b"news", "what the server says after the silence")
        tls.sendall(masked_frame(b"hello"))
        expect(read_frame(f) == b"heard hello", "what the client says after the silence")
        tls.close()
    web.close()
    return f"{IDLE_S} s"


@case("13: the client vanishes: flow and proxy connection are reaped", seconds=420)
def client_vanishes(b):
    tun = b.need_tun()
    b.exit(proxy=b.honest)
    s, _ = b.connect(b.net.inet.web4, inet.ECHO)
    s.sendall(b"hello")
    expect(s.recv(100) == b"hello", "echo")
    flows, target = b.egress()["Flows"], (b.net.inet.web4, inet.ECHO)
    expect(flows >= 1 and b.honest.open_to(target) == 1, f"{flows} flows, {b.honest.open_to(target)} at the proxy")
    tun.ns.blackhole(True)
    start = time.monotonic()
    try:
        wait_until(lambda: b.egress()["Flows"] == 0, "the flow is reaped", timeout=360)
        wait_until(lambda: b.honest.open_to(target) == 0, "the proxy's connection is closed", timeout=10)
        return f"{time.monotonic() - start:.0f} s"
    finally:
        tun.ns.blackhole(False)
        s.close()


@case("13: the proxy vanishes: the client's flow is reaped", seconds=420)
def proxy_vanishes(b):
    b.exit(proxy=b.honest)
    s, _ = b.connect(b.net.inet.web4, inet.ECHO)
    s.sendall(b"hello")
    expect(s.recv(100) == b"hello", "echo")
    time.sleep(1)  # its echo is acknowledged by then: what it would send again is heard, and keeps the connection alive
    b.net.proxy.blackhole(True)
    try:
        s.settimeout(360)
        start = time.monotonic()
        try:
            got = s.recv(100)
        except ConnectionResetError:
            return f"reset after {time.monotonic() - start:.0f} s"
        expect(False, f"recv gave {got!r}")
    finally:
        b.net.proxy.blackhole(False)
        s.close()


if __name__ == "__main__":
    main("vanish", VanishBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
