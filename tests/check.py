#!/usr/bin/env python3
"""./check: build, run every suite, add up. Started by ../check, which sees to the packages.

Meson's tests are counted by their cases where they are cmocka programs, else as one each; a scenario of tests/e2e counts by
its own last line. Whatever ends without saying how many passed counts as one failure.
"""
import ctypes
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
BUILD = os.path.join(ROOT, os.environ.get("TN_CHECK_BUILD", "build-check"))
TSAN = os.path.join(ROOT, "build-tsan")
TSAN_TARGETS = ("tests/unit/util/test_workpool", "tests/unit/path/test_path_udp_post",
                "tests/unit/path/test_path_udp_ahead")
SUITES = ("unit", "fuzz", "sim", "e2e")
GO_AT_LEAST = (1, 26)
E2E_ORDER = ["selftest", "test_join", "test_exit", "test_dns", "test_flows", "test_tools", "test_closed", "test_hostile", "test_api",
             "test_devserver", "test_dev", "test_direct", "test_headscale"]
IDLE = ("test_vanish", "test_soak", "test_directlong")  # minutes long and nearly idle: run beside the others


class Sums:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []

    def add(self, passed, failed, skipped, name):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        if failed:
            self.failures.append(f"{name}: {failed} failed")

    def end(self):
        for f in self.failures:
            print(f"failed: {f}")
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        return 1 if self.failed or not self.passed else 0


def die_with_parent():
    """In a new child: the kernel kills it when this program is gone, however that came about."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Children:
    """Runs children and takes them down with everything below them when this program is told to end."""

    def __init__(self):
        self.running = []
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, self._end)

    def _end(self, sig, _frame):
        # politely to the whole groups: a scenario's parent, `unshare`, ignores it, but what runs inside cleans up
        self._kill(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any(c.poll() is None for c in self.running):
            time.sleep(0.05)
        self._kill(signal.SIGKILL)
        print("interrupted", flush=True)
        os._exit(128 + sig)

    def _kill(self, sig):
        for c in self.running:
            try:
                os.killpg(c.pid, sig)
            except ProcessLookupError:
                pass

    def start(self, argv, capture=False, **kw):
        """A child in a process group of its own."""
        out = subprocess.PIPE if capture else None
        c = subprocess.Popen(argv, cwd=ROOT, start_new_session=True, stdin=subprocess.DEVNULL, text=True, errors="replace",
                             preexec_fn=die_with_parent, stdout=out, stderr=subprocess.STDOUT if capture else None, **kw)
        self.running.append(c)
        return c

    def finish(self, c):
        """Waits for a child; returns (exit status, lines of its output, which are passed on, when captured)."""
        lines = []
        for line in c.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line.rstrip("\n"))
        code = c.wait()
        self.running.remove(c)
        return code, lines

    def run(self, argv, **kw):
        return self.finish(self.start(argv, **kw))


def in_ci():
    return os.environ.get("CI", "") not in ("", "0", "false")


def stage(text):
    print(f"== {text}", flush=True)


def build(run):
    stage(f"build with ASan and UBSan in {os.path.basename(BUILD)}")
    if not os.access(BUILD if os.path.isdir(BUILD) else os.path.dirname(BUILD), os.W_OK):
        print(f"{BUILD} can't be written to")
        return False
    if not os.path.exists(os.path.join(BUILD, "build.ninja")):
        shutil.rmtree(BUILD, ignore_errors=True)
        env = dict(os.environ)
        if shutil.which("ccache") and "CC" not in env:
            env["CC"] = "ccache gcc"
        code, _ = run(["meson", "setup", BUILD, "-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dwerror=true"],
                      env=env)
        if code:
            return False
    code, _ = run(["ninja", "-C", BUILD])
    return code == 0


def build_threaded(run):
    """The build with the thread sanitizer: the parts that work with threads."""
    stage(f"build with TSan in {os.path.basename(TSAN)}")
    if not os.path.exists(os.path.join(TSAN, "build.ninja")):
        shutil.rmtree(TSAN, ignore_errors=True)
        env = dict(os.environ)
        if shutil.which("ccache") and "CC" not in env:
            env["CC"] = "ccache gcc"
        code, _ = run(["meson", "setup", TSAN, "-Db_sanitize=thread", "-Db_lundef=false", "-Dwerror=true"], env=env)
        if code:
            return False
    code, _ = run(["ninja", "-C", TSAN, "tailnet", *TSAN_TARGETS])
    return code == 0


def threads(children, sums):
    """What runs on several threads, once more with the thread sanitizer, which ends a program that races with status 66."""
    if not build_threaded(children.run):
        sums.add(0, 1, 0, "build with TSan")
        return
    for target in TSAN_TARGETS:
        stage(f"TSan: {os.path.basename(target)}")
        code, lines = children.run([os.path.join(TSAN, target)], capture=True)
        counts = count_meson({"result": "ERROR" if code else "OK", "stdout": "\n".join(lines)})
        sums.add(*counts, f"TSan: {target}")
    for name, path in scenarios(["test_workers"]):
        stage(f"TSan: scenario {name}")
        child = children.start([sys.executable, "-B", path], capture=True, env=dict(os.environ, TN_BUILD=TSAN))
        add_scenario(sums, f"TSan: {name}", path, *children.finish(child))


def meson_tests(run, sums, suites):
    stage("tests: " + ", ".join(suites))
    argv = ["meson", "test", "-C", BUILD, "--no-rebuild", "--print-errorlogs",
            "--timeout-multiplier", "4"]  # a loaded machine decides nothing
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=1", UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1")
    log = os.path.join(BUILD, "meson-logs", "testlog.json")
    if os.path.exists(log):
        os.unlink(log)
    code, _ = run(argv + [w for s in suites for w in ("--suite", s)], env=env)
    if not os.path.exists(log):
        sums.add(0, 1, 0, "meson test")
        return
    failed = 0
    with open(log, encoding="utf-8") as f:
        for line in f:
            test = json.loads(line)
            counts = count_meson(test)
            failed += counts[1]
            sums.add(*counts, test["name"])
    if code and not failed:
        sums.add(0, 1, 0, "meson test")


def count_meson(test):
    """(passed, failed, skipped) of one entry of meson's testlog.json."""
    if test["result"] == "SKIP":
        return 0, 0, 1
    text = (test.get("stdout") or "") + (test.get("stderr") or "")
    passed = sum(int(n) for n in re.findall(r"\[  PASSED  \] (\d+) test", text))
    failed = sum(int(n) for n in re.findall(r"\[  FAILED  \] (\d+) test", text))
    skipped = sum(int(n) for n in re.findall(r"\[  SKIPPED \] (\d+) test", text))
    ok = test["result"] in ("OK", "EXPECTEDFAIL")
    if ok:
        return passed or 1, 0, skipped
    return passed, failed or 1, skipped


def find_go():
    """Puts a new enough Go into PATH; returns why there is none, else None."""
    if not shutil.which("go") and os.access("/usr/local/go/bin/go", os.X_OK):
        os.environ["PATH"] += ":/usr/local/go/bin"
    if not shutil.which("go"):
        return "no Go in PATH"
    said = subprocess.run(["go", "version"], capture_output=True, text=True).stdout
    m = re.search(r"go(\d+)\.(\d+)", said)
    if not m or (int(m[1]), int(m[2])) < GO_AT_LEAST:
        return f"Go is older than {GO_AT_LEAST[0]}.{GO_AT_LEAST[1]}: {said.strip()}"
    return None


def build_peers(run, sums):
    stage("official peers (Go)")
    why = find_go()
    if not why:
        env = dict(os.environ, GO_P=str(os.cpu_count() or 1)) if in_ci() else None
        code, _ = run(["tests/peers/build.sh"], env=env)
        why = f"tests/peers/build.sh failed with {code}" if code else None
    if not why:
        return
    if in_ci():
        print(f"FAIL official peers: {why}, and CI is set")
        sums.add(0, 1, 0, "official peers")
    else:
        print(f"skip: {why}; without it no scenario with official peers or headscale runs (tests/peers)")


def scenarios(names):
    files = {os.path.basename(f)[:-3]: f for f in glob.glob(os.path.join(ROOT, "tests/e2e/*.py"))
             if os.path.basename(f).startswith(("test_", "selftest"))}
    ordered = [n for n in E2E_ORDER if n in files] + sorted(n for n in files if n not in E2E_ORDER)
    return [(n, files[n]) for n in ordered if not names or any(w in n for w in names)]


def count_cases(path):
    r = subprocess.run([sys.executable, "-B", path, "--list"], capture_output=True, text=True)
    return len(r.stdout.splitlines()) or 1


def start_scenario(children, path):
    return children.start([sys.executable, "-B", path], capture=True, env=dict(os.environ, TN_BUILD=BUILD))


def add_scenario(sums, name, path, code, lines):
    last = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", lines[-1] if lines else "")
    if last:
        sums.add(*map(int, last.groups()), name)
        if code and not int(last[2]):
            sums.add(0, 1, 0, name)
    elif code == 77 and not in_ci():
        sums.add(0, 0, count_cases(path), name)
    else:
        sums.add(0, 1, 0, f"{name} (exit {code}, no count)")


def e2e(children, sums, names):
    chosen = scenarios(names)
    idle = [(n, p, start_scenario(children, p)) for n, p in chosen if n in IDLE]
    for name, path in chosen:
        if name not in IDLE:
            stage(f"scenario {name}")
            start = time.monotonic()
            add_scenario(sums, name, path, *children.finish(start_scenario(children, path)))
            print(f"{name} took {time.monotonic() - start:.0f} s", flush=True)
    for name, path, child in idle:
        stage(f"scenario {name}, which ran meanwhile")
        add_scenario(sums, name, path, *children.finish(child))


def main():
    args = sys.argv[1:]
    sums, children = Sums(), Children()
    run = children.run
    what = args[0] if args else "all"
    if not build(run):
        sums.add(0, 1, 0, "build")
        return sums.end()
    if what == "all":
        meson_tests(run, sums, SUITES)
    elif what == "threads":
        threads(children, sums)
    elif what != "e2e" or not args[1:]:
        meson_tests(run, sums, args)
    if what in ("all", "e2e"):
        build_peers(run, sums)
        if what == "all":
            meson_tests(run, sums, ("peers",))  # after the Go programs it needs
            threads(children, sums)
        e2e(children, sums, args[1:])
    return sums.end()


if __name__ == "__main__":
    sys.exit(main())
