// SPDX-License-Identifier: GPL-2.0

//! A table of preallocated things, each of which several may hold at a time.
//!
//! ```text
//!            claim                  share(n)                      release, the last one
//!   free ───────────► claimed ─────────────────► held by n ─────────────────────────────► claimed
//!     ◄─────────────  a `Claim` exists, which     hold, release: more or less holders
//!          drop       alone can change it         all can read it
//! ```
//!
//! Holders are numbers, not objects: who holds a thing, and for how long, is for the users to agree on, who keep no more
//! than its place. The table does not trust them: a place without holders can be neither read nor released, of several
//! releases that would be the last, one is, and none is while somebody reads. (See [`slots`](crate::slots) for things with one
//! holder.)

use core::cell::UnsafeCell;
use core::ops::Deref;
use core::ops::DerefMut;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::atomic::Release;

const FREE: u32 = 0;
const CLAIMED: u32 = u32::MAX;
/// Holders are counted in the lower half of the word, those who read at this moment in the upper one.
const HOLDERS: u32 = 0xffff;
const READER: u32 = HOLDERS + 1;

/// # Invariants
///
/// While `word` is `CLAIMED`, exactly one [`Claim`] of this cell exists (or was leaked), and nobody reads `value`.
/// Otherwise no claim exists, and nobody changes `value`; it is read only by those who are counted in the upper half of `word`.
#[repr(align(64))]
struct Cell<T> {
    word: Atomic<u32>,
    value: UnsafeCell<T>,
}

/// A table of things that are held by several.
pub struct Leases<T> {
    cells: KVVec<Cell<T>>,
}

// SAFETY: A thing is changed through one `Claim` at a time, which may be on any thread.
unsafe impl<T: Send> Send for Leases<T> {}
// SAFETY: As above; holders on several threads share references to it.
unsafe impl<T: Send + Sync> Sync for Leases<T> {}

impl<T> Leases<T> {
    /// Makes a table of `count` things, all free. Sleeps.
    pub fn new(count: usize, mut make: impl FnMut() -> T) -> Result<Self> {
        let mut cells = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            // INVARIANT: Free, and no claim exists.
            let cell = Cell {
                word: Atomic::new(FREE),
                value: UnsafeCell::new(make()),
            };
            cells.push(cell, GFP_KERNEL)?;
        }
        Ok(Self { cells })
    }

    /// Number of things.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Is the table without any?
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Takes the thing at `index` if it is free. Any context.
    #[inline]
    pub fn claim(&self, index: usize) -> Option<Claim<'_, T>> {
        let cell = self.cells.get(index)?;
        // Acquire: what the one before did to the thing has happened.
        cell.word.cmpxchg(FREE, CLAIMED, Acquire).ok()?;
        // INVARIANT: It was free, and only this caller changed that.
        Some(Claim { cell })
    }

    /// Is the thing at `index` free at this moment?
    pub fn is_free(&self, index: usize) -> bool {
        (self.cells.get(index)).is_none_or(|cell| cell.word.load(Relaxed) == FREE)
    }

    /// Adds `count` holders; `false`, and nothing happens, if there are none, or more than 65,535 would be. Any context.
    #[inline]
    pub fn hold(&self, index: usize, count: u32) -> bool {
        self.cells.get(index).is_some_and(|cell| {
            let full = |word: u32| {
                (word & HOLDERS)
                    .checked_add(count)
                    .is_none_or(|sum| sum > HOLDERS)
            };
            cell.add(count, full)
        })
    }

    /// Takes `count` holders away; if those were the last, returns the thing. Nothing happens if there are fewer, or if they are
    /// the last while somebody reads, who then does not hold it. Any context.
    #[inline]
    pub fn release(&self, index: usize, count: u32) -> Option<Claim<'_, T>> {
        let cell = self.cells.get(index)?;
        let mut old = cell.word.load(Relaxed);
        loop {
            if old == CLAIMED || old & HOLDERS < count || count == 0 {
                return None;
            }
            let last = old & HOLDERS == count;
            if last && old != count {
                return None;
            }
            let new = if last { CLAIMED } else { old - count };
            // Full: the last one sees what all others did with it.
            match cell.word.cmpxchg(old, new, Full) {
                // INVARIANT: There was no claim, and only this caller set the word.
                Ok(_) if last => return Some(Claim { cell }),
                Ok(_) => return None,
                Err(now) => old = now,
            }
        }
    }

    /// Runs `f` on a thing that the caller holds; `None` if nobody does. Any context.
    #[inline]
    pub fn with<R>(&self, index: usize, f: impl FnOnce(&T) -> R) -> Option<R> {
        let cell = self.cells.get(index)?;
        if !cell.add(READER, |word| word >= CLAIMED - HOLDERS - READER) {
            return None;
        }
        // SAFETY: This reader is counted, so by the invariant nobody changes it.
        let result = f(unsafe { &*cell.value.get() });
        // It is not claimed while somebody reads, so this is no claim's word. Release: it was read before.
        cell.word.fetch_sub(READER, Release);
        Some(result)
    }
}

impl<T> Cell<T> {
    /// Counts more holders or readers, if there are holders, and unless the word is too `full` for that.
    #[inline]
    fn add(&self, what: u32, full: impl Fn(u32) -> bool) -> bool {
        let mut old = self.word.load(Relaxed);
        loop {
            if old == FREE || old == CLAIMED || full(old) {
                return false;
            }
            // Acquire: the holder sees the thing as it was shared.
            match self.word.cmpxchg(old, old + what, Acquire) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }
}

/// Exclusive use of one thing of a table; frees it when dropped. Any context.
///
/// # Invariants
///
/// `cell` is `CLAIMED`, and this is its only claim.
pub struct Claim<'a, T> {
    cell: &'a Cell<T>,
}

// SAFETY: Like `&mut T`.
unsafe impl<T: Send> Send for Claim<'_, T> {}
// SAFETY: Like `&mut T`.
unsafe impl<T: Sync> Sync for Claim<'_, T> {}

impl<T> Claim<'_, T> {
    /// Lets `holders` (at least one, at most 65,535) hold it.
    #[inline]
    pub fn share(self, holders: u32) {
        let this = core::mem::ManuallyDrop::new(self);
        // Release: holders see what was done to it. INVARIANT: This claim ends here.
        this.cell.word.store(holders.clamp(1, HOLDERS), Release);
    }
}

impl<T> Deref for Claim<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant this is the only claim, and nobody else reaches the value.
        unsafe { &*self.cell.value.get() }
    }
}

impl<T> DerefMut for Claim<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: As in `deref`, and this claim is borrowed exclusively.
        unsafe { &mut *self.cell.value.get() }
    }
}

impl<T> Drop for Claim<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release: whoever claims it next sees what was done to it.
        self.cell.word.store(FREE, Release);
    }
}
