// SPDX-License-Identifier: GPL-2.0

//! Requests that somebody else works on, to be found again by their tag.
//!
//! One slot per tag and no lock: a tag has one owner at a time, and a slot is taken by exchange, so that a
//! request comes back exactly once whatever tags the other side names. The slots of one hardware queue lie
//! together; CPUs share cache lines only as far as they share queues.

use crate::ffi;
use crate::request::Request;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::ordering;
use kernel::sync::atomic::Atomic;
use kernel::sync::Arc;

/// Parked requests by tag; belongs to one [`crate::Disk`].
///
/// # Invariants
///
/// A slot is 0, or the address of a request that was given up by `Request::into_raw`.
pub struct RequestTable {
    slots: KVVec<Atomic<usize>>,
    hw_queues: u32,
    depth_per_queue: u32,
}

impl RequestTable {
    /// A table for one hardware queue per CPU that is online, with `depth_per_queue` requests each. May sleep.
    ///
    /// CPUs that come later share these queues; queues for all that might come would cost their memory now.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a depth of 0 or more than 10240, `ENOMEM`.
    pub fn new(depth_per_queue: u32) -> Result<Arc<Self>> {
        Self::with_limit(depth_per_queue, u32::MAX)
    }

    /// The same, but with fewer requests for each queue where all of them together would be more than `total`.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; `EINVAL` also if there are more queues than `total`.
    pub fn with_limit(depth_per_queue: u32, total: u32) -> Result<Arc<Self>> {
        // SAFETY: Reads a number.
        let hw_queues = unsafe { ffi::brmr_sys_online_cpus() };
        let depth_per_queue = depth_per_queue.min(total.checked_div(hw_queues).unwrap_or(0));
        if depth_per_queue == 0 || depth_per_queue > bindings::BLK_MQ_MAX_DEPTH {
            return Err(EINVAL);
        }
        let depth = hw_queues.checked_mul(depth_per_queue).ok_or(EINVAL)?;
        let mut slots = KVVec::with_capacity(depth as usize, GFP_KERNEL)?;
        for _ in 0..depth {
            slots.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(Arc::new(
            Self {
                slots,
                hw_queues,
                depth_per_queue,
            },
            GFP_KERNEL,
        )?)
    }

    /// All tags are below this number.
    pub fn depth(&self) -> u32 {
        // The product was checked when the table was made.
        self.hw_queues * self.depth_per_queue
    }

    /// Number of hardware queues.
    pub fn hw_queues(&self) -> u32 {
        self.hw_queues
    }

    /// Requests in flight per hardware queue.
    pub fn depth_per_queue(&self) -> u32 {
        self.depth_per_queue
    }

    /// Lends `rq` out and returns its tag. Any context. Do it before anybody can name the tag.
    ///
    /// # Errors
    ///
    /// Gives `rq` back if its slot is missing or taken: it belongs to another disk than this table.
    pub fn park(&self, rq: Request) -> core::result::Result<u32, Request> {
        let tag = rq.tag();
        let Some(slot) = self.slots.get(tag as usize) else {
            return Err(rq);
        };
        let raw = rq.into_raw();
        // Release: what was done to the request happens before it is taken.
        match slot.cmpxchg(0, raw.as_ptr() as usize, ordering::Release) {
            Ok(_) => Ok(tag),
            // SAFETY: Came from `into_raw` just now and was not stored.
            Err(_) => Err(unsafe { Request::from_raw(raw) }),
        }
    }

    /// Takes back the request `tag`; `None` if it is not here (any more). Any context.
    pub fn take(&self, tag: u32) -> Option<Request> {
        Self::empty(self.slots.get(tag as usize)?)
    }

    /// Takes back every parked request. Requests parked meanwhile may be missed. Any context.
    pub fn drain(&self, f: impl FnMut(Request)) {
        self.slots.iter().filter_map(Self::empty).for_each(f);
    }

    fn empty(slot: &Atomic<usize>) -> Option<Request> {
        // Acquire: pairs with the release in `park`.
        let raw = NonNull::new(slot.xchg(0, ordering::Acquire) as *mut bindings::request)?;
        // SAFETY: By the type invariant it came from `into_raw`; the exchange makes this the only taker.
        Some(unsafe { Request::from_raw(raw) })
    }
}

impl Drop for RequestTable {
    fn drop(&mut self) {
        // A request left here would hang its issuer for good.
        self.drain(drop);
    }
}
