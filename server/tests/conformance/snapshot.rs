//! Snapshots for users: the stream, and members restored from it (contract 2.10, 8.4).

use std::path::{Path, PathBuf};

use futures::future::join_all;
use keelson::offline::restore::{RestoreOptions, restore};
use keelson_proto::etcdserverpb::{
    AlarmRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, SnapshotRequest, SnapshotResponse,
};
use keelson_state::bolt::{BoltFile, Trust};
use keelson_state::snapshot::{Status, hash_kv};

use crate::support::{
    Cluster, compact, delete, eventually, get, keys, put, put_ok, range, range_ok, soon,
};

/// Bytes of a data message (contract 2.10).
const PIECE_BYTES: usize = 32 << 10;

async fn messages(cluster: &Cluster, i: usize) -> Vec<SnapshotResponse> {
    let mut client = cluster.maintenance(i);
    let mut stream = client
        .snapshot(SnapshotRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut messages = Vec::new();
    while let Some(message) = soon("a message", stream.message()).await.unwrap() {
        messages.push(message);
    }
    messages
}

async fn snapshot(cluster: &Cluster, i: usize) -> Vec<u8> {
    let messages = messages(cluster, i).await;
    messages
        .into_iter()
        .flat_map(|message| message.blob)
        .collect()
}

fn open(file: &[u8]) -> BoltFile<&[u8]> {
    BoltFile::open(file, "snapshot", Trust::Hash).unwrap()
}

/// History, tombstones, a lease and large values.
async fn fill(cluster: &Cluster) {
    let mut kv = cluster.kv(0);
    let lease = LeaseGrantRequest { id: 77, ttl: 600 };
    cluster.lease(0).lease_grant(lease).await.unwrap();
    for i in 0..60 {
        let mut request = put(format!("k{}", i % 11), vec![b'v'; i * 97]);
        request.lease = if i % 11 == 3 { 77 } else { 0 };
        kv.put(request).await.unwrap();
    }
    kv.delete_range(delete("k5", "k8")).await.unwrap();
    kv.put(put("large", vec![b'x'; 1 << 20])).await.unwrap();
}

/// Flags for the member `i` of a cluster, with a snapshot in a file.
fn flags(cluster: &Cluster, i: usize, file: &Path) -> RestoreOptions {
    let node = cluster.node_config(i);
    let members: Vec<String> = node
        .initial_cluster
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
        .collect();
    RestoreOptions {
        file: file.to_owned(),
        data_dir: Some(node.data_dir.clone()),
        wal_dir: node.wal_dir.clone(),
        name: node.name.clone(),
        initial_cluster: members.join(","),
        initial_cluster_token: node.initial_cluster_token.clone(),
        initial_advertise_peer_urls: node.advertise_peer_urls.join(","),
        skip_hash_check: false,
        bump_revision: 0,
    }
}

fn write(cluster: &Cluster, file: &[u8]) -> PathBuf {
    let path = cluster.directory().join("snapshot.db");
    std::fs::write(&path, file).unwrap();
    path
}

async fn stop_all(cluster: &mut Cluster) {
    for i in 0..cluster.size() {
        cluster.stop(i).await;
        std::fs::remove_dir_all(cluster.data_dir(i)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_streamed_in_pieces_with_its_hash_at_the_end() {
    let cluster = Cluster::single().await;
    fill(&cluster).await;
    let messages = messages(&cluster, 0).await;
    let (hash, data) = messages.split_last().unwrap();
    assert_eq!((hash.blob.len(), hash.remaining_bytes), (32, 0));
    let total: usize = data.iter().map(|message| message.blob.len()).sum();
    let mut remaining = total;
    for (place, message) in data.iter().enumerate() {
        remaining -= message.blob.len();
        assert_eq!(message.remaining_bytes, remaining as u64);
        assert!(message.blob.len() == PIECE_BYTES || place == data.len() - 1);
    }
    assert!(
        messages
            .iter()
            .all(|message| message.version == "3.7.0" && message.header.is_none())
    );
    let file: Vec<u8> = messages
        .into_iter()
        .flat_map(|message| message.blob)
        .collect();
    assert_eq!(file.len() % 512, 32);
    let found = hash_kv(&open(&file), 0).unwrap();
    let served = cluster.hash_kv(0, 0).await;
    assert_eq!(
        (found.hash, found.revision),
        (served.hash, served.hash_revision)
    );
    assert_eq!(Status::read(&open(&file)).unwrap().version, "3.7.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_shows_one_revision_whatever_is_written_meanwhile() {
    let cluster = Cluster::single().await;
    fill(&cluster).await;
    for i in 0..20 {
        let mut kv = cluster.kv(0);
        put_ok(&mut kv, format!("bulk{i}"), vec![b'b'; 1 << 20]).await;
    }
    let mut client = cluster.maintenance(0);
    let mut stream = client
        .snapshot(SnapshotRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut file = stream.message().await.unwrap().unwrap().blob.to_vec();
    let mut kv = cluster.kv(0);
    for i in 0..200 {
        put_ok(&mut kv, format!("bulk{}", i % 20), "later").await;
    }
    let current = put_ok(&mut kv, "after", "1").await;
    kv.compact(compact(current)).await.unwrap();
    cluster
        .maintenance(0)
        .defragment(keelson_proto::etcdserverpb::DefragmentRequest {})
        .await
        .unwrap();
    while let Some(message) = stream.message().await.unwrap() {
        file.extend_from_slice(&message.blob);
    }
    let status = Status::read(&open(&file)).unwrap();
    assert!(status.revision <= current - 201, "{status:?}");
    assert_eq!(status.total_keys, 29);
    assert!(status.total_bytes > 20 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_holds_nothing() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    for i in 0..20 {
        put_ok(&mut kv, "k", vec![i; 1 << 20]).await;
    }
    let mut client = cluster.maintenance(0);
    let mut stream = client
        .snapshot(SnapshotRequest {})
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    let current = put_ok(&mut kv, "k", "last").await;
    soon("the compaction", kv.compact(compact(current)))
        .await
        .unwrap();
    assert_eq!(snapshot(&cluster, 0).await.len() % 512, 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_nothing_do_not_add_up() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    for i in 0..20 {
        put_ok(&mut kv, "k", vec![i; 1 << 20]).await;
    }
    let mut streams = Vec::new();
    let refused = loop {
        match cluster.maintenance(0).snapshot(SnapshotRequest {}).await {
            Ok(stream) => streams.push(stream),
            Err(refused) => break refused,
        }
        assert!(streams.len() <= 16, "no end");
    };
    assert_eq!(refused.message(), "etcdserver: too many requests");
    assert_eq!(streams.len(), 16);
    put_ok(&mut kv, "k", "goes on").await;
    drop(streams);
    soon("a place is given back", async {
        while cluster
            .maintenance(0)
            .snapshot(SnapshotRequest {})
            .await
            .is_err()
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_rebuilt_from_a_snapshot() {
    let mut cluster = Cluster::single().await;
    fill(&cluster).await;
    let mut kv = cluster.kv(0);
    kv.compact(compact(30)).await.unwrap();
    let alarm = AlarmRequest {
        action: 1,
        member_id: 5,
        alarm: 1,
    };
    cluster.maintenance(0).alarm(alarm).await.unwrap();
    let before = cluster.hash_kv(0, 0).await;
    let all = range_ok(&mut kv, range("\0", "\0")).await;
    let at_40 = keelson_proto::etcdserverpb::RangeRequest {
        revision: 40,
        ..range("\0", "\0")
    };
    let old = range_ok(&mut kv, at_40.clone()).await;
    let file = snapshot(&cluster, 0).await;
    let path = write(&cluster, &file);

    stop_all(&mut cluster).await;
    let restored = restore(&flags(&cluster, 0, &path)).unwrap();
    assert_eq!(restored.content.revision, before.hash_revision);
    cluster.restart(0).await;

    let after = cluster.hash_kv(0, 0).await;
    assert_eq!(
        (after.hash, after.hash_revision, after.compact_revision),
        (before.hash, before.hash_revision, before.compact_revision)
    );
    let mut kv = cluster.kv(0);
    assert_eq!(range_ok(&mut kv, range("\0", "\0")).await.kvs, all.kvs);
    let again = range_ok(&mut kv, at_40).await;
    assert_eq!(again.kvs, old.kvs);
    let status = cluster.status(0).await;
    assert_eq!(status.errors, ["memberID:5 alarm:NOSPACE"]);
    let request = LeaseTimeToLiveRequest { id: 77, keys: true };
    let lease = cluster
        .lease(0)
        .lease_time_to_live(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((lease.granted_ttl, lease.keys.len()), (600, 1));
    let disarm = AlarmRequest {
        action: 2,
        member_id: 5,
        alarm: 1,
    };
    cluster.maintenance(0).alarm(disarm).await.unwrap();
    let next = put_ok(&mut kv, "next", "1").await;
    assert_eq!(next, before.hash_revision + 1);

    cluster.stop(0).await;
    cluster.restart(0).await;
    let response = range_ok(&mut cluster.kv(0), get("next")).await;
    assert_eq!(keys(&response), ["next"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_restored_from_one_snapshot_agree() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    fill(&cluster).await;
    let file = snapshot(&cluster, 1).await;
    let revision = hash_kv(&open(&file), 0).unwrap();
    let path = write(&cluster, &file);
    stop_all(&mut cluster).await;
    for i in 0..3 {
        restore(&flags(&cluster, i, &path)).unwrap();
    }
    cluster.restart_together(&[0, 1, 2]).await;
    for i in 0..3 {
        let hash = cluster.hash_kv(i, revision.revision).await;
        assert_eq!(hash.hash, revision.hash, "member {i}");
    }
    let written = put_ok(&mut cluster.kv(2), "after", "1").await;
    assert_eq!(written, revision.revision + 1);
    for i in 0..3 {
        let response = range_ok(&mut cluster.kv(i), get("after")).await;
        assert_eq!(keys(&response), ["after"]);
    }
    let hashes = join_all((0..3).map(|i| cluster.hash_kv(i, written))).await;
    assert!(hashes.iter().all(|hash| hash.hash == hashes[0].hash));
    // One after the other comes back, with its own log.
    for i in 0..3 {
        cluster.stop(i).await;
        put_ok(&mut cluster.kv((i + 1) % 3), format!("without{i}"), "1").await;
        cluster.restart(i).await;
        eventually("the member has caught up", async || {
            let response = range_ok(&mut cluster.kv(i), get(format!("without{i}"))).await;
            (!response.kvs.is_empty()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bumped_revision_is_never_served_below() {
    let mut cluster = Cluster::single().await;
    fill(&cluster).await;
    let file = snapshot(&cluster, 0).await;
    let before = Status::read(&open(&file)).unwrap().revision;
    let path = write(&cluster, &file);
    stop_all(&mut cluster).await;
    let bumped = RestoreOptions {
        bump_revision: 1000,
        ..flags(&cluster, 0, &path)
    };
    restore(&bumped).unwrap();
    cluster.restart(0).await;
    let mut kv = cluster.kv(0);
    let refused = kv
        .range(keelson_proto::etcdserverpb::RangeRequest {
            revision: before,
            ..get("k1")
        })
        .await;
    crate::support::assert_refused(refused, keelson_proto::error::Error::Compacted);
    assert_eq!(put_ok(&mut kv, "k1", "1").await, before + 1001);
    assert_eq!(range_ok(&mut kv, range("\0", "\0")).await.count, 9);
}

/// Where the last leaf of the first bucket lies.
fn last_leaf_before_a_branch(file: &[u8]) -> usize {
    let (mut page, mut before) = (2 * 4096, 0);
    while file[page + 8] != 1 {
        before = page;
        let overflow = u32::from_le_bytes(file[page + 12..page + 16].try_into().unwrap());
        page += (1 + overflow as usize) * 4096;
    }
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_leaves_nothing_behind() {
    let mut cluster = Cluster::single().await;
    fill(&cluster).await;
    let file = snapshot(&cluster, 0).await;
    stop_all(&mut cluster).await;
    let path = write(&cluster, &file);
    let good = flags(&cluster, 0, &path);
    let data_dir = cluster.data_dir(0);
    let fails = |options: &RestoreOptions, text: &str| {
        let error = format!("{:#}", restore(options).map(|_| ()).unwrap_err());
        assert!(error.contains(text), "{error:?} should say {text:?}");
        assert!(!data_dir.join("member").exists());
    };
    let with = |change: &dyn Fn(&mut RestoreOptions)| {
        let mut options = good.clone();
        change(&mut options);
        options
    };
    fails(
        &with(&|o| o.name = "zz".into()),
        "couldn't find local name \"zz\" in the initial cluster configuration",
    );
    fails(
        &with(&|o| o.initial_cluster = "m0=foo".into()),
        "URL scheme must be http, https, unix, or unixs: foo",
    );
    fails(
        &with(&|o| o.initial_cluster = "m0=http://127.0.0.1:1".into()),
        "but missing from --initial-advertise-peer-urls",
    );
    fails(
        &with(&|o| o.file = "/nonexistent".into()),
        "open /nonexistent: no such file or directory",
    );
    for (change, text) in [
        (
            0..file.len() - 32,
            "snapshot missing hash but --skip-hash-check=false",
        ),
        (0..0, "snapshot missing hash"),
        (0..file.len() - 4096, "expected sha256 ["),
    ] {
        std::fs::write(&path, &file[change]).unwrap();
        fails(&good, text);
    }
    // Damage behind a hash that nobody checks: found when most records have been taken.
    let mut damaged = file.clone();
    let leaf = last_leaf_before_a_branch(&damaged);
    damaged[leaf] ^= 0xff;
    std::fs::write(&path, &damaged).unwrap();
    fails(&with(&|o| o.skip_hash_check = true), "is damaged at offset");
    std::fs::create_dir(&data_dir).unwrap();
    std::fs::write(data_dir.join("precious"), "1").unwrap();
    std::fs::write(&path, &file).unwrap();
    fails(&good, "not empty or could not be read");
    assert!(data_dir.join("precious").exists());
    std::fs::remove_dir_all(&data_dir).unwrap();
    // What the attempts left behind is no hindrance.
    restore(&good).unwrap();
    cluster.restart(0).await;
    assert_eq!(
        range_ok(&mut cluster.kv(0), range("\0", "\0")).await.count,
        9
    );
}

/// Members that join a restored one get what the snapshot held, not only what came after it.
#[tokio::test(flavor = "multi_thread")]
async fn issue_6361_members_that_join_a_restored_one_serve_the_same_data() {
    let mut cluster = Cluster::single().await;
    fill(&cluster).await;
    cluster.kv(0).compact(compact(20)).await.unwrap();
    let file = snapshot(&cluster, 0).await;
    let path = write(&cluster, &file);
    stop_all(&mut cluster).await;
    restore(&flags(&cluster, 0, &path)).unwrap();
    cluster.restart(0).await;
    for others in [&[0][..], &[0, 1]] {
        let joined = cluster.prepare(others);
        cluster.add(0, joined, false).await;
        cluster.restart(joined).await;
        let written = put_ok(&mut cluster.kv(joined), format!("by{joined}"), "1").await;
        let all = range_ok(&mut cluster.kv(0), range("\0", "\0")).await.kvs;
        assert_eq!(all.len(), 9 + joined);
        for i in 0..=joined {
            let theirs = range_ok(&mut cluster.kv(i), range("\0", "\0")).await.kvs;
            assert!(theirs == all, "member {i}");
            let hash = cluster.hash_kv(i, written).await;
            assert_eq!(
                hash.hash,
                cluster.hash_kv(0, written).await.hash,
                "member {i}"
            );
            assert_eq!(hash.compact_revision, 20);
        }
    }
}

/// Nobody can be kept out yet, so nobody is let in.
#[tokio::test(flavor = "multi_thread")]
async fn data_with_authentication_on_is_not_served() {
    let mut cluster = Cluster::single().await;
    fill(&cluster).await;
    let mut file = snapshot(&cluster, 0).await;
    let key = file
        .windows(11)
        .position(|bytes| bytes == b"authEnabled")
        .unwrap();
    assert_eq!(file[key + 11], 0);
    file[key + 11] = 1;
    let path = write(&cluster, &file);
    stop_all(&mut cluster).await;
    let options = RestoreOptions {
        skip_hash_check: true,
        ..flags(&cluster, 0, &path)
    };
    assert!(restore(&options).unwrap().content.auth.enabled);
    let refused = cluster.try_restart(0).await.unwrap_err().to_string();
    assert!(
        refused.contains("refusing to serve it unprotected"),
        "{refused}"
    );
}

/// It serves little, but a backup can be taken where it disturbs nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_learner_gives_snapshots() {
    let mut cluster = Cluster::single().await;
    fill(&cluster).await;
    let learner = cluster.prepare(&[0]);
    cluster.add(0, learner, true).await;
    cluster.restart(learner).await;
    let current = cluster.hash_kv(0, 0).await;
    let file = eventually("the learner has everything", async || {
        let file = snapshot(&cluster, learner).await;
        let status = Status::read(&open(&file)).unwrap();
        (status.revision == current.hash_revision).then_some(file)
    })
    .await;
    assert_eq!(hash_kv(&open(&file), 0).unwrap().hash, current.hash);
    let shown = |text: &str| {
        file.windows(text.len())
            .any(|bytes| bytes == text.as_bytes())
    };
    assert!(shown(r#""isLearner":true"#) && shown(r#""learners":["#));
}
