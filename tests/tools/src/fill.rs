// SPDX-License-Identifier: GPL-2.0

//! `fill` and `verify`: one version of the pattern over a whole window.

use crate::device::{Access, Buffer, Device, Span};
use crate::pattern::{inspect, stamp_all, Content, BLOCK, BLOCK_U64};
use crate::report::Report;
use anyhow::Result;
use clap::Args;

const STEP: u64 = 1 << 20;

#[derive(Args)]
pub struct Options {
    /// Seed of the pattern; it must be the same for fill and verify.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Version of the pattern.
    #[arg(long, default_value_t = 1)]
    pub version: u64,
}

/// The window in steps of at most `STEP` bytes.
pub fn steps(window: Span) -> impl Iterator<Item = Span> {
    (window.offset..window.end())
        .step_by(STEP as usize)
        .map(move |offset| Span {
            offset,
            len: STEP.min(window.end() - offset),
        })
}

/// Writes the pattern and makes it stable.
pub fn fill(device: &Device, window: Span, options: &Options) -> Result<Report> {
    let mut report = Report::new(options.seed);
    let mut buffer = Buffer::new(STEP as usize);
    for step in steps(window) {
        let bytes = buffer.bytes(step.len);
        stamp_all(
            bytes,
            options.seed,
            step.offset / BLOCK_U64,
            options.version,
        );
        device.write(Access::Direct, step.offset, bytes)?;
        report.writes += 1;
        report.bytes += step.len;
    }
    device.sync()?;
    report.syncs += 1;
    Ok(report)
}

/// Reads the window and checks every block.
pub fn verify(device: &Device, window: Span, options: &Options, zeroes: bool) -> Result<Report> {
    let mut report = Report::new(options.seed);
    let mut buffer = Buffer::new(STEP as usize);
    let expected = if zeroes {
        Content::Zero
    } else {
        Content::Version(options.version)
    };
    for step in steps(window) {
        let bytes = buffer.bytes(step.len);
        device.read(Access::Direct, step.offset, bytes)?;
        report.reads += 1;
        report.bytes += step.len;
        for (block, bytes) in (step.offset / BLOCK_U64..).zip(bytes.chunks_exact(BLOCK)) {
            let found = inspect(bytes, options.seed, block);
            if found != expected {
                report.wrong(format!("block {block}: found {found}, expected {expected}"));
            }
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const SIZE: u64 = 3 * STEP + 3 * BLOCK_U64;

    fn device() -> (tempfile::NamedTempFile, Device) {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        file.as_file().set_len(SIZE).unwrap();
        let device = Device::open(file.path(), true).unwrap();
        (file, device)
    }

    #[test]
    fn what_is_filled_verifies() {
        let (file, device) = device();
        let all = device.window(0, None).unwrap();
        let options = Options {
            seed: 3,
            version: 9,
        };
        assert!(!verify(&device, all, &options, true).unwrap().failed());
        assert_eq!(fill(&device, all, &options).unwrap().bytes, SIZE);
        assert!(!verify(&device, all, &options, false).unwrap().failed());

        file.as_file().write_at(&[0xff], STEP + 5).unwrap();
        assert_eq!(verify(&device, all, &options, false).unwrap().wrong, 1);
        let other = Options {
            seed: 3,
            version: 8,
        };
        assert_eq!(
            verify(&device, all, &other, false).unwrap().wrong,
            SIZE / BLOCK_U64
        );
    }

    #[test]
    fn only_the_window_is_written() {
        let (_file, device) = device();
        let window = device.window(4096, Some(8192)).unwrap();
        let options = Options {
            seed: 3,
            version: 9,
        };
        fill(&device, window, &options).unwrap();
        let before = device.window(0, Some(4096)).unwrap();
        let after = device.window(12288, None).unwrap();
        assert!(!verify(&device, before, &options, true).unwrap().failed());
        assert!(!verify(&device, after, &options, true).unwrap().failed());
        assert!(device.window(SIZE, None).is_err());
        assert!(device.window(100, None).is_err());
    }
}
