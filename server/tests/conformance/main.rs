//! The contract of the server, tested from outside: every test starts real members and speaks to
//! them over the network, with generated clients where exact codes and texts count and with the
//! independent crate `etcd-client` where it does not matter how.
//!
//! One program, so that it is linked once. The modules follow the contract's sections;
//! `docs/GUARANTEES.md` tells which test keeps which promise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod clients;
mod cluster;
mod compaction;
mod concurrency;
mod corruption;
mod documents;
mod downgrade;
mod faulty_members;
mod growth;
mod http;
mod joining;
mod kv;
mod lease;
mod lies;
mod limits;
mod maintenance;
mod members;
mod metrics;
mod operator;
mod quota;
mod range_stream;
mod snapshot;
mod start;
mod support;
mod txn;
mod watch;
