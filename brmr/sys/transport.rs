// SPDX-License-Identifier: GPL-2.0

//! Where block layer and RTRS meet: the same memory, as either of them describes it. Nothing is copied.
//!
//! Neither description carries a lifetime, as both sides give the memory back by a message and not by a
//! reference. The rules are: no use of [`rtrs::IoData`] after its request was completed, no answer to an RTRS
//! operation before the bio on its data is done. Who keeps the promise to answer (or the request) where the
//! end of the IO is heard, keeps them by that.

use crate::bio::DataRef;
use crate::disk::Disk;
use crate::driver::Driver;
use crate::request::Request;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::prelude::*;
use rmr_sys::sysfs::HasKobject;
use rtrs::IoData;

impl Request {
    /// The memory of a read or write, to be sent by RTRS before the request is completed. Calls after the first
    /// are cheap. Any context.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a request without data, `EIO` if it has more segments than the disk offered.
    pub fn map(&mut self) -> Result<IoData> {
        let list = self.sg_list()?;
        let sg = NonNull::new(list.sg).ok_or(EINVAL)?;
        let entries = u16::try_from(list.nents).map_err(|_| EIO)?;
        // SAFETY: The table is in the request, and it and the pages stay as they are until it is completed,
        // which is when the users of the result are done with it (see above).
        Ok(unsafe { IoData::new(sg, entries) })
    }
}

impl From<rtrs::DataRef> for DataRef {
    /// The memory of an RTRS operation, for a bio that is done before the operation is answered.
    fn from(data: rtrs::DataRef) -> Self {
        // RTRS never has data at address 0; an empty place is refused by `BioSet::submit`.
        let start = NonNull::new(data.as_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: RTRS allocates its chunks in the linear mapping, and keeps one to its operation until that is
        // answered (see above).
        unsafe { Self::new(start, data.len()) }
    }
}

// SAFETY: A disk that lends itself was added (see `Disk::kobj`), and its gendisk lives as long as the `Disk`.
unsafe impl<D: Driver> HasKobject for Disk<D> {
    fn kobject(&self) -> *mut bindings::kobject {
        self.kobj()
    }
}
