"""What the comparing programs share: two hosts joined by a veth pair, and what a process uses."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from lib.net import Ns, run  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")


def two_hosts(work, names, net4, net6=None):
    """Namespaces with these names, at .1 and .2 of net4 ("10.99.0.") and of net6 ("fd99::"), if given; links v0 and v1."""
    hosts = [Ns(name, work) for name in names]
    run("ip", "link", "add", "v0", "netns", names[0], "type", "veth", "peer", "name", "v1", "netns", names[1])
    for i, ns in enumerate(hosts):
        ns.ip4 = f"{net4}{i + 1}"
        ns.ip("addr", "add", f"{ns.ip4}/24", "dev", f"v{i}")
        if net6:
            ns.ip6 = f"{net6}{i + 1}"
            ns.ip("addr", "add", f"{ns.ip6}/64", "dev", f"v{i}", "nodad")
        ns.ip("link", "set", f"v{i}", "up")
    return hosts


def prefer(pid):
    """A machine with other work disturbs less. Each program is a session, and sessions are weighed against each other."""
    try:
        with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as f:
            f.write("-19")
    except OSError:
        pass


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK
