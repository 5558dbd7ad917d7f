// SPDX-License-Identifier: GPL-2.0

//! At most once and fencing, bounds, cost: good runs and what breaks them.

use proptest::prelude::*;
use rmr_checkers::cost::Cost;
use rmr_checkers::cost::Due;
use rmr_checkers::cost::Record;
use rmr_checkers::execution::Configuration;
use rmr_checkers::execution::Execution;
use rmr_checkers::execution::Header;
use rmr_checkers::liveness::Bounds;
use rmr_checkers::liveness::Counted;
use rmr_checkers::liveness::Liveness;
use rmr_checkers::Rule;
use rmr_checkers::Violation;

const FIRST: (u64, u64) = (1, 11);
const SECOND: (u64, u64) = (2, 22);

fn configuration(epoch: u64, in_sync: u32, catching_up: u32) -> Configuration {
    Configuration {
        generation: FIRST,
        epoch,
        in_sync,
        catching_up,
    }
}

fn header(epoch: u64) -> Header {
    Header {
        generation: FIRST,
        epoch,
        incarnation: 7,
    }
}

fn rule(result: Result<(), Violation>) -> Option<Rule> {
    result.err().map(|violation| violation.rule)
}

/// Members 1 and 2 serve under generation 1, epoch 1, both in sync.
fn serving() -> Execution {
    let mut execution = Execution::new();
    for member in [1, 2] {
        execution.restarted(member, 7);
        assert_eq!(rule(execution.promised(0, member, FIRST)), None);
        assert_eq!(
            rule(execution.installed(0, member, configuration(1, 0b11, 0))),
            None
        );
    }
    execution
}

#[test]
fn once() {
    let mut execution = serving();
    assert_eq!(rule(execution.begin(0, 1, header(1), 5)), None);
    execution.end(1, FIRST, 5);
    assert_eq!(rule(execution.begin(0, 2, header(1), 5)), None);
    assert_eq!(rule(execution.begin(0, 1, header(1), 5)), Some(Rule::Twice));
    execution.undone(2, FIRST, 5);
    assert_eq!(rule(execution.begin(0, 2, header(1), 5)), None);
}

#[test]
fn not_below_the_watermark() {
    let mut execution = serving();
    execution.watermark(1, FIRST, 5);
    execution.watermark(1, SECOND, 50);
    assert_eq!(rule(execution.begin(0, 1, header(1), 5)), Some(Rule::Twice));
    assert_eq!(rule(execution.begin(0, 1, header(1), 6)), None);
}

#[test]
fn of_this_configuration_only() {
    let mut execution = serving();
    assert_eq!(
        rule(execution.begin(0, 1, header(2), 5)),
        Some(Rule::Fencing)
    );
    let old = Header {
        incarnation: 6,
        ..header(1)
    };
    assert_eq!(rule(execution.begin(0, 1, old, 5)), Some(Rule::Fencing));
    assert_eq!(
        rule(execution.installed(0, 1, configuration(2, 0b11, 0))),
        None
    );
    assert_eq!(
        rule(execution.begin(0, 1, header(1), 5)),
        Some(Rule::Fencing)
    );
    execution.restarted(1, 7);
    assert_eq!(
        rule(execution.begin(0, 1, header(2), 5)),
        Some(Rule::Fencing)
    );
}

#[test]
fn somebody_in_sync_stays() {
    let mut execution = serving();
    for (epoch, in_sync, broken) in [
        (2, 0b01, None),
        (3, 0b11, None),
        (4, 0b10, None),
        (5, 0b01, Some(Rule::Orphaned)),
    ] {
        let result = execution.completed(0, configuration(epoch, in_sync, 0));
        assert_eq!(rule(result), broken);
    }
}

#[test]
fn a_promise_fences() {
    let mut execution = serving();
    assert_eq!(rule(execution.promised(0, 1, SECOND)), None);
    assert_eq!(
        rule(execution.begin(0, 1, header(1), 5)),
        Some(Rule::Fencing)
    );
    assert_eq!(rule(execution.read(0, 1, header(1))), Some(Rule::Fencing));
    assert_eq!(
        rule(execution.installed(0, 1, configuration(2, 0b11, 0))),
        Some(Rule::Fencing)
    );
    assert_eq!(rule(execution.promised(0, 1, FIRST)), Some(Rule::Fencing));
    assert_eq!(rule(execution.promised(0, 1, (2, 33))), Some(Rule::Reused));
    assert_eq!(rule(execution.begin(0, 2, header(1), 5)), None);
    assert_eq!(rule(execution.promised(0, 2, SECOND)), Some(Rule::Fencing));
}

#[test]
fn an_episode_begins() {
    // Dropped without noticing, and taken back.
    let mut execution = serving();
    assert_eq!(rule(execution.begin(0, 1, header(1), 5)), None);
    assert_eq!(
        rule(execution.installed(0, 2, configuration(2, 0b10, 0))),
        None
    );
    assert_eq!(
        rule(execution.installed(0, 1, configuration(3, 0b10, 0b01))),
        None
    );
    assert_eq!(rule(execution.begin(0, 1, header(3), 5)), None);
    // Still catching up in the next: the same episode.
    assert_eq!(
        rule(execution.installed(0, 1, configuration(4, 0b10, 0b01))),
        None
    );
    assert_eq!(rule(execution.begin(0, 1, header(4), 5)), Some(Rule::Twice));
}

#[test]
fn reads_by_those_in_sync() {
    let mut execution = serving();
    assert_eq!(rule(execution.read(0, 1, header(1))), None);
    assert_eq!(
        rule(execution.installed(0, 1, configuration(2, 0b10, 0b01))),
        None
    );
    assert_eq!(rule(execution.read(0, 1, header(2))), Some(Rule::Fencing));
}

#[test]
fn one_number_one_configuration() {
    let mut execution = serving();
    assert_eq!(
        rule(execution.installed(0, 1, configuration(2, 0b01, 0))),
        None
    );
    assert_eq!(
        rule(execution.installed(0, 2, configuration(2, 0b10, 0))),
        Some(Rule::Reused)
    );
}

const BOUNDS: Bounds = Bounds {
    io_timeout: 100,
    io_slack: 10,
    heal: 1000,
    messages: 3,
    metadata_writes: 1,
    log_lines: 1,
};

fn rules(liveness: Liveness, end: u64) -> Vec<Rule> {
    liveness
        .finish(end)
        .into_iter()
        .map(|violation| violation.rule)
        .collect()
}

#[test]
fn waits() {
    let mut liveness = Liveness::new(BOUNDS);
    liveness.invoked(0, 1);
    liveness.returned(110, 1);
    liveness.invoked(0, 2);
    liveness.returned(111, 2);
    assert_eq!(liveness.longest(), 111);
    // Held time does not count.
    liveness.invoked(200, 3);
    liveness.held(210, true);
    liveness.held(1000, false);
    liveness.returned(1020, 3);
    assert_eq!(rules(liveness, 2000), [Rule::Slow]);
}

#[test]
fn heals() {
    let mut liveness = Liveness::new(BOUNDS);
    liveness.healed(10);
    liveness.in_sync(1010, true);
    liveness.in_sync(1020, true);
    assert_eq!(rules(liveness, 2000), []);
    let mut liveness = Liveness::new(BOUNDS);
    liveness.healed(10);
    liveness.in_sync(1011, true);
    assert_eq!(rules(liveness, 2000), [Rule::Stuck]);
    let mut liveness = Liveness::new(BOUNDS);
    liveness.healed(10);
    liveness.excuse();
    assert_eq!(rules(liveness, 2000), []);
    let mut liveness = Liveness::new(BOUNDS);
    liveness.healed(10);
    liveness.excuse();
    liveness.in_sync(20, false);
    assert_eq!(rules(liveness, 2000), [Rule::Stuck]);
    let mut liveness = Liveness::new(BOUNDS);
    liveness.invoked(1, 1);
    liveness.invoked(1, 2);
    liveness.gone([2]);
    liveness.healed(10);
    assert_eq!(rules(liveness, 2000), [Rule::Stuck, Rule::Stuck]);
}

#[test]
fn storms() {
    let mut liveness = Liveness::new(BOUNDS);
    for round in 0..4 {
        for _ in 0..3 {
            liveness.count(round * 1_000_000_000, Counted::Message);
        }
        liveness.count(round * 1_000_000_000, Counted::LogLine(1));
        liveness.count(round * 1_000_000_000, Counted::LogLine(2));
    }
    for _ in 0..9 {
        liveness.count(4_000_000_000, Counted::Message);
        liveness.uncount(4_000_000_000, Counted::Message);
    }
    assert!(liveness.take().is_empty());
    for _ in 0..9 {
        liveness.count(5_000_000_000, Counted::MetadataWrite(1));
    }
    assert_eq!(rules(liveness, 0), [Rule::Storm]);
}

#[test]
fn freezes() {
    let mut liveness = Liveness::new(BOUNDS);
    liveness.freeze(0);
    liveness.thaw(50, 50);
    liveness.freeze(100);
    liveness.freeze(140);
    liveness.thaw(151, 50);
    liveness.freeze(160);
    liveness.freeze_paused(30);
    liveness.thaw(240, 50);
    liveness.freeze(200);
    liveness.forget_freeze();
    liveness.thaw(300, 50);
    assert_eq!(liveness.longest_freeze(), 51);
    assert_eq!(rules(liveness, 200), [Rule::Frozen]);
}

#[test]
fn hot_writes_cost_nothing() {
    let mut cost = Cost::new();
    cost.due(1, Due::Cold);
    assert_eq!(rule(cost.metadata(0, 1, Record::Log)), None);
    cost.hot_write(1);
    assert_eq!(rule(cost.metadata(0, 1, Record::Log)), Some(Rule::Cost));
    assert_eq!(rule(cost.metadata(0, 1, Record::Bitmap)), Some(Rule::Cost));
    cost.due(1, Due::Evict);
    assert_eq!(rule(cost.metadata(0, 1, Record::Bitmap)), None);
    cost.due(1, Due::Exception);
    assert_eq!(rule(cost.metadata(0, 1, Record::Epoch)), None);
    cost.settled(1);
    assert_eq!(rule(cost.metadata(0, 1, Record::Epoch)), Some(Rule::Cost));
    assert_eq!(rule(cost.metadata(0, 1, Record::Bitmap)), Some(Rule::Cost));
}

proptest! {
    /// Any order of distinct writes, with restarts between, is fine; the first that comes again is not.
    #[test]
    fn at_most_once(seqs in prop::collection::vec(1_u64..40, 1..80)) {
        let mut execution = serving();
        let mut seen = std::collections::BTreeSet::new();
        for seq in seqs {
            let expected = (!seen.insert(seq)).then_some(Rule::Twice);
            prop_assert_eq!(rule(execution.begin(0, 1, header(1), seq)), expected);
        }
    }

    /// A request is slow if and only if it waited too long while IO was not held.
    #[test]
    fn held_time(spans in prop::collection::vec((0_u64..60, any::<bool>()), 1..12)) {
        let mut liveness = Liveness::new(BOUNDS);
        liveness.invoked(0, 1);
        let (mut now, mut counted) = (0, 0);
        for (length, held) in spans {
            liveness.held(now, held);
            now += length;
            counted += if held { 0 } else { length };
        }
        liveness.returned(now, 1);
        prop_assert_eq!(liveness.longest(), counted);
        prop_assert_eq!(rules(liveness, now).is_empty(), counted <= 110);
    }
}
