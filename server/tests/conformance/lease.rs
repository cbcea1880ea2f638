//! Leases (contract 2.8).

use std::time::Duration;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use keelson_proto::etcdserverpb::{
    Compare, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    PutRequest, TxnRequest,
};
use tokio::time::Instant;

use crate::support::{
    Cluster, assert_refused, eventually, get, keys, op, put, put_ok, range, range_ok, soon,
};

async fn grant(cluster: &Cluster, id: i64, ttl: i64) -> LeaseGrantResponse {
    let request = LeaseGrantRequest { ttl, id };
    let response = cluster.lease(0).lease_grant(request).await;
    response.unwrap().into_inner()
}

async fn time_to_live(cluster: &Cluster, i: usize, id: i64) -> LeaseTimeToLiveResponse {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let response = cluster.lease(i).lease_time_to_live(request).await;
    response.unwrap().into_inner()
}

async fn keep_alive(cluster: &Cluster, i: usize, ids: Vec<i64>) -> Vec<LeaseKeepAliveResponse> {
    let requests = ids.into_iter().map(|id| LeaseKeepAliveRequest { id });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut replies = cluster
        .lease(i)
        .lease_keep_alive(requests)
        .await
        .unwrap()
        .into_inner();
    let mut all = Vec::new();
    while let Some(reply) = soon("a reply", replies.message()).await.unwrap() {
        all.push(reply);
    }
    all
}

fn leased(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest {
        lease,
        ..put(key, value)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_follow_the_limits() {
    let cluster = Cluster::single().await;
    // At least one and a half election timeouts, rounded up.
    for ttl in [-1, 0, 1, 2] {
        assert_eq!(grant(&cluster, 0, ttl).await.ttl, 2);
    }
    let picked = grant(&cluster, 0, 60).await;
    assert!(picked.id > 0);
    assert_eq!((picked.ttl, picked.error.as_str()), (60, ""));
    let chosen = grant(&cluster, 42, 9_000_000_000).await;
    assert_eq!((chosen.id, chosen.ttl), (42, 9_000_000_000));
    let request = |id, ttl| LeaseGrantRequest { ttl, id };
    let mut lease = cluster.lease(0);
    assert_refused(
        lease.lease_grant(request(0, 9_000_000_001)).await,
        Error::LeaseTTLTooLarge,
    );
    assert_refused(lease.lease_grant(request(42, 60)).await, Error::LeaseExist);
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_deletes_the_attached_keys_in_one_revision() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    grant(&cluster, 7, 60).await;
    for key in ["b", "a", "c"] {
        kv.put(leased(key, "v", 7)).await.unwrap();
    }
    put_ok(&mut kv, "d", "kept").await;
    // A put without a lease detaches.
    put_ok(&mut kv, "c", "kept").await;
    assert_eq!(time_to_live(&cluster, 0, 7).await.keys, ["a", "b"]);
    let before = range_ok(&mut kv, get("d")).await.header.unwrap().revision;
    let mut lease = cluster.lease(0);
    let revoked = lease
        .lease_revoke(LeaseRevokeRequest { id: 7 })
        .await
        .unwrap();
    assert_eq!(revoked.into_inner().header.unwrap().revision, before + 1);
    let left = range_ok(&mut kv, range("\0", "\0")).await;
    assert_eq!(keys(&left), ["c", "d"]);
    assert_eq!(left.header.unwrap().revision, before + 1);
    let again = lease.lease_revoke(LeaseRevokeRequest { id: 7 }).await;
    assert_refused(again, Error::LeaseNotFound);
    assert_refused(kv.put(leased("a", "v", 7)).await, Error::LeaseNotFound);
    // A lease without keys takes no revision.
    grant(&cluster, 8, 60).await;
    lease
        .lease_revoke(LeaseRevokeRequest { id: 8 })
        .await
        .unwrap();
    let after = range_ok(&mut kv, get("d")).await.header.unwrap().revision;
    assert_eq!(after, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_to_live_of_an_unknown_lease_is_minus_one() {
    let cluster = Cluster::single().await;
    let unknown = time_to_live(&cluster, 0, 99).await;
    assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl), (99, -1, 0));
    grant(&cluster, 5, 100).await;
    let known = time_to_live(&cluster, 0, 5).await;
    assert_eq!((known.id, known.granted_ttl), (5, 100));
    // Seconds round down.
    assert!((98..100).contains(&known.ttl), "{}", known.ttl);
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_alive_answers_each_request_and_zero_for_the_unknown() {
    let cluster = Cluster::single().await;
    grant(&cluster, 5, 60).await;
    let replies = keep_alive(&cluster, 0, vec![5, 99, 5]).await;
    let answers: Vec<(i64, i64)> = replies.iter().map(|reply| (reply.id, reply.ttl)).collect();
    assert_eq!(answers, [(5, 60), (99, 0), (5, 60)]);
    assert!(replies.iter().all(|reply| reply.header.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_listed() {
    let cluster = Cluster::single().await;
    for (id, ttl) in [(1, 300), (2, 100), (3, 200)] {
        grant(&cluster, id, ttl).await;
    }
    let list = cluster.lease(0).lease_leases(LeaseLeasesRequest {}).await;
    let list = list.unwrap().into_inner();
    let ids: Vec<i64> = list.leases.iter().map(|lease| lease.id).collect();
    assert_eq!(ids, [2, 3, 1]);
    assert!(list.header.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_deletes_its_keys_and_is_gone() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let granted = Instant::now();
    grant(&cluster, 7, 2).await;
    for i in 0..5 {
        kv.put(leased(&format!("k{i}"), "v", 7)).await.unwrap();
    }
    let revision = eventually("the keys are deleted", async || {
        let found = range_ok(&mut kv, range("k", "l")).await;
        (found.count == 0).then(|| found.header.unwrap().revision)
    })
    .await;
    assert!(granted.elapsed() >= Duration::from_secs(2));
    assert_eq!(revision, 7);
    assert_eq!(time_to_live(&cluster, 0, 7).await.ttl, -1);
    assert_eq!(keep_alive(&cluster, 0, vec![7]).await[0].ttl, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_kept_alive_stays() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    grant(&cluster, 7, 2).await;
    grant(&cluster, 8, 2).await;
    kv.put(leased("kept", "v", 7)).await.unwrap();
    kv.put(leased("lost", "v", 8)).await.unwrap();
    eventually("the other lease expires", async || {
        assert_eq!(keep_alive(&cluster, 0, vec![7]).await[0].ttl, 2);
        (range_ok(&mut kv, get("lost")).await.count == 0).then_some(())
    })
    .await;
    assert_eq!(range_ok(&mut kv, get("kept")).await.count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_moved_to_a_new_lease_outlives_the_old_one() {
    // Kubernetes: `masterleases/` moves onto a new lease by a transaction before the old one ends.
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    grant(&cluster, 7, 2).await;
    grant(&cluster, 8, 600).await;
    kv.put(leased("masterleases/1", "v", 7)).await.unwrap();
    let unchanged = Compare {
        target: CompareTarget::Mod.into(),
        key: "masterleases/1".into(),
        target_union: Some(TargetUnion::ModRevision(2)),
        ..Default::default()
    };
    let transaction = TxnRequest {
        compare: vec![unchanged],
        success: vec![op(leased("masterleases/1", "w", 8))],
        failure: vec![op(get("masterleases/1"))],
    };
    assert!(kv.txn(transaction).await.unwrap().into_inner().succeeded);
    eventually("the old lease expires", async || {
        (time_to_live(&cluster, 0, 7).await.ttl == -1).then_some(())
    })
    .await;
    let found = range_ok(&mut kv, get("masterleases/1")).await;
    assert_eq!((found.count, found.kvs[0].lease), (1, 8));
    assert_eq!(found.header.unwrap().revision, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_survive_a_restart_with_their_full_time() {
    let mut cluster = Cluster::single().await;
    grant(&cluster, 7, 100).await;
    cluster.kv(0).put(leased("a", "v", 7)).await.unwrap();
    cluster.stop(0).await;
    cluster.restart(0).await;
    let lease = time_to_live(&cluster, 0, 7).await;
    assert_eq!((lease.granted_ttl, lease.keys.len()), (100, 1));
    assert!(lease.ttl > 90);
    let mut lease = cluster.lease(0);
    lease
        .lease_revoke(LeaseRevokeRequest { id: 7 })
        .await
        .unwrap();
    assert_eq!(range_ok(&mut cluster.kv(0), get("a")).await.count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_serves_leases() {
    let cluster = Cluster::start(3, |_| {}).await;
    let granted = grant(&cluster, 7, 60).await;
    assert_eq!(granted.id, 7);
    for i in 0..3 {
        let mut kv = cluster.kv(i);
        kv.put(leased(&format!("k{i}"), "v", 7)).await.unwrap();
        let replies = keep_alive(&cluster, i, vec![7, 99]).await;
        assert_eq!((replies[0].ttl, replies[1].ttl), (60, 0));
        let lease = time_to_live(&cluster, i, 7).await;
        assert_eq!((lease.granted_ttl, lease.keys.len()), (60, i + 1));
        assert!((55..=60).contains(&lease.ttl));
        assert_eq!(time_to_live(&cluster, i, 99).await.ttl, -1);
    }
    let follower = cluster.follower().await;
    let mut lease = cluster.lease(follower);
    lease
        .lease_revoke(LeaseRevokeRequest { id: 7 })
        .await
        .unwrap();
    for i in 0..3 {
        assert_eq!(range_ok(&mut cluster.kv(i), range("k", "l")).await.count, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issue_15247_leases_outlive_their_leader_and_expire_under_the_next() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let other = cluster.follower().await;
    grant(&cluster, 7, 2).await;
    grant(&cluster, 8, 600).await;
    cluster
        .kv(other)
        .put(leased("short", "v", 7))
        .await
        .unwrap();
    cluster.kv(other).put(leased("long", "v", 8)).await.unwrap();
    cluster.stop(leader).await;
    eventually(
        "the short lease expires under the next leader",
        async || {
            let found = cluster.kv(other).range(get("short")).await.ok()?;
            (found.into_inner().count == 0).then_some(())
        },
    )
    .await;
    assert_eq!(range_ok(&mut cluster.kv(other), get("long")).await.count, 1);
    assert!(time_to_live(&cluster, other, 8).await.ttl > 590);
}
