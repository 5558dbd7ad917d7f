// SPDX-License-Identifier: GPL-2.0

//! When what was proved over a connection is not worth anything any more, though the connection stays: the member says that nothing
//! was proved to it, or it runs in another incarnation than before, so its store was attached anew, perhaps without a secret.
//!
//! Then nothing more is sent, and when all that is on its way has come back, the coordinator is told that the connection was lost, until
//! the [`Access`](super::access) has proved everything again. What does not come back soon is got back by closing the connection.

use super::core::Core;
use super::leg::Leg;
use rmr_engine::time::Time;
use rmr_engine::time::SECOND;
use rmr_proto::Incarnation;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_sys::gate::Entered;
use rmr_sys::time::now_ns;

/// See the head of the file.
pub(crate) struct Renewal {
    /// Members that are to prove everything again.
    members: MemberSet,
    /// Since when there are any.
    since: Time,
}

impl Renewal {
    pub(crate) const fn new() -> Self {
        Self {
            members: MemberSet::EMPTY,
            since: Time(0),
        }
    }

    /// A member is to prove everything again.
    pub(crate) fn ask(&mut self, leg: &Leg) {
        if !leg.access.has_secret() {
            return leg.access.required();
        }
        leg.set_usable(false);
        if self.members.is_empty() {
            self.since = Time(now_ns());
        }
        self.members = self.members.with(leg.member);
    }

    /// Whether what a member says counts, that reports to run in an incarnation. If not, it is to prove everything again.
    pub(crate) fn counts(&mut self, leg: &Leg, run: Incarnation) -> bool {
        if self.members.contains(leg.member) {
            return false;
        }
        let proved = leg.access.is_proved(run);
        if !proved {
            self.ask(leg);
        }
        proved
    }

    /// The connection was lost, with all that was proved over it.
    pub(crate) fn lost(&mut self, id: MemberId) {
        self.members = self.members.without(id);
    }

    /// Lets those begin of whom nothing is on its way; `idle` says so of control messages. `true` if there are others.
    pub(crate) fn turn(&mut self, core: &Entered<Core>, idle: impl Fn(MemberId) -> bool) -> bool {
        let late = Time(now_ns()).since(self.since) > SECOND;
        for id in self.members {
            let Some(leg) = core.leg(id) else {
                self.members = self.members.without(id);
                continue;
            };
            if idle(id) && leg.is_idle() {
                leg.access.renew();
            } else if late {
                leg.session.close();
            } else {
                continue;
            }
            self.members = self.members.without(id);
        }
        !self.members.is_empty()
    }
}
