//! What went to and came from each peer (contract 6.4): plain atomics, shared with the metrics page.
//!
//! Bytes are those of messages, without the transport's framing. Whoever keeps a stream open takes
//! the handle once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::metrics::{Buckets, Counter, Gauge, Histogram};

/// Numbers of one peer.
#[derive(Debug)]
pub struct PeerStats {
    /// Bytes sent to it.
    pub sent_bytes: Arc<Counter>,
    /// Bytes received from it.
    pub received_bytes: Arc<Counter>,
    /// Calls that failed to reach it.
    pub sent_failures: Arc<Counter>,
    /// Streams from it that broke, or brought what cannot be decoded.
    pub received_failures: Arc<Counter>,
    /// Heartbeats among the calls that failed.
    pub heartbeat_failures: Counter,
    /// Times of small calls that wait for no disk (`node/probe.rs`).
    pub round_trips: Arc<Histogram>,
    /// Connections to it that were lost.
    pub disconnects: Arc<Counter>,
    /// Checkpoints sent to it.
    pub snapshots_sent: SnapshotStats,
    /// Checkpoints received from it.
    pub snapshots_received: SnapshotStats,
    active: AtomicBool,
}

impl Default for PeerStats {
    fn default() -> Self {
        Self {
            sent_bytes: Arc::default(),
            received_bytes: Arc::default(),
            sent_failures: Arc::default(),
            received_failures: Arc::default(),
            heartbeat_failures: Counter::default(),
            round_trips: Arc::new(Histogram::new(Buckets::Seconds(0.0001, 16))),
            disconnects: Arc::default(),
            snapshots_sent: SnapshotStats::default(),
            snapshots_received: SnapshotStats::default(),
            active: AtomicBool::new(false),
        }
    }
}

impl PeerStats {
    /// Whether it answered when it was last asked.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// It answered within this time.
    pub fn answered(&self, took: Duration) {
        self.round_trips.observe(took);
        self.active.store(true, Ordering::Relaxed);
    }

    /// It did not answer.
    pub fn silent(&self) {
        if self.active.swap(false, Ordering::Relaxed) {
            self.disconnects.increment();
        }
    }
}

/// Checkpoints that went one way.
#[derive(Debug)]
pub struct SnapshotStats {
    /// On their way.
    pub in_flight: Arc<Gauge>,
    /// Installed.
    pub succeeded: Arc<Counter>,
    /// Given up.
    pub failed: Arc<Counter>,
    /// How long those took that were installed.
    pub took: Arc<Histogram>,
}

impl Default for SnapshotStats {
    fn default() -> Self {
        Self {
            in_flight: Arc::default(),
            succeeded: Arc::default(),
            failed: Arc::default(),
            took: Arc::new(Histogram::new(Buckets::Seconds(0.1, 10))),
        }
    }
}

impl SnapshotStats {
    /// Whether there has been any.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.in_flight.get() > 0 || self.succeeded.get() > 0 || self.failed.get() > 0
    }

    /// Counts one until the guard is dropped: as failed, unless it says otherwise.
    pub(super) fn begin(&self) -> SnapshotTimer<'_> {
        self.in_flight.add(1);
        SnapshotTimer {
            stats: self,
            began: tokio::time::Instant::now(),
            succeeded: false,
        }
    }
}

/// A checkpoint on its way.
pub(super) struct SnapshotTimer<'a> {
    stats: &'a SnapshotStats,
    began: tokio::time::Instant,
    succeeded: bool,
}

impl SnapshotTimer<'_> {
    pub(super) fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for SnapshotTimer<'_> {
    fn drop(&mut self) {
        self.stats.in_flight.add(-1);
        if self.succeeded {
            self.stats.succeeded.increment();
            self.stats.took.observe(self.began.elapsed());
        } else {
            self.stats.failed.increment();
        }
    }
}
