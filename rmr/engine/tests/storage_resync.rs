// SPDX-License-Identifier: GPL-2.0

//! Three members of one pool, with disks in memory, driven by hand in the place of a client: outages, and the resync
//! after them, with writes at any moment.

use proptest::prelude::*;
use rmr_engine::dedupe::Joiners;
use rmr_engine::memory::HostMemory;
use rmr_engine::storage::Action;
use rmr_engine::storage::Event;
use rmr_engine::storage::Member;
use rmr_engine::storage::Out;
use rmr_engine::storage::PeerAnswer;
use rmr_engine::storage::PeerDo;
use rmr_engine::storage::Reader;
use rmr_engine::storage::Serving;
use rmr_engine::storage::Shared;
use rmr_engine::storage::StoreInfo;
use rmr_engine::storage::Verdict;
use rmr_engine::sync::HostLock;
use rmr_engine::time::Nanos;
use rmr_engine::time::Time;
use rmr_engine::time::MILLISECOND;
use rmr_engine::time::SECOND;
use rmr_proto::Ask;
use rmr_proto::BadBlock;
use rmr_proto::Begun;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::Crc32c;
use rmr_proto::DirtyPage;
use rmr_proto::Epoch;
use rmr_proto::EpochRecord;
use rmr_proto::Features;
use rmr_proto::Fences;
use rmr_proto::Flags;
use rmr_proto::Generation;
use rmr_proto::Geometry;
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::Layout;
use rmr_proto::Limits;
use rmr_proto::LogPage;
use rmr_proto::Mark;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Merge;
use rmr_proto::Op;
use rmr_proto::Peer;
use rmr_proto::Progress;
use rmr_proto::Quorum;
use rmr_proto::Request;
use rmr_proto::Run;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Target;
use rmr_proto::UnreadablePage;
use rmr_proto::Uuid;
use rmr_proto::LOG_PAGES;
use rmr_proto::MAX_MEMBERS;
use rmr_proto::REPLY_BYTES;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// A checksum that is good enough for a disk without faults.
struct Crc;

impl Crc32c for Crc {
    fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
        bytes.iter().fold(seed, |crc, byte| {
            crc.rotate_left(5).wrapping_mul(0x0100_0193) ^ u32::from(*byte)
        })
    }
}

type Page = [u8; 4096];
type Common = Shared<HostMemory, HostLock<Joiners<u64>>>;

const POOL: Uuid = Uuid([9; 16]);
const CHUNK: u64 = 1 << 16;
const CHUNKS: u64 = 256;
/// The time from one event to the next.
const STEP: Nanos = 20 * MILLISECOND;
const GENERATION: Generation = Generation {
    number: 1,
    nonce: 1,
};

fn id(of: usize) -> MemberId {
    MemberId::from_index(of).unwrap()
}

fn store(of: usize) -> Uuid {
    Uuid([of as u8 + 1; 16])
}

fn geometry() -> Geometry {
    Geometry::new(CHUNKS * CHUNK, 16).unwrap()
}

/// What a member wants done.
enum Todo {
    Event(Own),
    Serve(Option<Serving>),
    Send(u64, usize, Header, Wanted),
    Close(usize),
    Failed(Status),
    Reply(Status, Vec<Run>, Option<Progress>),
}

/// An event that follows by itself.
enum Own {
    Meta,
    Drained,
    Flushed,
    Written(u64, u64),
}

/// What a member asks another for.
#[derive(Clone)]
enum Wanted {
    Dirty(MemberId, u64),
    Pull(u64, u32),
    Clear(Vec<Run>),
    Begun,
}

struct Queue<'a> {
    pages: &'a mut BTreeMap<u64, Page>,
    todo: VecDeque<Todo>,
    timer: &'a mut Time,
}

impl Out for Queue<'_> {
    fn act(&mut self, action: Action<'_>) {
        self.todo.push_back(match action {
            Action::WriteMeta { offset, bytes } => {
                self.pages.insert(offset, *bytes);
                Todo::Event(Own::Meta)
            }
            Action::AssignPool(pool) => {
                assert_eq!(pool, POOL);
                Todo::Event(Own::Meta)
            }
            Action::Serve(serving) => Todo::Serve(serving),
            Action::Drain => Todo::Event(Own::Drained),
            Action::Flush => Todo::Event(Own::Flushed),
            Action::PullWrite { call, offset, .. } => Todo::Event(Own::Written(call, offset)),
            Action::Reply { reply, .. } => {
                assert!(!reply.suspects.all, "every disk here is whole");
                Todo::Reply(
                    reply.status,
                    reply.suspects.runs.to_vec(),
                    reply.report.as_ref().map(|report| report.progress),
                )
            }
            Action::SendPeer { call, to, message } => {
                let wanted = match message.ask {
                    Ask::FetchDirty { of, page } => Wanted::Dirty(of, page),
                    Ask::Pull { offset, len } => Wanted::Pull(offset, len),
                    Ask::Clear { runs } => Wanted::Clear(runs.to_vec()),
                    Ask::Begun => Wanted::Begun,
                };
                Todo::Send(call, to.index(), message.to, wanted)
            }
            Action::ClosePeer(to) => Todo::Close(to.index()),
            Action::Failed(status) => Todo::Failed(status),
            Action::Timer(at) => {
                *self.timer = at;
                return;
            }
            Action::Retry | Action::LogFull => return,
        });
    }
}

struct Disk<'a>(&'a BTreeMap<u64, Page>);

impl Reader for Disk<'_> {
    fn read(&mut self, offset: u64, page: &mut Page) -> Result<(), Status> {
        *page = self.0.get(&offset).copied().unwrap_or([0; 4096]);
        Ok(())
    }
}

struct Node {
    of: usize,
    pages: BTreeMap<u64, Page>,
    /// A number for each chunk in the place of its content.
    data: Vec<u64>,
    member: Member<HostMemory, Crc>,
    shared: Common,
    serving: Option<Serving>,
    sent: VecDeque<(u64, usize, Header, Wanted)>,
    /// Calls that are not answered, until the connection is closed.
    hung: Vec<(u64, usize)>,
    /// Blocks that its disk cannot read.
    bad: Vec<u64>,
    /// What an answer brought that is being written.
    pulled: BTreeMap<u64, u64>,
    reply: Option<(Status, Vec<Run>, Option<Progress>)>,
    flushes: usize,
    /// What comes of flushes of its disk.
    flushed: Status,
    /// Writes of its metadata, and what comes of them.
    records: usize,
    metadata: Status,
    failed: Option<Status>,
    now: Time,
    /// When it wants to be woken.
    timer: Time,
}

impl Node {
    fn new(of: usize) -> Self {
        let layout = Layout::compute(1 << 40, geometry()).unwrap();
        let mut pages = BTreeMap::new();
        let mut page = [0; 4096];
        for copy in 0..2 {
            for n in 0..LOG_PAGES {
                let at = layout.log_page(n).unwrap()[copy];
                LogPage::encode::<Crc>(store(of), 1, at, [], &mut page).unwrap();
                pages.insert(at.offset, page);
            }
            let at = layout.epoch()[copy];
            let record = EpochRecord::default();
            record.encode::<Crc>(store(of), 1, at, &mut page).unwrap();
            pages.insert(at.offset, page);
        }
        Self::start(of, pages, vec![0; CHUNKS as usize], Uuid::NIL)
    }

    fn start(of: usize, pages: BTreeMap<u64, Page>, data: Vec<u64>, pool: Uuid) -> Self {
        let shared = Shared::new(&HostMemory, geometry(), HostLock::new(Joiners::new())).unwrap();
        let info = StoreInfo {
            pool,
            store: store(of),
            member: id(of),
            layout: Layout::compute(1 << 40, geometry()).unwrap(),
            limits: Limits {
                logical_block: 512,
                physical_block: 4096,
                io_min: 4096,
                io_opt: 0,
                max_write_zeroes: 0,
                features: Features::WRITE_CACHE,
            },
            log_extents: 2,
            salt: 5,
        };
        let member = Member::start(&HostMemory, info, &shared, &mut Disk(&pages)).unwrap();
        let mut node = Self {
            of,
            pages,
            data,
            member,
            shared,
            serving: None,
            sent: VecDeque::new(),
            hung: Vec::new(),
            bad: Vec::new(),
            pulled: BTreeMap::new(),
            reply: None,
            flushes: 0,
            flushed: Status::Ok,
            records: 0,
            metadata: Status::Ok,
            failed: None,
            now: Time(0),
            timer: Time(0),
        };
        node.event(Event::Started);
        node
    }

    fn event(&mut self, event: Event<'_>) {
        self.now = self.now.after(STEP);
        let mut queue = Queue {
            pages: &mut self.pages,
            todo: VecDeque::new(),
            timer: &mut self.timer,
        };
        self.member.event(self.now, event, &self.shared, &mut queue);
        while let Some(todo) = queue.todo.pop_front() {
            let event = match todo {
                Todo::Event(Own::Meta) => {
                    self.records += 1;
                    Event::MetaDone(self.metadata.result())
                }
                Todo::Event(Own::Drained) => Event::Drained,
                Todo::Event(Own::Flushed) => {
                    self.flushes += 1;
                    Event::Flushed(self.flushed.result())
                }
                Todo::Event(Own::Written(call, offset)) => {
                    self.data[(offset / CHUNK) as usize] = self.pulled.remove(&call).unwrap();
                    Event::PullWritten {
                        call,
                        result: Ok(()),
                    }
                }
                Todo::Serve(serving) => {
                    self.serving = serving;
                    continue;
                }
                Todo::Send(call, to, header, wanted) => {
                    self.sent.push_back((call, to, header, wanted));
                    continue;
                }
                Todo::Close(to) => {
                    let Some(at) = self.hung.iter().position(|(_, by)| *by == to) else {
                        continue;
                    };
                    Event::PeerReply {
                        call: self.hung.remove(at).0,
                        result: Err(Status::Disconnected),
                    }
                }
                Todo::Failed(status) => {
                    self.failed = Some(status);
                    continue;
                }
                Todo::Reply(status, suspects, progress) => {
                    self.reply = Some((status, suspects, progress));
                    continue;
                }
            };
            self.member.event(self.now, event, &self.shared, &mut queue);
        }
    }

    fn control(&mut self, message: &Control) -> Status {
        self.reply = None;
        self.event(Event::Control {
            call: 1,
            message,
            other_alive: false,
        });
        self.reply.as_ref().unwrap().0
    }

    fn target(&self) -> Target {
        Target {
            name: "pool".parse().unwrap(),
            pool: self.member.report(&self.shared).pool,
            store: store(self.of),
            member: id(self.of),
            incarnation: self.member.incarnation(),
        }
    }

    fn progress(&self) -> Progress {
        self.member.progress(&self.shared)
    }
}

struct World {
    nodes: Vec<Node>,
    config: Config,
    /// What comes of writes.
    status: Status,
    seq: u64,
    truth: Vec<u64>,
}

impl World {
    fn new(count: usize) -> Self {
        let nodes: Vec<Node> = (0..count).map(Node::new).collect();
        let mut members = [None; MAX_MEMBERS];
        for (of, place) in members.iter_mut().take(count).enumerate() {
            *place = Some(store(of));
        }
        let mut world = Self {
            nodes,
            config: Config {
                generation: GENERATION,
                epoch: Epoch(0),
                in_sync: MemberSet::EMPTY,
                catching_up: MemberSet::EMPTY,
                members,
                incarnations: [Incarnation::NONE; MAX_MEMBERS],
                persisted: [Epoch::NONE; MAX_MEMBERS],
                clean: false,
                history: POOL,
                forked_from: None,
                quorum: Quorum::Off,
                maintenance: MemberSet::EMPTY,
            },
            status: Status::Ok,
            seq: 0,
            truth: vec![0; CHUNKS as usize],
        };
        let all = (0..count).map(id).collect();
        for of in 0..count {
            world.promise(of);
        }
        assert_eq!(world.install(all, MemberSet::EMPTY, all), Status::Ok);
        world
    }

    fn promise(&mut self, of: usize) {
        let to = self.nodes[of].target();
        let promise = Control::Promise {
            to,
            generation: GENERATION,
            fences: Fences::Dead,
        };
        assert_eq!(self.nodes[of].control(&promise), Status::Ok);
    }

    /// Installs on all receivers, those of `joins` with a new episode; stops at the first that refuses.
    fn install(&mut self, in_sync: MemberSet, catching_up: MemberSet, joins: MemberSet) -> Status {
        let mut config = self.config.clone();
        config.epoch = Epoch(config.epoch.0 + 1);
        config.in_sync = in_sync;
        config.catching_up = catching_up;
        for of in config.receivers() {
            config.incarnations[of.index()] = self.nodes[of.index()].member.incarnation();
        }
        // A member that is promoted comes first: it may refuse.
        let promoted = in_sync.intersection(self.config.catching_up);
        let order = promoted
            .iter()
            .chain(config.receivers().minus(promoted).iter());
        for of in order {
            let node = &mut self.nodes[of.index()];
            let mut to = node.target();
            let assign = to.pool.is_nil();
            to.pool = POOL;
            let install = Control::Install {
                to,
                config: config.clone(),
                assign,
                joins: joins.contains(of),
                discard: false,
            };
            let status = node.control(&install);
            if !status.is_ok() {
                return status;
            }
        }
        self.config = config;
        Status::Ok
    }

    /// A write that all receivers execute. The chunk's number is that of the write.
    fn write(&mut self, chunk: u64) {
        self.seq += 1;
        for of in self.config.receivers() {
            self.write_on(of.index(), chunk);
        }
        self.truth[chunk as usize] = self.seq;
    }

    fn write_on(&mut self, of: usize, chunk: u64) {
        for _ in 0..10 {
            if self.try_on(of, chunk) {
                return;
            }
            self.nodes[of].event(Event::Waiting);
        }
        panic!("the write waits for ever");
    }

    /// Gives a member a write once; `false` if it has to wait.
    fn try_on(&mut self, of: usize, chunk: u64) -> bool {
        let node = &mut self.nodes[of];
        let header = Header {
            pool: POOL,
            member: id(of),
            incarnation: node.member.incarnation(),
            generation: GENERATION,
            epoch: self.config.epoch,
            watermark: Seq(self.seq - 1),
        };
        let request = Request {
            op: Op::Write,
            flags: Flags::EMPTY,
            seq: Seq(self.seq),
            offset: chunk * CHUNK,
            len: 4096,
            data_offset: 0,
        };
        let serving = node.serving.unwrap();
        let verdict = node
            .shared
            .write(&serving, &header, &request, 1, |_| panic!("nobody joined"));
        match verdict {
            Verdict::Execute => {
                node.data[chunk as usize] = self.seq;
                node.shared
                    .finish(&request, self.status, |_: u64| panic!("nobody joined"))
            }
            Verdict::Wait => false,
            Verdict::Done(Status::Ok) => true,
            other => panic!("{other:?}"),
        }
    }

    /// Answers what a member asks others for, one thing; `false` if it asks for nothing.
    fn answer(&mut self, of: usize) -> bool {
        let Some((call, to, header, wanted)) = self.nodes[of].sent.pop_front() else {
            self.nodes[of].event(Event::Timer);
            return !self.nodes[of].sent.is_empty();
        };
        let runs = match &wanted {
            Wanted::Clear(runs) => runs.clone(),
            _ => Vec::new(),
        };
        let ask = match wanted {
            Wanted::Dirty(of, page) => Ask::FetchDirty { of, page },
            Wanted::Pull(offset, len) => Ask::Pull { offset, len },
            Wanted::Clear(_) => Ask::Clear { runs: &runs },
            Wanted::Begun => Ask::Begun,
        };
        let peer = Peer {
            to: header,
            from: id(of),
            ask,
        };
        let source = &mut self.nodes[to];
        match source.member.peer(&peer, &source.shared) {
            Err(status) => self.nodes[of].event(Event::PeerReply {
                call,
                result: Err(status),
            }),
            Ok(PeerDo::Page { of: whose, page }) => {
                let mut buffer = [0; REPLY_BYTES];
                let words: Vec<u64> = source.shared.page(whose, page).collect();
                let bytes = DirtyPage::encode::<Crc>(whose, page, words, &mut buffer).unwrap();
                let page = DirtyPage::parse::<Crc>(bytes).unwrap();
                self.nodes[of].event(Event::PeerReply {
                    call,
                    result: Ok(PeerAnswer::Page(page)),
                });
            }
            Ok(PeerDo::Read { offset, len })
                if source
                    .bad
                    .iter()
                    .any(|bad| (offset..offset + u64::from(len)).contains(&(bad * 4096))) =>
            {
                self.nodes[of].event(Event::PeerReply {
                    call,
                    result: Err(Status::Medium),
                });
            }
            Ok(PeerDo::Read { offset, .. }) => {
                let value = source.data[(offset / CHUNK) as usize];
                self.nodes[of].pulled.insert(call, value);
                self.nodes[of].event(Event::PeerReply {
                    call,
                    result: Ok(PeerAnswer::Data),
                });
            }
            Ok(PeerDo::Begun(begun)) => self.nodes[of].event(Event::PeerReply {
                call,
                result: Ok(PeerAnswer::Begun(begun)),
            }),
            Ok(PeerDo::Done) => self.nodes[of].event(Event::PeerReply {
                call,
                result: Ok(PeerAnswer::Done),
            }),
        }
        true
    }

    /// What comes of a read of a block.
    fn read(&self, of: usize, block: u64) -> Result<(), Status> {
        let node = &self.nodes[of];
        let header = Header {
            pool: POOL,
            member: id(of),
            incarnation: node.member.incarnation(),
            generation: GENERATION,
            epoch: self.config.epoch,
            watermark: Seq(self.seq),
        };
        let request = Request {
            op: Op::Read,
            flags: Flags::EMPTY,
            seq: Seq::NONE,
            offset: block * 4096 + 512,
            len: 1024,
            data_offset: 0,
        };
        node.shared.read(&node.serving.unwrap(), &header, &request)
    }

    /// Takes a member back, and puts it in sync.
    fn take_back(&mut self, of: usize) {
        let (rest, nobody) = (self.others(of), MemberSet::EMPTY);
        self.promise(of);
        let back = MemberSet::only(id(of));
        assert_eq!(self.install(rest, back, back), Status::Ok);
        self.ping(of);
        self.catch_up(of);
        assert_eq!(self.install(rest.with(id(of)), nobody, nobody), Status::Ok);
    }

    /// Answers a member until it has everything.
    fn catch_up(&mut self, of: usize) {
        for _ in 0..10_000 {
            if !self.answer(of) && self.nodes[of].progress() == Progress::Ready {
                return;
            }
        }
        panic!("it does not get everything");
    }

    /// A member crashes, and is absent.
    fn crash(&mut self, of: usize) {
        let node = self.nodes.remove(of);
        let node = Node::start(of, node.pages, node.data, POOL);
        self.nodes.insert(of, node);
        let (rest, nobody) = (self.others(of), MemberSet::EMPTY);
        assert_eq!(self.install(rest, nobody, nobody), Status::Ok);
    }

    /// The members but these.
    fn others(&self, of: usize) -> MemberSet {
        self.config.table().without(id(of))
    }

    /// The client tells a member that it missed chunk 0.
    fn mark(&mut self, of: usize) {
        let node = &mut self.nodes[of];
        let marks = &[Mark::new(Run::new(0, 1), MemberSet::only(id(of)))];
        let message = &Merge {
            to: node.target(),
            generation: GENERATION,
            marks,
        };
        node.event(Event::Merge { call: 1, message });
    }

    fn ping(&mut self, of: usize) {
        let node = &mut self.nodes[of];
        let ping = Control::Ping {
            to: node.target(),
            generation: GENERATION,
            epoch: self.config.epoch,
            watermark: Seq(self.seq),
        };
        assert_eq!(node.control(&ping), Status::Ok);
    }
}

#[test]
fn an_outage_and_its_resync() {
    let mut world = World::new(3);
    for chunk in 0..CHUNKS {
        world.write(chunk);
    }
    // Member 3 is away.
    let rest = world.others(2);
    assert_eq!(
        world.install(rest, MemberSet::EMPTY, MemberSet::EMPTY),
        Status::Ok
    );
    for chunk in (0..CHUNKS).step_by(3) {
        world.write(chunk);
    }
    world.promise(2);
    let back = MemberSet::only(id(2));
    assert_eq!(world.install(rest, back, back), Status::Ok);
    assert_eq!(world.nodes[2].progress(), Progress::Unknown);
    let all = rest.with(id(2));
    let nobody = MemberSet::EMPTY;
    assert_eq!(world.install(all, nobody, nobody), Status::NotReady);
    world.ping(2);
    let mut rates = 0;
    while world.answer(2) {
        if let Progress::Dirty { chunks, rate } = world.nodes[2].progress() {
            assert!(chunks <= CHUNKS);
            rates += usize::from(rate > 0);
        }
    }
    assert!(rates > 0);
    assert_eq!(world.nodes[2].progress(), Progress::Ready);
    assert_eq!(world.nodes[2].data, world.truth);
    // What it wrote besides is stable, too, before it is in sync.
    let flushes = world.nodes[2].flushes;
    assert_eq!(world.install(all, nobody, nobody), Status::Ok);
    assert_eq!(world.nodes[2].flushes, flushes + 1);
    for node in &world.nodes {
        assert!((0..CHUNKS).all(|chunk| !node.shared.dirty(id(2), chunk)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Writes come between any two steps of the resync, the source restarts of the member too.
    #[test]
    fn writes_during_resync(
        missed in prop::collection::vec(0..CHUNKS, 0..200),
        steps in prop::collection::vec((0u32..4, 0..CHUNKS), 0..400),
        restart: bool,
    ) {
        let mut world = World::new(3);
        for chunk in 0..CHUNKS {
            world.write(chunk);
        }
        let rest = world.others(2);
        let (back, nobody) = (MemberSet::only(id(2)), MemberSet::EMPTY);
        prop_assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
        for chunk in missed {
            world.write(chunk);
        }
        if restart {
            let old = world.nodes.pop().unwrap();
            world.nodes.push(Node::start(2, old.pages, old.data, POOL));
        }
        world.promise(2);
        prop_assert_eq!(world.install(rest, back, back), Status::Ok);
        for (what, chunk) in steps {
            match what {
                0 => world.write(chunk),
                1 => world.ping(2),
                _ => {
                    world.answer(2);
                }
            }
        }
        world.ping(2);
        world.catch_up(2);
        prop_assert_eq!(&world.nodes[2].data, &world.truth);
        prop_assert_eq!(world.install(rest.with(id(2)), nobody, nobody), Status::Ok);
    }
}

/// A member that was away while every chunk was written, and is back.
fn behind() -> World {
    let mut world = World::new(2);
    let (back, nobody) = (MemberSet::only(id(1)), MemberSet::EMPTY);
    let rest = world.others(1);
    assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
    for chunk in 0..CHUNKS {
        world.write(chunk);
    }
    world.promise(1);
    assert_eq!(world.install(rest, back, back), Status::Ok);
    world
}

/// What is on its way when resync is paused is used, and nothing more comes until it goes on.
#[test]
fn paused() {
    let mut world = behind();
    let dirty = |world: &World| {
        let chunks = (0..CHUNKS).filter(|chunk| world.nodes[1].shared.dirty(id(1), *chunk));
        chunks.count()
    };
    while dirty(&world) == CHUNKS as usize {
        world.answer(1);
    }
    world.nodes[1].shared.pause_resync(true);
    world.nodes[1].event(Event::Heard);
    for _ in 0..200 {
        world.answer(1);
    }
    let left = dirty(&world);
    assert!(left > 0 && world.nodes[1].sent.is_empty());
    // Writes come through, and wait for nothing.
    (0..100).for_each(|_| world.write(CHUNKS - 1));
    world.ping(1);
    assert!((0..200).all(|_| !world.answer(1)));
    assert_eq!(dirty(&world), left);
    world.nodes[1].shared.pause_resync(false);
    world.nodes[1].event(Event::Heard);
    world.catch_up(1);
    assert_eq!(world.nodes[1].data, world.truth);
}

#[test]
fn application_writes_have_precedence() {
    let mut world = behind();
    let mut most = (0, 0);
    let mut flushes = 0;
    for step in 0..400 {
        // The application writes at first, and then pauses.
        let writes = step < 200;
        if writes {
            world.write(CHUNKS - 1);
        }
        world.answer(1);
        let pulls = |node: &Node| {
            node.sent
                .iter()
                .filter(|sent| matches!(sent.3, Wanted::Pull(..)))
                .count()
        };
        let most = if writes { &mut most.0 } else { &mut most.1 };
        *most = pulls(&world.nodes[1]).max(*most);
        flushes += std::mem::take(&mut world.nodes[1].flushes);
        if step == 199 {
            assert!(flushes < 20, "{flushes}");
            // There is a floor: half of the answers at least were chunks.
            let left = (0..CHUNKS).filter(|chunk| world.nodes[1].shared.dirty(id(1), *chunk));
            assert!(left.count() as u64 <= CHUNKS - 50);
        }
    }
    assert_eq!(most.0, 1);
    assert!(most.1 > 1);
}

/// Reads that a source serves have precedence, too: it says so when it is asked what it has begun.
#[test]
fn application_reads_have_precedence() {
    let mut world = behind();
    world.ping(1);
    let pulls = |node: &Node| {
        let sent = node.sent.iter();
        sent.filter(|sent| matches!(sent.3, Wanted::Pull(..)))
            .count()
    };
    // The most that were on their way: until the first answer, until the second one (but not those sent before), and then.
    let mut most = [0; 3];
    let (mut answers, mut left) = (0, 0);
    while world.nodes[1].progress() != Progress::Ready {
        if answers == 0 {
            assert_eq!(world.read(0, 0), Ok(()));
        }
        let asked = matches!(world.nodes[1].sent.front(), Some((.., Wanted::Begun)));
        world.answer(1);
        let now = pulls(&world.nodes[1]);
        if asked {
            answers += 1;
            left = now;
        }
        left = left.min(now);
        let part = answers.min(2);
        if part != 1 || left <= 1 {
            most[part] = now.max(most[part]);
        }
    }
    assert!(answers > 2);
    assert!(most[0] > 1 && most[2] > 1, "{most:?}");
    assert_eq!(most[1], 1, "{most:?}");
    assert_eq!(world.nodes[1].data, world.truth);
}

/// A source that does not answer, for example as its disk hangs, costs time, and nothing else (R17).
#[test]
fn a_source_that_hangs() {
    let mut world = behind();
    world.ping(1);
    for pull in [false, true] {
        let (call, to) = loop {
            match world.nodes[1].sent.front() {
                Some((call, to, _, Wanted::Pull(..))) if pull => break (*call, *to),
                Some((call, to, _, Wanted::Dirty(..))) if !pull => break (*call, *to),
                _ => world.answer(1),
            };
        };
        let node = &mut world.nodes[1];
        node.sent.pop_front();
        node.hung.push((call, to));
        while !world.nodes[1].hung.is_empty() {
            world.answer(1);
        }
    }
    for _ in 0..1000 {
        world.answer(1);
    }
    assert_eq!(world.nodes[1].progress(), Progress::Ready);
    assert_eq!(world.nodes[1].data, world.truth);
}

/// After an error it goes on at the time that it said, without any other event.
#[test]
fn an_error_and_then_a_timer() {
    let mut world = behind();
    let node = &mut world.nodes[1];
    for errors in 1..=20 {
        let (call, ..) = node.sent.pop_front().unwrap();
        node.event(Event::PeerReply {
            call,
            result: Err(Status::Busy),
        });
        assert!(node.sent.is_empty());
        let pause = node.timer.since(node.now);
        assert!((1..=SECOND).contains(&pause), "{errors}: {pause}");
        // An event takes a step of time.
        node.now = Time(node.timer.0 - STEP);
        node.event(Event::Timer);
    }
    world.ping(1);
    world.catch_up(1);
}

/// A chunk that is written during each pull of it comes through all the same, as writes to it wait a moment in the end.
#[test]
fn a_chunk_that_is_always_written() {
    let mut world = World::new(2);
    let (rest, back) = (world.others(1), MemberSet::only(id(1)));
    let nobody = MemberSet::EMPTY;
    assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
    world.write(7);
    world.promise(1);
    assert_eq!(world.install(rest, back, back), Status::Ok);
    // So that no write waits for the activity log.
    world.write(7);
    for vain in 0..100 {
        world.ping(1);
        while !matches!(world.nodes[1].sent.front(), Some((.., Wanted::Pull(..)))) {
            world.answer(1);
        }
        world.seq += 1;
        world.write_on(0, 7);
        let waits = !world.try_on(1, 7);
        world.answer(1);
        if waits {
            world.write_on(1, 7);
            world.truth[7] = world.seq;
            world.ping(1);
            world.catch_up(1);
            assert_eq!(world.nodes[1].data, world.truth);
            // Not at once: looking at it before the watermark is there counts, too.
            assert!((4..=16).contains(&vain), "{vain}");
            return;
        }
        assert!(world.nodes[1].shared.dirty(id(1), 7));
    }
    panic!("it starves");
}

/// All that is asked for together fails, for long: each member is asked again and again, the one that can answer in the end, too.
#[test]
fn every_source_has_its_turn() {
    let mut world = World::new(5);
    let one = MemberSet::only(id(0));
    let nobody = MemberSet::EMPTY;
    assert_eq!(world.install(one, nobody, nobody), Status::Ok);
    for chunk in 0..20 {
        world.write(chunk);
    }
    (1..5).for_each(|of| world.promise(of));
    let back = world.others(0);
    assert_eq!(world.install(one, back, back), Status::Ok);
    world.ping(1);
    let mut asked = [0; 5];
    for round in 0..2000 {
        match world.nodes[1].sent.front() {
            Some((call, to, _, Wanted::Pull(..))) if round < 1000 => {
                let (call, to) = (*call, *to);
                asked[to] += 1;
                if asked[0] == 1 {
                    world.answer(1);
                    continue;
                }
                world.nodes[1].sent.pop_front();
                let result = Err(Status::Io);
                world.nodes[1].event(Event::PeerReply { call, result });
            }
            _ => {
                world.answer(1);
            }
        }
    }
    assert_eq!(world.nodes[1].progress(), Progress::Ready);
    assert!([0, 2, 3, 4].iter().all(|&of| asked[of] > 2), "{asked:?}");
}

/// Its host may have restarted without a loss of power: the disk still has in its cache what it wrote before.
#[test]
fn a_promise_is_stable_after_a_restart() {
    let mut world = World::new(2);
    world.write(7);
    let old = world.nodes.pop().unwrap();
    let node = Node::start(1, old.pages, old.data, POOL);
    assert_eq!(node.flushes, 0);
    world.nodes.push(node);
    world.promise(1);
    assert_eq!(world.nodes[1].flushes, 1);
}

/// Bits that no Clear took away are gone when their member is in sync: nobody looks at them, but they would count when
/// it is dropped again.
#[test]
fn in_sync_means_no_bits() {
    let mut world = World::new(2);
    let (one, both) = (MemberSet::only(id(0)), [id(0), id(1)].into_iter().collect());
    assert_eq!(
        world.install(one, MemberSet::EMPTY, MemberSet::EMPTY),
        Status::Ok
    );
    world.write(7);
    assert!(world.nodes[0].shared.dirty(id(1), 7));
    world.promise(1);
    let joins = MemberSet::only(id(1));
    assert_eq!(world.install(both, MemberSet::EMPTY, joins), Status::Ok);
    assert!(!world.nodes[0].shared.dirty(id(1), 7));
}

/// Who is meant is said by pool, store, number and incarnation (R10).
#[test]
fn somebody_else_is_meant() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    let right = node.target();
    let (pool, store, member) = (Uuid([1; 16]), store(1), id(1));
    let incarnation = right.incarnation.after(1).unwrap();
    for (to, status) in [
        (Target { pool, ..right }, Status::WrongUuid),
        (Target { store, ..right }, Status::WrongUuid),
        (Target { member, ..right }, Status::WrongMember),
        (
            Target {
                incarnation,
                ..right
            },
            Status::StaleIncarnation,
        ),
        (right, Status::Ok),
    ] {
        let promise = Control::Promise {
            to,
            generation: GENERATION,
            fences: Fences::Dead,
        };
        assert_eq!(node.control(&promise), status);
    }
}

/// Late copies, and what no client sends: refused, and nothing changes.
#[test]
fn what_is_not_for_a_member() {
    let mut world = World::new(2);
    let config = world.config.clone();
    let node = &mut world.nodes[0];
    let to = node.target();
    let mut ask = |message: &Control, other_alive: bool| {
        node.reply = None;
        node.event(Event::Control {
            call: 1,
            message,
            other_alive,
        });
        assert!(node.serving.is_some() || node.reply.as_ref().unwrap().0.is_ok());
        node.reply.as_ref().unwrap().0
    };
    let promise = |number: u64, nonce: u64, fences: Fences| Control::Promise {
        to,
        generation: Generation { number, nonce },
        fences,
    };
    assert_eq!(ask(&promise(2, 2, Fences::Dead), true), Status::InUse);
    for (number, nonce, fences) in [
        (1, 2, Fences::Alive),
        (2, 2, Fences::Nobody),
        (0, 1, Fences::Nobody),
    ] {
        let status = ask(&promise(number, nonce, fences), false);
        assert_eq!(status, Status::StaleGeneration, "{number} {nonce}");
    }
    let detach = |nonce: u64, epoch: u64| Control::Detach {
        to,
        generation: Generation { number: 1, nonce },
        epoch: Epoch(epoch),
        watermark: Seq::NONE,
    };
    assert_eq!(ask(&detach(2, 1), false), Status::StaleGeneration);
    assert_eq!(ask(&detach(1, 0), false), Status::StaleEpoch);
    assert_eq!(ask(&detach(1, 2), false), Status::InstallFirst);
    let install = |joins: bool, change: &dyn Fn(&mut Config)| {
        let mut config = config.clone();
        config.epoch = Epoch(2);
        change(&mut config);
        Control::Install {
            to,
            config,
            assign: false,
            joins,
            discard: false,
        }
    };
    let behind = |config: &mut Config| {
        config.in_sync = MemberSet::only(id(1));
        config.catching_up = MemberSet::only(id(0));
    };
    for (message, status) in [
        (install(false, &|c| c.clean = true), Status::Invalid),
        (
            install(false, &|c| c.in_sync = MemberSet::EMPTY),
            Status::Invalid,
        ),
        (install(false, &behind), Status::Invalid),
        (
            install(true, &|c| c.in_sync = MemberSet::only(id(1))),
            Status::Invalid,
        ),
        (
            install(false, &|c| c.members[0] = Some(Uuid([7; 16]))),
            Status::WrongMember,
        ),
        (
            install(false, &|c| c.incarnations[0] = Incarnation(1 << 40)),
            Status::StaleIncarnation,
        ),
        (
            install(false, &|c| c.history = Uuid([7; 16])),
            Status::Diverged,
        ),
        (
            install(false, &|c| {
                (c.epoch, c.in_sync) = (Epoch(1), MemberSet::only(id(1)));
            }),
            Status::StaleEpoch,
        ),
        (install(false, &|_| ()), Status::Ok),
        (detach(1, 2), Status::Ok),
        (detach(1, 2), Status::Ok),
    ] {
        assert_eq!(ask(&message, false), status, "{message:?}");
    }
    // It has left; that was asked twice.
    assert!(world.nodes[0].serving.is_none());
}

/// A client has one change under way. It waits for what the member does by itself, and no other one waits with it.
#[test]
fn one_change_at_a_time() {
    let mut world = World::new(2);
    let node = &mut world.nodes[1];
    let to = node.target();
    let mut queue = Queue {
        pages: &mut node.pages,
        todo: VecDeque::new(),
        timer: &mut node.timer,
    };
    let marks = &[Mark::new(Run::new(1, 1), MemberSet::only(id(0)))];
    let merge = Merge {
        to,
        generation: GENERATION,
        marks,
    };
    let promise = Control::Promise {
        to,
        generation: Generation {
            number: 2,
            nonce: 1,
        },
        fences: Fences::Alive,
    };
    let ask = |call: u64| Event::Control {
        call,
        message: &promise,
        other_alive: false,
    };
    let (member, shared, now) = (&mut node.member, &node.shared, node.now);
    // Nothing that the member wants done is done, before it is said.
    let message = &merge;
    member.event(now, Event::Merge { call: 1, message }, shared, &mut queue);
    assert!(matches!(
        queue.todo.pop_front(),
        Some(Todo::Event(Own::Meta))
    ));
    member.event(now, ask(2), shared, &mut queue);
    assert!(queue.todo.is_empty());
    member.event(now, ask(3), shared, &mut queue);
    let busy = |todo: Option<Todo>| matches!(todo, Some(Todo::Reply(Status::Busy, ..)));
    assert!(busy(queue.todo.pop_front()));
    // Nor does anything overtake the promise.
    let marks = |call: u64| Event::Merge { call, message };
    member.event(now, marks(5), shared, &mut queue);
    assert!(busy(queue.todo.pop_front()));
    // Now the promise is under way.
    let drains = |todo: Todo| matches!(todo, Todo::Event(Own::Drained));
    let mut written = 0;
    while !queue.todo.drain(..).any(drains) {
        written += 1;
        assert!(written < 10, "what waits is not begun");
        member.event(now, Event::MetaDone(Ok(())), shared, &mut queue);
    }
    member.event(now, ask(4), shared, &mut queue);
    assert!(busy(queue.todo.pop_front()));
    member.event(now, marks(6), shared, &mut queue);
    assert!(busy(queue.todo.pop_front()));
}

/// A promise is not stable before what was pulled is written.
#[test]
fn a_promise_waits_for_what_was_pulled() {
    let mut world = behind();
    let asked = |world: &World| {
        let wanted = world.nodes[1].sent.front();
        wanted.is_some_and(|(.., wanted)| matches!(wanted, Wanted::Pull(..)))
    };
    while !asked(&world) {
        world.answer(1);
    }
    let node = &mut world.nodes[1];
    let to = node.target();
    let (call, ..) = node.sent.pop_front().unwrap();
    let mut queue = Queue {
        pages: &mut node.pages,
        todo: VecDeque::new(),
        timer: &mut node.timer,
    };
    let (member, shared, now) = (&mut node.member, &node.shared, node.now);
    let result = Ok(PeerAnswer::Data);
    member.event(now, Event::PeerReply { call, result }, shared, &mut queue);
    let written = queue.todo.drain(..).find_map(|todo| match todo {
        Todo::Event(Own::Written(call, _)) => Some(call),
        _ => None,
    });
    let call = written.expect("it is written");
    let message = &Control::Promise {
        to,
        generation: Generation {
            number: 2,
            nonce: 1,
        },
        fences: Fences::Alive,
    };
    let ask = Event::Control {
        call: 1,
        message,
        other_alive: false,
    };
    member.event(now, ask, shared, &mut queue);
    let drains = |todo: Todo| matches!(todo, Todo::Event(Own::Drained));
    assert!(queue.todo.drain(..).any(drains));
    let flushes = |todo: Todo| matches!(todo, Todo::Event(Own::Flushed));
    member.event(now, Event::Drained, shared, &mut queue);
    assert!(!queue.todo.drain(..).any(flushes), "it is being written");
    let result = Ok(());
    member.event(now, Event::PullWritten { call, result }, shared, &mut queue);
    assert!(queue.todo.drain(..).any(flushes));
}

/// Requests are refused while a promise is under way, but not while what they were sent under is being installed: soon they are not
/// too new.
#[test]
fn requests_during_a_change() {
    let mut world = World::new(2);
    let mut config = world.config.clone();
    config.epoch = Epoch(2);
    let node = &mut world.nodes[1];
    let to = node.target();
    let header = Header {
        pool: POOL,
        member: id(1),
        incarnation: node.member.incarnation(),
        generation: GENERATION,
        epoch: Epoch(2),
        watermark: Seq::NONE,
    };
    let install = Control::Install {
        to,
        config,
        assign: false,
        joins: true,
        discard: false,
    };
    let promise = Control::Promise {
        to,
        generation: GENERATION,
        fences: Fences::Alive,
    };
    for (message, refused) in [(&promise, Some(Status::InstallFirst)), (&install, None)] {
        let mut queue = Queue {
            pages: &mut node.pages,
            todo: VecDeque::new(),
            timer: &mut node.timer,
        };
        let ask = Event::Control {
            call: 1,
            message,
            other_alive: false,
        };
        let (member, shared, now) = (&mut node.member, &node.shared, node.now);
        member.event(now, ask, shared, &mut queue);
        assert_eq!(member.not_serving(&header), refused);
        // It goes on to its end.
        while let Some(todo) = queue.todo.pop_front() {
            let event = match todo {
                Todo::Event(Own::Meta) => Event::MetaDone(Ok(())),
                Todo::Event(Own::Drained) => Event::Drained,
                Todo::Event(Own::Flushed) => Event::Flushed(Ok(())),
                _ => continue,
            };
            member.event(now, event, shared, &mut queue);
        }
    }
}

/// A store belongs to the pool that it was given, and is given one once.
#[test]
fn a_pool_is_given_once() {
    let mut world = World::new(1);
    let mut config = world.config.clone();
    config.epoch = Epoch(2);
    let install = |to: Target, pool: Uuid, assign: bool| Control::Install {
        to: Target { pool, ..to },
        config: config.clone(),
        assign,
        joins: false,
        discard: false,
    };
    let node = &mut world.nodes[0];
    let other = install(node.target(), Uuid([1; 16]), true);
    assert_eq!(node.control(&other), Status::WrongUuid);
    let mut new = Node::new(0);
    let unasked = install(new.target(), POOL, false);
    assert_eq!(new.control(&unasked), Status::WrongUuid);
}

/// Who may have lost what it acknowledged, or was started since, does not say that all was well.
#[test]
fn who_cannot_leave_in_order() {
    let detach = |world: &mut World| {
        let detach = Control::Detach {
            to: world.nodes[1].target(),
            generation: GENERATION,
            epoch: world.config.epoch,
            watermark: Seq(world.seq),
        };
        world.nodes[1].control(&detach)
    };
    let mut world = World::new(2);
    world.status = Status::Medium;
    world.write(7);
    assert_eq!(detach(&mut world), Status::WrongState);
    let mut world = World::new(2);
    let old = world.nodes.pop().unwrap();
    let node = Node::start(1, old.pages, old.data, POOL);
    world.nodes.push(node);
    assert_eq!(detach(&mut world), Status::WrongState);
    let mut world = World::new(2);
    assert_eq!(detach(&mut world), Status::Ok);
}

/// What a member tells another depends on who asks, and on what it knows itself.
#[test]
fn what_other_members_may_ask() {
    let mut world = World::new(3);
    (0..10).for_each(|chunk| world.write(chunk));
    let (rest, nobody) = (world.others(2), MemberSet::EMPTY);
    assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
    world.write(7);
    world.promise(2);
    let back = MemberSet::only(id(2));
    assert_eq!(world.install(rest, back, back), Status::Ok);
    let ask = |world: &mut World, to: usize, from: usize, epoch: u64, ask: Ask<'_>| {
        let to = &mut world.nodes[to];
        let header = Header {
            pool: POOL,
            member: id(to.of),
            incarnation: to.member.incarnation(),
            generation: GENERATION,
            epoch: Epoch(epoch),
            watermark: Seq::NONE,
        };
        let (to, shared) = (&mut to.member, &to.shared);
        to.peer(
            &Peer {
                to: header,
                from: id(from),
                ask,
            },
            shared,
        )
    };
    let epoch = world.config.epoch.0;
    let dirty = |page: u64| Ask::FetchDirty { of: id(2), page };
    let pull = |chunk: u64| Ask::Pull {
        offset: chunk * CHUNK,
        len: 4096,
    };
    let (page, of) = (0, id(2));
    let there = Ok(PeerDo::Page { of, page });
    assert_eq!(ask(&mut world, 0, 2, epoch, dirty(0)), there);
    for (from, epoch, page, status) in [
        (2, epoch, 1, Status::OutOfRange),
        (2, epoch - 1, 0, Status::StaleEpoch),
        (2, epoch + 1, 0, Status::InstallFirst),
        (0, epoch, 0, Status::Invalid),
        (9, epoch, 0, Status::Invalid),
    ] {
        assert_eq!(ask(&mut world, 0, from, epoch, dirty(page)), Err(status));
    }
    // It does not know yet what it missed.
    assert!(world.nodes[2].member.needs_fetch() && !world.nodes[0].member.needs_fetch());
    let not_ready = Err(Status::NotReady);
    assert_eq!(ask(&mut world, 2, 0, epoch, dirty(0)), not_ready);
    assert_eq!(ask(&mut world, 2, 0, epoch, pull(8)), Err(Status::Dirty));
    world.ping(2);
    while world.nodes[2].member.needs_fetch() {
        world.answer(2);
    }
    assert_eq!(ask(&mut world, 2, 0, epoch, pull(7)), Err(Status::Dirty));
    let read = |chunk: u64| {
        let (offset, len) = (chunk * CHUNK, 4096);
        Ok(PeerDo::Read { offset, len })
    };
    assert_eq!(ask(&mut world, 2, 0, epoch, pull(8)), read(8));
    assert_eq!(ask(&mut world, 0, 2, epoch, pull(7)), read(7));
    let behind = ask(&mut world, 0, 2, epoch, pull(CHUNKS));
    assert_eq!(behind, Err(Status::OutOfRange));
    // Each member is told once that clients read, also if another one asked before.
    let is_read = |world: &mut World, from: usize| match ask(world, 0, from, epoch, Ask::Begun) {
        Ok(PeerDo::Begun(begun)) => begun.reads,
        other => panic!("{other:?}"),
    };
    for expected in [false, true] {
        if expected {
            assert_eq!(world.read(0, 7), Ok(()));
        }
        assert_eq!(is_read(&mut world, 2), expected);
        assert_eq!(is_read(&mut world, 1), expected);
        assert!(!is_read(&mut world, 2) && !is_read(&mut world, 1));
    }
    // Only who is catching up says what of its copy is right again.
    let run = |first: u64, end: u64| [Run::new(first, (end - first) as u32)];
    for (from, first, end, result) in [
        (1, 7, 8, Err(Status::Invalid)),
        (2, 7, CHUNKS + 1, Err(Status::OutOfRange)),
        (2, 8, CHUNKS, Ok(PeerDo::Done)),
    ] {
        let runs = &run(first, end);
        let clear = Ask::Clear { runs };
        assert_eq!(ask(&mut world, 0, from, epoch, clear), result);
        assert!(world.nodes[0].shared.dirty(id(2), 7));
    }
    let runs = &run(7, 8);
    let done = ask(&mut world, 0, 2, epoch, Ask::Clear { runs });
    assert_eq!(done, Ok(PeerDo::Done));
    assert!(!world.nodes[0].shared.dirty(id(2), 7));
}

/// R14: the writes above the watermark; after a crash all that is in the log.
#[test]
fn what_a_promise_reports() {
    let mut world = World::new(2);
    world.write(3);
    world.write(70);
    let reported = |world: &World| world.nodes[1].reply.as_ref().unwrap().1.clone();
    let suspect = |world: &World| -> Vec<u64> {
        let node = &world.nodes[1];
        (0..CHUNKS)
            .filter(|chunk| node.member.suspect(&node.shared, *chunk))
            .collect()
    };
    let query = Control::Query {
        name: "pool".parse().unwrap(),
    };
    assert_eq!(world.nodes[1].control(&query), Status::Ok);
    assert_eq!(reported(&world), []);
    world.promise(1);
    assert_eq!(reported(&world), [Run::new(70, 1)]);
    assert_eq!(suspect(&world), [70]);
    world.crash(1);
    world.promise(1);
    assert_eq!(reported(&world), [Run::new(0, 64), Run::new(64, 64)]);
    assert_eq!(suspect(&world), (0..128).collect::<Vec<_>>());
    // Who carried them elsewhere installs it. It does not count on what it has of them itself.
    let (rest, back) = (world.others(1), MemberSet::only(id(1)));
    assert_eq!(world.install(rest, back, back), Status::Ok);
    let node = &world.nodes[1];
    assert!((0..CHUNKS).all(|chunk| node.shared.dirty(id(1), chunk) == (chunk < 128)));
    world.ping(1);
    assert_eq!(reported(&world), []);
    world.promise(1);
    assert_eq!(reported(&world), []);
}

/// Of a log of which something is missing nobody knows what else is suspect: all is, until a configuration carries that. One
/// that only says that the member is out does not.
#[test]
fn a_damaged_log() {
    let mut world = World::new(2);
    world.write(7);
    let mut old = world.nodes.pop().unwrap();
    let layout = Layout::compute(1 << 40, geometry()).unwrap();
    let [copy, _] = layout.log_page(0).unwrap();
    old.pages.insert(copy.offset, [0xff; 4096]);
    let node = Node::start(1, old.pages, old.data, POOL);
    world.nodes.push(node);
    let suspect = |world: &World| {
        let node = &world.nodes[1];
        node.member.suspect(&node.shared, CHUNKS - 1)
    };
    assert!(suspect(&world));
    let (rest, nobody) = (world.others(1), MemberSet::EMPTY);
    assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
    let out = Control::Install {
        to: world.nodes[1].target(),
        config: world.config.clone(),
        assign: false,
        joins: false,
        discard: false,
    };
    assert_eq!(world.nodes[1].control(&out), Status::Ok);
    assert!(suspect(&world));
    let back = MemberSet::only(id(1));
    assert_eq!(world.install(rest, back, back), Status::Ok);
    assert!(!suspect(&world));
}

/// What a member cannot write down it has not promised; it answers all with an error until it is started again.
#[test]
fn metadata_that_cannot_be_written() {
    let mut world = World::new(2);
    let target = world.nodes[1].target();
    let node = &mut world.nodes[1];
    node.metadata = Status::Medium;
    let promise = Control::Promise {
        to: target,
        generation: Generation {
            number: 2,
            nonce: 2,
        },
        fences: Fences::Alive,
    };
    assert!(node.member.is_up());
    assert_eq!(node.control(&promise), Status::Io);
    assert_eq!(node.failed.take(), Some(Status::Medium));
    assert!(!node.member.is_up() && node.serving.is_none() && node.member.serving().is_none());
    assert_eq!(node.control(&promise), Status::Io);
    node.reply = None;
    let marks = [Mark::new(Run::new(1, 1), MemberSet::only(id(0)))];
    let message = Merge {
        to: target,
        generation: GENERATION,
        marks: &marks,
    };
    node.event(Event::Merge {
        call: 1,
        message: &message,
    });
    assert_eq!(node.reply.as_ref().unwrap().0, Status::Io);
    assert_eq!(node.failed, None);
}

/// What was acknowledged may be gone: the member must not go on as if it were not.
#[test]
fn a_flush_that_fails() {
    // One of its own.
    let mut world = World::new(2);
    let node = &mut world.nodes[1];
    let promise = Control::Promise {
        to: node.target(),
        generation: Generation {
            number: 2,
            nonce: 2,
        },
        fences: Fences::Alive,
    };
    node.flushed = Status::Medium;
    assert_eq!(node.control(&promise), Status::Io);
    assert_eq!(node.failed, Some(Status::Medium));
    // One of a client.
    let node = &mut world.nodes[0];
    let shared = &node.shared;
    assert_eq!(
        shared.end_flush(shared.begin_flush(), Status::Io),
        Status::Io
    );
    node.event(Event::Heard);
    assert_eq!(node.failed.take(), Some(Status::Io));
    // Once.
    node.event(Event::Heard);
    assert_eq!(node.failed, None);
}

/// Marks count under any epoch, a watermark only under the one that is installed.
#[test]
fn marks_and_watermarks() {
    let mut world = World::new(2);
    world.write(3);
    let node = &mut world.nodes[1];
    let right = node.target();
    let other = Generation {
        nonce: 2,
        ..GENERATION
    };
    let later = right.incarnation.after(1).unwrap();
    let stale = Target {
        incarnation: later,
        ..right
    };
    let run = |first: u64, end: u64| Run::new(first, (end - first) as u32);
    let cases = [
        (stale, GENERATION, run(5, 6), Status::StaleIncarnation),
        (right, other, run(5, 6), Status::StaleGeneration),
        (right, GENERATION, run(5, CHUNKS + 1), Status::OutOfRange),
        (right, GENERATION, run(5, CHUNKS), Status::Ok),
    ];
    for (to, generation, run, status) in cases {
        assert!(!node.shared.dirty(id(0), 5));
        let marks = &[Mark::new(run, MemberSet::only(id(0)))];
        let message = &Merge {
            to,
            generation,
            marks,
        };
        node.event(Event::Merge { call: 1, message });
        assert_eq!(node.reply.take().unwrap().0, status);
    }
    assert!(node.shared.dirty(id(0), 5) && !node.shared.dirty(id(0), 4));
    let suspect = |node: &Node| node.member.suspect(&node.shared, 3);
    for (to, generation, epoch, status) in [
        (stale, GENERATION, 1, Status::StaleIncarnation),
        (right, other, 1, Status::StaleGeneration),
        (right, GENERATION, 0, Status::StaleEpoch),
        (right, GENERATION, 2, Status::InstallFirst),
        (right, GENERATION, 1, Status::Ok),
    ] {
        assert!(suspect(node));
        let ping = Control::Ping {
            to,
            generation,
            epoch: Epoch(epoch),
            watermark: Seq(1),
        };
        assert_eq!(node.control(&ping), status);
    }
    assert!(!suspect(node));
}

/// What is known of a member that serves nobody, and how it refuses.
#[test]
fn a_member_that_does_not_serve() {
    let mut world = World::new(2);
    let late = world.nodes[1].member.incarnation();
    let served = world.nodes[1].member.serving();
    assert!(served.is_some_and(|serving| serving.in_sync));
    world.crash(1);
    let node = &mut world.nodes[1];
    let query = Control::Query {
        name: "pool".parse().unwrap(),
    };
    assert_eq!(node.control(&query), Status::Ok);
    assert!(node.reply.as_ref().is_some_and(|reply| reply.2.is_some()));
    let member = &mut node.member;
    assert!(member.is_up() && member.serving().is_none() && !member.needs_fetch());
    assert_eq!(member.pool(), POOL);
    assert!(member
        .config()
        .is_some_and(|config| config.epoch == Epoch(1)));
    let right = Header {
        pool: POOL,
        member: id(1),
        incarnation: member.incarnation(),
        generation: GENERATION,
        epoch: Epoch(1),
        watermark: Seq::NONE,
    };
    let (pool, number, incarnation, epoch) = (Uuid([1; 16]), id(0), late, Epoch(2));
    let wrong = Header {
        member: number,
        ..right
    };
    for (header, status) in [
        (Header { pool, ..right }, Status::WrongUuid),
        (wrong, Status::WrongMember),
        (
            Header {
                incarnation,
                ..right
            },
            Status::StaleIncarnation,
        ),
        (right, Status::StaleEpoch),
        (Header { epoch, ..right }, Status::InstallFirst),
    ] {
        assert_eq!(member.not_serving(&header), Some(status));
        let ask = Ask::Clear { runs: &[] };
        let peer = Peer {
            to: header,
            from: id(0),
            ask,
        };
        assert_eq!(member.peer(&peer, &node.shared), Err(status));
    }
}

/// A flush that fails may take acknowledged data with it, before anybody hears of it: what is read then may be older.
#[test]
fn what_is_read_after_a_failed_flush() {
    let shared: Common =
        Shared::new(&HostMemory, geometry(), HostLock::new(Joiners::new())).unwrap();
    let (first, second) = (shared.begin_flush(), shared.begin_flush());
    assert_eq!(
        shared.end_flush(shared.begin_flush(), Status::Ok),
        Status::Ok
    );
    assert_eq!(shared.end_read(Status::Ok), Status::Ok);
    assert_eq!(shared.end_flush(first, Status::Io), Status::Io);
    // It found nothing left to do.
    assert_eq!(shared.end_flush(second, Status::Ok), Status::Io);
    assert_eq!(shared.end_read(Status::Ok), Status::NotReady);
    assert_eq!(shared.end_read(Status::Medium), Status::Medium);
}

/// A write failed on the last member in sync, and the application does not flush: there is room in the log even so.
#[test]
fn a_failed_write_and_a_full_log() {
    let mut world = World::new(1);
    world.write(0);
    world.write(64);
    world.status = Status::Medium;
    world.write(1);
    world.status = Status::Ok;
    for chunk in [2, 128, 192] {
        world.write(chunk);
    }
    assert!(world.nodes[0].flushes > 0);
}

/// An extent stays in the log for as long as there is room.
#[test]
fn a_log_that_is_not_full() {
    let mut world = World::new(1);
    world.write(0);
    // All is complete and stable.
    world.ping(0);
    let shared = &world.nodes[0].shared;
    assert_eq!(
        shared.end_flush(shared.begin_flush(), Status::Ok),
        Status::Ok
    );
    world.write(64);
    let records = world.nodes[0].records;
    world.write(0);
    assert_eq!(world.nodes[0].records, records);
}

/// An answer about what was pulled before marks came says nothing about what is pulled since.
#[test]
fn an_answer_from_before_marks() {
    let mut world = behind();
    world.ping(1);
    let question = |world: &mut World| {
        let since = world.nodes[1].now;
        // Not so long that the answer is given up.
        while world.nodes[1].now.since(since) < 4 * SECOND {
            if let Some((call, .., Wanted::Begun)) = world.nodes[1].sent.front() {
                return Some(*call);
            }
            world.answer(1);
        }
        None
    };
    let late = question(&mut world).unwrap();
    world.nodes[1].sent.pop_front();
    world.mark(1);
    assert!(question(&mut world).is_some_and(|call| call != late));
    let begun = Begun {
        seq: Seq::NONE,
        reads: false,
    };
    world.nodes[1].event(Event::PeerReply {
        call: late,
        result: Ok(PeerAnswer::Begun(begun)),
    });
    assert!((0..CHUNKS).all(|chunk| world.nodes[1].shared.dirty(id(1), chunk)));
    world.catch_up(1);
    assert_eq!(world.nodes[1].data, world.truth);
}

/// Nor is a chunk that cannot be read gone on with after that.
#[test]
fn unreadable_after_marks() {
    let mut world = behind();
    world.ping(1);
    let call = loop {
        match world.nodes[1].sent.front() {
            Some((call, .., Wanted::Pull(..))) => break *call,
            _ => world.answer(1),
        };
    };
    world.nodes[1].sent.clear();
    world.mark(1);
    let result = Err(Status::Medium);
    world.nodes[1].event(Event::PeerReply { call, result });
    assert!(world.nodes[1].sent.is_empty());
}

/// What is clean is stable, and nobody reads from a member that has clean chunks only.
#[test]
fn clean_means_stable() {
    let mut world = behind();
    world.ping(1);
    let dirty = |world: &World| {
        let chunks = (0..CHUNKS).filter(|chunk| world.nodes[1].shared.dirty(id(1), *chunk));
        chunks.count() as u64
    };
    let mut wait = |all: bool| {
        while (dirty(&world) == CHUNKS) != all {
            assert_eq!(world.read(1, 0), Err(Status::Dirty));
            world.answer(1);
        }
        world.nodes[1].flushes
    };
    // First it has to hear what it missed.
    let before = wait(true);
    assert!(wait(false) > before);
    world.catch_up(1);
    assert_eq!(world.read(1, 0), Err(Status::Dirty));
    assert_eq!(world.read(0, 0), Ok(()));
}

/// A write that was given up before it began is begun when it comes again, and whoever waited for it asks again.
#[test]
fn a_write_that_was_not_begun() {
    let mut world = World::new(1);
    world.write(0);
    let node = &world.nodes[0];
    let header = Header {
        pool: POOL,
        member: id(0),
        incarnation: node.member.incarnation(),
        generation: GENERATION,
        epoch: world.config.epoch,
        watermark: Seq(1),
    };
    let request = Request {
        op: Op::Write,
        flags: Flags::EMPTY,
        seq: Seq(2),
        offset: 0,
        len: 4096,
        data_offset: 0,
    };
    let serving = node.serving.unwrap();
    let write = |copy: u64| {
        let busy = |_| panic!("nobody waits");
        node.shared.write(&serving, &header, &request, copy, busy)
    };
    assert!(matches!(write(1), Verdict::Execute));
    assert!(matches!(write(2), Verdict::Join));
    let mut waited = Vec::new();
    node.shared.abandon(request.seq, |copy| waited.push(copy));
    assert_eq!(waited, [2]);
    assert!(matches!(write(3), Verdict::Execute));
}

/// Nobody puts a member in sync that has everything but a write that failed.
#[test]
fn a_failed_write_while_catching_up() {
    let mut world = behind();
    assert_eq!(world.nodes[0].progress(), Progress::Ready);
    world.ping(1);
    world.catch_up(1);
    world.status = Status::Medium;
    world.write(5);
    assert_ne!(world.nodes[1].progress(), Progress::Ready);
}

/// R17: what no member can read does not keep a member out of sync; it is answered as unreadable, also to members and after
/// a restart, until it is written. All else is there.
#[test]
fn what_nobody_can_read() {
    const BLOCKS: u64 = CHUNK / 4096;
    let mut world = World::new(3);
    for chunk in 0..CHUNKS {
        world.write(chunk);
    }
    let (rest, nobody) = (world.others(2), MemberSet::EMPTY);
    assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
    world.write(6);
    world.write(9);
    // Of chunk 6 the first and the last block, of chunk 9 one here and one there.
    let (first, last) = (6 * BLOCKS, 7 * BLOCKS - 1);
    world.nodes[0].bad = vec![first, last, 9 * BLOCKS];
    world.nodes[1].bad = vec![first, last, 9 * BLOCKS + 1];
    world.take_back(2);
    assert_eq!(world.nodes[2].data, world.truth);
    let unreadable = |world: &World| -> Vec<u64> {
        (0..CHUNKS * BLOCKS)
            .filter(|block| world.read(2, *block) == Err(Status::Medium))
            .collect()
    };
    assert_eq!(unreadable(&world), [first, last]);
    // A member that needs the chunk does not get what is old.
    world.crash(0);
    world.nodes[0].bad.clear();
    world.nodes[1].bad = vec![last];
    world.write(6);
    assert_eq!(unreadable(&world), [last]);
    world.take_back(0);
    assert_eq!(world.read(0, last), Err(Status::Medium));
    assert_eq!(world.read(0, first), Ok(()));
    // It is not forgotten, nor is what was written since; of the list there are two copies again.
    let [_, copy] = Layout::compute(1 << 40, geometry()).unwrap().unreadable();
    world.nodes[2].pages.insert(copy.offset, [0xff; 4096]);
    world.crash(2);
    let again = &world.nodes[2].pages[&copy.offset];
    assert!(UnreadablePage::parse::<Crc>(store(2), copy, again).is_ok());
    world.take_back(2);
    assert_eq!(unreadable(&world), [last]);
    assert!(world.nodes[2].shared.unreadable().eq([BadBlock {
        block: last,
        sectors: 0xff,
    }]));
    // What one can read again comes back with the next pull of the chunk.
    world.crash(2);
    world.write(6);
    world.nodes[1].bad.clear();
    world.take_back(2);
    assert_eq!(unreadable(&world), []);
    assert_eq!(world.read(0, last), Err(Status::Medium));
}

/// Answers whatever a member asks for, for a while.
fn go_on(world: &mut World, of: usize) {
    for _ in 0..2000 {
        world.answer(of);
    }
}

/// R13: what was pulled may hold a write that the member was not sent yet. Until that is complete the chunk is dirty.
#[test]
fn what_is_incomplete_is_not_proved() {
    let mut world = behind();
    world.ping(1);
    world.seq += 1;
    world.write_on(0, 7);
    go_on(&mut world, 1);
    assert_eq!(world.nodes[1].data[7], world.seq);
    assert!(world.nodes[1].shared.dirty(id(1), 7));
    world.write_on(1, 7);
    world.truth[7] = world.seq;
    go_on(&mut world, 1);
    assert!(world.nodes[1].shared.dirty(id(1), 7));
    world.ping(1);
    go_on(&mut world, 1);
    assert_eq!(world.nodes[1].progress(), Progress::Ready);
    assert_eq!(world.nodes[1].data, world.truth);
}

/// A source says what makes no sense, or nothing, or is asked by somebody else: that costs time and a second pull, nothing else.
#[test]
fn what_a_source_has_begun() {
    let refused = Err(Status::Busy);
    let far = Begun {
        seq: Seq(u64::MAX),
        reads: false,
    };
    for result in [refused, Ok(PeerAnswer::Begun(far))] {
        let mut world = behind();
        world.ping(1);
        let (mut pulls, mut done) = (0, false);
        for _ in 0..4000 {
            match world.nodes[1].sent.front() {
                Some((call, _, _, Wanted::Begun)) if !done => {
                    let call = *call;
                    done = true;
                    world.nodes[1].sent.pop_front();
                    world.nodes[1].event(Event::PeerReply { call, result });
                    continue;
                }
                Some((_, _, _, Wanted::Pull(..))) => pulls += 1,
                _ => {}
            }
            world.answer(1);
        }
        assert_eq!(world.nodes[1].progress(), Progress::Ready);
        assert_eq!(world.nodes[1].data, world.truth);
        assert!((CHUNKS + 1..2 * CHUNKS).contains(&pulls), "{pulls}");
    }
}

/// A source that was dropped cannot be asked any more: what it brought is pulled again, from one that stays.
#[test]
fn what_a_source_brought_that_is_gone() {
    let mut world = World::new(3);
    let (rest, nobody) = (world.others(2), MemberSet::EMPTY);
    let back = MemberSet::only(id(2));
    assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
    (0..9).for_each(|chunk| world.write(chunk));
    world.promise(2);
    assert_eq!(world.install(rest, back, back), Status::Ok);
    world.ping(2);
    // One that nobody else has ever seen.
    world.seq += 1;
    world.write_on(0, 7);
    while world.nodes[2].data[7] != world.seq {
        world.answer(2);
    }
    let one = MemberSet::only(id(1));
    assert_eq!(world.install(one, back, nobody), Status::Ok);
    go_on(&mut world, 2);
    assert_eq!(world.nodes[2].progress(), Progress::Ready);
    assert_eq!(world.nodes[2].data, world.truth);
}
