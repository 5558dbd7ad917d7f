// SPDX-License-Identifier: GPL-2.0

//! The public face of the client: an opened pool, to which any kernel module can send IO.
//!
//! ```ignore
//! let volume = Volume::open(&PoolName::new(b"vol0")?, 128, consumer)?;   // may sleep: talks to all members
//! volume.submit(7, Io { op: IoOp::Write { fua: false }, offset, len, data: Some(data), queue: 0, last: true })?;
//! // … consumer.complete(7, Status::Ok), from softirq or process context
//! drop(volume);                                         // waits for all IO, detaches cleanly
//! ```
//!
//! A consumer numbers its requests with *tags* below the depth it opened the volume with; a tag is in use
//! from `submit` to `complete`. Nothing is allocated per request. This module knows nothing of disks.

use super::core::Core;
use super::driver::Driver;
use super::lane;
use super::pool::Pool;
use super::registry::Registry;
use crate::refuse;
use kernel::prelude::*;
use kernel::sync::Arc;
use rmr_engine::client::State;
use rmr_proto::Geometry;
use rmr_proto::Limits;
use rmr_proto::PoolName;
use rmr_proto::Status;

pub use rtrs::IoData;

/// Who gets the outcome of requests.
pub trait Consumer: Send + Sync {
    /// Request `tag` is finished; its data is not touched any more and the tag is free.
    ///
    /// Called exactly once for each accepted [`Volume::submit`], from softirq or process context, possibly
    /// before `submit` has returned. Must not sleep; may submit.
    fn complete(&self, tag: u32, status: Status);
}

/// What a request does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoOp {
    /// Reads from one in-sync member.
    #[default]
    Read,
    /// Writes to all receivers.
    Write {
        /// Complete only when stable on all of them.
        fua: bool,
    },
    /// Makes everything that was completed before stable, on all receivers.
    Flush,
    /// Makes the range read as zeroes, on all receivers.
    WriteZeroes {
        /// Space may be given back.
        unmap: bool,
        /// Complete only when stable on all of them.
        fua: bool,
    },
}

impl IoOp {
    /// Whether it changes data.
    pub(crate) fn is_write(self) -> bool {
        matches!(self, Self::Write { .. } | Self::WriteZeroes { .. })
    }
}

/// One request.
pub struct Io {
    /// What to do.
    pub op: IoOp,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes; 0 for a flush.
    pub len: u32,
    /// The data of a read or write, `len` bytes.
    pub data: Option<IoData>,
    /// Which of the consumer's queues it comes from, any number: one for each CPU is best. Requests of
    /// different queues do not travel together.
    pub queue: u32,
    /// No other request of its queue follows at once. If false, the request may wait for those that follow,
    /// until one of them says `last` or [`Volume::kick`] is called for the queue.
    pub last: bool,
}

/// What a volume can do: the strictest of its members and of the way to them.
#[derive(Clone)]
pub struct VolumeLimits {
    /// Size and chunk size.
    pub geometry: Geometry,
    /// Block sizes and features.
    pub limits: Limits,
    /// Largest read or write, in bytes.
    pub max_io: u32,
    /// Most pieces of memory that a read or write may have.
    pub max_segments: u16,
}

/// What becomes of the IO of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// It goes through, or waits for moments only.
    Ready,
    /// No member with all data can be reached: it waits until there is one, or fails, as the administrator said.
    Suspended,
    /// Acknowledged data may be gone: it fails. That ends only by opening the pool anew.
    Lost,
    /// Another client has the pool: it fails, likewise.
    Fenced,
    /// It fails, likewise.
    Failed,
}

/// An opened pool. Exclusive: a pool has at most one volume. Dropping it waits for all IO and detaches.
pub struct Volume {
    pool: Arc<Pool>,
    opened: Arc<Driver>,
    limits: VolumeLimits,
}

impl Volume {
    /// Opens the pool `name` for up to `depth` requests at a time, attaching to its members if that was not
    /// done. May sleep, for as long as members that are missing are waited for.
    ///
    /// `size`, in bytes, is what the consumer was told to expect; `EINVAL` if it is another. `ENOENT`: no such pool;
    /// `EBUSY`: it has a volume already; else why it cannot be attached to. The reason is in the kernel log.
    #[inline(never)]
    pub fn open(
        name: &PoolName,
        size: Option<u64>,
        depth: u32,
        consumer: Arc<dyn Consumer>,
    ) -> Result<Self> {
        let Some(pool) = Registry::get()?.find(name) else {
            return Err(refuse!(
                ENOENT,
                "there is no pool {} here; join it first (/sys/class/rmr-client/ctl/join_pool)",
                name
            ));
        };
        let (opened, limits) = pool.open(size, depth, consumer)?;
        Ok(Self {
            pool,
            opened,
            limits,
        })
    }

    /// Limits of this volume; constant while it is open.
    #[inline(never)]
    pub fn limits(&self) -> &VolumeLimits {
        &self.limits
    }

    /// What becomes of its IO at this moment.
    #[inline(never)]
    pub fn state(&self) -> VolumeState {
        self.opened.look(|desk| match desk.coordinator.state() {
            State::Serving | State::Changing | State::Attaching | State::Leaving => {
                VolumeState::Ready
            }
            State::Held => VolumeState::Suspended,
            State::Lost => VolumeState::Lost,
            State::Fenced => VolumeState::Fenced,
            State::Closed | State::Failed(_) => VolumeState::Failed,
        })
    }

    /// Starts a request. An error means that it was not accepted and nothing was done: the tag is in use or
    /// too large, the request is malformed, or the volume has failed.
    ///
    /// Any context but hard interrupts.
    #[inline(never)]
    pub fn submit(&self, tag: u32, io: Io) -> Result<(), Status> {
        match self.opened.core.enter() {
            Some(core) => Core::submit(&core, tag, io),
            None => Err(Status::Io),
        }
    }

    /// Sends what has gathered of a queue. Any context but hard interrupts.
    #[inline(never)]
    pub fn kick(&self, queue: u32) {
        if let Some(core) = self.opened.core.enter() {
            lane::kick(&core, core.set(queue));
        }
    }
}

impl Drop for Volume {
    #[inline(never)]
    fn drop(&mut self) {
        self.pool.close(&self.opened);
    }
}
