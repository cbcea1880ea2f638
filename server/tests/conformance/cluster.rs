//! Three members: replication, leadership, members that were away (contract 2.1, 4.2, 4.3).

use std::time::Duration;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::watch_request::RequestUnion;
use keelson_proto::etcdserverpb::{
    LeaseKeepAliveRequest, MemberListRequest, MoveLeaderRequest, RangeRequest, WatchCreateRequest,
    WatchRequest,
};
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::support::{
    Cluster, Processes, assert_refused, checkpoint_often, eventually, get, put, put_ok, range,
    range_ok, soon,
};

/// Everything a member knows agrees with every other member.
async fn assert_members_agree(cluster: &Cluster) {
    let revision = range_ok(&mut cluster.kv(0), get("x")).await;
    let revision = revision.header.unwrap().revision;
    let reference = cluster.hash_kv(0, revision).await;
    for i in 1..cluster.size() {
        range_ok(&mut cluster.kv(i), get("x")).await;
        let hash = cluster.hash_kv(i, revision).await;
        assert_eq!((hash.hash, hash.hash_revision), (reference.hash, revision));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_through_any_member_is_read_through_any_member() {
    let cluster = Cluster::start(3, |_| {}).await;
    for round in 0..4 {
        for writer in 0..3 {
            let value = format!("{round}-{writer}");
            let revision = put_ok(&mut cluster.kv(writer), "a", &value).await;
            for reader in 0..3 {
                let found = range_ok(&mut cluster.kv(reader), get("a")).await;
                assert_eq!(found.kvs[0].value, value.as_bytes());
                assert_eq!(found.header.unwrap().revision, revision);
            }
        }
    }
    assert_members_agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writes_through_all_members_take_one_revision_each() {
    let cluster = Cluster::start(3, |_| {}).await;
    let writes = (0..12).map(|writer| {
        let mut kv = cluster.kv(writer % 3);
        async move {
            let mut revisions = Vec::new();
            for i in 0..20 {
                revisions.push(put_ok(&mut kv, format!("k{writer}"), format!("{i}")).await);
            }
            assert!(revisions.is_sorted());
            revisions
        }
    });
    let mut revisions = futures::future::join_all(writes).await.concat();
    revisions.sort_unstable();
    assert_eq!(revisions, (2..242).collect::<Vec<_>>());
    let all = range_ok(&mut cluster.kv(1), range("k", "l")).await;
    assert!(
        all.kvs
            .iter()
            .all(|kv| kv.version == 20 && kv.value == "19")
    );
    assert_members_agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_lists_the_members() {
    let cluster = Cluster::start(3, |_| {}).await;
    let mut lists = Vec::new();
    for i in 0..3 {
        let request = MemberListRequest { linearizable: true };
        let list = cluster.cluster_client(i).member_list(request).await;
        lists.push(list.unwrap().into_inner());
    }
    let members = &lists[0].members;
    assert!(members.is_sorted_by_key(|member| member.id));
    let mut names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["m0", "m1", "m2"]);
    for member in members {
        assert_eq!((member.peer_ur_ls.len(), member.client_ur_ls.len()), (1, 1));
        assert!(!member.is_learner);
    }
    for list in &lists {
        assert_eq!(&list.members, members);
        let header = list.header.as_ref().unwrap();
        assert_eq!(header.revision, 0);
        assert_eq!(
            header.cluster_id,
            lists[0].header.as_ref().unwrap().cluster_id
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_leader_hands_over_in_the_next_term() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let other = cluster.follower().await;
    put_ok(&mut cluster.kv(other), "a", "1").await;
    let term = cluster.status(other).await.raft_term;
    cluster.stop(leader).await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    put_ok(&mut cluster.kv(next), "a", "2").await;
    assert_eq!(cluster.status(next).await.raft_term, term + 1);
    // The one that left comes back as a follower and has what it missed.
    cluster.restart(leader).await;
    let found = range_ok(&mut cluster.kv(leader), get("a")).await;
    assert_eq!(found.kvs[0].value, "2");
    assert_eq!(cluster.status(leader).await.raft_term, term + 1);
    assert_members_agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_moved_on_request() {
    let cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let id = async |i| cluster.status(i).await.header.unwrap().member_id;
    let move_to = async |from, target_id| {
        let request = MoveLeaderRequest { target_id };
        cluster.maintenance(from).move_leader(request).await
    };
    assert_refused(
        move_to(follower, id(follower).await).await,
        Error::NotLeader,
    );
    assert_refused(move_to(leader, 99).await, Error::BadLeaderTransferee);
    let term = cluster.status(leader).await.raft_term;
    move_to(leader, id(follower).await).await.unwrap();
    // It returns when the target leads.
    let status = cluster.status(follower).await;
    assert_eq!(status.leader, status.header.unwrap().member_id);
    assert_eq!(status.raft_term, term + 1);
    // Itself is no target that could go wrong.
    move_to(follower, status.leader).await.unwrap();
    put_ok(&mut cluster.kv(leader), "a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_resume_soon_after_the_leader_was_killed() {
    let mut processes = Processes::start(3, &[]).await;
    let leader = processes.leader().await;
    let survivors: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    for i in 0..20 {
        put_ok(&mut processes.kv(i % 3), format!("k{i}"), "v").await;
    }
    // Under load through a follower: what it forwards to the dead leader must not wait for long.
    let writer = {
        let mut kv = processes.kv(survivors[0]);
        tokio::spawn(async move {
            let (mut acknowledged, mut longest) = (Vec::new(), Duration::ZERO);
            for i in 0.. {
                let began = Instant::now();
                let stored = kv.put(put(format!("w{i:05}"), "v")).await.is_ok();
                if stored {
                    acknowledged.push(i);
                }
                longest = longest.max(began.elapsed());
                if acknowledged.len() >= 50 {
                    break;
                }
            }
            (acknowledged, longest)
        })
    };
    processes.kill(leader);
    let killed = Instant::now();
    eventually("a write is taken", async || {
        processes.kv(survivors[1]).put(put("after", "1")).await.ok()
    })
    .await;
    // Far below the request timeout of 7 s, which a forwarded write must not wait out.
    assert!(
        killed.elapsed() < Duration::from_secs(6),
        "{:?}",
        killed.elapsed()
    );
    let (acknowledged, longest) = soon("the writer ends", writer).await.unwrap();
    assert!(longest < Duration::from_secs(6), "{longest:?}");
    let stored = range_ok(&mut processes.kv(survivors[1]), range("w", "x")).await;
    let stored: std::collections::BTreeSet<&[u8]> =
        stored.kvs.iter().map(|kv| kv.key.as_ref()).collect();
    for i in acknowledged {
        assert!(stored.contains(format!("w{i:05}").as_bytes()), "w{i:05}");
    }
    // The dead one comes back on its directory.
    processes.spawn(leader);
    processes.serving(leader).await;
    let found = range_ok(&mut processes.kv(leader), range("k", "l")).await;
    assert_eq!(found.count, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_killed_at_once_lose_nothing() {
    let mut processes = Processes::start(3, &[]).await;
    for i in 0..50 {
        put_ok(&mut processes.kv(i % 3), format!("k{i}"), "v").await;
    }
    for i in 0..3 {
        processes.kill(i);
    }
    for i in 0..3 {
        processes.spawn(i);
    }
    for i in 0..3 {
        processes.serving(i).await;
        let found = range_ok(&mut processes.kv(i), range("k", "l")).await;
        assert_eq!((found.count, found.header.unwrap().revision), (50, 51));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_catches_up_by_log() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let away = cluster.follower().await;
    let here = cluster.leader().await;
    cluster.stop(away).await;
    for i in 0..100 {
        put_ok(&mut cluster.kv(here), format!("k{}", i % 9), format!("{i}")).await;
    }
    cluster.restart(away).await;
    let local = RangeRequest {
        serializable: true,
        ..range("k", "l")
    };
    eventually("it has caught up", async || {
        let found = range_ok(&mut cluster.kv(away), local.clone()).await;
        (found.header.unwrap().revision == 101).then_some(())
    })
    .await;
    assert_members_agree(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn issue_18055_a_member_catches_up_by_checkpoint_again_and_again() {
    let mut cluster = Cluster::start(3, checkpoint_often).await;
    let away = cluster.follower().await;
    let here = cluster.leader().await;
    for round in 0..3 {
        let last = cluster.status(away).await.raft_applied_index;
        cluster.stop(away).await;
        for i in 0..200 {
            put_ok(
                &mut cluster.kv(here),
                format!("k{}", i % 9),
                format!("{round}-{i}"),
            )
            .await;
        }
        // What it would need of the log is gone, on the one that is leader now.
        eventually("the log is purged", async || {
            let node = cluster.member(here).server().node();
            let purged = node.status().with_metrics(|metrics| metrics.purged);
            purged
                .is_some_and(|purged| purged.index() > last)
                .then_some(())
        })
        .await;
        cluster.restart(away).await;
        assert_members_agree(&cluster).await;
    }
    let found = range_ok(&mut cluster.kv(away), range("k", "l")).await;
    assert_eq!((found.count, found.header.unwrap().revision), (9, 601));
}

#[tokio::test(flavor = "multi_thread")]
async fn issue_15271_a_watch_goes_on_over_a_checkpoint_install() {
    let flags = ["--snapshot-count=10", "--snapshot-catchup-entries=5"];
    let processes = Processes::start(3, &flags).await;
    let leader = processes.leader().await;
    let paused = (leader + 1) % 3;
    let create = WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        ..Default::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    let requests = tokio_stream::once(request);
    let mut watch = processes.watch(paused);
    let mut responses = watch.watch(requests).await.unwrap().into_inner();
    assert!(responses.message().await.unwrap().unwrap().created);
    put_ok(&mut processes.kv(leader), "k", "0").await;
    // The process stands still while the others leave it behind by more than they keep.
    processes.pause(paused);
    for i in 0..200 {
        put_ok(&mut processes.kv(leader), format!("k{}", i % 9), "v").await;
    }
    processes.resume(paused);
    let mut seen = Vec::new();
    while seen.len() < 201 {
        let response = soon("an event", responses.message())
            .await
            .unwrap()
            .unwrap();
        assert!(!response.canceled, "{response:?}");
        let revision =
            |event: &keelson_proto::mvccpb::Event| event.kv.as_ref().unwrap().mod_revision;
        seen.extend(response.events.iter().map(revision));
    }
    assert_eq!(seen, (2..203).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn issue_20418_a_leader_that_stood_still_serves_nothing_stale() {
    let processes = Processes::start(3, &[]).await;
    let paused = processes.leader().await;
    let other = (paused + 1) % 3;
    put_ok(&mut processes.kv(other), "a", "old").await;
    assert_eq!(range_ok(&mut processes.kv(paused), get("a")).await.count, 1);
    processes.pause(paused);
    eventually("another leader takes writes", async || {
        processes.kv(other).put(put("a", "new")).await.ok()
    })
    .await;
    // The read is already waiting in the paused leader's socket when it goes on.
    let mut kv = processes.kv(paused);
    let read = tokio::spawn(async move { kv.range(get("a")).await });
    processes.resume(paused);
    let read = soon("the read ends", read).await.unwrap();
    if let Ok(found) = read {
        assert_eq!(found.into_inner().kvs[0].value, "new");
    }
    let found = eventually("it serves again", async || {
        processes.kv(paused).range(get("a")).await.ok()
    })
    .await;
    assert_eq!(found.into_inner().kvs[0].value, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_data_is_refused() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let lost = cluster.follower().await;
    cluster.stop(lost).await;
    std::fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
    let refusal = cluster.try_restart(lost).await.unwrap_err();
    assert!(
        format!("{refusal:#}").contains("without its data"),
        "{refusal:#}"
    );
    put_ok(&mut cluster.kv(cluster.leader().await), "a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_pretends_to_work() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let alone = cluster.leader().await;
    put_ok(&mut cluster.kv(alone), "a", "1").await;
    for i in 0..3 {
        if i != alone {
            cluster.stop(i).await;
        }
    }
    eventually("the leader steps down", async || {
        (cluster.status(alone).await.leader == 0).then_some(())
    })
    .await;
    let status = cluster.status(alone).await;
    assert_eq!(status.errors, [Error::NoLeader.text()]);
    let local = RangeRequest {
        serializable: true,
        ..get("a")
    };
    assert_eq!(range_ok(&mut cluster.kv(alone), local).await.count, 1);
    // A caller that requires a leader is told at once.
    let mut request = Request::new(get("a"));
    request
        .metadata_mut()
        .insert("hasleader", "true".parse().unwrap());
    let began = Instant::now();
    assert_refused(cluster.kv(alone).range(request).await, Error::NoLeader);
    assert!(began.elapsed() < Duration::from_secs(5));

    let (mut writer, mut reader) = (cluster.kv(alone), cluster.kv(alone));
    let mut lease = cluster.lease(alone);
    let keep_alive = async {
        let requests = tokio_stream::once(LeaseKeepAliveRequest { id: 7 });
        let mut replies = lease.lease_keep_alive(requests).await?.into_inner();
        replies.message().await
    };
    let (written, read, kept) = tokio::join!(
        writer.put(put("a", "2")),
        reader.range(get("a")),
        keep_alive
    );
    let written = written.unwrap_err();
    assert_eq!(written.code(), Code::DeadlineExceeded);
    assert_eq!(written.message(), "context deadline exceeded");
    assert_refused(read, Error::Timeout);
    let kept = kept.unwrap_err();
    assert_eq!(kept.message(), Error::NoLeader.text());
    // With a second member there is a quorum again.
    cluster.restart((alone + 1) % 3).await;
    put_ok(&mut cluster.kv(alone), "a", "3").await;
}
