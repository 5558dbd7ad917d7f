// SPDX-License-Identifier: GPL-2.0

//! The superblock: whose store this is, and where on the device everything lies.

use crate::crc::Crc32c;
use crate::geometry::RawGeometry;
use crate::ids::MemberId;
use crate::ids::PoolName;
use crate::ids::Uuid;
use crate::ids::MAX_POOL_NAME;
use crate::layout::Layout;
use crate::layout::RawAreas;
use crate::record;
use crate::record::Frame;
use crate::record::Place;
use crate::record::RecordError;
use crate::record::RecordKind;
use crate::record::Versioned;
use crate::record::FRAME_BYTES;
use crate::record::RECORD_BYTES;
use core::mem::offset_of;
use core::mem::size_of;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// How far the creation of a store has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum StoreState {
    /// The superblock is written, the other records or the data may not be. Must be created again.
    Initialising = 1,
    /// Complete.
    Ready = 2,
}

/// Superblock of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Whether the store can be used.
    pub state: StoreState,
    /// UUID of the store; not nil.
    pub store: Uuid,
    /// UUID of the pool; nil until a client assigns one.
    pub pool: Uuid,
    /// Name of the pool it was created for. For the administrator only: names identify nothing (R10).
    pub name: PoolName,
    /// Member of the pool it was created for.
    pub member: MemberId,
    /// Logical block size of the device when the store was created, in bytes: 512 to 4096.
    pub logical_block: u32,
    /// Where everything is; with size and chunk size of the volume.
    pub layout: Layout,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    state: U16,
    member: U16,
    logical_block: U32,
    pool: [u8; 16],
    name: [u8; MAX_POOL_NAME + 1],
    geometry: RawGeometry,
    areas: RawAreas,
}

const _: () = assert!(size_of::<RawSuperblock>() == 488);

/// Where in a superblock the padded pool name is, for [`Scan`](crate::Scan).
pub(crate) const NAME_OFFSET: usize = FRAME_BYTES + offset_of!(RawSuperblock, name);

impl Superblock {
    /// Whether the fields keep what their documentation says.
    pub fn check(&self) -> Result<(), RecordError> {
        if self.store.is_nil() {
            return Err(RecordError::Field("store UUID"));
        }
        if !self.logical_block.is_power_of_two() || !(512..=4096).contains(&self.logical_block) {
            return Err(RecordError::Field("logical block size"));
        }
        Ok(())
    }

    /// Writes copy `copy` (0 or 1) into `buf`, and returns where it belongs. `sequence` is one more than
    /// that of the superblock before.
    pub fn encode<C: Crc32c>(
        &self,
        sequence: u64,
        copy: u16,
        buf: &mut [u8; RECORD_BYTES],
    ) -> Result<Place, RecordError> {
        self.check()?;
        let places = self.layout.superblock();
        let at = *places
            .get(usize::from(copy))
            .ok_or(RecordError::Field("copy number"))?;
        let raw = RawSuperblock {
            state: U16::new(self.state as u16),
            // At most 32.
            member: U16::new(self.member.get() as u16),
            logical_block: U32::new(self.logical_block),
            pool: self.pool.0,
            name: self.name.to_padded(),
            geometry: RawGeometry::new(&self.layout.geometry()),
            areas: RawAreas::new(&self.layout),
        };
        record::seal::<C>(
            RecordKind::Superblock,
            at,
            &Frame {
                store: self.store,
                sequence,
            },
            &raw,
            buf,
        )?;
        Ok(at)
    }

    /// Checks bytes read from the place `at`. Whether the device is large enough is another question:
    /// [`Layout::check_fits`].
    pub fn parse<C: Crc32c>(at: Place, bytes: &[u8]) -> Result<Versioned<Self>, RecordError> {
        let (frame, raw) = record::open::<C, RawSuperblock>(RecordKind::Superblock, at, bytes)?;
        let state = match raw.state.get() {
            1 => StoreState::Initialising,
            2 => StoreState::Ready,
            _ => return Err(RecordError::Field("state")),
        };
        let member =
            MemberId::new(u32::from(raw.member.get())).ok_or(RecordError::Field("member id"))?;
        let (geometry, reserved_zero) = raw.geometry.get()?;
        if !reserved_zero {
            return Err(RecordError::Reserved);
        }
        let layout = raw.areas.get(geometry).map_err(RecordError::Areas)?;
        if !layout.superblock().contains(&at) {
            return Err(RecordError::Areas(
                "the superblock is not where it was read",
            ));
        }
        let record = Self {
            state,
            store: frame.store,
            pool: Uuid(raw.pool),
            name: PoolName::from_padded(&raw.name)?,
            member,
            logical_block: raw.logical_block.get(),
            layout,
        };
        record.check()?;
        Ok(Versioned {
            sequence: frame.sequence,
            record,
        })
    }
}
