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
