// SPDX-License-Identifier: GPL-2.0

//! The pools of this node: store, state as a member, and control messages.
//!
//! ```text
//!            join_pool            store attached            promise, install
//!   (none) ───────────► joined ────────────────► ready ─────────────────────► serving
//!                         ▲ ◄──────────────────── │ ◄──── promise, detach ──────┘
//!                         └─ store removed ───────┘
//! ```
//!
//! What a promise, an install and a detach do to the member is the engine's (`rmr_engine::member`); this keeps
//! the record on the store and lets messages in and out. Everything here is under one mutex of the registry:
//! these are rare events.

use super::listener::Listener;
use super::listener::Session;
use super::op::Table;
use super::serving::Directory;
use super::serving::Serving;
use super::sysfs;
use crate::refuse;
use crate::refuse::numbered;
use crate::store::Store;
use crate::store::StoreInfo;
use kernel::bindings;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_engine::member::MemberState;
use rmr_proto::Control;
use rmr_proto::EpochRecord;
use rmr_proto::Header;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::PoolName;
use rmr_proto::Reply;
use rmr_proto::Status;
use rmr_sys::global::Global;
use rmr_sys::module::ModuleRef;
use rmr_sys::rand;
use rmr_sys::sysfs::Dir;
use rmr_sys::tree;

/// The port of the node's RTRS server, as in the C project.
const PORT: u16 = 1234;

static REGISTRY: Global<Registry> = Global::new();

/// A pool on this node.
pub(crate) struct Pool {
    pub(crate) name: PoolName,
    pub(crate) member: MemberId,
}

/// A store and the member it makes of this node.
struct Attached {
    store: Arc<dyn Store>,
    info: StoreInfo,
    /// Like all that holds a configuration on the heap: below it are the frames of those who write it to a disk.
    member: KBox<MemberState>,
    client: Option<Client>,
    /// A record could not be written; the store goes out of service.
    failed: bool,
}

/// The client that has the pool open, while its session is connected.
struct Client {
    session: Arc<Session>,
    /// The store is not to be unloaded under it.
    _hold: ModuleRef,
}

struct Entry {
    pool: Arc<Pool>,
    attached: Option<KBox<Attached>>,
    /// Made by attaching a store, not by join_pool: goes with the store.
    implied: bool,
    _dir: Dir<Pool>,
}

struct Inner {
    entries: KVec<Entry>,
    /// Runs from the first pool on.
    server: Option<rtrs::Server<Listener>>,
}

/// All pools of this node.
#[pin_data]
pub(crate) struct Registry {
    pools_dir: Dir<()>,
    directory: Arc<Directory>,
    table: Arc<Table>,
    #[pin]
    inner: Mutex<Inner>,
}

impl tree::Registry for Registry {
    fn global() -> &'static Global<Self> {
        &REGISTRY
    }

    /// Leaves all pools. No store is attached any more: whoever attached one uses this module.
    fn stop(&self) {
        let mut inner = self.inner.lock();
        let entries = core::mem::take(&mut inner.entries);
        let server = inner.server.take();
        drop(inner);
        drop(server);
        drop(entries);
    }
}

impl Registry {
    /// An empty registry. Sleeps.
    pub(crate) fn new(pools_dir: Dir<()>) -> Result<Arc<Self>> {
        let directory = Arc::new(Directory::new()?, GFP_KERNEL)?;
        let table = Arc::new(Table::new()?, GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                pools_dir,
                directory,
                table,
                inner <- new_mutex!(Inner {
                    entries: KVec::new(),
                    server: None,
                }),
            }),
            GFP_KERNEL,
        )
    }

    /// The registry. `ENODEV` while the module is being unloaded.
    pub(crate) fn get() -> Result<Arc<Self>> {
        REGISTRY.get().ok_or(ENODEV)
    }

    /// Creates the server side of the pool `name`, with this node as `member`.
    pub(crate) fn join(&self, name: PoolName, member: MemberId) -> Result {
        let mut inner = self.inner.lock();
        if inner.entries.iter().any(|e| e.pool.name == name) {
            return Err(refuse!(
                EEXIST,
                "join_pool: this node has joined pool {} already; leave it first",
                name
            ));
        }
        self.add(&mut inner, name, member, false)
    }

    fn add(&self, inner: &mut Inner, name: PoolName, member: MemberId, implied: bool) -> Result {
        inner.entries.reserve(1, GFP_KERNEL)?;
        if inner.server.is_none() {
            let listener = Arc::new(Listener::new(self.directory.clone())?, GFP_KERNEL)?;
            inner.server = Some(rtrs::Server::open(PORT, listener).map_err(|error| {
                refuse!(
                    error,
                    "cannot listen on port {} ({:?}); is rnbd-server loaded? RTRS serves one of the two",
                    PORT,
                    error
                )
            })?);
        }
        let pool = Arc::new(Pool { name, member }, GFP_KERNEL)?;
        let file = crate::client::sysfs::file_name(name.as_str())?;
        let dir = Dir::in_dir(&self.pools_dir, &file, pool.clone(), &sysfs::POOL)?;
        inner.entries.push(
            Entry {
                pool,
                attached: None,
                implied,
                _dir: dir,
            },
            GFP_KERNEL,
        )?;
        Ok(())
    }

    /// Takes the server side of a pool away. `EBUSY` while it has a store.
    pub(crate) fn leave(&self, name: &PoolName) -> Result {
        let mut inner = self.inner.lock();
        let place = inner
            .entries
            .iter()
            .position(|e| e.pool.name == *name)
            .ok_or(ENOENT)?;
        if inner
            .entries
            .get(place)
            .is_some_and(|e| e.attached.is_some())
        {
            return Err(refuse!(
                EBUSY,
                "leave_pool: pool {} has a store on this node; remove the store first",
                name
            ));
        }
        let entry = inner.entries.remove(place)?;
        drop(inner);
        // Waits for readers of its files, who want the mutex.
        drop(entry);
        Ok(())
    }
}

impl Registry {
    /// Attaches `store` to the pool it was created for.
    #[inline(never)]
    fn attach(&self, store: Arc<dyn Store>) -> Result {
        let info = store.info();
        let name = info.pool_name;
        let mut inner = self.inner.lock();
        let known = inner.entries.iter().find(|e| e.pool.name == name);
        if let Some(entry) = known {
            if entry.attached.is_some() {
                return Err(refuse!(
                    EEXIST,
                    "pool {} has a store on this node already; remove it first",
                    name
                ));
            }
            if entry.pool.member != info.member {
                return Err(refuse!(
                    numbered(bindings::ESTALE),
                    "the store is member {} of pool {}, but this node joined it as member {}; leave the pool and join it as member {}",
                    info.member,
                    name,
                    entry.pool.member,
                    info.member
                ));
            }
        }
        let member = info.member;
        let attached = start(store, info)?;
        if known.is_none() {
            self.add(&mut inner, name, member, true)?;
        }
        let entry = inner
            .entries
            .iter_mut()
            .find(|e| e.pool.name == name)
            .ok_or(ENOENT)?;
        entry.attached = Some(attached);
        Ok(())
    }

    /// Takes the store of `name` away; waits for requests in it.
    #[inline(never)]
    fn detach(&self, name: &PoolName) {
        let mut inner = self.inner.lock();
        let Some(place) = inner.entries.iter().position(|e| e.pool.name == *name) else {
            return;
        };
        let attached = inner.entries.get_mut(place).and_then(|e| e.attached.take());
        if let Some(attached) = &attached {
            self.directory.forget(attached.member.pool());
        }
        let entry = match inner.entries.get(place) {
            Some(entry) if entry.implied => inner.entries.remove(place).ok(),
            _ => None,
        };
        drop(inner);
        drop(entry);
        drop(attached);
    }

    /// Runs `f` on what is attached to the pool `name`.
    fn with<R>(&self, name: &PoolName, f: impl FnOnce(&mut Attached) -> R) -> Option<R> {
        let mut inner = self.inner.lock();
        let entry = inner.entries.iter_mut().find(|e| e.pool.name == *name)?;
        entry.attached.as_mut().map(|attached| f(attached))
    }

    /// What the member of pool `name` would report.
    pub(crate) fn report(&self, name: &PoolName) -> Option<MemberReport> {
        self.with(name, |attached| attached.report())
    }

    /// Executes a control message that came over `session`. Sleeps. An error if there is no memory for the reply.
    pub(crate) fn control(
        &self,
        session: &Arc<Session>,
        message: &Control,
    ) -> Result<KBox<Reply<'static>>> {
        let mut inner = self.inner.lock();
        let result = self.perform(&mut inner, session, message);
        describe(&inner, message, result.err().unwrap_or(Status::Ok))
    }

    #[inline(never)]
    fn perform(
        &self,
        inner: &mut Inner,
        session: &Arc<Session>,
        message: &Control,
    ) -> Result<(), Status> {
        let entry = entry_of(inner, message.name()).ok_or(Status::NoPool)?;
        let attached = entry.attached.as_mut().ok_or(Status::NoStore)?;
        let result = self.execute(attached, session, message);
        if attached.failed {
            refuse!(
                (),
                "pool {}: the store failed while its records were written and is out of service; see the messages of its device, then remove and add it again",
                message.name()
            );
            self.retire(attached);
            entry.attached = None;
        }
        result
    }

    fn execute(
        &self,
        attached: &mut Attached,
        session: &Arc<Session>,
        message: &Control,
    ) -> Result<(), Status> {
        match message {
            Control::Query { .. } => Ok(()),
            Control::Ping {
                to,
                generation,
                epoch,
                watermark,
            } => attached.member.admit(&Header {
                pool: to.pool,
                member: to.member,
                incarnation: to.incarnation,
                generation: *generation,
                epoch: *epoch,
                watermark: *watermark,
            }),
            Control::Promise {
                to,
                generation,
                takeover,
            } => {
                let other = attached
                    .client
                    .as_ref()
                    .is_some_and(|c| !Arc::ptr_eq(&c.session, session));
                let next = boxed(|| attached.member.promise(to, *generation, *takeover, other))?;
                if *next == *attached.member {
                    // RTRS may deliver a message twice: the second time there is nothing to do.
                    return Ok(());
                }
                // Fences: what runs under the old generation ends, nothing more of it comes in.
                self.retire(attached);
                attached.store.flush().map_err(status)?;
                attached.keep(next)
            }
            Control::Install {
                to, config, assign, ..
            } => {
                let next = boxed(|| attached.member.install(to, config, *assign))?;
                if *next == *attached.member {
                    // Above all no new table of executed writes.
                    return Ok(());
                }
                let hold = attached.store.hold().ok_or(Status::NoStore)?;
                self.retire(attached);
                attached.keep(next)?;
                self.serve(attached).map_err(status)?;
                attached.client = Some(Client {
                    session: session.clone(),
                    _hold: hold,
                });
                Ok(())
            }
            Control::Detach {
                to,
                generation,
                epoch,
                ..
            } => {
                let next = boxed(|| attached.member.detach(to, *generation, *epoch))?;
                if *next == *attached.member {
                    return Ok(());
                }
                self.retire(attached);
                attached.store.flush().map_err(status)?;
                attached.keep(next)
            }
        }
    }

    /// Lets no IO in any more and waits until what is inside has ended.
    fn retire(&self, attached: &mut Attached) {
        self.directory.retire(attached.member.pool());
        attached.client = None;
    }

    /// Lets IO in under the configuration just installed, if the member takes part in it.
    fn serve(&self, attached: &Attached) -> Result {
        let Some(identity) = attached.member.identity() else {
            return Ok(());
        };
        let serving = Serving::new(
            identity,
            &attached.info,
            attached.store.clone(),
            self.table.clone(),
        )?;
        self.directory.publish(identity.pool, serving)
    }

    /// A client's session is gone; the client may come back over another one.
    pub(crate) fn disconnected(&self, session: &Arc<Session>) {
        let mut inner = self.inner.lock();
        for attached in inner.entries.iter_mut().filter_map(|e| e.attached.as_mut()) {
            if attached
                .client
                .as_ref()
                .is_some_and(|c| Arc::ptr_eq(&c.session, session))
            {
                attached.client = None;
            }
        }
    }
}

/// Starts a member on `store`, in a new incarnation.
#[inline(never)]
fn start(store: Arc<dyn Store>, info: StoreInfo) -> Result<KBox<Attached>> {
    let member = next_incarnation(&*store, &info)?;
    // Here and not in there, where more is on the stack.
    store.save_epoch(member.record())?;
    let attached = Attached {
        store,
        info,
        member,
        client: None,
        failed: false,
    };
    Ok(KBox::new(attached, GFP_KERNEL)?)
}

/// The state of a member that starts: to be on disk before anybody hears of it.
#[inline(never)]
fn next_incarnation(store: &dyn Store, info: &StoreInfo) -> Result<KBox<MemberState>> {
    let last = last_epoch(store)?;
    let salt = rand::u64() as u32;
    let start = MemberState::start(info.pool_uuid, info.store_uuid, info.member, &last, salt);
    let member = start.ok_or_else(|| {
        refuse!(
            EOVERFLOW,
            "the store of pool {} was started too often; create it anew",
            info.pool_name
        )
    })?;
    Ok(KBox::new(member, GFP_KERNEL)?)
}

/// The record that the store has, on the heap.
#[inline(never)]
fn last_epoch(store: &dyn Store) -> Result<KBox<EpochRecord>> {
    Ok(KBox::new(store.load_epoch()?, GFP_KERNEL)?)
}

/// The state that `make` makes. Only a pointer to it is on the stack when this returns.
#[inline(never)]
fn boxed(make: impl FnOnce() -> Result<MemberState, Status>) -> Result<KBox<MemberState>, Status> {
    KBox::new(make()?, GFP_KERNEL).map_err(|_| Status::NoMemory)
}

/// The reply to a message that ended with `status`.
#[inline(never)]
fn describe(inner: &Inner, message: &Control, status: Status) -> Result<KBox<Reply<'static>>> {
    let mut reply = KBox::new(Reply::bare(message.kind(), status), GFP_KERNEL)?;
    let entry = inner
        .entries
        .iter()
        .find(|e| e.pool.name == *message.name());
    if let Some(attached) = entry.and_then(|e| e.attached.as_ref()) {
        reply.report = Some(attached.report());
    }
    Ok(reply)
}

fn entry_of<'a>(inner: &'a mut Inner, name: &PoolName) -> Option<&'a mut Entry> {
    inner.entries.iter_mut().find(|e| e.pool.name == *name)
}

/// How an error of the store is reported to a client.
fn status(error: Error) -> Status {
    Status::from_errno(error.to_errno())
}

impl Attached {
    /// Makes `next` the state of the member, on disk first.
    #[inline(never)]
    fn keep(&mut self, next: KBox<MemberState>) -> Result<(), Status> {
        let assigned = if next.pool() == self.member.pool() {
            Ok(())
        } else {
            self.store.assign_pool(next.pool())
        };
        match assigned.and_then(|()| self.store.save_epoch(next.record())) {
            Ok(()) => {
                self.member = next;
                Ok(())
            }
            Err(error) => {
                // Nobody knows which of the two states is on disk: only a new start can tell.
                self.failed = true;
                Err(status(error))
            }
        }
    }

    fn report(&self) -> MemberReport {
        self.member.report(self.info.geometry, self.info.limits)
    }
}

/// A store while it is attached. Dropping it takes the store away and waits until nothing runs in it.
pub struct StoreHandle {
    name: PoolName,
}

/// Makes `store` this node's member of the pool it was created for; joins the pool if that was not done.
/// Sleeps. What is wrong, if anything, is in the kernel log.
#[inline(never)]
pub fn add_store(store: Arc<dyn Store>) -> Result<StoreHandle> {
    let name = store.info().pool_name;
    Registry::get()?.attach(store)?;
    Ok(StoreHandle { name })
}

/// The member id under which this node joined the pool `name`, if it did.
#[inline(never)]
pub fn member_of(name: &PoolName) -> Option<MemberId> {
    let registry = Registry::get().ok()?;
    let inner = registry.inner.lock();
    let entry = inner.entries.iter().find(|e| e.pool.name == *name)?;
    Some(entry.pool.member)
}

/// Refuses a store of pool `name` as `member` if this node joined the pool as another one; asked before anything is written to a device.
#[inline(never)]
pub fn check_member(command: &str, name: &PoolName, member: MemberId) -> Result {
    let registry = Registry::get()?;
    let inner = registry.inner.lock();
    match inner.entries.iter().find(|e| e.pool.name == *name) {
        Some(entry) if entry.pool.member != member => Err(refuse!(
            numbered(bindings::ESTALE),
            "{}: this node joined pool {} as member {}, not {}; give that member_id=, or leave the pool first",
            command,
            name,
            entry.pool.member,
            member
        )),
        _ => Ok(()),
    }
}

impl StoreHandle {
    /// Whether a client has the pool open on this store.
    #[inline(never)]
    pub fn is_serving(&self) -> bool {
        Registry::get().is_ok_and(|r| r.report(&self.name).is_some_and(|report| report.serving))
    }
}

impl Drop for StoreHandle {
    #[inline(never)]
    fn drop(&mut self) {
        if let Ok(registry) = Registry::get() {
            registry.detach(&self.name);
        }
    }
}
