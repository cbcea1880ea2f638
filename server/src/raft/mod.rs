//! Consensus: openraft with Keelson's log, state machine and peer protocol (design 6, 7).

pub mod codec;
pub mod log_store;
pub mod types;
pub mod wal;
