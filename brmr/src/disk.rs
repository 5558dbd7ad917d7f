// SPDX-License-Identifier: GPL-2.0

//! `/dev/brmrN`: a blk-mq disk in front of a volume.
//!
//! It translates block requests to volume requests and outcomes to block statuses, nothing else. What
//! happens to a request between is `rmr`'s business, when disks come and go is `client`'s.

use crate::client::Device;
use brmr_sys::BlkStatus;
use brmr_sys::Busy;
use brmr_sys::Disk;
use brmr_sys::DiskConfig;
use brmr_sys::Driver;
use brmr_sys::Op;
use brmr_sys::Request;
use brmr_sys::RequestTable;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use rmr::client::Consumer;
use rmr::client::Io;
use rmr::client::IoOp;
use rmr::client::Volume;
use rmr::client::VolumeLimits;
use rmr::client::VolumeState;
use rmr::client::MAX_DEPTH;
use rmr::refuse;
use rmr_proto::Features;
use rmr_proto::PoolName;
use rmr_proto::Status;
use rmr_sys::percpu::Counters;
use rmr_sys::sysfs::Attr;
use rmr_sys::sysfs::HasKobject;
use rmr_sys::sysfs::Writer;

/// Requests in flight per hardware queue (one queue per CPU), if a volume can have so many in all.
const DEPTH_PER_QUEUE: u32 = 128;

const SECTOR: u64 = 512;

/// Gives a volume's outcomes back to the block layer.
struct Completer {
    requests: Arc<RequestTable>,
    stats: Arc<Stats>,
}

impl Consumer for Completer {
    fn complete(&self, tag: u32, status: Status) {
        if let Some(request) = self.requests.take(tag) {
            if status != Status::Ok {
                self.stats.add(Counter::Errors as usize, 1);
            }
            request.complete(blk_status(status));
        }
    }
}

/// What a disk counts.
#[derive(Clone, Copy)]
enum Counter {
    Reads,
    ReadSectors,
    Writes,
    WriteSectors,
    Flushes,
    Zeroes,
    Errors,
}

const COUNTERS: usize = 7;

type Stats = Counters<COUNTERS>;

/// Files of a disk's statistics, counted since it was mapped; a write of 1 to any of them resets all.
pub(crate) static STATS: [Attr<Device>; COUNTERS] = [
    counter(c"reads", |d, w| show(d, w, Counter::Reads)),
    counter(c"read_sectors", |d, w| show(d, w, Counter::ReadSectors)),
    counter(c"writes", |d, w| show(d, w, Counter::Writes)),
    counter(c"write_sectors", |d, w| show(d, w, Counter::WriteSectors)),
    counter(c"flushes", |d, w| show(d, w, Counter::Flushes)),
    counter(c"zeroes", |d, w| show(d, w, Counter::Zeroes)),
    counter(c"errors", |d, w| show(d, w, Counter::Errors)),
];

const fn counter(
    name: &'static CStr,
    show: fn(&Device, &mut Writer<'_>) -> Result,
) -> Attr<Device> {
    Attr::rw(name, show, |device, line| {
        if line.trim_ascii() != b"1" {
            return Err(refuse!(EINVAL, "stats: write 1 to reset the counters"));
        }
        device.disk.stats.reset();
        Ok(())
    })
}

fn show(device: &Device, w: &mut Writer<'_>, counter: Counter) -> Result {
    writeln!(w, "{}", device.disk.stats.sum(counter as usize))
}

/// Sends block requests to the volume.
pub(crate) struct Front {
    volume: Volume,
    requests: Arc<RequestTable>,
    stats: Arc<Stats>,
}

impl Front {
    fn translate(&self, request: &mut Request, last: bool) -> Result<Io, BlkStatus> {
        let fua = request.fua();
        let sectors = u64::from(request.len()) / SECTOR;
        let op = match request.op() {
            Op::Read => {
                self.stats.add(Counter::ReadSectors as usize, sectors);
                IoOp::Read
            }
            Op::Write => {
                self.stats.add(Counter::WriteSectors as usize, sectors);
                IoOp::Write { fua }
            }
            Op::Flush => IoOp::Flush,
            Op::Discard => IoOp::WriteZeroes { unmap: true, fua },
            Op::WriteZeroes { unmap } => IoOp::WriteZeroes { unmap, fua },
            Op::Other(_) => return Err(BlkStatus::NotSupported),
        };
        let counter = match op {
            IoOp::Read => Counter::Reads,
            IoOp::Write { .. } => Counter::Writes,
            IoOp::Flush => Counter::Flushes,
            IoOp::WriteZeroes { .. } => Counter::Zeroes,
        };
        self.stats.add(counter as usize, 1);
        let data = match op {
            IoOp::Read | IoOp::Write { .. } => Some(request.map().map_err(|_| BlkStatus::Io)?),
            _ => None,
        };
        Ok(Io {
            op,
            offset: request.offset(),
            len: request.len(),
            data,
            queue: request.hw_queue(),
            last,
        })
    }
}

impl Driver for Front {
    fn queue(&self, mut request: Request, last: bool) -> Result<(), (Request, Busy)> {
        let queue = request.hw_queue();
        let refused = match self.translate(&mut request, last) {
            Err(status) => Some((request, status)),
            Ok(io) => match self.requests.park(request) {
                Ok(tag) => match self.volume.submit(tag, io) {
                    Ok(()) => None,
                    Err(status) => self
                        .requests
                        .take(tag)
                        .map(|request| (request, blk_status(status))),
                },
                Err(request) => Some((request, BlkStatus::Io)),
            },
        };
        if let Some((request, status)) = refused {
            self.stats.add(Counter::Errors as usize, 1);
            request.complete(status);
            if last {
                // Those before it wait for a last one.
                self.volume.kick(queue);
            }
        }
        Ok(())
    }

    fn commit(&self, hw_queue: u32) {
        self.volume.kick(hw_queue);
    }
}

/// A disk and the volume behind it.
pub(crate) struct VolumeDisk {
    disk: Disk<Front>,
    stats: Arc<Stats>,
}

impl VolumeDisk {
    /// Opens the pool `name` and builds the disk `/dev/brmr<index>` in front of it. Not visible before
    /// [`Self::show`]. May sleep.
    ///
    /// `size`, in bytes, is what the administrator expects; another one is refused with `EINVAL`.
    pub(crate) fn new(name: &PoolName, index: u32, size: Option<u64>) -> Result<Self> {
        let requests = RequestTable::with_limit(DEPTH_PER_QUEUE, MAX_DEPTH)?;
        let stats = Arc::new(Stats::new()?, GFP_KERNEL)?;
        let completer = Arc::new(
            Completer {
                requests: requests.clone(),
                stats: stats.clone(),
            },
            GFP_KERNEL,
        )?;
        let volume = Volume::open(name, size, requests.depth(), completer)?;
        let limits = volume.limits().clone();
        let front = Arc::new(
            Front {
                volume,
                requests: requests.clone(),
                stats: stats.clone(),
            },
            GFP_KERNEL,
        )?;
        let file = CString::try_from_fmt(fmt!("brmr{index}"))?;
        let disk = Disk::build(&config(&file, &limits), requests, front)?;
        Ok(Self { disk, stats })
    }

    /// Makes the disk visible; its partitions are scanned, which is IO. Sleeps.
    pub(crate) fn show(&self) -> Result {
        self.disk.add()
    }

    /// Tells udev which pool the disk belongs to, for its names in `/dev/brmr`. Sleeps.
    pub(crate) fn announce(&self, pool: &PoolName) -> Result {
        let pool = CString::try_from_fmt(fmt!("BRMR_POOL={}", pool.as_str()))?;
        self.disk.uevent(&[&pool])
    }

    /// Takes the disk away. `EBUSY` while somebody has it open. Sleeps.
    pub(crate) fn close(&self) -> Result {
        self.disk.remove(false)
    }

    /// Whether it was taken away.
    pub(crate) fn is_closed(&self) -> bool {
        self.disk.is_removed()
    }

    /// Where `/sys/block/brmrN` is.
    pub(crate) fn kobject(&self) -> &dyn HasKobject {
        &self.disk
    }

    /// One word: whether IO goes through.
    pub(crate) fn state(&self) -> &'static str {
        match self.disk.driver().volume.state() {
            VolumeState::Ready => "ready",
            VolumeState::Suspended => "suspended",
            VolumeState::Lost => "lost",
            VolumeState::Fenced => "fenced",
            VolumeState::Failed => "failed",
        }
    }
}

/// What the block layer is told of a volume.
fn config<'a>(name: &'a CStr, volume: &VolumeLimits) -> DiskConfig<'a> {
    let limits = &volume.limits;
    let has = |feature| limits.features.contains(feature);
    let zeroes = if has(Features::WRITE_ZEROES) {
        limits.max_write_zeroes
    } else {
        0
    };
    DiskConfig {
        name,
        capacity: volume.geometry.size(),
        logical_block: limits.logical_block,
        physical_block: limits.physical_block,
        io_min: limits.io_min,
        io_opt: limits.io_opt,
        max_io: volume.max_io,
        max_segments: volume.max_segments,
        virt_boundary: rmr_engine::lane::GAP - 1,
        write_cache: has(Features::WRITE_CACHE),
        fua: has(Features::FUA),
        rotational: has(Features::ROTATIONAL),
        read_only: has(Features::READ_ONLY),
        // The members must all get the same bytes.
        stable_writes: true,
        // A discard is sent as write-zeroes that may unmap, so it reads as zeroes on every member.
        max_discard: if has(Features::DISCARD) { zeroes } else { 0 },
        discard_granularity: limits.physical_block,
        max_write_zeroes: zeroes,
    }
}

/// What the block layer is told of a request.
fn blk_status(status: Status) -> BlkStatus {
    match status {
        Status::Ok => BlkStatus::Ok,
        Status::Medium => BlkStatus::Medium,
        Status::NoSpace => BlkStatus::NoSpace,
        Status::NotSupported => BlkStatus::NotSupported,
        Status::TimedOut => BlkStatus::Timeout,
        // No member has the data, and the administrator lets IO fail then; or the volume is being closed.
        Status::Disconnected => BlkStatus::Transport,
        Status::Fenced => BlkStatus::Offline,
        _ => BlkStatus::Io,
    }
}
