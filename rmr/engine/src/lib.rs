// SPDX-License-Identifier: GPL-2.0

//! All decisions of the RMR replication engine, and nothing else.
//!
//! No IO, no clock, no allocation, no unsafe code: time comes in as a number, memory is lent by the caller,
//! actions go out as values. The same source lines run in the kernel, in host tests and in the simulator.
//!
//! | module | side | decides |
//! | --- | --- | --- |
//! | [`client`] | client | all of one volume: attach, epochs, who is in sync, when requests are complete |
//! | [`overlap`] | client | which requests may be in flight together (R3) |
//! | [`window`] | client | sequence numbers of writes, the watermark |
//! | [`lane`] | client | when requests leave, and how many in one message |
//! | [`anticipation`] | client | whether a lane that became idle waits for more |
//! | [`readers`] | client | which member answers a read (R4) |
//! | [`admission`] | member | whether a message is for this member, as it is now (R5) |
//! | [`dedupe`] | member | at most one execution of each write (R5) |
//! | [`storage`] | member | all of the above, epochs, dirty bitmaps, activity log, resync |
//! | [`options`] | both | command lines of the administrator |
//! | [`sync`] | both | atomics and the lock interface |
//! | [`time`], [`memory`] | both | what the caller provides: moments, memory |
//! | [`planted`] | both | bugs to be found by the simulator; never in a kernel |
//!
//! [`client`] and [`storage`] are the two halves that decide; the kernel modules and the simulator run the same.

#![cfg_attr(not(CONFIG_RUST), no_std)]
#![forbid(unsafe_code)]

#[cfg(not(CONFIG_RUST))]
extern crate std;

pub mod admission;
pub mod anticipation;
pub mod client;
pub mod dedupe;
pub mod lane;
pub mod memory;
pub mod options;
pub mod overlap;
pub mod planted;
pub mod readers;
pub mod storage;
pub mod sync;
pub mod time;
pub mod window;
