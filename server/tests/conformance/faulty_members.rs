//! Members that hang, are gone, or ask too much: the others go on, within bounds (design R12).

use std::sync::Arc;

use futures::StreamExt as _;
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::watch_request::RequestUnion;
use keelson_proto::etcdserverpb::{
    CompactionRequest, MoveLeaderRequest, WatchCreateRequest, WatchRequest,
};
use keelson_proto::keelsonpb::leader_client::LeaderClient;
use keelson_proto::keelsonpb::{ForwardItem, ForwardRequest, ReadIndex};
use keelson_proto::keelsonpb::{forward_item, forward_result};
use tonic::Code;

use crate::support::{Cluster, checkpoint_often, eventually, peer_request, put_ok, soon};

#[tokio::test(flavor = "multi_thread")]
async fn leadership_that_goes_to_another_than_the_target_is_an_error() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let gone = cluster.follower().await;
    let target_id = cluster.status(gone).await.header.unwrap().member_id;
    cluster.stop(gone).await;
    let request = MoveLeaderRequest { target_id };
    let mut maintenance = cluster.maintenance(leader);
    let moved = maintenance.move_leader(request);
    let refused = soon("an answer", moved).await.expect_err("it never led");
    assert_eq!(
        (refused.code(), refused.message()),
        (
            Code::Unknown,
            "etcdserver: request timed out, leader transfer took too long"
        )
    );
    put_ok(&mut cluster.kv(leader), "a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_rounds_that_one_member_asks_for_are_bounded() {
    /// As in `node/forward_service.rs`.
    const READ_ROUNDS_MAX: usize = 64;
    const ASKED: usize = 200;
    let mut cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let id = async |i: usize| cluster.status(i).await.header.unwrap();
    let (to, from) = (id(leader).await, id((leader + 1) % 3).await.member_id);
    for follower in (0..3).filter(|i| *i != leader) {
        cluster.stop(follower).await;
    }
    let item = |id| ForwardItem {
        id,
        request: Some(forward_item::Request::ReadIndex(ReadIndex {})),
    };
    let message = ForwardRequest {
        items: (0..ASKED as u64).map(item).collect(),
    };
    // The stream stays open behind the message.
    let (messages, queue) = tokio::sync::mpsc::channel(1);
    messages.send(message).await.unwrap();
    let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
    let request = peer_request(to.cluster_id, from, to.member_id, queue);
    let url = format!("http://{}", cluster.peer_address(leader));
    let mut client = LeaderClient::connect(url).await.unwrap();
    let mut answers = client.forward(request).await.unwrap().into_inner();
    let (mut refused_at_once, mut answered) = (0, 0);
    while answered < ASKED {
        let message = soon("answers", answers.message()).await.unwrap().unwrap();
        for result in message.items {
            answered += 1;
            let Some(forward_result::Result::Error(error)) = result.result else {
                panic!("answered without a quorum: {result:?}")
            };
            assert!(error.definite);
            if error.message == Error::NotLeader.text() {
                refused_at_once += 1;
            }
        }
    }
    assert_eq!(refused_at_once, ASKED - READ_ROUNDS_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_that_came_with_a_checkpoint_is_finished() {
    let mut cluster = Cluster::start(3, checkpoint_often).await;
    let away = cluster.follower().await;
    let here = cluster.leader().await;
    let last = cluster.status(away).await.raft_applied_index;
    cluster.stop(away).await;
    let mut kv = cluster.kv(here);
    for i in 0..100 {
        put_ok(&mut kv, format!("k{}", i % 9), format!("{i}")).await;
    }
    let compaction = CompactionRequest {
        revision: 90,
        physical: false,
    };
    kv.compact(compaction).await.unwrap();
    for i in 0..300 {
        put_ok(&mut kv, format!("k{}", i % 9), format!("{i}")).await;
    }
    eventually("the log is purged", async || {
        let node = cluster.member(here).server().node();
        let purged = node.status().with_metrics(|metrics| metrics.purged);
        purged
            .is_some_and(|purged| purged.index() > last + 100)
            .then_some(())
    })
    .await;
    cluster.restart(away).await;
    eventually("the compaction is finished there too", async || {
        let finished = cluster
            .member(away)
            .server()
            .node()
            .reader()
            .compaction_finished();
        (finished == 90).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_member_leaves_nothing_behind_in_its_process() {
    for size in [1, 3] {
        let mut cluster = Cluster::start(size, |_| {}).await;
        let mut watches = Vec::new();
        for i in 0..size {
            let mut kv = cluster.kv(i);
            let revision = put_ok(&mut kv, "a", "1").await;
            let compaction = CompactionRequest {
                revision,
                physical: true,
            };
            kv.compact(compaction).await.unwrap();
            let create = WatchCreateRequest {
                key: "a".into(),
                ..Default::default()
            };
            let request = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            };
            // A client that stays, and takes what it is sent.
            let requests = tokio_stream::once(request).chain(futures::stream::pending());
            let mut watch = cluster.watch(i).watch(requests).await.unwrap().into_inner();
            watches.push(tokio::spawn(async move {
                while let Ok(Some(_)) = watch.message().await {}
            }));
        }
        for i in 0..size {
            let node = Arc::downgrade(cluster.member(i).server().node());
            cluster.stop(i).await;
            eventually("the node is freed", async || {
                (node.strong_count() == 0).then_some(())
            })
            .await;
        }
        for watch in watches {
            soon("the watch ends with its member", watch).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_nobody_knows_is_not_replicated() {
    let cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let to = cluster.status(leader).await.header.unwrap();
    let from = cluster
        .status(cluster.follower().await)
        .await
        .header
        .unwrap();
    let unknown = [Vec::new(), vec![0xff], b"\x08\x01\xfa\x3f\x00".to_vec()];
    let item = |(id, command): (usize, Vec<u8>)| ForwardItem {
        id: id as u64,
        request: Some(forward_item::Request::Propose(command.into())),
    };
    let message = ForwardRequest {
        items: unknown.into_iter().enumerate().map(item).collect(),
    };
    let asked = message.items.len();
    let messages = tokio_stream::once(message).chain(futures::stream::pending());
    let request = peer_request(to.cluster_id, from.member_id, to.member_id, messages);
    let url = format!("http://{}", cluster.peer_address(leader));
    let mut client = LeaderClient::connect(url).await.unwrap();
    let mut answers = client.forward(request).await.unwrap().into_inner();
    let mut refused = 0;
    while refused < asked {
        let message = soon("answers", answers.message()).await.unwrap().unwrap();
        for result in message.items {
            let is_error = matches!(result.result, Some(forward_result::Result::Error(_)));
            assert!(is_error, "{result:?}");
            refused += 1;
        }
    }
    for i in 0..3 {
        put_ok(&mut cluster.kv(i), "a", "still here").await;
    }
}
