//! What can go wrong in the store, and which of it ends the process (store-notes 5, failures).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::revision::Revision;

/// An error of the store. Cheap to clone, since several requests may wait for one checkpoint.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb: "write", "sync".
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A file does not hold what was written to it.
    #[error("{} is damaged at offset {offset}: {detail}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file, bytes from its start.
        offset: u64,
        /// What was expected there.
        detail: String,
    },
    /// A file was written by a newer Keelson.
    #[error("{} has format {found}, this program reads up to {supported}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version understood.
        supported: u32,
    },
    /// The directory holds data but no manifest: starting empty would lose it.
    #[error("{} holds {found} but no manifest: refusing to start empty", dir.display())]
    NoManifest {
        /// The store directory.
        dir: PathBuf,
        /// One of the files found.
        found: String,
    },
    /// No record has this revision.
    #[error("no record at revision {0}")]
    NotFound(Revision),
    /// A checkpoint from another member cannot be taken.
    #[error("checkpoint refused: {0}")]
    Refused(String),
    /// The store was replaced by an installed checkpoint meanwhile.
    #[error("superseded by an installed checkpoint")]
    Superseded,
    /// An earlier fatal error: what is on the disk is unknown, nothing more is written.
    #[error("the store stopped writing after a fatal error")]
    Poisoned,
    /// Too many requests wait for the keeper.
    #[error("too many requests wait for the keeper")]
    Busy,
    /// The keeper was shut down.
    #[error("the keeper is shut down")]
    ShutDown,
}

impl StoreError {
    /// Whether the process must end: the disk can no longer be trusted (design R4, R9). A full
    /// disk is not fatal: the tail is kept in memory and the next checkpoint tries again.
    pub fn is_fatal(&self) -> bool {
        match self {
            // After a failed fsync the page cache no longer tells what the disk holds, whatever
            // the error was.
            StoreError::Io { op, source, .. } => *op == "sync" || !is_full(source),
            StoreError::Corrupt { .. }
            | StoreError::Format { .. }
            | StoreError::NoManifest { .. }
            | StoreError::Poisoned => true,
            StoreError::NotFound(_)
            | StoreError::Refused(_)
            | StoreError::Superseded
            | StoreError::Busy
            | StoreError::ShutDown => false,
        }
    }

    pub(crate) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_path_buf();
        move |source| StoreError::Io {
            op,
            path,
            source: Arc::new(source),
        }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, detail: impl Into<String>) -> StoreError {
        StoreError::Corrupt {
            path: path.to_path_buf(),
            offset,
            detail: detail.into(),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
