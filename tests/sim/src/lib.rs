// SPDX-License-Identifier: GPL-2.0

//! Whole RMR pools in one process and in virtual time, with faults, from one seed.

pub mod app;
pub mod cache;
pub mod client;
pub mod device;
pub mod disk;
pub mod driven;
pub mod env;
pub mod faults;
pub mod fingerprint;
pub mod hunt;
pub mod kept;
pub mod member;
pub mod network;
pub mod observer;
pub mod plan;
pub mod queue;
pub mod random;
mod room;
pub mod run;
pub mod scene;
pub mod shrink;
pub mod store;
pub mod story;
pub mod trace;
pub mod workload;
pub mod world;
