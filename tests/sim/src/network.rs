// SPDX-License-Identifier: GPL-2.0

//! Sessions between hosts, as RTRS has them: calls that are answered once, or given back when their session breaks.
//!
//! A session of whoever calls with whoever is called breaks when a message or an answer is lost for longer than the
//! heartbeat, when it is closed, or when a host is gone; all its calls are given back then. A copy of a call
//! that is on its way at that moment can still arrive, any time later. Then the session is made again, as soon as both
//! hosts are there and can reach each other.
//!
//! Not here: what the messages mean, and which host is up.

use crate::plan::Rates;
use crate::plan::MS;
use crate::plan::SECOND;
use crate::plan::US;
use crate::queue::Nanos;
use crate::random::Random;
use litemap::LiteMap;
use rmr_proto::Status;
use std::fmt;
use std::hash::Hash;
use std::hash::Hasher;
use std::rc::Rc;

/// A host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A compute host, by the number of the opening of the device that it has: each opening is on another host.
    Client(u32),
    /// A storage node, by the id of its member.
    Member(u8),
}

impl Host {
    /// A number of its own.
    fn number(self) -> u64 {
        match self {
            Host::Client(number) => u64::from(number) << 1,
            Host::Member(id) => u64::from(id) << 1 | 1,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Client(number) => write!(f, "c{number}"),
            Host::Member(id) => write!(f, "m{id}"),
        }
    }
}

/// A message: bytes as they would be sent, and its data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Header and body.
    pub bytes: Vec<u8>,
    /// A value for each sector of data.
    pub data: Rc<[u64]>,
    /// Whether it is IO; only counted differently.
    pub io: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The number that RTRS carries back.
    pub status: Status,
    /// Bytes put into the buffer of the caller.
    pub bytes: Vec<u8>,
    /// A value for each sector of data.
    pub data: Rc<[u64]>,
}

impl Answer {
    /// Nothing but a status.
    pub fn of(status: Status) -> Answer {
        Answer {
            status,
            bytes: Vec::new(),
            data: Rc::new([]),
        }
    }
}

/// Something that happens in the network.
#[derive(Clone, Debug, Hash)]
pub enum Event {
    /// A message arrives.
    Deliver {
        /// The number of the call.
        call: u64,
        /// Who calls.
        from: Host,
        /// Who is called.
        to: Host,
        /// What.
        packet: Rc<Packet>,
        /// Whether an answer has a way back.
        answerable: bool,
    },
    /// An answer arrives.
    Answer {
        /// The number of the call.
        call: u64,
        /// Who called.
        to: Host,
        /// What.
        answer: Answer,
    },
    /// A session breaks, if it is still this one.
    Break {
        /// Who calls.
        from: Host,
        /// Who is called.
        to: Host,
        /// Number of the session.
        session: u64,
    },
    /// A session may be made again.
    Connect {
        /// Who calls.
        from: Host,
        /// Who is called.
        to: Host,
        /// Number of the session that broke.
        session: u64,
    },
}

#[derive(Clone, Debug, Default, Hash)]
struct Session {
    up: bool,
    number: u64,
}

#[derive(Clone, Debug, Hash)]
struct Call {
    from: Host,
    to: Host,
    session: u64,
    packet: Rc<Packet>,
}

/// All sessions, and what is on its way.
#[derive(Clone, Debug)]
pub struct Network {
    random: Random,
    latency: Nanos,
    heartbeat: Nanos,
    rates: Rates,
    /// Until when nothing gets through from one host to another.
    blocked: LiteMap<(Host, Host), Nanos>,
    sessions: LiteMap<(Host, Host), Session>,
    calls: LiteMap<u64, Call>,
    /// Calls made so far, by caller: what one host does has no influence on the numbers of another.
    made: LiteMap<Host, u64>,
    out: Vec<(Nanos, Event)>,
}

impl Hash for Network {
    /// All but what decides how long messages take.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sessions.hash(state);
        self.calls.hash(state);
        self.made.hash(state);
    }
}

impl Network {
    /// No session yet.
    pub fn new(random: Random, latency: Nanos, heartbeat: Nanos, rates: Rates) -> Network {
        Network {
            random,
            latency,
            heartbeat,
            rates,
            blocked: LiteMap::new(),
            sessions: LiteMap::new(),
            calls: LiteMap::new(),
            made: LiteMap::new(),
            out: Vec::new(),
        }
    }

    /// What is to happen, and when.
    pub fn take(&mut self) -> std::vec::Drain<'_, (Nanos, Event)> {
        self.out.drain(..)
    }

    /// No more faults.
    pub fn heal(&mut self) {
        self.rates = Rates::default();
        self.blocked.clear();
    }

    /// Nothing gets through from one host to another for a while.
    pub fn block(&mut self, now: Nanos, from: Host, to: Host, span: Nanos) {
        let until = self.blocked.entry((from, to)).or_default();
        *until = (*until).max(now + span);
        if span > self.heartbeat {
            // Both directions of calls need both directions of the wire.
            for (from, to) in [(from, to), (to, from)] {
                self.break_later(now + self.heartbeat, from, to);
            }
        }
    }

    /// Everything gets through from one host to another again.
    pub fn unblock(&mut self, from: Host, to: Host) {
        self.blocked.remove(&(from, to));
    }

    /// The session breaks after a while, if it is still the same then.
    pub fn break_later(&mut self, at: Nanos, from: Host, to: Host) {
        if let Some(session) = self.sessions.get(&(from, to)).filter(|session| session.up) {
            let session = session.number;
            self.out.push((at, Event::Break { from, to, session }));
        }
    }

    /// The pairs that have a session, up or not, with this host in either role.
    pub fn pairs(&self, host: Host) -> Vec<(Host, Host)> {
        let pairs = self.sessions.keys().copied();
        pairs
            .filter(|&(from, to)| from == host || to == host)
            .collect()
    }

    /// Whether the session is up.
    pub fn is_up(&self, from: Host, to: Host) -> bool {
        self.sessions
            .get(&(from, to))
            .is_some_and(|session| session.up)
    }

    /// Whether a session is up, and is this one.
    pub fn is_session(&self, from: Host, to: Host, number: u64) -> bool {
        let session = self.sessions.get(&(from, to));
        session.is_some_and(|session| session.up && session.number == number)
    }

    /// Whether a session is down since this one ended.
    pub fn is_down_since(&self, from: Host, to: Host, number: u64) -> bool {
        let session = self.sessions.get(&(from, to));
        session.is_some_and(|session| !session.up && session.number == number)
    }

    /// Whether somebody waits for the answer to a call.
    pub fn is_waited_for(&self, call: u64) -> bool {
        self.calls.contains_key(&call)
    }

    /// Keeps a session from now on; it is made when that is possible.
    pub fn open(&mut self, now: Nanos, from: Host, to: Host) {
        let session = self.sessions.entry((from, to)).or_default();
        if !session.up {
            let session = session.number;
            let at = now + self.latency;
            self.out.push((at, Event::Connect { from, to, session }));
        }
    }

    /// Ends and forgets all sessions in which this host calls; nobody is told.
    pub fn forget_caller(&mut self, host: Host) {
        for pair in self.pairs(host) {
            if pair.0 == host {
                if let Some(session) = self.sessions.get_mut(&pair) {
                    session.up = false;
                    session.number += 1;
                    self.calls.retain(|_, call| (call.from, call.to) != pair);
                }
            }
        }
    }

    /// Tries to make a session again after session number `was`. True if it is up now.
    pub fn connect(&mut self, now: Nanos, from: Host, to: Host, was: u64, both_up: bool) -> bool {
        let possible =
            both_up && self.open_at(now, from, to) <= now && self.open_at(now, to, from) <= now;
        let again = now + self.random.scaled(5 * MS, 500 * MS);
        let Some(session) = self.sessions.get_mut(&(from, to)) else {
            return false;
        };
        if session.up || session.number != was {
            return false;
        }
        if possible {
            session.up = true;
            session.number += 1;
            return true;
        }
        let event = Event::Connect {
            from,
            to,
            session: was,
        };
        self.out.push((again, event));
        false
    }

    /// Breaks a session, if it is number `number`; or whatever its number is. The calls that are given back, in order;
    /// `None` if it was not up.
    pub fn break_now(
        &mut self,
        now: Nanos,
        from: Host,
        to: Host,
        number: Option<u64>,
    ) -> Option<Vec<u64>> {
        let session = self.sessions.get_mut(&(from, to))?;
        if !session.up || number.is_some_and(|number| number != session.number) {
            return None;
        }
        session.up = false;
        let was = session.number;
        let mut calls = Vec::new();
        self.calls.retain(|&number, call| {
            let is_of_it = (call.from, call.to) == (from, to);
            calls.extend(is_of_it.then_some(number));
            !is_of_it
        });
        let again = now + self.random.scaled(MS, 300 * MS);
        let event = Event::Connect {
            from,
            to,
            session: was,
        };
        self.out.push((again, event));
        Some(calls)
    }

    /// Sends a message. The number of the call; `None` if there is no session.
    pub fn call(&mut self, now: Nanos, from: Host, to: Host, packet: Packet) -> Option<u64> {
        let session = self.sessions.get(&(from, to))?;
        if !session.up {
            return None;
        }
        let made = self.made.entry(from).or_default();
        *made += 1;
        let call = from.number() << 32 | *made;
        let number = session.number;
        let packet = Rc::new(packet);
        self.calls.insert(
            call,
            Call {
                from,
                to,
                session: number,
                packet: packet.clone(),
            },
        );
        let deliver = |answerable| Event::Deliver {
            call,
            from,
            to,
            packet: packet.clone(),
            answerable,
        };
        let mut at = self.arrival(now, from, to);
        if self.random.ppm(self.rates.delay) {
            at += self.random.scaled(100 * US, self.heartbeat * 2);
        }
        if self.random.ppm(self.rates.loss) || at > now + self.heartbeat * 2 {
            // Lost, or so it seems: what was only late may arrive yet.
            if self.random.chance(1, 2) {
                let late = at + self.random.scaled(MS, 20 * SECOND);
                self.out.push((late, deliver(false)));
            }
            self.break_later(now + self.heartbeat, from, to);
            return Some(call);
        }
        if self.random.ppm(self.rates.failover) {
            // The first copy has no answer; it arrives before or after the second.
            let other = at + self.random.scaled(US, 10 * SECOND);
            self.out.push((other, deliver(false)));
            at += self.random.scaled(MS, self.heartbeat);
        }
        if self.random.ppm(self.rates.duplicate) {
            let again = at + self.random.scaled(US, 10 * SECOND);
            self.out.push((again, deliver(true)));
        }
        self.out.push((at, deliver(true)));
        Some(call)
    }

    /// A message arrived where nobody is.
    pub fn nobody(&mut self, now: Nanos, call: u64) {
        if let Some(Call { from, to, .. }) = self.calls.get(&call) {
            let (from, to) = (*from, *to);
            let at = now + self.random.scaled(100 * US, self.heartbeat);
            self.break_later(at, from, to);
        }
    }

    /// The host that is called restarted so fast that nobody noticed: what it had not answered is sent again.
    pub fn again(&mut self, now: Nanos, host: Host) {
        let calls: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, call)| call.to == host)
            .map(|(&number, _)| number)
            .collect();
        for number in calls {
            let at = now + self.random.scaled(self.latency, 100 * MS);
            if let Some(call) = self.calls.get(&number) {
                let event = Event::Deliver {
                    call: number,
                    from: call.from,
                    to: call.to,
                    packet: call.packet.clone(),
                    answerable: true,
                };
                self.out.push((at, event));
            }
        }
    }

    /// Answers a call.
    pub fn answer(&mut self, now: Nanos, call: u64, answer: Answer) {
        let Some(Call {
            from, to, session, ..
        }) = self.calls.get(&call)
        else {
            return;
        };
        let (from, to, session) = (*from, *to, *session);
        let at = self.arrival(now, to, from);
        if self.random.ppm(self.rates.loss) || at > now + self.heartbeat * 2 {
            let at = now + self.heartbeat;
            self.out.push((at, Event::Break { from, to, session }));
            return;
        }
        let event = Event::Answer {
            call,
            to: from,
            answer,
        };
        self.out.push((at, event));
    }

    /// An answer arrived: whether anybody waits for it.
    pub fn answered(&mut self, call: u64) -> bool {
        self.calls.remove(&call).is_some()
    }

    fn open_at(&self, now: Nanos, from: Host, to: Host) -> Nanos {
        self.blocked
            .get(&(from, to))
            .map_or(now, |&until| until.max(now))
    }

    fn arrival(&mut self, now: Nanos, from: Host, to: Host) -> Nanos {
        let jitter = self.random.below(self.latency + 1);
        self.open_at(now, from, to) + self.latency + jitter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    const A: Host = Host::Client(0);
    const B: Host = Host::Member(1);

    fn network(rates: Rates) -> Network {
        let random = Random::new(1, Purpose::Network);
        let mut network = Network::new(random, 10 * US, SECOND, rates);
        network.open(0, A, B);
        let events: Vec<_> = network.take().collect();
        assert!(matches!(
            events[..],
            [(_, Event::Connect { session: 0, .. })]
        ));
        assert!(network.connect(1, A, B, 0, true));
        assert!(!network.connect(1, A, B, 0, true));
        network
    }

    fn packet() -> Packet {
        Packet {
            bytes: vec![1],
            data: Rc::new([]),
            io: true,
        }
    }

    #[test]
    fn call_and_answer() {
        let mut network = network(Rates::default());
        let call = network.call(5, A, B, packet()).unwrap();
        let events: Vec<_> = network.take().collect();
        assert!(matches!(events[..], [(at, Event::Deliver { answerable: true, .. })] if at > 5));
        network.answer(9, call, Answer::of(Status::Ok));
        let events: Vec<_> = network.take().collect();
        assert!(matches!(events[..], [(_, Event::Answer { to: A, .. })]));
        assert!(network.answered(call));
        assert!(!network.answered(call));
    }

    #[test]
    fn a_break_gives_all_back() {
        let mut network = network(Rates::default());
        let calls = [1, 2].map(|_| network.call(5, A, B, packet()).unwrap());
        assert_eq!(network.break_now(7, A, B, Some(9)), None);
        assert_eq!(network.break_now(7, A, B, Some(1)), Some(calls.to_vec()));
        assert_eq!(network.break_now(7, A, B, None), None);
        assert!(!network.answered(calls[0]));
        assert_eq!(network.call(8, A, B, packet()), None);
        assert!(network.connect(9, A, B, 1, true) && network.is_up(A, B));
    }

    #[test]
    fn blocked() {
        let mut network = network(Rates::default());
        network.take();
        network.block(0, A, B, 10 * SECOND);
        let breaks = network.take().count();
        assert_eq!(breaks, 1);
        assert!(network.call(5, A, B, packet()).is_some());
        assert!(network
            .take()
            .any(|(at, event)| at > SECOND && matches!(event, Event::Break { session: 1, .. })));
        assert!(network.break_now(SECOND, A, B, Some(1)).is_some());
        assert!(!network.connect(SECOND, A, B, 1, true));
        network.heal();
        assert!(network.connect(SECOND, A, B, 1, true));
    }
}
