// SPDX-License-Identifier: GPL-2.0

//! The data path of an opened pool: from a submitted request to the messages, and back to its completion.
//!
//! The way of a request: [`Core::submit`] → overlap control (engine) → [`Core::start`], where the engine numbers it and says
//! to whom it goes → [`lane`](super::lane), which sends it with others → [`Core::acked`] for each copy → [`Core::finish`].
//! What does not go that straight is for the coordinator, see [`driver`](super::driver).
//!
//! A request is held by the engine, from its start to its end, and by each of its copies, from when it is queued until
//! it came back. When nobody holds it any more, the consumer gets its tag back; so no message ever refers to
//! memory that is the consumer's again, whatever the engine decides.
//!
//! All memory is allocated when the pool is opened. What CPUs share per request is the overlap shard of its
//! range, because two requests there may exclude each other, and the sequence number and watermark of
//! writes, which are one order for the whole pool by definition.

use super::driver::Driver;
use super::introduction::Introduction;
use super::lane;
use super::lane::Lanes;
use super::lane::Set;
use super::lane::Way;
use super::leg::Leg;
use super::pool::Pool;
use super::sending::Place;
use super::tags::Links;
use super::tags::TagList;
use super::volume::Consumer;
use super::volume::Io;
use super::volume::IoOp;
use crate::memory::KernelMemory;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use rmr_engine::client::Ack;
use rmr_engine::client::Acked;
use rmr_engine::client::Data;
use rmr_engine::client::Sending;
use rmr_engine::client::Start;
use rmr_engine::client::Ticket;
use rmr_engine::lane::Part;
use rmr_engine::overlap::Insert;
use rmr_engine::overlap::Overlap;
use rmr_engine::overlap::Shard;
use rmr_engine::readers::Policy;
use rmr_proto::Flags;
use rmr_proto::Geometry;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Status;
use rmr_sys::gate::Entered;
use rmr_sys::gate::Gate;
use rmr_sys::leases::Claim;
use rmr_sys::leases::Leases;
use rmr_sys::lock::IrqLocks;
use rmr_sys::percpu::Counters;
use rmr_sys::timer::Timer;
use rmr_sys::work::Job;
use rtrs::Dir;
use rtrs::IoData;

/// Largest write-zeroes request in bytes: one region of overlap control.
pub(crate) const MAX_ZEROES: u32 = rmr_engine::overlap::MAX_LEN as u32;

/// What the data path counts.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    /// Requests in messages of reads.
    Reads,
    /// Messages of reads.
    ReadMessages,
    /// Requests in messages to all receivers.
    Writes,
    /// Messages to all receivers, each counted once; and those with what is sent again to one.
    WriteMessages,
}

/// Counters there are.
pub(crate) const COUNTERS: usize = 4;

/// Who holds a request that is not started: the engine, and whoever starts it.
const BEFORE: u32 = 2;

/// A request between submit and completion.
pub(crate) struct Request {
    op: IoOp,
    offset: u64,
    len: u32,
    pub(crate) data: Option<IoData>,
    /// Queue of the consumer it gathers in.
    set: u32,
    /// How it ends: number of a status.
    outcome: Atomic<u32>,
}

impl Request {
    /// None.
    pub(crate) fn none() -> Self {
        Self {
            op: IoOp::Read,
            offset: 0,
            len: 0,
            data: None,
            set: 0,
            outcome: Atomic::new(0),
        }
    }

    fn aim(&self) -> Aim {
        Aim {
            op: self.op,
            offset: self.offset,
            len: self.len,
            set: self.set,
        }
    }

    /// As it goes over the wire.
    pub(crate) fn wire(&self, sending: &Sending) -> rmr_proto::Request {
        let (fua, unmap) = match self.op {
            // One that is written back after it could not be read somewhere is written as it is.
            IoOp::Read | IoOp::Flush => (false, false),
            IoOp::Write { fua } => (fua, false),
            IoOp::WriteZeroes { unmap, fua } => (fua, unmap),
        };
        rmr_proto::Request {
            op: sending.op,
            flags: Flags::new(fua, unmap),
            seq: sending.seq,
            offset: self.offset,
            len: self.len,
            data_offset: 0,
        }
    }
}

/// What is needed to start a request.
#[derive(Clone, Copy)]
struct Aim {
    op: IoOp,
    offset: u64,
    len: u32,
    set: u32,
}

/// What a volume can do, known once it is attached. Constant from then on.
pub(crate) struct Shape {
    size: Atomic<u64>,
    logical_block: Atomic<u32>,
}

impl Shape {
    /// Nothing is possible.
    pub(crate) fn none() -> Self {
        Self {
            size: Atomic::new(0),
            logical_block: Atomic::new(1 << 30),
        }
    }

    /// From here on requests are accepted.
    pub(crate) fn set(&self, geometry: &Geometry, logical_block: u32) {
        self.logical_block.store(logical_block, Relaxed);
        self.size.store(geometry.size(), Relaxed);
    }
}

/// The data path of an opened pool.
pub(crate) struct Core {
    pub(crate) data: Data<KernelMemory>,
    pub(crate) shape: Shape,
    pub(crate) max_io: u32,
    /// What the queues have in common.
    pub(crate) sets: KVVec<Set>,
    /// Lanes of what goes to all receivers.
    pub(crate) writes: Lanes,
    /// Legs, by the index of their members.
    pub(crate) legs: KVec<Gate<Leg>>,
    /// Which of them there are.
    pub(crate) present: Atomic<u32>,
    /// For queues of tags: lanes, parked, about to be started. A tag is in one of them at most.
    pub(crate) links: Links,
    pub(crate) requests: Leases<Request>,
    /// What is to be sent of each tag.
    pub(crate) places: KVVec<Place>,
    /// What counts of each tag when messages are filled.
    pub(crate) parts: KVVec<Atomic<u64>>,
    pub(crate) overlap: Overlap<KVVec<rmr_engine::overlap::Node>, IrqLocks<Shard>>,
    /// Requests that cannot be started now.
    pub(crate) parked: IrqLocks<TagList>,
    /// How often they were to be started again.
    pub(crate) opened: Atomic<u64>,
    /// Some message found no permit.
    pub(crate) stalled: Atomic<bool>,
    pub(crate) driver: Arc<Driver>,
    /// Runs the coordinator.
    pub(crate) job: Job<Driver>,
    /// Wakes it.
    pub(crate) timer: Timer<Driver>,
    /// Tells of changes.
    pub(crate) herald: Job<Pool>,
    /// Tells nodes where the others are.
    pub(crate) introduction: Job<Introduction>,
    pub(crate) counters: Counters<COUNTERS>,
    pub(crate) policy: Arc<Atomic<u32>>,
    pub(crate) consumer: Arc<dyn Consumer>,
}

impl Core {
    /// See [`Volume::submit`](super::volume::Volume::submit).
    pub(crate) fn submit(this: &Entered<Self>, tag: u32, io: Io) -> Result<(), Status> {
        this.check(&io)?;
        let mut request = this.requests.claim(tag as usize).ok_or(Status::Busy)?;
        // A flush has no range, whatever the consumer's idea of one is.
        let (offset, len) = match io.op {
            IoOp::Flush => (0, 0),
            _ => (io.offset, io.len),
        };
        *request = Request {
            op: io.op,
            offset,
            len,
            data: io.data,
            // Fewer than there are CPUs.
            set: this.set(io.queue) as u32,
            outcome: Atomic::new(0),
        };
        let aim = request.aim();
        this.note_part(tag, &io);
        request.share(BEFORE);
        if io.op == IoOp::Flush {
            Self::start_one(this, tag, &aim, io.last);
            return Ok(());
        }
        let range = io.offset..io.offset.saturating_add(u64::from(io.len));
        match this.overlap.insert(tag, range, io.op.is_write()) {
            Insert::Admitted => Self::start_one(this, tag, &aim, io.last),
            // Whoever is in its way starts it. What waits for the end of its plug must not wait for that.
            Insert::Held if io.last => lane::kick(this, this.set(io.queue)),
            Insert::Held => {}
            Insert::Refused => {
                drop(this.requests.release(tag as usize, BEFORE));
                return Err(Status::Invalid);
            }
        }
        Ok(())
    }

    fn check(&self, io: &Io) -> Result<(), Status> {
        let (data, max) = match io.op {
            IoOp::Read | IoOp::Write { .. } => (io.len, self.max_io),
            IoOp::WriteZeroes { .. } => (0, MAX_ZEROES),
            IoOp::Flush => return Ok(()),
        };
        let mask = u64::from(self.shape.logical_block.load(Relaxed) - 1);
        let aligned = (io.offset | u64::from(io.len)) & mask == 0;
        if !aligned || io.len == 0 || io.len > max || io.data.map_or(0, |d| d.len()) != data {
            return Err(Status::Invalid);
        }
        let end = io.offset.checked_add(u64::from(io.len));
        if end.is_none_or(|end| end > self.shape.size.load(Relaxed)) {
            return Err(Status::OutOfRange);
        }
        Ok(())
    }

    /// Keeps what counts of a request when messages are filled, in one word: bytes, segments, and whether it begins
    /// and ends inside a page.
    fn note_part(&self, tag: u32, io: &Io) {
        let word = io.data.map_or(0, |data| {
            u64::from(data.len())
                | u64::from(data.entries()) << 32
                | u64::from(!data.starts_aligned()) << 48
                | u64::from(!data.ends_aligned()) << 49
        });
        if let Some(place) = self.parts.get(tag as usize) {
            place.store(word, Relaxed);
        }
    }

    /// What counts of a request that is queued when messages are filled.
    pub(crate) fn part(&self, tag: u32) -> Part {
        let word = (self.parts.get(tag as usize)).map_or(0, |place| place.load(Relaxed));
        let sending = self.sending(tag);
        if !sending.op.has_data() {
            return Part {
                group: sending.epoch.0,
                ..Part::default()
            };
        }
        Part {
            data: word as u32,
            segments: (word >> 32) as u16,
            head: (word >> 48) as u32 & 1,
            tail: (word >> 49) as u32 & 1,
            // There is one configuration for each epoch, in whatever generation: whoever shares it has the same targets.
            group: sending.epoch.0,
        }
    }

    /// What is to be sent of a tag that is queued, or of which a copy is on its way.
    #[inline]
    pub(crate) fn sending(&self, tag: u32) -> Sending {
        self.places[tag as usize].get(tag)
    }

    /// Counts a message with so many requests.
    pub(crate) fn count(&self, dir: Dir, requests: usize) {
        let (each, one) = match dir {
            Dir::Write => (Counter::Writes, Counter::WriteMessages),
            Dir::Read => (Counter::Reads, Counter::ReadMessages),
        };
        self.counters.add(each as usize, requests as u64);
        self.counters.add(one as usize, 1);
    }

    /// The set of lanes of a consumer's queue.
    pub(crate) fn set(&self, queue: u32) -> usize {
        (queue as usize).checked_rem(self.sets.len()).unwrap_or(0)
    }

    /// The leg of a member.
    #[inline]
    pub(crate) fn leg(&self, id: MemberId) -> Option<Entered<Leg>> {
        self.legs.get(id.index())?.enter()
    }

    /// All legs.
    pub(crate) fn legs(&self) -> impl Iterator<Item = Entered<Leg>> + '_ {
        let present = MemberSet::from_bits(self.present.load(Relaxed));
        present.iter().filter_map(|id| self.leg(id))
    }

    /// A leg is there, or not any more. Not to be called by two at once.
    pub(crate) fn set_present(&self, id: MemberId, present: bool) {
        let old = MemberSet::from_bits(self.present.load(Relaxed));
        let new = if present {
            old.with(id)
        } else {
            old.without(id)
        };
        self.present.store(new.bits(), Relaxed);
    }

    /// Asks the engine to start a request.
    fn ask(&self, tag: u32, aim: &Aim) -> Start {
        let op = match aim.op {
            IoOp::Read => {
                let pick = |members| self.pick(aim.set as usize, members);
                return self.data.read(tag, aim.offset, aim.len, pick);
            }
            IoOp::Write { .. } => Op::Write,
            IoOp::Flush => Op::Flush,
            IoOp::WriteZeroes { .. } => Op::WriteZeroes,
        };
        self.data.write(tag, op, aim.offset, aim.len)
    }

    /// The member to read from.
    fn pick(&self, set: usize, members: MemberSet) -> Option<MemberId> {
        let policy = Policy::from_bits(self.policy.load(Relaxed));
        let cursor = &self.sets[set].turn;
        let mut turn = cursor.load(Relaxed);
        let member = policy.pick(members, &mut turn, |member| {
            self.leg(member).map_or(u32::MAX, |leg| leg.reads.load(set))
        })?;
        cursor.store(turn, Relaxed);
        Some(member)
    }

    /// Starts a request that nothing is in the way of.
    fn start_one(this: &Entered<Self>, tag: u32, aim: &Aim, last: bool) {
        match Self::start(this, tag, aim, last) {
            Ok(false) => {}
            Ok(true) => Self::start_parked(this),
            Err(status) => Self::end(this, tag, BEFORE, status),
        }
    }

    /// Starts a request, or parks it. True if what is parked must be tried again, see [`Self::start_parked`]. An error is how
    /// the request ends.
    fn start(this: &Entered<Self>, tag: u32, aim: &Aim, last: bool) -> Result<bool, Status> {
        let mut start = this.ask(tag, aim);
        let mut before = 0;
        if start == Start::Parked {
            // A barrier, too: whoever makes room after this second attempt knows that one waits for it.
            before = this.opened.fetch_add(0, Full);
            start = this.ask(tag, aim);
        }
        match start {
            Start::Send(sending) => {
                Self::launch(this, tag, aim, &sending, last);
                Ok(false)
            }
            Start::Fail(status) => Err(status),
            Start::Parked => {
                this.parked[0].with(|list| list.push(&this.links, tag));
                Ok(this.opened.load(Relaxed) != before)
            }
        }
    }

    /// There may be room, or the gate is open: what is parked is tried again.
    pub(crate) fn open(this: &Entered<Self>) {
        this.opened.fetch_add(1, Full);
        Self::start_parked(this);
    }

    /// Tries what is parked, again if there was more room meanwhile.
    fn start_parked(this: &Entered<Self>) {
        let mut again = true;
        while core::mem::take(&mut again) {
            // The lock orders the number and the list: who parks after this took the list sees that the number has changed.
            let mut list = this.parked[0].with(TagList::take);
            while let Some(tag) = list.pop(&this.links) {
                let Some(aim) = this.requests.with(tag as usize, Request::aim) else {
                    continue;
                };
                match Self::start(this, tag, &aim, true) {
                    Ok(more) => again |= more,
                    Err(status) => Self::end(this, tag, BEFORE, status),
                }
            }
        }
    }

    /// Queues a request that the engine has started. Whoever started it holds it; that goes to its copies.
    fn launch(this: &Entered<Self>, tag: u32, aim: &Aim, sending: &Sending, last: bool) {
        let Some(more) = sending.targets.len().checked_sub(1) else {
            return Self::release(this, tag, 1);
        };
        if more > 0 {
            this.requests.hold(tag as usize, more);
        }
        this.places[tag as usize].put(sending);
        let part = this.part(tag);
        let set = aim.set as usize;
        if sending.op != Op::Read {
            return lane::add(this, set, Way::All, tag, &part, last);
        }
        let leg = sending.targets.iter().next().and_then(|id| this.leg(id));
        match leg {
            Some(leg) => lane::add(this, set, Way::One(&leg), tag, &part, last),
            // The coordinator notices that nobody answers.
            None => Self::release(this, tag, 1),
        }
    }

    /// A request does not fit into a message.
    #[cold]
    pub(crate) fn cannot_send(this: &Entered<Self>, tag: u32) {
        let sending = this.sending(tag);
        for id in sending.targets {
            match this.leg(id) {
                Some(leg) => Self::acked(this, &leg, sending.ticket, Status::Invalid),
                None => Self::release(this, tag, 1),
            }
        }
    }

    /// The copy of a request at a leg came back.
    pub(crate) fn acked(this: &Entered<Self>, leg: &Leg, ticket: Ticket, status: Status) {
        let Acked { ack, room, hint } = this.data.ack(ticket, leg.member, status);
        match ack {
            Ack::Pending | Ack::Ignored => Self::release(this, ticket.tag, 1),
            Ack::Complete(status) => Self::end(this, ticket.tag, 2, status),
            Ack::Exception => {
                leg.fail(ticket, status);
                Self::release(this, ticket.tag, 1);
                this.driver.failed(leg.member);
                this.job.queue();
            }
            Ack::Repair(sending) => Self::repair(this, &sending),
        }
        if let Some(hint) = hint {
            this.driver.hint(hint);
            this.job.queue();
        }
        if room {
            Self::open(this);
        }
    }

    /// Writes what was read to where it could not be read.
    #[cold]
    fn repair(this: &Entered<Self>, sending: &Sending) {
        let tag = sending.ticket.tag;
        if let Some(aim) = this.requests.with(tag as usize, Request::aim) {
            // The hold of the copy that was read goes to those that are written.
            Self::launch(this, tag, &aim, sending, true);
        }
    }

    /// Sends a request once more, to each of its targets alone. Queues only: [`Leg::pump`] sends.
    pub(crate) fn resend(&self, sending: &Sending) {
        for id in sending.targets {
            let Some(leg) = self.leg(id) else { continue };
            if self.requests.hold(sending.ticket.tag as usize, 1) {
                leg.queue(sending);
            }
        }
    }

    /// The engine has ended a request. `holds` are given up.
    pub(crate) fn end(this: &Entered<Self>, tag: u32, holds: u32, status: Status) {
        if !status.is_ok() {
            this.note_outcome(tag, status);
        }
        Self::release(this, tag, holds);
    }

    /// How a request will end.
    pub(crate) fn note_outcome(&self, tag: u32, status: Status) {
        self.requests.with(tag as usize, |request| {
            request.outcome.store(u32::from(status.wire()), Relaxed);
        });
    }

    /// Gives up holds of a request; the last one finishes it.
    pub(crate) fn release(this: &Entered<Self>, tag: u32, holds: u32) {
        if let Some(request) = this.requests.release(tag as usize, holds) {
            Self::finish(this, tag, request);
        }
    }

    /// Answers a request and starts those that it was in the way of.
    fn finish(this: &Entered<Self>, tag: u32, request: Claim<'_, Request>) {
        let mut ready = TagList::new();
        let mut again = false;
        this.answer(tag, request, &mut ready);
        while let Some(next) = ready.pop(&this.links) {
            let Some(aim) = this.requests.with(next as usize, Request::aim) else {
                continue;
            };
            // A loop, not a recursion: of a failed volume, all that were held end here one after the other.
            match Self::start(this, next, &aim, true) {
                Ok(more) => again |= more,
                Err(status) => {
                    this.note_outcome(next, status);
                    if let Some(request) = this.requests.release(next as usize, BEFORE) {
                        this.answer(next, request, &mut ready);
                    }
                }
            }
        }
        if again {
            Self::start_parked(this);
        }
    }

    fn answer(&self, tag: u32, request: Claim<'_, Request>, ready: &mut TagList) {
        let wire = request.outcome.load(Relaxed) as u16;
        let status = Status::from_wire(wire).unwrap_or(Status::Io);
        if request.op != IoOp::Flush {
            self.overlap
                .remove(tag, |held| ready.push(&self.links, held));
        }
        drop(request);
        // From here on the tag is free.
        self.consumer.complete(tag, status);
    }
}
