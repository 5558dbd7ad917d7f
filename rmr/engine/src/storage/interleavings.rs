// SPDX-License-Identifier: GPL-2.0

//! Every interleaving (within the bounds named at each test) of what the CPUs of a member share, and of the one that
//! changes its metadata meanwhile. See `tests/loom.rs` for the other structures; these are private to the half.

use super::bitmap::Bitmaps;
use super::log::Extents;
use super::log::Log;
use super::pulls::Pulls;
use super::recent::Recent;
use super::shared::Shared;
use super::unreadable::Unreadable;
use crate::dedupe::Joiners;
use crate::memory::Memory;
use crate::memory::NoMemory;
use crate::sync::AtomicU64;
use crate::sync::HostLock;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use rmr_proto::Flags;
use rmr_proto::Geometry;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Request;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::BLOCK_SHIFT;
use std::ops::Range;
use std::vec::Vec;

fn explore(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = (preemptions != usize::MAX).then_some(preemptions);
    builder.check(f);
}

/// Lends at most as much as the first page of the bitmap of member 1 needs: loom keeps account of every atomic.
struct Little;

impl Memory for Little {
    type Array<T> = Vec<T>;
    type Box<T> = std::boxed::Box<T>;

    fn array<T>(&self, len: usize, make: impl FnMut(usize) -> T) -> Result<Vec<T>, NoMemory> {
        Ok((0..len.min(512)).map(make).collect())
    }

    fn boxed<T>(&self, make: impl FnOnce() -> T) -> Result<Self::Box<T>, NoMemory> {
        Ok(std::boxed::Box::new(make()))
    }
}

fn geometry() -> Geometry {
    Geometry::new(64 << 20, 16).unwrap()
}

fn member() -> MemberId {
    MemberId::new(1).unwrap()
}

fn bitmaps() -> Arc<Bitmaps<Little>> {
    Arc::new(Bitmaps::new(&Little, &geometry()).unwrap())
}

fn mark(bitmaps: &Bitmaps<Little>, chunks: Range<u64>) {
    bitmaps.mark(MemberSet::only(member()), chunks);
}

/// The first words of the page on disk, if it is to be written now.
fn written(bitmaps: &Bitmaps<Little>) -> Option<Vec<u64>> {
    let page = bitmaps.take_changed(member(), 0)?;
    Some(bitmaps.page(member(), page).take(2).collect())
}

/// 2 threads mark chunks of one word, all interleavings: both are dirty, and the page is to be written.
#[test]
fn bitmap_two_marks() {
    explore(usize::MAX, || {
        let bitmaps = bitmaps();
        let other = {
            let bitmaps = bitmaps.clone();
            thread::spawn(move || mark(&bitmaps, 3..4))
        };
        mark(&bitmaps, 4..5);
        other.join().unwrap();
        assert_eq!(written(&bitmaps), Some([3 << 3, 0].into()));
        assert_eq!(written(&bitmaps), None);
    });
}

/// 2 marks in two words of one page while it is written, at most 3 preemptions: what is not on disk is to be written.
#[test]
fn bitmap_marks_and_page() {
    explore(3, || {
        let bitmaps = bitmaps();
        mark(&bitmaps, 9..10);
        let marks = [3..4, 70..71].map(|chunks| {
            let bitmaps = bitmaps.clone();
            thread::spawn(move || mark(&bitmaps, chunks))
        });
        let first = written(&bitmaps);
        marks.into_iter().for_each(|t| t.join().unwrap());
        let last = written(&bitmaps).or(first);
        assert_eq!(last, Some([1 << 3 | 1 << 9, 1 << 6].into()));
    });
}

/// A mark against the proof of another chunk of its word, all interleavings: neither undoes the other.
#[test]
fn bitmap_mark_and_clear() {
    explore(usize::MAX, || {
        let bitmaps = bitmaps();
        mark(&bitmaps, 4..5);
        let other = {
            let bitmaps = bitmaps.clone();
            thread::spawn(move || mark(&bitmaps, 3..4))
        };
        bitmaps.clear(member(), 4..5);
        other.join().unwrap();
        assert_eq!(written(&bitmaps), Some([1 << 3, 0].into()));
    });
}

/// A mark while a full bitmap is spelled out, all interleavings: at no time is the chunk clean.
#[test]
fn bitmap_full_is_spelled_out() {
    explore(usize::MAX, || {
        let bitmaps = bitmaps();
        bitmaps.fill(MemberSet::only(member()));
        let other = {
            let bitmaps = bitmaps.clone();
            thread::spawn(move || {
                assert!(bitmaps.get(member(), 70));
                mark(&bitmaps, 70..71);
                assert!(bitmaps.get(member(), 70));
            })
        };
        bitmaps.spell_out(member());
        other.join().unwrap();
        assert!(bitmaps.get(member(), 70) && !bitmaps.is_full(member()));
        assert!(bitmaps.is_changed(member()));
    });
}

/// A place on disk: loom panics if two touch it at once and one of them changes it.
struct Place {
    access: UnsafeCell<()>,
    value: AtomicU64,
}

impl Place {
    fn new() -> Self {
        Self {
            access: UnsafeCell::new(()),
            value: AtomicU64::new(0),
        }
    }

    fn write(&self, value: u64) {
        self.access.with_mut(|_| ());
        self.value.poke(value);
    }

    fn read(&self) -> u64 {
        self.access.with(|_| ());
        self.value.peek()
    }
}

/// Hot extents, and whether extent 2 is in the log on disk.
struct Disk {
    extents: Extents<Little>,
    logged: Place,
}

impl Disk {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            extents: Extents::new(&Little, &geometry()).unwrap(),
            logged: Place::new(),
        })
    }

    /// A write of extent 2; `false` if it has to wait.
    fn write(&self, seq: u64) -> bool {
        let hot = self.extents.touch(2, seq);
        if hot {
            assert_eq!(self.logged.read(), 1);
        } else {
            self.extents.want(2);
        }
        hot
    }

    /// A change of the log; whether anything came in.
    fn change(&self, log: &mut Log<Little>, evict: Option<u64>) -> bool {
        let has = |log: &Log<Little>| log.extents().any(|extent| extent == 2);
        let before = has(log);
        if let Some(up_to) = evict {
            log.evict(&self.extents, up_to);
        }
        let any = log.admit(&self.extents);
        if any || before != has(log) {
            self.logged.write(has(log).into());
        }
        while log.take_changed().is_some() {}
        log.commit(&self.extents);
        any
    }
}

/// 2 writes of an extent that is not in the log while it comes in, at most 3 preemptions: whoever may write finds it on
/// disk, and whoever has to wait is heard, or may the second time.
#[test]
fn log_admits() {
    explore(3, || {
        let disk = Disk::new();
        let mut log = Log::new(&Little, 4).unwrap();
        disk.extents.want(2);
        let other = {
            let disk = disk.clone();
            thread::spawn(move || disk.write(1))
        };
        assert!(disk.change(&mut log, None));
        if !other.join().unwrap() {
            disk.change(&mut log, None);
            assert!(disk.write(1));
        }
        assert_eq!(log.extents().filter(|extent| *extent == 2).count(), 1);
    });
}

/// 2 threads want extents, one of them what the other wants, while they come into the log, at most 3 preemptions: each is
/// in it once, sooner or later.
#[test]
fn log_wanted_twice() {
    explore(3, || {
        let disk = Disk::new();
        let mut log = Log::new(&Little, 4).unwrap();
        let threads = [2, 3].map(|extent| {
            let disk = disk.clone();
            thread::spawn(move || {
                disk.extents.want(2);
                disk.extents.want(extent);
            })
        });
        disk.change(&mut log, None);
        threads.into_iter().for_each(|t| t.join().unwrap());
        disk.change(&mut log, None);
        let mut found: Vec<_> = log.extents().collect();
        found.sort_unstable();
        assert_eq!(found, [2, 3]);
    });
}

/// A write of a hot extent whose writes so far are stable while that leaves the log, all interleavings: the write keeps it
/// there, or comes too late.
#[test]
fn log_evicts() {
    explore(usize::MAX, || {
        let disk = Disk::new();
        let mut log = Log::new(&Little, 4).unwrap();
        disk.extents.want(2);
        assert!(disk.change(&mut log, None) && disk.write(1));
        let other = {
            let disk = disk.clone();
            thread::spawn(move || disk.write(2))
        };
        disk.change(&mut log, Some(1));
        let may = other.join().unwrap();
        let again = disk.change(&mut log, None);
        assert!(log.extents().eq([2]));
        assert!(may != again || disk.write(2));
    });
}

/// 2 writes of a hot extent in both orders, all interleavings: the higher number counts.
#[test]
fn log_two_writes() {
    explore(usize::MAX, || {
        let disk = Disk::new();
        let mut log = Log::new(&Little, 4).unwrap();
        disk.extents.want(2);
        disk.change(&mut log, None);
        let other = {
            let disk = disk.clone();
            thread::spawn(move || disk.write(5))
        };
        assert!(disk.write(3) && other.join().unwrap());
        log.evict(&disk.extents, 4);
        assert_eq!(log.extents().count(), 1);
        log.evict(&disk.extents, 5);
        assert_eq!(log.extents().count(), 0);
    });
}

/// A write against a pull of its chunk (R16), all interleavings: the pull knows of the write before it asks, or the write
/// spoils what it brings, or waits until that is written. So they never write at once, and what was asked for before
/// the write does not come after it.
#[test]
fn write_and_pull() {
    explore(usize::MAX, || {
        let recent = Arc::new(Recent::new(&Little).unwrap());
        let pulls = Arc::new(Pulls::new());
        let data = Arc::new(Place::new());
        let writer = {
            let (recent, pulls, data) = (recent.clone(), pulls.clone(), data.clone());
            thread::spawn(move || {
                recent.put(1, &(5..6));
                let may = pulls.enter(&(5..6));
                if may {
                    data.write(1);
                }
                may
            })
        };
        pulls.ask(0, 5);
        let known = recent.touched(0, 5);
        let pulled = !known && pulls.write(0);
        if pulled {
            data.write(2);
        }
        pulls.end(0);
        let wrote = writer.join().unwrap();
        assert_eq!(data.read(), if wrote { 1 } else { 2 });
    });
}

/// A write of the block, number and sequence number given.
fn request(seq: u64, block: u64) -> Request {
    Request {
        op: Op::Write,
        flags: Flags::EMPTY,
        seq: Seq(seq),
        offset: block << BLOCK_SHIFT,
        len: 512,
        data_offset: 0,
    }
}

/// A write of a sector that could not be read while another sector of its block leaves the list, all interleavings: it is
/// pending until it has left the list, too.
#[test]
fn unreadable_and_written() {
    explore(usize::MAX, || {
        let list: Unreadable<Little> = Unreadable::new(&Little).unwrap();
        let list = Arc::new(list);
        assert!(list.find(5) && list.written(5 << BLOCK_SHIFT, 512));
        let writer = {
            let list = list.clone();
            thread::spawn(move || {
                let found = list.written((5 << BLOCK_SHIFT) + 512, 512);
                assert!(
                    found && list.is_pending((5 << BLOCK_SHIFT) + 512, 512)
                        || list.slots().flatten().all(|bad| bad.sectors & 2 == 0)
                );
            })
        };
        list.begin_leaving();
        list.end_leaving();
        assert!(!list.covers(5 << BLOCK_SHIFT, 512));
        writer.join().unwrap();
        if list.any_pending() {
            list.begin_leaving();
            list.end_leaving();
        }
        assert!(
            !list.covers(5 << BLOCK_SHIFT, 1024) && list.covers((5 << BLOCK_SHIFT) + 1024, 512)
        );
    });
}

type Hot = Shared<Little, HostLock<Joiners<u32>>>;

/// A flush against the end of a write that failed, all interleavings: it is forgiven only by a flush that began after it.
#[test]
fn failure_and_flush() {
    explore(usize::MAX, || {
        let shared: Arc<Hot> =
            Arc::new(Shared::new(&Little, geometry(), HostLock::default()).unwrap());
        let failing = {
            let shared = shared.clone();
            thread::spawn(move || {
                assert!(shared.finish(&request(1, 5), Status::Io, |_: u32| {}));
            })
        };
        let mark = shared.begin_flush();
        assert!(shared.end_flush(mark, Status::Ok).is_ok());
        failing.join().unwrap();
        assert_eq!(shared.has_failed(), mark != shared.begin_flush());
        assert!(shared.end_flush(shared.begin_flush(), Status::Ok).is_ok());
        assert!(!shared.has_failed());
    });
}
