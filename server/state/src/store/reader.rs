//! Reading records by revision, from any thread.
//!
//! Tail, then cache, then one pread with its checksum checked. Readers take no lock that a write to
//! disk holds, and they go on reading a file that was rewritten under them. An error is fatal
//! unless it says that there is no such record (store-notes 4): the process ends, not the request.

use std::sync::Arc;

use bytes::Bytes;

use super::chunk::Chunk;
use super::error::StoreError;
use super::scan::{ChecksumScan, RecordScan};
use super::table::{Shared, Table};
use crate::revision::Revision;

/// Bytes that one pread of neighbouring records takes in at most: a slice of it pins no more.
pub const SCAN_RUN_BYTES: usize = 64 << 10;

/// Bytes between two records that are read rather than skipped: cheaper than another call.
const GAP_BYTES: u32 = 4 << 10;

/// Neighbours from which on one pread costs less than asking the cache for each, and keeping them
/// would drive out what is read one by one.
const RUN_UNCACHED: usize = 8;

/// A record in a file that the handle keeps.
pub struct RecordHandle {
    chunk: Arc<Chunk>,
    slot: usize,
}

impl RecordHandle {
    /// The bytes of the record.
    pub fn read(&self) -> Result<Bytes, StoreError> {
        self.chunk.read(self.slot)
    }

    /// Bytes that the record takes in its file.
    pub fn record_len(&self) -> usize {
        let (start, end) = self.chunk.frame(self.slot).unwrap_or_default();
        end.saturating_sub(start) as usize
    }
}

/// Reads records. Cheap to clone.
#[derive(Clone)]
pub struct StoreReader {
    shared: Arc<Shared>,
}

impl StoreReader {
    pub(crate) fn new(shared: Arc<Shared>) -> StoreReader {
        StoreReader { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The bytes of a record.
    pub fn read(&self, revision: Revision) -> Result<Bytes, StoreError> {
        let table = self.shared.table.load();
        if let Some(record) = self.in_memory(&table, revision) {
            return Ok(record);
        }
        let (chunk, slot) = table
            .find_chunk(revision)
            .ok_or(StoreError::NotFound(revision))?;
        let record = chunk.read(slot)?;
        self.shared.cache.insert(revision, record.clone());
        Ok(record)
    }

    /// The bytes of a record if they are in memory; never touches the disk.
    pub fn read_cached(&self, revision: Revision) -> Option<Bytes> {
        self.in_memory(&self.shared.table.load(), revision)
    }

    /// The bytes of a record if no disk has to be waited for: they are in memory, ours or the
    /// operating system's.
    pub fn read_resident(&self, revision: Revision) -> Result<Option<Bytes>, StoreError> {
        let table = self.shared.table.load();
        if let Some(record) = self.in_memory(&table, revision) {
            return Ok(Some(record));
        }
        let (chunk, slot) = table
            .find_chunk(revision)
            .ok_or(StoreError::NotFound(revision))?;
        let record = chunk.read_resident(slot)?;
        if let Some(record) = &record {
            self.shared.cache.insert(revision, record.clone());
        }
        Ok(record)
    }

    /// A hold on a record: it stays readable whatever is compacted or rewritten meanwhile. `None` if
    /// no file has it; a record of the tail is in memory, see [`read_cached`](Self::read_cached).
    pub fn handle(&self, revision: Revision) -> Option<RecordHandle> {
        let table = self.shared.table.load();
        let (chunk, slot) = table.find_chunk(revision)?;
        Some(RecordHandle {
            chunk: chunk.clone(),
            slot,
        })
    }

    /// The bytes of several records, in the order asked for. Neighbours share a pread.
    pub fn read_many(&self, revisions: &[Revision]) -> Result<Vec<Bytes>, StoreError> {
        let table = self.shared.table.load_full();
        let mut records: Vec<Option<Bytes>> = Vec::with_capacity(revisions.len());
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        for (place, &revision) in revisions.iter().enumerate() {
            let record = in_tails(&table, revision);
            if record.is_none() {
                let (chunk, slot) = table
                    .find_chunk(revision)
                    .ok_or(StoreError::NotFound(revision))?;
                wanted.push(Wanted {
                    revision,
                    chunk,
                    slot,
                    place,
                });
            }
            records.push(record);
        }
        wanted.sort_unstable_by_key(|wanted| wanted.revision);
        let mut rest = wanted.as_slice();
        while let Some(run) = next_run(rest) {
            if run.len() >= RUN_UNCACHED {
                read_run(run, |wanted, record| put(&mut records, wanted, record))?;
            } else {
                self.read_short_run(run, &mut records)?;
            }
            rest = rest.get(run.len()..).unwrap_or_default();
        }
        let complete: Option<Vec<Bytes>> = records.into_iter().collect();
        complete.ok_or(StoreError::NotFound(Revision::MIN))
    }

    /// Records from `from` to change `to_main`, both included, in revision order: live ones and
    /// garbage that is still there. Reads ahead sequentially, past the cache.
    pub fn scan(&self, from: Revision, to_main: i64) -> RecordScan {
        RecordScan::new(self.shared.table.load_full(), from, to_main)
    }

    /// As [`scan`](Self::scan), but lengths and checksums from the index blocks: no value is read.
    pub fn scan_checksums(&self, from: Revision, to_main: i64) -> ChecksumScan {
        ChecksumScan::new(self.shared.table.load_full(), from, to_main)
    }

    fn in_memory(&self, table: &Table, revision: Revision) -> Option<Bytes> {
        if is_durable(table, revision) {
            return self.shared.cache.get(revision);
        }
        in_tails(table, revision)
    }

    fn read_short_run(
        &self,
        run: &[Wanted<'_>],
        records: &mut [Option<Bytes>],
    ) -> Result<(), StoreError> {
        let mut missing = Vec::with_capacity(run.len());
        for wanted in run {
            match self.shared.cache.get(wanted.revision) {
                Some(record) => put(records, wanted, record),
                None => missing.push(*wanted),
            }
        }
        read_run(&missing, |wanted, record| {
            self.shared.cache.insert(wanted.revision, record.clone());
            put(records, wanted, record);
        })
    }
}

/// Whether a record of this revision would be in a chunk: no tail need be searched.
fn is_durable(table: &Table, revision: Revision) -> bool {
    table
        .chunks
        .last()
        .is_some_and(|chunk| chunk.last() >= revision)
}

fn in_tails(table: &Table, revision: Revision) -> Option<Bytes> {
    if is_durable(table, revision) {
        return None;
    }
    let mut tails = table.tails_newest_first();
    tails.find_map(|tail| tail.with(revision, |found| found.record.clone()))
}

fn put(records: &mut [Option<Bytes>], wanted: &Wanted<'_>, record: Bytes) {
    if let Some(place) = records.get_mut(wanted.place) {
        *place = Some(record);
    }
}

/// Reads neighbours with one pread.
fn read_run<'a>(
    run: &[Wanted<'a>],
    mut found: impl FnMut(&Wanted<'a>, Bytes),
) -> Result<(), StoreError> {
    let bounds = run.first().zip(run.last()).and_then(|(first, last)| {
        let (start, _) = first.chunk.frame(first.slot)?;
        let (_, end) = last.chunk.frame(last.slot)?;
        Some((first.chunk, start, end))
    });
    let Some((chunk, start, end)) = bounds else {
        return Ok(());
    };
    let frames = chunk.read_frames(start, end)?;
    for wanted in run {
        let record = chunk.record(wanted.slot, &frames, start)?;
        // A record is its own allocation (store-notes 1), so that one kept does not pin all.
        let own = if run.len() == 1 {
            record
        } else {
            Bytes::copy_from_slice(&record)
        };
        found(wanted, own);
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Wanted<'a> {
    revision: Revision,
    chunk: &'a Arc<Chunk>,
    slot: usize,
    place: usize,
}

/// The longest run at the front of `wanted` that one pread should take.
fn next_run<'a, 'b>(wanted: &'b [Wanted<'a>]) -> Option<&'b [Wanted<'a>]> {
    let first = wanted.first()?;
    let (start, mut end) = first.chunk.frame(first.slot)?;
    let mut len = 1;
    for next in wanted.iter().skip(1) {
        let Some((from, to)) = next.chunk.frame(next.slot) else {
            break;
        };
        let joins = Arc::ptr_eq(next.chunk, first.chunk)
            && from.saturating_sub(end) <= GAP_BYTES
            && (to - start) as usize <= SCAN_RUN_BYTES;
        if !joins {
            break;
        }
        end = to;
        len += 1;
    }
    wanted.get(..len)
}
