// SPDX-License-Identifier: GPL-2.0

//! A member's part in attach and detach (rule R8): what it promises, what it lets be installed, when it serves.
//!
//! ```text
//!                 promise(g)                install(c of g)                 detach
//!   idle ───────────────────► promised(g) ──────────────────► serving(c) ─────────► idle, c clean
//!    ▲  ▲                      │  ▲                           │      │ ▲
//!    │  └───── start ──────────┘  └──────── promise(g') ──────┘      └─┘ install(c') of the same g
//!    └──────── start (restart of the member, reset or loss of its disk) ──┘
//! ```
//!
//! * A number is promised once, to one client: the nonce tells clients apart. A promise only fences: it changes
//!   nothing of what is installed, but from then on the member serves nobody.
//! * Only the client that has the promise installs; epochs increase. IO is served only under a configuration that
//!   was installed in this incarnation.
//! * A repetition of what was done last is answered as before; any other late message is refused.
//!
//! Every transition is a function from the state to the next one. If both are equal, the message was a repetition:
//! the caller answers it and does nothing else, least of all to what is running. Otherwise it first stops what runs
//! under the old state (promise, detach: lets it finish), then persists [`MemberState::record`] of the next, then
//! replaces the state, then answers. If it cannot persist, it does not know which state the disk has: the member
//! fails, and [`MemberState::start`]s anew.

use crate::admission;
use crate::admission::Identity;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::EpochRecord;
use rmr_proto::Generation;
use rmr_proto::Geometry;
use rmr_proto::Header;
use rmr_proto::Limits;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::Progress;
use rmr_proto::Status;
use rmr_proto::Target;
use rmr_proto::Uuid;
use rmr_proto::MAX_LOG_EXTENTS;
use rmr_proto::PROTOCOL_VERSION;

/// Who a member is, what it has promised and installed, and whether it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    pool: Uuid,
    store: Uuid,
    member: MemberId,
    record: EpochRecord,
    serving: bool,
}

impl MemberState {
    /// The state after a start of the member, or after its disk was reset or lost: a new incarnation, to be persisted
    /// before anything is answered. `pool` is nil if the store was never assigned; `last` is the newest
    /// record of the store, `salt` a random number. `None` if there are no more incarnations, or the store has none of its
    /// own UUID.
    pub fn start(
        pool: Uuid,
        store: Uuid,
        member: MemberId,
        last: &EpochRecord,
        salt: u32,
    ) -> Option<Self> {
        if store.is_nil() {
            return None;
        }
        Some(Self {
            pool,
            store,
            member,
            record: EpochRecord {
                incarnation: last.incarnation.after(salt)?,
                ..last.clone()
            },
            serving: false,
        })
    }

    /// What must be on disk before this state counts.
    pub fn record(&self) -> &EpochRecord {
        &self.record
    }

    /// UUID of the pool; nil if the store was never assigned. When a transition changes it, the superblock is to be
    /// written, too, and first: a store that is assigned and has nothing installed is as good as new.
    pub fn pool(&self) -> Uuid {
        self.pool
    }

    /// Id of the member.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// Whether IO is served.
    pub fn serving(&self) -> bool {
        self.serving
    }

    /// What an IO message must name; `None` if no IO is served.
    pub fn identity(&self) -> Option<Identity> {
        let config = self.record.installed.as_ref().filter(|_| self.serving)?;
        Some(Identity {
            pool: self.pool,
            member: self.member,
            incarnation: self.record.incarnation,
            generation: config.generation,
            epoch: config.epoch,
        })
    }

    /// Is an IO message to be executed? For the hot path there is [`admission::check`] with an
    /// [`Identity`] kept at hand; this also answers when nothing is served.
    pub fn admit(&self, message: &Header) -> Result<(), Status> {
        if let Some(own) = self.identity() {
            return admission::check(&own, message);
        }
        if message.pool != self.pool {
            return Err(Status::WrongUuid);
        }
        if message.member != self.member {
            return Err(Status::WrongMember);
        }
        if message.incarnation != self.record.incarnation {
            return Err(Status::StaleIncarnation);
        }
        if message.generation != self.record.promised {
            return Err(admission::other_generation(
                self.record.promised,
                message.generation,
            ));
        }
        // This client has the promise. It has not installed yet, or it has detached.
        match &self.record.installed {
            Some(config) if message.epoch <= config.epoch => Err(Status::StaleEpoch),
            _ => Err(Status::InstallFirst),
        }
    }

    /// There is no resync yet: a member that is not in sync stays as it is.
    fn progress(&self) -> Progress {
        match &self.record.installed {
            Some(config) if self.serving && config.in_sync.contains(self.member) => Progress::Ready,
            _ => Progress::Unknown,
        }
    }

    /// What the member says of itself.
    pub fn report(&self, geometry: Geometry, limits: Limits) -> MemberReport {
        MemberReport {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            pool: self.pool,
            store: self.store,
            member: self.member,
            incarnation: self.record.incarnation,
            geometry,
            limits,
            promised: self.record.promised,
            installed: self.record.installed.clone(),
            serving: self.serving,
            progress: self.progress(),
            log_extents: MAX_LOG_EXTENTS,
        }
    }

    /// A client wants the generation. `other_alive`: the client that is served now is another one, and connected;
    /// it is fenced only with `takeover`.
    ///
    /// Before the next state is persisted nothing may run under the old one any more, and the store is flushed.
    pub fn promise(
        &self,
        to: &Target,
        generation: Generation,
        takeover: bool,
        other_alive: bool,
    ) -> Result<Self, Status> {
        self.check_target(to, self.pool)?;
        let promised = self.record.promised;
        if generation == promised && !generation.is_none() {
            return Ok(self.clone());
        }
        if generation.number <= promised.number {
            return Err(Status::StaleGeneration);
        }
        if self.serving && other_alive && !takeover {
            return Err(Status::InUse);
        }
        let mut next = self.clone();
        next.record.promised = generation;
        next.serving = false;
        Ok(next)
    }

    /// The client that has the promise installs a configuration. `assign`: the store takes the pool UUID of `to` if it
    /// has none.
    ///
    /// What runs under the old state may go on: it runs for the same client. An episode begins, so the table of
    /// duplicates is emptied (`dedupe`), if the old state did not serve.
    pub fn install(&self, to: &Target, config: &Config, assign: bool) -> Result<Self, Status> {
        let pool = if self.pool.is_nil() && assign {
            to.pool
        } else {
            self.pool
        };
        if pool.is_nil() {
            return Err(Status::WrongUuid);
        }
        self.check_target(to, pool)?;
        if config.check().is_err() || config.clean {
            return Err(Status::Invalid);
        }
        if config.generation != self.record.promised {
            return Err(admission::other_generation(
                self.record.promised,
                config.generation,
            ));
        }
        if config.store(self.member) != Some(self.store) {
            return Err(Status::WrongMember);
        }
        if let Some(old) = &self.record.installed {
            if self.serving && old == config {
                return Ok(self.clone());
            }
            // Also after a restart, and after a detach: a late message must not bring them back to service.
            if config.epoch <= old.epoch {
                return Err(Status::StaleEpoch);
            }
        }
        let mut next = self.clone();
        next.pool = pool;
        next.serving = config.receivers().contains(self.member);
        next.record.installed = Some(config.clone());
        Ok(next)
    }

    /// The client leaves in order: everything it wrote is complete on all receivers.
    ///
    /// Before the next state is persisted the store is flushed.
    pub fn detach(
        &self,
        to: &Target,
        generation: Generation,
        epoch: Epoch,
    ) -> Result<Self, Status> {
        self.check_target(to, self.pool)?;
        if generation != self.record.promised {
            return Err(admission::other_generation(
                self.record.promised,
                generation,
            ));
        }
        let mut next = self.clone();
        match &mut next.record.installed {
            Some(config) if config.generation == generation && config.epoch == epoch => {
                if !self.serving && !config.clean {
                    // It did not serve this client in this incarnation, so it cannot vouch for what it wrote.
                    return Err(Status::WrongState);
                }
                config.clean = true;
            }
            Some(config) if config.generation == generation && epoch < config.epoch => {
                return Err(Status::StaleEpoch)
            }
            _ => return Err(Status::InstallFirst),
        }
        next.serving = false;
        Ok(next)
    }

    /// Is the member the one that `to` describes, of the pool `pool`?
    fn check_target(&self, to: &Target, pool: Uuid) -> Result<(), Status> {
        if to.member != self.member {
            Err(Status::WrongMember)
        } else if to.pool != pool || to.store != self.store {
            Err(Status::WrongUuid)
        } else if to.incarnation != self.record.incarnation {
            Err(Status::StaleIncarnation)
        } else {
            Ok(())
        }
    }
}
