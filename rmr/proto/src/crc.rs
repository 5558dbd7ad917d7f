// SPDX-License-Identifier: GPL-2.0

//! The checksum, lent by whoever uses the crate: the kernel has a fast one, the host another.

/// CRC32C (Castagnoli), the bare register: no inversion before or after.
///
/// This is what the kernel's `crc32c(seed, data, len)` computes. A host library that inverts is adapted
/// with `!crc32c_append(!seed, bytes)`. [`crc_is_right`] tells whether an implementation keeps to this.
pub trait Crc32c {
    /// Runs `bytes` through the register `seed` and returns the register. `crc32c(crc32c(s, a), b)` is
    /// the register after `a` and `b`.
    fn crc32c(seed: u32, bytes: &[u8]) -> u32;
}

/// Register before the first byte.
const START: u32 = !0;

/// Checks an implementation against the check value of CRC32C; for module load and start of tools.
pub fn crc_is_right<C: Crc32c>() -> bool {
    let split = C::crc32c(C::crc32c(START, b"1234"), b"56789");
    !C::crc32c(START, b"123456789") == 0xe306_9283 && !split == 0xe306_9283
}

/// A checksum over several pieces.
pub(crate) struct Sum(u32);

impl Sum {
    /// Starts with `bytes`.
    pub(crate) fn of<C: Crc32c>(bytes: &[u8]) -> Self {
        Self(C::crc32c(START, bytes))
    }

    /// Goes on with `bytes`.
    pub(crate) fn and<C: Crc32c>(&self, bytes: &[u8]) -> Self {
        Self(C::crc32c(self.0, bytes))
    }

    /// Goes on with `bytes` and returns the checksum as it is stored.
    pub(crate) fn then<C: Crc32c>(&self, bytes: &[u8]) -> u32 {
        !C::crc32c(self.0, bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The host's implementation, for all tests of the crate.
    pub(crate) struct Host;

    impl Crc32c for Host {
        fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
            !crc32c::crc32c_append(!seed, bytes)
        }
    }

    #[test]
    fn known_value() {
        struct Inverting;
        impl Crc32c for Inverting {
            fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
                crc32c::crc32c_append(seed, bytes)
            }
        }
        /// Right, but only for what comes in one piece.
        struct Forgetting;
        impl Crc32c for Forgetting {
            fn crc32c(_: u32, bytes: &[u8]) -> u32 {
                Host::crc32c(START, bytes)
            }
        }
        assert!(crc_is_right::<Host>());
        assert!(!crc_is_right::<Forgetting>());
        assert!(!crc_is_right::<Inverting>());
    }
}
