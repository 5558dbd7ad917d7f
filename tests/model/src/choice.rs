// SPDX-License-Identifier: GPL-2.0

//! What can be chosen as the next step.

use rmr_sim::driven::Cut;
use rmr_sim::env::Event;
use rmr_sim::network::Host;
use rmr_sim::queue::Nanos;
use std::fmt;

/// A step.
#[derive(Clone, Debug)]
pub enum Choice {
    /// The pending event at this place happens.
    Happens(usize),
    /// This timer fires, at this time.
    Timer(Nanos, Event),
    /// A member that is down starts.
    Start(u8),
    /// A member is gone.
    Cut(u8, Cut),
    /// A client is gone.
    CutClient(u32),
    /// The device is opened on another host.
    Open,
    /// A session breaks.
    Break(Host, Host),
}

impl Choice {
    /// Whether nothing makes it happen: a fault, or somebody's will.
    pub fn is_free(&self) -> bool {
        matches!(
            self,
            Choice::Cut(..) | Choice::CutClient(_) | Choice::Open | Choice::Break(..)
        )
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Happens(place) => write!(f, "pending event {place}"),
            Choice::Timer(_, Event::MemberTimer(member, _)) => write!(f, "timer of m{member}"),
            Choice::Timer(_, Event::ClientTimer(opening)) => write!(f, "timer of c{opening}"),
            Choice::Timer(..) => write!(f, "timer"),
            Choice::Start(member) => write!(f, "m{member} starts"),
            Choice::Cut(member, Cut::Crash) => write!(f, "m{member} crashes"),
            Choice::Cut(member, Cut::Power) => write!(f, "m{member} loses power"),
            Choice::CutClient(opening) => write!(f, "c{opening} crashes"),
            Choice::Open => write!(f, "another client opens the device"),
            Choice::Break(from, to) => write!(f, "the session of {from} with {to} breaks"),
        }
    }
}
