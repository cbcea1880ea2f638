//! Proof that a log was longer than what sled finds of it.
//!
//! sled takes its file up to the first message whose checksum is wrong and wipes what follows:
//! after a flipped bit it opens without a word, and what is left looks like a whole, shorter log. A
//! member that started on it would have lost acknowledged writes, and could vote them away
//! (design R8, R10). So commits that are durable leave *marks* in the file, frames that hold the
//! commit and a secret. Before sled opens the file it is searched for them, and a log that ends
//! before one is refused.
//!
//! - A mark names only entries that were synced before it was written, and that are committed: no
//!   crash and no truncation takes them away.
//! - The secret is random and known to nobody else: no value that a client stores looks like a mark.
//! - What was found is written beside the database before sled may wipe it, so a second start knows
//!   it too.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use rand::Rng as _;

use super::api::LogPosition;
use super::error::WalError;
use super::frame::{self, Frame, HEADER_BYTES, Kind, MAGIC};
use super::sled_check::{DATA_FILE, sync_dirs};

/// Name of the file beside the database.
const MARK_FILE: &str = "mark";
/// Bytes of the secret.
const SECRET_BYTES: usize = 16;
/// Bytes of a mark.
const MARK_BYTES: usize = HEADER_BYTES + SECRET_BYTES;
/// Bytes read at a time. No frame crosses a segment of sled, and this is one.
const READ_BYTES: usize = super::sled_backend::SEGMENT_BYTES;

/// The secret of a log, and how far its file has proved to reach.
#[derive(Debug)]
pub(super) struct Marks {
    dir: PathBuf,
    secret: [u8; SECRET_BYTES],
    proved: Option<Proof>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Proof {
    /// The entry that was durable and committed.
    index: u64,
    /// Where in the database's file that was said.
    offset: u64,
}

impl Marks {
    /// Reads or makes the secret and searches the database's file. To be called before sled opens
    /// it.
    pub(super) fn load(dir: &Path) -> Result<Self, WalError> {
        let mut marks = match Self::read(dir) {
            Some(marks) => marks,
            None => {
                let marks = Self {
                    dir: dir.to_owned(),
                    secret: rand::rng().random(),
                    proved: None,
                };
                marks.write()?;
                marks
            }
        };
        let found = marks.search()?;
        let newer = |known: Proof| found.is_some_and(|found| found.index > known.index);
        if found.is_some() && marks.proved.is_none_or(newer) {
            marks.proved = found;
            marks.write()?;
        }
        Ok(marks)
    }

    /// Refuses a log that ends before what it has proved to hold.
    pub(super) fn check(&self, end: Option<LogPosition>) -> Result<(), WalError> {
        let Some(proof) = self.proved else {
            return Ok(());
        };
        if end.is_some_and(|end| end.index >= proof.index) {
            return Ok(());
        }
        let found = end.map_or_else(|| "is empty".into(), |end| format!("ends at {}", end.index));
        Err(WalError::Refused(format!(
            "{}: the entries up to {} were durable here, as offset {} said, but the log {found}: the \
             file is damaged. Do not start this member on it: remove the member from its cluster and \
             add it anew, or restore a snapshot",
            self.dir.join(DATA_FILE).display(),
            proof.index,
            proof.offset,
        )))
    }

    /// A mark of a commit whose entries are durable.
    pub(super) fn encode(&self, out: &mut BytesMut, committed: LogPosition) {
        frame::encode_mark(out, committed, &self.secret);
    }

    fn read(dir: &Path) -> Option<Self> {
        let path = dir.join(MARK_FILE);
        let text = fs::read_to_string(&path).ok()?;
        let marks = Self::parse(dir, &text);
        if marks.is_none() {
            tracing::warn!(path = %path.display(), "the file is damaged and made anew");
        }
        marks
    }

    fn parse(dir: &Path, text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let secret = u128::from_str_radix(lines.next()?, 16).ok()?.to_be_bytes();
        let proved = match lines.next() {
            None => None,
            Some(line) => {
                let (index, offset) = line.split_once(' ')?;
                Some(Proof {
                    index: index.parse().ok()?,
                    offset: offset.parse().ok()?,
                })
            }
        };
        Some(Self {
            dir: dir.to_owned(),
            secret,
            proved,
        })
    }

    /// Durable when it returns.
    fn write(&self) -> Result<(), WalError> {
        let path = self.dir.join(MARK_FILE);
        let temporary = self.dir.join("mark.tmp");
        let mut text = format!("{:032x}\n", u128::from_be_bytes(self.secret));
        if let Some(proof) = self.proved {
            text.push_str(&format!("{} {}\n", proof.index, proof.offset));
        }
        let written = || {
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        written()
            .map_err(|error| WalError::io(format!("writing {}", path.display()), error))
            .and_then(|()| sync_dirs(&self.dir))
    }

    /// The farthest mark in the database's file.
    fn search(&self) -> Result<Option<Proof>, WalError> {
        let path = self.dir.join(DATA_FILE);
        let failed = |error| WalError::io(format!("reading {}", path.display()), error);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let finder = memchr::memmem::Finder::new(&MAGIC);
        let mut buffer = vec![0; READ_BYTES];
        let mut farthest: Option<Proof> = None;
        let mut start = 0;
        loop {
            let filled = fill(&file, &mut buffer, start).map_err(failed)?;
            let bytes = buffer.get(..filled).unwrap_or_default();
            for at in finder.find_iter(bytes) {
                let Some(committed) = bytes.get(at..).and_then(|bytes| self.decode(bytes)) else {
                    continue;
                };
                if farthest.is_none_or(|known| known.index < committed.index) {
                    farthest = Some(Proof {
                        index: committed.index,
                        offset: start + at as u64,
                    });
                }
            }
            if filled < READ_BYTES {
                return Ok(farthest);
            }
            start += filled as u64;
        }
    }

    /// The commit of the mark at the front of `bytes`, if there is one.
    fn decode(&self, bytes: &[u8]) -> Option<LogPosition> {
        let bytes = bytes.get(..MARK_BYTES)?;
        // Most frames are others and need no copy.
        if !bytes.ends_with(&self.secret) {
            return None;
        }
        let frame = Frame::decode(&Bytes::copy_from_slice(bytes)).ok()?;
        (frame.kind == Kind::Committed).then_some(frame.committed)?
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &File, buffer: &mut [u8], start: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::*;

    fn position(index: u64) -> LogPosition {
        LogPosition { term: 3, index }
    }

    #[test]
    fn the_farthest_mark_is_found_wherever_it_is_and_stays_known() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::load(dir.path()).unwrap();
        marks.check(None).unwrap();
        let mut bytes = BytesMut::new();
        for (fill, index) in [(13, 40), (READ_BYTES + 100, 90), (5, 60)] {
            bytes.put_bytes(b'K', fill);
            marks.encode(&mut bytes, position(index));
        }
        let path = dir.path().join(DATA_FILE);
        fs::write(&path, &bytes).unwrap();
        let marks = Marks::load(dir.path()).unwrap();
        marks.check(Some(position(90))).unwrap();
        let error = marks.check(Some(position(89))).unwrap_err().to_string();
        assert!(error.contains("up to 90"), "{error}");
        assert!(error.contains("ends at 89"), "{error}");
        fs::write(&path, b"wiped").unwrap();
        let marks = Marks::load(dir.path()).unwrap();
        assert!(marks.check(None).is_err());
    }

    #[test]
    fn marks_of_others_and_damaged_ones_prove_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let foreign = Marks::load(other.path()).unwrap();
        let own = Marks::load(dir.path()).unwrap();
        let mut bytes = BytesMut::new();
        foreign.encode(&mut bytes, position(7));
        own.encode(&mut bytes, position(8));
        let damaged = bytes.len() - MARK_BYTES + 30;
        bytes[damaged] ^= 1;
        own.encode(&mut bytes, position(5));
        fs::write(dir.path().join(DATA_FILE), &bytes).unwrap();
        let own = Marks::load(dir.path()).unwrap();
        assert_eq!(own.proved.map(|proof| proof.index), Some(5));
    }
}
