//! Counters of what the state has done, for the server's metrics (contract 6.4).
//!
//! Plain atomics that never fall; the names follow the metrics they feed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Put operations applied, inside transactions too.
    pub put_total: AtomicU64,
    /// Delete-range operations applied, not keys.
    pub delete_total: AtomicU64,
    /// Ranges served, inside transactions too.
    pub range_total: AtomicU64,
    /// Store transactions of more than one operation.
    pub txn_total: AtomicU64,
    /// Bytes of keys and values put.
    pub put_size_bytes: AtomicU64,
    /// Revisions that compaction removed.
    pub compaction_keys_total: AtomicU64,
    /// Leases granted.
    pub lease_granted_total: AtomicU64,
    /// Leases revoked.
    pub lease_revoked_total: AtomicU64,
}

/// Operations of one store transaction, added up and counted at its end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Operations {
    pub(crate) puts: u64,
    pub(crate) deletes: u64,
    pub(crate) ranges: u64,
    pub(crate) put_bytes: u64,
}

impl Counters {
    pub(crate) fn add(&self, operations: Operations) {
        let Operations {
            puts,
            deletes,
            ranges,
            put_bytes,
        } = operations;
        for (counter, count) in [
            (&self.put_total, puts),
            (&self.delete_total, deletes),
            (&self.range_total, ranges),
            (&self.put_size_bytes, put_bytes),
            (&self.txn_total, u64::from(puts + deletes + ranges > 1)),
        ] {
            if count > 0 {
                counter.fetch_add(count, Relaxed);
            }
        }
    }
}
