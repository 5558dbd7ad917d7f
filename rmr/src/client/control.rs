// SPDX-License-Identifier: GPL-2.0

//! Control messages from a client to a member, and the errors that an administrator gets to see from them.

use super::session::Session;
use crate::refuse::numbered;
use core::fmt;
use kernel::bindings;
use kernel::error::code;
use kernel::prelude::*;
use rmr_proto::Control;
use rmr_proto::Kind;
use rmr_proto::MemberReport;
use rmr_proto::PoolName;
use rmr_proto::Reply;
use rmr_proto::Status;
use rmr_proto::WireError;
use rmr_proto::MAX_CONTROL_BYTES;
use rmr_proto::REPLY_BYTES;
use rmr_sys::crc::KernelCrc;
use rtrs::CallError;

/// How long a member may take to answer a control message, in ms. A promise and a detach wait for what runs
/// on its disk.
const TIMEOUT_MS: u32 = 30_000;

/// Why a control message did not do what it should.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The node could not be reached, or did not answer.
    Unreachable(Error),
    /// What came back is not a reply.
    Garbled(WireError),
    /// The member refused.
    Refused(Status),
    /// Memory.
    Local(Error),
}

impl Failure {
    /// The errno for the administrator.
    pub(crate) fn errno(&self) -> Error {
        match self {
            Self::Unreachable(error) if *error == code::ERESTARTSYS => code::EINTR,
            Self::Unreachable(error) | Self::Local(error) => *error,
            Self::Garbled(_) => numbered(bindings::EPROTO),
            Self::Refused(status) => Error::from_errno(status.to_errno()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(
                f,
                "no answer ({:?}); check that the node is up, that rmr-server is loaded there, and the network",
                error
            ),
            Self::Garbled(why) => write!(
                f,
                "the answer is not understood: {why}; is the same version of rmr loaded there?"
            ),
            Self::Refused(Status::NotAuthenticated) => f.write_str(
                "the pool requires a secret; write the description of its key to the pool's file secret",
            ),
            Self::Refused(status) => write!(f, "refused: {status}"),
            Self::Local(error) => write!(f, "{error:?} on this host"),
        }
    }
}

/// Sends `message` over `session` and waits for the reply. Sleeps, at most [`TIMEOUT_MS`].
///
/// Replies are large, so they are boxed, and parsed only when nothing else is on the stack.
pub(crate) fn call(session: &Session, message: &Control) -> Result<KBox<Reply<'static>>, Failure> {
    let bytes = exchange(session, message)?;
    let reply = parse(&bytes[..], message.kind())?;
    reply.status.result().map_err(Failure::Refused)?;
    Ok(reply)
}

#[inline(never)]
fn exchange(session: &Session, message: &Control) -> Result<KBox<[u8; REPLY_BYTES]>, Failure> {
    let mut header =
        KBox::new([0; MAX_CONTROL_BYTES], GFP_KERNEL).map_err(|e| Failure::Local(e.into()))?;
    let mut reply = zeroed()?;
    let bytes = message
        .encode::<KernelCrc>(&mut header)
        .map_err(Failure::Garbled)?;
    exchange_within(TIMEOUT_MS, session, bytes, &mut reply[..])?;
    Ok(reply)
}

/// Sends any message and waits for its reply, at most `ms` milliseconds. Sleeps.
pub(crate) fn exchange_within(
    ms: u32,
    session: &Session,
    header: &[u8],
    reply: &mut [u8],
) -> Result<(), Failure> {
    session
        .call_within(ms, header, reply)
        .map_err(|error| match error {
            CallError::Answered(errno) => match Status::from_wire(errno.number()) {
                Some(status) => Failure::Refused(status),
                None => Failure::Unreachable(errno.into()),
            },
            CallError::Failed(error) => Failure::Unreachable(error),
        })
}

/// A buffer for a reply, never on the stack.
fn zeroed() -> Result<KBox<[u8; REPLY_BYTES]>, Failure> {
    KBox::init(pin_init::init_zeroed(), GFP_KERNEL).map_err(|e: Error| Failure::Local(e))
}

#[inline(never)]
fn parse(bytes: &[u8], kind: Kind) -> Result<KBox<Reply<'static>>, Failure> {
    let reply = Reply::parse::<KernelCrc>(bytes, kind).map_err(Failure::Garbled)?;
    KBox::new(reply.without_suspects(), GFP_KERNEL).map_err(|e| Failure::Local(e.into()))
}

/// Asks a node about its member of the pool `name`.
#[inline(never)]
pub(crate) fn query(session: &Session, name: PoolName) -> Result<KBox<MemberReport>, Failure> {
    report(call(session, &Control::Query { name })?)
}

/// The report in a reply that must have one.
#[inline(never)]
pub(crate) fn report(mut reply: KBox<Reply<'static>>) -> Result<KBox<MemberReport>, Failure> {
    let report = reply
        .report
        .take()
        .ok_or(Failure::Garbled(WireError::Missing("report")))?;
    KBox::new(report, GFP_KERNEL).map_err(|e| Failure::Local(e.into()))
}
