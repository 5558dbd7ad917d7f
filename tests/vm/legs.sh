#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# One, three and five legs: the same IO tests, all legs equal.

. "$(dirname "$0")/../lib.sh"
need_nodes 5 --mem 512
. "$(dirname "$0")/../pool.sh"

# Other tests take the stores that they find on disks for legs of their pool.
wipe_legs() {
	local k
	for ((k = 1; k <= $1; k++)); do
		wipe_backing "$k"
	done
}

test_legs() {
	cleanup wipe_legs "$1"
	cleanup unload_all
	cleanup pool_down p
	pool_up p "$1" 96M
	equal "$(sysfs_read client "$rmr_client/pools/p/member_count")" "$1" "member count"
	client "rmr-iotest model $(pool_device p) --seconds 6 --span 16M"
	client "blkdiscard --offset 1M --length 4M $(pool_device p)"
	client "mkfs.ext4 -q -F $(pool_device p) && mount $(pool_device p) /mnt && cp -r /etc /mnt/ && umount /mnt &&
		fsck.ext4 -fn $(pool_device p)"
	equal "$(pool_legs p | wc -l)" "$1" "stores"
	compare_data_areas p
}

run_test "one leg" test_legs 1
run_test "three legs" test_legs 3
run_test "five legs" test_legs 5
finish
