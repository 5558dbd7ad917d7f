// SPDX-License-Identifier: GPL-2.0

//! Generated declarations of `helpers.h`; nothing of it leaves this crate.

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

include!(concat!(env!("RMR_GEN_DIR"), "/rmr_sys_bindings.rs"));
