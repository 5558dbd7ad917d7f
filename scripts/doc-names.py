#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
#
# Looks whether what docs/protocol.md names is there: functions and constants of the engine, violations, tests, bugs that can be
# planted, and whether it names every bug. Prints what is wrong; exit status 0 if nothing is.

import pathlib
import re
import sys

top = pathlib.Path(__file__).resolve().parent.parent
engine = top / "rmr/engine/src"
text = (top / "docs/protocol.md").read_text()
wrong = []


def defines(source, name):
    return re.search(rf"\b(?:fn|const|struct|enum) {name}\b", source)


def sources(*patterns):
    return "".join(file.read_text() for pattern in patterns for file in sorted(top.glob(pattern)))


def variants(file, enum):
    body = re.search(rf"{enum} \{{\n(.*?)\n\}}", (top / file).read_text(), re.S).group(1)
    return set(re.findall(r"^    (\w+)(?: = \d+, \w+;|,)$", body, re.M))


# module::item, anywhere in the document.
for name in sorted(set(re.findall(r"`([a-z_]+(?:::\w+)+)`", text))):
    *modules, item = name.split("::")
    files = [engine.joinpath(*modules).with_suffix(".rs"), engine.joinpath(*modules, "mod.rs")]
    found = [file.read_text() for file in files if file.exists()]
    if not found:
        wrong.append(f"{name}: there is no module {'::'.join(modules)}")
    elif not defines(found[0], item):
        wrong.append(f"{name}: {item} is not in {'::'.join(modules)}")

tests = sources("rmr/engine/tests/**/*.rs", "rmr/engine/src/**/*.rs", "rmr/proto/src/**/*.rs", "tests/*/tests/**/*.rs")
rules = variants("tests/checkers/src/violation.rs", "pub enum Rule")
bugs = variants("rmr/engine/src/planted.rs", "bugs!")
named = set()
_, _, table = text.partition("| rule | kept by |")
rows = [row.split("|")[1:-1] for row in table.splitlines()[2:] if row.startswith("|")]
if len(rows) < 19:
    wrong.append("the table of rules is not there")
for row in rows:
    title, _, violations, guards, planted = (re.findall(r"`(\w+)`", cell) or cell for cell in row)
    where = row[0].split()[0]
    wrong += [f"{where}: no violation {name}" for name in violations if name.strip() and name not in rules]
    wrong += [f"{where}: no test {name}" for name in guards if name.strip() and not defines(tests, name)]
    wrong += [f"{where}: no bug {name}" for name in planted if name.strip() and name not in bugs]
    named |= set(planted)
wrong += [f"the bug {name} is in no row of the table of rules" for name in sorted(bugs - named)]

for line in wrong:
    print(f"docs/protocol.md: {line}")
sys.exit(bool(wrong))
