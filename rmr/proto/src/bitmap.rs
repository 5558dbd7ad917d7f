// SPDX-License-Identifier: GPL-2.0

//! A page of a dirty bitmap: on disk, and in the answer of one member to another.
//!
//! A bit for each chunk, the lowest bit of a word first. Bits behind the last chunk of the volume mean nothing; who
//! reads a page has to ignore them.

use crate::crc::Crc32c;
use crate::header::Kind;
use crate::header::WireError;
use crate::ids::MemberId;
use crate::ids::Uuid;
use crate::record;
use crate::record::Frame;
use crate::record::Place;
use crate::record::RecordError;
use crate::record::RecordKind;
use crate::record::Versioned;
use crate::record::RECORD_BYTES;
use crate::reply;
use crate::reply::REPLY_BYTES;
use core::mem::size_of;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U64;
use zerocopy::FromBytes;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Words of a page.
pub const BITMAP_PAGE_WORDS: usize = 504;

/// Chunks of a page.
pub const BITMAP_PAGE_CHUNKS: u64 = BITMAP_PAGE_WORDS as u64 * 64;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPage {
    words: [U64; BITMAP_PAGE_WORDS],
}

const _: () = assert!(size_of::<RawPage>() + record::FRAME_BYTES == RECORD_BYTES);

/// A page of a dirty bitmap on disk. Whose it is, and which, is said by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapPage<'a> {
    words: &'a [U64; BITMAP_PAGE_WORDS],
}

impl<'a> BitmapPage<'a> {
    /// Writes the copy of a page that belongs to the place `at` of `store` into `buf`: with `words`, and zeroes for
    /// those that are not given. `sequence` is one more than that of the page before.
    pub fn encode<C: Crc32c>(
        store: Uuid,
        sequence: u64,
        at: Place,
        words: impl IntoIterator<Item = u64>,
        buf: &mut [u8; RECORD_BYTES],
    ) -> Result<(), RecordError> {
        let frame = Frame { store, sequence };
        record::seal_words::<C>(RecordKind::Bitmap, at, &frame, words, buf)
    }

    /// Checks bytes read from the place `at` of `store`.
    pub fn parse<C: Crc32c>(
        store: Uuid,
        at: Place,
        bytes: &'a [u8],
    ) -> Result<Versioned<Self>, RecordError> {
        let (frame, raw) = record::open::<C, RawPage>(RecordKind::Bitmap, at, bytes)?;
        frame.check_store(store)?;
        Ok(Versioned {
            sequence: frame.sequence,
            record: Self { words: &raw.words },
        })
    }

    /// The words.
    pub fn words(&self) -> &'a [U64; BITMAP_PAGE_WORDS] {
        self.words
    }
}

/// A page of a dirty bitmap, as one member sends it to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyPage<'a> {
    /// Whose bitmap.
    pub of: MemberId,
    /// Which page of it, from 0.
    pub page: u64,
    /// The words.
    pub words: &'a [U64; BITMAP_PAGE_WORDS],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawDirtyPage {
    of: U16,
    reserved: [u8; 6],
    page: U64,
    words: [U64; BITMAP_PAGE_WORDS],
}

const _: () = assert!(size_of::<RawDirtyPage>() == 4048);

impl<'a> DirtyPage<'a> {
    /// Writes the reply into `buf`, zeroes behind it, and returns the reply alone: with `words`, and zeroes for those
    /// that are not given.
    pub fn encode<C: Crc32c>(
        of: MemberId,
        page: u64,
        words: impl IntoIterator<Item = u64>,
        buf: &mut [u8; REPLY_BYTES],
    ) -> Result<&[u8], WireError> {
        buf.fill(0);
        let body = reply::body_mut(buf, size_of::<RawDirtyPage>())?;
        let short = WireError::Short {
            len: REPLY_BYTES,
            need: size_of::<RawDirtyPage>(),
        };
        let raw = RawDirtyPage::mut_from_bytes(body).map_err(|_| short)?;
        // At most 32.
        raw.of = U16::new(of.get() as u16);
        raw.page = U64::new(page);
        let mut places = raw.words.iter_mut();
        for word in words {
            *places.next().ok_or(WireError::Count(u16::MAX))? = U64::new(word);
        }
        reply::seal::<C>(Kind::FetchDirty, size_of::<RawDirtyPage>(), buf)
    }

    /// Checks `bytes`, which are untrusted, as such a reply; what follows it is not looked at.
    pub fn parse<C: Crc32c>(bytes: &'a [u8]) -> Result<Self, WireError> {
        let body = reply::open_ok::<C>(bytes, Kind::FetchDirty)?;
        let length = WireError::Length {
            said: u32::try_from(body.len()).unwrap_or(u32::MAX),
            right: size_of::<RawDirtyPage>(),
        };
        let raw = RawDirtyPage::ref_from_bytes(body).map_err(|_| length)?;
        if raw.reserved != [0; 6] {
            return Err(WireError::Reserved);
        }
        let id = raw.of.get();
        Ok(Self {
            of: MemberId::new(u32::from(id)).ok_or(WireError::Member(id))?,
            page: raw.page.get(),
            words: &raw.words,
        })
    }
}
