// SPDX-License-Identifier: GPL-2.0

//! `decide`: which stores make a pool, and which may take part in one. What the simulator's stores never are: of another size,
//! version or pool, copied, or different from each other at the first start.

use rmr_engine::client::decide::acceptable;
use rmr_engine::client::decide::decide;
use rmr_engine::client::decide::Candidate;
use rmr_engine::client::decide::Decision;
use rmr_engine::client::decide::Open;
use rmr_engine::client::decide::Request;
use rmr_engine::client::Refusal;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::Features;
use rmr_proto::Fork;
use rmr_proto::Generation;
use rmr_proto::Geometry;
use rmr_proto::Incarnation;
use rmr_proto::Limits;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::MemberSet;
use rmr_proto::Progress;
use rmr_proto::Quorum;
use rmr_proto::Uuid;
use rmr_proto::MAX_MEMBERS;

const POOL: Uuid = Uuid([0x70; 16]);

fn id(number: u32) -> MemberId {
    MemberId::new(number).unwrap()
}

fn set(ids: &[u32]) -> MemberSet {
    ids.iter().map(|n| id(*n)).collect()
}

/// A new store.
fn report(number: u32) -> MemberReport {
    MemberReport {
        version_min: 1,
        version_max: 1,
        pool: Uuid::NIL,
        store: Uuid([number as u8; 16]),
        member: id(number),
        incarnation: Incarnation(10),
        geometry: Geometry::new(64 << 20, 16).unwrap(),
        limits: Limits {
            logical_block: 512,
            physical_block: 512,
            io_min: 512,
            io_opt: 0,
            max_write_zeroes: 1 << 20,
            features: Features::WRITE_CACHE,
        },
        promised: generation(7),
        installed: None,
        serving: false,
        progress: Progress::Unknown,
        log_extents: 8,
    }
}

fn generation(number: u64) -> Generation {
    Generation { number, nonce: 99 }
}

fn candidate(report: &MemberReport) -> Candidate<'_> {
    Candidate {
        report,
        suspects: false,
        discard: false,
    }
}

/// The first start of a pool of members 1 to 3.
fn first(reports: &[MemberReport], equal: bool) -> Result<Decision, Refusal> {
    decide(
        reports.iter().map(candidate),
        &Request {
            generation: generation(7),
            used: Epoch(4),
            pool: Uuid::NIL,
            members: set(&[1, 2, 3]),
            equal,
            history: Uuid([0x48; 16]),
            quorum: Quorum::Off,
            open: None,
            force: None,
        },
    )
}

/// A configuration of members 1 and 2, in which 1 is in sync, 2 catches up, and which 2 has persisted.
fn config() -> Config {
    let mut config = Config {
        generation: generation(5),
        epoch: Epoch(3),
        in_sync: set(&[1]),
        catching_up: set(&[2]),
        members: [None; MAX_MEMBERS],
        incarnations: [Incarnation::NONE; MAX_MEMBERS],
        persisted: [Epoch::NONE; MAX_MEMBERS],
        clean: false,
        history: Uuid([0x48; 16]),
        forked_from: None,
        quorum: Quorum::Off,
        maintenance: MemberSet::EMPTY,
    };
    for number in [1, 2] {
        config.members[id(number).index()] = Some(report(number).store);
        config.incarnations[id(number).index()] = Incarnation(10);
        config.persisted[id(number).index()] = Epoch(3);
    }
    config
}

/// Member 2 as it should be.
fn second() -> MemberReport {
    MemberReport {
        pool: POOL,
        installed: Some(config()),
        ..report(2)
    }
}

#[test]
fn stores_that_are_equal_are_all_in_sync() {
    let decision = first(&[report(1), report(2), report(3)], true).unwrap();
    let config = decision.config;
    assert_eq!(config.in_sync, set(&[1, 2, 3]));
    assert_eq!(config.epoch, Epoch(5));
    assert_eq!(config.table(), set(&[1, 2, 3]));
    assert_eq!(config.incarnation(id(3)), Incarnation(10));
    assert_eq!((decision.source, decision.parts), (id(1), set(&[1, 2, 3])));
    assert!(config.check().is_ok());
}

#[test]
fn of_stores_that_differ_the_first_has_the_data() {
    let decision = first(&[report(1), report(2), report(3)], false).unwrap();
    let config = decision.config;
    assert_eq!((config.in_sync, decision.source), (set(&[1]), id(1)));
    assert_eq!(config.table(), set(&[1, 2, 3]));
    // The others were never receivers: they are taken in with everything to be copied.
    assert!(config.catching_up.is_empty());
    assert!(config.incarnation(id(2)).is_none() && config.incarnation(id(3)).is_none());
    assert_eq!(config.incarnation(id(1)), Incarnation(10));
    assert_eq!(decision.parts, set(&[1, 2, 3]));
    assert!(config.check().is_ok());
}

#[test]
fn stores_that_make_no_pool() {
    let refused = |change: &dyn Fn(&mut Vec<MemberReport>)| {
        let mut reports = vec![report(1), report(2), report(3)];
        change(&mut reports);
        first(&reports, true).unwrap_err()
    };
    assert_eq!(refused(&|all| all.clear()), Refusal::NoMember);
    let missing = refused(&|all| all.truncate(2));
    assert_eq!(missing, Refusal::Missing(set(&[3])));
    let version = refused(&|all| all[1].version_min = 2);
    assert_eq!(version, Refusal::Version(id(2)));
    let version = refused(&|all| all[1].version_max = 0);
    assert_eq!(version, Refusal::Version(id(2)));
    let geometry = refused(&|all| all[2].geometry = Geometry::new(32 << 20, 16).unwrap());
    assert_eq!(geometry, Refusal::Geometry(id(3)));
    let copied = refused(&|all| all[2].store = all[0].store);
    assert_eq!(copied, Refusal::SameStore(id(3)));
    let pools = refused(&|all| (all[0].pool, all[1].pool) = (POOL, Uuid([9; 16])));
    assert_eq!(pools, Refusal::Pool(id(2)));
    // Who is not named takes no part, whatever it is.
    let mut reports = vec![report(1), report(2), report(3), report(4)];
    reports[3].version_min = 2;
    let decision = first(&reports, true).unwrap();
    assert_eq!(decision.parts, set(&[1, 2, 3]));
}

#[test]
fn who_may_take_part() {
    let check = |change: &dyn Fn(&mut MemberReport), discard: bool| {
        let mut report = second();
        change(&mut report);
        let candidate = Candidate {
            report: &report,
            suspects: false,
            discard,
        };
        acceptable(&candidate, &config(), &POOL)
    };
    assert_eq!(check(&|_| (), false), Ok(()));
    let refused = |change: &dyn Fn(&mut MemberReport)| check(change, false).unwrap_err();
    assert_eq!(refused(&|r| r.version_min = 2), Refusal::Version(id(2)));
    assert_eq!(refused(&|r| r.member = id(3)), Refusal::NotMember(id(3)));
    let other = refused(&|r| r.store = Uuid([8; 16]));
    assert_eq!(other, Refusal::OtherStore(id(2)));
    let pool = refused(&|r| r.pool = Uuid([9; 16]));
    assert_eq!(pool, Refusal::Pool(id(2)));
    // Each alone tells that it is an old copy of itself: its promise, its incarnation, what it has installed.
    let old = Refusal::RolledBack(id(2));
    assert_eq!(refused(&|r| r.promised = generation(4)), old);
    assert_eq!(refused(&|r| r.incarnation = Incarnation(9)), old);
    let older = |r: &mut MemberReport| r.installed.as_mut().unwrap().epoch = Epoch(2);
    assert_eq!(refused(&older), old);
    assert_eq!(refused(&|r| r.installed = None), old);
    // It went on without the others.
    let further = |r: &mut MemberReport| r.installed.as_mut().unwrap().history = Uuid([0x49; 16]);
    assert_eq!(refused(&further), Refusal::Diverged(id(2)));
    assert_eq!(check(&further, true), Ok(()));
}

/// A configuration of members 1 to 3, none of which is known to have persisted one.
fn later(epoch: u64, in_sync: &[u32], catching_up: &[u32]) -> Config {
    let mut config = Config {
        epoch: Epoch(epoch),
        in_sync: set(in_sync),
        catching_up: set(catching_up),
        persisted: [Epoch::NONE; MAX_MEMBERS],
        ..config()
    };
    config.members[2] = Some(report(3).store);
    config.incarnations[2] = Incarnation(10);
    config
}

fn with(number: u32, installed: &Config) -> MemberReport {
    MemberReport {
        pool: POOL,
        installed: Some(installed.clone()),
        ..report(number)
    }
}

/// A later start; `lost` is given up.
fn again(
    reports: &[MemberReport],
    open: Option<Open<'_>>,
    lost: Option<&[u32]>,
) -> Result<Decision, Refusal> {
    decide(
        reports.iter().map(candidate),
        &Request {
            generation: generation(7),
            used: Epoch(4),
            pool: POOL,
            members: set(&[1, 2, 3]),
            equal: false,
            history: Uuid::NIL,
            quorum: Quorum::Off,
            open,
            force: lost.map(|lost| (set(lost), Uuid([0x50; 16]))),
        },
    )
}

#[test]
fn who_is_right() {
    let (last, before) = (later(4, &[1, 2], &[]), later(3, &[1, 2], &[]));
    let source = |reports: &[MemberReport]| again(reports, None, None).unwrap().source;
    assert_eq!(source(&[with(1, &last), with(2, &last)]), id(1));
    // Not who restarted, if there is another one, nor who was not told the last.
    let mut restarted = with(1, &last);
    restarted.incarnation = Incarnation(10).after(1).unwrap();
    assert_eq!(source(&[restarted, with(2, &before)]), id(2));
    assert_eq!(source(&[with(1, &before), with(2, &last)]), id(2));
}

/// Before the others hear of a configuration, nobody can start from an older one any more.
#[test]
fn who_hears_of_it_first() {
    let (last, before) = (later(4, &[1, 2], &[3]), later(3, &[1], &[2, 3]));
    let first = |one: &MemberReport, suspects: bool| {
        let others = [with(2, &last), with(3, &last)];
        let candidates = [one, &others[0], &others[1]].map(|report| Candidate {
            suspects,
            ..candidate(report)
        });
        let request = Request {
            generation: generation(7),
            used: Epoch(4),
            pool: POOL,
            members: set(&[1, 2, 3]),
            equal: false,
            history: Uuid::NIL,
            quorum: Quorum::Off,
            open: None,
            force: None,
        };
        let decision = decide(candidates.into_iter(), &request).unwrap();
        assert_eq!(decision.parts, set(&[1, 2, 3]));
        (decision.config.in_sync, decision.first)
    };
    // Everybody in sync has the last one, and those who stay so come first.
    assert_eq!(first(&with(1, &last), false), (set(&[1, 2]), set(&[1, 2])));
    assert_eq!(first(&with(1, &last), true), (set(&[1]), set(&[1])));
    // Member 1 has the one before it, in which it is in sync alone.
    assert_eq!(first(&with(1, &before), false), (set(&[1, 2]), set(&[1])));
    assert_eq!(first(&with(1, &before), true), (set(&[2]), set(&[1])));
    // Nobody is here of those who were in sync.
    let forced = again(&[with(3, &last)], None, Some(&[1, 2])).unwrap();
    assert_eq!((forced.parts, forced.first), (set(&[3]), set(&[3])));
}

/// Who is old is also known by others than those that know the highest configuration.
#[test]
fn an_old_copy_that_few_know_of() {
    let (last, mut other) = (later(4, &[1, 3], &[]), later(3, &[2], &[]));
    let start = |other: &Config, third: &Config| {
        again(
            &[with(1, &last), with(2, other), with(3, third)],
            None,
            None,
        )
    };
    assert!(start(&other, &last).is_ok());
    let missing = Refusal::Missing(set(&[3]));
    other.incarnations[2] = Incarnation(11);
    assert_eq!(start(&other, &last).unwrap_err(), missing);
    other.incarnations[2] = Incarnation(10);
    other.persisted[2] = Epoch(3);
    assert!(start(&other, &last).is_ok());
    let old = later(2, &[1, 3], &[]);
    assert_eq!(start(&other, &old).unwrap_err(), missing);
    // Another store has that number by now.
    other.members[2] = Some(Uuid([9; 16]));
    assert!(start(&other, &old).is_ok());
}

#[test]
fn what_may_be_given_up() {
    let (last, before) = (later(4, &[1], &[3]), later(3, &[1], &[2, 3]));
    let reports = [with(2, &before), with(3, &last)];
    let missing = Refusal::Missing(set(&[1]));
    assert_eq!(again(&reports, None, None).unwrap_err(), missing);
    assert_eq!(again(&reports, None, Some(&[2])).unwrap_err(), missing);
    // The one that knows most.
    let decision = again(&reports, None, Some(&[1])).unwrap();
    assert_eq!(
        (decision.source, decision.config.in_sync),
        (id(3), set(&[3]))
    );
    assert_eq!(decision.config.history, Uuid([0x50; 16]));
}

#[test]
fn what_the_application_was_told() {
    let own = later(3, &[1, 2], &[]);
    let open = |unflushed: &[u32]| Open {
        config: &own,
        stable: false,
        unflushed: set(unflushed),
        kept: MemberSet::EMPTY,
    };
    let both = [with(1, &own), with(2, &own)];
    let source = |unflushed: &[u32]| again(&both, Some(open(unflushed)), None).map(|d| d.source);
    assert_eq!(source(&[]), Ok(id(1)));
    assert_eq!(source(&[1]), Ok(id(2)));
    assert_eq!(source(&[1, 2]), Err(Refusal::Lost));
    // Who lost a race for the same number has begun nothing.
    let mut other = own.clone();
    other.generation.nonce = 1;
    let raced = [with(1, &own), with(2, &other)];
    assert!(again(&raced, Some(open(&[])), None).is_ok());
    // What others have begun meanwhile is left to them, but for who gives up something himself.
    let (history, epoch) = (own.history, own.epoch);
    other.forked_from = Some(Fork { history, epoch });
    other.history = Uuid([0x49; 16]);
    other.generation.number += 1;
    let forced = [with(1, &own), with(3, &other)];
    let missing = Refusal::Missing(set(&[2]));
    let refused = |lost| again(&forced, Some(open(&[])), lost).unwrap_err();
    assert_eq!(refused(None), missing);
    assert_eq!(refused(Some(&[2])), Refusal::Replaced(id(3)));
}

/// Who has the device open goes on with one member that was never left out, and has all that was acknowledged.
#[test]
fn one_that_was_never_left_out() {
    let own = later(3, &[1, 2, 3], &[]);
    let open = |kept: &[u32], unflushed: &[u32]| Open {
        config: &own,
        stable: false,
        unflushed: set(unflushed),
        kept: set(kept),
    };
    let without = |kept: &[u32], unflushed: &[u32]| {
        again(
            &[with(2, &own), with(3, &own)],
            Some(open(kept, unflushed)),
            None,
        )
    };
    let missing = Refusal::Missing(set(&[1]));
    assert_eq!(without(&[], &[]).unwrap_err(), missing);
    assert_eq!(without(&[1], &[]).unwrap_err(), missing);
    assert_eq!(without(&[3], &[3]).unwrap_err(), missing);
    // The others that are here keep their place, but not what is right by definition.
    let decision = without(&[1, 3], &[]).unwrap();
    assert_eq!(decision.source, id(3));
    assert_eq!(decision.config.in_sync, set(&[2, 3]));
    assert_eq!(without(&[2, 3], &[2]).unwrap().source, id(3));
    // Somebody in sync by what was installed last.
    let last = later(4, &[1, 2], &[]);
    let reports = [with(2, &last), with(3, &own)];
    let with_kept = |kept: &[u32]| again(&reports, Some(open(kept, &[])), None);
    assert_eq!(with_kept(&[3]).unwrap_err(), missing);
    assert_eq!(with_kept(&[2]).unwrap().config.in_sync, set(&[2]));
    // All are here: any that has what was acknowledged.
    let all = [with(1, &own), with(2, &own), with(3, &own)];
    let source = again(&all, Some(open(&[3], &[])), None).map(|d| d.source);
    assert_eq!(source, Ok(id(1)));
    // A majority is asked for where there is a quorum, and is enough.
    let mut voted = own.clone();
    voted.quorum = Quorum::Majority;
    let open = |kept: &[u32]| Open {
        config: &voted,
        stable: false,
        unflushed: MemberSet::EMPTY,
        kept: set(kept),
    };
    let one = again(&[with(3, &voted)], Some(open(&[3])), None);
    assert_eq!(one.unwrap_err(), Refusal::NoMajority(set(&[1, 2])));
    let two = [with(2, &voted), with(3, &voted)];
    assert_eq!(again(&two, Some(open(&[3])), None).unwrap().source, id(2));
    // Nobody else starts like that.
    let reports = [with(2, &own), with(3, &own)];
    assert_eq!(again(&reports, None, None).unwrap_err(), missing);
}
