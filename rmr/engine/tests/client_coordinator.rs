// SPDX-License-Identifier: GPL-2.0

//! The coordinator of a client against members that are a few lines each: the way of each kind of change.

use rmr_engine::client::Ack;
use rmr_engine::client::Action;
use rmr_engine::client::Admin;
use rmr_engine::client::Cause;
use rmr_engine::client::Coordinator;
use rmr_engine::client::Data;
use rmr_engine::client::Event;
use rmr_engine::client::Failure;
use rmr_engine::client::Message;
use rmr_engine::client::OnNoData;
use rmr_engine::client::Options;
use rmr_engine::client::Out;
use rmr_engine::client::Random;
use rmr_engine::client::Refusal;
use rmr_engine::client::Sending;
use rmr_engine::client::Start;
use rmr_engine::client::State;
use rmr_engine::client::Ticket;
use rmr_engine::memory::HostMemory;
use rmr_engine::time::Time;
use rmr_engine::time::MILLISECOND;
use rmr_engine::time::SECOND;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::Epoch;
use rmr_proto::Features;
use rmr_proto::Fences;
use rmr_proto::Fork;
use rmr_proto::Generation;
use rmr_proto::Geometry;
use rmr_proto::Incarnation;
use rmr_proto::Kind;
use rmr_proto::Limits;
use rmr_proto::Mark;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::PoolName;
use rmr_proto::Progress;
use rmr_proto::Quorum;
use rmr_proto::Reply;
use rmr_proto::Run;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Suspects;
use rmr_proto::Uuid;
use std::collections::BTreeMap;
use std::collections::VecDeque;

fn id(number: u32) -> MemberId {
    MemberId::new(number).unwrap()
}

fn set(ids: &[u32]) -> MemberSet {
    ids.iter().map(|n| id(*n)).collect()
}

/// A member that believes all it is told.
struct Member {
    report: MemberReport,
    up: bool,
    suspects: Vec<Run>,
    merged: Vec<Mark>,
    /// The watermark that a ping said last.
    heard: Seq,
    pings: u32,
    /// Whom the last promise was to fence.
    fences: Option<Fences>,
    /// Answers this, once, to the next message of a kind.
    answer: Option<(Kind, Status)>,
    /// Does not answer messages of this kind.
    mute: Option<Kind>,
}

impl Member {
    fn new(number: u32) -> Self {
        Self {
            report: MemberReport {
                version_min: 1,
                version_max: 1,
                pool: Uuid::NIL,
                store: Uuid([number as u8; 16]),
                member: id(number),
                incarnation: Incarnation(10),
                geometry: Geometry::new(64 << 20, 16).unwrap(),
                limits: Limits {
                    logical_block: 512,
                    physical_block: 512,
                    io_min: 512,
                    io_opt: 0,
                    max_write_zeroes: 1 << 20,
                    features: Features::WRITE_CACHE,
                },
                promised: Generation::NONE,
                installed: None,
                serving: false,
                progress: Progress::Unknown,
                log_extents: 8,
            },
            up: true,
            suspects: vec![],
            merged: vec![],
            heard: Seq::NONE,
            pings: 0,
            fences: None,
            answer: None,
            mute: None,
        }
    }

    fn control(&mut self, message: &Control) -> (Kind, Status) {
        match message {
            Control::Query { .. } => (Kind::Query, Status::Ok),
            Control::Promise {
                to,
                generation,
                fences,
            } => {
                assert_ne!(*fences, Fences::Dead, "all here ask for takeover");
                self.fences = Some(*fences);
                let other = generation.nonce != self.report.promised.nonce;
                if *fences == Fences::Nobody && other {
                    return (Kind::Promise, Status::StaleGeneration);
                }
                if to.incarnation != self.report.incarnation {
                    return (Kind::Promise, Status::StaleIncarnation);
                }
                if generation.number < self.report.promised.number {
                    return (Kind::Promise, Status::StaleGeneration);
                }
                if to.pool != self.report.pool {
                    return (Kind::Promise, Status::WrongUuid);
                }
                self.report.promised = *generation;
                (Kind::Promise, Status::Ok)
            }
            Control::Install {
                to,
                config,
                assign,
                joins,
                ..
            } => {
                if to.incarnation != self.report.incarnation {
                    return (Kind::Install, Status::StaleIncarnation);
                }
                assert_eq!(config.store(to.member), Some(to.store), "cannot be said");
                if config.generation != self.report.promised {
                    return (Kind::Install, Status::StaleGeneration);
                }
                let own = self.report.member;
                let stays = |old: &Config| old.in_sync.intersection(config.in_sync).contains(own);
                let same_client = |old: &&Config| old.generation == config.generation;
                let old = self.report.installed.as_ref().filter(same_client);
                assert!(!joins || config.receivers().contains(own));
                assert!(!joins || !old.is_some_and(stays), "its copies are in use");
                assert_eq!(*assign, self.report.pool.is_nil());
                let old = self.report.installed.replace(config.clone());
                if let Some(old) = old.filter(|old| old.history == config.history) {
                    assert!(old.epoch < config.epoch, "numbers are never used again");
                }
                self.report.pool = to.pool;
                self.report.serving = true;
                (Kind::Install, Status::Ok)
            }
            Control::Detach { .. } => (Kind::Detach, Status::Ok),
            Control::Ping {
                to,
                generation,
                watermark,
                ..
            } => {
                self.heard = *watermark;
                self.pings += 1;
                let status = if to.incarnation != self.report.incarnation {
                    Status::StaleIncarnation
                } else if *generation != self.report.promised {
                    Status::StaleGeneration
                } else {
                    Status::Ok
                };
                (Kind::Ping, status)
            }
        }
    }
}

enum Queued {
    Up(MemberId),
    Down(MemberId),
    Reply(u64, MemberId, Kind, Status),
    Back(u64),
}

/// A client, and its members.
struct World {
    now: Time,
    nonce: u64,
    equal: bool,
    io_timeout: u64,
    coordinator: Coordinator<HostMemory>,
    data: Data<HostMemory>,
    shell: Shell,
}

struct Shell {
    members: BTreeMap<MemberId, Member>,
    queue: VecDeque<Queued>,
    calls: Vec<(MemberId, u64)>,
    timer: Time,
    /// Copies of requests that are out.
    out: Vec<(Ticket, MemberId)>,
    completed: Vec<(Ticket, Status)>,
    states: Vec<State>,
    answers: Vec<Result<(), Refusal>>,
    kinds: Vec<(MemberId, Kind)>,
    notes: Vec<(MemberId, Refusal)>,
}

impl Shell {
    fn send(&mut self, sending: Sending) {
        for to in sending.targets {
            self.out.push((sending.ticket, to));
        }
    }
}

impl Out for Shell {
    fn act(&mut self, action: Action<'_>) {
        match action {
            Action::Send { call, to, message } => {
                let member = self.members.get_mut(&to).unwrap();
                self.calls.push((to, call));
                if !member.up {
                    self.queue.push_back(Queued::Back(call));
                    return;
                }
                let kind = match message {
                    Message::Control(Control::Query { .. }) => Kind::Query,
                    Message::Control(Control::Promise { .. }) => Kind::Promise,
                    Message::Control(Control::Install { .. }) => Kind::Install,
                    Message::Control(Control::Detach { .. }) => Kind::Detach,
                    Message::Control(Control::Ping { .. }) => Kind::Ping,
                    Message::Merge(_) => Kind::Merge,
                };
                if kind != Kind::Ping {
                    self.kinds.push((to, kind));
                }
                let answer = match (member.answer.take_if(|(k, _)| *k == kind), message) {
                    (Some(answer), _) => answer,
                    (None, Message::Control(control)) => member.control(control),
                    (None, Message::Merge(merge)) => {
                        assert!(!merge.to.pool.is_nil() && !merge.marks.is_empty());
                        assert!(!merge.marks.iter().any(|mark| mark.members().is_empty()));
                        member.merged.extend_from_slice(merge.marks);
                        let right = merge.to.pool == member.report.pool;
                        let wrong = Status::WrongUuid;
                        (Kind::Merge, if right { Status::Ok } else { wrong })
                    }
                };
                if member.mute != Some(kind) {
                    self.queue
                        .push_back(Queued::Reply(call, to, answer.0, answer.1));
                }
            }
            Action::Resend(sending) => self.send(sending),
            Action::Complete(ticket, status) => {
                assert!(self.out.iter().all(|(t, _)| *t != ticket), "a copy is out");
                self.completed.push((ticket, status));
            }
            Action::Close(member) => {
                for (to, call) in &self.calls {
                    if *to == member {
                        self.queue.push_back(Queued::Back(*call));
                    }
                }
                self.queue.push_back(Queued::Down(member));
            }
            Action::Timer(at) => self.timer = at,
            Action::State(state) => self.states.push(state),
            Action::Admin(answer) => self.answers.push(answer),
            Action::Note(member, refusal) => self.notes.push((member, refusal)),
            Action::Open => {}
        }
    }
}

impl World {
    fn new(count: u32) -> Self {
        let members = (1..=count).map(|n| (id(n), Member::new(n))).collect();
        let mut world = Self {
            now: Time(SECOND),
            nonce: 7,
            equal: true,
            io_timeout: 4 * SECOND,
            coordinator: Coordinator::new(HostMemory).unwrap(),
            data: Data::new(&HostMemory, 16).unwrap(),
            shell: Shell {
                members,
                queue: VecDeque::new(),
                calls: vec![],
                timer: Time::NEVER,
                out: vec![],
                completed: vec![],
                states: vec![],
                answers: vec![],
                kinds: vec![],
                notes: vec![],
            },
        };
        for n in 1..=count {
            world.event(Event::LinkUp(id(n)));
        }
        world
    }

    fn attach(count: u32, quorum: Quorum) -> Self {
        let mut world = Self::new(count);
        world.open(quorum);
        assert_eq!(world.coordinator.state(), State::Serving);
        world
    }

    fn open(&mut self, quorum: Quorum) {
        let members = self.shell.members.keys().copied().collect();
        let options = Options {
            name: PoolName::new(b"pool").unwrap(),
            pool: Uuid::NIL,
            members,
            equal: self.equal,
            quorum,
            io_timeout: self.io_timeout,
            on_no_data: OnNoData::Suspend,
            takeover: true,
            max_backoff: 60 * SECOND,
        };
        let random = Random {
            nonce: self.nonce,
            history: Uuid([200; 16]),
            pool: Uuid([100; 16]),
        };
        self.event(Event::Attach(&options, random));
    }

    /// An event, and all that follows at once.
    fn event(&mut self, event: Event<'_>) {
        self.coordinator
            .event(self.now, event, &self.data, &mut self.shell);
        self.follow();
    }

    /// What the coordinator's actions lead to.
    fn follow(&mut self) {
        while let Some(next) = self.shell.queue.pop_front() {
            assert!(self.shell.kinds.len() < 10_000, "messages without end");
            match next {
                Queued::Reply(call, from, kind, status) => {
                    if !self.shell.calls.contains(&(from, call)) {
                        continue;
                    }
                    self.shell.calls.retain(|(_, c)| *c != call);
                    let member = &self.shell.members[&from];
                    let runs = member.suspects.clone();
                    let mut reply = Reply::bare(kind, status);
                    if status.is_ok() && kind != Kind::Merge {
                        reply.report = Some(member.report.clone());
                        if kind == Kind::Promise {
                            reply.suspects = Suspects {
                                all: false,
                                runs: &runs,
                            };
                        }
                    }
                    let event = Event::Reply {
                        call,
                        result: Ok(&reply),
                    };
                    self.coordinator
                        .event(self.now, event, &self.data, &mut self.shell);
                }
                Queued::Back(call) => {
                    self.shell.calls.retain(|(_, c)| *c != call);
                    let event = Event::Reply {
                        call,
                        result: Err(Failure),
                    };
                    self.coordinator
                        .event(self.now, event, &self.data, &mut self.shell);
                }
                Queued::Down(member) => {
                    self.give_back(member);
                    self.coordinator.event(
                        self.now,
                        Event::LinkDown(member),
                        &self.data,
                        &mut self.shell,
                    );
                    if self.shell.members[&member].up {
                        self.shell.queue.push_back(Queued::Up(member));
                    }
                }
                Queued::Up(member) => {
                    self.coordinator.event(
                        self.now,
                        Event::LinkUp(member),
                        &self.data,
                        &mut self.shell,
                    );
                }
            }
        }
    }

    fn give_back(&mut self, member: MemberId) {
        let back = self.shell.out.clone();
        self.shell.out.retain(|(_, to)| *to != member);
        for (ticket, to) in back.into_iter().filter(|(_, to)| *to == member) {
            let event = Event::IoFailed {
                ticket,
                member: to,
                cause: Cause::Transport,
            };
            self.coordinator
                .event(self.now, event, &self.data, &mut self.shell);
        }
    }

    /// The host of a member goes away.
    fn cut(&mut self, number: u32) {
        self.shell.members.get_mut(&id(number)).unwrap().up = false;
        self.shell.queue.push_back(Queued::Down(id(number)));
        self.follow();
    }

    /// It is there again.
    fn find(&mut self, number: u32) {
        self.member(number).up = true;
        self.event(Event::LinkUp(id(number)));
    }

    fn restart(&mut self, number: u32) {
        let member = self.shell.members.get_mut(&id(number)).unwrap();
        member.up = true;
        member.report.incarnation = member.report.incarnation.after(10).unwrap();
        member.report.serving = false;
        self.event(Event::LinkUp(id(number)));
    }

    fn run(&mut self, span: u64) {
        let end = self.now.after(span);
        while self.shell.timer < end {
            self.now = self.now.max(self.shell.timer);
            self.event(Event::Timer);
        }
        self.now = end;
    }

    fn write(&mut self, tag: u32, offset: u64) -> Ticket {
        match self.data.write(tag, Op::Write, offset, 4096) {
            Start::Send(sending) => {
                self.shell.send(sending);
                sending.ticket
            }
            other => panic!("{other:?}"),
        }
    }

    fn ack(&mut self, ticket: Ticket, number: u32, status: Status) -> Ack {
        let copy = (ticket, id(number));
        let place = self.shell.out.iter().position(|c| *c == copy);
        self.shell.out.remove(place.expect("such a copy is out"));
        let acked = self.data.ack(ticket, id(number), status);
        if acked.ack == Ack::Exception {
            self.event(Event::IoFailed {
                ticket,
                member: id(number),
                cause: Cause::Answer(status),
            });
        }
        if let Some(hint) = acked.hint {
            self.event(Event::Hint(hint));
        }
        acked.ack
    }

    /// A copy comes back without an answer.
    fn lost(&mut self, ticket: Ticket, number: u32) {
        let member = id(number);
        self.shell.out.retain(|copy| *copy != (ticket, member));
        self.event(Event::IoFailed {
            ticket,
            member,
            cause: Cause::Transport,
        });
    }

    fn flush(&mut self) -> Ticket {
        match self.data.write(7, Op::Flush, 0, 0) {
            Start::Send(sending) => {
                self.shell.send(sending);
                sending.ticket
            }
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, tag: u32, number: u32) -> Ticket {
        match self.data.read(tag, 0, 4096, |_| Some(id(number))) {
            Start::Send(sending) => {
                self.shell.send(sending);
                sending.ticket
            }
            other => panic!("{other:?}"),
        }
    }

    fn config(&self) -> &Config {
        self.coordinator.config().unwrap()
    }

    fn member(&mut self, number: u32) -> &mut Member {
        self.shell.members.get_mut(&id(number)).unwrap()
    }
}

#[test]
fn first_start() {
    let mut world = World::attach(3, Quorum::Off);
    let config = world.config().clone();
    assert_eq!(config.in_sync, set(&[1, 2, 3]));
    assert_eq!(config.generation.number, 1);
    let report = world.member(2).report.clone();
    assert_eq!(report.installed, Some(config));
    assert_eq!(world.coordinator.geometry(), Some(report.geometry));
    assert_eq!(world.coordinator.limits(), Some(report.limits));
    let ticket = world.write(0, 0);
    assert_eq!(world.ack(ticket, 1, Status::Ok), Ack::Pending);
    assert_eq!(world.ack(ticket, 2, Status::Ok), Ack::Pending);
    assert_eq!(world.ack(ticket, 3, Status::Ok), Ack::Complete(Status::Ok));
    world.event(Event::Detach);
    assert_eq!(world.coordinator.state(), State::Closed);
    let states = [
        State::Attaching,
        State::Serving,
        State::Leaving,
        State::Closed,
    ];
    assert_eq!(world.shell.states, states);
}

#[test]
fn a_detach_waits_for_what_is_in_flight() {
    let mut world = World::new(2);
    world.event(Event::Detach);
    assert_eq!(world.shell.states, []);
    world.open(Quorum::Off);
    assert_eq!(world.coordinator.state(), State::Serving);
    let told = |world: &World| {
        let told = world.shell.kinds.iter();
        told.filter(|(_, kind)| *kind == Kind::Detach).count()
    };
    let ticket = world.write(0, 0);
    world.event(Event::Detach);
    assert_eq!(world.data.write(1, Op::Write, 0, 512), Start::Parked);
    assert_eq!(world.ack(ticket, 1, Status::Busy), Ack::Exception);
    world.run(3 * MILLISECOND);
    assert_eq!(world.ack(ticket, 1, Status::Ok), Ack::Pending);
    assert!(told(&world) == 0 && world.coordinator.state() != State::Closed);
    assert_eq!(world.ack(ticket, 2, Status::Ok), Ack::Complete(Status::Ok));
    assert!(told(&world) == 2 && world.coordinator.state() == State::Closed);
    // It fails when that takes too long, and then nobody is told that all was well.
    world.open(Quorum::Off);
    let ticket = world.write(0, 0);
    world.event(Event::Detach);
    world.now = world.now.after(4 * SECOND);
    world.event(Event::Timer);
    assert_eq!(world.shell.completed, [(ticket, Status::Disconnected)]);
    assert!(told(&world) == 2 && world.coordinator.state() == State::Closed);
}

/// The first client ends before the second member has joined, and before its marks have got anywhere: the next one must
/// not take that for a receiver which only misses what was written since.
#[test]
fn a_member_that_never_had_data() {
    let mut world = World::new(2);
    world.equal = false;
    world.member(1).mute = Some(Kind::Merge);
    world.open(Quorum::Off);
    world.member(1).merged.clear();
    assert_eq!(world.config().receivers(), set(&[1]));
    let members = std::mem::take(&mut world.shell.members);
    let mut next = World::new(2);
    next.shell.members = members;
    next.member(1).mute = None;
    next.nonce = 8;
    next.open(Quorum::Off);
    next.run(SECOND);
    assert_eq!(next.config().in_sync, set(&[1]));
    assert_eq!(next.config().catching_up, set(&[2]));
    let all = Mark::new(Run::new(0, 1024), set(&[2]));
    assert_eq!(next.member(1).merged, [all]);
}

#[test]
fn drop_rejoin_promote() {
    let mut world = World::attach(3, Quorum::Off);
    let ticket = world.write(0, 3 << 16);
    assert_eq!(world.ack(ticket, 1, Status::Ok), Ack::Pending);
    assert_eq!(world.ack(ticket, 2, Status::Ok), Ack::Pending);
    world.cut(3);
    assert!(world.shell.completed.is_empty());
    world.run(2 * SECOND);
    assert_eq!(world.shell.completed, [(ticket, Status::Ok)]);
    assert_eq!(world.config().in_sync, set(&[1, 2]));
    let mark = Mark::new(Run::new(3, 1), set(&[3]));
    assert_eq!(world.member(1).merged, [mark]);
    assert_eq!(world.member(2).merged, [mark]);

    world.member(3).suspects = vec![Run::new(9, 2)];
    world.restart(3);
    world.run(SECOND);
    assert_eq!(world.config().catching_up, set(&[3]));
    assert_eq!(
        Some(world.config().incarnation(id(3))),
        Incarnation(10).after(10)
    );
    let mark = Mark::new(Run::new(9, 2), set(&[3]));
    assert!((1..=3).all(|n| world.member(n).merged.last() == Some(&mark)));
    // It receives, but does not answer reads.
    assert_eq!(world.data.receivers(), set(&[1, 2, 3]));
    assert_eq!(world.data.readers(), set(&[1, 2]));

    world.member(3).report.progress = Progress::Dirty { chunks: 2, rate: 0 };
    world.run(SECOND);
    assert_eq!(world.config().catching_up, set(&[3]));
    world.member(3).report.progress = Progress::Ready;
    world.member(3).answer = Some((Kind::Install, Status::NotReady));
    world.run(SECOND);
    assert_eq!(world.config().in_sync, set(&[1, 2, 3]));
    assert_eq!(world.coordinator.state(), State::Serving);
}

/// A ping each second, and ten to a member that catches up.
#[test]
fn how_often_members_are_asked() {
    let mut world = World::attach(3, Quorum::Off);
    world.cut(3);
    world.run(2 * SECOND);
    world.member(3).report.progress = Progress::Dirty { chunks: 2, rate: 0 };
    world.restart(3);
    world.run(SECOND);
    assert_eq!(world.config().catching_up, set(&[3]));
    let pings = |world: &mut World| [1, 2, 3].map(|number| world.member(number).pings);
    let before = pings(&mut world);
    world.run(10 * SECOND);
    for ((after, before), each) in pings(&mut world).iter().zip(before).zip([10, 10, 100]) {
        let pings = after - before;
        assert!(
            (each * 9 / 10..=each * 12 / 10).contains(&pings),
            "{pings}, not {each}"
        );
    }
}

/// A copy of its promise that comes late makes a member serve nobody; without IO only a ping tells.
#[test]
fn a_member_that_stopped_serving() {
    let mut world = World::attach(2, Quorum::Off);
    let before = world.config().epoch;
    let member = world.member(2);
    member.report.serving = false;
    member.answer = Some((Kind::Ping, Status::StaleEpoch));
    world.run(3 * SECOND);
    assert!(world.config().epoch > before);
    assert!(world.config().receivers().contains(id(2)));
}

/// That it cannot answer now says nothing against a member.
#[test]
fn a_ping_that_comes_at_a_bad_time() {
    let later = [
        Status::Busy,
        Status::NoMemory,
        Status::TimedOut,
        Status::Disconnected,
    ];
    for status in later {
        let mut world = World::attach(2, Quorum::Off);
        world.member(2).answer = Some((Kind::Ping, status));
        world.run(3 * SECOND);
        assert!(world.member(2).answer.is_none());
        assert_eq!(world.config().epoch, Epoch(1), "{status}");
    }
}

/// While there are writes, they tell how far all is complete; after the last one a message does, soon.
#[test]
fn the_watermark_is_told_when_writes_end() {
    let mut world = World::attach(2, Quorum::Off);
    world.run(100 * MILLISECOND);
    let end = |world: &mut World, ticket: Ticket| {
        assert_eq!(world.ack(ticket, 1, Status::Ok), Ack::Pending);
        assert_eq!(world.ack(ticket, 2, Status::Ok), Ack::Complete(Status::Ok));
    };
    let told = |world: &mut World, millis| {
        world.run(millis * MILLISECOND);
        [1, 2].map(|n| world.member(n).heard.0)
    };
    let first = world.write(0, 0);
    end(&mut world, first);
    let second = world.write(1, 1 << 16);
    assert_eq!(told(&mut world, 15), [0, 0]);
    end(&mut world, second);
    assert_eq!(told(&mut world, 20), [2, 2]);
    // One at a time, with pauses: none of them leads to a message, the end of all does.
    for _ in 0..100 {
        let next = world.write(0, 0);
        assert_eq!(told(&mut world, 3), [2, 2]);
        end(&mut world, next);
        assert_eq!(told(&mut world, 3), [2, 2]);
    }
    assert_eq!(told(&mut world, 17), [102, 102]);
}

#[test]
fn reads_go_where_there_is_a_connection() {
    let mut world = World::attach(2, Quorum::Off);
    world.cut(2);
    assert_eq!(world.data.readers(), set(&[1]));
    world.cut(1);
    assert_eq!(world.data.readers(), set(&[1, 2]));
    world.find(2);
    assert_eq!(world.data.readers(), set(&[2]));
    world.find(1);
    assert_eq!(world.data.readers(), set(&[1, 2]));
}

#[test]
fn second_failure_during_a_drop() {
    let mut world = World::attach(3, Quorum::Off);
    let ticket = world.write(0, 0);
    world.ack(ticket, 1, Status::Ok);
    world.member(2).answer = Some((Kind::Merge, Status::Io));
    world.cut(3);
    world.run(2 * SECOND);
    assert_eq!(world.config().in_sync, set(&[1]));
    assert_eq!(world.shell.completed, [(ticket, Status::Ok)]);
    let both = Mark::new(Run::new(0, 1), set(&[2, 3]));
    assert!(world.member(1).merged.contains(&both));
}

#[test]
fn the_timer_rests_while_a_change_waits() {
    let mut world = World::attach(3, Quorum::Off);
    let ticket = world.write(0, 0);
    // Something is to be sent again soon; before that, everything is frozen until a slow member has answered.
    world.ack(ticket, 2, Status::Busy);
    world.member(1).mute = Some(Kind::Install);
    world.ack(ticket, 3, Status::StaleIncarnation);
    assert_eq!(world.coordinator.state(), State::Changing);
    let end = world.now.after(SECOND);
    let mut woken = 0;
    while world.shell.timer < end {
        world.now = world.shell.timer;
        world.event(Event::Timer);
        woken += 1;
        assert!(woken < 100, "woken again and again");
    }
}

/// Nobody in sync is left: before all else the connections are closed, however long that takes.
#[test]
fn the_timer_rests_while_connections_are_closed() {
    let mut world = World::attach(2, Quorum::Off);
    world.cut(2);
    world.run(2 * SECOND);
    world.restart(2);
    assert_eq!(world.config().catching_up, set(&[2]));
    world.cut(1);
    world.now = world.now.after(2 * SECOND);
    let shell = &mut world.shell;
    shell.timer = Time::NEVER;
    world
        .coordinator
        .event(world.now, Event::Timer, &world.data, shell);
    assert_eq!(world.coordinator.state(), State::Held);
    assert_eq!(world.shell.timer, Time::NEVER);
}

/// A member may take half of the time that IO may wait for it.
#[test]
fn a_member_that_hangs_in_a_change() {
    let mut world = World::attach(3, Quorum::Off);
    world.member(2).mute = Some(Kind::Install);
    world.event(Event::Admin(Admin::Maintenance(id(3), true)));
    world.run(2 * SECOND);
    assert_eq!(world.coordinator.state(), State::Changing);
    world.run(1);
    assert_eq!(world.coordinator.state(), State::Serving);
    assert_eq!(world.config().in_sync, set(&[1]));
}

#[test]
fn hung_member() {
    let mut world = World::attach(2, Quorum::Off);
    let ticket = world.write(0, 0);
    world.ack(ticket, 1, Status::Ok);
    world.run(5 * SECOND);
    assert_eq!(world.shell.completed, [(ticket, Status::Ok)]);
}

/// The clock is set back: nothing has to wait until it is as late as it was.
#[test]
fn hung_member_and_a_clock_that_jumps() {
    let mut world = World::attach(2, Quorum::Off);
    world.run(100 * SECOND);
    let ticket = world.write(0, 0);
    world.ack(ticket, 1, Status::Ok);
    world.now = Time(SECOND);
    world.event(Event::Timer);
    world.run(6 * SECOND);
    assert_eq!(world.shell.completed, [(ticket, Status::Ok)]);
}

#[test]
fn nobody_left() {
    let mut world = World::attach(2, Quorum::Off);
    let ticket = world.write(0, 0);
    world.cut(2);
    world.run(2 * SECOND);
    world.cut(1);
    world.run(2 * SECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    assert_eq!(world.data.write(1, Op::Write, 0, 512), Start::Parked);
    // The same run of the only one in sync: on with a new generation.
    world.member(1).up = true;
    world.event(Event::LinkUp(id(1)));
    world.run(SECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    assert_eq!(world.config().generation.number, 2);
    assert_eq!(world.shell.out, [(ticket, id(1))]);
    assert_eq!(world.ack(ticket, 1, Status::Ok), Ack::Complete(Status::Ok));
}

/// Three members, all lost at once, with a write in flight.
fn all_lost() -> (World, Ticket) {
    let mut world = World::attach(3, Quorum::Off);
    let ticket = world.write(0, 0);
    for n in 1..=3 {
        world.cut(n);
    }
    world.run(4 * SECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    (world, ticket)
}

#[test]
fn one_of_those_in_sync_is_enough() {
    let (mut world, ticket) = all_lost();
    assert_eq!(world.member(2).fences, Some(Fences::Alive));
    world.find(2);
    world.run(SECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    assert_eq!(world.config().in_sync, set(&[2]));
    // Not if another client has begun with it.
    assert_eq!(world.member(2).fences, Some(Fences::Nobody));
    assert_eq!(world.shell.out, [(ticket, id(2))]);
    assert_eq!(world.ack(ticket, 2, Status::Ok), Ack::Complete(Status::Ok));
    // The others come back as members that missed something.
    world.find(1);
    world.find(3);
    world.run(5 * SECOND);
    assert_eq!(world.config().receivers(), set(&[1, 2, 3]));
}

#[test]
fn all_are_waited_for_for_a_while() {
    let mut world = World::attach(3, Quorum::Off);
    for n in 1..=3 {
        world.cut(n);
    }
    // One and two seconds: the connections', and that of all.
    world.run(1100 * MILLISECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    world.find(2);
    world.run(1500 * MILLISECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    world.find(1);
    world.find(3);
    world.run(400 * MILLISECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    assert_eq!(world.config().in_sync, set(&[1, 2, 3]));
}

#[test]
fn nobody_waits_for_all_longer_than_requests_may() {
    let mut world = World::new(3);
    world.io_timeout = SECOND;
    world.open(Quorum::Off);
    for n in 1..=3 {
        world.cut(n);
    }
    world.run(300 * MILLISECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    world.find(2);
    world.run(900 * MILLISECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    assert_eq!(world.config().in_sync, set(&[2]));
}

/// Member 1 was in sync alone, 2 was promoted, and 1 has not heard of it: it could start alone. So it has what comes next
/// before 2 is asked to install it.
#[test]
fn who_could_start_alone_hears_first() {
    let mut world = World::attach(2, Quorum::Off);
    let config = world.config().clone();
    let mut next = World::new(2);
    next.nonce = 8;
    for n in 1..=2 {
        next.member(n).report = world.member(n).report.clone();
    }
    next.member(1).report.installed = Some(Config {
        in_sync: set(&[1]),
        catching_up: set(&[2]),
        ..config.clone()
    });
    next.member(2).report.installed = Some(Config {
        epoch: config.epoch.next().unwrap(),
        ..config
    });
    next.member(1).mute = Some(Kind::Install);
    next.open(Quorum::Off);
    next.run(SECOND);
    assert_eq!(next.coordinator.state(), State::Attaching);
    assert!(next.shell.kinds.contains(&(id(1), Kind::Install)));
    assert!(!next.shell.kinds.contains(&(id(2), Kind::Install)));
    next.member(1).mute = None;
    next.run(20 * SECOND);
    assert_eq!(next.coordinator.state(), State::Serving);
    assert!(next.shell.kinds.contains(&(id(2), Kind::Install)));
}

/// Member 2 was told that 3 is out, and says so to nobody: 3 alone is not enough any more.
#[test]
fn who_may_have_been_left_out_is_not() {
    let mut world = World::attach(3, Quorum::Off);
    world.cut(3);
    for n in 1..=2 {
        world.member(n).mute = Some(Kind::Install);
    }
    world.run(1100 * MILLISECOND);
    assert_eq!(world.coordinator.state(), State::Changing);
    for n in 1..=2 {
        world.cut(n);
        world.member(n).mute = None;
    }
    world.find(3);
    world.run(20 * SECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    world.find(2);
    world.run(SECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    assert_eq!(world.config().receivers(), set(&[2, 3]));
    assert!(!world.config().in_sync.contains(id(3)));
}

/// Another client was promised the only member that is there, with a lower number than this one's: it may have begun with others.
#[test]
fn who_promised_another_is_not_enough() {
    let (mut world, _) = all_lost();
    // It tries with a third one, in vain.
    world.member(2).mute = Some(Kind::Promise);
    world.find(2);
    world.run(20 * SECOND);
    world.cut(2);
    world.member(2).mute = None;
    assert_eq!(world.coordinator.state(), State::Held);
    let other = Generation {
        number: 2,
        nonce: 1000,
    };
    world.member(1).report.promised = other;
    world.find(1);
    world.run(20 * SECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    // With all of them it is seen that nothing was begun.
    world.find(2);
    world.find(3);
    world.run(5 * SECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
}

/// A member has another store by now, and is to be replaced; before that, a configuration is due in which it has the old one.
#[test]
fn another_store_gets_no_configuration_of_the_old_one() {
    let mut world = World::attach(3, Quorum::Off);
    world.cut(3);
    world.member(2).report.store = Uuid([77; 16]);
    world.event(Event::Admin(Admin::Replace(id(2))));
    world.run(3 * SECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    assert!(!world.config().receivers().contains(id(3)));
    assert!(world.config().in_sync.contains(id(1)));
}

#[test]
fn restarted_with_unflushed_data() {
    let mut world = World::attach(1, Quorum::Off);
    let ticket = world.write(0, 0);
    world.ack(ticket, 1, Status::Ok);
    world.cut(1);
    world.restart(1);
    world.run(3 * SECOND);
    assert_eq!(world.coordinator.state(), State::Lost);
    let write = world.data.write(1, Op::Write, 0, 512);
    assert_eq!(write, Start::Fail(Status::Io));
}

/// The only member with all data restarts after a flush that was not answered as it should.
#[test]
fn restarted_after_a_flush() {
    let after = |world: &mut World| {
        world.cut(1);
        world.restart(1);
        world.run(3 * SECOND);
        world.coordinator.state()
    };
    let mut world = World::attach(1, Quorum::Off);
    let ticket = world.write(0, 0);
    assert_eq!(world.ack(ticket, 1, Status::Ok), Ack::Complete(Status::Ok));
    let flush = world.flush();
    assert_eq!(world.ack(flush, 1, Status::Io), Ack::Exception);
    assert_eq!(world.shell.completed, [(flush, Status::Io)]);
    assert_eq!(after(&mut world), State::Lost);
    // It was good where it counts: the other member was dropped.
    let mut world = World::attach(2, Quorum::Off);
    let ticket = world.write(0, 0);
    assert_eq!(world.ack(ticket, 1, Status::Ok), Ack::Pending);
    assert_eq!(world.ack(ticket, 2, Status::Ok), Ack::Complete(Status::Ok));
    let flush = world.flush();
    assert_eq!(world.ack(flush, 1, Status::Ok), Ack::Pending);
    world.cut(2);
    world.run(2 * SECOND);
    assert_eq!(world.shell.completed, [(flush, Status::Ok)]);
    assert_eq!(after(&mut world), State::Serving);
}

#[test]
fn restarted_with_all_flushed() {
    let mut world = World::attach(1, Quorum::Off);
    let ticket = world.write(0, 0);
    world.ack(ticket, 1, Status::Ok);
    let flush = world.flush();
    assert_eq!(world.ack(flush, 1, Status::Ok), Ack::Complete(Status::Ok));
    world.cut(1);
    world.restart(1);
    world.run(3 * SECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
}

/// The only member with all data fails to install, and is there again with the same incarnation: what its cache held is gone.
#[test]
fn who_failed_while_nobody_was_left() {
    for status in [Status::Io, Status::Medium, Status::NoSpace] {
        let mut world = World::attach(1, Quorum::Off);
        let ticket = world.write(0, 0);
        assert_eq!(world.ack(ticket, 1, Status::Ok), Ack::Complete(Status::Ok));
        world.cut(1);
        world.run(2 * SECOND);
        world.member(1).answer = Some((Kind::Install, status));
        world.find(1);
        world.run(3 * SECOND);
        assert_eq!(world.coordinator.state(), State::Lost, "{status}");
    }
}

#[test]
fn held_requests_fail_on_demand() {
    let mut world = World::attach(1, Quorum::Off);
    let ticket = world.write(0, 0);
    world.cut(1);
    world.run(2 * SECOND);
    assert!(world.shell.completed.is_empty());
    world.event(Event::Admin(Admin::OnNoData(OnNoData::Error)));
    assert_eq!(world.shell.completed.len(), 1);
    assert_eq!(world.shell.completed[0].0, ticket);
    assert!(!world.shell.completed[0].1.is_ok());
    let write = |world: &World| world.data.write(1, Op::Write, 0, 512);
    assert_eq!(write(&world), Start::Fail(Status::Disconnected));
    world.event(Event::Admin(Admin::OnNoData(OnNoData::Suspend)));
    assert_eq!(write(&world), Start::Parked);
    // There is data, just not this moment.
    let (mut world, _) = draining(2, |world| world.write(0, 0));
    world.event(Event::Admin(Admin::OnNoData(OnNoData::Error)));
    assert_eq!(write(&world), Start::Parked);
}

#[test]
fn last_member_in_sync_fails_a_write() {
    let mut world = World::attach(2, Quorum::Off);
    world.cut(2);
    world.run(2 * SECOND);
    // Up to the end of a chunk, and no further.
    let ticket = world.write(0, (6 << 16) - 4096);
    assert_eq!(world.ack(ticket, 1, Status::Medium), Ack::Exception);
    assert_eq!(world.shell.completed, [(ticket, Status::Medium)]);
    assert_eq!(world.config().in_sync, set(&[1]));
    let mark = Mark::new(Run::new(5, 1), set(&[2]));
    assert_eq!(world.member(1).merged, [mark]);
    assert_eq!(world.data.watermark().0, 1);
}

#[test]
fn bad_block_is_repaired() {
    let mut world = World::attach(2, Quorum::Off);
    let read = world.read(0, 2);
    assert_eq!(world.ack(read, 2, Status::Medium), Ack::Exception);
    assert_eq!(world.shell.out, [(read, id(1))]);
    let Ack::Repair(write) = world.ack(read, 1, Status::Ok) else {
        panic!("not repaired");
    };
    assert_eq!((write.op, write.targets), (Op::Write, set(&[1, 2])));
    world.shell.send(write);
    assert_eq!(world.ack(write.ticket, 1, Status::Ok), Ack::Pending);
    assert_eq!(
        world.ack(write.ticket, 2, Status::Ok),
        Ack::Complete(Status::Ok)
    );
}

/// What a member did not execute is sent again, at once or after a pause, and costs it nothing.
#[test]
fn what_is_sent_again() {
    let mut world = World::attach(2, Quorum::Off);
    world.run(100 * MILLISECOND);
    let read = world.read(1, 2);
    let write = world.write(0, 0);
    let both = [(read, id(2)), (write, id(1)), (write, id(2))];
    assert_eq!(world.shell.out, both);
    let sorted = |world: &World| {
        let mut out = world.shell.out.clone();
        out.sort_by_key(|(ticket, to)| (*ticket != read, to.get()));
        out
    };
    assert_eq!(world.ack(write, 1, Status::StaleEpoch), Ack::Exception);
    assert_eq!(sorted(&world), both);
    let later = [
        Status::Busy,
        Status::NoMemory,
        Status::OutOfWindow,
        Status::LogFull,
        Status::TimedOut,
        Status::Disconnected,
    ];
    for status in later {
        assert_eq!(world.ack(write, 1, status), Ack::Exception);
        let pause = if status == Status::Disconnected {
            10
        } else {
            2
        };
        world.run(pause * MILLISECOND);
        assert_eq!(world.shell.out.len(), 2, "{status}");
        world.run(1);
        assert_eq!(sorted(&world), both, "{status}");
    }
    world.lost(write, 1);
    world.run(11 * MILLISECOND);
    assert_eq!(sorted(&world), both);
    assert_eq!(world.config().epoch, Epoch(1));
    // What is no refusal of a message costs it its place.
    assert_eq!(world.ack(write, 1, Status::WrongUuid), Ack::Exception);
    world.run(10 * MILLISECOND);
    assert_eq!(world.config().in_sync, set(&[2]));
}

#[test]
fn who_is_asked_when_a_read_fails() {
    let mut world = World::attach(3, Quorum::Off);
    world.run(100 * MILLISECOND);
    let read = world.read(0, 2);
    world.lost(read, 2);
    assert_eq!(world.shell.out, [(read, id(1))]);
    assert_eq!(world.ack(read, 1, Status::Medium), Ack::Exception);
    assert_eq!(world.shell.out, [(read, id(3))]);
    // The second may still have it: all over again, after a pause.
    world.lost(read, 3);
    assert_eq!(world.shell.out, []);
    world.run(10 * MILLISECOND);
    assert_eq!(world.shell.out, []);
    world.run(1);
    assert_eq!(world.shell.out, [(read, id(3))]);
    for number in [3, 1, 2] {
        assert_eq!(world.shell.out, [(read, id(number))]);
        assert_eq!(world.ack(read, number, Status::Medium), Ack::Exception);
    }
    assert_eq!(world.shell.completed, [(read, Status::Medium)]);
    assert_eq!(world.config().in_sync, set(&[1, 2, 3]));
}

/// The only other member that can read it has no connection just now.
#[test]
fn a_read_that_fails_waits_for_who_is_away() {
    let mut world = World::attach(2, Quorum::Off);
    world.run(100 * MILLISECOND);
    world.cut(2);
    let read = world.read(0, 1);
    assert_eq!(world.ack(read, 1, Status::Medium), Ack::Exception);
    assert!(world.shell.out.is_empty() && world.shell.completed.is_empty());
    world.run(11 * MILLISECOND);
    assert_eq!(world.shell.out, [(read, id(1))]);
    world.find(2);
    assert_eq!(world.ack(read, 1, Status::Medium), Ack::Exception);
    assert_eq!(world.shell.out, [(read, id(2))]);
    // However often that was tried, it is bad.
    assert!(matches!(world.ack(read, 2, Status::Ok), Ack::Repair(_)));
}

/// Who is to answer a read later is gone by then: another one is asked. That one may have been before; it has failed no less.
#[test]
fn a_read_whose_member_goes_away() {
    let mut world = World::attach(3, Quorum::Off);
    world.run(100 * MILLISECOND);
    let read = world.read(0, 1);
    assert_eq!(world.ack(read, 1, Status::Medium), Ack::Exception);
    assert_eq!(world.shell.out, [(read, id(2))]);
    assert_eq!(world.ack(read, 2, Status::Busy), Ack::Exception);
    world.cut(2);
    world.run(3 * MILLISECOND);
    assert_eq!(world.shell.out, [(read, id(1))]);
    assert_eq!(world.ack(read, 1, Status::Medium), Ack::Exception);
    assert_eq!(world.shell.out, [(read, id(3))]);
    // Only the second is left, and is waited for.
    assert_eq!(world.ack(read, 3, Status::Medium), Ack::Exception);
    assert_eq!(world.shell.out, []);
}

/// A member learns at once what it may forget.
#[test]
fn a_full_log_is_told_the_watermark() {
    let mut world = World::attach(2, Quorum::Off);
    world.run(100 * MILLISECOND);
    let write = world.write(0, 0);
    world.member(1).mute = Some(Kind::Ping);
    for (status, told) in [(Status::Busy, false), (Status::LogFull, true)] {
        assert_eq!(world.ack(write, 1, status), Ack::Exception);
        let pinged = world.shell.calls.iter().any(|(to, _)| *to == id(1));
        assert_eq!(pinged, told, "{status}");
        world.run(3 * MILLISECOND);
    }
}

#[test]
fn suspects_shrink_the_in_sync_set() {
    let mut world = World::attach(3, Quorum::Off);
    let members = std::mem::take(&mut world.shell.members);
    let mut next = World::new(3);
    next.shell.members = members;
    next.member(2).suspects = vec![Run::new(4, 1)];
    next.nonce = 8;
    next.open(Quorum::Off);
    assert_eq!(next.coordinator.state(), State::Serving);
    assert_eq!(next.config().in_sync, set(&[1]));
    assert_eq!(next.config().catching_up, set(&[2, 3]));
    let mark = Mark::new(Run::new(4, 1), set(&[2, 3]));
    assert!((1..=3).all(|n| next.member(n).merged == [mark]));
    // The first client stops for good when it hears of the other.
    world.shell.members = next.shell.members;
    world.run(3 * SECOND);
    assert_eq!(world.coordinator.state(), State::Fenced);
    assert!(matches!(
        world.data.write(0, Op::Write, 0, 512),
        Start::Fail(_)
    ));
}

/// There is nobody whose copy could be wrong.
#[test]
fn suspects_of_the_only_member() {
    let mut world = World::attach(1, Quorum::Off);
    world.event(Event::Detach);
    world.member(1).suspects = vec![Run::new(5, 2)];
    world.open(Quorum::Off);
    assert_eq!(world.coordinator.state(), State::Serving);
    assert!(world.member(1).merged.is_empty());
}

/// A store that was added and has not joined yet belongs to no pool: it is told nothing, and takes all as dirty.
#[test]
fn suspects_are_not_told_to_a_store_without_pool() {
    let mut world = World::attach(2, Quorum::Off);
    let mut third = Member::new(3);
    third.mute = Some(Kind::Promise);
    world.shell.members.insert(id(3), third);
    world.event(Event::LinkUp(id(3)));
    world.event(Event::Admin(Admin::Add(id(3))));
    assert_eq!(world.config().table(), set(&[1, 2, 3]));
    let mut next = World::new(3);
    next.shell.members = std::mem::take(&mut world.shell.members);
    next.member(2).suspects = vec![Run::new(4, 1)];
    next.member(3).mute = None;
    next.nonce = 8;
    next.open(Quorum::Off);
    assert_eq!(next.coordinator.state(), State::Serving);
    let mark = Mark::new(Run::new(4, 1), set(&[2, 3]));
    assert!([1, 2]
        .iter()
        .all(|n| next.member(*n).merged.contains(&mark)));
    assert!(!next.member(3).merged.contains(&mark));
}

#[test]
fn without_suspects_all_stay_in_sync() {
    let mut world = World::attach(3, Quorum::Off);
    let members = std::mem::take(&mut world.shell.members);
    let mut next = World::new(3);
    next.shell.members = members;
    next.nonce = 8;
    next.open(Quorum::Off);
    assert_eq!(next.config().in_sync, set(&[1, 2, 3]));
    assert!((1..=3).all(|n| next.member(n).merged.is_empty()));
}

#[test]
fn a_lost_race_is_run_again() {
    let mut world = World::new(2);
    // The shortest of all pauses.
    world.nonce = 1;
    world.member(1).answer = Some((Kind::Promise, Status::StaleGeneration));
    world.open(Quorum::Off);
    assert_eq!(world.coordinator.state(), State::Attaching);
    world.run(2 * MILLISECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    // Promised once in vain.
    assert_eq!(world.config().generation.number, 2);
}

/// Who comes a little later is part of the same attempt.
#[test]
fn connections_that_come_one_after_the_other() {
    let mut world = World::new(2);
    world.cut(1);
    world.cut(2);
    world.open(Quorum::Off);
    world.find(1);
    world.run(4 * MILLISECOND);
    world.find(2);
    assert_eq!(world.shell.kinds, []);
    world.run(2 * MILLISECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
}

#[test]
fn a_missing_member_in_sync_is_waited_for() {
    let mut world = World::attach(2, Quorum::Off);
    let members = std::mem::take(&mut world.shell.members);
    let mut next = World::new(2);
    next.shell.members = members;
    next.cut(2);
    next.open(Quorum::Off);
    next.run(SECOND);
    assert_eq!(next.coordinator.state(), State::Attaching);
    assert_eq!(
        next.coordinator.refusal(),
        Some(Refusal::Missing(set(&[2])))
    );
    next.event(Event::Admin(Admin::Force {
        lost: set(&[2]),
        history: Uuid([77; 16]),
    }));
    next.run(SECOND);
    assert_eq!(next.coordinator.state(), State::Serving);
    assert_eq!(next.config().history, Uuid([77; 16]));
    assert_eq!(next.config().forked_from.unwrap().history, Uuid([200; 16]));
}

#[test]
fn no_majority_no_io() {
    let mut world = World::attach(3, Quorum::Majority);
    world.cut(3);
    world.run(2 * SECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    world.cut(2);
    world.run(2 * SECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    world.member(3).up = true;
    world.event(Event::LinkUp(id(3)));
    world.run(2 * SECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    assert_eq!(world.config().in_sync, set(&[1]));
}

#[test]
fn members_come_and_go() {
    let mut world = World::attach(2, Quorum::Off);
    world.shell.members.insert(id(3), Member::new(3));
    world.event(Event::LinkUp(id(3)));
    world.event(Event::Admin(Admin::Add(id(3))));
    assert_eq!(world.shell.answers, [Ok(())]);
    let all = Mark::new(Run::new(0, 1024), set(&[3]));
    assert!(world.member(1).merged.contains(&all));
    world.run(SECOND);
    assert_eq!(world.config().catching_up, set(&[3]));
    world.event(Event::Admin(Admin::Maintenance(id(2), true)));
    world.run(MILLISECOND);
    assert_eq!(world.config().in_sync, set(&[1]));
    world.event(Event::Admin(Admin::Remove(id(1))));
    world.event(Event::Admin(Admin::Remove(id(2))));
    world.run(MILLISECOND);
    assert_eq!(
        world.shell.answers[1..],
        [Ok(()), Err(Refusal::LastCopy(id(1))), Ok(())]
    );
    assert_eq!(world.config().table(), set(&[1, 3]));
}

/// All of its data comes from the others; its place and its store stay.
#[test]
fn a_member_whose_data_is_not_trusted() {
    let mut world = World::attach(3, Quorum::Off);
    let before = world.config().clone();
    world.event(Event::Admin(Admin::Invalidate(id(2))));
    assert_eq!(world.shell.answers, [Ok(())]);
    assert_eq!(world.config().in_sync, set(&[1, 3]));
    let all = Mark::new(Run::new(0, 1024), set(&[2]));
    for other in [1, 3] {
        assert!(world.member(other).merged.contains(&all));
    }
    world.run(SECOND);
    assert_eq!(world.config().catching_up, set(&[2]));
    assert_eq!(world.config().store(id(2)), before.store(id(2)));
}

/// What it has of a request in flight is given back before that ends without it. If all who are left are in sync, nothing is
/// marked.
#[test]
fn who_leaves_gives_back_what_is_in_flight() {
    for command in [
        Admin::Maintenance(id(2), true),
        Admin::Invalidate(id(2)),
        Admin::Remove(id(2)),
    ] {
        let mut world = World::attach(2, Quorum::Off);
        let ticket = world.write(0, 0);
        assert_eq!(world.ack(ticket, 1, Status::Ok), Ack::Pending);
        world.event(Event::Admin(command));
        assert_eq!(world.shell.answers, [Ok(())], "{command:?}");
        assert_eq!(world.shell.completed, [(ticket, Status::Ok)]);
        assert_eq!(world.shell.out, []);
    }
}

/// A connection that is soon back costs its member nothing.
#[test]
fn a_command_waits_for_a_connection() {
    let mut world = World::attach(3, Quorum::Off);
    world.cut(3);
    world.event(Event::Admin(Admin::Maintenance(id(2), true)));
    world.run(SECOND / 2);
    assert_eq!(world.shell.answers, []);
    world.find(3);
    world.run(SECOND / 2);
    assert_eq!(world.shell.answers, [Ok(())]);
    assert_eq!(world.config().in_sync, set(&[1, 3]));
}

/// Its connection goes after the change began, and before it was asked for anything.
#[test]
fn a_member_that_goes_away_in_a_change() {
    let mut world = World::attach(3, Quorum::Off);
    world.cut(3);
    world.run(2 * SECOND);
    world.restart(3);
    assert_eq!(world.config().catching_up, set(&[3]));
    world.member(1).mute = Some(Kind::Install);
    world.event(Event::Admin(Admin::Maintenance(id(2), true)));
    world.cut(3);
    let (to, call) = *world.shell.calls.last().unwrap();
    assert_eq!(to, id(1));
    let late = Queued::Reply(call, to, Kind::Install, Status::Ok);
    world.member(1).mute = None;
    world.shell.queue.push_back(late);
    world.follow();
    assert_eq!(world.shell.answers, [Err(Refusal::Missing(set(&[3])))]);
    assert_eq!(world.config().receivers(), set(&[1]));
}

#[test]
fn commands_that_make_no_sense() {
    let mut world = World::attach(2, Quorum::Off);
    world.shell.members.insert(id(3), Member::new(3));
    world.event(Event::LinkUp(id(3)));
    let mut answer = |command: Admin, change: &dyn Fn(&mut MemberReport)| {
        let third = &mut world.member(3).report;
        *third = Member::new(3).report;
        change(third);
        world.event(Event::Admin(command));
        world.run(MILLISECOND);
        world.shell.answers.pop().unwrap()
    };
    let outsider = [
        Admin::Remove(id(3)),
        Admin::Maintenance(id(3), true),
        Admin::Replace(id(3)),
        Admin::Invalidate(id(3)),
    ];
    for command in outsider {
        let refusal = Err(Refusal::NotMember(id(3)));
        assert_eq!(answer(command, &|_| ()), refusal, "{command:?}");
    }
    let done = [
        Admin::Add(id(2)),
        Admin::Replace(id(2)),
        Admin::Maintenance(id(2), false),
    ];
    for command in done {
        let refusal = Err(Refusal::Already(id(2)));
        assert_eq!(answer(command, &|_| ()), refusal, "{command:?}");
    }
    // Stores that do not fit.
    let mut add = |change: &dyn Fn(&mut MemberReport)| answer(Admin::Add(id(3)), change);
    let other = add(&|report| report.member = id(4));
    assert_eq!(other, Err(Refusal::NotMember(id(3))));
    let pool = add(&|report| report.pool = Uuid([101; 16]));
    assert_eq!(pool, Err(Refusal::Pool(id(3))));
    let copy = add(&|report| report.store = Uuid([1; 16]));
    assert_eq!(copy, Err(Refusal::SameStore(id(3))));
    let smaller = add(&|report| report.geometry = Geometry::new(32 << 20, 16).unwrap());
    assert_eq!(smaller, Err(Refusal::Geometry(id(3))));
    let blocks = add(&|report| report.limits.logical_block = 4096);
    assert_eq!(blocks, Err(Refusal::Geometry(id(3))));
    assert_eq!(answer(Admin::Maintenance(id(2), true), &|_| ()), Ok(()));
    let last = Err(Refusal::LastCopy(id(1)));
    for command in [Admin::Replace(id(1)), Admin::Invalidate(id(1))] {
        assert_eq!(answer(command, &|_| ()), last, "{command:?}");
    }
    assert_eq!(world.config().table(), set(&[1, 2]));
}

#[test]
fn a_command_while_nobody_is_there() {
    let mut world = World::attach(2, Quorum::Off);
    world.cut(1);
    world.cut(2);
    world.run(2 * SECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    world.event(Event::Admin(Admin::Maintenance(id(2), true)));
    assert_eq!(world.shell.answers, [Err(Refusal::NotNow)]);
}

#[test]
fn an_attach_that_others_prevent() {
    let mut world = World::new(2);
    world.member(2).answer = Some((Kind::Promise, Status::InUse));
    world.open(Quorum::Off);
    world.run(MILLISECOND);
    let alive = State::Failed(Refusal::InUse(id(2)));
    assert_eq!(world.coordinator.state(), alive);
    // Somebody else is faster, each time.
    let mut world = World::new(2);
    world.member(2).answer = Some((Kind::Promise, Status::StaleGeneration));
    world.open(Quorum::Off);
    let mut lost = 1;
    while world.coordinator.state() == State::Attaching {
        assert!(lost < 1000, "gives up some time");
        world.member(2).answer = Some((Kind::Promise, Status::StaleGeneration));
        world.run(MILLISECOND / 2);
        lost += u32::from(world.member(2).answer.is_none());
    }
    assert_eq!(world.coordinator.state(), State::Failed(Refusal::Busy));
    assert_eq!(lost, 9);
}

#[test]
fn a_join_waits_for_what_is_in_flight() {
    let mut world = World::attach(2, Quorum::Off);
    world.cut(2);
    world.run(2 * SECOND);
    let ticket = world.write(0, 0);
    world.restart(2);
    world.run(300 * MILLISECOND);
    assert_eq!(world.config().receivers(), set(&[1]));
    assert_eq!(world.ack(ticket, 1, Status::Ok), Ack::Complete(Status::Ok));
    world.run(SECOND);
    assert_eq!(world.config().receivers(), set(&[1, 2]));
}

/// Two members, of which 2 comes back while something is in flight on the other one: requests are parked.
fn draining(count: u32, start: impl Fn(&mut World) -> Ticket) -> (World, Ticket) {
    let mut world = World::attach(count, Quorum::Off);
    world.cut(2);
    world.run(2 * SECOND);
    let ticket = start(&mut world);
    world.restart(2);
    let write = world.data.write(9, Op::Write, 0, 512);
    assert_eq!(write, Start::Parked);
    assert!(!world.config().receivers().contains(id(2)));
    (world, ticket)
}

#[test]
fn a_join_does_not_wait_for_long() {
    let (mut world, _) = draining(2, |world| world.write(0, 0));
    world.run(200 * MILLISECOND);
    let write = world.data.write(9, Op::Write, 0, 512);
    assert_eq!(write, Start::Parked);
    world.run(1);
    // And then it rests.
    for _ in 0..9 {
        let read = world.read(9, 1);
        assert_eq!(world.ack(read, 1, Status::Ok), Ack::Complete(Status::Ok));
        world.run(10 * MILLISECOND);
    }
    assert_eq!(world.config().receivers(), set(&[1]));
}

#[test]
fn a_join_waits_for_a_flush_and_for_no_read() {
    let (mut world, flush) = draining(2, World::flush);
    assert_eq!(world.ack(flush, 1, Status::Ok), Ack::Complete(Status::Ok));
    assert_eq!(world.config().receivers(), set(&[1, 2]));
    let mut world = World::attach(2, Quorum::Off);
    world.cut(2);
    world.run(2 * SECOND);
    world.read(0, 1);
    world.restart(2);
    assert_eq!(world.config().receivers(), set(&[1, 2]));
}

/// What cannot wait ends the wait for what is in flight.
#[test]
fn a_join_gives_way() {
    let (mut world, write) = draining(3, |world| world.write(0, 0));
    assert_eq!(world.ack(write, 1, Status::Ok), Ack::Pending);
    assert_eq!(world.ack(write, 3, Status::WrongUuid), Ack::Exception);
    assert_eq!(world.shell.completed, [(write, Status::Ok)]);
    assert_eq!(world.config().in_sync, set(&[1]));
    let (mut world, write) = draining(2, |world| world.write(0, 0));
    assert_eq!(world.ack(write, 1, Status::Medium), Ack::Exception);
    assert_eq!(world.shell.completed, [(write, Status::Medium)]);
}

/// Of three members the third comes back, and this one answers a message of this kind so, once.
fn coming_back(number: u32, kind: Kind, status: Status) -> World {
    let mut world = World::attach(3, Quorum::Off);
    world.cut(3);
    world.run(2 * SECOND);
    assert_eq!(world.config().epoch, Epoch(2));
    world.member(3).suspects = vec![Run::new(9, 2)];
    world.member(number).answer = Some((kind, status));
    world.restart(3);
    assert!(world.member(number).answer.is_none());
    world
}

#[test]
fn a_join_that_fails() {
    // Nobody was asked to install anything: all stays as it is. Tried again after a pause.
    let mut world = coming_back(3, Kind::Merge, Status::Io);
    assert_eq!(world.config().epoch, Epoch(2));
    assert_eq!(world.config().receivers(), set(&[1, 2]));
    world.run(SECOND);
    assert_eq!(world.config().receivers(), set(&[1, 2, 3]));
    // The others were: they have to have another configuration, and who was to join is not in it.
    for status in [Status::Io, Status::Busy] {
        let mut world = coming_back(3, Kind::Install, status);
        let config = world.config().clone();
        assert_eq!(config.receivers(), set(&[1, 2]));
        for number in [1, 2] {
            assert_eq!(
                world.member(number).report.installed.as_ref(),
                Some(&config)
            );
        }
        world.run(SECOND);
        assert_eq!(world.config().receivers(), set(&[1, 2, 3]));
    }
    // Another one fails: who joins has no part in that, and does so without a pause.
    let world = coming_back(2, Kind::Merge, Status::Io);
    assert_eq!(world.config().in_sync, set(&[1]));
    assert_eq!(world.config().catching_up, set(&[3]));
}

/// Only who refuses because it is too early stays; it may have become one in sync otherwise, without saying so.
#[test]
fn a_promotion_that_fails() {
    let later = set(&[1, 2, 3]);
    for (status, receivers) in [
        (Status::NotReady, later),
        (Status::Busy, later),
        (Status::Io, set(&[1, 2])),
    ] {
        let mut world = World::attach(3, Quorum::Off);
        world.cut(3);
        world.run(2 * SECOND);
        world.restart(3);
        assert_eq!(world.config().catching_up, set(&[3]));
        let member = world.member(3);
        member.report.progress = Progress::Ready;
        member.answer = Some((Kind::Install, status));
        assert!((0..1000).any(|_| {
            world.run(MILLISECOND);
            world.member(3).answer.is_none()
        }));
        assert_eq!(world.config().receivers(), receivers, "{status}");
        world.run(SECOND);
        assert_eq!(world.config().in_sync, set(&[1, 2, 3]));
    }
}

/// The connection leads to another member of the pool: that one is not taken for it.
#[test]
fn a_connection_to_somebody_else() {
    let mut world = World::attach(3, Quorum::Off);
    world.cut(2);
    world.run(2 * SECOND);
    world.member(2).report = world.member(3).report.clone();
    world.find(2);
    world.run(SECOND);
    assert_eq!(world.config().epoch, Epoch(2));
    assert_eq!(world.config().receivers(), set(&[1, 3]));
}

/// Each of these alone keeps a store out.
#[test]
fn a_store_that_does_not_fit_any_more() {
    let smaller = |report: &mut MemberReport| {
        report.geometry = Geometry::new(32 << 20, 16).unwrap();
    };
    let blocks = |report: &mut MemberReport| report.limits.logical_block = 4096;
    let changes: [&dyn Fn(&mut MemberReport); 2] = [&smaller, &blocks];
    for change in changes {
        let mut world = World::attach(2, Quorum::Off);
        world.cut(2);
        world.run(2 * SECOND);
        change(&mut world.member(2).report);
        world.restart(2);
        world.run(SECOND);
        assert_eq!(world.config().receivers(), set(&[1]));
        assert_eq!(world.shell.notes, [(id(2), Refusal::Geometry(id(2)))]);
    }
}

/// Member 2 of two is about to join, with nothing suspect: all the same every chunk of it is marked.
fn joins_with_everything(mut world: World) {
    world.member(1).merged.clear();
    world.find(2);
    world.run(SECOND);
    assert_eq!(world.config().catching_up, set(&[2]));
    let all = Mark::new(Run::new(0, 1024), set(&[2]));
    assert_eq!(world.member(1).merged, [all]);
}

#[test]
fn who_joins_with_nothing_that_counts() {
    // The client before wanted it to be a receiver; it has not heard of that.
    let mut world = World::attach(1, Quorum::Off);
    let config = world.config().clone();
    let mut next = World::new(2);
    next.member(1).report = world.member(1).report.clone();
    let member = next.member(2).report.clone();
    let mut told = Config {
        epoch: config.epoch.next().unwrap(),
        catching_up: set(&[2]),
        ..config
    };
    told.members[1] = Some(member.store);
    told.incarnations[1] = member.incarnation;
    next.member(1).report.installed = Some(told);
    next.cut(2);
    next.nonce = 8;
    next.open(Quorum::Off);
    assert_eq!(next.coordinator.state(), State::Serving);
    joins_with_everything(next);
    // What it has is of another history, and was given up.
    let mut world = World::attach(2, Quorum::Off);
    world.cut(2);
    world.run(2 * SECOND);
    world.member(2).report.installed.as_mut().unwrap().history = Uuid([77; 16]);
    world.find(2);
    world.run(SECOND);
    assert_eq!(world.shell.notes, [(id(2), Refusal::Diverged(id(2)))]);
    world.cut(2);
    world.event(Event::Admin(Admin::Discard(id(2))));
    joins_with_everything(world);
}

/// A member that was asked how it is has promised another client meanwhile. That can wait until a change is through.
#[test]
fn a_change_goes_on_when_a_member_is_gone_for_good() {
    let mut world = World::attach(3, Quorum::Off);
    world.cut(3);
    world.run(2 * SECOND);
    world.member(3).mute = Some(Kind::Query);
    world.find(3);
    let (to, call) = *world.shell.calls.last().unwrap();
    assert_eq!(to, id(3));
    world.member(1).mute = Some(Kind::Install);
    world.event(Event::Admin(Admin::Maintenance(id(2), true)));
    assert_eq!(world.coordinator.state(), State::Changing);
    world.member(3).report.promised = Generation {
        number: 1,
        nonce: 1000,
    };
    let late = Queued::Reply(call, to, Kind::Query, Status::Ok);
    world.shell.queue.push_back(late);
    world.follow();
    assert_eq!(world.coordinator.state(), State::Changing);
}

/// What it pulled may be of a write that has not come to it (seed 22586).
#[test]
fn a_promotion_waits_for_what_is_in_flight() {
    let mut world = World::attach(2, Quorum::Off);
    world.cut(2);
    world.run(2 * SECOND);
    world.restart(2);
    world.run(SECOND);
    assert_eq!(world.config().catching_up, set(&[2]));
    let ticket = world.write(0, 0);
    assert_eq!(world.ack(ticket, 1, Status::Ok), Ack::Pending);
    world.member(2).report.progress = Progress::Ready;
    world.run(SECOND);
    assert_eq!(world.config().catching_up, set(&[2]));
    assert_eq!(world.ack(ticket, 2, Status::Ok), Ack::Complete(Status::Ok));
    world.run(2 * SECOND);
    assert_eq!(world.config().in_sync, set(&[1, 2]));
}

#[test]
fn another_pool_of_the_same_name() {
    let mut world = World::attach(2, Quorum::Off);
    let mut other = World::attach(1, Quorum::Off);
    let foreign = &mut other.member(1).report;
    foreign.pool = Uuid([101; 16]);
    foreign.promised.number = 1000;
    let installed = foreign.installed.as_mut().unwrap();
    installed.generation.number = 1000;
    let mut next = World::new(2);
    next.shell.members = std::mem::take(&mut world.shell.members);
    let own = next.shell.members.remove(&id(1)).unwrap();
    next.shell.members.append(&mut other.shell.members);
    next.nonce = 8;
    next.open(Quorum::Off);
    next.run(SECOND);
    assert!(matches!(next.coordinator.refusal(), Some(Refusal::Pool(_))));
    // Nor if it is alone: its table is another one.
    next.cut(2);
    next.run(SECOND);
    assert_eq!(next.coordinator.refusal(), Some(Refusal::NotMember(id(2))));
    assert_eq!(next.coordinator.state(), State::Attaching);
    next.shell.members.insert(id(1), own);
    next.member(2).up = true;
    next.event(Event::LinkUp(id(2)));
    next.run(SECOND);
    assert_eq!(next.coordinator.state(), State::Serving);
}

/// Some may know already that it is out, and another client may start without it.
#[test]
fn who_leaves_does_not_come_back_because_the_others_fail() {
    let commands = [
        Admin::Remove(id(2)),
        Admin::Maintenance(id(2), true),
        Admin::Replace(id(2)),
    ];
    for command in commands {
        let mut world = World::attach(3, Quorum::Off);
        if matches!(command, Admin::Replace(_)) {
            world.member(2).report.store = Uuid([22; 16]);
            world.member(2).report.installed = None;
        }
        world.member(1).mute = Some(Kind::Install);
        world.event(Event::Admin(command));
        world.run(MILLISECOND);
        let told = world.member(3).report.installed.clone().unwrap();
        assert_eq!(told.in_sync, set(&[1, 3]));
        world.event(Event::LinkUp(id(2)));
        world.cut(1);
        world.cut(3);
        world.run(10 * SECOND);
        assert_eq!(world.coordinator.state(), State::Held, "{command:?}");
    }
}

#[test]
fn what_was_acknowledged_is_not_given_up_behind_an_open_device() {
    let mut world = World::attach(2, Quorum::Off);
    let ticket = world.write(0, 0);
    world.ack(ticket, 1, Status::Ok);
    assert_eq!(world.ack(ticket, 2, Status::Ok), Ack::Complete(Status::Ok));
    world.cut(2);
    world.cut(1);
    // 1 may have lost the write, and 2 does not come back.
    world.restart(1);
    world.run(SECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    world.event(Event::Admin(Admin::Force {
        lost: set(&[2]),
        history: Uuid([77; 16]),
    }));
    world.run(SECOND);
    assert_eq!(world.coordinator.state(), State::Lost);
}

/// Both members are away, and another client forces a start with 2 alone, from the epoch `behind` the one in force.
fn forced_elsewhere(behind: u64) -> World {
    let mut world = World::attach(2, Quorum::Off);
    // An epoch of which 2 may or may not know.
    world.cut(2);
    world.run(SECOND);
    world.restart(2);
    world.run(SECOND);
    let mut config = world.config().clone();
    let mut fork = config.epoch;
    fork.0 -= behind;
    world.cut(2);
    world.cut(1);
    config.forked_from = Some(Fork {
        history: config.history,
        epoch: fork,
    });
    config.history = Uuid([77; 16]);
    config.generation = Generation {
        number: config.generation.number + 1,
        nonce: config.generation.nonce + 1,
    };
    let member = world.member(2);
    member.report.promised = config.generation;
    member.report.installed = Some(config);
    world.restart(2);
    world.run(SECOND);
    world
}

#[test]
fn who_was_forced_away_stops() {
    let world = forced_elsewhere(0);
    assert_eq!(world.coordinator.state(), State::Fenced);
    let write = world.data.write(1, Op::Write, 0, 512);
    assert_eq!(write, Start::Fail(Status::Fenced));
}

#[test]
fn what_others_forced_is_not_gone_on_with() {
    let mut world = forced_elsewhere(1);
    assert_eq!(world.coordinator.state(), State::Held);
    // The one who has all that was completed comes back.
    world.shell.members.get_mut(&id(1)).unwrap().up = true;
    world.event(Event::LinkUp(id(1)));
    world.run(SECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    assert_eq!(world.config().in_sync, set(&[1]));
}

/// While it was held, this client tried higher generations than the one with which another took over.
#[test]
fn who_was_replaced_while_it_was_held_stops() {
    let mut world = World::attach(1, Quorum::Off);
    world.cut(1);
    world.run(3 * SECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    for _ in 0..3 {
        world.member(1).answer = Some((Kind::Promise, Status::Busy));
        world.restart(1);
        world.run(6 * MILLISECOND);
        world.cut(1);
        world.run(SECOND);
    }
    assert_eq!(world.coordinator.state(), State::Held);
    let mut config = world.config().clone();
    config.epoch.0 += 1;
    config.generation.number += 1;
    config.generation.nonce += 1;
    let member = world.member(1);
    member.report.promised = config.generation;
    member.report.installed = Some(config);
    member.up = true;
    world.event(Event::LinkUp(id(1)));
    world.run(SECOND);
    assert_eq!(world.coordinator.state(), State::Fenced);
}

/// Started so often since that its incarnation is a new one, it still does not know of the promise it gave.
#[test]
fn an_old_copy_that_restarts_again_and_again() {
    let mut world = World::attach(2, Quorum::Off);
    let old = world.member(2).report.clone();
    let mut next = World::new(2);
    next.shell.members = std::mem::take(&mut world.shell.members);
    next.nonce = 8;
    next.open(Quorum::Off);
    assert_eq!(next.coordinator.state(), State::Serving);
    let mut third = World::new(2);
    third.shell.members = std::mem::take(&mut next.shell.members);
    third.member(2).up = true;
    third.member(2).report = old;
    for _ in 0..5 {
        third.restart(2);
    }
    third.nonce = 9;
    third.open(Quorum::Off);
    third.run(SECOND);
    assert_eq!(third.coordinator.state(), State::Attaching);
    assert_eq!(
        third.coordinator.refusal(),
        Some(Refusal::Missing(set(&[2])))
    );
}

#[test]
fn a_command_that_leaves_no_majority_holds_nothing() {
    for command in [Admin::Remove(id(2)), Admin::Maintenance(id(2), true)] {
        let mut world = World::attach(2, Quorum::Majority);
        let before = world.shell.states.len();
        world.event(Event::Admin(command));
        world.run(SECOND);
        let refused = Err(Refusal::NoMajority(set(&[2])));
        assert_eq!(world.shell.answers, [refused], "{command:?}");
        assert_eq!(world.shell.states.len(), before, "{command:?}");
        assert_eq!(world.config().in_sync, set(&[1, 2]));
    }
}

/// A member that only kept configurations restarts, unnoticed; without it there is no majority.
#[test]
fn a_witness_that_restarted_is_asked_once() {
    let mut world = World::attach(3, Quorum::Majority);
    world.event(Event::Admin(Admin::Maintenance(id(2), true)));
    world.cut(3);
    world.run(3 * SECOND);
    assert_eq!(world.config().receivers(), set(&[1]));
    let member = world.member(2);
    member.report.incarnation = member.report.incarnation.after(10).unwrap();
    world.event(Event::Admin(Admin::Maintenance(id(2), false)));
    world.run(SECOND);
    world.event(Event::LinkUp(id(1)));
    world.event(Event::LinkUp(id(2)));
    world.run(3 * SECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    assert!(world.config().receivers().contains(id(1)));
}

/// A start is forced with one of three. It can replace and remove the others, and is opened again without force; who came
/// counts from then on.
#[test]
fn a_forced_minority_is_repaired() {
    let mut world = World::attach(3, Quorum::Majority);
    world.cut(2);
    world.cut(3);
    world.run(3 * SECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    let force = Admin::Force {
        lost: set(&[2, 3]),
        history: Uuid([201; 16]),
    };
    world.event(Event::Admin(force));
    assert_eq!(world.coordinator.state(), State::Serving);
    assert_eq!(world.config().voters(), set(&[1]));
    world.cut(1);
    world.member(1).up = true;
    world.event(Event::LinkUp(id(1)));
    world.run(3 * SECOND);
    assert_eq!(world.coordinator.state(), State::Serving);
    let mut new = Member::new(2);
    new.report.store = Uuid([22; 16]);
    world.shell.members.insert(id(2), new);
    world.event(Event::LinkUp(id(2)));
    world.event(Event::Admin(Admin::Replace(id(2))));
    world.event(Event::Admin(Admin::Remove(id(3))));
    world.run(3 * SECOND);
    assert_eq!(world.shell.answers, [Ok(()); 3]);
    assert_eq!(world.config().table(), set(&[1, 2]));
    assert_eq!(world.config().receivers(), set(&[1, 2]));
    assert_eq!(world.config().voters(), set(&[1, 2]));
    world.cut(2);
    world.run(3 * SECOND);
    assert_eq!(world.coordinator.state(), State::Held);
}

/// Who promises while others install does not count as one that has.
#[test]
fn a_witness_that_was_not_asked_does_not_count() {
    let mut world = World::attach(6, Quorum::Majority);
    world.event(Event::Admin(Admin::Maintenance(id(4), true)));
    world.cut(5);
    world.cut(6);
    world.run(3 * SECOND);
    // Without the third there is a majority only if the fourth promises, and keeps configurations.
    world.cut(3);
    world.run(3 * SECOND);
    assert_eq!(world.coordinator.state(), State::Held);
    world.member(2).suspects = vec![Run::new(5, 1)];
    world.restart(3);
    world.run(3 * SECOND);
    assert_eq!(world.config().catching_up, set(&[2, 3]));
    let call = |world: &World, of: u32| {
        let mut calls = world.shell.calls.iter();
        calls.find(|(to, _)| *to == id(of)).unwrap().1
    };
    // It takes long to promise.
    world.member(5).mute = Some(Kind::Promise);
    world.restart(5);
    world.run(SECOND / 4);
    let promise = call(&world, 5);
    world.member(3).mute = Some(Kind::Install);
    world.member(4).answer = Some((Kind::Install, Status::Io));
    world.event(Event::Admin(Admin::Maintenance(id(6), true)));
    let late = Queued::Reply(promise, id(5), Kind::Promise, Status::Ok);
    world.shell.queue.push_back(late);
    world.follow();
    let install = Queued::Reply(call(&world, 3), id(3), Kind::Install, Status::Ok);
    world.shell.queue.push_back(install);
    world.follow();
    assert_eq!(world.shell.answers[1..], [Err(Refusal::Missing(set(&[4])))]);
}

/// Member 2 is started so often that its incarnation says nothing.
fn put_back(world: &mut World, old: MemberReport) {
    world.member(2).report = old;
    for _ in 0..5 {
        world.restart(2);
    }
}

#[test]
fn an_old_copy_that_was_dropped_since() {
    let mut world = World::attach(3, Quorum::Off);
    let old = world.member(2).report.clone();
    // All in one generation: another is dropped, then this one.
    world.cut(3);
    world.run(3 * SECOND);
    assert_eq!(world.config().receivers(), set(&[1, 2]));
    world.cut(2);
    world.run(3 * SECOND);
    assert_eq!(world.config().receivers(), set(&[1]));
    let good = world.member(2).report.clone();
    put_back(&mut world, old);
    world.run(5 * SECOND);
    assert_eq!(world.config().receivers(), set(&[1]));
    // That is said once, however often it is tried.
    let why = Refusal::RolledBack(id(2));
    assert_eq!(world.shell.notes, [(id(2), why)]);
    // Its own disk is put back.
    world.cut(2);
    put_back(&mut world, good);
    world.run(5 * SECOND);
    assert_eq!(world.config().receivers(), set(&[1, 2]));
}

#[test]
fn an_old_copy_in_an_attach() {
    let mut world = World::attach(3, Quorum::Off);
    let old = world.member(2).report.clone();
    for number in [3, 2] {
        world.cut(number);
        world.run(3 * SECOND);
    }
    let mut next = World::new(3);
    next.shell.members = std::mem::take(&mut world.shell.members);
    next.member(1).up = true;
    put_back(&mut next, old);
    next.nonce = 8;
    next.open(Quorum::Off);
    next.run(SECOND);
    assert_eq!(next.coordinator.state(), State::Serving);
    assert_eq!(next.config().receivers(), set(&[1]));
}
