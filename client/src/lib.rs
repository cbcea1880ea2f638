//! A client for Keelson and etcd, which stand to it for one cluster behind several endpoints.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | endpoints, limits, keepalive, who speaks |
//! | [`client`] | [`Client`]: a call goes to a connected endpoint, and again where that is safe |
//! | [`calls`] | every unary call of the API, and whether it may be repeated |
//! | [`watch`] | a watch that goes on where it was when its member goes away |
//! | [`lease`] | keeping a lease alive |
//! | [`concurrency`] | sessions, locks and elections out of keys and leases |
//! | [`error`] | what can go wrong, with etcd's texts |
//!
//! **A write is sent once.** It is repeated only when it certainly reached nobody: no connection could
//! be made for it. Everything else is reported, because a write of unknown fate may have happened
//! (contract 2.1). A read is repeated while the cluster is unavailable.
//!
//! It leaves TLS to a later version: `https` endpoints are refused.

#![forbid(unsafe_code)]

mod balancer;
pub mod calls;
pub mod client;
pub mod concurrency;
pub mod config;
mod endpoint;
pub mod error;
pub mod lease;
mod metadata;
pub mod watch;

pub use client::Client;
pub use config::{Config, Credentials};
pub use error::Error;
pub use watch::Watch;
