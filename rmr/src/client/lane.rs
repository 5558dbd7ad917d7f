// SPDX-License-Identifier: GPL-2.0

//! How requests gather into messages, and the messages of one batch on their way.
//!
//! A *way* is whom a message goes to: all receivers, or one leg, for reads. Each way has a lane for each queue of the
//! consumer, which has one per CPU if it is wise. A lane has a few batches; a batch is the same requests to every target
//! of its way, one message for each, under one epoch. When a batch leaves and how much it takes is the engine's decision
//! (`rmr_engine::lane`); permits for all targets are taken before anything is sent. A message that fails is taken
//! apart: its requests go singly ([`leg`](super::leg)), with the numbers they had.
//!
//! Locks: a lane's, then a batch's. Nothing is sent or completed under either.

use super::core::Core;
use super::driver::Driver;
use super::leg::Home;
use super::leg::Leg;
use super::session::Open;
use super::tags::TagList;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use rmr_engine::anticipation::Expiry;
use rmr_engine::client::Sending;
use rmr_engine::client::Ticket;
use rmr_engine::lane;
use rmr_engine::lane::Caps;
use rmr_engine::lane::Class;
use rmr_engine::lane::Event;
use rmr_engine::lane::Part;
use rmr_engine::sync::Guarded;
use rmr_proto::BatchEncoder;
use rmr_proto::MemberId;
use rmr_proto::Status;
use rmr_proto::MAX_BATCH;
use rmr_proto::MAX_BATCH_BYTES;
use rmr_proto::MAX_MEMBERS;
use rmr_sys::crc::KernelCrc;
use rmr_sys::gate::Entered;
use rmr_sys::lock::IrqLocks;
use rmr_sys::new_irq_locks;
use rmr_sys::time::now_ns;
use rmr_sys::timer::Timer;
use rtrs::Confirm;
use rtrs::Dir;
use rtrs::Errno;
use rtrs::Message;
use rtrs::Permit;

/// Batches of a lane.
const BATCHES: usize = lane::IN_FLIGHT as usize;

const NO_TICKET: Ticket = Ticket { tag: 0, serial: 0 };

/// Where the requests of one queue and way gather.
pub(crate) struct Lane {
    counters: lane::Lane,
    small: TagList,
    large: TagList,
    /// Batches that are free, by bit.
    free: u32,
    /// Batches that are filled but found no permit, by bit.
    stalled: u32,
    /// The timer of the lane is set.
    timed: bool,
}

impl Lane {
    fn new(caps: Caps) -> Self {
        Self {
            counters: lane::Lane::new(caps),
            small: TagList::new(),
            large: TagList::new(),
            free: (1 << BATCHES) - 1,
            stalled: 0,
            timed: false,
        }
    }

    fn queue(&mut self, class: Class) -> &mut TagList {
        match class {
            Class::Small => &mut self.small,
            Class::Large => &mut self.large,
        }
    }

    /// What the read policy compares: messages.
    pub(crate) fn load(&self) -> u32 {
        self.counters.load()
    }
}

/// What the lanes of a queue have in common. On a cache line of its own, since it is written for each request.
#[repr(align(64))]
pub(crate) struct Set {
    /// Requests that said that more follow may be queued.
    plugged: Atomic<bool>,
    /// Cursor of the read policy.
    pub(crate) turn: Atomic<u32>,
}

impl Set {
    /// Nothing is queued.
    pub(crate) fn new() -> Self {
        Self {
            plugged: Atomic::new(false),
            turn: Atomic::new(0),
        }
    }
}

/// Requests that travel together.
struct Batch {
    tickets: [Ticket; MAX_BATCH],
    len: usize,
    class: Class,
    /// Messages not confirmed, and not yet sent.
    pending: u32,
}

/// The lanes of one way, one for each queue.
pub(crate) struct Lanes {
    lanes: IrqLocks<Lane>,
    /// [`BATCHES`] for each lane.
    batches: IrqLocks<Batch>,
    /// One for each lane.
    timers: KVVec<Timer<Driver>>,
}

impl Lanes {
    /// Lanes for `sets` queues, of the way to one leg or (`None`) to all. May sleep.
    pub(crate) fn new(
        sets: usize,
        caps: Caps,
        driver: &Arc<Driver>,
        leg: Option<MemberId>,
    ) -> Result<Self> {
        let way = leg.map_or(0, |id| 1 + id.index());
        let mut timers = KVVec::with_capacity(sets, GFP_KERNEL)?;
        for set in 0..sets {
            let key = set * WAYS + way;
            timers.push(Timer::new(driver.clone(), key, expired)?, GFP_KERNEL)?;
        }
        Ok(Self {
            lanes: new_irq_locks!(sets, |_| Lane::new(caps))?,
            batches: new_irq_locks!(sets * BATCHES, |_| Batch {
                tickets: [NO_TICKET; MAX_BATCH],
                len: 0,
                class: Class::Small,
                pending: 0,
            })?,
            timers,
        })
    }

    /// Places for batches.
    pub(crate) fn places(&self) -> usize {
        self.batches.len()
    }

    /// What is under way, or about to be, in the lane of a queue.
    pub(crate) fn load(&self, set: usize) -> u32 {
        self.lanes[set].with(|lane| lane.load())
    }

    fn tickets(&self, place: usize) -> ([Ticket; MAX_BATCH], usize) {
        self.batches[place].with(|batch| (batch.tickets, batch.len))
    }
}

/// Keys of timers: ways there may be, a power of two.
const WAYS: usize = 64;

/// A way: to all receivers, or to one leg.
#[derive(Clone, Copy)]
pub(crate) enum Way<'a> {
    All,
    One(&'a Entered<Leg>),
}

impl<'a> Way<'a> {
    fn lanes(self, core: &'a Entered<Core>) -> &'a Lanes {
        match self {
            Self::All => &core.writes,
            Self::One(leg) => &leg.reads,
        }
    }

    fn home(self, place: usize) -> Home {
        match self {
            Self::All => Home::Write(place),
            Self::One(_) => Home::Read(place),
        }
    }
}

/// What the confirmation of a message needs to know.
pub(crate) struct Sent {
    /// Keep the data path alive while the message is on its way.
    core: Option<Entered<Core>>,
    leg: Option<Entered<Leg>>,
    pub(crate) home: Home,
    /// Of a single request: which.
    ticket: Ticket,
}

impl Sent {
    /// Of a message with this place.
    pub(crate) fn at(home: Home) -> Self {
        Self {
            core: None,
            leg: None,
            home,
            ticket: NO_TICKET,
        }
    }

    /// The message is about to be sent.
    pub(crate) fn start(&mut self, core: &Entered<Core>, leg: &Entered<Leg>, ticket: Ticket) {
        self.core = Some(core.again());
        self.leg = Some(leg.again());
        self.ticket = ticket;
    }

    /// It was not.
    pub(crate) fn stop(&mut self) {
        self.core = None;
        self.leg = None;
    }
}

/// Hands a request that may be sent to the lane of a queue.
pub(crate) fn add(
    core: &Entered<Core>,
    set: usize,
    way: Way<'_>,
    tag: u32,
    part: &Part,
    last: bool,
) {
    let class = way.lanes(core).lanes[set].with(|lane| {
        let class = lane.counters.queue(part)?;
        lane.queue(class).push(&core.links, tag);
        Some(class)
    });
    if class.is_none() {
        // It fits no message. That is checked when it is submitted; so a member is other than it was.
        return Core::cannot_send(core, tag);
    }
    pump(core, way, set, Event::Arrival { last });
    // The end of a plug is the end for all lanes that its requests went to. Relaxed will do: whoever sees the flag set
    // takes the lanes' locks after that, and so finds what was queued before it was set.
    let plugged = &core.sets[set].plugged;
    if !last {
        plugged.store(true, Relaxed);
    } else if plugged.load(Relaxed) {
        plugged.store(false, Relaxed);
        kick(core, set);
    }
}

/// Sends what has gathered of a queue.
pub(crate) fn kick(core: &Entered<Core>, set: usize) {
    pump(core, Way::All, set, Event::Kick);
    for leg in core.legs() {
        pump(core, Way::One(&leg), set, Event::Kick);
    }
}

/// Some batch or single found no permit: the job asks again.
pub(crate) fn stalled(core: &Core) {
    core.stalled.store(true, Relaxed);
    core.job.queue();
}

/// Sends what found no permit. `true` if some still find none.
pub(crate) fn retry_stalled(core: &Entered<Core>) -> bool {
    let mut some = retry_way(core, Way::All);
    for leg in core.legs() {
        some |= retry_way(core, Way::One(&leg));
        some |= Leg::pump(&leg, core);
    }
    some
}

fn retry_way(core: &Entered<Core>, way: Way<'_>) -> bool {
    let lanes = way.lanes(core);
    let mut some = false;
    for set in 0..lanes.lanes.len() {
        let stalled = lanes.lanes[set].with(|lane| core::mem::take(&mut lane.stalled));
        for slot in (0..BATCHES).filter(|slot| stalled & 1 << slot != 0) {
            some |= send(core, way, set * BATCHES + slot).is_err();
        }
        if stalled != 0 {
            // If nothing could be sent, no completion will ask.
            pump(core, way, set, Event::Kick);
        }
    }
    some
}

/// The timer of a lane has run down; returns the nanoseconds for which it is to be set again.
fn expired(driver: &Arc<Driver>, key: usize) -> Option<u64> {
    let core = driver.core.enter()?;
    let (set, way) = (key / WAYS, key & (WAYS - 1));
    let leg = match way.checked_sub(1) {
        Some(index) => Some(core.leg(MemberId::from_index(index)?)?),
        None => None,
    };
    let way = leg.as_ref().map_or(Way::All, Way::One);
    let expiry = way.lanes(&core).lanes[set].with(|lane| {
        let expiry = lane.counters.expired(now_ns());
        lane.timed = matches!(expiry, Expiry::Later(_));
        expiry
    });
    match expiry {
        Expiry::AtRest => None,
        Expiry::Later(ns) => Some(ns),
        Expiry::Over => {
            pump(&core, way, set, Event::Completion);
            None
        }
    }
}

/// Sends what the engine wants sent from a lane.
fn pump(core: &Entered<Core>, way: Way<'_>, set: usize, mut event: Event) {
    while let Some((place, more)) = gather(core, way, set, event) {
        event = match send(core, way, place) {
            // It is over already, as nothing could leave, and nobody else sees to what was queued meanwhile.
            Ok(Some(next)) => next,
            sent => {
                if sent.is_err() {
                    stalled(core);
                }
                if !more {
                    break;
                }
                Event::Kick
            }
        };
    }
}

/// Moves requests from the queues of a lane to a batch, if it is time to; the place of the batch, and whether something
/// is still queued.
fn gather(core: &Entered<Core>, way: Way<'_>, set: usize, event: Event) -> Option<(usize, bool)> {
    let lanes = way.lanes(core);
    lanes.lanes[set].with(|lane| {
        let take = lane.counters.decide(event)?;
        let count = usize::from(take.requests).min(MAX_BATCH);
        if lane.free == 0 {
            return None;
        }
        let slot = lane.free.trailing_zeros() as usize;
        lane.free &= !(1 << slot);
        let place = set * BATCHES + slot;
        lanes.batches[place].with(|b| {
            b.len = 0;
            b.class = take.class;
            while b.len < count {
                let Some(tag) = lane.queue(take.class).pop(&core.links) else {
                    break;
                };
                b.tickets[b.len] = core.sending(tag).ticket;
                b.len += 1;
            }
        });
        let rest = lane.small.iter(&core.links).map(|tag| core.part(tag));
        lane.counters.sent(now_ns(), take.class, rest);
        Some((place, lane.counters.queued() > 0))
    })
}

/// What a message to one leg needs.
struct Seat {
    leg: Entered<Leg>,
    session: Open,
    permit: Permit,
    message: KBox<Message<Sent>>,
}

type Seats = [Option<Seat>; MAX_MEMBERS];

/// Takes permits for all targets; `false` if one has none just now. A leg without connection gets no seat.
fn take_seats(
    core: &Entered<Core>,
    way: Way<'_>,
    place: usize,
    sending: &Sending,
    seats: &mut Seats,
) -> bool {
    for (id, seat) in sending.targets.iter().zip(seats) {
        let Some(leg) = core.leg(id).filter(|leg| leg.is_usable()) else {
            continue;
        };
        let Some(session) = leg.session.enter() else {
            continue;
        };
        let Some(permit) = session.permit() else {
            if session.query().is_ok() {
                return false;
            }
            continue;
        };
        *seat = leg.take(way.home(place)).map(|message| Seat {
            leg,
            session,
            permit,
            message,
        });
    }
    true
}

/// Some target has no permit just now.
struct NoPermit;

/// Sends a batch; if there are not permits for all of its targets, it is marked as stalled. If the batch is over when this
/// returns, for want of connections: the event for its lane, if something is queued there.
fn send(core: &Entered<Core>, way: Way<'_>, place: usize) -> Result<Option<Event>, NoPermit> {
    let lanes = way.lanes(core);
    let (tickets, len) = lanes.tickets(place);
    let tickets = &tickets[..len];
    let Some(first) = tickets.first() else {
        return Ok(None);
    };
    let mut head = core.sending(first.tag);
    let mut seats = [const { None::<Seat> }; MAX_MEMBERS];
    if !take_seats(core, way, place, &head, &mut seats) {
        for seat in seats.iter_mut().filter_map(Option::take) {
            seat.leg.keep(seat.message);
        }
        // Other lanes, or other pools on the same session, have them all.
        lanes.lanes[place / BATCHES].with(|lane| lane.stalled |= 1 << (place & (BATCHES - 1)));
        return Err(NoPermit);
    }
    lanes.batches[place].with(|b| b.pending = head.targets.len());
    let dir = match way {
        Way::All => Dir::Write,
        Way::One(_) => Dir::Read,
    };
    core.count(dir, len);
    let mut body = [0; MAX_BATCH_BYTES];
    let mut encoder = BatchEncoder::new(&mut body);
    for ticket in tickets {
        let sending = core.sending(ticket.tag);
        // A message says the lowest watermark that is right for any of its requests.
        if sending.seq.is_some() && (head.seq.is_none() || sending.seq < head.seq) {
            head = sending;
        }
        core.requests.with(ticket.tag as usize, |request| {
            let _ = encoder.push(&request.wire(&sending));
            let data = request.data.filter(|_| sending.op.has_data());
            for seat in seats.iter_mut().flatten() {
                if let Some(data) = &data {
                    let _ = seat.message.push_data(data);
                }
            }
        });
    }
    let mut next = None;
    // After the last message the batch may be over, and be somebody else's.
    for (id, seat) in head.targets.iter().zip(&mut seats) {
        let Some(seat) = seat.take() else {
            next = settle_without(core, way, place, id);
            continue;
        };
        let (leg, mut message) = (seat.leg, seat.message);
        message.ctx_mut().start(core, &leg, NO_TICKET);
        let status = match encoder.finish::<KernelCrc>(&core.data.header(&head, id)) {
            Ok(header) => match seat.session.send(seat.permit, message, dir, header) {
                Ok(()) => continue,
                Err(refused) => leg.refused(refused),
            },
            Err(_) => {
                message.ctx_mut().stop();
                leg.keep(message);
                Status::Invalid
            }
        };
        next = settle(core, way, place, &leg, status);
    }
    Ok(next)
}

impl Confirm for Sent {
    fn confirmed(mut message: KBox<Message<Self>>, permit: Permit, result: Result<(), Errno>) {
        drop(permit);
        let sent = message.ctx_mut();
        let (Some(core), Some(leg)) = (sent.core.take(), sent.leg.take()) else {
            return;
        };
        let (home, ticket) = (sent.home, sent.ticket);
        leg.keep(message);
        let status = match result {
            Ok(()) => Status::Ok,
            Err(errno) => Status::from_errno(i32::from(errno.number())),
        };
        let (way, place) = match home {
            Home::Single(slot) => return Leg::single_back(&leg, &core, slot, ticket, status),
            Home::Write(place) => (Way::All, place),
            Home::Read(place) => (Way::One(&leg), place),
        };
        if let Some(event) = settle(&core, way, place, &leg, status) {
            // What gathered meanwhile leaves together.
            pump(&core, way, place / BATCHES, event);
        }
    }
}

/// A message of a batch is over. The last one ends the batch: then the event for its lane, if something is queued there.
fn settle(
    core: &Entered<Core>,
    way: Way<'_>,
    place: usize,
    leg: &Entered<Leg>,
    status: Status,
) -> Option<Event> {
    let (tickets, len) = way.lanes(core).tickets(place);
    let event = one_less(core, way, place);
    let apart = len > 1 && is_of_one(status);
    for ticket in &tickets[..len] {
        if apart {
            leg.queue(&core.sending(ticket.tag));
        } else {
            Core::acked(core, leg, *ticket, status);
        }
    }
    if apart && Leg::pump(leg, core) {
        stalled(core);
    }
    event
}

/// A batch cannot be sent to a member that has no leg, or none that can be used.
#[cold]
#[inline(never)]
fn settle_without(core: &Entered<Core>, way: Way<'_>, place: usize, id: MemberId) -> Option<Event> {
    if let Some(leg) = core.leg(id) {
        return settle(core, way, place, &leg, Status::Disconnected);
    }
    // The coordinator notices that the member does not answer.
    let (tickets, len) = way.lanes(core).tickets(place);
    let event = one_less(core, way, place);
    for ticket in &tickets[..len] {
        Core::release(core, ticket.tag, 1);
    }
    event
}

/// Whether a status may be that of one request only of a message.
const fn is_of_one(status: Status) -> bool {
    matches!(
        status,
        Status::Io
            | Status::Medium
            | Status::NoSpace
            | Status::NotSupported
            | Status::Invalid
            | Status::OutOfRange
            | Status::ReadOnly
            | Status::BelowWatermark
    )
}

fn one_less(core: &Entered<Core>, way: Way<'_>, place: usize) -> Option<Event> {
    let lanes = way.lanes(core);
    let over = lanes.batches[place].with(|b| {
        b.pending -= 1;
        (b.pending == 0).then_some((b.class, b.len))
    });
    let (class, len) = over?;
    let (event, wait) = lanes.lanes[place / BATCHES].with(|lane| {
        lane.free |= 1 << (place & (BATCHES - 1));
        // At most MAX_BATCH.
        let (event, wait) = lane.counters.completed(now_ns(), class, len as u16);
        // A timer that is set for an earlier wait finds out by itself.
        let wait = wait.filter(|_| !core::mem::replace(&mut lane.timed, true));
        ((lane.counters.queued() > 0).then_some(event), wait)
    });
    if let Some(ns) = wait {
        lanes.timers[place / BATCHES].set(ns);
    }
    event
}
