// SPDX-License-Identifier: GPL-2.0

//! Tests of the life of a disk: added, removed, removed while open.

use crate::attempt;
use crate::bios::Counted;
use crate::check;
use crate::ram;
use crate::ram::Counter;
use crate::ram::RamDisk;
use crate::task::in_worker;
use crate::task::Opened;
use brmr_sys::BioOp;
use brmr_sys::BioSet;
use brmr_sys::BlkStatus;
use brmr_sys::BlockDevice;
use brmr_sys::Busy;
use brmr_sys::DeadWatcher;
use brmr_sys::Disk;
use brmr_sys::DiskConfig;
use brmr_sys::Driver;
use brmr_sys::OpenError;
use brmr_sys::Request;
use brmr_sys::RequestTable;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::workqueue;

/// Removes a disk that udev may be looking at just now.
fn remove(disk: &RamDisk) -> Result {
    for _ in 0..500 {
        match disk.disk.remove(false) {
            Err(e) if e == EBUSY => fsleep(Delta::from_millis(10)),
            result => return result,
        }
    }
    Err(EBUSY)
}

pub(crate) fn table() -> Result {
    check!(RequestTable::new(0).is_err());
    check!(RequestTable::new(1 << 20).is_err());
    let table = attempt!(RequestTable::new(16));
    check!(table.depth() == table.hw_queues() * 16);
    check!(table.take(0).is_none());
    check!(table.take(table.depth()).is_none());
    check!(table.take(u32::MAX).is_none());
    Ok(())
}

struct Nothing;

impl Driver for Nothing {
    fn queue(&self, rq: Request, _last: bool) -> core::result::Result<(), (Request, Busy)> {
        rq.complete(BlkStatus::Io);
        Ok(())
    }
}

pub(crate) fn refused() -> Result {
    let good = DiskConfig {
        name: c"blktest1",
        capacity: 1 << 20,
        ..DiskConfig::default()
    };
    let build = |config: &DiskConfig<'_>| -> Result<Disk<Nothing>> {
        Disk::build(
            config,
            RequestTable::new(2)?,
            Arc::new(Nothing, GFP_KERNEL)?,
        )
    };
    // Built and dropped without having been added.
    let disk = attempt!(build(&good));
    check!(disk.name() == c"blktest1");
    check!(disk.uevent(&[]).is_err());
    check!(!disk.is_open());
    drop(disk);
    let bad = [
        DiskConfig { name: c"", ..good },
        DiskConfig {
            name: c"a/b",
            ..good
        },
        DiskConfig {
            name: c"0123456789012345678901234567890123456789",
            ..good
        },
        DiskConfig {
            logical_block: 0,
            ..good
        },
        DiskConfig {
            logical_block: 768,
            ..good
        },
        DiskConfig {
            capacity: 1000,
            ..good
        },
        DiskConfig { max_io: 0, ..good },
        DiskConfig {
            max_segments: 0,
            ..good
        },
    ];
    for config in &bad {
        check!(build(config).is_err());
    }
    // Added twice.
    let first = Arc::new(attempt!(build(&good)), GFP_KERNEL)?;
    let theirs = first.clone();
    attempt!(in_worker(move || theirs.add()));
    check!(first.add() == Err(EINVAL));
    // Removed twice.
    for _ in 0..500 {
        if first.remove(false).is_ok() {
            break;
        }
        fsleep(Delta::from_millis(10));
    }
    check!(first.remove(false).is_ok());
    check!(first.add() == Err(EINVAL));
    check!(first.uevent(&[]).is_err());
    Ok(())
}

pub(crate) fn rounds(n: u32) -> Result {
    for round in 0..n {
        let disk = attempt!(RamDisk::new(c"blktest0", 1 << 20, round % 3));
        attempt!(disk.add());
        check!(disk.disk.name() == c"blktest0");
        check!(!disk.disk.kobj().is_null());
        // The partition scan read something.
        check!(ram::get(&disk.disk.driver().stats.reads) > 0);
        if round % 2 == 0 {
            attempt!(remove(&disk));
        }
        // Else dropping it has to do.
    }
    Ok(())
}

pub(crate) fn busy() -> Result {
    let disk = attempt!(RamDisk::new(c"blktest0", 8 << 20, ram::LATER));
    attempt!(disk.add());
    let device = attempt!(Opened::new(c"/dev/blktest0", None));
    check!(disk.disk.is_open());
    check!(disk.disk.remove(false) == Err(EBUSY));
    // Nothing has changed.
    attempt!(device.write(0, &[1; 4096], Default::default()));
    check!(device.name() == c"blktest0");
    check!(device.size() == 8 << 20);
    disk.disk.set_capacity(4 << 20);
    check!(device.size() == 4 << 20);
    drop(device);
    attempt!(remove(&disk));
    check!(!disk.disk.is_open());
    let gone = BlockDevice::open_exclusive(c"/dev/blktest0", None);
    check!(matches!(gone, Err(OpenError::Absent)));
    Ok(())
}

#[derive(Default)]
struct Watcher {
    heard: Counter,
}

impl DeadWatcher for Watcher {
    fn device_dead(&self, _surprise: bool) {
        self.heard.add();
    }
}

/// A disk that is removed while it is open and has requests in flight that nobody will answer.
pub(crate) fn forced() -> Result {
    for round in 0..10 {
        let disk = attempt!(RamDisk::new(c"blktest0", 8 << 20, ram::LATER));
        attempt!(disk.add());
        let watcher = Arc::new(Watcher::default(), GFP_KERNEL)?;
        let device = attempt!(Opened::new(c"/dev/blktest0", Some(watcher.clone())));
        let bios = attempt!(BioSet::new(device.shared(), 4));
        let ends = Arc::new(Counted::default(), GFP_KERNEL)?;
        disk.mode(ram::HOLD);
        for i in 0..8 {
            let payload = crate::bios::Count(ends.clone());
            bios.submit(
                BioOp::WriteZeroes { unmap: true },
                i * 65536,
                65536,
                None,
                payload,
            );
        }
        check!(ends.total() == 0);
        let table = disk.disk.driver().table.clone();
        disk.mode(ram::FAIL);
        if round % 2 == 0 {
            // The answers come while it is being removed.
            attempt!(workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
                fsleep(Delta::from_millis(50));
                table.drain(|rq| rq.complete(BlkStatus::Offline));
            }));
        } else {
            table.drain(|rq| rq.complete(BlkStatus::Offline));
        }
        attempt!(disk.disk.remove(true));
        check!(ends.errors() == 8 && ends.total() == 8);
        check!(watcher.heard.get() == 1);
        check!(device.dead());
        check!(device.read(0, &mut [0; 512]).is_err());
        let payload = crate::bios::Count(ends.clone());
        bios.submit(BioOp::Flush, 0, 0, None, payload);
        if round % 4 < 2 {
            // The disk goes first, then those who have it open.
            drop(disk);
            let payload = crate::bios::Count(ends.clone());
            bios.submit(BioOp::Discard, 0, 4096, None, payload);
            check!(device.write(0, &[0; 512], Default::default()).is_err());
            check!(device.name() == c"blktest0");
            drop(bios);
            drop(device);
            check!(ends.total() == 10 && ends.errors() == 10);
        } else {
            drop(bios);
            drop(device);
            drop(disk);
            check!(ends.total() == 9 && ends.errors() == 9);
        }
    }
    Ok(())
}
