#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Provides one stock Debian kernel, made ready for building Rust modules, and prints the folder it is in:
#
#   version        the release, as `uname -r` says it
#   kdir/          the headers with the Rust metadata: to be used as KDIR
#   vmlinuz        the kernel
#   modules/       the modules of the package, with modules.dep
#   rtrs/, rnbd/   the kernel's RTRS and RNBD: sources, modules, Module.symvers (Debian does not build them)
#   src/           those parts of the kernel source that one wants to read or to build from
#
# Environment: KERNEL selects the kernel: a series (7.2, 7.3), an exact release (7.3.4+deb13-amd64), or
# empty for the newest that there is. The archive moves, so what a series means is looked up there, and
# again after a week, but not needlessly: with the kernel in the cache no network is needed, and if the
# archive cannot be reached the last answer holds. RMR_REFRESH=1 looks it up now.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

select=${KERNEL:-newest}
case $select in *[!0-9A-Za-z.+-]*) die "KERNEL=$select is not a kernel version" ;; esac
root=$("$RMR_TOP/scripts/root.sh")
# Raise the number when the content of the folder changes.
basis=$(key 1 "${root##*/}")
answer=$RMR_CACHE/resolved/$select-$basis

# folder: from the answer (release, package version, name of the image package), where the kernel is.
folder() {
	local release version
	read -r release version _ <"$answer" && echo "$RMR_CACHE/kernel-$release-$(key "$basis" "$version")"
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

# The build writes absolute paths into its outputs, so it is done in place; `version` is written last, and
# without it the folder does not count.
step "preparing the kernel $release in $dir"
rm -rf --one-file-system "$dir"
mkdir -p "$dir/pkg"
base=${release%-amd64}
series=${release%.[0-9]*+*}

debs=$RMR_CACHE/debs-${dir##*/}
mkdir -p "$debs"
packages=(
	"linux-base-$release" "linux-headers-$release" "linux-headers-$base-common" "linux-kbuild-$base"
	"linux-modules-$release" "linux-source-$series"
)
case $image in
linux-image-*) packages+=("$image" "linux-binary-$release") ;;
*) packages+=("$image") ;;
esac
step "downloading ${packages[*]}"
(
	flock 9
	cd "$debs"
	apt-get -q download "${packages[@]/%/=$version}" >&2
) 9>"$RMR_CACHE/locks/apt"
for deb in "$debs"/*.deb; do
	case $deb in */linux-source-*) continue ;; esac
	dpkg-deb -x "$deb" "$dir/pkg"
done
ln -s usr/lib "$dir/pkg/lib"
headers=$dir/pkg/usr/src/linux-headers-$release
ln -s "pkg/usr/src/linux-headers-$release" "$dir/kdir"
ln -s "pkg/usr/lib/modules/$release" "$dir/modules"
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
depmod -b "$dir/pkg" "$release"

step "unpacking the source"
# Of what this kernel does not need for its configuration and its Rust metadata, only Kconfig files.
mkdir "$dir/src"
dpkg-deb --fsys-tarfile "$debs"/linux-source-*.deb |
	tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | xz -dc -T0 |
	tar -x -C "$dir/src" --strip-components=1 --wildcards --wildcards-match-slash \
		--exclude='linux-source-*/drivers/gpu/*.[chS]' --exclude='linux-source-*/drivers/net/*.[chS]' \
		--exclude='linux-source-*/drivers/media/*.[chS]' --exclude='linux-source-*/drivers/staging/*.[chS]' \
		--exclude='linux-source-*/sound/*.[ch]' --exclude='linux-source-*/tools/perf/*' \
		--exclude='linux-source-*/arch/[a-tv-wyz]*/*.[chS]' --exclude='linux-source-*/arch/*.dts*' --exclude='linux-source-*/Documentation/devicetree/*'

step "building the Rust metadata"
build=$dir/build
mkdir "$build"
cp "$headers/.config" "$build/.config"
make -s -C "$dir/src" O="$build" CC=x86_64-linux-gnu-gcc-14 HOSTCC=gcc-14 -j"$(nproc)" olddefconfig prepare \
	>"$dir/prepare.log" 2>&1 || { tail -30 "$dir/prepare.log" >&2; die "building the Rust metadata failed"; }
mkdir "$headers/rust"
cp "$build"/rust/*.rmeta "$build"/rust/*.so "$headers/rust/"
cp "$build/scripts/target.json" "$headers/scripts/"
rm -rf "$build"

step "building RTRS and RNBD"
cp -r "$dir/src/drivers/infiniband/ulp/rtrs" "$dir/rtrs"
make -s -C "$dir/kdir" M="$dir/rtrs" -j"$(nproc)" CONFIG_DEBUG_INFO_BTF_MODULES= CONFIG_INFINIBAND_RTRS=m \
	CONFIG_INFINIBAND_RTRS_CLIENT=m CONFIG_INFINIBAND_RTRS_SERVER=m modules >&2
cp -r "$dir/src/drivers/block/rnbd" "$dir/rnbd"
make -s -C "$dir/kdir" M="$dir/rnbd" -j"$(nproc)" CONFIG_DEBUG_INFO_BTF_MODULES= CONFIG_BLK_DEV_RNBD=m \
	CONFIG_BLK_DEV_RNBD_CLIENT=m CONFIG_BLK_DEV_RNBD_SERVER=m KCFLAGS="-I$dir/rtrs" \
	KBUILD_EXTRA_SYMBOLS="$dir/rtrs/Module.symvers" modules >&2

sync -f "$dir"
rm -rf "$debs"
echo "$release" >"$dir/version.tmp"
mv "$dir/version.tmp" "$dir/version"
step "the kernel $release is ready"
echo "$dir"
