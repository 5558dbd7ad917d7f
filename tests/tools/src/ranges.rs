// SPDX-License-Identifier: GPL-2.0

//! Locks on byte ranges, for accesses that promise nothing when they overlap: the page cache may show half a block of a
//! running write, which a block device must not.

use crate::device::Span;
use std::sync::{Condvar, Mutex, PoisonError};

/// The set of ranges that are locked now.
#[derive(Default)]
pub struct Ranges {
    held: Mutex<Vec<Span>>,
    released: Condvar,
}

/// A locked range; dropping it unlocks.
#[must_use]
pub struct RangeGuard<'a> {
    ranges: &'a Ranges,
    span: Span,
}

impl Ranges {
    /// Waits until nothing overlapping is locked, then locks.
    pub fn lock(&self, span: Span) -> RangeGuard<'_> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self
            .released
            .wait_while(held, |held| held.iter().any(|other| other.overlaps(&span)))
            .unwrap_or_else(PoisonError::into_inner);
        held.push(span);
        RangeGuard { ranges: self, span }
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut held = self
            .ranges
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = held.iter().position(|span| *span == self.span) {
            held.swap_remove(at);
        }
        drop(held);
        self.ranges.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn span(offset: u64, len: u64) -> Span {
        Span { offset, len }
    }

    #[test]
    fn neighbours_do_not_wait() {
        let ranges = Ranges::default();
        let _a = ranges.lock(span(0, 10));
        let _b = ranges.lock(span(10, 10));
    }

    #[test]
    fn overlapping_ranges_wait() {
        let ranges = Ranges::default();
        let released = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let first = ranges.lock(span(0, 10));
            scope.spawn(|| {
                let _second = ranges.lock(span(9, 10));
                assert!(released.load(Ordering::SeqCst));
            });
            std::thread::sleep(std::time::Duration::from_millis(20));
            released.store(true, Ordering::SeqCst);
            drop(first);
        });
    }
}
