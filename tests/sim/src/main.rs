// SPDX-License-Identifier: GPL-2.0

//! Runs RMR pools in virtual time: one seed with a trace, or many on all cores.

use clap::Parser;
use rmr_engine::planted::Bug;
use rmr_sim::faults::Kind;
use rmr_sim::faults::Kinds;
use rmr_sim::hunt::Hunt;
use rmr_sim::plan::Cut;
use rmr_sim::plan::Plan;
use rmr_sim::run;
use rmr_sim::run::run;
use rmr_sim::run::Figures;
use rmr_sim::run::Options;
use rmr_sim::run::Report;
use rmr_sim::shrink::shrink;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// A run allocates all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs of the shrinker for each failing seed.
const TRIES: u32 = 400;
/// Failing seeds that are shrunk; the others are only named.
const SHRUNK: usize = 3;

#[derive(Parser)]
#[command(about = "Runs whole RMR pools in virtual time, with faults, from one seed")]
struct Args {
    /// Run this seed
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run so many seeds
    #[arg(long)]
    seeds: Option<u64>,
    /// Begin with this one
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Threads; all cores by default
    #[arg(long)]
    jobs: Option<usize>,
    /// Print everything that happens
    #[arg(long)]
    trace: bool,
    /// Only these kinds of faults; "none" for none
    #[arg(long, value_delimiter = ',')]
    only: Option<Vec<String>>,
    /// None of these kinds of faults
    #[arg(long, value_delimiter = ',')]
    without: Vec<Kind>,
    /// None of these faults, by their place in the plan
    #[arg(long, value_delimiter = ',')]
    skip: Vec<usize>,
    /// At most so many requests
    #[arg(long)]
    ops: Option<u32>,
    /// Plant a bug (only in a build with `--cfg planted`)
    #[arg(long, value_delimiter = ',')]
    plant: Vec<String>,
    /// Do not make failing runs smaller
    #[arg(long)]
    no_shrink: bool,
    /// Stop at the first seed that fails
    #[arg(long)]
    stop: bool,
    /// Print the digest of each run of --seeds
    #[arg(long)]
    digests: bool,
    /// Print the plan
    #[arg(long)]
    plan: bool,
    /// Write the history to this file, for check-history
    #[arg(long)]
    history: Option<PathBuf>,
    /// Plant each bug in turn (or those that --plant names), and look for a seed that finds it: within the number stated
    /// beside it, or within --seeds
    #[arg(long, conflicts_with = "seed")]
    plant_all: bool,
    /// List faults and bugs
    #[arg(long)]
    list: bool,
}

impl Args {
    fn options(&self) -> Result<Options, String> {
        let allowed = match &self.only {
            None => Kinds::all(),
            Some(names) => names
                .iter()
                .filter(|name| *name != "none")
                .map(|name| name.parse::<Kind>())
                .collect::<Result<Kinds, String>>()?,
        };
        if !cfg!(planted) && (self.plant_all || !self.plant.is_empty()) {
            return Err("this program was built without RUSTFLAGS=\"--cfg planted\"".to_owned());
        }
        if self.plant.len() > 1 && !self.plant_all {
            return Err("only one bug can be planted in a run".to_owned());
        }
        Ok(Options {
            allowed,
            plant: self.bugs()?.first().copied().filter(|_| !self.plant_all),
            trace: self.trace,
        })
    }

    /// The bugs that are named.
    fn bugs(&self) -> Result<Vec<Bug>, String> {
        let bug = |name: &String| {
            let found = Bug::ALL.iter().copied().find(|bug| bug.name() == name);
            found.ok_or_else(|| format!("no bug has the name {name}"))
        };
        self.plant.iter().map(bug).collect()
    }

    fn jobs(&self) -> usize {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or(cores).max(1)
    }

    fn cut(&self) -> Cut {
        Cut {
            without: self.without.iter().copied().collect(),
            faults: self.skip.iter().copied().collect(),
            ops: self.ops,
        }
    }

    /// What to add to a command so that it does the same.
    fn again(&self) -> String {
        let mut text = String::new();
        if let Some(only) = &self.only {
            text += &format!(" --only {}", only.join(","));
        }
        if !self.plant.is_empty() {
            text += &format!(" --plant {}", self.plant.join(","));
        }
        text
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    run::keep_panics();
    let options = match args.options() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("sim: {why}");
            return ExitCode::from(2);
        }
    };
    if args.list {
        for kind in Kind::ALL {
            println!("{:<18}{}", kind.name(), kind.about().trim());
        }
        for bug in Bug::ALL {
            println!("bug {:<28}{:>5} seeds", bug.name(), bug.within());
        }
        return ExitCode::SUCCESS;
    }
    match args.seed {
        Some(seed) => one(seed, &args, &options),
        None if args.plant_all => plant_all(&args, options),
        None => many(&args, &options),
    }
}

/// Looks for every bug; fails if one is not found.
fn plant_all(args: &Args, options: Options) -> ExitCode {
    let bugs = match args.bugs() {
        Ok(named) if !named.is_empty() => named,
        _ => Bug::ALL.to_vec(),
    };
    let begin = Instant::now();
    println!(
        "{:<28}{:>6}{:>7}{:>7}{:>9}  violation",
        "bug", "within", "tried", "seed", "seconds"
    );
    let hunt = Hunt::new(args.first, args.seeds, args.cut(), options);
    let caught = hunt.all(&bugs, args.jobs(), &|catch| {
        let (seed, rule) = match &catch.found {
            Some((seed, wrong)) => (seed.to_string(), wrong.rule.as_str()),
            None if catch.bug.within() == 0 => ("-".to_owned(), "open: not found by random seeds"),
            None => ("-".to_owned(), "SURVIVED"),
        };
        println!(
            "{:<28}{:>6}{:>7}{seed:>7}{:>9.1}  {rule}",
            catch.bug.name(),
            catch.bug.within(),
            catch.tried,
            catch.took.as_secs_f64(),
        );
    });
    let missed = || caught.iter().filter(|catch| catch.found.is_none());
    let survived = missed().filter(|catch| catch.bug.within() > 0).count();
    println!(
        "{} bugs: {} found, {survived} survived, {} open, {:.0} s",
        caught.len(),
        caught.len() - missed().count(),
        missed().count() - survived,
        begin.elapsed().as_secs_f64()
    );
    let open = missed().count() - survived;
    close(caught.len() - missed().count(), survived, open)
}

/// Ends as the other tests of the project do.
fn close(passed: usize, failed: usize, skipped: usize) -> ExitCode {
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one(seed: u64, args: &Args, options: &Options) -> ExitCode {
    let cut = args.cut();
    if args.plan {
        println!("{:#?}", Plan::draw(seed, options.allowed, &cut));
    }
    let begin = Instant::now();
    let report = run(seed, &cut, options);
    let took = begin.elapsed();
    print_figures(&report.figures, took);
    println!("digest {}", report.digest);
    if let Some(path) = &args.history {
        let written = File::create(path)
            .and_then(|file| report.history.to_json_lines(&mut BufWriter::new(file)));
        if let Err(why) = written {
            eprintln!("sim: {}: {why}", path.display());
        }
    }
    for wrong in &report.wrong {
        println!("WRONG {}: {}", wrong.rule, wrong.text);
    }
    if report.wrong.is_empty() {
        return ExitCode::SUCCESS;
    }
    if !args.no_shrink && !args.trace {
        tell_smaller(seed, &cut, args, options);
    }
    ExitCode::FAILURE
}

fn tell_smaller(seed: u64, cut: &Cut, args: &Args, options: &Options) {
    let small = shrink(seed, cut, options, TRIES);
    let plan = Plan::draw(seed, options.allowed, &small);
    println!(
        "  smaller: sim --seed {seed}{}{small} --trace   ({} requests, {} planned faults, kinds {})",
        args.again(),
        plan.work.ops,
        plan.faults.len(),
        plan.kinds
    );
    for wrong in run(seed, &small, options).wrong {
        println!("    {}: {}", wrong.rule, wrong.text);
    }
}

fn print_figures(figures: &Figures, took: Duration) {
    println!(
        "{:.3} s virtual in {:.3} s ({:.0} x), {} events, {} requests ({} good), {} attaches, {} epochs, {} pulls, \
         {} faults, longest request {:.3} s, longest freeze {:.3} s",
        seconds(figures.time),
        took.as_secs_f64(),
        seconds(figures.time) / took.as_secs_f64().max(1e-9),
        figures.events,
        figures.answered,
        figures.good,
        figures.attaches,
        figures.epochs,
        figures.pulls,
        figures.faults,
        seconds(figures.longest),
        seconds(figures.freeze),
    );
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    next: AtomicU64,
    done: AtomicU64,
    failed: Mutex<BTreeMap<u64, String>>,
    sum: Mutex<Figures>,
}

fn many(args: &Args, options: &Options) -> ExitCode {
    let count = args.seeds.unwrap_or(100);
    let jobs = args.jobs();
    let shared = Shared::default();
    let cut = args.cut();
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| loop {
                let number = shared.next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                let seed = args.first + number;
                let report = run(seed, &cut, options);
                if args.digests {
                    println!("seed {seed} digest {}", report.digest);
                }
                take(&shared, seed, &report, args);
                if args.stop && !report.wrong.is_empty() {
                    shared.next.store(count, Ordering::Relaxed);
                }
                shared.done.fetch_add(1, Ordering::Relaxed);
            });
        }
        scope.spawn(|| {
            let mut shown = Instant::now();
            loop {
                thread::sleep(Duration::from_millis(20));
                let done = shared.done.load(Ordering::Relaxed);
                if done >= count || shared.next.load(Ordering::Relaxed) >= count + jobs as u64 {
                    break;
                }
                if shown.elapsed() > Duration::from_secs(5) {
                    shown = Instant::now();
                    let failed = shared.failed.lock().map_or(0, |failed| failed.len());
                    eprintln!("{done} of {count} seeds, {failed} failed");
                }
            }
        });
    });
    let took = begin.elapsed();
    let failed = shared.failed.into_inner().unwrap_or_default();
    let done = shared.done.into_inner();
    println!(
        "{done} seeds, {} failed, {jobs} jobs, {:.0} x real time per job",
        failed.len(),
        seconds(shared.sum.lock().map_or(0, |sum| sum.time))
            / took.as_secs_f64().max(1e-9)
            / jobs as f64,
    );
    if let Ok(sum) = shared.sum.lock() {
        print_figures(&sum, took);
    }
    let mut rules: BTreeMap<&str, u64> = BTreeMap::new();
    for rule in failed.values() {
        *rules.entry(rule).or_default() += 1;
    }
    for (rule, seeds) in rules {
        println!("  {rule}: {seeds} seeds");
    }
    if !args.no_shrink {
        for &seed in failed.keys().take(SHRUNK) {
            tell_smaller(seed, &cut, args, options);
        }
    }
    close(
        (done as usize).saturating_sub(failed.len()),
        failed.len(),
        0,
    )
}

fn take(shared: &Shared, seed: u64, report: &Report, args: &Args) {
    if let Ok(mut sum) = shared.sum.lock() {
        let figures = &report.figures;
        sum.time += figures.time;
        sum.events += figures.events;
        sum.answered += figures.answered;
        sum.good += figures.good;
        sum.epochs += figures.epochs;
        sum.attaches += figures.attaches;
        sum.pulls += figures.pulls;
        sum.faults += figures.faults;
        sum.longest = sum.longest.max(figures.longest);
        sum.freeze = sum.freeze.max(figures.freeze);
    }
    let Some(wrong) = report.wrong.first() else {
        return;
    };
    println!(
        "seed {seed}: {}: {}\n  sim --seed {seed}{}{} --trace",
        wrong.rule,
        wrong.text,
        args.again(),
        args.cut()
    );
    if let Ok(mut failed) = shared.failed.lock() {
        failed.insert(seed, wrong.rule.clone());
    }
}
