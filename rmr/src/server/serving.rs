// SPDX-License-Identifier: GPL-2.0

//! A member that serves IO: what the hot path of the server needs, immutable while it is published.
//!
//! A [`Serving`] stands for one installed configuration in one incarnation. Promise, install, detach and
//! the removal of a store retire it, which waits until no request under it is running, and publish another.
//! The [`Directory`] finds it for a message, without a lock.

use super::op::Table;
use crate::store::Store;
use crate::store::StoreInfo;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Release;
use kernel::sync::Arc;
use rmr_engine::admission::Identity;
use rmr_engine::dedupe::Dedupe;
use rmr_engine::dedupe::Joiners;
use rmr_engine::sync::AtomicU64;
use rmr_engine::sync::Guarded;
use rmr_engine::window::WINDOW;
use rmr_proto::Geometry;
use rmr_proto::Uuid;
use rmr_sys::gate::Entered;
use rmr_sys::gate::Gate;
use rmr_sys::lock::IrqLocks;
use rmr_sys::new_irq_locks;

/// Pools that one node can serve at the same time.
const PLACES: usize = 256;

/// One installed configuration, as the hot path sees it.
pub(crate) struct Serving {
    /// Pool, member, incarnation, generation and epoch that a message must name.
    pub(crate) identity: Identity,
    /// For range checks.
    pub(crate) geometry: Geometry,
    /// Bytes; offsets and lengths are multiples of it.
    pub(crate) logical_block: u32,
    /// At-most-once execution of writes in this generation.
    pub(crate) dedupe: Dedupe<KVVec<AtomicU64>, JoinersLock>,
    /// Where requests go.
    pub(crate) store: Arc<dyn Store>,
    /// Messages in execution on this node.
    pub(crate) table: Arc<Table>,
}

/// Duplicates of running writes, behind their lock.
pub(crate) struct JoinersLock(IrqLocks<Joiners<u32>>);

impl Guarded<Joiners<u32>> for JoinersLock {
    fn with<R>(&self, f: impl FnOnce(&mut Joiners<u32>) -> R) -> R {
        // An array of one, because the lock must stay where it is while a `Serving` moves into its gate.
        self.0[0].with(f)
    }
}

impl Serving {
    /// A member that serves under `identity`. May sleep.
    pub(crate) fn new(
        identity: Identity,
        info: &StoreInfo,
        store: Arc<dyn Store>,
        table: Arc<Table>,
    ) -> Result<Self> {
        let mut slots = KVVec::with_capacity(WINDOW, GFP_KERNEL)?;
        for _ in 0..WINDOW {
            slots.push(AtomicU64::new(0), GFP_KERNEL)?;
        }
        let joiners = JoinersLock(new_irq_locks!(1, |_| Joiners::new())?);
        Ok(Self {
            identity,
            geometry: info.geometry,
            logical_block: info.limits.logical_block,
            dedupe: Dedupe::new(slots, joiners).ok_or(EINVAL)?,
            store,
            table,
        })
    }
}

struct Place {
    /// First half of the pool's UUID, or 0 if the place is free.
    key: Atomic<u64>,
    gate: Gate<Serving>,
}

/// All members that serve on this node, found by pool UUID.
///
/// A pool keeps its place, once it has one, as long as its server side exists. Changes are made under the
/// server's admin mutex; lookups take no lock.
pub(crate) struct Directory {
    places: KVec<Place>,
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
        Ok(Self { places })
    }

    fn find(&self, pool: Uuid) -> Option<&Place> {
        let key = key(pool);
        self.places.iter().find(|p| p.key.load(Acquire) == key)
    }

    /// The serving member of `pool`, kept alive and published until the answer is dropped. Any context.
    pub(crate) fn enter(&self, pool: Uuid) -> Option<Entered<Serving>> {
        self.find(pool)?.gate.enter()
    }

    /// Lets messages for `pool` in. `ENOSPC` if this node serves too many pools, `EEXIST` if the pool is
    /// served already. Admin mutex held; may sleep.
    pub(crate) fn publish(&self, pool: Uuid, serving: Serving) -> Result {
        let place = match self.find(pool) {
            Some(place) => place,
            None => self
                .places
                .iter()
                .find(|p| p.key.load(Acquire) == 0)
                .ok_or(ENOSPC)?,
        };
        place.gate.publish(serving)?;
        place.key.store(key(pool), Release);
        Ok(())
    }

    /// Lets no further message in and waits until those inside are answered. Admin mutex held; sleeps.
    pub(crate) fn retire(&self, pool: Uuid) {
        if let Some(place) = self.find(pool) {
            place.gate.retire();
        }
    }

    /// Gives the place of `pool` back. Admin mutex held; sleeps.
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
