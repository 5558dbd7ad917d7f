// SPDX-License-Identifier: GPL-2.0

//! A safe interface to RTRS, the kernel's RDMA transport: sessions and requests of a client, the one server
//! context of a kernel and the operations it hands out.
//!
//! RTRS has rules that C users keep by care. Here each is kept once, or cannot be broken:
//!
//! | rule of RTRS | kept by |
//! | --- | --- |
//! | no two `rtrs_clt_request()` nested on a CPU | [`Session::send`] runs with bottom halves off; what is left of it (failover of RTRS itself) is `EAGAIN`, not "disconnected" |
//! | a scatterlist and its pages belong to RTRS until the confirmation | [`Message`] owns the table and is lent with it; pages come in through [`IoData`] |
//! | one scatterlist per leg, no gaps at 4 KiB, at least one entry | [`Message`] |
//! | a permit is given back, once, before the session can be closed | [`Permit`] |
//! | a permit must not be given back while the session is being freed | [`Session::close`] waits for those who hold one before it lets RTRS free anything |
//! | closing a session of several paths with requests in flight uses paths that are freed | `rtrs_rs_close` keeps them |
//! | no close in the callbacks of the session, nor in atomic context | [`Session`]'s `Drop` |
//! | an operation of the server is answered exactly once | [`Op`] |
//! | nine bits of errno | [`Op::respond`], [`Errno`] |
//! | a failed `CONNECTED` leaves a session without private data behind | never refused; operations of such a session are answered `EIO` |
//! | one server context per kernel | [`Server::open`] is refused with `EBUSY` |
//! | a READ transfers its full length, also what nobody wrote | [`Op::reply`] zeroes the rest |
//!
//! Not here: what the bytes of a message mean (`rmr_proto`), when a message is sent, and any retry.

/// What the lines of this crate in the kernel's log begin with: the module it is part of.
const __LOG_PREFIX: &[u8] = b"rmr\0";

mod addr;
mod call;
mod client;
mod errno;
mod message;
mod raw;
mod server;

pub use addr::PathAddr;
pub use call::CallError;
pub use client::Attrs;
pub use client::Confirm;
pub use client::Dir;
pub use client::LinkEvent;
pub use client::LinkHandler;
pub use client::Permit;
pub use client::SendError;
pub use client::Session;
pub use client::SessionConfig;
pub use errno::Errno;
pub use message::IoData;
pub use message::Message;
pub use message::PushError;
pub use server::DataRef;
pub use server::Op;
pub use server::Server;
pub use server::ServerOps;
