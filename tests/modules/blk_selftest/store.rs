// SPDX-License-Identifier: GPL-2.0

//! Tests of `BlockDevice`: errors of open, synchronous IO.

use crate::attempt;
use crate::check;
use crate::ram;
use crate::ram::RamDisk;
use crate::task::Opened;
use brmr_sys::BlockDevice;
use brmr_sys::DiskConfig;
use brmr_sys::OpenError;
use brmr_sys::WriteFlags;
use kernel::prelude::*;

const SIZE: u64 = 64 << 20;

pub(crate) fn open_errors() -> Result {
    let open = |path: &CStr| Opened::new(path, None).map(drop);
    check!(open(c"/dev/no_such_device") == Err(OpenError::Absent));
    check!(open(c"/dev/null/x") == Err(OpenError::Absent));
    check!(open(c"/dev/null") == Err(OpenError::NotBlockDevice));
    check!(open(c"/dev") == Err(OpenError::NotBlockDevice));
    let disk = attempt!(RamDisk::new(c"blktest0", SIZE, ram::LATER));
    attempt!(disk.add());
    let device = attempt!(Opened::new(c"/dev/blktest0", None));
    check!(open(c"/dev/blktest0") == Err(OpenError::InUse));
    check!(device.logical_block() == 512 && device.physical_block() == 4096);
    check!(device.write_cache() && device.fua() && !device.rotational() && !device.dead());
    check!(device.max_io() == 124 << 10 && device.max_segments() == 32);
    check!(device.max_discard() == 16 << 20 && device.max_write_zeroes() == 16 << 20);
    check!(device.discard_granularity() == 4096 && device.dev() != 0);
    let config = DiskConfig {
        read_only: true,
        write_cache: false,
        max_discard: 0,
        max_write_zeroes: 0,
        ..RamDisk::config(c"blktest1", SIZE)
    };
    let fixed = attempt!(RamDisk::with(ram::LATER, &config));
    attempt!(fixed.add());
    check!(open(c"/dev/blktest1") == Err(OpenError::ReadOnly));
    Ok(())
}

/// Blocks of 4 KiB, no cache, no discard, a disk that seeks.
pub(crate) fn big_blocks() -> Result {
    let config = DiskConfig {
        name: c"blktest0",
        capacity: SIZE,
        logical_block: 4096,
        io_opt: 65536,
        max_io: 64 << 10,
        max_segments: 17,
        rotational: true,
        stable_writes: false,
        ..DiskConfig::default()
    };
    let disk = attempt!(RamDisk::with(ram::LATER, &config));
    attempt!(disk.add());
    let device = attempt!(Opened::new(c"/dev/blktest0", None));
    check!(device.logical_block() == 4096 && device.io_opt() == 65536 && device.io_min() == 4096);
    check!(device.rotational() && !device.write_cache() && !device.fua());
    check!(device.max_io() == 64 << 10 && device.max_segments() == 17);
    check!(device.max_discard() == 0 && device.max_write_zeroes() == 0);
    check!(device.read(512, &mut [0; 4096]) == Err(EINVAL));
    check!(device.read(0, &mut [0; 512]) == Err(EINVAL));
    let mut a = VVec::from_elem(0u8, 1 << 20, GFP_KERNEL)?;
    let mut b = VVec::from_elem(0u8, 1 << 20, GFP_KERNEL)?;
    attempt!(verify(&device, 8192, &mut a, &mut b, 5));
    // Without write-zeroes, zeroes are written; without a cache, nothing is flushed.
    attempt!(device.zeroout(0, 4 << 20, true, |_| Ok(())));
    attempt!(device.read(8192, &mut a));
    check!(a.iter().all(|&byte| byte == 0));
    attempt!(device.write(0, &[1; 4096], WriteFlags::PREFLUSH_FUA));
    attempt!(device.flush());
    let stats = &disk.disk.driver().stats;
    check!(
        ram::get(&stats.zeroes) == 0 && ram::get(&stats.flushes) == 0 && ram::get(&stats.fua) == 0
    );
    check!(ram::get(&stats.longest) == 64 << 10 && ram::get(&stats.segments) <= 17);
    Ok(())
}

fn pattern(buf: &mut [u8], seed: usize) {
    for (i, byte) in buf.iter_mut().enumerate() {
        *byte = ((i.wrapping_mul(31) >> 3)
            .wrapping_add(i / 512)
            .wrapping_add(seed)) as u8;
    }
}

fn verify(device: &BlockDevice, at: u64, from: &mut [u8], to: &mut [u8], seed: usize) -> Result {
    pattern(from, seed);
    attempt!(device.write(at, from, WriteFlags::NONE));
    to.fill(0);
    attempt!(device.read(at, to));
    check!(from == to);
    Ok(())
}

pub(crate) fn synchronous(mode: u32) -> Result {
    let disk = attempt!(RamDisk::new(c"blktest0", SIZE, mode));
    attempt!(disk.add());
    let device = attempt!(Opened::new(c"/dev/blktest0", None));
    // Directly mapped, vmalloc'ed, on the stack, and not aligned for DMA.
    let mut a = KVec::from_elem(0u8, 128 << 10, GFP_KERNEL)?;
    let mut b = KVec::from_elem(0u8, 128 << 10, GFP_KERNEL)?;
    attempt!(verify(&device, 0, &mut a, &mut b, 1));
    let mut c = VVec::from_elem(0u8, 3 << 20, GFP_KERNEL)?;
    let mut d = VVec::from_elem(0u8, 3 << 20, GFP_KERNEL)?;
    attempt!(verify(&device, 1 << 20, &mut c, &mut d, 2));
    attempt!(verify(
        &device,
        SIZE - 1024,
        &mut [0; 1024],
        &mut [0; 1024],
        3
    ));
    let (Some(x), Some(y)) = (a.get_mut(100..4196), b.get_mut(7..4103)) else {
        return Err(EINVAL);
    };
    attempt!(verify(&device, 512, x, y, 4));
    // Neighbours are untouched: block 0 still has seed 1.
    pattern(&mut a, 1);
    attempt!(device.read(0, &mut b));
    check!(a.get(..512) == b.get(..512) && a.get(8192..) == b.get(8192..));

    check!(device.read(1, &mut [0; 512]) == Err(EINVAL));
    check!(device.read(0, &mut [0; 100]) == Err(EINVAL));
    check!(device.read(0, &mut []) == Err(EINVAL));
    check!(device.read(SIZE, &mut [0; 512]) == Err(EINVAL));
    check!(device.write(u64::MAX - 511, &[0; 512], WriteFlags::NONE) == Err(EINVAL));

    let stats = &disk.disk.driver().stats;
    let flushes = ram::get(&stats.flushes);
    attempt!(device.flush());
    check!(ram::get(&stats.flushes) == flushes + 1);
    let fua = ram::get(&stats.fua);
    attempt!(device.write(0, &[0; 4096], WriteFlags::FUA));
    check!(ram::get(&stats.fua) == fua + 1 && ram::get(&stats.flushes) == flushes + 1);
    attempt!(device.write(0, &[0; 4096], WriteFlags::PREFLUSH_FUA));
    check!(ram::get(&stats.fua) == fua + 2 && ram::get(&stats.flushes) == flushes + 2);

    disk.disk
        .driver()
        .bad
        .store(true, kernel::sync::atomic::ordering::Relaxed);
    let error = device.read(ram::BAD_BYTE & !4095, &mut a);
    check!(matches!(error, Err(e) if e.to_errno() == -61));
    disk.disk
        .driver()
        .bad
        .store(false, kernel::sync::atomic::ordering::Relaxed);
    check!(ram::get(&stats.overlong) == 0);
    Ok(())
}

pub(crate) fn zeroout() -> Result {
    let disk = attempt!(RamDisk::new(c"blktest0", SIZE, ram::LATER));
    attempt!(disk.add());
    let device = attempt!(Opened::new(c"/dev/blktest0", None));
    let mut a = KVec::from_elem(0xA5u8, 128 << 10, GFP_KERNEL)?;
    for unmap in [true, false] {
        for at in [0, (32 << 20) - 4096, SIZE - (128 << 10)] {
            a.fill(0xA5);
            attempt!(device.write(at, &a, WriteFlags::NONE));
        }
        let mut last = 0;
        let len = SIZE - 8192;
        attempt!(device.zeroout(4096, len, unmap, |done| {
            check!(done > last);
            last = done;
            Ok(())
        }));
        check!(last == len);
        for (at, first, rest) in [
            (0, 0xA5, 0),
            ((32 << 20) - 4096, 0, 0),
            (SIZE - 4096, 0xA5, 0xA5),
        ] {
            let len = (SIZE - at).min(128 << 10) as usize;
            let Some(a) = a.get_mut(..len) else {
                return Err(EINVAL);
            };
            attempt!(device.read(at, a));
            check!(a.iter().take(4096).all(|&b| b == first));
            check!(a.iter().skip(4096).all(|&b| b == rest));
        }
    }
    check!(device.zeroout(0, 4096, true, |_| Err(EINTR)) == Err(EINTR));
    check!(device.zeroout(0, SIZE + 4096, true, |_| Ok(())) == Err(EINVAL));
    check!(device.zeroout(100, 4096, true, |_| Ok(())) == Err(EINVAL));
    Ok(())
}
