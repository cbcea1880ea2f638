//! Responses whose messages their handler has framed itself.
//!
//! A codec copies what it encodes. A handler that streams much gives an empty stream to its service
//! and a body of finished frames, trailers included, beside it; [`unwrap`] puts that body in the
//! place of the service's. Everything before the first message is the service's work as ever.

use std::sync::Arc;

use http::Response;
use parking_lot::Mutex;
use tonic::body::Body;

/// The body of a response, on its way through the service.
#[derive(Clone)]
pub(super) struct FramedBody(Arc<Mutex<Option<Body>>>);

impl FramedBody {
    /// A response of `body`, which ends with its status.
    pub(super) fn response<T>(
        body: Body,
    ) -> tonic::Response<futures::stream::Empty<Result<T, tonic::Status>>> {
        let mut response = tonic::Response::new(futures::stream::empty());
        let body = Self(Arc::new(Mutex::new(Some(body))));
        response.extensions_mut().insert(body);
        response
    }
}

/// Gives a response the body that its handler has framed, if it has.
pub(super) fn unwrap(mut response: Response<Body>) -> Response<Body> {
    let framed = response.extensions_mut().remove::<FramedBody>();
    let body = framed.and_then(|framed| framed.0.lock().take());
    match body {
        Some(body) => response.map(|_| body),
        None => response,
    }
}
