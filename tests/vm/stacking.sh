#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What people put on a disk: LVM, dm-crypt, ext4, XFS, and a loop device over a file on it.

. "$(dirname "$0")/../lib.sh"
need_nodes 2
. "$(dirname "$0")/../pool.sh"

# LVM of the image knows neither this kind of device nor a configuration that would tell it.
lvm_config='devices { types = [ "brmr", 16 ] use_devicesfile = 0 } activation { udev_sync = 1 }'

test_lvm() {
	local dev
	dev=$(pool_device p)
	cleanup client "lvm vgremove --config '$lvm_config' --force --yes vg 2> /dev/null; :"
	client "wipefs -qa $dev; for c in 'pvcreate $dev' 'vgcreate vg $dev' 'lvcreate --yes --size 64M --name one vg' \
		'lvcreate --yes --size 64M --name two vg'; do lvm \$c --config '$lvm_config' || exit; done"
	client "mkfs.ext4 -q /dev/vg/one && mount /dev/vg/one /mnt && cp -r /usr/sbin /mnt/ && sync &&
		diff -r --no-dereference /usr/sbin /mnt/sbin; s=\$?; umount /mnt; exit \$s"
	client "rmr-iotest model /dev/vg/two --seconds 5 --max-io 1M --span 32M"
	expect_fail EBUSY device_unmap p
	# A snapshot and its merge make many small reads and writes.
	client "lvm lvcreate --config '$lvm_config' --yes --snapshot --size 32M --name snap vg/one &&
		mount /dev/vg/one /mnt && echo changed > /mnt/changed && umount /mnt &&
		mount -o ro /dev/vg/snap /mnt && ! [ -e /mnt/changed ]; s=\$?; umount /mnt; exit \$s"
	client "lvm vgremove --config '$lvm_config' --force --yes vg && lvm pvremove --config '$lvm_config' --yes $dev"
	compare_data_areas p
}

test_dm_crypt() {
	local dev
	dev=$(pool_device p)
	cleanup client 'umount /mnt 2> /dev/null; cryptsetup close secret 2> /dev/null; :'
	client "echo password | cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $dev - &&
		echo password | cryptsetup open $dev secret --key-file -"
	client "rmr-iotest model /dev/mapper/secret --seconds 5 --max-io 256K --span 16M --no-discard"
	client 'mkfs.xfs -q -f /dev/mapper/secret && mount /dev/mapper/secret /mnt && cp -r /etc /mnt/ && sync &&
		umount /mnt && xfs_repair -n /dev/mapper/secret && cryptsetup close secret'
	client "echo password | cryptsetup open $dev secret --key-file - && mount /dev/mapper/secret /mnt &&
		diff -r --no-dereference /etc /mnt/etc; s=\$?; umount /mnt; cryptsetup close secret; exit \$s"
	compare_data_areas p
}

test_file_system() {
	local type=$1 check=$2 dev
	dev=$(pool_device p)
	cleanup client 'umount /mnt 2> /dev/null; :'
	client "wipefs -qa $dev; mkfs.$type -q $dev && mount $dev /mnt && cp -r /usr/sbin /etc /mnt/ && umount /mnt &&
		$check $dev && mount $dev /mnt && diff -r --no-dereference /usr/sbin /mnt/sbin && umount /mnt"
	compare_data_areas p
}

test_loop_on_top() {
	local dev
	dev=$(pool_device p)
	cleanup client 'umount /mnt 2> /dev/null; :'
	client "modprobe loop; mkfs.ext4 -q -F $dev && mount $dev /mnt && truncate -s 64M /mnt/image &&
		loop=\$(losetup --find --show --direct-io=on /mnt/image) &&
		rmr-iotest model \$loop --seconds 4 --max-io 256K --span 32M; s=\$?
		losetup -d \$loop; umount /mnt; exit \$s"
	compare_data_areas p
}

cleanup unload_all
cleanup pool_down p
pool_up p 2 384M
run_test "ext4" test_file_system ext4 'fsck.ext4 -fn'
run_test "XFS" test_file_system xfs 'xfs_repair -n'
run_test "LVM" test_lvm
run_test "dm-crypt" test_dm_crypt
run_test "a loop device over a file" test_loop_on_top
finish
