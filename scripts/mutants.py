#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
#
# scripts/mutants.py [OPTION...]
#
# Changes the sources of rmr-proto and rmr-engine in one place after the other, and names the changes ("mutants") that no
# test notices. cargo-mutants says what to change; but it builds once for each, which takes more than a day for thousands
# of them. Here all are compiled into one build ("mutant schemata"), on a copy of the checkout: a function with mutants
# gets its body once more for each, and looks at run time which of them to run:
#
#   match crate::mutants::at(7) { 1201 => { a body } 1202 => { another } _ => { as it is } }
#
# * What does not compile is taken out and the rest built again, until it builds: "unviable".
# * Each test is run once as it is, to see how long it takes and which functions it reaches. Then each mutant meets the
#   tests that reach its function, quick ones first, up to the first that fails; after the tests of both crates come those
#   of the simulator, and 100 runs with random faults. A test that takes five times the processor time that it should
#   (and three seconds), or that ends in some other way, has noticed, too.
# * What cannot be switched at run time (constants; results `impl Trait`) has a build of its own, and so has what was
#   missed in a `const fn`, as its constant uses are never switched.
#
# Results are kept in $RMR_CACHE/mutants and are good as long as the function does not change. So the work may be interrupted
# at any time, and goes on where it was. New tests notice what others missed: --again tries that again.
#
# What was missed must be in tests/mutants.txt, with the reason. Fails if something is not, or if less than 90 % is caught.
#
# Options: --match REGEX (only mutants whose name has a match), --again [REGEX] (also what was missed with other tests or
# sources than these), --jobs N, --quick (no simulator), --no-own (no builds of their own), --list (only what is known).

import argparse
import collections
import concurrent.futures
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

# Later ones need a newer compiler than that of the root.
VERSION = "26.0.0"
PACKAGES = {"rmr-proto": "rmr/proto", "rmr-engine": "rmr/engine"}
SIM = "rmr-sim"
SIM_MANIFEST = "tests/sim/Cargo.toml"
BUILD = ("test", "--no-run", "--package", "rmr-proto", "--package", "rmr-engine", "--package", SIM)
SEEDS = 100
ENOUGH = 90
# Of memory that a test may have.
MEMORY = 4 << 30

TOP = os.environ["RMR_TOP"]
STATE = os.path.join(os.environ["RMR_CACHE"], "mutants")
TARGET = os.path.join(os.environ["CARGO_TARGET_DIR"], "mutants")
REASONS = os.path.join(TOP, "tests/mutants.txt")

# A crate in the copy gets this module. A constant has no variables: there the body is always as it is.
SWITCH = """
extern crate std;
pub(crate) use std::boxed::Box;
pub(crate) use std::vec::{IntoIter, Vec};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

const UNKNOWN: u32 = u32::MAX;
const TRACE: u32 = u32::MAX - 1;
static CHOSEN: AtomicU32 = AtomicU32::new(UNKNOWN);
static REACHED: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];

#[inline(always)]
pub(crate) const fn at(function: u32) -> u32 {
    core::intrinsics::const_eval_select((function,), in_constant, at_run_time)
}

const fn in_constant(_: u32) -> u32 {
    0
}

#[inline(always)]
fn at_run_time(function: u32) -> u32 {
    let chosen = CHOSEN.load(Relaxed);
    if chosen < TRACE { chosen } else { slow(function) }
}

#[cold]
#[inline(never)]
fn slow(function: u32) -> u32 {
    if CHOSEN.load(Relaxed) == UNKNOWN {
        let chosen = std::env::var("RMR_MUTANT").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let trace = std::env::var_os("RMR_MUTANTS_REACHED").is_some();
        CHOSEN.store(if trace { TRACE } else { chosen }, Relaxed);
        return at_run_time(function);
    }
    if !REACHED[function as usize].swap(true, Relaxed) {
        use std::io::Write;
        let path = std::env::var_os("RMR_MUTANTS_REACHED").unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(std::format!("{function}\\n").as_bytes()).unwrap();
    }
    0
}
"""


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def digest(*texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


class Source:
    """A file, with the places of cargo-mutants (lines and columns from 1) as offsets."""

    def __init__(self, name):
        self.name = name
        with open(os.path.join(TOP, name), encoding="utf-8") as file:
            self.text = file.read()
        self.starts = [0]
        for line in self.text.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def range(self, span):
        return tuple(self.starts[span[end]["line"] - 1] + span[end]["column"] - 1 for end in ("start", "end"))


class Mutant:
    """One change of one place."""

    def __init__(self, number, found, source):
        self.number = number
        self.package = found["package"]
        self.source = source
        self.replacement = found["replacement"]
        self.change = found["diff"].split("\n")[1].removeprefix("+++ ")
        self.begin, self.end = source.range(found["span"])
        function = found["function"]
        self.signature = self.returns = ""
        self.where = "a constant"
        self.body = None
        if function:
            begin, end = source.range(function["span"])
            self.change = self.change.removesuffix(" in " + function["function_name"])
            self.body = (opening_brace(source.text, begin) + 1, end - 1)
            self.signature = source.text[begin : self.body[0]]
            self.returns = function["return_type"].removeprefix("->").strip()
            self.where = function["function_name"]
        place = found["span"]["start"]
        first = source.starts[place["line"] - 1]
        rest = source.text.index("\n", first)
        until = min(self.end, rest)
        line = f"{source.text[first:self.begin]}«{source.text[self.begin:until]}»{source.text[until:rest]}".strip()
        # Without numbers of lines, so that it stays the same where something else changes.
        self.stable = " | ".join((source.name, self.where, self.change, line))
        self.name = f"{source.name}:{place['line']}:{place['column']}: {self.change} in {self.where}"
        around = self.body or (first, rest)
        # Nor by its file, as functions move.
        named = self.where if function else source.name
        self.key = digest(named, self.signature, source.text[around[0] : around[1]], str(self.begin - around[0]),
                          str(self.end - self.begin), self.replacement)

    def in_const_fn(self):
        return re.search(r"\bconst\s+(?:unsafe\s+)?fn\b", self.signature) is not None

    def needs_own(self, known):
        """Whether it has to have a build of its own, after what is known of it."""
        if not known:
            return True
        if known["own"]:
            return False
        # Perhaps just not switched; perhaps `boxed` was in the way.
        return (known["outcome"] == "missed" and self.in_const_fn()
                or known["outcome"] == "unviable" and self.returns.startswith("impl "))

    def changed(self, begin, end):
        text = self.source.text
        return text[begin : self.begin] + self.replacement + text[self.end : end]


def opening_brace(text, at):
    """Of the body of a function that begins at `at`, perhaps with comments."""
    while text[at] != "{":
        if text.startswith("//", at):
            at = text.index("\n", at)
        at += 1
    return at


def all_mutants():
    tools = os.path.join(STATE, VERSION)
    program = os.path.join(tools, "bin/cargo-mutants")
    if not os.path.exists(program):
        say(f"installing cargo-mutants {VERSION}")
        subprocess.run(["cargo", "install", "--quiet", "--locked", "--root", tools, "--version", VERSION, "cargo-mutants"],
                       check=True)
    command = [program, "mutants", "--list", "--json", "--diff"]
    for package in PACKAGES:
        command += ["--package", package]
    found = json.loads(subprocess.run(command, check=True, cwd=TOP, stdout=subprocess.PIPE).stdout)
    sources = {name: Source(name) for name in {one["file"] for one in found}}
    return [Mutant(number, one, sources[one["file"]]) for number, one in enumerate(found, 1)]


def functions_of(mutants):
    """Bodies that are to be made many, by file: (begin, end, mutants). Functions in functions belong to the outer one."""
    bodies = collections.defaultdict(lambda: collections.defaultdict(list))
    for mutant in mutants:
        if mutant.body:
            bodies[mutant.source.name][mutant.body].append(mutant)
    found = {}
    for name, of_file in bodies.items():
        kept = found[name] = []
        for (begin, end), some in sorted(of_file.items()):
            if kept and begin < kept[-1][1]:
                kept[-1][2].extend(some)
            else:
                kept.append((begin, end, some))
    return found


class Tree:
    """A copy of the checkout, in which things are built."""

    def __init__(self, name, schemata, changed):
        """`changed`: files that get another content at once; to write them twice would make cargo build them again."""
        self.path = os.path.join(STATE, name)
        self.target = os.path.join(TARGET, name)
        self.schemata = schemata
        files = subprocess.run(["git", "ls-files", "-z", "--", "Cargo.toml", "Cargo.lock", "rmr", "tests"], check=True, cwd=TOP,
                               stdout=subprocess.PIPE, text=True).stdout.split("\0")
        # Symbolic links would lead out of the copy, and are of no use here.
        files = [file for file in files if os.path.isfile(os.path.join(TOP, file)) and not os.path.islink(os.path.join(TOP, file))]
        for folder, _, there in os.walk(self.path):
            for file in there:
                full = os.path.join(folder, file)
                if os.path.relpath(full, self.path) not in {*files, *changed}:
                    os.remove(full)
        for file in files:
            with open(os.path.join(TOP, file), "rb") as original:
                content = original.read()
            if file == SIM_MANIFEST:
                # Of the simulator only what runs the engine.
                content = re.sub(rb"(\[lib\]|\[\[bin\]\])\n", rb"\1\ntest = false\n", content)
            if file not in changed:
                self.put(file, content)

    def put(self, file, content):
        """Writes what is not there yet: cargo builds by the time of the last change."""
        path = os.path.join(self.path, file)
        try:
            with open(path, "rb") as known:
                if known.read() == content:
                    return
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as copy:
            copy.write(content)

    def cargo(self, *arguments):
        """Runs cargo. Gives its messages, and whether all was well."""
        environment = dict(os.environ, CARGO_TARGET_DIR=self.target, CARGO_INCREMENTAL="0" if self.schemata else "1",
                           RUSTFLAGS="-Awarnings -Aarithmetic-overflow -Aunconditional-panic")
        if self.schemata:
            # For `const_eval_select`, which knows whether it is a constant.
            environment["RUSTC_BOOTSTRAP"] = "1"
        done = subprocess.run(["cargo", *arguments, "--profile", "mutants", "--locked", "--message-format=json"], cwd=self.path,
                              env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode and not any(message["reason"] == "compiler-message" for message in messages):
            sys.exit(f"cargo {' '.join(arguments)}:\n{done.stderr}")
        return messages, done.returncode == 0

    def programs(self, *arguments):
        """Builds, and gives the programs (package, target, whether it has tests, path); None if it does not compile."""
        messages, good = self.cargo(*arguments)
        if not good:
            return None
        return [(message["package_id"].split("#")[0].split("/")[-1], message["target"]["name"], message["profile"]["test"],
                 message["executable"]) for message in messages
                if message["reason"] == "compiler-artifact" and message["executable"]]


def boxed(returns):
    """What comes before and after a body: bodies that give an `impl Trait` must give the same one."""
    if not returns.startswith("impl "):
        return "", ""
    some = "dyn " + returns.removeprefix("impl ")
    if "&" in some and " + '" not in some:
        some += " + '_"
    return "crate::mutants::Box::new(", f") as crate::mutants::Box<{some}>"


def arguments_of(signature):
    """The names and types of the arguments, and what comes before and after them."""
    depth = begin = 0
    places = []
    for at, letter in enumerate(signature.replace("->", "  ").replace("=>", "  ")):
        if letter in "(<[":
            depth += 1
            if letter == "(" and depth == 1:
                begin = at + 1
                places.append(begin)
        elif letter in ")>]":
            depth -= 1
            if begin and depth == 0:
                places.append(at + 1)
                break
        elif letter == "," and depth == 1 and begin:
            places.append(at + 1)
    parts = [signature[one : other - 1].strip() for one, other in zip(places, places[1:])]
    return signature[:begin], [tuple(part.split(": ", 1)) for part in parts if part], signature[places[-1] :]


def concrete(mutant):
    """The beginning of a body that takes closures and iterators: it hands them to a function that takes only one kind of them.

    Otherwise each of the many bodies that call this one with a closure of theirs would make copies of all of its bodies."""
    signature = mutant.signature.rpartition("fn ")[2]
    before, arguments, after = arguments_of("fn " + signature)
    changed, handed = [], []
    for argument in arguments:
        if len(argument) == 1:
            changed.append(argument[0])
            handed.append("self")
            continue
        name, kind = argument
        own = name.removeprefix("mut ")
        iterator = re.fullmatch(r"impl (?:Into)?Iterator<Item = (.*)>(?: \+ Clone)?", kind)
        if iterator:
            kind = f"crate::mutants::IntoIter<{iterator[1]}>"
            own += ".into_iter().collect::<crate::mutants::Vec<_>>().into_iter()"
        elif kind.startswith("impl FnOnce("):
            kind = f"crate::mutants::Box<dyn {kind[5:]} + '_>"
            own = f"crate::mutants::Box::new({own})"
        elif kind.startswith("impl FnMut("):
            kind = f"&mut dyn {kind[5:]}"
            own = f"&mut {own}"
            name = "mut " + name.removeprefix("mut ")
        elif kind.startswith("impl Fn("):
            kind = f"&dyn {kind[5:]}"
            own = f"&{own}"
        elif kind.startswith("&mut impl FnMut("):
            kind = f"&mut dyn {kind[10:]}"
        changed.append(f"{name}: {kind}")
        handed.append(own)
    # A trait has no place for another function.
    if mutant.where.startswith("<impl") or all(": ".join(argument) == other for argument, other in zip(arguments, changed)):
        return ""
    name = re.match(r"fn (\w+)", before)[1]
    kinds = ", ".join(re.findall(r"[<,] *(\w+)\b", before))
    scope = "Self::" if "::" in mutant.where else ""
    inner = before.replace(name, name + "_concrete", 1)
    owned = [re.sub(r"^mut ", "", one) for one in handed]
    mutable = "".join(f"let mut {argument[0]} = {argument[0]};\n" for argument in arguments
                      if len(argument) == 2 and argument[1].startswith("impl FnMut(") and not argument[0].startswith("mut "))
    return f"\n{mutable}{scope}{name}_concrete{f'::<{kinds}>' if kinds else ''}({', '.join(owned)})\n}}\n{inner}{', '.join(changed)}){after}"


class Schemata:
    """The copy with all mutants at once."""

    def __init__(self, mutants):
        self.functions = functions_of(mutants)
        self.numbers = {}
        roots = [f"{folder}/src/lib.rs" for folder in PACKAGES.values()]
        switches = [f"{folder}/src/mutants.rs" for folder in PACKAGES.values()]
        self.tree = Tree("schemata", True, {*roots, *switches, *self.functions})
        for root, switch in zip(roots, switches):
            if root in self.functions:
                sys.exit(f"{root}: the root of a crate cannot have functions")
            with open(os.path.join(TOP, root), encoding="utf-8") as file:
                text = file.read()
            text = text.replace("#![forbid(unsafe_code)]\n", "") + "\nmod mutants;\n"
            text = re.sub(r"^#!\[", "#![feature(core_intrinsics, const_eval_select)]\n#![", text, count=1, flags=re.M)
            self.tree.put(root, text.encode())
            self.tree.put(switch, SWITCH.encode())

    def write(self, out):
        """Writes all files, without the mutants `out`. Gives whose line is whose, by file."""
        owners = {}
        number = 0
        for name, bodies in self.functions.items():
            text = bodies[0][2][0].source.text
            parts = []
            lines = owners[name] = {}
            line = 1

            def add(part, owner=None):
                nonlocal line
                parts.append(part)
                if owner:
                    for of_part in range(line, line + part.count("\n") + 1):
                        lines[of_part] = owner
                line += part.count("\n")

            done = 0
            for begin, end, mutants in bodies:
                number += 1
                add(text[done:begin])
                left = [mutant for mutant in mutants if mutant.number not in out]
                if left:
                    outer = next((mutant for mutant in left if mutant.body == (begin, end)), None)
                    before, after = boxed(outer.returns if outer else "")
                    add(concrete(outer) if outer else "")
                    add(f"\nmatch crate::mutants::at({number}) {{\n")
                    for mutant in left:
                        add(f"{mutant.number} => {before}{{{mutant.changed(begin, end)}\n}}{after}", mutant)
                        add(",\n")
                    add(f"_ => {before}{{")
                add(text[begin:end])
                if left:
                    add(f"\n}}{after}}}\n")
                for mutant in mutants:
                    self.numbers[mutant.number] = number
                done = end
            add(text[done:])
            self.tree.put(name, "".join(parts).encode())
        return owners

    def build(self, results):
        """Takes out what does not compile, and gives it."""
        out = {}
        while True:
            owners = self.write(out)
            messages, good = self.tree.cargo("check", "--package", "rmr-engine")
            if good:
                say("building")
                messages, good = self.tree.cargo(*BUILD)
            if good:
                return out
            bad = {}
            errors = [message["message"] for message in messages
                      if message["reason"] == "compiler-message" and message["message"]["level"] == "error"]
            strange = []
            for error in errors:
                owners_of = list(self.blame(error, owners))
                bad.update((owner.number, owner) for owner in owners_of)
                # Not "aborting due to 5 errors".
                if error["spans"] and not owners_of:
                    strange.append(error)
            if strange or not bad:
                texts = [error["rendered"] for error in strange[:5]]
                sys.exit("the copy does not compile, and it is no mutant:\n" + "\n".join(texts))
            out.update(bad)
            for mutant in bad.values():
                results.add(mutant, "unviable")
            say(f"{len(bad)} do not compile, {len(out)} so far")

    @staticmethod
    def blame(message, owners):
        for span in sorted(message["spans"], key=lambda span: not span["is_primary"]):
            while span:
                owner = owners.get(span["file_name"], {}).get(span["line_start"])
                if owner:
                    yield owner
                    return
                span = (span["expansion"] or {}).get("span")


class Test:
    """A test, or a program with arguments that is one."""

    def __init__(self, program, name=None, arguments=()):
        self.program = program
        self.name = name
        self.arguments = list(arguments)
        self.seconds = 0
        self.reached = set()


def limits(seconds):
    def set_limits():
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (round(seconds) + 1, round(seconds) + 2))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return set_limits


def end_if_idle(process, ended):
    """Ends a process that waits for ever, and so will never run into its limit. Not one that only waits for a processor."""
    idle = 0
    used = None
    while not ended.wait(1):
        try:
            stats = []
            for task in os.listdir(f"/proc/{process.pid}/task"):
                with open(f"/proc/{process.pid}/task/{task}/stat", encoding="ascii", errors="replace") as file:
                    stats.append(file.read().rpartition(")")[2].split())
        except OSError:
            return
        now = [(stat[11], stat[12]) for stat in stats]
        waits = now == used and all(stat[0] == "S" for stat in stats)
        idle = idle + 1 if waits else 0
        used = now
        if idle == 5:
            process.kill()


def execute(command, seconds, **variables):
    """Runs tests of one program with a limit of processor time. Gives None if all is well, or what was noticed, and by whom."""
    environment = dict(os.environ, RUST_BACKTRACE="0", PROPTEST_DISABLE_FAILURE_PERSISTENCE="true", **variables)
    environment.setdefault("PROPTEST_CASES", "64")
    process = subprocess.Popen(command, preexec_fn=limits(seconds), env=environment, cwd="/tmp", stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace")
    ended = threading.Event()
    watcher = threading.Thread(target=end_if_idle, args=(process, ended))
    watcher.start()
    failed = None
    try:
        for line in process.stdout:
            match = re.match(r"test (\S+)(?: - should panic)? \.\.\. (.*)", line)
            if match and match[2].startswith("FAILED"):
                failed = match[1]
                os.killpg(process.pid, signal.SIGKILL)
                break
        process.wait()
    finally:
        ended.set()
        process.stdout.close()
        process.wait()
        watcher.join()
    if failed:
        return "caught", failed
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout", command[0]
    if process.returncode:
        return "caught", f"exit code {process.returncode}"
    return None


class Tests:
    """All tests, and what is known of them."""

    def __init__(self, programs):
        self.rounds = [[], [], []]
        for package, target, tests, path in programs:
            if not tests:
                if target == "sim":
                    seeds = Test(path, arguments=["--seeds", str(SEEDS), "--jobs", "1", "--stop", "--no-shrink"])
                    self.rounds[2].append(seeds)
                continue
            listed = subprocess.run([path, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout
            for line in listed.splitlines():
                name, _, kind = line.rpartition(": ")
                if kind == "test":
                    self.rounds[1 if package == "sim" else 0].append(Test(path, name))

    def measure(self):
        """Runs each test alone, as it is."""
        for number, test in enumerate(self.rounds[0] + self.rounds[1] + self.rounds[2]):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            with tempfile.TemporaryDirectory() as folder:
                reached = os.path.join(folder, "reached")
                command = [test.program, *test.arguments] + (["--exact", test.name] if test.name else [])
                if execute(command, 3000, RMR_MUTANTS_REACHED=reached):
                    sys.exit(f"fails without a change: {' '.join(command)}")
                if os.path.exists(reached):
                    with open(reached, encoding="ascii") as file:
                        test.reached = {int(line) for line in file}
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            test.seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        crates = self.rounds[0]
        self.rounds[0:1] = [[test for test in crates if test.seconds < 0.05], [test for test in crates if test.seconds >= 0.05]]

    def groups(self, function, rounds):
        """Tests that reach a function, as runs of programs: (command, seconds)."""
        for tests in rounds:
            by_program = collections.defaultdict(list)
            for test in tests:
                if function in test.reached:
                    by_program[test.program].append(test)
            found = [(program, some, sum(test.seconds for test in some)) for program, some in by_program.items()]
            for program, some, seconds in sorted(found, key=lambda one: one[2]):
                named = [test.name for test in some if test.name]
                command = [program, *some[0].arguments]
                if named:
                    command += ["--test-threads", "1", "--exact", *named]
                yield command, seconds


class Results:
    """What is known, by mutant."""

    def __init__(self, tree, again):
        self.path = os.path.join(STATE, "results.jsonl")
        self.tree = tree
        self.again = again
        self.known = {}
        self.lock = threading.Lock()
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                for line in file:
                    one = json.loads(line)
                    self.known[one["key"]] = one

    def of(self, mutant, quick=False):
        """What is known of a mutant. `quick`: it is enough that the tests of the crates missed it."""
        one = self.known.get(mutant.key)
        if not one:
            return None
        if one["outcome"] == "missed":
            if one["quick"] and not quick:
                return None
            again = self.again is not None and re.search(self.again, mutant.name)
            if again and self.tree not in ([one["tree"], one.get("quick_tree")] if quick else [one["tree"]]):
                return None
        return one

    def add(self, mutant, outcome, by="", own=False, quick=False):
        one = {"key": mutant.key, "name": mutant.name, "outcome": outcome, "by": by, "own": own, "quick": quick, "tree": self.tree}
        before = self.known.get(mutant.key)
        if quick and outcome == "missed" and before and before["outcome"] == "missed" and not before["quick"]:
            # The simulator had missed it, too: that stays known.
            one = {**before, "name": mutant.name, "own": own, "quick_tree": self.tree}
        with self.lock:
            self.known[mutant.key] = one
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(one) + "\n")


def tree_digest():
    """Of all that the results depend on."""
    files = subprocess.run(["git", "ls-files", "--", "rmr/proto", "rmr/engine", "tests/sim", "tests/checkers", "Cargo.lock"],
                           check=True, cwd=TOP, stdout=subprocess.PIPE, text=True).stdout.split()
    texts = []
    for name in files:
        with open(os.path.join(TOP, name), encoding="utf-8") as file:
            texts += [name, file.read()]
    return digest(*texts)


class Progress:
    """Tells now and then how far it is."""

    def __init__(self, total):
        self.total = total
        self.counts = collections.Counter()
        self.begin = self.told = time.monotonic()

    def add(self, outcome):
        self.counts[outcome] += 1
        now = time.monotonic()
        done = sum(self.counts.values())
        if now - self.told > 20 or done == self.total:
            self.told = now
            left = (now - self.begin) / done * (self.total - done)
            texts = [f"{count} {name}" for name, count in sorted(self.counts.items())]
            say(f"{done} of {self.total}: {', '.join(texts)}; {left / 60:.0f} minutes to go")


def try_switched(mutants, schemata, tests, results, options):
    """Those that can be switched at run time: all with the tests of the crates, then what is left with the simulator."""
    explained = reasons()
    for rounds, quick in ((tests.rounds[:2], True), (tests.rounds[2:], False))[: 1 if options.quick else 2]:
        progress = Progress(len(mutants))

        def one(mutant):
            known = results.of(mutant, quick)
            if known:
                return mutant, known["outcome"], known["by"]
            for command, seconds in tests.groups(schemata.numbers[mutant.number], rounds):
                noticed = execute(command, 5 * seconds + 1, RMR_MUTANT=str(mutant.number))
                if noticed:
                    results.add(mutant, *noticed)
                    return mutant, *noticed
            results.add(mutant, "missed", quick=quick)
            return mutant, "missed", ""

        missed = []
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for mutant, outcome, by in pool.map(one, mutants):
                progress.add(outcome)
                if outcome == "missed":
                    missed.append(mutant)
                    if not quick and mutant.stable not in explained:
                        say(f"missed: {mutant.name}")
        # What is known to be missed comes last.
        mutants = sorted(missed, key=lambda mutant: mutant.stable in explained)


def try_alone(mutants, results, options):
    """Those that need a build of their own."""
    tree = Tree("own", False, ())
    progress = Progress(len(mutants))
    # The simulator is the slowest to build: for what the crates have missed.
    steps = [BUILD[:-2]] if options.quick else [BUILD[:-2], BUILD]
    measured = {}

    def try_one(mutant):
        seen = set()
        for step in ([("test", "--no-run", "--package", mutant.package, "--lib")] if mutant else []) + steps:
            programs = tree.programs(*step)
            if programs is None:
                return "unviable", ""
            for package, target, tests, path in programs:
                if (package, target) in seen:
                    continue
                seen.add((package, target))
                command = [path] + ([] if tests else ["--seeds", str(SEEDS), "--jobs", "1", "--stop", "--no-shrink"])
                command += ["--test-threads", "1"] if tests else []
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                noticed = execute(command, 5 * measured.get((package, target), 600) + 1)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                if mutant is None:
                    measured[package, target] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                if noticed:
                    return noticed
        return "missed", ""

    if try_one(None)[0] != "missed":
        sys.exit("tests fail without a change")
    for mutant in mutants:
        text = mutant.source.text
        tree.put(mutant.source.name, mutant.changed(0, len(text)).encode())
        outcome, by = try_one(mutant)
        tree.put(mutant.source.name, text.encode())
        if outcome == "missed":
            say(f"missed: {mutant.name}")
        results.add(mutant, outcome, by, own=True, quick=options.quick)
        progress.add(outcome)


def reasons():
    """Mutants that may be missed (by their stable names), with the reason: the comment before them."""
    found = {}
    reason = ""
    after_comment = False
    if os.path.exists(REASONS):
        with open(REASONS, encoding="utf-8") as file:
            for line in file:
                line = line.strip()
                if line.startswith("#"):
                    reason = f"{reason} {line[1:].strip()}".strip() if after_comment else line[1:].strip()
                elif line:
                    found[line] = reason
                after_comment = line.startswith("#")
    return found


def report(mutants, results, options):
    """The table, and what was missed. Gives whether all is well."""
    counts = collections.defaultdict(collections.Counter)
    missed = []
    for mutant in mutants:
        # What was missed stays known here, with any tests.
        one = results.known.get(mutant.key)
        outcome = one["outcome"] if one else "untried"
        if outcome == "missed" and one["quick"] and not options.quick:
            outcome = "half"
        if outcome == "missed":
            missed.append(mutant)
        for part in (mutant.package, "all"):
            counts[part][outcome] += 1
    names = ["unviable", "caught", "timeout", "missed", "half", "untried"]
    print(f"{'':<12}{'total':>8}" + "".join(f"{name:>10}" for name in names) + f"{'noticed of tried':>20}")
    for part in [*PACKAGES, "all"]:
        of_part = counts[part]
        noticed = of_part["caught"] + of_part["timeout"]
        # What is half tried may still be noticed.
        share = 100 * noticed / max(1, noticed + of_part["missed"] + of_part["half"])
        print(f"{part:<12}{sum(of_part.values()):>8}" + "".join(f"{of_part[name]:>10}" for name in names) + f"{share:>18.1f} %")
    left = counts["all"]["half"] + counts["all"]["untried"]
    if left:
        print(f"{left} are open: {counts['all']['half']} half tried (missed by the tests of the crates, the simulator is still to come), "
              f"{counts['all']['untried']} untried")
    known = reasons()
    unknown = [mutant for mutant in missed if mutant.stable not in known]
    by_reason = collections.Counter(known[mutant.stable] for mutant in missed if mutant.stable in known)
    for reason, count in by_reason.most_common():
        print(f"\nmissed, {count}: {reason}")
    if unknown:
        print("\nmissed, without a reason in tests/mutants.txt:")
        for mutant in unknown:
            print(f"{mutant.stable}\n    {mutant.name}")
    wanted = {mutant.stable for mutant in missed}
    stale = [] if options.match or left else [line for line in known if line not in wanted]
    if stale:
        print("\nin tests/mutants.txt, but noticed, or no longer there:")
        print("\n".join(stale))
    return not unknown and not stale and not left and share >= ENOUGH


def main():
    parser = argparse.ArgumentParser(description="Which changes of rmr-proto and rmr-engine does no test notice?")
    parser.add_argument("--match", metavar="REGEX", help="only mutants whose name has a match")
    parser.add_argument("--again", metavar="REGEX", nargs="?", const="", help="also what was missed with other tests or sources than these")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="tests at the same time")
    parser.add_argument("--quick", action="store_true", help="without the simulator")
    parser.add_argument("--no-own", action="store_true", help="nothing that needs a build of its own")
    parser.add_argument("--list", action="store_true", help="only tell what is known")
    options = parser.parse_args()
    os.makedirs(STATE, exist_ok=True)
    mutants = all_mutants()
    if options.match:
        mutants = [mutant for mutant in mutants if re.search(options.match, mutant.name)]
    results = Results(tree_digest(), options.again)
    if options.list:
        return report(mutants, results, options)
    with open(os.path.join(STATE, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(mutants, results, options)
    return report(mutants, results, options)


def run(mutants, results, options):
    left = [mutant for mutant in mutants if not results.of(mutant, options.quick)]
    say(f"{len(mutants)} mutants, {len(left)} to be tried")
    switched = [mutant for mutant in left if mutant.body]
    if switched:
        # What is known is built, too, so that work that was interrupted finds its build; but not for a few that are left.
        known = [mutant for mutant in mutants if mutant.body and (not results.of(mutant) or results.of(mutant)["outcome"] != "unviable")]
        schemata = Schemata(known if len(switched) > len(known) / 3 else switched)
        out = schemata.build(results)
        tests = Tests(schemata.tree.programs(*BUILD))
        say("running the tests as they are")
        tests.measure()
        say(f"{sum(map(len, tests.rounds))} tests, {[round(sum(t.seconds for t in some), 1) for some in tests.rounds]} seconds")
        try_switched([mutant for mutant in switched if mutant.number not in out], schemata, tests, results, options)
    alone = [mutant for mutant in mutants if mutant.needs_own(results.of(mutant, options.quick))]
    if alone and not options.no_own:
        say(f"{len(alone)} need builds of their own")
        try_alone(alone, results, options)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
