// SPDX-License-Identifier: GPL-2.0

//! A page of a bitmap from another member. What is accepted must be what the encoder sends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rmr_fuzz::seal_message;
use rmr_fuzz::Crc;
use rmr_proto::DirtyPage;
use rmr_proto::REPLY_BYTES;

fuzz_target!(|data: &[u8]| {
    let bytes = seal_message(data, b"rmr-rep\0", 24);
    if let Ok(page) = DirtyPage::parse::<Crc>(&bytes) {
        let mut buf = [0; REPLY_BYTES];
        let words = page.words.iter().map(|word| word.get());
        let again = DirtyPage::encode::<Crc>(page.of, page.page, words, &mut buf);
        assert_eq!(again, Ok(&bytes[..]));
    }
});
