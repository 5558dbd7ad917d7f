// SPDX-License-Identifier: GPL-2.0

//! What a member does with what a client or another member tells it: who is meant, what is refused, what waits.

use super::rig::behind;
use super::rig::id;
use super::rig::store;
use super::rig::Node;
use super::rig::Own;
use super::rig::Queue;
use super::rig::Todo;
use super::rig::Wanted;
use super::rig::World;
use super::rig::CHUNK;
use super::rig::CHUNKS;
use super::rig::GENERATION;
use super::rig::POOL;
use rmr_engine::storage::Event;
use rmr_engine::storage::PeerAnswer;
use rmr_engine::storage::PeerDo;
use rmr_proto::Ask;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::Epoch;
use rmr_proto::Fences;
use rmr_proto::Generation;
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::Mark;
use rmr_proto::MemberSet;
use rmr_proto::Merge;
use rmr_proto::Peer;
use rmr_proto::Run;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Target;
use rmr_proto::Uuid;
use std::collections::VecDeque;

/// Its host may have restarted without a loss of power: the disk still has in its cache what it wrote before.
#[test]
fn a_promise_is_stable_after_a_restart() {
    let mut world = World::new(2);
    world.write(7);
    let old = world.nodes.pop().unwrap();
    let node = Node::start(1, old.pages, old.data, POOL);
    assert_eq!(node.flushes, 0);
    world.nodes.push(node);
    world.promise(1);
    assert_eq!(world.nodes[1].flushes, 1);
}

/// Who is meant is said by pool, store, number and incarnation (R10).
#[test]
fn somebody_else_is_meant() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    let right = node.target();
    let (pool, store, member) = (Uuid([1; 16]), store(1), id(1));
    let incarnation = right.incarnation.after(1).unwrap();
    for (to, status) in [
        (Target { pool, ..right }, Status::WrongUuid),
        (Target { store, ..right }, Status::WrongUuid),
        (Target { member, ..right }, Status::WrongMember),
        (
            Target {
                incarnation,
                ..right
            },
            Status::StaleIncarnation,
        ),
        (right, Status::Ok),
    ] {
        let promise = Control::Promise {
            to,
            generation: GENERATION,
            fences: Fences::Dead,
        };
        assert_eq!(node.control(&promise), status);
    }
}

/// Late copies, and what no client sends: refused, and nothing changes.
#[test]
fn what_is_not_for_a_member() {
    let mut world = World::new(2);
    let config = world.config.clone();
    let node = &mut world.nodes[0];
    let to = node.target();
    let mut ask = |message: &Control, other_alive: bool| {
        node.reply = None;
        node.event(Event::Control {
            call: 1,
            message,
            other_alive,
        });
        assert!(node.serving.is_some() || node.reply.as_ref().unwrap().0.is_ok());
        node.reply.as_ref().unwrap().0
    };
    let promise = |number: u64, nonce: u64, fences: Fences| Control::Promise {
        to,
        generation: Generation { number, nonce },
        fences,
    };
    assert_eq!(ask(&promise(2, 2, Fences::Dead), true), Status::InUse);
    for (number, nonce, fences) in [
        (1, 2, Fences::Alive),
        (2, 2, Fences::Nobody),
        (0, 1, Fences::Nobody),
    ] {
        let status = ask(&promise(number, nonce, fences), false);
        assert_eq!(status, Status::StaleGeneration, "{number} {nonce}");
    }
    let detach = |nonce: u64, epoch: u64| Control::Detach {
        to,
        generation: Generation { number: 1, nonce },
        epoch: Epoch(epoch),
        watermark: Seq::NONE,
    };
    assert_eq!(ask(&detach(2, 1), false), Status::StaleGeneration);
    assert_eq!(ask(&detach(1, 0), false), Status::StaleEpoch);
    assert_eq!(ask(&detach(1, 2), false), Status::InstallFirst);
    let install = |joins: bool, change: &dyn Fn(&mut Config)| {
        let mut config = config.clone();
        config.epoch = Epoch(2);
        change(&mut config);
        Control::Install {
            to,
            config,
            assign: false,
            joins,
            discard: false,
        }
    };
    let behind = |config: &mut Config| {
        config.in_sync = MemberSet::only(id(1));
        config.catching_up = MemberSet::only(id(0));
    };
    for (message, status) in [
        (install(false, &|c| c.clean = true), Status::Invalid),
        (
            install(false, &|c| c.in_sync = MemberSet::EMPTY),
            Status::Invalid,
        ),
        (install(false, &behind), Status::Invalid),
        (
            install(true, &|c| c.in_sync = MemberSet::only(id(1))),
            Status::Invalid,
        ),
        (
            install(false, &|c| c.members[0] = Some(Uuid([7; 16]))),
            Status::WrongMember,
        ),
        (
            install(false, &|c| c.incarnations[0] = Incarnation(1 << 40)),
            Status::StaleIncarnation,
        ),
        (
            install(false, &|c| c.history = Uuid([7; 16])),
            Status::Diverged,
        ),
        (
            install(false, &|c| {
                (c.epoch, c.in_sync) = (Epoch(1), MemberSet::only(id(1)));
            }),
            Status::StaleEpoch,
        ),
        (install(false, &|_| ()), Status::Ok),
        (detach(1, 2), Status::Ok),
        (detach(1, 2), Status::Ok),
    ] {
        assert_eq!(ask(&message, false), status, "{message:?}");
    }
    // It has left; that was asked twice.
    assert!(world.nodes[0].serving.is_none());
}

/// A client has one change under way. It waits for what the member does by itself, and no other one waits with it.
#[test]
fn one_change_at_a_time() {
    let mut world = World::new(2);
    let node = &mut world.nodes[1];
    let to = node.target();
    let mut queue = Queue {
        pages: &mut node.pages,
        todo: VecDeque::new(),
        timer: &mut node.timer,
    };
    let marks = &[Mark::new(Run::new(1, 1), MemberSet::only(id(0)))];
    let merge = Merge {
        to,
        generation: GENERATION,
        marks,
    };
    let promise = Control::Promise {
        to,
        generation: Generation {
            number: 2,
            nonce: 1,
        },
        fences: Fences::Alive,
    };
    let ask = |call: u64| Event::Control {
        call,
        message: &promise,
        other_alive: false,
    };
    let (member, shared, now) = (&mut node.member, &node.shared, node.now);
    // Nothing that the member wants done is done, before it is said.
    let message = &merge;
    member.event(now, Event::Merge { call: 1, message }, shared, &mut queue);
    assert!(matches!(
        queue.todo.pop_front(),
        Some(Todo::Event(Own::Meta))
    ));
    member.event(now, ask(2), shared, &mut queue);
    assert!(queue.todo.is_empty());
    member.event(now, ask(3), shared, &mut queue);
    let busy = |todo: Option<Todo>| matches!(todo, Some(Todo::Reply(Status::Busy, ..)));
    assert!(busy(queue.todo.pop_front()));
    // Nor does anything overtake the promise.
    let marks = |call: u64| Event::Merge { call, message };
    member.event(now, marks(5), shared, &mut queue);
    assert!(busy(queue.todo.pop_front()));
    // Now the promise is under way.
    let drains = |todo: Todo| matches!(todo, Todo::Event(Own::Drained));
    let mut written = 0;
    while !queue.todo.drain(..).any(drains) {
        written += 1;
        assert!(written < 10, "what waits is not begun");
        member.event(now, Event::MetaDone(Ok(())), shared, &mut queue);
    }
    member.event(now, ask(4), shared, &mut queue);
    assert!(busy(queue.todo.pop_front()));
    member.event(now, marks(6), shared, &mut queue);
    assert!(busy(queue.todo.pop_front()));
}

/// A promise is not stable before what was pulled is written.
#[test]
fn a_promise_waits_for_what_was_pulled() {
    let mut world = behind();
    let asked = |world: &World| {
        let wanted = world.nodes[1].sent.front();
        wanted.is_some_and(|(.., wanted)| matches!(wanted, Wanted::Pull(..)))
    };
    while !asked(&world) {
        world.answer(1);
    }
    let node = &mut world.nodes[1];
    let to = node.target();
    let (call, ..) = node.sent.pop_front().unwrap();
    let mut queue = Queue {
        pages: &mut node.pages,
        todo: VecDeque::new(),
        timer: &mut node.timer,
    };
    let (member, shared, now) = (&mut node.member, &node.shared, node.now);
    let result = Ok(PeerAnswer::Data);
    member.event(now, Event::PeerReply { call, result }, shared, &mut queue);
    let written = queue.todo.drain(..).find_map(|todo| match todo {
        Todo::Event(Own::Written(call, _)) => Some(call),
        _ => None,
    });
    let call = written.expect("it is written");
    let message = &Control::Promise {
        to,
        generation: Generation {
            number: 2,
            nonce: 1,
        },
        fences: Fences::Alive,
    };
    let ask = Event::Control {
        call: 1,
        message,
        other_alive: false,
    };
    member.event(now, ask, shared, &mut queue);
    let drains = |todo: Todo| matches!(todo, Todo::Event(Own::Drained));
    assert!(queue.todo.drain(..).any(drains));
    let flushes = |todo: Todo| matches!(todo, Todo::Event(Own::Flushed));
    member.event(now, Event::Drained, shared, &mut queue);
    assert!(!queue.todo.drain(..).any(flushes), "it is being written");
    let result = Ok(());
    member.event(now, Event::PullWritten { call, result }, shared, &mut queue);
    assert!(queue.todo.drain(..).any(flushes));
}

/// Requests are refused while a promise is under way, but not while what they were sent under is being installed: soon they are not
/// too new.
#[test]
fn requests_during_a_change() {
    let mut world = World::new(2);
    let mut config = world.config.clone();
    config.epoch = Epoch(2);
    let node = &mut world.nodes[1];
    let to = node.target();
    let header = Header {
        pool: POOL,
        member: id(1),
        incarnation: node.member.incarnation(),
        generation: GENERATION,
        epoch: Epoch(2),
        watermark: Seq::NONE,
    };
    let install = Control::Install {
        to,
        config,
        assign: false,
        joins: true,
        discard: false,
    };
    let promise = Control::Promise {
        to,
        generation: GENERATION,
        fences: Fences::Alive,
    };
    for (message, refused) in [(&promise, Some(Status::InstallFirst)), (&install, None)] {
        let mut queue = Queue {
            pages: &mut node.pages,
            todo: VecDeque::new(),
            timer: &mut node.timer,
        };
        let ask = Event::Control {
            call: 1,
            message,
            other_alive: false,
        };
        let (member, shared, now) = (&mut node.member, &node.shared, node.now);
        member.event(now, ask, shared, &mut queue);
        assert_eq!(member.not_serving(&header), refused);
        // It goes on to its end.
        while let Some(todo) = queue.todo.pop_front() {
            let event = match todo {
                Todo::Event(Own::Meta) => Event::MetaDone(Ok(())),
                Todo::Event(Own::Drained) => Event::Drained,
                Todo::Event(Own::Flushed) => Event::Flushed(Ok(())),
                _ => continue,
            };
            member.event(now, event, shared, &mut queue);
        }
    }
}

/// A store belongs to the pool that it was given, and is given one once.
#[test]
fn a_pool_is_given_once() {
    let mut world = World::new(1);
    let mut config = world.config.clone();
    config.epoch = Epoch(2);
    let install = |to: Target, pool: Uuid, assign: bool| Control::Install {
        to: Target { pool, ..to },
        config: config.clone(),
        assign,
        joins: false,
        discard: false,
    };
    let node = &mut world.nodes[0];
    let other = install(node.target(), Uuid([1; 16]), true);
    assert_eq!(node.control(&other), Status::WrongUuid);
    let mut new = Node::new(0);
    let unasked = install(new.target(), POOL, false);
    assert_eq!(new.control(&unasked), Status::WrongUuid);
}

/// Who may have lost what it acknowledged, or was started since, does not say that all was well.
#[test]
fn who_cannot_leave_in_order() {
    let detach = |world: &mut World| {
        let detach = Control::Detach {
            to: world.nodes[1].target(),
            generation: GENERATION,
            epoch: world.config.epoch,
            watermark: Seq(world.seq),
        };
        world.nodes[1].control(&detach)
    };
    let mut world = World::new(2);
    world.status = Status::Medium;
    world.write(7);
    assert_eq!(detach(&mut world), Status::WrongState);
    let mut world = World::new(2);
    let old = world.nodes.pop().unwrap();
    let node = Node::start(1, old.pages, old.data, POOL);
    world.nodes.push(node);
    assert_eq!(detach(&mut world), Status::WrongState);
    let mut world = World::new(2);
    assert_eq!(detach(&mut world), Status::Ok);
}

/// R14: the writes above the watermark; after a crash all that is in the log.
#[test]
fn what_a_promise_reports() {
    let mut world = World::new(2);
    world.write(3);
    world.write(70);
    let reported = |world: &World| world.nodes[1].reply.as_ref().unwrap().1.clone();
    let suspect = |world: &World| -> Vec<u64> {
        let node = &world.nodes[1];
        (0..CHUNKS)
            .filter(|chunk| node.member.suspect(&node.shared, *chunk))
            .collect()
    };
    let query = Control::Query {
        name: "pool".parse().unwrap(),
    };
    assert_eq!(world.nodes[1].control(&query), Status::Ok);
    assert_eq!(reported(&world), []);
    world.promise(1);
    assert_eq!(reported(&world), [Run::new(70, 1)]);
    assert_eq!(suspect(&world), [70]);
    world.crash(1);
    world.promise(1);
    assert_eq!(reported(&world), [Run::new(0, 64), Run::new(64, 64)]);
    assert_eq!(suspect(&world), (0..128).collect::<Vec<_>>());
    // Who carried them elsewhere installs it. It does not count on what it has of them itself.
    let (rest, back) = (world.others(1), MemberSet::only(id(1)));
    assert_eq!(world.install(rest, back, back), Status::Ok);
    let node = &world.nodes[1];
    assert!((0..CHUNKS).all(|chunk| node.shared.dirty(id(1), chunk) == (chunk < 128)));
    world.ping(1);
    assert_eq!(reported(&world), []);
    world.promise(1);
    assert_eq!(reported(&world), []);
}

/// Marks count under any epoch, a watermark only under the one that is installed.
#[test]
fn marks_and_watermarks() {
    let mut world = World::new(2);
    world.write(3);
    let node = &mut world.nodes[1];
    let right = node.target();
    let other = Generation {
        nonce: 2,
        ..GENERATION
    };
    let later = right.incarnation.after(1).unwrap();
    let stale = Target {
        incarnation: later,
        ..right
    };
    let run = |first: u64, end: u64| Run::new(first, (end - first) as u32);
    let cases = [
        (stale, GENERATION, run(5, 6), Status::StaleIncarnation),
        (right, other, run(5, 6), Status::StaleGeneration),
        (right, GENERATION, run(5, CHUNKS + 1), Status::OutOfRange),
        (right, GENERATION, run(5, CHUNKS), Status::Ok),
    ];
    for (to, generation, run, status) in cases {
        assert!(!node.shared.dirty(id(0), 5));
        let marks = &[Mark::new(run, MemberSet::only(id(0)))];
        let message = &Merge {
            to,
            generation,
            marks,
        };
        node.event(Event::Merge { call: 1, message });
        assert_eq!(node.reply.take().unwrap().0, status);
    }
    assert!(node.shared.dirty(id(0), 5) && !node.shared.dirty(id(0), 4));
    let suspect = |node: &Node| node.member.suspect(&node.shared, 3);
    for (to, generation, epoch, status) in [
        (stale, GENERATION, 1, Status::StaleIncarnation),
        (right, other, 1, Status::StaleGeneration),
        (right, GENERATION, 0, Status::StaleEpoch),
        (right, GENERATION, 2, Status::InstallFirst),
        (right, GENERATION, 1, Status::Ok),
    ] {
        assert!(suspect(node));
        let ping = Control::Ping {
            to,
            generation,
            epoch: Epoch(epoch),
            watermark: Seq(1),
        };
        assert_eq!(node.control(&ping), status);
    }
    assert!(!suspect(node));
}

/// What is known of a member that serves nobody, and how it refuses.
#[test]
fn a_member_that_does_not_serve() {
    let mut world = World::new(2);
    let late = world.nodes[1].member.incarnation();
    let served = world.nodes[1].member.serving();
    assert!(served.is_some_and(|serving| serving.in_sync));
    world.crash(1);
    let node = &mut world.nodes[1];
    let query = Control::Query {
        name: "pool".parse().unwrap(),
    };
    assert_eq!(node.control(&query), Status::Ok);
    assert!(node.reply.as_ref().is_some_and(|reply| reply.2.is_some()));
    let member = &mut node.member;
    assert!(member.is_up() && member.serving().is_none() && !member.needs_fetch());
    assert_eq!(member.pool(), POOL);
    assert!(member
        .config()
        .is_some_and(|config| config.epoch == Epoch(1)));
    let right = Header {
        pool: POOL,
        member: id(1),
        incarnation: member.incarnation(),
        generation: GENERATION,
        epoch: Epoch(1),
        watermark: Seq::NONE,
    };
    let (pool, number, incarnation, epoch) = (Uuid([1; 16]), id(0), late, Epoch(2));
    let wrong = Header {
        member: number,
        ..right
    };
    for (header, status) in [
        (Header { pool, ..right }, Status::WrongUuid),
        (wrong, Status::WrongMember),
        (
            Header {
                incarnation,
                ..right
            },
            Status::StaleIncarnation,
        ),
        (right, Status::StaleEpoch),
        (Header { epoch, ..right }, Status::InstallFirst),
    ] {
        assert_eq!(member.not_serving(&header), Some(status));
        let ask = Ask::Clear { runs: &[] };
        let peer = Peer {
            to: header,
            from: id(0),
            ask,
        };
        assert_eq!(member.peer(&peer, &node.shared), Err(status));
    }
}

/// What a member tells another depends on who asks, and on what it knows itself.
#[test]
fn what_other_members_may_ask() {
    let mut world = World::new(3);
    (0..10).for_each(|chunk| world.write(chunk));
    let (rest, nobody) = (world.others(2), MemberSet::EMPTY);
    assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
    world.write(7);
    world.promise(2);
    let back = MemberSet::only(id(2));
    assert_eq!(world.install(rest, back, back), Status::Ok);
    let ask = |world: &mut World, to: usize, from: usize, epoch: u64, ask: Ask<'_>| {
        let to = &mut world.nodes[to];
        let header = Header {
            pool: POOL,
            member: id(to.of),
            incarnation: to.member.incarnation(),
            generation: GENERATION,
            epoch: Epoch(epoch),
            watermark: Seq::NONE,
        };
        let (to, shared) = (&mut to.member, &to.shared);
        to.peer(
            &Peer {
                to: header,
                from: id(from),
                ask,
            },
            shared,
        )
    };
    let epoch = world.config.epoch.0;
    let dirty = |page: u64| Ask::FetchDirty { of: id(2), page };
    let pull = |chunk: u64| Ask::Pull {
        offset: chunk * CHUNK,
        len: 4096,
    };
    let (page, of) = (0, id(2));
    let there = Ok(PeerDo::Page { of, page });
    assert_eq!(ask(&mut world, 0, 2, epoch, dirty(0)), there);
    for (from, epoch, page, status) in [
        (2, epoch, 1, Status::OutOfRange),
        (2, epoch - 1, 0, Status::StaleEpoch),
        (2, epoch + 1, 0, Status::InstallFirst),
        (0, epoch, 0, Status::Invalid),
        (9, epoch, 0, Status::Invalid),
    ] {
        assert_eq!(ask(&mut world, 0, from, epoch, dirty(page)), Err(status));
    }
    // It does not know yet what it missed.
    assert!(world.nodes[2].member.needs_fetch() && !world.nodes[0].member.needs_fetch());
    let not_ready = Err(Status::NotReady);
    assert_eq!(ask(&mut world, 2, 0, epoch, dirty(0)), not_ready);
    assert_eq!(ask(&mut world, 2, 0, epoch, pull(8)), Err(Status::Dirty));
    world.ping(2);
    while world.nodes[2].member.needs_fetch() {
        world.answer(2);
    }
    assert_eq!(ask(&mut world, 2, 0, epoch, pull(7)), Err(Status::Dirty));
    let read = |chunk: u64| {
        let (offset, len) = (chunk * CHUNK, 4096);
        Ok(PeerDo::Read { offset, len })
    };
    assert_eq!(ask(&mut world, 2, 0, epoch, pull(8)), read(8));
    assert_eq!(ask(&mut world, 0, 2, epoch, pull(7)), read(7));
    let behind = ask(&mut world, 0, 2, epoch, pull(CHUNKS));
    assert_eq!(behind, Err(Status::OutOfRange));
    // Each member is told once that clients read, also if another one asked before.
    let is_read = |world: &mut World, from: usize| match ask(world, 0, from, epoch, Ask::Begun) {
        Ok(PeerDo::Begun(begun)) => begun.reads,
        other => panic!("{other:?}"),
    };
    for expected in [false, true] {
        if expected {
            assert_eq!(world.read(0, 7), Ok(()));
        }
        assert_eq!(is_read(&mut world, 2), expected);
        assert_eq!(is_read(&mut world, 1), expected);
        assert!(!is_read(&mut world, 2) && !is_read(&mut world, 1));
    }
    // Only who is catching up says what of its copy is right again.
    let run = |first: u64, end: u64| [Run::new(first, (end - first) as u32)];
    for (from, first, end, result) in [
        (1, 7, 8, Err(Status::Invalid)),
        (2, 7, CHUNKS + 1, Err(Status::OutOfRange)),
        (2, 8, CHUNKS, Ok(PeerDo::Done)),
    ] {
        let runs = &run(first, end);
        let clear = Ask::Clear { runs };
        assert_eq!(ask(&mut world, 0, from, epoch, clear), result);
        assert!(world.nodes[0].shared.dirty(id(2), 7));
    }
    let runs = &run(7, 8);
    let done = ask(&mut world, 0, 2, epoch, Ask::Clear { runs });
    assert_eq!(done, Ok(PeerDo::Done));
    assert!(!world.nodes[0].shared.dirty(id(2), 7));
}
