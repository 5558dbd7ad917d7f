#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Bad input of every kind: each has its errno and exactly one line in the kernel log that says what is wrong, and nothing
# has changed afterwards, neither in sysfs nor on the disks.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"
. "$(dirname "$0")/../refused.sh"

size=64M
sectors=$(sectors "$size")
long=$(printf 'x%.0s' {1..64})

client_ctl=$rmr_client/ctl/join_pool
node_ctl=$rmr_server/ctl/join_pool
create=$brmr_server/ctl/create_store
add=$brmr_server/ctl/add_store
map=$brmr_client/ctl/map_device
dev=/dev/vda

cleanup unload_all
cleanup pool_down p
load_all 2
for k in 1 2; do
	wipe_backing "$k"
done

# Words of a command line.
try "no option at all" EINVAL client "$client_ctl" "" poolname
try "not a pair" EINVAL client "$client_ctl" "poolname" "poolname"
try "unknown option" EINVAL client "$client_ctl" "poolname=p colour=red" colour
try "repeated option" EINVAL client "$client_ctl" "poolname=p poolname=q" poolname
try "missing option" EINVAL client "$client_ctl" "chunk_size=65536" poolname
try "empty value" EINVAL client "$client_ctl" "poolname=" poolname
try "name too long" EINVAL client "$client_ctl" "poolname=$long" poolname
try "name with a slash" EINVAL client "$client_ctl" "poolname=a/b" poolname
try "name of dots" EINVAL client "$client_ctl" "poolname=.." poolname
try "name with an unprintable byte" EINVAL client "$client_ctl" $'poolname=a\ab' poolname
try "malformed number" EINVAL client "$client_ctl" "poolname=p chunk_size=12monkeys" chunk_size
try "number out of range" ERANGE client "$client_ctl" "poolname=p chunk_size=99999999999" chunk_size
try "node: member id 0" ERANGE node1 "$node_ctl" "poolname=p member_id=0" member_id
try "node: member id 33" ERANGE node1 "$node_ctl" "poolname=p member_id=33" member_id
try "node: member id missing" EINVAL node1 "$node_ctl" "poolname=p" member_id

# Stores, before there is one.
try "store: pool not joined, no member id" EINVAL node1 "$create" "device=$dev pool=p mapped_size=$sectors" member_id
node_join p 1
node_join p 2
try "node: joined twice" EEXIST node1 "$node_ctl" "poolname=p member_id=1" "already"
try "store: device missing" EINVAL node1 "$create" "pool=p mapped_size=$sectors" device
try "store: size missing" EINVAL node1 "$create" "device=$dev pool=p" mapped_size
try "store: chunk size not a power of two" EINVAL node1 "$create" \
	"device=$dev pool=p mapped_size=$sectors chunk_size=100000" "power of two"
try "store: size not a multiple of the chunk" EINVAL node1 "$create" "device=$dev pool=p mapped_size=$((sectors + 1))" "multiple"
try "store: size 0" ERANGE node1 "$create" "device=$dev pool=p mapped_size=0" mapped_size
try "store: size beyond 64 bits of bytes" ERANGE node1 "$create" \
	"device=$dev pool=p mapped_size=18446744073709551615" mapped_size
try "store: number that does not fit 64 bits" any node1 "$create" \
	"device=$dev pool=p mapped_size=99999999999999999999" mapped_size
try "store: device too small" ENOSPC node1 "$create" "device=$dev pool=p mapped_size=$((1 << 22))" "$dev"
try "store: device absent" ENOENT node1 "$create" "device=/dev/nowhere pool=p mapped_size=$sectors" "/dev/nowhere"
try "store: not a block device" ENOTBLK node1 "$create" "device=/etc/hosts pool=p mapped_size=$sectors" "block device"
try "store: another member id than joined" ESTALE node1 "$create" \
	"device=$dev pool=p mapped_size=$sectors member_id=7" "member"
try "store: init that is none" EINVAL node1 "$create" "device=$dev pool=p mapped_size=$sectors init=magic" init
node 1 "mkfs.ext4 -q $dev && mount -o ro $dev /mnt"
try "store: device mounted" EBUSY node1 "$create" "device=$dev pool=p mapped_size=$sectors" "in use"
try "store: device mounted, forced" EBUSY node1 "$create" "device=$dev pool=p mapped_size=$sectors force=1" "in use"
node 1 "umount /mnt"
try "store: device with a file system" EEXIST node1 "$create" "device=$dev pool=p mapped_size=$sectors" "force=1"
node 1 "wipefs -qa $dev; sfdisk -q $dev <<< 'label: gpt
start=2048, size=2048'"
try "store: device with a partition table" EEXIST node1 "$create" "device=$dev pool=p mapped_size=$sectors" "force=1"
wipe_backing 1
node 1 'blockdev --setro /dev/vdb'
try "store: read-only device" EROFS node1 "$create" "device=/dev/vdb pool=p mapped_size=$sectors" "read-only"
node 1 'blockdev --setrw /dev/vdb'
try "add_store: no store there" EMEDIUMTYPE node1 "$add" "device=$dev pool=p" "create_store"

# With a store.
node_store p 1 "$size"
try "store: a second one of the pool" EEXIST node1 "$create" "device=/dev/vdb pool=p mapped_size=$sectors" "already"
try "store: its device is in use" any node1 "$create" "device=$dev pool=q mapped_size=$sectors member_id=1" "$dev"
try "node: leave with a store" EBUSY node1 "$rmr_server/pools/p/leave_pool" 1 "store"
try "node: leave without the 1" EINVAL node1 "$rmr_server/pools/p/leave_pool" please "write 1"
store_remove p 1
node_leave p 1
node_join q 1
try "store: foreign pool's store" EMEDIUMTYPE node1 "$create" "device=$dev pool=q mapped_size=$sectors" "pool p"
try "store: foreign pool's store, forced" EMEDIUMTYPE node1 "$create" "device=$dev pool=q mapped_size=$sectors force=1" "pool p"
try "add_store: of another pool" ESTALE node1 "$add" "device=$dev pool=q" "pool"
node_leave q 1
node_join p 1
try "add_store: another size" EINVAL node1 "$add" "device=$dev pool=p mapped_size=8" "mapped_size"
sysfs_write node1 "$add" "device=$dev pool=p"

# Sessions and devices.
try "map: pool not joined" ENOENT client "$map" "pool=p" "join"
client_join p
add_sess=$rmr_client/pools/p/add_sess
try "client: joined twice" EEXIST client "$client_ctl" "poolname=p" "already"
try "map: no legs" EINVAL client "$map" "pool=p" "add_sess"
try "session: name missing" EINVAL client "$add_sess" "path=ip:10.77.1.1" sessname
try "session: name with a dot" EINVAL client "$add_sess" "sessname=a.b path=ip:10.77.1.1" sessname
try "session: name with a slash" EINVAL client "$add_sess" "sessname=a/b path=ip:10.77.1.1" sessname
try "session: path missing" ENOENT client "$add_sess" "sessname=node1" path
try "session: no address" EINVAL client "$add_sess" "sessname=node1 path=somewhere" path
try "session: malformed address" EINVAL client "$add_sess" "sessname=node1 path=ip:300.1.1.1" path
try "session: unknown mode" EINVAL client "$add_sess" "sessname=node1 path=ip:10.77.1.1 mode=magic" mode
try "session: node unreachable" any client "$add_sess" "sessname=node9 path=ip:10.77.1.9" "node9"
try "session: node without a store" any client "$add_sess" "sessname=node2 path=ip:10.77.1.2" "node2|member"
try "read policy that is none" EINVAL client "$rmr_client/pools/p/read_policy" random policy
try "IO timeout out of range" any client "$rmr_client/pools/p/io_timeout" 1ms io_timeout
client_leg p 1
try "session: the same leg twice" any client "$add_sess" "sessname=node1 path=ip:10.77.1.1" "node1|member"

# Members that do not fit together.
sysfs_write node2 "$create" "device=$dev pool=p mapped_size=$((sectors * 2))"
try "members of different size" EMEDIUMTYPE client "$add_sess" "sessname=node2 path=ip:10.77.1.2" "differ"
sysfs_write node2 "$brmr_server/stores/p/delete_store" 1
sysfs_write node2 "$create" "device=$dev pool=p mapped_size=$sectors chunk_size=131072"
try "members with different chunks" EMEDIUMTYPE client "$add_sess" "sessname=node2 path=ip:10.77.1.2" "differ"
sysfs_write node2 "$brmr_server/stores/p/delete_store" 1
node_leave p 2
sysfs_write node2 "$node_ctl" "poolname=p member_id=1"
sysfs_write node2 "$create" "device=$dev pool=p mapped_size=$sectors"
try "duplicate member id" EEXIST client "$add_sess" "sessname=node2 path=ip:10.77.1.2" "member id 1"
sysfs_write node2 "$brmr_server/stores/p/delete_store" 1
node_leave p 2
node_join p 2
# A store that has belonged to another pool of the same name.
pool_alone() {
	client_leave p
	store_remove p 1
	node_store p 2 "$size"
	client_join p
	client_leg p 2
	client_map p
	pool_down p
	node_join p 1
	node_join p 2
	sysfs_write node1 "$add" "device=$dev pool=p"
	client_join p
	client_leg p 1
	client_map p
	device_unmap p
	sysfs_write node2 "$add" "device=$dev pool=p"
}
pool_alone
try "members of different pools of one name" EMEDIUMTYPE client "$add_sess" "sessname=node2 path=ip:10.77.1.2" "different pools"
pool_down p

# A device that is mapped.
pool_up p 2 "$size"
try "map: mapped already" EBUSY client "$map" "pool=p" "already"
try "map: another size" any client "$map" "pool=p size=8" "size|already"
try "client: leave while mapped" EBUSY client "$rmr_client/pools/p/leave_pool" 1 "unmap"
try "node: remove the store of a mapped pool" EBUSY node1 "$brmr_server/stores/p/remove_store" 1 "unmap"
try "node: delete the store of a mapped pool" EBUSY node1 "$brmr_server/stores/p/delete_store" 1 "unmap"
device_unmap p
try "map: another size, not mapped" EINVAL client "$map" "pool=p size=8" "size"

# A member that belongs to the pool is missing.
pool_without_node2() {
	pool_down p
	node_join p 1
	sysfs_write node1 "$add" "device=$dev pool=p"
	client_join p
	client_leg p 1
}
pool_without_node2
try "map: a member is missing" ENXIO client "$map" "pool=p" "missing"
pool_down p

# The host has no RDMA device.
test_no_rdma() {
	cleanup client 'rdma link add rxe0 type rxe netdev eth1'
	client 'rdma link delete rxe0'
	client_join p
	cleanup client_leave p
	refused any client "$add_sess" "sessname=node1 path=ip:10.77.1.1" "node1"
}
run_test "session: no RDMA device" test_no_rdma

# RTRS is not there: the module does not load, and nothing is left.
test_no_rtrs() {
	unload_all
	expect_fail any client insmod /payload/modules/rmr.ko
	expect_fail any client test -d /sys/module/rmr
}
run_test "RTRS modules missing" test_no_rtrs
finish
