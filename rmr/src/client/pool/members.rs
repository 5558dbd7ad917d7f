// SPDX-License-Identifier: GPL-2.0

//! The members of a pool come and go: which are taken, and what the engine is told of them.

use super::Admin;
use super::Member;
use super::MemberFile;
use super::Mode;
use super::Pool;
use crate::client::control;
use crate::client::driver::Driver;
use crate::client::handshake;
use crate::client::registry::Registry;
use crate::client::session::Session;
use crate::client::sysfs;
use crate::refuse;
use crate::refuse::numbered;
use crate::refuse::text;
use crate::secret::Secret;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::Arc;
use rmr_engine::client::Admin as Command;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::Progress;
use rmr_proto::Role;
use rmr_proto::Uuid;
use rmr_sys::sysfs::Dir;

/// What is to be done with the table of a pool that is attached.
type TableChange = (Arc<Driver>, Command);

impl Pool {
    /// Adds the member that the node behind `session` has of this pool. The session is given back if that fails.
    ///
    /// While the pool is attached, a member that is in its table is taken back by itself, and any other is added to the
    /// table: with `mode=create` only, as all that its store holds is overwritten.
    pub(crate) fn add_member(
        self: &Arc<Self>,
        registry: &Registry,
        session: &Arc<Session>,
        mode: Option<Mode>,
    ) -> Result {
        let listed = self.list_member(session, mode);
        let (id, command) = listed.inspect_err(|_| registry.put_session(session.clone()))?;
        let Some((driver, command)) = command else {
            return Ok(());
        };
        self.command(&driver, "add_sess", command)
            .inspect_err(|&error| {
                // The engine goes on with what nobody waits for any more: it needs the leg, and the administrator the directory.
                if error == EINTR || error == ETIMEDOUT {
                    return;
                }
                // Unless somebody else was faster, and has given the session back.
                if let Ok(session) = self.forget_member(id) {
                    registry.put_session(session);
                }
            })
    }

    /// Puts a member into the list; what is to be done with the table then. The session is the member's from now on.
    fn list_member(
        self: &Arc<Self>,
        session: &Arc<Session>,
        mode: Option<Mode>,
    ) -> Result<(MemberId, Option<TableChange>)> {
        // Not under the mutex: it may take long.
        let secret = self.secret();
        let proved = match &secret {
            Some(secret) => Some(self.prove(session, secret)?),
            None => None,
        };
        let report = control::query(session, self.name).map_err(|failure| {
            refuse!(
                failure.errno(),
                "add_sess: pool {}, session {}: {}",
                self.name,
                text(session.name()),
                failure
            )
        })?;
        if proved.is_some_and(|proved| proved != (report.member, report.store)) {
            return Err(self.not_proved(session, &handshake::Failure::Other(report.member)));
        }
        self.check_mode(&report, mode)?;
        let mut admin = self.admin.lock();
        if admin.gone {
            return Err(ENOENT);
        }
        if !same(&secret, &admin.secret) {
            return Err(EAGAIN);
        }
        if admin.opening {
            return Err(EAGAIN);
        }
        self.check_new(&admin, session, &report)?;
        let id = report.member;
        admin.members.reserve(1, GFP_KERNEL)?;
        let file = Arc::new(
            MemberFile {
                pool: self.clone(),
                session: session.clone(),
                member: id,
            },
            GFP_KERNEL,
        )?;
        let dirs = self.dirs.lock();
        let parent = &dirs.as_ref().ok_or(ENOENT)?.sessions;
        let dir = Dir::in_dir(parent, session.name(), file, &sysfs::MEMBER)?;
        drop(dirs);
        let attached = admin
            .volume
            .as_ref()
            .map(|opened| (opened.driver.clone(), opened.caps));
        let command = match &attached {
            Some((driver, caps)) => {
                if let Err(error) = Driver::add_leg(driver, id, session, &admin.secret, *caps) {
                    // The directory waits for readers of its files, who may want the mutex.
                    drop(admin);
                    return Err(error);
                }
                self.table_change(driver, &report, mode)
            }
            None => None,
        };
        admin.members.push(
            Member {
                session: session.clone(),
                report,
                dir: Some(dir),
                new: mode == Some(Mode::Create),
                told: ("", Progress::Unknown),
            },
            GFP_KERNEL,
        )?;
        let driver = attached.map(|(driver, _)| driver);
        Ok((id, driver.zip(command)))
    }

    /// Takes a member out of the list, and its leg away; its session is still to be put back.
    fn forget_member(&self, id: MemberId) -> Result<Arc<Session>> {
        let mut admin = self.admin.lock();
        let place = admin.members.iter().position(|m| m.report.member == id);
        let member = admin.members.remove(place.ok_or(ENOENT)?)?;
        if let Some(opened) = &admin.volume {
            Driver::remove_leg(&opened.driver, id);
        }
        drop(admin);
        // The directory waits for readers of its files, who may want the mutex.
        drop(member.dir);
        Ok(member.session)
    }

    /// Who the node behind `session` is, if it knows the secret.
    fn prove(&self, session: &Session, secret: &Secret) -> Result<(MemberId, Uuid)> {
        let proved = handshake::prove(session, self.name, Role::Client, secret);
        proved.map_err(|failure| self.not_proved(session, &failure))
    }

    #[cold]
    fn not_proved(&self, session: &Session, failure: &handshake::Failure) -> Error {
        refuse!(
            failure.errno(),
            "add_sess: pool {}, session {}: {}",
            self.name,
            text(session.name()),
            failure
        )
    }

    /// Whether a member is what the administrator says.
    #[inline(never)]
    fn check_mode(&self, report: &MemberReport, mode: Option<Mode>) -> Result {
        let new = report.installed.is_none();
        let refused = match mode {
            Some(Mode::Create) if !new => {
                (EEXIST, "it belongs to a pool already; use mode=assemble")
            }
            Some(Mode::Assemble) if new => (
                numbered(bindings::ENODATA),
                "its store is new and holds nothing yet; use mode=create",
            ),
            _ if self
                .chunk_size
                .is_some_and(|size| size != report.geometry.chunk_size()) =>
            {
                (
                    EINVAL,
                    "its chunk size is not that given to join_pool; they must be equal",
                )
            }
            _ => return Ok(()),
        };
        Err(refuse!(
            refused.0,
            "add_sess: pool {}, member {}: {}",
            self.name,
            report.member,
            refused.1
        ))
    }

    /// What cannot be together is refused here, where the administrator sees the cause; the engine would not take it.
    #[inline(never)]
    fn check_new(&self, admin: &Admin, session: &Session, report: &MemberReport) -> Result {
        let id = report.member;
        let mut refused = None;
        for other in admin.members.iter().map(|member| &member.report) {
            let pools = (other.pool.non_nil(), report.pool.non_nil());
            if other.member == id {
                refused = Some((
                    EEXIST,
                    "two nodes have that member id in this pool; join it with another one on one of them",
                ));
            } else if other.store == report.store {
                refused = Some((EEXIST, "another member has the same store"));
            } else if other.geometry != report.geometry {
                refused = Some((
                    numbered(bindings::EMEDIUMTYPE),
                    "its size or chunk size differ from those of the other members; create its store anew",
                ));
            } else if matches!(pools, (Some(a), Some(b)) if a != b) {
                refused = Some((
                    numbered(bindings::EMEDIUMTYPE),
                    "its store and those of the other members belong to different pools",
                ));
            }
        }
        match refused {
            None => Ok(()),
            Some((errno, why)) => Err(refuse!(
                errno,
                "add_sess: pool {}, session {}, member id {}: {}",
                self.name,
                text(session.name()),
                id,
                why
            )),
        }
    }

    /// What is to be done with the table for a new member.
    pub(super) fn table_change(
        &self,
        driver: &Driver,
        report: &MemberReport,
        mode: Option<Mode>,
    ) -> Option<Command> {
        let id = report.member;
        let store = driver.look(|desk| desk.coordinator.config().map(|c| c.store(id)))?;
        match store {
            Some(store) if store == report.store => None,
            Some(_) if mode == Some(Mode::Create) => Some(Command::Replace(id)),
            None if mode == Some(Mode::Create) => Some(Command::Add(id)),
            // The engine says why it does not take it.
            _ => None,
        }
    }

    /// Takes a member away: out of the table as well, for good or (`keep`) as one in maintenance, while the pool is
    /// attached. Sleeps.
    pub(crate) fn remove_member(
        &self,
        registry: &Registry,
        id: MemberId,
        keep: Option<bool>,
    ) -> Result {
        let driver = self.driver();
        if let Some(driver) = &driver {
            let member = driver.look(|desk| {
                let config = desk.coordinator.config()?;
                let there = config.store(id).is_some();
                Some((there, config.receivers().contains(id)))
            });
            match (member, keep) {
                (Some((_, true)), None) => {
                    return Err(refuse!(
                        EBUSY,
                        "del_sess: pool {} is in use; say mode=delete to take member {} out for good, or mode=disassemble for a while",
                        self.name,
                        id
                    ))
                }
                (Some((true, _)), Some(false)) => {
                    self.command(driver, "del_sess", Command::Remove(id))?;
                }
                (Some((true, true)), Some(true)) => {
                    self.command(driver, "del_sess", Command::Maintenance(id, true))?;
                }
                _ => {}
            }
        }
        registry.put_session(self.forget_member(id)?);
        Ok(())
    }
}

/// Whether two secrets are the same one.
fn same(a: &Option<Arc<Secret>>, b: &Option<Arc<Secret>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}
