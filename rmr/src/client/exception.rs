// SPDX-License-Identifier: GPL-2.0

//! Requests that did not go straight through the data path, in process context.
//!
//! Three causes: the message of a request failed, the window of sequence numbers was full, a batch found no
//! permit. The data path leaves the request (or the batch, in its lane) and goes on; a job asks the engine
//! (`rmr_engine::retry`) what becomes of it. The job runs again, after a pause, while something is left.

use super::core::Core;
use super::lane;
use super::tags::TagList;
use super::volume::IoOp;
use crate::refuse;
use core::time::Duration;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use rmr_engine::retry;
use rmr_engine::retry::Action;
use rmr_engine::retry::Cause;
use rmr_engine::retry::Direction;
use rmr_proto::MemberSet;
use rmr_proto::PoolName;
use rmr_proto::Status;
use rmr_sys::gate::Entered;
use rmr_sys::gate::Gate;
use rmr_sys::lock::IrqLock;
use rmr_sys::new_irq_lock;
use rmr_sys::time::now_ms;
use rmr_sys::work::Again;

/// Pause before what failed for a connection or a busy member is tried again.
const RETRY_MS: u32 = 100;
/// Pause before permits are asked for again.
const PERMIT_MS: u32 = 4;

/// What waits for the job.
struct Waiting {
    /// Requests whose message failed.
    failed: TagList,
    /// Requests to be started again.
    again: TagList,
    /// Batches in lanes that found no permit.
    stalled: bool,
}

/// The exceptions of an opened pool, and the gate to its data path.
#[pin_data]
pub(crate) struct Exceptions {
    pool: PoolName,
    io_timeout_ms: Arc<Atomic<u64>>,
    /// The data path, for the volume and the job.
    pub(crate) core: Gate<Core>,
    #[pin]
    waiting: IrqLock<Waiting>,
}

impl Exceptions {
    /// For a pool whose data path is about to be published.
    pub(crate) fn new(pool: PoolName, io_timeout_ms: Arc<Atomic<u64>>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                pool,
                io_timeout_ms,
                core: Gate::new(),
                waiting <- new_irq_lock!(Waiting {
                    failed: TagList::new(),
                    again: TagList::new(),
                    stalled: false,
                }),
            }),
            GFP_KERNEL,
        )
    }

    /// The job: decides about everything that waits.
    pub(crate) fn run(this: &Arc<Self>) -> Again {
        let Some(core) = this.core.enter() else {
            return Again::No;
        };
        let (mut failed, mut again, stalled) = this.waiting.with(|w| {
            (
                w.failed.take(),
                w.again.take(),
                core::mem::take(&mut w.stalled),
            )
        });
        let mut later = TagList::new();
        while let Some(tag) = failed.pop(&core.links) {
            match this.decide(&core, tag) {
                Fate::Start => Core::start(&core, tag, true),
                Fate::Later => later.push(&core.links, tag),
                Fate::End(status) => Core::finish(&core, tag, status),
            }
        }
        while let Some(tag) = again.pop(&core.links) {
            Core::start(&core, tag, true);
        }
        let waits_for_permits = stalled && lane::retry_stalled(&core);
        let waits = this.waiting.with(|w| {
            while let Some(tag) = later.pop(&core.links) {
                w.again.push(&core.links, tag);
            }
            w.stalled |= waits_for_permits;
            w.again.len() > 0
        });
        if waits_for_permits {
            Again::After(PERMIT_MS)
        } else if waits {
            Again::After(RETRY_MS)
        } else {
            Again::No
        }
    }

    /// Asks the engine about a request whose message failed.
    fn decide(&self, core: &Core, tag: u32) -> Fate {
        let now = now_ms();
        let action = core.with_request(tag, |request| {
            let failure = request.failure.take()?;
            let member = core.legs.get(failure.leg)?.member;
            let since = *request.failing_since.get_or_insert(now);
            let reads = request.op == IoOp::Read;
            let action = retry::Failure {
                member,
                cause: Cause::Answer(failure.status),
                batch: failure.batch,
                direction: if reads {
                    Direction::Read
                } else {
                    Direction::Write
                },
                readers: core.config.in_sync,
                tried: request.tried,
                age: Duration::from_millis(now.saturating_sub(since)),
                io_timeout: Duration::from_millis(self.io_timeout_ms.load(Relaxed)),
            }
            .action();
            match action {
                Action::Single => request.alone = true,
                Action::OtherReader(_) => request.tried = request.tried.with(member),
                Action::RetryLater => {
                    request.alone = true;
                    request.tried = MemberSet::EMPTY;
                }
                Action::Complete(_) | Action::FailVolume(_) => {}
            }
            Some(action)
        });
        match action.flatten() {
            Some(Action::Single | Action::OtherReader(_)) => Fate::Start,
            Some(Action::RetryLater) => Fate::Later,
            Some(Action::Complete(status)) => Fate::End(status),
            Some(Action::FailVolume(reason)) => {
                if core.fail() {
                    refuse!(
                        (),
                        "pool {}: all IO fails from now on: {}",
                        self.pool,
                        reason
                    );
                }
                Fate::End(Status::Io)
            }
            None => Fate::End(Status::Io),
        }
    }
}

/// What becomes of a request.
enum Fate {
    Start,
    Later,
    End(Status),
}

/// Leaves a request whose message failed to the job.
pub(crate) fn failed(core: &Entered<Core>, tag: u32, failure: lane::Failure) {
    core.with_request(tag, |request| request.failure = Some(failure));
    wait(core, |w| w.failed.push(&core.links, tag));
}

/// Leaves a request that cannot be started now to the job.
pub(crate) fn again(core: &Entered<Core>, tag: u32) {
    wait(core, |w| w.again.push(&core.links, tag));
}

/// Lets the job ask for the permits that a batch did not get.
pub(crate) fn stalled(core: &Entered<Core>) {
    wait(core, |w| w.stalled = true);
}

fn wait(core: &Entered<Core>, f: impl FnOnce(&mut Waiting)) {
    core.exceptions.waiting.with(f);
    core.job.queue();
}
