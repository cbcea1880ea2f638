//! Standing in line for a name: what the Lock and Election services are made of (contract 2.9).
//!
//! Whoever wants the name `n` with the lease `l` puts the key `n/<l in hex>`. The line is the order
//! of create revisions: the first key owns the name, everyone else waits until what stands before it
//! is deleted, by its owner or with its lease. Nothing here is kept in memory between calls: the line
//! is in the store, so it survives the members, and clients that follow the same recipe by themselves
//! stand in the same line.
//!
//! | file | what |
//! |---|---|
//! | [`mod@line`] | places in a line: taking one, waiting, leaving |
//! | [`observe`] | who is first, and each change of it |
//! | [`key_watch`] | one watch of this member, for both |
//!
//! The answers and their texts are left to `api/lock.rs` and `api/election.rs`.

pub mod key_watch;
pub mod line;
pub mod observe;
