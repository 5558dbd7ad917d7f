// SPDX-License-Identifier: GPL-2.0

//! With which configuration a pool starts (rules R7, R8, R10), as the client decides it.
//!
//! ```text
//!   query all ─► compatible() ─► next_number() ─► promise on all ─► decide(reports of the promises) ─► install on all
//! ```
//!
//! All members must be reachable; there is no resync yet. *Equal* below means: every in-sync member holds the
//! same data.
//!
//! | found | start |
//! | --- | --- |
//! | nothing was ever installed anywhere | all in sync: the administrator created them equal |
//! | every member has the newest configuration, and was detached from | as it says: they are equal |
//! | one member alone is in sync in the newest configuration, and has it | as it says: that one is right |
//! | the newest one was installed by this client, which then gave up before any IO | as it says |
//! | anything else | refused as [`Refusal::Unclean`], unless the administrator named a source |
//!
//! With a source only that member is in sync, and all others are catching up: they receive writes, but answer no read.
//! A configuration with several in sync is thus only ever made of equal members, and it ends as equal if every
//! member says that it was detached from.
//!
//! A member that lacks a configuration of which another says that it was detached from (so that it had been complete)
//! is an old copy. It is refused, and under a source never the source.

use core::fmt;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::Generation;
use rmr_proto::Geometry;
use rmr_proto::Incarnation;
use rmr_proto::Limits;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::MemberSet;
use rmr_proto::Quorum;
use rmr_proto::Uuid;
use rmr_proto::MAX_MEMBERS;
use rmr_proto::PROTOCOL_VERSION;

/// What the members have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    /// UUID of the pool, if any member has one.
    pub pool: Option<Uuid>,
    /// Size and chunk size.
    pub geometry: Geometry,
    /// What all of them can do.
    pub limits: Limits,
}

/// What the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The generation that every member has promised.
    pub generation: Generation,
    /// UUID for the pool if it has none; not nil.
    pub new_pool: Uuid,
    /// The member whose data the administrator declared right. Used only if it is not known who is.
    pub source: Option<MemberId>,
    /// The generation under which this client, still running, last sent an install, if it gave up before that was
    /// complete: nothing was written under it.
    pub abandoned: Option<Generation>,
}

/// How to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// UUID of the pool.
    pub pool: Uuid,
    /// Members that take the UUID with the install.
    pub assign: MemberSet,
    /// To be installed on all members, in the order of [`Decision::order`].
    pub config: Config,
    /// Size and chunk size.
    pub geometry: Geometry,
    /// What the disk can do.
    pub limits: Limits,
}

/// Why a pool cannot start. Displays as one line that says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no member.
    NoMember,
    /// A member speaks other versions of the protocol.
    Version(MemberId, u16, u16),
    /// Two nodes have the same member id.
    SameId(MemberId),
    /// Two members have the same store.
    SameStore(MemberId, MemberId),
    /// Two members differ in size or chunk size.
    Geometry(MemberId, Geometry, MemberId, Geometry),
    /// Two members belong to different pools.
    Pool(MemberId, Uuid, MemberId, Uuid),
    /// The size of the volume is no multiple of the logical block size of this member.
    LogicalBlock(MemberId, u32),
    /// A member that is not in the member table.
    NotMember(MemberId),
    /// A member whose store is not the one in the member table.
    OtherStore(MemberId, Uuid),
    /// Members of the pool that were not added.
    Missing(MemberSet),
    /// A member that has not promised the generation.
    NotPromised(MemberId),
    /// Members whose store is an old copy.
    Stale(MemberSet),
    /// Members that were not detached from in order: they may differ.
    Unclean(MemberSet, MemberSet),
    /// The source named is not in sync.
    BadSource(MemberId, MemberSet),
    /// Two members have different configurations of the same number.
    Conflict(MemberId, MemberId),
    /// There are no more numbers.
    Exhausted,
}

/// Can these members be one pool? Also to be asked before a member is added.
pub fn compatible(reports: &[MemberReport]) -> Result<Common, Refusal> {
    let first = reports.first().ok_or(Refusal::NoMember)?;
    let mut common = Common {
        pool: None,
        geometry: first.geometry,
        limits: first.limits,
    };
    let mut pool_of = None;
    for (place, report) in reports.iter().enumerate() {
        let id = report.member;
        if !(report.version_min..=report.version_max).contains(&PROTOCOL_VERSION) {
            return Err(Refusal::Version(id, report.version_min, report.version_max));
        }
        for earlier in reports.iter().take(place) {
            if earlier.member == id {
                return Err(Refusal::SameId(id));
            }
            if earlier.store == report.store {
                return Err(Refusal::SameStore(earlier.member, id));
            }
        }
        if report.geometry != first.geometry {
            return Err(Refusal::Geometry(
                first.member,
                first.geometry,
                id,
                report.geometry,
            ));
        }
        let block = report.limits.logical_block;
        if report.geometry.size().checked_rem(u64::from(block)) != Some(0) {
            return Err(Refusal::LogicalBlock(id, block));
        }
        common.limits = common.limits.strictest(&report.limits);
        match (pool_of, report.pool.non_nil()) {
            (None, Some(pool)) => pool_of = Some((id, pool)),
            (Some((other, theirs)), Some(pool)) if theirs != pool => {
                return Err(Refusal::Pool(other, theirs, id, pool))
            }
            _ => {}
        }
    }
    common.pool = pool_of.map(|(_, pool)| pool);
    if let Some(newest) = newest(reports) {
        let config = newest.config;
        for report in reports {
            match config.store(report.member) {
                None => return Err(Refusal::NotMember(report.member)),
                Some(store) if store != report.store => {
                    return Err(Refusal::OtherStore(report.member, store))
                }
                Some(_) => {}
            }
        }
    }
    Ok(common)
}

/// The number of the generation to ask all these members to promise: above every one they know of.
pub fn next_number(reports: &[MemberReport]) -> Result<u64, Refusal> {
    reports
        .iter()
        .flat_map(|r| [Some(r.promised), r.installed.as_ref().map(|c| c.generation)])
        .flatten()
        .map(|generation| generation.number)
        .max()
        .unwrap_or(0)
        .checked_add(1)
        .ok_or(Refusal::Exhausted)
}

/// Could these members start, if they promised? To be asked before they are told to, as a promise is for good, so that
/// a refusal changes nothing. `request.generation` is the one that they would promise.
pub fn foresee(reports: &[MemberReport], request: &Request) -> Result<(), Refusal> {
    compatible(reports)?;
    match newest(reports) {
        None => Ok(()),
        Some(newest) => next_config(reports, request, &newest).map(drop),
    }
}

/// Decides from what the members reported when they promised.
pub fn decide(reports: &[MemberReport], request: &Request) -> Result<Decision, Refusal> {
    let common = compatible(reports)?;
    for report in reports {
        let older = match &report.installed {
            Some(config) => config.generation.number < request.generation.number,
            None => true,
        };
        if report.promised != request.generation || !older {
            return Err(Refusal::NotPromised(report.member));
        }
    }
    let config = match newest(reports) {
        None => first_config(reports, request, common.pool),
        Some(newest) => next_config(reports, request, &newest)?,
    };
    Ok(Decision {
        pool: common.pool.unwrap_or(request.new_pool),
        assign: members(reports, |r| r.pool.is_nil()),
        config,
        geometry: common.geometry,
        limits: common.limits,
    })
}

/// The first configuration of a pool: everybody is in sync. Its history is called what the pool is.
fn first_config(reports: &[MemberReport], request: &Request, pool: Option<Uuid>) -> Config {
    let mut table = [None; MAX_MEMBERS];
    for report in reports {
        if let Some(place) = table.get_mut(report.member.index()) {
            *place = Some(report.store);
        }
    }
    Config {
        generation: request.generation,
        epoch: Epoch(1),
        in_sync: members(reports, |_| true),
        catching_up: MemberSet::EMPTY,
        members: table,
        incarnations: incarnations(reports, [Incarnation::NONE; MAX_MEMBERS]),
        persisted: [Epoch::NONE; MAX_MEMBERS],
        clean: false,
        history: pool.unwrap_or(request.new_pool),
        forked_from: None,
        quorum: Quorum::Off,
        maintenance: MemberSet::EMPTY,
    }
}

/// The incarnations of all members that reported, and those in `known` of all others.
fn incarnations(
    reports: &[MemberReport],
    mut known: [Incarnation; MAX_MEMBERS],
) -> [Incarnation; MAX_MEMBERS] {
    for report in reports {
        if let Some(place) = known.get_mut(report.member.index()) {
            *place = report.incarnation;
        }
    }
    known
}

/// The configuration that follows `newest`.
fn next_config(
    reports: &[MemberReport],
    request: &Request,
    newest: &Newest<'_>,
) -> Result<Config, Refusal> {
    let last = newest.config;
    if let Some((a, b)) = newest.conflict {
        return Err(Refusal::Conflict(a, b));
    }
    let missing = last.table().minus(members(reports, |_| true));
    if !missing.is_empty() {
        return Err(Refusal::Missing(missing));
    }
    let have = members(reports, |r| {
        r.installed.as_ref().is_some_and(|c| same(c, last))
    });
    let lack = last.table().minus(have);
    let clean = members(reports, |r| {
        r.installed
            .as_ref()
            .is_some_and(|c| same(c, last) && c.clean)
    });
    let in_sync = if request.abandoned == Some(last.generation) {
        last.in_sync
    } else if clean == last.table() || (last.in_sync.len() == 1 && last.in_sync.is_subset(have)) {
        // Members that are catching up anyway may lack it.
        last.in_sync
    } else {
        if have.intersection(last.in_sync).is_empty() && !clean.is_empty() {
            return Err(Refusal::Stale(lack));
        }
        // If no in-sync member has it, its install was begun and not completed: they are right as they are, or all
        // of them are old copies, which only the administrator can tell.
        let possible = match last.in_sync.intersection(have) {
            MemberSet::EMPTY => last.in_sync,
            some => some,
        };
        match request.source {
            Some(id) if !last.in_sync.contains(id) => return Err(Refusal::BadSource(id, possible)),
            Some(id) if !possible.contains(id) => return Err(Refusal::Stale(MemberSet::only(id))),
            Some(id) => MemberSet::only(id),
            None if !clean.is_empty() && !lack.is_empty() => return Err(Refusal::Stale(lack)),
            None => return Err(Refusal::Unclean(last.table().minus(clean), possible)),
        }
    };
    Ok(Config {
        generation: request.generation,
        epoch: last.epoch.next().ok_or(Refusal::Exhausted)?,
        in_sync,
        catching_up: last.table().minus(in_sync),
        members: last.members,
        incarnations: incarnations(reports, last.incarnations),
        persisted: last.persisted,
        clean: false,
        history: last.history,
        forked_from: last.forked_from,
        quorum: last.quorum,
        maintenance: MemberSet::EMPTY,
    })
}

/// The newest configuration that is installed anywhere.
struct Newest<'a> {
    config: &'a Config,
    /// Two members that disagree about it.
    conflict: Option<(MemberId, MemberId)>,
}

fn newest(reports: &[MemberReport]) -> Option<Newest<'_>> {
    let key = |config: &Config| (config.generation.number, config.epoch);
    let installed = || {
        reports
            .iter()
            .filter_map(|r| r.installed.as_ref().map(|c| (r.member, c)))
    };
    let (holder, config) = installed().max_by_key(|(_, c)| key(c))?;
    let conflict = installed()
        .find(|(_, c)| key(c) == key(config) && !same(c, config))
        .map(|(other, _)| (other, holder));
    Some(Newest { config, conflict })
}

/// The same configuration, detached from or not.
fn same(a: &Config, b: &Config) -> bool {
    a.generation == b.generation
        && a.epoch == b.epoch
        && a.in_sync == b.in_sync
        && a.catching_up == b.catching_up
        && a.members == b.members
}

fn members(reports: &[MemberReport], suits: impl Fn(&MemberReport) -> bool) -> MemberSet {
    reports
        .iter()
        .filter(|r| suits(r))
        .map(|r| r.member)
        .collect()
}

impl Decision {
    /// The members in the order in which to install: those in sync first, so that an install that is cut off
    /// leaves behind no configuration that none of them has.
    pub fn order(&self) -> impl Iterator<Item = MemberId> {
        self.config
            .in_sync
            .iter()
            .chain(self.config.catching_up.iter())
    }
}

impl Refusal {
    /// The errno (negative) to answer the administrator's command with.
    pub const fn errno(&self) -> i32 {
        match self {
            // EINVAL, EEXIST
            Self::NoMember | Self::BadSource(..) => -22,
            Self::SameId(_) | Self::SameStore(..) => -17,
            // EPROTONOSUPPORT
            Self::Version(..) => -93,
            // EMEDIUMTYPE
            Self::Geometry(..) | Self::LogicalBlock(..) | Self::Pool(..) => -124,
            // ESTALE
            Self::NotMember(_) | Self::OtherStore(..) | Self::Stale(_) | Self::Conflict(..) => -116,
            // ENXIO
            Self::Missing(_) => -6,
            // EBUSY
            Self::NotPromised(_) => -16,
            // EUCLEAN
            Self::Unclean(..) => -117,
            // EOVERFLOW
            Self::Exhausted => -75,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMember => f.write_str("the pool has no member here: add_sess first"),
            Self::Version(id, min, max) => write!(
                f,
                "member {id} speaks protocol versions {min} to {max}, this host {PROTOCOL_VERSION}: update the older of the two"
            ),
            Self::SameId(id) => write!(
                f,
                "two nodes have member id {id} in this pool: give one of them another id (member_id= on the server)"
            ),
            Self::SameStore(a, b) => write!(
                f,
                "members {a} and {b} have the same store UUID, one is a copy of the other: delete and create the copied store"
            ),
            Self::Geometry(a, ga, b, gb) => write!(
                f,
                "members {a} and {b} differ: {} bytes in chunks of {} and {} bytes in chunks of {}; create one of the stores with the size and chunk_size of the other",
                ga.size(), ga.chunk_size(), gb.size(), gb.chunk_size()
            ),
            Self::Pool(a, pa, b, pb) => write!(
                f,
                "members {a} and {b} belong to different pools ({pa} and {pb}): take away the one that was added by mistake"
            ),
            Self::LogicalBlock(id, block) => write!(
                f,
                "the size of the volume is not a multiple of the {block}-byte blocks of member {id}: create the stores with a size that is"
            ),
            Self::NotMember(id) => write!(
                f,
                "member {id} is new, and the pool has data: members cannot be added to a pool that was in use; take it away"
            ),
            Self::OtherStore(id, store) => write!(
                f,
                "the store of member {id} is not the one the pool knows ({store}): put that store back, or take the member away"
            ),
            Self::Missing(ids) => write!(
                f,
                "members {ids} of the pool are missing: add_sess their nodes, and see that they have their stores"
            ),
            Self::NotPromised(id) => write!(
                f,
                "member {id} has promised another generation, another client is attaching: try again when it is done"
            ),
            Self::Stale(ids) => write!(
                f,
                "the stores of members {ids} are old copies, the others were in use without them: put the right stores back, or name a member that has the right data (source=)"
            ),
            Self::Unclean(ids, possible) => write!(
                f,
                "the pool was not detached in order (members {ids}), its members may differ: name the member whose data is to be taken (source=, one of {possible}); the others then answer no reads"
            ),
            Self::BadSource(id, in_sync) => write!(
                f,
                "member {id} cannot be the source, its data is not complete: name one of {in_sync}"
            ),
            Self::Conflict(a, b) => write!(
                f,
                "members {a} and {b} have different configurations of the same number, two clients wrote to them: take one away"
            ),
            Self::Exhausted => f.write_str("generation or epoch numbers are used up: create a new pool"),
        }
    }
}

impl core::error::Error for Refusal {}
