//! The store: every revision's record on disk and in memory, found by revision alone (design 4).
//!
//! ```text
//! apply ── append, mark_dead, put_state ──▶ tail ── freeze ──▶ keeper ── checkpoint ──▶ files
//! requests ── read, scan ──▶ tail | cache | chunks
//! ```
//!
//! What it promises:
//!
//! - A checkpoint is atomic: records, state and position change together or not at all, and a
//!   crash at any byte leaves the previous one usable (R2).
//! - Readers never wait for a write to disk, and what they hold stays readable.
//! - Garbage leaves the disk only with its compaction in the durable manifest, a tombstone only if
//!   no older record of its key can come back (store-notes 5, G1, G2).
//! - Damage gives an error that names file and offset; nothing is skipped silently (R12).
//!
//! What it leaves to others: the key index and what is garbage (`mvcc`), the meaning of records
//! and state items, the log that covers what no checkpoint holds yet, and the lock that keeps a
//! second process away. The files are drawn in `docs/FORMAT.md`.

mod cache;
mod checkpoint;
mod chunk;
mod codec;
mod dead;
mod dead_file;
mod disk;
mod error;
mod install;
mod keeper;
mod live;
mod manifest;
mod pace;
mod reader;
mod rebuild;
mod record;
mod rewrite;
mod scan;
mod segment;
mod sim;
mod state_file;
mod table;
mod tail;
mod transfer;
mod writer;

#[cfg(test)]
mod tests;

pub use checkpoint::{Checkpoint, Frozen};
pub use disk::{Disk, DiskFile, RealDisk};
pub use error::StoreError;
pub use install::{Incoming, Installed, Received, Recovered};
pub use keeper::{Done, KeeperHandle};
pub use live::LiveRecords;
pub(crate) use live::LiveScan;
pub use manifest::{MANIFEST_BYTES_MAX, MEMBERSHIP_BYTES_MAX, Position};
pub use reader::{RecordHandle, SCAN_RUN_BYTES, StoreReader};
pub(crate) use record::bucket_key;
pub use record::{RECORD_BYTES_MAX, RecordHeader, StoredChecksum, StoredRecord, record_checksum};
pub use scan::{ChecksumScan, RecordScan};
pub use sim::{SimDisk, Survival};
pub use state_file::StateItems;
pub use transfer::{CheckpointFile, CheckpointFileKind, TRANSFER_BYTES_MAX};
pub use writer::{Opened, Store, StoreOptions};
