// SPDX-License-Identifier: GPL-2.0

//! Any message a member can get.

use crate::address::Address;
use crate::auth::Challenge;
use crate::auth::Proof;
use crate::batch::Batch;
use crate::control::Control;
use crate::crc::Crc32c;
use crate::header::Kind;
use crate::header::RawHeader;
use crate::header::WireError;
use crate::merge::Merge;
use crate::peer::Peer;

/// A message that was received and checked.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is no allocation here, and few are ever alive"
)]
pub enum Message<'a> {
    /// A batch of requests.
    Io(Batch<'a>),
    /// A control message.
    Control(Control),
    /// Chunks for dirty bitmaps.
    Merge(Merge<'a>),
    /// Where another member is.
    Address(Address<'a>),
    /// Begin of a handshake.
    Challenge(Challenge),
    /// End of a handshake.
    Proof(Proof),
    /// From another member.
    Peer(Peer<'a>),
}

impl<'a> Message<'a> {
    /// Checks `bytes`, which are untrusted, as one whole message of any kind. On the IO path prefer
    /// [`Batch::parse`], whose result is small.
    pub fn parse<C: Crc32c>(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (raw, kind, body) = RawHeader::open::<C>(bytes)?;
        match kind {
            Kind::IoWrite | Kind::IoRead => Batch::from_parts(raw, kind, body).map(Self::Io),
            Kind::Merge => Merge::from_parts(raw, body).map(Self::Merge),
            Kind::Address => Address::from_parts(raw, body).map(Self::Address),
            Kind::Challenge => Challenge::from_parts(raw, body).map(Self::Challenge),
            Kind::Proof => Proof::from_parts(raw, body).map(Self::Proof),
            Kind::FetchDirty | Kind::Pull | Kind::Clear | Kind::Begun => {
                Peer::from_parts(raw, kind, body).map(Self::Peer)
            }
            Kind::Query | Kind::Promise | Kind::Install | Kind::Detach | Kind::Ping => {
                Control::from_parts(raw, kind, body).map(Self::Control)
            }
        }
    }
}
