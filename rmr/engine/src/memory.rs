// SPDX-License-Identifier: GPL-2.0

//! Memory that the caller lends to the engine.
//!
//! The engine allocates nothing itself. What it needs for as long as a pool or member lives is lent when
//! that is made; what it needs later (never on the IO path) it asks for, and can go on when it gets none.
//! Locks are not made here: what is behind a lock is lent by the caller as [`Guarded`](crate::sync::Guarded).

use core::ops::DerefMut;

/// There is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// A lender of arrays (`KVVec` in the kernel, `Vec` on a host) and boxes. Asked only where allocating may sleep.
pub trait Memory {
    /// An array of fixed length; given back by dropping it.
    type Array<T>: DerefMut<Target = [T]>;
    /// One thing that is too large to be moved about on a stack; given back by dropping it.
    type Box<T>: DerefMut<Target = T>;

    /// An array of `len` elements; `make` is called for each place from 0 on.
    fn array<T>(
        &self,
        len: usize,
        make: impl FnMut(usize) -> T,
    ) -> Result<Self::Array<T>, NoMemory>;

    /// A box with what `make` makes.
    fn boxed<T>(&self, make: impl FnOnce() -> T) -> Result<Self::Box<T>, NoMemory>;
}

/// Memory of a host program (tests, simulator): there is always some.
#[cfg(not(CONFIG_RUST))]
#[derive(Clone, Copy, Debug, Default, Hash)]
pub struct HostMemory;

#[cfg(not(CONFIG_RUST))]
impl Memory for HostMemory {
    type Array<T> = std::vec::Vec<T>;
    type Box<T> = std::boxed::Box<T>;

    fn array<T>(
        &self,
        len: usize,
        make: impl FnMut(usize) -> T,
    ) -> Result<Self::Array<T>, NoMemory> {
        Ok((0..len).map(make).collect())
    }

    fn boxed<T>(&self, make: impl FnOnce() -> T) -> Result<Self::Box<T>, NoMemory> {
        Ok(std::boxed::Box::new(make()))
    }
}

/// Copies and hashes what a derived implementation cannot: it does not see arrays inside the fields' types.
#[cfg(not(CONFIG_RUST))]
macro_rules! copy_and_hash {
    ($name:ident<HostMemory, $other:ident>: $($field:ident),* $(,)?) => {
        impl<$other: Clone> Clone for $name<$crate::memory::HostMemory, $other> {
            fn clone(&self) -> Self {
                Self { $($field: self.$field.clone(),)* }
            }
        }

        impl<$other: core::hash::Hash> core::hash::Hash for $name<$crate::memory::HostMemory, $other> {
            fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
                let Self { $($field,)* } = self;
                $($field.hash(state);)*
            }
        }
    };
}

#[cfg(not(CONFIG_RUST))]
pub(crate) use copy_and_hash;
