//! The HTTP endpoints of the client port and of the metrics URLs (contract 6.2).

use std::pin::Pin;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use keelson_proto::etcdserverpb::{AlarmType, RangeRequest};
use tonic::body::Body;

use super::access::Access;
use crate::node::Node;
use crate::transport::http::{Handler, cleaned, json, not_found, only_get, text, typed};

/// Renders the metrics page.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// How Prometheus calls its text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// The handlers. Before the member has joined there is no node; the metrics URLs answer all the
/// same (contract 4.2).
#[derive(Clone)]
pub struct HttpService {
    node: Arc<std::sync::OnceLock<Arc<Node>>>,
    metrics: Metrics,
    /// Absent on the metrics URLs, which answer anybody, and only metrics and health.
    access: Option<Arc<Access>>,
    /// Off where another port serves HTTP.
    enabled: bool,
}

impl HttpService {
    /// Handlers of a client port.
    #[must_use]
    pub fn new(
        node: Arc<std::sync::OnceLock<Arc<Node>>>,
        metrics: Metrics,
        access: Access,
    ) -> Self {
        Self {
            node,
            metrics,
            access: Some(Arc::new(access)),
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
            access: None,
            ..self
        }
    }

    async fn page(&self, request: &Request<Incoming>) -> Response<Body> {
        if let Some(elsewhere) = cleaned(request) {
            return elsewhere;
        }
        let path = request.uri().path();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let only_metrics = self.access.is_none();
        let page = match path {
            // Whatever the method, as Prometheus' handler has it.
            "/metrics" => return typed(METRICS_TYPE, (self.metrics)()),
            "/health" => Page::Health,
            "/version" if !only_metrics => Page::Version,
            "/debug/vars" if !only_metrics => Page::Vars,
            _ => match probe(path) {
                Some((probe, check)) => Page::Probe(probe, check),
                None => return not_found(),
            },
        };
        if request.method() != Method::GET {
            return only_get();
        }
        match page {
            Page::Health => self.health(&query).await,
            Page::Version => self.version(),
            Page::Vars => debug_vars(),
            Page::Probe(probe, check) => self.probe(probe, check, &query).await,
        }
    }

    fn version(&self) -> Response<Body> {
        let decided = self.node.get().and_then(|node| node.cluster_version());
        json(crate::node::version_json(decided.as_deref()))
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
        let body = serde_json::json!({ "health": healthy.to_string(), "reason": reason });
        if healthy {
            typed("text/plain; charset=utf-8", body.to_string())
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{body}\n"))
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

impl Handler for HttpService {
    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        if !self.enabled {
            return not_found();
        }
        let Some(access) = &self.access else {
            return self.page(&request).await;
        };
        if let Some(refusal) = access.refusal(&request) {
            return refusal;
        }
        let mut response = if request.method() == Method::OPTIONS {
            Response::new(Body::empty())
        } else {
            self.page(&request).await
        };
        access.mark(request.headers(), response.headers_mut());
        response
    }
}

/// What is answered to GET alone.
enum Page {
    Health,
    Version,
    Vars,
    Probe(&'static Probe, Option<&'static Check>),
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
            "" => Some((probe, None)),
            rest => {
                let name = rest.strip_prefix('/')?;
                let check = probe.checks.iter().find(|check| check.name == name)?;
                Some((probe, Some(check)))
            }
        })
}

fn debug_vars() -> Response<Body> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let vars = serde_json::json!({ "file_descriptor_limit": limit });
    typed("application/json; charset=utf-8", vars.to_string())
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
