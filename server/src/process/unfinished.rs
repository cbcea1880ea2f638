//! The mark of a directory that a restore has not finished (contract 8.4).
//!
//! A restore marks what it makes before anything else is in it, and takes the mark off when the
//! directory is whole. A log apart (`--wal-dir`) gets its name before the data directory does and is
//! marked until then, so that a half is told from a whole at any moment:
//!
//! | data directory | log apart | |
//! |---|---|---|
//! | absent | marked | the restore did not finish: refused, and removed by the next restore |
//! | whole | marked | only the mark was left |
//! | whole | whole | finished |

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::raft::identity::Identity;

/// The mark.
const MARK: &str = "unfinished-restore";

/// A directory is not what it looks like.
#[derive(Debug, thiserror::Error)]
pub enum UnfinishedError {
    /// A restore was cut while it made this.
    #[error(
        "{} was left behind by a snapshot restore that did not finish: run the restore again",
        .0.display()
    )]
    Unfinished(PathBuf),
    /// It cannot be told.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Whether a directory carries the mark.
#[must_use]
pub fn is_marked(directory: &Path) -> bool {
    directory.join(MARK).exists()
}

/// Whether a file's name is that of the mark.
#[must_use]
pub fn is_mark(name: &std::ffi::OsStr) -> bool {
    name == MARK
}

/// Marks a directory, durably.
///
/// # Errors
/// Those of the disk.
pub fn mark(directory: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(MARK))?
        .sync_all()?;
    File::open(directory)?.sync_all()
}

/// Takes the mark off, durably.
///
/// # Errors
/// Those of the disk.
pub fn unmark(directory: &Path) -> io::Result<()> {
    match std::fs::remove_file(directory.join(MARK)) {
        Ok(()) => File::open(directory)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Refuses directories that a restore has not finished, before a server touches them.
///
/// # Errors
/// [`UnfinishedError`].
pub fn refuse_unfinished(data_dir: &Path, wal_dir: Option<&Path>) -> Result<(), UnfinishedError> {
    let unfinished = |path: &Path| UnfinishedError::Unfinished(path.to_owned());
    if is_marked(data_dir) {
        return Err(unfinished(data_dir));
    }
    let Some(wal_dir) = wal_dir.filter(|wal_dir| is_marked(wal_dir)) else {
        return Ok(());
    };
    if !Identity::exists(&data_dir.join("member")) {
        return Err(unfinished(wal_dir));
    }
    // The data directory came last, so all of it is there.
    unmark(wal_dir).map_err(|source| UnfinishedError::Io {
        path: wal_dir.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_refused_and_a_whole_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let (data, wal) = (parent.path().join("d"), parent.path().join("w"));
        refuse_unfinished(&data, Some(&wal)).unwrap();
        std::fs::create_dir(&wal).unwrap();
        mark(&wal).unwrap();
        let refused = refuse_unfinished(&data, Some(&wal)).unwrap_err();
        assert!(refused.to_string().contains("did not finish"), "{refused}");
        refuse_unfinished(&data, None).unwrap();
        std::fs::create_dir_all(data.join("member")).unwrap();
        refuse_unfinished(&data, Some(&wal)).unwrap_err();
        let identity = Identity {
            member_id: 1,
            cluster_id: 2,
        };
        identity.write(&data.join("member")).unwrap();
        refuse_unfinished(&data, Some(&wal)).unwrap();
        assert!(!is_marked(&wal), "the last step is made up for");
        mark(&data).unwrap();
        refuse_unfinished(&data, Some(&wal)).unwrap_err();
        unmark(&data).unwrap();
        unmark(&data).unwrap();
        refuse_unfinished(&data, Some(&wal)).unwrap();
    }
}
