// SPDX-License-Identifier: GPL-2.0

//! Tries every order of events in tiny pools: an explicit-state model checker whose model is the engine itself.
//!
//! A state is a whole world of the simulator (`rmr_sim::driven`): both halves of the engine in their shells, disks,
//! sessions, messages on their way, and the checkers. From each state, each choice is tried on a copy: any message
//! arrives, any access to a disk ends, a thread goes on, a timer fires, a fault of a small budget happens. States seen
//! before, by a fingerprint of everything that decides the future, are not gone into again.
//!
//! The search is our own, not `stateright`: a world is half a megabyte, so that only those on the path that is being
//! tried can be kept, and each is copied once for each choice; `stateright` keeps all states of its frontier. It is 100
//! lines.

pub mod bounds;
pub mod choice;
pub mod search;
pub mod state;
