//! Watch: what happened, in order, to whoever asked (design 5, store-notes 6, contract 2.7).
//!
//! ```text
//! apply ──publish──▶ Ring ──cursor──▶ Shard ──match──▶ Queue ──▶ the stream's sender
//!                                       ▲
//!                          history ─────┘   (store, for watchers that are behind)
//! ```
//!
//! - Apply only appends a revision's events to the bounded [`Ring`]: ten thousand watchers of one
//!   key cost it nothing, and it never waits for one (R5).
//! - A [`Shard`] owns some streams: it registers their watchers, follows the ring, hands over from
//!   history and answers progress requests, all in one place, so there is no lock to get wrong.
//! - A watcher is *synced* when every matching event up to the shard's cursor is queued; else it is
//!   *unsynced* and reads history from the store, then the ring.
//! - A [`Queue`] holds references to shared events, bounded; what has no room makes its watcher
//!   unsynced. Nothing is dropped, only the slow one is late.
//!
//! The invariants are W1–W9 of store-notes 6. Everything here is synchronous; the server drives a
//! shard from one task and drains a queue from the stream's.

mod event;
pub mod history;
mod interval;
mod queue;
mod ring;
mod shard;
mod sink;

pub use event::{Event, Prev, PrevSource, RevisionEvents};
pub use interval::RangeMap;
pub use queue::{EventBatch, Indexes, Item, Queue, QueueBudget, Wake};
pub use ring::{Ring, RingRead};
pub use shard::{Filters, HistoryJob, HistoryPart, Shard, StreamId, WatchId, WatchSpec};
pub use sink::WatchSink;
