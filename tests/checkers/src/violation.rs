// SPDX-License-Identifier: GPL-2.0

//! A rule that was broken, with what broke it.

use std::fmt;

/// Nanoseconds of the clock of the run.
pub type Time = u64;

/// Which promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// The history makes no sense as such (an answer without a request, a number used twice).
    Malformed,
    /// A sector did not behave like a register.
    Register,
    /// A read returned what nobody wrote to this sector.
    Corruption,
    /// A flushed or FUA-written value was lost.
    Durability,
    /// A client that another one replaced acknowledged or wrote something (R8).
    Superseded,
    /// A copy differs and nothing remembers it (R11).
    Unmarked,
    /// Members in sync differ at a quiet moment.
    Unequal,
    /// A write was executed twice, or again below the watermark (R5).
    Twice,
    /// A member executed something of another generation, epoch or incarnation than its own (R5, R8).
    Fencing,
    /// A number of a configuration or generation was used for two (R6, R8).
    Reused,
    /// A configuration has nobody in sync who was in the complete one before it (R6), or an earlier one can be started without
    /// anybody who knows of it (R7).
    Orphaned,
    /// A request waited too long (section 3 of the design).
    Slow,
    /// The pool did not become healthy in time, or a request was never answered (R17, R19).
    Stuck,
    /// IO was frozen for too long (R18).
    Frozen,
    /// Too many messages, metadata writes or log lines (R19).
    Storm,
    /// Metadata was written where none may be (R12).
    Cost,
    /// A member in sync is said to have missed something (R11: its bitmap is empty by definition).
    LeftOver,
    /// The metadata of a store cannot be read, though it was not damaged: one copy of each record is good at any time.
    Unreadable,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// When it was noticed; for a history, when the later of the operations began.
    pub time: Time,
    /// The operations, sectors, members it is about, in words.
    pub what: String,
}

impl Violation {
    pub(crate) fn new(rule: Rule, time: Time, what: String) -> Violation {
        Violation { rule, time, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} at {}: {}",
            self.rule,
            Seconds(self.time),
            self.what
        )
    }
}

impl std::error::Error for Violation {}

/// A time, printed in seconds.
pub(crate) struct Seconds(pub(crate) Time);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}s",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000
        )
    }
}
