// SPDX-License-Identifier: GPL-2.0

//! Commands of the administrator. One at a time; each is answered, in bounded time.

use super::coordinator::Coordinator;
use super::coordinator::Pending;
use super::coordinator::Phase;
use super::coordinator::Turn;
use super::peer::Step;
use super::Action;
use super::Admin;
use super::Failure;
use super::Refusal;
use crate::memory::Memory;
use crate::time::Nanos;
use crate::time::Time;
use crate::time::MILLISECOND;
use rmr_proto::Control;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::Reply;

/// Pause before a command is tried again.
const AGAIN: Nanos = 50 * MILLISECOND;

impl<M: Memory> Coordinator<M> {
    pub(super) fn command(&mut self, command: Admin, turn: &mut Turn<'_, M>) {
        let answer = match command {
            Admin::OnNoData(choice) => {
                if let Some(options) = &mut self.options {
                    options.on_no_data = choice;
                }
                if self.is_held() {
                    self.hold(turn);
                }
                Ok(())
            }
            Admin::IoTimeout(span) => {
                if let Some(options) = &mut self.options {
                    options.io_timeout = span;
                }
                Ok(())
            }
            Admin::Discard(id) => {
                if let Some(peer) = self.peer(id) {
                    peer.discard = true;
                    peer.next_try = Time(0);
                }
                Ok(())
            }
            Admin::Force { lost, history } => {
                if let Phase::Waiting(_) = self.phase {
                    self.force = Some((lost, history));
                    self.phase = Phase::Waiting(turn.now);
                    Ok(())
                } else {
                    Err(Refusal::NotNow)
                }
            }
            Admin::Add(_)
            | Admin::Replace(_)
            | Admin::Invalidate(_)
            | Admin::Remove(_)
            | Admin::Maintenance(..) => {
                let possible =
                    self.admin.is_none() && matches!(self.phase, Phase::Serving | Phase::Change(_));
                if possible {
                    self.admin = Some(Pending {
                        command,
                        deadline: turn.now.after(self.io_timeout().saturating_mul(2)),
                        try_at: Time(0),
                        checked: false,
                    });
                    return;
                }
                Err(Refusal::NotNow)
            }
        };
        turn.out.act(Action::Admin(answer));
    }

    fn is_held(&self) -> bool {
        self.config.is_some()
            && matches!(
                self.phase,
                Phase::Waiting(_)
                    | Phase::Querying
                    | Phase::Promising
                    | Phase::Relaying(_)
                    | Phase::Installing
            )
    }

    /// Answers the command that is pending, if there is one.
    pub(super) fn answer_admin(&mut self, answer: Result<(), Refusal>, turn: &mut Turn<'_, M>) {
        if self.admin.take().is_some() {
            turn.out.act(Action::Admin(answer));
        }
    }

    /// Goes on with the command that is pending. True if a change began.
    pub(super) fn advance_admin(&mut self, turn: &mut Turn<'_, M>) -> bool {
        let Some(pending) = self.admin else {
            return false;
        };
        if turn.now >= pending.deadline {
            self.answer_admin(Err(Refusal::TimedOut), turn);
            return false;
        }
        if turn.now < pending.try_at {
            return false;
        }
        if let Some(pending) = &mut self.admin {
            pending.try_at = turn.now.after(AGAIN);
        }
        if !pending.checked {
            match self.check(pending.command, turn) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(refusal) => {
                    self.answer_admin(Err(refusal), turn);
                    return false;
                }
            }
        }
        self.begin_edit(pending.command, turn)
    }

    /// Whether a command makes sense; `false`: a store must be looked at first.
    fn check(&mut self, command: Admin, turn: &mut Turn<'_, M>) -> Result<bool, Refusal> {
        let Some(config) = &self.config else {
            return Err(Refusal::NotNow);
        };
        let last = |id| config.in_sync.without(id).is_empty();
        match command {
            Admin::Add(id) | Admin::Replace(id) => {
                let known = config.store(id).is_some();
                if known != matches!(command, Admin::Replace(_)) {
                    return Err(if known {
                        Refusal::Already(id)
                    } else {
                        Refusal::NotMember(id)
                    });
                }
                if last(id) {
                    return Err(Refusal::LastCopy(id));
                }
                let name = self.options.as_ref().map(|o| o.name);
                let idle = self.peer(id).is_some_and(|peer| peer.call.is_none());
                if idle {
                    let message = name.map(|name| Control::Query { name });
                    self.send(id, Step::AdminQuery, message, turn);
                }
                Ok(false)
            }
            Admin::Remove(id) | Admin::Invalidate(id) | Admin::Maintenance(id, true)
                if last(id) =>
            {
                Err(Refusal::LastCopy(id))
            }
            Admin::Remove(id) | Admin::Invalidate(id) | Admin::Maintenance(id, _)
                if config.store(id).is_none() =>
            {
                Err(Refusal::NotMember(id))
            }
            Admin::Maintenance(id, on) if config.maintenance.contains(id) == on => {
                Err(Refusal::Already(id))
            }
            _ => Ok(true),
        }
    }

    pub(super) fn admin_queried(
        &mut self,
        id: MemberId,
        result: Result<&Reply<'_>, Failure>,
        turn: &mut Turn<'_, M>,
    ) {
        let Some(pending) = &self.admin else { return };
        if pending.command != Admin::Add(id) && pending.command != Admin::Replace(id) {
            return;
        }
        let report = result
            .ok()
            .filter(|reply| reply.status.is_ok())
            .and_then(|reply| reply.report.as_ref());
        // Without an answer it is asked again, until the command has taken too long.
        let Some(report) = report else { return };
        if let Err(refusal) = self.fits(id, report) {
            self.answer_admin(Err(refusal), turn);
            return;
        }
        self.learn(id, result);
        if let Some(pending) = &mut self.admin {
            pending.checked = true;
            pending.try_at = turn.now;
        }
    }

    /// Whether a store can be put into the table.
    fn fits(&self, id: MemberId, report: &MemberReport) -> Result<(), Refusal> {
        let Some(config) = &self.config else {
            return Err(Refusal::NotNow);
        };
        if report.member != id {
            return Err(Refusal::NotMember(id));
        }
        if !report.pool.is_nil() && report.pool != self.pool {
            return Err(Refusal::Pool(id));
        }
        match config.member_of(&report.store) {
            Some(other) if other == id => return Err(Refusal::Already(id)),
            Some(_) => return Err(Refusal::SameStore(id)),
            None => {}
        }
        // A store that was in the table before: what it has is not to be trusted, but belongs to this pool.
        let blocks = self
            .limits
            .is_some_and(|limits| report.limits.logical_block <= limits.logical_block);
        if self.geometry != Some(report.geometry) || !blocks {
            return Err(Refusal::Geometry(id));
        }
        Ok(())
    }
}
