// SPDX-License-Identifier: GPL-2.0

//! Power cuts at every point of every change of the metadata: nothing that was acknowledged may be gone, and no store
//! may be refused.

#[path = "crash/disk.rs"]
mod disk;
#[path = "crash/rig.rs"]
mod rig;

use disk::Image;
use disk::Recording;
use disk::PAGE;
use rig::created;
use rig::layout;
use rig::set;
use rig::store;
use rig::Crc;
use rig::Rig;
use rig::OWN;
use rmr_proto::EpochRecord;
use rmr_proto::Incarnation;
use rmr_proto::Mark;
use rmr_proto::Run;
use rmr_proto::Status;
use rmr_proto::Uuid;

/// The rule by which all records are written: a copy, stable, then the other. Either written through the cache, or
/// into it and then flushed.
#[test]
fn a_record_of_two_copies() {
    let page = |version: u64, at| {
        let record = EpochRecord {
            incarnation: Incarnation(version),
            ..EpochRecord::default()
        };
        let mut page = [0; PAGE];
        record
            .encode::<Crc>(store(OWN), version, at, &mut page)
            .unwrap();
        page
    };
    let version_on = |image: &Image| {
        let copies = layout().epoch().map(|at| &image[&at.offset][..]);
        let found = EpochRecord::newest::<Crc>(store(OWN), layout().epoch(), copies).unwrap();
        assert_eq!(found.record.incarnation.0, found.sequence);
        found.sequence
    };
    for through in [true, false] {
        let before: Image = layout().epoch().map(|at| (at.offset, page(1, at))).into();
        let mut disk = Recording::new(before);
        // After how many operations a version counts as written.
        let mut counts = vec![0];
        for version in 2..=4 {
            for at in layout().epoch() {
                disk.write(at.offset, &page(version, at), through);
                if !through {
                    disk.flush();
                }
            }
            counts.push(disk.len());
        }
        assert_eq!(version_on(&disk.now()), 4);
        disk.cuts(8, |cut| {
            let written = counts.iter().filter(|at| **at <= cut.answered).count() as u64;
            assert!((written..=written + 1).contains(&version_on(cut.image)));
        });
    }
}

/// A disk with a cache: any part of what was not flushed may be there.
#[test]
fn what_a_cut_leaves() {
    let mut disk = Recording::new(Image::new());
    disk.write(0, &[1; PAGE], false);
    disk.flush();
    disk.write(0, &[2; PAGE], false);
    disk.write(4096, &[3; PAGE], false);
    let mut seen = std::collections::BTreeSet::new();
    disk.cuts(2, |cut| {
        if cut.answered == disk.len() {
            let byte = |at| cut.image.get(&at).map_or(0, |page: &[u8; PAGE]| page[0]);
            seen.insert((byte(0), byte(4096)));
        }
    });
    assert!(seen.into_iter().eq([(1, 0), (1, 3), (2, 0), (2, 3)]));
}

/// The stores of three members.
fn three() -> [(u32, Uuid); 3] {
    [1, 2, 3].map(|n| (n, store(n)))
}

fn mark(first: u64, chunks: u32, members: &[u32]) -> Mark {
    Mark::new(Run::new(first, chunks), set(members))
}

/// A member that serves: 1 and 2 in sync, 3 absent.
fn serving(log_extents: u32) -> Rig {
    let mut rig = Rig::new(created().now(), log_extents);
    rig.promise(1);
    rig.install(1, &[1, 2], &[], &three(), true);
    rig
}

#[test]
fn create() {
    // A store that was not completely written was not created: `initialising`. One that was is what it should be.
    let rig = Rig::new(created().now(), 8);
    assert!(rig.check() > 0);
}

#[test]
fn attach_and_detach() {
    let mut rig = serving(8);
    rig.detach();
    rig.promise(2);
    rig.install(2, &[1], &[2], &three(), true);
    rig.check();
}

#[test]
fn activity_log() {
    let mut rig = serving(8);
    for (seq, extent) in (1..).zip([0u64, 1, 2, 0, 5, 7, 15, 1, 3]) {
        assert_eq!(rig.write(seq, extent * 64 + seq, seq - 1), Status::Ok);
    }
    rig.check();
}

#[test]
fn full_log() {
    let mut rig = serving(2);
    for (seq, extent) in (1..).zip([0u64, 1, 2, 3, 0, 15, 14, 2]) {
        assert_eq!(rig.write(seq, extent * 64 + seq, seq - 1), Status::Ok);
    }
    // None of the last two is complete.
    assert_eq!(rig.write(9, 64 * 9, 7), Status::Ok);
    assert_eq!(rig.write(10, 64 * 10, 8), Status::Ok);
    assert_eq!(rig.write(11, 64 * 11, 8), Status::LogFull);
    rig.check();
}

#[test]
fn bitmaps() {
    let mut rig = serving(8);
    rig.merge(&[mark(3, 5, &[3]), mark(700, 300, &[2, 3])]);
    rig.merge(&[mark(0, 1024, &[3])]);
    rig.merge(&[mark(9, 1, &[1])]);
    rig.check();
}

#[test]
fn epochs() {
    let mut rig = serving(8);
    assert_eq!(rig.write(1, 100, 0), Status::Ok);
    // 2 is dropped, comes back, and is in sync again.
    rig.merge(&[mark(100, 1, &[2, 3])]);
    rig.install(2, &[1], &[], &three(), false);
    assert_eq!(rig.write(2, 200, 1), Status::Ok);
    rig.install(3, &[1], &[2], &three(), false);
    assert_eq!(rig.write(3, 300, 2), Status::Ok);
    rig.install(4, &[1, 2], &[], &three(), false);
    assert_eq!(rig.write(4, 400, 3), Status::Ok);
    rig.check();
}

#[test]
fn replace() {
    let mut rig = serving(8);
    assert_eq!(rig.write(1, 100, 0), Status::Ok);
    rig.merge(&[mark(0, 1024, &[3])]);
    let stores = [(1, store(1)), (2, store(2)), (3, Uuid([0x33; 16]))];
    rig.install(2, &[1, 2], &[3], &stores, false);
    assert_eq!(rig.write(2, 200, 1), Status::Ok);
    rig.install(3, &[1, 2, 3], &[], &stores, false);
    rig.check();
}

#[test]
fn attach_again() {
    let mut rig = serving(8);
    assert_eq!(rig.write(1, 100, 0), Status::Ok);
    // Complete everywhere, says the next one, and then the client is gone.
    assert_eq!(rig.write(2, 200, 1), Status::Ok);
    rig.promise(2);
    rig.install(2, &[2], &[1], &three(), true);
    rig.check();
}

#[test]
fn crash_after_crash() {
    let mut rig = serving(8);
    assert_eq!(rig.write(1, 100, 0), Status::Ok);
    let mut rig = rig.crash();
    rig.promise(2);
    rig.merge(&[mark(64, 64, &[2, 3])]);
    rig.install(2, &[1], &[2], &three(), true);
    assert_eq!(rig.write(2, 200, 0), Status::Ok);
    rig.check();
}

/// R17: what no member can read is on the list before its chunk counts as current, and off it when a write to it is answered.
#[test]
fn unreadable() {
    const BLOCK: u64 = 5 * 16 + 3;
    let mut rig = serving(8);
    rig.promise(2);
    rig.merge(&[mark(5, 1, &[1])]);
    rig.look_at(BLOCK, false);
    rig.install(2, &[2], &[1], &three(), true);
    rig.resync();
    rig.install(3, &[1, 2], &[], &three(), false);
    assert!(rig.is_listed(BLOCK));
    assert_eq!(rig.write(1, 300, 0), Status::Ok);
    assert!(rig.is_listed(BLOCK));
    assert_eq!(rig.write_block(2, BLOCK, 1), Status::Ok);
    assert!(!rig.is_listed(BLOCK));
    rig.check();
}

/// R17: what was on the list and could be read after all.
#[test]
fn unreadable_and_pulled_again() {
    const BLOCK: u64 = 5 * 16;
    let mut rig = serving(8);
    rig.promise(2);
    rig.merge(&[mark(5, 1, &[1])]);
    rig.look_at(BLOCK, false);
    rig.install(2, &[2], &[1], &three(), true);
    rig.resync();
    let mut rig = rig.crash();
    assert!(rig.is_listed(BLOCK));
    rig.promise(3);
    rig.merge(&[mark(5, 1, &[1])]);
    rig.look_at(BLOCK, true);
    rig.install(3, &[2], &[1], &three(), true);
    rig.resync();
    assert!(!rig.is_listed(BLOCK));
    rig.check();
}

/// What these tests are worth: each of these bugs is found by one of them.
#[cfg(planted)]
#[test]
fn planted_bugs() {
    use rmr_engine::planted::plant;
    use rmr_engine::planted::Bug;

    let all = [
        attach_and_detach,
        activity_log,
        full_log,
        bitmaps,
        epochs,
        replace,
        attach_again,
        crash_after_crash,
        unreadable,
        unreadable_and_pulled_again,
    ];
    let found = |bug| {
        plant(Some(bug));
        let found = all
            .iter()
            .any(|test| std::panic::catch_unwind(test).is_err());
        plant(None);
        found
    };
    for bug in [
        Bug::WriteBeforeLog,
        Bug::EvictAnyExtent,
        Bug::NoMarkForAbsent,
        Bug::NoPromiseFlush,
        Bug::ForgetLogOfAbsent,
        Bug::ForgetLogAtStart,
        Bug::NoPages,
        Bug::OneCopy,
        Bug::RepairLast,
        Bug::ForgetUnreadable,
        Bug::UnreadableUnwritten,
        Bug::AnswerWhileListed,
        Bug::UnlistUnflushed,
    ] {
        assert!(found(bug), "{bug:?} is not found");
    }
}
