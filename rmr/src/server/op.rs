// SPDX-License-Identifier: GPL-2.0

//! One IO message on a member: from its bytes to store requests, and back to one answer.
//!
//! A message carries up to `MAX_BATCH` requests. It is answered when all of them are finished, with the
//! first error, if any. Nothing here allocates: what must survive until the answer lives in a slot of the
//! [`Table`], claimed when the message arrives. Whether a request may be executed is decided by the engine
//! (`rmr_engine::storage::Shared`). A request that has to wait stays in its slot; the slot is noted in [`Parked`], and
//! the member gives the request again when the engine says so.

use super::member::Runner;
use super::serving::Serving;
use crate::store::StoreDone;
use crate::store::StoreIo;
use crate::store::StoreOp;
use crate::store::Waiter;
use kernel::prelude::*;
use rmr_engine::admission;
use rmr_engine::storage::FlushMark;
use rmr_engine::storage::Verdict;
use rmr_engine::sync::AtomicU64;
use rmr_proto::Batch;
use rmr_proto::Header;
use rmr_proto::Op as WireOp;
use rmr_proto::Request;
use rmr_proto::Status;
use rmr_proto::MAX_BATCH;
use rmr_proto::MAX_BATCH_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::gate::Entered;
use rmr_sys::lock::IrqLocks;
use rmr_sys::new_irq_locks;
use rmr_sys::pr_warn_limited;
use rtrs::DataRef;
use rtrs::Op;

/// Messages that can be in execution on this node at once; one more is answered `Busy` and comes again.
const SLOTS: usize = 2048;

/// All requests of a message wait.
const ALL: u32 = u32::MAX;

const _: () = assert!(MAX_BATCH <= u32::BITS as usize);

/// What a message in execution needs until it is answered.
#[derive(Default)]
struct Running {
    /// The message to answer; `None` in a free slot.
    op: Option<Op>,
    /// Requests not finished, plus one while requests are still being started.
    pending: u32,
    /// Requests that wait to be given again, by bit.
    waiting: u32,
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

    /// Takes a free slot for `op`, of which so many requests are expected to end.
    fn claim(&self, op: Op, pending: u32, waiting: u32) -> Result<u32, Op> {
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
                    pending,
                    waiting,
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

    /// A request of the message has to wait.
    fn wait(&self, slot: u32, index: u32) {
        self.slots[slot as usize].with(|s| s.waiting |= 1 << index);
    }

    /// Takes the requests that wait; with where the data of the message is, and its bytes in `buf`.
    fn take_waiting<'a>(
        &self,
        slot: u32,
        buf: &'a mut [u8; MAX_BATCH_BYTES],
    ) -> Option<(u32, DataRef, &'a [u8])> {
        self.slots[slot as usize].with(|s| {
            let waiting = core::mem::take(&mut s.waiting);
            let op = s.op.as_ref().filter(|_| waiting != 0)?;
            let data = op.data();
            // One that the client has made longer meanwhile is none.
            let bytes = op.copy_header(buf).unwrap_or(&[]);
            Some((waiting, data, bytes))
        })
    }

    /// Notes that a request (or the start of all) is finished; the last one answers the message.
    pub(crate) fn settle(&self, slot: u32, status: Status) {
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

/// The slots in which requests to one member wait.
pub(crate) struct Parked([AtomicU64; SLOTS / 64]);

impl Parked {
    /// None.
    pub(crate) fn new() -> Self {
        Self(core::array::from_fn(|_| AtomicU64::new(0)))
    }

    fn add(&self, slot: u32) {
        let (word, bit) = (&self.0[slot as usize / 64], 1 << (slot % 64));
        let mut old = word.load();
        while let Err(now) = word.cas(old, old | bit) {
            old = now;
        }
    }

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        self.0.iter().any(|word| word.load() != 0)
    }

    /// Takes them all.
    pub(crate) fn drain(&self, mut each: impl FnMut(u32)) {
        for (index, word) in self.0.iter().enumerate() {
            let mut bits = word.swap(0);
            while bits != 0 {
                each(index as u32 * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }
}

/// What is asked of the store for a ticket.
enum Kind {
    Read,
    Write(Request),
    Flush(FlushMark),
}

/// One request of a message in execution, to be finished or abandoned exactly once.
pub(crate) struct Ticket {
    serving: Entered<Serving>,
    slot: u32,
    /// Place in the message.
    index: u32,
    kind: Kind,
}

impl Ticket {
    /// Reports the outcome: to the engine first, so that duplicates which joined are answered, too.
    pub(crate) fn finish(self, status: Status) {
        let runner = &self.serving.runner;
        let status = match self.kind {
            Kind::Read => runner.hot.end_read(status),
            Kind::Write(request) => {
                let joined = |joined| runner.table.settle(joined, status);
                if !runner.hot.finish(&request, status, joined) {
                    // Answered when the list of what cannot be read says on disk that this can: the engine tells.
                    runner.table.wait(self.slot, self.index);
                    runner.parked.add(self.slot);
                    return runner.waits();
                }
                status
            }
            Kind::Flush(mark) => {
                let status = runner.hot.end_flush(mark, status);
                if !status.is_ok() {
                    runner.heard();
                }
                status
            }
        };
        runner.table.settle(self.slot, status);
    }

    /// Reports that it was not executed and never will be; its repetition is.
    pub(crate) fn abandon(self) {
        let runner = &self.serving.runner;
        if let Kind::Write(request) = self.kind {
            let busy = |joined| runner.table.settle(joined, Status::Busy);
            runner.hot.abandon(request.seq, busy);
        }
        runner.table.settle(self.slot, Status::Busy);
    }
}

/// Executes the IO message `batch` that came with `op`; answers it now or when its requests are finished.
///
/// Process context, on a completion worker of RTRS: does not wait for the disk.
pub(crate) fn execute(serving: Entered<Serving>, batch: &Batch<'_>, op: Op) {
    if let Err(status) = check(&serving, batch, op.data_len()) {
        if matches!(status, Status::Invalid | Status::OutOfRange) {
            // Not what a client in its senses sends; refusals for a change of configuration are silent.
            pr_warn_limited!(
                "a message with a request that makes no sense was refused: {}\n",
                status.wire()
            );
        }
        return op.respond(status.wire());
    }
    let data = op.data();
    let slot = match serving.runner.table.claim(op, 1, 0) {
        Ok(slot) => slot,
        Err(op) => return op.respond(Status::Busy.wire()),
    };
    let mut waits = false;
    serving.runner.store.plugged(&mut || {
        for (index, request) in batch.requests().enumerate() {
            serving.runner.table.expect(slot);
            // At most MAX_BATCH.
            waits |= !start(
                &serving,
                batch.header(),
                &request,
                slot,
                index as u32,
                &data,
            );
        }
    });
    if waits {
        serving.runner.parked.add(slot);
        serving.runner.waits();
    }
    serving.runner.table.settle(slot, Status::Ok);
}

/// Keeps a message that came while nothing is served, until the engine knows what to answer. Sleeps.
pub(crate) fn keep(runner: &Runner, batch: &Batch<'_>, op: Op) {
    // At most MAX_BATCH.
    let count = batch.len() as u32;
    let waiting = ALL >> (u32::BITS - count.clamp(1, u32::BITS));
    match runner.table.claim(op, count.max(1), waiting) {
        Ok(slot) => {
            runner.parked.add(slot);
            runner.kept();
        }
        Err(op) => op.respond(Status::Busy.wire()),
    }
}

/// Gives the requests of a slot again that had to wait. While nothing is served, `refusal` says how to answer them;
/// `None`: they wait on. To be called by the member's job only.
#[inline(never)]
pub(crate) fn resume(
    runner: &Runner,
    serving: Option<&Entered<Serving>>,
    slot: u32,
    refusal: impl FnOnce(&Header) -> Option<Status>,
) {
    let mut buf = [0; MAX_BATCH_BYTES];
    let Some((waiting, data, bytes)) = runner.table.take_waiting(slot, &mut buf) else {
        return;
    };
    let indexes = || (0..u32::BITS).filter(move |index| waiting & 1 << index != 0);
    let end = |status| {
        for _ in indexes() {
            runner.table.settle(slot, status);
        }
    };
    // As new: the client may have changed it.
    let Ok(batch) = Batch::parse::<KernelCrc>(bytes) else {
        return end(Status::Invalid);
    };
    let Some(serving) = serving else {
        match refusal(batch.header()) {
            Some(status) => end(status),
            None => {
                for index in indexes() {
                    runner.table.wait(slot, index);
                }
                runner.parked.add(slot);
            }
        }
        return;
    };
    if let Err(status) = check(serving, &batch, data.len()) {
        return end(status);
    }
    let mut waits = false;
    runner.store.plugged(&mut || {
        for index in indexes() {
            match batch.get(index as usize) {
                Some(request) => {
                    waits |= !start(serving, batch.header(), &request, slot, index, &data)
                }
                None => runner.table.settle(slot, Status::Invalid),
            }
        }
    });
    if waits {
        runner.parked.add(slot);
    }
}

/// Ends the requests of a slot that wait.
pub(crate) fn give_up(runner: &Runner, slot: u32, status: Status) {
    let mut buf = [0; MAX_BATCH_BYTES];
    if let Some((waiting, ..)) = runner.table.take_waiting(slot, &mut buf) {
        for _ in 0..waiting.count_ones() {
            runner.table.settle(slot, status);
        }
    }
}

/// Starts one request of a message in execution; `false` if it has to wait.
fn start(
    serving: &Entered<Serving>,
    header: &Header,
    request: &Request,
    slot: u32,
    index: u32,
    data: &DataRef,
) -> bool {
    let runner = &serving.runner;
    let state = &serving.state;
    let verdict = match request.op {
        WireOp::Read => match runner.hot.read(state, header, request) {
            Ok(()) => Verdict::Execute,
            Err(status) => Verdict::Refuse(status),
        },
        WireOp::Flush => match admission::check(&state.identity, header) {
            Ok(()) => Verdict::Execute,
            Err(status) => Verdict::Refuse(status),
        },
        WireOp::Write | WireOp::WriteZeroes => {
            let busy = |joined| runner.table.settle(joined, Status::Busy);
            runner.hot.write(state, header, request, slot, busy)
        }
    };
    match verdict {
        Verdict::Execute => {}
        // The running copy settles this one, too.
        Verdict::Join => return true,
        Verdict::Done(status) | Verdict::Refuse(status) => {
            runner.table.settle(slot, status);
            return true;
        }
        Verdict::Wait => {
            runner.table.wait(slot, index);
            return false;
        }
    }
    let (op, kind, has_data) = match request.op {
        WireOp::Read => (StoreOp::Read, Kind::Read, true),
        WireOp::Write => (
            StoreOp::Write { fua: request.fua() },
            Kind::Write(*request),
            true,
        ),
        WireOp::Flush => (StoreOp::Flush, Kind::Flush(runner.hot.begin_flush()), false),
        WireOp::WriteZeroes => (
            StoreOp::WriteZeroes {
                unmap: request.unmap(),
                fua: request.fua(),
            },
            Kind::Write(*request),
            false,
        ),
    };
    let done = StoreDone::new(Waiter::Request(Ticket {
        serving: serving.again(),
        slot,
        index,
        kind,
    }));
    let data = if has_data {
        match data.slice(request.data_offset, request.len) {
            Some(data) => Some(data),
            None => {
                done.finish(Status::Invalid);
                return true;
            }
        }
    } else {
        None
    };
    runner.store.submit(
        StoreIo {
            op,
            offset: request.offset,
            len: request.len,
            data,
        },
        done,
    );
    true
}

/// Everything that can be said against a message before one of its requests is executed.
fn check(serving: &Serving, batch: &Batch<'_>, data_len: u32) -> Result<(), Status> {
    admission::check(&serving.state.identity, batch.header())?;
    if batch.data_len() != data_len {
        return Err(Status::Invalid);
    }
    let geometry = serving.runner.hot.geometry();
    for request in batch.requests() {
        if request.op == WireOp::Flush {
            continue;
        }
        geometry
            .check(request.offset, u64::from(request.len))
            .map_err(|_| Status::OutOfRange)?;
        let block = u64::from(serving.runner.logical_block);
        if (request.offset | u64::from(request.len)) & (block - 1) != 0 {
            return Err(Status::Invalid);
        }
    }
    Ok(())
}
