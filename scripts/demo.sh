#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make demo: from a fresh clone to file systems on /dev/brmr0, replicated by two storage nodes.
#
# Builds what is missing (Debian root, kernel, RTRS, modules, image), boots a client and two nodes as virtual machines,
# sets up a pool, works on its device with ext4, XFS and fio, kills a node under load, goes on without it, takes it back and
# shows how it catches up, stops everything and compares the data areas of the nodes' disks. The machines live in namespaces that end with this script, however it ends; only the cache stays.
#
# Environment: KERNEL (see scripts/kernel.sh), DEMO_SIZE (size of the volume, default 448M).

set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd -P)

pool=demo
# Beginning and size go with the script into the namespaces, whose environment keeps RMR_*.
export RMR_DEMO_BEGAN=${RMR_DEMO_BEGAN:-$EPOCHSECONDS} RMR_DEMO_SIZE=${RMR_DEMO_SIZE:-${DEMO_SIZE:-448M}}
# Real files of the client's own system: more than 2,000, more than 50 MiB.
sources='usr/share usr/sbin usr/lib/python3* stock/kernel/drivers/net'
least_files=2000
least_mib=50

if [[ -t 1 ]]; then
	bold=$'\e[1m' green=$'\e[32m' plain=$'\e[0m'
else
	bold='' green='' plain=''
fi

# now: seconds since the demo began.
now() {
	echo $((EPOCHSECONDS - RMR_DEMO_BEGAN))
}

# stage TEXT CMD...: says what is done, does it, says how long it took.
stage() {
	local text=$1 began=$EPOCHREALTIME tenths
	shift
	printf '%s[%4ds] %s%s\n' "$bold" "$(now)" "$text" "$plain"
	"$@"
	tenths=$(((${EPOCHREALTIME/./} - ${began/./}) / 100000))
	printf '        %sdone%s in %d.%d s\n' "$green" "$plain" $((tenths / 10)) $((tenths % 10))
}

# note TEXT: a result within a stage.
note() {
	printf '        %s\n' "$*"
}

#
# On the build side: everything that a second run finds in the cache.
#

quiet() {
	"$@" > /dev/null
}

build() {
	stage "Debian 13 root, for the compiler the kernel was built with" quiet "$scripts/root.sh"
	stage "kernel, its Rust metadata, and RTRS" quiet "$scripts/kernel.sh"
	stage "rmr.ko and brmr.ko" quiet "$scripts/modules.sh"
}

#
# Inside of the cluster's namespaces.
#

# The writes to sysfs, as an administrator would do them.
set_up_pool() {
	pool_up "$pool" 2 "$RMR_DEMO_SIZE"
	dev=$(pool_device "$pool")
	bytes=$(device_bytes "$pool")
	note "$pool_writes writes to sysfs made $dev: $(client lsblk -dno SIZE "$dev" | tr -d ' '), $(pool_state "$pool")"
}

# Lists the source files and their checksums; the same for both file systems.
take_checksums() {
	local files mib
	client "mkdir -p /run/demo && cd / && find $sources -xdev -type f -print0 | sort -z > /run/demo/files &&
		xargs -0 b2sum < /run/demo/files > /run/demo/sums"
	files=$(client "wc -l < /run/demo/sums")
	mib=$(client "cd / && du --files0-from=/run/demo/files -cb | tail -n 1 | cut -f 1")
	mib=$((mib >> 20))
	note "$files files, $mib MiB"
	((files >= least_files && mib >= least_mib)) || fail "that is less than $least_files files or $least_mib MiB"
}

# Copies the tree, saying how far it has got.
copy_tree() {
	client "before=\$(df --output=used -m /mnt | tail -n 1)
		tar --directory=/ --create --null --files-from=/run/demo/files | tar --directory=/mnt --extract & copy=\$!
		while kill -0 \$copy 2> /dev/null; do
			sleep 2; df --output=used -m /mnt | tail -n 1
		done | while read -r mib; do echo \"        \$((mib - before)) MiB on the file system\"; done
		wait \$copy && sync"
}

compare_tree() {
	# Several at once: a single reader would wait for one small file after the other.
	client "cd /mnt && split --number=l/8 /run/demo/sums /run/demo/part. || exit
		for part in /run/demo/part.*; do b2sum --quiet --check \$part & checks+=(\$!); done
		for check in \${checks[@]}; do wait \$check || exit; done"
	note "all checksums are right"
}

try_file_system() {
	local type=$1 make=$2 check=$3
	stage "$type: mkfs" client "wipefs --quiet --all $dev && $make $dev > /dev/null"
	stage "$type: mount, copy the tree" mount_and_copy
	stage "$type: unmount" client "umount /mnt"
	stage "$type: check the file system" client "$check $dev > /run/demo/check 2>&1 || { cat /run/demo/check; exit 1; }"
	stage "$type: mount again" client "echo 3 > /proc/sys/vm/drop_caches; mount $dev /mnt"
	stage "$type: compare every checksum" compare_tree
	stage "$type: unmount" client "umount /mnt"
}

mount_and_copy() {
	client "mount $dev /mnt"
	copy_tree
}

verify_with_fio() {
	client "fio --name=verify --filename=$dev --rw=randwrite --bs=16k --size=32M --ioengine=libaio --iodepth=16 --direct=1 \
		--verify=crc32c --do_verify=1 --verify_fatal=1 --eta=always --eta-newline=5 --output=/run/demo/fio |
		tr '\r' '\n' | sed -nE 's/^(Jobs: .*)/        \1/p'
		[ \${PIPESTATUS[0]} = 0 ] || { cat /run/demo/fio; exit 1; }"
	note "32 MiB written at random and verified"
}

# in_sync K...: whether these members have all data.
in_sync() {
	[[ $(sysfs_read client "$rmr_client/pools/$pool/in_sync") == "$*" ]]
}

# Kills the second node in the middle of writes. They go on; then there are more, so that it misses something.
kill_node() {
	client "fio --name=load --filename=$dev --rw=randwrite --bs=16k --size=$((bytes >> 1)) --ioengine=libaio --iodepth=16 --direct=1 \
		--time_based --runtime=12 --output-format=json --output=/run/demo/load" &
	local load=$!
	sleep 4
	cluster kill node2
	note "node2 is dead; fio has 16 requests in flight"
	wait_for 20 in_sync 1
	wait "$load" || fail "fio saw an error"
	note "the longest that a write took is $(client 'jq ".jobs[0].write.lat_ns.max / 1000000 | floor" /run/demo/load') ms: the pool goes on without node2"
	client "fio --name=more --filename=$dev --rw=write --bs=1M --size=$((bytes >> 1)) --ioengine=libaio --iodepth=8 --direct=1 \
		--output=/dev/null"
	note "$((bytes >> 21)) MiB more are written, which it missed"
}

# The second node boots, with the disk that it had.
take_node_back() {
	cluster start node2
	load_node 2
	node_join "$pool" 2
	sysfs_write node2 "$brmr_server/ctl/add_store" "device=$(backing 2) pool=$pool"
	note "node2 has its disk again; the client takes it back by itself"
}

# Shows how much is left, until both are in sync.
show_resync() {
	local session=$rmr_client/pools/$pool/sessions/node2 sent left rate most=0 done=''
	sent=$(client "cat /sys/class/net/eth1/statistics/tx_bytes")
	until in_sync 1 2; do
		read -r left rate < <(client "cd $session && echo \$(cat resync_left) \$(cat resync_rate)")
		[[ $left == [0-9]* ]] || continue
		((left <= most)) || most=$left
		((most)) || continue
		done=$(((most - left) * 40 / most))
		printf '        [%-40s] %4d MiB left, %d MiB/s\n' "$(printf '%*s' "$done" '' | tr ' ' '#')" $((left >> 20)) $((rate >> 20))
	done
	sent=$(($(client "cat /sys/class/net/eth1/statistics/tx_bytes") - sent))
	note "in sync. It came from node1 directly: the client sent $((sent >> 10)) KiB meanwhile"
}

stop_everything() {
	pool_down "$pool"
	unload_all
}

compare_disks() {
	compare_data_areas "$pool" "$bytes"
	note "$((bytes >> 20)) MiB of node1 and node2 are byte for byte the same"
}

work() {
	. "$scripts/../tests/lib.sh"
	. "$scripts/../tests/pool.sh"
	note "three machines run $(client uname -r)"
	stage "pool '$pool' with two storage nodes, and its device" set_up_pool
	stage "checksums of a tree of real files" take_checksums
	try_file_system ext4 'mkfs.ext4 -q -F' 'fsck.ext4 -fn'
	try_file_system XFS 'mkfs.xfs -q -f' 'xfs_repair -n'
	stage "fio with crc32c verify" verify_with_fio
	stage "a node dies under load" kill_node
	stage "the node boots again" take_node_back
	stage "the node gets what it missed, or may have lost" show_resync
	stage "stop: unmap, leave the pool, unload the modules" stop_everything
	stage "compare the data areas of both nodes' disks" compare_disks
	stage "kernel logs" cluster check-logs
	printf '\n%s%s lived on two nodes at once: ext4, XFS and fio found every byte, one node died and came back, and\n' \
		"$bold" "$dev"
	printf 'both disks hold the same. %d s in all. "make shell" gives you the same machines to play with.%s\n' "$(now)" "$plain"
}

case ${1-} in
'')
	build
	printf '%s[%4ds] three virtual machines: a client and two storage nodes%s\n' "$bold" "$(now)" "$plain"
	exec "$scripts/cluster" run --nodes 2 -- "$scripts/demo.sh" inside ;;
inside)
	work ;;
*)
	echo "usage: demo.sh" >&2
	exit 2 ;;
esac
