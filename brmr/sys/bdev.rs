// SPDX-License-Identifier: GPL-2.0

//! A local block device, opened exclusively for reading and writing, and synchronous IO on it.
//!
//! The page cache is not used: what is read and written here is what is on the device. Asynchronous IO is in
//! [`crate::BioSet`].

use crate::ffi;
use kernel::bindings;
use kernel::error::code;
use kernel::error::from_err_ptr;
use kernel::error::to_result;
use kernel::error::Error;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::atomic::ordering;
use kernel::sync::atomic::Atomic;
use kernel::sync::Arc;

/// Longest single transfer of the synchronous functions.
const MAX_TRANSFER: usize = 1 << 20;
/// Longest transfer through a bounce buffer.
const MAX_BOUNCE: usize = 64 << 10;
/// Longest piece of `zeroout`, between two looks for a signal.
const MAX_ZEROES: u64 = 64 << 20;

/// Why a device could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// There is no such file, or no device behind it.
    Absent,
    /// The file is not a block device.
    NotBlockDevice,
    /// Mounted, or in use by somebody else who wants it alone.
    InUse,
    /// It cannot be written.
    ReadOnly,
    /// Anything else.
    Other(Error),
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        match error.to_errno().unsigned_abs() {
            bindings::ENOENT | bindings::ENOTDIR => Self::Absent,
            bindings::ENXIO | bindings::ENODEV | bindings::ENOMEDIUM => Self::Absent,
            bindings::ENOTBLK => Self::NotBlockDevice,
            bindings::EBUSY => Self::InUse,
            // `bdev_file_open_by_path()` says EACCES for a device that is read-only.
            bindings::EACCES | bindings::EROFS => Self::ReadOnly,
            _ => Self::Other(error),
        }
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Absent => code::ENOENT,
            OpenError::NotBlockDevice => code::ENOTBLK,
            OpenError::InUse => code::EBUSY,
            OpenError::ReadOnly => code::EROFS,
            OpenError::Other(error) => error,
        }
    }
}

/// Wants to know when a device goes away while it is open.
pub trait DeadWatcher: Send + Sync {
    /// The device is gone; its IO fails. Without `surprise` it is only about to go. Process context, may sleep,
    /// but must not drop the [`BlockDevice`].
    fn device_dead(&self, surprise: bool);
}

/// What the block layer knows as the holder of the device.
#[repr(C)]
struct Holder {
    /// First, so that the callback finds us.
    raw: ffi::brmr_sys_holder,
    watcher: Option<Arc<dyn DeadWatcher>>,
    dead: Atomic<bool>,
}

impl Holder {
    /// # Safety
    ///
    /// Only for the block layer: `raw` is the holder of an open device.
    unsafe extern "C" fn dead(raw: *mut ffi::brmr_sys_holder, surprise: bool) {
        // SAFETY: `raw` is the first field of a `Holder`, which lives as long as the device is claimed.
        let holder = unsafe { &*raw.cast::<Self>() };
        holder.dead.store(true, ordering::Relaxed);
        if let Some(watcher) = &holder.watcher {
            watcher.device_dead(surprise);
        }
    }
}

/// Guarantees of a synchronous write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteFlags {
    /// The data is stable when the write returns.
    pub fua: bool,
    /// So is everything that was completed before.
    pub preflush: bool,
}

impl WriteFlags {
    /// No guarantee.
    pub const NONE: Self = Self {
        fua: false,
        preflush: false,
    };
    /// Stable when it returns.
    pub const FUA: Self = Self {
        fua: true,
        preflush: false,
    };
    /// Everything before stable first, then this.
    pub const PREFLUSH_FUA: Self = Self {
        fua: true,
        preflush: true,
    };
}

/// Allocations of this task do no IO while this exists: they must not wait for the device they are for.
struct NoIo(c_uint, kernel::types::NotThreadSafe);

impl NoIo {
    fn enter() -> Self {
        // SAFETY: Undone by `drop` in the same task, as the type cannot be sent.
        let flags = unsafe { ffi::brmr_sys_noio_save() };
        Self(flags, kernel::types::NotThreadSafe)
    }
}

impl Drop for NoIo {
    fn drop(&mut self) {
        // SAFETY: Pairs with `enter`.
        unsafe { ffi::brmr_sys_noio_restore(self.0) };
    }
}

/// A block device that is open for us alone.
///
/// Dropping it closes it, which may sleep. Others can claim the device at once, but the file is really closed,
/// and the device free to go, only when the task returns to user space.
///
/// # Invariants
///
/// `file` is an open block device file of ours, `bdev` its device, `holder` its holder.
pub struct BlockDevice {
    file: *mut bindings::file,
    bdev: *mut bindings::block_device,
    info: ffi::brmr_sys_bdev_info,
    holder: KBox<Holder>,
}

// SAFETY: A block device is not bound to the task that opened it.
unsafe impl Send for BlockDevice {}
// SAFETY: IO may be submitted from several CPUs at once; the fields do not change.
unsafe impl Sync for BlockDevice {}

/// The device number (`dev_t`) of the block device `path`, without opening it. Sleeps. For the task of an administrator.
///
/// # Errors
///
/// `ENOENT`, `ENOTBLK` and so on.
pub fn device_number(path: &CStr) -> Result<u32> {
    let mut number = 0;
    // SAFETY: The path is terminated, and the number is written to.
    to_result(unsafe { bindings::lookup_bdev(path.as_char_ptr(), &mut number) })?;
    Ok(number)
}

impl BlockDevice {
    /// Opens the device `path` for us alone. What others left in the page cache of the device is written back
    /// before and dropped. Sleeps. For the task of an administrator: a kernel worker sees no files.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open_exclusive(
        path: &CStr,
        watcher: Option<Arc<dyn DeadWatcher>>,
    ) -> core::result::Result<Arc<Self>, OpenError> {
        let holder = KBox::new(
            Holder {
                raw: ffi::brmr_sys_holder {
                    dead: Some(Holder::dead),
                },
                watcher,
                dead: Atomic::new(false),
            },
            GFP_KERNEL,
        )
        .map_err(Error::from)?;
        let raw = (&raw const holder.raw).cast_mut();
        // SAFETY: The path is terminated; the box keeps the holder in place until the device is closed.
        let file = from_err_ptr(unsafe { ffi::brmr_sys_bdev_open(path.as_char_ptr(), raw) })?;
        // SAFETY: An open block device file.
        let bdev = unsafe { bindings::file_bdev(file) };
        let mut info = ffi::brmr_sys_bdev_info::default();
        // SAFETY: The device is open.
        unsafe { ffi::brmr_sys_bdev_info(bdev, &mut info) };
        // INVARIANT: Opened with this holder just now. From here on `drop` closes it.
        let device = Self {
            file,
            bdev,
            info,
            holder,
        };
        if device.info.read_only {
            return Err(OpenError::ReadOnly);
        }
        Ok(Arc::new(device, GFP_KERNEL).map_err(Error::from)?)
    }

    pub(crate) fn raw(&self) -> *mut bindings::block_device {
        self.bdev
    }

    /// Size in bytes, as of now.
    pub fn size(&self) -> u64 {
        // SAFETY: Open by the type invariant.
        unsafe { ffi::brmr_sys_bdev_bytes(self.bdev) }
    }

    /// Smallest unit of IO, in bytes.
    pub fn logical_block(&self) -> u32 {
        self.info.logical_block
    }

    /// Smallest unit without read-modify-write below, in bytes.
    pub fn physical_block(&self) -> u32 {
        self.info.physical_block
    }

    /// Preferred unit of random IO, in bytes.
    pub fn io_min(&self) -> u32 {
        self.info.io_min
    }

    /// Preferred unit of sequential IO, in bytes; 0 if unknown.
    pub fn io_opt(&self) -> u32 {
        self.info.io_opt
    }

    /// Longest IO the device takes in one piece, in bytes. Longer ones are split on their way.
    pub fn max_io(&self) -> u32 {
        self.info.max_io
    }

    /// Most memory segments of one IO.
    pub fn max_segments(&self) -> u32 {
        self.info.max_segments
    }

    /// Longest discard in bytes, 0 if there is none.
    pub fn max_discard(&self) -> u64 {
        self.info.max_discard
    }

    /// Unit of discards, in bytes.
    pub fn discard_granularity(&self) -> u32 {
        self.info.discard_granularity
    }

    /// Longest write-zeroes in bytes, 0 if the device has none: [`BlockDevice::zeroout`] then writes zeroes.
    pub fn max_write_zeroes(&self) -> u64 {
        self.info.max_write_zeroes
    }

    /// Whether completed writes may be lost without a flush.
    pub fn write_cache(&self) -> bool {
        self.info.write_cache
    }

    /// Whether the device knows FUA by itself. Writes with FUA are right without, too.
    pub fn fua(&self) -> bool {
        self.info.fua
    }

    /// Whether seeks cost time.
    pub fn rotational(&self) -> bool {
        self.info.rotational
    }

    /// Whether the device was removed. Its IO fails.
    pub fn dead(&self) -> bool {
        self.holder.dead.load(ordering::Relaxed)
    }

    /// The name below `/dev`, such as `vdb` or `vdb1`.
    pub fn name(&self) -> &CStr {
        // SAFETY: Open by the type invariant, which keeps the device and its name.
        unsafe { CStr::from_char_ptr(ffi::brmr_sys_bdev_name(self.bdev)) }
    }

    /// The device number (`dev_t`).
    pub fn dev(&self) -> u32 {
        // SAFETY: Open by the type invariant; the number does not change.
        unsafe { (*self.bdev).bd_dev }
    }

    /// Refuses a range that is empty, not of whole blocks, or outside the device.
    fn check(&self, offset: u64, len: u64) -> Result {
        // A power of two.
        let within_block = u64::from(self.info.logical_block.wrapping_sub(1));
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if len == 0 || (offset | len) & within_block != 0 || end > self.size() {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Whether the device can transfer these bytes as they are.
    fn direct(&self, data: *const u8, len: usize) -> bool {
        let aligned = data as usize & self.info.dma_alignment as usize == 0;
        // SAFETY: Looks at the address only.
        aligned && unsafe { ffi::brmr_sys_is_lowmem(data.cast(), len) }
    }

    /// Reads `buf.len()` bytes at `offset`; both in whole logical blocks. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a bad range, else that of the device. The contents of `buf` are undefined then.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result {
        self.check(offset, buf.len() as u64)?;
        let _noio = NoIo::enter();
        let mut at = offset;
        if self.direct(buf.as_ptr(), buf.len()) {
            for piece in buf.chunks_mut(MAX_TRANSFER) {
                self.transfer(at, piece.as_mut_ptr(), piece.len(), None)?;
                at += piece.len() as u64;
            }
            return Ok(());
        }
        let mut bounce = KVec::from_elem(0u8, buf.len().min(MAX_BOUNCE), GFP_KERNEL)?;
        for piece in buf.chunks_mut(MAX_BOUNCE) {
            self.transfer(at, bounce.as_mut_ptr(), piece.len(), None)?;
            piece.copy_from_slice(bounce.get(..piece.len()).ok_or(EINVAL)?);
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes `buf` at `offset`; both in whole logical blocks. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a bad range, else that of the device. Any part may have been written then.
    pub fn write(&self, offset: u64, buf: &[u8], flags: WriteFlags) -> Result {
        self.check(offset, buf.len() as u64)?;
        let _noio = NoIo::enter();
        let mut at = offset;
        let mut flags = flags;
        if self.direct(buf.as_ptr(), buf.len()) {
            for piece in buf.chunks(MAX_TRANSFER) {
                // A write only reads the memory.
                self.transfer(at, piece.as_ptr().cast_mut(), piece.len(), Some(flags))?;
                at += piece.len() as u64;
                // What came before the first piece is stable now.
                flags.preflush = false;
            }
            return Ok(());
        }
        let mut bounce = KVec::from_elem(0u8, buf.len().min(MAX_BOUNCE), GFP_KERNEL)?;
        for piece in buf.chunks(MAX_BOUNCE) {
            bounce
                .get_mut(..piece.len())
                .ok_or(EINVAL)?
                .copy_from_slice(piece);
            self.transfer(at, bounce.as_mut_ptr(), piece.len(), Some(flags))?;
            at += piece.len() as u64;
            flags.preflush = false;
        }
        Ok(())
    }

    /// One transfer of at most `MAX_TRANSFER` bytes of lowmem, `write` or read.
    fn transfer(
        &self,
        offset: u64,
        data: *mut u8,
        len: usize,
        write: Option<WriteFlags>,
    ) -> Result {
        let flags = write.unwrap_or_default();
        // SAFETY: Open by the type invariant; the callers pass memory that they borrow until this returns, for
        // writing if this is a read, and which was found to be lowmem or comes from kmalloc.
        to_result(unsafe {
            ffi::brmr_sys_bdev_rw(
                self.bdev,
                offset,
                data.cast(),
                len as u32,
                write.is_some(),
                flags.fua,
                flags.preflush,
            )
        })
    }

    /// Makes every completed write stable. Sleeps.
    ///
    /// # Errors
    ///
    /// That of the device.
    pub fn flush(&self) -> Result {
        // SAFETY: Open by the type invariant.
        to_result(unsafe { bindings::blkdev_issue_flush(self.bdev) })
    }

    /// Makes `len` bytes at `offset` read as zeroes, both in whole logical blocks; with `unmap` space may be
    /// given back. Not stable before a flush. After each piece `progress` hears how many bytes are done. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a bad range, `EINTR` for a fatal signal, that of `progress`, or that of the device. A part
    /// has been zeroed then.
    pub fn zeroout(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
        mut progress: impl FnMut(u64) -> Result,
    ) -> Result {
        self.check(offset, len)?;
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(MAX_ZEROES);
            // SAFETY: Open by the type invariant.
            to_result(unsafe {
                ffi::brmr_sys_bdev_zeroout(self.bdev, offset + done, piece, unmap)
            })?;
            done += piece;
            progress(done)?;
        }
        Ok(())
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        // SAFETY: Open by the type invariant; the holder goes only after this.
        unsafe { ffi::brmr_sys_bdev_close(self.file) };
    }
}
