//! Which records of a run are garbage: one bit a record, set by compaction, never cleared.
//!
//! Bits are set by the apply thread and read by everyone. A *snapshot* is what a checkpoint
//! freezes: only those bits may be acted upon on disk, because only they are covered by the
//! compact revision in the same manifest (store-notes 5, G1).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// A frozen copy of a run's bits; `None` if no bit was set.
pub(crate) type DeadSnapshot = Option<Arc<[u64]>>;

/// The bit of record `slot` in a snapshot.
pub(crate) fn is_dead(snapshot: &DeadSnapshot, slot: usize) -> bool {
    snapshot
        .as_ref()
        .and_then(|words| words.get(slot / 64))
        .is_some_and(|word| word & (1 << (slot % 64)) != 0)
}

/// The slots whose bits are set in `words`, ascending.
pub(crate) fn set_slots(words: &[u64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(index, &word)| {
        std::iter::successors((word != 0).then_some(word), |rest| {
            let next = rest & (rest - 1);
            (next != 0).then_some(next)
        })
        .map(move |rest| index * 64 + rest.trailing_zeros() as usize)
    })
}

/// The live bits of a run of fixed length.
#[derive(Debug)]
pub(crate) struct DeadBits {
    words: Box<[AtomicU64]>,
    records: AtomicU64,
    // The last snapshot and the count of records it saw: bits are only ever added, so an equal
    // count means equal bits, and a freeze copies only what compaction has touched.
    last: Mutex<(u64, DeadSnapshot)>,
}

impl DeadBits {
    pub(crate) fn new(records: usize) -> DeadBits {
        DeadBits {
            words: (0..records.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            records: AtomicU64::new(0),
            last: Mutex::new((0, None)),
        }
    }

    /// Sets a bit. False if it was set before.
    pub(crate) fn set(&self, slot: usize) -> bool {
        let Some(word) = self.words.get(slot / 64) else {
            return false;
        };
        let mask = 1 << (slot % 64);
        if word.fetch_or(mask, Ordering::AcqRel) & mask != 0 {
            return false;
        }
        self.records.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// A copy of the bits, for the thread that sets them (apply) or under the table's lock.
    pub(crate) fn snapshot(&self) -> DeadSnapshot {
        let records = self.records.load(Ordering::Acquire);
        let mut last = self.last.lock();
        if last.0 != records {
            let words = self
                .words
                .iter()
                .map(|word| word.load(Ordering::Acquire))
                .collect();
            *last = (records, Some(words));
        }
        last.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_keeps_what_it_saw() {
        let bits = DeadBits::new(130);
        assert!(bits.snapshot().is_none());
        assert!(bits.set(0));
        assert!(bits.set(129));
        assert!(!bits.set(129));
        let before = bits.snapshot();
        assert!(bits.set(64));
        assert!(!bits.set(500));
        assert!(is_dead(&before, 0) && is_dead(&before, 129) && !is_dead(&before, 64));
        let after = bits.snapshot();
        assert!(is_dead(&after, 64));
        assert_eq!(
            set_slots(after.as_ref().unwrap()).collect::<Vec<_>>(),
            [0, 64, 129]
        );
    }
}
