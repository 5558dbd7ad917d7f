// SPDX-License-Identifier: GPL-2.0

//! A run with a story: few kinds of faults, in an order that leads somewhere.
//!
//! Some situations take three or four faults, one after the other, each in a window of a few messages, and on the right member:
//! drawn one by one they come once in ten thousand runs. A story has them in order and on the same members; when they
//! hit, and all of the world, is drawn as always. It says nothing of what has to come of it.

use crate::faults::Kind;
use crate::plan::Plan;
use crate::plan::Planned;
use crate::plan::Rates;
use crate::plan::Wait;
use crate::plan::MS;
use crate::plan::SECOND;
use crate::plan::US;
use crate::queue::Nanos;
use crate::random::Random;

/// What a story is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plot {
    /// A member is dropped while another client attaches.
    Handover,
    /// The client is cut off with one member, and another client takes over the others.
    Split,
    /// A member is to be removed, and whoever was told of it is lost.
    Removal,
    /// The members in sync are gone, and a start is forced without them; maybe while the others catch up.
    Force,
    /// A disk is put back as it was some time ago.
    Rollback,
    /// A disk of another pool is in when the pool is opened by name.
    Namesake,
    /// A member crashes again and again while it starts.
    Crashes,
    /// Copies of records are lost, then others of them decay.
    Decay,
    /// A member is taken back while another one is away and the application writes.
    Return,
    /// Flushes fail, one after the other.
    Flushes,
    /// Writes fail on the last member.
    Alone,
    /// Only one member hears of the client, while another one pulls from it.
    Late,
    /// A member is cut off, then the others while they are told so; the first one comes back first.
    Onward,
    /// A client attaches, and another one goes on without a member before that has answered.
    Overtaken,
}

/// Those that need more luck are more often drawn.
const PLOTS: &[Plot] = &[
    Plot::Handover,
    Plot::Split,
    Plot::Removal,
    Plot::Force,
    Plot::Force,
    Plot::Rollback,
    Plot::Namesake,
    Plot::Crashes,
    Plot::Decay,
    Plot::Decay,
    Plot::Return,
    Plot::Flushes,
    Plot::Alone,
];

/// Writes the faults of a story.
struct Teller<'a> {
    random: &'a mut Random,
    faults: Vec<Planned>,
}

impl Teller<'_> {
    fn fault(&mut self, at: Nanos, kind: Kind, whom: u8, wait: Option<Wait>, span: Nanos) {
        let dice = self.random.any();
        self.faults.push(Planned {
            place: 0,
            at,
            kind,
            whom: Some(whom),
            wait,
            span,
            dice,
        });
    }

    /// So many steps of the protocol at most.
    fn steps(&mut self, most: u64) -> Option<Wait> {
        Some(Wait::Steps(self.random.scaled(1, most)))
    }

    /// In the middle of the work.
    fn work(&mut self) -> Option<Wait> {
        match self.random.below(3) {
            0 => None,
            1 => Some(Wait::Writes(self.random.scaled(1, 64))),
            _ => Some(Wait::Pulls(self.random.scaled(1, 16))),
        }
    }

    /// Some time, up to this.
    fn some(&mut self, most: Nanos) -> Nanos {
        self.random.scaled(US, most)
    }

    /// The faults of one round, from `at` on; `one` and `other` are the members it is about.
    fn round(&mut self, plot: Plot, at: Nanos, one: u8, other: u8, plan: &Plan) {
        let (latency, heartbeat) = (plan.latency, plan.heartbeat);
        match plot {
            Plot::Handover => {
                let wait = if self.random.chance(1, 2) {
                    None
                } else {
                    self.steps(4)
                };
                self.fault(at, Kind::Flap, one, wait, 0);
                let at = at + self.some(20 * latency);
                let wait = if self.random.chance(1, 2) {
                    None
                } else {
                    self.steps(4)
                };
                let span = self.random.scaled(10 * MS, SECOND);
                self.fault(at, Kind::Takeover, one, wait, span);
                if self.random.chance(1, 2) {
                    let wait = self.steps(16);
                    self.fault(at + 1, Kind::MemberCrash, other, wait, 0);
                }
            }
            Plot::Split => {
                let span = self.random.scaled(2 * SECOND, 8 * SECOND);
                self.fault(at, Kind::Partition, one, None, span);
                let at = at + self.random.scaled(10 * MS, 2 * SECOND);
                self.fault(at, Kind::Takeover, one, None, 10 * MS);
            }
            Plot::Removal => {
                self.fault(at, Kind::Table, one, None, 0);
                let wait = self.steps(8);
                // The session breaks at once, or when an answer does not come.
                let at = if self.random.chance(1, 2) {
                    self.fault(at + 1, Kind::Flap, other, wait, 0);
                    at + 2 + self.some(100 * latency)
                } else {
                    let span = self.random.scaled(heartbeat, 4 * heartbeat);
                    self.fault(at + 1, Kind::OneWay, other, None, span);
                    at + 2 + self.some(2 * span)
                };
                let wait = if self.random.chance(1, 2) {
                    self.work()
                } else {
                    self.steps(8)
                };
                self.fault(at, Kind::MemberCrash, one, wait, 0);
                self.fault(at, Kind::ClientCrash, one, wait, 0);
            }
            Plot::Force => {
                // All but the other one, until that goes on alone and is gone, or for as long as it takes.
                let alone = self.random.chance(1, 2);
                let from = self.random.scaled(500 * MS, 3 * SECOND);
                for member in (1..=plan.members).filter(|&member| member != other) {
                    let after = self.some(500 * MS);
                    let span = if alone { from + after } else { 0 };
                    self.fault(at + after, Kind::MemberCrash, member, None, span);
                }
                let at = at
                    + if alone {
                        from
                    } else {
                        self.random.scaled(10 * MS, 4 * SECOND)
                    };
                let wait = if self.random.chance(1, 2) {
                    self.work()
                } else {
                    self.steps(16)
                };
                let span = if alone {
                    self.random.scaled(2 * SECOND, 8 * SECOND)
                } else {
                    0
                };
                self.fault(at, Kind::MemberCrash, other, wait, span);
                if self.random.chance(1, 2) {
                    self.fault(at, Kind::ClientCrash, one, wait, 0);
                }
                let span = self.random.scaled(SECOND, 8 * SECOND);
                self.fault(at, Kind::Force, one, wait, span);
            }
            Plot::Rollback => {
                let span = self.random.scaled(SECOND, 4 * SECOND);
                self.fault(at, Kind::StaleDisk, one, None, span);
            }
            Plot::Namesake => {
                let span = self.random.scaled(100 * MS, 4 * SECOND);
                self.fault(at, Kind::ForeignDisk, one, None, span);
                let at = at + self.random.scaled(MS, SECOND);
                self.fault(at, Kind::ClientCrash, one, None, 0);
            }
            Plot::Crashes => {
                let wait = if self.random.chance(1, 2) {
                    None
                } else {
                    self.steps(8)
                };
                self.fault(at, Kind::CrashLoop, one, wait, 0);
            }
            Plot::Decay => {
                let wait = self.work();
                self.fault(at, Kind::MetaRot, one, wait, 0);
                if self.random.chance(1, 3) {
                    self.fault(at, Kind::ClientCrash, one, wait, 0);
                }
            }
            Plot::Return => {
                let span = self.random.scaled(SECOND, 8 * SECOND);
                self.fault(at, Kind::MemberCrash, one, None, span);
                let mut at = at;
                for _ in 0..self.random.between(1, 6) {
                    at += self.random.scaled(10 * MS, SECOND);
                    self.fault(at, Kind::QuickReboot, other, None, 0);
                }
            }
            Plot::Flushes => {
                let wait = self.work();
                self.fault(at, Kind::MemberCrash, one, wait, 0);
            }
            Plot::Alone => {
                for member in (1..=plan.members).filter(|&member| member != one) {
                    let at = at + self.some(100 * MS);
                    self.fault(at, Kind::MemberCrash, member, None, 0);
                }
            }
            Plot::Late => {
                let away = self.random.scaled(20 * MS, 500 * MS);
                self.fault(at, Kind::MemberCrash, one, None, away);
                let wait = Some(Wait::Pulls(self.random.scaled(1, 64)));
                let span = self.random.scaled(10 * MS, 2 * heartbeat);
                // Who catches up asks the first one most often.
                let source = if one == 1 { 2 } else { 1 };
                for member in (1..=plan.members).filter(|&member| member != source) {
                    // One or the other direction, or both.
                    for _ in 0..3 {
                        self.fault(at + away, Kind::OneWay, member, wait, span);
                    }
                }
                if self.random.chance(1, 2) {
                    // A source goes, and the client, before those writes are anywhere else.
                    let at = at + away + self.some(300 * MS);
                    self.fault(at, Kind::MemberCrash, source, wait, 0);
                    self.fault(at, Kind::ClientCrash, one, wait, 0);
                }
            }
            Plot::Overtaken => {
                let dropped = heartbeat + (plan.io_timeout / 4).min(SECOND);
                let span = dropped + self.random.scaled(MS, 2 * SECOND);
                self.fault(at, Kind::OneWay, one, None, span);
                let at = at + dropped - self.random.scaled(MS, heartbeat);
                self.fault(at, Kind::Takeover, one, None, 0);
                // The new client has its sessions by then and is about to ask; it waits for this answer with the others.
                let at = at + (12 * latency).min(5 * MS);
                let span = self.random.scaled(MS, heartbeat);
                self.fault(at, Kind::OneWay, one, None, span);
            }
            Plot::Onward => {
                // Until the client drops it.
                let dropped = heartbeat + (plan.io_timeout / 4).min(SECOND);
                let span = dropped + self.random.scaled(MS, 2 * SECOND);
                self.fault(at, Kind::OneWay, one, None, span);
                let at = at + dropped - self.some(10 * MS);
                let wait = Some(Wait::Steps(self.random.between(1, 4)));
                for member in (1..=plan.members).filter(|&member| member != one) {
                    let span = self.random.between(2, 10) * SECOND;
                    self.fault(at, Kind::OneWay, member, wait, span);
                }
                if self.random.chance(1, 4) {
                    let at = at + self.random.scaled(10 * MS, 4 * SECOND);
                    let wait = self.steps(8);
                    self.fault(at, Kind::Takeover, other, wait, 10 * MS);
                }
            }
        }
    }
}

/// Puts a story in place of the faults of a plan: everything that lasts is shorter, so that many rounds are in a run.
pub fn tell(plan: &mut Plan, random: &mut Random) {
    if let Some(plot) = random.pick(PLOTS) {
        tell_of(plot, plan, random);
    }
}

/// The same, of members that are not sent what they pull. It came later, and is drawn by itself, so that other runs stay as they were.
pub fn tell_late(plan: &mut Plan, random: &mut Random) {
    plan.members = random.between(3, 5) as u8;
    plan.quorum = random.chance(3, 4);
    tell_of(Plot::Late, plan, random);
}

/// The same, of clients that go on with one member; drawn by itself for the same reason.
pub fn tell_onward(plan: &mut Plan, random: &mut Random) {
    plan.members = 2 + u8::from(random.chance(1, 4));
    plan.quorum = false;
    plan.io_timeout = random.scaled(1, 4) * SECOND;
    tell_of(Plot::Onward, plan, random);
}

/// The same, of clients that act on what was so before; drawn by itself for the same reason.
pub fn tell_overtaken(plan: &mut Plan, random: &mut Random) {
    plan.members = 2 + u8::from(random.chance(1, 4));
    plan.quorum = false;
    plan.io_timeout = random.scaled(1, 4) * SECOND;
    tell_of(Plot::Overtaken, plan, random);
}

fn tell_of(plot: Plot, plan: &mut Plan, random: &mut Random) {
    plan.heal = random.scaled(4, 15) * SECOND;
    plan.heartbeat = random.scaled(100, 800) * MS;
    plan.work = Plan::draw_work(random, plan.heal);
    plan.rates = Rates::default();
    plan.quorum &= plot != Plot::Force;
    match plot {
        Plot::Split => {
            plan.quorum = true;
            plan.members = plan.members.max(3);
        }
        Plot::Removal if random.chance(3, 4) => plan.members = 2,
        Plot::Force => plan.members = random.between(2, 3) as u8,
        Plot::Return => plan.members = plan.members.max(3),
        // What a flush loses is gone if nobody else is in sync.
        Plot::Flushes if random.chance(3, 4) => {
            plan.members = 2;
            plan.quorum = false;
        }
        Plot::Onward | Plot::Overtaken => plan.heal *= 4,
        _ => {}
    }
    let mut kinds: Vec<Kind> = Vec::new();
    match plot {
        Plot::Namesake => kinds.push(Kind::ByName),
        Plot::Decay => {
            kinds.push(Kind::MetaLost);
            plan.rates.meta_lost = random.scaled(50_000, 400_000) as u32;
            // Extents come and go.
            plan.work.spread = 1 << 17;
            plan.log_extents = random.between(4, 8) as u32;
        }
        Plot::Force if random.chance(1, 2) => {
            // What was written in a history that is given up leaves the log.
            plan.work.spread = 1 << 17;
            plan.log_extents = random.between(4, 8) as u32;
        }
        Plot::Return => {
            // Many at once, each somewhere else.
            plan.work.pause /= 8;
            plan.work.ops *= 4;
            plan.work.depth = random.scaled(8, 32) as u32;
            plan.work.spread = 1 << 16;
            plan.work.longest = random.scaled(1, 32);
            plan.work.reads = 10;
        }
        Plot::Late => {
            // Many at once, and in chunks that were missed before.
            plan.work.pause /= 8;
            plan.work.ops *= 4;
            plan.work.depth = random.scaled(4, 32) as u32;
            plan.work.spread = random.scaled(512, 8192);
            plan.work.longest = random.scaled(1, 32);
            plan.work.reads = 10;
        }
        Plot::Flushes => {
            kinds.push(Kind::FlushFail);
            plan.rates.flush_fail = random.scaled(5_000, 200_000) as u32;
            // Many at once, of the same sectors.
            plan.work.flushes = random.between(5, 50);
            plan.work.depth = random.scaled(8, 32) as u32;
            plan.work.spots = random.between(1, 2) as u32;
            plan.work.spread = random.scaled(8, 256);
            plan.work.longest = random.scaled(1, 16);
            plan.work.pause /= 8;
            plan.work.ops *= 4;
            plan.volatile.fill(true);
        }
        Plot::Alone => {
            kinds.push(Kind::WriteMedium);
            plan.rates.write_medium = random.scaled(10_000, 200_000) as u32;
            plan.work.spread = 1 << 17;
            plan.log_extents = random.between(4, 8) as u32;
            plan.work.flushes = 0;
        }
        _ => {}
    }
    if random.chance(1, 4) {
        kinds.push(Kind::Delay);
        plan.rates.delay = random.scaled(100, 100_000) as u32;
    }
    let members = u64::from(plan.members);
    let mut teller = Teller {
        random,
        faults: Vec::new(),
    };
    let mut at = teller.random.scaled(100 * MS, SECOND);
    while at < plan.heal {
        let one = teller.random.between(1, members);
        let other = (one + teller.random.below(members - 1)) % members + 1;
        teller.round(plot, at, one as u8, other as u8, plan);
        at += teller.random.scaled(200 * MS, 4 * SECOND);
        if plot == Plot::Split && teller.random.chance(1, 2) {
            // So that who was cut off comes back before the next one.
            at += 6 * SECOND;
        }
        if matches!(plot, Plot::Onward | Plot::Overtaken) {
            at += teller.random.between(4, 12) * SECOND;
        }
    }
    plan.faults = teller.faults;
    kinds.extend(plan.faults.iter().map(|fault| fault.kind));
    plan.kinds = kinds.into_iter().collect();
}
