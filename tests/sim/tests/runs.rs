// SPDX-License-Identifier: GPL-2.0

//! Whole runs: they are repeatable, and healthy pools are healthy.

use rmr_sim::faults::Kinds;
use rmr_sim::plan::Cut;
use rmr_sim::run::run;
use rmr_sim::run::Options;
use rmr_sim::run::Report;

fn runs(seed: u64, allowed: Kinds) -> Report {
    let options = Options {
        allowed,
        plant: None,
        trace: false,
    };
    run(seed, &Cut::default(), &options)
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 4, 5] {
        let (one, other) = (runs(seed, Kinds::all()), runs(seed, Kinds::all()));
        assert_eq!(one.digest, other.digest);
        assert_eq!(one.figures.events, other.figures.events);
    }
    let (one, other) = (runs(3, Kinds::NONE), runs(4, Kinds::NONE));
    assert_ne!(one.digest, other.digest);
}

#[test]
fn no_faults() {
    for seed in 1..30 {
        let report = runs(seed, Kinds::NONE);
        assert_eq!(report.wrong, [], "seed {seed}");
        assert!(report.figures.good > 0);
        assert_eq!(report.figures.good, report.figures.answered);
        assert_eq!(report.figures.attaches, 1);
    }
}

/// Small runs with all kinds of faults: the part of the net that is cast for each mutant, too (scripts/mutants.py).
#[test]
fn small_runs() {
    let cut = Cut {
        ops: Some(80),
        ..Cut::default()
    };
    let options = Options {
        allowed: Kinds::all(),
        plant: None,
        trace: false,
    };
    for seed in 1..=40 {
        let report = run(seed, &cut, &options);
        assert_eq!(report.wrong, [], "seed {seed}");
    }
}
