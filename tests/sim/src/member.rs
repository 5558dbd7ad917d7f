// SPDX-License-Identifier: GPL-2.0

//! A member: the shell around the storage half of the engine.
//!
//! Translates messages and accesses to the disk into events of the engine, and its actions back. What it tells the
//! observer it takes from there: which write begins on the disk, which record is written, which answer leaves.

mod acts;
mod disks;
mod tasks;
mod witness;

use crate::device::Device;
use crate::disk::Access;
use crate::disk::Disk;
use crate::disk::Done;
use crate::disk::Record;
use crate::env::Env;
use crate::faults::Kind as Fault;
use crate::network::Answer;
use crate::network::Host;
use crate::queue::Nanos;
use crate::random::Random;
use crate::store;
use crate::store::Crc;
use crate::store::Image;
use acts::Todo;
use disks::new_device;
use litemap::LiteMap;
use rmr_checkers::Rule;
use rmr_checkers::Violation;
use rmr_engine::dedupe::Joiners;
use rmr_engine::memory::HostMemory;
use rmr_engine::storage::FlushMark;
use rmr_engine::storage::Member;
use rmr_engine::storage::Reader;
use rmr_engine::storage::Serving;
use rmr_engine::storage::Shared;
use rmr_engine::storage::StoreInfo;
use rmr_engine::sync::HostLock;
use rmr_engine::time::Time;
use rmr_proto::EpochRecord;
use rmr_proto::Features;
use rmr_proto::Geometry;
use rmr_proto::Kind;
use rmr_proto::Layout;
use rmr_proto::Limits;
use rmr_proto::MemberId;
use rmr_proto::Status;
use rmr_proto::BITMAP_PAGE_WORDS;
use rmr_proto::BLOCK_SHIFT;
use rmr_proto::RECORD_BYTES;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::rc::Rc;
use tasks::Batch;
use tasks::Task;

/// The hot path of a member, as used here: a token is the number of a task.
type Hot = Shared<HostMemory, HostLock<Joiners<u64>>>;

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
    batches: LiteMap<u64, Batch>,
    tasks: LiteMap<u64, Task>,
    /// Writes that were executed, or are, and tokens that wait for them.
    parked: VecDeque<u64>,
    accesses: LiteMap<u64, For>,
    /// Calls of its own that are not answered: the engine's numbers for them.
    calls: LiteMap<u64, (u64, Kind)>,
    /// Marks that are not acknowledged, by call.
    merges: LiteMap<u64, Vec<u8>>,
    /// What pulls brought, until it is written.
    pulled: LiteMap<u64, Rc<[u64]>>,
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
            batches: LiteMap::new(),
            tasks: LiteMap::new(),
            parked: VecDeque::new(),
            accesses: LiteMap::new(),
            calls: LiteMap::new(),
            merges: LiteMap::new(),
            pulled: LiteMap::new(),
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

    /// Takes away the bits of chunks that are not dirty in a member's copy: all, if only the disk tells.
    pub fn keep_dirty(&self, of: u8, words: &mut [u64]) {
        let (Some(of), Some(engine)) = (MemberId::new(of.into()), self.engine()) else {
            words.fill(0);
            return;
        };
        let whole = self.lost || self.stale || self.diverged || !self.image.readable;
        if whole || (of == self.id && engine.member.needs_fetch()) {
            return;
        }
        for (page, words) in (0..).zip(words.chunks_mut(BITMAP_PAGE_WORDS)) {
            let dirty = engine.hot.page(of, page).chain(std::iter::repeat(0));
            for (word, dirty) in words.iter_mut().zip(dirty) {
                *word &= dirty;
            }
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

    /// Blocks of 4 KiB with sectors that nobody gets from it.
    pub fn lost_blocks(&self) -> BTreeSet<u64> {
        let listed = self.unreadable().into_iter();
        let sectors = listed.chain(self.device.disk.unreadable());
        sectors.map(|sector| sector * 512 >> BLOCK_SHIFT).collect()
    }

    /// Blocks that its list of unreadable ones needs room for, to get in sync: those on it, and those that it has to pull
    /// and that nobody can read.
    pub fn unreadable_blocks(&self, lost: &BTreeSet<u64>) -> usize {
        let listed = self.unreadable().into_iter();
        let mut blocks: BTreeSet<u64> = listed.map(|sector| sector * 512 >> BLOCK_SHIFT).collect();
        let shift = self.layout.geometry().chunk_shift() - BLOCK_SHIFT as u8;
        let missed = |block: &u64| self.dirty(self.member, *block >> shift);
        blocks.extend(lost.iter().copied().filter(missed));
        blocks.len()
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
        let changed = done.changed.iter();
        let values = changed.map(|&sector| (sector, self.device.disk.value(sector)));
        env.observer.wrote(self.member, values);
        let now = env.now();
        env.observer.lost(now, self.member, Some(done.lost.clone()));
    }

    // Disks come and go while the host is down.

    /// No more faults.
    pub fn heal(&mut self, env: &mut Env) {
        self.device.heal(env.now());
        self.pause_resync(env, false);
    }

    /// The administrator wants its resync to wait, or to go on. Until it starts anew.
    pub fn pause_resync(&mut self, env: &mut Env, pause: bool) {
        let Some(engine) = self.engine() else {
            return;
        };
        if engine.hot.resync_is_paused() != pause {
            engine.hot.pause_resync(pause);
            env.line(&self.host, format_args!("its resync is paused: {pause}"));
            self.tell(env, Todo::Heard);
        }
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
        let flushes = access == Access::Flush;
        let number = self.device.begin(env, self.member, self.boot, access);
        if flushes {
            env.observer
                .flush_begins(env.queue.now(), self.member, number);
        }
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
        env.observer
            .flush_ends(self.member, number, done.status.is_ok());
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
        let before = self.is_telling(offset).then(|| self.image.clone());
        self.look_at_record(offset);
        if let Some(before) = before {
            self.compare(env, &before);
        }
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

    // Requests of clients.

    // The engine.

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
