#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
#
# scripts/coverage.py LCOV JSON FOLDER REASONS
#
# Prints what llvm-cov says of the sources in FOLDER: a table by file, but for files that REASONS has as a whole; then each place
# that was not reached (a group of lines that was never executed, or a condition that was never true or never false) and for
# which REASONS has no reason, and reasons for what was reached, or is not there any more. Fails if there is any of these.
# A generic function counts once: what one of its instances does, is done. What is only in tests, or off in this build, does not
# count.
#
# REASONS has sections: a line `[name]`, then the reason, then an empty line, then the places that it is for, one in each line:
#
#   FILE FUNCTION: TEXT     a condition, or the code of the first line
#   FILE FUNCTION: *        the whole function
#   FILE *                  the whole file
#   * REGEX                 whatever has this in its text
#   no REGEX                the same, if it is a condition that was never false
#
# `[name] may be reached`: seeds reach these places so seldom that any change of the simulator can decide it.

import json
import os
import re
import sys
from collections import defaultdict

# Lines of a place that are printed.
SHOWN = 12

FUNCTION = re.compile(r"^(\s*)(?:pub(?:\([^)]*\))?\s+)?(?:const\s+)?fn\s+(\w+)")


def read_lines(path, folder):
    """How often each line of each file was executed, from lcov."""
    lines = defaultdict(lambda: defaultdict(int))
    name = None
    with open(path, encoding="utf-8") as lcov:
        for text in lcov:
            key, _, value = text.strip().partition(":")
            if key == "SF":
                name = os.path.relpath(value, folder)
            elif key == "DA":
                number, count = value.split(",")[:2]
                lines[name][int(number)] += int(count)
    return lines


def read_branches(path, folder):
    """How often each condition of each file was true, and false, from JSON: that has columns, so that the instances of a
    generic function can be added up."""
    branches = defaultdict(lambda: defaultdict(int))
    with open(path, encoding="utf-8") as file:
        files = json.load(file)["data"][0]["files"]
    for each in files:
        name = os.path.relpath(each["filename"], folder)
        for begin, column, end, end_column, true, false, *_ in each["branches"]:
            place = (begin, column, end, end_column)
            branches[name][place, "true"] += true
            branches[name][place, "false"] += false
    return branches


def share(counts):
    hit = sum(1 for count in counts.values() if count)
    return f"{hit:>6} of {len(counts):<6}{100 * hit / max(1, len(counts)):>6.1f} %"


def groups(numbers, lines, source):
    """Runs of numbers in a row, but for lines that are no code; each function has its own."""
    found = []
    for number in sorted(numbers):
        begins = not found or FUNCTION.match(source[number - 1])
        if begins or any(between in lines for between in range(found[-1][1] + 1, number)):
            found.append([number, number])
        else:
            found[-1][1] = number
    return found


def code(line):
    """The code of a line, without a comment."""
    return re.sub(r"\s*//.*$", "", line).strip()


def functions(source):
    """The function that each line is in, by its number."""
    found = {}
    stack = []
    for number, line in enumerate(source, 1):
        indent = len(line) - len(line.lstrip())
        match = FUNCTION.match(line)
        while line.strip() and stack and (indent < stack[-1][0] or match and indent == stack[-1][0]):
            stack.pop()
        if match:
            stack.append((indent, match.group(2)))
        found[number] = stack[-1][1] if stack else "-"
    return found


def header(source, begin):
    """The lines of the statement whose block begins with line `begin`."""
    number = begin - 1
    if not code(source[number - 1]).endswith("{"):
        return []
    found = [number]
    while number > 1 and code(source[number - 2]) and code(source[number - 2])[-1] not in ";{}":
        number -= 1
        found.append(number)
    return found


def condition(source, place):
    """The text of a condition; of a pattern, the code of its line."""
    begin, column, end, end_column = place
    line = source[begin - 1]
    text = line[column - 1 : end_column - 1]
    if begin != end or f"let {text}" in line:
        return code(line)
    return text


def missing(name, source, lines, branches):
    """What was not reached: (file, function, text, what, is a condition that was never false, lines) of each place."""
    missed = {number for number, count in lines.items() if not count}
    never = {
        (place, side) for (place, side), count in branches.items() if not count and place[0] not in missed
    }
    decided = {place[0] for place, _ in never}
    inside = functions(source)
    places = []
    for begin, end in groups(missed, lines, source):
        # The way past an `if` is counted where that ends: its condition is the place.
        while begin <= end and code(source[begin - 1]) in ("", "}"):
            begin += 1
        # A block that is never entered belongs to the condition that never leads there.
        if begin <= end and not any(number in decided for number in header(source, begin)):
            what = f"{begin}-{end}" if end > begin else str(begin)
            places.append((begin, end, code(source[begin - 1]), what, False))
    for place, side in never:
        number = place[0]
        places.append((number, number, condition(source, place), f"{number}: never {side}", side == "false"))
    for begin, end, text, what, never_false in sorted(places):
        yield name, inside[begin], text, what, never_false, source[begin - 1 : end]


class Reason:
    """A section of the file of reasons."""

    def __init__(self, title):
        self.name, _, rest = title.partition("]")
        self.may_be_reached = rest.strip() == "may be reached"
        self.text = ""
        self.places = {}
        # Regular expression, and whether it is for conditions that were never false.
        self.patterns = []

    def explains(self, place):
        name, function, text, _, never_false, _ = place
        keys = [f"{name} {function}: {text}", f"{name} {function}: *", f"{name} *"]
        for key in keys:
            if key in self.places:
                self.places[key] += 1
                return True
        return any(pattern.search(text) for pattern, no in self.patterns if never_false or not no)


def read_reasons(path):
    reasons = []
    is_text = False
    with open(path, encoding="utf-8") as file:
        for line in map(str.strip, file):
            if line.startswith("["):
                reasons.append(Reason(line[1:]))
                is_text = True
            elif not line or not reasons:
                is_text = is_text and not (reasons and reasons[-1].text)
            elif is_text:
                reasons[-1].text = f"{reasons[-1].text} {line}".strip()
            elif match := re.match(r"(\*|no) (.*)", line):
                reasons[-1].patterns.append((re.compile(match.group(2)), match.group(1) == "no"))
            else:
                reasons[-1].places[line] = 0
    return reasons


def exists(place, sources):
    """Whether there is such a place at all."""
    name, _, rest = place.partition(" ")
    function, _, text = rest.partition(": ")
    source = sources.get(name)
    if source is None or rest == "*":
        return source is not None
    inside = functions(source)
    numbers = [number for number, of in inside.items() if of == function]
    return any(text == "*" or text in code(source[number - 1]) for number in numbers)


def main():
    lcov, export, folder, reasons = sys.argv[1:]
    lines, branches = read_lines(lcov, folder), read_branches(export, folder)
    reasons = read_reasons(reasons)
    sources = {}
    total = defaultdict(lambda: ({}, {}))
    apart = {place[:-2] for reason in reasons for place in reason.places if place.endswith(" *")}
    print(f"{'':<26}{'lines':>15}{'conditions':>25}")
    for name in sorted(lines):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            sources[name] = file.read().split("\n")
        if name in apart:
            continue
        print(f"{name:<26}{share(lines[name])}  {share(branches[name])}")
        for part in (os.path.dirname(name) or "the others", "all"):
            for kind, counts in enumerate((lines[name], branches[name])):
                total[part][kind].update({(name, key): count for key, count in counts.items()})
    print()
    for part, counts in total.items():
        print(f"{part:<26}{share(counts[0])}  {share(counts[1])}")
    explained = defaultdict(int)
    unexplained = []
    for name, source in sorted(sources.items()):
        if name in apart:
            continue
        for place in missing(name, source, lines[name], branches[name]):
            reason = next((reason for reason in reasons if reason.explains(place)), None)
            if reason:
                explained[reason.name] += 1
            else:
                unexplained.append(place)
    print("\nplaces that were not reached, by reason:")
    for reason in reasons:
        print(f"{explained[reason.name]:>6}  {reason.name}: {reason.text}")
    over = []
    for reason in reasons:
        for place, times in reason.places.items():
            if not exists(place, sources):
                over.append(f"is not there any more: {place}")
            elif not times and not reason.may_be_reached and place[:-2] not in apart:
                over.append(f"was reached: {place}")
    if unexplained:
        print("\nplaces that were not reached, without a reason:")
    for name, function, text, what, _, code_lines in unexplained:
        print(f"{name} {function}: {text}")
        print(f"    {what}")
        if len(code_lines) > 1:
            print("".join(f"        {line}\n" for line in code_lines[:SHOWN]), end="")
    if over:
        print("\nreasons for nothing:")
    for line in over:
        print(line)
    print(f"\n{sum(explained.values())} explained, {len(unexplained)} not explained, {len(over)} reasons for nothing")
    sys.exit(1 if unexplained or over else 0)


main()
