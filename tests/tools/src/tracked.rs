// SPDX-License-Identifier: GPL-2.0

//! A window of a device together with the model of its blocks: every access goes to both.

use crate::device::{Access, Buffer, Device, Span};
use crate::fill::steps;
use crate::model::{Model, Value, Violation};
use crate::pattern::{inspect, stamp_all, BLOCK, BLOCK_U64};
use crate::report::Report;
use anyhow::Result;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// How zeroes get onto the device.
#[derive(Clone, Copy, Debug)]
pub enum Zeroing {
    Discard,
    ZeroOut,
}

/// See the head of the file. Shared by all threads of a run.
pub struct Tracked<'a> {
    device: &'a Device,
    window: Span,
    seed: u64,
    model: Model,
    versions: AtomicU64,
}

impl<'a> Tracked<'a> {
    pub fn new(device: &'a Device, window: Span, seed: u64, threads: usize) -> Tracked<'a> {
        let model = Model::new(window.len / BLOCK_U64, threads);
        Tracked {
            device,
            window,
            seed,
            model,
            versions: AtomicU64::new(1),
        }
    }

    pub fn device(&self) -> &Device {
        self.device
    }

    pub fn window(&self) -> Span {
        self.window
    }

    fn blocks(&self, span: Span) -> Range<u64> {
        let first = (span.offset - self.window.offset) / BLOCK_U64;
        first..first + span.len / BLOCK_U64
    }

    /// Writes a new version; with `through` it is stable when this returns.
    pub fn write(
        &self,
        access: Access,
        span: Span,
        through: bool,
        buffer: &mut Buffer,
        report: &mut Report,
    ) -> Result<()> {
        let version = self.versions.fetch_add(1, Ordering::Relaxed);
        let bytes = buffer.bytes(span.len);
        stamp_all(bytes, self.seed, span.offset / BLOCK_U64, version);
        let ticket = self
            .model
            .begin_write(self.blocks(span), Value::Version(version));
        if through {
            self.device.write_through(access, span.offset, bytes)?;
        } else {
            self.device.write(access, span.offset, bytes)?;
        }
        self.model.end_write(ticket);
        report.writes += 1;
        report.bytes += span.len;
        Ok(())
    }

    pub fn zero(&self, how: Zeroing, span: Span, report: &mut Report) -> Result<()> {
        let ticket = self.model.begin_write(self.blocks(span), Value::Zero);
        match how {
            Zeroing::Discard => {
                self.device.discard(span)?;
                report.discards += 1;
            }
            Zeroing::ZeroOut => {
                self.device.zero_out(span)?;
                report.zero_outs += 1;
            }
        }
        self.model.end_write(ticket);
        Ok(())
    }

    /// Reads and checks; what is wrong goes into the report.
    pub fn read(
        &self,
        access: Access,
        span: Span,
        reader: usize,
        buffer: &mut Buffer,
        report: &mut Report,
    ) -> Result<()> {
        let bytes = buffer.bytes(span.len);
        let ticket = self.model.begin_read(reader);
        self.device.read(access, span.offset, bytes)?;
        let blocks = bytes.chunks_exact(BLOCK);
        let numbers = span.offset / BLOCK_U64..;
        let contents = numbers
            .zip(blocks)
            .map(|(number, bytes)| inspect(bytes, self.seed, number));
        // `zip` with an open range hides the length, which is that of the blocks.
        let contents: Vec<_> = contents.collect();
        let wrong = self
            .model
            .end_read(ticket, self.blocks(span).start, contents.into_iter());
        report.reads += 1;
        report.bytes += span.len;
        for violation in &wrong {
            report.wrong(self.describe(violation, span));
        }
        Ok(())
    }

    fn describe(&self, violation: &Violation, span: Span) -> String {
        let byte = self.window.offset + violation.block * BLOCK_U64;
        format!(
            "byte {byte} (read of {} bytes at {}): found {}, allowed {:?}",
            span.len, span.offset, violation.found, violation.allowed
        )
    }

    /// Writes the whole window once, so that every block is known.
    pub fn fill(&self, buffer: &mut Buffer, report: &mut Report) -> Result<()> {
        for step in steps(self.window) {
            self.write(Access::Direct, step, false, buffer, report)?;
        }
        Ok(())
    }

    /// Reads the whole window once.
    pub fn verify(&self, reader: usize, buffer: &mut Buffer, report: &mut Report) -> Result<()> {
        for step in steps(self.window) {
            self.read(Access::Direct, step, reader, buffer, report)?;
        }
        Ok(())
    }
}
