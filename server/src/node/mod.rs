//! A member: what the API asks, answered over Raft and the state (design 1, 3).
//!
//! | file | what |
//! |---|---|
//! | [`directories`] | where a member keeps what, and whether it belongs together |
//! | [`start`] | opening the data directory, bootstrap, joining, publishing itself |
//! | [`propose`], [`forward`], [`forward_service`] | the way of a write |
//! | [`read_index`] | the way of a linearizable read |
//! | [`deadlines`] | how long a request may take |
//! | [`lessor`], [`leases`] | remaining times of leases, expiry |
//! | [`concurrency`] | standing in line: locks and elections |
//! | [`compactor`] | removal in the background, compaction by itself |
//! | [`checkpoints`] | telling Raft of checkpoints, purging the log behind them |
//! | [`snapshots`] | snapshot files for users |
//! | [`corruption`] | members compare what they hold |
//! | [`membership`] | members come and go |
//! | [`versions`] | the cluster version, downgrades |
//! | [`watch_hub`] | watch shards |
//! | `peer_port` | what the other members reach |
//! | [`status`] | what is known of the cluster right now |
//! | [`stop`] | handing over leadership, ending |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{AlarmType, Member, RangeRequest, TxnRequest};
use keelson_proto::keelsonpb::{Command, command::Request};
use keelson_proto::raw;
use keelson_state::apply::{Outcome, Response};
use keelson_state::error::ApplyError;
use keelson_state::mvcc::stream::RangeStream;
use keelson_state::reader::Reader;
use keelson_state::store::KeeperHandle;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::raft::peers::Peers;
use crate::raft::service::Raft;
use crate::raft::types::Measured;
use crate::raft::waiters::{Answer, Forwarded, LocalWaiter, ProposeError, Reservation, Waiter};

pub mod checkpoints;
pub mod compactor;
pub mod concurrency;
pub mod config;
pub mod corruption;
pub mod deadlines;
pub mod directories;
pub mod error;
pub mod forward;
pub mod forward_service;
pub mod leases;
pub mod lessor;
pub mod membership;
pub mod observer;
pub mod operation;
mod peer_port;
mod probe;
pub mod propose;
pub mod quota;
pub mod read_index;
pub mod snapshots;
pub mod start;
pub mod status;
pub mod stop;
pub mod versions;
pub mod watch_hub;

use config::NodeConfig;
use deadlines::{Deadlines, Elapsed};
use error::NodeError;
use forward::Forwarder;
use lessor::Lessor;
use operation::Operation;
use propose::Proposal;
use read_index::ReadIndexSender;
use status::NodeStatus;
use watch_hub::WatchHub;

/// Entries between committed and applied above which proposals are refused (contract 2.1).
const APPLY_LAG_MAX: u64 = 5000;
/// Pause before a proposal that certainly was not appended is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Room of a stored record beside its value: revisions, version, lease, lengths.
const KEY_OVERHEAD_BYTES: usize = 64;

/// A member of a cluster.
pub struct Node {
    config: NodeConfig,
    raft: Raft,
    reader: Reader,
    keeper: KeeperHandle,
    status: Arc<NodeStatus>,
    proposals: mpsc::Sender<Proposal>,
    reads: mpsc::Sender<ReadIndexSender>,
    forwarder: Forwarder,
    forwarded: Arc<Forwarded>,
    lessor: Arc<Lessor>,
    watch_hub: WatchHub,
    state: Arc<crate::raft::state_machine::Shared>,
    next_request_id: AtomicU64,
    deadlines: Arc<Deadlines>,
    /// Proposals' cost that is not yet part of the store's size (contract 2.6).
    quota: quota::Quota,
    compaction_wake: Arc<tokio::sync::Notify>,
    /// The last compaction whose removal has finished.
    compaction_finished: tokio::sync::watch::Sender<i64>,
    metrics: Arc<dyn observer::NodeMetrics>,
    peers: Arc<crate::raft::peers::Peers>,
    greeter: membership::hello::Greeter,
    /// Whom to bootstrap with, until that has happened.
    bootstrap: parking_lot::Mutex<Option<BTreeMap<u64, crate::raft::types::Node>>>,
    comparison: corruption::Comparison,
    /// Shared with the peer service, which refuses everything before.
    admitted: Arc<AtomicBool>,
    /// This member was removed from the cluster.
    removed: CancellationToken,
    streams_ended: CancellationToken,
    stopping: CancellationToken,
    peers_stopping: CancellationToken,
    peer_ports: tokio_util::task::TaskTracker,
    intake_closed: AtomicBool,
    /// What ends after everything else.
    runtime: start::Runtime,
}

impl Node {
    /// The settings.
    #[must_use]
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// What is known of the cluster.
    #[must_use]
    pub fn status(&self) -> &Arc<NodeStatus> {
        &self.status
    }

    /// Reads of the local state.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Where its numbers go.
    #[must_use]
    pub fn metrics(&self) -> &dyn observer::NodeMetrics {
        &*self.metrics
    }

    /// The members as they are reached.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.state.peers
    }

    /// openraft.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Watch shards.
    #[must_use]
    pub fn watch_hub(&self) -> &WatchHub {
        &self.watch_hub
    }

    /// Remaining times of leases.
    #[must_use]
    pub fn lessor(&self) -> &Lessor {
        &self.lessor
    }

    /// Whether an alarm stands anywhere.
    #[must_use]
    pub fn alarm_stands(&self, alarm: AlarmType) -> bool {
        !self.reader.alarms(alarm.into()).is_empty()
    }

    /// Whether this member is a learner.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.status.is_learner()
    }

    /// The cluster version, once it is decided.
    #[must_use]
    pub fn cluster_version(&self) -> Option<String> {
        self.reader
            .members(|members| members.cluster_version().map(str::to_owned))
    }

    /// The quota in bytes; 0 if there is none.
    #[must_use]
    pub fn quota_bytes(&self) -> u64 {
        self.config.quota_backend_bytes
    }

    /// The members, sorted by id: membership joined with what they published (design R10).
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let membership = self
            .status
            .with_metrics(|metrics| Arc::clone(&metrics.membership_config));
        let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
        self.reader.members(|published| {
            membership
                .membership()
                .nodes()
                .map(|(id, node)| {
                    let attributes = published.attributes(*id);
                    Member {
                        id: *id,
                        name: attributes.map(|a| a.name.clone()).unwrap_or_default(),
                        peer_ur_ls: node.peer_urls.clone(),
                        client_ur_ls: attributes
                            .map(|a| a.client_urls.clone())
                            .unwrap_or_default(),
                        is_learner: !voters.contains(id) && !node.pending_voter,
                    }
                })
                .collect()
        })
    }

    /// Waits until every write acknowledged so far can be read here.
    ///
    /// # Errors
    /// LeaderChanged, Timeout.
    pub async fn linearize(&self) -> Result<(), NodeError> {
        if self.status.leads_alone() {
            return Ok(());
        }
        let wait = async {
            let (sender, receiver) = oneshot::channel();
            self.reads.send(sender).await.map_err(|_| Error::Stopped)?;
            let index = receiver.await.map_err(|_| Error::Stopped)??;
            self.status.applied().wait(index).await;
            Ok(())
        };
        match self.within_timeout(wait).await {
            Ok(result) => result,
            // The same with and without a leader (contract 2.1).
            Err(Elapsed) => Err(Error::Timeout.into()),
        }
    }

    /// Serves a range, linearizably unless it asks otherwise.
    ///
    /// # Errors
    /// Those of contract 2.2.
    pub async fn range(&self, request: RangeRequest) -> Result<raw::RangeResponse, Status> {
        let began = tokio::time::Instant::now();
        let linearized = if request.serializable {
            Ok(())
        } else {
            self.linearize().await
        };
        let result = match linearized {
            Ok(()) => {
                let began = tokio::time::Instant::now();
                let found = self.range_here(request).await;
                self.metrics.range_read(began.elapsed(), found.is_ok());
                found
            }
            Err(error) => Err(error.into()),
        };
        self.metrics
            .request(Operation::Range, began.elapsed(), result.is_ok());
        result
    }

    /// Serves a range from the local state, as it is.
    async fn range_here(&self, request: RangeRequest) -> Result<raw::RangeResponse, Status> {
        match ended(self.reader.prepare_range(&request))?.finish_resident() {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(prepared)) => blocking(move || prepared.finish()).await,
            Err(error) => Err(refusal(error).into()),
        }
    }

    /// Serves a transaction of ranges only.
    ///
    /// # Errors
    /// Those of contract 2.5.
    pub async fn read_only_txn(
        &self,
        request: TxnRequest,
        serializable: bool,
    ) -> Result<raw::TxnResponse, Status> {
        let began = tokio::time::Instant::now();
        let read = async {
            if !serializable {
                self.linearize().await?;
            }
            let reader = self.reader.clone();
            blocking(move || reader.txn(&request)).await
        };
        let result = read.await;
        self.metrics
            .request(Operation::ReadonlyTxn, began.elapsed(), result.is_ok());
        result
    }

    /// Opens a range that is read in chunks.
    ///
    /// # Errors
    /// Those of contract 2.3.
    pub async fn range_stream(&self, request: &RangeRequest) -> Result<RangeStream, Status> {
        if !request.serializable {
            self.linearize().await?;
        }
        ended(self.reader.range_stream(request))
    }

    /// Replicates a request and gives its response.
    ///
    /// # Errors
    /// What apply refuses, and those of contract 2.1 for what does not get there.
    pub async fn propose(&self, request: Request) -> Result<Response, NodeError> {
        if self.intake_closed.load(Ordering::Acquire) {
            return Err(Error::Stopped.into());
        }
        let reservation = self.quota.admit(self, &request).await?;
        self.propose_reserved(request, reservation).await
    }

    /// As [`Node::propose`], without the quota: for the member's own commands.
    ///
    /// # Errors
    /// As [`Node::propose`].
    pub async fn propose_unchecked(&self, request: Request) -> Result<Response, NodeError> {
        self.propose_reserved(request, None).await
    }

    async fn propose_reserved(
        &self,
        request: Request,
        reservation: Option<Reservation>,
    ) -> Result<Response, NodeError> {
        let operation = Operation::of_request(Some(&request));
        let command = self.command(request);
        if command.bytes() > self.config.max_request_bytes + KEY_OVERHEAD_BYTES {
            return Err(Error::RequestTooLarge.into());
        }
        self.check_lag()?;
        let began = tokio::time::Instant::now();
        let mut pending = PendingProposal::begin(&*self.metrics, operation, began);
        let replicated = self
            .within_timeout(self.replicate(command, reservation))
            .await;
        pending.ok = matches!(replicated, Ok(Ok(_)));
        pending.succeeded = matches!(replicated, Ok(Ok(Ok(_))));
        drop(pending);
        let outcome = match replicated {
            Ok(outcome) => outcome?,
            Err(Elapsed) if self.status.leader().leader.is_none() => {
                return Err(NodeError::DeadlineExceeded);
            }
            Err(Elapsed) => return Err(self.timeout_error(began).into()),
        };
        let reply = outcome.map_err(NodeError::Etcd)?;
        let response = if reply.needs_disk() {
            tokio::task::spawn_blocking(move || reply.resolve())
                .await
                .map_err(|error| NodeError::Other(error.to_string()))?
        } else {
            reply.resolve()
        };
        response.map_err(|error| refusal(error).into())
    }

    /// Replicates a request as the leader, or not at all: it never goes through another member, and
    /// is not tried again. For what only holds while this member leads, such as the end of a lease.
    ///
    /// # Errors
    /// NotLeader, what apply refuses, and what leaves its fate unknown.
    pub async fn propose_as_leader(&self, request: Request) -> Result<(), NodeError> {
        let proposed = self.propose_here(self.command(request), None);
        match self.within_timeout(proposed).await {
            Ok(Ok(outcome)) => outcome.map(drop).map_err(NodeError::Etcd),
            Ok(Err(ProposeError::Definite(error) | ProposeError::Indefinite(error))) => {
                Err(error.into())
            }
            Err(Elapsed) => Err(Error::Timeout.into()),
        }
    }

    /// Awaits a request for as long as one may take (contract 2.1).
    async fn within_timeout<F: Future>(&self, request: F) -> Result<F::Output, Elapsed> {
        let limit = self.config.request_timeout();
        self.deadlines.within(limit, request).await
    }

    fn command(&self, request: Request) -> Measured {
        Measured::of(Command {
            request_id: self.next_request_id.fetch_add(1, Ordering::Relaxed),
            user: String::new(),
            auth_revision: 0,
            request: Some(request),
        })
    }

    /// Refuses proposals while apply is far behind.
    fn check_lag(&self) -> Result<(), NodeError> {
        let committed = self.status.with_metrics(|metrics| {
            metrics
                .local_committed
                .as_ref()
                .map_or(0, openraft::LogId::index)
        });
        if committed > self.status.applied().index() + APPLY_LAG_MAX {
            return Err(Error::RequestTooManyRequests.into());
        }
        Ok(())
    }

    /// Gets a command into the log, through the leader if that is another member. What certainly
    /// was not appended is tried again until the caller's timeout.
    async fn replicate(
        &self,
        command: Measured,
        reservation: Option<Reservation>,
    ) -> Result<Outcome, NodeError> {
        loop {
            let view = self.status.leader();
            let answer = if self.raft.is_leader() {
                let (command, reservation) = (command.clone(), reservation.clone());
                self.propose_here(command, reservation).await
            } else if let Some(leader) = view.remote() {
                self.propose_through(leader, command.command(), reservation.clone())
                    .await
            } else {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            };
            match answer {
                Ok(outcome) => return Ok(outcome),
                Err(ProposeError::Definite(Error::NotLeader | Error::NoLeader)) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(ProposeError::Definite(error) | ProposeError::Indefinite(error)) => {
                    return Err(error.into());
                }
            }
        }
    }

    async fn propose_here(&self, command: Measured, reservation: Option<Reservation>) -> Answer {
        let (waiter, receiver) = LocalWaiter::new(reservation);
        self.enqueue(Proposal {
            command,
            waiter: Waiter::Local(waiter),
        })
        .await;
        receiver
            .await
            .unwrap_or(Err(ProposeError::Indefinite(Error::Stopped)))
    }

    async fn propose_through(
        &self,
        leader: u64,
        command: &Command,
        reservation: Option<Reservation>,
    ) -> Answer {
        let (waiter, receiver) = LocalWaiter::new(reservation);
        let id = command.request_id;
        self.forwarded.insert(id, waiter);
        // A caller that goes away takes its waiter along.
        let _guard = ForwardedGuard {
            forwarded: &self.forwarded,
            id,
        };
        self.forwarder
            .propose(leader, id, command.encode_to_vec().into())
            .await;
        receiver
            .await
            .unwrap_or(Err(ProposeError::Indefinite(Error::Stopped)))
    }

    /// Queues a proposal for the next batch.
    pub async fn enqueue(&self, proposal: Proposal) {
        if let Err(mpsc::error::SendError(proposal)) = self.proposals.send(proposal).await {
            proposal
                .waiter
                .failed(ProposeError::Indefinite(Error::Stopped));
        }
    }

    /// Which of the timeout texts applies (contract 2.1).
    fn timeout_error(&self, began: tokio::time::Instant) -> Error {
        if self
            .status
            .became_leader_within(began, 2 * self.config.election_timeout)
        {
            return Error::TimeoutDueToLeaderFail;
        }
        if self.status.leader().leader.is_none() {
            return Error::TimeoutDueToConnectionLost;
        }
        Error::Timeout
    }
}

/// The page `/version`, in etcd's order of keys; `cluster` is absent until it is decided.
#[must_use]
pub fn version_json(cluster: Option<&str>) -> String {
    let (cluster, storage) =
        cluster.map_or(("not_decided", "unknown"), |version| (version, version));
    format!(
        r#"{{"etcdserver":"{}","etcdcluster":"{cluster}","storage":"{storage}"}}"#,
        keelson_proto::SERVER_VERSION
    )
}

/// Counts a proposal under way; one whose caller goes away has failed.
struct PendingProposal<'a> {
    metrics: &'a dyn observer::NodeMetrics,
    operation: Operation,
    began: tokio::time::Instant,
    /// It was applied.
    ok: bool,
    /// And not refused.
    succeeded: bool,
}

impl<'a> PendingProposal<'a> {
    fn begin(
        metrics: &'a dyn observer::NodeMetrics,
        operation: Operation,
        began: tokio::time::Instant,
    ) -> Self {
        metrics.proposal_began();
        Self {
            metrics,
            operation,
            began,
            ok: false,
            succeeded: false,
        }
    }
}

impl Drop for PendingProposal<'_> {
    fn drop(&mut self) {
        self.metrics.proposal_ended(self.ok);
        self.metrics
            .request(self.operation, self.began.elapsed(), self.succeeded);
    }
}

struct ForwardedGuard<'a> {
    forwarded: &'a Forwarded,
    id: u64,
}

impl Drop for ForwardedGuard<'_> {
    fn drop(&mut self) {
        drop(self.forwarded.take(self.id));
    }
}

/// What the client is told of an error of the state; one that is not deterministic ends the process
/// (design R4).
pub fn refusal(error: ApplyError) -> Error {
    match error {
        ApplyError::Refused(error) => error,
        error => crate::fatal("read state", &error),
    }
}

/// Maps the error of a read.
///
/// # Errors
/// The refusal.
pub fn ended<T>(result: Result<T, ApplyError>) -> Result<T, Status> {
    result.map_err(|error| refusal(error).into())
}

/// Runs a read that may wait for the disk on the blocking pool.
///
/// # Errors
/// The read's refusal.
pub async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ApplyError> + Send + 'static,
) -> Result<T, Status> {
    let result = tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
    ended(result)
}
