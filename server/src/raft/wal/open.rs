//! Opens a log on a disk, and says aloud what an operator must know about it.

use std::path::Path;
use std::sync::Arc;

use super::api::{Cut, Wal, WalOptions};
use super::error::WalError;
use super::file_backend::FileBackend;
use super::group_commit::GroupCommit;
use super::sled_backend::SledBackend;

/// Opens the product's log, on sled, in `dir`. Blocks while it reads the whole log.
///
/// # Errors
/// What rules R6–R9 refuse. Damage is not an error: see [`super::Recovered::cut`].
pub fn open_sled(dir: &Path, options: WalOptions) -> Result<Arc<dyn Wal>, WalError> {
    warn_if_unsafe(&options);
    let (backend, recovered) = SledBackend::open(dir, options.unsafe_no_fsync)?;
    Ok(Arc::new(GroupCommit::start(backend, recovered, options)?))
}

/// Opens the plain append file in `dir`: the reference for tests and comparison.
///
/// # Errors
/// Those of the disk. Damage is not an error: see [`super::Recovered::cut`].
pub fn open_file(dir: &Path, options: WalOptions) -> Result<Arc<dyn Wal>, WalError> {
    warn_if_unsafe(&options);
    let (backend, recovered) = FileBackend::open(dir, options.unsafe_no_fsync)?;
    Ok(Arc::new(GroupCommit::start(backend, recovered, options)?))
}

fn warn_if_unsafe(options: &WalOptions) {
    if options.unsafe_no_fsync {
        tracing::warn!("fsync is off, a power cut loses acknowledged writes");
    }
}

/// A torn tail is what a crash leaves; sound frames behind the damage are not.
pub(super) fn log_cut(file: &str, cut: &Cut) {
    let Cut {
        index,
        reason,
        valid_frames_behind,
    } = cut;
    if *valid_frames_behind > 0 {
        tracing::error!(
            file,
            index,
            reason,
            valid_frames_behind,
            "the log is damaged in the middle, entries behind the damage are cut"
        );
    } else {
        tracing::warn!(
            file,
            index,
            reason,
            "the log ends in a torn write, which is cut"
        );
    }
}
