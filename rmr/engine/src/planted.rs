// SPDX-License-Identifier: GPL-2.0

//! Bugs that can be switched on, to prove that the simulator finds them.
//!
//! Each is one fix or one precaution taken out: `if !on(Bug::X) { precaution }`. In any build without
//! `--cfg planted`, in the kernel always, [`on`] is the constant `false` and leaves no code behind.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $doc])* $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name, as in this source.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

bugs! {
    // Client side. The number is that of the finding in the review of the rules.
    /// 1: configurations are compared without their generation.
    HighestByEpoch,
    /// 2: the configuration is computed from the answers to queries, not from those of promises.
    DecideOnQuery,
    /// 3: the next epoch is derived from an unfinished one.
    DeriveFromUnfinished,
    /// 4: a flush does not go to members that are catching up.
    FlushOnlyInSync,
    /// 5: a drop is not installed on members that are catching up.
    TellOnlyInSync,
    /// 7: a volume goes on with a member that restarted.
    ResumeFromRestarted,
    /// 8: requests start while a drop is being installed.
    NoGate,
    /// 2: a write completes without members that are catching up.
    CompleteWithoutCatchingUp,
    /// 8: the chunks of writes in flight are not told at a drop.
    NoLists,
    /// 9: a receiver is added while writes are in flight.
    NoDrain,
    /// 11: suspects are told for absent members only.
    SuspectsForAbsentOnly,
    /// 14, 15: suspects are not told at all at an attach.
    NoRelay,
    /// 15: a configuration counts without a majority.
    NoMajority,
    /// 15: a pool starts without all in-sync members.
    StartWithoutAllInSync,
    /// A member whose removal was not completed stays in sync.
    LeaverStays,
    /// A pool of the same name is taken for the right one.
    TakeAnyPool,
    /// 18: a store known to be rolled back is taken.
    AcceptRolledBack,
    /// 16: a store of another history is overwritten.
    AcceptDiverged,
    /// 17: a client that was fenced attaches again.
    IgnoreFence,
    /// 19: reads go to members that are catching up.
    ReadFromCatchingUp,
    /// 20: a write that failed is not marked.
    NoMarkOfFailed,
    /// 21: as many extents as one likes in flight.
    NoExtentBudget,
    /// 23: the in-sync set is kept in spite of suspects.
    KeepInSync,
    /// Any member may be the source.
    AnySource,
    /// The suspects of a member that is taken back are not told.
    JoinWithoutSuspects,
    /// A member is promoted although it did not say that it is ready.
    PromoteUnready,
    /// A member that is taken back is not told that an episode begins.
    RejoinWithoutEpisode,
    // Storage side.
    /// 18: a page of which something may be missing is believed.
    TrustSuspicious,
    /// After a crash the good copy of a record is overwritten before the other one is repaired.
    RepairLast,
    /// 5: the chunks of the log are not dirty on absent members after a restart.
    ForgetLogOfAbsent,
    /// 14: a failed write or flush makes nothing suspect.
    ForgetFailures,
    /// 9: the table of executed writes outlives an episode.
    KeepDuplicates,
    /// A write does not wait for its extent to be in the log.
    WriteBeforeLog,
    /// A write does not make its chunks dirty on absent members.
    NoMarkForAbsent,
    /// 19: a member that catches up answers reads.
    AnswerWhileCatchingUp,
    /// 10: what was pulled overwrites a write that came meanwhile.
    PullOverWrite,
    /// 10: a write does not wait while what was pulled is being written.
    WriteIntoPull,
    /// 21: any extent leaves the log.
    EvictAnyExtent,
    /// 12: extents found in the log at a start are not suspect.
    ForgetLogAtStart,
    /// 11: writes above the watermark are not suspect.
    ForgetRecentWrites,
    /// 1: a promise changes the generation of what is installed.
    PromiseRaisesConfig,
    /// 2: a promise does not let running requests finish.
    PromiseWithoutDrain,
    /// 17: a generation is promised to two clients.
    IgnoreNonce,
    /// 6: a message for another incarnation is obeyed.
    IgnoreIncarnation,
    /// 16: a diverged store is overwritten unasked.
    InstallOverDiverged,
    /// 13: a configuration replaces a newer one.
    InstallOldEpoch,
    /// 26: what a member vouches for in a promise is not stable.
    NoPromiseFlush,
    /// 4: a member that is promoted does not flush.
    NoPromotionFlush,
    /// 29: bitmaps of members in sync are not emptied.
    KeepBitsOfInSync,
    /// A member is in sync when the client says so, ready or not.
    AlwaysReady,
    /// 16: what a member knows the others missed is not dirty on itself.
    ForgetMissedByOthers,
    /// 14: a member's suspects are not dirty on itself when it joins.
    JoinForgetsSuspects,
    /// Changed pages of bitmaps are not written.
    NoPages,
    /// 18: a record is written once only.
    OneCopy,
    /// 5: only the own bitmap is fetched.
    FetchOnlyOwn,
    /// 10: the own bitmap counts before it was fetched.
    TrustOwnBitmap,
    /// 13: messages of members under an older epoch are obeyed.
    IgnoreEpochOfPeers,
    /// What is dirty is given to others.
    ServeDirty,
    /// What was pulled before chunks were marked counts for them.
    ProveInSpiteOfMerge,
    /// 10: a chunk is pulled although its last writes may be missing on the source.
    PullRecent,
    /// 14: a member goes on after a failed flush.
    SurviveFailedFlush,
    /// What was pulled is clean before it is stable.
    ProveUnflushed,
}

/// Is this bug planted in this thread?
#[cfg(not(all(planted, not(CONFIG_RUST))))]
#[inline(always)]
pub const fn on(_bug: Bug) -> bool {
    false
}

#[cfg(all(planted, not(CONFIG_RUST)))]
mod chosen {
    use super::Bug;
    use core::cell::Cell;

    std::thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants this bug, and no other, in this thread.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.with(|chosen| chosen.set(bug));
    }

    /// Is this bug planted in this thread?
    pub fn on(bug: Bug) -> bool {
        CHOSEN.with(|chosen| chosen.get() == Some(bug))
    }
}

#[cfg(all(planted, not(CONFIG_RUST)))]
pub use chosen::on;
#[cfg(all(planted, not(CONFIG_RUST)))]
pub use chosen::plant;
