// SPDX-License-Identifier: GPL-2.0

//! The list of sectors of a store that nobody could read when it got current (R17).

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

/// Slots of the list; each is free or has a block of [`BLOCK_BYTES`](crate::BLOCK_BYTES).
pub const UNREADABLE_SLOTS: usize = 504;

/// Blocks that can be in the list: those of the first 2^60 bytes.
pub const UNREADABLE_BLOCKS: u64 = 1 << 48;

/// Some sectors of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BadBlock {
    /// Number of the block in the volume, below [`UNREADABLE_BLOCKS`].
    pub block: u64,
    /// A bit for each sector of 512 bytes that cannot be read, the first one lowest; not 0.
    pub sectors: u8,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPage {
    slots: [U64; UNREADABLE_SLOTS],
}

const _: () = assert!(size_of::<RawPage>() + record::FRAME_BYTES == RECORD_BYTES);

/// The list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnreadablePage<'a> {
    slots: &'a [U64; UNREADABLE_SLOTS],
}

impl BadBlock {
    fn word(self) -> u64 {
        self.block << 16 | u64::from(self.sectors)
    }

    /// `None` for a free slot.
    fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self {
            block: word >> 16,
            sectors: word as u8,
        })
    }
}

impl<'a> UnreadablePage<'a> {
    /// Writes the copy that belongs to the place `at` of `store` into `buf`; slots that are not given are free.
    /// `sequence` is one more than that of the list before.
    pub fn encode<C: Crc32c>(
        store: Uuid,
        sequence: u64,
        at: Place,
        slots: impl IntoIterator<Item = Option<BadBlock>>,
        buf: &mut [u8; RECORD_BYTES],
    ) -> Result<(), RecordError> {
        let frame = Frame { store, sequence };
        let mut right = Ok(());
        let words = slots.into_iter().map(|slot| {
            if slot.is_some_and(|bad| bad.sectors == 0 || bad.block >= UNREADABLE_BLOCKS) {
                right = Err(RecordError::Field("block"));
            }
            slot.map_or(0, BadBlock::word)
        });
        record::seal_words::<C>(RecordKind::Unreadable, at, &frame, words, buf)?;
        right
    }

    /// Checks bytes read from the place `at` of `store`.
    pub fn parse<C: Crc32c>(
        store: Uuid,
        at: Place,
        bytes: &'a [u8],
    ) -> Result<Versioned<Self>, RecordError> {
        let (frame, raw) = record::open::<C, RawPage>(RecordKind::Unreadable, at, bytes)?;
        frame.check_store(store)?;
        for word in &raw.slots {
            let word = word.get();
            if word != 0 && (word & 0xff == 0 || word & 0xff00 != 0) {
                return Err(RecordError::Field("block"));
            }
        }
        Ok(Versioned {
            sequence: frame.sequence,
            record: Self { slots: &raw.slots },
        })
    }

    /// What is in each slot, `None` for a free one. That it lies in the volume is not known here.
    pub fn slots(&self) -> impl Iterator<Item = Option<BadBlock>> + 'a {
        self.slots
            .iter()
            .map(|slot| BadBlock::from_word(slot.get()))
    }
}
