// SPDX-License-Identifier: GPL-2.0

//! What becomes of a request whose copy a member did not execute.
//!
//! | why | read | write, flush |
//! | --- | --- | --- |
//! | sent under an older epoch | sent again | sent again |
//! | not now (busy, log full, no memory) | later, or elsewhere | later |
//! | connection lost | another member, or when it is back | when it is back |
//! | the store failed | another member, then repair; if none can, it fails | the member is dropped; if it is the last one in sync, the request fails |
//! | any other refusal | the member is dropped | the member is dropped |
//!
//! Nobody waits for ever: what is in flight for too long makes the member lose its place ([`serve`](super::serve)).

use super::coordinator::Coordinator;
use super::coordinator::Phase;
use super::coordinator::Turn;
use super::flights::Ticket;
use super::flights::View;
use super::Action;
use super::Cause;
use crate::memory::Memory;
use crate::planted::on;
use crate::planted::Bug;
use crate::time::MILLISECOND;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Status;

/// What a status means here.
enum Class {
    /// Sent under an older epoch.
    Older,
    /// The connection.
    Transport,
    /// Not now.
    Later,
    /// The store cannot do this.
    Store,
    /// The member is not what it was.
    Gone,
}

fn class(cause: Cause) -> Class {
    match cause {
        Cause::Transport | Cause::Answer(Status::Disconnected) => Class::Transport,
        Cause::Answer(status) => match status {
            Status::StaleEpoch => Class::Older,
            Status::Busy
            | Status::NoMemory
            | Status::OutOfWindow
            | Status::LogFull
            | Status::TimedOut => Class::Later,
            Status::Io
            | Status::Medium
            | Status::NoSpace
            | Status::NotSupported
            | Status::Invalid
            | Status::OutOfRange
            | Status::ReadOnly => Class::Store,
            _ => Class::Gone,
        },
    }
}

impl<M: Memory> Coordinator<M> {
    pub(super) fn io_failed(
        &mut self,
        ticket: Ticket,
        id: MemberId,
        cause: Cause,
        turn: &mut Turn<'_, M>,
    ) {
        let Some(view) = turn.data.view(ticket) else {
            return;
        };
        if !view.pending.contains(id) {
            return;
        }
        turn.data.stall(ticket, id, true);
        let active = match self.phase {
            Phase::Serving | Phase::Leaving(_) => true,
            Phase::Change(change) => change.is_draining(),
            // Whatever it was, it shows again when the request is sent again.
            _ => false,
        };
        if !active {
            return;
        }
        let is_read = view.op == Op::Read;
        let now = turn.now;
        match class(cause) {
            Class::Older => self.send_again(ticket, id, turn),
            Class::Later => {
                if cause == Cause::Answer(Status::LogFull) {
                    if let Some(peer) = self.peer(id) {
                        peer.ping_at = now;
                    }
                }
                self.retry_at = self.retry_at.earliest(now.after(2 * MILLISECOND));
            }
            Class::Transport if is_read => self.read_elsewhere(&view, id, None, turn),
            Class::Transport => {
                self.retry_at = self.retry_at.earliest(now.after(10 * MILLISECOND));
            }
            Class::Store if is_read => {
                let status = match cause {
                    Cause::Answer(status) => status,
                    Cause::Transport => Status::Disconnected,
                };
                self.read_elsewhere(&view, id, Some(status), turn);
            }
            Class::Store => self.write_failed_on(&view, id, cause, turn),
            Class::Gone => self.lose(id),
        }
    }

    fn send_again(&mut self, ticket: Ticket, id: MemberId, turn: &mut Turn<'_, M>) {
        turn.data.stall(ticket, id, false);
        if let Some(sending) = turn.data.again(ticket, MemberSet::only(id)) {
            turn.out.act(Action::Resend(sending));
        }
    }

    /// Asks another member; `status`: the store failed, and so.
    fn read_elsewhere(
        &mut self,
        view: &View,
        id: MemberId,
        status: Option<Status>,
        turn: &mut Turn<'_, M>,
    ) {
        turn.data.note_tried(view.ticket, id, status.is_some());
        let tried = view.tried.with(id);
        let in_sync = self
            .config
            .as_ref()
            .map_or(MemberSet::EMPTY, |config| config.in_sync);
        let possible = in_sync.minus(self.dropping).minus(tried);
        if let Some(other) = possible.intersection(self.up()).iter().next() {
            if let Some(sending) = turn.data.redirect(view.ticket, other) {
                turn.out.act(Action::Resend(sending));
            }
            return;
        }
        match status {
            // There may be a member that can read it, but cannot be reached now.
            Some(status) if possible.is_empty() => {
                if turn.data.end(view.ticket, false) {
                    turn.out.act(Action::Complete(view.ticket, status));
                }
            }
            _ => {
                turn.data.forget_tried(view.ticket);
                self.retry_at = self.retry_at.earliest(turn.now.after(10 * MILLISECOND));
            }
        }
    }

    /// A write or flush failed in the store of a member.
    fn write_failed_on(&mut self, view: &View, id: MemberId, cause: Cause, turn: &mut Turn<'_, M>) {
        let Some(config) = &self.config else { return };
        let others = config.in_sync.minus(self.dropping).without(id);
        if config.in_sync.contains(id) && others.is_empty() && !on(Bug::DropLastForError) {
            let status = match cause {
                Cause::Answer(status) => status,
                Cause::Transport => Status::Io,
            };
            turn.data.note_failed(view.ticket, status);
            self.write_failed = true;
        } else {
            self.lose(id);
        }
    }

    /// Sends what is stalled where it can be sent; what then waits for a connection is due as soon as there is one. False, for
    /// convenience: there is nothing to do afterwards.
    pub(super) fn retry(&mut self, turn: &mut Turn<'_, M>) -> bool {
        if turn.now < self.retry_at {
            return false;
        }
        self.retry_at = crate::time::Time::NEVER;
        let up = self.up();
        let in_sync = self
            .config
            .as_ref()
            .map_or(MemberSet::EMPTY, |config| config.in_sync);
        for view in turn.data.views() {
            let stalled = view.stalled.intersection(view.pending);
            if stalled.is_empty() || view.failed {
                continue;
            }
            let targets = stalled.intersection(up);
            if view.op == Op::Read && targets.is_empty() {
                if let Some(other) = in_sync.intersection(up).iter().next() {
                    if let Some(sending) = turn.data.redirect(view.ticket, other) {
                        turn.out.act(Action::Resend(sending));
                    }
                    continue;
                }
            }
            for id in targets {
                turn.data.stall(view.ticket, id, false);
            }
            if let Some(sending) = turn.data.again(view.ticket, targets) {
                if !targets.is_empty() {
                    turn.out.act(Action::Resend(sending));
                }
            }
        }
        false
    }
}
