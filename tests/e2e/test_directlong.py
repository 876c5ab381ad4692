#!/usr/bin/env python3
"""Direct paths over time: ten minutes of traffic, and after an idle minute. It waits for the most part, so ./check runs it
beside the other scenarios."""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib.case import case, main  # noqa: E402
from lib.natbed import Echo, NatBed, direct_at, missing, ping_until_direct  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

TRAFFIC_S = 600
IDLE_S = 65  # the session ends after 45, a Linux NAT's mapping 30 to 120 after the last packet


class LongBed(NatBed):
    """Traffic goes from the first node from the beginning; the second one idles meanwhile."""

    def build(self):
        super().build()
        n = self.net
        self.busy = self.node(n.behind_nat("easy1", 1, "easy"), "busy")
        self.idle = self.node(n.behind_nat("easy2", 2, "easy"), "idle")
        self.official = self.official_node(n.behind_nat("easy3", 3, "easy"), "official")
        self.tsnet = self.tsnet_node(n.behind_nat("easy4", 4, "easy"), "tsnet")
        self.ts4 = next(a for a in self.tsnet.ips if ":" not in a)
        for node in self.ours:
            node.wait_peer("official")
            node.wait_peer("tsnet")
        self.echo = Echo(self.busy, self.ts4)
        self.echo.moves(20)
        wait_until(lambda: direct_at(self.busy, "tsnet"), "a direct path", timeout=15)
        self.echo.gap()
        self.start = time.monotonic()


@case("after an idle minute the path is direct again at once")
def idle_minute(b):
    notes = []
    for target in ("official", "tsnet"):
        ping_until_direct(b.idle, target)
    time.sleep(IDLE_S)
    expect(direct_at(b.idle, "official") == "", "an idle path is still kept up")
    for target in ("official", "tsnet"):
        at, took = ping_until_direct(b.idle, target)
        expect(took < 5, f"{target}: {took:.1f} s")
        notes.append(f"{took:.1f} s")
    e = Echo(b.idle, b.ts4)
    e.moves(10)
    e.close()
    return ", ".join(notes)


@case("ten minutes of traffic, all of it direct, without a break", seconds=TRAFFIC_S + 120)
def long_traffic(b):
    looks = 0
    while time.monotonic() - b.start < TRAFFIC_S:
        expect(direct_at(b.busy, "tsnet"), f"relayed after {time.monotonic() - b.start:.0f} s")
        looks += 1
        time.sleep(2)
    gap = b.echo.gap()
    b.echo.close()
    expect(gap < 5, f"{gap:.1f} s of silence")
    return f"{b.echo.count} echoes, {looks} looks at the path, at most {gap:.1f} s of silence"


if __name__ == "__main__":
    main("directlong", LongBed, missing)
