//! Counts gRPC calls, messages and bytes on their way through (contract 6.4).
//!
//! A call is counted once, with its final code: that of the trailers, of the headers if there is
//! nothing else, or `Canceled` if it is dropped before.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tower::{Layer, Service};

use super::exposition::{Expose as _, head};
use super::grpc_methods::{CODES, METHODS, place_of};
use super::types::{Buckets, Counter, Histogram};
use crate::transport::boundaries::Boundaries;

const CANCELED: usize = 1;
const UNKNOWN: usize = 2;

/// Counters of all methods.
#[derive(Debug)]
pub struct GrpcMetrics {
    calls: Box<[CallMetrics]>,
    /// Bytes of messages from clients, with their five-byte headers.
    pub received_bytes: Counter,
    /// Bytes of messages to clients, as above.
    pub sent_bytes: Counter,
    /// Whether calls are timed (`--metrics=extensive`).
    timed: bool,
}

#[derive(Debug)]
struct CallMetrics {
    started: Counter,
    handled: [Counter; CODES.len()],
    received: Counter,
    sent: Counter,
    took: Histogram,
}

impl GrpcMetrics {
    /// All zero.
    #[must_use]
    pub fn new(timed: bool) -> Self {
        let call = |_| CallMetrics {
            started: Counter::default(),
            handled: std::array::from_fn(|_| Counter::default()),
            received: Counter::default(),
            sent: Counter::default(),
            took: Histogram::new(Buckets::Default),
        };
        let calls = METHODS.iter().map(call).collect();
        Self {
            calls,
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            timed,
        }
    }

    /// How many calls of a method ended with a code.
    #[must_use]
    pub fn handled(&self, path: &str, code: usize) -> u64 {
        let call = place_of(path).and_then(|place| self.calls.get(place));
        call.and_then(|call| call.handled.get(code))
            .map_or(0, Counter::get)
    }

    pub(super) fn render(&self, out: &mut String) {
        let labelled = || {
            METHODS.iter().zip(&self.calls).map(|(method, call)| {
                let labels = format!(
                    "grpc_method=\"{}\",grpc_service=\"{}\",grpc_type=\"{}\"",
                    method.name, method.service, method.kind
                );
                (labels, call)
            })
        };
        let name = "grpc_server_handled_total";
        let help =
            "Total number of RPCs completed on the server, regardless of success or failure.";
        head(out, name, help, "counter");
        for (place, code) in CODES.iter().enumerate() {
            for (labels, call) in labelled() {
                if let Some(counter) = call.handled.get(place) {
                    counter.write(out, name, &format!("grpc_code=\"{code}\",{labels}"));
                }
            }
        }
        if self.timed {
            let name = "grpc_server_handling_seconds";
            let help = "Histogram of response latency (seconds) of gRPC that had been \
                        application-level handled by the server.";
            head(out, name, help, "histogram");
            for (labels, call) in labelled() {
                call.took.write(out, name, &labels);
            }
        }
        type Pick = fn(&CallMetrics) -> &Counter;
        let families: [(&str, &str, Pick); 3] = [
            (
                "grpc_server_msg_received_total",
                "Total number of RPC stream messages received on the server.",
                |call| &call.received,
            ),
            (
                "grpc_server_msg_sent_total",
                "Total number of gRPC stream messages sent by the server.",
                |call| &call.sent,
            ),
            (
                "grpc_server_started_total",
                "Total number of RPCs started on the server.",
                |call| &call.started,
            ),
        ];
        for (name, help, pick) in families {
            head(out, name, help, "counter");
            for (labels, call) in labelled() {
                pick(call).write(out, name, &labels);
            }
        }
    }
}

/// Puts the counting around a service.
#[derive(Clone, Debug)]
pub struct GrpcMetricsLayer(pub Arc<GrpcMetrics>);

impl<S> Layer<S> for GrpcMetricsLayer {
    type Service = GrpcMetricsService<S>;

    fn layer(&self, inner: S) -> GrpcMetricsService<S> {
        GrpcMetricsService {
            inner,
            metrics: Arc::clone(&self.0),
        }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct GrpcMetricsService<S> {
    inner: S,
    metrics: Arc<GrpcMetrics>,
}

impl<S, B> Service<Request<B>> for GrpcMetricsService<S>
where
    S: Service<Request<ReceivedBody<B>>, Response = Response<Body>>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = CountedCall<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let place = place_of(request.uri().path());
        let call = Call::begin(Arc::clone(&self.metrics), place);
        let metrics = Arc::clone(&self.metrics);
        let request = request.map(|inner| ReceivedBody {
            inner,
            metrics,
            place,
            messages: Boundaries::default(),
        });
        CountedCall {
            inner: self.inner.call(request),
            call: Some(call),
        }
    }
}

/// A call that has begun; counted as handled exactly once.
struct Call {
    metrics: Arc<GrpcMetrics>,
    place: Option<usize>,
    began: Option<Instant>,
    ended: bool,
}

impl Call {
    fn begin(metrics: Arc<GrpcMetrics>, place: Option<usize>) -> Self {
        let began = metrics.timed.then(Instant::now);
        let call = Self {
            metrics,
            place,
            began,
            ended: false,
        };
        if let Some(counters) = call.counters() {
            counters.started.increment();
        }
        call
    }

    fn counters(&self) -> Option<&CallMetrics> {
        self.metrics.calls.get(self.place?)
    }

    fn end(&mut self, code: usize) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let Some(counters) = self.counters() else {
            return;
        };
        if let Some(counter) = counters.handled.get(code).or(counters.handled.get(UNKNOWN)) {
            counter.increment();
        }
        if let Some(began) = self.began {
            counters.took.observe(began.elapsed());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(CANCELED);
    }
}

/// The code in headers or trailers.
fn code_in(headers: &HeaderMap) -> Option<usize> {
    let value = headers.get("grpc-status")?;
    Some(
        value
            .to_str()
            .ok()
            .and_then(|code| code.parse().ok())
            .unwrap_or(UNKNOWN),
    )
}

/// The future of a counted call.
pub struct CountedCall<F> {
    inner: F,
    call: Option<Call>,
}

impl<F, E> Future for CountedCall<F>
where
    F: Future<Output = Result<Response<Body>, E>> + Unpin,
{
    type Output = Result<Response<Body>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.inner).poll(cx));
        let Some(mut call) = self.call.take() else {
            return Poll::Ready(result);
        };
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                call.end(UNKNOWN);
                return Poll::Ready(Err(error));
            }
        };
        if let Some(code) = code_in(response.headers()) {
            call.end(code);
            return Poll::Ready(Ok(response));
        }
        let counted = response.map(|inner| {
            Body::new(SentBody {
                inner,
                call,
                messages: Boundaries::default(),
            })
        });
        Poll::Ready(Ok(counted))
    }
}

/// A request's body whose messages are counted.
pub struct ReceivedBody<B> {
    inner: B,
    metrics: Arc<GrpcMetrics>,
    place: Option<usize>,
    messages: Boundaries,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for ReceivedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.metrics.received_bytes.add(data.len() as u64);
            let messages = this.messages.follow(data).begun;
            if let Some(call) = this.place.and_then(|place| this.metrics.calls.get(place)) {
                call.received.add(messages);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

struct SentBody {
    inner: Body,
    call: Call,
    messages: Boundaries,
}

impl HttpBody for SentBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.call.metrics.sent_bytes.add(data.len() as u64);
                    let messages = this.messages.follow(data).begun;
                    if let Some(counters) = this.call.counters() {
                        counters.sent.add(messages);
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.call.end(code_in(trailers).unwrap_or(UNKNOWN));
                }
            }
            Some(Err(status)) => this.call.end(status.code() as usize),
            None => this.call.end(UNKNOWN),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;

    const PUT: &str = "/etcdserverpb.KV/Put";
    const WATCH: &str = "/etcdserverpb.Watch/Watch";

    type Answer = std::future::Ready<Result<Response<Body>, std::convert::Infallible>>;

    #[derive(Clone)]
    struct Answers(fn() -> Response<Body>);

    impl<B> Service<Request<B>> for Answers {
        type Response = Response<Body>;
        type Error = std::convert::Infallible;
        type Future = Answer;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<B>) -> Answer {
            std::future::ready(Ok((self.0)()))
        }
    }

    fn counted(answer: fn() -> Response<Body>) -> (GrpcMetricsService<Answers>, Arc<GrpcMetrics>) {
        let metrics = Arc::new(GrpcMetrics::new(true));
        (
            GrpcMetricsLayer(Arc::clone(&metrics)).layer(Answers(answer)),
            metrics,
        )
    }

    fn request(path: &str) -> Request<Full<Bytes>> {
        Request::builder()
            .uri(path)
            .body(Full::new(Bytes::from_static(b"")))
            .unwrap()
    }

    /// Two messages and the trailers of a success.
    fn success() -> Response<Body> {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let frames = [
            Ok::<_, tonic::Status>(Frame::data(Bytes::from_static(b"\0\0\0\0\x02ab\0\0"))),
            Ok(Frame::data(Bytes::from_static(b"\0\0\0"))),
            Ok(Frame::trailers(trailers)),
        ];
        Response::new(Body::new(StreamBody::new(futures::stream::iter(frames))))
    }

    #[tokio::test]
    async fn a_call_counts_once_with_its_final_code() {
        let (mut service, metrics) = counted(success);
        let response = service.call(request(PUT)).await.unwrap();
        assert_eq!(metrics.handled(PUT, 0), 0);
        response.into_body().collect().await.unwrap();
        assert_eq!(
            (metrics.handled(PUT, 0), metrics.handled(PUT, CANCELED)),
            (1, 0)
        );
        assert_eq!(metrics.sent_bytes.get(), 12);
        let mut page = String::new();
        metrics.render(&mut page);
        let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        for line in [
            format!("grpc_server_started_total{{{labels}}} 1\n"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 1\n"),
            format!("grpc_server_handled_total{{grpc_code=\"DataLoss\",{labels}}} 0\n"),
            format!("grpc_server_msg_sent_total{{{labels}}} 2\n"),
            format!("grpc_server_handling_seconds_count{{{labels}}} 1\n"),
        ] {
            assert!(page.contains(&line), "{line}");
        }
    }

    #[tokio::test]
    async fn a_dropped_call_is_canceled() {
        let (mut service, metrics) = counted(success);
        drop(service.call(request(WATCH)));
        drop(service.call(request(WATCH)).await.unwrap());
        assert_eq!(metrics.handled(WATCH, CANCELED), 2);
    }

    #[tokio::test]
    async fn a_refusal_in_the_headers_counts() {
        let (mut service, metrics) =
            counted(|| tonic::Status::unavailable("no leader").into_http());
        drop(service.call(request(PUT)).await.unwrap());
        assert_eq!(
            (metrics.handled(PUT, 14), metrics.handled(PUT, CANCELED)),
            (1, 0)
        );
        drop(service.call(request("/unknown/Method")).await.unwrap());
    }
}
