// SPDX-License-Identifier: GPL-2.0

//! What blk-mq calls: the [`Driver`] trait and the operations table made from it.

use crate::ffi;
use crate::request::Pdu;
use crate::request::Request;
use crate::status::Busy;
use core::marker::PhantomData;
use kernel::bindings;
use kernel::prelude::*;

/// A block driver.
pub trait Driver: Send + Sync + 'static {
    /// Starts `rq`. Unless `last`, more follows at once and the driver may wait for it (or for
    /// [`Driver::commit`]) before it sends anything. Any CPU, under RCU: must not sleep.
    ///
    /// Takes the request, to be ended by [`Request::complete`] in any context, or gives it back.
    fn queue(&self, rq: Request, last: bool) -> core::result::Result<(), (Request, Busy)>;

    /// What was queued on `hw_queue` without a `last` has to leave now. As [`Driver::queue`], must not sleep.
    fn commit(&self, hw_queue: u32) {
        let _ = hw_queue;
    }
}

/// Callbacks of blk-mq for the driver `D`, whose address is the `queuedata` of the queue.
pub(crate) struct Callbacks<D>(PhantomData<D>);

impl<D: Driver> Callbacks<D> {
    /// The operations table; lives as long as this module.
    pub(crate) const OPS: bindings::blk_mq_ops = bindings::blk_mq_ops {
        queue_rq: Some(Self::queue_rq),
        commit_rqs: Some(Self::commit_rqs),
        complete: Some(Self::complete),
        init_request: Some(Self::init_request),
        // SAFETY: All other callbacks are optional: null function pointers are `None`.
        ..unsafe { core::mem::zeroed() }
    };

    /// # Safety
    ///
    /// Only for blk-mq: `hctx` and `bd` are valid, and the queue belongs to a live [`crate::Disk<D>`].
    unsafe extern "C" fn queue_rq(
        hctx: *mut bindings::blk_mq_hw_ctx,
        bd: *const bindings::blk_mq_queue_data,
    ) -> bindings::blk_status_t {
        // SAFETY: `queuedata` is the driver, which the disk keeps until `del_gendisk()` has ended all calls.
        let driver = unsafe { &*(*(*hctx).queue).queuedata.cast::<D>() };
        // SAFETY: blk-mq passes a valid `bd`.
        let (rq, last) = unsafe { ((*bd).rq, (*bd).last) };
        // SAFETY: blk-mq just gave us this request, which has not been started.
        let request = unsafe { Request::start(rq) };
        match driver.queue(request, last) {
            Ok(()) => ffi::BLK_STS_OK,
            Err((request, busy)) => {
                // blk-mq takes it back, and resets its state, because of the status we return.
                request.forget();
                busy.raw()
            }
        }
    }

    /// # Safety
    ///
    /// As for `queue_rq`.
    unsafe extern "C" fn commit_rqs(hctx: *mut bindings::blk_mq_hw_ctx) {
        // SAFETY: As in `queue_rq`.
        let driver = unsafe { &*(*(*hctx).queue).queuedata.cast::<D>() };
        // SAFETY: blk-mq passes a valid `hctx`.
        driver.commit(unsafe { (*hctx).queue_num });
    }

    /// # Safety
    ///
    /// Only for blk-mq: called once for each `blk_mq_complete_request()` of [`Request::complete`].
    unsafe extern "C" fn complete(rq: *mut bindings::request) {
        // SAFETY: `Request::complete` wrote the status before it handed the request over.
        unsafe { bindings::blk_mq_end_request(rq, Pdu::status(rq)) };
    }

    /// # Safety
    ///
    /// Only for blk-mq: `rq` is new and followed by `cmd_size` bytes.
    unsafe extern "C" fn init_request(
        set: *mut bindings::blk_mq_tag_set,
        rq: *mut bindings::request,
        _hw_queue: c_uint,
        _node: c_int,
    ) -> c_int {
        // SAFETY: `TagSet::new` sized the PDU for as many entries as `driver_data` says.
        unsafe { Pdu::init(rq, (*set).driver_data as usize as u32) };
        0
    }
}
