// SPDX-License-Identifier: GPL-2.0

//! Which disk a member has: the right one, an older state of it, or another; and what the member knows by it.

use super::Node;
use crate::device::Device;
use crate::disk::Disk;
use crate::env::Env;
use crate::store;
use crate::store::Image;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::EpochRecord;
use rmr_proto::Generation;
use rmr_proto::Incarnation;
use rmr_proto::Layout;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Quorum;
use rmr_proto::Uuid;
use rmr_proto::MAX_MEMBERS;

/// A disk with a new store.
pub(super) fn new_device(
    env: &mut Env,
    layout: &Layout,
    id: MemberId,
    volatile: bool,
) -> Option<Device> {
    let mut disk = Disk::new(volatile);
    let uuid = Uuid::from_random(env.uuids.bytes());
    let epoch = EpochRecord::default();
    store::create(&mut disk, layout, uuid, Uuid::NIL, id, &epoch).ok()?;
    Some(Device::new(disk, uuid, Uuid::NIL))
}

/// A disk that was the last member in sync of another pool.
pub(super) fn foreign_device(
    env: &mut Env,
    layout: &Layout,
    id: MemberId,
    volatile: bool,
) -> Option<Device> {
    let mut disk = Disk::new(volatile);
    let (uuid, pool) = (
        Uuid::from_random(env.uuids.bytes()),
        Uuid::from_random(env.uuids.bytes()),
    );
    let generation = Generation {
        number: env.uuids.scaled(1, 1000),
        nonce: env.uuids.any(),
    };
    let incarnation = Incarnation(env.uuids.scaled(1, 1000));
    let mut config = Config {
        generation,
        epoch: Epoch(env.uuids.scaled(1, 1000)),
        in_sync: MemberSet::only(id),
        catching_up: MemberSet::EMPTY,
        members: [None; MAX_MEMBERS],
        incarnations: [Incarnation::NONE; MAX_MEMBERS],
        persisted: [Epoch::NONE; MAX_MEMBERS],
        clean: env.uuids.chance(1, 2),
        history: Uuid::from_random(env.uuids.bytes()),
        forked_from: None,
        quorum: Quorum::Off,
        maintenance: MemberSet::EMPTY,
    };
    *config.members.get_mut(id.index())? = Some(uuid);
    *config.incarnations.get_mut(id.index())? = incarnation;
    let epoch = EpochRecord {
        incarnation,
        promised: generation,
        installed: Some(config),
        ..EpochRecord::default()
    };
    store::create(&mut disk, layout, uuid, pool, id, &epoch).ok()?;
    Some(Device::new(disk, uuid, pool))
}

impl Node {
    /// The configuration that is on its disk.
    pub fn installed(&self) -> Option<&Config> {
        self.image.record()?.installed.as_ref()
    }

    /// UUID of the store in the host.
    pub fn store(&self) -> Uuid {
        self.device.store
    }

    /// UUID of its pool, if its own store has one.
    pub fn pool(&self) -> Option<Uuid> {
        self.aside.as_ref().unwrap_or(&self.device).pool.non_nil()
    }

    /// Whether its disk was replaced by an empty one, and the pool does not know that store yet.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether a disk of another pool is in.
    pub fn has_foreign(&self) -> bool {
        self.aside.is_some()
    }

    /// Compares what is installed with the newest complete configuration: is it of a history that was given up?
    pub fn judge(&mut self, config: &Config) {
        let installed = self
            .image
            .record()
            .and_then(|record| record.installed.as_ref());
        self.diverged = installed.is_some_and(|installed| !config.follows(installed));
    }

    /// Whether what is installed is of another history than this configuration; not if it goes on from there, by a forced
    /// start that did not come to its end.
    pub fn is_of_another_history(&self, config: &Config) -> bool {
        let installed = self
            .image
            .record()
            .and_then(|record| record.installed.as_ref());
        installed.is_some_and(|installed| !installed.follows(config))
    }

    /// Whether it has gone further in a history that the pool has given up.
    pub fn is_diverged(&self) -> bool {
        self.diverged
    }

    /// Whether its store may be refused for good: an older state of itself, or unreadable.
    pub fn is_doubtful(&self) -> bool {
        self.stale || !self.image.readable
    }

    /// Whether its disk has lost writes of records, which it had acknowledged.
    pub fn forgets(&self) -> bool {
        self.device.disk.forgets()
    }

    /// Another disk is put in, with a new store.
    pub fn replace(&mut self, env: &mut Env) {
        let volatile = self.device.disk.is_volatile();
        if let Some(device) = new_device(env, &self.layout, self.id, volatile) {
            env.line(
                &self.host,
                format_args!("has an empty disk, store {}", device.store),
            );
            self.device = device;
            self.lost = true;
            self.stale = false;
            env.observer.replaced(self.member);
            self.look_at_disk();
        }
    }

    /// A disk of another pool is put in, which has the same name.
    pub fn put_foreign(&mut self, env: &mut Env) {
        let volatile = self.device.disk.is_volatile();
        if let Some(device) = foreign_device(env, &self.layout, self.id, volatile) {
            env.line(&self.host, format_args!("has a foreign disk"));
            let own = std::mem::replace(&mut self.device, device);
            self.aside.get_or_insert(own);
        }
    }

    /// The disk that was taken out is put back.
    pub fn put_back(&mut self, env: &mut Env) {
        if let Some(own) = self.aside.take() {
            env.line(&self.host, format_args!("has its own disk again"));
            self.device = own;
            self.look_at_disk();
        }
    }

    /// Makes a copy of the disk, without what is not stable.
    pub fn keep_copy(&mut self) {
        if self.aside.is_none() && !self.lost {
            let mut copy = self.device.clone();
            copy.disk.forget_unstable();
            self.copy = Some(copy);
        }
    }

    /// Whether the copy is of a time before this configuration, in which the member takes part. And no pool must start
    /// from it alone, or with others who know no better: that could not be recognised (R19). So a member that it
    /// holds to be in sync, without which nobody starts, has this configuration.
    pub fn copy_is_older(&self, config: Option<&Config>) -> bool {
        let (Some(copy), Some(config)) = (&self.copy, config) else {
            return false;
        };
        let then = Image::read(&copy.disk, &self.layout, copy.store);
        let now = Image::read(&self.device.disk, &self.layout, self.device.store);
        let (Some(then), Some(now)) = (then.record(), now.record()) else {
            return false;
        };
        let Some(installed) = &then.installed else {
            return false;
        };
        let newer = (config.generation.number, config.epoch)
            > (installed.generation.number, installed.epoch);
        let others = installed.in_sync.without(self.id);
        let fewer_starts =
            now.incarnation > then.incarnation && config.incarnation(self.id) > then.incarnation;
        newer
            && !others.intersection(config.receivers()).is_empty()
            && copy.store == self.device.store
            && config.store(self.id) == Some(copy.store)
            && (self.has_forgotten(config, installed)
                || fewer_starts && config.receivers().contains(self.id))
    }

    /// Whether this configuration knows that the member has persisted a later one than `installed`.
    fn has_forgotten(&self, config: &Config, installed: &Config) -> bool {
        config.follows(installed) && installed.epoch < config.persisted(self.id)
    }

    /// Whether an older state of its disk is in, which is known as such only by how often it was started.
    pub fn must_not_start(&self, config: Option<&Config>) -> bool {
        let record = self.image.record();
        let installed = record.and_then(|record| record.installed.as_ref());
        let known = config.zip(installed);
        self.stale && !known.is_some_and(|(config, old)| self.has_forgotten(config, old))
    }

    /// The copy is put in.
    pub fn restore(&mut self, env: &mut Env) {
        let Some(copy) = self.copy.take() else { return };
        env.line(&self.host, format_args!("has an older state of its disk"));
        let old: Vec<u64> = self
            .device
            .disk
            .values()
            .map(|(sector, _)| sector)
            .collect();
        self.device = copy;
        self.stale = true;
        let disk = &self.device.disk;
        let values = old.into_iter().map(|sector| (sector, disk.value(sector)));
        env.observer.wrote(self.member, values);
        env.observer.wrote(self.member, disk.values());
        env.observer.rolled_back(self.member);
        self.look_at_disk();
    }

    /// What its disk remembers, now that nothing else does.
    pub(super) fn look_at_disk(&mut self) {
        if self.aside.is_none() {
            self.image = Image::read(&self.device.disk, &self.layout, self.device.store);
        }
    }

    /// A copy of a record was written.
    pub(super) fn look_at_record(&mut self, offset: u64) {
        // One that is damaged was lost, or written elsewhere.
        if self.device.disk.is_damaged(offset) {
            self.look_at_disk();
        } else if self.aside.is_none() {
            self.image
                .read_again(&self.device.disk, &self.layout, self.device.store, offset);
        }
    }
}
