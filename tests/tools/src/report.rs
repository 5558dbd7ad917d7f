// SPDX-License-Identifier: GPL-2.0

//! The result of a run: counters, and what was wrong.

use serde::Serialize;
use std::process::ExitCode;

/// More errors than this are counted but not kept.
const KEPT_ERRORS: usize = 10;

/// What a run did and found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub seed: u64,
    pub reads: u64,
    pub writes: u64,
    pub zero_outs: u64,
    pub discards: u64,
    pub syncs: u64,
    pub bytes: u64,
    pub wrong: u64,
    pub errors: Vec<String>,
}

impl Report {
    pub fn new(seed: u64) -> Report {
        Report {
            seed,
            ..Report::default()
        }
    }

    pub fn failed(&self) -> bool {
        self.wrong > 0
    }

    /// Notes one thing that was wrong.
    pub fn wrong(&mut self, what: String) {
        self.wrong += 1;
        if self.errors.len() < KEPT_ERRORS {
            self.errors.push(what);
        }
    }

    /// Adds what another thread did.
    pub fn add(&mut self, other: Report) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.zero_outs += other.zero_outs;
        self.discards += other.discards;
        self.syncs += other.syncs;
        self.bytes += other.bytes;
        self.wrong += other.wrong;
        let room = KEPT_ERRORS.saturating_sub(self.errors.len());
        self.errors.extend(other.errors.into_iter().take(room));
    }

    /// Prints the result and turns it into an exit status.
    pub fn print(&self, json: bool) -> ExitCode {
        if json {
            match serde_json::to_string(self) {
                Ok(line) => println!("{line}"),
                Err(error) => eprintln!("rmr-iotest: {error}"),
            }
        } else {
            for error in &self.errors {
                println!("wrong: {error}");
            }
            println!(
                "seed {}: {} reads, {} writes, {} zero-outs, {} discards, {} syncs, {} MiB, {} wrong",
                self.seed,
                self.reads,
                self.writes,
                self.zero_outs,
                self.discards,
                self.syncs,
                self.bytes >> 20,
                self.wrong
            );
        }
        if self.failed() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}
