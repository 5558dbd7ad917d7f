// SPDX-License-Identifier: GPL-2.0

//! `record`: random direct IO whose every request and answer is printed, one line of JSON each, as `check-history` reads it.
//!
//! A request is printed before it is sent, an answer after it came; so whoever gets the lines knows at any moment what may be on
//! the device, also when this host dies in the middle. Nothing is checked here, not even by the reader of its own writes.
//! What a sector holds is the number of the request that wrote it; it is part of the pattern, so that a sector that is old, torn
//! or of another place is told from a right one.

use crate::device::{Access, Buffer, Device, Span};
use crate::pattern::{inspect, stamp_all, Content, BLOCK, BLOCK_U64};
use anyhow::{bail, Result};
use clap::Args;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rmr_checkers::history::{Event, Operation, Outcome};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What is read where no request has left what is there: no request has this number.
const STRANGE: u64 = u64::MAX;

/// Requests of a client, at most.
const CLIENT_SHIFT: u32 = 32;

#[derive(Args)]
pub struct Options {
    /// Number of this opening of the device; each one has another.
    #[arg(long)]
    client: u32,
    /// Requests of this opening that were recorded before; each one has another number.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// Seed of what is done; a random one is chosen and printed unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Seed of the pattern; the same for all of one history.
    #[arg(long, default_value_t = 1)]
    pattern: u64,
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Stop after so many seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Largest access.
    #[arg(long, value_name = "BYTES", default_value = "64K", value_parser = crate::parse_size)]
    max_io: u64,
    /// Stop when there is this file.
    #[arg(long, value_name = "FILE")]
    until: Option<PathBuf>,
    /// Of 100 requests, how many are reads.
    #[arg(long, default_value_t = 40)]
    reads: u32,
    /// Of 100 requests, how many are flushes.
    #[arg(long, default_value_t = 5)]
    flushes: u32,
    /// Only read everything once, to learn what is there.
    #[arg(long)]
    all: bool,
}

/// What the threads share.
struct Recorder<'a> {
    device: &'a Device,
    window: Span,
    options: &'a Options,
    next: AtomicU64,
    out: Mutex<&'a mut (dyn Write + Send)>,
}

/// Does what is asked for, and prints it to `out`.
pub fn run(
    device: &Device,
    window: Span,
    options: &Options,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let unit = device.logical_block().max(BLOCK_U64);
    if options.threads == 0 || options.max_io < unit || options.max_io > window.len {
        bail!("at least one thread, and a largest access between a block and the window");
    }
    let recorder = Recorder {
        device,
        window,
        options,
        next: AtomicU64::new(
            (u64::from(options.client) << CLIENT_SHIFT) + u64::from(options.first) + 1,
        ),
        out: Mutex::new(out),
    };
    if options.all {
        return recorder.read_all();
    }
    let seed = options.seed.unwrap_or_else(rand::random);
    recorder.line(format!("# seed {seed}").into_bytes())?;
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads as u64)
            .map(|thread| {
                let rng = SmallRng::seed_from_u64(seed.wrapping_add(thread));
                let recorder = &recorder;
                scope.spawn(move || recorder.work(rng, unit, deadline))
            })
            .collect();
        for thread in threads {
            thread.join().expect("a thread does not panic")?;
        }
        Ok(())
    })
}

impl Recorder<'_> {
    /// One after the other, until it is time. Stops at the first error of the device: it does not come back.
    fn work(&self, mut rng: SmallRng, unit: u64, deadline: Instant) -> Result<()> {
        let mut buffer = Buffer::new(self.options.max_io as usize);
        let until = self.options.until.as_ref();
        while Instant::now() < deadline && !until.is_some_and(|file| file.exists()) {
            let len = rng.random_range(1..=self.options.max_io / unit) * unit;
            let last = (self.window.len - len) / unit;
            let span = Span {
                offset: self.window.offset + rng.random_range(0..=last) * unit,
                len,
            };
            let good = match rng.random_range(0..100) {
                draw if draw < self.options.reads => self.read(span, &mut buffer)?,
                draw if draw < self.options.reads + self.options.flushes => self.flush()?,
                draw => self.write(span, draw % 8 == 0, &mut buffer)?,
            };
            if !good {
                break;
            }
        }
        Ok(())
    }

    fn read_all(&self) -> Result<()> {
        let mut buffer = Buffer::new(self.options.max_io as usize);
        for offset in (self.window.offset..self.window.end()).step_by(self.options.max_io as usize)
        {
            let len = self.options.max_io.min(self.window.end() - offset);
            if !self.read(Span { offset, len }, &mut buffer)? {
                bail!("the device cannot be read at byte {offset}");
            }
        }
        Ok(())
    }

    fn read(&self, span: Span, buffer: &mut Buffer) -> Result<bool> {
        let (sector, count) = sectors(span);
        let op = self.invoke(Operation::Read { sector, count })?;
        let bytes = buffer.bytes(span.len);
        let done = self.device.read(Access::Direct, span.offset, bytes);
        let value = |(number, bytes)| match inspect(bytes, self.options.pattern, number) {
            Content::Zero => 0,
            Content::Version(version) => version,
            Content::Foreign { .. } | Content::Torn { .. } => STRANGE,
        };
        let blocks = (sector..).zip(bytes.chunks_exact(BLOCK));
        let found = done.map(|()| blocks.map(value).collect());
        self.answer(op, found)
    }

    fn write(&self, span: Span, fua: bool, buffer: &mut Buffer) -> Result<bool> {
        let (sector, count) = sectors(span);
        let op = self.number();
        let values = vec![op; count as usize];
        let what = Operation::Write {
            sector,
            values,
            fua,
        };
        self.print(&self.request(op, what))?;
        let bytes = buffer.bytes(span.len);
        stamp_all(bytes, self.options.pattern, sector, op);
        let done = if fua {
            self.device
                .write_through(Access::Direct, span.offset, bytes)
        } else {
            self.device.write(Access::Direct, span.offset, bytes)
        };
        self.answer(op, done.map(|()| Vec::new()))
    }

    fn flush(&self) -> Result<bool> {
        let op = self.invoke(Operation::Flush)?;
        self.answer(op, self.device.sync().map(|()| Vec::new()))
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn request(&self, op: u64, what: Operation) -> Event {
        Event::Invoke {
            t: now(),
            op,
            client: self.options.client,
            what,
        }
    }

    fn invoke(&self, what: Operation) -> Result<u64> {
        let op = self.number();
        self.print(&self.request(op, what))?;
        Ok(op)
    }

    /// Whether it was answered well. After an error nobody knows what becomes of the request.
    fn answer(&self, op: u64, done: Result<Vec<u64>>) -> Result<bool> {
        let good = done.is_ok();
        let outcome = done.map_or(Outcome::Unknown, Outcome::Ok);
        self.print(&Event::Return {
            t: now(),
            op,
            outcome,
        })?;
        Ok(good)
    }

    /// One line, which has left this program when this returns.
    fn print(&self, event: &Event) -> Result<()> {
        self.line(serde_json::to_vec(event)?)
    }

    fn line(&self, mut line: Vec<u8>) -> Result<()> {
        line.push(b'\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(&line)?;
        Ok(out.flush()?)
    }
}

fn sectors(span: Span) -> (u64, u32) {
    // An access is 4 MiB at most.
    (span.offset / BLOCK_U64, (span.len / BLOCK_U64) as u32)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmr_checkers::history::{History, Initial};

    fn record(device: &Device, client: u32, all: bool, out: &mut Vec<u8>) {
        let options = Options {
            client,
            first: 0,
            seed: Some(1),
            pattern: 1,
            threads: 3,
            seconds: 1,
            max_io: 8192,
            until: None,
            reads: 50,
            flushes: 5,
            all,
        };
        let window = device.window(0, None).unwrap();
        writeln!(
            out,
            r#"{{"ev":"attached","t":1,"client":{client},"generation":{client},"in_sync":1}}"#
        )
        .unwrap();
        run(device, window, &options, out).unwrap();
        writeln!(out, r#"{{"ev":"gone","t":1,"client":{client}}}"#).unwrap();
    }

    fn check(lines: &[u8]) -> bool {
        let mut history = History::new(Initial::Zero);
        history.read_json_lines(lines).unwrap();
        let report = history.check();
        assert!(report.operations > 10);
        report.good()
    }

    /// A file is a good disk, until somebody puts back a sector of it.
    #[test]
    fn what_is_recorded_can_be_checked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 16).unwrap();
        let device = Device::open(file.path(), true).unwrap();
        let mut lines = Vec::new();
        record(&device, 1, false, &mut lines);
        record(&device, 2, true, &mut lines);
        assert!(check(&lines));
        let mut sector = [0; BLOCK];
        stamp_all(&mut sector, 1, 5, 1);
        std::os::unix::fs::FileExt::write_at(file.as_file(), &sector, 5 * BLOCK_U64).unwrap();
        record(&device, 3, true, &mut lines);
        assert!(!check(&lines));
    }
}
