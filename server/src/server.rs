//! A whole server: listeners around a node, in the order of contract 4.2 and 4.3.
//!
//! ```text
//! start: metrics URLs → peers → node → joined → client URLs → ready
//! stop:  hand over leadership → finish requests → close clients → node → log
//! ```

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Layer as _;

use crate::api::access::Access;
use crate::api::http::{HttpService, Metrics};
use crate::api::services::Services;
use crate::metrics::grpc::{GrpcMetrics, GrpcMetricsLayer};
use crate::node::Node;
use crate::node::config::NodeConfig;
use crate::node::membership::join::Removed;
use crate::node::start::NodeObservers;
use crate::transport::http::{Handled, text};
use crate::transport::{
    ArrivingBytes, CLIENT_HEADER_TIMEOUT, Dispatch, ListenAddress, Listener, ResponseFuture,
    ServeOptions, serve,
};

/// How long clients that stay connected may hold up a stop. Their requests have been answered, or
/// have moved to the next leader.
const CLIENTS_GRACE: Duration = Duration::from_millis(500);

/// HTTP/2 window of a client's stream: a 1.5 MiB request needs no second round trip for it.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// As above, for all streams of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The node's settings.
    pub node: NodeConfig,
    /// Where peers are listened for.
    pub listen_peers: Vec<ListenAddress>,
    /// Where clients are listened for.
    pub listen_clients: Vec<ListenAddress>,
    /// Where HTTP is listened for; if empty the client addresses serve it too.
    pub listen_client_http: Vec<ListenAddress>,
    /// Where metrics and health are served from the start.
    pub listen_metrics: Vec<ListenAddress>,
    /// Streams a client connection may have open.
    pub max_concurrent_streams: u32,
    /// Idle client connections are pinged after this time; `None` never.
    pub keepalive_interval: Option<Duration>,
    /// And closed after this one without an answer.
    pub keepalive_timeout: Duration,
    /// Client connections at a time.
    pub connections_max: usize,
    /// Browsers' origins that may ask over HTTP; none, or `*` among them, are all.
    pub cors: Vec<String>,
    /// Hosts that HTTP requests may name, as above.
    pub host_whitelist: Vec<String>,
}

/// A running server.
pub struct Server {
    node: Arc<Node>,
    stop_clients: CancellationToken,
    stop_metrics: CancellationToken,
    connections: TaskTracker,
    client_addresses: Vec<String>,
}

impl Server {
    /// Starts a server; returns when it serves clients, or without one when `stop` is cancelled
    /// before or the member turns out to have been removed from its cluster.
    ///
    /// # Errors
    /// When an address cannot be bound or the data directory cannot be opened.
    pub async fn start(
        config: ServerConfig,
        observers: NodeObservers,
        metrics: Metrics,
        grpc_metrics: Arc<GrpcMetrics>,
        ready: Arc<OnceLock<Arc<Node>>>,
        stop: &CancellationToken,
    ) -> Result<Option<Self>> {
        let (stop_clients, stop_metrics) = (CancellationToken::new(), CancellationToken::new());
        let connections = TaskTracker::new();
        let options = ServeOptions {
            max_concurrent_streams: config.max_concurrent_streams,
            stream_window_bytes: STREAM_WINDOW_BYTES,
            connection_window_bytes: CONNECTION_WINDOW_BYTES,
            keepalive_interval: config.keepalive_interval,
            keepalive_timeout: config.keepalive_timeout,
            header_timeout: CLIENT_HEADER_TIMEOUT,
            grace: CLIENTS_GRACE,
            connections: Arc::new(Semaphore::new(config.connections_max)),
            arriving: Arc::new(ArrivingBytes::of_clients()),
        };
        let access = Access::new(config.cors, config.host_whitelist);
        let http = HttpService::new(Arc::clone(&ready), metrics, access);
        for listener in bind_all(&config.listen_metrics, "metrics").await? {
            let service = Handled(http.clone().metrics_only());
            let dispatch = Dispatch::new(NoGrpc, 0, service);
            let serving = serve(
                listener,
                dispatch,
                options.clone(),
                stop_metrics.clone(),
                connections.clone(),
            );
            connections.spawn(serving);
        }
        // Bound before the data directory is touched: a taken port changes nothing.
        let peers = bind_all(&config.listen_peers, "peers").await?;
        let clients = bind_all(&config.listen_clients, "clients").await?;
        let http_only = bind_all(&config.listen_client_http, "client HTTP").await?;

        let node = match Node::start(config.node, peers, observers, stop).await {
            Ok(Some(node)) => node,
            Ok(None) => return Ok(None),
            Err(error) if error.is::<Removed>() => {
                log_removed();
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let joined = tokio::select! {
            joined = node.join() => joined.map(|()| true),
            () = node.removed() => {
                log_removed();
                Ok(false)
            }
            () = stop.cancelled() => Ok(false),
        };
        match joined {
            Ok(true) => {}
            Ok(false) => {
                node.stop().await;
                return Ok(None);
            }
            Err(error) => {
                node.stop().await;
                return Err(error);
            }
        }
        drop(ready.set(Arc::clone(&node)));
        let services = Services::new(&node);
        let message_bytes_max = services.message_bytes_max();
        let grpc = GrpcMetricsLayer(grpc_metrics).layer(services);
        let mut client_addresses = Vec::new();
        let serve_http = http_only.is_empty();
        for listener in clients {
            client_addresses.push(listener.local_address());
            tracing::info!("ready to serve client requests");
            let service = Dispatch::new(
                grpc.clone(),
                message_bytes_max,
                Handled(http.clone().enabled(serve_http)),
            );
            let serving = serve(
                listener,
                service,
                options.clone(),
                stop_clients.clone(),
                connections.clone(),
            );
            connections.spawn(serving);
        }
        for listener in http_only {
            let service = Dispatch::new(NoGrpc, 0, Handled(http.clone()));
            let serving = serve(
                listener,
                service,
                options.clone(),
                stop_clients.clone(),
                connections.clone(),
            );
            connections.spawn(serving);
        }
        for address in &client_addresses {
            tracing::info!(
                traffic = "grpc+http",
                address,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
        Ok(Some(Self {
            node,
            stop_clients,
            stop_metrics,
            connections,
            client_addresses,
        }))
    }

    /// Where clients are served, with the ports the system chose.
    #[must_use]
    pub fn client_addresses(&self) -> &[String] {
        &self.client_addresses
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Ends when the member has been removed from its cluster: it is to be stopped, for good
    /// (contract 4.3).
    pub async fn removed(&self) {
        self.node.removed().await;
        log_removed();
    }

    /// Stops: hands over leadership, closes clients, stops the node.
    pub async fn stop(self) {
        let _handed_over = self.node.hand_over().await;
        self.node.end_streams();
        self.stop_clients.cancel();
        self.connections.close();
        // The metrics listeners stay up to the end and do not count.
        drop(tokio::time::timeout(CLIENTS_GRACE, self.clients_gone()).await);
        self.node.close_intake();
        self.node.stop().await;
        self.stop_metrics.cancel();
    }

    async fn clients_gone(&self) {
        self.stop_metrics.cancel();
        self.connections.wait().await;
    }
}

/// What operators wait for (contract 4.3).
fn log_removed() {
    tracing::warn!(error = %crate::raft::service::REMOVED, "server error");
    tracing::warn!("data-dir used by this member must be removed");
}

async fn bind_all(addresses: &[ListenAddress], what: &str) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = Listener::bind(address)
            .await
            .with_context(|| format!("cannot listen for {what} on {address}"))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Refuses gRPC on ports that serve HTTP only.
#[derive(Clone)]
struct NoGrpc;

impl<B> tower::Service<http::Request<B>> for NoGrpc {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = ResponseFuture;

    fn poll_ready(
        &mut self,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: http::Request<B>) -> Self::Future {
        let status = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Box::pin(std::future::ready(Ok(text(
            status,
            "gRPC is not served here\n",
        ))))
    }
}
