// SPDX-License-Identifier: GPL-2.0

//! The dirty bitmaps that a member keeps: D\[m\] for every member m, itself included (R11).
//!
//! Set on the IO path, by many CPUs at once; read and emptied by one at a time. What of a bitmap is not yet on disk is
//! known page by page.

use crate::memory::Memory;
use crate::memory::NoMemory;
use crate::planted::on;
use crate::planted::Bug;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use core::ops::Range;
use rmr_proto::Geometry;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::BITMAP_PAGE_CHUNKS;
use rmr_proto::BITMAP_PAGE_WORDS;
use rmr_proto::MAX_MEMBERS;

/// All dirty bitmaps of a member.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub(super) struct Bitmaps<M: Memory> {
    chunks: u64,
    pages: usize,
    words: M::Array<AtomicU64>,
    /// Pages that differ from those on disk.
    changed: M::Array<AtomicU32>,
    /// Members of whose copies every chunk is dirty, whatever the words say.
    full: AtomicU32,
}

impl<M: Memory> Bitmaps<M> {
    /// Empty ones.
    pub(super) fn new(memory: &M, geometry: &Geometry) -> Result<Self, NoMemory> {
        let chunks = geometry.chunks();
        let pages = chunks.div_ceil(BITMAP_PAGE_CHUNKS);
        let pages = usize::try_from(pages).map_err(|_| NoMemory)?;
        let all = pages.checked_mul(MAX_MEMBERS).ok_or(NoMemory)?;
        let words = all.checked_mul(BITMAP_PAGE_WORDS).ok_or(NoMemory)?;
        Ok(Self {
            chunks,
            pages,
            words: memory.array(words, |_| AtomicU64::new(0))?,
            changed: memory.array(all, |_| AtomicU32::new(0))?,
            full: AtomicU32::new(0),
        })
    }

    /// Pages of one bitmap.
    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// The words of a member.
    fn of(&self, member: MemberId) -> &[AtomicU64] {
        let len = self.pages * BITMAP_PAGE_WORDS;
        let from = member.index() * len;
        self.words.get(from..from + len).unwrap_or(&[])
    }

    fn changed_of(&self, member: MemberId) -> &[AtomicU32] {
        let from = member.index() * self.pages;
        self.changed.get(from..from + self.pages).unwrap_or(&[])
    }

    /// The words of a page.
    pub(super) fn page(&self, member: MemberId, page: usize) -> impl Iterator<Item = u64> + '_ {
        let from = page.saturating_mul(BITMAP_PAGE_WORDS);
        let to = from.saturating_add(BITMAP_PAGE_WORDS);
        let words = self.of(member).get(from..to);
        let full = self.is_full(member);
        let mask = move |(n, word)| {
            let first = ((from + n) as u64) << 6;
            let valid = match self.chunks.saturating_sub(first) {
                0 => 0,
                left @ 1..=63 => (1 << left) - 1,
                _ => !0,
            };
            if full {
                valid
            } else {
                word & valid
            }
        };
        words
            .unwrap_or(&[])
            .iter()
            .map(AtomicU64::load)
            .enumerate()
            .map(mask)
    }

    /// Whether all is dirty whatever the words say.
    pub(super) fn is_full(&self, member: MemberId) -> bool {
        self.full().contains(member)
    }

    /// Members of which all is dirty.
    pub(super) fn full(&self) -> MemberSet {
        MemberSet::from_bits(self.full.load())
    }

    /// Every chunk of these members is dirty.
    pub(super) fn fill(&self, members: MemberSet) {
        change(&self.full, |full| full | members.bits());
    }

    /// Whether a chunk is dirty.
    pub(super) fn get(&self, member: MemberId, chunk: u64) -> bool {
        self.is_full(member)
            || usize::try_from(chunk >> 6)
                .ok()
                .and_then(|n| self.of(member).get(n))
                .is_some_and(|word| word.load() >> (chunk & 63) & 1 == 1)
    }

    /// Marks chunks, which must lie in the volume, in the bitmaps of `members`.
    pub(super) fn mark(&self, members: MemberSet, chunks: Range<u64>) {
        if chunks.start == 0 && chunks.end >= self.chunks {
            return self.fill(members);
        }
        for member in members {
            self.apply(member, chunks.clone(), |word, bits| word | bits);
        }
    }

    /// Clears chunks. Not of a bitmap that is full.
    pub(super) fn clear(&self, member: MemberId, chunks: Range<u64>) {
        self.apply(member, chunks, |word, bits| word & !bits);
    }

    fn apply(&self, member: MemberId, chunks: Range<u64>, how: impl Fn(u64, u64) -> u64) {
        let mut next = chunks.start;
        let end = chunks.end.min(self.chunks);
        while next < end {
            let stop = ((next | 63) + 1).min(end);
            let bits = (!0 >> (64 - (stop - next))) << (next & 63);
            let place = usize::try_from(next >> 6).unwrap_or(usize::MAX);
            self.change_word(member, place, |word| how(word, bits));
            next = stop;
        }
    }

    fn change_word(&self, member: MemberId, place: usize, how: impl Fn(u64) -> u64) {
        let Some(word) = self.of(member).get(place) else {
            return;
        };
        let mut old = word.load();
        loop {
            let new = how(old);
            if new == old {
                return;
            }
            match word.cas(old, new) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        if let Some(page) = self.changed_of(member).get(place / BITMAP_PAGE_WORDS) {
            // Not `store`: see `take_changed`.
            page.swap(1);
        }
    }

    /// Ors a page from elsewhere into a bitmap.
    pub(super) fn merge(&self, member: MemberId, page: usize, words: impl Iterator<Item = u64>) {
        let from = page.saturating_mul(BITMAP_PAGE_WORDS);
        for (n, bits) in words.take(BITMAP_PAGE_WORDS).enumerate() {
            self.change_word(member, from.saturating_add(n), |word| {
                if on(Bug::ReplaceBitmap) {
                    bits
                } else {
                    word | bits
                }
            });
        }
    }

    /// Ors the bitmaps of `from` into that of `member`.
    pub(super) fn collect(&self, member: MemberId, from: MemberSet) {
        for other in from.without(member) {
            if self.is_full(other) {
                self.fill(MemberSet::only(member));
            }
            for page in 0..self.pages {
                self.merge(member, page, self.page(other, page));
            }
        }
    }

    /// Says with words what a full bitmap says without.
    pub(super) fn spell_out(&self, member: MemberId) {
        if self.is_full(member) {
            self.apply(member, 0..self.chunks, |word, bits| word | bits);
            self.touch(member);
            change(&self.full, |full| full & !MemberSet::only(member).bits());
        }
    }

    /// Empties the bitmaps of `members`: nothing of them needs to get to disk.
    pub(super) fn empty(&self, members: MemberSet) {
        change(&self.full, |full| full & !members.bits());
        for member in members {
            for word in self.of(member) {
                if word.peek() != 0 {
                    word.store(0);
                }
            }
            for page in self.changed_of(member) {
                page.store(0);
            }
        }
    }

    /// How many chunks are dirty.
    pub(super) fn count(&self, member: MemberId) -> u64 {
        if self.is_full(member) {
            return self.chunks;
        }
        let ones = |word: &AtomicU64| u64::from(word.load().count_ones());
        self.of(member).iter().map(ones).sum()
    }

    /// The first dirty chunk from `from` on.
    pub(super) fn next(&self, member: MemberId, from: u64) -> Option<u64> {
        let words = self.of(member);
        let mut chunk = from;
        while chunk < self.chunks {
            let word = words.get(usize::try_from(chunk >> 6).ok()?)?.load();
            let rest = word >> (chunk & 63);
            if rest != 0 {
                let found = chunk + u64::from(rest.trailing_zeros());
                return (found < self.chunks).then_some(found);
            }
            chunk = (chunk | 63) + 1;
        }
        None
    }

    /// All pages of a bitmap are to be written.
    pub(super) fn touch(&self, member: MemberId) {
        for page in self.changed_of(member) {
            page.store(1);
        }
    }

    /// Every chunk of a page is dirty.
    pub(super) fn mark_page(&self, member: MemberId, page: usize) {
        let first = page as u64 * BITMAP_PAGE_CHUNKS;
        self.apply(member, first..first + BITMAP_PAGE_CHUNKS, |word, bits| {
            word | bits
        });
    }

    /// A page is as it is on disk.
    pub(super) fn settle_page(&self, member: MemberId, page: usize) {
        if let Some(page) = self.changed_of(member).get(page) {
            page.store(0);
        }
    }

    /// A page is to be written.
    pub(super) fn touch_page(&self, member: MemberId, page: usize) {
        if let Some(page) = self.changed_of(member).get(page) {
            page.store(1);
        }
    }

    /// The next page to be written, from page `from` of `member` on; it counts as written, and must be.
    pub(super) fn take_changed(&self, member: MemberId, from: usize) -> Option<usize> {
        let changed = self.changed_of(member);
        let page = (from..changed.len()).find(|page| {
            let flag = changed.get(*page);
            flag.is_some_and(|flag| flag.load() != 0)
        })?;
        // Before the words are read: a bit set meanwhile is written now or makes the page changed again. With `store` a CPU
        // may read the words first, and the other's flag be overwritten.
        changed.get(page)?.swap(0);
        Some(page)
    }

    /// Whether a bitmap has pages to be written.
    pub(super) fn is_changed(&self, member: MemberId) -> bool {
        self.changed_of(member).iter().any(|flag| flag.load() != 0)
    }
}

fn change(word: &AtomicU32, how: impl Fn(u32) -> u32) {
    let mut old = word.load();
    while let Err(now) = word.cas(old, how(old)) {
        old = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMemory;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn id(id: u32) -> MemberId {
        MemberId::new(id).unwrap()
    }

    /// Chunks of the volume: two pages, the last word of the second not full.
    const CHUNKS: u64 = BITMAP_PAGE_CHUNKS + 1000;

    fn bitmaps() -> Bitmaps<HostMemory> {
        let geometry = Geometry::new(CHUNKS << 12, 12).unwrap();
        Bitmaps::new(&HostMemory, &geometry).unwrap()
    }

    /// The words of all pages.
    fn content(bitmaps: &Bitmaps<HostMemory>, member: MemberId) -> Vec<u64> {
        let pages = (0..bitmaps.pages()).flat_map(|page| bitmaps.page(member, page));
        pages.collect()
    }

    fn is_set(words: &[u64], chunk: u64) -> bool {
        words[(chunk / 64) as usize] >> (chunk % 64) & 1 == 1
    }

    fn set(words: &mut [u64], chunks: Range<u64>, on: bool) {
        for chunk in chunks.start..chunks.end.min(CHUNKS) {
            let bit = 1 << (chunk % 64);
            let word = &mut words[(chunk / 64) as usize];
            *word = if on { *word | bit } else { *word & !bit };
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Mark(u64, u64),
        Clear(u64, u64),
        SpellOut,
        Empty,
    }

    fn step() -> impl Strategy<Value = Step> {
        let first = || prop_oneof![Just(0), 0..CHUNKS];
        let range = || (first(), prop_oneof![1u64..200, Just(CHUNKS)]);
        prop_oneof![
            4 => range().prop_map(|(first, len)| Step::Mark(first, len)),
            2 => range().prop_map(|(first, len)| Step::Clear(first, len)),
            1 => Just(Step::Mark(0, CHUNKS)),
            1 => Just(Step::SpellOut),
            1 => Just(Step::Empty),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Behaves like a set; and the pages on disk, with the set of full ones, are the same set at any time.
        #[test]
        fn behaves_like_a_set(steps in proptest::collection::vec(step(), 1..12)) {
            let (real, member) = (bitmaps(), id(7));
            let mut model = std::vec![0; 2 * BITMAP_PAGE_WORDS];
            let mut disk = model.clone();
            for step in steps {
                match step {
                    Step::Mark(first, len) => {
                        real.mark(MemberSet::only(member), first..(first + len).min(CHUNKS));
                        set(&mut model, first..first + len, true);
                    }
                    Step::Clear(first, len) => {
                        real.spell_out(member);
                        real.clear(member, first..first + len);
                        set(&mut model, first..first + len, false);
                    }
                    Step::SpellOut => real.spell_out(member),
                    Step::Empty => {
                        real.empty(MemberSet::only(member));
                        model.fill(0);
                        disk.fill(0);
                    }
                }
                let ones: u32 = model.iter().map(|word| word.count_ones()).sum();
                prop_assert_eq!(real.count(member), u64::from(ones));
                prop_assert_eq!(&content(&real, member), &model);
                prop_assert_eq!(real.get(member, 5), is_set(&model, 5));
                prop_assert!(!real.get(id(6), 5) && !real.get(id(8), CHUNKS - 1));
                let mut from = 0;
                while let Some(page) = real.take_changed(member, from) {
                    let place = page * BITMAP_PAGE_WORDS..(page + 1) * BITMAP_PAGE_WORDS;
                    disk[place.clone()].copy_from_slice(&content(&real, member)[place]);
                    from = page + 1;
                }
                if !real.is_full(member) {
                    prop_assert_eq!(&disk, &model);
                    for from in [0, 777, CHUNKS - 1] {
                        let next = (from..CHUNKS).find(|chunk| is_set(&model, *chunk));
                        prop_assert_eq!(real.next(member, from), next);
                    }
                }
            }
        }
    }

    #[test]
    fn collected() {
        let (real, own) = (bitmaps(), id(1));
        let others = MemberSet::only(id(2)).with(id(3)).with(own);
        real.mark(MemberSet::only(id(2)), 3..5);
        real.mark(
            MemberSet::only(id(3)),
            BITMAP_PAGE_CHUNKS..BITMAP_PAGE_CHUNKS + 1,
        );
        real.collect(own, others);
        let found = content(&real, own);
        let chunks = (0..CHUNKS).filter(|chunk| is_set(&found, *chunk));
        assert!(chunks.eq([3, 4, BITMAP_PAGE_CHUNKS]));
        real.fill(MemberSet::only(id(3)));
        real.collect(own, others);
        assert!(real.is_full(own));
    }

    fn to_be_written(bitmaps: &Bitmaps<HostMemory>, member: MemberId) -> Vec<usize> {
        let mut from = 0;
        let next = || {
            let page = bitmaps.take_changed(member, from)?;
            from = page + 1;
            Some(page)
        };
        core::iter::from_fn(next).collect()
    }

    #[test]
    fn pages_to_be_written() {
        let (real, own, other) = (bitmaps(), id(2), id(1));
        real.mark(MemberSet::only(own), 3..4);
        assert!(real.is_changed(own) && !real.is_changed(other));
        assert_eq!(to_be_written(&real, own), [0]);
        assert!(!real.is_changed(own));
        real.touch(own);
        assert!(!real.is_changed(other));
        real.settle_page(own, 0);
        assert_eq!(to_be_written(&real, own), [1]);
        real.touch_page(own, 1);
        assert_eq!(to_be_written(&real, own), [1]);
        // All words are as before, but nobody knows what is on disk.
        real.fill(MemberSet::only(own));
        real.spell_out(own);
        assert_eq!(to_be_written(&real, own), [0, 1]);
        real.fill(MemberSet::only(own));
        real.spell_out(own);
        assert_eq!(to_be_written(&real, own), [0, 1]);
    }

    #[test]
    fn a_whole_page() {
        let (real, own) = (bitmaps(), id(3));
        real.mark(MemberSet::only(own), CHUNKS - 5..CHUNKS - 4);
        real.mark_page(own, 1);
        assert_eq!(real.count(own), 1000);
        assert_eq!(real.next(own, 0), Some(BITMAP_PAGE_CHUNKS));
    }

    /// What lies behind the end is no chunk.
    #[test]
    fn behind_the_end() {
        let (real, own) = (bitmaps(), id(3));
        real.merge(own, 1, core::iter::repeat_n(!0, CHUNKS as usize));
        assert_eq!(real.next(own, CHUNKS - 1), Some(CHUNKS - 1));
        real.clear(own, CHUNKS - 1..CHUNKS);
        assert_eq!(real.next(own, CHUNKS - 1), None);
        assert_eq!(real.next(own, CHUNKS), None);
    }
}
