// SPDX-License-Identifier: GPL-2.0

//! CRC32C as the kernel computes it.

use core::ffi::c_void;
use rmr_proto::Crc32c;

extern "C" {
    // Not among the bindings of the kernel crate. `u32 crc32c(u32 crc, const void *p, size_t len)`.
    fn crc32c(crc: u32, data: *const c_void, len: usize) -> u32;
}

/// The kernel's CRC32C. Any context.
pub struct KernelCrc;

impl Crc32c for KernelCrc {
    #[inline]
    fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
        // SAFETY: `bytes` is readable for its length.
        unsafe { crc32c(seed, bytes.as_ptr().cast(), bytes.len()) }
    }
}
