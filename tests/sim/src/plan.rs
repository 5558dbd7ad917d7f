// SPDX-License-Identifier: GPL-2.0

//! What is drawn for a run before it begins: the world, the workload, and which faults happen when.
//!
//! Faults that hit a moment are a list, so that shrinking can leave out each by itself; faults that hit
//! messages and disk accesses at random are rates. A run is thus given by its seed and a [`Cut`].

use crate::faults::Kind;
use crate::faults::Kinds;
use crate::queue::Nanos;
use crate::random::Purpose;
use crate::random::Random;
use crate::story;
use rmr_proto::Geometry;
use rmr_proto::BITMAP_PAGE_CHUNKS;
use rmr_proto::EXTENT_SHIFT;
use std::collections::BTreeSet;
use std::fmt;

/// Nanoseconds of a microsecond.
pub const US: Nanos = 1000;
/// Nanoseconds of a millisecond.
pub const MS: Nanos = 1000 * US;
/// Nanoseconds of a second.
pub const SECOND: Nanos = 1000 * MS;

/// What a fault waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// So many steps of the protocol: a message of a change is sent, a configuration or promise is on a disk, a client
    /// changes its state.
    Steps(u64),
    /// So many writes and flushes that are sent.
    Writes(u64),
    /// So many chunks that are pulled.
    Pulls(u64),
}

impl Wait {
    fn draw(random: &mut Random) -> Option<Wait> {
        match random.below(6) {
            0 | 1 => Some(Wait::Steps(random.scaled(1, 16))),
            2 => Some(Wait::Writes(random.scaled(1, 64))),
            3 => Some(Wait::Pulls(random.scaled(1, 64))),
            _ => None,
        }
    }

    /// The moment itself, if it is now that.
    pub fn after(self, now: Moment) -> Moment {
        let mut moment = Moment::default();
        match self {
            Wait::Steps(steps) => moment.steps = now.steps + steps,
            Wait::Writes(writes) => moment.writes = now.writes + writes,
            Wait::Pulls(pulls) => moment.pulls = now.pulls + pulls,
        }
        moment
    }
}

/// What has happened so far of what faults wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Steps of the protocol.
    pub steps: u64,
    /// Writes and flushes.
    pub writes: u64,
    /// Chunks pulled.
    pub pulls: u64,
}

impl Moment {
    /// Whether it is now that, or later.
    pub fn has_come(self, now: Moment) -> bool {
        now.steps >= self.steps && now.writes >= self.writes && now.pulls >= self.pulls
    }
}

/// A fault that hits at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its place in the list of the whole plan.
    pub place: usize,
    /// When.
    pub at: Nanos,
    /// What.
    pub kind: Kind,
    /// Whom; drawn when it hits if `None`.
    pub whom: Option<u8>,
    /// What it waits for from then on, so that it hits in the middle of what takes microseconds.
    pub wait: Option<Wait>,
    /// For how long, where it lasts.
    pub span: Nanos,
    /// How, and whom if that is not said, drawn here so that it is the same whatever else is left out.
    pub dice: u64,
}

/// Faults that hit each message or access with a probability, in millionths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Messages and answers that are lost.
    pub loss: u32,
    /// Messages that take long.
    pub delay: u32,
    /// Messages that arrive twice.
    pub duplicate: u32,
    /// Messages whose path fails over.
    pub failover: u32,
    /// Metadata writes that fail.
    pub meta_fail: u32,
    /// Metadata writes that are not done.
    pub meta_lost: u32,
    /// Metadata writes that go elsewhere.
    pub meta_misdirected: u32,
    /// Data reads that find a bad block.
    pub read_medium: u32,
    /// Data writes that fail.
    pub write_medium: u32,
    /// Flushes that fail.
    pub flush_fail: u32,
    /// Allocations that fail.
    pub no_memory: u32,
}

impl Rates {
    /// Those of these kinds.
    fn of(self, kinds: Kinds) -> Rates {
        let only = |kind, rate| if kinds.contains(kind) { rate } else { 0 };
        Rates {
            loss: only(Kind::Loss, self.loss),
            delay: only(Kind::Delay, self.delay),
            duplicate: only(Kind::Duplicate, self.duplicate),
            failover: only(Kind::Failover, self.failover),
            meta_fail: only(Kind::MetaFail, self.meta_fail),
            meta_lost: only(Kind::MetaLost, self.meta_lost),
            meta_misdirected: only(Kind::MetaMisdirected, self.meta_misdirected),
            read_medium: only(Kind::ReadMedium, self.read_medium),
            write_medium: only(Kind::WriteMedium, self.write_medium),
            flush_fail: only(Kind::FlushFail, self.flush_fail),
            no_memory: only(Kind::NoMemory, self.no_memory),
        }
    }
}

/// The workload.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Requests in all.
    pub ops: u32,
    /// Requests at once.
    pub depth: u32,
    /// Sectors around which most requests are.
    pub spots: u32,
    /// Sectors of a spot.
    pub spread: u64,
    /// Longest request in sectors.
    pub longest: u64,
    /// Reads of 100 requests.
    pub reads: u64,
    /// Flushes of 100 requests.
    pub flushes: u64,
    /// Writes of 100 that are FUA.
    pub fua: u64,
    /// Writes of 100 that write zeroes.
    pub zeroes: u64,
    /// Pauses between requests, at most.
    pub pause: Nanos,
    /// Requests of a thread in a row, about.
    pub burst: u64,
    /// Idle times in 1000 requests, of a second and more.
    pub idle: u64,
}

/// The world of a run, and what happens in it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed all is drawn from.
    pub seed: u64,
    /// Members of the pool at its creation.
    pub members: u8,
    /// Whether `quorum=majority`.
    pub quorum: bool,
    /// Size of the volume in bytes.
    pub size: u64,
    /// Binary logarithm of the chunk size in bytes.
    pub chunk_shift: u8,
    /// Extents the activity log of a member holds.
    pub log_extents: u32,
    /// Whether the disk of a member has a volatile cache, by member.
    pub volatile: Vec<bool>,
    /// The pool's `io_timeout`.
    pub io_timeout: Nanos,
    /// Whether IO fails at once when there is no data; else it is held.
    pub fail_without_data: bool,
    /// What a message takes at least.
    pub latency: Nanos,
    /// What an access to a disk takes at least.
    pub access: Nanos,
    /// After how long a transport without answer breaks the session.
    pub heartbeat: Nanos,
    /// The workload.
    pub work: Work,
    /// Random faults.
    pub rates: Rates,
    /// Faults at their times, in order.
    pub faults: Vec<Planned>,
    /// When everything is healed.
    pub heal: Nanos,
    /// Kinds that were drawn for this run.
    pub kinds: Kinds,
}

/// What is left out of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Kinds of faults.
    pub without: Kinds,
    /// Planned faults, by their place in the list.
    pub faults: BTreeSet<usize>,
    /// Requests of the workload from this one on.
    pub ops: Option<u32>,
}

impl fmt::Display for Cut {
    /// As arguments of the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.without != Kinds::NONE {
            write!(f, " --without {}", self.without)?;
        }
        if !self.faults.is_empty() {
            let list: Vec<String> = self.faults.iter().map(usize::to_string).collect();
            write!(f, " --skip {}", list.join(","))?;
        }
        if let Some(ops) = self.ops {
            write!(f, " --ops {ops}")?;
        }
        Ok(())
    }
}

impl Plan {
    /// Draws the plan of a seed. Of `allowed`, a random subset of kinds hits.
    pub fn draw(seed: u64, allowed: Kinds, cut: &Cut) -> Plan {
        let mut random = Random::new(seed, Purpose::Plan);
        let random = &mut random;
        let members = match random.below(10) {
            0..=3 => 2,
            4..=7 => 3,
            8 => 4,
            _ => 5,
        };
        let mut chunk_shift = random.between(14, 17) as u8;
        let log_extents = random.scaled(4, 32) as u32;
        let mut extents = random.scaled(2, 16);
        // Now and then, so many chunks that a bitmap has two pages.
        if random.chance(1, 100) {
            chunk_shift = Geometry::MIN_CHUNK_SHIFT;
            extents = (BITMAP_PAGE_CHUNKS << chunk_shift >> EXTENT_SHIFT) + 1;
        }
        let heal = random.scaled(4, 60) * SECOND;
        let quorum = random.chance(1, 4);
        let size = (extents << 22) + random.below(2) * 4096 * random.between(1, 1000);
        let caches = random.below(4);
        let volatile = (0..8).map(|_| caches > 0 && random.chance(4, 5)).collect();
        let io_timeout = random.scaled(1, 10) * SECOND;
        let fail_without_data = random.chance(1, 4);
        let latency = random.scaled(5, 500) * US;
        let access = random.scaled(5, 2000) * US;
        let heartbeat = random.scaled(200, 5000) * MS;
        let work = Plan::draw_work(random, heal);
        // Each kind is drawn whether it is allowed or not, so that the others stay the same.
        let calm = random.chance(1, 12);
        let share = random.scaled(1, 8);
        let drawn: Kinds = Kind::ALL
            .iter()
            .copied()
            // Drawn by itself, below.
            .filter(|&kind| kind != Kind::DeadBlock)
            .filter(|_| random.chance(share, 12) && !calm)
            // Only in a story. While two histories go on at once, nobody can say what is right.
            .filter(|&kind| kind != Kind::Force)
            .collect();
        let rates = Plan::draw_rates(random, drawn);
        let faults = Plan::draw_faults(random, drawn, heal, share);
        let mut plan = Plan {
            seed,
            members,
            quorum,
            size,
            chunk_shift,
            log_extents,
            volatile,
            io_timeout,
            fail_without_data,
            latency,
            access,
            heartbeat,
            work,
            rates,
            faults,
            heal,
            kinds: drawn,
        };
        let mut random = Random::new(seed, Purpose::Story);
        if random.chance(1, 3) && !calm {
            story::tell(&mut plan, &mut random);
        }
        let mut random = Random::new(seed, Purpose::Late);
        if random.chance(1, 12) && !calm {
            story::tell_late(&mut plan, &mut random);
        }
        let mut random = Random::new(seed, Purpose::Onward);
        if random.chance(1, 12) && !calm {
            story::tell_onward(&mut plan, &mut random);
        }
        let mut random = Random::new(seed, Purpose::Overtaken);
        if random.chance(1, 12) && !calm {
            story::tell_overtaken(&mut plan, &mut random);
        }
        let mut random = Random::new(seed, Purpose::Dead);
        if random.chance(1, 6) && !calm {
            plan.draw_dead(&mut random);
        }
        plan.cut(allowed, cut);
        plan
    }

    /// Leaves out what is not wanted.
    fn cut(&mut self, allowed: Kinds, cut: &Cut) {
        let is_in = |kind| allowed.contains(kind) && !cut.without.contains(kind);
        self.kinds = self.kinds.iter().filter(|&kind| is_in(kind)).collect();
        self.rates = self.rates.of(self.kinds);
        self.faults.sort_by_key(|fault| fault.at);
        for (place, fault) in self.faults.iter_mut().enumerate() {
            fault.place = place;
        }
        let kinds = self.kinds;
        self.faults
            .retain(|fault| kinds.contains(fault.kind) && !cut.faults.contains(&fault.place));
        if let Some(ops) = cut.ops {
            self.work.ops = self.work.ops.min(ops);
        }
    }

    /// Draws a workload that lasts about until `heal`.
    pub(crate) fn draw_work(random: &mut Random, heal: Nanos) -> Work {
        let ops = random.scaled(50, 3000);
        let average = heal / ops;
        let burst = random.scaled(2, 32);
        // Some workloads go to more extents than a log holds.
        let widest = if random.chance(1, 3) { 1 << 17 } else { 4096 };
        Work {
            ops: ops as u32,
            depth: random.scaled(1, 32) as u32,
            spots: random.scaled(1, 12) as u32,
            spread: random.scaled(8, widest),
            longest: random.scaled(1, 512),
            reads: random.between(10, 60),
            flushes: random.below(3) * random.below(6),
            fua: random.below(3) * random.below(15),
            zeroes: random.below(2) * random.below(20),
            // With pauses, the workload lasts about as long as the faults.
            pause: random.between(average, average * 3) * burst / 2,
            burst,
            idle: random.below(2) * random.below(6),
        }
    }

    fn draw_rates(random: &mut Random, kinds: Kinds) -> Rates {
        let mut rate = |high| random.scaled(100, high) as u32;
        let all = Rates {
            loss: rate(20_000),
            delay: rate(100_000),
            duplicate: rate(100_000),
            failover: rate(20_000),
            meta_fail: rate(5_000),
            meta_lost: rate(100_000),
            meta_misdirected: rate(100_000),
            read_medium: rate(20_000),
            write_medium: rate(5_000),
            flush_fail: rate(50_000),
            no_memory: rate(20_000),
        };
        all.of(kinds)
    }

    /// Blocks that nobody can read, besides all else: most while something is pulled.
    fn draw_dead(&mut self, random: &mut Random) {
        for _ in 0..random.scaled(1, 8) {
            let at = random.below(self.heal);
            let pulls = random.scaled(1, 16);
            let wait = random.chance(2, 3).then_some(Wait::Pulls(pulls));
            self.faults.push(Planned {
                place: 0,
                at,
                kind: Kind::DeadBlock,
                whom: None,
                wait,
                span: 0,
                dice: random.any(),
            });
        }
        self.kinds = self.kinds.with(Kind::DeadBlock);
    }

    fn draw_faults(random: &mut Random, drawn: Kinds, heal: Nanos, share: u64) -> Vec<Planned> {
        let kinds: Vec<Kind> = drawn.iter().filter(|kind| kind.is_moment()).collect();
        let count = random.scaled(1, 12) * share;
        let mut faults: Vec<Planned> = Vec::new();
        for _ in 0..count {
            let mut at = random.below(heal);
            // Now and then one follows closely on another.
            if let (Some(last), true) = (faults.last(), random.chance(1, 3)) {
                at = last.at + random.scaled(US, 500 * MS);
            }
            let span = random.scaled(MS, 8 * SECOND);
            let dice = random.any();
            let wait = Wait::draw(&mut Random::new(dice, Purpose::Moment));
            faults.extend(random.pick(&kinds).map(|kind| Planned {
                place: 0,
                at,
                kind,
                whom: None,
                wait,
                span,
                dice,
            }));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts() {
        let all = Kinds::all();
        for seed in 0..200 {
            let whole = Plan::draw(seed, all, &Cut::default());
            let Some(first) = whole.faults.first() else {
                continue;
            };
            let cut = Cut {
                faults: [first.place].into(),
                ..Cut::default()
            };
            let less = Plan::draw(seed, all, &cut);
            assert_eq!(less.faults, whole.faults[1..]);
            let cut = Cut {
                without: Kinds::NONE.with(first.kind),
                ..Cut::default()
            };
            let less = Plan::draw(seed, all, &cut);
            assert!(less.faults.iter().all(|fault| whole.faults.contains(fault)));
            assert_eq!(less.work.ops, whole.work.ops);
        }
    }
}
