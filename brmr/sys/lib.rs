// SPDX-License-Identifier: GPL-2.0

//! Safe block layer of brmr: a blk-mq disk for the client, a block device and bios for the storage node.
//!
//! | file | noun |
//! | --- | --- |
//! | `disk` | [`Disk`]: gendisk, its limits, its life from `build` to `remove` |
//! | `driver` | [`Driver`]: what blk-mq calls |
//! | `request` | [`Request`]: one owned request in flight, its [`SgList`] |
//! | `table` | [`RequestTable`]: requests that are lent out, found again by tag |
//! | `tagset` | the blk-mq tag set |
//! | `status` | [`BlkStatus`], [`Busy`] |
//! | `bdev` | [`BlockDevice`]: an exclusively opened device, synchronous IO |
//! | `bio` | [`BioSet`]: asynchronous IO with a payload per bio |
//! | `plug` | [`plugged`] |
//! | `transport` | data of requests and operations as RTRS knows it |
//!
//! With `--cfg brmr_sys_alone`, for tests of this crate, it does without `transport`, and so without RTRS.
//!
//! Not here: anything that knows of pools, messages or stores. All `unsafe` of brmr is in this crate.

mod bdev;
mod bio;
mod disk;
mod driver;
mod ffi;
mod plug;
mod request;
mod status;
mod table;
mod tagset;
#[cfg(not(brmr_sys_alone))]
mod transport;

pub use bdev::device_number;
pub use bdev::BlockDevice;
pub use bdev::DeadWatcher;
pub use bdev::OpenError;
pub use bdev::WriteFlags;
pub use bio::BioDone;
pub use bio::BioOp;
pub use bio::BioSet;
pub use bio::DataRef;
pub use disk::Disk;
pub use disk::DiskConfig;
pub use disk::DiskDrain;
pub use driver::Driver;
pub use plug::plugged;
pub use request::Op;
pub use request::Request;
pub use request::SgList;
pub use status::BlkStatus;
pub use status::Busy;
pub use table::RequestTable;
