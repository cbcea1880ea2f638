//! The tail: records newer than the last checkpoint, in memory (store-notes 4).
//!
//! One thread appends; any number of threads read without a lock. Records live in fixed blocks of
//! write-once slots; `len` is published after the slot is filled, so a reader that sees a length
//! sees all records below it. A frozen tail is one that is no longer appended to.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::dead::DeadSnapshot;
use super::record::RecordHeader;
use crate::revision::Revision;

/// Records in a block: large enough that adding a block is rare, small enough that a nearly empty
/// tail costs about 100 KiB.
const BLOCK_RECORDS: usize = 1024;

/// Memory of a record beside its key and value: slot, reference counts, allocator slack.
const RECORD_OVERHEAD_BYTES: usize = 160;

/// A record and its header.
#[derive(Debug)]
pub(crate) struct TailRecord {
    pub(crate) header: RecordHeader,
    pub(crate) record: Bytes,
}

struct Block {
    slots: Box<[OnceLock<TailRecord>]>,
    dead: Box<[AtomicU64]>,
}

impl Block {
    fn new() -> Block {
        Block {
            slots: (0..BLOCK_RECORDS).map(|_| OnceLock::new()).collect(),
            dead: (0..BLOCK_RECORDS / 64).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

/// Records in revision order, appended by one thread.
pub(crate) struct Tail {
    blocks: ArcSwap<Vec<Arc<Block>>>,
    len: AtomicUsize,
    bytes: AtomicUsize,
}

impl Tail {
    pub(crate) fn new() -> Tail {
        Tail {
            blocks: ArcSwap::from_pointee(Vec::new()),
            len: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Memory taken, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// Appends a record; only the apply thread calls this, in revision order.
    pub(crate) fn push(&self, header: RecordHeader, record: Bytes) {
        let len = self.len.load(Ordering::Relaxed);
        if len.is_multiple_of(BLOCK_RECORDS) {
            let mut blocks = Vec::clone(&self.blocks.load());
            blocks.push(Arc::new(Block::new()));
            self.blocks.store(Arc::new(blocks));
        }
        let size = header.key.len() + record.len() + RECORD_OVERHEAD_BYTES;
        let blocks = self.blocks.load();
        let slot = blocks
            .get(len / BLOCK_RECORDS)
            .and_then(|block| block.slots.get(len % BLOCK_RECORDS));
        let filled = slot.is_some_and(|slot| slot.set(TailRecord { header, record }).is_ok());
        assert!(filled, "a tail has one writer");
        self.bytes.fetch_add(size, Ordering::AcqRel);
        self.len.store(len + 1, Ordering::Release);
    }

    /// A view of the records that are there now.
    pub(crate) fn view(&self) -> TailView {
        let len = self.len();
        TailView {
            blocks: self.blocks.load_full(),
            len,
        }
    }

    /// The record of a revision, with what the caller wants of it.
    pub(crate) fn with<T>(
        &self,
        revision: Revision,
        take: impl FnOnce(&TailRecord) -> T,
    ) -> Option<T> {
        let len = self.len();
        let blocks = self.blocks.load();
        let slot = find(&blocks, len, revision).ok()?;
        slot_of(&blocks, slot).map(take)
    }

    /// Marks a record as garbage; false if there is no such record.
    pub(crate) fn mark_dead(&self, revision: Revision) -> bool {
        let blocks = self.blocks.load();
        let Ok(slot) = find(&blocks, self.len(), revision) else {
            return false;
        };
        let word = blocks
            .get(slot / BLOCK_RECORDS)
            .and_then(|block| block.dead.get(slot % BLOCK_RECORDS / 64));
        word.is_some_and(|word| {
            word.fetch_or(1 << (slot % 64), Ordering::AcqRel);
            true
        })
    }

    /// A copy of the garbage bits.
    pub(crate) fn dead_snapshot(&self) -> DeadSnapshot {
        let blocks = self.blocks.load();
        let words: Arc<[u64]> = blocks
            .iter()
            .flat_map(|block| block.dead.iter())
            .map(|word| word.load(Ordering::Acquire))
            .collect();
        words.iter().any(|&word| word != 0).then_some(words)
    }
}

fn slot_of(blocks: &[Arc<Block>], slot: usize) -> Option<&TailRecord> {
    blocks
        .get(slot / BLOCK_RECORDS)?
        .slots
        .get(slot % BLOCK_RECORDS)?
        .get()
}

/// The slot of a revision, or the first slot after it.
fn find(blocks: &[Arc<Block>], len: usize, revision: Revision) -> Result<usize, usize> {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(record) = slot_of(blocks, middle) else {
            return Err(high);
        };
        match record.header.revision.cmp(&revision) {
            std::cmp::Ordering::Equal => return Ok(middle),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    Err(low)
}

/// The records of a tail at one moment.
pub(crate) struct TailView {
    blocks: Arc<Vec<Arc<Block>>>,
    len: usize,
}

impl TailView {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, slot: usize) -> Option<&TailRecord> {
        if slot < self.len {
            slot_of(&self.blocks, slot)
        } else {
            None
        }
    }

    /// The first slot at or after a revision.
    pub(crate) fn seek(&self, revision: Revision) -> usize {
        find(&self.blocks, self.len, revision).unwrap_or_else(|slot| slot)
    }
}

#[cfg(test)]
mod tests {
    use super::super::dead::is_dead;
    use super::*;

    fn header(main: i64) -> RecordHeader {
        RecordHeader {
            revision: Revision::new(main, 0),
            tombstone: false,
            create_revision: main,
            version: 1,
            lease: 0,
            key: Bytes::from_static(b"k"),
        }
    }

    #[test]
    fn finds_what_was_pushed_across_blocks() {
        let tail = Tail::new();
        for main in 1..=3000 {
            tail.push(header(main * 2), Bytes::from(main.to_string()));
        }
        let at = |main| tail.with(Revision::new(main, 0), |found| found.record.clone());
        assert_eq!(at(4096), Some(Bytes::from("2048")));
        assert_eq!(at(4097), None);
        assert_eq!(at(6002), None);
        assert_eq!(tail.view().seek(Revision::new(5, 0)), 2);
        assert!(tail.mark_dead(Revision::new(4096, 0)));
        assert!(!tail.mark_dead(Revision::new(4095, 0)));
        assert!(is_dead(&tail.dead_snapshot(), 2047));
        assert!(!is_dead(&tail.dead_snapshot(), 2046));
    }
}
