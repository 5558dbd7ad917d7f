#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The crate brmr_sys in the kernel, by a RAM disk made with it (tests/modules/blk_selftest): what that tests by
# itself when it is loaded, and then the RAM disk as user space uses a disk.

. "$(dirname "$0")/../lib.sh"
need_nodes 0

disk=/dev/blktest0

# Loads the module to run a group of its tests; the log has one line for each. Whoever opened a disk that is gone by
# now (udev, or the openers of a test) keeps the module for a moment.
self_test() {
	local mark log
	mark=$(dmesg_mark client)
	client "modprobe blk_selftest $*"
	wait_for 5 client "rmmod blk_selftest 2> /dev/null"
	log=$(dmesg_since client "$mark" | grep 'blk_selftest: ')
	echo "$log"
	[[ $log == *": ok "* && $log != *"not ok "* ]] || fail "see above"
}

# As above, while others open the disk again and again, until both have found it there often enough: how often that is in so
# many rounds depends on the machine.
test_openers() {
	# Reads of a disk that goes away fail; nothing else may.
	client "cat > /tmp/opener.py" <<-'PYTHON'
		import os, time
		opened = 0
		while opened < 12 and not os.path.exists('/tmp/openers-stop'):
		    try:
		        fd = os.open('/dev/blktest0', os.O_RDWR)
		    except OSError:
		        time.sleep(0.0005)
		        continue
		    opened += 1
		    try:
		        os.pread(fd, 4096, 0)
		    except OSError:
		        pass
		    os.close(fd)
		print(opened)
	PYTHON
	client "rm -f /tmp/openers-stop
		for i in 1 2; do python3 /tmp/opener.py > /tmp/opened\$i 2>&1 < /dev/null & done"
	cleanup client "touch /tmp/openers-stop"
	local try
	for ((try = 0; try < 20; try++)); do
		self_test tests=1 rounds=40
		! client "pgrep -f [o]pener.py > /dev/null" || continue
		client "grep -qx 12 /tmp/opened1 && grep -qx 12 /tmp/opened2" || fail "$(client "cat /tmp/opened1 /tmp/opened2")"
		return
	done
	fail "the disk was not opened often enough in $((try * 40)) rounds"
}

keep() {
	client "modprobe blk_selftest tests=0 keep=1 mode=$1 && udevadm settle"
	cleanup client "udevadm settle; rmmod blk_selftest"
}

test_fio() {
	keep "$1"
	client "fio --name=a --filename=$disk --rw=randwrite --bsrange=512-512k --blockalign=512 --direct=1 \
		--ioengine=libaio --iodepth=32 --size=32M --io_size=24M --verify=crc32c --verify_fatal=1 --minimal" > /dev/null
	client "fio --name=b --filename=$disk --rw=randrw --bs=4k --direct=1 --ioengine=io_uring --iodepth=32 --size=16M \
		--verify=crc32c --verify_fatal=1 --fsync=16 --minimal" > /dev/null
	client "blkdiscard -z -f $disk && cmp -n $((64 << 20)) $disk /dev/zero"
}

test_file_system() {
	keep "$1"
	client "sfdisk -q $disk" <<-'EOT'
		label: gpt
		size=24MiB
		size=30MiB
	EOT
	client "udevadm settle && mkfs.ext4 -q ${disk}p1 && mkfs.ext4 -q ${disk}p2
		mkdir -p /mnt/blk && mount -o discard ${disk}p1 /mnt/blk"
	cleanup client "umount /mnt/blk"
	client "cp -a /usr/lib/udev/rules.d /mnt/blk && sync && echo 3 > /proc/sys/vm/drop_caches &&
		diff -r --no-dereference /usr/lib/udev/rules.d /mnt/blk/rules.d && rm -r /mnt/blk/rules.d && fstrim /mnt/blk"
	expect_fail any client "rmmod blk_selftest"
	client "umount /mnt/blk && fsck.ext4 -nf ${disk}p1 && mkdir -p /mnt/blk && mount ${disk}p2 /mnt/blk"
}

test_limits() {
	local name wanted
	client "udevadm monitor -k -p > /tmp/events 2>&1 < /dev/null & echo \$! > /tmp/monitor; sleep 1"
	cleanup client 'kill "$(cat /tmp/monitor)"'
	keep 1
	while read -r name wanted; do
		equal "$(client "cat /sys/block/blktest0/queue/$name")" "$wanted" "$name"
	done <<-'EOT'
		max_hw_sectors_kb 124
		max_segments 32
		virt_boundary_mask 4095
		write_cache write back
		fua 1
		scheduler [none] mq-deadline 
		discard_granularity 4096
		discard_max_bytes 16777216
		write_zeroes_max_bytes 16777216
		write_zeroes_unmap_max_bytes 16777216
		stable_writes 1
		rotational 0
		nr_requests 16
		logical_block_size 512
		physical_block_size 4096
	EOT
	expect_fail any client "exec 5<> $disk; rmmod blk_selftest"
	wait_for 5 client "grep -A 20 'change.*block/blktest0' /tmp/events | grep -x BLKTEST_POOL=p"
}

client modinfo -n blk_selftest > /dev/null 2>&1 || skip_all "the modules were built without RMR_TESTS=1"

run_test "life of disks" self_test tests=1 rounds=50
run_test "synchronous IO" self_test tests=2
run_test "bios" self_test tests=4
run_test "openers while disks come and go" test_openers
run_test "limits, event, in use" test_limits
for mode in 0 1 2; do
	run_test "fio, mode $mode" test_fio "$mode"
	run_test "partitions and file system, mode $mode" test_file_system "$mode"
done
finish
