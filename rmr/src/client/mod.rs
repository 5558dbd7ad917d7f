// SPDX-License-Identifier: GPL-2.0

//! The client side: pools that this host has joined, the sessions to their members, and the data path.
//!
//! | file | what |
//! | --- | --- |
//! | [`volume`] | what other modules use: an opened pool |
//! | [`pool`] | a joined pool: its members, opening and closing the volume |
//! | [`session`] | one session to a node, shared by pools |
//! | [`access`] | one member reached over a session, and whether that may be used |
//! | [`control`] | a question to a node before it is part of anything |
//! | [`handshake`] | proves to a node that this host knows a secret, and asks for the same |
//! | [`core`] | the data path: requests |
//! | [`lane`] | the data path: batches and messages |
//! | [`leg`] | the data path: one member |
//! | [`driver`] | the engine's coordinator, and what it is told |
//! | [`outbox`], [`calls`] | what it wants done; its messages |
//! | [`renewal`] | when what a node has proved is worth nothing any more |
//! | [`introduction`] | tells nodes where the others are |
//! | [`tags`], [`sending`] | queues of requests; what is sent of one |
//! | [`sysfs`] | `/sys/class/rmr-client` |

pub(crate) mod access;
pub(crate) mod calls;
pub(crate) mod control;
pub(crate) mod core;
pub(crate) mod driver;
pub(crate) mod handshake;
pub(crate) mod introduction;
pub(crate) mod lane;
pub(crate) mod leg;
pub(crate) mod outbox;
pub(crate) mod pool;
pub(crate) mod registry;
pub(crate) mod renewal;
pub(crate) mod sending;
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
pub use volume::VolumeState;
