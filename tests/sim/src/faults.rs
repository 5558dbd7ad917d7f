// SPDX-License-Identifier: GPL-2.0

//! Kinds of faults; each can be switched off.

use std::fmt;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[doc = $doc])* $name,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$name => $text,)*
                }
            }

            /// What it does, in a line.
            pub fn about(self) -> &'static str {
                match self {
                    $(Kind::$name => concat!($($doc),*),)*
                }
            }
        }
    };
}

kinds! {
    /// A message or its answer is lost; the transport notices after its timeout.
    Loss = "loss",
    /// Messages take much longer now and then, and overtake each other by that.
    Delay = "delay",
    /// Messages arrive twice, at once or much later.
    Duplicate = "duplicate",
    /// Path failover: an answer is lost, the message is sent again, its first copy may arrive much later.
    Failover = "failover",
    /// Nothing gets through between two hosts.
    Partition = "partition",
    /// Nothing gets through in one direction.
    OneWay = "one-way",
    /// A session breaks and comes back.
    Flap = "flap",
    /// The client host crashes; its device is opened again, there or on another host.
    ClientCrash = "client-crash",
    /// The client host pauses, and goes on later.
    ClientPause = "client-pause",
    /// Another client takes over while the first is alive.
    Takeover = "takeover",
    /// The device is closed in order, and opened again.
    Detach = "detach",
    /// A member crashes and loses what its disk had not made stable.
    MemberCrash = "member-crash",
    /// A member crashes again and again, each time while it starts.
    CrashLoop = "crash-loop",
    /// A member restarts in less time than anyone needs to notice; its disk keeps everything.
    QuickReboot = "quick-reboot",
    /// A member pauses, and goes on later.
    MemberPause = "member-pause",
    /// Several members crash at once.
    Several = "several",
    /// Power loss of all: client and members.
    Blackout = "blackout",
    /// A disk is reset under a member that stays up, and loses its cache.
    DiskReset = "disk-reset",
    /// A metadata write fails.
    MetaFail = "meta-fail",
    /// A metadata write is acknowledged and not done; one copy of a record.
    MetaLost = "meta-lost",
    /// A metadata write goes to another place; one copy of a record.
    MetaMisdirected = "meta-misdirected",
    /// A copy of a record becomes unreadable while its member is down.
    MetaRot = "meta-rot",
    /// A block of data cannot be read until it is written.
    ReadMedium = "read-medium",
    /// A block of data cannot be written, once or for a while.
    WriteMedium = "write-medium",
    /// A flush of the data disk fails, and what it was to make stable may be lost.
    FlushFail = "flush-fail",
    /// A disk is slow for a while.
    SlowDisk = "slow-disk",
    /// A disk does not answer for a while.
    HungDisk = "hung-disk",
    /// The disk of a member that is down is replaced by an older state of itself.
    StaleDisk = "stale-disk",
    /// The disk of a member that is down is replaced by one of another pool.
    ForeignDisk = "foreign-disk",
    /// The disk of a member is replaced by an empty one.
    EmptyDisk = "empty-disk",
    /// A clock jumps.
    Clock = "clock",
    /// There is no memory.
    NoMemory = "no-memory",
    /// A command of the administrator at a random moment.
    Admin = "admin",
    /// A member is added or removed.
    Table = "table",
    /// The administrator forces a start without those who are away, and later gives up what they have.
    Force = "force",
    /// The device is opened by the name of the pool, which another pool may have.
    ByName = "by-name",
    /// A block cannot be read on any disk until it is written, not even after healing.
    DeadBlock = "dead-block",
}

impl Kind {
    /// Whether it hits at a moment, not each message or access with a probability.
    pub fn is_moment(self) -> bool {
        !matches!(
            self,
            Kind::Loss
                | Kind::Delay
                | Kind::Duplicate
                | Kind::Failover
                | Kind::MetaFail
                | Kind::MetaLost
                | Kind::MetaMisdirected
                | Kind::ReadMedium
                | Kind::WriteMedium
                | Kind::FlushFail
                | Kind::NoMemory
                | Kind::ByName
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Kind, String> {
        let found = Kind::ALL.iter().find(|kind| kind.name() == name);
        found
            .copied()
            .ok_or_else(|| format!("no fault has the name {name}"))
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u64);

impl Kinds {
    /// None.
    pub const NONE: Kinds = Kinds(0);

    /// All.
    pub fn all() -> Kinds {
        Kind::ALL
            .iter()
            .fold(Kinds::NONE, |kinds, &kind| kinds.with(kind))
    }

    /// These, and this one.
    #[must_use]
    pub fn with(self, kind: Kind) -> Kinds {
        Kinds(self.0 | 1 << kind as u32)
    }

    /// These, but for this one.
    #[must_use]
    pub fn without(self, kind: Kind) -> Kinds {
        Kinds(self.0 & !(1 << kind as u32))
    }

    /// Whether this one is among them.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u32 != 0
    }

    /// In the order of their declaration.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL
            .iter()
            .copied()
            .filter(move |&kind| self.contains(kind))
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<T: IntoIterator<Item = Kind>>(kinds: T) -> Kinds {
        kinds.into_iter().fold(Kinds::NONE, Kinds::with)
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Kind::name).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind));
            assert!(Kinds::all().contains(*kind));
            assert!(!Kinds::all().without(*kind).contains(*kind));
        }
        assert!("nothing".parse::<Kind>().is_err());
        let some: Kinds = [Kind::Loss, Kind::Admin].into_iter().collect();
        assert_eq!(some.to_string(), "loss,admin");
    }
}
