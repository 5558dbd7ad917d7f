// SPDX-License-Identifier: GPL-2.0

//! The activity log of a member: which extents may be written (R12).
//!
//! An extent is *hot* while it is in the log on disk. Of a hot one the number of the last write is known, so that it
//! can be told when it may leave: when no write in it is above the watermark, all are stable, and what is dirty
//! because of them is on disk.

use crate::memory::Memory;
use crate::memory::NoMemory;
use crate::planted::on;
use crate::planted::Bug;
use crate::sync::AtomicU64;
use core::ops::Range;
use rmr_proto::Geometry;
use rmr_proto::EXTENT_SHIFT;
use rmr_proto::LOG_PAGES;
use rmr_proto::LOG_PAGE_SLOTS;
use rmr_proto::MAX_LOG_EXTENTS;

/// The extent is in the log; the rest of the word is the number of its last write.
const HOT: u64 = 1 << 63;

/// Extents that are waited for, at most. Others ask again.
const MAX_WANTED: usize = 64;

/// The hot extents: asked with each write.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub(super) struct Extents<M: Memory> {
    words: M::Array<AtomicU64>,
    /// Number of an extent that is not in the log but should be, plus one; 0 if free.
    wanted: [AtomicU64; MAX_WANTED],
}

impl<M: Memory> Extents<M> {
    pub(super) fn new(memory: &M, geometry: &Geometry) -> Result<Self, NoMemory> {
        let extents = ((geometry.size() - 1) >> EXTENT_SHIFT) + 1;
        let extents = usize::try_from(extents).map_err(|_| NoMemory)?;
        Ok(Self {
            words: memory.array(extents, |_| AtomicU64::new(0))?,
            wanted: core::array::from_fn(|_| AtomicU64::new(0)),
        })
    }

    /// The extents of a range of bytes, not empty.
    pub(super) fn of(offset: u64, len: u64) -> Range<u64> {
        offset >> EXTENT_SHIFT..((offset + (len - 1)) >> EXTENT_SHIFT) + 1
    }

    fn word(&self, extent: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(extent).ok()?)
    }

    /// The write `seq` touches an extent. `false` if that is not in the log.
    pub(super) fn touch(&self, extent: u64, seq: u64) -> bool {
        let Some(word) = self.word(extent) else {
            return false;
        };
        let mut old = word.load();
        while old & HOT != 0 {
            if old & !HOT >= seq {
                return true;
            }
            match word.cas(old, HOT | seq) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    /// An extent should be in the log.
    pub(super) fn want(&self, extent: u64) {
        let name = extent + 1;
        if self.wanted.iter().any(|slot| slot.load() == name) {
            return;
        }
        for slot in &self.wanted {
            if slot.cas(0, name).is_ok() {
                return;
            }
        }
    }

    /// Whether any extent is wanted.
    pub(super) fn any_wanted(&self) -> bool {
        self.wanted.iter().any(|slot| slot.load() != 0)
    }

    /// Takes an extent that is wanted.
    fn take_wanted(&self) -> Option<u64> {
        self.wanted.iter().find_map(|slot| {
            let name = slot.load();
            let taken = name != 0 && slot.cas(name, 0).is_ok();
            (taken && !self.is_hot(name - 1)).then(|| name - 1)
        })
    }

    /// Nothing is wanted any more.
    pub(super) fn forget_wanted(&self) {
        for slot in &self.wanted {
            slot.store(0);
        }
    }

    fn is_hot(&self, extent: u64) -> bool {
        self.word(extent).is_some_and(|word| word.load() & HOT != 0)
    }

    fn heat(&self, extent: u64) {
        if let Some(word) = self.word(extent) {
            word.store(HOT);
        }
    }

    /// Makes an extent cold, unless it was written after the number `up_to`.
    fn cool(&self, extent: u64, up_to: u64) -> bool {
        let Some(word) = self.word(extent) else {
            return false;
        };
        let old = word.load();
        let may = old & !HOT <= up_to || on(Bug::EvictAnyExtent);
        old & HOT != 0 && may && word.cas(old, 0).is_ok()
    }

    fn cool_all(&self) {
        for word in self.words.iter() {
            if word.peek() != 0 {
                word.store(0);
            }
        }
    }
}

/// The slots on disk, and what they will be. Only the exceptional part looks at them.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub(super) struct Log<M: Memory> {
    slots: M::Array<u64>,
    /// How many are used.
    limit: usize,
    changed: [bool; LOG_PAGES],
    /// Became hot with the change under way.
    fresh: M::Array<bool>,
}

impl<M: Memory> Log<M> {
    /// An empty log that uses `limit` slots.
    pub(super) fn new(memory: &M, limit: u32) -> Result<Self, NoMemory> {
        let slots = MAX_LOG_EXTENTS as usize;
        Ok(Self {
            slots: memory.array(slots, |_| 0)?,
            limit: limit.min(MAX_LOG_EXTENTS) as usize,
            changed: [false; LOG_PAGES],
            fresh: memory.array(slots, |_| false)?,
        })
    }

    /// Takes over what a page on disk says.
    pub(super) fn found(&mut self, page: usize, extents: impl Iterator<Item = Option<u64>>) {
        let from = page * LOG_PAGE_SLOTS;
        for (slot, extent) in self.slots.iter_mut().skip(from).zip(extents) {
            *slot = extent.map_or(0, |extent| extent.saturating_add(1));
        }
    }

    /// A page is to be written.
    pub(super) fn touch(&mut self, page: usize) {
        if let Some(changed) = self.changed.get_mut(page) {
            *changed = true;
        }
    }

    /// The extents in it.
    pub(super) fn extents(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots.iter().filter_map(|slot| slot.checked_sub(1))
    }

    /// The slots of a page.
    pub(super) fn page(&self, page: usize) -> impl Iterator<Item = Option<u64>> + '_ {
        let slots = self.slots.iter().skip(page * LOG_PAGE_SLOTS);
        slots.take(LOG_PAGE_SLOTS).map(|slot| slot.checked_sub(1))
    }

    /// The next page to be written, which counts as written, and must be.
    pub(super) fn take_changed(&mut self) -> Option<usize> {
        let page = self.changed.iter().position(|changed| *changed)?;
        if let Some(changed) = self.changed.get_mut(page) {
            *changed = false;
        }
        Some(page)
    }

    /// Frees all slots.
    pub(super) fn clear(&mut self, extents: &Extents<M>) {
        extents.cool_all();
        for n in 0..self.slots.len() {
            self.put(n, 0);
        }
    }

    fn put(&mut self, n: usize, to: u64) {
        if let Some(slot) = self.slots.get_mut(n).filter(|slot| **slot != to) {
            *slot = to;
            self.touch(n / LOG_PAGE_SLOTS);
        }
    }

    /// Whether there is a free slot.
    pub(super) fn has_room(&self) -> bool {
        self.slots.iter().take(self.limit).any(|slot| *slot == 0)
    }

    /// Frees slots, at most half of them, of extents whose writes are all at or below `up_to`.
    pub(super) fn evict(&mut self, extents: &Extents<M>, up_to: u64) {
        let mut left = self.limit.div_ceil(2);
        for n in 0..self.limit {
            let Some(extent) = self.slots.get(n).and_then(|slot| slot.checked_sub(1)) else {
                continue;
            };
            if left == 0 {
                return;
            }
            if extents.cool(extent, up_to) {
                self.put(n, 0);
                left -= 1;
            }
        }
    }

    /// Puts what is wanted into free slots; whether anything was.
    pub(super) fn admit(&mut self, extents: &Extents<M>) -> bool {
        let mut any = false;
        for n in 0..self.limit {
            if self.slots.get(n) != Some(&0) {
                continue;
            }
            let Some(extent) = extents.take_wanted() else {
                break;
            };
            if self.extents().any(|known| known == extent) {
                continue;
            }
            self.put(n, extent + 1);
            if let Some(fresh) = self.fresh.get_mut(n) {
                *fresh = true;
            }
            any = true;
        }
        any
    }

    /// What was admitted is on disk: it is hot now.
    pub(super) fn commit(&mut self, extents: &Extents<M>) {
        for (fresh, slot) in self.fresh.iter_mut().zip(self.slots.iter()) {
            if core::mem::take(fresh) {
                if let Some(extent) = slot.checked_sub(1) {
                    extents.heat(extent);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMemory;

    fn extents() -> Extents<HostMemory> {
        let geometry = Geometry::new(100 << EXTENT_SHIFT, 16).unwrap();
        Extents::new(&HostMemory, &geometry).unwrap()
    }

    /// What a change of the log does, without the disk.
    fn change(log: &mut Log<HostMemory>, extents: &Extents<HostMemory>) -> bool {
        let any = log.admit(extents);
        while log.take_changed().is_some() {}
        log.commit(extents);
        any
    }

    #[test]
    fn life_of_an_extent() {
        let (extents, mut log) = (extents(), Log::new(&HostMemory, 2).unwrap());
        assert!(!extents.touch(7, 1));
        extents.want(7);
        extents.want(7);
        assert!(extents.any_wanted() && log.has_room());
        assert!(change(&mut log, &extents));
        assert!(!extents.any_wanted());
        assert!(extents.touch(7, 5) && extents.touch(7, 3));
        extents.want(8);
        extents.want(9);
        assert!(change(&mut log, &extents));
        assert!(!log.has_room() && extents.any_wanted());
        assert!(!change(&mut log, &extents));
        // 5 is the last write of 7; 8 was not written yet.
        extents.touch(8, 6);
        log.evict(&extents, 4);
        assert!(!log.has_room());
        log.evict(&extents, 5);
        assert!(log.has_room() && !extents.touch(7, 9));
        assert!(change(&mut log, &extents));
        assert!(log.extents().eq([9, 8]));
        assert!(extents.touch(9, 7));
        log.clear(&extents);
        assert_eq!(log.extents().count(), 0);
        assert!(!extents.touch(9, 8));
    }

    #[test]
    fn found_extents_are_not_hot() {
        let (extents, mut log) = (extents(), Log::new(&HostMemory, 1000).unwrap());
        log.found(1, [None, Some(3)].into_iter());
        assert!(log.extents().eq([3]) && !extents.touch(3, 1));
        assert!(log.page(1).eq([None, Some(3)]
            .into_iter()
            .chain([None; LOG_PAGE_SLOTS - 2])));
        log.evict(&extents, u64::MAX >> 1);
        assert!(log.extents().eq([3]));
        log.clear(&extents);
        assert_eq!(log.take_changed(), Some(1));
    }

    #[test]
    fn outside_the_volume() {
        let extents = extents();
        assert!(!extents.touch(100, 1) && !extents.touch(u64::MAX, 1));
        assert!(Extents::<HostMemory>::of(0, 1).eq(0..1));
        assert!(Extents::<HostMemory>::of((1 << EXTENT_SHIFT) - 512, 1024).eq(0..2));
        assert!(Extents::<HostMemory>::of((1 << EXTENT_SHIFT) - 512, 512).eq(0..1));
        assert!(Extents::<HostMemory>::of(1 << EXTENT_SHIFT, 1 << EXTENT_SHIFT).eq(1..2));
    }

    #[test]
    fn half_of_it_leaves() {
        let (extents, mut log) = (extents(), Log::new(&HostMemory, 6).unwrap());
        (0..6).for_each(|extent| extents.want(extent));
        assert!(change(&mut log, &extents) && !log.has_room());
        log.evict(&extents, 0);
        assert_eq!(log.extents().count(), 3);
        log.evict(&extents, 0);
        assert_eq!(log.extents().count(), 0);
    }

    /// An extent that is wanted twice takes no second slot, and is not in the way of another one.
    #[test]
    fn wanted_again() {
        let (extents, mut log) = (extents(), Log::new(&HostMemory, 2).unwrap());
        extents.want(7);
        assert!(change(&mut log, &extents));
        extents.want(7);
        extents.want(8);
        assert!(change(&mut log, &extents));
        assert!(log.extents().eq([7, 8]));
    }
}
