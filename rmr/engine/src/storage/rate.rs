// SPDX-License-Identifier: GPL-2.0

//! How fast a resync is, for people: bytes per second, smoothed.
//!
//! Time is cut into ticks. What is added is forgotten, an eighth of the rest at each tick; so what is left is what came in
//! eight ticks at the present pace. No division, as the kernel has none for this.

use crate::time::Time;

/// A tick is 2^28 ns, 0.27 s.
const TICK_SHIFT: u32 = 28;
/// An eighth is forgotten at each.
const FORGET_SHIFT: u32 = 3;
/// After so many ticks nothing is left worth saying.
const ALL_FORGOTTEN: u64 = 128;

/// The present pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rate {
    /// Bytes in eight ticks.
    level: u64,
    /// The tick up to which was forgotten; without meaning while there is nothing to forget.
    tick: u64,
}

impl Rate {
    /// Nothing came yet.
    pub(super) const NONE: Self = Self { level: 0, tick: 0 };

    /// It is so late.
    pub(super) fn now(&mut self, now: Time) {
        if self.level == 0 {
            return;
        }
        let tick = now.0 >> TICK_SHIFT;
        let ticks = tick.saturating_sub(self.tick);
        self.tick = self.tick.max(tick);
        if ticks >= ALL_FORGOTTEN {
            *self = Self::NONE;
        }
        for _ in 0..ticks.min(ALL_FORGOTTEN) {
            // Rounded up, so that the last bytes are forgotten as well.
            self.level -= self.level.div_ceil(1 << FORGET_SHIFT);
        }
        if self.level == 0 {
            *self = Self::NONE;
        }
    }

    /// So many bytes came.
    pub(super) fn add(&mut self, now: Time, bytes: u64) {
        self.now(now);
        if self.level == 0 {
            self.tick = now.0 >> TICK_SHIFT;
        }
        self.level = self.level.saturating_add(bytes);
    }

    /// Bytes per second.
    pub(super) const fn bytes_per_second(&self) -> u64 {
        // Times 10^9 / 2^31; 10^9 is 2^9 times 1953125, and 2^9 more go before, so that nothing overflows.
        (self.level >> 9).saturating_mul(1_953_125) >> (TICK_SHIFT + FORGET_SHIFT - 18)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Nanos;
    use crate::time::MILLISECOND;
    use crate::time::SECOND;

    /// The rate after `bytes` came every `pause` from `from` for `span`.
    fn pace(rate: &mut Rate, from: Time, span: Nanos, pause: Nanos, bytes: u64) -> u64 {
        let mut now = from;
        while now.since(from) < span {
            rate.add(now, bytes);
            now = now.after(pause);
        }
        rate.now(now);
        rate.bytes_per_second()
    }

    #[test]
    fn follows_the_pace() {
        for (pause, bytes) in [
            (MILLISECOND, 64 << 10),
            (40 * MILLISECOND, 64 << 10),
            (300 * MILLISECOND, 64 << 20),
        ] {
            let mut rate = Rate::NONE;
            let right = bytes * SECOND / pause;
            let begin = Time(12_345 * SECOND);
            let found = pace(&mut rate, begin, 20 * SECOND, pause, bytes);
            assert!(found.abs_diff(right) < right / 4, "{found} {right}");
            // Half as fast: known after some seconds.
            let found = pace(
                &mut rate,
                begin.after(20 * SECOND),
                10 * SECOND,
                pause,
                bytes / 2,
            );
            assert!(found.abs_diff(right / 2) < right / 6, "{found} {right}");
        }
    }

    #[test]
    fn forgets() {
        let mut rate = Rate::NONE;
        pace(&mut rate, Time(0), 20 * SECOND, MILLISECOND, 1 << 20);
        rate.now(Time(25 * SECOND));
        assert!(rate.bytes_per_second() < 200 << 20);
        // A clock that went back changes nothing.
        let before = rate.level;
        rate.now(Time(1));
        assert_eq!(rate.level, before);
        rate.now(Time(80 * SECOND));
        assert_eq!(rate, Rate::NONE);
        rate.add(Time::NEVER, u64::MAX);
        rate.add(Time::NEVER, u64::MAX);
        assert!(rate.bytes_per_second() > 0);
    }
}
