// SPDX-License-Identifier: GPL-2.0

//! An epoch record from a disk. What is accepted must be what would be written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_fuzz::seal_record;
use rmr_fuzz::Crc;
use rmr_proto::EpochRecord;
use rmr_proto::Place;
use rmr_proto::Uuid;
use rmr_proto::RECORD_BYTES;

fuzz_target!(|data: &[u8]| {
    let (store, at) = (
        Uuid([7; 16]),
        Place {
            offset: 8192,
            copy: 1,
        },
    );
    let _ = EpochRecord::parse::<Crc>(store, at, data);
    let mut data = data.to_vec();
    if let Some(frame) = data.get_mut(24..48) {
        frame[..16].copy_from_slice(&store.0);
        frame[16..].copy_from_slice(&at.offset.to_le_bytes());
    }
    let bytes = seal_record(&data, 2, 1);
    if let Ok(v) = EpochRecord::parse::<Crc>(store, at, &bytes) {
        let mut buf = [0; RECORD_BYTES];
        v.record
            .encode::<Crc>(store, v.sequence, at, &mut buf)
            .expect("an accepted record");
        assert_eq!(buf[..], bytes);
    }
});
