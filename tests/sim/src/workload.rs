// SPDX-License-Identifier: GPL-2.0

//! What the application asks of the disk.

use crate::plan::Work;
use crate::plan::MS;
use crate::plan::SECOND;
use crate::plan::US;
use crate::queue::Nanos;
use crate::random::Purpose;
use crate::random::Random;
use litemap::LiteMap;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// Reads.
    Read,
    /// Writes; stable when acknowledged if so.
    Write(bool),
    /// Writes zeroes; stable when acknowledged if so.
    Zeroes(bool),
    /// Makes stable what was acknowledged.
    Flush,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Its number in the run, from 1.
    pub op: u64,
    /// What it does.
    pub what: What,
    /// First sector.
    pub sector: u64,
    /// How many; 0 for a flush.
    pub count: u64,
}

impl Request {
    /// What a write gives to each of its sectors: a value no other write of the run has.
    pub fn values(&self) -> Vec<u64> {
        match self.what {
            What::Write(_) => (0..self.count)
                .map(|index| self.op << 16 | (index + 1))
                .collect(),
            What::Zeroes(_) => vec![0; self.count as usize],
            What::Read | What::Flush => Vec::new(),
        }
    }

    /// Whether it changes the disk.
    pub fn is_write(&self) -> bool {
        matches!(self.what, What::Write(_) | What::Zeroes(_))
    }
}

/// Draws requests.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Requests that were given, and come before any that is drawn.
    given: VecDeque<Request>,
    random: Random,
    work: Work,
    sectors: u64,
    spots: Vec<u64>,
    left: u32,
    op: u64,
    /// Requests that certain threads make next, by opening and thread.
    orders: LiteMap<(u32, u32), Request>,
    /// Sectors that were written: first and last one plus one, neither overlapping nor adjacent.
    written: BTreeMap<u64, u64>,
}

impl Workload {
    /// The workload of a run on a volume of so many sectors.
    pub fn new(seed: u64, work: Work, sectors: u64) -> Workload {
        let mut random = Random::new(seed, Purpose::Work);
        let spots = (0..work.spots).map(|_| random.below(sectors)).collect();
        Workload {
            given: VecDeque::new(),
            random,
            work,
            sectors,
            spots,
            left: work.ops,
            op: 0,
            orders: LiteMap::new(),
            written: BTreeMap::new(),
        }
    }

    /// These requests, and no others. Other numbers for requests ([`Workload::number`]) are above theirs.
    pub fn of(requests: impl IntoIterator<Item = Request>) -> Workload {
        let mut workload = Workload::new(0, Work::default(), 0);
        workload.given.extend(requests);
        let last = workload.given.iter().map(|request| request.op).max();
        workload.op = last.unwrap_or(0);
        workload
    }

    /// Requests that are not drawn yet.
    pub fn left(&self) -> u32 {
        self.left + self.given.len() as u32
    }

    /// No more requests.
    pub fn stop(&mut self) {
        self.given.clear();
        self.left = 0;
    }

    /// The next request of a thread is this one; its number.
    pub fn give(&mut self, by: (u32, u32), what: What, sector: u64, count: u64) -> u64 {
        let op = self.number();
        let request = Request {
            op,
            what,
            sector,
            count,
        };
        if request.is_write() {
            self.note(sector, sector + count);
        }
        self.orders.insert(by, request);
        op
    }

    /// The next request of a thread; `None` if that were all.
    pub fn next(&mut self, opening: u32, thread: u32) -> Option<Request> {
        let order = self.orders.remove(&(opening, thread));
        order.or_else(|| self.draw())
    }

    /// A number for a request that is not of the workload.
    pub fn number(&mut self) -> u64 {
        self.op += 1;
        self.op
    }

    /// How long to wait before the next request.
    pub fn pause(&mut self) -> Nanos {
        if self.random.chance(self.work.idle, 1000) {
            return self.random.scaled(SECOND, 10 * SECOND);
        }
        if !self.random.chance(1, self.work.burst.max(1)) {
            // Right behind the one before.
            return 0;
        }
        if self.random.chance(1, 2) {
            return self.random.scaled(US, 10 * MS);
        }
        let longest = self.work.pause * u64::from(self.work.depth);
        self.random.below(longest)
    }

    fn note(&mut self, mut begin: u64, mut end: u64) {
        while let Some((&first, &last)) = self.written.range(..=end).next_back() {
            if last < begin {
                break;
            }
            self.written.remove(&first);
            begin = begin.min(first);
            end = end.max(last);
        }
        self.written.insert(begin, end);
    }

    /// What was written: first sectors, and how many.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let ranges = self.written.iter();
        ranges.map(|(&begin, &end)| (begin, end - begin)).collect()
    }

    /// The next request; `None` if that were all.
    pub fn draw(&mut self) -> Option<Request> {
        if let Some(request) = self.given.pop_front() {
            if request.is_write() {
                self.note(request.sector, request.sector + request.count);
            }
            return Some(request);
        }
        self.left = self.left.checked_sub(1)?;
        let op = self.number();
        let kind = self.random.below(100);
        let what = if kind < self.work.flushes {
            What::Flush
        } else if kind < self.work.flushes + self.work.reads {
            What::Read
        } else {
            let fua = self.random.chance(self.work.fua, 100);
            if self.random.chance(self.work.zeroes, 100) {
                What::Zeroes(fua)
            } else {
                What::Write(fua)
            }
        };
        let (mut sector, mut count) = (0, 0);
        if what != What::Flush {
            let spot = self.random.pick(&self.spots).unwrap_or(0);
            sector = spot + self.random.below(self.work.spread);
            count = self.random.scaled(1, self.work.longest);
            if self.random.chance(2, 3) {
                // Whole blocks of 4 KiB.
                sector &= !7;
                count = count.next_multiple_of(8);
            }
            sector %= self.sectors;
            count = count.min(self.sectors - sector);
        }
        if matches!(what, What::Write(_) | What::Zeroes(_)) {
            self.note(sector, sector + count);
        }
        Some(Request {
            op,
            what,
            sector,
            count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Kinds;
    use crate::plan::Cut;
    use crate::plan::Plan;
    use std::collections::HashSet;

    #[test]
    fn requests() {
        for seed in 0..50 {
            let plan = Plan::draw(seed, Kinds::NONE, &Cut::default());
            let sectors = plan.size / 512;
            let mut workload = Workload::new(seed, plan.work, sectors);
            let mut values = HashSet::new();
            let mut count = 0;
            while let Some(request) = workload.draw() {
                count += 1;
                assert!(request.sector + request.count <= sectors);
                assert_eq!(request.count == 0, request.what == What::Flush);
                for value in request.values() {
                    assert!(value == 0 || values.insert(value));
                }
            }
            assert_eq!(count, plan.work.ops);
        }
    }
}
