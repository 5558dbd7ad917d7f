// SPDX-License-Identifier: GPL-2.0

//! The hunt: each bug that can be planted has to be found by random seeds, within its stated number.
//!
//! A seed finds a bug if the run with the bug breaks one of the rules that the bug is against, and the same run without it breaks
//! none. What else it breaks does not count, and a panic never does: the engine has none on purpose, so it would be an accident of
//! how the bug is planted.

use crate::plan::Cut;
use crate::run::run;
use crate::run::Options;
use crate::run::Wrong;
use rmr_engine::planted::Bug;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// What became of one bug.
#[derive(Clone, Debug)]
pub struct Catch {
    /// The bug.
    pub bug: Bug,
    /// Seeds that were run with it.
    pub tried: u64,
    /// The seed that found it, and what it found; `None` if it survived.
    pub found: Option<(u64, Wrong)>,
    /// How long it took.
    pub took: Duration,
}

/// A hunt.
#[derive(Debug)]
pub struct Hunt {
    first: u64,
    seeds: Option<u64>,
    cut: Cut,
    options: Options,
    /// Whether a seed is without fault when nothing is planted, as far as that is known.
    clean: Mutex<BTreeMap<u64, bool>>,
}

impl Hunt {
    /// A hunt from this seed on. Each bug has `seeds` of them; its own number if that is `None`.
    pub fn new(first: u64, seeds: Option<u64>, cut: Cut, options: Options) -> Hunt {
        Hunt {
            first,
            seeds,
            cut,
            options,
            clean: Mutex::default(),
        }
    }

    /// Looks for all of these with so many threads, and shows each as soon as it is known.
    pub fn all(&self, bugs: &[Bug], jobs: usize, show: &(dyn Fn(&Catch) + Sync)) -> Vec<Catch> {
        let mut order = bugs.to_vec();
        // The long ones first, so that all threads end at about the same time.
        order.sort_by_key(|bug| std::cmp::Reverse(bug.within()));
        let next = AtomicUsize::new(0);
        let caught = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(&bug) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let catch = self.one(bug);
                        show(&catch);
                        let mut caught = caught.lock().unwrap_or_else(PoisonError::into_inner);
                        caught.push(catch);
                    }
                });
            }
        });
        caught.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn one(&self, bug: Bug) -> Catch {
        let begin = Instant::now();
        let seeds = self.seeds.unwrap_or(bug.within());
        let mut tried = 0;
        let mut found = None;
        while tried < seeds && found.is_none() {
            let seed = self.first + tried;
            tried += 1;
            let all = self.run(seed, Some(bug)).into_iter();
            let expected = |wrong: &Wrong| bug.rules().contains(&wrong.rule.as_str());
            found = all
                .filter(expected)
                .find(|_| self.is_clean(seed))
                .map(|wrong| (seed, wrong));
        }
        Catch {
            bug,
            tried,
            found,
            took: begin.elapsed(),
        }
    }

    fn run(&self, seed: u64, plant: Option<Bug>) -> Vec<Wrong> {
        let options = Options {
            plant,
            ..self.options.clone()
        };
        run(seed, &self.cut, &options).wrong
    }

    fn is_clean(&self, seed: u64) -> bool {
        let known = |hunt: &Hunt| {
            let clean = hunt.clean.lock();
            let clean = clean.unwrap_or_else(PoisonError::into_inner);
            clean.get(&seed).copied()
        };
        if let Some(clean) = known(self) {
            return clean;
        }
        let is = self.run(seed, None).is_empty();
        let mut clean = self.clean.lock().unwrap_or_else(PoisonError::into_inner);
        clean.insert(seed, is);
        is
    }
}
