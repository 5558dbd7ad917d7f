// SPDX-License-Identifier: GPL-2.0

//! The superblocks of a store on its devices: that of the device with the data, and that of the metadata device if the
//! store has one.
//!
//! Reading changes nothing: what is to be put right is done when all is known to be right. What the records mean is in
//! `rmr_proto`, what else is on the devices in `store`. They are large, so they are in boxes.

use brmr_sys::BlockDevice;
use brmr_sys::WriteFlags;
use kernel::bindings;
use kernel::prelude::*;
use rmr::refuse;
use rmr::refuse::numbered;
use rmr_proto::pick_newest;
use rmr_proto::DeviceRole;
use rmr_proto::Layout;
use rmr_proto::PartnerError;
use rmr_proto::PickError;
use rmr_proto::Place;
use rmr_proto::RecordError;
use rmr_proto::RecordKind;
use rmr_proto::StoreState;
use rmr_proto::Superblock;
use rmr_proto::Versioned;
use rmr_proto::FIRST_SUPERBLOCK;
use rmr_proto::RECORD_BYTES;
use rmr_sys::crc::KernelCrc;

type Page = KBox<[u8; RECORD_BYTES]>;

/// What is read as one copy.
type Read = core::result::Result<Versioned<Superblock>, RecordError>;

fn page() -> Result<Page> {
    KBox::init(pin_init::init_zeroed(), GFP_KERNEL)
}

/// A superblock with the number of its version.
pub(crate) struct Current {
    sequence: u64,
    pub(crate) record: Superblock,
    /// The copy that is older or cannot be used.
    bad: Option<u16>,
}

impl Current {
    /// One that is on no device yet.
    #[inline(never)]
    pub(crate) fn new(record: Superblock) -> Result<KBox<Self>> {
        let current = Self {
            sequence: 0,
            record,
            bad: None,
        };
        Ok(KBox::new(current, GFP_KERNEL)?)
    }

    /// Reads the newest superblock of the device with the data. Sleeps.
    #[inline(never)]
    pub(crate) fn read(device: &BlockDevice, path: &str) -> Result<KBox<Self>> {
        let mut buf = page()?;
        let mut read = |place| {
            copy_at(device, DeviceRole::Data, place, &mut buf).map_err(unreadable(path, place))
        };
        let first = read(FIRST_SUPERBLOCK)?;
        let second = match &first {
            Ok(first) => {
                let [_, place] = first.record.layout.superblock();
                read(place)?
            }
            Err(error) if is_of_kind(error, RecordKind::MetadataSuperblock) => {
                return Err(refuse!(
                    numbered(bindings::EMEDIUMTYPE),
                    "device {} has the metadata of a store only; give it as metadata=, and that with the data as device=",
                    path
                ))
            }
            // The first is lost: the second is somewhere before the data area.
            Err(error) => {
                let mut found = Err(*error);
                for place in Layout::second_superblocks(device.size()) {
                    let Ok(copy) = read(place)? else {
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
        Self::newest(first, second)?.map_err(|error| {
            refuse!(
                numbered(bindings::EMEDIUMTYPE),
                "device {} has no store: {}; use create_store for a new one",
                path,
                error
            )
        })
    }

    /// Reads the newest superblock of the metadata device of a store, which is to be the one that `data` names. Sleeps.
    #[inline(never)]
    pub(crate) fn read_metadata(
        device: &BlockDevice,
        path: &str,
        data: &Superblock,
    ) -> Result<KBox<Self>> {
        let mut buf = page()?;
        let mut read = |place| {
            copy_at(device, DeviceRole::Metadata, place, &mut buf).map_err(unreadable(path, place))
        };
        let first = read(FIRST_SUPERBLOCK)?;
        if first
            .as_ref()
            .is_err_and(|error| is_of_kind(error, RecordKind::Superblock))
        {
            return Err(refuse!(
                numbered(bindings::EMEDIUMTYPE),
                "metadata device {} has the data of a store; give it as device=, and that with its metadata, if there is one, as metadata=",
                path
            ));
        }
        // Of another store, its own layout says where the second one is; of this one it is the same.
        let layout = first.as_ref().map_or(&data.layout, |v| &v.record.layout);
        let second = match layout.metadata_superblock() {
            Some([_, place]) => read(place)?,
            None => Err(RecordError::Field("metadata device")),
        };
        let current = Self::newest(first, second)?.map_err(|error| {
            refuse!(
                numbered(bindings::EMEDIUMTYPE),
                "metadata device {} has no metadata: {}; give the one that the store was created with, or if that is lost create the store anew and replace the member",
                path,
                error
            )
        })?;
        data.check_metadata(&current.record).map_err(|error| {
            let errno = match error {
                PartnerError::Old | PartnerError::OldData => numbered(bindings::ESTALE),
                PartnerError::Unfinished => numbered(bindings::EUCLEAN),
                _ => numbered(bindings::EMEDIUMTYPE),
            };
            refuse!(
                errno,
                "metadata device {} does not go with the store of pool {}: {}; give the right ones, or if they are lost create the store anew and replace the member",
                path,
                data.name,
                error
            )
        })?;
        Ok(current)
    }

    #[inline(never)]
    fn newest(first: Read, second: Read) -> Result<core::result::Result<KBox<Self>, PickError>> {
        let newest = match pick_newest(first, second) {
            Ok(newest) => newest,
            Err(error) => return Ok(Err(error)),
        };
        let current = Self {
            sequence: newest.sequence,
            record: newest.record,
            bad: newest.rewrite,
        };
        Ok(Ok(KBox::new(current, GFP_KERNEL)?))
    }

    /// Completes a write that was interrupted. Sleeps.
    pub(crate) fn mend(&mut self, device: &BlockDevice) -> Result {
        match self.bad {
            Some(_) => self.write(device),
            None => Ok(()),
        }
    }

    /// Writes both copies, one after the other, as the next version; first the one that is bad, so that a good one is left
    /// whatever happens. Sleeps.
    pub(crate) fn write(&mut self, device: &BlockDevice) -> Result {
        let mut buf = page()?;
        self.sequence = self.sequence.checked_add(1).ok_or(EOVERFLOW)?;
        let first = self.bad.unwrap_or(0);
        for copy in [first, 1 - first] {
            self.bad = Some(copy);
            let place = self
                .record
                .encode::<KernelCrc>(self.sequence, copy, &mut buf)
                .map_err(|_| EINVAL)?;
            device.write(place.offset, &buf[..], WriteFlags::FUA)?;
        }
        self.bad = None;
        Ok(())
    }

    /// Makes the device blank where [`rmr_proto::Scan`] would find the store. Sleeps.
    pub(crate) fn wipe(&self, device: &BlockDevice) -> Result {
        let zeroes = page()?;
        for place in self.record.places().iter().flatten() {
            device.write(place.offset, &zeroes[..], WriteFlags::FUA)?;
        }
        Ok(())
    }
}

/// The superblocks of a store.
pub(crate) struct Superblocks {
    pub(crate) data: KBox<Current>,
    pub(crate) metadata: Option<KBox<Current>>,
    /// This start is noted on both devices.
    noted: bool,
}

impl Superblocks {
    pub(crate) fn new(data: KBox<Current>, metadata: Option<KBox<Current>>) -> Self {
        Self {
            data,
            metadata,
            noted: false,
        }
    }

    /// Says that the store is complete, on the metadata device first. Sleeps.
    pub(crate) fn set_ready(
        &mut self,
        device: &BlockDevice,
        metadata: Option<&BlockDevice>,
    ) -> Result {
        if let (Some(current), Some(metadata)) = (&mut self.metadata, metadata) {
            current.record.state = StoreState::Ready;
            current.write(metadata)?;
        }
        self.data.record.state = StoreState::Ready;
        self.data.write(device)
    }

    /// Before the first record of this start is written: notes on both devices that there was one, so that an older copy of
    /// one of them is known as such. Sleeps.
    pub(crate) fn note_start(&mut self, device: &BlockDevice, metadata: &BlockDevice) -> Result {
        let (Some(current), Some(partner)) = (&mut self.metadata, self.data.record.metadata) else {
            return Ok(());
        };
        if self.noted {
            return Ok(());
        }
        let started = Some(partner.started().ok_or(EOVERFLOW)?);
        self.data.record.metadata = Some(partner.starting());
        self.data.write(device)?;
        current.record.metadata = started;
        current.write(metadata)?;
        self.data.record.metadata = started;
        self.data.write(device)?;
        self.noted = true;
        Ok(())
    }
}

/// Reads a copy. One behind the end of the device is none.
#[inline(never)]
fn copy_at(device: &BlockDevice, role: DeviceRole, place: Place, buf: &mut Page) -> Result<Read> {
    if place
        .offset
        .checked_add(RECORD_BYTES as u64)
        .is_none_or(|end| end > device.size())
    {
        return Ok(Err(RecordError::Length(0)));
    }
    device.read(place.offset, &mut buf[..])?;
    Ok(Superblock::parse::<KernelCrc>(role, place, &buf[..]))
}

fn unreadable(path: &str, place: Place) -> impl FnOnce(Error) -> Error + '_ {
    move |error| {
        refuse!(
            error,
            "device {} cannot be read at {} ({:?}); see the messages of its driver",
            path,
            place.offset,
            error
        )
    }
}

fn is_of_kind(error: &RecordError, kind: RecordKind) -> bool {
    matches!(error, RecordError::Kind { found, .. } if *found == kind as u16)
}

/// Blanks second superblocks of stores that the device had before: should the first one of the new store ever be
/// lost, they would be taken for candidates. `ours` is the new one. The data area is left alone: it is zeroed as a whole, or
/// is to stay as it is. Sleeps.
pub(crate) fn forget_older(device: &BlockDevice, ours: &Superblock) -> Result {
    let mut buf = page()?;
    let end = match ours.role {
        DeviceRole::Data => ours.layout.data().offset,
        DeviceRole::Metadata => u64::MAX,
    };
    let [_, ours] = ours.places().ok_or(EINVAL)?;
    let places = Layout::second_superblocks(device.size());
    for place in places.take_while(|place| place.offset < end) {
        if place == ours {
            continue;
        }
        let mut is_superblock = false;
        for role in [DeviceRole::Data, DeviceRole::Metadata] {
            is_superblock |= copy_at(device, role, place, &mut buf)?.is_ok();
        }
        if is_superblock {
            buf.fill(0);
            device.write(place.offset, &buf[..], WriteFlags::FUA)?;
        }
    }
    Ok(())
}
