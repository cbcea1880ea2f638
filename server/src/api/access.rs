//! Who may ask over HTTP (contract 6.1): `--cors` and `--host-whitelist`.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tonic::body::Body;

use crate::transport::http::text;

/// What browsers may send.
const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
/// And with which headers.
const HEADERS: HeaderValue = HeaderValue::from_static("accept, content-type, authorization");

/// The access rules of the client port.
#[derive(Clone, Debug)]
pub struct Access {
    origins: Vec<String>,
    hosts: Vec<String>,
}

impl Access {
    /// Browsers of these origins, and requests to these hosts; none, or `*` among them, are all.
    #[must_use]
    pub fn new(origins: Vec<String>, hosts: Vec<String>) -> Self {
        Self { origins, hosts }
    }

    /// The answer to a request for another host.
    #[must_use]
    pub fn refusal<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let host = host(request);
        if allows(&self.hosts, host) {
            return None;
        }
        tracing::warn!(
            host,
            "rejecting HTTP request to prevent DNS rebinding attacks"
        );
        Some(text(StatusCode::MISDIRECTED_REQUEST, unknown_host(host)))
    }

    /// Tells a browser who may read the answer.
    pub fn mark(&self, request_headers: &HeaderMap, headers: &mut HeaderMap) {
        let origin = if allows(&self.origins, "*") {
            Some(HeaderValue::from_static("*"))
        } else {
            let origin = request_headers.get(header::ORIGIN);
            let text = origin.and_then(|origin| origin.to_str().ok());
            origin
                .filter(|_| allows(&self.origins, text.unwrap_or_default()))
                .cloned()
        };
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        }
    }
}

fn allows(list: &[String], asked: &str) -> bool {
    list.is_empty() || list.iter().any(|listed| listed == "*" || listed == asked)
}

/// The host that a request names, without its port.
fn host<B>(request: &Request<B>) -> &str {
    let named = request.headers().get(header::HOST);
    let named = named
        .and_then(|host| host.to_str().ok())
        .or_else(|| request.uri().authority().map(http::uri::Authority::as_str))
        .unwrap_or_default();
    match named.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => named,
    }
}

fn unknown_host(host: &str) -> String {
    format!(
        "\netcd received your request, but the Host header was unrecognized.\n\n\
         To fix this, choose one of the following options:\n\
         - Enable TLS, then any HTTPS request will be allowed.\n\
         - Add the hostname you want to use to the whitelist setting.\n  \
         - e.g. etcd --host-whitelist {host:?}\n\n\
         This requirement has been added to help prevent \"DNS Rebinding\" attacks \
         (CVE-2018-5702).\n\n"
    )
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn request(method: Method, host: &str, origin: &str) -> Request<()> {
        let request = Request::builder().method(method).uri("/health");
        request
            .header("host", host)
            .header("origin", origin)
            .body(())
            .unwrap()
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn origins_match_with_their_port() {
        let marked = |origins: &[&str], origin| {
            let access = Access::new(words(origins), Vec::new());
            let mut headers = HeaderMap::new();
            access.mark(request(Method::GET, "x", origin).headers(), &mut headers);
            let allowed = headers.get("access-control-allow-origin");
            allowed.map(|allowed| allowed.to_str().unwrap().to_owned())
        };
        assert_eq!(marked(&["*"], "http://a:1").as_deref(), Some("*"));
        assert_eq!(marked(&[], "http://a:1").as_deref(), Some("*"));
        let listed = ["http://a:1", "http://b:1"];
        assert_eq!(marked(&listed, "http://b:1").as_deref(), Some("http://b:1"));
        assert_eq!(marked(&listed, "http://b:2"), None);
    }

    #[test]
    fn only_listed_hosts_are_answered() {
        let access = Access::new(Vec::new(), words(&["a", "::1"]));
        let refused = |method, host| {
            access
                .refusal(&request(method, host, ""))
                .map(|r| r.status())
        };
        assert_eq!(refused(Method::GET, "a:2379"), None);
        assert_eq!(refused(Method::GET, "[::1]:2379"), None);
        assert_eq!(refused(Method::GET, "a"), None);
        assert_eq!(
            refused(Method::GET, "b:2379"),
            Some(StatusCode::MISDIRECTED_REQUEST)
        );
        assert_eq!(
            refused(Method::OPTIONS, "b"),
            Some(StatusCode::MISDIRECTED_REQUEST)
        );
    }
}
