// SPDX-License-Identifier: GPL-2.0

//! A member as the data path sees it: the way there, what is sent to it alone, and what came back.
//!
//! Messages are made here, one for each place a batch can have: they are most of the memory of a leg.

use super::access::Access;
use super::calls::Call;
use super::core::Core;
use super::lane;
use super::lane::Lanes;
use super::lane::Sent;
use super::sending;
use super::sending::Place;
use super::session::Session;
use super::tags::Links;
use super::tags::TagList;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use rmr_engine::client::Sending;
use rmr_engine::client::Ticket;
use rmr_proto::BatchEncoder;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Status;
use rmr_proto::MAX_BATCH_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::gate::Entered;
use rmr_sys::lock::IrqLocks;
use rmr_sys::new_irq_locks;
use rmr_sys::slots::Park;
use rtrs::Dir;
use rtrs::Message;
use rtrs::SendError;

/// Requests that travel alone to one leg, at a time.
const SINGLES: usize = 16;

/// Control messages to one leg that may be on their way: one that the coordinator waits for, and those that it gave up.
pub(crate) const CALLS: usize = 4;

/// Requests that travel alone.
struct Singles {
    /// Those that wait.
    queue: TagList,
    /// Messages that are free, by bit.
    free: u32,
}

/// See the head of the file.
pub(crate) struct Leg {
    pub(crate) member: MemberId,
    pub(crate) session: Arc<Session>,
    /// Whether the session may be used.
    pub(crate) access: Arc<Access>,
    /// Lanes of reads.
    pub(crate) reads: Lanes,
    /// For each place of the lanes of writes, of those of reads, and of singles.
    messages: KVVec<Park<KBox<Message<Sent>>>>,
    singles: IrqLocks<Singles>,
    links: Links,
    places: KVVec<Place>,
    /// Requests that the coordinator has to decide about.
    failed: IrqLocks<TagList>,
    failed_links: Links,
    /// Which use of the tag failed, and the number of the status.
    causes: KVVec<Atomic<u64>>,
    /// Control messages that came back.
    pub(crate) answers: [Park<KBox<Message<Call>>>; CALLS],
    /// The coordinator knows that there is a connection, and has not told to close it.
    usable: Atomic<bool>,
}

/// What a message of a leg carries.
#[derive(Clone, Copy)]
pub(crate) enum Home {
    /// The batch at this place of the lanes of writes.
    Write(usize),
    /// The batch at this place of the leg's lanes of reads.
    Read(usize),
    /// A single request.
    Single(usize),
}

impl Leg {
    /// A leg without connection, for tags below `depth`; `reads` are its lanes. May sleep.
    pub(crate) fn new(
        member: MemberId,
        session: Arc<Session>,
        access: Arc<Access>,
        depth: u32,
        segments: u16,
        reads: Lanes,
    ) -> Result<Self> {
        let batches = reads.places();
        let count = 2 * batches + SINGLES;
        let mut messages = KVVec::with_capacity(count, GFP_KERNEL)?;
        for index in 0..count {
            let sent = Sent::at(match index {
                write if write < batches => Home::Write(write),
                read if read < 2 * batches => Home::Read(read - batches),
                single => Home::Single(single - 2 * batches),
            });
            let park = Park::new();
            let _ = park.put(Message::new(usize::from(segments), sent)?);
            messages.push(park, GFP_KERNEL)?;
        }
        let mut causes = KVVec::with_capacity(depth as usize, GFP_KERNEL)?;
        for _ in 0..depth {
            causes.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(Self {
            member,
            session,
            access,
            reads,
            messages,
            singles: new_irq_locks!(1, |_| Singles {
                queue: TagList::new(),
                free: (1 << SINGLES) - 1,
            })?,
            links: Links::new(depth)?,
            places: sending::places(depth)?,
            failed: new_irq_locks!(1, |_| TagList::new())?,
            failed_links: Links::new(depth)?,
            causes,
            answers: [const { Park::new() }; CALLS],
            usable: Atomic::new(false),
        })
    }

    /// Whether messages may be sent.
    #[inline]
    pub(crate) fn is_usable(&self) -> bool {
        self.usable.load(Relaxed)
    }

    /// Lets messages be sent, or not.
    pub(crate) fn set_usable(&self, usable: bool) {
        // A barrier, see `is_idle`.
        self.usable.xchg(usable, Full);
    }

    /// Is nothing on its way, and nothing about to be? To be asked about a leg that is not usable: who sends takes a message
    /// first, and then looks whether it is; so it either sees that it is not, or the message is missed here.
    pub(crate) fn is_idle(&self) -> bool {
        self.messages.iter().all(|message| !message.is_empty())
    }

    fn message(&self, home: Home) -> Option<&Park<KBox<Message<Sent>>>> {
        let batches = self.reads.places();
        self.messages.get(match home {
            Home::Write(place) => place,
            Home::Read(place) => batches + place,
            Home::Single(place) => 2 * batches + place,
        })
    }

    /// Takes a message that is not on its way, empty; none if the leg is not usable.
    #[inline]
    pub(crate) fn take(&self, home: Home) -> Option<KBox<Message<Sent>>> {
        let mut message = self.message(home)?.take()?;
        if !self.is_usable() {
            self.keep(message);
            return None;
        }
        message.clear();
        Some(message)
    }

    /// Keeps a message that is over.
    #[inline]
    pub(crate) fn keep(&self, message: KBox<Message<Sent>>) {
        if let Some(park) = self.message(message.ctx().home) {
            let _ = park.put(message);
        }
    }

    // Requests that failed.

    /// Keeps a request for the coordinator.
    pub(crate) fn fail(&self, ticket: Ticket, status: Status) {
        let Some(cause) = self.causes.get(ticket.tag as usize) else {
            return;
        };
        self.failed[0].with(|list| {
            let word = u64::from(ticket.serial) << 32 | 1 << 16 | u64::from(status.wire());
            // One that is in the list already has ended since.
            if cause.xchg(word, Relaxed) == 0 {
                list.push(&self.failed_links, ticket.tag);
            }
        });
    }

    /// Takes one of those requests.
    pub(crate) fn next_failed(&self) -> Option<(Ticket, Status)> {
        self.failed[0].with(|list| {
            let tag = list.pop(&self.failed_links)?;
            let word = self.causes.get(tag as usize)?.xchg(0, Relaxed);
            let ticket = Ticket {
                tag,
                serial: (word >> 32) as u32,
            };
            let status = Status::from_wire((word & 0xffff) as u16).unwrap_or(Status::Io);
            Some((ticket, status))
        })
    }

    // Requests that travel alone.

    /// Queues a request that goes to this leg alone. The caller's hold on it goes with it.
    pub(crate) fn queue(&self, sending: &Sending) {
        let tag = sending.ticket.tag;
        let Some(place) = self.places.get(tag as usize) else {
            return;
        };
        self.singles[0].with(|singles| {
            place.put(&Sending {
                targets: MemberSet::only(self.member),
                ..*sending
            });
            singles.queue.push(&self.links, tag);
        });
    }

    /// Sends what is queued, as far as there are messages. `true` if permits are missing.
    pub(crate) fn pump(this: &Entered<Self>, core: &Entered<Core>) -> bool {
        loop {
            let next = this.singles[0].with(|singles| {
                if singles.free == 0 {
                    return None;
                }
                let tag = singles.queue.pop(&this.links)?;
                let slot = singles.free.trailing_zeros() as usize;
                singles.free &= !(1 << slot);
                Some((tag, slot))
            });
            let Some((tag, slot)) = next else {
                return false;
            };
            if !this.send_single(this, core, tag, slot) {
                this.singles[0].with(|singles| {
                    singles.free |= 1 << slot;
                    singles.queue.push(&this.links, tag);
                });
                return true;
            }
        }
    }

    /// Sends a request alone; `false` if there is no permit.
    fn send_single(
        &self,
        this: &Entered<Self>,
        core: &Entered<Core>,
        tag: u32,
        slot: usize,
    ) -> bool {
        let Some(sending) = self.places.get(tag as usize).map(|place| place.get(tag)) else {
            return true;
        };
        let session = self.session.enter().filter(|_| self.is_usable());
        let Some(session) = session else {
            self.single_over(core, slot, sending.ticket, Status::Disconnected);
            return true;
        };
        let Some(permit) = session.permit() else {
            if session.query().is_ok() {
                return false;
            }
            self.single_over(core, slot, sending.ticket, Status::Disconnected);
            return true;
        };
        let Some(mut message) = self.take(Home::Single(slot)) else {
            drop(permit);
            self.single_over(core, slot, sending.ticket, Status::Disconnected);
            return true;
        };
        let mut body = [0; MAX_BATCH_BYTES];
        let mut encoder = BatchEncoder::new(&mut body);
        core.requests.with(tag as usize, |request| {
            let _ = encoder.push(&request.wire(&sending));
            if let Some(data) = request.data.filter(|_| sending.op.has_data()) {
                let _ = message.push_data(&data);
            }
        });
        let dir = if sending.op == Op::Read {
            Dir::Read
        } else {
            Dir::Write
        };
        core.count(dir, 1);
        message.ctx_mut().start(core, this, sending.ticket);
        let status = match encoder.finish::<KernelCrc>(&core.data.header(&sending, self.member)) {
            Ok(header) => match session.send(permit, message, dir, header) {
                Ok(()) => return true,
                Err(refused) => self.refused(refused),
            },
            Err(_) => {
                self.give_up(message);
                Status::Invalid
            }
        };
        self.single_over(core, slot, sending.ticket, status);
        true
    }

    /// Keeps a message that could not be sent.
    fn give_up(&self, mut message: KBox<Message<Sent>>) {
        message.ctx_mut().stop();
        self.keep(message);
    }

    /// Keeps a message that RTRS did not take; what that means for its requests.
    pub(crate) fn refused(&self, refused: SendError<Sent>) -> Status {
        self.give_up(refused.message);
        match refused.error {
            EAGAIN => Status::Busy,
            ENOMEM => Status::NoMemory,
            EMSGSIZE | EINVAL => Status::Invalid,
            _ => Status::Disconnected,
        }
    }

    fn single_over(&self, core: &Entered<Core>, slot: usize, ticket: Ticket, status: Status) {
        self.singles[0].with(|singles| singles.free |= 1 << slot);
        Core::acked(core, self, ticket, status);
    }

    /// The message of a single request is back.
    pub(crate) fn single_back(
        this: &Entered<Self>,
        core: &Entered<Core>,
        slot: usize,
        ticket: Ticket,
        status: Status,
    ) {
        this.single_over(core, slot, ticket, status);
        if Self::pump(this, core) {
            lane::stalled(core);
        }
    }
}
