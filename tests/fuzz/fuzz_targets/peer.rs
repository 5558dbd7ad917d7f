// SPDX-License-Identifier: GPL-2.0

//! A message from another member. What is accepted must be what the encoder sends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_fuzz::seal_message;
use rmr_fuzz::Crc;
use rmr_proto::Peer;
use rmr_proto::HEADER_BYTES;
use rmr_proto::MAX_PEER_BYTES;

fuzz_target!(|data: &[u8]| {
    let bytes = seal_message(data, b"rmr-msg\0", HEADER_BYTES);
    if let Ok(peer) = Peer::parse::<Crc>(&bytes) {
        let mut buf = [0; MAX_PEER_BYTES];
        assert_eq!(peer.encode::<Crc>(&mut buf), Ok(&bytes[..]));
    }
});
