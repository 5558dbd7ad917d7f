// SPDX-License-Identifier: GPL-2.0

//! A RAM disk on `Disk`, which completes requests at once, later by tag, or with trouble on the way.

use crate::task::in_worker;
use brmr_sys::BlkStatus;
use brmr_sys::Busy;
use brmr_sys::Disk;
use brmr_sys::DiskConfig;
use brmr_sys::Driver;
use brmr_sys::Op;
use brmr_sys::Request;
use brmr_sys::RequestTable;
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::atomic::Atomic;
use kernel::sync::Arc;
use kernel::sync::SpinLock;
use kernel::workqueue;

/// Complete in `queue`.
pub(crate) const AT_ONCE: u32 = 0;
/// Complete from a worker, by tag.
pub(crate) const LATER: u32 = 1;
/// As `LATER`, but some are refused or requeued first.
pub(crate) const TROUBLE: u32 = 2;
/// Do not complete.
pub(crate) const HOLD: u32 = 3;
/// Fail.
pub(crate) const FAIL: u32 = 4;

const BLOCK: usize = 4096;
/// Requests that touch this byte end with a medium error.
pub(crate) const BAD_BYTE: u64 = 3 << 20;

/// An atomic number that begins at 0.
pub(crate) struct Counter(Atomic<u64>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub(crate) fn add(&self) {
        self.0.add(1, Relaxed);
    }
}

#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) fua: Counter,
    pub(crate) flushes: Counter,
    pub(crate) discards: Counter,
    pub(crate) zeroes: Counter,
    pub(crate) busy: Counter,
    pub(crate) requeues: Counter,
    pub(crate) commits: Counter,
    pub(crate) longest: Counter,
    pub(crate) segments: Counter,
    pub(crate) overlong: Counter,
}

pub(crate) fn get(counter: &Counter) -> u64 {
    counter.get()
}

fn add(counter: &Counter) {
    counter.add();
}

struct Memory {
    blocks: KVVec<Pin<KBox<SpinLock<[u8; BLOCK]>>>>,
}

pub(crate) struct Ram {
    memory: Arc<Memory>,
    pub(crate) table: Arc<RequestTable>,
    pub(crate) mode: Atomic<u32>,
    pub(crate) bad: Atomic<bool>,
    pub(crate) stats: Stats,
    random: Atomic<u64>,
}

impl Ram {
    /// One of `n` times, pseudo-randomly.
    fn chance(&self, n: u64) -> bool {
        let x = self.random.fetch_add(0x9E37_79B9_7F4A_7C15u64, Relaxed);
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x >> 33) & (n - 1) == 0
    }
}

impl Memory {
    fn execute(&self, rq: &mut Request, bad: bool) -> BlkStatus {
        let (op, offset, len) = (rq.op(), rq.offset(), rq.len());
        if op == Op::Flush {
            return BlkStatus::Ok;
        }
        let end = offset + u64::from(len);
        if bad && offset <= BAD_BYTE && BAD_BYTE < end {
            return BlkStatus::Medium;
        }
        let mut done = 0;
        while done < len {
            let at = offset + u64::from(done);
            let inside = (at % BLOCK as u64) as usize;
            let n = (BLOCK - inside).min((len - done) as usize);
            let Some(block) = self.blocks.get((at / BLOCK as u64) as usize) else {
                return BlkStatus::Io;
            };
            let mut block = block.lock();
            let Some(bytes) = block.get_mut(inside..inside + n) else {
                return BlkStatus::Io;
            };
            let copied = match op {
                Op::Read => rq.copy_from(done, bytes),
                Op::Write => rq.copy_to(done, bytes),
                Op::Discard | Op::WriteZeroes { .. } => {
                    bytes.fill(0);
                    Ok(n)
                }
                _ => return BlkStatus::NotSupported,
            };
            if copied != Ok(n) {
                return BlkStatus::Io;
            }
            done += n as u32;
        }
        BlkStatus::Ok
    }
}

impl Driver for Ram {
    fn queue(&self, mut rq: Request, _last: bool) -> core::result::Result<(), (Request, Busy)> {
        let mode = self.mode.load(Relaxed);
        if mode == FAIL {
            rq.complete(BlkStatus::Io);
            return Ok(());
        }
        if mode == TROUBLE {
            if self.chance(8) {
                add(&self.stats.busy);
                return Err((rq, Busy::Resource));
            }
            if self.chance(16) {
                add(&self.stats.requeues);
                rq.requeue();
                return Ok(());
            }
        }
        match rq.op() {
            Op::Read => add(&self.stats.reads),
            Op::Write => add(&self.stats.writes),
            Op::Flush => add(&self.stats.flushes),
            Op::Discard => add(&self.stats.discards),
            Op::WriteZeroes { .. } => add(&self.stats.zeroes),
            Op::Other(_) => {}
        }
        if rq.fua() {
            add(&self.stats.fua);
        }
        if let Ok(list) = rq.sg_list() {
            if u64::from(list.nents) > get(&self.stats.segments) {
                self.stats.segments.set(u64::from(list.nents));
            }
            if u64::from(list.len) > get(&self.stats.longest) {
                self.stats.longest.set(u64::from(list.len));
            }
            if list.nents > 32 || list.len > 124 << 10 {
                add(&self.stats.overlong);
            }
        }
        let bad = self.bad.load(Relaxed);
        if mode == AT_ONCE {
            let status = self.memory.execute(&mut rq, bad);
            rq.complete(status);
            return Ok(());
        }
        let tag = match self.table.park(rq) {
            Ok(tag) => tag,
            Err(rq) => {
                pr_err!("FAILED: cannot park tag {}\n", rq.tag());
                return Ok(());
            }
        };
        if mode == HOLD {
            return Ok(());
        }
        let (memory, table) = (self.memory.clone(), self.table.clone());
        let spawned = workqueue::system_unbound().try_spawn(GFP_ATOMIC, move || {
            if let Some(mut rq) = table.take(tag) {
                let status = memory.execute(&mut rq, bad);
                rq.complete(status);
            }
        });
        if spawned.is_err() {
            if let Some(rq) = self.table.take(tag) {
                return Err((rq, Busy::Resource));
            }
        }
        Ok(())
    }

    fn commit(&self, _hw_queue: u32) {
        add(&self.stats.commits);
    }
}

pub(crate) struct RamDisk {
    pub(crate) disk: Arc<Disk<Ram>>,
}

impl RamDisk {
    /// A RAM disk that is not visible yet.
    pub(crate) fn new(name: &CStr, bytes: u64, mode: u32) -> Result<Self> {
        Self::with(mode, &Self::config(name, bytes))
    }

    /// The usual configuration.
    pub(crate) fn config(name: &CStr, bytes: u64) -> DiskConfig<'_> {
        DiskConfig {
            name,
            capacity: bytes,
            write_cache: true,
            fua: true,
            max_discard: 16 << 20,
            discard_granularity: 4096,
            max_write_zeroes: 16 << 20,
            ..DiskConfig::default()
        }
    }

    /// A RAM disk with any configuration, not visible yet.
    pub(crate) fn with(mode: u32, config: &DiskConfig<'_>) -> Result<Self> {
        let bytes = config.capacity;
        let mut blocks = KVVec::new();
        for _ in 0..bytes / BLOCK as u64 {
            blocks.push(
                KBox::pin_init(new_spinlock!([0u8; BLOCK]), GFP_KERNEL)?,
                GFP_KERNEL,
            )?;
        }
        let table = RequestTable::new(16)?;
        let ram = Arc::new(
            Ram {
                memory: Arc::new(Memory { blocks }, GFP_KERNEL)?,
                table: table.clone(),
                mode: Atomic::new(mode),
                bad: Atomic::new(false),
                stats: Stats::default(),
                random: Atomic::new(1),
            },
            GFP_KERNEL,
        )?;
        Ok(Self {
            disk: Arc::new(Disk::build(config, table, ram)?, GFP_KERNEL)?,
        })
    }

    /// Makes it visible, from a worker.
    pub(crate) fn add(&self) -> Result {
        let disk = self.disk.clone();
        in_worker(move || disk.add())
    }

    /// Sets what the driver does.
    pub(crate) fn mode(&self, mode: u32) {
        self.disk.driver().mode.store(mode, Relaxed);
    }
}
