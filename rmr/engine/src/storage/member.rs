// SPDX-License-Identifier: GPL-2.0

//! A member: what it does next, and when it serves (R8, R11 to R15).
//!
//! Everything that is not IO comes in here as an [`Event`], and leaves as an [`Action`]. One change is made at a time,
//! as a [`Plan`] of the same stages in the same order; those a change does not need are skipped:
//!
//! ```text
//!   assign ─► drain ─► flush ─► lists and pages of bitmaps ─► epoch record ─► pages of the log ─► commit and answer
//! ```
//!
//! So lists are durable before the configuration that needs them, and suspects are forgotten after the one that
//! carries them. Metadata that cannot be written ends the member: nobody knows what its disk says. A flush that fails
//! ends it, too: what the client counts on may be gone, and the next incarnation tells so.
//!
//! Not here: IO requests ([`Shared`]), pulling ([`Resync`]), which records there are ([`Records`]), what a client wants (`control`), how a
//! plan goes on (`plan`), what it says of itself (`report`).

use super::log::Log;
use super::plan::Goal;
use super::plan::Pending;
use super::plan::Plan;
use super::records::Reader;
use super::records::Records;
use super::records::StartError;
use super::report::reply;
use super::resync::Resync;
use super::shared::Serving;
use super::shared::Shared;
use super::Action;
use super::Event;
use super::Out;
use super::PeerDo;
use super::StoreInfo;
use crate::admission;
use crate::memory::Memory;
use crate::planted::on;
use crate::planted::Bug;
use crate::time::Time;
use rmr_proto::Ask;
use rmr_proto::Begun;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::Crc32c;
use rmr_proto::EpochRecord;
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::Kind;
use rmr_proto::Peer;
use rmr_proto::Run;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::MAX_SUSPECTS;
use rmr_proto::RECORD_BYTES;

/// Merges that wait for their marks to be on disk, at most; others are refused as `Busy`.
pub(super) const MAX_MERGES: usize = 16;

/// Whether the member can be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Life {
    /// Its incarnation is not on disk yet.
    Starting,
    Up,
    /// Its metadata could not be written.
    Dead,
}

/// The exceptional part of a member.
pub struct Member<M: Memory, C> {
    pub(super) info: StoreInfo,
    pub(super) life: Life,
    /// As on disk.
    pub(super) record: M::Box<EpochRecord>,
    /// As it will be on disk.
    pub(super) next: M::Box<EpochRecord>,
    pub(super) records: M::Box<Records<M, C>>,
    pub(super) log: Log<M>,
    /// Every extent of the log is suspect (R14), until a configuration that carries them is on disk.
    pub(super) log_suspect: bool,
    /// Bytes of a record; a second one while records are read.
    pub(super) pages: M::Array<[u8; RECORD_BYTES]>,
    /// Suspects of a report.
    pub(super) runs: M::Array<Run>,
    pub(super) serving: Option<Serving>,
    pub(super) plan: Option<Plan>,
    pub(super) pending: Pending,
    /// A control message that waits for the end of a plan.
    pub(super) waiting: M::Box<Option<(u64, Control, bool)>>,
    /// Merges to be answered, and whether the plan under way covers their marks.
    pub(super) merges: [Option<(u64, bool)>; MAX_MERGES],
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
        let mut next = records.read(memory, reader, &mut log, lists, copies)?;
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
            } else if !self.begin_resync_plan(shared) {
                break;
            }
        }
        if self.life == Life::Up {
            self.resync_work(now, shared, out);
        }
    }

    /// Admits nothing more, and gives up what is being pulled.
    pub(super) fn stop_serving<J>(&mut self, shared: &Shared<M, J>, out: &mut impl Out) {
        self.serving = None;
        self.resync.stop(shared);
        out.act(Action::Serve(None));
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
            Ask::Begun => Ok(PeerDo::Begun(Begun {
                seq: shared.begun(),
                reads: shared.take_reads(peer.from),
            })),
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
