//! Ending a member: leadership goes to another voter first, then everything stops in order
//! (contract 4.3, openraft-notes 6).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keelson_proto::error::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::error::NodeError;

/// How long one voter may take to take over before the next one is asked.
const TRANSFER_WAIT: Duration = Duration::from_millis(150);
/// How long all of them together may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(1);

impl Node {
    /// Hands leadership to a voter that is up to date, if this member leads others.
    pub async fn hand_over(&self) {
        let local = self.status.member_id();
        if !self.raft.is_leader() {
            return;
        }
        let candidates = self.transfer_candidates();
        if candidates.is_empty() {
            tracing::info!(
                "local-member-id" = format!("{local:x}"),
                "skipped leadership transfer for single voting member cluster"
            );
            return;
        }
        let deadline = Instant::now() + TRANSFER_TIMEOUT;
        for target in candidates {
            if Instant::now() > deadline {
                break;
            }
            tracing::info!(
                "local-member-id" = format!("{local:x}"),
                "transferee-member-id" = format!("{target:x}"),
                "leadership transfer starting"
            );
            let began = Instant::now();
            let away = |leader| leader != local;
            if self.transfer(target, TRANSFER_WAIT, away).await.is_ok() {
                tracing::info!(
                    "local-member-id" = format!("{local:x}"),
                    "transferee-member-id" = format!("{target:x}"),
                    took = ?began.elapsed(),
                    "leadership transfer finished"
                );
                return;
            }
        }
        tracing::warn!("leadership transfer did not complete; stopping anyway");
    }

    /// Makes another voter lead; returns when it does (contract 2.10).
    ///
    /// # Errors
    /// Timeout, also when yet another member has come to lead.
    pub async fn transfer_to(&self, target: u64, wait: Duration) -> Result<(), NodeError> {
        self.transfer(target, wait, |leader| leader == target).await
    }

    /// Hands leadership to `target` and waits for a leader that will do.
    async fn transfer(
        &self,
        target: u64,
        wait: Duration,
        will_do: impl Fn(u64) -> bool,
    ) -> Result<(), NodeError> {
        let mut metrics = self.status.watch_metrics();
        if self.raft.trigger().transfer_leader(target).await.is_err() {
            return Err(Error::Stopped.into());
        }
        let handed_over = metrics.wait_for(|metrics| metrics.current_leader.is_some_and(&will_do));
        match tokio::time::timeout(wait, handed_over).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::Stopped.into()),
            Err(_) => Err(Error::Timeout.into()),
        }
    }

    /// Voters other than this member, the one that is furthest first.
    fn transfer_candidates(&self) -> Vec<u64> {
        let local = self.status.member_id();
        self.status.with_metrics(|metrics| {
            let matched = |id: &u64| {
                let replication = metrics.replication.as_ref();
                replication.and_then(|members| members.get(id).copied().flatten())
            };
            let mut voters: Vec<u64> = metrics
                .membership_config
                .voter_ids()
                .filter(|id| *id != local)
                .collect();
            voters.sort_by_key(|id| std::cmp::Reverse(matched(id)));
            voters
        })
    }

    /// Ends the streams of clients: watches, keep-alives.
    pub fn end_streams(&self) {
        self.streams_ended.cancel();
    }

    /// Cancelled when the streams of clients are to end.
    #[must_use]
    pub fn streams_ended(&self) -> &CancellationToken {
        &self.streams_ended
    }

    /// No new proposals are taken from clients.
    pub fn close_intake(&self) {
        self.intake_closed.store(true, Ordering::Release);
    }

    /// Stops everything: Raft, apply, the store's keeper, the log. Clients must have been served.
    pub async fn stop(self: Arc<Self>) {
        self.stopping.cancel();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(error = %error, "raft did not stop cleanly");
        }
        self.peers_stopping.cancel();
        // `shutdown` returns while apply may still run (openraft-notes 8): the lock waits for it.
        drop(self.state.state.lock());
        let (keeper, log) = (self.keeper.clone(), self.runtime.log.clone());
        let closed = tokio::task::spawn_blocking(move || {
            keeper.shutdown();
            log.wal().close()
        });
        match closed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %error, "the log did not close cleanly"),
            Err(error) => tracing::warn!(error = %error, "the store did not close cleanly"),
        }
        tracing::info!(
            name = self.config.name,
            "data-dir" = %self.config.data_dir.display(),
            "closed etcd server"
        );
    }
}
