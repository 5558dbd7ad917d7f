// SPDX-License-Identifier: GPL-2.0

//! BRMR: block devices on RMR pools.
//!
//! On the client, [`client`] maps a pool as `/dev/brmrN` ([`disk`]). On a storage node, [`server`] keeps a
//! member's data on a local block device ([`store`]). Replication is `rmr`'s.

use kernel::prelude::*;
use rmr_sys::tree::Tree;

mod client;
mod disk;
mod server;
mod store;
mod superblock;

module! {
    type: Brmr,
    name: "brmr",
    authors: ["The RMR project"],
    description: "Block devices on RMR pools",
    license: "GPL",
}

struct Brmr {
    _client: Tree<client::Registry>,
    _server: Tree<server::Registry>,
    /// Last: waits until no disk of this module is left.
    _drain: brmr_sys::DiskDrain,
}

impl kernel::Module for Brmr {
    fn init(module: &'static ThisModule) -> Result<Self> {
        Ok(Self {
            _client: client::tree()?,
            _server: server::tree(module)?,
            _drain: brmr_sys::DiskDrain::new(),
        })
    }
}
