#!/usr/bin/env python3
"""Shows that rooms.py can fail: a small tree with one violation of each kind, and one without any.

usage: rooms_selftest.py ROOMS_PY CC
"""
import os
import subprocess
import sys
import tempfile

ROOMS, CC = sys.argv[1], sys.argv[2]

CLEAN = {
    "src/util/a.c": "int tn_a(int);\nint tn_a(int x) { return x; }\n",
    "src/wire/w.c": "int tn_w(int);\nint tn_w(int x) { return x; }\n",
    "src/egress/socket.c": "int socket(int, int, int);\nint tn_socket_connect(void);\n"
                           "int tn_socket_connect(void) { return socket(1, 2, 3); }\n",
    "src/egress/direct.c": '#include "util/a.h"\nint tn_socket_connect(void);\nint tn_direct_begin(void);\n'
                           "int tn_direct_begin(void) { return tn_socket_connect(); }\n",
    "src/util/a.h": "/* getaddrinfo( is only named here */\n",
    "src/forward/f.c": 'static const char text[] = "socket(";\nconst char *tn_f(void);\nconst char *tn_f(void) { return text; }\n',
    "src/control/c.c": "/* egress */\nint tn_c(void);\nint tn_c(void) { return 0; }\n",
}
# What is put into the clean tree, and a part of the line that must then come.
VIOLATIONS = [
    ("src/util/a.h", '#include "wire/w.h"\n', "util may not include wire"),
    ("src/wg/x.c", '#include "path/path.h"\nint tn_x;\n', "wg may not include path"),
    ("src/egress/direct.c", '#include "stack/stack.h"\n', "egress may not include stack"),
    ("src/forward/f.c", '#include "egress/private.h"\n', "private to its room"),
    ("src/control/c.c", "int tn_egress_x(void);\n", "knows nothing of egress"),
    ("src/nowhere/x.c", "\n", "not a room"),
    ("src/forward/f.c", "int f(void)\n{\n    return sendto(1);\n}\n", "calls sendto"),
    ("src/egress/direct.c", "int socket(int);\nint tn_z(void);\nint tn_z(void) { return socket(1); }\n", "(direct.c): needs socket"),
    ("src/dns/d.c", "static int connect(int x) { return x; }\nint tn_q(void) { return connect(1) + bind(2); }\n", "calls bind"),
    ("src/stack/s.c", "int getaddrinfo(int);\nint (*const tn_s)(int) = getaddrinfo;\n", "libtn_stack.a(s.c): needs getaddrinfo"),
    ("src/wire/w.c", "int plain(void);\nint plain(void) { return 0; }\n", "plain does not begin with tn_"),
    ("src/wire/w.c", "static int count;\nint tn_count(void);\nint tn_count(void) { return ++count; }\n", "mutable file-scope state count"),
    ("src/wire/w.c", "int tn_n(void);\nint tn_n(void) { static int n = 3; return ++n; }\n", "mutable file-scope state n."),
    ("src/wire/w.c", "_Thread_local int tn_tls;\n", "mutable file-scope state tn_tls"),
    ("src/egress/policy.c", "int tn_socket_connect(void);\nint tn_p(void);\nint tn_p(void) { return tn_socket_connect(); }\n",
     "(policy.c): calls tn_socket_connect"),
    ("src/egress/proxied.c", "int tn_direct_begin(void);\nint tn_p(void);\nint tn_p(void) { return tn_direct_begin(); }\n",
     "(proxied.c): calls tn_direct_begin"),
    ("src/egress/tls.c", "int SSL_new(void);\nint tn_p(void);\nint tn_p(void) { return SSL_new(); }\n", "needs SSL_new"),
]


def run_on(tree):
    """Writes the tree, compiles what compiles, and gives rooms.py's exit code and words."""
    with tempfile.TemporaryDirectory() as root:
        objects = {}
        for path, text in tree.items():
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w") as f:
                f.write(text)
        for path in tree:
            room, out = path.split("/")[1], os.path.join(root, path + ".o")
            flags = ["-w", "-fPIC", "-O1", "-I" + os.path.join(root, "src"), "-c", os.path.join(root, path), "-o", out]
            if path.endswith(".c") and subprocess.run([CC, *flags], capture_output=True).returncode == 0:
                objects.setdefault(room, []).append(out)
        archives = []
        for room, files in objects.items():
            archives.append(os.path.join(root, f"libtn_{room}.a"))
            subprocess.run(["ar", "rcsT", archives[-1], *files], check=True)
        done = subprocess.run([sys.executable, ROOMS, root, CC, *archives], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


def main():
    bad = 0
    code, words = run_on(CLEAN)
    if code != 0:
        bad += 1
        print("the clean tree is not clean:\n" + words)
    for path, text, want in VIOLATIONS:
        code, words = run_on(CLEAN | {path: CLEAN.get(path, "") + text})
        if code != 1 or want not in words:
            bad += 1
            print(f"not found: {want}\n{words}")
    print(f"{len(VIOLATIONS)} violations tried, {bad} wrong")
    sys.exit(1 if bad else 0)


main()
