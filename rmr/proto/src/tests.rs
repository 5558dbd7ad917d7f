// SPDX-License-Identifier: GPL-2.0

//! Tests of the messages and records, with what they share.

mod address;
mod auth;
mod batch;
mod control;
mod layout;
mod merge;
mod pages;
mod peer;
mod record;
mod reply;
mod scan;
mod superblock;

use crate::config::tests::any_config;
use crate::config::tests::member;
use crate::crc::tests::Host;
use crate::*;
use proptest::prelude::*;
use std::vec::Vec;

/// Where the checksum is, in everything that has one.
const CRC_AT: usize = 16;

/// Makes the checksum of something right again whose header has `header` bytes.
fn reseal(bytes: &mut [u8], header: usize) {
    bytes[CRC_AT..CRC_AT + 4].fill(0);
    let body = Host::crc32c(!0, &bytes[header..]);
    let crc = !Host::crc32c(body, &bytes[..header]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

/// `bytes` with those at `at` replaced, and the checksum right.
fn forged(bytes: &[u8], header: usize, at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    reseal(&mut bytes, header);
    bytes
}

/// Checks that `accepts` refuses `bytes` with any one bit changed.
fn refuses_bit_flips(bytes: &[u8], accepts: impl Fn(&[u8]) -> bool) {
    let mut bytes = bytes.to_vec();
    assert!(accepts(&bytes));
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!accepts(&bytes), "bit {bit} changed, and it is accepted");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Checks that `accepts` refuses `bytes` cut short at any length, also with a right checksum.
fn refuses_truncation(bytes: &[u8], header: usize, accepts: impl Fn(&[u8]) -> bool) {
    assert!(accepts(bytes));
    for len in 0..bytes.len() {
        assert!(
            !accepts(&bytes[..len]),
            "cut to {len} bytes, and it is accepted"
        );
        if len >= header {
            let mut cut = bytes[..len].to_vec();
            reseal(&mut cut, header);
            assert!(
                !accepts(&cut),
                "cut to {len} bytes and sealed, and it is accepted"
            );
        }
    }
}

prop_compose! {
    fn any_name()(text in "[!-.0-~]{1,63}".prop_filter("leading dot", |s| !s.starts_with('.'))) -> PoolName {
        text.parse().unwrap()
    }
}

fn any_member() -> impl Strategy<Value = MemberId> {
    (1u32..=32).prop_map(member)
}

prop_compose! {
    fn any_uuid()(mut bytes: [u8; 16], first in 1u8..) -> Uuid {
        bytes[0] = first;
        Uuid(bytes)
    }
}

prop_compose! {
    fn any_generation()(number in 1u64.., nonce: u64) -> Generation {
        Generation { number, nonce }
    }
}

prop_compose! {
    fn any_geometry()(
        blocks in prop_oneof![1u64..1 << 20, 1..=MAX_VOLUME_BYTES / BLOCK_BYTES],
        shift in Geometry::MIN_CHUNK_SHIFT..=Geometry::MAX_CHUNK_SHIFT,
    ) -> Geometry {
        Geometry::new(blocks * BLOCK_BYTES, shift).unwrap()
    }
}
