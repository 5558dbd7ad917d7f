# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# For the test scripts in tests/vm, on top of tests/lib.sh: pools and their devices on the cluster, brought up with
# nothing but the sysfs writes that the administrator's guide names, and looked at from outside.
#
# The backing device of every node is $POOL_BACKING (default /dev/vda); a script may override it for one node by setting
# pool_backing[K]. With pool_metadata[K] the store of that node has its metadata on that device. All functions fail, under set -e, with the first command that fails.
#
# To be sourced after lib.sh, which defines tests_top.
# shellcheck disable=SC2154

rmr_client=/sys/class/rmr-client
rmr_server=/sys/class/rmr-server
brmr_client=/sys/class/brmr-client
brmr_server=/sys/class/brmr-server

# Longest time that any administrative command may take.
admin_seconds=60
# Longest time until a leg is in the state that is waited for, in seconds.
leg_seconds=120
# Longest time that it may take to write everything back.
flush_seconds=300

declare -A pool_backing=() pool_metadata=()
pool_fresh=
# Sysfs writes since the last pool_up began.
pool_writes=0

backing() {
	echo "${pool_backing[$1]:-${POOL_BACKING:-/dev/vda}}"
}

# within SECONDS VM CMD...: as vm, but a command that takes longer counts as hung.
within() {
	local seconds status=0
	seconds=$(patience "$1")
	timeout "$seconds" "$tests_top/scripts/vm" "${@:2}" || status=$?
	((status != 124)) || fail "hangs for $seconds s on $2: ${*:3}"
	return "$status"
}

# sysfs_write VM FILE TEXT
sysfs_write() {
	pool_writes=$((pool_writes + 1))
	within "$admin_seconds" "$1" "echo $(printf %q "$3") > $(printf %q "$2")"
}

# sysfs_read VM FILE
sysfs_read() {
	within "$admin_seconds" "$1" "cat $(printf %q "$2")"
}

# bytes SIZE: of a size with K, M, G or T.
bytes() {
	numfmt --from=iec "$1"
}

sectors() {
	echo $(($(bytes "$1") / 512))
}

# address K [FAMILY]: RTRS address of a node.
address() {
	case ${2-4} in
	4) echo "ip:10.77.1.$1" ;;
	6) echo "ip:fd77:1::$1" ;;
	esac
}

load_client() {
	within "$admin_seconds" client modprobe brmr-client
}

load_node() {
	within "$admin_seconds" "node$1" modprobe brmr-server
}

load_all() {
	local k
	load_client
	for ((k = 1; k <= $1; k++)); do
		load_node "$k"
	done
}

unload_all() {
	local name
	for name in $(vms); do
		within "$admin_seconds" "$name" 'for m in brmr rmr rtrs_client rtrs_server rtrs_core; do
			[ ! -d /sys/module/$m ] || rmmod $m || exit; done'
	done
}

#
# The steps of a bring-up, one sysfs write each.
#

# Makes a node's backing device empty, so that all legs begin equal: as new; its metadata device, too.
wipe_backing() {
	local dev
	for dev in "$(backing "$1")" ${pool_metadata[$1]:+"${pool_metadata[$1]}"}; do
		node "$1" "wipefs --quiet --all --force $dev; blkdiscard --force --quiet --zeroout $dev 2> /dev/null ||
			dd if=/dev/zero of=$dev bs=1M oflag=direct status=none || :"
	done
}

# store_devices K: the options of create_store and add_store that say where the store of a node is.
store_devices() {
	echo "device=$(backing "$1")${pool_metadata[$1]:+ metadata=${pool_metadata[$1]}}"
}

# wipe_all LEGS: so many backing devices; of all others what a store is recognised by, or they would count as legs.
wipe_all() {
	local name k
	for name in $(nodes); do
		k=${name#node}
		if ((k <= $1)); then
			wipe_backing "$k"
		else
			node "$k" "dd if=/dev/zero of=$(backing "$k") bs=1M count=32 oflag=direct status=none"
		fi
	done
}

# node_join POOL K
node_join() {
	sysfs_write "node$2" "$rmr_server/ctl/join_pool" "poolname=$1 member_id=$2"
}

# node_store POOL K SIZE [OPTION...]
node_store() {
	sysfs_write "node$2" "$brmr_server/ctl/create_store" \
		"$(store_devices "$2") pool=$1 mapped_size=$(sectors "$3")${4:+ ${*:4}}"
}

# node_add POOL K: the store that is there.
node_add() {
	sysfs_write "node$2" "$brmr_server/ctl/add_store" "$(store_devices "$2") pool=$1"
}

# node_back POOL K: after a reboot, with the store that it had.
node_back() {
	load_node "$2"
	node_join "$1" "$2"
	node_add "$1" "$2"
}

# client_join POOL [OPTION...]
client_join() {
	sysfs_write client "$rmr_client/ctl/join_pool" "poolname=$1${2:+ ${*:2}}"
}

# client_leg POOL K [FAMILY]
client_leg() {
	sysfs_write client "$rmr_client/pools/$1/add_sess" "sessname=node$2 path=$(address "$2" "${3-4}")"
}

# client_map POOL
client_map() {
	sysfs_write client "$brmr_client/ctl/map_device" "pool=$1"
}

#
# Pools.
#

# pool_device POOL: the device on the client; empty if there is none.
pool_device() {
	client 'for d in /sys/block/brmr*; do
		[ -e $d/brmr/pool ] && [ "$(cat $d/brmr/pool)" = '"$1"' ] && echo /dev/${d##*/}; done; :'
}

# pool_up NAME LEGS SIZE [STORE-OPTION...]: from nothing to a device; wipes the backing devices first, unless pool_fresh
# says that they are new. pool_io_timeout: how long IO waits for a node, in ms. pool_secret: a key that all VMs have.
pool_up() {
	local name=$1 legs=$2 size=$3 k
	shift 3
	load_all "$legs"
	[[ $pool_fresh ]] || wipe_all "$legs"
	pool_writes=0
	for ((k = 1; k <= legs; k++)); do
		node_join "$name" "$k"
		node_store "$name" "$k" "$size" "$@" ${pool_secret:+"secret=$pool_secret"}
	done
	client_join "$name"
	[[ -z ${pool_secret-} ]] || sysfs_write client "$rmr_client/pools/$name/secret" "$pool_secret"
	for ((k = 1; k <= legs; k++)); do
		client_leg "$name" "$k"
	done
	[[ -z ${pool_io_timeout-} ]] || sysfs_write client "$rmr_client/pools/$name/io_timeout" "$pool_io_timeout"
	client_map "$name"
	wait_for 20 client "[ -b '$(pool_device "$name")' ]"
	for ((k = 1; k <= legs; k++)); do
		wait_for 30 nodes_met "$name" "$k" $((legs - 1))
	done
}

# nodes_met POOL K OTHERS: whether a node is connected to so many others, where the client told it that they are.
nodes_met() {
	[[ $(node "$2" "cat $rmr_server/pools/$1/peers/*/state 2> /dev/null" | grep -c '^connected$') == "$3" ]]
}

# device_unmap POOL: when udev has done looking at it.
device_unmap() {
	local dev
	dev=$(pool_device "$1")
	[[ -z $dev ]] || client udevadm settle
	[[ -z $dev ]] || sysfs_write client "$brmr_client/devices/${dev##*/}/unmap_device" 1
}

# client_leave POOL: with all its legs.
client_leave() {
	if client "[ -d $rmr_client/pools/$1 ]"; then
		sysfs_write client "$rmr_client/pools/$1/leave_pool" 1
	fi
}

# store_remove POOL K: takes the store away; what is on the disk stays.
store_remove() {
	if node "$2" "[ -d $brmr_server/stores/$1 ]"; then
		sysfs_write "node$2" "$brmr_server/stores/$1/remove_store" 1
	fi
}

# node_leave POOL K
node_leave() {
	if node "$2" "[ -d $rmr_server/pools/$1 ]"; then
		sysfs_write "node$2" "$rmr_server/pools/$1/leave_pool" 1
	fi
}

# pool_down NAME: whatever there is of a pool; what is on the disks stays.
pool_down() {
	local name k
	device_unmap "$1"
	client_leave "$1"
	for name in $(nodes); do
		k=${name#node}
		store_remove "$1" "$k"
		node_leave "$1" "$k"
	done
}

#
# Looking at the nodes' devices.
#

# data_offset POOL K: where the data area begins on a node's backing device, in bytes.
data_offset() {
	node "$2" "rmr-iotest layout $(backing "$2")" | sed -n 's/^data_offset //p'
}

# device_bytes POOL: size of the device.
device_bytes() {
	client blockdev --getsize64 "$(pool_device "$1")"
}

# flush_device POOL: everything written is at the nodes' devices.
flush_device() {
	local dev
	dev=$(pool_device "$1")
	# Of these three only the second one tells the nodes.
	within "$flush_seconds" client "sync; sync $dev; blockdev --flushbufs $dev"
}

# data_digest POOL K SIZE: checksums of a node's data area.
data_digest() {
	local offset
	offset=$(data_offset "$1" "$2")
	node "$2" "rmr-iotest digest $(backing "$2") --offset-base $offset --span $3"
}

# compare_data_areas POOL [SIZE]: fails unless the data areas of all legs are byte for byte equal. With the pool's device
# gone, the size has to be given. /dev/vda of a node is a file here, which is compared as such; other backing devices are
# compared by checksums of every MiB.
compare_data_areas() {
	local size=${2-} legs k
	if [[ -z $size ]]; then
		size=$(device_bytes "$1")
		flush_device "$1"
	fi
	size=$(bytes "$size")
	read -r -a legs <<< "$(pool_legs "$1" | paste -s -d ' ')"
	((${#legs[@]} > 0)) || fail "pool $1 has no legs"
	for k in "${legs[@]:1}"; do
		if [[ $(backing "${legs[0]}") == /dev/vda && $(backing "$k") == /dev/vda ]]; then
			cmp --ignore-initial="$(data_offset "$1" "${legs[0]}"):$(data_offset "$1" "$k")" --bytes="$size" \
				"$(cluster disk "node${legs[0]}" data0)" "$(cluster disk "node$k" data0)" ||
				fail "node$k differs from node${legs[0]}"
		else
			diff <(data_digest "$1" "${legs[0]}" "$size") <(data_digest "$1" "$k" "$size") ||
				fail "node$k differs from node${legs[0]}"
		fi
	done
}

# pool_legs POOL: numbers of the nodes whose backing device holds a store of the pool.
pool_legs() {
	local name k
	for name in $(nodes); do
		k=${name#node}
		if [[ $(node "$k" "rmr-iotest layout $(backing "$k") 2> /dev/null | sed -n 's/^pool //p'") == "$1" ]]; then
			echo "$k"
		fi
	done
}

# sysfs files that are words: pool_state POOL, device_state POOL, leg_state POOL K
pool_state() {
	sysfs_read client "$rmr_client/pools/$1/state"
}

device_state() {
	local dev
	dev=$(pool_device "$1")
	sysfs_read client "$brmr_client/devices/${dev##*/}/state"
}

leg_state() {
	sysfs_read client "$rmr_client/pools/$1/sessions/node$2/state"
}

# leg_is POOL K STATE
leg_is() {
	[[ $(leg_state "$1" "$2") == "$3" ]]
}

# wait_legs POOL STATE K...: until these legs are in that state.
wait_legs() {
	local k
	for k in "${@:3}"; do
		wait_for "$leg_seconds" leg_is "$1" "$k" "$2"
	done
}

# pool_in_sync POOL: members with all data: "1 2 3".
pool_in_sync() {
	sysfs_read client "$rmr_client/pools/$1/in_sync"
}

# all_in_sync POOL LEGS: whether members 1 to LEGS are, and no others.
all_in_sync() {
	[[ $(pool_in_sync "$1") == "$(seq -s ' ' "$2")" ]]
}

# is_out POOL K: whether the pool goes on without a leg.
is_out() {
	local set
	set=$(pool_in_sync "$1") && [[ " $set " != *" $2 "* ]]
}

#
# An application.
#

# writes POOL SECONDS: against a model, in the background of the test; wait_writes tells how it went.
writes() {
	client "rmr-iotest model $(pool_device "$1") --seconds $2 --span 32M --max-io 64K" &
	writer=$!
}

wait_writes() {
	wait "$writer" || fail "the application saw an error"
}
