#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A store with its metadata on a device of its own, beside one with all on one device: what works with both, what becomes of it
# when one of its devices fails, and every combination of devices that is refused.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"
. "$(dirname "$0")/../refused.sh"

size=128M
# shellcheck disable=SC2034 # for pool_up
pool_io_timeout=4000
# Of an extent of the activity log.
extent=4M
create=$brmr_server/ctl/create_store
add=$brmr_server/ctl/add_store
members=$rmr_client/pools/p/sessions

# stat K DISK: what a node's disk did: reads, sectors read, writes, sectors written, flushes.
stat() {
	node "$1" "awk '{ print \$1, \$3, \$5, \$7, \$16 }' /sys/block/$2/stat"
}

# grown BEFORE AFTER: by how much each number.
grown() {
	paste -d ' ' <(tr ' ' '\n' <<< "$1") <(tr ' ' '\n' <<< "$2") | awk '{ print $2 - $1 }' | paste -s -d ' '
}

random_writes() {
	client "fio --name=w --filename=$(pool_device p) --rw=randwrite --norandommap --randseed=1 --bs=4k --ioengine=psync --direct=1 \
		--number_ios=$1 --size=$3 --offset=$2 --output=/dev/null"
}

# attach: on a client that has nothing of the pool.
attach() {
	client_join p
	client_leg p 1
	client_leg p 2
	client_map p
}

write_cache() {
	client cat "/sys/block/$(basename "$(pool_device p)")/queue/write_cache"
}

test_sysfs() {
	equal "$(sysfs_read node1 "$brmr_server/stores/p/metadata")" vdb "metadata of node1"
	equal "$(sysfs_read node1 "$brmr_server/stores/p/bdev_name")" vda "data of node1"
	equal "$(sysfs_read node2 "$brmr_server/stores/p/metadata")" internal "metadata of node2"
	for dev in vda vdb; do
		expect_fail EBUSY node 1 "python3 -c 'import os; os.open(\"/dev/$dev\", os.O_RDONLY | os.O_EXCL)'"
	done
}

test_layout() {
	local data metadata
	data=$(node 1 "rmr-iotest layout /dev/vda")
	metadata=$(node 1 "rmr-iotest layout /dev/vdb")
	echo "$data; $metadata"
	[[ $data == "pool p"* && $metadata == "metadata_of p"* ]] || fail "whose are they?"
	# They name the store and each other.
	equal "$(grep -E '^(store|metadata) ' <<< "$data")" "$(grep -E '^(store|metadata) ' <<< "$metadata")" "UUIDs"
	equal "$(data_offset p 1)" $((1 << 20)) "data of node1"
	equal "$(data_offset p 2)" $((12 << 20)) "data of node2"
	equal "$(sed -n 's/^metadata_size //p' <<< "$metadata")" $((12 << 20)) "metadata of node1"
}

test_io() {
	client "rmr-iotest fill $(pool_device p) --seed 3"
	random_writes 200 0 "$size"
	compare_data_areas p
}

# Once an extent is in the log, the metadata device is left alone, and the other one writes data only.
test_hot() {
	local before1 before2
	random_writes 16 0 "$extent"
	sleep 3
	before1=$(stat 1 vda)
	before2=$(stat 1 vdb)
	random_writes 500 0 "$extent"
	equal "$(grown "$before1" "$(stat 1 vda)")" "0 0 500 4000 0" "data device"
	equal "$(grown "$before2" "$(stat 1 vdb)")" "0 0 0 0 0" "metadata device"
}

# What is remembered of a new extent is stable before the data is written: each write of it is followed by a flush of that
# device, which has no FUA.
test_cold() {
	local data metadata
	data=$(stat 1 vda)
	metadata=$(stat 1 vdb)
	random_writes 1 96M "$extent"
	read -r _ _ writes _ flushes <<< "$(grown "$metadata" "$(stat 1 vdb)")"
	echo "metadata device: $writes writes, $flushes flushes"
	((writes >= 2 && flushes >= writes)) || fail "metadata of a new extent"
	equal "$(grown "$data" "$(stat 1 vda)")" "0 0 1 8 0" "data device"
}

# All metadata is stable when it counts, so a flush is for the data.
test_flush() {
	local data metadata
	random_writes 4 0 "$extent"
	data=$(stat 1 vda)
	metadata=$(stat 1 vdb)
	client "dd if=/dev/zero of=$(pool_device p) bs=4k count=1 oflag=direct conv=fsync status=none"
	equal "$(grown "$data" "$(stat 1 vda)" | cut -d " " -f 4,5)" "8 1" "data device: sectors, flushes"
	equal "$(grown "$metadata" "$(stat 1 vdb)")" "0 0 0 0 0" "metadata device"
}

# A volatile cache in front of either device is one of the store.
test_write_cache() {
	local dev
	equal "$(write_cache)" "write back"
	pool_down p
	for dev in 1/vda 2/vda; do
		node "${dev%/*}" "echo 'write through' > /sys/block/${dev#*/}/queue/write_cache"
		cleanup node "${dev%/*}" "echo 'write back' > /sys/block/${dev#*/}/queue/write_cache"
	done
	node_add p 1
	node_add p 2
	attach
	equal "$(write_cache)" "write back" "only that of the metadata device"
	pool_down p
	node 1 "echo 'write through' > /sys/block/vdb/queue/write_cache"
	cleanup node 1 "echo 'write back' > /sys/block/vdb/queue/write_cache"
	node_add p 1
	node_add p 2
	attach
	equal "$(write_cache)" "write through" "none"
	pool_down p
	run_hooks
	node_add p 1
	node_add p 2
	attach
	equal "$(write_cache)" "write back" "all of them again"
}

# test_return K: a node dies under writes, comes back, and gets what it missed.
test_return() {
	cluster kill "node$1"
	random_writes 200 0 "$size"
	is_out p "$1" || fail "member $1 is not out"
	cluster start "node$1"
	load_node "$1"
	node_join p "$1"
	node_add p "$1"
	wait_for 60 all_in_sync p 2
	random_writes 50 0 "$size"
	compare_data_areas p
}

# Everything is rebooted, the nodes while the pool is mapped.
test_reboot() {
	client "rmr-iotest fill $(pool_device p) --seed 4"
	flush_device p
	cluster reset client node1 node2
	load_all 2
	node_add p 1
	node_add p 2
	attach
	client "rmr-iotest verify $(pool_device p) --seed 4"
	# What was written last is in doubt: one member gets it from the other.
	wait_for 60 all_in_sync p 2
	compare_data_areas p
}

# metadata_is TARGET: what is below the metadata device of node1, as device-mapper names it.
metadata_is() {
	node 1 "dmsetup suspend meta && dmsetup load meta --table \"0 \$(blockdev --getsz /dev/vdb) $1\" && dmsetup resume meta"
}

has_failed_twice() {
	(($(dmesg_since node1 "$1" | grep -c 'the store of member 1 failed') >= 2))
}

# The metadata device fails: the member is dropped with the first write of metadata, others go on. When it works again, the
# member is taken back by itself; when it is lost, a new store takes the place of the old one.
test_failed() {
	local mark
	pool_down p
	node 1 'dmsetup create meta --table "0 $(blockdev --getsz /dev/vdb) linear /dev/vdb 0"'
	cleanup node 1 'dmsetup remove --retry meta'
	cleanup pool_down p
	# shellcheck disable=SC2034 # for store_devices
	pool_metadata[1]=/dev/mapper/meta
	node_add p 1
	node_add p 2
	attach
	all_in_sync p 2 || fail "not all were in sync when the client left"
	equal "$(sysfs_read node1 "$brmr_server/stores/p/metadata")" dm-0 "metadata of node1"
	random_writes 16 0 "$extent"
	metadata_is error
	random_writes 50 0 "$extent"
	all_in_sync p 2 || fail "writes to a hot extent need no metadata"
	random_writes 32 64M 64M
	is_out p 1 || fail "the member is still in"
	node 1 "dmesg | grep 'rmr: pool p: the store of member 1 failed'" || fail "nothing is said of it"
	metadata_is "linear /dev/vdb 0"
	wait_for 90 all_in_sync p 2
	compare_data_areas p
	# Only writes fail, so it fails again while it is started. When they work, it is started once.
	mark=$(dmesg_mark node1)
	metadata_is "flakey /dev/vdb 0 0 3600 1 error_writes"
	random_writes 32 64M 64M
	is_out p 1 || fail "the member is still in"
	wait_for 30 has_failed_twice "$mark"
	metadata_is "linear /dev/vdb 0"
	wait_for 90 all_in_sync p 2
	sleep 5
	equal "$(dmesg_since node1 "$mark" | grep -c 'member 1 runs again')" 1 "starts"
	compare_data_areas p
	# It is lost for good.
	sysfs_write node1 "$brmr_server/stores/p/remove_store" force
	node 1 'dd if=/dev/zero of=/dev/mapper/meta bs=1M count=12 oflag=direct status=none'
	random_writes 32 0 "$size"
	expect_fail EMEDIUMTYPE node_add p 1
	node_store p 1 "$size" member_id=1 force=1
	wait_for 60 replaced 1
	wait_for 90 all_in_sync p 2
	compare_data_areas p
	pool_down p
}

# Refused while something else changes.
replaced() {
	sysfs_write client "$members/node$1/replace" 1
}

# The superblock of the metadata device has two copies, and what is lost of them is written again.
test_mended() {
	local k
	for offset in 4096 $(((12 << 20) - 4096)); do
		node 1 "dd if=/dev/zero of=/dev/vdb bs=4k count=1 oseek=$((offset / 4096)) oflag=direct status=none"
		node_add p 1
		store_remove p 1
		for k in 4096 $(((12 << 20) - 4096)); do
			equal "$(node 1 "dd if=/dev/vdb bs=4k count=1 iseek=$((k / 4096)) iflag=direct status=none | head -c 8")" rmr-disk "copy at $k"
		done
	done
}

# The first superblock of the device with the data is lost: the second one is before the first MiB.
test_first_lost() {
	node 1 'dd if=/dev/zero of=/dev/vda bs=4k count=1 oseek=1 oflag=direct status=none'
	node_add p 1
	store_remove p 1
	equal "$(data_offset p 1)" $((1 << 20)) "data of node1"
}

# All but a MiB of the device is data, and delete_store leaves nothing that a store is recognised by, on both.
test_whole_size() {
	local sectors
	sectors=$(node 1 'echo $(($(blockdev --getsz /dev/vda) - 2048))')
	sysfs_write node1 "$create" "device=/dev/vda metadata=/dev/vdb pool=p member_id=1 mapped_size=$sectors init=equal"
	equal "$(sysfs_read node1 "$brmr_server/stores/p/mapped_size")" "$sectors" "size"
	sysfs_write node1 "$brmr_server/stores/p/delete_store" 1
	for dev in vda vdb; do
		expect_fail any node 1 "rmr-iotest layout /dev/$dev"
	done
	expect_fail EMEDIUMTYPE sysfs_write node1 "$add" "device=/dev/vda metadata=/dev/vdb pool=p"
}

# Two partitions of one disk are two devices.
test_partitions() {
	node 1 "sfdisk -q /dev/vdb <<< 'label: gpt
start=2048, size=32768
start=34816, size=180224'"
	cleanup wipe_backing 1
	wait_for 10 node 1 '[ -b /dev/vdb2 ]'
	sysfs_write node1 "$create" "device=/dev/vdb2 metadata=/dev/vdb1 pool=p member_id=1 mapped_size=$(sectors 64M) force=1"
	equal "$(sysfs_read node1 "$brmr_server/stores/p/metadata")" vdb1 "metadata"
	refused EBUSY node1 "$create" "device=/dev/vda metadata=/dev/vdb pool=q member_id=1 mapped_size=$sectors" "in use"
	sysfs_write node1 "$brmr_server/stores/p/delete_store" 1
	# The disk is not one beside its own partition.
	refused EBUSY node1 "$create" "device=/dev/vdb2 metadata=/dev/vdb pool=p member_id=1 mapped_size=$(sectors 64M) force=1" "in use"
}

#
# The pool.
#

cleanup unload_all
cleanup pool_down p
pool_metadata[1]=/dev/vdb
run_test "two legs, one with external metadata" pool_up p 2 "$size"
run_test "both devices are in sysfs, and held" test_sysfs
run_test "both layouts" test_layout
run_test "a write to a cold extent: metadata first, and stable" test_cold
run_test "writes to a hot extent: nothing on the metadata device" test_hot
run_test "IO" test_io
run_test "a flush goes to the device with the data" test_flush
run_test "the write cache is that of both devices" test_write_cache
run_test "the node with external metadata dies and returns" test_return 1
run_test "the other one dies and returns" test_return 2
run_test "reboot of everything" test_reboot
run_test "the metadata device fails, and is lost" test_failed
pool_down p

#
# Devices that do not fit together, once with nothing on them, once with stores.
#

unload_all
load_all 2
wipe_backing 1
sectors=$(sectors "$size")
new="pool=p member_id=1 mapped_size=$sectors"
node 1 'modprobe loop && truncate -s 12M /tmp/blank && truncate -s 8M /tmp/small && truncate -s 17M /tmp/data && truncate -s 12M /tmp/meta &&
	for f in blank small data meta; do losetup /dev/loop$((i++)) /tmp/$f || exit; done'
cleanup node 1 'losetup -D; rm -f /tmp/blank /tmp/small /tmp/data /tmp/meta /tmp/old*'
blank=/dev/loop0 small=/dev/loop1 data=/dev/loop2 meta=/dev/loop3
# shellcheck disable=SC2034 # for refused
refused_devices="$blank $small $data $meta" refused_vms=node1

run_test "all but a MiB of the device is data" test_whole_size
try "create: one device for both" EINVAL node1 "$create" "device=/dev/vda metadata=/dev/vda $new" "one device"
try "create: one device for both, by another name" EINVAL node1 "$create" \
	"device=/dev/vda metadata=/dev/../dev/vda $new" "one device"
try "create: no metadata device" ENOENT node1 "$create" "device=/dev/vda metadata=/dev/nowhere $new" "/dev/nowhere does not exist"
try "create: metadata on what is no block device" ENOTBLK node1 "$create" "device=/dev/vda metadata=/etc/hosts $new" "block device"
try "create: metadata= twice" EINVAL node1 "$create" "device=/dev/vda metadata=/dev/vdb metadata=/dev/vdb $new" "twice"
try "create: metadata device too small" ENOSPC node1 "$create" "device=/dev/vda metadata=$small $new" \
	"device $small: .* 12582912 are needed"
try "create: device too small" ENOSPC node1 "$create" "device=$data metadata=/dev/vdb $new" "device $data: .* 16777216 bytes"
node 1 'blockdev --setro /dev/vdb'
try "create: metadata device read-only" EROFS node1 "$create" "device=/dev/vda metadata=/dev/vdb $new" "/dev/vdb is read-only"
node 1 'blockdev --setrw /dev/vdb; mkfs.ext4 -q /dev/vdb'
try "create: metadata device not empty" EEXIST node1 "$create" "device=/dev/vda metadata=/dev/vdb $new" "/dev/vdb has .*force=1"
node 1 'mount -o ro /dev/vdb /mnt'
try "create: metadata device mounted" EBUSY node1 "$create" "device=/dev/vda metadata=/dev/vdb $new force=1" "/dev/vdb is in use"
node 1 'umount /mnt; wipefs -qa /dev/vdb'
run_test "two partitions of one disk" test_partitions

# Beside the store of pool p there is another one, of pool q.
sysfs_write node1 "$create" "device=$data metadata=$meta pool=q member_id=1 mapped_size=$(sectors 16M)"
store_remove q 1
try "create: metadata of another pool's store" EMEDIUMTYPE node1 "$create" "device=/dev/vda metadata=$meta $new force=1" \
	"$meta has the metadata of a store of pool q"
try "create: data of another pool's store" EMEDIUMTYPE node1 "$create" "device=/dev/vda metadata=$data $new force=1" \
	"$data has a store of pool q"
node_store p 1 "$size" member_id=1 force=1
try "create: both devices are in use" EBUSY node1 "$create" "device=$blank metadata=/dev/vdb pool=r member_id=1 mapped_size=8" "/dev/vdb is in use"
store_remove p 1
node 1 'dd if=/dev/vdb of=/tmp/old bs=1M count=12 iflag=direct status=none'
try "create: store of the same pool, not forced" EEXIST node1 "$create" "device=/dev/vda $new" "force=1"
try "create: metadata of the same pool, not forced" EEXIST node1 "$create" \
	"device=$blank metadata=/dev/vdb pool=p member_id=1 mapped_size=8" "metadata of a store of pool p.*force=1"
# The store is another one now.
node_store p 1 "$size" member_id=1 force=1
store_remove p 1
node 1 'dd if=/dev/vdb of=/tmp/old1 bs=1M count=12 iflag=direct status=none
	dd if=/dev/vda of=/tmp/old2 bs=1M count=1 iflag=direct status=none'
node_add p 1
store_remove p 1

try "add: metadata= missing" EINVAL node1 "$add" "device=/dev/vda pool=p" "on another device, of UUID .*metadata="
try "add: no such metadata device" ENOENT node1 "$add" "device=/dev/vda metadata=/dev/nowhere pool=p" "does not exist"
try "add: one device for both" EINVAL node1 "$add" "device=/dev/vda metadata=/dev/vda pool=p" "one device"
try "add: swapped" EMEDIUMTYPE node1 "$add" "device=/dev/vdb metadata=/dev/vda pool=p" "/dev/vdb has the metadata .* as metadata="
try "add: metadata device alone" EMEDIUMTYPE node1 "$add" "device=/dev/vdb pool=p" "/dev/vdb has the metadata .* as metadata="
try "add: metadata device twice" EMEDIUMTYPE node1 "$add" "device=/dev/vdb metadata=/dev/vdb pool=p" "as metadata="
try "add: data of another store for metadata" EMEDIUMTYPE node1 "$add" "device=/dev/vda metadata=$data pool=p" "$data has the data"
try "add: metadata of another store" EMEDIUMTYPE node1 "$add" "device=/dev/vda metadata=$meta pool=p" "another store, .* of pool q"
try "add: blank metadata device" EMEDIUMTYPE node1 "$add" "device=/dev/vda metadata=$blank pool=p" "has no metadata: .*blank"
node 1 'blockdev --setro /dev/vdb'
try "add: metadata device read-only" EROFS node1 "$add" "device=/dev/vda metadata=/dev/vdb pool=p" "/dev/vdb is read-only"
node 1 "blockdev --setrw /dev/vdb; dd if=/dev/vdb of=$small bs=1M count=8 iflag=direct conv=fsync status=none"
try "add: metadata device too small" ENOSPC node1 "$add" "device=/dev/vda metadata=$small pool=p" "$small: .* 12582912 are needed"
# shellcheck disable=SC2016 # for the shell of the VM
node 1 'dmsetup create meta --table "0 $(blockdev --getsz /dev/vdb) linear /dev/vdb 0"'
try "add: metadata device in use" EBUSY node1 "$add" "device=/dev/vda metadata=/dev/vdb pool=p" "/dev/vdb is in use"
node 1 'dmsetup remove --retry meta'
node 1 "dd if=/tmp/old of=$blank bs=1M conv=fsync status=none"
try "add: metadata of the store that was there before" EMEDIUMTYPE node1 "$add" "device=/dev/vda metadata=$blank pool=p" "another store"
node 1 "dd if=/tmp/old1 of=$blank bs=1M conv=fsync status=none"
try "add: old copy of the metadata device" ESTALE node1 "$add" "device=/dev/vda metadata=$blank pool=p" "is an old copy"
node 1 'dd if=/dev/vda of=/tmp/now bs=1M count=1 iflag=direct status=none; dd if=/tmp/old2 of=/dev/vda bs=1M oflag=direct status=none'
try "add: old copy of the device with the data" ESTALE node1 "$add" "device=/dev/vda metadata=/dev/vdb pool=p" "data is an old copy"
node 1 'dd if=/tmp/now of=/dev/vda bs=1M oflag=direct status=none'
run_test "one copy of the metadata device's superblock is lost" test_mended
run_test "the first superblock of the device with the data is lost" test_first_lost
# With the metadata inside.
pool_metadata[1]=
node_store p 1 "$size" member_id=1 force=1
store_remove p 1
try "add: metadata= for a store that has it inside" EINVAL node1 "$add" "device=/dev/vda metadata=/dev/vdb pool=p" "leave metadata= out"
run_test "and without it" node_add p 1
finish
