// SPDX-License-Identifier: GPL-2.0

//! Numbers drawn from a seed: the same on every machine, and with every version of this program's libraries.
//!
//! ChaCha8 is a published algorithm; nothing else of the `rand` crates is used, as how they make ranges and
//! floats of its output may change. Each purpose draws from a stream of its own: so a change of one part of the
//! world (a fault that is left out when a run is shrunk) leaves the numbers of the others as they were.

use rand_chacha::rand_core::RngCore;
use rand_chacha::rand_core::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Who draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The plan of a run.
    Plan = 1,
    /// The workload.
    Work = 2,
    /// Delays and faults of messages.
    Network = 3,
    /// Delays and faults of disks.
    Disk = 4,
    /// What is lost of a cache, and other details of faults.
    Fault = 5,
    /// UUIDs and nonces handed to the engine.
    Engine = 6,
    /// Moments that faults wait for.
    Moment = 7,
    /// A story, instead of single faults.
    Story = 8,
    /// Blocks that nobody can read.
    Dead = 9,
    /// Members that catch up and are not sent what others are.
    Late = 10,
    /// Whether it has a story that came still later, and which.
    Onward = 11,
    /// And one of answers that are old.
    Overtaken = 12,
}

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream of this seed, for this purpose.
    pub fn new(seed: u64, purpose: Purpose) -> Random {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8] = purpose as u8;
        Random(ChaCha8Rng::from_seed(key))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`, 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The upper half of the product: off by less than 2^-32 for all ends used here.
        ((u128::from(self.any()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `low` up to and with `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low.saturating_add(self.below(high.saturating_sub(low).saturating_add(1)))
    }

    /// A number from `low` up to and with `high` (both positive), each power of two as likely as the next.
    pub fn scaled(&mut self, low: u64, high: u64) -> u64 {
        let shift = self.between(
            u64::from(low.max(1).ilog2()),
            u64::from(high.max(1).ilog2()),
        );
        let base = 1_u64 << shift;
        (base + self.below(base)).clamp(low, high)
    }

    /// True `part` times in `of`.
    pub fn chance(&mut self, part: u64, of: u64) -> bool {
        self.below(of) < part
    }

    /// True so many times in a million. Draws nothing for 0.
    pub fn ppm(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.chance(ppm.into(), 1_000_000)
    }

    /// One of these; `None` if there is none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.below(of.len() as u64) as usize).copied()
    }

    /// 16 bytes.
    pub fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.any().to_le_bytes());
        bytes[8..].copy_from_slice(&self.any().to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_for_ever() {
        let mut random = Random::new(1, Purpose::Plan);
        let first = random.any();
        assert_eq!(first, Random::new(1, Purpose::Plan).any());
        assert_ne!(first, Random::new(2, Purpose::Plan).any());
        assert_ne!(first, Random::new(1, Purpose::Work).any());
        assert_eq!(first, 4_344_717_217_939_160_907);
    }

    #[test]
    fn ranges() {
        let mut random = Random::new(7, Purpose::Work);
        for _ in 0..1000 {
            assert!((3..=5).contains(&random.between(3, 5)));
            assert!((3..=500).contains(&random.scaled(3, 500)));
            assert!(random.below(1) == 0);
        }
        assert_eq!(random.between(4, 4), 4);
        assert_eq!(random.pick::<u8>(&[]), None);
    }
}
