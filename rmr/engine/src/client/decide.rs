// SPDX-License-Identifier: GPL-2.0

//! With which configuration a generation of a client starts (rules R7, R8, R9, R10, R15).
//!
//! Decided from the reports that came with the promises, and from nothing else; a client that had the volume open
//! adds what it knows itself: its last complete configuration, and whether all it acknowledged is stable.
//!
//! *Highest* is the installed configuration with the highest generation, then epoch. Who is not in its table, has
//! another store, has gone further in another history, or runs in an incarnation earlier than one that others know of,
//! does not take part.

use crate::planted::on;
use crate::planted::Bug;
use core::fmt;
use rmr_proto::Config;
use rmr_proto::Epoch;
use rmr_proto::Features;
use rmr_proto::Fork;
use rmr_proto::Generation;
use rmr_proto::Incarnation;
use rmr_proto::MemberId;
use rmr_proto::MemberReport;
use rmr_proto::MemberSet;
use rmr_proto::Quorum;
use rmr_proto::Status;
use rmr_proto::Uuid;
use rmr_proto::MAX_MEMBERS;
use rmr_proto::PROTOCOL_VERSION;

/// Why something is not possible, or not now. Displays as one line that says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No member can be reached.
    NoMember,
    /// These members are needed and cannot be reached.
    Missing(MemberSet),
    /// Too few members can be reached.
    NoMajority(MemberSet),
    /// A member speaks other versions of the protocol.
    Version(MemberId),
    /// A member of another pool.
    Pool(MemberId),
    /// A member of another size or chunk size, or with larger blocks.
    Geometry(MemberId),
    /// A member that is not in the table.
    NotMember(MemberId),
    /// A member whose store is not the one in the table.
    OtherStore(MemberId),
    /// A store that another member has.
    SameStore(MemberId),
    /// A store that is an old copy of itself, or of which something was lost.
    RolledBack(MemberId),
    /// A store that has gone further in another history.
    Diverged(MemberId),
    /// What acknowledged data there was may be gone.
    Lost,
    /// Another client has gone on from where this one was.
    Replaced(MemberId),
    /// The administrator forced what does not need to be forced, or what cannot be.
    Force,
    /// Another client is alive.
    InUse(MemberId),
    /// Other clients were faster, again and again.
    Busy,
    /// The only member with all data.
    LastCopy(MemberId),
    /// Not in this state of the volume.
    NotNow,
    /// It took too long.
    TimedOut,
    /// The member does not answer, or refuses.
    Refused(MemberId, Status),
    /// It has been done already.
    Already(MemberId),
    /// There are no more numbers.
    Exhausted,
}

/// A member that takes part, or may.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    /// What it said when it promised.
    pub report: &'a MemberReport,
    /// Whether some of its chunks are suspect.
    pub suspects: bool,
    /// The administrator gave up what it has.
    pub discard: bool,
}

/// What the client wants and knows.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The generation promised.
    pub generation: Generation,
    /// No epoch up to this one is used again.
    pub used: Epoch,
    /// The pool; nil if that is not known.
    pub pool: Uuid,
    /// The members of a pool that was never started.
    pub members: MemberSet,
    /// Their stores are equal.
    pub equal: bool,
    /// The name of its history.
    pub history: Uuid,
    /// Its quorum.
    pub quorum: Quorum,
    /// The device is open.
    pub open: Option<Open<'a>>,
    /// The administrator gives up what these may have, and begins this history.
    pub force: Option<(MemberSet, Uuid)>,
}

/// What a client knows that has the device open.
#[derive(Clone, Copy)]
pub struct Open<'a> {
    /// The last complete configuration.
    pub config: &'a Config,
    /// All that was acknowledged is stable.
    pub stable: bool,
    /// Members that failed to flush since: what their caches held may be gone, as after a restart.
    pub unflushed: MemberSet,
    /// Members that were in sync in it and in every configuration that this client has asked anybody to install since, and
    /// promised to nobody else; none as long as it waits for all. Nobody can have begun without them, so that one is enough.
    pub kept: MemberSet,
}

/// How to start.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The first configuration of the generation.
    pub config: Config,
    /// The member that is right by definition.
    pub source: MemberId,
    /// Members that take part: they get the suspects of all of them, and the configuration.
    pub parts: MemberSet,
    /// Those of them that have to have the configuration before the others are asked.
    pub first: MemberSet,
}

fn key(config: &Config) -> (u64, Epoch) {
    (config.generation.number, config.epoch)
}

/// The highest configuration of these that is installed anywhere.
pub fn highest<'a>(candidates: impl Iterator<Item = Candidate<'a>>) -> Option<&'a Config> {
    candidates
        .filter_map(|c| c.report.installed.as_ref())
        .max_by_key(|config| key(config))
}

/// Can this member take part under `config`, now or later?
pub fn acceptable(candidate: &Candidate<'_>, config: &Config, pool: &Uuid) -> Result<(), Refusal> {
    let report = candidate.report;
    let id = report.member;
    if !(report.version_min..=report.version_max).contains(&PROTOCOL_VERSION) {
        return Err(Refusal::Version(id));
    }
    match config.store(id) {
        None => return Err(Refusal::NotMember(id)),
        Some(store) if store != report.store => {
            return if on(Bug::AcceptOtherStore) {
                Ok(())
            } else {
                Err(Refusal::OtherStore(id))
            };
        }
        Some(_) => {}
    }
    if !report.pool.is_nil() && report.pool != *pool {
        return Err(Refusal::Pool(id));
    }
    // Who is in a configuration had promised its generation before that was made.
    let forgot =
        config.receivers().contains(id) && report.promised.number < config.generation.number;
    let before = report.incarnation.is_before(config.incarnation(id));
    let rolled_back = forgot || before || has_forgotten(report, config);
    if rolled_back && !on(Bug::AcceptRolledBack) {
        return Err(Refusal::RolledBack(id));
    }
    let diverged = report
        .installed
        .as_ref()
        .is_some_and(|installed| !config.follows(installed));
    if diverged && !candidate.discard && !on(Bug::AcceptDiverged) {
        return Err(Refusal::Diverged(id));
    }
    Ok(())
}

/// Whether a member has persisted, as `config` knows, what it knows nothing of: its store is a copy from before (R10). The
/// numbers of one history grow on every member; those of another one say nothing.
fn has_forgotten(report: &MemberReport, config: &Config) -> bool {
    let persisted = config.persisted(report.member);
    match &report.installed {
        Some(installed) => config.follows(installed) && installed.epoch < persisted,
        None => persisted.is_some(),
    }
}

/// Whether `members` are more than half of `voters`.
pub fn is_majority(members: MemberSet, voters: MemberSet) -> bool {
    members.intersection(voters).len() * 2 > voters.len()
}

/// Decides.
pub fn decide<'a>(
    candidates: impl Iterator<Item = Candidate<'a>> + Clone,
    request: &Request<'_>,
) -> Result<Decision, Refusal> {
    let ours = |c: &Candidate<'_>| {
        request.pool.is_nil() || c.report.pool.is_nil() || c.report.pool == request.pool
    };
    if request.pool.is_nil() {
        check_one_pool(candidates.clone(), request.members)?;
    }
    // Who has the device open is no part of what others began without it.
    let known = |c: &Candidate<'_>| match (&request.open, &c.report.installed) {
        (Some(own), Some(installed)) if request.force.is_none() => {
            own.config.follows(installed) || installed.generation.nonce == request.generation.nonce
        }
        _ => true,
    };
    let candidates = candidates.filter(ours).filter(known);
    if let Some(own) = request.open.as_ref().filter(|_| !on(Bug::IgnoreFence)) {
        check_not_replaced(candidates.clone(), own.config, request.generation.nonce)?;
    }
    match highest(candidates.clone()) {
        Some(last) => next_config(candidates, request, last),
        None => first_config(candidates, request),
    }
}

/// Who has the device open stops for good when another client has gone on from its last configuration (R8): that one
/// may have started, and have completed what this one knows nothing of.
fn check_not_replaced<'a>(
    candidates: impl Iterator<Item = Candidate<'a>>,
    own: &Config,
    nonce: u64,
) -> Result<(), Refusal> {
    let mut installed = candidates
        .filter_map(|c| Some(c.report.member).zip(c.report.installed.as_ref()))
        .filter(|(_, config)| config.generation.nonce != nonce && key(config) > key(own));
    match installed.find(|(_, config)| config.follows(own)) {
        Some((id, _)) => Err(Refusal::Replaced(id)),
        None => Ok(()),
    }
}

/// Nobody said which pool it is, only its name: another one may have the same (R10). Stores of a pool that was never
/// started name none, or all the same.
fn check_one_pool<'a>(
    candidates: impl Iterator<Item = Candidate<'a>> + Clone,
    named: MemberSet,
) -> Result<(), Refusal> {
    if on(Bug::TakeAnyPool) {
        return Ok(());
    }
    let last = highest(candidates.clone());
    let mut pool = None;
    let counts = |c: &Candidate<'_>| last.is_none() || c.report.installed.is_some();
    for Candidate { report, .. } in candidates.filter(counts) {
        if let Some(own) = report.pool.non_nil() {
            if *pool.get_or_insert(own) != own {
                return Err(Refusal::Pool(report.member));
            }
        }
    }
    let stranger = last.and_then(|config| named.minus(config.table()).iter().next());
    stranger.map_or(Ok(()), |id| Err(Refusal::NotMember(id)))
}

/// The first configuration of a pool.
fn first_config<'a>(
    candidates: impl Iterator<Item = Candidate<'a>> + Clone,
    request: &Request<'_>,
) -> Result<Decision, Refusal> {
    let named = candidates.filter(|c| request.members.contains(c.report.member));
    let here = members(named.clone());
    let source = here.iter().next().ok_or(Refusal::NoMember)?;
    let missing = request.members.minus(here);
    if request.open.is_some() || !missing.is_empty() {
        return Err(Refusal::Missing(missing));
    }
    let mut table = [None; MAX_MEMBERS];
    let mut incarnations = [Incarnation::NONE; MAX_MEMBERS];
    let mut geometry = None;
    for candidate in named {
        let report = candidate.report;
        let id = report.member;
        if !(report.version_min..=report.version_max).contains(&PROTOCOL_VERSION) {
            return Err(Refusal::Version(id));
        }
        if *geometry.get_or_insert(report.geometry) != report.geometry {
            return Err(Refusal::Geometry(id));
        }
        if table.contains(&Some(report.store)) {
            return Err(Refusal::SameStore(id));
        }
        if let Some(place) = table.get_mut(id.index()) {
            *place = Some(report.store);
        }
        if let Some(place) = incarnations.get_mut(id.index()) {
            *place = report.incarnation;
        }
    }
    // Those that are not equal are taken in afterwards, one by one, with everything to be copied.
    let in_sync = if request.equal {
        here
    } else {
        MemberSet::only(source)
    };
    for id in here.minus(in_sync) {
        if let Some(place) = incarnations.get_mut(id.index()) {
            *place = Incarnation::NONE;
        }
    }
    Ok(Decision {
        config: Config {
            generation: request.generation,
            epoch: request.used.next().ok_or(Refusal::Exhausted)?,
            in_sync,
            catching_up: MemberSet::EMPTY,
            members: table,
            incarnations,
            persisted: [Epoch::NONE; MAX_MEMBERS],
            clean: false,
            history: request.history,
            forked_from: None,
            quorum: request.quorum,
            maintenance: MemberSet::EMPTY,
        },
        source,
        // All of the table has promised, so that this can be decided, and nobody starts without one of them.
        parts: here,
        first: here,
    })
}

/// The configuration that follows `last`.
fn next_config<'a>(
    candidates: impl Iterator<Item = Candidate<'a>> + Clone,
    request: &Request<'_>,
    last: &Config,
) -> Result<Decision, Refusal> {
    if let Some(own) = &request.open {
        // What this client completed must not be forgotten by all who are here.
        if key(last) < key(own.config) {
            return Err(Refusal::Missing(own.config.in_sync));
        }
    }
    let used = candidates
        .clone()
        .filter_map(|c| c.report.installed.as_ref().map(|config| config.epoch))
        .fold(request.used, Epoch::max);
    // The pool is the one of those who have the highest.
    let pool = candidates
        .clone()
        .filter(|c| {
            c.report
                .installed
                .as_ref()
                .is_some_and(|i| key(i) == key(last))
        })
        .map(|c| c.report.pool)
        .next()
        .unwrap_or(request.pool);
    let known = candidates.clone();
    let good = candidates.filter(move |c| {
        // A store may also be known as rolled back to others than those with the highest configuration.
        let id = c.report.member;
        let rolled_back = known
            .clone()
            .filter_map(|other| other.report.installed.as_ref())
            .any(|config| {
                config.store(id) == Some(c.report.store)
                    && (c.report.incarnation.is_before(config.incarnation(id))
                        || last.follows(config) && has_forgotten(c.report, config))
            });
        let other = on(Bug::AcceptOtherStore) && last.store(id) != Some(c.report.store);
        (!rolled_back || on(Bug::AcceptRolledBack)) && !other && acceptable(c, last, &pool).is_ok()
    });
    let parts = members(good.clone());
    let present = parts.intersection(last.in_sync);
    let missing = last.in_sync.minus(parts);
    // Who has the device open does not start, it goes on: as if it dropped those that are missing (R6).
    let onward = match &request.open {
        Some(own) if last.quorum == Quorum::Off && !missing.is_empty() => {
            let kept = present.intersection(own.kept);
            stayed(good.clone(), own).intersection(kept)
        }
        _ => MemberSet::EMPTY,
    };
    let possible = match request.force {
        Some((lost, _)) if missing.is_subset(lost) => match present {
            MemberSet::EMPTY => best_of(good.clone()),
            some => some,
        },
        _ => {
            match last.quorum {
                Quorum::Off
                    if !missing.is_empty()
                        && onward.is_empty()
                        && !on(Bug::StartWithoutAllInSync) =>
                {
                    return Err(Refusal::Missing(missing))
                }
                Quorum::Majority if !is_majority(parts, last.voters()) => {
                    return Err(Refusal::NoMajority(last.voters().minus(parts)))
                }
                _ => {}
            }
            present
        }
    };
    let right = match request.open {
        // An administrator can give up what members have that are away: not what the application was told, behind its
        // back, while the device is open.
        Some(own) if request.force.is_none() || !on(Bug::ForceOnOpenDevice) => {
            let right = match onward {
                MemberSet::EMPTY => stayed(good.clone(), &own).intersection(possible),
                some => some,
            };
            if right.is_empty() && !missing.is_empty() && request.force.is_none() {
                return Err(Refusal::Missing(missing));
            }
            if right.is_empty() {
                return Err(Refusal::Lost);
            }
            right
        }
        _ => possible,
    };
    // Prefers who did not restart, then who knows the highest configuration.
    let source = good
        .clone()
        .filter(|c| right.contains(c.report.member))
        .min_by_key(|c| {
            let report = c.report;
            let restarted = report.incarnation != last.incarnation(report.member);
            let behind = report.installed.as_ref().map(key) != Some(key(last));
            (restarted, behind, report.member)
        })
        .map(|c| c.report.member)
        .ok_or(Refusal::Missing(missing))?;
    let source = if on(Bug::AnySource) {
        good.clone()
            .map(|c| c.report.member)
            .next()
            .unwrap_or(source)
    } else {
        source
    };
    // Who never was a receiver joins later, with everything to be copied.
    let had_data = members(
        good.clone()
            .filter(|c| !last.incarnation(c.report.member).is_none()),
    );
    let receivers = had_data.minus(last.maintenance).with(source);
    let any_suspect = good.clone().any(|c| c.suspects) && !on(Bug::KeepInSync);
    let in_sync = if any_suspect || request.force.is_some() {
        MemberSet::only(source)
    } else {
        possible.intersection(receivers).with(source)
    };
    let mut persisted = last.persisted;
    for report in good.clone().map(|c| c.report) {
        let installed = report.installed.as_ref().filter(|i| last.follows(i));
        if let Some(place) = persisted.get_mut(report.member.index()) {
            *place = installed.map_or(*place, |installed| installed.epoch);
        }
    }
    let informed = members(
        good.clone()
            .filter(|c| c.report.installed.as_ref().map(key) == Some(key(last))),
    );
    let first = who_is_first(parts, informed, last.in_sync, in_sync);
    let mut incarnations = last.incarnations;
    for candidate in good.filter(|c| receivers.contains(c.report.member)) {
        if let Some(place) = incarnations.get_mut(candidate.report.member.index()) {
            *place = candidate.report.incarnation;
        }
    }
    let (history, forked_from) = match request.force {
        Some((_, history)) => {
            let fork = Fork {
                history: last.history,
                epoch: last.epoch,
            };
            (history, Some(fork))
        }
        None => (last.history, last.forked_from),
    };
    Ok(Decision {
        config: Config {
            generation: request.generation,
            epoch: used.next().ok_or(Refusal::Exhausted)?,
            in_sync,
            catching_up: receivers.minus(in_sync),
            members: last.members,
            incarnations,
            persisted,
            clean: false,
            history,
            forked_from,
            quorum: last.quorum,
            maintenance: last.maintenance.without(source),
        },
        source,
        parts,
        first,
    })
}

/// Who of `parts` installs a configuration before all others, so that at no moment two can be started from that have
/// nobody in sync in common. `in_sync` are in sync in it, `last` in the last one, which the `informed` have.
///
/// The last one can be started from as long as none of those in sync has anything newer. If some of them do not have it
/// yet, so can the one before it, which is complete and which these have: as soon as one of them has something newer,
/// neither can be. So they come first; and before them those of them who stay in sync, as when a member is dropped: who has
/// restarted unnoticed refuses, and nobody has the configuration.
fn who_is_first(
    parts: MemberSet,
    informed: MemberSet,
    last: MemberSet,
    in_sync: MemberSet,
) -> MemberSet {
    let here = last.intersection(parts);
    let counts = match here.minus(informed) {
        MemberSet::EMPTY => here,
        behind => behind,
    };
    [counts.intersection(in_sync), counts]
        .into_iter()
        .find(|first| !first.is_empty())
        .unwrap_or(parts)
}

/// Members that hold all that this client acknowledged.
fn stayed<'a>(candidates: impl Iterator<Item = Candidate<'a>>, own: &Open<'_>) -> MemberSet {
    members(candidates.filter(|c| kept_all(c.report, own))).intersection(own.config.in_sync)
}

/// Whether a member holds all that this client acknowledged: it has not restarted since, or nothing can have been lost.
fn kept_all(report: &MemberReport, own: &Open<'_>) -> bool {
    let id = report.member;
    let same_run = report.incarnation == own.config.incarnation(id);
    (same_run && !own.unflushed.contains(id))
        || !report.limits.features.contains(Features::WRITE_CACHE)
        || own.stable
        || on(Bug::ResumeFromRestarted)
}

/// Who has the highest configuration of those that are here, with nobody in sync among them.
fn best_of<'a>(candidates: impl Iterator<Item = Candidate<'a>> + Clone) -> MemberSet {
    let best = highest(candidates.clone()).map(key);
    members(candidates.filter(|c| c.report.installed.as_ref().map(key) == best))
        .iter()
        .take(1)
        .collect()
}

fn members<'a>(candidates: impl Iterator<Item = Candidate<'a>>) -> MemberSet {
    candidates.map(|c| c.report.member).collect()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMember => f.write_str("no member can be reached: see that the servers run"),
            Self::Missing(ids) => write!(
                f,
                "members {ids} are missing: start their servers, or force a start without them"
            ),
            Self::NoMajority(ids) => write!(
                f,
                "no majority: start the servers of some of members {ids}, or force a start without them"
            ),
            Self::Version(id) => write!(f, "member {id} speaks another protocol: update it"),
            Self::Pool(id) => write!(f, "member {id} belongs to another pool: take it away"),
            Self::Geometry(id) => write!(
                f,
                "member {id} has another size, chunk size or block size: create its store anew"
            ),
            Self::NotMember(id) => write!(f, "member {id} is not in the table: add it"),
            Self::OtherStore(id) => write!(
                f,
                "the store of member {id} is not the one in the table: put that one back, or replace it"
            ),
            Self::SameStore(id) => write!(
                f,
                "the store of member {id} is a copy of another member's: create it anew"
            ),
            Self::RolledBack(id) => write!(
                f,
                "the store of member {id} is an old copy: create it anew and replace it"
            ),
            Self::Diverged(id) => write!(
                f,
                "member {id} was written to in another history: discard what it has, or take it away"
            ),
            Self::Lost => f.write_str("acknowledged data may be gone: close the volume"),
            Self::Replaced(id) => write!(
                f,
                "another client has taken over, says member {id}: close the volume"
            ),
            Self::Force => f.write_str("nothing to force here"),
            Self::InUse(id) => write!(
                f,
                "another client is alive, says member {id}: stop it, or take over"
            ),
            Self::Busy => f.write_str("other clients attach at the same time: try again"),
            Self::LastCopy(id) => write!(f, "member {id} alone has all data"),
            Self::NotNow => f.write_str("not in this state of the volume: try again"),
            Self::TimedOut => f.write_str("it took too long: try again"),
            Self::Refused(id, status) => write!(f, "member {id} refuses: {status}"),
            Self::Already(id) => write!(f, "nothing to do for member {id}"),
            Self::Exhausted => f.write_str("numbers are used up: create a new pool"),
        }
    }
}

impl core::error::Error for Refusal {}
