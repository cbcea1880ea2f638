//! One key: its newest revision in place, older ones behind a pointer.
//!
//! A key with one revision costs 64 bytes and the key; each older revision 16, each generation
//! (life of the key between deletes) 24. Create revision and version of an old revision follow
//! from its generation: versions count up by one within it.

use std::collections::VecDeque;

use crate::revision::Revision;

/// The top bit of a length says that the revision is a tombstone.
const TOMBSTONE_BIT: u32 = 1 << 31;

/// What the index knows of a key's newest revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Main revision.
    pub main: i64,
    /// Revision at which this life of the key began; 0 for a tombstone.
    pub create_revision: i64,
    /// Puts in this life of the key; 0 for a tombstone.
    pub version: i64,
    /// Attached lease, 0 for none.
    pub lease: i64,
    /// Position within the main revision.
    pub sub: u32,
    len_and_tombstone: u32,
}

impl Head {
    /// A put of `len` record bytes.
    #[must_use]
    pub fn put(
        revision: Revision,
        create_revision: i64,
        version: i64,
        lease: i64,
        len: u32,
    ) -> Self {
        Self {
            main: revision.main,
            create_revision,
            version,
            lease,
            sub: revision.sub,
            len_and_tombstone: len & !TOMBSTONE_BIT,
        }
    }

    /// A tombstone of `len` record bytes.
    #[must_use]
    pub fn tombstone(revision: Revision, len: u32) -> Self {
        Self {
            main: revision.main,
            create_revision: 0,
            version: 0,
            lease: 0,
            sub: revision.sub,
            len_and_tombstone: len | TOMBSTONE_BIT,
        }
    }

    /// Main and sub.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision {
            main: self.main,
            sub: self.sub,
        }
    }

    /// Bytes of the record.
    #[must_use]
    pub fn record_len(&self) -> u32 {
        self.len_and_tombstone & !TOMBSTONE_BIT
    }

    /// Whether the key is deleted.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.len_and_tombstone & TOMBSTONE_BIT != 0
    }

    fn slot(&self) -> Slot {
        Slot {
            main: self.main,
            sub: self.sub,
            len_and_tombstone: self.len_and_tombstone,
        }
    }

    fn found(&self) -> Option<Found> {
        (!self.is_tombstone()).then(|| Found {
            revision: self.revision(),
            create_revision: self.create_revision,
            version: self.version,
            record_len: self.record_len(),
            lease: Some(self.lease),
        })
    }
}

/// A live key at some revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where its record is; `main` is the mod revision.
    pub revision: Revision,
    /// Revision at which this life of the key began.
    pub create_revision: i64,
    /// Puts in this life of the key so far.
    pub version: i64,
    /// Bytes of the record.
    pub record_len: u32,
    /// Attached lease; not known without the record once a newer revision exists.
    pub lease: Option<i64>,
}

/// An older revision of a key.
#[derive(Clone, Copy, Debug)]
struct Slot {
    main: i64,
    sub: u32,
    len_and_tombstone: u32,
}

impl Slot {
    fn is_tombstone(&self) -> bool {
        self.len_and_tombstone & TOMBSTONE_BIT != 0
    }

    fn revision(&self) -> Revision {
        Revision {
            main: self.main,
            sub: self.sub,
        }
    }

    /// What the record counts towards the db size (store-notes 7).
    fn cost_bytes(&self) -> u64 {
        let len = self.len_and_tombstone & !TOMBSTONE_BIT;
        record_cost_bytes(self.is_tombstone(), len)
    }
}

/// What a record counts towards the db size: bucket key, value and their element (store-notes 7).
#[must_use]
pub(super) fn record_cost_bytes(tombstone: bool, len: u32) -> u64 {
    16 + if tombstone { 18 } else { 17 } + u64::from(len)
}

/// A run of slots of one life of the key.
#[derive(Clone, Copy, Debug)]
struct Generation {
    /// Counted from the key's first revision ever kept, so it survives removal at the front.
    first_slot: u64,
    create_revision: i64,
    first_version: i64,
}

#[derive(Debug, Default)]
struct History {
    slots: VecDeque<Slot>,
    generations: VecDeque<Generation>,
    /// Slots removed from the front so far.
    removed: u64,
}

impl History {
    fn push(&mut self, head: &Head) {
        let number = self.removed + self.slots.len() as u64;
        if !head.is_tombstone() {
            let follows = self.slots.back().is_some_and(|last| !last.is_tombstone())
                && self.generations.back().is_some_and(|last| {
                    last.create_revision == head.create_revision
                        && version_of(last, number) == head.version
                });
            if !follows {
                if self.generations.len() == self.generations.capacity() {
                    self.generations
                        .reserve_exact(self.generations.len().max(1));
                }
                self.generations.push_back(Generation {
                    first_slot: number,
                    create_revision: head.create_revision,
                    first_version: head.version,
                });
            }
        }
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(self.slots.len().max(1));
        }
        self.slots.push_back(head.slot());
    }

    /// Slots with a main revision ≤ `at`.
    fn count_up_to(&self, at: i64) -> usize {
        self.slots.partition_point(|slot| slot.main <= at)
    }

    fn found(&self, position: usize) -> Option<Found> {
        let slot = self.slots.get(position)?;
        if slot.is_tombstone() {
            return None;
        }
        let number = self.removed + position as u64;
        let after = self
            .generations
            .partition_point(|generation| generation.first_slot <= number);
        let generation = self.generations.get(after.checked_sub(1)?)?;
        Some(Found {
            revision: slot.revision(),
            create_revision: generation.create_revision,
            version: version_of(generation, number),
            record_len: slot.len_and_tombstone,
            lease: None,
        })
    }

    fn remove_first(&mut self, removed: &mut Removed<'_>) {
        let Some(slot) = self.slots.pop_front() else {
            return;
        };
        removed.take(&slot);
        self.removed += 1;
        // A generation is over when the next one begins at or before the first slot left.
        while self
            .generations
            .get(1)
            .is_some_and(|next| next.first_slot <= self.removed)
        {
            self.generations.pop_front();
        }
    }
}

fn version_of(generation: &Generation, number: u64) -> i64 {
    let distance = number.saturating_sub(generation.first_slot);
    generation
        .first_version
        .saturating_add(i64::try_from(distance).unwrap_or(i64::MAX))
}

/// Collects what compaction takes out of entries.
pub(super) struct Removed<'a> {
    /// The revisions, for the store to call dead.
    pub revisions: &'a mut Vec<Revision>,
    /// Their share of the db size.
    pub cost_bytes: u64,
    /// How many more may be taken.
    pub budget: usize,
}

impl Removed<'_> {
    fn take(&mut self, slot: &Slot) {
        self.revisions.push(slot.revision());
        self.cost_bytes += slot.cost_bytes();
        self.budget = self.budget.saturating_sub(1);
    }
}

/// What compaction made of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compacted {
    /// The entry stays.
    Kept,
    /// Nothing is left of the key.
    Gone,
    /// The budget ran out before the entry was done.
    Unfinished,
}

/// A key and its revisions.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: Box<[u8]>,
    pub head: Head,
    history: Option<Box<History>>,
}

impl Entry {
    pub(super) fn new(key: &[u8], head: Head) -> Self {
        Self {
            key: key.into(),
            head,
            history: None,
        }
    }

    /// Adds a newer revision.
    pub(super) fn push(&mut self, head: Head) {
        self.history
            .get_or_insert_with(Box::default)
            .push(&self.head);
        self.head = head;
    }

    /// Whether compaction may one day find something to remove.
    pub(super) fn has_excess(&self) -> bool {
        self.history.is_some() || self.head.is_tombstone()
    }

    /// The key as of the end of main revision `at`, if it lived then.
    pub(super) fn at(&self, at: i64) -> Option<Found> {
        if self.head.main <= at {
            return self.head.found();
        }
        let history = self.history.as_ref()?;
        history.found(history.count_up_to(at).checked_sub(1)?)
    }

    /// The newest revision ≤ `at`, tombstones included.
    pub(super) fn newest_at(&self, at: i64) -> Option<(Revision, bool)> {
        if self.head.main <= at {
            return Some((self.head.revision(), self.head.is_tombstone()));
        }
        let history = self.history.as_ref()?;
        let slot = history.slots.get(history.count_up_to(at).checked_sub(1)?)?;
        Some((slot.revision(), slot.is_tombstone()))
    }

    /// What all revisions of the key count towards the db size.
    pub(super) fn cost_bytes(&self) -> u64 {
        let older = self.history.iter().flat_map(|history| &history.slots);
        self.head.slot().cost_bytes() + older.map(Slot::cost_bytes).sum::<u64>()
    }

    /// Removes what a compaction at `at` does not keep, oldest first, within the budget.
    ///
    /// Kept are the newest revision ≤ `at` unless it is a tombstone below `at`, and all above it.
    /// A tombstone at `at` that a put in the same revision replaced is kept too: that pair comes
    /// from one transaction, and a watch from `at` gets both (contract 2.5).
    pub(super) fn compact(&mut self, at: i64, removed: &mut Removed<'_>) -> Compacted {
        let older = self
            .history
            .as_ref()
            .map_or(0, |history| history.slots.len());
        let head_counts = self.head.main <= at;
        let up_to = match &self.history {
            _ if head_counts => older + 1,
            Some(history) => history.count_up_to(at),
            None => 0,
        };
        let Some(newest) = up_to.checked_sub(1) else {
            return Compacted::Kept;
        };
        let newest_slot = self.slot(newest);
        let keep_from = match newest_slot {
            Some(slot) if slot.is_tombstone() && slot.main < at => newest + 1,
            Some(slot) if !slot.is_tombstone() && slot.main == at => {
                let pair = newest.checked_sub(1).and_then(|before| self.slot(before));
                match pair {
                    Some(before) if before.is_tombstone() && before.main == at => newest - 1,
                    _ => newest,
                }
            }
            _ => newest,
        };

        let from_history = keep_from.min(older).min(removed.budget);
        if let Some(history) = &mut self.history {
            for _ in 0..from_history {
                history.remove_first(removed);
            }
            if history.slots.is_empty() {
                self.history = None;
            } else if history.slots.capacity() > 4 * history.slots.len() {
                history.slots.shrink_to_fit();
            }
        }
        if from_history < keep_from.min(older) {
            return Compacted::Unfinished;
        }
        if keep_from <= older {
            return Compacted::Kept;
        }
        if removed.budget == 0 {
            return Compacted::Unfinished;
        }
        removed.take(&self.head.slot());
        Compacted::Gone
    }

    /// The revision at a position from the oldest; the last is the head.
    fn slot(&self, position: usize) -> Option<Slot> {
        match &self.history {
            Some(history) if position < history.slots.len() => history.slots.get(position).copied(),
            _ => Some(self.head.slot()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(main: i64, sub: u32, create: i64, version: i64) -> Head {
        Head::put(Revision { main, sub }, create, version, 0, 10)
    }

    fn tombstone(main: i64, sub: u32) -> Head {
        Head::tombstone(Revision { main, sub }, 3)
    }

    fn compact(entry: &mut Entry, at: i64, budget: usize) -> (Compacted, Vec<i64>) {
        let mut revisions = Vec::new();
        let mut removed = Removed {
            revisions: &mut revisions,
            cost_bytes: 0,
            budget,
        };
        let outcome = entry.compact(at, &mut removed);
        (
            outcome,
            revisions.iter().map(|revision| revision.main).collect(),
        )
    }

    fn two_lives() -> Entry {
        let mut entry = Entry::new(b"k", put(2, 0, 2, 1));
        for head in [
            put(3, 0, 2, 2),
            tombstone(4, 0),
            put(6, 0, 6, 1),
            put(7, 0, 6, 2),
        ] {
            entry.push(head);
        }
        entry
    }

    #[test]
    fn an_entry_is_64_bytes() {
        assert_eq!(size_of::<Entry>(), 64);
    }

    #[test]
    fn versions_and_creations_by_generation() {
        let entry = two_lives();
        let at = |main| {
            entry
                .at(main)
                .map(|found| (found.revision.main, found.create_revision, found.version))
        };
        assert_eq!(at(1), None);
        assert_eq!(at(2), Some((2, 2, 1)));
        assert_eq!(at(3), Some((3, 2, 2)));
        assert_eq!((at(4), at(5)), (None, None));
        assert_eq!(at(6), Some((6, 6, 1)));
        assert_eq!(at(9), Some((7, 6, 2)));
    }

    #[test]
    fn compaction_keeps_the_newest_and_a_tombstone_at_its_revision() {
        let mut entry = two_lives();
        assert_eq!(compact(&mut entry, 4, 99), (Compacted::Kept, vec![2, 3]));
        assert_eq!(
            entry
                .newest_at(4)
                .map(|(revision, dead)| (revision.main, dead)),
            Some((4, true))
        );
        assert_eq!(compact(&mut entry, 5, 99), (Compacted::Kept, vec![4]));
        assert_eq!(compact(&mut entry, 7, 99), (Compacted::Kept, vec![6]));
        assert_eq!(entry.at(7).map(|found| found.version), Some(2));
        assert!(!entry.has_excess());
    }

    #[test]
    fn compaction_goes_on_after_the_budget() {
        let mut entry = two_lives();
        assert_eq!(
            compact(&mut entry, 7, 2),
            (Compacted::Unfinished, vec![2, 3])
        );
        assert_eq!(compact(&mut entry, 7, 2), (Compacted::Kept, vec![4, 6]));
    }

    #[test]
    fn a_deleted_key_goes_whole() {
        let mut entry = Entry::new(b"k", put(2, 0, 2, 1));
        entry.push(tombstone(3, 0));
        assert_eq!(compact(&mut entry, 3, 99), (Compacted::Kept, vec![2]));
        assert_eq!(compact(&mut entry, 4, 99), (Compacted::Gone, vec![3]));
    }

    #[test]
    fn delete_and_put_in_one_revision_stay_together() {
        let mut entry = Entry::new(b"k", put(2, 0, 2, 1));
        entry.push(tombstone(3, 0));
        entry.push(put(3, 1, 3, 1));
        assert_eq!(compact(&mut entry, 3, 99), (Compacted::Kept, vec![2]));
        assert_eq!(
            entry.at(3).map(|found| found.revision),
            Some(Revision { main: 3, sub: 1 })
        );
        assert_eq!(compact(&mut entry, 4, 99), (Compacted::Kept, vec![3]));
        assert_eq!(entry.at(4).map(|found| found.version), Some(1));
    }

    #[test]
    fn a_thousand_revisions_cost_at_most_30_kb() {
        let mut entry = Entry::new(b"k", put(2, 0, 2, 1));
        for i in 1..1000 {
            entry.push(put(2 + i, 0, 2, 1 + i));
        }
        let history = entry.history.as_ref().unwrap();
        let bytes = history.slots.capacity() * size_of::<Slot>()
            + history.generations.capacity() * size_of::<Generation>();
        assert!(bytes <= 30_000, "{bytes}");
        assert_eq!(entry.at(500).map(|found| found.version), Some(499));
    }
}
