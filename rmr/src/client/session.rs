// SPDX-License-Identifier: GPL-2.0

//! A session to a storage node: one RTRS session, shared by all pools that use the node.
//!
//! RTRS reconnects by itself. What is in flight when a session is lost comes back with an error to whoever
//! sent it; nothing is kept here.

use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use rmr_sys::sysfs::Writer;
use rtrs::Attrs;
use rtrs::CallError;
use rtrs::Confirm;
use rtrs::Dir;
use rtrs::LinkEvent;
use rtrs::LinkHandler;
use rtrs::Message;
use rtrs::PathAddr;
use rtrs::Permit;
use rtrs::SendError;
use rtrs::SessionConfig;

/// The port that nodes listen on, as in the C project.
pub(crate) const PORT: u16 = 1234;

/// Seconds until RTRS tries again to connect; it adds up to a second and some jitter.
const RECONNECT_DELAY_S: u8 = 1;
/// RTRS tries for ever.
const RECONNECT_ATTEMPTS: i16 = -1;

/// Longest name. RTRS allows 254 bytes; names are file names in sysfs.
pub(crate) const MAX_NAME: usize = 63;

/// Bytes of the longest path as text.
const PATH_TEXT: usize = 160;

/// Knows whether the session is connected.
struct Link {
    name: CString,
    up: Atomic<bool>,
}

impl LinkHandler for Link {
    fn link(&self, event: LinkEvent) {
        let up = matches!(event, LinkEvent::Reconnected);
        if self.up.xchg(up, Relaxed) == up {
            return;
        }
        if up {
            pr_info!("session {}: connected again\n", &*self.name);
        } else {
            pr_warn!(
                "session {}: connection lost; requests wait until it is back or io_timeout is over\n",
                &*self.name
            );
        }
    }
}

/// An open session.
pub(crate) struct Session {
    link: Arc<Link>,
    paths: KVec<PathAddr>,
    rtrs: rtrs::Session<Link>,
}

impl Session {
    /// Connects to the node at `paths`. Sleeps, up to 30 s if the node does not answer.
    pub(crate) fn open(name: &CStr, paths: KVec<PathAddr>) -> Result<Self> {
        let link = Arc::new(
            Link {
                name: name.try_into()?,
                up: Atomic::new(true),
            },
            GFP_KERNEL,
        )?;
        let config = SessionConfig {
            name,
            paths: &paths,
            port: PORT,
            reconnect_delay_s: RECONNECT_DELAY_S,
            max_reconnect: RECONNECT_ATTEMPTS,
        };
        let rtrs = rtrs::Session::open(&config, link.clone())?;
        Ok(Self { link, paths, rtrs })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &CStr {
        &self.link.name
    }

    /// Whether these are its paths.
    pub(crate) fn has_paths(&self, paths: &[PathAddr]) -> bool {
        let mut ours = [0; PATH_TEXT];
        let mut theirs = [0; PATH_TEXT];
        self.paths.len() == paths.len()
            && self
                .paths
                .iter()
                .zip(paths)
                .all(|(a, b)| a.text(&mut ours) == b.text(&mut theirs))
    }

    /// Writes its paths, one per line.
    pub(crate) fn write_paths(&self, w: &mut Writer<'_>) -> Result {
        let mut buf = [0; PATH_TEXT];
        for path in &self.paths {
            let text = core::str::from_utf8(path.text(&mut buf)).unwrap_or("?");
            writeln!(w, "{text}")?;
        }
        Ok(())
    }

    /// Whether a path to the node is up.
    pub(crate) fn is_connected(&self) -> bool {
        self.link.up.load(Relaxed)
    }

    /// What the node's RTRS server allows. `ENOTCONN` while not connected.
    pub(crate) fn attrs(&self) -> Result<Attrs> {
        self.rtrs.query()
    }

    /// Breaks the session; everything sent comes back.
    pub(crate) fn close(&self) {
        self.rtrs.close();
    }

    /// A permit to send one message, if one is free. Any context but hard interrupts.
    pub(crate) fn permit(&self) -> Option<Permit> {
        self.rtrs.permit()
    }

    /// Sends a message, see [`rtrs::Session::send`].
    pub(crate) fn send<C: Confirm>(
        &self,
        permit: Permit,
        message: KBox<Message<C>>,
        dir: Dir,
        header: &[u8],
    ) -> Result<(), SendError<C>> {
        self.rtrs.send(permit, message, dir, header)
    }

    /// Sends a control message and waits for its reply. Sleeps.
    pub(crate) fn call(&self, header: &[u8], reply: &mut [u8]) -> Result<(), CallError> {
        self.rtrs.call(header, reply, super::control::TIMEOUT_MS)
    }
}
