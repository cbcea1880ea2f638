//! Compaction: removal in the background, and compaction by itself (contract 2.6).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::CompactionRequest;
use keelson_proto::keelsonpb::command::Request;
use keelson_state::mvcc::compaction::CompactStep;
use tokio::time::Instant;

use super::Node;
use super::config::AutoCompaction;
use super::error::NodeError;

/// Pause when a read holds back what is left to remove.
const BLOCKED_PAUSE: Duration = Duration::from_millis(50);
/// How often `revision` mode compacts (contract 2.6).
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// `periodic` mode compacts at least this often.
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Samples of the revision that `periodic` mode takes in one interval.
const SAMPLES: u32 = 10;

/// Removes compacted revisions from the index, in batches with a pause after each (#19406).
pub async fn run(node: Arc<Node>) {
    let mut began = Instant::now();
    loop {
        let limit = node.config().compaction_batch_limit;
        let (step, took) = {
            let mut state = node.state.state.lock();
            let locked = Instant::now();
            (state.compact_step(limit), locked.elapsed())
        };
        if let CompactStep::Removed(_) | CompactStep::Finished(_) = &step {
            node.metrics.compaction_step(took);
        }
        match step {
            CompactStep::Idle => {
                tokio::select! {
                    () = node.compaction_wake.notified() => {}
                    () = node.stopping.cancelled() => return,
                }
                began = Instant::now();
            }
            CompactStep::Hash(job) => {
                let hashed = tokio::task::spawn_blocking(move || job.run()).await;
                if let Ok(Err(error)) = hashed {
                    crate::fatal("hash a compaction", &error);
                }
            }
            CompactStep::Removed(_) => {
                tokio::time::sleep(node.config().compaction_sleep_interval).await;
            }
            CompactStep::Blocked => tokio::time::sleep(BLOCKED_PAUSE).await,
            CompactStep::Finished(revision) => {
                node.metrics.compacted(began.elapsed());
                tracing::info!(
                    "compact-revision" = revision,
                    took = ?began.elapsed(),
                    "current-db-size-bytes" = node.reader().db_size_bytes(),
                    "current-db-size-in-use-bytes" = node.reader().in_use_bytes(),
                    "finished scheduled compaction"
                );
                if let Some(hash) = node.reader().kept_hash(revision) {
                    tracing::info!(
                        hash = hash.hash,
                        revision,
                        "compact-revision" = hash.compact_revision,
                        "storing new hash"
                    );
                }
                node.compaction_finished.send_replace(revision);
            }
        }
        if node.stopping.is_cancelled() {
            return;
        }
    }
}

impl Node {
    /// Compacts; with `physical` waits until the revisions are gone and a checkpoint says so.
    ///
    /// # Errors
    /// Compacted, FutureRev, and those of a proposal.
    pub async fn compact(
        &self,
        request: CompactionRequest,
    ) -> Result<keelson_state::apply::Response, NodeError> {
        let (revision, physical) = (request.revision, request.physical);
        let response = self.propose(Request::Compaction(request)).await?;
        if physical {
            let mut finished = self.compaction_finished.subscribe();
            tokio::select! {
                // The sender lives in the node.
                _ = finished.wait_for(|finished| *finished >= revision) => {}
                () = self.stopping.cancelled() => return Err(Error::Stopped.into()),
            }
            self.checkpoint_now().await?;
        }
        Ok(response)
    }
}

/// Compacts by itself while this member leads.
pub async fn run_auto(node: Arc<Node>) {
    match node.config().auto_compaction {
        AutoCompaction::Off => {}
        AutoCompaction::Revision(kept) => by_revision(&node, kept).await,
        AutoCompaction::Periodic(period) => by_period(&node, period).await,
    }
}

async fn by_revision(node: &Arc<Node>, kept: i64) {
    while pause(node, REVISION_INTERVAL).await {
        let revision = node.reader().current_revision() - kept;
        if revision > node.reader().compact_revision().max(0) && node.raft().is_leader() {
            compact(node, revision).await;
        }
    }
}

/// Keeps a sliding window of the revisions of the last period.
async fn by_period(node: &Arc<Node>, period: Duration) {
    let interval = period.min(PERIODIC_INTERVAL_MAX);
    let sample = interval / SAMPLES;
    let mut samples: VecDeque<(Instant, i64)> = VecDeque::new();
    let mut last = Instant::now();
    while pause(node, sample).await {
        samples.push_back((Instant::now(), node.reader().current_revision()));
        let due = last.elapsed() + sample / 2 >= interval;
        let old = samples.partition_point(|(at, _)| at.elapsed() + sample / 2 >= period);
        let Some((_, revision)) = old
            .checked_sub(1)
            .and_then(|place| samples.get(place))
            .copied()
        else {
            continue;
        };
        if !due || !node.raft().is_leader() {
            continue;
        }
        // A failed attempt is made again after a tenth of the interval.
        if revision <= node.reader().compact_revision().max(0) || compact(node, revision).await {
            last = Instant::now();
            samples.drain(..old);
        }
    }
}

async fn pause(node: &Arc<Node>, duration: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(duration) => true,
        () = node.stopping.cancelled() => false,
    }
}

async fn compact(node: &Arc<Node>, revision: i64) -> bool {
    let request = Request::Compaction(CompactionRequest {
        revision,
        physical: false,
    });
    match node.propose(request).await {
        Ok(_) | Err(NodeError::Etcd(Error::Compacted)) => {
            tracing::info!(revision, "completed auto compaction");
            true
        }
        Err(error) => {
            tracing::warn!(revision, error = %error, "failed auto compaction");
            false
        }
    }
}
