#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# scripts/mutants.sh [ARGUMENT...]
#
# Changes the sources of rmr-engine and rmr-proto in one place after the other (cargo-mutants), each on a copy, and names
# the changes that no test notices. Which tests look depends on the part of the code, as building them is what it costs:
#
#   proto      unit tests of rmr-proto
#   halves     client and storage half of the engine: unit tests and quick tests of both halves; what those miss is
#              tried again with random weather, crash points and small runs of the simulator
#   rest       the other modules of the engine: their tests
#
# Environment: SHARD=k/n tries every n-th change only, from the k-th on (0 is the first). PARTS="proto halves rest" selects.
# Arguments go to cargo-mutants (--list, --file GLOB). Results are kept in $RMR_CACHE/mutants.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

in_root || exec "$RMR_TOP/scripts/enter" "$0" "$@"

# Later ones need a newer compiler than that of the root.
version=26.0.0
results=$RMR_CACHE/mutants
tools=$results/$version
if [ ! -x "$tools/bin/cargo-mutants" ]; then
	lock mutants
	step "installing cargo-mutants $version"
	cargo install --quiet --locked --root "$tools" --version "$version" cargo-mutants >&2
	unlock
fi
# A folder of their own: cargo takes a crate in a copy of the checkout for the one in the checkout.
export PATH=$tools/bin:$PATH CARGO_TARGET_DIR=$CARGO_TARGET_DIR/mutants CARGO_TERM_COLOR=never RUST_BACKTRACE=0
export PROPTEST_CASES=${PROPTEST_CASES:-64} PROPTEST_DISABLE_FAILURE_PERSISTENCE=true

cd "$RMR_TOP"
arguments=("$@")

# mutants NAME ARGUMENT...: one run, whose results are in $results/NAME.
mutants() {
	local name=$1 status=0
	shift
	mkdir -p "$results/$name"
	cargo mutants --output "$results/$name" "$@" || status=$?
	# 2: some were missed, 3: some took too long.
	case $status in
	0 | 2 | 3) ;;
	*) die "cargo-mutants failed: $name" ;;
	esac
}

wanted() {
	[[ " ${PARTS:-proto halves rest} " = *" $1 "* ]]
}

shard=()
[ -z "${SHARD:-}" ] || shard=(--shard "$SHARD" --sharding round-robin)
quick=(--lib --test client_coordinator --test client_flights --test storage_resync)
slow=(--test client_random --test crash --test runs)

if wanted proto; then
	mutants proto "${shard[@]}" "${arguments[@]}" --package rmr-proto -- --lib
fi
if wanted halves; then
	mutants halves "${shard[@]}" "${arguments[@]}" --package rmr-engine --file 'rmr/engine/src/client/**' \
		--file 'rmr/engine/src/storage/**' -- "${quick[@]}"
	# The names, as regular expressions.
	again=()
	missed=$results/halves/mutants.out/missed.txt
	while [[ " ${arguments[*]} " != *" --list "* ]] && IFS= read -r name; do
		again+=(--re "^$name\$")
	done < <(sed 's/[][\.|$(){}?+*^]/\\&/g' "$missed" 2>/dev/null || true)
	if [ ${#again[@]} -ne 0 ]; then
		mutants halves-again "${again[@]}" --package rmr-engine --test-package rmr-engine --test-package rmr-sim -- "${slow[@]}"
	fi
fi
if wanted rest; then
	mutants rest "${shard[@]}" "${arguments[@]}" --package rmr-engine --file 'rmr/engine/src/*.rs' -- --lib --test choices \
		--test dedupe --test lane --test options --test overlap --test window
fi
