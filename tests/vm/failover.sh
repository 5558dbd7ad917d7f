#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Nodes and the client fail and come back while IO runs: it goes on, what was missed is pulled from the other nodes, and in
# the end all disks are equal.

. "$(dirname "$0")/../lib.sh"
need_nodes 3
. "$(dirname "$0")/../pool.sh"

size=128M
# Requests wait so long for a node that does not answer.
# shellcheck disable=SC2034 # for pool_up
pool_io_timeout=4000
# Longest time until all legs are in sync again, in seconds.
resync_seconds=120

# wait_legs STATE K...: until these legs are in that state.
wait_legs() {
	local state=$1 k
	for k in "${@:2}"; do
		wait_for "$resync_seconds" leg_is "$k" "$state"
	done
}

leg_is() {
	[[ $(leg_state p "$1") == "$2" ]]
}

# wait_out K: until the pool goes on without a leg.
wait_out() {
	wait_for "$resync_seconds" is_out "$1"
}

is_out() {
	[[ " $(sysfs_read client "$rmr_client/pools/p/in_sync") " != *" $1 "* ]]
}

# node_back K: after a reboot, with the store it had.
node_back() {
	load_node "$1"
	node_join p "$1"
	sysfs_write "node$1" "$brmr_server/ctl/add_store" "device=$(backing "$1") pool=p"
	node_peers p "$1" 3
}

# writes SECONDS: against a model, in the background of the test; wait_writes tells how it went.
writes() {
	client "rmr-iotest model $(pool_device p) --seconds $1 --span 64M --max-io 64K" &
	writer=$!
}

wait_writes() {
	wait "$writer" || fail "the application saw an error"
}

test_up() {
	pool_up p 3 "$size"
	wait_legs in_sync 1 2 3
}

test_kill() {
	writes 20
	sleep 3
	cluster kill node3
	wait_out 3
	wait_writes
	equal "$(device_state p)" running "state of the device"
	cluster start node3
	node_back 3
	wait_legs in_sync 1 2 3
	compare_data_areas p
}

test_back_under_load() {
	cluster kill node2
	writes 60
	sleep 5
	cluster start node2
	node_back 2
	wait_writes
	wait_legs in_sync 1 2 3
	compare_data_areas p
}

test_link() {
	writes 30
	sleep 3
	cluster link node1 1 down
	cleanup cluster link node1 1 up
	wait_out 1
	sleep 5
	cluster link node1 1 up
	wait_writes
	wait_legs in_sync 1 2 3
	compare_data_areas p
}

cleanup unload_all
cleanup pool_down p
run_test "three legs in sync" test_up
run_test "a node is killed under writes, and comes back" test_kill
run_test "a node comes back while the application writes" test_back_under_load
run_test "a node is cut off, and comes back" test_link
finish
