// SPDX-License-Identifier: GPL-2.0

//! One thing for each CPU, and counters of statistics.

use crate::ffi;
use crate::padded::Padded;
use core::num::NonZeroUsize;
use kernel::cpu::nr_cpu_ids;
use kernel::prelude::*;

/// Number of the CPU this runs on; [`cpus`] is above all of them. It may be another one by the time
/// the caller looks, unless something keeps the task where it is.
#[inline]
pub fn this_cpu() -> u32 {
    // SAFETY: Always safe to call.
    unsafe { ffi::rmr_sys_this_cpu() }
}

/// Number of CPUs that may ever be there, with gaps counted.
pub fn cpus() -> u32 {
    nr_cpu_ids()
}

/// One `T` for each CPU, each with cache lines of its own.
pub struct PerCpu<T> {
    each: KVVec<Padded<T>>,
}

impl<T> PerCpu<T> {
    /// Makes one for each CPU. Sleeps.
    pub fn new(mut make: impl FnMut(u32) -> Result<T>) -> Result<Self> {
        let mut each = KVVec::with_capacity(cpus() as usize, GFP_KERNEL)?;
        for cpu in 0..cpus() {
            each.push(Padded(make(cpu)?), GFP_KERNEL)?;
        }
        Ok(Self { each })
    }

    /// The one of the CPU this runs on. Others may use it at the same time, so `T` must guard
    /// itself (an atomic, a lock); that it is this CPU's is for speed only. Any context.
    #[inline]
    pub fn this(&self) -> &T {
        // The number is always below `cpus()`.
        &self.each[this_cpu() as usize]
    }

    /// The one of `cpu`.
    #[inline]
    pub fn get(&self, cpu: u32) -> Option<&T> {
        self.each.get(cpu as usize).map(|padded| &padded.0)
    }

    /// All of them, in the order of their CPUs.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.each.iter().map(|padded| &padded.0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.each.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }
}

/// `N` counters that every CPU counts for itself. Adding is as cheap as adding can be, reading is
/// not.
pub struct Counters<const N: usize> {
    /// Per-CPU memory, which the helpers reach from any thread by operations that are atomic for
    /// the CPU.
    raw: NonZeroUsize,
}

impl<const N: usize> Counters<N> {
    /// `N` counters, all 0. Sleeps.
    pub fn new() -> Result<Self> {
        let count = u32::try_from(N.max(1))?;
        // SAFETY: Always safe to call.
        let raw = NonZeroUsize::new(unsafe { ffi::rmr_sys_counters_new(count) }).ok_or(ENOMEM)?;
        Ok(Self { raw })
    }

    /// Adds `value` to the counter `index`, wrapping; nothing happens if there is none. Any
    /// context.
    #[inline]
    pub fn add(&self, index: usize, value: u64) {
        if index < N {
            // SAFETY: Memory of `N` counters, and `index` is below. `N` fits in 32 bits.
            unsafe { ffi::rmr_sys_counter_add(self.raw.get(), index as u32, value) };
        }
    }

    /// The sum of all CPUs (not at one moment), 0 if there is no such counter. Any context.
    pub fn sum(&self, index: usize) -> u64 {
        if index < N {
            // SAFETY: As in `add`.
            unsafe { ffi::rmr_sys_counter_sum(self.raw.get(), index as u32) }
        } else {
            0
        }
    }

    /// Sets all to 0. What is added at the same time may be lost, or stay.
    pub fn reset(&self) {
        for index in 0..N {
            // SAFETY: As in `add`.
            unsafe { ffi::rmr_sys_counter_reset(self.raw.get(), index as u32) };
        }
    }
}

impl<const N: usize> Drop for Counters<N> {
    fn drop(&mut self) {
        // SAFETY: Allocated by `new`.
        unsafe { ffi::rmr_sys_counters_free(self.raw.get()) };
    }
}

/// One counter; see [`Counters`].
pub struct Counter(Counters<1>);

impl Counter {
    /// A counter at 0. Sleeps.
    pub fn new() -> Result<Self> {
        Ok(Self(Counters::new()?))
    }

    /// Adds `value`, wrapping. Any context.
    #[inline]
    pub fn add(&self, value: u64) {
        self.0.add(0, value);
    }

    /// Adds 1. Any context.
    #[inline]
    pub fn inc(&self) {
        self.0.add(0, 1);
    }

    /// The sum of all CPUs (not at one moment). Any context.
    pub fn sum(&self) -> u64 {
        self.0.sum(0)
    }

    /// Sets it to 0. What is added at the same time may be lost, or stay.
    pub fn reset(&self) {
        self.0.reset();
    }
}
