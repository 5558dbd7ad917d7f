// SPDX-License-Identifier: GPL-2.0

//! What is on a device that is to become a store: nothing, a store, or something that must not be lost.
//!
//! Knows the signatures of what is common; what it does not know it reports as unknown data. It is a
//! help against mistakes, not a proof of anything.

use crate::ids::PoolName;
use crate::ids::MAX_POOL_NAME;
use crate::layout::FIRST_SUPERBLOCK;
use crate::record;
use crate::record::RecordKind;
use crate::superblock::NAME_OFFSET;
use core::fmt;

/// A device on which something was found, in the words of an error message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing but zeroes.
    Blank,
    /// A store of RMR, of this pool if the name can be read. The superblock was not checked.
    Store(Option<PoolName>),
    /// The metadata of such a store, which has its data elsewhere.
    Metadata(Option<PoolName>),
    /// Something known.
    Known(&'static str),
    /// Something else.
    Unknown,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("nothing"),
            Self::Store(Some(name)) => write!(f, "a store of pool {name}"),
            Self::Store(None) => f.write_str("a store of some pool"),
            Self::Metadata(Some(name)) => write!(f, "the metadata of a store of pool {name}"),
            Self::Metadata(None) => f.write_str("the metadata of a store of some pool"),
            Self::Known(what) => f.write_str(what),
            Self::Unknown => f.write_str("data of unknown kind"),
        }
    }
}

/// Where a signature is.
#[derive(Clone, Copy)]
enum At {
    /// Offset from the start, in bytes.
    Start(u64),
    /// Begin of the last full unit of this size, less as many bytes: `size / unit * unit - back`.
    End { unit: u64, back: u64 },
}

struct Signature {
    at: At,
    bytes: &'static [u8],
    name: &'static str,
}

const fn start(offset: u64, bytes: &'static [u8], name: &'static str) -> Signature {
    Signature {
        at: At::Start(offset),
        bytes,
        name,
    }
}

const fn end(unit: u64, back: u64, bytes: &'static [u8], name: &'static str) -> Signature {
    Signature {
        at: At::End { unit, back },
        bytes,
        name,
    }
}

const METADATA: usize = 0;
const STORE: usize = 1;
const LVM: &str = "an LVM physical volume";
const MD: &str = "a member of an md RAID array";
const DRBD: &str = "a DRBD device";
const SWAP: &str = "swap space";
const GPT: &str = "a GPT partition table";

/// The first one that matches names what is there: special ones before general ones.
static SIGNATURES: [Signature; 39] = [
    // The kind follows.
    start(
        FIRST_SUPERBLOCK.offset,
        b"rmr-disk\x07\0",
        "the metadata of a store of RMR",
    ),
    start(FIRST_SUPERBLOCK.offset, &record::MAGIC, "a store of RMR"),
    start(0, b"LUKS\xba\xbe", "a LUKS volume"),
    start(16384, b"SKUL\xba\xbe", "a LUKS volume"),
    start(512, b"LABELONE", LVM),
    start(0, b"LABELONE", LVM),
    start(1024, b"LABELONE", LVM),
    start(1536, b"LABELONE", LVM),
    // md: version 1.1, 1.2, 1.0 and 0.90.
    start(0, b"\xfc\x4e\x2b\xa9\x01\0\0\0", MD),
    start(4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0", MD),
    end(4096, 8192, b"\xfc\x4e\x2b\xa9\x01\0\0\0", MD),
    end(65536, 65536, b"\xfc\x4e\x2b\xa9\0\0\0\0", MD),
    // Internal metadata of DRBD 8 and 9, in the last block.
    end(4096, 4096 - 60, b"\x83\x74\x02\x6b", DRBD),
    end(4096, 4096 - 60, b"\x83\x74\x02\x6c", DRBD),
    end(4096, 4096 - 60, b"\x83\x74\x02\x6d", DRBD),
    start(
        4120,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        "a bcache device",
    ),
    start(
        4120,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
        "a bcachefs file system",
    ),
    // The name list of the first label begins with the pair "version".
    start(16404, b"\0\0\0\x07version\0", "a member of a ZFS pool"),
    start(0, b"XFSB", "an XFS file system"),
    start(0x1_0040, b"_BHRfS_M", "a btrfs file system"),
    start(1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    start(1024, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    start(0, b"hsqs", "a squashfs file system"),
    start(32768, b"JFS1", "a JFS file system"),
    start(65536 + 52, b"ReIsEr", "a ReiserFS file system"),
    start(65536, b"\x01\x16\x19\x70", "a GFS2 file system"),
    start(32769, b"CD001", "an ISO 9660 file system"),
    start(3, b"NTFS    ", "an NTFS file system"),
    start(3, b"EXFAT   ", "an exFAT file system"),
    start(3, b"-FVE-FS-", "a BitLocker volume"),
    start(82, b"FAT32   ", "a FAT file system"),
    start(54, b"FAT1", "a FAT file system"),
    start(1080, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    start(4086, b"SWAPSPACE2", SWAP),
    start(4086, b"SWAP-SPACE", SWAP),
    start(512, b"EFI PART", GPT),
    start(4096, b"EFI PART", GPT),
    end(512, 512, b"EFI PART", GPT),
    start(510, b"\x55\xaa", "an MBR partition table or boot sector"),
];

const _: () = {
    let [_, _, _, _, _, _, _, _, kind @ ..] = b"rmr-disk\x07\0";
    assert!(u16::from_le_bytes(*kind) == RecordKind::MetadataSuperblock as u16);
};

/// Looks at a device piece by piece. Pieces may be of any size and in any order; each byte once.
pub struct Scan {
    device_bytes: u64,
    /// Bytes of each signature seen and right; [`WRONG`] once one was wrong.
    seen: [u8; SIGNATURES.len()],
    blank: bool,
    /// The pool name in the superblock, as far as seen.
    name: [u8; MAX_POOL_NAME + 1],
}

const WRONG: u8 = u8::MAX;

impl Scan {
    /// How much of the begin of a device to look at, in bytes. Signatures at the end are in as many bytes
    /// there; to look at those, too, is better.
    pub const BYTES: u64 = 1 << 20;

    /// Nothing seen yet of a device of this size.
    pub const fn new(device_bytes: u64) -> Self {
        Self {
            device_bytes,
            seen: [0; SIGNATURES.len()],
            blank: true,
            name: [0; MAX_POOL_NAME + 1],
        }
    }

    /// Looks at the bytes at `offset` of the device.
    pub fn feed(&mut self, offset: u64, bytes: &[u8]) {
        // The or over a block is done without branches, so it is fast.
        let zero = |block: &[u8]| block.iter().fold(0, |or, b| or | b) == 0;
        self.blank = self.blank && bytes.chunks(64).all(zero);
        for (signature, seen) in SIGNATURES.iter().zip(&mut self.seen) {
            let Some(at) = signature.offset(self.device_bytes) else {
                continue;
            };
            for (index, byte) in overlap(offset, bytes, at, signature.bytes.len()) {
                *seen = match signature.bytes.get(index) {
                    Some(expected) if byte == expected && *seen != WRONG => seen.saturating_add(1),
                    _ => WRONG,
                };
            }
        }
        let name = FIRST_SUPERBLOCK.offset + NAME_OFFSET as u64;
        for (index, byte) in overlap(offset, bytes, name, self.name.len()) {
            if let Some(to) = self.name.get_mut(index) {
                *to = *byte;
            }
        }
    }

    /// What the device holds, by what was fed.
    pub fn found(&self) -> Found {
        if self.blank {
            return Found::Blank;
        }
        let full = |(_, (signature, seen)): &(usize, (&Signature, &u8))| {
            usize::from(**seen) == signature.bytes.len()
        };
        let name = || PoolName::from_padded(&self.name).ok();
        match SIGNATURES.iter().zip(&self.seen).enumerate().find(full) {
            Some((METADATA, _)) => Found::Metadata(name()),
            Some((STORE, _)) => Found::Store(name()),
            Some((_, (signature, _))) => Found::Known(signature.name),
            None => Found::Unknown,
        }
    }
}

impl Signature {
    fn offset(&self, device_bytes: u64) -> Option<u64> {
        match self.at {
            At::Start(offset) => Some(offset),
            At::End { unit, back } => {
                (device_bytes - device_bytes.checked_rem(unit)?).checked_sub(back)
            }
        }
    }
}

/// Those of `bytes`, which are from `offset` of the device on, that lie in the `len` bytes from `at` on; each
/// with its index there.
fn overlap(offset: u64, bytes: &[u8], at: u64, len: usize) -> impl Iterator<Item = (usize, &u8)> {
    let distance =
        |from: u64, to: u64| usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
    let (skip, first) = (distance(offset, at), distance(at, offset));
    let inside = bytes.get(skip..).unwrap_or(&[]);
    (first..len).zip(inside)
}

/// What the begin of a device holds; `None` if it is blank. To scan in pieces, or to see the end too, use
/// [`Scan`].
pub fn is_foreign(prefix: &[u8]) -> Option<&'static str> {
    // Without the size of the device, there is no end to look at.
    let mut scan = Scan::new(0);
    scan.feed(0, prefix);
    match scan.found() {
        Found::Blank => None,
        Found::Store(_) => SIGNATURES.get(STORE).map(|signature| signature.name),
        Found::Metadata(_) => SIGNATURES.get(METADATA).map(|signature| signature.name),
        Found::Known(name) => Some(name),
        Found::Unknown => Some("data of unknown kind"),
    }
}
