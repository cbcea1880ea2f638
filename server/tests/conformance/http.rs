//! HTTP beside gRPC (contract 6.1, 6.2).

use keelson_proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use keelson_proto::healthpb::{HealthCheckRequest, health_client::HealthClient};
use tonic::Code;
use tower::Service as _;

use crate::support::{Cluster, eventually, http_at, soon};

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
