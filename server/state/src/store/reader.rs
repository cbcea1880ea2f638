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

/// Reads records. Cheap to clone.
#[derive(Clone)]
pub struct StoreReader {
    shared: Arc<Shared>,
}

impl StoreReader {
    pub(crate) fn new(shared: Arc<Shared>) -> StoreReader {
        StoreReader { shared }
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

    /// The bytes of several records, in the order asked for. Neighbours share a pread.
    pub fn read_many(&self, revisions: &[Revision]) -> Result<Vec<Bytes>, StoreError> {
        let table = self.shared.table.load_full();
        let mut records: Vec<Option<Bytes>> = Vec::with_capacity(revisions.len());
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        for (place, &revision) in revisions.iter().enumerate() {
            let record = self.in_memory(&table, revision);
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
            self.read_run(run, &mut records)?;
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
        // Most records are older than any tail.
        let durable = table
            .chunks
            .last()
            .is_some_and(|chunk| chunk.last() >= revision);
        if durable {
            return self.shared.cache.get(revision);
        }
        table
            .tails_newest_first()
            .find_map(|tail| tail.with(revision, |found| found.record.clone()))
    }

    fn read_run(
        &self,
        run: &[Wanted<'_>],
        records: &mut [Option<Bytes>],
    ) -> Result<(), StoreError> {
        let bounds = run.first().zip(run.last());
        let Some((first, (start, end))) = bounds.and_then(|(first, last)| {
            let (start, _) = first.chunk.frame(first.slot)?;
            let (_, end) = last.chunk.frame(last.slot)?;
            Some((first, (start, end)))
        }) else {
            return Ok(());
        };
        let frames = first.chunk.read_frames(start, end)?;
        for wanted in run {
            let record = first.chunk.record(wanted.slot, &frames, start)?;
            // A record is its own allocation (store-notes 1), so that one kept does not pin all.
            let record = if run.len() == 1 {
                record
            } else {
                Bytes::copy_from_slice(&record)
            };
            self.shared.cache.insert(wanted.revision, record.clone());
            if let Some(place) = records.get_mut(wanted.place) {
                *place = Some(record);
            }
        }
        Ok(())
    }
}

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
