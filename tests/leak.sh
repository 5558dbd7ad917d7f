# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# For the test scripts in tests/vm: does a machine hold more kernel memory and objects after many rounds of something than
# after few? Slab caches are looked at one by one and several times, which shows a leak of one small object per round; page, percpu and
# vmalloc memory as sums; module references, RTRS sessions and RDMA objects must be back at where they were.

# Kernel memory, in KiB, that may be gained without a leak: what was counted lazily, or grew to its working size.
leak_allowed_kib=1024

# Caches of the machine's own bookkeeping, which grow and shrink with every login.
leak_own_caches='dentry|.*inode_cache|filp|cred|task_struct|pid|signal_cache|sighand_cache|files_cache|vm_area_struct'
leak_own_caches+='|maple_node|anon_vma.*|mm_struct|radix_tree_node|buffer_head|names_cache|vmap_area|lsm_.*|proc_dir_entry'
leak_own_caches+='|skbuff_.*|sock_.*|UNIX|TCP.*|UDP.*|PING|perf_event|kmalloc-rcl-.*|key_jar|pde_opener|seq_file|ovl_.*'

# leak_snapshot VM: prints "KIND NAME VALUE" lines.
leak_snapshot() {
	vm "$1" 'sync; echo 3 > /proc/sys/vm/drop_caches
		for s in /sys/kernel/slab/*/shrink; do echo 1 > $s; done 2> /dev/null
		sleep 1
		for s in /sys/kernel/slab/*/shrink; do echo 1 > $s; done 2> /dev/null
		awk "NR > 2 { print \"slab\", \$1, \$2 }" /proc/slabinfo
		awk "/^(SUnreclaim|Percpu|VmallocUsed|KernelStack)/ { sub(\":\", \"\"); print \"kib\", \$1, \$2 }" /proc/meminfo
		for m in brmr rmr rtrs_client rtrs_server rtrs_core; do
			if [ -d /sys/module/$m ]; then echo exact refs-$m $(cat /sys/module/$m/refcnt); fi
		done
		for c in rtrs-client rtrs-server; do
			echo exact $c $(ls /sys/class/$c 2> /dev/null | grep -vcx ctl)
		done
		rdma resource show | awk "{ for (i = 3; i < NF; i += 2) print \"exact\", \$2 \$i, \$(i + 1) }"'
}

# leak_compare ROUNDS SNAPSHOT...: prints what grew, and fails if that is a leak; so many rounds were between a snapshot and
# the next. A slab cache leaks if it grew by an object per round each time: the machine's own business makes a cache grow
# once or twice, but not steadily.
leak_compare() {
	local rounds=$1
	shift
	awk -v rounds="$rounds" -v allowed="$leak_allowed_kib" -v own="^($leak_own_caches)\$" '
		FNR == 1 { file++ }
		{ value[file, $1, $2] = $3 }
		file < ARGC - 1 { next }
		{
			grown = $3 - value[1, $1, $2]
			steps = ""
			steady = 1
			for (i = 2; i <= file; i++) {
				step = value[i, $1, $2] - value[i - 1, $1, $2]
				steps = steps (i > 2 ? ", " : "") step
				steady = steady && step >= rounds
			}
		}
		$1 == "exact" && grown != 0 { print $2 ": " $3 - grown " before, " $3 " after"; leak = 1 }
		$1 == "kib" && grown > allowed { print $2 " grew by " grown " KiB"; leak = 1 }
		$1 == "slab" && steady && $2 !~ own { print "slab " $2 " grew by " steps " objects"; leak = 1 }
		END { exit leak }' "$@"
}

# leak_begin FOLDER, leak_middle FOLDER once or more, leak_end FOLDER ROUNDS, with as many rounds in between each: of all machines.
leak_begin() {
	leak_snapshots "$1" 0
}

leak_middle() {
	local taken=("$1/client."*)
	leak_snapshots "$1" "${#taken[@]}"
}

leak_snapshots() {
	local name
	for name in $(vms); do
		leak_snapshot "$name" > "$1/$name.$2"
	done
}

leak_end() {
	local name leak=0
	leak_middle "$1"
	for name in $(vms); do
		leak_compare "$2" "$1/$name."* | sed "s/^/$name: /" || leak=1
	done
	return "$leak"
}
