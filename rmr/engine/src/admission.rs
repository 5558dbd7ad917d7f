// SPDX-License-Identifier: GPL-2.0

//! Is an IO message meant for this member, in its present run and configuration (rule R5)?
//!
//! Incarnation, generation and epoch of the message must equal the member's own. A refusal is not an IO error: it
//! tells the client that it, or the member, is behind.
//!
//! | the message names | answer |
//! | --- | --- |
//! | another pool, another member | `WrongUuid`, `WrongMember` |
//! | another incarnation | `StaleIncarnation`: the member restarted |
//! | a lower generation, or the same number of another client | `StaleGeneration`: another client took over |
//! | a higher generation | `InstallFirst` |
//! | a lower epoch | `StaleEpoch` |
//! | a higher epoch | `InstallFirst` |
//!
//! Numbers in a message are a peer's word: they are only compared.

use rmr_proto::Epoch;
use rmr_proto::Generation;
use rmr_proto::Incarnation;
use rmr_proto::MemberId;
use rmr_proto::Status;
use rmr_proto::Uuid;

/// Whom a message is for: what the client writes into it, and what the member compares it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Pool.
    pub pool: Uuid,
    /// Member.
    pub member: MemberId,
    /// Its run.
    pub incarnation: Incarnation,
    /// The client.
    pub generation: Generation,
    /// The configuration.
    pub epoch: Epoch,
}

/// Compares a message with the member that got it. Any context.
pub fn check(own: &Identity, message: &Identity) -> Result<(), Status> {
    if own == message {
        return Ok(());
    }
    Err(refusal(own, message))
}

#[cold]
fn refusal(own: &Identity, message: &Identity) -> Status {
    if message.pool != own.pool {
        Status::WrongUuid
    } else if message.member != own.member {
        Status::WrongMember
    } else if message.incarnation != own.incarnation {
        Status::StaleIncarnation
    } else if message.generation.number > own.generation.number {
        Status::InstallFirst
    } else if message.generation != own.generation {
        Status::StaleGeneration
    } else if message.epoch < own.epoch {
        Status::StaleEpoch
    } else {
        Status::InstallFirst
    }
}
