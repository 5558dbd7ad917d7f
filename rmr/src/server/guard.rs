// SPDX-License-Identifier: GPL-2.0

//! Who may speak to a member whose store requires a secret.
//!
//! A [`Guard`] belongs to a store as long as that is attached. A session that has proved to know the secret gets a pass from it,
//! which is good for one [`Role`], and as long as session and guard last. Passes are found by a number that the guard has, without
//! a lock. Nothing is kept of a handshake that is not finished: the nonce of this side is that of the session.

use super::listener::Session;
use crate::refuse;
use crate::secret::Secret;
use crate::store::StoreInfo;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use rmr_proto::Challenge;
use rmr_proto::MemberId;
use rmr_proto::Nonce;
use rmr_proto::PoolName;
use rmr_proto::Proof;
use rmr_proto::Response;
use rmr_proto::Role;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::NONCE_BYTES;
use rmr_sys::pr_warn_limited;
use rmr_sys::rand;

/// Stores that require a secret, at a time: as many as a node can serve.
const PLACES: usize = 256;

/// Places that are taken, by bit.
static TAKEN: [Atomic<u64>; PLACES / 64] = [const { Atomic::new(0) }; PLACES / 64];

/// Guards there have been.
static GUARDS: Atomic<u64> = Atomic::new(0);

/// Bits of a pass that say for which roles it is.
const ROLES: u32 = 2;

const fn bit(role: Role) -> u64 {
    match role {
        Role::Client => 1,
        Role::Peer => 2,
    }
}

/// A number below [`PLACES`] that nobody else has.
struct Place(usize);

impl Place {
    fn take() -> Option<Self> {
        for (index, word) in TAKEN.iter().enumerate() {
            let mut old = word.load(Relaxed);
            while old != u64::MAX {
                let free = old.trailing_ones() as usize;
                match word.cmpxchg(old, old | 1 << free, Full) {
                    Ok(_) => return Some(Self(index * 64 + free)),
                    Err(now) => old = now,
                }
            }
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(word) = TAKEN.get(self.0 / 64) else {
            return;
        };
        let mut old = word.load(Relaxed);
        while let Err(now) = word.cmpxchg(old, old & !(1 << (self.0 % 64)), Full) {
            old = now;
        }
    }
}

/// See the head of the file.
pub(crate) struct Guard {
    pool: PoolName,
    store: Uuid,
    member: MemberId,
    secret: Arc<Secret>,
    place: Place,
    /// No other guard has, or had, this number: a pass of one that had the place before is none.
    number: u64,
}

impl Guard {
    /// The guard of a store; `None` if it requires no secret.
    pub(crate) fn of(info: &StoreInfo) -> Result<Option<Arc<Self>>> {
        let Some(secret) = &info.secret else {
            return Ok(None);
        };
        let place = Place::take().ok_or_else(|| {
            refuse!(
                ENOSPC,
                "pool {}: this node has {} stores that require a secret, and cannot have more",
                info.pool_name,
                PLACES
            )
        })?;
        let guard = Self {
            pool: info.pool_name,
            store: info.store_uuid,
            member: info.member,
            secret: secret.clone(),
            place,
            number: GUARDS.fetch_add(1, Full) + 1,
        };
        Ok(Some(Arc::new(guard, GFP_KERNEL)?))
    }

    /// What is proved to it.
    pub(crate) fn secret(&self) -> &Arc<Secret> {
        &self.secret
    }

    /// Answers a challenge that came over `session`.
    pub(crate) fn respond(&self, session: &Session, challenge: &Challenge) -> Response {
        let key = self.secret.key();
        challenge.respond(key, self.store, self.member, session.passes.nonce)
    }

    /// Lets `session` in, if the proof that came over it is right.
    pub(crate) fn check(&self, session: &Session, proof: &Proof) -> Result<(), Status> {
        let key = self.secret.key();
        if !proof.is_right(key, self.store, self.member, session.passes.nonce) {
            pr_warn_limited!(
                "session {}: refused, it does not know the secret of pool {}; give the same key to both hosts\n",
                session.name(),
                core::format_args!("{}", self.pool)
            );
            return Err(Status::WrongSecret);
        }
        session.passes.add(self, proof.role);
        Ok(())
    }

    /// Tells whoever looks after this node that somebody tried without.
    #[cold]
    #[inline(never)]
    pub(crate) fn turned_away(&self, session: &Session) {
        pr_warn_limited!(
            "session {}: message refused: pool {} requires a secret, which was not proved; write the description of its key to the client's file secret\n",
            session.name(),
            core::format_args!("{}", self.pool)
        );
    }
}

/// What a session has proved, and to whom.
pub(crate) struct Passes {
    /// This side's part of every handshake over the session.
    nonce: Nonce,
    /// For each place of a guard: its number, and the roles.
    words: KVec<Atomic<u64>>,
}

impl Passes {
    /// None. May sleep.
    pub(crate) fn new() -> Result<Self> {
        let mut words = KVec::with_capacity(PLACES, GFP_KERNEL)?;
        for _ in 0..PLACES {
            words.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(Self {
            nonce: nonce(),
            words,
        })
    }

    /// Whether there is one from `guard`. Any context.
    #[inline]
    pub(crate) fn has(&self, guard: &Guard, role: Role) -> bool {
        let word = self.words.get(guard.place.0);
        let word = word.map_or(0, |word| word.load(Acquire));
        word >> ROLES == guard.number && word & bit(role) != 0
    }

    fn add(&self, guard: &Guard, role: Role) {
        let Some(word) = self.words.get(guard.place.0) else {
            return;
        };
        let mut old = word.load(Relaxed);
        loop {
            let others = if old >> ROLES == guard.number { old } else { 0 };
            let new = guard.number << ROLES | others | bit(role);
            match word.cmpxchg(old, new, Full) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }
}

/// A new nonce.
pub(crate) fn nonce() -> Nonce {
    let mut bytes = [0; NONCE_BYTES];
    // All zero is never seen, but not a nonce.
    while bytes == [0; NONCE_BYTES] {
        rand::fill(&mut bytes);
    }
    Nonce(bytes)
}
