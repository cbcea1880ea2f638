//! Who this member is, kept in its data directory: `member/identity`.
//!
//! Written once, at bootstrap, before anything else: a data directory always knows its ids, and
//! never takes on others. Three lines of text and a checksum (docs/FORMAT.md).

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// The file's name.
const FILE: &str = "identity";
/// What it is called until it is complete.
const TEMPORARY: &str = "identity.tmp";
/// Its first line: the format and its version.
const FORMAT: &str = "keelson identity 1";
/// No valid file is longer.
const LENGTH_MAX: u64 = 1024;

/// A member's ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
}

impl Identity {
    /// Whether there is one, sound or not.
    #[must_use]
    pub fn exists(directory: &Path) -> bool {
        directory.join(FILE).exists()
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        let length = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        if length > LENGTH_MAX {
            bail!("{} is damaged: {length} bytes", path.display());
        }
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        match Self::parse(&text) {
            Some(identity) => Ok(Some(identity)),
            None => bail!("{} is damaged or of another version", path.display()),
        }
    }

    /// Writes the file, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let (path, temporary) = (directory.join(FILE), directory.join(TEMPORARY));
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| {
                file.write_all(self.render().as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&temporary, &path))
            .and_then(|()| std::fs::File::open(directory)?.sync_all());
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    fn render(&self) -> String {
        let body = format!(
            "{FORMAT}\nmember {:x}\ncluster {:x}\n",
            self.member_id, self.cluster_id
        );
        format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let format = lines.next()?;
        let member = lines.next()?.strip_prefix("member ")?;
        let cluster = lines.next()?.strip_prefix("cluster ")?;
        let identity = Self {
            member_id: u64::from_str_radix(member, 16).ok()?,
            cluster_id: u64::from_str_radix(cluster, 16).ok()?,
        };
        (format == FORMAT && identity.render() == text).then_some(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_round_trip_and_notices_damage() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(directory.path()).unwrap(), None);
        let identity = Identity {
            member_id: 0x8e9e,
            cluster_id: u64::MAX,
        };
        identity.write(directory.path()).unwrap();
        assert_eq!(Identity::read(directory.path()).unwrap(), Some(identity));
        let path = directory.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert!(Identity::read(directory.path()).is_err(), "byte {at}");
        }
    }
}
