// SPDX-License-Identifier: GPL-2.0

//! The secret of a pool: a key of the kernel's keyring, found once, by who is told its description.
//!
//! What is proved with it, and how, is in `rmr_proto`; who asks for a proof is [`guard`](crate::server::guard), who gives one
//! [`handshake`](crate::client::handshake).

use crate::refuse;
use kernel::bindings;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use rmr_sys::hmac::HmacKey;
use rmr_sys::key;

/// Longest description of a key, in bytes.
pub const MAX_DESCRIPTION: usize = 127;

/// What is said instead of a description when there is no secret.
pub const NONE: &str = "none";

/// Bytes of a secret. Fewer can be guessed.
const MIN_BYTES: usize = 16;
const MAX_BYTES: usize = 256;

/// A secret. What it is cannot be read from it, and is wiped from memory with it.
pub struct Secret {
    description: CString,
    key: HmacKey,
}

impl Secret {
    /// The key with this description in the keyrings of the task that runs `command`; `None` if that is [`NONE`]. What is wrong, if
    /// anything, is in the kernel log. Sleeps.
    #[inline(never)]
    pub fn find(command: &str, description: &str) -> Result<Option<Arc<Self>>> {
        if description == NONE {
            return Ok(None);
        }
        let name = CString::try_from_fmt(fmt!("{description}"))?;
        let made = key::with_payload(&name, |payload| {
            if (MIN_BYTES..=MAX_BYTES).contains(&payload.len()) {
                Ok(HmacKey::new(payload))
            } else {
                Err(payload.len())
            }
        });
        let key = match made {
            Ok(Ok(key)) => key?,
            Ok(Err(len)) => {
                return Err(refuse!(
                    EINVAL,
                    "{}: the key {} has {} bytes; a secret has {} to {}, add another one (keyctl padd)",
                    command,
                    description,
                    len,
                    MIN_BYTES,
                    MAX_BYTES
                ))
            }
            Err(error) if error.to_errno() == -(bindings::ENOKEY as i32) => {
                return Err(refuse!(
                    error,
                    "{}: there is no key {}, of type logon or user, in the keyrings of this task; add it (keyctl padd logon {} @u)",
                    command,
                    description,
                    description
                ))
            }
            Err(error) => {
                return Err(refuse!(
                    error,
                    "{}: the key {} cannot be used ({:?}); add it again (keyctl padd logon {} @u)",
                    command,
                    description,
                    error,
                    description
                ))
            }
        };
        Ok(Some(Arc::new(
            Self {
                description: name,
                key,
            },
            GFP_KERNEL,
        )?))
    }

    /// How it is called in the keyring.
    #[inline(never)]
    pub fn description(&self) -> &str {
        refuse::text(&self.description)
    }

    /// To make proofs with.
    pub(crate) fn key(&self) -> &HmacKey {
        &self.key
    }
}

/// What is shown of a pool's secret.
#[inline(never)]
pub fn shown(secret: Option<&Arc<Secret>>) -> &str {
    secret.map_or(NONE, |secret| secret.description())
}
