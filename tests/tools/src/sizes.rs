// SPDX-License-Identifier: GPL-2.0

//! `sizes`: every power of two, and one block more and less, at every alignment from both ends of the window; then what
//! must fail, past the end of the device and off its logical blocks.

use crate::device::{Access, Buffer, Device, Span};
use crate::report::Report;
use crate::tracked::Tracked;
use anyhow::{bail, Result};
use clap::Args;
use rustix::io::Errno;
use std::collections::BTreeSet;

/// Read before and after each access, to see that the neighbours are untouched.
const GUARD: u64 = 8 << 10;

/// Up to this length, every length is tried at every distance.
const THOROUGH: u64 = 64 << 10;

/// Alignments beyond this make no difference to anybody.
const MAX_DISTANCE: u64 = 64 << 10;

#[derive(Args)]
pub struct Options {
    /// Seed of the pattern.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Largest access.
    #[arg(long, value_name = "BYTES", default_value = "4M", value_parser = crate::parse_size)]
    max_io: u64,
}

/// Powers of two of `unit` up to `max`.
fn powers(unit: u64, max: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(unit), |size| size.checked_mul(2))
        .take_while(move |size| *size <= max)
}

/// All lengths to try: odd and even multiples of the logical block.
fn lengths(unit: u64, max: u64) -> BTreeSet<u64> {
    let around =
        powers(unit, max).flat_map(|p| [p.saturating_sub(unit), p, p + unit, p + 2 * unit]);
    around.filter(|len| (unit..=max).contains(len)).collect()
}

/// Distances from an end of the zone to try: powers of two, and up to two pages one block less.
fn distances(unit: u64, len: u64, room: u64) -> BTreeSet<u64> {
    let all = powers(unit, MAX_DISTANCE).flat_map(|p| [0, p, if p <= 8192 { p - unit } else { 0 }]);
    let wanted = |distance: &u64| len <= THOROUGH || *distance == 0 || *distance == 7 * unit;
    all.filter(|distance| *distance <= room)
        .filter(wanted)
        .collect()
}

struct Zone<'a> {
    tracked: Tracked<'a>,
    buffer: Buffer,
}

impl Zone<'_> {
    fn check(&mut self, span: Span, report: &mut Report) -> Result<()> {
        self.tracked
            .write(Access::Direct, span, false, &mut self.buffer, report)?;
        let window = self.tracked.window();
        let offset = span.offset.saturating_sub(GUARD).max(window.offset);
        let end = (span.end() + GUARD).min(window.end());
        let around = Span {
            offset,
            len: end - offset,
        };
        self.tracked
            .read(Access::Direct, span, 0, &mut self.buffer, report)?;
        self.tracked
            .read(Access::Direct, around, 0, &mut self.buffer, report)
    }
}

fn zone_lengths(
    device: &Device,
    span: Span,
    max_io: u64,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let unit = device.logical_block();
    let buffer = Buffer::new((options.max_io + 2 * GUARD).max(1 << 20) as usize);
    let tracked = Tracked::new(device, span, options.seed, 1);
    let mut zone = Zone { tracked, buffer };
    zone.tracked.fill(&mut zone.buffer, report)?;
    for len in lengths(unit, max_io) {
        for distance in distances(unit, len, span.len.saturating_sub(len)) {
            zone.check(
                Span {
                    offset: span.offset + distance,
                    len,
                },
                report,
            )?;
            zone.check(
                Span {
                    offset: span.end() - distance - len,
                    len,
                },
                report,
            )?;
            if report.failed() {
                return Ok(());
            }
        }
    }
    zone.tracked.verify(0, &mut zone.buffer, report)
}

fn expect_error(what: &str, done: std::io::Result<usize>, expected: Errno, report: &mut Report) {
    match done {
        Ok(count) => report.wrong(format!(
            "{what} transferred {count} bytes, expected {expected:?}"
        )),
        Err(error) if error.raw_os_error() == Some(expected.raw_os_error()) => {}
        Err(error) => report.wrong(format!("{what} failed with {error}, expected {expected:?}")),
    }
}

fn expect_count(what: &str, done: std::io::Result<usize>, expected: u64, report: &mut Report) {
    match done {
        Ok(count) if count as u64 == expected => {}
        Ok(count) => report.wrong(format!(
            "{what} transferred {count} bytes, expected {expected}"
        )),
        Err(error) => report.wrong(format!(
            "{what} failed with {error}, expected {expected} bytes"
        )),
    }
}

/// What the end of a block device must refuse or cut short.
fn past_the_end(device: &Device, report: &mut Report) {
    let (unit, size) = (device.logical_block(), device.size());
    let mut buffer = Buffer::new(2 * unit as usize);
    let read = device.try_read(size, buffer.bytes(unit));
    expect_count("a read at the end", read, 0, report);
    let read = device.try_read(size - unit, buffer.bytes(2 * unit));
    expect_count("a read across the end", read, unit, report);
    let written = device.try_write(size, buffer.bytes(unit));
    expect_error("a write at the end", written, Errno::NOSPC, report);
    let written = device.try_write(size - unit, buffer.bytes(2 * unit));
    expect_count("a write across the end", written, unit, report);
    let beyond = Span {
        offset: size - unit,
        len: 2 * unit,
    };
    if device.discard(beyond).is_ok() {
        report.wrong("a discard across the end succeeded".into());
    }
    if device.zero_out(beyond).is_ok() {
        report.wrong("a zero-out across the end succeeded".into());
    }
}

/// Accesses off the logical blocks.
fn misaligned(device: &Device, report: &mut Report) {
    let unit = device.logical_block();
    let mut buffer = Buffer::new(2 * unit as usize);
    let read = device.try_read(unit / 2, buffer.bytes(unit));
    expect_error("a read at half a block", read, Errno::INVAL, report);
    let read = device.try_read(0, buffer.bytes(unit + unit / 2));
    expect_error("a read of one block and a half", read, Errno::INVAL, report);
}

/// Runs the whole test.
pub fn run(device: &Device, window: Span, options: &Options) -> Result<Report> {
    let mut report = Report::new(options.seed);
    // Room for the largest access at the largest distance from either end.
    let zone = options.max_io + MAX_DISTANCE + GUARD;
    let zone = zone - zone % device.logical_block();
    if window.len < zone {
        bail!(
            "the window of {} bytes is smaller than the {zone} bytes this test needs",
            window.len
        );
    }
    zone_lengths(
        device,
        Span {
            offset: window.offset,
            len: zone,
        },
        options.max_io,
        options,
        &mut report,
    )?;
    if window.len >= 2 * zone {
        // The other end of the window, for which the shorter lengths will do.
        let last = Span {
            offset: window.end() - zone,
            len: zone,
        };
        let max_io = options.max_io.min(THOROUGH);
        zone_lengths(device, last, max_io, options, &mut report)?;
    }
    if device.is_block_device() {
        misaligned(device, &mut report);
        past_the_end(device, &mut report);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_odd_and_even_multiples() {
        let all = lengths(512, 4 << 20);
        assert!(all.iter().all(|len| len % 512 == 0));
        for len in [512, 1024, 1536, 2560, 4096, 4608, (4 << 20) - 512, 4 << 20] {
            assert!(all.contains(&len), "{len}");
        }
        assert!(!all.contains(&0));
        assert!(lengths(4096, 64 << 10).iter().all(|len| len % 4096 == 0));
    }

    #[test]
    fn distances_begin_at_the_end_itself() {
        assert_eq!(
            distances(512, 512, 2048),
            BTreeSet::from([0, 512, 1024, 1536, 2048])
        );
        assert_eq!(distances(512, 1 << 20, 1 << 20), BTreeSet::from([0, 3584]));
        assert_eq!(distances(512, 512, 0), BTreeSet::from([0]));
    }

    #[test]
    fn a_good_device_passes() {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        file.as_file().set_len(2 << 20).unwrap();
        let device = Device::open(file.path(), true).unwrap();
        let options = Options {
            seed: 1,
            max_io: 32 << 10,
        };
        let report = run(&device, device.window(0, None).unwrap(), &options).unwrap();
        assert!(!report.failed(), "{report:?}");
        assert!(report.writes > 300, "{report:?}");
    }
}
