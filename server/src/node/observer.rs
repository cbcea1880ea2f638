//! What apply tells the node: leases for the lessor, compactions for the background removal, slow
//! requests for the log.

use std::sync::Arc;
use std::time::Duration;

use keelson_proto::keelsonpb::Command;
use keelson_state::apply::Outcome;
use tokio::sync::Notify;

use super::lessor::Lessor;
use super::operation::Operation;
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
    fn applied(&self, operation: Operation, took: Duration, ok: bool, slow: bool);
    /// A checkpoint is durable.
    fn checkpointed(&self, took: Duration);
    /// A proposal has begun.
    fn proposal_began(&self);
    /// A proposal has ended.
    fn proposal_ended(&self, ok: bool);
    /// The leader changed: whether there is one, and whether it is this member.
    fn leader(&self, known: bool, local: bool);
    /// A request of a client, or of the member itself, has ended.
    fn request(&self, _operation: Operation, _took: Duration, _ok: bool) {}
    /// A range was read from the state.
    fn range_read(&self, _took: Duration, _ok: bool) {}
    /// A request came, from a client that calls itself so.
    fn client_request(&self, _version: Option<&str>, _is_stream: bool) {}
    /// A checkpoint of another member begins to be installed, or no longer is.
    fn installing(&self, _active: bool) {}
    /// A defragmentation begins, or has ended.
    fn defragmenting(&self, _active: bool) {}
    /// A defragmentation was successful.
    fn defragmented(&self, _took: Duration) {}
    /// A hash was computed.
    fn hashed(&self, _took: Duration, _by_revision: bool) {}
    /// A lease was granted.
    fn lease_granted(&self, _ttl_seconds: i64) {}
    /// A batch of a compaction was removed, for which apply waited.
    fn compaction_step(&self, _took: Duration) {}
    /// A compaction has finished.
    fn compacted(&self, _took: Duration) {}
    /// `/health` was asked.
    fn health(&self, _ok: bool) {}
    /// A check of `/livez` or `/readyz` was made.
    fn health_check(&self, _probe: &str, _name: &str, _ok: bool) {}
}

impl ApplyObserver for Observer {
    fn lease_granted(&self, id: i64, ttl: i64) {
        self.lessor.granted(id, ttl);
        self.metrics.lease_granted(ttl);
    }

    fn lease_revoked(&self, id: i64) {
        self.lessor.revoked(id);
    }

    fn compaction_scheduled(&self) {
        self.compaction.notify_one();
    }

    fn applied(&self, command: &Command, outcome: &Outcome, took: Duration) {
        let slow = took > self.warning_apply_duration;
        let operation = Operation::of(command);
        self.metrics.applied(operation, took, outcome.is_ok(), slow);
        if slow {
            tracing::warn!(
                took = ?took,
                "expected-duration" = ?self.warning_apply_duration,
                prefix = "",
                request = operation.name(),
                response = "",
                error = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default(),
                "apply request took too long"
            );
        }
    }

    fn installing(&self, active: bool) {
        self.metrics.installing(active);
    }

    fn checkpointed(&self, took: Duration) {
        self.metrics.checkpointed(took);
    }
}
