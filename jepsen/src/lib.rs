//! Faults against real processes on real disks, and the check that nothing acknowledged was lost.
//!
//! | module | what |
//! |---|---|
//! | [`disk`] | an ext4 file system of its own, whose power can be cut |
//! | [`server`] | server processes: start, kill -9, stop |
//! | [`load`] | writers that remember what was acknowledged, and the check |
//! | [`rounds`] | two experiments: power cuts and kills |
//! | [`full_disk`] | a third: a member's disk fills up |
//!
//! Everything is bounded in count and time, listens on loopback, and ends only what it started.

#![deny(unsafe_code)]

pub mod churn;
pub mod disk;
pub mod full_disk;
pub mod load;
pub mod rounds;
pub mod server;
