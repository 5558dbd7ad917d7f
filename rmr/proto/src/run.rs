// SPDX-License-Identifier: GPL-2.0

//! Runs of chunks, as messages carry them: suspects, marks for dirty bitmaps, and clears.
//!
//! They are kept as the bytes of a message, so that a list of them is read and sent without being copied. Whether a
//! run lies in the volume is not known here.

use crate::header::WireError;
use crate::ids::MemberSet;
use core::fmt;
use core::mem::size_of;
use core::ops::Range;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;
use zerocopy::FromBytes;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Consecutive chunks.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Run {
    first: U64,
    chunks: U32,
    reserved: U32,
}

/// Consecutive chunks, and the members whose copies of them are not current.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Mark {
    first: U64,
    chunks: U32,
    members: U32,
}

const _: () = {
    assert!(size_of::<Run>() == 16);
    assert!(size_of::<Mark>() == 16);
};

impl Run {
    /// No chunk; to fill a buffer with. A message with it is refused.
    pub const EMPTY: Self = Self::new(0, 0);

    /// `chunks` chunks, of which `first` is the first.
    pub const fn new(first: u64, chunks: u32) -> Self {
        Self {
            first: U64::new(first),
            chunks: U32::new(chunks),
            reserved: U32::ZERO,
        }
    }

    /// The chunks of `range` as runs: one, unless it is longer than a run can be.
    pub fn cover(range: Range<u64>) -> impl Iterator<Item = Self> {
        let mut next = range.start;
        core::iter::from_fn(move || {
            let rest = range.end.checked_sub(next).filter(|rest| *rest != 0)?;
            let chunks = u32::try_from(rest).unwrap_or(u32::MAX);
            let run = Self::new(next, chunks);
            // Not above the end.
            next += u64::from(chunks);
            Some(run)
        })
    }

    /// The first chunk.
    pub const fn first(&self) -> u64 {
        self.first.get()
    }

    /// How many chunks.
    pub const fn chunks(&self) -> u32 {
        self.chunks.get()
    }

    /// The chunks. Of a run out of a message the end does not overflow.
    pub const fn range(&self) -> Range<u64> {
        range(self.first(), self.chunks())
    }

    fn check(&self) -> Result<(), WireError> {
        if self.reserved.get() != 0 {
            return Err(WireError::Reserved);
        }
        check(self.first(), self.chunks())
    }
}

impl Mark {
    /// No chunk; to fill a buffer with. A message with it is refused.
    pub const EMPTY: Self = Self::new(Run::EMPTY, MemberSet::EMPTY);

    /// The chunks of `run` are not current on `members`.
    pub const fn new(run: Run, members: MemberSet) -> Self {
        Self {
            first: run.first,
            chunks: run.chunks,
            members: U32::new(members.bits()),
        }
    }

    /// The chunks.
    pub const fn run(&self) -> Run {
        Run::new(self.first.get(), self.chunks.get())
    }

    /// The members whose copies are not current.
    pub const fn members(&self) -> MemberSet {
        MemberSet::from_bits(self.members.get())
    }

    fn check(&self) -> Result<(), WireError> {
        if self.members().is_empty() {
            return Err(WireError::Missing("members of a mark"));
        }
        check(self.first.get(), self.chunks.get())
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.range(), f)
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {}", self.run(), self.members())
    }
}

const fn range(first: u64, chunks: u32) -> Range<u64> {
    first..first.saturating_add(chunks as u64)
}

fn check(first: u64, chunks: u32) -> Result<(), WireError> {
    if chunks == 0 || first.checked_add(u64::from(chunks)).is_none() {
        return Err(WireError::Run { first, chunks });
    }
    Ok(())
}

/// Checks a list of `least` to `most` runs.
pub(crate) fn check_runs(runs: &[Run], least: usize, most: usize) -> Result<(), WireError> {
    check_len(runs.len(), least, most)?;
    runs.iter().try_for_each(Run::check)
}

/// Checks a list of 1 to `most` marks.
pub(crate) fn check_marks(marks: &[Mark], most: usize) -> Result<(), WireError> {
    check_len(marks.len(), 1, most)?;
    marks.iter().try_for_each(Mark::check)
}

fn check_len(len: usize, least: usize, most: usize) -> Result<(), WireError> {
    if (least..=most).contains(&len) {
        Ok(())
    } else {
        Err(WireError::Count(u16::try_from(len).unwrap_or(u16::MAX)))
    }
}

/// The bytes of a message as a list.
pub(crate) fn parse_list<T>(bytes: &[u8]) -> Option<&[T]>
where
    T: FromBytes + zerocopy::Immutable,
    [T]: zerocopy::KnownLayout<PointerMetadata = usize>,
{
    <[T]>::ref_from_bytes(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn refused() {
        let refused = |run: Run| check_runs(&[run], 1, 1).unwrap_err();
        let run = |first, chunks| WireError::Run { first, chunks };
        assert_eq!(refused(Run::EMPTY), run(0, 0));
        assert_eq!(refused(Run::new(u64::MAX, 1)), run(u64::MAX, 1));
        assert_eq!(check_runs(&[Run::new(u64::MAX - 1, 1)], 1, 1), Ok(()));
        let mut bad = Run::new(1, 1);
        bad.reserved = U32::new(1);
        assert_eq!(refused(bad), WireError::Reserved);
        assert_eq!(
            check_marks(&[Mark::new(Run::new(1, 1), MemberSet::EMPTY)], 1),
            Err(WireError::Missing("members of a mark"))
        );
        assert_eq!(check_runs(&[], 0, 1), Ok(()));
        assert_eq!(check_runs(&[], 1, 1), Err(WireError::Count(0)));
        assert_eq!(
            check_runs(&[Run::new(1, 1); 2], 0, 1),
            Err(WireError::Count(2))
        );
    }

    proptest! {
        #[test]
        fn covers(start: u64, len in prop_oneof![0..10u64, 0..1u64 << 40]) {
            let range = start..start.saturating_add(len);
            let runs: Vec<_> = Run::cover(range.clone()).collect();
            let mut next = range.start;
            for run in runs {
                prop_assert_eq!(run.first(), next);
                prop_assert_eq!(check_runs(&[run], 1, 1), Ok(()));
                next = run.range().end;
            }
            prop_assert_eq!(next, range.end);
        }
    }
}
