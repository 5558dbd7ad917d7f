#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# scripts/coverage.sh [SEEDS [FIRST]]
#
# Line and branch coverage of the engine by runs of the simulator (default: seeds 1 to 1000), in the Debian root.
# Prints a table, and what of the engine no run reached without a reason in tests/coverage-reasons.txt, which is for the default;
# fails if there is anything, or a reason for something that was reached.
#
# Who does not measure coverage needs none of LLVM's tools, so they are not in the root: this fetches the package
# that fits the compiler there, on first use.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

in_root || exec "$RMR_TOP/scripts/enter" "$0" "$@"

seeds=${1:-1000}
first=${2:-1}
cd "$RMR_TOP"

major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
version=$(apt-cache show "llvm-$major" | sed -n '0,/^Version: /s/^Version: //p')
tools=$RMR_CACHE/llvm-tools-$(key "$version")
if ! [ -d "$tools" ]; then
	lock "llvm-tools"
	entry_begin "$tools"
	step "downloading llvm-$major"
	(cd "$RMR_TMP" && apt-get -q download "llvm-$major=$version" >&2)
	dpkg-deb -x "$RMR_TMP"/*.deb "$RMR_TMP"
	rm "$RMR_TMP"/*.deb
	entry_end "$tools"
	unlock
fi
bin=$tools/usr/lib/llvm-$major/bin

step "building the simulator"
# Branches are counted by an option that is not stable yet; the compiler is told to take it all the same.
export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/coverage RUSTC_BOOTSTRAP=1
# With --target, build scripts and macros do not get these flags.
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="-Cinstrument-coverage -Zcoverage-options=branch" \
	cargo build --quiet --locked --release --target "$host" -p rmr-sim --bin sim >&2

step "running $seeds seeds"
sim=$CARGO_TARGET_DIR/$host/release/sim
raw=$CARGO_TARGET_DIR/raw
rm -rf "$raw"
mkdir "$raw"
LLVM_PROFILE_FILE=$raw/%p.profraw "$sim" --seeds "$seeds" --first "$first" --no-shrink >&2 || true
"$bin/llvm-profdata" merge -o "$raw/all.profdata" "$raw"/*.profraw

for format in lcov text; do
	"$bin/llvm-cov" export --format=$format --instr-profile "$raw/all.profdata" "$sim" \
		--sources "$RMR_TOP/rmr/engine/src" >"$raw/all.$format"
done
scripts/coverage.py "$raw/all.lcov" "$raw/all.text" "$RMR_TOP/rmr/engine/src" tests/coverage-reasons.txt
