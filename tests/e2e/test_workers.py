#!/usr/bin/env python3
"""An exit node whose trains are sealed and sent, and whose UDP is read and opened, by threads beside the loop: what arrives is
whole, other traffic keeps its place, and an end in the middle of it is clean. ./check runs this a second time with the thread sanitizer."""
import hashlib
import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import inet, official, proxies  # noqa: E402
from lib.case import case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

MIB = 1 << 20


class WorkersBed(ExitBed):
    with_tun = False

    def build(self):
        super().build()
        self.clients_direct = []
        for i, name in enumerate(("left", "right")):
            c = official.Tailscaled(self.sup, self.net.peer(2 + i), self.dir, name, direct=True)
            c.up(self.control.url)
            self.clients_direct.append(c)
        self.proxy = proxies.Dante(self.sup, self.net.proxy, self.dir)

    def clients(self):
        return [self.client, *self.clients_direct]

    def workers(self, n):
        self.exit("--workers", str(n), proxy=self.proxy)
        self.calm = self.threads()  # the program's, the loop, and what a sanitizer has
        for c in self.clients_direct:
            wait_until(lambda c=c: "via DERP" not in c.cli("ping", "--c=20", "--timeout=2s", self.node.ip4), f"{c.hostname} is direct")

    def tids(self):
        return set(os.listdir(f"/proc/{self.node.proc.pid}/task"))

    def threads(self):
        return len(self.tids())

    def ran_s(self, tids):
        """CPU seconds of these threads of the node."""
        total = 0
        for tid in tids:
            with open(f"/proc/{self.node.proc.pid}/task/{tid}/schedstat", encoding="ascii") as f:
                total += int(f.read().split()[0])
        return total / 1e9


def whole(b, client, size, path="blob"):
    got, n, _ = client.download(f"http://{b.net.inet.web4}/{path}/{size}")
    expect(n == size and got == inet.blob_sha256(size), f"{client.hostname}: {n} of {size} bytes, sha256 {got}")


def sent(b):
    return sum(p["TxBytes"] for p in b.node.status()["Peer"].values())


def together(*calls):
    """Each call on a thread of its own; the first failure is raised."""
    errors = []

    def guarded(call):
        try:
            call()
        except Exception as e:  # raised again below
            errors.append(e)

    threads = [threading.Thread(target=guarded, args=(c,)) for c in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


@case("without bulk there are no worker threads, and with it there are")
def lazy(b):
    b.workers(2)
    expect(b.calm <= 3, f"{b.calm} threads before there was anything to do")
    whole(b, b.clients_direct[0], 8 * MIB)
    expect(b.threads() == b.calm + 1, f"{b.calm} threads at first, {b.threads()} after a download of one peer")


@case("two direct clients and one by the relay download at once, each gets its bytes, and a request beside them its answer")
def at_once(b):
    small = 64 * 1024
    c = b.clients_direct[0]

    def ask():
        for _ in range(10):
            code, out, err = c.curl(f"http://{b.net.inet.web4}/blob/{small}")
            expect(code == 0 and hashlib.sha256(out).hexdigest() == inet.blob_sha256(small), f"curl {code}: {len(out)} bytes {err}")

    together(*(lambda c=c: whole(b, c, 48 * MIB) for c in b.clients_direct), lambda: whole(b, b.client, 4 * MIB), ask)
    b.node.alive()


def upload(b, client, size):
    data = os.path.join(b.dir, f"upload-{client.hostname}")
    with open(data, "wb") as f:
        for chunk in inet.blob_chunks(size):
            f.write(chunk)
    code, out, err = client.curl(f"http://{b.net.inet.web4}/upload", "--data-binary", f"@{data}", timeout=120)
    expect(code == 0 and out.decode().strip() == inet.blob_sha256(size), f"curl {code}: {out!r} {err}")


@case("an upload beside a download: acknowledgments keep their place")
def both_ways(b):
    c = b.clients_direct[0]
    together(lambda: upload(b, c, 16 * MIB), lambda: whole(b, c, 32 * MIB))


@case("what two clients upload is read and opened beside the loop, by threads that sleep when it is over")
def uploads(b):
    b.workers(2)
    before = b.tids()
    together(*(lambda c=c: upload(b, c, 32 * MIB) for c in b.clients_direct), lambda: upload(b, b.client, MIB))
    readers = b.tids() - before
    worked = b.ran_s(readers)
    expect(1 <= len(readers) <= 4, f"{len(readers)} more threads after an upload, of 2 that read and 2 that send")
    expect(worked > 0.02, f"{worked * 1e3:.1f} ms of work for 64 MiB")
    time.sleep(1)  # the loop reads again after 0.2
    before = b.ran_s(readers)
    for c in b.clients_direct:
        whole(b, c, 1024)
    time.sleep(1)
    used = b.ran_s(readers) - before
    expect(used < 0.005, f"{used * 1e3:.1f} ms used by threads that have nothing to do")
    upload(b, b.clients_direct[0], 16 * MIB)
    expect(b.ran_s(readers) > before + 0.005, "they work again when there is something")


@case("the direct way goes under the trains: the rest comes by the relay, whole")
def way_goes(b):
    c = b.clients_direct[0]

    def cut():
        wait_until(lambda: sent(b) > before + 4 * MIB, "the download is under way")
        b.net.kill_udp(True)

    before = sent(b)
    try:
        together(lambda: whole(b, c, 16 * MIB, "slow"), cut)
    finally:
        b.net.kill_udp(False)


@case("SIGTERM in the middle of downloads and uploads ends the node at once and cleanly")
def ends(b):
    b.workers(2)
    large = os.path.join(b.dir, "large")
    with open(large, "wb") as f:
        f.truncate(4096 * MIB)
    argv = ["curl", "-sS", "-o", "/dev/null", "--max-time", "60", "--socks5-hostname", b.client.SOCKS]
    down, up = [f"http://{b.net.inet.web4}/blob/{4096 * MIB}"], ["-X", "POST", "-T", large, f"http://{b.net.inet.web4}/upload"]
    curls = [subprocess.Popen(c.ns.wrap(argv + what), stderr=subprocess.DEVNULL)
             for c, what in zip(b.clients_direct * 2, (down, down, up, up))]
    try:
        wait_until(lambda: b.threads() > b.calm + 1, "threads read and send")
        expect(all(c.poll() is None for c in curls), "a transfer has ended before the node")
        b.stop_node()
    finally:
        for c in curls:
            c.kill()
            c.wait()


if __name__ == "__main__":
    main("workers", WorkersBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
