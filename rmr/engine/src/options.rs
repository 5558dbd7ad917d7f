// SPDX-License-Identifier: GPL-2.0

//! Command lines of the administrator: `key=value` words, as written to sysfs files.
//!
//! A command declares its [`Key`]s; [`Options::parse`] refuses unknown, repeated and malformed words; values are
//! read by typed getters of [`Value`]. Every [`Error`] prints as one line that says what is wrong and what is
//! possible instead. Nothing is copied: all results borrow the line.
//!
//! Not supported: quoting, escapes, values with blanks or bytes that are not printable ASCII.

use core::fmt;
use core::ops::RangeInclusive;
use rmr_proto::MemberId;
use rmr_proto::PoolName;
use rmr_proto::Uuid;

/// Keys that a command can have.
pub const MAX_KEYS: usize = 16;

/// Bytes of a foreign word that an error repeats.
const SHOWN: usize = 64;

/// A key of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    name: &'static str,
    many: bool,
}

impl Key {
    /// May be given once.
    pub const fn once(name: &'static str) -> Self {
        Self { name, many: false }
    }

    /// May be given any number of times.
    pub const fn many(name: &'static str) -> Self {
        Self { name, many: true }
    }
}

/// What is wrong with a command line. Displays as one line without a line feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<'a> {
    /// A word is not `key=value`.
    NotPair {
        /// The word.
        word: &'a [u8],
        /// What could be given.
        known: &'static [Key],
    },
    /// A key that the command does not have.
    Unknown {
        /// The key given.
        key: &'a [u8],
        /// What could be given.
        known: &'static [Key],
    },
    /// A key that is needed was not given.
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A key was given twice.
    Repeated {
        /// The key.
        key: &'static str,
    },
    /// A value is not what it should be.
    Malformed {
        /// The key.
        key: &'static str,
        /// The value given.
        value: &'a [u8],
        /// What it should be, to follow the word "not".
        wanted: &'static str,
    },
    /// A number is outside of its range.
    Range {
        /// The key.
        key: &'static str,
        /// The value given.
        value: &'a [u8],
        /// Smallest possible.
        min: u64,
        /// Largest possible.
        max: u64,
    },
    /// A value is none of a list of words.
    Choice {
        /// The key.
        key: &'static str,
        /// The value given.
        value: &'a [u8],
        /// What could be given.
        choices: &'static [&'static str],
    },
}

/// The words of a line, separated by blanks, tabs and line feeds.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    /// The words of `line`.
    pub const fn new(line: &'a [u8]) -> Self {
        Self { rest: line }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.rest.trim_ascii_start();
        let end = text
            .iter()
            .position(u8::is_ascii_whitespace)
            .unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// A parsed command line: every word is a pair, every key known and given no more often than it may be.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    line: &'a [u8],
    keys: &'static [Key],
}

impl<'a> Options<'a> {
    /// Checks `line` against the keys of the command; keys after the first [`MAX_KEYS`] are not known.
    pub fn parse(line: &'a [u8], keys: &'static [Key]) -> Result<Self, Error<'a>> {
        let keys = keys.get(..MAX_KEYS).unwrap_or(keys);
        let mut seen = 0u32;
        for word in Words::new(line) {
            let (key, _) = split(word).ok_or(Error::NotPair { word, known: keys })?;
            let place = keys
                .iter()
                .position(|k| k.name.as_bytes() == key)
                .ok_or(Error::Unknown { key, known: keys })?;
            if let Some(known) = keys.get(place) {
                if seen & (1 << place) != 0 && !known.many {
                    return Err(Error::Repeated { key: known.name });
                }
            }
            seen |= 1 << place;
        }
        Ok(Self { line, keys })
    }

    /// All values of `key`, in the order given.
    pub fn all(&self, key: &'static str) -> impl Iterator<Item = Value<'a>> + 'a {
        Words::new(self.line)
            .filter_map(split)
            .filter(move |(k, _)| *k == key.as_bytes())
            .map(move |(_, text)| Value { key, text })
    }

    /// The value of `key`, if given.
    pub fn get(&self, key: &'static str) -> Option<Value<'a>> {
        debug_assert!(self.keys.iter().any(|k| k.name == key));
        self.all(key).next()
    }

    /// The value of `key`, which must be given.
    pub fn require(&self, key: &'static str) -> Result<Value<'a>, Error<'a>> {
        self.get(key).ok_or(Error::Missing { key })
    }
}

fn split(word: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = word.iter().position(|b| *b == b'=')?;
    let (key, value) = (word.get(..at)?, word.get(at + 1..)?);
    let printable = word.iter().all(u8::is_ascii_graphic);
    (printable && !key.is_empty() && !value.is_empty()).then_some((key, value))
}

/// A value with the name it was given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    key: &'static str,
    text: &'a [u8],
}

impl<'a> Value<'a> {
    /// The single word of a line: the value of a file `key` that holds one value.
    pub fn single(key: &'static str, line: &'a [u8]) -> Result<Self, Error<'a>> {
        let mut words = Words::new(line);
        match (words.next(), words.next()) {
            (Some(text), None) if text.iter().all(u8::is_ascii_graphic) => Ok(Self { key, text }),
            (None, _) => Err(Error::Missing { key }),
            _ => Err(Error::Malformed {
                key,
                value: line.trim_ascii(),
                wanted: "one word",
            }),
        }
    }

    /// The value as it was given; printable ASCII.
    pub fn bytes(self) -> &'a [u8] {
        self.text
    }

    /// The value as text.
    pub fn text(self) -> Result<&'a str, Error<'a>> {
        core::str::from_utf8(self.text).map_err(|_| self.malformed("printable text"))
    }

    /// Text of at most `max` bytes.
    pub fn text_up_to(self, max: usize) -> Result<&'a str, Error<'a>> {
        if self.text.len() > max {
            return Err(Error::Range {
                key: self.key,
                value: self.text,
                min: 1,
                max: max as u64,
            });
        }
        self.text()
    }

    /// A number, decimal or with `0x`.
    pub fn number(self, range: RangeInclusive<u64>) -> Result<u64, Error<'a>> {
        self.in_range(number(self.text), range, "a number")
    }

    /// A number of bytes, with K, M, G or T (powers of 1024) if wanted.
    pub fn bytes_size(self, range: RangeInclusive<u64>) -> Result<u64, Error<'a>> {
        let size = match self.text {
            [digits @ .., unit] if unit.is_ascii_alphabetic() => {
                let shift = match unit.to_ascii_uppercase() {
                    b'K' => 10,
                    b'M' => 20,
                    b'G' => 30,
                    b'T' => 40,
                    _ => 64,
                };
                number(digits).and_then(|n| n.checked_mul(1u64.checked_shl(shift)?))
            }
            _ => number(self.text),
        };
        self.in_range(size, range, "a number of bytes (K, M, G, T may follow)")
    }

    /// A number of sectors of 512 bytes; the result, too.
    pub fn sectors(self, range: RangeInclusive<u64>) -> Result<u64, Error<'a>> {
        self.in_range(number(self.text), range, "a number of 512-byte sectors")
    }

    /// A number of milliseconds, or of seconds if `s` follows; the result in milliseconds.
    pub fn milliseconds(self, range: RangeInclusive<u64>) -> Result<u64, Error<'a>> {
        let time = if let Some(digits) = self.text.strip_suffix(b"ms") {
            number(digits)
        } else if let Some(digits) = self.text.strip_suffix(b"s") {
            number(digits).and_then(|n| n.checked_mul(1000))
        } else {
            number(self.text)
        };
        self.in_range(
            time,
            range,
            "a number of milliseconds (or of seconds, with an s)",
        )
    }

    /// Yes or no.
    pub fn boolean(self) -> Result<bool, Error<'a>> {
        match self.text {
            b"1" | b"y" | b"yes" | b"on" => Ok(true),
            b"0" | b"n" | b"no" | b"off" => Ok(false),
            _ => Err(self.malformed("1 or 0")),
        }
    }

    /// The place of the value in a list of words.
    pub fn choice(self, choices: &'static [&'static str]) -> Result<usize, Error<'a>> {
        choices
            .iter()
            .position(|c| c.as_bytes() == self.text)
            .ok_or(Error::Choice {
                key: self.key,
                value: self.text,
                choices,
            })
    }

    /// The number of a member.
    pub fn member(self) -> Result<MemberId, Error<'a>> {
        let id = self.number(1..=32)?;
        u32::try_from(id)
            .ok()
            .and_then(MemberId::new)
            .ok_or(self.malformed("the number of a member, 1 to 32"))
    }

    /// The name of a pool.
    pub fn pool(self) -> Result<PoolName, Error<'a>> {
        PoolName::new(self.text).map_err(|_| {
            self.malformed("the name of a pool (1 to 63 characters, no '/', no '.' at the start)")
        })
    }

    /// A UUID.
    pub fn uuid(self) -> Result<Uuid, Error<'a>> {
        self.text()?
            .parse()
            .map_err(|_| self.malformed("a UUID (8-4-4-4-12 hexadecimal digits)"))
    }

    /// One path of a session, `[source,]destination`: (source, destination), neither of them empty. What an
    /// address looks like is the transport's affair.
    pub fn path(self) -> Result<(Option<&'a [u8]>, &'a [u8]), Error<'a>> {
        let mut parts = self.text.split(|b| *b == b',');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(dst), None, None) if !dst.is_empty() => Ok((None, dst)),
            (Some(src), Some(dst), None) if !src.is_empty() && !dst.is_empty() => {
                Ok((Some(src), dst))
            }
            _ => Err(self.malformed("a path ([source,]destination)")),
        }
    }

    /// That this value is not `wanted`, for what only the caller can judge.
    pub fn malformed(self, wanted: &'static str) -> Error<'a> {
        Error::Malformed {
            key: self.key,
            value: self.text,
            wanted,
        }
    }

    fn in_range(
        self,
        number: Option<u64>,
        range: RangeInclusive<u64>,
        wanted: &'static str,
    ) -> Result<u64, Error<'a>> {
        let number = number.ok_or(self.malformed(wanted))?;
        if range.contains(&number) {
            return Ok(number);
        }
        Err(Error::Range {
            key: self.key,
            value: self.text,
            min: *range.start(),
            max: *range.end(),
        })
    }
}

/// A number, decimal or with `0x`; no sign, no blanks.
pub fn number(text: &[u8]) -> Option<u64> {
    let (digits, radix) = match text {
        [b'0', b'x' | b'X', hex @ ..] => (hex, 16),
        _ => (text, 10),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        sum.checked_mul(u64::from(radix))?
            .checked_add(u64::from(digit))
    })
}

/// Foreign bytes, cut and escaped so that they cannot disturb a log.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..SHOWN) {
            Some(start) if self.0.len() > SHOWN => write!(f, "\"{}...\"", start.escape_ascii()),
            _ => write!(f, "\"{}\"", self.0.escape_ascii()),
        }
    }
}

/// A list of names, separated by commas.
struct List<I>(I);

impl<I: Iterator<Item = &'static str> + Clone> fmt::Display for List<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.0.clone();
        match names.next() {
            Some(first) => f.write_str(first)?,
            None => return f.write_str("none"),
        }
        names.try_for_each(|name| write!(f, ", {name}"))
    }
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |keys: &'static [Key]| List(keys.iter().map(|k| k.name));
        match *self {
            Self::NotPair { word, known } => write!(
                f,
                "{} is not of the form key=value, known keys are: {}",
                Shown(word),
                names(known)
            ),
            Self::Unknown { key, known } => write!(
                f,
                "unknown option {}, known are: {}",
                Shown(key),
                names(known)
            ),
            Self::Missing { key } => write!(f, "option \"{key}\" is missing, it must be given"),
            Self::Repeated { key } => {
                write!(f, "option \"{key}\" is given twice, it can be given once")
            }
            Self::Malformed { key, value, wanted } => {
                write!(f, "option \"{key}\": {} is not {wanted}", Shown(value))
            }
            Self::Range {
                key,
                value,
                min,
                max,
            } => write!(
                f,
                "option \"{key}\": {} is out of range, possible is {min} to {max}",
                Shown(value)
            ),
            Self::Choice {
                key,
                value,
                choices,
            } => write!(
                f,
                "option \"{key}\": {} is not possible, choose one of: {}",
                Shown(value),
                List(choices.iter().copied())
            ),
        }
    }
}

impl core::error::Error for Error<'_> {}
