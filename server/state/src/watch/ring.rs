//! The last revisions' events, bounded, for the shards to follow (store-notes 6).

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::RwLock;

use super::event::RevisionEvents;

/// Revisions kept. A shard that falls behind further reads the store instead.
const REVISIONS_MAX: usize = 16 * 1024;
/// Bytes kept, unless a single revision is larger.
const BYTES_MAX: usize = 16 << 20;

/// What a reader finds from some revision on.
#[derive(Debug)]
pub enum RingRead {
    /// Consecutive revisions with events, oldest first; possibly none.
    Events(Vec<Arc<RevisionEvents>>),
    /// The ring no longer goes back that far.
    Overrun,
}

/// The ring. Written by apply, read by the shards.
///
/// Invariant: it holds the events of every revision in `[first, last]`.
#[derive(Debug)]
pub struct Ring {
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The first revision whose events are all here.
    first: i64,
    /// The last revision that was published.
    last: i64,
    bytes: usize,
    revisions: VecDeque<(Arc<RevisionEvents>, usize)>,
}

impl Ring {
    /// An empty ring behind a store at `revision`.
    #[must_use]
    pub fn new(revision: i64) -> Self {
        let inner = Inner {
            first: revision + 1,
            last: revision,
            bytes: 0,
            revisions: VecDeque::new(),
        };
        Self {
            inner: RwLock::new(inner),
        }
    }

    /// Appends the events of the next revision.
    pub fn publish(&self, events: RevisionEvents) {
        let size = events.size();
        let mut inner = self.inner.write();
        inner.last = events.revision;
        inner.bytes += size;
        inner.revisions.push_back((Arc::new(events), size));
        while inner.revisions.len() > 1
            && (inner.revisions.len() > REVISIONS_MAX || inner.bytes > BYTES_MAX)
        {
            if let Some((oldest, size)) = inner.revisions.pop_front() {
                inner.first = oldest.revision + 1;
                inner.bytes -= size;
            }
        }
    }

    /// Starts anew behind a store at `revision`; used when a snapshot is installed.
    pub fn reset(&self, revision: i64) {
        let mut inner = self.inner.write();
        *inner = Inner {
            first: revision + 1,
            last: revision,
            bytes: 0,
            revisions: VecDeque::new(),
        };
    }

    /// The first revision that can be read here.
    #[must_use]
    pub fn first(&self) -> i64 {
        self.inner.read().first
    }

    /// Up to `count_max` revisions with events in `[from, to]`.
    #[must_use]
    pub fn read(&self, from: i64, to: i64, count_max: usize) -> RingRead {
        let inner = self.inner.read();
        if from < inner.first {
            return RingRead::Overrun;
        }
        let start = inner
            .revisions
            .partition_point(|(events, _)| events.revision < from);
        let events = inner
            .revisions
            .range(start..)
            .map(|(events, _)| events)
            .take_while(|events| events.revision <= to)
            .take(count_max)
            .cloned()
            .collect();
        RingRead::Events(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(ring: &Ring, revision: i64) {
        ring.publish(RevisionEvents {
            revision,
            events: vec![],
        });
    }

    #[test]
    fn reads_what_it_holds_and_says_what_it_lost() {
        let ring = Ring::new(1);
        for revision in 2..(REVISIONS_MAX as i64 + 12) {
            publish(&ring, revision);
        }
        assert_eq!(ring.first(), 12);
        assert!(matches!(ring.read(11, 100, 10), RingRead::Overrun));
        let RingRead::Events(events) = ring.read(12, 14, 10) else {
            panic!("overrun")
        };
        assert_eq!(
            events.iter().map(|e| e.revision).collect::<Vec<_>>(),
            [12, 13, 14]
        );
        let RingRead::Events(events) = ring.read(12, 100, 2) else {
            panic!("overrun")
        };
        assert_eq!(events.len(), 2);
        ring.reset(500_000);
        assert!(matches!(ring.read(500_000, 500_001, 1), RingRead::Overrun));
        assert!(matches!(ring.read(500_001, 500_001, 1), RingRead::Events(e) if e.is_empty()));
    }
}
