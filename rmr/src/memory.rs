// SPDX-License-Identifier: GPL-2.0

//! Memory of the kernel, as the engine wants it lent.

use kernel::prelude::*;
use rmr_engine::memory::Memory;
use rmr_engine::memory::NoMemory;

/// Lends vectors; asking sleeps.
#[derive(Clone, Copy, Default)]
pub(crate) struct KernelMemory;

impl Memory for KernelMemory {
    type Array<T> = KVVec<T>;

    fn array<T>(&self, len: usize, mut make: impl FnMut(usize) -> T) -> Result<KVVec<T>, NoMemory> {
        let mut array = KVVec::with_capacity(len, GFP_KERNEL).map_err(|_| NoMemory)?;
        for index in 0..len {
            array.push(make(index), GFP_KERNEL).map_err(|_| NoMemory)?;
        }
        Ok(array)
    }
}
