// SPDX-License-Identifier: GPL-2.0

//! `rmr-iotest`: a program that knows what each block of a device must hold.
//!
//! Everything it writes can be told from everything else (`pattern`), and what may be read while writes run in parallel
//! is decided by a model of each block (`model`). It uses nothing but what every block device offers, so that the same
//! tests can be run on a plain disk to tell a fault of the test from a fault of the device. It ends with status 0 when
//! all was right, 1 when the device was wrong or failed, 2 for a wrong command line.

mod device;
mod digest;
mod fill;
mod layout;
mod model;
mod pattern;
mod random;
mod ranges;
mod record;
mod report;
mod sizes;
mod sys;
mod tracked;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use device::Device;
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    version,
    about = "Checks that a block device holds what was written to it"
)]
struct Cli {
    /// Print the result as one line of JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Random reads, writes, flushes, discards and zero-outs from several threads, checked against a model.
    Model {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: random::Options,
    },
    /// Every size at every alignment, at both ends of the window, and past the end of the device.
    Sizes {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: sizes::Options,
    },
    /// Write one version of the pattern everywhere.
    Fill {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: fill::Options,
    },
    /// Check that one version of the pattern, or zeroes, are everywhere.
    Verify {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: fill::Options,
        /// Expect zeroes instead of the pattern.
        #[arg(long)]
        zeroes: bool,
    },
    /// Print a checksum for each step of the window, to compare devices on different machines.
    Digest {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: digest::Options,
    },
    /// Random direct IO, with every request and answer printed for check-history.
    Record {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        options: record::Options,
    },
    /// Print where on a storage node's device the data area and the metadata lie.
    Layout { device: PathBuf },
}

/// The device and the part of it to work on.
#[derive(Args)]
struct Target {
    /// Block device (or a file, for trying things out).
    device: PathBuf,
    /// First byte to use; sizes take the suffixes K, M, G, T.
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = parse_size)]
    offset_base: u64,
    /// Bytes to use; up to the end of the device unless given.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    span: Option<u64>,
}

/// Reads a number with an optional binary suffix.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        other => return Err(format!("unknown suffix {other:?}; use K, M, G or T")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|e| format!("{text:?} is not a size: {e}"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is too large"))
}

/// Runs a mode; `None` if it has nothing to report.
fn run(mode: &Mode) -> Result<Option<Report>> {
    let report = match mode {
        Mode::Model { target, options } => {
            let device = Device::open(&target.device, true)?;
            random::run(
                &device,
                device.window(target.offset_base, target.span)?,
                options,
            )
        }
        Mode::Sizes { target, options } => {
            let device = Device::open(&target.device, true)?;
            sizes::run(
                &device,
                device.window(target.offset_base, target.span)?,
                options,
            )
        }
        Mode::Fill { target, options } => {
            let device = Device::open(&target.device, true)?;
            fill::fill(
                &device,
                device.window(target.offset_base, target.span)?,
                options,
            )
        }
        Mode::Verify {
            target,
            options,
            zeroes,
        } => {
            let device = Device::open(&target.device, false)?;
            let window = device.window(target.offset_base, target.span)?;
            fill::verify(&device, window, options, *zeroes)
        }
        Mode::Digest { target, options } => {
            let device = Device::open(&target.device, false)?;
            let window = device.window(target.offset_base, target.span)?;
            digest::run(&device, window, options)?;
            return Ok(None);
        }
        Mode::Record { target, options } => {
            let device = Device::open(&target.device, true)?;
            let window = device.window(target.offset_base, target.span)?;
            record::run(&device, window, options, &mut std::io::stdout())?;
            return Ok(None);
        }
        Mode::Layout { device } => {
            layout::run(&Device::open(device, false)?, &mut std::io::stdout())?;
            return Ok(None);
        }
    };
    report.map(Some)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.mode) {
        Ok(Some(report)) => report.print(cli.json),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rmr-iotest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_parsed() {
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("4M"), Ok(4 << 20));
        assert_eq!(parse_size("5T"), Ok(5 << 40));
        assert!(parse_size("5X").is_err());
        assert!(parse_size("").is_err());
        assert!(parse_size("99999999T").is_err());
    }
}
