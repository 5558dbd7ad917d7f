// SPDX-License-Identifier: GPL-2.0

//! A number that stands for a state: 64 bits of everything that decides what may follow.
//!
//! Two of ten million different states have the same one with a probability of three in a million; one of them would not
//! be looked at.

use std::hash::Hash;
use std::hash::Hasher;

/// Mixes numbers: multiplies to 128 bits, and folds. Zeros, of which there are most, are counted.
#[derive(Clone, Copy, Debug)]
struct Mixer {
    state: u64,
    zeros: u64,
}

impl Mixer {
    #[inline(always)]
    fn mix(&mut self, number: u64) {
        if number == 0 {
            self.zeros += 1;
            return;
        }
        if self.zeros > 0 {
            self.fold(self.zeros, 0x5896_36e7_9c3f_a1d1);
            self.zeros = 0;
        }
        self.fold(number, 0xa076_1d64_78bd_642f);
    }

    #[inline(always)]
    fn fold(&mut self, number: u64, key: u64) {
        let product = u128::from(self.state ^ number ^ key)
            * u128::from(self.state.rotate_left(29) ^ 0xe703_7ed1_a0b4_28db ^ key);
        self.state = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        let mut last = *self;
        last.mix(0x8ebc_6af0_9c88_c6e3);
        last.state
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let word = <[u8; 8]>::try_from(chunk).unwrap_or_default();
            self.mix(u64::from_le_bytes(word));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(word));
        }
    }

    #[inline(always)]
    fn write_u8(&mut self, number: u8) {
        self.mix(number.into());
    }

    #[inline(always)]
    fn write_u32(&mut self, number: u32) {
        self.mix(number.into());
    }

    #[inline(always)]
    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    #[inline(always)]
    fn write_usize(&mut self, number: usize) {
        self.mix(number as u64);
    }
}

/// The fingerprint of a value.
pub fn of(value: &impl Hash) -> u64 {
    let mut mixer = Mixer {
        state: 0x2d35_8dcc_aa6c_78a5,
        zeros: 0,
    };
    value.hash(&mut mixer);
    mixer.finish()
}

/// The fingerprint of values whose order does not count.
pub fn of_bag(values: impl IntoIterator<Item = impl Hash>) -> u64 {
    values
        .into_iter()
        .fold(0, |sum, value| sum.wrapping_add(of(&value)))
}

/// For sets of fingerprints: they are mixed already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts() {
        assert_ne!(of(&[0_u64, 1]), of(&[1_u64, 0]));
        assert_ne!(of(&[0_u64; 2]), of(&[0_u64; 3]));
        assert_ne!(of(&[0_u64, 5]), of(&[5_u64, 0]));
        assert_ne!(of(&"abcdefgh1"), of(&"abcdefgh2"));
        assert_eq!(of_bag([1, 2, 2]), of_bag([2, 1, 2]));
        assert_ne!(of_bag([1, 2, 2]), of_bag([1, 1, 2]));
    }
}
