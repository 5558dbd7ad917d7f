// SPDX-License-Identifier: GPL-2.0

//! Test of brmr_sys in a kernel: a RAM disk made with `Disk`, used through `BlockDevice` and `BioSet`.
//!
//! Loading runs the tests; each prints one line, `ok NAME` or `not ok NAME`, and what went wrong before it. With `keep=1` the RAM disk
//! `/dev/blktest0` stays until the module is unloaded, for tests from user space.

mod bios;
mod life;
mod ram;
mod store;
mod task;

use brmr_sys::DiskDrain;
use kernel::prelude::*;

module! {
    type: SelfTest,
    name: "blk_selftest",
    authors: ["RMR project"],
    description: "Test of brmr_sys",
    license: "GPL",
    params: {
        keep: u32 {
            default: 0,
            description: "keep the disk /dev/blktest0",
        },
        tests: u32 {
            default: 7,
            description: "1 life of disks, 2 synchronous IO, 4 bios; 0 none",
        },
        rounds: u32 {
            default: 50,
            description: "rounds of adding and removing",
        },
        mode: u32 {
            default: 1,
            description: "of the kept disk: 0 completes at once, 1 later, 2 later and with trouble",
        },
    },
}

/// Says which check failed, and fails.
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            pr_err!(
                "FAILED {}:{}: {}\n",
                file!(),
                line!(),
                stringify!($condition)
            );
            return Err(EIO);
        }
    };
}
pub(crate) use check;

/// Unwraps a result, or says where it failed.
macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => {
                let error = Error::from(error);
                pr_err!(
                    "FAILED {}:{}: {} = {}\n",
                    file!(),
                    line!(),
                    stringify!($result),
                    error.to_errno()
                );
                return Err(error);
            }
        }
    };
}
pub(crate) use attempt;

#[cfg(kernel_7_3)]
macro_rules! param {
    ($name:ident) => {
        module_parameters::$name.value()
    };
}
#[cfg(not(kernel_7_3))]
macro_rules! param {
    ($name:ident) => {
        *module_parameters::$name.value()
    };
}

struct SelfTest {
    kept: Option<ram::RamDisk>,
    /// Last.
    _drain: DiskDrain,
}

/// Loading does not fail with the test: what is still open then is closed only when it has returned, and the
/// `DiskDrain` would wait for that.
fn run(name: &str, test: impl FnOnce() -> Result) {
    match test() {
        Ok(()) => pr_info!("ok {}\n", name),
        Err(e) => pr_err!("not ok {}: {}\n", name, e.to_errno()),
    }
}

impl kernel::Module for SelfTest {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let drain = DiskDrain::new();
        let (tests, rounds) = (param!(tests), param!(rounds));
        if tests & 1 != 0 {
            run("table", life::table);
            run("refused limits", life::refused);
            run("add and remove", || life::rounds(rounds));
            run("busy while open", life::busy);
            run("forced removal", life::forced);
        }
        if tests & 2 != 0 {
            run("open errors", store::open_errors);
            run("synchronous", || store::synchronous(ram::LATER));
            run("synchronous with trouble", || {
                store::synchronous(ram::TROUBLE)
            });
            run("zeroout", store::zeroout);
            run("big blocks", store::big_blocks);
        }
        if tests & 4 != 0 {
            run("bios", || bios::verify(ram::LATER));
            run("bios inline", || bios::verify(ram::AT_ONCE));
            run("bios with trouble", || bios::verify(ram::TROUBLE));
            run("bio errors", bios::errors);
            run("bio set waits", bios::drop_waits);
        }
        let mut kept = None;
        if param!(keep) > 0 {
            let disk = ram::RamDisk::new(c"blktest0", 64 << 20, param!(mode))?;
            disk.disk.add()?;
            disk.disk.uevent(&[c"BLKTEST=1", c"BLKTEST_POOL=p"])?;
            kept = Some(disk);
        }
        Ok(Self {
            kept,
            _drain: drain,
        })
    }
}

impl Drop for SelfTest {
    fn drop(&mut self) {
        if let Some(kept) = &self.kept {
            let stats = &kept.disk.driver().stats;
            pr_info!(
                "reads {} writes {} fua {} flushes {} discards {} zeroes {} busy {} requeues {} commits {} longest {} segments {} overlong {}\n",
                ram::get(&stats.reads),
                ram::get(&stats.writes),
                ram::get(&stats.fua),
                ram::get(&stats.flushes),
                ram::get(&stats.discards),
                ram::get(&stats.zeroes),
                ram::get(&stats.busy),
                ram::get(&stats.requeues),
                ram::get(&stats.commits),
                ram::get(&stats.longest),
                ram::get(&stats.segments),
                ram::get(&stats.overlong),
            );
        }
    }
}
