// SPDX-License-Identifier: GPL-2.0

//! What a member says of itself: who it is, how far it is from being in sync, and what is suspect (R14).

use super::log::Log;
use super::member::Member;
use super::shared::Shared;
use super::Action;
use super::Out;
use crate::memory::Memory;
use crate::planted::on;
use crate::planted::Bug;
use rmr_proto::Crc32c;
use rmr_proto::Kind;
use rmr_proto::MemberReport;
use rmr_proto::Progress;
use rmr_proto::Reply;
use rmr_proto::Run;
use rmr_proto::Status;
use rmr_proto::Suspects;
use rmr_proto::MAX_SUSPECTS;
use rmr_proto::PROTOCOL_VERSION;

impl<M: Memory, C: Crc32c> Member<M, C> {
    pub(super) fn reply_report<J>(
        &mut self,
        call: u64,
        kind: Kind,
        status: Status,
        shared: &Shared<M, J>,
        out: &mut impl Out,
    ) {
        let report = Some(self.report(shared));
        let mut count = 0;
        let all = self.record.suspect_all;
        if kind == Kind::Promise && status.is_ok() && !all {
            let suspect = self.log_suspect || shared.has_failed();
            let runs = &mut self.runs;
            own_suspects(&self.log, suspect, shared, |run| {
                if let Some(place) = runs.get_mut(count) {
                    *place = run;
                    count += 1;
                }
            });
        }
        let promise = kind == Kind::Promise && status.is_ok();
        out.act(Action::Reply {
            call,
            reply: &Reply {
                kind,
                status,
                report,
                suspects: Suspects {
                    all: promise && all,
                    runs: self.runs.get(..count).unwrap_or(&[]),
                },
            },
        });
    }

    /// What the member says of itself.
    pub fn report<J>(&self, shared: &Shared<M, J>) -> MemberReport {
        MemberReport {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            pool: self.info.pool,
            store: self.info.store,
            member: self.info.member,
            incarnation: self.record.incarnation,
            geometry: *shared.geometry(),
            limits: self.info.limits,
            promised: self.record.promised,
            installed: self.record.installed.clone(),
            serving: self.serving.is_some(),
            progress: self.progress(shared),
            log_extents: self.info.log_extents,
        }
    }

    /// How far it is from being in sync.
    pub fn progress<J>(&self, shared: &Shared<M, J>) -> Progress {
        match self.serving {
            Some(serving) if serving.in_sync => Progress::Ready,
            Some(_) if self.resync.knows() => match shared.bitmaps.count(self.info.member) {
                0 if shared.has_failed() => Progress::Unknown,
                0 => Progress::Ready,
                chunks => Progress::Dirty {
                    chunks,
                    rate: self.resync.rate.bytes_per_second(),
                },
            },
            _ => Progress::Unknown,
        }
    }

    /// Whether what was acknowledged may be missing on its disk, anywhere in its log.
    pub(super) fn is_suspect<J>(&self, shared: &Shared<M, J>) -> bool {
        self.log_suspect || self.record.suspect_all || shared.has_failed()
    }

    /// Whether a promise would report this chunk as suspect.
    pub fn suspect<J>(&self, shared: &Shared<M, J>, chunk: u64) -> bool {
        let mut found = self.record.suspect_all;
        let suspect = self.log_suspect || shared.has_failed();
        own_suspects(&self.log, suspect, shared, |run| {
            found |= run.range().contains(&chunk);
        });
        found
    }
}

pub(super) fn reply(out: &mut impl Out, call: u64, kind: Kind, status: Status) {
    out.act(Action::Reply {
        call,
        reply: &Reply::bare(kind, status),
    });
}

/// The suspects, unless the whole store is (R14): the log after a crash or failure, else the writes above the
/// watermark. At most [`MAX_SUSPECTS`] runs.
pub(super) fn own_suspects<M: Memory, J>(
    log: &Log<M>,
    whole_log: bool,
    shared: &Shared<M, J>,
    mut tell: impl FnMut(Run),
) {
    let watermark = shared.watermark().0;
    if whole_log || shared.recent().exceeds(watermark, MAX_SUSPECTS) {
        for extent in log.extents() {
            for run in Run::cover(super::chunks_of_extent(shared.geometry(), extent)) {
                tell(run);
            }
        }
    } else if !on(Bug::ForgetRecentWrites) {
        for run in shared.recent().above(watermark) {
            tell(run);
        }
    }
}
