// SPDX-License-Identifier: GPL-2.0

//! Sees everything that happens in a run, and tells the checkers.
//!
//! What a member promised or installed is taken from what it wrote to its disk and answered, not from what
//! the engine says of itself. So which configuration is complete is found out here, too.

use crate::plan::Plan;
use crate::plan::MS;
use crate::plan::SECOND;
use crate::queue::Nanos;
use crate::workload::Request;
use crate::workload::What;
use litemap::LiteMap;
use rmr_checkers::cost::Cost;
use rmr_checkers::cost::Due;
use rmr_checkers::cost::Record;
use rmr_checkers::disks::Disks;
use rmr_checkers::disks::Geometry;
use rmr_checkers::disks::Marks;
use rmr_checkers::disks::Roles;
use rmr_checkers::execution::Configuration;
use rmr_checkers::execution::Execution;
use rmr_checkers::execution::Header;
use rmr_checkers::history::Event;
use rmr_checkers::history::History;
use rmr_checkers::history::Initial;
use rmr_checkers::history::Operation;
use rmr_checkers::history::Outcome;
use rmr_checkers::liveness::Bounds;
use rmr_checkers::liveness::Counted;
use rmr_checkers::liveness::Liveness;
use rmr_checkers::Rule;
use rmr_checkers::Violation;
use rmr_proto::Config;
use rmr_proto::EpochRecord;
use rmr_proto::Generation;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Quorum;
use rmr_proto::Uuid;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::hash::Hash;
use std::hash::Hasher;

/// After healing, so long at most until all members are in sync: the longest pause before a rejoin is a minute.
const HEAL: Nanos = 150 * SECOND;

/// Openings in a run are fewer: the names of one in the history are that far apart.
const NAMES: u32 = 1 << 16;

/// A history that was forced counts its generations from here on, or a multiple: who starts it may know of fewer
/// generations than there were in what it gives up.
const FORCED: u64 = 1_000_000;

/// Generation and number of a configuration; they grow from one history to that which gave it up.
type Name = (u64, u64, u64);

/// A configuration that some member has persisted.
#[derive(Clone, Debug, Hash)]
struct Known {
    config: Config,
    persisted: u32,
    complete: bool,
}

/// What one member persisted last.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct Last {
    installed: Option<Name>,
    /// Its disk is an older state, which was not taken in since: what it knows is not what it once knew (R19).
    past: bool,
}

/// All checkers, and what they need to be told.
#[derive(Clone, Debug)]
pub struct Observer {
    history: History,
    disks: Disks,
    execution: Execution,
    liveness: Liveness,
    cost: Cost,
    violations: Vec<Violation>,
    /// The opening of a device by the nonce of its generations.
    openings: LiteMap<u64, u32>,
    /// What an opening is called in the history, and whether it asked anything under that name.
    names: LiteMap<u32, (u32, bool)>,
    configs: BTreeMap<Name, Known>,
    last: LiteMap<u8, Last>,
    attached: Vec<(u64, u64)>,
    /// The history of the last complete configuration.
    lineage: Option<Uuid>,
    /// The last configuration of another history that all have who count, but of which no client has heard: it may go on in the old
    /// one, if it reaches whom that needs.
    unheard: Option<Name>,
    /// All histories, as they began.
    histories: Vec<Uuid>,
    /// Requests that are not answered, with their opening.
    open: LiteMap<u64, (u32, Request)>,
    /// Set when everything is to be compared, not only what was touched.
    compare: bool,
    newest: Option<Name>,
    table: u32,
    /// Configurations that became complete.
    epochs: u64,
    /// How long something takes is of no interest.
    timeless: bool,
    /// Offsets that members have pulled under the configuration they persisted last.
    pulled: BTreeSet<(u8, u64)>,
    /// Whether the disk of a member has a volatile cache.
    volatile: Vec<bool>,
    /// When flushes began, by member and access.
    flushing: LiteMap<(u8, u64), Nanos>,
    /// When the last one began that succeeded.
    flushed: LiteMap<u8, Nanos>,
    /// When applications asked for flushes that are not answered.
    flushes: LiteMap<u64, Nanos>,
    /// Sectors of members that were written while they were listed as unreadable: the mark of the disk at the first time.
    rewritten: BTreeMap<(u8, u64), u64>,
}

impl Hash for Observer {
    /// All that decides what is right: not how long things took, and how many there were. Nor when disks were flushed last: that
    /// decides of what is in flight only.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.history.hash(state);
        self.disks.hash(state);
        self.execution.hash(state);
        self.cost.hash(state);
        self.openings.hash(state);
        self.names.hash(state);
        self.configs.hash(state);
        self.last.hash(state);
        self.attached.hash(state);
        self.lineage.hash(state);
        self.unheard.hash(state);
        self.histories.hash(state);
        self.open.hash(state);
        self.newest.hash(state);
        self.table.hash(state);
    }
}

impl Observer {
    /// Nothing has happened.
    pub fn new(plan: &Plan) -> Observer {
        let mut history = History::new(Initial::Zero);
        history.set_quorum(plan.quorum);
        let table = (1 << plan.members) - 1;
        let geometry = Geometry {
            sectors: plan.size / 512,
            chunk_sectors: 1 << (plan.chunk_shift - 9),
        };
        Observer {
            history,
            disks: Disks::new(geometry, table),
            execution: Execution::new(),
            liveness: Liveness::new(Bounds {
                io_timeout: plan.io_timeout,
                io_slack: plan.io_timeout + 4 * plan.heartbeat + 5 * SECOND,
                heal: HEAL,
                messages: 20_000,
                metadata_writes: 20_000,
                log_lines: 100,
            }),
            cost: Cost::new(),
            violations: Vec::new(),
            openings: LiteMap::new(),
            names: LiteMap::new(),
            configs: BTreeMap::new(),
            last: LiteMap::new(),
            attached: Vec::new(),
            lineage: None,
            unheard: None,
            histories: Vec::new(),
            open: LiteMap::new(),
            compare: false,
            newest: None,
            table,
            epochs: 0,
            timeless: false,
            pulled: BTreeSet::new(),
            volatile: plan.volatile.clone(),
            flushing: LiteMap::new(),
            flushed: LiteMap::new(),
            flushes: LiteMap::new(),
            rewritten: BTreeMap::new(),
        }
    }

    /// How long something takes, or how often it happens, is of no interest from now on.
    pub fn ignore_time(&mut self) {
        self.timeless = true;
    }

    /// How long after healing everything must be well.
    pub fn bound() -> Nanos {
        HEAL
    }

    /// What is wrong so far.
    pub fn violations(&mut self) -> &[Violation] {
        let late = self.liveness.take().into_iter();
        let counts = |violation: &Violation| !(self.timeless && is_of_time(violation.rule));
        self.violations.extend(late.filter(counts));
        &self.violations
    }

    /// Something is wrong that no checker sees.
    pub fn violate(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    fn note(&mut self, result: Result<(), Violation>) {
        self.violations.extend(result.err());
    }

    // Clients.

    /// The name of an opening in the history. It has another one after each attach that it did not make use of: who
    /// has not served yet lost a race, was not replaced, and may try again.
    fn name(&mut self, opening: u32, attaches: bool, asks: bool) -> u32 {
        let (name, used) = self.names.entry(opening).or_insert((opening, false));
        if attaches && !*used {
            *name += NAMES;
        }
        *used |= asks;
        *name
    }

    /// An opening of the device uses this nonce.
    pub fn opening(&mut self, opening: u32, nonce: u64) {
        self.openings.insert(nonce, opening);
    }

    /// An application asks.
    pub fn asked(&mut self, now: Nanos, opening: u32, request: Request) {
        let values = request.values();
        let what = match request.what {
            What::Read => Operation::Read {
                sector: request.sector,
                count: request.count as u32,
            },
            What::Flush => {
                self.flushes.insert(request.op, now);
                Operation::Flush
            }
            What::Write(fua) | What::Zeroes(fua) => {
                self.disks.started(request.op, request.sector, &values);
                Operation::Write {
                    sector: request.sector,
                    values,
                    fua,
                }
            }
        };
        let client = self.name(opening, false, true);
        self.history.push(Event::Invoke {
            t: now,
            op: request.op,
            client,
            what,
        });
        self.liveness.invoked(now, request.op);
        self.open.insert(request.op, (opening, request));
    }

    /// It is answered.
    pub fn answered(&mut self, now: Nanos, op: u64, outcome: Outcome) {
        let Some((opening, request)) = self.open.remove(&op) else {
            return;
        };
        // What a client hears after another one took over took effect before: the attach decided what it is worth.
        let rules = self.ruler().and_then(|nonce| self.openings.get(&nonce)) == Some(&opening);
        if request.is_write() {
            match outcome {
                Outcome::Ok(_) if rules => self.disks.completed(op),
                Outcome::Ok(_) => self.disks.failed(op),
                Outcome::Error | Outcome::Unknown => self.disks.failed(op),
            }
        }
        let asked = self.flushes.remove(&op);
        if let (Some(asked), Outcome::Ok(_), true) = (asked, &outcome, rules) {
            self.check_flushed(now, asked);
        }
        self.liveness.returned(now, op);
        let outcome = match (outcome, request.what) {
            (Outcome::Ok(values), What::Read) => Outcome::Ok(values),
            (Outcome::Ok(_), _) => Outcome::Ok(Vec::new()),
            (other, _) => other,
        };
        self.history.push(Event::Return {
            t: now,
            op,
            outcome,
        });
    }

    /// An opening is over: its host crashed, or the device was closed.
    pub fn gone(&mut self, now: Nanos, opening: u32) {
        let client = self.name(opening, false, false);
        self.history.push(Event::Gone { t: now, client });
        let ops: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, (of, _))| *of == opening)
            .map(|(&op, _)| op)
            .collect();
        for &op in &ops {
            self.open.remove(&op);
            self.flushes.remove(&op);
            self.disks.failed(op);
        }
        self.liveness.gone(ops);
    }

    /// What a request was answered; `None` if it was not yet.
    pub fn answer(&self, op: u64) -> Option<&Outcome> {
        let mut events = self.history.events().iter().rev();
        let last = events.find_map(|event| match event {
            Event::Return {
                op: of, outcome, ..
            } if *of == op => Some(Some(outcome)),
            Event::Invoke { op: of, .. } if *of == op => Some(None),
            _ => None,
        });
        last.flatten()
    }

    /// Requests that are not answered.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// IO is held for want of data, or no longer.
    pub fn held(&mut self, now: Nanos, held: bool) {
        self.liveness.held(now, held);
    }

    /// An opening of the device pauses: it can answer nothing.
    pub fn paused(&mut self, opening: u32, span: Nanos) {
        let ops = self.open.iter().filter(|(_, (of, _))| *of == opening);
        self.liveness.paused(ops.map(|(&op, _)| op), span);
    }

    /// It is the one whose IO may be frozen.
    pub fn freeze_paused(&mut self, span: Nanos) {
        self.liveness.freeze_paused(span);
    }

    /// The client whose IO was frozen is gone, or replaced.
    pub fn forget_freeze(&mut self) {
        self.liveness.forget_freeze();
    }

    /// IO is frozen.
    pub fn freeze(&mut self, now: Nanos) {
        self.liveness.freeze(now);
    }

    /// It is not any more.
    pub fn thaw(&mut self, now: Nanos, due: Nanos) {
        self.liveness.thaw(now, due);
    }

    /// A flush succeeds only if every receiver has flushed (section 3 of the design): a disk with a volatile cache, since it was
    /// asked for.
    fn check_flushed(&mut self, now: Nanos, asked: Nanos) {
        let receivers = self.config().map(Config::receivers);
        let mut volatile = receivers
            .into_iter()
            .flatten()
            .map(number)
            .filter(|&member| {
                let volatile = self.volatile.get(usize::from(member));
                volatile.copied().unwrap_or(true)
            });
        let missed = volatile.find(|member| self.flushed.get(member) < Some(&asked));
        if let Some(member) = missed {
            self.violate(Violation {
                rule: Rule::Durability,
                time: now,
                what: format!(
                    "a flush is answered, and the disk of member {member} was not flushed"
                ),
            });
        }
    }

    // Members.

    /// An access to a disk is a flush.
    pub fn flush_begins(&mut self, now: Nanos, member: u8, access: u64) {
        self.flushing.insert((member, access), now);
    }

    /// An access is over; if it was a flush, it succeeded or not.
    pub fn flush_ends(&mut self, member: u8, access: u64, succeeded: bool) {
        if let Some(began) = self.flushing.remove(&(member, access)) {
            if succeeded {
                let last = self.flushed.entry(member).or_default();
                *last = (*last).max(began);
            }
        }
    }

    /// A sector was written that the member has on its list of unreadable ones.
    pub fn rewritten(&mut self, member: u8, sector: u64, mark: u64) {
        self.rewritten.entry((member, sector)).or_insert(mark);
    }

    /// A sector leaves that list: the mark of the disk when it was written, if it was since the member started.
    pub fn unlisted(&mut self, member: u8, sector: u64) -> Option<u64> {
        self.rewritten.remove(&(member, sector))
    }

    /// A member starts, or its disk was reset; or it is gone, with incarnation 0.
    pub fn restarted(&mut self, member: u8, incarnation: u64) {
        self.execution.restarted(member, incarnation);
        if incarnation == 0 {
            self.flushing.retain(|&(of, _), _| of != member);
            self.rewritten.retain(|&(of, _), _| of != member);
        }
        self.compare = true;
    }

    /// A member has another disk, with nothing on it.
    pub fn replaced(&mut self, member: u8) {
        self.execution.replaced(member);
        self.disks.replaced(member);
        self.last.remove(&member);
        for known in self.configs.values_mut() {
            known.persisted &= !rmr_checkers::bit(member);
        }
        self.compare = true;
    }

    /// A member has an older state of its disk: it knows nothing of what it promised and installed since (R19).
    pub fn rolled_back(&mut self, member: u8) {
        self.execution.replaced(member);
        let past = Last {
            installed: None,
            past: true,
        };
        self.last.insert(member, past);
        self.compare = true;
    }

    /// What a member's disk returns of sectors has changed.
    pub fn wrote(&mut self, member: u8, sectors: impl IntoIterator<Item = (u64, u64)>) {
        self.disks.wrote(member, sectors);
    }

    /// Sectors that a member answers as unreadable.
    pub fn unreadable(&mut self, member: u8, sectors: &[u64]) {
        self.disks.unreadable(member, sectors);
    }

    /// Sectors of a member's disk hold again what they held before.
    pub fn lost(&mut self, now: Nanos, member: u8, sectors: Option<Vec<u64>>) {
        if sectors.as_ref().is_none_or(|sectors| !sectors.is_empty()) {
            self.history.push(Event::CacheLost {
                t: now,
                member,
                sectors,
            });
        }
    }

    /// A member answers a promise.
    pub fn promised(&mut self, now: Nanos, member: u8, generation: Generation) {
        let result = self
            .execution
            .promised(now, member, (generation.number, generation.nonce));
        self.note(result);
        self.compare = true;
    }

    /// What a configuration is called here.
    fn place(&mut self, config: &Config) -> Name {
        let known = self.histories.iter().position(|of| *of == config.history);
        let forced = known.unwrap_or_else(|| {
            self.histories.push(config.history);
            self.histories.len() - 1
        });
        let generation = config.generation;
        let number = forced as u64 * FORCED + generation.number;
        (number, generation.nonce, config.epoch.0)
    }

    /// A member has persisted the epoch record of a new run: what was installed before is not installed now.
    pub fn started(&mut self, member: u8, record: &EpochRecord) {
        let installed = record.installed.as_ref().map(|config| self.place(config));
        self.last.entry(member).or_default().installed = installed;
        self.restarted(member, record.incarnation.0);
    }

    /// A member has persisted an epoch record, all copies of it.
    pub fn persisted(&mut self, now: Nanos, member: u8, record: &EpochRecord) {
        self.compare = true;
        let Some(config) = &record.installed else {
            return;
        };
        let name = self.place(config);
        let last = self.last.entry(member).or_default();
        if last.installed == Some(name) {
            return;
        }
        last.installed = Some(name);
        last.past = false;
        // Whoever installs a configuration empties the bitmaps of its members in sync, before a write can mark them again.
        let missed = record.bitmaps.union(record.all_dirty);
        let left_over = missed.intersection(config.in_sync);
        if !left_over.is_empty() {
            let what = format!(
                "member {member} installed epoch {} with bitmaps of {left_over}, who are in sync",
                name.2
            );
            self.violate(Violation {
                rule: Rule::LeftOver,
                time: now,
                what,
            });
        }
        self.pulled.retain(|&(of, _)| of != member);
        let new = Configuration {
            generation: (config.generation.number, config.generation.nonce),
            epoch: name.2,
            in_sync: config.in_sync.bits(),
            catching_up: config.catching_up.bits(),
        };
        let result = self.execution.installed(now, member, new);
        self.note(result);
        // The client has given up a configuration when a later one of its generation is complete, whoever has attached since.
        let later = (name.0, name.1, name.2.saturating_add(1));
        let mut later = self.configs.range(later..=(name.0, name.1, u64::MAX));
        let passed = later.any(|(_, known)| known.complete);
        let known = self.configs.entry(name).or_insert_with(|| Known {
            config: config.clone(),
            persisted: 0,
            complete: false,
        });
        known.persisted |= rmr_checkers::bit(member);
        let receivers = config.receivers().bits();
        // In a history that was forced, those count that take part in it (R7).
        let voters = config.voters().bits();
        let enough = config.quorum == Quorum::Off
            || (known.persisted & voters).count_ones() * 2 > voters.count_ones();
        // So has a client that has attached anew, with what is of its generations before, in whatever history.
        let mut attached = self.attached.iter();
        let anew =
            attached.any(|&(number, nonce)| nonce == name.1 && number % FORCED > name.0 % FORCED);
        let given_up = anew || passed;
        if known.complete || given_up || receivers & !known.persisted != 0 || !enough {
            let roles = roles(config);
            if !known.complete && self.attached.contains(&(name.0, name.1)) {
                self.disks.installing(roles);
            } else if !known.complete {
                self.disks.attaching(roles);
            }
            return;
        }
        known.complete = true;
        let result = self.execution.completed(now, new);
        self.note(result);
        if self.lineage.is_none_or(|lineage| lineage == config.history) {
            self.complete(now, name, config);
        } else {
            self.unheard = Some(name);
            self.disks.attaching(roles(config));
        }
    }

    /// A client serves in this history.
    pub fn serves(&mut self, now: Nanos, history: Uuid) {
        let Some(name) = self.unheard else {
            return;
        };
        let known = self.configs.get(&name);
        let Some(config) = known.map(|known| known.config.clone()) else {
            return;
        };
        if config.history == history {
            self.unheard = None;
            self.complete(now, name, &config);
        }
    }

    fn complete(&mut self, now: Nanos, name: Name, config: &Config) {
        self.epochs += 1;
        let in_sync = config.in_sync.bits();
        let generation = (name.0, name.1);
        // What goes on in a history that was given up is of no interest to the other one: not even that a client attaches again
        // that has been in it before.
        let mut attached = self.attached.iter();
        if Some(name) < self.newest
            && self.lineage != Some(config.history)
            && attached.any(|&(_, nonce)| nonce == name.1)
        {
            return;
        }
        let forced = self
            .lineage
            .is_some_and(|lineage| lineage != config.history);
        if config.quorum == Quorum::Off {
            self.check_needed(now, name);
        }
        let (newest, lineage) = (self.newest, self.lineage);
        self.lineage = Some(config.history);
        self.newest = newest.max(Some(name));
        self.table = config.table().bits();
        if self.attached.contains(&generation) {
            self.disks.configured(roles(config));
        } else {
            self.attached.push(generation);
            // A slow disk may complete what a client has begun before another one attached. It has nobody who executes anything for
            // it any more.
            let late = Some(name) < newest && lineage == Some(config.history);
            if !late {
                self.disks.attached(roles(config));
            }
            let opening = self.openings.get(&name.1).copied().unwrap_or(0);
            let client = self.name(opening, true, false);
            self.history.push(Event::Attached {
                t: now,
                client,
                generation: name.0,
                in_sync,
                forced,
            });
        }
        self.history.push(Event::Config { t: now, in_sync });
        self.all_in_sync(now);
    }

    /// Nobody starts without who knows of this configuration (R7): of the members that an earlier one has in sync, one has installed
    /// a later one than that, or has lost its disk. Stores that were put back to an earlier state may know less.
    fn check_needed(&mut self, now: Nanos, name: Name) {
        let passed = |of: &Name, in_sync: MemberSet| {
            in_sync.iter().map(number).any(|member| {
                let last = self.last.get(&member).copied().unwrap_or_default();
                last.past || last.installed.is_none_or(|installed| installed > *of)
            })
        };
        let known = self.last.values().filter(|last| !last.past);
        let installed = known.filter_map(|last| last.installed);
        let suffices = installed
            .filter(|of| *of < name && of.0 / FORCED == name.0 / FORCED)
            .find(|of| {
                let known = self.configs.get(of);
                known.is_some_and(|known| !passed(of, known.config.in_sync))
            });
        if let Some(of) = suffices {
            let what = format!(
                "generation {} epoch {} can be started without anybody who has generation {} epoch {}",
                of.0, of.2, name.0, name.2
            );
            self.violate(Violation {
                rule: Rule::Orphaned,
                time: now,
                what,
            });
        }
    }

    fn all_in_sync(&mut self, now: Nanos) {
        let all = self.is_whole();
        self.liveness.in_sync(now, all);
    }

    /// Members that are not in sync cannot be, as things are now.
    pub fn excuse(&mut self) {
        self.liveness.excuse();
    }

    /// Whether a configuration of another history is installed of which no client has heard yet.
    pub fn has_unheard(&self) -> bool {
        self.unheard.is_some()
    }

    /// Whether the newest complete configuration has every member of its table in sync.
    pub fn is_whole(&self) -> bool {
        let config = self.newest.and_then(|name| self.configs.get(&name));
        config.is_some_and(|known| known.config.in_sync == known.config.table())
    }

    /// The newest complete configuration.
    pub fn config(&self) -> Option<&Config> {
        let known = self.newest.and_then(|name| self.configs.get(&name));
        known.map(|known| &known.config)
    }

    /// Whether the store of a member can be lost, and all that counts is still there: others are in sync, and
    /// nothing newer than the newest complete configuration is on any disk. With quorum, a majority has to be left.
    pub fn can_lose(&self, member: u8) -> bool {
        let Some(known) = self.newest.and_then(|name| self.configs.get(&name)) else {
            return false;
        };
        let newest = self.newest;
        let mut last = self.last.values().map(|last| last.installed);
        // One with an older state of its disk is no copy any more, even before anybody noticed.
        let others = known.config.in_sync.iter().map(number);
        let left = others
            .filter(|&other| other != member && !self.has_forgotten(other))
            .count() as u32;
        last.all(|installed| installed <= newest)
            && left != 0
            && (known.config.quorum == Quorum::Off || left * 2 > known.config.table().len())
    }

    /// Whether the disk of a member that has persisted the newest complete configuration knows nothing of it.
    pub fn has_forgotten(&self, member: u8) -> bool {
        let newest = self.newest.and_then(|name| self.configs.get(&name));
        let installed = self.last.get(&member).and_then(|last| last.installed);
        newest.is_some_and(|known| known.persisted & rmr_checkers::bit(member) != 0)
            && installed < self.newest
    }

    /// The nonce of whoever installed the newest complete configuration.
    pub fn ruler(&self) -> Option<u64> {
        self.newest.map(|name| name.1)
    }

    /// A write begins to touch the disk of a member.
    pub fn begins(&mut self, now: Nanos, member: u8, header: &rmr_proto::Header, seq: u64) {
        let result = self.execution.begin(now, member, named(header), seq);
        self.note(result);
        self.cost.hot_write(member);
    }

    /// It no longer does; `undone` if it failed and may be executed again.
    pub fn ends(&mut self, member: u8, generation: Generation, seq: u64, undone: bool) {
        let generation = (generation.number, generation.nonce);
        if undone {
            self.execution.undone(member, generation, seq);
        } else {
            self.execution.end(member, generation, seq);
        }
    }

    /// A member was told a watermark.
    pub fn watermark(&mut self, member: u8, header: &rmr_proto::Header) {
        let generation = (header.generation.number, header.generation.nonce);
        self.execution
            .watermark(member, generation, header.watermark.0);
    }

    /// A member serves a read of a client.
    pub fn reads(&mut self, now: Nanos, member: u8, header: &rmr_proto::Header) {
        let result = self.execution.read(now, member, named(header));
        self.note(result);
    }

    // Everything.

    /// A control or peer message was sent.
    pub fn message(&mut self, now: Nanos) {
        self.liveness.count(now, Counted::Message);
    }

    /// A member writes what it pulled.
    pub fn pulled(&mut self, now: Nanos, member: u8, offset: u64) {
        if self.pulled.insert((member, offset)) {
            self.liveness.uncount(now, Counted::Message);
        }
    }

    /// A copy of a record is being written.
    pub fn metadata(&mut self, now: Nanos, member: u8) {
        self.liveness.count(now, Counted::MetadataWrite(member));
        // What kind of record it is does not matter: nothing may be written while nothing is due.
        let result = self.cost.metadata(now, member, Record::Epoch);
        self.note(result);
    }

    /// Something happened on a member that may write metadata: anything but a write to a hot extent.
    pub fn exception(&mut self, member: u8) {
        self.cost.due(member, Due::Exception);
    }

    /// All that was exceptional on a member is over.
    pub fn settled(&mut self, member: u8) {
        self.cost.settled(member);
    }

    /// Marks of a chunk may have been taken away.
    pub fn touch(&mut self, chunk: u64) {
        self.disks.touch(chunk);
    }

    /// Marks may have been taken away anywhere.
    pub fn compare_all(&mut self) {
        self.compare = true;
    }

    /// Compares copies and marks, after each step.
    pub fn check(&mut self, now: Nanos, marks: &impl Marks) {
        let result = if std::mem::take(&mut self.compare) {
            self.disks.check_all(now, marks)
        } else {
            self.disks.check_touched(now, marks)
        };
        self.note(result);
    }

    /// Compares members in sync, when nothing is in flight.
    pub fn check_equal(&mut self, now: Nanos, marks: &impl Marks) {
        let result = self.disks.check_equal(now, marks);
        self.note(result);
    }

    /// Everything is healed.
    pub fn healed(&mut self, now: Nanos) {
        self.liveness.healed(now);
        self.all_in_sync(now);
    }

    /// The end: what was wrong, and the history for further checks.
    pub fn finish(mut self, now: Nanos) -> (Vec<Violation>, History) {
        let mut violations = std::mem::take(&mut self.violations);
        let late = self.liveness.finish(now).into_iter();
        violations.extend(late.filter(|late| !(self.timeless && is_of_time(late.rule))));
        let report = self.history.check();
        violations.extend(report.violations);
        (violations, self.history)
    }

    /// How many configurations became complete, and how many attaches.
    pub fn completed(&self) -> (u64, u64) {
        (self.epochs, self.attached.len() as u64)
    }

    /// The longest time a request waited, and the longest freeze.
    pub fn longest(&self) -> (Nanos, Nanos) {
        (self.liveness.longest(), self.liveness.longest_freeze())
    }

    /// How many chunks of a member's copy differ.
    pub fn differing(&self, member: u8) -> usize {
        self.disks.differing(member)
    }
}

fn is_of_time(rule: Rule) -> bool {
    matches!(rule, Rule::Slow | Rule::Frozen | Rule::Storm)
}

/// How long IO may be frozen: a round trip, the drain, a flush; slow disks and lost messages included.
pub fn freeze_due(plan: &Plan) -> Nanos {
    plan.io_timeout + 4 * plan.heartbeat + 500 * MS
}

fn named(header: &rmr_proto::Header) -> Header {
    Header {
        generation: (header.generation.number, header.generation.nonce),
        epoch: header.epoch.0,
        incarnation: header.incarnation.0,
    }
}

fn roles(config: &Config) -> Roles {
    Roles {
        table: config.table().bits(),
        in_sync: config.in_sync.bits(),
        catching_up: config.catching_up.bits(),
    }
}

/// The number of a member for the checkers.
pub fn number(member: MemberId) -> u8 {
    member.get() as u8
}
