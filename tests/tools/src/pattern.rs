// SPDX-License-Identifier: GPL-2.0

//! What a 512-byte block holds.
//!
//! Every block written by the test carries the run's seed, its own block number and a version, and is filled up from
//! them, so that a block that is old, that belongs elsewhere, that comes from another run or that is torn can be told
//! from a right one by its content alone. This file knows nothing of devices.

use std::fmt;

/// Bytes of one block: the smallest unit any block device addresses.
pub const BLOCK: usize = 512;

/// Same as [`BLOCK`], for arithmetic on device offsets.
pub const BLOCK_U64: u64 = BLOCK as u64;

const MAGIC: u64 = 0x7465_7374_2d72_6d72;
const WORD: usize = 8;
const ZEROES: [u8; BLOCK] = [0; BLOCK];

/// What was found in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All bytes are zero.
    Zero,
    /// A whole block of this run, at its own place.
    Version(u64),
    /// A whole block, but of another run or another place.
    Foreign { seed: u64, block: u64, version: u64 },
    /// Neither; `at` is the first byte that does not fit the block's own header.
    Torn { at: usize },
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Zero => write!(f, "zeroes"),
            Content::Version(v) => write!(f, "version {v}"),
            Content::Foreign {
                seed,
                block,
                version,
            } => {
                write!(f, "version {version} of block {block} of seed {seed}")
            }
            Content::Torn { at } => write!(f, "a torn block (first wrong byte {at})"),
        }
    }
}

/// Mixes a word so that neighbouring inputs give unlike outputs (the finaliser of SplitMix64).
fn mix(word: u64) -> u64 {
    let a = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

/// Writes the content of one block into `out`.
///
/// # Panics
///
/// If `out` is not [`BLOCK`] bytes long.
pub fn stamp(out: &mut [u8], seed: u64, block: u64, version: u64) {
    assert_eq!(out.len(), BLOCK);
    let mut state = mix(seed ^ mix(block ^ mix(version)));
    let header = [MAGIC, seed, block, version];
    for (i, word) in out.chunks_exact_mut(WORD).enumerate() {
        let value = header.get(i).copied().unwrap_or_else(|| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            state ^ (state >> 29)
        });
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Fills a buffer of whole blocks, the first of which is block number `first`.
pub fn stamp_all(out: &mut [u8], seed: u64, first: u64, version: u64) {
    for (block, bytes) in (first..).zip(out.chunks_exact_mut(BLOCK)) {
        stamp(bytes, seed, block, version);
    }
}

/// Says what one block holds, read at block number `block` in the run `seed`.
///
/// # Panics
///
/// If `bytes` is not [`BLOCK`] bytes long.
pub fn inspect(bytes: &[u8], seed: u64, block: u64) -> Content {
    assert_eq!(bytes.len(), BLOCK);
    if bytes == ZEROES {
        return Content::Zero;
    }
    let word = |i: usize| {
        let mut raw = [0; WORD];
        raw.copy_from_slice(&bytes[i * WORD..(i + 1) * WORD]);
        u64::from_le_bytes(raw)
    };
    if word(0) != MAGIC {
        return Content::Torn { at: 0 };
    }
    let (found_seed, found_block, version) = (word(1), word(2), word(3));
    let mut expected = [0; BLOCK];
    stamp(&mut expected, found_seed, found_block, version);
    if let Some(at) = expected.iter().zip(bytes).position(|(a, b)| a != b) {
        return Content::Torn { at };
    }
    if found_seed == seed && found_block == block {
        Content::Version(version)
    } else {
        Content::Foreign {
            seed: found_seed,
            block: found_block,
            version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(seed: u64, block: u64, version: u64) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        stamp(&mut bytes, seed, block, version);
        bytes
    }

    #[test]
    fn own_block_is_recognised() {
        assert_eq!(
            inspect(&block(7, 1 << 40, 3), 7, 1 << 40),
            Content::Version(3)
        );
        assert_eq!(inspect(&[0; BLOCK], 7, 0), Content::Zero);
    }

    #[test]
    fn foreign_blocks_are_named() {
        let bytes = block(7, 5, 3);
        let foreign = Content::Foreign {
            seed: 7,
            block: 5,
            version: 3,
        };
        assert_eq!(inspect(&bytes, 7, 6), foreign);
        assert_eq!(inspect(&bytes, 8, 5), foreign);
    }

    #[test]
    fn every_single_wrong_byte_is_seen() {
        let good = block(1, 2, 3);
        for at in 0..BLOCK {
            let mut bad = good;
            bad[at] ^= 1;
            assert!(
                matches!(inspect(&bad, 1, 2), Content::Torn { .. }),
                "byte {at}"
            );
        }
    }

    #[test]
    fn versions_differ_everywhere() {
        // A block torn between two versions at any word must not look whole.
        let (old, new) = (block(1, 2, 3), block(1, 2, 4));
        for cut in (4 * WORD..BLOCK).step_by(WORD) {
            let mut torn = new;
            torn[cut..].copy_from_slice(&old[cut..]);
            assert!(
                matches!(inspect(&torn, 1, 2), Content::Torn { .. }),
                "cut at {cut}"
            );
        }
    }
}
