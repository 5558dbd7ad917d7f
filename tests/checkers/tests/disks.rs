// SPDX-License-Identifier: GPL-2.0

//! R11 and equality on small worlds made by hand, and on random ones.

use proptest::prelude::*;
use rmr_checkers::disks::Disks;
use rmr_checkers::disks::Geometry;
use rmr_checkers::disks::Marks;
use rmr_checkers::disks::Roles;
use rmr_checkers::Rule;
use std::collections::BTreeSet;

/// Marks as plain sets. Extents are as large as chunks.
#[derive(Clone, Default)]
struct Sets {
    down: BTreeSet<u8>,
    dirty: BTreeSet<(u8, u8, u64)>,
    suspect: BTreeSet<(u8, u64)>,
    logged: BTreeSet<(u8, u64)>,
}

impl Marks for Sets {
    fn receives(&self, member: u8) -> bool {
        self.up(member)
    }
    fn up(&self, member: u8) -> bool {
        !self.down.contains(&member)
    }
    fn dirty(&self, holder: u8, of: u8, chunk: u64) -> bool {
        self.dirty.contains(&(holder, of, chunk))
    }
    fn suspect(&self, member: u8, chunk: u64) -> bool {
        self.suspect.contains(&(member, chunk))
    }
    fn logged(&self, member: u8, chunk: u64) -> bool {
        self.logged.contains(&(member, chunk))
    }
}

const GEOMETRY: Geometry = Geometry {
    sectors: 64,
    chunk_sectors: 8,
};

/// Of three members.
fn roles(in_sync: u32, catching_up: u32) -> Roles {
    Roles {
        table: 0b111,
        in_sync,
        catching_up,
    }
}

fn rule(result: Result<(), rmr_checkers::Violation>) -> Option<Rule> {
    result.err().map(|violation| violation.rule)
}

/// Member 3 misses a completed write to sector 9.
fn missed() -> Disks {
    let mut disks = Disks::new(GEOMETRY, 0b111);
    disks.configured(roles(0b011, 0));
    disks.started(1, 9, &[5]);
    disks.wrote(1, [(9, 5)]);
    disks.wrote(2, [(9, 5)]);
    disks.completed(1);
    disks
}

#[test]
fn a_missed_write_is_marked_by_all_in_sync() {
    let mut marks = Sets::default();
    assert_eq!(
        rule(missed().check_touched(0, &marks)),
        Some(Rule::Unmarked)
    );
    marks.dirty.insert((1, 3, 1));
    assert_eq!(
        rule(missed().check_touched(0, &marks)),
        Some(Rule::Unmarked)
    );
    marks.dirty.insert((2, 3, 1));
    assert_eq!(rule(missed().check_touched(0, &marks)), None);
    assert_eq!(missed().differing(3), 1);
}

#[test]
fn what_cannot_be_read_is_no_copy() {
    let (mut disks, marks) = (missed(), Sets::default());
    disks.unreadable(3, &[9]);
    assert_eq!(rule(disks.check_touched(0, &marks)), None);
    assert_eq!(rule(disks.check_equal(0, &marks)), None);
    // It is of no use to a first configuration, and what the others hold stays right.
    disks.attached(roles(0b100, 0));
    assert_eq!(rule(disks.check_equal(0, &marks)), None);
    // Forgotten, but not written.
    disks.unreadable(3, &[8]);
    assert_eq!(rule(disks.check_touched(0, &marks)), Some(Rule::Unmarked));
}

#[test]
fn a_mark_that_goes_is_missed() {
    let mut disks = missed();
    let mut marks = Sets::default();
    marks.dirty.extend([(1, 3, 1), (2, 3, 1)]);
    // Twice: only what changes in between is looked at the second time.
    assert_eq!(rule(disks.check_all(0, &marks)), None);
    assert_eq!(rule(disks.check_all(0, &marks)), None);
    marks.dirty.remove(&(2, 3, 1));
    assert_eq!(rule(disks.check_all(0, &marks)), Some(Rule::Unmarked));
    assert_eq!(rule(disks.check_all(0, &marks)), Some(Rule::Unmarked));
    marks.dirty.insert((3, 3, 1));
    assert_eq!(rule(disks.check_all(0, &marks)), None);
}

#[test]
fn or_by_itself() {
    let mut marks = Sets::default();
    marks.dirty.insert((3, 3, 1));
    assert_eq!(rule(missed().check_all(0, &marks)), None);
    let mut marks = Sets::default();
    marks.suspect.insert((3, 1));
    assert_eq!(rule(missed().check_all(0, &marks)), None);
    // The log counts only when it will be read.
    let mut marks = Sets::default();
    marks.logged.insert((3, 1));
    assert_eq!(rule(missed().check_all(0, &marks)), Some(Rule::Unmarked));
    marks.down.insert(3);
    assert_eq!(rule(missed().check_all(0, &marks)), None);
}

#[test]
fn who_is_not_in_sync_knows_what_the_others_missed() {
    let mut disks = missed();
    let mut marks = Sets::default();
    marks.dirty.insert((3, 2, 1));
    assert_eq!(rule(disks.check_all(0, &marks)), Some(Rule::Unmarked));
    // Until it is a receiver again.
    marks.down.insert(3);
    assert_eq!(rule(disks.check_all(0, &marks)), None);
}

#[test]
fn suspects_of_another_do_not_count() {
    let mut disks = Disks::new(GEOMETRY, 0b111);
    disks.configured(roles(0b011, 0b100));
    // Pulled from member 2, before it was sent; others may start without either.
    disks.started(1, 9, &[5]);
    disks.wrote(2, [(9, 5)]);
    let mut marks = Sets::default();
    marks.suspect.insert((2, 1));
    assert_eq!(rule(disks.check_all(0, &marks)), None);
    disks.wrote(3, [(9, 5)]);
    assert_eq!(rule(disks.check_all(0, &marks)), Some(Rule::Unmarked));
    marks.dirty.insert((3, 3, 1));
    assert_eq!(rule(disks.check_all(0, &marks)), None);
}

#[test]
fn an_attach_without_a_member() {
    let mut disks = missed();
    let left = Roles {
        table: 0b011,
        ..roles(0b011, 0)
    };
    // Who was to leave has to be marked until that is complete, but for an attach that begins without it.
    disks.installing(left);
    let marks = Sets::default();
    assert_eq!(rule(disks.check_all(0, &marks)), Some(Rule::Unmarked));
    disks.attaching(left);
    assert_eq!(rule(disks.check_all(0, &marks)), None);
}

#[test]
fn a_keeper_that_is_down_has_its_log() {
    let mut marks = Sets::default();
    marks.dirty.insert((1, 3, 1));
    marks.logged.insert((2, 1));
    assert_eq!(rule(missed().check_all(0, &marks)), Some(Rule::Unmarked));
    marks.down.insert(2);
    assert_eq!(rule(missed().check_all(0, &marks)), None);
}

#[test]
fn a_mark_too_early_gone() {
    let mut disks = missed();
    let mut marks = Sets::default();
    marks.dirty.extend([(1, 3, 1), (2, 3, 1)]);
    assert_eq!(rule(disks.check_touched(0, &marks)), None);
    marks.dirty.remove(&(2, 3, 1));
    disks.touch(1);
    assert_eq!(rule(disks.check_touched(0, &marks)), Some(Rule::Unmarked));
    disks.wrote(3, [(9, 5)]);
    assert_eq!(rule(disks.check_touched(0, &marks)), None);
}

#[test]
fn in_flight() {
    let mut disks = Disks::new(GEOMETRY, 0b11);
    disks.started(1, 0, &[5]);
    disks.wrote(1, [(0, 5)]);
    let mut marks = Sets::default();
    // Nobody would notice if the client died now.
    assert_eq!(rule(disks.check_touched(0, &marks)), Some(Rule::Unmarked));
    marks.suspect.insert((1, 0));
    assert_eq!(rule(disks.check_all(0, &marks)), None);
    assert_eq!(rule(disks.check_equal(0, &marks)), None);
    disks.completed(1);
    assert_eq!(rule(disks.check_all(0, &marks)), Some(Rule::Unmarked));
}

#[test]
fn of_a_client_that_is_gone() {
    let source = |in_sync| Roles {
        table: 0b11,
        ..roles(in_sync, 0)
    };
    let mut disks = Disks::new(GEOMETRY, 0b11);
    disks.started(1, 0, &[5]);
    disks.wrote(1, [(0, 5)]);
    disks.failed(1);
    let mut marks = Sets::default();
    marks.suspect.insert((1, 0));
    assert_eq!(rule(disks.check_all(0, &marks)), None);
    // The attach made member 1 the source, and forgot member 2.
    disks.attached(source(0b01));
    marks.suspect.clear();
    assert_eq!(rule(disks.check_all(0, &marks)), Some(Rule::Unmarked));
    marks.dirty.insert((2, 2, 0));
    assert_eq!(rule(disks.check_all(0, &marks)), None);
    // Or member 2, and forgot member 1.
    disks.attached(source(0b10));
    assert_eq!(
        rule(disks.check_all(0, &Sets::default())),
        Some(Rule::Unmarked)
    );
}

#[test]
fn while_it_is_installed() {
    let mut disks = Disks::new(GEOMETRY, 0b111);
    disks.started(1, 0, &[5]);
    disks.wrote(1, [(0, 5)]);
    disks.failed(1);
    let mut marks = Sets::default();
    marks.dirty.extend([(1, 3, 0), (1, 2, 0), (2, 2, 0)]);
    // Member 3 is away, was in sync, and will not be in the next.
    assert_eq!(rule(disks.check_all(0, &marks)), Some(Rule::Unmarked));
    disks.installing(roles(0b001, 0));
    assert_eq!(rule(disks.check_all(0, &marks)), None);
}

#[test]
fn one_content_for_all() {
    // Two writes that were given up: both values are possible, but not one on each.
    let mut disks = Disks::new(GEOMETRY, 0b11);
    disks.started(1, 0, &[5]);
    disks.started(2, 0, &[6]);
    disks.wrote(1, [(0, 5)]);
    disks.wrote(2, [(0, 6)]);
    disks.failed(1);
    disks.failed(2);
    assert_eq!(
        rule(disks.check_all(0, &Sets::default())),
        Some(Rule::Unmarked)
    );
    disks.wrote(2, [(0, 5)]);
    assert_eq!(rule(disks.check_all(0, &Sets::default())), None);
}

#[test]
fn another_disk() {
    let mut disks = missed();
    let mut marks = Sets::default();
    marks.dirty.extend([(1, 3, 1), (2, 3, 1)]);
    disks.replaced(2);
    assert_eq!(rule(disks.check_touched(0, &marks)), Some(Rule::Unmarked));
    disks.configured(Roles {
        table: 0b101,
        ..roles(0b001, 0)
    });
    assert_eq!(rule(disks.check_all(0, &marks)), None);
}

#[test]
fn equal() {
    let mut disks = missed();
    let mut marks = Sets::default();
    marks.dirty.extend([(1, 3, 1), (2, 3, 1)]);
    assert_eq!(rule(disks.check_equal(0, &marks)), None);
    // Both in sync hold what was never completed: no violation of R11 if suspect, but of this.
    disks.wrote(1, [(9, 77)]);
    disks.wrote(2, [(9, 77)]);
    marks.suspect.insert((1, 1));
    assert_eq!(rule(disks.check_equal(0, &marks)), Some(Rule::Unmarked));
}

/// The rule, by the word, for each sector; as slow as can be.
fn oracle(values: &[[u64; 64]; 3], content: &[u64; 64], in_sync: u32, marks: &Sets) -> bool {
    let members = [1_u8, 2, 3];
    let is_in_sync = |member: u8| in_sync & (1 << (member - 1)) != 0;
    (0..64_u64).all(|sector| {
        let chunk = sector / 8;
        members.iter().all(|&member| {
            let equal =
                values[usize::from(member) - 1][sector as usize] == content[sector as usize];
            let others: Vec<u8> = members
                .iter()
                .copied()
                .filter(|&o| o != member && is_in_sync(o))
                .collect();
            let kept = !others.is_empty()
                && others.iter().all(|&keeper| {
                    marks.dirty(keeper, member, chunk)
                        || (!marks.up(keeper) && marks.logged(keeper, chunk))
                });
            let own = marks.dirty(member, member, chunk)
                || marks.suspect(member, chunk)
                || (!marks.up(member) && marks.logged(member, chunk));
            let outside = !is_in_sync(member);
            let knows = !marks.receives(member)
                && others
                    .iter()
                    .any(|&other| marks.dirty(member, other, chunk));
            equal || kept || own || outside && knows
        })
    })
}

proptest! {
    /// Random contents and marks, changed step by step: the incremental check says what the rule says.
    #[test]
    fn incremental(
        in_sync in 1_u32..8,
        catching_up in 0_u32..8,
        changes in prop::collection::vec((0_u8..8, 0_u64..64, 0_u64..3, 1_u8..4), 1..120),
    ) {
        let mut disks = Disks::new(GEOMETRY, 0b111);
        disks.configured(roles(in_sync, catching_up));
        let mut marks = Sets::default();
        let mut values = [[0_u64; 64]; 3];
        let mut content = [0_u64; 64];
        for (op, (kind, sector, value, member)) in changes.into_iter().enumerate() {
            let chunk = sector / 8;
            match kind {
                0 | 1 => {
                    values[usize::from(member) - 1][sector as usize] = value;
                    disks.wrote(member, [(sector, value)]);
                }
                2 => {
                    let op = op as u64;
                    disks.started(op, sector, &[value]);
                    disks.completed(op);
                    content[sector as usize] = value;
                }
                3 => { marks.dirty.insert(((value + 1) as u8, member, chunk)); }
                4 => { marks.suspect.insert((member, chunk)); }
                5 => { marks.logged.insert((member, chunk)); }
                6 => { if !marks.down.insert(member) { marks.down.remove(&member); } }
                _ => {
                    marks.dirty.remove(&((value + 1) as u8, member, chunk));
                    marks.suspect.remove(&(member, chunk));
                }
            }
            let good = disks.check_all(0, &marks).is_ok();
            prop_assert_eq!(good, oracle(&values, &content, in_sync, &marks));
        }
    }
}
