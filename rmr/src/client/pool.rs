// SPDX-License-Identifier: GPL-2.0

//! A pool that this host has joined: its members, attaching to them, and the volume.
//!
//! ```text
//!            add_sess / del_sess                    map (or enable)              unmap
//!   joined ───────────────────────► joined ────────────────────────► attached ─────────► joined
//!     │ leave_pool                                  promise, install    │ a member fails
//!     ▼                                                                 ▼
//!   gone                                                              failed ── unmap ──► joined
//! ```
//!
//! What an attach decides is the engine's (`rmr_engine::attach`); this talks to the members, one after the
//! other, under the pool's admin mutex. The data path never takes that mutex.

use super::control;
use super::core::Core;
use super::core::Counter;
use super::core::Leg;
use super::core::Request;
use super::exception::Exceptions;
use super::lane;
use super::lane::Set;
use super::registry::Registry;
use super::session::Session;
use super::sysfs;
use super::tags::Links;
use super::volume::Consumer;
use super::volume::VolumeLimits;
use crate::refuse;
use crate::refuse::numbered;
use crate::refuse::text;
use kernel::bindings;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_engine::attach;
use rmr_engine::lane::Caps;
use rmr_engine::overlap::Node;
use rmr_engine::overlap::Overlap;
use rmr_engine::overlap::Shard;
use rmr_engine::sync::AtomicU64;
use rmr_engine::window::Window;
use rmr_engine::window::WINDOW;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::Generation;
use rmr_proto::Geometry;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::PoolName;
use rmr_proto::Seq;
use rmr_proto::Target;
use rmr_proto::Uuid;
use rmr_proto::MAX_BATCH;
use rmr_sys::new_irq_locks;
use rmr_sys::percpu::Counters;
use rmr_sys::rand;
use rmr_sys::slots::Slots;
use rmr_sys::sysfs::Dir;
use rmr_sys::time::sleep_ms;
use rmr_sys::work::Job;

/// Most requests in flight that a volume can be opened for: half of the window of sequence numbers, so that
/// one slow write does not stop the others at once.
pub const MAX_DEPTH: u32 = WINDOW as u32 / 2;

/// How long a request may fail before it is given up, by default, in ms.
const IO_TIMEOUT_MS: u64 = 60_000;

/// Shards of overlap control for each CPU.
const SHARDS_PER_CPU: usize = 16;

/// What the administrator said about a new member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It must be new.
    Create,
    /// It must belong to the pool.
    Assemble,
}

/// A member, as the client knows it.
pub(crate) struct Member {
    pub(crate) session: Arc<Session>,
    /// What it said last.
    pub(crate) report: KBox<MemberReport>,
    dir: Option<Dir<MemberFile>>,
}

/// What the files of a member refer to.
pub(crate) struct MemberFile {
    pub(crate) pool: Arc<Pool>,
    pub(crate) session: Arc<Session>,
    pub(crate) member: MemberId,
}

/// What an attach has established.
struct Attached {
    pool: Uuid,
    config: Arc<Config>,
    limits: VolumeLimits,
}

/// What the admin mutex guards.
struct Admin {
    /// The pool was left; nothing can be done with it any more.
    gone: bool,
    members: KVec<Member>,
    attached: Option<Attached>,
    volume: Option<Arc<Exceptions>>,
    /// The generation of an attach that was given up while configurations were being installed.
    abandoned: Option<Generation>,
}

/// The pool's own directories.
struct Dirs {
    /// Below `own`, so dropped before it.
    _stats: Dir<Pool>,
    sessions: Dir<()>,
    _own: Dir<Pool>,
}

/// See the head of the file.
#[pin_data]
pub(crate) struct Pool {
    pub(crate) name: PoolName,
    /// Chunk size in bytes that the members must have, if the administrator said one.
    chunk_size: Option<u64>,
    /// Read policy, as `rmr_engine::readers::Policy` packs it.
    pub(crate) policy: Arc<Atomic<u32>>,
    pub(crate) io_timeout_ms: Arc<Atomic<u64>>,
    #[pin]
    admin: Mutex<Admin>,
    #[pin]
    dirs: Mutex<Option<Dirs>>,
}

impl Pool {
    /// A pool without members, with its directory in `parent`. Sleeps.
    pub(crate) fn new(
        name: PoolName,
        chunk_size: Option<u64>,
        parent: &Dir<()>,
    ) -> Result<Arc<Self>> {
        let pool = Arc::pin_init(
            pin_init!(Self {
                name,
                chunk_size,
                policy: Arc::new(Atomic::new(0), GFP_KERNEL)?,
                io_timeout_ms: Arc::new(Atomic::new(IO_TIMEOUT_MS), GFP_KERNEL)?,
                admin <- new_mutex!(Admin {
                    gone: false,
                    members: KVec::new(),
                    attached: None,
                    volume: None,
                    abandoned: None,
                }),
                dirs <- new_mutex!(None),
            }? Error),
            GFP_KERNEL,
        )?;
        let own = Dir::in_dir(
            parent,
            &sysfs::file_name(name.as_str())?,
            pool.clone(),
            &sysfs::POOL,
        )?;
        let sessions = Dir::in_dir(&own, c"sessions", rmr_sys::sysfs::no_data()?, &[])?;
        let stats = Dir::in_dir(&own, c"stats", pool.clone(), &sysfs::STATS)?;
        *pool.dirs.lock() = Some(Dirs {
            _stats: stats,
            sessions,
            _own: own,
        });
        Ok(pool)
    }

    /// Adds the member that the node behind `session` has of this pool. On success the session is the member's.
    pub(crate) fn add_member(
        self: &Arc<Self>,
        session: &Arc<Session>,
        mode: Option<Mode>,
    ) -> Result {
        let mut admin = self.admin.lock();
        self.changeable(&admin, "add_sess")?;
        let report = control::query(session, self.name).map_err(|failure| {
            refuse!(
                failure.errno(),
                "add_sess: pool {}, session {}: {}",
                self.name,
                text(session.name()),
                failure
            )
        })?;
        let new = report.installed.is_none();
        let id = report.member;
        let refused = match mode {
            Some(Mode::Create) if !new => {
                Some((EEXIST, "it belongs to a pool already; use mode=assemble"))
            }
            Some(Mode::Assemble) if new => Some((
                numbered(bindings::ENODATA),
                "its store is new and holds nothing yet; use mode=create",
            )),
            _ if self
                .chunk_size
                .is_some_and(|size| size != report.geometry.chunk_size()) =>
            {
                Some((
                    EINVAL,
                    "its chunk size is not that given to join_pool; they must be equal",
                ))
            }
            _ => None,
        };
        if let Some((errno, why)) = refused {
            return Err(refuse!(
                errno,
                "add_sess: pool {}, member {}: {}",
                self.name,
                id,
                why
            ));
        }
        self.check_new(&admin, session, &report)?;
        admin.members.reserve(1, GFP_KERNEL)?;
        let file = Arc::new(
            MemberFile {
                pool: self.clone(),
                session: session.clone(),
                member: id,
            },
            GFP_KERNEL,
        )?;
        let dirs = self.dirs.lock();
        let parent = &dirs.as_ref().ok_or(ENOENT)?.sessions;
        let dir = Dir::in_dir(parent, session.name(), file, &sysfs::MEMBER)?;
        drop(dirs);
        admin.members.push(
            Member {
                session: session.clone(),
                report,
                dir: Some(dir),
            },
            GFP_KERNEL,
        )?;
        Ok(())
    }

    /// What the engine would refuse at the attach is refused here, where the administrator sees the cause.
    #[inline(never)]
    fn check_new(&self, admin: &Admin, session: &Session, report: &MemberReport) -> Result {
        let mut reports = self.reports(admin)?;
        reports.push(report.clone(), GFP_KERNEL)?;
        match attach::compatible(&reports) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(refuse!(
                Error::from_errno(refusal.errno()),
                "add_sess: pool {}, session {}: {}",
                self.name,
                text(session.name()),
                refusal
            )),
        }
    }

    /// Takes a member away, which was added by mistake. Sleeps.
    pub(crate) fn remove_member(&self, registry: &Registry, id: MemberId) -> Result {
        let mut admin = self.admin.lock();
        self.changeable(&admin, "del_sess")?;
        let place = admin.members.iter().position(|m| m.report.member == id);
        let member = admin.members.remove(place.ok_or(ENOENT)?)?;
        drop(admin);
        // The directory waits for readers of its files, who may want the mutex.
        drop(member.dir);
        registry.put_session(member.session);
        Ok(())
    }

    /// Whether members can be added and taken away now.
    fn changeable(&self, admin: &Admin, command: &str) -> Result {
        if admin.gone {
            return Err(ENOENT);
        }
        if admin.attached.is_some() || admin.volume.is_some() {
            return Err(refuse!(
                EBUSY,
                "{}: pool {} is in use; unmap its device first",
                command,
                self.name
            ));
        }
        Ok(())
    }

    #[inline(never)]
    fn reports(&self, admin: &Admin) -> Result<KVec<MemberReport>> {
        let mut reports = KVec::with_capacity(admin.members.len() + 1, GFP_KERNEL)?;
        for member in &admin.members {
            reports.push(MemberReport::clone(&member.report), GFP_KERNEL)?;
        }
        Ok(reports)
    }

    /// Attaches without opening a volume. Nothing happens if that was done.
    pub(crate) fn enable(&self, source: Option<MemberId>) -> Result {
        let mut admin = self.admin.lock();
        if admin.gone {
            return Err(ENOENT);
        }
        if admin.attached.is_none() {
            admin.attached = Some(self.attach(&mut admin, source, None)?);
        }
        Ok(())
    }

    /// Opens the volume; see [`Volume::open`](super::volume::Volume::open).
    pub(crate) fn open(
        &self,
        size: Option<u64>,
        depth: u32,
        consumer: Arc<dyn Consumer>,
    ) -> Result<(Arc<Exceptions>, VolumeLimits)> {
        if depth == 0 || depth > MAX_DEPTH {
            return Err(EINVAL);
        }
        let registry = Registry::get()?;
        let mut admin = self.admin.lock();
        if admin.gone {
            return Err(ENOENT);
        }
        if admin.volume.is_some() {
            return Err(refuse!(
                EBUSY,
                "pool {} is mapped already; unmap that device first",
                self.name
            ));
        }
        if admin.attached.is_none() {
            admin.attached = Some(self.attach(&mut admin, None, size)?);
        }
        let Some(attached) = &admin.attached else {
            return Err(EINVAL);
        };
        self.check_size(size, &attached.limits.geometry)?;
        let limits = attached.limits.clone();
        let exceptions = Exceptions::new(self.name, self.io_timeout_ms.clone())?;
        let job = Job::new(&registry.queue, exceptions.clone(), Exceptions::run)?;
        self.publish(&admin.members, attached, depth, consumer, &exceptions, job)?;
        admin.volume = Some(exceptions.clone());
        Ok((exceptions, limits))
    }

    /// Makes this host the pool's client: promise and install on all members (R8). Sleeps.
    ///
    /// The steps are functions of their own, not inlined, because configurations and reports are large and the
    /// stack is not.
    fn attach(
        &self,
        admin: &mut Admin,
        source: Option<MemberId>,
        size: Option<u64>,
    ) -> Result<Attached> {
        let request = attach::Request {
            generation: self.query_all(admin)?,
            new_pool: rand::uuid(),
            source,
            abandoned: admin.abandoned,
        };
        if let Some(member) = admin.members.first() {
            self.check_size(size, &member.report.geometry)?;
        }
        self.foresee(admin, &request)?;
        self.promise_all(admin, request.generation)?;
        let decision = self.decide(admin, &request)?;
        let (max_io, max_segments) = self.transport_limits(admin)?;
        let attached = Attached {
            pool: decision.pool,
            config: share(&decision.config)?,
            limits: VolumeLimits {
                geometry: decision.geometry,
                limits: decision.limits,
                max_io,
                max_segments,
            },
        };
        // Until all have it, nothing is written under it.
        admin.abandoned = Some(request.generation);
        for id in decision.order() {
            self.install(admin, &decision, id)?;
        }
        admin.abandoned = None;
        Ok(attached)
    }

    /// Asks all members for reports; the generation to ask them to promise.
    #[inline(never)]
    fn query_all(&self, admin: &mut Admin) -> Result<Generation> {
        for member in &mut admin.members {
            let id = member.report.member;
            member.report = control::query(&member.session, self.name)
                .map_err(|failure| self.no_answer(id, &failure))?;
        }
        let reports = self.reports(admin)?;
        attach::compatible(&reports).map_err(|refusal| self.cannot_start(&refusal))?;
        let number =
            attach::next_number(&reports).map_err(|refusal| self.cannot_start(&refusal))?;
        Ok(Generation {
            number,
            nonce: rand::nonce(),
        })
    }

    #[inline(never)]
    fn promise_all(&self, admin: &mut Admin, generation: Generation) -> Result {
        for member in &mut admin.members {
            let id = member.report.member;
            let promise = Control::Promise {
                to: self.target(&member.report, member.report.pool),
                generation,
                takeover: false,
            };
            member.report = control::call(&member.session, &promise)
                .and_then(control::report)
                .map_err(|failure| self.no_answer(id, &failure))?;
        }
        Ok(())
    }

    /// Refuses what `decide` would refuse, before anything is written.
    #[inline(never)]
    fn foresee(&self, admin: &Admin, request: &attach::Request) -> Result {
        attach::foresee(&self.reports(admin)?, request)
            .map_err(|refusal| self.cannot_start(&refusal))
    }

    #[inline(never)]
    fn decide(&self, admin: &Admin, request: &attach::Request) -> Result<KBox<attach::Decision>> {
        match attach::decide(&self.reports(admin)?, request) {
            Ok(decision) => Ok(KBox::new(decision, GFP_KERNEL)?),
            Err(refusal) => Err(self.cannot_start(&refusal)),
        }
    }

    #[inline(never)]
    fn install(&self, admin: &mut Admin, decision: &attach::Decision, id: MemberId) -> Result {
        let member = admin.members.iter_mut().find(|m| m.report.member == id);
        let member = member.ok_or(EINVAL)?;
        let install = Control::Install {
            to: self.target(&member.report, decision.pool),
            config: decision.config.clone(),
            assign: decision.assign.contains(id),
            joins: true,
            discard: false,
        };
        control::call(&member.session, &install).map_err(|failure| self.no_answer(id, &failure))?;
        // What a member that is added later is compared with.
        member.report.pool = decision.pool;
        member.report.installed = Some(decision.config.clone());
        Ok(())
    }

    /// Is the size what the consumer was told to expect?
    fn check_size(&self, size: Option<u64>, geometry: &Geometry) -> Result {
        match size {
            Some(size) if size != geometry.size() => Err(refuse!(
                EINVAL,
                "pool {} has a size of {} bytes, not the {} given; leave the size out or correct it",
                self.name,
                geometry.size(),
                size
            )),
            _ => Ok(()),
        }
    }

    #[cold]
    fn cannot_start(&self, refusal: &attach::Refusal) -> Error {
        refuse!(
            Error::from_errno(refusal.errno()),
            "pool {}: cannot start: {}",
            self.name,
            refusal
        )
    }

    #[cold]
    fn no_answer(&self, id: MemberId, failure: &control::Failure) -> Error {
        refuse!(
            failure.errno(),
            "pool {}: cannot start: member {}: {}",
            self.name,
            id,
            failure
        )
    }

    fn target(&self, report: &MemberReport, pool: Uuid) -> Target {
        Target {
            name: self.name,
            pool,
            store: report.store,
            member: report.member,
            incarnation: report.incarnation,
        }
    }

    /// Largest IO in bytes and most segments that all sessions can carry in one message.
    fn transport_limits(&self, admin: &Admin) -> Result<(u32, u16)> {
        let mut max = (rmr_proto::MAX_IO, u16::MAX);
        for member in &admin.members {
            let attrs = member.session.attrs().map_err(|error| {
                refuse!(
                    error,
                    "pool {}: cannot start: session {} is not connected ({:?}); check the node and the network",
                    self.name,
                    text(member.session.name()),
                    error
                )
            })?;
            max.0 = max.0.min(attrs.max_io_size);
            max.1 = max
                .1
                .min(u16::try_from(attrs.max_segments).unwrap_or(u16::MAX));
        }
        // Whole pages, which is what the block layer and RDMA mappings are made of.
        max.0 &= !(rmr_engine::lane::GAP - 1);
        if max.0 == 0 || max.1 == 0 {
            return Err(refuse!(
                EMSGSIZE,
                "pool {}: cannot start: a node takes messages of less than a page; raise max_chunk_size of its rtrs_server",
                self.name
            ));
        }
        Ok(max)
    }

    /// Ends the attachment; in order, if `clean`: then the members know that they are equal. Sleeps.
    fn detach(&self, admin: &mut Admin, clean: bool, watermark: Seq) {
        let Some(attached) = admin.attached.take() else {
            return;
        };
        for member in admin.members.iter().filter(|_| clean) {
            let detach = Control::Detach {
                to: self.target(&member.report, attached.pool),
                generation: attached.config.generation,
                epoch: attached.config.epoch,
                watermark,
            };
            if let Err(failure) = control::call(&member.session, &detach) {
                refuse!(
                    (),
                    "pool {}: could not detach from member {}: {}; the next start will ask for source=",
                    self.name,
                    member.report.member,
                    failure
                );
            }
        }
    }

    /// The data path of an attached pool, published for its volume.
    #[inline(never)]
    fn publish(
        &self,
        members: &[Member],
        attached: &Attached,
        depth: u32,
        consumer: Arc<dyn Consumer>,
        exceptions: &Arc<Exceptions>,
        job: Job<Exceptions>,
    ) -> Result {
        let mut legs = KVec::new();
        for id in attached.config.receivers().iter() {
            let member = members
                .iter()
                .find(|m| m.report.member == id)
                .ok_or(EINVAL)?;
            legs.push(
                Leg {
                    member: id,
                    incarnation: member.report.incarnation,
                    session: member.session.clone(),
                },
                GFP_KERNEL,
            )?;
        }
        let cpus = rmr_sys::percpu::cpus() as usize;
        let caps = Caps {
            requests: MAX_BATCH as u16,
            data: attached.limits.max_io,
            segments: attached.limits.max_segments,
            in_flight: rmr_engine::lane::IN_FLIGHT,
        };
        let (lanes, batches) = lane::build(cpus, legs.len(), caps)?;
        let shards = new_irq_locks!(cpus * SHARDS_PER_CPU, |_| Shard::new())?;
        exceptions.core.publish(Core {
            pool: attached.pool,
            config: attached.config.clone(),
            geometry: attached.limits.geometry,
            logical_block: attached.limits.limits.logical_block,
            max_io: attached.limits.max_io,
            legs,
            sets: table(cpus + 1, Set::new)?,
            timers: lane::timers(lanes.len(), exceptions)?,
            lanes,
            batches,
            links: Links::new(depth)?,
            requests: Slots::new(depth as usize, |_| Ok(Request::default()))?,
            overlap: Overlap::new(table(depth as usize, Node::new)?, shards).ok_or(EINVAL)?,
            window: Window::new(table(WINDOW, AtomicU64::default)?).ok_or(EINVAL)?,
            exceptions: exceptions.clone(),
            job,
            counters: Counters::new()?,
            policy: self.policy.clone(),
            consumer,
            failed: Atomic::new(false),
        })
    }

    /// Ends the volume: waits for all requests, then detaches. Sleeps.
    pub(crate) fn close(&self) {
        let mut admin = self.admin.lock();
        let Some(exceptions) = admin.volume.take() else {
            return;
        };
        let mut clean = false;
        let mut watermark = Seq::NONE;
        if let Some(core) = exceptions.core.enter() {
            // Every request ends: io_timeout bounds how long it may fail.
            for tag in 0..core.requests.len() {
                while core.requests.take(tag).is_none() {
                    sleep_ms(2);
                }
            }
            clean = !core.has_failed();
            watermark = core.window.watermark();
        }
        drop(exceptions.core.retire());
        self.detach(&mut admin, clean, watermark);
    }

    /// Takes the pool apart, after [`Self::close_down`]. Nobody can find it any more. Sleeps.
    pub(crate) fn dismantle(&self, registry: &Registry) {
        let mut admin = self.admin.lock();
        admin.gone = true;
        self.detach(&mut admin, true, Seq::NONE);
        let members = core::mem::take(&mut admin.members);
        drop(admin);
        for member in members {
            drop(member.dir);
            registry.put_session(member.session);
        }
        let dirs = self.dirs.lock().take();
        drop(dirs);
    }

    /// From here on the pool can only be left. `EBUSY` while it has a volume.
    pub(crate) fn close_down(&self) -> Result {
        let mut admin = self.admin.lock();
        if admin.gone {
            return Err(ENOENT);
        }
        if admin.volume.is_some() {
            return Err(refuse!(
                EBUSY,
                "leave_pool: pool {} is mapped; unmap its device first",
                self.name
            ));
        }
        admin.gone = true;
        Ok(())
    }
}

/// What the files of a pool show.
impl Pool {
    /// One word.
    pub(crate) fn state(&self) -> &'static str {
        let admin = self.admin.lock();
        match &admin.volume {
            Some(volume) if volume.core.enter().is_some_and(|c| c.has_failed()) => "failed",
            Some(_) => "mapped",
            None if admin.attached.is_some() => "attached",
            None => "joined",
        }
    }

    /// One word for a member: `in_sync`, `catching_up`, or `added` while the pool is not attached;
    /// `disconnected` while its session is.
    pub(crate) fn member_state(&self, file: &MemberFile) -> &'static str {
        if !file.session.is_connected() {
            return "disconnected";
        }
        match self.config() {
            Some(config) if config.in_sync.contains(file.member) => "in_sync",
            Some(config) if config.catching_up.contains(file.member) => "catching_up",
            _ => "added",
        }
    }

    /// The configuration in use.
    pub(crate) fn config(&self) -> Option<Arc<Config>> {
        self.admin
            .lock()
            .attached
            .as_ref()
            .map(|a| a.config.clone())
    }

    /// UUID of the pool, if it has one that is known here.
    pub(crate) fn uuid(&self) -> Option<Uuid> {
        let admin = self.admin.lock();
        match &admin.attached {
            Some(attached) => Some(attached.pool),
            None => admin.members.iter().find_map(|m| m.report.pool.non_nil()),
        }
    }

    /// Size and chunk size, once a member is known.
    pub(crate) fn geometry(&self) -> Option<Geometry> {
        self.admin.lock().members.first().map(|m| m.report.geometry)
    }

    /// Members added.
    pub(crate) fn member_count(&self) -> usize {
        self.admin.lock().members.len()
    }

    /// UUID of a member's store.
    pub(crate) fn store_of(&self, id: MemberId) -> Option<Uuid> {
        let admin = self.admin.lock();
        let member = admin.members.iter().find(|m| m.report.member == id)?;
        Some(member.report.store)
    }

    /// Runs `f` on the data path, if there is one.
    fn on_core<R>(&self, f: impl FnOnce(&Core) -> R) -> Option<R> {
        let volume = self.admin.lock().volume.clone()?;
        let core = volume.core.enter()?;
        Some(f(&core))
    }

    /// The watermark; 0 without a volume.
    pub(crate) fn watermark(&self) -> Seq {
        self.on_core(|core| core.window.watermark())
            .unwrap_or(Seq::NONE)
    }

    /// A counter of the data path, see [`super::core::Counter`].
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.on_core(|core| core.counters.sum(counter as usize))
            .unwrap_or(0)
    }
}

#[inline(never)]
fn share(config: &Config) -> Result<Arc<Config>> {
    Ok(Arc::new(config.clone(), GFP_KERNEL)?)
}

/// `n` elements as the engine wants them lent.
fn table<T>(n: usize, new: fn() -> T) -> Result<KVVec<T>> {
    let mut table = KVVec::with_capacity(n, GFP_KERNEL)?;
    for _ in 0..n {
        table.push(new(), GFP_KERNEL)?;
    }
    Ok(table)
}
