// SPDX-License-Identifier: GPL-2.0

//! Addresses of a path to a server.

use crate::raw;
use core::ptr::null_mut;
use kernel::error::to_result;
use kernel::ffi::c_char;
use kernel::prelude::*;

/// Longest address text: `ip:`, an IPv6 address, `%` and the name of an interface.
const MAX_TEXT: usize = 80;

/// Where a path leads, and optionally where it starts.
pub struct PathAddr {
    dst: raw::__kernel_sockaddr_storage,
    src: Option<raw::__kernel_sockaddr_storage>,
}

impl PathAddr {
    /// Reads `[src,]dst` (RTRS's own `src@dst` too). An address is `ip:` and IPv4 or IPv6, `gid:` and an IB
    /// gid, or just an IP address. `port` is the server's.
    ///
    /// May sleep. `EINVAL` if it is none of these.
    pub fn parse(text: &str, port: u16) -> Result<Self> {
        let mut parts = text.splitn(2, [',', '@']);
        let (first, second) = (parts.next().unwrap_or(""), parts.next());
        Ok(match second {
            Some(dst) => Self {
                dst: parse_one(dst.trim(), port)?,
                src: Some(parse_one(first.trim(), 0)?),
            },
            None => Self {
                dst: parse_one(first.trim(), port)?,
                src: None,
            },
        })
    }

    /// Writes the address the way [`parse`](Self::parse) reads it; what was written. Cut off if `buf` is too
    /// small (175 bytes always suffice).
    pub fn text<'a>(&self, buf: &'a mut [u8]) -> &'a [u8] {
        let mut len = 0;
        if let Some(src) = &self.src {
            len = text_one(src, buf);
            if let Some(comma) = buf.get_mut(len) {
                *comma = b',';
                len += 1;
            }
        }
        len += text_one(&self.dst, buf.get_mut(len..).unwrap_or(&mut []));
        buf.get(..len).unwrap_or(&[])
    }

    /// Writes where the path leads, without where it starts; `None` if that has a meaning on this host only (a link-local
    /// address with the name of an interface). 87 bytes always suffice.
    pub fn destination<'a>(&self, buf: &'a mut [u8]) -> Option<&'a [u8]> {
        let len = text_one(&self.dst, buf);
        buf.get(..len).filter(|text| !text.contains(&b'%'))
    }

    /// Makes the neighbour the path leads to known, so that RTRS need not wait for it. Sleeps, at most two seconds. An
    /// address that leads nowhere is no error here.
    pub(crate) fn meet(&self) {
        let addr = self.as_raw();
        // SAFETY: `src` is null or, as `dst`, a socket address that lives as long as `self`; neither is written to.
        unsafe { raw::rtrs_rs_meet(addr.src, addr.dst) };
    }

    /// The form RTRS wants. The pointers borrow from `self`; RTRS copies what is behind them.
    pub(crate) fn as_raw(&self) -> raw::rtrs_addr {
        raw::rtrs_addr {
            src: self
                .src
                .as_ref()
                .map_or(null_mut(), |a| core::ptr::from_ref(a).cast_mut()),
            dst: core::ptr::from_ref(&self.dst).cast_mut(),
        }
    }
}

/// Reads one address.
fn parse_one(text: &str, port: u16) -> Result<raw::__kernel_sockaddr_storage> {
    let prefix = if text.starts_with("ip:") || text.starts_with("gid:") {
        ""
    } else {
        "ip:"
    };
    // RTRS looks for separators up to a NUL, so the text must end in one and must not hold one.
    let mut buf = [0; MAX_TEXT];
    let len = prefix.len() + text.len();
    if text.is_empty() || len >= MAX_TEXT || text.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err(EINVAL);
    }
    buf[..prefix.len()].copy_from_slice(prefix.as_bytes());
    buf[prefix.len()..len].copy_from_slice(text.as_bytes());
    if buf[..len].iter().any(|b| matches!(b, b',' | b'@')) {
        return Err(EINVAL);
    }

    let mut storage = raw::__kernel_sockaddr_storage::default();
    let mut addr = raw::rtrs_addr {
        src: null_mut(),
        dst: &mut storage,
    };
    // SAFETY: `buf` holds a NUL behind its first `len` bytes; without a separator in them only `dst` is
    // written to, which is a `sockaddr_storage`.
    to_result(unsafe {
        raw::rtrs_addr_to_sockaddr(buf.as_ptr().cast::<c_char>(), len, port, &mut addr)
    })
    .map_err(|_| EINVAL)?;
    Ok(storage)
}

/// Writes one address; how many bytes.
fn text_one(addr: &raw::__kernel_sockaddr_storage, buf: &mut [u8]) -> usize {
    // SAFETY: `addr` is a socket address of a family that `sockaddr_to_str` knows or tells it does not, and
    // `buf` is valid for writes of its length.
    let len = unsafe {
        raw::sockaddr_to_str(
            core::ptr::from_ref(addr).cast(),
            buf.as_mut_ptr().cast::<c_char>(),
            buf.len(),
        )
    };
    usize::try_from(len).unwrap_or(0).min(buf.len())
}
