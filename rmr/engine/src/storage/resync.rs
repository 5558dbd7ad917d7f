// SPDX-License-Identifier: GPL-2.0

//! How a member that catches up gets current again (R13, R16, R17).
//!
//! ```text
//!   idle ─► fetching ─► storing ─► pulling ⇄ proving
//! ```
//!
//! It fetches the bitmaps of all who are not in sync from a member that is, page by page, and stores them. Until
//! then all of its chunks count as dirty. Then it pulls dirty chunks and writes them. When what they hold is complete everywhere
//! (`written`), it flushes them; only then they are clean.
//! A chunk is pulled when no write to it is above the watermark, so that the source has executed what the member
//! has; a write that comes meanwhile spoils the pull, and the chunk stays dirty. All members in sync are sources, in turn.
//! After an error it goes on with another one, after a pause that grows. While the application writes, one chunk is pulled at a time, and after each it rests
//! for as long as that took, within bounds: application IO has the better half of disks and wires. A source that does not
//! answer in time has its connection closed. What a source cannot read is asked for block by block, and a block that no member
//! in sync can read is put on the list of unreadable sectors instead. It ends with the episode. While the administrator has it paused, no chunk
//! is asked for.
//!
//! Not here: the data, which the caller holds between [`Event::PeerReply`](super::Event::PeerReply) and
//! [`Action::PullWrite`].

use super::member::Member;
use super::plan::Goal;
use super::plan::Plan;
use super::pulls::MAX_PULLS;
use super::rate::Rate;
use super::shared::Shared;
use super::written::Written;
use super::written::MAX_WRITTEN;
use super::Action;
use super::Out;
use super::PeerAnswer;
use crate::memory::Memory;
use crate::planted::on;
use crate::planted::Bug;
use crate::time::Nanos;
use crate::time::Time;
use crate::time::MILLISECOND;
use crate::time::SECOND;
use rmr_proto::Ask;
use rmr_proto::Crc32c;
use rmr_proto::Header;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Peer;
use rmr_proto::Run;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::BLOCK_SHIFT;
use rmr_proto::MAX_CLEAR;
use rmr_proto::MAX_PULL;

/// Until chunks with recent writes are looked at again, and whether the watermark has moved.
const SETTLE: Nanos = 5 * MILLISECOND;
/// So often a chunk is put off for writes to it, before writes are put off for it.
const VAIN: u32 = 16;
/// So long at most: a watermark comes within a millisecond, a pull takes a round trip and two accesses.
const CLAIM: Nanos = 50 * MILLISECOND;
/// The first pause after an error.
const PAUSE: Nanos = 10 * MILLISECOND;
/// So long after a write completed the application counts as writing.
const BUSY: Nanos = 100 * MILLISECOND;
/// The longest rest after a chunk, so that the rate has a floor.
const MAX_REST: Nanos = 20 * MILLISECOND;
/// Rest that adds up to less than this is put off: short ones would cost more timers than they are worth.
const MIN_REST: Nanos = MILLISECOND;
/// So long a source may take for an answer.
const PATIENCE: Nanos = 5 * SECOND;
/// Chunks that are looked at in one go.
const MAX_LOOKS: u32 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Fetching,
    Storing,
    Pulling,
}

/// A chunk on its way, or the part of it that is.
#[derive(Clone, Copy, Debug, Hash)]
struct Pull {
    call: u64,
    chunk: u64,
    from: MemberId,
    /// The part, in bytes.
    offset: u64,
    len: u32,
    /// When the first part was asked for.
    since: Time,
    /// When this part must be there.
    deadline: Time,
    /// It is being written here.
    writing: bool,
    /// It is of no use.
    spoiled: bool,
    /// Block by block, as something in the chunk cannot be read.
    careful: bool,
    /// Members in sync that cannot read this block.
    tried: MemberSet,
    /// Members whose data was written.
    brought: MemberSet,
}

/// What is asked for, but data.
#[derive(Clone, Copy, Debug, Hash)]
struct Question {
    call: u64,
    from: MemberId,
    /// When the answer must be there.
    deadline: Time,
}

/// What a member knows of its own resync.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub(super) struct Resync {
    phase: Phase,
    /// Members whose bitmaps are still to be fetched; the first one from page `page` on.
    left: MemberSet,
    page: u64,
    /// What was fetched is on disk, and the member was a receiver since.
    told: bool,
    /// While fetching a page of a bitmap; while pulling what a source has begun.
    question: Option<Question>,
    pulls: [Option<Pull>; MAX_PULLS],
    /// Chunks that were written, and are not proved yet.
    written: Written,
    /// Where to look for the next dirty chunk.
    cursor: u64,
    /// Which source is next: after an error, and for the next chunk as long as there is none.
    turn: usize,
    spread: usize,
    errors: u32,
    /// Nothing is asked for before.
    pause: Time,
    /// Rest that is still to be taken.
    owed: Nanos,
    /// The time that was said for the timer; it may be over.
    timer: Time,
    /// The watermark when it was last looked at, and until when the application counts as writing.
    heard: Seq,
    busy: Time,
    /// Sources that clients read from, by their last answers.
    reads: MemberSet,
    /// A chunk that was written whenever it was to be pulled, and how often; claimed until then, if it is.
    stubborn: u64,
    vain: u32,
    claimed: Option<Time>,
    /// How fast chunks become current.
    pub(super) rate: Rate,
    last_call: u64,
}

impl Resync {
    pub(super) const fn new() -> Self {
        Self {
            phase: Phase::Idle,
            left: MemberSet::EMPTY,
            page: 0,
            told: false,
            question: None,
            pulls: [None; MAX_PULLS],
            written: Written::new(),
            cursor: 0,
            turn: 0,
            spread: 0,
            errors: 0,
            pause: Time(0),
            owed: 0,
            timer: Time::NEVER,
            heard: Seq::NONE,
            busy: Time(0),
            reads: MemberSet::EMPTY,
            stubborn: 0,
            vain: 0,
            claimed: None,
            rate: Rate::NONE,
            last_call: 0,
        }
    }

    /// An episode begins: the bitmaps of `members` are to be fetched.
    pub(super) fn begin(&mut self, members: MemberSet) {
        self.phase = Phase::Fetching;
        self.left = members;
        self.page = 0;
        self.told = false;
        self.question = None;
        self.cursor = 0;
        self.errors = 0;
        self.pause = Time(0);
        self.reads = MemberSet::EMPTY;
        self.rate = Rate::NONE;
        if on(Bug::TrustOwnBitmap) {
            self.phase = Phase::Pulling;
        }
    }

    /// An episode ends. What is being written goes on, and [`Self::writing`] tells so.
    pub(super) fn stop<M: Memory, J>(&mut self, shared: &Shared<M, J>) {
        self.phase = Phase::Idle;
        self.question = None;
        self.vain = 0;
        self.claimed = None;
        shared.pulls.release();
        self.spoil();
        for (slot, pull) in self.pulls.iter_mut().enumerate() {
            if pull.is_some_and(|pull| !pull.writing) {
                *pull = None;
                shared.pulls.end(slot);
            }
        }
    }

    /// What was pulled so far proves nothing.
    pub(super) fn spoil(&mut self) {
        if on(Bug::ProveInSpiteOfMerge) {
            return;
        }
        self.written.clear();
        if self.phase == Phase::Pulling {
            self.question = None;
        }
        for pull in self.pulls.iter_mut().flatten() {
            pull.spoiled = true;
        }
    }

    /// The configuration is another one. Whoever is no receiver in it cannot be asked any more what it had begun.
    pub(super) fn stay(&mut self, receivers: MemberSet) {
        let pulls = self.pulls.iter().flatten();
        let sources = pulls.fold(self.written.sources(), |sources, pull| {
            sources.union(pull.brought).with(pull.from)
        });
        if !sources.minus(receivers).is_empty() {
            self.spoil();
        }
    }

    /// Whether something that was pulled is being written.
    pub(super) fn writing(&self) -> bool {
        self.pulls.iter().flatten().any(|pull| pull.writing)
    }

    /// Whether it is known which chunks are dirty.
    pub(super) fn knows(&self) -> bool {
        self.phase == Phase::Pulling
    }

    /// What was fetched is on disk.
    pub(super) fn fetched(&mut self) {
        self.told = true;
        if self.phase == Phase::Storing {
            self.phase = Phase::Pulling;
        }
    }

    /// The member does not catch up in the configuration that is installed.
    pub(super) fn leave<M: Memory, J>(&mut self, shared: &Shared<M, J>) {
        self.told = false;
        self.stop(shared);
    }

    /// Whether the member's own bitmap has all that it missed, also after the episode was stopped. Not after a restart: that
    /// is not on disk.
    pub(super) fn was_told(&self) -> bool {
        self.told
    }

    fn active(&self) -> usize {
        self.pulls.iter().flatten().count()
    }

    /// How many chunks may be on their way.
    fn most(&mut self, now: Time, watermark: Seq) -> usize {
        if watermark != self.heard {
            self.heard = watermark;
            self.busy = now.after(BUSY);
        }
        if self.gives_way(now) {
            1
        } else {
            MAX_PULLS
        }
    }

    /// Whether the application comes first (R17): it writes, or reads from a source.
    fn gives_way(&self, now: Time) -> bool {
        now < self.busy || !self.reads.is_empty()
    }

    /// What was written is asked about. Who brought nothing of it is not asked, and would not say that reads are over.
    fn ask_about_written(&mut self, now: Time) {
        self.written.ask(now);
        self.reads = self.reads.intersection(self.written.sources());
    }

    /// A source has said whether clients read from it.
    fn heard_of_reads(&mut self, from: MemberId, reads: bool) {
        self.reads = self.reads.without(from);
        if reads {
            self.reads = self.reads.with(from);
        }
    }

    /// A chunk came that was asked for then.
    fn rest(&mut self, now: Time, since: Time) {
        if !self.gives_way(now) {
            return;
        }
        self.owed += now.since(since).min(MAX_REST);
        if self.owed >= MIN_REST {
            self.pause = self.pause.max(now.after(self.owed.min(MAX_REST)));
            self.owed = 0;
        }
    }

    /// When the first answer is late.
    fn deadline(&self) -> Time {
        let pulls = self.pulls.iter().flatten().filter(|pull| !pull.writing);
        let question = self.question.map_or(Time::NEVER, |asked| asked.deadline);
        pulls
            .map(|pull| pull.deadline)
            .fold(question, |at, other| at.earliest(other))
    }

    /// Those whose answers are late. They are given until `next` to come back.
    fn late(&mut self, now: Time, next: Time) -> MemberSet {
        let pulls = self.pulls.iter_mut().flatten().filter(|pull| !pull.writing);
        let pulls = pulls.map(|pull| (&mut pull.deadline, pull.from));
        let question = self.question.iter_mut();
        let question = question.map(|asked| (&mut asked.deadline, asked.from));
        let mut late = MemberSet::EMPTY;
        for (deadline, from) in pulls.chain(question) {
            if *deadline <= now {
                *deadline = next;
                late = late.with(from);
            }
        }
        late
    }

    /// Whether a chunk is on its way, or was written already.
    fn has(&self, chunk: u64) -> bool {
        self.pulls.iter().flatten().any(|pull| pull.chunk == chunk) || self.written.has(chunk)
    }

    /// A chunk was written when it was to be pulled. One such chunk is kept in mind, until it came through.
    fn put_off(&mut self, chunk: u64) {
        if self.vain == 0 {
            self.stubborn = chunk;
        }
        if self.stubborn == chunk {
            self.vain = self.vain.saturating_add(1);
        }
    }

    /// Claims the stubborn chunk, or lets go of it when that took too long. `true`: writes may go on.
    fn claim<M: Memory, J>(&mut self, now: Time, shared: &Shared<M, J>) -> bool {
        // No write waits for what is not asked for.
        let paused = shared.resync_is_paused();
        match self.claimed {
            Some(until) if now >= until || paused => return self.let_go(shared),
            None if self.vain >= VAIN && !paused => {
                self.claimed = Some(now.after(CLAIM));
                shared.pulls.claim(self.stubborn);
            }
            _ => {}
        }
        if self.claimed.is_some() {
            self.cursor = self.stubborn;
        }
        false
    }

    fn let_go<M: Memory, J>(&mut self, shared: &Shared<M, J>) -> bool {
        self.vain = 0;
        shared.pulls.release();
        self.claimed.take().is_some()
    }

    fn call(&mut self) -> u64 {
        self.last_call += 1;
        self.last_call
    }

    /// Something failed: another source, after a pause. What was asked for together and failed counts once: by their number
    /// sources would be left out, each time the same ones.
    fn failed(&mut self, now: Time) {
        if now < self.pause && self.errors != 0 {
            return;
        }
        self.turn = self.turn.wrapping_add(1);
        let pause = (PAUSE << self.errors.min(16)).min(SECOND);
        self.errors = self.errors.saturating_add(1);
        self.pause = now.after(pause);
    }

    /// Whether it is time to ask any receiver, after so many errors.
    fn asks_any(&self) -> bool {
        self.errors & 3 == 3 || on(Bug::ServeDirty)
    }

    /// The member of `of` whose turn it is.
    fn source(&self, of: MemberSet) -> Option<MemberId> {
        // Any receiver is asked each fourth time, and it must not be the same one whenever that is.
        nth(
            of,
            if self.asks_any() {
                self.turn >> 2
            } else {
                self.turn
            },
        )
    }

    /// The member of `of` that the next chunk is pulled from: all in turn, as long as they answer.
    fn source_of_chunk(&mut self, of: MemberSet) -> Option<MemberId> {
        if self.errors != 0 || self.asks_any() {
            return self.source(of);
        }
        self.spread = self.spread.wrapping_add(1);
        nth(of, self.spread)
    }
}

/// The member of `of` at place `turn`, counted round and round.
fn nth(of: MemberSet, turn: usize) -> Option<MemberId> {
    let mut place = turn & 31;
    let len = of.len() as usize;
    if len == 0 {
        return None;
    }
    while place >= len {
        place -= len;
    }
    of.iter().nth(place)
}

impl<M: Memory, C: Crc32c> Member<M, C> {
    /// Sends a message to another member, under what is installed.
    fn send(&mut self, to: MemberId, ask: Ask<'_>, out: &mut impl Out) -> Option<u64> {
        let identity = self.serving?.identity;
        let incarnation = self.record.installed.as_ref()?.incarnation(to);
        let call = self.resync.call();
        out.act(Action::SendPeer {
            call,
            to,
            message: &Peer {
                to: Header {
                    pool: identity.pool,
                    member: to,
                    incarnation,
                    generation: identity.generation,
                    epoch: identity.epoch,
                    watermark: Seq::NONE,
                },
                from: self.info.member,
                ask,
            },
        });
        Some(call)
    }

    /// The others that may answer: those in sync, and now and then any receiver.
    fn sources(&self, any: bool) -> MemberSet {
        let Some(config) = &self.record.installed else {
            return MemberSet::EMPTY;
        };
        let of = if any {
            config.receivers()
        } else {
            config.in_sync
        };
        of.without(self.info.member)
    }

    /// Asks for whatever is to be had now.
    pub(super) fn resync_work<J>(&mut self, now: Time, shared: &Shared<M, J>, out: &mut impl Out) {
        let changing = self.plan.as_ref().is_some_and(Plan::is_change);
        if self.serving.is_none_or(|serving| serving.in_sync) || changing {
            return;
        }
        for id in self.resync.late(now, now.after(PATIENCE)) {
            out.act(Action::ClosePeer(id));
        }
        let again = if now < self.resync.pause {
            self.resync.pause
        } else {
            match self.resync.phase {
                Phase::Fetching => self.fetch(now, out),
                Phase::Pulling => self.pull(now, shared, out),
                Phase::Idle | Phase::Storing => Time::NEVER,
            }
        };
        let at = again.earliest(self.resync.deadline());
        // What comes too early is looked at again.
        if at < self.resync.timer || self.resync.timer <= now {
            self.resync.timer = at;
            if at != Time::NEVER {
                out.act(Action::Timer(at));
            }
        }
    }

    /// Asks a member for something but data.
    fn ask(&mut self, now: Time, from: MemberId, ask: Ask<'_>, out: &mut impl Out) {
        let call = self.send(from, ask, out);
        self.resync.question = call.map(|call| Question {
            call,
            from,
            deadline: now.after(PATIENCE),
        });
    }

    /// Fetches the next page; when to be called again.
    fn fetch(&mut self, now: Time, out: &mut impl Out) -> Time {
        if self.resync.question.is_some() {
            return Time::NEVER;
        }
        let Some(of) = self.resync.left.iter().next() else {
            return Time::NEVER;
        };
        let page = self.resync.page;
        if let Some(from) = self.resync.source(self.sources(false)) {
            self.ask(now, from, Ask::FetchDirty { of, page }, out);
        }
        if self.resync.question.is_none() {
            self.resync.failed(now);
            return self.resync.pause;
        }
        Time::NEVER
    }

    /// Asks for as many chunks as may be on their way; when to be called again.
    fn pull<J>(&mut self, now: Time, shared: &Shared<M, J>, out: &mut impl Out) -> Time {
        let own = self.info.member;
        let most = match self.resync.most(now, shared.watermark()) {
            _ if shared.resync_is_paused() => 0,
            most => most,
        };
        shared.bitmaps.spell_out(own);
        let mut wrapped = false;
        let mut later = false;
        if self.resync.claim(now, shared) {
            out.act(Action::Retry);
        }
        for _ in 0..MAX_LOOKS {
            let active = self.resync.active();
            let room = active < most && self.resync.written.count() + active < MAX_WRITTEN;
            let Some(slot) = self.resync.pulls.iter().position(Option::is_none) else {
                break;
            };
            if !room {
                break;
            }
            let Some(chunk) = shared.bitmaps.next(own, self.resync.cursor) else {
                self.resync.cursor = 0;
                if wrapped {
                    break;
                }
                wrapped = true;
                continue;
            };
            self.resync.cursor = chunk + 1;
            if self.resync.has(chunk) {
                continue;
            }
            shared.pulls.ask(slot, chunk);
            let recent = shared.recent().touched(shared.watermark().0, chunk);
            if recent && !on(Bug::PullRecent) {
                shared.pulls.end(slot);
                self.resync.put_off(chunk);
                later = true;
                continue;
            }
            if !self.begin_pull(now, slot, chunk, shared, out) {
                shared.pulls.end(slot);
                self.resync.failed(now);
                return self.resync.pause;
            }
        }
        let again = if later && self.resync.claimed.is_some() {
            now.after(MILLISECOND)
        } else if later {
            now.after(SETTLE)
        } else {
            Time::NEVER
        };
        again.earliest(self.ask_begun(now, shared, out))
    }

    /// Asks those who brought what was written what they have begun; when to be called again.
    fn ask_begun<J>(&mut self, now: Time, shared: &Shared<M, J>, out: &mut impl Out) -> Time {
        let (count, active) = (self.resync.written.count(), self.resync.active());
        // One flush for many chunks, also while they come one by one.
        let ready = count + active >= MAX_CLEAR || active == 0;
        if count != 0 && ready && !self.resync.written.is_asked() {
            self.resync.ask_about_written(now);
        }
        if !self.resync.written.is_asked() || self.resync.question.is_some() {
            return Time::NEVER;
        }
        if let Some(from) = self.resync.written.next() {
            self.ask(now, from, Ask::Begun, out);
            return Time::NEVER;
        }
        if self.plan.is_some() {
            // After it they are looked at in any case.
            return Time::NEVER;
        }
        let waited = now.since(self.resync.written.since());
        if waited >= PATIENCE && !self.resync.written.is_likely(shared.watermark()) {
            self.resync.written.give_up();
            self.resync.failed(now);
            return self.resync.pause;
        }
        // A client that is away moves no watermark, for as long as that may be.
        now.after(waited.clamp(SETTLE, SECOND))
    }

    /// What a source has begun: until the watermark is there, what it brought may be incomplete.
    fn begun(&mut self, now: Time, from: MemberId, result: Result<PeerAnswer<'_>, Status>) {
        match result {
            Ok(PeerAnswer::Begun(begun)) => {
                self.resync.heard_of_reads(from, begun.reads);
                self.resync.written.answered(from, begun.seq);
            }
            _ => {
                self.resync.written.give_up();
                self.resync.failed(now);
            }
        }
    }

    fn begin_pull<J>(
        &mut self,
        now: Time,
        slot: usize,
        chunk: u64,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) -> bool {
        let any = self.resync.asks_any();
        let Some((offset, len)) = shared.geometry().chunk_range(chunk) else {
            return false;
        };
        let whole = offset..offset + len;
        let len = len.min(MAX_PULL.into()) as u32;
        let sources = self.sources(any);
        let Some(from) = self.resync.source_of_chunk(sources) else {
            return false;
        };
        let Some(call) = self.send(from, Ask::Pull { offset, len }, out) else {
            return false;
        };
        if let Some(place) = self.resync.pulls.get_mut(slot) {
            *place = Some(Pull {
                call,
                chunk,
                from,
                offset,
                len,
                since: now,
                deadline: now.after(PATIENCE),
                writing: false,
                spoiled: false,
                careful: false,
                tried: MemberSet::EMPTY,
                brought: MemberSet::EMPTY,
            });
            shared.unreadable.unfind(&whole);
        }
        true
    }

    /// An answer of another member, or that there is none.
    pub(super) fn peer_reply<J>(
        &mut self,
        now: Time,
        call: u64,
        result: Result<PeerAnswer<'_>, Status>,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        let question = self.resync.question;
        if let Some(Question { from, .. }) = question.filter(|asked| asked.call == call) {
            self.resync.question = None;
            return if self.resync.phase == Phase::Pulling {
                self.begun(now, from, result)
            } else {
                self.page_fetched(now, result, shared)
            };
        }
        let Some(slot) = self.slot_of(call) else {
            return;
        };
        let Some(Some(pull)) = self.resync.pulls.get_mut(slot) else {
            return;
        };
        match result {
            Ok(PeerAnswer::Data) if !pull.spoiled && shared.pulls.write(slot) => {
                pull.writing = true;
                pull.brought = pull.brought.with(pull.from);
                let (offset, len) = (pull.offset, pull.len);
                self.resync.errors = 0;
                out.act(Action::PullWrite { call, offset, len });
            }
            Ok(PeerAnswer::Data) => {
                let chunk = pull.chunk;
                self.resync.put_off(chunk);
                self.end_pull(slot, shared);
            }
            Err(Status::Medium) if !pull.spoiled => {
                let pull = *pull;
                self.part_unreadable(now, slot, pull, shared, out);
            }
            _ => {
                self.end_pull(slot, shared);
                self.resync.failed(now);
            }
        }
    }

    /// A source cannot read a part: block by block from now on. A block that no member in sync can read is put on the list,
    /// and the rest goes on.
    fn part_unreadable<J>(
        &mut self,
        now: Time,
        slot: usize,
        pull: Pull,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        let sources = self.sources(false);
        let tried = if pull.careful {
            pull.tried.with(pull.from)
        } else {
            MemberSet::EMPTY
        };
        if let Some(from) = sources.minus(tried).iter().next() {
            let part = Pull {
                from,
                len: 1 << BLOCK_SHIFT,
                careful: true,
                tried,
                ..pull
            };
            self.ask_part(now, slot, part, shared, out);
        } else if !sources.is_empty() && shared.unreadable.find(pull.offset >> BLOCK_SHIFT) {
            self.part_done(now, slot, pull, shared, out);
        } else {
            self.end_pull(slot, shared);
            self.resync.failed(now);
        }
    }

    /// Asks for another part of a chunk on its way.
    fn ask_part<J>(
        &mut self,
        now: Time,
        slot: usize,
        part: Pull,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        let (offset, len) = (part.offset, part.len);
        let Some(call) = self.send(part.from, Ask::Pull { offset, len }, out) else {
            return self.end_pull(slot, shared);
        };
        if let Some(place) = self.resync.pulls.get_mut(slot) {
            *place = Some(Pull {
                call,
                deadline: now.after(PATIENCE),
                ..part
            });
        }
    }

    fn slot_of(&self, call: u64) -> Option<usize> {
        let is = |pull: &Option<Pull>| pull.is_some_and(|pull| pull.call == call);
        self.resync.pulls.iter().position(is)
    }

    fn end_pull<J>(&mut self, slot: usize, shared: &Shared<M, J>) {
        if let Some(place) = self.resync.pulls.get_mut(slot) {
            *place = None;
        }
        shared.pulls.end(slot);
    }

    fn page_fetched<J>(
        &mut self,
        now: Time,
        result: Result<PeerAnswer<'_>, Status>,
        shared: &Shared<M, J>,
    ) {
        let Some(of) = self.resync.left.iter().next() else {
            return;
        };
        match result {
            Ok(PeerAnswer::Page(page)) if page.of == of && page.page == self.resync.page => {
                let words = page.words.iter().map(|word| word.get());
                let number = usize::try_from(page.page).unwrap_or(usize::MAX);
                shared.bitmaps.merge(of, number, words);
                self.resync.errors = 0;
                self.resync.page += 1;
                if self.resync.page >= shared.bitmaps.pages() as u64 {
                    self.resync.page = 0;
                    self.resync.left = self.resync.left.without(of);
                }
                if self.resync.left.is_empty() {
                    self.resync.phase = Phase::Storing;
                }
            }
            _ => self.resync.failed(now),
        }
    }

    /// What was pulled is written, or could not be.
    pub(super) fn pull_written<J>(
        &mut self,
        now: Time,
        call: u64,
        result: Result<(), Status>,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        let Some(slot) = self.slot_of(call) else {
            return;
        };
        let Some(Some(pull)) = self.resync.pulls.get_mut(slot) else {
            return;
        };
        pull.writing = false;
        let done = *pull;
        if result.is_err() || done.spoiled {
            self.end_pull(slot, shared);
            if result.is_err() {
                self.resync.failed(now);
            }
        } else {
            // What was written of it remains; a write to the chunk from now on spoils all of it.
            shared.pulls.ask_again(slot);
            self.part_done(now, slot, done, shared, out);
        }
        // Writes to the chunk waited.
        out.act(Action::Retry);
    }

    /// A part of a chunk is written, or on the list: the next one, if there is any.
    fn part_done<J>(
        &mut self,
        now: Time,
        slot: usize,
        done: Pull,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        let end = shared.geometry().chunk_range(done.chunk);
        let end = end.map_or(0, |(offset, len)| offset + len);
        let offset = done.offset + u64::from(done.len);
        if offset < end {
            let most = if done.careful {
                1 << BLOCK_SHIFT
            } else {
                MAX_PULL
            };
            let part = Pull {
                offset,
                len: (end - offset).min(most.into()) as u32,
                tried: MemberSet::EMPTY,
                ..done
            };
            self.ask_part(now, slot, part, shared, out);
        } else if !shared.pulls.is_good(slot) {
            self.resync.put_off(done.chunk);
            self.end_pull(slot, shared);
        } else {
            self.resync.written.note(done.chunk, done.brought);
            self.end_pull(slot, shared);
            if let Some((_, len)) = shared.geometry().chunk_range(done.chunk) {
                self.resync.rate.add(now, len);
            }
            self.resync.rest(now, done.since);
            if self.resync.vain > 0 && self.resync.stubborn == done.chunk {
                self.resync.let_go(shared);
            }
        }
    }

    /// Begins to store what was fetched, or to prove what was pulled; `false` if there is nothing of that.
    pub(super) fn begin_resync_plan<J>(&mut self, shared: &Shared<M, J>) -> bool {
        if self.serving.is_none() {
            return false;
        }
        let watermark = if on(Bug::ProveIncomplete) {
            Seq(u64::MAX)
        } else {
            shared.watermark()
        };
        let mut plan = match self.resync.phase {
            Phase::Storing => {
                shared.bitmaps.spell_out(self.info.member);
                Plan::new(Goal::Fetched)
            }
            Phase::Pulling if self.resync.written.is_complete(watermark) => {
                self.resync.written.prove();
                for chunk in self.resync.written.asked() {
                    if let Some((offset, len)) = shared.geometry().chunk_range(chunk) {
                        shared.unreadable.replace(&(offset..offset + len));
                    }
                }
                let mut plan = Plan::new(Goal::Prove);
                plan.list = shared.unreadable.is_changed() && !on(Bug::UnreadableUnwritten);
                plan
            }
            _ => return false,
        };
        plan.flush =
            plan.goal == Goal::Prove && !on(Bug::ProveUnflushed) && !on(Bug::NoPromotionFlush);
        self.plan = Some(plan);
        true
    }

    /// What was pulled is stable: it is clean, and the others may know.
    pub(super) fn proved<J>(&mut self, shared: &Shared<M, J>, out: &mut impl Out) {
        let own = self.info.member;
        let mut runs = [Run::EMPTY; MAX_CLEAR];
        let proved = self.resync.written.take(&mut runs);
        if proved.is_empty() {
            return;
        }
        for run in proved {
            shared.bitmaps.clear(own, run.range());
        }
        // Best effort: whoever does not hear of it keeps bits that do no harm.
        for to in self.sources(true) {
            let _ = self.send(to, Ask::Clear { runs: proved }, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedupe::Joiners;
    use crate::memory::HostMemory;
    use crate::sync::HostLock;
    use rmr_proto::Geometry;

    type Common = Shared<HostMemory, HostLock<Joiners<u64>>>;

    const NOW: Time = Time(1000 * SECOND);

    fn shared() -> Common {
        let geometry = Geometry::new(1 << 30, 16).unwrap();
        Shared::new(&HostMemory, geometry, HostLock::new(Joiners::new())).unwrap()
    }

    fn id(id: u32) -> MemberId {
        MemberId::new(id).unwrap()
    }

    fn pull(chunk: u64, from: u32, deadline: Time, writing: bool) -> Pull {
        Pull {
            call: chunk,
            chunk,
            from: id(from),
            offset: chunk << 16,
            len: 1 << 16,
            since: NOW,
            deadline,
            writing,
            spoiled: false,
            careful: false,
            tried: MemberSet::EMPTY,
            brought: MemberSet::EMPTY,
        }
    }

    #[test]
    fn reads_of_sources() {
        let mut resync = Resync::new();
        let most = |resync: &mut Resync| resync.most(NOW, Seq::NONE);
        resync.written.note(7, MemberSet::only(id(2)).with(id(3)));
        for source in [2, 3] {
            assert_eq!(most(&mut resync), MAX_PULLS);
            resync.heard_of_reads(id(source), true);
            assert_eq!(most(&mut resync), 1);
            resync.heard_of_reads(id(2), false);
            resync.heard_of_reads(id(3), source == 3);
        }
        assert_eq!(most(&mut resync), 1);
        resync.ask_about_written(NOW);
        assert_eq!(most(&mut resync), 1);
        // The next chunk is not from 3.
        resync.heard_of_reads(id(2), true);
        resync.written.give_up();
        resync.written.note(8, MemberSet::only(id(2)));
        resync.ask_about_written(NOW);
        assert_eq!(resync.reads, MemberSet::only(id(2)));
        resync.begin(MemberSet::EMPTY);
        assert_eq!(most(&mut resync), MAX_PULLS);
    }

    #[test]
    fn a_stubborn_chunk() {
        let (mut resync, shared) = (Resync::new(), shared());
        let is_claimed = || shared.pulls.is_claimed(&(5..6));
        for _ in 1..VAIN {
            resync.put_off(5);
            resync.put_off(6);
            assert!(!resync.claim(NOW, &shared) && !is_claimed());
        }
        resync.put_off(5);
        let until = NOW.after(CLAIM);
        for now in [NOW, Time(until.0 - 1)] {
            resync.cursor = 9;
            assert!(!resync.claim(now, &shared) && is_claimed());
            assert_eq!(resync.cursor, 5);
        }
        assert!(resync.claim(until, &shared) && !is_claimed());
        assert!(!resync.claim(until, &shared) && !is_claimed());
        assert!(!resync.let_go(&shared));
    }

    /// No write waits for a chunk while nothing is asked for.
    #[test]
    fn nothing_is_claimed_while_paused() {
        let (mut resync, shared) = (Resync::new(), shared());
        let is_claimed = || shared.pulls.is_claimed(&(5..6));
        (0..VAIN).for_each(|_| resync.put_off(5));
        shared.pause_resync(true);
        assert!(!resync.claim(NOW, &shared) && !is_claimed());
        shared.pause_resync(false);
        assert!(!resync.claim(NOW, &shared) && is_claimed());
        shared.pause_resync(true);
        assert!(resync.claim(NOW, &shared) && !is_claimed());
    }

    #[test]
    fn rests_while_the_application_writes() {
        let mut resync = Resync::new();
        assert_eq!(resync.most(NOW, Seq::NONE), MAX_PULLS);
        resync.rest(NOW.after(MILLISECOND), NOW);
        assert_eq!(resync.pause, Time(0));
        assert_eq!(resync.most(NOW, Seq(7)), 1);
        let end = NOW.after(BUSY);
        assert_eq!(resync.most(Time(end.0 - 1), Seq(7)), 1);
        let mut pause_after = |millis: u64, took: Nanos| {
            let now = NOW.after(millis * MILLISECOND);
            resync.rest(now, Time(now.0 - took));
            resync.pause.since(NOW)
        };
        // As long as the chunk took; short ones add up; not for ever.
        assert_eq!(pause_after(3, 3 * MILLISECOND), 6 * MILLISECOND);
        assert_eq!(pause_after(7, 400_000), 6 * MILLISECOND);
        assert_eq!(pause_after(8, 400_000), 6 * MILLISECOND);
        assert_eq!(pause_after(9, 400_000), 9 * MILLISECOND + 1_200_000);
        assert_eq!(pause_after(30, SECOND), 30 * MILLISECOND + MAX_REST);
        assert_eq!(pause_after(100, SECOND), 30 * MILLISECOND + MAX_REST);
        assert_eq!(resync.most(end, Seq(7)), MAX_PULLS);
    }

    #[test]
    fn late_answers() {
        let mut resync = Resync::new();
        assert_eq!(resync.deadline(), Time::NEVER);
        let [first, second, third, next] = [1, 2, 3, 9].map(|after| NOW.after(after));
        // What is being written here waits for nobody.
        resync.pulls[0] = Some(pull(5, 1, first, true));
        resync.pulls[2] = Some(pull(6, 2, second, false));
        resync.question = Some(Question {
            call: 7,
            from: id(3),
            deadline: third,
        });
        assert_eq!(resync.deadline(), second);
        assert_eq!(resync.late(first, next), MemberSet::EMPTY);
        assert_eq!(resync.late(second, next), MemberSet::only(id(2)));
        assert_eq!(resync.deadline(), third);
        assert_eq!(resync.late(third, next), MemberSet::only(id(3)));
        assert_eq!(resync.deadline(), next);
    }

    #[test]
    fn stopped() {
        let (mut resync, shared) = (Resync::new(), shared());
        resync.begin(MemberSet::only(id(2)));
        assert!(!resync.writing() && !resync.knows());
        for (slot, chunk) in [(0, 5), (1, 6)] {
            shared.pulls.ask(slot, chunk);
            resync.pulls[slot] = Some(pull(chunk, 2, NOW, slot == 0));
        }
        resync.written.note(4, MemberSet::only(id(2)));
        assert!(resync.writing() && [4, 5, 6].iter().all(|chunk| resync.has(*chunk)));
        resync.stop(&shared);
        // What is being written goes on, but proves nothing.
        assert!(resync.writing() && resync.pulls[0].is_some_and(|pull| pull.spoiled));
        assert!(resync.has(5) && !resync.has(4) && !resync.has(6));
        assert!(resync.question.is_none() && !resync.knows());
        assert!(shared.pulls.is_good(0) && !shared.pulls.is_good(1));
    }

    #[test]
    fn all_sources_in_turn() {
        let mut resync = Resync::new();
        let three: MemberSet = [1, 2, 3].map(id).into_iter().collect();
        assert_eq!(resync.source_of_chunk(MemberSet::EMPTY), None);
        let asked = |resync: &mut Resync| resync.source_of_chunk(three).unwrap();
        let first = [0; 3].map(|_| asked(&mut resync));
        assert_eq!(first.into_iter().collect::<MemberSet>(), three);
        assert_eq!([0; 3].map(|_| asked(&mut resync)), first);
        // Not while something is wrong.
        resync.failed(NOW);
        assert_eq!([0; 3].map(|_| asked(&mut resync)), [id(2); 3]);
        resync.errors = 0;
        assert_eq!([0; 3].map(|_| asked(&mut resync)), first);
    }

    #[test]
    fn another_source_after_an_error() {
        let mut resync = Resync::new();
        let three = [1, 2, 3].map(id).into_iter().collect();
        assert_eq!(resync.source(MemberSet::EMPTY), None);
        assert_eq!(resync.source(three), Some(id(1)));
        let mut now = NOW;
        for (pause, turn) in [(10, 1), (20, 2), (40, 3), (80, 4)] {
            resync.failed(now);
            let until = now.after(pause * MILLISECOND);
            assert_eq!((resync.pause, resync.turn), (until, turn));
            // What was asked for together fails together.
            resync.failed(Time(until.0 - 1));
            assert_eq!((resync.pause, resync.turn), (until, turn));
            now = until;
            assert_eq!(resync.asks_any(), turn == 3);
            let expected = if turn == 3 { 0 } else { turn % 3 };
            assert_eq!(resync.source(three), three.iter().nth(expected));
        }
        for _ in 0..40 {
            resync.failed(now);
            assert!(resync.pause <= now.after(SECOND));
            now = resync.pause;
        }
    }
}
