//! A leaf: up to [`LEAF_ENTRIES_MAX`] neighbouring keys under one lock.

use std::sync::Arc;

use parking_lot::RwLock;

use super::entry::{Entry, Found};

/// Keys a leaf holds at most: a put moves half of them (4 KiB) at worst, a scan locks once for all.
pub(super) const LEAF_ENTRIES_MAX: usize = 128;
/// Below this a leaf takes in its right neighbour, if both then fit [`LEAF_MERGED_MAX`].
pub(super) const LEAF_ENTRIES_MIN: usize = 24;
/// A merged leaf has room left, so that it does not split at once.
pub(super) const LEAF_MERGED_MAX: usize = 96;
/// A leaf's memory grows by so many entries: at most 1 KiB is unused.
const LEAF_GROWTH: usize = 16;

pub(super) struct Leaf {
    pub(super) body: RwLock<LeafBody>,
}

impl Leaf {
    pub(super) fn new(body: LeafBody) -> Arc<Self> {
        Arc::new(Self {
            body: RwLock::new(body),
        })
    }
}

/// What the lock protects.
///
/// - `entries` are sorted by key and below `upper`.
/// - `live` counts the entries whose newest revision is not a tombstone.
/// - `excess` counts the entries with something that compaction may remove.
/// - `max_main` is no less than any entry's newest main revision.
#[derive(Default)]
pub(super) struct LeafBody {
    pub(super) entries: Vec<Entry>,
    /// Where the next leaf begins; `None` in the last.
    pub(super) upper: Option<Arc<[u8]>>,
    /// Merged into its left neighbour.
    pub(super) dead: bool,
    pub(super) live: u32,
    pub(super) excess: u32,
    pub(super) max_main: i64,
}

impl LeafBody {
    pub(super) fn with_entries(entries: Vec<Entry>, upper: Option<Arc<[u8]>>) -> Self {
        let mut body = Self {
            entries,
            upper,
            ..Self::default()
        };
        body.recount();
        body
    }

    /// Whether this is the leaf to look for `key` in.
    pub(super) fn covers(&self, key: &[u8]) -> bool {
        !self.dead && self.upper.as_ref().is_none_or(|upper| *key < **upper)
    }

    /// Position of the first key ≥ `key`.
    pub(super) fn lower_bound(&self, key: &[u8]) -> usize {
        self.entries
            .partition_point(|entry| entry.key.as_ref() < key)
    }

    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| entry.key.as_ref().cmp(key))
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.search(key)
            .ok()
            .and_then(|position| self.entries.get(position))
    }

    pub(super) fn insert(&mut self, position: usize, entry: Entry) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(LEAF_GROWTH);
        }
        self.entries.insert(position, entry);
    }

    /// Takes an allocation that just holds the entries. One that is shrunk in place would stay as
    /// large as it was: allocators give nothing back of a block that is more than half used.
    pub(super) fn fit(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        let mut fitted = Vec::with_capacity(entries.len());
        fitted.extend(entries);
        self.entries = fitted;
    }

    /// Live keys from position `from` on and below `end`, at the end of main revision `at`.
    pub(super) fn count(&self, from: usize, end: Option<&[u8]>, at: i64) -> u64 {
        let to = match (end, self.entries.last()) {
            (Some(end), Some(last)) if last.key.as_ref() >= end => self.lower_bound(end),
            _ => self.entries.len(),
        };
        if from == 0 && to == self.entries.len() && self.max_main <= at {
            return u64::from(self.live);
        }
        let entries = self.entries.get(from..to).unwrap_or_default();
        let live = |entry: &&Entry| entry.at(at).is_some();
        entries.iter().filter(live).count() as u64
    }

    pub(super) fn recount(&mut self) {
        let count = |of: fn(&Entry) -> bool| {
            u32::try_from(self.entries.iter().filter(|entry| of(entry)).count()).unwrap_or(u32::MAX)
        };
        self.live = count(|entry| !entry.head.is_tombstone());
        self.excess = count(Entry::has_excess);
        let newest = self.entries.iter().map(|entry| entry.head.main).max();
        self.max_main = newest.unwrap_or(0);
    }

    /// Looks a key up.
    pub(super) fn found(&self, key: &[u8], at: i64) -> Option<Found> {
        self.get(key).and_then(|entry| entry.at(at))
    }
}
