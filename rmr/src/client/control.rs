// SPDX-License-Identifier: GPL-2.0

//! Control messages from a client to a member, and the errors that an administrator gets to see from them.

use super::session::Session;
use crate::refuse::numbered;
use core::fmt;
use kernel::bindings;
use kernel::error::code;
use kernel::prelude::*;
use rmr_proto::Control;
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
pub(crate) const TIMEOUT_MS: u32 = 30_000;

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
            Self::Refused(status) => write!(f, "refused: {status}"),
            Self::Local(error) => write!(f, "{error:?} on this host"),
        }
    }
}

/// Sends `message` over `session` and waits for the reply. Sleeps, at most [`TIMEOUT_MS`].
pub(crate) fn call(session: &Session, message: &Control) -> Result<Reply, Failure> {
    let mut header =
        KBox::new([0; MAX_CONTROL_BYTES], GFP_KERNEL).map_err(|e| Failure::Local(e.into()))?;
    let mut reply =
        KBox::new([0; REPLY_BYTES], GFP_KERNEL).map_err(|e| Failure::Local(e.into()))?;
    let bytes = message
        .encode::<KernelCrc>(&mut header)
        .map_err(Failure::Garbled)?;
    session
        .call(bytes, &mut reply[..])
        .map_err(|error| match error {
            CallError::Answered(errno) => match Status::from_wire(errno.number()) {
                Some(status) => Failure::Refused(status),
                None => Failure::Unreachable(errno.into()),
            },
            CallError::Failed(error) => Failure::Unreachable(error),
        })?;
    let reply = Reply::parse::<KernelCrc>(&reply[..], message.kind()).map_err(Failure::Garbled)?;
    reply.status.result().map_err(Failure::Refused)?;
    Ok(reply)
}

/// Asks a node about its member of the pool `name`.
pub(crate) fn query(session: &Session, name: PoolName) -> Result<MemberReport, Failure> {
    report(call(session, &Control::Query { name })?)
}

/// The report in a reply that must have one.
pub(crate) fn report(reply: Reply) -> Result<MemberReport, Failure> {
    reply
        .report
        .ok_or(Failure::Garbled(WireError::Missing("report")))
}
