// SPDX-License-Identifier: GPL-2.0

//! Whether a lane that has just become idle waits for more requests.
//!
//! Whoever keeps 16 requests in flight answers the completion of 16 with 16 new ones, but one by one: the first would
//! find its lane idle and leave alone, and the others would wait for that message. So after a message of *n*
//! requests the lane expects *n* more, and sends when they are there: messages of 16 instead of 1, 15, 1, 15.
//!
//! ```text
//!            completed: expects n more                 queued reaches the target: a hit
//!   at rest ───────────────────────────► waiting ──────────────────────────────────────► at rest
//!                                           │  the deadline passes: a miss                  ▲
//!                                           └───────────────────────────────────────────────┘
//! ```
//!
//! It waits at most half of what a message takes, and never for a single request, so depth 1 pays nothing. A
//! submitter that does not answer like that costs a few misses: each halves the trust, and without trust nothing is
//! awaited but for a trial now and then.
//!
//! Not here: what is queued, and the timer. Times are in nanoseconds of any monotonic clock.

use core::cmp;

/// Longest wait, in nanoseconds.
const MAX_WAIT: u64 = 2_000_000;
/// A shorter wait is not worth a timer, in nanoseconds.
const MIN_WAIT: u64 = 2_000;
/// A wait is a message's round trip shifted by this.
const WAIT_SHIFT: u32 = 1;
/// Weight of a new round trip in the average: 1/8.
const SMOOTH_SHIFT: u32 = 3;
/// Longest round trip that is taken for one, in nanoseconds.
const MAX_ROUND_TRIP: u64 = 1_000_000_000;
/// Trust to begin with, and the most there can be.
const TRUST: u8 = 4;
const MAX_TRUST: u8 = 8;
/// Chances that are passed over without trust before there is a trial.
const PAUSE: u8 = 32;

/// What became of a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Expiry {
    /// Nothing is awaited any more.
    AtRest,
    /// Something else is awaited by now, for so many nanoseconds.
    Later(u64),
    /// The wait is over.
    Over,
}

/// What one lane awaits.
#[derive(Clone, Debug)]
pub struct Anticipation {
    /// Queued requests that end the wait; 0 at rest.
    target: u32,
    deadline: u64,
    sent_at: u64,
    /// Average time of a message, 0 while unknown.
    round_trip: u64,
    trust: u8,
    passed_over: u8,
}

impl Anticipation {
    /// At rest.
    pub const fn new() -> Self {
        Self {
            target: 0,
            deadline: 0,
            sent_at: 0,
            round_trip: 0,
            trust: TRUST,
            passed_over: 0,
        }
    }

    /// The lane sends a message.
    pub fn sent(&mut self, now: u64) {
        self.target = 0;
        self.sent_at = now;
    }

    /// The last message in flight, of `answered` requests, is complete, and `queued` gathered meanwhile; a message
    /// holds `most`. For how long to wait, if at all.
    pub fn completed(&mut self, now: u64, answered: u16, queued: u32, most: u16) -> Option<u64> {
        let sample = cmp::min(now.saturating_sub(self.sent_at), MAX_ROUND_TRIP);
        self.round_trip = match self.round_trip {
            0 => sample,
            average => average - (average >> SMOOTH_SHIFT) + (sample >> SMOOTH_SHIFT),
        };
        let target = cmp::min(queued.saturating_add(answered.into()), most.into());
        let wait = cmp::min(self.round_trip >> WAIT_SHIFT, MAX_WAIT);
        if target < 2 || target <= queued || wait < MIN_WAIT || !self.trusts() {
            return None;
        }
        self.target = target;
        self.deadline = now.saturating_add(wait);
        Some(wait)
    }

    fn trusts(&mut self) -> bool {
        if self.trust > 0 {
            return true;
        }
        self.passed_over += 1;
        if self.passed_over < PAUSE {
            return false;
        }
        self.passed_over = 0;
        self.trust = 1;
        true
    }

    /// Is something awaited?
    pub fn waits(&self) -> bool {
        self.target > 0
    }

    /// Ends the wait if that many queued requests are what was awaited.
    pub fn reached(&mut self, queued: u32) -> bool {
        let hit = self.waits() && queued >= self.target;
        if hit {
            self.target = 0;
            self.trust = cmp::min(self.trust + 1, MAX_TRUST);
        }
        hit
    }

    /// The timer that was set for a wait has run down.
    pub fn expired(&mut self, now: u64) -> Expiry {
        if !self.waits() {
            return Expiry::AtRest;
        }
        match self.deadline.checked_sub(now) {
            Some(left) if left > 0 => Expiry::Later(left),
            _ => {
                self.target = 0;
                self.trust >>= 1;
                Expiry::Over
            }
        }
    }
}

impl Default for Anticipation {
    fn default() -> Self {
        Self::new()
    }
}
