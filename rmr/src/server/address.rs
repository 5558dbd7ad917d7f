// SPDX-License-Identifier: GPL-2.0

//! Where the other members of a pool are: a session to the node of each, by which this one catches up.
//!
//! The client says so, when it is connected: the addresses that it uses itself. If nodes reach each other by others, the
//! administrator says so instead (`add_peer`), before or after the pool has a store here. Sessions are shared with other pools,
//! and are made again by themselves. What is sent over them is [`peer`](super::peer)'s.

use super::sysfs;
use crate::client::access::Access;
use crate::client::registry::Registry;
use crate::client::session;
use crate::client::session::Session;
use crate::client::session::Wait;
use crate::client::session::PORT;
use crate::refuse;
use crate::secret::Secret;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_proto::MemberId;
use rmr_proto::PoolName;
use rmr_sys::gate::Gate;
use rmr_sys::noio::without_io;
use rmr_sys::pr_warn_limited;
use rmr_sys::sysfs::Dir;
use rmr_sys::work::Again;
use rmr_sys::work::Job;
use rmr_sys::work::Queue;
use rtrs::PathAddr;

/// Another member, as its files show it.
pub(crate) struct Node {
    pub(crate) member: MemberId,
    pub(crate) session: Arc<Session>,
    /// Whether the session may be used.
    pub(crate) access: Arc<Access>,
    /// The administrator said so.
    pub(crate) fixed: bool,
    book: Arc<Book>,
}

impl Node {
    /// One word for the connection: that of the session, or `unauthenticated`.
    pub(crate) fn state(&self) -> &'static str {
        if self.access.is_shut() {
            "unauthenticated"
        } else {
            self.session.state()
        }
    }

    /// Takes it out of the book.
    pub(crate) fn remove(&self) -> Result {
        self.book.remove(self.member)
    }
}

struct Entry {
    node: Arc<Node>,
    dir: Dir<Node>,
}

struct Inner {
    /// Where directories of nodes go; `None` once the pool was left.
    parent: Option<Dir<()>>,
    /// What the other members have to know.
    secret: Option<Arc<Secret>>,
    entries: KVec<Entry>,
}

/// What a client said of a member, and nobody has looked at yet.
struct Told {
    member: MemberId,
    text: KVec<u8>,
}

/// The nodes of one pool's other members.
#[pin_data]
pub(crate) struct Book {
    pool: PoolName,
    /// The member of this node.
    own: MemberId,
    #[pin]
    inner: Mutex<Inner>,
    #[pin]
    told: Mutex<KVec<Told>>,
    /// Makes sessions to where clients say that nodes are.
    job: Gate<Job<Book>>,
}

impl Book {
    /// An empty book, for the member `own` of a pool. What clients say is done on `queue`, where that may take long. Sleeps.
    pub(crate) fn new(pool: PoolName, own: MemberId, queue: &Arc<Queue>) -> Result<Arc<Self>> {
        let book = Arc::pin_init(
            pin_init!(Self {
                pool,
                own,
                inner <- new_mutex!(Inner { parent: None, secret: None, entries: KVec::new() }),
                told <- new_mutex!(KVec::new()),
                job: Gate::new(),
            }),
            GFP_KERNEL,
        )?;
        book.job
            .publish(Job::new(queue, book.clone(), Self::work)?)?;
        Ok(book)
    }

    /// Directories of nodes go to `parent`.
    pub(crate) fn open(&self, parent: Dir<()>) {
        self.inner.lock().parent = Some(parent);
    }

    /// Notes that a member is reached over `session`, which this gives back to the registry at the end, by order of the
    /// administrator. What a client said of the member does not count any more. Sleeps.
    pub(crate) fn add(self: &Arc<Self>, member: MemberId, session: Arc<Session>) -> Result {
        if self.node(member).is_some_and(|node| !node.fixed) {
            let _ = self.remove(member);
        }
        self.insert(member, session, true)
    }

    /// Members that IO waits for want the mutex, too: so nothing here waits for writeback.
    fn insert(self: &Arc<Self>, member: MemberId, session: Arc<Session>, fixed: bool) -> Result {
        without_io(|| self.insert_entry(member, session, fixed))
    }

    fn insert_entry(
        self: &Arc<Self>,
        member: MemberId,
        session: Arc<Session>,
        fixed: bool,
    ) -> Result {
        let mut inner = self.inner.lock();
        if inner.entries.iter().any(|e| e.node.member == member) {
            return Err(refuse!(
                EEXIST,
                "add_peer: pool {}: the address of member {} is known; write 1 to del_peer in its directory first",
                self.pool,
                member
            ));
        }
        inner.entries.reserve(1, GFP_KERNEL)?;
        let parent = inner.parent.as_ref().ok_or(ENOENT)?;
        let access = Access::of_peer(&session, self.pool, member, inner.secret.clone())?;
        let made = access.watch().and_then(|()| {
            let node = Arc::new(
                Node {
                    member,
                    session,
                    access: access.clone(),
                    fixed,
                    book: self.clone(),
                },
                GFP_KERNEL,
            )?;
            let name = CString::try_from_fmt(fmt!("{}", member.get()))?;
            let dir = Dir::in_dir(parent, &name, node.clone(), &sysfs::PEER)?;
            Ok(Entry { node, dir })
        });
        let entry = made.inspect_err(|_| access.end())?;
        inner.entries.push(entry, GFP_KERNEL)?;
        Ok(())
    }

    /// From now on the other members have to know a secret, or none. What clients said of them before counts no more: anybody could.
    /// Sleeps.
    pub(crate) fn require(&self, secret: Option<&Arc<Secret>>) {
        let mut inner = self.inner.lock();
        inner.secret = secret.cloned();
        for entry in &inner.entries {
            entry.node.access.require(secret.cloned());
        }
        drop(inner);
        if secret.is_none() {
            return;
        }
        self.told.lock().clear();
        while let Some(entry) = self.take_told() {
            put(entry);
        }
    }

    /// Takes a member out of the book of which the administrator said nothing.
    fn take_told(&self) -> Option<Entry> {
        let mut inner = self.inner.lock();
        let place = inner.entries.iter().position(|e| !e.node.fixed)?;
        inner.entries.remove(place).ok()
    }

    /// A member says that nothing was proved to it. Sleeps.
    pub(crate) fn again(&self, member: MemberId) {
        if let Some(node) = self.node(member) {
            node.access.required();
            node.access.renew();
        }
    }

    /// A client said where a member is. What it says is looked at by a job; the newest counts. May sleep.
    pub(crate) fn told(&self, member: MemberId, text: &str) -> Result {
        if member == self.own {
            return Err(EINVAL);
        }
        let mut copy = KVec::with_capacity(text.len(), GFP_KERNEL)?;
        copy.extend_from_slice(text.as_bytes(), GFP_KERNEL)?;
        let mut told = self.told.lock();
        match told.iter_mut().find(|other| other.member == member) {
            Some(other) => other.text = copy,
            // One for each member, at most.
            None => told.push(Told { member, text: copy }, GFP_KERNEL)?,
        }
        drop(told);
        if let Some(job) = self.job.enter() {
            job.queue();
        }
        Ok(())
    }

    /// The job.
    fn work(this: &Arc<Self>) -> Again {
        let told = core::mem::take(&mut *this.told.lock());
        for Told { member, text } in told {
            if let Err(error) = this.settle(member, &text) {
                pr_warn_limited!(
                    "pool {}: the address of member {} that a client told cannot be used: {:?}\n",
                    core::format_args!("{}", this.pool),
                    member.get(),
                    error
                );
            }
        }
        Again::No
    }

    fn settle(self: &Arc<Self>, member: MemberId, text: &[u8]) -> Result {
        let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
        let mut paths = KVec::new();
        for word in text.split_ascii_whitespace().take(session::MAX_PATHS) {
            paths.push(PathAddr::parse(word, PORT)?, GFP_KERNEL)?;
        }
        if let Some(node) = self.node(member) {
            if node.fixed || node.session.has_paths(&paths) {
                return Ok(());
            }
            // It is somewhere else now.
            self.remove(member)?;
        }
        let registry = Registry::get()?;
        let session = registry.get_session(&session::name_of(&paths)?, paths, Wait::No)?;
        self.insert(member, session.clone(), false)
            .inspect_err(|_| registry.put_session(session))
    }

    fn remove(&self, member: MemberId) -> Result {
        let mut inner = self.inner.lock();
        let place = inner.entries.iter().position(|e| e.node.member == member);
        let entry = inner.entries.remove(place.ok_or(ENOENT)?)?;
        drop(inner);
        put(entry);
        Ok(())
    }

    /// Forgets everything, for good. Sleeps.
    pub(crate) fn close(&self) {
        drop(self.job.retire());
        let mut inner = self.inner.lock();
        let entries = core::mem::take(&mut inner.entries);
        let parent = inner.parent.take();
        drop(inner);
        for entry in entries {
            put(entry);
        }
        drop(parent);
    }

    fn node(&self, member: MemberId) -> Option<Arc<Node>> {
        let inner = self.inner.lock();
        let entry = inner.entries.iter().find(|e| e.node.member == member)?;
        Some(entry.node.clone())
    }

    /// The session to the node of a member.
    pub(crate) fn session(&self, member: MemberId) -> Option<Arc<Session>> {
        Some(self.node(member)?.session.clone())
    }

    /// The same, if it may be used.
    pub(crate) fn open_session(&self, member: MemberId) -> Option<Arc<Session>> {
        let node = self.node(member)?;
        node.access.is_open().then(|| node.session.clone())
    }

    /// Whether it is known where a member is.
    pub(crate) fn knows(&self, member: MemberId) -> bool {
        self.session(member).is_some()
    }
}

/// Waits for readers of the files, then gives the session back.
fn put(entry: Entry) {
    let session = entry.node.session.clone();
    entry.node.access.end();
    drop(entry.dir);
    drop(entry.node);
    if let Ok(registry) = Registry::get() {
        registry.put_session(session);
    }
}
