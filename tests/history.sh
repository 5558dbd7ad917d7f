# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# For test scripts, on top of tests/pool.sh: what an application on the client asked for and was answered, recorded on the host,
# and judged by the checker of the simulator. Nothing here breaks anything.
#
# The pool is p. Of the script: leg_count (number of nodes), span (bytes that the application uses, from the beginning of the device
# on), seed (of what it does), record_seconds (longest time of recording, 600).
# shellcheck disable=SC2154

# Lines come from the client as they are printed there; what only the test knows is added here.
work=$(mktemp -d)
cleanup rm -rf "$work"
history=$work/history
number=0
pattern=1
recorder=

# note JSON: something that the writer does not know.
note() {
	printf '{"t":%s,%s}\n' "$(date +%s%N)" "$1" >> "$history"
}

# set_of: the in-sync set of the pool, as the checker takes it.
set_of() {
	local k set=0
	for k in $(pool_in_sync p); do
		set=$((set | 1 << (k - 1)))
	done
	echo "$set"
}

# attached: the device was just opened.
attached() {
	number=$((number + 1))
	note "\"ev\":\"attached\",\"client\":$number,\"generation\":$(sysfs_read client "$rmr_client/pools/p/generation"),\"in_sync\":$(set_of)"
}

gone() {
	note "\"ev\":\"gone\",\"client\":$number"
}

cache_lost() {
	note "\"ev\":\"cache_lost\",\"member\":$1,\"sectors\":null"
}

# new_history: of a device that is open, with zeroes where the application works. Nothing of another one is taken for its own.
new_history() {
	pattern=$(date +%s)
	client "blkdiscard --zeroout --length $span $(pool_device p) && blockdev --flushbufs $(pool_device p)"
	: > "$history"
	number=0
	cleanup stop_recording
	attached
}

# record OPTION...: in the background, until stop_recording.
record() {
	client "rm -f /tmp/stop"
	# Should one that a failed test has left still write, it is to no file of ours.
	rm -f "$work/lines"
	client "exec rmr-iotest record $(pool_device p) --span $span --pattern $pattern --client $number --until /tmp/stop --seconds ${record_seconds-600} --seed $seed $*" \
		> "$work/lines" 2> "$work/errors" &
	recorder=$!
}

# What was printed comes into the history. Of a client that died the last line may be torn.
stop_recording() {
	[[ $recorder ]] || return 0
	client "touch /tmp/stop" 2> /dev/null || :
	# The last requests may have to wait for a pool that changes, but not for ever.
	wait_for 120 recorder_ended
	wait "$recorder" || :
	recorder=
	[[ ! -s $work/lines || -z $(tail -c 1 "$work/lines") ]] || sed -i '$d' "$work/lines"
	cat "$work/lines" >> "$history"
}

recorder_ended() {
	! kill -0 "$recorder" 2> /dev/null
}

# read_all: everything that the application may have written, so that each leg answers all of it, and then all of them.
read_all() {
	# Higher than what is recorded before.
	local first=1000000000 k policy policies=()
	for ((k = 1; k <= leg_count; k++)); do
		policies+=("preferred=$k")
	done
	for policy in "${policies[@]}" least-inflight; do
		sysfs_write client "$rmr_client/pools/p/read_policy" "$policy"
		client "rmr-iotest record $(pool_device p) --span $span --pattern $pattern --client $number --first $first --all" > "$work/lines" 2> "$work/errors"
		first=$((first + 10000))
		cat "$work/lines" >> "$history"
	done
}

judge() {
	local lines
	lines=$(wc -l < "$history")
	"$RMR_RUN/payload/bin/check-history" "$history" > "$work/verdict" 2>&1 || {
		tail -n 20 "$work/verdict"
		cp "$history" "/tmp/rmr-history.$$"
		fail "the history is wrong: /tmp/rmr-history.$$"
	}
	echo "$lines events, seed $seed: $(tail -n 1 "$work/verdict")"
}
