//! The Lock service (contract 2.9).
//!
//! Behind the checks of every call, each error is Unknown with its plain text, as etcd's service,
//! which is a client of its own server, sends it.

use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::DeleteRangeRequest;
use keelson_proto::keelsonpb::command;
use keelson_proto::v3lockpb::{
    LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server,
};
use keelson_state::apply::Response as Applied;
use tonic::{Code, Request, Response, Status};

use super::header::Header;
use super::{metadata, validate};
use crate::node::Node;
use crate::node::concurrency::line::{Place, session};
use crate::node::error::NodeError;

/// The lease ended while its key stood in line.
const SESSION_EXPIRED: &str = "mutex: session is expired";

/// The service.
#[derive(Clone)]
pub struct LockService {
    node: Arc<Node>,
    header: Header,
}

impl LockService {
    /// Serves locks in this node's keys.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let header = Header::new(Arc::clone(node.status()));
        Self { node, header }
    }

    async fn wait_for_lock(&self, request: LockRequest) -> Result<LockResponse, Status> {
        let lease = session(&self.node, request.lease).await?;
        let mut place = Place::take(&self.node, &request.name, lease, Bytes::new()).await?;
        let mut revision = place.revision();
        if !place.is_first() {
            place.wait().await?;
            let (exists, read_revision) = place.exists().await?;
            if !exists {
                return Err(Status::unknown(SESSION_EXPIRED));
            }
            revision = read_revision;
        }
        place.keep();
        Ok(LockResponse {
            header: Some(self.header.at(revision)),
            key: place.key().clone(),
        })
    }

    async fn delete(&self, key: Bytes) -> Result<UnlockResponse, Status> {
        let request = DeleteRangeRequest {
            key,
            ..Default::default()
        };
        validate::delete_range(&request)?;
        let request = command::Request::DeleteRange(request);
        match self.node.propose(request).await? {
            Applied::DeleteRange(response) => Ok(UnlockResponse {
                header: self.header.complete(response.header),
            }),
            _ => Err(Error::Corrupt.into()),
        }
    }
}

#[tonic::async_trait]
impl lock_server::Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let locked = self.wait_for_lock(request.into_inner()).await;
        locked.map(Response::new).map_err(plain)
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let unlocked = self.delete(request.into_inner().key).await;
        unlocked.map(Response::new).map_err(plain)
    }
}

/// The text alone, as Unknown; only the end of the caller's patience keeps its code (contract 3).
pub(super) fn plain(status: Status) -> Status {
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded => status,
        _ => NodeError::Other(status.message().to_owned()).into(),
    }
}
