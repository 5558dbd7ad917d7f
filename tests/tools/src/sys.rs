// SPDX-License-Identifier: GPL-2.0

//! The ioctls of block devices that no library offers safely.

use rustix::fd::BorrowedFd;
use rustix::io;
use rustix::ioctl::{ioctl, opcode, NoArg, Setter};

/// `_IO(0x12, nr)`; the block ioctls carry neither size nor direction.
const fn blk(number: u8) -> rustix::ioctl::Opcode {
    opcode::none(0x12, number)
}

const BLKFLSBUF: rustix::ioctl::Opcode = blk(97);
const BLKDISCARD: rustix::ioctl::Opcode = blk(119);
const BLKZEROOUT: rustix::ioctl::Opcode = blk(127);

/// Discards `len` bytes at `offset`.
pub fn discard(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: BLKDISCARD reads two u64 through its argument and keeps no reference to them.
    unsafe { ioctl(fd, Setter::<{ BLKDISCARD }, [u64; 2]>::new([offset, len])) }
}

/// Writes zeroes over `len` bytes at `offset`.
pub fn zero_out(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: BLKZEROOUT reads two u64 through its argument and keeps no reference to them.
    unsafe { ioctl(fd, Setter::<{ BLKZEROOUT }, [u64; 2]>::new([offset, len])) }
}

/// Writes back and drops what the page cache holds of the device.
pub fn drop_cache(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: BLKFLSBUF ignores its argument.
    unsafe { ioctl(fd, NoArg::<{ BLKFLSBUF }>::new()) }
}
