// SPDX-License-Identifier: GPL-2.0

//! The epoch record: what a member must remember to be let in again.

use crate::config::Config;
use crate::config::RawConfig;
use crate::crc::Crc32c;
use crate::ids::Generation;
use crate::ids::Incarnation;
use crate::ids::MemberSet;
use crate::ids::Uuid;
use crate::record;
use crate::record::pick_newest;
use crate::record::Frame;
use crate::record::Newest;
use crate::record::PickError;
use crate::record::Place;
use crate::record::RecordError;
use crate::record::RecordKind;
use crate::record::Versioned;
use crate::record::RECORD_BYTES;
use core::mem::size_of;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Incarnation, promise and configuration of a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct EpochRecord {
    /// The incarnation that wrote the record; none in that of a new store. A member that starts takes the
    /// next and writes that before it serves.
    pub incarnation: Incarnation,
    /// Highest generation promised.
    pub promised: Generation,
    /// Configuration installed last, with the member table and whether the client detached in order;
    /// `None` if none ever was.
    pub installed: Option<Config>,
    /// The whole store is suspect (R14), until a configuration that carries this is persisted.
    pub suspect_all: bool,
    /// The list of unreadable sectors is what its page says; else it is empty, whatever is in its place.
    pub unreadable: bool,
    /// Members whose dirty bitmap is what its pages say. That of any other member is empty, or all set, whatever is in
    /// its place: so to empty it takes only this record, and a new store needs no pages.
    pub bitmaps: MemberSet,
    /// Members of whose copies no chunk is current; none of `bitmaps`.
    pub all_dirty: MemberSet,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEpoch {
    incarnation: U64,
    promised: U64,
    promised_nonce: U64,
    flags: U32,
    bitmaps: U32,
    all_dirty: U32,
    reserved: U32,
    installed: RawConfig,
}

const _: () = assert!(size_of::<RawEpoch>() == 1144);

const SUSPECT_ALL: u32 = 1;
const UNREADABLE: u32 = 2;

impl EpochRecord {
    /// Writes the copy of the record that belongs to the place `at` of `store` into `buf`. `sequence` is
    /// one more than that of the record before. Not inlined: who writes `buf` to a disk needs the stack.
    #[inline(never)]
    pub fn encode<C: Crc32c>(
        &self,
        store: Uuid,
        sequence: u64,
        at: Place,
        buf: &mut [u8; RECORD_BYTES],
    ) -> Result<(), RecordError> {
        self.check()?;
        let mut raw = RawEpoch {
            incarnation: U64::new(self.incarnation.0),
            promised: U64::new(self.promised.number),
            promised_nonce: U64::new(self.promised.nonce),
            flags: U32::new(
                if self.suspect_all { SUSPECT_ALL } else { 0 }
                    | if self.unreadable { UNREADABLE } else { 0 },
            ),
            bitmaps: U32::new(self.bitmaps.bits()),
            all_dirty: U32::new(self.all_dirty.bits()),
            reserved: U32::ZERO,
            installed: RawConfig::new_zeroed(),
        };
        raw.installed.set(self.installed.as_ref())?;
        record::seal::<C>(RecordKind::Epoch, at, &Frame { store, sequence }, &raw, buf)
    }

    /// Checks bytes read from the place `at` of `store`.
    pub fn parse<C: Crc32c>(
        store: Uuid,
        at: Place,
        bytes: &[u8],
    ) -> Result<Versioned<Self>, RecordError> {
        let image = Image::open::<C>(store, at, bytes)?;
        Ok(Versioned {
            sequence: image.sequence,
            record: image.record.get()?,
        })
    }

    /// The newer of both copies of the record of `store`, read from the places `at`: [`pick_newest`] of what
    /// [`Self::parse`] makes of them, with less on the stack.
    pub fn newest<C: Crc32c>(
        store: Uuid,
        at: [Place; 2],
        copies: [&[u8]; 2],
    ) -> Result<Newest<Self>, PickError> {
        let [place0, place1] = at;
        let [copy0, copy1] = copies;
        let newest = pick_newest(
            Image::open::<C>(store, place0, copy0),
            Image::open::<C>(store, place1, copy1),
        )?;
        Ok(Newest {
            sequence: newest.sequence,
            record: newest
                .record
                .get()
                .map_err(|why| PickError::Both(why, why))?,
            rewrite: newest.rewrite,
            suspicious: newest.suspicious,
        })
    }

    /// Number of the version whose write to the place `at` has begun, though it may not have come to its end. Nothing
    /// but the number is to be believed, and that only if it is near to what counts.
    pub fn begun(store: Uuid, at: Place, bytes: &[u8]) -> Option<u64> {
        record::begun(RecordKind::Epoch, store, at, bytes)
    }

    fn check(&self) -> Result<(), RecordError> {
        if !self.bitmaps.intersection(self.all_dirty).is_empty() {
            return Err(RecordError::Field("set of bitmaps"));
        }
        Ok(())
    }
}

/// A record that was checked, still as bytes. Equal bytes are equal records, as there is one way to write each.
struct Image<'a>(&'a RawEpoch);

impl PartialEq for Image<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}

impl<'a> Image<'a> {
    #[inline(never)]
    fn open<C: Crc32c>(
        store: Uuid,
        at: Place,
        bytes: &'a [u8],
    ) -> Result<Versioned<Self>, RecordError> {
        let (frame, raw) = record::open::<C, RawEpoch>(RecordKind::Epoch, at, bytes)?;
        frame.check_store(store)?;
        let record = Self(raw);
        record.get()?;
        Ok(Versioned {
            sequence: frame.sequence,
            record,
        })
    }

    fn get(&self) -> Result<EpochRecord, RecordError> {
        let raw = self.0;
        let flags = raw.flags.get();
        if raw.reserved.get() != 0 || flags & !(SUSPECT_ALL | UNREADABLE) != 0 {
            return Err(RecordError::Reserved);
        }
        let mut record = EpochRecord {
            incarnation: Incarnation(raw.incarnation.get()),
            promised: Generation {
                number: raw.promised.get(),
                nonce: raw.promised_nonce.get(),
            },
            installed: Some(Config::BLANK),
            suspect_all: flags & SUSPECT_ALL != 0,
            unreadable: flags & UNREADABLE != 0,
            bitmaps: MemberSet::from_bits(raw.bitmaps.get()),
            all_dirty: MemberSet::from_bits(raw.all_dirty.get()),
        };
        if let Some(config) = &mut record.installed {
            if !raw.installed.read(config)? {
                record.installed = None;
            }
        }
        record.check()?;
        Ok(record)
    }
}
