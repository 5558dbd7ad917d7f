#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Discard and write-zeroes: the range reads as zeroes on the device and on both nodes' disks, the rest is untouched, and
# a disk that can unmap has given the space back.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

mib=$((1 << 20))
# In MiB: what is filled, and the part of it that goes.
filled=48
first=16
count=24

# KiB that a node's disk takes on the build machine.
allocated() {
	local file
	file=$(cluster disk "node$1" data0)
	sync "$file"
	du -k "$file" | cut -f 1
}

# expect_zeroes: the part is gone, everywhere, and nothing else is.
expect_zeroes() {
	local dev k offset
	dev=$(pool_device p)
	client "rmr-iotest verify $dev --seed 3 --span ${first}M &&
		rmr-iotest verify $dev --zeroes --offset-base ${first}M --span ${count}M &&
		rmr-iotest verify $dev --seed 3 --offset-base $((first + count))M --span $((filled - first - count))M"
	for k in 1 2; do
		offset=$(data_offset p "$k")
		node "$k" "rmr-iotest verify $(backing "$k") --zeroes --offset-base $((offset + first * mib)) --span ${count}M" ||
			fail "node$k does not hold zeroes"
	done
	compare_data_areas p
}

fill() {
	client "rmr-iotest fill $(pool_device p) --seed 3 --span ${filled}M"
}

test_offered() {
	local queue
	queue=/sys/block/$(basename "$(pool_device p)")/queue
	(($(client cat "$queue/discard_max_bytes") > 0)) || fail "no discard"
	(($(client cat "$queue/write_zeroes_max_bytes") > 0)) || fail "no write-zeroes"
}

test_discard_unmaps() {
	local before1 before2
	fill
	before1=$(allocated 1)
	before2=$(allocated 2)
	client "blkdiscard --offset ${first}M --length ${count}M $(pool_device p)"
	expect_zeroes
	(($(allocated 1) <= before1 - count * 900)) || fail "node1 took $before1 KiB, now $(allocated 1)"
	(($(allocated 2) <= before2 - count * 900)) || fail "node2 took $before2 KiB, now $(allocated 2)"
}

test_write_zeroes() {
	fill
	client "blkdiscard --zeroout --offset ${first}M --length ${count}M $(pool_device p)"
	expect_zeroes
}

test_odd_ranges() {
	local dev spec
	dev=$(pool_device p)
	for spec in 512:512 1536:4096 4096:512 $((mib - 512)):1024 $((4 * mib - 512)):$((mib + 1024)); do
		client "rmr-iotest fill $dev --seed 3 --span 8M > /dev/null &&
			blkdiscard --offset ${spec%:*} --length ${spec#*:} $dev &&
			rmr-iotest verify $dev --seed 3 --span ${spec%:*} &&
			rmr-iotest verify $dev --zeroes --offset-base ${spec%:*} --span ${spec#*:} &&
			rmr-iotest verify $dev --seed 3 --offset-base $((${spec%:*} + ${spec#*:})) --span 1M" ||
			fail "discard of ${spec#*:} bytes at ${spec%:*}"
	done
	compare_data_areas p
}

test_fstrim() {
	local dev before
	dev=$(pool_device p)
	client "mkfs.ext4 -q -F -E nodiscard $dev && mount $dev /mnt &&
		dd if=/dev/urandom of=/mnt/x bs=1M count=32 status=none && sync"
	cleanup client 'umount /mnt 2> /dev/null; :'
	before=$(allocated 2)
	client "rm /mnt/x && sync && fstrim -v /mnt && umount /mnt"
	(($(allocated 2) <= before - 24 * 1024)) || fail "node2 took $before KiB, now $(allocated 2)"
	client "fsck.ext4 -fn $dev"
	compare_data_areas p
}

# A member whose disk cannot unmap writes zeroes.
test_node_without_discard() {
	pool_down p
	node 2 'echo 0 > /sys/block/vda/queue/discard_max_bytes'
	# The kernel takes nothing but 0 after that; a new block device has the old limit.
	cleanup node 2 'd=$(basename "$(readlink -f /sys/block/vda/device)") &&
		cd /sys/bus/virtio/drivers/virtio_blk && echo "$d" > unbind && echo "$d" > bind && udevadm settle &&
		[ "$(cat /sys/block/vda/queue/discard_max_bytes)" -gt 0 ]'
	pool_up p 2 128M
	fill
	client "blkdiscard --offset ${first}M --length ${count}M $(pool_device p)" ||
		echo "no discard with this member"
	client "blkdiscard --zeroout --offset ${first}M --length ${count}M $(pool_device p)"
	expect_zeroes
	pool_down p
}

cleanup unload_all
cleanup pool_down p
pool_up p 2 128M
run_test "the device offers both" test_offered
run_test "discard: zeroes, and the space is given back" test_discard_unmaps
run_test "write-zeroes" test_write_zeroes
run_test "odd ranges" test_odd_ranges
run_test "fstrim" test_fstrim
run_test "one node without discard" test_node_without_discard
finish
