//! Clusters grow, shrink and lose members while clients write (contract 2.11, 4.3).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::kv_client::KvClient;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Channel;

use crate::members::{list, promote, remove, voters};
use crate::support::{Cluster, eventually, get, put, put_ok, range, range_ok, soon};

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

/// It hands over before it is removed; the follower that was asked asks the next leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_is_removed_through_a_follower() {
    let mut cluster = Cluster::start(3, |config| config.node.strict_reconfig_check = false).await;
    for size in [2, 1] {
        let leader = cluster.leader().await;
        let other = cluster.follower().await;
        let members = remove(&cluster, other, cluster.id(leader)).await.unwrap();
        assert_eq!(members.into_inner().len(), size);
        cluster.stop_removed(leader).await;
        put_ok(&mut cluster.kv(other), "a", "1").await;
    }
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
    // That attempt got no further than its identity, which the others know.
    cluster.adjust(victim, |config| config.node.join = true);
    let refused = cluster.try_restart(victim).await.unwrap_err();
    assert_eq!(refused.to_string(), "stopped before it served");
    std::fs::remove_dir_all(cluster.data_dir(victim)).unwrap();
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
