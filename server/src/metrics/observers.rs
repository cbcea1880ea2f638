//! What the node and its log report to.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::clients::ClientVersions;
use super::labels::LabelVec;
use super::registry::Metrics;
use super::types::Histogram;
use crate::node::observer::NodeMetrics;
use crate::node::operation::Operation;
use crate::node::start::NodeObservers;
use crate::raft::wal::SyncObserver;

impl Metrics {
    /// Reports of a node, counted here.
    #[must_use]
    pub fn observers(self: &Arc<Self>) -> NodeObservers {
        let observer = Arc::new(Observer {
            metrics: Arc::clone(self),
            applied: ByOperation::default(),
            requests: ByOperation::default(),
            ranges: Default::default(),
            clients: ClientVersions::default(),
        });
        NodeObservers {
            metrics: Arc::clone(&observer) as _,
            wal: observer,
        }
    }
}

struct Observer {
    metrics: Arc<Metrics>,
    applied: ByOperation,
    requests: ByOperation,
    /// Failed and successful ones.
    ranges: [OnceLock<Arc<Histogram>>; 2],
    clients: ClientVersions,
}

/// A family's histograms by operation and success, so that counting looks nothing up. Each appears
/// with its first value.
#[derive(Default)]
struct ByOperation {
    handles: [[OnceLock<Arc<Histogram>>; 2]; Operation::ALL.len()],
}

impl ByOperation {
    fn observe(
        &self,
        operation: Operation,
        ok: bool,
        took: Duration,
        make: impl FnOnce(&'static str) -> Arc<Histogram>,
    ) {
        let handle = self.handles.get(operation.place());
        if let Some(handle) = handle.and_then(|handles| handles.get(usize::from(ok))) {
            handle.get_or_init(|| make(success(ok))).observe(took);
        }
    }
}

fn success(ok: bool) -> &'static str {
    if ok { "true" } else { "false" }
}

impl Observer {
    fn families(&self) -> &super::names::Families {
        &self.metrics.families
    }
}

impl NodeMetrics for Observer {
    fn applied(&self, operation: Operation, took: Duration, ok: bool, slow: bool) {
        let family: &LabelVec<Histogram> = &self.families().server_apply_duration_seconds;
        self.applied.observe(operation, ok, took, |success| {
            family.with(&["v3", operation.name(), success])
        });
        if slow {
            self.families().server_slow_apply_total.increment();
        }
    }

    fn request(&self, operation: Operation, took: Duration, ok: bool) {
        let family = &self.families().server_request_duration_seconds;
        self.requests.observe(operation, ok, took, |success| {
            family.with(&[operation.name(), success])
        });
    }

    fn range_read(&self, took: Duration, ok: bool) {
        let family = &self.families().server_range_duration_seconds;
        if let Some(handle) = self.ranges.get(usize::from(ok)) {
            let histogram = handle.get_or_init(|| family.with(&[success(ok)]));
            histogram.observe(took);
        }
    }

    fn client_request(&self, version: Option<&str>, is_stream: bool) {
        let family = &self.families().server_client_requests_total;
        self.clients.count(family, version, is_stream);
    }

    fn checkpointed(&self, took: Duration) {
        let families = self.families();
        families.disk_backend_commit_duration_seconds.observe(took);
        families
            .debugging_snap_save_total_duration_seconds
            .observe(took);
    }

    fn installing(&self, active: bool) {
        let gauge = &self.families().server_snapshot_apply_in_progress_total;
        gauge.set(active.into());
    }

    fn defragmenting(&self, active: bool) {
        self.families().disk_defrag_inflight.set(active.into());
    }

    fn defragmented(&self, took: Duration) {
        let histogram = &self.families().disk_backend_defrag_duration_seconds;
        histogram.observe(took);
    }

    fn hashed(&self, took: Duration, by_revision: bool) {
        let families = self.families();
        if by_revision {
            &families.mvcc_hash_rev_duration_seconds
        } else {
            &families.mvcc_hash_duration_seconds
        }
        .observe(took);
    }

    fn proposal_began(&self) {
        self.families().server_proposals_pending.add(1);
    }

    fn proposal_ended(&self, ok: bool) {
        let families = self.families();
        families.server_proposals_pending.add(-1);
        if !ok {
            families.server_proposals_failed_total.increment();
        }
    }

    fn leader(&self, known: bool, local: bool) {
        let families = self.families();
        families.server_has_leader.set(known.into());
        families.server_is_leader.set(local.into());
        if known {
            families.server_leader_changes_seen_total.increment();
        }
    }

    fn lease_granted(&self, ttl_seconds: i64) {
        let ttl = Duration::from_secs(u64::try_from(ttl_seconds).unwrap_or(0));
        self.families().debugging_lease_ttl_total.observe(ttl);
    }

    fn compaction_step(&self, took: Duration) {
        let families = self.families();
        families
            .debugging_mvcc_db_compaction_pause_duration_milliseconds
            .observe(took);
        families
            .debugging_mvcc_index_compaction_pause_duration_milliseconds
            .observe(took);
    }

    fn compacted(&self, took: Duration) {
        let families = self.families();
        families
            .debugging_mvcc_db_compaction_total_duration_milliseconds
            .observe(took);
        let now = std::time::SystemTime::now();
        let since = now
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        families
            .debugging_mvcc_db_compaction_last
            .set_unsigned(since.as_secs());
    }

    fn health(&self, ok: bool) {
        let families = self.families();
        if ok {
            &families.server_health_success
        } else {
            &families.server_health_failures
        }
        .increment();
    }

    fn health_check(&self, probe: &str, name: &str, ok: bool) {
        let families = self.families();
        families
            .server_healthcheck
            .with(&[probe, name])
            .set(ok.into());
        let status = if ok { "success" } else { "error" };
        families
            .server_healthchecks_total
            .with(&[probe, name, status])
            .increment();
    }
}

impl SyncObserver for Observer {
    fn synced(&self, elapsed: Duration, _: u64, bytes: u64) {
        let families = self.families();
        families.disk_wal_fsync_duration_seconds.observe(elapsed);
        families
            .disk_wal_write_bytes_total
            .add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
