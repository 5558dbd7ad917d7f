// SPDX-License-Identifier: GPL-2.0

//! The header every message begins with, and the reasons to refuse a message.

use crate::config::ConfigError;
use crate::crc::Crc32c;
use crate::crc::Sum;
use crate::geometry::GeometryError;
use crate::ids::Epoch;
use crate::ids::Generation;
use crate::ids::Incarnation;
use crate::ids::MemberId;
use crate::ids::NameError;
use crate::ids::Seq;
use crate::ids::Uuid;
use crate::limits::LimitsError;
use crate::request::RequestError;
use crate::status::Status;
use core::error::Error;
use core::fmt;
use core::mem::offset_of;
use core::mem::size_of;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// First bytes of every message.
pub(crate) const MAGIC: [u8; 8] = *b"rmr-msg\0";

/// The protocol version spoken, and the only one.
pub const PROTOCOL_VERSION: u16 = 1;

/// Bytes of the header of a message.
pub const HEADER_BYTES: usize = 88;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// A batch of writes, flushes and write-zeroes; sent as RTRS write.
    IoWrite = 1,
    /// A batch of reads; sent as RTRS read.
    IoRead = 2,
    /// Who and how are you?
    Query = 16,
    /// Phase one of an attach.
    Promise = 17,
    /// Phase two of an attach, and every change of the configuration.
    Install = 18,
    /// The client goes.
    Detach = 19,
    /// Is the path alive, and is the member the one it was? Also carries the watermark.
    Ping = 20,
    /// Chunks for dirty bitmaps.
    Merge = 21,
    /// Where the node of another member is.
    Address = 22,
    /// Does the member know the secret of the pool?
    Challenge = 23,
    /// The sender knows the secret of the pool.
    Proof = 24,
    /// From member to member: a page of a dirty bitmap, please.
    FetchDirty = 32,
    /// From member to member: data, please.
    Pull = 33,
    /// From member to member: chunks that are current on the sender again.
    Clear = 34,
    /// From member to member: the highest number of a write that was begun, please.
    Begun = 35,
}

impl Kind {
    /// The kind a number in a message means.
    pub const fn from_wire(wire: u16) -> Option<Self> {
        Some(match wire {
            1 => Self::IoWrite,
            2 => Self::IoRead,
            16 => Self::Query,
            17 => Self::Promise,
            18 => Self::Install,
            19 => Self::Detach,
            20 => Self::Ping,
            21 => Self::Merge,
            22 => Self::Address,
            23 => Self::Challenge,
            24 => Self::Proof,
            32 => Self::FetchDirty,
            33 => Self::Pull,
            34 => Self::Clear,
            35 => Self::Begun,
            _ => return None,
        })
    }

    /// What a message says that it is, unchecked: a transport carries some kinds in two parts, and has to put them together
    /// before they can be checked.
    pub fn peek(bytes: &[u8]) -> Option<Self> {
        let (raw, _) = RawHeader::ref_from_prefix(bytes).ok()?;
        Self::from_wire(raw.kind.get())
    }

    /// The number in messages.
    pub const fn wire(self) -> u16 {
        self as u16
    }

    /// Whether the message is a batch of requests.
    pub const fn is_io(self) -> bool {
        matches!(self, Self::IoWrite | Self::IoRead)
    }

    /// Whether the message is from one member to another.
    pub const fn is_peer(self) -> bool {
        matches!(
            self,
            Self::FetchDirty | Self::Pull | Self::Clear | Self::Begun
        )
    }
}

/// Whom a message is for, and under which configuration it was sent (R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// UUID of the pool.
    pub pool: Uuid,
    /// Member the message is for.
    pub member: MemberId,
    /// Incarnation of that member.
    pub incarnation: Incarnation,
    /// Generation of the client.
    pub generation: Generation,
    /// Epoch of the configuration.
    pub epoch: Epoch,
    /// Every write up to this one is complete on every receiver.
    pub watermark: Seq,
}

/// Why a message was refused. Says what is wrong in terms of the message; nothing of it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Not even a header.
    Short {
        /// Bytes there.
        len: usize,
        /// Bytes a message of this kind needs.
        need: usize,
    },
    /// Not a message of RMR.
    Magic,
    /// Another protocol version.
    Version(u16),
    /// The length in the header is not the length of the message, or not that of its kind.
    Length {
        /// Length in the header.
        said: u32,
        /// Length that is right.
        right: usize,
    },
    /// The checksum is wrong.
    Checksum,
    /// No such kind of message, or not one that belongs here.
    Kind(u16),
    /// A field that must be zero is not.
    Reserved,
    /// Not a member id.
    Member(u16),
    /// A field that identifies something is empty; which.
    Missing(&'static str),
    /// Not a number of requests, or entries of a list, that a message can have.
    Count(u16),
    /// A run of no chunks, or of chunks that do not exist in any volume.
    Run {
        /// The first chunk.
        first: u64,
        /// How many.
        chunks: u32,
    },
    /// An impossible range of data.
    Range {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
    /// One of the requests is wrong.
    Request {
        /// Which, from 0.
        index: usize,
        /// What is wrong.
        why: RequestError,
    },
    /// A request that does not belong into a message of this kind.
    Direction {
        /// Which, from 0.
        index: usize,
    },
    /// A write at or below the watermark of its own message.
    BelowWatermark {
        /// Which, from 0.
        index: usize,
        /// Its sequence number.
        seq: Seq,
        /// The watermark.
        watermark: Seq,
    },
    /// The data length in the header is not the sum over the requests.
    DataLen {
        /// Length in the header.
        said: u32,
        /// Sum over the requests, as far as it fits 32 bits.
        sum: u32,
    },
    /// The pool name is wrong.
    Name(NameError),
    /// The configuration makes no sense.
    Config(ConfigError),
    /// Header and configuration do not belong together.
    ConfigHeader,
    /// Unknown flags.
    Flags(u32),
    /// A text is empty, too long, or has bytes that do not belong into one.
    Text,
    /// Nothing that the sender can be for a member.
    Role(u16),
    /// No such status.
    Status(u16),
    /// No such progress: its kind, and the number of chunks.
    Progress(u8, u64),
    /// No size an activity log can have, in extents.
    LogExtents(u32),
    /// The report of a member has impossible limits.
    Limits(LimitsError),
    /// The report of a member has an impossible geometry.
    Geometry(GeometryError),
}

impl WireError {
    /// What a member answers to such a message.
    pub const fn status(&self) -> Status {
        match self {
            Self::Version(_) => Status::WrongVersion,
            _ => Status::Invalid,
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { len, need } => {
                write!(f, "message of {len} bytes where {need} are needed")
            }
            Self::Magic => f.write_str("not a message of RMR"),
            Self::Version(v) => {
                write!(
                    f,
                    "protocol version {v}, only {PROTOCOL_VERSION} is supported"
                )
            }
            Self::Length { said, right } => {
                write!(
                    f,
                    "message says it has {said} bytes, but it must have {right}"
                )
            }
            Self::Checksum => f.write_str("checksum of the message is wrong"),
            Self::Kind(kind) => write!(f, "message of kind {kind} is unknown or not expected here"),
            Self::Reserved => f.write_str("a reserved field of the message is not zero"),
            Self::Member(id) => write!(f, "{id} is not a member id"),
            Self::Missing(what) => write!(f, "message without {what}"),
            Self::Count(n) => write!(f, "message with {n} requests or entries"),
            Self::Run { first, chunks } => {
                write!(f, "a run of {chunks} chunks from chunk {first} on")
            }
            Self::Range { offset, len } => {
                write!(f, "a range of {len} bytes at offset {offset}")
            }
            Self::Request { index, why } => write!(f, "request {index} of the message: {why}"),
            Self::Direction { index } => {
                write!(f, "request {index} of the message has the wrong direction")
            }
            Self::BelowWatermark {
                index,
                seq,
                watermark,
            } => {
                write!(f, "request {index} of the message: write {seq} is not above its watermark {watermark}")
            }
            Self::DataLen { said, sum } => {
                write!(
                    f,
                    "message says it has {said} bytes of data, but its requests have {sum}"
                )
            }
            Self::Name(why) => fmt::Display::fmt(why, f),
            Self::Config(why) => fmt::Display::fmt(why, f),
            Self::ConfigHeader => {
                f.write_str("header and configuration differ in pool, generation or epoch")
            }
            Self::Flags(flags) => write!(f, "unknown flags {flags:#x} in a control message"),
            Self::Text => f.write_str("a text of the message is empty, too long, or not printable"),
            Self::Role(role) => write!(f, "{role} is not a role"),
            Self::Status(status) => write!(f, "unknown status {status} in a reply"),
            Self::Progress(kind, chunks) => {
                write!(f, "unknown progress {kind} with {chunks} chunks")
            }
            Self::LogExtents(extents) => {
                write!(
                    f,
                    "the report of a member has an activity log of {extents} extents"
                )
            }
            Self::Limits(why) => fmt::Display::fmt(why, f),
            Self::Geometry(why) => fmt::Display::fmt(why, f),
        }
    }
}

impl Error for WireError {}

macro_rules! from {
    ($($variant:ident($error:ty),)*) => {
        $(impl From<$error> for WireError {
            fn from(why: $error) -> Self {
                Self::$variant(why)
            }
        })*
    };
}

from! {
    Name(NameError),
    Config(ConfigError),
    Limits(LimitsError),
    Geometry(GeometryError),
}

/// The header as bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U16,
    pub(crate) kind: U16,
    pub(crate) len: U32,
    pub(crate) crc: U32,
    pub(crate) reserved: U32,
    pub(crate) pool: [u8; 16],
    pub(crate) member: U16,
    pub(crate) count: U16,
    pub(crate) data_len: U32,
    pub(crate) incarnation: U64,
    pub(crate) generation: U64,
    pub(crate) nonce: U64,
    pub(crate) epoch: U64,
    pub(crate) watermark: U64,
}

const _: () = {
    assert!(size_of::<RawHeader>() == HEADER_BYTES);
    assert!(offset_of!(RawHeader, crc) == 16);
    assert!(offset_of!(RawHeader, pool) == 24);
    assert!(offset_of!(RawHeader, incarnation) == 48);
    assert!(offset_of!(RawHeader, watermark) == 80);
};

impl RawHeader {
    /// All zero.
    pub(crate) const EMPTY: Self = Self {
        magic: [0; 8],
        version: U16::ZERO,
        kind: U16::ZERO,
        len: U32::ZERO,
        crc: U32::ZERO,
        reserved: U32::ZERO,
        pool: [0; 16],
        member: U16::ZERO,
        count: U16::ZERO,
        data_len: U32::ZERO,
        incarnation: U64::ZERO,
        generation: U64::ZERO,
        nonce: U64::ZERO,
        epoch: U64::ZERO,
        watermark: U64::ZERO,
    };

    /// The fields every message has.
    pub(crate) fn new(kind: Kind, len: u32) -> Self {
        Self {
            magic: MAGIC,
            version: U16::new(PROTOCOL_VERSION),
            kind: U16::new(kind.wire()),
            len: U32::new(len),
            ..Self::EMPTY
        }
    }

    /// Checks what all messages have in common; returns header, kind and body.
    pub(crate) fn open<C: Crc32c>(bytes: &[u8]) -> Result<(&Self, Kind, &[u8]), WireError> {
        let short = WireError::Short {
            len: bytes.len(),
            need: HEADER_BYTES,
        };
        let (raw, body) = Self::ref_from_prefix(bytes).map_err(|_| short)?;
        if raw.magic != MAGIC {
            return Err(WireError::Magic);
        }
        if raw.version.get() != PROTOCOL_VERSION {
            return Err(WireError::Version(raw.version.get()));
        }
        if usize::try_from(raw.len.get()) != Ok(bytes.len()) {
            return Err(WireError::Length {
                said: raw.len.get(),
                right: bytes.len(),
            });
        }
        let sum = Sum::of::<C>(body);
        if raw.sum::<C>(&sum) != raw.crc.get() {
            return Err(WireError::Checksum);
        }
        let kind = Kind::from_wire(raw.kind.get()).ok_or(WireError::Kind(raw.kind.get()))?;
        if raw.reserved.get() != 0 {
            return Err(WireError::Reserved);
        }
        Ok((raw, kind, body))
    }

    /// The checksum: over the body, then the header with a zero checksum field. So the body is summed once
    /// for all members a batch goes to.
    fn sum<C: Crc32c>(&self, body: &Sum) -> u32 {
        let mut zeroed = *self;
        zeroed.crc = U32::ZERO;
        body.then::<C>(zeroed.as_bytes())
    }

    /// Makes a header for a body whose sum is known.
    pub(crate) fn seal<C: Crc32c>(&mut self, body: &Sum) {
        self.crc = U32::new(self.sum::<C>(body));
    }

    /// The member, if there is one.
    pub(crate) fn member(&self) -> Result<MemberId, WireError> {
        let id = self.member.get();
        MemberId::new(u32::from(id)).ok_or(WireError::Member(id))
    }

    /// Whether the fields are zero that only batches have.
    pub(crate) fn is_control(&self) -> bool {
        self.count.get() == 0 && self.data_len.get() == 0
    }

    /// Whether nothing is set but what every message has: it is for whoever has the pool of that name.
    pub(crate) fn is_bare(&self) -> bool {
        self.is_control()
            && Uuid(self.pool).is_nil()
            && self.member.get() == 0
            && self.incarnation.get() == 0
            && self.generation() == Generation::NONE
            && self.epoch.get() == 0
            && self.watermark.get() == 0
    }

    /// Whether it says which member of which pool it is for, and from which client it is.
    pub(crate) fn check_member(&self) -> Result<(), WireError> {
        if Uuid(self.pool).is_nil() {
            return Err(WireError::Missing("pool UUID"));
        }
        if self.incarnation.get() == 0 {
            return Err(WireError::Missing("incarnation"));
        }
        if self.generation.get() == 0 {
            return Err(WireError::Missing("generation"));
        }
        self.member().map(|_| ())
    }

    /// The client's generation.
    pub(crate) fn generation(&self) -> Generation {
        Generation {
            number: self.generation.get(),
            nonce: self.nonce.get(),
        }
    }
}

impl Header {
    /// Bytes without counts and checksum.
    pub(crate) fn raw(&self, kind: Kind, len: u32) -> RawHeader {
        RawHeader {
            pool: self.pool.0,
            // At most 32.
            member: U16::new(self.member.get() as u16),
            incarnation: U64::new(self.incarnation.0),
            generation: U64::new(self.generation.number),
            nonce: U64::new(self.generation.nonce),
            epoch: U64::new(self.epoch.0),
            watermark: U64::new(self.watermark.0),
            ..RawHeader::new(kind, len)
        }
    }

    /// Takes the fields of a message that must have them all.
    pub(crate) fn from_raw(raw: &RawHeader) -> Result<Self, WireError> {
        let header = Self {
            pool: Uuid(raw.pool),
            member: raw.member()?,
            incarnation: Incarnation(raw.incarnation.get()),
            generation: raw.generation(),
            epoch: Epoch(raw.epoch.get()),
            watermark: Seq(raw.watermark.get()),
        };
        header.check()?;
        Ok(header)
    }

    /// Whether everything is there that IO needs.
    pub(crate) fn check(&self) -> Result<(), WireError> {
        if self.pool.is_nil() {
            return Err(WireError::Missing("pool UUID"));
        }
        if self.incarnation.is_none() {
            return Err(WireError::Missing("incarnation"));
        }
        if self.generation.is_none() {
            return Err(WireError::Missing("generation"));
        }
        if self.epoch.is_none() {
            return Err(WireError::Missing("epoch"));
        }
        Ok(())
    }
}
