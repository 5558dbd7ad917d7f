// SPDX-License-Identifier: GPL-2.0

//! All pools and sessions of this host, as a client.
//!
//! The registry's lock is held while a session is opened or closed, so that a name means one session; it is
//! never taken on the data path.

use super::pool::Joining;
use super::pool::Pool;
use super::session::Session;
use super::session::Wait;
use super::sysfs;
use crate::refuse;
use crate::refuse::text;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_proto::PoolName;
use rmr_sys::global::Global;
use rmr_sys::sysfs::Dir;
use rmr_sys::tree;
use rmr_sys::work::Queue;
use rtrs::PathAddr;

/// The registry, while the module is loaded.
static REGISTRY: Global<Registry> = Global::new();

/// A session and who uses it.
struct Shared {
    session: Arc<Session>,
    /// Members, of any pool, that are reached through it.
    users: u32,
    _dir: Dir<Session>,
}

struct Inner {
    pools: KVec<Arc<Pool>>,
    sessions: KVec<Shared>,
}

/// See the head of the file.
#[pin_data]
pub(crate) struct Registry {
    pools_dir: Dir<()>,
    sessions_dir: Dir<()>,
    /// Where coordinators run.
    pub(crate) queue: Arc<Queue>,
    /// Where sessions are closed and opened, and changes are told.
    pub(crate) slow: Arc<Queue>,
    #[pin]
    inner: Mutex<Inner>,
}

impl tree::Registry for Registry {
    fn global() -> &'static Global<Self> {
        &REGISTRY
    }

    /// Leaves all pools, which closes their sessions, and closes those of others.
    fn stop(&self) {
        loop {
            let pool = self.inner.lock().pools.pop();
            match pool {
                Some(pool) => pool.dismantle(self),
                None => break,
            }
        }
        // A session that stayed open would outlive the module.
        let sessions = core::mem::take(&mut self.inner.lock().sessions);
        for shared in &sessions {
            shared.session.end();
        }
    }
}

impl Registry {
    /// An empty registry. `pools_dir` and `sessions_dir` are where their directories go.
    pub(crate) fn new(pools_dir: Dir<()>, sessions_dir: Dir<()>) -> Result<Arc<Self>> {
        let queue = Queue::new(
            c"rmr-client",
            rmr_sys::work::Flags::UNBOUND | rmr_sys::work::Flags::MEM_RECLAIM,
        )?;
        Arc::pin_init(
            pin_init!(Self {
                pools_dir,
                sessions_dir,
                queue,
                slow: Queue::new(c"rmr-session", rmr_sys::work::Flags::UNBOUND)?,
                inner <- new_mutex!(Inner {
                    pools: KVec::new(),
                    sessions: KVec::new(),
                }),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// The registry. `ENODEV` while the module is being unloaded.
    pub(crate) fn get() -> Result<Arc<Self>> {
        REGISTRY.get().ok_or(ENODEV)
    }

    /// The pool `name`.
    pub(crate) fn find(&self, name: &PoolName) -> Option<Arc<Pool>> {
        let inner = self.inner.lock();
        inner.pools.iter().find(|p| p.name == *name).cloned()
    }

    /// Creates the pool `name`. `EEXIST` if there is one.
    pub(crate) fn join(&self, name: PoolName, joining: &Joining) -> Result {
        let mut inner = self.inner.lock();
        if inner.pools.iter().any(|p| p.name == name) {
            return Err(refuse!(
                EEXIST,
                "join_pool: pool {} has been joined already; leave it first or use it",
                name
            ));
        }
        inner.pools.reserve(1, GFP_KERNEL)?;
        let pool = Pool::new(name, joining, &self.pools_dir)?;
        inner.pools.push(pool, GFP_KERNEL)?;
        Ok(())
    }

    /// Forgets `pool` and takes it apart. `EBUSY` while it has a volume.
    pub(crate) fn leave(&self, pool: &Arc<Pool>) -> Result {
        pool.close_down()?;
        let mut inner = self.inner.lock();
        let place = inner.pools.iter().position(|p| Arc::ptr_eq(p, pool));
        if let Some(place) = place {
            let _ = inner.pools.remove(place);
        }
        drop(inner);
        pool.dismantle(self);
        Ok(())
    }

    /// The session `name`, opened if there is none. `paths` may be empty if there is one. One that is to be connected is
    /// waited for only if it is new.
    ///
    /// Every session that was got must be [put back](Self::put_session).
    pub(crate) fn get_session(
        &self,
        name: &CStr,
        paths: KVec<PathAddr>,
        wait: Wait,
    ) -> Result<Arc<Session>> {
        let mut inner = self.inner.lock();
        if let Some(shared) = inner.sessions.iter_mut().find(|s| s.session.name() == name) {
            if !paths.is_empty() && !shared.session.has_paths(&paths) {
                return Err(refuse!(
                    EEXIST,
                    "session {} exists with other paths; leave path= out or choose another sessname=",
                    text(name)
                ));
            }
            shared.users += 1;
            return Ok(shared.session.clone());
        }
        if paths.is_empty() {
            return Err(refuse!(
                ENOENT,
                "there is no session {} yet; say path= to open it",
                text(name)
            ));
        }
        inner.sessions.reserve(1, GFP_KERNEL)?;
        let session = Session::open(name, paths, &self.slow, wait).map_err(|error| {
            // What was written is not to be written again by itself.
            let error = if error == ERESTARTSYS { EINTR } else { error };
            let advice = if error == ENODEV {
                "there is no RDMA device for this address; load its driver, or make one with `rdma link add`"
            } else {
                "check that the node is up, that it has joined a pool, and the network"
            };
            refuse!(
                error,
                "session {} cannot be opened ({:?}): {}",
                text(name),
                error,
                advice
            )
        })?;
        let dir = Dir::in_dir(&self.sessions_dir, name, session.clone(), &sysfs::SESSION);
        // Its job holds it: it does not end by itself.
        let dir = dir.inspect_err(|_| session.end())?;
        inner.sessions.push(
            Shared {
                session: session.clone(),
                users: 1,
                _dir: dir,
            },
            GFP_KERNEL,
        )?;
        Ok(session)
    }

    /// Gives a session back; the last one closes it. Sleeps.
    pub(crate) fn put_session(&self, session: Arc<Session>) {
        let mut inner = self.inner.lock();
        let place = inner
            .sessions
            .iter()
            .position(|s| Arc::ptr_eq(&s.session, &session));
        let last = place.and_then(|place| {
            let shared = inner.sessions.get_mut(place)?;
            shared.users -= 1;
            (shared.users == 0).then_some(place)
        });
        if let Some(place) = last {
            session.end();
            // Closed under the lock, so that whoever wants the name next opens it anew, not half-closed.
            let _ = inner.sessions.remove(place);
        }
    }
}
