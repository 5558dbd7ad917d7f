// SPDX-License-Identifier: GPL-2.0

//! Checks a history, lines of JSON (`rmr_checkers::history::Event`), from files or standard input.
//!
//! Exit status 0: nothing is wrong; 1: violations, one per line on standard output; 2: the input cannot be read.

use clap::Parser;
use rmr_checkers::history::History;
use rmr_checkers::history::Initial;
use std::fs::File;
use std::io;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

/// Checks whether a disk could have answered like this.
#[derive(Parser)]
struct Arguments {
    /// Files, one after the other; none: standard input.
    files: Vec<PathBuf>,
    /// The content before the first event is not known (otherwise: zeroes).
    #[arg(long)]
    unknown: bool,
    /// The pool ran with quorum=majority.
    #[arg(long)]
    quorum: bool,
}

fn read(arguments: &Arguments) -> io::Result<History> {
    let mut history = History::new(if arguments.unknown {
        Initial::Unknown
    } else {
        Initial::Zero
    });
    history.set_quorum(arguments.quorum);
    if arguments.files.is_empty() {
        history.read_json_lines(io::stdin().lock())?;
    }
    for file in &arguments.files {
        history.read_json_lines(BufReader::new(File::open(file)?))?;
    }
    Ok(history)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let history = match read(&arguments) {
        Ok(history) => history,
        Err(error) => {
            eprintln!("check-history: {error}");
            return ExitCode::from(2);
        }
    };
    let report = history.check();
    for violation in &report.violations {
        println!("{violation}");
    }
    eprintln!(
        "{} requests, {} sectors, {} violations, {} sectors undecided",
        report.operations,
        report.sectors,
        report.violations.len() as u64 + report.more,
        report.undecided
    );
    if report.good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
