// SPDX-License-Identifier: GPL-2.0

//! Histories that are good, and what makes them bad, one rule each.

use proptest::prelude::*;
use rmr_checkers::history::Event;
use rmr_checkers::history::History;
use rmr_checkers::history::Initial;
use rmr_checkers::history::Operation;
use rmr_checkers::history::Outcome;
use rmr_checkers::history::Report;
use rmr_checkers::Rule;

/// Writes a history down; each event a millisecond after the last.
struct Story {
    history: History,
    t: u64,
    ops: u64,
}

impl Story {
    /// Client 1 is attached, members 1 and 2 are in sync.
    fn new() -> Story {
        let mut story = Story {
            history: History::new(Initial::Zero),
            t: 0,
            ops: 0,
        };
        story.attach(1, 1, 0b11);
        story
    }

    fn now(&mut self) -> u64 {
        self.t += 1_000_000;
        self.t
    }

    fn begin(&mut self, client: u32, what: Operation) -> u64 {
        self.ops += 1;
        let (t, op) = (self.now(), self.ops);
        self.history.push(Event::Invoke {
            t,
            op,
            client,
            what,
        });
        op
    }

    fn end(&mut self, op: u64, outcome: Outcome) {
        let t = self.now();
        self.history.push(Event::Return { t, op, outcome });
    }

    fn begin_write(&mut self, client: u32, value: u64) -> u64 {
        let (sector, values, fua) = (0, vec![value], false);
        self.begin(
            client,
            Operation::Write {
                sector,
                values,
                fua,
            },
        )
    }

    fn begin_read(&mut self, client: u32) -> u64 {
        self.begin(
            client,
            Operation::Read {
                sector: 0,
                count: 1,
            },
        )
    }

    fn done(&mut self, op: u64) {
        self.end(op, Outcome::Ok(Vec::new()));
    }

    fn write(&mut self, client: u32, value: u64) {
        let op = self.begin_write(client, value);
        self.done(op);
    }

    fn write_fua(&mut self, client: u32, value: u64) {
        let (sector, values, fua) = (0, vec![value], true);
        let op = self.begin(
            client,
            Operation::Write {
                sector,
                values,
                fua,
            },
        );
        self.done(op);
    }

    fn read(&mut self, client: u32, value: u64) {
        let op = self.begin_read(client);
        self.end(op, Outcome::Ok(vec![value]));
    }

    fn flush(&mut self, client: u32) {
        let op = self.begin(client, Operation::Flush);
        self.done(op);
    }

    fn attach(&mut self, client: u32, generation: u64, in_sync: u32) {
        let (t, forced) = (self.now(), false);
        self.history.push(Event::Attached {
            t,
            client,
            generation,
            in_sync,
            forced,
        });
    }

    fn force(&mut self, client: u32, generation: u64, in_sync: u32) {
        let (t, forced) = (self.now(), true);
        self.history.push(Event::Attached {
            t,
            client,
            generation,
            in_sync,
            forced,
        });
    }

    fn gone(&mut self, client: u32) {
        let t = self.now();
        self.history.push(Event::Gone { t, client });
    }

    fn configured(&mut self, in_sync: u32) {
        let t = self.now();
        self.history.push(Event::Config { t, in_sync });
    }

    fn cache_lost(&mut self, member: u8) {
        let t = self.now();
        let sectors = Some(vec![0]);
        self.history.push(Event::CacheLost { t, member, sectors });
    }

    fn check(&self) -> Report {
        self.history.check()
    }

    fn good(&self) {
        let report = self.check();
        assert!(
            report.good() && report.undecided == 0,
            "{:#?}",
            report.violations
        );
    }

    fn bad(&self, rule: Rule) {
        let report = self.check();
        let rules: Vec<Rule> = report
            .violations
            .iter()
            .map(|violation| violation.rule)
            .collect();
        assert!(
            rules.contains(&rule),
            "expected {rule:?}: {:#?}",
            report.violations
        );
    }
}

#[test]
fn plain() {
    let mut story = Story::new();
    story.read(1, 0);
    story.write(1, 1);
    story.read(1, 1);
    story.write(1, 2);
    story.read(1, 2);
    story.good();
    story.read(1, 1);
    story.bad(Rule::Register);
}

#[test]
fn at_once() {
    let mut story = Story::new();
    let write = story.begin_write(1, 1);
    let early = story.begin_read(1);
    let late = story.begin_read(1);
    story.end(early, Outcome::Ok(vec![1]));
    story.end(late, Outcome::Ok(vec![0]));
    story.done(write);
    story.good();
}

#[test]
fn not_back_in_time() {
    let mut story = Story::new();
    let write = story.begin_write(1, 1);
    story.read(1, 1);
    story.read(1, 0);
    story.done(write);
    story.bad(Rule::Register);
}

#[test]
fn what_nobody_wrote() {
    let mut story = Story::new();
    story.read(1, 7);
    story.bad(Rule::Corruption);
    let mut story = Story::new();
    story.read(1, 7);
    story.write(1, 7);
    story.bad(Rule::Register);
}

#[test]
fn written_elsewhere() {
    let mut story = Story::new();
    let values = vec![1, 2];
    let write = story.begin(
        1,
        Operation::Write {
            sector: 0,
            values,
            fua: false,
        },
    );
    story.done(write);
    let read = story.begin(
        1,
        Operation::Read {
            sector: 0,
            count: 2,
        },
    );
    story.end(read, Outcome::Ok(vec![1, 2]));
    story.good();
    let read = story.begin(
        1,
        Operation::Read {
            sector: 0,
            count: 2,
        },
    );
    story.end(read, Outcome::Ok(vec![2, 2]));
    story.bad(Rule::Corruption);
}

#[test]
fn crashed_write_there_or_not_for_good() {
    for there in [false, true] {
        let mut story = Story::new();
        story.write(1, 1);
        story.begin_write(1, 2);
        story.gone(1);
        story.attach(2, 2, 0b1);
        let value = if there { 2 } else { 1 };
        story.read(2, value);
        story.read(2, value);
        story.good();
        story.read(2, 3 - value);
        story.bad(Rule::Register);
    }
}

#[test]
fn failed_write_there_or_not_from_its_end() {
    let mut story = Story::new();
    story.write(1, 1);
    let write = story.begin_write(1, 2);
    story.end(write, Outcome::Error);
    story.read(1, 1);
    story.good();
    story.read(1, 2);
    story.bad(Rule::Register);
}

#[test]
fn write_given_up_may_appear_until_the_attach() {
    let mut story = Story::new();
    story.write(1, 1);
    let write = story.begin_write(1, 2);
    story.end(write, Outcome::Unknown);
    story.read(1, 1);
    story.read(1, 2);
    story.good();
    let mut story = Story::new();
    story.write(1, 1);
    let write = story.begin_write(1, 2);
    story.end(write, Outcome::Unknown);
    story.attach(1, 2, 0b11);
    story.read(1, 1);
    story.good();
    story.read(1, 2);
    story.bad(Rule::Register);
}

/// A write, acknowledged but not flushed, of a client that crashes; then member 1 goes back.
fn crash_with_loss(flushed: bool, fua: bool) -> Story {
    let mut story = Story::new();
    story.write(1, 1);
    story.flush(1);
    if fua {
        story.write_fua(1, 2);
    } else {
        story.write(1, 2);
    }
    if flushed {
        story.flush(1);
    }
    story.gone(1);
    story.cache_lost(1);
    story.attach(2, 2, 0b1);
    story
}

#[test]
fn unflushed_may_be_lost() {
    let mut story = crash_with_loss(false, false);
    story.read(2, 1);
    story.read(2, 1);
    story.good();
    story.read(2, 2);
    story.bad(Rule::Register);
    let mut story = crash_with_loss(false, false);
    story.read(2, 2);
    story.good();
    // Not further back than to what was flushed.
    let mut story = crash_with_loss(false, false);
    story.read(2, 0);
    story.bad(Rule::Durability);
}

#[test]
fn flushed_may_not_be_lost() {
    for (flushed, fua) in [(true, false), (false, true)] {
        let mut story = crash_with_loss(flushed, fua);
        story.read(2, 1);
        story.bad(Rule::Durability);
        let mut story = crash_with_loss(flushed, fua);
        story.read(2, 2);
        story.good();
    }
}

#[test]
fn a_flush_covers_only_what_was_acknowledged_before() {
    let mut story = Story::new();
    let write = story.begin_write(1, 1);
    let flush = story.begin(1, Operation::Flush);
    story.done(write);
    story.done(flush);
    story.gone(1);
    story.cache_lost(1);
    story.attach(2, 2, 0b1);
    story.read(2, 0);
    story.good();
}

#[test]
fn a_flush_that_failed_covers_nothing() {
    let mut story = Story::new();
    story.write(1, 1);
    let flush = story.begin(1, Operation::Flush);
    story.end(flush, Outcome::Error);
    story.gone(1);
    story.cache_lost(1);
    story.attach(2, 2, 0b1);
    story.read(2, 0);
    story.good();
}

#[test]
fn nothing_is_lost_while_the_device_is_open() {
    let mut story = Story::new();
    story.write(1, 1);
    story.cache_lost(1);
    story.cache_lost(2);
    story.attach(1, 2, 0b1);
    story.read(1, 0);
    story.bad(Rule::Register);
}

#[test]
fn nothing_is_lost_without_loss_of_a_cache() {
    let mut story = Story::new();
    story.write(1, 1);
    story.gone(1);
    story.attach(2, 2, 0b11);
    story.read(2, 0);
    story.bad(Rule::Register);
}

#[test]
fn only_the_cache_of_a_member_in_sync_counts() {
    // Member 2 lost it, member 1 is the source.
    let mut story = Story::new();
    story.write(1, 1);
    story.gone(1);
    story.cache_lost(2);
    story.attach(2, 2, 0b1);
    story.read(2, 0);
    story.bad(Rule::Register);
    // Member 1 lost it, was dropped, and brought up to date.
    let mut story = Story::new();
    story.write(1, 1);
    story.cache_lost(1);
    story.configured(0b10);
    story.configured(0b11);
    story.gone(1);
    story.attach(2, 2, 0b1);
    story.read(2, 0);
    story.bad(Rule::Register);
    // It was not in sync when it lost it.
    let mut story = Story::new();
    story.configured(0b10);
    story.write(1, 1);
    story.cache_lost(1);
    story.configured(0b11);
    story.gone(1);
    story.attach(2, 2, 0b1);
    story.read(2, 0);
    story.bad(Rule::Register);
}

#[test]
fn an_attach_makes_stable() {
    let mut story = Story::new();
    story.write(1, 1);
    story.gone(1);
    story.attach(2, 2, 0b11);
    story.gone(2);
    story.cache_lost(1);
    story.attach(3, 3, 0b1);
    story.read(3, 0);
    story.bad(Rule::Durability);
}

#[test]
fn losses_in_a_row() {
    let mut story = crash_with_loss(false, false);
    story.write(2, 3);
    story.gone(2);
    story.cache_lost(1);
    story.attach(3, 3, 0b1);
    // What the second client found was stable then; nobody read it, so either.
    story.read(3, 1);
    story.good();
    story.read(3, 2);
    story.bad(Rule::Register);
    let mut story = crash_with_loss(false, false);
    story.read(2, 2);
    story.gone(2);
    story.cache_lost(1);
    story.attach(3, 3, 0b1);
    story.read(3, 1);
    story.bad(Rule::Durability);
}

#[test]
fn forced() {
    let mut story = Story::new();
    story.write(1, 1);
    story.flush(1);
    story.write(1, 2);
    story.flush(1);
    story.gone(1);
    story.force(2, 2, 0b10);
    story.read(2, 1);
    story.good();
    story.read(2, 2);
    story.bad(Rule::Register);
    let mut story = Story::new();
    story.force(2, 2, 0b10);
    story.read(2, 1);
    story.bad(Rule::Corruption);
}

#[test]
fn a_client_apart_is_left_alone_but_its_writes_do_not_appear() {
    let mut story = Story::new();
    story.force(2, 2, 0b10);
    story.write(1, 1);
    story.read(1, 1);
    story.read(2, 0);
    story.good();
    story.read(2, 1);
    story.bad(Rule::Superseded);
}

#[test]
fn replaced() {
    // What it began before may have taken effect.
    let mut story = Story::new();
    let write = story.begin_write(1, 1);
    story.attach(2, 2, 0b11);
    story.done(write);
    story.read(2, 1);
    story.good();
    // But not late.
    let mut story = Story::new();
    let write = story.begin_write(1, 1);
    story.attach(2, 2, 0b11);
    story.read(2, 0);
    story.done(write);
    story.bad(Rule::Register);
    // Nor what it begins now.
    let mut story = Story::new();
    story.attach(2, 2, 0b11);
    story.write(1, 1);
    story.bad(Rule::Superseded);
    let mut story = Story::new();
    story.attach(2, 2, 0b11);
    let write = story.begin_write(1, 1);
    story.read(2, 1);
    story.end(write, Outcome::Unknown);
    story.bad(Rule::Superseded);
}

#[test]
fn replaced_before_it_was_attached() {
    let mut story = Story::new();
    story.attach(3, 3, 0b11);
    story.attach(2, 2, 0b11);
    story.good();
    story.write(2, 1);
    story.bad(Rule::Superseded);
}

/// A member was late to persist what the client had installed before it was replaced.
#[test]
fn replaced_before_it_was_attached_again() {
    let mut story = Story::new();
    story.attach(2, 3, 0b11);
    story.attach(1, 2, 0b11);
    story.good();
    story.write(1, 1);
    story.bad(Rule::Superseded);
}

#[test]
fn replaced_for_good() {
    let mut story = Story::new();
    story.attach(2, 2, 0b11);
    story.attach(1, 3, 0b11);
    story.bad(Rule::Superseded);
}

#[test]
fn one_generation_one_client() {
    let mut story = Story::new();
    story.attach(2, 1, 0b11);
    story.bad(Rule::Reused);
}

#[test]
fn old_reads_with_quorum_only() {
    let mut story = Story::new();
    story.attach(2, 2, 0b10);
    story.write(2, 1);
    story.read(1, 0);
    story.bad(Rule::Superseded);
    story.history.set_quorum(true);
    story.good();
    // Writes never.
    story.write(1, 2);
    story.bad(Rule::Superseded);
}

#[test]
fn zeroes() {
    let mut story = Story::new();
    story.write(1, 1);
    let zero = story.begin_write(1, 0);
    let first = story.begin_read(1);
    let second = story.begin_read(1);
    story.end(first, Outcome::Ok(vec![0]));
    story.end(second, Outcome::Ok(vec![1]));
    story.done(zero);
    story.read(1, 0);
    story.good();
    story.read(1, 1);
    story.bad(Rule::Register);
}

#[test]
fn zeroes_do_not_excuse_a_loss() {
    let mut story = Story::new();
    story.write(1, 0);
    story.write(1, 1);
    story.read(1, 0);
    story.bad(Rule::Register);
}

#[test]
fn malformed() {
    let mut story = Story::new();
    story.done(99);
    story.bad(Rule::Malformed);
    let mut story = Story::new();
    story.write(1, 1);
    story.write(1, 1);
    story.bad(Rule::Malformed);
    let mut story = Story::new();
    let read = story.begin_read(1);
    story.end(read, Outcome::Ok(vec![0, 0]));
    story.bad(Rule::Malformed);
    let mut story = Story::new();
    story.read(5, 0);
    story.bad(Rule::Malformed);
    let mut story = Story::new();
    story.gone(1);
    story.read(1, 0);
    story.bad(Rule::Malformed);
}

#[test]
fn unknown_begin() {
    let mut history = History::new(Initial::Unknown);
    for (op, value) in [(1, 9), (2, 9), (3, 8)] {
        let what = Operation::Read {
            sector: 3,
            count: 1,
        };
        history.push(Event::Invoke {
            t: op,
            op,
            client: 0,
            what,
        });
        history.push(Event::Return {
            t: op,
            op,
            outcome: Outcome::Ok(vec![value]),
        });
        assert_eq!(history.check().good(), op < 3);
    }
}

#[test]
fn json_lines() {
    let story = crash_with_loss(true, true);
    let mut bytes = Vec::new();
    story.history.to_json_lines(&mut bytes).unwrap();
    let mut again = History::new(Initial::Zero);
    again.read_json_lines(&bytes[..]).unwrap();
    assert_eq!(again.events(), story.history.events());
    let by_hand = "# a comment\n\n{\"t\":1,\"ev\":\"invoke\",\"op\":1,\"client\":1,\"what\":{\"write\":{\"sector\":0,\"values\":[1]}}}\n{\"t\":2,\"ev\":\"return\",\"op\":1,\"outcome\":{\"ok\":[]}}\n{\"t\":3,\"ev\":\"invoke\",\"op\":2,\"client\":1,\"what\":\"flush\"}";
    let mut history = History::new(Initial::Zero);
    history.read_json_lines(by_hand.as_bytes()).unwrap();
    assert!(history.check().good());
    assert!(history.read_json_lines(&b"{}"[..]).is_err());
}

/// One step of a workload on a perfect disk: which sector, how many, what, and how long until the answer.
type Step = (u64, u64, u8, usize);

/// Plays a workload on a perfect disk: requests take effect when they end.
fn perfect(steps: &[Step]) -> Story {
    let mut story = Story::new();
    let mut disk = [0_u64; 40];
    let mut open: Vec<(u64, Operation, usize)> = Vec::new();
    let mut value = 1;
    let end = |story: &mut Story,
               disk: &mut [u64; 40],
               open: &mut Vec<(u64, Operation, usize)>,
               after: usize| {
        open.retain_mut(|(op, what, left)| {
            *left = left.saturating_sub(after);
            if *left > 0 {
                return true;
            }
            let outcome = match what {
                Operation::Read { sector, count } => {
                    let from = *sector as usize;
                    Outcome::Ok(disk[from..from + *count as usize].to_vec())
                }
                Operation::Write { sector, values, .. } => {
                    let from = *sector as usize;
                    disk[from..from + values.len()].copy_from_slice(values);
                    Outcome::Ok(Vec::new())
                }
                Operation::Flush => Outcome::Ok(Vec::new()),
            };
            story.end(*op, outcome);
            false
        });
    };
    for &(sector, count, kind, length) in steps {
        end(&mut story, &mut disk, &mut open, 1);
        let what = match kind % 8 {
            0..=3 => Operation::Read {
                sector,
                count: count as u32,
            },
            7 => Operation::Flush,
            kind => {
                let values = (0..count)
                    .map(|index| if kind == 6 { 0 } else { value + index })
                    .collect();
                value += count;
                Operation::Write {
                    sector,
                    values,
                    fua: kind == 5,
                }
            }
        };
        let op = story.begin(1, what.clone());
        open.push((op, what, length));
    }
    end(&mut story, &mut disk, &mut open, usize::MAX);
    story
}

fn steps(length: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0_u64..32, 1_u64..8, any::<u8>(), 1_usize..12), length)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_perfect_disk_is_good(steps in steps(200)) {
        let report = perfect(&steps).check();
        prop_assert!(report.good(), "{:#?}", report.violations);
    }

    /// Whatever read, with nothing else under way, returns something else, it is noticed.
    #[test]
    fn a_wrong_read_is_noticed(steps in steps(100), wrong in 0_u64..700) {
        let mut story = perfect(&steps);
        story.write(1, 1_000_000);
        let read = story.begin_read(1);
        story.end(read, Outcome::Ok(vec![wrong]));
        prop_assert!(!story.check().good());
    }

    /// Nothing panics and nothing is accepted by accident when events are lost or swapped: either it is
    /// malformed, or the check comes to an end.
    #[test]
    fn noise(steps in steps(60), swaps in prop::collection::vec((0_usize..120, 0_usize..120), 1..20)) {
        let story = perfect(&steps);
        let mut events = story.history.events().to_vec();
        for (a, b) in swaps {
            let length = events.len();
            events.swap(a % length, b % length);
        }
        let mut history = History::new(Initial::Zero);
        events.into_iter().for_each(|event| history.push(event));
        let _ = history.check();
    }
}

/// n log n: a long history of a hot sector takes no time.
#[test]
fn long() {
    let mut story = Story::new();
    for value in 1..=200_000 {
        let write = story.begin_write(1, value);
        story.read(1, value);
        story.done(write);
    }
    story.good();
    story.read(1, 17);
    story.bad(Rule::Register);
}
