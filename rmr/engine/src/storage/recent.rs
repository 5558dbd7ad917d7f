// SPDX-License-Identifier: GPL-2.0

//! The writes that a member executed above the watermark, with the chunks they touch.
//!
//! After a loss of connection these are the suspects of the member (R14). And a chunk may be pulled only when none of
//! its writes is among them: then every member has executed them all.

use crate::memory::Memory;
use crate::memory::NoMemory;
use crate::sync::raise;
use crate::sync::AtomicU64;
use crate::sync::CacheLine;
use crate::window::WINDOW;
use core::ops::Range;
use rmr_proto::Run;

/// A write.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
struct Entry {
    seq: AtomicU64,
    first: AtomicU64,
    chunks: AtomicU64,
}

/// The ring: a place for each number of the window.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub(super) struct Recent<M: Memory> {
    entries: M::Array<Entry>,
    /// The highest number in the ring, so that nobody looks at places that cannot count.
    newest: CacheLine<AtomicU64>,
}

impl<M: Memory> Recent<M> {
    /// An empty ring.
    pub(super) fn new(memory: &M) -> Result<Self, NoMemory> {
        let entry = |_| Entry {
            seq: AtomicU64::new(0),
            first: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
        };
        Ok(Self {
            entries: memory.array(WINDOW, entry)?,
            newest: CacheLine::default(),
        })
    }

    /// A write begins. Nobody else has its place: the one before in it is below the watermark, and so is a late one.
    pub(super) fn put(&self, seq: u64, chunks: &Range<u64>) {
        let place = seq as usize & (WINDOW - 1);
        let entry = self.entries.get(place);
        let Some(entry) = entry.filter(|entry| entry.seq.load() < seq) else {
            return;
        };
        // Who finds the entry looks as far as this.
        raise(&self.newest.0, seq);
        // Not to be found while it changes.
        entry.seq.store(0);
        entry.first.poke(chunks.start);
        entry.chunks.poke(chunks.end - chunks.start);
        entry.seq.store(seq);
    }

    /// No write with a higher number has begun.
    pub(super) fn newest(&self) -> u64 {
        self.newest.0.load()
    }

    /// The chunks of the writes above `watermark`.
    pub(super) fn above(&self, watermark: u64) -> impl Iterator<Item = Run> + '_ {
        let newest = self
            .newest
            .0
            .load()
            .min(watermark.saturating_add(WINDOW as u64));
        let places = (watermark..newest).map(|before| (before + 1) as usize & (WINDOW - 1));
        let writes = places
            .filter_map(|place| self.entries.get(place))
            .filter(move |e| e.seq.load() > watermark);
        // A write has at most 4 MiB, so at most 1024 chunks.
        writes.map(|e| Run::new(e.first.peek(), e.chunks.peek() as u32))
    }

    /// Whether there are more writes above `watermark` than that.
    pub(super) fn exceeds(&self, watermark: u64, most: usize) -> bool {
        let numbers = self.newest.0.load().saturating_sub(watermark);
        numbers > most as u64 && self.above(watermark).count() > most
    }

    /// Whether a write above `watermark` touched a chunk.
    pub(super) fn touched(&self, watermark: u64, chunk: u64) -> bool {
        self.above(watermark)
            .any(|run| run.range().contains(&chunk))
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        for entry in self.entries.iter() {
            entry.seq.store(0);
        }
        self.newest.0.store(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMemory;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Behaves like a map, for numbers that are at most a window above the watermark.
        #[test]
        fn behaves_like_a_map(
            first in prop_oneof![Just(0), 0..3 * WINDOW as u64],
            writes in prop::collection::vec((1..WINDOW as u64 + 1, 0u64..20, 1u64..5, 0u64..2), 1..40),
        ) {
            let real = Recent::new(&HostMemory).unwrap();
            let mut model = BTreeMap::new();
            let mut watermark = first;
            for (above, chunk, chunks, moved) in writes {
                // Near both ends of the window, and further and further up.
                let seq = watermark + if above % 2 == 0 { above } else { above % 16 + 1 };
                real.put(seq, &(chunk..chunk + chunks));
                // What comes twice is the same write.
                real.put(seq, &(77..78));
                model.entry(seq).or_insert(Run::new(chunk, chunks as u32));
                watermark += moved * above / 2;
                for watermark in [watermark, watermark + 3] {
                    let runs: Vec<_> = model.range(watermark + 1..).map(|(_, run)| *run).collect();
                    prop_assert_eq!(real.above(watermark).collect::<Vec<_>>(), runs.clone());
                    for chunk in [0, 5, 19, 23] {
                        let any = runs.iter().any(|run| run.range().contains(&chunk));
                        prop_assert_eq!(real.touched(watermark, chunk), any);
                    }
                    for most in [0, runs.len().saturating_sub(1), runs.len(), runs.len() + 1] {
                        prop_assert_eq!(real.exceeds(watermark, most), runs.len() > most);
                    }
                }
            }
            real.clear();
            prop_assert_eq!(real.above(0).count(), 0);
            prop_assert!(!real.exceeds(0, 0));
        }
    }

    #[test]
    fn a_late_write_is_not_kept() {
        let real = Recent::new(&HostMemory).unwrap();
        let window = WINDOW as u64;
        real.put(window + 5, &(1..2));
        real.put(5, &(7..8));
        assert!(real.above(window).eq([Run::new(1, 1)]));
        assert!(real.above(5).eq([Run::new(1, 1)]));
    }
}
