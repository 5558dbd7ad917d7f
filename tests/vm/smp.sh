#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A client with several CPUs: many jobs at once on all of them, from queues that share tags, permits and lanes.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

seconds=${SMP_SECONDS:-8}

fio() {
	client "fio --filename=$(pool_device p) --ioengine=libaio --direct=1 --group_reporting --minimal $* > /tmp/fio.out 2>&1 ||
		{ cat /tmp/fio.out; exit 1; }"
}

test_cpus() {
	(($(client nproc) >= 2)) || skip "the client has one CPU"
	(($(client "ls -d /sys/block/$(basename "$(pool_device p)")/mq/* | wc -l") >= 2)) || fail "one hardware queue"
}

# Each job verifies what it wrote, in a part of its own; the sizes divide the part.
test_verify() {
	fio --name=v --numjobs=8 --cpus_allowed=0,1 --cpus_allowed_policy=split --rw=randwrite --bs="$1" --iodepth="$2" \
		--size=12M --offset_increment=12M --verify=crc32c --verify_fatal=1 --do_verify=1
	compare_data_areas p
}

test_mixed() {
	fio --time_based --runtime="$seconds" --size=96M \
		--name=small --rw=randrw --bs=4k --iodepth=32 --numjobs=4 \
		--name=large --rw=rw --bs=1M --iodepth=4 --numjobs=2 \
		--name=sync --rw=randwrite --bs=4k --iodepth=1 --fsync=8 --numjobs=2 \
		--name=trim --rw=randtrim --bs=64k --iodepth=2 --numjobs=1
	compare_data_areas p
}

# More requests than the transport has permits.
test_deep() {
	fio --time_based --runtime=8 --size=96M --name=deep --rw=randrw --bs=4k --iodepth=256 --numjobs=8
	compare_data_areas p
}

test_model_on_all_cpus() {
	client "rmr-iotest model $(pool_device p) --threads 16 --seconds $seconds --span 16M --max-io 64K --access direct"
	compare_data_areas p
}

# A CPU goes and comes while IO runs.
test_hotplug() {
	require client 'echo 0 > /sys/devices/system/cpu/cpu1/online && echo 1 > /sys/devices/system/cpu/cpu1/online'
	cleanup client 'echo 1 > /sys/devices/system/cpu/cpu1/online'
	client "rmr-iotest model $(pool_device p) --threads 8 --seconds 12 --span 16M --max-io 64K --access direct & io=\$!
		for i in 1 2 3 4; do
			echo 0 > /sys/devices/system/cpu/cpu1/online; sleep 1
			echo 1 > /sys/devices/system/cpu/cpu1/online; sleep 1
		done; wait \$io"
}

cleanup unload_all
cleanup pool_down p
pool_up p 2 128M
run_test "one hardware queue per CPU" test_cpus
run_test "eight jobs verify 4 KiB writes, depth 16" test_verify 4k 16
run_test "eight jobs verify 128 KiB writes, depth 4" test_verify 128k 4
run_test "many kinds of jobs at once" test_mixed
run_test "more requests than permits" test_deep
run_test "16 threads against the model" test_model_on_all_cpus
run_test "a CPU goes and comes" test_hotplug
finish
