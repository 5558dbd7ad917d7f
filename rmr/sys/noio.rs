// SPDX-License-Identifier: GPL-2.0

//! Allocating where memory may have to be written back by what one is just doing.

use crate::ffi;

/// Runs `f`; what the task allocates meanwhile does not wait for IO. Where one may sleep.
pub fn without_io<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: Changes a flag of the task, which is set back below.
    let before = unsafe { ffi::rmr_sys_noio_begin() };
    let result = f();
    // SAFETY: From `begin` above, of the same task.
    unsafe { ffi::rmr_sys_noio_end(before) };
    result
}
