"""Processes under supervision: started in a namespace, watched until ready, ended by process id, logs kept."""
import os
import signal
import subprocess
import threading
import time

POLL_S = 0.05


class Failure(Exception):
    """A test's expectation that did not hold."""


def expect(condition, what):
    if not condition:
        raise Failure(what)


def wait_until(condition, what, timeout=30.0, alive=()):
    """Polls condition until it returns something true, and returns that. Raises Failure after timeout, or when a process
    in alive has ended meanwhile."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        for p in alive:
            if p.ended():
                raise Failure(f"{p.name} ended (exit {p.popen.returncode}) while waiting for: {what}\n{p.tail()}")
        if time.monotonic() > deadline:
            raise Failure(f"not within {timeout:g} s: {what}")
        time.sleep(POLL_S)


class Supervisor:
    """All processes of a run. end() stops them all, the newest first."""

    def __init__(self, workdir):
        self.workdir = workdir
        self.procs = []
        self._n = 0

    def start(self, name, argv, ns=None, env=None, stdin=False, stdout_pipe=False, cwd=None):
        self._n += 1
        log = os.path.join(self.workdir, f"{self._n:02d}-{name}.log")
        p = Proc(name, [str(a) for a in argv], log, ns, env, stdin, stdout_pipe, cwd)
        self.procs.append(p)
        return p

    def end(self):
        for p in reversed(self.procs):
            p.kill()

    def report(self, lines=25):
        """The ends of all logs, for a failed test."""
        out = []
        for p in self.procs:
            state = "running" if not p.ended() else f"exit {p.popen.returncode}"
            out.append(f"--- {p.name} ({state})\n{p.tail(lines)}")
        return "\n".join(out)


class Proc:
    def __init__(self, name, argv, log, ns, env, stdin, stdout_pipe, cwd):
        self.name, self.log, self.argv = name, log, argv
        self._logf = open(log, "wb")
        full = os.environ.copy()
        for k in list(full):  # a proxy of the caller's environment is none of the tests'
            if k.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") or k == "TN_E2E_SANDBOX":
                del full[k]
        full.update(env or {})
        self.popen = subprocess.Popen(ns.wrap(argv) if ns else argv, env=full, cwd=cwd, start_new_session=True,
                                      stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                                      stdout=subprocess.PIPE if stdout_pipe else self._logf, stderr=self._logf)

    @property
    def pid(self):
        return self.popen.pid

    def ended(self):
        return self.popen.poll() is not None

    def text(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()

    def tail(self, lines=25):
        return "\n".join(self.text().splitlines()[-lines:])

    def signal(self, sig):
        if not self.ended():
            self.popen.send_signal(sig)

    def wait(self, timeout=15):
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not end within {timeout} s\n{self.tail()}") from None

    def stop(self, timeout=15):
        """SIGTERM, and the exit status it led to."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self):
        if not self.ended():
            self.popen.kill()
            self.popen.wait()
        for f in (self.popen.stdin, self.popen.stdout, self._logf):
            if f:
                try:
                    f.close()
                except OSError:
                    pass

    def cpu_ticks(self):
        """User and system time so far, in clock ticks."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def rss_kib(self, what="VmRSS"):
        """Resident memory; VmHWM: the most there ever was."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
            for line in f:
                if line.startswith(what + ":"):
                    return int(line.split()[1])
        return 0


class LineTalk:
    """A process that answers lines on stdin with lines on stdout."""

    def __init__(self, proc):
        self.proc = proc
        self._lock = threading.Lock()
        self._out = proc.popen.stdout

    def read(self, timeout=60):
        box = []
        t = threading.Thread(target=lambda: box.append(self._out.readline()), daemon=True)
        t.start()
        t.join(timeout)
        if not box:
            raise Failure(f"{self.proc.name} said nothing for {timeout} s\n{self.proc.tail()}")
        if not box[0]:
            raise Failure(f"{self.proc.name} ended\n{self.proc.tail()}")
        return box[0].decode()

    def ask(self, line, timeout=60):
        with self._lock:
            self.proc.popen.stdin.write(line.encode() + b"\n")
            self.proc.popen.stdin.flush()
            return self.read(timeout)
