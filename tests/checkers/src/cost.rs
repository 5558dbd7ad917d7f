// SPDX-License-Identifier: GPL-2.0

//! What a write costs in metadata (R12): nothing, if its extent is hot.
//!
//! Every metadata write is told with what it is for, and has to be due:
//!
//! * a page of the log for each extent that enters it or leaves it, at most (both copies count as one);
//! * a page of a bitmap only while something is under way that may change it on disk: a configuration, a resync, a clear, an
//!   extent that leaves the log;
//! * an epoch record only for a promise, an install, a detach.
//!
//! So a run of writes to hot extents, on a healthy pool or a degraded one, may write no metadata at all.

use crate::violation::Rule;
use crate::violation::Time;
use crate::violation::Violation;
use std::collections::BTreeMap;

/// Kinds of metadata records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    /// A page of the activity log.
    Log,
    /// A page of a dirty bitmap, or of the suspects.
    Bitmap,
    /// Promise and configuration.
    Epoch,
}

/// What makes metadata writes due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// A write found its extent not in the log.
    Cold,
    /// An extent may leave the log: the log is nearly full, or all is quiet.
    Evict,
    /// A promise, an install, a merge, a detach, a rejoin, resync: any number, until [`Cost::settled`].
    Exception,
}

#[derive(Clone, Debug, Default, Hash)]
struct Member {
    log_due: u64,
    bitmap_due: bool,
    exception: bool,
    hot_writes: u64,
}

/// Metadata writes of all members.
#[derive(Clone, Debug, Default, Hash)]
pub struct Cost {
    members: BTreeMap<u8, Member>,
}

impl Cost {
    /// Nothing has happened.
    pub fn new() -> Cost {
        Cost::default()
    }

    /// A member executed a write to an extent that was in its log.
    pub fn hot_write(&mut self, member: u8) {
        self.members.entry(member).or_default().hot_writes += 1;
    }

    /// Something happened that may write metadata.
    pub fn due(&mut self, member: u8, due: Due) {
        let state = self.members.entry(member).or_default();
        match due {
            Due::Cold => state.log_due += 1,
            Due::Evict => {
                state.log_due += 1;
                state.bitmap_due = true;
            }
            Due::Exception => state.exception = true,
        }
    }

    /// All that was exceptional is over, and on disk.
    pub fn settled(&mut self, member: u8) {
        let state = self.members.entry(member).or_default();
        state.exception = false;
        state.bitmap_due = false;
        state.log_due = 0;
        state.hot_writes = 0;
    }

    /// A member writes a metadata record, the first copy of it.
    ///
    /// # Errors
    ///
    /// Nothing makes that due.
    pub fn metadata(&mut self, time: Time, member: u8, record: Record) -> Result<(), Violation> {
        let state = self.members.entry(member).or_default();
        if state.exception {
            return Ok(());
        }
        let is_due = match record {
            Record::Log => {
                let is_due = state.log_due > 0;
                state.log_due = state.log_due.saturating_sub(1);
                is_due
            }
            Record::Bitmap => state.bitmap_due,
            Record::Epoch => false,
        };
        if is_due {
            return Ok(());
        }
        let what = format!(
            "member {member} writes {record:?}, which nothing asked for, after {} writes to hot extents",
            state.hot_writes
        );
        Err(Violation::new(Rule::Cost, time, what))
    }
}
