//! What clients talk to: the gRPC services and the HTTP endpoints (contract 2, 6).
//!
//! One file a service. A service decodes, validates, asks the [`Node`](crate::node::Node) and fills the header; it
//! never touches the store. A service that is not there yet (Auth) is not registered, so its calls
//! answer UNIMPLEMENTED.

pub mod access;
pub mod cluster;
pub mod election;
mod framed;
pub mod header;
pub mod health;
pub mod http;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod metadata;
pub mod services;
mod snapshot;
mod too_large;
pub mod validate;
pub mod watch;

/// Room for a request's envelope above `--max-request-bytes` (contract 2.1).
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;
/// The largest message that is sent (contract 2.1).
const SEND_BYTES_MAX: usize = i32::MAX as usize;
