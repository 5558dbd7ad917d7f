// SPDX-License-Identifier: GPL-2.0

//! Control messages: how a client gets to know a member, attaches, changes the configuration, and leaves.
//!
//! A control message is the header of an RTRS read; the [`Reply`](crate::Reply) is its data.

use crate::config::Config;
use crate::config::RawConfig;
use crate::crc::Crc32c;
use crate::crc::Sum;
use crate::header::Header;
use crate::header::Kind;
use crate::header::RawHeader;
use crate::header::WireError;
use crate::header::HEADER_BYTES;
use crate::ids::Epoch;
use crate::ids::Generation;
use crate::ids::Incarnation;
use crate::ids::MemberId;
use crate::ids::PoolName;
use crate::ids::Seq;
use crate::ids::Uuid;
use crate::ids::MAX_POOL_NAME;
use core::mem::size_of;
use zerocopy::little_endian::U32;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Bytes of the longest control message.
pub const MAX_CONTROL_BYTES: usize = HEADER_BYTES + size_of::<RawTarget>() + size_of::<RawConfig>();

/// The member a control message is for, as its answer to a query described it. A member that differs in
/// any of this refuses (R10): the name only finds the pool on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Name of the pool on the server.
    pub name: PoolName,
    /// UUID of the pool; nil while the member's store has none (only in a promise).
    pub pool: Uuid,
    /// UUID of the member's store; not nil.
    pub store: Uuid,
    /// Id of the member.
    pub member: MemberId,
    /// Incarnation of the member; not 0.
    pub incarnation: Incarnation,
}

/// Which clients a promise may fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fences {
    /// Those that are not alive.
    Dead,
    /// One that is alive, too: a takeover.
    Alive,
    /// None: refused if another client than this one was promised last.
    Nobody,
}

impl Fences {
    const fn flags(self) -> u32 {
        match self {
            Self::Dead => 0,
            Self::Alive => TAKEOVER,
            Self::Nobody => NOBODY,
        }
    }

    const fn from_flags(flags: u32) -> Option<Self> {
        match flags {
            0 => Some(Self::Dead),
            TAKEOVER => Some(Self::Alive),
            NOBODY => Some(Self::Nobody),
            _ => None,
        }
    }
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is no allocation here, and few are ever alive"
)]
pub enum Control {
    /// Asks for a report. Changes nothing.
    Query {
        /// Name of the pool on the server.
        name: PoolName,
    },
    /// First phase of an attach (R8): fence older clients, then report.
    Promise {
        /// For whom.
        to: Target,
        /// Generation to promise.
        generation: Generation,
        /// Whom it may fence.
        fences: Fences,
    },
    /// Persist this configuration and serve under it.
    Install {
        /// For whom; with the UUID of the pool.
        to: Target,
        /// What to install. Must have the generation promised.
        config: Config,
        /// The store has no pool UUID yet and takes that of `to`. Without it, the UUIDs must be equal.
        assign: bool,
        /// An episode of the member (R2) begins with this configuration. Only so a member learns that it was dropped
        /// and taken back without having noticed.
        joins: bool,
        /// The administrator gave up what the store has from another history.
        discard: bool,
    },
    /// The client leaves the pool in order; nothing of it is in flight.
    Detach {
        /// For whom.
        to: Target,
        /// Generation of the client.
        generation: Generation,
        /// Epoch of the configuration.
        epoch: Epoch,
        /// Every write up to this one is complete on every receiver.
        watermark: Seq,
    },
    /// Is the member still the one it was? Carries the watermark when no IO does.
    Ping {
        /// For whom.
        to: Target,
        /// Generation of the client.
        generation: Generation,
        /// Epoch of the configuration.
        epoch: Epoch,
        /// Every write up to this one is complete on every receiver.
        watermark: Seq,
    },
}

/// First part of the body, in every control message.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawTarget {
    name: [u8; MAX_POOL_NAME + 1],
    store: [u8; 16],
    flags: U32,
    reserved: U32,
}

const _: () = {
    assert!(size_of::<RawTarget>() == 88);
    assert!(size_of::<RawControl>() == MAX_CONTROL_BYTES);
    assert!(MAX_CONTROL_BYTES == 1280);
};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawControl {
    header: RawHeader,
    target: RawTarget,
    config: RawConfig,
}

/// In a promise.
const TAKEOVER: u32 = 1;
const NOBODY: u32 = 2;
/// In an install.
const ASSIGN: u32 = 1;
const JOINS: u32 = 2;
const DISCARD: u32 = 4;

/// `flag` if `on`.
const fn flag(flag: u32, on: bool) -> u32 {
    if on {
        flag
    } else {
        0
    }
}

impl Control {
    /// The kind of message.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Query { .. } => Kind::Query,
            Self::Promise { .. } => Kind::Promise,
            Self::Install { .. } => Kind::Install,
            Self::Detach { .. } => Kind::Detach,
            Self::Ping { .. } => Kind::Ping,
        }
    }

    /// Name of the pool on the server.
    pub const fn name(&self) -> &PoolName {
        match self {
            Self::Query { name } => name,
            Self::Promise { to, .. }
            | Self::Install { to, .. }
            | Self::Detach { to, .. }
            | Self::Ping { to, .. } => &to.name,
        }
    }

    /// The member it is for; `None` for a query.
    pub const fn target(&self) -> Option<&Target> {
        match self {
            Self::Query { .. } => None,
            Self::Promise { to, .. }
            | Self::Install { to, .. }
            | Self::Detach { to, .. }
            | Self::Ping { to, .. } => Some(to),
        }
    }

    /// Writes the message into `buf` and returns it. Fails rather than let a senseless one out.
    pub fn encode<'b, C: Crc32c>(
        &self,
        buf: &'b mut [u8; MAX_CONTROL_BYTES],
    ) -> Result<&'b [u8], WireError> {
        buf.fill(0);
        let raw: &'b mut RawControl = zerocopy::transmute_mut!(buf);
        let kind = self.kind();
        // At most 1024.
        let mut len = HEADER_BYTES + size_of::<RawTarget>();
        raw.target.name = self.name().to_padded();
        // The fields of the header that the kind has; of those it has not, zeroes.
        let (generation, epoch, watermark) = match self {
            Self::Query { .. } => (Generation::NONE, Epoch::NONE, Seq::NONE),
            Self::Promise {
                generation, fences, ..
            } => {
                raw.target.flags = U32::new(fences.flags());
                (*generation, Epoch::NONE, Seq::NONE)
            }
            Self::Install {
                to,
                config,
                assign,
                joins,
                discard,
            } => {
                check_config(to, config)?;
                len = MAX_CONTROL_BYTES;
                raw.target.flags =
                    U32::new(flag(ASSIGN, *assign) | flag(JOINS, *joins) | flag(DISCARD, *discard));
                raw.config.set(Some(config))?;
                (config.generation, config.epoch, Seq::NONE)
            }
            Self::Detach {
                generation,
                epoch,
                watermark,
                ..
            }
            | Self::Ping {
                generation,
                epoch,
                watermark,
                ..
            } => (*generation, *epoch, *watermark),
        };
        raw.header = match self.target() {
            None => RawHeader::new(kind, len as u32),
            Some(to) => {
                raw.target.store = to.store.0;
                let header = Header {
                    pool: to.pool,
                    member: to.member,
                    incarnation: to.incarnation,
                    generation,
                    epoch,
                    watermark,
                };
                header.raw(kind, len as u32)
            }
        };
        check_target(kind, &raw.header, &raw.target)?;
        let bytes: &'b mut [u8] = raw.as_mut_bytes();
        let short = WireError::Short {
            len: bytes.len(),
            need: len,
        };
        let message = bytes.get_mut(..len).ok_or(short)?;
        let (header, body) = RawHeader::mut_from_prefix(message).map_err(|_| short)?;
        header.seal::<C>(&Sum::of::<C>(body));
        Ok(message)
    }

    /// Checks `bytes`, which are untrusted, as one whole control message.
    pub fn parse<C: Crc32c>(bytes: &[u8]) -> Result<Self, WireError> {
        let (raw, kind, body) = RawHeader::open::<C>(bytes)?;
        Self::from_parts(raw, kind, body)
    }

    pub(crate) fn from_parts(raw: &RawHeader, kind: Kind, body: &[u8]) -> Result<Self, WireError> {
        let said = raw.len.get();
        let config_bytes = match kind {
            Kind::Install => size_of::<RawConfig>(),
            Kind::Query | Kind::Promise | Kind::Detach | Kind::Ping => 0,
            Kind::IoWrite
            | Kind::IoRead
            | Kind::Merge
            | Kind::Address
            | Kind::Challenge
            | Kind::Proof
            | Kind::FetchDirty
            | Kind::Pull
            | Kind::Clear
            | Kind::Begun => return Err(WireError::Kind(kind.wire())),
        };
        let right = HEADER_BYTES + size_of::<RawTarget>() + config_bytes;
        let length = WireError::Length { said, right };
        let (target, raw_config) = RawTarget::ref_from_prefix(body).map_err(|_| length)?;
        if raw_config.len() != config_bytes {
            return Err(length);
        }
        if !raw.is_control() || target.reserved.get() != 0 {
            return Err(WireError::Reserved);
        }
        check_target(kind, raw, target)?;
        if kind == Kind::Query {
            let name = PoolName::from_padded(&target.name)?;
            return Ok(Self::Query { name });
        }
        let to = target.get(raw)?;
        let generation = raw.generation();
        let epoch = Epoch(raw.epoch.get());
        let watermark = Seq(raw.watermark.get());
        let flags = target.flags.get();
        let mut message = match kind {
            Kind::Promise => Self::Promise {
                to,
                generation,
                fences: Fences::from_flags(flags).ok_or(WireError::Flags(flags))?,
            },
            Kind::Install => Self::Install {
                to,
                config: Config::BLANK,
                assign: flags & ASSIGN != 0,
                joins: flags & JOINS != 0,
                discard: flags & DISCARD != 0,
            },
            Kind::Detach => Self::Detach {
                to,
                generation,
                epoch,
                watermark,
            },
            _ => Self::Ping {
                to,
                generation,
                epoch,
                watermark,
            },
        };
        if let Self::Install { to, config, .. } = &mut message {
            let raw_config = RawConfig::ref_from_bytes(raw_config).map_err(|_| length)?;
            if !raw_config.read(config)? {
                return Err(WireError::Missing("configuration"));
            }
            if config.generation != generation || config.epoch != epoch {
                return Err(WireError::ConfigHeader);
            }
            check_config(to, config)?;
        }
        Ok(message)
    }
}

impl RawTarget {
    /// The target of a message that is not a query.
    pub(crate) fn new(to: &Target) -> Self {
        Self {
            name: to.name.to_padded(),
            store: to.store.0,
            flags: U32::ZERO,
            reserved: U32::ZERO,
        }
    }

    /// Reads what [`Self::new`] made, with what the header says of the member.
    pub(crate) fn get(&self, raw: &RawHeader) -> Result<Target, WireError> {
        Ok(Target {
            name: PoolName::from_padded(&self.name)?,
            pool: Uuid(raw.pool),
            store: Uuid(self.store),
            member: raw.member()?,
            incarnation: Incarnation(raw.incarnation.get()),
        })
    }

    /// Whether it names a store.
    pub(crate) fn check_store(&self) -> Result<(), WireError> {
        if Uuid(self.store).is_nil() {
            return Err(WireError::Missing("store UUID"));
        }
        Ok(())
    }

    /// Whether nothing is set that only some messages have.
    pub(crate) fn is_plain(&self) -> bool {
        self.flags.get() == 0 && self.reserved.get() == 0
    }
}

/// Which fields each kind has: what must be there is, what must not is not.
fn check_target(kind: Kind, raw: &RawHeader, target: &RawTarget) -> Result<(), WireError> {
    let flags = target.flags.get();
    let allowed = match kind {
        Kind::Promise => TAKEOVER | NOBODY,
        Kind::Install => ASSIGN | JOINS | DISCARD,
        _ => 0,
    };
    if flags & !allowed != 0 {
        return Err(WireError::Flags(flags));
    }
    let no_pool = Uuid(raw.pool).is_nil();
    if kind == Kind::Query {
        return if raw.is_bare() && Uuid(target.store).is_nil() {
            Ok(())
        } else {
            Err(WireError::Reserved)
        };
    }
    target.check_store()?;
    if raw.incarnation.get() == 0 {
        return Err(WireError::Missing("incarnation"));
    }
    if raw.generation.get() == 0 {
        return Err(WireError::Missing("generation"));
    }
    if kind == Kind::Promise {
        // A store may have no pool yet; there is neither epoch nor watermark.
        return if raw.epoch.get() == 0 && raw.watermark.get() == 0 {
            Ok(())
        } else {
            Err(WireError::Reserved)
        };
    }
    if no_pool {
        return Err(WireError::Missing("pool UUID"));
    }
    if raw.epoch.get() == 0 {
        return Err(WireError::Missing("epoch"));
    }
    if kind == Kind::Install && raw.watermark.get() != 0 {
        return Err(WireError::Reserved);
    }
    Ok(())
}

/// A member is in the table with its own store, or (one that is taken out) not at all; and it receives writes in
/// the incarnation it has.
fn check_config(to: &Target, config: &Config) -> Result<(), WireError> {
    let receives = config.receivers().contains(to.member);
    if receives && config.incarnation(to.member) != to.incarnation {
        return Err(WireError::ConfigHeader);
    }
    match config.store(to.member) {
        Some(store) if store != to.store => Err(WireError::ConfigHeader),
        _ => Ok(()),
    }
}
