// SPDX-License-Identifier: GPL-2.0

//! What the engine wants sent, kept for a tag until it is sent.
//!
//! The words are written by whoever has the tag to be sent, before it is queued, and read by whoever takes it out of
//! that queue: the queue's lock orders them.

use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use rmr_engine::client::Sending;
use rmr_engine::client::Ticket;
use rmr_proto::Epoch;
use rmr_proto::Generation;
use rmr_proto::MemberSet;
use rmr_proto::Op;
use rmr_proto::Seq;

/// A place for the [`Sending`] of one tag.
pub(crate) struct Place {
    serial: Atomic<u32>,
    targets: Atomic<u32>,
    op: Atomic<u32>,
    seq: Atomic<u64>,
    number: Atomic<u64>,
    nonce: Atomic<u64>,
    epoch: Atomic<u64>,
}

impl Place {
    /// An empty place.
    pub(crate) fn new() -> Self {
        Self {
            serial: Atomic::new(0),
            targets: Atomic::new(0),
            op: Atomic::new(0),
            seq: Atomic::new(0),
            number: Atomic::new(0),
            nonce: Atomic::new(0),
            epoch: Atomic::new(0),
        }
    }

    /// Puts one in.
    pub(crate) fn put(&self, sending: &Sending) {
        self.serial.store(sending.ticket.serial, Relaxed);
        self.targets.store(sending.targets.bits(), Relaxed);
        self.op.store(sending.op as u32, Relaxed);
        self.seq.store(sending.seq.0, Relaxed);
        self.number.store(sending.generation.number, Relaxed);
        self.nonce.store(sending.generation.nonce, Relaxed);
        self.epoch.store(sending.epoch.0, Relaxed);
    }

    /// What was put in last, for `tag`.
    pub(crate) fn get(&self, tag: u32) -> Sending {
        Sending {
            ticket: Ticket {
                tag,
                serial: self.serial.load(Relaxed),
            },
            targets: MemberSet::from_bits(self.targets.load(Relaxed)),
            // What was put in is one of them.
            op: Op::from_wire(self.op.load(Relaxed) as u8).unwrap_or(Op::Flush),
            seq: Seq(self.seq.load(Relaxed)),
            generation: Generation {
                number: self.number.load(Relaxed),
                nonce: self.nonce.load(Relaxed),
            },
            epoch: Epoch(self.epoch.load(Relaxed)),
        }
    }
}

/// Places for tags below `depth`. May sleep.
pub(crate) fn places(depth: u32) -> Result<KVVec<Place>> {
    let mut places = KVVec::with_capacity(depth as usize, GFP_KERNEL)?;
    for _ in 0..depth {
        places.push(Place::new(), GFP_KERNEL)?;
    }
    Ok(places)
}
