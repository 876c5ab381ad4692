#!/usr/bin/env python3
"""docs/THREATS.md tells of every row of the leak table, and each names tests that exist.

usage: threats.py SOURCE_ROOT        A reference is `path` > words: the file must hold these words.
"""
import os
import re
import sys

ROWS = 30


def references(cell):
    for part in cell.split(";"):
        match = re.fullmatch(r"\s*`([^`]+)` > (.+?)\s*", part)
        yield match.groups() if match else (None, part.strip())


def main():
    root = sys.argv[1]
    findings, seen, count = [], [], 0
    with open(os.path.join(root, "docs", "THREATS.md"), encoding="utf-8") as f:
        rows = [line for line in f if re.match(r"\| \d+ \|", line)]
    for line in rows:
        cells = [c.strip() for c in line.strip().strip("|").split(" | ")]
        seen.append(int(cells[0]))
        for path, words in references(cells[-1]):
            count += 1
            if path is None:
                findings.append(f"row {cells[0]}: no reference: {words}")
                continue
            full = os.path.join(root, path)
            if not os.path.isfile(full):
                findings.append(f"row {cells[0]}: no file {path}")
                continue
            with open(full, encoding="utf-8") as f:
                if words not in f.read():
                    findings.append(f"row {cells[0]}: {path} does not speak of '{words}'")
    if seen != list(range(1, ROWS + 1)):
        findings.append(f"rows are {seen}")
    print("\n".join(findings + [f"{len(seen)} rows, {count} references, {len(findings)} findings"]))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
