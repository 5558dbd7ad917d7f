// SPDX-License-Identifier: GPL-2.0

//! Power cuts at every point of every change of the metadata: nothing that was acknowledged may be gone, and no store
//! may be refused.

#[path = "crash/disk.rs"]
mod disk;

use disk::Image;
use disk::Recording;
use disk::PAGE;
use rmr_proto::Crc32c;
use rmr_proto::EpochRecord;
use rmr_proto::Incarnation;
use rmr_proto::Place;
use rmr_proto::Uuid;

struct Crc;

impl Crc32c for Crc {
    fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
        bytes.iter().fold(seed, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1))
            })
        })
    }
}

const STORE: Uuid = Uuid([7; 16]);
const EPOCH: [Place; 2] = [
    Place {
        offset: 8192,
        copy: 0,
    },
    Place {
        offset: 1 << 20,
        copy: 1,
    },
];

/// The rule by which all records are written: a copy, stable, then the other. Either written through the cache, or
/// into it and then flushed.
#[test]
fn a_record_of_two_copies() {
    let page = |version: u64, at| {
        let record = EpochRecord {
            incarnation: Incarnation(version),
            ..EpochRecord::default()
        };
        let mut page = [0; PAGE];
        record.encode::<Crc>(STORE, version, at, &mut page).unwrap();
        page
    };
    let version_on = |image: &Image| {
        let copies = EPOCH.map(|at| &image[&at.offset][..]);
        let found = EpochRecord::newest::<Crc>(STORE, EPOCH, copies).unwrap();
        assert_eq!(found.record.incarnation.0, found.sequence);
        found.sequence
    };
    for through in [true, false] {
        let before: Image = EPOCH.map(|at| (at.offset, page(1, at))).into();
        let mut disk = Recording::new(before);
        // After how many operations a version counts as written.
        let mut counts = vec![0];
        for version in 2..=4 {
            for at in EPOCH {
                disk.write(at.offset, &page(version, at), through);
                if !through {
                    disk.flush();
                }
            }
            counts.push(disk.len());
        }
        assert_eq!(version_on(&disk.now()), 4);
        disk.cuts(8, |cut| {
            let written = counts.iter().filter(|at| **at <= cut.answered).count() as u64;
            assert!((written..=written + 1).contains(&version_on(cut.image)));
        });
    }
}

/// A disk with a cache: any part of what was not flushed may be there.
#[test]
fn what_a_cut_leaves() {
    let mut disk = Recording::new(Image::new());
    disk.write(0, &[1; PAGE], false);
    disk.flush();
    disk.write(0, &[2; PAGE], false);
    disk.write(4096, &[3; PAGE], false);
    let mut seen = std::collections::BTreeSet::new();
    disk.cuts(2, |cut| {
        if cut.answered == disk.len() {
            let byte = |at| cut.image.get(&at).map_or(0, |page: &[u8; PAGE]| page[0]);
            seen.insert((byte(0), byte(4096)));
        }
    });
    assert!(seen.into_iter().eq([(1, 0), (1, 3), (2, 0), (2, 3)]));
}
