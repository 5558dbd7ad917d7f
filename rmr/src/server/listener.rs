// SPDX-License-Identifier: GPL-2.0

//! The node's RTRS server: takes messages in, tells them apart, and finds whom they are for.
//!
//! IO is executed where it arrives, on a completion worker of RTRS. All other messages are left with the member.

use super::guard::Guard;
use super::guard::Passes;
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
use rmr_proto::Challenge;
use rmr_proto::Control;
use rmr_proto::Kind;
use rmr_proto::Merge;
use rmr_proto::Peer;
use rmr_proto::PoolName;
use rmr_proto::Proof;
use rmr_proto::Role;
use rmr_proto::Status;
use rmr_proto::WireError;
use rmr_proto::ADDRESS_BYTES;
use rmr_proto::MAX_BATCH_BYTES;
use rmr_proto::MAX_CONTROL_BYTES;
use rmr_proto::MAX_MERGE_BYTES;
use rmr_proto::MAX_PEER_BYTES;
use rmr_proto::MERGE_HEADER_BYTES;
use rmr_proto::RESPONSE_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::noio::without_io;
use rmr_sys::pr_warn_limited;
use rtrs::Op;
use rtrs::ServerOps;

/// A client's session on this node.
pub(crate) struct Session {
    name: CString,
    /// What it has proved.
    pub(crate) passes: Passes,
}

impl Session {
    /// What the client calls it.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// Whether it may speak to a member with this guard, as a client or another member. Any context.
    #[inline]
    pub(crate) fn may(&self, guard: &Option<Arc<Guard>>, role: Role) -> bool {
        match guard {
            None => true,
            Some(guard) => self.passes.has(guard, role),
        }
    }

    /// The same, and why not.
    fn check(&self, guard: &Option<Arc<Guard>>, role: Role) -> Result<(), Status> {
        match guard {
            Some(guard) if !self.passes.has(guard, role) => {
                guard.turned_away(self);
                Err(Status::NotAuthenticated)
            }
            _ => Ok(()),
        }
    }
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

    fn io(&self, session: &Session, batch: &Batch<'_>, op: Op) {
        match self.directory.enter(batch.header().pool) {
            Some(serving) if !session.may(&serving.runner.guard, Role::Client) => {
                refuse_io(session, &serving.runner, op)
            }
            Some(serving) => op::execute(serving, batch, op),
            None => not_serving(session, batch, op),
        }
    }

    /// A message that is no IO. The same worker brings IO, so this must not wait for memory that is written back by that.
    #[inline(never)]
    fn post(&self, session: Arc<Session>, kind: Kind, header: &[u8], op: Op) {
        let mail = match kind {
            Kind::Address => return self.done(&session, address(&session, header), op),
            Kind::Proof => return self.done(&session, proof(&session, header), op),
            Kind::Challenge => {
                return match challenge(&session, header) {
                    Ok(reply) => respond(op, &reply),
                    Err(why) => self.answer(&session, why, op),
                }
            }
            Kind::Merge => merge(&session, header, &op),
            kind if kind.is_peer() => peer(&session, header),
            _ => control(&session, header),
        };
        match mail {
            Ok((mail, runner)) => runner.post(mail, op),
            Err(why) => self.answer(&session, why, op),
        }
    }

    /// A message that is answered with a status was dealt with.
    fn done(&self, session: &Session, result: Result<(), Refused>, op: Op) {
        match result {
            Ok(()) => op.respond(Status::Ok.wire()),
            Err(why) => self.answer(session, why, op),
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
        let session = Session {
            name: CString::try_from(name)?,
            passes: Passes::new()?,
        };
        Ok(Arc::new(session, GFP_KERNEL)?)
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
            Ok(batch) => self.io(&session, &batch, op),
            Err(WireError::Kind(wire)) => match Kind::from_wire(wire).filter(|k| !k.is_io()) {
                Some(kind) => without_io(|| self.post(session.into(), kind, header, op)),
                None => self.refuse(&session, WireError::Kind(wire), op),
            },
            // The rest of it is data, so it is not whole.
            Err(_) if Kind::peek(header) == Some(Kind::Merge) => {
                without_io(|| self.post(session.into(), Kind::Merge, header, op))
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
fn not_serving(session: &Session, batch: &Batch<'_>, op: Op) {
    let runner = registry().map(|registry| registry.runner_of(batch.header().pool));
    match runner {
        Ok(Some(runner)) if !session.may(&runner.guard, Role::Client) => {
            refuse_io(session, &runner, op)
        }
        Ok(Some(runner)) => op::keep(&runner, batch, op),
        _ => op.respond(Status::NoStore.wire()),
    }
}

/// Requests of somebody who has proved nothing.
#[cold]
#[inline(never)]
fn refuse_io(session: &Session, runner: &Runner, op: Op) {
    if let Some(guard) = &runner.guard {
        guard.turned_away(session);
    }
    op.respond(Status::NotAuthenticated.wire());
}

/// A control message, which is too large to be moved about on the stack.
#[inline(never)]
fn control(session: &Arc<Session>, header: &[u8]) -> Result<(Mail, Arc<Runner>), Refused> {
    let message = KBox::new(Control::parse::<KernelCrc>(header)?, GFP_KERNEL)?;
    let runner = registry()?.runner(message.name())?;
    session.check(&runner.guard, Role::Client)?;
    Ok((Mail::Control(message, session.clone()), runner))
}

/// Marks: what does not fit into a header of RTRS is data.
#[inline(never)]
fn merge(session: &Session, header: &[u8], op: &Op) -> Result<(Mail, Arc<Runner>), Refused> {
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
    let runner = registry()?.runner(&name)?;
    session.check(&runner.guard, Role::Client)?;
    Ok((Mail::Merge(bytes), runner))
}

/// Where another member is: no business of the engine.
#[inline(never)]
fn address(session: &Session, header: &[u8]) -> Result<(), Refused> {
    let address = Address::parse::<KernelCrc>(header)?;
    let pool = registry()?.find(&address.name).ok_or(Status::NoPool)?;
    session.check(&pool.guard(), Role::Client)?;
    pool.book.told(address.of, address.text)?;
    Ok(())
}

/// The guard of a pool that somebody wants to prove something to.
fn guard(name: &PoolName) -> Result<Arc<Guard>, Refused> {
    let pool = registry()?.find(name).ok_or(Status::NoPool)?;
    if !pool.has_store() {
        return Err(Status::NoStore.into());
    }
    Ok(pool.guard().ok_or(Status::NoSecret)?)
}

/// Begin of a handshake.
#[inline(never)]
fn challenge(session: &Session, header: &[u8]) -> Result<[u8; RESPONSE_BYTES], Refused> {
    let challenge = Challenge::parse::<KernelCrc>(header)?;
    let response = guard(&challenge.name)?.respond(session, &challenge);
    let mut reply = [0; RESPONSE_BYTES];
    response.encode::<KernelCrc>(&mut reply)?;
    Ok(reply)
}

fn respond(op: Op, reply: &[u8]) {
    if let Err((op, _)) = op.reply(reply) {
        op.respond(Status::Invalid.wire());
    }
}

/// End of a handshake.
#[inline(never)]
fn proof(session: &Session, header: &[u8]) -> Result<(), Refused> {
    let proof = Proof::parse::<KernelCrc>(header)?;
    Ok(guard(&proof.name)?.check(session, &proof)?)
}

/// A message of another member.
#[inline(never)]
fn peer(session: &Session, header: &[u8]) -> Result<(Mail, Arc<Runner>), Refused> {
    let pool = Peer::parse::<KernelCrc>(header)?.to.pool;
    let mut bytes = KVec::with_capacity(header.len(), GFP_KERNEL)?;
    bytes.extend_from_slice(header, GFP_KERNEL)?;
    let runner = registry()?.runner_of(pool).ok_or(Status::NoStore)?;
    session.check(&runner.guard, Role::Peer)?;
    Ok((Mail::Peer(bytes), runner))
}
