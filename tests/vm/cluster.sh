#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The ground that all other tests stand on: network, RXE, RTRS between VMs (shown
# with the kernel's own RNBD), the disks, and losing a VM. No RMR in here.

. "$(dirname "$0")/../lib.sh"
need_nodes 2

test_network()
{
	local vm
	for vm in $(vms); do
		client ping -q -c 1 -W 5 "$vm"
		client ping -q -c 1 -W 5 -s 8000 "$vm"
	done
	client ping -q -c 1 -W 5 10.77.1.1
}

test_rxe()
{
	local vm
	for vm in $(vms); do
		[[ $(vm "$vm" rdma link) == *"rxe0/1 state ACTIVE"* ]] || fail "$vm"
	done
}

test_commands()
{
	local status=0
	equal "$(echo hello | client wc -c)" 6 stdin
	client 'exit 7' || status=$?
	equal "$status" 7 status
	equal "$(client printf '[%s]' 'a b' '$c')" '[a b][$c]' arguments
	expect_fail ENOENT client cat /nowhere
}

test_disks()
{
	equal "$(node 1 blockdev --getsize64 /dev/disk/by-id/virtio-data0)" $((1 << 30))
	node 1 'echo backing | dd of=/dev/disk/by-id/virtio-data1 bs=4k conv=sync,fsync 2>&1'
	equal "$(head -c 7 "$(cluster disk node1 data1)")" backing
}

test_rnbd()
{
	local device=/dev/rnbd0
	node 1 modprobe rnbd-server
	cleanup node 1 modprobe -r rnbd-server
	client modprobe rnbd-client
	cleanup client modprobe -r rnbd-client
	client 'echo "sessname=s1 path=ip:10.77.1.1 device_path=/dev/vda" > /sys/class/rnbd-client/ctl/map_device'
	cleanup client 'echo normal > /sys/block/rnbd0/rnbd/unmap_device'
	wait_for 20 client test -b "$device"
	client "dd if=/dev/urandom of=/tmp/data bs=1M count=4 && dd if=/tmp/data of=$device bs=64k oflag=direct"
	equal "$(node 1 'dd if=/dev/vda bs=1M count=4 iflag=direct | sha256sum')" "$(client 'sha256sum < /tmp/data')"
}

test_kill()
{
	cluster kill node2
	expect_fail any timeout 5 client ping -q -c 1 -W 1 node2
	cluster start node2
	client ping -q -c 1 -W 5 node2
}

test_link()
{
	cluster link node2 1 down
	cleanup cluster link node2 1 up
	expect_fail any client ping -q -c 1 -W 1 node2
	cluster link node2 1 up
	client ping -q -c 1 -W 5 node2
}

test_pause()
{
	cluster pause node2
	cleanup cluster resume node2
	expect_fail any client ping -q -c 1 -W 1 node2
	cluster resume node2
	client ping -q -c 1 -W 5 node2
}

run_test "all VMs reach each other" test_network
run_test "RXE links are up" test_rxe
run_test "commands pass through" test_commands
run_test "disks" test_disks
run_test "RTRS: RNBD maps a disk of node1" test_rnbd
run_test "a storage link is cut and restored" test_link
run_test "a VM is paused" test_pause
run_test "a VM is killed and started" test_kill
finish
