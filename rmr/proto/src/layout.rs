// SPDX-License-Identifier: GPL-2.0

//! What is where on the device of a store, or on both if the metadata has one of its own.
//!
//! Metadata first, the data behind it. Both copies of everything that has two are as far apart as that
//! allows. The first 4 KiB stay unused. The layout of a store is computed once, when it is created, and
//! then read from its superblock: a later version may lay out new stores differently.
//!
//! A store with *external* metadata has only its superblock in front of the data. Its metadata device is laid out
//! as what is before the data otherwise.

use crate::bitmap::BITMAP_PAGE_CHUNKS;
use crate::geometry::Geometry;
use crate::geometry::BLOCK_BYTES;
use crate::ids::MemberId;
use crate::ids::MAX_MEMBERS;
use crate::log::LOG_PAGES;
use crate::record::Place;
use crate::record::RECORD_BYTES;
use core::error::Error;
use core::fmt;
use core::mem::size_of;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The data area begins at a multiple of this, in bytes.
pub const DATA_ALIGN: u64 = MIB;

/// Offset of the first superblock, in bytes. The second ends where the data area begins, or as the last of a metadata
/// device.
pub const FIRST_SUPERBLOCK: Place = Place {
    offset: 4 * KIB,
    copy: 0,
};

/// Bytes of one copy of the activity log, of which the pages take the first.
pub const LOG_BYTES: u64 = 4 * MIB;

const _: () = assert!(LOG_PAGES * RECORD_BYTES <= LOG_BYTES as usize);

/// Bytes of one copy of the member table.
const TABLE_BYTES: u64 = 64 * KIB;

const RECORD: u64 = RECORD_BYTES as u64;

/// A piece of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Area {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
}

impl Area {
    /// Where it ends, `None` if that does not fit 64 bits.
    pub const fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }
}

/// Where everything is.
///
/// # Invariants
///
/// The areas are aligned to 4 KiB, do not overlap if they are on one device, leave the first 4 KiB alone, and lie
/// before the data area, which begins at a multiple of 1 MiB and has the size of the volume. Those on a metadata device
/// end where its second superblock does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    geometry: Geometry,
    superblock: [u64; 2],
    /// Of the metadata device, where everything but the superblock and the data is.
    metadata_superblock: Option<[u64; 2]>,
    epoch: [u64; 2],
    table: [Area; 2],
    log: [Area; 2],
    bitmaps: [Area; 2],
    data: u64,
}

/// Why a volume cannot be laid out on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The device is too small.
    TooSmall {
        /// Size of the device, in bytes.
        device: u64,
        /// Bytes the volume needs with its metadata.
        needed: u64,
        /// Size of the largest volume, with this chunk size, that the device can hold; 0 if none.
        largest: u64,
    },
    /// The metadata device is too small.
    MetadataTooSmall {
        /// Size of the metadata device, in bytes.
        device: u64,
        /// Bytes the metadata needs.
        needed: u64,
    },
    /// No device is that large.
    TooLarge,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooSmall { device, needed, largest: 0 } => write!(
                f,
                "the device has {device} bytes but {needed} are needed; it is too small for any volume"
            ),
            Self::TooSmall { device, needed, largest } => write!(
                f,
                "the device has {device} bytes but {needed} are needed; at most a volume of {largest} bytes \
                 ({} sectors) fits",
                largest / 512
            ),
            Self::MetadataTooSmall { device, needed } => write!(
                f,
                "the device has {device} bytes but {needed} are needed for the metadata of a volume of this size and chunk size"
            ),
            Self::TooLarge => f.write_str("the volume is too large for any device"),
        }
    }
}

impl Error for LayoutError {}

impl Layout {
    /// Lays out a volume on a device of `device_bytes`; the error tells the largest volume that fits.
    pub fn compute(device_bytes: u64, geometry: Geometry) -> Result<Self, LayoutError> {
        let layout = Self::of(geometry).ok_or(LayoutError::TooLarge)?;
        layout.check_fits(device_bytes)?;
        Ok(layout)
    }

    /// The same with the metadata on another device, of `metadata_bytes`.
    pub fn compute_external(
        device_bytes: u64,
        metadata_bytes: u64,
        geometry: Geometry,
    ) -> Result<Self, LayoutError> {
        let inside = Self::of(geometry).ok_or(LayoutError::TooLarge)?;
        let layout = Self {
            superblock: [FIRST_SUPERBLOCK.offset, DATA_ALIGN - RECORD],
            metadata_superblock: Some(inside.superblock),
            data: DATA_ALIGN,
            ..inside
        };
        layout.check_fits(device_bytes)?;
        layout.check_metadata_fits(metadata_bytes)?;
        Ok(layout)
    }

    /// Size in bytes of the largest volume with chunks of this size that fits a device of `device_bytes`;
    /// `None` if not even the smallest does.
    pub fn largest(device_bytes: u64, chunk_shift: u8) -> Option<u64> {
        let fits = |blocks: u64| {
            let geometry = Geometry::new(blocks.checked_mul(BLOCK_BYTES)?, chunk_shift).ok()?;
            (Self::of(geometry)?.device_bytes() <= device_bytes).then_some(geometry.size())
        };
        // The metadata only grows with the volume: halve the interval between what fits and what does not.
        let mut best = fits(1)?;
        let (mut low, mut high) = (1, device_bytes / BLOCK_BYTES + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match fits(middle) {
                Some(size) => (low, best) = (middle, size),
                None => high = middle,
            }
        }
        Some(best)
    }

    /// The layout, on whatever device. `None` when an offset does not fit 64 bits.
    fn of(geometry: Geometry) -> Option<Self> {
        let bitmaps = bitmap_bytes(&geometry).checked_mul(MAX_MEMBERS as u64)?;
        let log0 = MIB;
        let bitmaps0 = log0 + LOG_BYTES;
        let log1 = bitmaps0
            .checked_add(bitmaps)?
            .checked_next_multiple_of(MIB)?;
        let bitmaps1 = log1.checked_add(LOG_BYTES)?;
        // The second copies of the small things are in the last MiB before the data.
        let tail = bitmaps1
            .checked_add(bitmaps)?
            .checked_next_multiple_of(MIB)?;
        let data = tail.checked_add(MIB)?;
        data.checked_add(geometry.size())?;
        Some(Self {
            geometry,
            superblock: [FIRST_SUPERBLOCK.offset, data - RECORD],
            metadata_superblock: None,
            epoch: [FIRST_SUPERBLOCK.offset + RECORD, data - 2 * RECORD],
            table: [
                Area {
                    offset: 64 * KIB,
                    len: TABLE_BYTES,
                },
                Area {
                    offset: tail,
                    len: TABLE_BYTES,
                },
            ],
            log: [
                Area {
                    offset: log0,
                    len: LOG_BYTES,
                },
                Area {
                    offset: log1,
                    len: LOG_BYTES,
                },
            ],
            bitmaps: [
                Area {
                    offset: bitmaps0,
                    len: bitmaps,
                },
                Area {
                    offset: bitmaps1,
                    len: bitmaps,
                },
            ],
            data,
        })
    }

    /// Whether a device of `device_bytes` holds it all, but for what is on a metadata device.
    pub fn check_fits(&self, device_bytes: u64) -> Result<(), LayoutError> {
        let needed = self.device_bytes();
        if needed <= device_bytes {
            return Ok(());
        }
        let largest = if self.is_external() {
            // Less than the size of this volume, so not too much for any.
            device_bytes.saturating_sub(self.data) / BLOCK_BYTES * BLOCK_BYTES
        } else {
            Self::largest(device_bytes, self.geometry.chunk_shift()).unwrap_or(0)
        };
        Err(LayoutError::TooSmall {
            device: device_bytes,
            needed,
            largest,
        })
    }

    /// Whether a metadata device of `metadata_bytes` holds what is on one.
    pub fn check_metadata_fits(&self, metadata_bytes: u64) -> Result<(), LayoutError> {
        let needed = self.metadata_bytes();
        if !self.is_external() || needed <= metadata_bytes {
            return Ok(());
        }
        Err(LayoutError::MetadataTooSmall {
            device: metadata_bytes,
            needed,
        })
    }

    /// Whether the metadata is on another device than the data.
    pub fn is_external(&self) -> bool {
        self.metadata_superblock.is_some()
    }

    /// Size and chunk size of the volume.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Both copies of the superblock, on the device with the data. All other records are on the metadata device, if
    /// there is one.
    pub fn superblock(&self) -> [Place; 2] {
        places(self.superblock)
    }

    /// Both copies of the superblock of the metadata device, if there is one.
    pub fn metadata_superblock(&self) -> Option<[Place; 2]> {
        self.metadata_superblock.map(places)
    }

    /// Both copies of the epoch record.
    pub fn epoch(&self) -> [Place; 2] {
        places(self.epoch)
    }

    /// Both copies of the member table. Nothing is kept there yet.
    pub fn member_table(&self) -> [Area; 2] {
        self.table
    }

    /// Both copies of the activity log.
    pub fn activity_log(&self) -> [Area; 2] {
        self.log
    }

    /// Both copies of a page of the activity log, `None` behind the last.
    pub fn log_page(&self, page: usize) -> Option<[Place; 2]> {
        let page = u64::try_from(page).ok()?;
        if page >= LOG_PAGES as u64 {
            return None;
        }
        // Inside the area, as checked below and in `get`.
        Some(places(self.log.map(|all| all.offset + page * RECORD)))
    }

    /// Both copies of the list of unreadable sectors: behind the pages of the activity log, in its area.
    pub fn unreadable(&self) -> [Place; 2] {
        // Inside the area, which has far more pages than the log.
        places(self.log.map(|all| all.offset + LOG_PAGES as u64 * RECORD))
    }

    /// Pages of a dirty bitmap.
    pub fn bitmap_pages(&self) -> u64 {
        bitmap_pages(&self.geometry)
    }

    /// Both copies of a page of the dirty bitmap of a member, `None` behind the last.
    pub fn bitmap_page(&self, member: MemberId, page: u64) -> Option<[Place; 2]> {
        if page >= self.bitmap_pages() {
            return None;
        }
        // Inside the area of the member.
        Some(places(
            self.bitmap(member).map(|all| all.offset + page * RECORD),
        ))
    }

    /// Both copies of the dirty bitmap of a member.
    pub fn bitmap(&self, member: MemberId) -> [Area; 2] {
        let len = bitmap_bytes(&self.geometry);
        // Inside the area, by the invariant.
        self.bitmaps.map(|all| Area {
            offset: all.offset + member.index() as u64 * len,
            len,
        })
    }

    /// The data area, of exactly the size of the volume.
    pub fn data(&self) -> Area {
        Area {
            offset: self.data,
            len: self.geometry.size(),
        }
    }

    /// Bytes of metadata: all before the data area, or those that the metadata device must have.
    pub fn metadata_bytes(&self) -> u64 {
        match self.metadata_superblock {
            None => self.data,
            // Inside of a device, by the invariant.
            Some([_, last]) => last + RECORD,
        }
    }

    /// Bytes the device with the data must have.
    pub fn device_bytes(&self) -> u64 {
        self.data.saturating_add(self.geometry.size())
    }

    /// Where a second superblock may be when the first one cannot be read: before the first MiB, if the metadata is on
    /// another device, and before each multiple of 1 MiB, as far as metadata can reach on a device of `device_bytes`. A
    /// superblock found at one of them counts only if no other store's is found at another.
    pub fn second_superblocks(device_bytes: u64) -> impl Iterator<Item = Place> {
        // With the smallest chunks, 2 copies of 32 bitmaps take 1/504 of the volume: 4096 bytes for each 32256 chunks.
        let least = 12;
        let most = (device_bytes / 504 / MIB)
            .saturating_add(least + 4)
            .min(device_bytes / MIB);
        let external = (DATA_ALIGN <= device_bytes).then_some(1);
        external.into_iter().chain(least..=most).map(|mib| Place {
            offset: mib * MIB - RECORD,
            copy: 1,
        })
    }
}

/// Pages of one bitmap.
fn bitmap_pages(geometry: &Geometry) -> u64 {
    geometry.chunks().div_ceil(BITMAP_PAGE_CHUNKS)
}

/// Bytes of one bitmap.
fn bitmap_bytes(geometry: &Geometry) -> u64 {
    // At most 2^51 chunks: nothing overflows.
    bitmap_pages(geometry) * RECORD
}

fn places(offsets: [u64; 2]) -> [Place; 2] {
    let [first, second] = offsets;
    [
        Place {
            offset: first,
            copy: 0,
        },
        Place {
            offset: second,
            copy: 1,
        },
    ]
}

/// An entry of the table of areas, as bytes. An entry of zeroes is free.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawArea {
    kind: U16,
    copy: U16,
    reserved: U32,
    offset: U64,
    len: U64,
}

/// The table of areas, as bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawAreas([RawArea; TABLE_ENTRIES]);

const TABLE_ENTRIES: usize = 16;

/// Kinds of areas, in the order of the table: two copies each, then the data. Last the superblock of the metadata device:
/// with it there, all but the superblock and the data are on that device.
const PAIRS: [u16; 5] = [1, 2, 3, 4, 5];
const DATA: u16 = 6;
const METADATA_SUPERBLOCK: u16 = 7;

const _: () = {
    assert!(size_of::<RawArea>() == 24);
    assert!(size_of::<RawAreas>() == 384);
};

impl RawArea {
    const FREE: Self = Self {
        kind: U16::ZERO,
        copy: U16::ZERO,
        reserved: U32::ZERO,
        offset: U64::ZERO,
        len: U64::ZERO,
    };

    fn new(kind: u16, copy: u16, area: Area) -> Self {
        Self {
            kind: U16::new(kind),
            copy: U16::new(copy),
            reserved: U32::ZERO,
            offset: U64::new(area.offset),
            len: U64::new(area.len),
        }
    }

    fn area(&self) -> Area {
        Area {
            offset: self.offset.get(),
            len: self.len.get(),
        }
    }

    fn is_free(&self) -> bool {
        self.kind.get() == 0
            && self.copy.get() == 0
            && self.offset.get() == 0
            && self.len.get() == 0
    }
}

impl RawAreas {
    pub(crate) fn new(layout: &Layout) -> Self {
        let record = |offset| Area {
            offset,
            len: RECORD,
        };
        let pairs = [
            layout.superblock.map(record),
            layout.epoch.map(record),
            layout.table,
            layout.log,
            layout.bitmaps,
        ];
        let entries = PAIRS
            .into_iter()
            .zip(pairs)
            .flat_map(|(kind, [first, second])| {
                [RawArea::new(kind, 0, first), RawArea::new(kind, 1, second)]
            })
            .chain([RawArea::new(DATA, 0, layout.data())])
            .chain(
                layout
                    .metadata_superblock()
                    .into_iter()
                    .flatten()
                    .map(|at| RawArea::new(METADATA_SUPERBLOCK, at.copy, record(at.offset))),
            );
        let mut raw = Self([RawArea::FREE; TABLE_ENTRIES]);
        for (place, entry) in raw.0.iter_mut().zip(entries) {
            *place = entry;
        }
        raw
    }

    /// Checks the table; the error says what is wrong with it.
    pub(crate) fn get(&self, geometry: Geometry) -> Result<Layout, &'static str> {
        let find = |kind: u16, copy: u16| {
            let mut hits = self
                .0
                .iter()
                .filter(|e| e.kind.get() == kind && e.copy.get() == copy);
            match (hits.next(), hits.next()) {
                (Some(entry), None) => Ok(entry.area()),
                (None, _) => Err("an area is missing"),
                (Some(_), Some(_)) => Err("an area is there twice"),
            }
        };
        let pair = |kind| Ok::<_, &'static str>([find(kind, 0)?, find(kind, 1)?]);
        for entry in &self.0 {
            let known = match entry.kind.get() {
                0 => entry.is_free(),
                DATA => entry.copy.get() == 0,
                kind => {
                    (PAIRS.contains(&kind) || kind == METADATA_SUPERBLOCK) && entry.copy.get() <= 1
                }
            };
            if !known || entry.reserved.get() != 0 {
                return Err("an area of unknown kind");
            }
        }
        let [superblock, epoch, table, log, bitmaps] = PAIRS;
        let superblock = pair(superblock)?;
        let epoch = pair(epoch)?;
        let table = pair(table)?;
        let log = pair(log)?;
        let bitmaps = pair(bitmaps)?;
        let data = find(DATA, 0)?;

        if data.len != geometry.size() || data.offset % DATA_ALIGN != 0 || data.end().is_none() {
            return Err("the data area does not fit the volume");
        }
        let is_external = self.0.iter().any(|e| e.kind.get() == METADATA_SUPERBLOCK);
        let external = is_external.then(|| pair(METADATA_SUPERBLOCK)).transpose()?;
        match external {
            None => check_device(&[superblock, epoch, table, log, bitmaps], data.offset)?,
            Some(own) => {
                let [_, last] = own;
                let end = last.end().ok_or("an area has no end")?;
                check_device(&[superblock], data.offset)?;
                check_device(&[own, epoch, table, log, bitmaps], end)?;
            }
        }
        if superblock
            .iter()
            .chain(&epoch)
            .chain(external.iter().flatten())
            .any(|area| area.len != RECORD)
        {
            return Err("a record has the wrong size");
        }
        if log.iter().any(|area| area.len != LOG_BYTES) {
            return Err("the activity log has the wrong size");
        }
        let bitmap_bytes = bitmap_bytes(&geometry).checked_mul(MAX_MEMBERS as u64);
        if bitmaps.iter().any(|area| Some(area.len) != bitmap_bytes) {
            return Err("the bitmaps have the wrong size");
        }
        let superblock = superblock.map(|area| area.offset);
        if superblock != [FIRST_SUPERBLOCK.offset, data.offset - RECORD] {
            return Err("a superblock is not where it must be");
        }
        let metadata_superblock = external.map(|own| own.map(|area| area.offset));
        if metadata_superblock.is_some_and(|[first, _]| first != FIRST_SUPERBLOCK.offset) {
            return Err("a superblock is not where it must be");
        }
        let epoch = epoch.map(|area| area.offset);
        Ok(Layout {
            geometry,
            superblock,
            metadata_superblock,
            epoch,
            table,
            log,
            bitmaps,
            data: data.offset,
        })
    }
}

/// Checks that pairs of areas on one device are well-formed, apart, and before `end`.
fn check_device(pairs: &[[Area; 2]], end: u64) -> Result<(), &'static str> {
    let areas = || pairs.iter().flatten();
    for area in areas() {
        let area_end = area.end().ok_or("an area has no end")?;
        if (area.offset | area.len) % BLOCK_BYTES != 0 || area.len == 0 {
            return Err("an area is not aligned");
        }
        if area.offset < BLOCK_BYTES || area_end > end {
            return Err("an area is outside the metadata");
        }
    }
    for (index, area) in areas().enumerate() {
        let overlaps =
            |other: &Area| area.end() > Some(other.offset) && other.end() > Some(area.offset);
        if areas().skip(index + 1).any(overlaps) {
            return Err("two areas overlap");
        }
    }
    Ok(())
}
