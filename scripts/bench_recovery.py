#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: GPL-2.0
#
# make bench-recovery: what it costs brmr when a node is away, dies, comes back and catches up, on a pool of three legs in
# virtual machines.
#
# Each figure stands beside the one that it is compared with, taken in turns or right before and after, as the machine may be
# busy with something else: under emulation the ratios count, not the numbers. How brmr does beside others is in bench.py.

"""Measures failure and recovery of brmr; prints medians and ratios, and writes JSON. Ends with status 1 if a resync went
over the client."""

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from measure import CLUSTER, TOP, Cluster, Job, checked, number, own_cluster, table, write_json

LEGS = (1, 2, 3)
# The leg that is away, dies or catches up.
VICTIM = 3
MIB = 1 << 20
TIB = 1 << 40
# Of the bytes of a resync, at most so much may pass the client in either direction.
CLIENT_SHARE = 0.01
# What a resync of less shows is not worth much.
LEAST_MIB = 256

DEGRADED = (Job("write-4k-16", "randwrite", 4096, 16), Job("write-128k-8", "write", 131072, 8))
# Reads first: they slow a resync down less, and it must outlast both.
DURING = (Job("read-4k-4", "randread", 4096, 4), Job("write-4k-4", "randwrite", 4096, 4))
STREAM = Job("stream", "read", 131072, 8)

# Writes that metadata is counted for, in pages of 4 KiB.
WRITES = 1000
EXTENT = 4 * MIB
# The sizes whose memory is compared. The activity log covers 4 GiB: in the larger one every write is to a cold extent.
SMALL, LARGE = TIB >> 4, TIB

# Runs on the client, where nothing else goes on then: invalidates a leg, and prints time, bytes that are left, and bytes
# that the interface has sent and received, until the leg is in sync again.
WATCH = """
cd /sys/class/rmr-client/pools/{pool} && exec {{nap}}<> <(:)
look() {{
    local left tx rx
    read -r left < sessions/node{leg}/resync_left
    read -r tx < /sys/class/net/eth1/statistics/tx_bytes
    read -r rx < /sys/class/net/eth1/statistics/rx_bytes
    echo "$EPOCHREALTIME $left $tx $rx"
    [[ $left != [1-9]* ]] || begun=yes
}}
begun=
look
echo 1 > sessions/node{leg}/invalidate || exit
until [[ $begun && $in_sync == "{all}" ]]; do
    look
    read -r in_sync < in_sync
    read -r -t 0.05 -u $nap
done
look
"""


@dataclass
class Figures:
    """All that was measured: name -> values in the order in which they came."""

    samples: dict = field(default_factory=dict)

    def add(self, name, value):
        """Keeps one value, and shows it."""
        say(f"  {name}: {value:.0f}")
        self.samples.setdefault(name, []).append(value)

    def median(self, name):
        """The median, or None if there is no value."""
        values = self.samples.get(name)
        return statistics.median(values) if values else None

    def ratio(self, name, against):
        """Between two medians."""
        a, b = self.median(name), self.median(against)
        return None if a is None or not b else a / b


class Pool:
    """A pool of three legs, through the functions of tests/pool.sh and its files in sysfs."""

    def __init__(self, cluster, name, backing):
        self.cluster, self.name, self.backing = cluster, name, backing
        self.device = None
        self.filled = 0

    def shell(self, line, timeout=300):
        """Runs a line of bash with tests/lib.sh and tests/pool.sh, and returns what it printed."""
        script = f'. "$1/tests/lib.sh"; . "$1/tests/pool.sh"; POOL_BACKING={self.backing}; {line}'
        return checked(["bash", "-c", script, "bench-recovery", str(TOP)], line, timeout)

    def up(self, size, options=""):
        """From blank disks to a device on which all legs are in sync."""
        # The disks are new: to wipe those with room for a TiB would take that room.
        self.shell(f"pool_fresh=yes; pool_up {self.name} {len(LEGS)} {size} {options}", 600)
        self.device = self.shell(f"pool_device {self.name}").strip()
        self.wait_for(LEGS)

    def fill(self, mib):
        """Has so much of its beginning written, so that nobody reads what never was."""
        if self.filled < mib:
            self.cluster.run("client", f"dd if=/dev/urandom of={self.device} bs=1M count={mib} oflag=direct status=none")
            self.filled = mib

    def down(self):
        """Takes it away; the disks are blank again."""
        self.shell(f"device_unmap {self.name}; client_leave {self.name}")
        for leg in LEGS:
            self.shell(
                f"sysfs_write node{leg} $brmr_server/stores/{self.name}/delete_store 1; node_leave {self.name} {leg}"
            )

    def in_sync(self):
        """The legs that have all data."""
        return tuple(int(k) for k in self.read("in_sync").split())

    def wait_for(self, legs, seconds=300):
        """Until these legs are in sync, and no others."""
        until = time.monotonic() + seconds
        while self.in_sync() != tuple(legs):
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name}: legs {self.in_sync()} are in sync after {seconds} s, not {legs}")
            time.sleep(0.1)

    def read(self, file):
        """A file of the pool on the client."""
        return self.cluster.run("client", f"cat /sys/class/rmr-client/pools/{self.name}/{file}").strip()

    def write(self, file, text):
        """The same, written."""
        self.cluster.run("client", f"echo {text} > /sys/class/rmr-client/pools/{self.name}/{file}")

    def keep_out(self, leg, out):
        """Has a leg kept out of the pool, or takes it back and waits until it is in sync."""
        self.write(f"sessions/node{leg}/maintenance", int(out))
        self.wait_for([k for k in LEGS if k != leg] if out else LEGS)

    def bandwidth(self, job, options):
        """Runs a job once; bytes per second."""
        out = self.cluster.run("client", job.fio(self.device, options.runtime, options.span), options.runtime * 10 + 120)
        return job.result(out)["bw_bytes"]


class Load:
    """Writes, or reads and writes, that go on until they are ended; each one is noted with its end and its latency."""

    FOLDER = "/run/bench-recovery"

    def __init__(self, pool, options, what):
        self.cluster = pool.cluster
        self.fio = self.cluster.begin(
            "client",
            f"mkdir -p {self.FOLDER} && cd {self.FOLDER} && rm -f * && exec fio --name=load --filename={pool.device} --bs=4k"
            f" --size={options.span}M --ioengine=libaio --direct=1 --norandommap --randrepeat=0 --time_based --runtime=1h"
            f" --disable_slat=1 --disable_clat=1 --write_lat_log=load --log_unix_epoch=1 --output=/dev/null {what}",
        )

    def now(self):
        """The client's clock, in ms."""
        return int(self.cluster.run("client", "date +%s%3N"))

    def end(self):
        """Ends it; ends (ms, by the client's clock) and latencies (ms) of all requests."""
        if self.fio.poll() is not None:
            raise RuntimeError(f"the load has ended: {self.fio.stdout.read()}")
        self.cluster.run("client", "pkill -INT -x fio")
        self.fio.communicate(timeout=120)
        lines = self.cluster.run("client", f"cat {self.FOLDER}/load_lat.*.log").splitlines()
        fields = (line.split(",") for line in lines)
        done = sorted((int(end), int(latency) / 1e6) for end, latency, *_ in fields)
        if not done:
            raise RuntimeError("the load has done nothing")
        return done


def say(text):
    """Says how far it has got."""
    print(f"[{time.monotonic() - BEGAN:5.0f}s] {text}", file=sys.stderr)


def measure_degraded(pool, figures, options):
    """Writes with all legs and without one, in turns."""
    for turn in range(1, options.rounds + 1):
        for state in ("healthy", "degraded"):
            say(f"writes, {state}, round {turn}")
            if state == "degraded":
                pool.keep_out(VICTIM, True)
            for job in DEGRADED:
                figures.add(f"{state} {job.name}", pool.bandwidth(job, options))
        pool.keep_out(VICTIM, False)


def measure_kill(pool, figures, options):
    """A node dies under writes, boots, and rejoins under a steady load."""
    victim = f"node{VICTIM}"
    for turn in range(1, options.kills + 1):
        say(f"{victim} is killed, round {turn}")
        load = Load(pool, options, "--rw=randwrite --iodepth=16")
        time.sleep(4)
        killed = load.now()
        checked([CLUSTER, "kill", victim], "cluster kill", 60)
        pool.wait_for([k for k in LEGS if k != VICTIM], 90)
        time.sleep(3)
        done = load.end()
        # No write is complete without all legs: the last one before the pause tells when the node died, better than any clock
        # outside of the client.
        pauses = [after - before for (before, _), (after, _) in zip(done, done[1:]) if after >= killed]
        figures.add("kill to write", max(pauses, default=0))
        figures.add("kill wait", max(latency for end, latency in done if end >= killed))
        figures.add("healthy wait", max(latency for end, latency in done if end < killed))

        say(f"{victim} boots")
        checked([CLUSTER, "start", victim], "cluster start", 300)
        say(f"{victim} rejoins")
        load = Load(pool, options, "--rw=randrw --iodepth=4 --rate_iops=150,150")
        time.sleep(4)
        back = load.now()
        pool.shell(f"load_node {VICTIM}; node_join {pool.name} {VICTIM}; node_add {pool.name} {VICTIM}")
        pool.wait_for(LEGS)
        synced = load.now()
        time.sleep(2)
        done = load.end()
        figures.add("rejoin", (synced - back) / 1000)
        figures.add("rejoin wait", max(latency for end, latency in done if back <= end <= synced))
        figures.add("steady wait", max(latency for end, latency in done if not back <= end <= synced))


def measure_resync(pool, figures, options):
    """A resync of the whole device while nothing else goes on, between two streams of reads from one leg of the others."""
    pool.fill(options.size)
    for turn in range(1, options.rounds + 1):
        say(f"resync, quiet, round {turn}")
        figures.add("stream", read_stream(pool, options))
        before = {leg: interface_bytes(pool, leg) for leg in LEGS}
        script = WATCH.format(pool=pool.name, leg=VICTIM, all=" ".join(map(str, LEGS)))
        lines = pool.cluster.run("client", script, 600).splitlines()
        moved = {leg: interface_bytes(pool, leg) - before[leg] for leg in LEGS}
        received = moved.pop(VICTIM)
        samples = [line.split() for line in lines]
        left = {float(when): int(what) for when, what, *_ in samples if what.isdigit()}
        total = max(left.values())
        begin = min(when for when, what in left.items() if what > 0)
        tx, rx = (int(samples[-1][i]) - int(samples[0][i]) for i in (2, 3))
        if received < total:
            raise RuntimeError(f"node{VICTIM} received {received} bytes in a resync of {total}")
        figures.add("resync", total / (float(samples[-1][0]) - begin))
        figures.add("resynced", total)
        figures.add("busiest source", max(moved.values()) / sum(moved.values()) * 100)
        figures.add("client sent", tx)
        figures.add("client received", rx)
        figures.add("stream", read_stream(pool, options))


def read_stream(pool, options):
    """Bytes per second of large reads from the first leg over the whole device."""
    pool.write("read_policy", f"preferred={LEGS[0]}")
    bandwidth = pool.bandwidth(STREAM, argparse.Namespace(runtime=options.runtime, span=options.size))
    pool.write("read_policy", "least-inflight")
    return bandwidth


def interface_bytes(pool, leg):
    """Bytes that a node has received over the storage network, if it is the one that catches up; else that it has sent."""
    direction = "rx" if leg == VICTIM else "tx"
    return int(pool.cluster.run(f"node{leg}", f"cat /sys/class/net/eth1/statistics/{direction}_bytes"))


def measure_application(pool, figures, options):
    """The application while a leg catches up, and while none does, in turns."""
    pool.fill(options.span)
    left = f"sessions/node{VICTIM}/resync_left"
    for turn in range(1, options.rounds + 1):
        say(f"application without resync, round {turn}")
        for job in DURING:
            figures.add(f"without {job.name}", pool.bandwidth(job, options))
        say(f"application during resync, round {turn}")
        pool.write(f"sessions/node{VICTIM}/invalidate", 1)
        pool.wait_for([k for k in LEGS if k != VICTIM])
        for job in DURING:
            bandwidth = pool.bandwidth(job, options)
            if pool.read(left) == "0":
                say(f"the resync was over before {job.name}, which so does not count: a larger --size helps")
            else:
                figures.add(f"during {job.name}", bandwidth)
        pool.wait_for(LEGS)


def measure_wide(pool, figures, _):
    """Memory of a pool of 1 TiB, and metadata that it writes. Of its disks only what is written takes room."""
    cluster, pool = pool.cluster, Pool(pool.cluster, "wide", "/dev/vdb")
    used = {}
    for size in (SMALL, LARGE):
        say(f"a pool of {size >> 30} GiB")
        pool.up(size, "init=equal")
        used[size] = {host: memory(cluster, host) for host in ("client", "node1")}
        if size == SMALL:
            pool.down()
    for host in ("client", "node1"):
        figures.add(f"memory {host}", (used[LARGE][host] - used[SMALL][host]) / (LARGE - SMALL) * TIB)
    for state in ("healthy", "degraded"):
        if state == "degraded":
            pool.keep_out(VICTIM, True)
        for kind, span in (("cold", LARGE), ("hot", EXTENT)):
            say(f"metadata of {kind} writes, {state}")
            if kind == "hot":
                random_writes(pool, 16, span)
            before = written_sectors(pool)
            random_writes(pool, WRITES, span)
            sectors = written_sectors(pool) - before
            figures.add(f"metadata {kind} {state}", (sectors / 8 - WRITES) * 1000 / WRITES)
    pool.down()


def memory(cluster, host):
    """Bytes that a kernel has for itself: what it has mapped together, and what it cannot give back at once."""
    lines = cluster.run(host, "echo 3 > /proc/sys/vm/drop_caches; cat /proc/meminfo").splitlines()
    kib = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    return (kib["VmallocUsed"] + kib["SUnreclaim"]) * 1024


def random_writes(pool, count, span):
    """Writes of 4 KiB each, one after the other, into the beginning of the device."""
    pool.cluster.run(
        "client",
        f"fio --name=w --filename={pool.device} --rw=randwrite --norandommap --randrepeat=0 --bs=4k --ioengine=psync"
        f" --direct=1 --number_ios={count} --size={span} --output=/dev/null",
    )


def written_sectors(pool):
    """Sectors that the disk of the first leg was told to write."""
    disk = Path(pool.backing).name
    return int(pool.cluster.run(f"node{LEGS[0]}", f"cat /sys/block/{disk}/stat").split()[6])


MEASUREMENTS = {
    "degraded": measure_degraded,
    "resync": measure_resync,
    "application": measure_application,
    "kill": measure_kill,
    "wide": measure_wide,
}

# What is shown: text, name of the figure, what it is divided by to be in its unit, the unit, and what it is compared with.
ROWS = (
    *(
        (f"{job.name}, one leg out", f"degraded {job.name}", MIB, "MiB/s", "all in sync", f"healthy {job.name}")
        for job in DEGRADED
    ),
    ("kill to the next completed write", "kill to write", 1, "ms", "", None),
    ("longest wait of a write then", "kill wait", 1, "ms", "longest before", "healthy wait"),
    ("longest wait during rejoin", "rejoin wait", 1, "ms", "longest of that load before and after", "steady wait"),
    ("rejoin under load, store added to in sync", "rejoin", 1, "s", "", None),
    ("resync, quiet", "resync", MIB, "MiB/s", "reads of 128 KiB by the client from one leg", "stream"),
    ("of it, from the leg that sent most", "busiest source", 1, "%", "", None),
    ("sent by the client meanwhile", "client sent", 1024, "KiB", "bytes resynced", "resynced"),
    ("received by the client meanwhile", "client received", 1024, "KiB", "bytes resynced", "resynced"),
    *((f"{job.name} during resync", f"during {job.name}", MIB, "MiB/s", "without it", f"without {job.name}") for job in DURING),
    *(
        (f"metadata, 1000 {kind} writes, {state}", f"metadata {kind} {state}", 1, "pages", "", None)
        for kind in ("hot", "cold")
        for state in ("healthy", "degraded")
    ),
    ("memory of a node per TiB", "memory node1", MIB, "MiB", "", None),
    ("memory of the client per TiB", "memory client", MIB, "MiB", "", None),
)


def report(figures):
    """Prints everything a reader wants to know."""
    rows = []
    for text, name, divisor, unit, other, against in ROWS:
        value = figures.median(name)
        rows.append(
            [
                f"{text} / {other}" if against else text,
                number(None if value is None else value / divisor, 1),
                unit,
                number(figures.ratio(name, against), 4 if against == "resynced" else 2) if against else "",
                str(len(figures.samples.get(name, ()))),
            ]
        )
    table(["", "median", "", "ratio", "samples"], rows)


def client_left_alone(figures):
    """Whether every resync was large enough, and left the client alone. Prints why not."""
    good = True
    for total, *moved in zip(*(figures.samples.get(name, ()) for name in ("resynced", "client sent", "client received"))):
        share = max(moved) / total
        reached = share < CLIENT_SHARE and total >= LEAST_MIB * MIB
        good = good and reached
        print(
            f"resync of {total // MIB} MiB: {share:.2%} of it passed the client; less than {CLIENT_SHARE:.0%} of at least"
            f" {LEAST_MIB} MiB: {'reached' if reached else 'MISSED'}"
        )
    return good


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="measure only this (repeatable)")
    parser.add_argument("--rounds", type=int, default=3, help="how often comparisons are repeated (%(default)s)")
    parser.add_argument("--kills", type=int, default=2, help="how often a node is killed (%(default)s)")
    parser.add_argument("--runtime", type=int, default=4, help="seconds per fio job (%(default)s)")
    parser.add_argument("--span", type=int, default=64, help="MiB of the device that jobs use (%(default)s)")
    parser.add_argument("--size", type=int, default=512, help="MiB of the device, all of which is resynced (%(default)s)")
    parser.add_argument("--output", type=Path, default=TOP / "build" / "bench-recovery.json", help="where the JSON goes")
    return parser.parse_args()


def main():
    """Measures, reports, and says by its status whether the client was left alone."""
    options = arguments()
    own_cluster(__file__, "--nodes", str(len(LEGS)), "--disk", f"{options.size + 64}M", "--disk2", "1100G")
    cluster, figures = Cluster(), Figures()
    pool = Pool(cluster, "bench", "/dev/vda")
    say("a pool of three legs")
    pool.up(f"{options.size}M")
    failed = None
    try:
        for name in options.only or MEASUREMENTS:
            MEASUREMENTS[name](pool, figures, options)
        pool.down()
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        # What was measured until then is worth something.
        failed = str(error)
    say(failed or "done")
    report(figures)
    reached = client_left_alone(figures)
    write_json(
        options.output,
        {
            "kernel": cluster.kernel(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "options": {name: value for name, value in vars(options).items() if name != "output"},
            "median": {name: figures.median(name) for name in figures.samples},
            "ratio": {name: figures.ratio(name, against) for _, name, _, _, _, against in ROWS if against},
            "samples": figures.samples,
            "client_left_alone": reached,
            "failed": failed,
        },
    )
    sys.exit(0 if reached and not failed else 1)


BEGAN = time.monotonic()

if __name__ == "__main__":
    main()
