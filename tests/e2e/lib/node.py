"""Our node: `tailnet run` in a namespace, its status and its socket; and `tailnet dev`."""
import functools
import glob
import json
import os
import re
import subprocess

from .proc import Failure, expect, wait_until

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
SANITIZER_MARKS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer", "runtime error:")


PLACES = ("tailnet", os.path.join("cmd", "tailnet", "tailnet"))  # where in a build directory the binary may be


@functools.cache
def tailnet_binary():
    """The binary in TN_BUILD, else the one that was linked last."""
    dirs = [os.environ["TN_BUILD"]] if os.environ.get("TN_BUILD") else glob.glob(os.path.join(ROOT, "build*"))
    found = [p for d in dirs for p in (os.path.join(os.path.abspath(d), x) for x in PLACES) if os.path.isfile(p)]
    if not found:
        raise Failure("no tailnet binary: run ./check, or meson setup build && ninja -C build")
    return max(found, key=os.path.getmtime)


SAN_ENV = {"ASAN_OPTIONS": "abort_on_error=0:exitcode=99:detect_leaks=1", "LSAN_OPTIONS": "exitcode=97",
           "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=98"}


def clean_log(proc):
    """Fails when a sanitizer spoke in this process's log."""
    text = proc.text()
    for mark in SANITIZER_MARKS:
        at = text.find(mark)
        if at >= 0:
            raise Failure(f"{proc.name}: {text[max(0, at - 200):at + 3000]}")


class Node:
    """One `tailnet run`. flags: further arguments as they stand on the command line."""

    PORT = 41641

    def __init__(self, sup, ns, workdir, hostname, url, auth_key="", flags=(), env=None, wait=True):
        self.sup, self.ns, self.hostname, self.url, self.auth_key = sup, ns, hostname, url, auth_key
        self.dir = os.path.join(workdir, f"node-{hostname}")
        os.makedirs(self.dir, exist_ok=True)
        self.socket = os.path.join(self.dir, "sock")
        self.flags, self.env = list(flags), dict(SAN_ENV, **(env or {}))
        self.start(wait)

    def argv(self):
        argv = [tailnet_binary(), "run", "--state", os.path.join(self.dir, "state"), "--socket", self.socket,
                "--login-server", self.url, "--hostname", self.hostname, "--port", str(self.PORT)]
        return argv + (["--auth-key", self.auth_key] if self.auth_key else []) + self.flags

    def start(self, wait=True):
        self.proc = self.sup.start(f"tailnet-{self.hostname}", self.argv(), ns=self.ns, env=self.env)
        if wait:
            self.wait_running()

    def wait_running(self, timeout=60):
        wait_until(self.running, f"{self.hostname} runs", timeout=timeout, alive=[self.proc])

    def running(self):
        s = self.try_status()
        return bool(s) and s.get("BackendState") == "Running"

    def try_cli(self, *args, timeout=30):
        argv = [tailnet_binary(), args[0], "--socket", self.socket, *map(str, args[1:])]
        return subprocess.run(self.ns.wrap(argv), capture_output=True, text=True, timeout=timeout,
                              env=dict(os.environ, **SAN_ENV))

    def cli(self, *args, timeout=30):
        r = self.try_cli(*args, timeout=timeout)
        expect(r.returncode == 0, f"tailnet {' '.join(map(str, args))}: exit {r.returncode}: {r.stdout}{r.stderr}".strip())
        return r.stdout

    def try_status(self):
        if not os.path.exists(self.socket):
            return None
        r = self.try_cli("status", "--json")
        return json.loads(r.stdout) if r.returncode == 0 else None

    def status(self):
        return json.loads(self.cli("status", "--json"))

    def status_text(self):
        """What a person reads; the exit status may be non-zero when the node is unhealthy."""
        r = self.try_cli("status")
        return r.stdout + r.stderr

    def ips(self):
        return self.status()["Self"]["TailscaleIPs"]

    @property
    def ip4(self):
        return next(a for a in self.ips() if ":" not in a)

    @property
    def ip6(self):
        return next(a for a in self.ips() if ":" in a)

    def peer(self, hostname):
        for p in (self.status().get("Peer") or {}).values():
            if p.get("HostName") == hostname:
                return p
        return None

    def wait_peer(self, hostname, want=lambda p: True, what="is known", timeout=30):
        return wait_until(lambda: (lambda p: p if p and want(p) else None)(self.peer(hostname)),
                          f"{hostname} {what} to {self.hostname}", timeout=timeout, alive=[self.proc])

    def stop(self):
        """SIGTERM must end it cleanly: exit status 0, nothing said by a sanitizer (leaks included)."""
        code = self.proc.stop(timeout=20)
        clean_log(self.proc)
        expect(code == 0, f"{self.hostname} ended with {code} on SIGTERM\n{self.proc.tail()}")

    def alive(self):
        """Fails when the node has died or a sanitizer spoke."""
        clean_log(self.proc)
        expect(not self.proc.ended(), f"{self.hostname} died (exit {self.proc.popen.returncode})\n{self.proc.tail()}")

    def curl(self, socks, url, *flags, timeout=60):
        """curl through this node's --socks5-server: (exit status, stdout bytes, stderr)."""
        argv = ["curl", "-sS", "--max-time", str(timeout), "--socks5-hostname", socks, *flags, url]
        r = subprocess.run(self.ns.wrap(argv), capture_output=True, timeout=timeout + 10)
        return r.returncode, r.stdout, r.stderr.decode(errors="replace").strip()


class Dev:
    """`tailnet dev`: control, DERP and STUN of our own. It prints its facts and then "ready"."""

    def __init__(self, sup, ns, workdir, port=8090, flags=()):
        self.ns = ns
        self.dir = os.path.join(workdir, "dev")
        argv = [tailnet_binary(), "dev", "--listen", f"{ns.ip4}:{port}", "--state", self.dir, *flags]
        self.proc = sup.start("tailnet-dev", argv, ns=ns, env=SAN_ENV)
        wait_until(lambda: "\nready\n" in self.proc.text(), "tailnet dev is ready", alive=[self.proc])
        facts = self.proc.text()
        self.url = re.search(r"^login server +(\S+)", facts, re.M)[1]
        self.key = re.search(r"^auth key +(\S+)", facts, re.M)[1]
        derp = int(re.search(r"^DERP .*port (\d+)", facts, re.M)[1])
        stun = int(re.search(r"^STUN .*port (\d+)", facts, re.M)[1])
        self.ports = [("tcp", port), ("tcp", derp), ("udp", stun)]
