// SPDX-License-Identifier: GPL-2.0

use super::*;
use std::string::ToString;
use std::vec;

const DEVICE: u64 = (64 << 20) + 512;

/// All signatures are that near to one of the ends.
const WINDOW: u64 = 128 << 10;
const _: () = assert!(WINDOW <= Scan::BYTES);

/// What a scan in pieces of `piece` bytes finds on a device with `bytes` at `at`.
fn found(piece: usize, at: u64, bytes: &[u8]) -> Found {
    let mut scan = Scan::new(DEVICE);
    let mut window = |start: u64| {
        let mut content = vec![0u8; WINDOW as usize];
        for (place, byte) in (at..).zip(bytes) {
            if let Some(to) = place
                .checked_sub(start)
                .and_then(|i| content.get_mut(i as usize))
            {
                *to = *byte;
            }
        }
        for (i, part) in content.chunks(piece).enumerate() {
            scan.feed(start + (i * piece) as u64, part);
        }
    };
    window(0);
    window(DEVICE - WINDOW);
    scan.found()
}

#[test]
fn what_is_known() {
    const MD: &str = "a member of an md RAID array";
    const MD_MAGIC: &[u8] = b"\xfc\x4e\x2b\xa9\x01\0\0\0";
    let aligned = DEVICE / 4096 * 4096;
    let cases: &[(u64, &[u8], &str)] = &[
        (1080, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
        (0, b"XFSB", "an XFS file system"),
        (65600, b"_BHRfS_M", "a btrfs file system"),
        (512, b"LABELONE", "an LVM physical volume"),
        (0, b"LUKS\xba\xbe\0\x02", "a LUKS volume"),
        (4096, MD_MAGIC, MD),
        (0, MD_MAGIC, MD),
        (aligned - 8192, MD_MAGIC, MD),
        (
            DEVICE / 65536 * 65536 - 65536,
            b"\xfc\x4e\x2b\xa9\0\0\0\0\x5a\0\0\0",
            MD,
        ),
        (512, b"EFI PART", "a GPT partition table"),
        (DEVICE - 512, b"EFI PART", "a GPT partition table"),
        (510, b"\x55\xaa", "an MBR partition table or boot sector"),
        (4086, b"SWAPSPACE2", "swap space"),
        (aligned - 4036, b"\x83\x74\x02\x6b", "a DRBD device"),
        (aligned - 4036, b"\x83\x74\x02\x6c", "a DRBD device"),
        (aligned - 4036, b"\x83\x74\x02\x6d", "a DRBD device"),
        (65588, b"ReIsEr2Fs", "a ReiserFS file system"),
        (
            4120,
            b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
            "a bcache device",
        ),
        (16404, b"\0\0\0\x07version\0", "a member of a ZFS pool"),
    ];
    for (at, bytes, name) in cases {
        for piece in [7, 512, 4096, 65536, WINDOW as usize] {
            assert_eq!(
                found(piece, *at, bytes),
                Found::Known(name),
                "{name} in pieces of {piece}"
            );
        }
    }
    // A FAT boot sector has the signature of an MBR, too.
    let mut boot = [0; 512];
    boot[82..90].copy_from_slice(b"FAT32   ");
    boot[510..].copy_from_slice(b"\x55\xaa");
    assert_eq!(found(512, 0, &boot), Found::Known("a FAT file system"));
}

#[test]
fn what_is_not() {
    assert_eq!(found(4096, 0, &[]), Found::Blank);
    assert_eq!(found(4096, 70_001, &[1]), Found::Unknown);
    assert_eq!(found(4096, DEVICE - 1, &[1]), Found::Unknown);
    assert_eq!(found(4096, 0, b"XFSC"), Found::Unknown);
    assert_eq!(found(3, 0, b"XFS"), Found::Unknown);
    assert_eq!(is_foreign(&[]), None);
    assert_eq!(is_foreign(&[0; 8192]), None);
    assert_eq!(is_foreign(&[1; 8192]), Some("data of unknown kind"));
    assert_eq!(is_foreign(b"XFSB"), Some("an XFS file system"));
    // A device of no size has no end.
    let mut scan = Scan::new(0);
    scan.feed(u64::MAX, &[1, 2]);
    assert_eq!(scan.found(), Found::Unknown);
}

#[test]
fn a_store() {
    let geometry = Geometry::new(1 << 20, 16).unwrap();
    let name: PoolName = "vm-images".parse().unwrap();
    let mut superblock = Superblock {
        role: DeviceRole::Data,
        state: StoreState::Ready,
        store: Uuid([7; 16]),
        pool: Uuid::NIL,
        name,
        member: member(2),
        logical_block: 512,
        layout: Layout::compute(DEVICE, geometry).unwrap(),
        metadata: None,
        secret: false,
    };
    let mut bytes = [0; RECORD_BYTES];
    let at = superblock.encode::<Host>(1, 0, &mut bytes).unwrap();
    for piece in [1, 100, 4096, 1 << 20] {
        assert_eq!(found(piece, at.offset, &bytes), Found::Store(Some(name)));
    }
    assert_eq!(
        found(4096, at.offset, &bytes).to_string(),
        "a store of pool vm-images"
    );
    assert_eq!(
        found(4096, at.offset, &bytes[..64]).to_string(),
        "a store of some pool"
    );
    let mut prefix = [0; 8192];
    prefix[4096..].copy_from_slice(&bytes);
    assert_eq!(is_foreign(&prefix), Some("a store of RMR"));

    // With its metadata elsewhere, and that.
    superblock.layout = Layout::compute_external(DEVICE, DEVICE, geometry).unwrap();
    superblock.metadata = Some(MetadataDevice {
        uuid: Uuid([8; 16]),
        starts: 0,
    });
    superblock.encode::<Host>(1, 0, &mut bytes).unwrap();
    assert_eq!(found(512, at.offset, &bytes), Found::Store(Some(name)));
    let metadata = superblock.of_metadata().unwrap();
    metadata.encode::<Host>(1, 0, &mut bytes).unwrap();
    for piece in [1, 100, 4096, 1 << 20] {
        assert_eq!(found(piece, at.offset, &bytes), Found::Metadata(Some(name)));
    }
    assert_eq!(
        found(4096, at.offset, &bytes).to_string(),
        "the metadata of a store of pool vm-images"
    );
    assert_eq!(
        found(4096, at.offset, &bytes[..64]).to_string(),
        "the metadata of a store of some pool"
    );
    prefix[4096..].copy_from_slice(&bytes);
    assert_eq!(is_foreign(&prefix), Some("the metadata of a store of RMR"));
}

proptest! {
    /// The size of the pieces does not change what is found.
    #[test]
    fn pieces_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 1..64), at in 0u64..80_000, piece in 64usize..9000) {
        prop_assert_eq!(found(piece, at, &bytes), found(WINDOW as usize, at, &bytes));
    }
}
