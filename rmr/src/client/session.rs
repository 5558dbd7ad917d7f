// SPDX-License-Identifier: GPL-2.0

//! A session to a storage node: an RTRS session that is opened again after it was closed, shared by all pools that use
//! the node.
//!
//! RTRS reconnects by itself. What is in flight when the connection is lost comes back with an error to whoever sent it.
//! A pool that must have everything back from a node that does not answer closes the RTRS session, for all of them; a
//! worker does that, and opens another one, again and again, as both take their time. It does so as well with a session
//! that stays without a connection.
//!
//! Everybody who [watches](Session::watch) hears of each change, after everything that was sent has come back.

use super::access::Access;
use crate::malformed;
use crate::refuse;
use crate::refuse::numbered;
use crate::refuse::text;
use kernel::bindings;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_engine::options::Value;
use rmr_sys::gate::Entered;
use rmr_sys::gate::Gate;
use rmr_sys::noio::without_io;
use rmr_sys::rand;
use rmr_sys::sysfs::Writer;
use rmr_sys::time::sleep_ms;
use rmr_sys::work::Again;
use rmr_sys::work::Job;
use rmr_sys::work::Queue;
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

/// Pause before a session that was closed is opened again, in ms; doubles up to the longest.
const FIRST_PAUSE_MS: u32 = 100;
const LONGEST_PAUSE_MS: u32 = 5_000;

/// How often it is looked whether a session is connected, in ms, and how often in a row it is not until it is opened anew.
/// RTRS connects again by itself, but not after its RDMA device was gone.
const LOOK_MS: u32 = 5_000;
const LOOKS: u32 = 3;

/// Pauses before a session is tried again whose first connection a node refuses, in ms.
const REFUSED_PAUSES_MS: [u32; 3] = [200, 400, 800];

/// Most paths of a session.
pub(crate) const MAX_PATHS: usize = 8;

/// Longest name. RTRS allows 254 bytes; names are file names in sysfs.
pub(crate) const MAX_NAME: usize = 63;

/// Bytes of the longest path as text.
const PATH_TEXT: usize = 160;

/// Whether a session must be connected before somebody gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Connected,
    /// It connects in the background.
    No,
}

/// Knows whether the session is connected.
#[pin_data]
pub(crate) struct Link {
    name: CString,
    up: Atomic<bool>,
    /// Never held while waiting for RTRS, which calls [`LinkHandler::link`].
    #[pin]
    watchers: Mutex<KVec<Arc<Access>>>,
}

impl Link {
    fn tell(&self, up: bool) {
        let watchers = self.watchers.lock();
        self.up.store(up, Relaxed);
        for watcher in watchers.iter() {
            watcher.link(up);
        }
    }
}

impl Link {
    /// Tells that there is a connection, unless it was lost meanwhile.
    fn tell_up(&self) {
        let watchers = self.watchers.lock();
        if self.up.load(Relaxed) {
            for watcher in watchers.iter() {
                watcher.link(true);
            }
        }
    }
}

impl LinkHandler for Link {
    fn link(&self, event: LinkEvent) {
        let up = matches!(event, LinkEvent::Reconnected);
        if self.up.load(Relaxed) != up {
            if up {
                pr_info!("session {}: connected again\n", &*self.name);
            } else {
                pr_warn!("session {}: connection lost\n", &*self.name);
            }
        }
        self.tell(up);
    }
}

/// An RTRS session that is open at this moment.
pub(crate) type Open = Entered<rtrs::Session<Link>>;

/// A session; see the head of the file.
pub(crate) struct Session {
    link: Arc<Link>,
    /// Its name for RTRS: no node has seen it in an earlier run of this host, nor from another host. A node knows the
    /// session of a client that died for half a minute, and refuses another one of that name.
    rtrs_name: CString,
    paths: KVec<PathAddr>,
    rtrs: Gate<rtrs::Session<Link>>,
    /// Closes and opens; retired when nobody uses the session any more.
    job: Gate<Job<Session>>,
    /// It is to be closed.
    close: Atomic<bool>,
    /// It is to stay open.
    wanted: Atomic<bool>,
    pause_ms: Atomic<u32>,
    /// How often it was seen not connected.
    lost: Atomic<u32>,
}

impl Session {
    /// Connects to the node at `paths`. Sleeps, up to 30 s if the node does not answer and it is to be waited for. `queue` is
    /// where it is closed and opened again: one whose workers may take long.
    pub(crate) fn open(
        name: &CStr,
        paths: KVec<PathAddr>,
        queue: &Arc<Queue>,
        wait: Wait,
    ) -> Result<Arc<Self>> {
        let name = CString::try_from(name)?;
        let link = Arc::pin_init(
            pin_init!(Link {
                name,
                up: Atomic::new(false),
                watchers <- new_mutex!(KVec::new()),
            }),
            GFP_KERNEL,
        )?;
        let salt = rand::u64() as u32;
        let session = Arc::new(
            Self {
                rtrs_name: CString::try_from_fmt(fmt!("{}-{salt:08x}", text(&link.name)))?,
                link,
                paths,
                rtrs: Gate::new(),
                job: Gate::new(),
                close: Atomic::new(false),
                wanted: Atomic::new(true),
                pause_ms: Atomic::new(FIRST_PAUSE_MS),
                lost: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;
        if wait == Wait::Connected {
            session.connect_at_once()?;
        }
        let job = Job::new(queue, session.clone(), Self::work)?;
        session.job.publish(job)?;
        if let Some(job) = session.job.enter() {
            job.queue();
        }
        Ok(session)
    }

    /// Connects, for somebody who waits. A node that knows connections of this host from before a power cut refuses new ones
    /// that look like them, closes the old ones, and is tried again; a node where nobody listens refuses in the same way.
    fn connect_at_once(&self) -> Result {
        for pause_ms in REFUSED_PAUSES_MS {
            match self.connect() {
                // The kernel crate of 7.2 has no name for it.
                Err(error) if error.to_errno() == -(bindings::ECONNRESET as i32) => {
                    sleep_ms(pause_ms);
                }
                result => return result,
            }
        }
        self.connect()
    }

    fn connect(&self) -> Result {
        let config = SessionConfig {
            name: &self.rtrs_name,
            paths: &self.paths,
            port: PORT,
            reconnect_delay_s: RECONNECT_DELAY_S,
            max_reconnect: RECONNECT_ATTEMPTS,
        };
        // It may be lost again before `open` returns.
        self.link.up.store(true, Relaxed);
        let opened = rtrs::Session::open(&config, self.link.clone());
        self.rtrs
            .publish(opened.inspect_err(|_| self.link.up.store(false, Relaxed))?)
    }

    /// Closes it for good; nobody uses it any more. Sleeps, until an attempt to open it is over.
    pub(crate) fn end(&self) {
        self.wanted.store(false, Relaxed);
        drop(self.job.retire());
        self.disconnect();
    }

    fn disconnect(&self) {
        if let Some(rtrs) = self.rtrs.retire_begin() {
            self.link.up.store(false, Relaxed);
            // First everything comes back, so that nobody stays inside. Who watches hears then; RTRS goes on to wait, up to 30 s
            // for a node that is dead.
            rtrs.close();
            drop(rtrs.wait());
        }
    }

    /// Lets the RTRS session be closed; everything that is in flight comes back, then it is opened again. Any context.
    pub(crate) fn close(&self) {
        self.close.store(true, Relaxed);
        if let Some(job) = self.job.enter() {
            job.rearm(0);
        }
    }

    /// The worker.
    fn work(this: &Arc<Self>) -> Again {
        if this.close.xchg(false, Full) {
            this.disconnect();
            this.link.tell(false);
            return Again::After(this.pause_ms.load(Relaxed));
        }
        if !this.wanted.load(Relaxed) {
            return Again::No;
        }
        if this.rtrs.is_open() {
            return this.look();
        }
        match this.connect() {
            Ok(()) => {
                this.pause_ms.store(FIRST_PAUSE_MS, Relaxed);
                pr_info!("session {}: open again\n", &*this.link.name);
                this.link.tell_up();
                Again::After(LOOK_MS)
            }
            Err(_) => {
                let pause = this.pause_ms.load(Relaxed);
                this.pause_ms
                    .store(pause.saturating_mul(2).min(LONGEST_PAUSE_MS), Relaxed);
                Again::After(pause)
            }
        }
    }

    /// Closes it if RTRS does not get it connected again.
    fn look(&self) -> Again {
        let lost = if self.is_connected() {
            0
        } else {
            self.lost.load(Relaxed) + 1
        };
        self.lost.store(lost % LOOKS, Relaxed);
        if lost < LOOKS {
            return Again::After(LOOK_MS);
        }
        self.disconnect();
        Again::After(self.pause_ms.load(Relaxed))
    }

    /// Lets `access` know of each change of the connection, and of how it is. Sleeps.
    pub(crate) fn watch(&self, access: &Arc<Access>) -> Result {
        let mut watchers = self.link.watchers.lock();
        // Whoever tells of a lost connection waits for the mutex, and IO for them.
        without_io(|| watchers.push(access.clone(), GFP_KERNEL))?;
        if self.is_connected() {
            access.link(true);
        }
        Ok(())
    }

    /// Ends what [`Self::watch`] began. Sleeps.
    pub(crate) fn unwatch(&self, access: &Access) {
        let mut watchers = self.link.watchers.lock();
        watchers.retain(|watcher| !core::ptr::eq(&**watcher, access));
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
        self.rtrs.is_open() && self.link.up.load(Relaxed)
    }

    /// The RTRS session, if it is open. What holds on to it is in the way of closing it. Any context.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Open> {
        self.rtrs.enter()
    }

    /// What the node's RTRS server allows. `ENOTCONN` while not connected.
    pub(crate) fn attrs(&self) -> Result<Attrs> {
        self.enter().ok_or_else(not_connected)?.query()
    }

    /// Writes where its paths lead, separated by blanks, as other hosts can use it; `None` if they cannot, or it does not fit.
    pub(crate) fn destinations<'a>(&self, buf: &'a mut [u8]) -> Option<&'a str> {
        let mut len = 0;
        for path in &self.paths {
            let mut one = [0; PATH_TEXT];
            let Some(text) = path.destination(&mut one) else {
                continue;
            };
            let gap = usize::from(len != 0);
            let place = buf.get_mut(len..len + gap + text.len())?;
            let (blank, place) = place.split_at_mut(gap);
            blank.fill(b' ');
            place.copy_from_slice(text);
            len += gap + text.len();
        }
        let text = buf.get(..len).filter(|text| !text.is_empty())?;
        core::str::from_utf8(text).ok()
    }

    /// Sends a control message and waits for its reply, at most `ms` milliseconds. Sleeps.
    pub(crate) fn call_within(
        &self,
        ms: u32,
        header: &[u8],
        reply: &mut [u8],
    ) -> Result<(), CallError> {
        let open = self.enter().ok_or_else(not_connected)?;
        open.call(header, reply, ms)
    }

    /// A permit to send one message, if one is free and there is a connection. Any context but hard interrupts.
    pub(crate) fn permit(&self) -> Option<Permit> {
        self.enter()?.permit()
    }

    /// Sends a message, see [`rtrs::Session::send`].
    pub(crate) fn send<C: Confirm>(
        &self,
        permit: Permit,
        message: KBox<Message<C>>,
        dir: Dir,
        header: &[u8],
    ) -> Result<(), SendError<C>> {
        match self.enter() {
            Some(open) => open.send(permit, message, dir, header),
            None => Err(SendError {
                message,
                permit,
                error: not_connected(),
            }),
        }
    }

    /// One word: `connected`, `disconnected` (RTRS connects again) or `connecting` (it is being opened).
    pub(crate) fn state(&self) -> &'static str {
        match (self.rtrs.is_open(), self.link.up.load(Relaxed)) {
            (true, true) => "connected",
            (true, false) => "disconnected",
            (false, _) => "connecting",
        }
    }
}

fn not_connected() -> Error {
    numbered(bindings::ENOTCONN)
}

/// The addresses of `path=` words of a command; why they are refused is in the log.
pub(crate) fn parse_paths<'a>(
    command: &str,
    values: impl Iterator<Item = Value<'a>>,
) -> Result<KVec<PathAddr>> {
    let mut paths = KVec::new();
    for value in values {
        let text = value.text().map_err(malformed!(command))?;
        let path = PathAddr::parse(text, PORT).map_err(|error| {
            refuse!(
                error,
                "{}: path={} is not an address; write ip:<v4>, ip:<v6> or gid:<gid>, with [<src>,] before if needed",
                command,
                text
            )
        })?;
        if paths.len() == MAX_PATHS {
            return Err(refuse!(E2BIG, "{}: more than {} paths", command, MAX_PATHS));
        }
        paths.push(path, GFP_KERNEL)?;
    }
    Ok(paths)
}

/// The name of a session, which is that of a directory in sysfs as well.
pub(crate) fn file_name(command: &str, name: &str) -> Result<CString> {
    if name.contains(['/', '.']) {
        return Err(refuse!(
            EINVAL,
            "{}: sessname={} has a slash or a dot; choose a name without",
            command,
            name
        ));
    }
    CString::try_from_fmt(fmt!("{name}"))
}

/// A name for a session that nobody named: the first address, with a dash for all that is neither letter nor digit.
pub(crate) fn name_of(paths: &[PathAddr]) -> Result<CString> {
    let mut buf = [0; PATH_TEXT];
    let text = paths.first().ok_or(EINVAL)?.text(&mut buf);
    // The destination is behind the source, if that is said.
    let from = text.iter().rposition(|b| matches!(b, b'@' | b','));
    let text = &text[from.map_or(0, |at| at + 1)..];
    let mut name = [0; MAX_NAME];
    let name = &mut name[..text.len().min(MAX_NAME)];
    for (to, from) in name.iter_mut().zip(text) {
        *to = if from.is_ascii_alphanumeric() {
            *from
        } else {
            b'-'
        };
    }
    let name = core::str::from_utf8(name).map_err(|_| EINVAL)?;
    CString::try_from_fmt(fmt!("{name}"))
}
