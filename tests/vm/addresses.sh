#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Addresses of every kind: IPv6, gid, one family beside the other, with a source address, and two paths per session.

. "$(dirname "$0")/../lib.sh"
need_nodes 2 --paths 2
. "$(dirname "$0")/../pool.sh"

# up_over PATHS1 PATHS2: a pool whose legs are reached over the given path options.
up_over() {
	local k
	cleanup unload_all
	cleanup pool_down p
	load_all 2
	for k in 1 2; do
		wipe_backing "$k"
		node_join p "$k"
		node_store p "$k" 64M
	done
	client_join p
	sysfs_write client "$rmr_client/pools/p/add_sess" "sessname=node1 $1"
	sysfs_write client "$rmr_client/pools/p/add_sess" "sessname=node2 $2"
	client_map p
	client "rmr-iotest model $(pool_device p) --seconds 4 --span 16M --max-io 256K"
	compare_data_areas p
}

# paths K: how many RTRS paths the session to a node has.
paths() {
	client "ls -d /sys/class/rtrs-client/node$1-*/paths/* | wc -l"
}

test_ipv6() {
	up_over "path=ip:fd77:1::1" "path=ip:fd77:1::2"
	client 'cat /sys/class/rtrs-client/node1-*/paths/*/dst_addr' | grep -q fd77:1::1 || fail "not over IPv6"
}

test_mixed_families() {
	up_over "path=ip:fd77:1::1" "path=ip:10.77.1.2"
}

test_source_address() {
	up_over "path=ip:10.77.1.100,ip:10.77.1.1" "path=ip:fd77:1::100,ip:fd77:1::2"
}

# RXE cannot be addressed so, only InfiniBand can: the address is understood, and no device is found for it.
test_gid() {
	cleanup unload_all
	cleanup pool_down p
	load_client
	client_join p
	expect_fail ENODEV sysfs_write client "$rmr_client/pools/p/add_sess" \
		"sessname=node1 path=gid:fe80:0000:0000:0000:0000:0000:0000:0001"
}

test_two_paths() {
	client '[ -e /sys/class/net/eth2 ]' || skip "one storage network only (cluster --paths 2)"
	up_over "path=ip:10.77.1.100,ip:10.77.1.1 path=ip:10.77.2.100,ip:10.77.2.1" "path=ip:10.77.1.2"
	equal "$(paths 1)" 2 "paths to node1"
	equal "$(paths 2)" 1 "paths to node2"
}

run_test "IPv6" test_ipv6
run_test "IPv6 and IPv4" test_mixed_families
run_test "source addresses" test_source_address
run_test "gid" test_gid
run_test "two paths to a node" test_two_paths
finish
