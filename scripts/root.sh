#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Makes the Debian 13 root in which everything is built and from which the virtual machines are run, and
# prints its path. The compiler must be the one the kernel package was built with, so the root is the same
# on every host. A root that exists is used as it is; the network is needed only to make one.
#
# Environment: RMR_CACHE (where), RMR_MIRROR (default http://deb.debian.org).

set -euo pipefail
. "$(dirname "$0")/lib.sh"

if in_root; then
	echo "$RMR_ROOT"
	exit
fi

# Kernel packages come from backports by their exact names; the pin keeps everything else out,
# above all a newer rustc, whose symbol names are not those of the kernel.
packages=(
	# To build the kernel's modules and metadata.
	make gcc flex bison bc libc6-dev libelf-dev libssl-dev xz-utils kmod cpio dwarves
	rustc rust-src bindgen rustfmt rust-clippy clang cargo
	# To make images and to run virtual machines.
	nbdkit qemu-system-x86 qemu-utils seabios ipxe-qemu squashfs-tools mmdebstrap debian-archive-keyring
	busybox-static zstd lz4 e2fsprogs iproute2 openssh-client socat procps
	# For the scripts and checks.
	python3 git ca-certificates shellcheck rsync less
)
# Raise the number when the way the root is made changes.
key=$(key 1 "${packages[@]}")
root=$RMR_CACHE/root-$key

if [ -d "$root" ]; then
	echo "$root"
	exit
fi

as_root "$0" "$@"
lock "root-$key"
if [ -d "$root" ]; then
	echo "$root"
	exit
fi

if ! command -v mmdebstrap >/dev/null || ! [ -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
	step "installing mmdebstrap"
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update >&2
	apt-get -qq install -y --no-install-recommends mmdebstrap debian-archive-keyring >&2
fi

step "making the Debian 13 root $root"
entry_begin "$root"
mirror=${RMR_MIRROR:-http://deb.debian.org}
sources=$RMR_TMP.list
trap 'rm -rf --one-file-system "$RMR_TMP" "$RMR_TMP.list"' EXIT
cat >"$sources" <<END
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror/debian trixie main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror/debian trixie-updates main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror/debian trixie-backports main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror/debian-security trixie-security main
END
include=$(IFS=,; echo "${packages[*]}")
# The hooks are run by mmdebstrap's shell, with the root as $1.
# shellcheck disable=SC2016
mmdebstrap --quiet --mode=root --variant=minbase --architectures=amd64 \
	--aptopt='APT::Install-Recommends "false"' \
	--aptopt='APT::Sandbox::User "root"' \
	--aptopt='Acquire::Languages "none"' \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/info/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--dpkgopt='force-unsafe-io' \
	--setup-hook='mkdir -p "$1/etc/apt/preferences.d"' \
	--setup-hook='printf "Package: *\nPin: release n=trixie-backports\nPin-Priority: 10\n" >"$1/etc/apt/preferences.d/backports"' \
	--include="$include" \
	trixie "$RMR_TMP" "$sources" >&2
rm -f "$sources"
touch "$RMR_TMP/etc/resolv.conf"
entry_end "$root"
trap - EXIT
step "the root is ready"
echo "$root"
