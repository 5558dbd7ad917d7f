// SPDX-License-Identifier: GPL-2.0

//! The exceptional part of a client: takes events, decides, says what to do.
//!
//! ```text
//!              Attach                  all promised        relayed           all installed
//!   Closed ──► Waiting ─► Querying ─► Promising ─► Relaying ─► Installing ─────────────► Serving ─► Leaving ─► Closed
//!                 ▲  any failure: again   │                                             │    ▲
//!                 ├───────────────────────┘                         drop, join, promote │    │ complete
//!                 │                                                 edit of the table   ▼    │
//!                 └──────────── nobody in sync is left (Held) ──────────────────────── Change
//! ```
//!
//! From everywhere: `Failing` (connections are being closed, then every request fails), then `Ended` or `Closed`.
//!
//! At most one message is out to each member; a newer one makes the answer to the one before meaningless. Each has a
//! deadline, after which the connection is closed. A *round* is a message to each of some members; it is over when
//! nobody is awaited any more.

use super::change::Change;
use super::peer::Call;
use super::peer::Found;
use super::peer::Peer;
use super::peer::Step;
use super::Action;
use super::Admin;
use super::Data;
use super::Event;
use super::Failure;
use super::Hint;
use super::Message;
use super::OnNoData;
use super::Options;
use super::Out;
use super::Random;
use super::Refusal;
use super::State;
use crate::memory::Memory;
use crate::memory::NoMemory;
use crate::planted::on;
use crate::planted::Bug;
use crate::time::Nanos;
use crate::time::Time;
use crate::time::MILLISECOND;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::Epoch;
use rmr_proto::Generation;
use rmr_proto::Geometry;
use rmr_proto::Limits;
use rmr_proto::Mark;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Merge;
use rmr_proto::Reply;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Target;
use rmr_proto::Uuid;
use rmr_proto::MAX_MARKS;
use rmr_proto::MAX_MEMBERS;

/// What a coordinator is about.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum Phase {
    Closed,
    /// An attach is to be tried then.
    Waiting(Time),
    Querying,
    Promising,
    /// The suspects of the member at this place come next.
    Relaying(usize),
    Installing,
    Serving,
    Change(Change),
    /// Requests end; at most until then.
    Leaving(Time),
    Detaching,
    /// Connections are being closed; what follows.
    Failing(State),
    Ended(State),
}

/// A command of the administrator that is not answered yet.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Pending {
    pub(super) command: Admin,
    pub(super) deadline: Time,
    /// When to try, the next time.
    pub(super) try_at: Time,
    /// Checked; its change of the table comes next.
    pub(super) checked: bool,
}

/// One event's worth of work.
pub(super) struct Turn<'a, M: Memory> {
    pub(super) now: Time,
    pub(super) data: &'a Data<M>,
    pub(super) out: &'a mut dyn Out,
}

/// The coordinator of one volume.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub struct Coordinator<M: Memory> {
    memory: M,
    pub(super) peers: M::Array<Peer<M>>,
    pub(super) marks: M::Array<Mark>,
    pub(super) options: Option<Options>,
    pub(super) random: Random,
    pub(super) phase: Phase,
    /// The last complete configuration.
    pub(super) config: Option<Config>,
    /// The one being installed.
    pub(super) next: Option<Config>,
    pub(super) pool: Uuid,
    pub(super) geometry: Option<Geometry>,
    pub(super) limits: Option<Limits>,
    /// The generation promised last.
    pub(super) generation: Generation,
    /// The highest epoch ever sent or heard of.
    pub(super) used: Epoch,
    pub(super) awaiting: MemberSet,
    pub(super) failed: MemberSet,
    /// Members that are to be receivers no more.
    pub(super) dropping: MemberSet,
    /// Connections that are being closed.
    pub(super) closing: MemberSet,
    /// A write failed on the last member in sync.
    pub(super) write_failed: bool,
    /// The member to be promoted said that it cannot be in sync yet.
    pub(super) not_ready: bool,
    /// Attaches in which others were faster.
    pub(super) races: u32,
    pub(super) force: Option<(MemberSet, Uuid)>,
    /// Of an attach: who is right by definition, who takes part and was not asked to install yet, and who is asked first.
    pub(super) source: Option<MemberId>,
    pub(super) parts: MemberSet,
    pub(super) first: MemberSet,
    /// When IO was suspended, all that was acknowledged was stable.
    pub(super) all_stable: bool,
    /// Members that failed to flush since: what their caches held may be gone.
    pub(super) unflushed: MemberSet,
    /// Members that were in sync in the last complete configuration and in all that were sent to anybody since, and have
    /// promised nobody else.
    pub(super) kept: MemberSet,
    /// When IO was suspended.
    pub(super) held: Time,
    pub(super) refusal: Option<Refusal>,
    pub(super) leave: bool,
    pub(super) admin: Option<Pending>,
    /// When to look for requests that hang, to send stalled ones, to say the watermark.
    pub(super) scan_at: Time,
    pub(super) retry_at: Time,
    pub(super) tell_at: Time,
    /// The last write there was when that was put off.
    pub(super) issued: Seq,
    calls: u64,
    /// How far the clock was set back in all.
    skew: Nanos,
    last: Time,
    timer: Time,
    said: State,
}

impl<M: Memory> Coordinator<M> {
    /// A coordinator that is not attached.
    pub fn new(memory: M) -> Result<Self, NoMemory> {
        Ok(Self {
            peers: memory.array(MAX_MEMBERS, |_| Peer::new())?,
            marks: memory.array(MAX_MARKS, |_| Mark::EMPTY)?,
            memory,
            options: None,
            random: Random {
                nonce: 0,
                history: Uuid::NIL,
                pool: Uuid::NIL,
            },
            phase: Phase::Closed,
            config: None,
            next: None,
            pool: Uuid::NIL,
            geometry: None,
            limits: None,
            generation: Generation::NONE,
            used: Epoch::NONE,
            awaiting: MemberSet::EMPTY,
            failed: MemberSet::EMPTY,
            dropping: MemberSet::EMPTY,
            closing: MemberSet::EMPTY,
            write_failed: false,
            not_ready: false,
            races: 0,
            force: None,
            source: None,
            parts: MemberSet::EMPTY,
            first: MemberSet::EMPTY,
            all_stable: false,
            unflushed: MemberSet::EMPTY,
            kept: MemberSet::EMPTY,
            held: Time(0),
            refusal: None,
            leave: false,
            admin: None,
            scan_at: Time::NEVER,
            retry_at: Time::NEVER,
            tell_at: Time::NEVER,
            issued: Seq(0),
            calls: 0,
            skew: 0,
            last: Time(0),
            timer: Time::NEVER,
            said: State::Closed,
        })
    }

    /// Something happened. `data` is always the same.
    pub fn event(&mut self, now: Time, event: Event<'_>, data: &Data<M>, out: &mut dyn Out) {
        let turn = &mut Turn {
            now: self.monotonic(now),
            data,
            out,
        };
        match event {
            Event::Attach(options, random) => self.begin_attach(options, random, turn),
            Event::Detach => self.detach(turn),
            Event::LinkUp(member) => self.link_up(member, turn),
            Event::LinkDown(member) => self.link_down(member, turn),
            Event::Reply { call, result } => self.reply(call, result, turn),
            Event::IoFailed {
                ticket,
                member,
                cause,
            } => self.io_failed(ticket, member, cause, turn),
            Event::Hint(Hint::Idle) => self.tell_later(turn),
            Event::Hint(Hint::Ended) => {}
            // It may have come early, after a jump of the clock.
            Event::Timer => self.timer = Time::NEVER,
            Event::Admin(command) => self.command(command, turn),
        }
        self.expire(turn);
        // Each step leads to another phase, or waits; the bound is never reached.
        for _ in 0..256 {
            if !self.advance(turn) {
                break;
            }
        }
        self.announce(turn);
    }

    /// What state the volume is in.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Serving => State::Serving,
            Phase::Change(_) => State::Changing,
            Phase::Leaving(_) | Phase::Detaching => State::Leaving,
            Phase::Failing(state) | Phase::Ended(state) => match state {
                State::Closed => State::Leaving,
                state => state,
            },
            Phase::Waiting(_)
            | Phase::Querying
            | Phase::Promising
            | Phase::Relaying(_)
            | Phase::Installing => match self.config {
                Some(_) => State::Held,
                None => State::Attaching,
            },
        }
    }

    /// The last complete configuration.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// Size and chunk size, once attached.
    pub fn geometry(&self) -> Option<Geometry> {
        self.geometry
    }

    /// What the disk can do, once attached.
    pub fn limits(&self) -> Option<Limits> {
        self.limits
    }

    /// Why an attach did not succeed so far.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// Time that never goes back.
    fn monotonic(&mut self, now: Time) -> Time {
        let mut shown = now.after(self.skew);
        if shown < self.last {
            self.skew = self.skew.saturating_add(self.last.since(shown));
            shown = self.last;
        }
        self.last = shown;
        shown
    }

    /// One step; false if there is nothing to do before the next event.
    fn advance(&mut self, turn: &mut Turn<'_, M>) -> bool {
        if !self.awaiting.is_empty() {
            return false;
        }
        match self.phase {
            Phase::Closed | Phase::Ended(_) => false,
            Phase::Waiting(at) => self.wait_over(at, turn),
            Phase::Querying => self.queried(turn),
            Phase::Promising => self.promised(turn),
            Phase::Relaying(from) => self.relay(from, turn),
            Phase::Installing => self.attached(turn),
            Phase::Serving => self.serve(turn),
            Phase::Change(change) => self.advance_change(change, turn),
            Phase::Leaving(until) => self.leaving(until, turn),
            Phase::Detaching => {
                self.closed(turn);
                true
            }
            Phase::Failing(state) => {
                if !self.closing.is_empty() {
                    return false;
                }
                self.fail_all(failing_status(state), turn);
                if state == State::Closed {
                    self.closed(turn);
                } else {
                    self.phase = Phase::Ended(state);
                }
                true
            }
        }
    }

    // Connections.

    fn link_up(&mut self, id: MemberId, turn: &mut Turn<'_, M>) {
        let now = turn.now;
        let Some(peer) = self.peers.get_mut(id.index()) else {
            return;
        };
        peer.up = true;
        peer.since = now;
        peer.ping_at = now;
        if let Phase::Waiting(at) = self.phase {
            // Others may come as well.
            self.phase = Phase::Waiting(at.earliest(now.after(5 * MILLISECOND)));
        }
        self.set_readers(turn);
        // What is stalled because of it goes out again at once.
        self.retry_at = self.retry_at.earliest(now);
    }

    fn link_down(&mut self, id: MemberId, turn: &mut Turn<'_, M>) {
        let Some(peer) = self.peers.get_mut(id.index()) else {
            return;
        };
        peer.up = false;
        peer.since = turn.now;
        peer.joinable = false;
        peer.promised = false;
        let call = peer.call.take();
        self.closing = self.closing.without(id);
        if let Some(call) = call {
            self.answered(id, call.step, Err(Failure), turn);
        }
        self.set_readers(turn);
    }

    /// Reads do not go where there is no connection.
    pub(super) fn set_readers(&mut self, turn: &Turn<'_, M>) {
        let Some(config) = &self.config else { return };
        let up = self.up();
        let mut readers = config.in_sync;
        if on(Bug::ReadFromCatchingUp) {
            readers = config.receivers();
        }
        let reachable = readers.intersection(up);
        turn.data.set_readers(if reachable.is_empty() {
            readers
        } else {
            reachable
        });
    }

    /// Members with a connection that is not being closed.
    pub(super) fn up(&self) -> MemberSet {
        MemberId::all()
            .zip(self.peers.iter())
            .filter(|(_, peer)| peer.up)
            .map(|(id, _)| id)
            .collect::<MemberSet>()
            .minus(self.closing)
    }

    pub(super) fn close(&mut self, id: MemberId, turn: &mut Turn<'_, M>) {
        let Some(peer) = self.peers.get_mut(id.index()) else {
            return;
        };
        if peer.up && !self.closing.contains(id) {
            self.closing = self.closing.with(id);
            turn.out.act(Action::Close(id));
        }
    }

    pub(super) fn close_all(&mut self, turn: &mut Turn<'_, M>) {
        for id in MemberId::all() {
            self.close(id, turn);
            if let Some(peer) = self.peers.get_mut(id.index()) {
                peer.call = None;
                peer.joinable = false;
                peer.promised = false;
            }
        }
        self.awaiting = MemberSet::EMPTY;
        self.failed = MemberSet::EMPTY;
    }

    pub(super) fn peer(&mut self, id: MemberId) -> Option<&mut Peer<M>> {
        self.peers.get_mut(id.index())
    }

    // Messages.

    /// How a member is named in messages, as it last described itself.
    pub(super) fn target(&self, id: MemberId) -> Option<Target> {
        let report = self.peers.get(id.index())?.report.as_ref()?;
        Some(Target {
            name: self.options.as_ref()?.name,
            pool: self.pool,
            store: report.store,
            member: id,
            incarnation: report.incarnation,
        })
    }

    /// Sends a message; without connection or target it has failed at once.
    pub(super) fn send(
        &mut self,
        id: MemberId,
        step: Step,
        message: Option<Control>,
        turn: &mut Turn<'_, M>,
    ) {
        let Some(message) = message.filter(|_| self.up().contains(id)) else {
            if step == Step::Round {
                self.failed = self.failed.with(id);
            }
            return;
        };
        let call = self.called(id, step, turn.now);
        turn.out.act(Action::Send {
            call,
            to: id,
            message: Message::Control(&message),
        });
    }

    /// Sends the first `len` of the marks.
    pub(super) fn send_marks(&mut self, id: MemberId, len: usize, turn: &mut Turn<'_, M>) {
        let to = self.target(id).filter(|_| self.up().contains(id));
        let Some(to) = to else {
            self.failed = self.failed.with(id);
            return;
        };
        let call = self.called(id, Step::Round, turn.now);
        let merge = Merge {
            to,
            generation: self.generation,
            marks: self.marks.get(..len).unwrap_or(&[]),
        };
        turn.out.act(Action::Send {
            call,
            to: id,
            message: Message::Merge(&merge),
        });
    }

    fn called(&mut self, id: MemberId, step: Step, now: Time) -> u64 {
        self.calls += 1;
        let number = self.calls;
        let deadline = now.after(self.patience());
        if let Some(peer) = self.peers.get_mut(id.index()) {
            peer.call = Some(Call {
                number,
                step,
                deadline,
            });
        }
        if step == Step::Round {
            self.awaiting = self.awaiting.with(id);
        }
        number
    }

    /// How long a member may take for a message.
    pub(super) fn patience(&self) -> Nanos {
        self.io_timeout() >> 1
    }

    pub(super) fn io_timeout(&self) -> Nanos {
        self.options.as_ref().map_or(0, |o| o.io_timeout)
    }

    fn reply(&mut self, call: u64, result: Result<&Reply<'_>, Failure>, turn: &mut Turn<'_, M>) {
        let mine = |peer: &Peer<M>| peer.call.is_some_and(|c| c.number == call);
        let Some(index) = self.peers.iter().position(mine) else {
            return;
        };
        let Some(id) = MemberId::from_index(index) else {
            return;
        };
        let step = self.peer(id).and_then(|peer| peer.call.take());
        if let Some(call) = step {
            self.answered(id, call.step, result, turn);
        }
    }

    /// What a member has not answered in time is taken as failed, and the connection is closed.
    fn expire(&mut self, turn: &mut Turn<'_, M>) {
        for id in MemberId::all() {
            let now = turn.now;
            let late = self
                .peer(id)
                .and_then(|peer| peer.call.take_if(|call| call.deadline <= now));
            if let Some(call) = late {
                self.close(id, turn);
                self.answered(id, call.step, Err(Failure), turn);
            }
        }
    }

    fn answered(
        &mut self,
        id: MemberId,
        step: Step,
        result: Result<&Reply<'_>, Failure>,
        turn: &mut Turn<'_, M>,
    ) {
        let status = result.map_or(Status::Disconnected, |reply| reply.status);
        match step {
            Step::Round => {
                self.awaiting = self.awaiting.without(id);
                if !status.is_ok() {
                    self.failed = self.failed.with(id);
                }
                if matches!(self.phase, Phase::Querying | Phase::Promising) {
                    self.learn(id, result);
                }
                match (self.phase, status) {
                    (Phase::Promising, Status::StaleGeneration | Status::Fenced) => {
                        self.refusal = Some(Refusal::Busy);
                    }
                    (Phase::Installing, Status::Io | Status::Medium | Status::NoSpace) => {
                        self.unflushed = self.unflushed.with(id);
                    }
                    (Phase::Change(_), Status::NotReady | Status::Busy) => self.not_ready = true,
                    (Phase::Promising, Status::InUse) => self.refusal = Some(Refusal::InUse(id)),
                    _ => {}
                }
            }
            Step::Ping => self.pinged(id, result, turn),
            Step::JoinQuery => self.join_queried(id, result, turn),
            Step::JoinPromise => self.join_promised(id, result, turn),
            Step::AdminQuery => self.admin_queried(id, result, turn),
        }
    }

    /// Keeps what a member says of itself, if that is it.
    pub(super) fn learn(&mut self, id: MemberId, result: Result<&Reply<'_>, Failure>) -> bool {
        let Ok(reply) = result else { return false };
        let Some(report) = &reply.report else {
            return false;
        };
        let Some(peer) = self.peers.get_mut(id.index()) else {
            return false;
        };
        if !reply.status.is_ok() || report.member != id {
            return false;
        }
        peer.keep(&self.memory, &reply.suspects);
        let old = peer.report.take();
        let report = peer.report.insert(report.clone());
        if on(Bug::DecideOnQuery) && matches!(self.phase, Phase::Promising) {
            report.installed = old.and_then(|old| old.installed);
        }
        true
    }

    /// Where a list of suspects is.
    pub(super) fn found(&self, id: MemberId) -> Found {
        self.peers
            .get(id.index())
            .map_or(Found::Nothing, |peer| peer.found)
    }

    /// Says once why a member is not taken.
    pub(super) fn note(&mut self, id: MemberId, refusal: Refusal, turn: &mut Turn<'_, M>) {
        if let Some(peer) = self.peer(id) {
            if peer.noted != Some(refusal) {
                peer.noted = Some(refusal);
                turn.out.act(Action::Note(id, refusal));
            }
        }
    }

    // The end.

    fn detach(&mut self, turn: &mut Turn<'_, M>) {
        self.leave = true;
        match self.phase {
            Phase::Closed => self.leave = false,
            Phase::Serving | Phase::Change(_) | Phase::Leaving(_) | Phase::Detaching => {}
            _ => self.fail(State::Closed, turn),
        }
    }

    fn leaving(&mut self, until: Time, turn: &mut Turn<'_, M>) -> bool {
        if turn.data.views().next().is_some() {
            if turn.now >= until {
                self.fail(State::Closed, turn);
                return true;
            }
            self.retry(turn);
            return false;
        }
        let Some(config) = &self.config else {
            return false;
        };
        let (receivers, epoch) = (config.receivers(), config.epoch);
        self.phase = Phase::Detaching;
        for id in receivers.intersection(self.up()) {
            let message = self.target(id).map(|to| Control::Detach {
                to,
                generation: self.generation,
                epoch,
                watermark: turn.data.watermark(),
            });
            self.send(id, Step::Round, message, turn);
        }
        true
    }

    fn closed(&mut self, turn: &mut Turn<'_, M>) {
        self.phase = Phase::Closed;
        self.leave = false;
        self.config = None;
        self.next = None;
        self.failed = MemberSet::EMPTY;
        self.dropping = MemberSet::EMPTY;
        turn.data.set_failing(Some(Status::Disconnected));
        turn.out.act(Action::Open);
    }

    /// Every request fails from now on.
    pub(super) fn fail(&mut self, state: State, turn: &mut Turn<'_, M>) {
        turn.data.shut(true);
        turn.data.set_failing(Some(failing_status(state)));
        self.close_all(turn);
        self.answer_admin(Err(Refusal::NotNow), turn);
        self.phase = Phase::Failing(state);
        turn.out.act(Action::Open);
    }

    /// Ends what is in flight; no connection is there any more.
    pub(super) fn fail_all(&mut self, status: Status, turn: &mut Turn<'_, M>) {
        for view in turn.data.views() {
            if turn.data.end(view.ticket, false) {
                turn.out.act(Action::Complete(view.ticket, status));
            }
        }
    }

    /// Whether IO fails while nobody has the data.
    pub(super) fn fails_without_data(&self) -> bool {
        self.options
            .as_ref()
            .is_some_and(|o| o.on_no_data == OnNoData::Error)
    }

    // Time.

    /// Says what changed.
    fn announce(&mut self, turn: &mut Turn<'_, M>) {
        let state = self.state();
        if state != self.said {
            self.said = state;
            turn.out.act(Action::State(state));
        }
        let mut at = self.next_time();
        if at != Time::NEVER {
            // Never now: what is due was done, or waits for something else.
            at = Time(at.max(turn.now.after(1000)).0.saturating_sub(self.skew));
        }
        if at != self.timer {
            self.timer = at;
            turn.out.act(Action::Timer(at));
        }
    }

    fn next_time(&self) -> Time {
        let mut at = Time::NEVER;
        for peer in self.peers.iter() {
            if let Some(call) = peer.call {
                at = at.earliest(call.deadline);
            }
        }
        match self.phase {
            Phase::Waiting(then) if self.closing.is_empty() => at.earliest(then),
            Phase::Serving => at.earliest(self.serve_time()),
            // Frozen, nothing is sent again: what is due waits for the end of the change.
            Phase::Change(change) if change.is_draining() => {
                at.earliest(change.time()).earliest(self.retry_at)
            }
            Phase::Leaving(until) => at.earliest(until).earliest(self.retry_at),
            _ => at,
        }
    }
}

/// How requests fail in a state.
const fn failing_status(state: State) -> Status {
    match state {
        State::Fenced => Status::Fenced,
        State::Lost => Status::Io,
        _ => Status::Disconnected,
    }
}
