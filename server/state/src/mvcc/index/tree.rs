//! The index as a whole: the one writer and its readers.

use std::{
    ops::{Bound, ControlFlow},
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::RwLockWriteGuard;

use super::{
    entry::{Compacted, Entry, Found, Head, Removed, record_cost_bytes},
    fences::Fences,
    leaf::{LEAF_ENTRIES_MAX, LEAF_ENTRIES_MIN, LEAF_MERGED_MAX, Leaf, LeafBody},
};
use crate::revision::Revision;

/// How much one step of compaction may do.
#[derive(Clone, Copy, Debug)]
pub struct CompactBudget {
    /// Revisions removed at most; etcd's batch is 1000 (contract 2.6).
    pub revisions: usize,
    /// Leaves looked at, most of which have nothing to remove.
    pub leaves: usize,
}

/// Reads the index; cheap to clone, safe beside the writer.
#[derive(Clone)]
pub struct IndexReader {
    fences: Arc<ArcSwap<Fences>>,
}

impl IndexReader {
    /// The key as of the end of main revision `at`, if it lived then.
    #[must_use]
    pub fn get(&self, key: &[u8], at: i64) -> Option<Found> {
        self.in_leaf(key, |leaf| leaf.found(key, at))
    }

    /// The key's newest revision, tombstones included.
    #[must_use]
    pub fn head(&self, key: &[u8]) -> Option<Head> {
        self.in_leaf(key, |leaf| leaf.get(key).map(|entry| entry.head))
    }

    /// Calls `visit` with the keys in `[start, end)` that lived at the end of main revision `at`,
    /// in key order, until it breaks. It runs under a leaf's lock and must be short.
    pub fn range(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        at: i64,
        mut visit: impl FnMut(&[u8], Found) -> ControlFlow<()>,
    ) {
        self.entries(start, end, |entry| match entry.at(at) {
            Some(found) => visit(&entry.key, found),
            None => ControlFlow::Continue(()),
        });
    }

    /// Calls `visit` with each key in `[start, end)` whose newest revision is a put.
    pub fn heads(&self, start: &[u8], end: Option<&[u8]>, mut visit: impl FnMut(&[u8], &Head)) {
        self.entries(start, end, |entry| {
            if !entry.head.is_tombstone() {
                visit(&entry.key, &entry.head);
            }
            ControlFlow::Continue(())
        });
    }

    /// Calls `visit` with each key's newest revision ≤ `at`, and whether it is a tombstone.
    pub fn newest(&self, at: i64, mut visit: impl FnMut(Revision, bool)) {
        self.entries(&[], None, |entry| {
            if let Some((revision, tombstone)) = entry.newest_at(at) {
                visit(revision, tombstone);
            }
            ControlFlow::Continue(())
        });
    }

    /// Keys in `[start, end)` that lived at the end of main revision `at`. Leaves that lie wholly
    /// in the range and have nothing newer are counted unseen.
    #[must_use]
    pub fn count(&self, start: &[u8], end: Option<&[u8]>, at: i64) -> u64 {
        let mut count = 0;
        self.leaves(start, end, |leaf, from| {
            count += leaf.count(from, end, at);
            ControlFlow::Continue(())
        });
        count
    }

    fn entries(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        mut visit: impl FnMut(&Entry) -> ControlFlow<()>,
    ) {
        self.leaves(start, end, |leaf, from| {
            for entry in leaf.entries.get(from..).unwrap_or_default() {
                if end.is_some_and(|end| entry.key.as_ref() >= end) {
                    return ControlFlow::Break(());
                }
                visit(entry)?;
            }
            ControlFlow::Continue(())
        });
    }

    /// Calls `visit` with each leaf that may have keys in `[start, end)` and the position where
    /// they begin, one leaf locked at a time.
    fn leaves(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        mut visit: impl FnMut(&LeafBody, usize) -> ControlFlow<()>,
    ) {
        if end.is_some_and(|end| end <= start) {
            return;
        }
        let mut next: Option<Arc<[u8]>> = None;
        loop {
            let position = next.as_deref().unwrap_or(start);
            let visited = self.in_leaf(position, |leaf| {
                (visit(leaf, leaf.lower_bound(position)), leaf.upper.clone())
            });
            match visited {
                (ControlFlow::Continue(()), Some(upper))
                    if end.is_none_or(|end| upper.as_ref() < end) =>
                {
                    next = Some(upper);
                }
                _ => return,
            }
        }
    }

    /// Runs `read` on the leaf of `key`, locked.
    fn in_leaf<T>(&self, key: &[u8], read: impl FnOnce(&LeafBody) -> T) -> T {
        loop {
            let fences = self.fences.load();
            let leaf = fences.find(key).body.read();
            if leaf.covers(key) {
                return read(&leaf);
            }
        }
    }
}

/// The index and its one writer.
pub struct KeyIndex {
    reader: IndexReader,
    live_keys: u64,
    cost_bytes: u64,
}

impl Default for KeyIndex {
    fn default() -> Self {
        Self::from_fences(Fences::new(Leaf::new(LeafBody::default())), 0, 0)
    }
}

impl KeyIndex {
    pub(super) fn from_fences(fences: Fences, live_keys: u64, cost_bytes: u64) -> Self {
        Self {
            reader: IndexReader {
                fences: Arc::new(ArcSwap::from_pointee(fences)),
            },
            live_keys,
            cost_bytes,
        }
    }

    /// A handle for readers.
    #[must_use]
    pub fn reader(&self) -> &IndexReader {
        &self.reader
    }

    /// Keys that live now.
    #[must_use]
    pub fn live_keys(&self) -> u64 {
        self.live_keys
    }

    /// What all records in the index count towards the db size (store-notes 7).
    #[must_use]
    pub fn cost_bytes(&self) -> u64 {
        self.cost_bytes
    }

    /// Adds the revision that `make` returns to `key`; `make` is given the newest one so far.
    pub fn push<T>(&mut self, key: &[u8], make: impl FnOnce(Option<&Head>) -> (Head, T)) -> T {
        let mut fences = self.reader.fences.load_full();
        loop {
            let mut body = fences.find(key).body.write();
            let body_ref = &mut *body;
            match body_ref.search(key) {
                Err(_) if body_ref.entries.len() >= LEAF_ENTRIES_MAX => {
                    let changed = self.split(&fences, body, key);
                    fences = changed;
                }
                Ok(position) => {
                    let Some(entry) = body_ref.entries.get_mut(position) else {
                        continue;
                    };
                    let (head, made) = make(Some(&entry.head));
                    let had_excess = entry.has_excess();
                    let was_live = !entry.head.is_tombstone();
                    entry.push(head);
                    body_ref.excess += u32::from(!had_excess);
                    self.count(body_ref, was_live, &head);
                    return made;
                }
                Err(position) => {
                    let (head, made) = make(None);
                    body_ref.insert(position, Entry::new(key, head));
                    body_ref.excess += u32::from(head.is_tombstone());
                    self.count(body_ref, false, &head);
                    return made;
                }
            }
        }
    }

    fn count(&mut self, body: &mut LeafBody, was_live: bool, head: &Head) {
        match (was_live, !head.is_tombstone()) {
            (false, true) => {
                body.live += 1;
                self.live_keys += 1;
            }
            (true, false) => {
                body.live -= 1;
                self.live_keys -= 1;
            }
            _ => {}
        }
        body.max_main = body.max_main.max(head.main);
        self.cost_bytes += record_cost_bytes(head.is_tombstone(), head.record_len());
    }

    /// Moves the upper part of a full leaf to a new one and publishes it before unlocking.
    fn split(
        &self,
        fences: &Arc<Fences>,
        mut left: RwLockWriteGuard<'_, LeafBody>,
        key: &[u8],
    ) -> Arc<Fences> {
        // Keys that only grow fill leaves completely.
        let ascending =
            left.upper.is_none() && left.entries.last().is_some_and(|last| *last.key < *key);
        let entries = if ascending {
            Vec::new()
        } else {
            let middle = left.entries.len() / 2;
            left.entries.split_off(middle)
        };
        let lower: Arc<[u8]> = Arc::from(entries.first().map_or(key, |first| &first.key));
        if !ascending {
            left.fit();
        }
        let right = LeafBody::with_entries(entries, left.upper.take());
        left.upper = Some(Arc::clone(&lower));
        left.recount();
        let changed = Arc::new(fences.with(lower, Leaf::new(right)));
        self.reader.fences.store(Arc::clone(&changed));
        changed
    }

    /// Removes revisions that a compaction at `at` does not keep, from the leaf of `from` on, and
    /// names them in `removed`. Returns where to go on; `Bound::Unbounded` when all is done.
    pub fn compact(
        &mut self,
        from: &Bound<Vec<u8>>,
        at: i64,
        budget: CompactBudget,
        removed: &mut Vec<Revision>,
    ) -> Bound<Vec<u8>> {
        let mut position = match from {
            Bound::Included(key) | Bound::Excluded(key) => key.clone(),
            Bound::Unbounded => Vec::new(),
        };
        let mut taken = Removed {
            revisions: removed,
            cost_bytes: 0,
            budget: budget.revisions,
        };
        let mut next = Bound::Included(position.clone());
        for _ in 0..budget.leaves {
            let Some(done) = self.compact_leaf(&position, at, &mut taken) else {
                break;
            };
            match done {
                Some(upper) => {
                    position = upper.to_vec();
                    next = Bound::Included(position.clone());
                }
                None => {
                    next = Bound::Unbounded;
                    break;
                }
            }
            if taken.budget == 0 {
                break;
            }
        }
        self.cost_bytes -= taken.cost_bytes.min(self.cost_bytes);
        next
    }

    /// Compacts the leaf of `key`. `None`: the budget ran out before its end; else its upper bound.
    #[expect(
        clippy::option_option,
        reason = "unfinished, or finished with or without a next leaf"
    )]
    fn compact_leaf(
        &mut self,
        key: &[u8],
        at: i64,
        taken: &mut Removed<'_>,
    ) -> Option<Option<Arc<[u8]>>> {
        let fences = self.reader.fences.load_full();
        let leaf = fences.find(key);
        {
            let body = leaf.body.read();
            if body.excess == 0 && body.entries.len() >= LEAF_ENTRIES_MIN {
                return Some(body.upper.clone());
            }
        }
        let mut body = leaf.body.write();
        let mut finished = true;
        body.entries.retain_mut(|entry| {
            if !finished || !entry.has_excess() {
                return true;
            }
            match entry.compact(at, taken) {
                Compacted::Kept => true,
                Compacted::Gone => false,
                Compacted::Unfinished => {
                    finished = false;
                    true
                }
            }
        });
        body.recount();
        if body.entries.capacity() > 2 * body.entries.len().max(LEAF_ENTRIES_MIN) {
            body.fit();
        }
        if !finished {
            return None;
        }
        if body.entries.len() < LEAF_ENTRIES_MIN {
            self.merge(&fences, &mut body);
        }
        // What came in from the right by a merge is compacted by the next call for this leaf.
        let upper = body.upper.clone();
        drop(body);
        Some(upper)
    }

    /// Takes the right neighbour into this leaf if both fit and the neighbour has nothing left to
    /// compact, so that a sweep never skips anything.
    fn merge(&self, fences: &Arc<Fences>, left: &mut LeafBody) {
        let Some(lower) = left.upper.clone() else {
            return;
        };
        let mut right = fences.find(&lower).body.write();
        if right.excess > 0 || left.entries.len() + right.entries.len() > LEAF_MERGED_MAX {
            return;
        }
        left.entries.reserve_exact(right.entries.len());
        left.entries.append(&mut right.entries);
        left.upper = right.upper.take();
        left.recount();
        right.dead = true;
        self.reader.fences.store(Arc::new(fences.without(&lower)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(index: &mut KeyIndex, key: &[u8], main: i64, tombstone: bool) {
        let revision = Revision { main, sub: 0 };
        index.push(key, |before| {
            let head = match before {
                _ if tombstone => Head::tombstone(revision, 5),
                Some(before) if !before.is_tombstone() => {
                    Head::put(revision, before.create_revision, before.version + 1, 0, 9)
                }
                _ => Head::put(revision, main, 1, 0, 9),
            };
            (head, ())
        });
    }

    fn key(i: u32) -> Vec<u8> {
        format!("key/{:08}", i.wrapping_mul(2_654_435_761) % 50_000).into_bytes()
    }

    fn keys(reader: &IndexReader, at: i64) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        reader.range(b"\0", None, at, |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        });
        keys
    }

    fn compact_all(index: &mut KeyIndex, at: i64, revisions: usize) -> Vec<Revision> {
        let mut removed = Vec::new();
        let mut next = Bound::Included(Vec::new());
        while next != Bound::Unbounded {
            let budget = CompactBudget {
                revisions,
                leaves: 3,
            };
            next = index.compact(&next, at, budget, &mut removed);
        }
        removed
    }

    #[test]
    fn keys_are_in_order_across_splits_and_merges() {
        let mut index = KeyIndex::default();
        let mut all: Vec<Vec<u8>> = (0..5_000).map(key).collect();
        for (key, main) in all.iter().zip(2..) {
            push(&mut index, key, main, false);
        }
        all.sort();
        all.dedup();
        assert_eq!(keys(index.reader(), i64::MAX), all);
        assert_eq!(
            index.reader().count(b"\0", None, i64::MAX),
            all.len() as u64
        );
        assert!(index.reader.fences.load().leaves() > 40);

        for key in all.iter().filter(|key| !key.ends_with(b"7")) {
            push(&mut index, key, 10_000, true);
        }
        assert_eq!(index.reader().count(b"\0", None, 9_999), all.len() as u64);
        let removed = compact_all(&mut index, 10_001, 100);
        let left: Vec<_> = all.into_iter().filter(|key| key.ends_with(b"7")).collect();
        assert!(removed.len() > 8_000);
        assert_eq!(keys(index.reader(), i64::MAX), left);
        assert_eq!(index.live_keys(), left.len() as u64);
        compact_all(&mut index, 10_001, 100);
        assert!(index.reader.fences.load().leaves() < 40);
        assert_eq!(keys(index.reader(), i64::MAX), left);
        assert_eq!(index.cost_bytes(), left.len() as u64 * (16 + 17 + 9));
    }

    #[test]
    fn ascending_keys_fill_their_leaves() {
        let mut index = KeyIndex::default();
        for i in 0..12_800_u32 {
            push(&mut index, &i.to_be_bytes(), 2 + i64::from(i), false);
        }
        assert_eq!(index.reader.fences.load().leaves(), 100);
    }

    #[test]
    fn counts_at_old_revisions() {
        let mut index = KeyIndex::default();
        for i in 0..1_000_u32 {
            push(&mut index, &i.to_be_bytes(), 2 + i64::from(i), false);
        }
        let reader = index.reader();
        assert_eq!(reader.count(&[], None, 1), 0);
        assert_eq!(reader.count(&[], None, 501), 500);
        assert_eq!(
            reader.count(&100_u32.to_be_bytes(), Some(&200_u32.to_be_bytes()), 2_000),
            100
        );
        assert_eq!(
            reader.count(&100_u32.to_be_bytes(), Some(&200_u32.to_be_bytes()), 151),
            50
        );
        assert_eq!(reader.count(b"b", Some(b"a"), 2_000), 0);
    }

    #[test]
    fn readers_see_every_key_while_leaves_split_and_merge() {
        let mut index = KeyIndex::default();
        let steady: Vec<Vec<u8>> = (0..300_u32)
            .map(|i| format!("s{:05}", i * 100).into_bytes())
            .collect();
        for key in &steady {
            push(&mut index, key, 2, false);
        }
        let reader = index.reader().clone();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let scans = scope.spawn(|| {
                let mut scans = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(keys(&reader, 2), steady);
                    assert_eq!(reader.count(b"\0", None, 2), steady.len() as u64);
                    scans += 1;
                }
                scans
            });
            for round in 0..4_i64 {
                let main = 3 + 3 * round;
                for i in 0..6_000_u32 {
                    push(
                        &mut index,
                        format!("s{:05}x", i * 5).as_bytes(),
                        main,
                        false,
                    );
                }
                for i in 0..6_000_u32 {
                    push(
                        &mut index,
                        format!("s{:05}x", i * 5).as_bytes(),
                        main + 1,
                        true,
                    );
                }
                compact_all(&mut index, main + 2, 1_000);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(scans.join().unwrap() > 0);
        });
    }
}
