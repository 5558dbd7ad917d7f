// SPDX-License-Identifier: GPL-2.0

//! `layout`: where on a storage node's device the data of a pool lies, or its metadata, read from the device itself. The tests
//! look for what was written on the very disks, without asking the code that put it there.

use crate::device::{Access, Buffer, Device};
use anyhow::{anyhow, Result};
use rmr_proto::{
    Crc32c, DeviceRole, Layout, MemberId, RecordError, Superblock, FIRST_SUPERBLOCK, RECORD_BYTES,
};
use std::io::Write;

struct Host;

impl Crc32c for Host {
    fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
        !crc32c::crc32c_append(!seed, bytes)
    }
}

/// Prints `name value` lines, sizes in bytes. Of a device with metadata alone the first one is `metadata_of`, and there is no
/// `data_offset`.
pub fn run(device: &Device, out: &mut impl Write) -> Result<()> {
    let mut buffer = Buffer::new(RECORD_BYTES);
    let bytes = buffer.bytes(RECORD_BYTES as u64);
    device.read(Access::Direct, FIRST_SUPERBLOCK.offset, bytes)?;
    let mut found = Superblock::parse::<Host>(DeviceRole::Data, FIRST_SUPERBLOCK, bytes);
    if matches!(found, Err(RecordError::Kind { .. })) {
        found = Superblock::parse::<Host>(DeviceRole::Metadata, FIRST_SUPERBLOCK, bytes);
    }
    let superblock = found.map_err(|why| anyhow!("no store: {why:?}"))?.record;
    let layout = &superblock.layout;
    let data = layout.data();
    let is_data = superblock.role == DeviceRole::Data;
    if is_data {
        writeln!(out, "pool {}", superblock.name)?;
    } else {
        writeln!(out, "metadata_of {}", superblock.name)?;
    }
    writeln!(out, "member {}", superblock.member)?;
    writeln!(out, "state {:?}", superblock.state)?;
    writeln!(out, "store {}", superblock.store)?;
    match superblock.metadata {
        None => writeln!(out, "metadata internal")?,
        Some(device) => {
            writeln!(out, "metadata {}", device.uuid)?;
            writeln!(out, "starts {}", device.starts)?;
        }
    }
    if is_data {
        writeln!(out, "data_offset {}", data.offset)?;
        writeln!(out, "data_size {}", data.len)?;
    }
    if is_data != layout.is_external() {
        records(layout, out)?;
    }
    Ok(())
}

/// Where both copies of what is no data are.
fn records(layout: &Layout, out: &mut impl Write) -> Result<()> {
    let log = layout.activity_log();
    let [epoch, other_epoch] = layout.epoch();
    writeln!(out, "metadata_size {}", layout.metadata_bytes())?;
    writeln!(out, "epoch_offset {} {}", epoch.offset, other_epoch.offset)?;
    writeln!(out, "log_offset {} {}", log[0].offset, log[1].offset)?;
    if let Some([first, second]) = MemberId::all().next().map(|id| layout.bitmap(id)) {
        writeln!(out, "bitmaps_offset {} {}", first.offset, second.offset)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmr_proto::{Geometry, MetadataDevice, StoreState, Uuid};

    const MIB: u64 = 1 << 20;

    fn superblock(layout: Layout, metadata: Option<MetadataDevice>) -> Superblock {
        Superblock {
            role: DeviceRole::Data,
            state: StoreState::Ready,
            store: Uuid([7; 16]),
            pool: Uuid::NIL,
            name: "p".parse().unwrap(),
            member: MemberId::new(2).unwrap(),
            logical_block: 512,
            layout,
            metadata,
            secret: false,
        }
    }

    fn printed(superblock: Option<&Superblock>) -> Result<String> {
        assert!(rmr_proto::crc_is_right::<Host>());
        let mut content = vec![0; MIB as usize];
        if let Some(superblock) = superblock {
            let mut page = [0; RECORD_BYTES];
            let at = superblock.encode::<Host>(1, 0, &mut page).unwrap();
            content[at.offset as usize..][..RECORD_BYTES].copy_from_slice(&page);
        }
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        std::fs::write(file.path(), content).unwrap();
        let mut out = Vec::new();
        run(&Device::open(file.path(), false).unwrap(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_device_without_a_store_is_named_as_such() {
        let error = printed(None).unwrap_err().to_string();
        assert!(error.starts_with("no store"), "{error}");
    }

    #[test]
    fn both_layouts() {
        let geometry = Geometry::new(64 * MIB, 16).unwrap();
        let head = "member 2\nstate Ready\nstore 07070707-0707-0707-0707-070707070707\n";
        let records =
            "metadata_size 12582912\nepoch_offset 8192 12574720\nlog_offset 1048576 6291456\n\
                       bitmaps_offset 5242880 10485760\n";
        let inside = superblock(Layout::compute(1 << 30, geometry).unwrap(), None);
        assert_eq!(
            printed(Some(&inside)).unwrap(),
            format!(
                "pool p\n{head}metadata internal\ndata_offset 12582912\ndata_size 67108864\n{records}"
            )
        );
        let metadata = MetadataDevice {
            uuid: Uuid([1; 16]),
            starts: 4,
        };
        let layout = Layout::compute_external(1 << 30, 1 << 30, geometry).unwrap();
        let data = superblock(layout, Some(metadata));
        let named = "metadata 01010101-0101-0101-0101-010101010101\nstarts 4\n";
        assert_eq!(
            printed(Some(&data)).unwrap(),
            format!("pool p\n{head}{named}data_offset 1048576\ndata_size 67108864\n")
        );
        assert_eq!(
            printed(data.of_metadata().as_ref()).unwrap(),
            format!("metadata_of p\n{head}{named}{records}")
        );
    }
}
