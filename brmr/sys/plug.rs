// SPDX-License-Identifier: GPL-2.0

//! Submitting several bios together.

use core::mem::MaybeUninit;
use kernel::bindings;

/// Runs `f`; the bios it submits reach their driver together, when it returns or has to wait.
///
/// A closure and not a guard: the plug lives on the stack of the task and must end in it.
pub fn plugged<R>(f: impl FnOnce() -> R) -> R {
    let mut plug = MaybeUninit::<bindings::blk_plug>::uninit();
    // SAFETY: `plug` stays in place until it is finished below: panics do not unwind in the kernel.
    unsafe { bindings::blk_start_plug(plug.as_mut_ptr()) };
    let result = f();
    // SAFETY: Started above, by the same task.
    unsafe { bindings::blk_finish_plug(plug.as_mut_ptr()) };
    result
}
