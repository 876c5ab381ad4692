#!/usr/bin/env python3
"""What is written about the program's flags is true: those of the manual pages and of packaging/ exist, for that command, and
tailnet(1) has them all.

usage: packaging.py SOURCE_ROOT TAILNET
"""
import os
import re
import subprocess
import sys

FLAG = re.compile(r"--[a-z][a-z0-9-]*")


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as f:
        return f.read()


def flags_of(text):
    """Flags at the beginning of lines of a usage text, where they are explained, and in its first line."""
    first, _, rest = text.partition("\n")
    found = set(FLAG.findall(first))
    for line in rest.splitlines():
        if re.match(r"\s+(-\w, )?--", line):
            found |= {FLAG.search(line).group(0)}
    return found


def program(tailnet):
    """{command: its flags}"""
    def ask(*words):
        return subprocess.run([tailnet, "help", *words], capture_output=True, text=True, timeout=20, check=True).stdout
    commands = [m.group(1) for m in re.finditer(r"^  ([a-z]+) ", ask(), re.M)]
    return {c: flags_of(ask(c)) | {"--help"} for c in commands if c not in ("help", "version")}


def invocations(text):
    """(command, flags) of each command line in a file of packaging/."""
    text = text.replace("\\\n", " ")
    for line in text.splitlines():
        m = re.search(r"""(?:/|\b)tailnet["']?[,\]]? +(run|egress|status|set|ping|netcheck|dev)\b(.*)""", line)
        if m:
            yield m.group(1), set(FLAG.findall(m.group(2)))
        elif line.startswith("CMD"):
            words = re.findall(r'"([^"]*)"', line)
            yield words[0], {w for w in words if w.startswith("--")}


def check(root, tailnet):
    known = program(tailnet)
    every = set().union(*known.values())
    findings = []
    if len(known) < 7 or len(known["run"]) < 20:
        return [f"the help texts could not be read: {known}"]
    pages = {name: read(root, "docs", "man", name).replace("\\-", "-") for name in os.listdir(os.path.join(root, "docs", "man"))}
    for name, text in pages.items():
        findings += [f"{name}: the program has no {flag}" for flag in sorted(set(FLAG.findall(text)) - every)]
    for command, flags in known.items():
        findings += [f"tailnet.1 lacks {flag} of {command}" for flag in sorted(flags - set(FLAG.findall(pages["tailnet.1"])))]
    lines = 0
    for name in os.listdir(os.path.join(root, "packaging")):
        for command, flags in invocations(read(root, "packaging", name)):
            lines += 1
            findings += [f"{name}: tailnet {command} has no {flag}" for flag in sorted(flags - known[command])]
    if lines < 3:
        findings.append(f"only {lines} command lines found in packaging/")
    print(f"{sum(map(len, known.values()))} flags, {len(pages)} pages, {lines} command lines, {len(findings)} findings")
    return findings


def main():
    findings = check(*sys.argv[1:])
    for f in findings:
        print(f)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
