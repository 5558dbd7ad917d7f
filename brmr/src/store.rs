// SPDX-License-Identifier: GPL-2.0

//! The store of a storage node: a pool member's data on a local block device.
//!
//! The device carries a metadata area (superblock and epoch record, in two copies each, and room for what will
//! track missed writes) and the data area, laid out by `rmr_proto::Layout`. IO goes to the data area
//! asynchronously. Who may ask for it, and when, is decided in `rmr`.

use brmr_sys::plugged;
use brmr_sys::BioDone;
use brmr_sys::BioOp;
use brmr_sys::BioSet;
use brmr_sys::BlockDevice;
use brmr_sys::OpenError;
use brmr_sys::WriteFlags;
use kernel::bindings;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr::refuse;
use rmr::refuse::numbered;
use rmr::store::Store;
use rmr::store::StoreDone;
use rmr::store::StoreInfo;
use rmr::store::StoreIo;
use rmr::store::StoreOp;
use rmr_proto::pick_newest;
use rmr_proto::EpochRecord;
use rmr_proto::Features;
use rmr_proto::Found;
use rmr_proto::Geometry;
use rmr_proto::Layout;
use rmr_proto::Limits;
use rmr_proto::LogPage;
use rmr_proto::MemberId;
use rmr_proto::PoolName;
use rmr_proto::Scan;
use rmr_proto::Status;
use rmr_proto::StoreState;
use rmr_proto::Superblock;
use rmr_proto::Uuid;
use rmr_proto::FIRST_SUPERBLOCK;
use rmr_proto::LOG_PAGES;
use rmr_proto::RECORD_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::module::ModuleRef;
use rmr_sys::rand;
use rmr_sys::work::Flags;
use rmr_sys::work::Queue;

/// Bios that are guaranteed when memory is short.
const RESERVE: u32 = 16;

/// Largest range that one write-zeroes request of a client may have, in bytes.
const MAX_ZEROES: u32 = 4 << 20;

/// What `create_store` is told.
pub(crate) struct Create {
    pub(crate) name: PoolName,
    pub(crate) member: MemberId,
    pub(crate) geometry: Geometry,
    /// Overwrite what is on the device.
    pub(crate) force: bool,
    /// Leave the data area as it is: it is the same on all members, the administrator says.
    pub(crate) keep_data: bool,
}

/// A superblock or epoch record with the number of its version.
struct Current<T> {
    sequence: u64,
    record: T,
}

/// An open store.
#[pin_data]
pub(crate) struct LocalStore {
    module: &'static ThisModule,
    info: StoreInfo,
    bios: BioSet<Answer>,
    /// For write-zeroes, which may take long and fall back to writing.
    zeroes: Arc<Queue>,
    #[pin]
    superblock: Mutex<Current<Superblock>>,
}

/// What travels with a bio: the promise to answer.
struct Answer(StoreDone);

impl BioDone for Answer {
    fn done(self, result: Result) {
        self.0.finish(status(result));
    }
}

fn status(result: Result) -> Status {
    match result {
        Ok(()) => Status::Ok,
        Err(error) => Status::from_errno(error.to_errno()),
    }
}

/// Opens the device for `command`, exclusively.
fn open_device(command: &str, path: &str) -> Result<Arc<BlockDevice>> {
    let name = CString::try_from_fmt(fmt!("{path}"))?;
    BlockDevice::open_exclusive(&name, None).map_err(|error| {
        let why = match error {
            OpenError::Absent => "does not exist; check the path",
            OpenError::NotBlockDevice => {
                "is not a block device; a file can be used through losetup"
            }
            OpenError::InUse => "is in use; unmount it, or stop what uses it (see lsblk)",
            OpenError::ReadOnly => "is read-only; make it writable (blockdev --setrw)",
            OpenError::Other(_) => "cannot be opened; see the messages of its driver",
        };
        refuse!(error.into(), "{}: device {} {}", command, path, why)
    })
}

impl LocalStore {
    /// Makes a store on the device and opens it. Sleeps, and takes as long as zeroing the data area takes; a
    /// fatal signal interrupts it, and leaves a store that must be created again with `force`.
    #[inline(never)]
    pub(crate) fn create(
        module: &'static ThisModule,
        path: &str,
        create: &Create,
    ) -> Result<Arc<Self>> {
        const COMMAND: &str = "create_store";
        let device = open_device(COMMAND, path)?;
        let layout = Layout::compute(device.size(), create.geometry)
            .map_err(|error| refuse!(ENOSPC, "{}: device {}: {}", COMMAND, path, error))?;
        if create
            .geometry
            .size()
            .checked_rem(u64::from(device.logical_block()))
            != Some(0)
        {
            return Err(refuse!(
                EINVAL,
                "{}: the size is not a multiple of the {} byte blocks of device {}; round mapped_size",
                COMMAND,
                device.logical_block(),
                path
            ));
        }
        if device.logical_block() > RECORD_BYTES as u32 {
            return Err(refuse!(
                EINVAL,
                "{}: device {} has blocks of {} bytes, at most {} are supported; take another device",
                COMMAND,
                path,
                device.logical_block(),
                RECORD_BYTES
            ));
        }
        check_free(&device, path, create)?;
        let superblock = Superblock {
            state: StoreState::Initialising,
            store: rand::uuid(),
            pool: Uuid::NIL,
            name: create.name,
            member: create.member,
            logical_block: device.logical_block(),
            layout: layout.clone(),
        };
        let failed = |error: Error| {
            refuse!(
                error,
                "{}: device {}: writing failed ({:?}); see the messages of its driver, then create the store again with force=1",
                COMMAND,
                path,
                error
            )
        };
        let mut superblock = Current {
            sequence: 0,
            record: superblock,
        };
        superblock.write(&device).map_err(failed)?;
        forget_older(&device, &layout).map_err(failed)?;
        if !create.keep_data {
            let data = layout.data();
            device
                .zeroout(data.offset, data.len, true, |_| Ok(()))
                .map_err(failed)?;
        }
        blank_records(&device, &layout, superblock.record.store).map_err(failed)?;
        device.flush().map_err(failed)?;
        superblock.record.state = StoreState::Ready;
        superblock.write(&device).map_err(failed)?;
        Self::new(module, device, superblock)
    }

    /// Opens the store that is on the device. It must be one of pool `name`. Sleeps.
    #[inline(never)]
    pub(crate) fn open(
        module: &'static ThisModule,
        path: &str,
        name: &PoolName,
    ) -> Result<Arc<Self>> {
        const COMMAND: &str = "add_store";
        let device = open_device(COMMAND, path)?;
        let superblock = Current::<Superblock>::read(&device, path)?;
        let record = &superblock.record;
        if record.name != *name {
            return Err(refuse!(
                numbered(bindings::ESTALE),
                "{}: device {} has the store of pool {}, not of {}; give the right pool= or device=",
                COMMAND,
                path,
                record.name,
                name
            ));
        }
        if record.state != StoreState::Ready {
            return Err(refuse!(
                numbered(bindings::EUCLEAN),
                "{}: creating the store on device {} was not finished; use create_store with force=1",
                COMMAND,
                path
            ));
        }
        if device.logical_block() > record.logical_block {
            return Err(refuse!(
                EINVAL,
                "{}: device {} has blocks of {} bytes, the store was made for {}; copy it to a device with such blocks",
                COMMAND,
                path,
                device.logical_block(),
                record.logical_block
            ));
        }
        record
            .layout
            .check_fits(device.size())
            .map_err(|error| refuse!(ENOSPC, "{}: device {}: {}", COMMAND, path, error))?;
        Self::new(module, device, superblock)
    }

    #[inline(never)]
    fn new(
        module: &'static ThisModule,
        device: Arc<BlockDevice>,
        superblock: Current<Superblock>,
    ) -> Result<Arc<Self>> {
        let record = &superblock.record;
        let info = StoreInfo {
            pool_name: record.name,
            pool_uuid: record.pool,
            store_uuid: record.store,
            member: record.member,
            layout: record.layout.clone(),
            limits: limits(&device),
        };
        let bios = BioSet::new(device, RESERVE)?;
        let zeroes = Queue::new(c"brmr-zeroes", Flags::UNBOUND | Flags::MEM_RECLAIM)?;
        Arc::pin_init(
            pin_init!(Self {
                module,
                info,
                bios,
                zeroes,
                superblock <- new_mutex!(superblock),
            }),
            GFP_KERNEL,
        )
    }

    /// The device below.
    pub(crate) fn device(&self) -> &Arc<BlockDevice> {
        self.bios.bdev()
    }

    /// Makes the device blank where [`Scan`] would find the store. Nothing uses the store any more. Sleeps.
    pub(crate) fn wipe(&self) -> Result {
        let zeroes = KBox::<[u8; RECORD_BYTES]>::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        for place in [self.info.layout.superblock(), self.info.layout.epoch()].as_flattened() {
            self.device()
                .write(place.offset, &zeroes[..], WriteFlags::FUA)?;
        }
        Ok(())
    }
}

/// What the device can do, for the members' common limits.
fn limits(device: &BlockDevice) -> Limits {
    let features = Features::EMPTY
        .set(Features::WRITE_CACHE, device.write_cache())
        .set(Features::FUA, device.fua())
        .set(Features::DISCARD, device.max_discard() > 0)
        .set(Features::WRITE_ZEROES, true)
        .set(Features::ROTATIONAL, device.rotational());
    Limits {
        logical_block: device.logical_block(),
        physical_block: device.physical_block(),
        io_min: device.io_min(),
        io_opt: device.io_opt(),
        max_write_zeroes: MAX_ZEROES,
        features,
    }
}

/// Whether the device may be overwritten.
fn check_free(device: &BlockDevice, path: &str, create: &Create) -> Result {
    const PIECE: u64 = 64 << 10;
    let mut scan = Scan::new(device.size());
    let mut buf = KVVec::from_elem(0u8, PIECE as usize, GFP_KERNEL)?;
    let size = device.size();
    let end = size.saturating_sub(Scan::BYTES) & !(PIECE - 1);
    let ranges = [0..Scan::BYTES.min(size), end.max(Scan::BYTES)..size];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let len = PIECE.min(range.end - at);
            let piece = buf.get_mut(..len as usize).ok_or(EINVAL)?;
            device.read(at, piece).map_err(|error| {
                refuse!(
                    error,
                    "create_store: device {} cannot be read at {} ({:?})",
                    path,
                    at,
                    error
                )
            })?;
            scan.feed(at, piece);
            at += len;
        }
    }
    match scan.found() {
        Found::Blank => Ok(()),
        Found::Store(Some(other)) if other != create.name => Err(refuse!(
            numbered(bindings::EMEDIUMTYPE),
            "create_store: device {} has a store of pool {}, which force=1 does not overwrite; if it is not needed any more, add_store and delete_store it first",
            path,
            other
        )),
        _ if create.force => Ok(()),
        found => Err(refuse!(
            EEXIST,
            "create_store: device {} has {}; say force=1 to overwrite it",
            path,
            found
        )),
    }
}

/// Blanks second superblocks of stores that the device had before: should the first one of the new store ever be
/// lost, they would be taken for candidates.
fn forget_older(device: &BlockDevice, layout: &Layout) -> Result {
    let mut buf = KBox::<[u8; RECORD_BYTES]>::init(pin_init::init_zeroed(), GFP_KERNEL)?;
    let [_, ours] = layout.superblock();
    for place in Layout::second_superblocks(device.size()).filter(|p| *p != ours) {
        device.read(place.offset, &mut buf[..])?;
        if Superblock::parse::<KernelCrc>(place, &buf[..]).is_ok() {
            buf.fill(0);
            device.write(place.offset, &buf[..], WriteFlags::FUA)?;
        }
    }
    Ok(())
}

/// Writes the records of a store that was never started: an empty log, and the default epoch record. Bitmaps do not count
/// before the epoch record says so.
#[inline(never)]
fn blank_records(device: &BlockDevice, layout: &Layout, store: Uuid) -> Result {
    let mut buf = KBox::<[u8; RECORD_BYTES]>::init(pin_init::init_zeroed(), GFP_KERNEL)?;
    for page in 0..LOG_PAGES {
        for place in layout.log_page(page).ok_or(EINVAL)? {
            LogPage::encode::<KernelCrc>(store, 1, place, [], &mut buf).map_err(|_| EINVAL)?;
            device.write(place.offset, &buf[..], WriteFlags::NONE)?;
        }
    }
    let epoch = KBox::new(EpochRecord::default(), GFP_KERNEL)?;
    for place in layout.epoch() {
        epoch
            .encode::<KernelCrc>(store, 1, place, &mut buf)
            .map_err(|_| EINVAL)?;
        device.write(place.offset, &buf[..], WriteFlags::NONE)?;
    }
    Ok(())
}

impl Current<Superblock> {
    /// Reads the newest superblock; completes an interrupted write of it.
    #[inline(never)]
    fn read(device: &BlockDevice, path: &str) -> Result<Self> {
        let mut buf = KBox::<[u8; RECORD_BYTES]>::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        device.read(FIRST_SUPERBLOCK.offset, &mut buf[..])?;
        let first = Superblock::parse::<KernelCrc>(FIRST_SUPERBLOCK, &buf[..]);
        let second = match &first {
            Ok(first) => {
                let [_, place] = first.record.layout.superblock();
                device.read(place.offset, &mut buf[..])?;
                Superblock::parse::<KernelCrc>(place, &buf[..])
            }
            // The first is lost: the second is somewhere before the data area.
            Err(error) => {
                let mut found = Err(*error);
                for place in Layout::second_superblocks(device.size()) {
                    device.read(place.offset, &mut buf[..])?;
                    let Ok(copy) = Superblock::parse::<KernelCrc>(place, &buf[..]) else {
                        continue;
                    };
                    if found.is_ok() {
                        return Err(refuse!(
                            numbered(bindings::EUCLEAN),
                            "device {} has superblocks of more than one store, and none at the begin; it cannot be said which is right",
                            path
                        ));
                    }
                    found = Ok(copy);
                }
                found
            }
        };
        let newest = pick_newest(first, second).map_err(|error| {
            refuse!(
                numbered(bindings::EMEDIUMTYPE),
                "device {} has no store: {}; use create_store for a new one",
                path,
                error
            )
        })?;
        let mut current = Self {
            sequence: newest.sequence,
            record: newest.record,
        };
        if let Some(bad) = newest.rewrite {
            current.write_from(device, bad)?;
        }
        Ok(current)
    }

    /// Writes both copies, one after the other, as the next version.
    fn write(&mut self, device: &BlockDevice) -> Result {
        self.write_from(device, 0)
    }

    /// The same, beginning with copy `first`: a bad one, so that a good one is left whatever happens.
    fn write_from(&mut self, device: &BlockDevice, first: u16) -> Result {
        let mut buf = KBox::<[u8; RECORD_BYTES]>::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        self.sequence = self.sequence.checked_add(1).ok_or(EOVERFLOW)?;
        for copy in [first, 1 - first] {
            let place = self
                .record
                .encode::<KernelCrc>(self.sequence, copy, &mut buf)
                .map_err(|_| EINVAL)?;
            device.write(place.offset, &buf[..], WriteFlags::FUA)?;
        }
        Ok(())
    }
}

/// A request whose work may be dropped before it has run.
struct Later(Option<StoreDone>);

impl Drop for Later {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done.not_started();
        }
    }
}

impl Store for LocalStore {
    fn info(&self) -> StoreInfo {
        let mut info = self.info.clone();
        info.pool_uuid = self.superblock.lock().record.pool;
        info
    }

    fn hold(&self) -> Option<ModuleRef> {
        ModuleRef::get(self.module)
    }

    fn submit(&self, io: StoreIo, done: StoreDone) {
        // The range is in the volume, so it does not overflow.
        let offset = self.info.layout.data().offset + io.offset;
        let op = match io.op {
            StoreOp::Read => BioOp::Read,
            StoreOp::Write { fua } => BioOp::Write { fua },
            StoreOp::Flush => return self.bios.submit(BioOp::Flush, 0, 0, None, Answer(done)),
            StoreOp::WriteZeroes { unmap, fua } => {
                let device = self.device().clone();
                let mut later = Later(Some(done));
                let work = move || {
                    let Some(done) = later.0.take() else {
                        return;
                    };
                    let result = device
                        .zeroout(offset, u64::from(io.len), unmap, |_| Ok(()))
                        .and_then(|()| if fua { device.flush() } else { Ok(()) });
                    done.finish(status(result));
                };
                // Work that could not be queued, for want of memory, is dropped, which says so.
                let _ = self.zeroes.spawn(work, GFP_KERNEL);
                return;
            }
        };
        self.bios
            .submit(op, offset, io.len, io.data.map(Into::into), Answer(done));
    }

    fn plugged(&self, each: &mut dyn FnMut()) {
        plugged(each)
    }

    fn flush(&self) -> Result {
        self.device().flush()
    }

    fn read_record(&self, offset: u64, page: &mut [u8; RECORD_BYTES]) -> Result {
        self.device().read(offset, page)
    }

    fn write_record(&self, offset: u64, page: &[u8; RECORD_BYTES]) -> Result {
        self.device().write(offset, page, WriteFlags::FUA)
    }

    fn assign_pool(&self, pool: Uuid) -> Result {
        let mut superblock = self.superblock.lock();
        superblock.record.pool = pool;
        superblock.write(self.device())
    }
}
