// SPDX-License-Identifier: GPL-2.0

//! What the coordinator wants done, kept until it returns. Nothing is allocated for it.

use super::calls::Calls;
use super::core::Core;
use super::tags::Links;
use super::tags::TagList;
use kernel::prelude::*;
use rmr_engine::client::Action;
use rmr_engine::client::Out;
use rmr_engine::client::Refusal;
use rmr_engine::client::State;
use rmr_engine::time::Time;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::MAX_MEMBERS;
use rmr_sys::gate::Entered;

/// Messages that could not even be queued, at most one for each member.
const LOST: usize = MAX_MEMBERS;

/// See the head of the file.
pub(crate) struct Outbox {
    /// Control messages, by the index of the member.
    pub(crate) calls: KVec<Option<Calls>>,
    /// Members that have some to be sent.
    pub(crate) to_call: MemberSet,
    /// Numbers of messages that have failed.
    pub(crate) lost: KVec<u64>,
    /// Members to which requests are to be sent again.
    pub(crate) resent: MemberSet,
    /// Requests that are over.
    pub(crate) ended: TagList,
    pub(crate) ended_links: Links,
    pub(crate) open: bool,
    pub(crate) close: MemberSet,
    pub(crate) timer: Option<Time>,
    pub(crate) state: Option<State>,
    pub(crate) admin: Option<Result<(), Refusal>>,
    /// Members of which something is to be said, and what.
    pub(crate) noted: MemberSet,
    pub(crate) notes: KVec<Refusal>,
}

impl Outbox {
    /// An empty one, for tags below `depth`. May sleep.
    pub(crate) fn new(depth: u32) -> Result<Self> {
        let mut calls = KVec::with_capacity(MAX_MEMBERS, GFP_KERNEL)?;
        let mut notes = KVec::with_capacity(MAX_MEMBERS, GFP_KERNEL)?;
        for _ in 0..MAX_MEMBERS {
            calls.push(None, GFP_KERNEL)?;
            notes.push(Refusal::NotNow, GFP_KERNEL)?;
        }
        Ok(Self {
            calls,
            to_call: MemberSet::EMPTY,
            lost: KVec::with_capacity(LOST, GFP_KERNEL)?,
            resent: MemberSet::EMPTY,
            ended: TagList::new(),
            ended_links: Links::new(depth)?,
            open: false,
            close: MemberSet::EMPTY,
            timer: None,
            state: None,
            admin: None,
            noted: MemberSet::EMPTY,
            notes,
        })
    }

    /// A message will not be answered. The coordinator has a deadline for those that do not fit.
    pub(crate) fn lose(&mut self, number: u64) {
        let _ = self.lost.push_within_capacity(number);
    }
}

/// An outbox, and the data path in which to find requests.
pub(crate) struct Open<'a> {
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) core: &'a Entered<Core>,
}

impl Open<'_> {
    fn note(&mut self, member: MemberId, why: Refusal) {
        if let Some(place) = self.outbox.notes.get_mut(member.index()) {
            *place = why;
            self.outbox.noted = self.outbox.noted.with(member);
        }
    }
}

impl Out for Open<'_> {
    fn act(&mut self, action: Action<'_>) {
        let outbox = &mut *self.outbox;
        match action {
            Action::Send { call, to, message } => {
                let calls = outbox.calls.get_mut(to.index()).and_then(Option::as_mut);
                if calls.is_some_and(|calls| calls.put(call, &message)) {
                    outbox.to_call = outbox.to_call.with(to);
                } else {
                    outbox.lose(call);
                }
            }
            Action::Resend(sending) => {
                outbox.resent = outbox.resent.union(sending.targets);
                self.core.resend(&sending);
            }
            Action::Complete(ticket, status) => {
                if !status.is_ok() {
                    self.core.note_outcome(ticket.tag, status);
                }
                outbox.ended.push(&outbox.ended_links, ticket.tag);
            }
            Action::Open => outbox.open = true,
            Action::Close(member) => outbox.close = outbox.close.with(member),
            Action::Timer(at) => outbox.timer = Some(at),
            Action::State(state) => outbox.state = Some(state),
            Action::Admin(result) => outbox.admin = Some(result),
            Action::Note(member, why) => self.note(member, why),
        }
    }
}
