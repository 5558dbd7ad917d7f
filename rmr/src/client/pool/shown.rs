// SPDX-License-Identifier: GPL-2.0

//! What is shown of a pool, and told to whoever polls its files, and to udev.

use super::MemberFile;
use super::Pool;
use crate::client::core::Core;
use crate::client::core::Counter;
use crate::client::driver::Driver;
use crate::secret;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use rmr_engine::client::State;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::Geometry;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Progress;
use rmr_proto::Uuid;
use rmr_sys::sysfs::Dir;
use rmr_sys::work::Again;

/// Telling whoever polls the files of a pool, and udev, of changes.
impl Pool {
    /// The job.
    pub(super) fn tell_changes(this: &Arc<Self>) -> Again {
        this.tell();
        Again::No
    }

    /// Tells what changed since it was told last. Once for each change of a state that lasts.
    pub(super) fn tell(&self) {
        let state = self.state();
        let epoch = self.config().map_or(Epoch::NONE, |config| config.epoch);
        let mut dirs = self.dirs.lock();
        if let Some(dirs) = (*dirs).as_mut() {
            let old = core::mem::replace(&mut dirs.told, (state, epoch));
            if old.1 != epoch {
                dirs.own.notify(c"in_sync");
                dirs.own.notify(c"epoch");
            }
            if old.0 != state {
                dirs.own.notify(c"state");
                let _ = self.uevent(&dirs.own, None, state);
            }
        }
        drop(dirs);
        let mut admin = self.admin.lock();
        let shown = Shown::of(admin.volume.as_ref().map(|opened| &*opened.driver));
        for member in admin.members.iter_mut() {
            let id = member.report.member;
            let state = shown.state(id, member.session.is_connected());
            let progress = shown.progress(id);
            let old = core::mem::replace(&mut member.told, (state, progress));
            let Some(dir) = &member.dir else { continue };
            if old.1 != progress {
                dir.notify(c"resync_left");
            }
            if old.0 != state {
                dir.notify(c"state");
                let _ = self.uevent(dir, Some(id), state);
            }
        }
    }

    /// One uevent: `RMR_POOL`, `RMR_MEMBER` if it is about one, `RMR_STATE`.
    fn uevent<T: Send + Sync + 'static>(
        &self,
        dir: &Dir<T>,
        member: Option<MemberId>,
        state: &str,
    ) -> Result {
        let pool = CString::try_from_fmt(fmt!("RMR_POOL={}", self.name.as_str()))?;
        let state = CString::try_from_fmt(fmt!("RMR_STATE={state}"))?;
        match member {
            Some(id) => {
                let member = CString::try_from_fmt(fmt!("RMR_MEMBER={}", id.get()))?;
                dir.uevent(&[&pool, &member, &state])
            }
            None => dir.uevent(&[&pool, &state]),
        }
    }
}

/// What is shown of members while a pool is attached.
#[derive(Default)]
struct Shown {
    attached: bool,
    in_sync: MemberSet,
    catching_up: MemberSet,
    maintenance: MemberSet,
    /// Connected, but the secret was not proved.
    not_authenticated: MemberSet,
    progress: KVec<Progress>,
}

impl Shown {
    #[inline(never)]
    fn of(driver: Option<&Driver>) -> Self {
        let mut shown = Self::default();
        if let Some(driver) = driver {
            if let Some(core) = driver.core.enter() {
                let shut = core.legs().filter(|leg| leg.access.is_shut());
                shown.not_authenticated = shut.map(|leg| leg.member).collect();
            }
            driver.look(|desk| {
                let Some(config) = desk.coordinator.config() else {
                    return;
                };
                shown.attached = true;
                shown.in_sync = config.in_sync;
                shown.catching_up = config.catching_up;
                shown.maintenance = config.maintenance;
                // Without memory there is no progress to see.
                let _ = shown.progress.extend_from_slice(&desk.progress, GFP_KERNEL);
            });
        }
        shown
    }

    /// One word for a member: `in_sync`, `catching_up`, `maintenance` or `absent`, or `added` while the pool is not
    /// attached; `disconnected` while its session is, `unauthenticated` while it is not proved that both know the secret.
    fn state(&self, id: MemberId, connected: bool) -> &'static str {
        if self.maintenance.contains(id) {
            "maintenance"
        } else if !connected {
            "disconnected"
        } else if self.not_authenticated.contains(id) {
            "unauthenticated"
        } else if self.in_sync.contains(id) {
            "in_sync"
        } else if self.catching_up.contains(id) {
            "catching_up"
        } else if self.attached {
            "absent"
        } else {
            "added"
        }
    }

    /// How far a member is from being in sync.
    fn progress(&self, id: MemberId) -> Progress {
        match self.progress.get(id.index()) {
            Some(progress) if self.catching_up.contains(id) => *progress,
            _ => Progress::Unknown,
        }
    }
}

/// What the files of a pool show.
impl Pool {
    /// One word.
    pub(crate) fn state(&self) -> &'static str {
        let Some((driver, idle)) = ({
            let admin = self.admin.lock();
            (admin.volume.as_ref()).map(|opened| (opened.driver.clone(), opened.idle))
        }) else {
            return "joined";
        };
        match driver.look(|desk| desk.coordinator.state()) {
            State::Attaching => "attaching",
            State::Serving | State::Changing if idle => "attached",
            State::Serving | State::Changing => "mapped",
            State::Held => "suspended",
            State::Leaving | State::Closed => "detaching",
            State::Lost => "lost",
            State::Fenced => "fenced",
            State::Failed(_) => "failed",
        }
    }

    /// One word for a member, see [`Shown::state`].
    pub(crate) fn member_state(&self, file: &MemberFile) -> &'static str {
        let driver = self.driver();
        Shown::of(driver.as_deref()).state(file.member, file.session.is_connected())
    }

    /// How the proof of the secret stands between this host and a member, in a word.
    pub(crate) fn member_auth(&self, id: MemberId) -> &'static str {
        let leg = |core: &Core| core.leg(id).map(|leg| leg.access.word());
        match (self.on_core(leg).flatten(), self.secret()) {
            (Some(word), _) => word,
            (None, Some(_)) => "waiting",
            (None, None) => secret::NONE,
        }
    }

    /// How a member gets current: bytes that are left, and bytes per second. `None`: it does not, or nobody knows yet.
    pub(crate) fn resync(&self, id: MemberId) -> Option<(u64, u64)> {
        let driver = self.driver()?;
        match Shown::of(Some(&*driver)).progress(id) {
            Progress::Dirty { chunks, rate } => {
                Some((chunks.saturating_mul(self.geometry()?.chunk_size()), rate))
            }
            Progress::Ready => Some((0, 0)),
            Progress::Unknown => None,
        }
    }

    /// Whether a member catches up.
    pub(crate) fn catches_up(&self, id: MemberId) -> bool {
        (self.config()).is_some_and(|config| config.catching_up.contains(id))
    }

    /// The configuration in use.
    pub(crate) fn config(&self) -> Option<KBox<Config>> {
        self.driver()?.config()
    }

    /// UUID of the pool, if it has one that is known here.
    pub(crate) fn uuid(&self) -> Option<Uuid> {
        let attached = self
            .driver()
            .and_then(|driver| driver.look(|desk| desk.pool.non_nil()));
        if attached.is_some() {
            return attached;
        }
        let admin = self.admin.lock();
        admin.members.iter().find_map(|m| m.report.pool.non_nil())
    }

    /// Size and chunk size, once a member is known.
    pub(crate) fn geometry(&self) -> Option<Geometry> {
        self.admin.lock().members.first().map(|m| m.report.geometry)
    }

    /// Members added.
    pub(crate) fn member_count(&self) -> usize {
        self.admin.lock().members.len()
    }

    /// UUID of a member's store.
    pub(crate) fn store_of(&self, id: MemberId) -> Option<Uuid> {
        let admin = self.admin.lock();
        let member = admin.members.iter().find(|m| m.report.member == id)?;
        Some(member.report.store)
    }

    /// Runs `f` on the data path, if there is one.
    fn on_core<R>(&self, f: impl FnOnce(&Core) -> R) -> Option<R> {
        let driver = self.driver()?;
        let core = driver.core.enter()?;
        Some(f(&core))
    }

    /// The watermark; 0 without a volume.
    pub(crate) fn watermark(&self) -> u64 {
        self.on_core(|core| core.data.watermark().0).unwrap_or(0)
    }

    /// A counter of the data path, see [`super::core::Counter`].
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.on_core(|core| core.counters.sum(counter as usize))
            .unwrap_or(0)
    }
}
