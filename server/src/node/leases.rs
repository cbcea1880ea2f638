//! Leases as clients see them, and their expiry on the leader (contract 2.8).

use std::sync::Arc;
use std::time::Duration;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest};
use keelson_proto::keelsonpb::command::Request;
use keelson_proto::keelsonpb::forward_result;
use keelson_state::apply::Response;
use keelson_state::lease::LEASE_TTL_SECONDS_MAX;
use openraft::Instant as _;
use rand::Rng as _;
use tokio::sync::Semaphore;

use super::Node;
use super::error::NodeError;
use super::forward::ForwardError;
use super::lessor::LeaseTerms;
use super::read_index;
use crate::raft::waiters::{ProposeError, from_proto};

/// How often expired leases are looked for (contract 2.8).
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
/// Revocations under way at once (contract 2.8).
const REVOKES_MAX: usize = 16;
/// How long a renewal waits for the applied index (contract 2.1).
const APPLY_WAIT: Duration = Duration::from_secs(1);
/// Pause before a renewal is tried again when the leader is unknown or has just changed.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// A renewal of a lease that has expired waits for its revocation, looking this often.
const EXPIRED_PAUSE: Duration = Duration::from_millis(20);

impl Node {
    /// Grants a lease. What depends on chance or on this member's flags, an id and the least TTL, is
    /// settled before the log (design R4).
    ///
    /// # Errors
    /// LeaseTTLTooLarge, LeaseExist, and as [`Node::propose`].
    pub async fn grant_lease(
        &self,
        mut request: LeaseGrantRequest,
    ) -> Result<LeaseGrantResponse, NodeError> {
        if request.ttl > LEASE_TTL_SECONDS_MAX {
            return Err(Error::LeaseTTLTooLarge.into());
        }
        if request.id == 0 {
            request.id = self.pick_lease_id();
        }
        request.ttl = request.ttl.max(self.lease_ttl_min());
        match self.propose(Request::LeaseGrant(request)).await? {
            Response::LeaseGrant(response) => Ok(response),
            _ => Err(Error::Corrupt.into()),
        }
    }

    /// Renews a lease; its TTL, or 0 if it is unknown or has expired.
    ///
    /// # Errors
    /// NoLeader, Timeout.
    pub async fn renew(&self, id: i64) -> Result<i64, NodeError> {
        let renewed = self.ask_leader(id, Ask::Renew);
        match self.within_timeout(renewed).await {
            Ok(Ok((ttl, _))) => Ok(ttl),
            Ok(Err(Error::LeaseNotFound)) => Ok(0),
            Ok(Err(error)) => Err(error.into()),
            Err(_) if self.status().leader().leader.is_none() => Err(Error::NoLeader.into()),
            Err(_) => Err(Error::Timeout.into()),
        }
    }

    /// Remaining and granted seconds of a lease; `None` if it is unknown.
    ///
    /// # Errors
    /// LeaderChanged, NoLeader, Timeout.
    pub async fn time_to_live(&self, id: i64) -> Result<Option<(i64, i64)>, NodeError> {
        let asked = self.ask_leader(id, Ask::TimeToLive);
        match self.within_timeout(asked).await {
            Ok(Ok(times)) => Ok(Some(times)),
            Ok(Err(Error::LeaseNotFound)) => Ok(None),
            Ok(Err(error)) => Err(error.into()),
            Err(_) if self.status().leader().leader.is_none() => Err(Error::NoLeader.into()),
            Err(_) => Err(Error::Timeout.into()),
        }
    }

    async fn ask_leader(&self, id: i64, ask: Ask) -> Result<(i64, i64), Error> {
        loop {
            let view = self.status().leader();
            let answer = if self.raft().is_leader() {
                match ask {
                    Ask::Renew => self.renew_as_leader(id).await.map(|ttl| (ttl, ttl)),
                    Ask::TimeToLive => self.remaining_as_leader(id).await,
                }
            } else if let Some(leader) = view.remote() {
                self.ask_through(leader, id, ask).await
            } else {
                Err(Error::NotLeader)
            };
            match answer {
                Err(Error::NotLeader | Error::NoLeader | Error::LeaderChanged) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    async fn ask_through(&self, leader: u64, id: i64, ask: Ask) -> Result<(i64, i64), Error> {
        let answer = match ask {
            Ask::Renew => self.forwarder.lease_renew(leader, id).await,
            Ask::TimeToLive => self.forwarder.lease_time_to_live(leader, id).await,
        };
        match answer {
            Ok(forward_result::Result::Lease(lease)) => Ok((lease.ttl, lease.granted_ttl)),
            Ok(_) | Err(ForwardError::Lost) => Err(Error::NotLeader),
            Err(ForwardError::Refused(error)) => match from_proto(&error) {
                ProposeError::Definite(error) | ProposeError::Indefinite(error) => Err(error),
            },
        }
    }

    /// Renews a lease as the leader.
    ///
    /// A lease that has expired waits for its revocation; only an unknown one waits for what is
    /// committed to be applied, for it may just have been granted (gate FastLeaseKeepAlive).
    ///
    /// # Errors
    /// NotLeader, LeaseNotFound.
    pub async fn renew_as_leader(&self, id: i64) -> Result<i64, Error> {
        if !self.lessor().is_primary() {
            return Err(Error::NotLeader);
        }
        if self
            .status()
            .with_metrics(|metrics| metrics.membership_config.nodes().count())
            > 1
            && self.leader_is_quiet()
        {
            // A paused leader confirms that it still leads before it promises time.
            read_index::read_index_for_follower(self.raft()).await?;
        }
        if let Some(ttl) = self.lessor().renew(id) {
            return Ok(ttl);
        }
        if !self.lessor().is_expired(id) {
            self.wait_for_committed().await?;
        }
        while self.lessor().is_expired(id) {
            tokio::time::sleep(EXPIRED_PAUSE).await;
        }
        if !self.lessor().is_primary() {
            return Err(Error::NotLeader);
        }
        self.lessor().renew(id).ok_or(Error::LeaseNotFound)
    }

    /// Waits until what is committed here is applied: a follower may have acknowledged it already.
    async fn wait_for_committed(&self) -> Result<(), Error> {
        let committed = self.status().with_metrics(|metrics| {
            metrics
                .local_committed
                .as_ref()
                .map_or(0, openraft::LogId::index)
        });
        let applied = self.status().applied().wait(committed);
        tokio::time::timeout(APPLY_WAIT, applied)
            .await
            .map_err(|_| Error::TimeoutWaitAppliedIndex)
    }

    /// Whether no quorum has acknowledged this leader for three heartbeats.
    fn leader_is_quiet(&self) -> bool {
        self.status().with_metrics(|metrics| {
            let quiet = 3 * self.config().heartbeat_interval;
            metrics
                .last_quorum_acked
                .as_ref()
                .is_none_or(|at| at.elapsed() > quiet)
        })
    }

    /// Remaining and granted seconds of a lease, as the leader. An unknown one may just have been
    /// granted.
    ///
    /// # Errors
    /// NotLeader, LeaseNotFound, TimeoutWaitAppliedIndex.
    pub async fn remaining_as_leader(&self, id: i64) -> Result<(i64, i64), Error> {
        if !self.lessor().is_primary() {
            return Err(Error::NotLeader);
        }
        if let Some(times) = self.lessor().remaining(id) {
            return Ok(times);
        }
        self.wait_for_committed().await?;
        if !self.lessor().is_primary() {
            return Err(Error::NotLeader);
        }
        self.lessor().remaining(id).ok_or(Error::LeaseNotFound)
    }

    /// A lease id that is not in use.
    #[must_use]
    pub fn pick_lease_id(&self) -> i64 {
        loop {
            let id = rand::rng().random_range(1..=i64::MAX);
            if self.reader().lease(id).is_none() {
                return id;
            }
        }
    }

    /// The smallest TTL in seconds: one and a half election timeouts, rounded up (contract 2.8).
    #[must_use]
    pub fn lease_ttl_min(&self) -> i64 {
        let seconds = (self.config().election_timeout.as_secs_f64() * 1.5).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an election timeout is under a minute"
        )]
        let seconds = seconds as i64;
        seconds
    }
}

#[derive(Clone, Copy)]
enum Ask {
    Renew,
    TimeToLive,
}

/// Follows the leadership: promotes and demotes the lessor, revokes what expires.
pub async fn run(node: Arc<Node>) {
    let revokes = Arc::new(Semaphore::new(REVOKES_MAX));
    let mut metrics = node.status().watch_metrics();
    let mut look = tokio::time::interval(EXPIRY_INTERVAL);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The term it leads in.
    let mut leading = None;
    loop {
        let due = tokio::select! {
            () = node.stopping.cancelled() => return,
            changed = metrics.changed() => {
                if changed.is_err() { return }
                false
            }
            _ = look.tick() => true,
        };
        let applied_term = node.status().applied().term();
        let leads = metrics.look(|metrics| {
            let leads = metrics.state.is_leader() && metrics.current_term == applied_term;
            leads.then_some(metrics.current_term)
        });
        if leads != leading {
            leading = leads;
            if leads.is_some() {
                node.status().became_leader();
                let terms = || {
                    node.reader().leases().into_iter().map(|lease| LeaseTerms {
                        id: lease.id,
                        ttl: lease.ttl_seconds,
                        remaining_ttl: lease.remaining_ttl_seconds,
                    })
                };
                node.lessor().promote(terms, node.config().election_timeout);
            } else {
                node.lessor().demote();
            }
        }
        if let Some(term) = leads
            && due
        {
            expire(&node, &revokes, term).await;
        }
    }
}

/// Revokes what has expired, after confirming that this member still leads (#15247).
async fn expire(node: &Arc<Node>, revokes: &Arc<Semaphore>, term: u64) {
    let expired = node.lessor().expired();
    if expired.is_empty()
        || read_index::read_index_for_follower(node.raft())
            .await
            .is_err()
    {
        return;
    }
    // Apart, so that the end of the leadership is noticed while revocations wait for each other.
    tokio::spawn(revoke(Arc::clone(node), Arc::clone(revokes), expired, term));
}

/// Revokes leases while this member leads in `term`. Only as the leader: the next one gives every
/// lease its time anew, and a revocation that reached it would break its promise.
async fn revoke(node: Arc<Node>, revokes: Arc<Semaphore>, expired: Vec<i64>, term: u64) {
    for id in expired {
        let Ok(permit) = Arc::clone(&revokes).acquire_owned().await else {
            return;
        };
        let leads = node
            .status()
            .with_metrics(|metrics| metrics.state.is_leader() && metrics.current_term == term);
        if !leads {
            return;
        }
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            let _permit = permit;
            let request = Request::LeaseRevoke(LeaseRevokeRequest { id });
            match node.propose_as_leader(request).await {
                Ok(()) => node.lessor().count_expired(),
                // Somebody else's revocation came first.
                Err(NodeError::Etcd(Error::LeaseNotFound)) => {}
                // It comes up again (lessor).
                Err(error) => tracing::debug!(lease = id, error = %error, "revocation failed"),
            }
        });
    }
}
