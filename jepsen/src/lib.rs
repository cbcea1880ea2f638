//! Faults against real processes on real disks, and the check that nothing acknowledged was lost.
//!
//! | module | what |
//! |---|---|
//! | [`disk`] | an ext4 file system of its own, whose power can be cut |
//! | [`server`] | server processes: start, kill -9, stop |
//! | [`load`] | writers that remember what was acknowledged, and the check |
//! | [`machines`] | members that fail one by one, each with a disk of its own |
//! | [`rounds`] | two experiments: power cuts and kills of all members |
//! | [`full_disk`] | a member's disk fills up |
//! | [`bootstrap`] | members fail during their first start |
//! | [`churn`] | members are added, promoted and removed, and fail meanwhile |
//! | [`install`] | members fail while a checkpoint is streamed and installed |
//! | [`offline`] | restoring and saving snapshots is cut |
//!
//! Everything is bounded in count and time, listens on loopback, and ends only what it started.

#![deny(unsafe_code)]

pub mod bootstrap;
pub mod churn;
pub mod disk;
pub mod full_disk;
pub mod install;
pub mod load;
pub mod machines;
pub mod offline;
pub mod rounds;
pub mod server;
