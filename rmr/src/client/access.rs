// SPDX-License-Identifier: GPL-2.0

//! One member of one pool, reached over a session: whether there is a connection, and, if the pool has a secret, whether the two
//! sides have proved to each other that they know it.
//!
//! Only then the connection is there for whoever uses it: the driver of a pool that is attached to hears of it after the
//! [handshake]; calls to other members wait for it. Each connection has a handshake of its own. One that fails is repeated
//! with pauses that grow, and said once.

use super::driver::Driver;
use super::handshake;
use super::handshake::Failure;
use super::registry::Registry;
use super::session::Session;
use crate::refuse::text;
use crate::say;
use crate::secret::Secret;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Release;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_proto::Incarnation;
use rmr_proto::MemberId;
use rmr_proto::PoolName;
use rmr_proto::Role;
use rmr_sys::gate::Gate;
use rmr_sys::time::now_ms;
use rmr_sys::work::Again;
use rmr_sys::work::Job;

/// Pause before a handshake is repeated, in ms; doubles up to the longest.
const FIRST_PAUSE_MS: u32 = 250;
const LONGEST_PAUSE_MS: u32 = 10_000;

/// How a handshake stands, in a word.
mod word {
    /// The pool has no secret.
    pub(super) const NONE: &str = "none";
    /// There is no connection, or no answer yet.
    pub(super) const WAITING: &str = "waiting";
    pub(super) const DONE: &str = "authenticated";
}

struct Inner {
    secret: Option<Arc<Secret>>,
    /// There is a connection.
    up: bool,
    /// Changes whenever what is being proved would be out of date.
    serial: u64,
    word: &'static str,
    pause_ms: u32,
    /// When the last handshake succeeded.
    done_ms: u64,
    /// In which incarnation the member first said to run after that.
    run: Incarnation,
    /// What was last said of one that failed.
    said: &'static str,
}

impl Inner {
    /// The next pause.
    fn pause(&mut self) -> u32 {
        let pause = self.pause_ms;
        self.pause_ms = pause.saturating_mul(2).min(LONGEST_PAUSE_MS);
        pause
    }
}

/// See the head of the file.
#[pin_data]
pub(crate) struct Access {
    session: Arc<Session>,
    pool: PoolName,
    member: MemberId,
    role: Role,
    /// Who is told.
    driver: Option<Arc<Driver>>,
    /// Shakes hands.
    job: Gate<Job<Access>>,
    /// There is a connection, and all is proved.
    open: Atomic<bool>,
    #[pin]
    inner: Mutex<Inner>,
}

impl Access {
    /// Of a client to `member`; `driver` is told. Nothing happens before [`watch`](Self::watch). Sleeps.
    pub(crate) fn of_client(
        session: &Arc<Session>,
        pool: PoolName,
        member: MemberId,
        secret: Option<Arc<Secret>>,
        driver: &Arc<Driver>,
    ) -> Result<Arc<Self>> {
        let driver = Some(driver.clone());
        Self::new(session, pool, member, Role::Client, secret, driver)
    }

    /// Of another member to `member`. Nothing happens before [`watch`](Self::watch). Sleeps.
    pub(crate) fn of_peer(
        session: &Arc<Session>,
        pool: PoolName,
        member: MemberId,
        secret: Option<Arc<Secret>>,
    ) -> Result<Arc<Self>> {
        Self::new(session, pool, member, Role::Peer, secret, None)
    }

    fn new(
        session: &Arc<Session>,
        pool: PoolName,
        member: MemberId,
        role: Role,
        secret: Option<Arc<Secret>>,
        driver: Option<Arc<Driver>>,
    ) -> Result<Arc<Self>> {
        let access = Arc::pin_init(
            pin_init!(Self {
                session: session.clone(),
                pool,
                member,
                role,
                driver,
                job: Gate::new(),
                open: Atomic::new(false),
                inner <- new_mutex!(Inner {
                    secret,
                    up: false,
                    serial: 0,
                    word: word::WAITING,
                    pause_ms: FIRST_PAUSE_MS,
                    done_ms: 0,
                    run: Incarnation::NONE,
                    said: "",
                }),
            }),
            GFP_KERNEL,
        )?;
        let queue = &Registry::get()?.slow;
        let job = Job::new(queue, access.clone(), Self::work)?;
        access.job.publish(job)?;
        Ok(access)
    }

    /// Begins to watch the connection. Sleeps.
    pub(crate) fn watch(self: &Arc<Self>) -> Result {
        self.session.watch(self)
    }

    /// Waits for the first handshake, if there is a connection. Sleeps.
    pub(crate) fn wait(&self) {
        if let Some(job) = self.job.enter() {
            job.flush();
        }
    }

    /// Nobody is told anything any more. Sleeps, until a handshake is over.
    pub(crate) fn end(&self) {
        self.session.unwatch(self);
        drop(self.job.retire());
    }

    /// The connection is there, or gone with everything that was in flight on it. Sleeps, but for no message.
    pub(crate) fn link(&self, up: bool) {
        let mut inner = self.inner.lock();
        if up && inner.up && inner.secret.is_some() {
            // The same one.
            return;
        }
        inner.up = up;
        inner.pause_ms = FIRST_PAUSE_MS;
        self.begin(&mut inner);
        if !up {
            self.tell(false);
        }
    }

    /// Whoever is there has, from now on, to prove this secret. Sleeps.
    pub(crate) fn require(&self, secret: Option<Arc<Secret>>) {
        let mut inner = self.inner.lock();
        inner.secret = secret;
        inner.said = "";
        self.begin(&mut inner);
    }

    /// The node says that it requires a secret, though the pool has none here. Sleeps.
    pub(crate) fn required(&self) {
        let mut inner = self.inner.lock();
        if inner.secret.is_some() {
            return;
        }
        let what = match self.role {
            Role::Client => "take its sessions away, write the description of its key to the pool's file secret, and add them again",
            Role::Peer => "remove the store of this node, and add it with secret=",
        };
        self.say(&mut inner, "required", |pool, session| {
            say!(
                pr_warn,
                "pool {}, session {}: the node requires a secret; {}",
                pool,
                session,
                what
            );
        });
    }

    /// What was proved over this connection is not worth anything any more: the member's store was attached anew, or it has
    /// forgotten the connection. Nothing of the driver's is in flight. Sleeps.
    pub(crate) fn renew(&self) {
        let mut inner = self.inner.lock();
        if inner.secret.is_none() || !self.is_open() {
            return;
        }
        self.open.store(false, Release);
        inner.serial += 1;
        inner.word = word::WAITING;
        self.tell(false);
        if now_ms().saturating_sub(inner.done_ms) > u64::from(LONGEST_PAUSE_MS) {
            inner.pause_ms = FIRST_PAUSE_MS;
        }
        let pause = inner.pause();
        if let Some(job) = self.job.enter() {
            job.after(pause);
        }
    }

    /// Whether the member, which says to run in this incarnation, is the one that has proved to know the secret. Sleeps.
    pub(crate) fn is_proved(&self, run: Incarnation) -> bool {
        let mut inner = self.inner.lock();
        if inner.secret.is_none() {
            return true;
        }
        if inner.run.is_none() {
            inner.run = run;
        }
        self.is_open() && inner.run == run
    }

    /// Whether anything is proved at all. Sleeps.
    pub(crate) fn has_secret(&self) -> bool {
        self.inner.lock().secret.is_some()
    }

    /// Lets the driver, of which nothing is in flight, believe that the connection was lost, and is as it is. Sleeps.
    pub(crate) fn as_if_closed(&self) {
        let _inner = self.inner.lock();
        self.tell(false);
        if self.is_open() {
            self.tell(true);
        }
    }

    /// Whether the node may be spoken to. Any context.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Acquire)
    }

    /// Whether there is a connection, but it was not agreed that it may be used.
    pub(crate) fn is_shut(&self) -> bool {
        !self.is_open() && self.session.is_connected()
    }

    /// How it stands, in a word. Sleeps.
    pub(crate) fn word(&self) -> &'static str {
        let inner = self.inner.lock();
        match &inner.secret {
            None => word::NONE,
            Some(_) => inner.word,
        }
    }

    /// All begins anew, with the connection and the secret that there are.
    fn begin(&self, inner: &mut Inner) {
        inner.serial += 1;
        inner.word = word::WAITING;
        let trusted = inner.up && inner.secret.is_none();
        self.open.store(trusted, Release);
        if trusted {
            self.tell(true);
        } else if inner.up {
            if let Some(job) = self.job.enter() {
                job.rearm(0);
            }
        }
    }

    fn tell(&self, up: bool) {
        if let Some(driver) = &self.driver {
            driver.link(self.member, up);
        }
    }

    /// The job.
    fn work(this: &Arc<Self>) -> Again {
        let (secret, serial) = {
            let inner = this.inner.lock();
            match &inner.secret {
                Some(secret) if inner.up && !this.is_open() => (secret.clone(), inner.serial),
                _ => return Again::No,
            }
        };
        let outcome = handshake::prove(&this.session, this.pool, this.role, &secret);
        let outcome = outcome.and_then(|(member, _)| {
            if member == this.member {
                Ok(())
            } else {
                Err(Failure::Other(member))
            }
        });
        let mut inner = this.inner.lock();
        if inner.serial != serial {
            // Of the past. Whoever changed that has queued this job, if there is something to be done.
            return Again::No;
        }
        match outcome {
            Ok(()) => {
                inner.word = word::DONE;
                inner.done_ms = now_ms();
                inner.run = Incarnation::NONE;
                inner.said = "";
                this.open.store(true, Release);
                this.tell(true);
                Again::No
            }
            Err(failure) => {
                let pause = inner.pause();
                inner.word = failure.word();
                if failure.is_final() {
                    this.say(&mut inner, failure.word(), |pool, session| {
                        say!(
                            pr_warn,
                            "pool {}, session {}: not authenticated: {}",
                            pool,
                            session,
                            failure
                        );
                    });
                }
                if let Some(driver) = &this.driver {
                    driver.not_authenticated();
                }
                Again::After(pause)
            }
        }
    }

    /// Says something once.
    fn say(&self, inner: &mut Inner, what: &'static str, say: impl FnOnce(&PoolName, &str)) {
        if inner.said != what {
            inner.said = what;
            say(&self.pool, text(self.session.name()));
        }
    }
}
