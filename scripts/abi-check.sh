#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Compares docs/ABI with the sources: every attribute of sysfs is described where it is, nothing is described that does not
# exist, every entry has all its fields, and every option of a command is named. Prints what is wrong; exit status 0 if
# nothing is.

set -euo pipefail
cd "$(dirname "$0")/.."

# Which table of which source is which directory, and where it is described. A table that is not here is an error.
tables='
rmr/src/client/sysfs.rs	CTL	sysfs-class-rmr-client	/sys/class/rmr-client/ctl
rmr/src/client/sysfs.rs	POOL	sysfs-class-rmr-client	/sys/class/rmr-client/pools/<pool>
rmr/src/client/sysfs.rs	STATS	sysfs-class-rmr-client	/sys/class/rmr-client/pools/<pool>/stats
rmr/src/client/sysfs.rs	MEMBER	sysfs-class-rmr-client	/sys/class/rmr-client/pools/<pool>/sessions/<session>
rmr/src/client/sysfs.rs	SESSION	sysfs-class-rmr-client	/sys/class/rmr-client/sessions/<session>
rmr/src/server/sysfs.rs	CTL	sysfs-class-rmr-server	/sys/class/rmr-server/ctl
rmr/src/server/sysfs.rs	POOL	sysfs-class-rmr-server	/sys/class/rmr-server/pools/<pool>
rmr/src/server/sysfs.rs	PEER	sysfs-class-rmr-server	/sys/class/rmr-server/pools/<pool>/peers/<member_id>
brmr/src/client.rs	CTL	sysfs-class-brmr-client	/sys/class/brmr-client/ctl
brmr/src/client.rs	DEVICE	sysfs-class-brmr-client	/sys/class/brmr-client/devices/brmr<N>
brmr/src/client.rs	BLOCK	sysfs-block-brmr	/sys/block/brmr<N>/brmr
brmr/src/disk.rs	STATS	sysfs-class-brmr-client	/sys/class/brmr-client/devices/brmr<N>/stats
brmr/src/server.rs	CTL	sysfs-class-brmr-server	/sys/class/brmr-server/ctl
brmr/src/server.rs	STORE	sysfs-class-brmr-server	/sys/class/brmr-server/stores/<pool>'

# Described, but not attributes: the heads of the files, and links.
others='
sysfs-class-rmr-client	/sys/class/rmr-client/
sysfs-class-rmr-server	/sys/class/rmr-server/
sysfs-class-brmr-client	/sys/class/brmr-client/
sysfs-class-brmr-client	/sys/class/brmr-client/devices/brmr<N>/block
sysfs-class-brmr-server	/sys/class/brmr-server/'

# attributes: a line "source TAB table TAB name" for each attribute in the sources.
attributes() {
	local sources
	mapfile -t sources < <(grep -rlE '^(pub(\(crate\))? )?static [A-Z]+: \[Attr<' --include='*.rs' rmr brmr)
	awk -v OFS='\t' '
		match($0, /static [A-Z]+: \[Attr</) {
			table = substr($0, RSTART + 7, RLENGTH - 15)
		}
		table != "" {
			rest = $0
			while (match(rest, /c"[^"]*"/)) {
				print FILENAME, table, substr(rest, RSTART + 2, RLENGTH - 3)
				rest = substr(rest, RSTART + RLENGTH)
			}
		}
		/^[)}]*\];/ { table = "" }' "${sources[@]}"
}

# described: a line "file TAB path" for each What in docs/ABI.
described() {
	local file
	for file in docs/ABI/*; do
		sed -n "s|^What:\t*|${file##*/}\t|p" "$file"
	done
}

# wanted: the same for what has to be there.
wanted() {
	sed '/^$/d' <<<"$others"
	attributes | awk -F '\t' -v OFS='\t' '
		NR == FNR { if (NF) { file[$1, $2] = $3; dir[$1, $2] = $4 }; next }
		($1, $2) in dir { print file[$1, $2], dir[$1, $2] "/" $3; next }
		{ print "unknown table " $2 " in " $1, "add it to scripts/abi-check.sh" }' <(echo "$tables") -
}

# fields: entries that do not have exactly the five fields, each with something in it.
fields() {
	awk '
		function check() {
			if (what != "" && (seen != "Date KernelVersion Contact Description " || empty))
				print FILENAME ": " what ": wants the fields Date, KernelVersion, Contact, Description, none empty"
		}
		FNR == 1 { check(); what = "" }
		/^What:/ { check(); what = $2; seen = ""; empty = 0; next }
		/^[A-Z][A-Za-z]*:/ {
			name = $1
			sub(":", "", name)
			seen = seen name " "
			empty = empty || NF < 2
		}
		/^[^#\t]/ && !/^[A-Z][A-Za-z]*:/ { print FILENAME ":" FNR ": neither a field nor indented by a tab" }
		END { check() }' "$1"
}

# options: those that a source reads and no file that describes it names.
options() {
	local source key files
	cut -f 1 <<<"$tables" | sed '/^$/d' | sort -u | while read -r source; do
		mapfile -t files < <(awk -F '\t' -v source="$source" '$1 == source { print "docs/ABI/" $3 }' <<<"$tables" | sort -u)
		grep -oE 'Key::(once|many)\("[a-z_]+"\)' "$source" | cut -d '"' -f 2 | sort -u | while read -r key; do
			grep -qE "(^|[^a-z_])$key=" "${files[@]}" || echo "$key= of $source is not described in ${files[*]}"
		done
	done
}

problems=$(
	diff <(wanted | sort) <(described | sort) | sed -n 's|^< |not described: |p; s|^> |does not exist: |p'
	for file in docs/ABI/*; do
		fields "$file"
		head -n 1 "$file" | grep -q SPDX-License-Identifier || echo "$file: no SPDX line"
	done
	options
)
if [ -n "$problems" ]; then
	echo "$problems"
	exit 1
fi
