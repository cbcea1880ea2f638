//! The checks of contract 4.3.
//!
//! ```text
//! before serving   gate InitialCorruptCheck   a restarted member, against those that serve
//! now and then     --corrupt-check-time       the leader, at its current revision
//! kept hashes      gate CompactHashCheck      the leader, at compactions, costs next to nothing
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::future::join_all;
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use keelson_proto::keelsonpb::{
    HashRequest, HashResponse, check_client::CheckClient, command::Request,
};
use keelson_state::mvcc::hash::KvHash;
use tokio::time::Instant;
use tonic::Status;

use super::service::CHECK_BYTES_MAX;
use super::verdict::{Answer, Verdict, is_comparable, judge};
use crate::node::Node;
use crate::node::blocking;
use crate::raft::peers::Purpose;

/// How long peers may take: a hash reads every record, which is seconds for several GiB.
const HASH_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a peer may need to get to the revision that is asked for, when writes go on.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// Pause before a peer that is behind is asked again.
const BEHIND_PAUSE: Duration = Duration::from_millis(50);

/// What a peer answered.
type Told = (u64, Result<HashResponse, Status>);

/// Runs the leader's checks until the node stops.
pub(in crate::node) async fn run(node: Arc<Node>) {
    let (data, compactions) = (
        node.config().corrupt_check_interval,
        node.config().compact_hash_check_interval,
    );
    if let Some(interval) = data {
        tracing::info!(?interval, "enabled corruption checking");
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            while is_due(&node, interval).await {
                if node.raft().is_leader()
                    && let Err(error) = node.compare_data().await
                {
                    tracing::warn!(error = %error, "failed to check hash KV");
                }
            }
        });
    }
    if let Some(interval) = compactions {
        let mut checked = 0;
        while is_due(&node, interval).await {
            if node.raft().is_leader() {
                node.compare_kept_hashes(&mut checked).await;
            }
        }
    }
}

async fn is_due(node: &Node, interval: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(interval) => true,
        () = node.stopping.cancelled() => false,
    }
}

impl Node {
    /// Peers' hashes that were compared with this member's since it started.
    #[must_use]
    pub fn hashes_compared(&self) -> u64 {
        self.comparison.compared.load(Ordering::Relaxed)
    }

    /// With the gate InitialCorruptCheck: compares the data of a member that restarts with those
    /// that serve already. It has applied what was committed, and serves nobody yet.
    ///
    /// # Errors
    /// When a peer holds other data.
    pub(in crate::node) async fn compare_before_serving(&self) -> Result<()> {
        if self.config().initial_corrupt_check && self.comparison.restarted {
            self.compare_initially().await?;
        }
        self.comparison.answers.store(true, Ordering::Release);
        Ok(())
    }

    async fn compare_initially(&self) -> Result<()> {
        let local = self.status().member_id();
        tracing::info!(
            "local-member-id" = format!("{local:x}"),
            timeout = ?HASH_TIMEOUT,
            "starting initial corruption check"
        );
        let own = match self.hash_now(0).await {
            Ok(own) => own,
            Err(status) => bail!("{local:x} failed to fetch hash ({})", status.message()),
        };
        let mut odd = 0;
        for (id, told) in self.ask_peers(own.revision, false).await {
            let remote = format!("{id:x}");
            match told.map(|told| hash_of(own.revision, &told)) {
                Ok(hash) if !is_comparable(own, hash) => tracing::warn!(
                    "remote-peer-id" = remote,
                    "local-member-compact-revision" = own.compact_revision,
                    "remote-peer-compact-revision" = hash.compact_revision,
                    "found different compact revision values from remote peer"
                ),
                Ok(hash) => {
                    self.comparison.compared.fetch_add(1, Ordering::Relaxed);
                    if hash != own {
                        odd += 1;
                        tracing::warn!(
                            "remote-peer-id" = remote,
                            "local-member-revision" = own.revision,
                            "local-member-hash" = own.hash,
                            "remote-peer-hash" = hash.hash,
                            "found different hash values from remote peer"
                        );
                    }
                }
                Err(status) => tracing::warn!(
                    "remote-peer-id" = remote,
                    "local-member-revision" = own.revision,
                    error = status.message(),
                    "cannot fetch hash from remote peer"
                ),
            }
        }
        if odd > 0 {
            bail!("{local:x} found data inconsistency with peers");
        }
        tracing::info!("initial corruption checking passed; no corruption");
        Ok(())
    }

    /// Compares the members' data at this member's current revision.
    async fn compare_data(&self) -> Result<(), Status> {
        let own = self.hash_now(0).await?;
        let told = self.ask_peers(own.revision, false).await;
        // After it, this leader has applied all that a peer had applied when it answered.
        self.linearize().await?;
        let current = self.reader().current_revision();
        let mut checked = 0;
        for (id, answer) in &told {
            let Ok(answer) = answer else { continue };
            checked += 1;
            if answer.current_revision <= current {
                continue;
            }
            tracing::warn!(
                "follower-peer-id" = format!("{id:x}"),
                "leader-revision" = current,
                "revision from follower must be less than or equal to leader's"
            );
            self.raise_corrupt(*id).await;
        }
        self.pass_judgement(own, &told).await;
        tracing::info!(
            "number-of-peers-checked" = checked,
            "finished peer corruption check"
        );
        Ok(())
    }

    /// Compares the hashes kept for compactions, newest first, until one has been compared with all
    /// members. `checked` is that of the last such round.
    async fn compare_kept_hashes(&self, checked: &mut i64) {
        let mut hashes = self.reader().kept_hashes();
        hashes.retain(|hash| hash.revision > *checked);
        tracing::debug!(hashes = hashes.len(), "starting compact hash check");
        let mut compared = 0;
        for own in hashes.into_iter().rev() {
            compared += 1;
            let told = self.ask_peers(own.revision, true).await;
            match self.pass_judgement(own, &told).await {
                Verdict::Agreement { compared } if compared == told.len() => {
                    *checked = own.revision;
                    break;
                }
                Verdict::Agreement { .. } => {}
                Verdict::Odd(_) => break,
            }
        }
        tracing::info!(
            "number-of-hashes-checked" = compared,
            "finished compaction hash check"
        );
    }

    async fn pass_judgement(&self, own: KvHash, told: &[Told]) -> Verdict {
        let answers: Vec<Answer> = told
            .iter()
            .map(|(id, told)| {
                let hash = told.as_ref().ok().map(|told| hash_of(own.revision, told));
                (*id, hash)
            })
            .collect();
        let comparable = |(_, hash): &&Answer| hash.is_some_and(|hash| is_comparable(own, hash));
        let compared = answers.iter().filter(comparable).count();
        self.comparison
            .compared
            .fetch_add(compared as u64, Ordering::Relaxed);
        let verdict = judge(self.status().member_id(), own, &answers);
        if let Verdict::Odd(members) = &verdict {
            for id in members {
                tracing::error!(
                    "member-id" = format!("{id:x}"),
                    revision = own.revision,
                    "compact-revision" = own.compact_revision,
                    "leader-hash" = own.hash,
                    "detected data that differ from the other members'; raising the alarm CORRUPT"
                );
                self.raise_corrupt(*id).await;
            }
        }
        verdict
    }

    async fn raise_corrupt(&self, id: u64) {
        let standing = self.reader().alarms(AlarmType::Corrupt.into());
        if standing.iter().any(|alarm| alarm.member_id == id) {
            return;
        }
        let alarm = Request::Alarm(AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: id,
            alarm: AlarmType::Corrupt.into(),
        });
        if let Err(error) = self.propose_unchecked(alarm).await {
            tracing::warn!(
                "member-id" = format!("{id:x}"),
                error = %error,
                "failed to raise the alarm CORRUPT"
            );
        }
    }

    async fn hash_now(&self, revision: i64) -> Result<KvHash, Status> {
        let reader = self.reader().clone();
        let began = Instant::now();
        let hash = blocking(move || reader.hash_kv_now(revision)).await?;
        self.metrics().hashed(began.elapsed(), true);
        Ok(hash.hash)
    }

    /// Asks all other members at once.
    async fn ask_peers(&self, revision: i64, kept: bool) -> Vec<Told> {
        let asked = self.peers().others().into_iter().map(|id| async move {
            let asked = self.ask(id, HashRequest { revision, kept });
            let told = tokio::time::timeout(HASH_TIMEOUT, asked).await;
            let late = |_| Err(Status::deadline_exceeded("no answer in time"));
            (id, told.unwrap_or_else(late))
        });
        join_all(asked).await
    }

    async fn ask(&self, id: u64, message: HashRequest) -> Result<HashResponse, Status> {
        let deadline = Instant::now() + BEHIND_MAX;
        loop {
            let channel = self
                .peers()
                .channel(id, Purpose::Control)
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let mut client = CheckClient::new(channel).max_decoding_message_size(CHECK_BYTES_MAX);
            let mut request = self.greeter.network.request(id, message);
            request.set_timeout(HASH_TIMEOUT);
            match client.hash(request).await {
                Ok(told) => return Ok(told.into_inner()),
                Err(status)
                    if status.message() == Error::FutureRev.text() && Instant::now() < deadline =>
                {
                    tokio::time::sleep(BEHIND_PAUSE).await;
                }
                Err(status) => return Err(status),
            }
        }
    }
}

fn hash_of(revision: i64, told: &HashResponse) -> KvHash {
    KvHash {
        hash: told.hash,
        revision,
        compact_revision: told.compact_revision,
    }
}
