// SPDX-License-Identifier: GPL-2.0

//! The server: one context per kernel, its sessions, and the operations that arrive.

use crate::errno::Errno;
use crate::raw;
use core::ptr::null_mut;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::ffi::c_char;
use kernel::ffi::c_int;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Release;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;

/// What RTRS does not tell its callbacks: whom they are for. Points to the `ServerOps` of the open server, null
/// if there is none.
///
/// RTRS keeps one context in statics of its own, and a second open would silently replace the first.
static OPEN: Atomic<*mut c_void> = Atomic::new(null_mut());

/// Bytes of the longest session name and its NUL.
const MAX_NAME: usize = 256;

/// What a server does with its sessions and operations.
pub trait ServerOps: Send + Sync + 'static {
    /// What the server remembers of a session.
    type Session: Send + Sync + 'static;

    /// A client has connected its first path; `name` is what it calls the session. The client does not know yet
    /// that it is connected.
    ///
    /// Process context, on a completion worker of RTRS: must not take long. An error does not refuse the
    /// client: RTRS would mix up its paths. Its operations are answered `EIO` instead.
    fn connected(&self, name: &CStr) -> Result<Arc<Self::Session>>;

    /// The last path is down and every operation of the session is answered. Process context, may sleep.
    fn disconnected(&self, session: Arc<Self::Session>);

    /// An operation has arrived, to be answered now or later.
    ///
    /// Process context, on the completion worker of the connection, which may serve other connections too:
    /// what takes long belongs elsewhere.
    fn request(&self, session: ArcBorrow<'_, Self::Session>, op: Op);
}

/// The open server of this kernel.
///
/// Dropping it closes it: no more connections, all sessions disconnected, and when it returns no callback is
/// running or will be. That sleeps, and waits for every [`Op`] to be answered; not for the callbacks of the
/// server, nor for a worker of a queue with `WQ_MEM_RECLAIM`.
///
/// `rnbd-server` uses the same context of RTRS and must not be loaded in the same kernel.
pub struct Server<S: ServerOps> {
    context: NonNull<raw::rtrs_srv_ctx>,
    ops: Arc<S>,
}

// SAFETY: The context may be closed by any thread.
unsafe impl<S: ServerOps> Send for Server<S> {}
// SAFETY: Nothing can be done with a shared reference to it.
unsafe impl<S: ServerOps> Sync for Server<S> {}

impl<S: ServerOps> Server<S> {
    /// Listens on `port` of every RDMA device, also of those that come later. May sleep.
    ///
    /// `EBUSY` if this kernel's server is open already. A port that cannot be listened on is no error but a line
    /// in the log: RTRS does not tell.
    pub fn open(port: u16, ops: Arc<S>) -> Result<Self> {
        let private = Arc::as_ptr(&ops).cast_mut().cast::<c_void>();
        if OPEN.cmpxchg(null_mut(), private, Full).is_err() {
            return Err(EBUSY);
        }
        let mut callbacks = raw::rtrs_srv_ops {
            rdma_ev: Some(request::<S>),
            link_ev: Some(link_event::<S>),
        };
        // SAFETY: RTRS copies the callbacks. They find `ops` in `OPEN`, where it stays as long as the context is
        // open; no other context is.
        let context = from_err_ptr(unsafe { raw::rtrs_srv_open(&mut callbacks, port) });
        match context.map(NonNull::new) {
            Ok(Some(context)) => Ok(Self { context, ops }),
            failed => {
                OPEN.store(null_mut(), Release);
                Err(failed.err().unwrap_or(ENOMEM))
            }
        }
    }

    /// What the server was opened with.
    pub fn ops(&self) -> &Arc<S> {
        &self.ops
    }
}

impl<S: ServerOps> Drop for Server<S> {
    fn drop(&mut self) {
        // SAFETY: The context is open, and not used again.
        unsafe { raw::rtrs_srv_close(self.context.as_ptr()) };
        OPEN.store(null_mut(), Release);
    }
}

/// Memory of an operation or a message, for a block request: physically contiguous, in the kernel's linear mapping.
///
/// A place, not a reference: it says nothing about how long the memory lasts. It belongs to the operation
/// until that is answered; then it may be written to by anybody. To use the pointer is `unsafe` for that reason.
#[derive(Clone, Copy)]
pub struct DataRef {
    start: NonNull<u8>,
    len: u32,
}

// SAFETY: A pointer that nobody can use without further promises.
unsafe impl Send for DataRef {}
// SAFETY: As above.
unsafe impl Sync for DataRef {}

impl DataRef {
    /// `len` bytes from `start`, in one piece of `kmalloc`.
    pub(crate) fn new(start: NonNull<u8>, len: u32) -> Self {
        Self { start, len }
    }

    /// Bytes in it.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// `len` bytes of it from `offset`, `None` if it is not that long.
    pub fn slice(&self, offset: u32, len: u32) -> Option<Self> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        Some(Self {
            // SAFETY: `offset` is at most `len`, so it is inside the memory or just behind.
            start: unsafe { self.start.add(offset as usize) },
            len,
        })
    }
}

/// An operation of a client, to be answered exactly once; one that is dropped is answered `EIO`.
///
/// RTRS does not tell whether it came as a READ or a WRITE; the header has to say.
pub struct Op {
    id: NonNull<raw::rtrs_srv_op>,
    data: DataRef,
    header: DataRef,
}

// SAFETY: RTRS lets an operation be answered from any thread; the memory of it is used through raw pointers, by
// whoever has the `Op`.
unsafe impl Send for Op {}
// SAFETY: A shared reference only gives away copies of what is in the memory.
unsafe impl Sync for Op {}

impl Op {
    /// Bytes of the header.
    pub fn header_len(&self) -> u32 {
        self.header.len
    }

    /// Copies the header; `EMSGSIZE` if `buf` is too small for it.
    ///
    /// The client may be able to change the original at any time (`always_invalidate=N`): copy once, then
    /// validate the copy.
    pub fn copy_header<'a>(&self, buf: &'a mut [u8]) -> Result<&'a [u8]> {
        let to = buf.get_mut(..self.header.len as usize).ok_or(EMSGSIZE)?;
        copy_out(self.header, to);
        Ok(to)
    }

    /// Bytes of data: what was sent with a WRITE, or what a READ wants.
    pub fn data_len(&self) -> u32 {
        self.data.len
    }

    /// Where the data of a WRITE is, or that of a READ belongs.
    pub fn data(&self) -> DataRef {
        self.data
    }

    /// Copies `buf.len()` bytes of the data from `offset`; `EINVAL` if there are not as many.
    pub fn read_data(&self, offset: u32, buf: &mut [u8]) -> Result {
        let len = u32::try_from(buf.len()).map_err(|_| EINVAL)?;
        copy_out(self.data.slice(offset, len).ok_or(EINVAL)?, buf);
        Ok(())
    }

    /// Copies `bytes` into the data at `offset`; `EINVAL` if they do not fit.
    pub fn write_data(&mut self, offset: u32, bytes: &[u8]) -> Result {
        let len = u32::try_from(bytes.len()).map_err(|_| EINVAL)?;
        let to = self.data.slice(offset, len).ok_or(EINVAL)?;
        // SAFETY: `to` has `len` bytes, which belong to the operation. They are no Rust object: the client may
        // read them at the same time, and gets what it gets.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Zeroes `len` bytes of the data from `offset`; `EINVAL` if there are not as many.
    pub fn zero_data(&mut self, offset: u32, len: u32) -> Result {
        let to = self.data.slice(offset, len).ok_or(EINVAL)?;
        // SAFETY: As in `write_data`.
        unsafe { core::ptr::write_bytes(to.as_ptr(), 0, len as usize) };
        Ok(())
    }

    /// A number that no other operation has that is not answered yet, for tables.
    pub fn hint(&self) -> usize {
        // They are allocated one by one, with this alignment at least.
        self.id.as_ptr().addr() / 64
    }

    /// Answers a READ with `bytes`, zeroes up to its full length: the whole of it is transferred, and what was
    /// in the memory before may be of another pool. `EMSGSIZE`, and the operation back, if it does not want as many.
    pub fn reply(mut self, bytes: &[u8]) -> Result<(), (Self, Error)> {
        let Some(rest) = u32::try_from(bytes.len())
            .ok()
            .and_then(|len| Some((len, self.data.len.checked_sub(len)?)))
        else {
            return Err((self, EMSGSIZE));
        };
        if let Err(error) = self
            .write_data(0, bytes)
            .and_then(|()| self.zero_data(rest.0, rest.1))
        {
            return Err((self, error));
        }
        self.respond(0);
        Ok(())
    }

    /// Answers the operation: 0 is success, anything else (at most [`Errno::MAX`], what is above becomes 256) a
    /// failure, of which nothing but this number is transferred. A READ that succeeds transfers all of its data.
    ///
    /// Any context. RTRS logs every failure.
    ///
    /// In hard interrupt context too, like any `bi_end_io`: `rtrs_srv_resp_rdma` posts to the send queue, whose
    /// drivers take their locks with interrupts off. It does take a plain spinlock if the send queue has no
    /// room, but it has: RTRS makes it for three times the queue depth (five with `always_invalidate`), an answer
    /// takes one credit, and credits come back every 512 answers, through the same completion queue as the
    /// requests of a client that cannot have more than the queue depth outstanding. Where a device allows less
    /// (`max_qp_wr` below that), answer from process context.
    pub fn respond(self, status: u16) {
        let op = core::mem::ManuallyDrop::new(self);
        let number = if status > Errno::MAX { 256 } else { status };
        op.answer(-c_int::from(number));
    }

    /// Gives the operation back to RTRS. The last thing done with it.
    fn answer(&self, errno: c_int) {
        // SAFETY: The operation is not answered yet, as the only callers are `respond`, which consumes it, and
        // `drop`. RTRS takes it in any case; `false` only means that the answer waits for room in the send queue.
        unsafe { raw::rtrs_srv_resp_rdma(self.id.as_ptr(), errno) };
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        self.answer(-(bindings::EIO as c_int));
    }
}

/// Copies memory that the client may be writing to.
fn copy_out(from: DataRef, to: &mut [u8]) {
    let len = to.len().min(from.len as usize);
    // SAFETY: Both have `len` bytes: `from` belongs to an operation the caller has. It is no Rust object; a
    // client that writes to it meanwhile gets a mixture, which the caller must be prepared for anyway.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), len) };
}

/// The operations table of the open server.
///
/// # Safety
///
/// To be called in a callback of a server that was opened with `S`; the result not to be used after it.
unsafe fn server_ops<'a, S: ServerOps>() -> &'a S {
    // SAFETY: A callback runs only while the server is open, and `OPEN` is set that long. The `Arc` it comes
    // from is kept by the `Server`.
    unsafe { &*OPEN.load(Acquire).cast::<S>() }
}

/// An operation has arrived.
///
/// # Safety
///
/// Called by RTRS for the server that was opened with `S`.
unsafe extern "C" fn request<S: ServerOps>(
    private: *mut c_void,
    id: *mut raw::rtrs_srv_op,
    data: *mut c_void,
    data_len: usize,
    header: *const c_void,
    header_len: usize,
) -> c_int {
    let (Some(id), Some(data), Some(header)) = (
        NonNull::new(id),
        NonNull::new(data.cast::<u8>()),
        NonNull::new(header.cast_mut().cast::<u8>()),
    ) else {
        return -(bindings::EINVAL as c_int);
    };
    // From here on it is answered through `op`, and RTRS is never told that this failed: it would answer itself
    // then, without renewing the key of the buffer and outside the accounting of its send queue.
    let op = Op {
        id,
        data: DataRef {
            start: data,
            // Both are less than the size of a buffer.
            len: u32::try_from(data_len).unwrap_or(0),
        },
        header: DataRef {
            start: header,
            len: u32::try_from(header_len).unwrap_or(0),
        },
    };
    if private.is_null() {
        // `connected` failed. Dropping `op` says so.
        return 0;
    }
    // SAFETY: This is a callback of a server with `S`.
    let ops = unsafe { server_ops::<S>() };
    // SAFETY: `link_event` put the pointer there, from `into_raw`, and takes it away only when RTRS has made sure
    // that no operation of the session is left, this call included.
    let session = unsafe { ArcBorrow::from_raw(private.cast::<S::Session>().cast_const()) };
    ops.request(session, op);
    0
}

/// A session came or went.
///
/// # Safety
///
/// Called by RTRS for the server that was opened with `S`.
unsafe extern "C" fn link_event<S: ServerOps>(
    session: *mut raw::rtrs_srv_sess,
    event: raw::rtrs_srv_link_ev,
    private: *mut c_void,
) -> c_int {
    // SAFETY: This is a callback of a server with `S`.
    let ops = unsafe { server_ops::<S>() };
    match event {
        raw::rtrs_srv_link_ev_RTRS_SRV_LINK_EV_CONNECTED => {
            // SAFETY: `session` is a session of RTRS, and this its `CONNECTED`.
            match unsafe { name_of(session) }.and_then(|name| {
                let name = CStr::from_bytes_until_nul(&name).map_err(|_| EINVAL)?;
                ops.connected(name)
            }) {
                Ok(state) => {
                    let state = Arc::into_raw(state).cast_mut().cast();
                    // SAFETY: `session` is a session of RTRS, which is not told to the client yet.
                    unsafe { raw::rtrs_srv_set_sess_priv(session, state) };
                }
                Err(error) => pr_err!(
                    "an RTRS session cannot be served (error {}): its client has to reconnect\n",
                    error.to_errno()
                ),
            }
        }
        _ => {
            if !private.is_null() {
                // SAFETY: All operations are over. If the session connects again, it gets a new state.
                unsafe { raw::rtrs_srv_set_sess_priv(session, null_mut()) };
                // SAFETY: It comes from `into_raw` above, and RTRS has just forgotten it.
                ops.disconnected(unsafe {
                    Arc::from_raw(private.cast::<S::Session>().cast_const())
                });
            }
        }
    }
    // Never a refusal: RTRS would count the path as up all the same, and the next one would have no state.
    0
}

/// The name the client gave to its session, with a NUL.
///
/// # Safety
///
/// `session` is a session of RTRS, and this is called in its `CONNECTED` event.
unsafe fn name_of(session: *mut raw::rtrs_srv_sess) -> Result<[u8; MAX_NAME]> {
    let mut name = [0; MAX_NAME];
    // SAFETY: `session` is valid by the caller's promise, and `name` is as long as is said.
    kernel::error::to_result(unsafe {
        raw::rtrs_srv_get_path_name(session, name.as_mut_ptr().cast::<c_char>(), MAX_NAME)
    })?;
    Ok(name)
}
