// SPDX-License-Identifier: GPL-2.0

//! Room in which messages are encoded: one for all of them, as to allocate and to clear one for each takes longer than
//! what is written into it.

use std::cell::RefCell;

/// More than the longest message.
const ROOM: usize = 32 << 10;

thread_local! {
    static BYTES: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
}

/// What `encode` makes of room for `N` bytes, in which anything may be; nothing if it fails.
pub(crate) fn encoded<const N: usize, E>(
    encode: impl FnOnce(&mut [u8; N]) -> Result<&[u8], E>,
) -> Vec<u8> {
    const { assert!(N <= ROOM) };
    BYTES.with_borrow_mut(|room| {
        let room = room.first_chunk_mut();
        let bytes = room.and_then(|room| encode(room).ok());
        bytes.map(<[u8]>::to_vec).unwrap_or_default()
    })
}
