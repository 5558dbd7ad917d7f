#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A leg that missed much gets it from the nodes that have it, from all of them: nothing of it passes the client, whose interface
# is counted.

. "$(dirname "$0")/../lib.sh"
need_nodes 3
. "$(dirname "$0")/../pool.sh"

size=320M
missed=288M
# The client may send and receive so much of what is resynced: one part in so many.
client_part=100
members=$rmr_client/pools/p/sessions

# traffic VM: bytes that its interface in the storage network has sent and received.
traffic() {
	vm "$1" "cd /sys/class/net/eth1/statistics && echo \$(cat tx_bytes rx_bytes)"
}

in_sync() {
	[[ $(sysfs_read client "$rmr_client/pools/p/in_sync") == "$*" ]]
}

# What the client writes to two nodes is counted, and so is what node3 gets from them, or the test would see nothing.
test_resync() {
	local tx rx sent received before limit k
	local -A source=()
	wait_for 30 in_sync 1 2 3
	sysfs_write client "$members/node3/maintenance" 1
	wait_for 30 in_sync 1 2
	read -r tx rx <<< "$(traffic client)"
	client "dd if=/dev/urandom of=$(pool_device p) bs=1M count=$(($(bytes "$missed") >> 20)) oflag=direct status=none"
	read -r sent received <<< "$(traffic client)"
	((sent - tx > 2 * $(bytes "$missed"))) || fail "the client has sent $((sent - tx)) bytes only: another interface is counted"
	read -r _ before <<< "$(traffic node3)"
	for k in 1 2; do
		read -r "source[$k]" _ <<< "$(traffic "node$k")"
	done
	read -r tx rx <<< "$(traffic client)"
	sysfs_write client "$members/node3/maintenance" 0
	wait_for 240 in_sync 1 2 3
	read -r sent received <<< "$(traffic client)"
	limit=$(($(bytes "$missed") / client_part))
	echo "the client sent $((sent - tx)) and received $((received - rx)) bytes while $(bytes "$missed") were made equal"
	((sent - tx < limit && received - rx < limit)) || fail "more than $limit: the resync went over the client"
	read -r _ received <<< "$(traffic node3)"
	((received - before >= $(bytes "$missed"))) || fail "node3 received $((received - before)) bytes only: another interface is counted"
	for k in 1 2; do
		read -r sent _ <<< "$(traffic "node$k")"
		echo "node$k sent $((sent - source[$k])) bytes"
		((sent - source[$k] > $(bytes "$missed") / 3)) || fail "node$k is in sync, and gave too little"
	done
	compare_data_areas p
}

cleanup unload_all
cleanup pool_down p
run_test "three legs" pool_up p 3 "$size"
run_test "a resync leaves the client alone" test_resync
finish
