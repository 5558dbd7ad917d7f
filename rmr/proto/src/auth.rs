// SPDX-License-Identifier: GPL-2.0

//! How two sides of a connection prove to each other that they know the secret of a pool, without telling it.
//!
//! ```text
//!   asker (client, or member that pulls)              member
//!     │ Challenge: pool, role, nonce of the asker       │
//!     │ ──────────────────────────────────────────────► │
//!     │       Response: who it is, its nonce, its proof │
//!     │ ◄────────────────────────────────────────────── │
//!     │ Proof: pool, role, nonce of the asker, proof    │
//!     │ ──────────────────────────────────────────────► │
//! ```
//!
//! A proof is a MAC, with the secret as its key, over all that both know then: the [`Transcript`]. The nonce of the member is
//! the same for all challenges that come over one connection, so nothing is remembered between a challenge and a proof. Whether a
//! side must prove anything, and what follows from it, is decided elsewhere; so is what a MAC is, which is [lent](MacKey).

use crate::crc::Crc32c;
use crate::crc::Sum;
use crate::header::Kind;
use crate::header::RawHeader;
use crate::header::WireError;
use crate::header::HEADER_BYTES;
use crate::ids::MemberId;
use crate::ids::PoolName;
use crate::ids::Uuid;
use crate::ids::MAX_POOL_NAME;
use crate::reply;
use core::fmt;
use core::mem::size_of;
use zerocopy::little_endian::U16;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;

/// Bytes of a MAC: HMAC-SHA256.
pub const MAC_BYTES: usize = 32;

/// Bytes of a [`Challenge`].
pub const CHALLENGE_BYTES: usize = HEADER_BYTES + size_of::<RawAsker>();

/// Bytes of a [`Proof`].
pub const PROOF_BYTES: usize = CHALLENGE_BYTES + MAC_BYTES;

/// Bytes of a [`Response`].
pub const RESPONSE_BYTES: usize = reply::HEADER + size_of::<RawResponse>();

/// Bytes that a proof is a MAC of.
pub const TRANSCRIPT_BYTES: usize = size_of::<RawTranscript>();

/// A secret as the key of a MAC; the kernel has one, tests another.
pub trait MacKey {
    /// The MAC of `message`.
    fn mac(&self, message: &[u8]) -> [u8; MAC_BYTES];

    /// Whether two MACs are equal. Takes the same time, whatever they are.
    fn same(a: &[u8; MAC_BYTES], b: &[u8; MAC_BYTES]) -> bool;
}

/// Random bytes that are used once; not all of them zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; NONCE_BYTES]);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce")
    }
}

/// What one side proves its knowledge by. There is no `==`: [`MacKey::same`] compares.
#[derive(Clone, Copy)]
pub struct Mac(pub [u8; MAC_BYTES]);

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac")
    }
}

/// What the asker wants to be for the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Role {
    /// The client, or a host that is about to become it.
    Client = 1,
    /// Another member, which pulls.
    Peer = 2,
}

impl Role {
    const fn from_wire(wire: u16) -> Option<Self> {
        match wire {
            1 => Some(Self::Client),
            2 => Some(Self::Peer),
            _ => None,
        }
    }
}

/// Begin of a handshake, from the asker. Answered with a [`Response`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Name of the pool on the server.
    pub name: PoolName,
    /// What the asker wants to be.
    pub role: Role,
    /// The asker's nonce.
    pub nonce: Nonce,
}

/// What a member answers to a [`Challenge`].
#[derive(Clone, Copy, Debug)]
pub struct Response {
    /// UUID of the member's store; not nil.
    pub store: Uuid,
    /// Id of the member.
    pub member: MemberId,
    /// The member's nonce.
    pub nonce: Nonce,
    /// The member's proof.
    pub mac: Mac,
}

/// End of a handshake, from the asker. Answered with a status.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// Name of the pool on the server.
    pub name: PoolName,
    /// What the asker wants to be.
    pub role: Role,
    /// The asker's nonce, as in the challenge.
    pub nonce: Nonce,
    /// The asker's proof.
    pub mac: Mac,
}

/// Whose proof it is.
#[derive(Clone, Copy)]
#[repr(u16)]
enum Side {
    Member = 1,
    Asker = 2,
}

/// What is proved to whom: all of it is in every MAC, so a MAC is good for this connection, this direction, this role and this
/// member alone.
struct Transcript {
    name: PoolName,
    role: Role,
    store: Uuid,
    member: MemberId,
    asker_nonce: Nonce,
    member_nonce: Nonce,
}

/// First bytes of a transcript: no MAC over something else with the same secret is one over this.
const DOMAIN: [u8; 32] = *b"RMR pool authentication 1\0\0\0\0\0\0\0";

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct RawTranscript {
    domain: [u8; 32],
    side: U16,
    role: U16,
    member: U16,
    reserved: U16,
    store: [u8; 16],
    name: [u8; MAX_POOL_NAME + 1],
    asker_nonce: [u8; NONCE_BYTES],
    member_nonce: [u8; NONCE_BYTES],
}

impl Transcript {
    fn mac<K: MacKey>(&self, side: Side, key: &K) -> Mac {
        let raw = RawTranscript {
            domain: DOMAIN,
            side: U16::new(side as u16),
            role: U16::new(self.role as u16),
            // At most 32.
            member: U16::new(self.member.get() as u16),
            reserved: U16::ZERO,
            store: self.store.0,
            name: self.name.to_padded(),
            asker_nonce: self.asker_nonce.0,
            member_nonce: self.member_nonce.0,
        };
        Mac(key.mac(raw.as_bytes()))
    }

    fn is_right<K: MacKey>(&self, side: Side, key: &K, mac: &Mac) -> bool {
        K::same(&self.mac(side, key).0, &mac.0)
    }
}

/// Body of a challenge, and first part of that of a proof.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawAsker {
    name: [u8; MAX_POOL_NAME + 1],
    role: U16,
    reserved: [u8; 6],
    nonce: [u8; NONCE_BYTES],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawProof {
    asker: RawAsker,
    mac: [u8; MAC_BYTES],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawResponse {
    store: [u8; 16],
    member: U16,
    reserved: [u8; 6],
    nonce: [u8; NONCE_BYTES],
    mac: [u8; MAC_BYTES],
}

const _: () = {
    assert!(CHALLENGE_BYTES == 192);
    assert!(PROOF_BYTES == 224);
    assert!(RESPONSE_BYTES == 112);
    assert!(TRANSCRIPT_BYTES == 184);
};

fn check_nonce(nonce: &Nonce) -> Result<(), WireError> {
    if nonce.0 == [0; NONCE_BYTES] {
        return Err(WireError::Missing("nonce"));
    }
    Ok(())
}

impl RawAsker {
    fn new(name: &PoolName, role: Role, nonce: &Nonce) -> Result<Self, WireError> {
        check_nonce(nonce)?;
        Ok(Self {
            name: name.to_padded(),
            role: U16::new(role as u16),
            reserved: [0; 6],
            nonce: nonce.0,
        })
    }

    fn get(&self) -> Result<Challenge, WireError> {
        if self.reserved != [0; 6] {
            return Err(WireError::Reserved);
        }
        let nonce = Nonce(self.nonce);
        check_nonce(&nonce)?;
        let role = self.role.get();
        Ok(Challenge {
            name: PoolName::from_padded(&self.name)?,
            role: Role::from_wire(role).ok_or(WireError::Role(role))?,
            nonce,
        })
    }
}

/// Writes a message of `kind` with `body`.
fn seal<C: Crc32c, const N: usize>(kind: Kind, body: &[u8], buf: &mut [u8; N]) {
    // At most 224.
    let mut raw = RawHeader::new(kind, N as u32);
    raw.seal::<C>(&Sum::of::<C>(body));
    for (to, from) in buf.iter_mut().zip(raw.as_bytes().iter().chain(body)) {
        *to = *from;
    }
}

/// The header and body of a message of `right`.
fn open<C: Crc32c>(bytes: &[u8], right: Kind) -> Result<(&RawHeader, &[u8]), WireError> {
    let (raw, kind, body) = RawHeader::open::<C>(bytes)?;
    if kind != right {
        return Err(WireError::Kind(kind.wire()));
    }
    Ok((raw, body))
}

/// The body of a message, whose header has nothing but what all have.
fn body_of<'a, T>(raw: &RawHeader, body: &'a [u8], right: usize) -> Result<&'a T, WireError>
where
    T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
{
    let length = WireError::Length {
        said: raw.len.get(),
        right,
    };
    let body = T::ref_from_bytes(body).map_err(|_| length)?;
    if !raw.is_bare() {
        return Err(WireError::Reserved);
    }
    Ok(body)
}

impl Challenge {
    /// Writes the message into `buf`. Fails rather than let a senseless one out.
    pub fn encode<C: Crc32c>(&self, buf: &mut [u8; CHALLENGE_BYTES]) -> Result<(), WireError> {
        let body = RawAsker::new(&self.name, self.role, &self.nonce)?;
        seal::<C, CHALLENGE_BYTES>(Kind::Challenge, body.as_bytes(), buf);
        Ok(())
    }

    /// Checks `bytes`, which are untrusted, as one whole message.
    pub fn parse<C: Crc32c>(bytes: &[u8]) -> Result<Self, WireError> {
        let (raw, body) = open::<C>(bytes, Kind::Challenge)?;
        Self::from_parts(raw, body)
    }

    pub(crate) fn from_parts(raw: &RawHeader, body: &[u8]) -> Result<Self, WireError> {
        body_of::<RawAsker>(raw, body, CHALLENGE_BYTES)?.get()
    }

    /// What the member `member` with the store `store` answers, over a connection with this nonce.
    pub fn respond<K: MacKey>(
        &self,
        key: &K,
        store: Uuid,
        member: MemberId,
        nonce: Nonce,
    ) -> Response {
        let transcript = self.transcript(store, member, nonce);
        Response {
            store,
            member,
            nonce,
            mac: transcript.mac(Side::Member, key),
        }
    }

    /// What is to be said after this answer; `None` if whoever gave it does not know the secret. If so, `response` says who it is.
    pub fn prove<K: MacKey>(&self, key: &K, response: &Response) -> Option<Proof> {
        let transcript = self.transcript(response.store, response.member, response.nonce);
        transcript
            .is_right(Side::Member, key, &response.mac)
            .then(|| Proof {
                name: self.name,
                role: self.role,
                nonce: self.nonce,
                mac: transcript.mac(Side::Asker, key),
            })
    }

    fn transcript(&self, store: Uuid, member: MemberId, nonce: Nonce) -> Transcript {
        Transcript {
            name: self.name,
            role: self.role,
            store,
            member,
            asker_nonce: self.nonce,
            member_nonce: nonce,
        }
    }
}

impl Proof {
    /// Writes the message into `buf`. Fails rather than let a senseless one out.
    pub fn encode<C: Crc32c>(&self, buf: &mut [u8; PROOF_BYTES]) -> Result<(), WireError> {
        let body = RawProof {
            asker: RawAsker::new(&self.name, self.role, &self.nonce)?,
            mac: self.mac.0,
        };
        seal::<C, PROOF_BYTES>(Kind::Proof, body.as_bytes(), buf);
        Ok(())
    }

    /// Checks `bytes`, which are untrusted, as one whole message. Whether it proves anything is another question:
    /// [`is_right`](Self::is_right).
    pub fn parse<C: Crc32c>(bytes: &[u8]) -> Result<Self, WireError> {
        let (raw, body) = open::<C>(bytes, Kind::Proof)?;
        Self::from_parts(raw, body)
    }

    pub(crate) fn from_parts(raw: &RawHeader, body: &[u8]) -> Result<Self, WireError> {
        let body = body_of::<RawProof>(raw, body, PROOF_BYTES)?;
        let Challenge { name, role, nonce } = body.asker.get()?;
        Ok(Self {
            name,
            role,
            nonce,
            mac: Mac(body.mac),
        })
    }

    /// Whether whoever sent it knows the secret, is told to the member `member` with the store `store`, over a connection with this
    /// nonce.
    pub fn is_right<K: MacKey>(
        &self,
        key: &K,
        store: Uuid,
        member: MemberId,
        nonce: Nonce,
    ) -> bool {
        let challenge = Challenge {
            name: self.name,
            role: self.role,
            nonce: self.nonce,
        };
        let transcript = challenge.transcript(store, member, nonce);
        transcript.is_right(Side::Asker, key, &self.mac)
    }
}

impl Response {
    /// Writes the reply into `buf`. Fails rather than let a senseless one out.
    pub fn encode<C: Crc32c>(&self, buf: &mut [u8; RESPONSE_BYTES]) -> Result<(), WireError> {
        self.check()?;
        let raw = RawResponse {
            store: self.store.0,
            // At most 32.
            member: U16::new(self.member.get() as u16),
            reserved: [0; 6],
            nonce: self.nonce.0,
            mac: self.mac.0,
        };
        reply::body_mut(buf, size_of::<RawResponse>())?.copy_from_slice(raw.as_bytes());
        reply::seal::<C>(Kind::Challenge, size_of::<RawResponse>(), buf).map(|_| ())
    }

    /// Checks `bytes`, which are untrusted, as such a reply; what follows it is not looked at.
    pub fn parse<C: Crc32c>(bytes: &[u8]) -> Result<Self, WireError> {
        let body = reply::open_ok::<C>(bytes, Kind::Challenge)?;
        let length = WireError::Length {
            said: reply::len_of(reply::HEADER + body.len()),
            right: RESPONSE_BYTES,
        };
        let raw = RawResponse::ref_from_bytes(body).map_err(|_| length)?;
        if raw.reserved != [0; 6] {
            return Err(WireError::Reserved);
        }
        let id = raw.member.get();
        let response = Self {
            store: Uuid(raw.store),
            member: MemberId::new(u32::from(id)).ok_or(WireError::Member(id))?,
            nonce: Nonce(raw.nonce),
            mac: Mac(raw.mac),
        };
        response.check()?;
        Ok(response)
    }

    fn check(&self) -> Result<(), WireError> {
        if self.store.is_nil() {
            return Err(WireError::Missing("store UUID"));
        }
        check_nonce(&self.nonce)
    }
}
