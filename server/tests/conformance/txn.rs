//! Transactions (contract 2.5).

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse, kv_client::KvClient,
    response_op::Response,
};
use tonic::transport::Channel;

use crate::support::{
    Cluster, assert_refused, compact, delete, get, keys, op, put, put_ok, range, range_ok,
};

fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare,
        success,
        failure,
    }
}

fn all(success: Vec<RequestOp>) -> TxnRequest {
    txn(vec![], success, vec![])
}

fn compare(key: &'static str, result: CompareResult, union: TargetUnion) -> Compare {
    let target = match &union {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        range_end: "".into(),
        target_union: Some(union),
    }
}

fn value_is(key: &'static str, value: &'static str) -> Compare {
    compare(key, CompareResult::Equal, TargetUnion::Value(value.into()))
}

async fn run(kv: &mut KvClient<Channel>, request: TxnRequest) -> TxnResponse {
    kv.txn(request).await.unwrap().into_inner()
}

async fn holds(kv: &mut KvClient<Channel>, compares: Vec<Compare>) -> bool {
    run(kv, txn(compares, vec![], vec![])).await.succeeded
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_share_one_revision_and_see_each_other() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    put_ok(&mut kv, "a", "0").await;
    let response = run(
        &mut kv,
        all(vec![
            op(get("b")),
            op(put("b", "1")),
            op(get("b")),
            op(delete("a", "")),
            op(range("\0", "\0")),
        ]),
    )
    .await;
    assert!(response.succeeded);
    assert_eq!(response.header.unwrap().revision, 3);
    let mut ranges = Vec::new();
    for response in &response.responses {
        match response.response.as_ref().unwrap() {
            Response::ResponseRange(range) => ranges.push(keys(range)),
            Response::ResponsePut(put) => assert_eq!(put.header.as_ref().unwrap().revision, 3),
            Response::ResponseDeleteRange(deleted) => assert_eq!(deleted.deleted, 1),
            Response::ResponseTxn(_) => panic!("there is no nested transaction"),
        }
    }
    let nothing: Vec<&str> = vec![];
    assert_eq!(ranges, [nothing, vec!["b"], vec!["b"]]);
    let found = range_ok(&mut kv, get("b")).await.kvs.remove(0);
    assert_eq!((found.mod_revision, found.version), (3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_revision_rises_only_with_a_change() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    assert_eq!(run(&mut kv, all(vec![])).await.header.unwrap().revision, 1);
    let absent = all(vec![op(delete("x", "")), op(get("x"))]);
    assert_eq!(run(&mut kv, absent).await.header.unwrap().revision, 1);
    assert_eq!(put_ok(&mut kv, "a", "1").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_inside_carry_a_header_with_only_the_revision() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let nested = all(vec![op(put("c", "1"))]);
    let request = all(vec![
        op(put("a", "1")),
        op(get("a")),
        op(delete("b", "")),
        op(nested),
    ]);
    let response = run(&mut kv, request).await;
    assert_ne!(response.header.unwrap().cluster_id, 0);
    for inner in &response.responses {
        let (header, revision) = match inner.response.as_ref().unwrap() {
            Response::ResponsePut(put) => (put.header.as_ref(), 2),
            Response::ResponseRange(range) => (range.header.as_ref(), 2),
            Response::ResponseDeleteRange(deleted) => (deleted.header.as_ref(), 2),
            // That of a nested transaction is present but empty.
            Response::ResponseTxn(nested) => (nested.header.as_ref(), 0),
        };
        let header = header.expect("clients dereference it");
        assert_eq!(
            (header.cluster_id, header.member_id, header.raft_term),
            (0, 0, 0)
        );
        assert_eq!(header.revision, revision, "{inner:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compares_cover_every_target_and_result() {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    use TargetUnion::{CreateRevision, Lease, ModRevision, Value, Version};
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    put_ok(&mut kv, "x", "0").await;
    put_ok(&mut kv, "a", "m").await;
    put_ok(&mut kv, "a", "m").await;
    // `a` was created at 3, changed at 4, and has version 2 and no lease.
    for (result, union, expected) in [
        (Equal, Version(2), true),
        (Greater, Version(2), false),
        (Less, Version(3), true),
        (NotEqual, Version(2), false),
        (Equal, CreateRevision(3), true),
        (Greater, CreateRevision(2), true),
        (Equal, ModRevision(4), true),
        (Less, ModRevision(4), false),
        (Equal, Value("m".into()), true),
        (Greater, Value("l".into()), true),
        (Less, Value("ma".into()), true),
        (NotEqual, Value("m".into()), false),
        (Equal, Lease(0), true),
        (NotEqual, Lease(0), false),
    ] {
        let request = compare("a", result, union.clone());
        assert_eq!(
            holds(&mut kv, vec![request]).await,
            expected,
            "{result:?} {union:?}"
        );
    }
    // Of a key that does not exist, numbers are 0 and no value comparison holds.
    for result in [Equal, Greater, Less, NotEqual] {
        let request = compare("none", result, Value("".into()));
        assert!(!holds(&mut kv, vec![request]).await, "{result:?}");
    }
    for union in [Version(0), CreateRevision(0), ModRevision(0), Lease(0)] {
        assert!(holds(&mut kv, vec![compare("none", Equal, union)]).await);
    }
    // All must hold.
    let both = vec![value_is("a", "m"), value_is("x", "1")];
    assert!(!holds(&mut kv, both).await);
    // What is not set compares with 0.
    let unset = Compare {
        key: "none".into(),
        ..Default::default()
    };
    assert!(holds(&mut kv, vec![unset]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compare_of_a_range_must_hold_for_every_key() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    for (key, value) in [("k1", "v"), ("k2", "v"), ("k3", "w")] {
        put_ok(&mut kv, key, value).await;
    }
    let over = |end: &'static str, value: &'static str| Compare {
        range_end: end.into(),
        ..value_is("k1", value)
    };
    assert!(holds(&mut kv, vec![over("k3", "v")]).await);
    assert!(!holds(&mut kv, vec![over("k9", "v")]).await);
    assert!(!holds(&mut kv, vec![over("\0", "v")]).await);
    // An empty range: etcd compares nothing with the absent key, so a value cannot hold.
    let absent = Compare {
        key: "z".into(),
        range_end: "zz".into(),
        ..compare("z", CompareResult::Equal, TargetUnion::Version(0))
    };
    assert!(holds(&mut kv, vec![absent]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_path_is_decided_before_the_first_change() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    put_ok(&mut kv, "a", "old").await;
    // The nested compare looks at the state before the transaction, not at the put beside it.
    let nested = txn(
        vec![value_is("a", "old")],
        vec![op(put("then", "1"))],
        vec![op(put("else", "1"))],
    );
    let response = run(&mut kv, all(vec![op(put("a", "new")), op(nested)])).await;
    let inner = response.responses[1].response.clone().unwrap();
    let Response::ResponseTxn(inner) = inner else {
        panic!("the second reply is of the nested transaction: {inner:?}");
    };
    assert!(inner.succeeded);
    assert_eq!(range_ok(&mut kv, get("then")).await.count, 1);
    assert_eq!(range_ok(&mut kv, get("else")).await.count, 0);
    assert_eq!(range_ok(&mut kv, get("a")).await.kvs[0].mod_revision, 3);
    assert_eq!(range_ok(&mut kv, get("then")).await.kvs[0].mod_revision, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nesting_executes_the_chosen_branches_only() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let branch = |compares, name: &str| {
        let (yes, no) = (format!("{name}-yes"), format!("{name}-no"));
        op(txn(compares, vec![op(put(yes, ""))], vec![op(put(no, ""))]))
    };
    let request = txn(
        vec![value_is("none", "x")],
        vec![op(put("outer-yes", ""))],
        vec![
            op(put("outer-no", "")),
            branch(vec![], "one"),
            branch(vec![value_is("none", "x")], "two"),
            op(all(vec![branch(vec![], "deep")])),
        ],
    );
    assert!(!run(&mut kv, request).await.succeeded);
    let found = range_ok(&mut kv, range("\0", "\0")).await;
    assert_eq!(keys(&found), ["deep-yes", "one-yes", "outer-no", "two-no"]);
    assert!(found.kvs.iter().all(|kv| kv.mod_revision == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_transaction_changes_nothing() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    put_ok(&mut kv, "a", "1").await;
    put_ok(&mut kv, "a", "2").await;
    kv.compact(compact(3)).await.unwrap();
    let lease = |key: &str| PutRequest {
        lease: 77,
        ..put(key, "")
    };
    let keep = PutRequest {
        ignore_value: true,
        ..put("missing", "")
    };
    let at = |revision| RangeRequest {
        revision,
        ..get("a")
    };
    for (failing, error) in [
        (op(lease("c")), Error::LeaseNotFound),
        (op(keep), Error::KeyNotFound),
        (op(at(2)), Error::Compacted),
        (op(at(99)), Error::FutureRev),
        (op(all(vec![op(lease("c"))])), Error::LeaseNotFound),
    ] {
        let request = all(vec![op(put("b", "x")), op(delete("a", "")), failing]);
        assert_refused(kv.txn(request).await, error);
    }
    let found = range_ok(&mut kv, range("\0", "\0")).await;
    assert_eq!(keys(&found), ["a"]);
    assert_eq!(found.header.unwrap().revision, 3);
    // What stands on the other branch is not looked at.
    let request = txn(vec![], vec![op(put("b", "x"))], vec![op(lease("c"))]);
    assert!(run(&mut kv, request).await.succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_transactions_are_refused() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let many = |count: usize| (0..count).map(|i| op(put(format!("k{i}"), ""))).collect();
    assert_refused(kv.txn(all(many(129))).await, Error::TooManyOps);
    assert!(kv.txn(all(many(128))).await.is_ok());
    let compares = vec![value_is("a", "1"); 129];
    assert_refused(
        kv.txn(txn(compares, vec![], vec![])).await,
        Error::TooManyOps,
    );
    // A nested transaction gets what its parent leaves.
    let nested = all(vec![op(get("a")), op(all(many(127)))]);
    assert_refused(kv.txn(nested).await, Error::TooManyOps);
    let nested = all(vec![op(get("a")), op(all(many(126)))]);
    assert!(kv.txn(nested).await.is_ok());
    let empty_op = all(vec![RequestOp { request: None }]);
    assert_refused(kv.txn(empty_op).await, Error::KeyNotFound);
    let empty_compare = txn(vec![Compare::default()], vec![], vec![]);
    assert_refused(kv.txn(empty_compare).await, Error::EmptyKey);
    for inner in [op(put("", "v")), op(get("")), op(delete("", ""))] {
        assert_refused(kv.txn(all(vec![inner.clone()])).await, Error::EmptyKey);
        let branch = txn(vec![], vec![], vec![inner]);
        assert_refused(kv.txn(all(vec![op(branch)])).await, Error::EmptyKey);
    }
    let sort = RangeRequest {
        sort_target: 9,
        ..get("a")
    };
    assert_refused(kv.txn(all(vec![op(sort)])).await, Error::InvalidSortOption);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_once_on_a_path() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let twice = all(vec![op(put("a", "1")), op(put("a", "2"))]);
    let deleted = all(vec![op(put("b", "1")), op(delete("a", "c"))]);
    let nested = all(vec![op(put("a", "1")), op(all(vec![op(put("a", "2"))]))]);
    let either = op(txn(vec![], vec![op(put("a", ""))], vec![op(put("a", ""))]));
    let siblings = all(vec![either.clone(), either.clone()]);
    for request in [twice, deleted, nested, siblings] {
        assert_refused(kv.txn(request).await, Error::DuplicateKey);
    }
    // Branches exclude each other; deletes may overlap, ranges may overlap anything.
    assert!(kv.txn(all(vec![either])).await.is_ok());
    let overlapping = all(vec![
        op(delete("a", "c")),
        op(delete("b", "d")),
        op(range("a", "z")),
    ]);
    assert!(kv.txn(overlapping).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_to_the_end_then_put_of_the_key_survives_compaction() {
    let mut cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    put_ok(&mut kv, "a", "old").await;
    put_ok(&mut kv, "b", "old").await;
    let request = all(vec![op(delete("a", "\0")), op(put("a", "new"))]);
    assert_eq!(run(&mut kv, request).await.header.unwrap().revision, 4);
    kv.compact(compact(4)).await.unwrap();
    let expect = async |kv: &mut KvClient<Channel>| {
        let found = range_ok(kv, range("\0", "\0")).await;
        assert_eq!(keys(&found), ["a"]);
        let found = &found.kvs[0];
        assert_eq!(found.value, "new");
        assert_eq!(
            (found.create_revision, found.mod_revision, found.version),
            (4, 4, 1)
        );
    };
    expect(&mut kv).await;
    cluster.stop(0).await;
    cluster.restart(0).await;
    expect(&mut cluster.kv(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_transactions_write_no_log() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    put_ok(&mut kv, "a", "1").await;
    let before = cluster.status(0).await.raft_index;
    let request = txn(vec![value_is("a", "1")], vec![op(get("a"))], vec![]);
    for _ in 0..20 {
        let response = run(&mut kv, request.clone()).await;
        assert!(response.succeeded);
        assert_eq!(response.header.unwrap().revision, 2);
    }
    assert!(cluster.status(0).await.raft_index < before + 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_transactions_check_revisions() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let at = |revision| {
        all(vec![op(RangeRequest {
            revision,
            ..get("a")
        })])
    };
    put_ok(&mut kv, "a", "1").await;
    // Before the first compaction the compact revision is -1: that is served as current.
    assert!(kv.txn(at(-1)).await.is_ok());
    assert_refused(kv.txn(at(-2)).await, Error::Compacted);
    put_ok(&mut kv, "a", "2").await;
    kv.compact(compact(3)).await.unwrap();
    assert_refused(kv.txn(at(2)).await, Error::Compacted);
    assert_refused(kv.txn(at(4)).await, Error::FutureRev);
    assert!(kv.txn(at(3)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_writes_are_guarded_by_the_mod_revision() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let guarded = |revision, value: &str| {
        let unchanged = compare(
            "obj",
            CompareResult::Equal,
            TargetUnion::ModRevision(revision),
        );
        txn(
            vec![unchanged],
            vec![op(put("obj", value))],
            vec![op(get("obj"))],
        )
    };
    assert!(run(&mut kv, guarded(0, "1")).await.succeeded);
    let refused = run(&mut kv, guarded(0, "2")).await;
    assert!(!refused.succeeded);
    let Some(Response::ResponseRange(found)) = &refused.responses[0].response else {
        panic!("the failure branch reads: {refused:?}");
    };
    assert_eq!(found.kvs[0].mod_revision, 2);
    // Of concurrent writers on one revision exactly one wins.
    let race = (0..16).map(|i| {
        let (mut kv, request) = (cluster.kv(0), guarded(2, &i.to_string()));
        async move { run(&mut kv, request).await.succeeded }
    });
    let won = futures::future::join_all(race).await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    assert_eq!(range_ok(&mut kv, get("obj")).await.kvs[0].version, 2);
}
