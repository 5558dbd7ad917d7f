// SPDX-License-Identifier: GPL-2.0

//! The requests in flight: the hot path of a client, lock-free and shared by all CPUs.
//!
//! One `Flight` for each tag, and in it one word that decides: who has yet to acknowledge, and three flags.
//!
//! ```text
//!        start                       last acknowledgement, no HOLD
//!  idle ────────► BUSY, pending ──────────────────────────────────► idle
//!    GATE set: parked     └─ last acknowledgement, HOLD: stays BUSY with nobody pending until it is reopened
//! ```
//!
//! To *shut*, the coordinator sets GATE in every word, to *freeze* HOLD as well; to *reopen* it clears them. A start
//! is one compare-and-swap from the idle word it read first. If the gate was shut meanwhile, that fails; if it was shut
//! and reopened, that fails too, for reopening changes the serial number in the word. Thus whatever a start reads of
//! the configuration between is either what is in force, or not used; the configuration changes only while all are shut.
//! (The swap of a start that succeeds comes before that of the shutting coordinator, which acquires what the start
//! released: so nothing the coordinator writes afterwards can have been read by that start.)
//!
//! Reads are completed even while frozen: what they read was current when they were sent.
//!
//! Not here: overlapping requests ([`overlap`](crate::overlap)), which are to be held back before they are started.

use super::extents::Extents;
use super::extents::Touched;
use crate::memory::Memory;
use crate::memory::NoMemory;
use crate::planted::on;
use crate::planted::Bug;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::window::Window;
use crate::window::WINDOW;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::Generation;
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::MAX_MEMBERS;

const PENDING: u64 = u32::MAX as u64;
const BUSY: u64 = 1 << 32;
const GATE: u64 = 1 << 33;
const HOLD: u64 = 1 << 34;
const SERIAL_SHIFT: u32 = 40;
const SERIAL: u64 = !0 << SERIAL_SHIFT;

/// Kinds of flights: as [`Op`], and a read whose data is being written where it could not be read.
const READ: u32 = Op::Read as u32;
const FLUSH: u32 = Op::Flush as u32;
const REPAIR: u32 = 64;

/// One use of a tag. An answer to an earlier use is recognised by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Which tag.
    pub tag: u32,
    /// Which use of it.
    pub serial: u32,
}

/// A request to be sent to some members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sending {
    /// The request.
    pub ticket: Ticket,
    /// To whom.
    pub targets: MemberSet,
    /// What to send: a read that repairs is sent as a write.
    pub op: Op,
    /// The number of a write; none for others.
    pub seq: Seq,
    /// Generation under which it is sent.
    pub generation: Generation,
    /// Epoch under which it is sent.
    pub epoch: Epoch,
}

/// Answer to a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Start {
    /// Send it.
    Send(Sending),
    /// Not now. Put the tag on a list, then try once more; try those on the list again when the pool opens, and when an
    /// acknowledgement says that there is room.
    Parked,
    /// The request ends so.
    Fail(Status),
}

/// Answer to an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Acked {
    /// What it means for the request.
    pub ack: Ack,
    /// Requests that were parked should try again.
    pub room: bool,
    /// To be told to the coordinator.
    pub hint: Option<Hint>,
}

/// What an acknowledgement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Others have yet to answer, or the pool is frozen.
    Pending,
    /// The request is complete; the tag is free.
    Complete(Status),
    /// Not expected any more.
    Ignored,
    /// The coordinator decides.
    Exception,
    /// The read is good; but as another member could not read it, its data is to be written to these before the read
    /// completes. The request has a new ticket.
    Repair(Sending),
}

/// What the coordinator is told by the hot path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hint {
    /// No write is above the watermark.
    Idle,
    /// A request ended behind a shut gate.
    Ended,
}

/// The request of one tag.
#[repr(align(64))]
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
struct Flight {
    word: AtomicU64,
    seq: AtomicU64,
    offset: AtomicU64,
    /// Of a flush: the watermark when it was sent.
    covers: AtomicU64,
    len: AtomicU32,
    kind: AtomicU32,
    /// Members whose copy of the request came back without a final answer.
    stalled: AtomicU32,
    /// Of a read: members that failed to answer it.
    tried: AtomicU32,
    /// Those of them that have bad blocks there.
    bad: AtomicU32,
    /// How often the coordinator has looked at it since it was started.
    age: AtomicU32,
    /// How it will end, if a write failed on the last member in sync: wire form of a status.
    failed: AtomicU32,
}

impl Flight {
    fn new() -> Self {
        Self {
            // Shut until the pool is attached.
            word: AtomicU64::new(GATE | HOLD),
            seq: AtomicU64::new(0),
            offset: AtomicU64::new(0),
            covers: AtomicU64::new(0),
            len: AtomicU32::new(0),
            kind: AtomicU32::new(READ),
            stalled: AtomicU32::new(0),
            tried: AtomicU32::new(0),
            bad: AtomicU32::new(0),
            age: AtomicU32::new(0),
            failed: AtomicU32::new(0),
        }
    }

    fn op(&self) -> Op {
        match self.kind.peek() {
            READ => Op::Read,
            FLUSH => Op::Flush,
            kind if kind == Op::WriteZeroes as u32 => Op::WriteZeroes,
            _ => Op::Write,
        }
    }

    fn is_read(&self) -> bool {
        self.kind.peek() == READ
    }
}

/// What all CPUs read and only the coordinator writes, while the gate is shut.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
struct Shared {
    pool: [AtomicU64; 2],
    generation: AtomicU64,
    nonce: AtomicU64,
    epoch: AtomicU64,
    receivers: AtomicU32,
    /// In sync; those among them that cannot be reached just now may be left out at any time.
    readers: AtomicU32,
    /// Wire form of the status with which every request fails; 0: none.
    failing: AtomicU32,
    incarnations: [AtomicU64; MAX_MEMBERS],
}

/// The hot path of one volume. All public calls: any context; lock-free.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub struct Data<M: Memory> {
    flights: M::Array<Flight>,
    window: Window<M::Array<AtomicU64>>,
    /// The extents of each number in the window.
    touched: M::Array<AtomicU64>,
    extents: Extents<M>,
    shared: Shared,
    /// Every write up to this one is stable on every receiver.
    stable: AtomicU64,
    /// Was a request parked for want of room?
    waiting: AtomicU32,
    /// Was the coordinator told that the pool is idle?
    told_idle: AtomicU32,
}

const fn bit(member: MemberId) -> u64 {
    MemberSet::only(member).bits() as u64
}

const fn pending(word: u64) -> MemberSet {
    MemberSet::from_bits((word & PENDING) as u32)
}

const fn next_serial(word: u64) -> u64 {
    (word & SERIAL).wrapping_add(1 << SERIAL_SHIFT)
}

const fn serial(word: u64) -> u32 {
    (word >> SERIAL_SHIFT) as u32
}

impl<M: Memory> Data<M> {
    /// The hot path of a volume that is not attached, for tags below `depth`.
    pub fn new(memory: &M, depth: usize) -> Result<Self, NoMemory> {
        let zero = |_| AtomicU64::new(0);
        Ok(Self {
            flights: memory.array(depth, |_| Flight::new())?,
            window: Window::new(memory.array(WINDOW, zero)?).ok_or(NoMemory)?,
            touched: memory.array(WINDOW, zero)?,
            extents: Extents::new(memory)?,
            shared: Shared {
                pool: [AtomicU64::new(0), AtomicU64::new(0)],
                generation: AtomicU64::new(0),
                nonce: AtomicU64::new(0),
                epoch: AtomicU64::new(0),
                receivers: AtomicU32::new(0),
                readers: AtomicU32::new(0),
                failing: AtomicU32::new(0),
                incarnations: core::array::from_fn(|_| AtomicU64::new(0)),
            },
            stable: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            told_idle: AtomicU32::new(0),
        })
    }

    /// Starts a write, write-zeroes, or flush (of range 0, 0). The tag is the caller's and free.
    pub fn write(&self, tag: u32, op: Op, offset: u64, len: u32) -> Start {
        let Some(flight) = self.flights.get(tag as usize) else {
            return Start::Fail(Status::Invalid);
        };
        if op == Op::Read {
            return Start::Fail(Status::Invalid);
        }
        loop {
            let old = flight.word.load();
            if let Some(refused) = self.refused(old) {
                return refused;
            }
            let mut seq = Seq::NONE;
            if op.is_write() {
                let Some(number) = self.number(Touched::of(offset, len)) else {
                    self.waiting.store(1);
                    return Start::Parked;
                };
                seq = number;
            }
            self.fill(flight, op as u32, seq, offset, len);
            let targets = if op == Op::Flush && on(Bug::FlushOnlyInSync) {
                self.readers()
            } else {
                self.receivers()
            };
            if let Some(sending) = self.launch(flight, tag, old, targets, op, seq) {
                return Start::Send(sending);
            }
            // The gate was touched meanwhile. Nobody has heard of the number.
            if seq.is_some() {
                self.end_number(seq);
            }
        }
    }

    /// Starts a read; `pick` chooses who answers it.
    pub fn read(
        &self,
        tag: u32,
        offset: u64,
        len: u32,
        pick: impl FnOnce(MemberSet) -> Option<MemberId>,
    ) -> Start {
        let Some(flight) = self.flights.get(tag as usize) else {
            return Start::Fail(Status::Invalid);
        };
        let mut pick = Some(pick);
        let mut reader = None;
        loop {
            let old = flight.word.load();
            if let Some(refused) = self.refused(old) {
                return refused;
            }
            let readers = self.readers();
            if let Some(pick) = pick.take() {
                reader = pick(readers);
            }
            let reader = match reader.filter(|id| readers.contains(*id)) {
                Some(reader) => reader,
                None => match readers.iter().next() {
                    Some(reader) => reader,
                    None => return Start::Fail(Status::Disconnected),
                },
            };
            self.fill(flight, READ, Seq::NONE, offset, len);
            let reader = MemberSet::only(reader);
            if let Some(sending) = self.launch(flight, tag, old, reader, Op::Read, Seq::NONE) {
                return Start::Send(sending);
            }
        }
    }

    /// Why a start cannot be made from this word.
    fn refused(&self, word: u64) -> Option<Start> {
        if word & BUSY != 0 {
            return Some(Start::Fail(Status::Invalid));
        }
        if word & GATE == 0 {
            return None;
        }
        let failing = self.shared.failing.load();
        Some(match Status::from_wire(failing as u16) {
            Some(status) if failing != 0 => Start::Fail(status),
            _ => Start::Parked,
        })
    }

    fn fill(&self, flight: &Flight, kind: u32, seq: Seq, offset: u64, len: u32) {
        flight.kind.poke(kind);
        flight.seq.poke(seq.0);
        flight.offset.poke(offset);
        flight.len.poke(len);
        flight.covers.poke(self.window.watermark().0);
        flight.stalled.poke(0);
        flight.tried.poke(0);
        flight.bad.poke(0);
        flight.age.poke(0);
        flight.failed.poke(0);
    }

    /// From the word `old` to a new use of the tag.
    fn launch(
        &self,
        flight: &Flight,
        tag: u32,
        old: u64,
        targets: MemberSet,
        op: Op,
        seq: Seq,
    ) -> Option<Sending> {
        let word = next_serial(old) | BUSY | u64::from(targets.bits());
        let sending = self.sending(tag, word, targets, op, seq);
        flight.word.cas(old, word).ok()?;
        Some(sending)
    }

    fn sending(&self, tag: u32, word: u64, targets: MemberSet, op: Op, seq: Seq) -> Sending {
        Sending {
            ticket: Ticket {
                tag,
                serial: serial(word),
            },
            targets,
            op,
            seq,
            generation: self.generation(),
            epoch: self.epoch(),
        }
    }

    /// An answer of a member.
    pub fn ack(&self, ticket: Ticket, member: MemberId, status: Status) -> Acked {
        let mut acked = Acked {
            ack: Ack::Ignored,
            room: false,
            hint: None,
        };
        let Some(flight) = self.flights.get(ticket.tag as usize) else {
            return acked;
        };
        let mut old = flight.word.load();
        loop {
            if !is_current(old, ticket) || old & bit(member) == 0 {
                return acked;
            }
            if !status.is_ok() {
                acked.ack = Ack::Exception;
                return acked;
            }
            let mut new = old & !bit(member);
            let is_read = flight.is_read();
            let mut is_last = new & PENDING == 0;
            if on(Bug::CompleteWithoutCatchingUp) {
                is_last = pending(new).intersection(self.readers()).is_empty();
            }
            if on(Bug::CompleteOnFirst) {
                is_last = true;
            }
            let ends = is_last && (old & HOLD == 0 || is_read);
            if ends && is_read && flight.bad.peek() != 0 && old & GATE == 0 {
                if let Some(sending) = self.repair(flight, ticket.tag, old) {
                    acked.ack = Ack::Repair(sending);
                    return acked;
                }
                old = flight.word.load();
                flight.bad.poke(0);
                continue;
            }
            if ends {
                new &= !(BUSY | PENDING);
            }
            // Of no use any more once the word is idle: the tag is the next one's.
            let (seq, covers) = (Seq(flight.seq.peek()), flight.covers.peek());
            let is_flush = flight.kind.peek() == FLUSH;
            match flight.word.cas(old, new) {
                Ok(_) if ends => {
                    acked.ack = Ack::Complete(Status::Ok);
                    if is_flush {
                        self.note_stable(covers);
                    }
                    if seq.is_some() {
                        acked.room = self.end_number(seq);
                        acked.hint = self.idle_hint();
                    }
                    if old & GATE != 0 {
                        acked.hint = Some(Hint::Ended);
                    }
                    return acked;
                }
                Ok(_) => {
                    acked.ack = Ack::Pending;
                    return acked;
                }
                Err(now) => old = now,
            }
        }
    }

    /// Turns a read into a write of what was read; `None` if there is no room, or the gate was shut.
    fn repair(&self, flight: &Flight, tag: u32, old: u64) -> Option<Sending> {
        let seq = self.number(Touched::of(flight.offset.peek(), flight.len.peek()))?;
        flight.seq.poke(seq.0);
        flight.kind.poke(REPAIR);
        flight.age.poke(0);
        let sending = self.launch(flight, tag, old, self.receivers(), Op::Write, seq);
        if sending.is_none() {
            flight.kind.poke(READ);
            flight.seq.poke(0);
            self.end_number(seq);
        }
        sending
    }

    /// A number for a write, and room for its extents; `None` if there is none now.
    fn number(&self, touched: Touched) -> Option<Seq> {
        if !self.extents.take(touched) {
            return None;
        }
        let Some(seq) = self.window.issue() else {
            self.extents.give(touched);
            return None;
        };
        // Its place is free: the watermark passed the number that had it.
        if let Some(place) = self.place(seq) {
            place.store(touched.0);
        }
        Some(seq)
    }

    /// The write of this number is over. True if parked requests should try again.
    fn end_number(&self, seq: Seq) -> bool {
        let mut passed = false;
        self.window.complete_each(
            seq,
            |seq| Touched(self.place(seq).map_or(0, |place| place.load())),
            |touched| {
                self.extents.give(touched);
                passed = true;
            },
        );
        passed && self.waiting.load() != 0 && self.waiting.cas(1, 0).is_ok()
    }

    fn place(&self, seq: Seq) -> Option<&AtomicU64> {
        self.touched.get(seq.0 as usize & (WINDOW - 1))
    }

    fn note_stable(&self, covers: u64) {
        let mut old = self.stable.load();
        while old < covers {
            match self.stable.cas(old, covers) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    fn idle_hint(&self) -> Option<Hint> {
        let idle = self.window.watermark() == self.window.issued()
            && self.told_idle.load() == 0
            && self.told_idle.cas(0, 1).is_ok();
        idle.then_some(Hint::Idle)
    }

    /// The header of the message that carries `sending` to one of its targets, alone. A batch takes the lowest watermark
    /// of its requests' headers.
    pub fn header(&self, sending: &Sending, to: MemberId) -> Header {
        let mut watermark = self.window.watermark();
        if sending.seq.is_some() {
            // A request that is complete may still be on its way to a member that was dropped.
            watermark = watermark.min(Seq(sending.seq.0 - 1));
        }
        Header {
            pool: self.pool(),
            member: to,
            incarnation: self.incarnation(to),
            generation: sending.generation,
            epoch: sending.epoch,
            watermark,
        }
    }

    /// The number up to which every write is complete.
    pub fn watermark(&self) -> Seq {
        if on(Bug::WatermarkAhead) {
            return self.window.issued();
        }
        self.window.watermark()
    }

    /// Members that get every write.
    pub fn receivers(&self) -> MemberSet {
        MemberSet::from_bits(self.shared.receivers.load())
    }

    /// Members that may answer reads.
    pub fn readers(&self) -> MemberSet {
        MemberSet::from_bits(self.shared.readers.load())
    }

    /// The epoch in force.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.shared.epoch.peek())
    }

    /// The generation in force.
    pub fn generation(&self) -> Generation {
        Generation {
            number: self.shared.generation.peek(),
            nonce: self.shared.nonce.peek(),
        }
    }

    fn pool(&self) -> Uuid {
        let [high, low] = &self.shared.pool;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.peek().to_be_bytes());
        bytes[8..].copy_from_slice(&low.peek().to_be_bytes());
        Uuid(bytes)
    }

    fn incarnation(&self, id: MemberId) -> Incarnation {
        let found = self.shared.incarnations.get(id.index());
        found.map_or(Incarnation::NONE, |number| Incarnation(number.peek()))
    }
}

fn is_current(word: u64, ticket: Ticket) -> bool {
    word & BUSY != 0 && serial(word) == ticket.serial
}

/// What the coordinator sees of a request in flight.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Which.
    pub ticket: Ticket,
    /// What is sent of it.
    pub op: Op,
    /// The number of a write.
    pub seq: Seq,
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u32,
    /// Who has yet to acknowledge it.
    pub pending: MemberSet,
    /// Members whose copy came back without a final answer.
    pub stalled: MemberSet,
    /// Of a read: members that could not answer it.
    pub tried: MemberSet,
    /// It ends with an error when the gate is opened.
    pub failed: bool,
}

impl View {
    /// Whether its chunks may differ between members.
    pub fn writes(&self) -> bool {
        self.seq.is_some()
    }
}

/// How a flight goes on when the gate is reopened.
#[derive(Clone, Copy, Debug)]
pub enum Onward {
    /// It waits for these; those of them that are stalled are to be sent to.
    Pending(MemberSet),
    /// It ends.
    End(Status),
}

/// For the coordinator, or whoever stands in for it. Each walks over all tags, or changes what starts read.
impl<M: Memory> Data<M> {
    /// No request starts from now on; with `hold`, no write or flush completes either.
    pub fn shut(&self, hold: bool) {
        let flags = match hold {
            true if on(Bug::NoGate) => HOLD,
            true => GATE | HOLD,
            false => GATE,
        };
        for flight in self.flights.iter() {
            let mut old = flight.word.load();
            while let Err(now) = flight.word.cas(old, old | flags) {
                old = now;
            }
        }
    }

    /// What is in flight.
    pub fn views(&self) -> impl Iterator<Item = View> + '_ {
        (0..self.flights.len()).filter_map(|tag| self.view_at(tag as u32))
    }

    /// What is in flight, from a tag on.
    pub(super) fn views_from(&self, tag: usize) -> impl Iterator<Item = View> + '_ {
        (tag..self.flights.len()).filter_map(|tag| self.view_at(tag as u32))
    }

    fn view_at(&self, tag: u32) -> Option<View> {
        let flight = self.flights.get(tag as usize)?;
        let word = flight.word.load();
        (word & BUSY != 0).then(|| View {
            ticket: Ticket {
                tag,
                serial: serial(word),
            },
            op: flight.op(),
            seq: Seq(flight.seq.peek()),
            offset: flight.offset.peek(),
            len: flight.len.peek(),
            pending: pending(word),
            stalled: MemberSet::from_bits(flight.stalled.peek()),
            tried: MemberSet::from_bits(flight.tried.peek()),
            failed: flight.failed.peek() != 0,
        })
    }

    /// The request of a ticket, if it is still in flight.
    pub(super) fn view(&self, ticket: Ticket) -> Option<View> {
        self.view_at(ticket.tag)
            .filter(|view| view.ticket == ticket)
    }

    /// A copy of the request came back and is to be sent again, later or now.
    pub(super) fn stall(&self, ticket: Ticket, member: MemberId, stalled: bool) {
        if let Some(flight) = self.flights.get(ticket.tag as usize) {
            let old = MemberSet::from_bits(flight.stalled.peek());
            let new = if stalled {
                old.with(member)
            } else {
                old.without(member)
            };
            flight.stalled.poke(new.bits());
        }
    }

    /// A member failed to answer a read; `bad`: because of bad blocks.
    pub(super) fn note_tried(&self, ticket: Ticket, member: MemberId, bad: bool) {
        if let Some(flight) = self.flights.get(ticket.tag as usize) {
            let member = MemberSet::only(member).bits();
            flight.tried.poke(flight.tried.peek() | member);
            if bad {
                flight.bad.poke(flight.bad.peek() | member);
            }
        }
    }

    /// All members may be asked again.
    pub(super) fn forget_tried(&self, ticket: Ticket) {
        if let Some(flight) = self.flights.get(ticket.tag as usize) {
            flight.tried.poke(0);
        }
    }

    /// A write failed for good; it ends so when the gate is reopened.
    pub(super) fn note_failed(&self, ticket: Ticket, status: Status) {
        if let Some(flight) = self.flights.get(ticket.tag as usize) {
            flight.failed.poke(u32::from(status.wire()));
        }
    }

    /// How a write failed, if it did.
    pub(super) fn failure(&self, ticket: Ticket) -> Option<Status> {
        let flight = self.flights.get(ticket.tag as usize)?;
        let failed = flight.failed.peek();
        if failed == 0 {
            return None;
        }
        if flight.kind.peek() == REPAIR {
            // What was read is good.
            return Some(Status::Ok);
        }
        Status::from_wire(failed as u16)
    }

    /// One more look at it; returns how many there were, this one included.
    pub(super) fn look(&self, ticket: Ticket) -> u32 {
        self.flights.get(ticket.tag as usize).map_or(0, |flight| {
            let age = flight.age.peek().saturating_add(1);
            flight.age.poke(age);
            age
        })
    }

    /// Lets a read wait for another member; returns what to send.
    pub(super) fn redirect(&self, ticket: Ticket, reader: MemberId) -> Option<Sending> {
        let flight = self.flights.get(ticket.tag as usize)?;
        flight.stalled.poke(0);
        let mut old = flight.word.load();
        loop {
            if !is_current(old, ticket) {
                return None;
            }
            let new = (old & !PENDING) | bit(reader);
            match flight.word.cas(old, new) {
                Ok(_) => return self.again(ticket, MemberSet::only(reader)),
                Err(now) => old = now,
            }
        }
    }

    /// What to send of a request once more.
    pub(super) fn again(&self, ticket: Ticket, targets: MemberSet) -> Option<Sending> {
        let flight = self.flights.get(ticket.tag as usize)?;
        let word = flight.word.load();
        is_current(word, ticket).then(|| {
            let seq = Seq(flight.seq.peek());
            self.sending(ticket.tag, word, targets, flight.op(), seq)
        })
    }

    /// Ends a request; true if it was in flight. None of its copies is with a transport any more.
    pub(super) fn end(&self, ticket: Ticket, good: bool) -> bool {
        let Some(flight) = self.flights.get(ticket.tag as usize) else {
            return false;
        };
        let (seq, covers) = (Seq(flight.seq.peek()), flight.covers.peek());
        let is_flush = flight.kind.peek() == FLUSH;
        let mut old = flight.word.load();
        loop {
            if !is_current(old, ticket) {
                return false;
            }
            match flight.word.cas(old, old & !(BUSY | PENDING)) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        if seq.is_some() {
            self.end_number(seq);
        }
        if good && is_flush {
            self.note_stable(covers);
        }
        true
    }

    /// Opens the gate. `onward` says of each request in flight how it goes on; `ended` and `send` hear what follows.
    pub fn reopen(
        &self,
        mut onward: impl FnMut(&View) -> Onward,
        mut ended: impl FnMut(Ticket, Status),
        mut send: impl FnMut(Sending),
    ) {
        for tag in 0..self.flights.len() as u32 {
            let Some(flight) = self.flights.get(tag as usize) else {
                continue;
            };
            if let Some(view) = self.view_at(tag) {
                match onward(&view) {
                    Onward::End(status) => {
                        if self.end(view.ticket, status.is_ok()) {
                            ended(view.ticket, status);
                        }
                    }
                    Onward::Pending(members) => self.go_on(flight, &view, members, &mut send),
                }
            }
            let mut old = flight.word.load();
            loop {
                let mut new = old & !(GATE | HOLD);
                if old & BUSY == 0 {
                    // Starts that read the configuration before fail.
                    new = (new & !SERIAL) | next_serial(old);
                } else if pending(old).is_empty() {
                    // The last acknowledgement came while it was held.
                    let ticket = Ticket {
                        tag,
                        serial: serial(old),
                    };
                    if self.end(ticket, true) {
                        ended(ticket, Status::Ok);
                    }
                    old = flight.word.load();
                    continue;
                }
                match flight.word.cas(old, new) {
                    Ok(_) => break,
                    Err(now) => old = now,
                }
            }
        }
    }

    fn go_on(
        &self,
        flight: &Flight,
        view: &View,
        members: MemberSet,
        send: &mut impl FnMut(Sending),
    ) {
        let mut old = flight.word.load();
        loop {
            // Acknowledged meanwhile, or to be acknowledged anew.
            let more = members.minus(view.pending);
            let keep = pending(old).intersection(members).union(more);
            if !is_current(old, view.ticket) {
                break;
            }
            let new = (old & !PENDING) | u64::from(keep.bits());
            match flight.word.cas(old, new) {
                Ok(_) => {
                    let stalled = MemberSet::from_bits(flight.stalled.peek());
                    let targets = stalled.intersection(keep).union(more);
                    flight.stalled.poke(stalled.minus(targets).bits());
                    if let Some(sending) = self
                        .again(view.ticket, targets)
                        .filter(|sending| !sending.targets.is_empty())
                    {
                        send(sending);
                    }
                    break;
                }
                Err(now) => old = now,
            }
        }
    }

    /// Puts a configuration in force. The gate is shut.
    pub fn adopt(&self, pool: &Uuid, config: &Config, log_extents: u32) {
        let shared = &self.shared;
        let mut halves = [[0; 8]; 2];
        halves[0].copy_from_slice(&pool.0[..8]);
        halves[1].copy_from_slice(&pool.0[8..]);
        for (cell, half) in shared.pool.iter().zip(halves) {
            cell.poke(u64::from_be_bytes(half));
        }
        shared.generation.poke(config.generation.number);
        shared.nonce.poke(config.generation.nonce);
        shared.epoch.poke(config.epoch.0);
        for (cell, incarnation) in shared.incarnations.iter().zip(&config.incarnations) {
            cell.poke(incarnation.0);
        }
        self.extents.set_log(log_extents);
        shared.receivers.store(config.receivers().bits());
        let readers = if on(Bug::ReadFromCatchingUp) {
            config.receivers()
        } else {
            config.in_sync
        };
        self.set_readers(readers);
        shared.failing.store(0);
    }

    /// Who may answer reads: all in sync, or some of them.
    pub(super) fn set_readers(&self, readers: MemberSet) {
        self.shared.readers.store(readers.bits());
    }

    /// Every request fails so from now on; the gate is shut. `None`: they are parked.
    pub(super) fn set_failing(&self, status: Option<Status>) {
        let wire = status.map_or(0, |status| u32::from(status.wire()));
        self.shared.failing.store(wire);
    }

    /// Whether every write that was acknowledged is stable on every receiver.
    pub(super) fn all_stable(&self) -> bool {
        self.window.none_complete_above(Seq(self.stable.load()))
    }

    /// The number of the last write.
    pub(super) fn issued(&self) -> Seq {
        self.window.issued()
    }

    /// The next time the pool is idle, the coordinator is to be told.
    pub(super) fn rearm_idle(&self) {
        self.told_idle.store(0);
    }
}
