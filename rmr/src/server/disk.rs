// SPDX-License-Identifier: GPL-2.0

//! What the engine of a member wants of its disk: records, flushes. One thing at a time, by a job of its own, so that the
//! member can be spoken to meanwhile.

use super::member::Runner;
use crate::store::Store;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::RECORD_BYTES;
use rmr_sys::gate::Gate;
use rmr_sys::work::Again;
use rmr_sys::work::Job;
use rmr_sys::work::Queue;

/// What is to be done.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// Write the record in the page to this offset of the device, in bytes.
    Write(u64),
    /// Write the superblock with this UUID of the pool.
    Assign(Uuid),
    /// Make everything stable.
    Flush,
}

/// What was done.
pub(crate) enum Done {
    /// A record or the superblock was written.
    Record(Result<(), Status>),
    /// The store was flushed.
    Flush(Result<(), Status>),
}

struct Inner {
    work: Option<Work>,
    done: Option<Done>,
    /// The record to be written. Not here while it is being written.
    page: Option<KBox<[u8; RECORD_BYTES]>>,
}

/// See the head of the file.
#[pin_data]
pub(crate) struct Disk {
    job: Gate<Job<Runner>>,
    #[pin]
    inner: Mutex<Inner>,
}

impl Disk {
    /// Nothing is to be done.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            job: Gate::new(),
            inner <- new_mutex!(Inner {
                work: None,
                done: None,
                page: Some(KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?),
            }),
        })
    }

    /// Is ready to work for `runner`, whose disk this is. Sleeps.
    pub(crate) fn open(&self, queue: &Arc<Queue>, runner: &Arc<Runner>) -> Result {
        self.job.publish(Job::new(queue, runner.clone(), |runner| {
            runner.disk.run(runner)
        })?)
    }

    /// Waits for what is being done, and does nothing more. Sleeps.
    pub(crate) fn close(&self) {
        drop(self.job.retire());
    }

    /// Begins with `work`; `record` is what to write.
    pub(crate) fn begin(&self, work: Work, record: Option<&[u8; RECORD_BYTES]>) {
        let mut inner = self.inner.lock();
        if let (Some(page), Some(record)) = (&mut inner.page, record) {
            page.copy_from_slice(record);
        }
        inner.work = Some(work);
        drop(inner);
        if let Some(job) = self.job.enter() {
            job.queue();
        }
    }

    /// What was done, if anything.
    pub(crate) fn take_done(&self) -> Option<Done> {
        self.inner.lock().done.take()
    }

    fn run(&self, runner: &Arc<Runner>) -> Again {
        let mut inner = self.inner.lock();
        let (Some(work), Some(page)) = (inner.work.take(), inner.page.take()) else {
            return Again::No;
        };
        drop(inner);
        let done = perform(&*runner.store, work, &page);
        let mut inner = self.inner.lock();
        inner.page = Some(page);
        inner.done = Some(done);
        drop(inner);
        runner.disk_done();
        Again::No
    }
}

#[inline(never)]
fn perform(store: &dyn Store, work: Work, page: &[u8; RECORD_BYTES]) -> Done {
    let status = |result: Result| result.map_err(|error| Status::from_errno(error.to_errno()));
    match work {
        Work::Write(offset) => Done::Record(status(store.write_record(offset, page))),
        Work::Assign(pool) => Done::Record(status(store.assign_pool(pool))),
        Work::Flush => Done::Flush(status(store.flush())),
    }
}
