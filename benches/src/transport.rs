//! gRPC calls over bare HTTP/2 connections.
//!
//! A full gRPC client costs as much per call as the server under test, so this one leaves out
//! what a load driver does not need: no channel, no balancing, no codec. A request is a finished
//! body, five bytes of gRPC prefix included; a reply is checked for its status and handed out as
//! the bytes that came. Bodies below 1 KiB are gathered into one write per turn of the connection
//! ([`Gathered`]), because a system call each would be most of their cost.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, header, request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A server that listens accepts at once; one that does not is an error worth hearing of soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Room for the replies of a thousand reads at once, so that windows never set the pace.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Compressed flag and length in front of every gRPC message.
pub(crate) const PREFIX_BYTES: usize = 5;

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The server answered with this gRPC status.
    Status { code: i32, message: String },
    /// The reply is not what the workload is about.
    Unexpected(&'static str),
    /// The connection or the stream broke; later calls on it fail too.
    Broken(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status { code, message } => write!(f, "status {code}: {message}"),
            Self::Unexpected(reason) => f.write_str(reason),
            Self::Broken(reason) => write!(f, "broken connection: {reason}"),
        }
    }
}

impl std::error::Error for CallError {}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// The head of the requests to one method of one server.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    head: request::Parts,
}

/// A handle of an HTTP/2 connection; clones share the connection.
#[derive(Clone)]
pub(crate) struct Connection {
    send: SendRequest<Bytes>,
    authority: String,
}

impl Connection {
    /// Connects to `endpoint` (`host:port`, with or without `http://`). The connection is served
    /// by a task of the current runtime until it closes.
    pub(crate) async fn open(endpoint: &str) -> anyhow::Result<Self> {
        let authority = endpoint
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_string();
        let connect = async {
            let stream = TcpStream::connect(&authority).await?;
            stream.set_nodelay(true)?;
            let (send, connection) = h2::client::Builder::new()
                .initial_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .enable_push(false)
                .handshake::<_, Bytes>(Gathered(stream))
                .await?;
            // Its calls report the error when it breaks.
            tokio::spawn(connection);
            anyhow::Ok(send)
        };
        let send = timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or_else(|elapsed| Err(elapsed.into()))
            .with_context(|| format!("cannot connect to {authority}"))?;
        Ok(Self { send, authority })
    }

    /// The call of `path`, such as `/etcdserverpb.KV/Put`.
    pub(crate) fn call(&self, path: &str) -> anyhow::Result<Call> {
        let (head, ()) = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.authority))
            .header(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            )
            .header(header::TE, HeaderValue::from_static("trailers"))
            .body(())?
            .into_parts();
        Ok(Call { head })
    }

    /// Sends `body` (with its prefix) and returns the message of the reply.
    pub(crate) async fn unary(&mut self, call: &Call, body: Bytes) -> Result<Bytes, CallError> {
        let (reply, mut sink) = self.begin(call).await?;
        sink.send_data(body, true)?;
        let (head, mut body) = reply.await?.into_parts();
        if head.headers.contains_key("grpc-status") {
            check_status(&head.headers)?;
        }
        let mut message = Bytes::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            if message.is_empty() {
                message = chunk;
            } else {
                let mut whole = BytesMut::from(message);
                whole.extend_from_slice(&chunk);
                message = whole.freeze();
            }
        }
        let trailers = body.trailers().await?;
        check_status(trailers.as_ref().unwrap_or(&head.headers))?;
        if message.len() < PREFIX_BYTES {
            return Err(CallError::Broken("a reply without a message".into()));
        }
        Ok(message.split_off(PREFIX_BYTES))
    }

    /// Opens a call that streams both ways.
    pub(crate) async fn stream(&mut self, call: &Call) -> Result<(Sink, Source), CallError> {
        let (reply, sink) = self.begin(call).await?;
        let source = Source {
            state: SourceState::Opening(reply),
            buffered: BytesMut::new(),
        };
        Ok((Sink(sink), source))
    }

    async fn begin(
        &mut self,
        call: &Call,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), CallError> {
        poll_fn(|context| self.send.poll_ready(context)).await?;
        let request = Request::from_parts(call.head.clone(), ());
        Ok(self.send.send_request(request, false)?)
    }
}

/// The sending side of a streaming call; dropping it ends the call.
pub(crate) struct Sink(SendStream<Bytes>);

impl Sink {
    /// Queues `body` (with its prefix).
    pub(crate) fn send(&mut self, body: Bytes) -> Result<(), CallError> {
        Ok(self.0.send_data(body, false)?)
    }

    /// Sends `body` (with its prefix) as the last message.
    pub(crate) fn send_last(&mut self, body: Bytes) -> Result<(), CallError> {
        Ok(self.0.send_data(body, true)?)
    }
}

enum SourceState {
    Opening(ResponseFuture),
    Open(RecvStream),
}

/// The receiving side of a streaming call.
pub(crate) struct Source {
    state: SourceState,
    buffered: BytesMut,
}

impl Source {
    /// The next message; `None` when the server ended the stream without an error.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            if let Some(message) = self.take_message() {
                return Ok(Some(message));
            }
            let body = match &mut self.state {
                SourceState::Open(body) => body,
                SourceState::Opening(reply) => {
                    let (head, body) = reply.await?.into_parts();
                    if head.headers.contains_key("grpc-status") {
                        check_status(&head.headers)?;
                    }
                    self.state = SourceState::Open(body);
                    continue;
                }
            };
            let Some(chunk) = body.data().await else {
                if let Some(trailers) = body.trailers().await? {
                    check_status(&trailers)?;
                }
                return Ok(None);
            };
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            self.buffered.extend_from_slice(&chunk);
        }
    }

    fn take_message(&mut self) -> Option<Bytes> {
        let length = self.buffered.get(1..PREFIX_BYTES)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        if self.buffered.len() < PREFIX_BYTES + length {
            return None;
        }
        let mut framed = self.buffered.split_to(PREFIX_BYTES + length);
        Some(framed.split_off(PREFIX_BYTES).freeze())
    }
}

/// `message` with the prefix that [`Connection::unary`] and [`Sink::send`] expect.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + length);
    body.put_u8(0);
    // Requests are far below 4 GiB.
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    body.put_slice(&message.encode_to_vec());
    body.freeze()
}

fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        Some(code) => Err(CallError::Status {
            code: code.parse().unwrap_or(2),
            message: text("grpc-message").unwrap_or_default().to_string(),
        }),
        None => Err(CallError::Broken("a reply without a status".into())),
    }
}

/// A TCP stream that does not offer vectored writes. With them, h2 flushes every DATA frame above
/// 256 bytes by itself; without, it copies frames below 1 KiB into one buffer and writes that.
struct Gathered(TcpStream);

impl AsyncRead for Gathered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
