#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Nodes and the client fail and come back while IO runs: it goes on, what was missed is pulled from the other nodes, and in
# the end all disks are equal.

. "$(dirname "$0")/../lib.sh"
need_nodes 3
. "$(dirname "$0")/../pool.sh"

size=64M
# Requests wait so long for a node that does not answer.
# shellcheck disable=SC2034 # for pool_up
pool_io_timeout=4000

test_up() {
	pool_up p 3 "$size"
	wait_legs p in_sync 1 2 3
}

test_kill() {
	writes p 15
	sleep 3
	cluster kill node3
	wait_for "$leg_seconds" is_out p 3
	wait_writes
	equal "$(device_state p)" ready "state of the device"
	cluster start node3
	node_back p 3
	wait_legs p in_sync 1 2 3
	compare_data_areas p
}

test_back_under_load() {
	cluster kill node2
	writes p 45
	sleep 5
	cluster start node2
	node_back p 2
	wait_writes
	wait_legs p in_sync 1 2 3
	compare_data_areas p
}

test_link() {
	writes p 20
	sleep 3
	cluster link node1 1 down
	cleanup cluster link node1 1 up
	wait_for "$leg_seconds" is_out p 1
	sleep 5
	cluster link node1 1 up
	wait_writes
	wait_legs p in_sync 1 2 3
	compare_data_areas p
}

# The client dies without a word; it, or another one, attaches again.
test_client_dies() {
	writes p 60
	sleep 5
	cluster kill client
	wait "$writer" || :
	cluster start client
	load_client
	client_join p
	sysfs_write client "$rmr_client/pools/p/io_timeout" "$pool_io_timeout"
	for k in 1 2 3; do
		client_leg p "$k"
	done
	# Nodes may believe for a while that the old one is alive.
	sysfs_write client "$rmr_client/pools/p/takeover" 1
	client_map p
	wait_for 20 client "[ -b '$(pool_device p)' ]"
	writes p 5
	wait_writes
	wait_legs p in_sync 1 2 3
	compare_data_areas p
}

# What the application wrote and was told to be stable is there after everything lost its power.
test_power_loss() {
	local dev
	dev=$(pool_device p)
	client "mkfs.ext4 -q -F $dev && mount $dev /mnt && dd if=/dev/urandom of=/mnt/f bs=1M count=20 conv=fsync status=none &&
		sha256sum /mnt/f > /mnt/sum && sync && (while :; do date >> /mnt/log; sync -f /mnt; done > /dev/null 2>&1 &)"
	sleep 3
	for k in 1 2 3; do
		cluster kill "node$k"
	done
	cluster kill client
	for k in 1 2 3; do
		cluster start "node$k"
		node_back p "$k"
	done
	cluster start client
	load_client
	client_join p
	sysfs_write client "$rmr_client/pools/p/io_timeout" "$pool_io_timeout"
	for k in 1 2 3; do
		client_leg p "$k"
	done
	client_map p
	wait_for 20 client "[ -b '$(pool_device p)' ]"
	dev=$(pool_device p)
	client "mount $dev /mnt && cd /mnt && sha256sum -c sum && tail -n 1 log && cd / && umount /mnt && e2fsck -f -n $dev"
	wait_legs p in_sync 1 2 3
	compare_data_areas p
}

# A disk is replaced by an empty one: all data comes from the other nodes, none over the client.
test_replace() {
	local before after
	sysfs_write node3 "$brmr_server/stores/p/remove_store" force
	wait_for "$leg_seconds" is_out p 3
	wipe_backing 3
	node_store p 3 "$size" force=1
	before=$(client "cat /sys/class/net/eth1/statistics/tx_bytes")
	sysfs_write client "$rmr_client/pools/p/sessions/node3/replace" 1
	wait_legs p in_sync 1 2 3
	after=$(client "cat /sys/class/net/eth1/statistics/tx_bytes")
	echo "the client sent $((after - before)) bytes while $(bytes "$size") were made equal"
	((after - before < $(bytes "$size") / 20)) || fail "resync went over the client"
	compare_data_areas p
}

cleanup unload_all
cleanup pool_down p
run_test "three legs in sync" test_up
run_test "a node is killed under writes, and comes back" test_kill
run_test "a node comes back while the application writes" test_back_under_load
run_test "a node is cut off, and comes back" test_link
run_test "the client dies" test_client_dies
run_test "a disk is replaced" test_replace
run_test "everything loses power" test_power_loss
finish
