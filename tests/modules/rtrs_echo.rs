// SPDX-License-Identifier: GPL-2.0

//! Tests the crate `rtrs` in the kernel: a client and a server in one module, connected over RDMA.
//!
//! Loading the module runs everything; it stays loaded if all is well. `ip` is an address of this machine's
//! own RDMA device, as a number. Results are lines `rtrs_echo: ok NAME` in the log, and one with the total.
//!
//! `misuse=1` drops a session where it cannot be closed, after which the module cannot be unloaded any more.

use core::mem::replace;
use kernel::bindings;
use kernel::new_mutex;
use kernel::page::Page;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::str::CString;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;
use kernel::sync::Completion;
use kernel::sync::Mutex;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::time::Instant;
use kernel::time::Monotonic;
use kernel::workqueue;
use rtrs::CallError;
use rtrs::Confirm;
use rtrs::Dir;
use rtrs::Errno;
use rtrs::IoData;
use rtrs::LinkEvent;
use rtrs::LinkHandler;
use rtrs::Message;
use rtrs::Op;
use rtrs::PathAddr;
use rtrs::Permit;
use rtrs::PushError;
use rtrs::Server;
use rtrs::ServerOps;
use rtrs::SessionConfig;

type Session = rtrs::Session<Link>;

module! {
    type: Echo,
    name: "rtrs_echo",
    authors: ["RMR project"],
    description: "Test of the crate rtrs",
    license: "GPL",
    params: {
        ip: u32 {
            default: 0x7f00_0001,
            description: "IPv4 address of this machine's RDMA device",
        },
        ip2: u32 {
            default: 0,
            description: "Address of a second device, for a second path",
        },
        port: u16 {
            default: 7700,
            description: "Port of the server",
        },
        rounds: u32 {
            default: 20000,
            description: "Requests of the throughput test",
        },
        closes: u32 {
            default: 3,
            description: "How often a session is closed under load",
        },
        misuse: u32 {
            default: 0,
            description: "Drop a session in atomic context at the end",
        },
    },
}

/// The value of a module parameter.
macro_rules! parameter {
    ($name:ident) => {{
        #[cfg(kernel_7_3)]
        let value = module_parameters::$name.value();
        #[cfg(not(kernel_7_3))]
        let value = *module_parameters::$name.value();
        value
    }};
}

/// Fails the test at hand.
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            pr_err!("line {}: not so: {}\n", line!(), stringify!($condition));
            return Err(EINVAL);
        }
    };
}

fn pause(ms: i64) {
    fsleep(Delta::from_millis(ms));
}

/// Waits up to 40 s.
fn until(mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..4000 {
        if condition() {
            return true;
        }
        pause(10);
    }
    false
}

/// Byte `index` of the test data with this seed.
fn pattern(seed: u8, index: u32) -> u8 {
    (index.wrapping_mul(31) ^ (index >> 8)) as u8 ^ seed
}

// -- The server --------------------------------------------------------------------------------------------

/// First byte of a header: what the server is to do. The second is the seed of the data, or a status.
mod command {
    /// Reply with the rest of the header.
    pub(crate) const ECHO: u8 = b'E';
    /// Check the data of a WRITE.
    pub(crate) const CHECK: u8 = b'C';
    /// Fill the data of a READ.
    pub(crate) const FILL: u8 = b'F';
    /// Answer with the number in bytes 1 and 2.
    pub(crate) const STATUS: u8 = b'S';
    /// Do not answer: drop it.
    pub(crate) const DROP: u8 = b'D';
    /// Answer when told.
    pub(crate) const PARK: u8 = b'P';
}

#[pin_data]
struct Parrot {
    #[pin]
    parked: Mutex<KVec<Op>>,
    refuse: Atomic<bool>,
    connected: Atomic<i32>,
    disconnected: Atomic<i32>,
}

/// What the server knows of a session.
struct Nest {
    served: Atomic<i64>,
}

impl Parrot {
    fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                parked <- new_mutex!(KVec::new()),
                refuse: Atomic::new(false),
                connected: Atomic::new(0),
                disconnected: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    fn parked(&self) -> usize {
        self.parked.lock().len()
    }

    /// Answers what is parked.
    fn release(&self) {
        let parked = replace(&mut *self.parked.lock(), KVec::new());
        for op in parked {
            op.respond(0);
        }
    }

    fn serve(&self, header: &[u8], mut op: Op) -> Result {
        let seed = header.get(1).copied().unwrap_or(0);
        match header.first().copied() {
            Some(command::ECHO) => {
                if let Err((op, _)) = op.reply(header.get(1..).unwrap_or(&[])) {
                    op.respond(300);
                }
            }
            Some(command::CHECK) => {
                let mut status = 0;
                let mut piece = [0; 64];
                let mut at = 0;
                while at < op.data_len() {
                    let now = (op.data_len() - at).min(piece.len() as u32);
                    let piece = &mut piece[..now as usize];
                    op.read_data(at, piece)?;
                    if (at..)
                        .zip(piece.iter())
                        .any(|(i, &b)| b != pattern(seed, i))
                    {
                        status = 301;
                    }
                    at += now;
                }
                op.respond(status);
            }
            Some(command::FILL) => {
                let mut at = 0;
                while at < op.data_len() {
                    let now = (op.data_len() - at).min(64);
                    let mut piece = [0; 64];
                    for (i, b) in (at..).zip(&mut piece) {
                        *b = pattern(seed, i);
                    }
                    op.write_data(at, &piece[..now as usize])?;
                    at += now;
                }
                op.respond(0);
            }
            Some(command::STATUS) => {
                let low = header.get(2).copied().unwrap_or(0);
                op.respond(u16::from_be_bytes([seed, low]));
            }
            Some(command::PARK) => {
                self.parked.lock().push(op, GFP_KERNEL)?;
            }
            _ => drop(op),
        }
        Ok(())
    }
}

impl ServerOps for Parrot {
    type Session = Nest;

    fn connected(&self, name: &CStr) -> Result<Arc<Nest>> {
        if self.refuse.load(Relaxed) {
            return Err(EPERM);
        }
        if !name.to_bytes().starts_with(b"echo") {
            pr_err!("the session has a wrong name\n");
            return Err(EINVAL);
        }
        self.connected.fetch_add(1, Relaxed);
        Ok(Arc::new(
            Nest {
                served: Atomic::new(0),
            },
            GFP_KERNEL,
        )?)
    }

    fn disconnected(&self, session: Arc<Nest>) {
        self.disconnected.fetch_add(1, Relaxed);
        pr_info!(
            "a session ended after {} requests\n",
            session.served.load(Relaxed)
        );
    }

    fn request(&self, session: ArcBorrow<'_, Nest>, op: Op) {
        session.served.fetch_add(1, Relaxed);
        let mut header = [0; 4096];
        // An error has answered the operation by dropping it.
        let _ = match op.copy_header(&mut header) {
            Ok(header) => self.serve(header, op),
            Err(error) => Err(error),
        };
    }
}

// -- The client --------------------------------------------------------------------------------------------

/// Counts link events.
struct Link {
    down: Atomic<i32>,
    up: Atomic<i32>,
}

impl LinkHandler for Link {
    fn link(&self, event: LinkEvent) {
        match event {
            LinkEvent::Disconnected => self.down.fetch_add(1, Relaxed),
            LinkEvent::Reconnected => self.up.fetch_add(1, Relaxed),
        };
    }
}

/// What became of the requests of a test.
#[pin_data]
struct Tally {
    confirmed: Atomic<i32>,
    failed: Atomic<i32>,
    /// The last failure.
    errno: Atomic<i32>,
    /// Data that was wrong.
    wrong: Atomic<i32>,
    /// Requests still to be sent.
    left: Atomic<i32>,
    #[pin]
    done: Completion,
}

impl Tally {
    fn new(requests: i32) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                confirmed: Atomic::new(0),
                failed: Atomic::new(0),
                errno: Atomic::new(0),
                wrong: Atomic::new(0),
                left: Atomic::new(requests),
                done <- Completion::new(),
            }),
            GFP_KERNEL,
        )
    }

    fn count(&self, result: Result<(), Errno>) {
        if let Err(errno) = result {
            self.errno.store(i32::from(errno.number()), Relaxed);
            self.failed.fetch_add(1, Relaxed);
        }
        self.confirmed.fetch_add(1, Full);
    }
}

/// A request that is sent once.
struct Single {
    tally: Arc<Tally>,
    /// Seed of the data that is to come.
    expected: Option<u8>,
}

impl Confirm for Single {
    fn confirmed(message: KBox<Message<Self>>, permit: Permit, result: Result<(), Errno>) {
        drop(permit);
        let tally = message.ctx().tally.clone();
        if let (Some(seed), Ok(())) = (message.ctx().expected, result) {
            let mut piece = [0; 64];
            let mut at = 0;
            while at < message.data_len() {
                let piece = &mut piece[..(message.data_len() - at).min(64) as usize];
                let read = message.read_owned(at, piece);
                if read.is_err()
                    || (at..)
                        .zip(piece.iter())
                        .any(|(i, &b)| b != pattern(seed, i))
                {
                    tally.wrong.fetch_add(1, Relaxed);
                    break;
                }
                at += piece.len() as u32;
            }
        }
        tally.count(result);
        drop(message);
        tally.done.complete_all();
    }
}

/// A request that is sent again and again, from its confirmation.
struct Again {
    session: Arc<Session>,
    tally: Arc<Tally>,
    total: i32,
    dir: Dir,
}

impl Confirm for Again {
    fn confirmed(message: KBox<Message<Self>>, permit: Permit, result: Result<(), Errno>) {
        let tally = message.ctx().tally.clone();
        let total = message.ctx().total;
        tally.count(result);
        if tally.left.fetch_sub(1, Relaxed) > 0 {
            let session = message.ctx().session.clone();
            let dir = message.ctx().dir;
            if session
                .send(permit, message, dir, &[command::STATUS, 0, 0])
                .is_err()
            {
                tally.wrong.fetch_add(1, Relaxed);
                tally.done.complete_all();
            }
        }
        if tally.confirmed.load(Relaxed) == total {
            tally.done.complete_all();
        }
    }
}

/// Sends one request and waits for it: the number it failed with, 0 for success.
fn exchange(session: &Session, dir: Dir, header: &[u8], len: u32, seed: u8) -> Result<i32> {
    let tally = Tally::new(1)?;
    let mut message = Message::new(
        32,
        Single {
            tally: tally.clone(),
            expected: (dir == Dir::Read && len > 0).then_some(seed),
        },
    )?;
    if len > 0 {
        message.push_owned(len)?;
        if dir == Dir::Write {
            for at in 0..len {
                message.write_owned(at, &[pattern(seed, at)])?;
            }
        }
    }
    let permit = session.permit().ok_or(EAGAIN)?;
    session
        .send(permit, message, dir, header)
        .map_err(|refused| refused.error)?;
    tally.done.wait_for_completion();
    if tally.wrong.load(Relaxed) != 0 {
        pr_err!("wrong data\n");
        return Err(EIO);
    }
    Ok(tally.errno.load(Relaxed))
}

// -- The tests ---------------------------------------------------------------------------------------------

fn addresses() -> Result {
    let mut buf = [0; 175];
    for (text, shown) in [
        ("ip:10.77.1.100", "ip:10.77.1.100"),
        ("10.1.2.3", "ip:10.1.2.3"),
        ("fd77:1::5", "ip:fd77:1::5"),
        ("ip:10.0.0.1,ip:10.0.0.2", "ip:10.0.0.1,ip:10.0.0.2"),
        ("10.0.0.1@10.0.0.2", "ip:10.0.0.1,ip:10.0.0.2"),
        ("gid:fe80::1", "gid:fe80:0000:0000:0000:0000:0000:0000:0001"),
    ] {
        let addr = PathAddr::parse(text, 7700)?;
        check!(addr.text(&mut buf) == shown.as_bytes());
        check!(addr.text(&mut buf[..5]).len() <= 5);
    }
    for wrong in [
        "",
        "ip:",
        "ip:1.2.3",
        "1.2.3.4,",
        ",1.2.3.4",
        "host",
        "1.2.3.4,1.2.3.5,1.2.3.6",
        "a b",
        "ip:11111111111111111111111111111111111111111111111111111111111111111111111111111111111111",
    ] {
        check!(matches!(PathAddr::parse(wrong, 7700), Err(e) if e == EINVAL));
    }
    Ok(())
}

fn transfers(session: &Session) -> Result {
    let attrs = session.query()?;
    pr_info!(
        "depth {} io {} segments {}\n",
        attrs.queue_depth,
        attrs.max_io_size,
        attrs.max_segments
    );
    for len in [
        0,
        1,
        3,
        512,
        4095,
        4096,
        4097,
        8192,
        65536,
        attrs.max_io_size,
    ] {
        check!(exchange(session, Dir::Write, &[command::CHECK, 7], len, 7)? == 0);
        check!(exchange(session, Dir::Read, &[command::FILL, 9], len, 9)? == 0);
    }
    // The server does compare.
    check!(exchange(session, Dir::Write, &[command::CHECK, 8], 4096, 7)? == 301);
    Ok(())
}

fn answers(session: &Session) -> Result {
    for status in [1u16, 256, 257, 300, 511] {
        let [high, low] = status.to_be_bytes();
        for dir in [Dir::Read, Dir::Write] {
            for len in [0, 4096] {
                let header = [command::STATUS, high, low];
                check!(exchange(session, dir, &header, len, 0)? == i32::from(status));
            }
        }
    }
    // More than nine bits.
    check!(exchange(session, Dir::Write, &[command::STATUS, 2, 0], 0, 0)? == 256);
    check!(exchange(session, Dir::Write, &[command::STATUS, 0xff, 0xff], 0, 0)? == 256);
    // Not answered.
    check!(exchange(session, Dir::Write, &[command::DROP], 512, 0)? == 5);
    check!(exchange(session, Dir::Read, &[command::DROP], 512, 0)? == 5);
    Ok(())
}

fn calls(session: &Session) -> Result {
    let mut header = [command::ECHO; 100];
    for (i, b) in header.iter_mut().enumerate().skip(1) {
        *b = i as u8;
    }
    for len in [99, 100, 4096, 5000, 65536] {
        let mut reply = KVec::from_elem(0xa5, len, GFP_KERNEL)?;
        check!(session.call(&header, &mut reply, 5000).is_ok());
        check!(reply[..99] == header[1..]);
        check!(reply[99..].iter().all(|&b| b == 0));
    }
    let mut short = [0; 50];
    check!(matches!(session.call(&header, &mut short, 5000),
        Err(CallError::Answered(e)) if e.number() == 300));
    check!(
        matches!(session.call(&header, &mut [], 5000), Err(CallError::Failed(e)) if e == EMSGSIZE)
    );
    check!(
        matches!(session.call(&[0; 4096], &mut short, 5000), Err(CallError::Failed(e)) if e == EMSGSIZE)
    );
    Ok(())
}

/// A call that is not answered in time, and answered later.
fn late_answer(session: &Session, parrot: &Parrot) -> Result {
    let mut reply = [0x5a; 64];
    let start = Instant::<Monotonic>::now();
    check!(
        matches!(session.call(&[command::PARK], &mut reply, 300), Err(CallError::Failed(e)) if e == ETIMEDOUT)
    );
    let ms = start.elapsed().as_millis();
    check!((290..2000).contains(&ms));
    check!(parrot.parked() == 1);
    parrot.release();
    pause(200);
    check!(reply == [0x5a; 64]);
    Ok(())
}

fn refusals(session: &Session, other: &Session) -> Result {
    let tally = Tally::new(1)?;
    let single = |tally: &Arc<Tally>| Single {
        tally: tally.clone(),
        expected: None,
    };
    let message = Message::new(4, single(&tally))?;
    let permit = session.permit().ok_or(EAGAIN)?;
    let Err(refused) = session.send(permit, message, Dir::Write, &[0; 4093]) else {
        return Err(EINVAL);
    };
    check!(refused.error == EMSGSIZE);
    // Everything came back and can be used.
    let Err(refused) = other.send(refused.permit, refused.message, Dir::Write, &[0; 3]) else {
        return Err(EINVAL);
    };
    check!(refused.error == EINVAL);
    check!(session
        .send(
            refused.permit,
            refused.message,
            Dir::Write,
            &[command::STATUS, 0, 0]
        )
        .is_ok());
    tally.done.wait_for_completion();
    check!(tally.errno.load(Relaxed) == 0);

    // Too much data for a buffer of the server: RTRS says so.
    let tally = Tally::new(1)?;
    let mut message = Message::new(64, single(&tally))?;
    message.push_owned(128 * 1024)?;
    let permit = session.permit().ok_or(EAGAIN)?;
    let Err(refused) = session.send(permit, message, Dir::Write, &[command::CHECK]) else {
        return Err(EINVAL);
    };
    check!(refused.error == EMSGSIZE);
    check!(Message::new(2, single(&tally))?.push_owned(8193).is_err());
    check!(tally.confirmed.load(Relaxed) == 0);

    // The longest headers.
    let mut header = [0; 4092];
    header[0] = command::CHECK;
    check!(exchange(session, Dir::Write, &header, 0, 0)? == 0);
    header[0] = command::FILL;
    check!(exchange(session, Dir::Read, &header[..4072], 512, 0)? == 0);
    check!(
        matches!(exchange(session, Dir::Read, &header[..4073], 512, 0), Err(e) if e == EMSGSIZE)
    );
    Ok(())
}

/// Data in pages of somebody else, as block requests have it.
fn scatterlists(session: &Session) -> Result {
    let mut pages = KVec::new();
    let mut table = KVec::new();
    // 512 bytes to the end of a page, two whole pages, 1024 bytes at the beginning of one.
    for (offset, length) in [(3584u32, 512u32), (0, 4096), (0, 4096), (0, 1024)] {
        let page = Page::alloc_page(GFP_KERNEL)?;
        table.push(
            bindings::scatterlist {
                page_link: page.as_ptr() as usize,
                offset,
                length,
                ..Default::default()
            },
            GFP_KERNEL,
        )?;
        pages.push(page, GFP_KERNEL)?;
    }
    let len: u32 = table.iter().map(|e| e.length).sum();
    // SAFETY: The table and the pages live until the end of this function, which waits for all requests.
    let data = |from: usize, count: usize| unsafe {
        IoData::new(core::ptr::NonNull::from(&table[from]), count as u16)
    };
    let whole = data(0, 4);
    check!(whole.len() == len && !whole.starts_aligned() && !whole.ends_aligned());

    // Read into the pages, then have the server check what it is sent from them.
    for (dir, header) in [
        (Dir::Read, [command::FILL, 3]),
        (Dir::Write, [command::CHECK, 3]),
    ] {
        // At once, and in two pieces.
        for split in [0, 2] {
            let tally = Tally::new(1)?;
            let mut message = Message::new(
                4,
                Single {
                    tally: tally.clone(),
                    expected: None,
                },
            )?;
            if split > 0 {
                message.push_data(&data(0, split))?;
            }
            message.push_data(&data(split, 4 - split))?;
            check!(message.data_len() == len && message.entries() == 4);
            check!(message.push_data(&data(1, 1)) == Err(PushError::Gap));
            let permit = session.permit().ok_or(EAGAIN)?;
            session
                .send(permit, message, dir, &header)
                .map_err(|refused| refused.error)?;
            tally.done.wait_for_completion();
            check!(tally.errno.load(Relaxed) == 0);
            if dir == Dir::Read {
                let mut first = [0; 512];
                // SAFETY: Nobody uses the page now.
                unsafe { pages[0].read_raw(first.as_mut_ptr(), 3584, 512)? };
                check!((0..).zip(&first).all(|(i, &b)| b == pattern(3, i)));
            }
        }
    }

    let tally = Tally::new(0)?;
    let mut message = Message::new(
        2,
        Single {
            tally,
            expected: None,
        },
    )?;
    // Does not end, or begin, on a page boundary.
    message.push_data(&data(3, 1))?;
    check!(message.push_data(&data(1, 1)) == Err(PushError::Gap));
    message.clear();
    message.push_data(&data(1, 1))?;
    check!(message.push_data(&data(0, 1)) == Err(PushError::Gap));
    message.push_data(&data(2, 1))?;
    check!(message.push_data(&data(3, 1)) == Err(PushError::Full));
    check!(message.data_len() == 8192);
    // Inside one table.
    message.clear();
    table[1].length = 4095;
    // SAFETY: As above.
    let gap = unsafe { IoData::new(core::ptr::NonNull::from(&table[0]), 4) };
    check!(message.push_data(&gap) == Err(PushError::Gap));
    check!(message.data_len() == 0);
    Ok(())
}

fn exhaustion(session: &Session) -> Result {
    let depth = session.query()?.queue_depth as usize;
    let mut permits = KVec::with_capacity(depth, GFP_KERNEL)?;
    while let Some(permit) = session.permit() {
        permits.push(permit, GFP_KERNEL)?;
    }
    check!(permits.len() == depth);
    let start = Instant::<Monotonic>::now();
    check!(
        matches!(session.call(&[command::ECHO, 1], &mut [0; 8], 200), Err(CallError::Failed(e)) if e == ETIMEDOUT)
    );
    check!(start.elapsed().as_millis() < 2000);
    permits.pop();
    check!(session.call(&[command::ECHO, 1], &mut [0; 8], 5000).is_ok());
    drop(permits);
    check!(session.permit().is_some());
    Ok(())
}

/// Many requests in flight, sent again from their confirmation.
fn throughput(session: &Arc<Session>, rounds: i32) -> Result {
    for (dir, len, width) in [
        (Dir::Write, 0, 1),
        (Dir::Read, 4096, 1),
        (Dir::Write, 4096, 32),
        (Dir::Read, 4096, 32),
        (Dir::Write, 65536, 16),
    ] {
        let rounds = if len > 4096 || width == 1 {
            rounds / 8
        } else {
            rounds
        };
        let tally = Tally::new(rounds - width)?;
        let start = Instant::<Monotonic>::now();
        for _ in 0..width {
            let mut message = Message::new(
                16,
                Again {
                    session: session.clone(),
                    tally: tally.clone(),
                    total: rounds,
                    dir,
                },
            )?;
            if len > 0 {
                message.push_owned(len)?;
            }
            let permit = session.permit().ok_or(EAGAIN)?;
            session
                .send(permit, message, dir, &[command::STATUS, 0, 0])
                .map_err(|refused| refused.error)?;
        }
        tally.done.wait_for_completion();
        let us = start.elapsed().as_micros_ceil();
        pr_info!(
            "{} us for {} requests of {} bytes, {} at once\n",
            us,
            rounds,
            len,
            width
        );
        check!(tally.wrong.load(Relaxed) == 0 && tally.failed.load(Relaxed) == 0);
        check!(tally.confirmed.load(Relaxed) == rounds);
    }
    Ok(())
}

/// Closes a session with requests the server does not answer.
fn close_in_flight(session: Session, parrot: &Parrot) -> Result {
    const COUNT: usize = 64;
    let tally = Tally::new(0)?;
    for i in 0..COUNT {
        let mut message = Message::new(
            4,
            Single {
                tally: tally.clone(),
                expected: None,
            },
        )?;
        let dir = if i % 2 == 0 { Dir::Write } else { Dir::Read };
        if i % 4 < 2 {
            message.push_owned(4096)?;
        }
        let permit = session.permit().ok_or(EAGAIN)?;
        session
            .send(permit, message, dir, &[command::PARK])
            .map_err(|refused| refused.error)?;
    }
    check!(until(|| parrot.parked() == COUNT));
    let start = Instant::<Monotonic>::now();
    session.close();
    pr_info!("closed in {} ms\n", start.elapsed().as_millis());
    check!(tally.confirmed.load(Relaxed) == COUNT as i32);
    check!(tally.failed.load(Relaxed) == COUNT as i32);
    check!(tally.errno.load(Relaxed) == 103);
    check!(session.permit().is_none());
    check!(session.query().is_err());
    check!(matches!(
        session.call(&[command::ECHO], &mut [0; 8], 5000),
        Err(CallError::Failed(_))
    ));
    session.close();
    drop(session);
    // The path is gone.
    parrot.release();
    Ok(())
}

/// Closes a session while requests come back and are sent again.
fn close_under_load(config: &SessionConfig<'_>) -> Result {
    let (session, _) = open(config)?;
    let session = Arc::new(session, GFP_KERNEL)?;
    let tally = Tally::new(i32::MAX)?;
    for _ in 0..64 {
        let mut message = Message::new(
            1,
            Again {
                session: session.clone(),
                tally: tally.clone(),
                total: -1,
                dir: Dir::Write,
            },
        )?;
        message.push_owned(4096)?;
        let permit = session.permit().ok_or(EAGAIN)?;
        session
            .send(permit, message, Dir::Write, &[command::STATUS, 0, 0])
            .map_err(|refused| refused.error)?;
    }
    check!(until(|| tally.confirmed.load(Relaxed) > 1000));
    let start = Instant::<Monotonic>::now();
    session.close();
    pr_info!("closed in {} ms\n", start.elapsed().as_millis());
    // All of them have tried to send again, in vain.
    check!(tally.wrong.load(Relaxed) == 64);
    Ok(())
}

/// Closing waits for a permit that somebody holds.
fn close_waits(config: &SessionConfig<'_>) -> Result {
    let (session, _) = open(config)?;
    let permit = session.permit().ok_or(EAGAIN)?;
    let start = Instant::<Monotonic>::now();
    workqueue::system_long().try_spawn(GFP_KERNEL, move || {
        pause(500);
        drop(permit);
    })?;
    drop(session);
    check!((500..5000).contains(&start.elapsed().as_millis()));
    Ok(())
}

/// The server goes away and comes back.
fn reconnect(
    session: &Session,
    link: &Link,
    server: Server<Parrot>,
    parrot: &Arc<Parrot>,
    port: u16,
) -> Result<Server<Parrot>> {
    let (up, down) = (link.up.load(Relaxed), link.down.load(Relaxed));
    let start = Instant::<Monotonic>::now();
    drop(server);
    check!(parrot.connected.load(Relaxed) == parrot.disconnected.load(Relaxed));
    check!(until(|| link.down.load(Relaxed) == down + 1));
    pr_info!("disconnected after {} ms\n", start.elapsed().as_millis());
    let aborted = Error::from_errno(-103);
    check!(
        matches!(session.call(&[command::ECHO], &mut [0; 8], 5000), Err(CallError::Failed(e)) if e == aborted)
    );
    check!(
        matches!(exchange(session, Dir::Write, &[command::STATUS, 0, 0], 0, 0), Err(e) if e == aborted)
    );
    let start = Instant::<Monotonic>::now();
    let server = Server::open(port, parrot.clone())?;
    check!(until(|| link.up.load(Relaxed) == up + 1));
    pr_info!("reconnected after {} ms\n", start.elapsed().as_millis());
    check!(session
        .call(&[command::ECHO, 1, 2], &mut [0; 8], 5000)
        .is_ok());
    check!(exchange(session, Dir::Read, &[command::FILL, 5], 8192, 5)? == 0);
    Ok(server)
}

/// A session the server cannot serve is connected, and told so by every request.
fn unserved(config: &SessionConfig<'_>, parrot: &Parrot) -> Result {
    parrot.refuse.store(true, Relaxed);
    let (session, _) = open(config)?;
    parrot.refuse.store(false, Relaxed);
    check!(exchange(&session, Dir::Write, &[command::STATUS, 0, 0], 512, 0)? == 5);
    check!(matches!(session.call(&[command::ECHO], &mut [0; 8], 5000),
        Err(CallError::Answered(e)) if e.number() == 5));
    Ok(())
}

/// Drops the last reference to a session in the confirmation of a request of its own.
fn misuse(session: Session) -> Result {
    let session = Arc::new(session, GFP_KERNEL)?;
    let tally = Tally::new(0)?;
    let message = Message::new(
        1,
        Again {
            session: session.clone(),
            tally: tally.clone(),
            total: 1,
            dir: Dir::Write,
        },
    )?;
    let permit = session.permit().ok_or(EAGAIN)?;
    session
        .send(permit, message, Dir::Write, &[command::PARK])
        .map_err(|refused| refused.error)?;
    // The request has the last one now.
    drop(session);
    Ok(())
}

fn open(config: &SessionConfig<'_>) -> Result<(Session, Arc<Link>)> {
    let link = Arc::new(
        Link {
            down: Atomic::new(0),
            up: Atomic::new(0),
        },
        GFP_KERNEL,
    )?;
    Ok((Session::open(config, link.clone())?, link))
}

struct Results {
    ok: u32,
    failed: u32,
}

impl Results {
    fn note<T>(&mut self, name: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                pr_info!("ok {}\n", name);
                self.ok += 1;
                Some(value)
            }
            Err(error) => {
                pr_err!("not ok {}: {}\n", name, error.to_errno());
                self.failed += 1;
                None
            }
        }
    }
}

struct Echo {
    _server: Option<Server<Parrot>>,
    _session: Option<Arc<Session>>,
}

impl Echo {
    fn run(results: &mut Results) -> Result<Self> {
        let (port, ip) = (parameter!(port), parameter!(ip));
        results.note("addresses", addresses());
        let mut paths = KVec::new();
        for ip in [ip, parameter!(ip2)].into_iter().filter(|&ip| ip != 0) {
            let [a, b, c, d] = ip.to_be_bytes();
            let text = CString::try_from_fmt(fmt!("ip:{}.{}.{}.{}", a, b, c, d))?;
            let text = text.to_str().map_err(|_| EINVAL)?;
            paths.push(PathAddr::parse(text, port)?, GFP_KERNEL)?;
        }
        let config = |name| SessionConfig {
            name,
            paths: &paths,
            port,
            reconnect_delay_s: 1,
            max_reconnect: -1,
        };

        let parrot = Parrot::new()?;
        let server = Server::open(port, parrot.clone())?;
        let twice = matches!(Server::open(port, parrot.clone()), Err(e) if e == EBUSY);
        results.note("one server", if twice { Ok(()) } else { Err(EINVAL) });
        for wrong in [c"", c"a/b", c"a.b"] {
            let refused = matches!(open(&config(wrong)), Err(e) if e == EINVAL);
            results.note("session names", if refused { Ok(()) } else { Err(EINVAL) });
        }

        let (session, link) = open(&config(c"echo"))?;
        let session = Arc::new(session, GFP_KERNEL)?;
        let (other, _) = open(&config(c"echo2"))?;
        results.note("transfers", transfers(&session));
        results.note("answers", answers(&session));
        results.note("calls", calls(&session));
        results.note("late answer", late_answer(&session, &parrot));
        results.note("refusals", refusals(&session, &other));
        results.note("scatterlists", scatterlists(&session));
        results.note("exhaustion", exhaustion(&session));
        results.note(
            "throughput",
            throughput(&session, parameter!(rounds) as i32),
        );
        results.note("close in flight", close_in_flight(other, &parrot));
        for _ in 0..parameter!(closes) {
            results.note("close under load", close_under_load(&config(c"echo5")));
        }
        results.note("close waits", close_waits(&config(c"echo6")));
        results.note("unserved", unserved(&config(c"echo3"), &parrot));
        let server = results.note(
            "reconnect",
            reconnect(&session, &link, server, &parrot, port),
        );
        if parameter!(misuse) != 0 {
            let dropped = open(&config(c"echo4")).and_then(|(session, _)| misuse(session));
            results.note("misuse", dropped);
            pause(100);
            parrot.release();
            let ended = parrot.connected.load(Relaxed) - 1;
            let ended = until(|| parrot.disconnected.load(Relaxed) == ended);
            results.note(
                "closed by a worker",
                if ended { Ok(()) } else { Err(EINVAL) },
            );
        }
        Ok(Self {
            _server: server,
            _session: Some(session),
        })
    }
}

impl kernel::Module for Echo {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let mut results = Results { ok: 0, failed: 0 };
        let echo = Self::run(&mut results);
        if let Err(error) = &echo {
            pr_err!("stopped: {}\n", error.to_errno());
            results.failed += 1;
        }
        pr_info!("{} ok, {} failed\n", results.ok, results.failed);
        if results.failed > 0 {
            return Err(EIO);
        }
        echo
    }
}
