// SPDX-License-Identifier: GPL-2.0

//! The client's write sequence numbers, and its watermark.
//!
//! Numbers count from 1 in each generation. The *watermark* is the number up to which every write is known
//! complete on every receiver. At most [`WINDOW`] numbers are above it, which bounds what a member has to
//! remember of them (`dedupe`); when the window is full, [`Window::issue`] gives none until the oldest
//! write is complete.
//!
//! A completed number is noted in the slot `seq mod size`, then whoever finds the slot above the watermark noted
//! moves the watermark on. No completion may be overlooked: each one, after its note, does a read-modify-write
//! of the watermark itself. Those are totally ordered, so the last one sees the notes of all others, and
//! goes on until it meets a gap.
//!
//! Both counters are written by every CPU that writes to the pool: a sequence is one thing. Each has a cache
//! line of its own, and it is one atomic operation per write on the one, and one or two on the other.

use crate::sync::AtomicU64;
use crate::sync::CacheLine;
use core::ops::Deref;
use rmr_proto::Seq;

/// Sequence numbers above the watermark, and slots of the ring, on a client and on a member alike.
pub const WINDOW: usize = 4096;

/// Sequence numbers in use, over a ring of zeroed slots lent by the caller.
///
/// All calls: any context; lock-free.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub struct Window<S> {
    slots: S,
    /// Last number given out.
    issued: CacheLine<AtomicU64>,
    /// Every number up to this is complete.
    watermark: CacheLine<AtomicU64>,
}

impl<S: Deref<Target = [AtomicU64]>> Window<S> {
    /// A window in which no number was given out. `slots` are all zero; there are [`WINDOW`] of them (tests
    /// take fewer). `None` if there are more, or their number is not a power of two.
    pub fn new(slots: S) -> Option<Self> {
        (slots.len().is_power_of_two() && slots.len() <= WINDOW).then(|| Self {
            slots,
            issued: CacheLine::default(),
            watermark: CacheLine::default(),
        })
    }

    /// The next number; `None` while the window is full. To be completed exactly once.
    pub fn issue(&self) -> Option<Seq> {
        let mut last = self.issued.0.load();
        loop {
            // A watermark read too early only makes the window look fuller than it is; one read after `last`
            // may be above it.
            let used = last.saturating_sub(self.watermark.0.load());
            if used >= self.slots.len() as u64 {
                return None;
            }
            let next = last.checked_add(1)?;
            match self.issued.0.cas(last, next) {
                Ok(_) => return Some(Seq(next)),
                Err(now) => last = now,
            }
        }
    }

    /// Notes that the write `seq` is complete on every receiver. A number not in use is ignored.
    pub fn complete(&self, seq: Seq) {
        self.complete_each(seq, |_| (), |()| ());
    }

    /// The same; in addition, calls `read` for a number before the watermark passes it, and `passed` with the answer
    /// after that, once for each number. What `read` reads may be kept in a ring as long as this one: the place of a
    /// number is used again only after the watermark passed it. (`read` may be called more than once.)
    pub fn complete_each<T>(&self, seq: Seq, read: impl Fn(Seq) -> T, mut passed: impl FnMut(T)) {
        let seq = seq.0;
        if seq <= self.watermark.0.load() || seq > self.issued.0.load() {
            return;
        }
        self.slot(seq).store(seq);
        let mut from = self.watermark.0.fetch_add(0);
        loop {
            let next = from.wrapping_add(1);
            // A slot holds a later number of its row only if the watermark passed the one asked for.
            if self.slot(next).load() <= from {
                return;
            }
            let value = read(Seq(next));
            from = match self.watermark.0.cas(from, next) {
                Ok(_) => {
                    passed(value);
                    next
                }
                Err(now) => now,
            };
        }
    }

    /// Whether no write above `stable` is complete.
    pub fn none_complete_above(&self, stable: Seq) -> bool {
        let mark = self.watermark().max(stable);
        // The window bounds how many there are.
        self.watermark() <= stable
            && (mark.0..self.issued().0).all(|n| self.slot(n + 1).load() != n + 1)
    }

    /// The number up to which every write is complete.
    pub fn watermark(&self) -> Seq {
        Seq(self.watermark.0.load())
    }

    /// The last number given out; 0 if none was.
    pub fn issued(&self) -> Seq {
        Seq(self.issued.0.load())
    }

    fn slot(&self, seq: u64) -> &AtomicU64 {
        &self.slots[seq as usize & (self.slots.len() - 1)]
    }
}
