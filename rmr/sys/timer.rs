// SPDX-License-Identifier: GPL-2.0

//! A timer of high resolution whose function runs in softirq context, on the CPU that set it.
//!
//! What may be late by milliseconds, or has to sleep, is a [`Job`](crate::work::Job).

use crate::ffi;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

/// The timer as the kernel knows it. `raw` comes first, so that a pointer to it is one to all.
#[repr(C)]
struct Inner<T> {
    raw: Opaque<ffi::rmr_sys_timer>,
    run: fn(&Arc<T>, usize) -> Option<u64>,
    data: Arc<T>,
    key: usize,
}

/// A timer that owns an `Arc<T>`. Its function gets that and the timer's key, and returns the nanoseconds after
/// which it wants to run again.
///
/// Dropping it stops it and waits until its function does not run any more; so that function must not drop it.
///
/// # Invariants
///
/// `inner` was made by [`Timer::new`] and is owned by this, except that the kernel uses `raw` while the timer
/// is set or its function runs.
pub struct Timer<T: Send + Sync + 'static> {
    inner: NonNull<Inner<T>>,
}

// SAFETY: All that it does is done by functions of the kernel that any thread may call; `T` is both.
unsafe impl<T: Send + Sync + 'static> Send for Timer<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync + 'static> Sync for Timer<T> {}

impl<T: Send + Sync + 'static> Timer<T> {
    /// A timer that is not set. May sleep.
    pub fn new(data: Arc<T>, key: usize, run: fn(&Arc<T>, usize) -> Option<u64>) -> Result<Self> {
        let inner = Inner {
            raw: Opaque::uninit(),
            run,
            data,
            key,
        };
        let inner = KBox::new(inner, GFP_KERNEL)?;
        // SAFETY: `raw` is memory for a timer that will not move until it is freed.
        unsafe { ffi::rmr_sys_timer_init(inner.raw.get(), Some(Self::trampoline)) };
        // INVARIANT: Initialised above.
        Ok(Self {
            inner: NonNull::from(KBox::leak(inner)),
        })
    }

    /// Sets it to run down after `ns` nanoseconds from now. If it is set already, that is replaced. Any context but
    /// hardirq.
    pub fn set(&self, ns: u64) {
        // SAFETY: By the type invariant.
        let inner = unsafe { self.inner.as_ref() };
        // SAFETY: Initialised, by the type invariant.
        unsafe { ffi::rmr_sys_timer_set(inner.raw.get(), ns) };
    }

    /// # Safety
    ///
    /// To be called by the helper, for a timer made by `new`.
    unsafe extern "C" fn trampoline(raw: *mut ffi::rmr_sys_timer) -> u64 {
        let inner: *mut Inner<T> = raw.cast();
        // SAFETY: `raw` is the first field. Whoever drops the timer waits for this run.
        let this = unsafe { &*inner };
        (this.run)(&this.data, this.key).unwrap_or(0)
    }
}

impl<T: Send + Sync + 'static> Drop for Timer<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        let raw = unsafe { self.inner.as_ref() }.raw.get();
        // SAFETY: Initialised, by the type invariant.
        unsafe { ffi::rmr_sys_timer_stop(raw) };
        // SAFETY: Neither set nor running, and nobody can set it any more: ours alone.
        drop(unsafe { KBox::from_raw(self.inner.as_ptr()) });
    }
}
