// SPDX-License-Identifier: GPL-2.0

//! Which member answers a read.
//!
//! The candidates are the in-sync members (rule R4), less those that were already tried for this request. What
//! a policy has to remember is a cursor that the caller keeps per lane, so that CPUs share nothing; a pool of
//! several CPUs is balanced because each of them is.

use crate::options;
use core::fmt;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;

/// How a member is chosen among those that may answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest messages in flight from this lane's CPU; the one that answered last, unless another has at least
    /// two less. So few reads at a time stay with one member, where they travel together, and its disk sees streams
    /// as such; many spread.
    #[default]
    LeastInflight,
    /// This one while it may answer, else one after the other.
    Preferred(MemberId),
}

impl Policy {
    /// Reads `round-robin`, `least-inflight` or `preferred=<member id>`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"round-robin" => Some(Self::RoundRobin),
            b"least-inflight" => Some(Self::LeastInflight),
            _ => {
                let id = options::number(text.strip_prefix(b"preferred=")?)?;
                MemberId::new(u32::try_from(id).ok()?).map(Self::Preferred)
            }
        }
    }

    /// As a number that an atomic can hold.
    pub fn to_bits(self) -> u32 {
        match self {
            Self::LeastInflight => 0,
            Self::RoundRobin => 1,
            Self::Preferred(id) => 1 << 16 | id.get(),
        }
    }

    /// What `to_bits` made a number of; anything else is the default.
    pub fn from_bits(bits: u32) -> Self {
        match (bits >> 16, MemberId::new(bits & 0xffff)) {
            (1, Some(id)) => Self::Preferred(id),
            _ if bits == 1 => Self::RoundRobin,
            _ => Self::LeastInflight,
        }
    }

    /// Chooses among `candidates`. `turn` is the caller's cursor, any value to begin with; `in_flight` says how
    /// many messages the caller has in flight to a member, or full and about to leave.
    pub fn pick(
        self,
        candidates: MemberSet,
        turn: &mut u32,
        in_flight: impl Fn(MemberId) -> u32,
    ) -> Option<MemberId> {
        // In turn: the ids above the last one chosen, then the others.
        let order = |id: &MemberId| (id.get() <= *turn, id.get());
        let chosen = match self {
            Self::Preferred(id) if candidates.contains(id) => return Some(id),
            Self::LeastInflight => {
                // Asks once about each.
                let mut last = None;
                let loads = candidates.iter().map(|id| {
                    let load = in_flight(id);
                    if id.get() == *turn {
                        last = Some((load, id));
                    }
                    (load, id)
                });
                let (least, next) = loads.min_by_key(|(load, id)| (*load, order(id)))?;
                last.filter(|(load, _)| *load <= least.saturating_add(1))
                    .map_or(next, |(_, id)| id)
            }
            _ => candidates.iter().min_by_key(order)?,
        };
        *turn = chosen.get();
        Some(chosen)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoundRobin => f.write_str("round-robin"),
            Self::LeastInflight => f.write_str("least-inflight"),
            Self::Preferred(id) => write!(f, "preferred={id}"),
        }
    }
}
