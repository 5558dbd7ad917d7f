# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# For the test scripts in tests/vm: does a machine hold more kernel memory and objects after many rounds of something than
# after few? Slab caches are looked at one by one and twice, which shows a leak of one small object per round; page, percpu and
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

# leak_compare BEFORE MIDDLE AFTER ROUNDS: prints what grew, and fails if that is a leak. A slab cache leaks if it grew by
# an object per round in both halves of the rounds: the machine's own business makes a cache grow once, but not steadily.
leak_compare() {
	awk -v half="$(($4 / 2))" -v allowed="$leak_allowed_kib" -v own="^($leak_own_caches)\$" '
		FNR == 1 { file++ }
		{ value[file, $1, $2] = $3 }
		file < 3 { next }
		{ first = value[2, $1, $2] - value[1, $1, $2]; second = $3 - value[2, $1, $2]; grown = first + second }
		$1 == "exact" && grown != 0 { print $2 ": " $3 - grown " before, " $3 " after"; leak = 1 }
		$1 == "kib" && grown > allowed { print $2 " grew by " grown " KiB"; leak = 1 }
		$1 == "slab" && first >= half && second >= half && $2 !~ own {
			print "slab " $2 " grew by " first " and " second " objects"
			leak = 1
		}
		END { exit leak }' "$1" "$2" "$3"
}

# leak_begin FOLDER, leak_middle FOLDER, leak_end FOLDER ROUNDS: of all machines.
leak_begin() {
	leak_snapshots "$1" begin
}

leak_middle() {
	leak_snapshots "$1" middle
}

leak_snapshots() {
	local name
	for name in $(vms); do
		leak_snapshot "$name" > "$1/$name.$2"
	done
}

leak_end() {
	local name leak=0
	leak_snapshots "$1" end
	for name in $(vms); do
		leak_compare "$1/$name."{begin,middle,end} "$2" | sed "s/^/$name: /" || leak=1
	done
	return "$leak"
}
