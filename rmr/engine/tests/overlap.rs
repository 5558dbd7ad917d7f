// SPDX-License-Identifier: GPL-2.0

//! `overlap` against a naive model, and under threads.

use proptest::prelude::*;
use rmr_engine::overlap::Insert;
use rmr_engine::overlap::Node;
use rmr_engine::overlap::Overlap;
use rmr_engine::overlap::Shard;
use rmr_engine::overlap::MAX_LEN;
use rmr_engine::sync::HostLock;
use std::ops::Range;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::SeqCst;

type Host = Overlap<Vec<Node>, Vec<HostLock<Shard>>>;

fn overlap(depth: usize, shards: usize) -> Host {
    let nodes = (0..depth).map(|_| Node::new()).collect();
    let shards = (0..shards).map(|_| HostLock::new(Shard::new())).collect();
    Overlap::new(nodes, shards).unwrap()
}

/// All requests in order of arrival; nothing clever.
#[derive(Default)]
struct Model(Vec<(u32, Range<u64>, bool)>);

impl Model {
    fn admitted(&self, place: usize) -> bool {
        let (_, range, write) = &self.0[place];
        !self.0[..place]
            .iter()
            .any(|(_, r, w)| (*w || *write) && r.start < range.end && range.start < r.end)
    }

    fn all_admitted(&self) -> Vec<u32> {
        (0..self.0.len())
            .filter(|p| self.admitted(*p))
            .map(|p| self.0[p].0)
            .collect()
    }
}

const DEPTH: usize = 12;

#[derive(Clone, Debug)]
enum Step {
    Insert { start: u64, len: u64, write: bool },
    Remove { which: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Half a MiB as unit: up to 4 MiB long, in the first 20 MiB, so that most cross into a second region.
    let insert = (0u64..40, 1u64..=8, prop::bool::weighted(0.4)).prop_map(|(start, len, write)| {
        let unit = 1 << 19;
        let (start, len) = (start * unit, len * unit);
        Step::Insert { start, len, write }
    });
    let remove = any::<usize>().prop_map(|which| Step::Remove { which });
    prop::collection::vec(prop_oneof![3 => insert, 2 => remove], 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn behaves_like_the_model(shards in 1usize..6, steps in steps()) {
        let real = overlap(DEPTH, shards);
        let mut model = Model::default();
        let mut free: Vec<u32> = (0..DEPTH as u32).collect();
        // What is left at the end must drain.
        let drain = (0..DEPTH).map(|which| Step::Remove { which });
        for step in steps.into_iter().chain(drain) {
            match step {
                Step::Insert { start, len, write } => {
                    let Some(tag) = free.pop() else { continue };
                    model.0.push((tag, start..start + len, write));
                    let expected = if model.admitted(model.0.len() - 1) {
                        Insert::Admitted
                    } else {
                        Insert::Held
                    };
                    prop_assert_eq!(real.insert(tag, start..start + len, write), expected);
                    prop_assert_eq!(real.insert(tag, start..start + len, write), Insert::Refused);
                }
                Step::Remove { which } => {
                    let before = model.all_admitted();
                    if before.is_empty() {
                        prop_assert!(model.0.is_empty(), "nothing admitted, but not empty");
                        continue;
                    }
                    let held = model.0.iter().find(|r| !before.contains(&r.0));
                    if let Some((tag, ..)) = held {
                        prop_assert!(!real.remove(*tag, |_| ()), "a held request was removed");
                    }
                    let tag = before[which % before.len()];
                    model.0.retain(|r| r.0 != tag);
                    free.push(tag);
                    let mut expected = model.all_admitted();
                    expected.retain(|t| !before.contains(t));
                    let mut ready = vec![];
                    prop_assert!(real.remove(tag, |t| ready.push(t)));
                    ready.sort();
                    expected.sort();
                    prop_assert_eq!(ready, expected);
                    prop_assert!(!real.remove(tag, |_| ()));
                }
            }
        }
        prop_assert!(model.0.is_empty());
    }
}

#[test]
fn refuses_nonsense() {
    let real = overlap(2, 1);
    assert_eq!(real.insert(2, 0..1, true), Insert::Refused);
    assert_eq!(real.insert(u32::MAX, 0..1, true), Insert::Refused);
    assert_eq!(real.insert(0, 5..5, true), Insert::Refused);
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 5..4;
    assert_eq!(real.insert(0, backwards, true), Insert::Refused);
    assert_eq!(real.insert(0, 0..MAX_LEN + 1, true), Insert::Refused);
    assert_eq!(
        real.insert(0, u64::MAX - MAX_LEN..u64::MAX, true),
        Insert::Admitted
    );
    assert_eq!(real.insert(1, 0..MAX_LEN, true), Insert::Admitted);
    assert!(!real.remove(7, |_| ()));
    assert!(Overlap::<Vec<Node>, Vec<HostLock<Shard>>>::new(vec![], vec![]).is_none());
}

#[test]
fn a_waiting_write_is_not_overtaken_by_reads() {
    let real = overlap(8, 4);
    assert_eq!(real.insert(0, 0..8, false), Insert::Admitted);
    assert_eq!(real.insert(1, 0..8, true), Insert::Held);
    for tag in 2..6 {
        assert_eq!(real.insert(tag, 0..8, false), Insert::Held);
    }
    assert_eq!(real.insert(6, 0..8, true), Insert::Held);
    assert_eq!(real.insert(7, 8..16, true), Insert::Admitted);
    let remove = |tag| {
        let mut ready = vec![];
        assert!(real.remove(tag, |t| ready.push(t)));
        ready
    };
    assert_eq!(remove(0), [1]);
    assert_eq!(remove(1), [2, 3, 4, 5]);
    assert_eq!(remove(3), []);
    assert_eq!(remove(2), []);
    assert_eq!(remove(5), []);
    assert_eq!(remove(4), [6]);
}

#[test]
fn ready_may_insert_and_remove() {
    let real = overlap(4, 2);
    for (tag, expected) in [(0, Insert::Admitted), (1, Insert::Held), (2, Insert::Held)] {
        assert_eq!(real.insert(tag, 0..512, true), expected);
    }
    let mut order = vec![];
    assert!(real.remove(0, |tag| {
        order.push(tag);
        assert_eq!(real.insert(0, 0..512, true), Insert::Held);
        assert!(real.remove(tag, |next| order.push(next)));
    }));
    assert_eq!(order, [1, 2]);
}

/// Threads on few blocks: a block never has two writers, nor a writer and a reader, and nobody is forgotten.
#[test]
fn threads_exclude_each_other() {
    const TAGS: u32 = 64;
    const PER_THREAD: u32 = 16;
    const ROUNDS: u32 = 3000;
    const UNIT: u64 = 1 << 20;
    let real = overlap(TAGS as usize, 7);
    let blocks: Vec<AtomicI32> = (0..32).map(|_| AtomicI32::new(0)).collect();
    // What each tag does, for the thread that is told that it is ready.
    let doing: Vec<std::sync::Mutex<(Range<u64>, bool)>> = (0..TAGS)
        .map(|_| std::sync::Mutex::new((0..0, false)))
        .collect();
    let done: Vec<AtomicI32> = (0..TAGS).map(|_| AtomicI32::new(0)).collect();

    let execute = |tag: u32| {
        let mut queue = vec![tag];
        while let Some(tag) = queue.pop() {
            let (range, write) = doing[tag as usize].lock().unwrap().clone();
            for block in range.clone() {
                let before =
                    blocks[block as usize].fetch_add(if write { -1000 } else { 1 }, SeqCst);
                assert!(if write { before == 0 } else { before >= 0 }, "{before}");
            }
            std::hint::spin_loop();
            for block in range {
                blocks[block as usize].fetch_add(if write { 1000 } else { -1 }, SeqCst);
            }
            assert!(real.remove(tag, |next| queue.push(next)));
            done[tag as usize].store(1, SeqCst);
        }
    };

    std::thread::scope(|scope| {
        for thread in 0..TAGS / PER_THREAD {
            let (real, doing, done, execute) = (&real, &doing, &done, &execute);
            scope.spawn(move || {
                let mut seed = u64::from(thread) + 1;
                let mut random = move |below: u64| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed % below
                };
                for round in 0..ROUNDS {
                    let tag = thread * PER_THREAD + round % PER_THREAD;
                    if round >= PER_THREAD {
                        while done[tag as usize].swap(0, SeqCst) == 0 {
                            std::thread::yield_now();
                        }
                    }
                    let start = random(29);
                    let range = start..start + 1 + random(3);
                    let write = random(2) == 0;
                    *doing[tag as usize].lock().unwrap() = (range.clone(), write);
                    match real.insert(tag, range.start * UNIT..range.end * UNIT, write) {
                        Insert::Admitted => execute(tag),
                        Insert::Held => {}
                        Insert::Refused => panic!("refused"),
                    }
                }
            });
        }
    });
    // Every tag was used last in the last rounds, and each of these is done, or the threads would still wait.
    assert!(done.iter().all(|d| d.load(SeqCst) == 1));
}
