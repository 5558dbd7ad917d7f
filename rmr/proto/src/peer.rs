// SPDX-License-Identifier: GPL-2.0

//! Messages from one member of a pool to another, for resync.
//!
//! They name the member they are for as a batch does, and are admitted alike (R5).

use crate::crc::Crc32c;
use crate::crc::Sum;
use crate::geometry::BLOCK_BYTES;
use crate::header::Header;
use crate::header::Kind;
use crate::header::RawHeader;
use crate::header::WireError;
use crate::header::HEADER_BYTES;
use crate::ids::MemberId;
use crate::run::check_runs;
use crate::run::parse_list;
use crate::run::Run;
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

/// Most runs of a [`Ask::Clear`].
pub const MAX_CLEAR: usize = 64;

/// Longest [`Ask::Pull`], in bytes. What a message of the transport holds may be less than the largest chunk.
pub const MAX_PULL: u32 = 64 << 10;

/// Bytes of the longest message from member to member.
pub const MAX_PEER_BYTES: usize =
    HEADER_BYTES + size_of::<RawPeer>() + MAX_CLEAR * size_of::<Run>();

/// A message from one member to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer<'a> {
    /// For whom, and under which configuration; without a watermark.
    pub to: Header,
    /// The member that sends it; not the one it is for.
    pub from: MemberId,
    /// What it wants.
    pub ask: Ask<'a>,
}

/// What one member wants of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// A page of the dirty bitmap of a member; answered with a [`DirtyPage`](crate::DirtyPage).
    FetchDirty {
        /// Whose bitmap.
        of: MemberId,
        /// Which page of it, from 0.
        page: u64,
    },
    /// The content of blocks, all of them current; answered with the data.
    Pull {
        /// Offset in the volume, in bytes; a multiple of [`BLOCK_BYTES`].
        offset: u64,
        /// Length in bytes; a multiple of [`BLOCK_BYTES`], not 0, at most [`MAX_PULL`].
        len: u32,
    },
    /// The sender has the current content of these chunks again, and it is stable (R13).
    Clear {
        /// Which chunks; 1 to [`MAX_CLEAR`] runs.
        runs: &'a [Run],
    },
    /// The highest number of a write that the member has begun to execute; answered with a [`Begun`](crate::Begun). Who pulled from
    /// it may have got that write, or any below.
    Begun,
}

/// First part of the body; in a clear the runs follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPeer {
    from: U16,
    of: U16,
    len: U32,
    offset: U64,
}

const _: () = {
    assert!(size_of::<RawPeer>() == 16);
    assert!(MAX_PEER_BYTES == 1128);
};

impl Ask<'_> {
    /// The kind of message.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::FetchDirty { .. } => Kind::FetchDirty,
            Self::Pull { .. } => Kind::Pull,
            Self::Clear { .. } => Kind::Clear,
            Self::Begun => Kind::Begun,
        }
    }

    fn check(&self) -> Result<(), WireError> {
        match *self {
            Self::FetchDirty { .. } | Self::Begun => Ok(()),
            Self::Pull { offset, len } => {
                let unaligned = (offset | u64::from(len)) % BLOCK_BYTES != 0;
                let long = len == 0 || len > MAX_PULL;
                if unaligned || long || offset.checked_add(u64::from(len)).is_none() {
                    return Err(WireError::Range { offset, len });
                }
                Ok(())
            }
            Self::Clear { runs } => check_runs(runs, 1, MAX_CLEAR),
        }
    }
}

impl<'a> Peer<'a> {
    /// The kind of message.
    pub const fn kind(&self) -> Kind {
        self.ask.kind()
    }

    /// Writes the message into `buf` and returns it. Fails rather than let a senseless one out.
    pub fn encode<'b, C: Crc32c>(
        &self,
        buf: &'b mut [u8; MAX_PEER_BYTES],
    ) -> Result<&'b [u8], WireError> {
        self.check()?;
        let (of, offset, len, runs) = match self.ask {
            Ask::FetchDirty { of, page } => (of.get(), page, 0, &[][..]),
            Ask::Pull { offset, len } => (0, offset, len, &[][..]),
            Ask::Clear { runs } => (0, 0, 0, runs),
            Ask::Begun => (0, 0, 0, &[][..]),
        };
        let body = RawPeer {
            // Ids are at most 32.
            from: U16::new(self.from.get() as u16),
            of: U16::new(of as u16),
            len: U32::new(len),
            offset: U64::new(offset),
        };
        let runs = runs.as_bytes();
        let total = HEADER_BYTES + size_of::<RawPeer>() + runs.len();
        // At most 1128.
        let mut header = self.to.raw(self.kind(), total as u32);
        header.seal::<C>(&Sum::of::<C>(body.as_bytes()).and::<C>(runs));
        let short = WireError::Short {
            len: MAX_PEER_BYTES,
            need: total,
        };
        let message = buf.get_mut(..total).ok_or(short)?;
        let (place, rest) = message.split_at_mut_checked(HEADER_BYTES).ok_or(short)?;
        place.copy_from_slice(header.as_bytes());
        let (place, rest) = rest
            .split_at_mut_checked(size_of::<RawPeer>())
            .ok_or(short)?;
        place.copy_from_slice(body.as_bytes());
        rest.copy_from_slice(runs);
        Ok(message)
    }

    /// Checks `bytes`, which are untrusted, as one whole message.
    pub fn parse<C: Crc32c>(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (raw, kind, body) = RawHeader::open::<C>(bytes)?;
        Self::from_parts(raw, kind, body)
    }

    pub(crate) fn from_parts(
        raw: &RawHeader,
        kind: Kind,
        body: &'a [u8],
    ) -> Result<Self, WireError> {
        let length = WireError::Length {
            said: raw.len.get(),
            right: HEADER_BYTES + size_of::<RawPeer>(),
        };
        if !kind.is_peer() {
            return Err(WireError::Kind(kind.wire()));
        }
        let (body, rest) = RawPeer::ref_from_prefix(body).map_err(|_| length)?;
        let id = |id: U16| MemberId::new(u32::from(id.get())).ok_or(WireError::Member(id.get()));
        let (of, offset, len) = (body.of.get(), body.offset.get(), body.len.get());
        let ask = match kind {
            Kind::FetchDirty => Ask::FetchDirty {
                of: id(body.of)?,
                page: offset,
            },
            Kind::Pull => Ask::Pull { offset, len },
            Kind::Begun => Ask::Begun,
            _ => Ask::Clear {
                runs: parse_list(rest).ok_or(length)?,
            },
        };
        let unused = match kind {
            Kind::FetchDirty => len == 0,
            Kind::Pull => of == 0,
            _ => of == 0 && offset == 0 && len == 0,
        };
        if !unused || !raw.is_control() {
            return Err(WireError::Reserved);
        }
        if kind != Kind::Clear && !rest.is_empty() {
            return Err(length);
        }
        let peer = Self {
            to: Header::from_raw(raw)?,
            from: id(body.from)?,
            ask,
        };
        peer.check()?;
        Ok(peer)
    }

    fn check(&self) -> Result<(), WireError> {
        self.to.check()?;
        if self.to.watermark.is_some() {
            return Err(WireError::Reserved);
        }
        if self.from == self.to.member {
            // At most 32.
            return Err(WireError::Member(self.from.get() as u16));
        }
        self.ask.check()
    }
}
