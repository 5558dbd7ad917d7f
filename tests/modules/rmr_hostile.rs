// SPDX-License-Identifier: GPL-2.0

//! A hostile peer: opens RTRS sessions to a storage node and sends it what no client would send.
//!
//! ```text
//! echo "path=ip:10.77.1.1 pool=NAME [count=100000] [seed=1] [depth=64] [sessions=4]" > /sys/class/rmr-hostile/ctl/run
//! ```
//!
//! The pool must be served by that node, to a client that has written a little. The peer knows all of its
//! identity (a query tells it) and forges messages that are right but for one thing; see [`Trick`]. It never
//! sends one that a member may take for its client's: who knows the identity *is* the client. All but the last
//! session end with messages in flight. The write ends with an error if a message was accepted that must not
//! be; `result` then has the sums, the log the first of these. tests/vm/hostile.sh runs it.

use core::fmt;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_engine::options::Key;
use rmr_engine::options::Options;
use rmr_engine::options::Value;
use rmr_proto::Batch;
use rmr_proto::BatchEncoder;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::Crc32c;
use rmr_proto::EncodeError;
use rmr_proto::Epoch;
use rmr_proto::Fences;
use rmr_proto::Flags;
use rmr_proto::Generation;
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::Kind;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::Op;
use rmr_proto::PoolName;
use rmr_proto::Reply;
use rmr_proto::Request;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Target;
use rmr_proto::Uuid;
use rmr_proto::HEADER_BYTES;
use rmr_proto::MAX_BATCH_BYTES;
use rmr_proto::MAX_CONTROL_BYTES;
use rmr_proto::REPLY_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::rand;
use rmr_sys::slots::Park;
use rmr_sys::sysfs::Attr;
use rmr_sys::sysfs::Class;
use rmr_sys::sysfs::Dir as Folder;
use rmr_sys::time;
use rmr_sys::wait::WaitQueue;
use rtrs::Confirm;
use rtrs::Dir;
use rtrs::Errno;
use rtrs::LinkEvent;
use rtrs::LinkHandler;
use rtrs::Message;
use rtrs::PathAddr;
use rtrs::Permit;
use rtrs::SessionConfig;

module! {
    type: Hostile,
    name: "rmr_hostile",
    authors: ["The RMR project"],
    description: "Test: a hostile peer of storage nodes",
    license: "GPL",
}

/// Port that nodes listen on.
const PORT: u16 = 1234;
/// Longest header sent. RTRS takes 4 KiB, less what it needs itself.
const MAX_HEADER: usize = 3500;
/// Most data in a message; what RTRS allows by default.
const MAX_DATA: u32 = 126_976;
/// How long a message may take to be answered, in ms. That of a connection which stands still is a lost one.
const PATIENCE_MS: u32 = 60_000;
/// Connections that may be lost, or not come to be. On a machine that has too much to do, soft RDMA loses one now and
/// then; a node that does not answer at all loses all.
const MAX_LOSSES: u64 = 10;
/// The errno of a session without connection.
const ECONNABORTED: i32 = 103;
/// Messages named in the log although they must not be accepted.
const NAMED: u64 = 10;

/// The module.
struct Hostile {
    _ctl: Folder<Lair>,
    _class: Class,
}

impl kernel::Module for Hostile {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let class = Class::register(c"rmr-hostile")?;
        let lair = Arc::pin_init(
            try_pin_init!(Lair {
                tally <- new_mutex!(Tally::new()?),
            }? Error),
            GFP_KERNEL,
        )?;
        Ok(Self {
            _ctl: Folder::in_class(&class, c"ctl", lair, &CTL)?,
            _class: class,
        })
    }
}

/// What the files refer to.
#[pin_data]
struct Lair {
    /// Held during a run.
    #[pin]
    tally: Mutex<Tally>,
}

static CTL: [Attr<Lair>; 2] = [
    Attr::wo(
        c"run",
        "path=<address> pool=<name> [count=<messages>] [seed=<number>] [depth=<messages in flight>] [sessions=<number>]",
        |lair, line| {
            const KEYS: &[Key] = &[
                Key::once("path"),
                Key::once("pool"),
                Key::once("count"),
                Key::once("seed"),
                Key::once("depth"),
                Key::once("sessions"),
            ];
            let parse = || {
                let options = Options::parse(line, KEYS)?;
                let number = |key, default, max| match options.get(key) {
                    Some(value) => Value::number(value, 1..=max),
                    None => Ok(default),
                };
                Ok(Plan {
                    path: options.require("path")?.text()?,
                    pool: options.require("pool")?.pool()?,
                    count: number("count", 100_000, u64::MAX)?,
                    seed: number("seed", 1, u64::MAX)?,
                    depth: number("depth", 64, 512)? as usize,
                    sessions: number("sessions", 4, 1000)?,
                })
            };
            let plan = parse().map_err(|error: rmr_engine::options::Error<'_>| {
                pr_err!("run: {}\n", core::format_args!("{error}"));
                EINVAL
            })?;
            let mut tally = lair.tally.lock();
            *tally = Tally::new()?;
            run(&plan, &mut tally)?;
            pr_info!("{}\n", core::format_args!("{}", *tally));
            if tally.accepted > 0 {
                return Err(EPIPE);
            }
            Ok(())
        },
    ),
    Attr::ro(c"result", |lair, w| {
        let tally = lair.tally.lock();
        writeln!(w, "{}", *tally)?;
        for (number, count) in Iterator::enumerate(tally.answers.iter()).filter(|(_, count)| **count > 0) {
            writeln!(w, "answer {number}: {count}")?;
        }
        for (trick, count) in Iterator::zip(TRICKS.iter(), tally.tricks.iter()) {
            writeln!(w, "{trick:?}: {count}")?;
        }
        Ok(())
    }),
];

/// What is to be done.
struct Plan<'a> {
    path: &'a str,
    pool: PoolName,
    count: u64,
    seed: u64,
    depth: usize,
    sessions: u64,
}

/// What became of the messages.
struct Tally {
    sent: u64,
    /// Refused by the node.
    refused: u64,
    /// Answered well, and there was nothing wrong with them.
    harmless: u64,
    /// Lost with their session.
    lost: u64,
    /// Answered well, although they must be refused.
    accepted: u64,
    /// Connections that were lost, or could not be made.
    losses: u64,
    /// Of each status (or errno of RTRS), how many.
    answers: KVec<u64>,
    /// Of each trick, how many.
    tricks: [u64; TRICKS.len()],
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self {
            sent: 0,
            refused: 0,
            harmless: 0,
            lost: 0,
            accepted: 0,
            losses: 0,
            answers: KVec::from_elem(0, usize::from(Errno::MAX) + 1, GFP_KERNEL)?,
            tricks: [0; TRICKS.len()],
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent, {} refused, {} harmless, {} lost, {} accepted, {} connections lost",
            self.sent, self.refused, self.harmless, self.lost, self.accepted, self.losses
        )
    }
}

// -- Chance ------------------------------------------------------------------------------------------------

/// Numbers that look random and come again with the same seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// Another number of `bits` bits than `value`: one that is near, far, or at an end.
    fn other(&mut self, value: u64, bits: u32) -> u64 {
        let mask = u64::MAX >> (64 - bits);
        let picked = match self.below(8) {
            0 => 0,
            1 => mask,
            2 => value.wrapping_add(1),
            3 => value.wrapping_sub(1),
            4 => value ^ 1 << self.below(u64::from(bits)),
            5 => value >> 1,
            _ => self.next(),
        } & mask;
        if picked == value & mask {
            !value & mask
        } else {
            picked
        }
    }
}

// -- Messages ----------------------------------------------------------------------------------------------

/// Ways to be hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trick {
    /// Bytes without meaning.
    Noise,
    /// A good header, and noise behind it.
    FramedNoise,
    /// A batch that ends too early.
    Truncated,
    /// A batch with something behind it.
    Oversized,
    /// A batch with a few wrong bits.
    Flipped,
    /// The same with a good checksum. May be a batch that is in order.
    FlippedAndSealed,
    /// A batch of reads with one field changed, and a good checksum.
    Field,
    /// Writes to the real volume, of a client that is not quite the one there is.
    ForgedIdentity,
    /// Writes with the right identity, of which one is outside of the volume.
    OutOfRange,
    /// Writes with the right identity, but another amount of data than the message says.
    DataLength,
    /// A write with the right identity and a number that cannot be.
    Sequence,
    /// Reads with the right identity, sent as an RTRS write: a node cannot know.
    WrongDirection,
    /// Nothing wrong: reads and flushes among all that.
    Honest,
    /// A control message with a good header and an absurd body.
    ControlNoise,
    /// Queries: for what does not exist, with impossible names, with too little room for the answer.
    Query,
    /// A promise, install or detach for a member that is not quite this one.
    ControlTarget,
    /// A promise, install, detach or ping for this very member, of another client.
    ControlGeneration,
    /// One of these with a few wrong bits, and a good checksum.
    ControlFlipped,
}

use Trick::*;

/// All of them; those that come more often, more often.
const TRICKS: [Trick; 22] = [
    Noise,
    FramedNoise,
    Truncated,
    Oversized,
    Flipped,
    FlippedAndSealed,
    FlippedAndSealed,
    Field,
    Field,
    ForgedIdentity,
    ForgedIdentity,
    OutOfRange,
    DataLength,
    Sequence,
    WrongDirection,
    Honest,
    ControlNoise,
    Query,
    ControlTarget,
    ControlGeneration,
    ControlFlipped,
    Noise,
];

/// What is sent, but for the bytes of the header.
#[derive(Clone, Copy)]
struct Shot {
    trick: usize,
    dir: Dir,
    header_len: usize,
    data_len: u32,
    /// The answer must be an error.
    must_fail: bool,
}

/// Makes messages.
struct Forger<'a> {
    chance: Chance,
    pool: PoolName,
    report: &'a MemberReport,
    config: &'a Config,
}

/// Places of fields in the header of a message: offset and bits.
const KIND: (usize, u32) = (10, 16);
const LEN: (usize, u32) = (12, 32);
const CRC: (usize, u32) = (16, 32);
const FIELDS: [(usize, u32); 12] = [
    (8, 16),
    KIND,
    LEN,
    (20, 32),
    (24, 64),
    (40, 16),
    (42, 16),
    (44, 32),
    (48, 64),
    (56, 64),
    (64, 64),
    (72, 64),
];
/// Fields of a request, the same, for which anything else than what is in a good read is wrong.
const REQUEST_FIELDS: [(usize, u32); 4] = [(0, 64), (20, 8), (21, 8), (22, 16)];
const REQUEST_BYTES: usize = 24;

fn get(bytes: &[u8], (offset, bits): (usize, u32)) -> u64 {
    let mut word = [0; 8];
    let len = bits as usize / 8;
    if let Some(field) = bytes.get(offset..offset + len) {
        word[..len].copy_from_slice(field);
    }
    u64::from_le_bytes(word)
}

fn put(bytes: &mut [u8], (offset, bits): (usize, u32), value: u64) {
    let len = bits as usize / 8;
    if let Some(field) = bytes.get_mut(offset..offset + len) {
        field.copy_from_slice(&value.to_le_bytes()[..len]);
    }
}

/// Gives a message its checksum.
fn seal(message: &mut [u8]) {
    if message.len() < HEADER_BYTES {
        return;
    }
    put(message, CRC, 0);
    let (header, body) = message.split_at(HEADER_BYTES);
    let sum = !KernelCrc::crc32c(KernelCrc::crc32c(!0, body), header);
    put(message, CRC, sum.into());
}

/// Gives a message its length, and its checksum.
fn frame(message: &mut [u8]) {
    let len = message.len() as u64;
    put(message, LEN, len);
    seal(message);
}

impl Forger<'_> {
    /// Writes the next message into `out`.
    #[inline(never)]
    fn forge(&mut self, out: &mut [u8; MAX_HEADER]) -> Result<Shot> {
        let place = self.chance.index(TRICKS.len());
        let trick = TRICKS[place];
        let mut shot = Shot {
            trick: place,
            dir: Dir::Read,
            header_len: 0,
            data_len: 0,
            must_fail: true,
        };
        match trick {
            Noise | FramedNoise | ControlNoise => self.noise(trick, &mut shot, out),
            Truncated | Oversized | Flipped | FlippedAndSealed | Field | WrongDirection => {
                self.reads(&mut shot, out)?;
                self.damage(trick, &mut shot, out);
            }
            ForgedIdentity | OutOfRange | DataLength | Sequence => {
                self.writes(trick, &mut shot, out)?
            }
            Honest => self.honest(&mut shot, out)?,
            Query => self.query(&mut shot, out)?,
            ControlTarget | ControlGeneration | ControlFlipped => {
                self.control(trick, &mut shot, out)?
            }
        }
        shot.data_len = shot.data_len.min(MAX_DATA);
        Ok(shot)
    }

    fn identity(&self) -> Header {
        Header {
            pool: self.report.pool,
            member: self.report.member,
            incarnation: self.report.incarnation,
            generation: self.config.generation,
            epoch: self.config.epoch,
            watermark: Seq::NONE,
        }
    }

    /// A range in the volume of at most `max` bytes.
    fn range(&mut self, max: u32) -> (u64, u32) {
        let block = self.report.limits.logical_block;
        let len = (1 + self.chance.below(u64::from(max / block).max(1))) as u32 * block;
        let places = (self.report.geometry.size() - u64::from(len)) / u64::from(block) + 1;
        (self.chance.below(places) * u64::from(block), len)
    }

    #[inline(never)]
    fn encode(
        &self,
        requests: &[Request],
        header: &Header,
        shot: &mut Shot,
        out: &mut [u8],
    ) -> Result {
        let mut buf = [0; MAX_BATCH_BYTES];
        let mut encoder = BatchEncoder::new(&mut buf);
        for request in requests {
            encoder.push(request).map_err(impossible)?;
        }
        let bytes = encoder.finish::<KernelCrc>(header).map_err(impossible)?;
        out.get_mut(..bytes.len())
            .ok_or(EINVAL)?
            .copy_from_slice(bytes);
        shot.header_len = bytes.len();
        shot.data_len = encoder.data_len();
        Ok(())
    }

    /// A good batch of reads.
    #[inline(never)]
    fn reads(&mut self, shot: &mut Shot, out: &mut [u8]) -> Result {
        let mut requests = KVec::new();
        for _ in 0..1 + self.chance.below(8) {
            let (offset, len) = self.range(8192);
            let read = Request {
                op: Op::Read,
                flags: Flags::EMPTY,
                seq: Seq::NONE,
                offset,
                len,
                data_offset: 0,
            };
            requests.push(read, GFP_KERNEL)?;
        }
        self.encode(&requests, &self.identity(), shot, out)
    }

    fn noise(&mut self, trick: Trick, shot: &mut Shot, out: &mut [u8]) {
        shot.header_len = self.chance.index(MAX_HEADER + 1);
        if trick == ControlNoise && self.chance.coin() {
            // Of the lengths that there are.
            shot.header_len = if self.chance.coin() {
                176
            } else {
                MAX_CONTROL_BYTES
            };
        }
        shot.dir = if self.chance.coin() {
            Dir::Read
        } else {
            Dir::Write
        };
        shot.data_len = match self.chance.below(16) {
            0..4 => 0,
            4 => self.chance.below(u64::from(MAX_DATA) + 1) as u32,
            _ => self.chance.below(8192) as u32,
        };
        let message = &mut out[..shot.header_len];
        self.chance.fill(message);
        if trick == Noise || message.len() < HEADER_BYTES {
            return;
        }
        message[..8].copy_from_slice(b"rmr-msg\0");
        put(message, (8, 16), 1);
        put(message, (20, 32), 0);
        let kinds: &[Kind] = if trick == ControlNoise {
            &[
                Kind::Query,
                Kind::Promise,
                Kind::Install,
                Kind::Detach,
                Kind::Ping,
            ]
        } else {
            &[Kind::IoRead, Kind::IoWrite]
        };
        let kind = kinds[self.chance.index(kinds.len())];
        put(message, KIND, kind.wire().into());
        frame(message);
    }

    fn flip(&mut self, message: &mut [u8]) {
        let bits = message.len() * 8;
        let first = self.chance.index(bits);
        for n in 0..1 + self.chance.index(3) {
            // Different ones.
            let bit = (first + n * (1 + bits / 5)) % bits;
            message[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Damages a good batch of reads.
    fn damage(&mut self, trick: Trick, shot: &mut Shot, out: &mut [u8; MAX_HEADER]) {
        let len = shot.header_len;
        match trick {
            Truncated => {
                shot.header_len = self.chance.index(len);
                if self.chance.coin() {
                    frame(&mut out[..shot.header_len]);
                }
            }
            Oversized => {
                let more = 1 + self.chance.index(MAX_HEADER - len);
                self.chance.fill(&mut out[len..len + more]);
                shot.header_len = len + more;
                if self.chance.coin() {
                    frame(&mut out[..len + more]);
                }
            }
            Flipped => self.flip(&mut out[..len]),
            FlippedAndSealed => {
                shot.must_fail = false;
                self.flip(&mut out[..len]);
                seal(&mut out[..len]);
            }
            Field => {
                let message = &mut out[..len];
                if self.chance.coin() {
                    let field = FIELDS[self.chance.index(FIELDS.len())];
                    put(
                        message,
                        field,
                        self.chance.other(get(message, field), field.1),
                    );
                } else {
                    let at = HEADER_BYTES
                        + self.chance.index((len - HEADER_BYTES) / REQUEST_BYTES) * REQUEST_BYTES;
                    let size = self.report.geometry.size();
                    match self.chance.below(6) {
                        0 => put(
                            message,
                            (at + 8, 64),
                            size + self.chance.below(u64::MAX - size),
                        ),
                        1 => put(message, (at + 8, 64), self.chance.next() | 1),
                        2 => {
                            let field = (at + 16, 32);
                            put(message, field, self.chance.other(get(message, field), 32));
                        }
                        _ => {
                            let (offset, bits) =
                                REQUEST_FIELDS[self.chance.index(REQUEST_FIELDS.len())];
                            let field = (at + offset, bits);
                            put(message, field, self.chance.other(get(message, field), bits));
                        }
                    }
                }
                seal(message);
            }
            _ => {
                shot.dir = Dir::Write;
                shot.must_fail = false;
            }
        }
    }

    /// Writes that must not be executed.
    #[inline(never)]
    fn writes(&mut self, trick: Trick, shot: &mut Shot, out: &mut [u8]) -> Result {
        shot.dir = Dir::Write;
        let mut header = self.identity();
        let count = if trick == Sequence {
            1
        } else {
            1 + self.chance.index(8)
        };
        // Numbers that a client may be at.
        let bits = self.chance.below(40);
        let first = 1 + self.chance.below(1 << bits);
        let mut requests = KVec::new();
        for n in 0..count as u64 {
            let (offset, len) = self.range(8192);
            let zeroes = trick != DataLength && self.chance.below(8) == 0;
            let write = Request {
                op: if zeroes { Op::WriteZeroes } else { Op::Write },
                flags: Flags::new(self.chance.coin(), zeroes && self.chance.coin()),
                seq: Seq(first + n),
                offset,
                len,
                data_offset: 0,
            };
            requests.push(write, GFP_KERNEL)?;
        }
        header.watermark = Seq(first - 1);
        match trick {
            ForgedIdentity => self.wrong_identity(&mut header),
            OutOfRange => {
                let bad = self.chance.index(requests.len());
                let size = self.report.geometry.size();
                if let Some(request) = requests.get_mut(bad) {
                    let block = u64::from(self.report.limits.logical_block);
                    let len = u64::from(request.len);
                    // Just behind, over the end, far behind.
                    request.offset = match self.chance.below(3) {
                        0 => size,
                        1 => size + block - len,
                        _ => (size + self.chance.below(u64::MAX / 2)) / block * block,
                    };
                }
            }
            _ => {}
        }
        self.encode(&requests, &header, shot, out)?;
        match trick {
            DataLength => {
                // Less, also none, or more.
                shot.data_len = self.chance.other(shot.data_len.into(), 17) as u32 % MAX_DATA;
                let said = get(&*out, (44, 32)) as u32;
                if shot.data_len == said {
                    shot.data_len += 512;
                }
            }
            Sequence => {
                let message = &mut out[..shot.header_len];
                // At or below the message's own watermark; none; more than there can be.
                match self.chance.below(3) {
                    0 => put(message, (80, 64), first + self.chance.below(1 << 40)),
                    1 => put(message, (HEADER_BYTES, 64), 0),
                    _ => {
                        put(message, (80, 64), 0);
                        put(message, (HEADER_BYTES, 64), 1 << 52 | self.chance.next());
                    }
                }
                seal(message);
            }
            ForgedIdentity if self.chance.below(4) == 0 => shot.dir = Dir::Read,
            _ => {}
        }
        Ok(())
    }

    fn other_uuid(&mut self, uuid: Uuid) -> Uuid {
        let mut bytes = uuid.0;
        if self.chance.coin() {
            bytes[self.chance.index(16)] ^= 1 << self.chance.below(8);
        } else {
            self.chance.fill(&mut bytes);
        }
        // Never empty, which is not a UUID at all.
        bytes[0] |= u8::from(bytes == [0; 16]);
        if bytes == uuid.0 {
            bytes[15] ^= 1;
        }
        Uuid(bytes)
    }

    fn other_member(&mut self, member: MemberId) -> MemberId {
        let id = 1 + (u64::from(member.get()) + self.chance.below(31)) % 32;
        MemberId::new(id as u32).unwrap_or(member)
    }

    /// Another number than `value`, and not 0.
    fn other_number(&mut self, value: u64) -> u64 {
        match self.chance.other(value, 64) {
            0 if value == 1 => 2,
            0 => 1,
            other => other,
        }
    }

    /// Makes one thing wrong.
    fn wrong_identity(&mut self, header: &mut Header) {
        match self.chance.below(6) {
            0 => header.pool = self.other_uuid(header.pool),
            1 => header.member = self.other_member(header.member),
            2 => header.incarnation = Incarnation(self.other_number(header.incarnation.0)),
            3 => header.generation.number = self.other_number(header.generation.number),
            4 => header.generation.nonce = self.other_number(header.generation.nonce),
            _ => header.epoch = Epoch(self.other_number(header.epoch.0)),
        }
    }

    fn honest(&mut self, shot: &mut Shot, out: &mut [u8]) -> Result {
        shot.must_fail = false;
        if self.chance.below(50) > 0 {
            return self.reads(shot, out);
        }
        shot.dir = Dir::Write;
        let flush = Request {
            op: Op::Flush,
            flags: Flags::EMPTY,
            seq: Seq::NONE,
            offset: 0,
            len: 0,
            data_offset: 0,
        };
        self.encode(&[flush], &self.identity(), shot, out)
    }

    #[inline(never)]
    fn encode_control(&self, message: &Control, shot: &mut Shot, out: &mut [u8]) -> Result {
        let mut buf = [0; MAX_CONTROL_BYTES];
        let bytes = message.encode::<KernelCrc>(&mut buf).map_err(|_| EINVAL)?;
        out.get_mut(..bytes.len())
            .ok_or(EINVAL)?
            .copy_from_slice(bytes);
        shot.header_len = bytes.len();
        shot.data_len = REPLY_BYTES as u32;
        Ok(())
    }

    #[inline(never)]
    fn query(&mut self, shot: &mut Shot, out: &mut [u8]) -> Result {
        let name = match self.chance.coin() {
            true => self.pool,
            false => PoolName::new(b"no-such-pool").map_err(|_| EINVAL)?,
        };
        let known = name == self.pool;
        self.encode_control(&Control::Query { name }, shot, out)?;
        let message = &mut out[..shot.header_len];
        match self.chance.below(4) {
            0 => shot.must_fail = !known,
            // No room, or too little.
            1 => shot.data_len = self.chance.below(200) as u32,
            2 => {
                shot.dir = Dir::Write;
                shot.must_fail = false;
            }
            _ => {
                // A name that is none: with a slash, without end, empty, with something behind it.
                let field = &mut message[HEADER_BYTES..HEADER_BYTES + 64];
                match self.chance.below(4) {
                    0 => field[0] = b'/',
                    1 => field.fill(b'a'),
                    2 => field.fill(0),
                    _ => field[63] = b'x',
                }
                seal(message);
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn control(&mut self, trick: Trick, shot: &mut Shot, out: &mut [u8]) -> Result {
        let mut to = Target {
            name: self.pool,
            pool: self.report.pool,
            store: self.report.store,
            member: self.report.member,
            incarnation: self.report.incarnation,
        };
        let mut config = self.config.clone();
        let mut generation = config.generation;
        if trick == ControlTarget {
            match self.chance.below(4) {
                0 => to.pool = self.other_uuid(to.pool),
                1 => to.store = self.other_uuid(to.store),
                2 => to.member = self.other_member(to.member),
                _ => to.incarnation = Incarnation(self.other_number(to.incarnation.0)),
            }
            // Whatever generation.
            match self.chance.below(3) {
                0 => {}
                1 => generation.number = self.other_number(generation.number),
                _ => {
                    generation.number = generation
                        .number
                        .saturating_add(1 + self.chance.below(1 << 40))
                }
            }
        } else {
            // Far from the right one, so that a few flipped bits do not lead there.
            generation.nonce = !generation.nonce;
        }
        if trick == ControlFlipped {
            to.store = Uuid(to.store.0.map(|b| !b));
        }
        config.generation = generation;
        // The configuration names the store of the member it is sent to, and its incarnation.
        config.members[to.member.index()] = Some(to.store);
        config.incarnations[to.member.index()] = to.incarnation;
        config.in_sync = config.in_sync.with(to.member);
        let epoch = config.epoch;
        let watermark = Seq(self.chance.next());
        let message = match self.chance.below(4) {
            0 => Control::Promise {
                to,
                // Not above the one that the member has promised.
                generation: match trick {
                    ControlTarget => generation,
                    _ => Generation {
                        number: self
                            .report
                            .promised
                            .number
                            .min(1 + self.chance.below(1 << 20)),
                        nonce: !self.report.promised.nonce,
                    },
                },
                fences: match self.chance.below(3) {
                    0 => Fences::Dead,
                    1 => Fences::Alive,
                    _ => Fences::Nobody,
                },
            },
            1 => Control::Install {
                to,
                config,
                assign: self.chance.coin(),
                joins: self.chance.coin(),
                discard: self.chance.coin(),
            },
            2 => Control::Detach {
                to,
                generation,
                epoch,
                watermark,
            },
            _ => Control::Ping {
                to,
                generation,
                epoch,
                watermark,
            },
        };
        // A ping changes nothing, so it does not matter that it does not name the right store.
        if matches!(message, Control::Ping { .. }) && trick == ControlTarget {
            shot.must_fail = false;
        }
        // The encoder refuses some of these, as it should.
        if self.encode_control(&message, shot, out).is_err() {
            return self.query(shot, out);
        }
        if trick == ControlFlipped {
            let message = &mut out[..shot.header_len];
            self.flip(message);
            seal(message);
            // A flipped kind may make a query of it, but then there are fields that a query has not.
        }
        if self.chance.below(16) == 0 {
            shot.data_len = self.chance.below(700) as u32;
        }
        Ok(())
    }
}

fn impossible(_: EncodeError) -> Error {
    pr_err!("a message could not be encoded\n");
    EINVAL
}

// -- Sending -----------------------------------------------------------------------------------------------

struct Link;

impl LinkHandler for Link {
    fn link(&self, _event: LinkEvent) {}
}

/// Where messages come back to.
#[pin_data]
struct Home {
    parks: KVec<Park<KBox<Message<Context>>>>,
    #[pin]
    queue: WaitQueue,
}

/// What a message knows.
struct Context {
    home: Arc<Home>,
    place: usize,
    /// As it was sent; `None` before the first time.
    shot: Option<Shot>,
    result: Result<(), Errno>,
}

impl Confirm for Context {
    fn confirmed(mut message: KBox<Message<Self>>, permit: Permit, result: Result<(), Errno>) {
        drop(permit);
        message.ctx_mut().result = result;
        let home = message.ctx().home.clone();
        let place = message.ctx().place;
        if let Some(park) = home.parks.get(place) {
            // Its own place, which is empty.
            let _ = park.put(message);
        }
        home.queue.wake_all();
    }
}

impl Home {
    fn new(depth: usize) -> Result<Arc<Self>> {
        let mut parks = KVec::with_capacity(depth, GFP_KERNEL)?;
        for _ in 0..depth {
            parks.push(Park::new(), GFP_KERNEL)?;
        }
        let home = Arc::pin_init(
            pin_init!(Self {
                parks,
                queue <- WaitQueue::new(),
            }),
            GFP_KERNEL,
        )?;
        for (place, park) in Iterator::enumerate(home.parks.iter()) {
            let context = Context {
                home: home.clone(),
                place,
                shot: None,
                result: Ok(()),
            };
            let _ = park.put(Message::new(32, context)?);
        }
        Ok(home)
    }

    /// Waits until `wanted` messages are at home.
    fn wait(&self, wanted: usize) -> Result {
        let parked = || self.parks.iter().filter(|p| !p.is_empty()).count();
        self.queue
            .wait_until_killable(PATIENCE_MS, || parked() >= wanted)
    }
}

/// Looks at the answer to a message, once.
fn judge(message: &mut Message<Context>, tally: &mut Tally) {
    let Some(shot) = message.ctx_mut().shot.take() else {
        return;
    };
    let status = match message.ctx().result {
        Err(errno) => {
            if let Some(count) = tally.answers.get_mut(usize::from(errno.number())) {
                *count += 1;
            }
            if Status::from_wire(errno.number()).is_some() {
                tally.refused += 1;
            } else {
                tally.lost += 1;
            }
            return;
        }
        // The reply to a control message has a status of its own.
        Ok(()) => {
            let mut reply = [0; 24];
            match message.read_owned(0, &mut reply) {
                Ok(()) if shot.dir == Dir::Read && reply.starts_with(b"rmr-rep\0") => {
                    get(&reply, (20, 16))
                }
                _ => 0,
            }
        }
    };
    if let Some(count) = tally.answers.get_mut(status as usize) {
        *count += 1;
    }
    if status != 0 {
        tally.refused += 1;
    } else if !shot.must_fail {
        tally.harmless += 1;
    } else {
        tally.accepted += 1;
        if tally.accepted <= NAMED {
            pr_err!(
                "accepted: {:?}, {:?} with {} bytes of header and {} of data\n",
                TRICKS[shot.trick],
                shot.dir,
                shot.header_len,
                shot.data_len
            );
        }
    }
}

/// Sends `count` messages over one session; `finish`: and waits for all answers, else closes it before. How many were
/// sent: fewer, if the connection was lost.
#[inline(never)]
fn assault(
    session: rtrs::Session<Link>,
    forger: &mut Forger<'_>,
    home: &Home,
    tally: &mut Tally,
    count: u64,
    finish: bool,
) -> Result<u64> {
    let mut header = KBox::new([0; MAX_HEADER], GFP_KERNEL)?;
    let mut sent = 0;
    let mut lost = false;
    while sent < count && !lost {
        match home.wait(1) {
            Ok(()) => {}
            Err(ETIMEDOUT) => {
                pr_err!("no answer for {} ms\n", PATIENCE_MS);
                lost = true;
            }
            Err(error) => return Err(error),
        }
        for park in home.parks.iter() {
            if sent == count || lost {
                break;
            }
            let Some(mut message) = park.take() else {
                continue;
            };
            judge(&mut message, tally);
            let result = shoot(&session, forger, &mut header, message, tally);
            match result {
                Ok(()) => sent += 1,
                Err((message, error)) => {
                    let _ = park.put(message);
                    if error.to_errno() == -ECONNABORTED {
                        lost = true;
                    } else if error != EAGAIN && error != ENOMEM {
                        pr_err!("a message could not be sent: {}\n", error.to_errno());
                        return Err(error);
                    }
                    time::sleep_ms(1);
                }
            }
        }
    }
    if finish && !lost {
        home.wait(home.parks.len())?;
    }
    tally.losses += u64::from(lost);
    drop(session);
    home.wait(home.parks.len())?;
    for park in home.parks.iter() {
        if let Some(mut message) = park.take() {
            judge(&mut message, tally);
            let _ = park.put(message);
        }
    }
    Ok(sent)
}

/// Sends the next message; what could not be sent comes back.
#[inline(never)]
fn shoot(
    session: &rtrs::Session<Link>,
    forger: &mut Forger<'_>,
    header: &mut [u8; MAX_HEADER],
    mut message: KBox<Message<Context>>,
    tally: &mut Tally,
) -> Result<(), (KBox<Message<Context>>, Error)> {
    let Some(permit) = session.permit() else {
        return Err((message, EAGAIN));
    };
    let shot = match forger.forge(header) {
        Ok(shot) => shot,
        Err(error) => return Err((message, error)),
    };
    message.clear();
    if shot.data_len > 0 {
        let mut bytes = [0; 64];
        forger.chance.fill(&mut bytes);
        let start = bytes.len().min(shot.data_len as usize);
        let filled = message
            .push_owned(shot.data_len)
            .and_then(|()| message.write_owned(0, &bytes[..start]));
        if let Err(error) = filled {
            return Err((message, error));
        }
    }
    message.ctx_mut().shot = Some(shot);
    match session.send(permit, message, shot.dir, &header[..shot.header_len]) {
        Ok(()) => {
            tally.sent += 1;
            if let Some(count) = tally.tricks.get_mut(shot.trick) {
                *count += 1;
            }
            Ok(())
        }
        Err(mut refused) => {
            refused.message.ctx_mut().shot = None;
            Err((refused.message, refused.error))
        }
    }
}

/// Asks the node who it is. Reports are too large for the stacks of those who send.
#[inline(never)]
fn ask(session: &rtrs::Session<Link>, pool: PoolName) -> Result<KBox<MemberReport>> {
    let mut header = KBox::new([0; MAX_CONTROL_BYTES], GFP_KERNEL)?;
    let mut reply = KVec::from_elem(0u8, REPLY_BYTES, GFP_KERNEL)?;
    let query = Control::Query { name: pool };
    let bytes = query.encode::<KernelCrc>(&mut header).map_err(|_| EINVAL)?;
    session
        .call(bytes, &mut reply[..], PATIENCE_MS)
        .map_err(|_| EIO)?;
    let reply = Reply::parse::<KernelCrc>(&reply[..], Kind::Query).map_err(|_| EIO)?;
    match reply.report {
        Some(report) if report.serving => Ok(KBox::new(report, GFP_KERNEL)?),
        _ => {
            pr_err!(
                "the node does not serve the pool {} ({})\n",
                core::format_args!("{pool}"),
                reply.status.wire()
            );
            Err(ENODEV)
        }
    }
}

fn run(plan: &Plan<'_>, tally: &mut Tally) -> Result {
    let paths = [PathAddr::parse(plan.path, PORT)?];
    let home = Home::new(plan.depth)?;
    let result = run_sessions(plan, &paths, &home, tally);
    // The messages at home have references to it.
    for park in home.parks.iter() {
        drop(park.take());
    }
    result
}

#[inline(never)]
fn run_sessions(plan: &Plan<'_>, paths: &[PathAddr], home: &Home, tally: &mut Tally) -> Result {
    // A node may know the name of an earlier session for a while.
    let prefix = rand::u64() as u32;
    let mut left = plan.count;
    let mut n = 0;
    while left > 0 {
        n += 1;
        if tally.losses > MAX_LOSSES {
            pr_err!("the connection was lost {} times\n", tally.losses);
            return Err(EIO);
        }
        let name = CString::try_from_fmt(fmt!("hostile-{:08x}-{}", prefix, n))?;
        let config = SessionConfig {
            name: &name,
            paths,
            port: PORT,
            reconnect_delay_s: 1,
            max_reconnect: -1,
        };
        let session = match rtrs::Session::open(&config, Arc::new(Link, GFP_KERNEL)?) {
            Ok(session) => session,
            Err(error) => {
                pr_err!("no connection: {}\n", error.to_errno());
                tally.losses += 1;
                continue;
            }
        };
        let report = ask(&session, plan.pool)?;
        let installed = report.installed.as_ref().ok_or(ENODEV)?;
        let mut forger = Forger {
            chance: Chance(plan.seed.wrapping_mul(0x1_0000_0001).wrapping_add(n)),
            pool: plan.pool,
            report: &report,
            config: installed,
        };
        self_test(&mut forger)?;
        // All but the last one end early, with messages in flight; one after a lost connection is one more.
        let share = plan.count.div_ceil(plan.sessions).min(left);
        left -= assault(session, &mut forger, home, tally, share, share == left)?;
    }
    Ok(())
}

/// The peer knows how to make a good message, so that what it damages is one.
#[inline(never)]
fn self_test(forger: &mut Forger<'_>) -> Result {
    let mut out = KBox::new([0; MAX_HEADER], GFP_KERNEL)?;
    let mut shot = Shot {
        trick: 0,
        dir: Dir::Read,
        header_len: 0,
        data_len: 0,
        must_fail: false,
    };
    forger.reads(&mut shot, &mut out[..])?;
    let message = &mut out[..shot.header_len];
    frame(message);
    if Batch::parse::<KernelCrc>(message).is_err() {
        pr_err!("the peer does not know the protocol\n");
        return Err(EIO);
    }
    Ok(())
}
