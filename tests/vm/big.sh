#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Offsets and lengths are 64-bit everywhere: IO around 4 GiB, 2 TiB and 4 TiB and at the end of a device of 4.5 TiB, on
# sparse backing devices; nothing written there shows up elsewhere.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

gib=$((1 << 30))
tib=$((1 << 40))
size=$((9 * tib / 2))
window=16M
bases=(0 $((4 * gib)) $((2 * tib)) $((4 * tib)))

# A sparse file in the node's memory: only what is written takes room.
make_sparse() {
	local k
	for k in 1 2; do
		node "$k" "modprobe loop; truncate -s 5T /run/sparse && losetup --direct-io=off /dev/loop6 /run/sparse"
		cleanup node "$k" "losetup -d /dev/loop6; rm -f /run/sparse"
		pool_backing[$k]=/dev/loop6
	done
}

test_size() {
	equal "$(device_bytes p)" "$size" "size"
}

# Each place gets a version of its own; a place that is reached twice would show the other's version or block number.
test_places_are_distinct() {
	local i dev
	dev=$(pool_device p)
	for i in "${!bases[@]}"; do
		client "rmr-iotest fill $dev --seed 5 --version $((i + 1)) --offset-base ${bases[i]} --span $window"
	done
	for i in "${!bases[@]}"; do
		client "rmr-iotest verify $dev --seed 5 --version $((i + 1)) --offset-base ${bases[i]} --span $window"
	done
}

test_nodes_hold_it_there() {
	local i k dev offset wanted
	dev=$(pool_device p)
	for i in "${!bases[@]}"; do
		wanted=$(client "rmr-iotest digest $dev --offset-base ${bases[i]} --span $window")
		for k in 1 2; do
			offset=$(data_offset p "$k")
			equal "$(node "$k" "rmr-iotest digest $(backing "$k") --offset-base $((offset + bases[i])) --span $window")" \
				"$wanted" "node$k at ${bases[i]}"
		done
	done
}

# Across the places where 32 bits of bytes and of sectors end.
test_boundaries() {
	local base
	for base in $((4 * gib)) $((2 * tib)) $((4 * tib)); do
		client "rmr-iotest model $(pool_device p) --offset-base $((base - 8 * 1024 * 1024)) --span $window \
			--max-io 1M --seconds 2"
	done
}

test_end_of_device() {
	client "rmr-iotest sizes $(pool_device p) --offset-base $((size - 8 * 1024 * 1024)) --max-io 1M"
}

make_sparse
pool_fresh=yes
cleanup unload_all
cleanup pool_down p
pool_up p 2 "$size" chunk_size=1048576 init=equal
run_test "the device has 4.5 TiB" test_size
run_test "far places are distinct" test_places_are_distinct
run_test "the nodes hold the data where it belongs" test_nodes_hold_it_there
run_test "IO across 4 GiB, 2 TiB and 4 TiB" test_boundaries
run_test "the end of the device" test_end_of_device
finish
