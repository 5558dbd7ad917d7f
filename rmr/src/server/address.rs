// SPDX-License-Identifier: GPL-2.0

//! Where the other members of a pool are: a session to the node of each, by which this one catches up.
//!
//! The administrator says so once (`add_peer`), before or after the pool has a store here. Sessions are shared with other
//! pools, and are made again by themselves. What is sent over them is [`peer`](super::peer)'s.

use super::sysfs;
use crate::client::registry::Registry;
use crate::client::session::Session;
use crate::refuse;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_proto::MemberId;
use rmr_proto::PoolName;
use rmr_sys::sysfs::Dir;

/// Another member, as its files show it.
pub(crate) struct Node {
    pub(crate) member: MemberId,
    pub(crate) session: Arc<Session>,
    book: Arc<Book>,
}

impl Node {
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
    entries: KVec<Entry>,
}

/// The nodes of one pool's other members.
#[pin_data]
pub(crate) struct Book {
    #[pin]
    inner: Mutex<Inner>,
}

impl Book {
    /// An empty book. Sleeps.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                inner <- new_mutex!(Inner { parent: None, entries: KVec::new() }),
            }),
            GFP_KERNEL,
        )
    }

    /// Directories of nodes go to `parent`.
    pub(crate) fn open(&self, parent: Dir<()>) {
        self.inner.lock().parent = Some(parent);
    }

    /// Notes that a member is reached over `session`, which this gives back to the registry at the end.
    pub(crate) fn add(
        self: &Arc<Self>,
        pool: &PoolName,
        member: MemberId,
        session: Arc<Session>,
    ) -> Result {
        let mut inner = self.inner.lock();
        if inner.entries.iter().any(|e| e.node.member == member) {
            return Err(refuse!(
                EEXIST,
                "add_peer: pool {}: the address of member {} is known; write 1 to del_peer in its directory first",
                pool,
                member
            ));
        }
        inner.entries.reserve(1, GFP_KERNEL)?;
        let parent = inner.parent.as_ref().ok_or(ENOENT)?;
        let node = Arc::new(
            Node {
                member,
                session,
                book: self.clone(),
            },
            GFP_KERNEL,
        )?;
        let name = CString::try_from_fmt(fmt!("{}", member.get()))?;
        let dir = Dir::in_dir(parent, &name, node.clone(), &sysfs::PEER)?;
        inner.entries.push(Entry { node, dir }, GFP_KERNEL)?;
        Ok(())
    }

    fn remove(&self, member: MemberId) -> Result {
        let mut inner = self.inner.lock();
        let place = inner.entries.iter().position(|e| e.node.member == member);
        let entry = inner.entries.remove(place.ok_or(ENOENT)?)?;
        drop(inner);
        put(entry);
        Ok(())
    }

    /// Forgets everything. Sleeps.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        let entries = core::mem::take(&mut inner.entries);
        let parent = inner.parent.take();
        drop(inner);
        for entry in entries {
            put(entry);
        }
        drop(parent);
    }

    /// The session to the node of a member.
    pub(crate) fn session(&self, member: MemberId) -> Option<Arc<Session>> {
        let inner = self.inner.lock();
        let entry = inner.entries.iter().find(|e| e.node.member == member)?;
        Some(entry.node.session.clone())
    }

    /// Whether it is known where a member is.
    pub(crate) fn knows(&self, member: MemberId) -> bool {
        self.session(member).is_some()
    }
}

/// Waits for readers of the files, then gives the session back.
fn put(entry: Entry) {
    let session = entry.node.session.clone();
    drop(entry.dir);
    drop(entry.node);
    if let Ok(registry) = Registry::get() {
        registry.put_session(session);
    }
}
