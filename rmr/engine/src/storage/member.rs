// SPDX-License-Identifier: GPL-2.0

//! A member: what it promises, what it lets be installed, what it writes of that, and when it serves (R8, R11 to R15).
//!
//! Everything that is not IO comes in here as an [`Event`], and leaves as an [`Action`]. One change is made at a time,
//! as a [`Plan`] of the same stages in the same order; those a change does not need are skipped:
//!
//! ```text
//!   assign ─► drain ─► flush ─► pages of bitmaps ─► epoch record ─► pages of the log ─► commit and answer
//! ```
//!
//! So lists are durable before the configuration that needs them, and suspects are forgotten after the one that
//! carries them. Metadata that cannot be written ends the member: nobody knows what its disk says. A flush that fails
//! ends it, too: what the client counts on may be gone, and the next incarnation tells so.
//!
//! Not here: IO requests ([`Shared`]), pulling ([`Resync`]), which records there are ([`Records`]).

use super::log::Log;
use super::plan::Goal;
use super::plan::Pending;
use super::plan::Plan;
use super::plan::Stage;
use super::records::Reader;
use super::records::RecordId;
use super::records::Records;
use super::records::StartError;
use super::resync::Resync;
use super::shared::Serving;
use super::shared::Shared;
use super::Action;
use super::Event;
use super::Out;
use super::PeerDo;
use super::StoreInfo;
use crate::admission;
use crate::admission::Identity;
use crate::memory::Memory;
use crate::planted::on;
use crate::planted::Bug;
use crate::time::Time;
use rmr_proto::Ask;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::Crc32c;
use rmr_proto::Epoch;
use rmr_proto::EpochRecord;
use rmr_proto::Generation;
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::Kind;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::MemberSet;
use rmr_proto::Merge;
use rmr_proto::Peer;
use rmr_proto::Progress;
use rmr_proto::Reply;
use rmr_proto::Run;
use rmr_proto::Status;
use rmr_proto::Suspects;
use rmr_proto::Target;
use rmr_proto::Uuid;
use rmr_proto::MAX_SUSPECTS;
use rmr_proto::PROTOCOL_VERSION;
use rmr_proto::RECORD_BYTES;

/// Merges that wait for their marks to be on disk, at most; others are refused as `Busy`.
const MAX_MERGES: usize = 16;

/// Whether the member can be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    /// Its incarnation is not on disk yet.
    Starting,
    Up,
    /// Its metadata could not be written.
    Dead,
}

/// The exceptional part of a member.
pub struct Member<M: Memory, C> {
    pub(super) info: StoreInfo,
    life: Life,
    /// As on disk.
    pub(super) record: M::Box<EpochRecord>,
    /// As it will be on disk.
    next: M::Box<EpochRecord>,
    records: M::Box<Records<M, C>>,
    log: Log<M>,
    /// Every extent of the log is suspect (R14), until a configuration that carries them is on disk.
    log_suspect: bool,
    /// Bytes of a record; a second one while records are read.
    pages: M::Array<[u8; RECORD_BYTES]>,
    /// Suspects of a report.
    runs: M::Array<Run>,
    pub(super) serving: Option<Serving>,
    pub(super) plan: Option<Plan>,
    pending: Pending,
    /// A control message that waits for the end of a plan.
    waiting: M::Box<Option<(u64, Control, bool)>>,
    /// Merges to be answered, and whether the plan under way covers their marks.
    merges: [Option<(u64, bool)>; MAX_MERGES],
    pub(super) resync: M::Box<Resync>,
}

#[cfg(not(CONFIG_RUST))]
crate::memory::copy_and_hash!(Member<HostMemory, C>:
    info, life, record, next, records, log, log_suspect, pages, runs, serving, plan, pending, waiting, merges, resync,
);

impl<M: Memory, C: Crc32c> Member<M, C> {
    /// Reads the metadata of a store. The caller then gives [`Event::Started`]; nothing is answered before the new
    /// incarnation is on disk. `shared` is new.
    #[inline(never)]
    pub fn start<J>(
        memory: &M,
        info: StoreInfo,
        shared: &Shared<M, J>,
        reader: &mut impl Reader,
    ) -> Result<Self, StartError> {
        let records = Records::new(memory, info.store, info.layout.clone())?;
        let mut records = memory.boxed(|| records)?;
        let mut log = Log::new(memory, info.log_extents)?;
        let mut pages = memory.array(2, |_| [0; RECORD_BYTES])?;
        let copies = pages.first_chunk_mut::<2>().ok_or(StartError::NoMemory)?;
        let lists = (&shared.bitmaps, &shared.unreadable);
        let found = records.read(reader, &mut log, lists, copies)?;
        let mut next = memory.boxed(|| found)?;
        if !on(Bug::IgnoreRestart) || next.incarnation.is_none() {
            next.incarnation = (next.incarnation.after(info.salt)).ok_or(StartError::Exhausted)?;
        }
        next.all_dirty = shared.bitmaps.full();
        next.bitmaps = next.bitmaps.minus(next.all_dirty);
        let log_suspect = log.extents().next().is_some() && !on(Bug::ForgetLogAtStart);
        Ok(Self {
            info,
            life: Life::Starting,
            record: memory.boxed(|| EpochRecord::clone(&next))?,
            next,
            records,
            log,
            log_suspect,
            pages,
            runs: memory.array(MAX_SUSPECTS, |_| Run::EMPTY)?,
            serving: None,
            plan: None,
            pending: Pending::Nothing,
            waiting: memory.boxed(|| None)?,
            merges: [None; MAX_MERGES],
            resync: memory.boxed(Resync::new)?,
        })
    }

    /// Something happened.
    pub fn event<J>(
        &mut self,
        now: Time,
        event: Event<'_>,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        if self.life != Life::Dead && shared.flush_has_failed() {
            // As after a loss of power: whoever counts on what it acknowledged must learn of it by its incarnation.
            self.die(Status::Io, out);
        }
        if self.life == Life::Dead {
            return self.answer_dead(&event, out);
        }
        self.resync.rate.now(now);
        match event {
            Event::Started => {
                let mut plan = Plan::start();
                plan.list = shared.unreadable.is_changed();
                self.plan = Some(plan);
            }
            Event::Control {
                call,
                message,
                other_alive,
            } => self.control(call, message, other_alive, shared, out),
            Event::Merge { call, message } => self.merge(call, message, shared, out),
            Event::MetaDone(result) => self.meta_done(result, out),
            Event::Drained => {
                if self.pending == Pending::Drain {
                    self.pending = Pending::Nothing;
                }
            }
            Event::Flushed(result) => self.flushed(result, shared, out),
            Event::PeerReply { call, result } => self.peer_reply(now, call, result, shared, out),
            Event::PullWritten { call, result } => {
                self.pull_written(now, call, result, shared, out)
            }
            Event::Waiting | Event::Heard | Event::Timer => {}
        }
        self.work(now, shared, out);
    }

    /// Goes on until something has to be waited for.
    fn work<J>(&mut self, now: Time, shared: &Shared<M, J>, out: &mut impl Out) {
        // Each turn ends a plan, begins one or returns; a plan that begins has something to do.
        while self.life != Life::Dead && self.pending == Pending::Nothing {
            if self.plan.is_some() {
                if !self.step(shared, out) {
                    break;
                }
            } else if shared.unreadable.any_pending() {
                shared.unreadable.begin_leaving();
                let mut plan = Plan::new(Goal::Rewritten);
                plan.flush = !on(Bug::UnlistUnflushed);
                plan.list = true;
                self.plan = Some(plan);
            } else if self.merges.iter().any(Option::is_some) {
                for (_, covered) in self.merges.iter_mut().flatten() {
                    *covered = true;
                }
                let mut plan = Plan::new(Goal::Merge);
                plan.pages &= !on(Bug::AckListsEarly);
                self.plan = Some(plan);
            } else if let Some((call, message, other_alive)) = self.waiting.take() {
                self.change(call, &message, other_alive, shared, out);
            } else if self.serving.is_some() && shared.extents.any_wanted() {
                let mut plan = Plan::new(Goal::Log);
                // A flush that succeeds makes of a write that failed that alone.
                let for_good = self.log_suspect || self.record.suspect_all;
                plan.flush = !self.log.has_room() && !for_good;
                plan.pages = plan.flush;
                plan.log = true;
                self.plan = Some(plan);
            } else if !self.begin_resync_plan(now, shared) {
                break;
            }
        }
        if self.life == Life::Up {
            self.resync_work(now, shared, out);
        }
    }

    // ---- What comes from a client ----

    #[inline(never)]
    fn control<J>(
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
    fn change<J>(
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
                takeover,
            } => self.promise(to, *generation, *takeover, other_alive),
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
        takeover: bool,
        other_alive: bool,
    ) -> Result<Option<Plan>, Status> {
        self.check_target(to, self.info.pool)?;
        let promised = self.record.promised;
        let again = generation == promised && !generation.is_none();
        let nonce = on(Bug::IgnoreNonce) && generation.number == promised.number;
        if !again && !nonce && generation.number <= promised.number {
            return Err(Status::StaleGeneration);
        }
        if !again && self.serving.is_some() && other_alive && !takeover {
            return Err(Status::InUse);
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
    fn merge<J>(
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
    fn refusal(&self, generation: Generation, epoch: Epoch) -> Status {
        let promised = self.record.promised;
        if generation != promised {
            return admission::other_generation(promised, generation);
        }
        match &self.record.installed {
            Some(config) if epoch <= config.epoch => Status::StaleEpoch,
            _ => Status::InstallFirst,
        }
    }

    // ---- Plans ----

    /// Admits nothing more, and gives up what is being pulled.
    fn stop_serving<J>(&mut self, shared: &Shared<M, J>, out: &mut impl Out) {
        self.serving = None;
        self.resync.stop(shared);
        out.act(Action::Serve(None));
    }

    /// Does the next step of the plan; `false` if it has to wait for something.
    #[inline(never)]
    fn step<J>(&mut self, shared: &Shared<M, J>, out: &mut impl Out) -> bool {
        let Some(plan) = &mut self.plan else {
            return false;
        };
        let stage = plan.stage;
        match stage {
            Stage::Assign => {
                if let Some(pool) = plan.assign {
                    self.pending = Pending::Assign(pool);
                    plan.stage = Stage::Drain;
                    out.act(Action::AssignPool(pool));
                    return true;
                }
            }
            Stage::Drain => {
                if plan.drain {
                    plan.drain = false;
                    self.pending = Pending::Drain;
                    out.act(Action::Drain);
                    return true;
                }
                // What was pulled is still being written.
                if plan.is_change()
                    && plan.goal != Goal::Merge
                    && self.serving.is_none()
                    && self.resync.writing()
                {
                    return false;
                }
            }
            Stage::Flush => {
                if plan.flush {
                    plan.flush = false;
                    self.pending = Pending::Flush(shared.begin_flush());
                    out.act(Action::Flush);
                    return true;
                }
                self.prepare_pages(shared);
            }
            Stage::Pages => {
                if self.write_list(shared, out) || self.write_page(shared, out) {
                    return true;
                }
            }
            Stage::Epoch => {
                if plan.goal == Goal::Promise && on(Bug::PromiseUnwritten) {
                    self.record.clone_from(&self.next);
                }
                if plan.epoch || *self.next != *self.record {
                    plan.epoch = false;
                    plan.stage = Stage::Epoch;
                    self.write(RecordId::Epoch, shared, out);
                    return true;
                }
                self.prepare_log(shared);
            }
            Stage::Log => {
                // That it was damaged is on disk before it is whole again.
                if plan.goal == Goal::Start && plan.list {
                    return self.write_list(shared, out);
                }
                if plan.log && !on(Bug::LogUnwritten) {
                    if let Some(page) = self.log.take_changed() {
                        self.write(RecordId::Log(page), shared, out);
                        return true;
                    }
                }
            }
            Stage::Commit => {
                self.commit(shared, out);
                return true;
            }
        }
        if let Some(plan) = &mut self.plan {
            plan.stage = stage.next();
        }
        true
    }

    /// Before pages of bitmaps are written: what is to be in them, and which bitmaps they make whole.
    fn prepare_pages<J>(&mut self, shared: &Shared<M, J>) {
        let Some(plan) = &mut self.plan else {
            return;
        };
        let own = self.info.member;
        let bitmaps = &shared.bitmaps;
        plan.cursor = (0, 0);
        if plan.goal == Goal::Install && plan.joins {
            if plan.fill {
                bitmaps.fill(MemberSet::only(own));
            }
            let config = self.next.installed.as_ref();
            let forced = config.filter(|config| config.in_sync.contains(own));
            if let Some(config) = forced.filter(|_| bitmaps.count(own) != 0) {
                // Only a forced start takes who is behind for in sync. What it missed is right from now on, and those who
                // have it differ.
                for other in config.table().minus(config.in_sync) {
                    bitmaps.collect(other, MemberSet::only(own));
                }
            }
            if let Some(config) = config.filter(|config| config.catching_up.contains(own)) {
                // What it knows the others missed is what differs between them and itself (finding 16).
                if !on(Bug::ForgetMissedByOthers) {
                    bitmaps.collect(own, config.in_sync);
                }
                let all = self.record.suspect_all;
                if all {
                    bitmaps.fill(MemberSet::only(own));
                }
                if !on(Bug::JoinWithoutSuspects) {
                    let suspect = self.log_suspect || shared.has_failed();
                    own_suspects(&self.log, suspect, shared, |run| {
                        bitmaps.mark(MemberSet::only(own), run.range());
                    });
                }
            }
        }
        if plan.goal == Goal::Start {
            return;
        }
        // From its first page on.
        self.next.unreadable |= plan.list;
        if plan.pages {
            let full = bitmaps.full().minus(plan.emptied);
            let changed = MemberId::all().filter(|id| bitmaps.is_changed(*id));
            let whole = self.record.bitmaps.union(changed.collect());
            self.next.all_dirty = full;
            self.next.bitmaps = whole.minus(full).minus(plan.emptied);
            for member in self.next.bitmaps.minus(self.record.bitmaps) {
                bitmaps.touch(member);
            }
        }
    }

    /// Writes the list of unreadable sectors if that is to be written.
    fn write_list<J>(&mut self, shared: &Shared<M, J>, out: &mut impl Out) -> bool {
        let Some(plan) = self.plan.as_mut().filter(|plan| plan.list) else {
            return false;
        };
        plan.list = false;
        shared.unreadable.settle();
        self.write(RecordId::Unreadable, shared, out);
        true
    }

    /// Writes the next changed page of a bitmap that counts; `false` if there is none.
    fn write_page<J>(&mut self, shared: &Shared<M, J>, out: &mut impl Out) -> bool {
        let Some(plan) = &mut self.plan else {
            return false;
        };
        if !plan.pages || on(Bug::NoPages) {
            return false;
        }
        let (index, from) = plan.cursor;
        for member in self.next.bitmaps {
            if member.index() < index {
                continue;
            }
            let from = if member.index() == index { from } else { 0 };
            if let Some(page) = shared.bitmaps.take_changed(member, from) {
                plan.cursor = (member.index(), page + 1);
                self.write(RecordId::Bitmap(member, page), shared, out);
                return true;
            }
        }
        false
    }

    /// After the epoch record: what leaves the log, and what comes into it.
    fn prepare_log<J>(&mut self, shared: &Shared<M, J>) {
        let suspect = self.is_suspect(shared);
        let Some(plan) = &mut self.plan else {
            return;
        };
        match plan.goal {
            Goal::Install if plan.joins => {
                // The configuration carries the suspects, and it is on disk.
                shared.begin_episode();
                self.log.clear(&shared.extents);
                self.log_suspect = false;
            }
            Goal::Detach => self.log.clear(&shared.extents),
            Goal::Log => {
                if !self.log.has_room() && !suspect {
                    self.log.evict(&shared.extents, shared.stable());
                }
                plan.admitted = self.log.admit(&shared.extents);
            }
            _ => {}
        }
    }

    /// Writes the first copy of a record; the second follows.
    fn write<J>(&mut self, id: RecordId, shared: &Shared<M, J>, out: &mut impl Out) {
        let Some(page) = self.pages.first_mut() else {
            return self.die(Status::NoMemory, out);
        };
        let written = self.records.first(
            id,
            &self.next,
            &self.log,
            &shared.bitmaps,
            &shared.unreadable,
            page,
        );
        match written {
            Ok(offset) => {
                self.pending = Pending::Meta(id, 0);
                out.act(Action::WriteMeta {
                    offset,
                    bytes: page,
                });
            }
            Err(_) => self.die(Status::Invalid, out),
        }
    }

    fn meta_done(&mut self, result: Result<(), Status>, out: &mut impl Out) {
        let pending = core::mem::replace(&mut self.pending, Pending::Nothing);
        if let Err(status) = result {
            return self.die(status, out);
        }
        match pending {
            Pending::Assign(pool) => self.info.pool = pool,
            Pending::Meta(id, 0) if !on(Bug::OneCopy) => {
                let Some(page) = self.pages.first_mut() else {
                    return self.die(Status::NoMemory, out);
                };
                match self.records.second(id, page) {
                    Ok(offset) => {
                        self.pending = Pending::Meta(id, 1);
                        out.act(Action::WriteMeta {
                            offset,
                            bytes: page,
                        });
                    }
                    Err(_) => self.die(Status::Invalid, out),
                }
            }
            Pending::Meta(RecordId::Epoch, _) => self.record.clone_from(&self.next),
            Pending::Meta(..) | Pending::Nothing => {}
            other => self.pending = other,
        }
    }

    fn flushed<J>(
        &mut self,
        result: Result<(), Status>,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        let Pending::Flush(mark) = self.pending else {
            return;
        };
        self.pending = Pending::Nothing;
        let status = shared.end_flush(mark, result.err().unwrap_or(Status::Ok));
        if status.is_ok() {
            return;
        }
        // What was not stable may be gone, with writes the client counts on.
        if !on(Bug::SurviveFailedFlush) {
            self.die(status, out);
        }
    }

    /// All of the plan is on disk.
    fn commit<J>(&mut self, shared: &Shared<M, J>, out: &mut impl Out) {
        let Some(plan) = self.plan.take() else {
            return;
        };
        match plan.goal {
            Goal::Start => {
                self.life = Life::Up;
                if on(Bug::IgnoreRestart) {
                    self.log.clear(&shared.extents);
                    self.log_suspect = false;
                    self.installed(&plan, shared, out);
                }
            }
            Goal::Install => self.installed(&plan, shared, out),
            Goal::Merge => {
                let covered = self.merges.iter_mut();
                for call in covered.filter(|call| call.is_some_and(|(_, covered)| covered)) {
                    if let Some((call, _)) = call.take() {
                        reply(out, call, Kind::Merge, Status::Ok);
                    }
                }
            }
            Goal::Log => {
                self.log.commit(&shared.extents);
                // Those that found no room ask again, and are told so if nobody else found any.
                out.act(if plan.admitted || !shared.extents.any_wanted() {
                    Action::Retry
                } else {
                    Action::LogFull
                });
                shared.extents.forget_wanted();
            }
            Goal::Fetched => self.resync.fetched(),
            Goal::Prove => self.proved(shared, out),
            Goal::Rewritten => {
                shared.unreadable.end_leaving();
                out.act(Action::Retry);
            }
            Goal::Promise | Goal::Detach => {}
        }
        self.end(&plan, Status::Ok, shared, out);
    }

    fn installed<J>(&mut self, plan: &Plan, shared: &Shared<M, J>, out: &mut impl Out) {
        shared.bitmaps.empty(plan.emptied);
        let own = self.info.member;
        let Some(config) = &self.record.installed else {
            return;
        };
        let identity = Identity {
            pool: self.info.pool,
            member: own,
            incarnation: self.record.incarnation,
            generation: config.generation,
            epoch: config.epoch,
        };
        self.serving = config.receivers().contains(own).then(|| Serving {
            identity,
            absent: config.table().minus(config.receivers()),
            in_sync: config.in_sync.contains(own),
        });
        let catching_up = config.catching_up.contains(own);
        if plan.joins && catching_up {
            let others = config.table().minus(config.in_sync);
            self.resync.begin(if on(Bug::FetchOnlyOwn) {
                MemberSet::only(own)
            } else {
                others
            });
        } else if !catching_up {
            self.resync.stop(shared);
        }
        out.act(Action::Serve(self.serving));
    }

    /// Answers the message that a plan was for.
    fn end<J>(&mut self, plan: &Plan, status: Status, shared: &Shared<M, J>, out: &mut impl Out) {
        if let Some((call, kind)) = plan.call {
            self.reply_report(call, kind, status, shared, out);
        }
        if plan.is_change() {
            out.act(Action::Retry);
        }
    }

    /// The metadata on disk is not known any more.
    pub(super) fn die(&mut self, status: Status, out: &mut impl Out) {
        self.life = Life::Dead;
        self.serving = None;
        self.pending = Pending::Nothing;
        out.act(Action::Serve(None));
        if let Some((call, kind)) = self.plan.take().and_then(|plan| plan.call) {
            reply(out, call, kind, Status::Io);
        }
        if let Some((call, message, _)) = self.waiting.take() {
            reply(out, call, message.kind(), Status::Io);
        }
        for (call, _) in self.merges.iter_mut().filter_map(Option::take) {
            reply(out, call, Kind::Merge, Status::Io);
        }
        out.act(Action::Retry);
        out.act(Action::Failed(status));
    }

    fn answer_dead(&self, event: &Event<'_>, out: &mut impl Out) {
        match event {
            Event::Control { call, message, .. } => reply(out, *call, message.kind(), Status::Io),
            Event::Merge { call, .. } => reply(out, *call, Kind::Merge, Status::Io),
            _ => {}
        }
    }

    // ---- What it says of itself ----

    fn reply_report<J>(
        &mut self,
        call: u64,
        kind: Kind,
        status: Status,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        let report = Some(self.report(shared));
        let mut count = 0;
        let all = self.record.suspect_all;
        if kind == Kind::Promise && status.is_ok() && !all {
            let suspect = self.log_suspect || shared.has_failed();
            let runs = &mut self.runs;
            own_suspects(&self.log, suspect, shared, |run| {
                if let Some(place) = runs.get_mut(count) {
                    *place = run;
                    count += 1;
                }
            });
        }
        let promise = kind == Kind::Promise && status.is_ok();
        out.act(Action::Reply {
            call,
            reply: &Reply {
                kind,
                status,
                report,
                suspects: Suspects {
                    all: promise && all,
                    runs: self.runs.get(..count).unwrap_or(&[]),
                },
            },
        });
    }

    /// What the member says of itself.
    pub fn report<J>(&self, shared: &Shared<M, J>) -> MemberReport {
        MemberReport {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            pool: self.info.pool,
            store: self.info.store,
            member: self.info.member,
            incarnation: self.record.incarnation,
            geometry: *shared.geometry(),
            limits: self.info.limits,
            promised: self.record.promised,
            installed: self.record.installed.clone(),
            serving: self.serving.is_some(),
            progress: self.progress(shared),
            log_extents: self.info.log_extents,
        }
    }

    /// How far it is from being in sync.
    pub fn progress<J>(&self, shared: &Shared<M, J>) -> Progress {
        match self.serving {
            Some(serving) if serving.in_sync => Progress::Ready,
            Some(_) if self.resync.knows() => match shared.bitmaps.count(self.info.member) {
                0 if shared.has_failed() => Progress::Unknown,
                0 => Progress::Ready,
                chunks => Progress::Dirty {
                    chunks,
                    rate: self.resync.rate.bytes_per_second(),
                },
            },
            _ => Progress::Unknown,
        }
    }

    /// Whether what was acknowledged may be missing on its disk, anywhere in its log.
    fn is_suspect<J>(&self, shared: &Shared<M, J>) -> bool {
        self.log_suspect || self.record.suspect_all || shared.has_failed()
    }

    /// Whether a promise would report this chunk as suspect.
    pub fn suspect<J>(&self, shared: &Shared<M, J>, chunk: u64) -> bool {
        let mut found = self.record.suspect_all;
        let suspect = self.log_suspect || shared.has_failed();
        own_suspects(&self.log, suspect, shared, |run| {
            found |= run.range().contains(&chunk);
        });
        found
    }

    /// Whether its incarnation is on disk, and its metadata can be written.
    pub fn is_up(&self) -> bool {
        self.life == Life::Up
    }

    /// UUID of its pool; nil if it has none.
    pub fn pool(&self) -> Uuid {
        self.info.pool
    }

    /// What it serves.
    pub fn serving(&self) -> Option<Serving> {
        self.serving
    }

    /// Its incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.record.incarnation
    }

    /// The configuration installed last, in whatever incarnation.
    pub fn config(&self) -> Option<&Config> {
        self.record.installed.as_ref()
    }

    /// Whether every chunk of its own copy counts as dirty, because nobody has told it yet which are.
    pub fn needs_fetch(&self) -> bool {
        self.serving.is_some_and(|s| !s.in_sync) && !self.resync.knows()
    }

    /// How to answer an IO message while nothing is served; `None`: keep it until [`Action::Retry`].
    pub fn not_serving(&self, message: &Header) -> Option<Status> {
        if message.pool != self.info.pool {
            return Some(Status::WrongUuid);
        }
        if message.member != self.info.member {
            return Some(Status::WrongMember);
        }
        if message.incarnation != self.record.incarnation {
            return Some(Status::StaleIncarnation);
        }
        let installs = |plan: &Plan| plan.goal == Goal::Install;
        if self.life == Life::Up && self.plan.as_ref().is_some_and(installs) {
            return None;
        }
        Some(self.refusal(message.generation, message.epoch))
    }

    /// A message of another member.
    pub fn peer<J>(&mut self, peer: &Peer<'_>, shared: &Shared<M, J>) -> Result<PeerDo, Status> {
        let Some(serving) = self.serving else {
            return Err(self.not_serving(&peer.to).unwrap_or(Status::Busy));
        };
        let unproven = on(Bug::IgnoreEpochOfPeers) && matches!(peer.ask, Ask::Clear { .. });
        if !unproven {
            admission::check(&serving.identity, &peer.to)?;
        }
        let config = self.record.installed.as_ref().ok_or(Status::InstallFirst)?;
        let known = config.receivers().contains(peer.from) || unproven;
        if !known || peer.from == self.info.member {
            return Err(Status::Invalid);
        }
        let geometry = shared.geometry();
        match peer.ask {
            Ask::FetchDirty { of, page } => {
                if !serving.in_sync {
                    return Err(Status::NotReady);
                }
                if page >= shared.bitmaps.pages() as u64 {
                    return Err(Status::OutOfRange);
                }
                Ok(PeerDo::Page { of, page })
            }
            Ask::Pull { offset, len } => {
                let chunks = geometry.chunks_of(offset, len.into());
                let mut chunks = chunks.map_err(|_| Status::OutOfRange)?;
                let own = self.info.member;
                let clean = serving.in_sync
                    || on(Bug::ServeDirty)
                    || self.resync.knows() && !chunks.any(|chunk| shared.bitmaps.get(own, chunk));
                if !clean {
                    Err(Status::Dirty)
                } else if shared.unreadable.covers(offset, len.into()) {
                    Err(Status::Medium)
                } else {
                    Ok(PeerDo::Read { offset, len })
                }
            }
            Ask::Clear { runs } => {
                if !config.catching_up.contains(peer.from) && !unproven {
                    return Err(Status::Invalid);
                }
                if runs.iter().any(|run| run.range().end > geometry.chunks()) {
                    return Err(Status::OutOfRange);
                }
                shared.bitmaps.spell_out(peer.from);
                for run in runs {
                    shared.bitmaps.clear(peer.from, run.range());
                }
                Ok(PeerDo::Done)
            }
        }
    }
}

fn reply(out: &mut impl Out, call: u64, kind: Kind, status: Status) {
    out.act(Action::Reply {
        call,
        reply: &Reply::bare(kind, status),
    });
}

/// The suspects, unless the whole store is (R14): the log after a crash or failure, else the writes above the
/// watermark. At most [`MAX_SUSPECTS`] runs.
fn own_suspects<M: Memory, J>(
    log: &Log<M>,
    whole_log: bool,
    shared: &Shared<M, J>,
    mut tell: impl FnMut(Run),
) {
    let watermark = shared.watermark().0;
    if whole_log || shared.recent().exceeds(watermark, MAX_SUSPECTS) {
        for extent in log.extents() {
            for run in Run::cover(super::chunks_of_extent(shared.geometry(), extent)) {
                tell(run);
            }
        }
    } else if !on(Bug::ForgetRecentWrites) {
        for run in shared.recent().above(watermark) {
            tell(run);
        }
    }
}
