// SPDX-License-Identifier: GPL-2.0

//! A member that serves IO: what the hot path of the server needs, immutable while it is published.
//!
//! A [`Serving`] stands for one installed configuration in one incarnation. When the engine serves under another one,
//! or nobody any more, it is taken back, and another one is published. The [`Directory`] finds it for a message, without a lock.

use super::member::Runner;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Release;
use kernel::sync::Arc;
use rmr_engine::dedupe::Joiners;
use rmr_engine::storage;
use rmr_engine::sync::Guarded;
use rmr_proto::Uuid;
use rmr_sys::gate::Entered;
use rmr_sys::gate::Gate;
use rmr_sys::gate::Retiring;
use rmr_sys::lock::IrqLocks;
use rmr_sys::new_irq_locks;

/// Pools that one node can serve at the same time.
const PLACES: usize = 256;

/// One installed configuration, as the hot path sees it.
pub(crate) struct Serving {
    /// What the engine goes by.
    pub(crate) state: storage::Serving,
    /// Whose it is.
    pub(crate) runner: Arc<Runner>,
}

/// Duplicates of running writes, behind their lock.
pub(crate) struct JoinersLock(IrqLocks<Joiners<u32>>);

impl JoinersLock {
    /// No duplicates. May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(new_irq_locks!(1, |_| Joiners::new())?))
    }
}

impl Guarded<Joiners<u32>> for JoinersLock {
    fn with<R>(&self, f: impl FnOnce(&mut Joiners<u32>) -> R) -> R {
        // An array of one, because the lock must stay where it is while this moves.
        self.0[0].with(f)
    }
}

struct Place {
    /// First half of the pool's UUID, or 0 if the place is free.
    key: Atomic<u64>,
    gate: Gate<Serving>,
}

/// All members that serve on this node, found by pool UUID.
///
/// A pool keeps its place, once it has one, as long as it has a store here: it is that member's alone, whatever another one
/// is told to belong to. Changes of one pool are made one after the other, by its member's job; lookups take no lock.
pub(crate) struct Directory {
    places: KVec<Place>,
    /// Taken to find a free place.
    claims: IrqLocks<()>,
}

impl Directory {
    /// An empty directory. May sleep.
    pub(crate) fn new() -> Result<Self> {
        let mut places = KVec::with_capacity(PLACES, GFP_KERNEL)?;
        for _ in 0..PLACES {
            places.push(
                Place {
                    key: Atomic::new(0),
                    gate: Gate::new(),
                },
                GFP_KERNEL,
            )?;
        }
        Ok(Self {
            places,
            claims: new_irq_locks!(1, |_| ())?,
        })
    }

    fn find(&self, pool: Uuid) -> Option<&Place> {
        let key = key(pool);
        self.places.iter().find(|p| p.key.load(Acquire) == key)
    }

    /// The serving member of `pool`, kept alive and published until the answer is dropped. Any context.
    pub(crate) fn enter(&self, pool: Uuid) -> Option<Entered<Serving>> {
        self.find(pool)?.gate.enter()
    }

    /// Lets messages for `pool` in, by a member that has its place already (`owns`), or has none. `ENOSPC` if this node
    /// serves too many pools, `EEXIST` if the place is another member's. May sleep.
    pub(crate) fn publish(&self, pool: Uuid, owns: bool, serving: Serving) -> Result {
        let key = key(pool);
        // Members of other pools look for a place at the same time.
        let place = self.claims[0].with(|()| match self.find(pool) {
            Some(place) if owns => Ok(place),
            Some(_) => Err(EEXIST),
            None => {
                let mut places = self.places.iter();
                let place = places.find(|p| p.key.cmpxchg(0, key, Release).is_ok());
                place.ok_or(ENOSPC)
            }
        })?;
        // It is this member's, so there is no memory, if anything.
        place.gate.publish(serving).inspect_err(|_| {
            if !owns {
                place.key.store(0, Release);
            }
        })
    }

    /// Lets no further message in. Whoever is inside keeps what is returned from being dropped. Any context.
    pub(crate) fn retire(&self, pool: Uuid) -> Option<Retiring<Serving>> {
        self.find(pool)?.gate.retire_begin()
    }

    /// Gives the place of `pool` back, where nothing is published any more. Sleeps.
    pub(crate) fn forget(&self, pool: Uuid) {
        if let Some(place) = self.find(pool) {
            place.gate.retire();
            place.key.store(0, Release);
        }
    }
}

/// What places are compared by. UUIDs are random; the whole UUID is compared at admission.
fn key(pool: Uuid) -> u64 {
    let mut half = [0; 8];
    half.copy_from_slice(&pool.0[..8]);
    u64::from_le_bytes(half).max(1)
}
