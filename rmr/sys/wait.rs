// SPDX-License-Identifier: GPL-2.0

//! Waiting for an event or a condition, with a limit of time or until the task is killed.

use crate::ffi;
use crate::time;
use core::ffi::c_void;
use kernel::bindings;
use kernel::prelude::*;
use kernel::static_lock_class;
use kernel::types::Opaque;

/// Waits without a limit of time.
pub const FOREVER: u32 = u32::MAX;

/// Longest timeout of the kernel: without limit.
const MAX_SCHEDULE_TIMEOUT: isize = isize::MAX;

fn timeout(ms: u32) -> isize {
    if ms == FOREVER {
        return MAX_SCHEDULE_TIMEOUT;
    }
    isize::try_from(time::ms_to_jiffies(ms)).unwrap_or(MAX_SCHEDULE_TIMEOUT)
}

/// The answer of the kernel's functions: negative if killed, else the jiffies that were left.
fn left(jiffies: isize) -> Result {
    match jiffies {
        0 => Err(ETIMEDOUT),
        1.. => Ok(()),
        _ => Err(EINTR),
    }
}

/// Something that happens once, until it is reset.
#[pin_data]
pub struct Event {
    #[pin]
    raw: Opaque<bindings::completion>,
}

// SAFETY: A completion is used from any thread.
unsafe impl Send for Event {}
// SAFETY: As above.
unsafe impl Sync for Event {}

impl Event {
    /// An event that has not happened.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            raw <- Opaque::ffi_init(|raw: *mut bindings::completion| {
                // SAFETY: `raw` is memory for a completion that will not move.
                unsafe { bindings::init_completion(raw) };
            }),
        })
    }

    /// It happened: wakes all who wait. Any context.
    pub fn set(&self) {
        // SAFETY: Initialised by `new`.
        unsafe { bindings::complete_all(self.raw.get()) };
    }

    /// Did it happen? Any context.
    pub fn is_set(&self) -> bool {
        // SAFETY: Initialised by `new`.
        unsafe { ffi::rmr_sys_event_is_set(self.raw.get()) }
    }

    /// Makes it not have happened. Whoever waits at this moment may or may not wake.
    pub fn reset(&self) {
        // SAFETY: Initialised by `new`; it writes one integer.
        unsafe { ffi::rmr_sys_event_reset(self.raw.get()) };
    }

    /// Waits, without limit. Sleeps.
    pub fn wait(&self) {
        // SAFETY: Initialised by `new`.
        unsafe { bindings::wait_for_completion(self.raw.get()) };
    }

    /// Waits at most `ms` milliseconds: `ETIMEDOUT`. Sleeps.
    pub fn wait_timeout(&self, ms: u32) -> Result {
        let jiffies = timeout(ms).unsigned_abs();
        // SAFETY: Initialised by `new`.
        match unsafe { bindings::wait_for_completion_timeout(self.raw.get(), jiffies) } {
            0 => Err(ETIMEDOUT),
            _ => Ok(()),
        }
    }

    /// Waits unless the task is killed: `EINTR`. Sleeps.
    pub fn wait_killable(&self) -> Result {
        self.wait_killable_timeout(FOREVER)
    }

    /// Waits at most `ms` milliseconds (`ETIMEDOUT`) unless the task is killed (`EINTR`). Sleeps.
    pub fn wait_killable_timeout(&self, ms: u32) -> Result {
        let jiffies = timeout(ms).unsigned_abs();
        // SAFETY: Initialised by `new`.
        left(unsafe { bindings::wait_for_completion_killable_timeout(self.raw.get(), jiffies) })
    }
}

/// Where tasks wait until a condition of theirs is true. Whoever makes one true wakes all
/// afterwards.
#[pin_data]
pub struct WaitQueue {
    #[pin]
    raw: Opaque<bindings::wait_queue_head>,
}

// SAFETY: A wait queue is used from any thread.
unsafe impl Send for WaitQueue {}
// SAFETY: As above.
unsafe impl Sync for WaitQueue {}

impl WaitQueue {
    /// Nobody waits.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            raw <- Opaque::ffi_init(|raw: *mut bindings::wait_queue_head| {
                // SAFETY: `raw` is memory for a wait queue that will not move; the key is static.
                unsafe { ffi::rmr_sys_wait_init(raw, static_lock_class!().as_ptr()) };
            }),
        })
    }

    /// Makes all who wait look at their conditions. Any context.
    pub fn wake_all(&self) {
        // SAFETY: Initialised by `new`.
        unsafe { ffi::rmr_sys_wait_wake(self.raw.get()) };
    }

    /// Waits until `condition`, which must not sleep, is true. Sleeps.
    pub fn wait_until(&self, condition: impl FnMut() -> bool) {
        self.wait(false, FOREVER, condition);
    }

    /// Waits until `condition` is true, at most `ms` milliseconds: `ETIMEDOUT`. Sleeps.
    pub fn wait_until_timeout(&self, ms: u32, condition: impl FnMut() -> bool) -> Result {
        left(self.wait(false, ms, condition))
    }

    /// Waits until `condition` is true, at most `ms` milliseconds ([`FOREVER`]; `ETIMEDOUT`),
    /// unless the task is killed (`EINTR`). Sleeps.
    pub fn wait_until_killable(&self, ms: u32, condition: impl FnMut() -> bool) -> Result {
        left(self.wait(true, ms, condition))
    }

    fn wait<F: FnMut() -> bool>(&self, killable: bool, ms: u32, mut condition: F) -> isize {
        /// # Safety
        ///
        /// `data` points to an `F` that nobody else uses.
        unsafe extern "C" fn test<F: FnMut() -> bool>(data: *mut c_void) -> bool {
            // SAFETY: By the function's requirement.
            (unsafe { &mut *data.cast::<F>() })()
        }
        let data = (&raw mut condition).cast();
        // SAFETY: Initialised by `new`. `condition` outlives the call, and only the call uses it.
        unsafe { ffi::rmr_sys_wait(self.raw.get(), killable, timeout(ms), Some(test::<F>), data) }
    }
}
