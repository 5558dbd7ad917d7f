// SPDX-License-Identifier: GPL-2.0

//! The spinlock that every context may take.
//!
//! It is taken with interrupts off, so it may be shared between the admin's task, softirqs (RTRS)
//! and hardirqs (ends of bios). Taking it is a call with a closure; locks are thus released in the
//! reverse order, which makes saving and restoring the state of interrupts right however deep they
//! nest. (The kernel crate's `SpinLockIrq` exists from 7.3 on only.)

use crate::ffi;
use crate::padded::Padded;
use core::cell::UnsafeCell;
use core::marker::PhantomPinned;
use core::ops::Deref;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::LockClassKey;
use kernel::types::Opaque;
use rmr_engine::sync::Guarded;

/// A value behind a spinlock that is taken with interrupts off.
///
/// # Invariants
///
/// `lock` is initialised, and does not move.
pub struct IrqLock<T> {
    lock: Opaque<bindings::spinlock_t>,
    value: UnsafeCell<T>,
    _pin: PhantomPinned,
}

// SAFETY: The value goes where the lock goes.
unsafe impl<T: Send> Send for IrqLock<T> {}
// SAFETY: The lock gives the value to one thread at a time.
unsafe impl<T: Send> Sync for IrqLock<T> {}

impl<T> IrqLock<T> {
    /// A lock around `value`; see [`new_irq_lock!`](crate::new_irq_lock). Locks of one `key` are
    /// nested only in the order of their addresses.
    pub fn new(
        value: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        let init = move |place| {
            // SAFETY: `place` is memory for a lock, as the caller of the initialiser promises, and
            // will not move.
            unsafe { Self::init(place, value, name, key) };
            Ok(())
        };
        // SAFETY: It always initialises the lock.
        unsafe { pin_init::pin_init_from_closure(init) }
    }

    /// # Safety
    ///
    /// `place` must be memory for a lock that will not move.
    unsafe fn init(
        place: *mut Self,
        value: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) {
        let this = Self {
            lock: Opaque::uninit(),
            value: UnsafeCell::new(value),
            _pin: PhantomPinned,
        };
        // SAFETY: By the function's requirement.
        unsafe { place.write(this) };
        // SAFETY: Written above.
        let lock = unsafe { (*place).lock.get() };
        // SAFETY: Memory for a spinlock that will not move; name and key are static.
        unsafe { bindings::__spin_lock_init(lock, name.as_char_ptr(), key.as_ptr()) };
        // SAFETY: Initialised above.
        unsafe { ffi::rmr_sys_lock_ordered(lock) };
    }

    /// Runs `f` on the value while the lock is held. Any context; `f` must not sleep nor take the
    /// lock again.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: Initialised, by the type invariant.
        let flags = unsafe { ffi::rmr_sys_lock(self.lock.get()) };
        // SAFETY: The lock is held, and this is the only place where the value is reached.
        let result = f(unsafe { &mut *self.value.get() });
        // SAFETY: Taken above, on this CPU, as preemption was off all the time. `f` is through, and
        // with it whatever it took.
        unsafe { ffi::rmr_sys_unlock(self.lock.get(), flags) };
        result
    }
}

impl<T> Guarded<T> for IrqLock<T> {
    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        IrqLock::with(self, f)
    }
}

/// An array of [`IrqLock`]s, each with cache lines of its own. Several are taken in the order of
/// their places.
pub struct IrqLocks<T> {
    /// Neither grows nor shrinks: the locks are pinned.
    locks: KVVec<Padded<IrqLock<T>>>,
}

impl<T> IrqLocks<T> {
    /// An array of `count` locks; see [`new_irq_locks!`](crate::new_irq_locks). Sleeps.
    pub fn new(
        count: usize,
        mut make: impl FnMut(usize) -> T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> Result<Self> {
        let mut locks = KVVec::<Padded<IrqLock<T>>>::with_capacity(count, GFP_KERNEL)?;
        for index in 0..count {
            let place = locks
                .spare_capacity_mut()
                .first_mut()
                .ok_or(ENOMEM)?
                .as_mut_ptr();
            // SAFETY: `place` is memory of the vector for one element, whose only field is the
            // lock. It will not move, as the vector is not reallocated before it is full, and not
            // changed afterwards.
            unsafe { IrqLock::init(&raw mut (*place).0, make(index), name, key) };
            // SAFETY: The capacity is there, and the element was initialised.
            unsafe { locks.inc_len(1) };
        }
        Ok(Self { locks })
    }
}

impl<T> Deref for IrqLocks<T> {
    type Target = [Padded<IrqLock<T>>];

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.locks
    }
}

/// Initialises an [`IrqLock`](crate::lock::IrqLock) field: `lock <- new_irq_lock!(value)`.
#[macro_export]
macro_rules! new_irq_lock {
    ($value:expr) => {
        $crate::lock::IrqLock::new(
            $value,
            ::kernel::optional_name!(),
            ::kernel::static_lock_class!(),
        )
    };
}

/// Makes an array of locks: `new_irq_locks!(count, |place| value)`, a `Result<IrqLocks<_>>`.
#[macro_export]
macro_rules! new_irq_locks {
    ($count:expr, $make:expr) => {
        $crate::lock::IrqLocks::new(
            $count,
            $make,
            ::kernel::optional_name!(),
            ::kernel::static_lock_class!(),
        )
    };
}
