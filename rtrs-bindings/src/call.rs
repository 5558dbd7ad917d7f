// SPDX-License-Identifier: GPL-2.0

//! Requests somebody waits for: a header to the server, a reply back.
//!
//! Sent as a READ, because the answer to a WRITE carries nothing but an error number. Not for IO.

use crate::client::Confirm;
use crate::client::Dir;
use crate::client::LinkHandler;
use crate::client::Permit;
use crate::client::Session;
use crate::errno::Errno;
use crate::message::Message;
use core::ptr::null_mut;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::Arc;
use kernel::time::msecs_to_jiffies;
use kernel::time::Instant;
use kernel::time::Monotonic;
use kernel::types::Opaque;

/// Why a call has no reply.
#[derive(Clone, Copy, Debug)]
pub enum CallError {
    /// The server answered with this number, or the connection was lost meanwhile; see [`Errno`].
    Answered(Errno),
    /// There was no answer. `ETIMEDOUT`, `ERESTARTSYS` (a signal), `ECONNABORTED` (not connected),
    /// `EMSGSIZE`, `ENOMEM`. In the first two cases it is unknown whether the server did what was asked.
    Failed(Error),
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What the caller and the message share. The one that comes last frees it.
#[pin_data(PinnedDrop)]
struct Shared {
    #[pin]
    done: Opaque<bindings::completion>,
    /// The answered message, until the caller takes it. Owned.
    answered: Atomic<*mut Message<Call>>,
}

// SAFETY: A completion may be used from any thread, and the message in `answered` is `Send`.
unsafe impl Send for Shared {}
// SAFETY: As above; `answered` is only exchanged as a whole.
unsafe impl Sync for Shared {}

impl Shared {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            done <- Opaque::ffi_init(|done| {
                // SAFETY: `done` is memory for a completion, which does not move.
                unsafe { bindings::init_completion(done) };
            }),
            answered: Atomic::new(null_mut()),
        })
    }

    /// Replaces what is in `answered`.
    fn exchange(&self, message: *mut Message<Call>) -> Option<KBox<Message<Call>>> {
        let old = self.answered.xchg(message, Full);
        // SAFETY: A pointer in `answered` comes from `into_raw`, and an exchange hands it to one place only.
        (!old.is_null()).then(|| unsafe { KBox::from_raw(old) })
    }
}

#[pinned_drop]
impl PinnedDrop for Shared {
    fn drop(self: Pin<&mut Self>) {
        // Nobody waited for it.
        drop(self.exchange(null_mut()));
    }
}

/// Context of a call's message.
struct Call {
    /// `None` once it is answered: no circle of references.
    shared: Option<Arc<Shared>>,
    result: Result<(), Errno>,
}

impl Confirm for Call {
    fn confirmed(mut message: KBox<Message<Self>>, permit: Permit, result: Result<(), Errno>) {
        drop(permit);
        message.ctx_mut().result = result;
        if let Some(shared) = message.ctx_mut().shared.take() {
            drop(shared.exchange(KBox::into_raw(message)));
            // SAFETY: The completion is initialised and exists as long as `shared`.
            unsafe { bindings::complete_all(shared.done.get()) };
        }
    }
}

/// A point in time to be ready at.
struct Deadline {
    start: Instant<Monotonic>,
    timeout_ms: u32,
}

impl Deadline {
    fn left_ms(&self) -> u32 {
        let passed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0);
        u32::try_from(u64::from(self.timeout_ms).saturating_sub(passed)).unwrap_or(0)
    }

    /// Sleeps for a moment; an error if there is no point in going on.
    fn pause(&self) -> Result {
        if self.left_ms() == 0 {
            return Err(ETIMEDOUT);
        }
        // SAFETY: Sleeps, which the caller of `Session::call` allowed.
        unsafe { bindings::schedule_timeout_interruptible(msecs_to_jiffies(2) as isize) };
        if current!().signal_pending() {
            return Err(ERESTARTSYS);
        }
        Ok(())
    }
}

impl<H: LinkHandler> Session<H> {
    /// Sends `header` as a READ of `reply.len()` bytes (1 to 64 KiB, of which the server fills what it likes and
    /// zeroes the rest), and waits for it.
    ///
    /// Sleeps, at most `timeout_ms`; a signal interrupts it. A late answer goes to memory of its own, never to
    /// `reply`, but takes one permit until it comes.
    pub fn call(&self, header: &[u8], reply: &mut [u8], timeout_ms: u32) -> Result<(), CallError> {
        let len = match u32::try_from(reply.len()) {
            Ok(len @ 1..=0x1_0000) => len,
            _ => return Err(EMSGSIZE.into()),
        };
        let deadline = Deadline {
            start: Instant::now(),
            timeout_ms,
        };
        let shared = Arc::pin_init(Shared::new(), GFP_KERNEL)?;
        let mut message = Message::new(
            reply.len().div_ceil(kernel::page::PAGE_SIZE),
            Call {
                shared: Some(shared.clone()),
                result: Ok(()),
            },
        )?;
        message.push_owned(len)?;
        self.post(message, header, &deadline)?;

        let ms = deadline.left_ms();
        // SAFETY: The completion is initialised and exists as long as `shared`.
        let left = unsafe {
            bindings::wait_for_completion_interruptible_timeout(
                shared.done.get(),
                msecs_to_jiffies(ms),
            )
        };
        // An answer that came is taken, even if a signal came too.
        let Some(message) = shared.exchange(null_mut()) else {
            return Err(if left < 0 { ERESTARTSYS } else { ETIMEDOUT }.into());
        };
        message.ctx().result.map_err(CallError::Answered)?;
        message.read_owned(0, reply)?;
        Ok(())
    }

    /// Sends the message of a call, as soon as there is a permit.
    fn post(&self, mut message: KBox<Message<Call>>, header: &[u8], deadline: &Deadline) -> Result {
        loop {
            if let Some(permit) = self.permit() {
                match self.send(permit, message, Dir::Read, header) {
                    Ok(()) => return Ok(()),
                    Err(refused) if refused.error == EAGAIN || refused.error == ENOMEM => {
                        message = refused.message;
                    }
                    Err(refused) => return Err(refused.error),
                }
            } else {
                // All taken, or closed.
                self.query()?;
            }
            deadline.pause()?;
        }
    }
}
