//! From a request to a raft entry: batching (design 3.2, 3.3).
//!
//! Waiting proposals are drained together into one raft entry. There is no linger timer: a batch is
//! whatever queued up while earlier ones were on their way, so a lone client sees no added delay and
//! a thousand clients share everything. Batching runs where requests run, behind those that are
//! ready: a raft entry has a price, whether it holds one command or hundreds.

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use keelson_proto::error::Error;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::mpsc;

use crate::raft::service::Raft;
use crate::raft::types::{BATCH_COMMANDS_MAX, Batch, BatchBuilder, Measured, TypeConfig};
use crate::raft::waiters::{ProposeError, Waiter};

/// Bytes in one raft entry, unless a single command is larger.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Raft entries on their way. Two: one is being written and replicated while the next one fills.
const BATCHES_IN_FLIGHT_MAX: usize = 2;
/// Requests that wait to be batched. More than clients can have under way in practice; above it
/// they wait for room.
pub const QUEUE_MAX: usize = 16 * 1024;

/// A command and who waits for it.
pub struct Proposal {
    /// The command.
    pub command: Measured,
    /// Who gets the outcome.
    pub waiter: Waiter,
}

/// Batches proposals into raft entries until the queue closes.
pub async fn run(raft: Raft, mut queue: mpsc::Receiver<Proposal>) {
    let mut in_flight: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut held: Option<Proposal> = None;
    loop {
        while in_flight.len() >= BATCHES_IN_FLIGHT_MAX {
            in_flight.next().await;
        }
        let first = match held.take() {
            Some(proposal) => proposal,
            None => tokio::select! {
                biased;
                Some(()) = in_flight.next(), if !in_flight.is_empty() => continue,
                proposal = queue.recv() => match proposal {
                    Some(proposal) => proposal,
                    None => break,
                },
            },
        };
        if first.waiter.is_gone() {
            continue;
        }
        // What else has arrived gets its turn to queue up first; if nothing has, this ends at once.
        tokio::task::yield_now().await;
        let (batch, rest) = fill(first, &mut queue);
        held = rest;
        match submit(&raft, batch).await {
            Some(outcome) => in_flight.push(outcome),
            None => continue,
        }
    }
    while in_flight.next().await.is_some() {}
}

/// Takes what waits, up to the bounds; gives back a proposal that no longer fits.
fn fill(first: Proposal, queue: &mut mpsc::Receiver<Proposal>) -> (Batch, Option<Proposal>) {
    let mut batch = BatchBuilder::default();
    batch.push(first.command, first.waiter);
    let mut rest = None;
    while batch.len() < BATCH_COMMANDS_MAX && batch.bytes() < BATCH_BYTES_MAX {
        let Ok(proposal) = queue.try_recv() else {
            break;
        };
        if proposal.waiter.is_gone() {
            continue;
        }
        if batch.bytes() + proposal.command.bytes() > BATCH_BYTES_MAX {
            rest = Some(proposal);
            break;
        }
        batch.push(proposal.command, proposal.waiter);
    }
    (batch.build(), rest)
}

/// Hands a batch to Raft. The future ends when the batch is applied or has failed.
async fn submit(raft: &Raft, batch: Batch) -> Option<BoxFuture<'static, ()>> {
    let (responder, receiver) =
        ProgressResponder::<TypeConfig, ClientWriteResult<TypeConfig>>::complete_only();
    if raft
        .client_write_ff(batch.clone(), Some(responder))
        .await
        .is_err()
    {
        fail(&batch, ProposeError::Indefinite(Error::Stopped));
        return None;
    }
    Some(Box::pin(async move {
        match receiver.await {
            // Apply has answered every request of the batch.
            Ok(Ok(_)) => {}
            Ok(Err(error)) => fail(&batch, classify(&error)),
            Err(_) => fail(&batch, ProposeError::Indefinite(Error::Stopped)),
        }
    }))
}

/// Whether a refused write certainly was not appended (openraft-notes 1).
fn classify(error: &ClientWriteError<TypeConfig>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(_)
        | ClientWriteError::PreconditionFailed(_)
        | ClientWriteError::ChangeMembershipError(_) => ProposeError::Definite(Error::NotLeader),
        ClientWriteError::LogEntryDiscarded(_) => ProposeError::Indefinite(Error::LeaderChanged),
    }
}

fn fail(batch: &Batch, error: ProposeError) {
    for waiter in batch.take_waiters().into_iter().flatten() {
        waiter.failed(error);
    }
}
