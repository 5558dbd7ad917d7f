// SPDX-License-Identifier: GPL-2.0

//! RMR: reliable multicast of block IO over RTRS.
//!
//! This crate is the shell around the engine (`rmr_engine`): it moves data and messages, keeps records on
//! stores, and translates the engine's decisions. Other modules use it through [`client::Volume`] (to do
//! IO on a pool) and [`store::Store`] with [`server::add_store`] (to keep the data of a pool's member).

use kernel::prelude::*;
use rmr_sys::tree::Tree;

pub mod client;
mod memory;
pub mod refuse;
pub mod secret;
pub mod server;
pub mod store;

module! {
    type: Rmr,
    name: "rmr",
    authors: ["The RMR project"],
    description: "Reliable multicast of block IO over RTRS",
    license: "GPL",
}

/// The loaded module. Callers of its functions keep it loaded, so when it goes no pool has a volume and no
/// store is attached.
struct Rmr {
    // Dropped first: its pools have sessions to other nodes, which are the client's.
    _server: Tree<server::pool::Registry>,
    _client: Tree<client::registry::Registry>,
}

impl kernel::Module for Rmr {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        if !rmr_proto::crc_is_right::<rmr_sys::crc::KernelCrc>() {
            pr_err!("the kernel's crc32c is not the one of the wire and disk formats\n");
            return Err(EINVAL);
        }
        let client = client::sysfs::tree()?;
        Ok(Self {
            _server: server::sysfs::tree()?,
            _client: client,
        })
    }
}
