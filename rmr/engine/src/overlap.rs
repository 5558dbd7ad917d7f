// SPDX-License-Identifier: GPL-2.0

//! No two overlapping requests, one of them a write, in flight at once (rule R3).
//!
//! Every request of a volume passes here before it is sent. It is *admitted* at once if no earlier request
//! that is still here conflicts with it, else *held*; it becomes admitted when the last earlier conflicting
//! one is removed. Earlier requests count whether they are in flight or held themselves, so nothing overtakes
//! and nothing starves: the order among conflicting requests is the order of arrival.
//!
//! ```text
//!            insert                 last earlier conflicting one removed             remove
//!   free ────────────► held ──────────────────────────────────────────► admitted ─────────► free
//!     └──────────────────────────────────────────────────────────────────►┘
//! ```
//!
//! A held request cannot be taken back. It need not: those before it end in bounded time, by success or by
//! the failure of the volume, and the caller looks at the state of the volume when it becomes admitted.
//!
//! How it works: one node per tag; the volume is cut into regions of 4 MiB, which hash to *shards*, each a
//! lock and a list of the nodes that touch its regions, in order of arrival. A request touches at most two
//! regions, so at most two shards, and takes both locks, in the order of their places. Each node counts its
//! `blockers`: the pairs (earlier conflicting node, shard both are in). Whoever brings the count to zero
//! admits the node. Nodes are only reached under the lock of a list they are in, except for `blockers`,
//! which two shards may lower at once; so all other accesses are relaxed.
//!
//! Cost: an insert walks the list of its shard, but not if the request lies outside of all that is there (so a
//! sequential stream never does), nor for a read while no write is there. A removal walks only if somebody was held
//! back by the request.

use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Guarded;
use core::ops::Deref;
use core::ops::Range;

/// Binary logarithm of the size of a region in bytes.
pub const REGION_SHIFT: u32 = 22;

/// Longest request in bytes.
pub const MAX_LEN: u64 = 1 << REGION_SHIFT;

/// Tags are below this.
pub const MAX_DEPTH: usize = 1 << 30;

/// End of a list.
const NIL: u32 = u32::MAX;

const FREE: u32 = 0;
const HELD: u32 = 1;
const ADMITTED: u32 = 2;
/// Being inserted or removed.
const MOVING: u32 = 3;

/// Answer to [`Overlap::insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Insert {
    /// Send it now; [`Overlap::remove`] it when it is complete.
    Admitted,
    /// Keep it; the removal of another request will name it.
    Held,
    /// Not taken: the tag is out of range or in use, or the range is empty or longer than [`MAX_LEN`].
    Refused,
}

/// What is remembered of one tag. Made by the caller, one for each tag, in the memory it lends.
#[repr(align(64))]
#[derive(Default)]
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub struct Node {
    start: AtomicU64,
    end: AtomicU64,
    write: AtomicU32,
    state: AtomicU32,
    /// Conflicting earlier nodes, once for each shard shared with them.
    blockers: AtomicU32,
    /// Is (or was) this node a blocker of another?
    blocks: AtomicU32,
    /// Next in the chain of nodes that one removal admits.
    chain: AtomicU32,
    /// Place in the list of the first and the second shard.
    links: [Link; 2],
}

#[derive(Default)]
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
struct Link {
    prev: AtomicU32,
    next: AtomicU32,
}

impl Node {
    /// A node whose tag is free.
    pub fn new() -> Self {
        Self::default()
    }

    fn conflicts(&self, range: &Range<u64>, write: bool) -> bool {
        (write || self.write.peek() != 0)
            && self.start.peek() < range.end
            && range.start < self.end.peek()
    }
}

/// The nodes of some regions, in order of arrival. Behind a lock, in memory lent by the caller.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub struct Shard {
    head: u32,
    tail: u32,
    writes: u32,
    /// Nothing in the list is outside of these bytes. Narrowed only when the list is empty.
    hull: Range<u64>,
}

impl Shard {
    /// An empty shard.
    pub const fn new() -> Self {
        Self {
            head: NIL,
            tail: NIL,
            writes: 0,
            hull: 0..0,
        }
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self::new()
    }
}

/// A place in a list: which node, by which of its two links.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place(u32);

impl Place {
    fn new(tag: u32, side: usize) -> Self {
        Self(tag << 1 | side as u32)
    }

    fn tag(self) -> u32 {
        self.0 >> 1
    }

    fn side(self) -> usize {
        (self.0 & 1) as usize
    }
}

/// The requests of one volume that are admitted or held.
///
/// `N` is the arena, one [`Node`] for each tag; `S` the locked shards, a few for each CPU.
/// All calls: any context in which the locks may be taken.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub struct Overlap<N, S> {
    nodes: N,
    shards: S,
}

impl<N, S, G> Overlap<N, S>
where
    N: Deref<Target = [Node]>,
    S: Deref<Target = [G]>,
    G: Guarded<Shard>,
{
    /// Starts with every tag of `nodes` free. `None` if there are no shards, or too many of either.
    pub fn new(nodes: N, shards: S) -> Option<Self> {
        if nodes.len() > MAX_DEPTH || shards.is_empty() || shards.len() > MAX_DEPTH {
            return None;
        }
        Some(Self { nodes, shards })
    }

    /// Enters the request `tag` on the bytes `range`.
    pub fn insert(&self, tag: u32, range: Range<u64>, is_write: bool) -> Insert {
        let Some(node) = self.nodes.get(tag as usize) else {
            return Insert::Refused;
        };
        let len = range.end.saturating_sub(range.start);
        if len == 0 || len > MAX_LEN || node.state.cas(FREE, MOVING).is_err() {
            return Insert::Refused;
        }
        node.start.poke(range.start);
        node.end.poke(range.end);
        node.write.poke(u32::from(is_write));
        node.blocks.poke(0);
        self.with_shards(&range, |first, second| {
            let mut blockers = self.append(first, Place::new(tag, 0), &range, is_write);
            if let Some(shard) = second {
                blockers += self.append(shard, Place::new(tag, 1), &range, is_write);
            }
            node.blockers.poke(blockers);
            // Until the locks are released nobody else can reach the node.
            if blockers == 0 {
                node.state.poke(ADMITTED);
                Insert::Admitted
            } else {
                node.state.poke(HELD);
                Insert::Held
            }
        })
    }

    /// Takes out the complete request `tag`, then calls `ready` for each held one that is admitted by this.
    ///
    /// `ready` is called with no lock held and may insert and remove. The tag may be inserted again as soon as
    /// it is taken out, thus remove a request before its tag is given back. `false`, and nothing done, if `tag`
    /// is not admitted.
    pub fn remove(&self, tag: u32, mut ready: impl FnMut(u32)) -> bool {
        let Some(node) = self.nodes.get(tag as usize) else {
            return false;
        };
        if node.state.cas(ADMITTED, MOVING).is_err() {
            return false;
        }
        let range = node.start.peek()..node.end.peek();
        let is_write = node.write.peek() != 0;
        let mut chain = self.with_shards(&range, |first, second| {
            let mut chain = Chain {
                head: NIL,
                tail: NIL,
            };
            self.unlink(first, Place::new(tag, 0), &range, is_write, &mut chain);
            if let Some(shard) = second {
                self.unlink(shard, Place::new(tag, 1), &range, is_write, &mut chain);
            }
            node.state.store(FREE);
            chain.head
        });
        // An admitted node stays as it is until `ready` hears of it: read its link before.
        while let Some(node) = self.nodes.get(chain as usize) {
            let tag = chain;
            chain = node.chain.peek();
            ready(tag);
        }
        true
    }

    /// Puts a node at the end of a list; returns how many nodes there conflict with it.
    fn append(&self, shard: &mut Shard, place: Place, range: &Range<u64>, is_write: bool) -> u32 {
        let mut blockers = 0;
        if shard.head == NIL {
            shard.hull = range.clone();
        }
        let inside = range.start < shard.hull.end && shard.hull.start < range.end;
        if inside && (is_write || shard.writes != 0) {
            let mut at = shard.head;
            while let Some((here, node)) = self.at(at) {
                if node.conflicts(range, is_write) {
                    node.blocks.poke(1);
                    blockers += 1;
                }
                at = node.links[here.side()].next.peek();
            }
        }
        if let Some((_, node)) = self.at(place.0) {
            node.links[place.side()].prev.poke(shard.tail);
            node.links[place.side()].next.poke(NIL);
        }
        self.point(shard, Place(shard.tail), Step::Next, place.0);
        shard.tail = place.0;
        shard.hull = shard.hull.start.min(range.start)..shard.hull.end.max(range.end);
        shard.writes += u32::from(is_write);
        blockers
    }

    /// Takes a node out of a list; those behind it that it alone still blocked join the chain.
    fn unlink(
        &self,
        shard: &mut Shard,
        place: Place,
        range: &Range<u64>,
        is_write: bool,
        chain: &mut Chain,
    ) {
        let Some((_, node)) = self.at(place.0) else {
            return;
        };
        let link = &node.links[place.side()];
        let (prev, next) = (link.prev.peek(), link.next.peek());
        if node.blocks.peek() != 0 {
            let mut at = next;
            while let Some((here, later)) = self.at(at) {
                if later.conflicts(range, is_write) && later.blockers.fetch_add(u32::MAX) == 1 {
                    later.state.poke(ADMITTED);
                    later.chain.poke(NIL);
                    self.extend(chain, here.tag());
                }
                at = later.links[here.side()].next.peek();
            }
        }
        self.point(shard, Place(prev), Step::Next, next);
        self.point(shard, Place(next), Step::Prev, prev);
        shard.writes -= u32::from(is_write);
    }

    /// Lets the neighbour at `of`, or the end of the list if there is none, point to `to`.
    fn point(&self, shard: &mut Shard, of: Place, step: Step, to: u32) {
        match (self.at(of.0), step) {
            (Some((_, node)), Step::Next) => node.links[of.side()].next.poke(to),
            (Some((_, node)), Step::Prev) => node.links[of.side()].prev.poke(to),
            (None, Step::Next) => shard.head = to,
            (None, Step::Prev) => shard.tail = to,
        }
    }

    fn extend(&self, chain: &mut Chain, tag: u32) {
        match self.nodes.get(chain.tail as usize) {
            Some(last) => last.chain.poke(tag),
            None => chain.head = tag,
        }
        chain.tail = tag;
    }

    /// The node at a place, `None` at the end of a list (no arena is so large).
    fn at(&self, place: u32) -> Option<(Place, &Node)> {
        let place = Place(place);
        Some((place, self.nodes.get(place.tag() as usize)?))
    }

    /// Runs `f` with the one or two shards of `range` locked.
    fn with_shards<R>(
        &self,
        range: &Range<u64>,
        f: impl FnOnce(&mut Shard, Option<&mut Shard>) -> R,
    ) -> R {
        let first = self.shard_of(range.start);
        let last = self.shard_of(range.end - 1);
        let (low, high) = (first.min(last), first.max(last));
        self.shards[low].with(|first| {
            if low == high {
                f(first, None)
            } else {
                self.shards[high].with(|second| f(first, Some(second)))
            }
        })
    }

    fn shard_of(&self, offset: u64) -> usize {
        // Regions side by side go to shards far apart; the upper half of the product is well mixed.
        let mixed = (offset >> REGION_SHIFT).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (mixed % self.shards.len() as u64) as usize
    }
}

#[derive(Clone, Copy)]
enum Step {
    Prev,
    Next,
}

struct Chain {
    head: u32,
    tail: u32,
}
