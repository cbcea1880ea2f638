//! The leader's side of [`forward`](super::forward): serves what followers ask for their clients.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use keelson_proto::error::Error;
use keelson_proto::keelsonpb::{
    Command, ForwardItem, ForwardRequest, ForwardResponse, ForwardResult, LeaseState, MemberChange,
    MemberChanged, forward_item, forward_result, leader_server,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::Node;
use super::propose::Proposal;
use super::read_index;
use crate::raft::service::PeerContext;
use crate::raft::waiters::{ProposeError, Waiter, to_proto};

/// Answers that wait to be sent: as many as a follower may have requests under way.
const RESULTS_MAX: usize = 32 * 1024;
/// Answers in one message.
const RESULTS_STEP: usize = 1024;

/// The service.
#[derive(Clone)]
pub struct LeaderService {
    node: Arc<Node>,
    context: Arc<PeerContext>,
}

impl LeaderService {
    /// Serves followers of this node.
    #[must_use]
    pub fn new(node: Arc<Node>, context: Arc<PeerContext>) -> Self {
        Self { node, context }
    }
}

#[tonic::async_trait]
impl leader_server::Leader for LeaderService {
    type ForwardStream = Pin<Box<dyn Stream<Item = Result<ForwardResponse, Status>> + Send>>;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        self.context.check(request.metadata())?;
        let mut inbound = request.into_inner();
        let (results, receiver) = mpsc::channel(RESULTS_MAX);
        let node = Arc::clone(&self.node);
        tokio::spawn(async move {
            while let Some(Ok(message)) = inbound.next().await {
                for item in message.items {
                    take(&node, item, &results).await;
                }
            }
        });
        let outbound = futures::stream::unfold(receiver, |mut receiver| async move {
            let mut items = Vec::new();
            if receiver.recv_many(&mut items, RESULTS_STEP).await == 0 {
                return None;
            }
            Some((Ok(ForwardResponse { items }), receiver))
        });
        Ok(Response::new(Box::pin(outbound)))
    }
}

/// Starts one request; its answer goes to `results`.
async fn take(node: &Arc<Node>, item: ForwardItem, results: &mpsc::Sender<ForwardResult>) {
    let (id, results) = (item.id, results.clone());
    match item.request {
        Some(forward_item::Request::Propose(encoded)) => {
            let waiter = Waiter::Remote { id, results };
            match Command::decode(encoded) {
                // A follower that is not to propose here is told so by Raft, through the waiter.
                Ok(command) => node.enqueue(Proposal { command, waiter }).await,
                Err(_) => waiter.failed(ProposeError::Definite(Error::RequestTooLarge)),
            }
        }
        Some(forward_item::Request::ReadIndex(_)) => {
            let node = Arc::clone(node);
            tokio::spawn(async move {
                let result = match read_index::read_index_for_follower(node.raft()).await {
                    Ok(index) => forward_result::Result::ReadIndex(index),
                    Err(error) => refusal(error),
                };
                answer(&results, id, result).await;
            });
        }
        Some(forward_item::Request::LeaseRenew(lease)) => {
            let node = Arc::clone(node);
            tokio::spawn(async move {
                // Nobody waits longer: a lease whose revocation does not come about may stay expired.
                let timeout = node.config().request_timeout();
                let renewed = tokio::time::timeout(timeout, node.renew_as_leader(lease)).await;
                let result = match renewed.unwrap_or(Err(Error::Timeout)) {
                    Ok(ttl) => lease_state(lease, ttl, 0),
                    Err(error) => refusal(error),
                };
                answer(&results, id, result).await;
            });
        }
        Some(forward_item::Request::LeaseTimeToLive(lease)) => {
            let node = Arc::clone(node);
            tokio::spawn(async move {
                let result = match node.remaining_as_leader(lease).await {
                    Ok((ttl, granted)) => lease_state(lease, ttl, granted),
                    Err(error) => refusal(error),
                };
                answer(&results, id, result).await;
            });
        }
        Some(forward_item::Request::MemberChange(change)) => {
            let node = Arc::clone(node);
            tokio::spawn(async move {
                let result = change_members(&node, change).await;
                answer(&results, id, result).await;
            });
        }
        None => {}
    }
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
