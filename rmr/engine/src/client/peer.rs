// SPDX-License-Identifier: GPL-2.0

//! What the client knows of one member.

use super::Refusal;
use crate::memory::Memory;
use crate::planted::on;
use crate::planted::Bug;
use crate::time::Nanos;
use crate::time::Time;
use crate::time::MILLISECOND;
use rmr_proto::MemberReport;
use rmr_proto::Run;
use rmr_proto::Suspects;
use rmr_proto::MAX_SUSPECTS;

/// First pause before a member is taken back; doubles up to the longest.
const FIRST_PAUSE: Nanos = 100 * MILLISECOND;

/// What a message that is not answered yet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Part of what the coordinator's phase says.
    Round,
    /// Is it still there, and how far?
    Ping,
    /// How is a member that may be taken back?
    JoinQuery,
    /// The promise of such a member.
    JoinPromise,
    /// How is a store that is to be put into the table?
    AdminQuery,
}

/// A message that is not answered yet.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) step: Step,
    pub(super) deadline: Time,
}

/// What a member said of its suspects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Found {
    Nothing,
    /// So many runs.
    Runs(usize),
    Everything,
}

/// One member.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub(super) struct Peer<M: Memory> {
    /// There is a connection, since or until when.
    pub(super) up: bool,
    pub(super) since: Time,
    pub(super) call: Option<Call>,
    /// What it last said of itself.
    pub(super) report: Option<MemberReport>,
    /// It promised the present generation in the incarnation of `report`.
    pub(super) promised: bool,
    pub(super) found: Found,
    suspects: Option<M::Array<Run>>,
    /// Ready to be taken in.
    pub(super) joinable: bool,
    /// Ready to be in sync.
    pub(super) ready: bool,
    /// When to try to take it in, and how long to wait after that fails.
    pub(super) next_try: Time,
    pause: Nanos,
    /// When it became a receiver.
    pub(super) joined: Time,
    /// When to look after it.
    pub(super) ping_at: Time,
    /// The administrator gave up what it has.
    pub(super) discard: bool,
    /// Why it was not taken, as far as it was said.
    pub(super) noted: Option<Refusal>,
}

impl<M: Memory> Peer<M> {
    pub(super) fn new() -> Self {
        Self {
            up: false,
            since: Time(0),
            call: None,
            report: None,
            promised: false,
            found: Found::Nothing,
            suspects: None,
            joinable: false,
            ready: false,
            next_try: Time(0),
            pause: FIRST_PAUSE,
            joined: Time(0),
            ping_at: Time(0),
            discard: false,
            noted: None,
        }
    }

    /// Keeps a list of suspects; without memory for it, everything is suspect.
    pub(super) fn keep(&mut self, memory: &M, suspects: &Suspects<'_>) {
        self.found = Found::Nothing;
        if suspects.all {
            self.found = Found::Everything;
        } else if !suspects.runs.is_empty() {
            if self.suspects.is_none() {
                self.suspects = memory.array(MAX_SUSPECTS, |_| Run::EMPTY).ok();
            }
            let place = self
                .suspects
                .as_mut()
                .and_then(|place| place.get_mut(..suspects.runs.len()));
            self.found = match place {
                Some(place) => {
                    place.copy_from_slice(suspects.runs);
                    Found::Runs(suspects.runs.len())
                }
                None => Found::Everything,
            };
        }
    }

    /// The runs of [`Found::Runs`].
    pub(super) fn runs(&self) -> &[Run] {
        match (self.found, &self.suspects) {
            (Found::Runs(len), Some(runs)) => runs.get(..len).unwrap_or(&[]),
            _ => &[],
        }
    }

    /// It was not possible to take it in, or it was dropped: tries again later each time.
    pub(super) fn back_off(&mut self, now: Time, longest: Nanos) {
        // It was a receiver for long: what was before does not count.
        if self.joined != Time(0) && now.since(self.joined) > self.pause.saturating_mul(16) {
            self.pause = FIRST_PAUSE;
        }
        self.joined = Time(0);
        self.joinable = false;
        self.ready = false;
        self.next_try = now.after(self.pause);
        self.pause = self.pause.saturating_mul(2).min(longest.max(FIRST_PAUSE));
        if on(Bug::NoPauses) {
            self.next_try = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMemory;
    use crate::time::SECOND;

    #[test]
    fn pauses() {
        let mut peer = Peer::<HostMemory>::new();
        let now = Time(1000 * SECOND);
        let longest = 500 * MILLISECOND;
        let pause = |peer: &mut Peer<HostMemory>, now: Time| {
            peer.back_off(now, longest);
            peer.next_try.since(now) / MILLISECOND
        };
        assert_eq!(
            [0; 5].map(|_| pause(&mut peer, now)),
            [100, 200, 400, 500, 500]
        );
        // It was a receiver for a short time, then for long.
        peer.joined = now;
        assert_eq!(pause(&mut peer, now.after(16 * longest)), 500);
        assert!(!peer.ready && peer.joined == Time(0));
        peer.joined = now;
        assert_eq!(pause(&mut peer, now.after(16 * longest + 1)), 100);
        assert_eq!(pause(&mut peer, now), 200);
    }
}
