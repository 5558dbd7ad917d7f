// SPDX-License-Identifier: GPL-2.0

//! Keys of the kernel's keyring, of the types `logon` and `user`.

use crate::ffi;
use core::ffi::c_void;
use kernel::error::to_result;
use kernel::prelude::*;

/// Looks for the key `description` in the keyrings of the current task, `logon` first, and calls `f` with its payload, which is
/// the keyring's and stays there. Sleeps.
///
/// `ENOKEY` if there is none, `EKEYEXPIRED`, `EKEYREVOKED` or `EKEYREJECTED` if it is not good any more, `EACCES` if the task may
/// not find it.
pub fn with_payload<R>(description: &CStr, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
    let mut call = Call {
        f: Some(f),
        result: None,
    };
    // SAFETY: `use_payload` gets the `call` that it expects, which outlives this, and uses nothing of it afterwards.
    to_result(unsafe {
        ffi::rmr_sys_key_read(
            description.as_char_ptr(),
            Some(use_payload(&call)),
            (&raw mut call).cast(),
        )
    })?;
    call.result.ok_or(EINVAL)
}

struct Call<F, R> {
    f: Option<F>,
    result: Option<R>,
}

type Use = unsafe extern "C" fn(payload: *const u8, len: usize, data: *mut c_void);

/// The callback for such a call.
fn use_payload<R, F: FnOnce(&[u8]) -> R>(_: &Call<F, R>) -> Use {
    called::<R, F>
}

/// # Safety
///
/// `data` is a `Call<F, R>` that nobody else uses, and `payload` has `len` bytes that do not change.
unsafe extern "C" fn called<R, F: FnOnce(&[u8]) -> R>(
    payload: *const u8,
    len: usize,
    data: *mut c_void,
) {
    // SAFETY: By the caller's promise.
    let call = unsafe { &mut *data.cast::<Call<F, R>>() };
    // SAFETY: By the caller's promise.
    let payload = unsafe { core::slice::from_raw_parts(payload, len) };
    call.result = call.f.take().map(|f| f(payload));
}
