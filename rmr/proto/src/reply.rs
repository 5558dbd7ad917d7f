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
use crate::ids::Uuid;
use crate::limits::Limits;
use crate::limits::RawLimits;
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
pub const REPLY_BYTES: usize = 4096;

const MAGIC: [u8; 8] = *b"rmr-rep\0";

/// What a member is and what it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// Reply to a control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Kind of the message it replies to.
    pub kind: Kind,
    /// How that ended.
    pub status: Status,
    /// The state of the member afterwards. Always there in a good reply to a query or a promise; allowed in
    /// every reply.
    pub report: Option<MemberReport>,
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
    installed: RawConfig,
}

const HEADER: usize = size_of::<RawReplyHeader>();
const REPORT: usize = size_of::<RawReport>();

const _: () = {
    assert!(HEADER == 24);
    assert!(REPORT == 656);
    assert!(HEADER + REPORT <= REPLY_BYTES);
};

const SERVING: u16 = 1;

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
        self.limits.check()?;
        Ok(())
    }

    fn raw(&self) -> Result<RawReport, WireError> {
        self.check()?;
        let mut raw = RawReport {
            version_min: U16::new(self.version_min),
            version_max: U16::new(self.version_max),
            // At most 32.
            member: U16::new(self.member.get() as u16),
            flags: U16::new(if self.serving { SERVING } else { 0 }),
            pool: self.pool.0,
            store: self.store.0,
            incarnation: U64::new(self.incarnation.0),
            geometry: RawGeometry::new(&self.geometry),
            limits: RawLimits::new(&self.limits),
            promised: U64::new(self.promised.number),
            promised_nonce: U64::new(self.promised.nonce),
            installed: RawConfig::new_zeroed(),
        };
        raw.installed.set(self.installed.as_ref())?;
        Ok(raw)
    }

    fn from_raw(raw: &RawReport) -> Result<Self, WireError> {
        let flags = raw.flags.get();
        if flags & !SERVING != 0 {
            return Err(WireError::Flags(u32::from(flags)));
        }
        let (geometry, reserved_zero) = raw.geometry.get()?;
        if !reserved_zero {
            return Err(WireError::Reserved);
        }
        let id = raw.member.get();
        let report = Self {
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
            installed: raw.installed.get()?,
            serving: flags & SERVING != 0,
        };
        report.check()?;
        Ok(report)
    }
}

impl Reply {
    /// Writes the reply into `buf`, zeroes behind it, and returns the reply alone. Fails rather than let a
    /// senseless one out.
    pub fn encode<'b, C: Crc32c>(
        &self,
        buf: &'b mut [u8; REPLY_BYTES],
    ) -> Result<&'b [u8], WireError> {
        self.check()?;
        buf.fill(0);
        let mut len = HEADER;
        let report = match &self.report {
            None => None,
            Some(report) => {
                len += REPORT;
                Some(report.raw()?)
            }
        };
        let mut header = RawReplyHeader {
            magic: MAGIC,
            version: U16::new(PROTOCOL_VERSION),
            kind: U16::new(self.kind.wire()),
            // At most 680.
            len: U32::new(len as u32),
            crc: U32::ZERO,
            status: U16::new(self.status.wire()),
            reserved: U16::ZERO,
        };
        let body = report.as_ref().map_or(&[][..], |raw| raw.as_bytes());
        header.crc = U32::new(header.sum::<C>(body));
        let short = WireError::Short {
            len: REPLY_BYTES,
            need: len,
        };
        let reply = buf.get_mut(..len).ok_or(short)?;
        let (header_place, body_place) = reply.split_at_mut_checked(HEADER).ok_or(short)?;
        header_place.copy_from_slice(header.as_bytes());
        body_place.copy_from_slice(body);
        Ok(reply)
    }

    /// Checks `bytes`, which are untrusted, as a reply to a message of `kind`; what follows the reply in
    /// `bytes` is not looked at.
    pub fn parse<C: Crc32c>(bytes: &[u8], kind: Kind) -> Result<Self, WireError> {
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
        let body_len = match usize::try_from(said) {
            Ok(len) if len == HEADER => 0,
            Ok(len) if len == HEADER + REPORT => REPORT,
            _ => {
                return Err(WireError::Length {
                    said,
                    right: HEADER + REPORT,
                })
            }
        };
        let short = WireError::Short {
            len: bytes.len(),
            need: HEADER + body_len,
        };
        let body = rest.get(..body_len).ok_or(short)?;
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
        let report = match body_len {
            0 => None,
            _ => Some(MemberReport::from_raw(
                RawReport::ref_from_bytes(body).map_err(|_| short)?,
            )?),
        };
        let reply = Self {
            kind,
            status: Status::from_wire(status).ok_or(WireError::Status(status))?,
            report,
        };
        reply.check()?;
        Ok(reply)
    }

    /// Whether kind, status and report go together.
    fn check(&self) -> Result<(), WireError> {
        if self.kind.is_io() {
            return Err(WireError::Kind(self.kind.wire()));
        }
        if matches!(self.kind, Kind::Query | Kind::Promise)
            && self.status.is_ok()
            && self.report.is_none()
        {
            return Err(WireError::Missing("report"));
        }
        Ok(())
    }
}
