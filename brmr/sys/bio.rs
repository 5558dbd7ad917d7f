// SPDX-License-Identifier: GPL-2.0

//! Asynchronous IO: bios that carry a payload, which hears the outcome.
//!
//! Each [`BioSet`] has a reserve of its own, so that IO goes on when memory is short, and counts its bios per
//! CPU: submitting and completing write no cache line that another CPU writes.

use crate::bdev::BlockDevice;
use crate::ffi;
use core::marker::PhantomData;
use core::mem::align_of;
use core::mem::size_of;
use core::ptr;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Memory for a bio: physically contiguous lowmem, possibly of many pages.
#[derive(Clone, Copy, Debug)]
pub struct DataRef {
    ptr: NonNull<u8>,
    len: u32,
}

// SAFETY: Who makes a `DataRef` promises that the memory may be accessed until the IO is done, by a device.
unsafe impl Send for DataRef {}

impl DataRef {
    /// Describes memory.
    ///
    /// # Safety
    ///
    /// `ptr` points to `len` bytes in the kernel's direct mapping. Until the payload that is submitted with this
    /// hears of the outcome they stay valid, and for a read nobody else accesses them.
    pub unsafe fn new(ptr: NonNull<u8>, len: u32) -> Self {
        Self { ptr, len }
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> u32 {
        self.len
    }
}

/// What a bio does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BioOp {
    /// Fill the data.
    Read,
    /// Write the data.
    Write {
        /// Done means stable.
        fua: bool,
    },
    /// Make all completed writes stable. No range, no data.
    Flush,
    /// Make the range read as zeroes, if the device can: else `EOPNOTSUPP`. No data.
    WriteZeroes {
        /// Space may be given back.
        unmap: bool,
    },
    /// The range is not needed any more. No data.
    Discard,
}

impl BioOp {
    fn raw(self) -> ffi::brmr_sys_bio_op {
        match self {
            Self::Read => ffi::brmr_sys_bio_op_BRMR_SYS_BIO_READ,
            Self::Write { fua: false } => ffi::brmr_sys_bio_op_BRMR_SYS_BIO_WRITE,
            Self::Write { fua: true } => ffi::brmr_sys_bio_op_BRMR_SYS_BIO_WRITE_FUA,
            Self::Flush => ffi::brmr_sys_bio_op_BRMR_SYS_BIO_FLUSH,
            Self::WriteZeroes { unmap: true } => ffi::brmr_sys_bio_op_BRMR_SYS_BIO_ZEROES,
            Self::WriteZeroes { unmap: false } => ffi::brmr_sys_bio_op_BRMR_SYS_BIO_ZEROES_NOUNMAP,
            Self::Discard => ffi::brmr_sys_bio_op_BRMR_SYS_BIO_DISCARD,
        }
    }
}

/// What travels with a bio. It must not own, in whatever way, the set of its bio: that waits for its bios.
pub trait BioDone: Send + Sized + 'static {
    /// The bio is done: called exactly once, in any context, hard interrupts included. Must not sleep.
    ///
    /// Errors are those of the device: `EIO`, `ENODATA` (medium), `ENOSPC`, `EOPNOTSUPP`, `ENOLINK`,
    /// `EREMOTEIO`, `ETIMEDOUT`, `EILSEQ`; or `EINVAL` for an operation that makes no sense.
    fn done(self, result: Result);
}

/// Asynchronous IO on one device, with payloads of type `T`.
///
/// Dropping it waits until every bio is done, and sleeps.
///
/// # Invariants
///
/// `bios` came from `brmr_sys_bios_create()` with room for a `T` in front of each bio.
pub struct BioSet<T: BioDone> {
    bios: NonNull<ffi::brmr_sys_bios>,
    /// Closed after the last bio is done.
    bdev: Arc<BlockDevice>,
    _payload: PhantomData<T>,
}

// SAFETY: Bios may be submitted by any task and complete anywhere; payloads are `Send`.
unsafe impl<T: BioDone> Send for BioSet<T> {}
// SAFETY: As above; the C side synchronises.
unsafe impl<T: BioDone> Sync for BioSet<T> {}

impl<T: BioDone> BioSet<T> {
    /// Bytes in front of each bio. A multiple of its alignment keeps bio and payload aligned.
    const FRONT_PAD: u32 = {
        assert!(align_of::<T>() <= align_of::<u64>());
        assert!(size_of::<T>() <= 4096);
        (size_of::<T>().next_multiple_of(align_of::<bindings::bio>())) as u32
    };

    /// A set of bios for `bdev`; `reserve` of them (at least 2) can be had without free memory. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(bdev: Arc<BlockDevice>, reserve: u32) -> Result<Self> {
        // SAFETY: No preconditions.
        let bios = unsafe { ffi::brmr_sys_bios_create(reserve.max(2), Self::FRONT_PAD) };
        // INVARIANT: Made for payloads of type `T` just now.
        Ok(Self {
            bios: NonNull::new(bios).ok_or(ENOMEM)?,
            bdev,
            _payload: PhantomData,
        })
    }

    /// The device.
    pub fn bdev(&self) -> &Arc<BlockDevice> {
        &self.bdev
    }

    /// Submits one operation on `len` bytes at `offset`, with `data` for reads and writes. Whatever goes wrong,
    /// `payload` hears of it, possibly before this returns. Process context; may wait for a bio of the reserve
    /// and for room in the queue of the device.
    pub fn submit(&self, op: BioOp, offset: u64, len: u32, data: Option<DataRef>, payload: T) {
        if let Err(payload) = self.start(op, offset, len, data, payload, true) {
            // Not reached: with leave to wait there is always a bio.
            payload.done(Err(ENOMEM));
        }
    }

    /// As [`BioSet::submit`], but does not wait for memory.
    ///
    /// # Errors
    ///
    /// Gives `payload` back if there is no memory; nothing has happened then.
    pub fn try_submit(
        &self,
        op: BioOp,
        offset: u64,
        len: u32,
        data: Option<DataRef>,
        payload: T,
    ) -> core::result::Result<(), T> {
        self.start(op, offset, len, data, payload, false)
    }

    fn start(
        &self,
        op: BioOp,
        offset: u64,
        len: u32,
        data: Option<DataRef>,
        payload: T,
        wait: bool,
    ) -> core::result::Result<(), T> {
        let data = match Self::check(op, offset, len, data, self.bdev.logical_block()) {
            Ok(data) => data,
            Err(error) => {
                payload.done(Err(error));
                return Ok(());
            }
        };
        // SAFETY: The set and the device are live by the type invariants.
        let bio =
            unsafe { ffi::brmr_sys_bio_get(self.bios.as_ptr(), self.bdev.raw(), op.raw(), wait) };
        if bio.is_null() {
            return Err(payload);
        }
        // SAFETY: By the type invariant there is room for it, and the bio is new.
        unsafe { Self::payload(bio).write(payload) };
        // SAFETY: A new bio with its payload; `data` is valid until the payload hears of the outcome, as whoever
        // made it promised.
        unsafe {
            ffi::brmr_sys_bio_submit(
                bio,
                offset,
                len,
                data.cast(),
                Some(Self::end_io),
                self.bios.as_ptr().cast(),
            );
        }
        Ok(())
    }

    /// Refuses what the block layer would only warn about. Returns the address of the data, or null.
    fn check(
        op: BioOp,
        offset: u64,
        len: u32,
        data: Option<DataRef>,
        block: u32,
    ) -> Result<*mut u8> {
        // Blocks are powers of two.
        let within_block = u64::from(block.wrapping_sub(1));
        let whole = len > 0 && (offset | u64::from(len)) & within_block == 0;
        match (op, data) {
            (BioOp::Read | BioOp::Write { .. }, Some(data)) if whole && data.len == len => {
                Ok(data.ptr.as_ptr())
            }
            (BioOp::WriteZeroes { .. } | BioOp::Discard, None) if whole => Ok(ptr::null_mut()),
            (BioOp::Flush, None) if offset == 0 && len == 0 => Ok(ptr::null_mut()),
            _ => Err(EINVAL),
        }
    }

    /// Where the payload of `bio` is.
    ///
    /// # Safety
    ///
    /// `bio` is of a set with our `FRONT_PAD`.
    unsafe fn payload(bio: *mut bindings::bio) -> *mut T {
        // SAFETY: By the precondition the allocation begins that much before the bio.
        unsafe { bio.byte_sub(Self::FRONT_PAD as usize) }.cast()
    }

    /// # Safety
    ///
    /// Only for the block layer: `bio` was submitted by `start` and is done.
    unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
        // SAFETY: A bio of ours, as `start` set it up.
        let (status, bios) = unsafe { ((*bio).bi_status, (*bio).bi_private) };
        // SAFETY: `start` wrote the payload; a bio ends once, so it is taken once.
        let payload = unsafe { Self::payload(bio).read() };
        // SAFETY: The reference the bio was made with.
        unsafe { bindings::bio_put(bio) };
        // SAFETY: A table lookup.
        payload.done(to_result(unsafe { bindings::blk_status_to_errno(status) }));
        // Last, as the set may go after this.
        // SAFETY: Pairs with `brmr_sys_bio_get()`.
        unsafe { ffi::brmr_sys_bios_put(bios.cast()) };
    }
}

impl<T: BioDone> Drop for BioSet<T> {
    fn drop(&mut self) {
        // SAFETY: Created by `new`, and nobody can submit any more.
        unsafe { ffi::brmr_sys_bios_destroy(self.bios.as_ptr()) };
    }
}
