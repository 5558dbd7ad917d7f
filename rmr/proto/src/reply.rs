// SPDX-License-Identifier: GPL-2.0

//! Replies to control messages, and what a member reports of itself.

use crate::config::Config;
use crate::config::RawConfig;
use crate::crc::Crc32c;
use crate::crc::Sum;
use crate::geometry::Geometry;
use crate::geometry::RawGeometry;
use crate::header::Kind;
use crate::header::WireError;
use crate::header::PROTOCOL_VERSION;
use crate::ids::Generation;
use crate::ids::Incarnation;
use crate::ids::MemberId;
use crate::ids::Seq;
use crate::ids::Uuid;
use crate::limits::Limits;
use crate::limits::RawLimits;
use crate::log::MAX_LOG_EXTENTS;
use crate::run::check_runs;
use crate::run::parse_list;
use crate::run::Run;
use crate::status::Status;
use core::mem::size_of;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;
use zerocopy::FromBytes;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Bytes of the buffer a client lends for the reply to a control message.
pub const REPLY_BYTES: usize = 20 << 10;

/// Most runs of [`Suspects`].
pub const MAX_SUSPECTS: usize = 1024;

const MAGIC: [u8; 8] = *b"rmr-rep\0";

/// What a member is and what it knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberReport {
    /// Oldest protocol version the member speaks.
    pub version_min: u16,
    /// Newest protocol version the member speaks.
    pub version_max: u16,
    /// UUID of the pool the store belongs to; nil if none was ever assigned.
    pub pool: Uuid,
    /// UUID of the store; not nil.
    pub store: Uuid,
    /// Id of the member.
    pub member: MemberId,
    /// Its incarnation; not 0.
    pub incarnation: Incarnation,
    /// Size and chunk size of the pool.
    pub geometry: Geometry,
    /// What the store can do.
    pub limits: Limits,
    /// Highest generation promised.
    pub promised: Generation,
    /// The configuration installed last, in whatever incarnation; `None` if none ever was.
    pub installed: Option<Config>,
    /// Whether it serves IO, which is: `installed` was installed in this incarnation, and the client has
    /// not detached since.
    pub serving: bool,
    /// How far it is from being in sync.
    pub progress: Progress,
    /// Extents the activity log holds: 2 to [`MAX_LOG_EXTENTS`].
    pub log_extents: u32,
}

/// How far a member is from being in sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Progress {
    /// It takes no part, or does not know yet what it misses.
    #[default]
    Unknown,
    /// It gets current.
    Dirty {
        /// So many of its chunks are not current; not 0. Times their size, and divided by the rate, that is the time left.
        chunks: u64,
        /// Bytes per second that became current in the last seconds, smoothed; 0 if none did.
        rate: u64,
    },
    /// Every chunk is current.
    Ready,
}

/// The chunks whose content on a member may be newer or older than what was acknowledged (R14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspects<'a> {
    /// All there are; `runs` is empty then.
    pub all: bool,
    /// These; at most [`MAX_SUSPECTS`] runs.
    pub runs: &'a [Run],
}

/// Reply to a control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Kind of the message it replies to.
    pub kind: Kind,
    /// How that ended.
    pub status: Status,
    /// The state of the member afterwards. Always there in a good reply to a query or a promise; allowed in
    /// every reply.
    pub report: Option<MemberReport>,
    /// The suspects of the member; only in a good reply to a promise.
    pub suspects: Suspects<'a>,
}

/// What one member answers to another that asks what it has [begun](crate::Ask::Begun).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// No write with a higher number was executed in this generation, nor is being executed; none if all of them are known to be
    /// complete on every receiver.
    pub seq: Seq,
    /// Clients have read from it since the same member asked that before.
    pub reads: bool,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawReplyHeader {
    magic: [u8; 8],
    version: U16,
    kind: U16,
    len: U32,
    crc: U32,
    status: U16,
    reserved: U16,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawReport {
    version_min: U16,
    version_max: U16,
    member: U16,
    flags: U16,
    pool: [u8; 16],
    store: [u8; 16],
    incarnation: U64,
    geometry: RawGeometry,
    limits: RawLimits,
    promised: U64,
    promised_nonce: U64,
    dirty: U64,
    log_extents: U32,
    suspects: U16,
    progress: u8,
    reserved: u8,
    rate: U64,
    installed: RawConfig,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBegun {
    seq: U64,
    flags: U32,
    reserved: U32,
}

/// Flag of a [`Begun`].
const READS: u32 = 1;

pub(crate) const HEADER: usize = size_of::<RawReplyHeader>();
const REPORT: usize = size_of::<RawReport>();

const _: () = {
    assert!(HEADER == 24);
    assert!(REPORT == 1232);
    assert!(HEADER + REPORT + MAX_SUSPECTS * size_of::<Run>() <= REPLY_BYTES);
};

const SERVING: u16 = 1;
const ALL_SUSPECT: u16 = 2;

impl Suspects<'_> {
    /// Whether nothing is suspect.
    pub const fn is_empty(&self) -> bool {
        !self.all && self.runs.is_empty()
    }

    fn check(&self) -> Result<(), WireError> {
        check_runs(self.runs, 0, if self.all { 0 } else { MAX_SUSPECTS })
    }
}

impl Progress {
    /// The number of its kind, of chunks, and the rate.
    const fn wire(self) -> (u8, u64, u64) {
        match self {
            Self::Unknown => (0, 0, 0),
            Self::Dirty { chunks, rate } => (1, chunks, rate),
            Self::Ready => (2, 0, 0),
        }
    }

    fn from_wire(kind: u8, chunks: u64, rate: u64) -> Result<Self, WireError> {
        match (kind, chunks, rate) {
            (0, 0, 0) => Ok(Self::Unknown),
            (1, 1.., _) => Ok(Self::Dirty { chunks, rate }),
            (2, 0, 0) => Ok(Self::Ready),
            _ => Err(WireError::Progress(kind, chunks)),
        }
    }
}

impl RawReplyHeader {
    fn sum<C: Crc32c>(&self, body: &[u8]) -> u32 {
        let mut zeroed = *self;
        zeroed.crc = U32::ZERO;
        Sum::of::<C>(body).then::<C>(zeroed.as_bytes())
    }
}

impl MemberReport {
    /// Whether it makes sense by itself.
    pub fn check(&self) -> Result<(), WireError> {
        if self.store.is_nil() {
            return Err(WireError::Missing("store UUID"));
        }
        if self.incarnation.is_none() {
            return Err(WireError::Missing("incarnation"));
        }
        if self.pool.is_nil() && self.installed.is_some() {
            return Err(WireError::Missing("pool UUID"));
        }
        if self.serving && self.installed.is_none() {
            return Err(WireError::Missing("configuration"));
        }
        if self.version_min > self.version_max {
            return Err(WireError::Version(self.version_min));
        }
        if !(2..=MAX_LOG_EXTENTS).contains(&self.log_extents) {
            return Err(WireError::LogExtents(self.log_extents));
        }
        let (kind, chunks, rate) = self.progress.wire();
        Progress::from_wire(kind, chunks, rate)?;
        self.limits.check()?;
        Ok(())
    }

    /// Writes it to `place`, with its `suspects`, the list of which follows it.
    fn write(&self, suspects: &Suspects<'_>, place: &mut [u8]) -> Result<(), WireError> {
        self.check()?;
        let short = WireError::Short {
            len: place.len(),
            need: REPORT,
        };
        let (raw, _) = RawReport::mut_from_prefix(place).map_err(|_| short)?;
        let serving = if self.serving { SERVING } else { 0 };
        let all = if suspects.all { ALL_SUSPECT } else { 0 };
        let (progress, dirty, rate) = self.progress.wire();
        *raw = RawReport {
            version_min: U16::new(self.version_min),
            version_max: U16::new(self.version_max),
            // At most 32.
            member: U16::new(self.member.get() as u16),
            flags: U16::new(serving | all),
            pool: self.pool.0,
            store: self.store.0,
            incarnation: U64::new(self.incarnation.0),
            geometry: RawGeometry::new(&self.geometry),
            limits: RawLimits::new(&self.limits),
            promised: U64::new(self.promised.number),
            promised_nonce: U64::new(self.promised.nonce),
            dirty: U64::new(dirty),
            log_extents: U32::new(self.log_extents),
            // At most 1024.
            suspects: U16::new(suspects.runs.len() as u16),
            progress,
            reserved: 0,
            rate: U64::new(rate),
            installed: RawConfig::new_zeroed(),
        };
        raw.installed.set(self.installed.as_ref())?;
        Ok(())
    }

    fn from_raw(raw: &RawReport) -> Result<Self, WireError> {
        let flags = raw.flags.get();
        if flags & !(SERVING | ALL_SUSPECT) != 0 {
            return Err(WireError::Flags(u32::from(flags)));
        }
        let (geometry, reserved_zero) = raw.geometry.get()?;
        if !reserved_zero || raw.reserved != 0 {
            return Err(WireError::Reserved);
        }
        let id = raw.member.get();
        let mut report = Self {
            version_min: raw.version_min.get(),
            version_max: raw.version_max.get(),
            pool: Uuid(raw.pool),
            store: Uuid(raw.store),
            member: MemberId::new(u32::from(id)).ok_or(WireError::Member(id))?,
            incarnation: Incarnation(raw.incarnation.get()),
            geometry,
            limits: raw.limits.get()?,
            promised: Generation {
                number: raw.promised.get(),
                nonce: raw.promised_nonce.get(),
            },
            installed: Some(Config::BLANK),
            serving: flags & SERVING != 0,
            progress: Progress::from_wire(raw.progress, raw.dirty.get(), raw.rate.get())?,
            log_extents: raw.log_extents.get(),
        };
        if let Some(config) = &mut report.installed {
            if !raw.installed.read(config)? {
                report.installed = None;
            }
        }
        report.check()?;
        Ok(report)
    }
}

impl<'a> Reply<'a> {
    /// A reply that says no more than how it ended.
    pub const fn bare(kind: Kind, status: Status) -> Self {
        Self {
            kind,
            status,
            report: None,
            suspects: Suspects {
                all: false,
                runs: &[],
            },
        }
    }

    /// The reply without the suspects, which are the only part that is borrowed.
    pub fn without_suspects(self) -> Reply<'static> {
        Reply {
            report: self.report,
            ..Reply::bare(self.kind, self.status)
        }
    }

    /// Writes the reply into `buf`, zeroes behind it, and returns the reply alone. Fails rather than let a
    /// senseless one out.
    pub fn encode<'b, C: Crc32c>(
        &self,
        buf: &'b mut [u8; REPLY_BYTES],
    ) -> Result<&'b [u8], WireError> {
        self.check()?;
        buf.fill(0);
        let runs = self.suspects.runs.as_bytes();
        let mut len = 0;
        if let Some(report) = &self.report {
            len = REPORT + runs.len();
            let body = body_mut(buf, len)?;
            report.write(&self.suspects, body)?;
            if let Some(place) = body.get_mut(REPORT..) {
                place.copy_from_slice(runs);
            }
        }
        seal_as::<C>(self.kind, self.status, len, buf)
    }

    /// Checks `bytes`, which are untrusted, as a reply to a message of `kind`; what follows the reply in
    /// `bytes` is not looked at.
    pub fn parse<C: Crc32c>(bytes: &'a [u8], kind: Kind) -> Result<Self, WireError> {
        let (status, body) = open::<C>(bytes, kind)?;
        let mut reply = Self::bare(kind, status);
        if !body.is_empty() {
            let length = WireError::Length {
                said: len_of(HEADER + body.len()),
                right: HEADER + REPORT,
            };
            let (raw, runs) = RawReport::ref_from_prefix(body).map_err(|_| length)?;
            reply.suspects = Suspects {
                all: raw.flags.get() & ALL_SUSPECT != 0,
                runs: parse_list(runs).ok_or(length)?,
            };
            if reply.suspects.runs.len() != usize::from(raw.suspects.get()) {
                return Err(length);
            }
            reply.report = Some(MemberReport::from_raw(raw)?);
        }
        reply.check()?;
        Ok(reply)
    }

    /// Whether kind, status, report and suspects go together.
    fn check(&self) -> Result<(), WireError> {
        if self.kind.is_io() || self.kind.is_peer() {
            return Err(WireError::Kind(self.kind.wire()));
        }
        let reports = matches!(self.kind, Kind::Query | Kind::Promise);
        if reports && self.status.is_ok() && self.report.is_none() {
            return Err(WireError::Missing("report"));
        }
        if !self.suspects.is_empty() && (self.kind != Kind::Promise || !self.status.is_ok()) {
            return Err(WireError::Reserved);
        }
        self.suspects.check()
    }
}

impl Begun {
    /// Writes the reply into `buf`, zeroes behind it, and returns the reply alone.
    pub fn encode<C: Crc32c>(self, buf: &mut [u8; REPLY_BYTES]) -> Result<&[u8], WireError> {
        buf.fill(0);
        let raw = RawBegun {
            seq: U64::new(self.seq.0),
            flags: U32::new(if self.reads { READS } else { 0 }),
            reserved: U32::new(0),
        };
        body_mut(buf, size_of::<RawBegun>())?.copy_from_slice(raw.as_bytes());
        seal::<C>(Kind::Begun, size_of::<RawBegun>(), buf)
    }

    /// Checks `bytes`, which are untrusted, as such a reply; what follows it is not looked at.
    pub fn parse<C: Crc32c>(bytes: &[u8]) -> Result<Self, WireError> {
        let body = open_ok::<C>(bytes, Kind::Begun)?;
        let length = WireError::Length {
            said: len_of(HEADER + body.len()),
            right: HEADER + size_of::<RawBegun>(),
        };
        let raw = RawBegun::ref_from_bytes(body).map_err(|_| length)?;
        let flags = raw.flags.get();
        if flags & !READS != 0 || raw.reserved.get() != 0 {
            return Err(WireError::Reserved);
        }
        Ok(Self {
            seq: Seq(raw.seq.get()),
            reads: flags & READS != 0,
        })
    }
}

/// A length as it is said in a header.
pub(crate) fn len_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The place of a body of `len` bytes.
pub(crate) fn body_mut(buf: &mut [u8], len: usize) -> Result<&mut [u8], WireError> {
    let short = WireError::Short {
        len: buf.len(),
        need: HEADER.saturating_add(len),
    };
    let (_, rest) = buf.split_at_mut_checked(HEADER).ok_or(short)?;
    rest.get_mut(..len).ok_or(short)
}

/// Puts the header of a good reply before a body of `len` bytes, and returns the reply.
pub(crate) fn seal<C: Crc32c>(kind: Kind, len: usize, buf: &mut [u8]) -> Result<&[u8], WireError> {
    seal_as::<C>(kind, Status::Ok, len, buf)
}

fn seal_as<C: Crc32c>(
    kind: Kind,
    status: Status,
    len: usize,
    buf: &mut [u8],
) -> Result<&[u8], WireError> {
    let len = HEADER.saturating_add(len);
    let short = WireError::Short {
        len: buf.len(),
        need: len,
    };
    let reply = buf.get_mut(..len).ok_or(short)?;
    let (header, body) = RawReplyHeader::mut_from_prefix(reply).map_err(|_| short)?;
    *header = RawReplyHeader {
        magic: MAGIC,
        version: U16::new(PROTOCOL_VERSION),
        kind: U16::new(kind.wire()),
        len: U32::new(len_of(len)),
        crc: U32::ZERO,
        status: U16::new(status.wire()),
        reserved: U16::ZERO,
    };
    header.crc = U32::new(header.sum::<C>(body));
    Ok(reply)
}

/// Checks what all replies have in common; returns status and body.
fn open<C: Crc32c>(bytes: &[u8], kind: Kind) -> Result<(Status, &[u8]), WireError> {
    let short = WireError::Short {
        len: bytes.len(),
        need: HEADER,
    };
    let (raw, rest) = RawReplyHeader::ref_from_prefix(bytes).map_err(|_| short)?;
    if raw.magic != MAGIC {
        return Err(WireError::Magic);
    }
    if raw.version.get() != PROTOCOL_VERSION {
        return Err(WireError::Version(raw.version.get()));
    }
    let said = raw.len.get();
    let len = usize::try_from(said)
        .ok()
        .filter(|len| (HEADER..=REPLY_BYTES).contains(len))
        .ok_or(WireError::Length {
            said,
            right: HEADER,
        })?;
    let short = WireError::Short {
        len: bytes.len(),
        need: len,
    };
    let body = rest.get(..len - HEADER).ok_or(short)?;
    if raw.sum::<C>(body) != raw.crc.get() {
        return Err(WireError::Checksum);
    }
    if raw.kind.get() != kind.wire() {
        return Err(WireError::Kind(raw.kind.get()));
    }
    if raw.reserved.get() != 0 {
        return Err(WireError::Reserved);
    }
    let status = raw.status.get();
    let status = Status::from_wire(status).ok_or(WireError::Status(status))?;
    Ok((status, body))
}

/// The body of a good reply to a message of `kind`.
pub(crate) fn open_ok<C: Crc32c>(bytes: &[u8], kind: Kind) -> Result<&[u8], WireError> {
    let (status, body) = open::<C>(bytes, kind)?;
    if !status.is_ok() {
        return Err(WireError::Status(status.wire()));
    }
    Ok(body)
}
