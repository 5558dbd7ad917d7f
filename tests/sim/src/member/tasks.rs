// SPDX-License-Identifier: GPL-2.0

//! Requests of clients and of other members that a member executes.

use super::acts::Todo;
use super::For;
use super::Node;
use crate::disk::Access;
use crate::disk::SECTOR;
use crate::env::Env;
use crate::network::Answer;
use crate::network::Packet;
use crate::room::encoded;
use crate::store::Crc;
use rmr_engine::admission;
use rmr_engine::storage::PeerDo;
use rmr_engine::storage::Verdict;
use rmr_proto::Ask;
use rmr_proto::DirtyPage;
use rmr_proto::Header;
use rmr_proto::Message;
use rmr_proto::Op;
use rmr_proto::Peer;
use rmr_proto::Request;
use rmr_proto::Status;
use std::rc::Rc;

/// A message of IO whose requests are not all done.
#[derive(Clone, Debug, Hash)]
pub(super) struct Batch {
    /// The call to answer, if it has a way back.
    call: Option<u64>,
    /// Requests that are not done.
    left: usize,
    status: Status,
    /// What reads have read.
    data: Vec<u64>,
}

/// A request of a batch.
#[derive(Clone, Debug, Hash)]
pub(super) struct Task {
    batch: u64,
    header: Header,
    request: Request,
    values: Rc<[u64]>,
}

impl Task {
    pub(super) fn sector(&self) -> u64 {
        self.request.offset / SECTOR
    }

    pub(super) fn count(&self) -> u64 {
        u64::from(self.request.len) / SECTOR
    }
}

impl Node {
    /// A message arrives.
    pub fn deliver(&mut self, env: &mut Env, call: Option<u64>, packet: &Packet) {
        match Message::parse::<Crc>(&packet.bytes) {
            Ok(Message::Io(batch)) => self.io(env, call, &batch, &packet.data),
            Ok(Message::Control(control)) => {
                self.todo.push_back(Todo::Control(call, Box::new(control)));
            }
            Ok(Message::Merge(_)) => {
                self.todo.push_back(Todo::Merge(call, packet.bytes.clone()));
            }
            // Nodes of a world know the ways.
            Ok(Message::Address(_)) => self.answer_call(env, call, Answer::of(Status::Ok)),
            // No pool has a secret here.
            Ok(Message::Challenge(_) | Message::Proof(_)) => {
                self.answer_call(env, call, Answer::of(Status::NoSecret))
            }
            Ok(Message::Peer(peer)) => self.peer(env, call, &peer),
            Err(why) => {
                env.line(&self.host, format_args!("refuses a message: {why}"));
                self.answer_call(env, call, Answer::of(why.status()));
            }
        }
        self.work_off(env);
    }

    /// A call of its own is answered, or comes back.
    pub fn answer(&mut self, env: &mut Env, call: u64, answer: Option<Answer>) {
        if let Some((call, kind)) = self.calls.remove(&call) {
            let result = match answer {
                Some(answer) if answer.status == Status::Ok => Ok(answer),
                Some(answer) => Err(answer.status),
                None => Err(Status::Disconnected),
            };
            self.tell(env, Todo::PeerReply(call, kind, result));
        }
    }

    pub(super) fn answer_call(&mut self, env: &mut Env, call: Option<u64>, answer: Answer) {
        if let Some(call) = call {
            let now = env.now();
            env.network.answer(now, call, answer);
        }
    }

    fn peer(&mut self, env: &mut Env, call: Option<u64>, peer: &Peer<'_>) {
        let Some(engine) = self.running.as_mut() else {
            self.answer_call(env, call, Answer::of(Status::NotReady));
            return;
        };
        let serving = engine.serving.map(|serving| serving.identity);
        let answer = match engine.member.peer(peer, &engine.hot) {
            Ok(PeerDo::Done) => Answer::of(Status::Ok),
            Ok(PeerDo::Page { of, page }) => {
                let words = engine.hot.page(of, page);
                Answer {
                    status: Status::Ok,
                    bytes: encoded(|room| DirtyPage::encode::<Crc>(of, page, words, room)),
                    data: [].into(),
                }
            }
            Ok(PeerDo::Begun(begun)) => Answer {
                status: Status::Ok,
                bytes: encoded(|room| begun.encode::<Crc>(room)),
                data: [].into(),
            },
            Ok(PeerDo::Read { offset, len }) => {
                let access = Access::Read(offset / SECTOR, u64::from(len) / SECTOR);
                self.begin(env, access, For::Pulled(call));
                return;
            }
            Err(status) => Answer::of(status),
        };
        if let Ask::Clear { runs } = peer.ask {
            if answer.status == Status::Ok {
                self.check_cleared(env, peer, serving);
            }
            for chunk in runs.iter().flat_map(rmr_proto::Run::range) {
                env.observer.touch(chunk);
            }
        }
        self.answer_call(env, call, answer);
    }

    fn io(
        &mut self,
        env: &mut Env,
        call: Option<u64>,
        batch: &rmr_proto::Batch<'_>,
        data: &Rc<[u64]>,
    ) {
        self.next += 1;
        let number = self.next;
        let header = *batch.header();
        self.batches.insert(
            number,
            Batch {
                call,
                left: batch.len(),
                status: Status::Ok,
                data: vec![0; batch.data_len() as usize / 512],
            },
        );
        for request in batch.requests() {
            let begin = request.data_offset as usize / 512;
            let count = request.len as usize / 512;
            let values: Rc<[u64]> = match request.op {
                Op::Write => data.get(begin..begin + count).unwrap_or(&[]).into(),
                Op::WriteZeroes => vec![0; count].into(),
                Op::Read | Op::Flush => [].into(),
            };
            self.next += 1;
            let task = Task {
                batch: number,
                header,
                request,
                values,
            };
            let number = self.next;
            self.tasks.insert(number, task);
            self.try_task(env, number);
        }
        self.todo.push_back(Todo::Heard);
    }

    pub(super) fn try_task(&mut self, env: &mut Env, number: u64) {
        let Some(task) = self.tasks.get(&number).cloned() else {
            return;
        };
        let Some(engine) = &self.running else {
            self.finish_task(env, number, Status::NotReady, &[]);
            return;
        };
        let Some(serving) = engine.serving else {
            match engine.member.not_serving(&task.header) {
                Some(status) => self.finish_task(env, number, status, &[]),
                None => self.parked.push_back(number),
            }
            return;
        };
        let now = env.now();
        let (header, request) = (task.header, task.request);
        let mut again = Vec::new();
        let verdict = match request.op {
            Op::Read => match engine.hot.read(&serving, &header, &request) {
                Ok(()) => Verdict::Execute,
                Err(status) => Verdict::Refuse(status),
            },
            Op::Flush => match admission::check(&serving.identity, &header) {
                Ok(()) => Verdict::Execute,
                Err(status) => Verdict::Refuse(status),
            },
            Op::Write | Op::WriteZeroes => {
                let busy = |token| again.push(token);
                engine.hot.write(&serving, &header, &request, number, busy)
            }
        };
        match verdict {
            Verdict::Execute => {
                let (access, what) = match request.op {
                    Op::Read => {
                        env.observer.reads(now, self.member, &header);
                        (Access::Read(task.sector(), task.count()), For::Task(number))
                    }
                    Op::Flush => {
                        let mark = engine.hot.begin_flush();
                        (Access::Flush, For::Flush(number, mark))
                    }
                    Op::Write | Op::WriteZeroes => {
                        env.observer
                            .begins(now, self.member, &header, request.seq.0);
                        let values = task.values.clone();
                        let access = Access::Write(task.sector(), values, request.fua());
                        (access, For::Task(number))
                    }
                };
                self.begin(env, access, what);
                env.observer.watermark(self.member, &header);
            }
            Verdict::Join => {}
            Verdict::Done(status) | Verdict::Refuse(status) => {
                self.finish_task(env, number, status, &[]);
            }
            Verdict::Wait => {
                self.parked.push_back(number);
                self.todo.push_back(Todo::Waiting);
            }
        }
        for token in again {
            self.finish_task(env, token, Status::Busy, &[]);
        }
    }

    /// The access of a write or read of a client is done.
    pub(super) fn task_done(&mut self, env: &mut Env, number: u64, status: Status, read: &[u64]) {
        let Some(task) = self.tasks.get(&number) else {
            return;
        };
        let (generation, request) = (task.header.generation, task.request);
        let status = match request.op {
            Op::Read => self.end_read(status),
            _ => status,
        };
        let mut joined = vec![number];
        if request.op.is_write() {
            let task = task.clone();
            self.rewritten(env, &task);
            env.observer
                .ends(self.member, generation, request.seq.0, false);
            if let Some(engine) = &self.running {
                let done = |token| joined.push(token);
                if !engine.hot.finish(&request, status, done) {
                    self.parked.extend(joined);
                    return self.todo.push_back(Todo::Waiting);
                }
            }
            if status.is_ok() {
                self.check_unlisted(env, &task);
            }
        }
        for number in joined {
            self.finish_task(env, number, status, read);
        }
    }

    /// How to answer what was read.
    pub(super) fn end_read(&self, status: Status) -> Status {
        match &self.running {
            Some(engine) => engine.hot.end_read(status),
            None => status,
        }
    }

    /// A request is done.
    pub(super) fn finish_task(&mut self, env: &mut Env, number: u64, status: Status, read: &[u64]) {
        let Some(task) = self.tasks.remove(&number) else {
            return;
        };
        if status != Status::Ok {
            env.line(
                &self.host,
                format_args!("{:?} {:?}: {status:?}", task.request.op, task.request.seq),
            );
        }
        let Some(batch) = self.batches.get_mut(&task.batch) else {
            return;
        };
        batch.left -= 1;
        if batch.status == Status::Ok {
            batch.status = status;
        }
        let begin = task.request.data_offset as usize / 512;
        if let Some(place) = batch.data.get_mut(begin..begin + read.len()) {
            place.copy_from_slice(read);
        }
        if batch.left > 0 {
            return;
        }
        let Some(batch) = self.batches.remove(&task.batch) else {
            return;
        };
        let data = match batch.status {
            Status::Ok if task.request.op == Op::Read => batch.data.into(),
            _ => [].into(),
        };
        let answer = Answer {
            status: batch.status,
            bytes: Vec::new(),
            data,
        };
        self.answer_call(env, batch.call, answer);
    }
}
