//! Errors of the log.
//!
//! Everything but [`WalError::NotContiguous`] is final: the log is poisoned, and whoever holds it
//! ends the process (rule R9), since what reached the disk is no longer known.

use std::io;
use std::sync::Arc;

/// What a log call can fail with. Clones cheaply: one failure is reported to every waiter.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WalError {
    /// The operating system refused a call.
    #[error("{action}: {source}")]
    Io {
        /// What was being done, and to which file.
        action: String,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// sled failed. It refuses further work after an I/O error, and so does the log.
    #[error("log database: {0}")]
    Sled(#[from] sled::Error),
    /// A stored frame is damaged.
    #[error("{location}: {reason}")]
    Corrupt {
        /// File and offset, or key.
        location: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The directory must not be opened as it is.
    #[error("the log refuses to open: {0}")]
    Refused(String),
    /// An entry that does not follow the last one. Nothing was written.
    #[error("entry {got} does not follow the log, which ends before {next}")]
    NotContiguous {
        /// The index the log expects.
        next: u64,
        /// The index that was offered.
        got: u64,
    },
    /// Entries of this range are neither purged nor present.
    #[error("the log misses entry {index}")]
    Missing {
        /// The first index that is not there.
        index: u64,
    },
    /// An earlier call failed; nothing is accepted after it.
    #[error("the log stopped after an earlier failure: {0}")]
    Poisoned(String),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// A fault that a test asked for.
    #[error("injected fault: {0}")]
    Injected(&'static str),
}

impl WalError {
    /// An I/O error together with what was being done.
    pub fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            action: action.into(),
            source: Arc::new(source),
        }
    }
}

impl From<WalError> for io::Error {
    fn from(error: WalError) -> Self {
        io::Error::other(error)
    }
}
