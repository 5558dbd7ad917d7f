// SPDX-License-Identifier: GPL-2.0

//! One IO message on a member: from its bytes to store requests, and back to one answer.
//!
//! A message carries up to `MAX_BATCH` requests. It is answered when all of them are finished, with the
//! first error, if any. Nothing here allocates: what must survive until the answer lives in a slot of the
//! [`Table`], claimed when the message arrives. Whether a request may be executed is decided by the engine
//! (`admission`, `dedupe`); control messages are in `control`.

use super::serving::Serving;
use crate::store::StoreDone;
use crate::store::StoreIo;
use crate::store::StoreOp;
use kernel::prelude::*;
use rmr_engine::admission;
use rmr_engine::dedupe::Verdict;
use rmr_proto::Batch;
use rmr_proto::Op as WireOp;
use rmr_proto::Request;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_sys::gate::Entered;
use rmr_sys::lock::IrqLocks;
use rmr_sys::new_irq_locks;
use rmr_sys::pr_warn_limited;
use rtrs::DataRef;
use rtrs::Op;

/// Messages that can be in execution on this node at once; one more is answered `Busy` and comes again.
const SLOTS: usize = 2048;

/// What a message in execution needs until it is answered.
#[derive(Default)]
struct Running {
    /// The message to answer; `None` in a free slot.
    op: Option<Op>,
    /// Requests not finished, plus one while requests are still being started.
    pending: u32,
    /// First error of a request.
    status: Status,
}

/// All messages in execution on this node.
pub(crate) struct Table {
    slots: IrqLocks<Running>,
}

impl Table {
    /// A table with every slot free. May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            slots: new_irq_locks!(SLOTS, |_| Running::default())?,
        })
    }

    /// Takes a free slot for `op`, whose requests are about to be started.
    fn claim(&self, op: Op) -> Result<u32, Op> {
        let mut op = Some(op);
        // Messages spread over the table by the address of their RTRS operation, which differs for any two
        // that are in execution: the first probe nearly always hits, and CPUs do not meet on a shared cursor.
        let start = op.as_ref().map_or(0, Op::hint);
        for probe in 0..SLOTS {
            let index = start.wrapping_add(probe) % SLOTS;
            let taken = self.slots[index].with(|slot| {
                if slot.op.is_some() {
                    return false;
                }
                *slot = Running {
                    op: op.take(),
                    pending: 1,
                    status: Status::Ok,
                };
                true
            });
            if taken {
                return Ok(index as u32);
            }
        }
        op.map_or(Ok(0), Err)
    }

    /// Adds a request that is about to be started.
    fn expect(&self, slot: u32) {
        self.slots[slot as usize].with(|s| s.pending += 1);
    }

    /// Notes that a request (or the start of all) is finished; the last one answers the message.
    fn settle(&self, slot: u32, status: Status) {
        let answer = self.slots[slot as usize].with(|s| {
            if s.status == Status::Ok {
                s.status = status;
            }
            s.pending -= 1;
            (s.pending == 0).then(|| (s.op.take(), s.status))
        });
        if let Some((Some(op), status)) = answer {
            op.respond(status.wire());
        }
    }
}

/// One request of a message in execution, to be finished or abandoned exactly once.
pub(crate) struct Ticket {
    serving: Entered<Serving>,
    slot: u32,
    seq: Seq,
}

impl Ticket {
    /// Reports the outcome: to the at-most-once table first, so that duplicates which joined are answered too.
    pub(crate) fn finish(self, status: Status) {
        let table = &self.serving.table;
        if self.seq.is_some() {
            self.serving
                .dedupe
                .finish(self.seq, status, |joined| table.settle(joined, status));
        }
        table.settle(self.slot, status);
    }

    /// Reports that it was not executed and never will be; its repetition is.
    pub(crate) fn abandon(self) {
        let table = &self.serving.table;
        if self.seq.is_some() {
            self.serving
                .dedupe
                .abandon(self.seq, |joined| table.settle(joined, Status::Busy));
        }
        table.settle(self.slot, Status::Busy);
    }
}

/// Executes the IO message `batch` that came with `op`; answers it now or when its requests are finished.
///
/// Process context, on a completion worker of RTRS: does not wait for the disk.
pub(crate) fn execute(serving: Entered<Serving>, batch: &Batch<'_>, op: Op) {
    if let Err(status) = check(&serving, batch, &op) {
        if matches!(status, Status::Invalid | Status::OutOfRange) {
            // Not what a client in its senses sends; refusals for a change of configuration are silent.
            pr_warn_limited!(
                "a message with a request that makes no sense was refused: {}\n",
                status.wire()
            );
        }
        return op.respond(status.wire());
    }
    let watermark = batch.header().watermark;
    let data = op.data();
    let slot = match serving.table.claim(op) {
        Ok(slot) => slot,
        Err(op) => return op.respond(Status::Busy.wire()),
    };
    serving.store.plugged(&mut || {
        for request in batch.requests() {
            start(&serving, &request, watermark, slot, &data);
        }
    });
    serving.table.settle(slot, Status::Ok);
}

/// Starts one request of a message in execution.
fn start(serving: &Entered<Serving>, request: &Request, watermark: Seq, slot: u32, data: &DataRef) {
    serving.table.expect(slot);
    if request.seq.is_some() {
        match serving.dedupe.begin(request.seq, watermark, slot) {
            Verdict::Execute => {}
            // The running copy settles this one, too.
            Verdict::Join => return,
            Verdict::Done(status) | Verdict::Refuse(status) => {
                return serving.table.settle(slot, status)
            }
        }
    }
    let ticket = Ticket {
        serving: serving.again(),
        slot,
        seq: request.seq,
    };
    let (op, has_data) = match request.op {
        WireOp::Read => (StoreOp::Read, true),
        WireOp::Write => (StoreOp::Write { fua: request.fua() }, true),
        WireOp::Flush => (StoreOp::Flush, false),
        WireOp::WriteZeroes => (
            StoreOp::WriteZeroes {
                unmap: request.unmap(),
                fua: request.fua(),
            },
            false,
        ),
    };
    let done = StoreDone::new(ticket);
    let data = if has_data {
        match data.slice(request.data_offset, request.len) {
            Some(data) => Some(data),
            None => return done.finish(Status::Invalid),
        }
    } else {
        None
    };
    serving.store.submit(
        StoreIo {
            op,
            offset: request.offset,
            len: request.len,
            data,
        },
        done,
    );
}

/// Everything that can be said against a message before one of its requests is executed.
fn check(serving: &Serving, batch: &Batch<'_>, op: &Op) -> Result<(), Status> {
    let header = batch.header();
    admission::check(&serving.identity, header)?;
    if batch.data_len() != op.data_len() {
        return Err(Status::Invalid);
    }
    for request in batch.requests() {
        if request.op == WireOp::Flush {
            continue;
        }
        serving
            .geometry
            .check(request.offset, u64::from(request.len))
            .map_err(|_| Status::OutOfRange)?;
        let block = u64::from(serving.logical_block);
        if (request.offset | u64::from(request.len)) & (block - 1) != 0 {
            return Err(Status::Invalid);
        }
    }
    Ok(())
}
