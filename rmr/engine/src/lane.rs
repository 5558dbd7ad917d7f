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
//! * a lane that became idle waits a moment for as many requests as were just completed (`anticipation`).
//!
//! So nothing waits without a cause that ends: either a message is in flight, whose completion asks again,
//! or a plug is open, whose end asks again, or a timer runs.
//!
//! The caller owns the queue, under the lane's lock; [`Lane`] does the counting:
//!
//! ```text
//! push to the queue; lane.queue(part) ─┐
//! lane.completed(), set the timer      ├─► while let Some(n) = lane.decide(event):
//! end of a plug, a permit              │       take n from the queue; lane.sent(what is left in it); send; event = Kick
//! the timer: lane.expired()            ┘
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

/// Messages of one lane in flight, unless told otherwise. More than two or three are there only if they are full, as with
/// large requests; each costs a scatterlist for each leg.
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
    /// Messages of one lane in flight.
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
}

impl Fill {
    /// An empty message.
    pub const fn new() -> Self {
        Self {
            requests: 0,
            data: 0,
            segments: 0,
            tail: 0,
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
        if gap || self.requests >= caps.requests || data > caps.data || segments > caps.segments {
            return Fit::Next;
        }
        *self = Self {
            requests: self.requests + 1,
            data,
            segments,
            tail: if part.data != 0 { part.tail } else { self.tail },
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
    in_flight: u16,
    queued: u32,
    /// The first requests of the queue, as the message they would make.
    head: Fill,
    /// The request after those of `head` does not fit.
    closed: bool,
    anticipation: Anticipation,
}

impl Lane {
    /// An idle lane. An in-flight cap of 0 is taken as 1.
    pub const fn new(caps: Caps) -> Self {
        let in_flight = if caps.in_flight == 0 {
            1
        } else {
            caps.in_flight
        };
        Self {
            caps: Caps { in_flight, ..caps },
            in_flight: 0,
            queued: 0,
            head: Fill::new(),
            closed: false,
            anticipation: Anticipation::new(),
        }
    }

    /// Counts a request that was put at the end of the queue. `false`: it fits no message and must not be there.
    pub fn queue(&mut self, part: &Part) -> bool {
        if Fill::new().add(&self.caps, part) != Fit::Added {
            return false;
        }
        self.queued = self.queued.saturating_add(1);
        if !self.closed {
            self.closed = self.head.add(&self.caps, part) != Fit::Added;
        }
        true
    }

    /// Should the first `n` requests of the queue leave as one message? `None`: not now.
    pub fn decide(&mut self, event: Event) -> Option<u16> {
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
        match decide(
            self.in_flight,
            self.caps.in_flight,
            self.queued,
            full,
            event,
        ) {
            Decision::Send => Some(self.head.requests),
            Decision::Wait => None,
        }
    }

    /// Counts the message that [`Self::decide`] asked for as in flight, since `now`. `rest`: what is still queued.
    pub fn sent(&mut self, now: u64, rest: impl IntoIterator<Item: Borrow<Part>>) {
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

    /// Counts a message, of so many requests, as no longer in flight. If the lane is to wait for more, the
    /// nanoseconds until [`Self::expired`] must be called.
    pub fn completed(&mut self, now: u64, requests: u16) -> Option<u64> {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight > 0 {
            return None;
        }
        self.anticipation
            .completed(now, requests, self.queued, self.caps.requests)
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
        self.in_flight
    }

    /// Requests queued.
    pub fn queued(&self) -> u32 {
        self.queued
    }
}
