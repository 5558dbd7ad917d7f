# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Helpers that the scripts of this folder share: where the cache is, progress messages, locks, and
# cache entries that exist either completely or not at all.
#
# To be sourced by bash scripts that begin with `set -euo pipefail`.

RMR_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
RMR_CACHE=${RMR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rmr}
mkdir -p "$RMR_CACHE"
RMR_CACHE=$(cd "$RMR_CACHE" && pwd -P)
export RMR_TOP RMR_CACHE

# Kbuild and make cannot work in such folders, and say so in ways that help nobody.
case "$RMR_TOP$RMR_CACHE" in
*[[:space:]:%]*)
	echo "rmr: paths must be free of spaces, ':' and '%': $RMR_TOP, $RMR_CACHE" >&2
	exit 1
	;;
esac

# step TEXT: tell on stderr what is being done, with the seconds since the script began.
step() {
	printf '[%4ds] %s\n' "$SECONDS" "$*" >&2
}

# die TEXT: tell on stderr why the work cannot go on, and end.
die() {
	printf '%s: error: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# as_root SCRIPT ARGS...: run the calling script again through sudo if the caller is not root.
as_root() {
	[ "$EUID" -eq 0 ] && return
	command -v sudo >/dev/null || die "this must run as root, and there is no sudo"
	exec sudo --preserve-env RMR_CACHE="$RMR_CACHE" "$@"
}

# in_root: succeeds inside the Debian root that scripts/enter gives.
in_root() {
	[ -n "${RMR_IN_ROOT:-}" ]
}

# key WORD-OR-FILE...: a short hash of the arguments; of an argument that is a file, of its content.
key() {
	local i
	for i in "$@"; do
		if [ -f "$i" ]; then
			sha256sum <"$i"
		else
			printf '%s\n' "$i"
		fi
	done | sha256sum | cut -c1-12
}

lock() {
	local fd
	mkdir -p "$RMR_CACHE/locks"
	exec {fd}>"$RMR_CACHE/locks/$1"
	if ! flock -n "$fd"; then
		step "waiting for another run that holds the lock $1"
		flock "$fd"
	fi
	RMR_LOCK_FD=$fd
}

# unlock: give up the lock that was taken last.
unlock() {
	exec {RMR_LOCK_FD}>&-
}

# entry_begin ENTRY: with the lock of ENTRY held, remove what interrupted runs left of it, make a new
# folder and name it in RMR_TMP. entry_end ENTRY turns that folder into the entry.
entry_begin() {
	rm -rf --one-file-system "$1".tmp.*
	RMR_TMP=$1.tmp.$$
	mkdir -p "$RMR_TMP"
}

entry_end() {
	# What was written must be on disk before the name says that it is complete.
	sync -f "$RMR_TMP"
	mv -T "$RMR_TMP" "$1"
	RMR_TMP=
}
