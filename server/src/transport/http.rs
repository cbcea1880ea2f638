//! HTTP beside gRPC: what the handlers of a port are, and the answers that Go's HTTP server gives by
//! itself.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tonic::body::Body;
use tower::Service;

use super::ResponseFuture;

/// Answers HTTP requests.
pub trait Handler: Clone + Send + 'static {
    /// The answer to one request, whose path is clean.
    fn answer(self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// The service of a [`Handler`].
#[derive(Clone)]
pub struct Handled<H>(pub H);

impl<H: Handler> Service<Request<Incoming>> for Handled<H> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> ResponseFuture {
        let handler = self.0.clone();
        Box::pin(async move { Ok(handler.answer(request).await) })
    }
}

fn with_body(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let body = Full::new(Bytes::from(body));
    let mut response = Response::new(Body::new(body.map_err(|never| match never {})));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// A plain text response, as Go's `http.Error` makes it.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<String>) -> Response<Body> {
    let mut response = with_body(status, "text/plain; charset=utf-8", body.into());
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// A response of this type.
#[must_use]
pub fn typed(content_type: &'static str, body: impl Into<String>) -> Response<Body> {
    with_body(StatusCode::OK, content_type, body.into())
}

/// JSON.
#[must_use]
pub fn json(body: impl Into<String>) -> Response<Body> {
    typed("application/json", body)
}

/// For a path that nobody answers.
#[must_use]
pub fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// For another method than GET, where only that is answered.
#[must_use]
pub fn only_get() -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    let allow = HeaderValue::from_static("GET");
    response.headers_mut().insert(header::ALLOW, allow);
    response
}

/// Where a request with an unclean path is sent, as Go's request multiplexer does: `//health` and
/// `/x/../health` become `/health`. `None` if the path is clean.
#[must_use]
pub fn cleaned<B>(request: &Request<B>) -> Option<Response<Body>> {
    let uri = request.uri();
    let clean = clean_path(uri.path());
    if clean == uri.path() {
        return None;
    }
    let location = match uri.query() {
        Some(query) => format!("{clean}?{query}"),
        None => clean,
    };
    let status = StatusCode::TEMPORARY_REDIRECT;
    let link = || {
        format!(
            "<a href=\"{}\">Temporary Redirect</a>.\n\n",
            escape(&location)
        )
    };
    let mut response = match *request.method() {
        Method::GET | Method::HEAD => with_body(status, "text/html; charset=utf-8", link()),
        _ => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            response
        }
    };
    // A URI has no bytes that a header may not have.
    let location = HeaderValue::from_str(&location).ok()?;
    response.headers_mut().insert(header::LOCATION, location);
    Some(response)
}

fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    clean
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, clean) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("//a", "/a"),
            ("/a//b/./c/../", "/a/b/"),
            ("/../a", "/a"),
            ("//", "/"),
            ("*", "/*"),
        ] {
            assert_eq!(clean_path(path), clean, "{path}");
        }
        let request = |path: &str| Request::get(path).body(()).unwrap();
        assert!(cleaned(&request("/health?a=//b")).is_none());
        let sent = cleaned(&request("//health?a=b")).unwrap();
        assert_eq!(sent.headers()["location"], "/health?a=b");
    }
}
