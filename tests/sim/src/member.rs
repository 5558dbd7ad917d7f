// SPDX-License-Identifier: GPL-2.0

//! A member: the shell around the storage half of the engine.
//!
//! Translates messages and accesses to the disk into events of the engine, and its actions back. What it tells the
//! observer it takes from there: which write begins on the disk, which record is written, which answer leaves.

use crate::device::Device;
use crate::disk::Access;
use crate::disk::Disk;
use crate::disk::Done;
use crate::disk::Record;
use crate::disk::SECTOR;
use crate::env::Env;
use crate::env::Event as WorldEvent;
use crate::faults::Kind as Fault;
use crate::network::Answer;
use crate::network::Host;
use crate::network::Packet;
use crate::observer;
use crate::plan::MS;
use crate::plan::SECOND;
use crate::queue::Nanos;
use crate::random::Random;
use crate::store;
use crate::store::Crc;
use crate::store::Image;
use rmr_checkers::Rule;
use rmr_checkers::Violation;
use rmr_engine::admission;
use rmr_engine::dedupe::Joiners;
use rmr_engine::memory::HostMemory;
use rmr_engine::storage::Action;
use rmr_engine::storage::Event;
use rmr_engine::storage::FlushMark;
use rmr_engine::storage::Member;
use rmr_engine::storage::Out;
use rmr_engine::storage::PeerAnswer;
use rmr_engine::storage::PeerDo;
use rmr_engine::storage::Reader;
use rmr_engine::storage::Serving;
use rmr_engine::storage::Shared;
use rmr_engine::storage::StoreInfo;
use rmr_engine::storage::Verdict;
use rmr_engine::sync::HostLock;
use rmr_engine::time::Time;
use rmr_proto::Ask;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::DirtyPage;
use rmr_proto::Epoch;
use rmr_proto::EpochRecord;
use rmr_proto::Features;
use rmr_proto::Generation;
use rmr_proto::Geometry;
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::Kind;
use rmr_proto::Layout;
use rmr_proto::Limits;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Message;
use rmr_proto::Op;
use rmr_proto::Peer;
use rmr_proto::Quorum;
use rmr_proto::Reply;
use rmr_proto::Request;
use rmr_proto::Status;
use rmr_proto::StoreState;
use rmr_proto::Superblock;
use rmr_proto::Uuid;
use rmr_proto::MAX_MEMBERS;
use rmr_proto::MAX_PEER_BYTES;
use rmr_proto::RECORD_BYTES;
use rmr_proto::REPLY_BYTES;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

/// The hot path of a member, as used here: a token is the number of a task.
type Hot = Shared<HostMemory, HostLock<Joiners<u64>>>;

/// A message of IO whose requests are not all done.
#[derive(Clone, Debug, Hash)]
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
#[derive(Clone, Debug, Hash)]
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
#[derive(Clone, Debug, Hash)]
enum For {
    /// A write or read of a client.
    Task(u64),
    /// A flush of a client.
    Flush(u64, FlushMark),
    /// A copy of a record.
    Meta(u64, Box<Record>),
    /// A copy of the superblock; the other one comes next.
    Superblock(VecDeque<(u64, Box<Record>)>),
    /// The engine wants all to be stable.
    Settle,
    /// Data for a member that pulls: the call.
    Pulled(Option<u64>),
    /// What was pulled is written: the engine's number for it.
    PullWrite(u64),
}

impl For {
    /// Whether the engine has to wait for it before it changes what is served.
    fn runs(&self) -> bool {
        matches!(self, For::Task(_) | For::Flush(..) | For::Pulled(_))
    }
}

/// Something the engine is to hear of.
#[derive(Clone, Debug, Hash)]
enum Todo {
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
enum Act {
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

/// What a member asks another one for, as the trace has it.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Page(MemberId, u64),
    Data(u64, u32),
    Clear(usize),
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Asked::Page(of, page) => write!(f, "fetch of m{of}, page {page}"),
            Asked::Data(offset, len) => {
                write!(f, "pull {}+{}", offset / SECTOR, u64::from(len) / SECTOR)
            }
            Asked::Clear(runs) => write!(f, "clear {runs} runs"),
        }
    }
}

/// Keeps actions until the engine returns.
struct Outbox(Vec<Act>);

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
                let mut buf = [0; MAX_PEER_BYTES];
                let bytes = message.encode::<Crc>(&mut buf);
                let bytes = bytes.map(<[u8]>::to_vec).unwrap_or_default();
                let asked = match message.ask {
                    Ask::FetchDirty { of, page } => Asked::Page(of, page),
                    Ask::Pull { offset, len } => Asked::Data(offset, len),
                    Ask::Clear { runs } => Asked::Clear(runs.len()),
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

fn encode_reply(reply: &Reply<'_>) -> Vec<u8> {
    let mut buf = Box::new([0; REPLY_BYTES]);
    let bytes = reply.encode::<Crc>(&mut buf);
    bytes.map(<[u8]>::to_vec).unwrap_or_default()
}

/// Reads records of a disk.
struct DiskReader<'a>(&'a Disk);

impl Reader for DiskReader<'_> {
    fn read(&mut self, offset: u64, page: &mut [u8; RECORD_BYTES]) -> Result<(), Status> {
        *page = *self.0.record(offset);
        Ok(())
    }
}

/// The engine of a member that runs.
#[derive(Clone, Hash)]
struct Running {
    member: Member<HostMemory, Crc>,
    hot: Hot,
    serving: Option<Serving>,
    /// Its new incarnation is on disk.
    started: bool,
    /// It waits until nothing is running.
    draining: bool,
}

/// A disk with a new store.
fn new_device(env: &mut Env, layout: &Layout, id: MemberId, volatile: bool) -> Option<Device> {
    let mut disk = Disk::new(volatile);
    let uuid = Uuid::from_random(env.uuids.bytes());
    let epoch = EpochRecord::default();
    store::create(&mut disk, layout, uuid, Uuid::NIL, id, &epoch).ok()?;
    Some(Device::new(disk, uuid, Uuid::NIL))
}

/// A disk that was the last member in sync of another pool.
fn foreign_device(env: &mut Env, layout: &Layout, id: MemberId, volatile: bool) -> Option<Device> {
    let mut disk = Disk::new(volatile);
    let (uuid, pool) = (
        Uuid::from_random(env.uuids.bytes()),
        Uuid::from_random(env.uuids.bytes()),
    );
    let generation = Generation {
        number: env.uuids.scaled(1, 1000),
        nonce: env.uuids.any(),
    };
    let incarnation = Incarnation(env.uuids.scaled(1, 1000));
    let mut config = Config {
        generation,
        epoch: Epoch(env.uuids.scaled(1, 1000)),
        in_sync: MemberSet::only(id),
        catching_up: MemberSet::EMPTY,
        members: [None; MAX_MEMBERS],
        incarnations: [Incarnation::NONE; MAX_MEMBERS],
        persisted: [Epoch::NONE; MAX_MEMBERS],
        clean: env.uuids.chance(1, 2),
        history: Uuid::from_random(env.uuids.bytes()),
        forked_from: None,
        quorum: Quorum::Off,
        maintenance: MemberSet::EMPTY,
    };
    *config.members.get_mut(id.index())? = Some(uuid);
    *config.incarnations.get_mut(id.index())? = incarnation;
    let epoch = EpochRecord {
        incarnation,
        promised: generation,
        installed: Some(config),
        ..EpochRecord::default()
    };
    store::create(&mut disk, layout, uuid, pool, id, &epoch).ok()?;
    Some(Device::new(disk, uuid, pool))
}

/// A member.
#[derive(Clone, Hash)]
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
    /// It has gone further in a history that the pool has given up.
    diverged: bool,
    /// Number of the run of its host.
    boot: u64,
    up: bool,
    running: Option<Running>,
    /// What its disk remembers, while it is down.
    image: Image,
    batches: BTreeMap<u64, Batch>,
    tasks: BTreeMap<u64, Task>,
    /// Writes that were executed, or are, and tokens that wait for them.
    parked: VecDeque<u64>,
    accesses: BTreeMap<u64, For>,
    /// Calls of its own that are not answered: the engine's numbers for them.
    calls: BTreeMap<u64, (u64, Kind)>,
    /// Marks that are not acknowledged, by call.
    merges: BTreeMap<u64, Vec<u8>>,
    /// What pulls brought, until it is written.
    pulled: BTreeMap<u64, Rc<[u64]>>,
    todo: VecDeque<Todo>,
    timer: Time,
    next: u64,
    /// The first good copy of a record that is being written.
    first_copy: Option<u64>,
}

impl Node {
    /// A member with a new store.
    pub fn create(env: &mut Env, member: u8) -> Option<Node> {
        let id = MemberId::new(member.into())?;
        let geometry = Geometry::new(env.plan.size, env.plan.chunk_shift).ok()?;
        let layout = store::layout(geometry)?;
        let volatile = env.plan.volatile.get(usize::from(member)).copied();
        let device = new_device(env, &layout, id, volatile.unwrap_or(true))?;
        let image = Image::read(&device.disk, &layout, device.store);
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
            diverged: false,
            boot: 0,
            up: false,
            running: None,
            image,
            batches: BTreeMap::new(),
            tasks: BTreeMap::new(),
            parked: VecDeque::new(),
            accesses: BTreeMap::new(),
            calls: BTreeMap::new(),
            merges: BTreeMap::new(),
            pulled: BTreeMap::new(),
            todo: VecDeque::new(),
            timer: Time::NEVER,
            next: 0,
            first_copy: None,
        })
    }

    // What it remembers, for the checkers.

    /// The engine runs, and has read the disk.
    fn engine(&self) -> Option<&Running> {
        self.running.as_ref().filter(|_| self.aside.is_none())
    }

    /// Its host runs, and the engine has read the disk.
    pub fn is_started(&self) -> bool {
        self.engine().is_some()
    }

    /// When its timer is due, by its own clock.
    pub fn timer_at(&self) -> Time {
        self.timer
    }

    /// Number of the run of its host.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Its host runs.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether a chunk of a member's copy is dirty.
    pub fn dirty(&self, of: u8, chunk: u64) -> bool {
        let Some(of) = MemberId::new(of.into()) else {
            return false;
        };
        // A disk that is gone, is of the past or cannot be read is neither a copy nor a keeper of marks, until the pool
        // takes its store; that others are left is seen to when a disk is taken away. One that has diverged was given up by
        // the administrator who forced the start: it is taken only with all that it has discarded.
        if self.lost || self.stale || self.diverged || !self.image.readable {
            return true;
        }
        match self.engine() {
            Some(engine) => {
                (of == self.id && engine.member.needs_fetch()) || engine.hot.dirty(of, chunk)
            }
            None => self.image.is_dirty(of, chunk),
        }
    }

    /// Whether it would report a chunk as suspect.
    pub fn suspect(&self, chunk: u64) -> bool {
        self.engine()
            .is_some_and(|engine| engine.member.suspect(&engine.hot, chunk))
    }

    /// Whether it serves, as a receiver.
    pub fn receives(&self) -> bool {
        self.engine().is_some_and(|engine| engine.serving.is_some())
    }

    /// Whether a chunk is in its log on disk.
    pub fn logged(&self, chunk: u64) -> bool {
        self.image.is_logged(chunk)
    }

    /// Sectors that it answers as unreadable, or will when it is up.
    pub fn unreadable(&self) -> Vec<u64> {
        if self.lost || self.stale {
            return Vec::new();
        }
        match self.engine() {
            Some(engine) => store::sectors(engine.hot.unreadable()).collect(),
            None => self.image.unreadable().collect(),
        }
    }

    /// Sectors of its disk cannot be read until they are written.
    pub fn kill_sectors(&mut self, sectors: std::ops::Range<u64>) {
        self.device.disk.kill_sectors(sectors);
    }

    /// What its disk holds.
    pub fn value(&self, sector: u64) -> u64 {
        self.device.disk.value(sector)
    }

    // Its host.

    /// Its host starts.
    pub fn start(&mut self, env: &mut Env) {
        self.boot += 1;
        self.up = true;
        env.line(&self.host, format_args!("starts, boot {}", self.boot));
        self.start_engine(env);
    }

    fn start_engine(&mut self, env: &mut Env) {
        let Some(hot) = Hot::new(&HostMemory, self.layout.geometry(), HostLock::default()).ok()
        else {
            return;
        };
        let info = StoreInfo {
            pool: self.device.pool,
            store: self.device.store,
            member: self.id,
            layout: self.layout.clone(),
            limits: limits(&self.device.disk),
            log_extents: env.plan.log_extents,
            // Another one at each start is all that is asked for.
            salt: self.boot as u32,
        };
        let reader = &mut DiskReader(&self.device.disk);
        match Member::start(&HostMemory, info, &hot, reader) {
            Ok(member) => {
                self.running = Some(Running {
                    member,
                    hot,
                    serving: None,
                    started: false,
                    draining: false,
                });
                self.tell(env, Todo::Started);
            }
            Err(why) => env.line(&self.host, format_args!("store refused: {why:?}")),
        }
    }

    /// What is on its disk after it went down; `ran`: the engine could read it before. One copy of each record is good at any
    /// time, so where none was damaged, all can be read.
    fn look_at_crashed_disk(&mut self, env: &mut Env, ran: bool) {
        self.look_at_disk();
        if ran && self.aside.is_none() && !self.image.readable && self.device.disk.is_undamaged() {
            let what = format!("member {} cannot read its records any more", self.member);
            env.observer.violate(Violation {
                rule: Rule::Unreadable,
                time: env.queue.now(),
                what,
            });
        }
    }

    /// Its host is gone.
    pub fn crash(&mut self, env: &mut Env, power: bool) {
        let done = self.device.crash(&self.layout, power, &mut env.random);
        self.gone(env, &done);
    }

    /// Its host is gone, and of all that can happen to the disk, nothing is left to chance: see [`Disk::cut`].
    pub fn cut(&mut self, env: &mut Env, power: bool) {
        let done = self.device.disk.cut(power);
        self.gone(env, &done);
    }

    fn gone(&mut self, env: &mut Env, done: &Done) {
        self.up = false;
        let ran = self.running.is_some();
        self.stop_engine();
        self.show(env, done);
        self.look_at_crashed_disk(env, ran);
        env.observer.restarted(self.member, 0);
    }

    fn stop_engine(&mut self) {
        self.running = None;
        self.batches.clear();
        self.tasks.clear();
        self.parked.clear();
        self.accesses.clear();
        self.calls.clear();
        self.merges.clear();
        self.pulled.clear();
        self.todo.clear();
        self.timer = Time::NEVER;
        self.first_copy = None;
    }

    /// The disk was reset under it, or its metadata could not be written: the engine starts again.
    fn restart_engine(&mut self, env: &mut Env, power: bool) {
        self.boot += 1;
        let ran = self.running.is_some();
        self.stop_engine();
        let done = self.device.crash(&self.layout, power, &mut env.random);
        self.show(env, &done);
        self.look_at_crashed_disk(env, ran);
        env.observer.restarted(self.member, 0);
        self.start_engine(env);
    }

    /// What the disk shows has changed.
    fn show(&mut self, env: &mut Env, done: &Done) {
        if self.aside.is_some() {
            return;
        }
        for &sector in &done.changed {
            let value = self.device.disk.value(sector);
            env.observer.wrote(self.member, sector, value);
        }
        let now = env.now();
        env.observer.lost(now, self.member, Some(done.lost.clone()));
    }

    // Disks come and go while the host is down.

    /// UUID of the store in the host.
    pub fn store(&self) -> Uuid {
        self.device.store
    }

    /// UUID of its pool, if its own store has one.
    pub fn pool(&self) -> Option<Uuid> {
        self.aside.as_ref().unwrap_or(&self.device).pool.non_nil()
    }

    /// Whether its disk was replaced by an empty one, and the pool does not know that store yet.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether a disk of another pool is in.
    pub fn has_foreign(&self) -> bool {
        self.aside.is_some()
    }

    /// Compares what is installed with the newest complete configuration: is it of a history that was given up?
    pub fn judge(&mut self, config: &Config) {
        let installed = self
            .image
            .record()
            .and_then(|record| record.installed.as_ref());
        self.diverged = installed.is_some_and(|installed| !config.follows(installed));
    }

    /// Whether what is installed is of another history than this configuration.
    pub fn is_of_another_history(&self, config: &Config) -> bool {
        let installed = self
            .image
            .record()
            .and_then(|record| record.installed.as_ref());
        installed.is_some_and(|installed| installed.history != config.history)
    }

    /// Whether it has gone further in a history that the pool has given up.
    pub fn is_diverged(&self) -> bool {
        self.diverged
    }

    /// Whether its store may be refused for good: an older state of itself, or unreadable.
    pub fn is_doubtful(&self) -> bool {
        self.stale || !self.image.readable
    }

    /// Whether its disk has lost writes of records, which it had acknowledged.
    pub fn forgets(&self) -> bool {
        self.device.disk.forgets()
    }

    /// Another disk is put in, with a new store.
    pub fn replace(&mut self, env: &mut Env) {
        let volatile = self.device.disk.is_volatile();
        if let Some(device) = new_device(env, &self.layout, self.id, volatile) {
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
        if let Some(device) = foreign_device(env, &self.layout, self.id, volatile) {
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

    /// Whether the copy is of a time before this configuration, in which the member takes part. And no pool must start
    /// from it alone, or with others who know no better: that could not be recognised (R19). So a member that it
    /// holds to be in sync, without which nobody starts, has this configuration.
    pub fn copy_is_older(&self, config: Option<&Config>) -> bool {
        let (Some(copy), Some(config)) = (&self.copy, config) else {
            return false;
        };
        let then = Image::read(&copy.disk, &self.layout, copy.store);
        let now = Image::read(&self.device.disk, &self.layout, self.device.store);
        let (Some(then), Some(now)) = (then.record(), now.record()) else {
            return false;
        };
        let Some(installed) = &then.installed else {
            return false;
        };
        let newer = (config.generation.number, config.epoch)
            > (installed.generation.number, installed.epoch);
        let others = installed.in_sync.without(self.id);
        let fewer_starts =
            now.incarnation > then.incarnation && config.incarnation(self.id) > then.incarnation;
        newer
            && !others.intersection(config.receivers()).is_empty()
            && copy.store == self.device.store
            && config.store(self.id) == Some(copy.store)
            && (self.has_forgotten(config, installed)
                || fewer_starts && config.receivers().contains(self.id))
    }

    /// Whether this configuration knows that the member has persisted a later one than `installed`.
    fn has_forgotten(&self, config: &Config, installed: &Config) -> bool {
        config.follows(installed) && installed.epoch < config.persisted(self.id)
    }

    /// Whether an older state of its disk is in, which is known as such only by how often it was started.
    pub fn must_not_start(&self, config: Option<&Config>) -> bool {
        let record = self.image.record();
        let installed = record.and_then(|record| record.installed.as_ref());
        let known = config.zip(installed);
        self.stale && !known.is_some_and(|(config, old)| self.has_forgotten(config, old))
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
        env.observer.rolled_back(self.member);
        self.look_at_disk();
    }

    /// What its disk remembers, now that nothing else does.
    fn look_at_disk(&mut self) {
        if self.aside.is_none() {
            self.image = Image::read(&self.device.disk, &self.layout, self.device.store);
        }
    }

    /// A copy of a record was written.
    fn look_at_record(&mut self, offset: u64) {
        // One that is damaged was lost, or written elsewhere.
        if self.device.disk.is_damaged(offset) {
            self.look_at_disk();
        } else if self.aside.is_none() {
            self.image
                .read_again(&self.device.disk, &self.layout, self.device.store, offset);
        }
    }

    /// No more faults.
    pub fn heal(&mut self, env: &mut Env) {
        self.device.heal(env.now());
    }

    /// A fault of the disk.
    pub fn fault(&mut self, env: &mut Env, kind: Fault, span: Nanos, random: &mut Random) {
        let until = env.now() + span;
        match kind {
            Fault::SlowDisk => self.device.slow(until),
            Fault::HungDisk => self.device.hang(until),
            Fault::DiskReset if self.up => {
                env.line(&self.host, format_args!("its disk is reset"));
                self.restart_engine(env, true);
            }
            Fault::MetaRot if !self.up => {
                for _ in 0..random.between(1, 3) {
                    self.device.rot(env, &self.layout);
                }
                self.look_at_disk();
                env.observer.compare_all();
            }
            _ => {}
        }
    }

    // Accesses to the disk.

    fn begin(&mut self, env: &mut Env, access: Access, what: For) {
        let number = self.device.begin(env, self.member, self.boot, access);
        self.accesses.insert(number, what);
    }

    /// Whether an access that is under way writes metadata.
    pub fn writes_metadata(&self, number: u64) -> bool {
        matches!(self.device.disk.access(number), Some(Access::Meta(..)))
    }

    /// An access is done.
    pub fn disk_done(&mut self, env: &mut Env, boot: u64, number: u64) {
        if boot != self.boot || !self.up {
            return;
        }
        let ended = self
            .device
            .end(env, &self.layout, self.member, boot, number);
        let Some(done) = ended else { return };
        self.show(env, &done);
        let Some(what) = self.accesses.remove(&number) else {
            return;
        };
        let result = match done.status {
            Status::Ok => Ok(()),
            status => Err(status),
        };
        match what {
            For::Task(task) => self.task_done(env, task, done.status, &done.values),
            For::Flush(task, mark) => {
                let status = match &self.running {
                    Some(engine) => engine.hot.end_flush(mark, done.status),
                    None => done.status,
                };
                self.finish_task(env, task, status, &[]);
            }
            For::Meta(offset, record) => {
                if result.is_ok() {
                    self.written(env, offset, &record);
                }
                self.todo.push_back(Todo::MetaDone(result));
            }
            For::Superblock(mut rest) => match (rest.pop_front(), result) {
                (Some((offset, record)), Ok(())) => {
                    let access = Access::Meta(offset, record);
                    self.begin(env, access, For::Superblock(rest));
                }
                (_, result) => self.todo.push_back(Todo::MetaDone(result)),
            },
            For::Settle => self.todo.push_back(Todo::Flushed(result)),
            For::Pulled(call) => {
                let status = self.end_read(done.status);
                let answer = Answer {
                    status,
                    bytes: Vec::new(),
                    data: done.values.into(),
                };
                self.answer_call(env, call, answer);
            }
            For::PullWrite(call) => self.todo.push_back(Todo::PullWritten(call, result)),
        }
        self.work_off(env);
    }

    /// A copy of a record is on the disk.
    fn written(&mut self, env: &mut Env, offset: u64, bytes: &Record) {
        self.look_at_record(offset);
        let [first, second] = self.layout.epoch();
        if offset == first.offset {
            self.first_copy = Some(offset);
            return;
        }
        if offset != second.offset || self.aside.is_some() {
            return;
        }
        let Ok(record) = EpochRecord::parse::<Crc>(self.device.store, second, bytes) else {
            env.wrong(
                "Encoding",
                format!("m{} wrote an epoch record that is none", self.member),
            );
            return;
        };
        if self.first_copy.take().is_none() {
            env.line(
                &self.host,
                format_args!("wrote only the second copy of its epoch record"),
            );
        }
        let record = record.record;
        env.moment.steps += 1;
        let now = env.now();
        if let Some(config) = &record.installed {
            env.line(
                &self.host,
                format_args!(
                    "has generation {} epoch {}: in sync {}, catching up {}; promised {}",
                    config.generation.number,
                    config.epoch.0,
                    config.in_sync,
                    config.catching_up,
                    record.promised.number
                ),
            );
        }
        let Some(engine) = self.running.as_mut() else {
            return;
        };
        if !engine.started {
            engine.started = true;
            env.observer.started(self.member, &record);
            return;
        }
        if record
            .installed
            .as_ref()
            .and_then(|config| config.store(self.id))
            == Some(self.device.store)
        {
            (self.lost, self.stale) = (false, false);
        }
        env.observer.persisted(now, self.member, &record);
    }

    // Messages.

    /// A timer is due.
    pub fn timer(&mut self, env: &mut Env, boot: u64) {
        if boot == self.boot && self.timer <= env.clock(self.host) {
            self.timer = Time::NEVER;
            env.timer_due(self.host);
            self.tell(env, Todo::Timer);
        }
    }

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

    fn answer_call(&mut self, env: &mut Env, call: Option<u64>, answer: Answer) {
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
        let answer = match engine.member.peer(peer, &engine.hot) {
            Ok(PeerDo::Done) => Answer::of(Status::Ok),
            Ok(PeerDo::Page { of, page }) => {
                let mut buf = Box::new([0; REPLY_BYTES]);
                let words = engine.hot.page(of, page);
                let bytes = DirtyPage::encode::<Crc>(of, page, words, &mut buf);
                Answer {
                    status: Status::Ok,
                    bytes: bytes.map(<[u8]>::to_vec).unwrap_or_default(),
                    data: [].into(),
                }
            }
            Ok(PeerDo::Read { offset, len }) => {
                let access = Access::Read(offset / SECTOR, u64::from(len) / SECTOR);
                self.begin(env, access, For::Pulled(call));
                return;
            }
            Err(status) => Answer::of(status),
        };
        if let Ask::Clear { runs } = peer.ask {
            for chunk in runs.iter().flat_map(rmr_proto::Run::range) {
                env.observer.touch(chunk);
            }
        }
        self.answer_call(env, call, answer);
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

    fn try_task(&mut self, env: &mut Env, number: u64) {
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
    fn task_done(&mut self, env: &mut Env, number: u64, status: Status, read: &[u64]) {
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
            env.observer
                .ends(self.member, generation, request.seq.0, false);
            if let Some(engine) = &self.running {
                let done = |token| joined.push(token);
                if !engine.hot.finish(&request, status, done) {
                    self.parked.extend(joined);
                    return self.todo.push_back(Todo::Waiting);
                }
            }
        }
        for number in joined {
            self.finish_task(env, number, status, read);
        }
    }

    /// How to answer what was read.
    fn end_read(&self, status: Status) -> Status {
        match &self.running {
            Some(engine) => engine.hot.end_read(status),
            None => status,
        }
    }

    /// A request is done.
    fn finish_task(&mut self, env: &mut Env, number: u64, status: Status, read: &[u64]) {
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

    // The engine.

    fn tell(&mut self, env: &mut Env, todo: Todo) {
        self.todo.push_back(todo);
        self.work_off(env);
    }

    fn work_off(&mut self, env: &mut Env) {
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
                    (_, Ok(_)) => Ok(PeerAnswer::Done),
                };
                member.event(now, Event::PeerReply { call, result }, hot, out);
                let is_used = |act: &Act| matches!(act, Act::PullWrite(of, ..) if *of == call);
                if !out.0.iter().any(is_used) {
                    self.pulled.remove(&call);
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

    /// Marks are acknowledged: they are on disk (R6), but for what is clean again. While there are others under way, a chunk
    /// may have been marked again.
    fn merged(&mut self, env: &mut Env, call: u64, status: Status) {
        let bytes = self.merges.remove(&call);
        let (Some(bytes), Some(engine)) = (bytes, self.engine()) else {
            return;
        };
        if status != Status::Ok || !self.merges.is_empty() || self.image.record().is_none() {
            return;
        }
        let Ok(merge) = rmr_proto::Merge::parse::<Crc>(&bytes) else {
            return;
        };
        let missing = merge.marks.iter().find_map(|mark| {
            let members = mark.members().iter();
            let mut all = members.flat_map(|of| mark.run().range().map(move |chunk| (of, chunk)));
            all.find(|&(of, chunk)| engine.hot.dirty(of, chunk) && !self.image.is_dirty(of, chunk))
        });
        if let Some((of, chunk)) = missing {
            let what = format!(
                "member {} acknowledges a list: chunk {chunk} of {of} is not on its disk",
                self.member
            );
            env.observer.violate(Violation {
                rule: Rule::Unmarked,
                time: env.now(),
                what,
            });
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
                state: StoreState::Ready,
                store: self.device.store,
                pool,
                name,
                member: self.id,
                logical_block: 512,
                layout: self.layout.clone(),
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

/// What the disk of a member can do.
fn limits(disk: &Disk) -> Limits {
    let features = Features::EMPTY
        .set(Features::WRITE_CACHE, disk.is_volatile())
        .set(Features::FUA, true);
    Limits {
        logical_block: 512,
        physical_block: 4096,
        io_min: 0,
        io_opt: 0,
        max_write_zeroes: 4 << 20,
        features,
    }
}
