// SPDX-License-Identifier: GPL-2.0

//! The attach of a client, the first one and those that end a suspension (rules R7, R8, R9, R15).
//!
//! Query all that can be reached; if they would do, let them promise a generation above all they know; decide from the
//! reports that come with the promises; tell every part the suspects of all parts; install, on those first who could
//! start without the others. Whatever fails on the way, it begins again, with a higher number.

use super::coordinator::Coordinator;
use super::coordinator::Phase;
use super::coordinator::Turn;
use super::decide::decide;
use super::decide::Candidate;
use super::decide::Decision;
use super::decide::Open;
use super::decide::Request;
use super::flights::Onward;
use super::flights::View;
use super::peer::Found;
use super::peer::Step;
use super::Action;
use super::Options;
use super::Random;
use super::Refusal;
use super::State;
use crate::memory::Memory;
use crate::planted::on;
use crate::planted::Bug;
use crate::time::Nanos;
use crate::time::Time;
use crate::time::MILLISECOND;
use crate::time::SECOND;
use rmr_proto::Control;
use rmr_proto::Epoch;
use rmr_proto::Fences;
use rmr_proto::Generation;
use rmr_proto::Mark;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Run;
use rmr_proto::Status;
use rmr_proto::Target;
use rmr_proto::MAX_LOG_EXTENTS;
use rmr_proto::MAX_MARKS;

/// Pause before an attach is tried again.
const AGAIN: Nanos = 300 * MILLISECOND;

/// Longest wait for all who are in sync, if some would do: those whose connections were closed along with the others' are to be
/// part of it.
const PATIENCE: Nanos = 2 * SECOND;

/// So often another client may be faster.
const MAX_RACES: u32 = 8;

impl<M: Memory> Coordinator<M> {
    pub(super) fn begin_attach(
        &mut self,
        options: &Options,
        random: Random,
        turn: &mut Turn<'_, M>,
    ) {
        if !matches!(self.phase, Phase::Closed) {
            return;
        }
        self.options = Some(*options);
        self.random = random;
        self.pool = options.pool;
        self.generation = Generation::NONE;
        self.used = Epoch::NONE;
        self.kept = MemberSet::EMPTY;
        self.races = 0;
        self.force = None;
        self.refusal = None;
        self.leave = false;
        turn.data.set_failing(None);
        self.phase = Phase::Waiting(turn.now);
    }

    /// Nobody in sync is left: all over again, with what is in flight.
    pub(super) fn suspend(&mut self, turn: &mut Turn<'_, M>) {
        turn.data.shut(true);
        self.all_stable = turn.data.all_stable();
        self.unflushed = MemberSet::EMPTY;
        self.held = turn.now;
        self.close_all(turn);
        self.dropping = MemberSet::EMPTY;
        self.next = None;
        self.write_failed = false;
        if self.leave {
            self.fail(State::Closed, turn);
            return;
        }
        self.answer_admin(Err(Refusal::NotNow), turn);
        self.phase = Phase::Waiting(turn.now);
        self.hold(turn);
    }

    /// Lets requests wait or fail, as the administrator wishes.
    pub(super) fn hold(&mut self, turn: &mut Turn<'_, M>) {
        let fails = self.fails_without_data() && self.config.is_some();
        turn.data.set_failing(fails.then_some(Status::Disconnected));
        if fails {
            turn.out.act(Action::Open);
        }
    }

    fn try_again(&mut self, refusal: Refusal, turn: &mut Turn<'_, M>) -> bool {
        self.refusal = Some(refusal);
        self.force = None;
        self.phase = Phase::Waiting(turn.now.after(AGAIN));
        true
    }

    /// There is nothing to start with: not now, or not for this client.
    fn undecided(&mut self, refusal: Refusal, turn: &mut Turn<'_, M>) -> bool {
        let state = match refusal {
            Refusal::Lost => State::Lost,
            Refusal::Replaced(_) => State::Fenced,
            _ => return self.try_again(refusal, turn),
        };
        self.fail(state, turn);
        true
    }

    pub(super) fn wait_over(&mut self, at: crate::time::Time, turn: &mut Turn<'_, M>) -> bool {
        if !self.closing.is_empty() {
            return false;
        }
        if self.fails_without_data() && self.config.is_some() {
            self.fail_all(Status::Disconnected, turn);
        }
        if turn.now < at {
            return false;
        }
        let Some(options) = &self.options else {
            return false;
        };
        let name = options.name;
        self.failed = MemberSet::EMPTY;
        self.phase = Phase::Querying;
        for id in MemberId::all() {
            if let Some(peer) = self.peer(id) {
                peer.report = None;
                peer.promised = false;
                peer.joinable = false;
                peer.ready = false;
            }
        }
        for id in self.up() {
            self.send(id, Step::Round, Some(Control::Query { name }), turn);
        }
        true
    }

    /// All have answered, or not: is it worth a promise?
    #[inline(never)]
    pub(super) fn queried(&mut self, turn: &mut Turn<'_, M>) -> bool {
        if self.config.is_some() && self.is_fenced() {
            self.fail(State::Fenced, turn);
            return true;
        }
        let reports = || self.peers.iter().filter_map(|peer| peer.report.as_ref());
        let highest = reports()
            .flat_map(|r| [Some(r.promised), r.installed.as_ref().map(|c| c.generation)])
            .flatten()
            .map(|generation| generation.number)
            .fold(self.generation.number, u64::max);
        let Some(number) = highest.checked_add(1) else {
            return self.try_again(Refusal::Exhausted, turn);
        };
        let generation = Generation {
            number,
            nonce: self.random.nonce,
        };
        self.kept = self.kept.minus(self.promised_to_others());
        let parts = match self.decision(generation, turn.now) {
            Ok(decision) => decision.parts,
            Err(refusal) => return self.undecided(refusal, turn),
        };
        let takeover = self.options.as_ref().is_some_and(|o| o.takeover) || self.config.is_some();
        self.generation = generation;
        self.failed = MemberSet::EMPTY;
        self.refusal = None;
        self.phase = Phase::Promising;
        for id in parts {
            let to = self.own_target(id);
            let message = to.map(|to| Control::Promise {
                to,
                generation,
                fences: match takeover {
                    // What others may have begun with it must not be overlooked.
                    _ if self.kept.contains(id) => Fences::Nobody,
                    true => Fences::Alive,
                    false => Fences::Dead,
                },
            });
            self.send(id, Step::Round, message, turn);
        }
        true
    }

    /// Members that have promised somebody else.
    fn promised_to_others(&self) -> MemberSet {
        self.peers
            .iter()
            .filter_map(|peer| peer.report.as_ref())
            .filter(|report| report.promised.nonce != self.random.nonce)
            .map(|report| report.member)
            .collect()
    }

    /// Another client has taken over: this one stops for good (R8). Not if that happened in another history, nor if only
    /// members that are no receivers say so: a client that reached just those cannot have started, for want of a
    /// member in sync, or of a majority; then a higher generation is enough.
    fn is_fenced(&self) -> bool {
        let Some(config) = &self.config else {
            return false;
        };
        self.peers
            .iter()
            .filter_map(|peer| peer.report.as_ref())
            .filter(|report| config.receivers().contains(report.member))
            .any(|report| self.is_promised_away(report, config))
            && !on(Bug::IgnoreFence)
    }

    /// Names a member by the pool it says it is in: only so for a promise.
    pub(super) fn own_target(&self, id: MemberId) -> Option<Target> {
        let report = self.peers.get(id.index())?.report.as_ref()?;
        let pool = report.pool;
        Some(Target {
            pool,
            ..self.target(id)?
        })
    }

    /// How long a suspension waits for all who are in sync, if some would do.
    fn wait_for_all(&self) -> Nanos {
        (self.io_timeout() >> 1).min(PATIENCE)
    }

    fn decision(&self, generation: Generation, now: Time) -> Result<Decision, Refusal> {
        let Some(options) = &self.options else {
            return Err(Refusal::NotNow);
        };
        let promising = matches!(self.phase, Phase::Promising);
        let candidates = self
            .peers
            .iter()
            .filter(move |peer| !promising || peer.promised)
            .filter_map(|peer| {
                peer.report.as_ref().map(|report| Candidate {
                    report,
                    suspects: peer.found != Found::Nothing,
                    discard: peer.discard,
                })
            });
        decide(
            candidates,
            &Request {
                generation,
                used: self.used,
                pool: self.pool,
                members: options.members,
                equal: options.equal,
                history: self.random.history,
                quorum: options.quorum,
                open: self.config.as_ref().map(|config| Open {
                    config,
                    stable: self.all_stable,
                    unflushed: self.unflushed,
                    kept: if now >= self.held.after(self.wait_for_all()) {
                        self.kept
                    } else {
                        MemberSet::EMPTY
                    },
                }),
                force: self.force,
            },
        )
    }

    /// All have promised, or not.
    #[inline(never)]
    pub(super) fn promised(&mut self, turn: &mut Turn<'_, M>) -> bool {
        let generation = self.generation;
        for (id, peer) in MemberId::all().zip(self.peers.iter_mut()) {
            peer.promised = !self.failed.contains(id)
                && peer
                    .report
                    .as_ref()
                    .is_some_and(|report| report.promised == generation);
        }
        match self.refusal {
            Some(Refusal::Busy) => {
                self.races += 1;
                if self.races > MAX_RACES && self.config.is_none() {
                    self.fail(State::Failed(Refusal::Busy), turn);
                    return true;
                }
                // Two clients wait for different times.
                let wait = (self.random.nonce >> (self.races & 31)) & 127;
                self.phase = Phase::Waiting(turn.now.after((wait + 1) * MILLISECOND));
                return true;
            }
            Some(refusal @ Refusal::InUse(_)) if self.config.is_none() => {
                self.fail(State::Failed(refusal), turn);
                return true;
            }
            _ => {}
        }
        let decision = match self.decision(generation, turn.now) {
            Ok(decision) => decision,
            Err(refusal) => return self.undecided(refusal, turn),
        };
        let pools = || self.peers.iter().filter_map(|peer| peer.report.as_ref());
        if self.pool.is_nil() {
            self.pool = pools()
                .filter(|report| decision.parts.contains(report.member))
                .find_map(|report| report.pool.non_nil())
                .unwrap_or(self.random.pool);
        }
        self.used = decision.config.epoch;
        self.source = Some(decision.source);
        self.parts = decision.parts;
        self.first = decision.first;
        self.next = Some(decision.config);
        self.failed = MemberSet::EMPTY;
        self.phase = Phase::Relaying(0);
        true
    }

    /// Tells all parts the suspects of the next one that has some.
    #[inline(never)]
    pub(super) fn relay(&mut self, from: usize, turn: &mut Turn<'_, M>) -> bool {
        if !self.failed.is_empty() {
            return self.try_again(Refusal::Missing(self.failed), turn);
        }
        let (Some(source), Some(next)) = (self.source, &self.next) else {
            return self.try_again(Refusal::NotNow, turn);
        };
        let mut members = next.table().without(source);
        if on(Bug::SuspectsForAbsentOnly) {
            members = members.minus(self.parts);
        }
        let more = MemberId::all()
            .skip(from)
            .find(|id| self.parts.contains(*id) && self.found(*id) != Found::Nothing);
        let Some(id) = more.filter(|_| !members.is_empty() && !on(Bug::NoRelay)) else {
            return self.install_first(turn);
        };
        self.phase = Phase::Relaying(id.index() + 1);
        let len = self.mark_suspects(id, members);
        for to in self.parts {
            if len != 0 && self.has_pool(to) {
                self.send_marks(to, len, turn);
            }
        }
        true
    }

    /// Whether the store belongs to a pool; one that does not knows of nothing dirty, and takes all of it as dirty.
    pub(super) fn has_pool(&self, id: MemberId) -> bool {
        self.peers
            .get(id.index())
            .and_then(|peer| peer.report.as_ref())
            .is_some_and(|report| !report.pool.is_nil())
    }

    /// Makes marks of what a member said of its suspects; returns how many.
    pub(super) fn mark_suspects(&mut self, id: MemberId, members: MemberSet) -> usize {
        let Some(peer) = self.peers.get(id.index()) else {
            return 0;
        };
        match peer.found {
            Found::Nothing => 0,
            Found::Everything => self.mark_all(members),
            Found::Runs(_) => {
                let mut len = 0;
                for (mark, run) in self.marks.iter_mut().zip(peer.runs()) {
                    *mark = Mark::new(*run, members);
                    len += 1;
                }
                len
            }
        }
    }

    /// Makes marks of every chunk there is; returns how many.
    pub(super) fn mark_all(&mut self, members: MemberSet) -> usize {
        let chunks = self
            .peers
            .iter()
            .filter_map(|peer| peer.report.as_ref())
            .map(|report| report.geometry.chunks())
            .fold(0, u64::max);
        let chunks = self.geometry.map_or(chunks, |g| g.chunks());
        let mut len = 0;
        // No volume is so large that this is not enough.
        for (mark, run) in self.marks.iter_mut().zip(Run::cover(0..chunks)) {
            *mark = Mark::new(run, members);
            len += 1;
        }
        len.min(MAX_MARKS)
    }

    fn install_first(&mut self, turn: &mut Turn<'_, M>) -> bool {
        self.failed = MemberSet::EMPTY;
        self.install_on(self.first, turn);
        true
    }

    fn install_on(&mut self, members: MemberSet, turn: &mut Turn<'_, M>) {
        self.parts = self.parts.minus(members);
        self.phase = Phase::Installing;
        for id in members {
            self.send_install(id, true, turn);
        }
    }

    /// Sends the next configuration to a member.
    pub(super) fn send_install(&mut self, id: MemberId, joins: bool, turn: &mut Turn<'_, M>) {
        let discard = self.peers.get(id.index()).is_some_and(|peer| peer.discard);
        let assign = !self.has_pool(id);
        let to = self.target(id);
        let message = to.zip(self.next.as_ref());
        // The store that it has meanwhile has no part in this.
        let message = message.filter(|(to, next)| next.store(id) == Some(to.store));
        let message = message.map(|(to, next)| {
            let joins = joins && next.receivers().contains(id) && !on(Bug::RejoinWithoutEpisode);
            Control::Install {
                to,
                config: next.clone(),
                assign,
                joins,
                discard,
            }
        });
        if let Some(next) = self.next.as_ref().filter(|_| !on(Bug::KeepWhoWasLeftOut)) {
            self.kept = self.kept.intersection(next.in_sync);
        }
        self.send(id, Step::Round, message, turn);
    }

    /// Those that were asked have installed it, or not.
    #[inline(never)]
    pub(super) fn attached(&mut self, turn: &mut Turn<'_, M>) -> bool {
        if !self.failed.is_empty() {
            return self.try_again(Refusal::Missing(self.failed), turn);
        }
        if !self.parts.is_empty() {
            self.install_on(self.parts, turn);
            return true;
        }
        let Some(next) = self.next.take() else {
            return self.try_again(Refusal::NotNow, turn);
        };
        let mut limits = None;
        for report in self.peers.iter().filter_map(|peer| peer.report.as_ref()) {
            if next.receivers().contains(report.member) {
                self.geometry = Some(report.geometry);
                let all = limits.get_or_insert(report.limits);
                *all = all.strictest(&report.limits);
            }
        }
        // What was told to the block layer once stays so.
        self.limits = self.limits.or(limits);
        let receivers = next.receivers();
        self.kept = next.in_sync;
        self.config = Some(next);
        self.refusal = None;
        self.force = None;
        self.races = 0;
        for id in receivers {
            let now = turn.now;
            if let Some(peer) = self.peer(id) {
                peer.joined = now;
                peer.discard = false;
                peer.noted = None;
                // A store without pool has one now.
            }
        }
        self.assigned(receivers);
        self.open(true, turn);
        true
    }

    /// These have taken the UUID of the pool.
    pub(super) fn assigned(&mut self, members: MemberSet) {
        let pool = self.pool;
        for id in members {
            if let Some(report) = self.peer(id).and_then(|peer| peer.report.as_mut()) {
                report.pool = pool;
            }
        }
    }

    /// Puts the complete configuration in force. `anew`: every receiver has yet to execute what is in flight.
    pub(super) fn open(&mut self, anew: bool, turn: &mut Turn<'_, M>) {
        let Some(config) = &self.config else { return };
        let (in_sync, receivers) = (config.in_sync, config.receivers());
        let log_extents = self
            .peers
            .iter()
            .filter_map(|peer| peer.report.as_ref())
            .filter(|report| receivers.contains(report.member))
            .map(|report| report.log_extents)
            .fold(MAX_LOG_EXTENTS, u32::min);
        let data = turn.data;
        data.adopt(&self.pool, config, log_extents);
        self.dropping = MemberSet::EMPTY;
        self.write_failed = false;
        self.set_readers(turn);
        let readers = data.readers();
        let onward = |view: &View| -> Onward {
            if let Some(status) = data.failure(view.ticket) {
                return Onward::End(status);
            }
            if view.op == Op::Read {
                if view.pending.is_subset(in_sync) {
                    return Onward::Pending(view.pending);
                }
                data.forget_tried(view.ticket);
                return match readers.iter().next() {
                    Some(reader) => Onward::Pending(MemberSet::only(reader)),
                    None => Onward::End(Status::Disconnected),
                };
            }
            if anew {
                Onward::Pending(receivers)
            } else {
                Onward::Pending(view.pending.intersection(receivers))
            }
        };
        let out = core::cell::RefCell::new(&mut *turn.out);
        data.reopen(
            onward,
            |ticket, status| out.borrow_mut().act(Action::Complete(ticket, status)),
            |sending| out.borrow_mut().act(Action::Resend(sending)),
        );
        self.phase = Phase::Serving;
        let now = turn.now;
        self.scan_at = now.after(self.io_timeout() >> 2);
        self.retry_at = now.after(MILLISECOND);
        self.tell_later(turn);
        turn.out.act(Action::Open);
    }
}
