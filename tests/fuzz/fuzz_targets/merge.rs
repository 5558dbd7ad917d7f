// SPDX-License-Identifier: GPL-2.0

//! Chunks for dirty bitmaps from a client. What is accepted must be what the encoder sends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_fuzz::seal_message;
use rmr_fuzz::Crc;
use rmr_proto::Merge;
use rmr_proto::HEADER_BYTES;
use rmr_proto::MAX_MERGE_BYTES;

fuzz_target!(|data: &[u8]| {
    let bytes = seal_message(data, b"rmr-msg\0", HEADER_BYTES);
    if let Ok(merge) = Merge::parse::<Crc>(&bytes) {
        let mut buf = [0; MAX_MERGE_BYTES];
        assert_eq!(merge.encode::<Crc>(&mut buf), Ok(&bytes[..]));
    }
});
