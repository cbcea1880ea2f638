//! Reading records in revision order: for history, hashes and snapshot files.
//!
//! A scan holds the table it began with. What it has not read yet stays readable, rewritten or
//! not; records appended to the tail meanwhile are seen up to the last change asked for.

use std::sync::Arc;

use bytes::Bytes;

use super::chunk::{Chunk, IndexBlock, IndexEntry};
use super::error::StoreError;
use super::reader::SCAN_RUN_BYTES;
use super::record::{StoredChecksum, StoredRecord, record_checksum};
use super::table::Table;
use super::tail::TailView;
use crate::revision::Revision;

/// Walks chunks, then tails.
struct Walk {
    table: Arc<Table>,
    from: Revision,
    to_main: i64,
    next_chunk: usize,
    next_tail: usize,
    tail: Option<(TailView, usize)>,
}

impl Walk {
    fn new(table: Arc<Table>, from: Revision, to_main: i64) -> Walk {
        let next_chunk = table.chunks.partition_point(|chunk| chunk.last() < from);
        Walk {
            table,
            from,
            to_main,
            next_chunk,
            next_tail: 0,
            tail: None,
        }
    }

    /// The next chunk and its first slot.
    fn chunk(&mut self) -> Option<(Arc<Chunk>, usize)> {
        let chunk = self.table.chunks.get(self.next_chunk)?;
        if chunk.first().main > self.to_main {
            return None;
        }
        self.next_chunk += 1;
        Some((
            chunk.clone(),
            chunk.find(self.from).unwrap_or_else(|slot| slot),
        ))
    }

    /// The next record of the tails.
    fn in_tail<T>(&mut self, take: impl FnOnce(&super::tail::TailRecord) -> T) -> Option<T> {
        loop {
            if let Some((view, slot)) = &mut self.tail {
                if let Some(found) = view.get(*slot) {
                    if found.header.revision.main > self.to_main {
                        return None;
                    }
                    *slot += 1;
                    return Some(take(found));
                }
                self.tail = None;
            }
            let view = self.table.tails().nth(self.next_tail)?.view();
            self.next_tail += 1;
            let slot = view.seek(self.from);
            self.tail = Some((view, slot));
        }
    }

    fn end(&mut self) {
        self.to_main = i64::MIN;
    }
}

/// Iterator of [`StoreReader::scan`](super::StoreReader::scan). Ends after an error.
pub struct RecordScan {
    walk: Walk,
    chunk: Option<(Arc<Chunk>, usize)>,
    /// Frames read ahead, and where in the chunk they lie.
    frames: Bytes,
    start: u32,
    end: u32,
}

impl RecordScan {
    pub(crate) fn new(table: Arc<Table>, from: Revision, to_main: i64) -> RecordScan {
        let walk = Walk::new(table, from, to_main);
        RecordScan {
            walk,
            chunk: None,
            frames: Bytes::new(),
            start: 0,
            end: 0,
        }
    }

    fn in_chunk(&mut self) -> Option<Result<StoredRecord, StoreError>> {
        loop {
            if self.chunk.is_none() {
                self.chunk = Some(self.walk.chunk()?);
                (self.start, self.end) = (0, 0);
            }
            let (chunk, slot) = self.chunk.as_mut()?;
            let Some(revision) = chunk.revision(*slot) else {
                self.chunk = None;
                continue;
            };
            if revision.main > self.walk.to_main {
                self.walk.end();
                return None;
            }
            let (from, to) = chunk.frame(*slot)?;
            if to > self.end || from < self.start {
                let end = run_end(chunk, *slot, from);
                match chunk.read_frames(from, end) {
                    Ok(frames) => (self.frames, self.start, self.end) = (frames, from, end),
                    Err(error) => return Some(Err(error)),
                }
            }
            let record = chunk.record(*slot, &self.frames, self.start);
            let tombstone = chunk.tombstone(*slot);
            *slot += 1;
            return Some(record.map(|record| StoredRecord {
                revision,
                tombstone,
                record,
            }));
        }
    }
}

/// Where a read that begins with `slot` should end: whole frames, a run at most.
fn run_end(chunk: &Chunk, slot: usize, start: u32) -> u32 {
    let mut end = start;
    for next in slot..chunk.len() {
        let Some((_, to)) = chunk.frame(next) else {
            break;
        };
        if next > slot && (to - start) as usize > SCAN_RUN_BYTES {
            break;
        }
        end = to;
    }
    end
}

impl Iterator for RecordScan {
    type Item = Result<StoredRecord, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(found) = self.in_chunk() {
            if found.is_err() {
                self.walk.end();
                self.chunk = None;
            }
            return Some(found);
        }
        let found = self.walk.in_tail(|found| StoredRecord {
            revision: found.header.revision,
            tombstone: found.header.tombstone,
            record: found.record.clone(),
        });
        found.map(Ok)
    }
}

/// Iterator of [`StoreReader::scan_checksums`](super::StoreReader::scan_checksums). Ends after an
/// error.
pub struct ChecksumScan {
    walk: Walk,
    block: Option<IndexBlock>,
}

impl ChecksumScan {
    pub(crate) fn new(table: Arc<Table>, from: Revision, to_main: i64) -> ChecksumScan {
        ChecksumScan {
            walk: Walk::new(table, from, to_main),
            block: None,
        }
    }

    fn in_chunk(&mut self) -> Option<Result<IndexEntry, StoreError>> {
        loop {
            match &mut self.block {
                None => {
                    let (chunk, _) = self.walk.chunk()?;
                    match chunk.read_index() {
                        Ok(block) => self.block = Some(block),
                        Err(error) => return Some(Err(error)),
                    }
                }
                Some(block) => match block.next() {
                    None => self.block = None,
                    Some(Ok(entry)) if entry.header.revision < self.walk.from => {}
                    Some(Ok(entry)) if entry.header.revision.main > self.walk.to_main => {
                        self.walk.end();
                        self.block = None;
                    }
                    Some(entry) => return Some(entry),
                },
            }
        }
    }
}

impl Iterator for ChecksumScan {
    type Item = Result<StoredChecksum, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.in_chunk() {
            Some(Ok(entry)) => Some(Ok(StoredChecksum {
                revision: entry.header.revision,
                tombstone: entry.header.tombstone,
                key: entry.header.key,
                len: entry.len,
                crc32c: entry.crc32c,
            })),
            Some(Err(error)) => {
                self.walk.end();
                self.block = None;
                Some(Err(error))
            }
            None => self.walk.in_tail(|found| {
                let header = &found.header;
                Ok(StoredChecksum {
                    revision: header.revision,
                    tombstone: header.tombstone,
                    key: header.key.clone(),
                    len: found.record.len() as u32,
                    crc32c: record_checksum(header.revision, header.tombstone, &found.record),
                })
            }),
        }
    }
}
