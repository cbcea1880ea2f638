//! The segment table: from a revision to its bytes (store-notes 4).
//!
//! ```text
//! chunks (disk)  <  frozen tails (being written)  <  tail (being appended to)
//! ```
//!
//! Ordered by revision throughout, read without a lock, replaced as a whole. Replacing it and
//! setting garbage bits exclude each other (`Shared::swap`), so that no bit is set on a chunk that
//! has just been replaced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use super::cache::RecordCache;
use super::checkpoint::Checkpoint;
use super::chunk::Chunk;
use super::dead::{DeadSnapshot, set_slots};
use super::state_file::StateDelta;
use super::tail::Tail;
use crate::revision::Revision;

/// What one freeze took from the apply thread: records and changed state, not yet durable.
pub(crate) struct FrozenPart {
    pub(crate) sequence: u64,
    pub(crate) tail: Arc<Tail>,
    pub(crate) state: StateDelta,
}

/// Where all records are at one moment.
pub(crate) struct Table {
    pub(crate) chunks: Vec<Arc<Chunk>>,
    pub(crate) frozen: Vec<Arc<FrozenPart>>,
    pub(crate) tail: Arc<Tail>,
}

impl Table {
    pub(crate) fn new(chunks: Vec<Arc<Chunk>>) -> Table {
        Table {
            chunks,
            frozen: Vec::new(),
            tail: Arc::new(Tail::new()),
        }
    }

    /// The tails, newest first.
    pub(crate) fn tails_newest_first(&self) -> impl Iterator<Item = &Arc<Tail>> {
        let frozen = self.frozen.iter().rev().map(|part| &part.tail);
        std::iter::once(&self.tail).chain(frozen)
    }

    /// The tails, oldest first.
    pub(crate) fn tails(&self) -> impl Iterator<Item = &Arc<Tail>> {
        self.frozen
            .iter()
            .map(|part| &part.tail)
            .chain(std::iter::once(&self.tail))
    }

    /// The chunk and slot of a revision.
    pub(crate) fn find_chunk(&self, revision: Revision) -> Option<(&Arc<Chunk>, usize)> {
        let (chunk, slot) = seek_chunk(&self.chunks, revision)?;
        (chunk.revision(slot) == Some(revision)).then_some((chunk, slot))
    }

    /// Marks a record as garbage; one that is not there is garbage that has gone already.
    pub(crate) fn mark_dead(&self, revision: Revision) {
        if self
            .tails_newest_first()
            .any(|tail| tail.mark_dead(revision))
        {
            return;
        }
        if let Some((chunk, slot)) = self.find_chunk(revision) {
            chunk.mark_dead(slot);
        }
    }
}

/// The chunk that holds `revision` if any does, and the slot there at or after it.
fn seek_chunk(chunks: &[Arc<Chunk>], revision: Revision) -> Option<(&Arc<Chunk>, usize)> {
    let ordinal = chunks.partition_point(|chunk| chunk.last() < revision);
    let chunk = chunks.get(ordinal)?;
    Some((chunk, chunk.find(revision).unwrap_or_else(|slot| slot)))
}

/// The garbage bits of everything in the table when a checkpoint was frozen.
pub(crate) struct FrozenDead {
    pub(crate) chunks: Vec<(Arc<Chunk>, DeadSnapshot)>,
    pub(crate) tails: Vec<(Arc<Tail>, DeadSnapshot)>,
}

impl FrozenDead {
    pub(crate) fn of(table: &Table) -> FrozenDead {
        let chunks = table
            .chunks
            .iter()
            .map(|chunk| (chunk.clone(), chunk.dead.snapshot()));
        let tails = table
            .tails()
            .map(|tail| (tail.clone(), tail.dead_snapshot()));
        FrozenDead {
            chunks: chunks.collect(),
            tails: tails.collect(),
        }
    }

    /// The bits of a tail.
    pub(crate) fn of_tail(&self, tail: &Arc<Tail>) -> DeadSnapshot {
        let found = self.tails.iter().find(|(held, _)| Arc::ptr_eq(held, tail));
        found.and_then(|(_, bits)| bits.clone())
    }

    /// The bits for `chunks`, in their order. Records of chunks and tails that have been rewritten
    /// since the freeze are looked up by revision; those that are gone need no bit.
    pub(crate) fn for_chunks(&self, chunks: &[Arc<Chunk>]) -> Vec<DeadSnapshot> {
        let mut moved: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        let places: BTreeMap<*const Chunk, usize> = chunks
            .iter()
            .enumerate()
            .map(|(place, chunk)| (Arc::as_ptr(chunk), place))
            .collect();
        let mut bits: Vec<DeadSnapshot> = vec![None; chunks.len()];
        let mut add = |revision: Revision| {
            let place = chunks.partition_point(|chunk| chunk.last() < revision);
            let Some(chunk) = chunks.get(place) else {
                return;
            };
            let Ok(slot) = chunk.find(revision) else {
                return;
            };
            let words = moved
                .entry(place)
                .or_insert_with(|| vec![0; chunk.len().div_ceil(64)]);
            if let Some(word) = words.get_mut(slot / 64) {
                *word |= 1 << (slot % 64);
            }
        };
        for (chunk, snapshot) in &self.chunks {
            let Some(words) = snapshot else { continue };
            match places
                .get(&Arc::as_ptr(chunk))
                .and_then(|&place| bits.get_mut(place))
            {
                Some(known) => *known = snapshot.clone(),
                None => set_slots(words)
                    .filter_map(|slot| chunk.revision(slot))
                    .for_each(&mut add),
            }
        }
        for (tail, snapshot) in &self.tails {
            let Some(words) = snapshot else { continue };
            let view = tail.view();
            set_slots(words)
                .filter_map(|slot| view.get(slot))
                .for_each(|found| add(found.header.revision));
        }
        for (place, words) in moved {
            if let Some(known) = bits.get_mut(place) {
                *known = Some(merge(known, words));
            }
        }
        bits
    }
}

fn merge(known: &DeadSnapshot, words: Vec<u64>) -> Arc<[u64]> {
    let known = known.as_deref().unwrap_or_default();
    let known = known.iter().copied().chain(std::iter::repeat(0));
    words
        .into_iter()
        .zip(known)
        .map(|(word, known)| word | known)
        .collect()
}

/// What the apply thread, the readers and the keeper share.
pub(crate) struct Shared {
    pub(crate) table: ArcSwap<Table>,
    /// Held while the table is replaced and while garbage bits are set.
    pub(crate) swap: Mutex<()>,
    pub(crate) cache: RecordCache,
    pub(crate) current: ArcSwapOption<Checkpoint>,
    /// Counts the installs that the apply thread has switched to: until it has, the keeper leaves
    /// the table alone.
    pub(crate) epoch: AtomicU64,
}

impl Shared {
    /// Memory of records that no checkpoint holds yet.
    pub(crate) fn tail_bytes(&self) -> usize {
        let table = self.table.load();
        table.tails().map(|tail| tail.bytes()).sum()
    }
}
