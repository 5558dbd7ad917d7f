// SPDX-License-Identifier: GPL-2.0

//! Outages, and the resync after them, with writes at any moment.

use super::rig::behind;
use super::rig::geometry;
use super::rig::go_on;
use super::rig::id;
use super::rig::missed;
use super::rig::store;
use super::rig::Crc;
use super::rig::Node;
use super::rig::Wanted;
use super::rig::World;
use super::rig::CHUNK;
use super::rig::CHUNKS;
use super::rig::POOL;
use super::rig::STEP;
use proptest::prelude::*;
use rmr_engine::storage::Event;
use rmr_engine::storage::PeerAnswer;
use rmr_engine::time::Time;
use rmr_engine::time::MILLISECOND;
use rmr_engine::time::SECOND;
use rmr_proto::BadBlock;
use rmr_proto::Begun;
use rmr_proto::Layout;
use rmr_proto::MemberSet;
use rmr_proto::Progress;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::UnreadablePage;

#[test]
fn an_outage_and_its_resync() {
    let mut world = World::new(3);
    for chunk in 0..CHUNKS {
        world.write(chunk);
    }
    // Member 3 is away.
    let rest = world.others(2);
    assert_eq!(
        world.install(rest, MemberSet::EMPTY, MemberSet::EMPTY),
        Status::Ok
    );
    for chunk in (0..CHUNKS).step_by(3) {
        world.write(chunk);
    }
    world.promise(2);
    let back = MemberSet::only(id(2));
    assert_eq!(world.install(rest, back, back), Status::Ok);
    assert_eq!(world.nodes[2].progress(), Progress::Unknown);
    let all = rest.with(id(2));
    let nobody = MemberSet::EMPTY;
    assert_eq!(world.install(all, nobody, nobody), Status::NotReady);
    world.ping(2);
    let mut rates = 0;
    while world.answer(2) {
        if let Progress::Dirty { chunks, rate } = world.nodes[2].progress() {
            assert!(chunks <= CHUNKS);
            rates += usize::from(rate > 0);
        }
    }
    assert!(rates > 0);
    assert_eq!(world.nodes[2].progress(), Progress::Ready);
    assert_eq!(world.nodes[2].data, world.truth);
    // What it wrote besides is stable, too, before it is in sync.
    let flushes = world.nodes[2].flushes;
    assert_eq!(world.install(all, nobody, nobody), Status::Ok);
    assert_eq!(world.nodes[2].flushes, flushes + 1);
    for node in &world.nodes {
        assert!((0..CHUNKS).all(|chunk| !node.shared.dirty(id(2), chunk)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Writes come between any two steps of the resync, the source restarts of the member too.
    #[test]
    fn writes_during_resync(
        missed in prop::collection::vec(0..CHUNKS, 0..200),
        steps in prop::collection::vec((0u32..4, 0..CHUNKS), 0..400),
        restart: bool,
    ) {
        let mut world = World::new(3);
        for chunk in 0..CHUNKS {
            world.write(chunk);
        }
        let rest = world.others(2);
        let (back, nobody) = (MemberSet::only(id(2)), MemberSet::EMPTY);
        prop_assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
        for chunk in missed {
            world.write(chunk);
        }
        if restart {
            let old = world.nodes.pop().unwrap();
            world.nodes.push(Node::start(2, old.pages, old.data, POOL));
        }
        world.promise(2);
        prop_assert_eq!(world.install(rest, back, back), Status::Ok);
        for (what, chunk) in steps {
            match what {
                0 => world.write(chunk),
                1 => world.ping(2),
                _ => {
                    world.answer(2);
                }
            }
        }
        world.ping(2);
        world.catch_up(2);
        prop_assert_eq!(&world.nodes[2].data, &world.truth);
        prop_assert_eq!(world.install(rest.with(id(2)), nobody, nobody), Status::Ok);
    }
}

/// What is on its way when resync is paused is used, and nothing more comes until it goes on.
#[test]
fn paused() {
    let mut world = behind();
    let dirty = |world: &World| {
        let chunks = (0..CHUNKS).filter(|chunk| world.nodes[1].shared.dirty(id(1), *chunk));
        chunks.count()
    };
    while dirty(&world) == CHUNKS as usize {
        world.answer(1);
    }
    world.nodes[1].shared.pause_resync(true);
    world.nodes[1].event(Event::Heard);
    for _ in 0..200 {
        world.answer(1);
    }
    let left = dirty(&world);
    assert!(left > 0 && world.nodes[1].sent.is_empty());
    // Writes come through, and wait for nothing.
    (0..100).for_each(|_| world.write(CHUNKS - 1));
    world.ping(1);
    assert!((0..200).all(|_| !world.answer(1)));
    assert_eq!(dirty(&world), left);
    world.nodes[1].shared.pause_resync(false);
    world.nodes[1].event(Event::Heard);
    world.catch_up(1);
    assert_eq!(world.nodes[1].data, world.truth);
}

#[test]
fn application_writes_have_precedence() {
    let mut world = behind();
    let mut most = (0, 0);
    let mut flushes = 0;
    for step in 0..400 {
        // The application writes at first, and then pauses.
        let writes = step < 200;
        if writes {
            world.write(CHUNKS - 1);
        }
        world.answer(1);
        let pulls = |node: &Node| {
            node.sent
                .iter()
                .filter(|sent| matches!(sent.3, Wanted::Pull(..)))
                .count()
        };
        let most = if writes { &mut most.0 } else { &mut most.1 };
        *most = pulls(&world.nodes[1]).max(*most);
        flushes += std::mem::take(&mut world.nodes[1].flushes);
        if step == 199 {
            assert!(flushes < 20, "{flushes}");
            // There is a floor: half of the answers at least were chunks.
            let left = (0..CHUNKS).filter(|chunk| world.nodes[1].shared.dirty(id(1), *chunk));
            assert!(left.count() as u64 <= CHUNKS - 50);
        }
    }
    assert_eq!(most.0, 1);
    assert!(most.1 > 1);
}

/// Reads that a source serves have precedence, too: it says so when it is asked what it has begun.
#[test]
fn application_reads_have_precedence() {
    let mut world = behind();
    world.ping(1);
    let pulls = |node: &Node| {
        let sent = node.sent.iter();
        sent.filter(|sent| matches!(sent.3, Wanted::Pull(..)))
            .count()
    };
    // The most that were on their way: until the first answer, until the second one (but not those sent before), and then.
    let mut most = [0; 3];
    let (mut answers, mut left) = (0, 0);
    while world.nodes[1].progress() != Progress::Ready {
        if answers == 0 {
            assert_eq!(world.read(0, 0), Ok(()));
        }
        let asked = matches!(world.nodes[1].sent.front(), Some((.., Wanted::Begun)));
        world.answer(1);
        let now = pulls(&world.nodes[1]);
        if asked {
            answers += 1;
            left = now;
        }
        left = left.min(now);
        let part = answers.min(2);
        if part != 1 || left <= 1 {
            most[part] = now.max(most[part]);
        }
    }
    assert!(answers > 2);
    assert!(most[0] > 1 && most[2] > 1, "{most:?}");
    assert_eq!(most[1], 1, "{most:?}");
    assert_eq!(world.nodes[1].data, world.truth);
}

/// A source that does not answer, for example as its disk hangs, costs time, and nothing else (R17).
#[test]
fn a_source_that_hangs() {
    let mut world = behind();
    world.ping(1);
    for pull in [false, true] {
        let (call, to) = loop {
            match world.nodes[1].sent.front() {
                Some((call, to, _, Wanted::Pull(..))) if pull => break (*call, *to),
                Some((call, to, _, Wanted::Dirty(..))) if !pull => break (*call, *to),
                _ => world.answer(1),
            };
        };
        let node = &mut world.nodes[1];
        node.sent.pop_front();
        node.hung.push((call, to));
        while !world.nodes[1].hung.is_empty() {
            world.answer(1);
        }
    }
    for _ in 0..1000 {
        world.answer(1);
    }
    assert_eq!(world.nodes[1].progress(), Progress::Ready);
    assert_eq!(world.nodes[1].data, world.truth);
}

/// After an error it goes on at the time that it said, without any other event.
#[test]
fn an_error_and_then_a_timer() {
    let mut world = behind();
    let node = &mut world.nodes[1];
    for errors in 1..=20 {
        let (call, ..) = node.sent.pop_front().unwrap();
        node.event(Event::PeerReply {
            call,
            result: Err(Status::Busy),
        });
        assert!(node.sent.is_empty());
        let pause = node.timer.since(node.now);
        assert!((1..=SECOND).contains(&pause), "{errors}: {pause}");
        // An event takes a step of time.
        node.now = Time(node.timer.0 - STEP);
        node.event(Event::Timer);
    }
    world.ping(1);
    world.catch_up(1);
}

/// A chunk with a write above the watermark is looked at again before long, but not all the time.
#[test]
fn a_write_that_is_not_complete_yet() {
    let mut world = missed(7..8);
    world.write(7);
    while world.nodes[1].progress() == Progress::Unknown {
        world.answer(1);
    }
    let node = &mut world.nodes[1];
    node.event(Event::Timer);
    assert!(node.sent.is_empty() && node.shared.dirty(id(1), 7));
    let pause = node.timer.since(node.now);
    assert!((2 * MILLISECOND..=STEP).contains(&pause), "{pause}");
    world.ping(1);
    world.catch_up(1);
}

/// A chunk that is written during each pull of it comes through all the same, as writes to it wait a moment in the end.
#[test]
fn a_chunk_that_is_always_written() {
    let mut world = missed(7..8);
    // So that no write waits for the activity log.
    world.write(7);
    for vain in 0..100 {
        world.ping(1);
        while !matches!(world.nodes[1].sent.front(), Some((.., Wanted::Pull(..)))) {
            world.answer(1);
        }
        world.seq += 1;
        world.write_on(0, 7);
        let waits = !world.try_on(1, 7);
        world.answer(1);
        if waits {
            world.write_on(1, 7);
            world.truth[7] = world.seq;
            world.ping(1);
            world.catch_up(1);
            assert_eq!(world.nodes[1].data, world.truth);
            // Not at once: looking at it before the watermark is there counts, too.
            assert!((4..=16).contains(&vain), "{vain}");
            return;
        }
        assert!(world.nodes[1].shared.dirty(id(1), 7));
    }
    panic!("it starves");
}

/// All that is asked for together fails, for long: each member is asked again and again, the one that can answer in the end, too.
#[test]
fn every_source_has_its_turn() {
    let mut world = World::new(5);
    let one = MemberSet::only(id(0));
    let nobody = MemberSet::EMPTY;
    assert_eq!(world.install(one, nobody, nobody), Status::Ok);
    for chunk in 0..20 {
        world.write(chunk);
    }
    (1..5).for_each(|of| world.promise(of));
    let back = world.others(0);
    assert_eq!(world.install(one, back, back), Status::Ok);
    world.ping(1);
    let mut asked = [0; 5];
    for round in 0..2000 {
        match world.nodes[1].sent.front() {
            Some((call, to, _, Wanted::Pull(..))) if round < 1000 => {
                let (call, to) = (*call, *to);
                asked[to] += 1;
                if asked[0] == 1 {
                    world.answer(1);
                    continue;
                }
                world.nodes[1].sent.pop_front();
                let result = Err(Status::Io);
                world.nodes[1].event(Event::PeerReply { call, result });
            }
            _ => {
                world.answer(1);
            }
        }
    }
    assert_eq!(world.nodes[1].progress(), Progress::Ready);
    assert!([0, 2, 3, 4].iter().all(|&of| asked[of] > 2), "{asked:?}");
}

/// Bits that no Clear took away are gone when their member is in sync: nobody looks at them, but they would count when
/// it is dropped again.
#[test]
fn in_sync_means_no_bits() {
    let mut world = World::new(2);
    let (one, both) = (MemberSet::only(id(0)), [id(0), id(1)].into_iter().collect());
    assert_eq!(
        world.install(one, MemberSet::EMPTY, MemberSet::EMPTY),
        Status::Ok
    );
    world.write(7);
    assert!(world.nodes[0].shared.dirty(id(1), 7));
    world.promise(1);
    let joins = MemberSet::only(id(1));
    assert_eq!(world.install(both, MemberSet::EMPTY, joins), Status::Ok);
    assert!(!world.nodes[0].shared.dirty(id(1), 7));
}

/// An answer about what was pulled before marks came says nothing about what is pulled since.
#[test]
fn an_answer_from_before_marks() {
    let mut world = behind();
    world.ping(1);
    let question = |world: &mut World| {
        let since = world.nodes[1].now;
        // Not so long that the answer is given up.
        while world.nodes[1].now.since(since) < 4 * SECOND {
            if let Some((call, .., Wanted::Begun)) = world.nodes[1].sent.front() {
                return Some(*call);
            }
            world.answer(1);
        }
        None
    };
    let late = question(&mut world).unwrap();
    world.nodes[1].sent.pop_front();
    world.mark(1);
    assert!(question(&mut world).is_some_and(|call| call != late));
    let begun = Begun {
        seq: Seq::NONE,
        reads: false,
    };
    world.nodes[1].event(Event::PeerReply {
        call: late,
        result: Ok(PeerAnswer::Begun(begun)),
    });
    assert!((0..CHUNKS).all(|chunk| world.nodes[1].shared.dirty(id(1), chunk)));
    world.catch_up(1);
    assert_eq!(world.nodes[1].data, world.truth);
}

/// Nor is a chunk that cannot be read gone on with after that.
#[test]
fn unreadable_after_marks() {
    let mut world = behind();
    world.ping(1);
    let call = loop {
        match world.nodes[1].sent.front() {
            Some((call, .., Wanted::Pull(..))) => break *call,
            _ => world.answer(1),
        };
    };
    world.nodes[1].sent.clear();
    world.mark(1);
    let result = Err(Status::Medium);
    world.nodes[1].event(Event::PeerReply { call, result });
    assert!(world.nodes[1].sent.is_empty());
}

/// What is clean is stable, and nobody reads from a member that has clean chunks only.
#[test]
fn clean_means_stable() {
    let mut world = behind();
    world.ping(1);
    let dirty = |world: &World| {
        let chunks = (0..CHUNKS).filter(|chunk| world.nodes[1].shared.dirty(id(1), *chunk));
        chunks.count() as u64
    };
    let mut wait = |all: bool| {
        while (dirty(&world) == CHUNKS) != all {
            assert_eq!(world.read(1, 0), Err(Status::Dirty));
            world.answer(1);
        }
        world.nodes[1].flushes
    };
    // First it has to hear what it missed.
    let before = wait(true);
    assert!(wait(false) > before);
    world.catch_up(1);
    assert_eq!(world.read(1, 0), Err(Status::Dirty));
    assert_eq!(world.read(0, 0), Ok(()));
}

/// Nobody puts a member in sync that has everything but a write that failed.
#[test]
fn a_failed_write_while_catching_up() {
    let mut world = behind();
    assert_eq!(world.nodes[0].progress(), Progress::Ready);
    world.ping(1);
    world.catch_up(1);
    world.status = Status::Medium;
    world.write(5);
    assert_ne!(world.nodes[1].progress(), Progress::Ready);
}

/// R17: what no member can read does not keep a member out of sync; it is answered as unreadable, also to members and after
/// a restart, until it is written. All else is there.
#[test]
fn what_nobody_can_read() {
    const BLOCKS: u64 = CHUNK / 4096;
    let mut world = World::new(3);
    for chunk in 0..CHUNKS {
        world.write(chunk);
    }
    let (rest, nobody) = (world.others(2), MemberSet::EMPTY);
    assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
    world.write(6);
    world.write(9);
    // Of chunk 6 the first and the last block, of chunk 9 one here and one there.
    let (first, last) = (6 * BLOCKS, 7 * BLOCKS - 1);
    world.nodes[0].bad = vec![first, last, 9 * BLOCKS];
    world.nodes[1].bad = vec![first, last, 9 * BLOCKS + 1];
    world.take_back(2);
    assert_eq!(world.nodes[2].data, world.truth);
    let unreadable = |world: &World| -> Vec<u64> {
        (0..CHUNKS * BLOCKS)
            .filter(|block| world.read(2, *block) == Err(Status::Medium))
            .collect()
    };
    assert_eq!(unreadable(&world), [first, last]);
    // A member that needs the chunk does not get what is old.
    world.crash(0);
    world.nodes[0].bad.clear();
    world.nodes[1].bad = vec![last];
    world.write(6);
    assert_eq!(unreadable(&world), [last]);
    world.take_back(0);
    assert_eq!(world.read(0, last), Err(Status::Medium));
    assert_eq!(world.read(0, first), Ok(()));
    // It is not forgotten, nor is what was written since; of the list there are two copies again.
    let [_, copy] = Layout::compute(1 << 40, geometry()).unwrap().unreadable();
    world.nodes[2].pages.insert(copy.offset, [0xff; 4096]);
    world.crash(2);
    let again = &world.nodes[2].pages[&copy.offset];
    assert!(UnreadablePage::parse::<Crc>(store(2), copy, again).is_ok());
    world.take_back(2);
    assert_eq!(unreadable(&world), [last]);
    assert!(world.nodes[2].shared.unreadable().eq([BadBlock {
        block: last,
        sectors: 0xff,
    }]));
    // What one can read again comes back with the next pull of the chunk.
    world.crash(2);
    world.write(6);
    world.nodes[1].bad.clear();
    world.take_back(2);
    assert_eq!(unreadable(&world), []);
    assert_eq!(world.read(0, last), Err(Status::Medium));
}

/// R13: what was pulled may hold a write that the member was not sent yet. Until that is complete the chunk is dirty.
#[test]
fn what_is_incomplete_is_not_proved() {
    let mut world = behind();
    world.ping(1);
    world.seq += 1;
    world.write_on(0, 7);
    go_on(&mut world, 1);
    assert_eq!(world.nodes[1].data[7], world.seq);
    assert!(world.nodes[1].shared.dirty(id(1), 7));
    world.write_on(1, 7);
    world.truth[7] = world.seq;
    go_on(&mut world, 1);
    assert!(world.nodes[1].shared.dirty(id(1), 7));
    world.ping(1);
    go_on(&mut world, 1);
    assert_eq!(world.nodes[1].progress(), Progress::Ready);
    assert_eq!(world.nodes[1].data, world.truth);
}

/// A source says what makes no sense, or nothing, or is asked by somebody else: that costs time and a second pull, nothing else.
#[test]
fn what_a_source_has_begun() {
    let refused = Err(Status::Busy);
    let far = Begun {
        seq: Seq(u64::MAX),
        reads: false,
    };
    for result in [refused, Ok(PeerAnswer::Begun(far))] {
        let mut world = behind();
        world.ping(1);
        let (mut pulls, mut done) = (0, false);
        for _ in 0..4000 {
            match world.nodes[1].sent.front() {
                Some((call, _, _, Wanted::Begun)) if !done => {
                    let call = *call;
                    done = true;
                    world.nodes[1].sent.pop_front();
                    world.nodes[1].event(Event::PeerReply { call, result });
                    continue;
                }
                Some((_, _, _, Wanted::Pull(..))) => pulls += 1,
                _ => {}
            }
            world.answer(1);
        }
        assert_eq!(world.nodes[1].progress(), Progress::Ready);
        assert_eq!(world.nodes[1].data, world.truth);
        assert!((CHUNKS + 1..2 * CHUNKS).contains(&pulls), "{pulls}");
    }
}

/// A source that was dropped cannot be asked any more: what it brought is pulled again, from one that stays.
#[test]
fn what_a_source_brought_that_is_gone() {
    let mut world = World::new(3);
    let (rest, nobody) = (world.others(2), MemberSet::EMPTY);
    let back = MemberSet::only(id(2));
    assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
    (0..9).for_each(|chunk| world.write(chunk));
    world.promise(2);
    assert_eq!(world.install(rest, back, back), Status::Ok);
    world.ping(2);
    // One that nobody else has ever seen.
    world.seq += 1;
    world.write_on(0, 7);
    while world.nodes[2].data[7] != world.seq {
        world.answer(2);
    }
    let one = MemberSet::only(id(1));
    assert_eq!(world.install(one, back, nobody), Status::Ok);
    go_on(&mut world, 2);
    assert_eq!(world.nodes[2].progress(), Progress::Ready);
    assert_eq!(world.nodes[2].data, world.truth);
}
