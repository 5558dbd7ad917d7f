// SPDX-License-Identifier: GPL-2.0

//! A value with cache lines of its own, so that writing it does not slow down users of its
//! neighbours.

use core::ops::Deref;
use core::ops::DerefMut;
use rmr_engine::sync::Guarded;

/// A value that shares its cache lines with no other.
#[repr(align(64))]
#[derive(Default)]
pub struct Padded<T>(pub T);

impl<T> Deref for Padded<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Padded<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T, L: Guarded<T>> Guarded<T> for Padded<L> {
    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        self.0.with(f)
    }
}
