//! Listeners and connections: gRPC and HTTP on one port (contract 6.1).
//!
//! Plaintext: HTTP/1 goes to the HTTP handlers, HTTP/2 with a gRPC content type to the services,
//! other HTTP/2 is refused with 415. What a listener is made of is an enum, so that TLS and unix
//! sockets have their place.

mod arriving;
mod batch;
pub(crate) mod boundaries;
pub mod http;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::Service;

use self::arriving::ConnectionBytes;
pub use self::arriving::{Arriving, ArrivingBytes};
use self::batch::{Batched, Flushing};
use self::http::text;

/// What tells HTTP/1 from HTTP/2, or a TLS handshake, must be there within this time (contract 10.3):
/// a connection that says nothing would keep its place among the connections for ever.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// So many bytes tell the protocol: the length of HTTP/2's preface, less than any HTTP/1 request with
/// a host.
const OPENING_BYTES: usize = 24;
/// A client's HTTP/1 header must be there within this time (contract 6.1).
pub const CLIENT_HEADER_TIMEOUT: Duration = Duration::from_secs(300);
/// Bytes a stream buffers towards a slow client.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Pause after a failed accept: the process is out of descriptors, or nearly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `host:port`, resolved when bound.
    Tcp(String),
    /// A unix socket's path.
    Unix(std::path::PathBuf),
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A bound listener.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket; its file is removed with it.
    Unix(UnixListener, std::path::PathBuf),
}

impl Listener {
    /// Binds.
    ///
    /// # Errors
    /// When the address is taken, malformed or not ours.
    pub async fn bind(address: &ListenAddress) -> std::io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            ListenAddress::Unix(path) => {
                // A socket file that nobody listens on is left over from an earlier run.
                if std::os::unix::net::UnixStream::connect(path).is_err() {
                    match std::fs::remove_file(path) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(error);
                        }
                        _ => {}
                    }
                }
                Ok(Self::Unix(UnixListener::bind(path)?, path.clone()))
            }
        }
    }

    /// The address that was bound, with the port the system chose.
    #[must_use]
    pub fn local_address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| String::new(), |address| address.to_string()),
            Self::Unix(_, path) => path.display().to_string(),
        }
    }

    async fn accept(&self) -> std::io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Connection::new(Stream::Tcp(stream), Some(peer)))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Connection::new(Stream::Unix(stream), None))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Gone already is as good.
            drop(std::fs::remove_file(path));
        }
    }
}

struct Connection {
    transport: Transport,
    peer: Option<SocketAddr>,
    opening: Arc<Opening>,
}

impl Connection {
    fn new(stream: Stream, peer: Option<SocketAddr>) -> Self {
        let opening = Arc::new(Opening::default());
        let transport = Transport {
            stream,
            opening: Arc::clone(&opening),
            is_open: false,
        };
        Self {
            transport,
            peer,
            opening,
        }
    }
}

/// How much of a connection's opening has arrived.
#[derive(Default)]
struct Opening {
    bytes: AtomicUsize,
}

impl Opening {
    /// Ends only if the connection has not said within the time what it speaks. Asked again and
    /// again while the connection works, so it looks at the timer only before.
    async fn failed(&self) {
        let mut deadline = std::pin::pin!(tokio::time::sleep(OPENING_TIMEOUT));
        std::future::poll_fn(|cx| {
            if self.bytes.load(Ordering::Relaxed) >= OPENING_BYTES {
                return Poll::Pending;
            }
            deadline.as_mut().poll(cx)
        })
        .await;
    }
}

/// The bytes of a connection, counted until its protocol is known.
struct Transport {
    stream: Stream,
    opening: Arc<Opening>,
    is_open: bool,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let transport = self.get_mut();
        let before = buf.filled().len();
        let read = match &mut transport.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if !transport.is_open {
            let bytes = buf.filled().len() - before;
            let known = transport.opening.bytes.fetch_add(bytes, Ordering::Relaxed);
            transport.is_open = known + bytes >= OPENING_BYTES;
        }
        read
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Settings of a port's connections.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Streams a connection may have open.
    pub max_concurrent_streams: u32,
    /// HTTP/2 window of a stream.
    pub stream_window_bytes: u32,
    /// HTTP/2 window of all streams of a connection together.
    pub connection_window_bytes: u32,
    /// Server pings after this silence; none if absent.
    pub keepalive_interval: Option<Duration>,
    /// And closes after this one.
    pub keepalive_timeout: Duration,
    /// An HTTP/1 header must be there within this time.
    pub header_timeout: Duration,
    /// How long an open connection may go on after a stop.
    pub grace: Duration,
    /// Connections at a time.
    pub connections: Arc<Semaphore>,
    /// Counts what unfinished messages hold.
    pub arriving: Arc<ArrivingBytes>,
}

/// A service whose copies for different connections differ.
pub trait PerConnection: Clone {
    /// The copy for one connection.
    #[must_use]
    fn for_connection(&self, arriving: &Arc<ArrivingBytes>) -> Self;
}

/// Serves one listener until `stop`: new connections are refused then, open ones finish what they
/// have begun.
pub async fn serve<S>(
    listener: Listener,
    service: S,
    options: ServeOptions,
    stop: CancellationToken,
    tracker: TaskTracker,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + PerConnection
        + Send
        + 'static,
    S::Future: Send,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_stream_window_size(options.stream_window_bytes)
        .initial_connection_window_size(options.connection_window_bytes)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    let builder = Arc::new(builder);
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&options.connections).acquire_owned() => permit,
            () = stop.cancelled() => break,
        };
        let Ok(permit) = permit else { break };
        let connection = tokio::select! {
            connection = listener.accept() => connection,
            () = stop.cancelled() => break,
        };
        let connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(error = %error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(service.for_connection(&options.arriving));
        let (builder, stop, grace) = (Arc::clone(&builder), stop.clone(), options.grace);
        tracker.spawn(async move {
            let _permit = permit;
            let (peer, opening) = (connection.peer, connection.opening);
            let io = Batched::new(connection.transport);
            let serving = builder.serve_connection(TokioIo::new(io.clone()), service);
            let mut serving = Flushing::new(serving, io);
            let result = tokio::select! {
                result = &mut serving => result,
                () = opening.failed() => {
                    tracing::debug!(remote = ?peer, "connection closed: it never said what it speaks");
                    Ok(())
                }
                () = stop.cancelled() => {
                    serving.connection().graceful_shutdown();
                    // Streams that do not end by themselves end with the connection.
                    tokio::time::timeout(grace, serving).await.unwrap_or(Ok(()))
                }
            };
            if let Err(error) = result {
                tracing::debug!(remote = ?peer, error = %error, "connection ended");
            }
        });
    }
}

/// Sends gRPC to the services and everything else to the HTTP handlers.
#[derive(Clone)]
pub struct Dispatch<G, H> {
    grpc: G,
    http: H,
    message_bytes_max: usize,
    connection: Arc<ConnectionBytes>,
}

impl<G, H> Dispatch<G, H> {
    /// gRPC goes to `grpc`, whose messages are at most so long, and the rest to `http`.
    pub fn new(grpc: G, message_bytes_max: usize, http: H) -> Self {
        Self {
            grpc,
            http,
            message_bytes_max,
            connection: Arc::new(ArrivingBytes::of_clients()).of_connection(message_bytes_max),
        }
    }
}

impl<G: Clone, H: Clone> PerConnection for Dispatch<G, H> {
    fn for_connection(&self, arriving: &Arc<ArrivingBytes>) -> Self {
        Self {
            connection: arriving.of_connection(self.message_bytes_max),
            ..self.clone()
        }
    }
}

/// A response to come.
pub type ResponseFuture = tonic::codegen::BoxFuture<Response<Body>, Infallible>;

/// The future of a [`Dispatch`]ed request; gRPC's is not boxed again.
pub enum DispatchFuture<F> {
    /// A gRPC call.
    Grpc(F),
    /// Anything else.
    Http(ResponseFuture),
}

impl<F> Future for DispatchFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Grpc(call) => Pin::new(call).poll(cx),
            Self::Http(answer) => answer.as_mut().poll(cx),
        }
    }
}

impl<G, H> Service<Request<Incoming>> for Dispatch<G, H>
where
    G: Service<Request<Arriving<Incoming>>, Response = Response<Body>, Error = Infallible>,
    G::Future: Send + Unpin + 'static,
    H: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    H::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = DispatchFuture<G::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.grpc.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let http2 = request.version() == Version::HTTP_2;
        let grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        match (http2, grpc) {
            (true, true) => {
                let (limit, connection) = (self.message_bytes_max, &self.connection);
                let request =
                    request.map(|body| Arriving::new(body, limit, Arc::clone(connection)));
                DispatchFuture::Grpc(self.grpc.call(request))
            }
            (true, false) => DispatchFuture::Http(Box::pin(async {
                Ok(text(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "content type is not gRPC\n",
                ))
            })),
            (false, _) => DispatchFuture::Http(Box::pin(self.http.call(request))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn options(connections: usize) -> ServeOptions {
        ServeOptions {
            max_concurrent_streams: 1,
            stream_window_bytes: 1 << 16,
            connection_window_bytes: 1 << 16,
            keepalive_interval: None,
            keepalive_timeout: Duration::from_secs(20),
            header_timeout: CLIENT_HEADER_TIMEOUT,
            grace: Duration::ZERO,
            connections: Arc::new(Semaphore::new(connections)),
            arriving: Arc::new(ArrivingBytes::of_clients()),
        }
    }

    /// A port with room for one connection, which answers every request.
    async fn start(stop: &CancellationToken) -> String {
        let any = ListenAddress::Tcp("127.0.0.1:0".to_owned());
        let listener = Listener::bind(&any).await.unwrap();
        let address = listener.local_address();
        let service = tower::service_fn(async |_: Request<Incoming>| {
            Ok::<_, Infallible>(text(StatusCode::OK, "hello"))
        });
        let no_grpc = tower::service_fn(|_: Request<Arriving<Incoming>>| {
            std::future::ready(Ok(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "")))
        });
        let service = Dispatch::new(no_grpc, 0, service);
        let tracker = TaskTracker::new();
        tokio::spawn(serve(listener, service, options(1), stop.clone(), tracker));
        address
    }

    async fn get(client: &mut TcpStream) -> std::io::Result<String> {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await?;
        let mut answer = vec![0; 4096];
        let length = client.read(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_gives_its_place_back() {
        let stop = CancellationToken::new();
        let address = start(&stop).await;
        for opening in [&b""[..], b"P", b"PRI * HTTP/2"] {
            let mut silent = TcpStream::connect(&address).await.unwrap();
            silent.write_all(opening).await.unwrap();
            let began = tokio::time::Instant::now();
            // Reset or end: both are the end of it.
            let ended = silent.read(&mut [0; 64]).await;
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
            assert!(began.elapsed() >= OPENING_TIMEOUT, "{:?}", began.elapsed());
        }
        let mut client = TcpStream::connect(&address).await.unwrap();
        assert!(get(&mut client).await.unwrap().ends_with("hello"));
        // One that has spoken may be silent.
        tokio::time::sleep(3 * OPENING_TIMEOUT).await;
        assert!(get(&mut client).await.unwrap().ends_with("hello"));
        stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_never_finished_gives_its_place_back() {
        let stop = CancellationToken::new();
        let address = start(&stop).await;
        let mut slow = TcpStream::connect(&address).await.unwrap();
        let unfinished = b"GET /version HTTP/1.1\r\nHost: localhost\r\n";
        slow.write_all(unfinished).await.unwrap();
        let began = tokio::time::Instant::now();
        let ended = slow.read(&mut [0; 64]).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        assert!(began.elapsed() >= CLIENT_HEADER_TIMEOUT);
        let mut client = TcpStream::connect(&address).await.unwrap();
        assert!(get(&mut client).await.unwrap().ends_with("hello"));
        stop.cancel();
    }
}
