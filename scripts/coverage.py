#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
#
# scripts/coverage.py LCOV FOLDER
#
# Prints what an lcov file says of the sources in FOLDER: a table by file, then each group of lines that was never
# executed, and each branch that was never taken, with its line. A generic function counts once: what one of its
# instances does, is done. What was only in tests or is off in this build is not in the file.

import os
import sys
from collections import defaultdict


def read(path, folder):
    """Counts by line, and by branch (line, block, branch), of each file."""
    lines = defaultdict(lambda: defaultdict(int))
    branches = defaultdict(lambda: defaultdict(int))
    name = None
    with open(path, encoding="utf-8") as lcov:
        for text in lcov:
            key, _, value = text.strip().partition(":")
            if key == "SF":
                name = os.path.relpath(value, folder)
            elif key == "DA":
                number, count = value.split(",")[:2]
                lines[name][int(number)] += int(count)
            elif key == "BRDA":
                number, block, branch, count = value.split(",")
                times = 0 if count == "-" else int(count)
                branches[name][int(number), block, branch] += times
    return lines, branches


def share(counts):
    hit = sum(1 for count in counts.values() if count)
    return f"{hit:>6} of {len(counts):<6}{100 * hit / max(1, len(counts)):>6.1f} %"


def groups(numbers):
    """Runs of numbers in a row."""
    found = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def main():
    path, folder = sys.argv[1:]
    lines, branches = read(path, folder)
    total = ({}, {})
    print(f"{'':<26}{'lines':>15}{'branches':>25}")
    for name in sorted(lines):
        print(f"{name:<26}{share(lines[name])}  {share(branches[name])}")
        for sums, counts in zip(total, (lines[name], branches[name])):
            sums.update({(name, key): count for key, count in counts.items()})
    print(f"{'all':<26}{share(total[0])}  {share(total[1])}")
    for name in sorted(lines):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            source = file.read().split("\n")
        missed = {number for number, count in lines[name].items() if not count}
        sides = defaultdict(list)
        for (number, _, branch), count in branches[name].items():
            if not count and number not in missed:
                sides[number].append(branch)
        if missed or sides:
            print(f"\n{name}")
        for begin, end in groups(missed):
            print(f"  {begin}-{end}" if end > begin else f"  {begin}")
            for number in range(begin, end + 1):
                print(f"      {source[number - 1]}")
        for number in sorted(sides):
            print(f"  {number} branch {' '.join(sides[number])}: {source[number - 1].strip()}")


main()
