// SPDX-License-Identifier: GPL-2.0

//! Messages for what may happen very often: at most 10 in 5 seconds from one place in the code.

use crate::time;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;

/// Messages in one period.
const BURST: u32 = 10;
/// Length of a period in milliseconds.
const PERIOD: u64 = 5000;

/// How much one place in the code has said of late.
pub struct Limit {
    begin: Atomic<u64>,
    count: Atomic<u32>,
}

impl Limit {
    /// A place that has not said anything.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self {
            begin: Atomic::new(0),
            count: Atomic::new(0),
        }
    }

    /// May it speak? `Some(n)`: yes, and `n` messages were left out in the period before. Any
    /// context.
    pub fn admit(&self) -> Option<u32> {
        let now = time::coarse_ms();
        let begin = self.begin.load(Relaxed);
        if now.wrapping_sub(begin) > PERIOD && self.begin.cmpxchg(begin, now, Full).is_ok() {
            return Some(self.count.xchg(1, Full).saturating_sub(BURST));
        }
        // No period has enough of them to wrap.
        let before = self.count.fetch_add(1, Relaxed);
        (before < BURST).then_some(0)
    }
}

/// Prints with the named macro of the kernel crate, within the limit of the place it stands at.
#[doc(hidden)]
#[macro_export]
macro_rules! pr_limited {
    ($print:ident, $($arg:tt)*) => {{
        static LIMIT: $crate::log::Limit = $crate::log::Limit::new();
        if let Some(left_out) = LIMIT.admit() {
            if left_out > 0 {
                ::kernel::$print!("{} messages like the next one were left out\n", left_out);
            }
            ::kernel::$print!($($arg)*);
        }
    }};
}

/// `pr_err!` for what may happen often.
#[macro_export]
macro_rules! pr_err_limited {
    ($($arg:tt)*) => { $crate::pr_limited!(pr_err, $($arg)*) };
}

/// `pr_warn!` for what may happen often.
#[macro_export]
macro_rules! pr_warn_limited {
    ($($arg:tt)*) => { $crate::pr_limited!(pr_warn, $($arg)*) };
}

/// `pr_info!` for what may happen often.
#[macro_export]
macro_rules! pr_info_limited {
    ($($arg:tt)*) => { $crate::pr_limited!(pr_info, $($arg)*) };
}
