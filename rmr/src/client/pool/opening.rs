// SPDX-License-Identifier: GPL-2.0

//! The volume of a pool is opened and closed: legs and data path are made, the engine attaches and detaches.

use super::Admin;
use super::Member;
use super::Mode;
use super::Opened;
use super::Pool;
use super::MAX_DEPTH;
use crate::client::core::Core;
use crate::client::core::Request;
use crate::client::core::Shape;
use crate::client::driver::Driver;
use crate::client::driver::Stage;
use crate::client::introduction::Introduction;
use crate::client::lane::Lanes;
use crate::client::lane::Set;
use crate::client::registry::Registry;
use crate::client::sending;
use crate::client::session::Session;
use crate::client::tags::Links;
use crate::client::tags::TagList;
use crate::client::volume::Consumer;
use crate::client::volume::VolumeLimits;
use crate::memory::KernelMemory;
use crate::refuse;
use crate::refuse::numbered;
use crate::say;
use crate::secret::Secret;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use rmr_engine::client::Admin as Command;
use rmr_engine::client::Data;
use rmr_engine::client::Options;
use rmr_engine::client::Random;
use rmr_engine::client::Refusal;
use rmr_engine::client::State;
use rmr_engine::lane::Caps;
use rmr_engine::overlap::Node;
use rmr_engine::overlap::Overlap;
use rmr_engine::overlap::Shard;
use rmr_engine::time::SECOND;
use rmr_proto::Config;
use rmr_proto::Geometry;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Quorum;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::MAX_BATCH;
use rmr_sys::gate::Gate;
use rmr_sys::leases::Leases;
use rmr_sys::new_irq_locks;
use rmr_sys::percpu::Counters;
use rmr_sys::rand;
use rmr_sys::time::now_ms;
use rmr_sys::time::sleep_ms;
use rmr_sys::timer::Timer;
use rmr_sys::work::Job;

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

/// Gets the outcome of no requests.
struct NoConsumer;

impl Consumer for NoConsumer {
    fn complete(&self, _tag: u32, _status: Status) {}
}

impl Pool {
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
        let idle = {
            let admin = self.admin.lock();
            let idle = admin.volume.as_ref().filter(|opened| opened.idle);
            idle.map(|opened| opened.driver.clone())
        };
        if let Some(driver) = idle {
            self.close(&driver);
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
        // What was forced is of one attempt: another time other members may be missing.
        match limits {
            Ok(limits) => {
                self.admin.lock().force = MemberSet::EMPTY;
                self.takeover.store(false, Relaxed);
                self.take_new_members(&driver);
                Ok((driver, limits))
            }
            Err(error) => {
                // If another attempt has ended this one, it is of that.
                if self.close(&driver) {
                    self.admin.lock().force = MemberSet::EMPTY;
                }
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
        let _changing = self.changing.lock();
        let (caps, ways, secret) = {
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
            (caps, ways, admin.secret.clone())
        };
        let driver = self.build(&registry, depth, caps, consumer, &ways, &secret);
        let mut admin = self.admin.lock();
        admin.opening = false;
        let driver = driver?;
        if admin.gone {
            drop(admin);
            take_down(&driver);
            return Err(ENOENT);
        }
        // Those that were taken away meanwhile.
        for (id, session) in &ways {
            let is_it = |m: &Member| m.report.member == *id && Arc::ptr_eq(&m.session, session);
            if !admin.members.iter().any(is_it) {
                Driver::remove_leg(&driver, *id);
            }
        }
        admin.volume = Some(Opened {
            driver: driver.clone(),
            caps,
            idle,
        });
        let options = self.options(&admin);
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
                take_down(&driver);
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

    /// Ends the volume that this driver drives, unless somebody has done that: waits for all requests, and detaches. What
    /// cannot be done within `io_timeout` fails. `false` if somebody had. Sleeps.
    pub(crate) fn close(&self, driver: &Arc<Driver>) -> bool {
        let _changing = self.changing.lock();
        let open = self.driver();
        let is_it = open.is_some_and(|open| Arc::ptr_eq(&open, driver));
        if is_it {
            self.end(driver);
        }
        is_it
    }

    /// The same, of the volume that is open; `changing` is held.
    pub(super) fn end(&self, driver: &Arc<Driver>) {
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
        let mut admin = self.admin.lock();
        // From here on no leg is added.
        admin.volume = None;
        // Those that were new belong to the pool now.
        for member in admin.members.iter_mut() {
            if table.contains(member.report.member) {
                member.report.pool = pool;
            }
        }
        drop(admin);
        // Not under the mutex, which what is waited for may take.
        take_down(driver);
        self.tell();
    }
}

/// How a member is reached.
type Reach = (MemberId, Arc<Session>);

/// Takes a driver apart that has nothing in flight.
fn take_down(driver: &Arc<Driver>) {
    for id in MemberId::all() {
        Driver::remove_leg(driver, id);
    }
    driver.retire();
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

fn ways(admin: &Admin) -> Result<KVec<Reach>> {
    let mut ways = KVec::with_capacity(admin.members.len(), GFP_KERNEL)?;
    for member in &admin.members {
        ways.push((member.report.member, member.session.clone()), GFP_KERNEL)?;
    }
    Ok(ways)
}
