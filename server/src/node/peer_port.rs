//! The peer port: Raft's service, the forwarding of followers, and two read-only HTTP endpoints
//! (contract 6.2).

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use keelson_proto::keelsonpb::{
    check_server::CheckServer, join_server::JoinServer, leader_server::LeaderServer,
    raft_server::RaftServer,
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tower::Service;

use super::Node;
use super::corruption::service::{CHECK_BYTES_MAX, CheckService};
use super::forward_service::LeaderService;
use super::membership::join::JoinService;
use crate::raft::network::MESSAGE_BYTES_MAX;
use crate::raft::service::{PeerContext, RaftService};
use crate::transport::http::{Handled, Handler, cleaned, json, not_found, only_get};
use crate::transport::{Arriving, ArrivingBytes, Dispatch, Listener, ServeOptions, serve};

/// HTTP/2 window of a peer's connection, as on the dialling side.
const WINDOW_BYTES: u32 = 8 << 20;
/// Streams of one peer connection: votes, heartbeats, the log, snapshots, forwarding.
const STREAMS_MAX: u32 = 1024;
/// Connections: some for each member of the largest cluster, and room for operators.
const CONNECTIONS_MAX: usize = 256;
/// An HTTP/1 header must be there within this time: members and monitors say what they want at once,
/// and requests that are never finished would take all the places.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent peer is pinged after this time, and dropped after as long again.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Serves peers on these listeners until the node stops.
pub(super) fn serve_peers(node: &Arc<Node>, context: &Arc<PeerContext>, listeners: Vec<Listener>) {
    let raft = RaftService::new(node.raft.clone(), Arc::clone(context));
    let leader = LeaderService::new(Arc::clone(node), Arc::clone(context));
    let services = PeerServices {
        raft: RaftServer::new(raft)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
        leader: LeaderServer::new(leader)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
        check: CheckServer::new(CheckService::new(Arc::clone(node), Arc::clone(context)))
            .max_decoding_message_size(CHECK_BYTES_MAX),
        join: JoinServer::new(JoinService::new(Arc::clone(node))),
    };
    let options = ServeOptions {
        max_concurrent_streams: STREAMS_MAX,
        stream_window_bytes: WINDOW_BYTES,
        connection_window_bytes: WINDOW_BYTES,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_timeout: KEEPALIVE,
        header_timeout: HEADER_TIMEOUT,
        // A peer that stays connected to a stopped member would go on asking it instead of looking
        // for the one that was started in its place.
        grace: Duration::ZERO,
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        arriving: Arc::new(ArrivingBytes::of_peers()),
    };
    for listener in listeners {
        tracing::info!(address = listener.local_address(), "serving peer traffic");
        let service = Dispatch::new(
            services.clone(),
            MESSAGE_BYTES_MAX,
            Handled(PeerHttp {
                node: Arc::clone(node),
            }),
        );
        let stop = node.peers_stopping.clone();
        node.peer_ports.spawn(serve(
            listener,
            service,
            options.clone(),
            stop,
            TaskTracker::new(),
        ));
    }
}

#[derive(Clone)]
struct PeerServices {
    raft: RaftServer<RaftService>,
    leader: LeaderServer<LeaderService>,
    join: JoinServer<JoinService>,
    check: CheckServer<CheckService>,
}

impl Service<Request<Arriving<Incoming>>> for PeerServices {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // tonic's services are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Arriving<Incoming>>) -> Self::Future {
        let path = request.uri().path();
        if path.starts_with("/keelsonpb.Raft/") {
            self.raft.call(request)
        } else if path.starts_with("/keelsonpb.Leader/") {
            self.leader.call(request)
        } else if path.starts_with("/keelsonpb.Join/") {
            self.join.call(request)
        } else if path.starts_with("/keelsonpb.Check/") {
            self.check.call(request)
        } else {
            let status = Status::unimplemented("unknown service");
            Box::pin(std::future::ready(Ok(status.into_http())))
        }
    }
}

/// `GET /members` and `GET /version`.
#[derive(Clone)]
struct PeerHttp {
    node: Arc<Node>,
}

impl Handler for PeerHttp {
    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        if let Some(elsewhere) = cleaned(&request) {
            return elsewhere;
        }
        let page = match request.uri().path() {
            "/members" => self.members().to_string(),
            "/version" => crate::node::version_json(self.node.cluster_version().as_deref()),
            _ => return not_found(),
        };
        if request.method() != Method::GET {
            return only_get();
        }
        json(page)
    }
}

impl PeerHttp {
    fn members(&self) -> serde_json::Value {
        let members = self.node.members().into_iter().map(|member| {
            serde_json::json!({
                "id": member.id,
                "peerURLs": member.peer_ur_ls,
                "name": member.name,
                "clientURLs": member.client_ur_ls,
                "isLearner": member.is_learner,
            })
        });
        members.collect()
    }
}
