#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# scripts/check.sh [CHECK...]
#
# The fast part of the tests: everything that needs no virtual machine. Without arguments all checks are run,
# two at a time, and closed with "N passed, N failed, N skipped", where the tests of `host` and `loom` count one
# by one and every other check as one. The output of a check is shown if it fails, or with V=1.
#
#   licence    every source has an SPDX line
#   unsafe     unsafe code is only where it may be
#   format     rustfmt has nothing to change (scripts/format.sh does what it wants)
#   shell      shellcheck
#   scripts    Python and Perl compile
#   abi        docs/ABI has what there is in sysfs, docs/protocol.md names what there is in the engine and its tests
#   clippy     lint of the crates that are built for the host
#   host       tests of these crates, property tests included
#   loom       tests of the concurrent structures, all interleavings
#   modules    the modules, with those of the tests, for the default kernel: compiled and linted, no large stack frames
#   other      the same for the other kernel: compiled
#
# Warnings are errors everywhere. Environment: KERNEL selects the default kernel, PROPTEST_CASES how often a
# property is tried (256).

set -euo pipefail
. "$(dirname "$0")/lib.sh"

in_root || exec "$RMR_TOP/scripts/enter" "$0" "$@"

cd "$RMR_TOP"
export CARGO_TERM_COLOR=never RUST_BACKTRACE=1 PROPTEST_CASES=${PROPTEST_CASES:-256}
# Nothing of it writes into the checkout.
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=true PYTHONDONTWRITEBYTECODE=1
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# files PATTERN...: files of the checkout, new ones too, that match.
files() {
	git ls-files -z --cached --others --exclude-standard -- "$@" | sort -zu |
		while IFS= read -r -d '' file; do
			if [ -f "$file" ]; then
				printf '%s\n' "$file"
			fi
		done
}

# programs LANGUAGE PATTERN...: files that match, and those without a suffix that begin with `#!` and LANGUAGE.
programs() {
	local file
	files "${@:2}"
	files | grep -v '\.[a-z]*$' | while read -r file; do
		if head -n 1 "$file" | grep -qE "^#!.*\b$1\b"; then
			echo "$file"
		fi
	done
}

check_licence() {
	local file bad=0
	while read -r file; do
		if ! head -n 3 "$file" | grep -q 'SPDX-License-Identifier: GPL-2.0'; then
			echo "$file: no SPDX-License-Identifier in the first three lines"
			bad=1
		fi
	done < <(files | grep -vE '^(COPYING|\.gitignore|Cargo\.lock|.*/Cargo\.lock)$|\.(md|svg|png|json)$|^docs/ABI/|^tests/fuzz/corpus/')
	return $bad
}

check_unsafe() {
	local found crate
	# The macros of the kernel crate need none that one sees here.
	found=$(files 'rmr/src/*.rs' 'rmr/proto/*.rs' 'rmr/engine/*.rs' 'brmr/src/*.rs' | xargs -r -d '\n' \
		grep -nE '\bunsafe +(\{|fn|impl|extern|trait)' || true)
	if [ -n "$found" ]; then
		echo "$found"
		return 1
	fi
	for crate in rmr/proto rmr/engine; do
		if ! grep -q '^#!\[forbid(unsafe_code)\]' "$crate/src/lib.rs"; then
			echo "$crate does not forbid unsafe code"
			return 1
		fi
	done
}

check_format() {
	# By standard input, as rustfmt would look into the modules of each file otherwise. Then it does not say by its
	# status that there is something to change.
	files '*.rs' | xargs -r -d '\n' -P 2 -n 1 sh -c '
		if ! diff=$(rustfmt --edition 2021 --config-path "$RMR_TOP/rustfmt.toml" --check <"$1" 2>&1) || [ -n "$diff" ]; then
			echo "$1: not as rustfmt wants it; run make format"
			exit 1
		fi' sh
}

check_shell() {
	programs '(ba)?sh' '*.sh' | xargs -r -d '\n' -P 2 -n 8 shellcheck -x -P SCRIPTDIR
}

check_scripts() {
	programs python3 '*.py' | xargs -r -d '\n' python3 -c '
import sys
for name in sys.argv[1:]:
    compile(open(name).read(), name, "exec")'
	programs perl '*.pl' | xargs -r -d '\n' -n 1 perl -wc 2>&1 | { grep -v 'syntax OK$' || true; }
}

check_abi() {
	scripts/abi-check.sh
	scripts/doc-names.py
}

check_clippy() {
	# A shift binds tighter than an or, everywhere.
	cargo clippy --quiet --locked --workspace -- -D warnings -A clippy::precedence
	# A test may well panic.
	cargo clippy --quiet --locked --workspace --tests --examples -- -D warnings -A clippy::precedence \
		-A clippy::unwrap_used -A clippy::expect_used -A clippy::panic
}

# Prints, and leaves what to count in "$logs/NAME.tests".
cargo_test() {
	local name=$1 status=0
	shift
	cargo test --locked "$@" 2>&1 | tee "$logs/$name.out" || status=$?
	awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
		END { print passed + 0, failed + 0, skipped + 0 }' "$logs/$name.out" >"$logs/$name.tests"
	return $status
}

check_host() {
	cargo_test host --workspace --no-fail-fast
}

check_loom() {
	# With a folder of its own, as other flags would make cargo build everything again, to and fro.
	export RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$CARGO_TARGET_DIR/loom LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-2}
	cargo_test loom -p rmr-engine --release --lib --test loom -- --skip tests::
}

check_modules() {
	local build
	CLIPPY=1 KRUSTFLAGS=-Dwarnings KCFLAGS=-Werror RMR_TESTS=1 scripts/modules.sh >/dev/null
	# Clippy leaves out optimisations, and so has larger frames than those that run.
	build=$(RMR_TESTS=1 scripts/modules.sh)
	# A fifth of the stack. What counts is the sum of those on top of each other: where a disk is read or written, or a
	# node is asked, nothing large may be below.
	scripts/frames.py 3072 "$build/rmr.ko" "$build/brmr.ko"
}

check_other() {
	local other
	other=$(scripts/other-kernel.sh)
	KERNEL=$other KRUSTFLAGS=-Dwarnings KCFLAGS=-Werror RMR_TESTS=1 scripts/modules.sh
}

# run CHECK...: one after the other; a line for each in "$logs/results": verdict, passed, failed, skipped.
run() {
	local name began status p f s verdict
	for name; do
		began=$SECONDS status=0
		# In a shell of its own, since set -e does nothing in what || follows.
		(trap - EXIT; set -e; "check_$name") >"$logs/$name" 2>&1 </dev/null &
		wait $! || status=$?
		p=1 f=0 s=0 verdict=ok
		if [ -s "$logs/$name.tests" ]; then
			read -r p f s <"$logs/$name.tests"
		elif [ "$status" -ne 0 ]; then
			p=0
		fi
		if [ "$status" -ne 0 ]; then
			verdict=FAILED
			[ "$f" -ne 0 ] || f=1
		fi
		echo "$p $f $s" >>"$logs/results"
		{
			printf '%-8s %-10s %5d s\n' "$verdict" "$name" $((SECONDS - began))
			if [ "$verdict" != ok ] || [ -n "${V:-}" ]; then
				sed 's/^/    /' "$logs/$name"
			fi
		} >"$logs/$name.line"
		# In one piece: the other lane prints, too.
		cat "$logs/$name.line"
	done
}

kernel_checks=(modules other)
quick_checks=(licence unsafe format scripts abi shell clippy host loom)
: >"$logs/results"
if [ $# -ne 0 ]; then
	for name; do
		declare -F "check_$name" >/dev/null || die "no check $name; there are: ${quick_checks[*]} ${kernel_checks[*]}"
	done
	run "$@"
else
	run "${kernel_checks[@]}" &
	lane=$!
	run "${quick_checks[@]}"
	wait "$lane"
fi
awk '{ passed += $1; failed += $2; skipped += $3 }
	END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped; exit failed != 0 }' "$logs/results"
