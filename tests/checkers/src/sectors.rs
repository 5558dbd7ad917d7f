// SPDX-License-Identifier: GPL-2.0

//! Something for each sector of a volume, of which most have nothing.
//!
//! Not a map: sectors are looked up by the million, and those that are used lie together.

use std::fmt;

/// Sectors of a part: those that are together in memory.
pub const PART: usize = 64;

/// A `T` for each sector; what was never set is `T::default()`.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Sectors<T> {
    pages: Vec<Option<Box<[T; PART]>>>,
}

impl<T: Clone + Default + PartialEq> Sectors<T> {
    /// Nothing anywhere.
    pub const fn new() -> Self {
        Sectors { pages: Vec::new() }
    }

    /// What a sector has, if anything was set near it.
    pub fn get(&self, sector: u64) -> Option<&T> {
        let page = self.pages.get(sector as usize / PART)?.as_ref()?;
        page.get(sector as usize % PART)
    }

    /// What a sector has.
    pub fn value(&self, sector: u64) -> T
    where
        T: Copy,
    {
        self.get(sector).copied().unwrap_or_default()
    }

    /// What the sectors of the part have that begins with this one; nothing if none was ever set there.
    pub fn values(&self, first: u64) -> &[T] {
        let page = self.pages.get(first as usize / PART);
        page.and_then(Option::as_deref).map_or(&[], |page| page)
    }

    /// What a sector has, to be changed.
    pub fn entry(&mut self, sector: u64) -> &mut T {
        let (page, place) = (sector as usize / PART, sector as usize % PART);
        if page >= self.pages.len() {
            self.pages.resize(page + 1, None);
        }
        let page =
            self.pages[page].get_or_insert_with(|| Box::new(std::array::from_fn(|_| T::default())));
        &mut page[place]
    }

    /// Gives a sector something else; returns what it had.
    pub fn set(&mut self, sector: u64, value: T) -> T {
        let (page, place) = (sector as usize / PART, sector as usize % PART);
        let known = self.pages.get_mut(page).and_then(Option::as_mut);
        match known.and_then(|page| page.get_mut(place)) {
            Some(known) => std::mem::replace(known, value),
            None if value == T::default() => value,
            None => std::mem::replace(self.entry(sector), value),
        }
    }

    /// The sectors that have something, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.pages().flat_map(|(first, page)| {
            let sectors = (first..).zip(page);
            sectors.filter(|(_, value)| **value != T::default())
        })
    }

    /// First sectors of the parts where something was set, in order.
    pub fn parts(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages().map(|(first, _)| first)
    }

    /// The sectors of the part that this one is in.
    pub fn part(sector: u64) -> std::ops::Range<u64> {
        let first = sector - sector % PART as u64;
        first..first + PART as u64
    }

    fn pages(&self) -> impl Iterator<Item = (u64, &[T])> {
        let pages = (0..).step_by(PART).zip(&self.pages);
        pages.filter_map(|(first, page)| Some((first, page.as_deref()?.as_slice())))
    }
}

impl<T: Clone + Default + PartialEq + fmt::Debug> fmt::Debug for Sectors<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_apart() {
        let mut sectors = Sectors::new();
        assert_eq!(sectors.set(1000, 0), 0);
        assert_eq!((sectors.value(1000), sectors.parts().count()), (0, 0));
        assert_eq!((sectors.set(1000, 5), sectors.set(1000, 6)), (0, 5));
        *sectors.entry(3) = 7;
        assert_eq!(sectors.iter().collect::<Vec<_>>(), [(3, &7), (1000, &6)]);
        assert_eq!(sectors.parts().collect::<Vec<_>>(), [0, 960]);
        assert_eq!(Sectors::<u64>::part(1000), 960..1024);
        assert_eq!(
            (sectors.values(960).get(40), sectors.values(64)),
            (Some(&6), &[][..])
        );
        assert_eq!(format!("{sectors:?}"), "{3: 7, 1000: 6}");
    }
}
