// SPDX-License-Identifier: GPL-2.0

//! What the hosts of a world share: time, network, trace, observer, randomness.

use crate::network::Event as NetworkEvent;
use crate::network::Host;
use crate::network::Network;
use crate::network::Packet;
use crate::observer;
use crate::observer::Observer;
use crate::plan::Moment;
use crate::plan::Plan;
use crate::plan::SECOND;
use crate::queue::Nanos;
use crate::queue::Queue;
use crate::random::Purpose;
use crate::random::Random;
use crate::run::Figures;
use crate::run::Wrong;
use crate::trace::Trace;
use rmr_engine::time::Time;
use rmr_proto::MemberId;
use std::collections::BTreeMap;
use std::fmt;

/// Something that happens.
#[derive(Clone, Debug, Hash)]
pub enum Event {
    /// In the network.
    Net(NetworkEvent),
    /// An access to a disk is done: member, boot, number of the access.
    Disk(u8, u64, u64),
    /// A timer of a member: member, boot.
    MemberTimer(u8, u64),
    /// A timer of a client: its opening.
    ClientTimer(u32),
    /// An application's thread goes on: opening, thread.
    Work(u32, u32),
    /// A planned fault is due, by its index in the plan: it hits, or waits for its moment.
    Fault(usize),
    /// A planned fault hits.
    Hit(usize),
    /// A member starts.
    Start(u8),
    /// A member loses power.
    Crash(u8),
    /// The device is opened, on a new host; with takeover if so.
    Open(bool),
    /// The disk that was taken out of a member is put back.
    PutBack(u8),
    /// A copy that was made of a member's disk is put in.
    Restore(u8),
    /// A member that was kept out on purpose may come back.
    Admit(u8),
    /// The resync of a member that was paused may go on.
    GoOn(u8),
    /// The administrator looks after the pool.
    Tend,
    /// All faults are over.
    Heal,
    /// A look at whether all is well, after healing.
    Look,
}

/// What hosts share.
#[derive(Clone, Debug)]
pub struct Env {
    /// The plan.
    pub plan: Plan,
    /// What will happen.
    pub queue: Queue<Event>,
    /// The network.
    pub network: Network,
    /// The checkers.
    pub observer: Observer,
    /// Lines and digest.
    pub trace: Trace,
    /// Details of faults.
    pub random: Random,
    /// Delays and faults of disks.
    pub disk: Random,
    /// UUIDs and nonces.
    pub uuids: Random,
    /// What was counted.
    pub figures: Figures,
    /// Hosts that do nothing until then.
    pub paused: BTreeMap<Host, Nanos>,
    /// How far the clock of a host is ahead of virtual time.
    pub clocks: BTreeMap<Host, Nanos>,
    /// How often a host's timer was due, and since when: it is counted anew each second.
    pub timers: BTreeMap<Host, (Nanos, u32)>,
    /// The opening that should have the device.
    pub current: u32,
    /// What faults wait for, so far.
    pub moment: Moment,
    /// No faults any more.
    pub healed: bool,
    /// Only the disk of this member fails by chance.
    pub frail: Option<u8>,
    /// What is wrong, but for what checkers say.
    pub wrong: Vec<Wrong>,
}

/// A host's clock shows this at the begin of the run, so that it can be set back.
const CLOCK: Nanos = 1000 * SECOND;
/// Times the timer of a host may be due within a second: the shortest pause in the engine is a millisecond.
const MOST_TIMERS: u32 = 5000;

impl Env {
    /// The environment of a run.
    pub fn new(plan: Plan, loud: bool) -> Env {
        let random = |purpose| Random::new(plan.seed, purpose);
        let network = Network::new(
            random(Purpose::Network),
            plan.latency,
            plan.heartbeat,
            plan.rates,
        );
        Env {
            queue: Queue::new(),
            network,
            observer: Observer::new(&plan),
            trace: Trace::new(loud),
            random: random(Purpose::Fault),
            disk: random(Purpose::Disk),
            uuids: random(Purpose::Engine),
            figures: Figures::default(),
            paused: BTreeMap::new(),
            clocks: BTreeMap::new(),
            timers: BTreeMap::new(),
            current: 0,
            moment: Moment::default(),
            healed: false,
            frail: None,
            wrong: Vec::new(),
            plan,
        }
    }

    /// Virtual time.
    pub fn now(&self) -> Nanos {
        self.queue.now()
    }

    /// What the clock of a host shows.
    pub fn clock(&self, host: Host) -> Time {
        let ahead = self.clocks.get(&host).copied().unwrap_or(CLOCK);
        Time(self.now().saturating_add(ahead))
    }

    /// Sets the clock of a host forward, or back.
    pub fn jump(&mut self, host: Host, forward: bool, span: Nanos) {
        let ahead = self.clocks.entry(host).or_insert(CLOCK);
        *ahead = if forward {
            ahead.saturating_add(span)
        } else {
            ahead.saturating_sub(span)
        };
    }

    /// How long until the clock of a host shows `at`.
    pub fn until(&self, host: Host, at: Time) -> Nanos {
        at.since(self.clock(host))
    }

    /// When a paused host goes on; `None` if it is not paused.
    pub fn paused(&self, host: Host) -> Option<Nanos> {
        self.paused
            .get(&host)
            .copied()
            .filter(|&until| until > self.now())
    }

    /// A timer of a host is due. Whoever sets it again and again to a time that is over keeps a CPU busy for nothing.
    pub fn timer_due(&mut self, host: Host) {
        let now = self.now();
        let (since, times) = self.timers.entry(host).or_insert((now, 0));
        if now - *since > SECOND {
            (*since, *times) = (now, 0);
        }
        *times += 1;
        if *times > MOST_TIMERS {
            let text = format!("{host} was woken {times} times within a second");
            self.wrong("Spinning", text);
        }
    }

    /// Sends a message; the number of the call, `None` if there is no session.
    pub fn call(&mut self, from: Host, to: Host, packet: Packet) -> Option<u64> {
        let now = self.now();
        if !packet.io {
            self.observer.message(now);
        }
        self.network.call(now, from, to, packet)
    }

    /// A host closes its session with a member. The calls that are given back, in order; `None` if it was not up.
    pub fn close_session(&mut self, host: Host, with: MemberId) -> Option<Vec<u64>> {
        let with = Host::Member(observer::number(with));
        let calls = self.network.break_now(self.now(), host, with, None)?;
        let count = calls.len();
        self.line(
            &host,
            format_args!("closes the session with {with}, {count} calls"),
        );
        Some(calls)
    }

    /// Something is wrong that no checker sees.
    pub fn wrong(&mut self, rule: &str, text: String) {
        self.wrong.push(Wrong {
            rule: rule.to_owned(),
            text,
        });
    }

    /// A line of the trace.
    pub fn line(&self, who: &dyn fmt::Display, what: fmt::Arguments<'_>) {
        self.trace.line(self.now(), who, what);
    }

    /// Puts what the network wants to happen into the queue.
    pub fn plan_network(&mut self) {
        for (at, event) in self.network.take() {
            self.queue.at(at, Event::Net(event));
        }
    }
}
