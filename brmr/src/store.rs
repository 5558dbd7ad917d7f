// SPDX-License-Identifier: GPL-2.0

//! The store of a storage node: a pool member's data on a local block device, and its metadata there or on another one.
//!
//! The device carries a metadata area (superblock, epoch record, activity log and dirty bitmaps, in two copies each) and
//! the data area, laid out by `rmr_proto::Layout`; or its superblock and the data area alone, and all the rest is on the
//! metadata device. IO goes to the data area asynchronously. Who may ask for it, and when, is decided in `rmr`.
//!
//! Each record is stable when its write returns, on whatever device it is. So what a flush of the store makes stable is data,
//! and it goes to the device with the data alone.

use crate::superblock::forget_older;
use crate::superblock::Current;
use crate::superblock::Superblocks;
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
use rmr::secret::Secret;
use rmr::store::Store;
use rmr::store::StoreDone;
use rmr::store::StoreInfo;
use rmr::store::StoreIo;
use rmr::store::StoreOp;
use rmr_proto::DeviceRole;
use rmr_proto::EpochRecord;
use rmr_proto::Features;
use rmr_proto::Found;
use rmr_proto::Geometry;
use rmr_proto::Layout;
use rmr_proto::LayoutError;
use rmr_proto::Limits;
use rmr_proto::LogPage;
use rmr_proto::MemberId;
use rmr_proto::MetadataDevice;
use rmr_proto::PoolName;
use rmr_proto::Scan;
use rmr_proto::Status;
use rmr_proto::StoreState;
use rmr_proto::Superblock;
use rmr_proto::Uuid;
use rmr_proto::LOG_PAGES;
use rmr_proto::RECORD_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::module::ModuleRef;
use rmr_sys::noio::without_io;
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
    /// What whoever uses the store must know.
    pub(crate) secret: Option<Arc<Secret>>,
}

/// What `add_store` is told about a secret.
pub(crate) enum Opening {
    /// Nothing.
    AsBefore,
    /// It is required, or not, from now on.
    With(Option<Arc<Secret>>),
}

/// An open store.
#[pin_data]
pub(crate) struct LocalStore {
    module: &'static ThisModule,
    info: StoreInfo,
    bios: BioSet<Answer>,
    /// The device with the metadata, if that is not the one with the data.
    metadata: Option<Arc<BlockDevice>>,
    /// For write-zeroes, which may take long and fall back to writing.
    zeroes: Arc<Queue>,
    #[pin]
    superblocks: Mutex<Superblocks>,
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

/// Opens the metadata device beside that with the data, which is open already.
fn open_metadata(command: &str, path: &str, device: &BlockDevice) -> Result<Arc<BlockDevice>> {
    let name = CString::try_from_fmt(fmt!("{path}"))?;
    if brmr_sys::device_number(&name) == Ok(device.dev()) {
        return Err(refuse!(
            EINVAL,
            "{}: device= and metadata= are one device, {}; give two, or leave metadata= out to have both on it",
            command,
            path
        ));
    }
    let metadata = open_device(command, path)?;
    check_blocks(command, path, &metadata)?;
    Ok(metadata)
}

/// Refuses a device on which a record is less than a block.
fn check_blocks(command: &str, path: &str, device: &BlockDevice) -> Result {
    if device.logical_block() > RECORD_BYTES as u32 {
        return Err(refuse!(
            EINVAL,
            "{}: device {} has blocks of {} bytes, at most {} are supported; take another device",
            command,
            path,
            device.logical_block(),
            RECORD_BYTES
        ));
    }
    Ok(())
}

impl LocalStore {
    /// Makes a store on the device, and on a metadata device if there is one, and opens it. Sleeps, and takes as long as
    /// zeroing the data area takes; a fatal signal interrupts it, and leaves a store that must be created again with
    /// `force`.
    #[inline(never)]
    pub(crate) fn create(
        module: &'static ThisModule,
        path: &str,
        metadata_path: Option<&str>,
        create: &Create,
    ) -> Result<Arc<Self>> {
        const COMMAND: &str = "create_store";
        let device = open_device(COMMAND, path)?;
        let metadata = metadata_path
            .map(|path| open_metadata(COMMAND, path, &device))
            .transpose()?;
        let layout = match &metadata {
            None => Layout::compute(device.size(), create.geometry),
            Some(metadata) => {
                Layout::compute_external(device.size(), metadata.size(), create.geometry)
            }
        }
        .map_err(|error| {
            let path = match error {
                LayoutError::MetadataTooSmall { .. } => metadata_path.unwrap_or(path),
                _ => path,
            };
            refuse!(ENOSPC, "{}: device {}: {}", COMMAND, path, error)
        })?;
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
        check_blocks(COMMAND, path, &device)?;
        check_free(&device, path, create)?;
        if let (Some(metadata), Some(path)) = (&metadata, metadata_path) {
            check_free(metadata, path, create)?;
        }
        let superblock = Superblock {
            role: DeviceRole::Data,
            state: StoreState::Initialising,
            store: rand::uuid(),
            pool: Uuid::NIL,
            name: create.name,
            member: create.member,
            logical_block: device.logical_block(),
            layout,
            metadata: metadata.is_some().then(|| MetadataDevice {
                uuid: rand::uuid(),
                starts: 0,
            }),
            secret: create.secret.is_some(),
        };
        let superblocks = write_new(&device, metadata.as_deref(), superblock, create.keep_data)
            .map_err(|error| {
                refuse!(
                    error,
                    "{}: writing device {}{}{} failed ({:?}); see the messages of its driver, then create the store again with force=1",
                    COMMAND,
                    path,
                    if metadata_path.is_some() { " or " } else { "" },
                    metadata_path.unwrap_or(""),
                    error
                )
            })?;
        let secret = create.secret.clone();
        Self::new(module, device, metadata, superblocks, secret)
    }

    /// Opens the store that is on the device, with its metadata device if it has one. It must be one of pool `name`.
    /// Sleeps.
    #[inline(never)]
    pub(crate) fn open(
        module: &'static ThisModule,
        path: &str,
        metadata_path: Option<&str>,
        name: &PoolName,
        opening: Opening,
    ) -> Result<Arc<Self>> {
        const COMMAND: &str = "add_store";
        let device = open_device(COMMAND, path)?;
        let mut superblock = Current::read(&device, path)?;
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
        let secret = match opening {
            Opening::With(secret) => secret,
            Opening::AsBefore if record.secret => {
                return Err(refuse!(
                    numbered(bindings::ENOKEY),
                    "{}: the store on device {} requires a secret; say secret= with the description of its key (or secret=none to do without from now on)",
                    COMMAND,
                    path
                ))
            }
            Opening::AsBefore => None,
        };
        let metadata = match (&record.metadata, metadata_path) {
            (None, None) => None,
            (Some(_), Some(metadata_path)) => {
                let metadata = open_metadata(COMMAND, metadata_path, &device)?;
                let current = Current::read_metadata(&metadata, metadata_path, record)?;
                record
                    .layout
                    .check_metadata_fits(metadata.size())
                    .map_err(|error| {
                        refuse!(ENOSPC, "{}: device {}: {}", COMMAND, metadata_path, error)
                    })?;
                Some((metadata, current))
            }
            (Some(metadata), None) => {
                return Err(refuse!(
                    EINVAL,
                    "{}: the store on device {} has its metadata on another device, of UUID {}; give that as metadata=",
                    COMMAND,
                    path,
                    metadata.uuid
                ))
            }
            (None, Some(_)) => {
                return Err(refuse!(
                    EINVAL,
                    "{}: the store on device {} has its metadata there, too; leave metadata= out",
                    COMMAND,
                    path
                ))
            }
        };
        superblock.mend(&device)?;
        let (metadata, current) = match metadata {
            None => (None, None),
            Some((metadata, mut current)) => {
                current.mend(&metadata)?;
                (Some(metadata), Some(current))
            }
        };
        let superblocks = Superblocks::new(superblock, current);
        Self::new(module, device, metadata, superblocks, secret)
    }

    /// Notes on the device, for later openings, whether a secret is required. Sleeps.
    pub(crate) fn keep_secret(&self) -> Result {
        let required = self.info.secret.is_some();
        let mut superblocks = self.superblocks.lock();
        if superblocks.data.record.secret == required {
            return Ok(());
        }
        superblocks.data.record.secret = required;
        superblocks.data.write(self.device())
    }

    #[inline(never)]
    fn new(
        module: &'static ThisModule,
        device: Arc<BlockDevice>,
        metadata: Option<Arc<BlockDevice>>,
        superblocks: Superblocks,
        secret: Option<Arc<Secret>>,
    ) -> Result<Arc<Self>> {
        let record = &superblocks.data.record;
        let info = StoreInfo {
            pool_name: record.name,
            pool_uuid: record.pool,
            store_uuid: record.store,
            member: record.member,
            layout: record.layout.clone(),
            limits: limits(&device, metadata.as_deref()),
            secret,
        };
        let bios = BioSet::new(device, RESERVE)?;
        let zeroes = Queue::new(c"brmr-zeroes", Flags::UNBOUND | Flags::MEM_RECLAIM)?;
        Arc::pin_init(
            pin_init!(Self {
                module,
                info,
                bios,
                metadata,
                zeroes,
                superblocks <- new_mutex!(superblocks),
            }),
            GFP_KERNEL,
        )
    }

    /// The device with the data.
    pub(crate) fn device(&self) -> &Arc<BlockDevice> {
        self.bios.bdev()
    }

    /// The metadata device, if the metadata is not on the device with the data.
    pub(crate) fn metadata_device(&self) -> Option<&Arc<BlockDevice>> {
        self.metadata.as_ref()
    }

    /// The device with the records.
    fn records(&self) -> &Arc<BlockDevice> {
        self.metadata.as_ref().unwrap_or(self.device())
    }

    /// Makes the devices blank where [`Scan`] would find the store. Nothing uses the store any more. Sleeps.
    pub(crate) fn wipe(&self) -> Result {
        let superblocks = self.superblocks.lock();
        // Both are tried, whatever becomes of the first.
        let metadata = match (&superblocks.metadata, &self.metadata) {
            (Some(current), Some(device)) => current.wipe(device),
            _ => Ok(()),
        };
        superblocks.data.wipe(self.device())?;
        metadata?;
        let zeroes = KBox::<[u8; RECORD_BYTES]>::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        for place in self.info.layout.epoch() {
            self.records()
                .write(place.offset, &zeroes[..], WriteFlags::FUA)?;
        }
        Ok(())
    }
}

/// What the device can do, for the members' common limits.
fn limits(device: &BlockDevice, metadata: Option<&BlockDevice>) -> Limits {
    let metadata_cache = metadata.is_some_and(|metadata| metadata.write_cache());
    // FUA is of data: without a cache for that, every write has it.
    let fua = device.fua() || (metadata_cache && !device.write_cache());
    let features = Features::EMPTY
        .set(
            Features::WRITE_CACHE,
            device.write_cache() || metadata_cache,
        )
        .set(Features::FUA, fua)
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
        Found::Metadata(Some(other)) if other != create.name => Err(refuse!(
            numbered(bindings::EMEDIUMTYPE),
            "create_store: device {} has the metadata of a store of pool {}, which force=1 does not overwrite; if it is not needed any more, add_store and delete_store it first, or overwrite its first MiB if the device with the data is gone",
            path,
            other
        )),
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

/// Writes all that a new store has on its devices. It is ready when all of it is stable, on both.
#[inline(never)]
fn write_new(
    device: &BlockDevice,
    metadata: Option<&BlockDevice>,
    superblock: Superblock,
    keep_data: bool,
) -> Result<Superblocks> {
    let store = superblock.store;
    let data = superblock.layout.data();
    let of_metadata = superblock.of_metadata().map(Current::new).transpose()?;
    let mut superblocks = Superblocks::new(Current::new(superblock)?, of_metadata);
    superblocks.data.write(device)?;
    if let (Some(current), Some(metadata)) = (&mut superblocks.metadata, metadata) {
        current.write(metadata)?;
        forget_older(metadata, &current.record)?;
    }
    forget_older(device, &superblocks.data.record)?;
    if !keep_data {
        device.zeroout(data.offset, data.len, true, |_| Ok(()))?;
    }
    let records = metadata.unwrap_or(device);
    blank_records(records, &superblocks.data.record.layout, store)?;
    // The data area, and the records if they are here.
    device.flush()?;
    if let Some(metadata) = metadata {
        metadata.flush()?;
    }
    superblocks.set_ready(device, metadata)?;
    Ok(superblocks)
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
        info.pool_uuid = self.superblocks.lock().data.record.pool;
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
                // This may be the writeback that memory waits for.
                let _ = without_io(|| self.zeroes.spawn(work, GFP_KERNEL));
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
        self.records().read(offset, page)
    }

    fn write_record(&self, offset: u64, page: &[u8; RECORD_BYTES]) -> Result {
        if let Some(metadata) = &self.metadata {
            self.superblocks
                .lock()
                .note_start(self.device(), metadata)?;
        }
        self.records().write(offset, page, WriteFlags::FUA)
    }

    fn assign_pool(&self, pool: Uuid) -> Result {
        let mut superblocks = self.superblocks.lock();
        let before = core::mem::replace(&mut superblocks.data.record.pool, pool);
        let result = superblocks.data.write(self.device());
        if result.is_err() {
            // So that it is written when the member is started again.
            superblocks.data.record.pool = before;
        }
        result
    }
}
