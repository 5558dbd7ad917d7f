// SPDX-License-Identifier: GPL-2.0

//! What a member decides on the IO path: may a request be executed, and what is remembered of it before it is.
//!
//! A write is executed when it is admitted (R5), was not executed before, lies in extents of the log (R12), and
//! nobody writes what was pulled to its chunks (R16). Before it begins, its chunks are dirty on everybody who does
//! not get it (R11). All calls: any context, lock-free but for duplicates.

use super::bitmap::Bitmaps;
use super::log::Extents;
use super::pulls::Pulls;
use super::recent::Recent;
use super::unreadable::Unreadable;
use crate::admission;
use crate::admission::Identity;
use crate::dedupe;
use crate::dedupe::Dedupe;
use crate::dedupe::Joiners;
use crate::memory::Memory;
use crate::memory::NoMemory;
use crate::planted::on;
use crate::planted::Bug;
use crate::sync::raise;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::CacheLine;
use crate::sync::Guarded;
use crate::window::WINDOW;
use rmr_proto::BadBlock;
use rmr_proto::Geometry;
use rmr_proto::Header;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Request;
use rmr_proto::Seq;
use rmr_proto::Status;

/// What a member serves: a snapshot, replaced as a whole when the configuration changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Serving {
    /// What a message must name.
    pub identity: Identity,
    /// Members of the table that do not get writes.
    pub absent: MemberSet,
    /// The member is in sync.
    pub in_sync: bool,
}

/// What to do with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Execute it, then call [`Shared::finish`] or [`Shared::abandon`] exactly once.
    Execute,
    /// It is being executed: its `finish` hands out the token.
    Join,
    /// It was executed, and this came of it: answer so.
    Done(Status),
    /// Answer so; it is not executed.
    Refuse(Status),
    /// Not now: keep it and ask again when told ([`Action::Retry`](super::Action::Retry)). On another CPU that may have been
    /// told before it was kept: who keeps requests asks once more after keeping one.
    Wait,
}

/// A flush that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlushMark {
    /// Every write up to this was complete.
    watermark: u64,
    /// So many writes had failed.
    failures: u64,
}

/// What all CPUs share.
pub struct Shared<M: Memory, J> {
    geometry: Geometry,
    dedupe: Dedupe<M::Array<AtomicU64>, J>,
    recent: Recent<M>,
    pub(super) bitmaps: Bitmaps<M>,
    pub(super) extents: Extents<M>,
    pub(super) pulls: Pulls,
    pub(super) unreadable: Unreadable<M>,
    /// Every write up to this number is stable.
    stable: CacheLine<AtomicU64>,
    /// A flush failed: the disk may have lost anything.
    flush_failed: AtomicU32,
    /// Writes that failed.
    failures: AtomicU64,
    /// As many of them had failed when a flush began that succeeded.
    forgiven: AtomicU64,
    /// The administrator wants nothing to be pulled.
    paused: AtomicU32,
    /// A bit for each member: clients have read something since it asked whether they do.
    reads: AtomicU32,
}

#[cfg(not(CONFIG_RUST))]
crate::memory::copy_and_hash!(Shared<HostMemory, J>:
    geometry, dedupe, recent, bitmaps, extents, pulls, unreadable, stable, flush_failed, failures, forgiven, paused, reads,
);

impl<M: Memory, J> Shared<M, J> {
    /// For a store of this geometry; `joiners` is an empty table.
    pub fn new(memory: &M, geometry: Geometry, joiners: J) -> Result<Self, NoMemory> {
        let slots = memory.array(WINDOW, |_| AtomicU64::new(0))?;
        Ok(Self {
            geometry,
            dedupe: Dedupe::new(slots, joiners).ok_or(NoMemory)?,
            recent: Recent::new(memory)?,
            bitmaps: Bitmaps::new(memory, &geometry)?,
            extents: Extents::new(memory, &geometry)?,
            pulls: Pulls::new(),
            unreadable: Unreadable::new(memory)?,
            stable: CacheLine::default(),
            flush_failed: AtomicU32::new(0),
            failures: AtomicU64::new(0),
            forgiven: AtomicU64::new(0),
            paused: AtomicU32::new(0),
            reads: AtomicU32::new(0),
        })
    }

    /// Size and chunk size.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Whether resync is to wait; [`Event::Heard`](super::Event::Heard) tells the member. What is on its way is used, and the member
    /// stays one that catches up. Any context.
    pub fn pause_resync(&self, pause: bool) {
        self.paused.store(pause.into());
    }

    /// Whether resync is to wait.
    pub fn resync_is_paused(&self) -> bool {
        self.paused.load() != 0
    }

    /// A write wants to be executed. `token` is kept only if the answer is `Join`. If it has to wait, `busy` is called with the
    /// token of each duplicate that joined it meanwhile: answer them `Busy`.
    pub fn write<T>(
        &self,
        serving: &Serving,
        header: &Header,
        request: &Request,
        token: T,
        busy: impl FnMut(T),
    ) -> Verdict
    where
        J: Guarded<Joiners<T>>,
    {
        if let Err(status) = admission::check(&serving.identity, header) {
            return Verdict::Refuse(status);
        }
        let (offset, len) = (request.offset, u64::from(request.len));
        let Ok(chunks) = self.geometry.chunks_of(offset, len) else {
            return Verdict::Refuse(Status::OutOfRange);
        };
        match self.dedupe.begin(request.seq, header.watermark, token) {
            dedupe::Verdict::Execute => {}
            dedupe::Verdict::Join => return Verdict::Join,
            dedupe::Verdict::Done(status) => {
                if status.is_ok() && self.unreadable.is_pending(offset, len) {
                    return Verdict::Wait;
                }
                return Verdict::Done(status);
            }
            dedupe::Verdict::Refuse(status) => return Verdict::Refuse(status),
        }
        let seq = request.seq.0;
        // Before it is in the ring of recent writes, which the claim waits for.
        if self.pulls.is_claimed(&chunks) {
            self.dedupe.abandon(request.seq, busy);
            return Verdict::Wait;
        }
        // In the ring before it is looked whether its chunks are being pulled: who begins to pull looks the other way
        // round, so one of them sees the other.
        self.recent.put(seq, &chunks);
        let mut ready = self.pulls.enter(&chunks);
        for extent in Extents::<M>::of(offset, len) {
            if !self.extents.touch(extent, seq) && !on(Bug::WriteBeforeLog) {
                self.extents.want(extent);
                ready = false;
            }
        }
        if !ready {
            self.dedupe.abandon(request.seq, busy);
            return Verdict::Wait;
        }
        let discard = request.op == Op::WriteZeroes && on(Bug::DiscardUnmarked);
        if !on(Bug::NoMarkForAbsent) && !discard {
            self.bitmaps.mark(serving.absent, chunks);
        }
        Verdict::Execute
    }

    /// A write that was to be executed ended. `joined` is called with the token of each duplicate that waits for it.
    ///
    /// `false`: neither is to be answered yet, but to be kept and asked for again, as after [`Verdict::Wait`]: what it
    /// wrote could not be read before, and a crash now would make that so again.
    #[must_use]
    pub fn finish<T>(&self, request: &Request, status: Status, joined: impl FnMut(T)) -> bool
    where
        J: Guarded<Joiners<T>>,
    {
        if !status.is_ok() {
            self.failures.fetch_add(1);
        }
        // Before a duplicate can find it done.
        let (offset, len) = (request.offset, u64::from(request.len));
        let waits = status.is_ok() && self.unreadable.written(offset, len);
        self.dedupe.finish(request.seq, status, joined);
        !waits
    }

    /// A write that was to be executed was not started, and will not be unless it is asked for again.
    pub fn abandon<T>(&self, seq: Seq, joined: impl FnMut(T))
    where
        J: Guarded<Joiners<T>>,
    {
        self.dedupe.abandon(seq, joined);
    }

    /// May a read be executed?
    pub fn read(
        &self,
        serving: &Serving,
        header: &Header,
        request: &Request,
    ) -> Result<(), Status> {
        admission::check(&serving.identity, header)?;
        if !serving.in_sync && !on(Bug::ReadFromCatchingUp) {
            return Err(Status::Dirty);
        }
        let (offset, len) = (request.offset, u64::from(request.len));
        self.geometry
            .check(offset, len)
            .map_err(|_| Status::OutOfRange)?;
        if self.unreadable.covers(offset, len) {
            return Err(Status::Medium);
        }
        // Written by the first read after a question alone.
        if self.reads.load() != u32::MAX {
            self.reads.store(u32::MAX);
        }
        Ok(())
    }

    /// Whether clients have read something since this member asked that before. If a read comes right now, the next answer says so.
    pub(super) fn take_reads(&self, by: MemberId) -> bool {
        let bit = MemberSet::EMPTY.with(by).bits();
        let mut reads = self.reads.load();
        while reads & bit != 0 {
            match self.reads.cas(reads, reads & !bit) {
                Ok(_) => return true,
                Err(now) => reads = now,
            }
        }
        false
    }

    /// A read of the store ended, for a client or another member: how to answer it. What is read after a flush failed may
    /// be older than what was acknowledged.
    pub fn end_read(&self, status: Status) -> Status {
        if status.is_ok() && self.flush_has_failed() && !on(Bug::ReadAfterFailedFlush) {
            return Status::NotReady;
        }
        status
    }

    /// The store is about to be flushed.
    pub fn begin_flush(&self) -> FlushMark {
        FlushMark {
            watermark: self.dedupe.watermark().0,
            failures: self.failures.load(),
        }
    }

    /// A flush of the store ended. If it succeeded, every write that was complete when it began is stable, and a write that
    /// had failed was that alone: the client has seen to its chunks. If not, the disk may have lost anything.
    ///
    /// Returns how it is to be answered: one that succeeds after another one failed has nothing to say of what that one lost.
    #[must_use]
    pub fn end_flush(&self, mark: FlushMark, status: Status) -> Status {
        let status = match status {
            Status::Ok if self.flush_has_failed() && !on(Bug::VouchAfterFailedFlush) => Status::Io,
            other => other,
        };
        if status.is_ok() {
            raise(&self.stable.0, mark.watermark);
            raise(&self.forgiven, mark.failures);
        } else {
            self.flush_failed.store(1);
        }
        status
    }

    /// A message that is no write brought a watermark.
    pub fn heard(&self, watermark: Seq) {
        self.dedupe.heard(watermark);
    }

    /// Every write up to this is complete on every receiver, as far as was heard.
    pub fn watermark(&self) -> Seq {
        self.dedupe.watermark()
    }

    /// No write with a higher number was executed here in this generation, nor is being executed; none if all of them are
    /// known to be complete.
    pub(super) fn begun(&self) -> Seq {
        let newest = Seq(self.recent.newest());
        if newest > self.watermark() {
            newest
        } else {
            Seq::NONE
        }
    }

    pub(super) fn stable(&self) -> u64 {
        self.stable.0.load()
    }

    /// Whether the disk may have lost what it had acknowledged.
    pub(super) fn has_failed(&self) -> bool {
        let writes = self.failures.load() > self.forgiven.load();
        (writes || self.flush_failed.load() != 0) && !on(Bug::SurviveFailedFlush)
    }

    /// Whether a flush failed: anything that was not stable may be gone.
    pub(super) fn flush_has_failed(&self) -> bool {
        self.flush_failed.load() != 0 && !on(Bug::SurviveFailedFlush)
    }

    pub(super) fn recent(&self) -> &Recent<M> {
        &self.recent
    }

    /// An episode begins: nothing is running, and what ran before does not count.
    pub(super) fn begin_episode(&self) {
        if !on(Bug::KeepDuplicates) {
            self.dedupe.reset();
        }
        self.recent.clear();
        self.stable.0.store(0);
        self.flush_failed.store(0);
        self.forgiven.store(self.failures.load());
        self.extents.forget_wanted();
    }

    /// The words of a page of a dirty bitmap, for a [`DirtyPage`](rmr_proto::DirtyPage).
    pub fn page(&self, of: MemberId, page: u64) -> impl Iterator<Item = u64> + '_ {
        let page = usize::try_from(page).unwrap_or(usize::MAX);
        self.bitmaps.page(of, page)
    }

    /// What of the own copy is on the list of unreadable sectors.
    pub fn unreadable(&self) -> impl Iterator<Item = BadBlock> + '_ {
        self.unreadable.blocks()
    }

    /// Whether a chunk of the copy of a member is dirty, as far as is known here.
    pub fn dirty(&self, of: MemberId, chunk: u64) -> bool {
        self.bitmaps.get(of, chunk)
    }
}
