"""Cases and their runner.

A scenario file is a program: it defines a bed (what all its cases share) and cases, and ends with main(). Each case
prints one line, `ok NAME`, `FAIL NAME` or `skip NAME: why`; the last line is `N passed, N failed, N skipped`. A case that
hangs is cut after its time; a failed bed fails every case of the file, since none was shown to hold.
"""
import os
import signal
import sys
import time
import traceback

from . import sandbox
from .net import Topology
from .proc import Failure, Supervisor

CASE_SECONDS = 180
_cases = []


class Skip(Exception):
    """This machine can't run the case; the reason is printed."""


class CutOff(Exception):
    """The case took longer than it may."""


def case(name, seconds=CASE_SECONDS):
    def add(fn):
        _cases.append((name, fn, seconds))
        return fn
    return add


class Bed:
    """What a scenario has at hand. A file's own bed derives from it and builds in build()."""

    def __init__(self, workdir):
        self.dir = workdir
        self.sup = Supervisor(workdir)
        self.net = Topology(workdir)

    def build(self):
        pass

    def check(self):
        """After each case: what must hold always (no sanitizer report, no process lost)."""

    def finish(self):
        """After all cases: orderly ends that must succeed. Counted as a case of its own."""


def _alarm(_sig, _frame):
    raise CutOff()


class _Timed:
    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        signal.signal(signal.SIGALRM, _alarm)
        signal.alarm(self.seconds)

    def __exit__(self, *_):
        signal.alarm(0)


class _Run:
    def __init__(self, title):
        self.title = title
        self.counts = {"ok": 0, "FAIL": 0, "skip": 0}
        self.failed = False

    def line(self, outcome, name, extra=""):
        self.counts[outcome] += 1
        print(f"{outcome} {self.title}: {name}{extra}", flush=True)

    def one(self, name, seconds, fn, bed):
        """Runs one step, prints its line, and returns whether it held."""
        start = time.monotonic()
        try:
            with _Timed(seconds):
                note = fn()
            self.line("ok", name, f" ({time.monotonic() - start:.1f} s{'; ' + note if isinstance(note, str) else ''})")
            return True
        except Skip as e:
            self.line("skip", name, f": {e}")
            return True
        except CutOff:
            self._fail(name, f"cut off after {seconds} s\n" + "".join(traceback.format_exc().splitlines(True)[-8:]), bed)
        except Failure as e:
            self._fail(name, str(e), bed)
        except Exception:
            self._fail(name, traceback.format_exc(), bed)
        return False

    def _fail(self, name, why, bed):
        self.failed = True
        self.line("FAIL", name)
        print("    " + why.strip().replace("\n", "\n    "), flush=True)
        if bed and os.environ.get("TN_E2E_LOGS", "1") != "0":
            print("    " + bed.sup.report().replace("\n", "\n    "), flush=True)

    def summary(self):
        c = self.counts
        print(f"{c['ok']} passed, {c['FAIL']} failed, {c['skip']} skipped", flush=True)


def main(title, bed_class, needs=lambda: None):
    """Runs the cases of the calling file. needs: returns why the whole file can't run here (or None). Words on the
    command line select cases whose name contains one of them; --list prints the names."""
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    chosen = [c for c in _cases if not words or any(w in c[0] for w in words)]
    if "--list" in sys.argv:
        print("\n".join(c[0] for c in chosen))
        return
    sandbox.enter()
    run = _Run(title)
    why = needs()
    if why:
        for name, _, _ in chosen:
            run.line("skip", name, f": {why}")
        run.summary()
        return
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, lambda s, _f: sys.exit(128 + s))
    work = sandbox.Workdir(title.replace("/", "-").replace(" ", "-"))
    try:
        _run_cases(run, chosen, bed_class, work)
    except SystemExit:
        work.remove()
        raise
    if run.failed:
        print(f"logs: {work.keep()}", flush=True)
    else:
        work.remove()
    run.summary()
    sys.exit(1 if run.failed else 0)


def _run_cases(run, chosen, bed_class, work):
    bed = bed_class(work.path)
    try:
        skipped = run.counts["skip"]
        if not run.one("the bed stands", CASE_SECONDS, bed.build, bed):
            for name, _, _ in chosen:
                run.line("FAIL", name, ": the bed does not stand")
            return
        if run.counts["skip"] > skipped:
            for name, _, _ in chosen:
                run.line("skip", name, ": the bed can't stand here")
            return
        for name, fn, seconds in chosen:
            run.one(name, seconds, lambda f=fn: _checked(f, bed), bed)
        if type(bed).finish is not Bed.finish:
            run.one("everything ends cleanly", CASE_SECONDS, bed.finish, bed)
    finally:
        bed.sup.end()


def _checked(fn, bed):
    note = fn(bed)
    bed.check()
    return note
