#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# scripts/modules.sh [TARGET...]
#
# Builds rmr.ko and brmr.ko for one kernel (KERNEL, see scripts/kernel.sh) in a folder of the cache, and prints
# that folder. Several runs may go on at once; those for the same folder wait for each other.
#
# Environment: CLIPPY=1 lints as well, KRUSTFLAGS (-Dwarnings makes warnings errors), V=1 shows commands,
#   RMR_TESTS=1 builds the modules of tests/modules too. CLIPPY and RMR_TESTS have build folders of their own.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

in_root || exec "$RMR_TOP/scripts/enter" "$0" "$@"

kernel=$("$RMR_TOP/scripts/kernel.sh")
release=$(<"$kernel/version")
build=$RMR_CACHE/build-$release-$(key "$RMR_TOP" "$kernel" "${CLIPPY:-}" "${RMR_TESTS:-}")
mkdir -p "$build"
lock "${build##*/}"

# The options that a calling make has are not for the kernel's, whose make is another one.
unset MAKEFLAGS MFLAGS MAKELEVEL
# shellcheck disable=SC2207 # words
arguments=($(cat "$kernel/arguments" 2>/dev/null || true))
for variable in CLIPPY KRUSTFLAGS V W C; do
	[ -z "${!variable:-}" ] || arguments+=("$variable=${!variable}")
done
[ -n "${V:-}" ] || arguments+=(-s)
# pahole cannot make BTF of modules that are both Rust and C.
make --jobserver-style=pipe -C "$kernel/kdir" M="$RMR_TOP" MO="$build" -j"$(nproc)" CONFIG_DEBUG_INFO_BTF_MODULES= \
	RTRS_DIR="$kernel/rtrs" RMR_TESTS="${RMR_TESTS:-}" KBUILD_EXTRA_SYMBOLS="$kernel/rtrs/Module.symvers" \
	CLIPPY_CONF_DIR="$kernel/src" "${arguments[@]}" "${@:-modules}" >&2
echo "$build"
