// SPDX-License-Identifier: GPL-2.0

//! Clocks.

use crate::ffi;
use kernel::bindings;
use kernel::time::Jiffies;

/// `CLOCK_MONOTONIC` in nanoseconds. Any context.
#[inline]
pub fn now_ns() -> u64 {
    // SAFETY: Always safe to call.
    unsafe { bindings::ktime_get() }.unsigned_abs()
}

/// `CLOCK_MONOTONIC` in milliseconds. Any context.
#[inline]
pub fn now_ms() -> u64 {
    now_ns() / 1_000_000
}

/// Milliseconds since some moment, as exact as the timer tick; cheaper than [`now_ms`] and not to
/// be mixed with it. Any context.
#[inline]
pub fn coarse_ms() -> u64 {
    // SAFETY: Always safe to call.
    unsafe { ffi::rmr_sys_jiffies_ms() }
}

/// The kernel's unit for timeouts, rounded up.
pub fn ms_to_jiffies(ms: u32) -> Jiffies {
    // SAFETY: Always safe to call.
    unsafe { ffi::rmr_sys_ms_to_jiffies(ms) }
}

/// Sleeps at least `ms` milliseconds.
pub fn sleep_ms(ms: u32) {
    // SAFETY: Always safe to call where one may sleep; elsewhere the kernel complains.
    unsafe { bindings::msleep(ms) };
}
