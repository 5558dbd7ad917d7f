// SPDX-License-Identifier: GPL-2.0

//! A member: the shell around the storage half of the engine.
//!
//! Translates messages and accesses to the disk into events of the engine, and its actions back. What it tells the
//! observer it takes from there: which write begins on the disk, which record is written, which answer leaves.

use crate::device::Device;
use crate::disk::Access;
use crate::disk::Disk;
use crate::disk::Done;
use crate::disk::SECTOR;
use crate::env::Env;
use crate::faults::Kind;
use crate::network::Answer;
use crate::network::Host;
use crate::network::Packet;
use crate::queue::Nanos;
use crate::random::Random;
use crate::store;
use crate::store::Crc;
use crate::store::Image;
use rmr_engine::member::MemberState;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::EpochRecord;
use rmr_proto::Geometry;
use rmr_proto::Header;
use rmr_proto::Layout;
use rmr_proto::MemberId;
use rmr_proto::Message;
use rmr_proto::Op;
use rmr_proto::Reply;
use rmr_proto::Request;
use rmr_proto::Status;
use rmr_proto::Uuid;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::rc::Rc;

/// A message of IO whose requests are not all done.
#[derive(Debug)]
struct Batch {
    /// The call to answer, if it has a way back.
    call: Option<u64>,
    /// Requests that are not done.
    left: usize,
    status: Status,
    /// What reads have read.
    data: Vec<u64>,
}

/// A request of a batch.
#[derive(Clone, Debug)]
struct Task {
    batch: u64,
    header: Header,
    request: Request,
    values: Rc<[u64]>,
}

impl Task {
    fn sector(&self) -> u64 {
        self.request.offset / SECTOR
    }

    fn count(&self) -> u64 {
        u64::from(self.request.len) / SECTOR
    }
}

/// What an access to the disk is for.
#[derive(Clone, Debug)]
enum For {
    /// A request of a client.
    Task(u64),
    /// A copy of a record: what comes after.
    Meta(Box<(EpochRecord, usize)>),
    /// A flush of a promise, install or detach.
    Settle,
}

/// A control message under way.
#[derive(Debug)]
struct Change {
    call: Option<u64>,
    kind: rmr_proto::Kind,
    next: MemberState,
}

/// A disk with a new store.
fn new_device(
    env: &mut Env,
    layout: &Layout,
    id: MemberId,
    volatile: bool,
    pool: Uuid,
) -> Option<Device> {
    let mut disk = Disk::new(volatile);
    let uuid = Uuid::from_random(env.uuids.bytes());
    store::create(&mut disk, layout, uuid, pool, id).ok()?;
    Some(Device::new(disk, uuid, pool))
}

/// A member.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub member: u8,
    id: MemberId,
    host: Host,
    layout: Layout,
    device: Device,
    /// Its own disk, while a foreign one is in.
    aside: Option<Device>,
    /// Its disk as it was once.
    copy: Option<Device>,
    lost: bool,
    stale: bool,
    /// Number of the run of its host.
    boot: u64,
    up: bool,
    /// What its disk remembers, while it is down.
    image: Image,
    state: Option<MemberState>,
    pool: Uuid,
    sequence: u64,
    change: Option<Change>,
    waiting: VecDeque<(Option<u64>, Control)>,
    batches: BTreeMap<u64, Batch>,
    tasks: BTreeMap<u64, Task>,
    accesses: BTreeMap<u64, For>,
    next: u64,
}

impl Node {
    /// A member with a new store.
    pub fn create(env: &mut Env, member: u8) -> Option<Node> {
        let id = MemberId::new(member.into())?;
        let geometry = Geometry::new(env.plan.size, env.plan.chunk_shift).ok()?;
        let layout = store::layout(geometry)?;
        let volatile = env.plan.volatile.get(usize::from(member)).copied();
        let device = new_device(env, &layout, id, volatile.unwrap_or(true), Uuid::NIL)?;
        Some(Node {
            member,
            id,
            host: Host::Member(member),
            layout,
            device,
            aside: None,
            copy: None,
            lost: false,
            stale: false,
            boot: 0,
            up: false,
            image: Image::default(),
            state: None,
            pool: Uuid::NIL,
            sequence: 1,
            change: None,
            waiting: VecDeque::new(),
            batches: BTreeMap::new(),
            tasks: BTreeMap::new(),
            accesses: BTreeMap::new(),
            next: 0,
        })
    }

    /// Its host runs, and the engine has read the disk.
    pub fn is_started(&self) -> bool {
        self.up && self.state.is_some()
    }

    /// Its host runs.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether a chunk of a member's copy is dirty.
    pub fn dirty(&self, of: u8, chunk: u64) -> bool {
        let nothing_counts = self.lost || self.stale || !self.image.readable;
        (nothing_counts && of == self.member)
            || MemberId::new(of.into()).is_some_and(|of| self.image.is_dirty(of, chunk))
    }

    /// Whether it would report a chunk as suspect. This engine remembers nothing, so it has to report everything.
    pub fn suspect(&self, _chunk: u64) -> bool {
        true
    }

    /// Whether a chunk is in its log.
    pub fn logged(&self, chunk: u64) -> bool {
        self.image.is_logged(chunk)
    }

    /// Its host starts.
    pub fn start(&mut self, env: &mut Env) {
        self.boot += 1;
        self.up = true;
        self.image = Image::read(&self.device.disk, &self.layout, self.device.store);
        env.line(&self.host, format_args!("starts, boot {}", self.boot));
        let Some(state) =
            MemberState::start(self.pool, self.device.store, self.id, &self.image.epoch)
        else {
            return;
        };
        self.change = Some(Change {
            call: None,
            kind: rmr_proto::Kind::Query,
            next: state,
        });
        self.persist(env);
    }

    /// Its host is gone.
    pub fn crash(&mut self, env: &mut Env, power: bool) {
        self.up = false;
        self.state = None;
        self.change = None;
        self.waiting.clear();
        self.batches.clear();
        self.tasks.clear();
        self.accesses.clear();
        let done = self.device.disk.crash(power, &mut env.random);
        self.tell(env, &done);
        self.look_at_disk();
        env.observer.restarted(self.member, 0);
    }

    /// What the disk shows has changed.
    fn tell(&mut self, env: &mut Env, done: &Done) {
        if self.aside.is_some() {
            return;
        }
        for &sector in &done.changed {
            env.observer
                .wrote(self.member, sector, self.device.disk.value(sector));
        }
        let now = env.now();
        env.observer.lost(now, self.member, Some(done.lost.clone()));
    }

    // Disks come and go while the host is down.

    /// UUID of the store in the host.
    pub fn store(&self) -> Uuid {
        self.device.store
    }

    /// Whether its disk was replaced by an empty one, and the pool does not know that store yet.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether a disk of another pool is in.
    pub fn has_foreign(&self) -> bool {
        self.aside.is_some()
    }

    /// Whether its store may be refused for good: an older state of itself, or unreadable.
    pub fn is_doubtful(&self) -> bool {
        self.stale || !self.image.readable
    }

    /// Another disk is put in, with a new store.
    pub fn replace(&mut self, env: &mut Env) {
        let volatile = self.device.disk.is_volatile();
        if let Some(device) = new_device(env, &self.layout, self.id, volatile, Uuid::NIL) {
            env.line(
                &self.host,
                format_args!("has an empty disk, store {}", device.store),
            );
            self.device = device;
            self.lost = true;
            self.stale = false;
            env.observer.replaced(self.member);
            self.look_at_disk();
        }
    }

    /// A disk of another pool is put in, which has the same name.
    pub fn put_foreign(&mut self, env: &mut Env) {
        let volatile = self.device.disk.is_volatile();
        let pool = Uuid::from_random(env.uuids.bytes());
        if let Some(device) = new_device(env, &self.layout, self.id, volatile, pool) {
            env.line(&self.host, format_args!("has a foreign disk"));
            let own = std::mem::replace(&mut self.device, device);
            self.aside.get_or_insert(own);
        }
    }

    /// The disk that was taken out is put back.
    pub fn put_back(&mut self, env: &mut Env) {
        if let Some(own) = self.aside.take() {
            env.line(&self.host, format_args!("has its own disk again"));
            self.device = own;
            self.look_at_disk();
        }
    }

    /// Makes a copy of the disk, without what is not stable.
    pub fn keep_copy(&mut self) {
        if self.aside.is_none() && !self.lost {
            let mut copy = self.device.clone();
            copy.disk.forget_unstable();
            self.copy = Some(copy);
        }
    }

    /// Whether the copy is of a time before this configuration, in which the member takes part.
    pub fn copy_is_older(&self, config: Option<&Config>) -> bool {
        let (Some(copy), Some(config)) = (&self.copy, config) else {
            return false;
        };
        let then = Image::read(&copy.disk, &self.layout, copy.store);
        let Some(installed) = &then.epoch.installed else {
            return false;
        };
        let now = Image::read(&self.device.disk, &self.layout, self.device.store);
        let newer = (config.generation.number, config.epoch)
            > (installed.generation.number, installed.epoch);
        newer
            && copy.store == self.device.store
            && config.receivers().contains(self.id)
            && now.epoch.incarnation > then.epoch.incarnation
            && config.incarnation(self.id) > then.epoch.incarnation
    }

    /// The copy is put in.
    pub fn restore(&mut self, env: &mut Env) {
        let Some(copy) = self.copy.take() else { return };
        env.line(&self.host, format_args!("has an older state of its disk"));
        let old: Vec<u64> = self
            .device
            .disk
            .values()
            .map(|(sector, _)| sector)
            .collect();
        self.device = copy;
        self.stale = true;
        for sector in old {
            env.observer
                .wrote(self.member, sector, self.device.disk.value(sector));
        }
        for (sector, value) in self.device.disk.values() {
            env.observer.wrote(self.member, sector, value);
        }
        self.look_at_disk();
    }

    /// What its disk remembers, now that nothing else does.
    fn look_at_disk(&mut self) {
        if self.aside.is_none() {
            self.image = Image::read(&self.device.disk, &self.layout, self.device.store);
        }
    }

    /// No more faults.
    pub fn heal(&mut self, env: &mut Env) {
        self.device.heal(env.now());
    }

    /// A fault of the disk.
    pub fn fault(&mut self, env: &mut Env, kind: Kind, span: Nanos, _random: &mut Random) {
        let until = env.now() + span;
        match kind {
            Kind::SlowDisk => self.device.slow(until),
            Kind::HungDisk => self.device.hang(until),
            _ => {}
        }
    }

    fn begin(&mut self, env: &mut Env, access: Access, what: For) {
        let number = self.device.begin(env, self.member, self.boot, access);
        self.accesses.insert(number, what);
    }

    /// An access is done.
    pub fn disk_done(&mut self, env: &mut Env, boot: u64, number: u64) {
        if boot != self.boot {
            return;
        }
        let Some(done) = self
            .device
            .end(env, &self.layout, self.member, boot, number)
        else {
            return;
        };
        self.tell(env, &done);
        match self.accesses.remove(&number) {
            Some(For::Task(task)) => {
                if let Some(of) = self.tasks.get(&task) {
                    let (generation, seq) = (of.header.generation, of.request.seq);
                    if of.request.op.is_write() {
                        env.observer.ends(self.member, generation, seq.0, false);
                    }
                }
                self.finish_task(env, task, done.status, &done.values);
                self.go_on(env);
            }
            Some(For::Meta(what)) => {
                let (record, copy) = *what;
                if copy == 0 {
                    self.write_copy(env, record, 1);
                    return;
                }
                let now = env.now();
                env.observer.persisted(now, self.member, &record);
                let known = record
                    .installed
                    .as_ref()
                    .and_then(|config| config.store(self.id));
                if known == Some(self.device.store) && self.state.is_some() {
                    (self.lost, self.stale) = (false, false);
                }
                self.commit(env);
            }
            Some(For::Settle) => self.persist(env),
            None => {}
        }
    }

    /// A timer is due.
    pub fn timer(&mut self, _env: &mut Env, _boot: u64) {}

    /// A message arrives.
    pub fn deliver(&mut self, env: &mut Env, call: Option<u64>, packet: &Packet) {
        match Message::parse::<Crc>(&packet.bytes) {
            Ok(Message::Io(batch)) => self.io(env, call, &batch, &packet.data),
            Ok(Message::Control(control)) => {
                self.waiting.push_back((call, control));
                self.go_on(env);
            }
            Ok(Message::Merge(_)) => self.reply(env, call, rmr_proto::Kind::Merge, Status::Ok),
            Ok(_) => {}
            Err(why) => {
                env.line(&self.host, format_args!("refuses a message: {why}"));
                self.answer_call(env, call, Answer::of(why.status()));
            }
        }
    }

    /// A call of its own is answered, or comes back.
    pub fn answer(&mut self, _env: &mut Env, _call: u64, _answer: Option<Answer>) {}

    fn answer_call(&mut self, env: &mut Env, call: Option<u64>, answer: Answer) {
        if let Some(call) = call {
            let now = env.now();
            env.network.answer(now, call, answer);
        }
    }

    // Control.

    fn go_on(&mut self, env: &mut Env) {
        if let Some(change) = &self.change {
            if self.accesses.is_empty() && change.kind != rmr_proto::Kind::Query {
                self.begin(env, Access::Flush, For::Settle);
            }
            return;
        }
        let (Some(state), Some((call, control))) = (&self.state, self.waiting.pop_front()) else {
            return;
        };
        let kind = control.kind();
        let next = match &control {
            Control::Promise {
                to,
                generation,
                takeover,
                ..
            } => state.promise(to, *generation, *takeover, false),
            Control::Install {
                to, config, assign, ..
            } => state.install(to, config, *assign),
            Control::Detach {
                to,
                generation,
                epoch,
                ..
            } => state.detach(to, *generation, *epoch),
            Control::Query { .. } | Control::Ping { .. } => Ok(state.clone()),
        };
        match next {
            Ok(next) if next == *state => self.reply(env, call, kind, Status::Ok),
            Ok(next) => {
                self.change = Some(Change { call, kind, next });
                self.go_on(env);
            }
            Err(status) => self.reply(env, call, kind, status),
        }
    }

    fn persist(&mut self, env: &mut Env) {
        let Some(change) = &self.change else { return };
        self.sequence += 1;
        let record = change.next.record().clone();
        self.write_copy(env, record, 0);
    }

    fn write_copy(&mut self, env: &mut Env, record: EpochRecord, copy: usize) {
        let mut buf = [0; rmr_proto::RECORD_BYTES];
        let at = self.layout.epoch()[copy];
        let encoded = record.encode::<Crc>(self.device.store, self.sequence, at, &mut buf);
        if encoded.is_ok() {
            env.observer.metadata(env.queue.now(), self.member);
            let access = Access::Meta(at.offset, Box::new(buf));
            self.begin(env, access, For::Meta(Box::new((record, copy))));
        }
    }

    fn commit(&mut self, env: &mut Env) {
        let Some(change) = self.change.take() else {
            return;
        };
        if self.state.is_none() {
            env.observer
                .restarted(self.member, change.next.record().incarnation.0);
        }
        self.pool = change.next.pool();
        env.line(
            &self.host,
            format_args!("{:?} {:?}", change.kind, change.next.record()),
        );
        self.state = Some(change.next);
        if change.kind != rmr_proto::Kind::Query {
            self.reply(env, change.call, change.kind, Status::Ok);
        }
        self.go_on(env);
    }

    fn reply(&mut self, env: &mut Env, call: Option<u64>, kind: rmr_proto::Kind, status: Status) {
        let Some(state) = &self.state else { return };
        if kind == rmr_proto::Kind::Promise && status == Status::Ok {
            let now = env.now();
            env.observer
                .promised(now, self.member, state.record().promised);
        }
        let mut limits = rmr_proto::Limits {
            logical_block: 512,
            physical_block: 512,
            io_min: 0,
            io_opt: 0,
            max_write_zeroes: 1 << 20,
            features: rmr_proto::Features::WRITE_CACHE,
        };
        limits.features = limits.features.set(rmr_proto::Features::FUA, true);
        let reply = Reply {
            kind,
            status,
            report: (kind != rmr_proto::Kind::Merge)
                .then(|| state.report(self.layout.geometry(), limits)),
            suspects: rmr_proto::Suspects::default(),
        };
        let mut buf = vec![0; rmr_proto::REPLY_BYTES];
        let bytes = match <&mut [u8; rmr_proto::REPLY_BYTES]>::try_from(&mut buf[..]) {
            Ok(buf) => reply.encode::<Crc>(buf).map(<[u8]>::to_vec),
            Err(_) => return,
        };
        if let Ok(bytes) = bytes {
            let answer = Answer {
                status: Status::Ok,
                bytes,
                data: [].into(),
            };
            self.answer_call(env, call, answer);
        }
        self.go_on(env);
    }

    // Requests of clients.
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
            let task = self.next;
            self.tasks.insert(
                task,
                Task {
                    batch: number,
                    header,
                    request,
                    values,
                },
            );
            self.try_task(env, task);
        }
    }

    fn try_task(&mut self, env: &mut Env, number: u64) {
        let Some(task) = self.tasks.get(&number) else {
            return;
        };
        let admitted = match &self.state {
            _ if self.change.is_some() => Err(Status::Busy),
            Some(state) => state.admit(&task.header),
            None => Err(Status::NotReady),
        };
        let now = env.now();
        if let Err(status) = admitted {
            self.finish_task(env, number, status, &[]);
            return;
        }
        let (header, request) = (task.header, task.request);
        env.observer.watermark(self.member, &header);
        let access = match request.op {
            Op::Read => {
                env.observer.reads(now, self.member, &header);
                Access::Read(task.sector(), task.count())
            }
            Op::Write | Op::WriteZeroes => {
                env.observer
                    .begins(now, self.member, &header, request.seq.0);
                Access::Write(task.sector(), task.values.clone(), request.fua())
            }
            Op::Flush => Access::Flush,
        };
        self.begin(env, access, For::Task(number));
    }

    /// A request is done.
    fn finish_task(&mut self, env: &mut Env, task: u64, status: Status, read: &[u64]) {
        let Some(task) = self.tasks.remove(&task) else {
            return;
        };
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
        if let Some(call) = batch.call {
            let data = match batch.status {
                Status::Ok if task.request.op == Op::Read => batch.data.into(),
                _ => [].into(),
            };
            let answer = Answer {
                status: batch.status,
                bytes: Vec::new(),
                data,
            };
            env.network.answer(env.queue.now(), call, answer);
        }
    }
}
