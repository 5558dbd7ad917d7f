// SPDX-License-Identifier: GPL-2.0

//! What members execute: each write at most once, nothing of another configuration than their own (R4, R5, R6, R8).
//!
//! * A write or read begins on a member only while it serves, and names the member's own incarnation, and generation and epoch of
//!   the configuration the member has persisted last; not after the member promised another generation.
//! * When a member has promised a generation, nothing that an older one began is running.
//! * A write begins once in an *episode* of a member, and never at or below the watermark the member was told. An episode
//!   ends with a restart, and with an install that makes the member a receiver after one that did not have it, whether the
//!   member knew that one or not.
//! * Reads are served by members in sync.
//! * A member promises a number to one nonce, and numbers that rise. A number of an epoch means one configuration.

use crate::contains;
use crate::violation::Rule;
use crate::violation::Time;
use crate::violation::Violation;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Number and nonce of a generation.
pub type Generation = (u64, u64);

/// A configuration, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// The generation that installed it.
    pub generation: Generation,
    /// Its number.
    pub epoch: u64,
    /// Members in sync.
    pub in_sync: u32,
    /// Members catching up.
    pub catching_up: u32,
}

/// What a request says it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Generation of the client.
    pub generation: Generation,
    /// Epoch it was sent under.
    pub epoch: u64,
    /// Incarnation of the member.
    pub incarnation: u64,
}

#[derive(Clone, Debug, Default, Hash)]
struct Member {
    incarnation: u64,
    promised: Generation,
    installed: Option<Configuration>,
    /// It persisted its configuration in this incarnation, and promised nothing since.
    serves: bool,
    watermark: u64,
    running: BTreeSet<(Generation, u64)>,
    executed: BTreeSet<(Generation, u64)>,
}

/// Executions on all members.
#[derive(Clone, Debug, Default, Hash)]
pub struct Execution {
    members: BTreeMap<u8, Member>,
    /// Every configuration that was ever persisted, by generation and epoch.
    configurations: BTreeMap<Generation, BTreeMap<u64, Configuration>>,
    /// The last one that was complete.
    complete: Option<Configuration>,
}

/// Good, or which rule was broken.
type Checked = Result<(), Violation>;

impl Execution {
    /// Nothing has happened.
    pub fn new() -> Execution {
        Execution::default()
    }

    /// A member starts, restarts, or its disk was reset: what ran there is over.
    pub fn restarted(&mut self, member: u8, incarnation: u64) {
        let state = self.members.entry(member).or_default();
        state.incarnation = incarnation;
        state.serves = false;
        state.watermark = 0;
        state.running.clear();
        state.executed.clear();
    }

    /// The store of a member is another one, with nothing on it.
    pub fn replaced(&mut self, member: u8) {
        self.members.remove(&member);
    }

    /// A member reports that it has promised a generation.
    ///
    /// # Errors
    ///
    /// It promised a higher one, or this number to another; or something still runs.
    pub fn promised(&mut self, time: Time, member: u8, generation: Generation) -> Checked {
        let state = self.members.entry(member).or_default();
        let old = state.promised;
        if generation == old {
            return Ok(());
        }
        if generation.0 < old.0 {
            let what = format!(
                "member {member} promised generation {} after {}",
                generation.0, old.0
            );
            return Err(Violation::new(Rule::Fencing, time, what));
        }
        if generation.0 == old.0 {
            let what = format!(
                "member {member} promised generation {} to two clients",
                old.0
            );
            return Err(Violation::new(Rule::Reused, time, what));
        }
        state.promised = generation;
        state.serves = false;
        if let Some((older, seq)) = state.running.iter().next() {
            let what = format!(
                "member {member} promised generation {} while write {seq} of {} runs",
                generation.0, older.0
            );
            return Err(Violation::new(Rule::Fencing, time, what));
        }
        Ok(())
    }

    /// A configuration is complete: all that have to have persisted it.
    ///
    /// # Errors
    ///
    /// Nobody is in sync in it who was in the complete one of this generation before it.
    pub fn completed(&mut self, time: Time, new: Configuration) -> Checked {
        match self.complete.replace(new) {
            Some(old) if old.generation == new.generation && old.in_sync & new.in_sync == 0 => {
                let what = format!("{new:?} after {old:?}: nobody in sync stays");
                Err(Violation::new(Rule::Orphaned, time, what))
            }
            _ => Ok(()),
        }
    }

    /// A member has persisted a configuration.
    ///
    /// # Errors
    ///
    /// It promised another generation, or has a newer configuration; or this number means another one.
    pub fn installed(&mut self, time: Time, member: u8, new: Configuration) -> Checked {
        let known = self.configurations.entry(new.generation).or_default();
        let same = *known.entry(new.epoch).or_insert(new);
        if same != new {
            let what = format!("two configurations: {same:?} and {new:?}");
            return Err(Violation::new(Rule::Reused, time, what));
        }
        let state = self.members.entry(member).or_default();
        if new.generation != state.promised {
            let what = format!(
                "member {member} installed generation {:?}, promised is {:?}",
                new.generation, state.promised
            );
            return Err(Violation::new(Rule::Fencing, time, what));
        }
        let old = state.installed.replace(new);
        state.serves = true;
        let is_receiver = |configuration: &Configuration| {
            contains(configuration.in_sync | configuration.catching_up, member)
        };
        match old {
            Some(old) if old.generation == new.generation => {
                if new.epoch < old.epoch {
                    let what = format!(
                        "member {member} installed epoch {} after {}",
                        new.epoch, old.epoch
                    );
                    return Err(Violation::new(Rule::Fencing, time, what));
                }
                let was_out = known
                    .range(old.epoch..new.epoch)
                    .any(|(_, passed)| !is_receiver(passed));
                let demoted = contains(old.in_sync, member) && contains(new.catching_up, member);
                if is_receiver(&new) && (was_out || demoted) {
                    state.executed.clear();
                }
            }
            _ => {
                state.watermark = 0;
                state.executed.clear();
            }
        }
        Ok(())
    }

    /// A member was told a watermark by a client of this generation.
    pub fn watermark(&mut self, member: u8, generation: Generation, seq: u64) {
        let state = self.members.entry(member).or_default();
        if state
            .installed
            .is_some_and(|installed| installed.generation == generation)
        {
            state.watermark = state.watermark.max(seq);
        }
    }

    /// A write begins to touch the disk of a member.
    ///
    /// # Errors
    ///
    /// It may not.
    pub fn begin(&mut self, time: Time, member: u8, header: Header, seq: u64) -> Checked {
        self.admitted(time, member, header, &format!("write {seq}"))?;
        let state = self.members.entry(member).or_default();
        if seq <= state.watermark {
            let what = format!(
                "member {member} executes write {seq}, watermark {}",
                state.watermark
            );
            return Err(Violation::new(Rule::Twice, time, what));
        }
        state.running.insert((header.generation, seq));
        if !state.executed.insert((header.generation, seq)) {
            let what = format!(
                "member {member} executes write {seq} of generation {} again",
                header.generation.0
            );
            return Err(Violation::new(Rule::Twice, time, what));
        }
        Ok(())
    }

    /// A write no longer touches the disk of a member.
    pub fn end(&mut self, member: u8, generation: Generation, seq: u64) {
        if let Some(state) = self.members.get_mut(&member) {
            state.running.remove(&(generation, seq));
        }
    }

    /// A write had failed, and the member will take it again.
    pub fn undone(&mut self, member: u8, generation: Generation, seq: u64) {
        self.end(member, generation, seq);
        if let Some(state) = self.members.get_mut(&member) {
            state.executed.remove(&(generation, seq));
        }
    }

    /// A member serves a read of a client.
    ///
    /// # Errors
    ///
    /// It may not.
    pub fn read(&mut self, time: Time, member: u8, header: Header) -> Checked {
        self.admitted(time, member, header, "read")?;
        let installed = self.members.get(&member).and_then(|state| state.installed);
        if !installed.is_some_and(|installed| contains(installed.in_sync, member)) {
            let what = format!("member {member} serves a read and is not in sync in {installed:?}");
            return Err(Violation::new(Rule::Fencing, time, what));
        }
        Ok(())
    }

    fn admitted(&mut self, time: Time, member: u8, header: Header, what: &str) -> Checked {
        let state = self.members.entry(member).or_default();
        let fits = state.installed.is_some_and(|installed| {
            installed.generation == header.generation && installed.epoch == header.epoch
        });
        if fits && state.serves && header.incarnation == state.incarnation {
            return Ok(());
        }
        let what = format!(
            "member {member} (incarnation {}, promised {:?}, serves {}, installed {:?}) executes {what} for {header:?}",
            state.incarnation, state.promised, state.serves, state.installed
        );
        Err(Violation::new(Rule::Fencing, time, what))
    }
}
