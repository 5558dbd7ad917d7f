// SPDX-License-Identifier: GPL-2.0

//! Queues of tags without memory of their own: one link per tag, for all queues of a pool.
//!
//! A tag is in at most one queue at a time, and a [`TagList`] is guarded by whoever owns it; so links need
//! no order of their own.

use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;

const NONE: u32 = u32::MAX;

/// The link of each tag.
pub(crate) struct Links(KVVec<Atomic<u32>>);

impl Links {
    /// Links for tags below `depth`. May sleep.
    pub(crate) fn new(depth: u32) -> Result<Self> {
        let mut links = KVVec::with_capacity(depth as usize, GFP_KERNEL)?;
        for _ in 0..depth {
            links.push(Atomic::new(NONE), GFP_KERNEL)?;
        }
        Ok(Self(links))
    }

    fn next(&self, tag: u32) -> u32 {
        self.0.get(tag as usize).map_or(NONE, |l| l.load(Relaxed))
    }

    fn set(&self, tag: u32, next: u32) {
        if let Some(link) = self.0.get(tag as usize) {
            link.store(next, Relaxed);
        }
    }
}

/// A queue of tags, first in first out.
pub(crate) struct TagList {
    head: u32,
    tail: u32,
    len: u32,
}

impl TagList {
    /// An empty queue.
    pub(crate) const fn new() -> Self {
        Self {
            head: NONE,
            tail: NONE,
            len: 0,
        }
    }

    /// The first tag.
    pub(crate) fn first(&self) -> Option<u32> {
        (self.len > 0).then_some(self.head)
    }

    /// Appends `tag`, which is in no queue.
    pub(crate) fn push(&mut self, links: &Links, tag: u32) {
        links.set(tag, NONE);
        if self.len == 0 {
            self.head = tag;
        } else {
            links.set(self.tail, tag);
        }
        self.tail = tag;
        self.len += 1;
    }

    /// Takes the first tag.
    pub(crate) fn pop(&mut self, links: &Links) -> Option<u32> {
        let tag = self.first()?;
        self.head = links.next(tag);
        self.len -= 1;
        Some(tag)
    }

    /// The tags, first to last.
    pub(crate) fn iter<'a>(&self, links: &'a Links) -> impl Iterator<Item = u32> + 'a {
        let first = self.first();
        core::iter::successors(first, |tag| Some(links.next(*tag))).take(self.len as usize)
    }

    /// Takes everything.
    pub(crate) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }
}
