// SPDX-License-Identifier: GPL-2.0

//! The disk of a member: metadata as bytes, data as one value for each sector, behind one volatile cache.
//!
//! What is under way is kept here, so that a crash can leave any part of it done. Which access fails is decided when it
//! is done.
//!
//! Not here: how long an access takes, and who waits for it (`world`).

use crate::cache::Cache;
use crate::random::Random;
use litemap::LiteMap;
use rmr_proto::Status;
use rmr_proto::RECORD_BYTES;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// A record of metadata, 4 KiB.
pub type Record = [u8; RECORD_BYTES];

/// What was never written.
static EMPTY: Record = [0; RECORD_BYTES];

/// An access to a disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read data: the first sector and how many.
    Read(u64, u64),
    /// Write data at a sector; stable when done if so.
    Write(u64, Rc<[u64]>, bool),
    /// Make stable all that was done before.
    Flush,
    /// Write a record of metadata at an offset of the device, stable when done.
    Meta(u64, Box<Record>),
}

/// What is wrong with a disk at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Nothing.
    No,
    /// The access fails, nothing is done.
    Fail,
    /// The access is acknowledged, nothing is done.
    Lost,
    /// The access is acknowledged, and done at another place of the metadata.
    Misdirected(u64),
}

/// What came of an access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// How it ended.
    pub status: Status,
    /// What was read.
    pub values: Vec<u64>,
    /// Sectors of data whose visible content changed.
    pub changed: Vec<u64>,
    /// Those of them that went back to what they held before.
    pub lost: Vec<u64>,
}

/// A disk.
#[derive(Clone, Debug, Hash)]
pub struct Disk {
    data: Cache,
    /// Records by their offset. They are written past the cache.
    meta: BTreeMap<u64, Box<Record>>,
    volatile: bool,
    /// With what was written to the cache when they began.
    under_way: LiteMap<u64, (Access, u64)>,
    next: u64,
    /// Sectors of data that cannot be read until they are written.
    unreadable: BTreeSet<u64>,
    /// Those of them that no time heals.
    dead: BTreeSet<u64>,
    /// Sectors of data that cannot be written.
    unwritable: BTreeSet<u64>,
    /// Records of which one copy is damaged, by the place of the copy.
    damaged: BTreeSet<u64>,
    /// Those of them of which a write was lost: they are older than they should be.
    outdated: BTreeSet<u64>,
    /// A write of a record was lost, at some time.
    forgets: bool,
    /// Copies of which a part was written.
    torn: BTreeSet<u64>,
}

impl Disk {
    /// An empty disk, with a volatile cache or without.
    pub fn new(volatile: bool) -> Disk {
        Disk {
            data: Cache::new(),
            meta: BTreeMap::new(),
            volatile,
            under_way: LiteMap::new(),
            next: 0,
            unreadable: BTreeSet::new(),
            dead: BTreeSet::new(),
            unwritable: BTreeSet::new(),
            damaged: BTreeSet::new(),
            outdated: BTreeSet::new(),
            forgets: false,
            torn: BTreeSet::new(),
        }
    }

    /// Whether it has a volatile cache.
    pub fn is_volatile(&self) -> bool {
        self.volatile
    }

    /// Begins an access; returns its number.
    pub fn begin(&mut self, access: Access) -> u64 {
        self.next += 1;
        self.under_way.insert(self.next, (access, self.data.mark()));
        self.next
    }

    /// The access, if it is still under way.
    pub fn access(&self, number: u64) -> Option<&Access> {
        self.under_way.get(&number).map(|(access, ..)| access)
    }

    /// The numbers of what is under way, in the order in which it began.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.under_way.keys().copied()
    }

    /// Ends an access. `None` if it is not under way any more.
    pub fn end(&mut self, number: u64, failing: Failing, random: &mut Random) -> Option<Done> {
        let (access, mark) = self.under_way.remove(&number)?;
        let mut done = Done::default();
        match access {
            Access::Read(sector, count) => {
                let mut range = sector..sector + count;
                if failing == Failing::Fail {
                    self.unreadable.insert(sector + random.below(count));
                }
                if self.unreadable.range(range.clone()).next().is_some() {
                    done.status = Status::Medium;
                } else {
                    done.values = range
                        .by_ref()
                        .map(|sector| self.data.read(sector))
                        .collect();
                }
            }
            Access::Write(sector, values, fua) => {
                let range = sector..sector + values.len() as u64;
                let bad = self.unwritable.range(range).next().is_some();
                if bad || failing == Failing::Fail {
                    done.status = Status::Medium;
                }
                let stable = fua || !self.volatile;
                if done.status.is_ok() {
                    self.write(sector, &values, stable, &mut done.changed);
                } else {
                    // Of a write that fails, any part is done.
                    for (sector, &value) in (sector..).zip(values.iter()) {
                        if random.chance(1, 2) {
                            self.write(sector, &[value].into(), stable, &mut done.changed);
                        }
                    }
                }
            }
            Access::Flush if failing == Failing::Fail => {
                done.status = Status::Io;
                done.lost = self.lose(random);
                done.changed.clone_from(&done.lost);
            }
            Access::Flush => self.data.flushed(mark),
            Access::Meta(offset, record) => match failing {
                Failing::No => self.put(offset, &record, 0),
                Failing::Fail => {
                    // Any part of it may have been done.
                    self.put(offset, &record, random.any() as u8);
                    done.status = Status::Io;
                }
                Failing::Lost => {
                    self.damaged.insert(offset);
                    self.outdated.insert(offset);
                    self.forgets = true;
                }
                Failing::Misdirected(elsewhere) => {
                    self.damaged.extend([offset, elsewhere]);
                    self.outdated.insert(offset);
                    self.forgets = true;
                    self.outdated.remove(&elsewhere);
                    self.put_silently(elsewhere, &record, 0);
                }
            },
        }
        Some(done)
    }

    /// The host is gone, or the disk was reset: of what is under way, any part is done. With `power` lost, so is
    /// what is not stable. Returns what changed.
    pub fn crash(&mut self, power: bool, random: &mut Random) -> Done {
        self.crash_beside(power, random, |_, _| false)
    }

    /// As [`Disk::crash`]; `is_bad` says whether the other copy of a record is damaged, so that this one must not be spoiled.
    pub fn crash_beside(
        &mut self,
        power: bool,
        random: &mut Random,
        is_bad: impl Fn(u64, &BTreeSet<u64>) -> bool,
    ) -> Done {
        let mut done = Done::default();
        for (_, (access, ..)) in std::mem::take(&mut self.under_way) {
            match access {
                Access::Write(sector, values, _) => {
                    let part = random.below(5) * 25;
                    for (sector, &value) in (sector..).zip(values.iter()) {
                        if random.chance(part, 100) {
                            let stable = !self.volatile || random.chance(1, 4);
                            self.write(sector, &[value].into(), stable, &mut done.changed);
                        }
                    }
                }
                Access::Meta(offset, record) => {
                    let skip = match random.below(4) {
                        0 => 0xff,
                        1 => 0,
                        _ => random.any() as u8,
                    };
                    self.put(offset, &record, skip);
                    // The sector that was being written when the power went may be neither old nor new.
                    if power && random.chance(1, 3) && !is_bad(offset, &self.damaged) {
                        self.spoil(offset, random);
                        self.torn.insert(offset);
                    }
                }
                Access::Read(..) | Access::Flush => {}
            }
        }
        if power {
            done.lost = self.lose(random);
            done.changed.extend(&done.lost);
        }
        done
    }

    /// The host is gone, and nothing of what is under way is done. With `power` lost, nothing survives that is not stable.
    /// Returns what changed.
    pub fn cut(&mut self, power: bool) -> Done {
        self.under_way.clear();
        let mut done = Done::default();
        if power {
            done.lost = self.data.forget_unstable();
            done.changed.clone_from(&done.lost);
        }
        done
    }

    /// As if power had been lost, and nothing that was not stable survived.
    pub fn forget_unstable(&mut self) {
        self.under_way.clear();
        self.data.forget_unstable();
    }

    /// What a sector of data holds.
    pub fn value(&self, sector: u64) -> u64 {
        self.data.read(sector)
    }

    /// What was written until now; to be handed to [`Disk::is_stable`].
    pub fn mark(&self) -> u64 {
        self.data.mark()
    }

    /// Whether what a sector held at `mark`, or something newer, is stable.
    pub fn is_stable(&self, sector: u64, mark: u64) -> bool {
        self.data.is_stable(sector, mark)
    }

    /// The sectors of data that hold something.
    pub fn values(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.data.sectors()
    }

    /// Reads a record of metadata.
    pub fn record(&self, offset: u64) -> &Record {
        self.meta.get(&offset).map_or(&EMPTY, |record| record)
    }

    /// Writes a record at once: for the creation of a store.
    pub fn create(&mut self, offset: u64, record: &Record) {
        self.put(offset, record, 0);
    }

    /// Whether a copy at this offset was damaged and not written since.
    pub fn is_damaged(&self, offset: u64) -> bool {
        self.damaged.contains(&offset)
    }

    /// Whether the copy at this offset is as it was written last: neither damaged nor torn.
    pub fn is_whole(&self, offset: u64) -> bool {
        !self.damaged.contains(&offset) && !self.torn.contains(&offset)
    }

    /// Whether it lost a write of a record, at some time.
    pub fn forgets(&self) -> bool {
        self.forgets
    }

    /// Whether a write of this copy was lost, and what it held before is still there.
    pub fn is_outdated(&self, offset: u64) -> bool {
        self.outdated.contains(&offset) && !self.torn.contains(&offset)
    }

    /// Whether no copy of a record is damaged.
    pub fn is_undamaged(&self) -> bool {
        self.damaged.is_empty()
    }

    /// Makes a copy of a record unreadable.
    pub fn rot(&mut self, offset: u64, random: &mut Random) {
        self.spoil(offset, random);
        self.damaged.insert(offset);
        self.outdated.remove(&offset);
    }

    /// From now on these sectors of data cannot be written.
    pub fn break_sectors(&mut self, sectors: impl IntoIterator<Item = u64>) {
        self.unwritable.extend(sectors);
    }

    /// These sectors of data cannot be read until they are written, whatever else is healed.
    pub fn kill_sectors(&mut self, sectors: impl Iterator<Item = u64> + Clone) {
        self.dead.extend(sectors.clone());
        self.unreadable.extend(sectors);
    }

    /// Sectors of data that cannot be read until they are written.
    pub fn unreadable(&self) -> impl Iterator<Item = u64> + '_ {
        self.unreadable.iter().copied()
    }

    /// Every sector can be written, and read once it is; with `all`, read at once, but for dead ones.
    pub fn heal(&mut self, all: bool) {
        self.unwritable.clear();
        if all {
            self.unreadable.clone_from(&self.dead);
        }
    }

    /// Puts a record; `skip` has a bit for each sector that is not written.
    fn put(&mut self, offset: u64, record: &Record, skip: u8) {
        match skip {
            0 => {
                self.damaged.remove(&offset);
                self.outdated.remove(&offset);
                self.torn.remove(&offset);
            }
            // Nothing was done.
            0xff => {}
            _ => {
                self.torn.insert(offset);
            }
        }
        self.put_silently(offset, record, skip);
    }

    /// Changes a bit of a record.
    fn spoil(&mut self, offset: u64, random: &mut Random) {
        let mut record = *self.record(offset);
        let place = random.below(RECORD_BYTES as u64) as usize;
        record[place] ^= 1 << random.below(8);
        self.put_silently(offset, &record, 0);
    }

    fn put_silently(&mut self, offset: u64, record: &Record, skip: u8) {
        let kept = self.meta.entry(offset).or_insert_with(|| Box::new(EMPTY));
        let sectors = kept.chunks_exact_mut(512).zip(record.chunks_exact(512));
        for (place, (to, from)) in sectors.enumerate() {
            if skip & 1 << place == 0 {
                to.copy_from_slice(from);
            }
        }
    }

    /// Writes data; adds the sectors that it changes to `changed`.
    fn write(&mut self, sector: u64, values: &Rc<[u64]>, stable: bool, changed: &mut Vec<u64>) {
        self.data
            .write(sector, values, stable, |sector| changed.push(sector));
        if !self.unreadable.is_empty() {
            let written = sector..sector + values.len() as u64;
            self.unreadable.retain(|sector| !written.contains(sector));
            self.dead.retain(|sector| !written.contains(sector));
        }
    }

    fn lose(&mut self, random: &mut Random) -> Vec<u64> {
        self.data.lose(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn data() {
        let random = &mut Random::new(1, Purpose::Disk);
        let mut disk = Disk::new(true);
        let write = disk.begin(Access::Write(8, [5, 6].into(), false));
        assert_eq!(disk.value(8), 0);
        assert_eq!(
            disk.end(write, Failing::No, random)
                .map(|done| done.changed),
            Some(vec![8, 9])
        );
        let read = disk.begin(Access::Read(7, 4));
        let done = disk.end(read, Failing::No, random);
        assert_eq!(done.map(|done| done.values), Some(vec![0, 5, 6, 0]));
        let flush = disk.begin(Access::Flush);
        assert!(disk.end(flush, Failing::No, random).is_some());
        assert!(disk.end(flush, Failing::No, random).is_none());
        assert!(disk.crash(true, random).lost.is_empty());
        assert_eq!(disk.values().collect::<Vec<_>>(), [(8, 5), (9, 6)]);
    }

    #[test]
    fn medium_errors() {
        let random = &mut Random::new(1, Purpose::Disk);
        let mut disk = Disk::new(false);
        let read = disk.begin(Access::Read(0, 1));
        assert_eq!(
            disk.end(read, Failing::Fail, random)
                .map(|done| done.status),
            Some(Status::Medium)
        );
        let read = disk.begin(Access::Read(0, 2));
        assert_eq!(
            disk.end(read, Failing::No, random).map(|done| done.status),
            Some(Status::Medium)
        );
        let write = disk.begin(Access::Write(0, [1].into(), false));
        disk.end(write, Failing::No, random);
        let read = disk.begin(Access::Read(0, 2));
        assert_eq!(
            disk.end(read, Failing::No, random).map(|done| done.values),
            Some(vec![1, 0])
        );
    }

    #[test]
    fn metadata() {
        let random = &mut Random::new(1, Purpose::Disk);
        let mut disk = Disk::new(true);
        let record = [7; RECORD_BYTES];
        let meta = |disk: &mut Disk, failing, random: &mut Random| {
            let write = disk.begin(Access::Meta(4096, Box::new(record)));
            disk.end(write, failing, random).map(|done| done.status)
        };
        assert_eq!(meta(&mut disk, Failing::Lost, random), Some(Status::Ok));
        assert_eq!(*disk.record(4096), [0; RECORD_BYTES]);
        assert!(disk.is_damaged(4096));
        assert_eq!(meta(&mut disk, Failing::No, random), Some(Status::Ok));
        assert!(!disk.is_damaged(4096));
        disk.crash(true, random);
        assert_eq!(*disk.record(4096), record);
        disk.rot(4096, random);
        assert_ne!(*disk.record(4096), record);
    }
}
