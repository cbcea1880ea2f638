//! Compaction and hashes (contract 2.6, 2.10).

use std::time::Duration;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{CompactionRequest, DefragmentRequest, HashKvRequest};
use tokio::time::Instant;

use crate::support::{
    Cluster, assert_refused, compact, delete, eventually, get, put_ok, range, range_ok,
};

#[tokio::test(flavor = "multi_thread")]
async fn revisions_that_cannot_be_compacted_are_refused() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    for i in 0..9 {
        put_ok(&mut kv, "a", format!("{i}")).await;
    }
    assert_refused(kv.compact(compact(11)).await, Error::FutureRev);
    let response = kv.compact(compact(5)).await.unwrap().into_inner();
    assert_eq!(response.header.unwrap().revision, 10);
    for revision in [5, 4, 0, -1] {
        assert_refused(kv.compact(compact(revision)).await, Error::Compacted);
    }
    kv.compact(compact(10)).await.unwrap();
    assert_eq!(range_ok(&mut kv, get("a")).await.kvs[0].version, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_has_revision_one_and_no_compaction() {
    let cluster = Cluster::single().await;
    let hash = cluster.hash_kv(0, 0).await;
    assert_eq!((hash.compact_revision, hash.hash_revision), (-1, 1));
    assert_eq!(hash.header.unwrap().revision, 1);
    // Known from genuine etcd.
    assert_eq!(hash.hash, 1_084_519_789);
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_is_effective_at_once_and_removes_in_the_background() {
    let cluster = Cluster::start(1, |config| {
        config.node.compaction_batch_limit = 10;
    })
    .await;
    let mut kv = cluster.kv(0);
    for i in 0..100 {
        put_ok(&mut kv, format!("k{}", i % 5), vec![b'v'; 4096]).await;
    }
    let before = cluster.status(0).await;
    let logical = CompactionRequest {
        revision: 101,
        physical: false,
    };
    kv.compact(logical).await.unwrap();
    let old = keelson_proto::etcdserverpb::RangeRequest {
        revision: 100,
        ..get("k1")
    };
    assert_refused(kv.range(old).await, Error::Compacted);
    eventually("old revisions leave the space in use", async || {
        let status = cluster.status(0).await;
        (status.db_size_in_use * 4 < before.db_size_in_use).then_some(())
    })
    .await;
    assert_eq!(range_ok(&mut kv, range("k", "l")).await.count, 5);
    let status = cluster.status(0).await;
    assert!(status.db_size_in_use <= status.db_size);
    let mut maintenance = cluster.maintenance(0);
    maintenance.defragment(DefragmentRequest {}).await.unwrap();
    assert!(cluster.status(0).await.db_size * 4 < before.db_size);
}

#[tokio::test(flavor = "multi_thread")]
async fn issue_19406_compaction_pauses_after_each_batch() {
    let pause = Duration::from_millis(50);
    let cluster = Cluster::start(1, |config| {
        config.node.compaction_batch_limit = 10;
        config.node.compaction_sleep_interval = pause;
    })
    .await;
    let mut kv = cluster.kv(0);
    for i in 0..100 {
        put_ok(&mut kv, "a", format!("{i}")).await;
    }
    // 99 revisions to remove are ten batches; physical returns when all are done.
    let began = Instant::now();
    kv.compact(compact(101)).await.unwrap();
    assert!(began.elapsed() >= 9 * pause, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_under_way_is_resumed_after_a_restart() {
    let mut cluster = Cluster::start(1, |config| {
        config.node.compaction_batch_limit = 1;
        config.node.compaction_sleep_interval = Duration::from_millis(100);
    })
    .await;
    for i in 0..100 {
        put_ok(&mut cluster.kv(0), format!("k{}", i % 5), vec![b'v'; 4096]).await;
    }
    let before = cluster.status(0).await;
    let logical = CompactionRequest {
        revision: 101,
        physical: false,
    };
    cluster.kv(0).compact(logical).await.unwrap();
    cluster.stop(0).await;
    cluster.restart(0).await;
    let mut kv = cluster.kv(0);
    assert_refused(kv.compact(compact(101)).await, Error::Compacted);
    eventually("the removal goes on", async || {
        let status = cluster.status(0).await;
        (status.db_size_in_use * 4 < before.db_size_in_use).then_some(())
    })
    .await;
    assert_eq!(
        range_ok(&mut kv, range("k", "l"))
            .await
            .header
            .unwrap()
            .revision,
        101
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_agree_on_all_members_after_restart_and_defragmentation() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let mut kv = cluster.kv(0);
    for i in 0..60 {
        put_ok(&mut kv, format!("k{}", i % 7), format!("{i}")).await;
        if i % 9 == 0 {
            kv.delete_range(delete("k3", "k5")).await.unwrap();
        }
    }
    let revision = cluster.status(0).await.header.unwrap().revision;
    let agree = async |cluster: &Cluster, revision, compacted| {
        let reference = cluster.hash_kv(0, revision).await;
        assert_eq!(reference.compact_revision, compacted);
        for i in 1..3 {
            eventually("the member has applied everything", async || {
                let status = cluster.status(i).await;
                (status.header.unwrap().revision >= revision).then_some(())
            })
            .await;
            let hash = cluster.hash_kv(i, revision).await;
            assert_eq!(
                (hash.hash, hash.compact_revision, hash.hash_revision),
                (reference.hash, compacted, revision)
            );
        }
        reference.hash
    };
    agree(&cluster, revision, -1).await;
    kv.compact(compact(revision - 20)).await.unwrap();
    for i in 0..3 {
        eventually("compacted everywhere", async || {
            let hash = cluster.hash_kv(i, revision).await;
            (hash.compact_revision == revision - 20).then_some(())
        })
        .await;
    }
    let hash = agree(&cluster, revision, revision - 20).await;
    let mut maintenance = cluster.maintenance(1);
    maintenance.defragment(DefragmentRequest {}).await.unwrap();
    cluster.stop(2).await;
    cluster.restart(2).await;
    assert_eq!(agree(&cluster, revision, revision - 20).await, hash);
    let mut maintenance = cluster.maintenance(2);
    let too_old = HashKvRequest {
        revision: revision - 21,
    };
    assert_refused(maintenance.hash_kv(too_old).await, Error::Compacted);
    let future = HashKvRequest {
        revision: revision + 1,
    };
    assert_refused(maintenance.hash_kv(future).await, Error::FutureRev);
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_compaction_keeps_the_revisions_it_was_told_to() {
    let cluster = Cluster::start(1, |config| {
        config.node.auto_compaction =
            keelson::node::config::AutoCompaction::Periodic(Duration::from_millis(500));
    })
    .await;
    let mut kv = cluster.kv(0);
    for i in 0..10 {
        put_ok(&mut kv, "a", format!("{i}")).await;
    }
    eventually("what is older than the period is compacted", async || {
        (cluster.hash_kv(0, 0).await.compact_revision == 11).then_some(())
    })
    .await;
}
