//! Range, Put and DeleteRange (contract 2.1, 2.2, 2.4).

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use keelson_proto::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
};

use crate::support::{
    Cluster, assert_refused, compact, delete, get, keys, put, put_ok, range, range_ok,
};

#[tokio::test(flavor = "multi_thread")]
async fn revisions_and_versions_count_changes() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    assert_eq!(
        range_ok(&mut kv, get("a")).await.header.unwrap().revision,
        1
    );
    assert_eq!(put_ok(&mut kv, "a", "1").await, 2);
    assert_eq!(put_ok(&mut kv, "a", "2").await, 3);
    assert_eq!(put_ok(&mut kv, "b", "x").await, 4);
    let response = range_ok(&mut kv, get("a")).await;
    // The header shows the current revision, not the key's.
    assert_eq!(response.header.unwrap().revision, 4);
    let found = &response.kvs[0];
    assert_eq!(
        (found.create_revision, found.mod_revision, found.version),
        (2, 3, 2)
    );
    let deleted = kv.delete_range(delete("a", "")).await.unwrap().into_inner();
    assert_eq!((deleted.deleted, deleted.header.unwrap().revision), (1, 5));
    let nothing = kv.delete_range(delete("a", "")).await.unwrap().into_inner();
    assert_eq!((nothing.deleted, nothing.header.unwrap().revision), (0, 5));
    // A key starts anew after a delete.
    assert_eq!(put_ok(&mut kv, "a", "3").await, 6);
    let found = range_ok(&mut kv, get("a")).await.kvs.remove(0);
    assert_eq!(
        (found.create_revision, found.mod_revision, found.version),
        (6, 6, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_name_cluster_member_and_term() {
    let cluster = Cluster::single().await;
    let header = range_ok(&mut cluster.kv(0), get("a")).await.header.unwrap();
    let status = cluster.status(0).await;
    assert_ne!((header.cluster_id, header.member_id), (0, 0));
    assert_eq!(header.member_id, status.leader);
    assert_eq!(header.raft_term, status.raft_term);
    assert_eq!(Some(header), status.header);
    let mut members = cluster.cluster_client(0);
    let list =
        members.member_list(keelson_proto::etcdserverpb::MemberListRequest { linearizable: true });
    let list = list.await.unwrap().into_inner();
    assert_eq!(list.header.unwrap().revision, 0);
    assert_eq!(list.members[0].id, header.member_id);
    assert_eq!(
        (list.members[0].name.as_str(), list.members.len()),
        ("m0", 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_read_at_the_revision_asked_for() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    for value in ["1", "2", "3"] {
        put_ok(&mut kv, "a", value).await;
    }
    let at = |revision| RangeRequest {
        revision,
        ..get("a")
    };
    let response = range_ok(&mut kv, at(3)).await;
    assert_eq!(response.kvs[0].value, "2");
    assert_eq!(response.header.unwrap().revision, 4);
    assert!(range_ok(&mut kv, at(1)).await.kvs.is_empty());
    assert_eq!(range_ok(&mut kv, at(0)).await.kvs[0].value, "3");
    assert_eq!(range_ok(&mut kv, at(-7)).await.kvs[0].value, "3");
    assert_refused(kv.range(at(5)).await, Error::FutureRev);
    kv.compact(compact(3)).await.unwrap();
    assert_refused(kv.range(at(2)).await, Error::Compacted);
    assert_eq!(range_ok(&mut kv, at(3)).await.kvs[0].value, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_four_forms_of_a_range() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    for key in ["a", "b", "ba", "c"] {
        put_ok(&mut kv, key, "v").await;
    }
    for (start, end, expected) in [
        ("b", "", vec!["b"]),
        ("b", "c", vec!["b", "ba"]),
        ("b", "\0", vec!["b", "ba", "c"]),
        ("\0", "\0", vec!["a", "b", "ba", "c"]),
        // An end at or below the start is an empty range, not an error.
        ("b", "b", vec![]),
        ("c", "a", vec![]),
    ] {
        let response = range_ok(&mut kv, range(start, end)).await;
        assert_eq!(keys(&response), expected, "[{start:?}, {end:?})");
        assert_eq!(response.count, expected.len() as i64);
        assert_eq!(response.header.unwrap().revision, 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn count_is_of_the_whole_range_and_more_tells_of_the_limit() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    for i in 0..10 {
        put_ok(&mut kv, format!("k{i}"), "v").await;
    }
    let limited = |limit| RangeRequest {
        limit,
        ..range("k", "l")
    };
    let response = range_ok(&mut kv, limited(3)).await;
    assert_eq!(keys(&response), ["k0", "k1", "k2"]);
    assert_eq!((response.count, response.more), (10, true));
    let response = range_ok(&mut kv, limited(10)).await;
    assert_eq!(
        (response.count, response.more, response.kvs.len()),
        (10, false, 10)
    );
    let response = range_ok(
        &mut kv,
        RangeRequest {
            count_only: true,
            ..limited(3)
        },
    )
    .await;
    assert_eq!((response.count, response.kvs.len()), (10, 0));
    // A page continues behind the last key.
    let response = range_ok(
        &mut kv,
        RangeRequest {
            limit: 3,
            ..range("k2\0", "l")
        },
    )
    .await;
    assert_eq!(keys(&response), ["k3", "k4", "k5"]);
    assert_eq!((response.count, response.more), (7, true));
    // Filters do not change the count; they come before the limit.
    let filtered = RangeRequest {
        min_mod_revision: 5,
        max_mod_revision: 7,
        limit: 2,
        ..range("k", "l")
    };
    let response = range_ok(&mut kv, filtered).await;
    assert_eq!(keys(&response), ["k3", "k4"]);
    assert_eq!((response.count, response.more), (10, true));
    let filtered = RangeRequest {
        min_create_revision: 5,
        max_create_revision: 7,
        ..range("k", "l")
    };
    let response = range_ok(&mut kv, filtered).await;
    assert_eq!(keys(&response), ["k3", "k4", "k5"]);
    assert_eq!((response.count, response.more), (10, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn sorting_comes_before_the_limit_except_without_an_order() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    // Values fall as keys rise; `b` has the highest version.
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1"), ("b", "2")] {
        put_ok(&mut kv, key, value).await;
    }
    let sorted = |order: SortOrder, target: SortTarget, limit| RangeRequest {
        sort_order: order.into(),
        sort_target: target.into(),
        limit,
        ..range("a", "z")
    };
    use SortOrder::{Ascend, Descend, None};
    for (order, target, limit, expected) in [
        (Descend, SortTarget::Key, 0, vec!["c", "b", "a"]),
        (Descend, SortTarget::Key, 1, vec!["c"]),
        (Ascend, SortTarget::Value, 0, vec!["c", "b", "a"]),
        (Ascend, SortTarget::Value, 1, vec!["c"]),
        (Ascend, SortTarget::Mod, 0, vec!["a", "c", "b"]),
        (Descend, SortTarget::Create, 0, vec!["c", "b", "a"]),
        (Descend, SortTarget::Version, 1, vec!["b"]),
        // Without an order a target sorts ascending, but only what was read: limit + 1 keys.
        (None, SortTarget::Value, 0, vec!["c", "b", "a"]),
        (None, SortTarget::Value, 1, vec!["b"]),
    ] {
        let response = range_ok(&mut kv, sorted(order, target, limit)).await;
        assert_eq!(keys(&response), expected, "{order:?} {target:?} {limit}");
        assert_eq!(response.more, limit != 0);
    }
    let unknown = |sort_order, sort_target| RangeRequest {
        sort_order,
        sort_target,
        ..range("a", "z")
    };
    assert_refused(kv.range(unknown(0, 5)).await, Error::InvalidSortOption);
    assert_refused(kv.range(unknown(0, -1)).await, Error::InvalidSortOption);
    assert_refused(kv.range(unknown(3, 0)).await, Error::InvalidSortOption);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_only_leaves_out_value_and_lease() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let grant = LeaseGrantRequest { ttl: 60, id: 9 };
    cluster.lease(0).lease_grant(grant).await.unwrap();
    let leased = PutRequest {
        lease: 9,
        ..put("a", "v")
    };
    kv.put(leased).await.unwrap();
    let found = range_ok(&mut kv, get("a")).await.kvs.remove(0);
    assert_eq!((found.lease, found.value.as_ref()), (9, &b"v"[..]));
    let keys_only = RangeRequest {
        keys_only: true,
        ..get("a")
    };
    let found = range_ok(&mut kv, keys_only.clone()).await.kvs.remove(0);
    assert_eq!((found.lease, found.value.len()), (0, 0));
    assert_eq!(
        (found.create_revision, found.mod_revision, found.version),
        (2, 2, 1)
    );
    let by_value = RangeRequest {
        sort_target: SortTarget::Value.into(),
        ..keys_only
    };
    assert!(range_ok(&mut kv, by_value).await.kvs[0].value.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serializable_range_reads_the_local_store() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    put_ok(&mut kv, "a", "1").await;
    let local = RangeRequest {
        serializable: true,
        ..get("a")
    };
    assert_eq!(range_ok(&mut kv, local).await.kvs[0].value, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_key_are_refused() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    assert_refused(kv.range(get("")).await, Error::EmptyKey);
    assert_refused(kv.range(range("", "\0")).await, Error::EmptyKey);
    assert_refused(kv.put(put("", "v")).await, Error::EmptyKey);
    assert_refused(kv.delete_range(delete("", "")).await, Error::EmptyKey);
    assert_eq!(cluster.status(0).await.header.unwrap().revision, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_may_keep_value_or_lease() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let grant = LeaseGrantRequest { ttl: 60, id: 9 };
    cluster.lease(0).lease_grant(grant).await.unwrap();
    let keep_value = |value: &str| PutRequest {
        ignore_value: true,
        ..put("a", value)
    };
    let keep_lease = |lease| PutRequest {
        ignore_lease: true,
        lease,
        ..put("a", "w")
    };
    assert_refused(kv.put(keep_value("x")).await, Error::ValueProvided);
    assert_refused(kv.put(keep_lease(9)).await, Error::LeaseProvided);
    assert_refused(kv.put(keep_value("")).await, Error::KeyNotFound);
    assert_refused(kv.put(keep_lease(0)).await, Error::KeyNotFound);
    let unknown_lease = PutRequest {
        lease: 8,
        ..put("a", "v")
    };
    assert_refused(kv.put(unknown_lease).await, Error::LeaseNotFound);
    assert_eq!(cluster.status(0).await.header.unwrap().revision, 1);

    let leased = PutRequest {
        lease: 9,
        ..put("a", "v")
    };
    kv.put(leased).await.unwrap();
    kv.put(keep_lease(0)).await.unwrap();
    let found = range_ok(&mut kv, get("a")).await.kvs.remove(0);
    assert_eq!((found.lease, found.value.as_ref()), (9, &b"w"[..]));
    // Keeping the value with lease 0 detaches.
    kv.put(keep_value("")).await.unwrap();
    let found = range_ok(&mut kv, get("a")).await.kvs.remove(0);
    assert_eq!(
        (found.lease, found.value.as_ref(), found.version),
        (0, &b"w"[..], 3)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn previous_values_are_given_on_request() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let with_prev = |value: &str| PutRequest {
        prev_kv: true,
        ..put("a", value)
    };
    let created = kv.put(with_prev("1")).await.unwrap().into_inner();
    assert_eq!(created.prev_kv, None);
    let changed = kv.put(with_prev("2")).await.unwrap().into_inner();
    let previous = changed.prev_kv.unwrap();
    assert_eq!(
        (previous.value.as_ref(), previous.mod_revision),
        (&b"1"[..], 2)
    );
    put_ok(&mut kv, "b", "x").await;
    put_ok(&mut kv, "c", "y").await;
    let quiet = kv.delete_range(delete("c", "")).await.unwrap().into_inner();
    assert_eq!((quiet.deleted, quiet.prev_kvs.len()), (1, 0));
    let loud = DeleteRangeRequest {
        prev_kv: true,
        ..delete("a", "\0")
    };
    let deleted = kv.delete_range(loud).await.unwrap().into_inner();
    assert_eq!(deleted.deleted, 2);
    let values: Vec<&[u8]> = deleted
        .prev_kvs
        .iter()
        .map(|kv| kv.value.as_ref())
        .collect();
    assert_eq!(values, [&b"2"[..], b"x"]);
    let left = range_ok(&mut kv, range("\0", "\0")).await;
    assert_eq!(left.count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_values_are_bytes() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let odd: &[&[u8]] = &[b"\0", b"\0\0", b"\xff", b"\xff\xff\0", b"a\0b"];
    for key in odd {
        put_ok(&mut kv, key, key).await;
    }
    let all = range_ok(&mut kv, range("\0", "\0")).await;
    let mut sorted = odd.to_vec();
    sorted.sort_unstable();
    let found: Vec<&[u8]> = all.kvs.iter().map(|kv| kv.key.as_ref()).collect();
    assert_eq!(found, sorted);
    assert!(all.kvs.iter().all(|kv| kv.key == kv.value));
    put_ok(&mut kv, "empty", "").await;
    let found = range_ok(&mut kv, get("empty")).await;
    assert_eq!((found.count, found.kvs[0].value.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_a_restart() {
    let mut cluster = Cluster::single().await;
    for i in 0..50 {
        put_ok(&mut cluster.kv(0), format!("k{}", i % 7), format!("{i}")).await;
    }
    cluster.kv(0).delete_range(delete("k3", "")).await.unwrap();
    cluster.kv(0).compact(compact(20)).await.unwrap();
    let before = range_ok(&mut cluster.kv(0), range("\0", "\0")).await;
    let hash = cluster.hash_kv(0, 0).await;
    cluster.stop(0).await;
    cluster.restart(0).await;
    let after = range_ok(&mut cluster.kv(0), range("\0", "\0")).await;
    assert_eq!(after.kvs, before.kvs);
    let revision = |response: &keelson_proto::etcdserverpb::RangeResponse| {
        response.header.as_ref().unwrap().revision
    };
    assert_eq!(revision(&after), revision(&before));
    let again = cluster.hash_kv(0, 0).await;
    assert_eq!((again.hash, again.compact_revision), (hash.hash, 20));
    let compacted = RangeRequest {
        revision: 19,
        ..get("k1")
    };
    assert_refused(cluster.kv(0).range(compacted).await, Error::Compacted);
}
