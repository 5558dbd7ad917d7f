// SPDX-License-Identifier: GPL-2.0

//! A user of pools that is no disk: does IO through the public interface of `rmr`, without brmr.
//!
//! `echo "pool=NAME" > /sys/class/rmr-api/ctl/run` opens the pool, which the client must have joined and which no
//! device uses, works on it and closes it. What was in its first 4 MiB is lost. The answer is that of the write;
//! the log has a line `rmr_api: ok NAME` or `rmr_api: not ok NAME` for each test, and `result` has the sums.
//! tests/vm/api.sh runs it.

use core::ptr::NonNull;
use kernel::bindings::scatterlist;
use kernel::new_mutex;
use kernel::page::Page;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr::client::Consumer;
use rmr::client::Io;
use rmr::client::IoData;
use rmr::client::IoOp;
use rmr::client::Volume;
use rmr::client::VolumeState;
use rmr_engine::options::Key;
use rmr_engine::options::Options;
use rmr_proto::Features;
use rmr_proto::PoolName;
use rmr_proto::Status;
use rmr_sys::sysfs::Attr;
use rmr_sys::sysfs::Class;
use rmr_sys::sysfs::Dir;
use rmr_sys::wait::WaitQueue;

module! {
    type: Api,
    name: "rmr_api",
    authors: ["The RMR project"],
    description: "Test: a user of pools without brmr",
    license: "GPL",
}

/// Requests at a time.
const DEPTH: u32 = 16;
/// Queues they come from.
const QUEUES: u32 = 3;
/// Bytes of the volume that are used, if it has as many.
const SPAN: u64 = 4 << 20;
/// Unit of everything here: of patterns, and the smallest request.
const SECTOR: u32 = 512;
/// How long a request may take, in ms.
const PATIENCE_MS: u32 = 120_000;

/// Fails the test at hand.
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            pr_err!("line {}: not so: {}\n", line!(), stringify!($condition));
            return Err(EPIPE);
        }
    };
}

/// The module.
struct Api {
    _ctl: Dir<Bench>,
    _class: Class,
}

impl kernel::Module for Api {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let class = Class::register(c"rmr-api")?;
        let bench = Arc::pin_init(
            pin_init!(Bench {
                results <- new_mutex!(Results { ok: 0, failed: 0 }),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self {
            _ctl: Dir::in_class(&class, c"ctl", bench, &CTL)?,
            _class: class,
        })
    }
}

/// What the files refer to.
#[pin_data]
struct Bench {
    /// Held while the tests run.
    #[pin]
    results: Mutex<Results>,
}

/// How the tests of the last run ended.
struct Results {
    ok: u32,
    failed: u32,
}

impl Results {
    fn note(&mut self, name: &str, result: Result) {
        match result {
            Ok(()) => {
                pr_info!("ok {}\n", name);
                self.ok += 1;
            }
            Err(error) => {
                pr_err!("not ok {}: {}\n", name, error.to_errno());
                self.failed += 1;
            }
        }
    }
}

static CTL: [Attr<Bench>; 2] = [
    Attr::wo(c"run", "pool=<name>", |bench, line| {
        const KEYS: &[Key] = &[Key::once("pool")];
        let parse = || Options::parse(line, KEYS)?.require("pool")?.pool();
        let name = parse().map_err(|error| {
            pr_err!("run: {}\n", core::format_args!("{error}"));
            EINVAL
        })?;
        let mut results = bench.results.lock();
        *results = Results { ok: 0, failed: 0 };
        run(&mut results, &name)?;
        if results.failed > 0 {
            return Err(EPIPE);
        }
        Ok(())
    }),
    Attr::ro(c"result", |bench, w| {
        let results = bench.results.lock();
        writeln!(w, "{} ok, {} failed", results.ok, results.failed)
    }),
];

// -- Data --------------------------------------------------------------------------------------------------

/// The largest multiple of `unit` that is not above `value`.
fn down(value: u32, unit: u32) -> u32 {
    value - value.checked_rem(unit).unwrap_or(0)
}

/// The eight bytes at `offset` of a volume that was written with `seed`; zeroes for the seed 0.
fn word(seed: u64, offset: u64) -> [u8; 8] {
    if seed == 0 {
        return [0; 8];
    }
    let mut x = (offset ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x.wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes()
}

/// The sector at `offset` of a volume that was written with `seed`.
fn sector(seed: u64, offset: u64) -> [u8; SECTOR as usize] {
    let mut bytes = [0; SECTOR as usize];
    for (at, chunk) in (offset..).step_by(8).zip(bytes.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&word(seed, at));
    }
    bytes
}

/// Memory for the data of one request.
struct Buffer {
    pages: KVec<Page>,
    table: KVec<scatterlist>,
}

impl Buffer {
    fn new(bytes: u32) -> Result<Self> {
        let count = (bytes as usize).div_ceil(PAGE_SIZE);
        let mut pages = KVec::with_capacity(count, GFP_KERNEL)?;
        let mut table = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let page = Page::alloc_page(GFP_KERNEL)?;
            let entry = scatterlist {
                page_link: page.as_ptr() as usize,
                ..scatterlist::default()
            };
            table.push(entry, GFP_KERNEL)?;
            pages.push(page, GFP_KERNEL)?;
        }
        Ok(Self { pages, table })
    }

    /// Its first `len` bytes as the data of a request.
    ///
    /// # Safety
    ///
    /// The buffer lives, and is not used, until the request is finished.
    unsafe fn data(&mut self, len: u32) -> Result<IoData> {
        let mut rest = len;
        let mut entries = 0;
        for entry in &mut self.table {
            if rest == 0 {
                break;
            }
            entry.length = rest.min(PAGE_SIZE as u32);
            rest -= entry.length;
            entries += 1;
        }
        check!(rest == 0 && entries > 0);
        let table = NonNull::new(self.table.as_mut_ptr()).ok_or(EINVAL)?;
        // SAFETY: There are as many entries, of pages that live and are not used as long as the caller promised.
        Ok(unsafe { IoData::new(table, entries) })
    }

    /// Where the sector at `at` bytes is.
    fn place(&self, at: u32) -> Result<(&Page, usize)> {
        let at = at as usize;
        Ok((
            self.pages.get(at / PAGE_SIZE).ok_or(EINVAL)?,
            at % PAGE_SIZE,
        ))
    }

    fn fill(&mut self, job: &Job) -> Result {
        for at in (0..job.len).step_by(SECTOR as usize) {
            let bytes = sector(job.seed, job.offset + u64::from(at));
            let (page, offset) = self.place(at)?;
            // SAFETY: `bytes` can be read, and nobody else uses the page of a buffer that is not in flight.
            unsafe { page.write_raw(bytes.as_ptr(), offset, bytes.len())? };
        }
        Ok(())
    }

    /// Whether it holds what `job` is to find if the volume was written with `seed`.
    fn holds(&self, job: &Job, seed: u64) -> Result<bool> {
        for at in (0..job.len).step_by(SECTOR as usize) {
            let mut bytes = [0; SECTOR as usize];
            let (page, offset) = self.place(at)?;
            // SAFETY: `bytes` can be written, and nobody else uses the page of a buffer that is not in flight.
            unsafe { page.read_raw(bytes.as_mut_ptr(), offset, bytes.len())? };
            if bytes != sector(seed, job.offset + u64::from(at)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

// -- Requests ----------------------------------------------------------------------------------------------

/// A request, and the data that it brings or must find.
#[derive(Clone, Copy)]
struct Job {
    op: IoOp,
    offset: u64,
    len: u32,
    seed: u64,
}

/// State of a tag that is none of the statuses.
const FREE: u32 = u32::MAX;
const IN_FLIGHT: u32 = u32::MAX - 1;

/// What became of the requests.
#[pin_data]
struct Tags {
    states: KVec<Atomic<u32>>,
    /// Completions of tags that were not in flight.
    wrong: Atomic<u32>,
    #[pin]
    queue: WaitQueue,
}

impl Tags {
    fn new() -> Result<Arc<Self>> {
        let mut states = KVec::with_capacity(DEPTH as usize, GFP_KERNEL)?;
        for _ in 0..DEPTH {
            states.push(Atomic::new(FREE), GFP_KERNEL)?;
        }
        Arc::pin_init(
            pin_init!(Self {
                states,
                wrong: Atomic::new(0),
                queue <- WaitQueue::new(),
            }),
            GFP_KERNEL,
        )
    }

    fn state(&self, tag: u32) -> u32 {
        self.states
            .get(tag as usize)
            .map_or(FREE, |s| s.load(Acquire))
    }

    fn set(&self, tag: u32, state: u32) {
        if let Some(place) = self.states.get(tag as usize) {
            place.store(state, Relaxed);
        }
    }

    fn in_flight(&self) -> usize {
        self.states
            .iter()
            .filter(|s| s.load(Acquire) == IN_FLIGHT)
            .count()
    }
}

impl Consumer for Tags {
    fn complete(&self, tag: u32, status: Status) {
        let status = u32::from(status.wire());
        let known = self.states.get(tag as usize);
        if known.is_none_or(|s| s.cmpxchg(IN_FLIGHT, status, Full).is_err()) {
            self.wrong.fetch_add(1, Relaxed);
        }
        self.queue.wake_all();
    }
}

/// A volume and the memory to use it with.
struct Session {
    // Before the buffers, which its requests use: dropping it waits for them.
    volume: Volume,
    tags: Arc<Tags>,
    buffers: KVec<Buffer>,
    max_io: u32,
    block: u32,
    span: u64,
}

impl Session {
    fn open(name: &PoolName) -> Result<Self> {
        let tags = Tags::new()?;
        let volume = Volume::open(name, None, DEPTH, tags.clone())?;
        let limits = volume.limits();
        let block = limits.limits.logical_block;
        check!(block.is_power_of_two() && block >= SECTOR && limits.max_io >= block);
        // Two MiB at most: of what is larger, this is enough.
        let max_io = down(limits.max_io.min(2 << 20), block);
        let max_io = max_io.min(u32::from(limits.max_segments) * PAGE_SIZE as u32);
        let span = limits.geometry.size().min(SPAN);
        check!(span >= u64::from(max_io) * 4);
        let mut buffers = KVec::with_capacity(DEPTH as usize, GFP_KERNEL)?;
        for _ in 0..DEPTH {
            buffers.push(Buffer::new(max_io)?, GFP_KERNEL)?;
        }
        Ok(Self {
            volume,
            tags,
            buffers,
            max_io,
            block,
            span,
        })
    }

    /// Submits `job` under a tag that is free.
    fn submit(&mut self, tag: u32, job: &Job, last: bool) -> Result<(), Status> {
        let buffer = self.buffers.get_mut(tag as usize).ok_or(Status::Invalid)?;
        let data = match job.op {
            IoOp::Write { .. } | IoOp::Read => {
                // What was there before is not what a read is to find.
                let wrong = Job {
                    seed: !job.seed,
                    ..*job
                };
                let content = if job.op == IoOp::Read { &wrong } else { job };
                buffer.fill(content).map_err(|_| Status::NoMemory)?;
                // SAFETY: Buffers outlive the volume, whose end waits for requests, and are not used until the tag
                // is free again.
                Some(unsafe { buffer.data(job.len) }.map_err(|_| Status::NoMemory)?)
            }
            _ => None,
        };
        self.tags.set(tag, IN_FLIGHT);
        let io = Io {
            op: job.op,
            offset: job.offset,
            len: job.len,
            data,
            queue: tag % QUEUES,
            last,
        };
        self.volume
            .submit(tag, io)
            .inspect_err(|_| self.tags.set(tag, FREE))
    }

    /// Whether the request under `tag` is finished; it must have succeeded, and a read found its data.
    fn reap(&self, tag: u32, job: &Job) -> Result<bool> {
        let state = self.tags.state(tag);
        if state == IN_FLIGHT {
            return Ok(false);
        }
        if state != u32::from(Status::Ok.wire()) {
            pr_err!(
                "{:?} of {} at {}: status {}\n",
                job.op,
                job.len,
                job.offset,
                state
            );
            return Err(EIO);
        }
        let buffer = self.buffers.get(tag as usize).ok_or(EINVAL)?;
        if job.op == IoOp::Read && !buffer.holds(job, job.seed)? {
            pr_err!("wrong data in {} bytes at {}\n", job.len, job.offset);
            return Err(EPIPE);
        }
        self.tags.set(tag, FREE);
        Ok(true)
    }

    /// Executes all jobs, as many as possible at a time; `together` of them are submitted as one plug.
    fn execute(&mut self, jobs: impl Iterator<Item = Job>, together: usize) -> Result {
        let mut jobs = Iterator::enumerate(jobs).fuse();
        let mut running: KVec<Option<Job>> = KVec::from_elem(None, DEPTH as usize, GFP_KERNEL)?;
        loop {
            let mut busy = 0;
            for tag in 0..DEPTH {
                let Some(place) = running.get_mut(tag as usize) else {
                    continue;
                };
                if let Some(job) = place {
                    if !self.reap(tag, job)? {
                        busy += 1;
                        continue;
                    }
                    *place = None;
                }
                if let Some((index, job)) = jobs.next() {
                    self.submit(tag, &job, (index + 1).checked_rem(together) == Some(0))
                        .map_err(|status| {
                            pr_err!(
                                "{:?} of {} at {}: refused: {}\n",
                                job.op,
                                job.len,
                                job.offset,
                                status.wire()
                            );
                            EIO
                        })?;
                    *place = Some(job);
                    busy += 1;
                }
            }
            if busy == 0 {
                return Ok(());
            }
            for queue in 0..QUEUES {
                self.volume.kick(queue);
            }
            let tags = self.tags.clone();
            self.tags
                .queue
                .wait_until_timeout(PATIENCE_MS, || tags.in_flight() < busy)?;
        }
    }

    fn execute_one(&mut self, op: IoOp, offset: u64, len: u32, seed: u64) -> Result {
        let job = Job {
            op,
            offset,
            len,
            seed,
        };
        self.execute(Some(job).into_iter(), 1)
    }

    /// One operation after the other over `from..to`, in pieces whose sizes go round in `sizes`.
    fn cover(
        &self,
        op: IoOp,
        from: u64,
        to: u64,
        seed: u64,
        sizes: [u32; 5],
    ) -> impl Iterator<Item = Job> {
        let block = self.block;
        let max = self.max_io;
        let mut offset = from;
        let mut turn = 0;
        core::iter::from_fn(move || {
            let left = to.checked_sub(offset).filter(|left| *left > 0)?;
            let wanted = *sizes.get(turn % sizes.len())?;
            let wanted = down(wanted.clamp(block, max), block);
            let len = u32::try_from(left).map_or(wanted, |left| wanted.min(left));
            let job = Job {
                op,
                offset,
                len,
                seed,
            };
            offset += u64::from(len);
            turn += 1;
            Some(job)
        })
    }
}

// -- Tests -------------------------------------------------------------------------------------------------

const WRITE: IoOp = IoOp::Write { fua: false };
/// Pieces of all kinds; the last one is the largest possible.
const SIZES: [u32; 5] = [512, 4096, 3584, 65536, u32::MAX];
/// Others, so that reads do not end where writes did.
const OTHER_SIZES: [u32; 5] = [20480, 1024, u32::MAX, 4096, 7680];

/// What cannot be opened.
fn opening(name: &PoolName) -> Result {
    let tags = Tags::new()?;
    let absent = PoolName::new(b"no-such-pool").map_err(|_| EINVAL)?;
    check!(matches!(Volume::open(&absent, None, DEPTH, tags.clone()), Err(e) if e == ENOENT));
    check!(Volume::open(name, None, 0, tags.clone()).is_err());
    check!(Volume::open(name, None, 1 << 24, tags.clone()).is_err());
    check!(matches!(Volume::open(name, Some(512), DEPTH, tags.clone()), Err(e) if e == EINVAL));
    let first = Volume::open(name, None, DEPTH, tags.clone())?;
    check!(matches!(Volume::open(name, None, DEPTH, tags.clone()), Err(e) if e == EBUSY));
    drop(first);
    // A volume that was closed can be opened again.
    drop(Volume::open(name, None, 1, tags)?);
    Ok(())
}

/// What cannot be submitted; nothing of it may be completed.
fn refusals(s: &mut Session) -> Result {
    let size = s.volume.limits().geometry.size();
    let block = s.block;
    for (op, offset, len, why) in [
        (IoOp::Read, size, block, Status::OutOfRange),
        (
            WRITE,
            size - u64::from(block),
            block * 2,
            Status::OutOfRange,
        ),
        (
            WRITE,
            0u64.wrapping_sub(u64::from(block)),
            block,
            Status::OutOfRange,
        ),
        (IoOp::Read, u64::from(block) / 2, block, Status::Invalid),
        (WRITE, 0, block / 2, Status::Invalid),
        (
            IoOp::WriteZeroes {
                unmap: true,
                fua: false,
            },
            0,
            0,
            Status::Invalid,
        ),
        (
            IoOp::WriteZeroes {
                unmap: true,
                fua: false,
            },
            size,
            block,
            Status::OutOfRange,
        ),
    ] {
        let mut io = Io {
            op,
            offset,
            len,
            data: None,
            queue: 0,
            last: true,
        };
        if matches!(op, IoOp::Read | IoOp::Write { .. }) {
            // Data does not matter any more.
            let buffer = s.buffers.get_mut(0).ok_or(EINVAL)?;
            // SAFETY: Buffers outlive the volume, and this one is not used until the request was refused.
            io.data = Some(unsafe { buffer.data(len)? });
        }
        let answer = s.volume.submit(0, io);
        if answer != Err(why) {
            pr_err!(
                "{:?} of {} at {}: not {:?} but {:?}\n",
                op,
                len,
                offset,
                why,
                answer
            );
            return Err(EPIPE);
        }
    }
    // Without data, with too little of it, with a tag that does not exist.
    let io = |data| Io {
        op: IoOp::Read,
        offset: 0,
        len: block * 2,
        data,
        queue: 1000,
        last: true,
    };
    check!(s.volume.submit(0, io(None)) == Err(Status::Invalid));
    let buffer = s.buffers.get_mut(0).ok_or(EINVAL)?;
    // SAFETY: As above.
    let (half, whole) = unsafe { (buffer.data(block)?, buffer.data(block * 2)?) };
    check!(s.volume.submit(0, io(Some(half))) == Err(Status::Invalid));
    check!(s.volume.submit(DEPTH, io(Some(whole))).is_err());
    check!(s.tags.wrong.load(Relaxed) == 0);
    Ok(())
}

fn write_and_read(s: &mut Session) -> Result {
    for together in [1, 8] {
        let seed = together as u64;
        let span = s.span;
        let jobs = s.cover(WRITE, 0, span, seed, SIZES);
        s.execute(jobs, together)?;
        s.execute_one(IoOp::Flush, 0, 0, 0)?;
        let jobs = s.cover(IoOp::Read, 0, span, seed, OTHER_SIZES);
        s.execute(jobs, together)?;
    }
    Ok(())
}

/// Writes that are stable when they are complete, and flushes among them.
fn stable_writes(s: &mut Session) -> Result {
    let op = IoOp::Write { fua: true };
    let span = s.span / 4;
    let jobs = s.cover(op, 0, span, 50, SIZES);
    let flush = Job {
        op: IoOp::Flush,
        offset: 0,
        len: 0,
        seed: 0,
    };
    s.execute(jobs.flat_map(|job| [job, flush]), 4)?;
    let jobs = s.cover(IoOp::Read, 0, span, 50, OTHER_SIZES);
    s.execute(jobs, 4)
}

fn zeroes(s: &mut Session) -> Result {
    if !s
        .volume
        .limits()
        .limits
        .features
        .contains(Features::WRITE_ZEROES)
    {
        pr_info!("the pool has no write-zeroes\n");
        return Ok(());
    }
    let third = u32::try_from(s.span / 3)?;
    let (from, to) = (down(third, s.block), down(third * 2, s.block));
    let (from, to) = (u64::from(from), u64::from(to));
    for (seed, unmap, fua) in [(60, false, false), (61, true, false), (62, true, true)] {
        let jobs = s.cover(WRITE, 0, s.span, seed, [u32::MAX; 5]);
        s.execute(jobs, 4)?;
        let op = IoOp::WriteZeroes { unmap, fua };
        let jobs = s.cover(op, from, to, 0, OTHER_SIZES);
        s.execute(jobs, 4)?;
        // Not a byte more or less.
        for (from, to, seed) in [(0, from, seed), (from, to, 0), (to, s.span, seed)] {
            let jobs = s.cover(IoOp::Read, from, to, seed, SIZES);
            s.execute(jobs, 4)?;
        }
    }
    Ok(())
}

/// Writes to the same place at the same time: afterwards all members have the same one of them.
fn overlapping(s: &mut Session) -> Result {
    for round in 0..20u64 {
        let seed = |n: u64| 1000 + round * 100 + n;
        let (block, len) = (u64::from(s.block), s.max_io);
        let writes = (0..u64::from(DEPTH)).map(|n| Job {
            op: WRITE,
            offset: round * block,
            len,
            seed: seed(n),
        });
        s.execute(writes, 4)?;
        // Each of which goes to another member, by default.
        let read = Job {
            op: IoOp::Read,
            offset: round * block,
            len,
            seed: 0,
        };
        for tag in 0..8 {
            s.submit(tag, &read, true).map_err(|_| EIO)?;
        }
        let tags = s.tags.clone();
        s.tags
            .queue
            .wait_until_timeout(PATIENCE_MS, || tags.in_flight() == 0)?;
        let mut found = None;
        for tag in 0..8 {
            check!(s.tags.state(tag) == u32::from(Status::Ok.wire()));
            s.tags.set(tag, FREE);
            let buffer = s.buffers.get(tag as usize).ok_or(EINVAL)?;
            if found.is_none() {
                for n in 0..u64::from(DEPTH) {
                    if buffer.holds(&read, seed(n))? {
                        found = Some(seed(n));
                    }
                }
            }
            check!(found.is_some_and(|seed| buffer.holds(&read, seed) == Ok(true)));
        }
    }
    Ok(())
}

/// The end of a volume waits for its requests.
fn end_in_flight(name: &PoolName) -> Result {
    for round in 0..5 {
        let mut s = Session::open(name)?;
        let len = s.max_io;
        for tag in 0..DEPTH {
            let job = Job {
                op: WRITE,
                // Some at the same place.
                offset: u64::from(tag % 4) * u64::from(len),
                len,
                seed: 70 + round,
            };
            s.submit(tag, &job, true).map_err(|_| EIO)?;
        }
        let Session {
            volume,
            tags,
            buffers,
            ..
        } = s;
        drop(volume);
        check!(tags.in_flight() == 0 && tags.wrong.load(Relaxed) == 0);
        check!((0..DEPTH).all(|tag| tags.state(tag) == u32::from(Status::Ok.wire())));
        drop(buffers);
    }
    Ok(())
}

/// What was written is there when the volume is opened again.
fn again(name: &PoolName) -> Result {
    let mut s = Session::open(name)?;
    let span = s.span;
    let jobs = s.cover(WRITE, 0, span, 80, [u32::MAX; 5]);
    s.execute(jobs, 4)?;
    drop(s);
    let mut s = Session::open(name)?;
    let jobs = s.cover(IoOp::Read, 0, span, 80, SIZES);
    s.execute(jobs, 4)?;
    check!(s.tags.wrong.load(Relaxed) == 0);
    Ok(())
}

fn run(results: &mut Results, name: &PoolName) -> Result {
    results.note("opening", opening(name));
    let mut s = Session::open(name)?;
    results.note("refusals", refusals(&mut s));
    results.note("write and read", write_and_read(&mut s));
    results.note("stable writes", stable_writes(&mut s));
    results.note("zeroes", zeroes(&mut s));
    results.note("overlapping writes", overlapping(&mut s));
    let completed_once = s.tags.wrong.load(Relaxed) == 0 && s.volume.state() == VolumeState::Ready;
    results.note(
        "completed once",
        if completed_once { Ok(()) } else { Err(EPIPE) },
    );
    drop(s);
    results.note("end in flight", end_in_flight(name));
    results.note("again", again(name));
    Ok(())
}
