// SPDX-License-Identifier: GPL-2.0

//! The client side: pools that this host has joined, the sessions to their members, and the data path.
//!
//! | file | what |
//! | --- | --- |
//! | [`volume`] | what other modules use: an opened pool |
//! | [`pool`] | a joined pool: its members, attaching to them and detaching |
//! | [`session`] | one RTRS session to a node, shared by pools |
//! | [`control`] | control messages and their replies |
//! | [`core`] | the data path: requests |
//! | [`lane`] | the data path: batches and messages |
//! | [`exception`] | the data path: what failed or must wait |
//! | [`tags`] | queues of requests |
//! | [`sysfs`] | `/sys/class/rmr-client` |

pub(crate) mod control;
pub(crate) mod core;
pub(crate) mod exception;
pub(crate) mod lane;
pub(crate) mod pool;
pub(crate) mod registry;
pub(crate) mod session;
pub(crate) mod sysfs;
pub(crate) mod tags;
pub mod volume;

pub use pool::MAX_DEPTH;
pub use volume::Consumer;
pub use volume::Io;
pub use volume::IoData;
pub use volume::IoOp;
pub use volume::Volume;
pub use volume::VolumeLimits;
