// SPDX-License-Identifier: GPL-2.0

//! Files are really closed when their task returns to user space. Loading a module is one system call, so what
//! opens and closes the RAM disk here, and wants it closed before the call ends, does so in a worker.

use brmr_sys::BlockDevice;
use brmr_sys::DeadWatcher;
use brmr_sys::OpenError;
use core::ops::Deref;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Acquire;
use kernel::sync::atomic::ordering::Release;
use kernel::sync::atomic::Atomic;
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::workqueue;

/// Runs `f` in a worker and waits for it.
pub(crate) fn in_worker(f: impl FnOnce() -> Result + Send + 'static) -> Result {
    const PENDING: i32 = 1;
    let result = Arc::new(Atomic::new(PENDING), GFP_KERNEL)?;
    let theirs = result.clone();
    workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
        let errno = f().err().map_or(0, Error::to_errno);
        theirs.store(errno, Release);
    })?;
    loop {
        match result.load(Acquire) {
            PENDING => fsleep(Delta::from_millis(1)),
            0 => return Ok(()),
            errno => return Err(Error::from_errno(errno)),
        }
    }
}

/// An open device that is closed in a worker.
pub(crate) struct Opened(Option<Arc<BlockDevice>>, Arc<BlockDevice>);

impl Opened {
    pub(crate) fn new(
        path: &CStr,
        watcher: Option<Arc<dyn DeadWatcher>>,
    ) -> core::result::Result<Self, OpenError> {
        let device = BlockDevice::open_exclusive(path, watcher)?;
        Ok(Self(Some(device.clone()), device))
    }

    pub(crate) fn shared(&self) -> Arc<BlockDevice> {
        self.1.clone()
    }
}

impl Deref for Opened {
    type Target = BlockDevice;

    fn deref(&self) -> &BlockDevice {
        &self.1
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(last) = self.0.take() {
            // The worker must have the last one.
            let keep = self.1.clone();
            let _ = workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
                fsleep(Delta::from_millis(20));
                drop(keep);
                drop(last);
            });
        }
    }
}
