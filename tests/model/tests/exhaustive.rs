// SPDX-License-Identifier: GPL-2.0

//! The smallest bounds hold, and are tried to the end. `make model` tries the larger ones.

use rmr_model::bounds;
use rmr_model::search;
use std::time::Duration;

fn holds(name: &str) {
    rmr_sim::run::keep_panics();
    let bounds = bounds::named(name).unwrap();
    let found = search::search(&bounds, Duration::from_secs(600));
    assert!(found.complete, "{:?}", found.broken);
    let figures = found.figures;
    assert!(figures.states > 100 && figures.ends > 0, "{figures}");
}

#[test]
fn broken_sessions() {
    holds("break");
}

#[test]
fn takeover() {
    holds("takeover");
}
