# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# For the test scripts in tests/vm, on top of tests/pool.sh: commands that are to be refused, with their errno and one line
# in the kernel log, and nothing changed.

# Whom to look at: a script with commands for one alone may say so.
refused_vms="client node1 node2"

# What must not change: objects in sysfs, module references, and the beginning of the disks, where all metadata are; and that of
# refused_devices, if there are more.
snapshot() {
	local name of jobs=()
	of=$(mktemp -d)
	for name in $refused_vms; do
		vm "$name" 'hostname; find /sys/devices/virtual/{rmr,brmr}-{client,server} -type d 2> /dev/null | sort
			grep -E "^(b?rmr|rtrs)" /proc/modules | cut -d " " -f 1,3 | sort
			ls /sys/block/ | grep brmr; ls /sys/class/rtrs-client 2> /dev/null
			for d in /dev/vda /dev/vdb '"${refused_devices-}"'; do
				if [ "${HOSTNAME#node}" != "$HOSTNAME" ] && [ -b "$d" ]; then
					dd if=$d bs=1M count=14 iflag=direct status=none | md5sum
				fi
			done' > "$of/$name" &
		jobs+=("$!")
	done
	for name in "${jobs[@]}"; do
		wait "$name"
	done
	cat "$of"/*
	rm -r "$of"
}

# refused ERRNO VM FILE TEXT WORDS: the write fails so, and its one log line has these words.
refused() {
	local errno=$1 name=$2 file=$3 text=$4 words=$5 before mark lines
	before=$(snapshot)
	mark=$(dmesg_mark "$name")
	expect_fail "$errno" sysfs_write "$name" "$file" "$text"
	lines=$(dmesg_since "$name" "$mark" | grep -E '(^|\] )b?rmr: ' || :)
	equal "$(grep -c . <<< "$lines")" 1 "log lines ($lines)"
	grep -qE "$words" <<< "$lines" || fail "the log says: $lines"
	diff <(echo "$before") <(snapshot) || fail "something has changed"
}

# try NAME ERRNO VM FILE TEXT WORDS
try() {
	run_test "$1" refused "${@:2}"
}
