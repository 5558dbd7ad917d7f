// SPDX-License-Identifier: GPL-2.0

//! The tag set of a disk: its hardware queues, and all its requests with their driver data.

use crate::driver::Callbacks;
use crate::driver::Driver;
use crate::request::Pdu;
use crate::table::RequestTable;
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::types::Opaque;

/// An allocated `struct blk_mq_tag_set`.
///
/// # Invariants
///
/// `set` was initialised by `blk_mq_alloc_tag_set()` and does not move.
pub(crate) struct TagSet {
    set: KBox<Opaque<bindings::blk_mq_tag_set>>,
}

// SAFETY: A tag set is not bound to a thread, and blk-mq synchronises its use.
unsafe impl Send for TagSet {}
// SAFETY: As above.
unsafe impl Sync for TagSet {}

impl TagSet {
    /// A tag set for the queues and tags of `table`, whose requests have room for `segments` entries. May sleep.
    pub(crate) fn new<D: Driver>(table: &RequestTable, segments: u16) -> Result<Self> {
        let cmd_size = Pdu::bytes(segments).ok_or(EINVAL)?;
        let set = KBox::new(Opaque::zeroed(), GFP_KERNEL)?;
        let raw: *mut bindings::blk_mq_tag_set = Opaque::get(&set);
        // SAFETY: `raw` is ours alone.
        unsafe {
            (*raw).ops = &Callbacks::<D>::OPS;
            (*raw).nr_hw_queues = table.hw_queues();
            (*raw).queue_depth = table.depth_per_queue();
            (*raw).cmd_size = cmd_size;
            (*raw).numa_node = bindings::NUMA_NO_NODE;
            // The other side orders and merges by itself: a scheduler in front only adds latency.
            (*raw).flags = bindings::BLK_MQ_F_NO_SCHED_BY_DEFAULT;
            (*raw).driver_data = usize::from(segments) as *mut c_void;
        }
        // SAFETY: Filled in above; on failure it is freed without further ado.
        to_result(unsafe { bindings::blk_mq_alloc_tag_set(raw) })?;
        // INVARIANT: Initialised, and the box pins it as nobody moves out of it.
        Ok(Self { set })
    }

    pub(crate) fn raw(&self) -> *mut bindings::blk_mq_tag_set {
        self.set.get()
    }
}

impl Drop for TagSet {
    fn drop(&mut self) {
        // SAFETY: Initialised by the type invariant; the disk that used it left it in `del_gendisk()` or,
        // if it was never added, in `put_disk()`.
        unsafe { bindings::blk_mq_free_tag_set(self.raw()) };
    }
}
