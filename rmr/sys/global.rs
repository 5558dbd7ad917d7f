// SPDX-License-Identifier: GPL-2.0

//! A static that holds an `Arc`, for what the callers of a module's functions have no handle to.
//!
//! Set when the module is loaded and cleared before it is unloaded. Not for hot paths: `get` counts
//! a reference.

use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::rcu;
use kernel::sync::Arc;
use kernel::types::ForeignOwnable;

/// An `Arc<T>` or nothing.
pub struct Global<T: Send + Sync + 'static> {
    /// Null, or what `Arc::into_foreign` made of one reference, which this owns.
    pointer: Atomic<*mut c_void>,
    _owns: core::marker::PhantomData<Arc<T>>,
}

// SAFETY: All access is atomic or through the `Arc`, whose content is `Send + Sync`.
unsafe impl<T: Send + Sync + 'static> Sync for Global<T> {}

impl<T: Send + Sync + 'static> Global<T> {
    /// Nothing.
    pub const fn new() -> Self {
        Self {
            pointer: Atomic::new(core::ptr::null_mut()),
            _owns: core::marker::PhantomData,
        }
    }

    /// Replaces what it holds. Sleeps.
    pub fn set(&self, value: Arc<T>) {
        self.swap(value.into_foreign());
    }

    /// Empties it. Sleeps; afterwards nobody is inside `get`.
    pub fn clear(&self) {
        self.swap(core::ptr::null_mut());
    }

    fn swap(&self, new: *mut c_void) {
        let old = self.pointer.xchg(new, Full);
        if !old.is_null() {
            // Whoever read the pointer before has its own reference after this.
            // SAFETY: Always safe to call where one may sleep.
            unsafe { bindings::synchronize_rcu() };
            // SAFETY: `old` came from `into_foreign` in `set`, and the exchange made this its only
            // owner.
            drop(unsafe { Arc::<T>::from_foreign(old) });
        }
    }

    /// What it holds. Any context.
    pub fn get(&self) -> Option<Arc<T>> {
        let _guard = rcu::read_lock();
        let pointer = self.pointer.load(Acquire);
        if pointer.is_null() {
            return None;
        }
        // SAFETY: A pointer that is not null came from `into_foreign`; the reference it stands for
        // is given up only after a grace period that this read section holds up.
        Some(unsafe { Arc::<T>::borrow(pointer) }.into())
    }
}

impl<T: Send + Sync + 'static> Default for Global<T> {
    fn default() -> Self {
        Self::new()
    }
}
