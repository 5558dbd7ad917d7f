// SPDX-License-Identifier: GPL-2.0

//! The client: a session with a server, permits, sending and confirmation.

use crate::addr::PathAddr;
use crate::errno::Errno;
use crate::message::Flight;
use crate::message::Message;
use crate::raw;
use core::mem::ManuallyDrop;
use core::ptr::null_mut;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::ffi::c_void;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::atomic::Release;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::types::Opaque;
use kernel::workqueue;
use kernel::workqueue::impl_has_work;
use kernel::workqueue::new_work;
use kernel::workqueue::Work;
use kernel::workqueue::WorkItem;

/// RTRS keeps the header of a request and its own in one page.
const MAX_HEADERS: usize = 4096;
/// Bytes RTRS adds to the header of a WRITE.
const WRITE_OVERHEAD: usize = 4;
/// Bytes RTRS adds to the header of a READ, and for each scatterlist entry.
const READ_OVERHEAD: usize = 8;
const READ_OVERHEAD_ENTRY: usize = 16;
/// Longest name of a session, in bytes.
const MAX_NAME: usize = 254;

/// Which way the data of a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    /// From the server; always its full length.
    Read,
    /// To the server.
    Write,
}

/// What happened to the connection of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The last path went down. Every request sent before was confirmed.
    Disconnected,
    /// The first path is up again.
    Reconnected,
}

/// Who wants to know about the connection of a session.
pub trait LinkHandler: Send + Sync + 'static {
    /// Called in process context, one call at a time. May sleep, but must not wait for a request, nor close or
    /// drop the session: requests are failed from this very context.
    ///
    /// No event for the connection that [`Session::open`] makes; but the connection may be lost, and this called,
    /// before `open` has returned. [`Session::close`] reports that it is lost, too: long before it returns, if the
    /// server is dead.
    fn link(&self, event: LinkEvent);
}

/// Where a session goes, and how hard it tries.
pub struct SessionConfig<'a> {
    /// Name of the session: unique in this kernel and at the server, 1 to 254 bytes, without `/` and `.`.
    pub name: &'a CStr,
    /// Paths to the server, at least one; all must come up.
    pub paths: &'a [PathAddr],
    /// Port of the server, for paths that are added later through sysfs.
    pub port: u16,
    /// Seconds between attempts to reconnect (RTRS adds one to two).
    pub reconnect_delay_s: u8,
    /// Attempts to reconnect before RTRS gives up, without telling: 0 = none, -1 = for ever.
    pub max_reconnect: i16,
}

/// What a session can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attrs {
    /// Requests in flight.
    pub queue_depth: u32,
    /// Bytes of data in one request.
    pub max_io_size: u32,
    /// Scatterlist entries in one request.
    pub max_segments: u32,
}

/// The part of a session that permits and messages need.
#[pin_data(PinnedDrop)]
pub(crate) struct Core {
    /// Everybody who uses `clt` is inside, except requests that RTRS has: those it knows itself.
    ///
    /// RTRS frees a session as soon as the last permit is given back, even while the function that gives it back
    /// still runs. So nobody may be giving one back when RTRS is told to close, but the confirmations that
    /// closing itself waits for.
    #[pin]
    gate: Opaque<raw::rtrs_rs_gate>,
    /// Set once, before anybody can enter.
    clt: Atomic<*mut raw::rtrs_clt_sess>,
}

// SAFETY: The gate is made to be used from any CPU, and so are the functions `clt` is given to.
unsafe impl Send for Core {}
// SAFETY: As above.
unsafe impl Sync for Core {}

#[pinned_drop]
impl PinnedDrop for Core {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The gate was initialised, and nobody is inside: it was shut, or never entered.
        unsafe { raw::rtrs_rs_gate_free(self.gate.get()) };
    }
}

impl Core {
    fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            gate <- Opaque::try_ffi_init(|gate| {
                // SAFETY: `gate` is memory for a gate, which does not move.
                to_result(unsafe { raw::rtrs_rs_gate_init(gate) })
            }),
            clt: Atomic::new(null_mut()),
        })
    }

    /// The session of RTRS; to be used only while inside the gate.
    #[inline]
    fn clt(&self) -> *mut raw::rtrs_clt_sess {
        self.clt.load(Relaxed)
    }

    /// False if the session is closed or being closed.
    #[inline]
    fn enter(&self) -> bool {
        // SAFETY: The gate is initialised as long as `self` exists.
        unsafe { raw::rtrs_rs_gate_enter(self.gate.get()) }
    }

    /// To be called once for each successful [`enter`](Self::enter).
    #[inline]
    fn leave(&self) {
        // SAFETY: The gate is initialised as long as `self` exists.
        unsafe { raw::rtrs_rs_gate_leave(self.gate.get()) };
    }

    fn query(&self) -> Result<Attrs> {
        let mut attrs = raw::rtrs_attrs::default();
        // SAFETY: Every caller is inside the gate, so the session is open.
        to_result(unsafe { raw::rtrs_clt_query(self.clt(), &mut attrs) })?;
        Ok(Attrs {
            queue_depth: attrs.queue_depth,
            max_io_size: attrs.max_io_size,
            max_segments: attrs.max_segments,
        })
    }
}

/// Leave to send one request. Given back when dropped.
///
/// One permit is one of the `queue_depth` buffers the server has for the session. It remembers the CPU it was
/// taken on: requests that are sent with it use that CPU's connection. Closing the session waits for it; so it
/// must not be held for long without being sent.
pub struct Permit {
    core: NonNull<Core>,
    /// `None` if it came back from a request while the session was being closed. Otherwise it is a permit of
    /// that session, and this is inside the session's gate.
    permit: Option<NonNull<raw::rtrs_permit>>,
}

// SAFETY: RTRS takes a permit back from any thread.
unsafe impl Send for Permit {}
// SAFETY: Nothing can be done with a shared reference to a permit.
unsafe impl Sync for Permit {}

impl Permit {
    /// For one of the connections for IO, always. The one for administration has a send queue that a server with
    /// `always_invalidate` fills with 257 answers to READs, before the first of them asks for a completion: hardware
    /// that frees its queue only then would break the connection.
    #[inline]
    fn take(core: &Core) -> Option<Self> {
        if !core.enter() {
            return None;
        }
        // SAFETY: We are inside the gate, so the session is open. Does not sleep.
        let permit = NonNull::new(unsafe {
            raw::rtrs_clt_get_permit(
                core.clt(),
                raw::rtrs_clt_con_type_RTRS_IO_CON,
                raw::wait_type_RTRS_PERMIT_NOWAIT,
            )
        });
        if permit.is_none() {
            core.leave();
            return None;
        }
        Some(Self {
            core: NonNull::from(core),
            permit,
        })
    }

    /// The permit of a request that was just confirmed.
    ///
    /// # Safety
    ///
    /// To be called in the confirmation of the request with this flight, once.
    #[inline]
    unsafe fn landed(flight: Flight) -> Self {
        // SAFETY: Closing a session waits for all confirmations before anything is freed.
        let core = unsafe { flight.core.as_ref() };
        let permit = if core.enter() {
            Some(flight.permit)
        } else {
            // The session is being closed, and RTRS waits for the permit. It does not free anything before
            // this confirmation is over, so this is the place where it can be given back safely.
            // SAFETY: It is a permit of this session that nobody else gives back.
            unsafe { raw::rtrs_clt_put_permit(core.clt(), flight.permit.as_ptr()) };
            None
        };
        Self {
            core: flight.core,
            permit,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(permit) = self.permit {
            // SAFETY: We are inside the gate, so the session has not been closed.
            let core = unsafe { self.core.as_ref() };
            // SAFETY: As above; it is a permit of this session that nobody else gives back.
            unsafe { raw::rtrs_clt_put_permit(core.clt(), permit.as_ptr()) };
            core.leave();
        }
    }
}

/// Who gets a message back when its request is over.
pub trait Confirm: Sized + Send + 'static {
    /// The request is over: answered by the server, or lost with the connection, when nobody knows whether it
    /// was executed. RTRS no longer uses the message or its data. Called exactly once for each successful
    /// [`Session::send`], possibly before that returns.
    ///
    /// Bottom halves are off: must not sleep. May send.
    fn confirmed(message: KBox<Message<Self>>, permit: Permit, result: Result<(), Errno>);
}

/// A request that was not sent: everything is handed back.
pub struct SendError<C> {
    /// The message.
    pub message: KBox<Message<C>>,
    /// The permit.
    pub permit: Permit,
    /// Why.
    ///
    /// * `ECONNABORTED`: no path is up, or the session is closed.
    /// * `EAGAIN`, `ENOMEM`: try again later.
    /// * `EMSGSIZE`: header or data are too long for the session.
    /// * `EINVAL`: the permit is of another session, or the data cannot be mapped.
    pub error: Error,
}

/// Everything RTRS has a pointer to while a session is open.
#[pin_data]
struct Inner<H: LinkHandler> {
    #[pin]
    core: Core,
    handler: Arc<H>,
    /// The task that is in the handler now.
    in_handler: Atomic<*mut bindings::task_struct>,
    #[pin]
    closed: Mutex<bool>,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl{H: LinkHandler} HasWork<Self> for Inner<H> { self.work }
}

impl<H: LinkHandler> WorkItem for Inner<H> {
    type Pointer = Pin<KBox<Self>>;

    fn run(this: Self::Pointer) {
        this.shut();
    }
}

impl<H: LinkHandler> Inner<H> {
    fn new(handler: Arc<H>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            core <- Core::new(),
            handler,
            in_handler: Atomic::new(null_mut()),
            closed <- new_mutex!(true, "rtrs::Session::closed"),
            work <- new_work!("rtrs::Session::work"),
        })
    }

    fn shut(&self) {
        let mut closed = self.closed.lock();
        if *closed {
            return;
        }
        // SAFETY: The gate is initialised and, as `closed` was false, has not been shut.
        unsafe { raw::rtrs_rs_gate_shut(self.core.gate.get()) };
        // SAFETY: The session is open, and nobody is using it any more but RTRS itself.
        unsafe { raw::rtrs_rs_close(self.core.clt()) };
        *closed = true;
    }

    /// Whether this is a place where a session can be closed.
    fn may_shut_here(&self) -> bool {
        // SAFETY: Only looks at the state of this CPU.
        let may_sleep = unsafe { raw::rtrs_rs_may_sleep() };
        may_sleep && self.in_handler.load(Relaxed) != current!().as_ptr()
    }
}

/// A session with a server.
///
/// To be shared in an `Arc`; sending takes no lock and no reference. Dropping it closes it. That sleeps, and
/// waits for those who hold a [`Permit`]; where this cannot be done (atomic context, the session's own
/// [`LinkHandler`]) the session is closed later by a worker and the module can no longer be unloaded.
pub struct Session<H: LinkHandler> {
    inner: ManuallyDrop<Pin<KBox<Inner<H>>>>,
}

impl<H: LinkHandler> Session<H> {
    /// Connects to a server.
    ///
    /// Sleeps, up to 30 s for each step of each path; a signal interrupts it. `EINVAL` if the name or the
    /// number of paths is wrong, `EEXIST` if there is a session of this name; else what RTRS says.
    pub fn open(config: &SessionConfig<'_>, handler: Arc<H>) -> Result<Self> {
        let name = config.name.to_bytes();
        if name.is_empty() || name.len() > MAX_NAME || name.iter().any(|b| matches!(b, b'/' | b'.'))
        {
            return Err(EINVAL);
        }
        let mut paths = KVec::with_capacity(config.paths.len(), GFP_KERNEL)?;
        for path in config.paths {
            path.meet();
            paths.push(path.as_raw(), GFP_KERNEL)?;
        }
        let inner = KBox::pin_init(Inner::new(handler), GFP_KERNEL)?;
        let mut ops = raw::rtrs_clt_ops {
            priv_: core::ptr::from_ref::<Inner<H>>(&inner).cast_mut().cast(),
            link_ev: Some(link_event::<H>),
        };
        // SAFETY: `name` ends in NUL, `paths` are as many addresses; RTRS copies them and `ops`. What `ops.priv_`
        // points to does not move, and outlives the session: it is freed after the session is closed, or after
        // this failed, when RTRS makes no more calls.
        let clt = from_err_ptr(unsafe {
            raw::rtrs_clt_open(
                &mut ops,
                config.name.as_char_ptr(),
                paths.as_ptr(),
                paths.len(),
                config.port,
                0,
                config.reconnect_delay_s,
                config.max_reconnect,
                0,
            )
        })?;
        inner.core.clt.store(clt, Relaxed);
        *inner.closed.lock() = false;
        Ok(Self {
            inner: ManuallyDrop::new(inner),
        })
    }

    /// What the session can carry. Any context. `ECOMM` while no path is up, `ECONNABORTED` if it is closed.
    pub fn query(&self) -> Result<Attrs> {
        let core = &self.inner.core;
        if !core.enter() {
            return Err(connection_aborted());
        }
        let attrs = core.query();
        core.leave();
        attrs
    }

    /// A permit, if one is free and the session is not closed. Any context.
    #[inline]
    pub fn permit(&self) -> Option<Permit> {
        Permit::take(&self.inner.core)
    }

    /// Sends a request: `header`, which is copied, and the data of `message`. On success the message comes back
    /// through [`Confirm::confirmed`].
    ///
    /// Does not sleep. Process or softirq context, never with interrupts off.
    pub fn send<C: Confirm>(
        &self,
        permit: Permit,
        mut message: KBox<Message<C>>,
        dir: Dir,
        header: &[u8],
    ) -> Result<(), SendError<C>> {
        let core = &self.inner.core;
        let entries = message.entries();
        let bytes = message.data_len() as usize;
        let raw_permit = match self.check(&permit, dir, header.len(), entries) {
            Ok(raw_permit) => raw_permit,
            Err(error) => {
                return Err(SendError {
                    message,
                    permit,
                    error,
                })
            }
        };
        let table = message.launch(Flight {
            core: NonNull::from(core),
            permit: raw_permit,
        });
        let message = KBox::into_raw(message);
        let mut ops = raw::rtrs_clt_req_ops {
            priv_: message.cast(),
            conf_fn: Some(confirmed::<C>),
        };
        // SAFETY: The permit is of this session, which is open because a permit is held. `table` has `entries`
        // entries with `bytes` bytes, followed by nothing. It and the message stay where they are until the
        // confirmation, and nobody else uses them; so do the pages in the table by the promise made for
        // `IoData`, or because the message owns them. `header` is copied.
        let errno = unsafe {
            raw::rtrs_rs_request(
                match dir {
                    Dir::Read => bindings::READ as c_int,
                    Dir::Write => bindings::WRITE as c_int,
                },
                &mut ops,
                core.clt(),
                raw_permit.as_ptr(),
                header.as_ptr().cast(),
                header.len(),
                bytes,
                table,
                entries.into(),
            )
        };
        if errno == 0 {
            // The request has the permit now, and the message may be gone. Only the place inside the gate is
            // still ours; it kept the session open until here.
            core::mem::forget(permit);
            core.leave();
            return Ok(());
        }
        // SAFETY: RTRS did not take the request: it is still ours alone, and comes from `into_raw`.
        let mut message = unsafe { KBox::from_raw(message) };
        message.land();
        Err(SendError {
            message,
            permit,
            error: self.why(errno),
        })
    }

    /// Whether a request can be sent with `permit`, and the permit's name at RTRS.
    #[inline]
    fn check(
        &self,
        permit: &Permit,
        dir: Dir,
        header: usize,
        entries: u16,
    ) -> Result<NonNull<raw::rtrs_permit>> {
        if permit.core != NonNull::from(&self.inner.core) {
            return Err(EINVAL);
        }
        let overhead = match dir {
            Dir::Write => WRITE_OVERHEAD,
            Dir::Read => READ_OVERHEAD + READ_OVERHEAD_ENTRY * usize::from(entries),
        };
        // RTRS would notice, but in the log.
        if header.saturating_add(overhead) > MAX_HEADERS {
            return Err(EMSGSIZE);
        }
        permit.permit.ok_or_else(connection_aborted)
    }

    /// The error a refused request is handed back with. Inside the gate.
    #[cold]
    fn why(&self, errno: c_int) -> Error {
        let error = Error::from_errno(errno);
        // While RTRS itself moves requests from a dead path to another, it is in the way of others on that CPU:
        // it then says that there is no path. There is.
        if error == connection_aborted() && self.inner.core.query().is_ok() {
            return EAGAIN;
        }
        error
    }

    /// Closes the session: requests in flight are confirmed with an error, and when this returns no callback
    /// is running or will be. From then on there are no permits. More calls do nothing but wait for the first.
    ///
    /// Sleeps. Not for a worker of a queue with `WQ_MEM_RECLAIM`; in a [`LinkHandler`] of the session or with a
    /// permit in hand it is a deadlock. Does nothing in atomic context and in its own [`LinkHandler`], where it
    /// would be fatal, but say so in the log.
    pub fn close(&self) {
        if self.inner.may_shut_here() {
            self.inner.shut();
        } else {
            pr_err!("BUG: an RTRS session cannot be closed here\n");
        }
    }
}

impl<H: LinkHandler> Drop for Session<H> {
    fn drop(&mut self) {
        // SAFETY: `inner` is not used again.
        let inner = unsafe { ManuallyDrop::take(&mut self.inner) };
        if inner.may_shut_here() {
            inner.shut();
        } else {
            pr_err!(
                "BUG: an RTRS session was dropped where it cannot be closed; a worker closes it\n"
            );
            // The worker may run after the module would have been unloaded.
            // SAFETY: Only counts.
            unsafe { raw::rtrs_rs_pin_module() };
            workqueue::system_long().enqueue(inner);
        }
    }
}

/// The error of a session without a path.
fn connection_aborted() -> Error {
    Error::from_errno(-(bindings::ECONNABORTED as c_int))
}

/// RTRS reports a change of the connection.
///
/// # Safety
///
/// Called by RTRS for a session that was opened by [`Session::open`] with a handler of type `H`.
unsafe extern "C" fn link_event<H: LinkHandler>(
    private: *mut c_void,
    event: raw::rtrs_clt_link_ev,
) {
    // SAFETY: This is what `open` gave to RTRS, and it outlives the session.
    let inner = unsafe { &*private.cast::<Inner<H>>() };
    let event = match event {
        raw::rtrs_clt_link_ev_RTRS_CLT_LINK_EV_RECONNECTED => LinkEvent::Reconnected,
        _ => LinkEvent::Disconnected,
    };
    inner.in_handler.store(current!().as_ptr(), Release);
    inner.handler.link(event);
    inner.in_handler.store(null_mut(), Release);
}

/// RTRS reports the end of a request.
///
/// # Safety
///
/// Called by RTRS, once, for a request that was sent by [`Session::send`] with a message of type `C`.
unsafe extern "C" fn confirmed<C: Confirm>(private: *mut c_void, errno: c_int) {
    let message = private.cast::<Message<C>>();
    // SAFETY: `send` lent this message to RTRS, which now gives it back.
    let Some(flight) = (unsafe { &mut *message }).land() else {
        // Not RTRS's to confirm (any more). If the memory is still a message, this saves it.
        pr_err!("BUG: RTRS confirmed a request that was not in flight\n");
        return;
    };
    // SAFETY: It comes from `into_raw` in `send`, and RTRS has no use for it any more.
    let message = unsafe { KBox::from_raw(message) };
    // SAFETY: This is the confirmation of that flight.
    let permit = unsafe { Permit::landed(flight) };
    let result = Errno::from_return(errno).map_or(Ok(()), Err);
    // RTRS confirms in softirq, or in process context if the connection is lost. For the receiver it is one.
    // SAFETY: Enabled again below, by the same task.
    unsafe { raw::rtrs_rs_bh_disable() };
    C::confirmed(message, permit, result);
    // SAFETY: Disabled above.
    unsafe { raw::rtrs_rs_bh_enable() };
}
