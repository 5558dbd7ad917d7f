// SPDX-License-Identifier: GPL-2.0

//! The disk of a member with what befalls it: how long accesses take, and which of them fail.

use crate::disk::Access;
use crate::disk::Disk;
use crate::disk::Done;
use crate::disk::Failing;
use crate::env::Env;
use crate::env::Event;
use crate::plan::US;
use crate::queue::Nanos;
use crate::random::Random;
use rmr_proto::Layout;
use rmr_proto::MemberId;
use rmr_proto::Uuid;
use rmr_proto::LOG_PAGES;
use std::collections::BTreeSet;

/// A disk with a store, in the host of a member.
#[derive(Clone, Debug, Hash)]
pub struct Device {
    /// The disk.
    pub disk: Disk,
    /// UUID of the store on it.
    pub store: Uuid,
    /// UUID of its pool; nil if it has none.
    pub pool: Uuid,
    /// Nothing is done before.
    hung_until: Nanos,
    /// Everything takes long until then.
    slow_until: Nanos,
    /// Accesses in order: metadata is written one after the other.
    busy_until: Nanos,
}

impl Device {
    /// A disk.
    pub fn new(disk: Disk, store: Uuid, pool: Uuid) -> Device {
        Device {
            disk,
            store,
            pool,
            hung_until: 0,
            slow_until: 0,
            busy_until: 0,
        }
    }

    /// Begins an access; the event of its end has the number that is returned.
    pub fn begin(&mut self, env: &mut Env, member: u8, boot: u64, access: Access) -> u64 {
        let now = env.now();
        let base = env.plan.access;
        let mut took = base + env.disk.below(base);
        took += match &access {
            Access::Read(_, count) => count * US / 4,
            Access::Write(_, values, _) => values.len() as u64 * US / 4,
            Access::Flush => 2 * base,
            Access::Meta(..) => base / 2,
        };
        if self.slow_until > now {
            took *= 20 + env.disk.below(80);
        }
        let mut at = now.max(self.hung_until) + took;
        // A flush is not faster than what it is to make stable.
        if access == Access::Flush {
            at = at.max(self.busy_until);
        }
        self.busy_until = self.busy_until.max(at);
        let number = self.disk.begin(access);
        env.queue.at(at, Event::Disk(member, boot, number));
        number
    }

    /// Ends an access. `None` if it is over already; or it is not done yet, and there will be another event.
    pub fn end(
        &mut self,
        env: &mut Env,
        layout: &Layout,
        member: u8,
        boot: u64,
        number: u64,
    ) -> Option<Done> {
        let access = self.disk.access(number)?;
        if self.hung_until > env.now() {
            let at = self.hung_until + env.disk.below(env.plan.access) + 1;
            env.queue.at(at, Event::Disk(member, boot, number));
            return None;
        }
        let rates = env.plan.rates;
        let failing = if env.healed || env.frail.is_some_and(|frail| frail != member) {
            Failing::No
        } else {
            let mut draw = |ppm, failing| env.disk.ppm(ppm).then_some(failing);
            match access {
                Access::Read(..) => draw(rates.read_medium, Failing::Fail),
                Access::Write(..) => draw(rates.write_medium, Failing::Fail),
                Access::Flush => draw(rates.flush_fail, Failing::Fail),
                Access::Meta(offset, _) => draw(rates.meta_fail, Failing::Fail)
                    .or_else(|| draw(rates.meta_lost, Failing::Lost))
                    .or_else(|| draw(rates.meta_misdirected, Failing::Misdirected(0)))
                    .and_then(|failing| self.bounded(env, layout, *offset, failing)),
            }
            .unwrap_or(Failing::No)
        };
        let lost = failing == Failing::Fail && matches!(access, Access::Flush);
        let done = self.disk.end(number, failing, &mut env.disk);
        if lost && env.disk.chance(1, 2) {
            // A disk that was reset: what else was under way ends at once, before anybody looks at how the flush ended.
            let at = env.now() + 1;
            for number in self.disk.numbers() {
                env.queue.at(at, Event::Disk(member, boot, number));
            }
        }
        done
    }

    /// Damage that a reader can notice: only one copy of a record at a time.
    fn bounded(
        &self,
        env: &mut Env,
        layout: &Layout,
        offset: u64,
        failing: Failing,
    ) -> Option<Failing> {
        match failing {
            Failing::Lost => {
                let twin = twin(layout, offset)?;
                (self.disk.is_whole(twin) && !self.disk.is_damaged(offset)).then_some(failing)
            }
            Failing::Misdirected(_) => {
                let twin = twin(layout, offset)?;
                let elsewhere = env.disk.pick(&places(layout))?;
                let other = self::twin(layout, elsewhere)?;
                let good = [twin, offset, other, elsewhere]
                    .iter()
                    .all(|&place| self.disk.is_whole(place))
                    && elsewhere != offset
                    && elsewhere != twin;
                good.then_some(Failing::Misdirected(elsewhere))
            }
            other => Some(other),
        }
    }

    /// Damages one copy of a record that has another good one; of a member that is down. Of a page, the first copy may also be
    /// damaged while the second one is of an older version, as a write of it was lost: that can be seen, and is to be taken as "something
    /// is missing" (R14), while it would be too much for the epoch record (R19).
    pub fn rot(&mut self, env: &mut Env, layout: &Layout) {
        let places = places(layout);
        let pages = places.get(FIRST_PAGE..).unwrap_or_default();
        let is_used = |offset| self.disk.record(offset).iter().any(|&byte| byte != 0);
        let is_older = |offset| self.disk.is_outdated(offset) && is_used(offset);
        let mut doubtful = Vec::new();
        for copies in pages.chunks_exact(2) {
            if let &[first, second] = copies {
                if self.disk.is_whole(first) && is_older(second) {
                    doubtful.push(first);
                }
            }
        }
        if let Some(offset) = env.disk.pick(&doubtful) {
            self.disk.rot(offset, &mut env.disk);
            return;
        }
        let Some(offset) = env.disk.pick(&places) else {
            return;
        };
        let twin = twin(layout, offset).unwrap_or(offset);
        let used = is_used(offset) && is_used(twin);
        if used && self.disk.is_whole(twin) && !self.disk.is_damaged(offset) {
            self.disk.rot(offset, &mut env.disk);
        }
    }

    /// The host is gone, or the disk was reset: see [`Disk::crash`].
    pub fn crash(&mut self, layout: &Layout, power: bool, random: &mut Random) -> Done {
        // One copy of a record is good at any time.
        let is_bad = |offset: u64, damaged: &BTreeSet<u64>| {
            twin(layout, offset).is_some_and(|twin| damaged.contains(&twin))
        };
        self.disk.crash_beside(power, random, is_bad)
    }

    /// Nothing is done for a while.
    pub fn hang(&mut self, until: Nanos) {
        self.hung_until = self.hung_until.max(until);
    }

    /// Everything takes long for a while.
    pub fn slow(&mut self, until: Nanos) {
        self.slow_until = self.slow_until.max(until);
    }

    /// The faults are over.
    pub fn heal(&mut self, now: Nanos) {
        self.hung_until = self.hung_until.min(now);
        self.slow_until = self.slow_until.min(now);
        self.disk.heal(true);
    }
}

/// Place of the first page of a log among [`places`].
const FIRST_PAGE: usize = 4;

/// Offsets of all copies of records that are in use early: superblock, epoch record, first pages; and of the list of
/// unreadable sectors, last.
fn places(layout: &Layout) -> Vec<u64> {
    let mut places: Vec<u64> = layout.superblock().iter().map(|at| at.offset).collect();
    places.extend(layout.epoch().iter().map(|at| at.offset));
    for page in 0..LOG_PAGES {
        let copies = layout.log_page(page).into_iter().flatten();
        places.extend(copies.map(|at| at.offset));
    }
    for member in MemberId::all() {
        let copies = layout.bitmap_page(member, 0).into_iter().flatten();
        places.extend(copies.map(|at| at.offset));
    }
    places.extend(layout.unreadable().iter().map(|at| at.offset));
    places
}

/// The offset of the other copy of a record.
fn twin(layout: &Layout, offset: u64) -> Option<u64> {
    let places = places(layout);
    let place = places.iter().position(|&place| place == offset)?;
    places.get(place ^ 1).copied()
}
