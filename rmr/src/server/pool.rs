// SPDX-License-Identifier: GPL-2.0

//! The pools of this node, and the store of each.
//!
//! ```text
//!            join_pool            store attached            promise, install
//!   (none) ───────────► joined ────────────────► ready ─────────────────────► serving
//!                         ▲ ◄──────────────────── │ ◄──── promise, detach ──────┘
//!                         └─ store removed ───────┘
//! ```
//!
//! What promises and installations do is the engine's; a [`Runner`] runs it for each store. A runner whose store fails is stopped
//! and another one started, with pauses that grow, until the store is removed.

use super::address::Book;
use super::guard::Guard;
use super::listener::Listener;
use super::listener::Session;
use super::member::Runner;
use super::op::Table;
use super::serving::Directory;
use super::sysfs;
use crate::refuse;
use crate::refuse::numbered;
use crate::store::Store;
use kernel::bindings;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::PoolName;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_sys::global::Global;
use rmr_sys::noio::without_io;
use rmr_sys::sysfs::no_data;
use rmr_sys::sysfs::Dir;
use rmr_sys::time::sleep_ms;
use rmr_sys::tree;
use rmr_sys::work::Flags;
use rmr_sys::work::Queue;

/// The port of the node's RTRS server, as in the C project.
const PORT: u16 = 1234;

/// The first and the longest pause before a store that failed is started again, in ms.
const FIRST_PAUSE_MS: u32 = 1000;
const LONGEST_PAUSE_MS: u32 = 60_000;
/// So often somebody looks whether the store was removed meanwhile, in ms.
const LOOK_MS: u32 = 100;

static REGISTRY: Global<Registry> = Global::new();

/// What a pool has on this node.
struct Current {
    /// Until it is removed.
    store: Option<Arc<dyn Store>>,
    /// Who may speak to its member, if not everybody.
    guard: Option<Arc<Guard>>,
    /// The member it makes; not while that is being started.
    runner: Option<Arc<Runner>>,
}

/// A pool on this node.
#[pin_data]
pub(crate) struct Pool {
    pub(crate) name: PoolName,
    pub(crate) member: MemberId,
    /// Where the other members are.
    pub(crate) book: Arc<Book>,
    /// Nothing is to be pulled; stays so for each start of the member.
    paused: Atomic<bool>,
    /// Held while a member is started or stopped.
    #[pin]
    changing: Mutex<()>,
    #[pin]
    current: Mutex<Current>,
}

impl Pool {
    /// The member, while it runs.
    pub(crate) fn runner(&self) -> Option<Arc<Runner>> {
        self.current.lock().runner.clone()
    }

    pub(crate) fn has_store(&self) -> bool {
        self.current.lock().store.is_some()
    }

    /// Whether there is a store, or the member of one that is being removed.
    fn is_occupied(&self) -> bool {
        let current = self.current.lock();
        current.store.is_some() || current.runner.is_some()
    }

    /// Who may speak to the member, if not everybody.
    pub(crate) fn guard(&self) -> Option<Arc<Guard>> {
        self.current.lock().guard.clone()
    }

    /// What its member would report.
    pub(crate) fn report(&self) -> Option<MemberReport> {
        Some(self.runner()?.report())
    }

    /// Whether resync waits for the administrator.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    /// Lets resync wait, or go on.
    pub(crate) fn pause(&self, pause: bool) {
        let current = self.current.lock();
        self.paused.store(pause, Relaxed);
        if let Some(runner) = &current.runner {
            runner.pause(pause);
        }
    }

    /// Starts the member that `store` makes.
    fn attach(&self, registry: &Registry, store: Arc<dyn Store>) -> Result {
        let _changing = self.changing.lock();
        if self.is_occupied() {
            return Err(refuse!(
                EEXIST,
                "pool {} has a store on this node already; remove it first",
                self.name
            ));
        }
        let guard = Guard::of(&store.info())?;
        // First, so that nobody says where members are after what was said before is forgotten.
        self.current.lock().guard = guard.clone();
        self.book.require(guard.as_deref().map(Guard::secret));
        let runner = registry.start(store.clone(), guard.clone(), self.book.clone());
        let runner = runner.inspect_err(|_| {
            self.current.lock().guard = None;
            self.book.require(None);
        })?;
        let mut current = self.current.lock();
        runner.pause(self.is_paused());
        *current = Current {
            store: Some(store),
            guard,
            runner: Some(runner),
        };
        Ok(())
    }

    /// Stops the member, and forgets the store.
    fn detach(&self) {
        // Whoever waits to start it again gives up.
        self.current.lock().store = None;
        let _changing = self.changing.lock();
        let runner = {
            let mut current = self.current.lock();
            if current.store.is_some() {
                // Another one, since there was no member left to be stopped.
                return;
            }
            current.runner.take()
        };
        if let Some(runner) = runner {
            runner.stop();
        }
        self.current.lock().guard = None;
        self.book.require(None);
    }

    /// Stops a member that has failed, and starts it again.
    fn revive(&self, registry: &Registry) {
        let mut pause = FIRST_PAUSE_MS;
        loop {
            let changing = self.changing.lock();
            let failed = {
                let mut current = self.current.lock();
                match &current.runner {
                    Some(runner) if runner.failed().is_none() => return,
                    _ => current.runner.take(),
                }
            };
            if let Some(runner) = failed {
                runner.stop();
            }
            drop(changing);
            for _ in 0..pause / LOOK_MS {
                if !self.has_store() {
                    return;
                }
                sleep_ms(LOOK_MS);
            }
            pause = (pause * 2).min(LONGEST_PAUSE_MS);
            let _changing = self.changing.lock();
            let (store, guard) = {
                let current = self.current.lock();
                // Whoever had the store removed and added again has started it.
                let (Some(store), None) = (current.store.clone(), &current.runner) else {
                    return;
                };
                (store, current.guard.clone())
            };
            // It may be what memory is to be written back to.
            let started = without_io(|| registry.start(store, guard, self.book.clone()));
            if let Ok(runner) = started {
                pr_info!(
                    "pool {}: member {} runs again\n",
                    core::format_args!("{}", self.name),
                    core::format_args!("{}", self.member)
                );
                let mut current = self.current.lock();
                runner.pause(self.is_paused());
                current.runner = Some(runner);
                return;
            }
        }
    }
}

struct Entry {
    pool: Arc<Pool>,
    /// Made by attaching a store, not by join_pool: goes with the store.
    implied: bool,
    /// Stores that are being attached: the pool stays until they are, or are not.
    attaching: u32,
    _dir: Dir<Pool>,
}

impl Entry {
    /// Whether it has a store, or is about to.
    fn is_used(&self) -> bool {
        self.attaching > 0 || self.pool.is_occupied()
    }
}

impl Drop for Entry {
    /// Waits for readers of the files, who want the registry's lock.
    fn drop(&mut self) {
        self.pool.book.close();
    }
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
    /// Where members run.
    queue: Arc<Queue>,
    /// Where members that failed are started again.
    revivals: Arc<Queue>,
    /// Where sessions to the nodes of other members are made.
    addresses: Arc<Queue>,
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
        // They find no store, but still hold what is here.
        self.revivals.flush();
    }
}

impl Registry {
    /// An empty registry. Sleeps.
    pub(crate) fn new(pools_dir: Dir<()>) -> Result<Arc<Self>> {
        let directory = Arc::new(Directory::new()?, GFP_KERNEL)?;
        let table = Arc::new(Table::new()?, GFP_KERNEL)?;
        let queue = Queue::new(c"rmr-server", Flags::UNBOUND | Flags::MEM_RECLAIM)?;
        let revivals = Queue::new(c"rmr-revive", Flags::UNBOUND)?;
        let addresses = Queue::new(c"rmr-address", Flags::UNBOUND)?;
        Arc::pin_init(
            pin_init!(Self {
                pools_dir,
                directory,
                table,
                queue,
                revivals,
                addresses,
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

    /// The pool `name`, if this node has joined it.
    pub(crate) fn find(&self, name: &PoolName) -> Option<Arc<Pool>> {
        let inner = self.inner.lock();
        let entry = inner.entries.iter().find(|e| e.pool.name == *name)?;
        Some(entry.pool.clone())
    }

    /// The member of the pool `name`; the status with which messages to it are to be answered, if there is none.
    pub(crate) fn runner(&self, name: &PoolName) -> Result<Arc<Runner>, Status> {
        let pool = self.find(name).ok_or(Status::NoPool)?;
        pool.runner().ok_or(Status::NoStore)
    }

    /// The member of the pool with this UUID.
    pub(crate) fn runner_of(&self, pool: Uuid) -> Option<Arc<Runner>> {
        if let Some(serving) = self.directory.enter(pool) {
            return Some(serving.runner.clone());
        }
        let inner = self.inner.lock();
        let mut runners = inner.entries.iter().filter_map(|e| e.pool.runner());
        runners.find(|runner| runner.pool() == pool)
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
        self.add(&mut inner, name, member, false).map(drop)
    }

    /// Whoever brings IO wants the mutex, too: so nothing here waits for writeback.
    fn add(
        &self,
        inner: &mut Inner,
        name: PoolName,
        member: MemberId,
        implied: bool,
    ) -> Result<Arc<Pool>> {
        without_io(|| self.add_entry(inner, name, member, implied))
    }

    fn add_entry(
        &self,
        inner: &mut Inner,
        name: PoolName,
        member: MemberId,
        implied: bool,
    ) -> Result<Arc<Pool>> {
        inner.entries.reserve(1, GFP_KERNEL)?;
        if inner.server.is_none() {
            let listener = Arc::new(Listener::new(self.directory.clone()), GFP_KERNEL)?;
            inner.server = Some(rtrs::Server::open(PORT, listener).map_err(|error| {
                refuse!(
                    error,
                    "cannot listen on port {} ({:?}); is rnbd-server loaded? RTRS serves one of the two",
                    PORT,
                    error
                )
            })?);
        }
        let book = Book::new(name, member, &self.addresses)?;
        let made = self.make(name, member, &book);
        let (pool, dir) = made.inspect_err(|_| book.close())?;
        inner.entries.push(
            Entry {
                pool: pool.clone(),
                implied,
                attaching: 0,
                _dir: dir,
            },
            GFP_KERNEL,
        )?;
        Ok(pool)
    }

    /// A pool and its directory.
    fn make(
        &self,
        name: PoolName,
        member: MemberId,
        book: &Arc<Book>,
    ) -> Result<(Arc<Pool>, Dir<Pool>)> {
        let pool = Arc::pin_init(
            pin_init!(Pool {
                name,
                member,
                book: book.clone(),
                paused: Atomic::new(false),
                changing <- new_mutex!(()),
                current <- new_mutex!(Current { store: None, guard: None, runner: None }),
            }? Error),
            GFP_KERNEL,
        )?;
        let file = crate::client::sysfs::file_name(name.as_str())?;
        let dir = Dir::in_dir(&self.pools_dir, &file, pool.clone(), &sysfs::POOL)?;
        book.open(Dir::in_dir(&dir, c"peers", no_data()?, &[])?);
        Ok((pool, dir))
    }

    /// Takes the server side of a pool away. `EBUSY` while it has a store.
    pub(crate) fn leave(&self, name: &PoolName) -> Result {
        let mut inner = self.inner.lock();
        let place = inner
            .entries
            .iter()
            .position(|e| e.pool.name == *name)
            .ok_or(ENOENT)?;
        if inner.entries.get(place).is_some_and(Entry::is_used) {
            return Err(refuse!(
                EBUSY,
                "leave_pool: pool {} has a store on this node, or is being given one; remove the store first",
                name
            ));
        }
        let entry = inner.entries.remove(place)?;
        drop(inner);
        // Waits for readers of its files, who want the mutex.
        drop(entry);
        Ok(())
    }

    fn start(
        &self,
        store: Arc<dyn Store>,
        guard: Option<Arc<Guard>>,
        book: Arc<Book>,
    ) -> Result<Arc<Runner>> {
        Runner::start(
            store,
            guard,
            book,
            self.directory.clone(),
            self.table.clone(),
            &self.queue,
        )
    }

    /// Attaches `store` to the pool it was created for.
    #[inline(never)]
    fn attach(&self, store: Arc<dyn Store>) -> Result {
        let (name, member) = identity(&*store);
        let mut inner = self.inner.lock();
        let known = inner.entries.iter().find(|e| e.pool.name == name);
        let pool = match known.map(|e| e.pool.clone()) {
            Some(pool) if pool.member != member => {
                return Err(refuse!(
                    numbered(bindings::ESTALE),
                    "the store is member {} of pool {}, but this node joined it as member {}; leave the pool and join it as member {}",
                    member,
                    name,
                    pool.member,
                    member
                ));
            }
            Some(pool) => pool,
            None => self.add(&mut inner, name, member, true)?,
        };
        let of_it = |e: &&mut Entry| e.pool.name == name;
        if let Some(entry) = inner.entries.iter_mut().find(of_it) {
            entry.attaching += 1;
        }
        drop(inner);
        let result = pool.attach(self, store);
        if let Some(entry) = self.inner.lock().entries.iter_mut().find(of_it) {
            entry.attaching -= 1;
        }
        result.inspect_err(|_| self.forget(&name))
    }

    /// Takes the store of `name` away; waits for requests in it.
    #[inline(never)]
    fn detach(&self, name: &PoolName) {
        if let Some(pool) = self.find(name) {
            pool.detach();
            self.forget(name);
        }
    }

    /// Forgets a pool that came with its store, when it has none.
    fn forget(&self, name: &PoolName) {
        let mut inner = self.inner.lock();
        let gone = |e: &Entry| e.implied && e.pool.name == *name && !e.is_used();
        let place = inner.entries.iter().position(gone);
        let entry = place.and_then(|place| inner.entries.remove(place).ok());
        drop(inner);
        drop(entry);
    }

    /// A client's session is gone.
    pub(crate) fn disconnected(&self, session: &Arc<Session>) {
        let inner = self.inner.lock();
        for runner in inner.entries.iter().filter_map(|e| e.pool.runner()) {
            runner.disconnected(session);
        }
    }
}

/// For whom a store was made.
#[inline(never)]
fn identity(store: &dyn Store) -> (PoolName, MemberId) {
    let info = store.info();
    (info.pool_name, info.member)
}

/// Has a member that failed started again.
pub(crate) fn revive(name: PoolName) {
    let Ok(registry) = Registry::get() else {
        return;
    };
    let queue = registry.revivals.clone();
    let work = move || {
        if let Some(pool) = registry.find(&name) {
            pool.revive(&registry);
        }
    };
    if queue.spawn(work, GFP_KERNEL).is_err() {
        refuse!(
            (),
            "pool {}: out of memory; remove the store and add it again",
            name
        );
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
    let (name, _) = identity(&*store);
    Registry::get()?.attach(store)?;
    Ok(StoreHandle { name })
}

/// The member id under which this node joined the pool `name`, if it did.
#[inline(never)]
pub fn member_of(name: &PoolName) -> Option<MemberId> {
    Some(Registry::get().ok()?.find(name)?.member)
}

/// Refuses a store of pool `name` as `member` if this node joined the pool as another one; asked before anything is written to a device.
#[inline(never)]
pub fn check_member(command: &str, name: &PoolName, member: MemberId) -> Result {
    match Registry::get()?.find(name) {
        Some(pool) if pool.member != member => Err(refuse!(
            numbered(bindings::ESTALE),
            "{}: this node joined pool {} as member {}, not {}; give that member_id=, or leave the pool first",
            command,
            name,
            pool.member,
            member
        )),
        _ => Ok(()),
    }
}

impl StoreHandle {
    /// Whether a client has the pool open on this store.
    #[inline(never)]
    pub fn is_serving(&self) -> bool {
        let runner = Registry::get().and_then(|r| r.runner(&self.name).map_err(|_| ENOENT));
        runner.is_ok_and(|runner| runner.is_serving())
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
