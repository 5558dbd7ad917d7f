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
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::MemberId;
use rmr_proto::Status;
use rmr_proto::Uuid;

/// What a member that serves is, and a message to it must name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Pool.
    pub pool: Uuid,
    /// Member.
    pub member: MemberId,
    /// Its run.
    pub incarnation: Incarnation,
    /// Generation of the client it serves.
    pub generation: Generation,
    /// The configuration.
    pub epoch: Epoch,
}

/// Compares a message with the member that got it. Any context.
pub fn check(own: &Identity, message: &Header) -> Result<(), Status> {
    // One comparison after the other costs no more than all of them: nearly always all are made.
    if message.pool != own.pool {
        Err(Status::WrongUuid)
    } else if message.member != own.member {
        Err(Status::WrongMember)
    } else if message.incarnation != own.incarnation {
        Err(Status::StaleIncarnation)
    } else if message.generation != own.generation {
        Err(other_generation(own.generation, message.generation))
    } else if message.epoch != own.epoch {
        Err(if message.epoch < own.epoch {
            Status::StaleEpoch
        } else {
            Status::InstallFirst
        })
    } else {
        Ok(())
    }
}

/// The answer to a message of generation `message` where `own` is the one to go by, and another.
pub(crate) fn other_generation(own: Generation, message: Generation) -> Status {
    if message.number > own.number {
        Status::InstallFirst
    } else {
        Status::StaleGeneration
    }
}
