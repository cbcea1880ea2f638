//! Membership changes on their way into the log.
//!
//! - The leader judges and appends; a follower forwards. What certainly was not appended is tried
//!   again until the request timeout, as with any proposal.
//! - Each change is appended on condition that the membership it was judged against is still the
//!   newest one, so no lock is needed and none is overwritten.
//! - A voter that was added becomes one here, when it has caught up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use keelson_proto::error::Error;
use keelson_proto::keelsonpb::{forward_result, member_change};
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, EntryPayload};

use super::rules::{Change, Step, Verdict, View};
use crate::node::error::NodeError;
use crate::node::forward::ForwardError;
use crate::node::{Node, RETRY_PAUSE};
use crate::raft::bootstrap;
use crate::raft::waiters::{ProposeError, from_proto};

/// A change that is in the log and applied on the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Where it stands in the log.
    pub index: u64,
    /// Whom it concerned.
    pub id: u64,
}

/// What one attempt came to.
enum Attempt {
    /// Not appended for now.
    Again,
    Failed(ProposeError),
}

impl Node {
    /// Changes the membership; returns the id it concerned, when the change can be seen here.
    ///
    /// # Errors
    /// Those of contract 2.11, and those of any proposal that does not get there.
    pub async fn change_members(&self, change: member_change::Change) -> Result<u64, NodeError> {
        let began = tokio::time::Instant::now();
        let changed = async {
            let leaves = matches!(change, member_change::Change::Remove(id) if id == self.status.member_id());
            let changed = self.change_somewhere(change).await?;
            // The log that says that this member is removed no longer reaches it.
            if !leaves {
                self.status.applied().wait(changed.index).await;
            }
            Ok(changed.id)
        };
        match tokio::time::timeout(self.config.request_timeout(), changed).await {
            Ok(result) => result,
            Err(_) if self.status.leader().leader.is_none() => Err(NodeError::DeadlineExceeded),
            Err(_) => Err(self.timeout_error(began).into()),
        }
    }

    async fn change_somewhere(&self, change: member_change::Change) -> Result<Changed, NodeError> {
        loop {
            let view = self.status.leader();
            let answer = if self.raft.is_leader() {
                self.change_members_as_leader(change.clone()).await
            } else if let Some(leader) = view.leader {
                self.change_through(leader, change.clone()).await
            } else {
                Err(ProposeError::Definite(Error::NoLeader))
            };
            match answer {
                Ok(changed) => return Ok(changed),
                Err(ProposeError::Definite(Error::NotLeader | Error::NoLeader)) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(ProposeError::Definite(error) | ProposeError::Indefinite(error)) => {
                    return Err(error.into());
                }
            }
        }
    }

    async fn change_through(
        &self,
        leader: u64,
        change: member_change::Change,
    ) -> Result<Changed, ProposeError> {
        match self.forwarder.member_change(leader, change).await {
            Ok(forward_result::Result::MemberChanged(changed)) => Ok(Changed {
                index: changed.index,
                id: changed.id,
            }),
            Err(ForwardError::Refused(error)) => Err(from_proto(&error)),
            Ok(_) | Err(ForwardError::Lost) => {
                Err(ProposeError::Indefinite(Error::TimeoutDueToConnectionLost))
            }
        }
    }

    /// Judges and appends a change as the leader. Waits for as long as the change has to; the
    /// caller sets the limit.
    ///
    /// # Errors
    /// NotLeader, the refusals of contract 2.11, and what leaves its fate unknown.
    pub async fn change_members_as_leader(
        &self,
        change: member_change::Change,
    ) -> Result<Changed, ProposeError> {
        let changed = loop {
            let change = Change::requested(change.clone(), new_id);
            match self.attempt(&change).await {
                Ok(changed) => break Ok(changed),
                Err(Attempt::Again) => tokio::time::sleep(RETRY_PAUSE).await,
                Err(Attempt::Failed(error)) => break Err(error),
            }
        };
        if matches!(change, member_change::Change::Promote(_)) {
            let result = changed.map(drop).map_err(|error| match error {
                ProposeError::Definite(error) | ProposeError::Indefinite(error) => error,
            });
            self.metrics.learner_promotion(result);
        }
        changed
    }

    /// One attempt; ends when the change is applied here.
    async fn attempt(&self, change: &Change) -> Result<Changed, Attempt> {
        let (step, preconditions) = {
            let view = self.look();
            let judged = self.judge(&view, change).map_err(|verdict| match verdict {
                Verdict::Wait => Attempt::Again,
                Verdict::Refused(error) => Attempt::Failed(ProposeError::Definite(error)),
            });
            let unchanged = Precondition::LastMembershipLogId {
                last_membership_log_id: *view.membership.log_id(),
            };
            (judged?, [unchanged])
        };
        if *change == Change::Remove(self.status.member_id()) && self.hand_over().await {
            // The next leader removes this member: nobody waits for an election.
            return Err(Attempt::Failed(ProposeError::Definite(Error::NotLeader)));
        }
        let appended = match step {
            Step::Append(membership) => {
                let payload = EntryPayload::Blank;
                let append = self
                    .raft
                    .append_membership(membership, payload, preconditions);
                append.await
            }
            Step::Set(id, node) => {
                let nodes = ChangeMembers::SetNodes(BTreeMap::from([(id, node)]));
                let change = self.raft.change_membership_if(nodes, true, preconditions);
                change.await
            }
        };
        match appended {
            Ok(response) => Ok(Changed {
                index: response.log_id.index(),
                id: change.id(),
            }),
            Err(error) => Err(classify(&error)),
        }
    }

    fn look(&self) -> Seen {
        self.status.with_metrics(|metrics| {
            let replication = metrics.replication.iter().flatten();
            Seen {
                membership: Arc::clone(&metrics.membership_config),
                matched: replication
                    .map(|(id, log_id)| (*id, log_id.map_or(0, |log_id| log_id.index())))
                    .collect(),
                last: metrics.last_log_index.unwrap_or(0),
            }
        })
    }

    fn judge(&self, seen: &Seen, change: &Change) -> Result<Step, Verdict> {
        self.with_view(seen, |view| view.judge(change))
    }

    fn with_view<T>(&self, seen: &Seen, look: impl FnOnce(&View<'_>) -> T) -> T {
        let silence_max = self.config.election_timeout;
        self.reader.members(|published| {
            look(&View {
                membership: seen.membership.membership(),
                local: self.status.member_id(),
                started: &|id| published.attributes(id).is_some(),
                removed: &|id| published.is_removed(id),
                connected: &|id| {
                    let since = self.peers.active_since(id, silence_max)?;
                    Some(since.elapsed())
                },
                matched: &|id| seen.matched.get(&id).copied().unwrap_or(0),
                last: seen.last,
                strict: self.config.strict_reconfig_check,
                learners_max: self.config.learners_max,
            })
        })
    }
}

/// What Raft's metrics say at one moment.
struct Seen {
    membership: Arc<crate::raft::types::StoredMembership>,
    matched: BTreeMap<u64, u64>,
    last: u64,
}

/// Makes voters of the members that were added as such, while this member leads.
pub async fn settle(node: Arc<Node>) {
    let mut look = tokio::time::interval(node.config.heartbeat_interval);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = node.stopping.cancelled() => return,
        }
        if !node.raft.is_leader() {
            continue;
        }
        let pending: Vec<u64> = {
            let seen = node.look();
            node.with_view(&seen, |view| view.pending().collect())
        };
        for id in pending {
            if node.attempt(&Change::Settle(id)).await.is_ok() {
                let peer = format!("{id:x}");
                tracing::info!("peer-id" = peer, "added member has caught up; it votes");
            }
        }
    }
}

/// The id of a member that is added now (contract 2.11).
fn new_id(peer_urls: &[String]) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    bootstrap::member_id(peer_urls, &seconds.to_string())
}

fn classify(
    error: &RaftError<
        crate::raft::types::TypeConfig,
        ClientWriteError<crate::raft::types::TypeConfig>,
    >,
) -> Attempt {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            Attempt::Failed(ProposeError::Definite(Error::NotLeader))
        }
        // Another change came first, or this leader is so new that it must commit something first.
        RaftError::APIError(
            ClientWriteError::PreconditionFailed(_)
            | ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_)
                | ChangeMembershipError::UncommittedLeaderLog(_),
            ),
        ) => Attempt::Again,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            tracing::error!(error = %error, "raft refused a membership change");
            Attempt::Failed(ProposeError::Definite(Error::Unhealthy))
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
            Attempt::Failed(ProposeError::Indefinite(Error::LeaderChanged))
        }
        RaftError::Fatal(_) => Attempt::Failed(ProposeError::Indefinite(Error::Stopped)),
    }
}
