//! Answering the others: the hash of what this member holds (contract 2.10).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use keelson_proto::keelsonpb::{HashRequest, HashResponse, check_server};
use tonic::{Request, Response, Status};

use crate::node::{Node, blocking};
use crate::raft::service::PeerContext;

/// A request and an answer are a few numbers.
pub(in crate::node) const CHECK_BYTES_MAX: usize = 4 << 10;

/// The service.
#[derive(Clone)]
pub struct CheckService {
    node: Arc<Node>,
    context: Arc<PeerContext>,
}

impl CheckService {
    /// Answers for this member.
    #[must_use]
    pub fn new(node: Arc<Node>, context: Arc<PeerContext>) -> Self {
        Self { node, context }
    }
}

#[tonic::async_trait]
impl check_server::Check for CheckService {
    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.context.check(request.metadata())?;
        let comparison = &self.node.comparison;
        if !comparison.answers.load(Ordering::Acquire) {
            return Err(Status::unavailable("the member does not serve yet"));
        }
        let HashRequest { revision, kept } = request.into_inner();
        let reader = self.node.reader().clone();
        if kept {
            let current_revision = reader.current_revision();
            let hash = reader
                .kept_hash(revision)
                .ok_or_else(|| Status::not_found("no hash is kept for this revision"))?;
            return Ok(Response::new(HashResponse {
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                current_revision,
            }));
        }
        // Those who wait are a few members, each with a deadline.
        let permit = Arc::clone(&comparison.permit).acquire_owned().await;
        let hash = blocking(move || {
            // Held to the end of the work, also when the caller goes away meanwhile.
            let _permit = permit;
            reader.hash_kv_now(revision)
        })
        .await?;
        Ok(Response::new(HashResponse {
            hash: hash.hash.hash,
            compact_revision: hash.hash.compact_revision,
            current_revision: hash.current,
        }))
    }
}
