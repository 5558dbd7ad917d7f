// SPDX-License-Identifier: GPL-2.0

//! A request on its way to a server: the scatterlist with its data, and what its sender wants to remember.

use crate::client::Core;
use crate::raw;
use crate::server::DataRef;
use core::ptr::NonNull;
use kernel::bindings::scatterlist;
use kernel::page::Page;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

/// In `page_link`: this entry is no entry but leads to the next piece of the table.
const SG_CHAIN: usize = 1;
/// In `page_link`: no entry follows.
const SG_END: usize = 2;
const SG_FLAGS: usize = SG_CHAIN | SG_END;

/// RTRS registers data in pages of 4 KiB: only the first may begin, and only the last may end, inside one.
const PIECE: u32 = 4096;

/// The data of one block request: its scatterlist, not mapped for DMA.
#[derive(Clone, Copy)]
pub struct IoData {
    sgl: NonNull<scatterlist>,
    entries: u16,
    bytes: u32,
    starts_aligned: bool,
    ends_aligned: bool,
    gapless: bool,
}

// SAFETY: The table is only read, and whoever made the `IoData` promised that it does not change meanwhile.
unsafe impl Send for IoData {}
// SAFETY: As above.
unsafe impl Sync for IoData {}

impl IoData {
    /// The data in the first `entries` entries of the table at `sgl` (chained or not).
    ///
    /// # Safety
    ///
    /// The table has that many entries. It does not change, and the pages in it are not freed, until the last
    /// copy of the result is gone and every message it was pushed to was confirmed, cleared or dropped.
    pub unsafe fn new(sgl: NonNull<scatterlist>, entries: u16) -> Self {
        let mut data = Self {
            sgl,
            entries,
            bytes: 0,
            starts_aligned: true,
            ends_aligned: true,
            gapless: true,
        };
        // SAFETY: The caller promised that there are `entries` entries.
        unsafe {
            data.for_each(|index, entry| {
                let aligned = entry.offset % PIECE == 0;
                if index == 0 {
                    data.starts_aligned = aligned;
                } else {
                    data.gapless &= aligned && data.ends_aligned;
                }
                data.ends_aligned = entry.offset.wrapping_add(entry.length) % PIECE == 0;
                // More than 4 GiB cannot be sent anyway, and is seen by whoever compares lengths.
                data.bytes = data.bytes.saturating_add(entry.length);
            });
        }
        data
    }

    /// Bytes in it.
    pub fn len(&self) -> u32 {
        self.bytes
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Entries in its table.
    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Whether it begins on a 4 KiB boundary of memory, so that it can follow other data in a message.
    pub fn starts_aligned(&self) -> bool {
        self.starts_aligned
    }

    /// Whether it ends on a 4 KiB boundary of memory, so that other data can follow it in a message.
    pub fn ends_aligned(&self) -> bool {
        self.ends_aligned
    }

    /// Calls `each` with every entry and its number.
    ///
    /// # Safety
    ///
    /// The table is as promised to [`new`](Self::new).
    unsafe fn for_each(self, mut each: impl FnMut(u16, &scatterlist)) {
        let mut at = self.sgl.as_ptr().cast_const();
        for index in 0..self.entries {
            if index > 0 {
                // SAFETY: Entry `index` exists, so the one before it is followed by it or by a link to it.
                at = unsafe { at.add(1) };
                // SAFETY: As above.
                let link = unsafe { (*at).page_link };
                if link & SG_CHAIN != 0 {
                    at = (link & !SG_FLAGS) as *const scatterlist;
                }
            }
            // SAFETY: `at` is entry `index` of a table that does not change.
            each(index, unsafe { &*at });
        }
    }
}

/// Why data does not fit into a message. The message is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// No scatterlist entries left.
    Full,
    /// There would be a gap inside a 4 KiB page, which RTRS cannot transfer.
    Gap,
}

impl From<PushError> for Error {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Full => EMSGSIZE,
            PushError::Gap => EINVAL,
        }
    }
}

/// Which request of which session a message is lent to.
pub(crate) struct Flight {
    pub(crate) core: NonNull<Core>,
    pub(crate) permit: NonNull<raw::rtrs_permit>,
}

/// A request: its data, and a context `C` for whoever sends it.
///
/// Made once and used for many requests; sending allocates nothing. Between
/// [`send`](crate::Session::send) and [`Confirm::confirmed`](crate::Confirm::confirmed) it belongs to RTRS,
/// which holds pointers into it and stores DMA addresses in its table: one request to several servers takes
/// several messages.
pub struct Message<C> {
    table: KVec<scatterlist>,
    used: u16,
    bytes: u32,
    ends_aligned: bool,
    /// Pages of the message's own, kept for the next use.
    pages: KVec<Page>,
    /// Memory in one piece of the message's own.
    buffer: KVec<u8>,
    /// Bytes of the data that are in `pages`: all or none.
    owned: u32,
    /// Set exactly while RTRS has the message.
    flight: Option<Flight>,
    ctx: C,
}

// SAFETY: The pointers in a message lead to memory whose lifetime does not depend on a thread (see `IoData`
// and `Permit`); everything else is `Send` if `C` is.
unsafe impl<C: Send> Send for Message<C> {}

impl<C> Message<C> {
    /// A message for up to `max_entries` scatterlist entries (`max_segments` of the session). May sleep.
    pub fn new(max_entries: usize, ctx: C) -> Result<KBox<Self>> {
        // RTRS wants a table even if there is no data.
        let entries = max_entries.clamp(1, usize::from(u16::MAX));
        let mut table = KVec::with_capacity(entries, GFP_KERNEL)?;
        for _ in 0..entries {
            table.push(scatterlist::default(), GFP_KERNEL)?;
        }
        Ok(KBox::new(
            Self {
                table,
                used: 0,
                bytes: 0,
                ends_aligned: true,
                pages: KVec::new(),
                buffer: KVec::new(),
                owned: 0,
                flight: None,
                ctx,
            },
            GFP_KERNEL,
        )?)
    }

    /// Takes all data out.
    pub fn clear(&mut self) {
        self.used = 0;
        self.bytes = 0;
        self.owned = 0;
        self.ends_aligned = true;
    }

    /// Appends `data`. Does not copy: the request reads from or writes to its pages.
    pub fn push_data(&mut self, data: &IoData) -> Result<(), PushError> {
        if !data.gapless || (self.used > 0 && !(self.ends_aligned && data.starts_aligned)) {
            return Err(PushError::Gap);
        }
        let free = self
            .table
            .get_mut(usize::from(self.used)..)
            .unwrap_or(&mut []);
        if free.len() < usize::from(data.entries) {
            return Err(PushError::Full);
        }
        let bytes = self.bytes.checked_add(data.bytes).ok_or(PushError::Full)?;
        // SAFETY: The table behind `data` is as promised when `data` was made.
        unsafe {
            data.for_each(|index, from| {
                if let Some(to) = free.get_mut(usize::from(index)) {
                    *to = scatterlist {
                        page_link: from.page_link & !SG_FLAGS,
                        offset: from.offset,
                        length: from.length,
                        ..scatterlist::default()
                    };
                }
            });
        }
        self.used += data.entries;
        self.bytes = bytes;
        self.ends_aligned = data.ends_aligned;
        Ok(())
    }

    /// Makes `len` bytes of pages of the message's own its data, zeroed. The message must be empty.
    ///
    /// May sleep. `EBUSY` if there is data in it, `EMSGSIZE` if `len` is 0 or takes more pages than the table
    /// has entries, `ENOMEM`.
    pub fn push_owned(&mut self, len: u32) -> Result {
        if self.used > 0 {
            return Err(EBUSY);
        }
        let count = len.div_ceil(PAGE_SIZE as u32);
        if count == 0 || count as usize > self.table.len() {
            return Err(EMSGSIZE);
        }
        while self.pages.len() < count as usize {
            self.pages.push(Page::alloc_page(GFP_KERNEL)?, GFP_KERNEL)?;
        }
        let mut rest = len;
        for (entry, page) in self.table.iter_mut().zip(&self.pages).take(count as usize) {
            // SAFETY: Nobody else uses the pages of a message: RTRS does only while it has the message.
            unsafe { page.fill_zero_raw(0, PAGE_SIZE)? };
            let length = rest.min(PAGE_SIZE as u32);
            rest -= length;
            *entry = scatterlist {
                page_link: page.as_ptr() as usize,
                offset: 0,
                length,
                ..scatterlist::default()
            };
        }
        // At most the number of entries of the table, which is a `u16`.
        self.used = count as u16;
        self.bytes = len;
        self.owned = len;
        self.ends_aligned = len % PIECE == 0;
        Ok(())
    }

    /// Makes `len` bytes of memory of the message's own, in one piece, its data; zeroed. The message must be empty.
    ///
    /// May sleep. `EBUSY` if there is data in it, `EMSGSIZE` if `len` is 0, `ENOMEM`.
    pub fn push_buffer(&mut self, len: u32) -> Result {
        if self.used > 0 {
            return Err(EBUSY);
        }
        if len == 0 {
            return Err(EMSGSIZE);
        }
        self.buffer.clear();
        self.buffer.resize(len as usize, 0, GFP_KERNEL)?;
        let mut entry = scatterlist::default();
        // SAFETY: `entry` is one entry; the buffer has `len` bytes, from `kmalloc`.
        unsafe { raw::rtrs_rs_sg_buffer(&mut entry, self.buffer.as_ptr().cast(), len) };
        entry.page_link &= !SG_FLAGS;
        if let Some(place) = self.table.first_mut() {
            *place = entry;
        }
        self.used = 1;
        self.bytes = len;
        self.ends_aligned = len % PIECE == 0;
        Ok(())
    }

    /// Where the memory made by [`push_buffer`](Self::push_buffer) is; `None` if there is none. It lasts until the message is dropped
    /// or gets another one; to be used while nobody sends the message.
    pub fn buffer(&mut self) -> Option<DataRef> {
        let len = u32::try_from(self.buffer.len()).ok()?;
        let start = NonNull::new(self.buffer.as_mut_ptr())?;
        (len > 0).then(|| DataRef::new(start, len))
    }

    /// Copies `bytes` into the data made by [`push_owned`](Self::push_owned). `EINVAL` outside of it.
    pub fn write_owned(&mut self, offset: u32, bytes: &[u8]) -> Result {
        self.check_owned(offset, bytes.len())?;
        let mut rest = bytes;
        let mut at = offset as usize;
        while !rest.is_empty() {
            let page = self.pages.get(at / PAGE_SIZE).ok_or(EINVAL)?;
            let (now, later) = rest.split_at(rest.len().min(PAGE_SIZE - at % PAGE_SIZE));
            // SAFETY: `now` is valid for reads; the page is used by nobody else, see `push_owned`.
            unsafe { page.write_raw(now.as_ptr(), at % PAGE_SIZE, now.len())? };
            at += now.len();
            rest = later;
        }
        Ok(())
    }

    /// Copies out of the data made by [`push_owned`](Self::push_owned). `EINVAL` outside of it.
    pub fn read_owned(&self, offset: u32, bytes: &mut [u8]) -> Result {
        self.check_owned(offset, bytes.len())?;
        let mut rest = bytes;
        let mut at = offset as usize;
        while !rest.is_empty() {
            let page = self.pages.get(at / PAGE_SIZE).ok_or(EINVAL)?;
            let len = rest.len().min(PAGE_SIZE - at % PAGE_SIZE);
            let (now, later) = rest.split_at_mut(len);
            // SAFETY: `now` is valid for writes; the page is used by nobody else, see `push_owned`.
            unsafe { page.read_raw(now.as_mut_ptr(), at % PAGE_SIZE, now.len())? };
            at += len;
            rest = later;
        }
        Ok(())
    }

    fn check_owned(&self, offset: u32, len: usize) -> Result {
        let end = (offset as usize).checked_add(len).ok_or(EINVAL)?;
        if end > self.owned as usize {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Bytes of data.
    pub fn data_len(&self) -> u32 {
        self.bytes
    }

    /// Scatterlist entries in use.
    pub fn entries(&self) -> u16 {
        self.used
    }

    /// The sender's context.
    pub fn ctx(&self) -> &C {
        &self.ctx
    }

    /// The sender's context.
    pub fn ctx_mut(&mut self) -> &mut C {
        &mut self.ctx
    }

    /// Gets ready for a request with this flight; the table to send.
    pub(crate) fn launch(&mut self, flight: Flight) -> *mut scatterlist {
        let last = usize::from(self.used.saturating_sub(1));
        if let Some(entry) = self.table.get_mut(last) {
            entry.page_link |= SG_END;
        }
        self.flight = Some(flight);
        self.table.as_mut_ptr()
    }

    /// The message is back; the flight it was on, `None` if it was on none.
    pub(crate) fn land(&mut self) -> Option<Flight> {
        let last = usize::from(self.used.saturating_sub(1));
        if let Some(entry) = self.table.get_mut(last) {
            entry.page_link &= !SG_END;
        }
        self.flight.take()
    }
}
