// SPDX-License-Identifier: GPL-2.0

//! Memory for the engine, from the kernel.

use kernel::prelude::*;
use rmr_engine::memory::Memory;
use rmr_engine::memory::NoMemory;

/// Lends vectors and boxes. Sleeps.
#[derive(Clone, Copy, Default)]
pub(crate) struct KernelMemory;

impl Memory for KernelMemory {
    type Array<T> = KVVec<T>;
    type Box<T> = KBox<T>;

    fn array<T>(&self, len: usize, mut make: impl FnMut(usize) -> T) -> Result<KVVec<T>, NoMemory> {
        let mut array = KVVec::with_capacity(len, GFP_KERNEL).map_err(|_| NoMemory)?;
        for place in 0..len {
            array.push(make(place), GFP_KERNEL).map_err(|_| NoMemory)?;
        }
        Ok(array)
    }

    fn boxed<T>(&self, make: impl FnOnce() -> T) -> Result<KBox<T>, NoMemory> {
        KBox::new(make(), GFP_KERNEL).map_err(|_| NoMemory)
    }
}
