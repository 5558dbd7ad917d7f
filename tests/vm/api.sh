#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A pool is used without brmr: tests/modules/rmr_api.rs, through the public interface of rmr. The module checks what it
# reads by itself; here the nodes' disks are compared afterwards, and the pool is used by brmr as well.

export RMR_TESTS=1
. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

size=64M
ctl=/sys/class/rmr-api/ctl

# Everything but the device.
pool_without_device() {
	local k
	load_all 2
	for k in 1 2; do
		wipe_backing "$k"
		node_join p "$k"
		node_store p "$k" "$size"
	done
	client_join p
	for k in 1 2; do
		client_leg p "$k"
	done
}

api() {
	sysfs_log client timeout "$(patience 300)" bash -c "echo pool=p > $ctl/run"
}

# sysfs_log VM CMD...: and shows what the module says if it fails.
sysfs_log() {
	local status=0
	vm "$@" || status=$?
	if ((status != 0)); then
		vm "$1" "dmesg | grep -F rmr_api: | tail -n 40"
	fi
	return "$status"
}

test_api() {
	api
	equal "$(client "cat $ctl/result")" "9 ok, 0 failed" "result"
	compare_data_areas p "$size"
}

test_refused() {
	expect_fail ENOENT client "echo pool=absent > $ctl/run"
	expect_fail EINVAL client "echo pool= > $ctl/run"
	expect_fail EINVAL client "echo nothing > $ctl/run"
}

test_exclusive() {
	client_map p
	wait_for 20 client "[ -b '$(pool_device p)' ]"
	expect_fail EBUSY client "echo pool=p > $ctl/run"
	client "rmr-iotest model $(pool_device p) --seconds 3 --span 16M"
	device_unmap p
	api
	compare_data_areas p "$size"
}

test_unload() {
	# Not in use any more, though the pool is there.
	client rmmod rmr_api
	client modprobe rmr_api
	api
}

client modinfo -n rmr_api > /dev/null 2>&1 || skip_all "the modules were built without RMR_TESTS=1"
cleanup pool_down p
cleanup client 'rmmod rmr_api 2> /dev/null; :'
pool_without_device
client modprobe rmr_api

run_test "IO through the public interface" test_api
run_test "what is refused" test_refused
run_test "one user at a time" test_exclusive
run_test "the module comes and goes" test_unload
finish
