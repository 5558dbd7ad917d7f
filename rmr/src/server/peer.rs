// SPDX-License-Identifier: GPL-2.0

//! The other members of a pool, as this one speaks to them: calls, and what they bring.
//!
//! A call is a [`Message`] with memory of its own for the answer. It has one of a few slots from when it is sent until the
//! engine has heard of its end; data that was pulled stays in it until it is written.

use super::address::Book;
use super::member::Runner;
use super::serving::Serving;
use crate::refuse;
use kernel::prelude::*;
use kernel::sync::Arc;
use rmr_engine::sync::AtomicU32;
use rmr_engine::sync::AtomicU64;
use rmr_proto::Ask;
use rmr_proto::Kind;
use rmr_proto::MemberId;
use rmr_proto::Peer;
use rmr_proto::PoolName;
use rmr_proto::Status;
use rmr_proto::MAX_PEER_BYTES;
use rmr_proto::REPLY_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::gate::Entered;
use rmr_sys::lock::IrqLocks;
use rmr_sys::new_irq_locks;
use rmr_sys::time::sleep_ms;
use rtrs::Confirm;
use rtrs::Dir;
use rtrs::Errno;
use rtrs::Message;
use rtrs::Op;
use rtrs::Permit;

/// Calls that may be on their way at once: more than the engine has.
const SLOTS: usize = 64;

/// How long calls may take after nobody wants them any more, in ms.
const PATIENCE_MS: u32 = 1000;

/// A read for another member, to be finished once. Counts as running.
pub(crate) struct PeerRead {
    pub(crate) serving: Entered<Serving>,
    pub(crate) op: Op,
}

impl PeerRead {
    /// Answers it. Any context.
    pub(crate) fn finish(self, status: Status) {
        let status = self.serving.runner.hot.end_read(status);
        self.op.respond(status.wire());
    }
}

/// What was pulled is being written; to be finished once.
pub(crate) struct PullWrite {
    pub(crate) runner: Arc<Runner>,
    pub(crate) message: KBox<Message<Call>>,
}

impl PullWrite {
    /// Reports the outcome. Any context.
    pub(crate) fn finish(mut self, status: Status) {
        self.message.ctx_mut().written = Some(status);
        Runner::landed(self.runner, self.message);
    }
}

/// What is remembered of a call.
pub(crate) struct Call {
    /// Who called; `None` once it is over.
    runner: Option<Arc<Runner>>,
    pub(crate) slot: u32,
    /// The engine's number.
    pub(crate) number: u64,
    pub(crate) to: MemberId,
    pub(crate) kind: Kind,
    pub(crate) result: Result<(), Errno>,
    /// How writing what it brought ended.
    pub(crate) written: Option<Status>,
}

impl Confirm for Call {
    fn confirmed(mut message: KBox<Message<Self>>, permit: Permit, result: Result<(), Errno>) {
        drop(permit);
        let call = message.ctx_mut();
        call.result = result;
        if let Some(runner) = call.runner.take() {
            Runner::landed(runner, message);
        }
    }
}

/// See the head of the file.
pub(crate) struct Peers {
    book: Arc<Book>,
    /// Calls that are over.
    over: IrqLocks<Option<KBox<Message<Call>>>>,
    /// Which of them there are, by bit.
    ready: AtomicU64,
    /// Slots that are taken, by bit. Changed by the member's job only.
    taken: AtomicU64,
    /// No more calls are made. Changed under the lock of the member's job.
    shut: AtomicU32,
}

impl Peers {
    /// Those in `book`. Sleeps.
    pub(crate) fn new(book: Arc<Book>) -> Result<Self> {
        Ok(Self {
            book,
            over: new_irq_locks!(SLOTS, |_| None)?,
            ready: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            shut: AtomicU32::new(0),
        })
    }

    /// Whether it is known where a member is.
    pub(crate) fn knows(&self, member: MemberId) -> bool {
        self.book.knows(member)
    }

    /// Breaks the connection to a member: all calls to it are over. Sleeps.
    pub(crate) fn close(&self, member: MemberId) {
        if let Some(session) = self.book.session(member) {
            session.close();
        }
    }

    /// A member says that this one has not proved to know the secret. Sleeps.
    pub(crate) fn again(&self, member: MemberId) {
        self.book.again(member);
    }

    /// No more calls are made. The member's job does not run.
    pub(crate) fn shut(&self) {
        self.shut.store(1);
    }

    /// Waits until no call is under way, and nothing that was pulled is being written; if that takes long, breaks the
    /// connections. To be called when they are shut. Sleeps.
    pub(crate) fn wait(&self) {
        let mut turn = 0;
        while self.taken.load() != 0 {
            if turn == PATIENCE_MS / 2 {
                for member in MemberId::all() {
                    self.close(member);
                }
            }
            turn += 1;
            sleep_ms(2);
        }
    }

    /// Sends a message to a member. Sleeps. Only the member's job calls this.
    #[inline(never)]
    pub(crate) fn call(
        &self,
        runner: &Arc<Runner>,
        number: u64,
        to: MemberId,
        message: &Peer<'_>,
    ) -> Result<(), Status> {
        if self.shut.load() != 0 {
            return Err(Status::Disconnected);
        }
        let session = self.book.open_session(to).ok_or(Status::Disconnected)?;
        let permit = session.permit().ok_or(Status::Disconnected)?;
        let slot = self.taken.load().trailing_ones();
        if slot as usize >= SLOTS {
            return Err(Status::Busy);
        }
        let call = Call {
            runner: Some(runner.clone()),
            slot,
            number,
            to,
            kind: message.kind(),
            result: Ok(()),
            written: None,
        };
        let (parcel, dir) = pack(call, &message.ask).map_err(|_| Status::NoMemory)?;
        self.taken.store(self.taken.load() | 1 << slot);
        let mut buf = [0; MAX_PEER_BYTES];
        let sent = match message.encode::<KernelCrc>(&mut buf) {
            Ok(header) => session.send(permit, parcel, dir, header).is_ok(),
            Err(_) => false,
        };
        if !sent {
            self.release(slot);
            return Err(Status::Disconnected);
        }
        Ok(())
    }

    /// A call is over, or what it brought is written. Any context.
    pub(crate) fn put(&self, message: KBox<Message<Call>>) {
        let slot = message.ctx().slot;
        if let Some(place) = self.over.get(slot as usize) {
            place.with(|place| *place = Some(message));
        }
        let mut old = self.ready.load();
        while let Err(now) = self.ready.cas(old, old | 1 << slot) {
            old = now;
        }
    }

    /// The next call that is over.
    pub(crate) fn next(&self) -> Option<KBox<Message<Call>>> {
        let mut old = self.ready.load();
        loop {
            if old == 0 {
                return None;
            }
            match self.ready.cas(old, old & (old - 1)) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        let place = self.over.get(old.trailing_zeros() as usize)?;
        place.with(Option::take)
    }

    /// The engine has heard of the end of a call.
    pub(crate) fn release(&self, slot: u32) {
        self.taken.store(self.taken.load() & !(1 << slot));
    }
}

/// A message with room for the answer.
#[inline(never)]
fn pack(call: Call, ask: &Ask<'_>) -> Result<(KBox<Message<Call>>, Dir)> {
    Ok(match ask {
        Ask::FetchDirty { .. } | Ask::Begun => {
            let mut message = Message::new(REPLY_BYTES.div_ceil(kernel::page::PAGE_SIZE), call)?;
            message.push_owned(REPLY_BYTES as u32)?;
            (message, Dir::Read)
        }
        Ask::Pull { len, .. } => {
            let mut message = Message::new(1, call)?;
            message.push_buffer(*len)?;
            (message, Dir::Read)
        }
        Ask::Clear { .. } => (Message::new(1, call)?, Dir::Write),
    })
}

/// Says once that a member is not reached.
#[cold]
pub(crate) fn unknown(pool: &PoolName, member: MemberId) {
    refuse!(
        (),
        "pool {}: this node does not know where member {} is, from which it is to catch up; write its address to add_peer of the pool",
        pool,
        member
    );
}
