//! What the node and its log report to.

use std::sync::Arc;
use std::time::Duration;

use keelson_proto::error::Error;

use super::registry::Metrics;
use super::types::Histogram;
use crate::node::observer::NodeMetrics;
use crate::node::start::NodeObservers;
use crate::raft::wal::SyncObserver;

impl Metrics {
    /// Reports of a node, counted here.
    #[must_use]
    pub fn observers(self: &Arc<Self>) -> NodeObservers {
        // The node does not say which request it applied.
        let applied = |success| {
            self.families
                .server_apply_duration_seconds
                .with(&["v3", "Request", success])
        };
        let observer = Arc::new(Observer {
            metrics: Arc::clone(self),
            applied: applied("true"),
            failed: applied("false"),
        });
        NodeObservers {
            metrics: Arc::clone(&observer) as _,
            wal: observer,
        }
    }
}

struct Observer {
    metrics: Arc<Metrics>,
    applied: Arc<Histogram>,
    failed: Arc<Histogram>,
}

impl NodeMetrics for Observer {
    fn applied(&self, took: Duration, ok: bool, slow: bool) {
        if ok { &self.applied } else { &self.failed }.observe(took);
        if slow {
            self.metrics.families.server_slow_apply_total.increment();
        }
    }

    fn checkpointed(&self, took: Duration) {
        let families = &self.metrics.families;
        families.disk_backend_commit_duration_seconds.observe(took);
        families
            .debugging_snap_save_total_duration_seconds
            .observe(took);
    }

    fn proposal_began(&self) {
        self.metrics.families.server_proposals_pending.add(1);
    }

    fn proposal_ended(&self, ok: bool) {
        let families = &self.metrics.families;
        families.server_proposals_pending.add(-1);
        if !ok {
            families.server_proposals_failed_total.increment();
        }
    }

    fn learner_promotion(&self, result: Result<(), Error>) {
        let families = &self.metrics.families;
        match result {
            Ok(()) => families.server_learner_promote_successes.increment(),
            Err(reason) => families
                .server_learner_promote_failures
                .with(&[reason.text()])
                .increment(),
        }
    }

    fn leader(&self, known: bool, local: bool) {
        let families = &self.metrics.families;
        families.server_has_leader.set(known.into());
        families.server_is_leader.set(local.into());
        if known {
            families.server_leader_changes_seen_total.increment();
        }
    }
}

impl SyncObserver for Observer {
    fn synced(&self, elapsed: Duration, _: u64, bytes: u64) {
        let families = &self.metrics.families;
        families.disk_wal_fsync_duration_seconds.observe(elapsed);
        families
            .disk_wal_write_bytes_total
            .add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
