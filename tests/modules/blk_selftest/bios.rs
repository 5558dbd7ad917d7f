// SPDX-License-Identifier: GPL-2.0

//! Tests of `BioSet`.

use crate::attempt;
use crate::check;
use crate::ram;
use crate::ram::Counter;
use crate::ram::RamDisk;
use crate::task::Opened;
use brmr_sys::plugged;
use brmr_sys::BioDone;
use brmr_sys::BioOp;
use brmr_sys::BioSet;
use brmr_sys::BlkStatus;
use brmr_sys::DataRef;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::workqueue;

/// How bios ended.
#[derive(Default)]
pub(crate) struct Counted {
    good: Counter,
    bad: Counter,
    dropped: Counter,
    last_error: Counter,
}

impl Counted {
    pub(crate) fn total(&self) -> u64 {
        self.good.get() + self.bad.get()
    }

    pub(crate) fn errors(&self) -> u64 {
        self.bad.get()
    }

    fn note(&self, result: Result) {
        match result {
            Ok(()) => self.good.add(),
            Err(error) => {
                self.last_error.set(error.to_errno().unsigned_abs().into());
                self.bad.add();
            }
        }
    }
}

/// A payload that counts, and counts its own end.
pub(crate) struct Count(pub(crate) Arc<Counted>);

impl BioDone for Count {
    fn done(self, result: Result) {
        self.0.note(result);
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.dropped.add();
    }
}

/// Memory that a bio works on, owned by its payload.
struct Piece {
    count: Count,
    bytes: KVec<u8>,
    check: Option<(u64, u64)>,
    wrong: Arc<Counter>,
}

fn byte(at: u64, seed: u64) -> u8 {
    ((at / 512)
        .wrapping_mul(0x9E37_79B9)
        .wrapping_add(at)
        .wrapping_add(seed)
        >> 2) as u8
}

impl BioDone for Piece {
    fn done(self, result: Result) {
        if let (Ok(()), Some((at, seed))) = (result, self.check) {
            for (i, &b) in self.bytes.iter().enumerate() {
                if b != byte(at + i as u64, seed) {
                    self.wrong.add();
                    break;
                }
            }
        }
        self.count.done(result);
    }
}

fn submit(
    set: &BioSet<Piece>,
    op: BioOp,
    at: u64,
    len: u32,
    seed: u64,
    ends: &Arc<Counted>,
    wrong: &Arc<Counter>,
) -> Result {
    let mut bytes = KVec::from_elem(0u8, len as usize, GFP_KERNEL)?;
    let write = matches!(op, BioOp::Write { .. });
    if write {
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = byte(at + i as u64, seed);
        }
    }
    let ptr = NonNull::new(bytes.as_mut_ptr()).ok_or(ENOMEM)?;
    // SAFETY: kmalloc memory of that length, which the payload owns until it hears of the outcome.
    let data = unsafe { DataRef::new(ptr, len) };
    let piece = Piece {
        count: Count(ends.clone()),
        bytes,
        check: (!write).then_some((at, seed)),
        wrong: wrong.clone(),
    };
    set.submit(op, at, len, Some(data), piece);
    Ok(())
}

/// Writes and reads back with all sizes, plugged and not.
pub(crate) fn verify(mode: u32) -> Result {
    const SIZE: u64 = 64 << 20;
    let disk = attempt!(RamDisk::new(c"blktest0", SIZE, mode));
    attempt!(disk.add());
    let device = attempt!(Opened::new(c"/dev/blktest0", None));
    let wrong = Arc::new(Counter::default(), GFP_KERNEL)?;
    let ends = Arc::new(Counted::default(), GFP_KERNEL)?;
    let mut submitted = 0;
    for seed in 1..=2 {
        for writing in [true, false] {
            let set = attempt!(BioSet::new(device.shared(), 2));
            let mut at = 0;
            let mut n = 0u64;
            while at < SIZE {
                attempt!(plugged(|| -> Result {
                    for _ in 0..16 {
                        // From one sector to 256 KiB, which is longer than the disk takes at once.
                        let sectors = [1, 8, 248, 3, 16, 64, 512, 8, 128][(n % 9) as usize];
                        let len = (sectors * 512u64).min(SIZE - at) as u32;
                        if len == 0 {
                            break;
                        }
                        let op = match (writing, n % 5) {
                            (true, 0) => BioOp::Write { fua: true },
                            (true, _) => BioOp::Write { fua: false },
                            (false, _) => BioOp::Read,
                        };
                        submit(&set, op, at, len, seed, &ends, &wrong)?;
                        n += 1;
                        at += u64::from(len);
                        submitted += 1;
                    }
                    Ok(())
                }));
            }
            // Waits for all of them.
            drop(set);
            check!(ends.total() == submitted && ends.errors() == 0);
            check!(ends.dropped.get() == submitted);
            check!(wrong.get() == 0);
        }
    }
    let stats = &disk.disk.driver().stats;
    check!(ram::get(&stats.overlong) == 0 && ram::get(&stats.fua) > 0);
    pr_info!(
        "{} bios, {} reads, {} writes, busy {} requeues {} commits {}, longest {} segments {}\n",
        submitted,
        ram::get(&stats.reads),
        ram::get(&stats.writes),
        ram::get(&stats.busy),
        ram::get(&stats.requeues),
        ram::get(&stats.commits),
        ram::get(&stats.longest),
        ram::get(&stats.segments)
    );
    Ok(())
}

pub(crate) fn errors() -> Result {
    let disk = attempt!(RamDisk::new(c"blktest0", 8 << 20, ram::LATER));
    attempt!(disk.add());
    let device = attempt!(Opened::new(c"/dev/blktest0", None));
    let wrong = Arc::new(Counter::default(), GFP_KERNEL)?;
    let ends = Arc::new(Counted::default(), GFP_KERNEL)?;
    let set = attempt!(BioSet::<Piece>::new(device.shared(), 2));
    let wait = |n: u64| -> Result<u64> {
        for _ in 0..500 {
            if ends.total() == n {
                let error = ends.last_error.get();
                ends.last_error.set(0);
                return Ok(error);
            }
            fsleep(Delta::from_millis(2));
        }
        Err(ETIMEDOUT)
    };
    disk.disk.driver().bad.store(true, Relaxed);
    attempt!(submit(
        &set,
        BioOp::Read,
        ram::BAD_BYTE,
        4096,
        1,
        &ends,
        &wrong
    ));
    check!(attempt!(wait(1)) == 61);
    attempt!(submit(
        &set,
        BioOp::Write { fua: true },
        ram::BAD_BYTE - 4096,
        8192,
        1,
        &ends,
        &wrong
    ));
    check!(attempt!(wait(2)) == 61);
    // Beyond the end.
    attempt!(submit(&set, BioOp::Read, 8 << 20, 4096, 1, &ends, &wrong));
    check!(attempt!(wait(3)) == 5);
    // Not whole blocks, nothing, too short, data where none belongs.
    attempt!(submit(&set, BioOp::Read, 100, 4096, 1, &ends, &wrong));
    check!(attempt!(wait(4)) == 22);
    attempt!(submit(&set, BioOp::Read, 0, 100, 1, &ends, &wrong));
    check!(attempt!(wait(5)) == 22);
    attempt!(submit(&set, BioOp::Flush, 0, 4096, 1, &ends, &wrong));
    check!(attempt!(wait(6)) == 22);
    attempt!(submit(&set, BioOp::Discard, 0, 4096, 1, &ends, &wrong));
    check!(attempt!(wait(7)) == 22);
    check!(ends.dropped.get() == 7);

    let plain = attempt!(BioSet::<Count>::new(device.shared(), 2));
    let stats = &disk.disk.driver().stats;
    let flushes = ram::get(&stats.flushes);
    for op in [
        BioOp::Flush,
        BioOp::WriteZeroes { unmap: true },
        BioOp::WriteZeroes { unmap: false },
        BioOp::Discard,
    ] {
        let len = if op == BioOp::Flush { 0 } else { 65536 };
        check!(plain
            .try_submit(op, 0, len, None, Count(ends.clone()))
            .is_ok());
    }
    check!(attempt!(wait(11)) == 0);
    check!(ends.errors() == 7);
    check!(ram::get(&stats.flushes) == flushes + 1);
    check!(ram::get(&stats.zeroes) == 2 && ram::get(&stats.discards) == 1);
    Ok(())
}

/// Dropping a set waits for its bios, and the disk is not removed before.
pub(crate) fn drop_waits() -> Result {
    let disk = attempt!(RamDisk::new(c"blktest0", 8 << 20, ram::LATER));
    attempt!(disk.add());
    let device = attempt!(Opened::new(c"/dev/blktest0", None));
    let ends = Arc::new(Counted::default(), GFP_KERNEL)?;
    disk.mode(ram::HOLD);
    let set = attempt!(BioSet::<Count>::new(device.shared(), 2));
    for _ in 0..4 {
        set.submit(BioOp::Discard, 0, 65536, None, Count(ends.clone()));
    }
    fsleep(Delta::from_millis(20));
    check!(ends.total() == 0);
    let table = disk.disk.driver().table.clone();
    attempt!(workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
        fsleep(Delta::from_millis(100));
        table.drain(|rq| rq.complete(BlkStatus::Ok));
    }));
    drop(set);
    check!(ends.total() == 4 && ends.errors() == 0);
    Ok(())
}
