// SPDX-License-Identifier: GPL-2.0

//! Control messages of the coordinator: on their way without anybody waiting, in memory that is there from the beginning.
//!
//! A [`Merge`](rmr_proto::Merge) goes as a WRITE whose header is its begin and whose data is its marks, and is answered by a
//! number. All others go as a READ whose header is the message, and whose data is the reply.

use super::core::Core;
use super::leg::Leg;
use super::leg::CALLS;
use kernel::prelude::*;
use rmr_engine::client::Message as Content;
use rmr_proto::Kind;
use rmr_proto::Status;
use rmr_proto::MAX_CONTROL_BYTES;
use rmr_proto::MAX_MERGE_BYTES;
use rmr_proto::MERGE_HEADER_BYTES;
use rmr_proto::REPLY_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::gate::Entered;
use rtrs::Confirm;
use rtrs::Dir;
use rtrs::Errno;
use rtrs::Message;
use rtrs::Permit;

/// Bytes of a reply without suspects, which only that to a promise has.
const SHORT_REPLY: usize = 2048;

/// What the confirmation of a control message needs to know.
pub(crate) struct Call {
    /// Keep the data path alive while the message is on its way.
    core: Option<Entered<Core>>,
    leg: Option<Entered<Leg>>,
    slot: usize,
    result: Result<(), Errno>,
}

impl Confirm for Call {
    fn confirmed(mut message: KBox<Message<Self>>, permit: Permit, result: Result<(), Errno>) {
        drop(permit);
        let call = message.ctx_mut();
        call.result = result;
        let (Some(core), Some(leg)) = (call.core.take(), call.leg.take()) else {
            return;
        };
        if let Some(place) = leg.answers.get(call.slot) {
            let _ = place.put(message);
        }
        core.driver.answered(leg.member);
        core.job.queue();
    }
}

/// One control message at a time.
struct Slot {
    /// While it is not on its way.
    message: Option<KBox<Message<Call>>>,
    bytes: KBox<[u8; MAX_MERGE_BYTES]>,
    len: usize,
    kind: Kind,
    /// The coordinator's number for it; 0 if it is not used.
    number: u64,
    waits: bool,
}

/// The control messages to one member.
pub(crate) struct Calls {
    slots: KVec<Slot>,
}

impl Calls {
    /// Room for [`CALLS`] messages. May sleep.
    pub(crate) fn new() -> Result<Self> {
        let mut slots = KVec::with_capacity(CALLS, GFP_KERNEL)?;
        for slot in 0..CALLS {
            let call = Call {
                core: None,
                leg: None,
                slot,
                result: Ok(()),
            };
            let pages = REPLY_BYTES.div_ceil(kernel::page::PAGE_SIZE);
            let mut message = Message::new(pages, call)?;
            // Makes its pages, which stay.
            message.push_owned(REPLY_BYTES as u32)?;
            slots.push(
                Slot {
                    message: Some(message),
                    bytes: KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?,
                    len: 0,
                    kind: Kind::Query,
                    number: 0,
                    waits: false,
                },
                GFP_KERNEL,
            )?;
        }
        Ok(Self { slots })
    }

    /// Keeps a message to be sent; `false` if there is no room, or it is not one that can be sent.
    pub(crate) fn put(&mut self, number: u64, content: &Content<'_>) -> bool {
        let free = |slot: &&mut Slot| slot.number == 0 && slot.message.is_some();
        let Some(slot) = self.slots.iter_mut().find(free) else {
            return false;
        };
        let encoded = match content {
            Content::Control(control) => {
                slot.kind = control.kind();
                let Some(bytes) = slot.bytes.first_chunk_mut::<MAX_CONTROL_BYTES>() else {
                    return false;
                };
                control.encode::<KernelCrc>(bytes).map(<[u8]>::len)
            }
            Content::Merge(merge) => {
                slot.kind = Kind::Merge;
                merge.encode::<KernelCrc>(&mut slot.bytes).map(<[u8]>::len)
            }
        };
        match encoded {
            Ok(len) => {
                slot.len = len;
                slot.number = number;
                slot.waits = true;
                true
            }
            Err(why) => {
                pr_err!(
                    "BUG: a control message cannot be sent: {}\n",
                    core::format_args!("{why}")
                );
                false
            }
        }
    }

    /// Is nothing on its way?
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.message.is_some())
    }

    /// Sends what waits; `failed` hears of those that cannot be sent. `true` if permits are missing.
    pub(crate) fn send(
        &mut self,
        core: &Entered<Core>,
        leg: &Entered<Leg>,
        mut failed: impl FnMut(u64),
    ) -> bool {
        let mut stalled = false;
        for slot in self.slots.iter_mut().filter(|slot| slot.waits) {
            match slot.send(core, leg) {
                Ok(()) => slot.waits = false,
                Err(EAGAIN) => stalled = true,
                Err(_) => {
                    slot.waits = false;
                    failed(core::mem::replace(&mut slot.number, 0));
                }
            }
        }
        stalled
    }

    /// Takes one answer: the number and kind of the message, and how it ended. Its data, if that is a reply, is then in
    /// `reply`.
    pub(crate) fn answer(
        &mut self,
        leg: &Leg,
        reply: &mut [u8; REPLY_BYTES],
    ) -> Option<(u64, Kind, Status)> {
        let (slot, message) = (self.slots.iter_mut())
            .zip(&leg.answers)
            .find_map(|(slot, place)| Some((slot, place.take()?)))?;
        let status = match message.ctx().result {
            Ok(()) => Status::Ok,
            Err(errno) => Status::from_errno(i32::from(errno.number())),
        };
        let status = if status.is_ok() && slot.kind != Kind::Merge {
            let len = reply_bytes(slot.kind);
            match reply
                .get_mut(..len)
                .map(|place| message.read_owned(0, place))
            {
                Some(Ok(())) => Status::Ok,
                _ => Status::Invalid,
            }
        } else {
            status
        };
        slot.message = Some(message);
        Some((core::mem::replace(&mut slot.number, 0), slot.kind, status))
    }
}

/// Bytes to make room for a reply to a message of a kind.
fn reply_bytes(kind: Kind) -> usize {
    match kind {
        Kind::Promise => REPLY_BYTES,
        _ => SHORT_REPLY,
    }
}

impl Slot {
    fn send(&mut self, core: &Entered<Core>, leg: &Entered<Leg>) -> Result {
        let session = leg.session.enter().filter(|_| leg.is_usable());
        let session = session.ok_or(ENODEV)?;
        let Some(permit) = session.permit() else {
            // All taken, or not connected.
            session.query()?;
            return Err(EAGAIN);
        };
        let Some(mut message) = self.message.take() else {
            return Err(EINVAL);
        };
        let prepared = self.prepare(&mut message);
        let (dir, header) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.message = Some(message);
                return Err(error);
            }
        };
        let call = message.ctx_mut();
        call.core = Some(core.again());
        call.leg = Some(leg.again());
        let Some(bytes) = self.bytes.get(..header) else {
            return Err(EINVAL);
        };
        session
            .send(permit, message, dir, bytes)
            .map_err(|refused| {
                let mut message = refused.message;
                message.ctx_mut().core = None;
                message.ctx_mut().leg = None;
                self.message = Some(message);
                match refused.error {
                    ENOMEM => EAGAIN,
                    error => error,
                }
            })
    }

    /// Fills in the data; the direction, and the length of the header.
    fn prepare(&self, message: &mut Message<Call>) -> Result<(Dir, usize)> {
        message.clear();
        if self.kind != Kind::Merge {
            // At most 20 KiB.
            message.push_owned(reply_bytes(self.kind) as u32)?;
            return Ok((Dir::Read, self.len));
        }
        let marks = self.bytes.get(MERGE_HEADER_BYTES..self.len).ok_or(EINVAL)?;
        message.push_owned(marks.len() as u32)?;
        message.write_owned(0, marks)?;
        Ok((Dir::Write, MERGE_HEADER_BYTES))
    }
}
