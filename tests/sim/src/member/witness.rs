// SPDX-License-Identifier: GPL-2.0

//! What a member writes or answers must be true on its disk at that moment: some rules are seen here before anything comes of it.
//!
//! Looks at records and sectors of one disk, and at marks. What a damaged disk says is no evidence: it is left out.

use super::tasks::Task;
use super::Node;
use crate::env::Env;
use crate::store::Image;
use rmr_checkers::Rule;
use rmr_checkers::Violation;
use rmr_engine::admission::Identity;
use rmr_proto::Config;
use rmr_proto::MemberId;
use rmr_proto::Peer;
use std::collections::BTreeSet;

impl Node {
    fn violate(&self, env: &mut Env, rule: Rule, what: &str) {
        env.observer.violate(Violation {
            rule,
            time: env.queue.now(),
            what: format!("member {} {what}", self.member),
        });
    }

    fn chunks(&self) -> std::ops::Range<u64> {
        0..self.layout.geometry().chunks()
    }

    fn chunk_of(&self, sector: u64) -> u64 {
        sector >> (self.layout.geometry().chunk_shift() - 9)
    }

    /// Whether a copy of a record at this offset changes what [`Node::compare`] looks at.
    pub(super) fn is_telling(&self, offset: u64) -> bool {
        let records = [self.layout.epoch(), self.layout.unreadable()];
        let copies = records.iter().flatten();
        let ours = self.aside.is_none() && self.image.record().is_some();
        ours && copies.into_iter().any(|place| place.offset == offset)
    }

    /// A copy of a record was written; `before` is what the disk said until then.
    pub(super) fn compare(&self, env: &mut Env, before: &Image) {
        let records = (before.record(), self.image.record());
        let (Some(old), Some(new)) = records else {
            return;
        };
        if !self.device.disk.is_undamaged() {
            return;
        }
        if let (Some(old), Some(config)) = (&old.installed, &new.installed) {
            if old != config && config.receivers().contains(self.id) {
                self.check_history(env, old, config);
                self.check_known(env, old, config, before);
            }
        }
        self.check_list(env, before);
    }

    /// Who has gone further in another history takes part with nothing of what it has (R7): all of it is dirty.
    fn check_history(&self, env: &mut Env, old: &Config, new: &Config) {
        let diverged = !new.follows(old);
        if diverged
            && self
                .chunks()
                .any(|chunk| !self.image.is_dirty(self.id, chunk))
        {
            let what = "takes part in another history, and keeps what it has of its own";
            self.violate(env, Rule::Unmarked, what);
        }
    }

    /// Who comes back behind has missed, too, what it knows others had missed who are in sync now (section 6 of the design). After a
    /// restart, as nothing was cleared since the disk was read.
    fn check_known(&self, env: &mut Env, old: &Config, new: &Config, before: &Image) {
        let restarted = old.incarnation(self.id) != new.incarnation(self.id);
        if !restarted || !new.catching_up.contains(self.id) {
            return;
        }
        for other in new.in_sync {
            let forgotten = self.chunks().find(|&chunk| {
                before.is_dirty(other, chunk) && !self.image.is_dirty(self.id, chunk)
            });
            if let Some(chunk) = forgotten {
                let what = format!(
                    "comes back: it forgets that chunk {chunk} of {other} is not what it has itself"
                );
                self.violate(env, Rule::Unmarked, &what);
            }
        }
    }

    /// What leaves the list of unreadable sectors was written since, and is stable (R17). In a chunk that is dirty the list says
    /// nothing.
    fn check_list(&self, env: &mut Env, before: &Image) {
        let listed: BTreeSet<u64> = self.image.unreadable().collect();
        let gone: Vec<u64> = before
            .unreadable()
            .filter(|sector| !listed.contains(sector))
            .collect();
        for sector in gone {
            let Some(mark) = env.observer.unlisted(self.member, sector) else {
                continue;
            };
            let dirty = self.is_dirty_itself(self.chunk_of(sector));
            if !dirty && !self.device.disk.is_stable(sector, mark) {
                let what = format!(
                    "takes sector {sector} off its list of unreadable ones before it is stable"
                );
                self.violate(env, Rule::Durability, &what);
            }
        }
    }

    fn is_dirty_itself(&self, chunk: u64) -> bool {
        self.dirty(self.member, chunk) || self.image.is_dirty(self.id, chunk)
    }

    /// Sectors of a write that are on the list of unreadable ones on disk.
    fn listed(&self, task: &Task) -> Vec<u64> {
        let sectors = task.sector()..task.sector() + task.count();
        let listed = self.image.unreadable();
        listed.filter(|sector| sectors.contains(sector)).collect()
    }

    /// A write is on the disk.
    pub(super) fn rewritten(&self, env: &mut Env, task: &Task) {
        if self.aside.is_none() {
            let mark = self.device.disk.mark();
            for sector in self.listed(task) {
                env.observer.rewritten(self.member, sector, mark);
            }
        }
    }

    /// It is answered at once: then none of its sectors is on the list (R17), or a restart makes an error of it.
    pub(super) fn check_unlisted(&self, env: &mut Env, task: &Task) {
        let mut listed = self.listed(task).into_iter();
        let listed = listed.find(|&sector| !self.is_dirty_itself(self.chunk_of(sector)));
        if let (Some(sector), None) = (listed, &self.aside) {
            let what = format!(
                "acknowledges a write of sector {sector}, which its disk lists as unreadable"
            );
            self.violate(env, Rule::Durability, &what);
        }
    }

    /// It takes the word of another member for chunks that are clean: of one under the same configuration (R13).
    pub(super) fn check_cleared(&self, env: &mut Env, peer: &Peer<'_>, own: Option<Identity>) {
        let (generation, epoch) = (peer.to.generation, peer.to.epoch);
        if own.is_none_or(|own| (own.generation, own.epoch) != (generation, epoch)) {
            let what = format!(
                "obeys a clear of {}, of generation {} epoch {}",
                peer.from, generation.number, epoch.0
            );
            self.violate(env, Rule::Fencing, &what);
        }
    }

    /// A bitmap was fetched: what was dirty before still is (R13).
    pub(super) fn check_merged(&self, env: &mut Env, of: MemberId, before: &[u64]) {
        let Some(engine) = &self.running else {
            return;
        };
        let lost = before.iter().find(|chunk| !engine.hot.dirty(of, **chunk));
        if let Some(chunk) = lost {
            let what = format!("fetches a bitmap of {of}, and forgets chunk {chunk}");
            self.violate(env, Rule::Unmarked, &what);
        }
    }
}
