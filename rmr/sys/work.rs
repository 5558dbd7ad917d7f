// SPDX-License-Identifier: GPL-2.0

//! Own workqueues, and jobs that run on them: now, later, or again and again.
//!
//! Two ways to have something run on a [`Queue`]: a [`Job`], which can be queued again and again,
//! delayed and cancelled, and which waits until it is neither pending nor running when it is
//! dropped; or an item of the kernel crate ([`Queue::enqueue`]), which is handed over and runs
//! once. A queue waits for all of that when it is destroyed, so nothing of a module runs on its
//! queues after they are gone.
//!
//! Delayed items of the kernel crate are not offered: nobody would stop their timers, and those
//! would put them on a queue that is gone.

use crate::ffi;
use crate::time;
use core::ops::BitOr;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::container_of;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::types::Opaque;
use kernel::workqueue;
use kernel::workqueue::RawWorkItem;

/// On which CPUs a queue's workers run, and other properties. Exactly one of [`Flags::UNBOUND`] and
/// [`Flags::PERCPU`] must be there.
#[derive(Clone, Copy)]
pub struct Flags(u32);

impl Flags {
    /// Workers on any CPU; for what takes long.
    pub const UNBOUND: Self = Self(bindings::wq_flags_WQ_UNBOUND);
    /// Workers on the CPU that queued.
    pub const PERCPU: Self = Self(bindings::wq_flags_WQ_PERCPU);
    /// A worker is kept for when no memory is left; needed by all that writing back memory waits
    /// for.
    pub const MEM_RECLAIM: Self = Self(bindings::wq_flags_WQ_MEM_RECLAIM);
    /// Workers of high priority.
    pub const HIGHPRI: Self = Self(bindings::wq_flags_WQ_HIGHPRI);
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A CPU for the kernel's functions: `cpu`, or any if there is no such CPU.
fn cpu_or_any(cpu: u32) -> i32 {
    const ANY: i32 = bindings::wq_misc_consts_WORK_CPU_UNBOUND as i32;
    // SAFETY: Always safe to call.
    if unsafe { ffi::rmr_sys_cpu_possible(cpu) } {
        i32::try_from(cpu).unwrap_or(ANY)
    } else {
        ANY
    }
}

/// A workqueue of our own. When the last reference is dropped, it waits until all that is queued
/// has run, so that must not be done by something that runs on it.
pub struct Queue {
    raw: NonNull<bindings::workqueue_struct>,
}

// SAFETY: A workqueue is used from any thread.
unsafe impl Send for Queue {}
// SAFETY: As above.
unsafe impl Sync for Queue {}

impl Queue {
    /// A new queue. Sleeps.
    pub fn new(name: &CStr, flags: Flags) -> Result<Arc<Self>> {
        // SAFETY: The name is copied.
        let raw = unsafe { ffi::rmr_sys_queue_new(name.as_char_ptr(), flags.0) };
        let raw = NonNull::new(raw).ok_or(ENOMEM)?;
        Ok(Arc::new(Self { raw }, GFP_KERNEL)?)
    }

    /// As the kernel crate knows it; it stays in this file, see its head.
    fn as_kernel(&self) -> &workqueue::Queue {
        // SAFETY: The workqueue exists as long as `self`.
        unsafe { workqueue::Queue::from_raw(self.raw.as_ptr()) }
    }

    /// Hands over an item that runs once. Any context.
    pub fn enqueue<W, const ID: u64>(&self, item: W) -> W::EnqueueOutput
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        self.as_kernel().enqueue(item)
    }

    /// Like [`Self::enqueue`], to run on `cpu` (on any, if there is no such CPU or the queue is
    /// unbound).
    pub fn enqueue_on<W, const ID: u64>(&self, cpu: u32, item: W) -> W::EnqueueOutput
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        let (cpu, queue) = (cpu_or_any(cpu), self.raw.as_ptr());
        // SAFETY: `queue_work_on` returns false only if the item is queued already. The item is
        // `Send` and static. The queue exists during the call, and it runs all that is queued
        // before it goes.
        unsafe { item.__enqueue(move |work| bindings::queue_work_on(cpu, queue, work)) }
    }

    /// Runs `run` once. Any context that `flags` allow.
    pub fn spawn(
        &self,
        run: impl FnOnce() + Send + 'static,
        flags: kernel::alloc::Flags,
    ) -> Result {
        Ok(self.as_kernel().try_spawn(flags, run)?)
    }

    /// Waits until all that is queued at this moment has run. Sleeps; not from something that runs
    /// on it.
    pub fn flush(&self) {
        // SAFETY: The workqueue exists as long as `self`.
        unsafe { bindings::__flush_workqueue(self.raw.as_ptr()) };
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: Made by `new`. Nobody can queue any more, except what runs on it, which this
        // waits for. No delayed item is pending: those are of jobs, each of which has a reference
        // to its queue.
        unsafe { bindings::destroy_workqueue(self.raw.as_ptr()) };
    }
}

/// What becomes of a job that has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Nothing, until somebody queues it.
    No,
    /// It runs again at once.
    Now,
    /// It runs again after so many milliseconds, or earlier if somebody says so.
    After(u32),
}

/// The item as the kernel knows it. `raw` comes first, so that a pointer to it is one to all.
#[repr(C)]
struct Inner<T> {
    raw: Opaque<ffi::rmr_sys_job>,
    run: fn(&Arc<T>) -> Again,
    data: Arc<T>,
    queue: Arc<Queue>,
    /// The handle was dropped by `run` itself, which then is the last to know the item.
    orphan: Atomic<bool>,
}

/// Something that runs on a queue, again and again but never twice at a time, and owns an `Arc<T>`.
///
/// Dropping it cancels it and waits until it does not run any more. If it is dropped by its own
/// run, that run is the last.
///
/// # Invariants
///
/// `inner` was made by [`Job::new`] and is owned by this, except that the kernel uses `raw` while
/// the item is pending or running.
pub struct Job<T: Send + Sync + 'static> {
    inner: NonNull<Inner<T>>,
}

// SAFETY: All that it does is done by functions of the kernel that any thread may call; `T` is
// both.
unsafe impl<T: Send + Sync + 'static> Send for Job<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync + 'static> Sync for Job<T> {}

impl<T: Send + Sync + 'static> Job<T> {
    /// A job that is not queued. Sleeps.
    pub fn new(queue: &Arc<Queue>, data: Arc<T>, run: fn(&Arc<T>) -> Again) -> Result<Self> {
        let inner = Inner {
            raw: Opaque::uninit(),
            run,
            data,
            queue: queue.clone(),
            orphan: Atomic::new(false),
        };
        let inner = KBox::new(inner, GFP_KERNEL)?;
        // SAFETY: `raw` is memory for a job that will not move until it is freed.
        unsafe { ffi::rmr_sys_job_init(inner.raw.get(), Some(Self::trampoline)) };
        // INVARIANT: Initialised above.
        Ok(Self {
            inner: NonNull::from(KBox::leak(inner)),
        })
    }

    fn inner(&self) -> &Inner<T> {
        // SAFETY: By the type invariant.
        unsafe { self.inner.as_ref() }
    }

    /// What it owns.
    pub fn data(&self) -> &Arc<T> {
        &self.inner().data
    }

    /// Has it run as soon as possible. `false`: it was pending already, perhaps with a delay. Any
    /// context.
    pub fn queue(&self) -> bool {
        self.after(0)
    }

    /// Like [`Self::queue`], to run on `cpu` (on any, if there is no such CPU or the queue is
    /// unbound).
    pub fn queue_on(&self, cpu: u32) -> bool {
        let inner = self.inner();
        // SAFETY: See `after`.
        unsafe {
            bindings::queue_delayed_work_on(
                cpu_or_any(cpu),
                inner.queue.raw.as_ptr(),
                inner.delayed_work(),
                0,
            )
        }
    }

    /// Has it run after `ms` milliseconds. `false`, and nothing changes: it was pending already.
    /// Any context.
    pub fn after(&self, ms: u32) -> bool {
        self.inner().after(ms)
    }

    /// Has it run after `ms` milliseconds from now, whether it was pending or not; 0 is at once.
    /// Any context.
    pub fn rearm(&self, ms: u32) {
        self.inner().rearm(ms);
    }

    /// Takes it back if it is pending: `true`. It may be running nevertheless. Any context but
    /// hardirq.
    pub fn cancel(&self) -> bool {
        // SAFETY: Initialised, by the type invariant.
        unsafe { bindings::cancel_delayed_work(self.inner().delayed_work()) }
    }

    /// Takes it back if it is pending, and waits until it does not run, unless this is called by its
    /// own run. (Somebody may queue it again.) Sleeps.
    pub fn cancel_wait(&self) {
        if self.inner().runs_here() {
            self.cancel();
            return;
        }
        // SAFETY: Initialised, by the type invariant.
        unsafe { bindings::cancel_delayed_work_sync(self.inner().delayed_work()) };
    }

    /// If it is pending, has it run at once; and waits until it has run. Sleeps; not from its own
    /// run.
    pub fn flush(&self) {
        // SAFETY: Initialised, by the type invariant.
        unsafe { bindings::flush_delayed_work(self.inner().delayed_work()) };
    }

    /// # Safety
    ///
    /// To be called by the workqueue, for a job made by `new`.
    unsafe extern "C" fn trampoline(work: *mut bindings::work_struct) {
        // SAFETY: `work` is the work of the delayed work of a job.
        let raw = unsafe {
            container_of!(
                container_of!(work, bindings::delayed_work, work),
                ffi::rmr_sys_job,
                work
            )
        };
        let inner: *mut Inner<T> = raw.cast();
        // SAFETY: `raw` is the first field. Whoever drops the job waits for this run, or is it.
        let this = unsafe { &*inner };
        let again = (this.run)(&this.data);
        if !this.orphan.load(Relaxed) {
            match again {
                Again::No => {}
                Again::Now => this.rearm(0),
                // If somebody queued it meanwhile, it stays with that.
                Again::After(ms) => _ = this.after(ms),
            }
            return;
        }
        // SAFETY: Its handle is gone and left it to this run. The kernel does not touch the work
        // once its function was called.
        let inner = unsafe { KBox::from_raw(inner) };
        if cfg!(CONFIG_LOCKDEP) {
            // Lockdep believes that this run holds the job as a lock until it returns, so the key
            // stays for ever.
            let Inner { data, queue, .. } = KBox::leak(inner);
            // SAFETY: Neither is used again: the memory that they are in is not freed.
            unsafe {
                core::ptr::drop_in_place(data);
                core::ptr::drop_in_place(queue);
            }
        }
    }
}

impl<T> Inner<T> {
    fn delayed_work(&self) -> *mut bindings::delayed_work {
        // SAFETY: Within `raw`; no reference is made.
        unsafe { &raw mut (*self.raw.get()).work }
    }

    fn after(&self, ms: u32) -> bool {
        let delay = time::ms_to_jiffies(ms);
        // SAFETY: The item is initialised, and exists until it is neither pending nor running, as
        // does the queue.
        unsafe {
            bindings::queue_delayed_work_on(
                cpu_or_any(u32::MAX),
                self.queue.raw.as_ptr(),
                self.delayed_work(),
                delay,
            )
        }
    }

    fn rearm(&self, ms: u32) {
        let delay = time::ms_to_jiffies(ms);
        // SAFETY: As in `after`.
        unsafe {
            bindings::mod_delayed_work_on(
                cpu_or_any(u32::MAX),
                self.queue.raw.as_ptr(),
                self.delayed_work(),
                delay,
            )
        };
    }

    /// Is this its own run?
    fn runs_here(&self) -> bool {
        // SAFETY: Within the item; no reference is made.
        let work = unsafe { &raw mut (*self.delayed_work()).work };
        // SAFETY: Always safe to call.
        work == unsafe { bindings::current_work() }
    }
}

impl<T: Send + Sync + 'static> Drop for Job<T> {
    fn drop(&mut self) {
        let inner = self.inner();
        if inner.runs_here() {
            // It cannot wait for itself. From here on nobody can queue it.
            self.cancel();
            inner.orphan.store(true, Relaxed);
            return;
        }
        self.cancel_wait();
        // SAFETY: Neither pending nor running, and nobody can queue it any more: ours alone.
        let inner = unsafe { KBox::from_raw(self.inner.as_ptr()) };
        // SAFETY: Initialised, by the type invariant.
        unsafe { ffi::rmr_sys_job_fini(inner.raw.get()) };
    }
}
