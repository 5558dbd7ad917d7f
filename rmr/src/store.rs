// SPDX-License-Identifier: GPL-2.0

//! What a storage node needs from the thing that keeps the data: the [`Store`] trait.
//!
//! `rmr` decides *whether* a request is executed (admission, at-most-once); a store executes it. A store
//! knows nothing of messages, generations or epochs, and keeps records for `rmr` without looking into them.

use crate::secret::Secret;
use crate::server::op::Ticket;
use crate::server::peer::PeerRead;
use crate::server::peer::PullWrite;
use kernel::prelude::*;
use kernel::sync::Arc;
use rmr_proto::Geometry;
use rmr_proto::Layout;
use rmr_proto::Limits;
use rmr_proto::MemberId;
use rmr_proto::PoolName;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::RECORD_BYTES;
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
    /// Where data and records are on the device.
    pub layout: Layout,
    /// Block sizes and features of the device below.
    pub limits: Limits,
    /// What whoever wants anything of the member must prove to know.
    pub secret: Option<Arc<Secret>>,
}

impl StoreInfo {
    /// Size and chunk size of the pool.
    pub fn geometry(&self) -> Geometry {
        self.layout.geometry()
    }
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

    /// Reads a record at `offset` of the device, in bytes. May sleep.
    fn read_record(&self, offset: u64, page: &mut [u8; RECORD_BYTES]) -> Result;

    /// Writes a record at `offset` of the device, in bytes; returns when it is stable. May sleep.
    fn write_record(&self, offset: u64, page: &[u8; RECORD_BYTES]) -> Result;

    /// Persists the UUID that a client assigned to the pool. May sleep.
    fn assign_pool(&self, pool: Uuid) -> Result;
}

/// Who waits for a [`StoreIo`].
pub(crate) enum Waiter {
    /// A request of a client.
    Request(Ticket),
    /// Another member that pulls.
    Peer(PeerRead),
    /// This member, which pulled.
    Pull(PullWrite),
}

/// The promise to finish one [`StoreIo`]. Dropped unfinished, it reports an IO error.
pub struct StoreDone {
    waiter: Option<Waiter>,
}

impl StoreDone {
    pub(crate) fn new(waiter: Waiter) -> Self {
        Self {
            waiter: Some(waiter),
        }
    }

    /// Reports the outcome. Any context, hard interrupts included.
    #[inline(never)]
    pub fn finish(mut self, status: Status) {
        self.end(status);
    }

    /// Reports that nothing was done nor will be, for want of memory, say: it is asked for again. Any context, hard
    /// interrupts included.
    #[inline(never)]
    pub fn not_started(mut self) {
        match self.waiter.take() {
            Some(Waiter::Request(ticket)) => ticket.abandon(),
            Some(Waiter::Peer(read)) => read.finish(Status::Busy),
            Some(Waiter::Pull(write)) => write.finish(Status::Busy),
            None => {}
        }
    }

    fn end(&mut self, status: Status) {
        match self.waiter.take() {
            Some(Waiter::Request(ticket)) => ticket.finish(status),
            Some(Waiter::Peer(read)) => read.finish(status),
            Some(Waiter::Pull(write)) => write.finish(status),
            None => {}
        }
    }
}

impl Drop for StoreDone {
    #[inline(never)]
    fn drop(&mut self) {
        self.end(Status::Io);
    }
}
