// SPDX-License-Identifier: GPL-2.0

//! A stranger: opens RTRS sessions to a storage node whose pool has a secret, and asks for all there is, before it has proved
//! anything, after it has proved the wrong thing, and after it has proved to know the secret for one role only.
//!
//! ```text
//! echo "path=ip:10.77.1.1 pool=NAME uuid=UUID member_id=1 secret=KEY" > /sys/class/rmr-stranger/ctl/run
//! ```
//!
//! The pool must be served by that node. The write ends with an error at the first answer that is not the right one, which the
//! log names. tests/vm/secret.sh runs it.

use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use rmr_engine::options::Key;
use rmr_engine::options::Options;
use rmr_proto::Address;
use rmr_proto::Ask;
use rmr_proto::BatchEncoder;
use rmr_proto::Challenge;
use rmr_proto::Config;
use rmr_proto::Control;
use rmr_proto::Epoch;
use rmr_proto::Fences;
use rmr_proto::Flags;
use rmr_proto::Generation;
use rmr_proto::Header;
use rmr_proto::Incarnation;
use rmr_proto::Mark;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_proto::Merge;
use rmr_proto::Nonce;
use rmr_proto::Op;
use rmr_proto::Peer;
use rmr_proto::PoolName;
use rmr_proto::Proof;
use rmr_proto::Quorum;
use rmr_proto::Request;
use rmr_proto::Response;
use rmr_proto::Role;
use rmr_proto::Run;
use rmr_proto::Seq;
use rmr_proto::Status;
use rmr_proto::Target;
use rmr_proto::Uuid;
use rmr_proto::ADDRESS_BYTES;
use rmr_proto::CHALLENGE_BYTES;
use rmr_proto::MAX_BATCH_BYTES;
use rmr_proto::MAX_CONTROL_BYTES;
use rmr_proto::MAX_MEMBERS;
use rmr_proto::MAX_MERGE_BYTES;
use rmr_proto::MAX_PEER_BYTES;
use rmr_proto::MERGE_HEADER_BYTES;
use rmr_proto::NONCE_BYTES;
use rmr_proto::PROOF_BYTES;
use rmr_proto::REPLY_BYTES;
use rmr_proto::RESPONSE_BYTES;
use rmr_sys::crc::KernelCrc;
use rmr_sys::hmac::HmacKey;
use rmr_sys::key;
use rmr_sys::rand;
use rmr_sys::slots::Park;
use rmr_sys::sysfs::no_data;
use rmr_sys::sysfs::Attr;
use rmr_sys::sysfs::Class;
use rmr_sys::sysfs::Dir as Folder;
use rmr_sys::wait::Event;
use rtrs::CallError;
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
    type: Stranger,
    name: "rmr_stranger",
    authors: ["The RMR project"],
    description: "Test: somebody who does not know the secret of a pool",
    license: "GPL",
}

/// Port that nodes listen on.
const PORT: u16 = 1234;
/// How long a message may take to be answered, in ms.
const PATIENCE_MS: u32 = 60_000;
/// Handshakes that are begun, and ended wrongly.
const ROUNDS: u32 = 300;

/// Fails the test that it is in, and says where.
macro_rules! check {
    ($what:expr) => {
        if !$what {
            pr_err!("line {}: not so: {}\n", line!(), stringify!($what));
            return Err(EPIPE);
        }
    };
}

struct Stranger {
    _ctl: Folder<()>,
    _class: Class,
}

impl kernel::Module for Stranger {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let class = Class::register(c"rmr-stranger")?;
        Ok(Self {
            _ctl: Folder::in_class(&class, c"ctl", no_data()?, &CTL)?,
            _class: class,
        })
    }
}

static CTL: [Attr<()>; 1] = [Attr::wo(
    c"run",
    "path=<address> pool=<name> uuid=<uuid> member_id=<1..32> secret=<key>",
    |_, line| {
        const KEYS: &[Key] = &[
            Key::once("path"),
            Key::once("pool"),
            Key::once("uuid"),
            Key::once("member_id"),
            Key::once("secret"),
        ];
        let parse = || {
            let options = Options::parse(line, KEYS)?;
            Ok((
                options.require("path")?.text()?,
                options.require("pool")?.pool()?,
                options.require("uuid")?.text()?,
                options.require("member_id")?.member()?,
                options.require("secret")?.text()?,
            ))
        };
        let (path, pool, uuid, member, secret) =
            parse().map_err(|error: rmr_engine::options::Error<'_>| {
                pr_err!("run: {}\n", core::format_args!("{error}"));
                EINVAL
            })?;
        let secret = CString::try_from_fmt(fmt!("{secret}"))?;
        run(&Victim {
            path: PathAddr::parse(path, PORT)?,
            pool,
            uuid: uuid.parse().map_err(|_| EINVAL)?,
            member,
            key: key::with_payload(&secret, HmacKey::new)??,
        })
    },
)];

/// Whom it is about.
struct Victim {
    path: PathAddr,
    pool: PoolName,
    uuid: Uuid,
    member: MemberId,
    key: HmacKey,
}

// -- One message, and its answer ---------------------------------------------------------------------------

struct Link;

impl LinkHandler for Link {
    fn link(&self, _event: LinkEvent) {}
}

type Session = rtrs::Session<Link>;

/// Where a message comes back to.
#[pin_data]
struct Home {
    park: Park<KBox<Message<Context>>>,
    #[pin]
    back: Event,
}

struct Context {
    home: Arc<Home>,
    result: Result<(), Errno>,
}

impl Confirm for Context {
    fn confirmed(mut message: KBox<Message<Self>>, permit: Permit, result: Result<(), Errno>) {
        drop(permit);
        message.ctx_mut().result = result;
        let home = message.ctx().home.clone();
        let _ = home.park.put(message);
        home.back.set();
    }
}

/// The answer to a message with data.
fn write(session: &Session, header: &[u8], data: &[u8]) -> Result<Status> {
    let home = Arc::pin_init(
        pin_init!(Home {
            park: Park::new(),
            back <- Event::new(),
        }),
        GFP_KERNEL,
    )?;
    let context = Context {
        home: home.clone(),
        result: Ok(()),
    };
    let mut message = Message::new(8, context)?;
    message.push_owned(data.len() as u32)?;
    message.write_owned(0, data)?;
    let permit = session.permit().ok_or(EAGAIN)?;
    session
        .send(permit, message, Dir::Write, header)
        .map_err(|refused| refused.error)?;
    home.back.wait();
    let message = home.park.take().ok_or(EIO)?;
    Ok(match message.ctx().result {
        Ok(()) => Status::Ok,
        Err(errno) => Status::from_errno(i32::from(errno.number())),
    })
}

/// The answer to any other one.
fn read(session: &Session, header: &[u8], reply: &mut [u8]) -> Result<Status> {
    match session.call(header, reply, PATIENCE_MS) {
        Ok(()) => Ok(Status::Ok),
        Err(CallError::Answered(errno)) => Ok(Status::from_errno(i32::from(errno.number()))),
        Err(CallError::Failed(error)) => Err(error),
    }
}

// -- Messages ----------------------------------------------------------------------------------------------

const GENERATION: Generation = Generation {
    number: 1 << 40,
    nonce: 7,
};
const INCARNATION: Incarnation = Incarnation(1 << 40);
const EPOCH: Epoch = Epoch(1 << 40);

impl Victim {
    fn open(&self) -> Result<Session> {
        let name = CString::try_from_fmt(fmt!("stranger-{:016x}", rand::u64()))?;
        let paths = [PathAddr::parse(
            core::str::from_utf8(self.path.text(&mut [0; 160])).map_err(|_| EINVAL)?,
            PORT,
        )?];
        let config = SessionConfig {
            name: &name,
            paths: &paths,
            port: PORT,
            reconnect_delay_s: 1,
            max_reconnect: -1,
        };
        rtrs::Session::open(&config, Arc::new(Link, GFP_KERNEL)?)
    }

    fn other(&self) -> Result<MemberId> {
        MemberId::new(if self.member.get() == 1 { 2 } else { 1 }).ok_or(EINVAL)
    }

    fn target(&self) -> Target {
        Target {
            name: self.pool,
            pool: self.uuid,
            store: Uuid([9; 16]),
            member: self.member,
            incarnation: INCARNATION,
        }
    }

    fn header(&self) -> Header {
        Header {
            pool: self.uuid,
            member: self.member,
            incarnation: INCARNATION,
            generation: GENERATION,
            epoch: EPOCH,
            watermark: Seq::NONE,
        }
    }

    #[inline(never)]
    fn io(&self, session: &Session, op: Op) -> Result<Status> {
        let mut buf = [0; MAX_BATCH_BYTES];
        let mut encoder = BatchEncoder::new(&mut buf);
        let seq = if op == Op::Write { Seq(1) } else { Seq::NONE };
        let request = Request {
            op,
            flags: Flags::EMPTY,
            seq,
            offset: 0,
            len: 4096,
            data_offset: 0,
        };
        encoder.push(&request).map_err(|_| EINVAL)?;
        let header = encoder
            .finish::<KernelCrc>(&self.header())
            .map_err(|_| EINVAL)?;
        let mut data = KVec::from_elem(0x55u8, 4096, GFP_KERNEL)?;
        if op == Op::Write {
            write(session, header, &data)
        } else {
            read(session, header, &mut data)
        }
    }

    #[inline(never)]
    fn control(&self, session: &Session, message: &Control) -> Result<Status> {
        let mut header = KBox::new([0; MAX_CONTROL_BYTES], GFP_KERNEL)?;
        let mut reply = KVec::from_elem(0u8, REPLY_BYTES, GFP_KERNEL)?;
        let bytes = message
            .encode::<KernelCrc>(&mut header)
            .map_err(|_| EINVAL)?;
        read(session, bytes, &mut reply)
    }

    fn query(&self, session: &Session) -> Result<Status> {
        self.control(session, &Control::Query { name: self.pool })
    }

    #[inline(never)]
    fn install(&self, session: &Session) -> Result<Status> {
        let to = self.target();
        let mut members = [None; MAX_MEMBERS];
        let mut incarnations = [Incarnation::NONE; MAX_MEMBERS];
        members[to.member.index()] = Some(to.store);
        incarnations[to.member.index()] = INCARNATION;
        let config = Config {
            generation: GENERATION,
            epoch: EPOCH,
            in_sync: MemberSet::only(to.member),
            catching_up: MemberSet::EMPTY,
            members,
            incarnations,
            persisted: [Epoch::NONE; MAX_MEMBERS],
            clean: false,
            history: self.uuid,
            forked_from: None,
            quorum: Quorum::Off,
            maintenance: MemberSet::EMPTY,
        };
        let message = Control::Install {
            to,
            config,
            assign: false,
            joins: true,
            discard: true,
        };
        self.control(session, &message)
    }

    #[inline(never)]
    fn merge(&self, session: &Session) -> Result<Status> {
        let marks = [Mark::new(Run::new(0, 1), MemberSet::only(self.member))];
        let merge = Merge {
            to: self.target(),
            generation: GENERATION,
            marks: &marks,
        };
        let mut buf = KBox::<[u8; MAX_MERGE_BYTES]>::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        let bytes = merge.encode::<KernelCrc>(&mut buf).map_err(|_| EINVAL)?;
        let (header, data) = bytes.split_at_checked(MERGE_HEADER_BYTES).ok_or(EINVAL)?;
        write(session, header, data)
    }

    #[inline(never)]
    fn address(&self, session: &Session) -> Result<Status> {
        let mut bytes = KBox::new([0; ADDRESS_BYTES], GFP_KERNEL)?;
        let address = Address {
            name: self.pool,
            of: self.other()?,
            text: "ip:10.77.1.99",
        };
        address
            .encode::<KernelCrc>(&mut bytes)
            .map_err(|_| EINVAL)?;
        read(session, &bytes[..], &mut [0; 8])
    }

    #[inline(never)]
    fn peer(&self, session: &Session, ask: Ask<'_>) -> Result<Status> {
        let mut buf = [0; MAX_PEER_BYTES];
        let mut reply = KVec::from_elem(0u8, REPLY_BYTES, GFP_KERNEL)?;
        let peer = Peer {
            to: self.header(),
            from: self.other()?,
            ask,
        };
        let bytes = peer.encode::<KernelCrc>(&mut buf).map_err(|_| EINVAL)?;
        read(session, bytes, &mut reply)
    }

    fn challenge(&self, role: Role) -> Challenge {
        let mut nonce = [1; NONCE_BYTES];
        rand::fill(&mut nonce[1..]);
        Challenge {
            name: self.pool,
            role,
            nonce: Nonce(nonce),
        }
    }

    /// Sends a challenge; the proof that would be right.
    #[inline(never)]
    fn begin(&self, session: &Session, role: Role) -> Result<(Response, Proof)> {
        let challenge = self.challenge(role);
        let mut header = [0; CHALLENGE_BYTES];
        let mut reply = [0; RESPONSE_BYTES];
        challenge
            .encode::<KernelCrc>(&mut header)
            .map_err(|_| EINVAL)?;
        check!(read(session, &header, &mut reply)? == Status::Ok);
        let response = Response::parse::<KernelCrc>(&reply).map_err(|_| EPIPE)?;
        check!(response.member == self.member);
        let proof = challenge.prove(&self.key, &response).ok_or(EPIPE)?;
        Ok((response, proof))
    }

    #[inline(never)]
    fn end(&self, session: &Session, proof: &Proof) -> Result<Status> {
        let mut header = [0; PROOF_BYTES];
        proof.encode::<KernelCrc>(&mut header).map_err(|_| EINVAL)?;
        read(session, &header, &mut [0; 8])
    }
}

// -- What must be so ---------------------------------------------------------------------------------------

const NO: Status = Status::NotAuthenticated;

impl Victim {
    /// Nothing that a client may do is done.
    #[inline(never)]
    fn is_no_client(&self, session: &Session) -> Result {
        let to = self.target();
        let (generation, epoch, watermark) = (GENERATION, EPOCH, Seq::NONE);
        check!(self.query(session)? == NO);
        let promise = Control::Promise {
            to,
            generation,
            fences: Fences::Alive,
        };
        check!(self.control(session, &promise)? == NO);
        check!(self.install(session)? == NO);
        let detach = Control::Detach {
            to,
            generation,
            epoch,
            watermark,
        };
        check!(self.control(session, &detach)? == NO);
        let ping = Control::Ping {
            to,
            generation,
            epoch,
            watermark,
        };
        check!(self.control(session, &ping)? == NO);
        check!(self.merge(session)? == NO);
        check!(self.address(session)? == NO);
        check!(self.io(session, Op::Read)? == NO);
        check!(self.io(session, Op::Write)? == NO);
        Ok(())
    }

    /// Nothing that another member may do is done.
    #[inline(never)]
    fn is_no_peer(&self, session: &Session) -> Result {
        let of = self.member;
        let run = Run::new(0, 1);
        check!(self.peer(session, Ask::FetchDirty { of, page: 0 })? == NO);
        let pull = Ask::Pull {
            offset: 0,
            len: 4096,
        };
        check!(self.peer(session, pull)? == NO);
        check!(self.peer(session, Ask::Clear { runs: &[run] })? == NO);
        check!(self.peer(session, Ask::Begun)? == NO);
        Ok(())
    }

    fn is_nobody(&self, session: &Session) -> Result {
        self.is_no_client(session)?;
        self.is_no_peer(session)
    }
}

fn run(victim: &Victim) -> Result {
    let first = victim.open()?;
    victim.is_nobody(&first)?;
    wrong_proofs(victim, &first)?;

    // What is right over one session is not over another one.
    let second = victim.open()?;
    let (_, client) = victim.begin(&first, Role::Client)?;
    check!(victim.end(&second, &client)? == Status::WrongSecret);
    victim.is_nobody(&second)?;
    victim.is_nobody(&first)?;

    // A client is no member.
    check!(victim.end(&first, &client)? == Status::Ok);
    check!(victim.query(&first)? == Status::Ok);
    check!(victim.io(&first, Op::Read)? != NO);
    victim.is_no_peer(&first)?;
    victim.is_nobody(&second)?;
    // Once more, and one that fails: what was proved is.
    check!(victim.end(&first, &client)? == Status::Ok);
    let (_, mut wrong) = victim.begin(&first, Role::Client)?;
    wrong.mac.0[0] ^= 1;
    check!(victim.end(&first, &wrong)? == Status::WrongSecret);
    check!(victim.query(&first)? == Status::Ok);

    // A member is no client; it may become one.
    let (_, peer) = victim.begin(&second, Role::Peer)?;
    check!(victim.end(&second, &peer)? == Status::Ok);
    check!(victim.peer(&second, Ask::Begun)? != NO);
    victim.is_no_client(&second)?;
    let (_, client) = victim.begin(&second, Role::Client)?;
    check!(victim.end(&second, &client)? == Status::Ok);
    check!(victim.query(&second)? == Status::Ok);
    check!(victim.peer(&second, Ask::Begun)? != NO);

    // Another connection has proved nothing.
    drop(second);
    let third = victim.open()?;
    victim.is_nobody(&third)?;
    check!(victim.end(&third, &client)? == Status::WrongSecret);
    victim.is_nobody(&third)
}

/// Handshakes that lead nowhere, as many as there may be at once, and more.
#[inline(never)]
fn wrong_proofs(victim: &Victim, session: &Session) -> Result {
    for round in 0..ROUNDS {
        let role = if round & 1 == 0 {
            Role::Client
        } else {
            Role::Peer
        };
        let (response, mut proof) = victim.begin(session, role)?;
        match round % 5 {
            // Left unfinished.
            0 => continue,
            1 => proof.mac.0[round as usize % 32] ^= 1 << (round % 8),
            2 => {
                proof.role = if role == Role::Client {
                    Role::Peer
                } else {
                    Role::Client
                }
            }
            3 => rand::fill(&mut proof.nonce.0[1..]),
            // What the member itself said.
            _ => proof.mac = response.mac,
        }
        check!(victim.end(session, &proof)? == Status::WrongSecret);
    }
    victim.is_nobody(session)?;
    let name = PoolName::new(b"no-such-pool").map_err(|_| EINVAL)?;
    let (_, mut proof) = victim.begin(session, Role::Client)?;
    proof.name = name;
    check!(victim.end(session, &proof)? == Status::NoPool);
    Ok(())
}
