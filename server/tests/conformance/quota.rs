//! The quota and its alarm (contract 2.6, 2.10).

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DefragmentRequest, LeaseGrantRequest,
    LeaseKeepAliveRequest, LeaseRevokeRequest, TxnRequest, alarm_request::AlarmAction,
    kv_client::KvClient,
};
use tonic::transport::Channel;

use crate::support::{
    Cluster, assert_refused, compact, delete, eventually, get, op, put, put_ok, range_ok,
};

/// 13 pages of 4096 bytes, as etcd's own test uses.
const QUOTA_BYTES: u64 = 53_248;
/// A lease that is there before the alarm.
const LEASE: i64 = 77;

fn alarm(action: AlarmAction) -> AlarmRequest {
    AlarmRequest {
        action: action.into(),
        member_id: 0,
        alarm: AlarmType::Nospace.into(),
    }
}

async fn with_quota(bytes: u64) -> Cluster {
    Cluster::start(1, |config| config.node.quota_backend_bytes = bytes).await
}

/// Rewrites one key until there is no space; gives the last revision that was stored.
async fn fill(kv: &mut KvClient<Channel>) -> i64 {
    for _ in 0..100 {
        let revision = range_ok(kv, get("k")).await.header.unwrap().revision;
        match kv.put(put("k", vec![b'v'; 4096])).await {
            Ok(response) => {
                let stored = response.into_inner().header.unwrap().revision;
                assert_eq!(stored, revision + 1);
            }
            Err(status) => {
                assert_eq!(status.message(), Error::NoSpace.text());
                assert_eq!(status.code(), Error::NoSpace.code());
                return revision;
            }
        }
    }
    panic!("100 puts of 4 KiB fit into {QUOTA_BYTES} bytes");
}

async fn alarms(cluster: &Cluster) -> Vec<AlarmMember> {
    let request = alarm(AlarmAction::Get);
    let response = cluster.maintenance(0).alarm(request).await;
    response.unwrap().into_inner().alarms
}

#[tokio::test(flavor = "multi_thread")]
async fn no_space_is_told_and_left_again() {
    let mut cluster = with_quota(QUOTA_BYTES).await;
    let mut kv = cluster.kv(0);
    let granted = LeaseGrantRequest { ttl: 60, id: LEASE };
    cluster.lease(0).lease_grant(granted).await.unwrap();
    put_ok(&mut kv, "small", "1").await;
    let revision = fill(&mut kv).await;
    // A refused write is not stored.
    assert_eq!(
        range_ok(&mut kv, get("k")).await.header.unwrap().revision,
        revision
    );

    let standing = eventually("the alarm", async || alarms(&cluster).await.pop()).await;
    let member = cluster.status(0).await.leader;
    assert_eq!(
        (standing.member_id, standing.alarm()),
        (member, AlarmType::Nospace)
    );
    let status = cluster.status(0).await;
    let errors: Vec<String> = status
        .errors
        .iter()
        .map(|error| error.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(errors, [format!("memberID:{member} alarm:NOSPACE")]);
    assert_eq!(status.db_size_quota, QUOTA_BYTES as i64);

    // While it stands nothing that needs space goes through, however small.
    assert_refused(kv.put(put("small", "2")).await, Error::NoSpace);
    let with_put = TxnRequest {
        success: vec![op(put("x", ""))],
        ..Default::default()
    };
    assert_refused(kv.txn(with_put).await, Error::NoSpace);
    let grant = LeaseGrantRequest { ttl: 60, id: 1 };
    assert_refused(cluster.lease(0).lease_grant(grant).await, Error::NoSpace);
    let revoke = LeaseRevokeRequest { id: LEASE };
    cluster.lease(0).lease_revoke(revoke).await.unwrap();
    // Reads, deletes and transactions without puts go on.
    assert_eq!(range_ok(&mut kv, get("small")).await.count, 1);
    kv.delete_range(delete("small", "")).await.unwrap();
    let without_put = TxnRequest {
        success: vec![op(delete("none", "")), op(get("k"))],
        ..Default::default()
    };
    assert!(kv.txn(without_put).await.is_ok());

    // It outlives a restart.
    cluster.stop(0).await;
    cluster.restart(0).await;
    let mut kv = cluster.kv(0);
    assert_refused(kv.put(put("small", "2")).await, Error::NoSpace);

    let revision = range_ok(&mut kv, get("k")).await.header.unwrap().revision;
    kv.compact(compact(revision)).await.unwrap();
    let mut maintenance = cluster.maintenance(0);
    maintenance.defragment(DefragmentRequest {}).await.unwrap();
    assert!(cluster.status(0).await.db_size < QUOTA_BYTES as i64);
    assert_refused(kv.put(put("small", "2")).await, Error::NoSpace);
    let disarmed = maintenance
        .alarm(alarm(AlarmAction::Deactivate))
        .await
        .unwrap();
    assert_eq!(disarmed.into_inner().alarms.len(), 0);
    let request = AlarmRequest {
        member_id: member,
        ..alarm(AlarmAction::Deactivate)
    };
    let disarmed = maintenance.alarm(request).await.unwrap().into_inner();
    assert_eq!(disarmed.alarms, [standing]);
    assert_eq!(alarms(&cluster).await, []);
    put_ok(&mut kv, "small", "2").await;
    // What is not there is not disarmed.
    let disarmed = maintenance.alarm(request).await.unwrap().into_inner();
    assert_eq!(disarmed.alarms, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tiny_quota_is_exceeded_within_a_few_puts() {
    let cluster = with_quota(5120).await;
    let mut kv = cluster.kv(0);
    let mut refused = None;
    for i in 0..10 {
        if let Err(status) = kv.put(put(format!("k{i}"), vec![b'v'; 1024])).await {
            refused = Some(status);
            break;
        }
    }
    assert_eq!(refused.expect("a refusal").message(), Error::NoSpace.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writes_are_stored_or_refused_never_both() {
    let cluster = with_quota(QUOTA_BYTES).await;
    let writes = (0..64).map(|i| {
        let mut kv = cluster.kv(0);
        async move { (i, kv.put(put(format!("k{i}"), vec![b'v'; 4096])).await) }
    });
    let results = futures::future::join_all(writes).await;
    assert!(results.iter().any(|(_, result)| result.is_err()));
    let mut kv = cluster.kv(0);
    for (i, result) in results {
        let stored = range_ok(&mut kv, get(format!("k{i}"))).await.count == 1;
        assert_eq!(stored, result.is_ok(), "k{i}: {result:?}");
    }
}

/// Puts 4 KiB under each key, `CONCURRENT` at a time, and gives how many were refused.
async fn put_concurrently(cluster: &Cluster, keys: usize) -> usize {
    const CONCURRENT: usize = 64;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let clients = (0..CONCURRENT).map(|_| async {
        let (mut kv, mut refused) = (cluster.kv(0), 0);
        loop {
            let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if i >= keys {
                return refused;
            }
            let result = kv.put(put(format!("k{i}"), vec![b'v'; 4096])).await;
            refused += usize::from(result.is_err());
        }
    });
    let refused = futures::future::join_all(clients).await;
    refused.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_counts_once() {
    const KEYS: usize = 1000;
    let roomy = with_quota(1 << 30).await;
    assert_eq!(put_concurrently(&roomy, KEYS).await, 0);
    let needed = u64::try_from(roomy.status(0).await.db_size).unwrap();
    // 64 requests that count until they are answered would need 67 pages more.
    let cluster = with_quota(needed + 16 * 4096).await;
    assert_eq!(put_concurrently(&cluster, KEYS).await, 0);
    assert_eq!(alarms(&cluster).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_fits_into_what_a_compaction_has_freed() {
    const PAGES: usize = 200;
    let cluster = with_quota(4096 * PAGES as u64).await;
    let mut kv = cluster.kv(0);
    let mut revision = 0;
    for _ in 0..PAGES * 8 / 10 {
        revision = put_ok(&mut kv, "k", vec![b'v'; 4096]).await;
    }
    kv.compact(compact(revision)).await.unwrap();
    // The size stays, and with 64 requests on top of it the quota would be exceeded.
    assert!(cluster.status(0).await.db_size > 4096 * (PAGES as i64 - 45));
    assert_eq!(put_concurrently(&cluster, PAGES / 2).await, 0);
    assert_eq!(alarms(&cluster).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_puts_count_towards_the_quota() {
    let cluster = with_quota(QUOTA_BYTES).await;
    let mut kv = cluster.kv(0);
    let nested = |request| TxnRequest {
        success: vec![op(request)],
        ..Default::default()
    };
    let puts = TxnRequest {
        success: (0..16)
            .map(|i| op(put(format!("k{i}"), vec![b'v'; 4096])))
            .collect(),
        ..Default::default()
    };
    assert_refused(kv.txn(nested(nested(puts))).await, Error::NoSpace);
    assert_eq!(range_ok(&mut kv, get("k0")).await.count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_raised_and_lowered_by_hand() {
    let cluster = Cluster::single().await;
    let granted = LeaseGrantRequest { ttl: 60, id: LEASE };
    cluster.lease(0).lease_grant(granted).await.unwrap();
    let mut maintenance = cluster.maintenance(0);
    let request = |action: AlarmAction, alarm: AlarmType| AlarmRequest {
        action: action.into(),
        member_id: 7,
        alarm: alarm.into(),
    };
    let mut send = async |action, alarm| {
        let response = maintenance.alarm(request(action, alarm)).await;
        response.unwrap().into_inner().alarms
    };
    use AlarmAction::{Activate, Deactivate, Get};
    let corrupt = AlarmMember {
        member_id: 7,
        alarm: AlarmType::Corrupt.into(),
    };
    assert_eq!(send(Activate, AlarmType::None).await, []);
    assert_eq!(send(Activate, AlarmType::Corrupt).await, [corrupt]);
    assert_eq!(send(Activate, AlarmType::Corrupt).await, [corrupt]);
    // A query looks at the type only, and NONE stands for all.
    assert_eq!(send(Get, AlarmType::None).await, [corrupt]);
    assert_eq!(send(Get, AlarmType::Nospace).await, []);
    let mut kv = cluster.kv(0);
    let revoke = LeaseRevokeRequest { id: LEASE };
    let mut leases = cluster.lease(0);
    assert_refused(leases.lease_revoke(revoke).await, Error::Corrupt);
    let with_write = TxnRequest {
        success: vec![op(delete("a", ""))],
        ..Default::default()
    };
    assert_refused(kv.txn(with_write).await, Error::Corrupt);
    // Leases are kept alive, and members compared.
    let keep = tokio_stream::once(LeaseKeepAliveRequest { id: LEASE });
    let mut kept = leases.lease_keep_alive(keep).await.unwrap().into_inner();
    assert!(kept.message().await.unwrap().unwrap().ttl > 0);
    cluster.hash_kv(0, 0).await;
    let mut stream = kv.range_stream(get("a")).await.unwrap().into_inner();
    assert!(stream.message().await.is_ok());
    assert_refused(kv.put(put("a", "1")).await, Error::Corrupt);
    assert_refused(kv.delete_range(delete("a", "")).await, Error::Corrupt);
    assert_refused(kv.compact(compact(1)).await, Error::Corrupt);
    let grant = LeaseGrantRequest { ttl: 60, id: 1 };
    assert_refused(cluster.lease(0).lease_grant(grant).await, Error::Corrupt);
    assert_eq!(range_ok(&mut kv, get("a")).await.count, 0);
    assert!(kv.txn(TxnRequest::default()).await.is_ok());
    assert_eq!(send(Deactivate, AlarmType::Corrupt).await, [corrupt]);
    put_ok(&mut kv, "a", "1").await;
}
