#!/usr/bin/env python3
"""The numbered tables of docs/THREATS.md and docs/ACCEPTANCE.md are whole, and each row names tests that exist.

usage: tables.py SOURCE_ROOT        A reference is `path` > words: the file must hold these words.
"""
import os
import re
import sys

TABLES = {"THREATS.md": 30, "ACCEPTANCE.md": 50}


def references(cell):
    for part in cell.split(";"):
        match = re.fullmatch(r"\s*`([^`]+)` > (.+?)\s*", part)
        yield match.groups() if match else (None, part.strip())


def unheld(root, path, words):
    """What is wrong with one reference; None when it holds."""
    if path is None:
        return f"no reference: {words}"
    full = os.path.join(root, path)
    if not os.path.isfile(full):
        return f"no file {path}"
    with open(full, encoding="utf-8") as f:
        return None if words in f.read() else f"{path} does not speak of '{words}'"


def check(root, document, rows):
    with open(os.path.join(root, "docs", document), encoding="utf-8") as f:
        lines = [line for line in f if re.match(r"\| \d+ \|", line)]
    seen, count, findings = [], 0, []
    for line in lines:
        cells = [c.strip() for c in line.strip().strip("|").split(" | ")]
        seen.append(int(cells[0]))
        for path, words in references(cells[-1]):
            count += 1
            wrong = unheld(root, path, words)
            findings += [f"{document} row {cells[0]}: {wrong}"] if wrong else []
    if seen != list(range(1, rows + 1)):
        findings.append(f"{document}: rows are {seen}")
    print(f"{document}: {len(seen)} rows, {count} references, {len(findings)} findings")
    return findings


def main():
    findings = [f for document, rows in TABLES.items() for f in check(sys.argv[1], document, rows)]
    for f in findings:
        print(f)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
