// SPDX-License-Identifier: GPL-2.0

//! What each block may hold: an atomic register per block, checked while IO runs in parallel.
//!
//! Writers announce a write before they send it and report its end; readers hand in what they saw. The rules, with
//! "before" meaning that one call had returned when the other began:
//!
//! * a block may hold what the last finished write left, or what any unfinished or overlapping one writes;
//! * a write that ends supersedes every write that ended before it began;
//! * a read must show something the block may have held while the read ran;
//! * a read that shows `x` supersedes every other write that ended before the read began. So two reads in a row never
//!   go back in time, and the copies of a replicated device may not disagree about the winner of two racing writes.
//!
//! The model does no IO and knows no pattern; it is only sure about single blocks, never about several together.

use crate::pattern::Content;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a write leaves in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Zero,
    Version(u64),
}

impl Value {
    fn matches(self, found: Content) -> bool {
        match self {
            Value::Zero => found == Content::Zero,
            Value::Version(version) => found == Content::Version(version),
        }
    }
}

/// A point in the order of all calls.
type Tick = u64;

const IDLE: Tick = Tick::MAX;
const SHARD_BLOCKS: u64 = 1024;

#[derive(Clone, Copy, Debug)]
struct Write {
    value: Value,
    start: Tick,
    end: Option<Tick>,
}

impl Write {
    fn ended_before(&self, tick: Tick) -> bool {
        self.end.is_some_and(|end| end < tick)
    }
}

/// A value that a block held until `gone`; kept while a read that began before may still show it.
#[derive(Clone, Copy, Debug)]
struct Past {
    value: Value,
    gone: Tick,
}

#[derive(Debug, Default)]
struct Block {
    writes: Vec<Write>,
    past: Vec<Past>,
}

impl Block {
    /// Drops the writes `superseded` says are gone for good, remembering them for reads that began before `now`.
    fn supersede(&mut self, now: Tick, oldest_read: Tick, superseded: impl Fn(&Write) -> bool) {
        let past = &mut self.past;
        past.retain(|p| p.gone > oldest_read);
        self.writes.retain(|w| {
            let gone = superseded(w);
            if gone && now > oldest_read {
                past.push(Past {
                    value: w.value,
                    gone: now,
                });
            }
            !gone
        });
    }

    fn may_show(&self, found: Content, read_start: Tick) -> bool {
        self.writes.iter().any(|w| w.value.matches(found))
            || self
                .past
                .iter()
                .any(|p| p.gone > read_start && p.value.matches(found))
    }
}

/// A read that shows what the block cannot have held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Block number relative to the start of the model.
    pub block: u64,
    pub found: Content,
    /// What would have been right.
    pub allowed: Vec<Value>,
}

/// A write that was announced.
#[must_use]
#[derive(Debug)]
pub struct WriteTicket {
    blocks: Range<u64>,
    start: Tick,
}

/// A read that was announced.
#[must_use]
#[derive(Debug)]
pub struct ReadTicket {
    reader: usize,
    start: Tick,
}

/// The model of `blocks` blocks, used by up to `readers` threads.
pub struct Model {
    shards: Vec<Mutex<Vec<Block>>>,
    clock: AtomicU64,
    /// For each reader the start of its running read, or `IDLE`.
    reading: Vec<AtomicU64>,
}

impl Model {
    /// A model in which nothing is known yet: every block must be written before it is read.
    pub fn new(blocks: u64, readers: usize) -> Model {
        let shards = blocks.div_ceil(SHARD_BLOCKS);
        let shard = || Mutex::new((0..SHARD_BLOCKS).map(|_| Block::default()).collect());
        Model {
            shards: (0..shards).map(|_| shard()).collect(),
            clock: AtomicU64::new(1),
            reading: (0..readers).map(|_| AtomicU64::new(IDLE)).collect(),
        }
    }

    fn tick(&self) -> Tick {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn oldest_read(&self) -> Tick {
        let starts = self.reading.iter().map(|r| r.load(Ordering::SeqCst));
        starts.min().unwrap_or(IDLE)
    }

    fn shard(&self, index: u64) -> MutexGuard<'_, Vec<Block>> {
        // A thread that panicked has already failed the run; its shard is still worth checking.
        self.shards[index as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn each_block(&self, blocks: Range<u64>, mut visit: impl FnMut(u64, &mut Block)) {
        let mut at = blocks.start;
        while at < blocks.end {
            let index = at / SHARD_BLOCKS;
            let end = ((index + 1) * SHARD_BLOCKS).min(blocks.end);
            let mut shard = self.shard(index);
            for block in at..end {
                visit(block, &mut shard[(block % SHARD_BLOCKS) as usize]);
            }
            at = end;
        }
    }

    /// Announces a write; call it before the device can see the write.
    pub fn begin_write(&self, blocks: Range<u64>, value: Value) -> WriteTicket {
        let start = self.tick();
        self.each_block(blocks.clone(), |_, block| {
            block.writes.push(Write {
                value,
                start,
                end: None,
            });
        });
        WriteTicket { blocks, start }
    }

    /// Reports that a write succeeded. (A write that failed stays unfinished for ever: the block may hold either.)
    pub fn end_write(&self, ticket: WriteTicket) {
        let end = self.tick();
        let oldest_read = self.oldest_read();
        self.each_block(ticket.blocks, |_, block| {
            block.supersede(end, oldest_read, |w| w.ended_before(ticket.start));
            for write in &mut block.writes {
                if write.start == ticket.start {
                    write.end = Some(end);
                }
            }
        });
    }

    /// Announces a read by thread number `reader`, which has no other read under way.
    pub fn begin_read(&self, reader: usize) -> ReadTicket {
        // Zero holds back all forgetting until the true start is known.
        self.reading[reader].store(0, Ordering::SeqCst);
        let start = self.tick();
        self.reading[reader].store(start, Ordering::SeqCst);
        ReadTicket { reader, start }
    }

    /// Checks what a read showed, one [`Content`] for each block from `first` on.
    pub fn end_read(
        &self,
        ticket: ReadTicket,
        first: u64,
        contents: impl ExactSizeIterator<Item = Content>,
    ) -> Vec<Violation> {
        let now = self.tick();
        let oldest_read = self.oldest_read();
        let mut wrong = Vec::new();
        let mut contents = contents;
        let blocks = first..first + contents.len() as u64;
        self.each_block(blocks, |number, block| {
            let Some(found) = contents.next() else { return };
            if block.may_show(found, ticket.start) {
                block.supersede(now, oldest_read, |w| {
                    w.ended_before(ticket.start) && !w.value.matches(found)
                });
            } else {
                let allowed = block.writes.iter().map(|w| w.value).collect();
                wrong.push(Violation {
                    block: number,
                    found,
                    allowed,
                });
            }
        });
        self.reading[ticket.reader].store(IDLE, Ordering::SeqCst);
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Value = Value::Version(1);
    const B: Value = Value::Version(2);
    const C: Value = Value::Version(3);

    fn written(value: Value) -> Model {
        let model = Model::new(1, 2);
        let ticket = model.begin_write(0..1, value);
        model.end_write(ticket);
        model
    }

    fn content(value: Value) -> Content {
        match value {
            Value::Zero => Content::Zero,
            Value::Version(version) => Content::Version(version),
        }
    }

    fn end(model: &Model, ticket: ReadTicket, value: Value) -> bool {
        model
            .end_read(ticket, 0, std::iter::once(content(value)))
            .is_empty()
    }

    fn shows(model: &Model, value: Value) -> bool {
        let ticket = model.begin_read(0);
        end(model, ticket, value)
    }

    #[test]
    fn last_write_wins() {
        let model = written(A);
        assert!(shows(&model, A));
        let b = model.begin_write(0..1, B);
        model.end_write(b);
        assert!(!shows(&model, A));
        assert!(shows(&model, B));
        assert!(!shows(&model, Value::Zero));
    }

    #[test]
    fn a_running_write_may_show_or_not_but_never_go_back() {
        let model = written(A);
        let b = model.begin_write(0..1, B);
        assert!(shows(&model, A));
        assert!(shows(&model, B));
        assert!(!shows(&model, A));
        model.end_write(b);
        assert!(shows(&model, B));
    }

    #[test]
    fn racing_writes_leave_either_until_one_is_seen() {
        for (seen, lost) in [(B, C), (C, B)] {
            let model = written(A);
            let b = model.begin_write(0..1, B);
            let c = model.begin_write(0..1, C);
            model.end_write(b);
            model.end_write(c);
            assert!(!shows(&model, A));
            assert!(shows(&model, seen));
            assert!(!shows(&model, lost), "{lost:?} after {seen:?}");
            assert!(shows(&model, seen));
        }
    }

    #[test]
    fn a_slow_read_may_show_what_was_there_when_it_began() {
        let model = written(A);
        let slow = model.begin_read(1);
        for value in [B, C] {
            let w = model.begin_write(0..1, value);
            model.end_write(w);
        }
        assert!(end(&model, slow, A));
        assert!(!shows(&model, A));
        assert!(shows(&model, C));
    }

    #[test]
    fn the_past_is_forgotten_when_no_read_needs_it() {
        let model = written(A);
        for version in 10..20 {
            let w = model.begin_write(0..1, Value::Version(version));
            model.end_write(w);
        }
        assert!(model.shard(0)[0].past.is_empty());
        assert_eq!(model.shard(0)[0].writes.len(), 1);
    }

    #[test]
    fn zeroes_are_a_value() {
        let model = written(A);
        let z = model.begin_write(0..1, Value::Zero);
        model.end_write(z);
        assert!(shows(&model, Value::Zero));
        assert!(!shows(&model, A));
    }

    #[test]
    fn ranges_cross_shards() {
        let model = Model::new(3 * SHARD_BLOCKS, 1);
        let all = model.begin_write(0..3 * SHARD_BLOCKS, A);
        model.end_write(all);
        let first = SHARD_BLOCKS - 1;
        let count = SHARD_BLOCKS + 2;
        let read = model.begin_read(0);
        let found = (0..count as usize).map(|_| Content::Version(1));
        assert!(model.end_read(read, first, found).is_empty());
    }

    #[test]
    fn violations_name_the_block() {
        let model = Model::new(8, 1);
        let all = model.begin_write(0..8, A);
        model.end_write(all);
        let read = model.begin_read(0);
        let found = [Content::Version(1), Content::Torn { at: 9 }].into_iter();
        let wrong = model.end_read(read, 4, found);
        let expected = Violation {
            block: 5,
            found: Content::Torn { at: 9 },
            allowed: vec![A],
        };
        assert_eq!(wrong, [expected]);
    }
}
