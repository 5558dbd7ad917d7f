#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Bring-up and teardown: how few commands it takes, in every order that makes sense, in some that do not, and 18 times in a
# row, each time in another order, without a leak.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"
. "$(dirname "$0")/../leak.sh"

size=64M
# Rounds before the leak check begins: caches have their working size then.
warm_up=6
rounds=${BRINGUP_ROUNDS:-18}

# One step of a bring-up or teardown; a digit is the number of a node.
step() {
	case $1 in
	join?) node_join p "${1#join}" ;;
	store?) node_store p "${1#store}" "$size" ;;
	pool) client_join p ;;
	leg?) client_leg p "${1#leg}" ;;
	map) client_map p ;;
	unmap) device_unmap p ;;
	del?) sysfs_write client "$rmr_client/pools/p/sessions/node${1#del}/del_sess" 1 ;;
	leave) sysfs_write client "$rmr_client/pools/p/leave_pool" 1 ;;
	remove?) sysfs_write "node${1#remove}" "$brmr_server/stores/p/remove_store" 1 ;;
	gone?) sysfs_write "node${1#gone}" "$rmr_server/pools/p/leave_pool" 1 ;;
	esac
}

# All orders of a set of steps under given rules, a line each: orders "STEPS" "A<B ...".
orders() {
	python3 - "$1" "$2" <<-'PYTHON'
	import sys

	def extend(done, left, rules):
	    if not left:
	        print(*done)
	    for step in left:
	        if not any(after == step and before in left for before, after in rules):
	            extend(done + [step], [s for s in left if s != step], rules)

	extend([], sys.argv[1].split(), [rule.split("<") for rule in sys.argv[2].split()])
	PYTHON
}

up_orders() {
	orders "join1 store1 join2 store2 pool leg1 leg2 map" \
		"join1<store1 store1<leg1 join2<store2 store2<leg2 pool<leg1 pool<leg2 leg1<map leg2<map"
}

down_orders() {
	orders "unmap del1 del2 leave remove1 gone1 remove2 gone2" \
		"unmap<del1 unmap<del2 del1<leave del2<leave unmap<remove1 unmap<remove2 remove1<gone1 remove2<gone2"
}

# pick N COUNT: of the lines of stdin, COUNT evenly spread ones, repeated if there are fewer.
pick() {
	awk -v n="$1" '{ line[NR - 1] = $0 } END { for (i = 0; i < n; i++) print line[int(i * (NR < n ? 1 : NR / n)) % NR] }'
}

# once "UP STEPS" "DOWN STEPS": from nothing, to a device that works, to nothing.
once() {
	local s
	for s in $1; do
		step "$s"
	done
	client "dd if=/dev/urandom of=$(pool_device p) bs=64k count=1 oflag=direct status=none"
	for s in $2; do
		step "$s"
	done
	equal "$(pool_device p)" "" "device after the teardown"
}

test_aliases() {
	local class
	for class in rmr-client rmr-server brmr-client brmr-server; do
		client modprobe "$class"
		client "[ -d /sys/class/$class ]"
	done
	unload_all
	expect_fail any client '[ -d /sys/class/rmr-client ]'
}

test_few_writes() {
	cleanup unload_all
	cleanup pool_down p
	pool_up p 2 "$size"
	((pool_writes <= 8)) || fail "$pool_writes sysfs writes"
	equal "$(device_bytes p)" "$(bytes "$size")" size
	client "blkid -p $(pool_device p) || [ \$? = 2 ]"
}

# A state file is one word, and every file can be read.
test_state_files() {
	local name
	cleanup unload_all
	cleanup pool_down p
	pool_up p 2 "$size"
	for name in client node1 node2; do
		equal "$(within 60 "$name" 'cd /sys/devices/virtual && find ./*rmr-* -type f -name state | while read -r f; do
			[ "$(wc -lw < "$f" | tr -s " ")" = " 1 1" ] || echo "$f: $(cat "$f")"; done')" "" "states of $name"
		equal "$(within 60 "$name" 'cd /sys/devices/virtual && find ./*rmr-* -type f -perm /444 ! -path "*/power/*" |
			while read -r f; do cat "$f" > /dev/null || echo "$f"; done')" "" "files of $name that cannot be read"
	done
	equal "$(pool_state p) $(device_state p)" "mapped ready" "states of pool and device"
}

# In the wrong order a command is refused or works, but never hangs, and everything can be put right afterwards.
test_wrong_orders() {
	local status=0
	cleanup unload_all
	cleanup pool_down p
	load_all 2
	wipe_backing 1
	wipe_backing 2
	expect_fail any client_map p
	expect_fail any client_leg p 1
	client_join p
	expect_fail any client_map p
	for k in 1 2; do
		node_join p "$k"
	done
	# Legs without stores: whether this is refused or waits for them, the stores may come later.
	client_leg p 1 || status=$?
	expect_fail any client_map p
	for k in 1 2; do
		node_store p "$k" "$size"
	done
	((status == 0)) || client_leg p 1
	client_leg p 2
	client_map p
	for command in "client_leave p" "sysfs_write client $rmr_client/pools/p/sessions/node1/del_sess 1"; do
		expect_fail EBUSY eval "$command"
	done
	# The nodes may refuse to go while a client is attached, or go and be missed.
	for k in 1 2; do
		store_remove p "$k" || :
		node_leave p "$k" || :
	done
}

test_unmap_is_refused_while_open() {
	cleanup unload_all
	cleanup pool_down p
	pool_up p 2 "$size"
	client "sleep 1000 < $(pool_device p) > /dev/null 2>&1 & echo \$! > /tmp/holder"
	cleanup client 'kill $(cat /tmp/holder); :'
	expect_fail EBUSY device_unmap p
	equal "$(client blockdev --getsize64 "$(pool_device p)")" "$(bytes "$size")"
	client 'kill $(cat /tmp/holder); sleep 0.2'
	device_unmap p
}

# What is on the disks outlives everything else: take it up again with add_store.
test_assemble_again() {
	local k
	cleanup unload_all
	cleanup pool_down p
	pool_up p 2 "$size"
	client "rmr-iotest fill $(pool_device p) --seed 7"
	pool_down p
	unload_all
	load_all 2
	for k in 2 1; do
		node_join p "$k"
		sysfs_write "node$k" "$brmr_server/ctl/add_store" "device=$(backing "$k") pool=p"
	done
	client_join p
	client_leg p 2
	client_leg p 1
	client_map p
	client "rmr-iotest verify $(pool_device p) --seed 7"
	compare_data_areas p
}

test_rounds() {
	local folder ups downs third i
	cleanup unload_all
	cleanup pool_down p
	folder=$(mktemp -d)
	cleanup rm -rf "$folder"
	load_all 2
	mapfile -t ups < <(up_orders | pick $((rounds + warm_up)))
	mapfile -t downs < <(down_orders | pick $((rounds + warm_up)))
	third=$(((rounds + 2) / 3))
	for ((i = 0; i < rounds + warm_up; i++)); do
		((i != warm_up)) || leak_begin "$folder"
		((i <= warm_up || (i - warm_up) % third)) || leak_middle "$folder"
		wipe_headers
		echo "round $i: ${ups[i]}; ${downs[i]}"
		once "${ups[i]}" "${downs[i]}"
	done
	leak_end "$folder" "$third"
}

# The old superblocks only: that the data areas differ in the end does not matter here.
wipe_headers() {
	local k
	for k in 1 2; do
		node "$k" "blkdiscard --force --quiet --zeroout --length 32M $(backing "$k")"
	done
}

run_test "module aliases" test_aliases
run_test "eight writes make a device of two legs" test_few_writes
run_test "state files are one word, all files can be read" test_state_files
run_test "a device that is open is not unmapped" test_unmap_is_refused_while_open
run_test "stores are taken up again" test_assemble_again
run_test "commands in the wrong order" test_wrong_orders
run_test "$rounds rounds in different orders leave nothing behind" test_rounds
finish
