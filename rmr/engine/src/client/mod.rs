// SPDX-License-Identifier: GPL-2.0

//! The client half of the engine: one volume, its requests, and who holds its data.
//!
//! | module | decides |
//! | --- | --- |
//! | [`flights`] | hot path: which requests start, and when they are complete (R2) |
//! | `extents` | how many extents the writes in flight may touch (R12) |
//! | [`coordinator`] | what happens next; the table of its phases |
//! | `attach` | query, promise, relay of suspects, first install of a generation (R8, R15) |
//! | [`decide`] | with which configuration a generation starts (R7, R9, R10) |
//! | `change` | drop, join, promotion, edits of the table: one epoch to the next (R6) |
//! | `failed` | what becomes of a request that a member did not execute |
//! | `serve` | what is to be done while all is well: watermark, rejoin, promotion, looking for what hangs |
//! | `admin` | commands of the administrator |
//! | `peer` | what is known of one member |
//!
//! [`Data`] is for all CPUs at once; the [`Coordinator`] for one at a time, with an event, the [`Data`], and an [`Out`]
//! that queues what it wants done. The caller moves bytes, keeps one timer, and makes and breaks connections.
//!
//! Not here: overlapping requests ([`overlap`](crate::overlap)), batches ([`lane`](crate::lane)), which member a read goes to
//! ([`readers`](crate::readers)).

mod admin;
mod attach;
mod change;
pub mod coordinator;
pub mod decide;
mod extents;
mod failed;
pub mod flights;
mod peer;
mod serve;

pub use coordinator::Coordinator;
pub use decide::Refusal;
pub use flights::Ack;
pub use flights::Acked;
pub use flights::Data;
pub use flights::Hint;
pub use flights::Sending;
pub use flights::Start;
pub use flights::Ticket;

use crate::time::Nanos;
use crate::time::Time;
use rmr_proto::Control;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Merge;
use rmr_proto::PoolName;
use rmr_proto::Quorum;
use rmr_proto::Reply;
use rmr_proto::Status;
use rmr_proto::Uuid;

/// What becomes of IO while no member has the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnNoData {
    /// It waits.
    #[default]
    Suspend,
    /// It fails.
    Error,
}

/// How to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Name of the pool on the servers.
    pub name: PoolName,
    /// UUID of the pool; nil if the administrator did not say. Then it is that of the members that are there, which
    /// must be one, and all that were named must be in its table.
    pub pool: Uuid,
    /// The members the administrator named: the table of a pool that was never started.
    pub members: MemberSet,
    /// The first start only: their stores are equal. Otherwise the member with the lowest id has the data.
    pub equal: bool,
    /// The first start only.
    pub quorum: Quorum,
    /// How long a request may wait for one member.
    pub io_timeout: Nanos,
    /// What becomes of IO while no member has the data.
    pub on_no_data: OnNoData,
    /// Attach even if another client is alive.
    pub takeover: bool,
    /// Longest pause before a member is taken back.
    pub max_backoff: Nanos,
}

/// Fresh random numbers for an attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Random {
    /// Tells this client from others with the same generation number.
    pub nonce: u64,
    /// UUID for the history of a pool that was never started; not nil.
    pub history: Uuid,
    /// UUID for such a pool; not nil.
    pub pool: Uuid,
}

/// The transport gave a message back, or the answer was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Failure;

/// How a copy of a request ended, if not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The member answered so.
    Answer(Status),
    /// No answer: the connection is gone or could not be used. The member may have executed it.
    Transport,
}

/// A command of the administrator. Each is answered by one [`Action::Admin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admin {
    /// A new member, with a new store.
    Add(MemberId),
    /// A new store for a member; its connection leads to the new one.
    Replace(MemberId),
    /// What the member has is not trusted any more: all of its data comes from the others.
    Invalidate(MemberId),
    /// Takes a member out of the table.
    Remove(MemberId),
    /// Keeps a member out, or lets it in again.
    Maintenance(MemberId, bool),
    /// The store of this member has diverged, and may be overwritten.
    Discard(MemberId),
    /// Starts without the members that are missing.
    Force {
        /// Members whose data, where it is newer, is given up.
        lost: MemberSet,
        /// Name of the history that begins with it, random; not nil.
        history: Uuid,
    },
    /// What becomes of IO while no member has the data.
    OnNoData(OnNoData),
    /// How long a request may wait for one member.
    IoTimeout(Nanos),
}

/// Something happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Attach.
    Attach(&'a Options, Random),
    /// Leave the pool. Also ends an attach, or what is suspended.
    Detach,
    /// A connection is there.
    LinkUp(MemberId),
    /// A connection is gone; everything sent on it was given back before.
    LinkDown(MemberId),
    /// A message was answered, or given back.
    Reply {
        /// The number of [`Action::Send`].
        call: u64,
        /// The answer.
        result: Result<&'a Reply<'a>, Failure>,
    },
    /// A copy of a request came back without success.
    IoFailed {
        /// The request.
        ticket: Ticket,
        /// Who had the copy.
        member: MemberId,
        /// Why.
        cause: Cause,
    },
    /// The hot path said so.
    Hint(Hint),
    /// The time of the timer has come.
    Timer,
    /// The administrator wants something.
    Admin(Admin),
}

/// A message that is not IO.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// To be answered by a [`Reply`].
    Control(&'a Control),
    /// To be answered by a status.
    Merge(&'a Merge<'a>),
}

/// Something is to be done.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Send this, and bring the answer.
    Send {
        /// To be named in the answer.
        call: u64,
        /// To whom.
        to: MemberId,
        /// What.
        message: Message<'a>,
    },
    /// Send the request of a ticket, again or to others.
    Resend(Sending),
    /// A request ends so; its tag is free.
    Complete(Ticket, Status),
    /// Parked requests may be started again.
    Open,
    /// Break the connection, give everything on it back, then say [`Event::LinkDown`]. It may be made again at once.
    Close(MemberId),
    /// Wake me then; [`Time::NEVER`]: not at all. Replaces the time said before.
    Timer(Time),
    /// The state of the volume changed.
    State(State),
    /// Answer to [`Event::Admin`].
    Admin(Result<(), Refusal>),
    /// For the log: why a member is not taken, said once for each reason.
    Note(MemberId, Refusal),
}

/// Takes actions. Queues them; never calls the coordinator.
pub trait Out {
    /// Do this.
    fn act(&mut self, action: Action<'_>);
}

/// State of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not attached; nothing is in flight.
    Closed,
    /// About to be attached, for the first time.
    Attaching,
    /// Requests are executed.
    Serving,
    /// Requests wait for a change of the configuration; bounded (R18).
    Changing,
    /// No member has all data: requests wait, or fail (R9).
    Held,
    /// About to be closed.
    Leaving,
    /// Acknowledged data may be gone; every request fails until the volume is closed.
    Lost,
    /// Another client has the pool; every request fails until the volume is closed.
    Fenced,
    /// The attach was given up.
    Failed(Refusal),
}
