// SPDX-License-Identifier: GPL-2.0

//! A page of the activity log: which extents have writes that may not be equal on all members, or not yet stable.

use crate::crc::Crc32c;
use crate::ids::Uuid;
use crate::record;
use crate::record::Frame;
use crate::record::Place;
use crate::record::RecordError;
use crate::record::RecordKind;
use crate::record::Versioned;
use crate::record::RECORD_BYTES;
use core::mem::size_of;
use zerocopy::little_endian::U64;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Binary logarithm of the size of an extent, in bytes: 4 MiB.
pub const EXTENT_SHIFT: u32 = 22;

/// Pages of the log.
pub const LOG_PAGES: usize = 4;

/// Slots of a page; each is free or holds an extent.
pub const LOG_PAGE_SLOTS: usize = 256;

/// Most extents the log holds.
pub const MAX_LOG_EXTENTS: u32 = (LOG_PAGES * LOG_PAGE_SLOTS) as u32;

/// Extents of the largest volume.
const EXTENTS: u64 = 1 << (63 - EXTENT_SHIFT);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPage {
    slots: [U64; LOG_PAGE_SLOTS],
}

const _: () = assert!(size_of::<RawPage>() + record::FRAME_BYTES <= RECORD_BYTES);

/// A page of the activity log. Which one is said by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPage<'a> {
    slots: &'a [U64; LOG_PAGE_SLOTS],
}

impl<'a> LogPage<'a> {
    /// Writes the copy of a page that belongs to the place `at` of `store` into `buf`: with the extents in `slots`,
    /// `None` for a free one; those that are not given are free. `sequence` is one more than that of the page before.
    pub fn encode<C: Crc32c>(
        store: Uuid,
        sequence: u64,
        at: Place,
        slots: impl IntoIterator<Item = Option<u64>>,
        buf: &mut [u8; RECORD_BYTES],
    ) -> Result<(), RecordError> {
        let frame = Frame { store, sequence };
        let mut highest = 0;
        let words = slots.into_iter().map(|slot| {
            let word = slot.map_or(0, |extent| extent.saturating_add(1));
            highest = word.max(highest);
            word
        });
        record::seal_words::<C>(RecordKind::Log, at, &frame, words, buf)?;
        check(highest)
    }

    /// Checks bytes read from the place `at` of `store`.
    pub fn parse<C: Crc32c>(
        store: Uuid,
        at: Place,
        bytes: &'a [u8],
    ) -> Result<Versioned<Self>, RecordError> {
        let (frame, raw) = record::open::<C, RawPage>(RecordKind::Log, at, bytes)?;
        frame.check_store(store)?;
        raw.slots.iter().try_for_each(|slot| check(slot.get()))?;
        Ok(Versioned {
            sequence: frame.sequence,
            record: Self { slots: &raw.slots },
        })
    }

    /// The extent in each slot, `None` for a free one. That it lies in the volume is not known here.
    pub fn slots(&self) -> impl Iterator<Item = Option<u64>> + 'a {
        self.slots.iter().map(|slot| slot.get().checked_sub(1))
    }
}

/// Whether a slot is free or has the number of an extent, plus one.
fn check(slot: u64) -> Result<(), RecordError> {
    if slot > EXTENTS {
        return Err(RecordError::Field("extent"));
    }
    Ok(())
}
