//! The Keelson server: `api → node → raft → state` (design 1).
//!
//! | module | what |
//! |---|---|
//! | [`api`] | gRPC services, HTTP endpoints |
//! | [`node`] | a member: batching, ReadIndex, forwarding, leases, compaction, start and stop |
//! | [`server`] | listeners around a node; start and stop |
//! | [`transport`] | bound addresses, connections, HTTP/1 and HTTP/2 on one port |
//! | [`process`] | the program: arguments, logger, data directory, signals, exit code |
//! | [`config`] | flags, environment, config file |
//! | [`offline`] | work on data directories that no server uses |
//! | [`logging`] | etcd's log lines |
//! | [`metrics`] | the metrics page |
//! | [`raft`] | openraft with Keelson's log, state machine and peer protocol |

#![deny(unsafe_code)]

pub mod api;
pub mod config;
pub mod dns;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod offline;
pub mod process;
pub mod raft;
pub mod server;
pub mod transport;

/// Ends the process after an error that this member cannot go on with: its disk, its log or its
/// state can no longer be trusted (design R4, R9).
pub fn fatal(doing: &str, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(error = %error, "failed to {doing}; this member cannot go on");
    // Not `abort`: the log line must reach its file. Nothing else may run meanwhile.
    std::process::exit(1)
}
