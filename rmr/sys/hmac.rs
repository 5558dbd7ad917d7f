// SPDX-License-Identifier: GPL-2.0

//! HMAC-SHA256, by the kernel.

use crate::ffi;
use core::ptr::NonNull;
use kernel::prelude::*;
use rmr_proto::MacKey;
use rmr_proto::MAC_BYTES;

/// A secret, ready to make MACs with. Its memory is wiped when it is dropped.
///
/// # Invariants
///
/// The key was made by `rmr_sys_hmac_new`, does not change, and is owned by this.
pub struct HmacKey(NonNull<ffi::rmr_sys_hmac_key>);

// SAFETY: The key is memory that does not change.
unsafe impl Send for HmacKey {}
// SAFETY: As above.
unsafe impl Sync for HmacKey {}

impl HmacKey {
    /// Takes all of `secret` into account, however long it is; keeps nothing that it could be read from. May sleep.
    pub fn new(secret: &[u8]) -> Result<Self> {
        // SAFETY: `secret` is readable for its length.
        let key = unsafe { ffi::rmr_sys_hmac_new(secret.as_ptr(), secret.len()) };
        // INVARIANT: Made above.
        Ok(Self(NonNull::new(key).ok_or(ENOMEM)?))
    }
}

impl Drop for HmacKey {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; it is not used again.
        unsafe { ffi::rmr_sys_hmac_free(self.0.as_ptr()) };
    }
}

/// Any context.
impl MacKey for HmacKey {
    fn mac(&self, message: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = [0; MAC_BYTES];
        // SAFETY: The key is valid by the type invariant, `message` readable for its length, and `mac` as long as a SHA-256 digest.
        unsafe {
            ffi::rmr_sys_hmac(
                self.0.as_ptr(),
                message.as_ptr(),
                message.len(),
                mac.as_mut_ptr(),
            )
        };
        mac
    }

    fn same(a: &[u8; MAC_BYTES], b: &[u8; MAC_BYTES]) -> bool {
        // SAFETY: Both have the length of a SHA-256 digest.
        unsafe { ffi::rmr_sys_hmac_same(a.as_ptr(), b.as_ptr()) }
    }
}
