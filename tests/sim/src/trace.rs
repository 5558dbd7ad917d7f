// SPDX-License-Identifier: GPL-2.0

//! What happened, as lines to read, and as one number to compare runs by.

use crate::queue::Nanos;
use std::fmt;

/// A number that any change of a run changes: 64 bits, each of what was mixed in moves half of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// Nothing yet.
    pub fn new() -> Digest {
        Digest(0x9e37_79b9_7f4a_7c15)
    }

    /// Mixes a number in. The finaliser of MurmurHash3.
    pub fn mix(&mut self, number: u64) {
        let mut x = self.0.rotate_left(5) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        self.0 = x ^ x >> 33;
    }
}

impl Default for Digest {
    fn default() -> Self {
        Digest::new()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Lines of a run.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Prints all lines at once.
    loud: bool,
    /// The digest of the run.
    pub digest: Digest,
}

impl Trace {
    /// A trace; `loud` prints every line to the standard output.
    pub fn new(loud: bool) -> Trace {
        Trace {
            loud,
            digest: Digest::new(),
        }
    }

    /// Whether lines are wanted; if not, do not make them.
    pub fn is_loud(&self) -> bool {
        self.loud
    }

    /// A line: when, who, what.
    pub fn line(&self, now: Nanos, who: &dyn fmt::Display, what: fmt::Arguments<'_>) {
        if self.loud {
            println!("{:>14.6} {who:<3} {what}", now as f64 / 1e9);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_counts() {
        let (mut one, mut other) = (Digest::new(), Digest::new());
        one.mix(1);
        one.mix(2);
        other.mix(2);
        other.mix(1);
        assert_ne!(one, other);
        assert_eq!(one.to_string().len(), 16);
    }
}
