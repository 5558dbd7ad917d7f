// SPDX-License-Identifier: GPL-2.0

//! A medium behind a volatile write cache, in sectors of 512 bytes.
//!
//! A write is visible when it is done, and stable when a flush that began later is done. When power is lost, each
//! sector keeps what was stable, or any of the values written since. What a sector holds is up to the user: a value
//! for data, the bytes for metadata.
//!
//! Not here: how long it takes, and what fails.

use crate::random::Random;
use std::collections::BTreeMap;

/// The sectors, of which all were `V::default()` once.
#[derive(Clone, Debug, Default, Hash)]
pub struct Cache<V> {
    /// What one reads.
    visible: BTreeMap<u64, V>,
    /// Of the sectors that are not stable: what is stable, then what was written, with the number of the write.
    unstable: BTreeMap<u64, (V, Vec<(u64, V)>)>,
    writes: u64,
}

impl<V: Clone + Default + PartialEq> Cache<V> {
    /// All sectors empty.
    pub fn new() -> Self {
        Cache {
            visible: BTreeMap::new(),
            unstable: BTreeMap::new(),
            writes: 0,
        }
    }

    /// What one reads at a sector.
    pub fn read(&self, sector: u64) -> V {
        self.visible.get(&sector).cloned().unwrap_or_default()
    }

    /// Writes a sector; `stable` at once (FUA, or there is no cache).
    pub fn write(&mut self, sector: u64, value: V, stable: bool) {
        if stable {
            self.unstable.remove(&sector);
        } else {
            self.writes += 1;
            let before = self.visible.get(&sector).cloned().unwrap_or_default();
            let (_, newer) = self
                .unstable
                .entry(sector)
                .or_insert_with(|| (before, Vec::new()));
            newer.push((self.writes, value.clone()));
        }
        self.set(sector, value);
    }

    /// What was written until now; to be handed to [`Cache::flushed`].
    pub fn mark(&self) -> u64 {
        self.writes
    }

    /// What was written before `mark` is stable.
    pub fn flushed(&mut self, mark: u64) {
        self.unstable.retain(|_, (stable, newer)| {
            let done = newer
                .iter()
                .take_while(|(number, _)| *number <= mark)
                .count();
            if let Some((_, value)) = newer.drain(..done).next_back() {
                *stable = value;
            }
            !newer.is_empty()
        });
    }

    /// Power is lost. Returns the sectors whose visible content went back to an older one, with that.
    pub fn lose(&mut self, random: &mut Random) -> Vec<(u64, V)> {
        let mut lost = Vec::new();
        // How much of the cache survives differs from one time to the next: all, none, each sector by itself.
        let keep = random.below(5) * 25;
        for (sector, (stable, newer)) in std::mem::take(&mut self.unstable) {
            if random.chance(keep, 100) {
                continue;
            }
            let value = match random.below(newer.len() as u64) as usize {
                0 => stable,
                older => newer
                    .get(older - 1)
                    .map_or(stable, |(_, value)| value.clone()),
            };
            if value != self.read(sector) {
                self.set(sector, value.clone());
                lost.push((sector, value));
            }
        }
        lost
    }

    /// What is not stable is gone. Returns the sectors whose visible content went back to an older one.
    pub fn forget_unstable(&mut self) -> Vec<u64> {
        let mut lost = Vec::new();
        for (sector, (stable, _)) in std::mem::take(&mut self.unstable) {
            if stable != self.read(sector) {
                self.set(sector, stable);
                lost.push(sector);
            }
        }
        lost
    }

    /// Sectors that are not stable.
    pub fn unstable(&self) -> usize {
        self.unstable.len()
    }

    /// The sectors that hold something, in order.
    pub fn sectors(&self) -> impl Iterator<Item = (u64, &V)> {
        self.visible.iter().map(|(&sector, value)| (sector, value))
    }

    fn set(&mut self, sector: u64, value: V) {
        if value == V::default() {
            self.visible.remove(&sector);
        } else {
            self.visible.insert(sector, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn flushed_survives() {
        let mut random = Random::new(3, Purpose::Disk);
        let mut old = 0;
        let mut middle = 0;
        for _ in 0..100 {
            let mut cache = Cache::new();
            cache.write(1, 10_u64, false);
            cache.write(2, 20, false);
            let mark = cache.mark();
            cache.write(2, 21, false);
            cache.write(2, 22, false);
            cache.flushed(mark);
            cache.write(3, 30, true);
            assert_eq!(cache.unstable(), 1);
            cache.lose(&mut random);
            assert_eq!((cache.read(1), cache.read(3)), (10, 30));
            old += u32::from(cache.read(2) == 20);
            middle += u32::from(cache.read(2) == 21);
            assert!((20..=22).contains(&cache.read(2)));
        }
        assert!(old > 10 && middle > 10);
    }

    #[test]
    fn lost_is_told() {
        let mut random = Random::new(4, Purpose::Disk);
        for _ in 0..100 {
            let mut cache = Cache::new();
            cache.write(1, 10_u64, false);
            let lost = cache.lose(&mut random);
            match cache.read(1) {
                0 => assert_eq!(lost, [(1, 0)]),
                _ => assert!(lost.is_empty()),
            }
            assert!(cache.lose(&mut random).is_empty());
        }
    }
}
