"""A private place for one test program: its own mount, network and process namespaces.

enter() re-executes the program inside `unshare`, as root directly, else inside a user namespace of its own. Everything
the tests make (network namespaces, links, TUN devices, bind mounts, child processes) lives in there and is gone when
the program ends, also by SIGKILL: the kernel ends every process of the process namespace with its first one, and
the rest has no other owner. So there is nothing to clean up and nothing that an interrupted run could leave behind,
except a directory of logs, which the next run removes (see Workdir).

No packet can leave: the sandbox's network namespace has only loopback, and so have the ones made inside.
"""
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile

MARK = "TN_E2E_SANDBOX"
EXIT_NO_SANDBOX = 77  # what meson and automake take for "skipped"

# Debian gives an ordinary user no sbin in PATH, where sysctl, tcpdump and the proxies live.
for _dir in ("/usr/local/sbin", "/usr/sbin", "/sbin"):
    if _dir not in os.environ.get("PATH", os.defpath).split(":"):
        os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":" + _dir


def _unshare(user):
    argv = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--ipc"]
    return argv + (["--user", "--map-root-user"] if user else [])


def forbidden():
    """Why this machine allows no namespaces to this caller, as one line; None when it does."""
    if os.environ.get(MARK):
        return None
    user = os.geteuid() != 0
    try:
        r = subprocess.run(_unshare(user) + ["ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    except FileNotFoundError as e:
        return f"{e.filename} is missing (apt: util-linux, iproute2)"
    if r.returncode == 0:
        return None
    said = (r.stderr.strip().splitlines() or ["no reason given"])[-1]
    hint = "user namespaces are needed where the caller is not root" if user else "root without namespaces"
    return f"this machine forbids network namespaces here ({said}); {hint}"


def enter():
    """Returns inside the sandbox; never returns outside (the caller's process becomes the sandbox's parent)."""
    if os.environ.get(MARK) == "in":
        _prepare()
        return
    why = forbidden()
    if why:
        print(f"skip: {why}", flush=True)
        sys.exit(EXIT_NO_SANDBOX)
    user = os.geteuid() != 0
    env = dict(os.environ, **{MARK: "in", "TN_E2E_ROOT": "userns" if user else "root"})
    os.execvpe("unshare", _unshare(user) + [sys.executable, "-B"] + sys.argv, env)


def real_root():
    """True when the program runs with the machine's root, not that of a user namespace."""
    return os.environ.get("TN_E2E_ROOT") == "root"


def _prepare():
    """`ip netns` keeps its names under /run/netns; an own tmpfs there makes them ours alone. unshare has made mounts private."""
    target = "/run/netns"
    if not os.path.isdir(target):
        resolv = os.path.realpath("/etc/resolv.conf")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        os.mkdir(target)
        if resolv.startswith("/run/"):  # a link into what the tmpfs hides now; namespaces mount their own file over it
            os.makedirs(os.path.dirname(resolv), exist_ok=True)
            open(resolv, "w", encoding="ascii").close()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)  # squid leaves segments there when killed
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Workdir:
    """A directory for one run's files, removed at the end. While the run lives it holds a lock on a file in it, so that
    a later run can tell the remains of a killed one from the directory of a neighbour and remove only the former."""

    PREFIX = "tailnet-e2e-"

    def __init__(self, name):
        base = os.environ.get("TMPDIR", "/tmp")
        self._sweep(base)
        self.path = tempfile.mkdtemp(prefix=f"{self.PREFIX}{name}-", dir=base)
        os.chmod(self.path, 0o755)
        self._lock = os.open(os.path.join(self.path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self):
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def keep(self):
        """Leaves the files for a person to read: without the lock file no later run removes them. Returns the path."""
        os.unlink(os.path.join(self.path, ".lock"))
        os.close(self._lock)
        return self.path

    @classmethod
    def _sweep(cls, base):
        for entry in os.listdir(base):
            path = os.path.join(base, entry)
            if entry.startswith(cls.PREFIX) and cls._abandoned(path):
                shutil.rmtree(path, ignore_errors=True)

    @staticmethod
    def _abandoned(path):
        try:
            fd = os.open(os.path.join(path, ".lock"), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            return False
        finally:
            os.close(fd)
