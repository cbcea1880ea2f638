//! Builds the index at start from what the store recovered.
//!
//! Headers come in revision order; they are sorted by key on all cores and laid out as full
//! leaves, which is several times faster than inserting them one by one.

use std::sync::Arc;

use super::{
    entry::{Entry, Head},
    fences::Fences,
    leaf::{Leaf, LeafBody},
    tree::KeyIndex,
};
use crate::store::RecordHeader;

/// Restored leaves have some room, so that the first puts do not split them all.
const LEAF_ENTRIES_RESTORED: usize = 112;
/// Below this many records sorting on several threads does not pay.
const PARALLEL_RECORDS_MIN: usize = 200_000;

/// Collects recovered revisions and makes an index of them.
#[derive(Default)]
pub struct Restore {
    entries: Vec<Entry>,
}

impl Restore {
    /// Takes one revision. They may come in any order.
    pub fn push(&mut self, key: &[u8], head: Head) {
        self.entries.push(Entry::new(key, head));
    }

    /// Takes the header and record length that the store recovered.
    pub fn push_header(&mut self, header: &RecordHeader, record_len: u32) {
        let head = if header.tombstone {
            Head::tombstone(header.revision, record_len)
        } else {
            Head::put(
                header.revision,
                header.create_revision,
                header.version,
                header.lease,
                record_len,
            )
        };
        self.push(&header.key, head);
    }

    /// The index of all revisions taken.
    #[must_use]
    pub fn finish(mut self) -> KeyIndex {
        let cost_bytes = self.entries.iter().map(Entry::cost_bytes).sum();
        sort(&mut self.entries);
        let mut leaves = Leaves::default();
        let mut last: Option<Entry> = None;
        for entry in self.entries {
            match &mut last {
                Some(same) if same.key == entry.key => same.push(entry.head),
                _ => {
                    if let Some(done) = last.replace(entry) {
                        leaves.push(done);
                    }
                }
            }
        }
        if let Some(done) = last {
            leaves.push(done);
        }
        leaves.finish(cost_bytes)
    }
}

/// By key, then revision.
fn sort(entries: &mut [Entry]) {
    let order = |a: &Entry, b: &Entry| {
        a.key
            .cmp(&b.key)
            .then_with(|| a.head.revision().cmp(&b.head.revision()))
    };
    if entries.len() >= PARALLEL_RECORDS_MIN {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let part = entries.len().div_ceil(threads);
        std::thread::scope(|scope| {
            for entries in entries.chunks_mut(part) {
                scope.spawn(move || entries.sort_unstable_by(order));
            }
        });
    }
    // A stable sort merges the runs that are sorted already.
    entries.sort_by(order);
}

#[derive(Default)]
struct Leaves {
    full: Vec<Vec<Entry>>,
    last: Vec<Entry>,
    live_keys: u64,
}

impl Leaves {
    fn push(&mut self, entry: Entry) {
        if self.last.len() == LEAF_ENTRIES_RESTORED {
            let next = Vec::with_capacity(LEAF_ENTRIES_RESTORED);
            self.full.push(std::mem::replace(&mut self.last, next));
        }
        self.live_keys += u64::from(!entry.head.is_tombstone());
        self.last.push(entry);
    }

    fn finish(mut self, cost_bytes: u64) -> KeyIndex {
        self.last.shrink_to_fit();
        self.full.push(self.last);
        let mut upper: Option<Arc<[u8]>> = None;
        let mut rest = Vec::with_capacity(self.full.len());
        let mut leaves = self.full.into_iter().rev().peekable();
        while let Some(entries) = leaves.next() {
            let lower: Arc<[u8]> = Arc::from(entries.first().map_or(&[][..], |first| &first.key));
            let leaf = Leaf::new(LeafBody::with_entries(entries, upper.take()));
            if leaves.peek().is_none() {
                rest.reverse();
                return KeyIndex::from_fences(
                    Fences::from_leaves(leaf, rest),
                    self.live_keys,
                    cost_bytes,
                );
            }
            rest.push((Arc::clone(&lower), leaf));
            upper = Some(lower);
        }
        KeyIndex::default()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::revision::Revision;

    #[test]
    fn restored_equals_built() {
        let mut built = KeyIndex::default();
        let mut restore = Restore::default();
        let mut main = 1;
        for round in 0..3_u32 {
            for i in 0..700_u32 {
                main += 1;
                let key = format!("{:05}", i * 7919 % 701);
                let revision = Revision { main, sub: round };
                let head = built.push(key.as_bytes(), |before| {
                    let head = match before {
                        Some(_) if i % 5 == round => Head::tombstone(revision, 4),
                        Some(before) if !before.is_tombstone() => {
                            Head::put(revision, before.create_revision, before.version + 1, 7, 20)
                        }
                        _ => Head::put(revision, main, 1, 0, 20),
                    };
                    (head, head)
                });
                restore.push(key.as_bytes(), head);
            }
        }
        let restored = restore.finish();
        let all = |index: &KeyIndex, at| {
            let mut all = Vec::new();
            index.reader().range(b"", None, at, |key, found| {
                all.push((key.to_vec(), found));
                ControlFlow::Continue(())
            });
            all
        };
        for at in (1..=main).step_by(97).chain([main]) {
            assert_eq!(all(&built, at), all(&restored, at));
            assert_eq!(
                restored.reader().count(b"", None, at),
                all(&built, at).len() as u64
            );
        }
        assert_eq!(built.live_keys(), restored.live_keys());
        assert_eq!(built.cost_bytes(), restored.cost_bytes());
        assert_eq!(Restore::default().finish().live_keys(), 0);
    }
}
