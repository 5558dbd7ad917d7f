#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
#
# scripts/frames.py LIMIT OBJECT...
#
# Prints the functions of kernel modules whose stack frame has more than LIMIT bytes, largest first, and fails if there is
# one. A kernel stack has 16 KiB; the compiler warns of large frames of C, but not of Rust, where a type that is returned
# by value easily takes three copies.

"""Finds large stack frames in object files."""

import re
import subprocess
import sys

FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
# The whole frame is made by one subtraction, but for the few registers that are pushed before.
FRAME = re.compile(r"\bsub\s+\$0x([0-9a-f]+),%rsp")


def frames(path):
    """The largest subtraction from the stack pointer in each function."""
    listing = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", "--demangle=rust", path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    sizes = {}
    name = ""
    for line in listing.splitlines():
        if function := FUNCTION.match(line):
            name = function[1]
        elif frame := FRAME.search(line):
            sizes[name] = max(sizes.get(name, 0), int(frame[1], 16))
    return sizes


def main():
    """Looks at all objects; status 1 if a frame is too large."""
    limit = int(sys.argv[1])
    found = [
        (size, path.rpartition("/")[2], name)
        for path in sys.argv[2:]
        for name, size in frames(path).items()
        if size > limit
    ]
    for size, path, name in sorted(found, reverse=True):
        print(f"{path}: {size} bytes of stack in {name}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
