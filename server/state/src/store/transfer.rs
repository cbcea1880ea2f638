//! Handing a checkpoint to another member, file by file (design R3).
//!
//! The sender reads from files that the [`Checkpoint`] keeps alive: nothing is copied, nothing is
//! held in memory. The receiving side is `install`.

use std::sync::Arc;

use bytes::Bytes;

use super::checkpoint::Checkpoint;
use super::error::StoreError;
use super::segment::StoreFile;

/// Longest piece that [`Checkpoint::read_at`] returns and
/// [`Incoming::write`](super::Incoming::write) takes, in bytes: what a sender holds in memory.
pub const TRANSFER_BYTES_MAX: usize = 4 << 20;

/// What a file of a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFileKind {
    /// Records.
    Segment,
    /// State items.
    State,
    /// Garbage bits.
    Dead,
}

/// A file of a checkpoint.
#[derive(Clone)]
pub struct CheckpointFile {
    kind: CheckpointFileKind,
    file: Arc<StoreFile>,
    len: u64,
}

impl CheckpointFile {
    pub(crate) fn new(kind: CheckpointFileKind, file: Arc<StoreFile>, len: u64) -> CheckpointFile {
        CheckpointFile { kind, file, len }
    }

    /// What the file holds.
    pub fn kind(&self) -> CheckpointFileKind {
        self.kind
    }

    /// Length in bytes; never 0.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Checkpoint {
    /// The manifest, which the receiver needs first.
    pub fn manifest(&self) -> &Bytes {
        &self.manifest
    }

    /// The files, in the order by which both sides number them.
    pub fn files(&self) -> &[CheckpointFile] {
        &self.files
    }

    /// Up to `len` bytes of file number `file` from `offset`; empty at its end.
    pub fn read_at(&self, file: usize, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let missing = || StoreError::Refused(format!("no file {file} in this checkpoint"));
        let file = self.files.get(file).ok_or_else(missing)?;
        let rest = file.len.saturating_sub(offset);
        let len = rest.min(len.min(TRANSFER_BYTES_MAX) as u64);
        let mut buffer = vec![0; len as usize];
        file.file.read_exact_at(&mut buffer, offset)?;
        Ok(Bytes::from(buffer))
    }
}
