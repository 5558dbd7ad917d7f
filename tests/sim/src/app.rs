// SPDX-License-Identifier: GPL-2.0

//! The application above a device: threads that ask and wait, and the tags of their requests.
//!
//! Not here: what becomes of a request (`client`).

use crate::env::Env;
use crate::env::Event;
use crate::plan::MS;
use crate::workload::Request;
use crate::workload::What;
use crate::workload::Workload;
use litemap::LiteMap;
use rmr_checkers::history::Outcome;
use rmr_proto::Status;
use std::collections::VecDeque;
use std::rc::Rc;

/// Requests of the application at once, at most; tags are below.
pub const TAGS: u32 = 64;
/// Sectors of one read of all that was written.
const READ_BACK: u64 = 512;

/// A request that is not answered.
#[derive(Clone, Debug, Hash)]
pub struct Io {
    /// What was asked.
    pub request: Request,
    /// What a write writes, or a read has read.
    pub values: Rc<[u64]>,
    thread: u32,
}

/// The threads of one opening.
#[derive(Clone, Debug, Hash)]
pub struct App {
    opening: u32,
    /// By tag.
    ios: LiteMap<u32, Io>,
    /// Threads wait for this opening no more.
    closed: bool,
    /// Threads that found nothing to do.
    resting: Vec<u32>,
    /// Reads to be made at the end.
    back: VecDeque<Request>,
}

impl App {
    /// No request yet.
    pub fn new(opening: u32) -> App {
        App {
            opening,
            ios: LiteMap::new(),
            closed: false,
            resting: Vec::new(),
            back: VecDeque::new(),
        }
    }

    /// A thread goes on: its next request, with a tag, and told to the checkers.
    pub fn next(&mut self, env: &mut Env, workload: &mut Workload, thread: u32) -> Option<u32> {
        if self.closed {
            return None;
        }
        let request = match self.back.pop_front() {
            Some(read) => Some(read),
            None => workload.next(self.opening, thread),
        };
        let tag = (0..TAGS).find(|tag| !self.ios.contains_key(tag));
        let (Some(request), Some(tag)) = (request, tag) else {
            self.resting.push(thread);
            return None;
        };
        let now = env.now();
        env.observer.asked(now, self.opening, request);
        env.trace.digest.mix(request.op);
        env.line(
            &format_args!("c{}", self.opening),
            format_args!(
                "#{} {:?} {}+{} tag {tag}",
                request.op, request.what, request.sector, request.count
            ),
        );
        let io = Io {
            values: request.values().into(),
            request,
            thread,
        };
        self.ios.insert(tag, io);
        Some(tag)
    }

    /// The request of a tag.
    pub fn io(&self, tag: u32) -> Option<&Io> {
        self.ios.get(&tag)
    }

    /// A read has read this.
    pub fn has_read(&mut self, tag: u32, values: Rc<[u64]>) {
        if let Some(io) = self.ios.get_mut(&tag) {
            io.values = values;
        }
    }

    /// Answers a request; its thread goes on after a while.
    pub fn complete(&mut self, env: &mut Env, workload: &mut Workload, tag: u32, status: Status) {
        let Some(io) = self.ios.remove(&tag) else {
            return;
        };
        let now = env.now();
        let outcome = match status {
            Status::Ok if io.request.what == What::Read => Outcome::Ok(io.values.to_vec()),
            Status::Ok => Outcome::Ok(Vec::new()),
            Status::Medium | Status::NoSpace | Status::Io => Outcome::Error,
            _ => Outcome::Unknown,
        };
        env.figures.answered += 1;
        env.figures.good += u64::from(status == Status::Ok);
        env.line(
            &format_args!("c{}", self.opening),
            format_args!("#{} {status:?}", io.request.op),
        );
        env.trace.digest.mix(io.request.op << 16 | status as u64);
        env.observer.answered(now, io.request.op, outcome);
        let mut pause = workload.pause();
        if status != Status::Ok {
            // Nobody asks a device that fails as fast as it can.
            pause += 100 * MS;
        }
        env.queue.after(pause, Event::Work(self.opening, io.thread));
    }

    /// Tags of all requests that are not answered.
    pub fn tags(&self) -> Vec<u32> {
        self.ios.keys().copied().collect()
    }

    /// No request is under way.
    pub fn is_idle(&self) -> bool {
        self.ios.is_empty() && self.back.is_empty()
    }

    /// No thread goes on.
    pub fn close(&mut self) {
        self.closed = true;
        self.back.clear();
    }

    /// Reads these places, of so many sectors each, with the threads that rest.
    pub fn read_back(&mut self, env: &mut Env, workload: &mut Workload, ranges: &[(u64, u64)]) {
        for &(sector, count) in ranges {
            for begin in (sector..sector + count).step_by(READ_BACK as usize) {
                self.back.push_back(Request {
                    op: workload.number(),
                    what: What::Read,
                    sector: begin,
                    count: READ_BACK.min(sector + count - begin),
                });
            }
        }
        for thread in std::mem::take(&mut self.resting) {
            env.queue.after(0, Event::Work(self.opening, thread));
        }
    }
}
