#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A hostile peer: tests/modules/rmr_hostile.rs sends $HOSTILE_COUNT messages (default 20000) from node2 to node1, which
# serves a client at the same time. Every message that must be refused is, nothing leaks, the kernel log is not flooded,
# and the client, which knows what each block must hold, notices nothing. HOSTILE_SEED repeats a run.

export RMR_TESTS=1
. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"
. "$(dirname "$0")/../leak.sh"

size=128M
count=${HOSTILE_COUNT:-20000}
seed=${HOSTILE_SEED:-$RANDOM}
ctl=/sys/class/rmr-hostile/ctl

# attack COUNT
attack() {
	local status=0 k
	node 2 "echo path=$(address 1) pool=p count=$1 seed=$seed > $ctl/run" || status=$?
	if ((status != 0)); then
		node 2 "dmesg | grep -F rmr_hostile: | tail -n 30"
		for k in 1 2; do
			node "$k" 'cd /sys/class/infiniband/rxe0/ports/1/hw_counters && grep . * | tr "\n" " "'
		done
		node 2 "cat $ctl/result"
		fail "the attack with seed $seed"
	fi
	node 2 "cat $ctl/result"
}

# A number of the result, by its name.
result() {
	node 2 "head -n 1 $ctl/result" | sed -nE "s/.*\\b([0-9]+) $1.*/\\1/p"
}

test_attack() {
	local began=$SECONDS from io lines allowed
	# RTRS says so much that the kernel's own buffer does not keep it.
	from=$(stat -c %s "$(cluster log node1)")
	client 'rm -f /tmp/stop; while [ ! -e /tmp/stop ]; do
		rmr-iotest model '"$(pool_device p)"' --seconds 4 --span 32M || exit; done' > "$scratch/io" 2>&1 &
	io=$!
	cleanup client 'touch /tmp/stop'
	attack "$count"
	client 'touch /tmp/stop'
	wait "$io" || fail "the client noticed: $(tail -n 5 "$scratch/io")"
	equal "$(result sent)" "$count" "messages sent"
	equal "$(result accepted)" 0 "messages accepted"
	(($(result refused) > count / 2)) || fail "only $(result refused) of $count messages were refused"
	((SECONDS - began < 2)) || echo "$((count / (SECONDS - began))) messages per second"

	# Limited to ten lines in five seconds for each kind, of which there are a handful.
	tail -c "+$((from + 1))" "$(cluster log node1)" | tr -d '\0\r' > "$scratch/dmesg"
	lines=$(grep -c 'rmr:' "$scratch/dmesg" || true)
	allowed=$((100 + (SECONDS - began) * 10))
	echo "$lines lines of rmr in the log of node1"
	((lines > 0)) || fail "no message refused is in the log"
	((lines <= allowed)) || fail "$lines lines in the log in $((SECONDS - began)) s: $(cut -c 16- "$scratch/dmesg" | sort | uniq -c | sort -n | tail)"
}

test_data() {
	compare_data_areas p
	equal "$(device_state p)" ready "state of the device"
}

# The attack before has allocated what is kept for the next time.
test_leaks() {
	local part=$((count / 10 + 1))
	leak_begin "$scratch"
	attack "$part"
	leak_middle "$scratch"
	attack "$part"
	leak_end "$scratch" 250
}

node 2 modinfo -n rmr_hostile > /dev/null 2>&1 || skip_all "the modules were built without RMR_TESTS=1"
scratch=$(mktemp -d)
cleanup rm -rf "$scratch"
cleanup pool_down p
cleanup node 2 'rmmod rmr_hostile 2> /dev/null; :'
pool_up p 2 "$size"
node 2 modprobe rmr_hostile
# The peer forges numbers of writes that have been.
client "rmr-iotest model $(pool_device p) --seconds 3 --span 32M" > /dev/null

run_test "$count hostile messages, seed $seed" test_attack
run_test "data after the attack" test_data
run_test "nothing leaks" test_leaks
finish
