//! Lock and Election (contract 2.9). Codes, texts and revisions are those that the genuine program
//! answered to the same calls.

use std::time::{Duration, Instant};

use etcd_client::{Client, LeaderKey, LockOptions, ProclaimOptions, ResignOptions};
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest};
use keelson_proto::v3electionpb::{
    self as election, CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse,
    ProclaimRequest, ResignRequest, election_client::ElectionClient,
};
use keelson_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, lock_client::LockClient};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::{
    Cluster, assert_refused, compact, delete, eventually, get, keys, put_ok, range, range_ok, soon,
};

fn lock_client(cluster: &Cluster, i: usize) -> LockClient<Channel> {
    LockClient::new(cluster.channel(i))
}

fn election_client(cluster: &Cluster, i: usize) -> ElectionClient<Channel> {
    ElectionClient::new(cluster.channel(i))
}

async fn grant(cluster: &Cluster, ids: &[i64], ttl: i64) {
    for id in ids {
        let request = LeaseGrantRequest { ttl, id: *id };
        cluster.lease(0).lease_grant(request).await.unwrap();
    }
}

async fn revoke(cluster: &Cluster, id: i64) {
    let request = LeaseRevokeRequest { id };
    cluster.lease(0).lease_revoke(request).await.unwrap();
}

async fn lock(cluster: &Cluster, i: usize, name: &str, lease: i64) -> Result<LockResponse, Status> {
    let request = LockRequest {
        name: name.to_owned().into(),
        lease,
    };
    let locked = lock_client(cluster, i).lock(request).await;
    locked.map(tonic::Response::into_inner)
}

async fn unlock(cluster: &Cluster, key: &str) -> Result<i64, Status> {
    let request = UnlockRequest {
        key: key.to_owned().into(),
    };
    let unlocked = lock_client(cluster, 0).unlock(request).await?.into_inner();
    Ok(unlocked.header.unwrap().revision)
}

async fn campaign(
    cluster: &Cluster,
    i: usize,
    lease: i64,
    value: &str,
) -> Result<CampaignResponse, Status> {
    let request = CampaignRequest {
        name: "e".into(),
        lease,
        value: value.to_owned().into(),
    };
    let elected = election_client(cluster, i).campaign(request).await;
    elected.map(tonic::Response::into_inner)
}

/// Asks for the lock in the background, and waits until it stands in line.
async fn stand_in_line(
    cluster: &Cluster,
    i: usize,
    name: &'static str,
    lease: i64,
) -> JoinHandle<Result<LockResponse, Status>> {
    let mut client = lock_client(cluster, i);
    let request = LockRequest {
        name: name.into(),
        lease,
    };
    let waiting = tokio::spawn(async move { Ok(client.lock(request).await?.into_inner()) });
    in_line(cluster, &format!("{name}/{lease:x}")).await;
    waiting
}

async fn in_line(cluster: &Cluster, key: &str) {
    eventually("the key stands in line", async || {
        (range_ok(&mut cluster.kv(0), get(key)).await.count == 1).then_some(())
    })
    .await;
}

async fn line(cluster: &Cluster) -> Vec<String> {
    keys(&range_ok(&mut cluster.kv(0), range("a", "z")).await)
}

#[track_caller]
fn assert_unknown<T: std::fmt::Debug>(result: Result<T, Status>, text: &str) {
    let status = result.expect_err("the call must be refused");
    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
}

fn revision(response: &LockResponse) -> i64 {
    response.header.unwrap().revision
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_a_key_of_the_name_and_the_lease_in_hex() {
    let cluster = Cluster::single().await;
    grant(&cluster, &[1234, -5], 100).await;
    let locked = lock(&cluster, 0, "l", 1234).await.unwrap();
    assert_eq!((locked.key.as_ref(), revision(&locked)), (&b"l/4d2"[..], 2));
    let kv = &range_ok(&mut cluster.kv(0), get("l/4d2")).await.kvs[0];
    assert_eq!(
        (kv.lease, kv.value.as_ref(), kv.version),
        (1234, &b""[..], 1)
    );
    let locked = lock(&cluster, 0, "n", -5).await.unwrap();
    assert_eq!((locked.key.as_ref(), revision(&locked)), (&b"n/-5"[..], 3));
    let locked = lock(&cluster, 0, "", 1234).await.unwrap();
    assert_eq!((locked.key.as_ref(), revision(&locked)), (&b"/4d2"[..], 4));
    // The owner asks again: the same key, nothing is written.
    let locked = lock(&cluster, 0, "l", 1234).await.unwrap();
    assert_eq!((locked.key.as_ref(), revision(&locked)), (&b"l/4d2"[..], 4));
    assert_eq!(unlock(&cluster, "l/4d2").await.unwrap(), 5);
    assert_eq!(unlock(&cluster, "l/4d2").await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_locks_and_elections_are_plain_texts() {
    let cluster = Cluster::single().await;
    let lease_not_found = Error::LeaseNotFound.text();
    assert_unknown(lock(&cluster, 0, "l", 999).await, lease_not_found);
    assert_unknown(campaign(&cluster, 0, 999, "v").await, lease_not_found);
    assert_unknown(unlock(&cluster, "").await, Error::EmptyKey.text());
    let mut election = election_client(&cluster, 0);
    let request = LeaderRequest { name: "e".into() };
    assert_unknown(election.leader(request).await, "election: no leader");
    let missing = "\"leader\" field must be provided";
    assert_unknown(election.proclaim(ProclaimRequest::default()).await, missing);
    assert_unknown(election.resign(ResignRequest::default()).await, missing);
    let leader = Some(election::LeaderKey::default());
    let request = ResignRequest {
        leader: leader.clone(),
    };
    assert_unknown(election.resign(request).await, Error::EmptyKey.text());
    let request = ProclaimRequest {
        leader,
        ..Default::default()
    };
    assert_unknown(election.proclaim(request).await, Error::EmptyKey.text());
    assert!(line(&cluster).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_without_a_lease_gets_one_of_sixty_seconds() {
    let cluster = Cluster::single().await;
    let locked = lock(&cluster, 0, "l", 0).await.unwrap();
    let leases = cluster.lease(0).lease_leases(LeaseLeasesRequest {}).await;
    let leases = leases.unwrap().into_inner().leases;
    assert_eq!(leases.len(), 1);
    assert_eq!(locked.key, format!("l/{:x}", leases[0].id));
    let lease = cluster
        .member(0)
        .server()
        .node()
        .reader()
        .lease(leases[0].id);
    assert_eq!(lease.unwrap().ttl_seconds, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_get_the_lock_in_the_order_of_their_coming_through_any_member() {
    let cluster = Cluster::start(3, |_| {}).await;
    grant(&cluster, &[1, 2, 3, 4], 600).await;
    lock(&cluster, 0, "l", 4).await.unwrap();
    let mut waiting = Vec::new();
    for (i, lease) in [(1, 3), (2, 1), (0, 2)] {
        waiting.push((lease, stand_in_line(&cluster, i, "l", lease).await));
    }
    let mut owner = 4;
    for (lease, waiter) in waiting {
        assert!(!waiter.is_finished(), "{lease} stands behind {owner}");
        let unlocked = unlock(&cluster, &format!("l/{owner:x}")).await.unwrap();
        let locked = soon("the next gets it", waiter).await.unwrap().unwrap();
        assert_eq!(locked.key, format!("l/{lease:x}"));
        assert_eq!(revision(&locked), unlocked);
        owner = lease;
    }
    assert_eq!(line(&cluster).await, ["l/2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_leaves_the_middle_of_the_line_lets_nobody_past() {
    let cluster = Cluster::single().await;
    grant(&cluster, &[1, 2, 3], 600).await;
    lock(&cluster, 0, "l", 1).await.unwrap();
    let second = stand_in_line(&cluster, 0, "l", 2).await;
    let third = stand_in_line(&cluster, 0, "l", 3).await;
    unlock(&cluster, "l/2").await.unwrap();
    // A name that merely begins alike is another line.
    lock(&cluster, 0, "l2", 1).await.unwrap();
    assert!(!third.is_finished());
    revoke(&cluster, 1).await;
    assert_eq!(
        soon("the third gets it", third).await.unwrap().unwrap().key,
        "l/3"
    );
    assert_unknown(
        soon("the second hears of it", second).await.unwrap(),
        "mutex: session is expired",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn issue_11456_a_waiter_whose_lease_ended_does_not_get_the_lock() {
    let cluster = Cluster::single().await;
    grant(&cluster, &[1, 2], 600).await;
    lock(&cluster, 0, "l", 1).await.unwrap();
    let waiter = stand_in_line(&cluster, 0, "l", 2).await;
    revoke(&cluster, 2).await;
    unlock(&cluster, "l/1").await.unwrap();
    let refused = soon("the waiter hears of it", waiter).await.unwrap();
    assert_unknown(refused, "mutex: session is expired");
    assert!(line(&cluster).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_passes_on_when_the_owners_lease_expires() {
    let cluster = Cluster::single().await;
    let began = Instant::now();
    grant(&cluster, &[1], 2).await;
    grant(&cluster, &[2], 600).await;
    lock(&cluster, 0, "l", 1).await.unwrap();
    let waiter = stand_in_line(&cluster, 0, "l", 2).await;
    let locked = soon("the waiter gets it", waiter).await.unwrap().unwrap();
    assert_eq!(locked.key, "l/2");
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_is_not_confused_by_compaction() {
    let cluster = Cluster::single().await;
    grant(&cluster, &[1, 2], 600).await;
    lock(&cluster, 0, "l", 1).await.unwrap();
    let waiter = stand_in_line(&cluster, 0, "l", 2).await;
    let mut kv = cluster.kv(0);
    let revision = put_ok(&mut kv, "x", "1").await;
    kv.compact(compact(revision)).await.unwrap();
    assert!(!waiter.is_finished());
    let deleted = kv
        .delete_range(delete("l/1", ""))
        .await
        .unwrap()
        .into_inner();
    kv.compact(compact(deleted.header.unwrap().revision))
        .await
        .unwrap();
    let locked = soon("the waiter gets it", waiter).await.unwrap().unwrap();
    assert_eq!(locked.key, "l/2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_the_line() {
    let cluster = Cluster::start(3, |_| {}).await;
    grant(&cluster, &[1, 2, 3], 600).await;
    lock(&cluster, 0, "l", 1).await.unwrap();
    for i in 0..3 {
        let waiter = stand_in_line(&cluster, i, "l", 2).await;
        waiter.abort();
        eventually("the key is gone", async || {
            (line(&cluster).await == ["l/1"]).then_some(())
        })
        .await;
    }
    campaign(&cluster, 0, 1, "v").await.unwrap();
    let mut client = election_client(&cluster, 1);
    let request = CampaignRequest {
        name: "e".into(),
        lease: 2,
        value: "w".into(),
    };
    let waiter = tokio::spawn(async move { client.campaign(request).await });
    in_line(&cluster, "e/2").await;
    waiter.abort();
    eventually("the key is gone", async || {
        (line(&cluster).await == ["e/1", "l/1"]).then_some(())
    })
    .await;
    // An owner that asks again and goes away still owns.
    for _ in 0..10 {
        let mut client = lock_client(&cluster, 2);
        let request = LockRequest {
            name: "l".into(),
            lease: 1,
        };
        let asking = tokio::spawn(async move { client.lock(request).await });
        tokio::task::yield_now().await;
        asking.abort();
    }
    assert_eq!(lock(&cluster, 0, "l", 1).await.unwrap().key, "l/1");
    let owner = &range_ok(&mut cluster.kv(0), get("l/1")).await.kvs[0];
    assert_eq!(owner.version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stops_ends_its_waiters_and_keeps_their_places() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    grant(&cluster, &[1, 2], 600).await;
    lock(&cluster, 0, "l", 1).await.unwrap();
    let waiter = stand_in_line(&cluster, 2, "l", 2).await;
    cluster.stop(2).await;
    soon("the waiter is told", waiter)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(line(&cluster).await, ["l/1", "l/2"]);
    let waiter = stand_in_line(&cluster, 1, "l", 2).await;
    unlock(&cluster, "l/1").await.unwrap();
    let locked = soon("the waiter gets it", waiter).await.unwrap().unwrap();
    assert_eq!(locked.key, "l/2");
}

#[tokio::test(flavor = "multi_thread")]
async fn learners_serve_no_locks_and_no_elections() {
    let mut cluster = Cluster::single().await;
    let learner = cluster.prepare(&[0]);
    cluster.add(0, learner, true).await;
    cluster.restart(learner).await;
    let refused = Error::NotSupportedForLearner;
    let mut locks = lock_client(&cluster, learner);
    assert_refused(locks.lock(LockRequest::default()).await, refused);
    assert_refused(locks.unlock(UnlockRequest::default()).await, refused);
    let mut elections = election_client(&cluster, learner);
    assert_refused(elections.leader(LeaderRequest::default()).await, refused);
    let observed = elections.observe(LeaderRequest::default()).await;
    assert_eq!(observed.unwrap_err().message(), refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_is_won_kept_and_given_up() {
    let cluster = Cluster::single().await;
    grant(&cluster, &[1234], 600).await;
    let won = campaign(&cluster, 0, 1234, "v1").await.unwrap();
    let leader = won.leader.unwrap();
    assert_eq!(won.header.unwrap().revision, 2);
    assert_eq!(
        leader,
        election::LeaderKey {
            name: "e".into(),
            key: "e/4d2".into(),
            rev: 2,
            lease: 1234,
        }
    );
    // Again with another value: the header is that of the first look.
    let again = campaign(&cluster, 0, 1234, "v2").await.unwrap();
    assert_eq!(again.header.unwrap().revision, 2);
    assert_eq!(again.leader.as_ref(), Some(&leader));
    let mut client = election_client(&cluster, 0);
    let current = client.leader(LeaderRequest { name: "e".into() }).await;
    let current = current.unwrap().into_inner();
    let kv = current.kv.unwrap();
    assert_eq!(current.header.unwrap().revision, 3);
    assert_eq!((kv.value.as_ref(), kv.version), (&b"v2"[..], 2));
    let proclaim = |rev| ProclaimRequest {
        leader: Some(election::LeaderKey {
            rev,
            ..leader.clone()
        }),
        value: "v3".into(),
    };
    let proclaimed = client.proclaim(proclaim(2)).await.unwrap().into_inner();
    assert_eq!(proclaimed.header.unwrap().revision, 4);
    assert_unknown(client.proclaim(proclaim(3)).await, "election: not leader");
    // One that does not lead resigns without harm.
    let resign = |rev| ResignRequest {
        leader: proclaim(rev).leader,
    };
    let resigned = client.resign(resign(3)).await.unwrap().into_inner();
    assert_eq!(resigned.header.unwrap().revision, 4);
    assert_eq!(line(&cluster).await, ["e/4d2"]);
    let resigned = client.resign(resign(2)).await.unwrap().into_inner();
    assert_eq!(resigned.header.unwrap().revision, 5);
    assert!(line(&cluster).await.is_empty());
    assert_unknown(client.proclaim(proclaim(2)).await, "election: not leader");
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_see_the_current_leader_and_each_change() {
    let cluster = Cluster::start(3, |_| {}).await;
    grant(&cluster, &[1, 2], 600).await;
    let request = LeaderRequest { name: "e".into() };
    let mut early = election_client(&cluster, 1).observe(request.clone()).await;
    let early = &mut early.as_mut().unwrap().get_mut();
    campaign(&cluster, 0, 1, "v1").await.unwrap();
    assert_eq!(seen(early).await, (2, "e/1".to_owned(), "v1".to_owned()));
    let mut late = election_client(&cluster, 2).observe(request).await.unwrap();
    let late = late.get_mut();
    assert_eq!(seen(late).await.1, "e/1");
    campaign(&cluster, 0, 1, "v2").await.unwrap();
    for stream in [&mut *early, &mut *late] {
        assert_eq!(seen(stream).await, (3, "e/1".to_owned(), "v2".to_owned()));
    }
    let mut client = election_client(&cluster, 2);
    let request = CampaignRequest {
        name: "e".into(),
        lease: 2,
        value: "w".into(),
    };
    let second = tokio::spawn(async move { client.campaign(request).await });
    in_line(&cluster, "e/2").await;
    revoke(&cluster, 1).await;
    for stream in [&mut *early, &mut *late] {
        assert_eq!(seen(stream).await, (5, "e/2".to_owned(), "w".to_owned()));
    }
    let won = soon("the second wins", second).await.unwrap().unwrap();
    assert_eq!(won.into_inner().leader.unwrap().rev, 4);
    // Nobody leads for a while.
    revoke(&cluster, 2).await;
    grant(&cluster, &[3], 600).await;
    campaign(&cluster, 0, 3, "x").await.unwrap();
    for stream in [early, late] {
        assert_eq!(seen(stream).await, (7, "e/3".to_owned(), "x".to_owned()));
    }
}

async fn seen(stream: &mut tonic::Streaming<LeaderResponse>) -> (i64, String, String) {
    let response = soon("a leader", stream.message()).await.unwrap().unwrap();
    let kv = response.kv.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let revision = response.header.unwrap().revision;
    (revision, text(&kv.key), text(&kv.value))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_client_locks_and_elects() {
    let cluster = Cluster::start(3, |_| {}).await;
    let endpoints: Vec<String> = (0..3)
        .map(|i| format!("http://{}", cluster.client_address(i)))
        .collect();
    let mut client = Client::connect(endpoints, None).await.unwrap();
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let options = LockOptions::new().with_lease(lease);
    let locked = client.lock("l", Some(options)).await.unwrap();
    assert_eq!(locked.key(), format!("l/{lease:x}").as_bytes());
    client.unlock(locked.key()).await.unwrap();
    assert!(
        client
            .get(locked.key(), None)
            .await
            .unwrap()
            .kvs()
            .is_empty()
    );

    let won = client.campaign("e", "v", lease).await.unwrap();
    let leader: LeaderKey = won.leader().unwrap().clone();
    let mut observed = client.observe("e").await.unwrap();
    let first = soon("a leader", observed.message()).await.unwrap().unwrap();
    assert_eq!(first.kv().unwrap().value(), b"v");
    let options = ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("w", Some(options)).await.unwrap();
    let next = soon("its new value", observed.message())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(next.kv().unwrap().value(), b"w");
    let options = ResignOptions::new().with_leader(leader);
    client.resign(Some(options)).await.unwrap();
    client.leader("e").await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_callers_hold_the_lock_one_at_a_time() {
    let cluster = Cluster::start(3, |_| {}).await;
    let leases: Vec<i64> = (1..=100).collect();
    grant(&cluster, &leases, 600).await;
    let mut kv = cluster.kv(0);
    put_ok(&mut kv, "count", "0").await;
    let callers = leases.iter().map(|lease| {
        let mut locks = lock_client(&cluster, usize::try_from(*lease).unwrap() % 3);
        let mut kv = cluster.kv(usize::try_from(*lease + 1).unwrap() % 3);
        let request = LockRequest {
            name: "l".into(),
            lease: *lease,
        };
        tokio::spawn(async move {
            let key = locks.lock(request).await.unwrap().into_inner().key;
            // Lost updates, if two of them were here at a time.
            let found = range_ok(&mut kv, get("count")).await;
            let count: u32 = String::from_utf8_lossy(&found.kvs[0].value)
                .parse()
                .unwrap();
            put_ok(&mut kv, "count", (count + 1).to_string()).await;
            locks.unlock(UnlockRequest { key }).await.unwrap();
        })
    });
    for caller in soon("all had it", futures::future::join_all(callers)).await {
        caller.unwrap();
    }
    let found = range_ok(&mut kv, get("count")).await;
    assert_eq!(found.kvs[0].value, "100");
    assert_eq!(line(&cluster).await, ["count"]);
}
