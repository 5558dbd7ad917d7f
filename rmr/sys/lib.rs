// SPDX-License-Identifier: GPL-2.0

//! What `rmr` and `brmr` need of the kernel and the kernel crate does not have, behind safe
//! interfaces.
//!
//! | file | noun |
//! | --- | --- |
//! | [`sysfs`] | classes, directories and their attributes |
//! | [`tree`] | a class with its commands and the registry they work on |
//! | [`gate`] | an object published to hot paths, and taken back when nobody uses it any more |
//! | [`global`] | a static that holds an `Arc` |
//! | [`slots`] | a table of things that are lent out one by one; a cell that keeps a box |
//! | [`leases`] | a table of things that several hold at a time |
//! | [`work`] | own workqueues, jobs that run on them now, later or again and again |
//! | [`timer`] | functions that run in softirq after some microseconds |
//! | [`lock`] | the spinlock that every context may take, alone and in arrays |
//! | [`percpu`] | one thing for each CPU, counters |
//! | [`wait`] | waiting for an event or a condition, with a limit |
//! | [`padded`] | a value with cache lines of its own |
//! | [`key`], [`hmac`] | keys of the keyring, and MACs made with them |
//! | [`bh`], [`crc`], [`log`], [`module`], [`noio`], [`rand`], [`time`] | small ones |
//!
//! Not here: anything that knows of pools, messages or stores, RTRS (crate `rtrs`) and the block
//! layer (crate `brmr_sys`).
//!
//! Generic code is compiled into whichever module uses it, the rest is part of `rmr.ko`; nothing
//! here depends on which of the two it is in.

pub mod bh;
pub mod crc;
mod ffi;
pub mod gate;
pub mod global;
pub mod hmac;
pub mod key;
pub mod leases;
pub mod lock;
pub mod log;
pub mod module;
pub mod noio;
pub mod padded;
pub mod percpu;
pub mod rand;
pub mod slots;
pub mod sysfs;
pub mod time;
pub mod timer;
pub mod tree;
pub mod wait;
pub mod work;

/// What the lines of this crate in the log begin with.
const __LOG_PREFIX: &[u8] = b"rmr\0";
