//! The Lease service (contract 2.8).

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, lease_server,
};
use keelson_proto::keelsonpb::command;
use keelson_state::apply::Response as Applied;
use tonic::{Request, Response, Status, Streaming};

use super::header::Header;
use super::metadata;
use crate::node::Node;

/// The service.
#[derive(Clone)]
pub struct LeaseService {
    node: Arc<Node>,
    header: Header,
}

impl LeaseService {
    /// Serves this node's leases.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let header = Header::new(Arc::clone(node.status()));
        Self { node, header }
    }

    async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        // The header's revision is taken before (contract 2.8).
        let revision = self.node.reader().current_revision();
        let ttl = self.node.renew(id).await?;
        Ok(LeaseKeepAliveResponse {
            header: Some(self.header.at(revision)),
            id,
            ttl,
        })
    }
}

type KeepAlives = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

#[tonic::async_trait]
impl lease_server::Lease for LeaseService {
    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let mut response = self.node.grant_lease(request.into_inner()).await?;
        response.header = self.header.complete(response.header);
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let request = command::Request::LeaseRevoke(request.into_inner());
        match self.node.propose(request).await? {
            Applied::LeaseRevoke(mut response) => {
                response.header = self.header.complete(response.header);
                Ok(Response::new(response))
            }
            _ => Err(Error::Corrupt.into()),
        }
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        let mut guard = metadata::check_stream(&self.node, request.metadata())?;
        let (service, requests) = (self.clone(), request.into_inner());
        let state = (service, requests, false);
        // One reply a request, in order.
        let replies = futures::stream::unfold(state, |(service, mut requests, ended)| async move {
            if ended {
                return None;
            }
            let reply = match requests.next().await? {
                Ok(request) => service.keep_alive(request.id).await,
                Err(status) => Err(status),
            };
            let ended = reply.is_err();
            Some((reply, (service, requests, ended)))
        });
        let leaderless = futures::stream::once(async move { Err(guard.broken().await) });
        let merged = futures::stream::select(
            replies
                .map(Some)
                .chain(futures::stream::once(async { None })),
            leaderless.map(Some),
        );
        let until_end = merged.take_while(|reply| std::future::ready(reply.is_some()));
        Ok(Response::new(Box::pin(
            until_end.filter_map(std::future::ready),
        )))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let request = request.into_inner();
        let id = request.id;
        let (ttl, granted_ttl, keys) = match self.node.time_to_live(id).await? {
            Some((ttl, granted)) => {
                let keys = if request.keys {
                    // The leader knows the lease; what is attached to it is read here.
                    self.node.linearize().await?;
                    self.node.reader().lease_keys(id)
                } else {
                    Vec::new()
                };
                (ttl, granted, keys)
            }
            // Unknown is no error here (contract 2.8).
            None => (-1, 0, Vec::new()),
        };
        let header = Some(self.header.at(self.node.reader().current_revision()));
        Ok(Response::new(LeaseTimeToLiveResponse {
            header,
            id,
            ttl,
            granted_ttl,
            keys,
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        // Ordered by expiry where that is known, which is on the leader.
        let ids = self.node.lessor().by_expiry().unwrap_or_else(|| {
            self.node
                .reader()
                .leases()
                .into_iter()
                .map(|lease| lease.id)
                .collect()
        });
        let leases = ids.into_iter().map(|id| LeaseStatus { id }).collect();
        let header = Some(self.header.at(self.node.reader().current_revision()));
        Ok(Response::new(LeaseLeasesResponse { header, leases }))
    }
}
