// SPDX-License-Identifier: GPL-2.0

//! A page of the activity log, of a bitmap or of the list of unreadable sectors from a disk. What is accepted must be what would be written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_fuzz::seal_record;
use rmr_fuzz::Crc;
use rmr_proto::BitmapPage;
use rmr_proto::LogPage;
use rmr_proto::Place;
use rmr_proto::UnreadablePage;
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
    let _ = LogPage::parse::<Crc>(store, at, data);
    let _ = BitmapPage::parse::<Crc>(store, at, data);
    let mut data = data.to_vec();
    if let Some(frame) = data.get_mut(24..48) {
        frame[..16].copy_from_slice(&store.0);
        frame[16..].copy_from_slice(&at.offset.to_le_bytes());
    }
    let mut buf = [0; RECORD_BYTES];
    let bytes = seal_record(&data, 4, 1);
    if let Ok(v) = LogPage::parse::<Crc>(store, at, &bytes) {
        LogPage::encode::<Crc>(store, v.sequence, at, v.record.slots(), &mut buf)
            .expect("an accepted page");
        assert_eq!(buf[..], bytes);
    }
    let bytes = seal_record(&data, 6, 1);
    if let Ok(v) = UnreadablePage::parse::<Crc>(store, at, &bytes) {
        UnreadablePage::encode::<Crc>(store, v.sequence, at, v.record.slots(), &mut buf)
            .expect("an accepted page");
        assert_eq!(buf[..], bytes);
    }
    let bytes = seal_record(&data, 5, 1);
    if let Ok(v) = BitmapPage::parse::<Crc>(store, at, &bytes) {
        let words = v.record.words().iter().map(|word| word.get());
        BitmapPage::encode::<Crc>(store, v.sequence, at, words, &mut buf)
            .expect("an accepted page");
        assert_eq!(buf[..], bytes);
    }
});
