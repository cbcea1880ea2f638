//! The HTTP endpoints of the client port and of the metrics URLs (contract 6.2).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use keelson_proto::etcdserverpb::{AlarmType, RangeRequest};
use tonic::body::Body;
use tower::Service;

use crate::node::Node;
use crate::transport::text;

/// Renders the metrics page.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// The handlers. Before the member has joined there is no node; the metrics URLs answer all the
/// same (contract 4.2).
#[derive(Clone)]
pub struct HttpService {
    node: Arc<std::sync::OnceLock<Arc<Node>>>,
    metrics: Metrics,
    /// Only metrics and health, as on the metrics URLs.
    metrics_only: bool,
    /// Off where another port serves HTTP.
    enabled: bool,
}

impl HttpService {
    /// Handlers of a client port.
    #[must_use]
    pub fn new(node: Arc<std::sync::OnceLock<Arc<Node>>>, metrics: Metrics) -> Self {
        Self {
            node,
            metrics,
            metrics_only: false,
            enabled: true,
        }
    }

    /// The same, or no handlers at all.
    #[must_use]
    pub fn enabled(self, enabled: bool) -> Self {
        Self { enabled, ..self }
    }

    /// Handlers of a metrics URL.
    #[must_use]
    pub fn metrics_only(self) -> Self {
        Self {
            metrics_only: true,
            ..self
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match path {
            _ if !self.enabled => text(StatusCode::NOT_FOUND, "404 page not found\n"),
            "/metrics" if get => metrics((self.metrics)()),
            "/health" if !get => {
                let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
                response
                    .headers_mut()
                    .insert(header::ALLOW, HeaderValue::from_static("GET"));
                response
            }
            "/health" => self.health(&query).await,
            "/version" if get && !self.metrics_only => self.version(),
            "/debug/vars" if get && !self.metrics_only => debug_vars(),
            _ => match probe(path) {
                Some((probe, check)) if get => self.probe(probe, check, &query).await,
                _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
            },
        }
    }

    fn version(&self) -> Response<Body> {
        let decided = self.node.get().and_then(|node| node.cluster_version());
        json_text(
            StatusCode::OK,
            crate::node::version_json(decided.as_deref()),
        )
    }

    async fn health(&self, query: &Query) -> Response<Body> {
        let reason = match self.node.get() {
            None => "RAFT NO LEADER".to_owned(),
            Some(node) => health_reason(node, query).await,
        };
        let healthy = reason.is_empty();
        if let Some(node) = self.node.get() {
            node.metrics().health(healthy);
        }
        let status = if healthy {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let body = serde_json::json!({ "health": healthy.to_string(), "reason": reason });
        if healthy {
            json(status, &body)
        } else {
            // Go's `http.Error`: plain text that ends in a newline.
            text(status, format!("{body}\n"))
        }
    }

    async fn probe(
        &self,
        probe: &'static Probe,
        single: Option<&'static Check>,
        query: &Query,
    ) -> Response<Body> {
        let mut failed = false;
        let mut lines = String::new();
        for check in probe.checks {
            let wanted = single.is_none_or(|single| std::ptr::eq(single, check));
            if !wanted || query.excludes(check.name) {
                continue;
            }
            let result = match self.node.get() {
                None => Err("etcdserver: server is starting".to_owned()),
                Some(node) => {
                    let result = (check.run)(Arc::clone(node)).await;
                    let kind = probe.path.trim_start_matches('/');
                    node.metrics()
                        .health_check(kind, check.name, result.is_ok());
                    result
                }
            };
            match result {
                Ok(()) => lines.push_str(&format!("[+]{} ok\n", check.name)),
                Err(reason) => {
                    failed = true;
                    lines.push_str(&format!("[-]{} failed: {reason}\n", check.name));
                }
            }
        }
        if failed {
            return text(StatusCode::SERVICE_UNAVAILABLE, lines);
        }
        let mut body = if query.verbose { lines } else { String::new() };
        body.push_str("ok\n");
        text(StatusCode::OK, body)
    }
}

impl Service<Request<Incoming>> for HttpService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}

/// The parts of a query that the endpoints know.
#[derive(Default)]
struct Query {
    excluded: Vec<String>,
    serializable: bool,
    verbose: bool,
}

impl Query {
    fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "exclude" => parsed.excluded.push(value.to_owned()),
                "serializable" => parsed.serializable = value == "true",
                "verbose" => parsed.verbose = true,
                _ => {}
            }
        }
        parsed
    }

    fn excludes(&self, name: &str) -> bool {
        self.excluded.iter().any(|excluded| excluded == name)
    }
}

/// Why the member is unhealthy; empty if it is not.
async fn health_reason(node: &Arc<Node>, query: &Query) -> String {
    for (alarm, name) in [
        (AlarmType::Nospace, "NOSPACE"),
        (AlarmType::Corrupt, "CORRUPT"),
    ] {
        if !query.excludes(name) && node.alarm_stands(alarm) {
            return format!("ALARM {name}");
        }
    }
    if !query.serializable && node.status().leader().leader.is_none() {
        return "RAFT NO LEADER".to_owned();
    }
    match one_key_read(node, query.serializable).await {
        Ok(()) => String::new(),
        Err(reason) => format!("RANGE ERROR:{reason}"),
    }
}

async fn one_key_read(node: &Arc<Node>, serializable: bool) -> Result<(), String> {
    let request = RangeRequest {
        key: bytes::Bytes::from_static(b"health"),
        limit: 1,
        serializable,
        ..Default::default()
    };
    node.range(request)
        .await
        .map(drop)
        .map_err(|status| status.message().to_owned())
}

type CheckFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

struct Check {
    name: &'static str,
    run: fn(Arc<Node>) -> CheckFuture,
}

struct Probe {
    path: &'static str,
    checks: &'static [Check],
}

const SERIALIZABLE_READ: Check = Check {
    name: "serializable_read",
    run: |node| Box::pin(async move { one_key_read(&node, true).await }),
};

static PROBES: [Probe; 2] = [
    Probe {
        path: "/livez",
        checks: &[SERIALIZABLE_READ],
    },
    Probe {
        path: "/readyz",
        checks: &[
            Check {
                name: "data_corruption",
                run: |node| {
                    Box::pin(async move {
                        if node.alarm_stands(AlarmType::Corrupt) {
                            return Err("alarm activated: CORRUPT".to_owned());
                        }
                        Ok(())
                    })
                },
            },
            SERIALIZABLE_READ,
            Check {
                name: "linearizable_read",
                run: |node| Box::pin(async move { one_key_read(&node, false).await }),
            },
            Check {
                name: "non_learner",
                run: |node| {
                    Box::pin(async move {
                        if node.is_learner() {
                            return Err("not supported for learner".to_owned());
                        }
                        Ok(())
                    })
                },
            },
        ],
    },
];

/// The probe of a path, and the single check it names if it does.
fn probe(path: &str) -> Option<(&'static Probe, Option<&'static Check>)> {
    PROBES
        .iter()
        .find_map(|probe| match path.strip_prefix(probe.path)? {
            "" | "/" => Some((probe, None)),
            rest => {
                let name = rest.strip_prefix('/')?;
                let check = probe.checks.iter().find(|check| check.name == name)?;
                Some((probe, Some(check)))
            }
        })
}

fn metrics(page: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, page);
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

fn debug_vars() -> Response<Body> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    json(
        StatusCode::OK,
        &serde_json::json!({ "file_descriptor_limit": limit }),
    )
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    json_text(status, body.to_string())
}

fn json_text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = text(status, body);
    let content_type = HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_and_single_checks() {
        assert!(
            probe("/livez").is_some_and(|(probe, check)| probe.path == "/livez" && check.is_none())
        );
        assert!(
            probe("/readyz/non_learner")
                .and_then(|(_, check)| check)
                .is_some_and(|check| check.name == "non_learner")
        );
        assert!(probe("/livez/non_learner").is_none());
        assert!(probe("/livezz").is_none() && probe("/").is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_path_and_query_has_an_answer(text in ".*") {
            let query = Query::parse(&text);
            proptest::prop_assert!(query.excluded.len() <= text.len());
            let path = format!("/readyz/{text}");
            let single = probe(&path).and_then(|(_, check)| check);
            proptest::prop_assert!(single.is_none_or(|check| check.name == text));
            let _ = probe(&text);
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse("exclude=NOSPACE&exclude=x&serializable=true&verbose");
        assert!(query.excludes("NOSPACE") && query.excludes("x") && !query.excludes("CORRUPT"));
        assert!(query.serializable && query.verbose);
        assert!(!Query::parse("").serializable);
    }
}
