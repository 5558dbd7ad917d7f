// SPDX-License-Identifier: GPL-2.0

//! `/sys/class/rmr-server`: commands and state of the server side. Described in
//! `docs/ABI/sysfs-class-rmr-server`.
//!
//! Parses what the administrator writes and formats what is read; everything else is in `pool`.

use super::address::Node;
use super::pool::Pool;
use super::pool::Registry;
use crate::client;
use crate::client::session;
use crate::client::session::Wait;
use crate::client::session::MAX_NAME;
use crate::malformed;
use crate::refuse;
use kernel::prelude::*;
use kernel::sync::Arc;
use rmr_engine::options::Key;
use rmr_engine::options::Options;
use rmr_engine::options::Value;
use rmr_proto::MemberReport;
use rmr_sys::sysfs::no_data;
use rmr_sys::sysfs::Attr;
use rmr_sys::sysfs::Dir;
use rmr_sys::tree::Tree;

/// Makes the class and what is in it. Sleeps.
pub(crate) fn tree() -> Result<Tree<Registry>> {
    Tree::new(c"rmr-server", &CTL, |class| {
        Registry::new(Dir::in_class(class, c"pools", no_data()?, &[])?)
    })
}

static CTL: [Attr<Registry>; 1] = [Attr::wo(
    c"join_pool",
    "poolname=<name> member_id=<1..32>",
    |registry: &Arc<Registry>, line| {
        const KEYS: &[Key] = &[Key::once("poolname"), Key::once("member_id")];
        let parse = || {
            let options = Options::parse(line, KEYS)?;
            let name = options.require("poolname")?.pool()?;
            Ok((name, options.require("member_id")?.member()?))
        };
        let (name, member) = parse().map_err(malformed!("join_pool"))?;
        registry.join(name, member)
    },
)];

/// Files of a pool.
pub(crate) static POOL: [Attr<Pool>; 11] = [
    Attr::wo(
        c"add_peer",
        "member_id=<1..32> path=[<src>,]<dst> [path=...] [sessname=<name>]; an address is ip:<v4>, ip:<v6> or gid:<gid>",
        add_peer,
    ),
    Attr::wo(c"leave_pool", "1", |pool: &Arc<Pool>, line| {
        if line.trim_ascii() != b"1" {
            return Err(refuse!(EINVAL, "leave_pool: write 1 to it"));
        }
        Registry::get()?.leave(&pool.name)
    })
    .removes_self(),
    Attr::rw(
        c"resync_paused",
        |pool: &Pool, w| writeln!(w, "{}", u32::from(pool.is_paused())),
        |pool: &Arc<Pool>, line| {
            let parse = || Value::single("resync_paused", line)?.boolean();
            pool.pause(parse().map_err(malformed!("resync_paused"))?);
            Ok(())
        },
    ),
    Attr::ro(c"member_id", |pool: &Pool, w| {
        writeln!(w, "{}", pool.member)
    }),
    Attr::ro(c"state", |pool: &Pool, w| {
        let state = match report(pool) {
            None => "joined",
            Some(report) if report.serving => "serving",
            Some(_) => "ready",
        };
        writeln!(w, "{state}")
    }),
    Attr::ro(c"uuid", |pool: &Pool, w| {
        match report(pool).and_then(|r| r.pool.non_nil()) {
            Some(uuid) => writeln!(w, "{uuid}"),
            None => writeln!(w, "none"),
        }
    }),
    Attr::ro(c"store_uuid", |pool: &Pool, w| match report(pool) {
        Some(report) => writeln!(w, "{}", report.store),
        None => writeln!(w, "none"),
    }),
    Attr::ro(c"chunk_size", |pool: &Pool, w| {
        writeln!(w, "{}", report(pool).map_or(0, |r| r.geometry.chunk_size()))
    }),
    Attr::ro(c"incarnation", |pool: &Pool, w| {
        writeln!(w, "{}", report(pool).map_or(0, |r| r.incarnation.count()))
    }),
    Attr::ro(c"generation", |pool: &Pool, w| {
        writeln!(w, "{}", report(pool).map_or(0, |r| r.promised.number))
    }),
    Attr::ro(c"epoch", |pool: &Pool, w| {
        let epoch = report(pool)
            .and_then(|r| r.installed)
            .map_or(0, |c| c.epoch.0);
        writeln!(w, "{epoch}")
    }),
];

/// Files of another member.
pub(crate) static PEER: [Attr<Node>; 5] = [
    Attr::wo(c"del_peer", "1", |node: &Arc<Node>, line| {
        if line.trim_ascii() != b"1" {
            return Err(refuse!(EINVAL, "del_peer: write 1 to it"));
        }
        node.remove()
    })
    .removes_self(),
    Attr::ro(c"state", |node: &Node, w| writeln!(w, "{}", node.state())),
    Attr::ro(c"auth", |node: &Node, w| {
        writeln!(w, "{}", node.access.word())
    }),
    Attr::ro(c"told_by", |node: &Node, w| {
        let who = if node.fixed {
            "administrator"
        } else {
            "client"
        };
        writeln!(w, "{who}")
    }),
    Attr::ro(c"paths", |node: &Node, w| node.session.write_paths(w)),
];

fn add_peer(pool: &Arc<Pool>, line: &[u8]) -> Result {
    const KEYS: &[Key] = &[
        Key::once("member_id"),
        Key::many("path"),
        Key::once("sessname"),
    ];
    const COMMAND: &str = "add_peer";
    let parse = || {
        let options = Options::parse(line, KEYS)?;
        let member = options.require("member_id")?.member()?;
        let name = match options.get("sessname") {
            Some(name) => Some(name.text_up_to(MAX_NAME)?),
            None => None,
        };
        Ok((options, member, name))
    };
    let (options, member, name) = parse().map_err(malformed!(COMMAND))?;
    if member == pool.member {
        return Err(refuse!(
            EINVAL,
            "{}: member {} of pool {} is this node; say the others'",
            COMMAND,
            member,
            pool.name
        ));
    }
    let paths = session::parse_paths(COMMAND, options.all("path"))?;
    let name = match name {
        Some(name) => session::file_name(COMMAND, name)?,
        None => session::name_of(&paths)?,
    };
    let registry = client::registry::Registry::get()?;
    let session = registry.get_session(&name, paths, Wait::No)?;
    pool.book
        .add(member, session.clone())
        .inspect_err(|_| registry.put_session(session))
}

fn report(pool: &Pool) -> Option<MemberReport> {
    pool.report()
}
