// SPDX-License-Identifier: GPL-2.0

//! Tries every order of events in tiny pools, within bounds that have names.

use clap::Parser;
use rmr_engine::planted::Bug;
use rmr_model::bounds;
use rmr_model::bounds::Bounds;
use rmr_model::search;
use rmr_sim::run;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "Tries every order of events in tiny RMR pools")]
struct Args {
    /// Only these bounds
    names: Vec<String>,
    /// Those that take long, too
    #[arg(long)]
    long: bool,
    /// List bounds
    #[arg(long)]
    list: bool,
    /// Seconds for each of them, at most
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Plant a bug (only in a build with `--cfg planted`), and stop where it is found
    #[arg(long)]
    plant: Option<String>,
    /// Other budgets, as in timers=6,late=0
    #[arg(long, value_delimiter = ',')]
    budget: Vec<String>,
    /// Writes of metadata take time, whatever the bounds say
    #[arg(long)]
    slow_metadata: bool,
    /// Print one run within the bounds, drawn from this seed
    #[arg(long)]
    walk: Option<u64>,
    /// Do not print what happened in a run that breaks a rule
    #[arg(long)]
    quiet: bool,
}

impl Args {
    fn bounds(&self) -> Result<Vec<Bounds>, String> {
        if self.names.is_empty() {
            return Ok(if self.long {
                bounds::all()
            } else {
                bounds::short()
            });
        }
        let named = |name: &String| bounds::named(name).ok_or(format!("no bounds named {name}"));
        let mut chosen: Vec<Bounds> = self.names.iter().map(named).collect::<Result<_, _>>()?;
        for bounds in &mut chosen {
            bounds.slow_metadata |= self.slow_metadata;
            for pair in &self.budget {
                let set = pair.split_once('=').and_then(|(name, count)| {
                    let count = count.parse().ok()?;
                    Some((name, count))
                });
                let (name, count) = set.ok_or(format!("{pair} is not a budget"))?;
                bounds.budget.set(name, count)?;
            }
        }
        Ok(chosen)
    }

    fn plant(&self) -> Result<Option<Bug>, String> {
        let Some(name) = &self.plant else {
            return Ok(None);
        };
        if !cfg!(planted) {
            return Err("this program was built without RUSTFLAGS=\"--cfg planted\"".to_owned());
        }
        let mut bugs = Bug::ALL.iter().copied();
        let bug = bugs.find(|bug| bug.name() == name);
        bug.map(Some).ok_or(format!("no bug has the name {name}"))
    }
}

/// Whether all that was tried is right.
fn run(args: &Args) -> Result<bool, String> {
    let bounds = args.bounds()?;
    if args.list {
        for bounds in bounds {
            println!("{bounds:?}");
        }
        return Ok(true);
    }
    run::plant(args.plant()?);
    if let (Some(seed), Some(bounds)) = (args.walk, bounds.first()) {
        search::walk(bounds, seed);
        return Ok(true);
    }
    let (mut passed, mut failed) = (0, 0);
    for bounds in bounds {
        println!("{}: {bounds}", bounds.name);
        let found = search::search(&bounds, Duration::from_secs(args.seconds));
        println!("  {}", found.figures);
        if let Some(broken) = &found.broken {
            failed += 1;
            println!("  {}: {}", broken.wrong.rule, broken.wrong.text);
            if !args.quiet {
                search::replay(&bounds, broken);
            }
            if args.plant.is_some() {
                break;
            }
        } else if !found.complete {
            failed += 1;
            println!("  not complete: out of time");
        } else {
            passed += 1;
        }
    }
    println!("{passed} passed, {failed} failed, 0 skipped");
    Ok(failed == 0)
}

fn main() -> ExitCode {
    run::keep_panics();
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}
