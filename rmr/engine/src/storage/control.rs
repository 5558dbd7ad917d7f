// SPDX-License-Identifier: GPL-2.0

//! What a client wants of a member: promise, install, detach, merge. Refused here, or begun as a [`Plan`] (R5, R8, R11).
//!
//! Not here: what is written for it (`plan`), and what is said of the member in the answer (`report`).

use super::member::Life;
use super::member::Member;
use super::plan::Goal;
use super::plan::Plan;
use super::report::reply;
use super::shared::Shared;
use super::Out;
use crate::admission;
use crate::memory::Memory;
use crate::planted::on;
use crate::planted::Bug;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::Crc32c;
use rmr_proto::Epoch;
use rmr_proto::Fences;
use rmr_proto::Generation;
use rmr_proto::Kind;
use rmr_proto::MemberSet;
use rmr_proto::Merge;
use rmr_proto::Progress;
use rmr_proto::Run;
use rmr_proto::Status;
use rmr_proto::Target;
use rmr_proto::Uuid;

impl<M: Memory, C: Crc32c> Member<M, C> {
    #[inline(never)]
    pub(super) fn control<J>(
        &mut self,
        call: u64,
        message: &Control,
        other_alive: bool,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        if self.life != Life::Up {
            return reply(out, call, message.kind(), Status::NotReady);
        }
        match message {
            Control::Query { .. } => self.reply_report(call, Kind::Query, Status::Ok, shared, out),
            Control::Ping {
                to,
                generation,
                epoch,
                watermark,
            } => {
                let status = match (self.check_target(to, self.info.pool), self.serving) {
                    (Err(status), _) => status,
                    (_, Some(serving))
                        if serving.identity.generation == *generation
                            && serving.identity.epoch == *epoch =>
                    {
                        shared.heard(*watermark);
                        Status::Ok
                    }
                    _ => self.refusal(*generation, *epoch),
                };
                self.reply_report(call, Kind::Ping, status, shared, out);
            }
            // One waits for what runs in the background; a client has no more than one under way.
            _ if self.plan.is_some() => {
                if self.plan.as_ref().is_some_and(Plan::is_change) || self.waiting.is_some() {
                    reply(out, call, message.kind(), Status::Busy);
                } else {
                    *self.waiting = Some((call, message.clone(), other_alive));
                }
            }
            _ => self.change(call, message, other_alive, shared, out),
        }
    }

    /// Begins a change that a client wants, or refuses it.
    pub(super) fn change<J>(
        &mut self,
        call: u64,
        message: &Control,
        other_alive: bool,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        let kind = message.kind();
        let begun = match message {
            Control::Promise {
                to,
                generation,
                fences,
            } => self.promise(to, *generation, *fences, other_alive),
            Control::Install { .. } => self.install(message, shared),
            Control::Detach {
                to,
                generation,
                epoch,
                watermark,
            } => {
                let suspect = self.is_suspect(shared);
                let begun = self.detach(to, *generation, *epoch, suspect);
                if begun.is_ok() {
                    shared.heard(*watermark);
                }
                begun
            }
            _ => Err(Status::Invalid),
        };
        match begun {
            Err(status) => self.reply_report(call, kind, status, shared, out),
            Ok(None) => self.reply_report(call, kind, Status::Ok, shared, out),
            Ok(Some(mut plan)) => {
                plan.call = Some((call, kind));
                if plan.drain {
                    self.stop_serving(shared, out);
                }
                self.plan = Some(plan);
            }
        }
    }

    /// A client wants the generation. Whatever it is, nothing is served until the next installation: what is reported
    /// must stay true. It is stable as well, in sync or not, restarted or not: a configuration that carries the suspects
    /// ends the log, which is all that tells after a loss of power what was complete and not stable.
    fn promise(
        &mut self,
        to: &Target,
        generation: Generation,
        fences: Fences,
        other_alive: bool,
    ) -> Result<Option<Plan>, Status> {
        self.check_target(to, self.info.pool)?;
        let promised = self.record.promised;
        let again = generation == promised && !generation.is_none();
        let nonce = on(Bug::IgnoreNonce) && generation.number == promised.number;
        if !again && !nonce && generation.number <= promised.number {
            return Err(Status::StaleGeneration);
        }
        let other = generation.nonce != promised.nonce;
        match fences {
            // It may have begun what this client knows nothing of.
            Fences::Nobody if other => return Err(Status::StaleGeneration),
            Fences::Dead if !again && self.serving.is_some() && other_alive => {
                return Err(Status::InUse)
            }
            _ => {}
        }
        self.next.clone_from(&self.record);
        self.next.promised = generation;
        if on(Bug::PromiseRaisesConfig) {
            if let Some(config) = &mut self.next.installed {
                config.generation = generation;
            }
        }
        let mut plan = Plan::new(Goal::Promise);
        plan.drain = !on(Bug::PromiseWithoutDrain);
        plan.flush = !on(Bug::NoPromiseFlush);
        plan.epoch = !on(Bug::PromiseUnwritten);
        Ok(Some(plan))
    }

    /// The client that has the promise installs a configuration.
    fn install<J>(
        &mut self,
        message: &Control,
        shared: &Shared<M, J>,
    ) -> Result<Option<Plan>, Status> {
        let Control::Install {
            to,
            config,
            assign,
            joins,
            discard,
        } = message
        else {
            return Err(Status::Invalid);
        };
        let own = self.info.member;
        let takes_pool = self.info.pool.is_nil() && *assign;
        let pool = if takes_pool { to.pool } else { self.info.pool };
        if pool.is_nil() {
            return Err(Status::WrongUuid);
        }
        self.check_target(to, pool)?;
        if config.check().is_err() || config.clean {
            return Err(Status::Invalid);
        }
        let promised = self.record.promised;
        if config.generation != promised {
            return Err(admission::other_generation(promised, config.generation));
        }
        if config.store(own) != Some(self.info.store) {
            return Err(Status::WrongMember);
        }
        let receives = config.receivers().contains(own);
        if receives && config.incarnation(own) != self.record.incarnation {
            return Err(Status::StaleIncarnation);
        }
        if *joins && !receives {
            return Err(Status::Invalid);
        }
        let mut discarded = false;
        if let Some(old) = &self.record.installed {
            if self.serving.is_some() && old == config {
                return Ok(None);
            }
            discarded = !config.follows(old) && !on(Bug::AcceptDiverged);
            if discarded && !*discard {
                return Err(Status::Diverged);
            }
            let key = |c: &Config| (c.generation.number, c.epoch);
            if !discarded && key(config) <= key(old) && !on(Bug::InstallOldEpoch) {
                return Err(Status::StaleEpoch);
            }
        }
        let in_sync = config.in_sync.contains(own);
        let promoted = receives && !*joins && self.check_stays(in_sync, shared)?;
        if in_sync && discarded {
            return Err(Status::Diverged);
        }
        self.next.clone_from(&self.record);
        self.next.installed = Some(config.clone());
        self.next.suspect_all &= !*joins;
        let mut plan = Plan::new(Goal::Install);
        plan.joins = *joins;
        plan.assign = takes_pool.then_some(pool);
        plan.drain = *joins;
        plan.flush = promoted && !on(Bug::NoPromotionFlush) && !on(Bug::FlushOnlyInSync);
        plan.pages = true;
        plan.epoch = true;
        plan.log = *joins;
        plan.fill = discarded;
        if !on(Bug::KeepBitsOfInSync) {
            plan.emptied = config.in_sync;
        }
        Ok(Some(plan))
    }

    /// May the member stay a receiver without a new episode? Whether it is promoted.
    fn check_stays<J>(&self, in_sync: bool, shared: &Shared<M, J>) -> Result<bool, Status> {
        match self.serving {
            None => Err(Status::WrongState),
            Some(serving) if serving.in_sync == in_sync => Ok(false),
            Some(serving) if serving.in_sync => Err(Status::Invalid),
            Some(_) if self.progress(shared) == Progress::Ready || on(Bug::PromoteUnready) => {
                Ok(true)
            }
            Some(_) => Err(Status::NotReady),
        }
    }

    /// The client leaves in order: everything it wrote is complete on all receivers.
    fn detach(
        &mut self,
        to: &Target,
        generation: Generation,
        epoch: Epoch,
        suspect: bool,
    ) -> Result<Option<Plan>, Status> {
        self.check_target(to, self.info.pool)?;
        let promised = self.record.promised;
        if generation != promised {
            return Err(admission::other_generation(promised, generation));
        }
        let Some(config) = &self.record.installed else {
            return Err(Status::InstallFirst);
        };
        if config.generation != generation || config.epoch != epoch {
            return Err(self.refusal(generation, epoch));
        }
        if config.clean {
            return Ok(None);
        }
        if self.serving.is_none() || suspect {
            // It did not serve this client in this incarnation, so it cannot vouch for what it wrote.
            return Err(Status::WrongState);
        }
        self.next.clone_from(&self.record);
        if let Some(config) = &mut self.next.installed {
            config.clean = true;
        }
        let mut plan = Plan::new(Goal::Detach);
        plan.drain = true;
        plan.flush = true;
        plan.pages = true;
        plan.epoch = true;
        plan.log = true;
        Ok(Some(plan))
    }

    /// Marks for bitmaps: in memory at once, answered when they are on disk.
    pub(super) fn merge<J>(
        &mut self,
        call: u64,
        merge: &Merge<'_>,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        if let Err(status) = self.check_merge(merge, shared) {
            return reply(out, call, Kind::Merge, status);
        }
        let Some(place) = self.merges.iter_mut().find(|call| call.is_none()) else {
            return reply(out, call, Kind::Merge, Status::Busy);
        };
        *place = Some((call, false));
        let mut members = MemberSet::EMPTY;
        for mark in merge.marks {
            shared.bitmaps.mark(mark.members(), mark.run().range());
            members = members.union(mark.members());
        }
        if members.contains(self.info.member) {
            // What was pulled so far proves nothing about these marks.
            self.resync.spoil();
        }
    }

    fn check_merge<J>(&self, merge: &Merge<'_>, shared: &Shared<M, J>) -> Result<(), Status> {
        if self.life != Life::Up {
            return Err(Status::NotReady);
        }
        self.check_target(&merge.to, self.info.pool)?;
        let promised = self.record.promised;
        if merge.generation != promised {
            return Err(admission::other_generation(promised, merge.generation));
        }
        if self.plan.as_ref().is_some_and(Plan::is_change) || self.waiting.is_some() {
            // An installation may be about to empty the very bitmap.
            return Err(Status::Busy);
        }
        let chunks = shared.geometry().chunks();
        let inside = |run: Run| run.range().end <= chunks;
        if merge.marks.iter().all(|mark| inside(mark.run())) {
            Ok(())
        } else {
            Err(Status::OutOfRange)
        }
    }

    /// Is the member the one that `to` describes, of the pool `pool`?
    fn check_target(&self, to: &Target, pool: Uuid) -> Result<(), Status> {
        if to.member != self.info.member {
            Err(Status::WrongMember)
        } else if to.pool != pool || to.store != self.info.store {
            Err(Status::WrongUuid)
        } else if to.incarnation != self.record.incarnation {
            Err(Status::StaleIncarnation)
        } else {
            Ok(())
        }
    }

    /// Why a message of this generation and epoch is not for what is installed, or served.
    pub(super) fn refusal(&self, generation: Generation, epoch: Epoch) -> Status {
        let promised = self.record.promised;
        if generation != promised {
            return admission::other_generation(promised, generation);
        }
        match &self.record.installed {
            Some(config) if epoch <= config.epoch => Status::StaleEpoch,
            _ => Status::InstallFirst,
        }
    }
}
