// SPDX-License-Identifier: GPL-2.0

//! The messages of a handshake, and the reply. What is accepted must be what the encoder sends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_fuzz::seal_message;
use rmr_fuzz::Crc;
use rmr_proto::Challenge;
use rmr_proto::Proof;
use rmr_proto::Response;
use rmr_proto::CHALLENGE_BYTES;
use rmr_proto::HEADER_BYTES;
use rmr_proto::PROOF_BYTES;
use rmr_proto::RESPONSE_BYTES;

fuzz_target!(|data: &[u8]| {
    let bytes = seal_message(data, b"rmr-msg\0", HEADER_BYTES);
    if let Ok(challenge) = Challenge::parse::<Crc>(&bytes) {
        let mut buf = [0; CHALLENGE_BYTES];
        assert_eq!(challenge.encode::<Crc>(&mut buf), Ok(()));
        assert_eq!(buf[..], bytes[..]);
    }
    if let Ok(proof) = Proof::parse::<Crc>(&bytes) {
        let mut buf = [0; PROOF_BYTES];
        assert_eq!(proof.encode::<Crc>(&mut buf), Ok(()));
        assert_eq!(buf[..], bytes[..]);
    }
    let bytes = seal_message(data, b"rmr-rep\0", 24);
    if let Ok(response) = Response::parse::<Crc>(&bytes) {
        let mut buf = [0; RESPONSE_BYTES];
        assert_eq!(response.encode::<Crc>(&mut buf), Ok(()));
        assert_eq!(buf[..], bytes[..]);
    }
});
