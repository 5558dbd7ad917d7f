#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Data comes back as it was written, in every size and alignment, from several threads at once, under every read policy
# and with logical blocks of 4 KiB; and the nodes' disks hold the same afterwards.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

size=96M
seconds=${IO_SECONDS:-6}

test_sizes() {
	client "rmr-iotest sizes $(pool_device p)"
	compare_data_areas p
}

test_model() {
	client "rmr-iotest model $(pool_device p) --seconds $seconds --span 64M $*"
	compare_data_areas p
}

test_policies() {
	local policy file=$rmr_client/pools/p/read_policy
	for policy in round-robin preferred=1 preferred=2 least-inflight; do
		sysfs_write client "$file" "$policy"
		equal "$(sysfs_read client "$file")" "$policy" "read policy"
		client "rmr-iotest model $(pool_device p) --seconds 4 --span 16M --max-io 128K --access direct"
	done
	expect_fail EINVAL sysfs_write client "$file" preferred=33
	expect_fail EINVAL sysfs_write client "$file" nonsense
	equal "$(sysfs_read client "$file")" least-inflight "read policy"
}

# Reads that a node answered, from its disk's counters.
reads_of() {
	node "$1" "awk '{ print \$1 }' /sys/block/$(basename "$(backing "$1")")/stat"
}

test_preferred_is_obeyed() {
	local before1 before2
	sysfs_write client "$rmr_client/pools/p/read_policy" preferred=2
	before1=$(reads_of 1)
	before2=$(reads_of 2)
	client "dd if=$(pool_device p) of=/dev/null bs=4k count=200 iflag=direct status=none"
	sysfs_write client "$rmr_client/pools/p/read_policy" least-inflight
	equal $(($(reads_of 1) - before1)) 0 "reads of node1"
	(($(reads_of 2) - before2 >= 200)) || fail "node2 answered $(($(reads_of 2) - before2)) reads"
}

# Few at a time in turn, many by the default policy.
test_both_nodes_answer() {
	local before1 before2 policy depth file=$rmr_client/pools/p/read_policy
	while read -r policy depth; do
		sysfs_write client "$file" "$policy"
		before1=$(reads_of 1)
		before2=$(reads_of 2)
		client "fio --name=x --filename=$(pool_device p) --rw=randread --bs=4k --iodepth=$depth --ioengine=libaio \
			--direct=1 --number_ios=1600 --size=32M > /dev/null"
		(($(reads_of 1) > before1 + 100)) || fail "$policy: node1 answered $(($(reads_of 1) - before1)) of 1600 reads"
		(($(reads_of 2) > before2 + 100)) || fail "$policy: node2 answered $(($(reads_of 2) - before2)) of 1600 reads"
	done <<-'CASES'
		round-robin 4
		least-inflight 128
	CASES
}

# One leg on a disk with blocks of 4096 bytes: so has the device.
test_4k_blocks() {
	node 1 "modprobe loop; losetup --sector-size 4096 --direct-io=on /dev/loop7 /dev/vdb"
	cleanup node 1 losetup -d /dev/loop7
	cleanup pool_down q
	pool_backing[1]=/dev/loop7
	pool_backing[2]=/dev/vdb
	pool_up q 2 64M
	equal "$(client blockdev --getss "$(pool_device q)")" 4096 "logical block"
	client "rmr-iotest sizes $(pool_device q) --max-io 1M"
	client "rmr-iotest model $(pool_device q) --seconds 5 --max-io 1M --span 32M"
	compare_data_areas q
	pool_down q
}

cleanup unload_all
cleanup pool_down p
pool_up p 2 "$size"
run_test "every size at every alignment" test_sizes
run_test "random IO against the model" test_model
run_test "random small IO against the model, 8 threads" test_model --threads 8 --max-io 16K --access direct
run_test "read policies" test_policies
run_test "the preferred member answers" test_preferred_is_obeyed
run_test "both nodes answer" test_both_nodes_answer
pool_down p
run_test "logical blocks of 4096 bytes" test_4k_blocks
finish
