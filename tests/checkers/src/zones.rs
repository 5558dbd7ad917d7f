// SPDX-License-Identifier: GPL-2.0

//! Linearizability of a register whose values are all different.
//!
//! The operations on one value, its write and its reads, are a cluster. Let `first_end` be the first end and
//! `last_begin` the last begin in it. If `first_end < last_begin` the register held the value from the one
//! to the other, whatever the order: a *forward zone*. Otherwise all operations of the cluster have a moment in common, and
//! fit anywhere between `last_begin` and `first_end`: a *backward zone*. There is an order if and only if no read ends before
//! the write of its value begins, no two forward zones overlap, and no backward zone lies inside a forward one.
//!
//! Not here: values that are written more than once (`search`).

use rustc_hash::FxHashMap;

/// An operation on one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Position of its begin.
    pub(crate) begin: usize,
    /// The last position at which it can take effect.
    pub(crate) end: usize,
    /// What it writes or returns.
    pub(crate) value: u64,
    /// What it is, for messages.
    pub(crate) source: Source,
}

/// Where a [`Span`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A request, by its index.
    Op(usize),
    /// The attach at this position found the value.
    Attach(usize),
    /// The content at the begin.
    Initial,
}

/// The zone of a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone {
    pub(crate) value: u64,
    pub(crate) first_end: (usize, Source),
    pub(crate) last_begin: (usize, Source),
}

impl Zone {
    fn of(span: &Span) -> Zone {
        Zone {
            value: span.value,
            first_end: (span.end, span.source),
            last_begin: (span.begin, span.source),
        }
    }

    fn add(&mut self, span: &Span) {
        if span.end < self.first_end.0 {
            self.first_end = (span.end, span.source);
        }
        if span.begin > self.last_begin.0 {
            self.last_begin = (span.begin, span.source);
        }
    }

    fn forward(&self) -> bool {
        self.first_end.0 < self.last_begin.0
    }
}

/// Why there is no order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Conflict {
    /// The read ends before the write of its value begins.
    Early { read: Span, write: Span },
    /// The register would have held two values at once.
    Overlap(Zone, Zone),
    /// The second value has no place outside the zone of the first.
    Inside(Zone, Zone),
}

/// Looks for an order of these operations. Each value is written once in `writes`, and each value read is. What `unseen`
/// writes nobody reads, whatever its value.
pub(crate) fn check(writes: &[Span], reads: &[Span], unseen: &[Span]) -> Result<(), Conflict> {
    let mut zones: FxHashMap<u64, (Span, Zone)> = writes
        .iter()
        .map(|write| (write.value, (*write, Zone::of(write))))
        .collect();
    for read in reads {
        let Some((write, zone)) = zones.get_mut(&read.value) else {
            continue;
        };
        if read.end < write.begin {
            let (read, write) = (*read, *write);
            return Err(Conflict::Early { read, write });
        }
        zone.add(read);
    }
    let (mut forward, mut backward): (Vec<Zone>, Vec<Zone>) = zones
        .into_values()
        .map(|(_, zone)| zone)
        .partition(Zone::forward);
    backward.extend(unseen.iter().map(Zone::of));
    forward.sort_unstable_by_key(|zone| zone.first_end.0);
    // So that of several conflicts it is always the same that is told.
    backward.sort_unstable_by_key(|zone| zone.last_begin.0);
    for pair in forward.windows(2) {
        if let [a, b] = pair {
            if b.first_end.0 < a.last_begin.0 {
                return Err(Conflict::Overlap(*a, *b));
            }
        }
    }
    for inner in &backward {
        let index = forward.partition_point(|zone| zone.first_end.0 < inner.last_begin.0);
        let Some(outer) = index.checked_sub(1).and_then(|last| forward.get(last)) else {
            continue;
        };
        if inner.first_end.0 < outer.last_begin.0 {
            return Err(Conflict::Inside(*outer, *inner));
        }
    }
    Ok(())
}
