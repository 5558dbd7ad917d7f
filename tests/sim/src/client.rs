// SPDX-License-Identifier: GPL-2.0

//! A client: the shell around the client half of the engine, with the application above it.
//!
//! Translates answers and links into events of the coordinator, and its actions back; sends requests as the hot path says.
//! What its actions cause at once (a message without a session, a closed session) is given back as the next events.

use crate::app::App;
use crate::env::Env;
use crate::env::Event as WorldEvent;
use crate::network::Answer;
use crate::network::Host;
use crate::network::Packet;
use crate::observer;
use crate::plan::MS;
use crate::plan::SECOND;
use crate::room::encoded;
use crate::store;
use crate::store::Crc;
use crate::workload::What;
use crate::workload::Workload;
use litemap::LiteMap;
use rmr_engine::client::Ack;
use rmr_engine::client::Acked;
use rmr_engine::client::Action;
use rmr_engine::client::Admin;
use rmr_engine::client::Cause;
use rmr_engine::client::Coordinator;
use rmr_engine::client::Data;
use rmr_engine::client::Event;
use rmr_engine::client::Failure;
use rmr_engine::client::Hint;
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
use rmr_engine::overlap::Insert;
use rmr_engine::overlap::Node;
use rmr_engine::overlap::Overlap;
use rmr_engine::overlap::Shard;
use rmr_engine::sync::HostLock;
use rmr_engine::time::Time;
use rmr_proto::BatchEncoder;
use rmr_proto::Config;
use rmr_proto::Flags;
use rmr_proto::Kind;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Quorum;
use rmr_proto::Reply;
use rmr_proto::Request;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::MAX_BATCH_BYTES;
use std::collections::VecDeque;
use std::rc::Rc;

/// A call that is not answered.
#[derive(Clone, Copy, Debug, Hash)]
enum Sent {
    /// A control message: the coordinator's number for it.
    Control(u64, Kind),
    /// A request.
    Io(Ticket, MemberId),
}

/// Something the coordinator is to hear of.
#[derive(Clone, Debug, Hash)]
enum Todo {
    Attach(Options, Random),
    Detach,
    Link(MemberId, bool),
    Reply(u64, Kind, Option<Vec<u8>>),
    Failed(Ticket, MemberId, Cause),
    Hint(Hint),
    Timer,
    Admin(Admin),
}

/// An action of the coordinator.
#[derive(Debug)]
enum Act {
    Send(u64, MemberId, Kind, Vec<u8>),
    Resend(Sending),
    Complete(Ticket, Status),
    Open,
    Close(MemberId),
    Timer(Time),
    State(State),
    Admin(String),
    Note(MemberId, Refusal),
}

/// Keeps actions until the coordinator returns.
struct Outbox(Vec<Act>);

impl Out for Outbox {
    fn act(&mut self, action: Action<'_>) {
        self.0.push(match action {
            Action::Send { call, to, message } => {
                let (kind, bytes) = encode(&message);
                Act::Send(call, to, kind, bytes)
            }
            Action::Resend(sending) => Act::Resend(sending),
            Action::Complete(ticket, status) => Act::Complete(ticket, status),
            Action::Open => Act::Open,
            Action::Close(member) => Act::Close(member),
            Action::Timer(at) => Act::Timer(at),
            Action::State(state) => Act::State(state),
            Action::Admin(result) => Act::Admin(format!("{result:?}")),
            Action::Note(member, why) => Act::Note(member, why),
        });
    }
}

/// The bytes of a message; none if the engine made one that cannot be sent.
fn encode(message: &Message<'_>) -> (Kind, Vec<u8>) {
    match message {
        Message::Control(control) => {
            let bytes = encoded(|room| control.encode::<Crc>(room));
            (control.kind(), bytes)
        }
        Message::Merge(merge) => (Kind::Merge, encoded(|room| merge.encode::<Crc>(room))),
    }
}

/// An opening of the device.
#[derive(Clone, Hash)]
pub struct Client {
    opening: u32,
    host: Host,
    app: App,
    data: Data<HostMemory>,
    coordinator: Coordinator<HostMemory>,
    overlap: Overlap<Vec<Node>, Vec<HostLock<Shard>>>,
    sent: LiteMap<u64, Sent>,
    parked: VecDeque<u32>,
    todo: VecDeque<Todo>,
    timer: Time,
    /// Threads that wait for the device to appear.
    threads: Vec<u32>,
    appeared: bool,
    closing: bool,
    over: bool,
    /// It knows the pool by its name only.
    by_name: bool,
    /// Commands of the administrator that are not answered.
    commands: u32,
    /// The last one was refused.
    refused: bool,
    /// Members that it said have old copies.
    rolled_back: MemberSet,
}

impl Client {
    /// An opening of the device on a host of its own. `None` if the engine refuses.
    pub fn new(opening: u32) -> Option<Client> {
        let nodes = (0..crate::app::TAGS).map(|_| Node::new()).collect();
        let shards = (0..4).map(|_| HostLock::new(Shard::new())).collect();
        Some(Client {
            opening,
            host: Host::Client(opening),
            app: App::new(opening),
            data: Data::new(&HostMemory, crate::app::TAGS as usize).ok()?,
            coordinator: Coordinator::new(HostMemory).ok()?,
            overlap: Overlap::new(nodes, shards)?,
            sent: LiteMap::new(),
            parked: VecDeque::new(),
            todo: VecDeque::new(),
            timer: Time::NEVER,
            threads: Vec::new(),
            appeared: false,
            closing: false,
            over: false,
            by_name: false,
            commands: 0,
            refused: false,
            rolled_back: MemberSet::EMPTY,
        })
    }

    /// Attaches to a pool, in the hosts of these members; `pool` is nil if its UUID is not known, and `named` are the members it
    /// is said to have then.
    pub fn open(
        &mut self,
        env: &mut Env,
        workload: &mut Workload,
        pool: Uuid,
        members: &[u8],
        named: MemberSet,
        takeover: bool,
    ) {
        let Some(name) = store::name() else { return };
        let nonce = env.uuids.any();
        env.observer.opening(self.opening, nonce);
        env.line(&self.host, format_args!("opens, takeover: {takeover}"));
        let options = Options {
            name,
            pool,
            members: named,
            equal: true,
            quorum: if env.plan.quorum {
                Quorum::Majority
            } else {
                Quorum::Off
            },
            io_timeout: env.plan.io_timeout,
            on_no_data: if env.plan.fail_without_data {
                OnNoData::Error
            } else {
                OnNoData::Suspend
            },
            takeover,
            max_backoff: 60 * SECOND,
        };
        self.by_name = pool.is_nil();
        let random = Random {
            nonce,
            history: Uuid::from_random(env.uuids.bytes()),
            pool: Uuid::from_random(env.uuids.bytes()),
        };
        self.tell(env, workload, Todo::Attach(options, random));
        let now = env.now();
        for &member in members {
            env.network.open(now, self.host, Host::Member(member));
        }
    }

    /// Closes the device in order.
    pub fn close(&mut self, env: &mut Env, workload: &mut Workload) {
        if !self.over {
            env.line(&self.host, format_args!("closes the device"));
            self.closing = true;
            self.app.close();
            self.tell(env, workload, Todo::Detach);
        }
    }

    /// A command of the administrator.
    pub fn command(&mut self, env: &mut Env, workload: &mut Workload, admin: Admin) {
        env.line(&self.host, format_args!("command {admin:?}"));
        self.commands += 1;
        self.tell(env, workload, Todo::Admin(admin));
    }

    /// The coordinator's timer is due.
    pub fn timer(&mut self, env: &mut Env, workload: &mut Workload) {
        if self.timer <= env.clock(self.host) {
            self.timer = Time::NEVER;
            env.timer_due(self.host);
            self.tell(env, workload, Todo::Timer);
        }
    }

    /// A thread of the application goes on.
    pub fn work(&mut self, env: &mut Env, workload: &mut Workload, thread: u32) {
        if !self.appeared {
            self.threads.push(thread);
            return;
        }
        if let Some(tag) = self.app.next(env, workload, thread) {
            self.enter(env, workload, tag);
            self.work_off(env, workload);
        }
    }

    /// A session is there, or gone.
    pub fn link(&mut self, env: &mut Env, workload: &mut Workload, member: u8, up: bool) {
        if let Some(member) = MemberId::new(member.into()) {
            self.tell(env, workload, Todo::Link(member, up));
        }
    }

    /// A session broke: its calls come back, then it is gone.
    pub fn broken(&mut self, env: &mut Env, workload: &mut Workload, member: u8, calls: &[u64]) {
        for call in calls {
            self.give_back(*call);
        }
        self.link(env, workload, member, false);
    }

    fn give_back(&mut self, call: u64) {
        match self.sent.remove(&call) {
            Some(Sent::Control(call, kind)) => {
                self.todo.push_back(Todo::Reply(call, kind, None));
            }
            Some(Sent::Io(ticket, member)) => {
                let failed = Todo::Failed(ticket, member, Cause::Transport);
                self.todo.push_back(failed);
            }
            None => {}
        }
    }

    /// A call is answered.
    pub fn answer(&mut self, env: &mut Env, workload: &mut Workload, call: u64, answer: Answer) {
        match self.sent.remove(&call) {
            None => {}
            Some(Sent::Control(call, kind)) => {
                let bytes = (answer.status == Status::Ok).then_some(answer.bytes);
                self.todo.push_back(Todo::Reply(call, kind, bytes));
            }
            Some(Sent::Io(ticket, member)) => {
                self.acked(env, workload, ticket, member, answer);
            }
        }
        self.work_off(env, workload);
    }

    /// When its timer is due, by its own clock.
    pub fn timer_at(&self) -> Time {
        self.timer
    }

    /// Whether the device is there: it has served.
    pub fn has_appeared(&self) -> bool {
        self.appeared
    }

    /// Whether this opening will never serve again.
    pub fn is_useless(&self) -> bool {
        self.over || self.closing
    }

    /// Whether no request waits for an answer.
    pub fn is_idle(&self) -> bool {
        self.app.is_idle()
    }

    /// What it says of itself.
    pub fn state_now(&self) -> State {
        self.coordinator.state()
    }

    /// Whether it serves.
    pub fn is_serving(&self) -> bool {
        matches!(self.coordinator.state(), State::Serving)
    }

    /// Whether it cannot start, for now.
    pub fn is_waiting(&self) -> bool {
        matches!(self.coordinator.state(), State::Attaching | State::Held)
    }

    /// Whether it knows no more of the pool than a name, and does not find it.
    pub fn is_lost_for_name(&self) -> bool {
        self.by_name && !self.appeared && self.is_waiting()
    }

    /// Whether a command of the administrator is under way.
    pub fn has_command(&self) -> bool {
        self.commands > 0
    }

    /// Whether the last of them was refused.
    pub fn has_refused(&self) -> bool {
        self.refused
    }

    /// Members that it said have old copies.
    pub fn rolled_back(&self) -> MemberSet {
        self.rolled_back
    }

    /// The last complete configuration, as the client knows it.
    pub fn config(&self) -> Option<&Config> {
        self.coordinator.config()
    }

    /// Reads all that was ever written. False if it cannot.
    pub fn read_back(&mut self, env: &mut Env, workload: &mut Workload) -> bool {
        if !self.is_serving() || self.is_useless() {
            return false;
        }
        let ranges = workload.ranges();
        self.app.read_back(env, workload, &ranges);
        true
    }

    // Requests.

    /// A new request: it waits for those it overlaps with.
    fn enter(&mut self, env: &mut Env, workload: &mut Workload, tag: u32) {
        let Some(io) = self.app.io(tag) else { return };
        let request = io.request;
        if request.what != What::Flush {
            let range = request.sector * 512..(request.sector + request.count) * 512;
            match self.overlap.insert(tag, range, request.is_write()) {
                Insert::Admitted => {}
                Insert::Held => return,
                Insert::Refused => {
                    env.wrong(
                        "Shell",
                        format!("tag {tag} is refused by the overlap check"),
                    );
                    return;
                }
            }
        }
        self.start(env, workload, tag);
    }

    fn start(&mut self, env: &mut Env, workload: &mut Workload, tag: u32) {
        let Some(io) = self.app.io(tag) else { return };
        let request = io.request;
        let (offset, len) = (request.sector * 512, (request.count * 512) as u32);
        let start = match request.what {
            What::Read => self.data.read(tag, offset, len, |members| {
                let all: Vec<MemberId> = members.iter().collect();
                env.random.pick(&all)
            }),
            What::Write(_) => self.data.write(tag, Op::Write, offset, len),
            What::Zeroes(_) => self.data.write(tag, Op::WriteZeroes, offset, len),
            What::Flush => self.data.write(tag, Op::Flush, 0, 0),
        };
        match start {
            Start::Send(sending) => self.send(env, &sending),
            Start::Parked => self.parked.push_back(tag),
            Start::Fail(status) => self.complete(env, workload, tag, status),
        }
    }

    fn start_parked(&mut self, env: &mut Env, workload: &mut Workload) {
        for tag in std::mem::take(&mut self.parked) {
            self.start(env, workload, tag);
        }
    }

    fn send(&mut self, env: &mut Env, sending: &Sending) {
        let ticket = sending.ticket;
        let Some(io) = self.app.io(ticket.tag) else {
            return;
        };
        let asked = io.request;
        let values = io.values.clone();
        let flags = match asked.what {
            What::Write(fua) => Flags::new(fua, false),
            What::Zeroes(fua) => Flags::new(fua, true),
            What::Read | What::Flush => Flags::EMPTY,
        };
        let is_flush = sending.op == Op::Flush;
        let request = Request {
            op: sending.op,
            flags,
            seq: sending.seq,
            offset: if is_flush { 0 } else { asked.sector * 512 },
            len: if is_flush {
                0
            } else {
                (asked.count * 512) as u32
            },
            data_offset: 0,
        };
        for to in sending.targets.iter() {
            let header = self.data.header(sending, to);
            let mut buf = [0; MAX_BATCH_BYTES];
            let mut encoder = BatchEncoder::new(&mut buf);
            let bytes = match encoder.push(&request).map(|_| ()) {
                Ok(()) => encoder.finish::<Crc>(&header).map(<[u8]>::to_vec),
                Err(why) => Err(why),
            };
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(why) => {
                    let text = format!("{request:?} with {header:?} cannot be sent: {why}");
                    env.wrong("Encoding", text);
                    continue;
                }
            };
            let data: Rc<[u64]> = match sending.op {
                Op::Write => values.clone(),
                _ => [].into(),
            };
            let member = Host::Member(observer::number(to));
            env.line(
                &self.host,
                format_args!(
                    "#{} {:?} {:?} to {member}, epoch {}, watermark {}",
                    asked.op, sending.op, sending.seq, header.epoch.0, header.watermark.0
                ),
            );
            let packet = Packet {
                bytes,
                data,
                io: true,
            };
            match env.call(self.host, member, packet) {
                Some(call) => {
                    env.moment.writes += u64::from(asked.what != What::Read);
                    self.sent.insert(call, Sent::Io(ticket, to));
                }
                None => {
                    let failed = Todo::Failed(ticket, to, Cause::Transport);
                    self.todo.push_back(failed);
                }
            }
        }
    }

    fn acked(
        &mut self,
        env: &mut Env,
        workload: &mut Workload,
        ticket: Ticket,
        member: MemberId,
        answer: Answer,
    ) {
        let Acked { ack, room, hint } = self.data.ack(ticket, member, answer.status);
        let is_read = !answer.data.is_empty();
        match ack {
            Ack::Pending | Ack::Ignored => {}
            Ack::Complete(status) => {
                if is_read {
                    self.app.has_read(ticket.tag, answer.data);
                }
                self.complete(env, workload, ticket.tag, status);
            }
            Ack::Repair(sending) => {
                if is_read {
                    self.app.has_read(ticket.tag, answer.data);
                }
                self.send(env, &sending);
            }
            Ack::Exception => {
                let cause = Cause::Answer(answer.status);
                self.todo.push_back(Todo::Failed(ticket, member, cause));
            }
        }
        self.todo.extend(hint.map(Todo::Hint));
        if room {
            self.start_parked(env, workload);
        }
    }

    fn complete(&mut self, env: &mut Env, workload: &mut Workload, tag: u32, status: Status) {
        let Some(io) = self.app.io(tag) else { return };
        let is_flush = io.request.what == What::Flush;
        let mut ready = Vec::new();
        if !is_flush && !self.overlap.remove(tag, |tag| ready.push(tag)) {
            env.wrong("Shell", format!("tag {tag} is complete, but was held back"));
        }
        self.app.complete(env, workload, tag, status);
        for tag in ready {
            self.start(env, workload, tag);
        }
    }

    // The coordinator.

    /// Whether it serves, and this member alone is in sync, of a pool that goes on with one.
    fn is_alone(&self, member: MemberId) -> bool {
        let config = self.coordinator.config();
        let alone = config.is_some_and(|config| {
            config.quorum == Quorum::Off && config.in_sync == MemberSet::only(member)
        });
        alone && self.is_serving()
    }

    fn tell(&mut self, env: &mut Env, workload: &mut Workload, todo: Todo) {
        self.todo.push_back(todo);
        self.work_off(env, workload);
    }

    fn work_off(&mut self, env: &mut Env, workload: &mut Workload) {
        while let Some(todo) = self.todo.pop_front() {
            let now = env.clock(self.host);
            let mut out = Outbox(Vec::new());
            let options;
            let reply;
            let alone = match todo {
                Todo::Failed(_, member, Cause::Answer(Status::Medium)) => self.is_alone(member),
                _ => false,
            };
            let event = match todo {
                Todo::Attach(given, random) => {
                    options = given;
                    Event::Attach(&options, random)
                }
                Todo::Detach => Event::Detach,
                Todo::Link(member, true) => Event::LinkUp(member),
                Todo::Link(member, false) => Event::LinkDown(member),
                Todo::Reply(call, kind, bytes) => {
                    reply = bytes;
                    let parsed = match &reply {
                        Some(bytes) => Reply::parse::<Crc>(bytes, kind).map_err(|_| Failure),
                        None => Err(Failure),
                    };
                    if let Ok(reply) = &parsed {
                        env.line(&self.host, format_args!("{kind:?}: {:?}", reply.status));
                    }
                    match &parsed {
                        Ok(reply) => {
                            let result = Ok(reply);
                            let event = Event::Reply { call, result };
                            self.coordinator.event(now, event, &self.data, &mut out);
                        }
                        Err(_) => {
                            let result = Err(Failure);
                            let event = Event::Reply { call, result };
                            self.coordinator.event(now, event, &self.data, &mut out);
                        }
                    }
                    self.act(env, workload, out);
                    continue;
                }
                Todo::Failed(ticket, member, cause) => Event::IoFailed {
                    ticket,
                    member,
                    cause,
                },
                Todo::Hint(hint) => Event::Hint(hint),
                Todo::Timer => Event::Timer,
                Todo::Admin(admin) => Event::Admin(admin),
            };
            self.coordinator.event(now, event, &self.data, &mut out);
            if alone && self.coordinator.state() == State::Held {
                let what = "IO is held for the error of one request, and the data is at hand";
                env.wrong("Frozen", what.to_owned());
            }
            self.act(env, workload, out);
        }
    }

    fn act(&mut self, env: &mut Env, workload: &mut Workload, out: Outbox) {
        for act in out.0 {
            match act {
                Act::Send(call, to, kind, bytes) => {
                    if bytes.is_empty() {
                        env.wrong("Encoding", format!("a {kind:?} cannot be sent"));
                    }
                    let host = Host::Member(observer::number(to));
                    env.line(&self.host, format_args!("{kind:?} to {host}"));
                    if !matches!(kind, Kind::Query | Kind::Ping) {
                        env.moment.steps += 1;
                    }
                    let packet = Packet {
                        bytes,
                        data: [].into(),
                        io: false,
                    };
                    match env.call(self.host, host, packet) {
                        Some(number) => {
                            self.sent.insert(number, Sent::Control(call, kind));
                        }
                        None => self.todo.push_back(Todo::Reply(call, kind, None)),
                    }
                }
                Act::Resend(sending) => self.send(env, &sending),
                Act::Complete(ticket, status) => self.complete(env, workload, ticket.tag, status),
                Act::Open => self.start_parked(env, workload),
                Act::Close(member) => self.close_session(env, member),
                Act::Timer(at) => {
                    self.timer = at;
                    if at != Time::NEVER {
                        let after = env.until(self.host, at);
                        env.queue
                            .after(after, WorldEvent::ClientTimer(self.opening));
                    }
                }
                Act::State(state) => self.state(env, &state),
                Act::Admin(text) => {
                    self.commands = self.commands.saturating_sub(1);
                    self.refused = text.starts_with("Err");
                    env.line(&self.host, format_args!("command: {text}"));
                }
                Act::Note(member, why) => {
                    if let Refusal::RolledBack(id) = why {
                        self.rolled_back = self.rolled_back.with(id);
                    }
                    env.line(&self.host, format_args!("note m{member}: {why:?}"));
                }
            }
        }
    }

    fn close_session(&mut self, env: &mut Env, member: MemberId) {
        let Some(calls) = env.close_session(self.host, member) else {
            return;
        };
        for call in calls {
            self.give_back(call);
        }
        self.todo.push_back(Todo::Link(member, false));
    }

    fn state(&mut self, env: &mut Env, state: &State) {
        env.line(&self.host, format_args!("is {state:?}"));
        env.moment.steps += 1;
        let now = env.now();
        if env.current == self.opening {
            env.observer
                .held(now, !matches!(state, State::Serving | State::Changing));
            match state {
                State::Changing => env.observer.freeze(now),
                _ => {
                    let due = observer::freeze_due(&env.plan);
                    env.observer.thaw(now, due);
                }
            }
        }
        if let (State::Serving, Some(config)) = (state, self.coordinator.config()) {
            env.observer.serves(now, config.history);
        }
        match state {
            State::Serving if !self.appeared => {
                self.appeared = true;
                for thread in std::mem::take(&mut self.threads) {
                    env.queue.after(0, WorldEvent::Work(self.opening, thread));
                }
            }
            State::Closed if !self.over => {
                self.over = true;
                self.app.close();
                env.observer.gone(now, self.opening);
                env.network.forget_caller(self.host);
            }
            State::Lost | State::Fenced | State::Failed(_) => {
                self.app.close();
                // The administrator, or a script of his, tries again.
                if env.current == self.opening && !self.closing {
                    let after = env.random.scaled(10 * MS, 2 * SECOND);
                    env.queue.after(after, WorldEvent::Open(true));
                }
                self.closing = true;
            }
            _ => {}
        }
    }
}
