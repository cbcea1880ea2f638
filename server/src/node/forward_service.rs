//! The leader's side of [`forward`](super::forward): serves what followers ask for their clients.
//!
//! What a follower asks is bounded, whatever it sends: a request that has to wait takes a place of
//! its peer, and one that finds none is refused at once. Followers try a refused request again.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use keelson_proto::error::Error;
use keelson_proto::keelsonpb::{
    ForwardItem, ForwardRequest, ForwardResponse, ForwardResult, LeaseState, MemberChange,
    MemberChanged, forward_item, forward_result, leader_server,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Request, Response, Status, Streaming};

use super::Node;
use super::propose::Proposal;
use super::read_index;
use crate::raft::service::PeerContext;
use crate::raft::types::Measured;
use crate::raft::waiters::{ProposeError, Waiter, to_proto};

/// Answers that wait to be sent: as many as a follower may have requests under way.
const RESULTS_MAX: usize = 32 * 1024;
/// Answers in one message.
const RESULTS_STEP: usize = 1024;

/// Read rounds that a peer may have under way. A sound one has a single round at a time, and one
/// more for each that it gave up waiting for.
const READ_ROUNDS_MAX: usize = 64;
/// Lease requests of a peer that may wait: for an expired lease to be revoked, for a new one to be
/// applied. Those that need not wait are answered at once.
const LEASE_WAITS_MAX: usize = 4096;
/// Membership changes of a peer that may wait. They are made one after the other.
const MEMBER_CHANGES_MAX: usize = 16;
/// Streams of a peer. A sound one has a single one, and one more for each connection that it gave up
/// and this side still takes for alive.
const STREAMS_MAX: usize = 16;
/// Under which id those have their places who say that they are somebody who is no member: one set of
/// places for all of them, however many ids they think of. 0 is no member's id.
const STRANGERS: u64 = 0;

/// The service.
#[derive(Clone)]
pub struct LeaderService {
    node: Arc<Node>,
    context: Arc<PeerContext>,
    /// By peer, while it has a stream.
    places: Arc<Mutex<HashMap<u64, Weak<Places>>>>,
}

/// What one peer may have waiting here, on all its streams together.
struct Places {
    streams: Arc<Semaphore>,
    rounds: Arc<Semaphore>,
    leases: Arc<Semaphore>,
    changes: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            rounds: Arc::new(Semaphore::new(READ_ROUNDS_MAX)),
            leases: Arc::new(Semaphore::new(LEASE_WAITS_MAX)),
            changes: Arc::new(Semaphore::new(MEMBER_CHANGES_MAX)),
        }
    }
}

impl LeaderService {
    /// Serves followers of this node.
    #[must_use]
    pub fn new(node: Arc<Node>, context: Arc<PeerContext>) -> Self {
        Self {
            node,
            context,
            places: Arc::default(),
        }
    }

    fn places(&self, from: u64) -> Arc<Places> {
        let is_member = self.context.peers.is_member(from);
        let peer = if is_member { from } else { STRANGERS };
        let mut by_peer = self.places.lock();
        if let Some(places) = by_peer.get(&peer).and_then(Weak::upgrade) {
            return places;
        }
        by_peer.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Places::default());
        by_peer.insert(peer, Arc::downgrade(&places));
        places
    }
}

#[tonic::async_trait]
impl leader_server::Leader for LeaderService {
    type ForwardStream = Pin<Box<dyn Stream<Item = Result<ForwardResponse, Status>> + Send>>;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let from = self.context.check(request.metadata())?;
        let places = self.places(from);
        let Ok(stream) = Arc::clone(&places.streams).try_acquire_owned() else {
            return Err(Status::resource_exhausted("too many streams of this peer"));
        };
        let stats = self.context.peers.stats(from);
        let sent_bytes = Arc::clone(&stats.sent_bytes);
        let mut inbound = request.into_inner();
        let (results, receiver) = mpsc::channel(RESULTS_MAX);
        let node = Arc::clone(&self.node);
        tokio::spawn(async move {
            while let Some(Ok(message)) = inbound.next().await {
                stats.received_bytes.add(message.encoded_len() as u64);
                for item in message.items {
                    take(&node, &places, item, &results).await;
                }
            }
            drop(stream);
        });
        let state = (receiver, sent_bytes);
        let outbound = futures::stream::unfold(state, |(mut receiver, sent_bytes)| async move {
            let mut items = Vec::new();
            if receiver.recv_many(&mut items, RESULTS_STEP).await == 0 {
                return None;
            }
            let message = ForwardResponse { items };
            sent_bytes.add(message.encoded_len() as u64);
            Some((Ok(message), (receiver, sent_bytes)))
        });
        Ok(Response::new(Box::pin(outbound)))
    }
}

/// Starts one request; its answer goes to `results`.
async fn take(
    node: &Arc<Node>,
    places: &Places,
    item: ForwardItem,
    results: &mpsc::Sender<ForwardResult>,
) {
    let id = item.id;
    let node = Arc::clone(node);
    let (place, mut asked): (_, BoxFuture<'static, forward_result::Result>) = match item.request {
        Some(forward_item::Request::Propose(encoded)) => {
            let results = results.clone();
            let waiter = Waiter::Remote { id, results };
            match Measured::from_peer(encoded) {
                // A follower that is not to propose here is told so by Raft, through the waiter.
                Ok(command) => node.enqueue(Proposal { command, waiter }).await,
                // One that this version does not know would end every member that applies it.
                Err(_) => waiter.failed(ProposeError::Definite(Error::RequestTooLarge)),
            }
            return;
        }
        Some(forward_item::Request::ReadIndex(_)) => (
            &places.rounds,
            Box::pin(async move {
                match read_index::read_index_for_follower(node.raft()).await {
                    Ok(index) => forward_result::Result::ReadIndex(index),
                    Err(error) => refusal(error),
                }
            }),
        ),
        Some(forward_item::Request::LeaseRenew(lease)) => (
            &places.leases,
            Box::pin(async move {
                // Nobody waits longer: a lease whose revocation does not come about may stay expired.
                let timeout = node.config().request_timeout();
                let renewed = tokio::time::timeout(timeout, node.renew_as_leader(lease)).await;
                match renewed.unwrap_or(Err(Error::Timeout)) {
                    Ok(ttl) => lease_state(lease, ttl, 0),
                    Err(error) => refusal(error),
                }
            }),
        ),
        Some(forward_item::Request::LeaseTimeToLive(lease)) => (
            &places.leases,
            Box::pin(async move {
                match node.remaining_as_leader(lease).await {
                    Ok((ttl, granted)) => lease_state(lease, ttl, granted),
                    Err(error) => refusal(error),
                }
            }),
        ),
        Some(forward_item::Request::MemberChange(change)) => (
            &places.changes,
            Box::pin(async move { change_members(&node, change).await }),
        ),
        None => return,
    };
    // Most answers are there at once, and need no task.
    if let Some(result) = asked.as_mut().now_or_never() {
        answer(results, id, result).await;
        return;
    }
    let Ok(permit) = Arc::clone(place).try_acquire_owned() else {
        answer(results, id, refusal(Error::NotLeader)).await;
        return;
    };
    let results = results.clone();
    tokio::spawn(async move {
        let result = asked.await;
        answer(&results, id, result).await;
        // Only now: an answer that waits for room takes a place too.
        drop(permit);
    });
}

async fn change_members(node: &Node, change: MemberChange) -> forward_result::Result {
    let Some(change) = change.change else {
        return refusal(Error::MemberNotFound);
    };
    // The follower's client waits no longer.
    let timeout = node.config().request_timeout();
    let changed = tokio::time::timeout(timeout, node.change_members_as_leader(change)).await;
    match changed.unwrap_or(Err(ProposeError::Indefinite(Error::Timeout))) {
        Ok(changed) => forward_result::Result::MemberChanged(MemberChanged {
            index: changed.index,
            id: changed.id,
        }),
        Err(error) => forward_result::Result::Error(to_proto(error)),
    }
}

fn lease_state(id: i64, ttl: i64, granted_ttl: i64) -> forward_result::Result {
    forward_result::Result::Lease(LeaseState {
        id,
        ttl,
        granted_ttl,
    })
}

fn refusal(error: Error) -> forward_result::Result {
    forward_result::Result::Error(to_proto(ProposeError::Definite(error)))
}

async fn answer(results: &mpsc::Sender<ForwardResult>, id: u64, result: forward_result::Result) {
    // A follower that has gone is not told.
    drop(
        results
            .send(ForwardResult {
                id,
                result: Some(result),
            })
            .await,
    );
}
