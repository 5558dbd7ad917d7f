// SPDX-License-Identifier: GPL-2.0

//! The metadata of a store: read when a member starts, and what is written of it, copy by copy.
//!
//! Every record has two copies, written one after the other; so at most the last write is in doubt after a crash. What is
//! more in doubt than that counts as lost: all of a page of a bitmap is dirty, or the whole store is suspect (R14).

use super::bitmap::Bitmaps;
use super::log::Log;
use super::unreadable::Unreadable;
use crate::memory::Memory;
use crate::memory::NoMemory;
use crate::planted::on;
use crate::planted::Bug;
use core::marker::PhantomData;
use rmr_proto::pick_newest;
use rmr_proto::relocate;
use rmr_proto::BitmapPage;
use rmr_proto::Crc32c;
use rmr_proto::EpochRecord;
use rmr_proto::Layout;
use rmr_proto::LogPage;
use rmr_proto::MemberId;
use rmr_proto::Newest;
use rmr_proto::PickError;
use rmr_proto::Place;
use rmr_proto::RecordError;
use rmr_proto::Status;
use rmr_proto::UnreadablePage;
use rmr_proto::Uuid;
use rmr_proto::Versioned;
use rmr_proto::LOG_PAGES;
use rmr_proto::MAX_MEMBERS;
use rmr_proto::RECORD_BYTES;

/// A record on disk, both copies of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordId {
    /// The epoch record.
    Epoch,
    /// A page of the activity log.
    Log(usize),
    /// The list of unreadable sectors.
    Unreadable,
    /// A page of the dirty bitmap of a member.
    Bitmap(MemberId, usize),
}

/// Why a store is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// Neither copy of a record counts.
    Lost(RecordId, PickError),
    /// The epoch record could not be read.
    Unreadable(Status),
    /// It was started too often.
    Exhausted,
    /// There is no memory.
    NoMemory,
}

impl From<NoMemory> for StartError {
    fn from(_: NoMemory) -> Self {
        Self::NoMemory
    }
}

/// Reads 4 KiB of the store's device at an offset in bytes.
pub trait Reader {
    /// Fills `page`. A page that cannot be read is as bad as one that is damaged.
    fn read(&mut self, offset: u64, page: &mut [u8; RECORD_BYTES]) -> Result<(), Status>;
}

/// The versions of pages that count for nothing when a store is read begin with its number of starts, shifted by this: their
/// copies are not read, so their last version is not known. A page is not written so often in one run.
const STARTS_SHIFT: u32 = 32;

/// How many versions a write of the epoch record that was begun may be ahead of what counts: more than can be, and not so many
/// that numbers could run out.
const MAX_BEGUN: u64 = 1 << 32;

/// A record on disk.
#[derive(Clone, Copy, Default, Hash)]
struct Version {
    /// Its number.
    sequence: u64,
    /// Only copy 0 is good and of this version: the next one is written to copy 1 first. Otherwise a power cut in the
    /// middle of that could leave none.
    second_first: bool,
}

impl Version {
    /// As it was found.
    fn found(sequence: u64, rewrite: Option<u16>) -> Self {
        Self {
            sequence,
            second_first: rewrite == Some(1) && !on(Bug::RepairLast),
        }
    }

    /// First and second of the places of both copies, in the order in which they are written.
    fn order(&self, [copy0, copy1]: [Place; 2]) -> [Place; 2] {
        if self.second_first {
            [copy1, copy0]
        } else {
            [copy0, copy1]
        }
    }
}

/// Where the records are, and the version of each.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub(super) struct Records<M: Memory, C> {
    store: Uuid,
    layout: Layout,
    epoch: Version,
    log: [Version; LOG_PAGES],
    unreadable: Version,
    /// By member and page.
    bitmaps: M::Array<Version>,
    pages: usize,
    crc: PhantomData<C>,
}

impl<M: Memory, C: Crc32c> Records<M, C> {
    /// The records of a store.
    pub(super) fn new(memory: &M, store: Uuid, layout: Layout) -> Result<Self, NoMemory> {
        let pages = usize::try_from(layout.bitmap_pages()).map_err(|_| NoMemory)?;
        let all = pages.checked_mul(MAX_MEMBERS).ok_or(NoMemory)?;
        Ok(Self {
            store,
            layout,
            epoch: Version::default(),
            log: [Version::default(); LOG_PAGES],
            unreadable: Version::default(),
            bitmaps: memory.array(all, |_| Version::default())?,
            pages,
            crc: PhantomData,
        })
    }

    /// Where both copies of a record are.
    fn places(&self, id: RecordId) -> Option<[Place; 2]> {
        match id {
            RecordId::Epoch => Some(self.layout.epoch()),
            RecordId::Log(page) => self.layout.log_page(page),
            RecordId::Unreadable => Some(self.layout.unreadable()),
            RecordId::Bitmap(member, page) => self.layout.bitmap_page(member, page as u64),
        }
    }

    fn version(&mut self, id: RecordId) -> Option<&mut Version> {
        match id {
            RecordId::Epoch => Some(&mut self.epoch),
            RecordId::Log(page) => self.log.get_mut(page),
            RecordId::Unreadable => Some(&mut self.unreadable),
            RecordId::Bitmap(member, page) => {
                self.bitmaps.get_mut(member.index() * self.pages + page)
            }
        }
    }

    /// Makes the next version of a record: writes one copy into `page`, and returns its offset on the device.
    pub(super) fn first(
        &mut self,
        id: RecordId,
        epoch: &EpochRecord,
        log: &Log<M>,
        bitmaps: &Bitmaps<M>,
        unreadable: &Unreadable<M>,
        page: &mut [u8; RECORD_BYTES],
    ) -> Result<u64, RecordError> {
        let wrong = RecordError::Field("place");
        let places = self.places(id).ok_or(wrong)?;
        let version = self.version(id).ok_or(wrong)?;
        version.sequence = version.sequence.checked_add(1).ok_or(wrong)?;
        let sequence = version.sequence;
        let [at, _] = version.order(places);
        let store = self.store;
        match id {
            RecordId::Epoch => epoch.encode::<C>(store, sequence, at, page)?,
            RecordId::Log(n) => LogPage::encode::<C>(store, sequence, at, log.page(n), page)?,
            RecordId::Unreadable => {
                UnreadablePage::encode::<C>(store, sequence, at, unreadable.slots(), page)?
            }
            RecordId::Bitmap(member, n) => {
                let words = bitmaps.page(member, n);
                BitmapPage::encode::<C>(store, sequence, at, words, page)?;
            }
        }
        Ok(at.offset)
    }

    /// Makes the other copy of the one in `page`, and returns its offset. The content is the same, whatever became dirty
    /// meanwhile.
    pub(super) fn second(
        &mut self,
        id: RecordId,
        page: &mut [u8; RECORD_BYTES],
    ) -> Result<u64, RecordError> {
        let wrong = RecordError::Field("place");
        let places = self.places(id).ok_or(wrong)?;
        let version = self.version(id).ok_or(wrong)?;
        let [from, to] = version.order(places);
        version.second_first = false;
        relocate::<C>(from, to, page)?;
        Ok(to.offset)
    }

    /// Reads everything; `copies` is room for it. What a crash may have taken from memory is put back: the chunks of
    /// the log are dirty on everybody who was no receiver. Everything that is in doubt is to be written again: the
    /// epoch record first, as a log that is whole again says no more that something is missing.
    pub(super) fn read(
        &mut self,
        memory: &M,
        reader: &mut impl Reader,
        log: &mut Log<M>,
        (bitmaps, unreadable): (&Bitmaps<M>, &Unreadable<M>),
        copies: &mut [[u8; RECORD_BYTES]; 2],
    ) -> Result<M::Box<EpochRecord>, StartError> {
        let mut record = self.read_epoch(memory, reader, copies)?;
        // Above all that may be on disk, or a copy of long ago could be taken for the newer one when a write is lost.
        let first = Version {
            sequence: record.incarnation.count().saturating_add(1) << STARTS_SHIFT,
            second_first: false,
        };
        for page in 0..self.bitmaps.len() {
            if let Some(version) = self.bitmaps.get_mut(page) {
                *version = first;
            }
        }
        self.unreadable = first;
        for page in 0..LOG_PAGES {
            self.read_log(page, reader, log, &mut record, copies)?;
        }
        for member in record.bitmaps {
            for page in 0..self.pages {
                self.read_bitmap(member, page, reader, bitmaps, copies)?;
            }
        }
        if record.unreadable && !on(Bug::ForgetUnreadable) {
            self.read_unreadable(reader, unreadable, &mut record, copies)?;
        }
        bitmaps.fill(record.all_dirty);
        let geometry = self.layout.geometry();
        if let Some(config) = &record.installed {
            let absent = config.table().minus(config.receivers());
            if record.suspect_all {
                bitmaps.fill(absent);
            }
            let extents = log.extents().filter(|_| !on(Bug::ForgetLogOfAbsent));
            for extent in extents {
                bitmaps.mark(absent, super::chunks_of_extent(&geometry, extent));
            }
        }
        Ok(record)
    }

    /// Reads both copies of a record; `false` for one that cannot be read.
    fn load(
        &self,
        id: RecordId,
        reader: &mut impl Reader,
        copies: &mut [[u8; RECORD_BYTES]; 2],
    ) -> Result<[Place; 2], StartError> {
        let places = self.places(id).ok_or(StartError::NoMemory)?;
        for (place, page) in places.iter().zip(copies) {
            if reader.read(place.offset, page).is_err() {
                // Neither a record nor blank.
                page.fill(0xff);
            }
        }
        Ok(places)
    }

    /// Apart, and into a box: the record is large, and a kernel's stack is not.
    #[inline(never)]
    fn read_epoch(
        &mut self,
        memory: &M,
        reader: &mut impl Reader,
        copies: &mut [[u8; RECORD_BYTES]; 2],
    ) -> Result<M::Box<EpochRecord>, StartError> {
        let places = self.load(RecordId::Epoch, reader, copies)?;
        let [copy0, copy1] = copies;
        let newest = EpochRecord::newest::<C>(self.store, places, [&copy0[..], &copy1[..]])
            .map_err(|why| StartError::Lost(RecordId::Epoch, why))?;
        // The rest of a version that was torn may yet be completed, by a write that is torn, too: then there must be no
        // other one of its number. A number that is not near was damaged.
        let begun = [(places[0], &copy0[..]), (places[1], &copy1[..])]
            .into_iter()
            .filter_map(|(place, copy)| EpochRecord::begun(self.store, place, copy))
            .filter(|begun| begun.saturating_sub(newest.sequence) <= MAX_BEGUN)
            .fold(newest.sequence, u64::max);
        self.epoch = Version::found(begun, newest.rewrite);
        Ok(memory.boxed(|| newest.record)?)
    }

    fn read_log(
        &mut self,
        page: usize,
        reader: &mut impl Reader,
        log: &mut Log<M>,
        record: &mut EpochRecord,
        copies: &mut [[u8; RECORD_BYTES]; 2],
    ) -> Result<(), StartError> {
        let id = RecordId::Log(page);
        let [place0, place1] = self.load(id, reader, copies)?;
        let [copy0, copy1] = copies;
        let newest = pick(
            LogPage::parse::<C>(self.store, place0, copy0),
            LogPage::parse::<C>(self.store, place1, copy1),
        )
        .map_err(|why| StartError::Lost(id, why))?;
        if newest.suspicious && !on(Bug::TrustSuspicious) {
            record.suspect_all = true;
        }
        if newest.rewrite.is_some() {
            log.touch(page);
        }
        log.found(page, newest.record.slots());
        if let Some(version) = self.version(id) {
            *version = Version::found(newest.sequence, newest.rewrite);
        }
        Ok(())
    }

    fn read_unreadable(
        &mut self,
        reader: &mut impl Reader,
        unreadable: &Unreadable<M>,
        record: &mut EpochRecord,
        copies: &mut [[u8; RECORD_BYTES]; 2],
    ) -> Result<(), StartError> {
        let id = RecordId::Unreadable;
        let [place0, place1] = self.load(id, reader, copies)?;
        let [copy0, copy1] = copies;
        let newest = pick(
            UnreadablePage::parse::<C>(self.store, place0, copy0),
            UnreadablePage::parse::<C>(self.store, place1, copy1),
        )
        .map_err(|why| StartError::Lost(id, why))?;
        if newest.suspicious && !on(Bug::TrustSuspicious) {
            // What is old, and not known to be, may be anywhere.
            record.suspect_all = true;
        }
        unreadable.load(newest.record.slots());
        if newest.rewrite.is_some() {
            unreadable.touch();
        }
        self.unreadable = Version::found(newest.sequence, newest.rewrite);
        Ok(())
    }

    fn read_bitmap(
        &mut self,
        member: MemberId,
        page: usize,
        reader: &mut impl Reader,
        bitmaps: &Bitmaps<M>,
        copies: &mut [[u8; RECORD_BYTES]; 2],
    ) -> Result<(), StartError> {
        let id = RecordId::Bitmap(member, page);
        let [place0, place1] = self.load(id, reader, copies)?;
        let [copy0, copy1] = copies;
        let newest = pick(
            BitmapPage::parse::<C>(self.store, place0, copy0),
            BitmapPage::parse::<C>(self.store, place1, copy1),
        )
        .map_err(|why| StartError::Lost(id, why))?;
        if newest.suspicious && !on(Bug::TrustSuspicious) {
            bitmaps.mark_page(member, page);
        } else {
            let words = newest.record.words().iter().map(|word| word.get());
            bitmaps.merge(member, page, words);
            bitmaps.settle_page(member, page);
        }
        if newest.rewrite.is_some() {
            bitmaps.touch_page(member, page);
        }
        if let Some(version) = self.version(id) {
            *version = Version::found(newest.sequence, newest.rewrite);
        }
        Ok(())
    }
}

/// As [`pick_newest`], for pages: two contents of one version mean that something may be missing, not that the store is
/// of no use.
fn pick<T: PartialEq + Clone>(
    copy0: Result<Versioned<T>, RecordError>,
    copy1: Result<Versioned<T>, RecordError>,
) -> Result<Newest<T>, PickError> {
    match (&copy0, &copy1) {
        (Ok(a), Ok(b)) if a.sequence == b.sequence && a.record != b.record => Ok(Newest {
            sequence: a.sequence,
            record: a.record.clone(),
            rewrite: Some(1),
            suspicious: true,
        }),
        _ => pick_newest(copy0, copy1),
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::Extents;
    use super::*;
    use crate::memory::HostMemory;
    use rmr_proto::BadBlock;
    use rmr_proto::Config;
    use rmr_proto::Epoch;
    use rmr_proto::Generation;
    use rmr_proto::Geometry;
    use rmr_proto::Incarnation;
    use rmr_proto::MemberSet;
    use rmr_proto::Quorum;
    use rmr_proto::BITMAP_PAGE_CHUNKS;
    use std::boxed::Box;
    use std::collections::BTreeMap;

    struct Sum;

    /// Good enough for what is damaged here.
    impl Crc32c for Sum {
        fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
            bytes.iter().fold(seed, |sum, byte| {
                sum.rotate_left(5).wrapping_add(u32::from(*byte))
            })
        }
    }

    #[derive(Clone, Default)]
    struct Disk(BTreeMap<u64, [u8; RECORD_BYTES]>);

    impl Reader for Disk {
        fn read(&mut self, offset: u64, page: &mut [u8; RECORD_BYTES]) -> Result<(), Status> {
            *page = *self.0.get(&offset).ok_or(Status::Medium)?;
            Ok(())
        }
    }

    type Kept = Records<HostMemory, Sum>;

    const STORE: Uuid = Uuid([7; 16]);
    const VOLUME: u64 = 64 << 20;

    fn id(id: u32) -> MemberId {
        MemberId::new(id).unwrap()
    }

    fn geometry() -> Geometry {
        Geometry::new(VOLUME, 16).unwrap()
    }

    fn records() -> Kept {
        let layout = Layout::compute(1 << 40, geometry()).unwrap();
        Records::new(&HostMemory, STORE, layout).unwrap()
    }

    const BAD: BadBlock = BadBlock {
        block: 77,
        sectors: 0xff,
    };

    fn list() -> Unreadable<HostMemory> {
        Unreadable::new(&HostMemory).unwrap()
    }

    fn bitmaps() -> Bitmaps<HostMemory> {
        Bitmaps::new(&HostMemory, &geometry()).unwrap()
    }

    /// Members 1, in sync, and 2, absent, whose bitmap counts.
    fn epoch() -> EpochRecord {
        let mut members = [None; MAX_MEMBERS];
        let mut incarnations = [Incarnation::NONE; MAX_MEMBERS];
        members[0] = Some(STORE);
        members[1] = Some(Uuid([8; 16]));
        incarnations[0] = Incarnation(1);
        EpochRecord {
            incarnation: Incarnation(1),
            installed: Some(Config {
                generation: Generation {
                    number: 1,
                    nonce: 1,
                },
                epoch: Epoch(1),
                in_sync: MemberSet::only(id(1)),
                catching_up: MemberSet::EMPTY,
                members,
                incarnations,
                persisted: [Epoch::NONE; MAX_MEMBERS],
                clean: false,
                history: STORE,
                forked_from: None,
                quorum: Quorum::Off,
                maintenance: MemberSet::EMPTY,
            }),
            bitmaps: MemberSet::only(id(2)),
            unreadable: true,
            ..EpochRecord::default()
        }
    }

    /// A disk on which extent 3 is logged and chunk 9 of member 2 is dirty.
    fn written() -> (Kept, Disk) {
        let (mut records, mut disk, bitmaps) = (records(), Disk::default(), bitmaps());
        let mut log = Log::new(&HostMemory, 8).unwrap();
        log.found(0, [None, Some(3)].into_iter());
        bitmaps.mark(MemberSet::only(id(2)), 9..10);
        let list = list();
        assert!(list.find(BAD.block));
        let ids = [
            RecordId::Epoch,
            RecordId::Unreadable,
            RecordId::Bitmap(id(2), 0),
        ];
        for id in ids.into_iter().chain((0..LOG_PAGES).map(RecordId::Log)) {
            let mut page = [0; RECORD_BYTES];
            let first = records.first(id, &epoch(), &log, &bitmaps, &list, &mut page);
            disk.0.insert(first.unwrap(), page);
            // What changes in between does not get into one copy alone.
            bitmaps.mark(MemberSet::only(super::tests::id(2)), 11..12);
            let second = records.second(id, &mut page).unwrap();
            disk.0.insert(second, page);
            bitmaps.clear(super::tests::id(2), 11..12);
        }
        (records, disk)
    }

    struct Found {
        record: Box<EpochRecord>,
        list: Unreadable<HostMemory>,
        log: Log<HostMemory>,
        bitmaps: Bitmaps<HostMemory>,
    }

    fn read(mut disk: Disk) -> Result<Found, StartError> {
        let (bitmaps, list) = (bitmaps(), list());
        let mut log = Log::new(&HostMemory, 8).unwrap();
        let mut copies = [[0; RECORD_BYTES]; 2];
        let record = records().read(
            &HostMemory,
            &mut disk,
            &mut log,
            (&bitmaps, &list),
            &mut copies,
        )?;
        Ok(Found {
            record,
            log,
            list,
            bitmaps,
        })
    }

    /// The disk with copy `copy` of a record damaged.
    fn damaged(which: RecordId, copies: &[usize]) -> Disk {
        let (records, mut disk) = written();
        for copy in copies {
            let at = records.places(which).unwrap()[*copy];
            disk.0.get_mut(&at.offset).unwrap()[100] ^= 1;
        }
        disk
    }

    #[test]
    fn all_is_well() {
        let mut found = read(written().1).unwrap();
        assert_eq!(*found.record, epoch());
        assert!(found.log.extents().eq([3]));
        assert_eq!(found.log.take_changed(), None);
        // Of the extent nobody knows who has it.
        let of_log = super::super::chunks_of_extent(&geometry(), 3);
        for chunk in 0..geometry().chunks() {
            let dirty = chunk == 9 || of_log.contains(&chunk);
            assert_eq!(found.bitmaps.get(id(2), chunk), dirty);
        }
        assert!(!found.bitmaps.get(id(1), 9));
    }

    #[test]
    fn one_copy_is_lost() {
        for which in [
            RecordId::Epoch,
            RecordId::Log(0),
            RecordId::Unreadable,
            RecordId::Bitmap(id(2), 0),
        ] {
            // The second one: the write of it was interrupted.
            let found = read(damaged(which, &[1])).unwrap();
            assert_eq!(*found.record, epoch());
            assert!(found.log.extents().eq([3]) && found.list.blocks().eq([BAD]));
            assert!(found.bitmaps.get(id(2), 9) && !found.bitmaps.get(id(2), 10));
            // The first one: there may have been more.
            let mut found = read(damaged(which, &[0])).unwrap();
            assert!(found.log.extents().eq([3]) && found.list.blocks().eq([BAD]));
            match which {
                RecordId::Epoch => assert_eq!(*found.record, epoch()),
                RecordId::Log(page) => {
                    assert!(found.record.suspect_all);
                    assert!(found.bitmaps.is_full(id(2)) && !found.bitmaps.is_full(id(1)));
                    assert_eq!(found.log.take_changed(), Some(page));
                }
                RecordId::Unreadable => {
                    assert!(found.record.suspect_all && found.list.is_changed());
                }
                RecordId::Bitmap(member, _) => {
                    assert_eq!(found.bitmaps.count(member), geometry().chunks());
                    assert!(found.bitmaps.is_changed(member));
                }
            }
            assert!(matches!(
                read(damaged(which, &[0, 1])),
                Err(StartError::Lost(lost, _)) if lost == which
            ));
        }
    }

    #[test]
    fn copies_that_differ() {
        let (mut records, mut disk) = written();
        let (log, bitmaps) = (Log::new(&HostMemory, 8).unwrap(), bitmaps());
        // Another content of the same version.
        let at = RecordId::Log(0);
        records.log[0].sequence -= 1;
        let mut page = [0; RECORD_BYTES];
        let offset = records.first(at, &epoch(), &log, &bitmaps, &list(), &mut page);
        disk.0.insert(offset.unwrap(), page);
        assert!(read(disk).unwrap().record.suspect_all);
    }

    /// A version of the epoch record is torn; of the next one the first copy is lost; a third one is torn, and completes the
    /// first one. There must not be two with one number.
    #[test]
    fn a_torn_version_is_completed() {
        const SECTOR: usize = 512;
        let (_, mut disk) = written();
        let (log, bitmaps, list) = (Log::new(&HostMemory, 8).unwrap(), bitmaps(), list());
        let started = |disk: &mut Disk| {
            let mut records = records();
            let mut copies = [[0; RECORD_BYTES]; 2];
            records
                .read_epoch(&HostMemory, disk, &mut copies)
                .map(|record| (records, record))
        };
        // The last member is in another sector than the incarnation.
        let of = |run: u8| {
            let mut config = epoch().installed.unwrap();
            config.members[MAX_MEMBERS - 1] = Some(Uuid([run; 16]));
            EpochRecord {
                incarnation: Incarnation(run.into()),
                installed: Some(config),
                ..epoch()
            }
        };
        // A start that writes these sectors of the first copy, and then dies, or does not.
        let write = |disk: &mut Disk, run, part: fn(usize) -> bool, dies: bool| {
            let (mut records, _) = started(disk).unwrap();
            let mut page = [0; RECORD_BYTES];
            let which = RecordId::Epoch;
            let first = records.first(which, &of(run), &log, &bitmaps, &list, &mut page);
            let copy = disk.0.get_mut(&first.unwrap()).unwrap();
            let sectors = copy.chunks_mut(SECTOR).zip(page.chunks(SECTOR));
            for (_, (old, new)) in sectors.enumerate().filter(|(n, _)| part(*n)) {
                old.copy_from_slice(new);
            }
            if !dies {
                let second = records.second(which, &mut page).unwrap();
                disk.0.insert(second, page);
            }
        };
        write(&mut disk, 2, |sector| sector == 0, true);
        write(&mut disk, 3, |_| false, false);
        write(&mut disk, 2, |sector| sector > 0, true);
        let (records, record) = started(&mut disk).unwrap();
        assert_eq!(*record, of(3));
        assert_eq!(records.epoch.sequence, 3);
    }

    /// A page that did not count when the store was read gets a version above all before: otherwise what is left of an
    /// older one is taken for it when the write of a copy is lost.
    #[test]
    fn a_write_is_lost_over_a_page_of_long_ago() {
        let which = RecordId::Bitmap(id(2), 0);
        // How often it was written when it counted, and how often since; which copy the last one is lost of.
        for (before, since, lost) in [(1, 1, 0), (1, 1, 1), (2, 1, 0), (2, 1, 1), (3, 2, 0)] {
            let (mut old, mut disk) = written();
            let (log, none) = (Log::new(&HostMemory, 8).unwrap(), bitmaps());
            let mut page = [0; RECORD_BYTES];
            for _ in 1..before {
                let first = old.first(which, &epoch(), &log, &none, &list(), &mut page);
                disk.0.insert(first.unwrap(), page);
                disk.0.insert(old.second(which, &mut page).unwrap(), page);
            }
            // Then it did not count, and the member started anew.
            let away = EpochRecord {
                bitmaps: MemberSet::EMPTY,
                ..epoch()
            };
            let first = old.first(RecordId::Epoch, &away, &log, &none, &list(), &mut page);
            disk.0.insert(first.unwrap(), page);
            let second = old.second(RecordId::Epoch, &mut page).unwrap();
            disk.0.insert(second, page);
            let mut records = records();
            let mut copies = [[0; RECORD_BYTES]; 2];
            let mut read_log = Log::new(&HostMemory, 8).unwrap();
            records
                .read(
                    &HostMemory,
                    &mut disk,
                    &mut read_log,
                    (&bitmaps(), &list()),
                    &mut copies,
                )
                .unwrap();
            // Now it counts again.
            let marks = bitmaps();
            for write in 1..=since {
                if write == since {
                    marks.mark(MemberSet::only(id(2)), 20..21);
                }
                for which in [RecordId::Epoch, which] {
                    let at = records.first(which, &epoch(), &log, &marks, &list(), &mut page);
                    let is_lost = |copy| write == since && copy == lost && which != RecordId::Epoch;
                    if !is_lost(0) {
                        disk.0.insert(at.unwrap(), page);
                    }
                    let at = records.second(which, &mut page).unwrap();
                    if !is_lost(1) {
                        disk.0.insert(at, page);
                    }
                }
            }
            let found = read(disk).unwrap();
            assert!(found.bitmaps.get(id(2), 20), "{before} {since} {lost}");
        }
    }

    #[test]
    fn hot_extents_need_a_write() {
        let extents: Extents<HostMemory> = Extents::new(&HostMemory, &geometry()).unwrap();
        let mut found = read(written().1).unwrap();
        assert!(!extents.touch(3, 1));
        found.log.clear(&extents);
        assert_eq!(found.log.extents().count(), 0);
    }

    #[test]
    fn each_page_has_its_version() {
        let geometry = Geometry::new((3 * BITMAP_PAGE_CHUNKS) << 12, 12).unwrap();
        let layout = Layout::compute(1 << 40, geometry).unwrap();
        let mut records = Kept::new(&HostMemory, STORE, layout).unwrap();
        let pages = |member| (0..3).map(move |page| RecordId::Bitmap(member, page));
        let all = || MemberId::all().flat_map(pages).zip(7..);
        for (page, sequence) in all() {
            records.version(page).unwrap().sequence = sequence;
        }
        for (page, sequence) in all() {
            assert_eq!(records.version(page).unwrap().sequence, sequence);
        }
    }
}
