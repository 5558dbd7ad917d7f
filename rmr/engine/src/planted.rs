// SPDX-License-Identifier: GPL-2.0

//! Bugs that can be switched on, to prove that the simulator finds them.
//!
//! Each is one fix or one precaution taken out: `if !on(Bug::X) { precaution }`. The number behind its name is how many
//! random seeds the simulator may need to find it; `sim --plant-all` (`make planted`) fails if it needs more. 0: random seeds do
//! not find it; unit tests, the museum or the model do, or should. Then come the rules that it breaks, of which one has to be seen:
//! what else a run with it does wrong does not count, as that would be luck. In any build without
//! `--cfg planted`, in the kernel always, [`on`] is the constant `false` and leaves no code behind.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $name:ident = $within:literal, $rules:ident;)*) => {
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

            /// Within how many random seeds the simulator has to find it, from seed 1 on; 0 if only tests written for it do.
            pub const fn within(self) -> u64 {
                match self {
                    $(Self::$name => $within,)*
                }
            }

            /// The rules of `tests/checkers` that it breaks, by name: one of them has to be seen broken.
            pub const fn rules(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => $rules,)*
                }
            }
        }
    };
}

/// What was written is gone, or was never written, on some copy or for the reader.
const DATA: &[&str] = &[
    "Register",
    "Corruption",
    "Durability",
    "Unmarked",
    "Unequal",
];
/// A difference that nobody remembers, seen on the disks or by a reader.
const MARKS: &[&str] = &["Unmarked", "Unequal", "Register", "Durability"];
/// What was to be stable is gone.
const STABLE: &[&str] = &["Durability", "Register", "Unmarked"];
/// Two clients, or one of the past.
const CLIENTS: &[&str] = &[
    "Superseded",
    "Register",
    "Durability",
    "Fencing",
    "Reused",
    "Unmarked",
];
/// What may be executed or served.
const ADMISSION: &[&str] = &["Fencing", "Twice", "Register", "Unmarked"];
/// Numbers and sets of configurations.
const CONFIGURATIONS: &[&str] = &[
    "Reused",
    "Orphaned",
    "Fencing",
    "Superseded",
    "Register",
    "Unmarked",
];
/// Nothing is lost, but it does not go on, or not in time.
const TIME: &[&str] = &["Slow", "Stuck", "Frozen", "Storm", "Spinning"];
/// A record counts that is not on disk, or not twice.
const RECORDS: &[&str] = &["Fencing", "Unreadable", "Durability", "Unmarked"];
/// A member in sync is said to have missed something.
const LEFT_OVER: &[&str] = &["LeftOver"];
/// A store whose records nobody damaged cannot be read.
const READABLE: &[&str] = &["Unreadable"];

bugs! {
    // Client side. The number is that of the finding in the review of the rules.
    /// 2: the configuration is computed from the answers to queries, not from those of promises.
    DecideOnQuery = 250, CLIENTS;
    /// 3: the next epoch is derived from an unfinished one.
    DeriveFromUnfinished = 250, CONFIGURATIONS;
    /// 4: a flush does not go to members that are catching up, and none comes before they are promoted.
    FlushOnlyInSync = 100, STABLE;
    /// 5: the writes that a dropped member may have missed are not told to members that are catching up.
    TellOnlyInSync = 2000, MARKS;
    /// 7: a volume goes on with a member that restarted.
    ResumeFromRestarted = 250, DATA;
    /// 8: requests start while a drop is being installed.
    NoGate = 100, MARKS;
    /// 2: a write completes without members that are catching up.
    CompleteWithoutCatchingUp = 100, DATA;
    /// 8: the chunks of writes in flight are not told at a drop.
    NoLists = 100, MARKS;
    /// 9: a receiver is added while writes are in flight.
    NoDrain = 500, MARKS;
    /// 11: suspects are told for absent members only.
    SuspectsForAbsentOnly = 100, MARKS;
    /// 14, 15: suspects are not told at all at an attach.
    NoRelay = 100, MARKS;
    /// 15: a configuration counts without a majority.
    NoMajority = 500, CLIENTS;
    /// 15: a pool starts without all in-sync members.
    StartWithoutAllInSync = 500, CLIENTS;
    /// A volume goes on, without the others, with a member that somebody was told is out.
    KeepWhoWasLeftOut = 250, CONFIGURATIONS;
    /// A volume goes on after a forced start, whatever the application was told.
    ForceOnOpenDevice = 1000, DATA;
    /// A member whose removal was not completed stays in sync, and so does the connection: without that it would be dropped, too.
    LeaverStays = 1000, CONFIGURATIONS;
    /// A pool of the same name is taken for the right one.
    TakeAnyPool = 250, ADMISSION;
    /// 18: a store known to be rolled back is taken.
    AcceptRolledBack = 1000, DATA;
    /// 16: a store of another history is overwritten unasked.
    AcceptDiverged = 1000, DATA;
    /// 17: a client that was fenced attaches again.
    IgnoreFence = 100, CLIENTS;
    /// 19: reads go to members that are catching up, and they answer.
    ReadFromCatchingUp = 100, ADMISSION;
    /// 20: the chunks of writes in flight, failed ones among them, are not told of members that are catching up.
    ListForAbsentOnly = 1000, MARKS;
    /// 21: as many extents as one likes in flight.
    NoExtentBudget = 2000, TIME;
    /// 23: the in-sync set is kept in spite of suspects.
    KeepInSync = 100, MARKS;
    /// Any member may be the source.
    AnySource = 100, DATA;
    /// 14: the suspects of a member that is taken back are dirty nowhere.
    JoinWithoutSuspects = 100, MARKS;
    /// A member is promoted although it is not ready.
    PromoteUnready = 100, DATA;
    /// A member that is taken back is not told that an episode begins.
    RejoinWithoutEpisode = 100, TIME;
    /// A request completes with the first acknowledgement.
    CompleteOnFirst = 100, DATA;
    /// Writes count as complete everywhere as soon as they are sent.
    WatermarkAhead = 100, MARKS;
    /// 3: the number of a configuration that was given up is used again.
    ReuseEpoch = 2000, CONFIGURATIONS;
    /// 22: the last member in sync is dropped for the error of one request.
    DropLastForError = 500, TIME;
    /// 24: a new store gets the place of another one, and nobody has all of it dirty.
    NewStoreUnmarked = 100, MARKS;
    /// 24: a store that comes back gets the place of another one, whatever its numbers are, and however empty it is: each of these
    /// tells, too.
    AcceptOtherStore = 500, DATA;
    /// 28: a member that cannot be taken back is tried again at once.
    NoPauses = 250, TIME;
    // Storage side.
    /// 18: a page of which something may be missing is believed.
    TrustSuspicious = 2000, MARKS;
    /// After a crash the good copy of a record is overwritten before the other one is repaired.
    RepairLast = 250, READABLE;
    /// 5: the chunks of the log are not dirty on absent members after a restart.
    ForgetLogOfAbsent = 500, MARKS;
    /// 9: the table of executed writes outlives an episode.
    KeepDuplicates = 100, ADMISSION;
    /// A write does not wait for its extent to be in the log.
    WriteBeforeLog = 100, MARKS;
    /// A write does not make its chunks dirty on absent members.
    NoMarkForAbsent = 100, MARKS;
    /// 10: what was pulled overwrites a write that came meanwhile.
    PullOverWrite = 100, DATA;
    /// 10: a write does not wait while what was pulled is being written.
    WriteIntoPull = 500, DATA;
    /// 21: any extent leaves the log.
    EvictAnyExtent = 1000, MARKS;
    /// 12: extents found in the log at a start are not suspect.
    ForgetLogAtStart = 100, MARKS;
    /// 11: writes above the watermark are not suspect.
    ForgetRecentWrites = 100, MARKS;
    /// 1: a promise changes the generation of what is installed.
    PromiseRaisesConfig = 100, CLIENTS;
    /// 2: a promise does not let running requests finish.
    PromiseWithoutDrain = 100, ADMISSION;
    /// 17: a generation is promised to two clients.
    IgnoreNonce = 1000, CLIENTS;
    /// 6: a member that restarted goes on as if it had not, in the incarnation it had, with what was installed, and nothing is suspect.
    /// Of the first two either is enough: in another incarnation it obeys nobody, and what it does not serve cannot be asked for.
    IgnoreRestart = 100, ADMISSION;
    /// 13: a configuration replaces a newer one.
    InstallOldEpoch = 2000, CONFIGURATIONS;
    /// 26: what a member vouches for in a promise is not stable.
    NoPromiseFlush = 100, STABLE;
    /// 4: a member that is promoted does not flush, neither then nor after what it pulled.
    NoPromotionFlush = 100, STABLE;
    /// 29: bitmaps of members in sync are not emptied.
    KeepBitsOfInSync = 100, LEFT_OVER;
    /// 16: what a member knows the others missed is not dirty on itself.
    ForgetMissedByOthers = 100, MARKS;
    /// Changed pages of bitmaps are not written.
    NoPages = 100, RECORDS;
    /// 18: a record is written once only.
    OneCopy = 100, RECORDS;
    /// 5: only the own bitmap is fetched.
    FetchOnlyOwn = 500, DATA;
    /// 10: the own bitmap counts before it was fetched.
    TrustOwnBitmap = 100, DATA;
    /// 13: a clear is obeyed without proof: whoever sends it, under whatever older epoch.
    IgnoreEpochOfPeers = 500, ADMISSION;
    /// 22: anybody is asked for what was missed, and gives it, dirty or not.
    ServeDirty = 100, DATA;
    /// 25: a discard is no write: what it changes is dirty nowhere.
    DiscardUnmarked = 300, MARKS;
    /// What was pulled before chunks were marked counts for them.
    ProveInSpiteOfMerge = 500, DATA;
    /// 10: a chunk is pulled although its last writes may be missing on the source.
    PullRecent = 250, DATA;
    /// 14: a member goes on after a failed flush, and nothing is suspect.
    SurviveFailedFlush = 250, STABLE;
    /// What was pulled is clean before it is complete everywhere.
    ProveIncomplete = 3000, MARKS;
    /// What was pulled is clean before it is stable.
    ProveUnflushed = 2000, STABLE;
    /// What is fetched replaces what was known to be dirty.
    ReplaceBitmap = 100, MARKS;
    /// R17: after a restart nobody knows any more what could not be read.
    ForgetUnreadable = 1000, DATA;
    /// R17: what is old because nobody could read it is served.
    ServeUnreadable = 250, DATA;
    /// R17: what nobody could read is not written down.
    UnreadableUnwritten = 1000, DATA;
    /// R17: a write to what nobody could read is answered before that is off the list on disk.
    AnswerWhileListed = 100, DATA;
    /// R17: what was written leaves the list before it is stable.
    UnlistUnflushed = 2000, DATA;
    /// A change of the log is not written.
    LogUnwritten = 100, MARKS;
    /// Lists are acknowledged before they are on disk.
    AckListsEarly = 100, MARKS;
    /// What is read is answered although a flush has failed meanwhile.
    ReadAfterFailedFlush = 2000, DATA;
    /// A flush that succeeds after another one failed vouches for what that one lost.
    VouchAfterFailedFlush = 2000, STABLE;
    /// A start is forced with a member that was not told what it missed, and only what it knows of is dirty on the others.
    ForceUntold = 0, MARKS;
    /// A promise is answered before it is on disk.
    PromiseUnwritten = 100, CLIENTS;
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
