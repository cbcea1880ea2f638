//! What an operator does to a cluster over its life, with real processes: it grows, shrinks, is
//! restarted, and is made anew out of one member, with clients writing all the time.

use std::path::Path;

use keelson_jepsen::load::Load;
use keelson_jepsen::server::Cluster;
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::cluster_client::ClusterClient;
use keelson_proto::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberRemoveRequest,
};
use tokio::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::support::{Processes, eventually, put_ok};

/// Checkpoints come often, so that members that join get one. The rules of changes are those that
/// hold by default.
const ARGUMENTS: [&str; 4] = [
    "--snapshot-count",
    "100",
    "--snapshot-catchup-entries",
    "10",
];
const WRITERS: usize = 8;
const VALUE_BYTES: usize = 200;

struct Operator {
    cluster: Cluster,
    load: Load,
    joined: usize,
}

impl Operator {
    async fn start(directory: &Path) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_keelson"));
        let data = directory.join("data");
        std::fs::create_dir(&data).unwrap();
        let mut cluster = Cluster::new(program, &data, 1, &ARGUMENTS).unwrap();
        cluster.start().await.unwrap();
        Self {
            cluster,
            load: Load::new(WRITERS, VALUE_BYTES),
            joined: 0,
        }
    }

    /// Asks any member, again while the cluster is not ready for the change.
    async fn ask<T>(
        &self,
        what: &str,
        change: impl AsyncFn(ClusterClient<Channel>) -> Result<Response<T>, Status>,
    ) -> T {
        let endpoints = self.cluster.endpoints();
        let mut asked = 0;
        let done = eventually(what, async || {
            let endpoint = endpoints[asked % endpoints.len()].clone();
            asked += 1;
            let client = ClusterClient::connect(endpoint).await.unwrap();
            match change(client).await {
                Ok(done) => Some(done.into_inner()),
                // Not connected for five seconds yet, or the newest has not told its name.
                Err(status) => {
                    let waits = [Error::Unhealthy, Error::MemberNotEnoughStarted];
                    let waits = waits.map(Error::text);
                    assert!(waits.contains(&status.message()), "{what}: {status}");
                    None
                }
            }
        });
        done.await
    }

    async fn list(&self) -> Vec<Member> {
        let ask = async |mut client: ClusterClient<Channel>| {
            let request = MemberListRequest { linearizable: true };
            client.member_list(request).await
        };
        self.ask("a list of the members", ask).await.members
    }

    /// One more, while clients write.
    async fn grow(&mut self) {
        let running = self.load.start(&self.cluster.endpoints(), true).unwrap();
        self.goes_on().await;
        self.joined += 1;
        // Those who are there are asked, not the one that joins.
        let endpoints = self.cluster.endpoints();
        let peer = self.cluster.join(&format!("j{}", self.joined)).unwrap();
        let request = MemberAddRequest {
            peer_ur_ls: vec![peer],
            is_learner: false,
        };
        eventually("the member is added", async || {
            let mut client = ClusterClient::connect(endpoints[0].clone()).await.unwrap();
            match client.member_add(request.clone()).await {
                Ok(_) => Some(()),
                Err(status) => {
                    assert_eq!(status.message(), Error::Unhealthy.text());
                    None
                }
            }
        })
        .await;
        self.goes_on().await;
        self.cluster.start().await.unwrap();
        self.goes_on().await;
        running.stop().await;
        self.check().await;
    }

    /// One less, while clients write.
    async fn shrink(&mut self, place: usize) {
        let running = self.load.start(&self.cluster.endpoints(), true).unwrap();
        self.goes_on().await;
        let peer = self.cluster.peer(place).unwrap().to_owned();
        let members = self.list().await;
        let leaving = members.iter().find(|member| member.peer_ur_ls == [&*peer]);
        let request = MemberRemoveRequest {
            id: leaving.unwrap().id,
        };
        let remove = async |mut client: ClusterClient<Channel>| client.member_remove(request).await;
        self.ask("the member is removed", remove).await;
        // It ends by itself, with exit code 0.
        self.cluster.forget(place).await.unwrap();
        self.goes_on().await;
        running.stop().await;
        self.check().await;
    }

    async fn goes_on(&self) {
        let before = self.load.acknowledged();
        eventually("writes go on", async || {
            (self.load.acknowledged() > before + 20).then_some(())
        })
        .await;
    }

    /// Every member has what was acknowledged, and lists the members.
    async fn check(&self) {
        self.load.check(&self.cluster.endpoints()).await.unwrap();
        assert_eq!(self.list().await.len(), self.cluster.size());
    }

    /// kill -9 and start of one after the other, while clients write; and of all at once.
    async fn restart_all(&mut self) {
        let running = self.load.start(&self.cluster.endpoints(), true).unwrap();
        for place in 0..self.cluster.size() {
            self.cluster.kill(place).await.unwrap();
            if self.cluster.size() > 1 {
                self.goes_on().await;
            }
            self.cluster.start().await.unwrap();
        }
        self.cluster.kill_all().await.unwrap();
        self.cluster.start().await.unwrap();
        self.goes_on().await;
        running.stop().await;
        self.check().await;
    }
}

/// Contract 2.11, 4.1, 4.3: 1 → 2 → 3 → 5 and back to 1, leaders included, with restarts between;
/// then two of three are lost, and a new cluster is made of the third.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_lives_through_all_that_an_operator_does() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut operator = Operator::start(directory.path()).await;
    for _ in 2..=5 {
        operator.grow().await;
    }
    operator.restart_all().await;
    // The leader each second time; the first member goes as well.
    for size in (2..=5).rev() {
        let leader = operator.cluster.leader().await.unwrap();
        let other = usize::from(leader == 0);
        let leaving = if size % 2 == 1 { leader } else { other };
        operator.shrink(leaving).await;
    }
    operator.restart_all().await;
    for _ in 2..=3 {
        operator.grow().await;
    }
    let kept = operator.cluster.leader().await.unwrap();
    operator.cluster.kill_all().await.unwrap();
    for place in (0..3).rev().filter(|place| *place != kept) {
        operator.cluster.forget(place).await.unwrap();
    }
    let forced: Vec<&str> = ARGUMENTS
        .into_iter()
        .chain(["--force-new-cluster"])
        .collect();
    operator.cluster.set_arguments(&forced);
    operator.cluster.start().await.unwrap();
    operator.check().await;
    operator.cluster.kill_all().await.unwrap();
    operator.cluster.set_arguments(&ARGUMENTS);
    operator.cluster.start().await.unwrap();
    for _ in 2..=3 {
        operator.grow().await;
    }
    operator.restart_all().await;
}

/// Contract 4.3 allows a leader with idle clients 1.5 s to go, and the others 0.5 s for a new leader:
/// here twice as long, for machines that are busy.
const GONE_WITHIN: Duration = Duration::from_secs(3);
const LED_WITHIN: Duration = Duration::from_secs(1);

/// SIGTERM of one leader after the other, down to the quorum; each time the term rises by one.
#[tokio::test(flavor = "multi_thread")]
async fn leader_after_leader_hands_over_and_goes() {
    for size in [3, 5] {
        let mut members = Processes::start(size, &[]).await;
        for _ in size / 2 + 1..size {
            let leader = members.leader().await;
            let term = members.status(leader).await.unwrap().raft_term;
            // A client that asks for nothing must not hold the member up.
            let mut idle = members.kv(leader);
            put_ok(&mut idle, "a", "1").await;
            let began = Instant::now();
            members.terminate(leader);
            let next = eventually("the next leader", async || {
                for i in (0..size).filter(|i| *i != leader) {
                    let Some(status) = members.status(i).await else {
                        continue;
                    };
                    if status.leader == status.header.unwrap().member_id {
                        return Some((i, status.raft_term));
                    }
                }
                None
            })
            .await;
            let led = began.elapsed();
            members.ended(leader).await;
            let gone = began.elapsed();
            assert_eq!(next.1, term + 1, "{size} members");
            assert!(led <= LED_WITHIN, "{size} members: a leader after {led:?}");
            assert!(gone <= GONE_WITHIN, "{size} members: gone after {gone:?}");
            put_ok(&mut members.kv(next.0), "a", "2").await;
            drop(idle);
        }
    }
}
