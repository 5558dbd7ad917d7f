// SPDX-License-Identifier: GPL-2.0

//! At most one execution of each write on a member (rule R5).
//!
//! RTRS may deliver a message twice, when a path fails over, and the first copy may still be running; a client
//! sends the requests of a failed batch again, each with the number it had. The table remembers, for each of the
//! [`WINDOW`] numbers above the client's watermark, what became of it:
//!
//! ```text
//!                  begin: Execute              finish(status)
//!   older number ──────────────► running ───────────────────────► done(status)
//!        ▲                       │   ▲ begin: Join                  begin: Done(status)
//!        └───────────────────────┘   └─ (answered by finish)
//!                abandon
//! ```
//!
//! A slot is one word: the number, what became of it, its status. So everything but a join is one atomic operation
//! on the slot, which no other CPU touches unless there is a duplicate. A number belongs to the slot
//! `number mod size`. Numbers in the window above the watermark fall into different slots, thus a slot is taken over
//! from a number that the watermark has passed; a message whose number is not in the window is refused.
//!
//! A write that failed is not executed again under its number: a late duplicate of it might follow a newer
//! write to the same blocks. One that was never started (no memory, say) is taken back by `abandon`.
//!
//! The table belongs to one episode of the member. [`Dedupe::reset`] empties it.

use crate::sync::AtomicU64;
use crate::sync::CacheLine;
use crate::sync::Guarded;
use crate::window::WINDOW;
use core::ops::Deref;
use rmr_proto::Seq;
use rmr_proto::Status;

/// Duplicates of running writes that can wait at one time.
pub const MAX_JOINERS: usize = 64;

/// Numbers that fit into a slot. At a million writes a second they last for 142 years of one generation.
const MAX_SEQ: u64 = (1 << (64 - SEQ_SHIFT)) - 1;
const SEQ_SHIFT: u32 = 12;
const STATUS_MASK: u64 = (1 << 9) - 1;
const STATE_MASK: u64 = 7 << 9;
const RUNNING: u64 = 1 << 9;
/// Running, and somebody joined.
const JOINED: u64 = 2 << 9;
const DONE: u64 = 3 << 9;
/// Taken back before it was started.
const ABANDONED: u64 = 4 << 9;

/// What to do with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Execute it, then call [`Dedupe::finish`] (or [`Dedupe::abandon`]) exactly once.
    Execute,
    /// It is being executed: its `finish` will hand out the token.
    Join,
    /// It was executed, and this came of it: answer so.
    Done(Status),
    /// Answer so, and do not execute it: `BelowWatermark`; `OutOfWindow`;
    /// `Busy` if an older write still runs in its slot or too many have joined.
    Refuse(Status),
}

/// The tokens of those who joined a running write. Behind a lock, in memory lent by the caller.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub struct Joiners<T> {
    entries: [Option<(u64, T)>; MAX_JOINERS],
}

impl<T> Joiners<T> {
    /// Nobody.
    pub const fn new() -> Self {
        Self {
            entries: [const { None }; MAX_JOINERS],
        }
    }

    fn put(&mut self, seq: u64, token: T) -> Result<usize, T> {
        match self.entries.iter().position(Option::is_none) {
            Some(place) => {
                self.entries[place] = Some((seq, token));
                Ok(place)
            }
            None => Err(token),
        }
    }

    fn take(&mut self, seq: u64) -> Option<T> {
        let entry = self
            .entries
            .iter_mut()
            .find(|e| matches!(e, Some((s, _)) if *s == seq))?;
        entry.take().map(|(_, token)| token)
    }
}

impl<T> Default for Joiners<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The writes that a member executed in this episode, above the watermark.
///
/// `S` is a ring of zeroed slots, [`WINDOW`] of them; `J` a locked [`Joiners`] of tokens `T`. A token stands
/// for an answer that is owed. All calls but `reset`: any context in which the lock may be taken.
#[cfg_attr(not(CONFIG_RUST), derive(Clone, Hash))]
pub struct Dedupe<S, J> {
    slots: S,
    joiners: J,
    /// Highest watermark heard of. Read with each write, written when a message brings a new one.
    watermark: CacheLine<AtomicU64>,
}

impl<S, J> Dedupe<S, J>
where
    S: Deref<Target = [AtomicU64]>,
{
    /// An empty table. `slots` are all zero; there are [`WINDOW`] of them (tests take fewer). `None` if there are
    /// more, or their number is not a power of two.
    pub fn new(slots: S, joiners: J) -> Option<Self> {
        (slots.len().is_power_of_two() && slots.len() <= WINDOW).then(|| Self {
            slots,
            joiners,
            watermark: CacheLine::default(),
        })
    }

    /// Decides about the write `seq` of a message that carries `watermark`.
    ///
    /// `token` is kept only if the answer is `Join`, otherwise dropped with no lock held.
    pub fn begin<T>(&self, seq: Seq, watermark: Seq, token: T) -> Verdict
    where
        J: Guarded<Joiners<T>>,
    {
        let seq = seq.0;
        // What makes no sense changes nothing: its watermark may be as senseless as its number.
        let window = watermark.0.max(self.watermark.0.load());
        if seq > window && (seq - window > self.slots.len() as u64 || seq > MAX_SEQ) {
            return Verdict::Refuse(Status::OutOfWindow);
        }
        if seq <= watermark.0 || seq <= self.raise(watermark.0) {
            return Verdict::Refuse(Status::BelowWatermark);
        }
        let slot = self.slot(seq);
        let mut word = slot.load();
        loop {
            let (held, state) = (word >> SEQ_SHIFT, word & STATE_MASK);
            let running = state == RUNNING || state == JOINED;
            if held > seq {
                // The watermark passed since it was looked at.
                return Verdict::Refuse(Status::BelowWatermark);
            }
            if held < seq || state == ABANDONED {
                if held < seq && running {
                    return Verdict::Refuse(Status::Busy);
                }
                match slot.cas(word, seq << SEQ_SHIFT | RUNNING) {
                    Ok(_) => return Verdict::Execute,
                    Err(now) => word = now,
                }
                continue;
            }
            if running {
                return self.join(seq, token);
            }
            return Verdict::Done(status_of(word));
        }
    }

    /// Waits with a running write; it may be done before that succeeds.
    fn join<T>(&self, seq: u64, token: T) -> Verdict
    where
        J: Guarded<Joiners<T>>,
    {
        let slot = self.slot(seq);
        // The token is in the table before the slot says so, and `finish` looks into the table after it found
        // that. Whatever is not kept is handed out of the lock and dropped outside.
        let (verdict, unused) = self.joiners.with(|joiners| {
            let place = match joiners.put(seq, token) {
                Ok(place) => place,
                Err(token) => return (Verdict::Refuse(Status::Busy), Some(token)),
            };
            let mut word = slot.load();
            loop {
                let verdict = match word & STATE_MASK {
                    _ if word >> SEQ_SHIFT != seq => Verdict::Refuse(Status::BelowWatermark),
                    JOINED => return (Verdict::Join, None),
                    RUNNING => match slot.cas(word, seq << SEQ_SHIFT | JOINED) {
                        Ok(_) => return (Verdict::Join, None),
                        Err(now) => {
                            word = now;
                            continue;
                        }
                    },
                    DONE => Verdict::Done(status_of(word)),
                    // Taken back in between; the sender repeats it.
                    _ => Verdict::Refuse(Status::Busy),
                };
                let unused = joiners.entries[place].take().map(|(_, token)| token);
                return (verdict, unused);
            }
        });
        drop(unused);
        verdict
    }

    /// Notes the outcome of the write `seq`, which `begin` said to execute. `joined` is called, with no lock held,
    /// with the token of each duplicate that waits for it; they get the same answer.
    ///
    /// `false`, and nothing done, if `seq` is not running.
    pub fn finish<T>(&self, seq: Seq, status: Status, joined: impl FnMut(T)) -> bool
    where
        J: Guarded<Joiners<T>>,
    {
        let word = DONE | u64::from(status.wire()) & STATUS_MASK;
        self.end(seq.0, word, joined)
    }

    /// Notes that the write `seq`, which `begin` said to execute, was not started and never will be, so that
    /// a repetition is executed. Those who joined are named as in [`Self::finish`]: answer them `Busy`.
    pub fn abandon<T>(&self, seq: Seq, joined: impl FnMut(T)) -> bool
    where
        J: Guarded<Joiners<T>>,
    {
        self.end(seq.0, ABANDONED, joined)
    }

    fn end<T>(&self, seq: u64, what: u64, mut joined: impl FnMut(T)) -> bool
    where
        J: Guarded<Joiners<T>>,
    {
        if seq == 0 || seq > MAX_SEQ {
            return false;
        }
        let slot = self.slot(seq);
        let mut word = seq << SEQ_SHIFT | RUNNING;
        loop {
            match slot.cas(word, seq << SEQ_SHIFT | what) {
                Ok(_) => break,
                Err(now) if now == seq << SEQ_SHIFT | JOINED => word = now,
                Err(_) => return false,
            }
        }
        if word & STATE_MASK == JOINED {
            // Nobody joins any more, so this ends.
            while let Some(token) = self.joiners.with(|joiners| joiners.take(seq)) {
                joined(token);
            }
        }
        true
    }

    /// Empties the table, for a new episode. Nothing may use it meanwhile: the member is drained. `false`, and
    /// nothing done, if a write is running.
    pub fn reset(&self) -> bool {
        let running = |slot: &AtomicU64| matches!(slot.load() & STATE_MASK, RUNNING | JOINED);
        if self.slots.iter().any(running) {
            return false;
        }
        for slot in self.slots.iter() {
            slot.store(0);
        }
        self.watermark.0.store(0);
        true
    }

    /// A message without a write brought a watermark.
    pub fn heard(&self, watermark: Seq) {
        if watermark.0 <= MAX_SEQ {
            self.raise(watermark.0);
        }
    }

    /// Highest watermark heard of.
    pub fn watermark(&self) -> Seq {
        Seq(self.watermark.0.load())
    }

    /// Raises the watermark to `to`, if it is lower; returns it.
    fn raise(&self, to: u64) -> u64 {
        let mut known = self.watermark.0.load();
        while known < to {
            match self.watermark.0.cas(known, to) {
                Ok(_) => return to,
                Err(now) => known = now,
            }
        }
        known
    }

    fn slot(&self, seq: u64) -> &AtomicU64 {
        &self.slots[seq as usize & (self.slots.len() - 1)]
    }
}

fn status_of(word: u64) -> Status {
    // Only `finish` writes this field, with the number of a status.
    Status::from_wire((word & STATUS_MASK) as u16).unwrap_or(Status::Io)
}
