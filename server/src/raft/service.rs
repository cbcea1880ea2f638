//! The Raft service on the peer port: what the other members send to this one (design 7).
//!
//! Every call is checked first: the same cluster, addressed to this member, from a member that has
//! not been removed, in a protocol version this program speaks. Only then is Raft asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use keelson_proto::keelsonpb::{self, append_response, raft_server};
use keelson_state::store::KeeperHandle;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::Fatal;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::leadership::Leadership;
use super::network::{PROTOCOL_VERSION, metadata};
use super::peers::Peers;
use super::plausible::{Implausible, Known};
use super::state_machine::StateMachine;
use super::types::{Entry, LogId, TypeConfig, Vote};
use super::{codec, snapshot};

/// openraft with Keelson's state machine.
pub type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Where the membership of a bootstrap stands in the log.
const BOOTSTRAP_INDEX: u64 = 0;
/// Requests of a log stream that are decoded and not yet taken by Raft.
const STREAM_BUFFER: usize = 4;
/// The text a removed member gets from its former peers (contract 4.3).
pub const REMOVED: &str = "the member has been permanently removed from the cluster";

/// Who this member is and whom it believes.
pub struct PeerContext {
    /// This member's id.
    pub member_id: u64,
    /// The cluster's id.
    pub cluster_id: u64,
    /// Takes in checkpoints.
    pub keeper: KeeperHandle,
    /// Which checkpoint is being received.
    pub intake: snapshot::Intake,
    /// Connections and when peers were heard.
    pub peers: Arc<Peers>,
    /// Who leads, as far as is known here.
    pub leadership: Arc<Leadership>,
    /// Whether a member has published itself, so has been running.
    pub has_published: Box<dyn Fn(u64) -> bool + Send + Sync>,
    /// Whether a member id has been removed for good.
    pub is_removed: Box<dyn Fn(u64) -> bool + Send + Sync>,
    /// Whether this member takes part: one without data does not before its peers have said that it
    /// is new to them. It could give a vote that it has given before.
    pub admitted: Arc<AtomicBool>,
    /// A peer silent for longer than this counts as gone.
    pub silence_max: Duration,
}

impl PeerContext {
    /// Checks the metadata of a call; gives the sender's id.
    ///
    /// # Errors
    /// When the call is not for this member of this cluster.
    pub fn check(&self, headers: &MetadataMap) -> Result<u64, Status> {
        let hex = |name: &'static str| -> Result<u64, Status> {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| u64::from_str_radix(value, 16).ok())
                .ok_or_else(|| Status::invalid_argument(format!("missing or bad {name}")))
        };
        let protocol = headers
            .get(metadata::PROTOCOL)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse::<u32>().ok());
        if protocol != Some(PROTOCOL_VERSION) {
            return Err(Status::failed_precondition(format!(
                "peer protocol version {protocol:?} is not {PROTOCOL_VERSION}"
            )));
        }
        let (cluster, from, to) = (
            hex(metadata::CLUSTER)?,
            hex(metadata::FROM)?,
            hex(metadata::TO)?,
        );
        if cluster != self.cluster_id {
            tracing::warn!(
                "remote-peer-id" = format!("{from:x}"),
                "remote-peer-cluster-id" = format!("{cluster:x}"),
                "local-member-cluster-id" = format!("{:x}", self.cluster_id),
                "request cluster ID mismatch"
            );
            return Err(keelson_proto::error::Error::ClusterIDMismatch.into());
        }
        if to != self.member_id {
            return Err(Status::failed_precondition(format!(
                "message for member {to:x} reached member {:x}",
                self.member_id
            )));
        }
        if (self.is_removed)(from) {
            return Err(Status::permission_denied(REMOVED));
        }
        if !self.admitted.load(Ordering::Acquire) {
            return Err(Status::unavailable(
                "the member has not joined its cluster yet",
            ));
        }
        self.peers.heard(from, self.silence_max);
        Ok(from)
    }
}

/// The service.
#[derive(Clone)]
pub struct RaftService {
    raft: Raft,
    context: Arc<PeerContext>,
}

impl RaftService {
    /// Serves this Raft.
    #[must_use]
    pub fn new(raft: Raft, context: Arc<PeerContext>) -> Self {
        Self { raft, context }
    }

    async fn answer_vote(
        &self,
        request: Request<keelsonpb::VoteRequest>,
        pre_vote: bool,
    ) -> Result<Response<keelsonpb::VoteResponse>, Status> {
        let from = self.context.check(request.metadata())?;
        let message = request.into_inner();
        let stats = self.context.peers.stats(from);
        stats.received_bytes.add(message.encoded_len() as u64);
        let rpc = VoteRequest::<TypeConfig> {
            vote: required_vote(message.vote.as_ref())?,
            last_log_id: message.last_log_id.as_ref().map(codec::log_id_from_proto),
            leadership_transfer: message.leadership_transfer,
        };
        Known::of(&self.raft)
            .check_vote_request(from, &rpc)
            .map_err(|reason| implausible(from, &reason))?;
        let response: Result<VoteResponse<TypeConfig>, _> = if pre_vote {
            self.raft.pre_vote(rpc).await
        } else {
            self.raft.vote(rpc).await
        };
        let response = response.map_err(|error| fatal(&error))?;
        let answer = keelsonpb::VoteResponse {
            vote: Some(codec::vote_to_proto(&response.vote)),
            vote_granted: response.vote_granted,
            last_log_id: response.last_log_id.as_ref().map(codec::log_id_to_proto),
        };
        stats.sent_bytes.add(answer.encoded_len() as u64);
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    type StreamAppendStream = std::pin::Pin<
        Box<dyn Stream<Item = Result<keelsonpb::AppendResponse, Status>> + Send + 'static>,
    >;

    async fn hello(
        &self,
        request: Request<keelsonpb::HelloRequest>,
    ) -> Result<Response<keelsonpb::HelloResponse>, Status> {
        // Not `check`: the answer itself tells a stranger or a removed member what it is.
        let from = request.get_ref().from;
        let (last, undecided) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let applied = metrics.last_applied.as_ref().map(LogId::index);
            let last = metrics.last_log_index;
            let leads_nobody = self.context.leadership.view(&metrics).leader.is_none();
            let voted = &metrics.vote.leader_id;
            let for_other = voted.term > 0 && voted.voted_for != self.context.member_id;
            let unknown = may_hold_unknown(applied, last, for_other);
            (last, leads_nobody && unknown)
        };
        Ok(Response::new(keelsonpb::HelloResponse {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: self.context.cluster_id,
            member_id: self.context.member_id,
            server_version: keelson_proto::SERVER_VERSION.to_owned(),
            removed: (self.context.is_removed)(from),
            published: (self.context.has_published)(from),
            last_log_index: last.unwrap_or(0),
            undecided,
        }))
    }

    async fn vote(
        &self,
        request: Request<keelsonpb::VoteRequest>,
    ) -> Result<Response<keelsonpb::VoteResponse>, Status> {
        self.answer_vote(request, false).await
    }

    async fn pre_vote(
        &self,
        request: Request<keelsonpb::VoteRequest>,
    ) -> Result<Response<keelsonpb::VoteResponse>, Status> {
        self.answer_vote(request, true).await
    }

    async fn stream_append(
        &self,
        request: Request<Streaming<keelsonpb::AppendRequest>>,
    ) -> Result<Response<Self::StreamAppendStream>, Status> {
        let from = self.context.check(request.metadata())?;
        let mut inbound = request.into_inner();
        let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_BUFFER);
        let context = Arc::clone(&self.context);
        let stats = context.peers.stats(from);
        let sent_bytes = Arc::clone(&stats.sent_bytes);
        let raft = self.raft.clone();
        tokio::spawn(async move {
            let mut reached = None;
            while let Some(message) = inbound.next().await {
                if let Ok(message) = &message {
                    stats.received_bytes.add(message.encoded_len() as u64);
                }
                let request = match message
                    .and_then(|message| checked_append(&raft, from, message, &mut reached))
                    .map_err(|status| status.to_string())
                {
                    Ok(request) => request,
                    Err(reason) => {
                        stats.received_failures.increment();
                        tracing::debug!(from = format!("{from:x}"), reason, "log stream ended");
                        break;
                    }
                };
                context.peers.heard(from, context.silence_max);
                context.leadership.heard_from_leader(&request.vote);
                if sender.send(request).await.is_err() {
                    break;
                }
            }
        });
        let outbound = self
            .raft
            .stream_append(ReceiverStream::new(receiver))
            .map(move |result| {
                let answer = append_to_proto(result);
                sent_bytes.add(answer.encoded_len() as u64);
                Ok(answer)
            });
        Ok(Response::new(Box::pin(outbound)))
    }

    async fn heartbeat(
        &self,
        request: Request<keelsonpb::AppendRequest>,
    ) -> Result<Response<keelsonpb::AppendResponse>, Status> {
        let from = self.context.check(request.metadata())?;
        let message = request.into_inner();
        let stats = self.context.peers.stats(from);
        stats.received_bytes.add(message.encoded_len() as u64);
        let rpc = checked_append(&self.raft, from, message, &mut None)?;
        self.context.leadership.heard_from_leader(&rpc.vote);
        let prev = rpc.prev_log_id;
        let response = self
            .raft
            .append_entries(rpc)
            .await
            .map_err(|error| fatal(&error))?;
        let result: StreamAppendResult<TypeConfig> = match response {
            AppendEntriesResponse::Success => Ok(prev),
            AppendEntriesResponse::PartialSuccess(log_id) => Ok(log_id),
            AppendEntriesResponse::Conflict => {
                // Raft never reports a conflict with the very beginning of the log.
                let prev = prev.unwrap_or_else(|| LogId::new(0.into(), 0));
                Err(StreamAppendError::Conflict(prev))
            }
            AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
        };
        let answer = append_to_proto(Ok(result));
        stats.sent_bytes.add(answer.encoded_len() as u64);
        Ok(Response::new(answer))
    }

    async fn transfer_leader(
        &self,
        request: Request<keelsonpb::TransferLeaderRequest>,
    ) -> Result<Response<keelsonpb::TransferLeaderResponse>, Status> {
        use keelsonpb::transfer_leader_response::Result as Answer;
        let from = self.context.check(request.metadata())?;
        let message = request.into_inner();
        let rpc = TransferLeaderRequest::<TypeConfig>::new(
            required_vote(message.from_leader.as_ref())?,
            message.to,
            message.last_log_id.as_ref().map(codec::log_id_from_proto),
        );
        Known::of(&self.raft)
            .check_leader(from, rpc.from_leader(), "last log id", rpc.last_log_id())
            .map_err(|reason| implausible(from, &reason))?;
        let answer = match self
            .raft
            .handle_transfer_leader(rpc)
            .await
            .map_err(|error| fatal(&error))?
        {
            Ok(()) => Answer::Accepted(keelsonpb::Blank {}),
            Err(TransferLeaderError::VoteChanged { actual, .. }) => {
                Answer::VoteChanged(codec::vote_to_proto(&actual))
            }
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                Answer::LogNotFlushed(keelsonpb::Matching {
                    log_id: actual.as_ref().map(codec::log_id_to_proto),
                })
            }
        };
        Ok(Response::new(keelsonpb::TransferLeaderResponse {
            result: Some(answer),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<keelsonpb::SnapshotChunk>>,
    ) -> Result<Response<keelsonpb::InstallSnapshotResponse>, Status> {
        let from = self.context.check(request.metadata())?;
        let stats = self.context.peers.stats(from);
        let timer = stats.snapshots_received.begin();
        let heard = |bytes: usize| {
            self.context.peers.heard(from, self.context.silence_max);
            stats.received_bytes.add(bytes as u64);
        };
        let vote = snapshot::receive(
            &self.raft,
            &self.context.keeper,
            &self.context.intake,
            self.context.cluster_id,
            request.into_inner(),
            from,
            heard,
        )
        .await?;
        timer.succeeded();
        Ok(Response::new(keelsonpb::InstallSnapshotResponse {
            vote: Some(codec::vote_to_proto(&vote)),
        }))
    }
}

/// Raft has stopped: the caller backs off.
pub(super) fn fatal(error: &impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

/// Decodes a vote that must be there.
pub(super) fn required_vote(vote: Option<&keelsonpb::Vote>) -> Result<Vote, Status> {
    vote.map(codec::vote_from_proto)
        .ok_or_else(|| Status::invalid_argument("message has no vote"))
}

/// What cannot be decoded or applied here is refused before it is stored: a log that holds it would
/// end this member at each start.
fn append_from_proto(
    message: keelsonpb::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    let entries = message
        .entries
        .into_iter()
        .map(codec::entry_from_peer)
        .collect::<Result<Vec<Entry>, _>>()
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(AppendEntriesRequest {
        vote: required_vote(message.vote.as_ref())?,
        prev_log_id: message.prev_log_id.as_ref().map(codec::log_id_from_proto),
        entries,
        leader_commit: message.leader_commit.as_ref().map(codec::log_id_from_proto),
    })
}

fn checked_append(
    raft: &Raft,
    from: u64,
    message: keelsonpb::AppendRequest,
    reached: &mut Option<u64>,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    let mut request = append_from_proto(message).inspect_err(|status| {
        tracing::error!(
            from = format!("{from:x}"),
            reason = status.message(),
            "refused log entries that this member cannot apply"
        );
    })?;
    let known = Known::of(raft);
    known
        .check_append(from, &request)
        .map_err(|reason| implausible(from, &reason))?;
    known.bound_commit(&mut request, reached);
    Ok(request)
}

/// Somebody must look at a member that sends this.
pub(super) fn implausible(from: u64, reason: &Implausible) -> Status {
    tracing::error!(
        from = format!("{from:x}"),
        reason = %reason,
        "refused a message that no sound member sends"
    );
    Status::invalid_argument(reason.to_string())
}

/// Whether the log may tell of members what is not applied yet. The first entry does not: it is the
/// membership of the bootstrap, and whoever waits to hear that it is new to this member would wait for
/// ever, since without its vote the entry is never applied. But if this member has voted for another
/// one, the election may have been won, and what followed may not have come here.
fn may_hold_unknown(applied: Option<u64>, last: Option<u64>, voted_for_other: bool) -> bool {
    let voted_away = applied.is_none() && voted_for_other;
    voted_away || applied < last && last > Some(BOOTSTRAP_INDEX)
}

fn append_to_proto(
    result: Result<StreamAppendResult<TypeConfig>, Fatal<TypeConfig>>,
) -> keelsonpb::AppendResponse {
    use append_response::Result as Answer;
    let answer = match result {
        Ok(Ok(log_id)) => Answer::Matching(keelsonpb::Matching {
            log_id: log_id.as_ref().map(codec::log_id_to_proto),
        }),
        Ok(Err(StreamAppendError::Conflict(log_id))) => {
            Answer::Conflict(codec::log_id_to_proto(&log_id))
        }
        Ok(Err(StreamAppendError::HigherVote(vote))) => {
            Answer::HigherVote(codec::vote_to_proto(&vote))
        }
        Err(fatal) => Answer::Fatal(fatal.to_string()),
    };
    keelsonpb::AppendResponse {
        result: Some(answer),
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
