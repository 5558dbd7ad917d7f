// SPDX-License-Identifier: GPL-2.0

//! How a command of the administrator is refused: one line in the kernel log, one errno.

use kernel::prelude::*;
use rmr_engine::options;

/// Logs why a command is refused, in one line, and yields the error: `refuse!(EBUSY, "leave_pool: …")`.
#[macro_export]
macro_rules! refuse {
    ($errno:expr, $($arg:tt)*) => {{
        // `format_args!` takes the `Display` of `core`, which the types of the engine have.
        ::kernel::pr_err!("{}\n", ::core::format_args!($($arg)*));
        $errno
    }};
}

/// Writes one line to the kernel log: `say!(pr_info, "pool {}: …", name)`.
#[macro_export]
macro_rules! say {
    ($print:ident, $($arg:tt)*) => {
        ::kernel::$print!("{}\n", ::core::format_args!($($arg)*))
    };
}

/// The error of that number, for those that the kernel crate does not name in Linux 7.2.
pub fn numbered(errno: u32) -> Error {
    // Below 4096, as all of them.
    Error::from_errno(-(errno as i32))
}

/// The errno for a command line that cannot be understood.
pub fn errno(error: &options::Error<'_>) -> Error {
    match error {
        options::Error::Range { .. } => ERANGE,
        _ => EINVAL,
    }
}

/// A name from the kernel in such a line.
pub fn text(name: &CStr) -> &str {
    name.to_str().unwrap_or("?")
}

/// Logs what is wrong with the command line of `command` and yields the errno.
#[macro_export]
macro_rules! malformed {
    ($command:expr) => {
        |error| $crate::refuse!($crate::refuse::errno(&error), "{}: {}", $command, error)
    };
}
