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

mod address;
mod auth;
mod batch;
mod bitmap;
mod config;
mod control;
mod crc;
mod epoch;
mod geometry;
mod header;
mod ids;
mod layout;
mod limits;
mod log;
mod merge;
mod message;
mod peer;
mod record;
mod reply;
mod request;
mod run;
mod scan;
mod status;
mod superblock;
#[cfg(test)]
mod tests;
mod unreadable;

pub use address::Address;
pub use address::ADDRESS_BYTES;
pub use address::MAX_ADDRESS_TEXT;
pub use auth::Challenge;
pub use auth::Mac;
pub use auth::MacKey;
pub use auth::Nonce;
pub use auth::Proof;
pub use auth::Response;
pub use auth::Role;
pub use auth::CHALLENGE_BYTES;
pub use auth::MAC_BYTES;
pub use auth::NONCE_BYTES;
pub use auth::PROOF_BYTES;
pub use auth::RESPONSE_BYTES;
pub use auth::TRANSCRIPT_BYTES;
pub use batch::Batch;
pub use batch::BatchEncoder;
pub use batch::EncodeError;
pub use batch::Requests;
pub use batch::MAX_BATCH;
pub use batch::MAX_BATCH_BYTES;
pub use bitmap::BitmapPage;
pub use bitmap::DirtyPage;
pub use bitmap::BITMAP_PAGE_CHUNKS;
pub use bitmap::BITMAP_PAGE_WORDS;
pub use config::Config;
pub use config::ConfigError;
pub use config::Fork;
pub use config::Quorum;
pub use control::Control;
pub use control::Fences;
pub use control::Target;
pub use control::MAX_CONTROL_BYTES;
pub use crc::crc_is_right;
pub use crc::Crc32c;
pub use epoch::EpochRecord;
pub use geometry::Geometry;
pub use geometry::GeometryError;
pub use geometry::RangeError;
pub use geometry::BLOCK_BYTES;
pub use geometry::BLOCK_SHIFT;
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
pub use layout::Area;
pub use layout::Layout;
pub use layout::LayoutError;
pub use layout::DATA_ALIGN;
pub use layout::FIRST_SUPERBLOCK;
pub use layout::LOG_BYTES;
pub use limits::Features;
pub use limits::Limits;
pub use limits::LimitsError;
pub use log::LogPage;
pub use log::EXTENT_SHIFT;
pub use log::LOG_PAGES;
pub use log::LOG_PAGE_SLOTS;
pub use log::MAX_LOG_EXTENTS;
pub use merge::Merge;
pub use merge::MAX_MARKS;
pub use merge::MAX_MERGE_BYTES;
pub use merge::MERGE_HEADER_BYTES;
pub use message::Message;
pub use peer::Ask;
pub use peer::Peer;
pub use peer::MAX_CLEAR;
pub use peer::MAX_PEER_BYTES;
pub use peer::MAX_PULL;
pub use record::pick_newest;
pub use record::relocate;
pub use record::Newest;
pub use record::PickError;
pub use record::Place;
pub use record::RecordError;
pub use record::RecordKind;
pub use record::Versioned;
pub use record::RECORD_BYTES;
pub use reply::Begun;
pub use reply::MemberReport;
pub use reply::Progress;
pub use reply::Reply;
pub use reply::Suspects;
pub use reply::MAX_SUSPECTS;
pub use reply::REPLY_BYTES;
pub use request::Flags;
pub use request::Op;
pub use request::Request;
pub use request::RequestError;
pub use request::MAX_IO;
pub use request::SECTOR_BYTES;
pub use run::Mark;
pub use run::Run;
pub use scan::is_foreign;
pub use scan::Found;
pub use scan::Scan;
pub use status::Status;
pub use superblock::DeviceRole;
pub use superblock::MetadataDevice;
pub use superblock::PartnerError;
pub use superblock::StoreState;
pub use superblock::Superblock;
pub use unreadable::BadBlock;
pub use unreadable::UnreadablePage;
pub use unreadable::UNREADABLE_BLOCKS;
pub use unreadable::UNREADABLE_SLOTS;
