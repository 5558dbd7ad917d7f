// SPDX-License-Identifier: GPL-2.0

//! One request of a batch: what is asked of a member's store.

use crate::ids::Seq;
use core::error::Error;
use core::fmt;
use core::mem::size_of;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Longest request of any kind, in bytes; also the size of a region of the overlap check, so that a
/// request touches at most two.
pub const MAX_IO: u32 = 4 << 20;

/// Offsets and lengths are multiples of this, in bytes.
pub const SECTOR_BYTES: u32 = 512;

/// Operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// Data comes from the store.
    Read = 1,
    /// Data goes to the store.
    Write = 2,
    /// Everything written before becomes stable.
    Flush = 3,
    /// The range reads as zeroes afterwards; no data.
    WriteZeroes = 4,
}

impl Op {
    /// The operation a number in a message means.
    pub const fn from_wire(wire: u8) -> Option<Self> {
        Some(match wire {
            1 => Self::Read,
            2 => Self::Write,
            3 => Self::Flush,
            4 => Self::WriteZeroes,
            _ => return None,
        })
    }

    /// Whether the request carries data, in either direction.
    pub const fn has_data(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }

    /// Whether the request changes the volume, so has a sequence number and takes part in dirty tracking.
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::WriteZeroes)
    }
}

/// Flags of a request, a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flags(u8);

impl Flags {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// Stable before it is acknowledged; with `Write` and `WriteZeroes`.
    pub const FUA: Self = Self(1 << 0);
    /// Space may be given back; with `WriteZeroes`.
    pub const UNMAP: Self = Self(1 << 1);

    /// The flags that are on.
    pub const fn new(fua: bool, unmap: bool) -> Self {
        Self((fua as u8 * Self::FUA.0) | (unmap as u8 * Self::UNMAP.0))
    }

    /// The bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// Flags.
    pub flags: Flags,
    /// Sequence number of a write; none for reads and flushes.
    pub seq: Seq,
    /// Offset in the volume, in bytes.
    pub offset: u64,
    /// Length in bytes; 0 for a flush.
    pub len: u32,
    /// Where its data begins in the data of the message, in bytes. Follows from the requests before; not
    /// looked at when a request is encoded.
    pub data_offset: u32,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// No such operation.
    Op(u8),
    /// Flags that do not go with the operation.
    Flags {
        /// The operation.
        op: Op,
        /// The flags.
        flags: u8,
    },
    /// Reserved bytes are not zero.
    Reserved,
    /// Offset or length is not a multiple of 512.
    Unaligned {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
    /// No length where one is needed, one where none is, or more than [`MAX_IO`].
    Length {
        /// The operation.
        op: Op,
        /// Length in bytes.
        len: u32,
    },
    /// Offset plus length does not fit 64 bits, or a flush has an offset.
    Offset(u64),
    /// A write without sequence number.
    NoSeq,
    /// A sequence number on something that is no write.
    Seq(Seq),
}

impl Request {
    /// Whether it must be stable before it is acknowledged.
    pub const fn fua(&self) -> bool {
        self.flags.contains(Flags::FUA)
    }

    /// Whether it may give space back.
    pub const fn unmap(&self) -> bool {
        self.flags.contains(Flags::UNMAP)
    }

    /// Bytes of data that travel with it.
    pub const fn data_len(&self) -> u32 {
        if self.op.has_data() {
            self.len
        } else {
            0
        }
    }

    /// Whether the request makes sense by itself. Says nothing of the size of the volume.
    #[inline]
    pub const fn check(&self) -> Result<(), RequestError> {
        let Self {
            op,
            flags,
            seq,
            offset,
            len,
            ..
        } = *self;
        let allowed = match op {
            Op::Read | Op::Flush => 0,
            Op::Write => Flags::FUA.0,
            Op::WriteZeroes => Flags::FUA.0 | Flags::UNMAP.0,
        };
        if flags.0 & !allowed != 0 {
            return Err(RequestError::Flags { op, flags: flags.0 });
        }
        if op.is_write() {
            if seq.is_none() {
                return Err(RequestError::NoSeq);
            }
        } else if seq.is_some() {
            return Err(RequestError::Seq(seq));
        }
        if matches!(op, Op::Flush) {
            if len != 0 {
                return Err(RequestError::Length { op, len });
            }
            if offset != 0 {
                return Err(RequestError::Offset(offset));
            }
            return Ok(());
        }
        if len == 0 || len > MAX_IO {
            return Err(RequestError::Length { op, len });
        }
        if (offset | len as u64) % SECTOR_BYTES as u64 != 0 {
            return Err(RequestError::Unaligned { offset, len });
        }
        if offset.checked_add(len as u64).is_none() {
            return Err(RequestError::Offset(offset));
        }
        Ok(())
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Op(op) => write!(f, "unknown operation {op}"),
            Self::Flags { op, flags } => {
                write!(f, "flags {flags:#x} do not go with operation {op:?}")
            }
            Self::Reserved => f.write_str("reserved bytes are not zero"),
            Self::Unaligned { offset, len } => {
                write!(
                    f,
                    "offset {offset} or length {len} is not a multiple of {SECTOR_BYTES}"
                )
            }
            Self::Length { op, len } => write!(f, "operation {op:?} with a length of {len}"),
            Self::Offset(offset) => write!(f, "impossible offset {offset}"),
            Self::NoSeq => f.write_str("write without sequence number"),
            Self::Seq(seq) => write!(f, "sequence number {seq} on something that is no write"),
        }
    }
}

impl Error for RequestError {}

/// The request as bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawRequest {
    seq: U64,
    offset: U64,
    len: U32,
    op: u8,
    flags: u8,
    reserved: U16,
}

pub(crate) const REQUEST_BYTES: usize = 24;

const _: () = assert!(size_of::<RawRequest>() == REQUEST_BYTES);

impl RawRequest {
    pub(crate) fn new(request: &Request) -> Self {
        Self {
            seq: U64::new(request.seq.0),
            offset: U64::new(request.offset),
            len: U32::new(request.len),
            op: request.op as u8,
            flags: request.flags.0,
            reserved: U16::ZERO,
        }
    }

    /// Decodes without the checks of [`Request::check`].
    #[inline]
    pub(crate) fn decode(&self, data_offset: u32) -> Option<Request> {
        Some(Request {
            op: Op::from_wire(self.op)?,
            flags: Flags(self.flags),
            seq: Seq(self.seq.get()),
            offset: self.offset.get(),
            len: self.len.get(),
            data_offset,
        })
    }

    /// Decodes and checks everything.
    #[inline]
    pub(crate) fn parse(&self, data_offset: u32) -> Result<Request, RequestError> {
        let request = self.decode(data_offset).ok_or(RequestError::Op(self.op))?;
        if self.reserved.get() != 0 {
            return Err(RequestError::Reserved);
        }
        request.check()?;
        Ok(request)
    }
}
