// SPDX-License-Identifier: GPL-2.0

//! What a disk may hold after a power cut: for a recorded sequence of writes, every state it can be left in.
//!
//! Writes are answered one after the other. What was answered is there, if it was written through (FUA) or flushed
//! afterwards; of the rest any part may be there. The write in flight may be there in part, in any order.

use std::collections::BTreeMap;

pub(crate) const PAGE: usize = 4096;
/// Smaller than a sector: records are short, and most of a page of them stays as it was.
const UNIT: usize = 64;

/// Content of a page.
pub(crate) type Page = [u8; PAGE];

/// Content of a disk, by offset in bytes; what is not there is zero.
pub(crate) type Image = BTreeMap<u64, Page>;

#[derive(Clone)]
enum Op {
    Write {
        at: u64,
        page: Box<Page>,
        through: bool,
    },
    Flush,
}

/// Writes to a disk, in the order in which they were answered.
#[derive(Clone)]
pub(crate) struct Recording {
    before: Image,
    ops: Vec<Op>,
}

/// A power cut.
pub(crate) struct Cut<'a> {
    /// So many operations had been answered.
    pub(crate) answered: usize,
    /// What the disk holds.
    pub(crate) image: &'a Image,
}

impl Recording {
    /// Begins with a disk that holds `before`, all of it stable.
    pub(crate) fn new(before: Image) -> Self {
        let ops = Vec::new();
        Self { before, ops }
    }

    /// A write of a page; `through` the cache or into it.
    pub(crate) fn write(&mut self, at: u64, page: &Page, through: bool) {
        assert_eq!(at % PAGE as u64, 0);
        let page = Box::new(*page);
        self.ops.push(Op::Write { at, page, through });
    }

    /// Everything that was answered becomes stable.
    pub(crate) fn flush(&mut self) {
        self.ops.push(Op::Flush);
    }

    /// Operations so far.
    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }

    /// What is read when nothing is lost.
    pub(crate) fn now(&self) -> Image {
        let mut image = self.before.clone();
        for op in &self.ops {
            if let Op::Write { at, page, .. } = op {
                image.insert(*at, **page);
            }
        }
        image
    }

    /// Calls `check` for each state after each power cut, and returns how often. Of up to `bound` unstable writes every
    /// subset is tried; of more than that, those that miss or have at most two.
    pub(crate) fn cuts(&self, bound: usize, mut check: impl FnMut(Cut<'_>)) -> usize {
        let mut count = 0;
        for answered in 0..=self.ops.len() {
            let (stable, unstable) = self.split(answered);
            for kept in subsets(unstable.len(), bound) {
                let mut image = stable.clone();
                for (n, (at, page)) in unstable.iter().enumerate() {
                    if kept >> n & 1 == 1 {
                        image.insert(*at, *page);
                    }
                }
                for image in self.in_flight(answered, image) {
                    let image = &image;
                    check(Cut { answered, image });
                    count += 1;
                }
            }
        }
        count
    }

    /// What is stable after `answered` operations, and what else was written, in this order.
    fn split(&self, answered: usize) -> (Image, Vec<(u64, Page)>) {
        let mut stable = self.before.clone();
        let mut unstable = Vec::new();
        for op in &self.ops[..answered] {
            match op {
                Op::Write { at, page, through } if *through => {
                    // What was written to this place before is overtaken.
                    unstable.retain(|(other, _)| other != at);
                    stable.insert(*at, **page);
                }
                Op::Write { at, page, .. } => unstable.push((*at, **page)),
                Op::Flush => stable.extend(unstable.drain(..)),
            }
        }
        (stable, unstable)
    }

    /// `image`, and with each part that may be there of the write that was in flight after `answered` operations.
    fn in_flight(&self, answered: usize, image: Image) -> Vec<Image> {
        let mut all = vec![image];
        let Some(Op::Write { at, page, .. }) = self.ops.get(answered) else {
            return all;
        };
        // Of a record with a checksum more of them would say nothing new.
        for part in [!0u64, 1, 3, 0xff, !0 >> 1, !1, !3, !0xff, !0 / 3] {
            let mut torn = all[0].clone();
            let place = torn.entry(*at).or_insert([0; PAGE]);
            for unit in (0..PAGE / UNIT).filter(|unit| part >> unit & 1 == 1) {
                let range = unit * UNIT..(unit + 1) * UNIT;
                place[range.clone()].copy_from_slice(&page[range]);
            }
            all.push(torn);
        }
        all
    }
}

/// Subsets of `n` things, as bits.
fn subsets(n: usize, bound: usize) -> Vec<u64> {
    assert!(n < 64);
    let all = (1u64 << n) - 1;
    if n <= bound {
        return (0..=all).collect();
    }
    let pairs = (0..n).flat_map(|a| (a..n).map(move |b| 1u64 << a | 1u64 << b));
    let few = pairs.chain([0]);
    few.flat_map(|few| [few, all & !few]).collect()
}
