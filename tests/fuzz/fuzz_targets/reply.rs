// SPDX-License-Identifier: GPL-2.0

//! A reply from a member to a client, or to another member that asks what it has begun. What is accepted must be what the encoder sends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_fuzz::seal_message;
use rmr_fuzz::Crc;
use rmr_proto::Begun;
use rmr_proto::Kind;
use rmr_proto::Reply;
use rmr_proto::REPLY_BYTES;

fuzz_target!(|data: &[u8]| {
    let bytes = seal_message(data, b"rmr-rep\0", 24);
    let _ = Reply::parse::<Crc>(data, Kind::Query);
    let Some(kind) = bytes.get(10).and_then(|k| Kind::from_wire(u16::from(*k))) else {
        return;
    };
    if let Ok(reply) = Reply::parse::<Crc>(&bytes, kind) {
        let mut buf = [0; REPLY_BYTES];
        assert_eq!(reply.encode::<Crc>(&mut buf), Ok(&bytes[..]));
    }
    if let Ok(begun) = Begun::parse::<Crc>(&bytes) {
        let mut buf = [0; REPLY_BYTES];
        assert_eq!(begun.encode::<Crc>(&mut buf), Ok(&bytes[..]));
    }
});
