// SPDX-License-Identifier: GPL-2.0

//! Tells the nodes of a pool where the others are, so that a member that catches up finds those who have the data.
//!
//! When the pool is attached, a node learns what it has not been told since it was connected to, or since its member was taken
//! in: it may have forgotten by then. What it does not take is not repeated before. Nothing depends on it here; the administrator may
//! tell nodes of other addresses (`add_peer`).

use super::core::Core;
use super::driver::Driver;
use super::driver::Marked;
use super::driver::Stage;
use super::leg::Leg;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_proto::Address;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::PoolName;
use rmr_proto::ADDRESS_BYTES;
use rmr_proto::MAX_ADDRESS_TEXT;
use rmr_proto::MAX_MEMBERS;
use rmr_sys::crc::KernelCrc;
use rmr_sys::gate::Entered;
use rmr_sys::work::Again;

/// How long a node may take to answer, in ms.
const TIMEOUT_MS: u32 = 2_000;

/// What nodes were told.
#[pin_data]
pub(crate) struct Introduction {
    pool: PoolName,
    driver: Arc<Driver>,
    /// Members that may have forgotten what they were told.
    fresh: Marked,
    /// Members that may be somewhere else.
    moved: Marked,
    /// By index of the member: of whom it was told.
    #[pin]
    told: Mutex<[MemberSet; MAX_MEMBERS]>,
}

impl Introduction {
    /// Nobody was told anything. May sleep.
    pub(crate) fn new(pool: PoolName, driver: Arc<Driver>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                pool,
                driver,
                fresh: Marked::new(),
                moved: Marked::new(),
                told <- new_mutex!([MemberSet::EMPTY; MAX_MEMBERS]),
            }),
            GFP_KERNEL,
        )
    }

    /// A member is to be told everything (again), when the job runs. Any context.
    pub(crate) fn repeat(&self, id: MemberId) {
        self.fresh.add(id);
    }

    /// A member has a leg, which may be another one than before. Any context.
    pub(crate) fn moved(&self, id: MemberId) {
        self.moved.add(id);
    }

    /// The job: tells whom something is to be told.
    pub(crate) fn run(this: &Arc<Self>) -> Again {
        let Some(core) = this.driver.core.enter() else {
            return Again::No;
        };
        if this.driver.stage() != Stage::Runs {
            // Whether these nodes belong together is not known yet, or of no interest any more.
            return Again::No;
        }
        let mut told = this.told.lock();
        let moved = this.moved.take();
        for set in told.iter_mut() {
            *set = set.minus(moved);
        }
        for id in this.fresh.take() {
            if let Some(set) = told.get_mut(id.index()) {
                *set = MemberSet::EMPTY;
            }
        }
        for leg in core.legs() {
            if let Some(set) = told.get_mut(leg.member.index()) {
                this.tell(&core, &leg, set);
            }
        }
        Again::No
    }

    /// Tells one node what it was not told.
    fn tell(&self, core: &Entered<Core>, leg: &Leg, told: &mut MemberSet) {
        for other in core.legs() {
            if other.member == leg.member || told.contains(other.member) {
                continue;
            }
            if !leg.is_usable() || self.driver.stage() != Stage::Runs {
                return;
            }
            if self.tell_one(leg, &other).is_err() {
                return;
            }
            *told = told.with(other.member);
        }
    }

    fn tell_one(&self, leg: &Leg, other: &Leg) -> Result {
        let mut text = KBox::new([0; MAX_ADDRESS_TEXT], GFP_KERNEL)?;
        let Some(text) = other.session.destinations(&mut text[..]) else {
            // Nothing that another host could use.
            return Ok(());
        };
        let address = Address {
            name: self.pool,
            of: other.member,
            text,
        };
        let mut bytes = KBox::new([0; ADDRESS_BYTES], GFP_KERNEL)?;
        address
            .encode::<KernelCrc>(&mut bytes)
            .map_err(|_| EINVAL)?;
        leg.session
            .call_within(TIMEOUT_MS, &bytes[..], &mut [0; 8])
            .map_err(|_| EIO)
    }
}
