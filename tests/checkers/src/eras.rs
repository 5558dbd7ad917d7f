// SPDX-License-Identifier: GPL-2.0

//! Which client rules when, until when its requests can take effect, and what an attach may lose.
//!
//! The conditions are those in the head of `history`. Everything is a position in the history, not a time.

use crate::history::position;
use crate::history::time_at;
use crate::history::Event;
use crate::history::Op;
use crate::history::Operation;
use crate::history::Outcome;
use crate::history::Report;
use crate::violation::Rule;
use crate::violation::Violation;
use rustc_hash::FxHashMap;
use rustc_hash::FxHashSet;

/// Sectors that may be lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sectors {
    any: bool,
    these: FxHashSet<u64>,
}

impl Sectors {
    pub(crate) fn contains(&self, sector: u64) -> bool {
        self.any || self.these.contains(&sector)
    }

    fn add(&mut self, sectors: Option<&[u64]>) {
        match sectors {
            Some(these) => self.these.extend(these),
            None => self.any = true,
        }
    }

    fn unite(&mut self, other: &Sectors) {
        self.any |= other.any;
        self.these.extend(&other.these);
    }
}

/// A completed attach at which content may go back.
#[derive(Debug)]
pub(crate) struct Boundary {
    /// Position of the attach.
    pub(crate) at: usize,
    /// To any value at all.
    pub(crate) forced: bool,
    /// Which sectors may.
    pub(crate) lost: Sectors,
    /// What was acknowledged before this position is stable.
    pub(crate) stable: usize,
}

/// The rule of clients over the history.
#[derive(Debug, Default)]
pub(crate) struct Eras {
    /// Positions of the attaches of generations above all before, in order.
    attaches: Vec<usize>,
    /// Those of them at which something may be lost, in order.
    pub(crate) boundaries: Vec<Boundary>,
    /// Position of the attach that replaced a client.
    superseded: FxHashMap<u32, usize>,
    /// Clients that do not know of it, and need not: the attach was forced, in another history of the pool.
    apart: FxHashSet<u32>,
    /// Position of the first attach of a client.
    attached: FxHashMap<u32, usize>,
    /// The generation of its last one.
    generations: FxHashMap<u32, u64>,
}

impl Eras {
    pub(crate) fn new(events: &[Event], ops: &[Op<'_>], quorum: bool, report: &mut Report) -> Eras {
        let mut eras = Eras::default();
        eras.read(events, report);
        eras.find_stable(ops);
        for op in ops {
            eras.check_superseded(op, quorum, events, report);
        }
        eras.check_attached(ops, events, report);
        eras
    }

    /// Where this client was replaced; `usize::MAX`: nowhere.
    pub(crate) fn superseded(&self, client: u32) -> usize {
        self.superseded.get(&client).copied().unwrap_or(usize::MAX)
    }

    /// Whether nothing is asked of a read of this client that ends here.
    pub(crate) fn exempt(&self, client: u32, end: usize, quorum: bool) -> bool {
        end > self.superseded(client) && (quorum || self.apart.contains(&client))
    }

    /// The last position at which a write can take effect.
    pub(crate) fn end_of_write(&self, op: &Op<'_>) -> usize {
        let end = match op.returned {
            Some((at, Outcome::Ok(_) | Outcome::Error)) => at,
            Some((at, Outcome::Unknown)) => before(self.next_attach(at)),
            None => usize::MAX,
        };
        end.min(before(self.superseded(op.client)))
    }

    fn next_attach(&self, after: usize) -> usize {
        let index = self.attaches.partition_point(|&at| at <= after);
        self.attaches.get(index).copied().unwrap_or(usize::MAX)
    }

    fn read(&mut self, events: &[Event], report: &mut Report) {
        let mut highest = 0;
        let mut ruler = None;
        let mut in_sync: Option<u32> = None;
        let mut lost: FxHashMap<u8, Sectors> = FxHashMap::default();
        for (index, event) in events.iter().enumerate() {
            let at = position(index);
            match event {
                Event::Config { in_sync: set, .. } => {
                    in_sync = Some(*set);
                    lost.retain(|&member, _| crate::contains(*set, member));
                }
                Event::CacheLost {
                    member, sectors, ..
                } => {
                    // A member that is not in sync is brought up to date, and flushes, before it is.
                    if in_sync.is_none_or(|set| crate::contains(set, *member)) {
                        lost.entry(*member).or_default().add(sectors.as_deref());
                    }
                }
                Event::Attached {
                    t,
                    client,
                    generation,
                    in_sync: set,
                    forced,
                } => {
                    self.attached.entry(*client).or_insert(at);
                    let own = self.generations.insert(*client, *generation);
                    if self.superseded.contains_key(client) {
                        // Of a lower generation it is no attach after the one that replaced it, but one before that, of which
                        // a member was late. So it is above all that the client had until then. Each of its requests is
                        // looked at.
                        let late = *generation < highest && own.is_none_or(|own| own < *generation);
                        if late {
                            continue;
                        }
                        let what = format!("client {client} attached again after it was replaced");
                        report.add(Violation::new(Rule::Superseded, *t, what));
                        continue;
                    }
                    if *generation == highest || (*generation < highest && ruler == Some(*client)) {
                        let what =
                            format!("client {client} attached with generation {generation} again");
                        report.add(Violation::new(Rule::Reused, *t, what));
                        continue;
                    }
                    if *generation < highest {
                        // It was replaced before it knew that it is attached.
                        let by = self.attaches.last().copied().unwrap_or(0);
                        self.superseded.insert(*client, by);
                        continue;
                    }
                    highest = *generation;
                    for other in self.attached.keys().filter(|&other| other != client) {
                        if *forced && !self.superseded.contains_key(other) {
                            self.apart.insert(*other);
                        }
                        self.superseded.entry(*other).or_insert(at);
                    }
                    if ruler.is_some_and(|ruler| ruler != *client) {
                        let mut may_go = Sectors::default();
                        for (_, sectors) in lost
                            .iter()
                            .filter(|(&member, _)| crate::contains(*set, member))
                        {
                            may_go.unite(sectors);
                        }
                        let before = self.attaches.last().copied().unwrap_or(0);
                        self.boundaries.push(Boundary {
                            at,
                            forced: *forced,
                            lost: may_go,
                            stable: before,
                        });
                    }
                    self.attaches.push(at);
                    ruler = Some(*client);
                    in_sync = Some(*set);
                    // Every member in sync has flushed.
                    lost.clear();
                }
                Event::Invoke { .. } | Event::Return { .. } | Event::Gone { .. } => {}
            }
        }
    }

    /// Moves the stable moments on to the begin of the last flush that succeeded. One that is answered after the attach
    /// counts: it was executed before.
    fn find_stable(&mut self, ops: &[Op<'_>]) {
        let flushes = ops
            .iter()
            .filter(|op| matches!(op.what, Operation::Flush) && op.succeeded());
        // Requests are in the order of their begins, so these are.
        let begins: Vec<usize> = flushes
            .filter(|op| op.invoked < self.superseded(op.client))
            .map(|op| op.invoked)
            .collect();
        for boundary in &mut self.boundaries {
            let index = begins.partition_point(|&begin| begin < boundary.at);
            if let Some(&begin) = index.checked_sub(1).and_then(|last| begins.get(last)) {
                boundary.stable = boundary.stable.max(begin);
            }
        }
    }

    /// A client asks nothing before it is attached; but of a history that knows of no attach at all it is not expected.
    fn check_attached(&self, ops: &[Op<'_>], events: &[Event], report: &mut Report) {
        if self.attached.is_empty() {
            return;
        }
        for op in ops {
            if self
                .attached
                .get(&op.client)
                .is_none_or(|&at| at > op.invoked)
            {
                let what = format!("#{} of client {}, which is not attached", op.id, op.client);
                report.add(Violation::new(
                    Rule::Malformed,
                    time_at(events, op.invoked),
                    what,
                ));
            }
        }
    }

    fn check_superseded(&self, op: &Op<'_>, quorum: bool, events: &[Event], report: &mut Report) {
        let may = self.apart.contains(&op.client)
            || (quorum && matches!(op.what, Operation::Read { .. }));
        if op.succeeded() && op.invoked > self.superseded(op.client) && !may {
            let time = time_at(events, op.invoked);
            let what = format!(
                "#{} of client {} succeeded, which had been replaced",
                op.id, op.client
            );
            report.add(Violation::new(Rule::Superseded, time, what));
        }
    }
}

/// The last position at which something takes effect before the attach at this one; one more is left, to be after that.
pub(crate) fn before(attach: usize) -> usize {
    attach.saturating_sub(2)
}
