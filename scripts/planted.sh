#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# scripts/planted.sh [ARGUMENT...]
#
# Plants each bug of rmr/engine/src/planted.rs in turn: the simulator has to find it with random seeds, within the number that is
# stated beside it. Then the scenarios of the museum that have to fail with a bug. Arguments are those of `sim --plant-all`
# (--plant NAME,...; --seeds N; --jobs N).

set -euo pipefail
. "$(dirname "$0")/lib.sh"

in_root || exec "$RMR_TOP/scripts/enter" "$0" "$@"

cd "$RMR_TOP"
# Its own folder, so that other builds stay as they are.
export RUSTFLAGS="--cfg planted" CARGO_TARGET_DIR=$CARGO_TARGET_DIR/planted
cargo run --quiet --locked --release -p rmr-sim --bin sim -- --plant-all "$@"
cargo test --quiet --locked --release -p rmr-sim --test museum planted
