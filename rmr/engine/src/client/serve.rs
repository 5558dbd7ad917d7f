// SPDX-License-Identifier: GPL-2.0

//! What a client does while all is well: says the watermark (R12), looks for what hangs, takes members back, and in
//! sync (section 6 of the design).

use super::coordinator::Coordinator;
use super::coordinator::Phase;
use super::coordinator::Turn;
use super::decide::acceptable;
use super::decide::Candidate;
use super::peer::Found;
use super::peer::Step;
use super::Failure;
use super::Refusal;
use crate::memory::Memory;
use crate::planted::on;
use crate::planted::Bug;
use crate::time::Nanos;
use crate::time::Time;
use crate::time::MILLISECOND;
use crate::time::SECOND;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::Fences;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::MemberSet;
use rmr_proto::Progress;
use rmr_proto::Reply;
use rmr_proto::Status;

/// How often a member is looked after.
const PING: Nanos = SECOND;
/// The same for a member that is catching up.
const PROGRESS: Nanos = 100 * MILLISECOND;
/// How long there are no writes until members are told the watermark.
const TELL: Nanos = 10 * MILLISECOND;
/// Longest time that IO waits for a connection to come back.
const GRACE: Nanos = SECOND;
/// After so many looks, each a quarter of `io_timeout` apart, a request hangs.
const LOOKS: u32 = 4;

impl<M: Memory> Coordinator<M> {
    /// What is due. True if that led to something else.
    pub(super) fn serve(&mut self, turn: &mut Turn<'_, M>) -> bool {
        self.look(turn);
        if self.leave && self.dropping.is_empty() && !self.write_failed {
            turn.data.shut(false);
            self.phase = Phase::Leaving(turn.now.after(self.io_timeout()));
            return true;
        }
        if !self.dropping.is_empty() || self.write_failed {
            return self.begin_drop(turn);
        }
        if self.advance_admin(turn) {
            return true;
        }
        let Some(config) = &self.config else {
            return false;
        };
        let (receivers, catching_up) = (config.receivers(), config.catching_up);
        for id in MemberId::all() {
            let (joinable, ready) = match self.peer(id) {
                Some(peer) => (peer.joinable, peer.ready),
                None => (false, false),
            };
            if joinable && !receivers.contains(id) && self.begin_join(id, turn) {
                return true;
            }
            if ready && catching_up.contains(id) && self.begin_promote(id, turn) {
                return true;
            }
        }
        self.ask(turn);
        self.retry(turn)
    }

    /// Looks for connections and requests that hang.
    fn look(&mut self, turn: &mut Turn<'_, M>) {
        let Some(config) = &self.config else { return };
        let receivers = config.receivers();
        let grace = self.grace();
        for id in receivers {
            let now = turn.now;
            let gone = self
                .peer(id)
                .is_some_and(|peer| !peer.up && now >= peer.since.after(grace));
            if gone {
                self.lose(id);
            }
        }
        if turn.now < self.scan_at {
            return;
        }
        self.scan_at = turn.now.after(self.io_timeout() >> 2);
        for view in turn.data.views() {
            if turn.data.look(view.ticket) >= LOOKS {
                for id in view.pending {
                    self.lose(id);
                }
            }
        }
    }

    /// How long a receiver may be without connection: the transport has tried before it said so.
    fn grace(&self) -> Nanos {
        (self.io_timeout() >> 2).min(GRACE)
    }

    /// Queries to members that may be taken back, pings to the others.
    fn ask(&mut self, turn: &mut Turn<'_, M>) {
        let now = turn.now;
        let Some((receivers, epoch, name)) = self
            .config
            .as_ref()
            .zip(self.options.as_ref())
            .map(|(config, options)| (config.receivers(), config.epoch, options.name))
        else {
            return;
        };
        let tell = now >= self.tell_at && self.quiet(turn);
        for id in self.outsiders().intersection(self.up()) {
            let due = self
                .peer(id)
                .is_some_and(|peer| peer.call.is_none() && !peer.joinable && now >= peer.next_try);
            if due {
                self.send(id, Step::JoinQuery, Some(Control::Query { name }), turn);
            }
        }
        for id in receivers.intersection(self.up()) {
            let due = self
                .peer(id)
                .is_some_and(|peer| peer.call.is_none() && (tell || now >= peer.ping_at));
            if !due {
                continue;
            }
            let pause = self.ping_pause(id);
            if let Some(peer) = self.peer(id) {
                peer.ping_at = now.after(pause);
            }
            let message = self.target(id).map(|to| Control::Ping {
                to,
                generation: self.generation,
                epoch,
                watermark: turn.data.watermark(),
            });
            self.send(id, Step::Ping, message, turn);
        }
    }

    /// Members are to be told the watermark when there were no writes for so long.
    pub(super) fn tell_later(&mut self, turn: &Turn<'_, M>) {
        self.tell_at = turn.now.after(TELL);
        self.issued = turn.data.issued();
    }

    /// Whether there were none. Else the writes told it themselves, up to the last one, and it is looked again later: who
    /// writes one block after the other has the coordinator run, and messages sent, once in a while, not for each write.
    fn quiet(&mut self, turn: &Turn<'_, M>) -> bool {
        if turn.data.issued() != self.issued || turn.data.watermark() != self.issued {
            self.tell_later(turn);
            return false;
        }
        self.tell_at = Time::NEVER;
        // The next time there are no writes, one hears of it.
        turn.data.rearm_idle();
        true
    }

    fn ping_pause(&self, id: MemberId) -> Nanos {
        let catching_up = self
            .config
            .as_ref()
            .is_some_and(|config| config.catching_up.contains(id));
        if catching_up {
            PROGRESS
        } else {
            PING
        }
    }

    /// Members of the table that should be receivers.
    fn outsiders(&self) -> MemberSet {
        self.config.as_ref().map_or(MemberSet::EMPTY, |config| {
            config
                .table()
                .minus(config.receivers())
                .minus(config.maintenance)
        })
    }

    /// When something is due next.
    pub(super) fn serve_time(&self) -> Time {
        let Some(config) = &self.config else {
            return Time::NEVER;
        };
        let mut at = self.scan_at.earliest(self.retry_at).earliest(self.tell_at);
        if let Some(admin) = &self.admin {
            at = at.earliest(admin.deadline).earliest(admin.try_at);
        }
        let (receivers, outsiders) = (config.receivers(), self.outsiders());
        for (id, peer) in MemberId::all().zip(self.peers.iter()) {
            let next = if receivers.contains(id) {
                match (peer.up, peer.call) {
                    (true, None) => peer.ping_at,
                    (true, Some(_)) => Time::NEVER,
                    (false, _) => peer.since.after(self.grace()),
                }
            } else if outsiders.contains(id) && peer.up && peer.call.is_none() && !peer.joinable {
                peer.next_try
            } else {
                Time::NEVER
            };
            at = at.earliest(next);
        }
        at
    }

    pub(super) fn pinged(
        &mut self,
        id: MemberId,
        result: Result<&Reply<'_>, Failure>,
        _turn: &mut Turn<'_, M>,
    ) {
        let Ok(reply) = result else { return };
        match reply.status {
            Status::Ok => {
                let Some(report) = &reply.report else { return };
                let ready = report.progress == Progress::Ready
                    || (on(Bug::PromoteUnready)
                        && matches!(report.progress, Progress::Dirty { .. }));
                if let Some(peer) = self.peer(id) {
                    peer.ready = ready;
                }
            }
            Status::Busy | Status::NoMemory | Status::TimedOut | Status::Disconnected => {}
            // StaleEpoch, too, as a ping is under what is in force: a late copy of a promise, or of an install that was given
            // up, has arrived there.
            _ => self.lose(id),
        }
    }

    // Taking a member back.

    fn refuse(&mut self, id: MemberId, refusal: Refusal, turn: &mut Turn<'_, M>) {
        self.note(id, refusal, turn);
        self.not_yet(id, turn);
    }

    fn not_yet(&mut self, id: MemberId, turn: &Turn<'_, M>) {
        let longest = self.options.as_ref().map_or(0, |o| o.max_backoff);
        if let Some(peer) = self.peer(id) {
            peer.back_off(turn.now, longest);
        }
    }

    /// Whether a member has promised another client, in this history, a generation that is not lower.
    pub(super) fn is_promised_away(&self, report: &MemberReport, config: &Config) -> bool {
        let ours = self.generation;
        let in_table = config.store(report.member) == Some(report.store);
        // Or in one that was forced to begin where this client is, or later; or in the one that this client's was forced to
        // begin in, and no further, unless that is given up.
        let discard = (self.peers.get(report.member.index())).is_some_and(|peer| peer.discard);
        let same_history = report.installed.as_ref().is_none_or(|installed| {
            installed.follows(config) || config.follows(installed) || discard
        });
        in_table
            && same_history
            && report.promised.number >= ours.number
            && report.promised.nonce != ours.nonce
    }

    pub(super) fn join_queried(
        &mut self,
        id: MemberId,
        result: Result<&Reply<'_>, Failure>,
        turn: &mut Turn<'_, M>,
    ) {
        if !self.learn(id, result) {
            self.not_yet(id, turn);
            return;
        }
        match self.joining(id) {
            Ok(()) => {}
            Err(Some(refusal)) => return self.refuse(id, refusal, turn),
            Err(None) => return self.renew(id, turn),
        }
        let generation = self.generation;
        let message = self.own_target(id).map(|to| Control::Promise {
            to,
            generation,
            fences: Fences::Alive,
        });
        self.send(id, Step::JoinPromise, message, turn);
    }

    pub(super) fn join_promised(
        &mut self,
        id: MemberId,
        result: Result<&Reply<'_>, Failure>,
        turn: &mut Turn<'_, M>,
    ) {
        let status = result.map_or(Status::Disconnected, |reply| reply.status);
        if !self.learn(id, result) {
            if status.is_refusal() {
                self.note(id, Refusal::Refused(id, status), turn);
            }
            self.not_yet(id, turn);
            return;
        }
        if let Err(refusal) = self.joining(id) {
            return match refusal {
                Some(refusal) => self.refuse(id, refusal, turn),
                None => self.renew(id, turn),
            };
        }
        // Numbers of one history grow on every member.
        let installed = self
            .peers
            .get(id.index())
            .and_then(|peer| peer.report.as_ref()?.installed.as_ref());
        let follows = |installed: &&Config| {
            let config = self.config.as_ref();
            config.is_some_and(|config| config.follows(installed))
        };
        let epoch = installed.filter(follows).map(|config| config.epoch);
        self.used = self.used.max(epoch.unwrap_or(self.used));
        let never = self
            .config
            .as_ref()
            .is_none_or(|config| config.incarnation(id).is_none());
        if let Some(peer) = self.peer(id) {
            peer.promised = true;
            peer.joinable = true;
            let is_empty = peer
                .report
                .as_ref()
                .is_none_or(|report| report.installed.is_none());
            if never || (is_empty && !on(Bug::AcceptOtherStore)) || peer.discard {
                // It was never a receiver, or has nothing that counts.
                peer.found = Found::Everything;
            }
        }
    }

    /// A member has promised a client that did not get far. It can promise this one only a higher generation.
    fn renew(&mut self, id: MemberId, turn: &mut Turn<'_, M>) {
        self.not_yet(id, turn);
        if matches!(self.phase, Phase::Serving) && !self.leave {
            self.suspend(turn);
        }
    }

    /// Whether a member can be taken back, as it reported; `None`: it has promised another client.
    fn joining(&self, id: MemberId) -> Result<(), Option<Refusal>> {
        let (Some(config), Some(peer)) = (&self.config, self.peers.get(id.index())) else {
            return Err(Some(Refusal::NotNow));
        };
        let Some(report) = &peer.report else {
            return Err(Some(Refusal::NotNow));
        };
        if self.is_promised_away(report, config) {
            return Err(None);
        }
        let candidate = Candidate {
            report,
            suspects: false,
            discard: peer.discard,
        };
        acceptable(&candidate, config, &self.pool).map_err(Some)?;
        let fits = self.geometry == Some(report.geometry)
            && self
                .limits
                .is_some_and(|limits| report.limits.logical_block <= limits.logical_block);
        if fits {
            Ok(())
        } else {
            Err(Some(Refusal::Geometry(id)))
        }
    }
}
