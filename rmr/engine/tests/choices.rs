// SPDX-License-Identifier: GPL-2.0

//! `readers` and `admission`: the small decisions.

use proptest::prelude::*;
use rmr_engine::admission;
use rmr_engine::admission::Identity;
use rmr_engine::readers::Policy;
use rmr_proto::Epoch;
use rmr_proto::Generation;
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Uuid;

fn id(n: u32) -> MemberId {
    MemberId::new(n).unwrap()
}

fn set(ids: &[u32]) -> MemberSet {
    ids.iter().map(|n| id(*n)).collect()
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::RoundRobin),
        Just(Policy::LeastInflight),
        (1u32..=32).prop_map(|n| Policy::Preferred(id(n))),
    ]
}

#[test]
fn round_robin_serves_all_in_turn() {
    let mut turn = 0;
    let picked: Vec<u32> = (0..7)
        .filter_map(|_| Policy::RoundRobin.pick(set(&[2, 5, 32]), &mut turn, |_| 0))
        .map(MemberId::get)
        .collect();
    assert_eq!(picked, [2, 5, 32, 2, 5, 32, 2]);
    assert_eq!(
        Policy::RoundRobin.pick(MemberSet::EMPTY, &mut turn, |_| 0),
        None
    );
}

#[test]
fn least_inflight_stays_until_another_has_two_less() {
    let mut turn = 0;
    let load = |m: MemberId| if m == id(2) { 0 } else { 3 };
    let closer = |m: MemberId| if m == id(2) { 1 } else { 0 };
    let behind = |m: MemberId| if m == id(2) { 2 } else { 0 };
    let mut pick = |load: &dyn Fn(MemberId) -> u32| {
        Policy::LeastInflight
            .pick(set(&[1, 2, 3]), &mut turn, load)
            .map(MemberId::get)
    };
    assert_eq!(pick(&load), Some(2));
    assert_eq!(pick(&load), Some(2));
    assert_eq!(pick(&|_| 7), Some(2));
    assert_eq!(pick(&closer), Some(2));
    assert_eq!(pick(&behind), Some(3));
    assert_eq!(pick(&behind), Some(3));
    assert_eq!(pick(&|m| u32::from(m == id(3)) * 9), Some(1));
    assert_eq!(pick(&|_| u32::MAX), Some(1));
}

#[test]
fn preferred_while_it_may_answer() {
    let mut turn = 0;
    let policy = Policy::Preferred(id(3));
    assert_eq!(policy.pick(set(&[1, 2, 3]), &mut turn, |_| 0), Some(id(3)));
    assert_eq!(policy.pick(set(&[1, 2]), &mut turn, |_| 0), Some(id(1)));
    assert_eq!(policy.pick(set(&[1, 2]), &mut turn, |_| 0), Some(id(2)));
}

proptest! {
    #[test]
    fn picks_a_candidate(policy in policies(), bits: u32, turn: u32, load: [u32; 32]) {
        let candidates = MemberSet::from_bits(bits);
        let picked = policy.pick(candidates, &mut turn.clone(), |m| load[m.index()]);
        prop_assert_eq!(picked.is_none(), candidates.is_empty());
        prop_assert!(picked.is_none_or(|m| candidates.contains(m)));
    }

    #[test]
    fn policies_round_trip(policy in policies()) {
        prop_assert_eq!(Policy::from_bits(policy.to_bits()), policy);
        prop_assert_eq!(Policy::parse(policy.to_string().as_bytes()), Some(policy));
    }

    #[test]
    fn any_number_is_a_policy(bits: u32) {
        let policy = Policy::from_bits(bits);
        prop_assert_eq!(Policy::from_bits(policy.to_bits()), policy);
    }
}

#[test]
fn policies_that_are_none() {
    for text in [
        "",
        "round",
        "preferred=",
        "preferred=0",
        "preferred=33",
        "preferred=-1",
    ] {
        assert_eq!(Policy::parse(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn admission_table() {
    let own = Identity {
        pool: Uuid([1; 16]),
        member: id(1),
        incarnation: Incarnation(5),
        generation: Generation {
            number: 7,
            nonce: 70,
        },
        epoch: Epoch(9),
    };
    let right = Header {
        pool: own.pool,
        member: own.member,
        incarnation: own.incarnation,
        generation: own.generation,
        epoch: own.epoch,
        watermark: Seq(0),
    };
    let generation = |number, nonce| Header {
        generation: Generation { number, nonce },
        ..right
    };
    let cases = [
        (right, Ok(())),
        (
            Header {
                watermark: Seq(u64::MAX),
                ..right
            },
            Ok(()),
        ),
        (
            Header {
                pool: Uuid::NIL,
                ..right
            },
            Err(Status::WrongUuid),
        ),
        (
            Header {
                member: id(2),
                ..right
            },
            Err(Status::WrongMember),
        ),
        (
            Header {
                incarnation: Incarnation(4),
                ..right
            },
            Err(Status::StaleIncarnation),
        ),
        (
            Header {
                incarnation: Incarnation(6),
                ..right
            },
            Err(Status::StaleIncarnation),
        ),
        (generation(6, 70), Err(Status::StaleGeneration)),
        (generation(7, 71), Err(Status::StaleGeneration)),
        (generation(8, 70), Err(Status::InstallFirst)),
        (
            Header {
                epoch: Epoch(8),
                ..right
            },
            Err(Status::StaleEpoch),
        ),
        (
            Header {
                epoch: Epoch(10),
                ..right
            },
            Err(Status::InstallFirst),
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(admission::check(&own, &message), expected, "{message:?}");
    }
}
