// SPDX-License-Identifier: GPL-2.0

//! Time as the engine sees it: nanoseconds of a monotonic clock of this host, passed in with each event.
//!
//! The engine never asks for the time, and never compares times of two hosts. All arithmetic saturates, so
//! that a clock that jumps can make a timer early or late, but nothing else.

/// A span of time in nanoseconds.
pub type Nanos = u64;

/// Nanoseconds of a millisecond.
pub const MILLISECOND: Nanos = 1_000_000;

/// Nanoseconds of a second.
pub const SECOND: Nanos = 1000 * MILLISECOND;

/// A moment: nanoseconds since some moment before the first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// After everything: a timer that is not set.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment `span` nanoseconds later.
    #[must_use]
    pub const fn after(self, span: Nanos) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// Nanoseconds from `earlier` to this moment; 0 if `earlier` is not earlier.
    pub const fn since(self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0)
    }

    /// The earlier one of two.
    #[must_use]
    pub const fn earliest(self, other: Self) -> Self {
        if self.0 <= other.0 {
            self
        } else {
            other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let (early, late) = (Time(5), Time(9));
        assert_eq!(late.since(early), 4);
        assert_eq!(early.since(late), 0);
        assert_eq!(early.after(4), late);
        assert_eq!(Time(u64::MAX - 1).after(SECOND), Time::NEVER);
        assert_eq!(early.earliest(late), early);
        assert_eq!(Time::NEVER.earliest(late), late);
    }
}
