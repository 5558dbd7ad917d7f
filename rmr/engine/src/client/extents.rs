// SPDX-License-Identifier: GPL-2.0

//! How many extents of the activity logs the writes above the watermark need (rule R12).
//!
//! A member must log an extent before a write touches it, and can forget it only when no write in it is above the
//! watermark. If clients wrote to more extents than a log has room for, the oldest write could wait for room that
//! only its own completion would make. So a client stays within a *budget*, half the smallest log.
//!
//! A table of slots, each free or an extent with its number of writes. An extent has one slot, by its hash; if
//! another one is there, the write waits as if there were no room. The table is larger than any budget, so that is rare.

use crate::memory::Memory;
use crate::memory::NoMemory;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use core::ops::RangeInclusive;
use rmr_proto::EXTENT_SHIFT;

/// Binary logarithm of the number of slots.
const SLOTS_SHIFT: u32 = 12;

/// A request is not longer than an extent, so it touches at most two; all budgets must allow that.
const LEAST_BUDGET: u32 = 2;

/// Low bits of a slot: how many writes.
const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// The extents with writes above the watermark. All calls: any context; lock-free.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub(crate) struct Extents<M: Memory> {
    slots: M::Array<AtomicU64>,
    used: AtomicU32,
    budget: AtomicU32,
}

/// The one or two extents of a write, as a number; 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Touched(pub(crate) u64);

impl Touched {
    /// Those of a range of bytes in a volume, not empty and at most as long as an extent.
    pub(crate) const fn of(offset: u64, len: u32) -> Self {
        let first = offset >> EXTENT_SHIFT;
        let last = offset.saturating_add(len.saturating_sub(1) as u64) >> EXTENT_SHIFT;
        Self((first + 1) << 1 | (last > first) as u64)
    }

    fn extents(self) -> RangeInclusive<u64> {
        match (self.0 >> 1).checked_sub(1) {
            Some(first) => first..=first + (self.0 & 1),
            None => RangeInclusive::new(1, 0),
        }
    }
}

impl<M: Memory> Extents<M> {
    pub(crate) fn new(memory: &M) -> Result<Self, NoMemory> {
        Ok(Self {
            slots: memory.array(1 << SLOTS_SHIFT, |_| AtomicU64::new(0))?,
            used: AtomicU32::new(0),
            budget: AtomicU32::new(LEAST_BUDGET),
        })
    }

    /// Sets the budget from the number of extents the smallest log holds.
    pub(crate) fn set_log(&self, extents: u32) {
        self.budget.poke((extents >> 1).max(LEAST_BUDGET));
    }

    /// Takes the extents of a write; `false` if there is no room now.
    pub(crate) fn take(&self, touched: Touched) -> bool {
        let mut taken = None;
        for extent in touched.extents() {
            if !self.take_one(extent) {
                if let Some(extent) = taken {
                    self.give_one(extent);
                }
                return false;
            }
            taken = Some(extent);
        }
        true
    }

    /// Gives the extents of a write back.
    pub(crate) fn give(&self, touched: Touched) {
        touched.extents().for_each(|extent| self.give_one(extent));
    }

    fn take_one(&self, extent: u64) -> bool {
        let Some(slot) = self.slot(extent) else {
            return false;
        };
        let mut old = slot.load();
        loop {
            let new = if old == 0 {
                if self.used.fetch_add(1) >= self.budget.peek()
                    && !crate::planted::on(crate::planted::Bug::NoExtentBudget)
                {
                    self.used.fetch_add(u32::MAX);
                    return false;
                }
                (extent + 1) << COUNT_BITS | 1
            } else if old >> COUNT_BITS == extent + 1 && old & COUNT < COUNT {
                old + 1
            } else {
                return false;
            };
            match slot.cas(old, new) {
                Ok(_) => return true,
                Err(now) => {
                    if old == 0 {
                        self.used.fetch_add(u32::MAX);
                    }
                    old = now;
                }
            }
        }
    }

    fn give_one(&self, extent: u64) {
        let Some(slot) = self.slot(extent) else {
            return;
        };
        let mut old = slot.load();
        while old & COUNT != 0 {
            let new = if old & COUNT == 1 { 0 } else { old - 1 };
            match slot.cas(old, new) {
                Ok(_) => {
                    if new == 0 {
                        self.used.fetch_add(u32::MAX);
                    }
                    return;
                }
                Err(now) => old = now,
            }
        }
    }

    fn slot(&self, extent: u64) -> Option<&AtomicU64> {
        // Neighbours are far apart: the two extents of one write never share a slot.
        let place = extent.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS_SHIFT);
        self.slots.get(place as usize)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::memory::HostMemory;

    const EXTENT: u64 = 1 << EXTENT_SHIFT;

    #[test]
    fn touched() {
        let list = |t: Touched| t.extents().collect::<std::vec::Vec<_>>();
        assert_eq!(list(Touched::of(0, 4096)), [0]);
        assert_eq!(list(Touched::of(EXTENT - 512, 512)), [0]);
        assert_eq!(list(Touched::of(EXTENT - 512, 1024)), [0, 1]);
        assert_eq!(list(Touched::of(3 * EXTENT, 1 << EXTENT_SHIFT)), [3]);
        assert!(list(Touched(0)).is_empty());
    }

    #[test]
    fn budget() {
        let extents = Extents::new(&HostMemory).unwrap();
        extents.set_log(6);
        let write = |extent: u64| Touched::of(extent * EXTENT, 4096);
        assert!((0..3).all(|extent| extents.take(write(extent))));
        assert!(extents.take(write(2)));
        assert!(!extents.take(write(3)));
        extents.give(write(2));
        assert!(!extents.take(write(3)));
        extents.give(write(2));
        // Two are needed, one is free: nothing is kept.
        let two = Touched::of(4 * EXTENT - 512, 1024);
        assert!(!extents.take(two));
        extents.give(write(0));
        assert!(extents.take(two));
        extents.give(two);
        extents.give(write(1));
        assert_eq!(extents.used.peek(), 0);
        // Nobody has it.
        extents.give(write(1));
        assert!(extents.take(write(1)) && extents.used.peek() == 1);
    }

    #[test]
    fn one_place_for_two() {
        let extents = Extents::new(&HostMemory).unwrap();
        extents.set_log(100);
        let place = |extent| core::ptr::from_ref(extents.slot(extent).unwrap());
        let other = (1..).find(|other| place(*other) == place(0)).unwrap();
        let (one, other) = (Touched::of(0, 4096), Touched::of(other * EXTENT, 4096));
        assert!(extents.take(one) && !extents.take(other) && extents.take(one));
        extents.give(one);
        assert!(!extents.take(other));
        extents.give(one);
        assert!(extents.take(other) && !extents.take(one));
    }
}

/// Every interleaving (within the bounds named at each test).
#[cfg(all(test, loom))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod interleavings {
    use super::*;
    use crate::memory::HostMemory;
    use loom::sync::Arc;
    use loom::thread;
    use std::vec::Vec;

    /// Takes extents for writes of 4 KiB at the begin of each, one after the other, and gives back what it got; how many.
    fn write(extents: &Extents<HostMemory>, list: [u64; 2]) -> usize {
        let touched = list.map(|extent| Touched::of(extent << EXTENT_SHIFT, 4096));
        let got: Vec<_> = touched.into_iter().filter(|t| extents.take(*t)).collect();
        got.iter().for_each(|touched| extents.give(*touched));
        got.len()
    }

    /// 2 threads take and give two extents each, one of them the same, at most 3 preemptions: at least one gets what it
    /// wants, and in the end everything is given back.
    #[test]
    fn taken_and_given() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let extents = Arc::new(Extents::new(&HostMemory).unwrap());
            extents.set_log(4);
            let other = {
                let extents = extents.clone();
                thread::spawn(move || write(&extents, [7, 8]))
            };
            let own = write(&extents, [7, 9]);
            assert!(own + other.join().unwrap() >= 2);
            assert_eq!(extents.used.peek(), 0);
            let both = [7, 8].map(|extent| Touched::of(extent << EXTENT_SHIFT, 4096));
            assert!(both.into_iter().all(|touched| extents.take(touched)));
            assert!(!extents.take(Touched::of(9 << EXTENT_SHIFT, 4096)));
        });
    }
}
