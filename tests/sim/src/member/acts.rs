// SPDX-License-Identifier: GPL-2.0

//! What the engine of a member is told, and what it wants done.

use super::For;
use super::Node;
use crate::disk::Access;
use crate::disk::Record;
use crate::disk::SECTOR;
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
use rmr_checkers::Rule;
use rmr_checkers::Violation;
use rmr_engine::storage::Action;
use rmr_engine::storage::Event;
use rmr_engine::storage::Out;
use rmr_engine::storage::PeerAnswer;
use rmr_engine::storage::Serving;
use rmr_engine::time::Time;
use rmr_proto::Ask;
use rmr_proto::Begun;
use rmr_proto::Control;
use rmr_proto::DeviceRole;
use rmr_proto::DirtyPage;
use rmr_proto::Kind;
use rmr_proto::MemberId;
use rmr_proto::Reply;
use rmr_proto::Status;
use rmr_proto::StoreState;
use rmr_proto::Superblock;
use rmr_proto::Uuid;
use rmr_proto::RECORD_BYTES;
use std::collections::VecDeque;
use std::fmt;

/// Something the engine is to hear of.
#[derive(Clone, Debug, Hash)]
pub(super) enum Todo {
    Started,
    Control(Option<u64>, Box<Control>),
    Merge(Option<u64>, Vec<u8>),
    MetaDone(Result<(), Status>),
    Drained,
    Flushed(Result<(), Status>),
    PeerReply(u64, Kind, Result<Answer, Status>),
    PullWritten(u64, Result<(), Status>),
    Waiting,
    Heard,
    Timer,
}

/// An action of the engine.
#[derive(Debug)]
pub(super) enum Act {
    Reply(u64, Kind, Status, Vec<u8>, Option<rmr_proto::Generation>),
    WriteMeta(u64, Box<Record>),
    AssignPool(Uuid),
    Serve(Option<Serving>),
    Drain,
    Flush,
    SendPeer(u64, MemberId, Kind, Vec<u8>, Asked),
    ClosePeer(MemberId),
    PullWrite(u64, u64, u32),
    Retry,
    LogFull,
    Timer(Time),
    Failed(Status),
}

/// Keeps actions until the engine returns.
pub(super) struct Outbox(Vec<Act>);

/// What a member asks another one for, as the trace has it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Page(MemberId, u64),
    Data(u64, u32),
    Clear(usize),
    Begun,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Asked::Page(of, page) => write!(f, "fetch of m{of}, page {page}"),
            Asked::Data(offset, len) => {
                write!(f, "pull {}+{}", offset / SECTOR, u64::from(len) / SECTOR)
            }
            Asked::Clear(runs) => write!(f, "clear {runs} runs"),
            Asked::Begun => f.write_str("question what it has begun"),
        }
    }
}

impl Out for Outbox {
    fn act(&mut self, action: Action<'_>) {
        self.0.push(match action {
            Action::Reply { call, reply } => {
                let promised = reply.report.as_ref().map(|report| report.promised);
                let bytes = encode_reply(reply);
                Act::Reply(call, reply.kind, reply.status, bytes, promised)
            }
            Action::WriteMeta { offset, bytes } => Act::WriteMeta(offset, Box::new(*bytes)),
            Action::AssignPool(pool) => Act::AssignPool(pool),
            Action::Serve(serving) => Act::Serve(serving),
            Action::Drain => Act::Drain,
            Action::Flush => Act::Flush,
            Action::SendPeer { call, to, message } => {
                let bytes = encoded(|room| message.encode::<Crc>(room));
                let asked = match message.ask {
                    Ask::FetchDirty { of, page } => Asked::Page(of, page),
                    Ask::Pull { offset, len } => Asked::Data(offset, len),
                    Ask::Clear { runs } => Asked::Clear(runs.len()),
                    Ask::Begun => Asked::Begun,
                };
                Act::SendPeer(call, to, message.kind(), bytes, asked)
            }
            Action::ClosePeer(to) => Act::ClosePeer(to),
            Action::PullWrite { call, offset, len } => Act::PullWrite(call, offset, len),
            Action::Retry => Act::Retry,
            Action::LogFull => Act::LogFull,
            Action::Timer(at) => Act::Timer(at),
            Action::Failed(status) => Act::Failed(status),
        });
    }
}

pub(super) fn encode_reply(reply: &Reply<'_>) -> Vec<u8> {
    encoded(|room| reply.encode::<Crc>(room))
}

impl Node {
    pub(super) fn tell(&mut self, env: &mut Env, todo: Todo) {
        self.todo.push_back(todo);
        self.work_off(env);
    }

    pub(super) fn work_off(&mut self, env: &mut Env) {
        loop {
            self.check_drained();
            let Some(todo) = self.todo.pop_front() else {
                self.settle(env);
                return;
            };
            let mut out = Outbox(Vec::new());
            self.hear(env, todo, &mut out);
            for act in out.0 {
                self.act(env, act);
            }
        }
    }

    /// Tells the observer when there is nothing left to be written that something asked for.
    fn settle(&mut self, env: &mut Env) {
        let busy = |what: &For| !matches!(what, For::Task(_) | For::Flush(..) | For::Pulled(_));
        let serves_all = self
            .running
            .as_ref()
            .and_then(|engine| engine.serving)
            .is_some_and(|serving| serving.in_sync);
        if serves_all && self.parked.is_empty() && !self.accesses.values().any(busy) {
            env.observer.settled(self.member);
        }
    }

    fn check_drained(&mut self) {
        let runs = self.accesses.values().any(For::runs);
        if let Some(engine) = self.running.as_mut().filter(|engine| engine.draining) {
            if !runs {
                engine.draining = false;
                self.todo.push_back(Todo::Drained);
            }
        }
    }

    fn hear(&mut self, env: &mut Env, todo: Todo, out: &mut Outbox) {
        let now = env.clock(self.host);
        let Some(engine) = self.running.as_mut() else {
            if let Todo::Control(call, _) | Todo::Merge(call, _) = todo {
                self.answer_call(env, call, Answer::of(Status::NotReady));
            }
            return;
        };
        // A message without a way back is executed all the same; its answer has a number nobody waits for.
        let number = |call: Option<u64>| call.unwrap_or(u64::MAX);
        let (member, hot) = (&mut engine.member, &engine.hot);
        if !matches!(todo, Todo::Heard | Todo::MetaDone(_)) {
            env.observer.exception(self.member);
        }
        match todo {
            Todo::Started => member.event(now, Event::Started, hot, out),
            Todo::Control(call, message) => {
                let event = Event::Control {
                    call: number(call),
                    message: &message,
                    other_alive: false,
                };
                member.event(now, event, hot, out);
                env.observer.compare_all();
            }
            Todo::Merge(call, bytes) => {
                if let Ok(message) = rmr_proto::Merge::parse::<Crc>(&bytes) {
                    let event = Event::Merge {
                        call: number(call),
                        message: &message,
                    };
                    self.merges.extend(call.map(|call| (call, bytes.clone())));
                    member.event(now, event, hot, out);
                }
            }
            Todo::MetaDone(result) => {
                member.event(now, Event::MetaDone(result), hot, out);
                env.observer.compare_all();
            }
            Todo::Drained => member.event(now, Event::Drained, hot, out),
            Todo::Flushed(result) => {
                member.event(now, Event::Flushed(result), hot, out);
                env.observer.compare_all();
            }
            Todo::PeerReply(call, kind, result) => {
                let bytes;
                let mut known = None;
                let result = match (kind, result) {
                    (_, Err(status)) => Err(status),
                    (Kind::FetchDirty, Ok(answer)) => {
                        bytes = answer.bytes;
                        DirtyPage::parse::<Crc>(&bytes)
                            .map(PeerAnswer::Page)
                            .map_err(|_| Status::Invalid)
                    }
                    (Kind::Pull, Ok(answer)) => {
                        self.pulled.insert(call, answer.data);
                        Ok(PeerAnswer::Data)
                    }
                    (Kind::Begun, Ok(answer)) => Begun::parse::<Crc>(&answer.bytes)
                        .map(PeerAnswer::Begun)
                        .map_err(|_| Status::Invalid),
                    (_, Ok(_)) => Ok(PeerAnswer::Done),
                };
                if let Ok(PeerAnswer::Page(page)) = &result {
                    let chunks = 0..self.layout.geometry().chunks();
                    let dirty = chunks.filter(|&chunk| hot.dirty(page.of, chunk));
                    known = Some((page.of, dirty.collect::<Vec<u64>>()));
                }
                member.event(now, Event::PeerReply { call, result }, hot, out);
                let is_used = |act: &Act| matches!(act, Act::PullWrite(of, ..) if *of == call);
                if !out.0.iter().any(is_used) {
                    self.pulled.remove(&call);
                }
                if let Some((of, known)) = known {
                    self.check_merged(env, of, &known);
                }
            }
            Todo::PullWritten(call, result) => {
                member.event(now, Event::PullWritten { call, result }, hot, out);
            }
            Todo::Waiting => member.event(now, Event::Waiting, hot, out),
            Todo::Heard => member.event(now, Event::Heard, hot, out),
            Todo::Timer => member.event(now, Event::Timer, hot, out),
        }
    }

    fn act(&mut self, env: &mut Env, act: Act) {
        match act {
            Act::Reply(call, kind, status, bytes, promised) => {
                if status != Status::Ok {
                    env.line(&self.host, format_args!("{kind:?}: {status:?}"));
                }
                let now = env.now();
                let own = self.aside.is_none();
                if let (Kind::Promise, Status::Ok, Some(promised), true) =
                    (kind, status, promised, own)
                {
                    env.observer.promised(now, self.member, promised);
                    // It counts when it is on disk (R8).
                    let known = self.image.record();
                    if known.is_some_and(|record| record.promised != promised) {
                        let what = format!(
                            "member {} says that it promised generation {}, which is not on its disk",
                            self.member, promised.number
                        );
                        env.observer.violate(Violation {
                            rule: Rule::Fencing,
                            time: now,
                            what,
                        });
                    }
                }
                if kind == Kind::Merge {
                    self.merged(env, call, status);
                }
                let answer = Answer {
                    status: Status::Ok,
                    bytes,
                    data: [].into(),
                };
                self.answer_call(env, (call != u64::MAX).then_some(call), answer);
            }
            Act::WriteMeta(offset, record) => {
                env.observer.metadata(env.queue.now(), self.member);
                let access = Access::Meta(offset, record.clone());
                self.begin(env, access, For::Meta(offset, record));
            }
            Act::AssignPool(pool) => self.assign(env, pool),
            Act::Serve(serving) => {
                if let Some(engine) = self.running.as_mut() {
                    engine.serving = serving;
                }
                env.line(&self.host, format_args!("serves: {}", serving.is_some()));
            }
            Act::Drain => {
                if let Some(engine) = self.running.as_mut() {
                    engine.draining = true;
                }
            }
            Act::Flush => self.begin(env, Access::Flush, For::Settle),
            Act::SendPeer(call, to, kind, bytes, asked) => {
                let host = Host::Member(observer::number(to));
                env.line(&self.host, format_args!("{asked} to {host}"));
                let packet = Packet {
                    bytes,
                    data: [].into(),
                    io: false,
                };
                match env.call(self.host, host, packet) {
                    Some(number) => {
                        self.calls.insert(number, (call, kind));
                    }
                    None => {
                        let result = Err(Status::Disconnected);
                        self.todo.push_back(Todo::PeerReply(call, kind, result));
                    }
                }
            }
            Act::ClosePeer(to) => self.close_session(env, to),
            Act::PullWrite(call, offset, len) => {
                env.figures.pulls += 1;
                env.observer.pulled(env.now(), self.member, offset);
                env.moment.pulls += 1;
                let values = self.pulled.remove(&call).unwrap_or_default();
                let count = len as usize / 512;
                if values.len() != count {
                    env.wrong(
                        "Shell",
                        format!("pull of {count} sectors brought {}", values.len()),
                    );
                    return;
                }
                let access = Access::Write(offset / SECTOR, values, false);
                self.begin(env, access, For::PullWrite(call));
            }
            Act::Retry => {
                for task in std::mem::take(&mut self.parked) {
                    self.try_task(env, task);
                }
            }
            Act::LogFull => {
                for task in std::mem::take(&mut self.parked) {
                    self.finish_task(env, task, Status::LogFull, &[]);
                }
            }
            Act::Timer(at) => {
                self.timer = at;
                if at != Time::NEVER {
                    let after = env.until(self.host, at);
                    env.queue
                        .after(after, WorldEvent::MemberTimer(self.member, self.boot));
                }
            }
            Act::Failed(status) => {
                env.line(&self.host, format_args!("its store failed: {status:?}"));
                self.up = false;
                let ran = self.running.is_some();
                self.stop_engine();
                let done = self.device.crash(&self.layout, false, &mut env.random);
                self.show(env, &done);
                self.look_at_crashed_disk(env, ran);
                env.observer.restarted(self.member, 0);
                let after = env.random.scaled(MS, SECOND);
                env.queue.after(after, WorldEvent::Start(self.member));
            }
        }
    }

    fn close_session(&mut self, env: &mut Env, to: MemberId) {
        for call in env.close_session(self.host, to).unwrap_or_default() {
            if let Some((call, kind)) = self.calls.remove(&call) {
                let result = Err(Status::Disconnected);
                self.todo.push_back(Todo::PeerReply(call, kind, result));
            }
        }
    }

    /// The store is of this pool from now on.
    fn assign(&mut self, env: &mut Env, pool: Uuid) {
        self.device.pool = pool;
        let mut copies = VecDeque::new();
        for copy in 0..2 {
            let mut buf = [0; RECORD_BYTES];
            let Some(name) = store::name() else { return };
            let superblock = Superblock {
                role: DeviceRole::Data,
                state: StoreState::Ready,
                store: self.device.store,
                pool,
                name,
                member: self.id,
                logical_block: 512,
                layout: self.layout.clone(),
                metadata: None,
                secret: false,
            };
            if let Ok(at) = superblock.encode::<Crc>(2, copy, &mut buf) {
                copies.push_back((at.offset, Box::new(buf)));
            }
        }
        if let Some((offset, record)) = copies.pop_front() {
            self.begin(env, Access::Meta(offset, record), For::Superblock(copies));
        }
    }
}
