// SPDX-License-Identifier: GPL-2.0

//! The node's RTRS server: takes messages in, tells them apart, and finds whom they are for.
//!
//! IO is executed where it arrives, on a completion worker of RTRS. All other messages are left with the member.

use super::member::Mail;
use super::member::Runner;
use super::op;
use super::pool::Registry;
use super::serving::Directory;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;
use rmr_proto::Address;
use rmr_proto::Batch;
use rmr_proto::Control;
use rmr_proto::Kind;
use rmr_proto::Merge;
use rmr_proto::Peer;
use rmr_proto::Status;
use rmr_proto::WireError;
use rmr_proto::ADDRESS_BYTES;
use rmr_proto::MAX_BATCH_BYTES;
use rmr_proto::MAX_CONTROL_BYTES;
use rmr_proto::MAX_MERGE_BYTES;
use rmr_proto::MAX_PEER_BYTES;
use rmr_proto::MERGE_HEADER_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::pr_warn_limited;
use rtrs::Op;
use rtrs::ServerOps;

/// A client's session on this node.
pub(crate) struct Session {
    name: CString,
}

/// What RTRS calls.
pub(crate) struct Listener {
    directory: Arc<Directory>,
}

impl Listener {
    /// A listener for the members in `directory`.
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self { directory }
    }

    fn io(&self, batch: &Batch<'_>, op: Op) {
        match self.directory.enter(batch.header().pool) {
            Some(serving) => op::execute(serving, batch, op),
            None => not_serving(batch, op),
        }
    }

    /// A message that is no IO.
    #[inline(never)]
    fn post(&self, session: Arc<Session>, kind: Kind, header: &[u8], op: Op) {
        let mail = match kind {
            Kind::Address => {
                return match address(header) {
                    Ok(()) => op.respond(Status::Ok.wire()),
                    Err(why) => self.answer(&session, why, op),
                }
            }
            Kind::Merge => merge(header, &op),
            kind if kind.is_peer() => peer(header),
            _ => control(header, session.clone()),
        };
        match mail {
            Ok((mail, runner)) => runner.post(mail, op),
            Err(why) => self.answer(&session, why, op),
        }
    }

    fn answer(&self, session: &Session, why: Refused, op: Op) {
        match why {
            Refused::Wire(error) => self.refuse(session, error, op),
            Refused::Status(status) => op.respond(status.wire()),
        }
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
                let long = WireError::Length {
                    said: op.header_len(),
                    right: MAX_MESSAGE,
                };
                return self.refuse(&session, long, op);
            }
        };
        match Batch::parse::<KernelCrc>(header) {
            Ok(batch) => self.io(&batch, op),
            Err(WireError::Kind(wire)) => match Kind::from_wire(wire).filter(|k| !k.is_io()) {
                Some(kind) => self.post(session.into(), kind, header, op),
                None => self.refuse(&session, WireError::Kind(wire), op),
            },
            // The rest of it is data, so it is not whole.
            Err(_) if Kind::peek(header) == Some(Kind::Merge) => {
                self.post(session.into(), Kind::Merge, header, op)
            }
            Err(error) => self.refuse(&session, error, op),
        }
    }
}

/// The longest header.
const MAX_MESSAGE: usize = {
    let mut max = MAX_BATCH_BYTES;
    if MAX_CONTROL_BYTES > max {
        max = MAX_CONTROL_BYTES;
    }
    if MAX_PEER_BYTES > max {
        max = MAX_PEER_BYTES;
    }
    if ADDRESS_BYTES > max {
        max = ADDRESS_BYTES;
    }
    max
};

/// Why a message is not delivered.
enum Refused {
    /// It is none.
    Wire(WireError),
    /// Whoever it is for is not here.
    Status(Status),
}

impl From<WireError> for Refused {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<kernel::alloc::AllocError> for Refused {
    fn from(_: kernel::alloc::AllocError) -> Self {
        Self::Status(Status::NoMemory)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Status(Status::from_errno(error.to_errno()))
    }
}

fn registry() -> Result<Arc<Registry>, Refused> {
    Registry::get().map_err(|_| Refused::Status(Status::NoPool))
}

/// Requests of a pool that does not serve: its member may be about to.
#[cold]
fn not_serving(batch: &Batch<'_>, op: Op) {
    let runner = registry().map(|registry| registry.runner_of(batch.header().pool));
    match runner {
        Ok(Some(runner)) => op::keep(&runner, batch, op),
        _ => op.respond(Status::NoStore.wire()),
    }
}

/// A control message, which is too large to be moved about on the stack.
#[inline(never)]
fn control(header: &[u8], session: Arc<Session>) -> Result<(Mail, Arc<Runner>), Refused> {
    let message = KBox::new(Control::parse::<KernelCrc>(header)?, GFP_KERNEL)?;
    let runner = registry()?.runner(message.name())?;
    Ok((Mail::Control(message, session), runner))
}

/// Marks: what does not fit into a header of RTRS is data.
#[inline(never)]
fn merge(header: &[u8], op: &Op) -> Result<(Mail, Arc<Runner>), Refused> {
    let data = op.data_len() as usize;
    let length = WireError::Length {
        said: op.header_len(),
        right: MERGE_HEADER_BYTES,
    };
    if header.len() != MERGE_HEADER_BYTES || data > MAX_MERGE_BYTES - MERGE_HEADER_BYTES {
        return Err(length.into());
    }
    let mut bytes = KVec::with_capacity(header.len() + data, GFP_KERNEL)?;
    bytes.extend_from_slice(header, GFP_KERNEL)?;
    bytes.resize(header.len() + data, 0, GFP_KERNEL)?;
    let place = bytes.get_mut(header.len()..).unwrap_or(&mut []);
    op.read_data(0, place)?;
    let name = Merge::parse::<KernelCrc>(&bytes)?.to.name;
    Ok((Mail::Merge(bytes), registry()?.runner(&name)?))
}

/// Where another member is: no business of the engine.
#[inline(never)]
fn address(header: &[u8]) -> Result<(), Refused> {
    let address = Address::parse::<KernelCrc>(header)?;
    registry()?
        .book(&address.name)
        .ok_or(Status::NoPool)?
        .told(address.of, address.text)?;
    Ok(())
}

/// A message of another member.
#[inline(never)]
fn peer(header: &[u8]) -> Result<(Mail, Arc<Runner>), Refused> {
    let pool = Peer::parse::<KernelCrc>(header)?.to.pool;
    let mut bytes = KVec::with_capacity(header.len(), GFP_KERNEL)?;
    bytes.extend_from_slice(header, GFP_KERNEL)?;
    let runner = registry()?.runner_of(pool).ok_or(Status::NoStore)?;
    Ok((Mail::Peer(bytes), runner))
}
