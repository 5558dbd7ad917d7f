// SPDX-License-Identifier: GPL-2.0

//! `attach` and `member`, case by case. Whole lives of pools are in `life.rs`.

use rmr_engine::attach::compatible;
use rmr_engine::attach::decide;
use rmr_engine::attach::foresee;
use rmr_engine::attach::next_number;
use rmr_engine::attach::Refusal;
use rmr_engine::attach::Request;
use rmr_engine::member::MemberState;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::EpochRecord;
use rmr_proto::Features;
use rmr_proto::Generation;
use rmr_proto::Geometry;
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::Limits;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::MemberSet;
use rmr_proto::PoolName;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Target;
use rmr_proto::Uuid;

const LIMITS: Limits = Limits {
    logical_block: 512,
    physical_block: 4096,
    io_min: 0,
    io_opt: 0,
    max_write_zeroes: 0,
    features: Features::EMPTY,
};

const POOL: Uuid = Uuid([0xaa; 16]);

fn geometry() -> Geometry {
    Geometry::new(1 << 30, 16).unwrap()
}

fn id(n: u32) -> MemberId {
    MemberId::new(n).unwrap()
}

fn set(ids: &[u32]) -> MemberSet {
    ids.iter().map(|n| id(*n)).collect()
}

fn store(n: u32) -> Uuid {
    Uuid([n as u8; 16])
}

fn generation(number: u64) -> Generation {
    Generation {
        number,
        nonce: number * 10,
    }
}

/// A member that was never installed, nor assigned.
fn fresh(n: u32) -> MemberState {
    MemberState::start(Uuid::NIL, store(n), id(n), &EpochRecord::default(), 0).unwrap()
}

fn report(state: &MemberState) -> MemberReport {
    state.report(geometry(), LIMITS)
}

fn reports(states: &[MemberState]) -> Vec<MemberReport> {
    states.iter().map(report).collect()
}

fn target(state: &MemberState, pool: Uuid) -> Target {
    let report = report(state);
    Target {
        name: PoolName::new(b"vm").unwrap(),
        pool,
        store: report.store,
        member: report.member,
        incarnation: report.incarnation,
    }
}

fn request(number: u64) -> Request {
    Request {
        generation: generation(number),
        new_pool: POOL,
        source: None,
        abandoned: None,
    }
}

fn promise(states: &mut [MemberState], number: u64) {
    for state in states {
        let to = target(state, state.pool());
        *state = state
            .promise(&to, generation(number), false, false)
            .unwrap();
    }
}

fn install(states: &mut [MemberState], config: &Config) {
    for state in states {
        *state = state.install(&target(state, POOL), config, true).unwrap();
    }
}

fn detach(states: &mut [MemberState]) {
    for state in states {
        let own = state.identity().unwrap();
        let to = target(state, POOL);
        *state = state.detach(&to, own.generation, own.epoch).unwrap();
    }
}

fn restart(state: &MemberState) -> MemberState {
    MemberState::start(
        state.pool(),
        report(state).store,
        state.member(),
        state.record(),
        0,
    )
    .unwrap()
}

/// Two members, attached for the first time as generation 1.
fn attached() -> [MemberState; 2] {
    let mut states = [fresh(1), fresh(2)];
    promise(&mut states, 1);
    let decision = decide(&reports(&states), &request(1)).unwrap();
    install(&mut states, &decision.config);
    states
}

/// The same, after a detach in order, having promised generation 2.
fn promised_again() -> [MemberState; 2] {
    let mut states = attached();
    detach(&mut states);
    promise(&mut states, 2);
    states
}

fn refusal(states: &[MemberState], request: &Request) -> Refusal {
    let refusal = decide(&reports(states), request).unwrap_err();
    if !matches!(refusal, Refusal::NotPromised(_)) {
        assert_eq!(foresee(&reports(states), request), Err(refusal));
    }
    show(&refusal)
}

/// Every refusal is one line, and has an errno.
fn show(refusal: &Refusal) -> Refusal {
    let text = refusal.to_string();
    assert!(text.len() > 20 && !text.contains('\n'), "{text}");
    assert!((-133..0).contains(&refusal.errno()));
    *refusal
}

#[test]
fn all_new() {
    let mut states = [fresh(1), fresh(7)];
    promise(&mut states, 1);
    let decision = decide(&reports(&states), &request(1)).unwrap();
    assert_eq!(decision.pool, POOL);
    assert_eq!(decision.assign, set(&[1, 7]));
    assert_eq!(decision.config.in_sync, set(&[1, 7]));
    assert_eq!(decision.config.catching_up, MemberSet::EMPTY);
    assert_eq!(decision.config.epoch, Epoch(1));
    assert_eq!(decision.config.store(id(7)), Some(store(7)));
    assert_eq!(decision.config.check(), Ok(()));
}

#[test]
fn new_ones_take_the_pool_of_assigned_ones() {
    let other = Uuid([0xbb; 16]);
    let record = EpochRecord::default();
    let mut states = [
        fresh(1),
        MemberState::start(other, store(2), id(2), &record, 0).unwrap(),
    ];
    promise(&mut states, 1);
    let decision = decide(&reports(&states), &request(1)).unwrap();
    assert_eq!((decision.pool, decision.assign), (other, set(&[1])));
}

#[test]
fn after_a_detach_all_are_in_sync() {
    let states = promised_again();
    let decision = decide(&reports(&states), &request(2)).unwrap();
    assert_eq!(decision.config.epoch, Epoch(2));
    assert_eq!(decision.config.in_sync, set(&[1, 2]));
    assert_eq!((decision.pool, decision.assign), (POOL, MemberSet::EMPTY));
    assert!(!decision.config.clean);
}

#[test]
fn unclean_needs_a_source_and_stays_so() {
    let mut states = attached();
    states[0] = restart(&states[0]);
    promise(&mut states, 2);
    let refused = refusal(&states, &request(2));
    assert_eq!(refused, Refusal::Unclean(set(&[1, 2]), set(&[1, 2])));
    assert!(refused.to_string().contains("members 1,2") && refused.to_string().contains("source="));

    let from = |source, number| Request {
        source: Some(id(source)),
        ..request(number)
    };
    assert_eq!(
        refusal(&states, &from(3, 2)),
        Refusal::BadSource(id(3), set(&[1, 2]))
    );
    let decision = decide(&reports(&states), &from(2, 2)).unwrap();
    assert_eq!(decision.config.in_sync, set(&[2]));
    assert_eq!(decision.config.catching_up, set(&[1]));
    install(&mut states, &decision.config);

    // Whether detached from or not: one member alone is right, no source is needed any more, and none can be chosen.
    promise(&mut states, 3);
    let again = decide(&reports(&states), &request(3)).unwrap();
    assert_eq!(
        (again.config.in_sync, again.config.catching_up),
        (set(&[2]), set(&[1]))
    );
    install(&mut states, &again.config);
    detach(&mut states);
    promise(&mut states, 4);
    let again = decide(&reports(&states), &from(1, 4)).unwrap();
    assert_eq!(
        (again.config.in_sync, again.config.catching_up),
        (set(&[2]), set(&[1]))
    );
}

#[test]
fn half_detached_is_unclean() {
    let mut states = attached();
    detach(&mut states[..1]);
    promise(&mut states, 2);
    let refused = refusal(&states, &request(2));
    assert_eq!(refused, Refusal::Unclean(set(&[2]), set(&[1, 2])));
}

#[test]
fn half_installed() {
    let mut states = promised_again();
    let decision = decide(&reports(&states), &request(2)).unwrap();
    install(&mut states[..1], &decision.config);
    promise(&mut states, 3);
    // Another client cannot know whether something was written by the one before.
    let refused = refusal(&states, &request(3));
    assert_eq!(refused, Refusal::Unclean(set(&[1, 2]), set(&[1])));
    let stale = Request {
        source: Some(id(2)),
        ..request(3)
    };
    assert_eq!(refusal(&states, &stale), Refusal::Stale(set(&[2])));
    // The same one knows.
    let own = Request {
        abandoned: Some(generation(2)),
        ..request(3)
    };
    let decision = decide(&reports(&states), &own).unwrap();
    assert_eq!(decision.config.in_sync, set(&[1, 2]));
    assert_eq!(decision.config.epoch, Epoch(3));
}

#[test]
fn half_installed_for_the_first_time() {
    let mut states = [fresh(1), fresh(2)];
    promise(&mut states, 1);
    let decision = decide(&reports(&states), &request(1)).unwrap();
    install(&mut states[..1], &decision.config);
    promise(&mut states, 2);
    let own = Request {
        abandoned: Some(generation(1)),
        ..request(2)
    };
    let decision = decide(&reports(&states), &own).unwrap();
    assert_eq!(decision.assign, set(&[2]));
    assert_eq!(decision.config.in_sync, set(&[1, 2]));
    let refused = refusal(&states, &request(2));
    assert_eq!(refused, Refusal::Unclean(set(&[1, 2]), set(&[1])));
}

#[test]
fn an_old_copy_is_refused() {
    let old = attached()[1].clone();
    let mut states = promised_again();
    let decision = decide(&reports(&states), &request(2)).unwrap();
    install(&mut states, &decision.config);
    detach(&mut states);
    states[1] = restart(&old);
    promise(&mut states, 3);
    assert_eq!(refusal(&states, &request(3)), Refusal::Stale(set(&[2])));
    let source = |n| Request {
        source: Some(id(n)),
        ..request(3)
    };
    assert_eq!(refusal(&states, &source(2)), Refusal::Stale(set(&[2])));
    let decision = decide(&reports(&states), &source(1)).unwrap();
    assert_eq!(decision.config.in_sync, set(&[1]));
    assert_eq!(decision.config.catching_up, set(&[2]));
}

#[test]
fn wrong_members() {
    let states = promised_again();
    let missing = refusal(&states[..1], &request(2));
    assert_eq!(missing, Refusal::Missing(set(&[2])));
    assert!(missing.to_string().contains("members 2 "));

    let mut three = states.to_vec();
    three.push(fresh(3));
    let all = reports(&three);
    assert_eq!(
        show(&compatible(&all).unwrap_err()),
        Refusal::NotMember(id(3))
    );

    let record = states[1].record();
    let other = MemberState::start(POOL, store(9), id(2), record, 0).unwrap();
    let refused = refusal(&[states[0].clone(), other], &request(2));
    assert_eq!(refused, Refusal::OtherStore(id(2), store(2)));

    let not_promised = attached();
    let refused = refusal(&not_promised, &request(2));
    assert_eq!(refused, Refusal::NotPromised(id(1)));
    assert_eq!(
        refusal(&not_promised, &request(1)),
        Refusal::NotPromised(id(1))
    );
}

#[test]
fn incompatible() {
    let good = report(&fresh(1));
    let with = |change: &dyn Fn(&mut MemberReport)| {
        let mut other = report(&fresh(2));
        change(&mut other);
        show(&compatible(&[good.clone(), other]).unwrap_err())
    };
    let small = Geometry::new(1 << 29, 16).unwrap();
    assert_eq!(show(&compatible(&[]).unwrap_err()), Refusal::NoMember);
    assert_eq!(with(&|r| r.member = id(1)), Refusal::SameId(id(1)));
    assert_eq!(
        with(&|r| r.store = store(1)),
        Refusal::SameStore(id(1), id(2))
    );
    assert_eq!(
        with(&|r| r.geometry = small),
        Refusal::Geometry(id(1), geometry(), id(2), small)
    );
    assert_eq!(with(&|r| r.version_min = 2), Refusal::Version(id(2), 2, 1));
    assert_eq!(
        with(&|r| r.limits.logical_block = 0),
        Refusal::LogicalBlock(id(2), 0)
    );

    let (mut a, mut b) = (good.clone(), report(&fresh(2)));
    (a.pool, b.pool) = (POOL, store(3));
    let refused = compatible(&[a, b.clone()]).unwrap_err();
    assert_eq!(show(&refused), Refusal::Pool(id(1), POOL, id(2), store(3)));

    b.limits.logical_block = 4096;
    let common = compatible(&[good, b]).unwrap();
    assert_eq!(common.limits.logical_block, 4096);
    assert_eq!(common.pool, Some(store(3)));
}

#[test]
fn two_clients_with_one_number() {
    let mut states = promised_again();
    // What no member that keeps its promises can get into.
    let mut all = reports(&states);
    for (n, report) in all.iter_mut().enumerate() {
        if let Some(config) = &mut report.installed {
            config.generation.nonce = n as u64;
        }
    }
    let refused = decide(&all, &request(2)).unwrap_err();
    assert_eq!(show(&refused), Refusal::Conflict(id(1), id(2)));

    // What they do instead: the second client takes the next number.
    let to = target(&states[0], POOL);
    let rival = Generation {
        number: 2,
        nonce: 99,
    };
    let refused = states[0].promise(&to, rival, true, false);
    assert_eq!(refused, Err(Status::StaleGeneration));
    assert_eq!(next_number(&reports(&states)), Ok(3));
    states[0] = states[0]
        .promise(
            &to,
            Generation {
                number: 3,
                nonce: 99,
            },
            true,
            false,
        )
        .unwrap();
    assert_eq!(refusal(&states, &request(2)), Refusal::NotPromised(id(1)));
}

#[test]
fn numbers_end() {
    let mut states = [fresh(1)];
    promise(&mut states, u64::MAX / 100);
    let mut all = reports(&states);
    all[0].promised.number = u64::MAX;
    assert_eq!(show(&next_number(&all).unwrap_err()), Refusal::Exhausted);
    let last = EpochRecord {
        incarnation: Incarnation(u64::MAX),
        ..EpochRecord::default()
    };
    assert!(MemberState::start(POOL, store(1), id(1), &last, 0).is_none());
    assert!(MemberState::start(POOL, Uuid::NIL, id(1), &EpochRecord::default(), 0).is_none());

    let mut states = promised_again();
    let mut all = reports(&states);
    for report in &mut all {
        report.installed.as_mut().unwrap().epoch = Epoch(u64::MAX);
    }
    assert_eq!(decide(&all, &request(2)), Err(Refusal::Exhausted));
    promise(&mut states, 3);
}

#[test]
fn promises() {
    let [state, _] = attached();
    let to = target(&state, POOL);
    // A living client is fenced only on demand.
    assert_eq!(
        state.promise(&to, generation(2), false, true),
        Err(Status::InUse)
    );
    let next = state.promise(&to, generation(2), true, true).unwrap();
    assert!(!next.serving() && next.identity().is_none());
    assert_eq!(next.record().installed, state.record().installed);
    // A repetition changes nothing; older ones, and none, are refused.
    assert_eq!(
        next.promise(&to, generation(2), false, true),
        Ok(next.clone())
    );
    for number in [0, 1] {
        let refused = next.promise(&to, generation(number), true, false);
        assert_eq!(refused, Err(Status::StaleGeneration));
    }
    let none = fresh(1).promise(&target(&fresh(1), Uuid::NIL), Generation::NONE, true, false);
    assert_eq!(none, Err(Status::StaleGeneration));
    // A late repetition of the promise that is in service does not end it.
    assert_eq!(
        state.promise(&to, generation(1), false, true),
        Ok(state.clone())
    );
}

#[test]
fn targets() {
    let [state, _] = attached();
    let right = target(&state, POOL);
    let promise = |to: Target| state.promise(&to, generation(2), false, false).map(|_| ());
    assert_eq!(promise(right), Ok(()));
    assert_eq!(
        promise(Target {
            pool: store(9),
            ..right
        }),
        Err(Status::WrongUuid)
    );
    assert_eq!(
        promise(Target {
            pool: Uuid::NIL,
            ..right
        }),
        Err(Status::WrongUuid)
    );
    assert_eq!(
        promise(Target {
            store: store(9),
            ..right
        }),
        Err(Status::WrongUuid)
    );
    assert_eq!(
        promise(Target {
            member: id(9),
            ..right
        }),
        Err(Status::WrongMember)
    );
    let old = Target {
        incarnation: Incarnation(9),
        ..right
    };
    assert_eq!(promise(old), Err(Status::StaleIncarnation));
}

#[test]
fn installs() {
    let [state, _] = promised_again();
    let config = Config {
        generation: generation(2),
        epoch: Epoch(2),
        clean: false,
        ..state.record().installed.clone().unwrap()
    };
    let to = target(&state, POOL);
    let install = |change: &dyn Fn(&mut Config)| {
        let mut config = config.clone();
        change(&mut config);
        state.install(&to, &config, false)
    };
    let next = install(&|_| ()).unwrap();
    assert!(next.serving());
    assert_eq!(next.identity().map(|own| own.epoch), Some(Epoch(2)));
    assert_eq!(
        install(&|c| c.generation = generation(1)),
        Err(Status::StaleGeneration)
    );
    assert_eq!(
        install(&|c| c.generation = generation(3)),
        Err(Status::InstallFirst)
    );
    assert_eq!(
        install(&|c| c.generation.nonce = 1),
        Err(Status::StaleGeneration)
    );
    assert_eq!(install(&|c| c.epoch = Epoch(1)), Err(Status::StaleEpoch));
    assert_eq!(install(&|c| c.clean = true), Err(Status::Invalid));
    assert_eq!(
        install(&|c| c.in_sync = MemberSet::EMPTY),
        Err(Status::Invalid)
    );
    assert_eq!(
        install(&|c| c.members[0] = Some(store(9))),
        Err(Status::WrongMember)
    );
    // Not a receiver: it knows, and does not serve.
    let absent = install(&|c| c.in_sync = set(&[2])).unwrap();
    assert!(!absent.serving());

    // A repetition changes nothing. After a detach or a restart it would, and is refused.
    assert_eq!(next.install(&to, &config, false), Ok(next.clone()));
    let left = next.detach(&to, generation(2), Epoch(2)).unwrap();
    assert_eq!(left.install(&to, &config, false), Err(Status::StaleEpoch));
    assert_eq!(left.detach(&to, generation(2), Epoch(2)), Ok(left.clone()));
    let again = restart(&next);
    assert_eq!(
        again.install(&to, &config, false),
        Err(Status::StaleIncarnation)
    );
    let to = target(&again, POOL);
    assert_eq!(again.install(&to, &config, false), Err(Status::StaleEpoch));
    assert_eq!(
        again.detach(&to, generation(2), Epoch(2)),
        Err(Status::WrongState)
    );
}

#[test]
fn assignment() {
    let mut states = [fresh(1)];
    promise(&mut states, 1);
    let config = decide(&reports(&states), &request(1)).unwrap().config;
    let to = target(&states[0], POOL);
    assert_eq!(
        states[0].install(&to, &config, false),
        Err(Status::WrongUuid)
    );
    let nil = target(&states[0], Uuid::NIL);
    assert_eq!(
        states[0].install(&nil, &config, true),
        Err(Status::WrongUuid)
    );
    let next = states[0].install(&to, &config, true).unwrap();
    assert_eq!(next.pool(), POOL);
    let other = target(&next, store(9));
    assert_eq!(next.install(&other, &config, true), Err(Status::WrongUuid));
}

#[test]
fn detaches() {
    let [state, _] = attached();
    let to = target(&state, POOL);
    let detach = |number, epoch| state.detach(&to, generation(number), Epoch(epoch));
    assert_eq!(detach(2, 1), Err(Status::InstallFirst));
    assert_eq!(detach(1, 0), Err(Status::StaleEpoch));
    assert_eq!(detach(1, 2), Err(Status::InstallFirst));
    assert!(
        detach(1, 1)
            .unwrap()
            .record()
            .installed
            .as_ref()
            .unwrap()
            .clean
    );
    let fenced = state.promise(&to, generation(2), true, true).unwrap();
    let late = fenced.detach(&to, generation(1), Epoch(1));
    assert_eq!(late, Err(Status::StaleGeneration));
}

#[test]
fn who_is_not_served_is_told_why() {
    let [state, _] = attached();
    let own = state.identity().unwrap();
    let message = Header {
        pool: own.pool,
        member: own.member,
        incarnation: own.incarnation,
        generation: own.generation,
        epoch: own.epoch,
        watermark: Seq(0),
    };
    let to = target(&state, POOL);
    assert_eq!(state.admit(&message), Ok(()));
    let promised = state.promise(&to, generation(2), false, false).unwrap();
    assert_eq!(promised.admit(&message), Err(Status::StaleGeneration));
    let newer = Header {
        generation: generation(2),
        epoch: Epoch(2),
        ..message
    };
    assert_eq!(promised.admit(&newer), Err(Status::InstallFirst));
    let left = state.detach(&to, own.generation, own.epoch).unwrap();
    assert_eq!(left.admit(&message), Err(Status::StaleEpoch));
    assert_eq!(
        restart(&state).admit(&message),
        Err(Status::StaleIncarnation)
    );
    let other = Header {
        pool: store(9),
        ..message
    };
    assert_eq!(left.admit(&other), Err(Status::WrongUuid));
    let other = Header {
        member: id(2),
        ..message
    };
    assert_eq!(left.admit(&other), Err(Status::WrongMember));
}
