#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make chaos: five nodes under load, and for so many minutes what is drawn fails: nodes, disks, links, the client, everything; or an
# administrator changes something. It is mended after a while. A round is one fault or two at once; after some rounds there is
# a quiet point, at which all legs have to be in sync, everything is read through each leg, the history is judged, and the disks are
# compared. Each stretch of rounds up to a quiet point is one test; the first that fails is the last.
#
# RMR_CHAOS_MINUTES: how long (10). RMR_CHAOS_SEED: all that is drawn follows from it (a random one, which is printed).
#
# What the pool does not promise to survive is not done: two members with all data stay whole, unless everything is cut off at
# once, or loses its power with the client.

export RMR_CHAOS_MINUTES=${RMR_CHAOS_MINUTES:-10} RMR_CHAOS_SEED=${RMR_CHAOS_SEED:-$RANDOM}
. "$(dirname "$0")/lib.sh"
need_nodes 5 --nbdkit --disk 128M --disk2 0 --timeout 400
. "$(dirname "$0")/pool.sh"
. "$(dirname "$0")/history.sh"
. "$(dirname "$0")/breakage.sh"
cluster fault node1 data0 none 2> /dev/null || skip_all "the disks of this cluster cannot fail (--nbdkit)"

# shellcheck disable=SC2034 # for history.sh and breakage.sh
leg_count=5 size=96M span=24M record_seconds=36000 refused_seconds=120
# shellcheck disable=SC2034 # for pool_up
pool_io_timeout=10000
# Longest time until all legs are in sync again, in seconds: six machines share what there is of CPUs.
sync_seconds=420
# And that a command may take.
# shellcheck disable=SC2034 # for pool.sh
admin_seconds=120
# Up to a quiet point: five to ten minutes.
rounds_per_stretch=8
# Members with all data that nothing is done to.
whole=2

# Progress is told at once, not at the end of the test.
exec 3>&1

# tell TEXT: a line with the time since the begin.
tell() {
	local now=$((SECONDS - first_second))
	printf '# %d:%02d:%02d %s\n' $((now / 3600)) $((now / 60 % 60)) $((now % 60)) "$*" | tee -a "$work/told" >&3
}

#
# What is drawn. All of it from one seed, whatever happens meanwhile; so a seed gives the same faults again.
#

# dice SEED NUMBER: begins the sequence of a stretch.
dice() {
	drawn=$(($1 * 6364136223846793005 + $2 * 1442695040888963407))
	roll 1
	roll 1
}

# roll N: sets rolled to a number below N. (Not RANDOM, which subshells begin anew.)
roll() {
	drawn=$((drawn * 6364136223846793005 + 1442695040888963407))
	rolled=$(((drawn >> 33 & 0x7fffffff) % $1))
}

# pick WORD...: sets picked to one of them.
pick() {
	roll $#
	shift "$rolled"
	picked=$1
}

pick_node_fault() {
	pick kill kill reset cut cut cut-in apart pause read-error write-error hang remove rmmod rdma
	faults+=("$picked $1")
}

pick_command() {
	pick maintenance disassemble delete empty old invalidate paused
	faults+=("$picked $1")
}

# Sets faults ("HOW WHO"), which are mended in this order; backwards, whether they begin the other way round; between, hold, gap:
# seconds between two of them, after the last, and to the next round.
draw_round() {
	local who other what
	faults=()
	roll 5
	who=$((rolled + 1))
	roll 4
	other=$(((who + rolled) % 5 + 1))
	roll 100
	what=$rolled
	if ((what < 35)); then
		pick_node_fault "$who"
	elif ((what < 57)); then
		pick_node_fault "$who"
		pick_node_fault "$other"
	elif ((what < 67)); then
		pick_command "$who"
	elif ((what < 78)); then
		pick_node_fault "$who"
		pick_command "$other"
	elif ((what < 84)); then
		pick client-cut client-pause client-kill
		faults+=("$picked client")
	elif ((what < 91)); then
		# Last, as a client that comes back needs who was in sync.
		pick_node_fault "$who"
		pick client-cut client-pause client-kill
		faults+=("$picked client")
	elif ((what < 94)); then
		faults+=("all-kill all")
	elif ((what < 97)); then
		faults+=("all-cut all")
	else
		faults+=("reopen client")
	fi
	roll 2
	backwards=$rolled
	pick 0 1 3 8
	between=$picked
	pick 0 2 5 10 20 40
	hold=$picked
	pick 0 0 3 10
	gap=$picked
}

#
# Breaking and mending, beyond that of nodes.
#

# Members that lost power, and were not seen to be out since: should the client die as well, the pool may start with them.
declare -A lost_power=()
# Whether the client can be asked.
client_runs=1

look() {
	local set k
	((client_runs)) || return 0
	set=$(pool_in_sync p)
	[[ $set ]] || return 0
	for k in "${!lost_power[@]}"; do
		[[ " $set " == *" $k "* ]] || unset "lost_power[$k]"
	done
}

# hold_for SECONDS
hold_for() {
	local until=$((SECONDS + $1))
	while ((SECONDS < until)); do
		look
		sleep 1
	done
}

# enough WHO...: whether enough others than these have all data. A cut that was mended may still end connections; a flush is
# answered by all.
enough() {
	others_in_sync "$@" && within "$admin_seconds" client "sync $(pool_device p)" && others_in_sync "$@"
}

others_in_sync() {
	local k set others=0
	set=$(pool_in_sync p)
	for k in $set; do
		[[ " $* " == *" $k "* ]] || others=$((others + 1))
	done
	((others >= whole))
}

start_recording() {
	seed=$((seed + 1))
	# shellcheck disable=SC2086 # words
	record $load
}

# The client was killed, and everything that it knew is gone.
client_returns() {
	local k
	cluster start client
	client_runs=1
	client_back
	for k in "${!lost_power[@]}"; do
		cache_lost "$k"
	done
	lost_power=()
	attached
	start_recording
}

# Commands that are refused while something else changes; done if they were before.
keep_out() {
	[[ $(sysfs_read client "$members/node$1/maintenance") == 1 ]] || sysfs_write client "$members/node$1/maintenance" 1
}

take_out() {
	client "[ ! -e $members/node$1 ]" || sysfs_write client "$members/node$1/del_sess" "mode=$2"
}

take_in() {
	client "[ -e $members/node$1 ]" ||
		sysfs_write client "$rmr_client/pools/p/add_sess" "sessname=node$1 path=$(address "$1") mode=$2"
}

invalidate() {
	sysfs_write client "$members/node$1/invalidate" 1
}

# break_it HOW WHO, mend_it HOW WHO
break_it() {
	local k disk
	case $1 in
	client-cut) cluster link client 1 down ;;
	client-pause)
		cluster pause client
		client_runs=0 ;;
	client-kill)
		look
		cluster kill client
		client_runs=0
		stop_recording
		gone ;;
	all-cut)
		for ((k = 1; k <= leg_count; k++)); do
			cluster link "node$k" 1 down
		done ;;
	all-kill)
		for ((k = 1; k <= leg_count; k++)); do
			cluster kill "node$k"
			lost_power[$k]=1
		done
		cluster kill client
		client_runs=0
		stop_recording
		gone ;;
	reopen)
		stop_recording
		device_unmap p
		gone ;;
	maintenance) wait_for "$leg_seconds" keep_out "$2" ;;
	disassemble | delete) wait_for "$leg_seconds" take_out "$2" "$1" ;;
	empty)
		sysfs_write "node$2" "$brmr_server/stores/p/remove_store" force
		wait_for "$leg_seconds" is_out p "$2" ;;
	old)
		# Nothing of it that is remembered elsewhere is newer than the pool without the member.
		disk=$(cluster disk "node$2" data0)
		cp --sparse=always "$disk" "$disk.old"
		sleep 2
		cluster kill "node$2"
		wait_for "$leg_seconds" is_out p "$2" ;;
	invalidate) wait_for "$leg_seconds" invalidate "$2" ;;
	paused)
		sysfs_write "node$2" "$rmr_server/pools/p/resync_paused" 1
		wait_for "$leg_seconds" invalidate "$2" ;;
	*)
		break_node "$@"
		case $1 in kill | reset) lost_power[$2]=1 ;; esac ;;
	esac
}

mend_it() {
	local k pids=() disk
	case $1 in
	client-cut) cluster link client 1 up ;;
	client-pause)
		cluster resume client
		client_runs=1 ;;
	client-kill) client_returns ;;
	all-cut)
		for ((k = 1; k <= leg_count; k++)); do
			cluster link "node$k" 1 up
		done ;;
	all-kill)
		for ((k = 1; k <= leg_count; k++)); do
			cluster start "node$k" &
			pids+=($!)
		done
		for k in "${pids[@]}"; do
			wait "$k"
		done
		for ((k = 1; k <= leg_count; k++)); do
			node_back p "$k"
		done
		client_returns ;;
	reopen)
		client_map p
		wait_for 30 client "[ -b '$(pool_device p)' ]"
		attached
		start_recording ;;
	maintenance) wait_for "$leg_seconds" let_in "$2" ;;
	disassemble)
		wait_for "$leg_seconds" take_in "$2" assemble
		wait_for "$leg_seconds" let_in "$2" ;;
	delete)
		# The node hears of it by silence.
		wait_for "$leg_seconds" sysfs_write "node$2" "$brmr_server/stores/p/delete_store" 1
		node_leave p "$2"
		wipe_backing "$2"
		node_join p "$2"
		node_store p "$2" "$size"
		wait_for "$leg_seconds" take_in "$2" create ;;
	empty) new_disk "$2" ;;
	old)
		disk=$(cluster disk "node$2" data0)
		mv "$disk.old" "$disk"
		cluster start "node$2"
		node_back p "$2"
		sleep 5
		is_out p "$2" || fail "an old disk is in sync"
		new_disk "$2" ;;
	invalidate) ;;
	paused) sysfs_write "node$2" "$rmr_server/pools/p/resync_paused" 0 ;;
	*) mend_node "$@" ;;
	esac
}

#
# Rounds.
#

still_writes() {
	[[ ! $recorder ]] || kill -0 "$recorder" 2> /dev/null || {
		cat "$work/errors"
		fail "the application saw an error"
	}
}

# round NUMBER: as it was drawn.
round() {
	local fault who=() order=("${faults[@]}") how whom
	for fault in "${faults[@]}"; do
		who+=("${fault#* }")
	done
	wait_for "$sync_seconds" enough "${who[@]}"
	((!backwards || ${#faults[@]} == 1)) || order=("${faults[1]}" "${faults[0]}")
	tell "round $1: ${order[0]}${order[1]:+, after $between s ${order[1]}}, for $hold s"
	for fault in "${order[@]}"; do
		read -r how whom <<< "$fault"
		break_it "$how" "$whom"
		echo "$how" >> "$work/done"
		[[ $fault == "${order[-1]}" ]] || hold_for "$between"
	done
	hold_for "$hold"
	for fault in "${faults[@]}"; do
		read -r how whom <<< "$fault"
		mend_it "$how" "$whom"
	done
	hold_for "$gap"
	still_writes
}

# Whether requests are answered.
goes_on() {
	local before
	before=$(stat -c %s "$work/lines")
	sleep 2
	(($(stat -c %s "$work/lines") > before))
}

quiet_point() {
	wait_for "$sync_seconds" all_in_sync p "$leg_count"
	still_writes
	wait_for 60 goes_on
	stop_recording
	settled
	read_all
	judge | tee "$work/judged"
	tell "all in sync; $(< "$work/judged")"
	sed -nE 's/^([0-9]+) events.*: ([0-9]+) requests.*/\1 \2/p' "$work/judged" >> "$work/counts"
	compare_data_areas p
}

# stretch NUMBER: rounds and a quiet point.
stretch() {
	local k
	dice "$RMR_CHAOS_SEED" "$1"
	pick "--reads 30" "--reads 10 --flushes 40 --max-io 16K" "--reads 50 --flushes 2" "--threads 8 --max-io 8K"
	load=$picked
	pick least-inflight round-robin preferred=1 preferred=3
	roll 1000000
	seed=$rolled
	wait_for "$sync_seconds" all_in_sync p "$leg_count"
	sysfs_write client "$rmr_client/pools/p/read_policy" "$picked"
	new_history
	start_recording
	for ((k = 1; k <= rounds_per_stretch && SECONDS < deadline; k++)); do
		draw_round
		round "$1.$k"
	done
	quiet_point
}

# What is left after a failure, for who wants to know why.
keep_evidence() {
	local folder name
	folder=$(mktemp -d "/tmp/rmr-chaos-$RMR_CHAOS_SEED.XXXX")
	cp -r "$work" "$folder/work"
	cluster status > "$folder/status" 2>&1 || :
	for name in $(vms); do
		# shellcheck disable=SC2016 # for the shell of the VM
		timeout 30 "$tests_top/scripts/vm" "$name" 'cd /sys/devices/virtual && grep -r . rmr-* brmr-* 2> /dev/null; dmesg' \
			> "$folder/$name.state" 2>&1 < /dev/null || :
		timeout 30 "$tests_top/scripts/cluster" sysrq "$name" w || :
	done
	sleep 3
	for name in $(vms); do
		cp "$RMR_RUN/$name/console.log" "$folder/$name.log"
	done
	echo "# history, kernel logs, states: $folder"
	echo "# again: make chaos SEED=$RMR_CHAOS_SEED MINUTES=$RMR_CHAOS_MINUTES"
}

take_down() {
	pool_down p
	unload_all
	pool_teardown_check
}

summary() {
	local what
	what=$(sort "$work/done" | uniq -c | sort -rn | awk '{ printf "%s%s %d", sep, $2, $1; sep = ", " }')
	tell "seed $RMR_CHAOS_SEED: $(wc -l < "$work/done") faults: $what"
	awk '{ events += $1; requests += $2 } END { printf "# %d histories: %d events, %d requests\n", NR, events, requests }' "$work/counts"
}

: > "$work/done"
: > "$work/counts"
echo "# seed $RMR_CHAOS_SEED, $RMR_CHAOS_MINUTES minutes"
run_test "five legs" pool_up p "$leg_count" "$size"
first_second=$SECONDS
deadline=$((first_second + RMR_CHAOS_MINUTES * 60))
for ((number_of_stretch = 1; SECONDS < deadline && tests_failed == 0; number_of_stretch++)); do
	run_test "stretch $number_of_stretch" stretch "$number_of_stretch"
done
summary
if ((tests_failed)); then
	keep_evidence
else
	run_test "the pool is taken down" take_down
fi
finish
