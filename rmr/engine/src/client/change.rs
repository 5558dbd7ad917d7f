// SPDX-License-Identifier: GPL-2.0

//! From one epoch to the next (rule R6).
//!
//! | goal | gate | before the install | install |
//! | --- | --- | --- | --- |
//! | drop | frozen | chunks of all writes in flight into D of all who will not be receivers | in sync, then the others |
//! | join x | shut, drained | suspects of x into D of all who are not in sync | all receivers, x too |
//! | promote x | shut, drained | | x, then the others |
//! | edit of the table | frozen | as a drop; all chunks into D of a new store | in sync, then the others |
//!
//! The writes in flight do not change while frozen, so their chunks can be computed again for each attempt, and
//! those of a write that a dropped member did acknowledge do no harm.
//!
//! A new configuration is derived from the last *complete* one, whatever was installed here and there since, and has a
//! number that was never used. An attempt that fails after an install was sent is followed by a drop of whoever
//! failed, and of x; before that, the gate is just opened again.
//!
//! Who stays in sync is asked before all others, as it may have restarted unnoticed: then it refuses, nobody has the
//! configuration, and who was to leave, and may alone have all data, is in sync by all that is installed anywhere.
//!
//! With `quorum=majority` a configuration counts when a majority of its voters has it, and of those before; members that are no receivers
//! but have promised the generation are asked to keep it, too.

use super::coordinator::Coordinator;
use super::coordinator::Phase;
use super::coordinator::Turn;
use super::decide::is_majority;
use super::flights::View;
use super::Admin;
use super::Refusal;
use crate::memory::Memory;
use crate::planted::on;
use crate::planted::Bug;
use crate::time::Nanos;
use crate::time::Time;
use crate::time::MILLISECOND;
use crate::time::SECOND;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::Incarnation;
use rmr_proto::Mark;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Quorum;
use rmr_proto::Run;

/// How long requests may take to end before a member joins, or is in sync.
const DRAIN: Nanos = 200 * MILLISECOND;
/// Until it is looked again whether a member can be in sync, after it could not.
const PAUSE: Nanos = SECOND;

/// What a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Goal {
    Drop,
    Join(MemberId),
    Promote(MemberId),
    Edit(Admin),
}

/// What is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Requests are to end, at most until then.
    Drain(Time),
    /// Marks that do not come from requests: suspects, or all of a new store.
    Suspects,
    /// Marks of requests; from this tag on they are still to be sent.
    Lists(usize),
    /// The installs that come before all others.
    First,
    /// The other ones.
    Install,
    /// The connections of those that were dropped are to be closed.
    Close,
}

/// A change that is under way.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Change {
    goal: Goal,
    stage: Stage,
    /// These were sent an install.
    asked: MemberSet,
}

impl Change {
    pub(super) fn time(&self) -> Time {
        match self.stage {
            Stage::Drain(until) => until,
            _ => Time::NEVER,
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        matches!(self.stage, Stage::Drain(_))
    }
}

impl<M: Memory> Coordinator<M> {
    /// A member cannot stay a receiver.
    pub(super) fn lose(&mut self, id: MemberId) {
        let receiver = self
            .config
            .as_ref()
            .is_some_and(|config| config.receivers().contains(id));
        match self.phase {
            Phase::Serving if receiver => self.dropping = self.dropping.with(id),
            Phase::Change(change) if receiver && change.is_draining() => {
                self.dropping = self.dropping.with(id);
            }
            _ => {}
        }
    }

    /// Freezes, and drops who is to be dropped.
    pub(super) fn begin_drop(&mut self, turn: &mut Turn<'_, M>) -> bool {
        let Some(config) = &self.config else {
            return false;
        };
        let receivers = config.receivers();
        turn.data.shut(true);
        self.awaiting = MemberSet::EMPTY;
        // Copies of a request that failed for good must be back before it ends.
        let out: MemberSet = turn
            .data
            .views()
            .filter(|view| view.failed)
            .map(|view| view.pending.minus(view.stalled))
            .fold(MemberSet::EMPTY, MemberSet::union);
        self.dropping = self
            .dropping
            .union(out)
            .union(receivers.minus(self.up()))
            .intersection(receivers);
        self.part_with(self.dropping, turn);
        self.begin(Goal::Drop, turn)
    }

    /// No message goes to these any more, and none of theirs counts.
    fn part_with(&mut self, members: MemberSet, turn: &mut Turn<'_, M>) {
        let longest = self.options.as_ref().map_or(0, |o| o.max_backoff);
        for id in members {
            self.close(id, turn);
            let now = turn.now;
            if let Some(peer) = self.peer(id) {
                peer.call = None;
                peer.promised = false;
                peer.back_off(now, longest);
            }
        }
    }

    /// Lets requests end, then takes a member in. False if that cannot be now.
    pub(super) fn begin_join(&mut self, id: MemberId, turn: &mut Turn<'_, M>) -> bool {
        if !self.all_up() {
            return false;
        }
        self.begin_drain(Goal::Join(id), turn);
        true
    }

    /// Lets requests end, then lets a member be in sync. False if that cannot be now.
    ///
    /// It may have pulled what a write that is in flight has written elsewhere, without having got that write: it would be in sync
    /// with a content of which it has no mark for those who are absent.
    pub(super) fn begin_promote(&mut self, id: MemberId, turn: &mut Turn<'_, M>) -> bool {
        if !self.all_up() {
            return false;
        }
        self.begin_drain(Goal::Promote(id), turn);
        true
    }

    fn begin_drain(&mut self, goal: Goal, turn: &mut Turn<'_, M>) {
        turn.data.shut(on(Bug::NoDrain));
        self.failed = MemberSet::EMPTY;
        self.phase = Phase::Change(Change {
            goal,
            stage: Stage::Drain(turn.now.after(DRAIN)),
            asked: MemberSet::EMPTY,
        });
    }

    /// Freezes, and changes the table. False if that cannot be now.
    pub(super) fn begin_edit(&mut self, command: Admin, turn: &mut Turn<'_, M>) -> bool {
        if !self.all_up() {
            return false;
        }
        let leaves = leaver(command).map_or(MemberSet::EMPTY, MemberSet::only);
        // What could not count is refused, before anything waits for it.
        let counts = self.derive(Goal::Edit(command)).is_some_and(|next| {
            let all = next.receivers().union(self.witnesses(&next));
            self.counts(&next, all.minus(leaves))
        });
        if !counts {
            self.answer_admin(Err(Refusal::NoMajority(leaves)), turn);
            return false;
        }
        turn.data.shut(true);
        if !on(Bug::LeaverStays) {
            self.part_with(leaves, turn);
        }
        self.begin(Goal::Edit(command), turn)
    }

    fn all_up(&self) -> bool {
        let up = self.up();
        self.config
            .as_ref()
            .is_some_and(|config| config.receivers().is_subset(up))
    }

    /// Begins with the marks of an attempt.
    #[inline(never)]
    fn begin(&mut self, goal: Goal, turn: &mut Turn<'_, M>) -> bool {
        self.failed = MemberSet::EMPTY;
        self.not_ready = false;
        // Not through a variable: configurations are large, and a kernel's stack is not.
        self.next = self.derive(goal);
        let Some(next) = self.next.as_ref().filter(|next| self.can_count(next)) else {
            self.suspend(turn);
            return true;
        };
        self.used = next.epoch;
        let stage = match goal {
            Goal::Drop => Stage::Lists(0),
            Goal::Join(_) | Goal::Edit(_) => Stage::Suspects,
            Goal::Promote(_) => Stage::First,
        };
        self.phase = Phase::Change(Change {
            goal,
            stage,
            asked: MemberSet::EMPTY,
        });
        true
    }

    /// The configuration after the last complete one. `None` if nobody in sync would be left.
    fn derive(&self, goal: Goal) -> Option<Config> {
        let base = if on(Bug::DeriveFromUnfinished) {
            self.next.as_ref().or(self.config.as_ref())
        } else {
            self.config.as_ref()
        };
        let mut next = base?.clone();
        let number = if on(Bug::ReuseEpoch) {
            next.epoch.next()?
        } else {
            self.used.next()?
        };
        next.clean = false;
        // What is followed is complete, so all of its receivers have it.
        for id in next.receivers() {
            if let Some(place) = next.persisted.get_mut(id.index()) {
                *place = next.epoch;
            }
        }
        next.epoch = number;
        next.in_sync = next.in_sync.minus(self.dropping);
        next.catching_up = next.catching_up.minus(self.dropping);
        match goal {
            Goal::Drop => {}
            Goal::Join(id) => {
                let report = self.peers.get(id.index())?.report.as_ref()?;
                next.catching_up = next.catching_up.with(id);
                if on(Bug::AcceptOtherStore) {
                    *next.members.get_mut(id.index())? = Some(report.store);
                }
                *next.incarnations.get_mut(id.index())? = report.incarnation;
            }
            Goal::Promote(id) => {
                next.catching_up = next.catching_up.without(id);
                next.in_sync = next.in_sync.with(id);
            }
            Goal::Edit(command) => self.edit(command, &mut next)?,
        }
        (!next.in_sync.is_empty()).then_some(next)
    }

    fn edit(&self, command: Admin, next: &mut Config) -> Option<()> {
        let leaves = |next: &mut Config, id: MemberId| {
            next.in_sync = next.in_sync.without(id);
            next.catching_up = next.catching_up.without(id);
        };
        match command {
            Admin::Add(id) | Admin::Replace(id) => {
                leaves(next, id);
                let report = self.peers.get(id.index())?.report.as_ref()?;
                *next.members.get_mut(id.index())? = Some(report.store);
                *next.incarnations.get_mut(id.index())? = Incarnation::NONE;
                *next.persisted.get_mut(id.index())? = Epoch::NONE;
            }
            Admin::Remove(id) => {
                leaves(next, id);
                *next.members.get_mut(id.index())? = None;
                *next.incarnations.get_mut(id.index())? = Incarnation::NONE;
                *next.persisted.get_mut(id.index())? = Epoch::NONE;
                next.maintenance = next.maintenance.without(id);
            }
            Admin::Maintenance(id, true) => {
                leaves(next, id);
                next.maintenance = next.maintenance.with(id);
            }
            Admin::Invalidate(id) => leaves(next, id),
            Admin::Maintenance(id, false) => next.maintenance = next.maintenance.without(id),
            Admin::Discard(_) | Admin::Force { .. } | Admin::OnNoData(_) | Admin::IoTimeout(_) => {
                return None
            }
        }
        Some(())
    }

    /// Members that are no receivers, and can keep a configuration.
    fn witnesses(&self, next: &Config) -> MemberSet {
        if next.quorum == Quorum::Off {
            return MemberSet::EMPTY;
        }
        MemberId::all()
            .zip(self.peers.iter())
            .filter(|(id, peer)| peer.promised && self.has_pool(*id))
            .map(|(id, _)| id)
            .collect::<MemberSet>()
            .intersection(self.up())
            .intersection(next.table())
            .minus(next.receivers())
            .minus(self.dropping)
    }

    /// Whether these members suffice for a configuration to count.
    fn counts(&self, next: &Config, members: MemberSet) -> bool {
        let old = self.config.as_ref().map_or(members, Config::voters);
        next.quorum == Quorum::Off
            || on(Bug::NoMajority)
            || (is_majority(members, next.voters()) && is_majority(members, old))
    }

    fn can_count(&self, next: &Config) -> bool {
        self.counts(next, next.receivers().union(self.witnesses(next)))
    }

    #[inline(never)]
    pub(super) fn advance_change(&mut self, change: Change, turn: &mut Turn<'_, M>) -> bool {
        let mut asked = change.asked;
        let stage = match change.stage {
            Stage::Drain(until) => return self.drain(change, until, turn),
            _ if self.is_hopeless(change) => return self.attempt_failed(change, turn),
            Stage::Suspects => {
                self.tell_suspects(change.goal, turn);
                match change.goal {
                    Goal::Join(_) if !on(Bug::NoDrain) => Stage::First,
                    _ => Stage::Lists(0),
                }
            }
            Stage::Lists(tag) => {
                if let Some(tag) = self.tell_lists(tag, turn) {
                    Stage::Lists(tag)
                } else {
                    Stage::First
                }
            }
            Stage::First => {
                asked = self.first(change.goal);
                self.install(asked, change.goal, turn);
                Stage::Install
            }
            Stage::Install => {
                let keepers = self.keepers();
                self.install(keepers.minus(asked), change.goal, turn);
                asked = asked.union(keepers);
                Stage::Close
            }
            Stage::Close => {
                if !self.closing.is_empty() {
                    return false;
                }
                return self.complete(change.goal, turn);
            }
        };
        self.phase = Phase::Change(Change {
            goal: change.goal,
            stage,
            asked,
        });
        true
    }

    fn is_hopeless(&self, change: Change) -> bool {
        let Some(next) = &self.next else { return true };
        let receivers = next.receivers();
        if change.stage != Stage::Close {
            return !self.failed.intersection(receivers).is_empty();
        }
        // Who has promised since has not been asked.
        !self.failed.intersection(receivers).is_empty()
            || !self.counts(next, change.asked.minus(self.failed))
    }

    fn drain(&mut self, change: Change, until: Time, turn: &mut Turn<'_, M>) -> bool {
        let (Goal::Join(id) | Goal::Promote(id)) = change.goal else {
            return false;
        };
        if self.leave || !self.dropping.is_empty() || self.write_failed {
            return self.begin_drop(turn);
        }
        let busy = |view: View| view.op != Op::Read;
        if turn.data.views().any(busy) && !on(Bug::NoDrain) {
            if turn.now >= until {
                match change.goal {
                    Goal::Join(_) => self.give_up(Some(id), turn),
                    _ => {
                        self.not_yet_in_sync(id, turn);
                        let now = turn.now;
                        if let Some(peer) = self.peer(id) {
                            peer.ping_at = now.after(PAUSE);
                        }
                    }
                }
                return true;
            }
            return self.retry(turn);
        }
        self.begin(change.goal, turn)
    }

    /// A member stays one that catches up, until it is asked again.
    fn not_yet_in_sync(&mut self, id: MemberId, turn: &mut Turn<'_, M>) {
        if let Some(peer) = self.peer(id) {
            peer.ready = false;
        }
        self.give_up(None, turn);
    }

    /// Back to the configuration in force.
    fn give_up(&mut self, join: Option<MemberId>, turn: &mut Turn<'_, M>) {
        let longest = self.options.as_ref().map_or(0, |o| o.max_backoff);
        if let Some(id) = join {
            let now = turn.now;
            if let Some(peer) = self.peer(id) {
                peer.back_off(now, longest);
            }
        }
        self.next = None;
        self.failed = MemberSet::EMPTY;
        self.open(false, turn);
    }

    /// Somebody did not do as told.
    fn attempt_failed(&mut self, change: Change, turn: &mut Turn<'_, M>) -> bool {
        let failed = self.failed;
        let installed = !change.asked.is_empty();
        let subject = match change.goal {
            Goal::Join(id) | Goal::Promote(id) => Some(id),
            Goal::Drop => None,
            Goal::Edit(command) => {
                self.answer_admin(Err(Refusal::Missing(failed)), turn);
                if let Some(id) = leaver(command).filter(|_| !on(Bug::LeaverStays)) {
                    // Who was told that it is out suffices for another client to start without it: it must not be the one
                    // that this client goes on with.
                    self.dropping = self.dropping.with(id);
                }
                None
            }
        };
        let others = subject.map_or(failed, |id| failed.without(id));
        if let Some(id) = subject {
            // A promotion that was refused changed nothing.
            let refused = matches!(change.goal, Goal::Promote(_)) && self.not_ready;
            if others.is_empty() && (!installed || refused) {
                self.not_ready = false;
                match change.goal {
                    Goal::Join(_) => self.give_up(Some(id), turn),
                    _ => self.not_yet_in_sync(id, turn),
                }
                return true;
            }
            if installed && !on(Bug::DeriveFromUnfinished) {
                // It may have been told of a configuration that is not to be. Not a receiver yet, or no more.
                self.part_with(MemberSet::only(id), turn);
                self.dropping = self.dropping.with(id);
            }
        }
        self.not_ready = false;
        self.dropping = self.dropping.union(others);
        // Those that only kept the configuration do so no more, until they have promised again.
        let receivers = self.config.as_ref().map(Config::receivers);
        self.part_with(others.minus(receivers.unwrap_or(MemberSet::EMPTY)), turn);
        self.begin_drop(turn)
    }

    /// Tells of what a change makes dirty apart from what is in flight.
    fn tell_suspects(&mut self, goal: Goal, turn: &mut Turn<'_, M>) {
        let (Some(config), Some(next)) = (&self.config, &self.next) else {
            return;
        };
        let receivers = next.receivers();
        let behind = next.table().minus(config.in_sync);
        let len = match goal {
            Goal::Join(_) if on(Bug::JoinWithoutSuspects) => 0,
            Goal::Join(id) => self.mark_suspects(id, behind),
            Goal::Edit(_) if on(Bug::NewStoreUnmarked) => 0,
            Goal::Edit(Admin::Add(id) | Admin::Replace(id) | Admin::Invalidate(id)) => {
                self.mark_all(MemberSet::only(id))
            }
            _ => 0,
        };
        for id in receivers {
            if len != 0 && self.has_pool(id) {
                self.send_marks(id, len, turn);
            }
        }
    }

    /// Tells of the chunks of writes in flight, as many as a message holds; the tag at which to go on.
    fn tell_lists(&mut self, from: usize, turn: &mut Turn<'_, M>) -> Option<usize> {
        let next = self.next.as_ref()?;
        let shift = self.geometry?.chunk_shift();
        let (table, receivers) = (next.table(), next.receivers());
        let told = if on(Bug::TellOnlyInSync) {
            next.in_sync
        } else {
            receivers
        };
        // Who catches up may have pulled what it has not been sent yet, from the member that is dropped: it is to have what the
        // others have, whether they get it or not.
        let behind = table.minus(if on(Bug::ListForAbsentOnly) {
            receivers
        } else {
            next.in_sync
        });
        // A write that failed, failed on the last member in sync: its copy is right by definition, and all others are behind.
        let mut len = 0;
        let mut more = None;
        for view in turn.data.views_from(from).filter(View::writes) {
            if behind.is_empty() || view.len == 0 || on(Bug::NoLists) {
                continue;
            }
            let first = view.offset >> shift;
            let last = (view.offset + u64::from(view.len - 1)) >> shift;
            // At most 4 MiB of chunks of at least 4 KiB.
            let mark = Mark::new(Run::new(first, (last - first + 1) as u32), behind);
            let Some(place) = self.marks.get_mut(len) else {
                more = Some(view.ticket.tag as usize);
                break;
            };
            *place = mark;
            len += 1;
        }
        for id in told {
            if len != 0 {
                self.send_marks(id, len, turn);
            }
        }
        more
    }

    /// Who is to have the next configuration.
    fn keepers(&self) -> MemberSet {
        self.next.as_ref().map_or(MemberSet::EMPTY, |next| {
            next.receivers().union(self.witnesses(next))
        })
    }

    /// Who is to have it before the others are told of it.
    fn first(&self, goal: Goal) -> MemberSet {
        match (goal, &self.next) {
            (Goal::Promote(id), _) => MemberSet::only(id),
            (Goal::Drop | Goal::Edit(_), Some(next)) => next.in_sync,
            (Goal::Join(_), _) | (_, None) => MemberSet::EMPTY,
        }
    }

    fn install(&mut self, members: MemberSet, goal: Goal, turn: &mut Turn<'_, M>) {
        for id in members {
            self.send_install(id, goal == Goal::Join(id), turn);
        }
    }

    /// Everybody has it.
    #[inline(never)]
    fn complete(&mut self, goal: Goal, turn: &mut Turn<'_, M>) -> bool {
        let Some(next) = self.next.take() else {
            return false;
        };
        self.kept = next.in_sync;
        self.config = Some(next);
        let now = turn.now;
        match goal {
            Goal::Join(id) => {
                self.assigned(MemberSet::only(id));
                if let Some(peer) = self.peer(id) {
                    peer.joined = now;
                    peer.joinable = false;
                    peer.ready = false;
                    peer.discard = false;
                    peer.noted = None;
                    peer.ping_at = now;
                }
            }
            Goal::Promote(id) => {
                if let Some(peer) = self.peer(id) {
                    peer.ready = false;
                }
            }
            Goal::Edit(command) => {
                if let Admin::Add(id)
                | Admin::Replace(id)
                | Admin::Invalidate(id)
                | Admin::Maintenance(id, false) = command
                {
                    if let Some(peer) = self.peer(id) {
                        peer.next_try = now;
                        peer.noted = None;
                    }
                }
                self.answer_admin(Ok(()), turn);
            }
            Goal::Drop => {}
        }
        self.open(false, turn);
        true
    }
}

/// The member that is to be a receiver no more.
const fn leaver(command: Admin) -> Option<MemberId> {
    match command {
        Admin::Remove(id)
        | Admin::Maintenance(id, true)
        | Admin::Replace(id)
        | Admin::Invalidate(id) => Some(id),
        _ => None,
    }
}
