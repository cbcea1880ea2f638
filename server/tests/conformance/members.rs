//! Members come and go (contract 2.11, 4.1, 4.3).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::watch_request::RequestUnion;
use keelson_proto::etcdserverpb::{
    AlarmRequest, LeaseGrantRequest, Member, MemberAddRequest, MemberListRequest,
    MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, RangeRequest, SnapshotRequest,
    WatchCreateRequest, WatchRequest, kv_client::KvClient,
};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::support::{
    Cluster, assert_refused, eventually, get, put, put_ok, range, range_ok, soon,
};

async fn list(cluster: &Cluster, i: usize) -> Vec<Member> {
    let request = MemberListRequest { linearizable: true };
    let list = cluster.cluster_client(i).member_list(request).await;
    list.unwrap().into_inner().members
}

async fn remove(
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

async fn add(
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

async fn promote(
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

async fn update(
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
async fn voters(cluster: &Cluster, i: usize, count: usize) {
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

/// Writes distinct keys, one after the other, through whatever member takes them.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: Vec<JoinHandle<(Vec<String>, Vec<Status>)>>,
}

impl Load {
    fn start(cluster: &Cluster, through: &[usize]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let writer = |(writer, through): (usize, &usize)| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let kv = cluster.kv(*through);
            tokio::spawn(write(kv, writer, stop, acknowledged))
        };
        let writers = through.iter().enumerate().map(writer).collect();
        Self {
            stop,
            acknowledged,
            writers,
        }
    }

    /// Waits for more writes: the load goes on.
    async fn goes_on(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        eventually("writes go on", async || {
            (self.acknowledged.load(Ordering::Relaxed) > before + 20).then_some(())
        })
        .await;
    }

    /// Keys that were acknowledged, and what the other writes were told.
    async fn end(self) -> (BTreeSet<String>, Vec<Status>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = (BTreeSet::new(), Vec::new());
        for writer in self.writers {
            let (keys, failures) = soon("the writer ends", writer).await.unwrap();
            all.0.extend(keys);
            all.1.extend(failures);
        }
        all
    }
}

async fn write(
    mut kv: KvClient<Channel>,
    writer: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> (Vec<String>, Vec<Status>) {
    let (mut keys, mut failures) = (Vec::new(), Vec::new());
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("load-{writer}-{i:06}");
        match kv.put(put(&key, "v")).await {
            Ok(_) => {
                keys.push(key);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => failures.push(status),
        }
    }
    (keys, failures)
}

/// Every acknowledged key is there.
async fn assert_holds(cluster: &Cluster, i: usize, keys: &BTreeSet<String>) {
    let found = range_ok(&mut cluster.kv(i), range("load-", "load.")).await;
    let found: BTreeSet<String> = crate::support::keys(&found).into_iter().collect();
    let lost: Vec<&String> = keys.difference(&found).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
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

/// 1 → 2 → 3 → 5 and back, the leader included, while clients write through the first member.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_and_shrinks_under_load() {
    let mut cluster = Cluster::start(1, |config| {
        config.node.strict_reconfig_check = false;
        config.node.snapshot_count = 50;
        config.node.snapshot_catchup_entries = 10;
    })
    .await;
    let load = Load::start(&cluster, &[0, 0, 0, 0]);
    let mut present = vec![0];
    for size in 2..=5 {
        let i = cluster.prepare(&present);
        cluster.add(0, i, false).await;
        load.goes_on().await;
        cluster.restart(i).await;
        voters(&cluster, 0, size).await;
        present.push(i);
        load.goes_on().await;
    }
    // The first one stays, so that no client's connection is cut; once it leads and once it does not
    // the leader goes.
    for size in (1..=4).rev() {
        let leader = cluster.leader().await;
        let victim = if leader == 0 { present[size] } else { leader };
        let id = cluster.id(victim);
        cluster.remove(0, id).await;
        cluster.stop_removed(victim).await;
        present.retain(|i| *i != victim);
        voters(&cluster, present[0], size).await;
        load.goes_on().await;
    }
    assert_eq!(present, [0]);
    let (keys, failures) = load.end().await;
    // What went through a leader that left may have to say so; nothing else fails.
    for failure in &failures {
        assert_eq!(
            failure.message(),
            Error::TimeoutDueToConnectionLost.text(),
            "{failure}"
        );
    }
    assert_holds(&cluster, 0, &keys).await;
    // What it has been through is in its log and its checkpoints.
    cluster.stop(0).await;
    cluster.restart(0).await;
    assert_holds(&cluster, 0, &keys).await;
    assert_eq!(list(&cluster, 0).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_hands_over_and_leaves() {
    let mut cluster = Cluster::start(3, |config| config.node.strict_reconfig_check = false).await;
    let leader = cluster.leader().await;
    let other = cluster.follower().await;
    let term = cluster.status(leader).await.raft_term;
    let members = remove(&cluster, leader, cluster.id(leader)).await.unwrap();
    assert_eq!(members.into_inner().len(), 2);
    put_ok(&mut cluster.kv(other), "a", "1").await;
    cluster.stop_removed(leader).await;
    put_ok(&mut cluster.kv(other), "a", "1").await;
    assert_eq!(cluster.status(other).await.raft_term, term + 1);
    assert_eq!(list(&cluster, other).await.len(), 2);
    // It cannot come back.
    let refused = cluster.try_restart(leader).await.unwrap_err();
    assert_eq!(refused.to_string(), "stopped before it served");
    put_ok(&mut cluster.kv(other), "a", "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_stops_and_cannot_return() {
    let mut cluster = Cluster::start(3, |config| config.node.strict_reconfig_check = false).await;
    let victim = cluster.follower().await;
    let leader = cluster.leader().await;
    let id = cluster.id(victim);
    // It hears of it when it comes back, too.
    cluster.stop(victim).await;
    cluster.remove(leader, id).await;
    let refused = cluster.try_restart(victim).await.unwrap_err();
    assert_eq!(refused.to_string(), "stopped before it served");
    // Without its data it is refused as well: its name is no member's.
    std::fs::remove_dir_all(cluster.data_dir(victim)).unwrap();
    let refused = cluster.try_restart(victim).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("permanently removed"),
        "{refused:#}"
    );
    cluster.adjust(victim, |config| config.node.join = true);
    let refused = cluster.try_restart(victim).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("member count is unequal"),
        "{refused:#}"
    );
    // Under a new id it is as welcome as any.
    let again = cluster.add(leader, victim, false).await;
    assert_ne!(again, id);
    cluster.restart(victim).await;
    voters(&cluster, leader, 3).await;
    assert_eq!(cluster.id(victim), again);
    for i in 0..3 {
        put_ok(&mut cluster.kv(i), "a", "1").await;
    }
}

/// A member that is down for good makes room for another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_replaced() {
    let mut cluster = Cluster::start(3, |config| config.node.strict_reconfig_check = false).await;
    let dead = cluster.follower().await;
    let leader = cluster.leader().await;
    put_ok(&mut cluster.kv(leader), "a", "1").await;
    let id = cluster.id(dead);
    cluster.stop(dead).await;
    cluster.remove(leader, id).await;
    let others: Vec<usize> = (0..3).filter(|i| *i != dead).collect();
    let new = cluster.prepare(&others);
    cluster.add(leader, new, false).await;
    cluster.restart(new).await;
    voters(&cluster, leader, 3).await;
    assert_eq!(range_ok(&mut cluster.kv(new), get("a")).await.count, 1);
    // It counts: with it, one of the old ones may be away.
    cluster.stop(others[0]).await;
    eventually("a write is taken", async || {
        cluster.kv(new).put(put("a", "2")).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_takes_the_membership_that_is() {
    let mut cluster = Cluster::single().await;
    let (one, other) = (cluster.prepare(&[0]), cluster.prepare(&[0]));
    // Nobody has added it.
    let refused = cluster.try_restart(one).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("member count is unequal"),
        "{refused:#}"
    );
    cluster.add(0, one, false).await;
    // Another one was added.
    let refused = cluster.try_restart(other).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("no match found for existing member"),
        "{refused:#}"
    );
    cluster.restart(one).await;
    voters(&cluster, 0, 2).await;
    // It may not come back without its data, whichever way it tries.
    cluster.stop(one).await;
    std::fs::remove_dir_all(cluster.data_dir(one)).unwrap();
    let refused = soon("it is refused", cluster.try_restart(one));
    // The others have no quorum without it, so nobody can vouch for the list.
    let refused = refused.await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("cannot fetch cluster info"),
        "{refused:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joined_cannot_join_again_without_its_data() {
    let mut cluster = Cluster::start(2, |config| config.node.strict_reconfig_check = false).await;
    let two = cluster.prepare(&[0, 1]);
    cluster.add(0, two, false).await;
    cluster.restart(two).await;
    voters(&cluster, 0, 3).await;
    cluster.stop(two).await;
    std::fs::remove_dir_all(cluster.data_dir(two)).unwrap();
    let refused = cluster.try_restart(two).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("without its data"),
        "{refused:#}"
    );
}

/// A member without data does nothing before enough of its peers have said that it is new to them.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_member_does_not_bootstrap_alone() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let lost = cluster.follower().await;
    put_ok(&mut cluster.kv(lost), "a", "1").await;
    for i in 0..3 {
        cluster.stop(i).await;
    }
    std::fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
    let waiting = tokio::time::timeout(Duration::from_secs(3), cluster.try_restart(lost)).await;
    assert!(waiting.is_err(), "it started without anybody");
    drop(waiting);
    let others: Vec<usize> = (0..3).filter(|i| *i != lost).collect();
    cluster.restart_together(&others).await;
    let found = range_ok(&mut cluster.kv(others[0]), get("a")).await;
    assert_eq!(found.count, 1);
}

/// #20340: grown by promotions after a removal, then restarted.
#[tokio::test(flavor = "multi_thread")]
async fn issue_20340_members_restart_after_removals_and_promotions() {
    let mut cluster = Cluster::start(1, |config| {
        config.node.strict_reconfig_check = false;
        config.node.snapshot_count = 5;
        config.node.snapshot_catchup_entries = 1;
    })
    .await;
    let mut present = vec![0];
    for round in 0..2 {
        for _ in 0..2 {
            let i = cluster.prepare(&present);
            let id = cluster.add(0, i, true).await;
            cluster.restart(i).await;
            eventually("it is promoted", async || {
                promote(&cluster, 0, id).await.ok()
            })
            .await;
            present.push(i);
            put_ok(&mut cluster.kv(0), format!("k{round}-{i}"), "v").await;
        }
        if round == 0 {
            let gone = present.pop().unwrap();
            let id = cluster.id(gone);
            cluster.remove(0, id).await;
            cluster.stop_removed(gone).await;
        }
    }
    assert_eq!(present.len(), 4);
    for i in &present {
        cluster.stop(*i).await;
    }
    cluster.restart_together(&present).await;
    for i in &present {
        assert_eq!(
            range_ok(&mut cluster.kv(*i), range("k", "l")).await.count,
            4
        );
        assert_eq!(list(&cluster, *i).await.len(), 4);
    }
    // One that is restarted alone finds its way back, too.
    cluster.stop(present[3]).await;
    cluster.restart(present[3]).await;
    put_ok(&mut cluster.kv(present[3]), "last", "v").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_catches_up_by_checkpoint() {
    let mut cluster = Cluster::start(1, |config| {
        config.node.snapshot_count = 1;
        config.node.snapshot_catchup_entries = 1;
    })
    .await;
    for i in 0..200 {
        put_ok(&mut cluster.kv(0), format!("k{i}"), "v").await;
    }
    eventually("the log is purged", async || {
        let node = cluster.member(0).server().node();
        node.status().with_metrics(|raft| raft.purged).map(drop)
    })
    .await;
    let load = Load::start(&cluster, &[0, 0]);
    let one = cluster.prepare(&[0]);
    cluster.add(0, one, false).await;
    cluster.restart(one).await;
    voters(&cluster, 0, 2).await;
    load.goes_on().await;
    let (keys, failures) = load.end().await;
    assert!(failures.is_empty(), "{failures:?}");
    assert_holds(&cluster, one, &keys).await;
    assert_eq!(
        range_ok(&mut cluster.kv(one), range("k", "l")).await.count,
        200
    );
    let revision = cluster.status(0).await.header.unwrap().revision;
    let hash = cluster.hash_kv(0, revision).await.hash;
    assert_eq!(cluster.hash_kv(one, revision).await.hash, hash);
}

/// A member is reached where its URLs say, also when they change.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_moves_is_found_at_its_new_url() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let moved = cluster.follower().await;
    let leader = cluster.leader().await;
    let id = cluster.id(moved);
    cluster.stop(moved).await;
    let spare = cluster.prepare(&[0]);
    let url = cluster.peer_urls(spare);
    update(&cluster, leader, id, &[&url[0]]).await.unwrap();
    let listen = cluster.peer_address(spare);
    cluster.adjust(moved, |config| {
        config.listen_peers = vec![keelson::transport::ListenAddress::Tcp(listen)];
    });
    put_ok(&mut cluster.kv(leader), "a", "1").await;
    cluster.restart(moved).await;
    assert_eq!(range_ok(&mut cluster.kv(moved), get("a")).await.count, 1);
    let members = list(&cluster, moved).await;
    let member = members.iter().find(|member| member.id == id).unwrap();
    assert_eq!(member.peer_ur_ls, url);
}

/// Clusters of the same URLs and different tokens have nothing to say to each other.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_keeps_clusters_apart() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let stray = cluster.follower().await;
    let leader = cluster.leader().await;
    cluster.stop(stray).await;
    std::fs::remove_dir_all(cluster.data_dir(stray)).unwrap();
    cluster.adjust(stray, |config| {
        config.node.initial_cluster_token = "other".to_owned();
    });
    let refused = cluster.try_restart(stray).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("belongs to cluster"),
        "{refused:#}"
    );
    put_ok(&mut cluster.kv(leader), "a", "1").await;
}

/// What was acknowledged stays, what was not goes, and so do the others (contract 4.1).
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_made_of_one_member_by_force() {
    let mut cluster = Cluster::start(3, |config| {
        config.node.strict_reconfig_check = false;
        config.node.snapshot_count = 20;
    })
    .await;
    let kept = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|i| *i != kept).collect();
    let learner = cluster.prepare(&[0, 1, 2]);
    cluster.add(kept, learner, true).await;
    for i in 0..50 {
        put_ok(&mut cluster.kv(kept), format!("k{i}"), "v").await;
    }
    let id = cluster.id(kept);
    let cluster_id = cluster.member(kept).server().node().status().cluster_id();
    for other in &others {
        cluster.stop(*other).await;
    }
    // It gets into the log, and no quorum has it.
    let mut kv = cluster.kv(kept);
    let lost = tokio::spawn(async move { kv.put(put("uncommitted", "v")).await });
    eventually("the leader steps down", async || {
        (cluster.status(kept).await.leader == 0).then_some(())
    })
    .await;
    let status = cluster.member(kept).server().node().status().clone();
    let (last, committed) = status.with_metrics(|raft| {
        let committed = raft.local_committed.map_or(0, |id| id.index());
        (raft.last_log_index.unwrap_or(0), committed)
    });
    assert!(last > committed, "the write did not get into the log");
    cluster.stop(kept).await;
    assert!(soon("it fails", lost).await.unwrap().is_err());
    for _ in 0..2 {
        cluster.adjust(kept, |config| config.node.force_new_cluster = true);
        cluster.restart(kept).await;
        let members = list(&cluster, kept).await;
        assert_eq!(members.len(), 1);
        assert_eq!((members[0].id, members[0].is_learner), (id, false));
        let status = cluster.member(kept).server().node().status().clone();
        assert_eq!(status.cluster_id(), cluster_id);
        let found = range_ok(&mut cluster.kv(kept), range("k", "l")).await;
        assert_eq!(found.count, 50);
        let gone = range_ok(&mut cluster.kv(kept), get("uncommitted")).await;
        assert_eq!(gone.count, 0);
        put_ok(&mut cluster.kv(kept), "after", "v").await;
        cluster.stop(kept).await;
    }
    // Without the flag it goes on as it is; the others hear that they are out.
    cluster.adjust(kept, |config| config.node.force_new_cluster = false);
    cluster.restart(kept).await;
    let refused = cluster.try_restart(others[0]).await.unwrap_err();
    assert_eq!(refused.to_string(), "stopped before it served");
    let new = cluster.prepare(&[kept]);
    cluster.add(kept, new, false).await;
    cluster.restart(new).await;
    voters(&cluster, kept, 2).await;
    assert_eq!(
        range_ok(&mut cluster.kv(new), range("k", "l")).await.count,
        50
    );
}

/// The store is there and the log is not: what was acknowledged behind the checkpoint is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_log_is_gone_is_refused() {
    let mut cluster = Cluster::start(1, |config| config.node.snapshot_count = 1).await;
    put_ok(&mut cluster.kv(0), "a", "1").await;
    eventually("a checkpoint", async || {
        let node = cluster.member(0).server().node();
        node.status().with_metrics(|raft| raft.snapshot).map(drop)
    })
    .await;
    cluster.stop(0).await;
    std::fs::remove_dir_all(cluster.data_dir(0).join("member/wal")).unwrap();
    let refused = cluster.try_restart(0).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("the log is empty"),
        "{refused:#}"
    );
}

/// Members find each other in another cluster; one too many is refused.
#[tokio::test(flavor = "multi_thread")]
async fn members_find_each_other_by_discovery() {
    let registry = Cluster::single().await;
    let endpoint = registry.client_address(0).to_string();
    let discovered = |config: &mut keelson::server::ServerConfig| {
        config.node.initial_cluster = vec![];
        config.node.discovery = Some(keelson::node::config::Discovery {
            token: "token".to_owned(),
            endpoints: vec![endpoint.clone()],
            dial_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
        });
    };
    let mut cluster = Cluster::prepared(4, discovered);
    for (size, reason) in [
        (None, "size key not found"),
        (Some("no"), "size key is bad"),
    ] {
        if let Some(size) = size {
            put_ok(
                &mut registry.kv(0),
                "/_etcd/registry/token/_config/size",
                size,
            )
            .await;
        }
        let refused = cluster.try_restart(3).await.unwrap_err();
        let text = format!("failed to join discovery cluster: discovery: {reason}");
        assert_eq!(format!("{refused:#}"), text);
    }
    put_ok(
        &mut registry.kv(0),
        "/_etcd/registry/token/_config/size",
        "3",
    )
    .await;
    cluster.restart_together(&[0, 1, 2]).await;
    put_ok(&mut cluster.kv(1), "a", "1").await;
    assert_eq!(list(&cluster, 0).await.len(), 3);
    let refused = cluster.try_restart(3).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("discovery: cluster is full"),
        "{refused:#}"
    );
    // What is in its data directory wins.
    cluster.stop(1).await;
    cluster.restart(1).await;
    assert_eq!(range_ok(&mut cluster.kv(1), get("a")).await.count, 1);
}
