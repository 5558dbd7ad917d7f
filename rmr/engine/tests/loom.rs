// SPDX-License-Identifier: GPL-2.0

//! Every interleaving (within the bounds named at each test) of the concurrent structures.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p rmr-engine --release --lib --test loom -- --skip tests::`
//!
//! With `--lib` come those of private structures, which are modules called `interleavings` of the engine.
//!
//! loom also explores what the memory model allows beyond interleavings, and reports data races on the
//! `UnsafeCell`s that stand for the data these structures are to protect.

#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::Relaxed;
use loom::sync::Arc;
use loom::thread;
use rmr_engine::client::flights::Onward;
use rmr_engine::client::Ack;
use rmr_engine::client::Data;
use rmr_engine::client::Start;
use rmr_engine::dedupe::Dedupe;
use rmr_engine::dedupe::Joiners;
use rmr_engine::dedupe::Verdict;
use rmr_engine::memory::Memory;
use rmr_engine::memory::NoMemory;
use rmr_engine::overlap::Insert;
use rmr_engine::overlap::Node;
use rmr_engine::overlap::Overlap;
use rmr_engine::overlap::Shard;
use rmr_engine::sync::AtomicU64;
use rmr_engine::sync::HostLock;
use rmr_engine::window::Window;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::Generation;
use rmr_proto::Incarnation;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Quorum;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::MAX_MEMBERS;
use std::ops::Range;

fn explore(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = (preemptions != usize::MAX).then_some(preemptions);
    builder.check(f);
}

const MIB: u64 = 1 << 20;

/// Requests, and the data they touch: two cells, of the first and of the second 4 MiB.
struct World {
    overlap: Overlap<Vec<Node>, Vec<HostLock<Shard>>>,
    requests: Vec<(Range<u64>, bool)>,
    data: [UnsafeCell<u32>; 2],
    executed: AtomicUsize,
}

impl World {
    fn new(shards: usize, requests: Vec<(Range<u64>, bool)>) -> Arc<Self> {
        let nodes = requests.iter().map(|_| Node::new()).collect();
        let shards = (0..shards).map(|_| HostLock::new(Shard::new())).collect();
        Arc::new(Self {
            overlap: Overlap::new(nodes, shards).unwrap(),
            requests,
            data: [UnsafeCell::new(0), UnsafeCell::new(0)],
            executed: AtomicUsize::new(0),
        })
    }

    fn submit(&self, tag: u32) {
        let (range, write) = self.requests[tag as usize].clone();
        match self.overlap.insert(tag, range, write) {
            Insert::Admitted => self.execute(tag),
            Insert::Held => {}
            Insert::Refused => panic!("refused"),
        }
    }

    fn execute(&self, tag: u32) {
        let (range, write) = &self.requests[tag as usize];
        for (place, cell) in self.data.iter().enumerate() {
            let start = place as u64 * 4 * MIB;
            if range.start < start + 4 * MIB && start < range.end {
                // loom panics if two of these meet and one of them is a write.
                if *write {
                    cell.with_mut(|_| ());
                } else {
                    cell.with(|_| ());
                }
            }
        }
        self.executed.fetch_add(1, Relaxed);
        let mut ready = vec![];
        assert!(self.overlap.remove(tag, |next| ready.push(next)));
        ready.into_iter().for_each(|next| self.execute(next));
    }
}

fn overlap_case(preemptions: usize, shards: usize, requests: Vec<(Range<u64>, bool)>) {
    explore(preemptions, move || {
        let world = World::new(shards, requests.clone());
        let threads: Vec<_> = (1..requests.len() as u32)
            .map(|tag| {
                let world = world.clone();
                thread::spawn(move || world.submit(tag))
            })
            .collect();
        world.submit(0);
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(world.executed.load(Relaxed), requests.len());
    });
}

/// 3 threads, 1 region, at most 3 preemptions: writes exclude each other and a read.
#[test]
fn overlap_one_region() {
    let all = 0..MIB;
    overlap_case(
        3,
        1,
        vec![(all.clone(), true), (all.clone(), false), (all, true)],
    );
}

/// 3 threads, 2 shards, at most 3 preemptions: a write of both regions, one of each; the blockers of the first
/// are removed under different locks.
#[test]
fn overlap_two_regions() {
    overlap_case(
        3,
        2,
        vec![
            (3 * MIB..5 * MIB, true),
            (3 * MIB..4 * MIB, true),
            (4 * MIB..5 * MIB, true),
        ],
    );
}

/// 3 threads, 2 shards, at most 3 preemptions: two of three cross, and the third reads.
#[test]
fn overlap_two_crossing() {
    overlap_case(
        3,
        2,
        vec![
            (3 * MIB..5 * MIB, true),
            (2 * MIB..6 * MIB, true),
            (4 * MIB..5 * MIB, false),
        ],
    );
}

/// 3 threads complete one number each, at most 2 preemptions: whoever is last finds all of them.
#[test]
fn window_three_threads() {
    explore(2, || {
        let slots = (0..4).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let window = Arc::new(Window::new(slots).unwrap());
        let numbers: Vec<_> = (0..3).map(|_| window.issue().unwrap()).collect();
        let threads: Vec<_> = numbers[1..]
            .iter()
            .map(|seq| {
                let (window, seq) = (window.clone(), *seq);
                thread::spawn(move || window.complete(seq))
            })
            .collect();
        window.complete(numbers[0]);
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(window.watermark(), Seq(3));
    });
}

/// 2 threads, each issues and completes one number, all interleavings: the numbers differ, the watermark never
/// passes an open one and ends at the last.
#[test]
fn window_issue() {
    explore(usize::MAX, || {
        let slots = (0..4).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let window = Arc::new(Window::new(slots).unwrap());
        let work = |window: &Window<Vec<AtomicU64>>| {
            let seq = window.issue().unwrap();
            assert!(window.watermark() < seq);
            window.complete(seq);
            seq
        };
        let other = {
            let window = window.clone();
            thread::spawn(move || work(&window))
        };
        assert_ne!(work(&window), other.join().unwrap());
        assert_eq!(window.watermark(), Seq(2));
    });
}

/// 2 threads, a window of 2 that is full and wraps, all interleavings: completions in both orders lose nothing,
/// and a number given out anew in a slot is not taken for complete.
#[test]
fn window_wraps() {
    explore(usize::MAX, || {
        let slots = (0..2).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let window = Arc::new(Window::new(slots).unwrap());
        let (first, second) = (window.issue().unwrap(), window.issue().unwrap());
        assert_eq!(window.issue(), None);
        let other = {
            let window = window.clone();
            thread::spawn(move || {
                window.complete(second);
                window
                    .issue()
                    .inspect(|seq| assert!(window.watermark() < *seq))
            })
        };
        window.complete(first);
        let mine = window.issue();
        let theirs = other.join().unwrap();
        assert_ne!(mine, theirs.or(Some(Seq(0))).filter(|_| mine.is_some()));
        // Seen from the end: both are complete, those given out since are not.
        assert_eq!(window.watermark(), Seq(2));
        [mine, theirs]
            .into_iter()
            .flatten()
            .for_each(|seq| window.complete(seq));
        assert_eq!(window.watermark(), window.issued());
    });
}

type Table = Dedupe<Vec<AtomicU64>, HostLock<Joiners<usize>>>;

/// What a sender of the write `seq` does; `data` is what the write touches.
struct Member {
    table: Table,
    data: UnsafeCell<u32>,
    answered: Vec<AtomicUsize>,
}

impl Member {
    fn new(size: usize, senders: usize) -> Arc<Self> {
        let slots = (0..size).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            table: Dedupe::new(slots, HostLock::default()).unwrap(),
            data: UnsafeCell::new(0),
            answered: (0..senders).map(|_| AtomicUsize::new(0)).collect(),
        })
    }

    fn answer(&self, sender: usize) {
        self.answered[sender].fetch_add(1, Relaxed);
    }

    /// True if it was executed here.
    fn deliver(&self, sender: usize, seq: Seq, watermark: Seq) -> bool {
        match self.table.begin(seq, watermark, sender) {
            Verdict::Execute => {
                self.data.with_mut(|_| ());
                assert!(self
                    .table
                    .finish(seq, Status::NoSpace, |joined| self.answer(joined)));
                self.answer(sender);
                true
            }
            Verdict::Join => false,
            Verdict::Done(status) => {
                assert_eq!(status, Status::NoSpace);
                // The execution came before its answer.
                self.data.with(|_| ());
                self.answer(sender);
                false
            }
            Verdict::Refuse(status) => panic!("{status}"),
        }
    }
}

/// 3 deliveries of one write, at most 3 preemptions: executed once, each answered once.
#[test]
fn dedupe_three_copies() {
    explore(3, || {
        let member = Member::new(2, 3);
        let threads: Vec<_> = (1..3)
            .map(|sender| {
                let member = member.clone();
                thread::spawn(move || member.deliver(sender, Seq(1), Seq(0)))
            })
            .collect();
        let mut executed = u32::from(member.deliver(0, Seq(1), Seq(0)));
        for thread in threads {
            executed += u32::from(thread.join().unwrap());
        }
        assert_eq!(executed, 1);
        assert!(member.answered.iter().all(|n| n.load(Relaxed) == 1));
    });
}

/// A late copy of a finished write against the next write in its slot, all interleavings: the late one is
/// never executed.
#[test]
fn dedupe_slot_taken_over() {
    explore(usize::MAX, || {
        let member = Member::new(1, 3);
        assert!(member.deliver(0, Seq(1), Seq(0)));
        let late = {
            let member = member.clone();
            thread::spawn(move || match member.table.begin(Seq(1), Seq(0), 1) {
                Verdict::Done(Status::NoSpace) | Verdict::Refuse(Status::BelowWatermark) => {}
                other => panic!("{other:?}"),
            })
        };
        assert!(member.deliver(2, Seq(2), Seq(1)));
        late.join().unwrap();
    });
}

/// A copy that finds the write running, but wants to wait when that is done and the next write is running in its slot, all
/// interleavings: each is answered once.
#[test]
fn dedupe_join_too_late() {
    explore(usize::MAX, || {
        let member = Member::new(1, 3);
        assert_eq!(member.table.begin(Seq(1), Seq(0), 0), Verdict::Execute);
        let late = {
            let member = member.clone();
            thread::spawn(move || match member.table.begin(Seq(1), Seq(0), 1) {
                Verdict::Done(Status::Ok) | Verdict::Refuse(Status::BelowWatermark) => {
                    member.answer(1);
                }
                Verdict::Join => {}
                other => panic!("{other:?}"),
            })
        };
        assert!(member
            .table
            .finish(Seq(1), Status::Ok, |joined| member.answer(joined)));
        assert!(member.deliver(2, Seq(2), Seq(1)));
        late.join().unwrap();
        assert_eq!(member.answered[1].load(Relaxed), 1);
        assert_eq!(member.answered[2].load(Relaxed), 1);
    });
}

/// A copy against the end of a write that was never started, all interleavings: it is told to come again, or
/// is executed.
#[test]
fn dedupe_abandoned() {
    explore(usize::MAX, || {
        let member = Member::new(1, 2);
        assert_eq!(member.table.begin(Seq(1), Seq(0), 0), Verdict::Execute);
        let copy = {
            let member = member.clone();
            thread::spawn(move || match member.table.begin(Seq(1), Seq(0), 1) {
                Verdict::Execute => {
                    assert!(member
                        .table
                        .finish(Seq(1), Status::Ok, |_| panic!("nobody")));
                    member.answer(1);
                }
                Verdict::Join => {}
                Verdict::Refuse(Status::Busy) => member.answer(1),
                other => panic!("{other:?}"),
            })
        };
        assert!(member.table.abandon(Seq(1), |joined| member.answer(joined)));
        copy.join().unwrap();
        assert_eq!(member.answered[1].load(Relaxed), 1);
    });
}

/// Lends at most four of anything: loom keeps account of every atomic.
struct Little;

impl Memory for Little {
    type Array<T> = Vec<T>;
    type Box<T> = Box<T>;

    fn array<T>(&self, len: usize, make: impl FnMut(usize) -> T) -> Result<Vec<T>, NoMemory> {
        Ok((0..len.min(4)).map(make).collect())
    }

    fn boxed<T>(&self, make: impl FnOnce() -> T) -> Result<Self::Box<T>, NoMemory> {
        Ok(Box::new(make()))
    }
}

type Hot = Data<Little>;

/// Members 1 to `count`, all in sync.
fn config(epoch: u64, count: usize) -> Config {
    let mut members = [None; MAX_MEMBERS];
    let mut incarnations = [Incarnation::NONE; MAX_MEMBERS];
    for place in 0..2 {
        members[place] = Some(Uuid([1 + place as u8; 16]));
        incarnations[place] = Incarnation(1);
    }
    Config {
        generation: Generation {
            number: 1,
            nonce: 1,
        },
        epoch: Epoch(epoch),
        in_sync: MemberId::all().take(count).collect(),
        catching_up: MemberSet::EMPTY,
        members,
        incarnations,
        persisted: [Epoch::NONE; MAX_MEMBERS],
        clean: false,
        history: Uuid([9; 16]),
        forked_from: None,
        quorum: Quorum::Off,
        maintenance: MemberSet::EMPTY,
    }
}

/// Opens with members 1 to `count`; returns how many requests ended with it.
fn open(data: &Hot, epoch: u64, count: usize) -> usize {
    let config = config(epoch, count);
    data.adopt(&Uuid([8; 16]), &config, 8);
    let mut ended = 0;
    data.reopen(
        |view| Onward::Pending(view.pending.intersection(config.in_sync)),
        |_, _| ended += 1,
        |sending| panic!("{sending:?}: nothing came back"),
    );
    ended
}

/// One request, members 1 and 2.
fn hot() -> Hot {
    let data = Data::new(&Little, 1).unwrap();
    assert_eq!(open(&data, 1, 2), 0);
    data
}

/// A start against a coordinator that shuts, drops member 2 and reopens, all interleavings: the write is sent under the
/// configuration in force, or not at all; and who is told of it at the drop is right.
#[test]
fn flight_start_and_drop() {
    explore(usize::MAX, || {
        let data = Arc::new(hot());
        let writer = {
            let data = data.clone();
            thread::spawn(move || data.write(0, Op::Flush, 0, 0))
        };
        data.shut(true);
        let listed = data.views().count();
        open(&data, 2, 1);
        match writer.join().unwrap() {
            Start::Send(sending) => {
                // Under epoch 1 it is on the list, under epoch 2 it is not and goes to member 1 alone.
                assert_eq!(listed, usize::from(sending.epoch.0 == 1));
                let targets = if sending.epoch.0 == 1 { 3 } else { 1 };
                assert_eq!(sending.targets.bits(), targets);
            }
            Start::Parked => assert_eq!(listed, 0),
            Start::Fail(status) => panic!("{status}"),
        }
    });
}

/// The last acknowledgement against a freeze, all interleavings: it completes the flush before the freeze, or not until
/// it is over; and then exactly once.
#[test]
fn flight_ack_and_freeze() {
    explore(usize::MAX, || {
        let data = Arc::new(hot());
        let Start::Send(sending) = data.write(0, Op::Flush, 0, 0) else {
            panic!("not sent");
        };
        let member = |id| MemberId::new(id).unwrap();
        assert_eq!(
            data.ack(sending.ticket, member(1), Status::Ok).ack,
            Ack::Pending
        );
        let acker = {
            let data = data.clone();
            thread::spawn(move || data.ack(sending.ticket, member(2), Status::Ok).ack)
        };
        data.shut(true);
        let held = data.views().count();
        let ended = open(&data, 2, 2);
        let done = matches!(acker.join().unwrap(), Ack::Complete(_));
        assert_eq!(usize::from(done) + ended, 1);
        assert!(held == 1 || done);
    });
}

/// Two acknowledgements at once, all interleavings: one of them is the last.
#[test]
fn flight_two_acks() {
    explore(usize::MAX, || {
        let data = Arc::new(hot());
        let Start::Send(sending) = data.write(0, Op::Flush, 0, 0) else {
            panic!("not sent");
        };
        let ack = move |data: &Hot, id| {
            data.ack(sending.ticket, MemberId::new(id).unwrap(), Status::Ok)
                .ack
        };
        let other = {
            let data = data.clone();
            thread::spawn(move || ack(&data, 2))
        };
        let mut acks = [ack(&data, 1), other.join().unwrap()];
        acks.sort_by_key(|ack| *ack != Ack::Pending);
        assert_eq!(acks, [Ack::Pending, Ack::Complete(Status::Ok)]);
    });
}
