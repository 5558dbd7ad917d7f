# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# How a process finds and enters the namespaces of the cluster in $RMR_RUN.
# Sourced by cluster and vm. It makes no namespaces.

# Whether this process runs inside of them.
ns_inside()
{
	[[ -e $RMR_RUN/netns && $(readlink /proc/self/ns/net) == "$(< "$RMR_RUN/netns")" ]]
}

# Prints a process of the cluster, as numbered in the caller's pid namespace.
# Looked for by the pid namespace: "enter" itself is in the others, too.
ns_pid()
{
	local ns pid
	ns=$(cat "$RMR_RUN/pidns" 2>/dev/null) || return 1
	pid=$(cat "$RMR_RUN/pid" 2>/dev/null) || true
	if [[ -z $pid || $(readlink "/proc/$pid/ns/pid") != "$ns" ]]; then
		pid=$(find /proc/[0-9]*/ns/pid -maxdepth 0 -printf '%l %p\n' 2>/dev/null |
			awk -v ns="$ns" -F '[ /]' '$1 == ns { print $4; exit }')
		[[ $pid ]] || return 1
		echo "$pid" > "$RMR_RUN/pid"
	fi
	echo "$pid"
}

# ns_exec CMD...: becomes CMD inside of the namespaces.
ns_exec()
{
	local pid
	if ns_inside; then
		exec "$@"
	fi
	if ! pid=$(ns_pid); then
		echo "no running cluster in RMR_RUN=$RMR_RUN (or it is out of sight, inside of scripts/enter)" >&2
		exit 125
	fi
	# The environment that "enter" gives, kept by the top process.
	local -a env
	mapfile -t env < "$RMR_RUN/env"
	exec nsenter --target "$pid" --net --mount --pid --uts --ipc --root --wd -- \
		env "${env[@]}" RMR_RUN="$RMR_RUN" "$@"
}
