//! What operators ask of a member (contract 2.10, 2.11).

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::alarm_request::AlarmAction;
use keelson_proto::etcdserverpb::{
    AlarmRequest, AlarmType, HashKvRequest, HashRequest, MemberListRequest,
};

use crate::support::{Cluster, assert_refused, compact, eventually, put_ok, soon};

#[tokio::test(flavor = "multi_thread")]
async fn hashes_are_given_at_revisions_that_are_there() {
    let cluster = Cluster::single().await;
    let mut revision = 0;
    for value in ["1", "2", "3"] {
        revision = put_ok(&mut cluster.kv(0), "a", value).await;
    }
    let ask = async |revision| {
        let mut maintenance = cluster.maintenance(0);
        maintenance.hash_kv(HashKvRequest { revision }).await
    };
    assert_refused(ask(revision + 1).await, Error::FutureRev);
    let now = ask(0).await.unwrap().into_inner();
    assert_eq!(now.hash_revision, revision);
    assert_eq!(now.hash, ask(revision).await.unwrap().into_inner().hash);
    let before = ask(revision - 1).await.unwrap().into_inner();
    assert_ne!(before.hash, now.hash);
    cluster.kv(0).compact(compact(revision - 1)).await.unwrap();
    assert_refused(ask(revision - 2).await, Error::Compacted);
    // The hash of the whole local store is another one, and moves with it.
    let whole = async || {
        let answer = cluster.maintenance(0).hash(HashRequest {}).await;
        answer.unwrap().into_inner().hash
    };
    let first = whole().await;
    assert_eq!(whole().await, first);
    put_ok(&mut cluster.kv(0), "a", "4").await;
    assert_ne!(whole().await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_that_does_not_stand_cannot_be_lowered() {
    let cluster = Cluster::single().await;
    for alarm in [AlarmType::Nospace, AlarmType::Corrupt, AlarmType::None] {
        let request = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: 7,
            alarm: alarm.into(),
        };
        let answer = cluster.maintenance(0).alarm(request).await.unwrap();
        assert_eq!(answer.into_inner().alarms, []);
    }
}

/// A list of the members stands behind a quorum, or is what this one knows.
#[tokio::test(flavor = "multi_thread")]
async fn members_are_listed_with_or_without_a_quorum() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let alone = cluster.follower().await;
    let ask = async |cluster: &Cluster, linearizable| {
        let request = MemberListRequest { linearizable };
        cluster.cluster_client(alone).member_list(request).await
    };
    let all = ask(&cluster, true).await.unwrap().into_inner().members;
    assert_eq!(all.len(), 3);
    assert!(all.is_sorted_by_key(|member| member.id));
    for i in (0..3).filter(|i| *i != alone) {
        cluster.stop(i).await;
    }
    eventually("it knows of no leader", async || {
        (cluster.status(alone).await.leader == 0).then_some(())
    })
    .await;
    let known = ask(&cluster, false).await.unwrap().into_inner().members;
    assert_eq!(known, all);
    let refused = soon("an answer", ask(&cluster, true)).await;
    assert!(refused.is_err(), "{refused:?}");
}
