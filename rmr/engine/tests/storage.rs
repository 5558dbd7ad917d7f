// SPDX-License-Identifier: GPL-2.0

//! The member side of the engine, with a few members of one pool.

#[path = "storage/control.rs"]
mod control;
#[path = "storage/failures.rs"]
mod failures;
#[path = "storage/resync.rs"]
mod resync;
#[path = "storage/rig.rs"]
mod rig;
