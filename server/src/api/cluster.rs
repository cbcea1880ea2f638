//! The Cluster service (contract 2.11).

use std::sync::Arc;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, ResponseHeader, cluster_server,
};
use keelson_proto::keelsonpb::{MemberAdd, MemberUpdate, member_change::Change};
use tonic::{Request, Response, Status};

use super::header::Header;
use super::metadata;
use crate::config::Url;
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

    /// Changes the membership; gives whom it concerned, and everybody.
    async fn change(&self, change: Change) -> Result<(u64, Vec<Member>), Status> {
        let id = self.node.change_members(change).await?;
        Ok((id, self.node.members()))
    }

    /// The Cluster service shows revision 0 (contract 2.1).
    fn header(&self) -> Option<ResponseHeader> {
        Some(self.header.at(0))
    }
}

/// Peer URLs as they are stored: well formed, sorted. etcd itself takes any for an update, and dies of
/// some.
fn peer_urls(given: &[String]) -> Result<Vec<String>, Status> {
    let parsed: Result<Vec<Url>, _> = given.iter().map(|url| Url::parse(url)).collect();
    let mut urls = parsed.map_err(|_| Error::MemberBadURLs)?;
    if urls.is_empty() {
        return Err(Error::MemberBadURLs.into());
    }
    urls.sort();
    Ok(urls.iter().map(|url| url.as_str().to_owned()).collect())
}

#[tonic::async_trait]
impl cluster_server::Cluster for ClusterService {
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let request = request.into_inner();
        let add = MemberAdd {
            peer_urls: peer_urls(&request.peer_ur_ls)?,
            is_learner: request.is_learner,
        };
        let (id, members) = self.change(Change::Add(add.clone())).await?;
        // Clients count on it, even should it be gone again.
        let added = members.iter().find(|member| member.id == id).cloned();
        let member = added.unwrap_or_else(|| Member {
            id,
            peer_ur_ls: add.peer_urls,
            is_learner: add.is_learner,
            ..Default::default()
        });
        Ok(Response::new(MemberAddResponse {
            header: self.header(),
            member: Some(member),
            members,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let change = Change::Remove(request.get_ref().id);
        let (id, mut members) = self.change(change).await?;
        // This member itself does not hear that it is gone.
        members.retain(|member| member.id != id);
        Ok(Response::new(MemberRemoveResponse {
            header: self.header(),
            members,
        }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let request = request.into_inner();
        let update = MemberUpdate {
            id: request.id,
            peer_urls: peer_urls(&request.peer_ur_ls)?,
        };
        let (_, members) = self.change(Change::Update(update)).await?;
        Ok(Response::new(MemberUpdateResponse {
            header: self.header(),
            members,
        }))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        if request.get_ref().linearizable {
            self.node.linearize().await?;
        }
        Ok(Response::new(MemberListResponse {
            header: self.header(),
            members: self.node.members(),
        }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let change = Change::Promote(request.get_ref().id);
        let (_, members) = self.change(change).await?;
        Ok(Response::new(MemberPromoteResponse {
            header: self.header(),
            members,
        }))
    }
}
