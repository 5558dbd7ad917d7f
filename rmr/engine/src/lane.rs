// SPDX-License-Identifier: GPL-2.0

//! When requests leave together in one message (design.md section 3).
//!
//! A *lane* is one CPU's queue of requests of one direction to one leg (writes: to all legs). What costs is the
//! number of messages, so:
//!
//! * a request that finds its lane idle leaves at once, alone;
//! * while messages are in flight requests gather; what has gathered leaves when a message completes, or when it
//!   fills a message, as long as fewer than [`Caps::in_flight`] are in flight;
//! * while the submitter says that more requests follow in the same plug (`last == false`), an idle lane waits for
//!   the rest, or for the kick at the end of the plug;
//! * a lane that became idle waits a moment for as many requests as were just completed (`anticipation`);
//! * a request of which no two fit into one message (*large*) gains nothing by waiting: it leaves at once and alone, and
//!   nothing waits for it. So what is a bit larger than a message, and was split by the block layer, leaves as a large
//!   request, while its small rest gathers with those of others.
//!
//! So nothing waits without a cause that ends: either a message is in flight, whose completion asks again,
//! or a plug is open, whose end asks again, or a timer runs.
//!
//! The caller owns the queues, one for each [`Class`], under the lane's lock; [`Lane`] does the counting:
//!
//! ```text
//! lane.queue(part): push to its queue  ─┐
//! lane.completed(), set the timer       ├─► while let Some(take) = lane.decide(event):
//! end of a plug, a permit               │       take from the queue; lane.sent(what is left in it); send; event = Kick
//! the timer: lane.expired()             ┘
//! ```
//!
//! (`Kick` for the second and later rounds: one completion is followed by one message, and by more only if they
//! are full.)

use crate::anticipation::Anticipation;
use crate::anticipation::Expiry;
use core::borrow::Borrow;

/// Boundary at which the data of two requests in one message must meet, and memory of one be contiguous but for
/// multiples of it: the page of the RDMA device's mappings, which have no gaps.
pub const GAP: u32 = 4096;

/// Messages of one lane in flight, unless told otherwise; half of them for each class. More than two or three are there
/// only if they are full, as with large requests; each costs a scatterlist for each leg.
pub const IN_FLIGHT: u16 = 16;

/// What one message can hold, and how many of them may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Requests in a message.
    pub requests: u16,
    /// Bytes of data in a message.
    pub data: u32,
    /// Memory segments in a message.
    pub segments: u16,
    /// Messages of one lane in flight, at least 2: each class has half of them.
    pub in_flight: u16,
}

/// What counts of one request. A request without data (flush, write zeroes) is `Part::default()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Bytes of data.
    pub data: u32,
    /// Memory segments of the data.
    pub segments: u16,
    /// Where in a page of [`GAP`] bytes the data begins in memory.
    pub head: u32,
    /// Where in a page the data ends in memory.
    pub tail: u32,
    /// Only requests of the same group travel together: those of one epoch.
    pub group: u64,
}

/// How a request leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// With others, if there are any.
    #[default]
    Small,
    /// Alone and at once.
    Large,
}

/// What is to leave as one message: the first requests of the queue of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Take {
    /// Whose queue.
    pub class: Class,
    /// How many requests, never 0.
    pub requests: u16,
}

/// Whether a request can join a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It was added.
    Added,
    /// Not to this message, but to the next.
    Next,
    /// Not even to a message of its own.
    Never,
}

/// A message being filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    requests: u16,
    data: u32,
    segments: u16,
    /// Where in a page the data so far ends.
    tail: u32,
    group: u64,
}

impl Fill {
    /// An empty message.
    pub const fn new() -> Self {
        Self {
            requests: 0,
            data: 0,
            segments: 0,
            tail: 0,
            group: 0,
        }
    }

    /// Adds a request if it fits.
    pub fn add(&mut self, caps: &Caps, part: &Part) -> Fit {
        if caps.requests == 0 || part.data > caps.data || part.segments > caps.segments {
            return Fit::Never;
        }
        let gap =
            self.data != 0 && part.data != 0 && (self.tail % GAP != 0 || part.head % GAP != 0);
        // No sum here can overflow: each is of two numbers below a cap of half their width, or checked.
        let (Some(data), Some(segments)) = (
            self.data.checked_add(part.data),
            self.segments.checked_add(part.segments),
        ) else {
            return Fit::Next;
        };
        let other = self.requests != 0 && part.group != self.group;
        let full = self.requests >= caps.requests || data > caps.data || segments > caps.segments;
        if gap || other || full {
            return Fit::Next;
        }
        *self = Self {
            requests: self.requests + 1,
            data,
            segments,
            tail: if part.data != 0 { part.tail } else { self.tail },
            group: part.group,
        };
        Fit::Added
    }

    /// Requests so far.
    pub fn requests(&self) -> u16 {
        self.requests
    }

    /// Bytes of data so far.
    pub fn data(&self) -> u32 {
        self.data
    }

    /// Memory segments so far.
    pub fn segments(&self) -> u16 {
        self.segments
    }

    /// Can no request with data join any more?
    pub fn is_full(&self, caps: &Caps) -> bool {
        self.requests >= caps.requests || self.data >= caps.data || self.segments >= caps.segments
    }
}

/// Why a lane is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request was queued; `last` is false if more of the same plug follow.
    Arrival {
        /// No more requests of this plug follow.
        last: bool,
    },
    /// A message completed.
    Completion,
    /// A plug ended, or something that sending had to wait for (a permit) is there again.
    Kick,
}

/// Answer to [`decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Send a message.
    Send,
    /// A later event will send.
    Wait,
}

/// Does a lane send now? `full`: what is queued fills a message.
pub fn decide(in_flight: u16, cap: u16, queued: u32, full: bool, event: Event) -> Decision {
    let send = match event {
        _ if queued == 0 || in_flight >= cap => false,
        _ if full => true,
        Event::Arrival { last } => in_flight == 0 && last,
        Event::Kick => in_flight == 0,
        Event::Completion => true,
    };
    if send {
        Decision::Send
    } else {
        Decision::Wait
    }
}

/// The counters of one lane.
#[derive(Clone, Debug)]
pub struct Lane {
    caps: Caps,
    /// Messages in flight that each class may have.
    share: u16,
    /// Messages of small requests in flight.
    in_flight: u16,
    /// Small requests queued.
    queued: u32,
    /// The first small requests of the queue, as the message they would make.
    head: Fill,
    /// The request after those of `head` does not fit.
    closed: bool,
    anticipation: Anticipation,
    large_in_flight: u16,
    large_queued: u32,
}

impl Lane {
    /// An idle lane.
    pub const fn new(caps: Caps) -> Self {
        Self {
            caps,
            share: if caps.in_flight < 2 {
                1
            } else {
                caps.in_flight / 2
            },
            in_flight: 0,
            queued: 0,
            head: Fill::new(),
            closed: false,
            anticipation: Anticipation::new(),
            large_in_flight: 0,
            large_queued: 0,
        }
    }

    /// Counts a request; the caller puts it at the end of the queue of this class. `None`: it fits no message and must
    /// not be there.
    pub fn queue(&mut self, part: &Part) -> Option<Class> {
        if Fill::new().add(&self.caps, part) != Fit::Added {
            return None;
        }
        if part.data > self.caps.data / 2 {
            self.large_queued = self.large_queued.saturating_add(1);
            return Some(Class::Large);
        }
        self.queued = self.queued.saturating_add(1);
        if !self.closed {
            self.closed = self.head.add(&self.caps, part) != Fit::Added;
        }
        Some(Class::Small)
    }

    /// Which requests should leave as one message? `None`: none now.
    pub fn decide(&mut self, event: Event) -> Option<Take> {
        if self.large_queued > 0 && self.large_in_flight < self.share {
            return Some(Take {
                class: Class::Large,
                requests: 1,
            });
        }
        let full = self.closed || self.head.is_full(&self.caps);
        // Requests that were awaited, and are there, leave like those that gathered while a message was in flight.
        let event = if self.anticipation.reached(self.queued) {
            Event::Completion
        } else {
            event
        };
        if self.anticipation.waits() && !full {
            return None;
        }
        match decide(self.in_flight, self.share, self.queued, full, event) {
            Decision::Send => Some(Take {
                class: Class::Small,
                requests: self.head.requests,
            }),
            Decision::Wait => None,
        }
    }

    /// Counts the message that [`Self::decide`] asked for as in flight, since `now`. `rest`: what is still queued of
    /// its class.
    pub fn sent(&mut self, now: u64, class: Class, rest: impl IntoIterator<Item: Borrow<Part>>) {
        if class == Class::Large {
            self.large_in_flight = self.large_in_flight.saturating_add(1);
            self.large_queued = self.large_queued.saturating_sub(1);
            return;
        }
        self.anticipation.sent(now);
        self.in_flight = self.in_flight.saturating_add(1);
        self.queued = self.queued.saturating_sub(u32::from(self.head.requests));
        self.head = Fill::new();
        self.closed = false;
        for part in rest {
            if self.head.add(&self.caps, part.borrow()) != Fit::Added {
                self.closed = true;
                return;
            }
        }
    }

    /// Counts a message, of so many requests of a class, as no longer in flight; [`Self::decide`] is to be asked about
    /// the event returned. If the lane is to wait for more, also the nanoseconds until [`Self::expired`] must be called.
    pub fn completed(&mut self, now: u64, class: Class, requests: u16) -> (Event, Option<u64>) {
        if class == Class::Large {
            self.large_in_flight = self.large_in_flight.saturating_sub(1);
            return (Event::Kick, None);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        let wait = (self.in_flight == 0)
            .then(|| {
                self.anticipation
                    .completed(now, requests, self.queued, self.caps.requests)
            })
            .flatten();
        (Event::Completion, wait)
    }

    /// The timer of the lane has run down. When it is [`Expiry::Over`], ask [`Self::decide`] about a `Completion`.
    pub fn expired(&mut self, now: u64) -> Expiry {
        self.anticipation.expired(now)
    }

    /// Is the lane idle, but waits for more? Then its timer must run.
    pub fn waits(&self) -> bool {
        self.anticipation.waits()
    }

    /// Messages in flight.
    pub fn in_flight(&self) -> u16 {
        self.in_flight + self.large_in_flight
    }

    /// Requests queued.
    pub fn queued(&self) -> u32 {
        self.queued.saturating_add(self.large_queued)
    }

    /// Messages in flight, and those that what is queued will make if they are full.
    pub fn load(&self) -> u32 {
        let requests = u32::from(self.caps.requests.max(1));
        u32::from(self.in_flight())
            .saturating_add(self.large_queued)
            .saturating_add(self.queued.checked_div(requests).unwrap_or(0))
    }
}
