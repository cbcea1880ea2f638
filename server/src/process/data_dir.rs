//! The data directory: made, checked, and locked against a second process.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::raft::identity::Identity;

/// For its owner alone (contract 4.1).
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process serves from it.
    #[error("data directory {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It cannot be made or written.
    #[error("cannot use data directory {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A data directory that is this process's until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked; the lock goes with it, however the process ends.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is not there, and locks it. Another mode than 0700 is logged, and
    /// used all the same.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(path)
            .map_err(failed)?;
        let mode = std::fs::metadata(path)
            .map_err(failed)?
            .permissions()
            .mode()
            & 0o777;
        if mode != DIRECTORY_MODE {
            tracing::warn!(
                error = %format!(
                    "directory {:?} exist, but the permission is {:?}. The recommended permission \
                     is \"-rwx------\" to prevent possible unprivileged access to the data",
                    path.display().to_string(),
                    mode_text(mode)
                ),
                "check file permission"
            );
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(FILE_MODE)
            .open(path.join("lock"))
            .map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::InUse(path.to_owned())),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Whether a member has kept its state here: only without one do `--initial-cluster*` count.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        Identity::exists(&self.path.join("member"))
    }
}

/// As `ls` shows it.
fn mode_text(mode: u32) -> String {
    let bits = [(0o400, 'r'), (0o200, 'w'), (0o100, 'x')];
    let triplets = [0, 3, 6]
        .into_iter()
        .flat_map(|shift| bits.map(|(bit, c)| (bit >> shift, c)));
    std::iter::once('d')
        .chain(triplets.map(|(bit, c)| if mode & bit == 0 { '-' } else { c }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a").join("b");
        let opened = DataDir::open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, DIRECTORY_MODE);
        let second = DataDir::open(&path).unwrap_err();
        assert!(
            second.to_string().ends_with("is in use by another process"),
            "{second}"
        );
        assert!(!opened.is_initialized());
        drop(opened);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_path_that_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(
            DataDir::open(file.path()),
            Err(DataDirError::Io { .. })
        ));
    }

    #[test]
    fn modes_as_text() {
        assert_eq!(mode_text(0o755), "drwxr-xr-x");
        assert_eq!(mode_text(0o700), "drwx------");
    }
}
