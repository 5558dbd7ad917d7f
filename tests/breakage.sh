# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# For test scripts, on top of tests/pool.sh: nodes and disks are broken and mended, and machines come back. What the
# application sees of it is no matter here (tests/history.sh).
#
# The pool is p. Of the script: leg_count (number of nodes), size (of the volume), sync_seconds (longest time until all legs are in sync
# again), refused_seconds (how long a client that comes back may be refused a session, on a busy machine; 0). The cluster was
# made with --nbdkit.
# shellcheck disable=SC2154

members=$rmr_client/pools/p/sessions

# break_node HOW K, mend_node HOW K. How: kill (power), reset (reboot, disks keep their power), cut, cut-in (hears nothing any
# more), apart (does not reach other nodes), pause, read-error, write-error, hang (of the disk), remove (of the
# store), rmmod, rdma (device removed).
break_node() {
	case $1 in
	kill) cluster kill "node$2" ;;
	reset) cluster reset "node$2" ;;
	cut) cluster link "node$2" 1 down ;;
	cut-in) cluster exec tc qdisc replace dev "node$2.1" root pfifo limit 0 ;;
	apart) others "$2" replace "lladdr 02:00:00:00:00:01 nud permanent" ;;
	pause) cluster pause "node$2" ;;
	read-error | write-error | hang) cluster fault "node$2" data0 "$1" ;;
	remove) sysfs_write "node$2" "$brmr_server/stores/p/remove_store" force ;;
	rmmod)
		sysfs_write "node$2" "$brmr_server/stores/p/remove_store" force
		node_leave p "$2"
		node "$2" rmmod brmr rmr ;;
	rdma) node "$2" rdma link delete rxe0 ;;
	esac
}

mend_node() {
	case $1 in
	kill)
		cluster start "node$2"
		node_back p "$2" ;;
	reset | rmmod) node_back p "$2" ;;
	cut) cluster link "node$2" 1 up ;;
	cut-in) cluster exec tc qdisc del dev "node$2.1" root ;;
	apart) others "$2" del ;;
	pause) cluster resume "node$2" ;;
	read-error | write-error | hang) cluster fault "node$2" data0 none ;;
	remove) node_add p "$2" ;;
	# As scripts/vm-init: nothing may arrive yet.
	rdma) node "$2" "ip link set eth1 down && rdma link add rxe0 type rxe netdev eth1 && ip link set eth1 up" ;;
	esac
}

# others K COMMAND [OPTIONS]: what a node believes of the Ethernet addresses of the others. (Of a blackhole route RXE takes no
# notice, as it names the interface.)
others() {
	local k commands=
	for ((k = 1; k <= leg_count; k++)); do
		((k == $1)) || commands+="ip neigh $2 10.77.1.$k dev eth1 ${3-}; "
	done
	node "$1" "set -e; $commands"
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

# let_in K: refused while something else changes, and by a client that has forgotten.
let_in() {
	[[ $(sysfs_read client "$members/node$1/maintenance") == 0 ]] ||
		sysfs_write client "$members/node$1/maintenance" 0 2> /dev/null
}

# client_back: a client that was just booted maps the pool again. Members that were in sync have to be there.
client_back() {
	local k
	load_client
	client_join p
	sysfs_write client "$rmr_client/pools/p/io_timeout" "$pool_io_timeout"
	for ((k = 1; k <= leg_count; k++)); do
		wait_for "${refused_seconds-0}" client_leg p "$k"
	done
	# Nodes believe for a while that the old one is alive.
	wait_for 60 client_map p
	wait_for 30 client "[ -b '$(pool_device p)' ]"
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
	for ((k = 1; k <= leg_count; k++)); do
		cluster fault "node$k" data0 none
	done
	cluster reset "${running[@]}"
}

# pool_ready: a pool with all legs in sync, whatever was left.
pool_ready() {
	if ! pool_works; then
		renew
		pool_up p "$leg_count" "$size"
	fi
	wait_for "$sync_seconds" all_in_sync p "$leg_count"
}

# settled: all legs are in sync when everything that was written is on them. Before that a leg may be lost and nobody have noticed: the end of
# a flush, which all legs get, says that somebody has.
settled() {
	flush_device p
	wait_for "$sync_seconds" all_in_sync p "$leg_count"
}

pool_works() {
	[[ $(cluster status | grep -c ' running$') == $((leg_count + 1)) && $(pool_device p) && $(pool_state p) == mapped ]] &&
		all_in_sync p "$leg_count"
} 2> /dev/null
