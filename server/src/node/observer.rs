//! What apply tells the node: leases for the lessor, compactions for the background removal, slow
//! requests for the log.

use std::sync::Arc;
use std::time::Duration;

use keelson_proto::error::Error;
use keelson_proto::keelsonpb::{Command, command::Request};
use keelson_state::apply::Outcome;
use tokio::sync::Notify;

use super::lessor::Lessor;
use crate::raft::state_machine::ApplyObserver;

/// The node's ear at apply.
pub struct Observer {
    /// Remaining times.
    pub lessor: Arc<Lessor>,
    /// Wakes the background removal.
    pub compaction: Arc<Notify>,
    /// Applying for longer is logged.
    pub warning_apply_duration: Duration,
    /// Numbers.
    pub metrics: Arc<dyn NodeMetrics>,
}

/// Numbers that apply and checkpoints give.
pub trait NodeMetrics: Send + Sync + 'static {
    /// A command was applied.
    fn applied(&self, took: Duration, ok: bool, slow: bool);
    /// A checkpoint is durable.
    fn checkpointed(&self, took: Duration);
    /// A proposal has begun.
    fn proposal_began(&self);
    /// A proposal has ended.
    fn proposal_ended(&self, ok: bool);
    /// A learner was promoted, or not, on this member as the leader.
    fn learner_promotion(&self, result: Result<(), Error>);
    /// The leader changed: whether there is one, and whether it is this member.
    fn leader(&self, known: bool, local: bool);
}

impl ApplyObserver for Observer {
    fn lease_granted(&self, id: i64, ttl: i64) {
        self.lessor.granted(id, ttl);
    }

    fn lease_revoked(&self, id: i64) {
        self.lessor.revoked(id);
    }

    fn compaction_scheduled(&self) {
        self.compaction.notify_one();
    }

    fn applied(&self, command: &Command, outcome: &Outcome, took: Duration) {
        let slow = took > self.warning_apply_duration;
        self.metrics.applied(took, outcome.is_ok(), slow);
        if slow {
            tracing::warn!(
                took = ?took,
                "expected-duration" = ?self.warning_apply_duration,
                prefix = "",
                request = kind(command),
                response = "",
                error = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default(),
                "apply request took too long"
            );
        }
    }

    fn checkpointed(&self, took: Duration) {
        self.metrics.checkpointed(took);
    }
}

/// Which request a command is; its content is not shown (contract 6.5).
fn kind(command: &Command) -> &'static str {
    match command.request {
        Some(Request::Put(_)) => "put",
        Some(Request::DeleteRange(_)) => "delete_range",
        Some(Request::Txn(_)) => "txn",
        Some(Request::Compaction(_)) => "compaction",
        Some(Request::LeaseGrant(_)) => "lease_grant",
        Some(Request::LeaseRevoke(_)) => "lease_revoke",
        Some(Request::LeaseCheckpoint(_)) => "lease_checkpoint",
        Some(Request::Alarm(_)) => "alarm",
        Some(Request::MemberAttributes(_)) => "member_attributes",
        Some(Request::ClusterVersion(_)) => "cluster_version",
        None => "none",
    }
}
