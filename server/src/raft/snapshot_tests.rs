//! Sending to a peer that takes no more: it answers keep-alives, and nothing else.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use keelson_proto::etcdserverpb::PutRequest;
use keelson_proto::keelsonpb::raft_server::{self, RaftServer};
use keelson_proto::keelsonpb::{Command, command};
use keelson_state::apply::{EventRecord, EventSink, State, StateOptions};
use keelson_state::store::{RealDisk, StoreOptions};
use openraft::network::{RPCOption, RaftNetworkFactory as _, RaftNetworkV2 as _};
use tokio::net::TcpListener;
use tonic::{Request, Response};

use super::super::peers::Peers;
use super::super::transfers::Patience;
use super::super::types::{Membership, Node};
use super::*;

/// More than all windows and buffers between sender and receiver hold.
const DATA_BYTES: usize = 32 << 20;
const PATIENCE: Duration = Duration::from_millis(500);
const PEER: u64 = 2;

/// How a peer hangs.
#[derive(Clone, Copy)]
enum Hang {
    /// It reads nothing.
    BeforeReading,
    /// It reads everything, and never answers.
    BeforeAnswering,
}

struct HangingPeer(Hang);

type Answer<T> = Result<Response<T>, Status>;

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("not part of the test"))
}

#[tonic::async_trait]
impl raft_server::Raft for HangingPeer {
    type StreamAppendStream =
        Pin<Box<dyn Stream<Item = Result<keelsonpb::AppendResponse, Status>> + Send>>;

    async fn hello(&self, _: Request<keelsonpb::HelloRequest>) -> Answer<keelsonpb::HelloResponse> {
        unused()
    }

    async fn vote(&self, _: Request<keelsonpb::VoteRequest>) -> Answer<keelsonpb::VoteResponse> {
        unused()
    }

    async fn pre_vote(
        &self,
        _: Request<keelsonpb::VoteRequest>,
    ) -> Answer<keelsonpb::VoteResponse> {
        unused()
    }

    async fn stream_append(
        &self,
        _: Request<Streaming<keelsonpb::AppendRequest>>,
    ) -> Answer<Self::StreamAppendStream> {
        unused()
    }

    async fn heartbeat(
        &self,
        _: Request<keelsonpb::AppendRequest>,
    ) -> Answer<keelsonpb::AppendResponse> {
        unused()
    }

    async fn transfer_leader(
        &self,
        _: Request<keelsonpb::TransferLeaderRequest>,
    ) -> Answer<keelsonpb::TransferLeaderResponse> {
        unused()
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<keelsonpb::SnapshotChunk>>,
    ) -> Answer<keelsonpb::InstallSnapshotResponse> {
        let mut pieces = request.into_inner();
        match self.0 {
            Hang::BeforeReading => {}
            Hang::BeforeAnswering => while let Ok(Some(_)) = pieces.message().await {},
        }
        std::future::pending::<()>().await;
        drop(pieces);
        unused()
    }
}

async fn serve(hang: Hang) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = RaftServer::new(HangingPeer(hang)).max_decoding_message_size(64 << 20);
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    address
}

struct NoEvents;

impl EventSink for NoEvents {
    fn publish(&mut self, _: i64, _: Vec<EventRecord>) {}
    fn installed(&mut self, _: i64) {}
}

fn membership(node: Node) -> Membership {
    Membership::new(vec![[PEER].into()], HashMap::from([(PEER, node)])).unwrap()
}

fn checkpoint(directory: &std::path::Path, bytes: usize) -> Arc<Checkpoint> {
    let options = StateOptions {
        store: StoreOptions::new(directory),
        disk: Arc::new(RealDisk),
        sink: Box::new(NoEvents),
    };
    let mut state = State::open(options).unwrap();
    let members = StoredMembership::new(None, membership(Node::default()));
    state.set_membership(
        codec::stored_membership_to_proto(&members)
            .encode_to_vec()
            .into(),
    );
    let value = bytes::Bytes::from(vec![b'v'; 1 << 20]);
    for index in 0..=(bytes >> 20) as u64 {
        let put = PutRequest {
            key: format!("key{index}").into(),
            value: value.clone(),
            ..Default::default()
        };
        let command = Command {
            request: Some(command::Request::Put(put)),
            ..Default::default()
        };
        state.apply(index + 1, 1, &command).unwrap().unwrap();
    }
    let frozen = state.freeze();
    state.keeper().checkpoint_now(&frozen).unwrap();
    state.keeper().current().unwrap()
}

async fn send_to_hanging_peer(hang: Hang, bytes: usize) {
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/../target")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let checkpoint = checkpoint(directory.path(), bytes);
    let address = serve(hang).await;
    let node = Node {
        peer_urls: vec![format!("http://{address}")],
        ..Node::default()
    };
    let peers = Arc::new(Peers::new(1));
    peers.set(&membership(node.clone()));
    let patience = Patience {
        progress: PATIENCE,
        install: PATIENCE,
    };
    let mut network = Network::new(peers, 7, Duration::from_secs(1)).with_patience(patience);
    let mut client = network.new_client(PEER, &node).await;
    let snapshot = Snapshot {
        meta: meta(&checkpoint).unwrap(),
        snapshot: SnapshotHandle::Local(Arc::clone(&checkpoint)),
    };
    let index = snapshot.meta.last_log_id.unwrap().index();
    let sending = client.full_snapshot(
        Vote::new_committed(1, 1),
        snapshot,
        std::future::pending(),
        RPCOption::new(Duration::from_secs(1)),
    );
    let transfers = Arc::clone(&network.transfers);
    let watching = async move {
        while transfers.purge_limit().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(
            transfers.purge_limit(),
            Some(index),
            "the log is kept meanwhile"
        );
    };
    let within = Duration::from_secs(20);
    let (sent, ()) = tokio::time::timeout(within, async { tokio::join!(sending, watching) })
        .await
        .expect("a transfer that makes no progress is given up");
    let error = sent.unwrap_err().to_string();
    assert!(error.contains("makes no progress"), "{error}");
    assert_eq!(network.transfers().purge_limit(), None, "purging goes on");
    // The thread that read the files has ended, and let go of them.
    tokio::time::timeout(within, async {
        while Arc::strong_count(&checkpoint) > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the checkpoint is let go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_to_a_peer_that_reads_nothing_is_given_up() {
    send_to_hanging_peer(Hang::BeforeReading, DATA_BYTES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_to_a_peer_that_never_answers_is_given_up() {
    send_to_hanging_peer(Hang::BeforeAnswering, 0).await;
}
