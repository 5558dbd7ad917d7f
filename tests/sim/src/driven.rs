// SPDX-License-Identifier: GPL-2.0

//! A world whose events happen in an order that somebody else chooses: for a model checker, which tries all of them.
//!
//! Nothing is drawn here: what a step leaves open (the member that a read goes to, how long something takes) is the same
//! each time, so that a world is what its steps made it. Time goes on only when a timer is chosen.

use crate::env::Event;
use crate::network::Event as NetworkEvent;
use crate::network::Host;
use crate::plan::Plan;
use crate::queue::Nanos;
use crate::random::Purpose;
use crate::random::Random;
use crate::run::Report;
use crate::run::Wrong;
use crate::trace::Trace;
use crate::workload::Request;
use crate::workload::Workload;
use crate::world::World;
use rmr_engine::time::Time;
use std::hash::Hash;
use std::hash::Hasher;

/// What becomes of a member's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// It crashes; its disk keeps what is in its cache.
    Crash,
    /// It and its disk lose power.
    Power,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.env.now().hash(state);
        self.env.current.hash(state);
        self.env.network.hash(state);
        self.env.observer.hash(state);
        self.nodes.hash(state);
        self.clients.hash(state);
        self.workload.left().hash(state);
    }
}

impl World {
    /// Members that run, with nobody attached; these requests are to come. And what may happen next.
    pub fn driven(plan: Plan, requests: impl IntoIterator<Item = Request>) -> (World, Vec<Event>) {
        let mut world = World::new(plan, false);
        world.env.observer.ignore_time();
        world.workload = Workload::of(requests);
        let members: Vec<u8> = world.nodes.keys().copied().collect();
        let mut next = Vec::new();
        for &member in &members {
            next.extend(world.drive(Event::Start(member)));
        }
        for &from in &members {
            for &to in &members {
                world.open_sessions(Host::Member(from), to);
            }
        }
        next.extend(world.made_possible());
        (world, next)
    }

    /// Prints everything that happens from now on.
    pub fn make_loud(&mut self) {
        self.env.trace = Trace::new(true);
    }

    /// Prints a line of its own.
    pub fn line(&self, what: std::fmt::Arguments<'_>) {
        self.env.line(&"***", what);
    }

    /// Does an event, whatever its time. What may happen next because of it.
    pub fn drive(&mut self, event: Event) -> Vec<Event> {
        self.draw_the_same();
        self.step(event);
        self.made_possible()
    }

    /// The host of a member is gone. What may happen next because of it.
    pub fn cut(&mut self, member: u8, cut: Cut) -> Vec<Event> {
        self.draw_the_same();
        if let Some(node) = self.nodes.get_mut(&member).filter(|node| node.is_up()) {
            let host = Host::Member(member);
            self.env.line(&host, format_args!("is gone: {cut:?}"));
            node.cut(&mut self.env, cut == Cut::Power);
            self.vanished(host);
        }
        self.made_possible()
    }

    /// The host of a client is gone.
    pub fn cut_client(&mut self, opening: u32) -> Vec<Event> {
        self.draw_the_same();
        self.crash_client(opening);
        self.made_possible()
    }

    /// A session breaks.
    pub fn break_session(&mut self, from: Host, to: Host) -> Vec<Event> {
        self.draw_the_same();
        let now = self.env.now();
        if let Some(calls) = self.env.network.break_now(now, from, to, None) {
            self.broken(from, to, calls);
        }
        self.made_possible()
    }

    fn draw_the_same(&mut self) {
        let seed = u64::from(self.env.current);
        self.env.random = Random::new(seed, Purpose::Fault);
        self.env.disk = Random::new(seed, Purpose::Disk);
        self.env.uuids = Random::new(seed, Purpose::Engine);
    }

    fn made_possible(&mut self) -> Vec<Event> {
        self.env.plan_network();
        self.check_marks();
        let events = self.env.queue.take_all();
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// What is wrong.
    pub fn wrong(&mut self) -> Option<Wrong> {
        if let Some(wrong) = self.env.wrong.first() {
            return Some(wrong.clone());
        }
        let first = self.env.observer.violations().first()?;
        Some(Wrong {
            rule: format!("{:?}", first.rule),
            text: first.to_string(),
        })
    }

    /// Whether an event would do something, and can happen now.
    pub fn is_possible(&self, event: &Event) -> bool {
        let network = &self.env.network;
        match event {
            Event::Net(NetworkEvent::Deliver { .. }) | Event::Work(..) => true,
            Event::Net(NetworkEvent::Answer { call, .. }) => network.is_waited_for(*call),
            Event::Net(NetworkEvent::Break { from, to, session }) => {
                network.is_session(*from, *to, *session)
            }
            Event::Net(NetworkEvent::Connect { from, to, session }) => {
                network.is_down_since(*from, *to, *session) && self.is_up(*from) && self.is_up(*to)
            }
            Event::Disk(member, boot, _) => self
                .nodes
                .get(member)
                .is_some_and(|node| node.is_up() && node.boot() == *boot),
            _ => false,
        }
    }

    /// Whether an event can no longer do anything.
    pub fn is_past(&self, event: &Event) -> bool {
        let network = &self.env.network;
        match event {
            Event::Net(NetworkEvent::Connect { from, to, session }) => {
                !network.is_down_since(*from, *to, *session)
            }
            Event::Work(opening, _) => !self.clients.contains_key(opening),
            other => !self.is_possible(other),
        }
    }

    /// Whether it is a message that nobody waits for any more: its sender got it back, or is gone.
    pub fn is_late(&self, event: &Event) -> bool {
        matches!(event, Event::Net(NetworkEvent::Deliver { call, .. })
            if !self.env.network.is_waited_for(*call))
    }

    /// Whether it is the end of a write of metadata.
    pub fn is_metadata(&self, event: &Event) -> bool {
        matches!(event, Event::Disk(member, _, number)
            if self.nodes.get(member).is_some_and(|node| node.writes_metadata(*number)))
    }

    /// Whether it is a thread that has nothing to do, or waits for the device.
    pub fn is_idle_thread(&self, event: &Event) -> bool {
        matches!(event, Event::Work(opening, _) if self.workload.left() == 0
            || self.clients.get(opening).is_none_or(|client| !client.has_appeared()))
    }

    /// The timers that are set: when they are due in virtual time, and their events.
    pub fn timers(&self) -> Vec<(Nanos, Event)> {
        let members = self.nodes.values().filter(|node| node.is_up());
        let members = members.map(|node| {
            let event = Event::MemberTimer(node.member, node.boot());
            (Host::Member(node.member), node.timer_at(), event)
        });
        let clients = self.clients.iter().map(|(&opening, client)| {
            let event = Event::ClientTimer(opening);
            (Host::Client(opening), client.timer_at(), event)
        });
        members
            .chain(clients)
            .filter(|&(_, at, _)| at != Time::NEVER)
            .map(|(host, at, event)| (self.env.now() + self.env.until(host, at), event))
            .collect()
    }

    /// It is this time now, or later.
    pub fn advance(&mut self, to: Nanos) {
        self.env.queue.advance(to);
    }

    /// Members whose hosts run, or do not.
    pub fn members(&self, up: bool) -> impl Iterator<Item = u8> + '_ {
        let nodes = self.nodes.values().filter(move |node| node.is_up() == up);
        nodes.map(|node| node.member)
    }

    /// Openings of the device whose hosts run.
    pub fn openings(&self) -> impl Iterator<Item = u32> + '_ {
        self.clients.keys().copied()
    }

    /// The sessions that are up.
    pub fn sessions(&self) -> Vec<(Host, Host)> {
        let hosts = self.nodes.keys().map(|&member| Host::Member(member));
        let mut pairs: Vec<(Host, Host)> = hosts
            .flat_map(|host| self.env.network.pairs(host))
            .filter(|&(from, to)| self.env.network.is_up(from, to))
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    /// Whether somebody has the device, and all members are in sync.
    pub fn is_whole(&self) -> bool {
        self.env.observer.is_whole() && self.clients.values().any(|client| client.is_serving())
    }

    /// All faults are over. Goes on in the order of time, as a run of the simulator ends: all must be well soon.
    pub fn finish(mut self, next: impl IntoIterator<Item = Event>) -> Report {
        let now = self.env.now();
        for event in next {
            self.env.queue.at(now, event);
        }
        for (at, event) in self.timers() {
            self.env.queue.at(at, event);
        }
        self.env.plan.heal = now;
        self.env.queue.at(now, Event::Heal);
        self.go_on()
    }
}
