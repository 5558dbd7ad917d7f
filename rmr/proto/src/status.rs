// SPDX-License-Identifier: GPL-2.0

//! How a request ended, as one number on the wire.
//!
//! The answer to an RTRS write carries nothing but nine bits of errno, so the numbers are below 512; they
//! begin at 256, above every errno of Linux, so that an error RTRS itself reports is never taken for an
//! answer of the member.

use core::error::Error;
use core::fmt;

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $wire:literal, errno $errno:literal, $text:literal;)*) => {
        /// Result of a request. The numbers are part of the protocol and never change.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Status {
            $($(#[$doc])* $name = $wire,)*
        }

        impl Status {
            /// Every status there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The status a number in a message means; `None` if there is none.
            pub const fn from_wire(wire: u16) -> Option<Self> {
                match wire {
                    $($wire => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The errno (0 or negative) a caller outside RMR is given.
            pub const fn to_errno(self) -> i32 {
                match self {
                    $(Self::$name => -$errno,)*
                }
            }

            const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

statuses! {
    /// Done.
    #[default]
    Ok = 0, errno 0, "ok";
    // How a store failed: final for this member.
    /// The store failed, no more is known.
    Io = 256, errno 5, "IO error";
    /// These very blocks cannot be read or written.
    Medium = 257, errno 61, "medium error";
    /// The store has no space.
    NoSpace = 258, errno 28, "no space left in the store";
    /// The store cannot do this.
    NotSupported = 259, errno 95, "not supported by the store";
    /// The message or request makes no sense.
    Invalid = 260, errno 22, "invalid request";
    /// The range is not in the volume.
    OutOfRange = 261, errno 34, "outside the volume";
    /// The store cannot be written.
    ReadOnly = 262, errno 30, "the store is read-only";
    /// The member had no memory for it.
    NoMemory = 263, errno 12, "out of memory";
    /// No answer in time.
    TimedOut = 264, errno 110, "no answer in time";
    /// The connection is gone; whether the request was executed is not known.
    Disconnected = 265, errno 104, "connection lost";
    // Refusals (R5, R8): nothing was executed, the client sends again under its current configuration.
    /// Sent for an incarnation that is over.
    StaleIncarnation = 272, errno 116, "for an earlier incarnation of the member";
    /// A newer generation is promised or installed.
    StaleGeneration = 273, errno 116, "a newer client generation is known";
    /// A newer epoch is installed.
    StaleEpoch = 274, errno 116, "a newer epoch is installed";
    /// The message is newer than what is installed.
    InstallFirst = 275, errno 11, "nothing that new is installed yet";
    /// A write at or below the watermark.
    BelowWatermark = 276, errno 116, "the write is at or below the watermark";
    /// A write too far above the watermark.
    OutOfWindow = 277, errno 11, "the write is too far above the watermark";
    /// No room for it now.
    Busy = 278, errno 16, "busy, try again";
    /// The client was fenced and must stop.
    Fenced = 279, errno 108, "fenced by a newer client";
    /// The activity log is full, and no extent can leave it yet.
    LogFull = 280, errno 11, "the activity log is full";
    /// The copy of what was asked for is not current.
    Dirty = 281, errno 116, "the copy is not current";
    /// The member cannot be that yet.
    NotReady = 282, errno 11, "not ready yet";
    /// The store has gone further in another history.
    Diverged = 283, errno 116, "the store has diverged";
    // Who is meant.
    /// No pool of that name or UUID.
    NoPool = 288, errno 2, "no such pool on the server";
    /// The pool has no store yet.
    NoStore = 289, errno 6, "the pool has no store on the server";
    /// The pool or store UUID is another.
    WrongUuid = 290, errno 116, "another pool or store UUID";
    /// The member id is another.
    WrongMember = 291, errno 116, "another member id";
    /// The protocol version is not supported.
    WrongVersion = 292, errno 93, "protocol version not supported";
    /// The pool's client is alive, and takeover was not asked for.
    InUse = 293, errno 16, "in use by another client, and takeover was not asked for";
    /// The store belongs to a pool already, or to none, against what the request says.
    WrongState = 294, errno 77, "not possible in the state of the member";
    // Whether the sender may.
    /// The pool has a secret, and it was not proved over this connection that the sender knows it.
    NotAuthenticated = 296, errno 126, "the pool requires a secret";
    /// The proof is not one of this secret.
    WrongSecret = 297, errno 129, "another secret than the server's";
    /// The pool has no secret on the server.
    NoSecret = 298, errno 126, "the pool requires no secret on the server";
}

impl Status {
    /// The number in messages, below 512.
    pub const fn wire(self) -> u16 {
        self as u16
    }

    /// What an errno, of either sign, means: a wire number that came back as the errno of an RTRS write,
    /// or an errno of RTRS, the block layer or the system.
    pub const fn from_errno(errno: i32) -> Self {
        let errno = errno.unsigned_abs();
        if errno > u16::MAX as u32 {
            return Self::Io;
        }
        if let Some(status) = Self::from_wire(errno as u16) {
            return status;
        }
        match errno {
            11 | 16 => Self::Busy,
            12 => Self::NoMemory,
            22 => Self::Invalid,
            28 | 52 | 122 => Self::NoSpace,
            30 => Self::ReadOnly,
            38 | 95 | 524 => Self::NotSupported,
            // ENODATA and EILSEQ are what the block layer makes of medium and protection errors.
            61 | 84 => Self::Medium,
            62 | 110 => Self::TimedOut,
            // ENOTCONN, ESHUTDOWN, ECONNABORTED, ECONNRESET, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, ENETUNREACH.
            101 | 103 | 104 | 107 | 108 | 111 | 112 | 113 => Self::Disconnected,
            _ => Self::Io,
        }
    }

    /// Whether this is [`Status::Ok`].
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Ok)
    }

    /// Whether the member refused without executing (R5), which is not an IO error: the client sends again
    /// under its current configuration, or stops when it is fenced.
    pub const fn is_refusal(self) -> bool {
        self.wire() >= Self::StaleIncarnation.wire()
    }

    /// `Ok(())` for [`Status::Ok`], the status otherwise.
    pub const fn result(self) -> Result<(), Self> {
        match self {
            Self::Ok => Ok(()),
            other => Err(other),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_fit() {
        for status in Status::ALL {
            assert!(status.wire() < 512);
            assert!(status.is_ok() || status.wire() >= 256);
            assert_eq!(Status::from_wire(status.wire()), Some(*status));
            assert_eq!(Status::from_errno(i32::from(status.wire())), *status);
            assert_eq!(Status::from_errno(-i32::from(status.wire())), *status);
            assert!((-133..=0).contains(&status.to_errno()));
            assert_eq!(status.is_ok(), status.to_errno() == 0);
        }
        assert_eq!(Status::Ok.result(), Ok(()));
        assert_eq!(Status::Fenced.result(), Err(Status::Fenced));
        assert_eq!(Status::Fenced.wire(), 279);
        assert_eq!(Status::WrongState.wire(), 294);
        assert_eq!(Status::NotAuthenticated.wire(), 296);
        assert_eq!(Status::NoSecret.wire(), 298);
    }

    #[test]
    fn errnos_are_total() {
        for errno in [i32::MIN, -65536, -1, 1, 255, 511, 65536, i32::MAX] {
            assert_eq!(Status::from_errno(errno), Status::Io);
        }
        let known: [(&[i32], Status); 8] = [
            (&[11, 16], Status::Busy),
            (&[12], Status::NoMemory),
            (&[22], Status::Invalid),
            (&[28, 52, 122], Status::NoSpace),
            (&[30], Status::ReadOnly),
            (&[38, 95, 524], Status::NotSupported),
            (&[61, 84], Status::Medium),
            (&[62, 110], Status::TimedOut),
        ];
        for (errnos, status) in known {
            assert!(errnos.iter().all(|n| Status::from_errno(-n) == status));
        }
        for errno in [101, 103, 104, 107, 108, 111, 112, 113] {
            assert_eq!(Status::from_errno(-errno), Status::Disconnected);
        }
        assert!(
            Status::InstallFirst.is_refusal()
                && !Status::Medium.is_refusal()
                && !Status::Ok.is_refusal()
        );
    }
}
