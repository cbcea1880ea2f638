//! What a stream has to send: a bounded queue of references (R5, W3, W7).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::event::RevisionEvents;
use super::shard::WatchId;

/// Items one stream may have waiting.
const ITEMS_MAX: usize = 1024;
/// Bytes one stream may have waiting, unless a single item is larger.
const STREAM_BYTES_MAX: usize = 16 << 20;
/// Bytes that all queues of a member together may hold; above it only empty queues take events.
const TOTAL_BYTES_MAX: usize = 256 << 20;

/// The bytes that all queues hold.
#[derive(Debug, Default)]
pub struct QueueBudget {
    bytes: AtomicUsize,
    pending_events: AtomicUsize,
    sent_events: AtomicU64,
}

impl QueueBudget {
    /// Events that are queued and not taken yet.
    #[must_use]
    pub fn pending_events(&self) -> usize {
        self.pending_events.load(Ordering::Relaxed)
    }

    /// Events that were taken, to be sent.
    #[must_use]
    pub fn sent_events(&self) -> u64 {
        self.sent_events.load(Ordering::Relaxed)
    }
}

/// Which events of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Indexes {
    /// Each of them.
    All,
    /// These.
    Some(Box<[u32]>),
}

/// Events for one watcher: whole revisions, in order.
#[derive(Debug)]
pub struct EventBatch {
    /// The watcher.
    pub watch_id: WatchId,
    /// What the response's header shows: the event's revision live, the current one for history.
    pub header_revision: i64,
    /// Whether the watcher wants previous values.
    pub prev_kv: bool,
    /// Previous values of events at or below this revision are compacted away, and not sent.
    pub compact_revision: i64,
    /// Whether the response may be cut into fragments.
    pub fragment: bool,
    /// The events.
    pub revisions: Vec<(Arc<RevisionEvents>, Indexes)>,
}

impl EventBatch {
    /// Approximate bytes to be sent.
    #[must_use]
    pub fn size(&self) -> usize {
        self.revisions
            .iter()
            .map(|(revision, indexes)| match indexes {
                Indexes::All => revision.size(),
                Indexes::Some(indexes) => indexes
                    .iter()
                    .filter_map(|index| revision.events.get(*index as usize))
                    .map(super::event::Event::size)
                    .sum(),
            })
            .sum()
    }
}

/// One response to be made.
#[derive(Debug)]
pub enum Item {
    /// A watch exists from now on.
    Created {
        /// Its id.
        watch_id: WatchId,
        /// The current revision.
        revision: i64,
    },
    /// A create request is refused; the stream goes on (contract 2.7).
    Refused {
        /// The exact text.
        reason: String,
        /// The current revision.
        revision: i64,
    },
    /// The client cancelled the watch.
    Canceled {
        /// Its id.
        watch_id: WatchId,
        /// The current revision.
        revision: i64,
    },
    /// The watch's next revision is compacted away.
    Compacted {
        /// Its id.
        watch_id: WatchId,
        /// The compact revision.
        compact_revision: i64,
    },
    /// Events.
    Events(EventBatch),
    /// Everything up to the revision has been sent; −1 speaks for all watches of the stream.
    Progress {
        /// The watch, or −1.
        watch_id: WatchId,
        /// The revision.
        revision: i64,
    },
}

impl Item {
    /// How many events it holds.
    fn events(&self) -> usize {
        match self {
            Self::Events(batch) => batch
                .revisions
                .iter()
                .map(|(revision, indexes)| match indexes {
                    Indexes::All => revision.events.len(),
                    Indexes::Some(indexes) => indexes.len(),
                })
                .sum(),
            _ => 0,
        }
    }
}

/// Wakes a stream's sender; called when an empty queue gets an item.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// The queue of one stream. Filled by its shard, drained by its sender.
pub struct Queue {
    budget: Arc<QueueBudget>,
    wake: Wake,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<(Item, usize)>,
    bytes: usize,
    /// The shard was refused room and waits to hear that there is some.
    starved: bool,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(budget: Arc<QueueBudget>, wake: Wake) -> Self {
        Self {
            budget,
            wake,
            inner: Mutex::default(),
        }
    }

    /// Appends an answer to a request. Always possible: the stream takes no further request before
    /// its queue has room (`has_room`).
    pub fn push_control(&self, item: Item) {
        self.append(self.inner.lock(), item, 0);
    }

    /// Appends, if there is room. An empty queue takes any size (W3).
    ///
    /// # Errors
    /// Gives the item back when there is no room; [`Queue::pop`] then tells when there is.
    pub fn try_push(&self, item: Item) -> Result<(), Item> {
        let size = match &item {
            Item::Events(batch) => batch.size(),
            _ => 0,
        };
        let mut inner = self.inner.lock();
        if !inner.items.is_empty() && !self.fits(&inner, size) {
            inner.starved = true;
            return Err(item);
        }
        self.budget.bytes.fetch_add(size, Ordering::Relaxed);
        let events = item.events();
        self.budget
            .pending_events
            .fetch_add(events, Ordering::Relaxed);
        self.append(inner, item, size);
        Ok(())
    }

    fn append(&self, mut inner: MutexGuard<'_, Inner>, item: Item, size: usize) {
        inner.bytes += size;
        inner.items.push_back((item, size));
        let first = inner.items.len() == 1;
        drop(inner);
        if first {
            (self.wake)();
        }
    }

    /// Whether events would be taken now; if not, [`Queue::pop`] tells when they would.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let mut inner = self.inner.lock();
        let room = inner.items.is_empty() || self.fits(&inner, 0);
        inner.starved |= !room;
        room
    }

    fn fits(&self, inner: &Inner, size: usize) -> bool {
        inner.items.len() < ITEMS_MAX
            && inner.bytes + size <= STREAM_BYTES_MAX
            && self.budget.bytes.load(Ordering::Relaxed) + size <= TOTAL_BYTES_MAX
    }

    /// Takes the next item. The flag says that the shard waits for room and there is enough now.
    #[must_use]
    pub fn pop(&self) -> Option<(Item, bool)> {
        let mut inner = self.inner.lock();
        let (item, size) = inner.items.pop_front()?;
        inner.bytes -= size;
        self.budget.bytes.fetch_sub(size, Ordering::Relaxed);
        let events = item.events();
        if events > 0 {
            let QueueBudget {
                pending_events,
                sent_events,
                ..
            } = &*self.budget;
            pending_events.fetch_sub(events, Ordering::Relaxed);
            sent_events.fetch_add(events as u64, Ordering::Relaxed);
        }
        // Woken at half, so that the shard does not refill one item at a time.
        let wake = inner.starved
            && inner.items.len() <= ITEMS_MAX / 2
            && inner.bytes <= STREAM_BYTES_MAX / 2;
        if wake {
            inner.starved = false;
        }
        Some((item, wake))
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.lock().items.is_empty()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        let events = inner.items.iter().map(|(item, _)| item.events()).sum();
        let budget = &self.budget;
        budget.bytes.fetch_sub(inner.bytes, Ordering::Relaxed);
        budget.pending_events.fetch_sub(events, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.inner.lock();
        write!(
            f,
            "queue of {} items, {} bytes",
            inner.items.len(),
            inner.bytes
        )
    }
}
