// SPDX-License-Identifier: GPL-2.0

//! `/sys/class/rmr-client`: commands and state of the client side. Described in `docs/ABI/sysfs-class-rmr-client`.
//!
//! Parses what the administrator writes and formats what is read; everything else is in `registry` and `pool`.

use super::core::Counter;
use super::pool::Joining;
use super::pool::MemberFile;
use super::pool::Mode;
use super::pool::Pool;
use super::registry::Registry;
use super::session;
use super::session::Session;
use super::session::Wait;
use super::session::MAX_NAME;
use crate::malformed;
use crate::refuse;
use crate::refuse::text;
use crate::secret;
use crate::secret::Secret;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use rmr_engine::client::Admin;
use rmr_engine::options::Key;
use rmr_engine::options::Options;
use rmr_engine::options::Value;
use rmr_engine::readers::Policy;
use rmr_proto::Geometry;
use rmr_proto::MemberId;
use rmr_proto::MemberSet;
use rmr_sys::sysfs::no_data;
use rmr_sys::sysfs::Attr;
use rmr_sys::sysfs::Dir;
use rmr_sys::sysfs::Writer;
use rmr_sys::tree::Tree;

/// Makes the class and what is in it. Sleeps.
pub(crate) fn tree() -> Result<Tree<Registry>> {
    Tree::new(c"rmr-client", &CTL, |class| {
        let pools = Dir::in_class(class, c"pools", no_data()?, &[])?;
        let sessions = Dir::in_class(class, c"sessions", no_data()?, &[])?;
        Registry::new(pools, sessions)
    })
}

/// A name as a file name.
pub(crate) fn file_name(name: &str) -> Result<CString> {
    CString::try_from_fmt(fmt!("{name}"))
}

static CTL: [Attr<Registry>; 1] = [Attr::wo(
    c"join_pool",
    "poolname=<name> [chunk_size=<bytes>] [initial=equal|resync] [quorum=off|majority]; the last two count when it starts for the first time",
    |registry: &Arc<Registry>, line| {
        const KEYS: &[Key] = &[
            Key::once("poolname"),
            Key::once("chunk_size"),
            Key::once("initial"),
            Key::once("quorum"),
        ];
        let parse = || {
            let options = Options::parse(line, KEYS)?;
            let name = options.require("poolname")?.pool()?;
            let chunk = options
                .get("chunk_size")
                .map(|c| c.bytes_size(4096..=64 << 20));
            let initial = options.get("initial").map(|i| i.choice(&["equal", "resync"]));
            let quorum = options.get("quorum").map(|q| q.choice(&["off", "majority"]));
            let joining = Joining {
                chunk_size: chunk.transpose()?,
                resync: initial.transpose()? == Some(1),
                majority: quorum.transpose()? == Some(1),
            };
            Ok((name, joining))
        };
        let (name, joining) = parse().map_err(malformed!("join_pool"))?;
        if let Some(bytes) = joining.chunk_size {
            Geometry::shift_of(bytes).map_err(|error| refuse!(EINVAL, "join_pool: {}", error))?;
        }
        registry.join(name, &joining)
    },
)];

/// Files of a pool.
pub(crate) static POOL: [Attr<Pool>; 18] = [
    Attr::wo(
        c"add_sess",
        "sessname=<name> [path=[<src>,]<dst>...] [mode=create|assemble]; an address is ip:<v4>, ip:<v6> or gid:<gid>",
        add_sess,
    ),
    Attr::wo(c"leave_pool", "1", |pool: &Arc<Pool>, line| {
        one("leave_pool", line)?;
        Registry::get()?.leave(pool)
    })
    .removes_self(),
    Attr::wo(c"enable", "1", |pool: &Arc<Pool>, line| {
        one("enable", line)?;
        pool.enable()
    }),
    Attr::wo(
        c"force",
        "lost=<member_id>[,<member_id>...]; starts without these members, and gives up what newer data they have",
        force,
    ),
    Attr::rw(
        c"takeover",
        |pool: &Pool, w| writeln!(w, "{}", u32::from(pool.takeover.load(Relaxed))),
        |pool: &Arc<Pool>, line| {
            let parse = || Value::single("takeover", line)?.boolean();
            pool.takeover.store(parse().map_err(malformed!("takeover"))?, Relaxed);
            Ok(())
        },
    ),
    Attr::rw(
        c"on_no_data",
        |pool: &Pool, w| {
            let fails = pool.fails.load(Relaxed);
            writeln!(w, "{}", if fails { "error" } else { "suspend" })
        },
        |pool: &Arc<Pool>, line| {
            let parse = || Value::single("on_no_data", line)?.choice(&["suspend", "error"]);
            pool.set_fails(parse().map_err(malformed!("on_no_data"))? == 1)
        },
    ),
    Attr::rw(
        c"secret",
        |pool: &Pool, w| writeln!(w, "{}", secret::shown(pool.secret().as_ref())),
        |pool: &Arc<Pool>, line| {
            let parse = || Value::single("secret", line)?.text_up_to(secret::MAX_DESCRIPTION);
            let description = parse().map_err(malformed!("secret"))?;
            pool.set_secret(Secret::find("secret", description)?)
        },
    ),
    Attr::ro(c"state", |pool: &Pool, w| writeln!(w, "{}", pool.state())),
    Attr::ro(c"uuid", |pool: &Pool, w| match pool.uuid() {
        Some(uuid) => writeln!(w, "{uuid}"),
        None => writeln!(w, "none"),
    }),
    Attr::ro(c"size", |pool: &Pool, w| writeln!(w, "{}", pool.geometry().map_or(0, |g| g.size() / 512))),
    Attr::ro(c"chunk_size", |pool: &Pool, w| {
        writeln!(w, "{}", pool.geometry().map_or(0, |g| g.chunk_size()))
    }),
    Attr::ro(c"member_count", |pool: &Pool, w| writeln!(w, "{}", pool.member_count())),
    Attr::ro(c"in_sync", |pool: &Pool, w| members(w, pool.config().map(|c| c.in_sync))),
    Attr::ro(c"generation", |pool: &Pool, w| {
        writeln!(w, "{}", pool.config().map_or(0, |c| c.generation.number))
    }),
    Attr::ro(c"epoch", |pool: &Pool, w| writeln!(w, "{}", pool.config().map_or(0, |c| c.epoch.0))),
    Attr::ro(c"watermark", |pool: &Pool, w| writeln!(w, "{}", pool.watermark())),
    Attr::rw(
        c"read_policy",
        |pool: &Pool, w| writeln!(w, "{}", Policy::from_bits(pool.policy.load(Relaxed))),
        |pool: &Arc<Pool>, line| {
            let policy = Policy::parse(line.trim_ascii()).ok_or_else(|| {
                refuse!(
                    EINVAL,
                    "read_policy: not a policy; known are: least-inflight, round-robin, preferred=<member_id>"
                )
            })?;
            pool.policy.store(policy.to_bits(), Relaxed);
            Ok(())
        },
    ),
    Attr::rw(
        c"io_timeout",
        |pool: &Pool, w| writeln!(w, "{}", pool.io_timeout_ms.load(Relaxed)),
        |pool: &Arc<Pool>, line| {
            let parse = || Value::single("io_timeout", line)?.milliseconds(1_000..=3_600_000);
            pool.set_io_timeout(parse().map_err(malformed!("io_timeout"))?)
        },
    ),
];

/// Files of a pool's statistics: what was sent since the volume was opened. A message carries one request or
/// more; one that goes to several members counts once.
pub(crate) static STATS: [Attr<Pool>; 4] = [
    Attr::ro(c"reads", |pool: &Pool, w| {
        writeln!(w, "{}", pool.counter(Counter::Reads))
    }),
    Attr::ro(c"read_messages", |pool: &Pool, w| {
        writeln!(w, "{}", pool.counter(Counter::ReadMessages))
    }),
    Attr::ro(c"writes", |pool: &Pool, w| {
        writeln!(w, "{}", pool.counter(Counter::Writes))
    }),
    Attr::ro(c"write_messages", |pool: &Pool, w| {
        writeln!(w, "{}", pool.counter(Counter::WriteMessages))
    }),
];

/// Files of a member of a pool, in the directory of its session.
pub(crate) static MEMBER: [Attr<MemberFile>; 13] = [
    Attr::wo(
        c"del_sess",
        "1 | mode=delete|disassemble; of an attached pool, mode=delete takes the member out for good, mode=disassemble for a while",
        |file: &Arc<MemberFile>, line| {
            const KEYS: &[Key] = &[Key::once("mode")];
            let mut keep = None;
            if line.trim_ascii() != b"1" {
                let parse = || {
                    Options::parse(line, KEYS)?
                        .require("mode")?
                        .choice(&["delete", "disassemble"])
                };
                keep = Some(parse().map_err(malformed!("del_sess"))? == 1);
            }
            file.pool.remove_member(&*Registry::get()?, file.member, keep)
        },
    )
    .removes_self(),
    Attr::wo(c"enable", "1", |file: &Arc<MemberFile>, line| {
        one("enable", line)?;
        file.pool.enable()
    }),
    Attr::rw(
        c"maintenance",
        |file: &MemberFile, w| {
            let config = file.pool.config();
            let kept_out = config.is_some_and(|config| config.maintenance.contains(file.member));
            writeln!(w, "{}", u32::from(kept_out))
        },
        |file: &Arc<MemberFile>, line| {
            let parse = || Value::single("maintenance", line)?.boolean();
            let on = parse().map_err(malformed!("maintenance"))?;
            file.pool
                .command_now("maintenance", Admin::Maintenance(file.member, on))
        },
    ),
    Attr::wo(
        c"replace",
        "1; the member has a new store, which gets all data",
        |file: &Arc<MemberFile>, line| {
            one("replace", line)?;
            file.pool.command_now("replace", Admin::Replace(file.member))
        },
    ),
    Attr::wo(
        c"invalidate",
        "1; what the member has is not trusted: it gets all data",
        |file: &Arc<MemberFile>, line| {
            one("invalidate", line)?;
            file.pool
                .command_now("invalidate", Admin::Invalidate(file.member))
        },
    ),
    Attr::wo(
        c"discard",
        "1; what the member has that no other member has may be overwritten",
        |file: &Arc<MemberFile>, line| {
            one("discard", line)?;
            file.pool.command_now("discard", Admin::Discard(file.member))
        },
    ),
    Attr::ro(c"state", |file: &MemberFile, w| {
        writeln!(w, "{}", file.pool.member_state(file))
    }),
    Attr::ro(c"auth", |file: &MemberFile, w| {
        writeln!(w, "{}", file.pool.member_auth(file.member))
    }),
    Attr::ro(c"resync_left", |file: &MemberFile, w| {
        match file.pool.resync(file.member) {
            Some((left, _)) => writeln!(w, "{left}"),
            None if file.pool.catches_up(file.member) => writeln!(w, "unknown"),
            None => writeln!(w, "0"),
        }
    }),
    Attr::ro(c"resync_rate", |file: &MemberFile, w| {
        let rate = file.pool.resync(file.member).map_or(0, |(_, rate)| rate);
        writeln!(w, "{rate}")
    }),
    Attr::ro(c"resync_eta", |file: &MemberFile, w| {
        match file.pool.resync(file.member) {
            Some((left, rate)) => match left.checked_div(rate) {
                Some(seconds) => writeln!(w, "{seconds}"),
                None if left == 0 => writeln!(w, "0"),
                None => writeln!(w, "unknown"),
            },
            None if file.pool.catches_up(file.member) => writeln!(w, "unknown"),
            None => writeln!(w, "0"),
        }
    }),
    Attr::ro(c"member_id", |file: &MemberFile, w| {
        writeln!(w, "{}", file.member)
    }),
    Attr::ro(c"store_uuid", |file: &MemberFile, w| {
        match file.pool.store_of(file.member) {
            Some(uuid) => writeln!(w, "{uuid}"),
            None => writeln!(w, "none"),
        }
    }),
];

/// Files of a session.
pub(crate) static SESSION: [Attr<Session>; 3] = [
    Attr::ro(c"state", |session: &Session, w| {
        writeln!(w, "{}", session.state())
    }),
    Attr::ro(c"paths", |session: &Session, w| session.write_paths(w)),
    // A session reconnects by itself, about once a second; the command is for those who know it from before.
    Attr::wo(c"reconnect", "1", |session: &Arc<Session>, line| {
        one("reconnect", line)?;
        if session.is_connected() {
            return Ok(());
        }
        Err(refuse!(
            EAGAIN,
            "reconnect: session {} is not connected; it is tried every second, check the node and the network",
            text(session.name())
        ))
    }),
];

fn add_sess(pool: &Arc<Pool>, line: &[u8]) -> Result {
    const KEYS: &[Key] = &[Key::once("sessname"), Key::many("path"), Key::once("mode")];
    const COMMAND: &str = "add_sess";
    let parse = || {
        let options = Options::parse(line, KEYS)?;
        let name = options.require("sessname")?.text_up_to(MAX_NAME)?;
        let mode = match options.get("mode") {
            None => None,
            Some(mode) => Some(mode.choice(&["create", "assemble"])?),
        };
        Ok((options, name, mode))
    };
    let (options, name, mode) = parse().map_err(malformed!(COMMAND))?;
    let mode = mode.map(|place| [Mode::Create, Mode::Assemble][place.min(1)]);
    let paths = session::parse_paths(COMMAND, options.all("path"))?;
    let registry = Registry::get()?;
    let session =
        registry.get_session(&session::file_name(COMMAND, name)?, paths, Wait::Connected)?;
    pool.add_member(&registry, &session, mode)
}

fn force(pool: &Arc<Pool>, line: &[u8]) -> Result {
    const COMMAND: &str = "force";
    let parse = || Value::single("lost", line.strip_prefix(b"lost=").unwrap_or(b""))?.text();
    let mut lost = MemberSet::EMPTY;
    for id in parse().map_err(malformed!(COMMAND))?.split(',') {
        let id = rmr_engine::options::number(id.as_bytes());
        let id = id.and_then(|id| MemberId::new(u32::try_from(id).ok()?));
        lost = lost.with(id.ok_or_else(|| {
            refuse!(EINVAL, "{}: lost= is a list of member ids, as 1,2", COMMAND)
        })?);
    }
    pool.force(lost);
    Ok(())
}

/// The only thing to write to a file that takes no arguments.
fn one(command: &str, line: &[u8]) -> Result {
    if line.trim_ascii() == b"1" {
        return Ok(());
    }
    Err(refuse!(EINVAL, "{}: write 1 to it", command))
}

fn members(w: &mut Writer<'_>, set: Option<rmr_proto::MemberSet>) -> Result {
    let mut separator = "";
    for id in set.unwrap_or(rmr_proto::MemberSet::EMPTY).iter() {
        write!(w, "{separator}{id}")?;
        separator = " ";
    }
    writeln!(w)
}
