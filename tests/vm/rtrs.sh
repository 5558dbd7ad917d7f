#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The crate rtrs, in the kernel: tests/modules/rtrs_echo.rs, a client and a server in one VM. Loading the module
# runs its tests; it loads only if they pass.

. "$(dirname "$0")/../lib.sh"
need_nodes 1

# The last numbers of the addresses of node1 on the storage networks.
ip=$((0x0a4d0101))
ip2=$((0x0a4d0201))

unload() {
	node 1 'rmmod rtrs_echo; rmmod rmr; rmmod rtrs_server rtrs_client rtrs_core; true' 2>/dev/null
}

# echo_test PARAMETER...
echo_test() {
	local status=0
	cleanup unload
	node 1 timeout "$(patience 300)" modprobe rtrs_echo ip="$ip" "$@" || status=1
	# RTRS says much; a mark in the log may be gone.
	node 1 'dmesg | grep -F rtrs_echo: | tail -n 60'
	# modprobe takes it for success if a parameter is wrong.
	node 1 'dmesg | grep -q "rtrs_echo: .* ok, 0 failed"' || status=1
	((status == 0)) || fail "modprobe rtrs_echo $*"
}

test_defaults() {
	node 1 dmesg -C
	echo_test rounds=2000 closes=5
}

test_without_invalidation() {
	unload
	node 1 modprobe rtrs_server always_invalidate=N
	node 1 dmesg -C
	echo_test rounds=2000 closes=1
}

# A path goes and comes back while requests are on their way: none of them fails. Only during the part that
# does not count how often the server sees a request.
test_failover() {
	node 1 'ip addr show dev eth2' >/dev/null 2>&1 || skip "one storage network only (--paths 2)"
	node 1 dmesg -C
	# Stops by itself, also when the test fails.
	node 1 'said() { dmesg | grep -q "rtrs_echo: .*ok $1"; }
		for i in $(seq 300); do said exhaustion && break; sleep 0.1; done
		path=$(echo /sys/class/rtrs-client/echo/paths/*10.77.1.*)
		for i in $(seq 40); do
			said throughput && break
			echo 1 > "$path/disconnect"; sleep 0.3; echo 1 > "$path/reconnect"; sleep 0.3
		done
		cat "$path/stats/reconnects"' &
	echo_test ip2="$ip2" rounds=16000 closes=1
}

run_test "one path" test_defaults
run_test "always_invalidate=N" test_without_invalidation
run_test "failover" test_failover
finish
