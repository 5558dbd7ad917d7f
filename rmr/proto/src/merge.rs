// SPDX-License-Identifier: GPL-2.0

//! The message by which a client tells a member of chunks that others, or the member itself, do not have.

use crate::control::RawTarget;
use crate::control::Target;
use crate::crc::Crc32c;
use crate::crc::Sum;
use crate::header::Header;
use crate::header::Kind;
use crate::header::RawHeader;
use crate::header::WireError;
use crate::header::HEADER_BYTES;
use crate::ids::Epoch;
use crate::ids::Generation;
use crate::ids::Seq;
use crate::run::check_marks;
use crate::run::parse_list;
use crate::run::Mark;
use core::mem::size_of;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Most marks of a message.
pub const MAX_MARKS: usize = 1024;

/// Bytes of the part of a [`Merge`] that is the same for any number of marks. A transport whose headers are too short
/// for all of it carries this as header, and the rest as data.
pub const MERGE_HEADER_BYTES: usize = HEADER_BYTES + size_of::<RawTarget>();

/// Bytes of the longest [`Merge`].
pub const MAX_MERGE_BYTES: usize = MERGE_HEADER_BYTES + MAX_MARKS * size_of::<Mark>();

/// Chunks to be added to dirty bitmaps of a member. They are stable before it answers.
///
/// It only ever adds, so it does no harm when it comes late or twice, and the epoch does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge<'a> {
    /// For whom; with the UUID of the pool.
    pub to: Target,
    /// Generation of the client: the one promised.
    pub generation: Generation,
    /// Which chunks, in whose bitmaps; 1 to [`MAX_MARKS`].
    pub marks: &'a [Mark],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMerge {
    header: RawHeader,
    target: RawTarget,
}

const _: () = {
    assert!(size_of::<RawMerge>() == MERGE_HEADER_BYTES);
    assert!(MERGE_HEADER_BYTES == 176);
    assert!(MAX_MERGE_BYTES == 16560);
};

impl<'a> Merge<'a> {
    /// Writes the message into `buf` and returns it. Fails rather than let a senseless one out.
    pub fn encode<'b, C: Crc32c>(
        &self,
        buf: &'b mut [u8; MAX_MERGE_BYTES],
    ) -> Result<&'b [u8], WireError> {
        check_marks(self.marks, MAX_MARKS)?;
        let marks = self.marks.as_bytes();
        let len = MERGE_HEADER_BYTES + marks.len();
        let short = WireError::Short {
            len: MAX_MERGE_BYTES,
            need: len,
        };
        let header = Header {
            pool: self.to.pool,
            member: self.to.member,
            incarnation: self.to.incarnation,
            generation: self.generation,
            epoch: Epoch::NONE,
            watermark: Seq::NONE,
        };
        let mut raw = RawMerge {
            // At most 16560.
            header: header.raw(Kind::Merge, len as u32),
            target: RawTarget::new(&self.to),
        };
        check(&raw.header, &raw.target)?;
        let target = Sum::of::<C>(raw.target.as_bytes());
        raw.header.seal::<C>(&target.and::<C>(marks));
        let message = buf.get_mut(..len).ok_or(short)?;
        let (head, tail) = message
            .split_at_mut_checked(MERGE_HEADER_BYTES)
            .ok_or(short)?;
        head.copy_from_slice(raw.as_bytes());
        tail.copy_from_slice(marks);
        Ok(message)
    }

    /// Checks `bytes`, which are untrusted, as one whole message.
    pub fn parse<C: Crc32c>(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (raw, kind, body) = RawHeader::open::<C>(bytes)?;
        if kind != Kind::Merge {
            return Err(WireError::Kind(kind.wire()));
        }
        Self::from_parts(raw, body)
    }

    pub(crate) fn from_parts(raw: &RawHeader, body: &'a [u8]) -> Result<Self, WireError> {
        let length = WireError::Length {
            said: raw.len.get(),
            right: MERGE_HEADER_BYTES,
        };
        let (target, marks) = RawTarget::ref_from_prefix(body).map_err(|_| length)?;
        let marks = parse_list(marks).ok_or(length)?;
        check(raw, target)?;
        check_marks(marks, MAX_MARKS)?;
        Ok(Self {
            to: target.get(raw)?,
            generation: raw.generation(),
            marks,
        })
    }
}

/// Whether the fields are there that this message has, and no others.
fn check(raw: &RawHeader, target: &RawTarget) -> Result<(), WireError> {
    if !raw.is_control() || !target.is_plain() || raw.epoch.get() != 0 || raw.watermark.get() != 0 {
        return Err(WireError::Reserved);
    }
    raw.check_member()?;
    target.check_store()
}
