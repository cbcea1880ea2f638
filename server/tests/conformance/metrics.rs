//! Metrics move when their subject happens (contract 6.4).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use keelson_proto::etcdserverpb::watch_request::RequestUnion;
use keelson_proto::etcdserverpb::{
    AlarmRequest, AlarmType, DefragmentRequest, HashKvRequest, HashRequest, LeaseGrantRequest,
    LeaseKeepAliveRequest, LeaseRevokeRequest, StatusRequest, TxnRequest, WatchCreateRequest,
    WatchRequest, alarm_request::AlarmAction,
};
use keelson_proto::keelsonpb::AppendRequest;
use keelson_proto::keelsonpb::raft_client::RaftClient;
use tonic::Request;

use crate::http::http;
use crate::support::{
    Cluster, checkpoint_often, compact, delete, eventually, get, op, peer_request, put, put_ok,
    range_ok, soon,
};

/// Families that stand still in a cluster that works, and why.
const AT_REST: &[&str] = &[
    // Gauges of what is under way, or does not apply to this member.
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_server_alarms",
    "etcd_disk_defrag_inflight",
    "etcd_network_snapshot_receive_inflights_total",
    "etcd_network_snapshot_send_inflights_total",
    "etcd_server_is_learner",
    "etcd_server_proposals_pending",
    "etcd_server_snapshot_apply_in_progress_total",
];

/// Families whose subject does not exist here, or is not measured.
const NEVER: &[&str] = &[
    // There is no authentication yet, and nobody is promoted here (`members::` does).
    "etcd_debugging_auth_revision",
    "etcd_server_learner_promote_failures",
    "etcd_server_learner_promote_successes",
    // Parts of a bbolt commit, of a v2 snapshot file, of the v2 store, of the gRPC proxy.
    "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
    "etcd_debugging_disk_backend_commit_spill_duration_seconds",
    "etcd_debugging_disk_backend_commit_write_duration_seconds",
    "etcd_debugging_snap_save_marshalling_duration_seconds",
    "etcd_debugging_store_expires_total",
    "etcd_debugging_store_reads_failed_total",
    "etcd_debugging_store_reads_total",
    "etcd_debugging_store_watch_requests_total",
    "etcd_debugging_store_watchers",
    "etcd_debugging_store_writes_failed_total",
    "etcd_debugging_store_writes_total",
    "etcd_grpc_proxy_cache_hits_total",
    "etcd_grpc_proxy_cache_keys_total",
    "etcd_grpc_proxy_cache_misses_total",
    "etcd_grpc_proxy_events_coalescing_total",
    "etcd_grpc_proxy_watchers_coalescing_total",
    "etcd_snap_db_fsync_duration_seconds",
    "etcd_snap_db_save_total_duration_seconds",
    "etcd_snap_fsync_duration_seconds",
    // Two clock readings an event, an append or a read, which they are not worth.
    "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
    "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
    "etcd_disk_wal_write_duration_seconds",
    "etcd_mvcc_db_open_read_transactions",
    "etcd_network_server_stream_failures_total",
    // Set by the process that writes snapshot files, and by its configuration.
    "etcd_disk_backend_snapshot_duration_seconds",
];

/// The sum of a family's values: of a histogram how often it was observed.
fn totals(page: &str) -> BTreeMap<String, f64> {
    let mut totals = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let name = name.split('{').next().unwrap();
        if name.ends_with("_bucket") || name.ends_with("_sum") {
            continue;
        }
        let family = name.strip_suffix("_count").unwrap_or(name);
        let value: f64 = value.parse().unwrap();
        *totals.entry(family.to_owned()).or_default() += value;
    }
    totals
}

fn value(page: &str, sample: &str) -> f64 {
    let line = page.lines().find(|line| {
        line.strip_prefix(sample)
            .is_some_and(|rest| rest.starts_with(' '))
    });
    let line = line.unwrap_or_else(|| panic!("{sample} is not on the page"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Everything that clients do, through one member.
async fn use_everything(cluster: &Cluster, i: usize) {
    let mut kv = cluster.kv(i);
    let create = WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        ..Default::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    let requests = tokio_stream::once(request).chain(futures::stream::pending());
    let mut watch = cluster.watch(i).watch(requests).await.unwrap().into_inner();
    for n in 0..3 {
        put_ok(&mut kv, "k", format!("{n}")).await;
    }
    let mut events = 0;
    while events < 3 {
        let response = soon("events", watch.message()).await.unwrap().unwrap();
        events += response.events.len();
    }
    range_ok(&mut kv, get("k")).await;
    let write = TxnRequest {
        success: vec![op(put("k", "t")), op(get("k"))],
        ..Default::default()
    };
    kv.txn(write).await.unwrap();
    let read = TxnRequest {
        success: vec![op(get("k")), op(get("l"))],
        ..Default::default()
    };
    kv.txn(read).await.unwrap();
    kv.delete_range(delete("k", "")).await.unwrap();
    kv.compact(compact(4)).await.unwrap();

    let mut lease = cluster.lease(i);
    let grant = |id| LeaseGrantRequest { id, ttl: 1 };
    lease.lease_grant(grant(1)).await.unwrap();
    lease.lease_grant(grant(2)).await.unwrap();
    let keep_alive = tokio_stream::once(LeaseKeepAliveRequest { id: 2 });
    let mut kept = lease
        .lease_keep_alive(keep_alive)
        .await
        .unwrap()
        .into_inner();
    assert!(kept.message().await.unwrap().unwrap().ttl > 0);
    lease
        .lease_revoke(LeaseRevokeRequest { id: 2 })
        .await
        .unwrap();

    let mut maintenance = cluster.maintenance(i);
    maintenance.status(StatusRequest::default()).await.unwrap();
    maintenance.hash(HashRequest {}).await.unwrap();
    maintenance
        .hash_kv(HashKvRequest { revision: 0 })
        .await
        .unwrap();
    maintenance.defragment(DefragmentRequest {}).await.unwrap();
    let alarm = |action: AlarmAction| AlarmRequest {
        action: action.into(),
        member_id: 7,
        alarm: AlarmType::Corrupt.into(),
    };
    maintenance
        .alarm(alarm(AlarmAction::Activate))
        .await
        .unwrap();
    let sample = "etcd_debugging_server_alarms{server_id=\"7\",alarm_type=\"CORRUPT\"}";
    assert_eq!(value(&cluster.metrics(i).page(), sample), 1.0);
    maintenance
        .alarm(alarm(AlarmAction::Deactivate))
        .await
        .unwrap();
    assert_eq!(value(&cluster.metrics(i).page(), sample), 0.0);
    eventually("the lease expires", async || {
        let page = cluster.metrics(i).page();
        (value(&page, "etcd_debugging_server_lease_expired_total") > 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_moves_when_its_subject_happens() {
    let mut cluster = Cluster::start(3, |config| {
        checkpoint_often(config);
        config.node.warning_apply_duration = Duration::ZERO;
    })
    .await;
    let here = cluster.leader().await;
    use_everything(&cluster, here).await;
    assert_eq!(http(&cluster, here, "GET", "/health").await.0, 200);
    assert_eq!(http(&cluster, here, "GET", "/readyz").await.0, 200);

    // A member that is away: what is sent to it fails, and it comes back through a checkpoint.
    let away = cluster.follower().await;
    let hex = |id: u64| format!("{id:x}");
    let ids = cluster.status(away).await.header.unwrap();
    let last = cluster.status(away).await.raft_applied_index;
    let peer = hex(ids.member_id);
    eventually("the peers were asked for a sign of life", async || {
        let page = cluster.metrics(here).page();
        let sample = format!("etcd_network_peer_round_trip_time_seconds_count{{To=\"{peer}\"}}");
        (value(&page, &sample) > 0.0).then_some(())
    })
    .await;
    cluster.stop(away).await;
    let mut kv = cluster.kv(here);
    for i in 0..200 {
        put_ok(&mut kv, format!("k{}", i % 9), format!("{i}")).await;
    }
    eventually("it is gone, and the log it needs too", async || {
        let node = cluster.member(here).server().node();
        let purged = node.status().with_metrics(|metrics| metrics.purged);
        let totals = totals(&cluster.metrics(here).page());
        let disconnected = totals.get("etcd_network_disconnected_peers_total");
        (purged.is_some_and(|purged| purged.index() > last) && disconnected > Some(&0.0))
            .then_some(())
    })
    .await;
    cluster.restart(away).await;
    eventually("it has caught up", async || {
        let received = totals(&cluster.metrics(away).page());
        let received = received.get("etcd_network_snapshot_receive_success");
        (received > Some(&0.0)).then_some(())
    })
    .await;

    // A stream from it that is no log.
    let leader_id = cluster.status(here).await.header.unwrap().member_id;
    let url = format!("http://{}", cluster.peer_address(here));
    let mut client = RaftClient::connect(url).await.unwrap();
    let no_vote = tokio_stream::once(AppendRequest::default());
    let request = peer_request(ids.cluster_id, ids.member_id, leader_id, no_vote);
    drop(client.stream_append(request).await);
    // And a checkpoint without a beginning.
    let nothing = tokio_stream::empty();
    let request = peer_request(ids.cluster_id, ids.member_id, leader_id, nothing);
    assert!(client.install_snapshot(request).await.is_err());
    let sample = format!("etcd_network_peer_received_failures_total{{From=\"{peer}\"}}");
    eventually("it is counted", async || {
        cluster.metrics(here).page().contains(&sample).then_some(())
    })
    .await;

    // Without the others nothing goes on.
    let received = totals(&cluster.metrics(away).page());
    let working = totals(&cluster.metrics(here).page());
    for i in (0..3).filter(|i| *i != here) {
        cluster.stop(i).await;
    }
    let (mut writer, mut reader) = (cluster.kv(here), cluster.kv(here));
    let mut versioned = Request::new(get("k"));
    let version = "9.9".parse().unwrap();
    versioned
        .metadata_mut()
        .insert("client-api-version", version);
    let (written, read, health) = tokio::join!(
        writer.put(put("k", "lost")),
        reader.range(versioned),
        http(&cluster, here, "GET", "/health"),
    );
    assert!(written.is_err() && read.is_err() && health.0 == 503);

    eventually("the read was given up", async || {
        let page = cluster.metrics(here).page();
        (value(&page, "etcd_server_read_indexes_failed_total") > 0.0).then_some(())
    })
    .await;

    let page = cluster.metrics(here).page();
    let mut still = Vec::new();
    let totals = totals(&page);
    for name in keelson::metrics::names::NAMES {
        let moved = [&totals, &working, &received]
            .iter()
            .any(|totals| totals.get(*name).is_some_and(|total| *total != 0.0));
        if !moved && !AT_REST.contains(name) && !NEVER.contains(name) {
            still.push(*name);
        }
        assert!(!(moved && NEVER.contains(name)), "{name} does move");
    }
    assert_eq!(still, Vec::<&str>::new(), "these never moved");
    let unary = "etcd_server_client_requests_total{type=\"unary\",client_api_version=\"9.9\"}";
    assert_eq!(value(&page, unary), 1.0);
    for (operation, success) in [("Put", "true"), ("Txn", "true"), ("LeaseGrant", "true")] {
        let labels = format!("version=\"v3\",op=\"{operation}\",success=\"{success}\"");
        let sample = format!("etcd_server_apply_duration_seconds_count{{{labels}}}");
        assert!(value(&page, &sample) > 0.0);
        let labels = format!("type=\"{operation}\",success=\"{success}\"");
        let sample = format!("etcd_server_request_duration_seconds_count{{{labels}}}");
        assert!(value(&page, &sample) > 0.0);
    }
    let failed = "etcd_server_request_duration_seconds_count{type=\"Put\",success=\"false\"}";
    assert_eq!(value(&page, failed), 1.0);
}
