//! A segment: a file of chunks in revision order, valid up to the length that the manifest names.
//!
//! A segment only grows, and only by the keeper; readers know it through the chunks they hold. A
//! file that was rewritten is unlinked at once and lives on until the last reader lets go of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chunk::{Chunk, ChunkBuilder, IndexEntry};
use super::codec::{FileKind, HEADER_LEN, check_header, header, read_checked};
use super::dead::{DeadSnapshot, set_slots};
use super::disk::{Disk, DiskFile};
use super::error::StoreError;
use super::record::RecordHeader;

/// Chunks after which a segment is sealed: a chunk costs about 300 bytes of memory, and a search
/// goes through all of them.
const SEGMENT_CHUNKS_MAX: usize = 256;

/// Bytes after which a file being written is synced: what one sync of many would bring to the disk at
/// once, a sync of the log that comes meanwhile would wait for.
const SYNC_BYTES: u64 = 4 << 20;

/// An open file of the store.
pub(crate) struct StoreFile {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) handle: Arc<dyn DiskFile>,
}

impl StoreFile {
    /// Fills `buffer` from `offset`. A file shorter than its manifest says is damaged.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        self.handle.read_exact_at(buffer, offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                return StoreError::corrupt(&self.path, offset, "the file ends too early");
            }
            StoreError::io("read", &self.path)(error)
        })
    }

    /// As [`DiskFile::read_resident_at`].
    pub(crate) fn read_resident_at(
        &self,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<bool, StoreError> {
        self.handle
            .read_resident_at(buffer, offset)
            .map_err(StoreError::io("read", &self.path))
    }
}

/// A chunk, and the garbage bits that the durable manifest holds for it.
#[derive(Clone)]
pub(crate) struct SegmentChunk {
    pub(crate) chunk: Arc<Chunk>,
    pub(crate) durable_dead: DeadSnapshot,
    /// Bytes of the frames that those bits call garbage.
    pub(crate) durable_dead_bytes: u64,
}

impl SegmentChunk {
    pub(crate) fn new(chunk: Arc<Chunk>) -> SegmentChunk {
        SegmentChunk {
            chunk,
            durable_dead: None,
            durable_dead_bytes: 0,
        }
    }

    pub(crate) fn set_durable_dead(&mut self, bits: DeadSnapshot) {
        let unchanged = match (&self.durable_dead, &bits) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !unchanged {
            let words = bits.as_deref().unwrap_or_default();
            let frames = set_slots(words).filter_map(|slot| self.chunk.frame(slot));
            self.durable_dead_bytes = frames.map(|(start, end)| u64::from(end - start)).sum();
            self.durable_dead = bits;
        }
    }
}

/// A segment as the keeper knows it.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) file: Arc<StoreFile>,
    /// Valid length in bytes.
    pub(crate) len: u64,
    pub(crate) chunks: Vec<SegmentChunk>,
}

impl Segment {
    /// Number of records, dead ones included.
    pub(crate) fn records(&self) -> u64 {
        self.chunks.iter().map(|held| held.chunk.len() as u64).sum()
    }

    /// Bytes of all frames.
    pub(crate) fn records_len(&self) -> u64 {
        self.chunks
            .iter()
            .map(|held| held.chunk.records_len())
            .sum()
    }

    /// Bytes of the frames that are garbage by the durable manifest.
    pub(crate) fn durable_dead_bytes(&self) -> u64 {
        self.chunks.iter().map(|held| held.durable_dead_bytes).sum()
    }

    /// Whether the next record belongs in a new file.
    pub(crate) fn is_sealed(&self, seal_bytes: u64) -> bool {
        self.len >= seal_bytes || self.chunks.len() >= SEGMENT_CHUNKS_MAX
    }

    /// Opens a segment and builds its chunks from the index blocks. `visit` gets chunk, slot and
    /// entry in revision order.
    pub(crate) fn load(
        file: Arc<StoreFile>,
        len: u64,
        visit: &mut dyn FnMut(usize, usize, IndexEntry),
    ) -> Result<Segment, StoreError> {
        let head = read_checked(&*file.handle, &file.path, 0, HEADER_LEN)?;
        check_header(FileKind::Segment, &head, &file.path)?;
        let mut footers = Vec::new();
        let mut end = len;
        while end > HEADER_LEN {
            let (footer, start) = Chunk::footer(&file, end)?;
            footers.push((footer, start));
            end = start;
        }
        let mut chunks: Vec<SegmentChunk> = Vec::with_capacity(footers.len());
        for (ordinal, (footer, start)) in footers.iter().rev().enumerate() {
            let chunk = Chunk::open(&file, *start, footer, |slot, entry| {
                visit(ordinal, slot, entry)
            })?;
            let before = chunks.last().map(|held| held.chunk.last());
            if before.is_some_and(|before| before >= chunk.first()) {
                return Err(StoreError::corrupt(
                    &file.path,
                    *start,
                    "chunks out of order",
                ));
            }
            chunks.push(SegmentChunk::new(Arc::new(chunk)));
        }
        Ok(Segment { file, len, chunks })
    }
}

/// Names of files, never used twice (store-notes 5).
pub(crate) struct Names {
    dir: PathBuf,
    next: u64,
}

impl Names {
    pub(crate) fn new(dir: PathBuf, next: u64) -> Names {
        Names { dir, next }
    }

    /// The number that the next file gets.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// A fresh number, and the path of a file of this kind with it.
    pub(crate) fn take(&mut self, prefix: &str) -> (u64, PathBuf) {
        let number = self.next;
        self.next += 1;
        (number, self.dir.join(file_name(prefix, number)))
    }
}

/// Prefix of a segment's name.
pub(crate) const SEGMENT: &str = "seg";
/// Prefix of a state file's name.
pub(crate) const STATE: &str = "state";
/// Prefix of the name of a file of garbage bits.
pub(crate) const DEAD: &str = "dead";

/// The name of file `number`.
pub(crate) fn file_name(prefix: &str, number: u64) -> String {
    format!("{prefix}-{number:016x}")
}

/// The number in a file's name, if it is one of the store's.
pub(crate) fn file_number(name: &str) -> Option<u64> {
    let (prefix, digits) = name.split_once('-')?;
    let known = [SEGMENT, STATE, DEAD].contains(&prefix) && digits.len() == 16;
    known
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// What has been written since the last manifest, to take it back when the disk is full.
#[derive(Default)]
pub(crate) struct Undo {
    created: Vec<Arc<StoreFile>>,
    appended: Vec<(Arc<StoreFile>, u64)>,
}

impl Undo {
    /// Whether there are new names, which a sync of the directory must make durable.
    pub(crate) fn has_created(&self) -> bool {
        !self.created.is_empty()
    }

    /// Creates a file of the store.
    pub(crate) fn create(
        &mut self,
        disk: &dyn Disk,
        (number, path): (u64, PathBuf),
    ) -> Result<Arc<StoreFile>, StoreError> {
        let handle = disk
            .create(&path)
            .map_err(StoreError::io("create", &path))?;
        let file = Arc::new(StoreFile {
            number,
            path,
            handle,
        });
        self.created.push(file.clone());
        Ok(file)
    }

    /// Notes a file that has come from elsewhere.
    pub(crate) fn adopt(&mut self, file: Arc<StoreFile>) {
        self.created.push(file);
    }

    /// Notes that `file`, valid up to `len`, is about to grow.
    pub(crate) fn append(&mut self, file: &Arc<StoreFile>, len: u64) {
        self.appended.push((file.clone(), len));
    }

    /// Takes everything back, as far as the disk lets us; a restart does the rest.
    pub(crate) fn run(self, disk: &dyn Disk) {
        for file in &self.created {
            discard("remove", &file.path, disk.remove(&file.path));
        }
        for (file, len) in &self.appended {
            discard("cut", &file.path, file.handle.set_len(*len));
        }
    }
}

/// Appends records to segments; what it writes counts only once a manifest names it.
pub(crate) struct SegmentWriter<'a> {
    disk: &'a dyn Disk,
    seal_bytes: u64,
    names: &'a mut Names,
    undo: &'a mut Undo,
    segments: Vec<Segment>,
    builder: ChunkBuilder,
    /// The last of `segments` takes more chunks.
    open: bool,
    /// Bytes of the last of `segments` that are not synced.
    dirty_bytes: u64,
}

impl<'a> SegmentWriter<'a> {
    /// A writer that goes on in `last` unless that is sealed.
    pub(crate) fn new(
        disk: &'a dyn Disk,
        seal_bytes: u64,
        names: &'a mut Names,
        undo: &'a mut Undo,
        last: Option<Segment>,
    ) -> SegmentWriter<'a> {
        let open = last
            .as_ref()
            .is_some_and(|last| !last.is_sealed(seal_bytes));
        if let Some(last) = last.as_ref().filter(|_| open) {
            undo.append(&last.file, last.len);
        }
        let segments = last.into_iter().collect();
        let builder = ChunkBuilder::default();
        SegmentWriter {
            disk,
            seal_bytes,
            names,
            undo,
            segments,
            builder,
            open,
            dirty_bytes: 0,
        }
    }

    pub(crate) fn push(&mut self, head: &RecordHeader, record: &[u8]) -> Result<(), StoreError> {
        if self.builder.is_full(head) {
            self.write_chunk()?;
        }
        self.builder.push(head, record);
        Ok(())
    }

    /// Writes the rest and makes it durable. Returns the segments, the one given first.
    pub(crate) fn finish(mut self) -> Result<Vec<Segment>, StoreError> {
        if !self.builder.is_empty() {
            self.write_chunk()?;
        }
        self.sync()?;
        Ok(self.segments)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        if let Some(last) = self.segments.last().filter(|_| self.dirty_bytes > 0) {
            sync(&last.file)?;
        }
        self.dirty_bytes = 0;
        Ok(())
    }

    fn write_chunk(&mut self) -> Result<(), StoreError> {
        let encoded = self.builder.finish();
        if !self.open {
            self.sync()?;
            let created = self.undo.create(self.disk, self.names.take(SEGMENT))?;
            write_all(&created, &header(FileKind::Segment), 0)?;
            self.segments.push(Segment {
                file: created,
                len: HEADER_LEN,
                chunks: Vec::new(),
            });
        }
        let Some(segment) = self.segments.last_mut() else {
            return Ok(());
        };
        let len = encoded.bytes.len() as u64;
        self.dirty_bytes += len;
        write_all(&segment.file, &encoded.bytes, segment.len)?;
        let chunk = Arc::new(encoded.place(&segment.file, segment.len));
        segment.chunks.push(SegmentChunk::new(chunk));
        segment.len += len;
        self.open = !segment.is_sealed(self.seal_bytes);
        if self.dirty_bytes >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }
}

/// Makes a file's bytes durable.
pub(crate) fn sync(file: &StoreFile) -> Result<(), StoreError> {
    file.handle
        .sync_data()
        .map_err(StoreError::io("sync", &file.path))
}

/// Reserves space and writes.
pub(crate) fn write_all(file: &StoreFile, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
    let len = bytes.len() as u64;
    file.handle
        .allocate(offset, len)
        .map_err(StoreError::io("allocate", &file.path))?;
    file.handle
        .write_all_at(bytes, offset)
        .map_err(StoreError::io("write", &file.path))
}

/// Notes a failure that changes nothing: what stays behind is cleared at the next start.
pub(crate) fn discard(op: &str, path: &Path, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(path = %path.display(), %error, "could not {op} a file no longer needed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_left_alone() {
        let mut names = Names::new(PathBuf::from("d"), 0xab);
        let (number, path) = names.take(STATE);
        assert_eq!(path, Path::new("d/state-00000000000000ab"));
        assert_eq!(file_number("state-00000000000000ab"), Some(number));
        assert_eq!(names.next(), 0xac);
        for other in ["manifest", "seg-1", "lost+found", "tmp-00000000000000ab"] {
            assert_eq!(file_number(other), None);
        }
    }
}
