#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: GPL-2.0
#
# make bench: the same fio jobs on brmr and on what else the stock kernel offers for the same purpose, in one set of
# virtual machines over the same backing devices.
#
# The contenders take turns in every round, so that a busy build machine hurts all of them alike; medians over the
# rounds are compared. Under emulation the absolute numbers mean little, the ratios do. What sets a contender up and
# takes it down is in tests/bench/contenders.sh; this file measures, compares and reports. With --baseline, brmr as it was at
# a commit is a contender, too.
#
# On a machine whose speed changes from second to second, times of the same thing differ by half. With --count, the clocks of
# the virtual machines count instructions, so that the CPU time of an IO is what it takes of them; that differs by a twentieth.

"""Measures brmr against its alternatives; prints medians, ratios and floors, and writes JSON."""

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from measure import CLUSTER, TOP, Cluster, Job, checked, number, own_cluster, table, write_json

CONTENDERS = ("brmr", "rnbd", "md-rnbd", "md-nvme")
# brmr of the commit that --baseline names.
BEFORE = "before"
NODES = ("node1", "node2")


JOBS = (
    Job("write-4k-1", "randwrite", 4096, 1),
    Job("read-4k-1", "randread", 4096, 1),
    Job("write-4k-16", "randwrite", 4096, 16),
    Job("read-4k-16", "randread", 4096, 16),
    Job("write-128k-8", "write", 131072, 8),
    Job("read-128k-8", "read", 131072, 8),
)


@dataclass(frozen=True)
class Floor:
    """The least that brmr must reach in a job, as a multiple of another contender."""

    job: str
    against: str
    ratio: float


FLOORS = (
    Floor("write-4k-1", "md-rnbd", 1.0),
    Floor("read-4k-1", "rnbd", 0.95),
    Floor("write-4k-16", "md-rnbd", 2.0),
    Floor("read-4k-16", "md-rnbd", 2.0),
    Floor("write-4k-16", "md-nvme", 1.3),
    Floor("read-4k-16", "md-nvme", 1.3),
    Floor("write-128k-8", "md-rnbd", 1.0),
    Floor("read-128k-8", "md-rnbd", 1.0),
)


# brmr must not have become slower than this.
KEPT = 0.95


@dataclass
class Sample:
    """What one run of one job gave."""

    iops: float
    latency_us: float
    client_cpu_us: float
    nodes_cpu_us: float


@dataclass
class Results:
    """All samples: contender -> job -> samples in the order of the rounds."""

    samples: dict = field(default_factory=dict)

    def add(self, contender, job, sample):
        """Keeps one sample."""
        self.samples.setdefault(contender, {}).setdefault(job, []).append(sample)

    def median(self, contender, job, what):
        """The median of one quantity, or None if the contender never ran the job."""
        samples = self.samples.get(contender, {}).get(job)
        return statistics.median(getattr(s, what) for s in samples) if samples else None

    def spread(self, contender, job):
        """Largest deviation of the IOPS from their median, in percent."""
        middle = self.median(contender, job, "iops")
        if not middle:
            return None
        samples = self.samples[contender][job]
        return max(abs(s.iops - middle) for s in samples) / middle * 100


class Baseline:
    """brmr as it was at a commit: a copy of the checkout, whose modules and set-up take turns with those of this one."""

    def __init__(self, commit, kernel):
        name = checked(["git", "-C", str(TOP), "rev-parse", "--verify", f"{commit}^{{commit}}"], "git", 60).strip()
        self.tree = Path(os.environ["RMR_CACHE"]) / f"{BEFORE}-{name}"
        if not self.tree.is_dir():
            part = self.tree.with_suffix(".part")
            script = 'rm -rf "$3" && mkdir "$3" && git -C "$1" archive "$2" | tar -x -C "$3"'
            checked(["bash", "-o", "pipefail", "-ec", script, "archive", str(TOP), name, str(part)], "git archive", 60)
            part.rename(self.tree)
        env = {**os.environ, "KERNEL": kernel}
        built = Path(checked([str(self.tree / "scripts" / "modules.sh")], "modules.sh", 1800, env).strip())
        self.payload = self.tree / "build" / "payload"
        modules = self.payload / "modules"
        modules.mkdir(parents=True, exist_ok=True)
        for module in ("rmr.ko", "brmr.ko"):
            (modules / module).unlink(missing_ok=True)
            (modules / module).symlink_to(built / module)
        self.loads_this = False

    def switch(self, contender):
        """What the machines load from now on is for this contender."""
        if contender in ("brmr", BEFORE) and self.loads_this != (contender == BEFORE):
            self.loads_this = contender == BEFORE
            env = {**os.environ, "RMR_PAYLOAD": str(self.payload) if self.loads_this else ""}
            checked([CLUSTER, "payload"], "cluster payload", 600, env)


def contender_do(verb, contender, span, baseline):
    """Sets a contender up or takes it down; returns what the script printed."""
    if verb == "up" and baseline:
        baseline.switch(contender)
    top, name = (baseline.tree, "brmr") if contender == BEFORE else (TOP, contender)
    script = str(top / "tests" / "bench" / "contenders.sh")
    return checked([script, verb, name], f"{verb} {contender}", 600, {**os.environ, "BENCH_SPAN": str(span)}).strip()


def busy_seconds(stat, hertz=100):
    """CPU time that was not idle, in seconds, from the first line of /proc/stat."""
    fields = [int(f) for f in stat.split("\n", 1)[0].split()[1:]]
    # user nice system idle iowait irq softirq steal guest guest_nice; guest time is inside user time.
    return (sum(fields[:8]) - fields[3] - fields[4]) / hertz


def run_job(cluster, job, device, options):
    """Runs one job once."""
    stat = "head -n 1 /proc/stat"
    nodes_before = [busy_seconds(cluster.run(node, stat)) for node in NODES]
    script = f"{stat}; {job.fio(device, options.runtime, options.span)}; {stat}"
    output = cluster.run("client", script, timeout=options.runtime * 10 + 120)
    nodes_after = [busy_seconds(cluster.run(node, stat)) for node in NODES]

    lines = output.strip().split("\n")
    client = busy_seconds(lines[-1]) - busy_seconds(lines[0])
    side = job.result("\n".join(lines[1:-1]))
    # The CPU time includes the ramp, which fio does not count as IO.
    scale = options.runtime / (options.runtime + 1)
    ios = max(side["total_ios"], 1)
    nodes = sum(after - before for before, after in zip(nodes_before, nodes_after))
    return Sample(
        iops=side["iops"],
        latency_us=side["clat_ns"]["mean"] / 1000,
        client_cpu_us=client * scale / ios * 1e6,
        nodes_cpu_us=nodes * scale / ios * 1e6,
    )


def measure(cluster, contenders, baseline, options):
    """All rounds. A contender whose round ends with an error loses that round; after the second one it is left out.

    One error says little: sessions over rdma_rxe break now and then, and RNBD gives each such break to its user.
    """
    results, absent, stumbled = Results(), {}, set()
    begin = time.monotonic()
    for number in range(1, options.rounds + 1):
        # Every round begins with another contender, so that none always runs on a fresh machine.
        turn = number % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            if contender in absent:
                continue
            print(f"[{time.monotonic() - begin:5.0f}s] round {number}: {contender}", file=sys.stderr)
            try:
                device = contender_do("up", contender, options.span, baseline).splitlines()[-1]
                for job in JOBS:
                    results.add(contender, job.name, run_job(cluster, job, device, options))
            except (RuntimeError, subprocess.TimeoutExpired, ValueError, IndexError, KeyError) as error:
                print(f"{contender}: {error}", file=sys.stderr)
                if contender in stumbled:
                    absent[contender] = str(error)
                    print(f"{contender} is left out from here on", file=sys.stderr)
                stumbled.add(contender)
            finally:
                take_down(contender, options.span, baseline, absent)
    return results, absent


def take_down(contender, span, baseline, absent):
    """Takes a contender down; one that cannot be must not take part again."""
    try:
        contender_do("down", contender, span, baseline)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        absent.setdefault(contender, str(error))


def speed(results, contender, job, options):
    """What contenders are compared by: IOPS, or with --count how many IOs a second of all CPUs' time would be enough for."""
    if not options.count:
        return results.median(contender, job, "iops")
    costs = [results.median(contender, job, what) for what in ("client_cpu_us", "nodes_cpu_us")]
    return 1e6 / sum(costs) if all(costs) else None


def check_floors(results, contenders, options):
    """Compares brmr with each floor; returns (floor, ratio or None, reached)."""
    kept = [Floor(job.name, BEFORE, KEPT) for job in JOBS] if BEFORE in contenders else []
    rows = []
    for floor in (*FLOORS, *kept):
        mine = speed(results, "brmr", floor.job, options)
        other = speed(results, floor.against, floor.job, options)
        ratio = mine / other if mine and other else None
        rows.append((floor, ratio, ratio is not None and ratio >= floor.ratio))
    return rows


def report(results, contenders, options):
    """Prints everything a reader wants to know."""
    if options.count:
        print("Times are thousands of instructions: 1 µs of CPU time is 1,000 of them. IOPS say nothing then.")
    jobs = [job.name for job in JOBS]
    for what, title in (
        ("iops", "IOPS"),
        ("latency_us", "mean latency, µs"),
        ("client_cpu_us", "CPU time per IO on the client, µs"),
        ("nodes_cpu_us", "CPU time per IO on both nodes, µs"),
    ):
        print(f"{title} (median of {options.rounds} rounds)")
        rows = [[c, *(number(results.median(c, job, what)) for job in jobs)] for c in contenders]
        table(["", *jobs], rows)
    print("Largest deviation of the IOPS from their median, %")
    table(["", *jobs], [[c, *(number(results.spread(c, job)) for job in jobs)] for c in contenders])
    what = "IOs per CPU time" if options.count else "IOPS"
    print(f"{what} of brmr as a multiple of the others")
    rows = []
    for other in contenders:
        if other == "brmr":
            continue
        pairs = [[speed(results, contender, job, options) for contender in ("brmr", other)] for job in jobs]
        rows.append([other, *(number(a / b if a and b else None, 2) for a, b in pairs)])
    table(["", *jobs], rows)


def report_floors(floors):
    """Prints the floors; says whether all were reached."""
    print("Floors")
    for floor, ratio, reached in floors:
        word = "reached" if reached else "not measured" if ratio is None else "MISSED"
        print(f"  {floor.job}: {number(ratio, 2)} of {floor.against}, at least {floor.ratio:.2f}: {word}")
    return all(reached for _, _, reached in floors)


def document(results, absent, floors, options, kernel):
    """Everything measured, for machines."""
    medians = {
        contender: {
            job: {what: results.median(contender, job, what) for what in vars(samples[0])}
            for job, samples in jobs.items()
        }
        for contender, jobs in results.samples.items()
    }
    samples = {
        contender: {job: [asdict(s) for s in samples] for job, samples in jobs.items()}
        for contender, jobs in results.samples.items()
    }
    return {
        "kernel": kernel,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": options.rounds,
        "runtime_seconds": options.runtime,
        "jobs": [asdict(job) for job in JOBS],
        "median": medians,
        "samples": samples,
        "left_out": absent,
        "floors": [{**asdict(f), "measured": ratio, "reached": reached} for f, ratio, reached in floors],
    }


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is repeated (%(default)s)")
    parser.add_argument("--runtime", type=int, default=4, help="seconds per fio job (%(default)s)")
    parser.add_argument("--span", type=int, default=64, help="MiB of the device that are used (%(default)s)")
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="measure only this one (repeatable)")
    parser.add_argument("--baseline", metavar="COMMIT", help="measure brmr as it was at this commit, too")
    parser.add_argument("--count", action="store_true", help="compare instructions, not time")
    parser.add_argument("--output", type=Path, default=TOP / "build" / "bench.json", help="where the JSON goes")
    parser.add_argument("--require-floors", action="store_true", help="end with status 1 if a floor is missed")
    return parser.parse_args()


def main():
    """Measures, reports, and says by its status whether the floors were reached if that was asked for."""
    options = arguments()
    own_cluster(__file__, "--nodes", "2", "--client-cpus", "1", *(["--count"] if options.count else []))
    cluster = Cluster()
    kernel = cluster.kernel()
    contenders, baseline = tuple(options.only or CONTENDERS), None
    if options.baseline:
        contenders, baseline = (*contenders, BEFORE), Baseline(options.baseline, kernel)
    results, absent = measure(cluster, contenders, baseline, options)
    if not results.samples:
        sys.exit("nothing could be measured")
    report(results, contenders, options)
    floors = check_floors(results, contenders, options)
    reached = report_floors(floors)
    write_json(options.output, document(results, absent, floors, options, kernel))
    for contender, reason in absent.items():
        print(f"left out: {contender}: {reason}")
    sys.exit(1 if absent or (options.require_floors and not reached) else 0)


if __name__ == "__main__":
    main()
