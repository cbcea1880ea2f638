//! What a command's proposer is told.
//!
//! Apply does not read the disk for a reply: records that are not in memory are left as
//! references, under a pin, and the request's own task resolves them (store-notes 4).

use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::{
    error::Error,
    etcdserverpb::{
        AlarmResponse, CompactionResponse, LeaseCheckpointResponse, LeaseGrantResponse,
        LeaseRevokeResponse, ResponseHeader,
    },
    raw::{self, response_op},
};

use crate::{
    error::ApplyError,
    mvcc::{
        range::{self, Plan, RecordRef, header},
        shared::{Pin, View},
    },
    store::StoreError,
};

/// What came of a command: a reply, or an error that every member comes to alike.
pub type Outcome = Result<Reply, Error>;

/// A response as it is sent; headers carry the revision only, the API layer fills the rest.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Of a put.
    Put(raw::PutResponse),
    /// Of a delete.
    DeleteRange(raw::DeleteRangeResponse),
    /// Of a transaction.
    Txn(raw::TxnResponse),
    /// Of a compaction; its index removal follows in the background.
    Compaction(CompactionResponse),
    /// Of a grant.
    LeaseGrant(LeaseGrantResponse),
    /// Of a revoke.
    LeaseRevoke(LeaseRevokeResponse),
    /// Of a checkpoint of remaining TTLs.
    LeaseCheckpoint(LeaseCheckpointResponse),
    /// Of an alarm command.
    Alarm(AlarmResponse),
    /// Of published attributes.
    MemberAttributes,
    /// Of a new cluster version.
    ClusterVersion,
    /// Of a downgrade that began or ended.
    Downgrade,
}

/// A reply whose records may still have to be read.
pub struct Reply {
    body: Body,
    /// What reading needs; absent if all records are at hand.
    source: Option<(Arc<View>, Pin)>,
}

/// A reply with record references.
pub(super) enum Body {
    Put {
        revision: i64,
        prev: Option<RecordRef>,
    },
    DeleteRange {
        revision: i64,
        deleted: i64,
        prevs: Vec<RecordRef>,
    },
    Range {
        revision: i64,
        plan: Plan,
    },
    Txn(TxnBody),
    Ready(Response),
}

pub(super) struct TxnBody {
    /// Absent in a nested transaction, whose header is present but empty (contract 2.1).
    pub(super) revision: Option<i64>,
    pub(super) succeeded: bool,
    pub(super) replies: Vec<Body>,
}

impl Body {
    /// Whether any record still has to be read from the store.
    pub(super) fn needs_store(&self) -> bool {
        let at = |record: &RecordRef| matches!(record, RecordRef::At(_));
        match self {
            Self::Put { prev, .. } => prev.iter().any(at),
            Self::DeleteRange { prevs, .. } => prevs.iter().any(at),
            Self::Range { plan, .. } => plan.records.iter().any(at),
            Self::Txn(txn) => txn.replies.iter().any(Self::needs_store),
            Self::Ready(_) => false,
        }
    }
}

impl Reply {
    pub(super) fn new(body: Body, source: Option<(Arc<View>, Pin)>) -> Self {
        Self { body, source }
    }

    /// Whether [`resolve`](Self::resolve) will read from the disk: then call it where blocking is
    /// allowed.
    #[must_use]
    pub fn needs_disk(&self) -> bool {
        self.source.is_some()
    }

    /// The response, reading what is missing.
    ///
    /// # Errors
    /// The store's; such an error ends the process, not the request. Timeout, if an installed
    /// checkpoint has replaced the records meanwhile: the command has been applied all the same.
    pub fn resolve(self) -> Result<Response, ApplyError> {
        let source = self.source;
        let read = |records: Vec<RecordRef>| -> Result<Vec<Bytes>, ApplyError> {
            range::resolve(records, |wanted| match &source {
                None => Err(ApplyError::Damaged("a reply without a source".into())),
                Some((view, _pin)) => view.store.read_many(wanted).map_err(|error| match error {
                    StoreError::NotFound(_) if view.is_superseded() => Error::Timeout.into(),
                    error => ApplyError::Store(error),
                }),
            })
        };
        Ok(match self.body {
            Body::Put { revision, prev } => Response::Put(put(revision, prev, &read)?),
            Body::DeleteRange {
                revision,
                deleted,
                prevs,
            } => Response::DeleteRange(delete_range(revision, deleted, read(prevs)?)),
            Body::Txn(body) => Response::Txn(txn(body, &read)?),
            Body::Ready(response) => response,
            // A range alone is not a command.
            Body::Range { .. } => return Err(ApplyError::Damaged("a range as a command".into())),
        })
    }
}

type Read<'a> = dyn Fn(Vec<RecordRef>) -> Result<Vec<Bytes>, ApplyError> + 'a;

fn put(
    revision: i64,
    prev: Option<RecordRef>,
    read: &Read<'_>,
) -> Result<raw::PutResponse, ApplyError> {
    Ok(raw::PutResponse {
        header: header(revision),
        prev_kv: match prev {
            Some(prev) => read(vec![prev])?.pop(),
            None => None,
        },
    })
}

fn delete_range(revision: i64, deleted: i64, prev_kvs: Vec<Bytes>) -> raw::DeleteRangeResponse {
    raw::DeleteRangeResponse {
        header: header(revision),
        deleted,
        prev_kvs,
    }
}

fn txn(body: TxnBody, read: &Read<'_>) -> Result<raw::TxnResponse, ApplyError> {
    let mut responses = Vec::with_capacity(body.replies.len());
    for reply in body.replies {
        let response = match reply {
            Body::Put { revision, prev } => {
                response_op::Response::ResponsePut(put(revision, prev, read)?)
            }
            Body::DeleteRange {
                revision,
                deleted,
                prevs,
            } => response_op::Response::ResponseDeleteRange(delete_range(
                revision,
                deleted,
                read(prevs)?,
            )),
            Body::Range { revision, mut plan } => {
                let bytes = read(std::mem::take(&mut plan.records))?;
                response_op::Response::ResponseRange(plan.fill(bytes, revision)?)
            }
            Body::Txn(nested) => response_op::Response::ResponseTxn(txn(nested, read)?),
            Body::Ready(_) => {
                return Err(ApplyError::Damaged("a command inside a transaction".into()));
            }
        };
        responses.push(raw::ResponseOp {
            response: Some(response),
        });
    }
    Ok(raw::TxnResponse {
        header: match body.revision {
            Some(revision) => header(revision),
            None => Some(ResponseHeader::default()),
        },
        succeeded: body.succeeded,
        responses,
    })
}
