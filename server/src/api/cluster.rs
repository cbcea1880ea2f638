//! The Cluster service (contract 2.11). Membership changes are not there yet.

use std::sync::Arc;

use keelson_proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, cluster_server,
};
use tonic::{Request, Response, Status};

use super::header::Header;
use super::{metadata, unsupported};
use crate::node::Node;

/// The service.
#[derive(Clone)]
pub struct ClusterService {
    node: Arc<Node>,
    header: Header,
}

impl ClusterService {
    /// Serves the membership as this node knows it.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let header = Header::new(Arc::clone(node.status()));
        Self { node, header }
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for ClusterService {
    async fn member_add(
        &self,
        _request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        unsupported("MemberAdd")
    }

    async fn member_remove(
        &self,
        _request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        unsupported("MemberRemove")
    }

    async fn member_update(
        &self,
        _request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        unsupported("MemberUpdate")
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        if request.get_ref().linearizable {
            self.node.linearize().await?;
        }
        // The Cluster service shows revision 0 (contract 2.1).
        let header = Some(self.header.at(0));
        Ok(Response::new(MemberListResponse {
            header,
            members: self.node.members(),
        }))
    }

    async fn member_promote(
        &self,
        _request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        unsupported("MemberPromote")
    }
}
