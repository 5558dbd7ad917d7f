// SPDX-License-Identifier: GPL-2.0

//! The storage half of the engine: a member.
//!
//! | module | decides |
//! | --- | --- |
//! | `shared` | on the IO path: may a request be executed, what is remembered of it before |
//! | `member` | everything else: what comes next; admission of other members |
//! | `control` | what a client wants: promises, installations, lists |
//! | `plan` | the stages of a change, and what is written in each |
//! | `report` | what a member says of itself |
//! | `resync` | what is fetched and pulled when |
//! | `records` | what is read at a start, and how a record is written |
//! | `bitmap`, `log`, `recent`, `pulls`, `rate` | dirty chunks, hot extents, writes above the watermark, pulls under way, how fast they are |
//! | `unreadable` | what no member could read |
//! | `written` | what was pulled, and may hold what is not complete |
//!
//! What is shared by all CPUs ([`Shared`]) and the exceptional part ([`Member`]) are two things: the caller gives the
//! one to each call of the other.
//!
//! Not here: IO, data, connections.

mod bitmap;
mod control;
#[cfg(all(test, loom))]
mod interleavings;
mod log;
mod member;
mod plan;
mod pulls;
mod rate;
mod recent;
mod records;
mod report;
mod resync;
mod shared;
mod unreadable;
mod written;

pub use member::Member;
pub use records::Reader;
pub use records::RecordId;
pub use records::StartError;
pub use shared::FlushMark;
pub use shared::Serving;
pub use shared::Shared;
pub use shared::Verdict;

use crate::time::Time;
use core::ops::Range;
use rmr_proto::Begun;
use rmr_proto::Control;
use rmr_proto::DirtyPage;
use rmr_proto::Geometry;
use rmr_proto::Layout;
use rmr_proto::Limits;
use rmr_proto::MemberId;
use rmr_proto::Merge;
use rmr_proto::Peer;
use rmr_proto::Reply;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::EXTENT_SHIFT;
use rmr_proto::RECORD_BYTES;

/// What a store is, as its superblock and its device say.
#[derive(Clone, Debug, Hash)]
pub struct StoreInfo {
    /// UUID of the pool; nil if the store was never assigned.
    pub pool: Uuid,
    /// UUID of the store.
    pub store: Uuid,
    /// The member it was created for.
    pub member: MemberId,
    /// Where everything is.
    pub layout: Layout,
    /// What the device can do.
    pub limits: Limits,
    /// Slots of the activity log that are used, 2 to 1024.
    pub log_extents: u32,
    /// A random number, another one at each start; for [`Incarnation::after`](rmr_proto::Incarnation::after).
    pub salt: u32,
}

/// What happens to a member.
pub enum Event<'a> {
    /// It was started: comes once, first.
    Started,
    /// A control message.
    Control {
        /// To be named in the reply.
        call: u64,
        /// The message.
        message: &'a Control,
        /// The client that is served is another one, and connected.
        other_alive: bool,
    },
    /// Chunks for dirty bitmaps.
    Merge {
        /// To be named in the reply.
        call: u64,
        /// The message.
        message: &'a Merge<'a>,
    },
    /// The end of an [`Action::WriteMeta`] or [`Action::AssignPool`].
    MetaDone(Result<(), Status>),
    /// Nothing is running any more, after an [`Action::Drain`].
    Drained,
    /// The end of an [`Action::Flush`].
    Flushed(Result<(), Status>),
    /// The end of an [`Action::SendPeer`]: an answer, or why there is none.
    PeerReply {
        /// As in the action.
        call: u64,
        /// What came.
        result: Result<PeerAnswer<'a>, Status>,
    },
    /// The end of an [`Action::PullWrite`].
    PullWritten {
        /// As in the action.
        call: u64,
        /// Whether it was written.
        result: Result<(), Status>,
    },
    /// A write has to wait ([`Verdict::Wait`]).
    Waiting,
    /// The watermark may have moved, a flush failed, or resync is paused or not. Never needed for the first, but helps.
    Heard,
    /// The time of the last [`Action::Timer`] has come.
    Timer,
}

/// What another member answered.
#[derive(Clone, Copy, Debug)]
pub enum PeerAnswer<'a> {
    /// A page of a dirty bitmap.
    Page(DirtyPage<'a>),
    /// Data, which the caller holds.
    Data,
    /// What it has begun.
    Begun(Begun),
    /// Done.
    Done,
}

/// How to answer another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerDo {
    /// With the words of [`Shared::page`].
    Page {
        /// Whose bitmap.
        of: MemberId,
        /// Which page.
        page: u64,
    },
    /// With what is read here. Counts as running.
    Read {
        /// Offset in the volume, in bytes.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
    /// With this.
    Begun(Begun),
    /// With good status.
    Done,
}

/// What is to be done for a member.
pub enum Action<'a> {
    /// Answer a message.
    Reply {
        /// Which one.
        call: u64,
        /// The answer.
        reply: &'a Reply<'a>,
    },
    /// Write one copy of a record, so that it is stable; then [`Event::MetaDone`]. There are never two at a time.
    WriteMeta {
        /// Offset on the device, in bytes.
        offset: u64,
        /// What to write.
        bytes: &'a [u8; RECORD_BYTES],
    },
    /// Write both copies of the superblock with this UUID of the pool; then [`Event::MetaDone`].
    AssignPool(Uuid),
    /// Admit IO like this from now on; `None`: admit none.
    Serve(Option<Serving>),
    /// Say [`Event::Drained`] as soon as nothing runs: no write between `Execute` and its end, no read, flush or read for
    /// another member.
    Drain,
    /// Flush the store; then [`Event::Flushed`].
    Flush,
    /// Send a message to another member; [`Event::PeerReply`] comes in any case, at the latest when the connection ends.
    SendPeer {
        /// To be named in the event.
        call: u64,
        /// To whom.
        to: MemberId,
        /// The message.
        message: &'a Peer<'a>,
    },
    /// Break the connection to another member, and give everything on it back. It may be made again at once.
    ClosePeer(MemberId),
    /// Write the data that the answer to `call` brought; then [`Event::PullWritten`].
    PullWrite {
        /// To be named in the event.
        call: u64,
        /// Offset in the volume, in bytes.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
    /// Give the requests again that had to wait.
    Retry,
    /// Answer those with `LogFull`.
    LogFull,
    /// Send [`Event::Timer`] then, instead of any time said before. One that comes early does no harm.
    Timer(Time),
    /// The member serves nobody any more: metadata could not be written, or the store not flushed. Start it again.
    Failed(Status),
}

/// Takes actions. They are queued: the member is not called again before its call returns.
pub trait Out {
    /// Queues an action.
    fn act(&mut self, action: Action<'_>);
}

/// The chunks of an extent, as far as they lie in the volume.
fn chunks_of_extent(geometry: &Geometry, extent: u64) -> Range<u64> {
    let size = geometry.size();
    let offset = extent
        .checked_mul(1 << EXTENT_SHIFT)
        .unwrap_or(size)
        .min(size);
    let end = offset.saturating_add(1 << EXTENT_SHIFT).min(size);
    if offset == end {
        return 0..0;
    }
    geometry.chunk_of(offset)..geometry.chunk_of(end - 1) + 1
}
