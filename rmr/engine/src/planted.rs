// SPDX-License-Identifier: GPL-2.0

//! Bugs that can be switched on, to prove that the simulator finds them.
//!
//! Each is one fix or one precaution taken out: `if !on(Bug::X) { precaution }`. In any build without
//! `--cfg planted`, in the kernel always, [`on`] is the constant `false` and leaves no code behind.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $doc])* $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name, as in this source.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

bugs! {
    // Client side. The number is that of the finding in the review of the rules.
    /// 3: the next epoch is derived from an unfinished one.
    DeriveFromUnfinished,
}

/// Is this bug planted in this thread?
#[cfg(not(all(planted, not(CONFIG_RUST))))]
#[inline(always)]
pub const fn on(_bug: Bug) -> bool {
    false
}

#[cfg(all(planted, not(CONFIG_RUST)))]
mod chosen {
    use super::Bug;
    use core::cell::Cell;

    std::thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants this bug, and no other, in this thread.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.with(|chosen| chosen.set(bug));
    }

    /// Is this bug planted in this thread?
    pub fn on(bug: Bug) -> bool {
        CHOSEN.with(|chosen| chosen.get() == Some(bug))
    }
}

#[cfg(all(planted, not(CONFIG_RUST)))]
pub use chosen::on;
#[cfg(all(planted, not(CONFIG_RUST)))]
pub use chosen::plant;
