#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# rmmod in every state: success whenever nothing holds the device open, a refusal otherwise, never a hang, and afterwards
# everything works again.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

size=64M

# try_rmmod VM MODULE: prints "gone" or "busy"; anything else, or no answer in time, is a failure.
try_rmmod() {
	local out status=0
	out=$(within "$admin_seconds" "$1" "rmmod $2" 2>&1) || status=$?
	if ((status == 0)); then
		vm "$1" "[ ! -d /sys/module/$2 ]" || fail "$2 is still there on $1"
		echo gone
	elif [[ $out == *"in use"* || $out == *busy* || $out == *"temporarily unavailable"* ]]; then
		echo busy
	else
		fail "rmmod $2 on $1: $out"
	fi
}

# Removes both modules of a VM, which must succeed.
expect_gone() {
	equal "$(try_rmmod "$1" brmr)" gone "brmr on $1"
	equal "$(try_rmmod "$1" rmr)" gone "rmr on $1"
}

# io_begins DEVICE: waits until something that was started in the background has requests in flight there.
io_begins() {
	within 60 client "until (( \$(awk '{ print \$9 }' /sys/class/block/${1##*/}/stat) > 0 )); do sleep 0.1; done"
}

# However the last test left things: all clean, and a device can be had again.
expect_recovery() {
	pool_down p
	unload_all
	pool_up p 2 "$size"
	client "rmr-iotest model $(pool_device p) --seconds 2 --span 16M --max-io 256K"
	pool_down p
	unload_all
}

test_nothing_set_up() {
	load_all 2
	equal "$(try_rmmod client rmr)" busy "rmr below brmr"
	expect_gone client
	expect_gone node1
}

test_client_joined() {
	load_client
	client_join p
	expect_gone client
}

test_client_with_legs() {
	load_all 1
	wipe_backing 1
	node_join p 1
	node_store p 1 "$size"
	client_join p
	client_leg p 1
	expect_gone client
	expect_recovery
}

test_client_mapped() {
	pool_up p 2 "$size"
	equal "$(try_rmmod client rmr)" busy "rmr below brmr"
	expect_gone client
	expect_recovery
}

test_client_held_open() {
	local what dev
	pool_up p 2 "$size"
	dev=$(pool_device p)
	cleanup client 'umount /mnt 2> /dev/null; pkill fio; pkill sleep; :'
	client "sleep 1000 < $dev > /dev/null 2>&1 &"
	equal "$(try_rmmod client brmr)" busy "held open"
	client 'pkill sleep; sleep 0.3'
	client "mkfs.ext4 -q $dev && mount $dev /mnt"
	equal "$(try_rmmod client brmr)" busy "mounted"
	client "umount /mnt"
	client "fio --name=x --filename=$dev --rw=randwrite --bs=4k --iodepth=16 --ioengine=libaio --direct=1 \
		--time_based --runtime=300 > /dev/null 2>&1 &"
	io_begins "$dev"
	for what in 1 2 3; do
		equal "$(try_rmmod client brmr)" busy "under IO, attempt $what"
	done
	client 'pkill fio; while pgrep fio > /dev/null; do sleep 0.1; done'
	expect_gone client
	expect_recovery
}

# Commands run while the module goes: they fail or succeed, and the module goes or stays.
test_client_while_commands_run() {
	local i
	pool_up p 2 "$size"
	device_unmap p
	for i in 1 2 3 4 5; do
		client "rm -f /run/commands-done; (for n in 1 2 3; do
			echo pool=p > $brmr_client/ctl/map_device
			for d in $brmr_client/devices/brmr*; do echo 1 > \$d/unmap_device; done
			done; touch /run/commands-done) > /dev/null 2>&1 & sleep 0.$i"
		try_rmmod client brmr
		within 60 client 'until [ -e /run/commands-done ]; do sleep 0.1; done'
		client modprobe brmr-client
		[[ -z $(pool_device p) ]] || device_unmap p
	done
	expect_recovery
}

# sessions and pools: names that sysfs has itself.
test_names_of_sysfs() {
	load_all 2
	wipe_backing 1
	node_join p 1
	node_store p 1 "$size"
	expect_fail any sysfs_write node2 "$rmr_server/ctl/join_pool" "poolname=uevent member_id=2"
	node_join p 2
	expect_fail any sysfs_write node2 "$rmr_server/pools/p/add_peer" "member_id=1 path=ip:10.77.1.1 sessname=uevent"
	client_join p
	expect_fail any sysfs_write client "$rmr_client/pools/p/add_sess" "path=ip:10.77.1.1 sessname=uevent"
	# Nothing of it is left that would still run.
	expect_gone node2
	expect_gone client
	sleep 10
	expect_gone node1
	expect_recovery
}

# A command attaches, and waits for a node, while another one maps the device, and the pool is left.
test_opened_by_two() {
	local i
	pool_up p 2 "$size"
	device_unmap p
	sysfs_write client "$rmr_client/pools/p/leave_pool" 1
	pool_down p
	node_add p 1
	client_join p
	client_leg p 1
	for i in 1 2; do
		client "(for n in 1 2 3; do echo 1 > $rmr_client/pools/p/enable; done) > /dev/null 2>&1 &
			(for n in 1 2 3; do echo pool=p > $brmr_client/ctl/map_device; done) > /dev/null 2>&1 &
			sleep 0.$i; for n in 1 2 3; do echo 1 > $rmr_client/pools/p/leave_pool; sleep 0.2; done 2> /dev/null; wait"
		[[ -z $(pool_device p) ]] || device_unmap p
		client "[ ! -d $rmr_client/pools/p ] || echo 1 > $rmr_client/pools/p/leave_pool"
		client_join p
		client_leg p 1
	done
	expect_gone client
	sleep 5
	expect_recovery
}

test_node_joined() {
	load_node 1
	node_join p 1
	expect_gone node1
}

test_node_with_store() {
	load_node 1
	wipe_backing 1
	node_join p 1
	node_store p 1 "$size"
	expect_gone node1
	# The disk is free again.
	node 1 "blkdiscard --quiet --zeroout --length 1M $(backing 1)"
}

# A node goes while its client is attached, idle and under IO. It may be refused; whoever is left behind must not hang.
test_node_with_client() {
	local io dev
	for io in '' yes; do
		pool_up p 2 "$size"
		if [[ $io ]]; then
			dev=$(pool_device p)
			client "fio --name=x --filename=$dev --rw=randrw --bs=4k --iodepth=8 --ioengine=libaio \
				--direct=1 --time_based --runtime=10 > /dev/null 2>&1 &"
			io_begins "$dev"
		fi
		try_rmmod node1 brmr
		try_rmmod node1 rmr
		within 120 client 'while pgrep fio > /dev/null; do sleep 0.2; done'
		expect_recovery
	done
}

# All of the cluster's modules at once, nodes first.
test_all_at_once() {
	local name
	pool_up p 2 "$size"
	for name in node1 node2 client; do
		try_rmmod "$name" brmr > "/tmp/rmmod.$$.$name" &
	done
	wait
	rm -f "/tmp/rmmod.$$".*
	expect_recovery
}

# from_nothing TEST: whatever the test before has left is taken down first.
from_nothing() {
	pool_down p
	unload_all
	"$1"
}

cleanup unload_all
cleanup pool_down p
run_test "nothing set up" from_nothing test_nothing_set_up
run_test "client: joined" from_nothing test_client_joined
run_test "client: legs added" from_nothing test_client_with_legs
run_test "client: device mapped" from_nothing test_client_mapped
run_test "client: device held open, mounted, under IO" from_nothing test_client_held_open
run_test "client: while commands run" from_nothing test_client_while_commands_run
run_test "client: opened by two" from_nothing test_opened_by_two
run_test "names of sysfs" from_nothing test_names_of_sysfs
run_test "node: joined" from_nothing test_node_joined
run_test "node: with a store" from_nothing test_node_with_store
run_test "node: with a client attached" from_nothing test_node_with_client
run_test "all machines at once" from_nothing test_all_at_once
finish
