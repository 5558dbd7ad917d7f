// SPDX-License-Identifier: GPL-2.0

//! The search: depth first, with copies of the states on the path.
//!
//! A state from which only faults lead on, or the budget of timers is used up, is an end: a copy of it goes on in the
//! order of time, as a run of the simulator ends, until all requests are answered, all members in sync and equal, and
//! all that was written is read back. The other choices are tried all the same.

use crate::bounds::Bounds;
use crate::choice::Choice;
use crate::state::State;
use rmr_sim::fingerprint::Plain;
use rmr_sim::random::Purpose;
use rmr_sim::random::Random;
use rmr_sim::run;
use rmr_sim::run::Wrong;
use std::collections::HashSet;
use std::fmt;
use std::hash::BuildHasherDefault;
use std::time::Duration;
use std::time::Instant;

/// How many of what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Different states.
    pub states: u64,
    /// Steps tried.
    pub transitions: u64,
    /// Ends: states that were checked to end well.
    pub ends: u64,
    /// The longest path.
    pub depth: usize,
    /// Most attaches, configurations and pulled chunks in one run.
    pub most: (u64, u64, u64),
    /// Time taken.
    pub took: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} states, {} transitions, {} ends, longest path {}; in one run up to {} attaches, {} configurations, \
             {} pulls; {:.1} s",
            self.states,
            self.transitions,
            self.ends,
            self.depth,
            self.most.0,
            self.most.1,
            self.most.2,
            self.took.as_secs_f64()
        )
    }
}

/// A run that breaks a rule.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// Its steps from the first state on.
    pub choices: Vec<Choice>,
    /// What is wrong.
    pub wrong: Wrong,
}

/// What came of a search.
#[derive(Clone, Debug)]
pub struct Found {
    /// How much was tried.
    pub figures: Figures,
    /// Whether that was all.
    pub complete: bool,
    /// The first run that breaks a rule.
    pub broken: Option<Counterexample>,
}

/// A state on the path.
struct Place {
    state: State,
    choices: Vec<Choice>,
    /// Choices that were tried.
    tried: usize,
}

/// Tries everything within the bounds, for so long at most.
pub fn search(bounds: &Bounds, limit: Duration) -> Found {
    let begin = Instant::now();
    let mut search = Search {
        seen: HashSet::default(),
        path: Vec::new(),
        figures: Figures::default(),
    };
    let result = match run::catch(|| State::first(bounds)) {
        Ok(Some(first)) => search.run(first, || begin.elapsed() > limit),
        Ok(None) => Err(Wrong {
            rule: "Begin".to_owned(),
            text: "the pool does not come up".to_owned(),
        }),
        Err(panic) => Err(panic),
    };
    search.figures.took = begin.elapsed();
    let choices = || {
        let tried = |place: &Place| place.choices.get(place.tried.checked_sub(1)?).cloned();
        search.path.iter().filter_map(tried).collect()
    };
    Found {
        figures: search.figures,
        complete: matches!(result, Ok(true)),
        broken: result.err().map(|wrong| Counterexample {
            choices: choices(),
            wrong,
        }),
    }
}

struct Search {
    seen: HashSet<u64, BuildHasherDefault<Plain>>,
    path: Vec<Place>,
    figures: Figures,
}

impl Search {
    /// Whether everything was tried; an error if a rule is broken, by the path.
    fn run(&mut self, first: State, is_over: impl Fn() -> bool) -> Result<bool, Wrong> {
        self.enter(first)?;
        while let Some(place) = self.path.last_mut() {
            let Some(choice) = place.choices.get(place.tried) else {
                self.path.pop();
                continue;
            };
            place.tried += 1;
            let mut state = place.state.clone();
            let wrong = run::catch(|| {
                state.take(choice);
                state.wrong()
            });
            self.figures.transitions += 1;
            if let Some(wrong) = wrong.unwrap_or_else(Some) {
                return Err(wrong);
            }
            self.enter(state)?;
            if self.figures.transitions.trailing_zeros() >= 8 && is_over() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn enter(&mut self, state: State) -> Result<(), Wrong> {
        if !self.seen.insert(state.fingerprint()) {
            return Ok(());
        }
        self.figures.states += 1;
        let choices = state.choices();
        if choices.iter().all(Choice::is_free) {
            self.figures.ends += 1;
            let end = state.clone();
            let report = run::catch(|| end.finish())?;
            let (most, here) = (&mut self.figures.most, report.figures);
            most.0 = most.0.max(here.attaches);
            most.1 = most.1.max(here.epochs);
            most.2 = most.2.max(here.pulls);
            if let Some(wrong) = report.wrong.into_iter().next() {
                return Err(wrong);
            }
        }
        self.path.push(Place {
            state,
            choices,
            tried: 0,
        });
        self.figures.depth = self.figures.depth.max(self.path.len());
        Ok(())
    }
}

/// Does the steps of a run once more, and prints everything that happens.
pub fn replay(bounds: &Bounds, counterexample: &Counterexample) {
    let Ok(Some(mut state)) = run::catch(|| State::first(bounds)) else {
        return;
    };
    state.make_loud();
    for choice in &counterexample.choices {
        if run::catch(|| state.take(choice)).is_err() {
            return;
        }
    }
    // Panics are shown by the caller, who knows them.
    if state.wrong().is_none() {
        println!("*** goes on in the order of time");
        let _ = run::catch(|| state.finish());
    }
}

/// Prints one run, whose choices are drawn.
pub fn walk(bounds: &Bounds, seed: u64) {
    let Ok(Some(mut state)) = run::catch(|| State::first(bounds)) else {
        return;
    };
    let mut random = Random::new(seed, Purpose::Work);
    state.make_loud();
    loop {
        let choices = state.choices();
        let Some(choice) = choices.get(random.below(choices.len() as u64) as usize) else {
            break;
        };
        state.take(choice);
    }
    println!("*** goes on in the order of time");
    state.finish();
}
