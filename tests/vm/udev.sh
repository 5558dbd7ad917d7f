#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Stable names: brmr/udev/60-brmr.rules makes /dev/brmr/by-pool/POOL and POOL-partN when a pool is mapped, when a partition
# table is written, when the device comes with one, and when udev looks at everything again, as at boot; and they go.

. "$(dirname "$0")/../lib.sh"
need_nodes 1
. "$(dirname "$0")/../pool.sh"

# A name that a pool may have and a device not, and what udev makes of it.
odd='a%n$b"c\d,e' odd_link=a_n_b_c_d_e
names=/dev/brmr/by-pool

# links: what is in the folder of names, with the kernel names behind.
links() {
	client "udevadm settle; shopt -s nullglob; cd $names 2> /dev/null || exit 0; for l in *; do echo \"\$l \$(readlink -f \"\$l\")\"; done" |
		sort | paste -s -d ';'
}

# map POOL, unmap POOL; nobody of udev has the device open then.
map() {
	sysfs_write client "$brmr_client/ctl/map_device" "pool=$1"
}

unmap() {
	client "udevadm settle; echo 1 > $brmr_client/devices/brmr0/unmap_device"
}

test_appears_and_goes() {
	map p
	equal "$(links)" "p /dev/brmr0"
	unmap
	equal "$(links)" "" "after unmap"
	map p
	equal "$(links)" "p /dev/brmr0" "mapped again"
}

test_partitions() {
	client "sfdisk --quiet $names/p <<< 'label: gpt
start=2048, size=8192
start=10240, size=8192'"
	equal "$(links)" "p /dev/brmr0;p-part1 /dev/brmr0p1;p-part2 /dev/brmr0p2"
	client "sfdisk --quiet --delete $names/p 2"
	equal "$(links)" "p /dev/brmr0;p-part1 /dev/brmr0p1" "one deleted"
}

# The events of partitions that are found when the device is mapped come before the name of the pool is known.
test_partitions_from_the_start() {
	local i
	for i in 1 2 3; do
		unmap
		equal "$(links)" "" "after unmap $i"
		map p
		equal "$(links)" "p /dev/brmr0;p-part1 /dev/brmr0p1" "after map $i"
	done
}

# At boot udev triggers an "add" of what is there already, without what the driver's own event says.
test_trigger() {
	local action
	for action in add change; do
		client "rm -rf /run/udev/data/b* $names && udevadm trigger --subsystem-match=block --action=$action"
		equal "$(links)" "p /dev/brmr0;p-part1 /dev/brmr0p1" "after trigger of $action"
	done
	unmap
	equal "$(links)" "" "after unmap"
}

test_odd_name() {
	sysfs_write client "$rmr_client/ctl/join_pool" "poolname=$odd"
	cleanup client "echo 1 > $rmr_client/pools/$(printf %q "$odd")/leave_pool"
	sysfs_write node1 "$brmr_server/stores/p/remove_store" 1
	sysfs_write node1 "$rmr_server/pools/p/leave_pool" 1
	wipe_backing 1
	sysfs_write node1 "$brmr_server/ctl/create_store" "device=$(backing 1) pool=$odd mapped_size=$(sectors 64M) member_id=1"
	cleanup node 1 "echo 1 > $brmr_server/stores/$(printf %q "$odd")/remove_store"
	sysfs_write client "$rmr_client/pools/$odd/add_sess" "sessname=node1 path=$(address 1)"
	map "$odd"
	equal "$(links)" "$odd_link /dev/brmr0"
	unmap
	equal "$(links)" "" "after unmap"
}

cleanup unload_all
load_all 1
wipe_backing 1
node_join p 1
node_store p 1 64M
cleanup pool_down p
client_join p
client_leg p 1
run_test "the name appears with the device and goes with it" test_appears_and_goes
run_test "partitions get names" test_partitions
run_test "partitions that are there when the device is mapped, too" test_partitions_from_the_start
run_test "udev finds the names again" test_trigger
run_test "a pool with a name that is not easy" test_odd_name
finish
