// SPDX-License-Identifier: GPL-2.0

//! The history check against an oracle: a machine with one sector that makes every choice the rules leave, tried out in
//! all ways. Small histories, good ones and mutated ones; both must say the same.

use rmr_checkers::contains;
use rmr_checkers::history::Event;
use rmr_checkers::history::History;
use rmr_checkers::history::Initial;
use rmr_checkers::history::Operation;
use rmr_checkers::history::Outcome;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashSet;

/// xorshift64*: the same on every machine.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What the oracle knows of the whole history beforehand.
struct Facts {
    outcomes: BTreeMap<u64, Outcome>,
    requests: BTreeMap<u64, (u32, Operation, usize)>,
    /// Attach events that count, and those of them at which content may go back.
    effective: BTreeSet<usize>,
    may_lose: BTreeSet<usize>,
    /// Index of the event from which on a client is replaced.
    replaced: BTreeMap<u32, usize>,
    /// Clients replaced by a forced attach.
    apart: BTreeSet<u32>,
    quorum: bool,
    sane: bool,
}

impl Facts {
    fn replaced(&self, client: u32, at: usize) -> bool {
        self.replaced.get(&client).is_some_and(|&since| since < at)
    }
}

fn facts(events: &[Event], quorum: bool) -> Facts {
    let mut facts = Facts {
        outcomes: BTreeMap::new(),
        requests: BTreeMap::new(),
        effective: BTreeSet::new(),
        may_lose: BTreeSet::new(),
        replaced: BTreeMap::new(),
        apart: BTreeSet::new(),
        quorum,
        sane: true,
    };
    let mut ruler: Option<(u32, u64, usize)> = None;
    let mut generations = BTreeMap::new();
    let mut attached = BTreeSet::new();
    let mut early = BTreeSet::new();
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Invoke {
                op, client, what, ..
            } => {
                facts.sane &= facts
                    .requests
                    .insert(*op, (*client, what.clone(), at))
                    .is_none();
                early.insert(*client);
                facts.sane &= attached.is_empty() || attached.contains(client);
            }
            Event::Return { op, outcome, .. } => {
                facts.sane &= facts.requests.contains_key(op);
                facts.sane &= facts.outcomes.insert(*op, outcome.clone()).is_none();
            }
            Event::Attached {
                client,
                generation,
                in_sync,
                forced,
                ..
            } => {
                attached.insert(*client);
                let own = generations.insert(*client, *generation);
                facts.sane &= early.is_subset(&attached);
                if facts.replaced.contains_key(client) {
                    let late = ruler.is_some_and(|(_, highest, _)| *generation < highest);
                    if late && own < Some(*generation) {
                        continue;
                    }
                    facts.sane = false;
                }
                if let Some((old, highest, since)) = ruler {
                    if *generation == highest || (*generation < highest && old == *client) {
                        facts.sane = false;
                    }
                    if *generation < highest {
                        facts.replaced.insert(*client, since);
                        continue;
                    }
                    for other in attached.iter().filter(|&other| other != client) {
                        if *forced && !facts.replaced.contains_key(other) {
                            facts.apart.insert(*other);
                        }
                        facts.replaced.entry(*other).or_insert(at);
                    }
                    if old != *client && (lost_since(events, since, at, *in_sync) || *forced) {
                        facts.may_lose.insert(at);
                    }
                }
                facts.effective.insert(at);
                ruler = Some((*client, *generation, at));
            }
            _ => {}
        }
    }
    facts
}

/// Whether a member of `in_sync` lost something after `since` and was in sync from then until `at`.
fn lost_since(events: &[Event], since: usize, at: usize, in_sync: u32) -> bool {
    let sets: Vec<(usize, u32)> = (0..at)
        .filter_map(|index| match events[index] {
            Event::Config { in_sync, .. } | Event::Attached { in_sync, .. } => {
                Some((index, in_sync))
            }
            _ => None,
        })
        .collect();
    (since..at).any(|index| match &events[index] {
        Event::CacheLost {
            member, sectors, ..
        } => {
            let before = sets.iter().rev().find(|set| set.0 < index);
            contains(in_sync, *member)
                && sectors.as_ref().is_none_or(|sectors| sectors.contains(&0))
                && before.is_some_and(|set| contains(set.1, *member))
                && sets
                    .iter()
                    .filter(|set| set.0 > index)
                    .all(|set| contains(set.1, *member))
        }
        _ => false,
    })
}

/// A state of the machine.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    content: u64,
    /// Values held at or after the stable moment.
    held: BTreeSet<u64>,
    /// Requests that may yet take effect.
    waiting: BTreeSet<u64>,
    /// Requests that took effect.
    done: BTreeSet<u64>,
}

fn value_of(what: &Operation) -> u64 {
    match what {
        Operation::Write { values, .. } => values[0],
        _ => 0,
    }
}

fn accepts(events: &[Event], quorum: bool) -> bool {
    let facts = facts(events, quorum);
    if !facts.sane {
        return false;
    }
    let start = State {
        content: 0,
        held: BTreeSet::from([0]),
        waiting: BTreeSet::new(),
        done: BTreeSet::new(),
    };
    let mut states = HashSet::from([start]);
    for (at, event) in events.iter().enumerate() {
        let mut next = HashSet::new();
        for state in spread(&facts, states) {
            step(&facts, events, at, event, state, &mut next);
        }
        states = next;
    }
    !states.is_empty()
}

/// All states reached by requests that take effect between two events.
fn spread(facts: &Facts, states: HashSet<State>) -> HashSet<State> {
    let mut all = HashSet::new();
    let mut next: Vec<State> = states.into_iter().collect();
    while let Some(state) = next.pop() {
        if !all.insert(state.clone()) {
            continue;
        }
        for op in &state.waiting {
            let (_, what, _) = &facts.requests[op];
            let mut after = state.clone();
            match what {
                Operation::Read { .. } => {
                    if facts.outcomes.get(op) != Some(&Outcome::Ok(vec![state.content])) {
                        continue;
                    }
                }
                Operation::Write { .. } => {
                    after.content = value_of(what);
                    after.held.insert(after.content);
                }
                Operation::Flush => continue,
            }
            after.waiting.remove(op);
            after.done.insert(*op);
            next.push(after);
        }
    }
    all
}

fn step(
    facts: &Facts,
    events: &[Event],
    at: usize,
    event: &Event,
    mut state: State,
    next: &mut HashSet<State>,
) {
    match event {
        Event::Invoke {
            op, client, what, ..
        } => {
            let outcome = facts.outcomes.get(op);
            let ok = matches!(outcome, Some(Outcome::Ok(_)));
            let is_read = matches!(what, Operation::Read { .. });
            match what {
                _ if facts.replaced(*client, at) => {
                    if ok && !facts.apart.contains(client) && !(is_read && facts.quorum) {
                        return;
                    }
                }
                Operation::Read { .. } if ok => drop(state.waiting.insert(*op)),
                Operation::Read { .. } => {}
                Operation::Write { .. } => drop(state.waiting.insert(*op)),
                Operation::Flush if ok => state.held = BTreeSet::from([state.content]),
                Operation::Flush => {}
            }
        }
        Event::Return { op, outcome, .. } => {
            let (client, what, _) = &facts.requests[op];
            let is_read = matches!(what, Operation::Read { .. });
            let exempt = facts.replaced(*client, at)
                && (facts.apart.contains(client) || is_read && facts.quorum);
            match (what, outcome) {
                (Operation::Flush, _) => {}
                (_, Outcome::Ok(_)) => {
                    if !state.done.contains(op) && !exempt {
                        return;
                    }
                    if matches!(what, Operation::Write { fua: true, .. })
                        && !facts.replaced(*client, at)
                    {
                        state.held = BTreeSet::from([state.content]);
                    }
                    state.waiting.remove(op);
                    state.done.remove(op);
                }
                (_, Outcome::Error) => {
                    state.waiting.remove(op);
                    state.done.remove(op);
                }
                (_, Outcome::Unknown) => {}
            }
        }
        Event::Attached { forced, .. } if facts.effective.contains(&at) => {
            // Requests of replaced clients, and those given up, come too late now.
            let over = |op: &u64| {
                let (client, what, begun) = &facts.requests[op];
                let given_up = events[..at]
                    .iter()
                    .any(|event| matches!(event, Event::Return { op: this, .. } if this == op));
                let replaced = facts.replaced.get(client).is_some_and(|&since| since <= at);
                given_up
                    || (replaced
                        && (!matches!(what, Operation::Read { .. })
                            || facts.replaced[client] > *begun))
            };
            for op in state.waiting.clone() {
                if over(&op) {
                    state.waiting.remove(&op);
                }
            }
            // FUA writes that are acknowledged only later were stable before.
            for op in &state.done {
                let (client, what, _) = &facts.requests[op];
                let ok = matches!(facts.outcomes.get(op), Some(Outcome::Ok(_)));
                let replaced = facts.replaced.get(client) == Some(&at);
                if ok && replaced && matches!(what, Operation::Write { fua: true, .. }) {
                    state.held = BTreeSet::from([state.content]);
                }
            }
            let mut choices = BTreeSet::from([state.content]);
            if facts.may_lose.contains(&at) {
                choices.extend(&state.held);
            }
            if *forced && facts.may_lose.contains(&at) {
                choices.insert(0);
                for (client, what, begun) in facts.requests.values() {
                    if matches!(what, Operation::Write { .. })
                        && *begun < at
                        && !facts.replaced(*client, *begun)
                    {
                        choices.insert(value_of(what));
                    }
                }
            }
            for content in choices {
                let mut after = state.clone();
                after.content = content;
                after.held = BTreeSet::from([content]);
                next.insert(after);
            }
            return;
        }
        _ => {}
    }
    next.insert(state);
}

/// A random history that the machine can produce (mostly), of one sector.
fn generate(random: &mut Random, zeroes: bool) -> Vec<Event> {
    let mut events = Vec::new();
    let mut generation = 1;
    let mut client = 1;
    let mut last_client = 1;
    let mut in_sync = 0b11;
    let (mut next_op, mut next_value) = (1, 1);
    let mut content = 0_u64;
    let mut held = vec![0];
    let mut open: Vec<(u64, u32, Operation, bool, u64)> = Vec::new();
    let attached = |client, generation, in_sync, forced| Event::Attached {
        t: 0,
        client,
        generation,
        in_sync,
        forced,
    };
    events.push(attached(1, 1, in_sync, false));
    let length = 4 + random.below(14);
    while events.len() < length {
        match random.below(16) {
            0..=5 if open.len() < 5 => {
                let who = if random.one_in(8) {
                    1 + random.below(last_client as usize) as u32
                } else {
                    client
                };
                let what = match random.below(8) {
                    0..=3 => {
                        let value = if zeroes && random.one_in(3) {
                            0
                        } else {
                            next_value
                        };
                        next_value += 1;
                        let fua = random.one_in(4);
                        Operation::Write {
                            sector: 0,
                            values: vec![value],
                            fua,
                        }
                    }
                    4..=6 => Operation::Read {
                        sector: 0,
                        count: 1,
                    },
                    _ => {
                        held = vec![content];
                        Operation::Flush
                    }
                };
                events.push(Event::Invoke {
                    t: 0,
                    op: next_op,
                    client: who,
                    what: what.clone(),
                });
                open.push((next_op, who, what, false, content));
                next_op += 1;
            }
            0..=11 if !open.is_empty() => {
                let index = random.below(open.len());
                let mut entry = open.remove(index);
                if !entry.3 && (entry.1 == client || random.one_in(6)) {
                    entry.3 = true;
                    entry.4 = content;
                    if let Operation::Write { values, .. } = &entry.2 {
                        content = values[0];
                        held.push(content);
                    }
                }
                if random.one_in(3) {
                    open.push(entry);
                    continue;
                }
                let outcome = match (&entry.2, random.below(8)) {
                    (_, 0) => Outcome::Unknown,
                    (_, 1) => Outcome::Error,
                    (Operation::Read { .. }, _) => Outcome::Ok(vec![entry.4]),
                    _ => Outcome::Ok(Vec::new()),
                };
                if matches!(entry.2, Operation::Write { fua: true, .. }) {
                    held = vec![content];
                }
                events.push(Event::Return {
                    t: 0,
                    op: entry.0,
                    outcome,
                });
            }
            12 => {
                in_sync = 1 + random.below(3) as u32;
                events.push(Event::Config { t: 0, in_sync });
            }
            13 => {
                let member = 1 + random.below(2) as u8;
                let sectors = [None, Some(vec![0]), Some(vec![7])][random.below(3)].clone();
                events.push(Event::CacheLost {
                    t: 0,
                    member,
                    sectors,
                });
            }
            14 => {
                generation += 1;
                if !random.one_in(4) {
                    last_client += 1;
                    client = last_client;
                    if random.one_in(2) {
                        content = held[random.below(held.len())];
                    }
                }
                if random.one_in(2) {
                    in_sync = 1 + random.below(3) as u32;
                }
                let late = generation - u64::from(random.one_in(8));
                events.push(attached(client, late, in_sync, random.one_in(12)));
                held = vec![content];
            }
            _ => {}
        }
    }
    events
}

/// Changes one thing.
fn mutate(random: &mut Random, events: &mut Vec<Event>) {
    let index = random.below(events.len());
    match random.below(5) {
        0 if index > 1 => events.swap(index, index - 1),
        1 if index > 0 => drop(events.remove(index)),
        _ => match &mut events[index] {
            Event::Return { outcome, .. } => {
                *outcome = match outcome {
                    Outcome::Ok(values) if !values.is_empty() => {
                        Outcome::Ok(vec![random.below(5) as u64])
                    }
                    Outcome::Ok(_) => Outcome::Unknown,
                    _ => Outcome::Error,
                };
            }
            Event::CacheLost { member, .. } => *member = 3 - *member,
            Event::Config { in_sync, .. } | Event::Attached { in_sync, .. } => {
                *in_sync = 4 - *in_sync
            }
            _ => {}
        },
    }
}

fn run(seeds: std::ops::Range<u64>, zeroes: bool) -> (u64, u64) {
    let (mut good, mut bad) = (0, 0);
    for seed in seeds {
        let mut random = Random::new(seed);
        let mut events = generate(&mut random, zeroes);
        for _ in 0..random.below(3) {
            mutate(&mut random, &mut events);
        }
        // A read that failed has no values; a write has none.
        for at in 0..events.len() {
            let Event::Return {
                op,
                outcome: Outcome::Ok(values),
                ..
            } = &events[at]
            else {
                continue;
            };
            let is_read = events.iter().any(
                |event| matches!(event, Event::Invoke { op: this, what: Operation::Read { .. }, .. } if this == op),
            );
            let fixed = if is_read {
                vec![values.first().copied().unwrap_or(0)]
            } else {
                Vec::new()
            };
            if let Event::Return { outcome, .. } = &mut events[at] {
                *outcome = Outcome::Ok(fixed);
            }
        }
        let quorum = random.one_in(3);
        let mut history = History::new(Initial::Zero);
        history.set_quorum(quorum);
        for event in &events {
            history.push(event.clone());
        }
        let report = history.check();
        assert_eq!(report.undecided, 0);
        let expected = accepts(&events, quorum);
        assert_eq!(
            report.good(),
            expected,
            "seed {seed} quorum {quorum}: oracle says {expected}, check says {:#?}\n{events:#?}",
            report.violations
        );
        if expected {
            good += 1;
        } else {
            bad += 1;
        }
    }
    (good, bad)
}

/// How many histories: `ORACLE_COUNT`.
fn seeds() -> u64 {
    std::env::var("ORACLE_COUNT")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(60_000)
}

#[test]
fn agrees_with_the_oracle() {
    let (good, bad) = run(0..seeds(), false);
    assert!(good > 10_000 && bad > 10_000, "{good} good, {bad} bad");
}

#[test]
fn agrees_with_the_oracle_on_zeroes() {
    let (good, bad) = run(1 << 32..(1 << 32) + seeds(), true);
    assert!(good > 10_000 && bad > 10_000, "{good} good, {bad} bad");
}
