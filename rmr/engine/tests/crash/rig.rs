// SPDX-License-Identifier: GPL-2.0

//! A member on a disk that records: what it wrote until when, and what it had promised to whom by then.

use crate::disk::Image;
use crate::disk::Page;
use crate::disk::Recording;
use crate::disk::PAGE;
use rmr_engine::dedupe::Joiners;
use rmr_engine::memory::HostMemory;
use rmr_engine::storage::Action;
use rmr_engine::storage::Event;
use rmr_engine::storage::Member;
use rmr_engine::storage::Out;
use rmr_engine::storage::PeerAnswer;
use rmr_engine::storage::Reader;
use rmr_engine::storage::Serving;
use rmr_engine::storage::Shared;
use rmr_engine::storage::StartError;
use rmr_engine::storage::StoreInfo;
use rmr_engine::storage::Verdict;
use rmr_engine::sync::HostLock;
use rmr_engine::time::Time;
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
use rmr_proto::Progress;
use rmr_proto::Quorum;
use rmr_proto::Request;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Target;
use rmr_proto::Uuid;
use rmr_proto::LOG_PAGES;
use rmr_proto::MAX_MEMBERS;
use rmr_proto::REPLY_BYTES;
use std::collections::VecDeque;

/// The host's CRC32C, by a table.
pub(crate) struct Crc;

impl Crc32c for Crc {
    fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
        const TABLE: [u32; 256] = {
            let mut table = [0; 256];
            let mut n = 0;
            while n < 256 {
                let mut crc = n as u32;
                let mut bit = 0;
                while bit < 8 {
                    crc = (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1));
                    bit += 1;
                }
                table[n] = crc;
                n += 1;
            }
            table
        };
        bytes.iter().fold(seed, |crc, byte| {
            (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize]
        })
    }
}

type Common = Shared<HostMemory, HostLock<Joiners<u64>>>;
type Node = Member<HostMemory, Crc>;

pub(crate) const POOL: Uuid = Uuid([9; 16]);
const CHUNK_SHIFT: u8 = 16;
const VOLUME: u64 = 64 << 20;

/// The member that is tested, and two others.
pub(crate) const OWN: u32 = 1;

pub(crate) fn id(id: u32) -> MemberId {
    MemberId::new(id).unwrap()
}

pub(crate) fn set(ids: &[u32]) -> MemberSet {
    ids.iter().copied().map(id).collect()
}

pub(crate) fn store(of: u32) -> Uuid {
    Uuid([of as u8; 16])
}

pub(crate) fn generation(number: u64) -> Generation {
    Generation { number, nonce: 5 }
}

/// Something that must be true after any crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// This generation, or a higher one, is promised.
    Promised(u64),
    /// This epoch, or a higher one, is installed.
    Installed(u64),
    /// This chunk of the copy of this member is dirty.
    Dirty(u32, u64),
    /// This chunk is suspect.
    Suspect(u64),
    /// The client detached in order.
    Clean,
    /// What is old in this block is not read: its chunk is dirty, or it is on the list of unreadable sectors.
    NotOld(u64),
    /// This block can be read, and is what this write wrote.
    Written(u64, u64),
}

/// A fact, and after how many operations of the disk it is one; and until when.
#[derive(Clone, Debug)]
struct Claim {
    fact: Fact,
    since: usize,
    until: usize,
}

/// What the member wants done.
enum Todo {
    Write(u64, Box<Page>),
    Assign(Uuid),
    Serve(Option<Serving>),
    Drain,
    Flush,
    Retry,
    LogFull,
    Reply(u64, Status),
    /// Another member is asked: for a page of a bitmap, or for data.
    Fetch(u64, MemberId, u64),
    Pull(u64, u64, u32),
    Begun(u64),
    PullWrite(u64, u64, u32),
}

#[derive(Default)]
struct Queue(VecDeque<Todo>);

impl Out for Queue {
    fn act(&mut self, action: Action<'_>) {
        self.0.push_back(match action {
            Action::WriteMeta { offset, bytes } => Todo::Write(offset, Box::new(*bytes)),
            Action::AssignPool(pool) => Todo::Assign(pool),
            Action::Serve(serving) => Todo::Serve(serving),
            Action::Drain => Todo::Drain,
            Action::Flush => Todo::Flush,
            Action::Retry => Todo::Retry,
            Action::LogFull => Todo::LogFull,
            Action::Reply { call, reply } => Todo::Reply(call, reply.status),
            Action::Failed(status) => panic!("failed: {status}"),
            Action::SendPeer { call, message, .. } => match message.ask {
                Ask::FetchDirty { of, page } => Todo::Fetch(call, of, page),
                Ask::Pull { offset, len } => Todo::Pull(call, offset, len),
                Ask::Begun => Todo::Begun(call),
                Ask::Clear { .. } => return,
            },
            Action::PullWrite { call, offset, len } => Todo::PullWrite(call, offset, len),
            Action::ClosePeer(_) | Action::Timer(_) => return,
        });
    }
}

/// Where the disk keeps a block of data: behind all that the layout has.
fn data_at(block: u64) -> u64 {
    (1 << 41) + block * PAGE as u64
}

/// Content of a block that was pulled.
const PULLED: u8 = 0xee;

struct FromImage<'a>(&'a Image);

impl Reader for FromImage<'_> {
    fn read(&mut self, offset: u64, page: &mut [u8; PAGE]) -> Result<(), Status> {
        *page = self.0.get(&offset).copied().unwrap_or([0; PAGE]);
        Ok(())
    }
}

fn geometry() -> Geometry {
    Geometry::new(VOLUME, CHUNK_SHIFT).unwrap()
}

pub(crate) fn layout() -> Layout {
    Layout::compute(1 << 40, geometry()).unwrap()
}

/// A disk with a new store, and how it was written.
pub(crate) fn created() -> Recording {
    let mut disk = Recording::new(Image::new());
    let layout = layout();
    let mut page = [0; PAGE];
    for copy in 0..2 {
        for n in 0..LOG_PAGES {
            let at = layout.log_page(n).unwrap()[copy];
            LogPage::encode::<Crc>(store(OWN), 1, at, [], &mut page).unwrap();
            disk.write(at.offset, &page, true);
        }
        let at = layout.epoch()[copy];
        let record = EpochRecord::default();
        record.encode::<Crc>(store(OWN), 1, at, &mut page).unwrap();
        disk.write(at.offset, &page, true);
    }
    disk
}

/// Starts a member from what a disk holds. `pool` is what its superblock says.
fn start(image: &Image, pool: Uuid, log_extents: u32) -> Result<(Node, Common), StartError> {
    let joiners = HostLock::new(Joiners::new());
    let shared = Shared::new(&HostMemory, geometry(), joiners).unwrap();
    let info = StoreInfo {
        pool,
        store: store(OWN),
        member: id(OWN),
        layout: layout(),
        limits: Limits {
            logical_block: 512,
            physical_block: 4096,
            io_min: 4096,
            io_opt: 0,
            max_write_zeroes: 0,
            features: Features::WRITE_CACHE,
        },
        log_extents,
        salt: 5,
    };
    let member = Member::start(&HostMemory, info, &shared, &mut FromImage(image))?;
    Ok((member, shared))
}

/// A member at work.
pub(crate) struct Rig {
    disk: Recording,
    member: Node,
    shared: Common,
    serving: Option<Serving>,
    pool: Uuid,
    claims: Vec<Claim>,
    log_extents: u32,
    call: u64,
    config: Option<Config>,
    promised: Generation,
    /// Number and chunk of each write.
    writes: Vec<(u64, u64)>,
    /// Calls answered since they were last asked for.
    answers: Vec<(u64, Status)>,
    retry: bool,
    log_full: bool,
    /// Something was written since the last flush.
    unstable: bool,
    /// The one block of data that is looked at, and whether the other members can read it.
    block: Option<(u64, bool)>,
    now: Time,
}

impl Rig {
    /// Starts a member on this disk; until it serves.
    pub(crate) fn new(image: Image, log_extents: u32) -> Self {
        Self::on(image, Uuid::NIL, log_extents)
    }

    fn on(image: Image, pool: Uuid, log_extents: u32) -> Self {
        let (member, shared) = start(&image, pool, log_extents).unwrap();
        let mut rig = Self {
            disk: Recording::new(image),
            member,
            shared,
            serving: None,
            pool,
            claims: Vec::new(),
            log_extents,
            call: 0,
            config: None,
            promised: Generation::NONE,
            writes: Vec::new(),
            answers: Vec::new(),
            retry: false,
            log_full: false,
            unstable: false,
            block: None,
            now: Time(0),
        };
        rig.event(Event::Started);
        rig
    }

    /// An event, and everything that follows from it.
    fn event(&mut self, event: Event<'_>) {
        let mut queue = Queue::default();
        self.now = self.now.after(1_000_000);
        self.member.event(self.now, event, &self.shared, &mut queue);
        while let Some(todo) = queue.0.pop_front() {
            let event = match todo {
                Todo::Write(offset, page) => {
                    self.disk.write(offset, &page, true);
                    Event::MetaDone(Ok(()))
                }
                Todo::Assign(pool) => {
                    self.pool = pool;
                    Event::MetaDone(Ok(()))
                }
                Todo::Serve(serving) => {
                    self.serving = serving;
                    continue;
                }
                // Nothing runs between events.
                Todo::Drain => Event::Drained,
                Todo::Flush => {
                    self.unstable = false;
                    self.disk.flush();
                    Event::Flushed(Ok(()))
                }
                Todo::Fetch(call, of, page) => {
                    self.answer_fetch(call, of, page, &mut queue);
                    continue;
                }
                Todo::Pull(call, offset, len) => Event::PeerReply {
                    call,
                    result: match self.block_in(offset, len) {
                        Some((_, false)) => Err(Status::Medium),
                        _ => Ok(PeerAnswer::Data),
                    },
                },
                // Whatever they have begun is complete.
                Todo::Begun(call) => Event::PeerReply {
                    call,
                    result: Ok(PeerAnswer::Begun(Begun {
                        seq: Seq::NONE,
                        reads: false,
                    })),
                },
                Todo::PullWrite(call, offset, len) => {
                    if let Some((block, _)) = self.block_in(offset, len) {
                        self.disk.write(data_at(block), &[PULLED; PAGE], false);
                    }
                    let result = Ok(());
                    Event::PullWritten { call, result }
                }
                Todo::Retry => {
                    self.retry = true;
                    continue;
                }
                Todo::LogFull => {
                    self.log_full = true;
                    continue;
                }
                Todo::Reply(call, status) => {
                    self.answers.push((call, status));
                    continue;
                }
            };
            self.now = self.now.after(1_000);
            self.member.event(self.now, event, &self.shared, &mut queue);
        }
    }

    /// Another member in sync knows of nothing that is dirty.
    fn answer_fetch(&mut self, call: u64, of: MemberId, page: u64, queue: &mut Queue) {
        let mut buffer = [0; REPLY_BYTES];
        let bytes = DirtyPage::encode::<Crc>(of, page, [], &mut buffer).unwrap();
        let answer = PeerAnswer::Page(DirtyPage::parse::<Crc>(bytes).unwrap());
        let result = Ok(answer);
        let event = Event::PeerReply { call, result };
        self.member.event(self.now, event, &self.shared, queue);
    }

    /// The block that is looked at, if it is in this part.
    fn block_in(&self, offset: u64, len: u32) -> Option<(u64, bool)> {
        let part = offset..offset + u64::from(len);
        self.block
            .filter(|(block, _)| part.contains(&(block * PAGE as u64)))
    }

    /// From now on this block is looked at. It is old here, its chunk is dirty, and other members can read it or not.
    pub(crate) fn look_at(&mut self, block: u64, readable: bool) {
        self.block = Some((block, readable));
        self.claim(Fact::NotOld(block));
        // What is dirty is so until the resync.
        self.end_claims(|fact| matches!(fact, Fact::Dirty(OWN, _)));
    }

    /// Goes on with the resync until nothing is dirty.
    pub(crate) fn resync(&mut self) {
        for _ in 0..100 {
            if self.member.progress(&self.shared) == Progress::Ready {
                return;
            }
            self.event(Event::Timer);
        }
        panic!("the resync does not end");
    }

    /// Whether the list of unreadable sectors has the whole block.
    pub(crate) fn is_listed(&self, block: u64) -> bool {
        let sectors = 0xff;
        let mut list = self.shared.unreadable();
        list.any(|bad| bad == BadBlock { block, sectors })
    }

    /// From now on, after any crash.
    pub(crate) fn claim(&mut self, fact: Fact) {
        let since = self.disk.len();
        let until = usize::MAX;
        self.claims.push(Claim { fact, since, until });
    }

    /// From now on these facts need not be true any more.
    pub(crate) fn end_claims(&mut self, which: impl Fn(Fact) -> bool) {
        let now = self.disk.len();
        for claim in &mut self.claims {
            if which(claim.fact) {
                claim.until = claim.until.min(now);
            }
        }
    }

    fn target(&self) -> Target {
        Target {
            name: "pool".parse().unwrap(),
            pool: self.pool,
            store: store(OWN),
            member: id(OWN),
            incarnation: self.member.incarnation(),
        }
    }

    fn control(&mut self, message: &Control) -> Status {
        self.call += 1;
        let call = self.call;
        self.event(Event::Control {
            call,
            message,
            other_alive: false,
        });
        self.answer(call)
    }

    fn answer(&self, call: u64) -> Status {
        let answer = self.answers.iter().find(|(of, _)| *of == call);
        answer.expect("an answer").1
    }

    /// A client is promised a generation.
    pub(crate) fn promise(&mut self, number: u64) {
        let generation = generation(number);
        let promise = Control::Promise {
            to: self.target(),
            generation,
            fences: Fences::Dead,
        };
        assert_eq!(self.control(&promise), Status::Ok);
        self.promised = generation;
        self.claim(Fact::Promised(number));
    }

    /// A configuration is installed. `joins`: an episode begins. `stores` of members in the table.
    pub(crate) fn install(
        &mut self,
        epoch: u64,
        in_sync: &[u32],
        catching_up: &[u32],
        stores: &[(u32, Uuid)],
        joins: bool,
    ) {
        let mut members = [None; MAX_MEMBERS];
        let mut incarnations = [Incarnation::NONE; MAX_MEMBERS];
        for (member, store) in stores {
            members[id(*member).index()] = Some(*store);
            incarnations[id(*member).index()] = Incarnation(1);
        }
        incarnations[id(OWN).index()] = self.member.incarnation();
        let config = Config {
            generation: self.promised,
            epoch: Epoch(epoch),
            in_sync: set(in_sync),
            catching_up: set(catching_up),
            members,
            incarnations,
            persisted: [Epoch::NONE; MAX_MEMBERS],
            clean: false,
            history: POOL,
            forked_from: None,
            quorum: Quorum::Off,
            maintenance: MemberSet::EMPTY,
        };
        let assign = self.pool.is_nil();
        let mut to = self.target();
        to.pool = POOL;
        // What the configuration carries, or makes needless, is none of its facts any more as soon as that begins. It
        // carries what the promise reported: not what was complete, and may still be lost.
        let carried = joins && !self.unstable;
        self.end_claims(|fact| match fact {
            Fact::Dirty(of, _) => config.in_sync.contains(id(of)),
            Fact::Suspect(_) => carried,
            Fact::Clean => true,
            _ => false,
        });
        let install = Control::Install {
            to,
            config: config.clone(),
            assign,
            joins,
            discard: false,
        };
        assert_eq!(self.control(&install), Status::Ok);
        self.config = Some(config);
        self.claim(Fact::Installed(epoch));
    }

    /// Chunks become dirty on members.
    pub(crate) fn merge(&mut self, marks: &[Mark]) {
        self.call += 1;
        let call = self.call;
        let merge = Merge {
            to: self.target(),
            generation: self.promised,
            marks,
        };
        self.event(Event::Merge {
            call,
            message: &merge,
        });
        assert_eq!(self.answer(call), Status::Ok);
        for mark in marks {
            for member in mark.members() {
                for chunk in mark.run().range().step_by(97) {
                    self.claim(Fact::Dirty(member.get(), chunk));
                }
            }
        }
    }

    /// The client leaves in order.
    pub(crate) fn detach(&mut self) {
        self.end_claims(|fact| matches!(fact, Fact::Suspect(_)));
        let config = self.config.as_ref().unwrap();
        let detach = Control::Detach {
            to: self.target(),
            generation: self.promised,
            epoch: config.epoch,
            watermark: self.shared.watermark(),
        };
        assert_eq!(self.control(&detach), Status::Ok);
        self.claim(Fact::Clean);
    }

    /// A write of the first block of a chunk. What was complete before is below its watermark.
    pub(crate) fn write(&mut self, seq: u64, chunk: u64, watermark: u64) -> Status {
        self.write_block(seq, chunk << (CHUNK_SHIFT - 12), watermark)
    }

    /// A write of a block.
    pub(crate) fn write_block(&mut self, seq: u64, block: u64, watermark: u64) -> Status {
        let serving = self.serving.expect("the member serves");
        let config = self.config.clone().unwrap();
        let chunk = block >> (CHUNK_SHIFT - 12);
        let header = Header {
            pool: POOL,
            member: id(OWN),
            incarnation: self.member.incarnation(),
            generation: config.generation,
            epoch: config.epoch,
            watermark: Seq(watermark),
        };
        let request = Request {
            op: Op::Write,
            flags: Flags::EMPTY,
            seq: Seq(seq),
            offset: block * PAGE as u64,
            len: PAGE as u32,
            data_offset: 0,
        };
        let is_looked_at = self.block.is_some_and(|(watched, _)| watched == block);
        loop {
            self.retry = false;
            self.log_full = false;
            match self.shared.write(&serving, &header, &request, seq, |_| ()) {
                Verdict::Execute => {
                    // From here on the data may be changed.
                    self.writes.push((seq, chunk));
                    self.unstable = true;
                    self.claim(Fact::Suspect(chunk));
                    let absent = config.table().minus(config.receivers());
                    for member in absent {
                        self.claim(Fact::Dirty(member.get(), chunk));
                    }
                    if is_looked_at {
                        self.disk.write(data_at(block), &[seq as u8; PAGE], false);
                    }
                    if self.shared.finish(&request, Status::Ok, |_| ()) {
                        break;
                    }
                    self.event(Event::Waiting);
                    assert!(self.retry, "it is not said when to answer");
                }
                Verdict::Wait => {
                    // An extent whose writes are all complete may leave the log.
                    let writes = self.writes.clone();
                    let open = |chunk| writes.iter().any(|w| w.1 == chunk && w.0 > watermark);
                    self.end_claims(|fact| matches!(fact, Fact::Suspect(c) if !open(c)));
                    self.event(Event::Waiting);
                    if self.log_full {
                        return Status::LogFull;
                    }
                    assert!(self.retry, "neither room in the log nor none");
                }
                Verdict::Done(Status::Ok) => break,
                other => panic!("{other:?}"),
            }
        }
        if is_looked_at {
            self.claim(Fact::Written(block, seq));
        }
        Status::Ok
    }

    /// Cuts the power at every point, and looks at what the next start finds; that start is cut, too, at some of them.
    /// Returns how many states were looked at.
    pub(crate) fn check(&self) -> usize {
        let mut count = 0;
        self.disk.cuts(6, |cut| {
            let facts: Vec<Fact> = self
                .claims
                .iter()
                .filter(|claim| (claim.since..claim.until).contains(&cut.answered))
                // One that ends with the next operation may have ended.
                .filter(|claim| claim.until != cut.answered)
                .map(|claim| claim.fact)
                .collect();
            let incarnation = self.look(cut.image, &facts, cut.answered);
            count += 1;
            if count % 16 == 0 {
                let again = self.restarted(cut.image);
                again.cuts(6, |second| {
                    assert!(self.look(second.image, &facts, cut.answered) >= incarnation);
                    count += 1;
                });
            }
        });
        count
    }

    /// The power fails, and nothing was in flight: the member starts anew, and what it had claimed is so.
    pub(crate) fn crash(&self) -> Rig {
        let image = self.disk.now();
        let facts: Vec<Fact> = self
            .claims
            .iter()
            .filter(|claim| claim.until == usize::MAX)
            .map(|claim| claim.fact)
            .collect();
        self.look(&image, &facts, self.disk.len());
        let mut rig = Rig::on(image, self.pool, self.log_extents);
        rig.config.clone_from(&self.config);
        for fact in facts {
            rig.claims.push(Claim {
                fact,
                since: 0,
                until: usize::MAX,
            });
        }
        rig
    }

    /// A start on this image, as far as it writes.
    fn restarted(&self, image: &Image) -> Recording {
        Rig::on(image.clone(), self.pool, self.log_extents).disk
    }

    /// What a start finds; its incarnation.
    fn look(&self, image: &Image, facts: &[Fact], at: usize) -> u64 {
        let (member, shared) = start(image, self.pool, self.log_extents)
            .unwrap_or_else(|why| panic!("after {at} operations the store is refused: {why:?}"));
        let report = member.report(&shared);
        let installed = report.installed.as_ref();
        let is_listed = |block| shared.unreadable().any(|bad| bad.block == block);
        let content = |block| image.get(&data_at(block)).map_or(0, |page| page[0]);
        for fact in facts {
            let holds = match *fact {
                Fact::Promised(number) => report.promised.number >= number,
                Fact::Installed(epoch) => installed.is_some_and(|c| c.epoch >= Epoch(epoch)),
                Fact::Dirty(of, chunk) => shared.dirty(id(of), chunk),
                Fact::Suspect(chunk) => member.suspect(&shared, chunk),
                Fact::Clean => installed.is_some_and(|c| c.clean),
                Fact::NotOld(block) => {
                    let chunk = block >> (CHUNK_SHIFT - 12);
                    content(block) != 0 || is_listed(block) || shared.dirty(id(OWN), chunk)
                }
                Fact::Written(block, seq) => content(block) == seq as u8 && !is_listed(block),
            };
            assert!(holds, "after {at} operations: not {fact:?}");
        }
        report.incarnation.0
    }
}
