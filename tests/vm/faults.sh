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
. "$(dirname "$0")/../history.sh"
. "$(dirname "$0")/../breakage.sh"
cluster fault node1 data0 none 2> /dev/null || skip_all "the disks of this cluster cannot fail (--nbdkit)"

# shellcheck disable=SC2034 # for history.sh and breakage.sh
leg_count=3 size=96M span=24M
# shellcheck disable=SC2034 # for pool_up
pool_io_timeout=8000
# Longest time until all legs are in sync again, in seconds.
sync_seconds=180

# Who fails: node (3), two (2 and 3), client, all. How: see break_node. When: idle, writes, flushes, resync (of node 2), rejoin
# (of node 2), second (node 2 is down already), admin (node 2 is being taken out). Comes back: same, late, empty (disk), old (disk).
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
	node rdma writes same
	node write-error writes same
	client kill writes same
	all kill flushes same
	END
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
		wait_for 60 leg_is p 2 catching_up || : ;;
	rejoin)
		record
		sysfs_write node2 "$brmr_server/stores/p/remove_store" force
		wait_for 60 is_out p 2
		node_add p 2 ;;
	second)
		record
		cluster kill node2
		wait_for 60 is_out p 2 ;;
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
		node_back p 2 ;;
	admin)
		wait_for 60 let_in 2 ;;
	esac
}

# Is what was just done the end of the leg, for the pool? Errors only if somebody meets them.
notices() {
	case $1 in
	write-error | hang) [[ $2 != idle && $2 != admin ]] ;;
	# What cannot be read is read from another leg.
	read-error | reset | pause) false ;;
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
		wait_for 60 is_out p "$k"
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
		is_out p "$k" || fail "an old disk is in sync"
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
		client_back
		attached
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
		node_back p "$k"
	done
	cluster start client
	client_back
	attached
	after "$2"
}

# WHO HOW WHEN BACK
scenario() {
	seed=$RANDOM
	pool_ready
	new_history
	"scenario_$1" "${@:2}"
	wait_for "$sync_seconds" all_in_sync p "$leg_count"
	[[ ! $recorder ]] || sleep 2
	stop_recording
	settled
	read_all
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
