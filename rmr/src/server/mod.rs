// SPDX-License-Identifier: GPL-2.0

//! The server side: the pools this node is a member of, and what clients send for them.
//!
//! | file | what |
//! | --- | --- |
//! | [`pool`] | a pool on this node, and its store |
//! | [`member`] | a member that runs: the shell around the engine |
//! | [`address`] | where the other members are |
//! | [`guard`] | who may speak to a member |
//! | [`disk`] | what the engine wants of its disk |
//! | [`peer`] | the other members, as this one speaks to them |
//! | [`serving`] | a member that serves IO, as the hot path sees it |
//! | [`op`] | IO messages, from their bytes to the answer |
//! | [`listener`] | the RTRS server: takes messages in and tells them apart |
//! | [`sysfs`] | `/sys/class/rmr-server` |

pub(crate) mod address;
pub(crate) mod disk;
pub(crate) mod guard;
pub(crate) mod listener;
pub(crate) mod member;
pub(crate) mod op;
pub(crate) mod peer;
pub(crate) mod pool;
pub(crate) mod serving;
pub(crate) mod sysfs;

pub use pool::add_store;
pub use pool::check_member;
pub use pool::member_of;
pub use pool::StoreHandle;
