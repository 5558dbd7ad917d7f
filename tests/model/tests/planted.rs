// SPDX-License-Identifier: GPL-2.0

//! The search can fail: bugs that are planted are found within the smallest bounds that show them.

#![cfg(planted)]

use rmr_engine::planted::Bug;
use rmr_model::bounds;
use rmr_model::search;
use rmr_sim::run;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

fn finds(bug: Bug, name: &str) {
    run::keep_panics();
    run::plant(Some(bug));
    let found = search::search(&bounds::named(name).unwrap(), LIMIT);
    run::plant(None);
    assert!(found.broken.is_some(), "{}: {}", bug.name(), found.figures);
}

#[test]
fn complete_without_catching_up() {
    finds(Bug::CompleteWithoutCatchingUp, "break");
}

#[test]
fn no_lists() {
    finds(Bug::NoLists, "break");
}

#[test]
fn forget_recent_writes() {
    finds(Bug::ForgetRecentWrites, "break");
}

#[test]
fn promise_raises_config() {
    finds(Bug::PromiseRaisesConfig, "takeover");
}

#[test]
fn write_before_log() {
    finds(Bug::WriteBeforeLog, "power");
}

#[test]
fn forget_log_at_start() {
    finds(Bug::ForgetLogAtStart, "power");
}

#[test]
fn keep_in_sync() {
    finds(Bug::KeepInSync, "heir");
}
