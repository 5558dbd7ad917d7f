// SPDX-License-Identifier: GPL-2.0

//! The asker's side of a handshake: this host learns that a node knows the secret of a pool, then proves that it does, too.

use super::control;
use super::session::Session;
use crate::refuse::numbered;
use crate::secret::Secret;
use crate::server::guard;
use core::fmt;
use kernel::bindings;
use kernel::prelude::*;
use rmr_proto::Challenge;
use rmr_proto::MemberId;
use rmr_proto::PoolName;
use rmr_proto::Proof;
use rmr_proto::Response;
use rmr_proto::Role;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::CHALLENGE_BYTES;
use rmr_proto::PROOF_BYTES;
use rmr_proto::RESPONSE_BYTES;
use rmr_sys::crc::KernelCrc;

/// How long a node may take for each of the two messages, in ms.
const TIMEOUT_MS: u32 = 2_000;

/// Why there is no agreement.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A message was not answered as it should be.
    Message(control::Failure),
    /// What the member said is not made with this secret.
    Unproved,
    /// Another member is there, or another store.
    Other(MemberId),
}

impl Failure {
    /// The errno for the administrator.
    pub(crate) fn errno(&self) -> Error {
        match self {
            Self::Message(failure) => failure.errno(),
            Self::Unproved => numbered(bindings::EKEYREJECTED),
            Self::Other(_) => numbered(bindings::ESTALE),
        }
    }

    /// One word for it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Message(control::Failure::Refused(status)) => match status {
                Status::WrongSecret => "wrong_secret",
                Status::NoSecret => "no_secret",
                Status::NoPool | Status::NoStore => "no_store",
                Status::Disconnected | Status::TimedOut => "no_answer",
                _ => "refused",
            },
            Self::Message(control::Failure::Garbled(_)) => "refused",
            Self::Message(_) => "no_answer",
            Self::Unproved => "wrong_secret",
            Self::Other(_) => "wrong_member",
        }
    }

    /// Whether somebody has to do something. If not, the node is about to come back, or on its way out.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self.word(), "no_store" | "no_answer")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(control::Failure::Refused(Status::NoSecret)) => f.write_str(
                "the node requires no secret, so it is not trusted; on the node remove the store, and add it with secret=",
            ),
            Self::Unproved | Self::Message(control::Failure::Refused(Status::WrongSecret)) => {
                f.write_str("the secret of the node is another one; give the same key to both hosts")
            }
            Self::Message(failure) => fmt::Display::fmt(failure, f),
            Self::Other(member) => write!(
                f,
                "member {member} is there, or another store than it says; check the addresses"
            ),
        }
    }
}

/// Comes to an agreement with the node behind `session`: who its member of the pool is. Sleeps, at most twice [`TIMEOUT_MS`].
pub(crate) fn prove(
    session: &Session,
    name: PoolName,
    role: Role,
    secret: &Secret,
) -> Result<(MemberId, Uuid), Failure> {
    let challenge = Challenge {
        name,
        role,
        nonce: guard::nonce(),
    };
    let response = ask(session, &challenge).map_err(Failure::Message)?;
    let proof = challenge.prove(secret.key(), &response);
    let proof = proof.ok_or(Failure::Unproved)?;
    tell(session, &proof).map_err(Failure::Message)?;
    Ok((response.member, response.store))
}

fn ask(session: &Session, challenge: &Challenge) -> Result<Response, control::Failure> {
    let mut header = [0; CHALLENGE_BYTES];
    let mut reply = [0; RESPONSE_BYTES];
    challenge
        .encode::<KernelCrc>(&mut header)
        .map_err(control::Failure::Garbled)?;
    control::exchange_within(TIMEOUT_MS, session, &header, &mut reply)?;
    Response::parse::<KernelCrc>(&reply).map_err(control::Failure::Garbled)
}

fn tell(session: &Session, proof: &Proof) -> Result<(), control::Failure> {
    let mut header = [0; PROOF_BYTES];
    proof
        .encode::<KernelCrc>(&mut header)
        .map_err(control::Failure::Garbled)?;
    control::exchange_within(TIMEOUT_MS, session, &header, &mut [0; 8])
}
