//! The trait [`Wal`] and the values that cross it.
//!
//! Invariants every implementation keeps (rules R6–R9, openraft-notes 2):
//! - All writes take effect in the order of the calls, on the disk as in memory.
//! - A callback with `Ok` means durable: `fdatasync` has returned.
//! - The saved commit never points past the durable log, nor at an entry that a truncation removed.
//! - After the first failure every later call fails.
//!
//! Left to the caller: the cache of entries that are not durable yet, and ending the process.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::error::WalError;

/// Called once, from the writer thread or from the caller's, when the outcome is known.
///
/// It must not block and must not wait for another call on the same log.
pub type Done = Box<dyn FnOnce(Result<(), WalError>) + Send>;

/// Term and index of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// Raft term.
    pub term: u64,
    /// Raft log index.
    pub index: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// One entry. `kind` and `payload` are the caller's and come back unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalEntry {
    /// Raft log index.
    pub index: u64,
    /// Raft term.
    pub term: u64,
    /// A tag for the payload, so that its bytes need no envelope and no copy.
    pub kind: u8,
    /// The payload as its proposer encoded it; at most [`PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
}

impl WalEntry {
    /// Where the entry stands.
    pub fn position(&self) -> LogPosition {
        LogPosition {
            term: self.term,
            index: self.index,
        }
    }
}

/// Largest payload. Far above what requests may carry, and keeps every length within a `u32`.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 20;

/// What recovery cut away, so that the caller can judge whether acknowledged entries are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// First index that is no longer in the log.
    pub index: u64,
    /// Where and why, for the log line.
    pub reason: String,
    /// Valid frames were found *behind* the damage. A torn last write does not leave any, except
    /// where a group of frames reached the disk out of order; bit rot does.
    pub valid_frames_behind: u64,
}

/// What a log held when it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last saved vote.
    pub vote: Option<Bytes>,
    /// The saved commit, never past [`Recovered::last`].
    pub committed: Option<LogPosition>,
    /// The last purged entry.
    pub purged: Option<LogPosition>,
    /// First index present.
    pub first: Option<u64>,
    /// Last entry present.
    pub last: Option<LogPosition>,
    /// What had to be cut, if anything.
    pub cut: Option<Cut>,
}

impl Recovered {
    /// The end of the log: the last entry, or the purged one if none is left.
    pub fn end(&self) -> Option<LogPosition> {
        self.last.or(self.purged)
    }

    /// Lowers a saved commit that points past the log (a crash between apply and flush).
    pub(crate) fn clamp_committed(&mut self) {
        let end = self.end();
        self.committed = self.committed.and_then(|committed| match end {
            Some(end) if committed.index > end.index => Some(end),
            Some(_) => Some(committed),
            None => None,
        });
    }
}

/// Sees every sync, for metrics.
pub trait SyncObserver: Send + Sync + 'static {
    /// One group reached the disk: `elapsed` is the backend's sync, its `fdatasync` above all.
    fn synced(&self, elapsed: Duration, entries: u64, bytes: u64);
}

/// How to open a log.
#[derive(Clone, Default)]
pub struct WalOptions {
    /// Skips every fsync (`--unsafe-no-fsync`): a power cut loses acknowledged writes.
    pub unsafe_no_fsync: bool,
    /// Told about every sync.
    pub observer: Option<Arc<dyn SyncObserver>>,
}

impl fmt::Debug for WalOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalOptions")
            .field("unsafe_no_fsync", &self.unsafe_no_fsync)
            .finish_non_exhaustive()
    }
}

/// A durable log with a vote beside it.
pub trait Wal: Send + Sync + 'static {
    /// Appends entries, each one index above the last. Blocks only when the queue is full.
    ///
    /// `flushed` is a watermark: of the appends made durable together only the newest is called
    /// with `Ok`, the others are dropped; every one is called with `Err`.
    fn append(&self, entries: Vec<WalEntry>, flushed: Done);

    /// Replaces the vote.
    fn save_vote(&self, vote: Bytes, done: Done);

    /// Removes every entry above `index`; all of them with `None`.
    fn truncate_after(&self, index: Option<u64>, done: Done);

    /// Forgets every entry up to `position`, which may lie beyond the last one: the log is then
    /// empty and continues behind it. `done` means that the mark is durable; the space is freed
    /// later, in slices.
    fn purge_to(&self, position: LogPosition, done: Done);

    /// Remembers the commit in memory. It is written with the next frame, when the log is idle,
    /// and when it closes.
    fn save_committed(&self, committed: LogPosition);

    /// Reads written entries of `range`: from its start, in order, without holes, until its end,
    /// the end of what is written, or `bytes_max` payload bytes (at least one entry).
    ///
    /// # Errors
    /// [`WalError::Missing`] if the first index is not there, and whatever the disk says.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<WalEntry>, WalError>;

    /// Whether [`Wal::read`] may block on a disk and belongs on a thread of its own.
    fn read_blocks(&self) -> bool;

    /// What the log held when it was opened.
    fn recovered(&self) -> &Recovered;

    /// Writes what is queued and the commit, syncs, and stops. Later calls fail with
    /// [`WalError::Closed`].
    ///
    /// # Errors
    /// The failure that stopped the log, now or earlier.
    fn close(&self) -> Result<(), WalError>;
}
