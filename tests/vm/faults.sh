#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Failures of every kind at every moment: who fails, how, while what goes on, and as what it comes back. A writer on the client
# records what it asked for and was answered, on the host; after each scenario everything is read, the history is judged by the
# checker of the simulator, all legs are in sync, and the disks of the nodes are equal. These have a volatile cache, which a
# power cut loses.
#
# RMR_FAULTS: which scenarios, "WHO HOW WHEN BACK" separated by semicolons, or "all" (a minute or two each); by default a few.

. "$(dirname "$0")/../lib.sh"
need_nodes 3 --nbdkit
. "$(dirname "$0")/../pool.sh"
cluster fault node1 data0 none 2> /dev/null || skip_all "the disks of this cluster cannot fail (--nbdkit)"

size=96M
span=24M
# shellcheck disable=SC2034 # for pool_up
pool_io_timeout=8000
# Longest time until all legs are in sync again, in seconds.
sync_seconds=180
members=$rmr_client/pools/p/sessions

# Who fails: node (3), two (2 and 3), client, all. How: kill (power), reset (reboot, disks keep their power), cut, cut-in (hears
# nothing any more), pause, read-error, write-error, hang (of the disk), remove (of the store), rdma (device removed). When:
# idle, writes, flushes, resync (of node 2), rejoin (of node 2), second (node 2 is down already), admin (node 2 is being
# taken out). Comes back: same, late, empty (disk), old (disk).
all_scenarios() {
	local how when back
	for how in kill reset cut cut-in pause read-error write-error hang remove rdma; do
		for when in idle writes flushes resync rejoin second admin; do
			back=same
			case $how-$when in
			*-idle) back=late ;;
			kill-flushes) back=old ;;
			*-flushes) back=empty ;;
			esac
			echo "node $how $when $back"
		done
	done
	for how in kill cut pause; do
		for when in writes flushes resync second; do
			echo "client $how $when same"
		done
		for when in idle writes flushes; do
			echo "two $how $when same"
		done
	done
	for when in idle writes flushes resync; do
		echo "all kill $when same"
	done
}

few_scenarios() {
	cat <<-END
	node kill writes same
	node cut-in flushes empty
	node hang rejoin same
	node kill flushes old
	client kill writes same
	two kill flushes same
	all kill flushes same
	END
}

#
# The history. Lines come from the client as they are printed there; what only the test knows is added here.
#

work=$(mktemp -d)
cleanup rm -rf "$work"
history=$work/history
number=0
recorder=

# note JSON: something that the writer does not know.
note() {
	printf '{"t":%s,%s}\n' "$(date +%s%N)" "$1" >> "$history"
}

# set_of: the in-sync set of the pool, as the checker takes it.
set_of() {
	local k set=0
	for k in $(sysfs_read client "$rmr_client/pools/p/in_sync"); do
		set=$((set | 1 << (k - 1)))
	done
	echo "$set"
}

# attached [forced]: the device was just opened.
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

# record OPTION...: in the background, until stop_recording.
record() {
	client "rm -f /tmp/stop"
	client "exec rmr-iotest record $(pool_device p) --span $span --client $number --until /tmp/stop --seconds 600 --seed $seed $*" \
		> "$work/lines" 2> "$work/errors" &
	recorder=$!
}

# What was printed comes into the history. Of a client that died the last line may be torn.
stop_recording() {
	[[ $recorder ]] || return 0
	client "touch /tmp/stop" 2> /dev/null || :
	wait "$recorder" || :
	recorder=
	[[ ! -s $work/lines || -z $(tail -c 1 "$work/lines") ]] || sed -i '$d' "$work/lines"
	cat "$work/lines" >> "$history"
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

#
# The pool.
#

leg_is() {
	[[ $(leg_state p "$1") == "$2" ]]
}

all_in_sync() {
	[[ $(sysfs_read client "$rmr_client/pools/p/in_sync") == "1 2 3" ]]
}

is_out() {
	[[ " $(sysfs_read client "$rmr_client/pools/p/in_sync") " != *" $1 "* ]]
}

add_store() {
	sysfs_write "node$1" "$brmr_server/ctl/add_store" "device=$(backing "$1") pool=p"
}

# boot K: a node whose modules are gone, with the disk that it has.
boot() {
	load_node "$1"
	node_join p "$1"
	add_store "$1"
}

# new_disk K: the same node with an empty disk.
new_disk() {
	if node "$1" "[ -d $brmr_server/stores/p ]"; then
		sysfs_write "node$1" "$brmr_server/stores/p/remove_store" force
	fi
	wipe_backing "$1"
	node_store p "$1" "$size" force=1
	wait_for "$sync_seconds" replace "$1"
}

# Refused while something else changes.
replace() {
	sysfs_write client "$members/node$1/replace" 1 2> /dev/null
}

# attach: on a client that was just booted. Members that were in sync have to be there.
attach() {
	local k
	load_client
	client_join p
	sysfs_write client "$rmr_client/pools/p/io_timeout" "$pool_io_timeout"
	for k in 1 2 3; do
		client_leg p "$k"
	done
	client_map p
	wait_for 30 client "[ -b '$(pool_device p)' ]"
	attached
}

#
# A scenario: what goes on (when), who fails, and how it comes back.
#

before() {
	case $1 in
	idle)
		record
		sleep 2
		stop_recording ;;
	writes)
		record --reads 30
		sleep 2 ;;
	flushes)
		record --reads 10 --flushes 40 --max-io 16K
		sleep 2 ;;
	resync)
		record
		new_disk 2
		wait_for 60 leg_is 2 catching_up || : ;;
	rejoin)
		record
		sysfs_write node2 "$brmr_server/stores/p/remove_store" force
		wait_for 60 is_out 2
		add_store 2 ;;
	second)
		record
		cluster kill node2
		wait_for 60 is_out 2 ;;
	admin)
		record
		sysfs_write client "$members/node2/maintenance" 1 ;;
	esac
}

# What was begun before is brought to an end.
after() {
	case $1 in
	second)
		cluster start node2
		boot 2 ;;
	admin)
		wait_for 60 let_in 2 ;;
	esac
}

# Refused while something else changes, and by a client that has forgotten.
let_in() {
	[[ $(sysfs_read client "$members/node$1/maintenance") == 0 ]] ||
		sysfs_write client "$members/node$1/maintenance" 0 2> /dev/null
}

# break_node HOW K, mend_node HOW K
break_node() {
	case $1 in
	kill) cluster kill "node$2" ;;
	reset) cluster reset "node$2" ;;
	cut) cluster link "node$2" 1 down ;;
	cut-in) cluster exec tc qdisc replace dev "node$2.1" root pfifo limit 0 ;;
	pause) cluster pause "node$2" ;;
	read-error | write-error | hang) cluster fault "node$2" data0 "$1" ;;
	remove) sysfs_write "node$2" "$brmr_server/stores/p/remove_store" force ;;
	rdma) node "$2" rdma link delete rxe0 ;;
	esac
}

mend_node() {
	case $1 in
	kill)
		cluster start "node$2"
		boot "$2" ;;
	reset) boot "$2" ;;
	cut) cluster link "node$2" 1 up ;;
	cut-in) cluster exec tc qdisc del dev "node$2.1" root ;;
	pause) cluster resume "node$2" ;;
	read-error | write-error | hang) cluster fault "node$2" data0 none ;;
	remove) add_store "$2" ;;
	rdma) node "$2" rdma link add rxe0 type rxe netdev eth1 ;;
	esac
}

# Is what was just done the end of the leg, for the pool? Errors only if somebody meets them.
notices() {
	case $1 in
	read-error | write-error | hang) [[ $2 != idle && $2 != admin ]] ;;
	reset | pause) false ;;
	*) true ;;
	esac
}

scenario_node() {
	local how=$1 when=$2 back=$3 k=3 disk
	disk=$(cluster disk "node$k" data0)
	before "$when"
	if [[ $back == old ]]; then
		cp --sparse=always "$disk" "$disk.old"
		sleep 2
	fi
	break_node "$how" "$k"
	if notices "$how" "$when"; then
		wait_for 60 is_out "$k"
	else
		sleep 6
	fi
	[[ $back != late ]] || sleep 10
	if [[ $back == old ]]; then
		mv "$disk.old" "$disk"
	fi
	mend_node "$how" "$k"
	case $back in
	empty)
		new_disk "$k" ;;
	old)
		sleep 5
		is_out "$k" || fail "an old disk is in sync"
		new_disk "$k" ;;
	esac
	after "$when"
}

scenario_two() {
	before "$2"
	break_node "$1" 2
	break_node "$1" 3
	sleep 8
	mend_node "$1" 2
	mend_node "$1" 3
	after "$2"
}

scenario_client() {
	before "$2"
	case $1 in
	kill)
		cluster kill client
		stop_recording
		gone
		[[ $2 != second ]] || after "$2"
		cluster start client
		attach
		[[ $2 == second ]] || after "$2"
		record
		sleep 3
		return ;;
	cut)
		cluster link client 1 down
		sleep 10
		cluster link client 1 up ;;
	pause)
		cluster pause client
		sleep 10
		cluster resume client ;;
	esac
	after "$2"
}

scenario_all() {
	local k
	before "$2"
	for k in 1 2 3; do
		cluster kill "node$k"
	done
	cluster kill client
	stop_recording
	gone
	for k in 1 2 3; do
		cache_lost "$k"
	done
	for k in 1 2 3; do
		cluster start "node$k"
		boot "$k"
	done
	cluster start client
	attach
	after "$2"
}

# All machines as after boot, whatever was begun and not ended.
renew() {
	local name state k running=()
	while read -r name _ state; do
		if [[ $state == off ]]; then
			cluster start "$name" < /dev/null
		else
			cluster resume "$name" < /dev/null
			running+=("$name")
		fi
		cluster link "$name" 1 up < /dev/null
		cluster exec tc qdisc del dev "$name.1" root < /dev/null 2> /dev/null || :
	done < <(cluster status)
	for k in 1 2 3; do
		cluster fault "node$k" data0 none
	done
	cluster reset "${running[@]}"
}

# A pool with all legs in sync, whatever the scenario before has left, and zeroes where the writer writes.
prepare() {
	if ! device_works; then
		renew
		pool_up p 3 "$size"
	fi
	wait_for "$sync_seconds" all_in_sync
	client "blkdiscard --zeroout --length $span $(pool_device p) && blockdev --flushbufs $(pool_device p)"
	: > "$history"
	number=0
	attached
}

device_works() {
	[[ $(cluster status | grep -c ' running$') == 4 && $(pool_device p) && $(pool_state p) == mapped ]] && all_in_sync
} 2> /dev/null

# WHO HOW WHEN BACK
scenario() {
	# Higher than what is recorded before.
	local first=1000000000 policy
	seed=$RANDOM
	prepare
	"scenario_$1" "${@:2}"
	wait_for "$sync_seconds" all_in_sync
	[[ ! $recorder ]] || sleep 2
	stop_recording
	# Each leg answers some of it.
	for policy in preferred=1 preferred=2 preferred=3 least-inflight; do
		sysfs_write client "$rmr_client/pools/p/read_policy" "$policy"
		client "rmr-iotest record $(pool_device p) --span $span --client $number --first $first --all" > "$work/lines" 2> "$work/errors"
		first=$((first + 10000))
		cat "$work/lines" >> "$history"
	done
	judge
	compare_data_areas p
}

seed=0
case ${RMR_FAULTS-} in
'') scenarios=$(few_scenarios) ;;
all) scenarios=$(all_scenarios) ;;
*) scenarios=${RMR_FAULTS//;/$'\n'} ;;
esac
cleanup unload_all
cleanup pool_down p
while read -r who how when back; do
	run_test "$who: $how, $when, $back" scenario "$who" "$how" "$when" "$back"
done <<< "$scenarios"
finish
