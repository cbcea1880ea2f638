//! HTTP beside gRPC (contract 6.1, 6.2).

use keelson::transport::ListenAddress;
use keelson_proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use keelson_proto::healthpb::{HealthCheckRequest, health_client::HealthClient};
use tonic::Code;
use tower::Service as _;

use crate::support::{Cluster, eventually, free_port, http_at, put_ok, soon};

/// Status line's code, header lines and body of an HTTP/1.1 request.
pub(crate) async fn http(
    cluster: &Cluster,
    i: usize,
    method: &str,
    path: &str,
) -> (u16, String, String) {
    http_at(cluster.client_address(i), method, path).await
}

async fn body(cluster: &Cluster, path: &str) -> (u16, String) {
    let (code, _, body) = http(cluster, 0, "GET", path).await;
    (code, body)
}

async fn raise(cluster: &Cluster, alarm: AlarmType) {
    let request = AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: 1,
        alarm: alarm.into(),
    };
    cluster.maintenance(0).alarm(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_of_alarms() {
    let cluster = Cluster::single().await;
    let well = (200, r#"{"health":"true","reason":""}"#.to_owned());
    assert_eq!(body(&cluster, "/health").await, well);
    assert_eq!(body(&cluster, "/health?serializable=true").await, well);
    let (code, head, _) = http(&cluster, 0, "POST", "/health").await;
    assert_eq!(code, 405);
    assert!(head.contains("\r\nallow: get"), "{head}");
    raise(&cluster, AlarmType::Nospace).await;
    let sick = (
        503,
        r#"{"health":"false","reason":"ALARM NOSPACE"}"#.to_owned() + "\n",
    );
    assert_eq!(body(&cluster, "/health").await, sick);
    assert_eq!(body(&cluster, "/health?exclude=NOSPACE").await, well);
    assert_eq!(body(&cluster, "/readyz").await.0, 200);
    raise(&cluster, AlarmType::Corrupt).await;
    let excluded = "/health?exclude=NOSPACE&exclude=CORRUPT";
    assert_eq!(body(&cluster, excluded).await, well);
    let sick = (
        503,
        r#"{"health":"false","reason":"ALARM CORRUPT"}"#.to_owned() + "\n",
    );
    assert_eq!(body(&cluster, "/health?exclude=NOSPACE").await, sick);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_show_their_checks() {
    let cluster = Cluster::single().await;
    let (code, head, text) = http(&cluster, 0, "GET", "/livez").await;
    assert_eq!((code, text.as_str()), (200, "ok\n"));
    assert!(head.contains("content-type: text/plain"), "{head}");
    let verbose = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n\
                   [+]non_learner ok\nok\n";
    assert_eq!(
        body(&cluster, "/readyz?verbose").await,
        (200, verbose.to_owned())
    );
    let single = body(&cluster, "/readyz/linearizable_read?verbose").await;
    assert_eq!(single, (200, "[+]linearizable_read ok\nok\n".to_owned()));
    assert_eq!(body(&cluster, "/readyz/none").await.0, 404);
    raise(&cluster, AlarmType::Corrupt).await;
    let (code, text) = body(&cluster, "/readyz").await;
    assert_eq!(code, 503);
    let first = text.lines().next().unwrap();
    assert_eq!(first, "[-]data_corruption failed: alarm activated: CORRUPT");
    assert_eq!(
        body(&cluster, "/readyz?exclude=data_corruption").await.0,
        200
    );
    assert_eq!(body(&cluster, "/livez").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_etcds() {
    let cluster = Cluster::single().await;
    let decided = eventually("the cluster version is decided", async || {
        let (code, text) = body(&cluster, "/version").await;
        assert_eq!(code, 200);
        (!text.contains("not_decided")).then_some(text)
    })
    .await;
    let version: std::collections::BTreeMap<String, String> =
        serde_json::from_str(&decided).unwrap();
    assert_eq!(version["etcdserver"], "3.7.1");
    assert_eq!(version["etcdcluster"], "3.7.0");
    assert_eq!(version["storage"], "3.7.0");
    let status = cluster.status(0).await;
    assert_eq!(
        (status.version.as_str(), status.storage_version.as_str()),
        ("3.7.1", "3.7.0")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_are_not_found() {
    let cluster = Cluster::single().await;
    for path in ["/", "/v2/keys", "/healthz", "/members"] {
        assert_eq!(body(&cluster, path).await.0, 404, "{path}");
    }
    assert_eq!(body(&cluster, "/metrics").await.0, 200);
    let (code, vars) = body(&cluster, "/debug/vars").await;
    assert!(
        code == 200 && vars.contains("file_descriptor_limit"),
        "{vars}"
    );
}

/// What a path answers: code, content type, and the body where it is short and always the same.
type Answer = (u16, &'static str, Option<&'static str>);

const PLAIN: &str = "text/plain; charset=utf-8";
const NOT_FOUND: Answer = (404, PLAIN, Some("404 page not found\n"));
const ONLY_GET: Answer = (405, PLAIN, Some("Method Not Allowed\n"));

async fn assert_answers(
    address: std::net::SocketAddr,
    path: &str,
    method: &str,
    is_client_port: bool,
    expected: Answer,
) {
    let (code, head, body) = http_at(address, method, path).await;
    let what = format!("{method} {path} on the client port: {is_client_port}\n{head}");
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(found, value)| (found == name).then(|| value.to_owned()))
    };
    let (expected_code, content_type, expected_body) = expected;
    assert_eq!(code, expected_code, "{what}");
    assert_eq!(
        header("content-type").unwrap_or_default(),
        content_type,
        "{what}"
    );
    match expected_body {
        _ if method == "HEAD" => assert_eq!(body, "", "{what}"),
        Some(expected_body) => assert_eq!(body, expected_body, "{what}"),
        None => assert_ne!(body, "", "{what}"),
    }
    assert_eq!(
        header("allow").as_deref(),
        (code == 405).then_some("get"),
        "{what}"
    );
    let sniffs = header("x-content-type-options").is_none();
    let is_error_or_probe = code >= 400 || body.ends_with("ok\n");
    assert!(sniffs != is_error_or_probe || method == "HEAD", "{what}");
    let origin = header("access-control-allow-origin");
    assert_eq!(origin.as_deref(), is_client_port.then_some("*"), "{what}");
}

/// As genuine etcd 3.7.1 answers.
#[tokio::test(flavor = "multi_thread")]
async fn every_path_answers_every_method_as_etcd_does() {
    const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    let metrics_port = free_port();
    let cluster = Cluster::start(1, |config| {
        config.listen_metrics = vec![ListenAddress::Tcp(format!("127.0.0.1:{metrics_port}"))];
    })
    .await;
    let healthy = Some(r#"{"health":"true","reason":""}"#);
    let gets: [(&str, Answer, bool); 8] = [
        ("/health", (200, PLAIN, healthy), true),
        ("/livez", (200, PLAIN, Some("ok\n")), true),
        ("/readyz", (200, PLAIN, Some("ok\n")), true),
        ("/livez/serializable_read", (200, PLAIN, Some("ok\n")), true),
        (
            "/readyz/non_learner?verbose",
            (200, PLAIN, Some("[+]non_learner ok\nok\n")),
            true,
        ),
        ("/version", (200, "application/json", None), false),
        (
            "/debug/vars",
            (200, "application/json; charset=utf-8", None),
            false,
        ),
        ("/metrics", (200, METRICS, None), true),
    ];
    let unknown = [
        "/",
        "/nope",
        "/health/",
        "/health/x",
        "/version/",
        "/metrics/",
        "/livez/",
        "/readyz/",
        "/livez/nope",
        "/readyz/non_learner/",
        "/livezx",
        "/debug/vars/",
        "/debug/pprof/",
        "/debug/requests",
        "/members",
        "/v2/keys",
    ];
    let ports = [
        (cluster.client_address(0), true),
        (([127, 0, 0, 1], metrics_port).into(), false),
    ];
    for (address, is_client_port) in ports {
        let methods = [
            "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW", "OPTIONS",
        ];
        for method in methods {
            let preflight = is_client_port && method == "OPTIONS";
            for (path, got, on_metrics_urls) in gets {
                let expected = match method {
                    _ if preflight => (200, "", Some("")),
                    _ if !is_client_port && !on_metrics_urls => NOT_FOUND,
                    "GET" => got,
                    _ if path == "/metrics" => got,
                    _ => ONLY_GET,
                };
                assert_answers(address, path, method, is_client_port, expected).await;
            }
            for path in unknown {
                let expected = if preflight {
                    (200, "", Some(""))
                } else {
                    NOT_FOUND
                };
                assert_answers(address, path, method, is_client_port, expected).await;
            }
            let (code, head, _) = http_at(address, method, "//health/../version?a=b").await;
            if preflight {
                assert_eq!(code, 200, "{head}");
            } else {
                assert!(
                    code == 307 && head.contains("\r\nlocation: /version?a=b"),
                    "{head}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_and_hosts_are_those_that_are_allowed() {
    let cluster = Cluster::start(1, |config| {
        config.cors = vec!["http://a:1".to_owned()];
        config.host_whitelist = vec!["127.0.0.1".to_owned()];
    })
    .await;
    // These requests name the host "x".
    let (code, head, text) = http(&cluster, 0, "GET", "/health").await;
    assert_eq!(code, 421);
    assert!(text.contains("--host-whitelist \"x\""), "{text}");
    assert!(!head.contains("access-control"), "{head}");
    put_ok(&mut cluster.kv(0), "gRPC names any host", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_http2_that_is_not_grpc_is_refused() {
    let cluster = Cluster::single().await;
    let mut channel = cluster.channel(0);
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .unwrap();
    let request = http::Request::get("/health").body(tonic::body::Body::empty());
    let response = channel.call(request.unwrap()).await.unwrap();
    assert_eq!(response.status().as_u16(), 415);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_health_knows_only_the_whole_server() {
    let cluster = Cluster::single().await;
    let mut health = HealthClient::new(cluster.channel(0));
    let request = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let response = health.check(request("")).await.unwrap().into_inner();
    assert_eq!(response.status().as_str_name(), "SERVING");
    let unknown = health.check(request("etcdserverpb.KV")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let watched = health.watch(request("etcdserverpb.KV")).await.unwrap();
    let first = soon("a message", watched.into_inner().message()).await;
    assert_eq!(
        first.unwrap().unwrap().status().as_str_name(),
        "SERVICE_UNKNOWN"
    );
}
