// SPDX-License-Identifier: GPL-2.0

//! Bounds: of the time a request waits, of the time until the pool is healthy again, of frozen IO, and of the effort
//! (R17 to R20).
//!
//! * A request is answered within `io_timeout + io_slack`, not counting the time in which the device held IO because there is
//!   no data (`on_no_data=suspend`).
//! * After the last fault is healed, every member is in sync within `heal`, and every request is answered.
//! * IO is frozen no longer than the caller says is due: a round trip, the drain of what is in flight, at promotion
//!   a flush (R18).
//! * Of messages that are not IO, of metadata writes and of log lines there are no more than so many in a second. A pull
//!   that brought what its member has not pulled under the same configuration is not counted: of those there are no
//!   more than a store has chunks, and R17 wants them as fast as they can be.

use crate::violation::Rule;
use crate::violation::Seconds;
use crate::violation::Time;
use crate::violation::Violation;
use std::collections::BTreeMap;

/// The bounds; times in ns.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Bounds {
    /// The pool's `io_timeout`.
    pub io_timeout: Time,
    /// How much longer a request may take.
    pub io_slack: Time,
    /// From healing until everything is in sync.
    pub heal: Time,
    /// Control and peer messages per second.
    pub messages: u64,
    /// Metadata writes per second, of one member.
    pub metadata_writes: u64,
    /// Log lines per second, of one host.
    pub log_lines: u64,
}

/// Things counted per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counted {
    /// Control and peer messages, of the whole pool.
    Message,
    /// Metadata writes of this member.
    MetadataWrite(u8),
    /// Log lines of this host (0: the client).
    LogLine(u8),
}

const SECOND: Time = 1_000_000_000;

/// A request under way.
#[derive(Clone, Debug, Hash)]
struct Waiting {
    since: Time,
    /// What `held` had added up to when it began.
    held: Time,
}

/// Watches the bounds.
#[derive(Clone, Debug, Hash)]
pub struct Liveness {
    bounds: Bounds,
    waiting: BTreeMap<u64, Waiting>,
    /// Time in which IO was held, and since when it is.
    held: Time,
    held_since: Option<Time>,
    healed: Option<Time>,
    in_sync: bool,
    frozen: Option<Time>,
    /// Which second is counted, and how many.
    counts: BTreeMap<Counted, (u64, u64)>,
    longest: Time,
    longest_freeze: Time,
    violations: Vec<Violation>,
}

impl Liveness {
    /// Nothing has happened.
    pub fn new(bounds: Bounds) -> Liveness {
        Liveness {
            bounds,
            waiting: BTreeMap::new(),
            held: 0,
            held_since: None,
            healed: None,
            in_sync: false,
            frozen: None,
            counts: BTreeMap::new(),
            longest: 0,
            longest_freeze: 0,
            violations: Vec::new(),
        }
    }

    /// A request begins.
    pub fn invoked(&mut self, time: Time, op: u64) {
        let held = self.held_until(time);
        self.waiting.insert(op, Waiting { since: time, held });
    }

    /// It is answered.
    pub fn returned(&mut self, time: Time, op: u64) {
        let held = self.held_until(time);
        let Some(waiting) = self.waiting.remove(&op) else {
            return;
        };
        let waited = time
            .saturating_sub(waiting.since)
            .saturating_sub(held.saturating_sub(waiting.held));
        self.longest = self.longest.max(waited);
        if waited > self.bounds.io_timeout.saturating_add(self.bounds.io_slack) {
            let what = format!("#{op} waited {}", Seconds(waited));
            self.violate(Rule::Slow, time, what);
        }
    }

    /// The client is gone: its requests will never be answered.
    pub fn gone(&mut self, ops: impl IntoIterator<Item = u64>) {
        for op in ops {
            self.waiting.remove(&op);
        }
    }

    /// The device holds IO for want of data, or no longer.
    pub fn held(&mut self, time: Time, is_held: bool) {
        self.held = self.held_until(time);
        self.held_since = is_held.then_some(time);
    }

    /// The last fault is healed.
    pub fn healed(&mut self, time: Time) {
        self.healed = Some(time);
        self.in_sync = false;
    }

    /// Whether all members are in sync now.
    pub fn in_sync(&mut self, time: Time, all: bool) {
        if let (true, Some(healed)) = (all && !self.in_sync, self.healed) {
            let took = time.saturating_sub(healed);
            if took > self.bounds.heal {
                self.violate(
                    Rule::Stuck,
                    time,
                    format!("in sync only {} after healing", Seconds(took)),
                );
            }
        }
        self.in_sync = all;
    }

    /// Not all members are in sync, and none of the others can be, as things are now.
    pub fn excuse(&mut self) {
        self.in_sync = true;
    }

    /// One more.
    pub fn count(&mut self, time: Time, what: Counted) {
        let second = time / SECOND;
        let entry = self.counts.entry(what).or_insert((second, 0));
        if entry.0 != second {
            *entry = (second, 0);
        }
        entry.1 += 1;
        let limit = match what {
            Counted::Message => self.bounds.messages,
            Counted::MetadataWrite(_) => self.bounds.metadata_writes,
            Counted::LogLine(_) => self.bounds.log_lines,
        };
        // Once, not for each.
        if entry.1 == limit.saturating_add(1) {
            self.violate(
                Rule::Storm,
                time,
                format!("more than {limit} in second {second}: {what:?}"),
            );
        }
    }

    /// One of those counted in this second was progress, of which there is an end: it does not count.
    pub fn uncount(&mut self, time: Time, what: Counted) {
        if let Some((second, count)) = self.counts.get_mut(&what) {
            if *second == time / SECOND {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// The host of the client that asked does nothing at all for so long: that time is not the engine's.
    pub fn paused(&mut self, ops: impl IntoIterator<Item = u64>, span: Time) {
        for op in ops {
            if let Some(waiting) = self.waiting.get_mut(&op) {
                waiting.since = waiting.since.saturating_add(span);
            }
        }
    }

    /// The same, of the client whose IO may be frozen.
    pub fn freeze_paused(&mut self, span: Time) {
        if let Some(since) = &mut self.frozen {
            *since = since.saturating_add(span);
        }
    }

    /// The client whose IO was frozen is gone, or another one has taken over: nobody waits for the end of that.
    pub fn forget_freeze(&mut self) {
        self.frozen = None;
    }

    /// IO of the client is frozen.
    pub fn freeze(&mut self, time: Time) {
        self.frozen.get_or_insert(time);
    }

    /// It is not; `due` is how long it may have been.
    pub fn thaw(&mut self, time: Time, due: Time) {
        let Some(since) = self.frozen.take() else {
            return;
        };
        let frozen = time.saturating_sub(since);
        self.longest_freeze = self.longest_freeze.max(frozen);
        if frozen > due {
            let what = format!("frozen for {}, due are {}", Seconds(frozen), Seconds(due));
            self.violate(Rule::Frozen, time, what);
        }
    }

    /// The longest time a request waited.
    pub fn longest(&self) -> Time {
        self.longest
    }

    /// The longest time IO was frozen.
    pub fn longest_freeze(&self) -> Time {
        self.longest_freeze
    }

    /// What is wrong at the end, and was before.
    pub fn finish(mut self, time: Time) -> Vec<Violation> {
        if let Some(healed) = self.healed {
            if !self.in_sync {
                let what = format!(
                    "not in sync {} after healing",
                    Seconds(time.saturating_sub(healed))
                );
                self.violate(Rule::Stuck, time, what);
            }
            if let Some((op, waiting)) = self.waiting.iter().next() {
                let what = format!(
                    "{} requests not answered; #{op} since {}",
                    self.waiting.len(),
                    Seconds(waiting.since)
                );
                self.violate(Rule::Stuck, time, what);
            }
        }
        self.violations
    }

    /// What was wrong since the last call.
    pub fn take(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.violations)
    }

    fn held_until(&mut self, time: Time) -> Time {
        self.held
            + self
                .held_since
                .map_or(0, |since| time.saturating_sub(since))
    }

    fn violate(&mut self, rule: Rule, time: Time, what: String) {
        self.violations.push(Violation::new(rule, time, what));
    }
}
