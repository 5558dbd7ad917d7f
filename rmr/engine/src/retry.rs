// SPDX-License-Identifier: GPL-2.0

//! What the client does with a request whose message failed.
//!
//! Asked once for each request of a failed message and for each leg (a write goes to several). The request
//! and its memory are at rest: the transport has given the message back.
//!
//! ```text
//!                         ┌─ data error, batch ─────► Single         same leg, alone, same number
//!            ┌─ status ───┼─ data error, alone ─────► read: OtherReader, or Complete     write: FailVolume
//!   failure ─┤            ├─ busy, out of window ───► RetryLater until io_timeout
//!            │            └─ not this member/client ► FailVolume
//!            └─ transport ──────────────────────────► read: OtherReader                  both: RetryLater
//! ```
//!
//! There are no epochs without a member yet. So a write that one receiver does not take within io_timeout fails the
//! whole volume, as does a member that restarted: then no read is answered any more, and no stale block is read.
//! A failed write is not tried again under its number, the member would repeat its answer (`dedupe`).
//!
//! The age of a request counts from its first failure, so retries do not add up. Until then the transport is
//! still at it, and has its own limits.

use core::fmt;
use core::time::Duration;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Status;

/// How a message ended, if not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The member answered so.
    Answer(Status),
    /// No answer: the connection is gone or could not be used. The member may have executed the message.
    Transport,
}

/// What kind of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// One member answers.
    Read,
    /// Write, flush, write zeroes: all receivers answer.
    Write,
}

/// A request whose message failed on one leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The leg.
    pub member: MemberId,
    /// What happened.
    pub cause: Cause,
    /// Requests in the message.
    pub batch: u16,
    /// Kind of the request.
    pub direction: Direction,
    /// Reads: the members that may answer it (in sync).
    pub readers: MemberSet,
    /// Reads: the members that failed to, this one included or not.
    pub tried: MemberSet,
    /// Time since the request failed first.
    pub age: Duration,
    /// The pool's io_timeout.
    pub io_timeout: Duration,
}

/// What to do with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Send it to the same leg again, alone in its message, now.
    Single,
    /// Send it to the same leg again, alone, when the leg is connected and some time has passed. For a read whose
    /// readers all failed: forget who was tried.
    RetryLater,
    /// Send the read to this member.
    OtherReader(MemberId),
    /// The request ends so, on this leg.
    Complete(Status),
    /// Every request of the volume, from now on, ends with an error.
    FailVolume(Reason),
}

/// Why a volume fails. Displays as one line that says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A receiver could not be reached for as long as a request may take.
    Unreachable(MemberId),
    /// A receiver was busy for as long as a request may take.
    Stuck(MemberId),
    /// A receiver did not execute a write.
    WriteFailed(MemberId, Status),
    /// A member runs in another incarnation, or has lost its store.
    Restarted(MemberId),
    /// Another client took the pool over.
    TakenOver(MemberId),
    /// A member contradicts what it told before.
    Confused(MemberId, Status),
}

/// What a status means for the client.
enum Class {
    Ok,
    /// This request cannot be executed there.
    Data,
    /// Not executed, and may be later.
    Later,
    /// The connection failed on the way.
    Transport,
    /// The member is not the one that was attached, or not in the state it was.
    Gone(fn(MemberId, Status) -> Reason),
}

fn class(status: Status) -> Class {
    match status {
        Status::Ok => Class::Ok,
        Status::Io
        | Status::Medium
        | Status::NoSpace
        | Status::NotSupported
        | Status::Invalid
        | Status::OutOfRange
        | Status::ReadOnly => Class::Data,
        Status::Busy
        | Status::NoMemory
        | Status::OutOfWindow
        | Status::LogFull
        | Status::TimedOut => Class::Later,
        Status::Disconnected => Class::Transport,
        Status::StaleIncarnation | Status::NoPool | Status::NoStore => {
            Class::Gone(|member, _| Reason::Restarted(member))
        }
        Status::StaleGeneration | Status::Fenced | Status::InUse => {
            Class::Gone(|member, _| Reason::TakenOver(member))
        }
        _ => Class::Gone(Reason::Confused),
    }
}

impl Failure {
    /// Decides.
    pub fn action(&self) -> Action {
        let class = match self.cause {
            Cause::Answer(status) => class(status),
            Cause::Transport => Class::Transport,
        };
        let status = match self.cause {
            Cause::Answer(status) => status,
            Cause::Transport => Status::Disconnected,
        };
        match (class, self.direction) {
            (Class::Ok, _) => Action::Complete(Status::Ok),
            (Class::Gone(reason), _) => Action::FailVolume(reason(self.member, status)),
            (Class::Data, _) if self.batch > 1 => Action::Single,
            (Class::Data, Direction::Read) => match self.other_reader() {
                Some(other) => Action::OtherReader(other),
                None => Action::Complete(status),
            },
            (Class::Data, Direction::Write) => {
                Action::FailVolume(Reason::WriteFailed(self.member, status))
            }
            (_, Direction::Read) => match self.other_reader() {
                Some(other) => Action::OtherReader(other),
                None if self.is_young() => Action::RetryLater,
                None => Action::Complete(Status::TimedOut),
            },
            (_, Direction::Write) if self.is_young() => Action::RetryLater,
            (Class::Later, Direction::Write) => Action::FailVolume(Reason::Stuck(self.member)),
            (_, Direction::Write) => Action::FailVolume(Reason::Unreachable(self.member)),
        }
    }

    fn is_young(&self) -> bool {
        self.age < self.io_timeout
    }

    /// A member that may still answer the read: the next above the one that failed.
    fn other_reader(&self) -> Option<MemberId> {
        self.readers
            .minus(self.tried)
            .without(self.member)
            .iter()
            .min_by_key(|id| (*id < self.member, *id))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(member) => write!(
                f,
                "member {member} could not be reached within io_timeout: repair the connection, then unmap the device and enable the pool with source="
            ),
            Self::Stuck(member) => write!(
                f,
                "member {member} was busy for longer than io_timeout: look at its disk, then unmap the device and enable the pool with source="
            ),
            Self::WriteFailed(member, status) => write!(
                f,
                "member {member} failed a write ({status}): look at its disk, then unmap the device and enable the pool with source="
            ),
            Self::Restarted(member) => write!(
                f,
                "member {member} restarted or lost its store: bring the store back, then unmap the device and enable the pool with source="
            ),
            Self::TakenOver(member) => write!(
                f,
                "another client has taken over the pool (said by member {member}): unmap the device here"
            ),
            Self::Confused(member, status) => write!(
                f,
                "member {member} refuses requests ({status}): unmap the device and map it again"
            ),
        }
    }
}
