//! Linearizable reads through ReadIndex (design 3, Range; openraft-notes 5).
//!
//! - All reads that wait share one round, started after they arrived, in the same term (#20418).
//! - A member without other members needs no round: nobody else can have acknowledged anything, and
//!   it acknowledges only what it has applied.
//! - A follower asks the leader for an index and then reads its own store.
//! - A round that cannot reach a quorum is started again until the requests themselves time out;
//!   lease reads are never used: a paused leader would serve stale data.

use std::sync::Arc;
use std::time::Duration;

use keelson_proto::error::Error;
use keelson_proto::keelsonpb::forward_result;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use tokio::sync::{mpsc, oneshot};

use super::forward::{ForwardError, Forwarder};
use super::status::NodeStatus;
use crate::raft::service::Raft;

/// How long one round may take before it is started again. Raft asks the quorum anew with every
/// heartbeat meanwhile; a round shorter than the followers' flushes, which their answers wait for,
/// would never end well.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a follower waits for the leader's round before it asks again.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before asking again when there is no leader to ask.
const NO_LEADER_PAUSE: Duration = Duration::from_millis(20);
/// Reads that wait for a round. Above it they wait for room.
pub const QUEUE_MAX: usize = 16 * 1024;

/// What a read gets: the index to wait for.
pub type ReadIndexSender = oneshot::Sender<Result<u64, Error>>;

/// Serves rounds until the queue closes.
pub async fn run(
    raft: Raft,
    status: Arc<NodeStatus>,
    forwarder: Forwarder,
    mut queue: mpsc::Receiver<ReadIndexSender>,
) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, QUEUE_MAX).await > 0 {
        let mut again = false;
        let result = loop {
            // Requests that have timed out need no answer.
            waiting.retain(|sender| !sender.is_closed());
            if waiting.is_empty() {
                if again {
                    status.read_rounds().failed.increment();
                }
                break Ok(0);
            }
            match round(&raft, &status, &forwarder).await {
                Round::Index(index) => break Ok(index),
                Round::Failed(error) => {
                    status.read_rounds().failed.increment();
                    break Err(error);
                }
                Round::Again => {
                    again = true;
                    status.read_rounds().slow.increment();
                    tokio::time::sleep(NO_LEADER_PAUSE).await;
                }
            }
        };
        for sender in waiting.drain(..) {
            // A reader that has gone is not told.
            let _ = sender.send(result);
        }
    }
}

enum Round {
    Index(u64),
    Failed(Error),
    Again,
}

async fn round(raft: &Raft, status: &NodeStatus, forwarder: &Forwarder) -> Round {
    let view = status.leader();
    if !raft.is_leader() {
        let Some(leader) = view.remote() else {
            return Round::Again;
        };
        // A leader answers within a round; a connection that hangs takes longer to be given up.
        let asked = tokio::time::timeout(ASK_TIMEOUT, forwarder.read_index(leader)).await;
        return match asked.unwrap_or(Err(ForwardError::Lost)) {
            Ok(forward_result::Result::ReadIndex(index)) => Round::Index(index),
            Ok(_) | Err(ForwardError::Refused(_) | ForwardError::Lost) => Round::Again,
        };
    }
    local_round(raft).await
}

/// One round of the leader itself; also serves the followers' rounds.
async fn local_round(raft: &Raft) -> Round {
    let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(ROUND_TIMEOUT);
    match raft.get_read_linearizer(option).await {
        Ok(linearizer) => Round::Index(linearizer.read_log_id().index()),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
            Round::Failed(Error::LeaderChanged)
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Round::Again,
        Err(RaftError::Fatal(_)) => Round::Failed(Error::Stopped),
    }
}

/// An index that every write acknowledged so far is at or below; for a follower's round.
///
/// # Errors
/// When this member does not lead, or cannot reach a quorum within a round.
pub async fn read_index_for_follower(raft: &Raft) -> Result<u64, Error> {
    match local_round(raft).await {
        Round::Index(index) => Ok(index),
        Round::Failed(error) => Err(error),
        Round::Again => Err(Error::NoLeader),
    }
}
