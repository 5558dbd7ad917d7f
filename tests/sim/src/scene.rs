// SPDX-License-Identifier: GPL-2.0

//! A world moved by hand: what happens to it, and what is asked of it, is said step by step, not drawn.
//!
//! All checkers look on; what they find ends the scene with a panic. Not here: any scenario (`tests/museum.rs`).

#![expect(
    clippy::panic,
    reason = "a scene is part of a test, and fails as a test does"
)]

use crate::client::Client;
use crate::env::Event;
use crate::faults::Kinds;
use crate::member::Node;
use crate::network::Host;
use crate::plan::Plan;
use crate::plan::Rates;
use crate::plan::Work;
use crate::plan::MS;
use crate::plan::SECOND;
use crate::plan::US;
use crate::queue::Nanos;
use crate::workload::What;
use crate::world::World;
use rmr_checkers::history::Outcome;
use rmr_engine::client::Admin;
use rmr_engine::client::State;
use rmr_proto::Config;

/// Longer than any scene.
const FAR: Nanos = 1 << 50;
/// So long one waits for what has to happen.
const PATIENCE: Nanos = 150 * SECOND;

/// A plan of a pool without faults and without a workload.
pub fn calm(members: u8) -> Plan {
    Plan {
        seed: 1,
        members,
        quorum: false,
        size: 64 << 20,
        chunk_shift: 16,
        log_extents: 16,
        volatile: vec![true; 8],
        io_timeout: 2 * SECOND,
        fail_without_data: false,
        latency: 20 * US,
        access: 50 * US,
        heartbeat: 500 * MS,
        work: Work {
            ops: 0,
            depth: 1,
            spots: 1,
            spread: 8,
            longest: 8,
            reads: 0,
            flushes: 0,
            fua: 0,
            zeroes: 0,
            pause: 0,
            burst: 1,
            idle: 0,
        },
        rates: Rates::default(),
        faults: Vec::new(),
        heal: FAR,
        kinds: Kinds::NONE,
    }
}

/// A world moved by hand.
pub struct Scene {
    /// The world.
    pub world: World,
    threads: u32,
}

impl Scene {
    /// A pool of so many members that is served, all in sync.
    pub fn new(members: u8) -> Scene {
        Scene::with(calm(members))
    }

    /// The same, of this plan.
    pub fn with(plan: Plan) -> Scene {
        let loud = std::env::var_os("TRACE").is_some();
        let mut world = World::new(plan, loud);
        world.begin();
        let mut scene = Scene { world, threads: 1 };
        scene.until("served", Scene::is_whole);
        scene
    }

    // Time.

    /// Virtual time.
    pub fn now(&self) -> Nanos {
        self.world.env.now()
    }

    /// So much time passes.
    pub fn pass(&mut self, span: Nanos) {
        let end = self.now() + span;
        // An event at the end, so that time goes on to there.
        self.world.env.queue.at(end, Event::Start(0));
        while self.now() < end {
            self.turn("time passes");
        }
    }

    /// Time passes until this is so. Panics if it never is.
    pub fn until(&mut self, what: &str, is: impl Fn(&Scene) -> bool) {
        let end = self.now() + PATIENCE;
        while !is(self) {
            assert!(self.now() < end, "never: {what}");
            self.turn(what);
        }
    }

    fn turn(&mut self, what: &str) {
        let goes_on = self.world.turn();
        let wrong = self.world.env.observer.violations();
        assert!(wrong.is_empty(), "{what}: {wrong:?}");
        let wrong = &self.world.env.wrong;
        assert!(goes_on && wrong.is_empty(), "{what}: {wrong:?}");
    }

    /// Everything works again: waits until all members are in sync and all that was written is read back; then
    /// all checkers have to be content.
    pub fn end(mut self) {
        self.world.env.frail = None;
        self.world.env.plan.heal = self.now();
        self.world.heal();
        let end = self.now() + 2 * PATIENCE;
        while !self.world.over {
            assert!(self.now() < end, "never: all is well");
            self.turn("healing");
        }
        let wrong = self.world.report().wrong;
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    // Requests. Each is of a thread of its own.

    fn ask(&mut self, what: What, sector: u64, count: u64) -> u64 {
        self.ask_of(self.world.env.current, what, sector, count)
    }

    /// Asks the client of this opening, which need not be the last one; the number of the request.
    pub fn ask_of(&mut self, opening: u32, what: What, sector: u64, count: u64) -> u64 {
        self.threads += 1;
        let by = (opening, self.threads);
        let op = self.world.workload.give(by, what, sector, count);
        self.world.env.queue.after(0, Event::Work(by.0, by.1));
        op
    }

    /// Asks for a write; its number.
    pub fn begin_write(&mut self, sector: u64, count: u64) -> u64 {
        self.ask(What::Write(false), sector, count)
    }

    /// Asks for a flush; its number.
    pub fn begin_flush(&mut self) -> u64 {
        self.ask(What::Flush, 0, 0)
    }

    /// Asks for a read; its number.
    pub fn begin_read(&mut self, sector: u64, count: u64) -> u64 {
        self.ask(What::Read, sector, count)
    }

    /// Asks for zeroes; its number.
    pub fn begin_zeroes(&mut self, sector: u64, count: u64) -> u64 {
        self.ask(What::Zeroes(false), sector, count)
    }

    /// Whether a request is answered, and what.
    pub fn answer(&self, op: u64) -> Option<Outcome> {
        self.world.env.observer.answer(op).cloned()
    }

    /// Waits for the answer.
    pub fn wait(&mut self, op: u64) -> Outcome {
        self.until("answered", |scene| scene.answer(op).is_some());
        self.answer(op).unwrap_or(Outcome::Unknown)
    }

    /// Writes; the value of the first sector. Panics if that fails.
    pub fn write(&mut self, sector: u64, count: u64) -> u64 {
        let op = self.begin_write(sector, count);
        assert_eq!(self.wait(op), Outcome::Ok(Vec::new()));
        op << 16 | 1
    }

    /// Flushes. Panics if that fails.
    pub fn flush(&mut self) {
        let op = self.begin_flush();
        assert_eq!(self.wait(op), Outcome::Ok(Vec::new()));
    }

    /// Reads a sector. Panics if that fails.
    pub fn read(&mut self, sector: u64) -> u64 {
        let op = self.begin_read(sector, 1);
        match self.wait(op) {
            Outcome::Ok(values) => values[0],
            other => panic!("read of {sector}: {other:?}"),
        }
    }

    // What happens to hosts.

    /// The client that should have the device.
    pub fn client(&self) -> Host {
        Host::Client(self.world.env.current)
    }

    /// Nothing gets through between two hosts, until [`Scene::join`].
    pub fn cut(&mut self, one: Host, other: Host) {
        let now = self.now();
        self.world.env.network.block(now, one, other, FAR);
        self.world.env.network.block(now, other, one, FAR);
    }

    /// Two hosts reach each other again.
    pub fn join(&mut self, one: Host, other: Host) {
        self.world.env.network.unblock(one, other);
        self.world.env.network.unblock(other, one);
    }

    /// Member and client do not reach each other; the client notices.
    pub fn lose(&mut self, member: u8) {
        self.cut(self.client(), Host::Member(member));
        self.until("dropped", |scene| !scene.receives(member));
    }

    /// Member and client reach each other again.
    pub fn find(&mut self, member: u8) {
        self.join(self.client(), Host::Member(member));
    }

    /// A member crashes; with a power loss its disk loses what is not stable.
    pub fn crash(&mut self, member: u8, power: bool) {
        self.world.crash(member, power);
    }

    /// A member starts.
    pub fn start(&mut self, member: u8) {
        self.world.start(member);
    }

    /// The client host crashes.
    pub fn crash_client(&mut self) {
        self.world.crash_client(self.world.env.current);
    }

    /// The device is opened on another host.
    pub fn open(&mut self) {
        self.world.open(true);
    }

    /// A command of the administrator.
    pub fn command(&mut self, admin: Admin) {
        self.world.command(admin);
    }

    /// Accesses of this member's disk fail with these rates from now on, of no other's.
    pub fn frail(&mut self, member: u8, rates: Rates) {
        self.world.env.frail = Some(member);
        self.world.env.plan.rates = rates;
    }

    // What can be seen.

    /// The newest complete configuration.
    pub fn config(&self) -> Config {
        let config = self.world.env.observer.config();
        config
            .cloned()
            .unwrap_or_else(|| panic!("no configuration"))
    }

    /// In sync by the newest complete configuration.
    pub fn is_in_sync(&self, member: u8) -> bool {
        self.config().in_sync.bits() & rmr_checkers::bit(member) != 0
    }

    /// In sync or catching up by the newest complete configuration.
    pub fn receives(&self, member: u8) -> bool {
        self.config().receivers().bits() & rmr_checkers::bit(member) != 0
    }

    /// Every member is in sync.
    pub fn is_whole(&self) -> bool {
        self.world.env.observer.is_whole()
    }

    /// A member.
    pub fn node(&self, member: u8) -> &Node {
        &self.world.nodes[&member]
    }

    /// The client that should have the device.
    pub fn opening(&self) -> Option<&Client> {
        let client = self.world.clients.get(&self.world.env.current);
        client.map(|client| &**client)
    }

    /// Whether that client serves.
    pub fn is_served(&self) -> bool {
        self.opening().is_some_and(Client::is_serving)
    }

    /// What that client says of itself.
    pub fn state(&self) -> Option<State> {
        self.opening().map(Client::state_now)
    }

    /// What a member's disk holds.
    pub fn held(&self, member: u8, sector: u64) -> u64 {
        self.node(member).value(sector)
    }

    /// Chunks that were pulled so far.
    pub fn pulls(&self) -> u64 {
        self.world.env.figures.pulls
    }
}
