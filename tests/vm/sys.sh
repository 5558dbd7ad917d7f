#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The crate rmr_sys in the kernel: what tests/modules/sys_selftest.rs checks by itself, and its files in sysfs, which are
# read, written and removed all at once here.

. "$(dirname "$0")/../lib.sh"
need_nodes 0

ctl=/sys/class/rmr-selftest/ctl

load() {
	client modprobe sys_selftest
}

unload() {
	client "rmmod sys_selftest; rmmod rmr"
}

# The answer of a test is that of a write; the log says which check failed.
self_test() {
	client "echo $1 > $ctl/run" || fail "$(client "dmesg | grep sys_selftest | tail -n 5")"
}

test_keys() {
	client "cd $ctl && keyctl add logon rmr-selftest:logon logon @u && keyctl add user rmr-selftest:user user @u &&
		keyctl add user rmr-selftest:both user @u && keyctl add logon rmr-selftest:both logon @u &&
		keyctl revoke \$(keyctl add logon rmr-selftest:revoked x @u) && echo key > run" ||
		fail "$(client "dmesg | grep sys_selftest | tail -n 5")"
}

test_attributes() {
	client "cd $ctl && echo abc > text && [ \$(cat text) = abc ] && printf abcd > text && [ \$(cat text) = abcd ]"
	client "cd $ctl && printf '\n' > text && [ -z \$(cat text) ]"
	equal "$(client "cat $ctl/make")" "a name" "usage"
	equal "$(client "stat -c %a $ctl/make $ctl/text $ctl/full" | tr '\n' ' ')" "644 644 444 " "modes"
	equal "$(client "wc -c < $ctl/full")" 4095 "a full page"
	expect_fail E2BIG client "cat $ctl/overrun"
	expect_fail ENODEV client "cat $ctl/refused"
	expect_fail any client "echo x > $ctl/full"
	expect_fail E2BIG client "echo 12345678901234567 > $ctl/text"
	expect_fail EDOM client "head -c 4095 /dev/zero > $ctl/size"
	expect_fail ERANGE client "{ head -c 4094 /dev/zero; echo; } > $ctl/size"
	expect_fail E2BIG client "dd if=/dev/zero of=$ctl/size bs=4096 count=1"
}

test_directories() {
	client "cd $ctl && echo one > make && echo two > make && ls objects/one/number objects/two/home/remove"
	expect_fail EEXIST client "echo one > $ctl/make"
	expect_fail EINVAL client "echo a/b > $ctl/make"
	expect_fail EINVAL client "echo .. > $ctl/make"
	expect_fail EINVAL client "echo > $ctl/make"
	client "cd $ctl && echo 1 > objects/one/remove && [ ! -e objects/one ] && echo one > make && echo 1 > objects/one/remove"
	client "cd $ctl && echo 1 > objects/two/remove"
	equal "$(client "cat $ctl/count $ctl/freed" | tr "\n" " ")" "0 7 " "objects left, and freed, with the four that were refused"
	[[ -z $(client "dmesg | grep -E 'sysfs: cannot create|kobject_add'") ]] || fail "the kernel complains of names"
}

# A directory that goes waits for a store that runs, and it is the object of that one until it ends.
test_busy_removal() {
	client "cd $ctl && echo x > make && { echo 1000 > objects/x/slow & } && sleep 0.3 &&
		began=\$(date +%s%N) && echo 1 > objects/x/remove && took=\$(((\$(date +%s%N) - began) / 1000000)) && wait &&
		echo \$took ms && [ \$took -ge 400 ]"
}

# Everything at once: objects come and go, are removed by two at a time, while their files are open, read and written.
test_storm() {
	client "cd $ctl && end=\$((SECONDS + $1))
		for i in 1 2 3 4; do
			while ((SECONDS < end)); do echo o\$i > make; echo 1 > objects/o\$i/remove; done 2> /dev/null &
			while ((SECONDS < end)); do echo 1 > objects/o\$i/remove; done 2> /dev/null &
			while ((SECONDS < end)); do cat objects/o\$i/*; echo 1 > objects/o\$i/slow; done > /dev/null 2>&1 &
			while ((SECONDS < end)); do { sleep 0.01; cat <&9; } 9< objects/o\$i/number; done > /dev/null 2>&1 &
		done
		wait
		for i in 1 2 3 4; do echo 1 > objects/o\$i/remove; done 2> /dev/null
		[ \$(cat count) = 0 ] && made=\$(cat freed) && echo \$made objects && [ \$made -gt 20 ]"
}

# rmmod while files are open, stores run, and a directory is about to remove itself.
test_unload() {
	local round
	for round in 1 2 3 4 5; do
		client "cd $ctl && echo x > make && echo y > make
			echo 600 > objects/x/slow &
			{ sleep 1; cat <&9; } 9< objects/x/number > /tmp/late 2>&1 &
			echo 2 > objects/y/remove & sleep 0.$((round * 4 % 7)); cd /
			rmmod sys_selftest && rmmod rmr; status=\$?
			wait; ! lsmod | grep -E '^(rmr|sys_selftest) ' && exit \$status"
		load
	done
}

test_unload_in_storm() {
	local round
	for round in 1 2 3; do
		client "for i in 1 2 3 4; do
				while [ -d $ctl ]; do echo o\$i > $ctl/make; echo 1 > $ctl/objects/o\$i/remove; done 2> /dev/null &
			done
			sleep 1; rmmod sys_selftest; status=\$?; wait; rmmod rmr && exit \$status"
		load
	done
}

client modinfo -n sys_selftest > /dev/null 2>&1 || skip_all "the modules were built without RMR_TESTS=1"
cleanup unload
load

for name in gate gate-wait slots leases park work self-drop wait lock percpu small hmac; do
	run_test "$name" self_test "$name"
done
run_test "keys" test_keys
run_test "attributes" test_attributes
run_test "directories" test_directories
run_test "a directory waits for its stores" test_busy_removal
run_test "objects come and go" test_storm "${STORM_SECONDS:-10}"
run_test "unload while files are in use" test_unload
run_test "unload while directories come and go" test_unload_in_storm
finish
