//! The gRPC services of the client port, found by the first part of the path.
//!
//! tonic's router is a general HTTP router; a few names need none. A call with one request is handed
//! on when that is there: what tonic keeps for a call is many times what a request costs that only
//! announces itself.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::TryFutureExt as _;
use futures::future::MapOk;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
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
use crate::metrics::takes_one_request;
use crate::node::Node;

/// All services. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    routes: Arc<Routes>,
    message_bytes_max: usize,
}

struct Routes {
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
        let routes = Routes {
            kv: limited!(KVServer, KvService),
            watch: limited!(WatchServer, WatchService),
            lease: limited!(LeaseServer, LeaseService),
            cluster: limited!(ClusterServer, ClusterService),
            maintenance: limited!(MaintenanceServer, MaintenanceService),
            lock: limited!(LockServer, LockService),
            election: limited!(ElectionServer, ElectionService),
            health: HealthServer::new(HealthService).max_decoding_message_size(receive),
        };
        Self {
            routes: Arc::new(routes),
            message_bytes_max: receive,
        }
    }

    /// The longest message that is received.
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }
}

impl Routes {
    fn call<B>(&self, request: Request<B>) -> ServiceFuture
    where
        B: HttpBody + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let path = request.uri().path();
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let response: BoxFuture<_, _> = match service.map(|(service, _)| service) {
            Some("etcdserverpb.KV") => self.kv.clone().call(request),
            Some("etcdserverpb.Watch") => self.watch.clone().call(request),
            Some("etcdserverpb.Lease") => self.lease.clone().call(request),
            Some("etcdserverpb.Cluster") => self.cluster.clone().call(request),
            Some("etcdserverpb.Maintenance") => self.maintenance.clone().call(request),
            Some("v3lockpb.Lock") => self.lock.clone().call(request),
            Some("v3electionpb.Election") => self.election.clone().call(request),
            Some("grpc.health.v1.Health") => self.health.clone().call(request),
            _ => {
                let status = Status::unimplemented("unknown service");
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        };
        response.map_ok(|response| framed::unwrap(too_large::reword(response)))
    }
}

impl<B> Service<Request<B>> for Services
where
    B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Call<B>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // tonic's services are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The others are answered before they have sent anything, those that do not exist as well.
        if takes_one_request(request.uri().path()) {
            return Call(Stage::Arriving(Some((Arc::clone(&self.routes), request))));
        }
        Call(Stage::Running(self.routes.call(request)))
    }
}

type ServiceFuture =
    MapOk<BoxFuture<Response<Body>, Infallible>, fn(Response<Body>) -> Response<Body>>;

/// A call on its way. `B` gives whole messages.
pub struct Call<B>(Stage<B>);

#[expect(
    clippy::large_enum_variant,
    reason = "a box would cost each call an allocation, and the larger one comes first"
)]
enum Stage<B> {
    /// Its request is not there yet.
    Arriving(Option<(Arc<Routes>, Request<B>)>),
    /// A service works on it.
    Running(ServiceFuture),
}

impl<B> Future for Call<B>
where
    B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self(stage) = self.get_mut();
        if let Stage::Arriving(waiting) = stage {
            let Some((_, request)) = waiting else {
                return Poll::Pending;
            };
            let first = ready!(Pin::new(request.body_mut()).poll_frame(cx));
            let Some((routes, request)) = waiting.take() else {
                return Poll::Pending;
            };
            let request = request.map(|rest| Begun {
                first: Some(first),
                rest,
            });
            *stage = Stage::Running(routes.call(request));
        }
        match stage {
            Stage::Arriving(_) => Poll::Pending,
            Stage::Running(call) => Pin::new(call).poll(cx),
        }
    }
}

/// What a body gives: a frame, an error, or its end.
type Polled<B> = Option<Result<Frame<<B as HttpBody>::Data>, <B as HttpBody>::Error>>;

/// A body whose beginning is here already.
struct Begun<B: HttpBody> {
    first: Option<Polled<B>>,
    rest: B,
}

// The frame is taken, never pinned.
impl<B: HttpBody + Unpin> Unpin for Begun<B> {}

impl<B: HttpBody + Unpin> HttpBody for Begun<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Polled<B>> {
        match self.first.take() {
            Some(first) => Poll::Ready(first),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.first {
            Some(Some(_)) => false,
            Some(None) => true,
            None => self.rest.is_end_stream(),
        }
    }
}
