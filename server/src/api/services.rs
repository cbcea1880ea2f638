//! The gRPC services of the client port, found by the first part of the path.
//!
//! tonic's router is a general HTTP router; a few names need none. The request's body goes to the
//! service as hyper received it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::TryFutureExt as _;
use futures::future::MapOk;
use http::{Request, Response};
use keelson_proto::etcdserverpb::{
    cluster_server::ClusterServer, lease_server::LeaseServer, maintenance_server::MaintenanceServer,
};
use keelson_proto::healthpb::health_server::HealthServer;
use keelson_proto::raw::{kv_server::KVServer, watch_server::WatchServer};
use keelson_proto::v3electionpb::election_server::ElectionServer;
use keelson_proto::v3lockpb::lock_server::LockServer;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tower::Service;

use super::cluster::ClusterService;
use super::election::ElectionService;
use super::health::HealthService;
use super::kv::KvService;
use super::lease::LeaseService;
use super::lock::LockService;
use super::maintenance::MaintenanceService;
use super::watch::WatchService;
use super::{GRPC_OVERHEAD_BYTES, SEND_BYTES_MAX, framed, too_large};
use crate::node::Node;

/// All services. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    kv: KVServer<KvService>,
    watch: WatchServer<WatchService>,
    lease: LeaseServer<LeaseService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
    lock: LockServer<LockService>,
    election: ElectionServer<ElectionService>,
    health: HealthServer<HealthService>,
}

impl Services {
    /// The services of a node.
    #[must_use]
    pub fn new(node: &Arc<Node>) -> Self {
        let receive = node.config().max_request_bytes + GRPC_OVERHEAD_BYTES;
        macro_rules! limited {
            ($server:ident, $service:ident) => {
                $server::new($service::new(Arc::clone(node)))
                    .max_decoding_message_size(receive)
                    .max_encoding_message_size(SEND_BYTES_MAX)
            };
        }
        Self {
            kv: limited!(KVServer, KvService),
            watch: limited!(WatchServer, WatchService),
            lease: limited!(LeaseServer, LeaseService),
            cluster: limited!(ClusterServer, ClusterService),
            maintenance: limited!(MaintenanceServer, MaintenanceService),
            lock: limited!(LockServer, LockService),
            election: limited!(ElectionServer, ElectionService),
            health: HealthServer::new(HealthService),
        }
    }
}

impl<B> Service<Request<B>> for Services
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future =
        MapOk<BoxFuture<Response<Body>, Infallible>, fn(Response<Body>) -> Response<Body>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // tonic's services are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let response: BoxFuture<_, _> = match service.map(|(service, _)| service) {
            Some("etcdserverpb.KV") => self.kv.call(request),
            Some("etcdserverpb.Watch") => self.watch.call(request),
            Some("etcdserverpb.Lease") => self.lease.call(request),
            Some("etcdserverpb.Cluster") => self.cluster.call(request),
            Some("etcdserverpb.Maintenance") => self.maintenance.call(request),
            Some("v3lockpb.Lock") => self.lock.call(request),
            Some("v3electionpb.Election") => self.election.call(request),
            Some("grpc.health.v1.Health") => self.health.call(request),
            _ => {
                let status = Status::unimplemented("unknown service");
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        };
        response.map_ok(|response| framed::unwrap(too_large::reword(response)))
    }
}
