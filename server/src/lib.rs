//! Keelson: an etcd-compatible, Raft-backed key-value store.
//!
//! The path of a request goes down through these modules and never up or round:
//! `api` → `node` → `raft` → `keelson_state`.

pub mod raft;
