//! Members compare their data (contract 4.3): the odd one out gets the alarm, a healthy cluster never.

use std::sync::Arc;
use std::time::Duration;

use keelson::server::ServerConfig;
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DefragmentRequest, LeaseGrantRequest,
};
use keelson_proto::keelsonpb::{
    Command, HashRequest, check_client::CheckClient, command::Request as Replicated,
};
use keelson_state::apply::{EventRecord, EventSink, State, StateOptions};
use keelson_state::store::{RealDisk, StoreOptions};
use tonic::Code;
use tonic::transport::Endpoint;

use super::support::{
    Cluster, assert_refused, compact, delete, eventually, get, peer_request, put, put_ok, range_ok,
};

/// Between two checks of a test.
const OFTEN: Duration = Duration::from_millis(100);

struct NoEvents;

impl EventSink for NoEvents {
    fn publish(&mut self, _revision: i64, _events: Vec<EventRecord>) {}

    fn installed(&mut self, _revision: i64) {}
}

/// Writes a record into a stopped member's store, past the log.
fn write_past_the_log(cluster: &Cluster, i: usize, value: &str) {
    let mut state = State::open(StateOptions {
        store: StoreOptions::new(cluster.data_dir(i).join("member/store")),
        disk: Arc::new(RealDisk),
        sink: Box::new(NoEvents),
    })
    .unwrap();
    let position = state.position();
    let command = Command {
        request: Some(Replicated::Put(put("secret", value))),
        ..Command::default()
    };
    let applied = state.apply(position.applied_index, position.applied_term, &command);
    applied.unwrap().unwrap();
    let frozen = state.freeze();
    state.keeper().checkpoint_now(&frozen).unwrap();
}

/// Three stopped members at the same revision; member `odd` holds another value than the others.
async fn with_an_odd_member(odd: usize, adjust: impl Fn(&mut ServerConfig)) -> (Cluster, u64) {
    let mut cluster = Cluster::start(3, adjust).await;
    let revision = put_ok(&mut cluster.kv(0), "k", "v").await;
    for i in 0..3 {
        eventually("every member has the write", async || {
            let status = cluster.status(i).await.header.unwrap();
            (status.revision == revision).then_some(())
        })
        .await;
        // A checkpoint, so that the store begins there.
        let mut maintenance = cluster.maintenance(i);
        maintenance.defragment(DefragmentRequest {}).await.unwrap();
    }
    let id = cluster.id(odd);
    for i in 0..3 {
        cluster.stop(i).await;
    }
    for i in 0..3 {
        let value = if i == odd { "changed" } else { "as it was" };
        write_past_the_log(&cluster, i, value);
    }
    (cluster, id)
}

async fn alarms(cluster: &Cluster, i: usize) -> Vec<AlarmMember> {
    let answer = cluster.maintenance(i).alarm(AlarmRequest::default()).await;
    answer.unwrap().into_inner().alarms
}

async fn standing(cluster: &Cluster, i: usize) -> Vec<AlarmMember> {
    eventually("an alarm stands", async || {
        let alarms = alarms(cluster, i).await;
        (!alarms.is_empty()).then_some(alarms)
    })
    .await
}

fn corrupt(member_id: u64) -> AlarmMember {
    AlarmMember {
        member_id,
        alarm: AlarmType::Corrupt.into(),
    }
}

/// What a standing alarm forbids and what it does not (contract 2.6).
async fn assert_reads_only(cluster: &Cluster) {
    let (mut kv, mut lease) = (cluster.kv(0), cluster.lease(0));
    assert_refused(kv.put(put("a", "1")).await, Error::Corrupt);
    assert_refused(kv.delete_range(delete("k", "")).await, Error::Corrupt);
    let grant = LeaseGrantRequest { ttl: 60, id: 0 };
    assert_refused(lease.lease_grant(grant).await, Error::Corrupt);
    assert_eq!(range_ok(&mut kv, get("k")).await.count, 1);
    cluster.hash_kv(0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_finds_the_member_whose_data_differ() {
    let often = |config: &mut ServerConfig| config.node.corrupt_check_interval = Some(OFTEN);
    let (mut cluster, odd) = with_an_odd_member(1, often).await;
    cluster.restart_together(&[0, 1, 2]).await;
    // Whoever leads: the majority is right.
    assert_eq!(standing(&cluster, 0).await, [corrupt(odd)]);
    assert_reads_only(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_data_differ_is_the_odd_one() {
    let (mut cluster, odd) = with_an_odd_member(2, |_| {}).await;
    for i in 0..3 {
        cluster.adjust(i, |config| {
            // Only this one checks, and it does so only while it leads.
            config.node.corrupt_check_interval = (i == 2).then_some(OFTEN);
        });
    }
    cluster.restart_together(&[0, 1, 2]).await;
    let leader = cluster.leader().await;
    if leader != 2 {
        let target_id = odd;
        let request = keelson_proto::etcdserverpb::MoveLeaderRequest { target_id };
        cluster
            .maintenance(leader)
            .move_leader(request)
            .await
            .unwrap();
    }
    assert_eq!(standing(&cluster, 0).await, [corrupt(odd)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_kept_for_compactions_show_the_odd_member() {
    let often = |config: &mut ServerConfig| config.node.compact_hash_check_interval = Some(OFTEN);
    let (mut cluster, odd) = with_an_odd_member(0, often).await;
    cluster.restart_together(&[0, 1, 2]).await;
    // Nothing is kept before a compaction.
    let mut kv = cluster.kv(0);
    let revision = put_ok(&mut kv, "k", "again").await;
    assert_eq!(alarms(&cluster, 0).await, []);
    kv.compact(compact(revision)).await.unwrap();
    assert_eq!(standing(&cluster, 1).await, [corrupt(odd)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_data_differ_does_not_serve() {
    let (mut cluster, odd) = with_an_odd_member(1, |_| {}).await;
    for i in 0..3 {
        cluster.adjust(i, |config| config.node.initial_corrupt_check = true);
    }
    // Those that agree serve, and so compare with each other.
    cluster.restart_together(&[0, 2]).await;
    let refused = cluster.try_restart(1).await.unwrap_err().to_string();
    assert_eq!(
        refused,
        format!("{odd:x} found data inconsistency with peers")
    );
    // The others go on.
    put_ok(&mut cluster.kv(0), "k", "on").await;
    cluster.stop(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_members_pass_before_they_serve() {
    let check = |config: &mut ServerConfig| config.node.initial_corrupt_check = true;
    let mut cluster = Cluster::start(3, check).await;
    for i in 0..3 {
        assert_eq!(cluster.member(i).server().node().hashes_compared(), 0);
    }
    let mut kv = cluster.kv(0);
    let revision = put_ok(&mut kv, "k", "v").await;
    kv.compact(compact(revision)).await.unwrap();
    let follower = cluster.follower().await;
    cluster.stop(follower).await;
    let other = (0..3).find(|i| *i != follower).unwrap();
    put_ok(&mut cluster.kv(other), "k", "meanwhile").await;
    cluster.restart(follower).await;
    let compared = cluster.member(follower).server().node().hashes_compared();
    assert_eq!(compared, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_cluster_never_raises_the_alarm() {
    const ROUNDS: u32 = 30;
    let often = |config: &mut ServerConfig| {
        config.node.corrupt_check_interval = Some(Duration::from_millis(10));
        config.node.compact_hash_check_interval = Some(Duration::from_millis(10));
        config.node.compaction_batch_limit = 2;
        config.node.snapshot_count = 20;
    };
    let mut cluster = Cluster::start(3, often).await;
    let compared = |cluster: &Cluster| -> u64 {
        let counts = (0..3).map(|i| cluster.member(i).server().node().hashes_compared());
        counts.sum()
    };
    for round in 0..ROUNDS {
        let mut kv = cluster.kv(0);
        for key in ["a", "b", "c", "d"] {
            put_ok(&mut kv, key, format!("{round}")).await;
        }
        // At times nothing is left but tombstones.
        let end = if round % 3 == 0 { "\0" } else { "c" };
        let deleted = kv.delete_range(delete("a", end)).await.unwrap();
        let revision = deleted.into_inner().header.unwrap().revision;
        if round % 2 == 0 {
            let mut request = compact(revision);
            request.physical = round % 4 == 0;
            kv.compact(request).await.unwrap();
        }
        if round == ROUNDS / 2 {
            let follower = cluster.follower().await;
            cluster.stop(follower).await;
            cluster.restart(follower).await;
        }
    }
    let before = compared(&cluster);
    eventually("hashes are compared", async || {
        (compared(&cluster) >= before + 10).then_some(())
    })
    .await;
    assert_eq!(alarms(&cluster, 0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_are_for_members_alone() {
    let cluster = Cluster::start(3, |_| {}).await;
    let revision = put_ok(&mut cluster.kv(0), "k", "v").await;
    let address = format!("http://{}", cluster.peer_address(0));
    let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
    let mut client = CheckClient::new(channel);
    let header = cluster.status(0).await.header.unwrap();
    let ask = |cluster_id: u64, revision: i64, kept: bool| {
        let message = HashRequest { revision, kept };
        peer_request(cluster_id, cluster.id(1), header.member_id, message)
    };
    let told = client.hash(ask(header.cluster_id, revision, false)).await;
    let told = told.unwrap().into_inner();
    let public = cluster.hash_kv(0, revision).await;
    assert_eq!(
        (told.hash, told.compact_revision, told.current_revision),
        (public.hash, -1, revision)
    );
    let future = ask(header.cluster_id, revision + 1, false);
    assert_refused(client.hash(future).await, Error::FutureRev);
    let kept = client.hash(ask(header.cluster_id, revision, true)).await;
    assert_eq!(kept.unwrap_err().code(), Code::NotFound);
    let stranger = client.hash(ask(7, revision, false)).await;
    assert_refused(stranger, Error::ClusterIDMismatch);
    let unnamed = client
        .hash(HashRequest {
            revision,
            kept: false,
        })
        .await;
    assert_eq!(unnamed.unwrap_err().code(), Code::FailedPrecondition);
}
