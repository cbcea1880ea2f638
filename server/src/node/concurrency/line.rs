//! Places in a line of keys (contract 2.9): taking one, waiting, leaving.
//!
//! - A place is waited for by one watch on the key right before it, so a departure wakes one waiter.
//! - A [`Place`] that is dropped before it is kept leaves the line: a caller that goes away does not
//!   stand in others' way. If its fate is unknown (a timeout while the key is put), the key goes with
//!   the lease.

use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp,
    ResponseHeader, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::{SortOrder, SortTarget},
    request_op::Request as Operation,
};
use keelson_proto::keelsonpb::command::Request;
use keelson_proto::mvccpb::KeyValue;
use keelson_proto::raw::{self, response_op};
use keelson_state::apply::Response;
use prost::Message as _;
use tonic::Status;

use super::key_watch::KeyWatch;
use crate::node::Node;
use crate::node::error::NodeError;

/// TTL of the lease that is granted to a caller that brings none (contract 2.9).
const SESSION_TTL_SECONDS: i64 = 60;

/// Where a line's keys begin.
#[must_use]
pub fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The lease of a call: its own, or for 0 a new one.
///
/// # Errors
/// As [`Node::propose`].
pub async fn session(node: &Node, lease: i64) -> Result<i64, NodeError> {
    if lease != 0 {
        return Ok(lease);
    }
    let request = LeaseGrantRequest {
        ttl: SESSION_TTL_SECONDS,
        id: 0,
    };
    Ok(node.grant_lease(request).await?.id)
}

/// The range of a line, to be sorted by create revision.
fn line(prefix: &Bytes, order: SortOrder) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

/// The end of a prefix that ends with `/`, as all of them do: `0` is the next byte.
pub(super) fn prefix_end(prefix: &Bytes) -> Bytes {
    let name = prefix.strip_suffix(b"/").unwrap_or(prefix);
    [name, b"0"].concat().into()
}

/// The first in line and the revision of the answer.
///
/// # Errors
/// As [`Node::range`].
pub async fn first_in_line(node: &Node, prefix: &Bytes) -> Result<(i64, Option<KeyValue>), Status> {
    let response = node.range(line(prefix, SortOrder::Ascend)).await?;
    Ok((revision(response.header), first_key(&response)?))
}

fn revision(header: Option<ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn first_key(response: &raw::RangeResponse) -> Result<Option<KeyValue>, Status> {
    let first = response.kvs.first().map(|kv| KeyValue::decode(kv.clone()));
    first.transpose().map_err(|_| Error::Corrupt.into())
}

fn operation(request: Operation) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn created_at(key: &Bytes, create_revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(create_revision)),
        ..Default::default()
    }
}

fn put(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    operation(Operation::RequestPut(PutRequest {
        key: key.clone(),
        value,
        lease,
        ..Default::default()
    }))
}

async fn transaction(node: &Node, request: TxnRequest) -> Result<raw::TxnResponse, NodeError> {
    match node.propose(Request::Txn(request)).await? {
        Response::Txn(response) => Ok(response),
        _ => Err(Error::Corrupt.into()),
    }
}

/// Puts a value under a key that still has this create revision; the revision, or `None` if the key
/// has another one.
///
/// # Errors
/// As [`Node::propose`].
pub async fn put_if_created_at(
    node: &Node,
    key: &Bytes,
    create_revision: i64,
    value: Bytes,
    lease: i64,
) -> Result<Option<i64>, NodeError> {
    let request = TxnRequest {
        compare: vec![created_at(key, create_revision)],
        success: vec![put(key, value, lease)],
        failure: Vec::new(),
    };
    let response = transaction(node, request).await?;
    Ok(response.succeeded.then(|| revision(response.header)))
}

/// Deletes a key if it still has this create revision; the revision after.
///
/// # Errors
/// As [`Node::propose`].
pub async fn delete_if_created_at(
    node: &Node,
    key: &Bytes,
    create_revision: i64,
) -> Result<i64, NodeError> {
    let delete = DeleteRangeRequest {
        key: key.clone(),
        ..Default::default()
    };
    let request = TxnRequest {
        compare: vec![created_at(key, create_revision)],
        success: vec![operation(Operation::RequestDeleteRange(delete))],
        failure: Vec::new(),
    };
    Ok(revision(transaction(node, request).await?.header))
}

/// A key that stands in line. Dropped before [`Place::keep`], it leaves.
pub struct Place {
    node: Arc<Node>,
    prefix: Bytes,
    key: Bytes,
    create_revision: i64,
    /// The value of a key that this lease had in the line before.
    value_before: Option<Bytes>,
    /// The revision of the answer.
    revision: i64,
    is_first: bool,
    leaves: bool,
}

impl Place {
    /// Takes a place for a lease, or finds the one it has.
    ///
    /// # Errors
    /// LeaseNotFound, and as [`Node::propose`].
    pub async fn take(
        node: &Arc<Node>,
        name: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<Self, NodeError> {
        let taken = take(Arc::clone(node), prefix(name), lease, value);
        // In a task of its own: if the caller goes away meanwhile, the place that comes of it is
        // dropped, and leaves.
        tokio::spawn(taken)
            .await
            .map_err(|error| NodeError::Other(error.to_string()))?
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// When the key was created: what names this place in later calls.
    #[must_use]
    pub fn create_revision(&self) -> i64 {
        self.create_revision
    }

    /// The revision at which the place was taken or found.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether nobody stood before it.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// The value of the key, if the lease had one in the line before.
    #[must_use]
    pub fn value_before(&self) -> Option<&Bytes> {
        self.value_before.as_ref()
    }

    /// Waits until nobody stands before it. It may be gone itself by then.
    ///
    /// # Errors
    /// As [`Node::range`]; Stopped.
    pub async fn wait(&self) -> Result<(), Status> {
        loop {
            let before = RangeRequest {
                max_create_revision: self.create_revision - 1,
                ..line(&self.prefix, SortOrder::Descend)
            };
            let response = self.node.range(before).await?;
            let Some(before) = first_key(&response)? else {
                return Ok(());
            };
            // A compaction may hide that it was deleted: the line is looked at again in any case.
            KeyWatch::deletions(&self.node, before.key, revision(response.header) + 1)
                .await?
                .next()
                .await?;
        }
    }

    /// Whether the key is still there, and the revision of the answer: its lease may have ended.
    ///
    /// # Errors
    /// As [`Node::range`].
    pub async fn exists(&self) -> Result<(bool, i64), Status> {
        let request = RangeRequest {
            key: self.key.clone(),
            ..Default::default()
        };
        let response = self.node.range(request).await?;
        Ok((!response.kvs.is_empty(), revision(response.header)))
    }

    /// Leaves the key where it is.
    pub fn keep(&mut self) {
        self.leaves = false;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // While the member stops the key stays: with its lease the caller finds its place again
        // through another member.
        if !self.leaves || self.node.streams_ended().is_cancelled() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (node, key) = (Arc::clone(&self.node), self.key.clone());
        let create_revision = self.create_revision;
        runtime.spawn(async move {
            if let Err(error) = delete_if_created_at(&node, &key, create_revision).await {
                tracing::warn!(error = %error, "a place in line stays until its lease ends");
            }
        });
    }
}

async fn take(
    node: Arc<Node>,
    prefix: Bytes,
    lease: i64,
    value: Bytes,
) -> Result<Place, NodeError> {
    let key = line_key(&prefix, lease);
    let own = RangeRequest {
        key: key.clone(),
        ..Default::default()
    };
    // With the owner, so that a free name takes one round.
    let owner = operation(Operation::RequestRange(line(&prefix, SortOrder::Ascend)));
    let request = TxnRequest {
        compare: vec![created_at(&key, 0)],
        success: vec![put(&key, value, lease), owner.clone()],
        failure: vec![operation(Operation::RequestRange(own)), owner],
    };
    let response = transaction(&node, request).await?;
    let found = |place: usize| match response.responses.get(place).map(|op| &op.response) {
        Some(Some(response_op::Response::ResponseRange(range))) => {
            first_key(range).ok().flatten().ok_or(Error::Corrupt)
        }
        _ => Err(Error::Corrupt),
    };
    let header_revision = revision(response.header);
    let (create_revision, value_before) = if response.succeeded {
        (header_revision, None)
    } else {
        let own = found(0)?;
        (own.create_revision, Some(own.value))
    };
    let is_first = found(1)?.create_revision == create_revision;
    Ok(Place {
        node,
        prefix,
        key,
        create_revision,
        // An owner that asks again, and goes away, still owns.
        leaves: !is_first || value_before.is_none(),
        value_before,
        revision: header_revision,
        is_first,
    })
}

/// The key of a lease in a line; a negative id has its sign before the digits, as Go's `%x` writes it.
fn line_key(prefix: &Bytes, lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let id = format!("{sign}{:x}", lease.unsigned_abs());
    [prefix, id.as_bytes()].concat().into()
}
