// SPDX-License-Identifier: GPL-2.0

//! A block device of ours: `/dev/<name>` over blk-mq.
//!
//! Life: [`Disk::build`] (invisible) → [`Disk::add`] (visible, does IO) → [`Disk::remove`] (gone for new
//! openers, no request in flight) → drop. Not here: whether a device may be removed, and what its requests do.

use crate::driver::Driver;
use crate::ffi;
use crate::request::Pdu;
use crate::table::RequestTable;
use crate::tagset::TagSet;
use core::cell::UnsafeCell;
use core::ptr;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::error::to_result;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::static_lock_class;
use kernel::str::CStr;
use kernel::sync::Arc;
use kernel::sync::Mutex;

/// Bytes of a sector, the unit of the block layer.
const SECTOR: u32 = 512;

/// Everything that is fixed when a disk is built. All sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct DiskConfig<'a> {
    /// Name below `/dev`, at most 31 bytes.
    pub name: &'a CStr,
    /// Size; a multiple of `logical_block`.
    pub capacity: u64,
    /// Smallest unit of IO: a power of two from 512 to the page size.
    pub logical_block: u32,
    /// Smallest unit without read-modify-write below: a power of two.
    pub physical_block: u32,
    /// Preferred unit of random IO.
    pub io_min: u32,
    /// Preferred unit of sequential IO, 0 for none.
    pub io_opt: u32,
    /// Longest read or write.
    pub max_io: u32,
    /// Most entries of [`crate::Request::map`].
    pub max_segments: u16,
    /// Segments but the first begin, and but the last end, at multiples of this mask plus one. 0: no such rule.
    pub virt_boundary: u32,
    /// There is a volatile cache below: flushes have a meaning.
    pub write_cache: bool,
    /// Writes with [`crate::Request::fua`] are understood.
    pub fua: bool,
    /// Seeks cost time.
    pub rotational: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// Pages must not change while they are written, so that all receivers get the same.
    pub stable_writes: bool,
    /// Longest discard, 0 for none. Not longer than `max_write_zeroes` if zeroing may unmap.
    pub max_discard: u32,
    /// Unit of discards.
    pub discard_granularity: u32,
    /// Longest write-zeroes, 0 for none.
    pub max_write_zeroes: u32,
}

impl Default for DiskConfig<'_> {
    fn default() -> Self {
        Self {
            name: c"",
            capacity: 0,
            logical_block: SECTOR,
            physical_block: 4096,
            io_min: 4096,
            io_opt: 0,
            max_io: 124 << 10,
            max_segments: 32,
            virt_boundary: 4095,
            write_cache: false,
            fua: false,
            rotational: false,
            read_only: false,
            stable_writes: true,
            max_discard: 0,
            discard_granularity: 0,
            max_write_zeroes: 0,
        }
    }
}

impl DiskConfig<'_> {
    /// The limits for the block layer, which validates them once more.
    fn limits(&self) -> Result<bindings::queue_limits> {
        let sane = self.logical_block.is_power_of_two()
            && self.logical_block >= SECTOR
            && self.capacity & u64::from(self.logical_block - 1) == 0
            && self.max_io >= 4096
            && self.max_segments > 0;
        if !sane {
            return Err(EINVAL);
        }
        let mut features = 0;
        for (set, feature) in [
            (self.write_cache, ffi::BLK_FEAT_WRITE_CACHE),
            (self.fua, ffi::BLK_FEAT_FUA),
            (self.rotational, ffi::BLK_FEAT_ROTATIONAL),
            (self.stable_writes, ffi::BLK_FEAT_STABLE_WRITES),
        ] {
            if set {
                features |= feature;
            }
        }
        // SAFETY: All zeroes stands for the default of each limit.
        let mut limits: bindings::queue_limits = unsafe { core::mem::zeroed() };
        limits.features = features;
        limits.logical_block_size = self.logical_block;
        limits.physical_block_size = self.physical_block;
        limits.io_min = self.io_min;
        limits.io_opt = self.io_opt;
        limits.max_hw_sectors = self.max_io / SECTOR;
        limits.max_segments = self.max_segments;
        // One entry may be as long as the whole request.
        limits.max_segment_size = u32::MAX;
        limits.virt_boundary_mask = self.virt_boundary as usize;
        limits.max_hw_discard_sectors = self.max_discard / SECTOR;
        limits.discard_granularity = self.discard_granularity;
        limits.max_write_zeroes_sectors = self.max_write_zeroes / SECTOR;
        if self.max_discard > 0 {
            // The block layer knows only "all of them may unmap" or "none".
            limits.max_hw_wzeroes_unmap_sectors = limits.max_write_zeroes_sectors;
        }
        Ok(limits)
    }
}

/// Where a disk is in its life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not visible, never was.
    Built,
    /// Visible, or being made so.
    Added,
    /// Gone: nothing calls the driver any more.
    Removed,
}

/// A disk served by the driver `D`.
///
/// Must be dropped in process context, and not by the driver's callbacks.
///
/// # Invariants
///
/// `disk` is a gendisk of which we hold a reference; its `queuedata` is `driver`, its `private_data` is `gate`.
pub struct Disk<D: Driver> {
    disk: *mut bindings::gendisk,
    stage: Pin<KBox<Mutex<Stage>>>,
    /// Read by `open()` until `del_gendisk()` has returned.
    _gate: KBox<UnsafeCell<ffi::brmr_sys_gate>>,
    /// Freed after the gendisk has left it.
    _tags: TagSet,
    /// After the tag set: `queue_rq` borrows it.
    driver: Arc<D>,
    /// After the driver, whose parked requests are in it.
    _table: Arc<RequestTable>,
}

// SAFETY: A gendisk is not bound to a thread; the driver is `Send + Sync`, the gate belongs to the C side.
unsafe impl<D: Driver> Send for Disk<D> {}
// SAFETY: All methods may be called concurrently: the stage is locked, the rest is synchronised by blk-mq.
unsafe impl<D: Driver> Sync for Disk<D> {}

impl<D: Driver> Disk<D> {
    /// Makes a disk with the queues and tags of `table`. Invisible, does no IO yet. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` for limits that contradict each other or a bad name, `ENOMEM`.
    pub fn build(
        config: &DiskConfig<'_>,
        table: Arc<RequestTable>,
        driver: Arc<D>,
    ) -> Result<Self> {
        let mut limits = config.limits()?;
        let name = config.name.to_bytes_with_nul();
        if name.len() < 2 || name.len() > bindings::DISK_NAME_LEN as usize || name.contains(&b'/') {
            return Err(EINVAL);
        }
        Pdu::bytes(config.max_segments).ok_or(EINVAL)?;
        let stage = KBox::pin_init(
            new_mutex!(Stage::Built, "brmr_sys::Disk::stage"),
            GFP_KERNEL,
        )?;
        let gate = KBox::new(
            UnsafeCell::new(ffi::brmr_sys_gate { closing: false }),
            GFP_KERNEL,
        )?;
        let tags = TagSet::new::<D>(&table, config.max_segments)?;
        // SAFETY: The tag set is initialised; the driver outlives the queue, see `drop`.
        let disk = from_err_ptr(unsafe {
            bindings::__blk_mq_alloc_disk(
                tags.raw(),
                &mut limits,
                Arc::as_ptr(&driver).cast_mut().cast(),
                static_lock_class!().as_ptr(),
            )
        })?;
        // SAFETY: A new gendisk that nobody else knows; the operations live as long as this module.
        unsafe {
            (*disk).fops = &raw const ffi::brmr_sys_disk_fops;
            (*disk).private_data = gate.get().cast();
            for (to, from) in (*disk).disk_name.iter_mut().zip(name) {
                *to = *from;
            }
            bindings::set_capacity(disk, config.capacity / u64::from(SECTOR));
            if config.read_only {
                bindings::set_disk_ro(disk, true);
            }
        }
        // INVARIANT: Set up as required just now.
        Ok(Self {
            disk,
            stage,
            _gate: gate,
            _tags: tags,
            driver,
            _table: table,
        })
    }

    /// Makes the disk visible. Reads its partition table, so the driver must be able to serve requests. Sleeps.
    ///
    /// # Errors
    ///
    /// `EEXIST` if the name is taken, `EINVAL` the second time, `ENOMEM`. The disk can only be dropped then.
    pub fn add(&self) -> Result {
        let mut stage = self.stage.lock();
        if *stage != Stage::Built {
            return Err(EINVAL);
        }
        // SAFETY: Valid by the type invariant, and not added before.
        to_result(unsafe { ffi::brmr_sys_disk_add(self.disk) })?;
        *stage = Stage::Added;
        Ok(())
    }

    /// Takes the disk away. Afterwards nobody can open it and the driver is not called any more. Sleeps until
    /// every request has been completed: with `force`, the driver has to see to that.
    ///
    /// Must not be called by the driver's callbacks, nor by a sysfs attribute below the disk.
    ///
    /// # Errors
    ///
    /// `EBUSY` without `force` while somebody has the disk or a partition of it open; nothing has changed then.
    /// That may be udev, for some milliseconds after `add`, and it is this task itself, by the partition scan,
    /// if it has not returned to user space since it called `add`.
    pub fn remove(&self, force: bool) -> Result {
        let mut stage = self.stage.lock();
        if *stage == Stage::Added {
            // SAFETY: Valid by the type invariant, with our gate.
            to_result(unsafe { ffi::brmr_sys_disk_shut(self.disk, force) })?;
            if force {
                // Whoever has it open gets errors at once, instead of writeback into a disk that goes away.
                // SAFETY: Valid by the type invariant.
                unsafe { bindings::blk_mark_disk_dead(self.disk) };
            }
            // SAFETY: Added, and only once deleted because of the stage.
            unsafe { bindings::del_gendisk(self.disk) };
        }
        *stage = Stage::Removed;
        Ok(())
    }

    /// Whether it was removed.
    pub fn is_removed(&self) -> bool {
        *self.stage.lock() == Stage::Removed
    }

    /// Whether anybody (a process, a file system, another driver) has the disk or a partition of it open.
    pub fn is_open(&self) -> bool {
        // SAFETY: Valid by the type invariant.
        unsafe { ffi::brmr_sys_disk_openers(self.disk) > 0 }
    }

    /// The name below `/dev`.
    pub fn name(&self) -> &CStr {
        // SAFETY: `build` wrote a terminated name, which does not change any more.
        unsafe { CStr::from_char_ptr((&raw const (*self.disk).disk_name).cast()) }
    }

    /// The driver.
    pub fn driver(&self) -> &Arc<D> {
        &self.driver
    }

    /// The kobject of `/sys/block/<name>`: between `add` and `remove` a target for links and a parent.
    pub fn kobj(&self) -> *mut bindings::kobject {
        // SAFETY: Valid by the type invariant.
        unsafe { ffi::brmr_sys_disk_kobj(self.disk) }
    }

    /// Sends a `change` event of the disk to user space, with `env` (`KEY=value`, at most 8). Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` for too many variables or a disk that is not visible, `ENOMEM`.
    pub fn uevent(&self, env: &[&CStr]) -> Result {
        let mut pointers = [ptr::null_mut(); 9];
        if env.len() >= pointers.len() {
            return Err(EINVAL);
        }
        for (to, from) in pointers.iter_mut().zip(env) {
            *to = from.as_char_ptr().cast_mut();
        }
        let stage = self.stage.lock();
        if *stage != Stage::Added {
            return Err(EINVAL);
        }
        // SAFETY: The disk is visible while we hold the lock; the array ends with a null pointer and its
        // strings are only read.
        to_result(unsafe {
            bindings::kobject_uevent_env(
                self.kobj(),
                bindings::kobject_action_KOBJ_CHANGE,
                pointers.as_mut_ptr(),
            )
        })
    }

    /// Changes the size, in bytes, rounded down to sectors, and tells user space. Sleeps.
    pub fn set_capacity(&self, bytes: u64) {
        // SAFETY: Valid by the type invariant.
        unsafe { bindings::set_capacity_and_notify(self.disk, bytes / u64::from(SECTOR)) };
    }

    /// Makes the disk refuse writes, or accept them again. Sleeps.
    pub fn set_read_only(&self, read_only: bool) {
        // SAFETY: Valid by the type invariant.
        unsafe { bindings::set_disk_ro(self.disk, read_only) };
    }

    /// Has blk-mq try again what was refused with [`crate::Busy::Device`]. Any context.
    pub fn run_queues(&self) {
        // SAFETY: Valid by the type invariant; asynchronous, so it is only work that is queued.
        unsafe { bindings::blk_mq_run_hw_queues((*self.disk).queue, true) };
    }
}

impl<D: Driver> Drop for Disk<D> {
    fn drop(&mut self) {
        // With `force` there is no error.
        let _ = self.remove(true);
        // SAFETY: The reference of the type invariant. Nothing calls the driver after this: an added disk was
        // deleted, and one that was not added has no other reference and so leaves its queue here.
        unsafe { bindings::put_disk(self.disk) };
    }
}

/// Waits, when it is dropped, until no gendisk of this module is left.
///
/// Somebody may keep a removed disk open; that keeps the module, but only until shortly before the gendisk is
/// freed. So this belongs into the module's structure, as its last field.
pub struct DiskDrain(());

impl DiskDrain {
    /// For the module's `init`, once.
    #[expect(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(())
    }
}

impl Drop for DiskDrain {
    fn drop(&mut self) {
        // SAFETY: Sleeps, which a module's exit may; called once.
        unsafe { ffi::brmr_sys_disks_drain() };
    }
}
