//! The Keelson server: `api → node → raft → state` (design 1).

#![deny(unsafe_code)]

pub mod raft;
