//! What a request's metadata asks for (contract 2.1).

use std::sync::Arc;

use keelson_proto::error::Error;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::node::Node;

/// Leaderless checks, one per election timeout, after which a stream that requires a leader ends.
const LEADERLESS_CHECKS_MAX: u32 = 3;

/// Checks a unary call.
///
/// # Errors
/// NotSupportedForLearner; NoLeader if the caller requires a leader and none is known;
/// InvalidClientAPIVersion.
pub fn check(node: &Node, metadata: &MetadataMap) -> Result<(), Status> {
    refuse_learner(node)?;
    check_anywhere(node, metadata)
}

/// As [`check`], for what learners serve too.
///
/// # Errors
/// NoLeader, InvalidClientAPIVersion.
pub fn check_anywhere(node: &Node, metadata: &MetadataMap) -> Result<(), Status> {
    requires_leader(node, metadata, false).map(drop)
}

/// Learners serve only Status, serializable ranges and the Snapshot stream (contract 2.1).
fn refuse_learner(node: &Node) -> Result<(), Status> {
    if node.status().is_learner() {
        return Err(Error::NotSupportedForLearner.into());
    }
    Ok(())
}

/// Checks a new stream; the guard ends it later if it requires a leader and there is none.
///
/// # Errors
/// As [`check`].
pub fn check_stream(node: &Arc<Node>, metadata: &MetadataMap) -> Result<LeaderGuard, Status> {
    refuse_learner(node)?;
    check_stream_anywhere(node, metadata)
}

/// As [`check_stream`], for what learners serve too.
///
/// # Errors
/// NoLeader, InvalidClientAPIVersion.
pub fn check_stream_anywhere(
    node: &Arc<Node>,
    metadata: &MetadataMap,
) -> Result<LeaderGuard, Status> {
    let required = requires_leader(node, metadata, true)?;
    let next_check = Instant::now() + node.config().election_timeout;
    Ok(LeaderGuard {
        node: Arc::clone(node),
        required,
        leaderless: 0,
        next_check,
    })
}

fn requires_leader(node: &Node, metadata: &MetadataMap, is_stream: bool) -> Result<bool, Status> {
    let version = metadata
        .get("client-api-version")
        .map(|version| std::str::from_utf8(version.as_bytes()))
        .transpose()
        .map_err(|_| Error::InvalidClientAPIVersion)?;
    node.metrics().client_request(version, is_stream);
    let required = metadata
        .get("hasleader")
        .is_some_and(|value| value.as_bytes() == b"true");
    if required && node.status().leader().leader.is_none() {
        return Err(Error::NoLeader.into());
    }
    Ok(required)
}

/// Watches over a stream: it ends with the server, and if it requires a leader, without one.
pub struct LeaderGuard {
    node: Arc<Node>,
    required: bool,
    leaderless: u32,
    next_check: Instant,
}

impl LeaderGuard {
    /// Ends when the stream must. Dropping the future keeps the count.
    pub async fn broken(&mut self) -> Status {
        loop {
            tokio::select! {
                () = self.node.streams_ended().cancelled() => return Error::Stopped.into(),
                () = tokio::time::sleep_until(self.next_check), if self.required => {}
            }
            self.next_check = Instant::now() + self.node.config().election_timeout;
            let has_leader = self.node.status().leader().leader.is_some();
            self.leaderless = if has_leader { 0 } else { self.leaderless + 1 };
            if self.leaderless >= LEADERLESS_CHECKS_MAX {
                return Error::NoLeader.into();
            }
        }
    }
}
