// SPDX-License-Identifier: GPL-2.0

//! The check of one sector: cuts its operations into eras, each of which is a linearizable register.
//!
//! An era ends with an attach at which the sector may go back (`eras`). What it holds afterwards is not told: it is
//! the value that is read in the next era and not written there. That it was there to go back to is checked as a read of that
//! value in the era before, between the stable moment and the attach.

use crate::eras::before;
use crate::eras::Eras;
use crate::history::describe;
use crate::history::time_at;
use crate::history::Event;
use crate::history::Initial;
use crate::history::Op;
use crate::history::Operation;
use crate::history::Outcome;
use crate::history::Report;
use crate::search::search;
use crate::search::Found;
use crate::search::Item;
use crate::violation::Rule;
use crate::violation::Seconds;
use crate::violation::Violation;
use crate::zones;
use crate::zones::Conflict;
use crate::zones::Source;
use crate::zones::Span;
use crate::zones::Zone;
use rustc_hash::FxHashMap;
use rustc_hash::FxHashSet;

/// A history, prepared.
pub(crate) struct Checker<'a> {
    pub(crate) ops: &'a [Op<'a>],
    pub(crate) eras: &'a Eras,
    pub(crate) events: &'a [Event],
    pub(crate) initial: Initial,
    pub(crate) quorum: bool,
}

/// Accesses to a sector that are few enough to be compared with those to its neighbour.
const FEW: usize = 256;

/// One request to one sector.
#[derive(Clone, Copy)]
struct Access {
    op: usize,
    value: u64,
}

/// What a request wrote or read, sector by sector.
struct Touched<'a> {
    op: usize,
    begin: u64,
    values: &'a [u64],
}

impl Touched<'_> {
    /// The sector after the last one.
    fn end(&self) -> u64 {
        self.begin.saturating_add(self.values.len() as u64)
    }

    fn at(&self, sector: u64) -> Option<Access> {
        let place = sector.checked_sub(self.begin)?;
        let value = *self.values.get(usize::try_from(place).ok()?)?;
        let op = self.op;
        Some(Access { op, value })
    }
}

/// What is the same of sectors that need only one check.
#[derive(PartialEq)]
struct Shape {
    /// Request, and a name for the value.
    accesses: Vec<(usize, usize)>,
    /// Which of the places where content may go back are so for the sector.
    lost: Vec<bool>,
}

/// A place where content may go back, as one sector sees it.
#[derive(Clone, Copy)]
struct Cut {
    at: usize,
    forced: bool,
    stable: usize,
}

/// What happened to a sector in one era.
#[derive(Default)]
struct Era {
    writes: Vec<Span>,
    /// Values of writes that may also have had no effect.
    optional: FxHashSet<usize>,
    reads: Vec<Span>,
}

impl Checker<'_> {
    pub(crate) fn check(&self, report: &mut Report) {
        let touched = self.touched();
        let mut coming = touched.iter().peekable();
        // Those that touch the sector, in the order of their begins.
        let mut here: Vec<&Touched<'_>> = Vec::new();
        let mut accesses = Vec::new();
        let mut before: Option<Shape> = None;
        let mut sector = 0;
        loop {
            here.retain(|touched| touched.end() > sector);
            if here.is_empty() {
                let Some(first) = coming.peek() else { return };
                sector = first.begin;
            }
            while let Some(new) = coming.next_if(|new| new.begin == sector) {
                let place = here.partition_point(|other| other.op < new.op);
                here.insert(place, new);
            }
            let ends = here.iter().map(|touched| touched.end());
            let until = ends.chain(coming.peek().map(|new| new.begin)).min();
            for sector in sector..until.unwrap_or(sector) {
                accesses.clear();
                accesses.extend(here.iter().filter_map(|touched| touched.at(sector)));
                self.check_next(sector, &accesses, &mut before, report);
            }
            sector = until.unwrap_or(sector);
        }
    }

    /// Checks a sector, if it is not as the one `before`.
    fn check_next(
        &self,
        sector: u64,
        accesses: &[Access],
        before: &mut Option<Shape>,
        report: &mut Report,
    ) {
        // Neighbours are mostly written and read by the same requests: what is good of the one is good of the other.
        let shape = (accesses.len() <= FEW).then(|| self.shape(sector, accesses));
        let found = report.violations.len() as u64 + report.more + report.undecided;
        if shape.is_none() || *before != shape {
            self.check_sector(sector, accesses, report);
        }
        let found_after = report.violations.len() as u64 + report.more + report.undecided;
        *before = shape.filter(|_| found == found_after);
        report.sectors += 1;
    }

    /// What happened to a sector, but for what its values are called: the first one is 1, the next other one 2.
    fn shape(&self, sector: u64, accesses: &[Access]) -> Shape {
        let mut names: Vec<u64> = vec![0];
        let named = accesses.iter().map(|access| {
            let known = names.iter().rposition(|&value| value == access.value);
            let name = known.unwrap_or_else(|| {
                names.push(access.value);
                names.len() - 1
            });
            (access.op, name)
        });
        let lost = self.eras.boundaries.iter();
        Shape {
            accesses: named.collect(),
            lost: lost.map(|cut| cut.lost.contains(sector)).collect(),
        }
    }

    /// What is known of what requests wrote and read, by the first sector.
    fn touched(&self) -> Vec<Touched<'_>> {
        let all = self.ops.iter().enumerate().filter_map(|(op, request)| {
            let (begin, values) = match (request.what, request.returned) {
                (Operation::Write { sector, values, .. }, _) => (*sector, values),
                (Operation::Read { sector, .. }, Some((at, Outcome::Ok(values)))) => {
                    if self.eras.exempt(request.client, at, self.quorum) {
                        return None;
                    }
                    (*sector, values)
                }
                _ => return None,
            };
            let touched = Touched { op, begin, values };
            (!values.is_empty()).then_some(touched)
        });
        let mut touched: Vec<Touched<'_>> = all.collect();
        touched.sort_by_key(|touched| touched.begin);
        touched
    }

    fn check_sector(&self, sector: u64, accesses: &[Access], report: &mut Report) {
        let cuts = self.cuts(sector, accesses);
        let mut violated = |time, rule, what: String| {
            report.add(Violation::new(
                rule,
                time,
                format!("sector {sector}: {what}"),
            ));
        };
        // Which era a value is written in; `None`: by a client that had been replaced.
        let mut written: FxHashMap<u64, Option<usize>> = FxHashMap::default();
        let mut eras: Vec<Era> = Vec::new();
        eras.resize_with(cuts.len() + 1, Era::default);
        for access in accesses {
            let Some(op) = self.ops.get(access.op) else {
                continue;
            };
            if !matches!(op.what, Operation::Write { .. }) {
                continue;
            }
            let era = era_of(&cuts, op.invoked);
            let end = self.eras.end_of_write(op);
            let effective = (end >= op.invoked).then_some(era);
            // Zeroes are at home in every era.
            if access.value != 0 && written.insert(access.value, effective).is_some() {
                let what = format!("value {:#x} is written twice", access.value);
                violated(self.time(op.invoked), Rule::Malformed, what);
                return;
            }
            if let (Some(_), Some(into)) = (effective, eras.get_mut(era)) {
                if !op.succeeded() {
                    into.optional.insert(access.op);
                }
                into.writes.push(Span {
                    begin: op.invoked,
                    end: end.min(cuts.get(era).map_or(usize::MAX, |cut| before(cut.at))),
                    value: access.value,
                    source: Source::Op(access.op),
                });
            }
        }
        for access in accesses {
            let Some(op) = self.ops.get(access.op) else {
                continue;
            };
            let (Operation::Read { .. }, Some((end, _))) = (op.what, op.returned) else {
                continue;
            };
            let replaced = self.eras.superseded(op.client);
            let end = if op.invoked < replaced {
                end.min(before(replaced))
            } else {
                end
            };
            let (first, last) = (era_of(&cuts, op.invoked), era_of(&cuts, end));
            let era = match written.get(&access.value) {
                Some(Some(era)) => (*era).clamp(first, last),
                _ => first,
            };
            let begin = era
                .checked_sub(1)
                .and_then(|before| cuts.get(before))
                .map_or(0, |cut| cut.at);
            if let Some(into) = eras.get_mut(era) {
                into.reads.push(Span {
                    begin: op.invoked.max(begin),
                    end: end.min(cuts.get(era).map_or(usize::MAX, |cut| before(cut.at))),
                    value: access.value,
                    source: Source::Op(access.op),
                });
            }
        }
        while let Some(era) = eras.pop() {
            let cut = eras
                .len()
                .checked_sub(1)
                .and_then(|before| cuts.get(before))
                .copied();
            match self.check_era(era, cut, &written) {
                Ok(Checked::Good(found)) => {
                    let (Some(found), Some(cut)) = (found, cut) else {
                        continue;
                    };
                    if cut.forced {
                        // Anything that was ever there before.
                        let known = match written.get(&found) {
                            Some(Some(era)) => *era < eras.len(),
                            Some(None) => false,
                            None => self.initial == Initial::Unknown,
                        };
                        if !known && found != 0 {
                            let what = format!("holds {found:#x} after a forced attach, which was not written before");
                            violated(self.time(cut.at), Rule::Corruption, what);
                            return;
                        }
                    } else if let Some(before) = eras.last_mut() {
                        before.reads.push(Span {
                            begin: cut.stable,
                            end: cut.at,
                            value: found,
                            source: Source::Attach(cut.at),
                        });
                    }
                }
                Ok(Checked::Undecided) => {
                    report.undecided += 1;
                    return;
                }
                Err((time, rule, what)) => {
                    violated(time, rule, what);
                    return;
                }
            }
        }
    }

    /// Where this sector may go back, and what was stable there.
    fn cuts(&self, sector: u64, accesses: &[Access]) -> Vec<Cut> {
        let boundaries = self.eras.boundaries.iter();
        let mut cuts: Vec<Cut> = boundaries
            .filter(|boundary| boundary.forced || boundary.lost.contains(sector))
            .map(|boundary| Cut {
                at: boundary.at,
                forced: boundary.forced,
                stable: boundary.stable,
            })
            .collect();
        if cuts.is_empty() {
            return cuts;
        }
        for access in accesses {
            let Some(op) = self.ops.get(access.op) else {
                continue;
            };
            if matches!(op.what, Operation::Write { fua: true, .. }) && op.succeeded() {
                let stable = self.eras.end_of_write(op) + 1;
                for cut in cuts.iter_mut().filter(|cut| cut.at > op.invoked) {
                    cut.stable = cut.stable.max(stable.min(cut.at));
                }
            }
        }
        cuts
    }

    /// Checks one era; returns the value that it must have begun with, if there is one.
    fn check_era(
        &self,
        mut era: Era,
        cut: Option<Cut>,
        written: &FxHashMap<u64, Option<usize>>,
    ) -> Result<Checked, (u64, Rule, String)> {
        let here: FxHashSet<u64> = era.writes.iter().map(|write| write.value).collect();
        let ambiguous = here.contains(&0) && era.reads.iter().any(|read| read.value == 0);
        let mut found: Option<Span> = None;
        for read in era.reads.iter().filter(|read| !here.contains(&read.value)) {
            let known = match written.get(&read.value) {
                // Its write, if it is of a later era, has not begun.
                Some(Some(_)) => cut.is_some(),
                Some(None) => false,
                None => read.value == 0 || self.initial == Initial::Unknown,
            };
            if !known {
                let rule = match written.get(&read.value) {
                    Some(Some(_)) => Rule::Register,
                    Some(None) => Rule::Superseded,
                    None => Rule::Corruption,
                };
                let why = match rule {
                    Rule::Register => "before it was written",
                    Rule::Superseded => "that only a replaced client wrote",
                    _ => "that nobody wrote",
                };
                return Err((
                    self.time(read.begin),
                    rule,
                    format!("{} {why}", self.name(read.source, read.value)),
                ));
            }
            match found {
                Some(other) if other.value != read.value => {
                    let what = format!(
                        "two values of before: {}; {}",
                        self.name(other.source, other.value),
                        self.name(read.source, read.value)
                    );
                    let found_by_attach = |span: &Span| matches!(span.source, Source::Attach(_));
                    let rule = if found_by_attach(read) || found_by_attach(&other) {
                        Rule::Durability
                    } else {
                        Rule::Register
                    };
                    return Err((self.time(read.begin.max(other.begin)), rule, what));
                }
                _ => found = Some(*read),
            }
        }
        let begin = cut.map_or(0, |cut| cut.at);
        let initial = match (found, cut, self.initial) {
            (Some(read), ..) => Some(read.value),
            (None, None, Initial::Zero) => Some(0),
            _ => None,
        };
        if ambiguous {
            return self.search_era(&era, initial);
        }
        let seen: FxHashSet<u64> = era.reads.iter().map(|read| read.value).collect();
        let optional = &era.optional;
        era.writes.retain(|write| match write.source {
            Source::Op(op) => !optional.contains(&op) || seen.contains(&write.value),
            _ => true,
        });
        // Zeroes that nobody reads are so many different values.
        let mut unseen = Vec::new();
        if !seen.contains(&0) {
            for write in era.writes.iter().filter(|write| write.value == 0) {
                unseen.push(*write);
            }
            era.writes.retain(|write| write.value != 0);
        }
        if let Some(value) = initial.filter(|value| seen.contains(value) && !here.contains(value)) {
            era.writes.push(Span {
                begin,
                end: begin,
                value,
                source: Source::Initial,
            });
        }
        match zones::check(&era.writes, &era.reads, &unseen) {
            Ok(()) => Ok(Checked::Good(found.map(|read| read.value))),
            Err(conflict) => Err(self.explain(conflict)),
        }
    }

    /// The slow way, for an era in which zeroes are written and read.
    fn search_era(&self, era: &Era, initial: Option<u64>) -> Result<Checked, (u64, Rule, String)> {
        let seen: FxHashSet<u64> = era.reads.iter().map(|read| read.value).collect();
        let mut items: Vec<Item> = Vec::new();
        for &span in &era.writes {
            let optional = matches!(span.source, Source::Op(op) if era.optional.contains(&op));
            if !optional || seen.contains(&span.value) {
                let write = true;
                items.push(Item {
                    span,
                    write,
                    optional,
                });
            }
        }
        items.extend(era.reads.iter().map(|&span| Item {
            span,
            write: false,
            optional: false,
        }));
        let mut result = search(&items, initial);
        let mut begins_with = initial;
        if matches!(result, Found::None(_)) && initial.is_none() {
            begins_with = Some(0);
            result = search(&items, begins_with);
        }
        match result {
            Found::Order => Ok(Checked::Good(begins_with)),
            Found::Undecided => Ok(Checked::Undecided),
            Found::None(span) => {
                let what = format!(
                    "no order has a place for: {}",
                    self.name(span.source, span.value)
                );
                let rule = match span.source {
                    Source::Attach(_) => Rule::Durability,
                    _ => Rule::Register,
                };
                Err((self.time(span.begin), rule, what))
            }
        }
    }

    fn explain(&self, conflict: Conflict) -> (u64, Rule, String) {
        match conflict {
            Conflict::Early { read, write } => {
                let read_name = self.name(read.source, read.value);
                let write_name = self.name(write.source, write.value);
                let what = format!("read before it was written: {read_name}; {write_name}");
                (self.time(write.begin), Rule::Register, what)
            }
            Conflict::Overlap(a, b) => {
                let what = format!("two values at once: {}; {}", self.zone(&a), self.zone(&b));
                (self.time(b.first_end.0), rule_of(&a, &b), what)
            }
            Conflict::Inside(outer, inner) => {
                let lost = self.name(inner.first_end.1, inner.value);
                let what = format!("lost: {lost}; but {}", self.zone(&outer));
                (self.time(outer.last_begin.0), rule_of(&outer, &inner), what)
            }
        }
    }

    fn zone(&self, zone: &Zone) -> String {
        let first = self.name(zone.first_end.1, zone.value);
        let last = self.name(zone.last_begin.1, zone.value);
        let from = Seconds(self.time(zone.first_end.0));
        let to = Seconds(self.time(zone.last_begin.0));
        format!(
            "{:#x} was there from {from} to {to} ({first}; {last})",
            zone.value
        )
    }

    fn name(&self, source: Source, value: u64) -> String {
        match source {
            Source::Op(op) => self
                .ops
                .get(op)
                .map_or_else(String::new, |op| describe(op, value, self.events)),
            Source::Attach(at) => format!(
                "value {value:#x} found after the attach at {}",
                Seconds(self.time(at))
            ),
            Source::Initial => format!("value {value:#x} at the begin"),
        }
    }

    fn time(&self, position: usize) -> u64 {
        time_at(self.events, position)
    }
}

/// The result of an era that is good, as far as known.
enum Checked {
    /// It began with this value, or with any.
    Good(Option<u64>),
    /// Too hard.
    Undecided,
}

fn rule_of(a: &Zone, b: &Zone) -> Rule {
    let sources = [a.first_end.1, a.last_begin.1, b.first_end.1, b.last_begin.1];
    if sources
        .iter()
        .any(|source| matches!(source, Source::Attach(_)))
    {
        Rule::Durability
    } else {
        Rule::Register
    }
}

/// The era a position is in: the number of cuts before it.
fn era_of(cuts: &[Cut], position: usize) -> usize {
    cuts.partition_point(|cut| cut.at < position)
}
