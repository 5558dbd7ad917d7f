// SPDX-License-Identifier: GPL-2.0

//! An object that hot paths use and that can be taken back.
//!
//! A [`Gate`] publishes one immutable object. Whoever wants to use it enters, on any CPU and in any
//! context, without writing memory that another CPU writes; whoever wants it back closes the gate
//! and waits until all have left.
//!
//! # Why this is sound
//!
//! Each published object is in a [`Node`] of its own with a `percpu_ref`, which is *live* until the
//! node was taken out of the gate. Entering reads the pointer and takes a reference within one RCU
//! read section. [`Gate::retire_begin`] takes the pointer out first (the exchange makes its caller
//! the only owner of the node), then kills the reference count. That waits for a grace period
//! before it can reach zero, thus for every read section that may have seen the pointer; those that
//! got a reference are counted, those that did not forget the pointer. When the count is zero,
//! `empty` is completed, and nothing but this file knows the node any more. One grace period later
//! the last `percpu_ref_put` and the completion have left, too: then the node is freed.

use crate::ffi;
use crate::time;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::types::Opaque;

/// A published object. The gate comes first: `helpers.c` gets and returns pointers to it for
/// pointers to the node.
#[repr(C)]
struct Node<T> {
    gate: Opaque<ffi::rmr_sys_gate>,
    value: T,
}

impl<T> Node<T> {
    /// Waits with one of the kernel's functions, which gets the completion.
    fn empty(node: NonNull<Self>) -> *mut bindings::completion {
        // SAFETY: The node exists, by the invariants of all types here that point to one. No
        // reference is made.
        unsafe { &raw mut (*node.cast::<ffi::rmr_sys_gate>().as_ptr()).empty }
    }
}

/// Publishes at most one object at a time.
///
/// # Invariants
///
/// `place` is null or points to a node that was initialised, has not been shut, and is owned by
/// this.
pub struct Gate<T> {
    place: Atomic<*mut Node<T>>,
    _owns: PhantomData<T>,
}

// SAFETY: The object is given to the gate and taken from it (`Send`), and used by reference from
// wherever the gate is entered (`Sync`).
unsafe impl<T: Send + Sync> Send for Gate<T> {}
// SAFETY: As above; `place` is only changed atomically.
unsafe impl<T: Send + Sync> Sync for Gate<T> {}

impl<T> Gate<T> {
    /// A gate with nothing behind it.
    pub const fn new() -> Self {
        // INVARIANT: `place` is null.
        Self {
            place: Atomic::new(ptr::null_mut()),
            _owns: PhantomData,
        }
    }

    /// Publishes `value`. Sleeps. `EBUSY` if something is published; `value` is then dropped.
    pub fn publish(&self, value: T) -> Result {
        if self.is_open() {
            return Err(EBUSY);
        }
        let node = KBox::new(
            Node {
                gate: Opaque::uninit(),
                value,
            },
            GFP_KERNEL,
        )?;
        // SAFETY: The memory is ours, and stays where it is until it is freed.
        to_result(unsafe { ffi::rmr_sys_gate_init(node.gate.get()) })?;
        let node = KBox::into_raw(node);
        // INVARIANT: Initialised above, and owned by the gate from here on.
        if self.place.cmpxchg(ptr::null_mut(), node, Full).is_err() {
            // SAFETY: From `into_raw` above; nobody else has seen it.
            let node = unsafe { KBox::from_raw(node) };
            // SAFETY: Initialised above and never entered.
            unsafe { ffi::rmr_sys_gate_free(node.gate.get()) };
            return Err(EBUSY);
        }
        Ok(())
    }

    /// Enters. `None` if nothing is published (any more). Any context; costs no write to shared
    /// memory.
    #[inline]
    pub fn enter(&self) -> Option<Entered<T>> {
        // SAFETY: By the type invariant the place holds null or a pointer to a node, which begins
        // with its gate. The node is not freed while the read section in the helper sees the
        // pointer, see the head of this file.
        let gate = unsafe { ffi::rmr_sys_gate_enter(self.place.as_ptr().cast()) };
        // INVARIANT: The helper took a reference to what it returned.
        NonNull::new(gate.cast()).map(|node| Entered { node })
    }

    /// Is something published at this moment?
    #[inline]
    pub fn is_open(&self) -> bool {
        !self.place.load(Relaxed).is_null()
    }

    /// Takes back what is published: from now on nobody enters, and another object can be published
    /// at once. `None` if nothing is published. Any context (but waiting for the others, also by
    /// dropping the answer, sleeps).
    pub fn retire_begin(&self) -> Option<Retiring<T>> {
        let node = NonNull::new(self.place.xchg(ptr::null_mut(), Full))?;
        // SAFETY: By the type invariant it is initialised and not yet shut; after the exchange it
        // is ours alone to shut.
        unsafe { ffi::rmr_sys_gate_shut(node.as_ptr().cast()) };
        // INVARIANT: Taken from the gate and shut.
        Some(Retiring { node })
    }

    /// Takes back what is published, waits until all who entered have left, and returns it. Sleeps.
    pub fn retire(&self) -> Option<T> {
        self.retire_begin().map(Retiring::wait)
    }
}

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for Gate<T> {
    /// Sleeps until all have left.
    fn drop(&mut self) {
        drop(self.retire());
    }
}

/// An object that is published no more, but may still be in use.
///
/// # Invariants
///
/// `node` was taken out of its gate, was shut, and is owned by this.
#[must_use = "dropping it waits"]
pub struct Retiring<T> {
    node: NonNull<Node<T>>,
}

// SAFETY: It owns the object, which others may still be using.
unsafe impl<T: Send + Sync> Send for Retiring<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for Retiring<T> {}

impl<T> Retiring<T> {
    /// Waits until all have left. Sleeps, without limit.
    pub fn wait(self) -> T {
        // SAFETY: An initialised completion in a node that exists.
        unsafe { bindings::wait_for_completion(Node::empty(self.node)) };
        // SAFETY: Waited just now.
        unsafe { self.take() }
    }

    /// Waits at most `ms` milliseconds. Sleeps.
    pub fn wait_timeout(self, ms: u32) -> Result<T, Self> {
        let empty = Node::empty(self.node);
        // SAFETY: An initialised completion in a node that exists.
        if unsafe { bindings::wait_for_completion_timeout(empty, time::ms_to_jiffies(ms)) } == 0 {
            return Err(self);
        }
        // SAFETY: Waited just now.
        Ok(unsafe { self.take() })
    }

    /// Waits unless the task is killed. Sleeps.
    pub fn wait_killable(self) -> Result<T, Self> {
        // SAFETY: An initialised completion in a node that exists.
        if unsafe { bindings::wait_for_completion_killable(Node::empty(self.node)) } != 0 {
            return Err(self);
        }
        // SAFETY: Waited just now.
        Ok(unsafe { self.take() })
    }

    /// # Safety
    ///
    /// `empty` must have been waited for.
    unsafe fn take(self) -> T {
        let this = ManuallyDrop::new(self);
        // The last ones may be on their way out of `percpu_ref_put`.
        // SAFETY: Always safe to call where one may sleep.
        unsafe { bindings::synchronize_rcu() };
        // SAFETY: Made by `KBox::into_raw` in `publish`; by the type invariant ours, and by the
        // reason at the head of this file nobody else's any more.
        let node = unsafe { KBox::from_raw(this.node.as_ptr()) };
        // SAFETY: Initialised, shut and empty.
        unsafe { ffi::rmr_sys_gate_free(node.gate.get()) };
        KBox::into_inner(node).value
    }
}

impl<T> Deref for Retiring<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant the node exists, and nobody changes the value.
        unsafe { &(*self.node.as_ptr()).value }
    }
}

impl<T> Drop for Retiring<T> {
    fn drop(&mut self) {
        // INVARIANT: `wait` gets the node, and this one is forgotten by ending here.
        drop(Retiring { node: self.node }.wait());
    }
}

/// The right to use a published object. It keeps [`Gate::retire`] waiting, so it must be dropped in
/// bounded time; in any context.
///
/// # Invariants
///
/// Holds one reference to `node`.
pub struct Entered<T> {
    node: NonNull<Node<T>>,
}

// SAFETY: Like a shared reference to the object: dropping it drops no object.
unsafe impl<T: Sync> Send for Entered<T> {}
// SAFETY: As above.
unsafe impl<T: Sync> Sync for Entered<T> {}

impl<T> Entered<T> {
    /// Enters once more, even if the gate was closed meanwhile. Any context.
    #[inline]
    pub fn again(&self) -> Self {
        // SAFETY: By the type invariant there is a reference already, so the node exists.
        unsafe { ffi::rmr_sys_gate_again(self.node.as_ptr().cast()) };
        // INVARIANT: Taken above.
        Self { node: self.node }
    }
}

impl<T> Deref for Entered<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant the node exists, and nobody changes the value.
        unsafe { &(*self.node.as_ptr()).value }
    }
}

impl<T> Drop for Entered<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours to give back.
        unsafe { ffi::rmr_sys_gate_leave(self.node.as_ptr().cast()) };
    }
}
