// SPDX-License-Identifier: GPL-2.0

//! A table of preallocated things, each used by one at a time; and a cell that keeps one box.
//!
//! ```text
//!            take, claim_any               into_index
//!   free ────────────────────► taken ────────────────────► parked
//!     ◄────────────────────────  │  ◄────────────────────────
//!               drop             ▼            adopt
//!                          a `Slot` exists
//! ```
//!
//! A thing that must outlive the function that took it (a request in flight, whose completion comes
//! from somewhere else) is parked, and whoever is told its index adopts it. The table does not
//! trust indices: of several who adopt the same one, one gets it.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ops::DerefMut;
use core::ptr;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::atomic::Release;
use kernel::types::ForeignOwnable;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const PARKED: u32 = 2;

/// # Invariants
///
/// While `state` is `TAKEN`, exactly one [`Slot`] of this cell exists (or was leaked); otherwise
/// none does.
#[repr(align(64))]
struct Cell<T> {
    state: Atomic<u32>,
    value: UnsafeCell<T>,
}

/// A table of things that are lent out one by one.
pub struct Slots<T> {
    cells: KVVec<Cell<T>>,
}

// SAFETY: A thing is reached through one `Slot` at a time, which may be on any thread.
unsafe impl<T: Send> Send for Slots<T> {}
// SAFETY: As above: `&Slots` gives exclusive access to a thing, never shared access.
unsafe impl<T: Send> Sync for Slots<T> {}

impl<T> Slots<T> {
    /// Makes a table of `count` things, all free. Sleeps.
    pub fn new(count: usize, mut make: impl FnMut(usize) -> Result<T>) -> Result<Self> {
        if u32::try_from(count).is_err() {
            return Err(EINVAL);
        }
        let mut cells = KVVec::with_capacity(count, GFP_KERNEL)?;
        for index in 0..count {
            // INVARIANT: Free, and no slot exists.
            let cell = Cell {
                state: Atomic::new(FREE),
                value: UnsafeCell::new(make(index)?),
            };
            cells.push(cell, GFP_KERNEL)?;
        }
        Ok(Self { cells })
    }

    /// Number of things.
    #[inline]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Is the table without any?
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Takes the thing `index` if it is free. Any context.
    #[inline]
    pub fn take(&self, index: usize) -> Option<Slot<'_, T>> {
        self.claim(index, FREE)
    }

    /// Takes the thing `index` if it is parked: the counterpart of [`Slot::into_index`]. Any
    /// context.
    #[inline]
    pub fn adopt(&self, index: usize) -> Option<Slot<'_, T>> {
        self.claim(index, PARKED)
    }

    /// Takes the first that is free, searching from `start` (modulo the number of things) on.
    /// Callers on different CPUs that start at different places do not disturb each other. Any
    /// context.
    pub fn claim_any(&self, start: usize) -> Option<Slot<'_, T>> {
        let first = start.checked_rem(self.len())?;
        // Named, as every type of the kernel is an initialiser with a `chain` of its own.
        let mut places = Iterator::chain(first..self.len(), 0..first);
        places.find_map(|index| {
            // Looks before it writes: the cache lines of taken ones are their users'.
            let free = self.cells.get(index)?.state.load(Relaxed) == FREE;
            free.then(|| self.take(index)).flatten()
        })
    }

    #[inline]
    fn claim(&self, index: usize, from: u32) -> Option<Slot<'_, T>> {
        let cell = self.cells.get(index)?;
        // Acquire: what the one before did to the thing has happened.
        cell.state.cmpxchg(from, TAKEN, Acquire).ok()?;
        // INVARIANT: No slot existed, as the state was not `TAKEN`, and only this caller changed
        // it.
        Some(Slot { cell, index })
    }

    /// The thing `index`, whatever its state.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        // The exclusive borrow of the table excludes slots.
        Some(self.cells.get_mut(index)?.value.get_mut())
    }

    /// All things, whatever their state.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.cells.iter_mut().map(|cell| cell.value.get_mut())
    }
}

/// Exclusive use of one thing of a table; gives it back when dropped. Any context.
///
/// # Invariants
///
/// `cell` is `TAKEN`, and this is its only slot.
pub struct Slot<'a, T> {
    cell: &'a Cell<T>,
    index: usize,
}

// SAFETY: Like `&mut T`.
unsafe impl<T: Send> Send for Slot<'_, T> {}
// SAFETY: Like `&mut T`.
unsafe impl<T: Sync> Sync for Slot<'_, T> {}

impl<T> Slot<'_, T> {
    /// Place in the table.
    #[inline]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Parks the thing: it stays in use until it is adopted, by whoever is given the returned place
    /// in the table.
    #[inline]
    pub fn into_index(self) -> usize {
        let this = ManuallyDrop::new(self);
        // Release: whoever adopts it sees what was done to it. INVARIANT: This slot ends here.
        this.cell.state.store(PARKED, Release);
        this.index
    }
}

impl<T> Deref for Slot<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant this is the only slot, and without one nobody reaches the
        // value.
        unsafe { &*self.cell.value.get() }
    }
}

impl<T> DerefMut for Slot<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: As in `deref`, and this slot is borrowed exclusively.
        unsafe { &mut *self.cell.value.get() }
    }
}

impl<T> Drop for Slot<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release: whoever takes it next sees what was done to it.
        self.cell.state.store(FREE, Release);
    }
}

/// Keeps at most one box (`KBox`, `Arc`, …), which any context may put in and take out.
///
/// # Invariants
///
/// `place` is null or came from `P::into_foreign` and is owned by this.
pub struct Park<P: ForeignOwnable> {
    place: Atomic<*mut c_void>,
    _owns: PhantomData<P>,
}

// SAFETY: It hands over boxes, whole.
unsafe impl<P: ForeignOwnable + Send> Send for Park<P> {}
// SAFETY: As above; `place` is only changed atomically.
unsafe impl<P: ForeignOwnable + Send> Sync for Park<P> {}

impl<P: ForeignOwnable> Park<P> {
    /// An empty one.
    pub const fn new() -> Self {
        // INVARIANT: Null.
        Self {
            place: Atomic::new(ptr::null_mut()),
            _owns: PhantomData,
        }
    }

    /// Puts `parked` in, or gives it back if there is one already. Any context.
    pub fn put(&self, parked: P) -> Result<(), P> {
        let raw = parked.into_foreign();
        // INVARIANT: From `into_foreign`.
        if self.place.cmpxchg(ptr::null_mut(), raw, Full).is_ok() {
            Ok(())
        } else {
            // SAFETY: From `into_foreign` above, and nobody else has seen it.
            Err(unsafe { P::from_foreign(raw) })
        }
    }

    /// Takes out what is there. Any context.
    pub fn take(&self) -> Option<P> {
        Self::own(self.place.xchg(ptr::null_mut(), Full))
    }

    /// Puts `parked` in and takes out what was there. Any context.
    pub fn swap(&self, parked: P) -> Option<P> {
        Self::own(self.place.xchg(parked.into_foreign(), Full))
    }

    /// Is it empty at this moment?
    pub fn is_empty(&self) -> bool {
        self.place.load(Relaxed).is_null()
    }

    /// `raw` was in `place` and is there no more.
    fn own(raw: *mut c_void) -> Option<P> {
        // SAFETY: By the type invariant null or from `into_foreign`, and the exchange took it out
        // just once.
        (!raw.is_null()).then(|| unsafe { P::from_foreign(raw) })
    }
}

impl<P: ForeignOwnable> Default for Park<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: ForeignOwnable> Drop for Park<P> {
    fn drop(&mut self) {
        drop(self.take());
    }
}
