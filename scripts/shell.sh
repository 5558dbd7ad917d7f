#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make shell: a client and two storage nodes as virtual machines, a pool ready on them, and a prompt from which each of
# them can be entered. All is gone when the prompt ends.
#
# Environment: KERNEL (see scripts/kernel.sh), SHELL_NODES (default 2), SHELL_SIZE (size of the volume, default 512M).

set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd -P)
pool=demo

# What the prompt knows, besides tests/lib.sh and tests/pool.sh.
write_rc() {
	local name
	echo ". '$scripts/../tests/lib.sh'; . '$scripts/../tests/pool.sh'"
	# An interactive shell outlives its failed commands.
	echo "set +euo pipefail; trap - EXIT"
	for name in $(vms); do
		echo "$name() { '$scripts/vm' $name \"\$@\"; }"
	done
	echo "help() { cat '$RMR_RUN/help'; }"
	echo "PS1='rmr> '; help"
}

write_help() {
	cat <<-TEXT

		A pool of ${#legs[@]} storage nodes is up: the client has $(pool_device "$pool").

		  client                a shell on the client; client CMD... runs a command there
		  ${legs[*]}           the same on the storage nodes
		  cluster help          kill, pause, reset a machine, cut its network, see its console
		  pool_down $pool, pool_up $pool 2 256M
		                        take the pool down and set it up again (tests/pool.sh)
		  compare_data_areas $pool
		                        are the nodes' disks equal?
		  help                  this text
		  exit                  end: all machines go

		  Things to try:  client mkfs.ext4 /dev/brmr0
		                  client 'head -v -n 1 $rmr_client/pools/$pool/*'
		                  node1 'head -v -n 1 $brmr_server/stores/$pool/*'

	TEXT
}

inside() {
	. "$scripts/../tests/lib.sh"
	. "$scripts/../tests/pool.sh"
	read -r -a legs <<< "$(nodes)"
	pool_up "$pool" "${#legs[@]}" "$RMR_SHELL_SIZE"
	write_help > "$RMR_RUN/help"
	write_rc > "$RMR_RUN/shellrc"
	trap - EXIT
	# Whatever the last command in it ended with.
	bash --rcfile "$RMR_RUN/shellrc" -i || :
}

case ${1-} in
'')
	RMR_SHELL_SIZE=${SHELL_SIZE:-512M} exec "$scripts/cluster" run --nodes "${SHELL_NODES:-2}" -- "$scripts/shell.sh" inside ;;
inside)
	inside ;;
*)
	echo "usage: shell.sh" >&2
	exit 2 ;;
esac
