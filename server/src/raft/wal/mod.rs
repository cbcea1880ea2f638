//! The write-ahead log: entries and the vote, durable before anything is acknowledged.
//!
//! Step 5 of the path of a Put (design 3 and 6). Bytes in, bytes out: a [`Wal`] knows indexes and
//! terms, nothing of openraft. Callers enqueue, one thread writes:
//!
//! ```text
//! append ─┐                        ┌─ frames ─ backend ─ one fdatasync ─┐
//! vote   ─┼─ bounded queue ─ group ┤                                    ├─ callbacks
//! purge  ─┘                        └─ purge slices between groups       ┘
//! ```
//!
//! - [`api`]: the trait and its values. [`error`]: what can go wrong.
//! - `group_commit`: the queue, the writer thread, poisoning. `backend`: what a disk format owes it.
//! - `frame`: the checksummed unit that every format stores.
//! - `sled_backend` (the product), `file_backend` (plain append file, the reference), [`memory`]
//!   (simulation, with faults). One suite runs against all three.
//! - Around sled: `sled_check` before and after it opens, `sync_file_range` makes its flush durable,
//!   `sled_mark` proves how far its file reached.

pub mod api;
mod backend;
#[cfg(test)]
mod damage_tests;
pub mod error;
mod file_backend;
mod file_segment;
mod frame;
mod group_commit;
pub mod memory;
mod open;
mod purge_pace;
mod sled_backend;
mod sled_check;
mod sled_mark;
#[cfg(test)]
mod suite;
#[cfg(target_os = "linux")]
mod sync_file_range;

pub use api::{Cut, Done, LogPosition, Recovered, SyncObserver, Wal, WalEntry, WalOptions};
pub use error::WalError;
pub use memory::{MemoryDisk, MemoryWal};
pub use open::{open_file, open_sled};
