// SPDX-License-Identifier: GPL-2.0

//! Where another member is, from a client. What is accepted must be what the encoder sends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_fuzz::seal_message;
use rmr_fuzz::Crc;
use rmr_proto::Address;
use rmr_proto::ADDRESS_BYTES;
use rmr_proto::HEADER_BYTES;

fuzz_target!(|data: &[u8]| {
    let bytes = seal_message(data, b"rmr-msg\0", HEADER_BYTES);
    if let Ok(address) = Address::parse::<Crc>(&bytes) {
        let mut buf = [0; ADDRESS_BYTES];
        assert_eq!(address.encode::<Crc>(&mut buf), Ok(()));
        assert_eq!(buf[..], bytes[..]);
    }
});
