// SPDX-License-Identifier: GPL-2.0

//! The message by which a client tells a member where the node of another one is, so that nobody else has to.
//!
//! It changes nothing but ways, so it does no harm when it comes late, twice, or from a client of long ago. The addresses are
//! those of the transport, as text; this crate does not know what is in them.

use crate::crc::Crc32c;
use crate::crc::Sum;
use crate::header::Kind;
use crate::header::RawHeader;
use crate::header::WireError;
use crate::header::HEADER_BYTES;
use crate::ids::MemberId;
use crate::ids::PoolName;
use crate::ids::MAX_POOL_NAME;
use core::mem::size_of;
use zerocopy::little_endian::U32;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Bytes of the longest text: eight addresses of RTRS, and blanks.
pub const MAX_ADDRESS_TEXT: usize = 680;

/// Bytes of an [`Address`].
pub const ADDRESS_BYTES: usize = HEADER_BYTES + size_of::<RawAddress>();

/// Where the node of a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// Name of the pool on the server.
    pub name: PoolName,
    /// The member that is there.
    pub of: MemberId,
    /// Its addresses, one for each path, separated by blanks; printable ASCII, 1 to [`MAX_ADDRESS_TEXT`] bytes.
    pub text: &'a str,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawAddress {
    name: [u8; MAX_POOL_NAME + 1],
    of: U32,
    len: U32,
    text: [u8; MAX_ADDRESS_TEXT],
}

const _: () = assert!(ADDRESS_BYTES == 840);

impl<'a> Address<'a> {
    /// Writes the message into `buf`. Fails rather than let a senseless one out.
    pub fn encode<C: Crc32c>(&self, buf: &mut [u8; ADDRESS_BYTES]) -> Result<(), WireError> {
        check_text(self.text.as_bytes())?;
        let mut raw = RawHeader::new(Kind::Address, ADDRESS_BYTES as u32);
        let mut body = RawAddress {
            name: self.name.to_padded(),
            of: U32::new(self.of.get()),
            // At most 680.
            len: U32::new(self.text.len() as u32),
            text: [0; MAX_ADDRESS_TEXT],
        };
        let (place, _) = (body.text)
            .split_at_mut_checked(self.text.len())
            .ok_or(WireError::Reserved)?;
        place.copy_from_slice(self.text.as_bytes());
        raw.seal::<C>(&Sum::of::<C>(body.as_bytes()));
        let (head, tail) = buf.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(raw.as_bytes());
        tail.copy_from_slice(body.as_bytes());
        Ok(())
    }

    /// Checks `bytes`, which are untrusted, as one whole message.
    pub fn parse<C: Crc32c>(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (raw, kind, body) = RawHeader::open::<C>(bytes)?;
        if kind != Kind::Address {
            return Err(WireError::Kind(kind.wire()));
        }
        Self::from_parts(raw, body)
    }

    pub(crate) fn from_parts(raw: &RawHeader, body: &'a [u8]) -> Result<Self, WireError> {
        let length = WireError::Length {
            said: raw.len.get(),
            right: ADDRESS_BYTES,
        };
        let body = RawAddress::ref_from_bytes(body).map_err(|_| length)?;
        if !raw.is_bare() {
            return Err(WireError::Reserved);
        }
        let of = body.of.get();
        let len = usize::try_from(body.len.get()).unwrap_or(usize::MAX);
        let (text, rest) = body.text.split_at_checked(len).ok_or(WireError::Text)?;
        check_text(text)?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(WireError::Reserved);
        }
        Ok(Self {
            name: PoolName::from_padded(&body.name)?,
            // A number that does not fit is none, either.
            of: MemberId::new(of).ok_or(WireError::Member(of.min(u16::MAX.into()) as u16))?,
            text: core::str::from_utf8(text).map_err(|_| WireError::Text)?,
        })
    }
}

fn check_text(text: &[u8]) -> Result<(), WireError> {
    let fits = text.len() <= MAX_ADDRESS_TEXT && text.iter().any(u8::is_ascii_graphic);
    if fits && text.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        Ok(())
    } else {
        Err(WireError::Text)
    }
}
