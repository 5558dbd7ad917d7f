#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What it costs to remember which blocks others miss: a write to an extent that is in the activity log causes no write of
# metadata, with all legs and without one. Counted on the nodes' disks.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

size=256M
# Of an extent of the activity log.
extent=4M
# shellcheck disable=SC2034 # for pool_up
pool_io_timeout=4000
# Of metadata that may be written beside 1,000 writes, in sectors: the watermark and a change of the epoch may come just then.
few=64

# written K: sectors that a node's disk was told to write.
written() {
	node "$1" "awk '{ print \$7 }' /sys/block/$(basename "$(backing "$1")")/stat"
}

# random_writes COUNT FIRST SPAN: of 4 KiB each, one after the other, into a part of the device.
random_writes() {
	client "fio --name=w --filename=$(pool_device p) --rw=randwrite --norandommap --randseed=1 --bs=4k --ioengine=psync --direct=1 \
		--number_ios=$1 --size=$3 --offset=$2 --output=/dev/null"
}

# extra K COUNT FIRST SPAN: sectors that a node writes besides the data of so many writes.
extra() {
	local before after
	before=$(written "$1")
	random_writes "${@:2}"
	after=$(written "$1")
	echo $((after - before - $2 * 8))
}

test_hot() {
	local sectors
	random_writes 16 0 "$extent"
	sectors=$(extra 1 1000 0 "$extent")
	echo "1000 writes to a hot extent: $sectors sectors of metadata"
	((sectors >= 0 && sectors <= few)) || fail "more than $few sectors of metadata"
}

# The log is written once for each extent that comes into it: two copies of a page, of which each has many extents.
test_cold() {
	local sectors count=32
	sectors=$(extra 1 "$count" 128M 128M)
	echo "$count writes to cold extents: $sectors sectors of metadata"
	((sectors > 0)) || fail "nothing was remembered of new extents"
	((sectors <= count * 2 * 8 + few)) || fail "more than two pages for each extent"
}

test_degraded() {
	local sectors
	cluster kill node2
	# The first one waits until the pool goes on.
	random_writes 16 0 "$extent"
	equal "$(sysfs_read client "$rmr_client/pools/p/in_sync")" 1 "in sync"
	sectors=$(extra 1 1000 0 "$extent")
	echo "1000 writes to a hot extent that a leg misses: $sectors sectors of metadata"
	((sectors >= 0 && sectors <= few)) || fail "more than $few sectors of metadata"
	cluster start node2
	node_back p 2
	wait_for 60 all_in_sync p 2
	compare_data_areas p
}

cleanup unload_all
cleanup pool_down p
run_test "two legs" pool_up p 2 "$size"
run_test "a hot extent" test_hot
run_test "cold extents" test_cold
run_test "a hot extent, without one leg" test_degraded
finish
