// SPDX-License-Identifier: GPL-2.0

//! One run: a plan becomes a world, and a world a report. A panic of the engine is a violation like any other.

use crate::faults::Kinds;
use crate::plan::Cut;
use crate::plan::Plan;
use crate::queue::Nanos;
use crate::trace::Digest;
use crate::world::World;
use rmr_checkers::history::History;
use rmr_engine::planted::Bug;
use std::cell::RefCell;
use std::panic;
use std::panic::AssertUnwindSafe;

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Kinds of faults that may be drawn.
    pub allowed: Kinds,
    /// A bug to plant.
    pub plant: Option<Bug>,
    /// Print what happens.
    pub trace: bool,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which rule, or `Panic`: what a smaller run has to break to count as the same.
    pub rule: String,
    /// When, and what.
    pub text: String,
}

/// How many of what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Virtual time.
    pub time: Nanos,
    /// Events.
    pub events: u64,
    /// Requests answered.
    pub answered: u64,
    /// Of them, those that were good.
    pub good: u64,
    /// Configurations that became complete.
    pub epochs: u64,
    /// Attaches that were complete.
    pub attaches: u64,
    /// Chunks that were pulled.
    pub pulls: u64,
    /// Faults that hit, planned ones.
    pub faults: u64,
    /// The longest time a request waited.
    pub longest: Nanos,
    /// The longest freeze.
    pub freeze: Nanos,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What is wrong.
    pub wrong: Vec<Wrong>,
    /// The digest.
    pub digest: Digest,
    /// Figures.
    pub figures: Figures,
    /// What clients asked and were answered.
    pub history: History,
}

impl Report {
    /// The rule that was broken first.
    pub fn rule(&self) -> Option<&str> {
        self.wrong.first().map(|wrong| wrong.rule.as_str())
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics are kept for the report, not printed. To be called once.
pub fn keep_panics() {
    panic::set_hook(Box::new(|info| {
        PANIC.with(|kept| *kept.borrow_mut() = Some(info.to_string()));
    }));
}

/// Runs a seed.
pub fn run(seed: u64, cut: &Cut, options: &Options) -> Report {
    plant(options.plant);
    let plan = Plan::draw(seed, options.allowed, cut);
    let result = catch(|| World::new(plan, options.trace).run());
    plant(None);
    result.unwrap_or_else(|wrong| Report {
        wrong: vec![wrong],
        digest: Digest::new(),
        figures: Figures::default(),
        history: History::default(),
    })
}

/// Makes a violation of a panic.
///
/// # Errors
///
/// The panic.
pub fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Wrong> {
    panic::catch_unwind(AssertUnwindSafe(f)).map_err(|_| Wrong {
        rule: "Panic".to_owned(),
        text: PANIC
            .with(|kept| kept.borrow_mut().take())
            .unwrap_or_default(),
    })
}

/// Plants a bug in this thread, or none.
#[cfg(planted)]
pub fn plant(bug: Option<Bug>) {
    rmr_engine::planted::plant(bug);
}

/// Plants a bug in this thread, or none.
#[cfg(not(planted))]
pub fn plant(_bug: Option<Bug>) {}
