# SPDX-License-Identifier: GPL-2.0
#
# What bench.py and bench_recovery.py share: the virtual machines, jobs of fio, tables and JSON. What is measured, and how it
# is judged, is theirs.

"""Virtual machines, jobs of fio, tables."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
CLUSTER = str(TOP / "scripts" / "cluster")


@dataclass(frozen=True)
class Job:
    """One fio job."""

    name: str
    rw: str
    block: int
    depth: int

    def fio(self, device, seconds, span_mib):
        """The fio command line for this job on a device of the client."""
        return (
            f"fio --name={self.name} --filename={device} --rw={self.rw} --bs={self.block}"
            f" --iodepth={self.depth} --size={span_mib}M --ioengine=libaio --direct=1"
            f" --time_based --runtime={seconds} --ramp_time=1 --randrepeat=0 --norandommap"
            f" --output-format=json"
        )

    @property
    def direction(self):
        """Which half of fio's result holds the numbers."""
        return "write" if "write" in self.rw else "read"

    def result(self, text):
        """That half, out of what fio printed; an error if fio saw one."""
        result = json.loads(text[text.index("{") : text.rindex("}") + 1])["jobs"][0]
        if result["error"]:
            raise RuntimeError(f"fio: {self.name} ended with error {result['error']}")
        return result[self.direction]


class Cluster:
    """The virtual machines, through the project's own harness."""

    def __init__(self):
        self.vm = os.environ.get("RMR_VM", str(TOP / "scripts" / "vm"))

    def run(self, host, command, timeout=300):
        """Runs a command on a host and returns what it printed."""
        return checked([self.vm, host, command], f"{host}: {command!r}", timeout)

    def begin(self, host, command):
        """Begins a command on a host; its output comes through a pipe."""
        return subprocess.Popen(
            [self.vm, host, command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def kernel(self):
        """The release that all of them run."""
        return self.run("client", "uname -r").strip()


def checked(argv, what, timeout, env=None):
    """Runs a program and returns what it printed; an error if it says that it failed."""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False, env=env
    )
    if done.returncode != 0:
        raise RuntimeError(f"{what} gave {done.returncode}: {done.stdout[-2000:]}{done.stderr.strip()}")
    return done.stdout


def own_cluster(program, *options):
    """Without a cluster in RMR_RUN, begins the program again in one that ends with it."""
    if "RMR_RUN" not in os.environ:
        os.execv(CLUSTER, [CLUSTER, "run", *options, "--", str(Path(program).resolve()), *sys.argv[1:]])


def table(head, rows):
    """Prints rows of text in columns."""
    cells = [head, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        first, *rest = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        print("  ".join([first, *rest]))
    print()


def number(value, digits=0):
    """A number, or a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def write_json(path, document):
    """Writes everything measured, for machines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")
