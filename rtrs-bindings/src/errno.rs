// SPDX-License-Identifier: GPL-2.0

//! The nine bits that come back with a request.

use kernel::error::Error;
use kernel::ffi::c_int;

/// Why a request failed: a number in `1..=511`.
///
/// RTRS carries nine bits of errno and uses them for its own errors too, so a server that wants its answers
/// told from those of the transport answers with numbers above every errno of Linux (133).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(u16);

impl Errno {
    /// Largest number RTRS can carry.
    pub const MAX: u16 = 511;

    /// The failure a return value of RTRS means, `None` if it is none. What does not fit is an IO error.
    pub(crate) fn from_return(errno: c_int) -> Option<Self> {
        match u16::try_from(errno.unsigned_abs()) {
            Ok(0) => None,
            Ok(number @ 1..=Self::MAX) => Some(Self(number)),
            _ => Some(Self(kernel::bindings::EIO as u16)),
        }
    }

    /// The number, positive.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::from_errno(-c_int::from(errno.0))
    }
}
