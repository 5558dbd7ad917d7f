// SPDX-License-Identifier: GPL-2.0

//! A change of what a member has on disk: which stages it goes through, and what is written in each (R11, R12, R14).
//!
//! Not here: what a change is for (`control`, `resync`), and when it begins (`member`).

use super::member::Life;
use super::member::Member;
use super::records::RecordId;
use super::report::own_suspects;
use super::report::reply;
use super::shared::FlushMark;
use super::shared::Serving;
use super::shared::Shared;
use super::Action;
use super::Out;
use crate::admission::Identity;
use crate::memory::Memory;
use crate::planted::on;
use crate::planted::Bug;
use rmr_proto::Crc32c;
use rmr_proto::Kind;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Status;
use rmr_proto::Uuid;

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Goal {
    /// A new incarnation.
    Start,
    /// A client has the promise of a generation.
    Promise,
    /// A configuration counts.
    Install,
    /// Marks of clients are on disk.
    Merge,
    /// The client left in order.
    Detach,
    /// Extents that are waited for are in the log.
    Log,
    /// What was fetched of bitmaps is on disk.
    Fetched,
    /// What was pulled is stable.
    Prove,
    /// What could not be read and was written is off the list.
    Rewritten,
}

/// Where a plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    Assign,
    Drain,
    Flush,
    Pages,
    Epoch,
    Log,
    Commit,
}

impl Stage {
    /// The stage after this one.
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Assign => Self::Drain,
            Self::Drain => Self::Flush,
            Self::Flush => Self::Pages,
            Self::Pages => Self::Epoch,
            Self::Epoch => Self::Log,
            Self::Log | Self::Commit => Self::Commit,
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pending {
    Nothing,
    /// The superblock is being written with this UUID.
    Assign(Uuid),
    Drain,
    Flush(FlushMark),
    /// A copy of a record is being written.
    Meta(RecordId, u16),
}

/// A change under way.
#[derive(Clone, Debug, Hash)]
pub(super) struct Plan {
    pub(super) goal: Goal,
    pub(super) stage: Stage,
    /// Whom to answer.
    pub(super) call: Option<(u64, Kind)>,
    /// An episode begins with it.
    pub(super) joins: bool,
    /// The pool that the store is to belong to.
    pub(super) assign: Option<Uuid>,
    /// Wait for what runs.
    pub(super) drain: bool,
    /// Flush the store.
    pub(super) flush: bool,
    /// Write changed pages of bitmaps.
    pub(super) pages: bool,
    /// Write the epoch record even if nothing in it changed.
    pub(super) epoch: bool,
    /// Write the list of unreadable sectors.
    pub(super) list: bool,
    /// Write changed pages of the log.
    pub(super) log: bool,
    /// An extent came into the log.
    pub(super) admitted: bool,
    /// Every chunk of the own copy is dirty.
    pub(super) fill: bool,
    /// Members whose bitmaps are empty with the new epoch record.
    pub(super) emptied: MemberSet,
    /// Next page of a bitmap to look at: index of the member, page.
    pub(super) cursor: (usize, usize),
}

impl Plan {
    /// A plan that does nothing yet.
    pub(super) const fn new(goal: Goal) -> Self {
        let background = matches!(goal, Goal::Merge | Goal::Fetched);
        Self {
            goal,
            stage: Stage::Assign,
            call: None,
            joins: false,
            assign: None,
            drain: false,
            flush: false,
            pages: background,
            epoch: false,
            list: false,
            log: false,
            admitted: false,
            fill: false,
            emptied: MemberSet::EMPTY,
            cursor: (0, 0),
        }
    }

    /// The first plan of a member: the new incarnation, which also says what is suspect, then what was found damaged.
    pub(super) const fn start() -> Self {
        let mut plan = Self::new(Goal::Start);
        plan.epoch = true;
        plan.log = true;
        plan.stage = Stage::Epoch;
        plan
    }

    /// Whether a client waits for it, and other clients' changes have to.
    pub(super) const fn is_change(&self) -> bool {
        matches!(self.goal, Goal::Promise | Goal::Install | Goal::Detach)
    }
}

impl<M: Memory, C: Crc32c> Member<M, C> {
    /// Does the next step of the plan; `false` if it has to wait for something.
    #[inline(never)]
    pub(super) fn step<J>(&mut self, shared: &Shared<M, J>, out: &mut impl Out) -> bool {
        let Some(plan) = &mut self.plan else {
            return false;
        };
        let stage = plan.stage;
        match stage {
            Stage::Assign => {
                if let Some(pool) = plan.assign {
                    self.pending = Pending::Assign(pool);
                    plan.stage = Stage::Drain;
                    out.act(Action::AssignPool(pool));
                    return true;
                }
            }
            Stage::Drain => {
                if plan.drain {
                    plan.drain = false;
                    self.pending = Pending::Drain;
                    out.act(Action::Drain);
                    return true;
                }
                // What was pulled is still being written.
                if plan.is_change() && self.serving.is_none() && self.resync.writing() {
                    return false;
                }
            }
            Stage::Flush => {
                if plan.flush {
                    plan.flush = false;
                    self.pending = Pending::Flush(shared.begin_flush());
                    out.act(Action::Flush);
                    return true;
                }
                self.prepare_pages(shared);
            }
            Stage::Pages => {
                if self.write_list(shared, out) || self.write_page(shared, out) {
                    return true;
                }
            }
            Stage::Epoch => {
                if plan.goal == Goal::Promise && on(Bug::PromiseUnwritten) {
                    self.record.clone_from(&self.next);
                }
                if plan.epoch || *self.next != *self.record {
                    plan.epoch = false;
                    plan.stage = Stage::Epoch;
                    self.write(RecordId::Epoch, shared, out);
                    return true;
                }
                self.prepare_log(shared);
            }
            Stage::Log => {
                // That it was damaged is on disk before it is whole again.
                if plan.goal == Goal::Start && plan.list {
                    return self.write_list(shared, out);
                }
                if plan.log && !on(Bug::LogUnwritten) {
                    if let Some(page) = self.log.take_changed() {
                        self.write(RecordId::Log(page), shared, out);
                        return true;
                    }
                }
            }
            Stage::Commit => {
                self.commit(shared, out);
                return true;
            }
        }
        if let Some(plan) = &mut self.plan {
            plan.stage = stage.next();
        }
        true
    }

    /// Before pages of bitmaps are written: what is to be in them, and which bitmaps they make whole.
    fn prepare_pages<J>(&mut self, shared: &Shared<M, J>) {
        let Some(plan) = &mut self.plan else {
            return;
        };
        let own = self.info.member;
        let bitmaps = &shared.bitmaps;
        plan.cursor = (0, 0);
        if plan.goal == Goal::Install && plan.joins {
            if plan.fill {
                bitmaps.fill(MemberSet::only(own));
            }
            let config = self.next.installed.as_ref();
            let taken = config.filter(|config| config.in_sync.contains(own));
            let behind = self.record.installed.as_ref().filter(|last| {
                !last.in_sync.contains(own) && taken.is_some_and(|c| c.history != last.history)
            });
            if behind.is_some() && !self.resync.was_told() && !on(Bug::ForceUntold) {
                bitmaps.fill(MemberSet::only(own));
            }
            if let Some(config) = taken.filter(|_| bitmaps.count(own) != 0) {
                // Only a forced start takes who is behind for in sync. What it missed is right from now on, and those who
                // have it differ. If it was not told yet what that is, it may be anything.
                for other in config.table().minus(config.in_sync) {
                    bitmaps.collect(other, MemberSet::only(own));
                }
            }
            if let Some(config) = config.filter(|config| config.catching_up.contains(own)) {
                // What it knows the others missed is what differs between them and itself (finding 16).
                if !on(Bug::ForgetMissedByOthers) {
                    bitmaps.collect(own, config.in_sync);
                }
                let all = self.record.suspect_all;
                if all {
                    bitmaps.fill(MemberSet::only(own));
                }
                if !on(Bug::JoinWithoutSuspects) {
                    let suspect = self.log_suspect || shared.has_failed();
                    own_suspects(&self.log, suspect, shared, |run| {
                        bitmaps.mark(MemberSet::only(own), run.range());
                    });
                }
            }
        }
        if plan.goal == Goal::Start {
            return;
        }
        // From its first page on.
        self.next.unreadable |= plan.list;
        if plan.pages {
            let full = bitmaps.full().minus(plan.emptied);
            let changed = MemberId::all().filter(|id| bitmaps.is_changed(*id));
            let whole = self.record.bitmaps.union(changed.collect());
            self.next.all_dirty = full;
            self.next.bitmaps = whole.minus(full).minus(plan.emptied);
            for member in self.next.bitmaps.minus(self.record.bitmaps) {
                bitmaps.touch(member);
            }
        }
    }

    /// Writes the list of unreadable sectors if that is to be written.
    fn write_list<J>(&mut self, shared: &Shared<M, J>, out: &mut impl Out) -> bool {
        let Some(plan) = self.plan.as_mut().filter(|plan| plan.list) else {
            return false;
        };
        plan.list = false;
        shared.unreadable.settle();
        self.write(RecordId::Unreadable, shared, out);
        true
    }

    /// Writes the next changed page of a bitmap that counts; `false` if there is none.
    fn write_page<J>(&mut self, shared: &Shared<M, J>, out: &mut impl Out) -> bool {
        let Some(plan) = &mut self.plan else {
            return false;
        };
        if !plan.pages || on(Bug::NoPages) {
            return false;
        }
        let (index, from) = plan.cursor;
        for member in self.next.bitmaps {
            if member.index() < index {
                continue;
            }
            let from = if member.index() == index { from } else { 0 };
            if let Some(page) = shared.bitmaps.take_changed(member, from) {
                plan.cursor = (member.index(), page + 1);
                self.write(RecordId::Bitmap(member, page), shared, out);
                return true;
            }
        }
        false
    }

    /// After the epoch record: what leaves the log, and what comes into it.
    fn prepare_log<J>(&mut self, shared: &Shared<M, J>) {
        let suspect = self.is_suspect(shared);
        let Some(plan) = &mut self.plan else {
            return;
        };
        match plan.goal {
            Goal::Install if plan.joins => {
                // The configuration carries the suspects, and it is on disk.
                shared.begin_episode();
                self.log.clear(&shared.extents);
                self.log_suspect = false;
            }
            Goal::Detach => self.log.clear(&shared.extents),
            Goal::Log => {
                if !self.log.has_room() && !suspect {
                    self.log.evict(&shared.extents, shared.stable());
                }
                plan.admitted = self.log.admit(&shared.extents);
            }
            _ => {}
        }
    }

    /// Writes the first copy of a record; the second follows.
    fn write<J>(&mut self, id: RecordId, shared: &Shared<M, J>, out: &mut impl Out) {
        let Some(page) = self.pages.first_mut() else {
            return self.die(Status::NoMemory, out);
        };
        let written = self.records.first(
            id,
            &self.next,
            &self.log,
            &shared.bitmaps,
            &shared.unreadable,
            page,
        );
        match written {
            Ok(offset) => {
                self.pending = Pending::Meta(id, 0);
                out.act(Action::WriteMeta {
                    offset,
                    bytes: page,
                });
            }
            Err(_) => self.die(Status::Invalid, out),
        }
    }

    pub(super) fn meta_done(&mut self, result: Result<(), Status>, out: &mut impl Out) {
        let pending = core::mem::replace(&mut self.pending, Pending::Nothing);
        if let Err(status) = result {
            return self.die(status, out);
        }
        match pending {
            Pending::Assign(pool) => self.info.pool = pool,
            Pending::Meta(id, 0) if !on(Bug::OneCopy) => {
                let Some(page) = self.pages.first_mut() else {
                    return self.die(Status::NoMemory, out);
                };
                match self.records.second(id, page) {
                    Ok(offset) => {
                        self.pending = Pending::Meta(id, 1);
                        out.act(Action::WriteMeta {
                            offset,
                            bytes: page,
                        });
                    }
                    Err(_) => self.die(Status::Invalid, out),
                }
            }
            Pending::Meta(RecordId::Epoch, _) => self.record.clone_from(&self.next),
            Pending::Meta(..) | Pending::Nothing => {}
            other => self.pending = other,
        }
    }

    pub(super) fn flushed<J>(
        &mut self,
        result: Result<(), Status>,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        let Pending::Flush(mark) = self.pending else {
            return;
        };
        self.pending = Pending::Nothing;
        let status = shared.end_flush(mark, result.err().unwrap_or(Status::Ok));
        if status.is_ok() {
            return;
        }
        // What was not stable may be gone, with writes the client counts on.
        if !on(Bug::SurviveFailedFlush) {
            self.die(status, out);
        }
    }

    /// All of the plan is on disk.
    fn commit<J>(&mut self, shared: &Shared<M, J>, out: &mut impl Out) {
        let Some(plan) = self.plan.take() else {
            return;
        };
        match plan.goal {
            Goal::Start => {
                self.life = Life::Up;
                if on(Bug::IgnoreRestart) {
                    self.log.clear(&shared.extents);
                    self.log_suspect = false;
                    self.installed(&plan, shared, out);
                }
            }
            Goal::Install => self.installed(&plan, shared, out),
            Goal::Merge => {
                let covered = self.merges.iter_mut();
                for call in covered.filter(|call| call.is_some_and(|(_, covered)| covered)) {
                    if let Some((call, _)) = call.take() {
                        reply(out, call, Kind::Merge, Status::Ok);
                    }
                }
            }
            Goal::Log => {
                self.log.commit(&shared.extents);
                // Those that found no room ask again, and are told so if nobody else found any.
                out.act(if plan.admitted || !shared.extents.any_wanted() {
                    Action::Retry
                } else {
                    Action::LogFull
                });
                shared.extents.forget_wanted();
            }
            Goal::Fetched => self.resync.fetched(),
            Goal::Prove => self.proved(shared, out),
            Goal::Rewritten => {
                shared.unreadable.end_leaving();
                out.act(Action::Retry);
            }
            Goal::Promise | Goal::Detach => {}
        }
        self.end(&plan, Status::Ok, shared, out);
    }

    fn installed<J>(&mut self, plan: &Plan, shared: &Shared<M, J>, out: &mut impl Out) {
        shared.bitmaps.empty(plan.emptied);
        let own = self.info.member;
        let Some(config) = &self.record.installed else {
            return;
        };
        let identity = Identity {
            pool: self.info.pool,
            member: own,
            incarnation: self.record.incarnation,
            generation: config.generation,
            epoch: config.epoch,
        };
        self.serving = config.receivers().contains(own).then(|| Serving {
            identity,
            absent: config.table().minus(config.receivers()),
            in_sync: config.in_sync.contains(own),
        });
        let catching_up = config.catching_up.contains(own);
        if plan.joins && catching_up {
            let others = config.table().minus(config.in_sync);
            self.resync.begin(if on(Bug::FetchOnlyOwn) {
                MemberSet::only(own)
            } else {
                others
            });
        } else if catching_up {
            self.resync.stay(config.receivers());
        } else {
            self.resync.leave(shared);
        }
        out.act(Action::Serve(self.serving));
    }

    /// Answers the message that a plan was for.
    fn end<J>(&mut self, plan: &Plan, status: Status, shared: &Shared<M, J>, out: &mut impl Out) {
        if let Some((call, kind)) = plan.call {
            self.reply_report(call, kind, status, shared, out);
        }
        if plan.is_change() {
            out.act(Action::Retry);
        }
    }
}
