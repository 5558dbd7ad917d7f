// SPDX-License-Identifier: GPL-2.0

//! The chunks that were pulled and written here, until they are proved (R13).
//!
//! What was pulled may hold a write that is not complete: its source has executed it, the own copy of the message is late, or lost. Were
//! the chunk clean, and client, source and this member gone then, others would start without knowing that this copy differs. So
//! everybody of whom something was pulled is asked, after it came, for the highest number that it has begun to execute, if that is not
//! complete. When the watermark has reached all of these, every receiver has what the chunks hold.
//!
//! ```text
//!   noted ─► asked about ─► answered, and the watermark is there ─► flushed, taken
//! ```
//!
//! Chunks go this way many at a time; what is noted meanwhile goes with the next ones.
//!
//! Not here: how members are asked, and when (`resync`).

use crate::time::Time;
use crate::window::WINDOW;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Run;
use rmr_proto::Seq;
use rmr_proto::MAX_CLEAR;

/// Room for chunks: while some are proved, as many are pulled.
pub(super) const MAX_WRITTEN: usize = 2 * MAX_CLEAR;

/// The chunks, those that are asked about before the others.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub(super) struct Written {
    chunks: [u64; MAX_WRITTEN],
    count: usize,
    /// So many are asked about; at most [`MAX_CLEAR`].
    asked: usize,
    /// Who brought those that are not.
    from: MemberSet,
    /// Who has not answered yet.
    left: MemberSet,
    /// The highest number that was answered.
    begun: Seq,
    /// When they began to be asked about.
    since: Time,
    /// The flush under way proves those that are asked about.
    proving: bool,
}

impl Written {
    pub(super) const fn new() -> Self {
        Self {
            chunks: [0; MAX_WRITTEN],
            count: 0,
            asked: 0,
            from: MemberSet::EMPTY,
            left: MemberSet::EMPTY,
            begun: Seq::NONE,
            since: Time(0),
            proving: false,
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Whether it is one of them.
    pub(super) fn has(&self, chunk: u64) -> bool {
        self.chunks.iter().take(self.count).any(|of| *of == chunk)
    }

    /// One more, of data of these members.
    pub(super) fn note(&mut self, chunk: u64, from: MemberSet) {
        if let Some(place) = self.chunks.get_mut(self.count) {
            *place = chunk;
            self.count += 1;
            self.from = self.from.union(from);
        }
    }

    /// Whether some are asked about.
    pub(super) fn is_asked(&self) -> bool {
        self.asked != 0
    }

    /// Those that are asked about.
    pub(super) fn asked(&self) -> impl Iterator<Item = u64> + '_ {
        self.chunks.iter().take(self.asked).copied()
    }

    /// From now on all there are, or as many as can be proved together, are asked about. Not while others are.
    pub(super) fn ask(&mut self, now: Time) {
        self.asked = self.count.min(MAX_CLEAR);
        self.left = self.from;
        if self.asked == self.count {
            self.from = MemberSet::EMPTY;
        }
        self.begun = Seq::NONE;
        self.since = now;
    }

    /// When they began to be asked about.
    pub(super) fn since(&self) -> Time {
        self.since
    }

    /// Who is to be asked next.
    pub(super) fn next(&self) -> Option<MemberId> {
        self.left.iter().next()
    }

    /// Who has still to be asked about something.
    pub(super) fn sources(&self) -> MemberSet {
        self.from.union(self.left)
    }

    /// This is the highest number that a member had begun.
    pub(super) fn answered(&mut self, by: MemberId, begun: Seq) {
        self.left = self.left.without(by);
        self.begun = self.begun.max(begun);
    }

    /// Whether those that are asked about hold nothing that is not complete everywhere, with this watermark.
    pub(super) fn is_complete(&self, watermark: Seq) -> bool {
        self.asked != 0 && self.left.is_empty() && watermark >= self.begun
    }

    /// Whether the watermark may get where it has to be. While it was not heard of yet, or a client is just away, it may seem otherwise.
    pub(super) fn is_likely(&self, watermark: Seq) -> bool {
        self.begun.0 <= watermark.0.saturating_add(WINDOW as u64)
    }

    /// A flush begins that proves those that are asked about.
    pub(super) fn prove(&mut self) {
        self.proving = true;
    }

    /// It succeeded: these are proved, and are here no more. None, if something came in between.
    pub(super) fn take<'a>(&mut self, runs: &'a mut [Run; MAX_CLEAR]) -> &'a [Run] {
        let proved = if self.proving { self.asked } else { 0 };
        for (run, chunk) in runs.iter_mut().zip(self.chunks.iter().take(proved)) {
            *run = Run::new(*chunk, 1);
        }
        if self.proving {
            self.give_up();
        }
        runs.get(..proved).unwrap_or(&[])
    }

    /// Those that are asked about are here no more.
    pub(super) fn give_up(&mut self) {
        let asked = core::mem::take(&mut self.asked).min(self.count);
        self.chunks.copy_within(asked.., 0);
        self.count -= asked;
        self.left = MemberSet::EMPTY;
        self.proving = false;
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.asked = 0;
        self.give_up();
        self.count = 0;
        self.from = MemberSet::EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn set(ids: &[u32]) -> MemberSet {
        ids.iter().filter_map(|id| MemberId::new(*id)).collect()
    }

    fn take(written: &mut Written) -> Vec<Run> {
        written.take(&mut [Run::EMPTY; MAX_CLEAR]).to_vec()
    }

    #[test]
    fn asked_answered_complete() {
        let mut written = Written::new();
        assert!(!written.is_complete(Seq(9)) && written.next().is_none());
        written.note(7, set(&[1]));
        written.note(5, set(&[1, 3]));
        assert!(written.has(5) && !written.has(0) && !written.is_asked());
        written.ask(Time(4));
        written.note(6, set(&[2]));
        assert_eq!(written.sources(), set(&[1, 2, 3]));
        assert_eq!((written.since(), written.count()), (Time(4), 3));
        for begun in [8, 2] {
            assert!(!written.is_complete(Seq(9)));
            let by = written.next().unwrap();
            written.answered(by, Seq(begun));
        }
        assert_eq!(written.sources(), set(&[2]));
        assert!(!written.is_complete(Seq(7)) && written.is_complete(Seq(8)));
        assert!(written.is_likely(Seq(7)));
        assert_eq!(take(&mut written), []);
        assert!(written.asked().eq([7, 5]));
        written.prove();
        assert_eq!(take(&mut written), [Run::new(7, 1), Run::new(5, 1)]);
        assert!(!written.is_complete(Seq(9)) && written.has(6) && !written.has(5));
        // Who did not answer is asked again when they are pulled again.
        written.ask(Time(5));
        written.give_up();
        assert_eq!((written.count(), written.sources()), (0, MemberSet::EMPTY));
    }

    #[test]
    fn what_came_in_between_proves_nothing() {
        let mut written = Written::new();
        written.note(7, set(&[1]));
        written.ask(Time(0));
        written.answered(written.next().unwrap(), Seq(1));
        written.prove();
        written.clear();
        written.note(7, set(&[1]));
        written.ask(Time(0));
        assert_eq!(take(&mut written), []);
        written.answered(written.next().unwrap(), Seq(u64::MAX));
        assert!(!written.is_likely(Seq(1)) && written.is_likely(Seq(u64::MAX - 1)));
        assert!(written.has(7) && !written.is_complete(Seq(1)));
    }

    #[test]
    fn more_than_can_be_proved_together() {
        let mut written = Written::new();
        for chunk in 0..=MAX_WRITTEN as u64 {
            written.note(chunk, set(&[1]));
        }
        assert_eq!(written.count(), MAX_WRITTEN);
        for half in 0..2 {
            written.ask(Time(0));
            assert_eq!(written.asked().count(), MAX_CLEAR);
            written.answered(written.next().unwrap(), Seq(1));
            written.prove();
            let first = half * MAX_CLEAR as u64;
            assert_eq!(take(&mut written)[0], Run::new(first, 1));
        }
        assert_eq!(written.count(), 0);
    }
}
