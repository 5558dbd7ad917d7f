// SPDX-License-Identifier: GPL-2.0

//! `/sys/class/brmr-client`: mapping pools as disks. Described in `docs/ABI/sysfs-class-brmr-client`.

use crate::disk::VolumeDisk;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr::malformed;
use rmr::refuse;
use rmr_engine::options::Key;
use rmr_engine::options::Options;
use rmr_proto::PoolName;
use rmr_sys::global::Global;
use rmr_sys::sysfs::no_data;
use rmr_sys::sysfs::Attr;
use rmr_sys::sysfs::Dir;
use rmr_sys::time::sleep_ms;
use rmr_sys::tree;
use rmr_sys::tree::Tree;

/// Disks that can be mapped at the same time.
const MAX_DISKS: u32 = 1024;

/// How often, and after which pauses, it is tried again to remove a disk that is open.
const CLOSE_TRIES: u32 = 10;
const CLOSE_PAUSE_MS: u32 = 50;

static REGISTRY: Global<Registry> = Global::new();

/// Makes the class and what is in it. Sleeps.
pub(crate) fn tree() -> Result<Tree<Registry>> {
    Tree::new(c"brmr-client", &CTL, |class| {
        let devices = Dir::in_class(class, c"devices", no_data()?, &[])?;
        Arc::pin_init(
            pin_init!(Registry {
                devices,
                disks <- new_mutex!(Disks {
                    mapped: KVec::new(),
                    claimed: KVec::new(),
                }),
            }),
            GFP_KERNEL,
        )
    })
}

/// A mapped disk and its directories.
struct Mapped {
    /// Below the disk's own directory in `/sys/block`.
    _files: Dir<Device>,
    _stats: Dir<Device>,
    _dir: Dir<Device>,
    device: Arc<Device>,
}

/// What the files of a disk refer to.
pub(crate) struct Device {
    index: u32,
    pool: PoolName,
    pub(crate) disk: VolumeDisk,
}

/// The disks that are mapped, and those that are about to be.
struct Disks {
    mapped: KVec<Mapped>,
    claimed: KVec<Claim>,
}

/// A disk whose pool is being attached to.
struct Claim {
    index: u32,
    pool: PoolName,
}

impl Disks {
    fn has(&self, pool: &PoolName) -> bool {
        self.mapped.iter().any(|m| m.device.pool == *pool)
            || self.claimed.iter().any(|c| c.pool == *pool)
    }

    /// The lowest number that no disk has.
    fn free_index(&self) -> Option<u32> {
        (0..MAX_DISKS).find(|index| {
            self.mapped.iter().all(|m| m.device.index != *index)
                && self.claimed.iter().all(|c| c.index != *index)
        })
    }
}

/// All disks of this host.
#[pin_data]
pub(crate) struct Registry {
    devices: Dir<()>,
    /// Not held while a pool is attached to, or a disk is made visible: both take long when nodes do not answer.
    #[pin]
    disks: Mutex<Disks>,
}

impl tree::Registry for Registry {
    fn global() -> &'static Global<Self> {
        &REGISTRY
    }

    /// Unmaps all. Nothing has a disk open: that would keep the module loaded.
    fn stop(&self) {
        let mapped = core::mem::take(&mut self.disks.lock().mapped);
        drop(mapped);
    }
}

static CTL: [Attr<Registry>; 1] = [Attr::wo(
    c"map_device",
    "pool=<name> [size=<512-byte sectors>]",
    |registry, line| {
        const KEYS: &[Key] = &[Key::once("pool"), Key::once("size")];
        let parse = || {
            let options = Options::parse(line, KEYS)?;
            let pool = options.require("pool")?.pool()?;
            let sectors = options.get("size").map(|s| s.sectors(1..=u64::MAX >> 9));
            Ok((pool, sectors.transpose()?.map(|sectors| sectors << 9)))
        };
        let (pool, size) = parse().map_err(malformed!("map_device"))?;
        registry.map(pool, size)
    },
)];

static DEVICE: [Attr<Device>; 3] = [
    Attr::wo(c"unmap_device", "1", |device, line| {
        if line.trim_ascii() != b"1" {
            return Err(refuse!(EINVAL, "unmap_device: write 1 to it"));
        }
        REGISTRY.get().ok_or(ENODEV)?.unmap(device)
    })
    .removes_self(),
    Attr::ro(c"state", |device, w| writeln!(w, "{}", device.disk.state())),
    Attr::ro(c"pool", |device, w| writeln!(w, "{}", device.pool)),
];

/// Files in `/sys/block/brmrN/brmr`.
static BLOCK: [Attr<Device>; 2] = [
    Attr::ro(c"state", |device, w| writeln!(w, "{}", device.disk.state())),
    Attr::ro(c"pool", |device, w| writeln!(w, "{}", device.pool)),
];

impl Registry {
    /// Maps the pool `name`, of `size` bytes if that is given, as a new disk. Sleeps: attaches to the pool's members, scans for partitions.
    fn map(&self, name: PoolName, size: Option<u64>) -> Result {
        let index = self.claim(name)?;
        let disk = VolumeDisk::new(&name, index, size);
        let mapped = disk.and_then(|disk| self.show(index, name, disk));
        let mut disks = self.disks.lock();
        disks.claimed.retain(|claim| claim.index != index);
        let room = disks.mapped.reserve(1, GFP_KERNEL);
        let lost = match mapped {
            // Unless it was unmapped as soon as it could be seen.
            Ok(mapped) if room.is_ok() && !mapped.device.disk.is_closed() => {
                return Ok(disks.mapped.push(mapped, GFP_KERNEL)?);
            }
            other => other,
        };
        // Its directories wait for who unmaps it, who wants the mutex.
        drop(disks);
        drop(lost?);
        Ok(room?)
    }

    /// Keeps a number for a disk in front of the pool `name`, until the claim is removed.
    fn claim(&self, name: PoolName) -> Result<u32> {
        let mut disks = self.disks.lock();
        if disks.has(&name) {
            return Err(refuse!(
                EBUSY,
                "map_device: pool {} is mapped already; unmap that device first",
                name
            ));
        }
        let index = disks.free_index().ok_or_else(|| {
            refuse!(
                ENOSPC,
                "map_device: {} devices are mapped, which is the limit; unmap one first",
                MAX_DISKS
            )
        })?;
        disks
            .claimed
            .push(Claim { index, pool: name }, GFP_KERNEL)?;
        Ok(index)
    }

    /// Makes a disk visible. Sleeps: scans for partitions.
    fn show(&self, index: u32, name: PoolName, disk: VolumeDisk) -> Result<Mapped> {
        let device = Arc::new(
            Device {
                index,
                pool: name,
                disk,
            },
            GFP_KERNEL,
        )?;
        let file = CString::try_from_fmt(fmt!("brmr{index}"))?;
        let dir = Dir::in_dir(&self.devices, &file, device.clone(), &DEVICE)?;
        let stats = Dir::in_dir(&dir, c"stats", device.clone(), &crate::disk::STATS)?;
        device.disk.show()?;
        let files = Dir::under(device.disk.kobject(), c"brmr", device.clone(), &BLOCK)?;
        dir.link(c"block", device.disk.kobject())?;
        device.disk.announce(&name)?;
        Ok(Mapped {
            _files: files,
            _stats: stats,
            _dir: dir,
            device,
        })
    }

    /// Removes a disk; `EBUSY` while somebody has it open. Sleeps: waits for its IO, detaches.
    fn unmap(&self, device: &Arc<Device>) -> Result {
        // udev looks at a new disk for a moment; that is not what EBUSY is for.
        let mut result = device.disk.close();
        for _ in 0..CLOSE_TRIES {
            if result != Err(EBUSY) {
                break;
            }
            sleep_ms(CLOSE_PAUSE_MS);
            result = device.disk.close();
        }
        result.map_err(|error| {
            refuse!(
                error,
                "unmap_device: brmr{} is open; unmount it, or stop what uses it (see lsblk)",
                device.index
            )
        })?;
        let mut disks = self.disks.lock();
        let place = disks
            .mapped
            .iter()
            .position(|m| Arc::ptr_eq(&m.device, device));
        let mapped = place.and_then(|place| disks.mapped.remove(place).ok());
        drop(disks);
        drop(mapped);
        Ok(())
    }
}
