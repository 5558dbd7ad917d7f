// SPDX-License-Identifier: GPL-2.0

//! The epoch record: what a member must remember to be let in again.

use crate::config::Config;
use crate::config::RawConfig;
use crate::crc::Crc32c;
use crate::ids::Generation;
use crate::ids::Incarnation;
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
use zerocopy::FromZeros;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Incarnation, promise and configuration of a member.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EpochRecord {
    /// The incarnation that wrote the record; none in that of a new store. A member that starts takes the
    /// next and writes that before it serves.
    pub incarnation: Incarnation,
    /// Highest generation promised.
    pub promised: Generation,
    /// Configuration installed last, with the member table and whether the client detached in order;
    /// `None` if none ever was.
    pub installed: Option<Config>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEpoch {
    incarnation: U64,
    promised: U64,
    promised_nonce: U64,
    reserved: U64,
    installed: RawConfig,
}

const _: () = assert!(size_of::<RawEpoch>() == 584);

impl EpochRecord {
    /// Writes the copy of the record that belongs to the place `at` of `store` into `buf`. `sequence` is
    /// one more than that of the record before.
    pub fn encode<C: Crc32c>(
        &self,
        store: Uuid,
        sequence: u64,
        at: Place,
        buf: &mut [u8; RECORD_BYTES],
    ) -> Result<(), RecordError> {
        let mut raw = RawEpoch {
            incarnation: U64::new(self.incarnation.0),
            promised: U64::new(self.promised.number),
            promised_nonce: U64::new(self.promised.nonce),
            reserved: U64::ZERO,
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
        let (frame, raw) = record::open::<C, RawEpoch>(RecordKind::Epoch, at, bytes)?;
        if frame.store != store {
            return Err(RecordError::Store {
                expected: store,
                found: frame.store,
            });
        }
        if raw.reserved.get() != 0 {
            return Err(RecordError::Reserved);
        }
        let record = Self {
            incarnation: Incarnation(raw.incarnation.get()),
            promised: Generation {
                number: raw.promised.get(),
                nonce: raw.promised_nonce.get(),
            },
            installed: raw.installed.get()?,
        };
        Ok(Versioned {
            sequence: frame.sequence,
            record,
        })
    }
}
