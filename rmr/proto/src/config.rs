// SPDX-License-Identifier: GPL-2.0

//! A configuration of a pool: who is in sync. Shared by messages and records.
//!
//! Which configuration may follow which is the engine's business; here is only what makes sense by itself.

use crate::ids::Epoch;
use crate::ids::Generation;
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The client detached from the pool in order, and wrote nothing afterwards.
    pub clean: bool,
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
    reserved: U32,
    members: [[u8; 16]; MAX_MEMBERS],
}

const _: () = assert!(size_of::<RawConfig>() == 552);

const CLEAN: u32 = 1;

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
        self.flags = U32::new(if config.clean { CLEAN } else { 0 });
        for (raw, store) in self.members.iter_mut().zip(&config.members) {
            *raw = store.map_or([0; 16], |uuid| uuid.0);
        }
        Ok(())
    }

    /// Reads what [`Self::set`] made.
    pub(crate) fn get(&self) -> Result<Option<Config>, ConfigError> {
        if self.epoch.get() == 0 {
            return if self.as_bytes().iter().all(|b| *b == 0) {
                Ok(None)
            } else {
                Err(ConfigError::NotEmpty)
            };
        }
        let flags = self.flags.get();
        if flags & !CLEAN != 0 || self.reserved.get() != 0 {
            return Err(ConfigError::Flags(flags));
        }
        let config = Config {
            generation: Generation {
                number: self.generation.get(),
                nonce: self.nonce.get(),
            },
            epoch: Epoch(self.epoch.get()),
            in_sync: MemberSet::from_bits(self.in_sync.get()),
            catching_up: MemberSet::from_bits(self.catching_up.get()),
            members: self.members.map(|uuid| Uuid(uuid).non_nil()),
            clean: flags & CLEAN != 0,
        };
        config.check()?;
        Ok(Some(config))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::FromZeros;

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
            let generation = Generation { number, nonce };
            Config { generation, epoch: Epoch(epoch), in_sync, catching_up, members, clean }
        }
    }

    fn sample() -> Config {
        let mut members = [None; MAX_MEMBERS];
        members[0] = Some(Uuid([1; 16]));
        members[1] = Some(Uuid([2; 16]));
        Config {
            generation: Generation {
                number: 1,
                nonce: 7,
            },
            epoch: Epoch(1),
            in_sync: MemberSet::from_bits(0b01),
            catching_up: MemberSet::from_bits(0b10),
            members,
            clean: false,
        }
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
    }

    #[test]
    fn raw_refused() {
        let mut raw = RawConfig::new_zeroed();
        assert_eq!(raw.get(), Ok(None));
        raw.flags = U32::new(1);
        assert_eq!(raw.get(), Err(ConfigError::NotEmpty));
        raw.set(Some(&sample())).unwrap();
        raw.flags = U32::new(2);
        assert_eq!(raw.get(), Err(ConfigError::Flags(2)));
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
