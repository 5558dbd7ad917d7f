#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sets up and takes down what "make bench" compares, on the cluster in $RMR_RUN (a client, two nodes):
#
#   contenders.sh up NAME      prints the device on the client
#   contenders.sh down NAME    also after an "up" that failed half-way
#
#   brmr      a pool of two legs
#   rnbd      RNBD to one node
#   md-rnbd   md raid1 over RNBD to two nodes
#   md-nvme   md raid1 over NVMe/RDMA to two nodes
#
# The backing device is the same for all: a RAM disk on each node, so that what is compared is the way there. A kernel
# can have only one RTRS server, so RNBD's and ours take turns. Nothing here measures.

set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd -P)
: "${RMR_RUN:?is not set: which cluster?}"

backing=/dev/ram0
backing_mib=${BENCH_BACKING:-160}
prefill_mib=${BENCH_SPAN:-64}
md=/dev/md/bench
nqn=nqn.2026-01.rmr.bench
nodes=(node1 node2)

on() {
	"$top/scripts/vm" "$@"
}

address() {
	echo "10.77.1.${1#node}"
}

# Every node gets its RAM disk once. What the last contender wrote at its beginning goes: udev would bring an md
# superblock back to life.
make_backing() {
	local node
	for node in "${nodes[@]}"; do
		on "$node" "[ -b $backing ] || modprobe brd rd_nr=1 rd_size=$((backing_mib * 1024))
			dd if=/dev/zero of=$backing bs=1M count=4 oflag=direct status=none"
	done
}

# Writes what the jobs will use, so that no contender pays for the first touch.
prefill() {
	on client "dd if=/dev/zero of=$1 bs=1M count=$prefill_mib oflag=direct status=none"
}

# wait_for HOST TEST: until a shell test holds on a host.
wait_for() {
	on "$1" "for i in \$(seq 200); do $2 && exit 0; sleep 0.05; done; echo 'still not: $2' >&2; exit 1"
}

rnbd_up() {
	local node
	for node; do
		on "$node" "modprobe rnbd-server"
	done
	on client "modprobe rnbd-client"
	for node; do
		on client "echo 'sessname=bench-$node path=ip:$(address "$node") device_path=$backing' \
			> /sys/class/rnbd-client/ctl/map_device"
	done
}

rnbd_down() {
	local node
	on client "for d in /sys/block/rnbd*/rnbd/unmap_device; do [ -e \$d ] && echo force > \$d; done
		! [ -d /sys/module/rnbd_client ] || rmmod rnbd-client"
	for node in "${nodes[@]}"; do
		on "$node" "! [ -d /sys/module/rnbd_server ] || rmmod rnbd-server"
	done
}

nvme_up() {
	local node
	for node; do
		on "$node" "modprobe -a configfs nvmet-rdma &&
			{ mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config; } &&
			cd /sys/kernel/config/nvmet &&
			mkdir -p subsystems/$nqn-$node/namespaces/1 ports/1 &&
			echo 1 > subsystems/$nqn-$node/attr_allow_any_host &&
			echo $backing > subsystems/$nqn-$node/namespaces/1/device_path &&
			echo 1 > subsystems/$nqn-$node/namespaces/1/enable &&
			echo rdma > ports/1/addr_trtype && echo ipv4 > ports/1/addr_adrfam &&
			echo $(address "$node") > ports/1/addr_traddr && echo 4420 > ports/1/addr_trsvcid &&
			ln -s \$PWD/subsystems/$nqn-$node ports/1/subsystems/"
		on client "modprobe nvme-rdma &&
			echo 'transport=rdma,traddr=$(address "$node"),trsvcid=4420,nqn=$nqn-$node' > /dev/nvme-fabrics"
	done
}

nvme_down() {
	local node
	on client "for c in /sys/class/nvme/nvme*/delete_controller; do [ -e \$c ] && echo 1 > \$c; done; :"
	for node in "${nodes[@]}"; do
		on "$node" "cd /sys/kernel/config/nvmet 2> /dev/null || exit 0
			rm -f ports/*/subsystems/*
			for n in subsystems/*/namespaces/*; do [ -d \$n ] && rmdir \$n; done
			for d in subsystems/* ports/*; do [ -d \$d ] && rmdir \$d; done; :"
	done
}

# md_up DEVICE...: without a bitmap, which would only cost it.
md_up() {
	on client "modprobe raid1 && mdadm --quiet --create $md --run --assume-clean --bitmap=none --metadata=1.2 \
		--level=1 --raid-devices=$# $* < /dev/null" >&2
	wait_for client "[ -b $md ]"
}

md_down() {
	on client "for m in /dev/md[0-9]*; do [ -b \$m ] && mdadm --quiet --stop \$m; done
		for m in /dev/rnbd[01] /dev/nvme[01]n1; do [ -b \$m ] && mdadm --quiet --zero-superblock \$m; done; :"
}

brmr_up() {
	POOL_BACKING=$backing bash -c '
		. "$1/tests/lib.sh"
		. "$1/tests/pool.sh"
		pool_up bench 2 '"$((backing_mib - 32))M"' >&2
		pool_device bench' brmr_up "$top"
}

brmr_down() {
	bash -c '
		. "$1/tests/lib.sh"
		. "$1/tests/pool.sh"
		pool_down bench
		unload_all' brmr_down "$top" >&2
}

up() {
	local device
	make_backing
	case $1 in
	brmr)
		device=$(brmr_up) ;;
	rnbd)
		rnbd_up node1
		device=/dev/rnbd0 ;;
	md-rnbd)
		rnbd_up "${nodes[@]}"
		wait_for client "[ -b /dev/rnbd1 ]"
		md_up /dev/rnbd0 /dev/rnbd1
		device=$md ;;
	md-nvme)
		nvme_up "${nodes[@]}"
		wait_for client "[ -b /dev/nvme1n1 ]"
		md_up /dev/nvme0n1 /dev/nvme1n1
		device=$md ;;
	esac
	wait_for client "[ -b $device ]"
	prefill "$device"
	echo "$device"
}

down() {
	case $1 in
	brmr)
		brmr_down ;;
	rnbd)
		rnbd_down ;;
	md-rnbd)
		md_down
		rnbd_down ;;
	md-nvme)
		md_down
		nvme_down ;;
	esac
}

case ${1-}:${2-} in
up:brmr | up:rnbd | up:md-rnbd | up:md-nvme)
	up "$2" ;;
down:brmr | down:rnbd | down:md-rnbd | down:md-nvme)
	down "$2" ;;
*)
	echo "usage: contenders.sh up|down brmr|rnbd|md-rnbd|md-nvme" >&2
	exit 2 ;;
esac
