//! Consensus: openraft with Keelson's log, state machine and peer protocol (design 6, 7).
//!
//! | module | what |
//! |---|---|
//! | [`types`], [`codec`] | openraft's type config; its types as protobuf |
//! | [`wal`], [`log_store`] | the log on disk; openraft's view of it |
//! | [`state_machine`], [`snapshot`], [`transfers`] | apply and checkpoints; their way between members |
//! | [`network`], [`peers`], [`service`] | messages out; connections; messages in |
//! | [`peer_stats`] | how much of it |
//! | [`plausible`] | which messages no sound member sends |
//! | [`leadership`], [`applied`], [`waiters`] | who leads; what is applied; who waits for it |
//! | [`bootstrap`], [`identity`] | ids; where they are kept |
//! | [`force_new`] | a cluster of one out of what a member has |

pub mod applied;
pub mod bootstrap;
pub mod codec;
pub mod force_new;
pub mod identity;
pub mod leadership;
pub mod log_store;
mod member_log;
pub mod network;
pub mod peer_stats;
pub mod peers;
pub mod plausible;
pub mod service;
pub mod snapshot;
pub mod state_machine;
pub mod transfers;
pub mod types;
pub mod waiters;
pub mod wal;
