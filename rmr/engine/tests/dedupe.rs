// SPDX-License-Identifier: GPL-2.0

//! `dedupe` against maps, and under threads.

use proptest::prelude::*;
use rmr_engine::dedupe::Dedupe;
use rmr_engine::dedupe::Joiners;
use rmr_engine::dedupe::Verdict;
use rmr_engine::dedupe::MAX_JOINERS;
use rmr_engine::sync::AtomicU64;
use rmr_engine::sync::HostLock;
use rmr_proto::Seq;
use rmr_proto::Status;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

type Host = Dedupe<Vec<AtomicU64>, HostLock<Joiners<u32>>>;

fn table(size: usize) -> Host {
    let slots = (0..size).map(|_| AtomicU64::new(0)).collect();
    Dedupe::new(slots, HostLock::default()).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    /// A message with a number this far above its watermark, the watermark this far above the highest known.
    Begin {
        seq: u64,
        watermark: u64,
    },
    Finish {
        which: prop::sample::Index,
        status: Status,
    },
    Abandon {
        which: prop::sample::Index,
    },
    Reset,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Running(Vec<u32>),
    Done(Status),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let status = prop::sample::select(Status::ALL);
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        20 => (0u64..40, 0u64..40).prop_map(|(seq, watermark)| Step::Begin { seq, watermark }),
        14 => (index(), status).prop_map(|(which, status)| Step::Finish { which, status }),
        2 => index().prop_map(|which| Step::Abandon { which }),
        1 => Just(Step::Reset),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn behaves_like_a_map(size in (0u32..5).prop_map(|bits| 1u64 << bits), steps in steps()) {
        let real = table(size as usize);
        let mut model: BTreeMap<u64, What> = BTreeMap::new();
        let mut known = 0;
        let mut token = 0;
        let running = |model: &BTreeMap<u64, What>| -> Vec<u64> {
            model
                .iter()
                .filter(|(_, what)| matches!(what, What::Running(_)))
                .map(|(seq, _)| *seq)
                .collect()
        };
        for step in steps {
            match step {
                Step::Begin { seq, watermark } => {
                    token += 1;
                    // A message that makes no sense changes nothing, the watermark included.
                    let claimed = known.max(watermark);
                    let outside = seq > claimed + size;
                    let complete = seq <= watermark;
                    if !outside && !complete {
                        known = claimed;
                    }
                    let blocked = running(&model)
                        .iter()
                        .any(|s| *s < seq && s % size == seq % size);
                    let verdict = real.begin(Seq(seq), Seq(watermark), token);
                    let expected = if outside {
                        Verdict::Refuse(Status::OutOfWindow)
                    } else if complete || seq <= known {
                        Verdict::Refuse(Status::BelowWatermark)
                    } else {
                        match model.get_mut(&seq) {
                            Some(What::Running(joined)) if joined.len() < MAX_JOINERS => {
                                joined.push(token);
                                Verdict::Join
                            }
                            Some(What::Running(_)) => Verdict::Refuse(Status::Busy),
                            Some(What::Done(status)) => Verdict::Done(*status),
                            None if blocked => Verdict::Refuse(Status::Busy),
                            None => {
                                model.insert(seq, What::Running(vec![]));
                                Verdict::Execute
                            }
                        }
                    };
                    prop_assert_eq!(verdict, expected);
                }
                Step::Finish { which, status } => {
                    let running = running(&model);
                    if running.is_empty() {
                        continue;
                    }
                    let seq = *which.get(&running);
                    let before = model.insert(seq, What::Done(status));
                    let mut joined = vec![];
                    prop_assert!(real.finish(Seq(seq), status, |t| joined.push(t)));
                    joined.sort();
                    prop_assert_eq!(before, Some(What::Running(joined)));
                    prop_assert!(!real.finish(Seq(seq), status, |_| ()));
                }
                Step::Abandon { which } => {
                    let running = running(&model);
                    if running.is_empty() {
                        continue;
                    }
                    let seq = *which.get(&running);
                    let before = model.remove(&seq);
                    let mut joined = vec![];
                    prop_assert!(real.abandon(Seq(seq), |t| joined.push(t)));
                    joined.sort();
                    prop_assert_eq!(before, Some(What::Running(joined)));
                }
                Step::Reset => {
                    let idle = running(&model).is_empty();
                    prop_assert_eq!(real.reset(), idle);
                    if idle {
                        model.clear();
                        known = 0;
                    }
                }
            }
            prop_assert_eq!(real.watermark(), Seq(known));
        }
    }

    #[test]
    fn foreign_numbers_do_no_harm(numbers: Vec<(u64, u64)>) {
        let real = table(8);
        for (seq, watermark) in numbers {
            if real.begin(Seq(seq), Seq(watermark), 0) == Verdict::Execute {
                prop_assert!(real.finish::<u32>(Seq(seq), Status::Io, |_| ()));
            }
            prop_assert!(!real.finish::<u32>(Seq(seq), Status::Ok, |_| ()));
        }
        prop_assert!(!real.finish::<u32>(Seq(0), Status::Ok, |_| ()));
        prop_assert!(!real.finish::<u32>(Seq(u64::MAX), Status::Ok, |_| ()));
    }
}

#[test]
fn a_refused_message_changes_nothing() {
    let real = table(4);
    assert_eq!(
        real.begin(Seq(100), Seq(50), 0),
        Verdict::Refuse(Status::OutOfWindow)
    );
    assert_eq!(
        real.begin(Seq(u64::MAX), Seq(u64::MAX - 1), 0),
        Verdict::Refuse(Status::OutOfWindow)
    );
    // No client says that a write is complete everywhere and sends it.
    assert_eq!(
        real.begin(Seq(3), Seq(50), 0),
        Verdict::Refuse(Status::BelowWatermark)
    );
    assert_eq!(real.watermark(), Seq(0));
    assert_eq!(real.begin(Seq(1), Seq(0), 0), Verdict::Execute);
}

/// The last number there is, and one that has the same low bits as a running write.
#[test]
fn numbers_end_where_slots_do() {
    const LAST: u64 = (1 << 52) - 1;
    let real = table(4);
    assert_eq!(real.begin(Seq(5), Seq(4), 0), Verdict::Execute);
    assert!(!real.finish::<u32>(Seq(LAST + 1 + 5), Status::Ok, |_| ()));
    assert_eq!(real.begin(Seq(5), Seq(4), 0), Verdict::Join);
    assert!(real.finish::<u32>(Seq(5), Status::Ok, |_| ()));
    assert_eq!(real.begin(Seq(LAST), Seq(LAST - 1), 0), Verdict::Execute);
    assert!(real.finish::<u32>(Seq(LAST), Status::Ok, |_| ()));
    assert_eq!(
        real.begin(Seq(LAST + 1), Seq(LAST), 0),
        Verdict::Refuse(Status::OutOfWindow)
    );
}

#[test]
fn every_status_comes_back() {
    let real = table(1);
    for (seq, status) in Status::ALL.iter().enumerate() {
        let (seq, watermark) = (Seq(seq as u64 + 1), Seq(seq as u64));
        assert_eq!(real.begin(seq, watermark, 0), Verdict::Execute);
        assert!(real.finish::<u32>(seq, *status, |_| ()));
        assert_eq!(real.begin(seq, watermark, 0), Verdict::Done(*status));
    }
}

#[test]
fn too_many_joiners_are_busy() {
    let real = table(2);
    assert_eq!(real.begin(Seq(1), Seq(0), 0), Verdict::Execute);
    for token in 0..MAX_JOINERS as u32 {
        assert_eq!(real.begin(Seq(1), Seq(0), token), Verdict::Join);
    }
    assert_eq!(real.begin(Seq(1), Seq(0), 0), Verdict::Refuse(Status::Busy));
    let mut count = 0;
    assert!(real.finish::<u32>(Seq(1), Status::Ok, |_| count += 1));
    assert_eq!(count, MAX_JOINERS);
}

/// Each number is sent by several threads: it is executed once, and each sender answered once.
#[test]
fn threads_execute_once() {
    const THREADS: u32 = 4;
    const NUMBERS: u64 = 20_000;
    let real = table(8);
    let executed: Vec<AtomicU32> = (0..=NUMBERS).map(|_| AtomicU32::new(0)).collect();
    let answered: Vec<AtomicU32> = (0..=NUMBERS).map(|_| AtomicU32::new(0)).collect();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for seq in 1..=NUMBERS {
                    loop {
                        // As a client would: the watermark is below a write that it still sends.
                        match real.begin(Seq(seq), Seq(seq.saturating_sub(5)), seq as u32) {
                            Verdict::Execute => {
                                executed[seq as usize].fetch_add(1, SeqCst);
                                assert!(real.finish(Seq(seq), Status::Ok, |token: u32| {
                                    assert_eq!(u64::from(token), seq);
                                    answered[seq as usize].fetch_add(1, SeqCst);
                                }));
                                answered[seq as usize].fetch_add(1, SeqCst);
                            }
                            Verdict::Join => {}
                            Verdict::Done(Status::Ok) | Verdict::Refuse(Status::BelowWatermark) => {
                                answered[seq as usize].fetch_add(1, SeqCst);
                            }
                            Verdict::Refuse(Status::Busy) => {
                                std::thread::yield_now();
                                continue;
                            }
                            other => panic!("{other:?}"),
                        }
                        break;
                    }
                }
            });
        }
    });
    assert!(executed[1..].iter().all(|n| n.load(SeqCst) == 1));
    assert!(answered[1..].iter().all(|n| n.load(SeqCst) == THREADS));
}
