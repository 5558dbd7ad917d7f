// SPDX-License-Identifier: GPL-2.0

//! A request of blk-mq, owned by the driver from `queue` to `complete`.
//!
//! Not a view of bios: a driver sees one range, and its memory as one scatterlist.

use crate::ffi;
use crate::status::BlkStatus;
use core::mem::size_of;
use core::ptr;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::prelude::*;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fill the data.
    Read,
    /// Write the data.
    Write,
    /// Make what was completed before stable. Has no range and no data.
    Flush,
    /// The range is not needed any more. No data.
    Discard,
    /// The range reads as zeroes afterwards. No data.
    WriteZeroes {
        /// Space may be given back.
        unmap: bool,
    },
    /// Anything else (`enum req_op`); a disk that does not offer it does not get it.
    Other(u8),
}

/// Driver data of a request. Followed by its scatterlist, `max_segments` entries.
///
/// Accessed only through the `Request` that owns it, or by blk-mq's completion after it.
#[repr(C, align(8))]
pub(crate) struct Pdu {
    /// Entries in use, `UNMAPPED` before the first `sg_list()`.
    nents: u32,
    /// What to end the request with.
    status: bindings::blk_status_t,
}

/// `Pdu::nents` of a request that was not mapped yet.
const UNMAPPED: u32 = u32::MAX;

kernel::static_assert!(size_of::<Pdu>() % core::mem::align_of::<bindings::scatterlist>() == 0);

impl Pdu {
    /// Bytes of driver data per request for `segments` scatterlist entries; `None` if that is too much.
    pub(crate) fn bytes(segments: u16) -> Option<u32> {
        let sg = size_of::<bindings::scatterlist>().checked_mul(usize::from(segments))?;
        u32::try_from(sg.checked_add(size_of::<Self>())?).ok()
    }

    /// # Safety
    ///
    /// `rq` is a request of one of our tag sets.
    unsafe fn of(rq: *mut bindings::request) -> *mut Self {
        // SAFETY: The driver data follows the request in the same allocation.
        unsafe { bindings::blk_mq_rq_to_pdu(rq) }.cast()
    }

    /// # Safety
    ///
    /// `rq` is a request of one of our tag sets.
    unsafe fn sg(rq: *mut bindings::request) -> *mut bindings::scatterlist {
        // SAFETY: By the precondition; the list follows the `Pdu`, which keeps it aligned (asserted above).
        unsafe { Self::of(rq).add(1) }.cast()
    }

    /// Prepares the driver data of a new request.
    ///
    /// # Safety
    ///
    /// `rq` is a new request of a tag set made for `segments` entries.
    pub(crate) unsafe fn init(rq: *mut bindings::request, segments: u32) {
        // SAFETY: The memory is there by the precondition, and nobody else knows it yet.
        unsafe {
            Self::of(rq).write(Self {
                nents: UNMAPPED,
                status: 0,
            });
            bindings::sg_init_table(Self::sg(rq), segments);
        }
    }

    /// The status `rq` is to be ended with.
    ///
    /// # Safety
    ///
    /// `rq` is a request of one of our tag sets that [`Request::complete`] has handed back.
    pub(crate) unsafe fn status(rq: *mut bindings::request) -> bindings::blk_status_t {
        // SAFETY: By the precondition it was written, and its writer is done with the request.
        unsafe { (*Self::of(rq)).status }
    }
}

/// The memory of a request as a scatterlist: not DMA-mapped, valid until the request is completed.
#[derive(Clone, Copy, Debug)]
pub struct SgList {
    /// First entry; null without data.
    pub sg: *mut bindings::scatterlist,
    /// Number of entries.
    pub nents: u32,
    /// Sum of their lengths in bytes.
    pub len: u32,
}

// SAFETY: A description of memory; who may follow the pointer is decided by who has the request.
unsafe impl Send for SgList {}
// SAFETY: As above, there is no interior mutability.
unsafe impl Sync for SgList {}

impl SgList {
    /// The list of a request without data.
    pub const EMPTY: Self = Self {
        sg: ptr::null_mut(),
        nents: 0,
        len: 0,
    };
}

/// An owned request in flight.
///
/// Must be ended by [`Request::complete`]; dropped without, it ends with an IO error.
///
/// # Invariants
///
/// Points to a started request of one of our tag sets; there is no other `Request` for it, and blk-mq leaves
/// it alone until it is completed or requeued.
pub struct Request(NonNull<bindings::request>);

// SAFETY: blk-mq requests may be completed from any CPU and context.
unsafe impl Send for Request {}
// SAFETY: The methods that take `&self` only read fields that do not change while the request is in flight.
unsafe impl Sync for Request {}

impl Request {
    /// Takes over a request and starts it.
    ///
    /// # Safety
    ///
    /// `rq` was just passed to `queue_rq`.
    pub(crate) unsafe fn start(rq: *mut bindings::request) -> Self {
        // SAFETY: `queue_rq` owns the request, so nobody else accesses its driver data.
        unsafe { (*Pdu::of(rq)).nents = UNMAPPED };
        // SAFETY: The request was not started before, by the precondition.
        unsafe { bindings::blk_mq_start_request(rq) };
        // INVARIANT: It was given to us and is started now.
        // SAFETY: blk-mq never passes a null request.
        Self(unsafe { NonNull::new_unchecked(rq) })
    }

    /// Takes back what [`Request::into_raw`] gave.
    ///
    /// # Safety
    ///
    /// `rq` came from `into_raw`, and this is the only time it is taken back.
    pub(crate) unsafe fn from_raw(rq: NonNull<bindings::request>) -> Self {
        // INVARIANT: That of the `Request` that was given up for `rq`.
        Self(rq)
    }

    /// Gives up the request without ending it.
    pub(crate) fn into_raw(self) -> NonNull<bindings::request> {
        let rq = self.0;
        core::mem::forget(self);
        rq
    }

    /// Leaves the request to blk-mq, which knows by other means that it has it back.
    pub(crate) fn forget(self) {
        core::mem::forget(self);
    }

    fn raw(&self) -> *mut bindings::request {
        self.0.as_ptr()
    }

    fn flags(&self) -> u32 {
        // SAFETY: By the type invariant the request is valid; its flags do not change while it is in flight.
        unsafe { (*self.raw()).cmd_flags }
    }

    /// The operation.
    pub fn op(&self) -> Op {
        let flags = self.flags();
        match flags & ffi::REQ_OP_MASK {
            bindings::req_op_REQ_OP_READ => Op::Read,
            bindings::req_op_REQ_OP_WRITE => Op::Write,
            bindings::req_op_REQ_OP_FLUSH => Op::Flush,
            bindings::req_op_REQ_OP_DISCARD => Op::Discard,
            bindings::req_op_REQ_OP_WRITE_ZEROES => Op::WriteZeroes {
                unmap: flags & ffi::REQ_NOUNMAP == 0,
            },
            // The mask leaves 8 bits.
            other => Op::Other(other as u8),
        }
    }

    /// Start of the range, in bytes. Meaningless for a flush.
    pub fn offset(&self) -> u64 {
        // SAFETY: By the type invariant the request is valid.
        unsafe { ffi::brmr_sys_rq_offset(self.raw()) }
    }

    /// Length of the range, in bytes; 0 for a flush.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> u32 {
        // SAFETY: By the type invariant the request is valid.
        unsafe { ffi::brmr_sys_rq_bytes(self.raw()) }
    }

    /// Whether completion must mean that the data is stable.
    pub fn fua(&self) -> bool {
        self.flags() & ffi::REQ_FUA != 0
    }

    /// Number of the hardware queue the request came by.
    pub fn hw_queue(&self) -> u32 {
        // SAFETY: By the type invariant the request is valid and has a hardware queue.
        unsafe { (*(*self.raw()).mq_hctx).queue_num }
    }

    /// A number no other request of this disk in flight has; less than [`crate::RequestTable::depth`].
    pub fn tag(&self) -> u32 {
        // SAFETY: By the type invariant the request is valid and has a driver tag.
        unsafe { ffi::brmr_sys_rq_tag(self.raw()) }
    }

    /// The memory of the request. Calls after the first are free. Any context.
    ///
    /// # Errors
    ///
    /// `EIO` if the request has more segments than the disk offered, which blk-mq prevents.
    pub fn sg_list(&mut self) -> Result<SgList> {
        if !matches!(self.op(), Op::Read | Op::Write) {
            return Ok(SgList::EMPTY);
        }
        let rq = self.raw();
        // SAFETY: By the type invariant `rq` has our driver data, and `&mut self` makes us its only user.
        let pdu = unsafe { &mut *Pdu::of(rq) };
        // SAFETY: As above.
        let sg = unsafe { Pdu::sg(rq) };
        if pdu.nents == UNMAPPED {
            // SAFETY: blk-mq splits requests to the `max_segments` that the list was made for.
            let nents = unsafe { ffi::brmr_sys_rq_map(rq, sg) };
            pdu.nents = u32::try_from(nents).ok().filter(|&n| n > 0).ok_or(EIO)?;
        }
        Ok(SgList {
            sg,
            nents: pdu.nents,
            len: self.len(),
        })
    }

    /// Copies the data of the request, from byte `skip` of it, to `buf`; returns how many bytes. For drivers that
    /// do not pass the memory on. Any context.
    ///
    /// # Errors
    ///
    /// As [`Request::sg_list`].
    pub fn copy_to(&mut self, skip: u32, buf: &mut [u8]) -> Result<usize> {
        let list = self.sg_list()?;
        // SAFETY: The list is that of a request which we own; an empty one is not looked at.
        Ok(unsafe {
            bindings::sg_pcopy_to_buffer(
                list.sg,
                list.nents,
                buf.as_mut_ptr().cast(),
                buf.len(),
                skip as isize,
            )
        })
    }

    /// Copies `buf` to the data of the request, from byte `skip` of it; else as [`Request::copy_to`].
    ///
    /// # Errors
    ///
    /// As [`Request::sg_list`].
    pub fn copy_from(&mut self, skip: u32, buf: &[u8]) -> Result<usize> {
        let list = self.sg_list()?;
        // SAFETY: As in `copy_to`.
        Ok(unsafe {
            bindings::sg_pcopy_from_buffer(
                list.sg,
                list.nents,
                buf.as_ptr().cast(),
                buf.len(),
                skip as isize,
            )
        })
    }

    /// Ends the request. Softirq or process context, any CPU; does not sleep.
    ///
    /// The memory of the request must not be accessed any more, by nobody: its [`SgList`] and what was made of it are
    /// dead.
    pub fn complete(self, status: BlkStatus) {
        let rq = self.into_raw().as_ptr();
        // SAFETY: We were the owner, so nobody else accesses the driver data.
        unsafe { (*Pdu::of(rq)).status = status.raw() };
        // SAFETY: A started request, which is not ours any more after this.
        unsafe { bindings::blk_mq_complete_request(rq) };
    }

    /// Gives the request back to blk-mq, to come again through [`crate::Driver::queue`]. As `complete`.
    pub fn requeue(self) {
        // SAFETY: A started request that is not ours any more after this.
        unsafe { bindings::blk_mq_requeue_request(self.into_raw().as_ptr(), true) };
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: The type invariant passes to the copy; `self` is gone after this.
        unsafe { ptr::read(self) }.complete(BlkStatus::Io);
    }
}
