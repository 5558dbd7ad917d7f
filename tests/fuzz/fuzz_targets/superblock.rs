// SPDX-License-Identifier: GPL-2.0

//! A superblock from a disk, of a store or of a metadata device: its areas must not overlap, and it must stay the same when
//! written again. What is taken for the one is not taken for the other.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_fuzz::seal_record;
use rmr_fuzz::Crc;
use rmr_proto::Area;
use rmr_proto::DeviceRole;
use rmr_proto::Layout;
use rmr_proto::MemberId;
use rmr_proto::Place;
use rmr_proto::Superblock;
use rmr_proto::FIRST_SUPERBLOCK;
use rmr_proto::RECORD_BYTES;

fn record(at: Place) -> Area {
    Area {
        offset: at.offset,
        len: RECORD_BYTES as u64,
    }
}

/// All areas of one device, and the first 4 KiB.
fn apart(mut all: Vec<Area>) -> u64 {
    all.push(Area {
        offset: 0,
        len: 4096,
    });
    all.sort_by_key(|area| area.offset);
    for pair in all.windows(2) {
        assert!(pair[0].end().is_some_and(|end| end <= pair[1].offset));
    }
    all.last().and_then(Area::end).expect("the last one ends")
}

fn check(layout: &Layout) {
    let mut data = vec![layout.data()];
    data.extend(layout.superblock().map(record));
    let mut metadata = Vec::new();
    metadata.extend(layout.epoch().map(record));
    metadata.extend(layout.member_table());
    metadata.extend(layout.activity_log());
    metadata.extend(MemberId::all().flat_map(|id| layout.bitmap(id)));
    match layout.metadata_superblock() {
        None => data.append(&mut metadata),
        Some(own) => {
            metadata.extend(own.map(record));
            assert_eq!(apart(metadata), layout.metadata_bytes());
            assert_eq!(layout.check_metadata_fits(layout.metadata_bytes()), Ok(()));
        }
    }
    assert_eq!(apart(data), layout.device_bytes());
}

fuzz_target!(|data: &[u8]| {
    let _ = Superblock::parse::<Crc>(DeviceRole::Data, FIRST_SUPERBLOCK, data);
    let mut data = data.to_vec();
    if let Some(offset) = data.get_mut(40..48) {
        offset.copy_from_slice(&FIRST_SUPERBLOCK.offset.to_le_bytes());
    }
    for (role, other, kind) in [
        (DeviceRole::Data, DeviceRole::Metadata, 1),
        (DeviceRole::Metadata, DeviceRole::Data, 7),
    ] {
        let bytes = seal_record(&data, kind, 0);
        let Ok(v) = Superblock::parse::<Crc>(role, FIRST_SUPERBLOCK, &bytes) else {
            continue;
        };
        assert!(Superblock::parse::<Crc>(other, FIRST_SUPERBLOCK, &bytes).is_err());
        check(&v.record.layout);
        if let Some(metadata) = v.record.of_metadata() {
            assert_eq!(metadata.layout, v.record.layout);
        }
        let mut buf = [0; RECORD_BYTES];
        let at = v
            .record
            .encode::<Crc>(v.sequence, 1, &mut buf)
            .expect("an accepted superblock");
        assert_eq!(Superblock::parse::<Crc>(role, at, &buf), Ok(v));
    }
});
