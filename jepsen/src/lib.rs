//! Faults against real processes on real disks, and the check that nothing acknowledged was lost.
//!
//! | module | what |
//! |---|---|
//! | [`disk`] | an ext4 file system of its own, whose power can be cut |
//! | [`server`] | server processes: start, kill -9, stop |
//! | [`load`] | writers that remember what was acknowledged, and the check |
//! | [`rounds`] | the two experiments: power cuts and kills |
//!
//! Everything is bounded in count and time, listens on loopback, and ends only what it started.

#![deny(unsafe_code)]

pub mod churn;
pub mod disk;
pub mod load;
pub mod rounds;
pub mod server;
