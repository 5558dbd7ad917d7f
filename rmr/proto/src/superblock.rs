// SPDX-License-Identifier: GPL-2.0

//! The superblock: whose store this is, and where on its devices everything lies.
//!
//! A store that has its metadata on a device of its own has a superblock on both devices, of two kinds. They name each other, and
//! count the starts of the store: so neither device can be replaced by another one, nor by an older copy of itself.

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
use core::error::Error;
use core::fmt;
use core::mem::offset_of;
use core::mem::size_of;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;
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

/// Which device a superblock is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceRole {
    /// That with the data, and with the metadata unless the layout has that elsewhere.
    Data,
    /// That with the metadata alone.
    Metadata,
}

/// The metadata device of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataDevice {
    /// UUID that the device got when the store was created; not nil.
    pub uuid: Uuid,
    /// Twice the number of starts of the store: how often it was attached. Before a start is noted on the metadata device, the superblock of the
    /// other one has the odd number between the old and the new one.
    pub starts: u64,
}

impl MetadataDevice {
    /// What the device with the data notes first at a start. The same again if the last one was interrupted.
    pub fn starting(self) -> Self {
        Self {
            starts: self.starts | 1,
            ..self
        }
    }

    /// What both devices note then, that with the metadata first; `None` if there are no more numbers.
    pub fn started(self) -> Option<Self> {
        Some(Self {
            starts: self.starting().starts.checked_add(1)?,
            ..self
        })
    }
}

/// Why a metadata device is not that of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartnerError {
    /// The store has its metadata inside, or the superblock is none of a metadata device.
    Role,
    /// It belongs to another store.
    Store {
        /// Pool of that store.
        pool: PoolName,
        /// Its member.
        member: MemberId,
        /// UUID of that store.
        store: Uuid,
    },
    /// It belongs to the store, but is another device than the one it names, or was made for another layout.
    Device,
    /// It was not created completely.
    Unfinished,
    /// It was not there at the last start of the store: an older copy.
    Old,
    /// It was started when the device with the data was not there: that one is an older copy.
    OldData,
}

impl fmt::Display for PartnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role => f.write_str("it has no metadata of a store that keeps it outside"),
            Self::Store {
                pool,
                member,
                store,
            } => write!(
                f,
                "it has the metadata of another store, {store}, member {member} of pool {pool}"
            ),
            Self::Device => f.write_str("the store was made with another metadata device"),
            Self::Unfinished => f.write_str("its creation was not finished"),
            Self::Old => f.write_str("it is an old copy: the store was started since without it"),
            Self::OldData => f.write_str(
                "the device with the data is an old copy: the metadata was used since without it",
            ),
        }
    }
}

impl Error for PartnerError {}

/// Superblock of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Which device of the store it is on.
    pub role: DeviceRole,
    /// Whether the store can be used.
    pub state: StoreState,
    /// UUID of the store; not nil.
    pub store: Uuid,
    /// UUID of the pool; nil until a client assigns one, and always on a metadata device.
    pub pool: Uuid,
    /// Name of the pool it was created for. For the administrator only: names identify nothing (R10).
    pub name: PoolName,
    /// Member of the pool it was created for.
    pub member: MemberId,
    /// Logical block size of the device with the data when the store was created, in bytes: 512 to 4096.
    pub logical_block: u32,
    /// Where everything is; with size and chunk size of the volume.
    pub layout: Layout,
    /// The metadata device, if the layout has one.
    pub metadata: Option<MetadataDevice>,
    /// Whoever wants anything of the member must prove to know the secret of the pool. The secret is not here. Never on
    /// a metadata device.
    pub secret: bool,
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
    metadata: [u8; 16],
    starts: U64,
    flags: U32,
}

const _: () = assert!(size_of::<RawSuperblock>() == 516);

/// A secret is required.
const SECRET: u32 = 1;

/// Where in a superblock the padded pool name is, for [`Scan`](crate::Scan).
pub(crate) const NAME_OFFSET: usize = FRAME_BYTES + offset_of!(RawSuperblock, name);

impl DeviceRole {
    fn kind(self) -> RecordKind {
        match self {
            Self::Data => RecordKind::Superblock,
            Self::Metadata => RecordKind::MetadataSuperblock,
        }
    }

    fn places(self, layout: &Layout) -> Option<[Place; 2]> {
        match self {
            Self::Data => Some(layout.superblock()),
            Self::Metadata => layout.metadata_superblock(),
        }
    }
}

impl Superblock {
    /// Where both copies belong, on the device they are on. `None` for a metadata device that the layout does not have.
    pub fn places(&self) -> Option<[Place; 2]> {
        self.role.places(&self.layout)
    }

    /// The superblock of the metadata device, as that of the device with the data has it to be; `None` if there is no such
    /// device.
    pub fn of_metadata(&self) -> Option<Self> {
        self.metadata.is_some().then(|| Self {
            role: DeviceRole::Metadata,
            pool: Uuid::NIL,
            secret: false,
            ..self.clone()
        })
    }

    /// Whether `metadata` is the superblock of the metadata device that belongs to this one, of the device with the data,
    /// and neither of them is an older copy.
    pub fn check_metadata(&self, metadata: &Self) -> Result<(), PartnerError> {
        let (DeviceRole::Data, DeviceRole::Metadata) = (self.role, metadata.role) else {
            return Err(PartnerError::Role);
        };
        let (Some(ours), Some(theirs)) = (self.metadata, metadata.metadata) else {
            return Err(PartnerError::Role);
        };
        if metadata.store != self.store {
            return Err(PartnerError::Store {
                pool: metadata.name,
                member: metadata.member,
                store: metadata.store,
            });
        }
        if theirs.uuid != ours.uuid || metadata.layout != self.layout {
            return Err(PartnerError::Device);
        }
        if metadata.state != StoreState::Ready {
            return Err(PartnerError::Unfinished);
        }
        // A start that was interrupted is noted there, or not yet.
        let interrupted = ours.starts & 1;
        if theirs.starts < ours.starts - interrupted {
            return Err(PartnerError::Old);
        }
        if theirs.starts > ours.starts.saturating_add(interrupted) {
            return Err(PartnerError::OldData);
        }
        Ok(())
    }

    /// Whether the fields keep what their documentation says.
    pub fn check(&self) -> Result<(), RecordError> {
        if self.store.is_nil() {
            return Err(RecordError::Field("store UUID"));
        }
        if !self.logical_block.is_power_of_two() || !(512..=4096).contains(&self.logical_block) {
            return Err(RecordError::Field("logical block size"));
        }
        if self.metadata.is_some() != self.layout.is_external() {
            return Err(RecordError::Field("metadata device"));
        }
        if self.metadata.is_some_and(|device| device.uuid.is_nil()) {
            return Err(RecordError::Field("metadata UUID"));
        }
        if self.role == DeviceRole::Metadata {
            let Some(device) = self.metadata else {
                return Err(RecordError::Field("metadata device"));
            };
            if self.secret {
                return Err(RecordError::Field("flags"));
            }
            if device.starts % 2 != 0 {
                return Err(RecordError::Field("number of starts"));
            }
            if !self.pool.is_nil() {
                return Err(RecordError::Field("pool UUID"));
            }
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
        let places = self.places();
        let at = *places
            .as_ref()
            .and_then(|places| places.get(usize::from(copy)))
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
            metadata: self.metadata.map_or(Uuid::NIL, |device| device.uuid).0,
            starts: U64::new(self.metadata.map_or(0, |device| device.starts)),
            flags: U32::new(if self.secret { SECRET } else { 0 }),
        };
        record::seal::<C>(
            self.role.kind(),
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

    /// Checks bytes read from the place `at` of the device with that role. Whether the device is large enough is another question:
    /// [`Layout::check_fits`].
    pub fn parse<C: Crc32c>(
        role: DeviceRole,
        at: Place,
        bytes: &[u8],
    ) -> Result<Versioned<Self>, RecordError> {
        let (frame, raw) = record::open::<C, RawSuperblock>(role.kind(), at, bytes)?;
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
        let flags = raw.flags.get();
        if flags & !SECRET != 0 {
            return Err(RecordError::Field("flags"));
        }
        let layout = raw.areas.get(geometry).map_err(RecordError::Areas)?;
        if !role
            .places(&layout)
            .is_some_and(|places| places.contains(&at))
        {
            return Err(RecordError::Areas(
                "the superblock is not where it was read",
            ));
        }
        let device = MetadataDevice {
            uuid: Uuid(raw.metadata),
            starts: raw.starts.get(),
        };
        if !layout.is_external() && (!device.uuid.is_nil() || device.starts != 0) {
            return Err(RecordError::Reserved);
        }
        let record = Self {
            role,
            state,
            store: frame.store,
            pool: Uuid(raw.pool),
            name: PoolName::from_padded(&raw.name)?,
            member,
            logical_block: raw.logical_block.get(),
            metadata: layout.is_external().then_some(device),
            layout,
            secret: flags & SECRET != 0,
        };
        record.check()?;
        Ok(Versioned {
            sequence: frame.sequence,
            record,
        })
    }
}
