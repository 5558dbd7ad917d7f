// SPDX-License-Identifier: GPL-2.0

//! The node's RTRS server: takes messages in and tells IO from control.
//!
//! IO is executed where it arrives, on a completion worker of RTRS. Control messages may wait for a disk, so
//! they go to a queue of their own, one at a time.

use super::op;
use super::pool::Registry;
use super::serving::Directory;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;
use rmr_proto::Batch;
use rmr_proto::Control;
use rmr_proto::Kind;
use rmr_proto::Reply;
use rmr_proto::Status;
use rmr_proto::WireError;
use rmr_proto::MAX_BATCH_BYTES;
use rmr_proto::MAX_CONTROL_BYTES;
use rmr_proto::REPLY_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::pr_warn_limited;
use rmr_sys::work::Flags;
use rmr_sys::work::Queue;
use rtrs::Op;
use rtrs::ServerOps;

/// A client's session on this node.
pub(crate) struct Session {
    name: CString,
}

/// What RTRS calls.
pub(crate) struct Listener {
    directory: Arc<Directory>,
    /// For control messages.
    queue: Arc<Queue>,
}

impl Listener {
    /// A listener for the members in `directory`.
    pub(crate) fn new(directory: Arc<Directory>) -> Result<Self> {
        Ok(Self {
            directory,
            queue: Queue::new(c"rmr-server", Flags::UNBOUND | Flags::MEM_RECLAIM)?,
        })
    }

    fn io(&self, batch: &Batch<'_>, op: Op) {
        match self.directory.enter(batch.header().pool) {
            Some(serving) => op::execute(serving, batch, op),
            // No store, or nothing installed since it was started.
            None => op.respond(Status::NoStore.wire()),
        }
    }

    #[inline(never)]
    fn control(&self, session: Arc<Session>, header: &[u8], op: Op) {
        let message = match parse(header) {
            Ok(Ok(message)) => message,
            Ok(Err(error)) => return self.refuse(&session, error, op),
            Err(_) => return op.respond(Status::NoMemory.wire()),
        };
        // A job that could not be queued drops the operation, which answers it.
        let _ = self
            .queue
            .spawn(move || answer(&session, &message, op), GFP_KERNEL);
    }

    #[cold]
    fn refuse(&self, session: &Session, error: WireError, op: Op) {
        pr_warn_limited!(
            "session {}: message refused: {}\n",
            &*session.name,
            core::format_args!("{error}")
        );
        op.respond(error.status().wire());
    }
}

impl ServerOps for Listener {
    type Session = Session;

    fn connected(&self, name: &CStr) -> Result<Arc<Session>> {
        let name = CString::try_from(name)?;
        Ok(Arc::new(Session { name }, GFP_KERNEL)?)
    }

    fn disconnected(&self, session: Arc<Session>) {
        if let Ok(registry) = Registry::get() {
            registry.disconnected(&session);
        }
    }

    fn request(&self, session: ArcBorrow<'_, Session>, op: Op) {
        let mut buf = [0; MAX_MESSAGE];
        let header = match op.copy_header(&mut buf) {
            Ok(header) => header,
            Err(_) => {
                let short = WireError::Length {
                    said: op.header_len(),
                    right: MAX_MESSAGE,
                };
                return self.refuse(&session, short, op);
            }
        };
        match Batch::parse::<KernelCrc>(header) {
            Ok(batch) => self.io(&batch, op),
            Err(WireError::Kind(kind)) if Kind::from_wire(kind).is_some_and(|k| !k.is_io()) => {
                self.control(session.into(), header, op)
            }
            Err(error) => self.refuse(&session, error, op),
        }
    }
}

/// The longest message.
const MAX_MESSAGE: usize = if MAX_BATCH_BYTES > MAX_CONTROL_BYTES {
    MAX_BATCH_BYTES
} else {
    MAX_CONTROL_BYTES
};

/// Reads a control message, which is too large to be moved about on the stack.
#[inline(never)]
fn parse(header: &[u8]) -> Result<Result<KBox<Control>, WireError>> {
    match Control::parse::<KernelCrc>(header) {
        Ok(message) => Ok(Ok(KBox::new(message, GFP_KERNEL)?)),
        Err(error) => Ok(Err(error)),
    }
}

/// Executes a control message and answers it. Sleeps.
#[inline(never)]
fn answer(session: &Arc<Session>, message: &Control, op: Op) {
    let reply = match Registry::get() {
        Ok(registry) => registry.control(session, message),
        Err(_) => return op.respond(Status::NoPool.wire()),
    };
    match reply {
        Ok(reply) => send(&reply, op),
        Err(_) => op.respond(Status::NoMemory.wire()),
    }
}

#[inline(never)]
fn send(reply: &Reply<'_>, op: Op) {
    let Ok(mut buf) = KBox::<[u8; REPLY_BYTES]>::init(pin_init::init_zeroed(), GFP_KERNEL) else {
        return op.respond(Status::NoMemory.wire());
    };
    match reply.encode::<KernelCrc>(&mut buf) {
        Ok(bytes) => {
            if let Err((op, _)) = op.reply(bytes) {
                op.respond(Status::Invalid.wire());
            }
        }
        Err(_) => op.respond(Status::Io.wire()),
    }
}
