#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make test: scripts/check.sh, the simulator, the model checker and the planted bugs, all of tests/vm on the default
# kernel, and a short set on the other one. What fails is shown at once; logs and results stay in a folder of /tmp that is
# named at the end. Closes with the sums over everything, "N passed, N failed, N skipped"; exit status 0: nothing failed.
#
# Environment: TESTS, names of the tests of tests/vm to be run on the default kernel; SHORT_TESTS, the same on the other
# one; either may be "none". KERNEL selects the default kernel; with "debug" that is one that finds errors (scripts/kernel.sh), and all
# that runs is tests/vm. RMR_RESULTS: where results go.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

# On the default kernel: all.
tests=()
for script in "$RMR_TOP"/tests/vm/*.sh; do
	tests+=("$(basename "$script" .sh)")
done
# On the other kernel: what is not the same code there (bindings, bio, kernel interfaces), once.
short=(api udev)

results=${RMR_RESULTS:-$(mktemp -d /tmp/rmr-test.XXXX)}
mkdir -p "$results"
passed=0 failed=0 skipped=0

# section NAME COMMAND...: runs it, shows what it prints, and adds up the sums it closes with.
section() {
	local name=$1 log=$results/$1.log status=0 sums began=$SECONDS
	shift
	printf '\n== %s\n' "$name"
	"$@" </dev/null 2>&1 | tee "$log" || status=$?
	sums=$(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped.*/\1 \2 \3/p' "$log" | tail -n 1)
	if [ -z "$sums" ]; then
		echo "FAILED   $name did not get to its end (status $status)"
		sums="0 1 0"
	fi
	local p f s
	read -r p f s <<<"$sums"
	if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
		f=1
	fi
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	echo "== $name took $((SECONDS - began)) s"
}

# vm_section NAME KERNEL TEST... [-- OPTION OF THE CLUSTER...]
vm_section() {
	local name=$1 kernel=$2 test scripts=()
	shift 2
	while [ $# -gt 0 ] && [ "$1" != -- ]; do
		test=$1
		shift
		[ -x "$RMR_TOP/tests/vm/$test.sh" ] || die "there is no test $test in tests/vm"
		scripts+=("$RMR_TOP/tests/vm/$test.sh")
	done
	KERNEL=$kernel section "$name" "$RMR_TOP/tests/run" --timeout "$timeout" --results "$results/$name" "${scripts[@]}" "$@"
}

# The test modules are for the virtual machines, too.
export RMR_TESTS=1

# The kernel that finds errors is for the virtual machines alone.
timeout=1800
case ${KERNEL:-} in
*debug)
	SHORT_TESTS=${SHORT_TESTS:-none} timeout=18000 ;;
*)
	section check "$RMR_TOP/scripts/check.sh"
	# Each of these has the seeds 1 to n: what it finds is found again by the command that it prints.
	section sim make -s -C "$RMR_TOP" sim SEEDS=2000
	section model make -s -C "$RMR_TOP" model
	section planted make -s -C "$RMR_TOP" planted
	;;
esac
if [ "${TESTS:-}" != none ]; then
	# shellcheck disable=SC2206 # words
	[ -z "${TESTS:-}" ] || tests=($TESTS)
	# Idle machines cost time, too: who wants many nodes gets them on a cluster of its own, and so does who wants disks that
	# can fail.
	few=() many=() disks=()
	for test in "${tests[@]}"; do
		if grep -qs '^need_nodes .*--nbdkit' "$RMR_TOP/tests/vm/$test.sh"; then
			disks+=("$test")
		elif grep -qs '^need_nodes [3-9]' "$RMR_TOP/tests/vm/$test.sh"; then
			many+=("$test")
		else
			few+=("$test")
		fi
	done
	[ ${#few[@]} -eq 0 ] || vm_section vm "${KERNEL:-}" "${few[@]}"
	[ ${#many[@]} -eq 0 ] || vm_section vm-many "${KERNEL:-}" "${many[@]}"
	[ ${#disks[@]} -eq 0 ] || vm_section vm-disks "${KERNEL:-}" "${disks[@]}" -- --nbdkit
fi
if [ "${SHORT_TESTS:-}" != none ]; then
	# shellcheck disable=SC2206 # words
	[ -z "${SHORT_TESTS:-}" ] || short=($SHORT_TESTS)
	other=$("$RMR_TOP/scripts/other-kernel.sh")
	vm_section "vm-$other" "$other" "${short[@]}"
fi

printf '\n%s after %d:%02d min\n' "results in $results" $((SECONDS / 60)) $((SECONDS % 60))
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
