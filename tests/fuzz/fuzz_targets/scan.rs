// SPDX-License-Identifier: GPL-2.0

//! The begin of a device: what is found must not depend on the pieces it is looked at in.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_proto::is_foreign;
use rmr_proto::Scan;

fuzz_target!(|input: (u16, u32, &[u8])| {
    let (piece, offset, data) = input;
    let (piece, offset) = (usize::from(piece).max(1), u64::from(offset));
    let _ = is_foreign(data);
    let mut whole = Scan::new(offset);
    whole.feed(offset, data);
    let mut pieces = Scan::new(offset);
    for (index, part) in data.chunks(piece).enumerate() {
        pieces.feed(offset + (index * piece) as u64, part);
    }
    assert_eq!(whole.found(), pieces.found());
});
