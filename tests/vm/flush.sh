#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Flush and FUA reach the disks of both nodes. This is looked at there: in the disks' own counters of flushes, and in the
# kernel's trace of the requests that are sent to them.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

# flushes K: flush requests that the node's disk has completed.
flushes() {
	node "$1" "awk '{ print \$16 }' /sys/block/$(basename "$(backing "$1")")/stat"
}

# trace_begin K; trace_end K prints operations sent to the node's disk, as "RWBS SECTORS".
trace_begin() {
	local dev
	dev=$(backing "$1")
	node "$1" "cd /sys/kernel/tracing && echo 0 > tracing_on && echo > trace &&
		d=\$(stat -c '%Hr %Lr' $dev) && echo \"dev == \$((\${d% *} << 20 | \${d#* }))\" > events/block/block_bio_queue/filter &&
		echo 1 > events/block/block_bio_queue/enable && echo 1 > tracing_on"
}

trace_end() {
	node "$1" "cd /sys/kernel/tracing && echo 0 > tracing_on && echo 0 > events/block/block_bio_queue/enable &&
		sed -nE 's/.*block_bio_queue: [0-9]+,[0-9]+ ([A-Z]+) [0-9]+ \+ ([0-9]+).*/\1 \2/p' trace"
}

# both CMD: runs a command on the client; prints by how much the flush counters of the nodes grew.
both() {
	local before1 before2
	before1=$(flushes 1)
	before2=$(flushes 2)
	client "$1" >&2
	echo "$(($(flushes 1) - before1)) $(($(flushes 2) - before2))"
}

test_flags() {
	equal "$(client cat "/sys/block/$(basename "$(pool_device p)")/queue/write_cache")" "write back"
}

test_fsync() {
	local grown
	grown=$(both "dd if=/dev/zero of=$(pool_device p) bs=4k count=8 oflag=direct conv=fsync status=none")
	read -r a b <<< "$grown"
	((a >= 1 && b >= 1)) || fail "flushes of the nodes: $grown"
}

# Ten fsyncs are ten flushes on each node, none less.
test_every_fsync_counts() {
	local grown
	grown=$(both "for i in 1 2 3 4 5 6 7 8 9 10; do
		dd if=/dev/zero of=$(pool_device p) bs=4k count=1 seek=\$i oflag=direct conv=fsync status=none; done")
	read -r a b <<< "$grown"
	((a >= 10 && b >= 10)) || fail "flushes of the nodes: $grown"
}

test_no_needless_flush() {
	equal "$(both "dd if=/dev/zero of=$(pool_device p) bs=4k count=64 oflag=direct status=none")" "0 0" "flushes"
}

# A disk without FUA gets a flush after the write, one with FUA the flag.
test_dsync_write() {
	local grown
	grown=$(both "dd if=/dev/zero of=$(pool_device p) bs=4k count=4 oflag=direct,dsync status=none")
	read -r a b <<< "$grown"
	((a >= 4 && b >= 4)) || fail "flushes of the nodes: $grown"
}

test_file_system_sync() {
	local dev grown
	dev=$(pool_device p)
	client "mkfs.ext4 -q -F $dev && mount $dev /mnt"
	cleanup client 'umount /mnt 2> /dev/null; :'
	grown=$(both 'echo x > /mnt/x && sync -f /mnt/x')
	read -r a b <<< "$grown"
	((a >= 1 && b >= 1)) || fail "flushes of the nodes: $grown"
}

# The order on the disk: the data is completed before the flush that is to make it stable is sent.
test_flush_after_data() {
	local k ops
	for k in 1 2; do
		trace_begin "$k"
	done
	client "dd if=/dev/zero of=$(pool_device p) bs=64k count=1 oflag=direct conv=fsync status=none"
	for k in 1 2; do
		ops=$(trace_end "$k")
		echo "node$k: $ops"
		[[ $(grep -n 'W' <<< "$ops" | grep -v ':F' | tail -n 1 | cut -d : -f 1) -lt \
		$(grep -n '^F' <<< "$ops" | tail -n 1 | cut -d : -f 1) ]] || fail "node$k: the flush is not last: $ops"
	done
}

# Disks with a cache and FUA of their own: null_blk.
test_fua() {
	local k ops
	for k in 1 2; do
		node "$k" 'modprobe null_blk nr_devices=0 && mount -t configfs configfs /sys/kernel/config 2> /dev/null
			mkdir /sys/kernel/config/nullb/fua && cd /sys/kernel/config/nullb/fua && echo 256 > size &&
			echo 1 > memory_backed && echo 8 > cache_size && echo 1 > fua && echo 1 > power &&
			[ "$(cat /sys/block/fua/queue/fua)" = 1 ]' || skip "null_blk with FUA"
		cleanup node "$k" 'echo 0 > /sys/kernel/config/nullb/fua/power; rmdir /sys/kernel/config/nullb/fua; rmmod null_blk'
		pool_backing[$k]=/dev/fua
	done
	cleanup pool_down q
	pool_up q 2 128M
	equal "$(client cat "/sys/block/$(basename "$(pool_device q)")/queue/fua")" 1 "FUA of the device"
	# The first write to an extent comes with those of the activity log.
	client "dd if=/dev/zero of=$(pool_device q) bs=4k count=1 oflag=direct status=none"
	for k in 1 2; do
		trace_begin "$k"
	done
	client "dd if=/dev/urandom of=$(pool_device q) bs=4k count=3 oflag=direct,dsync status=none
		dd if=/dev/urandom of=$(pool_device q) bs=4k count=2 seek=8 oflag=direct status=none"
	for k in 1 2; do
		ops=$(trace_end "$k")
		echo "node$k: $ops"
		equal "$(grep -cE '^WF[A-Z]* 8$' <<< "$ops")" 3 "FUA writes on node$k"
		equal "$(grep -cE '^W[^F]*( 8| 16)$' <<< "$ops" | sed 's/^[12]$/ok/')" ok "plain writes on node$k"
	done
	compare_data_areas q
	pool_down q
}

# The cache of the device is that of the members together: one with a volatile cache is enough.
test_strictest_cache() {
	pool_down p
	node 2 'echo "write through" > /sys/block/vda/queue/write_cache'
	cleanup node 2 'echo "write back" > /sys/block/vda/queue/write_cache'
	cleanup pool_down p
	pool_up p 2 64M
	equal "$(client cat "/sys/block/$(basename "$(pool_device p)")/queue/write_cache")" "write back" "one of two"
	(($(both "dd if=/dev/zero of=$(pool_device p) bs=4k count=1 oflag=direct conv=fsync status=none" | cut -d ' ' -f 1) >= 1)) ||
		fail "the node with a cache was not flushed"
	pool_down p
	node 1 'echo "write through" > /sys/block/vda/queue/write_cache'
	cleanup node 1 'echo "write back" > /sys/block/vda/queue/write_cache'
	pool_up p 2 64M
	equal "$(client cat "/sys/block/$(basename "$(pool_device p)")/queue/write_cache")" "write through" "none of two"
}

cleanup unload_all
cleanup pool_down p
pool_up p 2 128M
run_test "the device has a write cache, as its members" test_flags
run_test "fsync flushes both nodes" test_fsync
run_test "each of ten fsyncs flushes both nodes" test_every_fsync_counts
run_test "writes without fsync flush nothing" test_no_needless_flush
run_test "writes with O_DSYNC are flushed on both nodes" test_dsync_write
run_test "sync of a file system flushes both nodes" test_file_system_sync
run_test "a flush comes after the data" test_flush_after_data
run_test "FUA reaches both nodes' disks as such" test_fua
run_test "the strictest cache of all members counts" test_strictest_cache
finish
