#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A pool with a secret: client and nodes that know it work together as without one, also after failures; whoever does not
# know it gets nothing, neither as a client nor as a node. tests/modules/rmr_stranger.rs tries what can be sent.

export RMR_TESTS=1
. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

size=64M
# shellcheck disable=SC2034 # for pool_up
pool_io_timeout=4000
# Description of the key that all know; rmr:wrong is one of that length.
pool_secret=rmr:p
right=$(head -c 24 /dev/urandom | sha256sum | cut -c 1-40)
wrong=$(head -c 24 /dev/urandom | sha256sum | cut -c 1-40)
pool_dir=$rmr_client/pools/p

# give VM DESCRIPTION SECRET
give() {
	vm "$1" "printf %s $3 | keyctl padd logon $2 @u > /dev/null"
}

# Both keys to these VMs.
give_keys() {
	local name
	for name; do
		give "$name" "$pool_secret" "$right"
		give "$name" rmr:wrong "$wrong"
	done
}

# leg_file K FILE, peer_file K PEER FILE
leg_file() {
	sysfs_read client "$pool_dir/sessions/node$1/$2"
}

peer_file() {
	sysfs_read "node$1" "$rmr_server/pools/p/peers/$2/$3"
}

# is WANTED CMD...
is() {
	[[ $("${@:2}") == "$1" ]]
}

# trusts K PEER: whether a node is connected to another one, and both have proved to know the secret.
trusts() {
	[[ $(peer_file "$1" "$2" state) == connected && $(peer_file "$1" "$2" auth) == authenticated ]]
}

# A node hears last of all that the connection to one that died is lost: only then it makes another one.
wait_in_sync() {
	wait_for 120 all_in_sync p 2
	for k in 1 2; do
		wait_for 20 is in_sync leg_file "$k" state
		equal "$(leg_file "$k" auth)" authenticated "auth of node$k"
		wait_for 60 trusts "$k" $((3 - k))
	done
}

add_store() {
	sysfs_write "node$1" "$brmr_server/ctl/add_store" "device=$(backing "$1") pool=p${2:+ $2}"
}

take_store() {
	sysfs_write "node$1" "$brmr_server/stores/p/remove_store" force
}

works() {
	client "rmr-iotest model $(pool_device p) --seconds ${1:-3} --span 32M"
	equal "$(device_state p)" ready "state of the device"
}

test_up() {
	pool_up p 2 "$size"
	wait_in_sync
	equal "$(sysfs_read client "$pool_dir/secret")" "$pool_secret" "secret of the client"
	for k in 1 2; do
		equal "$(sysfs_read "node$k" "$brmr_server/stores/p/secret")" "$pool_secret" "secret of node$k"
	done
	works
	compare_data_areas p
}

test_not_shown() {
	local name found
	for name in client node1 node2; do
		found=$(within 60 "$name" "cd /sys/devices/virtual && { find ./*rmr-* -type f -perm /444 -exec cat {} + ; dmesg; } 2> /dev/null |
			grep -cE '$right|$wrong|$(printf %s "$right" | od -An -tx1 | tr -d ' \n')' || :")
		equal "$found" 0 "lines of $name with the secret"
	done
	# And from the disks, where nothing of it is either.
	for k in 1 2; do
		equal "$(node "$k" "dd if=$(backing "$k") bs=1M count=13 iflag=direct status=none | grep -cF $right || :")" 0 "in the metadata of node$k"
	done
}

test_stranger() {
	local uuid mark
	uuid=$(sysfs_read client "$pool_dir/uuid")
	node 2 modprobe rmr_stranger
	cleanup node 2 'rmmod rmr_stranger'
	mark=$(dmesg_mark node1)
	node 2 "echo path=$(address 1) pool=p uuid=$uuid member_id=1 secret=$pool_secret > /sys/class/rmr-stranger/ctl/run" ||
		fail "$(node 2 'dmesg | grep rmr_stranger | tail -n 5')"
	(($(dmesg_since node1 "$mark" | grep -c 'rmr: session stranger') < 100)) || fail "the log of node1 is flooded"
	dmesg_since node1 "$mark" | grep -q 'does not know the secret of pool p' || fail "nothing in the log of node1"
	# What it said of addresses was not heard.
	! peer_file 1 2 paths | grep -F 10.77.1.99 || fail "the stranger has moved a node"
	works
	wait_in_sync
	compare_data_areas p
}

test_kill() {
	local writer
	client "rmr-iotest model $(pool_device p) --seconds 12 --span 32M --max-io 64K" &
	writer=$!
	sleep 3
	cluster kill node2
	wait_for 120 is_out p 2
	wait "$writer" || fail "the application saw an error"
	cluster start node2
	load_node 2
	# After a reboot the secret is not forgotten by mistake.
	expect_fail ENOKEY add_store 2
	expect_fail ENOKEY add_store 2 "secret=$pool_secret"
	expect_fail any node 2 "[ -d $brmr_server/stores/p ]"
	give_keys node2
	add_store 2 "secret=$pool_secret"
	wait_in_sync
	compare_data_areas p
}

test_link() {
	local writer
	client "rmr-iotest model $(pool_device p) --seconds 20 --span 32M --max-io 64K" &
	writer=$!
	cluster link node2 1 down
	cleanup cluster link node2 1 up
	# Closing a connection that is cut may take RTRS a minute.
	wait_for 120 is_out p 2
	cluster link node2 1 up
	wait "$writer" || fail "the application saw an error"
	wait_in_sync
	compare_data_areas p
}

# A node whose store requires another secret.
test_wrong_node() {
	local mark
	mark=$(dmesg_mark client)
	take_store 2
	add_store 2 secret=rmr:wrong
	wait_for 120 is_out p 2
	works 5
	wait_for 30 is unauthenticated leg_file 2 state
	equal "$(leg_file 2 auth)" wrong_secret "auth of node2"
	# It knows nobody before it is let in; tell both.
	equal "$(node 2 "ls $rmr_server/pools/p/peers")" "" "members that node2 knows"
	sysfs_write node2 "$rmr_server/pools/p/add_peer" "member_id=1 path=$(address 1)"
	wait_for 30 is wrong_secret peer_file 2 1 auth
	equal "$(peer_file 2 1 state)" unauthenticated "state of node1 for node2"
	sysfs_write node1 "$rmr_server/pools/p/peers/2/del_peer" 1
	sysfs_write node1 "$rmr_server/pools/p/add_peer" "member_id=2 path=$(address 2)"
	wait_for 30 is wrong_secret peer_file 1 2 auth
	sleep 10
	is_out p 2 || fail "node2 was taken in"
	equal "$(dmesg_since client "$mark" | grep -c 'pool p, session node2: not authenticated: .*give the same key')" 1 "lines in the log"
	# And it is let in as soon as it knows the right one, by itself.
	take_store 2
	add_store 2 "secret=$pool_secret"
	wait_in_sync
	compare_data_areas p
}

# A node whose store requires none is not trusted.
test_no_secret_on_node() {
	take_store 2
	add_store 2 secret=none
	equal "$(sysfs_read node2 "$brmr_server/stores/p/secret")" none secret
	wait_for 120 is_out p 2
	wait_for 30 is no_secret leg_file 2 auth
	works
	is_out p 2 || fail "node2 was taken in"
	# That none is required stays so, until one is.
	take_store 2
	add_store 2
	equal "$(sysfs_read node2 "$brmr_server/stores/p/secret")" none secret
	take_store 2
	add_store 2 "secret=$pool_secret"
	wait_in_sync
	take_store 2
	expect_fail ENOKEY add_store 2
	add_store 2 "secret=$pool_secret"
	wait_in_sync
	compare_data_areas p
}

# Clients without the secret, or with another one.
test_clients() {
	local mark key
	device_unmap p
	expect_fail EBUSY sysfs_write client "$pool_dir/secret" none
	client_leave p
	client_join p
	equal "$(sysfs_read client "$pool_dir/secret")" none "secret of a pool that was joined anew"
	mark=$(dmesg_mark client)
	expect_fail ENOKEY client_leg p 1
	dmesg_since client "$mark" | grep -q 'requires a secret; write the description' || fail "the log does not say what to do"
	for key in rmr:absent "rmr:$(printf 'x%.0s' {1..200})"; do
		expect_fail any sysfs_write client "$pool_dir/secret" "$key"
	done
	expect_fail ENOKEY sysfs_write client "$pool_dir/secret" rmr:absent
	expect_fail EINVAL sysfs_write client "$pool_dir/secret" "two words"
	give client rmr:short "$(printf 's%.0s' {1..15})"
	give client rmr:long "$(printf 's%.0s' {1..257})"
	for key in rmr:short rmr:long; do
		mark=$(dmesg_mark client)
		expect_fail EINVAL sysfs_write client "$pool_dir/secret" "$key"
		dmesg_since client "$mark" | grep -q 'a secret has 16 to 256' || fail "the log does not say what is wrong with $key"
	done
	equal "$(sysfs_read client "$pool_dir/secret")" none "secret after what was refused"
	give client rmr:short "$(printf 's%.0s' {1..16})"
	give client rmr:long "$(printf 's%.0s' {1..256})"
	for key in rmr:short rmr:long rmr:wrong; do
		sysfs_write client "$pool_dir/secret" "$key"
		expect_fail EKEYREJECTED client_leg p 1
	done
	expect_fail any client_map p
	sysfs_write client "$pool_dir/secret" none
	expect_fail ENOKEY client_leg p 1
	sysfs_write client "$pool_dir/secret" "$pool_secret"
	for k in 1 2; do
		client_leg p "$k"
	done
	equal "$(leg_file 1 auth)" waiting "auth before the pool is attached to"
	expect_fail EBUSY sysfs_write client "$pool_dir/secret" rmr:wrong
	client_map p
	wait_for 20 client "[ -b '$(pool_device p)' ]"
	wait_in_sync
	works
	compare_data_areas p
}

# A client with a secret, nodes without; and a store is not made when its key is not there.
test_without() {
	pool_down p
	for k in 1 2; do
		wipe_backing "$k"
		node_join p "$k"
	done
	expect_fail ENOKEY node_store p 1 "$size" secret=rmr:absent
	equal "$(node 1 "dd if=$(backing 1) bs=1M count=13 iflag=direct status=none | tr -d '\\0' | wc -c")" 0 "bytes on the disk of node1"
	for k in 1 2; do
		node_store p "$k" "$size"
	done
	client_join p
	sysfs_write client "$pool_dir/secret" "$pool_secret"
	expect_fail ENOKEY client_leg p 1
	sysfs_write client "$pool_dir/secret" none
	for k in 1 2; do
		client_leg p "$k"
		equal "$(leg_file "$k" auth)" none "auth without a secret"
	done
	client_map p
	wait_for 20 client "[ -b '$(pool_device p)' ]"
	works
	# From now on a secret is required: who has none is turned away, and the log says why.
	mark=$(dmesg_mark client)
	take_store 2
	add_store 2 "secret=$pool_secret"
	wait_for 120 is_out p 2
	wait_for 60 grep_log client "$mark" 'session node2: the node requires a secret'
	works
	take_store 2
	add_store 2 secret=none
	wait_for 120 all_in_sync p 2
	compare_data_areas p
}

# grep_log VM MARK PATTERN
grep_log() {
	dmesg_since "$1" "$2" | grep -q "$3"
}

client modinfo -n rmr_stranger > /dev/null 2>&1 || skip_all "the modules were built without RMR_TESTS=1"
cleanup unload_all
cleanup pool_down p
give_keys client node1 node2
run_test "a pool with a secret" test_up
run_test "a stranger gets nothing" test_stranger
run_test "a node is killed, and comes back" test_kill
run_test "a link is cut, and is back" test_link
run_test "a node with another secret" test_wrong_node
run_test "a node without a secret" test_no_secret_on_node
run_test "clients without the secret" test_clients
run_test "the secret is nowhere to be read" test_not_shown
run_test "a pool without a secret, and half of one" test_without
finish
