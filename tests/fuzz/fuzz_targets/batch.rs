// SPDX-License-Identifier: GPL-2.0

//! A batch from a client. What is accepted must be what the encoder sends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_fuzz::seal_message;
use rmr_fuzz::Crc;
use rmr_proto::Batch;
use rmr_proto::BatchEncoder;
use rmr_proto::Message;
use rmr_proto::HEADER_BYTES;
use rmr_proto::MAX_BATCH;
use rmr_proto::MAX_BATCH_BYTES;

fuzz_target!(|data: &[u8]| {
    let _ = Message::parse::<Crc>(data);
    let bytes = seal_message(data, b"rmr-msg\0", HEADER_BYTES);
    let Ok(batch) = Batch::parse::<Crc>(&bytes) else {
        return;
    };
    assert!((1..=MAX_BATCH).contains(&batch.len()));
    let mut buf = [0; MAX_BATCH_BYTES];
    let mut encoder = BatchEncoder::new(&mut buf);
    for request in batch.requests() {
        assert_eq!(encoder.push(&request), Ok(request.data_offset));
    }
    assert_eq!(encoder.finish::<Crc>(batch.header()), Ok(&bytes[..]));
});
