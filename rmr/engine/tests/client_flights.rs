// SPDX-License-Identifier: GPL-2.0

//! The hot path of a client: start, acknowledge, shut, freeze, reopen.

use rmr_engine::client::flights::Onward;
use rmr_engine::client::Ack;
use rmr_engine::client::Data;
use rmr_engine::client::Hint;
use rmr_engine::client::Sending;
use rmr_engine::client::Start;
use rmr_engine::memory::HostMemory;
use rmr_engine::window::WINDOW;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::Generation;
use rmr_proto::Incarnation;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Quorum;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::MAX_MEMBERS;

const EXTENT: u64 = 4 << 20;

type Hot = Data<HostMemory>;

fn id(number: u32) -> MemberId {
    MemberId::new(number).expect("1 to 32")
}

fn set(ids: &[u32]) -> MemberSet {
    ids.iter().map(|n| id(*n)).collect()
}

/// Members 1 to 3 in the table.
fn config(epoch: u64, in_sync: &[u32], catching_up: &[u32]) -> Config {
    let mut members = [None; MAX_MEMBERS];
    let mut incarnations = [Incarnation::NONE; MAX_MEMBERS];
    for place in 0..3 {
        members[place] = Some(Uuid([1 + place as u8; 16]));
        incarnations[place] = Incarnation(10 + place as u64);
    }
    Config {
        generation: Generation {
            number: 4,
            nonce: 5,
        },
        epoch: Epoch(epoch),
        in_sync: set(in_sync),
        catching_up: set(catching_up),
        members,
        incarnations,
        persisted: [Epoch::NONE; MAX_MEMBERS],
        clean: false,
        history: Uuid([9; 16]),
        forked_from: None,
        quorum: Quorum::Off,
        maintenance: MemberSet::EMPTY,
    }
}

/// What came of a reopening: requests that ended, and that are to be sent.
type Opened = (Vec<(u32, Status)>, Vec<Sending>);

fn open(data: &Hot, config: &Config, log: u32) -> Opened {
    data.adopt(&Uuid([8; 16]), config, log);
    let mut opened = (vec![], vec![]);
    data.reopen(
        |view| Onward::Pending(view.pending.intersection(config.receivers())),
        |ticket, status| opened.0.push((ticket.tag, status)),
        |sending| opened.1.push(sending),
    );
    opened
}

fn hot(depth: usize) -> Hot {
    let data = Data::new(&HostMemory, depth).expect("memory");
    assert_eq!(data.write(0, Op::Write, 0, 512), Start::Parked);
    open(&data, &config(1, &[1, 2], &[3]), 1024);
    data
}

fn sent(start: Start) -> Sending {
    match start {
        Start::Send(sending) => sending,
        other => panic!("{other:?}"),
    }
}

fn ack(data: &Hot, sending: &Sending, number: u32) -> Ack {
    data.ack(sending.ticket, id(number), Status::Ok).ack
}

#[test]
fn write() {
    let data = hot(4);
    let write = sent(data.write(2, Op::Write, 4096, 4096));
    assert_eq!((write.seq, write.targets), (Seq(1), set(&[1, 2, 3])));
    let header = data.header(&write, id(2));
    assert_eq!((header.pool, header.member), (Uuid([8; 16]), id(2)));
    assert_eq!(header.incarnation, Incarnation(11));
    assert_eq!((header.epoch, header.watermark), (Epoch(1), Seq(0)));
    // The tag is in use.
    assert_eq!(
        data.write(2, Op::Write, 0, 512),
        Start::Fail(Status::Invalid)
    );
    assert_eq!(ack(&data, &write, 1), Ack::Pending);
    assert_eq!(ack(&data, &write, 1), Ack::Ignored);
    assert_eq!(ack(&data, &write, 3), Ack::Pending);
    let failed = data.ack(write.ticket, id(2), Status::Io);
    assert_eq!(failed.ack, Ack::Exception);
    let last = data.ack(write.ticket, id(2), Status::Ok);
    assert_eq!(last.ack, Ack::Complete(Status::Ok));
    assert_eq!((last.hint, last.room), (Some(Hint::Idle), false));
    assert_eq!(data.watermark(), Seq(1));
    // A copy for a member that was dropped may be sent only now: no message is below its own watermark.
    assert_eq!(data.header(&write, id(3)).watermark, Seq(0));
    // Late answers, and those to the use of the tag before.
    assert_eq!(ack(&data, &write, 2), Ack::Ignored);
    let next = sent(data.write(2, Op::WriteZeroes, 0, 512));
    assert_eq!(ack(&data, &write, 2), Ack::Ignored);
    assert_eq!(data.header(&next, id(1)).watermark, Seq(1));
}

#[test]
fn read() {
    let data = hot(2);
    let mut asked = MemberSet::EMPTY;
    let read = sent(data.read(0, 0, 512, |readers| {
        asked = readers;
        Some(id(2))
    }));
    assert_eq!(asked, set(&[1, 2]));
    assert_eq!((read.targets, read.seq), (set(&[2]), Seq::NONE));
    // A member that may not answer is not asked.
    let other = sent(data.read(1, 0, 512, |_| Some(id(3))));
    assert_eq!(other.targets, set(&[1]));
    // A read ends even while frozen.
    data.shut(true);
    let last = data.ack(read.ticket, id(2), Status::Ok);
    assert_eq!(last.ack, Ack::Complete(Status::Ok));
    assert_eq!(last.hint, Some(Hint::Ended));
}

#[test]
fn frozen() {
    let data = hot(5);
    let first = sent(data.write(0, Op::Write, 0, 512));
    let second = sent(data.write(1, Op::Write, 4096, 512));
    let flush = sent(data.write(2, Op::Flush, 0, 0));
    let zeroes = sent(data.write(4, Op::WriteZeroes, 8192, 512));
    for number in [1, 2] {
        assert_eq!(ack(&data, &first, number), Ack::Pending);
        assert_eq!(ack(&data, &flush, number), Ack::Pending);
    }
    data.shut(true);
    assert_eq!(data.write(3, Op::Write, 0, 512), Start::Parked);
    assert_eq!(data.read(3, 0, 512, |_| Some(id(1))), Start::Parked);
    // The last one of the first write comes too late to complete it, and is not lost.
    assert_eq!(ack(&data, &first, 3), Ack::Pending);
    assert_eq!(data.watermark(), Seq(0));
    let ops = [Op::Write, Op::Write, Op::Flush, Op::WriteZeroes];
    assert!(data.views().map(|view| view.op).eq(ops));
    // Without 3 the flush is complete, and the other writes go on.
    let opened = open(&data, &config(2, &[1, 2], &[]), 1024);
    assert_eq!(opened, (vec![(0, Status::Ok), (2, Status::Ok)], vec![]));
    assert_eq!(data.watermark(), Seq(1));
    assert_eq!(ack(&data, &second, 3), Ack::Ignored);
    assert_eq!(ack(&data, &second, 1), Ack::Pending);
    assert_eq!(ack(&data, &second, 2), Ack::Complete(Status::Ok));
    assert_eq!(ack(&data, &zeroes, 1), Ack::Pending);
    assert_eq!(sent(data.write(3, Op::Write, 0, 512)).epoch, Epoch(2));
    // No use of a tag is taken for another, whatever was shut and opened between.
    assert_ne!(sent(data.write(0, Op::Write, 0, 512)).ticket, first.ticket);
}

#[test]
fn shut_lets_requests_end() {
    let data = hot(2);
    let write = sent(data.write(0, Op::Write, 0, 512));
    data.shut(false);
    assert_eq!(data.write(1, Op::Write, 0, 512), Start::Parked);
    assert_eq!(ack(&data, &write, 1), Ack::Pending);
    assert_eq!(ack(&data, &write, 2), Ack::Pending);
    assert_eq!(ack(&data, &write, 3), Ack::Complete(Status::Ok));
    assert_eq!(data.views().count(), 0);
}

/// A read ends while the gate is opened: whatever was to become of it, it does not end again, and goes on nowhere.
#[test]
fn a_read_that_ends_while_the_gate_is_opened() {
    for onward in [Onward::End(Status::Io), Onward::Pending(set(&[1]))] {
        let data = hot(2);
        let read = sent(data.read(0, 0, 512, |_| Some(id(2))));
        data.shut(true);
        data.adopt(&Uuid([8; 16]), &config(2, &[1], &[]), 1024);
        data.reopen(
            |_| {
                assert_eq!(ack(&data, &read, 2), Ack::Complete(Status::Ok));
                onward
            },
            |ticket, _| panic!("{ticket:?} ends twice"),
            |sending| panic!("{sending:?}"),
        );
        assert_eq!(data.views().count(), 0);
    }
}

#[test]
fn extents_are_held_until_the_watermark_passes() {
    let data = hot(8);
    open(&data, &config(2, &[1], &[]), 4);
    let oldest = sent(data.write(0, Op::Write, 0, 512));
    let second = sent(data.write(1, Op::Write, EXTENT, 512));
    assert_eq!(data.write(2, Op::Write, 2 * EXTENT, 512), Start::Parked);
    // Complete, but above the watermark: the member cannot forget its extent.
    let above = data.ack(second.ticket, id(1), Status::Ok);
    assert_eq!((above.ack, above.room), (Ack::Complete(Status::Ok), false));
    assert_eq!(data.write(2, Op::Write, 2 * EXTENT, 512), Start::Parked);
    let hot_extent = sent(data.write(3, Op::Write, 4096, 512));
    let last = data.ack(oldest.ticket, id(1), Status::Ok);
    assert_eq!((last.ack, last.room), (Ack::Complete(Status::Ok), true));
    assert_eq!(ack(&data, &hot_extent, 1), Ack::Complete(Status::Ok));
    let third = sent(data.write(2, Op::Write, 2 * EXTENT, 512));
    assert_eq!(third.seq, Seq(4));
}

/// More extents than the budget, one after the other, for longer than the window.
#[test]
fn extents_come_back() {
    let data = hot(2);
    open(&data, &config(2, &[1], &[]), 4);
    for round in 0..WINDOW as u64 {
        for tag in [0, 1] {
            let offset = (2 * round + u64::from(tag)) * EXTENT;
            let write = sent(data.write(tag, Op::Write, offset, 512));
            assert_eq!(ack(&data, &write, 1), Ack::Complete(Status::Ok));
        }
    }
}

#[test]
fn idle_is_told_once() {
    let data = hot(2);
    open(&data, &config(2, &[1], &[]), 1024);
    let hint = |sending: Sending| data.ack(sending.ticket, id(1), Status::Ok).hint;
    let [first, second] = [0, 1].map(|tag| sent(data.write(tag, Op::Write, 0, 512)));
    assert_eq!(hint(first), None);
    assert_eq!(hint(second), Some(Hint::Idle));
    assert_eq!(hint(sent(data.write(0, Op::Write, 0, 512))), None);
}

#[test]
fn the_window_bounds_what_is_above_the_watermark() {
    let data = hot(2);
    open(&data, &config(2, &[1], &[]), 1024);
    let oldest = sent(data.write(0, Op::Write, 0, 512));
    for _ in 1..WINDOW {
        let write = sent(data.write(1, Op::Write, 4096, 512));
        assert_eq!(ack(&data, &write, 1), Ack::Complete(Status::Ok));
    }
    assert_eq!(data.write(1, Op::Write, 4096, 512), Start::Parked);
    let last = data.ack(oldest.ticket, id(1), Status::Ok);
    assert_eq!((last.ack, last.room), (Ack::Complete(Status::Ok), true));
    assert_eq!(data.watermark(), Seq(WINDOW as u64));
    assert_eq!(
        sent(data.write(1, Op::Write, 4096, 512)).seq,
        Seq(WINDOW as u64 + 1)
    );
}
