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

mod members;
mod opening;
mod shown;

use super::driver::Driver;
use super::registry::Registry;
use super::session::Session;
use super::sysfs;
use crate::refuse;
use crate::secret::Secret;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_engine::client::Admin as Command;
use rmr_engine::client::OnNoData;
use rmr_engine::lane::Caps;
use rmr_engine::time::Nanos;
use rmr_engine::time::MILLISECOND;
use rmr_engine::window::WINDOW;
use rmr_proto::Epoch;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::MemberSet;
use rmr_proto::PoolName;
use rmr_proto::Progress;
use rmr_sys::sysfs::Dir;

/// Most requests in flight that a volume can be opened for: half of the window of sequence numbers, so that
/// one slow write does not stop the others at once.
pub const MAX_DEPTH: u32 = WINDOW as u32 / 2;

/// How long IO may wait for one member, by default, in ms.
const IO_TIMEOUT_MS: u64 = 20_000;

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
    /// One opens or closes it at a time; taken before `admin`.
    #[pin]
    changing: Mutex<()>,
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
                changing <- new_mutex!(()),
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

    // Settings.

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

    /// Takes the pool apart, after [`Self::close_down`]. Nobody can find it any more. Sleeps.
    pub(crate) fn dismantle(&self, registry: &Registry) {
        // Whoever waits to open the pool finds that it is gone.
        self.admin.lock().gone = true;
        let changing = self.changing.lock();
        if let Some(driver) = self.driver() {
            self.end(&driver);
        }
        drop(changing);
        let members = core::mem::take(&mut self.admin.lock().members);
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
