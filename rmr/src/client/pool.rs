// SPDX-License-Identifier: GPL-2.0

//! A pool that this host has joined: its members, and the volume while it is open.
//!
//! ```text
//!            add_sess / del_sess                    map (or enable)              unmap
//!   joined ───────────────────────► joined ────────────────────────► attached ─────────► joined
//!     │ leave_pool                                                      │ lost, fenced
//!     ▼                                                                 ▼
//!   gone                                                              failed ── unmap ──► joined
//! ```
//!
//! What is attached to, and all that happens then, is the engine's, see [`driver`](super::driver). The data path never takes
//! the pool's admin mutex.

use super::control;
use super::core::Core;
use super::core::Counter;
use super::core::Request;
use super::core::Shape;
use super::driver::Driver;
use super::driver::Stage;
use super::handshake;
use super::introduction::Introduction;
use super::lane::Lanes;
use super::lane::Set;
use super::registry::Registry;
use super::sending;
use super::session::Session;
use super::sysfs;
use super::tags::Links;
use super::tags::TagList;
use super::volume::Consumer;
use super::volume::VolumeLimits;
use crate::memory::KernelMemory;
use crate::refuse;
use crate::refuse::numbered;
use crate::refuse::text;
use crate::say;
use crate::secret;
use crate::secret::Secret;
use kernel::bindings;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_engine::client::Admin as Command;
use rmr_engine::client::Data;
use rmr_engine::client::OnNoData;
use rmr_engine::client::Options;
use rmr_engine::client::Random;
use rmr_engine::client::Refusal;
use rmr_engine::client::State;
use rmr_engine::lane::Caps;
use rmr_engine::overlap::Node;
use rmr_engine::overlap::Overlap;
use rmr_engine::overlap::Shard;
use rmr_engine::time::Nanos;
use rmr_engine::time::MILLISECOND;
use rmr_engine::time::SECOND;
use rmr_engine::window::WINDOW;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::Geometry;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::MemberSet;
use rmr_proto::PoolName;
use rmr_proto::Progress;
use rmr_proto::Quorum;
use rmr_proto::Role;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::MAX_BATCH;
use rmr_sys::gate::Gate;
use rmr_sys::leases::Leases;
use rmr_sys::new_irq_locks;
use rmr_sys::percpu::Counters;
use rmr_sys::rand;
use rmr_sys::sysfs::Dir;
use rmr_sys::time::now_ms;
use rmr_sys::time::sleep_ms;
use rmr_sys::timer::Timer;
use rmr_sys::work::Again;
use rmr_sys::work::Job;

/// Most requests in flight that a volume can be opened for: half of the window of sequence numbers, so that
/// one slow write does not stop the others at once.
pub const MAX_DEPTH: u32 = WINDOW as u32 / 2;

/// How long IO may wait for one member, by default, in ms.
const IO_TIMEOUT_MS: u64 = 20_000;

/// Longest pause before a member that failed is taken back.
const MAX_BACKOFF: u64 = 60 * SECOND;

/// How long members that are missing are waited for when a pool is attached to, in ms: if some of those that were added are
/// not connected, and if all are. And how often it is looked.
const ATTACH_MS: u64 = 20_000;
const CONNECTED_MS: u64 = 5_000;
const LOOK_MS: u32 = 250;

/// How often it is said that a pool that is being closed waits, in ms.
const CLOSE_MS: u32 = 60_000;

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
    /// What it said when it was added.
    pub(crate) report: KBox<MemberReport>,
    dir: Option<Dir<MemberFile>>,
    /// The administrator said that it is new.
    new: bool,
    /// What was last told of it.
    told: (&'static str, Progress),
}

/// What the files of a member refer to.
pub(crate) struct MemberFile {
    pub(crate) pool: Arc<Pool>,
    pub(crate) session: Arc<Session>,
    pub(crate) member: MemberId,
}

/// What the admin mutex guards.
struct Admin {
    /// The pool was left; nothing can be done with it any more.
    gone: bool,
    /// What members have to know.
    secret: Option<Arc<Secret>>,
    members: KVec<Member>,
    /// The volume, from when it begins to be opened until it is closed.
    volume: Option<Opened>,
    /// It is being opened.
    opening: bool,
    /// Members that may be missing, and whose newer data is given up then.
    force: MemberSet,
}

struct Opened {
    driver: Arc<Driver>,
    caps: Caps,
    /// It was opened by `enable`, and has no consumer.
    idle: bool,
}

/// The pool's own directories.
struct Dirs {
    /// Below `own`, so dropped before it.
    _stats: Dir<Pool>,
    sessions: Dir<()>,
    own: Dir<Pool>,
    /// The state that was last told, and the epoch.
    told: (&'static str, Epoch),
}

/// See the head of the file.
#[pin_data]
pub(crate) struct Pool {
    pub(crate) name: PoolName,
    /// Chunk size in bytes that the members must have, if the administrator said one.
    chunk_size: Option<u64>,
    /// Stores of a pool that was never started are equal.
    equal: bool,
    /// A configuration counts when a majority has it.
    majority: bool,
    /// Read policy, as `rmr_engine::readers::Policy` packs it.
    pub(crate) policy: Arc<Atomic<u32>>,
    pub(crate) io_timeout_ms: Atomic<u64>,
    /// IO fails while no member has the data.
    pub(crate) fails: Atomic<bool>,
    /// Attach even if another client is alive.
    pub(crate) takeover: Atomic<bool>,
    #[pin]
    admin: Mutex<Admin>,
    #[pin]
    dirs: Mutex<Option<Dirs>>,
}

/// How a pool is joined.
#[derive(Clone, Copy, Default)]
pub(crate) struct Joining {
    /// Chunk size in bytes that the members must have.
    pub(crate) chunk_size: Option<u64>,
    /// The stores of a pool that was never started are not equal: all but one are to be resynced.
    pub(crate) resync: bool,
    /// A pool that was never started gets `quorum=majority`.
    pub(crate) majority: bool,
}

/// Gets the outcome of no requests.
struct NoConsumer;

impl Consumer for NoConsumer {
    fn complete(&self, _tag: u32, _status: Status) {}
}

impl Pool {
    /// A pool without members, with its directory in `parent`. Sleeps.
    pub(crate) fn new(name: PoolName, joining: &Joining, parent: &Dir<()>) -> Result<Arc<Self>> {
        let pool = Arc::pin_init(
            pin_init!(Self {
                name,
                chunk_size: joining.chunk_size,
                equal: !joining.resync,
                majority: joining.majority,
                policy: Arc::new(Atomic::new(0), GFP_KERNEL)?,
                io_timeout_ms: Atomic::new(IO_TIMEOUT_MS),
                fails: Atomic::new(false),
                takeover: Atomic::new(false),
                admin <- new_mutex!(Admin {
                    gone: false,
                    secret: None,
                    members: KVec::new(),
                    volume: None,
                    opening: false,
                    force: MemberSet::EMPTY,
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
            own,
            told: ("", Epoch::NONE),
        });
        Ok(pool)
    }

    // Members.

    /// Adds the member that the node behind `session` has of this pool. On success the session is the member's.
    ///
    /// While the pool is attached, a member that is in its table is taken back by itself, and any other is added to the
    /// table: with `mode=create` only, as all that its store holds is overwritten.
    pub(crate) fn add_member(
        self: &Arc<Self>,
        session: &Arc<Session>,
        mode: Option<Mode>,
    ) -> Result {
        // Not under the mutex: it may take long.
        let secret = self.secret();
        let proved = match &secret {
            Some(secret) => Some(self.prove(session, secret)?),
            None => None,
        };
        let report = control::query(session, self.name).map_err(|failure| {
            refuse!(
                failure.errno(),
                "add_sess: pool {}, session {}: {}",
                self.name,
                text(session.name()),
                failure
            )
        })?;
        if proved.is_some_and(|proved| proved != (report.member, report.store)) {
            return Err(self.not_proved(session, &handshake::Failure::Other(report.member)));
        }
        self.check_mode(&report, mode)?;
        let mut admin = self.admin.lock();
        if admin.gone {
            return Err(ENOENT);
        }
        if !same(&secret, &admin.secret) {
            return Err(EAGAIN);
        }
        if admin.opening {
            return Err(EAGAIN);
        }
        self.check_new(&admin, session, &report)?;
        let id = report.member;
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
        let attached = admin
            .volume
            .as_ref()
            .map(|opened| (opened.driver.clone(), opened.caps));
        let command = match &attached {
            Some((driver, caps)) => {
                Driver::add_leg(driver, id, session, &admin.secret, *caps)?;
                self.table_change(driver, &report, mode)
            }
            None => None,
        };
        admin.members.push(
            Member {
                session: session.clone(),
                report,
                dir: Some(dir),
                new: mode == Some(Mode::Create),
                told: ("", Progress::Unknown),
            },
            GFP_KERNEL,
        )?;
        drop(admin);
        let Some(((driver, _), command)) = attached.zip(command) else {
            return Ok(());
        };
        self.command(&driver, "add_sess", command).inspect_err(|_| {
            // The session is the caller's again.
            drop(self.forget_member(id));
        })
    }

    /// Takes a member out of the list, and its leg away; its session is still to be put back.
    fn forget_member(&self, id: MemberId) -> Result<Arc<Session>> {
        let mut admin = self.admin.lock();
        let place = admin.members.iter().position(|m| m.report.member == id);
        let member = admin.members.remove(place.ok_or(ENOENT)?)?;
        if let Some(opened) = &admin.volume {
            Driver::remove_leg(&opened.driver, id);
        }
        drop(admin);
        // The directory waits for readers of its files, who may want the mutex.
        drop(member.dir);
        Ok(member.session)
    }

    /// The secret of the pool, if it has one.
    pub(crate) fn secret(&self) -> Option<Arc<Secret>> {
        self.admin.lock().secret.clone()
    }

    /// Gives the pool a secret, or takes it away. `EBUSY` when members were added, who have proved the one there is.
    pub(crate) fn set_secret(&self, secret: Option<Arc<Secret>>) -> Result {
        let mut admin = self.admin.lock();
        if admin.gone {
            return Err(ENOENT);
        }
        if !admin.members.is_empty() {
            return Err(refuse!(
                EBUSY,
                "secret: pool {} has sessions; take them away first (del_sess)",
                self.name
            ));
        }
        admin.secret = secret;
        Ok(())
    }

    /// Who the node behind `session` is, if it knows the secret.
    fn prove(&self, session: &Session, secret: &Secret) -> Result<(MemberId, Uuid)> {
        let proved = handshake::prove(session, self.name, Role::Client, secret);
        proved.map_err(|failure| self.not_proved(session, &failure))
    }

    #[cold]
    fn not_proved(&self, session: &Session, failure: &handshake::Failure) -> Error {
        refuse!(
            failure.errno(),
            "add_sess: pool {}, session {}: {}",
            self.name,
            text(session.name()),
            failure
        )
    }

    /// Whether a member is what the administrator says.
    #[inline(never)]
    fn check_mode(&self, report: &MemberReport, mode: Option<Mode>) -> Result {
        let new = report.installed.is_none();
        let refused = match mode {
            Some(Mode::Create) if !new => {
                (EEXIST, "it belongs to a pool already; use mode=assemble")
            }
            Some(Mode::Assemble) if new => (
                numbered(bindings::ENODATA),
                "its store is new and holds nothing yet; use mode=create",
            ),
            _ if self
                .chunk_size
                .is_some_and(|size| size != report.geometry.chunk_size()) =>
            {
                (
                    EINVAL,
                    "its chunk size is not that given to join_pool; they must be equal",
                )
            }
            _ => return Ok(()),
        };
        Err(refuse!(
            refused.0,
            "add_sess: pool {}, member {}: {}",
            self.name,
            report.member,
            refused.1
        ))
    }

    /// What cannot be together is refused here, where the administrator sees the cause; the engine would not take it.
    #[inline(never)]
    fn check_new(&self, admin: &Admin, session: &Session, report: &MemberReport) -> Result {
        let id = report.member;
        let mut refused = None;
        for other in admin.members.iter().map(|member| &member.report) {
            let pools = (other.pool.non_nil(), report.pool.non_nil());
            if other.member == id {
                refused = Some((
                    EEXIST,
                    "two nodes have that member id in this pool; join it with another one on one of them",
                ));
            } else if other.store == report.store {
                refused = Some((EEXIST, "another member has the same store"));
            } else if other.geometry != report.geometry {
                refused = Some((
                    numbered(bindings::EMEDIUMTYPE),
                    "its size or chunk size differ from those of the other members; create its store anew",
                ));
            } else if matches!(pools, (Some(a), Some(b)) if a != b) {
                refused = Some((
                    numbered(bindings::EMEDIUMTYPE),
                    "its store and those of the other members belong to different pools",
                ));
            }
        }
        match refused {
            None => Ok(()),
            Some((errno, why)) => Err(refuse!(
                errno,
                "add_sess: pool {}, session {}, member id {}: {}",
                self.name,
                text(session.name()),
                id,
                why
            )),
        }
    }

    /// What is to be done with the table for a new member.
    fn table_change(
        &self,
        driver: &Driver,
        report: &MemberReport,
        mode: Option<Mode>,
    ) -> Option<Command> {
        let id = report.member;
        let store = driver.look(|desk| desk.coordinator.config().map(|c| c.store(id)))?;
        match store {
            Some(store) if store == report.store => None,
            Some(_) if mode == Some(Mode::Create) => Some(Command::Replace(id)),
            None if mode == Some(Mode::Create) => Some(Command::Add(id)),
            // The engine says why it does not take it.
            _ => None,
        }
    }

    /// Lets the engine execute a command.
    pub(crate) fn command(&self, driver: &Driver, name: &str, command: Command) -> Result {
        driver
            .command(command)?
            .map_err(|refusal| refuse!(EBUSY, "{}: pool {}: {}", name, self.name, refusal))
    }

    /// The same, for a volume that must be open.
    pub(crate) fn command_now(&self, name: &str, command: Command) -> Result {
        let driver = self.driver().ok_or_else(|| {
            refuse!(
                ENODEV,
                "{}: pool {} is not attached; map its device first",
                name,
                self.name
            )
        })?;
        self.command(&driver, name, command)
    }

    fn driver(&self) -> Option<Arc<Driver>> {
        let admin = self.admin.lock();
        admin.volume.as_ref().map(|opened| opened.driver.clone())
    }

    /// Takes a member away: out of the table as well, for good or (`keep`) as one in maintenance, while the pool is
    /// attached. Sleeps.
    pub(crate) fn remove_member(
        &self,
        registry: &Registry,
        id: MemberId,
        keep: Option<bool>,
    ) -> Result {
        let driver = self.driver();
        if let Some(driver) = &driver {
            let member = driver.look(|desk| {
                let config = desk.coordinator.config()?;
                let there = config.store(id).is_some();
                Some((there, config.receivers().contains(id)))
            });
            match (member, keep) {
                (Some((_, true)), None) => {
                    return Err(refuse!(
                        EBUSY,
                        "del_sess: pool {} is in use; say mode=delete to take member {} out for good, or mode=disassemble for a while",
                        self.name,
                        id
                    ))
                }
                (Some((true, _)), Some(false)) => {
                    self.command(driver, "del_sess", Command::Remove(id))?;
                }
                (Some((true, true)), Some(true)) => {
                    self.command(driver, "del_sess", Command::Maintenance(id, true))?;
                }
                _ => {}
            }
        }
        registry.put_session(self.forget_member(id)?);
        Ok(())
    }

    // The volume.

    /// Attaches without a consumer. Nothing happens if that was done.
    pub(crate) fn enable(self: &Arc<Self>) -> Result {
        let consumer = Arc::new(NoConsumer, GFP_KERNEL)?;
        if self.driver().is_some() {
            return Ok(());
        }
        self.open_as(None, 1, consumer, true).map(|_| ())
    }

    /// Opens the volume; see [`Volume::open`](super::volume::Volume::open).
    pub(crate) fn open(
        self: &Arc<Self>,
        size: Option<u64>,
        depth: u32,
        consumer: Arc<dyn Consumer>,
    ) -> Result<(Arc<Driver>, VolumeLimits)> {
        if depth == 0 || depth > MAX_DEPTH {
            return Err(EINVAL);
        }
        let idle = self.admin.lock().volume.as_ref().is_some_and(|v| v.idle);
        if idle {
            self.close();
        }
        self.open_as(size, depth, consumer, false)
    }

    fn open_as(
        self: &Arc<Self>,
        size: Option<u64>,
        depth: u32,
        consumer: Arc<dyn Consumer>,
        idle: bool,
    ) -> Result<(Arc<Driver>, VolumeLimits)> {
        // Before anything is written, if that is known.
        if let Some(geometry) = self.geometry() {
            self.check_size(size, &geometry)?;
        }
        let (driver, caps) = self.begin(depth, consumer, idle)?;
        let limits = self
            .wait_attached(&driver)
            .and_then(|()| self.limits(&driver, &caps))
            .and_then(|limits| {
                self.check_size(size, &limits.geometry)?;
                Ok(limits)
            });
        match limits {
            Ok(limits) => {
                self.takeover.store(false, Relaxed);
                self.admin.lock().force = MemberSet::EMPTY;
                self.take_new_members(&driver);
                Ok((driver, limits))
            }
            Err(error) => {
                self.close();
                Err(error)
            }
        }
    }

    /// Puts members into the table that were added as new before the pool was attached to. What is refused is in the log.
    fn take_new_members(&self, driver: &Driver) {
        loop {
            let command = {
                let mut admin = self.admin.lock();
                let mut new = admin.members.iter_mut().filter(|member| member.new);
                let Some(member) = new.next() else { return };
                member.new = false;
                self.table_change(driver, &member.report, Some(Mode::Create))
            };
            if let Some(command) = command {
                let _ = self.command(driver, "add_sess", command);
            }
        }
    }

    /// Makes the driver and its data path, and lets it attach.
    fn begin(
        self: &Arc<Self>,
        depth: u32,
        consumer: Arc<dyn Consumer>,
        idle: bool,
    ) -> Result<(Arc<Driver>, Caps)> {
        let registry = Registry::get()?;
        let (caps, options, ways, secret) = {
            let mut admin = self.admin.lock();
            if admin.gone {
                return Err(ENOENT);
            }
            if admin.volume.is_some() || admin.opening {
                return Err(refuse!(
                    EBUSY,
                    "pool {} is mapped already; unmap that device first",
                    self.name
                ));
            }
            let caps = self.caps(&admin)?;
            let ways = ways(&admin)?;
            admin.opening = true;
            (caps, self.options(&admin), ways, admin.secret.clone())
        };
        let driver = self.build(&registry, depth, caps, consumer, &ways, &secret);
        let mut admin = self.admin.lock();
        admin.opening = false;
        let driver = driver?;
        admin.volume = Some(Opened {
            driver: driver.clone(),
            caps,
            idle,
        });
        drop(admin);
        driver.attach(
            options,
            Random {
                nonce: rand::nonce(),
                history: rand::uuid(),
                pool: rand::uuid(),
            },
        );
        Ok((driver, caps))
    }

    #[inline(never)]
    fn build(
        self: &Arc<Self>,
        registry: &Registry,
        depth: u32,
        caps: Caps,
        consumer: Arc<dyn Consumer>,
        ways: &[Reach],
        secret: &Option<Arc<Secret>>,
    ) -> Result<Arc<Driver>> {
        let driver = Driver::new(self.name, depth)?;
        self.publish(registry, &driver, depth, caps, consumer)?;
        for (id, session) in ways {
            if let Err(error) = Driver::add_leg(&driver, *id, session, secret, caps) {
                take_down(ways, &driver);
                return Err(error);
            }
        }
        Ok(driver)
    }

    fn options(&self, admin: &Admin) -> Options {
        let known = admin.members.iter().find_map(|m| m.report.pool.non_nil());
        Options {
            name: self.name,
            pool: known.unwrap_or(Uuid::NIL),
            members: admin.members.iter().map(|m| m.report.member).collect(),
            equal: self.equal,
            quorum: if self.majority {
                Quorum::Majority
            } else {
                Quorum::Off
            },
            io_timeout: self.io_timeout(),
            on_no_data: self.on_no_data(),
            takeover: self.takeover.load(Relaxed),
            max_backoff: MAX_BACKOFF,
        }
    }

    fn on_no_data(&self) -> OnNoData {
        if self.fails.load(Relaxed) {
            OnNoData::Error
        } else {
            OnNoData::Suspend
        }
    }

    /// Sets what becomes of IO while no member has the data.
    pub(crate) fn set_fails(&self, fails: bool) -> Result {
        self.fails.store(fails, Relaxed);
        match self.driver() {
            Some(driver) => {
                self.command(&driver, "on_no_data", Command::OnNoData(self.on_no_data()))
            }
            None => Ok(()),
        }
    }

    /// Sets how long IO may wait for one member, in ms.
    pub(crate) fn set_io_timeout(&self, ms: u64) -> Result {
        self.io_timeout_ms.store(ms, Relaxed);
        match self.driver() {
            Some(driver) => {
                self.command(&driver, "io_timeout", Command::IoTimeout(self.io_timeout()))
            }
            None => Ok(()),
        }
    }

    fn io_timeout(&self) -> Nanos {
        self.io_timeout_ms.load(Relaxed).saturating_mul(MILLISECOND)
    }

    /// Lets the pool start without these members, now or when it is mapped next.
    pub(crate) fn force(&self, lost: MemberSet) {
        self.admin.lock().force = lost;
    }

    /// Waits until the pool serves; an error says why it will not.
    #[inline(never)]
    fn wait_attached(&self, driver: &Driver) -> Result {
        let begun = now_ms();
        loop {
            match driver.wait(LOOK_MS, |stage| stage != Stage::Begins) {
                Ok(()) => break,
                Err(error) if error == ETIMEDOUT => {}
                Err(error) => return Err(error),
            }
            let force = self.admin.lock().force;
            if !force.is_empty() {
                let history = rand::uuid();
                // Refused as long as it asks; then again.
                let _ = driver.command(Command::Force {
                    lost: force,
                    history,
                })?;
            }
            // Who is missing may come only where there is a session.
            let patience = if self.all_connected() {
                CONNECTED_MS
            } else {
                ATTACH_MS
            };
            if now_ms() - begun >= patience && driver.stage() == Stage::Begins {
                return Err(self.not_attached(driver));
            }
        }
        match driver.look(|desk| desk.coordinator.state()) {
            State::Serving | State::Changing | State::Held => Ok(()),
            State::Failed(refusal) => Err(errno(&refusal)),
            _ => Err(EIO),
        }
    }

    fn all_connected(&self) -> bool {
        let admin = self.admin.lock();
        admin.members.iter().all(|m| m.session.is_connected())
    }

    #[cold]
    #[inline(never)]
    fn not_attached(&self, driver: &Driver) -> Error {
        let refusal = driver.look(|desk| desk.coordinator.refusal());
        let refusal = refusal.unwrap_or(Refusal::TimedOut);
        refuse!(
            errno(&refusal),
            "pool {}: cannot start: {}",
            self.name,
            refusal
        )
    }

    #[inline(never)]
    fn limits(&self, driver: &Driver, caps: &Caps) -> Result<VolumeLimits> {
        let (geometry, limits) =
            driver.look(|desk| (desk.coordinator.geometry(), desk.coordinator.limits()));
        Ok(VolumeLimits {
            geometry: geometry.ok_or(EIO)?,
            limits: limits.ok_or(EIO)?,
            max_io: caps.data,
            max_segments: caps.segments,
        })
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

    /// What a message can carry, by the sessions that are connected.
    fn caps(&self, admin: &Admin) -> Result<Caps> {
        let mut max = (rmr_proto::MAX_IO, u16::MAX);
        let mut connected = false;
        if admin.members.is_empty() {
            return Err(refuse!(
                EINVAL,
                "pool {}: cannot start: no member was added; add them (add_sess)",
                self.name
            ));
        }
        for attrs in admin.members.iter().filter_map(|m| m.session.attrs().ok()) {
            connected = true;
            let segments = u16::try_from(attrs.max_segments).unwrap_or(u16::MAX);
            max = (max.0.min(attrs.max_io_size), max.1.min(segments));
        }
        if !connected {
            return Err(refuse!(
                numbered(bindings::ENOTCONN),
                "pool {}: cannot start: no session is connected; check the nodes and the network",
                self.name
            ));
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
        Ok(Caps {
            requests: MAX_BATCH as u16,
            data: max.0,
            segments: max.1,
            in_flight: rmr_engine::lane::IN_FLIGHT,
        })
    }

    /// The data path, without legs.
    #[inline(never)]
    fn publish(
        self: &Arc<Self>,
        registry: &Registry,
        driver: &Arc<Driver>,
        depth: u32,
        caps: Caps,
        consumer: Arc<dyn Consumer>,
    ) -> Result {
        let cpus = rmr_sys::percpu::cpus() as usize;
        let mut legs = KVec::with_capacity(MemberId::MAX, GFP_KERNEL)?;
        for _ in 0..MemberId::MAX {
            legs.push(Gate::new(), GFP_KERNEL)?;
        }
        let introduction = Introduction::new(self.name, driver.clone())?;
        let shards = new_irq_locks!(cpus * SHARDS_PER_CPU, |_| Shard::new())?;
        driver.core.publish(Core {
            data: Data::new(&KernelMemory, depth as usize).map_err(|_| ENOMEM)?,
            shape: Shape::none(),
            max_io: caps.data,
            sets: table(cpus, Set::new)?,
            writes: Lanes::new(cpus, caps, driver, None)?,
            legs,
            present: Atomic::new(0),
            links: Links::new(depth)?,
            requests: Leases::new(depth as usize, Request::none)?,
            places: sending::places(depth)?,
            parts: table(depth as usize, || Atomic::new(0))?,
            overlap: Overlap::new(table(depth as usize, Node::new)?, shards).ok_or(EINVAL)?,
            parked: new_irq_locks!(1, |_| TagList::new())?,
            opened: Atomic::new(0),
            stalled: Atomic::new(false),
            driver: driver.clone(),
            job: Job::new(&registry.queue, driver.clone(), Driver::run)?,
            timer: Timer::new(driver.clone(), 0, Driver::due)?,
            herald: Job::new(&registry.slow, self.clone(), Self::tell_changes)?,
            introduction: Job::new(&registry.slow, introduction, Introduction::run)?,
            counters: Counters::new()?,
            policy: self.policy.clone(),
            consumer,
        })
    }

    /// Ends the volume: waits for all requests, and detaches. What cannot be done within `io_timeout` fails. Sleeps.
    pub(crate) fn close(&self) {
        let Some(driver) = self.driver() else { return };
        let until = now_ms() + self.io_timeout_ms.load(Relaxed);
        let busy = || {
            driver
                .core
                .enter()
                .is_some_and(|core| (0..core.requests.len()).any(|tag| !core.requests.is_free(tag)))
        };
        while driver.stage() == Stage::Runs && now_ms() < until && busy() {
            sleep_ms(2);
        }
        let (pool, table) = driver.look(|desk| {
            let table = desk.coordinator.config().map(Config::table);
            (desk.pool, table.unwrap_or(MemberSet::EMPTY))
        });
        driver.detach();
        // The engine ends every request and every message in bounded time.
        while driver.wait_closed(CLOSE_MS).is_err() {
            say!(
                pr_warn,
                "pool {}: still waiting for its members to be detached",
                self.name
            );
        }
        if let Some(core) = driver.core.enter() {
            for tag in 0..core.requests.len() {
                while !core.requests.is_free(tag) {
                    sleep_ms(2);
                }
            }
        }
        // Not under the mutex, which what is waited for may take.
        let ways = loop {
            match ways(&self.admin.lock()) {
                Ok(ways) => break ways,
                Err(_) => sleep_ms(100),
            }
        };
        take_down(&ways, &driver);
        let mut admin = self.admin.lock();
        admin.volume = None;
        // Those that were new belong to the pool now.
        for member in admin.members.iter_mut() {
            if table.contains(member.report.member) {
                member.report.pool = pool;
            }
        }
        drop(admin);
        self.tell();
    }

    /// Takes the pool apart, after [`Self::close_down`]. Nobody can find it any more. Sleeps.
    pub(crate) fn dismantle(&self, registry: &Registry) {
        self.close();
        let mut admin = self.admin.lock();
        admin.gone = true;
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
        if admin.volume.as_ref().is_some_and(|opened| !opened.idle) {
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

/// Telling whoever polls the files of a pool, and udev, of changes.
impl Pool {
    /// The job.
    fn tell_changes(this: &Arc<Self>) -> Again {
        this.tell();
        Again::No
    }

    /// Tells what changed since it was told last. Once for each change of a state that lasts.
    fn tell(&self) {
        let state = self.state();
        let epoch = self.config().map_or(Epoch::NONE, |config| config.epoch);
        let mut dirs = self.dirs.lock();
        if let Some(dirs) = (*dirs).as_mut() {
            let old = core::mem::replace(&mut dirs.told, (state, epoch));
            if old.1 != epoch {
                dirs.own.notify(c"in_sync");
                dirs.own.notify(c"epoch");
            }
            if old.0 != state {
                dirs.own.notify(c"state");
                let _ = self.uevent(&dirs.own, None, state);
            }
        }
        drop(dirs);
        let mut admin = self.admin.lock();
        let shown = Shown::of(admin.volume.as_ref().map(|opened| &*opened.driver));
        for member in admin.members.iter_mut() {
            let id = member.report.member;
            let state = shown.state(id, member.session.is_connected());
            let progress = shown.progress(id);
            let old = core::mem::replace(&mut member.told, (state, progress));
            let Some(dir) = &member.dir else { continue };
            if old.1 != progress {
                dir.notify(c"resync_left");
            }
            if old.0 != state {
                dir.notify(c"state");
                let _ = self.uevent(dir, Some(id), state);
            }
        }
    }

    /// One uevent: `RMR_POOL`, `RMR_MEMBER` if it is about one, `RMR_STATE`.
    fn uevent<T: Send + Sync + 'static>(
        &self,
        dir: &Dir<T>,
        member: Option<MemberId>,
        state: &str,
    ) -> Result {
        let pool = CString::try_from_fmt(fmt!("RMR_POOL={}", self.name.as_str()))?;
        let state = CString::try_from_fmt(fmt!("RMR_STATE={state}"))?;
        match member {
            Some(id) => {
                let member = CString::try_from_fmt(fmt!("RMR_MEMBER={}", id.get()))?;
                dir.uevent(&[&pool, &member, &state])
            }
            None => dir.uevent(&[&pool, &state]),
        }
    }
}

/// What is shown of members while a pool is attached.
#[derive(Default)]
struct Shown {
    attached: bool,
    in_sync: MemberSet,
    catching_up: MemberSet,
    maintenance: MemberSet,
    /// Connected, but the secret was not proved.
    not_authenticated: MemberSet,
    progress: KVec<Progress>,
}

impl Shown {
    #[inline(never)]
    fn of(driver: Option<&Driver>) -> Self {
        let mut shown = Self::default();
        if let Some(driver) = driver {
            if let Some(core) = driver.core.enter() {
                let shut = core.legs().filter(|leg| leg.access.is_shut());
                shown.not_authenticated = shut.map(|leg| leg.member).collect();
            }
            driver.look(|desk| {
                let Some(config) = desk.coordinator.config() else {
                    return;
                };
                shown.attached = true;
                shown.in_sync = config.in_sync;
                shown.catching_up = config.catching_up;
                shown.maintenance = config.maintenance;
                // Without memory there is no progress to see.
                let _ = shown.progress.extend_from_slice(&desk.progress, GFP_KERNEL);
            });
        }
        shown
    }

    /// One word for a member: `in_sync`, `catching_up`, `maintenance` or `absent`, or `added` while the pool is not
    /// attached; `disconnected` while its session is, `unauthenticated` while it is not proved that both know the secret.
    fn state(&self, id: MemberId, connected: bool) -> &'static str {
        if self.maintenance.contains(id) {
            "maintenance"
        } else if !connected {
            "disconnected"
        } else if self.not_authenticated.contains(id) {
            "unauthenticated"
        } else if self.in_sync.contains(id) {
            "in_sync"
        } else if self.catching_up.contains(id) {
            "catching_up"
        } else if self.attached {
            "absent"
        } else {
            "added"
        }
    }

    /// How far a member is from being in sync.
    fn progress(&self, id: MemberId) -> Progress {
        match self.progress.get(id.index()) {
            Some(progress) if self.catching_up.contains(id) => *progress,
            _ => Progress::Unknown,
        }
    }
}

/// What the files of a pool show.
impl Pool {
    /// One word.
    pub(crate) fn state(&self) -> &'static str {
        let Some((driver, idle)) = ({
            let admin = self.admin.lock();
            (admin.volume.as_ref()).map(|opened| (opened.driver.clone(), opened.idle))
        }) else {
            return "joined";
        };
        match driver.look(|desk| desk.coordinator.state()) {
            State::Attaching => "attaching",
            State::Serving | State::Changing if idle => "attached",
            State::Serving | State::Changing => "mapped",
            State::Held => "suspended",
            State::Leaving | State::Closed => "detaching",
            State::Lost => "lost",
            State::Fenced => "fenced",
            State::Failed(_) => "failed",
        }
    }

    /// One word for a member, see [`Shown::state`].
    pub(crate) fn member_state(&self, file: &MemberFile) -> &'static str {
        let driver = self.driver();
        Shown::of(driver.as_deref()).state(file.member, file.session.is_connected())
    }

    /// How the proof of the secret stands between this host and a member, in a word.
    pub(crate) fn member_auth(&self, id: MemberId) -> &'static str {
        let leg = |core: &Core| core.leg(id).map(|leg| leg.access.word());
        match (self.on_core(leg).flatten(), self.secret()) {
            (Some(word), _) => word,
            (None, Some(_)) => "waiting",
            (None, None) => secret::NONE,
        }
    }

    /// How a member gets current: bytes that are left, and bytes per second. `None`: it does not, or nobody knows yet.
    pub(crate) fn resync(&self, id: MemberId) -> Option<(u64, u64)> {
        let driver = self.driver()?;
        match Shown::of(Some(&*driver)).progress(id) {
            Progress::Dirty { chunks, rate } => {
                Some((chunks.saturating_mul(self.geometry()?.chunk_size()), rate))
            }
            Progress::Ready => Some((0, 0)),
            Progress::Unknown => None,
        }
    }

    /// Whether a member catches up.
    pub(crate) fn catches_up(&self, id: MemberId) -> bool {
        (self.config()).is_some_and(|config| config.catching_up.contains(id))
    }

    /// The configuration in use.
    pub(crate) fn config(&self) -> Option<KBox<Config>> {
        self.driver()?.config()
    }

    /// UUID of the pool, if it has one that is known here.
    pub(crate) fn uuid(&self) -> Option<Uuid> {
        let attached = self
            .driver()
            .and_then(|driver| driver.look(|desk| desk.pool.non_nil()));
        if attached.is_some() {
            return attached;
        }
        let admin = self.admin.lock();
        admin.members.iter().find_map(|m| m.report.pool.non_nil())
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
        let driver = self.driver()?;
        let core = driver.core.enter()?;
        Some(f(&core))
    }

    /// The watermark; 0 without a volume.
    pub(crate) fn watermark(&self) -> u64 {
        self.on_core(|core| core.data.watermark().0).unwrap_or(0)
    }

    /// A counter of the data path, see [`super::core::Counter`].
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.on_core(|core| core.counters.sum(counter as usize))
            .unwrap_or(0)
    }
}

/// Whether two secrets are the same one.
fn same(a: &Option<Arc<Secret>>, b: &Option<Arc<Secret>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// How a member is reached.
type Reach = (MemberId, Arc<Session>);

fn ways(admin: &Admin) -> Result<KVec<Reach>> {
    let mut ways = KVec::with_capacity(admin.members.len(), GFP_KERNEL)?;
    for member in &admin.members {
        ways.push((member.report.member, member.session.clone()), GFP_KERNEL)?;
    }
    Ok(ways)
}

/// Takes a driver apart that has nothing in flight.
fn take_down(ways: &[Reach], driver: &Arc<Driver>) {
    for (id, _) in ways {
        Driver::remove_leg(driver, *id);
    }
    drop(driver.core.retire());
}

/// The error of a refusal.
fn errno(refusal: &Refusal) -> Error {
    match refusal {
        Refusal::NoMember | Refusal::Missing(_) | Refusal::NoMajority(_) => ENXIO,
        Refusal::InUse(_) | Refusal::Busy => EBUSY,
        Refusal::TimedOut => ETIMEDOUT,
        Refusal::Lost => EIO,
        _ => EINVAL,
    }
}

/// `n` elements as the engine wants them lent.
fn table<T>(n: usize, new: fn() -> T) -> Result<KVVec<T>> {
    let mut table = KVVec::with_capacity(n, GFP_KERNEL)?;
    for _ in 0..n {
        table.push(new(), GFP_KERNEL)?;
    }
    Ok(table)
}
