#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Provides one Debian kernel, made ready for building Rust modules, and prints the folder it is in:
#
#   version        the release, as `uname -r` says it
#   kdir/          the headers with the Rust metadata: to be used as KDIR
#   arguments      what make has to be told when it builds for this kernel; most often there is no such file
#   vmlinuz        the kernel
#   modules/       its modules, with modules.dep
#   rtrs/, rnbd/   the kernel's RTRS and RNBD: sources, modules, Module.symvers (Debian does not build them)
#   src/           those parts of the kernel source that one wants to read or to build from
#
# It is the stock kernel as packaged, or one built from the same source to find errors: scripts/debug.config.
#
# Environment: KERNEL selects the kernel: a series (7.2, 7.3), an exact release (7.3.4+deb13-amd64), or
# empty for the newest that there is; "debug", or an exact release of it, for the one that finds errors. The
# archive moves, so what a series means is looked up there, and again after a week, but not needlessly: with
# the kernel in the cache no network is needed, and if the archive cannot be reached the last answer holds.
# RMR_REFRESH=1 looks it up now.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

select=${KERNEL:-newest}
case $select in *[!0-9A-Za-z.+-]*) die "KERNEL=$select is not a kernel version" ;; esac
flavour=amd64
case $select in
debug)
	flavour=debug select=newest ;;
*[-+]debug)
	flavour=debug select=${select%[-+]debug} ;;
esac
root=$("$RMR_TOP/scripts/root.sh")
# Raise the number when the content of the folder changes.
basis=$(key 1 "${root##*/}")
answer=$RMR_CACHE/resolved/$select-$basis

# folder: from the answer (release, package version, name of the image package), where the kernel is.
folder() {
	local release version
	read -r release version _ <"$answer" || return
	case $flavour in
	amd64)
		echo "$RMR_CACHE/kernel-$release-$(key "$basis" "$version")" ;;
	debug)
		echo "$RMR_CACHE/kernel-${release%amd64}debug-$(key "$basis" "$version" "$(grep ^CONFIG "$RMR_TOP/scripts/debug.config")")" ;;
	esac
}

# usable: there is an answer and the kernel it names is complete.
usable() {
	[ -s "$answer" ] && [ -f "$(folder)/version" ]
}

if usable && [ -z "${RMR_REFRESH:-}" ] && [ -n "$(find "$answer" -mtime -7)" ]; then
	folder
	exit
fi

in_root || exec "$RMR_TOP/scripts/enter" "$0" "$@"

# resolve: look the kernel up in the archive and write the answer.
resolve() {
	local packages release image version
	step "looking up the kernel '$select' in the archive"
	apt-get -qq update --error-on=any >&2 || return
	packages=$(apt-cache pkgnames linux-)
	# Sorted by version, not by signed or unsigned: a newer kernel wins, then the signed image.
	while read -r release; do
		for image in "linux-image-$release" "linux-binary-unsigned-$release"; do
			grep -qxF "$image" <<<"$packages" || continue
			version=$(apt-cache show "linux-headers-$release" 2>/dev/null | sed -n 's/^Version: //p' | sort -V | tail -1)
			# Without the very source of the package there can be no Rust metadata.
			if [ -n "$version" ] && apt-cache show "linux-source-${release%.[0-9]*+*}=$version" >/dev/null 2>&1; then
				mkdir -p "${answer%/*}"
				echo "$release $version $image" >"$answer.tmp"
				mv "$answer.tmp" "$answer"
				step "$select is $release ($image $version)"
				return
			fi
		done
	done < <(sed -nE 's/^linux-headers-(([7-9]|[1-9][0-9]+)\.[0-9]+\.[0-9]+\+deb13-amd64)$/\1/p' <<<"$packages" |
		awk -v want="$select" '
			want == "newest" || $0 == want { print; next }
			index($0, want) == 1 && substr($0, length(want) + 1, 1) ~ /[.+-]/' |
		sort -rV)
	die "no usable kernel '$select' in the archive; KERNEL= takes a series or release of trixie-backports, e.g. 7.3"
}

lock "kernel-$select"
if ! usable || [ -n "${RMR_REFRESH:-}" ] || [ -z "$(find "$answer" -mtime -7)" ]; then
	lock apt
	if ! resolve; then
		usable || die "the archive cannot be reached, and there is no kernel '$select' in the cache"
		step "the archive cannot be reached; using the kernel in the cache"
	fi
	unlock
fi
read -r release version image <"$answer"
dir=$(folder)
lock "${dir##*/}"
if [ -f "$dir/version" ]; then
	echo "$dir"
	exit
fi

# download PACKAGE...: into the folder $debs.
download() {
	step "downloading $*"
	(
		flock 9
		cd "$debs"
		apt-get -q download "${@/%/=$version}" >&2
	) 9>"$RMR_CACHE/locks/apt"
}

# unpack_source PATTERN...: to src, without files that nobody needs, and without those of the patterns.
unpack_source() {
	step "unpacking the source"
	mkdir "$dir/src"
	dpkg-deb --fsys-tarfile "$debs"/linux-source-*.deb |
		tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | xz -dc -T0 |
		tar -x -C "$dir/src" --strip-components=1 --wildcards --wildcards-match-slash \
			"${@/#/--exclude=linux-source-*/}" --exclude='linux-source-*/drivers/gpu/*.[chS]' \
			--exclude='linux-source-*/drivers/media/*.[chS]' --exclude='linux-source-*/drivers/staging/*.[chS]' \
			--exclude='linux-source-*/sound/*.[ch]' --exclude='linux-source-*/tools/perf/*' \
			--exclude='linux-source-*/arch/[a-tv-wyz]*/*.[chS]' --exclude='linux-source-*/arch/*.dts*' \
			--exclude='linux-source-*/Documentation/devicetree/*'
}

arguments() {
	cat "$dir/arguments" 2>/dev/null || true
}

# make_to LOG ARGUMENT...: make with the kernel's arguments; shows the end of the log if it fails.
make_to() {
	local log=$1
	shift
	# shellcheck disable=SC2046 # words
	make -s $(arguments) -j"$(nproc)" "$@" >"$log" 2>&1 || { tail -30 "$log" >&2; die "building failed, see $log"; }
}

# The packages, and Rust metadata for them.
make_stock() {
	local headers=$dir/pkg/usr/src/linux-headers-$release base=${release%-amd64} packages deb kernel
	packages=(
		"linux-base-$release" "linux-headers-$release" "linux-headers-$base-common" "linux-kbuild-$base"
		"linux-modules-$release" "linux-source-$series"
	)
	case $image in
	linux-image-*) packages+=("$image" "linux-binary-$release") ;;
	*) packages+=("$image") ;;
	esac
	download "${packages[@]}"
	for deb in "$debs"/*.deb; do
		case $deb in */linux-source-*) continue ;; esac
		dpkg-deb -x "$deb" "$dir/pkg"
	done
	ln -s usr/lib "$dir/pkg/lib"
	ln -s "pkg/usr/src/linux-headers-$release" "$dir/kdir"
	for kernel in "pkg/boot/vmlinuz-$release" "pkg/usr/lib/modules/$release/vmlinuz" \
		"pkg/usr/lib/modules/$release/vmlinuz.unsigned"; do
		if [ -f "$dir/$kernel" ]; then
			ln -s "$kernel" "$dir/vmlinuz"
			break
		fi
	done
	[ -e "$dir/vmlinuz" ] || die "the packages of $release hold no kernel: $(cd "$dir/pkg" && find . -name 'vmlinuz*')"
	printf 'KBUILD_OUTPUT=%s\ninclude %s\n' "$headers" "$dir/pkg/usr/src/linux-headers-$base-common/Makefile" \
		>"$headers/Makefile"

	# Of what this kernel does not need for its configuration and its Rust metadata, only Kconfig files.
	unpack_source 'drivers/net/*.[chS]'
	step "building the Rust metadata"
	mkdir "$dir/build"
	cp "$headers/.config" "$dir/build/.config"
	make_to "$dir/prepare.log" -C "$dir/src" O="$dir/build" CC=x86_64-linux-gnu-gcc-14 HOSTCC=gcc-14 olddefconfig prepare
	mkdir "$headers/rust"
	cp "$dir/build"/rust/*.rmeta "$dir/build"/rust/*.so "$headers/rust/"
	cp "$dir/build/scripts/target.json" "$headers/scripts/"
	rm -rf "$dir/build"
}

# A kernel that finds errors, from the same source: what scripts/debug.config says, and nothing else. Rust and KASAN
# together need clang.
make_debug() {
	local build=$dir/kdir option
	if ! command -v ld.lld >/dev/null; then
		step "installing lld and llvm"
		(
			flock 9
			DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends lld llvm >&2
		) 9>"$RMR_CACHE/locks/apt"
	fi
	download "linux-source-$series"
	unpack_source
	step "building the kernel with what finds errors (11 minutes on two idle cores)"
	mkdir "$build"
	echo "LLVM=1" >"$dir/arguments"
	make_to "$dir/config.log" -C "$dir/src" O="$build" tinyconfig
	(cd "$build" && "$dir/src/scripts/kconfig/merge_config.sh" -m -O . .config "$RMR_TOP/scripts/debug.config") >"$dir/config.log" 2>&1 ||
		die "scripts/debug.config cannot be merged, see $dir/config.log"
	make_to "$dir/config.log" -C "$dir/src" O="$build" olddefconfig
	while read -r option; do
		case $option in
		*=n) ! grep -q "^${option%n}" "$build/.config" ;;
		CONFIG_*) grep -qxF "$option" "$build/.config" ;;
		esac || die "$option of scripts/debug.config is not taken: what does it depend on?"
	done <"$RMR_TOP/scripts/debug.config"
	make_to "$dir/build.log" -C "$dir/src" O="$build" LOCALVERSION="+${release#*+}" bzImage modules
	make_to "$dir/install.log" -C "$dir/src" O="$build" LOCALVERSION="+${release#*+}" INSTALL_MOD_PATH="$dir/pkg/usr" modules_install
	cp "$build/arch/x86/boot/bzImage" "$dir/vmlinuz"
	# What modules of others are built with stays.
	find "$build" \( -name scripts -o -name tools -o -name include \) -prune -o \
		-type f \( -name '*.[oa]' -o -name '*.ko' -o -name '*.cmd' -o -name vmlinux \) -exec rm {} +
}

# The build writes absolute paths into its outputs, so it is done in place; `version` is written last, and
# without it the folder does not count.
series=${release%.[0-9]*+*}
[ "$flavour" != debug ] || release=${release%amd64}debug
step "preparing the kernel $release in $dir"
rm -rf --one-file-system "$dir"
mkdir -p "$dir/pkg"
debs=$RMR_CACHE/debs-${dir##*/}
mkdir -p "$debs"
case $flavour in
amd64) make_stock ;;
debug) make_debug ;;
esac
ln -s "pkg/usr/lib/modules/$release" "$dir/modules"
[ -e "$dir/pkg/lib" ] || ln -s usr/lib "$dir/pkg/lib"
depmod -b "$dir/pkg" "$release"

step "building RTRS and RNBD"
cp -r "$dir/src/drivers/infiniband/ulp/rtrs" "$dir/rtrs"
make_to "$dir/rtrs.log" -C "$dir/kdir" M="$dir/rtrs" CONFIG_DEBUG_INFO_BTF_MODULES= CONFIG_INFINIBAND_RTRS=m \
	CONFIG_INFINIBAND_RTRS_CLIENT=m CONFIG_INFINIBAND_RTRS_SERVER=m modules
cp -r "$dir/src/drivers/block/rnbd" "$dir/rnbd"
make_to "$dir/rnbd.log" -C "$dir/kdir" M="$dir/rnbd" CONFIG_DEBUG_INFO_BTF_MODULES= CONFIG_BLK_DEV_RNBD=m \
	CONFIG_BLK_DEV_RNBD_CLIENT=m CONFIG_BLK_DEV_RNBD_SERVER=m KCFLAGS="-I$dir/rtrs" \
	KBUILD_EXTRA_SYMBOLS="$dir/rtrs/Module.symvers" modules

sync -f "$dir"
rm -rf "$debs"
echo "$release" >"$dir/version.tmp"
mv "$dir/version.tmp" "$dir/version"
step "the kernel $release is ready"
echo "$dir"
