// SPDX-License-Identifier: GPL-2.0

//! Keeping softirqs, and with them the completions of RTRS, off this CPU for a moment.

use crate::ffi;
use kernel::types::NotThreadSafe;

/// Softirqs do not run on this CPU, and the task stays on it, while this exists. Process or softirq
/// context; the holder must not sleep.
pub struct BhGuard(NotThreadSafe);

impl BhGuard {
    /// Disables softirqs on this CPU. Nests.
    #[inline]
    #[expect(clippy::new_without_default)]
    pub fn new() -> Self {
        // SAFETY: Always allowed in process and softirq context; `drop` undoes it on the same task,
        // as the type is not `Send`.
        unsafe { ffi::rmr_sys_bh_disable() };
        Self(NotThreadSafe)
    }
}

impl Drop for BhGuard {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `new` disabled them, on this task.
        unsafe { ffi::rmr_sys_bh_enable() };
    }
}

/// Runs `f` while softirqs do not run on this CPU. `f` must not sleep.
#[inline]
pub fn disabled<R>(f: impl FnOnce() -> R) -> R {
    let _guard = BhGuard::new();
    f()
}
