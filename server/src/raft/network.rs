//! Raft's messages to the other members, over gRPC (design 7).
//!
//! - The log goes through one bidirectional stream a follower, pipelined: the next request leaves
//!   before the previous is answered. Bytes under way are bounded, and a stream that makes no
//!   progress is ended: a hung follower would otherwise block every purge (openraft-notes 3, 4).
//! - A heartbeat is a unary call on a connection of its own.
//! - `new_client` is called for every vote: a client is a cheap handle over [`Peers`].

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use keelson_proto::keelsonpb::{self, append_response, raft_client::RaftClient};
use openraft::base::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use prost::Message as _;
use tokio::sync::Notify;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::codec;
use super::peer_stats::PeerStats;
use super::peers::{Peers, Purpose};
use super::plausible::{self, Implausible, Known};
use super::snapshot::{self, SnapshotHandle};
use super::transfers::{Patience, Transfers};
use super::types::{LogId, Node, TypeConfig, Vote};

/// Log bytes to one follower that are sent and not answered. A few round trips' worth of full
/// requests; above it the stream waits.
const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;
/// A log stream with unanswered requests and no answer for this long is ended. Longer than any
/// stall of a healthy disk.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest message between members: a full append request plus room for its envelope.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Names of the metadata that every peer call carries.
pub(super) mod metadata {
    /// Cluster id, hexadecimal.
    pub(crate) const CLUSTER: &str = "keelson-cluster-id";
    /// Sender's member id, hexadecimal.
    pub(crate) const FROM: &str = "keelson-from";
    /// Receiver's member id, hexadecimal.
    pub(crate) const TO: &str = "keelson-to";
    /// Version of the peer protocol.
    pub(crate) const PROTOCOL: &str = "keelson-protocol";
}

/// The version of the peer protocol this program speaks.
pub const PROTOCOL_VERSION: u32 = 1;

type Result<T, E = RPCError<TypeConfig>> = std::result::Result<T, E>;
type ResultStream<'s> = futures::stream::BoxStream<'s, Result<StreamAppendResult<TypeConfig>>>;

/// Makes clients to peers.
#[derive(Clone, Debug)]
pub struct Network {
    peers: Arc<Peers>,
    cluster_id: u64,
    /// A peer silent for longer than this counts as gone.
    silence_max: Duration,
    /// Checkpoints on their way.
    pub(super) transfers: Arc<Transfers>,
    patience: Patience,
}

impl Network {
    /// Clients over these peers.
    #[must_use]
    pub fn new(peers: Arc<Peers>, cluster_id: u64, silence_max: Duration) -> Self {
        Self {
            peers,
            cluster_id,
            silence_max,
            transfers: Arc::default(),
            patience: Patience::default(),
        }
    }

    /// Checkpoints on their way to peers.
    #[must_use]
    pub fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// How long a checkpoint on its way may stand still.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    fn client(&self, target: u64, purpose: Purpose) -> Client {
        Client {
            network: self.clone(),
            target,
            purpose,
            matched: None,
        }
    }

    /// What went to and came from a peer.
    #[must_use]
    pub fn stats(&self, target: u64) -> Arc<PeerStats> {
        self.peers.stats(target)
    }

    /// Whether a peer answers the smallest call there is.
    pub async fn hello(&self, target: u64) -> bool {
        let Ok(channel) = self.peers.channel(target, Purpose::Control) else {
            return false;
        };
        let message = keelsonpb::HelloRequest {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: self.cluster_id,
            from: self.peers.local_id(),
            to: target,
            server_version: keelson_proto::SERVER_VERSION.to_owned(),
        };
        let request = self.request(target, message);
        RaftClient::new(channel).hello(request).await.is_ok()
    }

    /// A request with the metadata that the receiver checks.
    pub fn request<T>(&self, target: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        for (name, value) in [
            (metadata::CLUSTER, format!("{:x}", self.cluster_id)),
            (metadata::FROM, format!("{:x}", self.peers.local_id())),
            (metadata::TO, format!("{target:x}")),
            (metadata::PROTOCOL, PROTOCOL_VERSION.to_string()),
        ] {
            if let Ok(value) = value.parse() {
                metadata.insert(name, value);
            }
        }
        request
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _node: &Node) -> Client {
        self.client(target, Purpose::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &Node) -> Client {
        self.client(target, Purpose::Control)
    }
}

/// One peer, for one purpose.
#[derive(Debug)]
pub struct Client {
    network: Network,
    target: u64,
    purpose: Purpose,
    /// What the peer has acknowledged on log streams of this vote.
    matched: Option<(Vote, LogId)>,
}

impl Client {
    /// Refuses an answer that no sound member gives. Such a peer is backed off from: asked again at
    /// once it would answer the same.
    fn implausible(&self, reason: &Implausible) -> RPCError<TypeConfig> {
        tracing::error!(
            from = format!("{:x}", self.target),
            reason = %reason,
            "refused an answer that no sound member gives"
        );
        self.stats().received_failures.increment();
        RPCError::Unreachable(Unreachable::new(reason))
    }

    fn checked_vote(&self, asked: &Vote, answered: Vote) -> Result<Vote> {
        let plausible = Known::of_vote(asked)
            .answered_vote(self.target, asked, answered)
            .map_err(|reason| self.implausible(&reason))?;
        if plausible != answered {
            tracing::error!(
                from = format!("{:x}", self.target),
                term = answered.leader_id.term,
                "a peer follows a leader that cannot be: a later term is needed"
            );
        }
        Ok(plausible)
    }

    /// Holds the answer to an append against what was sent.
    fn checked_append(
        &mut self,
        vote: &Vote,
        sent: Option<Sent>,
        answer: StreamAppendResult<TypeConfig>,
    ) -> Result<StreamAppendResult<TypeConfig>> {
        let Sent { prev, last, .. } =
            sent.ok_or_else(|| self.implausible(&Implausible::Unasked))?;
        let matched = self
            .matched
            .filter(|(of, _)| of == vote)
            .map(|(_, matched)| matched);
        Ok(match answer {
            Ok(matching) => {
                plausible::check_matching(prev, last, matching)
                    .map_err(|reason| self.implausible(&reason))?;
                if let Some(matching) = matching.max(matched) {
                    self.matched = Some((*vote, matching));
                }
                answer
            }
            Err(StreamAppendError::Conflict(conflict)) => {
                plausible::check_conflict(prev, matched, conflict)
                    .map_err(|reason| self.implausible(&reason))?;
                answer
            }
            Err(StreamAppendError::HigherVote(higher)) => Err(StreamAppendError::HigherVote(
                self.checked_vote(vote, higher)?,
            )),
        })
    }
    fn raft(&self, purpose: Purpose) -> Result<RaftClient<Channel>> {
        let channel = self
            .network
            .peers
            .channel(self.target, purpose)
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn stats(&self) -> Arc<PeerStats> {
        self.network.peers.stats(self.target)
    }

    fn failed(&self, status: &Status) -> RPCError<TypeConfig> {
        self.stats().sent_failures.increment();
        failed(&self.network.peers, self.target, status)
    }

    fn heard(&self) {
        self.network
            .peers
            .heard(self.target, self.network.silence_max);
    }

    async fn call_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
        pre_vote: bool,
    ) -> Result<VoteResponse<TypeConfig>> {
        let message = keelsonpb::VoteRequest {
            vote: Some(codec::vote_to_proto(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(codec::log_id_to_proto),
            leadership_transfer: rpc.leadership_transfer,
        };
        let mut client = self.raft(Purpose::Control)?;
        let stats = self.stats();
        stats.sent_bytes.add(message.encoded_len() as u64);
        let mut request = self.network.request(self.target, message);
        request.set_timeout(option.soft_ttl());
        let response = if pre_vote {
            client.pre_vote(request).await
        } else {
            client.vote(request).await
        };
        let response = response
            .map_err(|status| self.failed(&status))?
            .into_inner();
        self.heard();
        stats.received_bytes.add(response.encoded_len() as u64);
        let vote = response.vote.as_ref().ok_or_else(|| missing("vote"))?;
        Ok(VoteResponse {
            vote: self.checked_vote(&rpc.vote, codec::vote_from_proto(vote))?,
            vote_granted: response.vote_granted,
            last_log_id: response.last_log_id.as_ref().map(codec::log_id_from_proto),
        })
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>> {
        let mut client = self.raft(Purpose::Control)?;
        let message = append_to_proto(&rpc);
        let stats = self.stats();
        stats.sent_bytes.add(message.encoded_len() as u64);
        let mut request = self.network.request(self.target, message);
        request.set_timeout(option.soft_ttl());
        let response = client
            .heartbeat(request)
            .await
            .map_err(|status| {
                stats.heartbeat_failures.increment();
                self.failed(&status)
            })?
            .into_inner();
        self.heard();
        stats.received_bytes.add(response.encoded_len() as u64);
        Ok(match append_result(response)? {
            Ok(_) => AppendEntriesResponse::Success,
            Err(StreamAppendError::Conflict(conflict)) => {
                // A heartbeat follows what the peer has acknowledged.
                plausible::check_conflict(rpc.prev_log_id, rpc.prev_log_id, conflict)
                    .map_err(|reason| self.implausible(&reason))?;
                AppendEntriesResponse::Conflict
            }
            Err(StreamAppendError::HigherVote(higher)) => {
                AppendEntriesResponse::HigherVote(self.checked_vote(&rpc.vote, higher)?)
            }
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<ResultStream<'s>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        match self.purpose {
            Purpose::Log => Box::pin(self.pipelined_append(input)),
            Purpose::Control | Purpose::Forward => stream_append_sequential(self, input, option),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>> {
        self.call_vote(rpc, option, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>> {
        self.call_vote(rpc, option, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: snapshot::Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let client = self.raft(Purpose::Log)?;
        let index = snapshot.meta.last_log_id.map_or(0, |id| id.index());
        let transfer = self.network.transfers.begin(index);
        let stats = self.stats();
        let timer = stats.snapshots_sent.begin();
        let send = snapshot::send(client, &self.network, self.target, vote, snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => match sent {
                Ok(answered) => {
                    let answered = self.checked_vote(&vote, answered)?;
                    transfer.installed();
                    timer.succeeded();
                    Ok(SnapshotResponse::new(answered))
                }
                Err(snapshot::SendError::Peer(status)) => Err(self.failed(&status).into()),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>> {
        use keelsonpb::transfer_leader_response::Result as Answer;
        let message = keelsonpb::TransferLeaderRequest {
            from_leader: Some(codec::vote_to_proto(rpc.from_leader())),
            to: *rpc.to_node_id(),
            last_log_id: rpc.last_log_id().map(codec::log_id_to_proto),
        };
        let mut client = self.raft(Purpose::Control)?;
        let mut request = self.network.request(self.target, message);
        request.set_timeout(option.soft_ttl());
        let response = client
            .transfer_leader(request)
            .await
            .map_err(|status| self.failed(&status))?
            .into_inner();
        Ok(match response.result.ok_or_else(|| missing("result"))? {
            Answer::Accepted(_) => Ok(()),
            Answer::VoteChanged(actual) => Err(TransferLeaderError::VoteChanged {
                expected: *rpc.from_leader(),
                actual: codec::vote_from_proto(&actual),
            }),
            Answer::LogNotFlushed(matching) => Err(TransferLeaderError::LogNotFlushed {
                expected: rpc.last_log_id().copied(),
                actual: matching.log_id.as_ref().map(codec::log_id_from_proto),
            }),
        })
    }
}

impl Client {
    /// The log stream: requests go out as openraft makes them, answers come back in order.
    ///
    /// openraft waits out its backoff where the first request is made, so that one is taken before
    /// the peer is called: a peer that refuses connections would otherwise be called in a loop.
    async fn pipelined_append<'s, S>(&'s mut self, mut input: S) -> Result<ResultStream<'s>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let Some(first) = input.next().await else {
            return Ok(futures::stream::empty().boxed());
        };
        // A stream is of one leader.
        let vote = first.vote;
        let input = futures::stream::once(std::future::ready(first)).chain(input);
        let window = Arc::new(Window::default());
        let sent = Arc::clone(&window);
        let stats = self.stats();
        let sent_bytes = Arc::clone(&stats.sent_bytes);
        let outbound = input.then(move |request| {
            let (window, sent_bytes) = (Arc::clone(&sent), Arc::clone(&sent_bytes));
            async move {
                let message = append_to_proto(&request);
                let bytes = message.encoded_len();
                let last = request.entries.last().map(|entry| entry.log_id);
                let sent = Sent {
                    bytes,
                    prev: request.prev_log_id,
                    last: last.or(request.prev_log_id),
                };
                window.enter(sent).await;
                sent_bytes.add(bytes as u64);
                message
            }
        });
        let mut client = self.raft(Purpose::Log)?;
        let request = self.network.request(self.target, outbound);
        let inbound = client
            .stream_append(request)
            .await
            .map_err(|status| self.failed(&status))?
            .into_inner();
        let received = Arc::clone(&stats.received_bytes);
        let state = (inbound, window, self, false);
        Ok(
            futures::stream::unfold(state, move |(mut inbound, window, client, ended)| {
                let received = Arc::clone(&received);
                async move {
                    if ended {
                        return None;
                    }
                    let item = loop {
                        match tokio::time::timeout(PROGRESS_TIMEOUT, inbound.next()).await {
                            Ok(None) => return None,
                            Ok(Some(Ok(response))) => {
                                let sent = window.leave();
                                client.heard();
                                received.add(response.encoded_len() as u64);
                                break append_result(response)
                                    .and_then(|answer| client.checked_append(&vote, sent, answer));
                            }
                            Ok(Some(Err(status))) => break Err(client.failed(&status)),
                            Err(_) if window.is_empty() => {}
                            Err(_) => {
                                let status =
                                    Status::deadline_exceeded("log stream makes no progress");
                                break Err(client.failed(&status));
                            }
                        }
                    };
                    // After a conflict, a higher vote or a failure openraft opens a new stream.
                    let ended = !matches!(item, Ok(Ok(_)));
                    Some((item, (inbound, window, client, ended)))
                }
            })
            .boxed(),
        )
    }
}

/// A request under way on a log stream.
#[derive(Clone, Copy, Debug)]
struct Sent {
    bytes: usize,
    /// Its entries follow this one.
    prev: Option<LogId>,
    /// Its last entry, or that which it follows.
    last: Option<LogId>,
}

/// Requests under way on one log stream, bounded in bytes.
#[derive(Debug, Default)]
struct Window {
    bytes: AtomicUsize,
    requests: parking_lot::Mutex<VecDeque<Sent>>,
    room: Notify,
}

impl Window {
    /// Waits until the request fits; an empty window takes any size.
    async fn enter(&self, sent: Sent) {
        loop {
            let bytes = self.bytes.load(Ordering::Acquire);
            if bytes == 0 || bytes + sent.bytes <= IN_FLIGHT_BYTES_MAX {
                break;
            }
            self.room.notified().await;
        }
        self.bytes.fetch_add(sent.bytes, Ordering::AcqRel);
        self.requests.lock().push_back(sent);
    }

    /// The oldest request is answered.
    fn leave(&self) -> Option<Sent> {
        let sent = self.requests.lock().pop_front()?;
        self.bytes.fetch_sub(sent.bytes, Ordering::AcqRel);
        self.room.notify_one();
        Some(sent)
    }

    fn is_empty(&self) -> bool {
        self.requests.lock().is_empty()
    }
}

/// What openraft makes of a failed call: an unreachable peer is backed off from, anything else is
/// tried again at once.
fn failed(peers: &Peers, target: u64, status: &Status) -> RPCError<TypeConfig> {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::FailedPrecondition => {
            peers.unreachable(target);
            RPCError::Unreachable(Unreachable::new(status))
        }
        _ => RPCError::Network(NetworkError::new(status)),
    }
}

fn missing(field: &str) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(format!(
        "peer's answer has no {field}"
    )))
}

fn append_to_proto(rpc: &AppendEntriesRequest<TypeConfig>) -> keelsonpb::AppendRequest {
    keelsonpb::AppendRequest {
        vote: Some(codec::vote_to_proto(&rpc.vote)),
        prev_log_id: rpc.prev_log_id.as_ref().map(codec::log_id_to_proto),
        entries: rpc.entries.iter().map(codec::entry_to_proto).collect(),
        leader_commit: rpc.leader_commit.as_ref().map(codec::log_id_to_proto),
    }
}

fn append_result(response: keelsonpb::AppendResponse) -> Result<StreamAppendResult<TypeConfig>> {
    use append_response::Result as Answer;
    Ok(match response.result.ok_or_else(|| missing("result"))? {
        Answer::Matching(matching) => Ok(matching.log_id.as_ref().map(codec::log_id_from_proto)),
        Answer::Conflict(log_id) => Err(StreamAppendError::Conflict(codec::log_id_from_proto(
            &log_id,
        ))),
        Answer::HigherVote(vote) => {
            Err(StreamAppendError::HigherVote(codec::vote_from_proto(&vote)))
        }
        Answer::Fatal(reason) => {
            return Err(RPCError::Unreachable(Unreachable::from_string(reason)));
        }
    })
}
