#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Partition tables: the nodes appear, also after the device was mapped anew, and IO on a partition stays inside of it.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

# The second begins at an odd sector.
layout='label: gpt
start=2048, size=65536
start=67585, size=32769
start=102400'

part() {
	echo "$(pool_device p)p$1"
}

test_table() {
	local dev
	dev=$(pool_device p)
	client "sfdisk --quiet $dev <<< '$layout' && udevadm settle"
	equal "$(client "ls $dev?* | wc -l")" 3 "partition nodes"
	equal "$(client "cat /sys/class/block/${dev##*/}p2/start /sys/class/block/${dev##*/}p2/size" | paste -s -d ' ')" \
		"67585 32769" "second partition"
}

test_io() {
	client "rmr-iotest fill $(pool_device p) --offset-base 1M --span 8M > /dev/null
		rmr-iotest fill $(part 1) --seed 1 && rmr-iotest fill $(part 3) --seed 3 &&
		rmr-iotest model $(part 2) --seconds 5 --max-io 256K && rmr-iotest fill $(part 2) --seed 2 &&
		rmr-iotest verify $(part 1) --seed 1 && rmr-iotest verify $(part 2) --seed 2 &&
		rmr-iotest verify $(part 3) --seed 3"
}

test_file_system() {
	client "mkfs.ext4 -q -F $(part 1) && mount $(part 1) /mnt && cp -r /etc /mnt/ && umount /mnt && fsck.ext4 -fn $(part 1)"
}

test_mapped_anew() {
	device_unmap p
	client_map p
	client udevadm settle
	equal "$(client "ls $(pool_device p)?* | wc -l")" 3 "partition nodes"
	client "rmr-iotest verify $(part 2) --seed 2 && fsck.ext4 -fn $(part 1)"
}

test_open_partition_holds() {
	client "sleep 1000 < $(part 2) > /dev/null 2>&1 & echo \$! > /tmp/holder"
	cleanup client 'kill $(cat /tmp/holder); :'
	expect_fail EBUSY device_unmap p
}

test_table_removed() {
	client "sfdisk --quiet --delete $(pool_device p) && udevadm settle"
	equal "$(client "ls $(pool_device p)?* 2> /dev/null | wc -l")" 0 "partition nodes"
	compare_data_areas p
}

cleanup unload_all
cleanup pool_down p
pool_up p 2 128M
run_test "sfdisk makes three partitions" test_table
run_test "IO on partitions" test_io
run_test "a file system on a partition" test_file_system
run_test "partitions are found when the device is mapped again" test_mapped_anew
run_test "an open partition keeps the device" test_open_partition_holds
run_test "the table is deleted" test_table_removed
finish
