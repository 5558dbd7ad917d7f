// SPDX-License-Identifier: GPL-2.0

//! `window` against a set of numbers, and under threads.

use proptest::prelude::*;
use rmr_engine::sync::AtomicU64;
use rmr_engine::window::Window;
use rmr_engine::window::WINDOW;
use rmr_proto::Seq;
use std::collections::BTreeSet;

fn window(size: usize) -> Window<Vec<AtomicU64>> {
    Window::new((0..size).map(|_| AtomicU64::new(0)).collect()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn behaves_like_a_set(
        size in (0u32..6).prop_map(|bits| 1usize << bits),
        steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..300),
    ) {
        let real = window(size);
        let mut open = BTreeSet::new();
        let mut last = 0;
        for (issue, which) in steps {
            if issue {
                let lowest = open.first().copied().unwrap_or(last + 1);
                let expected = (last + 1 - lowest < size as u64).then_some(Seq(last + 1));
                prop_assert_eq!(real.issue(), expected);
                if expected.is_some() {
                    last += 1;
                    open.insert(last);
                }
            } else if !open.is_empty() {
                let numbers: Vec<u64> = open.iter().copied().collect();
                let seq = *which.get(&numbers);
                open.remove(&seq);
                real.complete(Seq(seq));
            }
            prop_assert_eq!(real.watermark(), Seq(open.first().map_or(last, |s| s - 1)));
            prop_assert_eq!(real.issued(), Seq(last));
        }
    }
}

#[test]
fn ignores_numbers_that_are_not_in_use() {
    let real = window(4);
    for seq in [0, 1, 5, u64::MAX] {
        real.complete(Seq(seq));
    }
    assert_eq!(real.watermark(), Seq(0));
    let first = real.issue().unwrap();
    real.complete(first);
    real.complete(first);
    assert_eq!(real.watermark(), Seq(1));
    assert_eq!((0..9).filter_map(|_| real.issue()).count(), 4);
}

/// What is complete above a gap is seen, and only there.
#[test]
fn complete_above_a_gap() {
    let real = window(4);
    let none_above = || [0, 1, 2, 3].map(|stable| real.none_complete_above(Seq(stable)));
    assert_eq!(none_above(), [true; 4]);
    for _ in 0..3 {
        assert!(real.issue().is_some());
    }
    assert_eq!(none_above(), [true; 4]);
    real.complete(Seq(3));
    assert_eq!(none_above(), [false, false, false, true]);
    real.complete(Seq(1));
    assert_eq!(none_above(), [false, false, false, true]);
    real.complete(Seq(2));
    assert_eq!(none_above(), [false, false, false, true]);
}

#[test]
fn sizes() {
    for (size, possible) in [
        (0, false),
        (1, true),
        (3, false),
        (WINDOW, true),
        (2 * WINDOW, false),
    ] {
        let slots: Vec<_> = (0..size).map(|_| AtomicU64::new(0)).collect();
        assert_eq!(Window::new(slots).is_some(), possible, "{size}");
    }
}

#[test]
fn threads_leave_no_gap() {
    const THREADS: u64 = 4;
    const EACH: u64 = 20_000;
    let real = window(16);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let real = &real;
            scope.spawn(move || {
                let mut open = vec![];
                for round in 0..EACH {
                    let seq = loop {
                        match real.issue() {
                            Some(seq) => break seq,
                            None => {
                                // Full: whoever has the oldest gives it back.
                                open.drain(..).for_each(|s| real.complete(s));
                                std::thread::yield_now();
                            }
                        }
                    };
                    assert!(real.watermark() < seq);
                    open.push(seq);
                    if open.len() > 3 {
                        let place = (round + thread) as usize % open.len();
                        real.complete(open.swap_remove(place));
                    }
                }
                open.drain(..).for_each(|s| real.complete(s));
            });
        }
    });
    assert_eq!(real.watermark(), Seq(THREADS * EACH));
    assert_eq!(real.issued(), Seq(THREADS * EACH));
}
