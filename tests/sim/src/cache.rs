// SPDX-License-Identifier: GPL-2.0

//! A medium behind a volatile write cache, in sectors of 512 bytes.
//!
//! A write is visible when it is done, and stable when a flush that began later is done. When power is lost, each
//! sector keeps what was stable, or any of the values written since. A sector holds a value: who wrote it.
//!
//! Not here: how long it takes, and what fails.

use crate::random::Random;
use rmr_checkers::sectors::Sectors;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::rc::Rc;

/// What is stable of a sector, then what was written to it since.
type Versions = (u64, Vec<u64>);

/// A write that may not be stable.
#[derive(Clone, Debug, Hash)]
struct Write {
    number: u64,
    sector: u64,
    before: Box<[u64]>,
    values: Rc<[u64]>,
    /// It went past the cache, and what was there before is of no interest any more.
    stable: bool,
}

/// The sectors, of which all were 0 once.
#[derive(Clone, Debug, Default, Hash)]
pub struct Cache {
    /// What one reads.
    visible: Sectors<u64>,
    /// From the first that is not stable on.
    journal: VecDeque<Write>,
    writes: u64,
}

impl Cache {
    /// All sectors empty.
    pub fn new() -> Self {
        Cache::default()
    }

    /// What one reads at a sector.
    pub fn read(&self, sector: u64) -> u64 {
        self.visible.value(sector)
    }

    /// Writes sectors; `stable` at once (FUA, or there is no cache). `changed` is called with each that changes.
    pub fn write(
        &mut self,
        sector: u64,
        values: &Rc<[u64]>,
        stable: bool,
        mut changed: impl FnMut(u64),
    ) {
        let sectors = || (sector..).zip(values.iter());
        let is_same = || sectors().all(|(sector, &value)| self.read(sector) == value);
        // Where nothing is to be lost, nothing has to be remembered.
        if self.journal.is_empty() && (stable || is_same()) {
            self.put(sectors(), changed);
            return;
        }
        self.writes += u64::from(!stable);
        let before = sectors().map(|(sector, _)| self.read(sector)).collect();
        self.put(sectors(), &mut changed);
        self.journal.push_back(Write {
            number: self.writes,
            sector,
            before,
            values: values.clone(),
            stable,
        });
    }

    fn put<'a>(
        &mut self,
        sectors: impl Iterator<Item = (u64, &'a u64)>,
        mut changed: impl FnMut(u64),
    ) {
        for (sector, &value) in sectors {
            if self.visible.set(sector, value) != value {
                changed(sector);
            }
        }
    }

    /// What was written until now; to be handed to [`Cache::flushed`].
    pub fn mark(&self) -> u64 {
        self.writes
    }

    /// What was written before `mark` is stable.
    pub fn flushed(&mut self, mark: u64) {
        let is_over = |write: &&Write| write.number <= mark || write.stable;
        let over = self.journal.iter().take_while(is_over).count();
        self.journal.drain(..over);
    }

    /// Whether what a sector held at `mark`, or something newer, is stable.
    pub fn is_stable(&self, sector: u64, mark: u64) -> bool {
        let covers = |write: &&Write| {
            (write.sector..)
                .zip(write.values.iter())
                .any(|(at, _)| at == sector)
        };
        let writes = self.journal.iter().filter(covers);
        let mut stable = true;
        for write in writes {
            stable = write.stable || stable && write.number > mark;
        }
        stable
    }

    /// The sectors that are not stable; the journal is empty then.
    fn take_unstable(&mut self) -> BTreeMap<u64, Versions> {
        let mut unstable: BTreeMap<u64, Versions> = BTreeMap::new();
        for write in std::mem::take(&mut self.journal) {
            let values = write.before.iter().zip(write.values.iter());
            for (sector, (&before, &value)) in (write.sector..).zip(values) {
                if write.stable {
                    unstable.remove(&sector);
                } else {
                    let (_, newer) = unstable.entry(sector).or_insert((before, Vec::new()));
                    newer.push(value);
                }
            }
        }
        unstable
    }

    /// Power is lost. Returns the sectors whose visible content went back to an older one.
    pub fn lose(&mut self, random: &mut Random) -> Vec<u64> {
        let mut lost = Vec::new();
        // How much of the cache survives differs from one time to the next: all, none, each sector by itself.
        let keep = random.below(5) * 25;
        for (sector, (stable, newer)) in self.take_unstable() {
            if random.chance(keep, 100) {
                continue;
            }
            let value = match random.below(newer.len() as u64) as usize {
                0 => stable,
                older => newer.get(older - 1).copied().unwrap_or(stable),
            };
            if self.visible.set(sector, value) != value {
                lost.push(sector);
            }
        }
        lost
    }

    /// What is not stable is gone. Returns the sectors whose visible content went back to an older one.
    pub fn forget_unstable(&mut self) -> Vec<u64> {
        let mut lost = Vec::new();
        for (sector, (stable, _)) in self.take_unstable() {
            if self.visible.set(sector, stable) != stable {
                lost.push(sector);
            }
        }
        lost
    }

    /// The sectors that hold something, in order.
    pub fn sectors(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let sectors = self.visible.iter();
        sectors.map(|(sector, &value)| (sector, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn write(cache: &mut Cache, sector: u64, value: u64, stable: bool) {
        cache.write(sector, &[value].into(), stable, |_| ());
    }

    #[test]
    fn flushed_survives() {
        let mut random = Random::new(3, Purpose::Disk);
        let mut old = 0;
        let mut middle = 0;
        for _ in 0..100 {
            let mut cache = Cache::new();
            write(&mut cache, 1, 10, false);
            write(&mut cache, 2, 20, false);
            let mark = cache.mark();
            cache.write(2, &[21, 1].into(), false, |_| ());
            cache.write(2, &[22, 1].into(), false, |_| ());
            cache.flushed(mark);
            cache.write(3, &[30].into(), true, |_| ());
            cache.lose(&mut random);
            assert_eq!((cache.read(1), cache.read(3)), (10, 30));
            old += u32::from(cache.read(2) == 20);
            middle += u32::from(cache.read(2) == 21);
            assert!((20..=22).contains(&cache.read(2)));
        }
        assert!(old > 10 && middle > 10);
    }

    #[test]
    fn stable_at_a_mark() {
        let mut cache = Cache::new();
        write(&mut cache, 1, 10, false);
        let mark = cache.mark();
        assert!(!cache.is_stable(1, mark) && cache.is_stable(2, mark));
        cache.flushed(mark);
        write(&mut cache, 1, 11, false);
        assert!(cache.is_stable(1, mark) && !cache.is_stable(1, cache.mark()));
        write(&mut cache, 1, 12, true);
        assert!(cache.is_stable(1, cache.mark()));
    }

    #[test]
    fn lost_is_told() {
        let mut random = Random::new(4, Purpose::Disk);
        for _ in 0..100 {
            let mut cache = Cache::new();
            write(&mut cache, 1, 10, false);
            let lost = cache.lose(&mut random);
            match cache.read(1) {
                0 => assert_eq!(lost, [1]),
                _ => assert!(lost.is_empty()),
            }
            assert!(cache.lose(&mut random).is_empty());
        }
    }

    #[test]
    fn what_is_the_same_is_not_stable_either() {
        let mut cache = Cache::new();
        write(&mut cache, 1, 10, false);
        let mark = cache.mark();
        write(&mut cache, 1, 11, false);
        write(&mut cache, 1, 11, false);
        cache.flushed(mark);
        cache.forget_unstable();
        assert_eq!(cache.read(1), 10);
        let mut changed = Vec::new();
        cache.write(0, &[0, 10, 5].into(), true, |sector| changed.push(sector));
        assert_eq!(changed, [2]);
        assert_eq!(cache.sectors().collect::<Vec<_>>(), [(1, 10), (2, 5)]);
    }
}
