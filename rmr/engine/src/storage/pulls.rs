// SPDX-License-Identifier: GPL-2.0

//! The chunks that are being pulled, and the writes that come in between (R16).
//!
//! A write to a chunk that is on its way *spoils* it: what comes may be older than the write, and is thrown away. While
//! it is being written here, a write to the chunk waits. Each slot is one word, `chunk + 1` and a state.
//!
//! A chunk that is written all the time would never come through. So after a number of vain tries it is *claimed*: for a
//! short time no write to it begins.

use crate::planted::on;
use crate::planted::Bug;
use crate::sync::AtomicU64;
use core::ops::Range;

/// Chunks that are pulled at one time.
pub(super) const MAX_PULLS: usize = 4;

const STATE_SHIFT: u32 = 60;
const CHUNK: u64 = (1 << STATE_SHIFT) - 1;
/// On its way.
const ASKED: u64 = 1 << STATE_SHIFT;
/// On its way, and of no use.
const SPOILED: u64 = 2 << STATE_SHIFT;
/// Being written.
const WRITING: u64 = 3 << STATE_SHIFT;

/// The slots.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub(super) struct Pulls {
    slots: [AtomicU64; MAX_PULLS],
    /// `chunk + 1` of the chunk that writes leave alone for a moment.
    claimed: AtomicU64,
}

impl Pulls {
    pub(super) fn new() -> Self {
        Self {
            slots: core::array::from_fn(|_| AtomicU64::new(0)),
            claimed: AtomicU64::new(0),
        }
    }

    /// A write to `chunks` begins. `false`: it must wait.
    pub(super) fn enter(&self, chunks: &Range<u64>) -> bool {
        self.slots.iter().all(|slot| loop {
            // Reads and writes: it must not be overtaken by what this CPU did before.
            let word = slot.fetch_add(0);
            let chunk = (word & CHUNK).checked_sub(1);
            if !chunk.is_some_and(|chunk| chunks.contains(&chunk)) || word & !CHUNK == SPOILED {
                break true;
            }
            if word & !CHUNK == WRITING {
                break on(Bug::WriteIntoPull);
            }
            if on(Bug::PullOverWrite) {
                break true;
            }
            if slot.cas(word, word & CHUNK | SPOILED).is_ok() {
                break true;
            }
        })
    }

    /// From now on no write to this chunk begins.
    pub(super) fn claim(&self, chunk: u64) {
        self.claimed.store(chunk + 1);
    }

    /// Writes may begin wherever they want.
    pub(super) fn release(&self) {
        self.claimed.store(0);
    }

    /// Whether a write to `chunks` has to wait because one of them is claimed.
    pub(super) fn is_claimed(&self, chunks: &Range<u64>) -> bool {
        let chunk = self.claimed.load().checked_sub(1);
        chunk.is_some_and(|chunk| chunks.contains(&chunk))
    }

    /// Occupies a slot for a chunk.
    pub(super) fn ask(&self, slot: usize, chunk: u64) {
        if let Some(slot) = self.slots.get(slot) {
            // As in `enter`.
            let _ = slot.cas(slot.load(), ASKED | (chunk + 1));
        }
    }

    /// The data is there. `false`: it is of no use.
    pub(super) fn write(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|slot| {
            let word = slot.load();
            let asked = word & !CHUNK == ASKED;
            asked && slot.cas(word, word & CHUNK | WRITING).is_ok()
        })
    }

    /// The last part need not be written. `false`: what was written is of no use.
    pub(super) fn is_good(&self, slot: usize) -> bool {
        let slot = self.slots.get(slot);
        // As in `enter`.
        slot.is_some_and(|slot| slot.fetch_add(0) & !CHUNK == ASKED)
    }

    /// The next part of the same chunk is asked for. What was written of it so far remains.
    pub(super) fn ask_again(&self, slot: usize) {
        if let Some(slot) = self.slots.get(slot) {
            let word = slot.load();
            slot.store(word & CHUNK | ASKED);
        }
    }

    /// Frees a slot.
    pub(super) fn end(&self, slot: usize) {
        if let Some(slot) = self.slots.get(slot) {
            slot.store(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoiled_or_held_back() {
        let pulls = Pulls::new();
        assert!(pulls.enter(&(0..9)));
        pulls.ask(1, 5);
        assert!(pulls.enter(&(6..9)) && pulls.write(1));
        assert!(pulls.enter(&(6..9)) && !pulls.enter(&(5..6)));
        pulls.end(1);
        assert!(pulls.enter(&(5..6)));
        pulls.ask(1, 5);
        assert!(pulls.enter(&(0..9)));
        assert!(!pulls.write(1));
        pulls.end(1);
        assert!(!pulls.write(1));
    }

    #[test]
    fn in_parts() {
        let pulls = Pulls::new();
        assert!(!pulls.is_good(0) && !pulls.is_good(MAX_PULLS));
        pulls.ask(0, 5);
        assert!(pulls.is_good(0) && pulls.write(0) && !pulls.is_good(0));
        pulls.ask_again(0);
        assert!(pulls.is_good(0) && !pulls.is_good(1));
        // It is still chunk 5.
        assert!(pulls.enter(&(6..7)) && pulls.is_good(0));
        assert!(pulls.enter(&(5..6)) && !pulls.is_good(0));
    }

    #[test]
    fn claimed() {
        let pulls = Pulls::new();
        assert!(!pulls.is_claimed(&(0..9)));
        for chunk in [0, 5] {
            pulls.claim(chunk);
            assert!(pulls.is_claimed(&(0..9)) && pulls.is_claimed(&(chunk..chunk + 1)));
            assert!(!pulls.is_claimed(&(0..chunk)) && !pulls.is_claimed(&(chunk + 1..9)));
        }
        pulls.release();
        assert!(!pulls.is_claimed(&(0..9)));
    }
}
