// SPDX-License-Identifier: GPL-2.0

//! The few primitives of concurrency that the engine uses, the same on three grounds: the kernel's atomics,
//! those of `core` on a host, and those of `loom`, which tries every interleaving.
//!
//! Orderings are named by what they do, not by the memory model they come from, because the kernel has its
//! own. `load` acquires, `store` releases, everything that reads and writes does both (in the kernel it is even
//! a full barrier; nothing here relies on that). No lock lives here: a caller lends one as [`Guarded`].
//!
//! On a host all of the engine can be copied and hashed, for a model checker (`tests/model`) that goes back to earlier
//! states and compares them. Nothing else may run meanwhile: values are read one after the other.

/// A value behind a lock that its owner lends to the engine.
///
/// The lock must exclude every context from which the structure is used: in the kernel it is a spinlock taken
/// with interrupts off. The engine holds it for a bounded number of steps, calls nothing of its caller's while it
/// does, and nests two of them only in the order of their places in one slice.
pub trait Guarded<T> {
    /// Runs `f` on the value while the lock is held.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

#[cfg(CONFIG_RUST)]
macro_rules! atomic {
    ($name:ident, $int:ty) => {
        /// An integer that several CPUs may change at once.
        pub struct $name(kernel::sync::atomic::Atomic<$int>);

        impl $name {
            /// A new value.
            pub const fn new(value: $int) -> Self {
                Self(kernel::sync::atomic::Atomic::<$int>::new(value))
            }

            /// Reads, with no order towards anything else.
            #[inline]
            pub fn peek(&self) -> $int {
                self.0.load(kernel::sync::atomic::Relaxed)
            }

            /// Writes, with no order towards anything else.
            #[inline]
            pub fn poke(&self, value: $int) {
                self.0.store(value, kernel::sync::atomic::Relaxed)
            }

            /// Reads; what follows sees everything that came before the `store` of the value read.
            #[inline]
            pub fn load(&self) -> $int {
                self.0.load(kernel::sync::atomic::Acquire)
            }

            /// Writes; see [`Self::load`].
            #[inline]
            pub fn store(&self, value: $int) {
                self.0.store(value, kernel::sync::atomic::Release)
            }

            /// Adds, wrapping; returns the value before.
            #[inline]
            pub fn fetch_add(&self, value: $int) -> $int {
                self.0.fetch_add(value, kernel::sync::atomic::Full)
            }

            /// Replaces whatever is there; returns it. What follows sees what came before every `swap` since the last
            /// `store`, not only before that of the value returned.
            #[inline]
            pub fn swap(&self, value: $int) -> $int {
                self.0.xchg(value, kernel::sync::atomic::Full)
            }

            /// Replaces `old` by `new`, or returns what was there instead.
            #[inline]
            pub fn cas(&self, old: $int, new: $int) -> Result<$int, $int> {
                self.0.cmpxchg(old, new, kernel::sync::atomic::Full)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(0)
            }
        }
    };
}

#[cfg(not(CONFIG_RUST))]
macro_rules! atomic {
    ($name:ident, $int:ty) => {
        /// An integer that several CPUs may change at once.
        #[derive(Debug)]
        pub struct $name(host::$name);

        impl $name {
            /// A new value.
            #[cfg(not(loom))]
            pub const fn new(value: $int) -> Self {
                Self(host::$name::new(value))
            }

            /// A new value.
            #[cfg(loom)]
            pub fn new(value: $int) -> Self {
                Self(host::$name::new(value))
            }

            /// Reads, with no order towards anything else.
            #[inline]
            pub fn peek(&self) -> $int {
                self.0.load(host::Ordering::Relaxed)
            }

            /// Writes, with no order towards anything else.
            #[inline]
            pub fn poke(&self, value: $int) {
                self.0.store(value, host::Ordering::Relaxed)
            }

            /// Reads; what follows sees everything that came before the `store` of the value read.
            #[inline]
            pub fn load(&self) -> $int {
                self.0.load(host::Ordering::Acquire)
            }

            /// Writes; see [`Self::load`].
            #[inline]
            pub fn store(&self, value: $int) {
                self.0.store(value, host::Ordering::Release)
            }

            /// Adds, wrapping; returns the value before.
            #[inline]
            pub fn fetch_add(&self, value: $int) -> $int {
                self.0.fetch_add(value, host::Ordering::AcqRel)
            }

            /// Replaces whatever is there; returns it. What follows sees what came before every `swap` since the last
            /// `store`, not only before that of the value returned.
            #[inline]
            pub fn swap(&self, value: $int) -> $int {
                self.0.swap(value, host::Ordering::AcqRel)
            }

            /// Replaces `old` by `new`, or returns what was there instead.
            #[inline]
            pub fn cas(&self, old: $int, new: $int) -> Result<$int, $int> {
                self.0
                    .compare_exchange(old, new, host::Ordering::AcqRel, host::Ordering::Acquire)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(0)
            }
        }

        impl Clone for $name {
            #[inline]
            fn clone(&self) -> Self {
                Self::new(self.peek())
            }
        }

        impl core::hash::Hash for $name {
            #[inline]
            fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
                self.peek().hash(state);
            }
        }
    };
}

#[cfg(all(not(CONFIG_RUST), not(loom)))]
use core::sync::atomic as host;
#[cfg(all(not(CONFIG_RUST), loom))]
use loom::sync::atomic as host;

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

/// Keeps a value away from the cache lines of its neighbours.
#[repr(align(64))]
#[derive(Default)]
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub struct CacheLine<T>(pub T);

/// Raises `word` to `to`, if it is lower.
pub(crate) fn raise(word: &AtomicU64, to: u64) {
    let mut old = word.load();
    while old < to {
        match word.cas(old, to) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
}

/// The lock of host builds (tests, simulator).
#[cfg(not(CONFIG_RUST))]
#[derive(Default)]
pub struct HostLock<T>(HostMutex<T>);

#[cfg(all(not(CONFIG_RUST), not(loom)))]
type HostMutex<T> = std::sync::Mutex<T>;
#[cfg(all(not(CONFIG_RUST), loom))]
type HostMutex<T> = loom::sync::Mutex<T>;

#[cfg(not(CONFIG_RUST))]
impl<T> HostLock<T> {
    /// A lock around `value`.
    pub fn new(value: T) -> Self {
        Self(HostMutex::new(value))
    }
}

#[cfg(not(CONFIG_RUST))]
impl<T> Guarded<T> for HostLock<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // A test that panicked elsewhere must not hide its message behind a second panic here.
        let mut guard = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        f(&mut guard)
    }
}

#[cfg(not(CONFIG_RUST))]
impl<T: Clone> Clone for HostLock<T> {
    fn clone(&self) -> Self {
        Self::new(self.with(|value| value.clone()))
    }
}

#[cfg(not(CONFIG_RUST))]
impl<T: core::hash::Hash> core::hash::Hash for HostLock<T> {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.with(|value| value.hash(state));
    }
}
