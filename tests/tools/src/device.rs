// SPDX-License-Identifier: GPL-2.0

//! A block device, or a regular file that stands in for one in the unit tests, opened twice: with and without
//! `O_DIRECT`. Also buffers that `O_DIRECT` accepts.

use crate::pattern::BLOCK_U64;
use crate::sys;
use anyhow::{bail, Context, Result};
use rustix::fd::AsFd;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{pwritev2, ReadWriteFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The largest alignment any logical block size asks for.
const BUFFER_ALIGN: usize = 4096;

/// How data gets to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `O_DIRECT`: what returned is at the device.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// A range of bytes on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub offset: u64,
    pub len: u64,
}

impl Span {
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    pub fn overlaps(&self, other: &Span) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// A buffer whose bytes begin at an address `O_DIRECT` accepts.
pub struct Buffer {
    raw: Vec<u8>,
    skip: usize,
    len: usize,
}

impl Buffer {
    pub fn new(len: usize) -> Buffer {
        let raw = vec![0; len + BUFFER_ALIGN];
        let skip = raw.as_ptr().align_offset(BUFFER_ALIGN);
        Buffer { raw, skip, len }
    }

    /// The first `len` bytes.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter than that.
    pub fn bytes(&mut self, len: u64) -> &mut [u8] {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        assert!(
            len <= self.len,
            "the buffer has {} bytes, {len} are asked for",
            self.len
        );
        &mut self.raw[self.skip..self.skip + len]
    }
}

/// The device under test.
pub struct Device {
    path: PathBuf,
    direct: File,
    buffered: File,
    size: u64,
    logical_block: u64,
    is_block_device: bool,
}

impl Device {
    pub fn open(path: &Path, writable: bool) -> Result<Device> {
        let open = |flags: OFlags| {
            let mut options = OpenOptions::new();
            options.read(true).write(writable);
            options.custom_flags(flags.bits().try_into().unwrap_or_default());
            options
                .open(path)
                .with_context(|| format!("cannot open {}", path.display()))
        };
        let mut buffered = open(OFlags::empty())?;
        let direct = open(OFlags::DIRECT)?;
        let size = buffered.seek(SeekFrom::End(0))?;
        let is_block_device = buffered.metadata()?.file_type().is_block_device();
        let logical_block = if is_block_device {
            rustix::fs::ioctl_blksszget(&buffered)?.into()
        } else {
            BLOCK_U64
        };
        let path = path.to_owned();
        Ok(Device {
            path,
            direct,
            buffered,
            size,
            logical_block,
            is_block_device,
        })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn logical_block(&self) -> u64 {
        self.logical_block
    }

    pub fn is_block_device(&self) -> bool {
        self.is_block_device
    }

    fn file(&self, access: Access) -> &File {
        match access {
            Access::Direct => &self.direct,
            Access::Buffered => &self.buffered,
        }
    }

    pub fn write(&self, access: Access, offset: u64, data: &[u8]) -> Result<()> {
        self.file(access)
            .write_all_at(data, offset)
            .with_context(|| self.failed("write", offset, data.len() as u64))
    }

    /// Writes so that the data is stable when this returns (a FUA write, if the device has that).
    pub fn write_through(&self, access: Access, offset: u64, data: &[u8]) -> Result<()> {
        let failed = || self.failed("write-through", offset, data.len() as u64);
        let slice = [IoSlice::new(data)];
        let done = pwritev2(self.file(access), &slice, offset, ReadWriteFlags::DSYNC)
            .with_context(failed)?;
        match data.get(done..) {
            None | Some([]) => Ok(()),
            // The rest of a write that was cut short, which the kernel may do at any time.
            Some(rest) => self.write_through(access, offset + done as u64, rest),
        }
    }

    pub fn read(&self, access: Access, offset: u64, data: &mut [u8]) -> Result<()> {
        let len = data.len() as u64;
        self.file(access)
            .read_exact_at(data, offset)
            .with_context(|| self.failed("read", offset, len))
    }

    /// One `pwrite`, whatever comes of it.
    pub fn try_write(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        self.direct.write_at(data, offset)
    }

    /// One `pread`, whatever comes of it.
    pub fn try_read(&self, offset: u64, data: &mut [u8]) -> io::Result<usize> {
        self.direct.read_at(data, offset)
    }

    /// Discards; the range must read as zeroes afterwards.
    pub fn discard(&self, span: Span) -> Result<()> {
        let done = if self.is_block_device {
            sys::discard(self.direct.as_fd(), span.offset, span.len)
        } else {
            self.punch_hole(span)
        };
        done.with_context(|| self.failed("discard", span.offset, span.len))
    }

    pub fn zero_out(&self, span: Span) -> Result<()> {
        let done = if self.is_block_device {
            sys::zero_out(self.direct.as_fd(), span.offset, span.len)
        } else {
            self.punch_hole(span)
        };
        done.with_context(|| self.failed("zero-out", span.offset, span.len))
    }

    fn punch_hole(&self, span: Span) -> rustix::io::Result<()> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.buffered, mode, span.offset, span.len)
    }

    pub fn sync(&self) -> Result<()> {
        self.buffered
            .sync_all()
            .with_context(|| format!("cannot sync {}", self.path.display()))
    }

    /// Writes back and forgets the page cache, so that the next read comes from the device.
    pub fn drop_cache(&self) -> Result<()> {
        self.sync()?;
        if self.is_block_device {
            sys::drop_cache(self.buffered.as_fd())?;
        } else {
            rustix::fs::fadvise(&self.buffered, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    /// The part of the device that a run works on.
    pub fn window(&self, base: u64, len: Option<u64>) -> Result<Span> {
        let unit = self.logical_block;
        let rest = self.size.checked_sub(base).filter(|rest| *rest > 0);
        let Some(rest) = rest else {
            bail!(
                "{} ends at {}, before the offset base {base}",
                self.path.display(),
                self.size
            );
        };
        if base % unit != 0 {
            bail!("the offset base {base} is not a multiple of the logical block of {unit} bytes");
        }
        let len = len.unwrap_or(rest).min(rest);
        Ok(Span {
            offset: base,
            len: len - len % unit,
        })
    }

    fn failed(&self, what: &str, offset: u64, len: u64) -> String {
        format!(
            "{}: {what} of {len} bytes at {offset} failed",
            self.path.display()
        )
    }
}
