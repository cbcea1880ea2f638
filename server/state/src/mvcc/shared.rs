//! What the writer and all readers share: the view, the visible revision, and pins.
//!
//! A *view* is an index with the store it belongs to; installing a checkpoint swaps it. A *pin*
//! holds a revision for a read: index removal works at min(compact revision, oldest pin), so a read
//! that began legally never fails half-way (store-notes 4).
//!
//! Invariants:
//! - A read takes view, current and compact revision, and registers its pin, under one shard's
//!   lock. Computing the removal revision takes each shard's lock after the compact revision was
//!   raised: a read it did not see sees the new compact revision.
//! - Swapping the view takes all shards' locks: a read has the old state or the new, not a mixture.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicUsize, Ordering},
};

use arc_swap::ArcSwap;
use keelson_proto::error::Error;
use parking_lot::{Mutex, MutexGuard};

use super::index::IndexReader;
use crate::store::StoreReader;

/// Shards of the pin table, so that readers on different cores do not meet at one lock.
const PIN_SHARDS: usize = 16;
/// The compact revision before the first compaction (contract 2.6).
pub const NEVER_COMPACTED: i64 = -1;

/// An index and the store it belongs to.
#[derive(Clone)]
pub struct View {
    /// Keys and revisions.
    pub index: IndexReader,
    /// Records by revision.
    pub store: StoreReader,
    /// The number of checkpoints installed before this view.
    number: u64,
    /// The number of checkpoints installed by now; the lock is held while one is being swapped in.
    installed: Arc<Mutex<u64>>,
}

impl View {
    pub(crate) fn new(index: IndexReader, store: StoreReader) -> Self {
        Self {
            index,
            store,
            number: 0,
            installed: Arc::default(),
        }
    }

    /// Whether an installed checkpoint has replaced this view. Waits for one being swapped in.
    pub(crate) fn is_superseded(&self) -> bool {
        *self.installed.lock() != self.number
    }
}

/// Where the history stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions {
    /// The newest revision that readers may see.
    pub current: i64,
    /// The compact revision, [`NEVER_COMPACTED`] before the first compaction.
    pub compact: i64,
}

impl Revisions {
    /// The revision that a range reads at, by its request (contract 2.2).
    ///
    /// # Errors
    /// FutureRev, Compacted.
    pub fn of_range(&self, requested: i64) -> Result<i64, Error> {
        match requested {
            ..=0 => Ok(self.current),
            revision if revision > self.current => Err(Error::FutureRev),
            revision if revision < self.compact => Err(Error::Compacted),
            revision => Ok(revision),
        }
    }
}

/// Readers' and the writer's common ground.
pub(crate) struct Shared {
    view: ArcSwap<View>,
    current: AtomicI64,
    compact: AtomicI64,
    shards: Vec<Arc<PinShard>>,
}

#[derive(Default)]
struct PinShard {
    /// Pinned revisions, each with its number of pins: few, as reads are short.
    pinned: Mutex<Vec<(i64, u32)>>,
}

/// Keeps what a read at a revision needs in the index, until dropped.
pub struct Pin {
    shard: Arc<PinShard>,
    revision: i64,
}

impl Pin {
    /// The revision kept.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pinned = self.shard.pinned.lock();
        if let Some(place) = pinned.iter().position(|(at, _)| *at == self.revision)
            && let Some((_, pins)) = pinned.get_mut(place)
        {
            *pins -= 1;
            if *pins == 0 {
                pinned.swap_remove(place);
            }
        }
    }
}

impl Shared {
    pub(crate) fn new(view: View, revisions: Revisions) -> Self {
        Self {
            view: ArcSwap::from_pointee(view),
            current: AtomicI64::new(revisions.current),
            compact: AtomicI64::new(revisions.compact),
            shards: (0..PIN_SHARDS).map(|_| Arc::default()).collect(),
        }
    }

    pub(crate) fn revisions(&self) -> Revisions {
        Revisions {
            compact: self.compact.load(Ordering::SeqCst),
            current: self.current.load(Ordering::SeqCst),
        }
    }

    /// Begins a read: `choose` picks the revision to pin from where the history stands.
    pub(crate) fn begin<E>(
        &self,
        choose: impl FnOnce(Revisions) -> Result<i64, E>,
    ) -> Result<(Arc<View>, Revisions, Pin), E> {
        let shard = self.shard();
        let mut pinned = shard.pinned.lock();
        let view = self.view.load_full();
        let revisions = self.revisions();
        let revision = choose(revisions)?;
        match pinned.iter_mut().find(|(at, _)| *at == revision) {
            Some((_, pins)) => *pins += 1,
            None => pinned.push((revision, 1)),
        }
        drop(pinned);
        let pin = Pin {
            shard: Arc::clone(shard),
            revision,
        };
        Ok((view, revisions, pin))
    }

    /// Makes a revision visible to readers.
    pub(crate) fn set_current(&self, revision: i64) {
        self.current.store(revision, Ordering::SeqCst);
    }

    pub(crate) fn set_compact(&self, revision: i64) {
        self.compact.store(revision, Ordering::SeqCst);
    }

    /// The revision that index removal may work at, for a compaction at `compact`.
    pub(crate) fn removable(&self, compact: i64) -> i64 {
        let oldest = |shard: &Arc<PinShard>| {
            let pinned = shard.pinned.lock();
            pinned.iter().map(|(at, _)| *at).min()
        };
        let pinned = self.shards.iter().filter_map(oldest).min();
        pinned.map_or(compact, |oldest| oldest.min(compact))
    }

    /// Swaps the view for `index`; `swap` replaces the store's content meanwhile and returns where
    /// the history stands after.
    pub(crate) fn replace<T>(
        &self,
        index: IndexReader,
        swap: impl FnOnce() -> (Revisions, T),
    ) -> T {
        let locked: Vec<MutexGuard<'_, _>> = self
            .shards
            .iter()
            .map(|shard| shard.pinned.lock())
            .collect();
        let view = self.view.load_full();
        let mut installed = view.installed.lock();
        let (revisions, out) = swap();
        *installed += 1;
        self.view.store(Arc::new(View {
            index,
            store: view.store.clone(),
            number: *installed,
            installed: Arc::clone(&view.installed),
        }));
        self.set_compact(revisions.compact);
        self.set_current(revisions.current);
        drop(installed);
        drop(locked);
        out
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the remainder is below the number of shards"
    )]
    fn shard(&self) -> &Arc<PinShard> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        &self.shards[SHARD.with(|shard| *shard) % PIN_SHARDS]
    }
}
