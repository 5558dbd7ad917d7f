// SPDX-License-Identifier: GPL-2.0

//! Members of one pool with disks in memory, driven by hand in the place of a client.

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
use rmr_proto::Ask;
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
use rmr_proto::Uuid;
use rmr_proto::LOG_PAGES;
use rmr_proto::MAX_MEMBERS;
use rmr_proto::REPLY_BYTES;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Range;

/// A checksum that is good enough for a disk without faults.
pub(crate) struct Crc;

impl Crc32c for Crc {
    fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
        bytes.iter().fold(seed, |crc, byte| {
            crc.rotate_left(5).wrapping_mul(0x0100_0193) ^ u32::from(*byte)
        })
    }
}

pub(crate) type Page = [u8; 4096];
pub(crate) type Common = Shared<HostMemory, HostLock<Joiners<u64>>>;

pub(crate) const POOL: Uuid = Uuid([9; 16]);
pub(crate) const CHUNK: u64 = 1 << 16;
pub(crate) const CHUNKS: u64 = 256;
/// The time from one event to the next.
pub(crate) const STEP: Nanos = 20 * MILLISECOND;
pub(crate) const GENERATION: Generation = Generation {
    number: 1,
    nonce: 1,
};

pub(crate) fn id(of: usize) -> MemberId {
    MemberId::from_index(of).unwrap()
}

pub(crate) fn store(of: usize) -> Uuid {
    Uuid([of as u8 + 1; 16])
}

pub(crate) fn geometry() -> Geometry {
    Geometry::new(CHUNKS * CHUNK, 16).unwrap()
}

/// What a member wants done.
pub(crate) enum Todo {
    Event(Own),
    Serve(Option<Serving>),
    Send(u64, usize, Header, Wanted),
    Close(usize),
    Failed(Status),
    Reply(Status, Vec<Run>, Option<Progress>),
}

/// An event that follows by itself.
pub(crate) enum Own {
    Meta,
    Drained,
    Flushed,
    Written(u64, u64),
}

/// What a member asks another for.
#[derive(Clone)]
pub(crate) enum Wanted {
    Dirty(MemberId, u64),
    Pull(u64, u32),
    Clear(Vec<Run>),
    Begun,
}

pub(crate) struct Queue<'a> {
    pub(crate) pages: &'a mut BTreeMap<u64, Page>,
    pub(crate) todo: VecDeque<Todo>,
    pub(crate) timer: &'a mut Time,
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

pub(crate) struct Disk<'a>(&'a BTreeMap<u64, Page>);

impl Reader for Disk<'_> {
    fn read(&mut self, offset: u64, page: &mut Page) -> Result<(), Status> {
        *page = self.0.get(&offset).copied().unwrap_or([0; 4096]);
        Ok(())
    }
}

pub(crate) struct Node {
    pub(crate) of: usize,
    pub(crate) pages: BTreeMap<u64, Page>,
    /// A number for each chunk in the place of its content.
    pub(crate) data: Vec<u64>,
    pub(crate) member: Member<HostMemory, Crc>,
    pub(crate) shared: Common,
    pub(crate) serving: Option<Serving>,
    pub(crate) sent: VecDeque<(u64, usize, Header, Wanted)>,
    /// Calls that are not answered, until the connection is closed.
    pub(crate) hung: Vec<(u64, usize)>,
    /// Blocks that its disk cannot read.
    pub(crate) bad: Vec<u64>,
    /// What an answer brought that is being written.
    pub(crate) pulled: BTreeMap<u64, u64>,
    pub(crate) reply: Option<(Status, Vec<Run>, Option<Progress>)>,
    pub(crate) flushes: usize,
    /// What comes of flushes of its disk.
    pub(crate) flushed: Status,
    /// Writes of its metadata, and what comes of them.
    pub(crate) records: usize,
    pub(crate) metadata: Status,
    pub(crate) failed: Option<Status>,
    pub(crate) now: Time,
    /// When it wants to be woken.
    pub(crate) timer: Time,
}

impl Node {
    pub(crate) fn new(of: usize) -> Self {
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

    pub(crate) fn start(of: usize, pages: BTreeMap<u64, Page>, data: Vec<u64>, pool: Uuid) -> Self {
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

    pub(crate) fn event(&mut self, event: Event<'_>) {
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

    pub(crate) fn control(&mut self, message: &Control) -> Status {
        self.reply = None;
        self.event(Event::Control {
            call: 1,
            message,
            other_alive: false,
        });
        self.reply.as_ref().unwrap().0
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            name: "pool".parse().unwrap(),
            pool: self.member.report(&self.shared).pool,
            store: store(self.of),
            member: id(self.of),
            incarnation: self.member.incarnation(),
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.member.progress(&self.shared)
    }
}

pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) config: Config,
    /// What comes of writes.
    pub(crate) status: Status,
    pub(crate) seq: u64,
    pub(crate) truth: Vec<u64>,
}

impl World {
    pub(crate) fn new(count: usize) -> Self {
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

    pub(crate) fn promise(&mut self, of: usize) {
        let to = self.nodes[of].target();
        let promise = Control::Promise {
            to,
            generation: GENERATION,
            fences: Fences::Dead,
        };
        assert_eq!(self.nodes[of].control(&promise), Status::Ok);
    }

    /// Installs on all receivers, those of `joins` with a new episode; stops at the first that refuses.
    pub(crate) fn install(
        &mut self,
        in_sync: MemberSet,
        catching_up: MemberSet,
        joins: MemberSet,
    ) -> Status {
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
    pub(crate) fn write(&mut self, chunk: u64) {
        self.seq += 1;
        for of in self.config.receivers() {
            self.write_on(of.index(), chunk);
        }
        self.truth[chunk as usize] = self.seq;
    }

    pub(crate) fn write_on(&mut self, of: usize, chunk: u64) {
        for _ in 0..10 {
            if self.try_on(of, chunk) {
                return;
            }
            self.nodes[of].event(Event::Waiting);
        }
        panic!("the write waits for ever");
    }

    /// That of a message of the client.
    fn header(&self, of: usize, watermark: u64) -> Header {
        Header {
            pool: POOL,
            member: id(of),
            incarnation: self.nodes[of].member.incarnation(),
            generation: GENERATION,
            epoch: self.config.epoch,
            watermark: Seq(watermark),
        }
    }

    /// Gives a member a write once; `false` if it has to wait.
    pub(crate) fn try_on(&mut self, of: usize, chunk: u64) -> bool {
        let header = self.header(of, self.seq - 1);
        let node = &mut self.nodes[of];
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
    pub(crate) fn answer(&mut self, of: usize) -> bool {
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
    pub(crate) fn read(&self, of: usize, block: u64) -> Result<(), Status> {
        let header = self.header(of, self.seq);
        let node = &self.nodes[of];
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
    pub(crate) fn take_back(&mut self, of: usize) {
        let (rest, nobody) = (self.others(of), MemberSet::EMPTY);
        self.promise(of);
        let back = MemberSet::only(id(of));
        assert_eq!(self.install(rest, back, back), Status::Ok);
        self.ping(of);
        self.catch_up(of);
        assert_eq!(self.install(rest.with(id(of)), nobody, nobody), Status::Ok);
    }

    /// Answers a member until it has everything.
    pub(crate) fn catch_up(&mut self, of: usize) {
        for _ in 0..10_000 {
            if !self.answer(of) && self.nodes[of].progress() == Progress::Ready {
                return;
            }
        }
        panic!("it does not get everything");
    }

    /// A member crashes, and is absent.
    pub(crate) fn crash(&mut self, of: usize) {
        let node = self.nodes.remove(of);
        let node = Node::start(of, node.pages, node.data, POOL);
        self.nodes.insert(of, node);
        let (rest, nobody) = (self.others(of), MemberSet::EMPTY);
        assert_eq!(self.install(rest, nobody, nobody), Status::Ok);
    }

    /// The members but these.
    pub(crate) fn others(&self, of: usize) -> MemberSet {
        self.config.table().without(id(of))
    }

    /// The client tells a member that it missed chunk 0.
    pub(crate) fn mark(&mut self, of: usize) {
        let node = &mut self.nodes[of];
        let marks = &[Mark::new(Run::new(0, 1), MemberSet::only(id(of)))];
        let message = &Merge {
            to: node.target(),
            generation: GENERATION,
            marks,
        };
        node.event(Event::Merge { call: 1, message });
    }

    pub(crate) fn ping(&mut self, of: usize) {
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

/// A member that was away while these chunks were written, and is back.
pub(crate) fn missed(chunks: Range<u64>) -> World {
    let mut world = World::new(2);
    let (back, nobody) = (MemberSet::only(id(1)), MemberSet::EMPTY);
    let rest = world.others(1);
    assert_eq!(world.install(rest, nobody, nobody), Status::Ok);
    chunks.for_each(|chunk| world.write(chunk));
    world.promise(1);
    assert_eq!(world.install(rest, back, back), Status::Ok);
    world
}

/// The same, of all chunks.
pub(crate) fn behind() -> World {
    missed(0..CHUNKS)
}

/// Answers whatever a member asks for, for a while.
pub(crate) fn go_on(world: &mut World, of: usize) {
    for _ in 0..2000 {
        world.answer(of);
    }
}
