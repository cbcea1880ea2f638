//! gRPC's health service (contract 2): it knows only the service name `""`.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use keelson_proto::healthpb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};
use tonic::{Request, Response, Status};

/// The service. It serves whenever the port does.
#[derive(Clone, Copy, Debug, Default)]
pub struct HealthService;

type Statuses = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    type WatchStream = Statuses;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(response(ServingStatus::Serving)))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Statuses>, Status> {
        let known = request.get_ref().service.is_empty();
        let status = if known {
            ServingStatus::Serving
        } else {
            ServingStatus::ServiceUnknown
        };
        let first = futures::stream::once(std::future::ready(Ok(response(status))));
        Ok(Response::new(Box::pin(
            first.chain(futures::stream::pending()),
        )))
    }
}
