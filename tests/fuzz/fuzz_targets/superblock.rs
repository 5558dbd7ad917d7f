// SPDX-License-Identifier: GPL-2.0

//! A superblock from a disk: its areas must not overlap, and it must stay the same when written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_fuzz::seal_record;
use rmr_fuzz::Crc;
use rmr_proto::Area;
use rmr_proto::Layout;
use rmr_proto::MemberId;
use rmr_proto::Place;
use rmr_proto::Superblock;
use rmr_proto::FIRST_SUPERBLOCK;
use rmr_proto::RECORD_BYTES;

fn check(layout: &Layout) {
    let record = |at: Place| Area {
        offset: at.offset,
        len: RECORD_BYTES as u64,
    };
    let mut all = vec![
        Area {
            offset: 0,
            len: 4096,
        },
        layout.data(),
    ];
    all.extend(layout.superblock().map(record));
    all.extend(layout.epoch().map(record));
    all.extend(layout.member_table());
    all.extend(layout.activity_log());
    all.extend(MemberId::all().flat_map(|id| layout.bitmap(id)));
    all.sort_by_key(|area| area.offset);
    for pair in all.windows(2) {
        assert!(pair[0].end().is_some_and(|end| end <= pair[1].offset));
    }
    assert_eq!(layout.data().end(), Some(layout.device_bytes()));
}

fuzz_target!(|data: &[u8]| {
    let _ = Superblock::parse::<Crc>(FIRST_SUPERBLOCK, data);
    let mut data = data.to_vec();
    if let Some(offset) = data.get_mut(40..48) {
        offset.copy_from_slice(&FIRST_SUPERBLOCK.offset.to_le_bytes());
    }
    let Ok(v) = Superblock::parse::<Crc>(FIRST_SUPERBLOCK, &seal_record(&data, 1, 0)) else {
        return;
    };
    check(&v.record.layout);
    let mut buf = [0; RECORD_BYTES];
    let at = v
        .record
        .encode::<Crc>(v.sequence, 1, &mut buf)
        .expect("an accepted superblock");
    assert_eq!(Superblock::parse::<Crc>(at, &buf), Ok(v));
});
