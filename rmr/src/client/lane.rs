// SPDX-License-Identifier: GPL-2.0

//! How requests gather into messages, and the messages of one batch on their way.
//!
//! A *way* is whom a message goes to: way 0 is all receivers, way 1 + n is leg n alone, for reads. There is a
//! *set* of lanes, one for each way, for each queue of the consumer, which has one per CPU if it is wise; a
//! further set sends requests one by one, those whose batch failed. A lane has a few batches; a batch is the
//! same requests to every leg of its way, one message for each leg. When a batch leaves and how much it takes
//! is the engine's decision (`rmr_engine::lane`); permits for all legs are taken before anything is sent.
//!
//! Locks: a lane's, then a batch's. Nothing is sent or completed under either.

use super::core::Core;
use super::core::Counter;
use super::exception;
use super::exception::Exceptions;
use super::tags::TagList;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use rmr_engine::anticipation::Expiry;
use rmr_engine::lane;
use rmr_engine::lane::Caps;
use rmr_engine::lane::Class;
use rmr_engine::lane::Event;
use rmr_engine::sync::Guarded;
use rmr_proto::BatchEncoder;
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

/// The way that everything but reads takes.
pub(crate) const ALL: usize = 0;

/// Batches of a lane.
const BATCHES: usize = lane::IN_FLIGHT as usize;

/// Where the requests of one CPU and way gather.
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

/// What the lanes of a set have in common. On a cache line of its own, since it is written for each request.
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

/// What the confirmation of a message needs to know.
pub(crate) struct Sent {
    /// Keeps the data path alive while the message is on its way.
    core: Option<Entered<Core>>,
    batch: u32,
    leg: u32,
}

/// Requests that travel together.
pub(crate) struct Batch {
    tags: [u32; MAX_BATCH],
    len: usize,
    class: Class,
    /// Messages not confirmed, and not yet sent.
    pending: u32,
    /// The first message that failed: to which leg, and how.
    failure: Option<(usize, Status)>,
    /// The message to each leg of the way, while it is not on its way.
    messages: KVec<Option<KBox<Message<Sent>>>>,
}

/// How the message of a request failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    /// Place of the leg in the configuration.
    pub(crate) leg: usize,
    /// What the member, or the transport, said.
    pub(crate) status: Status,
    /// Requests in the message.
    pub(crate) batch: u16,
}

/// Lanes and batches for `sets` queues of the consumer and `legs` legs. May sleep.
pub(crate) fn build(
    sets: usize,
    legs: usize,
    caps: Caps,
) -> Result<(IrqLocks<Lane>, IrqLocks<Batch>)> {
    let ways = 1 + legs;
    let shared = sets * ways;
    let lanes = new_irq_locks!(shared + ways, |index| {
        let requests = if index < shared { caps.requests } else { 1 };
        Lane::new(Caps { requests, ..caps })
    })?;
    // All messages first: making the locks cannot fail half-way.
    let count = lanes.len() * BATCHES;
    let mut made = KVVec::with_capacity(count, GFP_KERNEL)?;
    for index in (0..count).rev() {
        let way = index / BATCHES % ways;
        let width = if way == ALL { legs } else { 1 };
        let mut messages = KVec::with_capacity(width, GFP_KERNEL)?;
        for place in 0..width {
            let sent = Sent {
                core: None,
                batch: index as u32,
                leg: if way == ALL { place } else { way - 1 } as u32,
            };
            let message = Message::new(usize::from(caps.segments), sent)?;
            messages.push(Some(message), GFP_KERNEL)?;
        }
        made.push(messages, GFP_KERNEL)?;
    }
    let batches = new_irq_locks!(count, |_| Batch {
        tags: [0; MAX_BATCH],
        len: 0,
        class: Class::Small,
        pending: 0,
        failure: None,
        messages: made.pop().unwrap_or_default(),
    })?;
    Ok((lanes, batches))
}

/// The timers of so many lanes. May sleep.
pub(crate) fn timers(
    lanes: usize,
    exceptions: &Arc<Exceptions>,
) -> Result<KVVec<Timer<Exceptions>>> {
    let mut timers = KVVec::with_capacity(lanes, GFP_KERNEL)?;
    for index in 0..lanes {
        timers.push(Timer::new(exceptions.clone(), index, expired)?, GFP_KERNEL)?;
    }
    Ok(timers)
}

/// Hands a request that may be sent to the lane of `way` in a set.
pub(crate) fn add(core: &Entered<Core>, set: usize, way: usize, tag: u32, last: bool) {
    let index = set * core.ways() + way;
    let part = core.part(tag);
    let class = core.lanes[index].with(|lane| {
        let class = lane.counters.queue(&part)?;
        lane.queue(class).push(&core.links, tag);
        Some(class)
    });
    if class.is_none() {
        return Core::finish(core, tag, Status::Invalid);
    }
    pump(core, index, Event::Arrival { last });
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

/// Sends what has gathered in a set.
pub(crate) fn kick(core: &Entered<Core>, set: usize) {
    let first = set * core.ways();
    for index in first..first + core.ways() {
        pump(core, index, Event::Kick);
    }
}

/// Sends the batches that found no permit. `true` if some still find none.
pub(crate) fn retry_stalled(core: &Entered<Core>) -> bool {
    let mut some = false;
    for index in 0..core.lanes.len() {
        let stalled = core.lanes[index].with(|lane| core::mem::take(&mut lane.stalled));
        for slot in (0..BATCHES).filter(|slot| stalled & 1 << slot != 0) {
            some |= !send(core, index * BATCHES + slot);
        }
        if stalled != 0 {
            // If nothing could be sent, no completion will ask.
            pump(core, index, Event::Kick);
        }
    }
    some
}

/// The timer of a lane has run down; returns the nanoseconds for which it is to be set again.
fn expired(exceptions: &Arc<Exceptions>, index: usize) -> Option<u64> {
    let core = exceptions.core.enter()?;
    let expiry = core.lanes[index].with(|lane| {
        let expiry = lane.counters.expired(now_ns());
        lane.timed = matches!(expiry, Expiry::Later(_));
        expiry
    });
    match expiry {
        Expiry::AtRest => None,
        Expiry::Later(ns) => Some(ns),
        Expiry::Over => {
            pump(&core, index, Event::Completion);
            None
        }
    }
}

/// Sends what the engine wants sent from a lane.
fn pump(core: &Entered<Core>, index: usize, mut event: Event) {
    while let Some((batch, more)) = gather(core, index, event) {
        if !send(core, batch) {
            exception::stalled(core);
        }
        if !more {
            break;
        }
        event = Event::Kick;
    }
}

/// Moves requests from the queues of a lane to a batch, if it is time to; the index of the batch, and whether something
/// is still queued.
fn gather(core: &Entered<Core>, index: usize, event: Event) -> Option<(usize, bool)> {
    core.lanes[index].with(|lane| {
        let take = lane.counters.decide(event)?;
        let count = usize::from(take.requests).min(MAX_BATCH);
        if lane.free == 0 {
            return None;
        }
        let slot = lane.free.trailing_zeros() as usize;
        lane.free &= !(1 << slot);
        let batch = index * BATCHES + slot;
        core.batches[batch].with(|b| {
            b.len = 0;
            b.class = take.class;
            b.failure = None;
            while b.len < count {
                let Some(tag) = lane.queue(take.class).pop(&core.links) else {
                    break;
                };
                b.tags[b.len] = tag;
                b.len += 1;
            }
        });
        let rest = lane.small.iter(&core.links).map(|tag| core.part(tag));
        lane.counters.sent(now_ns(), take.class, rest);
        Some((batch, lane.counters.queued() > 0))
    })
}

/// Sends a batch; `false` if there are not permits for all of its legs, then it is marked as stalled.
fn send(core: &Entered<Core>, batch: usize) -> bool {
    let index = batch / BATCHES;
    let legs = match index % core.ways() {
        ALL => 0..core.legs.len(),
        way => way - 1..way,
    };
    let mut permits = [const { None::<Permit> }; MAX_MEMBERS];
    for (leg, permit) in core.legs[legs.clone()].iter().zip(&mut permits) {
        *permit = leg.session.permit();
        if permit.is_none() {
            // Other lanes, or other pools on the same session, have them all.
            core.lanes[index].with(|lane| lane.stalled |= 1 << (batch % BATCHES));
            return false;
        }
    }
    let mut parked = [const { None::<KBox<Message<Sent>>> }; MAX_MEMBERS];
    let (tags, len) = core.batches[batch].with(|b| {
        b.pending = legs.len() as u32;
        for (message, place) in parked.iter_mut().zip(&mut b.messages) {
            *message = place.take();
        }
        (b.tags, b.len)
    });
    let tags = &tags[..len];
    let dir = if index % core.ways() == ALL {
        Dir::Write
    } else {
        Dir::Read
    };
    let (requests, messages) = match dir {
        Dir::Write => (Counter::Writes, Counter::WriteMessages),
        Dir::Read => (Counter::Reads, Counter::ReadMessages),
    };
    core.counters.add(requests as usize, len as u64);
    core.counters.add(messages as usize, 1);
    let mut body = [0; MAX_BATCH_BYTES];
    let mut encoder = BatchEncoder::new(&mut body);
    for &tag in tags {
        core.with_request(tag, |request| encoder.push(&request.wire()));
    }
    // After the last message the batch may be over, and be somebody else's.
    for (place, leg) in legs.enumerate() {
        let (Some(permit), Some(mut message)) = (permits[place].take(), parked[place].take())
        else {
            settle(core, batch, Some((leg, Status::Disconnected)), None);
            continue;
        };
        message.clear();
        for &tag in tags {
            core.with_request(tag, |r| r.data.map(|data| message.push_data(&data)));
        }
        message.ctx_mut().core = Some(core.again());
        let (status, message) = match encoder.finish::<KernelCrc>(&core.header(leg)) {
            Ok(header) => match core.legs[leg].session.send(permit, message, dir, header) {
                Ok(()) => continue,
                Err(refused) => (Status::Disconnected, refused.message),
            },
            Err(_) => (Status::Invalid, message),
        };
        settle(core, batch, Some((leg, status)), Some(message));
    }
    true
}

impl Confirm for Sent {
    fn confirmed(mut message: KBox<Message<Self>>, permit: Permit, result: Result<(), Errno>) {
        drop(permit);
        let sent = message.ctx_mut();
        let Some(core) = sent.core.take() else {
            return;
        };
        let (batch, leg) = (sent.batch as usize, sent.leg as usize);
        let failure = result
            .err()
            .map(|errno| (leg, Status::from_errno(i32::from(errno.number()))));
        if let Some(event) = settle(&core, batch, failure, Some(message)) {
            // What gathered meanwhile leaves together.
            pump(&core, batch / BATCHES, event);
        }
    }
}

/// A message of a batch is over, and is parked. The last one ends the batch: then the event for its lane, if something
/// is queued there.
fn settle(
    core: &Entered<Core>,
    batch: usize,
    failure: Option<(usize, Status)>,
    mut message: Option<KBox<Message<Sent>>>,
) -> Option<Event> {
    if let Some(message) = &mut message {
        message.ctx_mut().core = None;
    }
    let over = core.batches[batch].with(|b| {
        if let Some(message) = message.take() {
            let place = match b.messages.len() {
                1 => 0,
                _ => message.ctx().leg as usize,
            };
            b.messages[place] = Some(message);
        }
        b.failure = b.failure.or(failure);
        b.pending -= 1;
        (b.pending == 0).then_some((b.tags, b.len, b.class, b.failure))
    });
    let (tags, len, class, failure) = over?;
    let (event, wait) = core.lanes[batch / BATCHES].with(|lane| {
        lane.free |= 1 << (batch % BATCHES);
        // At most MAX_BATCH.
        let (event, wait) = lane.counters.completed(now_ns(), class, len as u16);
        // A timer that is set for an earlier wait finds out by itself.
        let wait = wait.filter(|_| !core::mem::replace(&mut lane.timed, true));
        ((lane.counters.queued() > 0).then_some(event), wait)
    });
    if let Some(ns) = wait {
        core.timers[batch / BATCHES].set(ns);
    }
    for &tag in &tags[..len] {
        match failure {
            None => Core::finish(core, tag, Status::Ok),
            Some((leg, status)) => {
                let failure = Failure {
                    leg,
                    status,
                    // At most MAX_BATCH.
                    batch: len as u16,
                };
                exception::failed(core, tag, failure);
            }
        }
    }
    event
}
