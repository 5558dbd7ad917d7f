// SPDX-License-Identifier: GPL-2.0

//! Checks what an RMR pool did against the rules of its design.
//!
//! Written apart from the engine: nothing here knows how a decision is made. What goes in is what an
//! observer sees (requests and answers of clients, contents of disks, what was executed where and when, what was
//! sent and written), and what comes out is a [`Violation`] that names the rule, the operations and the times.
//!
//! | module | rule | input |
//! | --- | --- | --- |
//! | [`history`] | each sector is a linearizable register; what survives a crash | requests and answers |
//! | [`disks`] | R11; in sync implies equal | contents of disks, marks of members |
//! | [`execution`] | R5, R8: at most once, nothing of the past; R4: who may read | executions on members |
//! | [`liveness`] | R17 to R20: bounds of time, messages, metadata writes | requests, messages |
//! | [`cost`] | R12: a write to a hot extent writes no metadata | metadata writes |
//!
//! Members are numbered 1 to 32; a set of members has bit *number* − 1 for each. Times are nanoseconds, and only
//! serve messages and bounds: what happened before what is the order in which it was told.
//!
//! Not here: how to produce a history, and what to do about a violation.

pub mod cost;
pub mod disks;
mod eras;
pub mod execution;
pub mod history;
pub mod liveness;
mod search;
mod sector;
pub mod sectors;
mod violation;
mod zones;

pub use violation::Rule;
pub use violation::Time;
pub use violation::Violation;

/// Whether `member` (1 to 32) is in `set`.
pub fn contains(set: u32, member: u8) -> bool {
    (1..=32).contains(&member) && set & bit(member) != 0
}

/// The set of this member alone; the empty set for a number that is none.
pub fn bit(member: u8) -> u32 {
    match member {
        1..=32 => 1 << (member - 1),
        _ => 0,
    }
}

/// The members of a set, in rising order.
pub fn members(mut set: u32) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let member = set.trailing_zeros() as u8 + 1;
        set &= set.wrapping_sub(1);
        (member <= 32).then_some(member)
    })
}
