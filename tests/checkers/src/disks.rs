// SPDX-License-Identifier: GPL-2.0

//! Copies compared with each other, and differences with what members remember (R11).
//!
//! The *completed content* of a sector is the value of the last completed write. While writes to it are neither
//! complete nor known to be void (in flight, failed, or of a client that is gone), the content is any of theirs as well:
//! one of them for all members. An attach decides: from then on it is what the in-sync members hold.
//!
//! R11, as it is checked here: there is a content of the sector such that for every member `m` whose copy is another, its
//! chunk is
//!
//! * in `D[m]` of **every** other member in sync of the last complete configuration (or, while one is being installed, of
//!   that), or
//! * in `D[m]` of `m` itself, or in what `m` would report as suspect now;
//! * in `D[s]` of `m`, of a member `s` in sync, while `m` itself receives nothing: what `m` knows that `s` missed. When `m` is taken
//!   back, that goes into its own D before it counts as a copy (finding 16), and until then nobody reads it.
//!
//! That a member in sync would report the chunk as suspect says nothing for another one: with a quorum, others may start without
//! it. So who catches up and pulls what a member in sync was sent, before it is sent that itself, has to keep the chunk dirty (R13).
//!
//! Of an attach, who counts as in sync and who is in the table are those of what it installs: it may leave out a member, as a
//! change of the table does that was not completed, and then nobody marks for that one.
//!
//! A member that is not up will make suspects of all its activity log, and put that into its D of all others, before it
//! says anything. So for such a member, as `m` and as keeper of a D, its log counts as well. The log of a member that is
//! up does not count: nothing would ever make suspects of it.
//!
//! A sector that a member itself answers as unreadable (R17) is no copy: nobody gets what it holds, so that does not matter until
//! the member answers it again. That what it gets then is right is for this rule, that nothing is read meanwhile for `history`.
//!
//! *In sync implies equal*: when nothing is in flight, the members in sync hold the same, but for what is marked as above.
//!
//! Not here: whether the content is the right one (`history`).

use crate::contains;
use crate::members;
use crate::sectors::Sectors;
use crate::sectors::PART;
use crate::violation::Rule;
use crate::violation::Time;
use crate::violation::Violation;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::hash::Hash;
use std::hash::Hasher;
use std::ops::Range;

/// What members remember; of a member that is up in its memory, else on its disk.
pub trait Marks {
    /// The member runs, and has made suspects of what it found in its log when it started.
    fn up(&self, member: u8) -> bool;
    /// The chunk is in D\[of\] of `holder`.
    fn dirty(&self, holder: u8, of: u8, chunk: u64) -> bool;
    /// Takes away the bits of chunks that are not in D\[of\] of `holder`, 64 chunks a word. It may take away others, which are
    /// asked for one by one then.
    fn keep_dirty(&self, holder: u8, of: u8, words: &mut [u64]) {
        for (chunk, word) in (0..).step_by(64).zip(words) {
            for bit in 0..64 {
                if *word >> bit & 1 == 1 && !self.dirty(holder, of, chunk + bit) {
                    *word &= !(1 << bit);
                }
            }
        }
    }
    /// `member` would report the chunk as suspect if it was promised now: what is durable, and what it knows of the
    /// writes above the watermark.
    fn suspect(&self, member: u8, chunk: u64) -> bool;
    /// `member` serves a configuration in which it is a receiver.
    fn receives(&self, member: u8) -> bool;
    /// The extent of the chunk is in the activity log on the disk of `member`.
    fn logged(&self, member: u8, chunk: u64) -> bool;
}

/// Who is what in a configuration, as sets of members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Roles {
    /// Members of the pool.
    pub table: u32,
    /// Those that have all that was completed.
    pub in_sync: u32,
    /// Those that are sent all that is new.
    pub catching_up: u32,
}

/// Size of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Sectors of the volume.
    pub sectors: u64,
    /// Sectors of a chunk, a power of two.
    pub chunk_sectors: u64,
}

/// What is known of the content of a sector.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
struct Sector {
    /// The value of the last completed write.
    content: u64,
    /// Writes that may be the content too: their number and value.
    open: Vec<(u64, u64)>,
}

impl Sector {
    const fn new() -> Sector {
        Sector {
            content: 0,
            open: Vec::new(),
        }
    }

    /// What it may be, by number; the completed content again if there is no such write.
    fn candidate(&self, number: usize) -> u64 {
        let open = number.checked_sub(1).and_then(|place| self.open.get(place));
        open.map_or(self.content, |&(_, value)| value)
    }

    fn candidates(&self) -> impl Iterator<Item = u64> + '_ {
        std::iter::once(self.content).chain(self.open.iter().map(|&(_, value)| value))
    }
}

/// What sectors of a chunk have in common: for each of the possible contents, the members that hold it, as a set.
#[derive(Clone, Debug, Default)]
struct Pattern {
    sets: SmallVec<[u32; 4]>,
    /// How many sectors are so.
    sectors: u32,
}

/// The sectors of a chunk on which a member differs from a possible content.
#[derive(Clone, Debug)]
struct Differing {
    /// The first sector of the chunk.
    first: u64,
    /// By sector, 1 + the place of its pattern; 0 where nobody differs.
    places: Box<[u32]>,
    /// Most sectors are as their neighbours, so these are few.
    patterns: Vec<Pattern>,
    /// How many sectors differ.
    count: u32,
}

impl Differing {
    fn new(first: u64, sectors: u64) -> Differing {
        Differing {
            first,
            places: vec![0; sectors as usize].into(),
            patterns: Vec::new(),
            count: 0,
        }
    }

    /// Says how a sector differs: 1 + the place of a pattern, or 0 if it does not.
    fn set(&mut self, sector: u64, new: u32) {
        let Some(place) = self.places.get_mut((sector - self.first) as usize) else {
            return;
        };
        let old = std::mem::replace(place, new);
        if let Some(pattern) = self.pattern_mut(new) {
            pattern.sectors += 1;
            self.count += 1;
        }
        if let Some(pattern) = self.pattern_mut(old) {
            pattern.sectors -= 1;
            self.count -= 1;
        }
    }

    /// 1 + the place of a pattern.
    fn place(&mut self, sets: &[u32]) -> u32 {
        let mut known = self.patterns.iter();
        let found = known.position(|pattern| pattern.sectors > 0 && pattern.sets.iter().eq(sets));
        let place = found.unwrap_or_else(|| {
            let mut known = self.patterns.iter();
            let unused = known.position(|pattern| pattern.sectors == 0);
            unused.unwrap_or_else(|| {
                self.patterns.push(Pattern::default());
                self.patterns.len() - 1
            })
        });
        if found.is_none() {
            if let Some(pattern) = self.patterns.get_mut(place) {
                pattern.sets.clear();
                pattern.sets.extend_from_slice(sets);
            }
        }
        place as u32 + 1
    }

    fn pattern_mut(&mut self, place: u32) -> Option<&mut Pattern> {
        self.patterns.get_mut((place as usize).checked_sub(1)?)
    }

    /// Nobody differs anywhere.
    fn is_over(&self) -> bool {
        self.count == 0
    }

    /// How sectors differ.
    fn ways(&self) -> impl Iterator<Item = &[u32]> {
        let used = self.patterns.iter().filter(|pattern| pattern.sectors > 0);
        used.map(|pattern| pattern.sets.as_slice())
    }

    fn sectors(&self) -> impl Iterator<Item = u64> + '_ {
        let sectors = (self.first..).zip(&self.places);
        sectors
            .filter(|(_, place)| **place != 0)
            .map(|(sector, _)| sector)
    }
}

/// Which members' differences are remembered, asked for only where it matters.
struct Unmarked<F> {
    table: u32,
    asked: u32,
    marked: u32,
    ask: F,
}

impl<F: Fn(u8) -> bool> Unmarked<F> {
    /// Whether all of these are marked.
    fn excuses(&mut self, all: u32) -> bool {
        let all = all & self.table;
        for member in members(all & !self.asked) {
            self.asked |= crate::bit(member);
            if !(self.ask)(member) {
                return false;
            }
            self.marked |= crate::bit(member);
        }
        all & !self.marked == 0
    }
}

/// If fewer chunks than one of so many differ, their marks are asked for one by one.
const FEW: u64 = 128;

/// Where differences are remembered in dirty bitmaps, in a configuration: most of them are.
#[derive(Clone, Debug)]
struct Noted {
    roles: Roles,
    table: u32,
    /// By member, from 1: a bit for each chunk.
    words: SmallVec<[Vec<u64>; 8]>,
}

impl Noted {
    /// Whether it is remembered of all others in the table that they may differ in a chunk.
    fn excuses(&self, chunk: u64, set: u32) -> bool {
        let (place, bit) = (chunk as usize / 64, chunk % 64);
        members(self.table & !set).all(|member| {
            let words = self.words.get(usize::from(member).wrapping_sub(1));
            let word = words.and_then(|words| words.get(place));
            word.is_some_and(|word| word >> bit & 1 == 1)
        })
    }

    /// Adds the chunks that are not noted any more.
    fn add_missing(&self, before: &Noted, chunks: &mut [u64]) {
        for (now, before) in self.words.iter().zip(&before.words) {
            for (chunks, (now, before)) in chunks.iter_mut().zip(now.iter().zip(before)) {
                *chunks |= before & !now;
            }
        }
    }
}

/// An application's write.
#[derive(Clone, Debug, Hash)]
struct Written {
    sector: u64,
    values: Vec<u64>,
}

/// What members hold, and what they should hold.
#[derive(Clone, Debug, Default)]
struct Held {
    /// By member, from 1.
    copies: Vec<Sectors<u64>>,
    sectors: Sectors<Sector>,
    /// Who answers a sector as unreadable, as a set.
    unread: Sectors<u32>,
}

impl Held {
    fn value(&self, member: u8, sector: u64) -> u64 {
        let copy = self.copies.get(usize::from(member).wrapping_sub(1));
        copy.map_or(0, |copy| copy.value(sector))
    }

    fn can_read(&self, member: u8, sector: u64) -> bool {
        !contains(self.unread.value(sector), member)
    }

    /// What is known of the sectors of the part that this one is in, and of the copies of these members.
    fn near(&self, table: u32, sector: u64) -> Near<'_> {
        let first = Sectors::<u64>::part(sector).start;
        let copy = |member: u8| self.copies.get(usize::from(member).wrapping_sub(1));
        let copies = members(table).map(|member| {
            let values = copy(member).map_or(&[][..], |copy| copy.values(first));
            (crate::bit(member), values)
        });
        Near {
            first,
            table,
            copies: copies.collect(),
            sectors: self.sectors.values(first),
            unread: self.unread.values(first),
        }
    }
}

/// What is known of some sectors that lie together.
struct Near<'a> {
    first: u64,
    table: u32,
    /// Of each member, as a set: what it holds.
    copies: SmallVec<[(u32, &'a [u64]); 8]>,
    sectors: &'a [Sector],
    unread: &'a [u32],
}

impl Near<'_> {
    /// The completed content is the only possible one, and all of these members hold it.
    fn is_clear(&self, sector: u64) -> bool {
        let place = (sector - self.first) as usize;
        let state = self.sectors.get(place);
        let content = state.map_or(0, |state| state.content);
        let mut values = self.copies.iter().map(|(_, copy)| copy.get(place));
        state.is_none_or(|state| state.open.is_empty())
            && values.all(|value| value.copied().unwrap_or_default() == content)
    }

    /// For each possible content of these sectors, and for each of them, those of the members that hold it: all for the first content,
    /// then all for the next. What has fewer possible contents than another one has one of them twice.
    fn agreeing(&self, sectors: &Range<u64>) -> SmallVec<[u32; 2 * PART]> {
        let begin = (sectors.start - self.first) as usize;
        let places = begin..begin + (sectors.end - sectors.start) as usize;
        let zeroes = [0; PART];
        let closed = [const { Sector::new() }; PART];
        let no_copy = [0; PART];
        let unread = self.unread.get(places.clone()).unwrap_or(&zeroes);
        let states = self.sectors.get(places.clone()).unwrap_or(&closed);
        let open = states.iter().map(|state| state.open.len()).max();
        let mut sets = SmallVec::new();
        for layer in 0..1 + open.unwrap_or(0) {
            let from = sets.len();
            // What nobody gets differs from nothing.
            sets.extend(places.clone().zip(unread).map(|(_, set)| set & self.table));
            for (member, values) in &self.copies {
                let values = values.get(places.clone()).unwrap_or(&no_copy);
                for ((set, state), value) in sets[from..].iter_mut().zip(states).zip(values) {
                    *set |= if state.candidate(layer) == *value {
                        *member
                    } else {
                        0
                    };
                }
            }
        }
        sets
    }
}

/// How many words have a bit for each chunk.
fn words(chunks: u64) -> usize {
    chunks.div_ceil(64) as usize
}

fn set_bit(words: &mut [u64], chunk: u64) {
    if let Some(word) = words.get_mut(chunk as usize / 64) {
        *word |= 1 << (chunk % 64);
    }
}

/// Sets, each once, in order.
fn distinct(sets: impl Iterator<Item = u32>) -> SmallVec<[u32; 4]> {
    let mut sets: SmallVec<[u32; 4]> = sets.collect();
    sets.sort_unstable();
    sets.dedup();
    sets
}

/// The copies of all members, and the content they should have.
///
/// What was never written holds 0, everywhere.
#[derive(Clone, Debug)]
pub struct Disks {
    geometry: Geometry,
    held: Held,
    writes: BTreeMap<u64, Written>,
    /// Of the last complete configuration.
    roles: Roles,
    /// Of those that some, not all, of their receivers have persisted.
    installing: Vec<Roles>,
    /// Chunks to be looked at, in any order, some more than once.
    touched: Vec<u64>,
    /// What was noted when all chunks were looked at, one for each of [`Disks::may_be_so`]; nothing if that was not asked for.
    noted: SmallVec<[Noted; 2]>,
    /// A bit for each chunk that has changed since then, or differed where that was not noted.
    unclear: Vec<u64>,
    /// By chunk.
    differing: FxHashMap<u64, Differing>,
    /// Some that are over, to be used again.
    spare: Vec<Differing>,
    /// Sectors that each member answers as unreadable; nothing for one that never had any.
    unreadable: BTreeMap<u8, Vec<u64>>,
}

impl Hash for Disks {
    /// Where and how copies differ follows from what they hold, and who answers what from the lists.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.geometry.hash(state);
        self.held.copies.hash(state);
        self.held.sectors.hash(state);
        self.writes.hash(state);
        self.roles.hash(state);
        self.installing.hash(state);
        self.touched.hash(state);
        self.unreadable.hash(state);
    }
}

impl Disks {
    /// A new pool of these members, all in sync and all zero. A chunk size of 0 is taken as 1.
    pub fn new(geometry: Geometry, table: u32) -> Disks {
        let chunk_sectors = geometry.chunk_sectors.max(1);
        Disks {
            geometry: Geometry {
                chunk_sectors,
                ..geometry
            },
            held: Held::default(),
            writes: BTreeMap::new(),
            roles: Roles {
                table,
                in_sync: table,
                catching_up: 0,
            },
            installing: Vec::new(),
            touched: Vec::new(),
            noted: SmallVec::new(),
            unclear: vec![0; words(geometry.sectors.div_ceil(chunk_sectors))],
            differing: FxHashMap::default(),
            spare: Vec::new(),
            unreadable: BTreeMap::new(),
        }
    }

    /// The visible content of sectors of a member's disk is this now, for whatever reason.
    pub fn wrote(&mut self, member: u8, sectors: impl IntoIterator<Item = (u64, u64)>) {
        let mut run = 0..0;
        for (sector, value) in sectors {
            if self.copy(member).set(sector, value) == value {
                continue;
            }
            self.changed_next(&mut run, sector);
        }
        self.changed(run);
    }

    /// The sectors that a member answers as unreadable; of one that is not up, that it will.
    pub fn unreadable(&mut self, member: u8, sectors: &[u64]) {
        let known = self.unreadable.get(&member).map_or(&[][..], Vec::as_slice);
        // Two empty slices would be compared by memcmp at addresses where nothing is, which is slow.
        if (known.is_empty() && sectors.is_empty()) || known == sectors {
            return;
        }
        let old: BTreeSet<u64> = known.iter().copied().collect();
        let new: BTreeSet<u64> = sectors.iter().copied().collect();
        self.unreadable.insert(member, sectors.to_vec());
        for &sector in old.symmetric_difference(&new) {
            *self.held.unread.entry(sector) ^= crate::bit(member);
            self.changed(sector..sector + 1);
        }
    }

    /// The member has another disk, all zero.
    pub fn replaced(&mut self, member: u8) {
        let old = std::mem::take(self.copy(member));
        for (sector, _) in old.iter() {
            self.changed(sector..sector + 1);
        }
    }

    /// A client began a write.
    pub fn started(&mut self, op: u64, sector: u64, values: &[u64]) {
        for (sector, &value) in (sector..).zip(values) {
            self.held.sectors.entry(sector).open.push((op, value));
        }
        self.changed(sector..sector + values.len() as u64);
        let values = values.to_vec();
        self.writes.insert(op, Written { sector, values });
    }

    /// A write was acknowledged.
    pub fn completed(&mut self, op: u64) {
        let Some(write) = self.writes.remove(&op) else {
            return;
        };
        for (sector, &value) in (write.sector..).zip(&write.values) {
            let state = self.held.sectors.entry(sector);
            // Writes that were given up before may not come up again now; those under way may.
            let still_running = &self.writes;
            state
                .open
                .retain(|(other, _)| still_running.contains_key(other));
            state.content = value;
        }
        self.changed(write.sector..write.sector + write.values.len() as u64);
    }

    /// A write was answered with an error, or its client is gone: it is there or not, nobody knows where.
    pub fn failed(&mut self, op: u64) {
        self.writes.remove(&op);
    }

    /// The first of the receivers of a configuration has persisted it. The table stays what it is until it is complete: who was
    /// to leave is dropped if it never is, and has to be marked then.
    pub fn installing(&mut self, roles: Roles) {
        let table = self.roles.table;
        self.may_be(Roles { table, ..roles });
    }

    fn may_be(&mut self, roles: Roles) {
        if !self.installing.contains(&roles) {
            self.installing.push(roles);
        }
    }

    /// As [`Disks::installing`], of the first configuration of a generation: what its in-sync members hold may be the
    /// content from now on.
    ///
    /// They may have lost what was completed and not stable, and from this moment on do not call it suspect any more:
    /// the others have been told. Whether they may have lost it is for `history` to say. If this attach never
    /// completes, the next one decides anew.
    pub fn attaching(&mut self, roles: Roles) {
        self.may_be(roles);
        let mut run = 0..0;
        for sector in self.unclear(roles.in_sync & self.roles.table) {
            for member in members(roles.in_sync & self.roles.table) {
                if !self.held.can_read(member, sector) {
                    continue;
                }
                let value = self.held.value(member, sector);
                let state = self.held.sectors.entry(sector);
                if state.candidates().all(|candidate| candidate != value) {
                    state.open.push((u64::MAX, value));
                    self.changed_next(&mut run, sector);
                }
            }
        }
        self.changed(run);
    }

    /// A configuration is complete. What those hold that are not in its table is of no interest.
    pub fn configured(&mut self, roles: Roles) {
        let table = self.roles.table;
        self.roles = roles;
        self.installing.clear();
        if roles.table == table {
            self.touched.extend(self.differing.keys());
            return;
        }
        for part in self.known_parts() {
            self.changed(Sectors::<u64>::part(part));
        }
    }

    /// The first configuration of a generation is complete: what its in-sync members hold is the content.
    ///
    /// Where they differ, which a mark must excuse, it is one of what they hold.
    pub fn attached(&mut self, roles: Roles) {
        self.configured(roles);
        let mut run = 0..0;
        for sector in self.unclear(roles.in_sync & roles.table) {
            let mut held: Vec<u64> = members(roles.in_sync & roles.table)
                .filter(|&member| self.held.can_read(member, sector))
                .map(|member| self.held.value(member, sector))
                .collect();
            held.dedup();
            if held.is_empty() {
                // Nobody can say what it is, so it stays what it may be.
                continue;
            }
            let state = self.held.sectors.entry(sector);
            let still_running = &self.writes;
            state.open.retain(|(op, _)| still_running.contains_key(op));
            if let Some((first, others)) = held.split_first() {
                state.content = *first;
                state
                    .open
                    .extend(others.iter().map(|&value| (u64::MAX, value)));
            }
            self.changed_next(&mut run, sector);
        }
        self.changed(run);
    }

    /// Marks of a chunk were taken away: it is looked at in the next check.
    pub fn touch(&mut self, chunk: u64) {
        self.look_at(chunk);
    }

    /// Checks R11 where something changed since the last check.
    ///
    /// # Errors
    ///
    /// A sector that differs and is not marked.
    pub fn check_touched(&mut self, time: Time, marks: &impl Marks) -> Result<(), Violation> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        let result = touched
            .iter()
            .try_for_each(|&chunk| self.check_chunk(time, chunk, marks));
        touched.clear();
        self.touched = touched;
        result
    }

    /// Checks R11 wherever copies differ.
    ///
    /// # Errors
    ///
    /// A sector that differs and is not marked.
    pub fn check_all(&mut self, time: Time, marks: &impl Marks) -> Result<(), Violation> {
        self.touched.clear();
        let chunks = self.geometry.sectors.div_ceil(self.geometry.chunk_sectors);
        if self.differing.len() as u64 * FEW <= chunks {
            self.noted.clear();
            let wrong = self.differing.keys().filter_map(|&chunk| {
                let violation = self.check_chunk(time, chunk, marks).err()?;
                Some((chunk, violation))
            });
            let first = wrong.min_by_key(|(chunk, _)| *chunk);
            return first.map_or(Ok(()), |(_, violation)| Err(violation));
        }
        let noted = self.may_be_so();
        let noted = noted
            .map(|roles| self.noted(chunks, roles, marks))
            .collect();
        let before = std::mem::replace(&mut self.noted, noted);
        let mut unclear = std::mem::take(&mut self.unclear);
        let roles = |noted: &Noted| noted.roles;
        if before.iter().map(roles).eq(self.noted.iter().map(roles)) {
            for (now, before) in self.noted.iter().zip(&before) {
                now.add_missing(before, &mut unclear);
            }
        } else {
            for &chunk in self.differing.keys() {
                set_bit(&mut unclear, chunk);
            }
        }
        let mut result = Ok(());
        for (first, word) in (0..).step_by(64).zip(&mut unclear) {
            let mut left = *word;
            while left != 0 && result.is_ok() {
                let chunk = first + u64::from(left.trailing_zeros());
                if self.is_noted(chunk) {
                    *word &= !(left & left.wrapping_neg());
                } else {
                    result = self.check_chunk(time, chunk, marks);
                }
                left &= left - 1;
            }
        }
        self.unclear = unclear;
        result
    }

    /// Whether it was noted, at the last look at all chunks, wherever a chunk differs.
    fn is_noted(&self, chunk: u64) -> bool {
        let excused = |&set: &u32| self.noted.iter().any(|noted| noted.excuses(chunk, set));
        let differing = self.differing.get(&chunk);
        differing.is_none_or(|differing| differing.ways().all(|sets| sets.iter().any(excused)))
    }

    /// Checks, while no write is in flight, that the members in sync hold the completed content, but for what is marked.
    ///
    /// # Errors
    ///
    /// A sector that differs.
    pub fn check_equal(&mut self, time: Time, marks: &impl Marks) -> Result<(), Violation> {
        self.check_all(time, marks)?;
        let mut known: Vec<(&u64, &Differing)> = self.differing.iter().collect();
        known.sort_unstable_by_key(|(chunk, _)| *chunk);
        for (&chunk, differing) in known {
            for sector in differing.sectors() {
                let here = members(self.roles.in_sync & self.roles.table);
                let clean: Vec<u8> = here
                    .filter(|&member| self.held.can_read(member, sector))
                    .filter(|&member| !self.marked(member, chunk, self.roles, marks))
                    .collect();
                let Some(first) = clean.first() else { continue };
                let value = self.held.value(*first, sector);
                let candidate = self.held.sectors.get(sector).map_or(value == 0, |state| {
                    state.candidates().any(|candidate| candidate == value)
                });
                if !candidate
                    || clean
                        .iter()
                        .any(|&member| self.held.value(member, sector) != value)
                {
                    let what = format!("members in sync: {}", self.describe(sector, marks));
                    return Err(Violation::new(Rule::Unequal, time, what));
                }
            }
        }
        Ok(())
    }

    /// How many chunks of a member's copy differ from the completed content.
    pub fn differing(&self, member: u8) -> usize {
        let differs = |sector: u64| {
            let state = self.held.sectors.get(sector);
            self.held.value(member, sector) != state.map_or(0, |state| state.content)
        };
        self.differing
            .values()
            .filter(|differing| differing.sectors().any(differs))
            .count()
    }

    fn copy(&mut self, member: u8) -> &mut Sectors<u64> {
        let place = usize::from(member.max(1)) - 1;
        let copies = &mut self.held.copies;
        if place >= copies.len() {
            copies.resize(place + 1, Sectors::new());
        }
        &mut copies[place]
    }

    fn chunk_of(&self, sector: u64) -> u64 {
        sector / self.geometry.chunk_sectors
    }

    /// The sectors that may have another content than the completed one, or of which these members do not all hold that.
    fn unclear(&self, set: u32) -> Vec<u64> {
        let parts = self.known_parts().into_iter();
        let unclear = parts.flat_map(|part| {
            let near = self.held.near(set, part);
            Sectors::<u64>::part(part).filter(move |&sector| !near.is_clear(sector))
        });
        unclear.collect()
    }

    /// The first sectors of the parts they are in.
    fn known_parts(&self) -> BTreeSet<u64> {
        let held = self.held.copies.iter().flat_map(Sectors::parts);
        held.chain(self.held.sectors.parts()).collect()
    }

    fn look_at(&mut self, chunk: u64) {
        set_bit(&mut self.unclear, chunk);
        if self.touched.last() != Some(&chunk) {
            self.touched.push(chunk);
        }
    }

    /// Adds a sector that changed to a run of them, or begins another one with it. The last one is the caller's to end.
    fn changed_next(&mut self, run: &mut Range<u64>, sector: u64) {
        if !run.contains(&sector) && sector != run.end {
            self.changed(std::mem::replace(run, sector..sector));
        }
        run.end = run.end.max(sector + 1);
    }

    /// Brings `differing` up to date.
    fn changed(&mut self, sectors: Range<u64>) {
        let mut sector = sectors.start;
        while sector < sectors.end {
            let chunk = self.chunk_of(sector);
            let next = (chunk + 1) * self.geometry.chunk_sectors;
            let end = sectors.end.min(next);
            self.look_at(chunk);
            self.compare(chunk, sector..end);
            sector = end;
        }
    }

    /// Notes which sectors of a chunk differ.
    fn compare(&mut self, chunk: u64, sectors: Range<u64>) {
        let table = self.roles.table;
        let mut known = self.differing.remove(&chunk);
        let mut begin = sectors.start;
        while begin < sectors.end {
            let here = begin..sectors.end.min(Sectors::<u64>::part(begin).end);
            let count = (here.end - begin) as usize;
            begin = here.end;
            let agreeing = self.held.near(table, here.start).agreeing(&here);
            if known.is_none() && agreeing.iter().all(|&set| set == table) {
                continue;
            }
            let differing = known.get_or_insert_with(|| {
                let first = chunk * self.geometry.chunk_sectors;
                let spare = self.spare.pop().map(|spare| Differing { first, ..spare });
                spare.unwrap_or_else(|| Differing::new(first, self.geometry.chunk_sectors))
            });
            let mut place = 0;
            for (at, sector) in here.enumerate() {
                let of = |at| agreeing.iter().skip(at).step_by(count);
                // Most are as the one before.
                if at == 0 || of(at).ne(of(at - 1)) {
                    let sets = distinct(of(at).copied());
                    place = if sets.as_slice() == [table] {
                        0
                    } else {
                        differing.place(&sets)
                    };
                }
                differing.set(sector, place);
            }
        }
        match known {
            Some(differing) if differing.is_over() => self.spare.push(differing),
            Some(differing) => drop(self.differing.insert(chunk, differing)),
            None => {}
        }
    }

    fn check_chunk(&self, time: Time, chunk: u64, marks: &impl Marks) -> Result<(), Violation> {
        let Some(differing) = self.differing.get(&chunk) else {
            return Ok(());
        };
        let mut unmarked: SmallVec<[_; 2]> = self
            .may_be_so()
            .map(|roles| Unmarked {
                table: roles.table & self.roles.table,
                asked: 0,
                marked: 0,
                ask: move |member| self.marked(member, chunk, roles, marks),
            })
            .collect();
        let mut fits = |sets: &[u32]| {
            let excused = |marks: &mut Unmarked<_>, set: u32| marks.excuses(!set);
            sets.iter()
                .any(|&set| unmarked.iter_mut().any(|marks| excused(marks, set)))
        };
        if differing.ways().all(&mut fits) {
            return Ok(());
        }
        let mut sectors = differing.sectors();
        let sector = sectors.find(|&sector| {
            let near = self.held.near(self.roles.table, sector);
            !fits(&near.agreeing(&(sector..sector + 1)))
        });
        let what = sector.map_or_else(String::new, |sector| self.describe(sector, marks));
        Err(Violation::new(Rule::Unmarked, time, what))
    }

    /// The roles of the last complete configuration, and of those that may be the next.
    fn may_be_so(&self) -> impl Iterator<Item = Roles> + '_ {
        std::iter::once(&self.roles)
            .chain(&self.installing)
            .copied()
    }

    /// Where differences are remembered in the bitmaps of all others in sync, or in a member's own, where these are the roles.
    fn noted(&self, chunks: u64, roles: Roles, marks: &impl Marks) -> Noted {
        let words = words(chunks);
        let table = roles.table & self.roles.table;
        let kept = |member| {
            let keepers = roles.in_sync & table & !crate::bit(member);
            let mut kept = vec![if keepers == 0 { 0 } else { !0 }; words];
            for keeper in members(keepers) {
                marks.keep_dirty(keeper, member, &mut kept);
            }
            let mut own = vec![!0; words];
            marks.keep_dirty(member, member, &mut own);
            for (word, own) in kept.iter_mut().zip(own) {
                *word |= own;
            }
            kept
        };
        let mut by_member: SmallVec<[Vec<u64>; 8]> = SmallVec::new();
        for member in members(table) {
            by_member.resize(usize::from(member) - 1, Vec::new());
            by_member.push(kept(member));
        }
        Noted {
            roles,
            table,
            words: by_member,
        }
    }

    /// Whether a difference of `member` in `chunk` is remembered, where these are the roles.
    fn marked(&self, member: u8, chunk: u64, roles: Roles, marks: &impl Marks) -> bool {
        let in_sync = roles.in_sync & roles.table & self.roles.table;
        let logged = |member| !marks.up(member) && marks.logged(member, chunk);
        let mut keepers = members(in_sync & !crate::bit(member)).peekable();
        let kept = keepers.peek().is_some()
            && keepers.all(|keeper| marks.dirty(keeper, member, chunk) || logged(keeper));
        // The others are rarer, and take longer to find out.
        let knows_better = || {
            !contains(in_sync, member)
                && !marks.receives(member)
                && members(in_sync).any(|other| marks.dirty(member, other, chunk))
        };
        kept || marks.dirty(member, member, chunk)
            || marks.suspect(member, chunk)
            || logged(member)
            || knows_better()
    }

    fn describe(&self, sector: u64, marks: &impl Marks) -> String {
        let chunk = self.chunk_of(sector);
        let state = self.held.sectors.get(sector).cloned().unwrap_or_default();
        let mut text = format!(
            "sector {sector}, chunk {chunk}: completed {:#x}",
            state.content
        );
        for (op, value) in &state.open {
            text += &match op {
                &u64::MAX => format!(", or {value:#x}"),
                op => format!(", or {value:#x} of #{op}"),
            };
        }
        for member in members(self.roles.table) {
            let role = if contains(self.roles.in_sync, member) {
                "in sync"
            } else {
                "not in sync"
            };
            text += &format!(
                "; member {member} ({role}) has {:#x}",
                self.held.value(member, sector)
            );
            let kept: Vec<String> = members(self.roles.table)
                .filter(|&keeper| marks.dirty(keeper, member, chunk))
                .map(|keeper| keeper.to_string())
                .collect();
            if !kept.is_empty() {
                text += &format!(", dirty on {}", kept.join(" and "));
            }
            for (is, word) in [
                (!marks.up(member), "down"),
                (marks.suspect(member, chunk), "suspect"),
                (marks.logged(member, chunk), "logged"),
            ] {
                if is {
                    text = text + ", " + word;
                }
            }
        }
        text
    }
}
