//! A member that lies: well-formed messages of the right cluster that no sound member sends.
//!
//! The others neither panic nor stop, lose nothing that was acknowledged, and go on once it is quiet.
//! The tests run with openraft's own assertions on.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{Stream, StreamExt as _};
use keelson::node::directories::Directories;
use keelson::raft::bootstrap;
use keelson::raft::identity::Identity;
use keelson::raft::wal::{WalOptions, open_sled};
use keelson_proto::keelsonpb::append_response::Result as Appended;
use keelson_proto::keelsonpb::raft_client::RaftClient;
use keelson_proto::keelsonpb::{
    AppendRequest, AppendResponse, Blank, Entry, HelloRequest, HelloResponse,
    InstallSnapshotResponse, LogId, Matching, Membership, SnapshotChunk, SnapshotStart,
    StoredMembership, TransferLeaderRequest, TransferLeaderResponse, Vote, VoteRequest,
    VoteResponse, VoterSet, entry, raft_server, snapshot_chunk, transfer_leader_response,
};
use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::support::{Cluster, eventually, get, peer_request, put, put_ok, soon};

const FAR: u64 = 1 << 40;

fn log_id(term: u64, index: u64) -> Option<LogId> {
    Some(LogId { term, index })
}

fn vote(term: u64, node_id: u64, committed: bool) -> Option<Vote> {
    Some(Vote {
        term,
        node_id,
        committed,
    })
}

fn blank(term: u64, index: u64) -> Entry {
    Entry {
        log_id: log_id(term, index),
        payload: Some(entry::Payload::Blank(Blank {})),
    }
}

/// An entry that no member could apply.
fn batch(term: u64, index: u64, encoded: &'static [u8]) -> Entry {
    Entry {
        log_id: log_id(term, index),
        payload: Some(entry::Payload::Batch(encoded.into())),
    }
}

/// A membership of nobody, or of a voter that is no member.
fn nobody(term: u64, index: u64, ids: Vec<u64>) -> Entry {
    let membership = Membership {
        configs: vec![VoterSet { ids }],
        nodes: std::collections::HashMap::default(),
    };
    Entry {
        log_id: log_id(term, index),
        payload: Some(entry::Payload::Membership(membership)),
    }
}

/// What is true at the moment, for lies that are close to it.
struct Truth {
    term: u64,
    index: u64,
    from: u64,
    to: u64,
}

fn appends(truth: &Truth) -> Vec<AppendRequest> {
    let Truth {
        term,
        index,
        from,
        to,
    } = *truth;
    let append = |vote, prev_log_id, entries, leader_commit| AppendRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    };
    let next = vote(term + 1, from, true);
    vec![
        append(vote(u64::MAX, from, true), None, vec![], None),
        append(vote(u64::MAX - 1, from, true), None, vec![], None),
        append(vote(1 << 63, from, true), None, vec![], None),
        // The receiver is told that it leads.
        append(vote(term + 1, to, true), None, vec![], None),
        append(vote(term, to, true), None, vec![], log_id(term, FAR)),
        append(vote(term + 1, from, false), None, vec![], None),
        append(None, None, vec![], None),
        // Against what is committed.
        append(next, log_id(term + 1, index), vec![], None),
        append(next, log_id(term + 1, 1), vec![blank(term + 1, 2)], None),
        append(next, None, vec![blank(term + 1, 0)], None),
        append(next, log_id(0, index + 1), vec![], None),
        append(next, None, vec![], log_id(term + 1, 1)),
        // Beyond the vote, beyond numbers, out of order.
        append(next, log_id(term + 7, FAR), vec![], None),
        append(next, log_id(term, u64::MAX), vec![], None),
        append(
            next,
            log_id(term, u64::MAX - 1),
            vec![blank(term, u64::MAX)],
            None,
        ),
        append(next, log_id(term, FAR), vec![blank(0, FAR + 1)], None),
        append(
            next,
            log_id(term, index),
            vec![blank(term, index + 2)],
            None,
        ),
        append(next, None, vec![], log_id(u64::MAX, u64::MAX)),
        // What would be stored, and end the member when it is applied: no command, one that nobody
        // knows, one cut short.
        append(
            next,
            log_id(term, index),
            vec![batch(term, index + 1, b"\xff")],
            None,
        ),
        append(
            next,
            log_id(term, index),
            vec![batch(term, index + 1, b"\x0a\x00")],
            None,
        ),
        append(
            next,
            log_id(term, index),
            vec![batch(term, index + 1, b"\x0a\x05\x08\x01")],
            None,
        ),
        append(
            next,
            log_id(term, FAR),
            vec![nobody(term, FAR + 1, vec![])],
            None,
        ),
        append(
            next,
            log_id(term, FAR),
            vec![nobody(term, FAR + 1, vec![5])],
            None,
        ),
    ]
}

/// Lies that Raft cannot tell from the truth: they cost an election, and nothing else.
fn plausible_appends(truth: &Truth) -> Vec<AppendRequest> {
    let Truth { term, from, .. } = *truth;
    let lie = |prev_log_id, leader_commit| AppendRequest {
        vote: vote(term + 1, from, true),
        prev_log_id,
        entries: vec![],
        leader_commit,
    };
    vec![
        lie(None, None),
        // A commit far beyond every log.
        lie(None, log_id(term + 1, FAR)),
        lie(log_id(term + 1, FAR), log_id(term + 1, FAR)),
    ]
}

fn votes(truth: &Truth) -> Vec<VoteRequest> {
    let Truth { term, from, to, .. } = *truth;
    let ask = |vote, last_log_id| VoteRequest {
        vote,
        last_log_id,
        leadership_transfer: true,
    };
    vec![
        ask(vote(u64::MAX, from, false), log_id(term, FAR)),
        ask(vote(1 << 63, from, false), log_id(term, FAR)),
        ask(vote(term + 1, from, true), log_id(term, FAR)),
        ask(vote(term + 1, to, false), log_id(term, FAR)),
        ask(vote(term + 1, from, false), log_id(u64::MAX, u64::MAX)),
        ask(vote(term + 1, from, false), log_id(term, u64::MAX)),
        ask(None, None),
        // Plausible: an election is lost by it.
        ask(vote(term + 3, from, false), log_id(term + 3, FAR)),
    ]
}

fn snapshots(truth: &Truth) -> Vec<SnapshotStart> {
    let Truth {
        term, index, from, ..
    } = *truth;
    let start = |vote, last_log_id, membership_id| SnapshotStart {
        vote,
        last_log_id,
        membership: Some(StoredMembership {
            log_id: membership_id,
            membership: Some(Membership::default()),
        }),
        manifest: b"KEELMANI and nothing".to_vec().into(),
        files: vec![],
    };
    let next = vote(term + 1, from, true);
    vec![
        start(next, log_id(term + 9, FAR), None),
        start(next, log_id(term + 1, 1), None),
        start(next, log_id(term + 1, index), None),
        start(next, log_id(term, FAR), log_id(term, FAR + 1)),
        start(next, None, None),
        start(vote(u64::MAX, from, true), log_id(term, FAR), None),
        start(vote(term, from, false), log_id(term, FAR), None),
        start(next, log_id(term + 1, FAR), None),
    ]
}

async fn client(cluster: &Cluster, i: usize) -> RaftClient<Channel> {
    let url = format!("http://{}", cluster.peer_address(i));
    RaftClient::connect(url).await.unwrap()
}

async fn truth(cluster: &Cluster, from: u64, to: usize) -> Truth {
    let status = cluster.status(to).await;
    Truth {
        term: status.raft_term,
        index: status.raft_applied_index,
        from,
        to: cluster.id(to),
    }
}

/// Every member serves reads and writes, and has what was acknowledged.
async fn all_serve(cluster: &Cluster, members: &[usize], acknowledged: &[String], after: &str) {
    for i in members {
        eventually(&format!("member {i} serves after {after}"), async || {
            cluster.kv(*i).put(put("after", "1")).await.ok()
        })
        .await;
        for key in acknowledged {
            // Lies may cost an election meanwhile.
            let read = async || cluster.kv(*i).range(get(key)).await.ok();
            let found = eventually("a read", read).await.into_inner();
            assert_eq!(found.count, 1, "{key} is lost");
        }
    }
}

/// On a busy machine an election may come between: the lie is then one of an earlier term.
fn is_refused(answer: &Result<AppendResponse, Status>) -> bool {
    match answer {
        Ok(answer) => matches!(answer.result, Some(Appended::HigherVote(_))),
        Err(_) => true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_of_a_peer_are_refused_and_harm_nobody() {
    let cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let cluster_id = cluster.status(leader).await.header.unwrap().cluster_id;
    let mut acknowledged = Vec::new();
    let everybody = [0, 1, 2];
    for to in everybody {
        let from = cluster.id((to + 1) % 3);
        let key = format!("before-{to}");
        eventually("a write", async || {
            cluster.kv(to).put(put(&key, "1")).await.ok()
        })
        .await;
        acknowledged.push(key);
        let mut peer = client(&cluster, to).await;
        let receiver = cluster.id(to);
        let request = |message| peer_request(cluster_id, from, receiver, message);
        let lies = appends(&truth(&cluster, from, to).await);
        for (n, lie) in lies.iter().enumerate() {
            let answer = soon("an answer", peer.heartbeat(request(lie.clone()))).await;
            let answer = answer.map(Response::into_inner);
            assert!(is_refused(&answer), "heartbeat {n}: {answer:?}");
        }
        for lie in lies {
            let messages = tokio_stream::once(lie);
            let request = peer_request(cluster_id, from, receiver, messages);
            if let Ok(answers) = soon("a stream", peer.stream_append(request)).await {
                let mut answers = answers.into_inner();
                // Refused: the stream ends without an answer.
                if let Ok(Some(answer)) = soon("its end", answers.message()).await {
                    let answer = Ok(answer);
                    assert!(is_refused(&answer), "{answer:?}");
                }
            }
        }
        all_serve(&cluster, &everybody, &acknowledged, "appends").await;
        let truth_now = truth(&cluster, from, to).await;
        for (n, lie) in votes(&truth_now).into_iter().enumerate() {
            let answer = soon(
                "an answer",
                peer.vote(request_of(cluster_id, from, receiver, lie)),
            )
            .await;
            let pre = soon(
                "an answer",
                peer.pre_vote(request_of(cluster_id, from, receiver, lie)),
            )
            .await;
            if n < 7 {
                assert!(answer.is_err() && pre.is_err(), "vote {n}: {answer:?}");
            }
        }
        all_serve(&cluster, &everybody, &acknowledged, "votes").await;
        for (n, start) in snapshots(&truth(&cluster, from, to).await)
            .into_iter()
            .enumerate()
        {
            let chunk = SnapshotChunk {
                chunk: Some(snapshot_chunk::Chunk::Start(start)),
            };
            let request = peer_request(cluster_id, from, receiver, tokio_stream::once(chunk));
            let refused = soon("an answer", peer.install_snapshot(request)).await;
            assert!(refused.is_err(), "snapshot {n}: {refused:?}");
        }
        all_serve(&cluster, &everybody, &acknowledged, "snapshots").await;
        let truth_now = truth(&cluster, from, to).await;
        for (from_leader, last_log_id) in [
            (vote(truth_now.term + 1, receiver, true), None),
            (vote(u64::MAX, from, true), None),
            (vote(truth_now.term, from, true), log_id(u64::MAX, 1)),
        ] {
            let lie = TransferLeaderRequest {
                from_leader,
                to: receiver,
                last_log_id,
            };
            let refused = soon(
                "an answer",
                peer.transfer_leader(request_of(cluster_id, from, receiver, lie)),
            )
            .await;
            assert!(refused.is_err(), "{refused:?}");
        }
        for lie in plausible_appends(&truth(&cluster, from, to).await) {
            drop(
                soon(
                    "an answer",
                    peer.heartbeat(request_of(cluster_id, from, receiver, lie)),
                )
                .await,
            );
        }
        all_serve(&cluster, &everybody, &acknowledged, "plausible appends").await;
    }
}

fn request_of<T>(cluster: u64, from: u64, to: u64, message: T) -> Request<T> {
    peer_request(cluster, from, to, message)
}

/// Answers after which it says no more that there is a later term: each such answer costs an
/// election, which nobody can be kept from causing.
const ELECTIONS_UNTIL: usize = 48;

/// A member whose every answer is a lie, another one each time.
#[derive(Clone)]
struct Liar {
    id: u64,
    cluster_id: u64,
    told: Arc<AtomicUsize>,
}

impl Liar {
    fn next(&self, lies: usize) -> usize {
        self.told.fetch_add(1, Ordering::Relaxed) % lies
    }

    fn append(&self, request: &AppendRequest) -> AppendResponse {
        let asked = request.vote.unwrap_or_default();
        let prev = request.prev_log_id.unwrap_or_default();
        let matching = |log_id| Appended::Matching(Matching { log_id });
        let higher = |term, node_id, committed| {
            Appended::HigherVote(Vote {
                term,
                node_id,
                committed,
            })
        };
        let lies = [
            matching(log_id(asked.term, FAR)),
            matching(log_id(asked.term + 1, prev.index)),
            matching(log_id(u64::MAX, u64::MAX)),
            Appended::Conflict(LogId {
                term: asked.term,
                index: FAR,
            }),
            Appended::Conflict(prev),
            higher(u64::MAX, self.id, false),
            // Nobody has elected the asking member in that term.
            higher(asked.term + 1, asked.node_id, true),
            higher(asked.term + 1, asked.node_id, false),
            // As honest as it gets: then takes it back.
            matching(
                request
                    .entries
                    .last()
                    .map_or(request.prev_log_id, |entry| entry.log_id),
            ),
            Appended::Conflict(prev),
            Appended::Conflict(LogId { term: 0, index: 0 }),
            matching(None),
        ];
        let mut lie = lies[self.next(lies.len())].clone();
        if matches!(lie, Appended::HigherVote(_))
            && self.told.load(Ordering::Relaxed) > ELECTIONS_UNTIL
        {
            lie = matching(log_id(u64::MAX, u64::MAX));
        }
        AppendResponse { result: Some(lie) }
    }

    fn vote(&self, request: &VoteRequest) -> VoteResponse {
        let asked = request.vote.unwrap_or_default();
        let lies = [
            (vote(u64::MAX, self.id, false), false, None),
            (vote(asked.term + 1, asked.node_id, true), true, None),
            (
                vote(asked.term, asked.node_id, true),
                false,
                log_id(u64::MAX, u64::MAX),
            ),
            (None, true, None),
        ];
        let (vote, vote_granted, last_log_id) = lies[self.next(lies.len())];
        VoteResponse {
            vote,
            vote_granted,
            last_log_id,
        }
    }
}

#[tonic::async_trait]
impl raft_server::Raft for Liar {
    type StreamAppendStream =
        Pin<Box<dyn Stream<Item = Result<AppendResponse, Status>> + Send + 'static>>;

    async fn hello(
        &self,
        _request: Request<HelloRequest>,
    ) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {
            protocol_version: 1,
            cluster_id: self.cluster_id,
            member_id: self.id,
            server_version: "nonsense".to_owned(),
            last_log_index: u64::MAX,
            ..Default::default()
        }))
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        Ok(Response::new(Self::vote(self, request.get_ref())))
    }

    async fn pre_vote(
        &self,
        request: Request<VoteRequest>,
    ) -> Result<Response<VoteResponse>, Status> {
        Ok(Response::new(Self::vote(self, request.get_ref())))
    }

    async fn stream_append(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::StreamAppendStream>, Status> {
        let liar = self.clone();
        let answers = request.into_inner().map(move |request| {
            let request = request?;
            Ok(liar.append(&request))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn heartbeat(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        Ok(Response::new(self.append(request.get_ref())))
    }

    async fn transfer_leader(
        &self,
        _request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        Ok(Response::new(TransferLeaderResponse {
            result: Some(transfer_leader_response::Result::Accepted(Blank {})),
        }))
    }

    async fn install_snapshot(
        &self,
        _request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<InstallSnapshotResponse>, Status> {
        Ok(Response::new(InstallSnapshotResponse {
            vote: vote(u64::MAX, self.id, true),
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_answers_are_lies_harms_nobody() {
    let mut cluster = Cluster::prepared(3, |_| {});
    let config = cluster.node_config(2).clone();
    let named = config
        .initial_cluster
        .iter()
        .map(|(name, urls)| (name.as_str(), urls.clone()));
    let members = bootstrap::members(named, &config.initial_cluster_token);
    let liar = Liar {
        id: bootstrap::member_id(&config.advertise_peer_urls, &config.initial_cluster_token),
        cluster_id: bootstrap::cluster_id(members.keys().copied()),
        told: Arc::default(),
    };
    let told = Arc::clone(&liar.told);
    let address = cluster.peer_address(2).parse().unwrap();
    let serving = tonic::transport::Server::builder()
        .add_service(raft_server::RaftServer::new(liar))
        .serve(address);
    let serving = tokio::spawn(serving);
    cluster.restart_together(&[0, 1]).await;
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        for n in 0..10 {
            let key = format!("k-{round}-{n}");
            let through = n % 2;
            eventually("a write", async || {
                cluster.kv(through).put(put(&key, "1")).await.ok()
            })
            .await;
            acknowledged.push(key);
        }
        // Elections ask it for votes.
        if round % 2 == 0 {
            cluster.stop(round / 2 % 2).await;
            cluster.restart(round / 2 % 2).await;
        }
    }
    all_serve(&cluster, &[0, 1], &acknowledged, "answers").await;
    assert!(told.load(Ordering::Relaxed) > 20, "it was hardly asked");
    serving.abort();
}

/// Before its first entry a member knows from its files who it is, and not who the others are.
#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_that_stopped_before_its_first_entry_finds_out_what_became_of_it() {
    let mut cluster = Cluster::start(3, |config| config.node.strict_reconfig_check = false).await;
    let leader = cluster.leader().await;
    let cluster_id = cluster.status(leader).await.header.unwrap().cluster_id;
    for (has_voted, is_removed) in [(true, true), (false, true), (true, false)] {
        let joiner = cluster.prepare(&[0, 1, 2]);
        let member_id = cluster.add(leader, joiner, true).await;
        let member = cluster.data_dir(joiner).join("member");
        let directories = Directories::new(&cluster.data_dir(joiner), None);
        directories.create().unwrap();
        let identity = Identity {
            member_id,
            cluster_id,
        };
        directories.write(&identity).unwrap();
        if has_voted {
            let log = open_sled(&member.join("wal"), WalOptions::default()).unwrap();
            let (done, told) = std::sync::mpsc::sync_channel(1);
            let saved = vote(1, cluster.id(leader), false).unwrap().encode_to_vec();
            log.save_vote(
                saved.into(),
                Box::new(move |result| done.send(result).unwrap()),
            );
            told.recv().unwrap().unwrap();
            log.close().unwrap();
        }
        if !is_removed {
            soon("it joins", cluster.restart(joiner)).await;
            eventually("it learns", async || {
                let applied = cluster.status(joiner).await.raft_applied_index;
                (applied > 0).then_some(())
            })
            .await;
            continue;
        }
        cluster.remove(leader, member_id).await;
        let refused = soon("it ends", cluster.try_restart(joiner)).await;
        assert_eq!(
            refused.unwrap_err().to_string(),
            "stopped before it served",
            "voted: {has_voted}"
        );
    }
    put_ok(&mut cluster.kv(leader), "a", "1").await;
}
