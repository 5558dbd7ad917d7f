// SPDX-License-Identifier: GPL-2.0

//! A member that runs: the shell around the storage half of the engine.
//!
//! What the engine is to hear (messages, ends of disk accesses and of calls, the timer) is left with the member, by whoever
//! notices, and its bell is rung. A job then tells the engine, one thing after the other, and does what the engine wants
//! done. Nothing in the job waits for a disk or for another node: records and flushes are the business of [`disk`](super::disk),
//! waiting for requests in execution that of a second job. IO does not come here, unless it has to wait.
//!
//! Stacks are small and records are large, so they are in boxes, and the engine runs on the stack of the job alone.

use super::address::Book;
use super::disk;
use super::disk::Disk;
use super::disk::Work;
use super::guard::Guard;
use super::listener::Session;
use super::op;
use super::op::Parked;
use super::op::Table;
use super::peer::Call;
use super::peer::PeerRead;
use super::peer::Peers;
use super::peer::PullWrite;
use super::serving::Directory;
use super::serving::JoinersLock;
use super::serving::Serving;
use crate::memory::KernelMemory;
use crate::refuse;
use crate::store::Store;
use crate::store::StoreDone;
use crate::store::StoreInfo;
use crate::store::StoreIo;
use crate::store::StoreOp;
use crate::store::Waiter;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_engine::storage;
use rmr_engine::storage::Action;
use rmr_engine::storage::Event;
use rmr_engine::storage::Member;
use rmr_engine::storage::Out;
use rmr_engine::storage::PeerAnswer;
use rmr_engine::storage::PeerDo;
use rmr_engine::storage::Reader;
use rmr_engine::storage::Shared;
use rmr_engine::storage::StartError;
use rmr_engine::sync::AtomicU32;
use rmr_engine::time::Nanos;
use rmr_engine::time::Time;
use rmr_engine::time::SECOND;
use rmr_proto::Begun;
use rmr_proto::Control;
use rmr_proto::DirtyPage;
use rmr_proto::Kind;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::MemberSet;
use rmr_proto::Merge;
use rmr_proto::Peer;
use rmr_proto::PoolName;
use rmr_proto::Reply;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::WireError;
use rmr_proto::MAX_LOG_EXTENTS;
use rmr_proto::RECORD_BYTES;
use rmr_proto::REPLY_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::gate::Gate;
use rmr_sys::gate::Retiring;
use rmr_sys::module::ModuleRef;
use rmr_sys::noio::without_io;
use rmr_sys::rand;
use rmr_sys::time::now_ns;
use rmr_sys::timer::Timer;
use rmr_sys::wait::Event as Happened;
use rmr_sys::work::Again;
use rmr_sys::work::Job;
use rmr_sys::work::Queue;
use rtrs::Message;
use rtrs::Op;

/// The hot path of a member.
pub(crate) type Hot = Shared<KernelMemory, JoinersLock>;

type Engine = Member<KernelMemory, KernelCrc>;

/// Messages that wait for the job, at most; one more is answered `Busy`.
const MAX_MAIL: usize = 64;

/// Why the bell was rung.
mod bell {
    pub(super) const START: u32 = 1;
    pub(super) const DISK: u32 = 1 << 1;
    pub(super) const DRAINED: u32 = 1 << 2;
    pub(super) const CALLS: u32 = 1 << 3;
    pub(super) const MAIL: u32 = 1 << 4;
    /// Requests were kept.
    pub(super) const KEPT: u32 = 1 << 5;
    /// Requests wait, and the engine was not told.
    pub(super) const WAITING: u32 = 1 << 6;
    pub(super) const HEARD: u32 = 1 << 7;
    pub(super) const TIMER: u32 = 1 << 8;
}

/// A message that is no IO.
pub(crate) enum Mail {
    /// From a client.
    Control(KBox<Control>, Arc<Session>),
    /// Marks for bitmaps from a client: the whole message.
    Merge(KVec<u8>),
    /// From another member: the whole message.
    Peer(KVec<u8>),
}

/// Messages that the job has not seen yet.
struct Mailbox {
    mail: KVec<(Mail, Op)>,
    /// No more is taken.
    shut: bool,
}

/// Configurations that are not served any more, but may be in use.
struct Retired {
    list: KVec<Retiring<Serving>>,
    /// The engine wants to hear when there is none.
    wanted: bool,
}

/// So long it may take until a client has said where a member is.
const UNKNOWN: Nanos = 10 * SECOND;

/// A client that was not heard of for so long does not use the member (any more): it asks every second how it is.
const SILENCE: Nanos = 5 * SECOND;

/// The client that has the pool open, while its session is connected.
struct Client {
    session: Arc<Session>,
    /// When it last said that it counts on the member. One that took it out of the pool does not.
    heard: Time,
    /// The store is not to be unloaded under it.
    _hold: ModuleRef,
}

/// A message that the engine will answer.
struct Pending {
    call: u64,
    op: Op,
    /// Of an installation: the client that will be served.
    client: Option<Client>,
}

/// What the job remembers besides the engine.
struct Shell {
    client: Option<Client>,
    pending: KVec<Pending>,
    calls: u64,
    timer: Option<Timer<Runner>>,
    reply: KBox<[u8; REPLY_BYTES]>,
    /// The pool whose messages are let in.
    open: Option<Uuid>,
    /// Data that the engine is being told of.
    pulled: Option<KBox<Message<Call>>>,
    /// Calls that could not be made.
    bounced: KVec<(u64, Status)>,
    /// Members whose address was not known, and since when; and those of which that was said.
    unknown: MemberSet,
    unknown_since: Time,
    said: MemberSet,
    /// Requests that wait are to be given again, or to be answered so.
    retry: bool,
    log_full: bool,
    /// The engine has given up.
    failed: Option<Status>,
}

struct State {
    engine: KBox<Engine>,
    shell: Shell,
}

/// See the head of the file.
#[pin_data]
pub(crate) struct Runner {
    pub(crate) name: PoolName,
    pub(crate) member: MemberId,
    pub(crate) logical_block: u32,
    pub(crate) store: Arc<dyn Store>,
    /// Who may speak to it, if not everybody.
    pub(crate) guard: Option<Arc<Guard>>,
    pub(crate) hot: KBox<Hot>,
    pub(crate) table: Arc<Table>,
    pub(crate) parked: Parked,
    directory: Arc<Directory>,
    bell: AtomicU32,
    job: Gate<Job<Runner>>,
    reaper: Gate<Job<Runner>>,
    #[pin]
    pub(crate) disk: Disk,
    pub(crate) peers: Peers,
    #[pin]
    mailbox: Mutex<Mailbox>,
    #[pin]
    retired: Mutex<Retired>,
    /// The new incarnation is on disk, or will never be.
    #[pin]
    started: Happened,
    #[pin]
    state: Mutex<State>,
}

/// Reads records of a store.
struct Records<'a>(&'a dyn Store);

impl Reader for Records<'_> {
    fn read(&mut self, offset: u64, page: &mut [u8; RECORD_BYTES]) -> Result<(), Status> {
        let read = self.0.read_record(offset, page);
        read.map_err(|error| Status::from_errno(error.to_errno()))
    }
}

// ---- Its life ----

impl Runner {
    /// Starts the member that `store` makes of this node, in a new incarnation; returns when that is on disk. Sleeps.
    #[inline(never)]
    pub(crate) fn start(
        store: Arc<dyn Store>,
        guard: Option<Arc<Guard>>,
        book: Arc<Book>,
        directory: Arc<Directory>,
        table: Arc<Table>,
        queue: &Arc<Queue>,
    ) -> Result<Arc<Self>> {
        let info = store.info();
        let hot = hot_path(&info)?;
        let engine = load(&*store, &info, &hot)?;
        let runner = Self::assemble((store, guard), &info, (hot, engine), book, directory, table)?;
        let begun = Self::begin(&runner, queue);
        if begun.is_err() || runner.failed().is_some() {
            runner.stop();
            begun?;
            return Err(EIO);
        }
        Ok(runner)
    }

    /// Makes its jobs, and waits until the engine runs.
    fn begin(this: &Arc<Self>, queue: &Arc<Queue>) -> Result {
        this.disk.open(queue, this)?;
        this.reaper
            .publish(Job::new(queue, this.clone(), Self::reap)?)?;
        this.job
            .publish(Job::new(queue, this.clone(), Self::run)?)?;
        let timer = Timer::new(this.clone(), 0, |runner, _| {
            runner.ring(bell::TIMER);
            None
        })?;
        this.state.lock().shell.timer = Some(timer);
        this.ring(bell::START);
        this.started.wait();
        Ok(())
    }

    #[inline(never)]
    fn assemble(
        (store, guard): (Arc<dyn Store>, Option<Arc<Guard>>),
        info: &StoreInfo,
        (hot, engine): (KBox<Hot>, KBox<Engine>),
        book: Arc<Book>,
        directory: Arc<Directory>,
        table: Arc<Table>,
    ) -> Result<Arc<Self>> {
        let shell = Shell {
            client: None,
            pending: KVec::with_capacity(MAX_MAIL, GFP_KERNEL)?,
            calls: 0,
            timer: None,
            reply: KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?,
            open: None,
            pulled: None,
            bounced: KVec::new(),
            unknown: MemberSet::EMPTY,
            unknown_since: Time(0),
            said: MemberSet::EMPTY,
            retry: false,
            log_full: false,
            failed: None,
        };
        Arc::pin_init(
            try_pin_init!(Self {
                name: info.pool_name,
                member: info.member,
                logical_block: info.limits.logical_block,
                store,
                guard,
                hot,
                table,
                parked: Parked::new(),
                directory,
                bell: AtomicU32::new(0),
                job: Gate::new(),
                reaper: Gate::new(),
                disk <- Disk::new(),
                peers: Peers::new(book)?,
                mailbox <- new_mutex!(Mailbox { mail: KVec::new(), shut: false }),
                retired <- new_mutex!(Retired { list: KVec::new(), wanted: false }),
                started <- Happened::new(),
                state <- new_mutex!(State { engine, shell }),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Serves nobody any more, and waits until nothing is running. Sleeps; not from the member's own job.
    pub(crate) fn stop(&self) {
        let mail = {
            let mut mailbox = self.mailbox.lock();
            mailbox.shut = true;
            core::mem::take(&mut mailbox.mail)
        };
        for (_, op) in mail {
            op.respond(Status::NoStore.wire());
        }
        let mut state = self.state.lock();
        self.peers.shut();
        let timer = state.shell.timer.take();
        drop(state);
        drop(timer);
        self.peers.wait();
        drop(self.job.retire());
        self.disk.close();
        let mut state = self.state.lock();
        let open = state.shell.open.take();
        let pending = core::mem::take(&mut state.shell.pending);
        state.shell.client = None;
        drop(state);
        if let Some(pool) = open {
            self.directory.forget(pool);
        }
        drop(self.reaper.retire());
        drop(core::mem::take(&mut self.retired.lock().list));
        for pending in pending {
            pending.op.respond(Status::NoStore.wire());
        }
        self.parked
            .drain(|slot| op::give_up(self, slot, Status::NoStore));
    }

    /// What it would report.
    pub(crate) fn report(&self) -> MemberReport {
        self.state.lock().engine.report(&self.hot)
    }

    /// Whether a client counts on it.
    pub(crate) fn is_serving(&self) -> bool {
        let state = self.state.lock();
        let client = state.shell.client.as_ref();
        client.is_some_and(|client| Time(now_ns()).since(client.heard) < SILENCE)
            && state.engine.serving().is_some()
    }

    /// UUID of its pool; nil if it has none.
    pub(crate) fn pool(&self) -> Uuid {
        self.state.lock().engine.pool()
    }

    /// Why the engine gave up, if it did.
    pub(crate) fn failed(&self) -> Option<Status> {
        self.state.lock().shell.failed
    }

    /// A client's session is gone; the client may come back over another one.
    pub(crate) fn disconnected(&self, session: &Arc<Session>) {
        let mut state = self.state.lock();
        let gone = |client: &Client| Arc::ptr_eq(&client.session, session);
        if state.shell.client.as_ref().is_some_and(gone) {
            state.shell.client = None;
        }
    }
}

#[inline(never)]
fn hot_path(info: &StoreInfo) -> Result<KBox<Hot>> {
    let hot = Hot::new(&KernelMemory, info.geometry(), JoinersLock::new()?);
    Ok(KBox::new(hot.map_err(|_| ENOMEM)?, GFP_KERNEL)?)
}

/// Reads the records of a store.
#[inline(never)]
fn load(store: &dyn Store, info: &StoreInfo, hot: &Hot) -> Result<KBox<Engine>> {
    let known = storage::StoreInfo {
        pool: info.pool_uuid,
        store: info.store_uuid,
        member: info.member,
        layout: info.layout.clone(),
        limits: info.limits,
        log_extents: MAX_LOG_EXTENTS,
        salt: rand::u64() as u32,
    };
    match Engine::start(&KernelMemory, known, hot, &mut Records(store)) {
        Ok(engine) => Ok(KBox::new(engine, GFP_KERNEL)?),
        Err(error) => Err(cannot_start(&info.pool_name, &error)),
    }
}

#[cold]
fn cannot_start(pool: &PoolName, error: &StartError) -> Error {
    use kernel::bindings;
    match error {
        StartError::NoMemory => ENOMEM,
        StartError::Exhausted => refuse!(
            EOVERFLOW,
            "the store of pool {} was started too often; create it anew",
            pool
        ),
        StartError::Unreadable(status) => refuse!(
            Error::from_errno(status.to_errno()),
            "the epoch record of the store of pool {} cannot be read: {}; see the messages of its device",
            pool,
            status
        ),
        StartError::Lost(id, why) => refuse!(
            crate::refuse::numbered(bindings::EUCLEAN),
            "the store of pool {} has lost a record ({:?}): {}; what it missed cannot be known, create it anew",
            pool,
            id,
            why
        ),
    }
}

// ---- What is left with it ----

impl Runner {
    /// Any context.
    fn ring(&self, why: u32) {
        let mut old = self.bell.load();
        while let Err(now) = self.bell.cas(old, old | why) {
            old = now;
        }
        if let Some(job) = self.job.enter() {
            job.queue();
        }
    }

    /// Leaves a message; it is answered in any case. Sleeps.
    pub(crate) fn post(&self, mail: Mail, op: Op) {
        let mut mailbox = self.mailbox.lock();
        let refused = if mailbox.shut {
            Some(Status::NoStore)
        } else if mailbox.mail.len() >= MAX_MAIL || mailbox.mail.reserve(1, GFP_KERNEL).is_err() {
            Some(Status::Busy)
        } else {
            None
        };
        if let Some(status) = refused {
            drop(mailbox);
            return op.respond(status.wire());
        }
        // There is room.
        let _ = mailbox.mail.push((mail, op), GFP_KERNEL);
        drop(mailbox);
        self.ring(bell::MAIL);
    }

    /// A message was parked while nothing was served: it is answered in any case. Sleeps.
    pub(crate) fn kept(&self) {
        self.waits();
        if self.mailbox.lock().shut {
            // The job may not look any more.
            self.parked
                .drain(|slot| op::give_up(self, slot, Status::NoStore));
        }
    }

    /// Requests were kept. Any context.
    pub(crate) fn waits(&self) {
        self.ring(bell::KEPT);
    }

    /// A flush failed. Any context.
    pub(crate) fn heard(&self) {
        self.ring(bell::HEARD);
    }

    /// Whether resync is to wait. Any context.
    pub(crate) fn pause(&self, pause: bool) {
        self.hot.pause_resync(pause);
        self.ring(bell::HEARD);
    }

    /// The disk is done with something.
    pub(crate) fn disk_done(&self) {
        self.ring(bell::DISK);
    }

    /// A call is over, or what it brought is written. Any context.
    pub(crate) fn landed(this: Arc<Self>, message: KBox<Message<Call>>) {
        // Inside this gate the member is not stopped; so the reference is not the last one.
        let job = this.job.enter();
        this.peers.put(message);
        this.ring(bell::CALLS);
        drop(this);
        drop(job);
    }

    /// Waits for requests under configurations that are not served any more.
    fn reap(this: &Arc<Self>) -> Again {
        loop {
            let mut retired = this.retired.lock();
            if retired.list.is_empty() {
                if core::mem::take(&mut retired.wanted) {
                    this.ring(bell::DRAINED);
                }
                return Again::No;
            }
            let list = core::mem::take(&mut retired.list);
            drop(retired);
            for serving in list {
                drop(serving.wait());
            }
        }
    }
}

// ---- The job ----

impl Runner {
    fn run(this: &Arc<Self>) -> Again {
        // Memory may be written out to a device of this host that waits for this node.
        without_io(|| this.turn())
    }

    fn turn(self: &Arc<Self>) -> Again {
        let state = &mut *self.state.lock();
        loop {
            let why = self.bell.swap(0);
            if why == 0 {
                return Again::No;
            }
            self.work(state, why);
            if state.engine.is_up() || state.shell.failed.is_some() {
                self.started.set();
            }
        }
    }

    fn work(self: &Arc<Self>, state: &mut State, why: u32) {
        let rung = |bit: u32| why & bit != 0;
        if rung(bell::START) {
            self.tell(state, Event::Started);
        }
        if rung(bell::DISK) {
            match self.disk.take_done() {
                Some(disk::Done::Record(result)) => self.tell(state, Event::MetaDone(result)),
                Some(disk::Done::Flush(result)) => self.tell(state, Event::Flushed(result)),
                None => {}
            }
        }
        if rung(bell::DRAINED) {
            self.tell(state, Event::Drained);
        }
        if rung(bell::CALLS) {
            while let Some(message) = self.peers.next() {
                self.over(state, message);
            }
        }
        if rung(bell::MAIL) {
            let mail = core::mem::take(&mut self.mailbox.lock().mail);
            for (mail, op) in mail {
                self.deliver(state, mail, op);
            }
        }
        if rung(bell::KEPT) {
            // The engine may have said Retry after they were told to wait, before they were kept.
            self.retry(state);
        }
        if rung(bell::WAITING) {
            self.tell(state, Event::Waiting);
        }
        if rung(bell::HEARD) {
            self.tell(state, Event::Heard);
        }
        if rung(bell::TIMER) {
            self.tell(state, Event::Timer);
        }
    }

    /// Tells the engine of something, and does what it wants.
    fn tell(self: &Arc<Self>, state: &mut State, event: Event<'_>) {
        self.hear(state, event);
        while let Some((call, status)) = state.shell.bounced.pop() {
            let result = Err(status);
            self.hear(state, Event::PeerReply { call, result });
        }
        if core::mem::take(&mut state.shell.log_full) {
            self.parked
                .drain(|slot| op::give_up(self, slot, Status::LogFull));
        }
        if core::mem::take(&mut state.shell.retry) {
            self.retry(state);
        }
    }

    #[inline(never)]
    fn hear(self: &Arc<Self>, state: &mut State, event: Event<'_>) {
        let State { engine, shell } = state;
        let mut outbox = Outbox {
            runner: self,
            shell,
        };
        engine.event(Time(now_ns()), event, &self.hot, &mut outbox);
    }

    /// Gives requests again that had to wait.
    fn retry(&self, state: &State) {
        let serving = state.shell.open.and_then(|pool| self.directory.enter(pool));
        // Those that wait again come again only when they are asked for again.
        self.parked.drain(|slot| {
            op::resume(self, serving.as_ref(), slot, |header| {
                state.engine.not_serving(header)
            })
        });
        if self.parked.any() {
            self.ring(bell::WAITING);
        }
    }

    /// A message that is no IO.
    fn deliver(self: &Arc<Self>, state: &mut State, mail: Mail, op: Op) {
        match mail {
            Mail::Control(message, session) => self.control(state, &message, session, op),
            Mail::Merge(bytes) => self.merge(state, &bytes, op),
            Mail::Peer(bytes) => self.peer(state, &bytes, op),
        }
    }

    fn control(
        self: &Arc<Self>,
        state: &mut State,
        message: &Control,
        session: Arc<Session>,
        op: Op,
    ) {
        let shell = &mut state.shell;
        let other = |client: &Client| !Arc::ptr_eq(&client.session, &session);
        let other_alive = shell.client.as_ref().is_some_and(other);
        let mut client = None;
        if matches!(message, Control::Install { .. }) {
            let Some(hold) = self.store.hold() else {
                return op.respond(Status::NoStore.wire());
            };
            client = Some(Client {
                session,
                heard: Time(now_ns()),
                _hold: hold,
            });
        }
        let Some(call) = shell.expect(op, client) else {
            return;
        };
        let event = Event::Control {
            call,
            message,
            other_alive,
        };
        self.tell(state, event);
    }

    fn merge(self: &Arc<Self>, state: &mut State, bytes: &[u8], op: Op) {
        match Merge::parse::<KernelCrc>(bytes) {
            Ok(message) => {
                let Some(call) = state.shell.expect(op, None) else {
                    return;
                };
                let message = &message;
                self.tell(state, Event::Merge { call, message });
            }
            Err(error) => op.respond(error.status().wire()),
        }
    }

    /// Another member wants something.
    #[inline(never)]
    fn peer(self: &Arc<Self>, state: &mut State, bytes: &[u8], op: Op) {
        let peer = match Peer::parse::<KernelCrc>(bytes) {
            Ok(peer) => peer,
            Err(error) => return op.respond(error.status().wire()),
        };
        match state.engine.peer(&peer, &self.hot) {
            Ok(PeerDo::Done) => op.respond(0),
            Ok(PeerDo::Page { of, page }) => {
                let words = self.hot.page(of, page);
                let reply = &mut state.shell.reply;
                answer(op, DirtyPage::encode::<KernelCrc>(of, page, words, reply));
            }
            Ok(PeerDo::Begun(begun)) => {
                let reply = &mut state.shell.reply;
                answer(op, begun.encode::<KernelCrc>(reply));
            }
            Ok(PeerDo::Read { offset, len }) => self.read_for_peer(state, offset, len, op),
            Err(status) => op.respond(status.wire()),
        }
    }

    fn read_for_peer(&self, state: &State, offset: u64, len: u32, op: Op) {
        let serving = state.shell.open.and_then(|pool| self.directory.enter(pool));
        let Some(serving) = serving else {
            return op.respond(Status::Busy.wire());
        };
        let data = op.data();
        if data.len() != len {
            return op.respond(Status::Invalid.wire());
        }
        let io = StoreIo {
            op: StoreOp::Read,
            offset,
            len,
            data: Some(data),
        };
        let done = StoreDone::new(Waiter::Peer(PeerRead { serving, op }));
        self.store.submit(io, done);
    }

    /// A call of its own is over, or what it brought is written.
    #[inline(never)]
    fn over(self: &Arc<Self>, state: &mut State, message: KBox<Message<Call>>) {
        let Call {
            slot,
            number: call,
            to,
            kind,
            result,
            written,
            ..
        } = *message.ctx();
        if let Some(status) = written {
            drop(message);
            self.peers.release(slot);
            let result = status.result();
            return self.tell(state, Event::PullWritten { call, result });
        }
        let failed = |status| Event::PeerReply {
            call,
            result: Err(status),
        };
        match (kind, result) {
            (_, Err(errno)) => {
                drop(message);
                self.peers.release(slot);
                let status = Status::from_wire(errno.number()).unwrap_or(Status::Disconnected);
                if status == Status::NotAuthenticated {
                    self.peers.again(to);
                }
                self.tell(state, failed(status));
            }
            (Kind::Pull, Ok(())) => {
                state.shell.pulled = Some(message);
                let result = Ok(PeerAnswer::Data);
                self.tell(state, Event::PeerReply { call, result });
                // If the engine has no use for it.
                if state.shell.pulled.take().is_some() {
                    self.peers.release(slot);
                }
            }
            (Kind::FetchDirty | Kind::Begun, Ok(())) => {
                let bytes = reply_of(&message);
                drop(message);
                self.peers.release(slot);
                let bytes = bytes.as_ref().ok_or(Status::NoMemory);
                let result = bytes.and_then(|bytes| parse_reply(kind, &bytes[..]));
                self.tell(state, Event::PeerReply { call, result });
            }
            (_, Ok(())) => {
                drop(message);
                self.peers.release(slot);
                let result = Ok(PeerAnswer::Done);
                self.tell(state, Event::PeerReply { call, result });
            }
        }
    }
}

/// Answers another member.
fn answer(op: Op, encoded: Result<&[u8], WireError>) {
    match encoded {
        Ok(bytes) => {
            if let Err((op, _)) = op.reply(bytes) {
                op.respond(Status::Invalid.wire());
            }
        }
        Err(_) => op.respond(Status::OutOfRange.wire()),
    }
}

/// What another member answered to a question that is not for data.
fn parse_reply(kind: Kind, bytes: &[u8]) -> Result<PeerAnswer<'_>, Status> {
    let answer = match kind {
        Kind::Begun => Begun::parse::<KernelCrc>(bytes).map(PeerAnswer::Begun),
        _ => DirtyPage::parse::<KernelCrc>(bytes).map(PeerAnswer::Page),
    };
    answer.map_err(|_| Status::Invalid)
}

/// The answer that a message brought. `None`: no memory.
fn reply_of(message: &Message<Call>) -> Option<KBox<[u8; REPLY_BYTES]>> {
    let mut bytes = KBox::<[u8; REPLY_BYTES]>::init(pin_init::init_zeroed(), GFP_KERNEL).ok()?;
    message.read_owned(0, &mut bytes[..]).ok()?;
    Some(bytes)
}

impl Shell {
    /// A message is about to be given to the engine; its number. `None`: it was answered.
    fn expect(&mut self, op: Op, client: Option<Client>) -> Option<u64> {
        if self.pending.len() >= MAX_MAIL {
            op.respond(Status::Busy.wire());
            return None;
        }
        self.calls += 1;
        let call = self.calls;
        // There is room for so many.
        let _ = self.pending.push(Pending { call, op, client }, GFP_KERNEL);
        Some(call)
    }
}

// ---- What the engine wants ----

/// Does at once what the engine wants, or leaves it to another job. Nothing here calls the engine.
struct Outbox<'a> {
    runner: &'a Arc<Runner>,
    shell: &'a mut Shell,
}

impl Out for Outbox<'_> {
    fn act(&mut self, action: Action<'_>) {
        match action {
            Action::Reply { call, reply } => self.reply(call, reply),
            Action::WriteMeta { offset, bytes } => {
                self.runner.disk.begin(Work::Write(offset), Some(bytes));
            }
            Action::AssignPool(pool) => self.runner.disk.begin(Work::Assign(pool), None),
            Action::Flush => self.runner.disk.begin(Work::Flush, None),
            Action::Serve(serving) => self.serve(serving),
            Action::Drain => {
                self.runner.retired.lock().wanted = true;
                self.reap();
            }
            Action::SendPeer { call, to, message } => self.call(call, to, message),
            Action::ClosePeer(member) => self.runner.peers.close(member),
            Action::PullWrite { call, offset, len } => self.write_pulled(call, offset, len),
            Action::Retry => self.shell.retry = true,
            Action::LogFull => self.shell.log_full = true,
            Action::Timer(at) => {
                let ns = at.since(Time(now_ns()));
                if let Some(timer) = self.shell.timer.as_ref().filter(|_| at != Time::NEVER) {
                    timer.set(ns.max(1));
                }
            }
            Action::Failed(status) => self.fail(status),
        }
    }
}

impl Outbox<'_> {
    #[inline(never)]
    fn reply(&mut self, call: u64, reply: &Reply<'_>) {
        let place = self.shell.pending.iter().position(|p| p.call == call);
        let Some(pending) = place.and_then(|place| self.shell.pending.remove(place).ok()) else {
            return;
        };
        if reply.kind == Kind::Install && reply.status.is_ok() {
            self.shell.client = pending.client;
        }
        if let Some(client) = self.shell.client.as_mut().filter(|_| reply.status.is_ok()) {
            if matches!(reply.kind, Kind::Install | Kind::Ping) {
                client.heard = Time(now_ns());
            }
        }
        if reply.kind == Kind::Merge {
            return pending.op.respond(reply.status.wire());
        }
        match reply.encode::<KernelCrc>(&mut self.shell.reply) {
            Ok(bytes) => {
                if let Err((op, _)) = pending.op.reply(bytes) {
                    op.respond(Status::Invalid.wire());
                }
            }
            Err(_) => pending.op.respond(Status::Io.wire()),
        }
    }

    fn serve(&mut self, serving: Option<storage::Serving>) {
        let runner = self.runner;
        if let Some(retiring) = self
            .shell
            .open
            .and_then(|pool| runner.directory.retire(pool))
        {
            let mut retired = runner.retired.lock();
            // Without memory it is waited for here: what is inside ends by itself.
            let _ = retired.list.push(retiring, GFP_KERNEL);
            drop(retired);
            self.reap();
        }
        let Some(state) = serving else {
            self.shell.client = None;
            return;
        };
        let pool = state.identity.pool;
        let owns = self.shell.open == Some(pool);
        let serving = Serving {
            state,
            runner: runner.clone(),
        };
        match runner.directory.publish(pool, owns, serving) {
            Ok(()) => self.shell.open = Some(pool),
            // Whoever counts on it is refused, and tries again.
            Err(error) => refuse!(
                (),
                "pool {}: member {} cannot serve ({:?}); it is tried again",
                runner.name,
                runner.member,
                error
            ),
        }
    }

    fn reap(&self) {
        if let Some(job) = self.runner.reaper.enter() {
            job.queue();
        }
    }

    fn call(&mut self, call: u64, to: MemberId, message: &Peer<'_>) {
        let runner = self.runner;
        let Err(status) = runner.peers.call(runner, call, to, message) else {
            return;
        };
        if !runner.peers.knows(to) {
            self.unknown(to);
        }
        // Without memory the engine hears of it when it is late.
        let _ = self.shell.bounced.push((call, status), GFP_KERNEL);
    }

    /// The client may be about to say where a member is: only if it does not, the administrator hears of it, once.
    #[cold]
    fn unknown(&mut self, to: MemberId) {
        let shell = &mut *self.shell;
        let now = Time(now_ns());
        if !shell.unknown.contains(to) {
            shell.unknown = shell.unknown.with(to);
            shell.unknown_since = now;
        } else if now.since(shell.unknown_since) > UNKNOWN && !shell.said.contains(to) {
            shell.said = shell.said.with(to);
            super::peer::unknown(&self.runner.name, to);
        }
    }

    fn write_pulled(&mut self, call: u64, offset: u64, len: u32) {
        let pulled = self.shell.pulled.take();
        let Some(mut message) = pulled.filter(|message| message.ctx().number == call) else {
            return;
        };
        let data = message.buffer().and_then(|data| data.slice(0, len));
        let runner = self.runner.clone();
        let done = StoreDone::new(Waiter::Pull(PullWrite { runner, message }));
        if data.is_none() {
            return done.finish(Status::Invalid);
        }
        let io = StoreIo {
            op: StoreOp::Write { fua: false },
            offset,
            len,
            data,
        };
        self.runner.store.submit(io, done);
    }

    #[cold]
    fn fail(&mut self, status: Status) {
        refuse!(
            (),
            "pool {}: the store of member {} failed: {}; it is started again, see the messages of its device",
            self.runner.name,
            self.runner.member,
            status
        );
        self.shell.failed = Some(status);
        // Whoever is starting it sees that by itself.
        if self.runner.started.is_set() {
            super::pool::revive(self.runner.name);
        }
    }
}
