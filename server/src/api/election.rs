//! The Election service (contract 2.9). Errors are as in the Lock service.
//!
//! A `LeaderKey` names a campaign by its key and the create revision of that key: Proclaim and Resign
//! change nothing if the key has gone meanwhile, or belongs to another campaign.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use keelson_proto::error::Error;
use keelson_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse, election_server,
};
use tonic::{Request, Response, Status};

use super::header::Header;
use super::lock::plain;
use super::metadata::{self, LeaderGuard};
use crate::node::Node;
use crate::node::concurrency::line::{
    Place, delete_if_created_at, first_in_line, prefix, put_if_created_at, session,
};
use crate::node::concurrency::observe::Observer;

/// Proclaim or Resign without the field `leader`.
const MISSING_LEADER_KEY: &str = "\"leader\" field must be provided";
/// Leader of a name that nobody leads.
const NO_LEADER: &str = "election: no leader";
/// Proclaim by who does not lead any more.
const NOT_LEADER: &str = "election: not leader";
/// Observe cannot go on.
const OBSERVE_CLOSED: &str = "election: observe closed early";

/// The service.
#[derive(Clone)]
pub struct ElectionService {
    node: Arc<Node>,
    header: Header,
}

impl ElectionService {
    /// Serves elections in this node's keys.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let header = Header::new(Arc::clone(node.status()));
        Self { node, header }
    }

    async fn run(&self, request: CampaignRequest) -> Result<CampaignResponse, Status> {
        let CampaignRequest { name, lease, value } = request;
        let lease = session(&self.node, lease).await?;
        let mut place = Place::take(&self.node, &name, lease, value.clone()).await?;
        let (key, rev) = (place.key().clone(), place.create_revision());
        if place.value_before().is_some_and(|before| *before != value) {
            let put = put_if_created_at(&self.node, &key, rev, value, lease).await?;
            put.ok_or_else(not_leader)?;
        }
        if !place.is_first() {
            let waited = place.wait().await;
            // Only a caller that goes away gives its place up. One that gets an error may campaign
            // again with its lease.
            place.keep();
            waited?;
        }
        place.keep();
        Ok(CampaignResponse {
            header: Some(self.header.at(place.revision())),
            leader: Some(LeaderKey {
                name,
                key,
                rev,
                lease,
            }),
        })
    }

    async fn proclaim_value(&self, request: ProclaimRequest) -> Result<ProclaimResponse, Status> {
        let leader = named(request.leader)?;
        let lease = session(&self.node, leader.lease).await?;
        let (key, rev) = (&leader.key, leader.rev);
        let put = put_if_created_at(&self.node, key, rev, request.value, lease).await?;
        Ok(ProclaimResponse {
            header: Some(self.header.at(put.ok_or_else(not_leader)?)),
        })
    }

    async fn current(&self, name: &[u8]) -> Result<LeaderResponse, Status> {
        let (revision, first) = first_in_line(&self.node, &prefix(name)).await?;
        let kv = first.ok_or_else(|| Status::unknown(NO_LEADER))?;
        Ok(LeaderResponse {
            header: Some(self.header.at(revision)),
            kv: Some(kv),
        })
    }

    async fn give_up(&self, request: ResignRequest) -> Result<ResignResponse, Status> {
        let leader = named(request.leader)?;
        let revision = delete_if_created_at(&self.node, &leader.key, leader.rev).await?;
        Ok(ResignResponse {
            header: Some(self.header.at(revision)),
        })
    }
}

fn not_leader() -> Status {
    Status::unknown(NOT_LEADER)
}

/// The campaign that a request names.
fn named(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    let leader = leader.ok_or_else(|| Status::unknown(MISSING_LEADER_KEY))?;
    if leader.key.is_empty() {
        return Err(Error::EmptyKey.into());
    }
    Ok(leader)
}

type Leaders = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

#[tonic::async_trait]
impl election_server::Election for ElectionService {
    type ObserveStream = Leaders;

    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let elected = self.run(request.into_inner()).await;
        elected.map(Response::new).map_err(plain)
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let proclaimed = self.proclaim_value(request.into_inner()).await;
        proclaimed.map(Response::new).map_err(plain)
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let leader = self.current(&request.into_inner().name).await;
        leader.map(Response::new).map_err(plain)
    }

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Leaders>, Status> {
        let guard = metadata::check_stream(&self.node, request.metadata())?;
        let observer = Observer::new(Arc::clone(&self.node), &request.into_inner().name);
        let state = Some((observer, guard, self.header.clone()));
        Ok(Response::new(Box::pin(futures::stream::unfold(
            state,
            next_leader,
        ))))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let resigned = self.give_up(request.into_inner()).await;
        resigned.map(Response::new).map_err(plain)
    }
}

type Observing = Option<(Observer, LeaderGuard, Header)>;

async fn next_leader(state: Observing) -> Option<(Result<LeaderResponse, Status>, Observing)> {
    let (mut observer, mut guard, header) = state?;
    let seen = tokio::select! {
        seen = observer.next() => seen,
        status = guard.broken() => return Some((Err(status), None)),
    };
    match seen {
        Ok(seen) => {
            let response = LeaderResponse {
                header: Some(header.at(seen.revision)),
                kv: Some(seen.kv),
            };
            Some((Ok(response), Some((observer, guard, header))))
        }
        Err(_) => Some((Err(Status::unknown(OBSERVE_CLOSED)), None)),
    }
}
