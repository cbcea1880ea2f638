//! What a disk format owes the group commit thread.
//!
//! A [`Backend`] is used by one thread. It may keep what it is told in memory until
//! [`Backend::sync`]; the order of the calls must survive a crash: what is found afterwards is a
//! prefix of them that holds at least everything up to the last sync.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::api::{LogPosition, WalEntry};
use super::error::WalError;

/// Keys (or files) removed by one purge slice: about a millisecond, so that no group waits longer
/// (rule R8 allows 512).
pub(super) const PURGE_SLICE_KEYS_MAX: usize = 128;

/// A log format on a disk, written by one thread.
pub(super) trait Backend: Send + 'static {
    /// Writes entries that follow the last one, and the commit known when they were handed over.
    /// Returns the bytes written.
    fn append(
        &mut self,
        entries: &[WalEntry],
        committed: Option<LogPosition>,
    ) -> Result<u64, WalError>;

    /// Replaces the vote.
    fn save_vote(&mut self, vote: &Bytes) -> Result<(), WalError>;

    /// Replaces the saved commit; never past the last entry.
    fn save_committed(&mut self, committed: LogPosition) -> Result<(), WalError>;

    /// Removes every entry above `index`, from the end backwards.
    fn truncate_after(&mut self, index: Option<u64>) -> Result<(), WalError>;

    /// Marks everything up to `position` as purged; space is freed by [`Backend::purge_slice`].
    fn mark_purged(&mut self, position: LogPosition) -> Result<(), WalError>;

    /// Frees at most [`PURGE_SLICE_KEYS_MAX`] keys of purged entries, whose mark is durable.
    /// Returns whether more are left.
    fn purge_slice(&mut self) -> Result<bool, WalError>;

    /// Returns when everything written so far survives a power cut.
    fn sync(&mut self) -> Result<(), WalError>;

    /// A handle for other threads.
    fn reader(&self) -> Arc<dyn Reader>;
}

/// Reads written entries from any thread; the contract of [`super::Wal::read`].
pub(super) trait Reader: Send + Sync + 'static {
    /// See [`super::Wal::read`].
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<WalEntry>, WalError>;
}
