// SPDX-License-Identifier: GPL-2.0

//! Random numbers of cryptographic quality. Any context.

use kernel::bindings;
use rmr_proto::Uuid;

/// Fills `bytes`.
pub fn fill(bytes: &mut [u8]) {
    // SAFETY: `bytes` is writable for its length.
    unsafe { bindings::get_random_bytes(bytes.as_mut_ptr().cast(), bytes.len()) };
}

/// Any number.
pub fn u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// Any number but 0, which stands for "none" in generations.
pub fn nonce() -> u64 {
    u64().max(1)
}

/// A new UUID (version 4).
pub fn uuid() -> Uuid {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    Uuid::from_random(bytes)
}
