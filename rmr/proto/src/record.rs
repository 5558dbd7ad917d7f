// SPDX-License-Identifier: GPL-2.0

//! What all records on a disk have in common: the frame that names kind, store, place and version, two
//! copies, and which of them counts.

use crate::config::ConfigError;
use crate::crc::Crc32c;
use crate::crc::Sum;
use crate::geometry::GeometryError;
use crate::ids::NameError;
use crate::ids::Uuid;
use core::error::Error;
use core::fmt;
use core::mem::offset_of;
use core::mem::size_of;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Bytes of a record; it is written and read as a whole.
pub const RECORD_BYTES: usize = 4096;

/// First bytes of every record.
pub(crate) const MAGIC: [u8; 8] = *b"rmr-disk";

/// Version of the frame and of all records in it.
const FORMAT: u16 = 1;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum RecordKind {
    /// [`Superblock`](crate::Superblock).
    Superblock = 1,
    /// [`EpochRecord`](crate::EpochRecord).
    Epoch = 2,
    /// [`LogPage`](crate::LogPage).
    Log = 4,
    /// [`BitmapPage`](crate::BitmapPage).
    Bitmap = 5,
    /// [`UnreadablePage`](crate::UnreadablePage).
    Unreadable = 6,
    /// [`Superblock`](crate::Superblock) of a metadata device.
    MetadataSuperblock = 7,
}

/// Where one copy of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Offset on the device, in bytes.
    pub offset: u64,
    /// Which copy, 0 or 1.
    pub copy: u16,
}

/// A record with the number of its version; the higher of two is the newer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Counts the writes of this record.
    pub sequence: u64,
    /// The record.
    pub record: T,
}

/// Why bytes are not the record they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Not [`RECORD_BYTES`] bytes.
    Length(usize),
    /// Nothing but zeroes.
    Blank,
    /// Not a record of RMR.
    Magic,
    /// A format this version does not know.
    Format(u16),
    /// The checksum is wrong.
    Checksum,
    /// A record of another kind.
    Kind {
        /// The kind of the record.
        found: u16,
        /// The kind that was looked for.
        expected: RecordKind,
    },
    /// The record belongs to another place.
    Place {
        /// Where it was read.
        read: Place,
        /// Where it says it belongs.
        said: Place,
    },
    /// The record belongs to another store.
    Store {
        /// The store that was looked for.
        expected: Uuid,
        /// The store of the record.
        found: Uuid,
    },
    /// Something that must be zero is not.
    Reserved,
    /// A field has a value it cannot have; which.
    Field(&'static str),
    /// The pool name is wrong.
    Name(NameError),
    /// The geometry is wrong.
    Geometry(GeometryError),
    /// The configuration makes no sense.
    Config(ConfigError),
    /// The table of areas is wrong; what about it.
    Areas(&'static str),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(len) => write!(f, "{len} bytes where a record has {RECORD_BYTES}"),
            Self::Blank => f.write_str("blank"),
            Self::Magic => f.write_str("not a record of RMR"),
            Self::Format(format) => {
                write!(
                    f,
                    "record format {format}, this version knows only {FORMAT}"
                )
            }
            Self::Checksum => f.write_str("checksum of the record is wrong"),
            Self::Kind { found, expected } => {
                write!(f, "record of kind {found} where {expected:?} was expected")
            }
            Self::Place { read, said } => write!(
                f,
                "record of copy {} at offset {}, read as copy {} at offset {}",
                said.copy, said.offset, read.copy, read.offset
            ),
            Self::Store { expected, found } => {
                write!(
                    f,
                    "record of store {found} where that of store {expected} was expected"
                )
            }
            Self::Reserved => f.write_str("a reserved field of the record is not zero"),
            Self::Field(what) => write!(f, "impossible {what} in the record"),
            Self::Name(why) => fmt::Display::fmt(why, f),
            Self::Geometry(why) => fmt::Display::fmt(why, f),
            Self::Config(why) => fmt::Display::fmt(why, f),
            Self::Areas(why) => write!(f, "the table of areas is wrong: {why}"),
        }
    }
}

impl Error for RecordError {}

impl From<NameError> for RecordError {
    fn from(why: NameError) -> Self {
        Self::Name(why)
    }
}

impl From<GeometryError> for RecordError {
    fn from(why: GeometryError) -> Self {
        Self::Geometry(why)
    }
}

impl From<ConfigError> for RecordError {
    fn from(why: ConfigError) -> Self {
        Self::Config(why)
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFrame {
    magic: [u8; 8],
    kind: U16,
    format: U16,
    len: U32,
    crc: U32,
    copy: U16,
    reserved: U16,
    store: [u8; 16],
    offset: U64,
    sequence: U64,
    reserved2: U64,
}

/// Bytes of the frame in front of the body of a record.
pub(crate) const FRAME_BYTES: usize = 64;

const _: () = {
    assert!(size_of::<RawFrame>() == FRAME_BYTES);
    assert!(offset_of!(RawFrame, crc) == 16);
    assert!(offset_of!(RawFrame, store) == 24);
    assert!(offset_of!(RawFrame, sequence) == 48);
};

const BODY_BYTES: usize = RECORD_BYTES - FRAME_BYTES;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRecord {
    frame: RawFrame,
    body: [u8; BODY_BYTES],
}

const _: () = assert!(size_of::<RawRecord>() == RECORD_BYTES);

impl RawFrame {
    /// The checksum: over the body, then the frame with a zero checksum field.
    fn sum<C: Crc32c>(&self, body: &[u8]) -> u32 {
        let mut zeroed = *self;
        zeroed.crc = U32::ZERO;
        Sum::of::<C>(body).then::<C>(zeroed.as_bytes())
    }
}

/// What the frame says beside the body.
pub(crate) struct Frame {
    pub(crate) store: Uuid,
    pub(crate) sequence: u64,
}

impl Frame {
    /// Whether the record is of `store`.
    pub(crate) fn check_store(&self, store: Uuid) -> Result<(), RecordError> {
        if self.store != store {
            return Err(RecordError::Store {
                expected: store,
                found: self.store,
            });
        }
        Ok(())
    }
}

/// Writes a record with `body` at its begin and zeroes behind.
pub(crate) fn seal<C: Crc32c>(
    kind: RecordKind,
    at: Place,
    frame: &Frame,
    body: &(impl IntoBytes + Immutable),
    buf: &mut [u8; RECORD_BYTES],
) -> Result<(), RecordError> {
    let body = body.as_bytes();
    seal_with::<C>(kind, at, frame, buf, |place| {
        place
            .get_mut(..body.len())
            .ok_or(RecordError::Length(body.len()))?
            .copy_from_slice(body);
        Ok(())
    })
}

/// Writes a record whose body is `words`, and zeroes behind.
pub(crate) fn seal_words<C: Crc32c>(
    kind: RecordKind,
    at: Place,
    frame: &Frame,
    words: impl IntoIterator<Item = u64>,
    buf: &mut [u8; RECORD_BYTES],
) -> Result<(), RecordError> {
    seal_with::<C>(kind, at, frame, buf, |place| {
        let mut places = place.chunks_exact_mut(size_of::<U64>());
        for word in words {
            places
                .next()
                .ok_or(RecordError::Length(RECORD_BYTES))?
                .copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    })
}

/// Writes a record whose body is what `fill` makes of zeroes.
fn seal_with<C: Crc32c>(
    kind: RecordKind,
    at: Place,
    frame: &Frame,
    buf: &mut [u8; RECORD_BYTES],
    fill: impl FnOnce(&mut [u8; BODY_BYTES]) -> Result<(), RecordError>,
) -> Result<(), RecordError> {
    if at.copy > 1 {
        return Err(RecordError::Field("copy number"));
    }
    if frame.store.is_nil() {
        return Err(RecordError::Field("store UUID"));
    }
    buf.fill(0);
    let raw: &mut RawRecord = zerocopy::transmute_mut!(buf);
    fill(&mut raw.body)?;
    raw.frame = RawFrame {
        magic: MAGIC,
        kind: U16::new(kind as u16),
        format: U16::new(FORMAT),
        len: U32::new(RECORD_BYTES as u32),
        crc: U32::ZERO,
        copy: U16::new(at.copy),
        reserved: U16::ZERO,
        store: frame.store.0,
        offset: U64::new(at.offset),
        sequence: U64::new(frame.sequence),
        reserved2: U64::ZERO,
    };
    raw.frame.crc = U32::new(raw.frame.sum::<C>(&raw.body));
    Ok(())
}

/// Makes of one copy of a record the one that belongs to the place `to`, with the same content and version. So a page that
/// changes while it is written has two equal copies all the same.
pub fn relocate<C: Crc32c>(
    from: Place,
    to: Place,
    page: &mut [u8; RECORD_BYTES],
) -> Result<(), RecordError> {
    if to.copy > 1 {
        return Err(RecordError::Field("copy number"));
    }
    let raw: &mut RawRecord = zerocopy::transmute_mut!(page);
    let said = Place {
        offset: raw.frame.offset.get(),
        copy: raw.frame.copy.get(),
    };
    if raw.frame.magic != MAGIC {
        return Err(RecordError::Magic);
    }
    if said != from {
        return Err(RecordError::Place { read: from, said });
    }
    raw.frame.offset = U64::new(to.offset);
    raw.frame.copy = U16::new(to.copy);
    raw.frame.crc = U32::new(raw.frame.sum::<C>(&raw.body));
    Ok(())
}

/// Number of the version whose write to the place `at` has begun, if the first sector there is the first one of such a record
/// of `store`: also when the rest was not written, so that the record does not count.
pub(crate) fn begun(kind: RecordKind, store: Uuid, at: Place, bytes: &[u8]) -> Option<u64> {
    let (frame, _) = RawFrame::ref_from_prefix(bytes).ok()?;
    let ours = frame.magic == MAGIC
        && frame.format.get() == FORMAT
        && frame.kind.get() == kind as u16
        && frame.offset.get() == at.offset
        && frame.copy.get() == at.copy
        && frame.store == store.0;
    ours.then(|| frame.sequence.get())
}

/// Checks a record up to its body, of which `B` is the begin and the rest zero.
pub(crate) fn open<C: Crc32c, B: FromBytes + KnownLayout + Immutable>(
    kind: RecordKind,
    at: Place,
    bytes: &[u8],
) -> Result<(Frame, &B), RecordError> {
    let raw = RawRecord::ref_from_bytes(bytes).map_err(|_| RecordError::Length(bytes.len()))?;
    let frame = &raw.frame;
    if frame.magic != MAGIC {
        let blank = bytes.iter().all(|b| *b == 0);
        return Err(if blank {
            RecordError::Blank
        } else {
            RecordError::Magic
        });
    }
    if frame.format.get() != FORMAT {
        return Err(RecordError::Format(frame.format.get()));
    }
    if frame.sum::<C>(&raw.body) != frame.crc.get() {
        return Err(RecordError::Checksum);
    }
    if frame.kind.get() != kind as u16 {
        return Err(RecordError::Kind {
            found: frame.kind.get(),
            expected: kind,
        });
    }
    let said = Place {
        offset: frame.offset.get(),
        copy: frame.copy.get(),
    };
    if said != at {
        return Err(RecordError::Place { read: at, said });
    }
    if usize::try_from(frame.len.get()) != Ok(RECORD_BYTES) {
        return Err(RecordError::Field("length"));
    }
    let store = Uuid(frame.store);
    if store.is_nil() {
        return Err(RecordError::Field("store UUID"));
    }
    let (body, rest) =
        B::ref_from_prefix(&raw.body).map_err(|_| RecordError::Length(bytes.len()))?;
    if frame.reserved.get() != 0 || frame.reserved2.get() != 0 || rest.iter().any(|b| *b != 0) {
        return Err(RecordError::Reserved);
    }
    Ok((
        Frame {
            store,
            sequence: frame.sequence.get(),
        },
        body,
    ))
}

/// The record that counts, of two copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest<T> {
    /// Number of its version; the next write takes the next.
    pub sequence: u64,
    /// The record.
    pub record: T,
    /// The copy that is older or cannot be used: to be written again before the record counts as written.
    pub rewrite: Option<u16>,
    /// More is missing than an interrupted write explains: copy 0, which is written first, is bad, or one copy is
    /// older by more than one version. So this one may be too old, too.
    pub suspicious: bool,
}

/// Why neither of two copies counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// Both are unusable: why the first, why the second.
    Both(RecordError, RecordError),
    /// Both are good and of one version, but different: two writers, or a copy of another disk.
    Contradiction {
        /// The version.
        sequence: u64,
    },
}

impl fmt::Display for PickError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Both(a, b) => write!(f, "both copies are unusable: first: {a}; second: {b}"),
            Self::Contradiction { sequence } => {
                write!(f, "both copies have version {sequence}, but they differ")
            }
        }
    }
}

impl Error for PickError {}

/// Picks the newest good copy. A record counts as written when both copies hold it; so when one is torn or
/// older, a write was interrupted, and either outcome was allowed.
pub fn pick_newest<T: PartialEq>(
    copy0: Result<Versioned<T>, RecordError>,
    copy1: Result<Versioned<T>, RecordError>,
) -> Result<Newest<T>, PickError> {
    let newest = |v: Versioned<T>, rewrite, suspicious| {
        Ok(Newest {
            sequence: v.sequence,
            record: v.record,
            rewrite,
            suspicious,
        })
    };
    match (copy0, copy1) {
        (Err(a), Err(b)) => Err(PickError::Both(a, b)),
        (Ok(v), Err(_)) => newest(v, Some(1), false),
        (Err(_), Ok(v)) => newest(v, Some(0), true),
        (Ok(a), Ok(b)) if a.sequence > b.sequence => {
            let skipped = a.sequence - b.sequence > 1;
            newest(a, Some(1), skipped)
        }
        // Copy 0 is written first: it lost a write that had been acknowledged.
        (Ok(a), Ok(b)) if a.sequence < b.sequence => newest(b, Some(0), true),
        (Ok(a), Ok(b)) if a == b => newest(a, None, false),
        (Ok(a), Ok(_)) => Err(PickError::Contradiction {
            sequence: a.sequence,
        }),
    }
}
