// SPDX-License-Identifier: GPL-2.0

//! A value that is copied when one of its copies is about to change, that remembers its fingerprint until then, and
//! whether it may have changed since somebody looked.
//!
//! A step changes one host: what a model checker copies and compares is little. In the simulator there is one copy of
//! each value, which costs nothing.

use crate::fingerprint;
use std::cell::Cell;
use std::hash::Hash;
use std::hash::Hasher;
use std::ops::Deref;
use std::ops::DerefMut;
use std::rc::Rc;

/// Such a value. It must not change but through `&mut`.
#[derive(Clone, Debug)]
pub struct Kept<T> {
    value: Rc<T>,
    fingerprint: Cell<Option<u64>>,
    changed: Cell<bool>,
}

impl<T> Kept<T> {
    /// Keeps a value.
    pub fn new(value: T) -> Kept<T> {
        Kept {
            value: Rc::new(value),
            fingerprint: Cell::new(None),
            changed: Cell::new(true),
        }
    }

    /// Whether it may have changed since this was asked last.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.take()
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Clone> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.fingerprint.set(None);
        self.changed.set(true);
        Rc::make_mut(&mut self.value)
    }
}

impl<T: Hash> Hash for Kept<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let known = self.fingerprint.get();
        let fingerprint = known.unwrap_or_else(|| fingerprint::of(&*self.value));
        self.fingerprint.set(Some(fingerprint));
        fingerprint.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies() {
        let mut one = Kept::new(vec![1]);
        let other = one.clone();
        let before = fingerprint::of(&one);
        one.push(2);
        assert_eq!((one.len(), other.len()), (2, 1));
        assert_ne!(fingerprint::of(&one), before);
        assert_eq!(fingerprint::of(&other), before);
        assert!(one.take_changed() && other.take_changed() && !one.take_changed());
        one.push(3);
        assert!(one.take_changed() && !other.take_changed());
    }
}
