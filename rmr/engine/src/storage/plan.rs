// SPDX-License-Identifier: GPL-2.0

//! A change of what a member has on disk: which stages it goes through.

use super::records::RecordId;
use super::shared::FlushMark;
use rmr_proto::Kind;
use rmr_proto::MemberSet;
use rmr_proto::Uuid;

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Goal {
    /// A new incarnation.
    Start,
    /// A client has the promise of a generation.
    Promise,
    /// A configuration counts.
    Install,
    /// Marks of clients are on disk.
    Merge,
    /// The client left in order.
    Detach,
    /// Extents that are waited for are in the log.
    Log,
    /// What was fetched of bitmaps is on disk.
    Fetched,
    /// What was pulled is stable.
    Prove,
    /// What could not be read and was written is off the list.
    Rewritten,
}

/// Where a plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    Assign,
    Drain,
    Flush,
    Pages,
    Epoch,
    Log,
    Commit,
}

impl Stage {
    /// The stage after this one.
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Assign => Self::Drain,
            Self::Drain => Self::Flush,
            Self::Flush => Self::Pages,
            Self::Pages => Self::Epoch,
            Self::Epoch => Self::Log,
            Self::Log | Self::Commit => Self::Commit,
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pending {
    Nothing,
    /// The superblock is being written with this UUID.
    Assign(Uuid),
    Drain,
    Flush(FlushMark),
    /// A copy of a record is being written.
    Meta(RecordId, u16),
}

/// A change under way.
#[derive(Clone, Debug, Hash)]
pub(super) struct Plan {
    pub(super) goal: Goal,
    pub(super) stage: Stage,
    /// Whom to answer.
    pub(super) call: Option<(u64, Kind)>,
    /// An episode begins with it.
    pub(super) joins: bool,
    /// The pool that the store is to belong to.
    pub(super) assign: Option<Uuid>,
    /// Wait for what runs.
    pub(super) drain: bool,
    /// Flush the store.
    pub(super) flush: bool,
    /// Write changed pages of bitmaps.
    pub(super) pages: bool,
    /// Write the epoch record even if nothing in it changed.
    pub(super) epoch: bool,
    /// Write the list of unreadable sectors.
    pub(super) list: bool,
    /// Write changed pages of the log.
    pub(super) log: bool,
    /// An extent came into the log.
    pub(super) admitted: bool,
    /// Every chunk of the own copy is dirty.
    pub(super) fill: bool,
    /// Members whose bitmaps are empty with the new epoch record.
    pub(super) emptied: MemberSet,
    /// Next page of a bitmap to look at: index of the member, page.
    pub(super) cursor: (usize, usize),
}

impl Plan {
    /// A plan that does nothing yet.
    pub(super) const fn new(goal: Goal) -> Self {
        let background = matches!(goal, Goal::Merge | Goal::Fetched);
        Self {
            goal,
            stage: Stage::Assign,
            call: None,
            joins: false,
            assign: None,
            drain: false,
            flush: false,
            pages: background,
            epoch: false,
            list: false,
            log: false,
            admitted: false,
            fill: false,
            emptied: MemberSet::EMPTY,
            cursor: (0, 0),
        }
    }

    /// The first plan of a member: the new incarnation, which also says what is suspect, then what was found damaged.
    pub(super) const fn start() -> Self {
        let mut plan = Self::new(Goal::Start);
        plan.epoch = true;
        plan.log = true;
        plan.stage = Stage::Epoch;
        plan
    }

    /// Whether a client waits for it, and other clients' changes have to.
    pub(super) const fn is_change(&self) -> bool {
        matches!(self.goal, Goal::Promise | Goal::Install | Goal::Detach)
    }
}
