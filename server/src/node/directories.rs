//! Where a member keeps what, and whether it belongs together (contract 4.1).
//!
//! - The identity stands in the data directory and beside the log, which may lie elsewhere
//!   (`--wal-dir`): a log of another member is told from this one's, and one that is gone from one
//!   that has not begun. It is written beside the log first.
//! - Data of etcd are never taken for an empty directory.
//!
//! Leaves the lock of the data directory and halves of a restore to `process`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::raft::identity::Identity;

/// A member's directories.
pub struct Directories {
    /// `<data-dir>/member`.
    pub member: PathBuf,
    /// The store's.
    pub store: PathBuf,
    /// The log's.
    pub wal: PathBuf,
}

impl Directories {
    /// Those below `data_dir`, and the log's where it is wanted.
    #[must_use]
    pub fn new(data_dir: &Path, wal_dir: Option<&Path>) -> Self {
        let member = data_dir.join("member");
        Self {
            store: member.join("store"),
            wal: wal_dir.map_or_else(|| member.join("wal"), Path::to_owned),
            member,
        }
    }

    /// Refuses what etcd has left: started beside it a member would be empty, or even bootstrap anew.
    ///
    /// # Errors
    /// When etcd's database or log is there.
    pub fn refuse_foreign(&self) -> Result<()> {
        let database = self.member.join("snap").join("db");
        let log = etcd_log(&self.wal)?.or(etcd_log(&self.member.join("wal"))?);
        if let Some(found) = log.or_else(|| database.exists().then_some(database)) {
            bail!(
                "{} is etcd's, whose files this program does not read: save a snapshot with etcd, \
                 and restore it into an empty directory with keelctl",
                found.display()
            );
        }
        Ok(())
    }

    /// Creates what is missing, for the owner only.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        for path in [&self.member, &self.store, &self.wal] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        std::fs::File::open(&self.member)
            .and_then(|directory| directory.sync_all())
            .with_context(|| format!("cannot sync {}", self.member.display()))
    }

    /// The member that this is, if it was ever started. `log_is_new`: nothing was ever logged.
    ///
    /// # Errors
    /// When the log is another member's, or gone, or an identity is damaged.
    pub fn identity(&self, log_is_new: bool) -> Result<Option<Identity>> {
        let known = Identity::read(&self.member)?;
        let logs = Identity::read(&self.wal)?;
        match (known, logs) {
            (Some(known), Some(logs)) if known != logs && !log_is_new => bail!(
                "the log in {} is that of member {:x} of cluster {:x}, and {} is that of member \
                 {:x} of cluster {:x}: they do not belong together",
                self.wal.display(),
                logs.member_id,
                logs.cluster_id,
                self.member.display(),
                known.member_id,
                known.cluster_id
            ),
            (Some(_), None) if log_is_new => bail!(
                "{} is that of a member whose log is not in {}: its entries are missing, so this \
                 data directory is not complete",
                self.member.display(),
                self.wal.display()
            ),
            _ => Ok(known),
        }
    }

    /// Says who this member is, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, identity: &Identity) -> Result<()> {
        identity.write(&self.wal)?;
        identity.write(&self.member)
    }
}

/// A file of etcd's log in a directory.
fn etcd_log(directory: &Path) -> Result<Option<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", directory.display()));
        }
    };
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {}", directory.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "wal") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
