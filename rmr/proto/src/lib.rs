// SPDX-License-Identifier: GPL-2.0

//! Wire messages and on-disk records of RMR: bytes to validated types and back.
//!
//! Everything that comes from a peer or a disk is checked here, completely, before any of it is handed
//! out; what this crate returns can be used without further thought about its form. Raw structures stay
//! private. `docs/protocol.md` and `docs/on-disk-format.md` say the same in prose, with the offsets.
//!
//! Not here: decisions (which configuration follows, what is admitted), IO, time, memory allocation. All
//! functions may be called in any context.

#![cfg_attr(not(CONFIG_RUST), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(test)]
extern crate std;

mod batch;
mod config;
mod crc;
mod geometry;
mod header;
mod ids;
mod limits;
mod request;
mod status;

pub use batch::Batch;
pub use batch::BatchEncoder;
pub use batch::EncodeError;
pub use batch::Requests;
pub use batch::MAX_BATCH;
pub use batch::MAX_BATCH_BYTES;
pub use config::Config;
pub use config::ConfigError;
pub use crc::crc_is_right;
pub use crc::Crc32c;
pub use geometry::Geometry;
pub use geometry::GeometryError;
pub use geometry::RangeError;
pub use geometry::BLOCK_BYTES;
pub use geometry::MAX_VOLUME_BYTES;
pub use header::Header;
pub use header::Kind;
pub use header::WireError;
pub use header::HEADER_BYTES;
pub use header::PROTOCOL_VERSION;
pub use ids::Epoch;
pub use ids::Generation;
pub use ids::Incarnation;
pub use ids::MemberId;
pub use ids::MemberSet;
pub use ids::Members;
pub use ids::NameError;
pub use ids::PoolName;
pub use ids::Seq;
pub use ids::Uuid;
pub use ids::UuidError;
pub use ids::MAX_MEMBERS;
pub use ids::MAX_POOL_NAME;
pub use limits::Features;
pub use limits::Limits;
pub use limits::LimitsError;
pub use request::Flags;
pub use request::Op;
pub use request::Request;
pub use request::RequestError;
pub use request::MAX_IO;
pub use request::SECTOR_BYTES;
pub use status::Status;
