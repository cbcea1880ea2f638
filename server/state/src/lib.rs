//! Keelson's replicated state: what every member makes of the same log.
//!
//! Pure and synchronous: no clock, no randomness, no network, no async runtime. The server's raft
//! layer feeds it committed commands and asks it for checkpoints; requests read from it.
//!
//! ```text
//! apply (alarm → auth → dispatch) ──► mvcc ──► store ──► disk
//!        │                             ▲ │
//!        ├──► lease, alarm, members    │ └──► EventSink (watch)
//!        └──► Reply                    └──── Reader (ranges, hashes, leases, …)
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`apply`] | the owner of everything; one command after the other, each wholly or not at all |
//! | [`mvcc`] | key index, records, ranges, transactions, compaction, hashes |
//! | [`lease`], [`alarm`], [`members`], [`quota`] | the small replicated tables and the db size |
//! | [`reader`] | what requests read, from any thread |
//! | [`store`] | records and items on disk, checkpoints |
//! | [`bolt`], [`snapshot`] | etcd's snapshot files, written and read |

#![forbid(unsafe_code)]

pub mod alarm;
pub mod apply;
pub mod auth;
pub mod bolt;
pub mod counters;
pub mod error;
pub mod items;
pub mod lease;
pub mod members;
pub mod mvcc;
pub mod quota;
pub mod reader;
pub mod revision;
pub mod snapshot;
pub mod store;
pub mod watch;
