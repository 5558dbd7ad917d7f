// SPDX-License-Identifier: GPL-2.0

//! Names and numbers that identify things: pools, stores, members, generations, epochs, writes.
//!
//! Each is a type of its own, so that an epoch cannot be passed where an incarnation is meant. What a
//! number means for admission is decided by the engine, not here.

use core::error::Error;
use core::fmt;
use core::num::NonZeroU8;

/// Longest pool name, in bytes.
pub const MAX_POOL_NAME: usize = 63;

/// Most members a pool can have.
pub const MAX_MEMBERS: usize = 32;

/// Name of a pool: 1 to 63 printable ASCII characters, no `/`, no leading `.` (it becomes a sysfs directory).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolName {
    // Bytes from `len` on are zero, so that derived comparison is right.
    bytes: [u8; MAX_POOL_NAME],
    len: u8,
}

/// Why bytes are not a [`PoolName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No character at all.
    Empty,
    /// More than 63 characters.
    TooLong,
    /// A byte that may not be in a name.
    BadByte(u8),
    /// The first character is a dot.
    LeadingDot,
    /// Stored form only: something follows the end of the name.
    Padding,
}

impl PoolName {
    /// Checks and copies a name.
    pub fn new(name: &[u8]) -> Result<Self, NameError> {
        match name.first() {
            None => return Err(NameError::Empty),
            Some(b'.') => return Err(NameError::LeadingDot),
            Some(_) => {}
        }
        if let Some(&bad) = name.iter().find(|b| !b.is_ascii_graphic() || **b == b'/') {
            return Err(NameError::BadByte(bad));
        }
        let mut bytes = [0; MAX_POOL_NAME];
        let place = bytes.get_mut(..name.len()).ok_or(NameError::TooLong)?;
        place.copy_from_slice(name);
        // At most 63, checked by the line above.
        Ok(Self {
            bytes,
            len: name.len() as u8,
        })
    }

    /// The name as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or("")
    }

    /// Form in messages and records: padded with zeroes to 64 bytes, so always ended by one.
    pub(crate) fn to_padded(self) -> [u8; MAX_POOL_NAME + 1] {
        let mut out = [0; MAX_POOL_NAME + 1];
        for (to, from) in out.iter_mut().zip(self.bytes) {
            *to = from;
        }
        out
    }

    /// Reads what [`Self::to_padded`] made.
    pub(crate) fn from_padded(raw: &[u8; MAX_POOL_NAME + 1]) -> Result<Self, NameError> {
        let len = raw.iter().position(|b| *b == 0).ok_or(NameError::TooLong)?;
        let (name, padding) = raw.split_at(len);
        if padding.iter().any(|b| *b != 0) {
            return Err(NameError::Padding);
        }
        Self::new(name)
    }
}

impl core::str::FromStr for PoolName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        Self::new(s.as_bytes())
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a pool name must not be empty"),
            Self::TooLong => write!(f, "a pool name has at most {MAX_POOL_NAME} characters"),
            Self::BadByte(b) => {
                write!(f, "byte {b:#04x} in a pool name: only printable ASCII without space and '/' is allowed")
            }
            Self::LeadingDot => f.write_str("a pool name must not begin with '.'"),
            Self::Padding => f.write_str("bytes after the end of the pool name are not zero"),
        }
    }
}

impl Error for NameError {}

/// UUID of a pool or a store. All zeroes ([`Uuid::NIL`]) means none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// "None": a pool that no client has given a UUID yet, a free place in the member table.
    pub const NIL: Self = Self([0; 16]);

    /// Makes a version 4 (random) UUID of 16 random bytes. Never nil.
    pub const fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// Whether this is [`Uuid::NIL`].
    pub fn is_nil(&self) -> bool {
        *self == Self::NIL
    }

    /// `None` for nil.
    pub fn non_nil(self) -> Option<Self> {
        if self.is_nil() {
            None
        } else {
            Some(self)
        }
    }
}

/// The text is not a UUID of the form `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UuidError;

impl fmt::Display for UuidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
    }
}

impl Error for UuidError {}

impl core::str::FromStr for Uuid {
    type Err = UuidError;

    fn from_str(s: &str) -> Result<Self, UuidError> {
        let text = s.as_bytes();
        if text.len() != 36 {
            return Err(UuidError);
        }
        let mut out = [0; 16];
        let mut at = 0usize;
        for (i, c) in text.iter().enumerate() {
            if matches!(i, 8 | 13 | 18 | 23) {
                if *c != b'-' {
                    return Err(UuidError);
                }
                continue;
            }
            let nibble = char::from(*c).to_digit(16).ok_or(UuidError)? as u8;
            let byte = out.get_mut(at / 2).ok_or(UuidError)?;
            *byte = (*byte << 4) | nibble;
            at += 1;
        }
        Ok(Self(out))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Number of a member in its pool, 1 to 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(NonZeroU8);

impl MemberId {
    /// Most members a pool can have, and the length of a table with a place for each.
    pub const MAX: usize = MAX_MEMBERS;

    /// `None` unless `id` is 1 to 32.
    pub const fn new(id: u32) -> Option<Self> {
        if id > MAX_MEMBERS as u32 {
            return None;
        }
        match NonZeroU8::new(id as u8) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number, 1 to 32.
    pub const fn get(self) -> u32 {
        self.0.get() as u32
    }

    /// Place in a table of all members, 0 to 31.
    pub const fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    /// The member at a place of such a table.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::new(u32::try_from(index).ok()?.checked_add(1)?)
    }

    /// All ids there are, ascending.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_MEMBERS).filter_map(Self::from_index)
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}

/// A set of members: bit `id - 1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MemberSet(u32);

impl MemberSet {
    /// No member.
    pub const EMPTY: Self = Self(0);

    /// From bits; every combination is a set.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Only `id`.
    pub const fn only(id: MemberId) -> Self {
        Self(1 << id.index())
    }

    /// Whether `id` is in the set.
    pub const fn contains(self, id: MemberId) -> bool {
        self.0 & Self::only(id).0 != 0
    }

    /// The set and `id`.
    pub const fn with(self, id: MemberId) -> Self {
        Self(self.0 | Self::only(id).0)
    }

    /// The set less `id`.
    pub const fn without(self, id: MemberId) -> Self {
        Self(self.0 & !Self::only(id).0)
    }

    /// Members of either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Members of both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Members of this and not of `other`.
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether every member of this is in `other`.
    pub const fn is_subset(self, other: Self) -> bool {
        self.minus(other).is_empty()
    }

    /// Whether no member is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many members.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The members, ascending.
    pub fn iter(self) -> Members {
        Members(self.0)
    }
}

/// Iterator over a [`MemberSet`].
#[derive(Clone, Debug)]
pub struct Members(u32);

impl Iterator for Members {
    type Item = MemberId;

    fn next(&mut self) -> Option<MemberId> {
        if self.0 == 0 {
            return None;
        }
        let index = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        MemberId::new(index + 1)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = self.0.count_ones() as usize;
        (n, Some(n))
    }
}

impl ExactSizeIterator for Members {}

impl IntoIterator for MemberSet {
    type Item = MemberId;
    type IntoIter = Members;
    fn into_iter(self) -> Members {
        self.iter()
    }
}

impl FromIterator<MemberId> for MemberSet {
    fn from_iter<I: IntoIterator<Item = MemberId>>(ids: I) -> Self {
        ids.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// `1,2,5`, or `-` for none.
impl fmt::Display for MemberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (i, id) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{id}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MemberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// Generation of a client: a number that grows, and a nonce that tells two clients with one number apart.
///
/// Not ordered as a whole: two generations with one number and different nonces exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Generation {
    /// Grows with every attach; 0 only in [`Generation::NONE`].
    pub number: u64,
    /// Random number of the client that made it.
    pub nonce: u64,
}

impl Generation {
    /// Before the first promise.
    pub const NONE: Self = Self {
        number: 0,
        nonce: 0,
    };

    /// Whether nothing was ever promised.
    pub const fn is_none(&self) -> bool {
        self.number == 0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.number, self.nonce)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// Zero: none yet.
            pub const NONE: Self = Self(0);

            /// Whether this is [`Self::NONE`].
            pub const fn is_none(self) -> bool {
                self.0 == 0
            }

            /// Whether this is not [`Self::NONE`].
            pub const fn is_some(self) -> bool {
                self.0 != 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// Number of a configuration of the pool. 0: nothing installed.
    Epoch
}

impl Epoch {
    /// The next number, `None` when there is no more.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }
}

number! {
    /// A member's run: new after a restart of the member or a reset of its disk. The upper 40 bits count the starts; the
    /// others are drawn at each of them: a store that was put back to an earlier state counts again where it was, and
    /// must not be taken for the run that had that count before (R10).
    Incarnation
}

impl Incarnation {
    const SALT_BITS: u32 = 24;

    /// How many starts there were.
    pub const fn count(self) -> u64 {
        self.0 >> Self::SALT_BITS
    }

    /// The run after this one; `salt` is a random number, of which the lower bits are used. `None` when there is no
    /// more.
    pub const fn after(self, salt: u32) -> Option<Self> {
        let count = self.count() + 1;
        if count >> (u64::BITS - Self::SALT_BITS) != 0 {
            return None;
        }
        let salt = salt as u64 & ((1 << Self::SALT_BITS) - 1);
        Some(Self(count << Self::SALT_BITS | salt))
    }

    /// Whether a store that says it is in this run must have been put back to an earlier state, as it is known to have
    /// been in the run `known`.
    pub const fn is_before(self, known: Self) -> bool {
        let (own, other) = (self.count(), known.count());
        known.is_some() && (own < other || own == other && self.0 != known.0)
    }
}

number! {
    /// Sequence number of a write, counted per generation. 0: not a write.
    Seq
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn names() {
        assert_eq!(PoolName::new(b""), Err(NameError::Empty));
        assert_eq!(PoolName::new(b".x"), Err(NameError::LeadingDot));
        assert_eq!(PoolName::new(b"a/b"), Err(NameError::BadByte(b'/')));
        assert_eq!(PoolName::new(b"a b"), Err(NameError::BadByte(b' ')));
        assert_eq!(PoolName::new("ä".as_bytes()), Err(NameError::BadByte(0xc3)));
        assert_eq!(PoolName::new(&[b'a'; 64]), Err(NameError::TooLong));
        assert_eq!(
            PoolName::new(&[b'a'; 63]).map(|n| n.as_bytes().len()),
            Ok(63)
        );
        let name: PoolName = "vm.7-x".parse().unwrap();
        assert_eq!(name.to_string(), "vm.7-x");
        let mut padded = name.to_padded();
        assert_eq!(PoolName::from_padded(&padded), Ok(name));
        padded[40] = b'x';
        assert_eq!(PoolName::from_padded(&padded), Err(NameError::Padding));
        assert_eq!(PoolName::from_padded(&[b'a'; 64]), Err(NameError::TooLong));
    }

    #[test]
    fn uuids() {
        let text = "01234567-89ab-cdef-0123-456789abcdef";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!(uuid.to_string(), text);
        assert_eq!(
            "0123456789abcdef0123456789abcdef".parse::<Uuid>(),
            Err(UuidError)
        );
        assert_eq!(
            "0123456--89ab-cdef-0123-456789abcdef".parse::<Uuid>(),
            Err(UuidError)
        );
        // Version 4, variant 1; all other bits as given.
        let [low, high] = [0, 0xff].map(|byte| Uuid::from_random([byte; 16]).0);
        assert_eq!((low[6], low[8]), (0x40, 0x80));
        assert_eq!((high[6], high[8]), (0x4f, 0xbf));
        assert!(!Uuid(low).is_nil());
        assert_eq!(Uuid::NIL.non_nil(), None);
    }

    #[test]
    fn members() {
        assert_eq!(MemberId::new(0), None);
        assert_eq!(MemberId::new(33), None);
        assert_eq!(MemberId::new(257), None);
        assert_eq!(MemberId::all().count(), MAX_MEMBERS);
        assert!(MemberId::all().all(|id| MemberId::from_index(id.index()) == Some(id)));
        assert_eq!(MemberId::from_index(usize::MAX), None);
        let [one, both] = [1, 0b101].map(MemberSet::from_bits);
        assert!(one.is_subset(both) && both.is_subset(both) && !both.is_subset(one));
        assert_eq!(MemberSet::EMPTY.to_string(), "-");
        assert_eq!(MemberSet::from_bits(0x8000_0001).to_string(), "1,32");
    }

    #[test]
    fn numbers_end() {
        assert_eq!(Epoch(1).next(), Some(Epoch(2)));
        assert_eq!(Epoch(u64::MAX).next(), None);
        assert_eq!(Incarnation(u64::MAX).after(0), None);
    }

    #[test]
    fn runs_of_a_store_that_was_put_back() {
        let first = Incarnation::NONE.after(7).unwrap();
        let second = first.after(u32::MAX).unwrap();
        assert_eq!((first.count(), first.0 as u8), (1, 7));
        assert_eq!(
            (second.count(), second.0 as u32 & 0xff_ffff),
            (2, 0xff_ffff)
        );
        assert!(first.is_some() && first.is_before(second));
        assert!(!second.is_before(first) && !second.is_before(second));
        assert!(!first.is_before(Incarnation::NONE));
        // Put back to the first, and started again: not the second that is known.
        let again = first.after(8).unwrap();
        assert!(again.is_before(second));
        assert!(again.after(9).is_some_and(|third| !third.is_before(second)));
    }

    proptest! {
        #[test]
        fn sets_round_trip(bits: u32) {
            let set = MemberSet::from_bits(bits);
            prop_assert_eq!(set.iter().len() as u32, set.len());
            prop_assert_eq!(set.iter().collect::<MemberSet>(), set);
        }

        #[test]
        fn uuid_text_round_trip(bytes: [u8; 16]) {
            prop_assert_eq!(Uuid(bytes).to_string().parse(), Ok(Uuid(bytes)));
        }
    }
}
