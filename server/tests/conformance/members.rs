//! Changes of the membership: what is allowed, what is told (contract 2.11).

use std::collections::BTreeSet;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::watch_request::RequestUnion;
use keelson_proto::etcdserverpb::{
    AlarmRequest, LeaseGrantRequest, Member, MemberAddRequest, MemberListRequest,
    MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, RangeRequest, SnapshotRequest,
    WatchCreateRequest, WatchRequest,
};
use tonic::{Response, Status};

use crate::support::{Cluster, assert_refused, eventually, get, put, put_ok, range, range_ok};

pub(crate) async fn list(cluster: &Cluster, i: usize) -> Vec<Member> {
    let request = MemberListRequest { linearizable: true };
    let list = cluster.cluster_client(i).member_list(request).await;
    list.unwrap().into_inner().members
}

pub(crate) async fn remove(
    cluster: &Cluster,
    through: usize,
    id: u64,
) -> Result<Response<Vec<Member>>, Status> {
    let request = MemberRemoveRequest { id };
    let removed = cluster
        .cluster_client(through)
        .member_remove(request)
        .await?;
    Ok(Response::new(removed.into_inner().members))
}

pub(crate) async fn add(
    cluster: &Cluster,
    through: usize,
    urls: &[&str],
    is_learner: bool,
) -> Result<Response<Member>, Status> {
    let request = MemberAddRequest {
        peer_ur_ls: urls.iter().map(|url| (*url).to_owned()).collect(),
        is_learner,
    };
    let added = cluster.cluster_client(through).member_add(request).await?;
    Ok(Response::new(added.into_inner().member.unwrap()))
}

pub(crate) async fn promote(
    cluster: &Cluster,
    through: usize,
    id: u64,
) -> Result<Response<Vec<Member>>, Status> {
    let request = MemberPromoteRequest { id };
    let promoted = cluster
        .cluster_client(through)
        .member_promote(request)
        .await?;
    Ok(Response::new(promoted.into_inner().members))
}

pub(crate) async fn update(
    cluster: &Cluster,
    through: usize,
    id: u64,
    urls: &[&str],
) -> Result<Response<Vec<Member>>, Status> {
    let request = MemberUpdateRequest {
        id,
        peer_ur_ls: urls.iter().map(|url| (*url).to_owned()).collect(),
    };
    let updated = cluster
        .cluster_client(through)
        .member_update(request)
        .await?;
    Ok(Response::new(updated.into_inner().members))
}

/// Waits until Raft itself counts so many voters.
pub(crate) async fn voters(cluster: &Cluster, i: usize, count: usize) {
    eventually("as many voters", async || {
        let status = cluster.member(i).server().node().status().clone();
        let voters = status.with_metrics(|raft| {
            let committed = raft.committed_membership_config.voter_ids();
            committed.count()
        });
        (voters == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_voter_costs_no_quorum_before_it_runs() {
    let mut cluster = Cluster::single().await;
    let one = cluster.prepare(&[0]);
    let id = cluster.add(0, one, false).await;
    let members = list(&cluster, 0).await;
    let added = members.iter().find(|member| member.id == id).unwrap();
    assert!(added.name.is_empty() && added.client_ur_ls.is_empty() && !added.is_learner);
    assert_eq!(added.peer_ur_ls, cluster.peer_urls(one));
    // etcd itself takes no write from here on.
    put_ok(&mut cluster.kv(0), "a", "1").await;
    assert_refused(
        add(&cluster, 0, &["http://127.0.0.1:1"], false).await,
        Error::MemberNotEnoughStarted,
    );
    cluster.restart(one).await;
    voters(&cluster, 0, 2).await;
    assert_eq!(cluster.id(one), id);
    let members = list(&cluster, one).await;
    let names: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["m0", "m1"]));
    assert_eq!(range_ok(&mut cluster.kv(one), get("a")).await.count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_cannot_be_are_refused() {
    let cluster = Cluster::start(1, |config| config.node.learners_max = 1).await;
    let own = cluster.peer_urls(0);
    for urls in [
        &[][..],
        &["garbage"],
        &["ftp://127.0.0.1:1"],
        &["http://127.0.0.1"],
        &["http://127.0.0.1:1/path"],
        &["http://127.0.0.1:1", ""],
    ] {
        assert_refused(add(&cluster, 0, urls, false).await, Error::MemberBadURLs);
        let refused = update(&cluster, 0, cluster.id(0), urls).await;
        assert_refused(refused, Error::MemberBadURLs);
    }
    assert_refused(
        add(&cluster, 0, &[&own[0]], false).await,
        Error::PeerURLExist,
    );
    let learner = add(&cluster, 0, &["http://127.0.0.1:1"], true).await;
    let learner = learner.unwrap().into_inner();
    assert!(learner.is_learner && learner.name.is_empty());
    assert_refused(
        add(&cluster, 0, &["http://127.0.0.1:2"], true).await,
        Error::TooManyLearners,
    );
    assert_refused(
        promote(&cluster, 0, learner.id).await,
        Error::LearnerNotReady,
    );
    assert_refused(promote(&cluster, 0, 77).await, Error::MemberNotFound);
    assert_refused(
        promote(&cluster, 0, cluster.id(0)).await,
        Error::MemberNotLearner,
    );
    assert_refused(remove(&cluster, 0, 77).await, Error::MemberNotFound);
    assert_refused(
        remove(&cluster, 0, cluster.id(0)).await,
        Error::MemberNotEnoughStarted,
    );
    let elsewhere = &["http://127.0.0.1:3"];
    assert_refused(
        update(&cluster, 0, 77, elsewhere).await,
        Error::MemberNotFound,
    );
    let taken = update(&cluster, 0, learner.id, &[&own[0]]).await;
    assert_refused(taken, Error::PeerURLExist);
    let members = update(&cluster, 0, learner.id, elsewhere).await.unwrap();
    let members = members.into_inner();
    let updated = members.iter().find(|member| member.id == learner.id);
    assert_eq!(updated.unwrap().peer_ur_ls, elsewhere);
    assert!(updated.unwrap().is_learner);
    // A learner may always go, and its id is gone for ever.
    assert_eq!(
        remove(&cluster, 0, learner.id)
            .await
            .unwrap()
            .into_inner()
            .len(),
        1
    );
    assert_refused(remove(&cluster, 0, learner.id).await, Error::MemberNotFound);
    assert_refused(
        promote(&cluster, 0, learner.id).await,
        Error::MemberNotFound,
    );
    let refused = update(&cluster, 0, learner.id, elsewhere).await;
    assert_refused(refused, Error::MemberNotFound);
}

/// PR #21669, from outside: 1 of 3 down, or not yet connected for long.
#[tokio::test(flavor = "multi_thread")]
async fn adding_takes_a_quorum_that_has_been_connected() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let urls = &["http://127.0.0.1:1"];
    assert_refused(add(&cluster, leader, urls, false).await, Error::Unhealthy);
    assert_refused(add(&cluster, leader, urls, true).await, Error::Unhealthy);
    let added = eventually("connected for long enough", async || {
        add(&cluster, leader, urls, true).await.ok()
    })
    .await;
    remove(&cluster, leader, added.into_inner().id)
        .await
        .unwrap();
    let down = cluster.follower().await;
    let down_id = cluster.id(down);
    cluster.stop(down).await;
    eventually("it is noticed", async || {
        let refused = add(&cluster, leader, urls, true).await;
        match refused {
            Ok(added) => {
                remove(&cluster, leader, added.into_inner().id)
                    .await
                    .unwrap();
                None
            }
            Err(status) => {
                assert_eq!(status.message(), Error::Unhealthy.text());
                Some(())
            }
        }
    })
    .await;
    // The one that is up cannot go, the one that is down can.
    let up = cluster.id((0..3).find(|i| *i != leader && *i != down).unwrap());
    assert_refused(remove(&cluster, leader, up).await, Error::Unhealthy);
    remove(&cluster, leader, down_id).await.unwrap();
    put_ok(&mut cluster.kv(leader), "a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_serves_little_until_it_is_promoted() {
    let mut cluster = Cluster::single().await;
    for i in 0..100 {
        put_ok(&mut cluster.kv(0), format!("k{i}"), "v").await;
    }
    let one = cluster.prepare(&[0]);
    let id = cluster.add(0, one, true).await;
    cluster.restart(one).await;
    let status = cluster.status(one).await;
    assert!(status.is_learner && status.leader == cluster.id(0));
    let local = RangeRequest {
        serializable: true,
        ..range("k", "l")
    };
    eventually("it has everything", async || {
        let found = range_ok(&mut cluster.kv(one), local.clone()).await;
        (found.count == 100).then_some(())
    })
    .await;
    let refusal = Error::NotSupportedForLearner;
    let (mut kv, mut lease) = (cluster.kv(one), cluster.lease(one));
    assert_refused(kv.range(get("k1")).await, refusal);
    assert_refused(kv.put(put("a", "1")).await, refusal);
    assert_refused(
        lease.lease_grant(LeaseGrantRequest::default()).await,
        refusal,
    );
    let request = MemberListRequest::default();
    assert_refused(
        cluster.cluster_client(one).member_list(request).await,
        refusal,
    );
    let request = AlarmRequest::default();
    assert_refused(cluster.maintenance(one).alarm(request).await, refusal);
    let create = RequestUnion::CreateRequest(WatchCreateRequest::default());
    let requests = tokio_stream::once(WatchRequest {
        request_union: Some(create),
    });
    let watched = match cluster.watch(one).watch(requests).await {
        Ok(stream) => stream.into_inner().message().await.map(Response::new),
        Err(status) => Err(status),
    };
    assert_refused(watched, refusal);
    let snapshot = cluster.maintenance(one).snapshot(SnapshotRequest {}).await;
    let mut snapshot = snapshot.unwrap().into_inner();
    assert!(snapshot.message().await.unwrap().is_some());
    // It does not vote: the one voter goes on alone, and cannot leave.
    let refused = remove(&cluster, 0, cluster.id(0)).await;
    assert_refused(refused, Error::MemberNotEnoughStarted);
    // It has all; the leader hears of it a moment later.
    let promoted = eventually("it is promoted", async || {
        promote(&cluster, 0, id).await.ok()
    })
    .await;
    let members = promoted.into_inner();
    assert!(members.iter().all(|member| !member.is_learner));
    eventually("it serves", async || kv.range(get("k1")).await.ok()).await;
    assert!(!cluster.status(one).await.is_learner);
    assert_refused(promote(&cluster, one, id).await, Error::MemberNotLearner);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_takes_changes_too() {
    let mut cluster = Cluster::start(2, |config| config.node.strict_reconfig_check = false).await;
    let follower = cluster.follower().await;
    let two = cluster.prepare(&[0, 1]);
    let id = cluster.add(follower, two, true).await;
    // Its own list shows the change at once.
    let members = list(&cluster, follower).await;
    assert!(
        members
            .iter()
            .any(|member| member.id == id && member.is_learner)
    );
    cluster.restart(two).await;
    eventually("it is promoted", async || {
        promote(&cluster, follower, id).await.ok()
    })
    .await;
    let refused = add(&cluster, follower, &[&cluster.peer_urls(0)[0]], false).await;
    assert_refused(refused, Error::PeerURLExist);
    voters(&cluster, follower, 3).await;
    remove(&cluster, follower, id).await.unwrap();
    cluster.stop_removed(two).await;
}
