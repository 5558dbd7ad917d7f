#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Two pools between the same machines share one session to each node, and nothing else.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

sessions() {
	client "ls /sys/class/rtrs-client | grep -vcx ctl"
}

on_second_disk() {
	pool_backing[1]=/dev/vdb
	pool_backing[2]=/dev/vdb
}

# The second pool, on the second disk of each node.
second() {
	(
		on_second_disk
		"$@"
	)
}

test_one_session_per_node() {
	equal "$(sessions)" 2 "RTRS sessions with two pools"
	equal "$(client "ls -d $rmr_client/sessions/node* | wc -l")" 2 "sessions"
	[[ $(pool_device a) != "$(pool_device b)" ]] || fail "one device for both"
}

test_data_is_separate() {
	client "rmr-iotest fill $(pool_device a) --seed 1 & rmr-iotest fill $(pool_device b) --seed 2; wait \$! &&
		rmr-iotest verify $(pool_device a) --seed 1 && rmr-iotest verify $(pool_device b) --seed 2"
	compare_data_areas a
	second compare_data_areas b
}

test_both_under_io() {
	client "rmr-iotest model $(pool_device a) --seconds 10 --span 32M --max-io 1M & first=\$!
		rmr-iotest model $(pool_device b) --seconds 10 --span 32M --max-io 16K; second=\$?
		wait \$first && exit \$second"
	compare_data_areas a
	second compare_data_areas b
}

test_one_goes_other_stays() {
	client "rmr-iotest fill $(pool_device b) --seed 2"
	pool_down a
	equal "$(sessions)" 2 "RTRS sessions with one pool"
	client "rmr-iotest verify $(pool_device b) --seed 2 && rmr-iotest model $(pool_device b) --seconds 3 --span 16M"
	pool_up a 2 64M
	equal "$(sessions)" 2 "RTRS sessions with two pools again"
}

test_last_one_closes() {
	pool_down a
	second pool_down b
	equal "$(sessions)" 0 "RTRS sessions without pools"
}

cleanup unload_all
cleanup pool_down a
cleanup second pool_down b
pool_up a 2 64M
second pool_up b 2 64M
run_test "one session to each node" test_one_session_per_node
run_test "the data of the pools is separate" test_data_is_separate
run_test "both pools under IO" test_both_under_io
run_test "one pool goes and comes, the other stays" test_one_goes_other_stays
run_test "the last pool closes the sessions" test_last_one_closes
finish
