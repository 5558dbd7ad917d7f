// SPDX-License-Identifier: GPL-2.0

//! Disks and writes that fail, and the activity log.

use super::rig::geometry;
use super::rig::id;
use super::rig::Common;
use super::rig::Node;
use super::rig::World;
use super::rig::CHUNKS;
use super::rig::GENERATION;
use super::rig::POOL;
use rmr_engine::dedupe::Joiners;
use rmr_engine::memory::HostMemory;
use rmr_engine::storage::Event;
use rmr_engine::storage::Shared;
use rmr_engine::storage::Verdict;
use rmr_engine::sync::HostLock;
use rmr_proto::Control;
use rmr_proto::Fences;
use rmr_proto::Flags;
use rmr_proto::Generation;
use rmr_proto::Header;
use rmr_proto::Layout;
use rmr_proto::Mark;
use rmr_proto::MemberSet;
use rmr_proto::Merge;
use rmr_proto::Op;
use rmr_proto::Request;
use rmr_proto::Run;
use rmr_proto::Seq;
use rmr_proto::Status;

/// Of a log of which something is missing nobody knows what else is suspect: all is, until a configuration carries that. One
/// that only says that the member is out does not.
#[test]
fn a_damaged_log() {
    let mut world = World::new(2);
    world.write(7);
    let mut old = world.nodes.pop().unwrap();
    let layout = Layout::compute(1 << 40, geometry()).unwrap();
    let [copy, _] = layout.log_page(0).unwrap();
    old.pages.insert(copy.offset, [0xff; 4096]);
    let node = Node::start(1, old.pages, old.data, POOL);
    world.nodes.push(node);
    let suspect = |world: &World| {
        let node = &world.nodes[1];
        node.member.suspect(&node.shared, CHUNKS - 1)
    };
    assert!(suspect(&world));
    let (rest, nobody) = (world.others(1), MemberSet::EMPTY);
    assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
    let out = Control::Install {
        to: world.nodes[1].target(),
        config: world.config.clone(),
        assign: false,
        joins: false,
        discard: false,
    };
    assert_eq!(world.nodes[1].control(&out), Status::Ok);
    assert!(suspect(&world));
    let back = MemberSet::only(id(1));
    assert_eq!(world.install(rest, back, back), Status::Ok);
    assert!(!suspect(&world));
}

/// What a member cannot write down it has not promised; it answers all with an error until it is started again.
#[test]
fn metadata_that_cannot_be_written() {
    let mut world = World::new(2);
    let target = world.nodes[1].target();
    let node = &mut world.nodes[1];
    node.metadata = Status::Medium;
    let promise = Control::Promise {
        to: target,
        generation: Generation {
            number: 2,
            nonce: 2,
        },
        fences: Fences::Alive,
    };
    assert!(node.member.is_up());
    assert_eq!(node.control(&promise), Status::Io);
    assert_eq!(node.failed.take(), Some(Status::Medium));
    assert!(!node.member.is_up() && node.serving.is_none() && node.member.serving().is_none());
    assert_eq!(node.control(&promise), Status::Io);
    node.reply = None;
    let marks = [Mark::new(Run::new(1, 1), MemberSet::only(id(0)))];
    let message = Merge {
        to: target,
        generation: GENERATION,
        marks: &marks,
    };
    node.event(Event::Merge {
        call: 1,
        message: &message,
    });
    assert_eq!(node.reply.as_ref().unwrap().0, Status::Io);
    assert_eq!(node.failed, None);
}

/// What was acknowledged may be gone: the member must not go on as if it were not.
#[test]
fn a_flush_that_fails() {
    // One of its own.
    let mut world = World::new(2);
    let node = &mut world.nodes[1];
    let promise = Control::Promise {
        to: node.target(),
        generation: Generation {
            number: 2,
            nonce: 2,
        },
        fences: Fences::Alive,
    };
    node.flushed = Status::Medium;
    assert_eq!(node.control(&promise), Status::Io);
    assert_eq!(node.failed, Some(Status::Medium));
    // One of a client.
    let node = &mut world.nodes[0];
    let shared = &node.shared;
    assert_eq!(
        shared.end_flush(shared.begin_flush(), Status::Io),
        Status::Io
    );
    node.event(Event::Heard);
    assert_eq!(node.failed.take(), Some(Status::Io));
    // Once.
    node.event(Event::Heard);
    assert_eq!(node.failed, None);
}

/// A flush that fails may take acknowledged data with it, before anybody hears of it: what is read then may be older.
#[test]
fn what_is_read_after_a_failed_flush() {
    let shared: Common =
        Shared::new(&HostMemory, geometry(), HostLock::new(Joiners::new())).unwrap();
    let (first, second) = (shared.begin_flush(), shared.begin_flush());
    assert_eq!(
        shared.end_flush(shared.begin_flush(), Status::Ok),
        Status::Ok
    );
    assert_eq!(shared.end_read(Status::Ok), Status::Ok);
    assert_eq!(shared.end_flush(first, Status::Io), Status::Io);
    // It found nothing left to do.
    assert_eq!(shared.end_flush(second, Status::Ok), Status::Io);
    assert_eq!(shared.end_read(Status::Ok), Status::NotReady);
    assert_eq!(shared.end_read(Status::Medium), Status::Medium);
}

/// A write failed on the last member in sync, and the application does not flush: there is room in the log even so.
#[test]
fn a_failed_write_and_a_full_log() {
    let mut world = World::new(1);
    world.write(0);
    world.write(64);
    world.status = Status::Medium;
    world.write(1);
    world.status = Status::Ok;
    for chunk in [2, 128, 192] {
        world.write(chunk);
    }
    assert!(world.nodes[0].flushes > 0);
}

/// An extent stays in the log for as long as there is room.
#[test]
fn a_log_that_is_not_full() {
    let mut world = World::new(1);
    world.write(0);
    // All is complete and stable.
    world.ping(0);
    let shared = &world.nodes[0].shared;
    assert_eq!(
        shared.end_flush(shared.begin_flush(), Status::Ok),
        Status::Ok
    );
    world.write(64);
    let records = world.nodes[0].records;
    world.write(0);
    assert_eq!(world.nodes[0].records, records);
}

/// A write that was given up before it began is begun when it comes again, and whoever waited for it asks again.
#[test]
fn a_write_that_was_not_begun() {
    let mut world = World::new(1);
    world.write(0);
    let node = &world.nodes[0];
    let header = Header {
        pool: POOL,
        member: id(0),
        incarnation: node.member.incarnation(),
        generation: GENERATION,
        epoch: world.config.epoch,
        watermark: Seq(1),
    };
    let request = Request {
        op: Op::Write,
        flags: Flags::EMPTY,
        seq: Seq(2),
        offset: 0,
        len: 4096,
        data_offset: 0,
    };
    let serving = node.serving.unwrap();
    let write = |copy: u64| {
        let busy = |_| panic!("nobody waits");
        node.shared.write(&serving, &header, &request, copy, busy)
    };
    assert!(matches!(write(1), Verdict::Execute));
    assert!(matches!(write(2), Verdict::Join));
    let mut waited = Vec::new();
    node.shared.abandon(request.seq, |copy| waited.push(copy));
    assert_eq!(waited, [2]);
    assert!(matches!(write(3), Verdict::Execute));
}
