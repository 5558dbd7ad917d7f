#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the administrator changes while the device is used: members are added, kept out, taken out, taken back; the pool starts
# without some of them, is taken over by another host, and waits for all of them. In the end all disks are equal.

. "$(dirname "$0")/../lib.sh"
need_nodes 3
. "$(dirname "$0")/../pool.sh"

size=64M
# shellcheck disable=SC2034 # for pool_up
pool_io_timeout=4000
members=$rmr_client/pools/p/sessions

pool_is() {
	[[ $(pool_state p) == "$1" ]]
}

# new_member K: a node with an empty store.
new_member() {
	load_node "$1"
	wipe_backing "$1"
	node_join p "$1"
	node_store p "$1" "$size"
}

# add_leg K [OPTION...]
add_leg() {
	sysfs_write client "$rmr_client/pools/p/add_sess" "sessname=node$1 path=$(address "$1")${2:+ ${*:2}}"
}

# three_legs: a device with three legs in sync, whatever there was before.
three_legs() {
	pool_down p
	unload_all
	pool_up p 3 "$size"
	wait_legs p in_sync 1 2 3
}

# Of a pool of two, which gets a third one.
test_add() {
	pool_down p
	unload_all
	pool_up p 2 "$size"
	writes p 12
	sleep 2
	new_member 3
	add_leg 3 mode=create
	wait_legs p in_sync 1 2 3
	wait_writes
	equal "$(sysfs_read client "$rmr_client/pools/p/in_sync")" "1 2 3" "in sync"
	compare_data_areas p
}

test_maintenance() {
	three_legs
	writes p 12
	sleep 2
	sysfs_write client "$members/node2/maintenance" 1
	wait_legs p maintenance 2
	equal "$(sysfs_read client "$rmr_client/pools/p/in_sync")" "1 3" "in sync"
	equal "$(sysfs_read client "$members/node2/maintenance")" 1 "maintenance"
	sleep 3
	equal "$(leg_state p 2)" maintenance "state after a while"
	expect_fail EBUSY sysfs_write client "$members/node2/maintenance" 1
	sysfs_write client "$members/node2/maintenance" 0
	wait_legs p in_sync 1 2 3
	wait_writes
	compare_data_areas p
}

test_disassemble() {
	three_legs
	writes p 12
	sleep 2
	expect_fail EBUSY sysfs_write client "$members/node3/del_sess" 1
	sysfs_write client "$members/node3/del_sess" mode=disassemble
	client "[ ! -e $members/node3 ]"
	sleep 3
	add_leg 3 mode=assemble
	wait_legs p maintenance 3
	sysfs_write client "$members/node3/maintenance" 0
	wait_legs p in_sync 1 2 3
	wait_writes
	compare_data_areas p
}

# Out for good; then the node comes with a new store.
test_delete() {
	three_legs
	writes p 15
	sleep 2
	sysfs_write client "$members/node3/del_sess" mode=delete
	client "[ ! -e $members/node3 ]"
	equal "$(sysfs_read client "$rmr_client/pools/p/in_sync")" "1 2" "in sync"
	# The node hears of it by silence.
	wait_for 10 node 3 "echo 1 > $brmr_server/stores/p/delete_store"
	node_leave p 3
	new_member 3
	add_leg 3 mode=create
	wait_legs p in_sync 1 2 3
	wait_writes
	compare_data_areas p
}

# Nodes are told where the others are by the client, or by the administrator, who is right.
test_peers() {
	local peers=$rmr_server/pools/p/peers
	three_legs
	for k in 2 3; do
		wait_for 20 node 1 "grep -q client $peers/$k/told_by && grep -q connected $peers/$k/state"
	done
	equal "$(node 1 "cat $peers/2/paths")" "$(address 2)" "address that the client told"
	expect_fail EINVAL sysfs_write node1 "$rmr_server/pools/p/add_peer" "member_id=1 path=$(address 2)"
	sysfs_write node1 "$rmr_server/pools/p/add_peer" "member_id=2 path=$(address 2 6)"
	equal "$(node 1 "cat $peers/2/told_by; cat $peers/2/paths")" "administrator
$(address 2 6)" "address that the administrator told"
	expect_fail EEXIST sysfs_write node1 "$rmr_server/pools/p/add_peer" "member_id=2 path=$(address 2)"
	# It is told everything again, and keeps it.
	sysfs_write client "$members/node1/maintenance" 1
	wait_legs p maintenance 1
	client "rmr-iotest model $(pool_device p) --seconds 2 --span 16M"
	sysfs_write client "$members/node1/maintenance" 0
	wait_legs p in_sync 1
	equal "$(node 1 "cat $peers/2/told_by")" administrator "who told the address"
	sysfs_write node1 "$peers/2/del_peer" 1
	node 1 "[ ! -e $peers/2 ]"
	compare_data_areas p
}

# Something else has written to the disk of a node.
test_invalidate() {
	local offset
	three_legs
	client "rmr-iotest fill $(pool_device p) --seed 11"
	offset=$(data_offset p 2)
	node 2 "dd if=/dev/urandom of=$(backing 2) bs=1M count=8 oflag=direct conv=notrunc seek=$((offset >> 20)) status=none"
	sysfs_write client "$members/node2/invalidate" 1
	wait_legs p in_sync 1 2 3
	client "rmr-iotest verify $(pool_device p) --seed 11"
	compare_data_areas p
}

# Nothing is pulled while it is paused; new writes arrive, and it goes on on command.
test_paused() {
	local file=$rmr_server/pools/p/resync_paused left
	three_legs
	sysfs_write node2 "$file" 1
	client "rmr-iotest fill $(pool_device p) --seed 12"
	sysfs_write client "$members/node2/invalidate" 1
	wait_legs p catching_up 2
	sleep 2
	left=$(sysfs_read client "$members/node2/resync_left")
	((left > 0)) || fail "nothing is left"
	client "rmr-iotest model $(pool_device p) --seconds 3 --span 16M"
	equal "$(sysfs_read client "$members/node2/resync_left")" "$left" "chunks left"
	equal "$(leg_state p 2)" catching_up "its state"
	expect_fail EINVAL sysfs_write node2 "$file" later
	equal "$(sysfs_read node2 "$file")" 1 "$file"
	sysfs_write node2 "$file" 0
	wait_legs p in_sync 1 2 3
	compare_data_areas p
}

# The last one with all data stays.
test_last() {
	pool_down p
	unload_all
	pool_up p 1 "$size"
	expect_fail EBUSY sysfs_write client "$members/node1/del_sess" mode=delete
	expect_fail EBUSY sysfs_write client "$members/node1/maintenance" 1
	client "rmr-iotest model $(pool_device p) --seconds 2 --span 16M"
	equal "$(leg_state p 1)" in_sync "its state"
}

# Each change is told: by a uevent, and to who polls.
test_told() {
	three_legs
	client "udevadm monitor --kernel --property > /tmp/uevents 2>&1 & echo \$! > /tmp/monitor
		python3 -c '
import select
f = open(\"$members/node2/state\")
f.read()
poll = select.poll()
poll.register(f, select.POLLPRI | select.POLLERR)
print(len(poll.poll(60000)))' > /tmp/polled 2>&1 &"
	cleanup client 'kill $(cat /tmp/monitor); :'
	sleep 2
	sysfs_write client "$members/node2/maintenance" 1
	wait_legs p maintenance 2
	sysfs_write client "$members/node2/maintenance" 0
	wait_legs p in_sync 2
	wait_for 10 client 'grep -q RMR_STATE=maintenance /tmp/uevents && grep -q RMR_STATE=in_sync /tmp/uevents'
	client 'grep -q RMR_POOL=p /tmp/uevents && grep -q RMR_MEMBER=2 /tmp/uevents'
	if client "command -v python3" > /dev/null 2>&1; then
		equal "$(client 'cat /tmp/polled')" 1 "events polled"
	fi
}

# Without members with all data IO waits, or fails on demand.
test_suspended() {
	local dev
	pool_down p
	unload_all
	pool_up p 2 "$size"
	dev=$(pool_device p)
	for k in 1 2; do
		cluster link "node$k" 1 down
		cleanup cluster link "node$k" 1 up
	done
	client "rm -f /tmp/written; (dd if=/dev/urandom of=$dev bs=64k count=4 oflag=direct status=none
		echo \$? > /tmp/written) > /dev/null 2>&1 &"
	wait_for "$leg_seconds" pool_is suspended
	equal "$(device_state p)" suspended "state of the device"
	sleep 5
	client '[ ! -e /tmp/written ]' || fail "IO did not wait"
	for k in 1 2; do
		cluster link "node$k" 1 up
	done
	wait_for "$leg_seconds" pool_is mapped
	wait_for 30 client '[ "$(cat /tmp/written)" = 0 ]'
	wait_legs p in_sync 1 2
	compare_data_areas p

	# One that was in sync to the last is enough; the other one is taken back.
	for k in 1 2; do
		cluster link "node$k" 1 down
	done
	wait_for "$leg_seconds" pool_is suspended
	cluster link node2 1 up
	wait_for "$leg_seconds" pool_is mapped
	client "dd if=/dev/urandom of=$dev bs=64k count=4 oflag=direct status=none"
	cluster link node1 1 up
	wait_legs p in_sync 1 2
	compare_data_areas p

	sysfs_write client "$rmr_client/pools/p/on_no_data" error
	for k in 1 2; do
		cluster link "node$k" 1 down
	done
	client "! timeout 100 dd if=/dev/urandom of=$dev bs=64k count=4 oflag=direct status=none"
	for k in 1 2; do
		cluster link "node$k" 1 up
	done
	wait_for "$leg_seconds" pool_is mapped
	client "rmr-iotest model $dev --seconds 2 --span 16M"
	wait_legs p in_sync 1 2
	compare_data_areas p
}

# alone K OTHER: the pool, started with one leg and without the other.
alone() {
	client_join p
	client_leg p "$1"
	expect_fail ENXIO client_map p
	sysfs_write client "$rmr_client/pools/p/force" "lost=$2"
	client_map p
	wait_for 20 client "[ -b '$(pool_device p)' ]"
	client "rmr-iotest fill $(pool_device p) --seed $1"
	device_unmap p
	client_leave p
}

# Each of two members was started without the other, and written to: they do not come together before one is given up.
test_force() {
	pool_down p
	unload_all
	pool_up p 2 "$size"
	client "rmr-iotest fill $(pool_device p) --seed 7"
	device_unmap p
	client_leave p
	alone 1 2
	alone 2 1
	client_join p
	client_leg p 2
	client_map p
	wait_for 20 client "[ -b '$(pool_device p)' ]"
	client_leg p 1
	sleep 5
	equal "$(leg_state p 1)" absent "the leg that has gone another way"
	equal "$(sysfs_read client "$rmr_client/pools/p/in_sync")" 2 "in sync"
	sysfs_write client "$members/node1/discard" 1
	wait_legs p in_sync 1 2
	client "rmr-iotest verify $(pool_device p) --seed 2"
	compare_data_areas p
}

# What was forced for one attempt is not for the next one: other members are missing then.
test_force_is_forgotten() {
	pool_down p
	unload_all
	pool_up p 3 "$size"
	device_unmap p
	client_leave p
	client_join p
	client_leg p 1
	sysfs_write client "$rmr_client/pools/p/force" "lost=2"
	expect_fail ENXIO client_map p
	client_leg p 3
	expect_fail ENXIO client_map p
	client_leg p 2
	client_map p
	wait_legs p in_sync 1 2 3
}

# What is forced while members are waited for is not lost when the pool is mapped at that moment.
test_force_is_taken_over() {
	pool_down p
	unload_all
	pool_up p 2 "$size"
	device_unmap p
	client_leave p
	client_join p
	client_leg p 1
	client "echo 1 > $rmr_client/pools/p/enable 2> /dev/null &
		sleep 1
		echo lost=2 > $rmr_client/pools/p/force && echo pool=p > $brmr_client/ctl/map_device"
	wait_for 20 client "[ -b '$(pool_device p)' ]"
	client "rmr-iotest fill $(pool_device p) --seed 3"
	client_leg p 2
	sysfs_write client "$members/node2/discard" 1
	wait_legs p in_sync 1 2
	compare_data_areas p
}

# Who adds a member is killed while that goes on, as the disk of another one hangs: the member is still there to be seen.
test_add_killed() {
	pool_down p
	unload_all
	node 2 'dmsetup create slow --table "0 $(blockdev --getsz /dev/vda) linear /dev/vda 0"'
	cleanup node 2 'dmsetup resume slow; dmsetup remove --retry slow'
	cleanup pool_down p
	# shellcheck disable=SC2034 # for store_devices
	pool_backing[2]=/dev/mapper/slow
	pool_up p 2 "$size"
	new_member 3
	node 2 'dmsetup suspend --noflush --nolockfs slow'
	client "echo sessname=node3 path=$(address 3) mode=create > $rmr_client/pools/p/add_sess &
		for i in \$(seq 200); do [ -d $members/node3 ] && break; sleep 0.1; done
		kill -9 \$!; wait \$!; [ \$? = 137 ]" || fail "add_sess was not killed"
	node 2 'dmsetup resume slow'
	client "[ -d $members/node3 ]" || fail "the member that is being added has no directory"
	wait_legs p in_sync 1 2 3
	client "rmr-iotest fill $(pool_device p) --seed 6"
	compare_data_areas p
}

# A store is added while its pool is left: it is in a pool, or not there.
test_added_while_left() {
	local stores=$brmr_server/stores pools=$rmr_server/pools
	pool_down p
	unload_all
	new_member 1
	node 1 "for i in \$(seq 20); do
		echo 1 > $stores/p/remove_store
		while [ ! -d $stores/p ]; do echo 1 > $pools/p/leave_pool; done 2> /dev/null &
		until echo '$(store_devices 1) pool=p' > $brmr_server/ctl/add_store; do sleep 0.1; done 2> /dev/null
		wait
		[ -d $pools/p ] || exit 1
	done" || fail "the store of a pool that was left"
	pool_down p
}

# other FILE TEXT: on the host that is to be the other client.
other() {
	sysfs_write node3 "$@"
}

# Another host takes the pool while its client is alive.
test_takeover() {
	pool_down p
	unload_all
	pool_up p 2 "$size"
	client "rmr-iotest fill $(pool_device p) --seed 5"
	node 3 modprobe brmr-client
	cleanup node 3 "echo 1 > $brmr_client/devices/brmr0/unmap_device; echo 1 > $rmr_client/pools/p/leave_pool; :"
	other "$rmr_client/ctl/join_pool" poolname=p
	for k in 1 2; do
		other "$rmr_client/pools/p/add_sess" "sessname=node$k path=$(address "$k")"
	done
	expect_fail EBUSY other "$brmr_client/ctl/map_device" pool=p
	client "rmr-iotest verify $(pool_device p) --seed 5"
	equal "$(device_state p)" ready "state of the first client's device"
	other "$rmr_client/pools/p/takeover" 1
	other "$brmr_client/ctl/map_device" pool=p
	wait_for 20 node 3 "[ -b /dev/brmr0 ]"
	node 3 "rmr-iotest verify /dev/brmr0 --seed 5"
	client "! dd if=/dev/urandom of=$(pool_device p) bs=4k count=1 oflag=direct status=none"
	wait_for "$leg_seconds" pool_is fenced
	equal "$(device_state p)" fenced "state of the first client's device"
	node 3 "rmr-iotest model /dev/brmr0 --seconds 3 --span 16M"
	device_unmap p
	node 3 "udevadm settle"
	other "$brmr_client/devices/brmr0/unmap_device" 1
	other "$rmr_client/pools/p/leave_pool" 1
	compare_data_areas p "$size"
}

cleanup unload_all
cleanup pool_down p
run_test "a leg is added under writes" test_add
run_test "a leg is kept out, and let in again" test_maintenance
run_test "a leg is taken out for a while" test_disassemble
run_test "a leg is taken out for good, and its node comes back new" test_delete
run_test "nodes know where the others are" test_peers
run_test "a disk is written anew" test_invalidate
run_test "resync is paused" test_paused
run_test "the last leg with all data stays" test_last
run_test "changes are told" test_told
run_test "IO waits for members with all data, or fails" test_suspended
run_test "two histories, one is given up" test_force
run_test "a start that is forced, and fails" test_force_is_forgotten
run_test "a start that is forced while it is waited for" test_force_is_taken_over
run_test "add_sess is killed" test_add_killed
run_test "a store is added while its pool is left" test_added_while_left
run_test "another host takes over" test_takeover
finish
