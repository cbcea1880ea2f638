//! Where apply hands its events over: into the ring (design R5).

use std::sync::{Arc, OnceLock};

use super::event::{Event, Prev, PrevSource, RevisionEvents};
use super::ring::Ring;
use crate::apply::{EventRecord, EventSink};
use crate::store::{RecordHandle, StoreError, StoreReader};

/// Puts the events of each revision into the ring, with a hold on what prev_kv will show.
pub struct WatchSink {
    ring: Arc<Ring>,
    /// Set once the store is open, which is before anything is applied.
    store: Arc<OnceLock<StoreReader>>,
    /// Told the revision that an installed checkpoint brought.
    installed: Box<dyn Fn(i64) + Send>,
}

impl WatchSink {
    /// A sink into `ring`; previous values come from `store`.
    #[must_use]
    pub fn new(
        ring: Arc<Ring>,
        store: Arc<OnceLock<StoreReader>>,
        installed: Box<dyn Fn(i64) + Send>,
    ) -> Self {
        Self {
            ring,
            store,
            installed,
        }
    }
}

impl EventSink for WatchSink {
    fn publish(&mut self, revision: i64, events: Vec<EventRecord>) {
        let events = events
            .into_iter()
            .map(|event| {
                let prev = event.prev.zip(self.store.get());
                let prev = prev.map_or(Prev::None, |(prev, store)| hold(store, prev));
                Event::new(revision, event.key, event.tombstone, event.record, prev)
            })
            .collect();
        self.ring.publish(RevisionEvents { revision, events });
    }

    fn installed(&mut self, revision: i64) {
        self.ring.reset(revision);
        (self.installed)(revision);
    }
}

/// Takes the bytes of a record if they are in memory, else a reference that no later compaction or
/// rewrite takes away. Never reads the disk.
fn hold(store: &StoreReader, revision: crate::revision::Revision) -> Prev<Arc<dyn PrevSource>> {
    if let Some(record) = store.read_cached(revision) {
        return Prev::Record(record);
    }
    match store.handle(revision) {
        Some(handle) => Prev::Stored(Arc::new(handle)),
        None => Prev::None,
    }
}

impl PrevSource for RecordHandle {
    fn read(&self) -> Result<bytes::Bytes, StoreError> {
        RecordHandle::read(self)
    }

    fn record_len(&self) -> usize {
        RecordHandle::record_len(self)
    }
}
