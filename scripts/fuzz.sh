#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# scripts/fuzz.sh SECONDS [TARGET...]
#
# Runs the fuzz targets of tests/fuzz (default: all), each for SECONDS, in the Debian root: libFuzzer with the
# coverage instrumentation of LLVM, as cargo-fuzz has it, but by the compiler that builds the modules. No address
# sanitizer: the crate under test forbids unsafe code.
#
# What a run learns stays in the cache for the next one. An input that fails is kept there, too, and named.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

in_root || exec "$RMR_TOP/scripts/enter" "$0" "$@"

seconds=${1:-60}
shift || true
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "SECONDS=$seconds is no number of seconds"
cd "$RMR_TOP/tests/fuzz"
targets=("$@")
if [ $# -eq 0 ]; then
	for file in fuzz_targets/*.rs; do
		targets+=("$(basename "$file" .rs)")
	done
fi

step "building ${targets[*]}"
export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/fuzz CC=clang CXX=clang++
# With --target, build scripts and macros do not get these flags.
host=$(rustc -vV | sed -n 's/^host: //p')
flags=(
	--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
	-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions
)
RUSTFLAGS=${flags[*]} \
	cargo build --quiet --locked --release --target "$host" "${targets[@]/#/--bin=}" >&2

passed=0 failed=0
for target in "${targets[@]}"; do
	found=$RMR_CACHE/fuzz/$target
	mkdir -p "$found/corpus" "$found/failed"
	seeds=()
	[ ! -d "corpus/$target" ] || seeds=("corpus/$target")
	log=$found/log
	step "fuzzing $target for $seconds s"
	# Debug assertions make overflow a failure, as in the kernel.
	if "$CARGO_TARGET_DIR/$host/release/$target" -max_total_time="$seconds" -print_final_stats=1 -timeout=10 \
		-rss_limit_mb=1024 -artifact_prefix="$found/failed/" "$found/corpus" "${seeds[@]}" >"$log" 2>&1; then
		passed=$((passed + 1))
		echo "ok       $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, coverage $(
			sed -nE 's/.* cov: ([0-9]+) .*/\1/p' "$log" | tail -n 1)"
	else
		failed=$((failed + 1))
		echo "FAILED   $target"
		tail -n 40 "$log" | sed 's/^/    /'
	fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
