// SPDX-License-Identifier: GPL-2.0

//! `layout`: where on a storage node's device the data of a pool lies, read from the device itself. The tests look for
//! what was written on the very disks, without asking the code that put it there.

use crate::device::{Access, Buffer, Device};
use anyhow::{anyhow, Result};
use rmr_proto::{Crc32c, Superblock, FIRST_SUPERBLOCK, RECORD_BYTES};

struct Host;

impl Crc32c for Host {
    fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
        !crc32c::crc32c_append(!seed, bytes)
    }
}

/// Prints `name value` lines, sizes in bytes.
pub fn run(device: &Device) -> Result<()> {
    let mut buffer = Buffer::new(RECORD_BYTES);
    let bytes = buffer.bytes(RECORD_BYTES as u64);
    device.read(Access::Direct, FIRST_SUPERBLOCK.offset, bytes)?;
    let found = Superblock::parse::<Host>(FIRST_SUPERBLOCK, bytes);
    let superblock = found.map_err(|why| anyhow!("no store: {why:?}"))?.record;
    let data = superblock.layout.data();
    println!("pool {}", superblock.name);
    println!("member {}", superblock.member);
    println!("state {:?}", superblock.state);
    println!("data_offset {}", data.offset);
    println!("data_size {}", data.len);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_a_store_is_named_as_such() {
        assert!(rmr_proto::crc_is_right::<Host>());
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let device = Device::open(file.path(), false).unwrap();
        let error = run(&device).unwrap_err().to_string();
        assert!(error.starts_with("no store"), "{error}");
    }
}
