#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a test VM boots from, as cache entries:
#
#   image.sh root            a small Debian 13 tree: root.squashfs, busybox
#   image.sh kernel FOLDER   of the kernel in FOLDER (from kernel.sh): vmlinux
#                            for direct boot, modules.squashfs, the same as tree
#   image.sh key             throw-away ssh keys, the same for all VMs
#
# These print the folder of the entry, and make it when it is missing. What
# every cluster makes anew:
#
#   image.sh initrd IMAGE KERNEL VERSION FILE
#   image.sh index KERNEL VERSION MODULES OUT
#
# Nothing here starts a VM.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

image_packages=(
	bash coreutils util-linux mount kmod iproute2 iputils-ping procps psmisc
	ethtool jq less lsof strace attr busybox-static python3-minimal
	openssh-server udev rdma-core ibverbs-providers ibverbs-utils
	e2fsprogs xfsprogs fdisk parted fio blktrace sg3-utils
	lvm2 dmsetup cryptsetup-bin mdadm nvme-cli keyutils
)

# Parts of the module tree that no VM can use.
image_useless=(
	sound drivers/{accel,bluetooth,comedi,extcon,firewire,gnss,gpio,gpu,hid}
	drivers/{hwmon,i2c,i3c,iio,input,isdn,leds,media,mmc,mtd,nfc,pcmcia}
	drivers/{pinctrl,platform,power,regulator,rtc,soundwire,staging}
	drivers/{thunderbolt,ufs,usb,video,w1,watchdog}
	drivers/net/{arcnet,can,ethernet,fddi,hamradio,ieee802154,usb,wireless,wwan}
	net/{atm,ax25,batman-adv,bluetooth,can,ieee802154,mac80211,mac802154,nfc}
	net/{rxrpc,wireless}
)

# What the first stage needs to reach the image and the payload.
image_initrd_modules=(
	virtio_pci virtio_blk squashfs overlay virtio_net 9pnet_virtio 9p
)

make_root()
{
	local out=$1
	step "VM image: Debian 13 tree"
	mmdebstrap --quiet --mode=root --variant=essential \
		--include="$(IFS=,; echo "${image_packages[*]}")" \
		--aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--customize-hook='rm -f "$1"/usr/lib/udev/rules.d/60-rdma-persistent-naming.rules' \
		--customize-hook='rm -rf "$1"/var/cache/* "$1"/var/lib/dpkg "$1"/var/log/* "$1"/etc/ssh/ssh_host*' \
		trixie "$out/tree" "${RMR_MIRROR:-http://deb.debian.org}/debian" >&2
	cp "$out/tree/usr/bin/busybox" "$out/busybox"
	mksquashfs "$out/tree" "$out/root.squashfs" -comp lz4 -noappend -quiet -no-progress >&2
	rm -rf "$out/tree"
}

make_kernel()
{
	local out=$1 kernel=$2 version tree path
	version=$(< "$kernel/version")
	step "VM image: kernel $version"
	unpack_vmlinux "$kernel/vmlinuz" "$out/vmlinux"
	tree=$out/lib/modules/$version
	mkdir -p "$tree"
	cp -a "$kernel"/modules/. "$tree/"
	rm -f "$tree"/{build,source} "$tree"/vmlinuz*
	for path in "${image_useless[@]}"; do
		rm -rf "${tree:?}/kernel/$path"
	done
	# Unpacked modules load faster under emulation than xz.
	find "$tree" -name '*.ko.xz' -print0 | xargs -0 -r -P"$(nproc)" -n64 xz -d
	touch "$tree"/modules.{order,builtin,builtin.modinfo}
	depmod -b "$out" "$version"
	mksquashfs "$tree" "$out/modules.squashfs" -comp lz4 -noappend -quiet -no-progress >&2
}

# A bzImage would unpack itself inside of the VM, which costs a second there.
unpack_vmlinux()
{
	python3 - "$1" "$2" <<-'PYTHON'
	import subprocess, sys
	data = open(sys.argv[1], "rb").read()
	for magic, tool in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"), (b"\x1f\x8b\x08", "gzip")):
	    at = data.find(magic)
	    while at >= 0:
	        elf = subprocess.run([tool, "-dcq"], input=data[at:], capture_output=True).stdout
	        if elf.startswith(b"\x7fELF"):
	            open(sys.argv[2], "wb").write(elf)
	            sys.exit(0)
	        at = data.find(magic, at + 1)
	sys.exit("no kernel in " + sys.argv[1])
	PYTHON
}

make_key()
{
	ssh-keygen -q -t ed25519 -N '' -C rmr-test -f "$1/id"
	ssh-keygen -q -t ed25519 -N '' -C rmr-vm -f "$1/host_key"
}

# image_initrd IMAGE KERNEL VERSION FILE: the initrd.
image_initrd()
{
	local image=$1 kernel=$2 version=$3 file=$4 dir module
	dir=$(mktemp -d)
	mkdir -p "$dir"/{bin,mod,proc,sys,dev,image,rw,root}
	cp "$image/busybox" "$dir/bin/"
	cp "$RMR_TOP/scripts/vm-initrd-init" "$dir/init"
	cp "$RMR_TOP/scripts/vm-init" "$dir/vm-init"
	for module in "${image_initrd_modules[@]}"; do
		modprobe -d "$kernel" -S "$version" --show-depends "$module" 2>/dev/null || true
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' > "$dir/list"
	while read -r module; do
		cp "$module" "$dir/mod/"
		echo "${module##*/}" >> "$dir/mod/order"
	done < "$dir/list"
	(cd "$dir" && find . | cpio --quiet -o -H newc) > "$file"
	rm -rf "$dir"
}

# image_index KERNEL VERSION MODULES OUT: makes modprobe's index files for the
# stock tree plus the modules in folder MODULES, known as updates/ in the VM.
image_index()
{
	local kernel=$1 version=$2 modules=$3 out=$4 dir file
	dir=$(mktemp -d)
	mkdir -p "$dir/lib/modules/$version" "$out"
	ln -s "$kernel/lib/modules/$version"/{kernel,modules.order} \
		"$kernel/lib/modules/$version"/modules.builtin{,.modinfo} "$dir/lib/modules/$version/"
	ln -s "$modules" "$dir/lib/modules/$version/updates"
	depmod -b "$dir" "$version"
	cp "$dir/lib/modules/$version"/modules.* "$out/"
	rm -rf "$dir"
}

# entry NAME MAKE ARG...: prints the cache entry; MAKE FOLDER ARG... makes it.
entry()
{
	local entry=$RMR_CACHE/$1 make=$2
	shift 2
	if [[ ! -d $entry ]]; then
		lock "${entry##*/}"
		if [[ ! -d $entry ]]; then
			entry_begin "$entry"
			"$make" "$RMR_TMP" "$@"
			entry_end "$entry"
		fi
		unlock
	fi
	echo "$entry"
}

in_root || exec "$RMR_TOP/scripts/enter" "$0" "$@"
case ${1-} in
root)
	entry "vm-root-$(key "${image_packages[@]}" "$(declare -f make_root)")" make_root ;;
kernel)
	entry "vm-${2##*/}-$(key "${image_useless[@]}" "$(declare -f make_kernel)")" make_kernel "$2" ;;
key)
	entry vm-key make_key ;;
initrd | index)
	"image_$1" "${@:2}" ;;
*)
	die "usage: image.sh root|kernel|key|initrd|index ..." ;;
esac
