#!/usr/bin/env python3
"""Holds the rooms apart: who may include whom, who may open sockets, what the archives may define and need.

usage: rooms.py SOURCE_ROOT CC ARCHIVE...     (archives are libtn_ROOM.a as meson builds them)

Source checks read all of src/; archive checks see what the linker sees. Both must hold: text can be fooled by a macro, an archive
can't show an include. Exit 1 with one line per finding.
"""
import os
import re
import subprocess
import sys

# Lowest first. A room may include itself and what is on a lower line, never a neighbour on its own.
LEVELS = [
    ["util"],
    ["crypto"],
    ["wire"],
    ["route"],
    ["filter", "wg", "path", "control", "tun"],
    ["stack", "egress"],
    ["dns", "forward"],
    ["node"],
]
LEVEL = {room: i for i, rooms in enumerate(LEVELS) for room in rooms}
PRIVATE_HEADERS = {"private.h", "internal.h"}

# Calls that reach the network or a resolver, and who may make them.
NETWORK = ["socket", "connect", "bind", "listen", "accept", "accept4", "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg",
           "recvmmsg", "getaddrinfo", "gethostbyname", "gethostbyname2", "res_query", "res_search", "socketpair", "uv_tcp_init",
           "uv_tcp_connect", "uv_udp_init", "uv_getaddrinfo", "popen", "system", "execve", "execvp", "posix_spawn"]
ALLOWED_FILES = {
    "src/util/resolve.c": {"getaddrinfo"},  # the thread that looks up control, DERP and the proxy by name
    "src/egress/socket.c": {"socket", "bind", "connect", "recvmsg", "sendmsg"},
    "src/egress/dgramsock.c": {"socket", "bind", "connect", "recvmsg", "recvmmsg", "sendmmsg"},
    "src/tun/rtnl.c": {"socket", "bind", "sendto", "recvfrom"},  # netlink, to the kernel
}
ALLOWED_ROOMS = {
    "node": set(NETWORK),  # the node's own connections, LocalAPI, listeners; nothing forwarded
}
ALLOWED_PATH_UDP = re.compile(r"^src/path/udp\w*\.c$")  # WireGuard's own packets

# Mutable data that an archive may hold, with the reason. Two nodes in one process share it.
ALLOWED_DATA = {
}

# src/egress: who may make a socket, and who may dial directly.
EGRESS_CALLERS = {
    "tn_socket_connect": {"direct.c", "proxied.c", "subnet.c"},
    "tn_socket_has_route": {"direct.c"},
    "tn_socket_bind": {"socket.c", "dgramsock.c"},
    "tn_socket_connected": {"race.c"},
    "tn_dgramsock_udp": {"dgram.c"},
    "tn_dgramsock_echo": {"dgram.c"},
    "tn_dgramsock_connected": {"associate.c"},
    "tn_subnet_begin": {"dial.c"},
    "tn_direct_begin": {"dial.c"},
    "tn_proxied_begin": {"dial.c"},
}

findings = []


def finding(text):
    findings.append(text)


def strip(source):
    """Without comments and the contents of strings and character constants; lines keep their numbers."""
    def blank(match):
        text = match.group(0)
        if text.startswith("/"):
            return re.sub(r"[^\n]", " ", text)
        return text[0] + " " * (len(text) - 2) + text[-1]
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, source, flags=re.S)


def sources(root):
    for folder, _, names in os.walk(os.path.join(root, "src")):
        for name in sorted(names):
            if name.endswith((".c", ".h")):
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as f:
                    yield os.path.relpath(path, root), f.read()


def check_includes(path, text):
    room = path.split("/")[1]
    if room not in LEVEL:
        finding(f"{path}: src/{room} is not a room of ARCHITECTURE.md")
        return
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
        if not match or "/" not in match.group(1):
            continue
        target, header = match.group(1).split("/", 1)
        if target == "..":
            finding(f"{path}:{number}: includes by a relative path")
        elif target in LEVEL and target != room:
            if LEVEL[target] >= LEVEL[room]:
                finding(f"{path}:{number}: {room} may not include {target} (levels point one way)")
            if header in PRIVATE_HEADERS:
                finding(f"{path}:{number}: {match.group(1)} is private to its room")
        elif target in ("cmd", "dev", "tests"):
            finding(f"{path}:{number}: src may not include {target}")


def check_calls(path, text):
    room = path.split("/")[1]
    if ALLOWED_PATH_UDP.match(path):
        return
    allowed = ALLOWED_FILES.get(path, set()) | ALLOWED_ROOMS.get(room, set())
    code = strip(text)
    # Not a member (x->connect(...), x.connect(...)) and not a part of a longer name.
    pattern = re.compile(r"(?<![\w.>])(" + "|".join(NETWORK) + r")\s*\(")
    for number, line in enumerate(code.splitlines(), 1):
        for name in pattern.findall(line):
            # A static function of ours may have such a name: then the archive check tells.
            own = re.search(rf"^static\b[^;{{}}()]*\b{name}\(", code, re.M)
            if name not in allowed and not own:
                finding(f"{path}:{number}: calls {name}")


def check_control(path, text):
    if path.startswith("src/control/") and re.search("egress", strip(text) + "".join(re.findall("#\\s*include.*", text)), re.I):
        finding(f"{path}: src/control knows nothing of egress")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


SANITIZER = re.compile(r"^(__odr_asan|__asan_|__ubsan_|__tsan_|__sanitizer_|__lsan_|__gcov|__llvm|__profd|_ub|\.L|llvm\.)")


def symbols(archive):
    """(object's source name, symbol, class letter, section) of every symbol in the archive."""
    unit = None
    for line in run("nm", "-f", "sysv", archive).splitlines():
        match = re.match(r"^(?:Symbols|Undefined symbols) from .*\[(.*)\]:$", line)
        if match:
            unit = re.sub(r"\.o$", "", os.path.basename(match.group(1)))
            continue
        parts = [p.strip() for p in line.split("|")]
        if len(parts) == 7 and parts[0] != "Name":
            name, kind, section = parts[0].split("@")[0], parts[2], parts[6]
            if not SANITIZER.match(name):
                yield unit, name, kind, section


def room_of(archive):
    return re.sub(r"^libtn_(.*)\.a$", r"\1", os.path.basename(archive))


def check_archive(archive):
    room = room_of(archive)
    for unit, name, kind, section in symbols(archive):
        if kind == "U":
            check_need(room, unit, name)
            continue
        public = name.startswith("tailnet_") and room == "node"  # include/tailnet.h
        if kind.isupper() and kind not in ("U", "W", "V") and not name.startswith("tn_") and not public:
            finding(f"{os.path.basename(archive)}({unit}): linker symbol {name} does not begin with tn_")
        mutable = kind.upper() in ("D", "B", "C", "S", "G") and not section.startswith(".data.rel.ro")
        if mutable and f"{room}:{name}" not in ALLOWED_DATA:
            finding(f"{os.path.basename(archive)}({unit}): mutable file-scope state {name} in {section}")


def check_need(room, unit, name):
    if name in NETWORK:
        path = f"src/{room}/{unit}"
        allowed = ALLOWED_FILES.get(path, set()) | ALLOWED_ROOMS.get(room, set())
        if name not in allowed and not ALLOWED_PATH_UDP.match(path):
            finding(f"libtn_{room}.a({unit}): needs {name}")
    if room == "egress" and name in EGRESS_CALLERS and unit not in EGRESS_CALLERS[name]:
        finding(f"libtn_egress.a({unit}): calls {name}, which only {', '.join(sorted(EGRESS_CALLERS[name]))} may")


def exported(cc, library):
    path = run(cc, f"-print-file-name={library}").strip()
    if not os.path.isabs(path):
        sys.exit(f"rooms.py: {cc} does not know {library}")
    names = set()
    for line in run("nm", "-D", "--defined-only", path).splitlines():
        names.add(line.split()[-1].split("@")[0])
    return names


def check_egress_link(archives, cc):
    """All that src/egress needs is in libc, libuv, util and wire. No TLS, no cryptography, by name either."""
    by_room = {room_of(a): a for a in archives}
    if "egress" not in by_room:
        finding("libtn_egress.a was not given")
        return
    have = exported(cc, "libc.so.6") | exported(cc, "libuv.so.1") | {"_GLOBAL_OFFSET_TABLE_"}
    defined, needed = set(), {}
    for room in ("egress", "wire", "util"):
        for unit, name, kind, _ in symbols(by_room[room]):
            if kind == "U":
                needed.setdefault(name, f"libtn_{room}.a({unit})")
            else:
                defined.add(name)
    for name, who in sorted(needed.items()):
        if name not in defined and name not in have:
            finding(f"{who}: needs {name}, which is in neither libc, libuv, util nor wire")


def main():
    root, cc, archives = sys.argv[1], sys.argv[2], sys.argv[3:]
    count = 0
    for path, text in sources(root):
        count += 1
        check_includes(path, text)
        check_calls(path, text)
        check_control(path, text)
    for archive in archives:
        check_archive(archive)
    check_egress_link(archives, cc)
    for line in findings:
        print(line)
    print(f"{count} files and {len(archives)} archives checked, {len(findings)} findings")
    sys.exit(1 if findings or not count else 0)


main()
