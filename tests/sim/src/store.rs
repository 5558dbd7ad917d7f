// SPDX-License-Identifier: GPL-2.0

//! Stores: their creation on an empty disk, and what the metadata of a member that is down will make of it when it
//! starts.
//!
//! The latter is for the checkers, so it is written apart from the engine: what a reader of `docs/on-disk-format.md`
//! would do.

use crate::disk::Disk;
use rmr_proto::pick_newest;
use rmr_proto::BadBlock;
use rmr_proto::BitmapPage;
use rmr_proto::Crc32c;
use rmr_proto::DeviceRole;
use rmr_proto::EpochRecord;
use rmr_proto::Geometry;
use rmr_proto::Layout;
use rmr_proto::LogPage;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Place;
use rmr_proto::PoolName;
use rmr_proto::RecordError;
use rmr_proto::StoreState;
use rmr_proto::Superblock;
use rmr_proto::UnreadablePage;
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
            role: DeviceRole::Data,
            state: StoreState::Ready,
            store,
            pool,
            name: name().ok_or(RecordError::Field("name"))?,
            member,
            logical_block: 512,
            layout: layout.clone(),
            metadata: None,
            secret: false,
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
    /// The epoch record, if it is readable.
    epoch: Option<EpochRecord>,
    /// The pages of the activity log.
    log: [Option<LogImage>; LOG_PAGES],
    /// The pages of the bitmaps that count, as words.
    dirty: BTreeMap<(MemberId, u64), Option<Vec<u64>>>,
    chunk_shift: u8,
    /// The list of unreadable sectors, if it counts and is readable.
    unreadable: Option<Option<ListImage>>,
}

/// The sectors of a list.
pub fn sectors(blocks: impl Iterator<Item = BadBlock>) -> impl Iterator<Item = u64> {
    blocks.flat_map(|bad| {
        let all = bad.block * 8..bad.block * 8 + 8;
        all.filter(move |sector| bad.sectors >> (sector & 7) & 1 == 1)
    })
}

/// The list of unreadable sectors.
#[derive(Clone, Debug, Hash)]
struct ListImage {
    /// Something newer may be missing: the whole store is suspect.
    suspicious: bool,
    blocks: Vec<BadBlock>,
}

/// A page of the activity log.
#[derive(Clone, Debug, Default, Hash)]
struct LogImage {
    /// Something newer may be missing: the whole store is suspect.
    suspicious: bool,
    extents: BTreeSet<u64>,
}

/// Where to read an image from.
struct Source<'a> {
    disk: &'a Disk,
    layout: &'a Layout,
    store: Uuid,
}

impl Source<'_> {
    fn epoch(&self) -> Option<EpochRecord> {
        let parse =
            |at: Place| EpochRecord::parse::<Crc>(self.store, at, self.disk.record(at.offset));
        let [first, second] = self.layout.epoch().map(parse);
        pick_newest(first, second).ok().map(|newest| newest.record)
    }

    fn log(&self, page: usize) -> Option<LogImage> {
        let places = self.layout.log_page(page)?;
        let records = places.map(|at| (at, self.disk.record(at.offset)));
        let [first, second] = records
            .each_ref()
            .map(|(at, bytes)| LogPage::parse::<Crc>(self.store, *at, *bytes));
        let newest = pick_newest(first, second).ok()?;
        Some(LogImage {
            suspicious: newest.suspicious,
            extents: newest.record.slots().flatten().collect(),
        })
    }

    fn unreadable(&self) -> Option<ListImage> {
        let records = self
            .layout
            .unreadable()
            .map(|at| (at, self.disk.record(at.offset)));
        let [first, second] = records
            .each_ref()
            .map(|(at, bytes)| UnreadablePage::parse::<Crc>(self.store, *at, *bytes));
        let newest = pick_newest(first, second).ok()?;
        Some(ListImage {
            suspicious: newest.suspicious,
            blocks: newest.record.slots().flatten().collect(),
        })
    }

    fn bitmap(&self, member: MemberId, page: u64) -> Option<Vec<u64>> {
        let places = self.layout.bitmap_page(member, page)?;
        let records = places.map(|at| (at, self.disk.record(at.offset)));
        let [first, second] = records
            .each_ref()
            .map(|(at, bytes)| BitmapPage::parse::<Crc>(self.store, *at, *bytes));
        let newest = pick_newest(first, second).ok()?;
        let words = newest.record.words().iter();
        Some(if newest.suspicious {
            words.map(|_| u64::MAX).collect()
        } else {
            words.map(|word| word.get()).collect()
        })
    }
}

impl Image {
    /// Reads the metadata of a store.
    pub fn read(disk: &Disk, layout: &Layout, store: Uuid) -> Image {
        let mut image = Image {
            chunk_shift: layout.geometry().chunk_shift(),
            ..Image::default()
        };
        let source = Source {
            disk,
            layout,
            store,
        };
        for (page, log) in image.log.iter_mut().enumerate() {
            *log = source.log(page);
        }
        image.read_epoch(&source);
        image
    }

    /// Reads again what a copy of a record at this offset belongs to; nothing else was written.
    pub fn read_again(&mut self, disk: &Disk, layout: &Layout, store: Uuid, offset: u64) {
        let source = Source {
            disk,
            layout,
            store,
        };
        let is_there = |places: [Place; 2]| places.iter().any(|at| at.offset == offset);
        if is_there(layout.epoch()) {
            return self.read_epoch(&source);
        }
        if self.unreadable.is_some() && is_there(layout.unreadable()) {
            self.unreadable = Some(source.unreadable());
        }
        for (page, log) in self.log.iter_mut().enumerate() {
            if layout.log_page(page).is_some_and(is_there) {
                *log = source.log(page);
            }
        }
        for (&(member, page), words) in &mut self.dirty {
            if layout.bitmap_page(member, page).is_some_and(is_there) {
                *words = source.bitmap(member, page);
            }
        }
        self.look();
    }

    fn read_epoch(&mut self, source: &Source<'_>) {
        self.epoch = source.epoch();
        let count = self
            .epoch
            .as_ref()
            .map_or(MemberSet::EMPTY, |epoch| epoch.bitmaps);
        self.dirty.retain(|(member, _), _| count.contains(*member));
        for member in count.iter() {
            for page in 0..source.layout.bitmap_pages() {
                let read = || source.bitmap(member, page);
                self.dirty.entry((member, page)).or_insert_with(read);
            }
        }
        let listed = self.epoch.as_ref().is_some_and(|epoch| epoch.unreadable);
        self.unreadable = listed.then(|| source.unreadable());
        self.look();
    }

    /// Whether all is readable.
    fn look(&mut self) {
        self.readable = self.epoch.is_some()
            && self.log.iter().all(Option::is_some)
            && self.unreadable.as_ref().is_none_or(Option::is_some)
            && self.dirty.values().all(Option::is_some);
    }

    /// The epoch record of a store that is readable.
    pub fn record(&self) -> Option<&EpochRecord> {
        self.epoch.as_ref().filter(|_| self.readable)
    }

    /// Whether a chunk of a member's copy is dirty.
    pub fn is_dirty(&self, member: MemberId, chunk: u64) -> bool {
        let page = chunk / BITMAP_PAGE_CHUNKS;
        let bit = chunk % BITMAP_PAGE_CHUNKS;
        let words = self.dirty.get(&(member, page)).and_then(Option::as_ref);
        let word = words.and_then(|words| words.get((bit / 64) as usize));
        self.record().is_some_and(|epoch| {
            epoch.all_dirty.contains(member) || word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
        })
    }

    /// The list of unreadable sectors.
    pub fn unreadable(&self) -> impl Iterator<Item = u64> + '_ {
        let list = self.unreadable.iter().flatten();
        sectors(list.flat_map(|list| list.blocks.iter().copied()))
    }

    /// Whether the extent of a chunk is logged, or the whole store is suspect.
    pub fn is_logged(&self, chunk: u64) -> bool {
        let extent = chunk << self.chunk_shift >> EXTENT_SHIFT;
        let mut pages = self.log.iter().flatten();
        let mut list = self.unreadable.iter().flatten();
        self.record().is_some_and(|epoch| {
            epoch.suspect_all
                || list.any(|list| list.suspicious)
                || pages.any(|page| page.suspicious || page.extents.contains(&extent))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(image.readable && image.dirty.is_empty());
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
        create(
            &mut disk,
            &layout,
            store,
            pool,
            one,
            &EpochRecord::default(),
        )
        .unwrap();
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
