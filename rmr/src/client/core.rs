// SPDX-License-Identifier: GPL-2.0

//! The data path of an opened pool: from a submitted request to the messages, and back to its completion.
//!
//! The way of a request: [`Core::submit`] → overlap control (engine) → [`Core::start`], which numbers writes
//! and chooses whom to read from → [`lane`](super::lane), which sends it with others → [`Core::finish`].
//! What does not go that straight (a message failed, no permit was free, the window of sequence numbers is
//! full) is for [`exception`](super::exception), in process context.
//!
//! All memory is allocated when the pool is opened. What CPUs share per request is the overlap shard of its
//! range, because two requests there may exclude each other, and the sequence number and watermark of
//! writes, which are one order for the whole pool by definition.

use super::exception;
use super::exception::Exceptions;
use super::lane;
use super::lane::Batch;
use super::lane::Lane;
use super::lane::Set;
use super::session::Session;
use super::tags::Links;
use super::tags::TagList;
use super::volume::Consumer;
use super::volume::Io;
use super::volume::IoOp;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use rmr_engine::lane::Part;
use rmr_engine::overlap::Insert;
use rmr_engine::overlap::Overlap;
use rmr_engine::overlap::Shard;
use rmr_engine::readers::Policy;
use rmr_engine::sync::AtomicU64;
use rmr_engine::sync::Guarded;
use rmr_engine::window::Window;
use rmr_proto::Config;
use rmr_proto::Flags;
use rmr_proto::Geometry;
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_sys::gate::Entered;
use rmr_sys::lock::IrqLocks;
use rmr_sys::percpu::Counters;
use rmr_sys::slots::Slots;
use rmr_sys::timer::Timer;
use rmr_sys::work::Job;
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
    /// Messages to all receivers, each counted once.
    WriteMessages,
}

/// Counters there are.
pub(crate) const COUNTERS: usize = 4;

/// A member as the data path sees it.
pub(crate) struct Leg {
    pub(crate) member: MemberId,
    pub(crate) incarnation: Incarnation,
    pub(crate) session: Arc<Session>,
}

/// A request between submit and completion. The holder of its tag has it to itself.
#[derive(Default)]
pub(crate) struct Request {
    pub(crate) op: IoOp,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) data: Option<IoData>,
    /// Lanes it gathers in, see [`Core::set`].
    pub(crate) set: usize,
    /// Write sequence number; 0 until it has one, and for what is no write.
    pub(crate) seq: Seq,
    /// Travels in a message of its own, since one that carried it failed.
    pub(crate) alone: bool,
    /// Members that could not answer this read.
    pub(crate) tried: MemberSet,
    /// Its last failure.
    pub(crate) failure: Option<lane::Failure>,
    /// When it failed first, in ms of the monotonic clock.
    pub(crate) failing_since: Option<u64>,
}

impl Request {
    /// As it goes over the wire.
    pub(crate) fn wire(&self) -> rmr_proto::Request {
        let (op, fua, unmap) = match self.op {
            IoOp::Read => (rmr_proto::Op::Read, false, false),
            IoOp::Write { fua } => (rmr_proto::Op::Write, fua, false),
            IoOp::Flush => (rmr_proto::Op::Flush, false, false),
            IoOp::WriteZeroes { unmap, fua } => (rmr_proto::Op::WriteZeroes, fua, unmap),
        };
        rmr_proto::Request {
            op,
            flags: Flags::new(fua, unmap),
            seq: self.seq,
            offset: self.offset,
            len: self.len,
            data_offset: 0,
        }
    }
}

/// The data path of an opened pool, under one configuration.
pub(crate) struct Core {
    pub(crate) pool: Uuid,
    pub(crate) config: Arc<Config>,
    pub(crate) geometry: Geometry,
    pub(crate) logical_block: u32,
    pub(crate) max_io: u32,
    /// The receivers, in the order of their member ids.
    pub(crate) legs: KVec<Leg>,
    /// Sets of lanes: one for each CPU, and the last one for single requests.
    pub(crate) sets: KVVec<Set>,
    pub(crate) lanes: IrqLocks<Lane>,
    /// One for each lane.
    pub(crate) timers: KVVec<Timer<Exceptions>>,
    pub(crate) batches: IrqLocks<Batch>,
    pub(crate) links: Links,
    pub(crate) requests: Slots<Request>,
    pub(crate) overlap: Overlap<KVVec<rmr_engine::overlap::Node>, IrqLocks<Shard>>,
    pub(crate) window: Window<KVVec<AtomicU64>>,
    pub(crate) exceptions: Arc<Exceptions>,
    /// Works on the exceptions.
    pub(crate) job: Job<Exceptions>,
    pub(crate) counters: Counters<COUNTERS>,
    pub(crate) policy: Arc<Atomic<u32>>,
    pub(crate) consumer: Arc<dyn Consumer>,
    /// Once set, every request is answered with an error.
    pub(crate) failed: Atomic<bool>,
}

impl Core {
    /// See [`Volume::submit`](super::volume::Volume::submit).
    pub(crate) fn submit(this: &Entered<Self>, tag: u32, io: Io) -> Result<(), Status> {
        this.check(&io)?;
        let mut request = this.requests.take(tag as usize).ok_or(Status::Busy)?;
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
            set: this.set(io.queue),
            ..Request::default()
        };
        request.into_index();
        if io.op == IoOp::Flush {
            Self::start(this, tag, io.last);
            return Ok(());
        }
        let range = io.offset..io.offset.saturating_add(u64::from(io.len));
        match this.overlap.insert(tag, range, io.op.is_write()) {
            Insert::Admitted => Self::start(this, tag, io.last),
            // Whoever is in its way starts it. What waits for the end of its plug must not wait for that.
            Insert::Held if io.last => lane::kick(this, this.set(io.queue)),
            Insert::Held => {}
            Insert::Refused => {
                drop(this.requests.adopt(tag as usize));
                return Err(Status::Invalid);
            }
        }
        Ok(())
    }

    fn check(&self, io: &Io) -> Result<(), Status> {
        if self.has_failed() {
            return Err(Status::Io);
        }
        let (data, max) = match io.op {
            IoOp::Read | IoOp::Write { .. } => (io.len, self.max_io),
            IoOp::WriteZeroes { .. } => (0, MAX_ZEROES),
            IoOp::Flush => return Ok(()),
        };
        let aligned = (io.offset | u64::from(io.len)) & u64::from(self.logical_block - 1) == 0;
        if !aligned || io.len == 0 || io.len > max || io.data.map_or(0, |d| d.len()) != data {
            return Err(Status::Invalid);
        }
        self.geometry
            .check(io.offset, u64::from(io.len))
            .map_err(|_| Status::OutOfRange)
    }

    /// Runs `f` on a request whose tag the caller holds.
    pub(crate) fn with_request<R>(&self, tag: u32, f: impl FnOnce(&mut Request) -> R) -> Option<R> {
        let mut request = self.requests.adopt(tag as usize)?;
        let result = f(&mut request);
        request.into_index();
        Some(result)
    }

    /// What counts of a request when messages are filled.
    pub(crate) fn part(&self, tag: u32) -> Part {
        let data = self.with_request(tag, |request| request.data).flatten();
        data.map_or(Part::default(), |data| Part {
            data: data.len(),
            segments: data.entries(),
            head: u32::from(!data.starts_aligned()),
            tail: u32::from(!data.ends_aligned()),
        })
    }

    /// The set of lanes of a consumer's queue.
    pub(crate) fn set(&self, queue: u32) -> usize {
        (queue as usize).checked_rem(self.singles()).unwrap_or(0)
    }

    /// The set of lanes for single requests.
    fn singles(&self) -> usize {
        self.sets.len().saturating_sub(1)
    }

    /// Ways of this configuration, see [`lane`].
    pub(crate) fn ways(&self) -> usize {
        1 + self.legs.len()
    }

    /// The header of a message to `leg`.
    pub(crate) fn header(&self, leg: usize) -> Header {
        let leg = &self.legs[leg];
        Header {
            pool: self.pool,
            member: leg.member,
            incarnation: leg.incarnation,
            generation: self.config.generation,
            epoch: self.config.epoch,
            watermark: self.window.watermark(),
        }
    }

    /// Sends a request that nothing is in the way of.
    pub(crate) fn start(this: &Entered<Self>, tag: u32, last: bool) {
        if this.has_failed() {
            return Self::finish(this, tag, Status::Io);
        }
        let route = this.with_request(tag, |request| {
            let set = if request.alone {
                this.singles()
            } else {
                request.set
            };
            if request.op == IoOp::Read {
                let leg = this.reader(set, request.tried);
                return (leg.map(|leg| 1 + leg).ok_or(Status::Io), set);
            }
            if request.op.is_write() && request.seq.is_none() {
                match this.window.issue() {
                    Some(seq) => request.seq = seq,
                    None => return (Err(Status::OutOfWindow), set),
                }
            }
            (Ok(lane::ALL), set)
        });
        match route {
            Some((Ok(way), set)) => lane::add(this, set, way, tag, last),
            Some((Err(Status::OutOfWindow), _)) => exception::again(this, tag),
            Some((Err(status), _)) => Self::finish(this, tag, status),
            None => {}
        }
    }

    /// The leg to read from, other than those `tried`.
    fn reader(&self, set: usize, tried: MemberSet) -> Option<usize> {
        let policy = Policy::from_bits(self.policy.load(Relaxed));
        let candidates = self.config.in_sync.minus(tried);
        let first = set * self.ways();
        let cursor = &self.sets[set].turn;
        let mut turn = cursor.load(Relaxed);
        let member = policy.pick(candidates, &mut turn, |member| {
            self.place(member).map_or(u32::MAX, |leg| {
                self.lanes[first + 1 + leg].with(|lane| lane.load())
            })
        })?;
        cursor.store(turn, Relaxed);
        self.place(member)
    }

    /// Where in `legs` a member is.
    fn place(&self, member: MemberId) -> Option<usize> {
        self.legs.iter().position(|leg| leg.member == member)
    }

    /// Answers a request and starts those that it was in the way of.
    pub(crate) fn finish(this: &Entered<Self>, tag: u32, status: Status) {
        let mut ready = TagList::new();
        this.answer(tag, status, &mut ready);
        while let Some(next) = ready.pop(&this.links) {
            // A loop, not a recursion: of a failed volume, all that were held end here one after the other.
            if this.has_failed() {
                this.answer(next, Status::Io, &mut ready);
            } else {
                Self::start(this, next, true);
            }
        }
    }

    fn answer(&self, tag: u32, status: Status, ready: &mut TagList) {
        let Some(request) = self.requests.adopt(tag as usize) else {
            return;
        };
        if status.is_ok() && request.seq.is_some() {
            self.window.complete(request.seq);
        }
        if request.op != IoOp::Flush {
            self.overlap
                .remove(tag, |held| ready.push(&self.links, held));
        }
        drop(request);
        // From here on the tag is free.
        self.consumer.complete(tag, status);
    }

    /// Whether everything is answered with errors.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Answers everything with errors from now on.
    /// `false` if it did already.
    pub(crate) fn fail(&self) -> bool {
        !self.failed.xchg(true, Relaxed)
    }
}
