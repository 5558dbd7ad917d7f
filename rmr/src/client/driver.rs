// SPDX-License-Identifier: GPL-2.0

//! The coordinator of an opened pool, and the job in which it runs.
//!
//! Whatever happens outside of the data path's straight way is left here, by whoever sees it and in whatever context:
//! connections, answers and failed requests with their legs, hints and the time as flags. The job takes them and tells the
//! coordinator (`rmr_engine::client`) one by one, and does what that wants ([`outbox`](super::outbox)). Nobody else touches
//! the coordinator, except to look at it.
//!
//! What failed on a connection is told before that the connection is gone: the job looks at connections first, at
//! requests then, and tells in the other order; and a connection's end is announced after all requests came back.

use super::access::Access;
use super::calls::Calls;
use super::core::Core;
use super::lane;
use super::lane::Lanes;
use super::leg::Leg;
use super::outbox::Open;
use super::outbox::Outbox;
use super::renewal::Renewal;
use super::session::Session;
use crate::memory::KernelMemory;
use crate::refuse;
use crate::say;
use crate::secret::Secret;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::atomic::Release;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_engine::client::Admin;
use rmr_engine::client::Cause;
use rmr_engine::client::Coordinator;
use rmr_engine::client::Event;
use rmr_engine::client::Failure;
use rmr_engine::client::Hint;
use rmr_engine::client::Options;
use rmr_engine::client::Random;
use rmr_engine::client::Refusal;
use rmr_engine::client::State;
use rmr_engine::lane::Caps;
use rmr_engine::time::Time;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::Kind;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::PoolName;
use rmr_proto::Progress;
use rmr_proto::Reply;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::MAX_MEMBERS;
use rmr_proto::REPLY_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::gate::Entered;
use rmr_sys::gate::Gate;
use rmr_sys::gate::Retiring;
use rmr_sys::noio::without_io;
use rmr_sys::time::now_ns;
use rmr_sys::wait::WaitQueue;
use rmr_sys::work::Again;

/// Pause before permits are asked for again, in ms.
const PERMIT_MS: u32 = 4;

/// A connection is there.
const UP: u32 = 1;
/// It was lost, and the coordinator has not heard of that.
const LOST: u32 = 2;

/// Members that have something for the job.
pub(crate) struct Marked(Atomic<u32>);

impl Marked {
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    pub(crate) fn add(&self, id: MemberId) {
        let bit = MemberSet::only(id).bits();
        let mut old = self.0.load(Relaxed);
        while old & bit == 0 {
            match self.0.cmpxchg(old, old | bit, Full) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    pub(crate) fn take(&self) -> MemberSet {
        MemberSet::from_bits(self.0.xchg(0, Full))
    }
}

/// What is to be told to the coordinator by order of the administrator.
struct Inbox {
    attach: Option<(Options, Random)>,
    detach: bool,
    admin: Option<Admin>,
    /// Number of the last command: an answer to one before, whose task was killed, is of no interest.
    number: u64,
    answer: Option<Result<(), Refusal>>,
}

/// What the volume is doing, for those who wait for it to do something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is about to serve, for the first time, or was just made.
    Begins,
    /// It serves, or will again by itself.
    Runs,
    /// It will not serve any more.
    Over,
    /// Nothing is in flight any more.
    Closed,
}

impl Stage {
    fn of(state: &State) -> Self {
        match state {
            State::Attaching => Self::Begins,
            State::Serving | State::Changing | State::Held | State::Leaving => Self::Runs,
            State::Lost | State::Fenced | State::Failed(_) => Self::Over,
            State::Closed => Self::Closed,
        }
    }
}

/// What the job has to itself.
pub(crate) struct Desk {
    pub(crate) coordinator: KBox<Coordinator<KernelMemory>>,
    outbox: Outbox,
    reply: KBox<[u8; REPLY_BYTES]>,
    /// Connections the coordinator knows of.
    up: MemberSet,
    /// And those that it is to lose.
    renewal: Renewal,
    timer_at: Time,
    /// The configuration that was last written to the log: epoch, in sync, receivers.
    said: (Epoch, MemberSet, MemberSet),
    /// How far members are, by their index.
    pub(crate) progress: [Progress; MAX_MEMBERS],
    /// UUID of the pool, as its members say.
    pub(crate) pool: Uuid,
    /// The state that was last announced.
    state: State,
    /// It has served.
    served: bool,
    /// Number of the command that the coordinator was told last.
    command: u64,
}

/// See the head of the file.
#[pin_data]
pub(crate) struct Driver {
    pool: PoolName,
    /// The data path.
    pub(crate) core: Gate<Core>,
    links: [Atomic<u32>; MAX_MEMBERS],
    answered: Marked,
    failed: Marked,
    idle: Atomic<bool>,
    ended: Atomic<bool>,
    stage: Atomic<u32>,
    admin_answered: Atomic<bool>,
    #[pin]
    changed: WaitQueue,
    #[pin]
    inbox: Mutex<Inbox>,
    #[pin]
    desk: Mutex<KBox<Desk>>,
    /// One command of the administrator at a time.
    #[pin]
    command: Mutex<()>,
}

impl Driver {
    /// For a pool whose data path is about to be published, with tags below `depth`. May sleep.
    pub(crate) fn new(pool: PoolName, depth: u32) -> Result<Arc<Self>> {
        let desk = desk(depth)?;
        Arc::pin_init(
            pin_init!(Self {
                pool,
                core: Gate::new(),
                links: [const { Atomic::new(0) }; MAX_MEMBERS],
                answered: Marked::new(),
                failed: Marked::new(),
                idle: Atomic::new(false),
                ended: Atomic::new(false),
                stage: Atomic::new(Stage::Begins as u32),
                admin_answered: Atomic::new(false),
                changed <- WaitQueue::new(),
                inbox <- new_mutex!(Inbox {
                    attach: None,
                    detach: false,
                    admin: None,
                    number: 0,
                    answer: None,
                }),
                desk <- new_mutex!(desk),
                command <- new_mutex!(()),
            }),
            GFP_KERNEL,
        )
    }

    // What happens. Any context, unless said otherwise.

    /// A connection is there, or gone with everything that was in flight on it.
    pub(crate) fn link(&self, member: MemberId, up: bool) {
        let Some(word) = self.links.get(member.index()) else {
            return;
        };
        let core = self.core.enter();
        if let Some(leg) = core.as_ref().filter(|_| !up).and_then(|c| c.leg(member)) {
            // Nothing goes to a new connection before the coordinator has heard of it.
            leg.set_usable(false);
        }
        let mut old = word.load(Relaxed);
        loop {
            let new = if up { old | UP } else { LOST };
            match word.cmpxchg(old, new, Full) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        if let Some(core) = core {
            core.job.rearm(0);
        }
    }

    /// A node and this host did not agree on a secret.
    pub(crate) fn not_authenticated(&self) {
        if let Some(core) = self.core.enter() {
            core.herald.queue();
        }
    }

    /// A leg has requests that failed.
    pub(crate) fn failed(&self, member: MemberId) {
        self.failed.add(member);
    }

    /// A leg has control messages that came back.
    pub(crate) fn answered(&self, member: MemberId) {
        self.answered.add(member);
    }

    /// The data path has something to say.
    pub(crate) fn hint(&self, hint: Hint) {
        match hint {
            Hint::Idle => self.idle.store(true, Release),
            Hint::Ended => self.ended.store(true, Release),
        }
    }

    /// The timer.
    pub(crate) fn due(this: &Arc<Self>, _key: usize) -> Option<u64> {
        this.kick();
        None
    }

    /// Lets the job run. Whatever pause it makes is over.
    fn kick(&self) {
        if let Some(core) = self.core.enter() {
            core.job.rearm(0);
        }
    }

    // What the administrator wants. Sleeps.

    /// Begins to attach.
    pub(crate) fn attach(&self, options: Options, random: Random) {
        self.inbox.lock().attach = Some((options, random));
        self.kick();
    }

    /// Begins to detach.
    pub(crate) fn detach(&self) {
        self.inbox.lock().detach = true;
        self.kick();
    }

    /// Executes a command, which takes bounded time. `ENODEV` if the data path is taken away meanwhile.
    pub(crate) fn command(&self, command: Admin) -> Result<Result<(), Refusal>> {
        let _one = self.command.lock();
        {
            let mut inbox = self.inbox.lock();
            self.admin_answered.store(false, Relaxed);
            inbox.answer = None;
            inbox.number += 1;
            inbox.admin = Some(command);
        }
        self.kick();
        self.changed.wait_until_killable(COMMAND_MS, || {
            self.admin_answered.load(Relaxed) || !self.core.is_open()
        })?;
        self.inbox.lock().answer.take().ok_or(ENODEV)
    }

    /// Takes the data path away, and waits until nobody uses it. Sleeps.
    pub(crate) fn retire(&self) {
        let core = self.core.retire_begin();
        // No command is answered any more.
        self.changed.wake_all();
        drop(core.map(Retiring::wait));
    }

    /// What it is doing. Any context.
    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Relaxed) {
            0 => Stage::Begins,
            1 => Stage::Runs,
            2 => Stage::Over,
            _ => Stage::Closed,
        }
    }

    /// Waits until it does something that is wanted, at most `ms` milliseconds (`ETIMEDOUT`), unless the task is killed
    /// (`EINTR`).
    pub(crate) fn wait(&self, ms: u32, wanted: impl Fn(Stage) -> bool) -> Result {
        self.changed
            .wait_until_killable(ms, || wanted(self.stage()))
    }

    /// The same, whatever is done to the task.
    pub(crate) fn wait_closed(&self, ms: u32) -> Result {
        self.changed
            .wait_until_timeout(ms, || self.stage() == Stage::Closed)
    }

    /// Looks at the coordinator, which is needed to write memory out: so nothing in here waits for that.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&Desk) -> R) -> R {
        without_io(|| f(&self.desk.lock()))
    }

    /// The last complete configuration.
    #[inline(never)]
    pub(crate) fn config(&self) -> Option<KBox<Config>> {
        self.look(|desk| {
            let config = desk.coordinator.config()?;
            KBox::new(config.clone(), GFP_KERNEL).ok()
        })
    }

    /// Makes a leg for a member that is reached by `session`, and that has to know the secret, if there is one. Sleeps, until
    /// that is proved, or has failed.
    pub(crate) fn add_leg(
        this: &Arc<Self>,
        member: MemberId,
        session: &Arc<Session>,
        secret: &Option<Arc<Secret>>,
        caps: Caps,
    ) -> Result {
        let core = this.core.enter().ok_or(ENODEV)?;
        let place = core.legs.get(member.index()).ok_or(EINVAL)?;
        let reads = Lanes::new(core.sets.len(), caps, this, Some(member))?;
        // As many as there are tags.
        let depth = core.requests.len() as u32;
        let access = Access::of_client(session, this.pool, member, secret.clone(), this)?;
        let leg = Leg::new(
            member,
            session.clone(),
            access.clone(),
            depth,
            caps.segments,
            reads,
        )
        .inspect_err(|_| access.end())?;
        let calls = Calls::new().inspect_err(|_| access.end())?;
        place.publish(leg).inspect_err(|_| access.end())?;
        core.set_present(member, true);
        core.introduction.data().moved(member);
        if let Some(place) = this.desk.lock().outbox.calls.get_mut(member.index()) {
            *place = Some(calls);
        }
        access
            .watch()
            .inspect_err(|_| Self::remove_leg(this, member))?;
        access.wait();
        Ok(())
    }

    /// Takes the leg of a member away that is in no configuration any more, or of a volume that is closed.
    pub(crate) fn remove_leg(this: &Arc<Self>, member: MemberId) {
        let Some(core) = this.core.enter() else {
            return;
        };
        let access = core.leg(member).map(|leg| leg.access.clone());
        if let Some(access) = access {
            access.end();
        }
        this.link(member, false);
        core.set_present(member, false);
        let leg = core
            .legs
            .get(member.index())
            .and_then(|place| place.retire_begin());
        if let Some(place) = this.desk.lock().outbox.calls.get_mut(member.index()) {
            *place = None;
        }
        drop(leg);
    }

    // The job.

    /// Tells the coordinator everything that happened.
    pub(crate) fn run(this: &Arc<Self>) -> Again {
        match this.core.enter() {
            // What is written to may be waiting for memory.
            Some(core) => without_io(|| this.turn(&core)),
            None => Again::No,
        }
    }

    fn turn(&self, core: &Entered<Core>) -> Again {
        let mut desk = self.desk.lock();
        let desk = &mut **desk;
        // In this order: see the head of the file.
        let (lost, up) = self.take_links();
        if !lost.is_empty() || up != desk.up {
            core.herald.queue();
        }
        self.tell_orders(core, desk);
        self.tell_answers(core, desk);
        self.tell_failed(core, desk);
        for id in lost {
            desk.up = desk.up.without(id);
            desk.renewal.lost(id);
            if let Some(leg) = core.leg(id) {
                // It may have been lost while the coordinator was being told that it is there.
                leg.set_usable(false);
            }
            self.tell(core, desk, Event::LinkDown(id));
        }
        for id in up.minus(desk.up) {
            desk.up = desk.up.with(id);
            if let Some(leg) = core.leg(id) {
                leg.set_usable(true);
            }
            core.introduction.data().repeat(id);
            core.introduction.queue();
            self.tell(core, desk, Event::LinkUp(id));
        }
        for (flag, hint) in [(&self.idle, Hint::Idle), (&self.ended, Hint::Ended)] {
            if flag.xchg(false, Full) {
                self.tell(core, desk, Event::Hint(hint));
            }
        }
        if Time(now_ns()) >= desk.timer_at {
            desk.timer_at = Time::NEVER;
            self.tell(core, desk, Event::Timer);
        }
        self.finish_turn(core, desk)
    }

    /// Sends what could not be sent for want of permits.
    fn finish_turn(&self, core: &Entered<Core>, desk: &mut Desk) -> Again {
        let mut stalled = false;
        if core.stalled.xchg(false, Full) {
            stalled = lane::retry_stalled(core);
        }
        if stalled {
            core.stalled.store(true, Relaxed);
        }
        stalled |= !desk.outbox.to_call.is_empty();
        let calls = &desk.outbox.calls;
        let idle = |id: MemberId| {
            let calls = calls.get(id.index()).and_then(Option::as_ref);
            calls.is_none_or(Calls::is_idle)
        };
        let waits = desk.renewal.turn(core, idle);
        if stalled || waits {
            Again::After(PERMIT_MS)
        } else {
            Again::No
        }
    }

    /// Connections that were lost, and those that are there.
    fn take_links(&self) -> (MemberSet, MemberSet) {
        let (mut lost, mut up) = (MemberSet::EMPTY, MemberSet::EMPTY);
        for (id, word) in MemberId::all().zip(&self.links) {
            let mut old = word.load(Relaxed);
            while old & LOST != 0 {
                match word.cmpxchg(old, old & !LOST, Full) {
                    Ok(_) => break,
                    Err(now) => old = now,
                }
            }
            if old & LOST != 0 {
                lost = lost.with(id);
            }
            if old & UP != 0 {
                up = up.with(id);
            }
        }
        (lost, up)
    }

    #[inline(never)]
    fn tell_orders(&self, core: &Entered<Core>, desk: &mut Desk) {
        let (attach, detach, admin) = {
            let mut inbox = self.inbox.lock();
            let detach = core::mem::take(&mut inbox.detach);
            if inbox.admin.is_some() {
                desk.command = inbox.number;
            }
            (inbox.attach.take(), detach, inbox.admin.take())
        };
        if let Some((options, random)) = &attach {
            self.tell(core, desk, Event::Attach(options, *random));
        }
        if detach {
            self.tell(core, desk, Event::Detach);
        }
        if let Some(admin) = admin {
            self.tell(core, desk, Event::Admin(admin));
        }
    }

    fn tell_answers(&self, core: &Entered<Core>, desk: &mut Desk) {
        for id in self.answered.take() {
            let Some(leg) = core.leg(id) else { continue };
            while let Some((number, kind, status)) = self.next_answer(&leg, desk) {
                if status == Status::NotAuthenticated {
                    desk.renewal.ask(&leg);
                }
                self.tell_answer(core, desk, &leg, number, kind, status);
                self.perform(core, desk);
            }
        }
    }

    fn next_answer(&self, leg: &Leg, desk: &mut Desk) -> Option<(u64, Kind, Status)> {
        let calls = desk.outbox.calls.get_mut(leg.member.index())?.as_mut()?;
        calls.answer(leg, &mut desk.reply)
    }

    /// The reply is large: nothing else is on the stack with it.
    #[inline(never)]
    fn tell_answer(
        &self,
        core: &Entered<Core>,
        desk: &mut Desk,
        leg: &Leg,
        call: u64,
        kind: Kind,
        status: Status,
    ) {
        let Desk {
            coordinator,
            outbox,
            renewal,
            reply,
            progress,
            pool,
            ..
        } = desk;
        let now = Time(now_ns());
        let mut out = Open { outbox, core };
        let bare;
        let parsed;
        let result = match status {
            Status::Disconnected => Err(Failure),
            _ if kind == Kind::Merge || !status.is_ok() => {
                bare = Reply::bare(kind, status);
                Ok(&bare)
            }
            _ => {
                parsed = Reply::parse::<KernelCrc>(&reply[..], kind);
                let report = parsed.as_ref().ok().and_then(|reply| reply.report.as_ref());
                match report.map(|report| report.incarnation) {
                    Some(run) if !renewal.counts(leg, run) => Err(Failure),
                    _ => parsed.as_ref().map_err(|_| Failure),
                }
            }
        };
        if let Some(report) = result.ok().and_then(|reply| reply.report.as_ref()) {
            if let Some(place) = progress.get_mut(report.member.index()) {
                if core::mem::replace(place, report.progress) != report.progress {
                    core.herald.queue();
                }
            }
            if let Some(uuid) = report.pool.non_nil() {
                *pool = uuid;
            }
        }
        coordinator.event(now, Event::Reply { call, result }, &core.data, &mut out);
    }

    fn tell_failed(&self, core: &Entered<Core>, desk: &mut Desk) {
        for id in self.failed.take() {
            let Some(leg) = core.leg(id) else { continue };
            while let Some((ticket, status)) = leg.next_failed() {
                if status == Status::NotAuthenticated {
                    desk.renewal.ask(&leg);
                }
                let cause = match status {
                    Status::Disconnected => Cause::Transport,
                    status => Cause::Answer(status),
                };
                let event = Event::IoFailed {
                    ticket,
                    member: id,
                    cause,
                };
                self.tell(core, desk, event);
            }
        }
    }

    /// Tells the coordinator one thing, and does what it wants.
    fn tell(&self, core: &Entered<Core>, desk: &mut Desk, event: Event<'_>) {
        let now = Time(now_ns());
        let mut out = Open {
            outbox: &mut desk.outbox,
            core,
        };
        desk.coordinator.event(now, event, &core.data, &mut out);
        self.perform(core, desk);
    }

    /// Does what the coordinator wants; what cannot be done it is told at once.
    fn perform(&self, core: &Entered<Core>, desk: &mut Desk) {
        loop {
            self.perform_once(core, desk);
            let Some(call) = desk.outbox.lost.pop() else {
                return;
            };
            let now = Time(now_ns());
            let mut out = Open {
                outbox: &mut desk.outbox,
                core,
            };
            let result = Err(Failure);
            let event = Event::Reply { call, result };
            desk.coordinator.event(now, event, &core.data, &mut out);
        }
    }

    #[inline(never)]
    fn perform_once(&self, core: &Entered<Core>, desk: &mut Desk) {
        let outbox = &mut desk.outbox;
        for id in core::mem::replace(&mut outbox.close, MemberSet::EMPTY) {
            let calls = outbox.calls.get(id.index()).and_then(Option::as_ref);
            if let Some(leg) = core.leg(id) {
                close(&leg, calls.is_none_or(Calls::is_idle));
            }
        }
        for id in core::mem::replace(&mut outbox.to_call, MemberSet::EMPTY) {
            let calls = outbox.calls.get_mut(id.index()).and_then(Option::as_mut);
            if let Some((calls, leg)) = calls.zip(core.leg(id)) {
                let lost = &mut outbox.lost;
                let failed = |number| _ = lost.push_within_capacity(number);
                if calls.send(core, &leg, failed) {
                    outbox.to_call = outbox.to_call.with(id);
                }
            }
        }
        for id in core::mem::replace(&mut outbox.resent, MemberSet::EMPTY) {
            if core.leg(id).is_some_and(|leg| Leg::pump(&leg, core)) {
                core.stalled.store(true, Relaxed);
            }
        }
        while let Some(tag) = outbox.ended.pop(&outbox.ended_links) {
            Core::release(core, tag, 1);
        }
        if let Some(at) = outbox.timer.take() {
            desk.timer_at = at;
            if at != Time::NEVER {
                core.timer.set(at.since(Time(now_ns())).max(1));
            }
        }
        let open = core::mem::take(&mut outbox.open);
        if outbox.state.take().is_some() {
            self.announce(core, desk);
        }
        if open {
            Core::open(core);
        }
        self.speak(desk);
    }

    /// Says what changed, to the log and to those who wait.
    #[inline(never)]
    fn announce(&self, core: &Entered<Core>, desk: &mut Desk) {
        let state = desk.coordinator.state();
        let stage = Stage::of(&state);
        if let (State::Serving, Some(geometry), Some(limits), Some(config)) = (
            state,
            desk.coordinator.geometry(),
            desk.coordinator.limits(),
            desk.coordinator.config(),
        ) {
            let now = (config.epoch, config.in_sync, config.receivers());
            if now != desk.said {
                core.shape.set(&geometry, limits.logical_block);
                say!(
                    pr_info,
                    "pool {}: epoch {}: in sync: {}; catching up: {}; without: {}",
                    self.pool,
                    config.epoch.0,
                    config.in_sync,
                    config.catching_up,
                    config.table().minus(now.2)
                );
                desk.said = now;
                for id in config.catching_up {
                    core.introduction.data().repeat(id);
                }
            }
        }
        let was = core::mem::replace(&mut desk.state, state);
        if was != state {
            desk.served |= matches!(state, State::Serving);
            self.explain(&state, desk.served, &desk.coordinator);
        }
        self.stage.store(stage as u32, Release);
        self.changed.wake_all();
        core.herald.queue();
        core.introduction.queue();
    }

    /// One line for what the administrator should know.
    #[cold]
    #[inline(never)]
    fn explain(&self, state: &State, served: bool, coordinator: &Coordinator<KernelMemory>) {
        let pool = &self.pool;
        match state {
            State::Held => {
                if let Some(config) = coordinator.config() {
                    say!(
                        pr_warn,
                        "pool {}: no member with all data can be reached: IO is held; it goes on when enough of {} are back",
                        pool,
                        config.table()
                    );
                }
            }
            State::Lost => refuse!(
                (),
                "pool {}: acknowledged data may be gone: all IO fails until the device is unmapped",
                pool
            ),
            State::Fenced => refuse!(
                (),
                "pool {}: another client has taken over: all IO fails, unmap the device here",
                pool
            ),
            State::Failed(refusal) => refuse!((), "pool {}: cannot start: {}", pool, refusal),
            State::Closed if served => say!(pr_info, "pool {}: detached", pool),
            State::Closed
            | State::Attaching
            | State::Serving
            | State::Changing
            | State::Leaving => {}
        }
    }

    /// What the coordinator answers and notes.
    fn speak(&self, desk: &mut Desk) {
        let outbox = &mut desk.outbox;
        for id in core::mem::replace(&mut outbox.noted, MemberSet::EMPTY) {
            if let Some(why) = outbox.notes.get(id.index()) {
                say!(
                    pr_warn,
                    "pool {}: member {} is not taken in: {}",
                    self.pool,
                    id,
                    why
                );
            }
        }
        if let Some(answer) = outbox.admin.take() {
            let mut inbox = self.inbox.lock();
            if desk.command == inbox.number {
                inbox.answer = Some(answer);
                self.admin_answered.store(true, Relaxed);
                self.changed.wake_all();
            }
        }
    }
}

/// Has everything come back that is on its way to a leg. The connection is shared with other pools: it is closed only if
/// there is something. (Nothing else is there to be lost: to the coordinator it was lost and is there again.)
fn close(leg: &Leg, no_calls: bool) {
    leg.set_usable(false);
    if no_calls && leg.is_idle() {
        leg.access.as_if_closed();
    } else {
        leg.session.close();
    }
}

/// How long a command may take, in ms: longer than the coordinator lets any.
const COMMAND_MS: u32 = 600_000;

#[inline(never)]
fn desk(depth: u32) -> Result<KBox<Desk>> {
    let desk = Desk {
        coordinator: coordinator()?,
        outbox: Outbox::new(depth)?,
        reply: KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?,
        up: MemberSet::EMPTY,
        renewal: Renewal::new(),
        timer_at: Time::NEVER,
        said: (Epoch::NONE, MemberSet::EMPTY, MemberSet::EMPTY),
        progress: [Progress::Unknown; MAX_MEMBERS],
        pool: Uuid::NIL,
        state: State::Closed,
        served: false,
        command: 0,
    };
    Ok(KBox::new(desk, GFP_KERNEL)?)
}

#[inline(never)]
fn coordinator() -> Result<KBox<Coordinator<KernelMemory>>> {
    let coordinator = Coordinator::new(KernelMemory).map_err(|_| ENOMEM)?;
    Ok(KBox::new(coordinator, GFP_KERNEL)?)
}
