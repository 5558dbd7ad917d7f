// SPDX-License-Identifier: GPL-2.0

//! A configuration of a pool: who is in sync. Shared by messages and records.
//!
//! Which configuration may follow which is the engine's business; here is only what makes sense by itself.

use crate::ids::Epoch;
use crate::ids::Generation;
use crate::ids::Incarnation;
use crate::ids::MemberId;
use crate::ids::MemberSet;
use crate::ids::Uuid;
use crate::ids::MAX_MEMBERS;
use core::error::Error;
use core::fmt;
use core::mem::size_of;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;
use zerocopy::IntoBytes;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Configuration of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// Generation of the client that installed it; its number is not 0.
    pub generation: Generation,
    /// Number of the configuration; not 0.
    pub epoch: Epoch,
    /// Members that hold every completed write; at least one.
    pub in_sync: MemberSet,
    /// Members that receive new writes, but miss older ones.
    pub catching_up: MemberSet,
    /// Member table: the store UUID of each member, by [`MemberId::index`].
    pub members: [Option<Uuid>; MAX_MEMBERS],
    /// The incarnation in which each member last was a receiver, in this or an earlier configuration; none if that
    /// is not known. By [`MemberId::index`].
    pub incarnations: [Incarnation; MAX_MEMBERS],
    /// A configuration that each member has persisted, the last one of which that is known; none if it is of none. Earlier
    /// than this one. By [`MemberId::index`].
    pub persisted: [Epoch; MAX_MEMBERS],
    /// The client detached from the pool in order, and wrote nothing afterwards.
    pub clean: bool,
    /// The history it belongs to; not nil. An administrator who forces a start begins a new one.
    pub history: Uuid,
    /// Where that history begins; `None` in the first one of a pool.
    pub forked_from: Option<Fork>,
    /// How many members must have persisted a configuration for it to count.
    pub quorum: Quorum,
    /// Members that an administrator keeps out: in the table, but no receivers.
    pub maintenance: MemberSet,
}

/// The end of a history that was left, and the begin of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fork {
    /// The history that was left; not nil.
    pub history: Uuid,
    /// Its last epoch that belongs to the new history, too; not 0.
    pub epoch: Epoch,
}

/// How many members must have persisted a configuration for it to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Quorum {
    /// Its receivers.
    #[default]
    Off,
    /// Its receivers, and a majority of the member table.
    Majority,
}

/// What is wrong with a [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The generation's number is 0.
    NoGeneration,
    /// The epoch is 0.
    NoEpoch,
    /// No member is in sync.
    NobodyInSync,
    /// This member is both in sync and catching up.
    InSyncAndCatchingUp(MemberId),
    /// This member receives writes, but is not in the table.
    NotInTable(MemberId),
    /// Two members with one store.
    SameStore(MemberId, MemberId),
    /// The table has a nil UUID for this member.
    NilStore(MemberId),
    /// This member receives writes, and its incarnation is not given.
    NoIncarnation(MemberId),
    /// This member is not in the table, and has an incarnation.
    StrayIncarnation(MemberId),
    /// This member has persisted a configuration that is not an earlier one, or is not in the table.
    Persisted(MemberId),
    /// There is no history, or the one it forked from is named only in part.
    NoHistory,
    /// This member is kept out, but receives writes or is not in the table.
    Maintenance(MemberId),
    /// A flag that has no meaning is set.
    Flags(u32),
    /// Something is set although nothing is installed.
    NotEmpty,
}

impl Config {
    /// Whether it makes sense by itself.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.generation.is_none() {
            return Err(ConfigError::NoGeneration);
        }
        if self.epoch.is_none() {
            return Err(ConfigError::NoEpoch);
        }
        if self.in_sync.is_empty() {
            return Err(ConfigError::NobodyInSync);
        }
        if let Some(id) = self.in_sync.intersection(self.catching_up).iter().next() {
            return Err(ConfigError::InSyncAndCatchingUp(id));
        }
        let table = self.table();
        if let Some(id) = self.receivers().minus(table).iter().next() {
            return Err(ConfigError::NotInTable(id));
        }
        for id in table {
            let Some(store) = self.store(id) else {
                continue;
            };
            if store.is_nil() {
                return Err(ConfigError::NilStore(id));
            }
            if let Some(first) = self.member_of(&store).filter(|first| *first != id) {
                return Err(ConfigError::SameStore(first, id));
            }
        }
        for id in MemberId::all() {
            let none = self.incarnation(id).is_none();
            if none && self.receivers().contains(id) {
                return Err(ConfigError::NoIncarnation(id));
            }
            if !none && !table.contains(id) {
                return Err(ConfigError::StrayIncarnation(id));
            }
            let persisted = self.persisted(id);
            if persisted >= self.epoch || (persisted.is_some() && !table.contains(id)) {
                return Err(ConfigError::Persisted(id));
            }
        }
        let out = self.maintenance;
        let wrong = out.minus(table).union(out.intersection(self.receivers()));
        if let Some(id) = wrong.iter().next() {
            return Err(ConfigError::Maintenance(id));
        }
        let half = self
            .forked_from
            .is_some_and(|fork| fork.history.is_nil() || fork.epoch.is_none());
        if self.history.is_nil() || half {
            return Err(ConfigError::NoHistory);
        }
        Ok(())
    }

    /// Members that get every new write.
    pub const fn receivers(&self) -> MemberSet {
        self.in_sync.union(self.catching_up)
    }

    /// Members in the table.
    pub fn table(&self) -> MemberSet {
        MemberId::all()
            .filter(|id| self.store(*id).is_some())
            .collect()
    }

    /// Store UUID of a member, if it is in the table.
    pub fn store(&self, id: MemberId) -> Option<Uuid> {
        self.members.get(id.index()).copied().flatten()
    }

    /// The incarnation in which a member last was a receiver; none if it is not known.
    pub fn incarnation(&self, id: MemberId) -> Incarnation {
        self.incarnations
            .get(id.index())
            .copied()
            .unwrap_or(Incarnation::NONE)
    }

    /// The last configuration that a member is known to have persisted; none if it is not known of any.
    pub fn persisted(&self, id: MemberId) -> Epoch {
        self.persisted
            .get(id.index())
            .copied()
            .unwrap_or(Epoch::NONE)
    }

    /// Members of which a majority is needed, with such a quorum: all of the table. In a history that was forced, those that
    /// have had a configuration of it: who was given up, or never came, would keep it from being repaired.
    pub fn voters(&self) -> MemberSet {
        let Some(fork) = self.forked_from else {
            return self.table();
        };
        let came = self.table().iter();
        came.filter(|id| self.persisted(*id) > fork.epoch)
            .collect::<MemberSet>()
            .union(self.receivers())
    }

    /// Whether a store that has `older` installed may be brought to this one: both are of one history, or this one's
    /// history began where `older` or a later one was. If not, the store is diverged (R7).
    pub fn follows(&self, older: &Self) -> bool {
        self.history == older.history
            || self
                .forked_from
                .is_some_and(|fork| fork.history == older.history && older.epoch <= fork.epoch)
    }

    /// The first member with this store.
    pub fn member_of(&self, store: &Uuid) -> Option<MemberId> {
        MemberId::all().find(|id| self.store(*id) == Some(*store))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGeneration => f.write_str("a configuration without generation"),
            Self::NoEpoch => f.write_str("a configuration without epoch"),
            Self::NobodyInSync => f.write_str("a configuration with no member in sync"),
            Self::InSyncAndCatchingUp(id) => {
                write!(f, "member {id} is both in sync and catching up")
            }
            Self::NotInTable(id) => write!(
                f,
                "member {id} receives writes but is not in the member table"
            ),
            Self::SameStore(a, b) => write!(f, "members {a} and {b} have the same store UUID"),
            Self::NilStore(id) => write!(f, "the store UUID of member {id} is nil"),
            Self::NoIncarnation(id) => {
                write!(f, "member {id} receives writes, but in no incarnation")
            }
            Self::StrayIncarnation(id) => write!(
                f,
                "member {id} has an incarnation but is not in the member table"
            ),
            Self::Persisted(id) => write!(
                f,
                "member {id} has persisted what is not an earlier configuration"
            ),
            Self::NoHistory => f.write_str("a configuration of no history"),
            Self::Maintenance(id) => write!(
                f,
                "member {id} is in maintenance, but receives writes or is not in the member table"
            ),
            Self::Flags(flags) => write!(f, "unknown configuration flags {flags:#x}"),
            Self::NotEmpty => f.write_str("a configuration with epoch 0 that is not empty"),
        }
    }
}

impl Error for ConfigError {}

/// The same as bytes; all zero for no configuration.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawConfig {
    generation: U64,
    nonce: U64,
    epoch: U64,
    in_sync: U32,
    catching_up: U32,
    flags: U32,
    maintenance: U32,
    history: [u8; 16],
    forked_history: [u8; 16],
    forked_epoch: U64,
    members: [RawMember; MAX_MEMBERS],
}

/// A place in the member table; all zero for a free one.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawMember {
    store: [u8; 16],
    incarnation: U64,
    persisted: U64,
}

const _: () = assert!(size_of::<RawConfig>() == 1104);

const CLEAN: u32 = 1;
const MAJORITY: u32 = 2;

impl RawConfig {
    /// Writes `config`, or zeroes for none. Fails rather than let a senseless one out.
    pub(crate) fn set(&mut self, config: Option<&Config>) -> Result<(), ConfigError> {
        self.as_mut_bytes().fill(0);
        let Some(config) = config else { return Ok(()) };
        config.check()?;
        self.generation = U64::new(config.generation.number);
        self.nonce = U64::new(config.generation.nonce);
        self.epoch = U64::new(config.epoch.0);
        self.in_sync = U32::new(config.in_sync.bits());
        self.catching_up = U32::new(config.catching_up.bits());
        let quorum = match config.quorum {
            Quorum::Off => 0,
            Quorum::Majority => MAJORITY,
        };
        self.flags = U32::new(quorum | if config.clean { CLEAN } else { 0 });
        self.maintenance = U32::new(config.maintenance.bits());
        self.history = config.history.0;
        if let Some(fork) = config.forked_from {
            self.forked_history = fork.history.0;
            self.forked_epoch = U64::new(fork.epoch.0);
        }
        for (id, raw) in MemberId::all().zip(self.members.iter_mut()) {
            raw.store = config.store(id).map_or([0; 16], |uuid| uuid.0);
            raw.incarnation = U64::new(config.incarnation(id).0);
            raw.persisted = U64::new(config.persisted(id).0);
        }
        Ok(())
    }

    /// Reads what [`Self::set`] made; false if that is no configuration. In place, because a kernel stack is small:
    /// each `Config` that is returned or moved is there once more. After an error `config` has no meaning.
    pub(crate) fn read(&self, config: &mut Config) -> Result<bool, ConfigError> {
        if self.epoch.get() == 0 {
            return if self.as_bytes().iter().all(|b| *b == 0) {
                Ok(false)
            } else {
                Err(ConfigError::NotEmpty)
            };
        }
        let flags = self.flags.get();
        if flags & !(CLEAN | MAJORITY) != 0 {
            return Err(ConfigError::Flags(flags));
        }
        let fork = Fork {
            history: Uuid(self.forked_history),
            epoch: Epoch(self.forked_epoch.get()),
        };
        config.generation = Generation {
            number: self.generation.get(),
            nonce: self.nonce.get(),
        };
        config.epoch = Epoch(self.epoch.get());
        config.in_sync = MemberSet::from_bits(self.in_sync.get());
        config.catching_up = MemberSet::from_bits(self.catching_up.get());
        for (to, raw) in Iterator::zip(config.members.iter_mut(), &self.members) {
            *to = Uuid(raw.store).non_nil();
        }
        for (to, raw) in Iterator::zip(config.incarnations.iter_mut(), &self.members) {
            *to = Incarnation(raw.incarnation.get());
        }
        for (to, raw) in Iterator::zip(config.persisted.iter_mut(), &self.members) {
            *to = Epoch(raw.persisted.get());
        }
        config.clean = flags & CLEAN != 0;
        config.history = Uuid(self.history);
        config.forked_from = (!fork.history.is_nil() || fork.epoch.is_some()).then_some(fork);
        config.quorum = if flags & MAJORITY != 0 {
            Quorum::Majority
        } else {
            Quorum::Off
        };
        config.maintenance = MemberSet::from_bits(self.maintenance.get());
        config.check()?;
        Ok(true)
    }
}

impl Config {
    /// No configuration: where one is read to.
    pub(crate) const BLANK: Self = Self {
        generation: Generation::NONE,
        epoch: Epoch(0),
        in_sync: MemberSet::EMPTY,
        catching_up: MemberSet::EMPTY,
        members: [None; MAX_MEMBERS],
        incarnations: [Incarnation(0); MAX_MEMBERS],
        persisted: [Epoch(0); MAX_MEMBERS],
        clean: false,
        history: Uuid([0; 16]),
        forked_from: None,
        quorum: Quorum::Off,
        maintenance: MemberSet::EMPTY,
    };
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::FromZeros;

    impl RawConfig {
        fn get(&self) -> Result<Option<Config>, ConfigError> {
            let mut config = Config::BLANK;
            Ok(self.read(&mut config)?.then_some(config))
        }
    }

    pub(crate) fn member(id: u32) -> MemberId {
        MemberId::new(id).unwrap()
    }

    prop_compose! {
        /// Any valid configuration.
        pub(crate) fn any_config()(
            number in 1u64..,
            nonce: u64,
            epoch in 1u64..,
            first in 1u32..=32,
            table: u32,
            in_sync: u32,
            catching_up: u32,
            seed in 1u8..,
            known in proptest::array::uniform32(0u64..4),
            persisted in proptest::array::uniform32(0u64..4),
            maintenance: u32,
            history in 1u8..,
            fork in proptest::option::of((1u8.., 1u64..)),
            majority: bool,
            clean: bool,
        ) -> Config {
            let first = MemberSet::only(member(first));
            let table = MemberSet::from_bits(table).union(first);
            let in_sync = MemberSet::from_bits(in_sync).intersection(table).union(first);
            let catching_up = MemberSet::from_bits(catching_up).intersection(table).minus(in_sync);
            let mut members = [None; MAX_MEMBERS];
            for id in table {
                let mut uuid = [seed; 16];
                uuid[0] = id.get() as u8;
                members[id.index()] = Some(Uuid(uuid));
            }
            let receivers = in_sync.union(catching_up);
            let mut incarnations = [Incarnation::NONE; MAX_MEMBERS];
            for id in table {
                let least = u64::from(receivers.contains(id));
                incarnations[id.index()] = Incarnation(known[id.index()].max(least));
            }
            let persisted = core::array::from_fn(|place| {
                let least = if members[place].is_some() { epoch - 1 } else { 0 };
                Epoch(persisted[place].min(least))
            });
            Config {
                generation: Generation { number, nonce },
                epoch: Epoch(epoch),
                in_sync,
                catching_up,
                members,
                incarnations,
                persisted,
                clean,
                history: Uuid([history; 16]),
                forked_from: fork.map(|(history, epoch)| Fork {
                    history: Uuid([history; 16]),
                    epoch: Epoch(epoch),
                }),
                quorum: if majority { Quorum::Majority } else { Quorum::Off },
                maintenance: MemberSet::from_bits(maintenance).intersection(table).minus(receivers),
            }
        }
    }

    /// Member 1, in sync, and member 2, catching up.
    pub(crate) fn sample() -> Config {
        let mut members = [None; MAX_MEMBERS];
        members[0] = Some(Uuid([1; 16]));
        members[1] = Some(Uuid([2; 16]));
        let mut incarnations = [Incarnation::NONE; MAX_MEMBERS];
        incarnations[0] = Incarnation(5);
        incarnations[1] = Incarnation(6);
        Config {
            generation: Generation {
                number: 1,
                nonce: 7,
            },
            epoch: Epoch(1),
            in_sync: MemberSet::from_bits(0b01),
            catching_up: MemberSet::from_bits(0b10),
            members,
            incarnations,
            persisted: [Epoch::NONE; MAX_MEMBERS],
            clean: false,
            history: Uuid([0x48; 16]),
            forked_from: None,
            quorum: Quorum::Off,
            maintenance: MemberSet::EMPTY,
        }
    }

    #[test]
    fn histories() {
        let config = |history: u8, epoch, fork: Option<(u8, u64)>| Config {
            history: Uuid([history; 16]),
            epoch: Epoch(epoch),
            forked_from: fork.map(|(history, epoch)| Fork {
                history: Uuid([history; 16]),
                epoch: Epoch(epoch),
            }),
            ..sample()
        };
        let old = config(1, 7, None);
        assert!(config(1, 3, None).follows(&old));
        assert!(config(2, 8, Some((1, 7))).follows(&old));
        assert!(!config(2, 8, Some((1, 6))).follows(&old));
        assert!(!config(2, 8, Some((3, 9))).follows(&old));
        assert!(!config(2, 8, None).follows(&old));
        assert!(!old.follows(&config(2, 1, Some((1, 7)))));
    }

    #[test]
    fn voters() {
        let mut config = sample();
        config.members[2] = Some(Uuid([3; 16]));
        config.members[3] = Some(Uuid([4; 16]));
        config.persisted[2] = Epoch(5);
        config.persisted[3] = Epoch(6);
        assert_eq!(config.voters(), MemberSet::from_bits(0b1111));
        let (history, epoch) = (Uuid([7; 16]), Epoch(5));
        config.forked_from = Some(Fork { history, epoch });
        assert_eq!(config.voters(), MemberSet::from_bits(0b1011));
    }

    #[test]
    fn refused() {
        let refused = |change: &dyn Fn(&mut Config)| {
            let mut config = sample();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert_eq!(sample().check(), Ok(()));
        assert_eq!(
            refused(&|c| c.generation = Generation::NONE),
            ConfigError::NoGeneration
        );
        assert_eq!(refused(&|c| c.epoch = Epoch::NONE), ConfigError::NoEpoch);
        assert_eq!(
            refused(&|c| c.in_sync = MemberSet::EMPTY),
            ConfigError::NobodyInSync
        );
        assert_eq!(
            refused(&|c| c.in_sync = c.catching_up),
            ConfigError::InSyncAndCatchingUp(member(2))
        );
        assert_eq!(
            refused(&|c| c.members[1] = None),
            ConfigError::NotInTable(member(2))
        );
        assert_eq!(
            refused(&|c| c.members[1] = c.members[0]),
            ConfigError::SameStore(member(1), member(2))
        );
        assert_eq!(
            refused(&|c| c.members[9] = Some(Uuid::NIL)),
            ConfigError::NilStore(member(10))
        );
        assert_eq!(
            refused(&|c| c.incarnations[1] = Incarnation::NONE),
            ConfigError::NoIncarnation(member(2))
        );
        assert_eq!(
            refused(&|c| c.incarnations[2] = Incarnation(1)),
            ConfigError::StrayIncarnation(member(3))
        );
        assert_eq!(
            refused(&|c| c.persisted[1] = c.epoch),
            ConfigError::Persisted(member(2))
        );
        assert_eq!(
            refused(&|c| (c.epoch, c.persisted[2]) = (Epoch(2), Epoch(1))),
            ConfigError::Persisted(member(3))
        );
        assert_eq!(
            refused(&|c| c.maintenance = MemberSet::from_bits(2)),
            ConfigError::Maintenance(member(2))
        );
        assert_eq!(
            refused(&|c| c.maintenance = MemberSet::from_bits(4)),
            ConfigError::Maintenance(member(3))
        );
        let fork = |history, epoch| {
            refused(&|c| {
                c.forked_from = Some(Fork {
                    history,
                    epoch: Epoch(epoch),
                })
            })
        };
        assert_eq!(fork(Uuid::NIL, 1), ConfigError::NoHistory);
        assert_eq!(fork(Uuid([1; 16]), 0), ConfigError::NoHistory);
        assert_eq!(refused(&|c| c.history = Uuid::NIL), ConfigError::NoHistory);
    }

    #[test]
    fn raw_refused() {
        let mut raw = RawConfig::new_zeroed();
        assert_eq!(raw.get(), Ok(None));
        raw.flags = U32::new(1);
        assert_eq!(raw.get(), Err(ConfigError::NotEmpty));
        raw.set(Some(&sample())).unwrap();
        raw.flags = U32::new(4);
        assert_eq!(raw.get(), Err(ConfigError::Flags(4)));
        raw.set(Some(&sample())).unwrap();
        raw.forked_epoch = U64::new(3);
        assert_eq!(raw.get(), Err(ConfigError::NoHistory));
        let mut bad = sample();
        bad.epoch = Epoch::NONE;
        assert_eq!(raw.set(Some(&bad)), Err(ConfigError::NoEpoch));
    }

    proptest! {
        #[test]
        fn round_trip(config in any_config()) {
            let mut raw = RawConfig::new_zeroed();
            raw.set(Some(&config)).unwrap();
            prop_assert_eq!(raw.get(), Ok(Some(config)));
            raw.set(None).unwrap();
            prop_assert_eq!(raw.get(), Ok(None));
        }
    }
}
