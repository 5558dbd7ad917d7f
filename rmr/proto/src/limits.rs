// SPDX-License-Identifier: GPL-2.0

//! What a store, or a disk made of several, can do: block sizes and features.

use core::error::Error;
use core::fmt;
use core::mem::size_of;
use core::ops::BitOr;
use zerocopy::little_endian::U32;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Features of a store, a set of bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features(u32);

impl Features {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// The store has a volatile cache: writes are stable only after a flush.
    pub const WRITE_CACHE: Self = Self(1 << 0);
    /// The store executes FUA itself. Says something only together with [`Features::WRITE_CACHE`].
    pub const FUA: Self = Self(1 << 1);
    /// Write-zeroes with unmap gives space back.
    pub const DISCARD: Self = Self(1 << 2);
    /// Write-zeroes is cheaper than writing zeroes.
    pub const WRITE_ZEROES: Self = Self(1 << 3);
    /// Access time depends on the place.
    pub const ROTATIONAL: Self = Self(1 << 4);
    /// The store cannot be written.
    pub const READ_ONLY: Self = Self(1 << 5);

    const ALL: u32 = (1 << 6) - 1;

    /// `None` if a bit is set that has no meaning.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::ALL == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and `other` if `on`, these without `other` if not.
    pub const fn set(self, other: Self, on: bool) -> Self {
        if on {
            Self(self.0 | other.0)
        } else {
            Self(self.0 & !other.0)
        }
    }
}

impl BitOr for Features {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The names of the features, separated by commas, or `-`.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Features, &str); 6] = [
            (Features::WRITE_CACHE, "write-cache"),
            (Features::FUA, "fua"),
            (Features::DISCARD, "discard"),
            (Features::WRITE_ZEROES, "write-zeroes"),
            (Features::ROTATIONAL, "rotational"),
            (Features::READ_ONLY, "read-only"),
        ];
        let mut between = "";
        for (feature, name) in NAMES {
            if self.contains(feature) {
                f.write_str(between)?;
                f.write_str(name)?;
                between = ",";
            }
        }
        if self.0 == 0 {
            f.write_str("-")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// Block sizes and features. All sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Smallest unit of a request: a power of two, 512 to 4096.
    pub logical_block: u32,
    /// Smallest unit written without read-modify-write: a power of two, not below `logical_block`.
    pub physical_block: u32,
    /// Preferred smallest request; a multiple of 512, 0 for no preference.
    pub io_min: u32,
    /// Preferred request; a multiple of 512, 0 for no preference.
    pub io_opt: u32,
    /// Longest write-zeroes request; a multiple of 512, 0 if not supported.
    pub max_write_zeroes: u32,
    /// Features.
    pub features: Features,
}

/// A field of [`Limits`] whose value makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsError {
    /// Name of the field.
    pub field: &'static str,
    /// Its value.
    pub value: u32,
}

impl Limits {
    /// Whether the fields keep what their documentation says.
    pub fn check(&self) -> Result<(), LimitsError> {
        let wrong = |field, value| Err(LimitsError { field, value });
        if !self.logical_block.is_power_of_two() || !(512..=4096).contains(&self.logical_block) {
            return wrong("logical block size", self.logical_block);
        }
        if !self.physical_block.is_power_of_two() || self.physical_block < self.logical_block {
            return wrong("physical block size", self.physical_block);
        }
        for (field, value) in [
            ("minimum IO size", self.io_min),
            ("optimal IO size", self.io_opt),
            ("maximum write-zeroes size", self.max_write_zeroes),
        ] {
            if value % 512 != 0 {
                return wrong(field, value);
            }
        }
        Ok(())
    }

    /// What two stores can do together: what both can, in units that suit both.
    ///
    /// Associative and commutative, so the order of the members does not matter.
    pub fn strictest(&self, other: &Self) -> Self {
        let (a, b) = (self.features, other.features);
        let both = |f| a.contains(f) && b.contains(f);
        let any = |f| a.contains(f) || b.contains(f);
        // A store without cache executes FUA by writing; without any cache the flag says nothing.
        let cache = any(Features::WRITE_CACHE);
        let fua_ok = |f: Features| f.contains(Features::FUA) || !f.contains(Features::WRITE_CACHE);
        let features = Features::EMPTY
            .set(Features::WRITE_CACHE, cache)
            .set(Features::FUA, cache && fua_ok(a) && fua_ok(b))
            .set(Features::DISCARD, both(Features::DISCARD))
            .set(Features::WRITE_ZEROES, both(Features::WRITE_ZEROES))
            .set(Features::ROTATIONAL, any(Features::ROTATIONAL))
            .set(Features::READ_ONLY, any(Features::READ_ONLY));
        Self {
            // Powers of two: the larger is a multiple of the smaller.
            logical_block: self.logical_block.max(other.logical_block),
            physical_block: self.physical_block.max(other.physical_block),
            io_min: self.io_min.max(other.io_min),
            io_opt: self.io_opt.max(other.io_opt),
            max_write_zeroes: self.max_write_zeroes.min(other.max_write_zeroes),
            features,
        }
    }
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the limits have an impossible {} of {}",
            self.field, self.value
        )
    }
}

impl Error for LimitsError {}

/// The same as bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawLimits {
    logical_block: U32,
    physical_block: U32,
    io_min: U32,
    io_opt: U32,
    max_write_zeroes: U32,
    features: U32,
}

const _: () = assert!(size_of::<RawLimits>() == 24);

impl RawLimits {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            logical_block: U32::new(limits.logical_block),
            physical_block: U32::new(limits.physical_block),
            io_min: U32::new(limits.io_min),
            io_opt: U32::new(limits.io_opt),
            max_write_zeroes: U32::new(limits.max_write_zeroes),
            features: U32::new(limits.features.bits()),
        }
    }

    pub(crate) fn get(&self) -> Result<Limits, LimitsError> {
        let bits = self.features.get();
        let features = Features::from_bits(bits).ok_or(LimitsError {
            field: "feature bits",
            value: bits,
        })?;
        let limits = Limits {
            logical_block: self.logical_block.get(),
            physical_block: self.physical_block.get(),
            io_min: self.io_min.get(),
            io_opt: self.io_opt.get(),
            max_write_zeroes: self.max_write_zeroes.get(),
            features,
        };
        limits.check()?;
        Ok(limits)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        /// Any valid limits.
        pub(crate) fn any_limits()(
            logical in 9u32..=12,
            above in 0u32..=4,
            sectors: [u16; 3],
            bits in 0u32..64,
        ) -> Limits {
            Limits {
                logical_block: 1 << logical,
                physical_block: 1 << (logical + above),
                io_min: u32::from(sectors[0]) * 512,
                io_opt: u32::from(sectors[1]) * 512,
                max_write_zeroes: u32::from(sectors[2]) * 512,
                features: Features::from_bits(bits).unwrap(),
            }
        }
    }

    #[test]
    fn cache_and_fua() {
        let base = Limits {
            logical_block: 512,
            physical_block: 4096,
            io_min: 4096,
            io_opt: 0,
            max_write_zeroes: 1 << 20,
            features: Features::EMPTY,
        };
        let with = |features| Limits { features, ..base };
        let cached = with(Features::WRITE_CACHE);
        let cached_fua = with(Features::WRITE_CACHE | Features::FUA);
        assert_eq!(cached_fua.strictest(&base).features, cached_fua.features);
        assert_eq!(cached_fua.strictest(&cached).features, cached.features);
        assert_eq!(base.strictest(&base), base);
        assert_eq!(Features::from_bits(64), None);
        let twice = cached_fua.features | cached.features;
        assert_eq!(twice.set(Features::FUA, true), cached_fua.features);
        let discard = with(Features::DISCARD);
        assert_eq!(discard.strictest(&base).features, Features::EMPTY);
        assert_eq!(discard.strictest(&discard), discard);
    }

    #[test]
    fn numbers_are_stable() {
        let all = [
            Features::WRITE_CACHE,
            Features::FUA,
            Features::DISCARD,
            Features::WRITE_ZEROES,
            Features::ROTATIONAL,
            Features::READ_ONLY,
        ];
        assert_eq!(all.map(Features::bits), [1, 2, 4, 8, 16, 32]);
    }

    #[test]
    fn refused() {
        let refused = |logical_block, physical_block, io_min| {
            let limits = Limits {
                logical_block,
                physical_block,
                io_min,
                io_opt: 0,
                max_write_zeroes: 0,
                features: Features::EMPTY,
            };
            limits.check().unwrap_err()
        };
        for size in [0, 256, 768, 8192] {
            assert_eq!(refused(size, 1 << 20, 0).value, size);
        }
        for size in [0, 1024, 6144] {
            assert_eq!(refused(4096, size, 0).value, size);
        }
        assert_eq!(refused(512, 4096, 513).value, 513);
    }

    proptest! {
        #[test]
        fn strictest_is_a_join(a in any_limits(), b in any_limits(), c in any_limits()) {
            prop_assert_eq!(a.check(), Ok(()));
            prop_assert_eq!(a.strictest(&b), b.strictest(&a));
            prop_assert_eq!(a.strictest(&b).strictest(&c), a.strictest(&b.strictest(&c)));
            prop_assert_eq!(a.strictest(&b).strictest(&b), a.strictest(&b));
            prop_assert_eq!(a.strictest(&b).check(), Ok(()));
        }
    }
}
