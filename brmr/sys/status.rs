// SPDX-License-Identifier: GPL-2.0

//! How a request ends, and why it could not be started.
//!
//! Only the states a driver of ours may report; those that mean "try again" to blk-mq are in [`Busy`].

use crate::ffi;
use kernel::bindings;
use kernel::error::Error;

/// Outcome of a request as the block layer understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlkStatus {
    /// Done.
    Ok,
    /// The operation is not supported.
    NotSupported,
    /// It took too long.
    Timeout,
    /// No space left.
    NoSpace,
    /// The way to the device is broken.
    Transport,
    /// The device failed in a way that another path would not mend.
    Target,
    /// The medium cannot deliver these blocks.
    Medium,
    /// The data failed an integrity check.
    Protection,
    /// The device is not there any more.
    Offline,
    /// Any other error.
    Io,
}

impl BlkStatus {
    /// The status for a negative errno; 0 is `Ok`, whatever has no status of its own is `Io`.
    pub fn from_errno(errno: i32) -> Self {
        match errno.unsigned_abs() {
            0 => Self::Ok,
            bindings::EOPNOTSUPP => Self::NotSupported,
            bindings::ETIMEDOUT => Self::Timeout,
            bindings::ENOSPC => Self::NoSpace,
            bindings::ENOLINK => Self::Transport,
            bindings::EREMOTEIO => Self::Target,
            bindings::ENODATA => Self::Medium,
            bindings::EILSEQ => Self::Protection,
            bindings::ENODEV => Self::Offline,
            _ => Self::Io,
        }
    }

    /// The negative errno, 0 for `Ok`.
    pub fn to_errno(self) -> i32 {
        let errno = match self {
            Self::Ok => 0,
            Self::NotSupported => bindings::EOPNOTSUPP,
            Self::Timeout => bindings::ETIMEDOUT,
            Self::NoSpace => bindings::ENOSPC,
            Self::Transport => bindings::ENOLINK,
            Self::Target => bindings::EREMOTEIO,
            Self::Medium => bindings::ENODATA,
            Self::Protection => bindings::EILSEQ,
            Self::Offline => bindings::ENODEV,
            Self::Io => bindings::EIO,
        };
        // All of them are small.
        -(errno as i32)
    }

    /// The block layer's number.
    pub(crate) fn raw(self) -> bindings::blk_status_t {
        if self == Self::Ok {
            return ffi::BLK_STS_OK;
        }
        // SAFETY: A pure table lookup.
        unsafe { bindings::errno_to_blk_status(self.to_errno()) }
    }
}

impl From<Error> for BlkStatus {
    fn from(error: Error) -> Self {
        Self::from_errno(error.to_errno())
    }
}

/// Why [`crate::Driver::queue`] gives a request back: it comes again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// A resource that nobody will announce is short: blk-mq tries again by itself, within some milliseconds.
    Resource,
    /// A resource of this device is short: blk-mq tries again when a request of this disk ends, or when the
    /// driver calls [`crate::Disk::run_queues`]. Only with one of both certain to happen.
    Device,
}

impl Busy {
    /// The block layer's number.
    pub(crate) fn raw(self) -> bindings::blk_status_t {
        match self {
            Self::Resource => ffi::BLK_STS_RESOURCE,
            Self::Device => ffi::BLK_STS_DEV_RESOURCE,
        }
    }
}
