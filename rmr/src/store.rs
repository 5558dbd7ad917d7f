// SPDX-License-Identifier: GPL-2.0

//! What a storage node needs from the thing that keeps the data: the [`Store`] trait.
//!
//! `rmr` decides *whether* a request is executed (admission, at-most-once); a store executes it. A store
//! knows nothing of messages, generations or epochs, and keeps the [`EpochRecord`] for `rmr` without
//! looking into it.

use crate::server;
use kernel::prelude::*;
use rmr_proto::{EpochRecord, Geometry, Limits, MemberId, PoolName, Status, Uuid};
use rmr_sys::module::ModuleRef;
use rtrs::DataRef;

/// Who a store is and what it can do; constant while the store is attached.
#[derive(Clone)]
pub struct StoreInfo {
    /// Pool the store was created for.
    pub pool_name: PoolName,
    /// UUID of the pool, nil while no client has assigned one.
    pub pool_uuid: Uuid,
    /// UUID of this very store.
    pub store_uuid: Uuid,
    /// Member id the store was created for.
    pub member: MemberId,
    /// Size and chunk size of the pool.
    pub geometry: Geometry,
    /// Block sizes and features of the device below.
    pub limits: Limits,
}

/// What a store is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOp {
    /// Fill the data buffer.
    Read,
    /// Write the data buffer; with `fua`, report success only when it is stable.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Make every write that was finished before stable.
    Flush,
    /// Make the range read as zeroes; with `unmap`, space may be given back.
    WriteZeroes {
        /// The blocks may be deallocated as long as they read as zeroes.
        unmap: bool,
        /// Force unit access.
        fua: bool,
    },
}

/// One request to a store. The range was checked against the geometry.
pub struct StoreIo {
    /// The operation.
    pub op: StoreOp,
    /// Offset in the volume, in bytes.
    pub offset: u64,
    /// Length in bytes; 0 for a flush.
    pub len: u32,
    /// The data: `len` bytes for a read or write, `None` otherwise. Stays valid until the request is finished.
    pub data: Option<DataRef>,
}

/// A local store. Implementations are called from process context.
pub trait Store: Send + Sync {
    /// Identity and capabilities.
    fn info(&self) -> StoreInfo;

    /// Keeps the module that the store's code is in loaded, while a client uses the store. `None` if it is being
    /// unloaded: then no client gets in.
    fn hold(&self) -> Option<ModuleRef>;

    /// Starts `io`; `done` is finished exactly once, possibly before this returns. Must not wait for the disk.
    fn submit(&self, io: StoreIo, done: StoreDone);

    /// Starts several requests so that neighbours may be merged: calls `each` with submission held back
    /// until it returns.
    fn plugged(&self, each: &mut dyn FnMut());

    /// Makes all finished writes stable. May sleep.
    fn flush(&self) -> Result;

    /// Reads the newest valid epoch record. May sleep.
    fn load_epoch(&self) -> Result<EpochRecord>;

    /// Persists an epoch record in both copies; returns when it is stable. May sleep.
    fn save_epoch(&self, record: &EpochRecord) -> Result;

    /// Persists the UUID that a client assigned to the pool. May sleep.
    fn assign_pool(&self, pool: Uuid) -> Result;
}

/// The promise to finish one [`StoreIo`]. Dropped unfinished, it reports an IO error.
pub struct StoreDone {
    ticket: Option<server::op::Ticket>,
}

impl StoreDone {
    pub(crate) fn new(ticket: server::op::Ticket) -> Self {
        Self {
            ticket: Some(ticket),
        }
    }

    /// Reports the outcome. Any context, hard interrupts included.
    #[inline(never)]
    pub fn finish(mut self, status: Status) {
        if let Some(ticket) = self.ticket.take() {
            ticket.finish(status);
        }
    }

    /// Reports that nothing was done nor will be, for want of memory, say: the client sends it again. Any context,
    /// hard interrupts included.
    #[inline(never)]
    pub fn not_started(mut self) {
        if let Some(ticket) = self.ticket.take() {
            ticket.abandon();
        }
    }
}

impl Drop for StoreDone {
    #[inline(never)]
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            ticket.finish(Status::Io);
        }
    }
}
