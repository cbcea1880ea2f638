//! Keelson's replicated state: pure and synchronous, no clock, no network, no random numbers.
//!
//! The same commands in the same order give the same state on every member (design R4).
#![forbid(unsafe_code)]

pub mod revision;
pub mod store;
pub mod watch;
