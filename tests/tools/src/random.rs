// SPDX-License-Identifier: GPL-2.0

//! `model`: random accesses of every kind, size and alignment from several threads.
//!
//! Phases with `O_DIRECT`, in which requests overlap as they like, alternate with phases through the page cache, in which
//! they do not (a page cache promises nothing for that). At the end every block is read several times, so that all
//! copies of a replicated device have their turn.

use crate::device::{Access, Buffer, Device, Span};
use crate::ranges::Ranges;
use crate::report::Report;
use crate::tracked::{Tracked, Zeroing};
use anyhow::{bail, Context, Result};
use clap::{Args, ValueEnum};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Half of all accesses go here, so that they meet.
const HOT_BYTES: u64 = 2 << 20;
/// The hot part lies across a multiple of this, where replicated devices may have an inner boundary.
const HOT_BOUNDARY: u64 = 4 << 20;
/// The page cache handles nothing smaller.
const PAGE: u64 = 4096;
const LARGEST_IO: u64 = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Through {
    Direct,
    Buffered,
    Both,
}

#[derive(Args)]
pub struct Options {
    /// Seed; a random one is chosen and printed unless given.
    #[arg(long)]
    pub seed: Option<u64>,
    #[arg(long, default_value_t = 4)]
    pub threads: usize,
    /// Stop after so many seconds.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Stop after so many operations, if that is earlier.
    #[arg(long)]
    pub ops: Option<u64>,
    /// How often to change between direct and buffered access.
    #[arg(long, default_value_t = 4)]
    pub phases: u32,
    #[arg(long, value_enum, default_value_t = Through::Both)]
    pub access: Through,
    /// Smallest access.
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = crate::parse_size)]
    pub min_io: u64,
    /// Largest access.
    #[arg(long, value_name = "BYTES", default_value = "4M", value_parser = crate::parse_size)]
    pub max_io: u64,
    /// Never let direct accesses overlap either.
    #[arg(long)]
    pub no_overlap: bool,
    /// No discards.
    #[arg(long)]
    pub no_discard: bool,
    /// No zero-outs.
    #[arg(long)]
    pub no_zero_out: bool,
    /// How often to read everything at the end.
    #[arg(long, default_value_t = 2)]
    pub passes: u32,
}

impl Options {
    fn check(&self, device: &Device, window: Span) -> Result<()> {
        if self.threads == 0 || self.phases == 0 {
            bail!("at least one thread and one phase are needed");
        }
        if self.max_io > LARGEST_IO || self.max_io < self.min_io.max(device.logical_block()) {
            bail!("the largest access must be between the smallest one and 4 MiB");
        }
        if window.len < self.max_io {
            bail!(
                "the window of {} bytes is smaller than the largest access",
                window.len
            );
        }
        Ok(())
    }

    fn access(&self, phase: u32) -> Access {
        match self.access {
            Through::Direct => Access::Direct,
            Through::Buffered => Access::Buffered,
            Through::Both if phase % 2 == 0 => Access::Direct,
            Through::Both => Access::Buffered,
        }
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Read,
    Write,
    WriteThrough,
    Zero(Zeroing),
    Sync,
}

/// What all threads of a phase share.
struct Phase<'a> {
    tracked: &'a Tracked<'a>,
    options: &'a Options,
    access: Access,
    ranges: Ranges,
    deadline: Instant,
    ops_left: &'a AtomicU64,
    stop: AtomicBool,
}

impl Phase<'_> {
    fn finished(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        self.stop.load(Ordering::Relaxed)
            || Instant::now() >= self.deadline
            || self
                .ops_left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_err()
    }

    /// The smallest unit of this phase.
    fn unit(&self) -> u64 {
        match self.access {
            Access::Direct => self.tracked.device().logical_block(),
            Access::Buffered => crate::pattern::BLOCK_U64,
        }
    }

    /// What has to be locked for an access to `span`; nothing if overlapping is fine.
    fn locked(&self, span: Span) -> Option<Span> {
        match self.access {
            Access::Direct => self.options.no_overlap.then_some(span),
            Access::Buffered => {
                let offset = span.offset - span.offset % PAGE;
                let end = span.end().next_multiple_of(PAGE);
                Some(Span {
                    offset,
                    len: end - offset,
                })
            }
        }
    }
}

struct Worker<'a> {
    phase: &'a Phase<'a>,
    number: usize,
    rng: SmallRng,
    buffer: Buffer,
    report: Report,
}

impl Worker<'_> {
    fn run(mut self) -> Result<Report> {
        while !self.phase.finished() {
            let done = self.step();
            if done.is_err() || self.report.failed() {
                self.phase.stop.store(true, Ordering::Relaxed);
            }
            done?;
        }
        Ok(self.report)
    }

    fn operation(&mut self) -> Operation {
        let options = self.phase.options;
        match self.rng.random_range(0..100) {
            0..4 if !options.no_discard => Operation::Zero(Zeroing::Discard),
            4..8 if !options.no_zero_out => Operation::Zero(Zeroing::ZeroOut),
            8..10 => Operation::Sync,
            10..14 => Operation::WriteThrough,
            14..54 => Operation::Write,
            _ => Operation::Read,
        }
    }

    /// A length, small ones as likely as large ones, a quarter of them powers of two.
    fn length(&mut self, unit: u64) -> u64 {
        let options = self.phase.options;
        let (min, max) = (options.min_io.max(unit), options.max_io);
        let power = 1_u64 << self.rng.random_range(min.ilog2()..=max.ilog2());
        let exact = self.rng.random_ratio(1, 4);
        let len = if exact {
            power
        } else {
            self.rng.random_range(power..2 * power)
        };
        let len = len.clamp(min, max);
        (len - len % unit).max(unit)
    }

    /// Where half of the accesses go.
    fn hot(&self) -> Span {
        let window = self.phase.tracked.window();
        let middle = (window.offset + window.len / 2).next_multiple_of(HOT_BOUNDARY);
        let offset = middle.saturating_sub(HOT_BYTES / 2).max(window.offset);
        let len = window.end().saturating_sub(offset).min(HOT_BYTES);
        if len < HOT_BYTES {
            return window;
        }
        Span { offset, len }
    }

    fn span(&mut self, unit: u64) -> Span {
        let window = self.phase.tracked.window();
        let len = self.length(unit);
        let last = window.end() - len;
        if self.rng.random_ratio(1, 32) {
            return Span { offset: last, len };
        }
        let hot = self.rng.random_ratio(1, 2);
        let zone = if hot { self.hot() } else { window };
        let offset = self.rng.random_range(zone.offset..zone.end());
        // As often as not the access is aligned to its own size, up to a page.
        let aligned = self.rng.random_ratio(1, 2);
        let align = if aligned {
            (1 << len.ilog2()).clamp(unit, PAGE.max(unit))
        } else {
            unit
        };
        let offset = (offset - offset % align).clamp(window.offset, last);
        Span {
            offset: offset - offset % unit,
            len,
        }
    }

    fn step(&mut self) -> Result<()> {
        let (phase, tracked) = (self.phase, self.phase.tracked);
        let operation = self.operation();
        let unit = match operation {
            // The ioctls take nothing smaller than a logical block, whatever the page cache does.
            Operation::Zero(_) => tracked.device().logical_block(),
            _ => phase.unit(),
        };
        let span = self.span(unit);
        let _guard = phase.locked(span).map(|span| phase.ranges.lock(span));
        let (buffer, report) = (&mut self.buffer, &mut self.report);
        match operation {
            Operation::Read => tracked.read(phase.access, span, self.number, buffer, report),
            Operation::Write => tracked.write(phase.access, span, false, buffer, report),
            Operation::WriteThrough => tracked.write(phase.access, span, true, buffer, report),
            Operation::Zero(how) => tracked.zero(how, span, report),
            Operation::Sync => {
                report.syncs += 1;
                tracked.device().sync()
            }
        }
    }
}

fn run_phase(phase: &Phase<'_>, seed: u64) -> Result<Report> {
    let worker = |number: usize| Worker {
        phase,
        number,
        rng: SmallRng::seed_from_u64(seed.wrapping_add(number as u64)),
        buffer: Buffer::new(phase.options.max_io as usize),
        report: Report::default(),
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..phase.options.threads)
            .map(|number| {
                let worker = worker(number);
                scope.spawn(move || worker.run())
            })
            .collect();
        let mut total = Report::default();
        for thread in threads {
            match thread.join() {
                Ok(report) => total.add(report?),
                Err(_) => bail!("a test thread panicked"),
            }
        }
        Ok(total)
    })
}

/// Runs the whole test.
pub fn run(device: &Device, window: Span, options: &Options) -> Result<Report> {
    options.check(device, window)?;
    let seed = options.seed.unwrap_or_else(rand::random);
    eprintln!("rmr-iotest: seed {seed}");

    let mut report = Report::new(seed);
    let mut buffer = Buffer::new(LARGEST_IO as usize);
    let tracked = Tracked::new(device, window, seed, options.threads);
    tracked
        .fill(&mut buffer, &mut report)
        .context("first fill")?;

    let ops_left = AtomicU64::new(options.ops.unwrap_or(u64::MAX));
    let duration = Duration::from_secs(options.seconds) / options.phases;
    for number in 0..options.phases {
        let phase = Phase {
            tracked: &tracked,
            options,
            access: options.access(number),
            ranges: Ranges::default(),
            deadline: Instant::now() + duration,
            ops_left: &ops_left,
            stop: AtomicBool::new(false),
        };
        let part = run_phase(&phase, seed ^ (u64::from(number) << 32));
        report.add(part.with_context(|| format!("phase {number}, {:?}", phase.access))?);
        if report.failed() {
            return Ok(report);
        }
        device.drop_cache()?;
    }
    for _ in 0..options.passes {
        tracked
            .verify(0, &mut buffer, &mut report)
            .context("last check")?;
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::os::unix::fs::FileExt;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Command::parse_from(std::iter::once("test").chain(line.split_whitespace())).options
    }

    fn file(len: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        file.as_file().set_len(len).unwrap();
        file
    }

    fn run_on(file: &tempfile::NamedTempFile, base: u64, line: &str) -> Result<Report> {
        let device = Device::open(file.path(), true)?;
        run(&device, device.window(base, None)?, &options(line))
    }

    #[test]
    fn a_good_device_passes() {
        let file = file(8 << 20);
        let line =
            "--seed 1 --ops 600 --seconds 60 --no-overlap --max-io 256K --phases 2 --threads 3";
        let report = run_on(&file, 0, line).unwrap();
        assert!(!report.failed(), "{report:?}");
        assert!(report.writes > 100 && report.reads > 100, "{report:?}");
        assert!(
            report.zero_outs > 0 && report.discards > 0 && report.syncs > 0,
            "{report:?}"
        );
    }

    #[test]
    fn offsets_beyond_32_bits_work() {
        let base = 5 << 40;
        let file = file(base + (2 << 20));
        let line = "--seed 2 --ops 100 --seconds 60 --no-overlap --max-io 64K --access direct";
        let report = run_on(&file, base, line).unwrap();
        assert!(!report.failed(), "{report:?}");
    }

    #[test]
    fn a_device_that_loses_a_write_fails() {
        let file = file(1 << 20);
        let line = "--seed 3 --ops 1 --seconds 60 --no-overlap --max-io 64K --phases 1";
        let device = Device::open(file.path(), true).unwrap();
        let window = device.window(0, None).unwrap();
        let tracked = Tracked::new(&device, window, 3, 1);
        let mut buffer = Buffer::new(LARGEST_IO as usize);
        let mut report = Report::default();
        tracked.fill(&mut buffer, &mut report).unwrap();
        file.as_file().write_at(&[0; 512], 4096).unwrap();
        device.drop_cache().unwrap();
        tracked.verify(0, &mut buffer, &mut report).unwrap();
        assert_eq!(report.wrong, 1, "{report:?}");
        assert!(!run_on(&file, 0, line).unwrap().failed());
    }

    #[test]
    fn windows_that_are_too_small_are_refused() {
        let file = file(1 << 20);
        assert!(run_on(&file, 0, "--max-io 2M").is_err());
        assert!(run_on(&file, 0, "--max-io 8M").is_err());
        assert!(run_on(&file, 0, "--max-io 64K --threads 0").is_err());
    }
}
