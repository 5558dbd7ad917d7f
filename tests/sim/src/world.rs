// SPDX-License-Identifier: GPL-2.0

//! The world of a run: clients, members, and what befalls them.
//!
//! The loop takes one event after the other; each is handled by one host, which acts on the network and its own disk
//! only. After each, the checkers compare.

use crate::client::Client;
use crate::env::Env;
use crate::env::Event;
use crate::faults::Kind;
use crate::kept::Kept;
use crate::member::Node;
use crate::network::Answer;
use crate::network::Event as NetworkEvent;
use crate::network::Host;
use crate::observer::Observer;
use crate::plan::Moment;
use crate::plan::Plan;
use crate::plan::Planned;
use crate::plan::MS;
use crate::plan::SECOND;
use crate::plan::US;
use crate::queue::Nanos;
use crate::random::Purpose;
use crate::random::Random;
use crate::run::Report;
use crate::run::Wrong;
use crate::workload::Workload;
use rmr_checkers::disks::Marks;
use rmr_engine::client::Admin;
use rmr_engine::client::OnNoData;
use rmr_engine::time::Time;
use rmr_proto::Config;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Quorum;
use rmr_proto::Uuid;
use rmr_proto::UNREADABLE_SLOTS;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// More events than any run needs; beyond, something goes in circles.
const MOST_EVENTS: u64 = 20_000_000;
/// How often one looks whether all is well, after healing.
const LOOK: Nanos = 50 * MS;
/// How often the administrator looks.
const TEND: Nanos = 500 * MS;
/// Members there are at most.
const MOST_MEMBERS: u8 = 6;

/// Everything.
#[derive(Clone)]
pub struct World {
    /// What the hosts share.
    pub env: Env,
    /// Members, by number.
    pub nodes: BTreeMap<u8, Kept<Node>>,
    /// Openings of the device, by number.
    pub clients: BTreeMap<u32, Kept<Client>>,
    pub(crate) workload: Workload,
    pub(crate) over: bool,
    /// Members that the administrator wants in the pool.
    wanted: BTreeSet<u8>,
    /// The administrator's next command, of those that there are.
    turn: usize,
    /// The administrator has given up a history.
    forced: bool,
    /// Until then the administrator forces a start without those who are away.
    forces: Nanos,
    /// Members that the administrator keeps away from the device since it was opened, until it serves.
    kept_away: BTreeSet<u8>,
    /// Reads that were made at the end, to see all that was written.
    read_back: bool,
    /// Faults that wait for a moment, and for which.
    armed: Vec<(Moment, usize)>,
}

/// What all members remember.
pub(crate) struct Remembered<'a>(pub(crate) &'a BTreeMap<u8, Kept<Node>>);

impl Marks for Remembered<'_> {
    fn up(&self, member: u8) -> bool {
        self.0.get(&member).is_some_and(|node| node.is_started())
    }

    fn dirty(&self, holder: u8, of: u8, chunk: u64) -> bool {
        self.0
            .get(&holder)
            .is_some_and(|node| node.dirty(of, chunk))
    }

    fn keep_dirty(&self, holder: u8, of: u8, words: &mut [u64]) {
        match self.0.get(&holder) {
            Some(node) => node.keep_dirty(of, words),
            None => words.fill(0),
        }
    }

    fn suspect(&self, member: u8, chunk: u64) -> bool {
        self.0.get(&member).is_some_and(|node| node.suspect(chunk))
    }

    fn logged(&self, member: u8, chunk: u64) -> bool {
        self.0.get(&member).is_some_and(|node| node.logged(chunk))
    }

    fn receives(&self, member: u8) -> bool {
        self.0.get(&member).is_some_and(|node| node.receives())
    }
}

impl World {
    /// The world of a plan, before anything happens.
    pub fn new(plan: Plan, loud: bool) -> World {
        let workload = Workload::new(plan.seed, plan.work, plan.size / 512);
        let mut env = Env::new(plan, loud);
        let mut nodes = BTreeMap::new();
        for member in 1..=env.plan.members {
            nodes.extend(Node::create(&mut env, member).map(|node| (member, Kept::new(node))));
        }
        let wanted = nodes.keys().copied().collect();
        World {
            env,
            nodes,
            clients: BTreeMap::new(),
            workload,
            over: false,
            wanted,
            turn: 0,
            forced: false,
            forces: 0,
            kept_away: BTreeSet::new(),
            read_back: false,
            armed: Vec::new(),
        }
    }

    /// Runs until all is well, or something is wrong.
    pub fn run(mut self) -> Report {
        self.begin();
        self.go_on()
    }

    /// Goes on until all is well, or something is wrong.
    pub(crate) fn go_on(mut self) -> Report {
        while !self.over && self.turn() {}
        self.report()
    }

    /// The next event. False if there is none, or something is wrong.
    pub(crate) fn turn(&mut self) -> bool {
        let Some(event) = self.env.queue.take() else {
            return false;
        };
        self.env.figures.events += 1;
        self.step(event);
        self.release();
        self.env.plan_network();
        self.judge();
        self.check_marks();
        if !self.env.observer.violations().is_empty() || !self.env.wrong.is_empty() {
            return false;
        }
        if self.env.figures.events > MOST_EVENTS {
            self.env.wrong("Stuck", "too many events".to_owned());
            return false;
        }
        true
    }

    /// Who has diverged, after a forced start.
    fn judge(&mut self) {
        if !self.forced {
            return;
        }
        if let Some(config) = self.env.observer.config() {
            for node in self.nodes.values_mut() {
                node.judge(config);
            }
        }
    }

    pub(crate) fn begin(&mut self) {
        for &member in self.nodes.keys() {
            self.env.queue.at(0, Event::Start(member));
        }
        for (index, fault) in self.env.plan.faults.clone().into_iter().enumerate() {
            self.env.queue.at(fault.at, Event::Fault(index));
        }
        let members: Vec<u8> = self.nodes.keys().copied().collect();
        for &member in &members {
            for &other in &members {
                self.open_sessions(Host::Member(other), member);
            }
        }
        self.env.queue.at(MS, Event::Open(true));
        self.env.queue.at(TEND, Event::Tend);
        self.env.queue.at(self.env.plan.heal, Event::Heal);
    }

    pub(crate) fn report(mut self) -> Report {
        let now = self.env.now();
        let mut figures = self.env.figures;
        figures.time = now;
        (figures.longest, figures.freeze) = self.env.observer.longest();
        (figures.epochs, figures.attaches) = self.env.observer.completed();
        let digest = self.env.trace.digest;
        let mut wrong = std::mem::take(&mut self.env.wrong);
        let (violations, history) = self.env.observer.finish(now);
        wrong.extend(violations.into_iter().map(|violation| Wrong {
            rule: format!("{:?}", violation.rule),
            text: violation.to_string(),
        }));
        Report {
            wrong,
            digest,
            figures,
            history,
        }
    }

    pub(crate) fn step(&mut self, event: Event) {
        let now = self.env.now();
        self.env.trace.digest.mix(now);
        match event {
            Event::Net(event) => self.net(event),
            Event::Disk(member, boot, number) => {
                self.env.trace.digest.mix(u64::from(member) << 32 | number);
                let host = Host::Member(member);
                // A host that pauses does not notice that its disk goes on.
                if let Some(until) = self.env.paused(host) {
                    self.env.queue.at(until, Event::Disk(member, boot, number));
                } else if let Some(node) = self.nodes.get_mut(&member) {
                    node.disk_done(&mut self.env, boot, number);
                }
            }
            Event::MemberTimer(member, boot) => {
                if let Some(until) = self.env.paused(Host::Member(member)) {
                    self.env.queue.at(until, Event::MemberTimer(member, boot));
                } else if let Some(node) = self.nodes.get_mut(&member) {
                    node.timer(&mut self.env, boot);
                }
            }
            Event::ClientTimer(opening) => {
                if let Some(until) = self.env.paused(Host::Client(opening)) {
                    self.env.queue.at(until, Event::ClientTimer(opening));
                } else if let Some(client) = self.clients.get_mut(&opening) {
                    client.timer(&mut self.env, &mut self.workload);
                }
            }
            Event::Work(opening, thread) => {
                if let Some(until) = self.env.paused(Host::Client(opening)) {
                    self.env.queue.at(until, Event::Work(opening, thread));
                } else if let Some(client) = self.clients.get_mut(&opening) {
                    client.work(&mut self.env, &mut self.workload, thread);
                }
            }
            Event::Fault(index) => {
                let fault = self.env.plan.faults.get(index);
                match fault.and_then(|fault| fault.wait) {
                    Some(wait) => self.armed.push((wait.after(self.env.moment), index)),
                    None => self.hit(index),
                }
            }
            Event::Hit(index) => self.hit(index),
            Event::Start(member) => self.start(member),
            Event::Crash(member) if !self.env.healed && !self.keeps_running(member) => {
                self.crash(member, true);
            }
            Event::Crash(_) => {}
            Event::Open(takeover) => self.open(takeover),
            Event::PutBack(member) => self.put_back(member),
            Event::Restore(member) => self.restore(member),
            Event::Tend => {
                self.env.queue.after(TEND, Event::Tend);
                self.tend();
            }
            Event::Admit(member) => {
                if let Some(id) = MemberId::new(member.into()) {
                    self.command(Admin::Maintenance(id, false));
                }
            }
            Event::GoOn(member) => self.pause_resync(member, false),
            Event::Heal => self.heal(),
            Event::Look => self.look(),
        }
    }

    // Network.

    fn net(&mut self, event: NetworkEvent) {
        let now = self.env.now();
        // Whoever is paused gets it later.
        let receiver = match &event {
            NetworkEvent::Deliver { to, .. } | NetworkEvent::Answer { to, .. } => *to,
            NetworkEvent::Break { from, .. } | NetworkEvent::Connect { from, .. } => *from,
        };
        if let Some(until) = self.env.paused(receiver) {
            self.env.queue.at(until, Event::Net(event));
            return;
        }
        match event {
            NetworkEvent::Deliver {
                call,
                to,
                packet,
                answerable,
                ..
            } => {
                self.env.trace.digest.mix(call << 1 | u64::from(answerable));
                let Host::Member(member) = to else { return };
                match self.nodes.get_mut(&member) {
                    Some(node) if node.is_up() => {
                        let call = answerable.then_some(call);
                        node.deliver(&mut self.env, call, &packet);
                    }
                    _ => self.env.network.nobody(now, call),
                }
            }
            NetworkEvent::Answer { call, to, answer } => {
                self.env.trace.digest.mix(call << 8 | answer.status as u64);
                if self.env.network.answered(call) {
                    self.give(to, call, answer);
                }
            }
            NetworkEvent::Break { from, to, session } => {
                if let Some(calls) = self.env.network.break_now(now, from, to, Some(session)) {
                    self.broken(from, to, calls);
                }
            }
            NetworkEvent::Connect { from, to, session } => {
                let up = self.is_up(from) && self.is_up(to);
                if self.env.network.connect(now, from, to, session, up) {
                    self.env.line(&from, format_args!("session with {to}"));
                    if let (Host::Client(opening), Host::Member(member)) = (from, to) {
                        if let Some(client) = self.clients.get_mut(&opening) {
                            client.link(&mut self.env, &mut self.workload, member, true);
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn is_up(&self, host: Host) -> bool {
        match host {
            Host::Client(opening) => self.clients.contains_key(&opening),
            Host::Member(member) => self.nodes.get(&member).is_some_and(|node| node.is_up()),
        }
    }

    /// Calls come back without an answer, and the session is gone.
    pub(crate) fn broken(&mut self, from: Host, to: Host, calls: Vec<u64>) {
        self.env.line(
            &from,
            format_args!("session with {to} breaks, {} calls", calls.len()),
        );
        match (from, to) {
            (Host::Client(opening), Host::Member(member)) => {
                if let Some(client) = self.clients.get_mut(&opening) {
                    client.broken(&mut self.env, &mut self.workload, member, &calls);
                }
            }
            (Host::Member(member), _) => {
                if let Some(node) = self.nodes.get_mut(&member) {
                    for call in calls {
                        node.answer(&mut self.env, call, None);
                    }
                }
            }
            (Host::Client(_), Host::Client(_)) => {}
        }
    }

    fn give(&mut self, host: Host, call: u64, answer: Answer) {
        match host {
            Host::Client(opening) => {
                if let Some(client) = self.clients.get_mut(&opening) {
                    client.answer(&mut self.env, &mut self.workload, call, answer);
                }
            }
            Host::Member(member) => {
                if let Some(node) = self.nodes.get_mut(&member) {
                    node.answer(&mut self.env, call, Some(answer));
                }
            }
        }
    }

    // Hosts.

    pub(crate) fn start(&mut self, member: u8) {
        let now = self.env.now();
        let members: Vec<u8> = self.nodes.keys().copied().collect();
        let Some(node) = self.nodes.get_mut(&member).filter(|node| !node.is_up()) else {
            return;
        };
        node.start(&mut self.env);
        // Whatever it had of sessions as a caller went with its last run.
        let host = Host::Member(member);
        for other in members.into_iter().filter(|&other| other != member) {
            self.env.network.open(now, host, Host::Member(other));
        }
    }

    /// A member crashes; `power` is lost, too.
    pub(crate) fn crash(&mut self, member: u8, power: bool) {
        let Some(node) = self.nodes.get_mut(&member).filter(|node| node.is_up()) else {
            return;
        };
        let host = Host::Member(member);
        self.env
            .line(&host, format_args!("crashes, power lost: {power}"));
        node.crash(&mut self.env, power);
        self.vanished(host);
    }

    /// An older state of a disk that has the last configuration which the member is known to have persisted is known by how
    /// often it was started: it must not be started more often than what it is an older state of (`docs/protocol.md`, "Not
    /// done"). The administrator puts in another disk when all faults are over.
    fn keeps_running(&self, member: u8) -> bool {
        let config = self.env.observer.config();
        let node = self.nodes.get(&member);
        !self.env.healed && node.is_some_and(|node| node.must_not_start(config))
    }

    /// The host of a member is gone.
    pub(crate) fn vanished(&mut self, host: Host) {
        let now = self.env.now();
        self.env.paused.remove(&host);
        self.env.network.forget_caller(host);
        for (from, to) in self.env.network.pairs(host) {
            if to == host {
                // A host that is gone may say so, or be missed.
                let after = self.env.random.scaled(US, self.env.plan.heartbeat);
                self.env.network.break_later(now + after, from, to);
            }
        }
    }

    /// A member restarts so fast that its callers may not notice.
    pub(crate) fn reboot(&mut self, member: u8, span: Nanos) {
        let Some(node) = self.nodes.get_mut(&member).filter(|node| node.is_up()) else {
            return;
        };
        let host = Host::Member(member);
        self.env.line(&host, format_args!("reboots"));
        node.crash(&mut self.env, false);
        self.env.network.forget_caller(host);
        let now = self.env.now();
        self.env.network.again(now + span, host);
        self.env.queue.after(span, Event::Start(member));
    }

    /// The device is opened on another host.
    pub fn open(&mut self, takeover: bool) {
        self.env.current += 1;
        self.env.observer.forget_freeze();
        let opening = self.env.current;
        let members: Vec<u8> = self.nodes.keys().copied().collect();
        let Some(mut client) = Client::new(opening) else {
            self.env
                .wrong("Shell", "a client cannot be made".to_owned());
            return;
        };
        // Whoever opens it again knows which pool it was.
        let pool = match self.env.observer.config() {
            Some(_) => self.nodes.values().find_map(|node| node.pool()),
            None => None,
        };
        let by_name = self.env.plan.kinds.contains(Kind::ByName) && !self.env.healed;
        let pool = pool.filter(|_| !by_name).unwrap_or(Uuid::NIL);
        // And who is in it.
        let named = match self.env.observer.config() {
            Some(config) => config.table(),
            None => (members.iter())
                .filter_map(|&member| MemberId::new(member.into()))
                .collect(),
        };
        // Who knows nothing of a start that was forced without it could start what was given up: the administrator who did
        // that keeps it away until the pool serves.
        let (away, near) = match self.env.observer.config() {
            Some(config) if self.forced => members.iter().partition(|member| {
                let node = self.nodes.get(member);
                node.is_some_and(|node| node.is_of_another_history(config))
            }),
            _ => (Vec::new(), members),
        };
        self.kept_away = away.into_iter().collect();
        let (env, workload) = (&mut self.env, &mut self.workload);
        client.open(env, workload, pool, &near, named, takeover);
        for thread in 0..self.env.plan.work.depth {
            self.env.queue.after(0, Event::Work(opening, thread));
        }
        self.clients.insert(opening, Kept::new(client));
    }

    pub(crate) fn crash_client(&mut self, opening: u32) {
        let now = self.env.now();
        if self.clients.remove(&opening).is_some() {
            let host = Host::Client(opening);
            self.env.line(&host, format_args!("crashes"));
            self.env.paused.remove(&host);
            self.env.network.forget_caller(host);
            self.env.observer.gone(now, opening);
        }
    }

    /// The device is closed in order.
    pub fn close_client(&mut self) {
        if let Some(client) = self.clients.get_mut(&self.env.current) {
            client.close(&mut self.env, &mut self.workload);
        }
    }

    pub(crate) fn pause(&mut self, host: Host, span: Nanos) {
        let until = self.env.now() + span;
        self.env
            .line(&host, format_args!("pauses for {:.3} s", span as f64 / 1e9));
        let entry = self.env.paused.entry(host).or_default();
        *entry = (*entry).max(until);
        if let Host::Client(opening) = host {
            self.env.observer.paused(opening, span);
            if opening == self.env.current {
                self.env.observer.freeze_paused(span);
            }
        }
        if span > self.env.plan.heartbeat {
            for (from, to) in self.env.network.pairs(host) {
                let at = self.env.now() + self.env.plan.heartbeat;
                self.env.network.break_later(at, from, to);
            }
        }
    }

    // Faults.

    /// Faults whose moment has come hit, at once or a little later.
    fn release(&mut self) {
        let env = &mut self.env;
        let latency = env.plan.latency;
        self.armed.retain(|&(moment, index)| {
            let waits = !moment.has_come(env.moment);
            if !waits {
                let after = env.random.below(2) * env.random.below(2 * latency);
                env.queue.after(after, Event::Hit(index));
            }
            waits
        });
    }

    fn hit(&mut self, index: usize) {
        if let Some(&fault) = self.env.plan.faults.get(index) {
            self.env.figures.faults += 1;
            self.fault(fault);
        }
    }

    /// Lets the checkers look at disks and marks.
    pub(crate) fn check_marks(&mut self) {
        let now = self.env.now();
        for (&member, node) in &self.nodes {
            if node.take_changed() {
                self.env.observer.unreadable(member, &node.unreadable());
            }
        }
        self.env.observer.check(now, &Remembered(&self.nodes));
    }

    /// A block cannot be read any more on any disk: most often one that somebody misses and others have.
    fn kill_block(&mut self, random: &mut Random) {
        const BLOCK: u64 = 8;
        let chunk_sectors = (1u64 << self.env.plan.chunk_shift) / 512;
        let chunks = self.env.plan.size / 512 / chunk_sectors;
        let is_missed = |chunk: &u64| {
            let missed = |node: &Kept<Node>| node.is_started() && node.dirty(node.member, *chunk);
            self.nodes.values().any(missed)
        };
        let missed: Vec<u64> = (0..chunks).filter(is_missed).collect();
        let chunk = match random.pick(&missed) {
            Some(chunk) if random.chance(7, 8) => chunk,
            _ => random.below(chunks),
        };
        let sectors = chunk * chunk_sectors..(chunk + 1) * chunk_sectors;
        let differs = |first: &u64| {
            let held = |node: &Kept<Node>| {
                (*first..*first + BLOCK)
                    .map(|sector| node.value(sector))
                    .collect()
            };
            let held: BTreeSet<Vec<u64>> = self.nodes.values().map(held).collect();
            held.len() > 1
        };
        let differing: Vec<u64> = (sectors.clone().step_by(BLOCK as usize))
            .filter(differs)
            .collect();
        let first = match random.pick(&differing) {
            Some(first) if random.chance(7, 8) => first,
            _ => sectors.start + random.below(chunk_sectors / BLOCK) * BLOCK,
        };
        let count = if random.chance(1, 2) { BLOCK } else { 1 };
        for node in self.nodes.values_mut() {
            node.kill_sectors(first..first + count);
        }
    }

    fn fault(&mut self, fault: Planned) {
        if self.env.healed {
            return;
        }
        let Planned { kind, span, .. } = fault;
        let mut random = Random::new(fault.dice, Purpose::Fault);
        let random = &mut random;
        self.env.line(
            &"***",
            format_args!("fault {}: {kind}, {:.3} s", fault.place, span as f64 / 1e9),
        );
        let now = self.env.now();
        let members: Vec<u8> = self.nodes.keys().copied().collect();
        let Some(member) = random.pick(&members) else {
            return;
        };
        let member = fault.whom.unwrap_or(member);
        let host = Host::Member(member);
        let current = Host::Client(self.env.current);
        let hosts: Vec<Host> = std::iter::once(current)
            .chain(members.iter().map(|&member| Host::Member(member)))
            .collect();
        let other = random
            .pick(&hosts)
            .filter(|&other| other != host && fault.whom.is_none())
            .unwrap_or(current);
        let restart = random.scaled(5 * MS, 10 * SECOND);
        // A story may say how long a host is away.
        let restart = match kind {
            Kind::MemberCrash | Kind::ClientCrash if fault.whom.is_some() && span > 0 => span,
            _ => restart,
        };
        match kind {
            Kind::Partition if fault.whom.is_some() => {
                // The client and this member are cut off from the others, and from the next client.
                let next = Host::Client(self.env.current + 1);
                for &left in &[current, host] {
                    let others = hosts.iter().copied().chain([next]);
                    for right in others.filter(|other| ![current, host].contains(other)) {
                        self.env.network.block(now, left, right, span);
                        self.env.network.block(now, right, left, span);
                    }
                }
            }
            Kind::Partition if random.chance(1, 3) => {
                // Two halves; the next client to open the device is in one of them, too.
                let next = Host::Client(self.env.current + 1);
                let (one, other): (Vec<Host>, Vec<Host>) = hosts
                    .iter()
                    .copied()
                    .chain([next])
                    .partition(|_| random.chance(1, 2));
                for &one in &one {
                    for &other in &other {
                        self.env.network.block(now, one, other, span);
                        self.env.network.block(now, other, one, span);
                    }
                }
            }
            Kind::Partition => {
                let alone = random.chance(1, 3);
                for &peer in &hosts {
                    if peer != host && (alone || peer == other) {
                        self.env.network.block(now, host, peer, span);
                        self.env.network.block(now, peer, host, span);
                    }
                }
            }
            Kind::OneWay => {
                let (from, to) = if random.chance(1, 2) {
                    (host, other)
                } else {
                    (other, host)
                };
                self.env.network.block(now, from, to, span);
            }
            Kind::Flap => {
                for (from, to) in [(other, host), (host, other)] {
                    if let Some(calls) = self.env.network.break_now(now, from, to, None) {
                        self.broken(from, to, calls);
                    }
                }
            }
            Kind::ClientCrash => {
                self.crash_client(self.env.current);
                self.env.queue.after(restart, Event::Open(true));
            }
            Kind::ClientPause => self.pause(current, span),
            Kind::Takeover => {
                if random.chance(1, 2) {
                    self.pause(current, span);
                }
                // Some wait for a moment, and hit it.
                let longest = if fault.whom.is_some() {
                    10 * self.env.plan.latency
                } else {
                    SECOND
                };
                let after = random.scaled(US, longest);
                self.env.queue.after(after, Event::Open(true));
            }
            Kind::Detach => {
                self.close_client();
                self.env.queue.after(restart, Event::Open(false));
            }
            // It stays up.
            Kind::MemberCrash
            | Kind::CrashLoop
            | Kind::MetaRot
            | Kind::QuickReboot
            | Kind::DiskReset
            | Kind::ForeignDisk
                if self.keeps_running(member) => {}
            Kind::MemberCrash => {
                self.crash(member, true);
                self.env.queue.after(restart, Event::Start(member));
                if random.chance(1, 3) {
                    // And again, while it starts.
                    let again = restart + random.scaled(self.env.plan.access, 20 * MS);
                    self.env.queue.after(again, Event::Crash(member));
                    self.env.queue.after(again + SECOND, Event::Start(member));
                }
            }
            Kind::CrashLoop => {
                self.crash(member, true);
                // In the middle of the first writes of metadata.
                let mut at = random.scaled(MS, 100 * MS);
                self.env.queue.after(at, Event::Start(member));
                for _ in 0..random.between(1, 16) {
                    at += random.between(1, 6 * self.env.plan.access);
                    self.env.queue.after(at, Event::Crash(member));
                    at += random.scaled(MS, 100 * MS);
                    self.env.queue.after(at, Event::Start(member));
                }
            }
            Kind::MetaRot => {
                self.crash(member, true);
                if let Some(node) = self.nodes.get_mut(&member) {
                    node.fault(&mut self.env, kind, span, random);
                }
                self.env.queue.after(restart, Event::Start(member));
                if random.chance(1, 2) {
                    let again = restart + random.scaled(self.env.plan.access, 20 * MS);
                    self.env.queue.after(again, Event::Crash(member));
                    self.env.queue.after(again + SECOND, Event::Start(member));
                }
            }
            Kind::QuickReboot => self.reboot(member, random.scaled(100 * US, 300 * MS)),
            Kind::MemberPause => self.pause(host, span),
            Kind::Several => {
                for &member in &members {
                    if random.chance(2, 3) && !self.keeps_running(member) {
                        self.crash(member, random.chance(2, 3));
                        let restart = random.scaled(5 * MS, 10 * SECOND);
                        self.env.queue.after(restart, Event::Start(member));
                    }
                }
            }
            Kind::Blackout => {
                for &member in &members {
                    if self.keeps_running(member) {
                        continue;
                    }
                    self.crash(member, true);
                    let restart = random.scaled(5 * MS, 5 * SECOND);
                    self.env.queue.after(restart, Event::Start(member));
                }
                self.crash_client(self.env.current);
                self.env.queue.after(restart, Event::Open(true));
            }
            Kind::Admin => self.admin(member, span, random),
            Kind::Table => self.change_table(member, fault.whom.is_some(), random),
            Kind::Force => {
                self.forces = self.forces.max(now + span);
                self.tend();
            }
            Kind::EmptyDisk => {
                if self.can_lose(member) {
                    self.crash(member, true);
                    self.replace_disk(member);
                    self.env.queue.after(restart, Event::Start(member));
                }
            }
            Kind::StaleDisk => {
                if let Some(node) = self.nodes.get_mut(&member) {
                    node.keep_copy();
                    self.env.queue.after(span, Event::Restore(member));
                    if random.chance(2, 3) {
                        // An older state is known as such only if the member started since.
                        let soon = random.scaled(MS, span);
                        self.env.queue.after(soon, Event::Crash(member));
                        self.env.queue.after(soon + 10 * MS, Event::Start(member));
                    }
                }
            }
            // Where no store of the pool is left that was ever started, nobody knows which one is foreign.
            Kind::ForeignDisk if !self.others_know(member) => {}
            Kind::ForeignDisk => {
                self.crash(member, true);
                if let Some(node) = self.nodes.get_mut(&member) {
                    node.put_foreign(&mut self.env);
                }
                self.env.queue.after(restart, Event::Start(member));
                self.env.queue.after(restart + span, Event::PutBack(member));
            }
            Kind::DeadBlock => self.kill_block(random),
            Kind::Clock => {
                let jump = random.scaled(MS, 1000 * SECOND);
                let host = if random.chance(1, 2) { host } else { current };
                let forward = random.chance(2, 3);
                // The clock is monotonic: only a broken one goes back, and what waits for a time waits longer by that.
                let jump = if forward { jump } else { jump.min(5 * SECOND) };
                self.env.jump(host, forward, jump);
                self.set_timer(host);
            }
            _ => {
                if let Some(node) = self.nodes.get_mut(&member) {
                    node.fault(&mut self.env, kind, span, random);
                }
            }
        }
    }

    /// The clock of a host is another one: its timer goes by it.
    fn set_timer(&mut self, host: Host) {
        let (at, event) = match host {
            Host::Member(member) => match self.nodes.get(&member) {
                Some(node) => (node.timer_at(), Event::MemberTimer(member, node.boot())),
                None => return,
            },
            Host::Client(opening) => match self.clients.get(&opening) {
                Some(client) => (client.timer_at(), Event::ClientTimer(opening)),
                None => return,
            },
        };
        if at != Time::NEVER {
            let after = self.env.until(host, at);
            self.env.queue.after(after, event);
        }
    }

    pub(crate) fn command(&mut self, admin: Admin) {
        // A host that stands still takes no commands.
        if self.env.paused(Host::Client(self.env.current)).is_some() {
            return;
        }
        if let Some(client) = self.clients.get_mut(&self.env.current) {
            client.command(&mut self.env, &mut self.workload, admin);
        }
    }

    fn admin(&mut self, member: u8, span: Nanos, random: &mut Random) {
        let Some(id) = MemberId::new(member.into()) else {
            return;
        };
        match random.below(7) {
            0 => self.command(Admin::OnNoData(OnNoData::Error)),
            1 => self.command(Admin::OnNoData(OnNoData::Suspend)),
            2 => self.command(Admin::Add(id)),
            3 => self.command(Admin::Invalidate(id)),
            4 => {
                let longest = self.env.plan.io_timeout;
                self.command(Admin::IoTimeout(random.between(longest / 4, longest)));
            }
            5 => {
                self.pause_resync(member, true);
                self.env.queue.after(span, Event::GoOn(member));
            }
            _ => {
                self.command(Admin::Maintenance(id, true));
                self.env.queue.after(span, Event::Admit(member));
            }
        }
    }

    fn pause_resync(&mut self, member: u8, pause: bool) {
        if let Some(node) = self.nodes.get_mut(&member) {
            node.pause_resync(&mut self.env, pause);
        }
    }

    /// `leaves`: it is this member that leaves, and at once, if it can; all but the last one can. Or comes back.
    fn change_table(&mut self, member: u8, leaves: bool, random: &mut Random) {
        // A pool that was never started has no table but what is named when it is.
        if self.env.observer.config().is_none() {
            return;
        }
        let next = self.nodes.len() as u8 + 1;
        // Of a pool with a quorum two have to be left: one alone cannot take in another.
        let fewest = if self.env.plan.quorum { 2 } else { 1 };
        if leaves && self.wanted.len() > fewest && self.wanted.contains(&member) {
            self.wanted.remove(&member);
            self.tend();
        } else if leaves && !self.wanted.contains(&member) {
            self.wanted.insert(member);
            self.tend();
        } else if random.chance(1, 2) && next <= MOST_MEMBERS {
            self.add_member();
        } else if self.wanted.len() > 2 && self.wanted.contains(&member) {
            self.wanted.remove(&member);
        }
    }

    /// A host with a new store; the administrator wants it in the pool.
    pub fn add_member(&mut self) {
        let next = self.nodes.len() as u8 + 1;
        let Some(node) = Node::create(&mut self.env, next) else {
            return;
        };
        self.nodes.insert(next, Kept::new(node));
        self.start(next);
        let hosts: Vec<Host> = self.hosts();
        for host in hosts {
            self.open_sessions(host, next);
        }
        self.wanted.insert(next);
    }

    /// Whether the disk of this member can be lost: all others are up, so that a copy is left, and it is in.
    fn can_lose(&self, member: u8) -> bool {
        let is_well = |node: &Node| {
            !node.has_foreign() && (node.member == member || node.is_started() && !node.is_lost())
        };
        self.env.observer.can_lose(member) && self.nodes.values().all(|node| is_well(node))
    }

    /// Whether another member in sync has its disk.
    fn others_know(&self, member: u8) -> bool {
        let Some(config) = self.env.observer.config() else {
            return false;
        };
        let others = config.in_sync.iter().map(crate::observer::number);
        others
            .filter(|&other| other != member)
            .filter_map(|other| self.nodes.get(&other))
            .any(|node| !node.has_foreign() && !node.is_lost())
    }

    pub(crate) fn replace_disk(&mut self, member: u8) {
        if let Some(node) = self.nodes.get_mut(&member) {
            node.replace(&mut self.env);
        }
    }

    fn put_back(&mut self, member: u8) {
        let has_foreign = self
            .nodes
            .get(&member)
            .is_some_and(|node| node.has_foreign());
        if !has_foreign {
            return;
        }
        self.crash(member, true);
        if let Some(node) = self.nodes.get_mut(&member) {
            node.put_back(&mut self.env);
        }
        self.env.queue.after(100 * MS, Event::Start(member));
    }

    /// An older state of a disk is put in, if others know that it is older.
    fn restore(&mut self, member: u8) {
        let Some(node) = self.nodes.get(&member) else {
            return;
        };
        let older = node.copy_is_older(self.env.observer.config());
        if self.env.healed || !older || !self.can_lose(member) {
            return;
        }
        self.crash(member, true);
        if let Some(node) = self.nodes.get_mut(&member) {
            node.restore(&mut self.env);
        }
        self.env.queue.after(100 * MS, Event::Start(member));
    }

    /// What an administrator does who wants every member of the pool in sync.
    fn tend(&mut self) {
        let Some(client) = self.clients.get(&self.env.current) else {
            return;
        };
        let Some(config) = self.env.observer.config().cloned() else {
            return;
        };
        if client.has_command() {
            return;
        }
        if !client.is_serving() {
            if self.env.healed {
                self.force(&config);
            } else if self.env.now() < self.forces && client.is_waiting() {
                self.force_early(&config);
            }
            return;
        }
        let now = self.env.now();
        let own = client.config().map(|config| config.history);
        if own == Some(config.history) {
            for member in std::mem::take(&mut self.kept_away) {
                self.open_sessions(Host::Client(self.env.current), member);
            }
        }
        let Some(client) = self.clients.get(&self.env.current) else {
            return;
        };
        // Nor is every addition possible without a removal: after a refusal, another command has its turn.
        self.turn = if client.has_refused() {
            self.turn + 1
        } else {
            0
        };
        let mut wishes = Vec::new();
        // What is missing comes first: without it a removal may not be possible.
        let (stay, leave): (Vec<u8>, Vec<u8>) = self
            .nodes
            .keys()
            .partition(|member| self.wanted.contains(member));
        for member in stay.into_iter().chain(leave) {
            let Some(node) = self.nodes.get(&member) else {
                continue;
            };
            let Some(id) = MemberId::new(member.into()) else {
                continue;
            };
            let wanted = self.wanted.contains(&member);
            let admin = match config.store(id) {
                None if wanted => Admin::Add(id),
                // The last copy is not removed; as soon as another one is in sync, it is.
                Some(_) if !wanted && config.in_sync.without(id).is_empty() => continue,
                Some(_) if !wanted => Admin::Remove(id),
                Some(store) if node.is_lost() && store != node.store() => Admin::Replace(id),
                Some(_) if self.env.healed && config.maintenance.contains(id) => {
                    Admin::Maintenance(id, false)
                }
                _ => continue,
            };
            wishes.push(admin);
        }
        if let Some(&admin) = wishes.get(self.turn % (wishes.len() + 1)) {
            self.command(admin);
            return;
        }
        // What has gone further in a history that was given up is given up, too, sooner or later.
        let diverged = |id: &MemberId| {
            let node = self.nodes.get(&crate::observer::number(*id));
            node.is_some_and(|node| node.is_diverged())
        };
        let out = config.table().minus(config.receivers());
        if let Some(id) = out
            .iter()
            .find(diverged)
            .filter(|_| own == Some(config.history))
        {
            if self.env.healed || self.env.random.chance(1, 4) {
                self.command(Admin::Discard(id));
            }
            return;
        }
        // A store that is not let in again: an older state of itself, as the client says, or as lost writes of its
        // metadata made it, or unreadable. Another disk is put in.
        let rolled_back = client.rolled_back();
        let patience = self.env.plan.heal + 30 * SECOND;
        if self.env.healed && now > patience {
            for id in out.iter() {
                let member = crate::observer::number(id);
                let doubtful = self
                    .nodes
                    .get(&member)
                    .is_some_and(|node| node.is_doubtful() || rolled_back.contains(id));
                if doubtful && self.env.observer.can_lose(member) {
                    self.crash(member, true);
                    self.replace_disk(member);
                    self.env.queue.after(MS, Event::Start(member));
                    return;
                }
            }
        }
    }

    /// The pool does not start. If that is for a member in sync whose store is gone for good, it is to start without. If
    /// there was no other, as its disk lost the only record of what it persisted (R19), with what is left. With a quorum, any
    /// store that is gone may be the one without which there is no majority: of a table that was to be smaller, and is known to
    /// somebody, two of three may not be enough.
    fn force(&mut self, config: &Config) {
        let node = |id: MemberId| self.nodes.get(&crate::observer::number(id));
        let forgot = |id: MemberId| {
            node(id).is_some_and(|node| node.forgets())
                && self.env.observer.has_forgotten(crate::observer::number(id))
        };
        let is_gone = |id: MemberId| {
            node(id).is_none_or(|node| {
                config.store(id) != Some(node.store()) || node.is_doubtful() || forgot(id)
            })
        };
        let needed = match config.quorum {
            Quorum::Off => config.in_sync,
            Quorum::Majority => config.table(),
        };
        let lost: MemberSet = needed.iter().filter(|&id| is_gone(id)).collect();
        let left = config.in_sync.minus(lost);
        let waits = self
            .clients
            .get(&self.env.current)
            .is_some_and(|client| client.is_waiting());
        let patience = self.env.plan.heal + 20 * SECOND;
        let helps = !left.is_empty() || lost.iter().any(forgot);
        if waits && !lost.is_empty() && helps && self.env.now() > patience {
            self.forced = true;
            let history = Uuid::from_random(self.env.uuids.bytes());
            self.command(Admin::Force { lost, history });
        }
    }

    /// An administrator who cannot wait for those who are away. Not with a quorum: what a minority does then is complete for
    /// nobody but itself.
    fn force_early(&mut self, config: &Config) {
        let is_away = |id: &MemberId| {
            let node = self.nodes.get(&crate::observer::number(*id));
            node.is_none_or(|node| !node.is_started() || node.has_foreign())
        };
        let lost: MemberSet = config.table().iter().filter(is_away).collect();
        if config.in_sync.intersection(lost).is_empty() || self.env.plan.quorum {
            return;
        }
        self.forced = true;
        // Who waits elsewhere could start what is given up here.
        let current = self.env.current;
        let others = self.clients.iter();
        let waiting: Vec<u32> = others
            .filter(|(&opening, client)| opening != current && client.is_waiting())
            .map(|(&opening, _)| opening)
            .collect();
        for opening in waiting {
            self.crash_client(opening);
        }
        let history = Uuid::from_random(self.env.uuids.bytes());
        self.command(Admin::Force { lost, history });
    }

    fn hosts(&self) -> Vec<Host> {
        let clients = self.clients.keys().map(|&opening| Host::Client(opening));
        let members = self.nodes.keys().map(|&member| Host::Member(member));
        clients.chain(members).collect()
    }

    /// Sessions of one host with a member, and back if that is one, too.
    pub(crate) fn open_sessions(&mut self, host: Host, member: u8) {
        let now = self.env.now();
        let other = Host::Member(member);
        if host != other {
            self.env.network.open(now, host, other);
            if let Host::Member(_) = host {
                self.env.network.open(now, other, host);
            }
        }
    }

    // The end.

    pub(crate) fn heal(&mut self) {
        let now = self.env.now();
        self.env.line(&"***", format_args!("all faults are over"));
        self.env.healed = true;
        self.env.network.heal();
        let paused = std::mem::take(&mut self.env.paused);
        for (host, until) in paused {
            // What was put off comes at its time; nothing new is.
            if until > now {
                self.env.line(&host, format_args!("goes on soon"));
            }
        }
        let members: Vec<u8> = self.nodes.keys().copied().collect();
        for member in members {
            self.put_back(member);
            if let Some(node) = self.nodes.get_mut(&member) {
                node.heal(&mut self.env);
            }
            self.env.queue.after(200 * MS, Event::Start(member));
        }
        self.env.observer.healed(now);
        self.env.queue.after(LOOK, Event::Look);
    }

    fn look(&mut self) {
        let now = self.env.now();
        let since = now.saturating_sub(self.env.plan.heal);
        // Some client has to have the device.
        let needs_client = self
            .clients
            .get(&self.env.current)
            .is_none_or(|client| client.is_useless() || client.is_lost_for_name());
        if needs_client && since > 15 * SECOND {
            self.crash_client(self.env.current);
            self.open(true);
        }
        // Who waits for a history that was given up is closed.
        if self.forced && since > 30 * SECOND {
            let current = self.env.current;
            let forsaken: Vec<u32> = self
                .clients
                .iter()
                .filter(|(&opening, client)| opening != current && client.is_waiting())
                .map(|(&opening, _)| opening)
                .collect();
            for opening in forsaken {
                self.crash_client(opening);
            }
        }
        let idle = self.clients.values().all(|client| client.is_idle());
        let full = since > Observer::bound() / 2 && self.are_lists_full();
        if full {
            self.env.observer.excuse();
        }
        let whole = self.env.observer.is_whole() || full;
        let done = whole && self.workload.left() == 0 && idle;
        if done && !self.read_back {
            self.read_back = true;
            let read = self
                .clients
                .get_mut(&self.env.current)
                .is_some_and(|client| client.read_back(&mut self.env, &mut self.workload));
            if !read {
                self.read_back = false;
            }
        } else if done {
            self.env.observer.check_equal(now, &Remembered(&self.nodes));
            let but = if full {
                ", but for what nobody can read"
            } else {
                ""
            };
            self.env.line(&"***", format_args!("all is well{but}"));
            self.over = true;
            return;
        }
        if since > Observer::bound() {
            self.over = true;
            return;
        }
        self.env.queue.after(LOOK, Event::Look);
    }

    /// Whether all who are not in sync catch up, and have more to pull that nobody in sync can read than their lists have room for:
    /// then they stay behind (R17).
    fn are_lists_full(&self) -> bool {
        let Some(config) = self.env.observer.config() else {
            return false;
        };
        let nodes = |members: MemberSet| {
            members
                .iter()
                .filter_map(|id| self.nodes.get(&(id.get() as u8)))
        };
        let lost = nodes(config.in_sync).map(|node| node.lost_blocks());
        let Some(lost) = lost.reduce(|one, other| &one & &other) else {
            return false;
        };
        config.receivers() == config.table()
            && nodes(config.catching_up)
                .all(|node| node.receives() && node.unreadable_blocks(&lost) > UNREADABLE_SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Kinds;
    use crate::plan::Cut;

    /// What a whole bitmap says is what is said of each chunk, or nothing.
    #[test]
    fn bits_at_once() {
        let mut seen = (0, 0);
        for seed in 1..=4 {
            let plan = Plan::draw(seed, Kinds::all(), &Cut::default());
            let mut world = World::new(plan, false);
            world.begin();
            while !world.over && world.turn() {
                if world.env.figures.events % 1000 == 0 {
                    let (all, some) = world.compare_bits();
                    seen = (seen.0 + all, seen.1 + some);
                }
            }
        }
        assert!(seen.0 > 0 && seen.1 > 0 && seen.1 < seen.0, "{seen:?}");
    }

    impl World {
        /// How many chunks were compared, and how many of them were dirty.
        fn compare_bits(&self) -> (u64, u64) {
            let marks = Remembered(&self.nodes);
            let chunks = self.env.plan.size >> self.env.plan.chunk_shift;
            let mut seen = (0, 0);
            let members = || 1..=self.env.plan.members + 1;
            for (holder, of) in members().flat_map(|holder| members().map(move |of| (holder, of))) {
                let mut words = vec![!0_u64; chunks.div_ceil(64) as usize];
                marks.keep_dirty(holder, of, &mut words);
                let told = words.iter().any(|word| *word != 0);
                for chunk in 0..chunks {
                    let bit = words[chunk as usize / 64] >> (chunk % 64) & 1 == 1;
                    let dirty = marks.dirty(holder, of, chunk);
                    assert!(dirty == bit || !told, "D[{of}] of {holder}, chunk {chunk}");
                    seen = (seen.0 + 1, seen.1 + u64::from(bit));
                }
            }
            seen
        }
    }
}
