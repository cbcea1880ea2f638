//! What this member knows of the cluster right now, for every request to look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::metrics::RaftMetrics;
use tokio::time::Instant;

use crate::metrics::Counter;
use crate::raft::applied::AppliedIndex;
use crate::raft::leadership::{LeaderView, Leadership, MetricsReceiver};
use crate::raft::types::TypeConfig;

/// Ids, leader, indexes.
pub struct NodeStatus {
    member_id: u64,
    cluster_id: u64,
    metrics: MetricsReceiver,
    leadership: Arc<Leadership>,
    applied: Arc<AppliedIndex>,
    /// When this member last became leader.
    leading_since: parking_lot::Mutex<Option<Instant>>,
    /// Asked with every request, so kept apart from the membership.
    is_learner: AtomicBool,
    read_rounds: ReadRounds,
}

/// How rounds for linearizable reads went (contract 6.4).
#[derive(Debug, Default)]
pub struct ReadRounds {
    /// Started again: no leader, or no quorum in time.
    pub slow: Counter,
    /// Whose reads were refused, or waited in vain.
    pub failed: Counter,
}

impl NodeStatus {
    /// Reads from Raft's metrics.
    #[must_use]
    pub fn new(
        member_id: u64,
        cluster_id: u64,
        metrics: MetricsReceiver,
        leadership: Arc<Leadership>,
        applied: Arc<AppliedIndex>,
    ) -> Self {
        let leading_since = parking_lot::Mutex::new(None);
        Self {
            member_id,
            cluster_id,
            metrics,
            leadership,
            applied,
            leading_since,
            is_learner: AtomicBool::new(false),
            read_rounds: ReadRounds::default(),
        }
    }

    /// This member's id.
    #[must_use]
    pub fn member_id(&self) -> u64 {
        self.member_id
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// How rounds for linearizable reads went.
    #[must_use]
    pub fn read_rounds(&self) -> &ReadRounds {
        &self.read_rounds
    }

    /// Who leads.
    #[must_use]
    pub fn leader(&self) -> LeaderView {
        self.metrics.look(|metrics| self.leadership.view(metrics))
    }

    /// Looks at Raft's metrics.
    pub fn with_metrics<T>(&self, look: impl FnOnce(&RaftMetrics<TypeConfig>) -> T) -> T {
        self.metrics.look(look)
    }

    /// A receiver that is told of every change.
    #[must_use]
    pub fn watch_metrics(&self) -> MetricsReceiver {
        self.metrics.clone()
    }

    /// The applied index.
    #[must_use]
    pub fn applied(&self) -> &AppliedIndex {
        &self.applied
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.metrics.look(|metrics| metrics.current_term)
    }

    /// Whether this member was a learner when the membership was last looked at.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Acquire)
    }

    /// Looks at the membership anew.
    pub fn look_for_role(&self) {
        let is_learner = self.metrics.look(|metrics| {
            let membership = metrics.membership_config.membership();
            let node = membership.get_node(&self.member_id);
            let votes = membership.voter_ids().any(|voter| voter == self.member_id);
            !votes && node.is_some_and(|node| !node.pending_voter)
        });
        self.is_learner.store(is_learner, Ordering::Release);
    }

    /// Whether this member leads a cluster of which it is the only member: what it has applied is
    /// then all that can have been acknowledged (see `read_index`).
    #[must_use]
    pub fn leads_alone(&self) -> bool {
        self.metrics.look(|metrics| {
            metrics.state.is_leader()
                && metrics.membership_config.nodes().count() == 1
                && self.applied.term() == metrics.current_term
        })
    }

    /// Notes that this member has become leader.
    pub fn became_leader(&self) {
        *self.leading_since.lock() = Some(Instant::now());
    }

    /// Whether this member became leader after `began`, and no later than `within`.
    #[must_use]
    pub fn became_leader_within(&self, began: Instant, within: std::time::Duration) -> bool {
        self.leading_since
            .lock()
            .is_some_and(|since| began < since && since < began + within)
    }
}
