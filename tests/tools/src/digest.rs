// SPDX-License-Identifier: GPL-2.0

//! `digest`: checksums of a window, step by step, so that two machines can find the first difference of their devices by
//! comparing text. Offsets are printed relative to the window.

use crate::device::{Access, Buffer, Device, Span};
use crate::fill::steps;
use anyhow::Result;
use clap::Args;

#[derive(Args)]
pub struct Options {
    /// Print only the total.
    #[arg(long)]
    total: bool,
}

/// Prints `offset crc32c` lines and the total.
pub fn run(device: &Device, window: Span, options: &Options) -> Result<()> {
    let mut buffer = Buffer::new(1 << 20);
    let mut total = 0;
    for step in steps(window) {
        let bytes = buffer.bytes(step.len);
        device.read(Access::Direct, step.offset, bytes)?;
        total = crc32c::crc32c_append(total, bytes);
        if !options.total {
            println!(
                "{:#014x} {:08x}",
                step.offset - window.offset,
                crc32c::crc32c(bytes)
            );
        }
    }
    println!("total {} {total:08x}", window.len);
    Ok(())
}
