//! What clients talk to: the gRPC services and the HTTP endpoints (contract 2, 6).
//!
//! One file a service. A service decodes, validates, asks the [`Node`] and fills the header; it
//! never touches the store. Services that are not there yet (Auth, Lock, Election) are not
//! registered, so their calls answer UNIMPLEMENTED.

use std::sync::Arc;

use keelson_proto::etcdserverpb::{
    cluster_server::ClusterServer, lease_server::LeaseServer, maintenance_server::MaintenanceServer,
};
use keelson_proto::healthpb::health_server::HealthServer;
use keelson_proto::raw::{kv_server::KVServer, watch_server::WatchServer};
use tonic::Status;
use tonic::service::Routes;

use crate::node::Node;

pub mod cluster;
pub mod header;
pub mod health;
pub mod http;
pub mod kv;
pub mod lease;
pub mod maintenance;
pub mod metadata;
pub mod serve;
pub mod validate;
pub mod watch;

/// Room for a request's envelope above `--max-request-bytes` (contract 2.1).
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;
/// The largest message that is sent (contract 2.1).
const SEND_BYTES_MAX: usize = i32::MAX as usize;

/// The services of the client port.
#[must_use]
pub fn routes(node: &Arc<Node>) -> Routes {
    let receive = node.config().max_request_bytes + GRPC_OVERHEAD_BYTES;
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(receive)
                .max_encoding_message_size(SEND_BYTES_MAX)
        };
    }
    let mut routes = Routes::builder();
    routes
        .add_service(limited!(KVServer, kv::KvService::new(Arc::clone(node))))
        .add_service(limited!(
            WatchServer,
            watch::WatchService::new(Arc::clone(node))
        ))
        .add_service(limited!(
            LeaseServer,
            lease::LeaseService::new(Arc::clone(node))
        ))
        .add_service(limited!(
            ClusterServer,
            cluster::ClusterService::new(Arc::clone(node))
        ))
        .add_service(limited!(
            MaintenanceServer,
            maintenance::MaintenanceService::new(Arc::clone(node))
        ))
        .add_service(HealthServer::new(health::HealthService));
    routes.routes().prepare()
}

/// The answer of a call that is not there yet.
fn unsupported<T>(call: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "{call} is not implemented yet"
    )))
}
