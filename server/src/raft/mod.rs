//! Consensus: the log, its types, and what openraft needs of both (design 3, 6, 7).
//!
//! - [`wal`]: entries and the vote on a disk, durable before anything is acknowledged.
//! - [`types`]: openraft's type configuration and how its values are encoded.
//! - [`log_store`]: openraft's log storage over any [`wal::Wal`], with a cache of recent entries.

pub mod wal;
