//! The records that were alive at one moment, for as long as one wants them: what a snapshot file
//! holds.
//!
//! ```text
//! begin   apply thread: table and garbage bits as they are
//! settle  after a checkpoint: the same records, read from chunks; no tail is held any more
//! ```
//!
//! What is held are handles of files and bitmaps, whatever is compacted, rewritten or installed
//! meanwhile. Lengths come from memory, records from one pread for a run of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::chunk::{Chunk, FRAME_LEN};
use super::dead::{DeadSnapshot, is_dead};
use super::error::StoreError;
use super::reader::{SCAN_RUN_BYTES, StoreReader};
use super::record::StoredRecord;
use super::table::{FrozenDead, Shared, Table};
use super::tail::{Tail, TailView};
use crate::revision::Revision;

/// See the module.
pub struct LiveRecords {
    shared: Arc<Shared>,
    epoch: u64,
    to_main: i64,
    /// Holds the tails it is about: let go once settled.
    dead: Option<FrozenDead>,
    parts: Arc<[Part]>,
}

enum Part {
    Chunk(Arc<Chunk>, DeadSnapshot),
    Tail(Arc<Tail>, DeadSnapshot),
}

impl StoreReader {
    /// Holds the records up to change `to_main` that are alive now. Call where no compaction step
    /// runs meanwhile.
    pub(crate) fn live_records(&self, to_main: i64) -> LiveRecords {
        let shared = Arc::clone(self.shared());
        let table = shared.table.load_full();
        let dead = FrozenDead::of(&table);
        let parts = parts(&table, &dead, to_main);
        LiveRecords {
            epoch: shared.epoch.load(Ordering::Acquire),
            shared,
            to_main,
            dead: Some(dead),
            parts,
        }
    }
}

impl LiveRecords {
    #[cfg(test)]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Lets go of memory that a checkpoint has written to files meanwhile. Compaction may have
    /// removed records since, but none that a pin at the compact revision keeps.
    pub(crate) fn settle(&mut self) {
        let Some(dead) = self.dead.take() else { return };
        let table = self.shared.table.load_full();
        if self.shared.epoch.load(Ordering::Acquire) == self.epoch {
            self.parts = parts(&table, &dead, self.to_main);
        }
    }

    /// Shows revision, whether it is a tombstone, and length of each record, in order.
    pub(crate) fn lengths(&self, visit: &mut dyn FnMut(Revision, bool, usize)) {
        for part in &*self.parts {
            match part {
                Part::Chunk(chunk, dead) => {
                    for slot in (0..chunk.len()).filter(|slot| !is_dead(dead, *slot)) {
                        let found = chunk.revision(slot).zip(chunk.frame(slot));
                        let Some((revision, (start, end))) = found else {
                            break;
                        };
                        if revision.main > self.to_main {
                            return;
                        }
                        let len = (end - start) as usize;
                        visit(revision, chunk.tombstone(slot), len - FRAME_LEN);
                    }
                }
                Part::Tail(tail, dead) => {
                    let view = tail.view();
                    for slot in (0..view.len()).filter(|slot| !is_dead(dead, *slot)) {
                        let Some(found) = view.get(slot) else { break };
                        let header = &found.header;
                        if header.revision.main > self.to_main {
                            return;
                        }
                        visit(header.revision, header.tombstone, found.record.len());
                    }
                }
            }
        }
    }

    /// The records, in order.
    pub(crate) fn scan(&self) -> LiveScan {
        LiveScan {
            parts: Arc::clone(&self.parts),
            to_main: self.to_main,
            part: 0,
            slot: 0,
            frames: Bytes::new(),
            last_frames: Bytes::new(),
            start: 0,
            end: 0,
            tail: None,
        }
    }
}

fn parts(table: &Table, dead: &FrozenDead, to_main: i64) -> Arc<[Part]> {
    let bits = dead.for_chunks(&table.chunks);
    let chunks = table.chunks.iter().zip(bits);
    let chunks = chunks.filter(|(chunk, _)| chunk.first().main <= to_main);
    let held = |tail: &&Arc<Tail>| {
        let first = tail.view().get(0).map(|found| found.header.revision.main);
        first.is_some_and(|first| first <= to_main)
    };
    let tails = table.tails().filter(held);
    chunks
        .map(|(chunk, bits)| Part::Chunk(Arc::clone(chunk), bits))
        .chain(tails.map(|tail| Part::Tail(Arc::clone(tail), dead.of_tail(tail))))
        .collect()
}

/// Reads live records in order, ahead in runs.
pub(crate) struct LiveScan {
    parts: Arc<[Part]>,
    to_main: i64,
    part: usize,
    slot: usize,
    /// The run that is read from, and the one before.
    frames: Bytes,
    last_frames: Bytes,
    start: u32,
    end: u32,
    tail: Option<TailView>,
}

impl LiveScan {
    /// The next record.
    pub(crate) fn next(&mut self) -> Result<Option<StoredRecord>, StoreError> {
        loop {
            let parts = Arc::clone(&self.parts);
            let found = match parts.get(self.part) {
                None => return Ok(None),
                Some(Part::Chunk(chunk, dead)) => self.in_chunk(chunk, dead)?,
                Some(Part::Tail(tail, dead)) => self.in_tail(tail, dead),
            };
            match found {
                Some(record) if record.revision.main <= self.to_main => return Ok(Some(record)),
                Some(_) => self.part = parts.len(),
                None => {
                    self.part += 1;
                    (self.slot, self.start, self.end, self.tail) = (0, 0, 0, None);
                }
            }
        }
    }

    fn in_chunk(
        &mut self,
        chunk: &Chunk,
        dead: &DeadSnapshot,
    ) -> Result<Option<StoredRecord>, StoreError> {
        while is_dead(dead, self.slot) {
            self.slot += 1;
        }
        let slot = self.slot;
        let place = chunk.revision(slot).zip(chunk.frame(slot));
        let Some((revision, (from, to))) = place else {
            return Ok(None);
        };
        if to > self.end || from < self.start {
            let end = run_end(chunk, dead, slot, from);
            // A page that is not full yet has records of the last run, but none of the one before.
            let last = std::mem::take(&mut self.frames);
            let older = std::mem::replace(&mut self.last_frames, last);
            let buffer = older.try_into_mut().unwrap_or_default();
            self.frames = chunk.read_frames_into(buffer, from, end)?;
            (self.start, self.end) = (from, end);
        }
        self.slot += 1;
        Ok(Some(StoredRecord {
            revision,
            tombstone: chunk.tombstone(slot),
            record: chunk.record(slot, &self.frames, self.start)?,
        }))
    }

    fn in_tail(&mut self, tail: &Tail, dead: &DeadSnapshot) -> Option<StoredRecord> {
        while is_dead(dead, self.slot) {
            self.slot += 1;
        }
        let view = self.tail.get_or_insert_with(|| tail.view());
        let found = view.get(self.slot)?;
        self.slot += 1;
        Some(StoredRecord {
            revision: found.header.revision,
            tombstone: found.header.tombstone,
            record: found.record.clone(),
        })
    }
}

/// Where a read that begins with `slot` should end: whole frames, a run at most, no garbage behind
/// the last live one.
fn run_end(chunk: &Chunk, dead: &DeadSnapshot, slot: usize, start: u32) -> u32 {
    let mut end = start;
    for next in slot..chunk.len() {
        let Some((_, to)) = chunk.frame(next) else {
            break;
        };
        if next > slot && (to - start) as usize > SCAN_RUN_BYTES {
            break;
        }
        if !is_dead(dead, next) {
            end = to;
        }
    }
    end
}
