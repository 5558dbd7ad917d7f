// SPDX-License-Identifier: GPL-2.0

//! Whole RMR pools in one process and in virtual time, with faults, from one seed.

pub mod cache;
pub mod disk;
pub mod faults;
pub mod network;
pub mod observer;
pub mod plan;
pub mod queue;
pub mod random;
pub mod store;
pub mod trace;
pub mod workload;
