// SPDX-License-Identifier: GPL-2.0

//! What clients asked and were answered, and whether a disk could have answered so.
//!
//! Each sector of 512 bytes is a register on its own that holds a `u64`. What is checked:
//!
//! * **Linearizable**: every acknowledged write takes effect at one moment between request and answer, and every
//!   read returns what the register holds at one moment between request and answer.
//! * A write that was **not acknowledged** takes effect once or never, and not at any time: if it failed alone
//!   ([`Outcome::Error`]) until its answer; if the client crashed, was replaced or had no data
//!   ([`Outcome::Unknown`]) until the next attach is complete. From then on it is there, or not, for good.
//! * A **replaced client** (a client with a higher generation completed its attach) gets nothing done any more: what it
//!   begins later fails and has no effect; what it began before took effect before.
//! * **Losing acknowledged writes** is permitted at one moment only, the completion of an attach of *another* client than
//!   the last (so the device was closed, or its client is gone; the re-attach of a living client, R9, may lose nothing),
//!   and there only for a sector of which a member of the new in-sync set lost unstable content, and was in sync in
//!   every complete configuration from that loss to the attach (the design drops a member whose loss is noticed, and
//!   brings it up to date before it is in sync again). The sector may go back, no further than to a value it held
//!   at or after the *stable moment*: the begin of the last flush that succeeded, the end of a FUA write of the
//!   sector that succeeded, or the last attach, whichever is later.
//! * After a **forced** attach of another client a sector may hold any value it was ever asked to hold; but one.
//!   A client that was replaced so may go on, in a history of its own; nothing of that is looked at, and nothing of it
//!   may appear in the other.
//! * With quorum, reads of a replaced client that end after it was replaced are not looked at (docs/protocol.md).
//!
//! Values are unique per sector, except 0 (zeroes, discarded, never written): any number of writes may write that, at the
//! price of a slower check.
//!
//! The check costs n log n in the number of sectors accessed, with zones as in Gibbons and Korach, "Testing
//! shared memories" (1997), section 4; where zeroes are ambiguous, a search with a bounded number of states.

use crate::eras::Eras;
use crate::sector;
use crate::violation::Rule;
use crate::violation::Seconds;
use crate::violation::Time;
use crate::violation::Violation;
use rustc_hash::FxHashMap;
use rustc_hash::FxHashSet;
use serde::Deserialize;
use serde::Serialize;
use std::io;
use std::io::BufRead;
use std::io::Write;

/// Violations kept in a report; more are counted.
const KEPT: usize = 20;

/// What a client asks of the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Read this many sectors.
    Read {
        /// First sector.
        sector: u64,
        /// Number of sectors.
        count: u32,
    },
    /// Write, write zeroes or discard.
    Write {
        /// First sector.
        sector: u64,
        /// What each sector is to hold.
        values: Vec<u64>,
        /// Stable when acknowledged.
        #[serde(default)]
        fua: bool,
    },
    /// Make stable what was acknowledged before this request.
    Flush,
}

/// What a client is answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done; of a read, what each sector held.
    Ok(Vec<u64>),
    /// This request failed, the disk goes on: a write is there, or not, from now on.
    Error,
    /// The disk failed (no data, replaced, detached): a write may still take effect until the next attach.
    Unknown,
}

/// One thing that happened. The order of the events is the order in which they happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
pub enum Event {
    /// A request.
    Invoke {
        /// When, in ns.
        t: Time,
        /// Its number, unique in the history.
        op: u64,
        /// Who asks.
        client: u32,
        /// What.
        what: Operation,
    },
    /// Its answer. A request whose client crashes never has one.
    Return {
        /// When, in ns.
        t: Time,
        /// The number of the request.
        op: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// The first configuration of a generation is complete: IO starts.
    Attached {
        /// When, in ns.
        t: Time,
        /// Whose it is: one opening of the device. A host that crashed and returns is another client; one that attaches
        /// again while its device stays open (R9) is the same.
        client: u32,
        /// Number of the generation.
        generation: u64,
        /// The in-sync set of that configuration.
        in_sync: u32,
        /// By order of the administrator, against R7.
        #[serde(default)]
        forced: bool,
    },
    /// A client crashed, or closed its device: nothing of it is answered any more.
    Gone {
        /// When, in ns.
        t: Time,
        /// Which.
        client: u32,
    },
    /// A configuration became complete: the last of its receivers has persisted it.
    Config {
        /// When, in ns.
        t: Time,
        /// Its in-sync set.
        in_sync: u32,
    },
    /// A member lost unstable content: sectors of its disk hold again what they held before.
    CacheLost {
        /// When, in ns.
        t: Time,
        /// Which member.
        member: u8,
        /// Which sectors; `None`: unknown, so any.
        sectors: Option<Vec<u64>>,
    },
}

impl Event {
    /// When it happened, in ns.
    pub fn time(&self) -> Time {
        match *self {
            Event::Invoke { t, .. }
            | Event::Return { t, .. }
            | Event::Attached { t, .. }
            | Event::Gone { t, .. }
            | Event::Config { t, .. }
            | Event::CacheLost { t, .. } => t,
        }
    }
}

/// What the disk holds before the first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initial {
    /// Zeroes.
    #[default]
    Zero,
    /// Nobody knows.
    Unknown,
}

/// The events of a run.
#[derive(Clone, Debug, Default, Hash)]
pub struct History {
    events: Vec<Event>,
    initial: Initial,
    quorum: bool,
}

/// What [`History::check`] found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong, at most 20.
    pub violations: Vec<Violation>,
    /// How many more there are.
    pub more: u64,
    /// Sectors that could not be decided, for too many states of ambiguous zeroes.
    pub undecided: u64,
    /// Sectors that were accessed.
    pub sectors: u64,
    /// Requests.
    pub operations: u64,
}

impl Report {
    /// Nothing is wrong.
    pub fn good(&self) -> bool {
        self.violations.is_empty()
    }

    pub(crate) fn add(&mut self, violation: Violation) {
        if self.violations.len() < KEPT {
            self.violations.push(violation);
        } else {
            self.more += 1;
        }
    }
}

/// Positions of two events in a row are this far apart, so that there is room between them.
const STEP: usize = 4;

/// The position of an event. Position 0 is before everything.
pub(crate) fn position(index: usize) -> usize {
    (index + 1) * STEP
}

/// The time of the event at a position, or of the next one.
pub(crate) fn time_at(events: &[Event], position: usize) -> Time {
    let index = position.div_ceil(STEP).checked_sub(1);
    index
        .and_then(|index| events.get(index))
        .map_or(0, Event::time)
}

/// A request with its answer, positions in the history instead of times.
#[derive(Debug)]
pub(crate) struct Op<'a> {
    pub(crate) id: u64,
    pub(crate) client: u32,
    pub(crate) what: &'a Operation,
    pub(crate) invoked: usize,
    pub(crate) returned: Option<(usize, &'a Outcome)>,
}

impl Op<'_> {
    pub(crate) fn succeeded(&self) -> bool {
        matches!(self.returned, Some((_, Outcome::Ok(_))))
    }
}

impl History {
    /// An empty history.
    pub fn new(initial: Initial) -> History {
        History {
            initial,
            ..History::default()
        }
    }

    /// Whether the pool runs with `quorum=majority`.
    pub fn set_quorum(&mut self, quorum: bool) {
        self.quorum = quorum;
    }

    /// Notes what happened after everything noted before.
    pub fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    /// The events so far.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Writes the events, one line of JSON each.
    ///
    /// # Errors
    ///
    /// Those of `to`.
    pub fn to_json_lines(&self, to: &mut impl Write) -> io::Result<()> {
        for event in &self.events {
            serde_json::to_writer(&mut *to, event)?;
            to.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Appends events from lines of JSON; empty lines and those that begin with `#` are skipped.
    ///
    /// # Errors
    ///
    /// Those of `from`, and a line that is no event, with its number.
    pub fn read_json_lines(&mut self, from: impl BufRead) -> io::Result<()> {
        for (number, line) in from.lines().enumerate() {
            let line = line?;
            let text = line.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let event = serde_json::from_str(text).map_err(|error| {
                let what = format!("line {}: {error}", number + 1);
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?;
            self.events.push(event);
        }
        Ok(())
    }

    /// Checks everything noted so far.
    pub fn check(&self) -> Report {
        let mut report = Report::default();
        let ops = self.operations(&mut report);
        report.operations = ops.len() as u64;
        let eras = Eras::new(&self.events, &ops, self.quorum, &mut report);
        let checker = sector::Checker {
            ops: &ops,
            eras: &eras,
            events: &self.events,
            initial: self.initial,
            quorum: self.quorum,
        };
        checker.check(&mut report);
        report
    }

    /// Pairs requests with answers.
    fn operations(&self, report: &mut Report) -> Vec<Op<'_>> {
        let mut ops: Vec<Op<'_>> = Vec::new();
        let mut by_id: FxHashMap<u64, usize> = FxHashMap::default();
        let mut gone: FxHashSet<u32> = FxHashSet::default();
        let mut malformed = |time, what| report.add(Violation::new(Rule::Malformed, time, what));
        for (index, event) in self.events.iter().enumerate() {
            let position = position(index);
            match event {
                Event::Invoke {
                    t,
                    op,
                    client,
                    what,
                    ..
                } => {
                    if gone.contains(client) {
                        malformed(
                            *t,
                            format!("request #{op} of client {client}, which is gone"),
                        );
                    }
                    if by_id.insert(*op, ops.len()).is_some() {
                        malformed(*t, format!("request #{op} a second time"));
                    }
                    ops.push(Op {
                        id: *op,
                        client: *client,
                        what,
                        invoked: position,
                        returned: None,
                    });
                }
                Event::Return { t, op, outcome } => {
                    let Some(found) = by_id.get(op).and_then(|&index| ops.get_mut(index)) else {
                        malformed(*t, format!("answer to #{op}, which was not asked"));
                        continue;
                    };
                    if found.returned.is_some() {
                        malformed(*t, format!("a second answer to #{op}"));
                        continue;
                    }
                    if gone.contains(&found.client) {
                        malformed(
                            *t,
                            format!("answer to #{op} of client {}, which is gone", found.client),
                        );
                    }
                    if let (Operation::Read { count, .. }, Outcome::Ok(values)) =
                        (found.what, outcome)
                    {
                        if values.len() != *count as usize {
                            let n = values.len();
                            malformed(*t, format!("read #{op} of {count} sectors returned {n}"));
                            continue;
                        }
                    }
                    found.returned = Some((position, outcome));
                }
                Event::Gone { client, .. } => {
                    gone.insert(*client);
                }
                _ => {}
            }
        }
        ops
    }
}

/// How a request reads in a message.
pub(crate) fn describe(op: &Op<'_>, value: u64, events: &[Event]) -> String {
    let time = |position| Seconds(time_at(events, position));
    let what = match op.what {
        Operation::Read { .. } => "read",
        Operation::Write { fua: false, .. } => "write",
        Operation::Write { fua: true, .. } => "FUA write",
        Operation::Flush => "flush",
    };
    let end = match op.returned {
        Some((at, Outcome::Ok(_))) => format!("to {}", time(at)),
        Some((at, Outcome::Error)) => format!("failed at {}", time(at)),
        Some((at, Outcome::Unknown)) => format!("given up at {}", time(at)),
        None => "never answered".to_owned(),
    };
    let (id, client, begin) = (op.id, op.client, time(op.invoked));
    format!("{what} #{id} of client {client}, value {value:#x}, {begin} {end}")
}
