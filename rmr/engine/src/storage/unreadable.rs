// SPDX-License-Identifier: GPL-2.0

//! Sectors of the own copy that nobody could read when it got current (R17).
//!
//! They hold something old. So they are answered like a medium error, to clients and members, until they are written:
//! a write to them is executed, but not answered before the list on disk says so, after a flush. What is on the
//! list though it was written costs a read; what is not on it though it is old would be a lie. So nothing leaves the list on
//! disk before a flush that began when it was written, and a chunk counts as current only when the list has what is old in it.
//!
//! A word for each block of 4 KiB: its number, sectors written since, sectors that cannot be read. Asked on the IO path;
//! blocks come and go in the exceptional part alone.

use crate::memory::Memory;
use crate::memory::NoMemory;
use crate::planted::on;
use crate::planted::Bug;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use core::ops::Range;
use rmr_proto::BadBlock;
use rmr_proto::BLOCK_SHIFT;
use rmr_proto::UNREADABLE_BLOCKS;
use rmr_proto::UNREADABLE_SLOTS;

const SECTORS: u64 = 0xff;
const WRITTEN_SHIFT: u32 = 8;
const NUMBER_SHIFT: u32 = 16;
const SECTOR_SHIFT: u32 = 9;

/// The list.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub(super) struct Unreadable<M: Memory> {
    slots: M::Array<AtomicU64>,
    /// No slot from this one on is used.
    used: AtomicU32,
    /// For each slot, the sectors that leave the list with the change under way.
    leaving: M::Array<AtomicU32>,
    /// For each slot, whether it is from a pull of the present episode whose chunk is not proved yet.
    found: M::Array<AtomicU32>,
    /// It differs from that on disk.
    changed: AtomicU32,
}

/// Replaces the word of a slot by what `new` makes of it.
fn update(slot: &AtomicU64, new: impl Fn(u64) -> u64) {
    let mut old = slot.load();
    while let Err(now) = slot.cas(old, new(old)) {
        old = now;
    }
}

/// The sectors of a block that lie in a range of bytes.
fn inside(block: u64, bytes: &Range<u64>) -> u64 {
    let first = block << (BLOCK_SHIFT - SECTOR_SHIFT);
    let from = (bytes.start >> SECTOR_SHIFT).saturating_sub(first).min(8);
    let end = bytes.end.saturating_add((1 << SECTOR_SHIFT) - 1) >> SECTOR_SHIFT;
    let to = end.saturating_sub(first).min(8);
    (SECTORS << from) & !(SECTORS << to) & SECTORS
}

/// The sectors of a slot that lie in a range of bytes and cannot be read.
fn bad(word: u64, bytes: &Range<u64>) -> u64 {
    word & inside(word >> NUMBER_SHIFT, bytes)
}

/// Those of them that were written since.
fn rewritten(word: u64, bytes: &Range<u64>) -> u64 {
    word >> WRITTEN_SHIFT & bad(word, bytes)
}

/// Whether a slot has a block that begins in `bytes`.
fn is_in(word: u64, bytes: &Range<u64>) -> bool {
    word != 0 && bytes.contains(&(word >> NUMBER_SHIFT << BLOCK_SHIFT))
}

impl<M: Memory> Unreadable<M> {
    /// An empty list.
    pub(super) fn new(memory: &M) -> Result<Self, NoMemory> {
        Ok(Self {
            slots: memory.array(UNREADABLE_SLOTS, |_| AtomicU64::new(0))?,
            used: AtomicU32::new(0),
            leaving: memory.array(UNREADABLE_SLOTS, |_| AtomicU32::new(0))?,
            found: memory.array(UNREADABLE_SLOTS, |_| AtomicU32::new(0))?,
            changed: AtomicU32::new(0),
        })
    }

    fn used(&self) -> impl Iterator<Item = &AtomicU64> {
        self.slots.iter().take(self.used.load() as usize)
    }

    /// Whether any of these bytes cannot be read.
    pub(super) fn covers(&self, offset: u64, len: u64) -> bool {
        let bytes = offset..offset.saturating_add(len);
        self.used().any(|slot| bad(slot.load(), &bytes) != 0) && !on(Bug::ServeUnreadable)
    }

    /// Whether any of these bytes was written, and the list on disk does not say so yet.
    pub(super) fn is_pending(&self, offset: u64, len: u64) -> bool {
        let bytes = offset..offset.saturating_add(len);
        self.used().any(|slot| rewritten(slot.load(), &bytes) != 0)
    }

    /// These bytes were written. Whether any of them could not be read.
    pub(super) fn written(&self, offset: u64, len: u64) -> bool {
        let bytes = offset..offset.saturating_add(len);
        let mut any = false;
        for slot in self.used() {
            if bad(slot.load(), &bytes) != 0 {
                update(slot, |word| word | bad(word, &bytes) << WRITTEN_SHIFT);
                any = true;
            }
        }
        any && !on(Bug::AnswerWhileListed)
    }

    /// Whether anything was written, and the list on disk does not say so yet.
    pub(super) fn any_pending(&self) -> bool {
        self.used()
            .any(|slot| slot.load() >> WRITTEN_SHIFT & SECTORS != 0)
    }

    /// What cannot be read.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BadBlock> + '_ {
        self.used().filter_map(|slot| {
            let word = slot.load();
            let (block, sectors) = (word >> NUMBER_SHIFT, (word & SECTORS) as u8);
            (sectors != 0).then_some(BadBlock { block, sectors })
        })
    }

    // ---- The exceptional part ----

    /// Takes over what a page on disk says.
    pub(super) fn load(&self, slots: impl Iterator<Item = Option<BadBlock>>) {
        self.used.store(UNREADABLE_SLOTS as u32);
        for (slot, bad) in self.slots.iter().zip(slots) {
            if let Some(bad) = bad {
                slot.store(bad.block << NUMBER_SHIFT | u64::from(bad.sectors));
            }
        }
        self.shrink();
    }

    /// Leaves out free slots at the end.
    fn shrink(&self) {
        let mut used = self.slots.iter().take(self.used.peek() as usize);
        let last = used.rposition(|slot| slot.peek() != 0);
        self.used.store(last.map_or(0, |place| place as u32 + 1));
    }

    /// What is to be on disk; slots that are not given are free.
    pub(super) fn slots(&self) -> impl Iterator<Item = Option<BadBlock>> + '_ {
        let slots = self.used().zip(self.leaving.iter());
        slots.map(|(slot, leaving)| {
            let word = slot.load();
            let sectors = (word & SECTORS) as u8 & !(leaving.peek() as u8);
            let block = word >> NUMBER_SHIFT;
            (sectors != 0).then_some(BadBlock { block, sectors })
        })
    }

    /// Whether it differs from that on disk.
    pub(super) fn is_changed(&self) -> bool {
        self.changed.peek() != 0
    }

    /// It is to be written.
    pub(super) fn touch(&self) {
        self.changed.poke(1);
    }

    /// It is being written.
    pub(super) fn settle(&self) {
        self.changed.poke(0);
    }

    /// What was written until now is about to be flushed, and leaves the list afterwards.
    pub(super) fn begin_leaving(&self) {
        for (slot, leaving) in self.used().zip(self.leaving.iter()) {
            leaving.poke((slot.load() >> WRITTEN_SHIFT & SECTORS) as u32);
        }
        self.touch();
    }

    /// What was to leave the list is not on disk any more.
    pub(super) fn end_leaving(&self) {
        for (slot, leaving) in self.used().zip(self.leaving.iter()) {
            let left = u64::from(leaving.peek());
            if left != 0 {
                leaving.poke(0);
                update(slot, |word| {
                    let rest = word & !(left | left << WRITTEN_SHIFT);
                    if rest & SECTORS == 0 {
                        0
                    } else {
                        rest
                    }
                });
            }
        }
        self.shrink();
    }

    /// Nobody could read this block. `false`: there is no room to remember it.
    ///
    /// That counts at once: a write that comes now is remembered. If the pull is given up, the block stays here until the next
    /// one; its chunk is dirty, so nobody reads it anyway.
    pub(super) fn find(&self, block: u64) -> bool {
        if block >= UNREADABLE_BLOCKS {
            return false;
        }
        let used = self.used.peek();
        let at = |word: u64| word != 0 && word >> NUMBER_SHIFT == block;
        let place = (self.used().position(|slot| at(slot.load())))
            .or_else(|| self.used().position(|slot| slot.load() == 0))
            .unwrap_or(used as usize);
        if place >= UNREADABLE_SLOTS {
            return false;
        }
        if let Some(slot) = self.slots.get(place) {
            slot.store(block << NUMBER_SHIFT | SECTORS);
        }
        if let Some(found) = self.found.get(place) {
            found.poke(1);
        }
        if let Some(leaving) = self.leaving.get(place) {
            leaving.poke(0);
        }
        self.used.store(used.max(place as u32 + 1));
        self.touch();
        true
    }

    /// What was found in these bytes does not count as found.
    pub(super) fn unfind(&self, bytes: &Range<u64>) {
        for (slot, found) in self.used().zip(self.found.iter()) {
            if is_in(slot.load(), bytes) {
                found.poke(0);
            }
        }
    }

    /// All of these bytes were written, but for what was found; a flush of it is about to begin.
    pub(super) fn replace(&self, bytes: &Range<u64>) {
        for (slot, found) in self.used().zip(self.found.iter()) {
            if is_in(slot.load(), bytes) {
                if found.peek() == 0 {
                    slot.store(0);
                    self.touch();
                }
                found.poke(0);
            }
        }
        self.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMemory;
    use std::vec::Vec;

    const BLOCK: u64 = 1 << BLOCK_SHIFT;

    fn list(blocks: &[u64]) -> Unreadable<HostMemory> {
        let list = Unreadable::new(&HostMemory).unwrap();
        for block in blocks {
            assert!(list.find(*block));
        }
        list.replace(&(0..1 << 40));
        list
    }

    fn on_disk(list: &Unreadable<HostMemory>) -> Vec<(u64, u8)> {
        let slots = list.slots().flatten();
        let mut list: Vec<_> = slots.map(|bad| (bad.block, bad.sectors)).collect();
        list.sort_unstable();
        list
    }

    #[test]
    fn sectors_of_a_range() {
        assert_eq!(inside(3, &(3 * BLOCK..4 * BLOCK)), 0xff);
        assert_eq!(inside(3, &(0..3 * BLOCK)), 0);
        assert_eq!(inside(3, &(4 * BLOCK..9 * BLOCK)), 0);
        assert_eq!(inside(3, &(3 * BLOCK + 512..3 * BLOCK + 1536)), 0b110);
        assert_eq!(inside(3, &(0..3 * BLOCK + 512)), 1);
        assert_eq!(inside(0, &(3584..u64::MAX)), 0x80);
    }

    #[test]
    fn until_it_is_written() {
        let list = list(&[5, 9]);
        assert!(list.is_changed() && list.blocks().count() == 2);
        list.settle();
        assert!(!list.is_changed());
        assert!(list.covers(5 * BLOCK + 512, 512) && !list.covers(6 * BLOCK, 3 * BLOCK));
        // Written, in parts: not before the list on disk says so.
        assert!(!list.written(6 * BLOCK, BLOCK) && !list.any_pending());
        assert!(list.written(5 * BLOCK, 512) && list.any_pending());
        assert!(list.is_pending(5 * BLOCK, BLOCK) && !list.is_pending(5 * BLOCK + 512, BLOCK));
        assert!(list.covers(5 * BLOCK, 512));
        // Twice, which is no difference.
        assert!(list.written(5 * BLOCK, 512) && list.is_pending(5 * BLOCK, BLOCK));
        list.begin_leaving();
        // What comes meanwhile is for the next time.
        assert!(list.written(5 * BLOCK + 512, 512));
        assert_eq!(on_disk(&list), [(5, 0xfe), (9, 0xff)]);
        list.end_leaving();
        assert!(!list.covers(5 * BLOCK, 512) && !list.is_pending(5 * BLOCK, 512));
        assert!(list.covers(5 * BLOCK + 512, 512) && list.is_pending(5 * BLOCK + 512, 512));
        list.begin_leaving();
        list.end_leaving();
        assert!(list.covers(5 * BLOCK + 1024, 512) && !list.any_pending());
        assert!(list.written(4 * BLOCK, 20 * BLOCK));
        list.begin_leaving();
        list.end_leaving();
        assert!(!list.covers(0, 1 << 40) && list.blocks().count() == 0 && !list.any_pending());
    }

    #[test]
    fn pulled_again() {
        let list = list(&[5, 9]);
        assert!(list.written(5 * BLOCK, 512));
        assert!(list.find(6) && list.find(20) && list.find(20));
        assert!(list.covers(6 * BLOCK, BLOCK));
        list.replace(&(4 * BLOCK..8 * BLOCK));
        assert_eq!(on_disk(&list), [(6, 0xff), (9, 0xff), (20, 0xff)]);
        // Given up, then read after all.
        list.unfind(&(20 * BLOCK..21 * BLOCK));
        list.replace(&(9 * BLOCK..1 << 40));
        assert_eq!(on_disk(&list), [(6, 0xff)]);
    }

    #[test]
    fn room_again() {
        let list = list(&(0..UNREADABLE_SLOTS as u64).collect::<Vec<_>>());
        assert!(!list.find(1 << 20));
        assert!(list.written(0, 1 << 40));
        list.begin_leaving();
        assert!(!list.find(1 << 20));
        list.end_leaving();
        assert!((0..UNREADABLE_SLOTS as u64).all(|block| list.find(block + (1 << 20))));
    }

    #[test]
    fn bounded() {
        let list = list(&(0..UNREADABLE_SLOTS as u64 - 1).collect::<Vec<_>>());
        assert!(list.find(1000) && !list.find(1001) && list.find(1000));
        assert!(!list.find(UNREADABLE_BLOCKS));
        let other = Unreadable::new(&HostMemory).unwrap();
        other.load(list.slots());
        assert_eq!(on_disk(&other), on_disk(&list));
        assert!(other.covers(7 * BLOCK, 1));
    }
}
