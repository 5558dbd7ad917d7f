// SPDX-License-Identifier: GPL-2.0

//! Size of a volume and its chunks, and whether a request lies inside.
//!
//! Not the place of the data on a device: that is the [`Layout`](crate::Layout).

use core::error::Error;
use core::fmt;
use core::mem::size_of;
use core::ops::Range;
use zerocopy::little_endian::U64;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Unit of volume sizes and of partial validity, in bytes.
pub const BLOCK_BYTES: u64 = 4096;

/// Binary logarithm of [`BLOCK_BYTES`].
pub const BLOCK_SHIFT: u32 = BLOCK_BYTES.trailing_zeros();

/// Largest volume, in bytes: offsets must fit the signed 64-bit numbers of the block layer.
pub const MAX_VOLUME_BYTES: u64 = i64::MAX as u64 & !(BLOCK_BYTES - 1);

/// Size and chunk size of a volume.
///
/// # Invariants
///
/// `size` is a multiple of [`BLOCK_BYTES`], not 0 and at most [`MAX_VOLUME_BYTES`]; `chunk_shift` is
/// [`Geometry::MIN_CHUNK_SHIFT`] to [`Geometry::MAX_CHUNK_SHIFT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    size: u64,
    chunk_shift: u8,
}

/// Why a size and a chunk size make no [`Geometry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// The size is 0 or above [`MAX_VOLUME_BYTES`].
    Size(u64),
    /// The size is not a multiple of [`BLOCK_BYTES`].
    Unaligned(u64),
    /// Not a chunk shift that is supported.
    ChunkShift(u8),
    /// Not a chunk size, in bytes, that is supported.
    ChunkSize(u64),
}

/// Why a range is not in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// Offset plus length is above 2^64.
    Overflow {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The range ends behind the volume.
    BeyondEnd {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Size of the volume in bytes.
        size: u64,
    },
}

impl Geometry {
    /// Smallest chunk: 4 KiB.
    pub const MIN_CHUNK_SHIFT: u8 = 12;
    /// Largest chunk: 64 MiB.
    pub const MAX_CHUNK_SHIFT: u8 = 26;
    /// Chunks of 64 KiB, if nothing else is said.
    pub const DEFAULT_CHUNK_SHIFT: u8 = 16;

    /// Checks a size in bytes and the binary logarithm of a chunk size in bytes.
    pub const fn new(size: u64, chunk_shift: u8) -> Result<Self, GeometryError> {
        if chunk_shift < Self::MIN_CHUNK_SHIFT || chunk_shift > Self::MAX_CHUNK_SHIFT {
            return Err(GeometryError::ChunkShift(chunk_shift));
        }
        if size == 0 || size > MAX_VOLUME_BYTES {
            return Err(GeometryError::Size(size));
        }
        if size % BLOCK_BYTES != 0 {
            return Err(GeometryError::Unaligned(size));
        }
        Ok(Self { size, chunk_shift })
    }

    /// The shift of a chunk size in bytes, as the administrator gives it.
    pub const fn shift_of(chunk_bytes: u64) -> Result<u8, GeometryError> {
        if !chunk_bytes.is_power_of_two() {
            return Err(GeometryError::ChunkSize(chunk_bytes));
        }
        let shift = chunk_bytes.trailing_zeros() as u8;
        if shift < Self::MIN_CHUNK_SHIFT || shift > Self::MAX_CHUNK_SHIFT {
            return Err(GeometryError::ChunkSize(chunk_bytes));
        }
        Ok(shift)
    }

    /// Size of the volume in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Binary logarithm of the chunk size.
    pub const fn chunk_shift(&self) -> u8 {
        self.chunk_shift
    }

    /// Chunk size in bytes.
    pub const fn chunk_size(&self) -> u64 {
        1 << self.chunk_shift
    }

    /// Number of chunks; the last may be shorter than the others.
    pub const fn chunks(&self) -> u64 {
        // Not 0, by the invariant; so no rounding up that could overflow.
        ((self.size - 1) >> self.chunk_shift) + 1
    }

    /// Chunk in which the byte at `offset` lies. Meaningful for offsets inside the volume.
    pub const fn chunk_of(&self, offset: u64) -> u64 {
        offset >> self.chunk_shift
    }

    /// Chunks a range touches; empty for an empty range.
    pub fn chunks_of(&self, offset: u64, len: u64) -> Result<Range<u64>, RangeError> {
        self.check(offset, len)?;
        let first = self.chunk_of(offset);
        if len == 0 {
            return Ok(first..first);
        }
        // `check` says that the sum does not overflow, and `len` is not 0.
        Ok(first..self.chunk_of(offset + (len - 1)) + 1)
    }

    /// Offset and length in bytes of a chunk, `None` behind the last.
    pub const fn chunk_range(&self, chunk: u64) -> Option<(u64, u64)> {
        if chunk >= self.chunks() {
            return None;
        }
        let offset = chunk << self.chunk_shift;
        let rest = self.size - offset;
        let len = if rest < self.chunk_size() {
            rest
        } else {
            self.chunk_size()
        };
        Some((offset, len))
    }

    /// Whether `len` bytes from `offset` on lie in the volume. An empty range at its end does.
    pub const fn check(&self, offset: u64, len: u64) -> Result<(), RangeError> {
        match offset.checked_add(len) {
            None => Err(RangeError::Overflow { offset, len }),
            Some(end) if end > self.size => Err(RangeError::BeyondEnd {
                offset,
                len,
                size: self.size,
            }),
            Some(_) => Ok(()),
        }
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes in chunks of {} bytes",
            self.size,
            self.chunk_size()
        )
    }
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => {
                write!(
                    f,
                    "a volume of {size} bytes: it must have 1 to {MAX_VOLUME_BYTES} bytes"
                )
            }
            Self::Unaligned(size) => {
                write!(
                    f,
                    "a volume of {size} bytes: the size must be a multiple of {BLOCK_BYTES} bytes"
                )
            }
            Self::ChunkShift(shift) => write!(
                f,
                "chunk shift {shift}: it must be {} to {}",
                Geometry::MIN_CHUNK_SHIFT,
                Geometry::MAX_CHUNK_SHIFT
            ),
            Self::ChunkSize(bytes) => write!(
                f,
                "a chunk size of {bytes} bytes: it must be a power of two from {} to {}",
                1u64 << Geometry::MIN_CHUNK_SHIFT,
                1u64 << Geometry::MAX_CHUNK_SHIFT
            ),
        }
    }
}

impl Error for GeometryError {}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overflow { offset, len } => {
                write!(f, "{len} bytes at offset {offset} do not fit 64 bits")
            }
            Self::BeyondEnd { offset, len, size } => {
                write!(
                    f,
                    "{len} bytes at offset {offset} end behind the volume of {size} bytes"
                )
            }
        }
    }
}

impl Error for RangeError {}

/// The same as bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawGeometry {
    size: U64,
    chunk_shift: u8,
    reserved: [u8; 7],
}

const _: () = assert!(size_of::<RawGeometry>() == 16);

impl RawGeometry {
    pub(crate) fn new(geometry: &Geometry) -> Self {
        Self {
            size: U64::new(geometry.size),
            chunk_shift: geometry.chunk_shift,
            reserved: [0; 7],
        }
    }

    /// The geometry, and whether the reserved bytes are zero.
    pub(crate) fn get(&self) -> Result<(Geometry, bool), GeometryError> {
        Ok((
            Geometry::new(self.size.get(), self.chunk_shift)?,
            self.reserved == [0; 7],
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIB: u64 = 1 << 40;

    #[test]
    fn refused() {
        assert_eq!(Geometry::new(0, 16), Err(GeometryError::Size(0)));
        assert_eq!(
            Geometry::new(u64::MAX, 16),
            Err(GeometryError::Size(u64::MAX))
        );
        assert_eq!(Geometry::new(4097, 16), Err(GeometryError::Unaligned(4097)));
        assert_eq!(Geometry::new(4096, 11), Err(GeometryError::ChunkShift(11)));
        assert_eq!(Geometry::new(4096, 27), Err(GeometryError::ChunkShift(27)));
        assert_eq!(
            Geometry::new(4096, 255),
            Err(GeometryError::ChunkShift(255))
        );
        assert_eq!(Geometry::shift_of(0), Err(GeometryError::ChunkSize(0)));
        assert_eq!(
            Geometry::shift_of(2048),
            Err(GeometryError::ChunkSize(2048))
        );
        assert_eq!(
            Geometry::shift_of(65537),
            Err(GeometryError::ChunkSize(65537))
        );
        assert_eq!(
            Geometry::shift_of(1 << 63),
            Err(GeometryError::ChunkSize(1 << 63))
        );
        for shift in [12, 16, 26] {
            assert_eq!(Geometry::shift_of(1 << shift), Ok(shift));
        }
    }

    #[test]
    fn edges() {
        for size in [4096, 1 << 20, (1 << 20) + 4096, 16 * TIB, MAX_VOLUME_BYTES] {
            for shift in [12, 16, 26] {
                let g = Geometry::new(size, shift).unwrap();
                assert_eq!(g.check(0, 0), Ok(()));
                assert_eq!(g.check(0, size), Ok(()));
                assert_eq!(g.check(size, 0), Ok(()));
                assert_eq!(g.check(size - 512, 512), Ok(()));
                let behind = RangeError::BeyondEnd {
                    offset: size - 512,
                    len: 1024,
                    size,
                };
                assert_eq!(g.check(size - 512, 1024), Err(behind));
                assert!(g.check(0, size + 1).is_err());
                assert!(g.check(size, 1).is_err());
                assert!(g.check(1, u64::MAX - 1).is_err());
                for offset in [1, u64::MAX - 511, u64::MAX] {
                    assert_eq!(
                        g.check(offset, u64::MAX),
                        Err(RangeError::Overflow {
                            offset,
                            len: u64::MAX
                        })
                    );
                }
                assert!(g.check(u64::MAX, 0).is_err());
                assert_eq!(g.chunk_of(0), 0);
                assert_eq!(g.chunk_of(size - 1), g.chunks() - 1);
                assert_eq!(g.chunk_range(g.chunks()), None);
                assert_eq!(g.chunk_range(u64::MAX), None);
                let (offset, len) = g.chunk_range(g.chunks() - 1).unwrap();
                assert_eq!(offset + len, size);
                assert_eq!(g.chunks_of(0, size), Ok(0..g.chunks()));
            }
        }
        assert_eq!(Geometry::new(16 * TIB, 12).unwrap().chunks(), 1 << 32);
    }

    proptest! {
        #[test]
        fn check_is_exact(blocks in 1u64..=MAX_VOLUME_BYTES / BLOCK_BYTES, shift in 12u8..=26, offset: u64, len: u64) {
            let g = Geometry::new(blocks * BLOCK_BYTES, shift).unwrap();
            let inside = u128::from(offset) + u128::from(len) <= u128::from(g.size());
            prop_assert_eq!(g.check(offset, len).is_ok(), inside);
            if let Ok(range) = g.chunks_of(offset, len) {
                prop_assert!(range.end <= g.chunks() || range.is_empty());
            }
        }
    }
}
