// SPDX-License-Identifier: GPL-2.0

//! Stores: their creation on an empty disk, and what the metadata of a member that is down will make of it when it
//! starts.
//!
//! The latter is for the checkers, so it is written apart from the engine: what a reader of `docs/on-disk-format.md`
//! would do.

use crate::disk::Disk;
use rmr_proto::pick_newest;
use rmr_proto::BitmapPage;
use rmr_proto::Crc32c;
use rmr_proto::EpochRecord;
use rmr_proto::Geometry;
use rmr_proto::Layout;
use rmr_proto::LogPage;
use rmr_proto::MemberId;
use rmr_proto::Place;
use rmr_proto::PoolName;
use rmr_proto::RecordError;
use rmr_proto::StoreState;
use rmr_proto::Superblock;
use rmr_proto::Uuid;
use rmr_proto::BITMAP_PAGE_CHUNKS;
use rmr_proto::EXTENT_SHIFT;
use rmr_proto::LOG_PAGES;
use rmr_proto::RECORD_BYTES;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// The checksum.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Crc;

impl Crc32c for Crc {
    fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
        !crc32c::crc32c_append(!seed, bytes)
    }
}

/// Name of the only pool.
pub fn name() -> Option<PoolName> {
    PoolName::new(b"sim").ok()
}

/// Where everything is on a disk of this volume.
pub fn layout(geometry: Geometry) -> Option<Layout> {
    Layout::compute(1 << 62, geometry).ok()
}

/// Writes a store to an empty disk, known to be all zero; a new one has the default record.
pub fn create(
    disk: &mut Disk,
    layout: &Layout,
    store: Uuid,
    pool: Uuid,
    member: MemberId,
    epoch: &EpochRecord,
) -> Result<(), RecordError> {
    let mut buf = [0; RECORD_BYTES];
    for copy in 0..2 {
        for page in 0..LOG_PAGES {
            if let Some(places) = layout.log_page(page) {
                let at = places[copy];
                LogPage::encode::<Crc>(store, 1, at, [], &mut buf)?;
                disk.create(at.offset, &buf);
            }
        }
        let at = layout.epoch()[copy];
        epoch.encode::<Crc>(store, 1, at, &mut buf)?;
        disk.create(at.offset, &buf);
        let superblock = Superblock {
            state: StoreState::Ready,
            store,
            pool,
            name: name().ok_or(RecordError::Field("name"))?,
            member,
            logical_block: 512,
            layout: layout.clone(),
        };
        let at = superblock.encode::<Crc>(1, copy as u16, &mut buf)?;
        disk.create(at.offset, &buf);
    }
    Ok(())
}

/// What is remembered on a disk.
#[derive(Clone, Debug, Default, Hash)]
pub struct Image {
    /// Whether it can be read at all; if not, the store is refused, and holds nothing that counts.
    pub readable: bool,
    /// The epoch record.
    pub epoch: EpochRecord,
    /// Extents in the activity log.
    pub logged: BTreeSet<u64>,
    /// Dirty chunks of members whose bitmaps count.
    pub dirty: BTreeMap<MemberId, BTreeSet<u64>>,
    chunk_shift: u8,
}

impl Image {
    /// Reads the metadata of a store.
    pub fn read(disk: &Disk, layout: &Layout, store: Uuid) -> Image {
        Image::try_read(disk, layout, store).unwrap_or_default()
    }

    fn try_read(disk: &Disk, layout: &Layout, store: Uuid) -> Option<Image> {
        let geometry = layout.geometry();
        let [first, second] = layout.epoch();
        let parse = |at: Place| EpochRecord::parse::<Crc>(store, at, disk.record(at.offset));
        let epoch = pick_newest(parse(first), parse(second)).ok()?.record;
        let mut image = Image {
            readable: true,
            epoch,
            logged: BTreeSet::new(),
            dirty: BTreeMap::new(),
            chunk_shift: geometry.chunk_shift(),
        };
        for page in 0..LOG_PAGES {
            let records = layout
                .log_page(page)?
                .map(|at| (at, disk.record(at.offset)));
            let [first, second] = records
                .each_ref()
                .map(|(at, bytes)| LogPage::parse::<Crc>(store, *at, *bytes));
            match pick_newest(first, second) {
                Ok(newest) => {
                    image.epoch.suspect_all |= newest.suspicious;
                    image.logged.extend(newest.record.slots().flatten());
                }
                Err(_) => return None,
            }
        }
        for member in image.epoch.bitmaps.iter() {
            let mut chunks = BTreeSet::new();
            for page in 0..layout.bitmap_pages() {
                let base = page * BITMAP_PAGE_CHUNKS;
                let end = geometry.chunks().min(base + BITMAP_PAGE_CHUNKS);
                let records = layout
                    .bitmap_page(member, page)?
                    .map(|at| (at, disk.record(at.offset)));
                let [first, second] = records
                    .each_ref()
                    .map(|(at, bytes)| BitmapPage::parse::<Crc>(store, *at, *bytes));
                match pick_newest(first, second) {
                    Ok(newest) if newest.suspicious => chunks.extend(base..end),
                    Ok(newest) => {
                        let words = newest.record.words();
                        let is_set = |chunk: &u64| {
                            let bit = chunk - base;
                            words
                                .get((bit / 64) as usize)
                                .is_some_and(|word| word.get() & 1 << (bit % 64) != 0)
                        };
                        chunks.extend((base..end).filter(is_set));
                    }
                    Err(_) => return None,
                }
            }
            image.dirty.insert(member, chunks);
        }
        Some(image)
    }

    /// Whether a chunk of a member's copy is dirty.
    pub fn is_dirty(&self, member: MemberId, chunk: u64) -> bool {
        self.epoch.all_dirty.contains(member)
            || self
                .dirty
                .get(&member)
                .is_some_and(|chunks| chunks.contains(&chunk))
    }

    /// Whether the extent of a chunk is logged, or the whole store is suspect.
    pub fn is_logged(&self, chunk: u64) -> bool {
        let extent = chunk << self.chunk_shift >> EXTENT_SHIFT;
        self.epoch.suspect_all || self.logged.contains(&extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmr_proto::MemberSet;

    #[test]
    fn new_store() {
        let geometry = Geometry::new(64 << 20, 16).unwrap();
        let layout = layout(geometry).unwrap();
        let (store, pool) = (Uuid([1; 16]), Uuid([2; 16]));
        let member = MemberId::new(3).unwrap();
        let mut disk = Disk::new(true);
        assert!(!Image::read(&disk, &layout, store).readable);
        let epoch = EpochRecord::default();
        create(&mut disk, &layout, store, pool, member, &epoch).unwrap();
        let image = Image::read(&disk, &layout, store);
        assert!(image.readable && image.logged.is_empty() && image.dirty.is_empty());
        assert!(!image.is_dirty(member, 0) && !image.is_logged(0));
        assert!(!Image::read(&disk, &layout, Uuid([9; 16])).readable);
    }

    #[test]
    fn marks() {
        let geometry = Geometry::new(64 << 20, 16).unwrap();
        let layout = layout(geometry).unwrap();
        let (store, pool) = (Uuid([1; 16]), Uuid([2; 16]));
        let [one, two, three] = [1, 2, 3].map(|id| MemberId::new(id).unwrap());
        let mut disk = Disk::new(true);
        create(&mut disk, &layout, store, pool, one, &EpochRecord::default()).unwrap();
        let mut buf = [0; RECORD_BYTES];
        for copy in 0..2 {
            let at = layout.log_page(0).unwrap()[copy];
            LogPage::encode::<Crc>(store, 2, at, [None, Some(5)], &mut buf).unwrap();
            disk.create(at.offset, &buf);
            let at = layout.bitmap_page(two, 0).unwrap()[copy];
            BitmapPage::encode::<Crc>(store, 2, at, [1 << 7], &mut buf).unwrap();
            disk.create(at.offset, &buf);
            let at = layout.epoch()[copy];
            let record = EpochRecord {
                bitmaps: MemberSet::only(two),
                all_dirty: MemberSet::only(three),
                ..EpochRecord::default()
            };
            record.encode::<Crc>(store, 2, at, &mut buf).unwrap();
            disk.create(at.offset, &buf);
        }
        let image = Image::read(&disk, &layout, store);
        assert!(image.is_logged(5 * 64) && !image.is_logged(4 * 64 + 63));
        assert!(image.is_dirty(two, 7) && !image.is_dirty(two, 6));
        assert!(image.is_dirty(three, 0) && !image.is_dirty(one, 0));
        let mut random = crate::random::Random::new(1, crate::random::Purpose::Disk);
        disk.rot(layout.log_page(0).unwrap()[0].offset, &mut random);
        assert!(Image::read(&disk, &layout, store).is_logged(0));
    }
}
