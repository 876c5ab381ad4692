"""How much of a process's CPU time were softirqs: what the kernel does in whoever's time runs, at the end of one of his system
calls or of an interrupt. In a bed of namespaces that is the way of a packet through all of them up to the other end's TCP and its
next packets, which in life other machines do. perf (linux-perf) records when they begin and end; without it, or without its permission,
there is no answer. Where the kernel counts interrupts apart (CONFIG_IRQ_TIME_ACCOUNTING) they are in nobody's CPU seconds to begin with."""
import gzip
import os
import shutil
import signal
import subprocess
import tempfile
import time


def _counted_apart():
    try:
        with gzip.open("/proc/config.gz", "rt") as f:
            return "CONFIG_IRQ_TIME_ACCOUNTING=y" in f.read()
    except OSError:
        return False  # not told


EVENTS = "irq:softirq_entry,irq:softirq_exit"


class Softirqs:
    """with Softirqs(pid) as s: work. Then s.seconds: of all threads of the process; None: can't be told here, or was not
    asked for (pid None)."""

    def __init__(self, pid):
        self.pid, self.seconds, self.perf = pid, None, None

    def __enter__(self):
        if self.pid and shutil.which("perf") and not _counted_apart():
            self.dir = tempfile.TemporaryDirectory()
            self.data = os.path.join(self.dir.name, "perf.data")
            self.perf = subprocess.Popen(["perf", "record", "-q", "-m", "4M", "-e", EVENTS, "-p", str(self.pid), "-o", self.data],
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.3)  # it begins when it has opened its events
        return self

    def __exit__(self, *_):
        if not self.perf:
            return
        self.perf.send_signal(signal.SIGINT)
        self.perf.wait()
        r = subprocess.run(["perf", "script", "--show-lost-events", "-i", self.data, "-F", "tid,time,event"], capture_output=True, text=True)
        if r.returncode == 0 and "LOST" not in r.stdout:
            self.seconds = _sum(r.stdout)
        self.dir.cleanup()


def _sum(script):
    """Of lines like `27314 123.456789: irq:softirq_entry:`. None: none, so nothing was recorded."""
    since, total = {}, None
    for line in script.splitlines():
        tid, at, event = line.split()[:3]
        at = float(at.rstrip(":"))
        if "entry" in event:
            since[tid] = at
        elif tid in since:
            total = (total or 0) + at - since.pop(tid)
    return total
