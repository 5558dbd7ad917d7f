# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# For the test scripts in tests/vm: KTAP output, and the cluster of VMs they run
# on. A script sources this file and goes like this:
#
#   . "$(dirname "$0")/../lib.sh"
#   need_nodes 2
#   test_writes() { client 'echo x > /dev/brmr0'; expect_fail EIO node 1 ...; }
#   run_test "writes reach all legs" test_writes
#   finish
#
# With RMR_RUN set it uses that cluster, else it boots one of its own, which is
# gone when it ends. A test is a function: it runs in a subshell under set -e,
# and fails with its first failing command, or when a kernel complains meanwhile.
# Nothing here knows about RMR, but pool_teardown_check.

set -euo pipefail
tests_top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
tests_done=0
tests_failed=0
tests_skipped=0
tests_plan=
tests_hooks=()

#
# The cluster.
#

# need_nodes N [OPTION...]: the first call of every script; OPTIONs as of
# "cluster up", they hold only for a cluster of the script's own. A cluster that
# is too small skips the whole script.
need_nodes()
{
	local n=$1 have
	shift
	if [[ -z ${RMR_RUN-} ]]; then
		exec "$tests_top/scripts/cluster" run --nodes "$n" "$@" -- "$(realpath "$0")"
	fi
	echo "KTAP version 1"
	have=$(nodes | wc -w)
	if ((have < n)); then
		skip_all "needs $n nodes, the cluster has $have"
	fi
}

cluster()
{
	"$tests_top/scripts/cluster" "$@"
}

# Names of all nodes, of all VMs.
nodes()
{
	(shopt -s nullglob; cd "$RMR_RUN" && echo node*)
}

vms()
{
	(shopt -s nullglob; cd "$RMR_RUN" && echo client* node*)
}

# client CMD..., node K CMD..., vm NAME CMD...: as scripts/vm.
vm()
{
	"$tests_top/scripts/vm" "$@"
}

client()
{
	vm client "$@"
}

node()
{
	vm "node$1" "${@:2}"
}

# push FILE NAME PATH, pull NAME PATH FILE
push()
{
	vm "$2" "cat > $(printf %q "$3")" < "$1"
}

pull()
{
	vm "$1" "cat $(printf %q "$2")" > "$3"
}

# dmesg_mark VM prints a mark; dmesg_since VM MARK the kernel log after it.
dmesg_mark()
{
	local mark="rmr-test-mark-$BASHPID-$RANDOM"
	vm "$1" "echo $mark > /dev/kmsg"
	echo "$mark"
}

dmesg_since()
{
	vm "$1" "dmesg | sed '1,/$2/d'"
}

#
# Inside of a test.
#

fail()
{
	echo "failed: $*"
	exit 1
}

# Ends the test: it cannot run here.
skip()
{
	echo "skip: $*"
	exit 4
}

# require VM CMD...: skips the test when the VM does not have CMD to offer.
require()
{
	vm "$@" > /dev/null 2>&1 || skip "$*"
}

# cleanup CMD...: to be run at the end of the test (or of the script, when called
# outside of one), last one first, whatever happens.
cleanup()
{
	tests_hooks=("$(printf '%q ' "$@")" "${tests_hooks[@]}")
}

run_hooks()
{
	local hook
	for hook in "${tests_hooks[@]}"; do
		eval "$hook" || echo "cleanup failed: $hook"
	done
	tests_hooks=()
}

# expect_fail ERRNO CMD...: CMD must fail and say so with the text of ERRNO;
# "any" takes every failure.
expect_fail()
{
	local errno=$1 out text status=0
	shift
	out=$("$@" 2>&1) || status=$?
	((status)) || fail "succeeded: $*"
	[[ $errno != any ]] || return 0
	text=$(python3 -c 'import errno, os, sys; print(os.strerror(getattr(errno, sys.argv[1])))' "$errno")
	[[ $out == *"$text"* || $out == *"$errno"* ]] || fail "not $errno but status $status: $* ($out)"
}

# equal GOT WANTED [WHAT]
equal()
{
	[[ $1 == "$2" ]] || fail "${3:-value}: got '$1', wanted '$2'"
}

# patience SECONDS: how long to wait for what should take that long. A kernel that looks for errors is many times slower.
patience()
{
	local slow=1
	! grep -q 'version=.*-debug' "$RMR_RUN/config" || slow=10
	echo $(($1 * slow))
}

# wait_for SECONDS CMD...: until CMD succeeds. It runs in a subshell, so that a try may fail in any way.
wait_for()
{
	local seconds out until
	seconds=$(patience "$1")
	until=$((SECONDS + seconds))
	shift
	until out=$("$@" 2>&1); do
		((SECONDS < until)) || fail "not within $seconds s: $*${out:+ (${out##*$'\n'})}"
		sleep 0.2
	done
}

#
# KTAP.
#

plan()
{
	tests_plan=$1
	echo "1..$1"
}

ok()
{
	tests_done=$((tests_done + 1))
	echo "ok $tests_done $*"
}

not_ok()
{
	tests_done=$((tests_done + 1))
	tests_failed=$((tests_failed + 1))
	echo "not ok $tests_done $*"
}

skip_all()
{
	echo "1..0 # SKIP $*"
	exit 4
}

# run_test NAME FUNCTION [ARG...]. V=1 shows the output of passed tests as well.
run_test()
{
	local name=$1 log mark status=0 began now
	shift
	log=$(mktemp)
	mark=$(cluster log-mark)
	began=${EPOCHREALTIME/./}
	# In the background: set -e would mean nothing left of || or in an if.
	(
		set -e
		tests_hooks=()
		trap 'status=$?; set +e; run_hooks; exit $status' EXIT
		"$@"
	) > "$log" 2>&1 < /dev/null &
	wait $! || status=$?
	now=${EPOCHREALTIME/./}
	if ((status == 0)) && ! cluster check-logs "$mark" >> "$log"; then
		status=1
	fi
	if ((status != 0 && status != 4)); then
		cluster show-logs "$mark" >> "$log"
	fi
	if ((status != 0 && status != 4)) || [[ -n ${V-} ]]; then
		sed 's/^/# /' "$log"
	fi
	name+=$(printf ' (%d.%d s)' $(((now - began) / 1000000)) $(((now - began) / 100000 % 10)))
	case $status in
	0)
		ok "$name" ;;
	4)
		tests_skipped=$((tests_skipped + 1))
		ok "$name # SKIP $(sed -n 's/^skip: //p' "$log" | tail -n 1)" ;;
	*)
		not_ok "$name" ;;
	esac
	rm -f "$log"
}

# The end of every script.
finish()
{
	run_hooks
	[[ $tests_plan ]] || echo "1..$tests_done"
	echo "# Totals: pass:$((tests_done - tests_failed - tests_skipped)) fail:$tests_failed skip:$tests_skipped"
	if [[ $tests_plan ]] && ((tests_plan != tests_done)); then
		echo "# $tests_plan tests planned, $tests_done run"
		exit 1
	fi
	exit $((tests_failed != 0))
}

trap run_hooks EXIT

#
# What a script leaves behind.
#

# Prints what it finds and fails. Modules that cannot be unloaded have users.
pool_teardown_check()
{
	local name clean=0
	for name in $(vms); do
		# shellcheck disable=SC2016 # for the shell of the VM
		vm "$name" '
			for m in brmr rmr rnbd_client rnbd_server rtrs_client rtrs_server rtrs_core; do
				[[ ! -d /sys/module/$m ]] || rmmod "$m" || status=1
			done
			left=$(ls /sys/block | grep -E "^(dm-|md|rnbd|brmr)"; losetup -a 2>/dev/null
				grep "^/dev/" /proc/mounts | grep -v " /stock ")
			[[ -z $left ]] || { echo "$left"; status=1; }
			exit ${status:-0}' < /dev/null 2>&1 | sed "s/^/$name: /" || clean=1
	done
	return $clean
}
