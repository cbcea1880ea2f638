//! What is checked around sled before and after it opens (rules R6, R7, R9; design 6).
//!
//! The log has a descriptor of its own of sled's file, to ask for failed writes and to sync where
//! sled's flush does not. These checks prove that the descriptor and sled mean the same file and
//! that the file system accepts the sync, and keep away what has destroyed databases.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::WalError;

/// sled's data file in its directory.
pub(super) const DATA_FILE: &str = "db";

/// File system magic of tmpfs, where a sync succeeds and means nothing.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Creates the directory if needed, refuses blobs, removes what a crash left half made.
pub(super) fn prepare(dir: &Path) -> Result<(), WalError> {
    let io = |error| WalError::io(format!("preparing {}", dir.display()), error);
    fs::create_dir_all(dir).map_err(io)?;
    for item in fs::read_dir(dir).map_err(io)? {
        let path = item.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(path = %path.display(), "removing an unfinished snapshot of the log");
            fs::remove_file(&path).map_err(io)?;
        }
    }
    refuse_blobs(dir)
}

/// Blob files are never synced by sled; a log that has one has already broken its promise.
pub(super) fn refuse_blobs(dir: &Path) -> Result<(), WalError> {
    let blobs = dir.join("blobs");
    let Ok(mut items) = fs::read_dir(&blobs) else {
        return Ok(());
    };
    match items.next() {
        None => Ok(()),
        Some(_) => Err(WalError::Refused(format!(
            "{} is not empty, its files are not safe against a power cut",
            blobs.display()
        ))),
    }
}

/// Makes the files that were just created findable after a power cut.
pub(super) fn sync_dirs(dir: &Path) -> Result<(), WalError> {
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        let opened = File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| WalError::io(format!("fsync of {}", dir.display()), error));
        opened?;
    }
    Ok(())
}

/// Opens the descriptor of sled's file and proves that it works. sled must be open, flushed and
/// its files synced.
pub(super) fn open_sync_file(dir: &Path) -> Result<File, WalError> {
    let path = dir.join(DATA_FILE);
    let io = |error| WalError::io(format!("self-test of {}", path.display()), error);
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io)?;
    let here = file.metadata().map_err(io)?;
    if !here.is_file() || here.len() == 0 {
        return Err(WalError::Refused(format!(
            "{} holds no data after a flush",
            path.display()
        )));
    }
    if descriptors_of(&here).is_some_and(|descriptors| descriptors < 2) {
        return Err(WalError::Refused(format!(
            "{} is not the file the log database writes",
            path.display()
        )));
    }
    file.sync_data().map_err(io)?;
    if rustix::fs::fstatfs(&file).is_ok_and(|fs| fs.f_type as u64 == TMPFS_MAGIC) {
        tracing::warn!(path = %path.display(), "the log is on tmpfs and does not survive a restart");
    }
    Ok(file)
}

/// How many descriptors of this process are open on the file; `None` where /proc does not tell.
fn descriptors_of(file: &fs::Metadata) -> Option<usize> {
    let open = fs::read_dir("/proc/self/fd").ok()?;
    let same = open
        .filter_map(|item| fs::metadata(item.ok()?.path()).ok())
        .filter(|other| other.dev() == file.dev() && other.ino() == file.ino());
    Some(same.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_refused_and_unfinished_snapshots_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("snap.00000.generating"), b"half").unwrap();
        fs::create_dir(dir.path().join("blobs")).unwrap();
        prepare(dir.path()).unwrap();
        assert!(!dir.path().join("snap.00000.generating").exists());

        fs::write(dir.path().join("blobs").join("7"), b"x").unwrap();
        let error = prepare(dir.path()).unwrap_err();
        assert!(matches!(error, WalError::Refused(_)), "{error}");
    }

    #[test]
    fn a_file_that_nobody_else_has_open_fails_the_self_test() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(DATA_FILE), b"not sled's").unwrap();
        let error = open_sync_file(dir.path()).unwrap_err();
        assert!(matches!(error, WalError::Refused(_)), "{error}");
    }
}
